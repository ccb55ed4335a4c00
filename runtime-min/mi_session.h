/* mi_session.h - one run of a program, as its files share it: options, engine, tokens, timings. */
#ifndef MI_SESSION_H
#define MI_SESSION_H

#include "mi_engine.h"
#include "mi_options.h"
#include "mi_sampler.h"
#include "mi_tokenizer.h"

typedef enum { MI_STOP_LIMIT, MI_STOP_EOG, MI_STOP_CONTEXT, MI_STOP_INTERRUPT } MiStop;

enum { MI_OK = 0, MI_FAILED = 1, MI_USAGE = 2, MI_INTERRUPTED = 130 }; /* exit status; 128 + SIGINT */

typedef struct {
  const char *name; /* of the program, for messages */
  const MiImage *image;
  const void *tokenizer; /* NULL: none */
  MiOptions options;
  uint32_t seed;
  MiEngine engine;
  int decode, prefill; /* entry points; prefill -1: none */
  MiSampler sampler;

  char *prompt; /* its text; NULL if given as ids */
  size_t prompt_bytes;
  int32_t *tokens; /* prompt and continuation; context + 1 fit */
  uint32_t n_prompt, n_tokens;
  MiStop stop;

  MiOut out;  /* standard output */
  char *text; /* room for the text of one token */
  size_t text_cap;
  int32_t *eog; /* tokens that end a text, with --ignore-eos */
  uint32_t n_eog;

  /* The prompt's time covers all its tokens until the first logits. The prediction's time covers what comes
   * after: for each further token the sampling of its predecessor, and its evaluation. So predicted_n counts
   * evaluations, as llama.cpp's "eval ... runs" do: one less than the tokens generated. */
  uint64_t load_ns, prompt_ns, predicted_ns;
  uint32_t predicted_n;
  size_t memory_bytes; /* of the session; the engine has its own */
} MiSession;

/* Prints one line "NAME: ..." on standard error; returns `status`. */
int mi_complain(const MiSession *s, int status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* If a standard file is closed, the next one opened would take its place, and get the text. Opened the wrong way
 * round, so that its use fails as before. */
void mi_standard_files(void);

const char *mi_program_name(int argc, char **argv); /* for messages; without folders */

/* mi_prompt.c: fills prompt and tokens from the options, or from standard input. Returns an exit status. */
int mi_prompt_read(MiSession *s);

/* mi_report.c */
void mi_report_json(MiSession *s);
void mi_report_about(const MiImage *image, MiOut *out);
void mi_report_version(const MiImage *image, const char *name, MiOut *out);
void mi_report_profile(const MiEngine *e, MiOut *out);

#endif
