/* way.h - the ways from a model to text: an executable, a program in memory, C source and a C compiler.
 * Each is a command that takes the options of a compiled program, so one test runs them all. */
#ifndef WAY_H
#define WAY_H

#include "ir/base.h"

/* Where a test keeps what it reads and makes. */
typedef struct {
  Arena arena;
  const char *dir;
  unsigned files;
  double start_ms;
} Suite;

void suite_open(Suite *s);
void suite_section(Suite *s, const char *title); /* prints a heading, with the time so far */
int suite_close(Suite *s);                       /* the exit status */

/* Words of a command. */
typedef struct {
  const char *word[32]; /* NULL behind the last */
  unsigned n;
} Args;

Args args_of(const char *const *words); /* NULL at the end */
Args args_join(Args a, Args b);
#define ARGS(...) args_of((const char *const[]){__VA_ARGS__, NULL})

typedef struct {
  const char *label; /* for the lines of checks */
  Args command;      /* none: it could not be made, and a check has failed */
} Way;

typedef struct {
  Way way[16];
  unsigned n;
} Ways;

/* `micc MODEL -o PROGRAM`; options are micc's, words with a space between; NULL: none. */
void way_exe(Suite *s, const char *model, const char *options, Ways *out);

/* `micc run MODEL`, compiled each time it is used. */
void way_run(Suite *s, const char *model, const char *options, Ways *out);

/* `micc MODEL --emit=c`, built by a C compiler ("gcc", "-O2"); without that compiler, skipped. */
void way_c(Suite *s, const char *model, const char *cc, const char *level, Ways *out);

/* The rows of `micc targets` that this machine can run, C left out. */
typedef struct {
  const char *name[16];
  unsigned n;
} Cpus;
Cpus cpus_here(Suite *s);

/* What a program tells with --json. */
typedef struct {
  int32_t *prompt, *tokens;
  unsigned n_prompt, n_tokens;
  const char *text;
} Told;

/* Greedy, `n` tokens. False: it failed, and a check says so. */
bool way_generate(Suite *s, const Way *w, const char *prompt, unsigned n, Args options, Told *out);

/* The rows of logits at each of the tokens, all through decode. NULL: it failed, and a check says so. */
const float *way_logits(Suite *s, const Way *w, const int32_t *tokens, unsigned n, Args options,
                        unsigned *n_vocab);

/* A file of little-endian floats; NULL, and *n is 0, if it cannot be read. */
const float *floats_read(Suite *s, const char *path, size_t *n);

#endif
