/* mi_tokenizer.c - text to token ids: special tokens are cut out first, what stands between them is split
 * and merged (mi_tok_regex.c, mi_tok_merge.c). Behaves as llama.cpp's llama_tokenize() of 2026-08, id for id,
 * except for invalid UTF-8: here its bytes are kept. */
#include "mi_tokenizer.h"
#include "mi_tok.h"

size_t mi_tok_work_bytes(const void *table, size_t text_bytes)
{
  (void)table;
  /* SPM puts a space before the text: one byte more */
  if (text_bytes > SIZE_MAX / MI_TOK_WORK_PER_BYTE - MI_TOK_WORK_FIXED)
    return SIZE_MAX;
  return (text_bytes + 1) * MI_TOK_WORK_PER_BYTE + MI_TOK_WORK_FIXED;
}

void mi_tok_put(MiTokEncoder *e, int32_t id)
{
  if ((uint64_t)e->n_ids < e->cap)
    e->ids[e->n_ids] = id;
  e->n_ids++;
}

/* ---- special tokens */

typedef struct {
  size_t at, end;
  int32_t id; /* MI_TOK_NONE: no token, at == end == where the search stopped */
} Found;

/* First of the sorted specials lo..hi, which agree in `depth` bytes, whose next byte is not below `byte`. */
static uint32_t first_not_below(const MiTokTable *t, uint32_t lo, uint32_t hi, size_t depth, uint32_t byte)
{
  const uint32_t *specials = MI_AT(t, uint32_t, t->specials);
  size_t n;

  while (lo < hi) {
    uint32_t mid = lo + (hi - lo) / 2;
    const char *text = mi_tok_text(t, (int32_t)specials[mid], &n);
    if (n <= depth || (uint8_t)text[depth] < byte)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

/* The longest special token that begins at s[at]. */
static Found special_at(const MiTokTable *t, const char *s, size_t at, size_t end, int all)
{
  const uint32_t *specials = MI_AT(t, uint32_t, t->specials), *by_lead = MI_AT(t, uint32_t, t->by_lead);
  const uint8_t *flags = MI_AT(t, uint8_t, t->token_flags);
  Found best = {at, at, MI_TOK_NONE};
  uint32_t byte = (uint8_t)s[at], lo = by_lead[byte], hi = by_lead[byte + 1];

  for (size_t depth = 1, n; lo < hi; depth++) {
    mi_tok_text(t, (int32_t)specials[lo], &n); /* a prefix of others sorts before them */
    if (n == depth && (all || !(flags[specials[lo]] & MI_TOKEN_CONTROL)))
      best = (Found){at, at + n, (int32_t)specials[lo]};
    if (at + depth == end)
      break;
    byte = (uint8_t)s[at + depth];
    lo = first_not_below(t, lo, hi, depth, byte);
    hi = first_not_below(t, lo, hi, depth, byte + 1);
  }
  return best;
}

static Found first_special(const MiTokTable *t, const char *s, size_t from, size_t end, int all)
{
  Found found = {end, end, MI_TOK_NONE};

  for (size_t at = from; at < end && found.id < 0; at++)
    found = special_at(t, s, at, end, all);
  return found.id < 0 ? (Found){end, end, MI_TOK_NONE} : found;
}

/* Of special tokens that overlap, the longest wins, wherever it begins; then others may fit before it. */
static Found next_special(const MiTokTable *t, const char *s, size_t from, size_t end, int all)
{
  Found best = first_special(t, s, from, end, all), found = best;

  while (found.id >= 0) {
    best = found;
    for (size_t at = best.at + 1; at < best.end; at++) {
      found = special_at(t, s, at, end, all);
      if (found.end - at > best.end - best.at)
        best = found;
    }
    end = best.at;
    found = first_special(t, s, from, end, all);
  }
  return best;
}

/* ---- the text between them */

static void bpe_word(void *encoder, const char *s, size_t begin, size_t end)
{
  mi_tok_bpe(encoder, s + begin, end - begin);
}

/* sentencepiece writes a space as U+2581; so that sign counts as a space. */
static size_t copy_spaces(char *out, const char *s, size_t n)
{
  size_t m = 0;

  for (size_t i = 0; i < n; m++) {
    int sign = n - i >= 3 && memcmp(s + i, "\xe2\x96\x81", 3) == 0;
    out[m] = sign ? ' ' : s[i];
    i += sign ? 3 : 1;
  }
  return m;
}

static void encode_text(MiTokEncoder *e, const char *s, size_t n, int after_special)
{
  const MiTokTable *t = e->table;

  if (t->flags & MI_TOK_SPM) {
    size_t prefix = after_special && (t->flags & MI_TOK_SPACE_PREFIX);
    e->copy[0] = ' ';
    mi_tok_spm(e, e->copy, prefix + copy_spaces(e->copy + prefix, s, n));
  } else {
    mi_regex_split(MI_AT(t, MiRegex, t->regex), 0, s, 0, n, bpe_word, e);
  }
}

static size_t skip_space(const char *s, size_t at, size_t end)
{
  while (at < end && (s[at] == ' ' || (s[at] >= '\t' && s[at] <= '\r')))
    at++;
  return at;
}

static void encode_all(MiTokEncoder *e, const char *s, size_t n, int parse_special)
{
  const uint8_t *flags = MI_AT(e->table, uint8_t, e->table->token_flags);
  int after_special = 1;

  for (size_t at = 0; at < n;) {
    Found found = next_special(e->table, s, at, n, parse_special);
    if (found.at > at) {
      encode_text(e, s + at, found.at - at, after_special);
      after_special = 0;
    }
    at = found.end;
    if (found.id < 0)
      continue;
    mi_tok_put(e, found.id);
    after_special = 1;
    if (flags[found.id] & MI_TOKEN_RSTRIP)
      at = skip_space(s, at, n);
  }
}

int64_t mi_tok_encode(const void *table, const char *text, size_t len, int add_special, int parse_special,
                      int32_t *ids, size_t cap, void *work, size_t work_bytes)
{
  const MiTokTable *t = table;
  size_t skip = -(uintptr_t)work % 16;

  if (len >= INT32_MAX || work_bytes < mi_tok_work_bytes(table, len))
    return -1;
  MiTokEncoder e = {.table = t, .ids = ids, .cap = cap, .symbols = (void *)((char *)work + skip)};
  e.heap = (void *)(e.symbols + len + 1);
  e.copy = (char *)(e.heap + 2 * (len + 1));
  if (add_special && (t->flags & MI_TOK_ADD_BOS))
    mi_tok_put(&e, t->bos);
  encode_all(&e, text, len, parse_special);
  if (add_special && (t->flags & MI_TOK_ADD_EOS))
    mi_tok_put(&e, t->eos);
  return e.n_ids;
}
