/* mi_main.c - the command line of every compiled program, in order: options, engine, prompt, evaluation,
 * generation, reports. All memory is taken before the first token is evaluated. */
#include "mi_main.h"
#include "mi_check.h"
#include "mi_host.h"
#include "mi_session.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { OUT_BYTES = 1 << 13, TEXT_BYTES = 1 << 12, EOG_MAX = 64, PATH_BYTES = 4096 };

static volatile sig_atomic_t interrupted; /* the one global: a signal handler can reach nothing else */

static void on_interrupt(int signal_number)
{
  (void)signal_number;
  interrupted = 1;
}

/* From here on Ctrl-C ends the text, not the program; the second one finds the default action again. Who started
 * us without it (nohup, a shell's background) stays so. Not before the prompt is there: reading it should end at
 * once. */
static void catch_interrupt(void)
{
  struct sigaction a = {.sa_handler = on_interrupt, .sa_flags = (int)SA_RESETHAND}, old;

  interrupted = 0;
  sigaction(SIGINT, &a, &old);
  if (old.sa_handler == SIG_IGN)
    signal(SIGINT, SIG_IGN);
}

/* ---- logits file: written to a temporary name, so that a file of this name is always whole */

typedef struct {
  int fd;                     /* -1: none */
  const char *path, *written; /* the same if it is no file that could be replaced: a pipe, a device */
  char temporary[PATH_BYTES];
} LogitsFile;

static int logits_open(const MiSession *s, LogitsFile *f)
{
  MiOut name = {.buf = f->temporary, .cap = sizeof f->temporary, .fd = -1};
  struct stat st;

  f->fd = -1;
  f->path = f->written = s->options.logits;
  if (!f->path)
    return MI_OK;
  if (stat(f->path, &st) != 0 || S_ISREG(st.st_mode)) {
    mi_out_format(&name, "%s.%ld.tmp", f->path, (long)getpid());
    f->written = mi_out_string(&name);
  }
  f->fd = open(f->written, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  return f->fd >= 0 ? MI_OK : mi_complain(s, MI_FAILED, "cannot create %s: %s", f->written, strerror(errno));
}

static int logits_row(const MiSession *s, const LogitsFile *f)
{
  int error =
      f->fd < 0 ? 0 : mi_out_write(f->fd, mi_engine_logits(&s->engine), 4 * (size_t)s->image->n_vocab);

  return error ? mi_complain(s, MI_FAILED, "cannot write %s: %s", f->written, strerror(error)) : MI_OK;
}

static int logits_close(const MiSession *s, LogitsFile *f, int status)
{
  if (f->fd < 0)
    return status;
  bool replaces = f->written != f->path, closed = close(f->fd) == 0;
  if (status == MI_OK && (!closed || (replaces && rename(f->written, f->path) != 0)))
    status = mi_complain(s, MI_FAILED, "cannot write %s: %s", f->path, strerror(errno));
  if (status != MI_OK && replaces)
    unlink(f->written);
  return status;
}

/* ---- evaluation */

/* Evaluates one token, and keeps its logits if they are wanted. */
static int eval_one(MiSession *s, const LogitsFile *f, uint32_t pos)
{
  if (!mi_engine_run(&s->engine, s->decode, s->tokens + pos, 1, pos))
    return mi_complain(s, MI_FAILED, "position %u cannot be evaluated", pos);
  return logits_row(s, f);
}

/* All but the last token of the prompt in tiles, which give no logits; the numbers are the same bit for bit.
 */
static int eval_prompt(MiSession *s, const LogitsFile *f)
{
  uint32_t pos = 0, last = s->n_prompt - 1;
  int status = MI_OK;

  if (s->prefill >= 0 && f->fd < 0)
    for (uint32_t n; pos < last && !interrupted; pos += n) {
      uint32_t tile = s->engine.entries[s->prefill].tokens;
      n = last - pos < tile ? last - pos : tile;
      if (!mi_engine_run(&s->engine, s->prefill, s->tokens + pos, n, pos))
        return mi_complain(s, MI_FAILED, "position %u cannot be evaluated", pos);
    }
  for (; pos <= last && !interrupted && !status; pos++)
    status = eval_one(s, f, pos);
  return status;
}

/* ---- generation */

static bool prints_ids(const MiSession *s)
{
  return s->options.token_ids || !s->tokenizer;
}

static void print_token(MiSession *s, MiDecoder *d, int32_t id, bool first)
{
  if (s->options.json)
    return;
  if (prints_ids(s))
    mi_out_format(&s->out, first ? "%d" : " %d", id);
  else
    mi_out_bytes(&s->out, s->text, mi_tok_decode(s->tokenizer, d, id, s->text, s->text_cap));
  mi_out_flush(&s->out);
}

/* The next token; -1 if the logits hold no number. */
static int32_t sample(MiSession *s)
{
  float *logits = mi_engine_logits(&s->engine);

  for (uint32_t i = 0; i < s->n_eog; i++)
    logits[s->eog[i]] = -__builtin_inff();
  return mi_sampler_next(&s->sampler, logits, s->tokens, s->n_tokens);
}

static bool reached_limit(const MiSession *s)
{
  int64_t n = s->options.n_predict;

  return n >= 0 && s->n_tokens - s->n_prompt >= n;
}

/* Whether the token just added is the last, and is not evaluated either (the last one is if a logits file
 * wants its row). */
static bool ends(MiSession *s, int32_t id, bool wants_row)
{
  bool eog = s->tokenizer && !s->options.ignore_eos && mi_tok_is_eog(s->tokenizer, id);
  bool full = s->n_tokens > s->image->context, limit = reached_limit(s);

  s->stop = eog ? MI_STOP_EOG : full && !limit ? MI_STOP_CONTEXT : MI_STOP_LIMIT;
  return eog || full || (limit && !wants_row);
}

static int generate(MiSession *s, const LogitsFile *f, MiDecoder *d)
{
  uint64_t start = mi_host_clock_ns();
  int status = MI_OK;

  s->stop = MI_STOP_LIMIT;
  while (!status && !interrupted && !s->out.error && !reached_limit(s)) {
    int32_t id = sample(s);
    if (id < 0)
      return mi_complain(s, MI_FAILED, "the model gives no usable logits at position %u", s->n_tokens - 1);
    s->tokens[s->n_tokens++] = id;
    print_token(s, d, id, s->n_tokens == s->n_prompt + 1);
    if (ends(s, id, f->fd >= 0))
      break;
    status = eval_one(s, f, s->n_tokens - 1);
    s->predicted_n++;
    s->predicted_ns = mi_host_clock_ns() - start;
  }
  return status;
}

/* The text of the prompt, as it was given; and the decoder's knowledge that a text has begun. */
static void begin_text(MiSession *s, MiDecoder *d)
{
  *d = (MiDecoder){.n_pending = 0};
  if (s->options.json || prints_ids(s))
    return;
  mi_out_bytes(&s->out, s->prompt, s->prompt_bytes);
  mi_out_flush(&s->out);
  for (uint32_t i = 0; i < s->n_prompt && !d->started; i++)
    mi_tok_decode(s->tokenizer, d, s->tokens[i], s->text, s->text_cap);
  d->n_pending = 0;
}

static void end_text(MiSession *s, MiDecoder *d)
{
  if (s->options.json) {
    mi_report_json(s);
  } else {
    if (!prints_ids(s))
      mi_out_bytes(&s->out, s->text, mi_tok_flush(d, s->text, s->text_cap));
    mi_out_text(&s->out, "\n");
  }
  mi_out_flush(&s->out);
}

/* A reader that went away is told by the status alone, as `head` expects of its writers. */
static int finish(MiSession *s, int status)
{
  if (status == MI_OK && s->stop == MI_STOP_CONTEXT)
    mi_complain(s, 0, "the context of %u tokens is full (-c at compile time raises it)", s->image->context);
  if (s->out.error && s->out.error != EPIPE)
    mi_complain(s, 0, "cannot write the output: %s", strerror(s->out.error));
  return status ? status : s->out.error ? MI_FAILED : interrupted ? MI_INTERRUPTED : MI_OK;
}

static int run(MiSession *s, const LogitsFile *f)
{
  MiDecoder d;

  begin_text(s, &d);
  uint64_t start = mi_host_clock_ns();
  int status = eval_prompt(s, f);
  s->prompt_ns = mi_host_clock_ns() - start;
  if (!status)
    status = generate(s, f, &d);
  if (interrupted)
    s->stop = MI_STOP_INTERRUPT;
  if (!status || !s->options.json)
    end_text(s, &d);
  return finish(s, status);
}

/* ---- setting up */

static MiSamplerOptions sampler_options(const MiSession *s)
{
  const MiOptions *o = &s->options;

  return (MiSamplerOptions){.repeat_penalty = o->repeat_penalty,
                            .repeat_last_n = (int32_t)o->repeat_last_n,
                            .top_k = (int32_t)o->top_k,
                            .top_p = o->top_p,
                            .min_p = o->min_p,
                            .temp = o->temp,
                            .seed = s->seed};
}

static int take_memory(MiSession *s)
{
  const MiImage *h = s->image;
  size_t sampler = mi_sampler_bytes(h->n_vocab), tokens = ((size_t)h->context + 1) * sizeof *s->tokens;
  size_t eog = EOG_MAX * sizeof *s->eog;
  MiSamplerOptions options;

  s->memory_bytes = sampler + eog + tokens + OUT_BYTES + TEXT_BYTES + 8;
  char *at = mi_host_map(s->memory_bytes);
  if (!at)
    return mi_complain(s, MI_FAILED, "there is no room for %zu MB of working memory", s->memory_bytes >> 20);
  s->seed = s->options.seed < 0 ? mi_host_random() : (uint32_t)s->options.seed;
  options = sampler_options(s);
  mi_sampler_init(&s->sampler, &options, h->n_vocab, at);
  at += (sampler + 7) / 8 * 8;
  s->eog = (int32_t *)(void *)at;
  s->tokens = s->eog + EOG_MAX;
  s->out = (MiOut){.buf = (char *)(s->tokens + h->context + 1), .cap = OUT_BYTES, .fd = 1};
  s->text = s->out.buf + OUT_BYTES;
  s->text_cap = TEXT_BYTES;
  return MI_OK;
}

static void find_eog(MiSession *s)
{
  if (!s->options.ignore_eos || !s->tokenizer)
    return;
  for (uint32_t i = 0; i < s->image->n_vocab && s->n_eog < EOG_MAX; i++)
    if (mi_tok_is_eog(s->tokenizer, (int32_t)i))
      s->eog[s->n_eog++] = (int32_t)i;
}

/* How many of the largest logits the sampler can look at. A penalty takes tokens away from the top; one below 1 would
 * lift others to it. */
static uint32_t wanted_logits(const MiSession *s)
{
  const MiOptions *o = &s->options;
  int64_t n = o->temp <= 0 ? 1 : o->top_k,
          lately = o->repeat_last_n < 0 ? s->image->context : o->repeat_last_n;

  if (o->logits || n <= 0 || o->repeat_penalty < 1)
    return 0;
  n += s->n_eog + (o->repeat_penalty > 1 ? lately : 0);
  return n < s->image->n_vocab ? (uint32_t)n : 0;
}

static int open_engine(MiSession *s, MiKernel *const *kernels)
{
  char line[256];
  MiOut why = {.buf = line, .cap = sizeof line, .fd = -1};
  unsigned threads = s->options.threads ? (unsigned)s->options.threads : mi_host_cores();

  threads = threads < MI_POOL_MAX ? threads : MI_POOL_MAX;
  if (!mi_engine_open(&s->engine, s->image, UINT64_MAX, kernels, threads, &why)) {
    return mi_complain(s, MI_FAILED, "%s", mi_out_string(&why));
  }
  s->engine.profiling = s->options.profile;
  s->decode = mi_engine_entry(&s->engine, "decode");
  s->prefill = mi_engine_entry(&s->engine, "prefill");
  if (s->decode < 0 || !s->engine.entries[s->decode].has_logits)
    return mi_complain(s, MI_FAILED, "this program does not generate text: it has no entry point \"decode\"");
  if (s->image->has_tokenizer)
    s->tokenizer = (const char *)s->image + s->image->tokenizer;
  return MI_OK;
}

/* --help, --about and --version, and images that cannot be run. True: `*status` is the answer. */
static bool only_tell(const MiSession *s, int *status)
{
  char buffer[1024], line[256];
  MiOut out = {.buf = buffer, .cap = sizeof buffer, .fd = 1},
        why = {.buf = line, .cap = sizeof line, .fd = -1};
  const MiOptions *o = &s->options;

  if (o->help) {
    mi_options_help(&out, s->name);
  } else if (o->about || o->version) {
    if (!mi_check_image(s->image, UINT64_MAX, &why)) {
      *status = mi_complain(s, MI_FAILED, "%s", mi_out_string(&why));
      return true;
    }
    if (o->about)
      mi_report_about(s->image, &out);
    else
      mi_report_version(s->image, s->name, &out);
  } else {
    return false;
  }
  *status = mi_out_flush(&out) ? MI_OK : mi_complain(s, MI_FAILED, "cannot write: %s", strerror(out.error));
  return true;
}

static void print_profile(const MiSession *s)
{
  char buffer[1024];
  MiOut out = {.buf = buffer, .cap = sizeof buffer, .fd = 2};

  if (s->options.profile)
    mi_report_profile(&s->engine, &out);
  mi_out_flush(&out);
}

static int run_session(MiSession *s)
{
  LogitsFile f;
  int status = mi_prompt_read(s);

  if (status)
    return status;
  catch_interrupt();
  s->n_tokens = s->n_prompt;
  find_eog(s);
  s->engine.top = wanted_logits(s);
  status = logits_open(s, &f);
  if (!status)
    status = run(s, &f);
  status = logits_close(s, &f, status);
  print_profile(s);
  return status;
}

int mi_main(const MiImage *image, MiKernel *const *kernels, int argc, char **argv)
{
  uint64_t start = mi_host_clock_ns();
  MiSession s = {.name = mi_program_name(argc, argv), .image = image};
  char line[256];
  MiOut why = {.buf = line, .cap = sizeof line, .fd = -1};
  int status;

  if (!mi_options_parse(&s.options, argc, argv, &why)) {
    return mi_complain(&s, MI_USAGE, "%s", mi_out_string(&why));
  }
  signal(SIGPIPE, SIG_IGN); /* a write to a closed pipe shall fail, not kill */
  mi_standard_files();
  if (only_tell(&s, &status))
    return status;
  status = open_engine(&s, kernels);
  if (!status)
    status = take_memory(&s);
  s.load_ns = mi_host_clock_ns() - start;
  if (!status)
    status = run_session(&s);
  mi_engine_close(&s.engine);
  return status;
}
