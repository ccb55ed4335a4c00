/* mi_tok.h - what the parts of the tokenizer share: private to runtime-min/mi_tok*.c. */
#ifndef MI_TOK_H
#define MI_TOK_H

#include "mi_tok_format.h"

#include <stddef.h>

#define MI_AT(base, T, offset) ((const T *)(const void *)((const char *)(base) + (offset)))
#define MI_TOK_NO_RANK         UINT32_MAX

/* One piece of text on its way to becoming a token. It stands in an array at the index of its first byte,
 * so it needs no position; its end is `next`. */
typedef struct {
  uint32_t prev, next; /* first bytes of the neighbours; next of the last is the text's end */
  int32_t id;
  uint32_t rank; /* of merging with `next`; MI_TOK_NO_RANK: cannot, or swallowed by its left neighbour */
} MiTokSymbol;

typedef struct {
  const MiTokTable *table;
  int32_t *ids;
  size_t cap;
  int64_t n_ids;
  MiTokSymbol *symbols;
  uint64_t *heap; /* rank << 32 | left symbol, smallest first */
  size_t n_heap;
  char *copy; /* SPM: a fragment after normalisation */
} MiTokEncoder;

enum { MI_TOK_WORK_PER_BYTE = sizeof(MiTokSymbol) + 2 * sizeof(uint64_t) + 1, MI_TOK_WORK_FIXED = 64 };

/* Bytes of the UTF-8 character at s (n > 0 bytes are left), its code point in *cp.
 * An invalid byte is one character, U+FFFD. */
size_t mi_utf8(const char *s, size_t n, uint32_t *cp);

/* The end of the match of expression `k` at `from`; `from` if there is none. Looks no further than `end`. */
size_t mi_regex_match(const MiRegex *r, uint32_t k, const char *s, size_t from, size_t end);
/* Calls word(arg, begin, end) for each part of s[begin..end): the expressions in turn split what the one
 * before has left, into matches and what stands between them. */
typedef void MiRegexWord(void *arg, const char *s, size_t begin, size_t end);
void mi_regex_split(const MiRegex *r, uint32_t k, const char *s, size_t begin, size_t end, MiRegexWord *word,
                    void *arg);

const char *mi_tok_text(const MiTokTable *t, int32_t id, size_t *bytes);
int32_t mi_tok_find(const MiTokTable *t, const char *s, size_t n); /* token of a text, or MI_TOK_NONE */
void mi_tok_put(MiTokEncoder *e, int32_t id);
void mi_tok_spm(MiTokEncoder *e, const char *s, size_t n); /* s: spaces, not U+2581 */
void mi_tok_bpe(MiTokEncoder *e, const char *s, size_t n);

#endif
