/* mi_tok_regex.c - splits text by regular expressions that the compiler turned into automata.
 *
 * A transition says whether a match ended *before* the character that it reads. So an automaton has seen one
 * character beyond the match, which is all that the look-ahead of `\s+(?!\S)` or `$` needs. */
#include "mi_tok.h"

static int is_tail(const char *s, size_t i, uint8_t lo, uint8_t hi)
{
  return (uint8_t)s[i] >= lo && (uint8_t)s[i] <= hi;
}

/* Unicode 15, table 3-7: well-formed byte sequences. */
size_t mi_utf8(const char *s, size_t n, uint32_t *cp)
{
  uint32_t c = (uint8_t)s[0];

  *cp = c;
  if (c < 0x80)
    return 1;
  if (c >= 0xc2 && c < 0xe0 && n >= 2 && is_tail(s, 1, 0x80, 0xbf)) {
    *cp = (c & 31) << 6 | (s[1] & 63);
    return 2;
  }
  if ((c & 0xf0) == 0xe0 && n >= 3 && is_tail(s, 1, c == 0xe0 ? 0xa0 : 0x80, c == 0xed ? 0x9f : 0xbf) &&
      is_tail(s, 2, 0x80, 0xbf)) {
    *cp = (c & 15) << 12 | (s[1] & 63) << 6 | (s[2] & 63);
    return 3;
  }
  if (c >= 0xf0 && c < 0xf5 && n >= 4 && is_tail(s, 1, c == 0xf0 ? 0x90 : 0x80, c == 0xf4 ? 0x8f : 0xbf) &&
      is_tail(s, 2, 0x80, 0xbf) && is_tail(s, 3, 0x80, 0xbf)) {
    *cp = (c & 7) << 18 | (s[1] & 63) << 12 | (s[2] & 63) << 6 | (s[3] & 63);
    return 4;
  }
  *cp = 0xfffd;
  return 1;
}

/* Class of the character at s[i]; *i moves behind it. */
static uint32_t read_class(const MiRegex *r, const char *s, size_t *i, size_t end)
{
  uint32_t cp;

  if (*i == end)
    return r->n_classes;
  *i += mi_utf8(s + *i, end - *i, &cp);
  uint32_t block = MI_AT(r, uint8_t, r->block_of)[cp >> MI_REGEX_BLOCK_BITS];
  return MI_AT(r, uint8_t, r->blocks)[block << MI_REGEX_BLOCK_BITS | (cp & ((1 << MI_REGEX_BLOCK_BITS) - 1))];
}

size_t mi_regex_match(const MiRegex *r, uint32_t k, const char *s, size_t from, size_t end)
{
  const uint16_t *next = MI_AT(r, uint16_t, r->next[k]);
  uint32_t state = MI_REGEX_START;
  size_t match = from, at = from;

  for (;;) {
    size_t before = at;
    uint32_t to = next[state * (r->n_classes + 1) + read_class(r, s, &at, end)];
    if (to & MI_REGEX_MATCH)
      match = before;
    state = to & ~(uint32_t)MI_REGEX_MATCH;
    if (state == MI_REGEX_DEAD || before == end)
      return match;
  }
}

/* There is no match at `from`: the next place where one can begin. A try that would only come into the state
 * in which the failed one stood at that place fails too: without this, `\s+$` takes quadratic time. */
static size_t next_try(const MiRegex *r, uint32_t k, const char *s, size_t from, size_t end)
{
  const uint16_t *next = MI_AT(r, uint16_t, r->next[k]);
  uint32_t row = r->n_classes + 1, state = MI_REGEX_START;
  size_t at = from;

  while (at < end) {
    size_t before = at;
    uint32_t cls = read_class(r, s, &at, end), to = next[state * row + cls];
    if (before > from && to != next[MI_REGEX_START * row + cls])
      return before;
    if (to == MI_REGEX_DEAD)
      break;
    state = to;
  }
  return at;
}

void mi_regex_split(const MiRegex *r, uint32_t k, const char *s, size_t begin, size_t end, MiRegexWord *word,
                    void *arg)
{
  size_t done = begin;

  if (k == r->n_regex) {
    word(arg, s, begin, end);
    return;
  }
  for (size_t at = begin; at < end;) {
    size_t match = mi_regex_match(r, k, s, at, end);
    if (match == at) {
      at = next_try(r, k, s, at, end);
      continue;
    }
    if (done < at)
      mi_regex_split(r, k + 1, s, done, at, word, arg);
    mi_regex_split(r, k + 1, s, at, match, word, arg);
    done = at = match;
  }
  if (done < end)
    mi_regex_split(r, k + 1, s, done, end, word, arg);
}
