/* mi_tok_decode.c - token ids to text, and the table's few facts. */
#include "mi_tokenizer.h"
#include "mi_tok.h"

static const char replacement[3] = "\xef\xbf\xbd"; /* U+FFFD */

static int token_flags(const MiTokTable *t, int32_t id)
{
  return id < 0 || (uint32_t)id >= t->n_tokens ? MI_TOKEN_HIDDEN : MI_AT(t, uint8_t, t->token_flags)[id];
}

static const char *piece(const MiTokTable *t, int32_t id, int first, size_t *n)
{
  *n = 0;
  if (token_flags(t, id) & MI_TOKEN_HIDDEN)
    return "";
  const char *s = mi_tok_text(t, id, n);
  if (first && (t->flags & MI_TOK_SPACE_PREFIX) && *n && s[0] == ' ') {
    s++;
    --*n;
  }
  return s;
}

size_t mi_tok_piece(const void *table, int32_t id, int first, char *out, size_t cap)
{
  size_t n;
  const char *s = piece(table, id, first, &n);

  memcpy(out, s, n < cap ? n : cap);
  return n;
}

/* ---- whole characters only */

/* Whether the first n (1..3) of these bytes begin a valid character that is longer than n. */
static int is_begun(const char *s, size_t n)
{
  static const char tails[][3] = {"\x80\x80\x80", "\x90\x80\x80", "\xa0\x80\x80"};
  uint32_t cp;
  char whole[4];

  for (size_t i = 0; i < sizeof tails / sizeof tails[0]; i++) {
    memcpy(whole, s, n);
    memcpy(whole + n, tails[i], 4 - n);
    if (mi_utf8(whole, 4, &cp) > n)
      return 1;
  }
  return 0;
}

static size_t put(char *out, size_t cap, size_t at, const char *s, size_t n)
{
  if (n > cap - at)
    return at;
  memcpy(out + at, s, n);
  return at + n;
}

/* Gives out what is pending if it is a whole character, or cannot become one. */
static size_t settle(MiDecoder *d, char *out, size_t cap, size_t at)
{
  uint32_t cp;

  while (d->n_pending && !is_begun(d->pending, d->n_pending)) {
    size_t n = mi_utf8(d->pending, d->n_pending, &cp);
    if (cp == 0xfffd && n == 1) {
      /* as Unicode recommends: one sign for the longest part that could have begun a character */
      n = d->n_pending > 1 ? d->n_pending - 1u : 1u;
      at = put(out, cap, at, replacement, 3);
    } else {
      at = put(out, cap, at, d->pending, n);
    }
    d->n_pending = (uint8_t)(d->n_pending - n);
    memmove(d->pending, d->pending + n, d->n_pending);
  }
  return at;
}

size_t mi_tok_decode(const void *table, MiDecoder *d, int32_t id, char *out, size_t cap)
{
  size_t n, at = 0;
  const char *s = piece(table, id, !d->started, &n);

  if (n || !(token_flags(table, id) & MI_TOKEN_HIDDEN))
    d->started = 1;
  for (size_t i = 0; i < n; i++) {
    d->pending[d->n_pending++] = s[i];
    at = settle(d, out, cap, at);
  }
  return at;
}

size_t mi_tok_flush(MiDecoder *d, char *out, size_t cap)
{
  size_t at = d->n_pending ? put(out, cap, 0, replacement, 3) : 0;

  d->n_pending = 0;
  return at;
}

/* ---- facts */

uint32_t mi_tok_vocab(const void *table)
{
  return ((const MiTokTable *)table)->n_tokens;
}

int32_t mi_tok_bos(const void *table)
{
  return ((const MiTokTable *)table)->bos;
}

int mi_tok_is_eog(const void *table, int32_t id)
{
  return id >= 0 && (token_flags(table, id) & MI_TOKEN_EOG) != 0;
}
