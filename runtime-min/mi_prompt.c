/* mi_prompt.c - where the prompt comes from: the command line, a file, a pipe, a terminal, or token ids. */
#include "mi_host.h"
#include "mi_session.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

enum { FIRST_BYTES = 1 << 16 };
#define PROMPT_MAX ((size_t)1 << 30)

/* A text that grows; pages, not malloc, since nothing else in a program needs malloc. */
typedef struct {
  char *bytes;
  size_t n, cap;
} Text;

static bool grow(Text *t)
{
  size_t cap = t->cap ? t->cap * 2 : FIRST_BYTES;
  char *bytes = cap <= PROMPT_MAX ? mi_host_map(cap) : NULL;

  if (!bytes)
    return false;
  if (t->n)
    memcpy(bytes, t->bytes, t->n);
  mi_host_unmap(t->bytes, t->cap);
  t->bytes = bytes;
  t->cap = cap;
  return true;
}

/* Reads to the end, or to the end of the first line. 0, or errno. */
static int read_all(int fd, bool one_line, Text *t)
{
  for (;;) {
    if (t->n == t->cap && !grow(t))
      return EFBIG;
    ssize_t n = read(fd, t->bytes + t->n, t->cap - t->n);
    if (n < 0 && errno != EINTR)
      return errno;
    if (n == 0)
      return 0;
    t->n += n > 0 ? (size_t)n : 0;
    if (one_line && t->n && t->bytes[t->n - 1] == '\n')
      return 0;
  }
}

/* The newline that ends a file or a line is not part of the prompt. */
static int read_text(MiSession *s, int fd, const char *from)
{
  bool terminal = fd == 0 && isatty(0);
  Text t = {0};

  if (terminal)
    mi_out_write(2, "> ", 2);
  int error = read_all(fd, terminal, &t);
  if (error)
    return mi_complain(s, MI_FAILED, "cannot read %s: %s", from, strerror(error));
  t.n -= t.n && t.bytes[t.n - 1] == '\n';
  s->prompt = t.bytes;
  s->prompt_bytes = t.n;
  return MI_OK;
}

static int read_file(MiSession *s, const char *path)
{
  if (!strcmp(path, "-"))
    return read_text(s, 0, "standard input");
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0)
    return mi_complain(s, MI_FAILED, "cannot open %s: %s", path, strerror(errno));
  int status = read_text(s, fd, path);
  close(fd);
  return status;
}

static int too_long(const MiSession *s, uint64_t n)
{
  return mi_complain(s, MI_FAILED,
                     "the prompt has %llu tokens, but the context holds %u (-c at compile time raises it)",
                     (unsigned long long)n, s->image->context);
}

/* "1,2,3" */
static int parse_ids(MiSession *s, const char *p)
{
  uint64_t n = 0;

  for (;; p++) {
    const char *start = p;
    uint64_t id = 0;
    while (*p == ' ')
      start = ++p;
    for (; *p >= '0' && *p <= '9' && id <= UINT32_MAX; p++)
      id = id * 10 + (uint64_t)(*p - '0');
    if (p == start || (*p && *p != ',' && (*p < '0' || *p > '9')))
      return mi_complain(s, MI_USAGE, "--token-ids: numbers with commas between them are needed, not '%s'",
                         start);
    if (id >= s->image->n_vocab)
      return mi_complain(s, MI_USAGE, "--token-ids: %llu is not in the vocabulary of %u",
                         (unsigned long long)id, s->image->n_vocab);
    if (n < s->image->context)
      s->tokens[n] = (int32_t)id;
    n++;
    if (!*p)
      break;
  }
  s->n_prompt = (uint32_t)n;
  return n <= s->image->context ? MI_OK : too_long(s, n);
}

static int tokenize(MiSession *s)
{
  uint32_t cap = s->image->context;
  size_t bytes = mi_tok_work_bytes(s->tokenizer, s->prompt_bytes);
  void *work = mi_host_map(bytes);

  if (!work)
    return mi_complain(s, MI_FAILED, "no memory for a prompt of %zu bytes", s->prompt_bytes);
  int64_t n = mi_tok_encode(s->tokenizer, s->prompt, s->prompt_bytes, 1, 1, s->tokens, cap, work, bytes);
  mi_host_unmap(work, bytes);
  if (n < 0)
    return mi_complain(s, MI_FAILED, "the prompt cannot be tokenized");
  if (n == 0)
    return mi_complain(s, MI_FAILED, "the prompt is empty, and this model has no token that begins a text");
  if (n > cap)
    return too_long(s, (uint64_t)n);
  for (int64_t i = 0; i < n; i++)
    if ((uint32_t)s->tokens[i] >= s->image->n_vocab)
      return mi_complain(s, MI_FAILED, "the tokenizer gives token %d, which the model does not have",
                         s->tokens[i]);
  s->n_prompt = (uint32_t)n;
  return MI_OK;
}

int mi_prompt_read(MiSession *s)
{
  const MiOptions *o = &s->options;
  int status = MI_OK;

  if (o->token_ids)
    return parse_ids(s, o->token_ids);
  if (!s->tokenizer)
    return mi_complain(s, MI_USAGE, "this model has no tokenizer: give --token-ids");
  if (o->file)
    status = read_file(s, o->file);
  else if (!o->prompt)
    status = read_text(s, 0, "standard input");
  else
    s->prompt = (char *)o->prompt, s->prompt_bytes = strlen(o->prompt);
  return status ? status : tokenize(s);
}
