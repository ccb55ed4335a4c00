/* tok_vocab.h - a vocabulary as it comes out of the metadata: checked, special tokens known, ready to be laid
 * out as a table (tokenizer.c). Private to this folder. */
#ifndef MICC_TOK_VOCAB_H
#define MICC_TOK_VOCAB_H

#include "frontend/model.h"
#include "runtime-min/mi_tok_format.h"

typedef struct {
  const char *name;
  const char *const *words; /* regular expressions, NULL at the end */
  uint32_t flags;           /* MI_TOK_* */
} Pretok;

typedef struct {
  const Model *m;
  Arena *arena; /* scratch: lives until the table stands */
  Err *e;
  const Pretok *pre; /* NULL: SPM */
  uint32_t flags;    /* MI_TOK_* */
  uint32_t n;
  const Str *text;       /* of each token, as in the file */
  Str *piece;            /* what it stands for, in bytes */
  uint8_t *token_flags;  /* MI_TOKEN_* */
  uint8_t *is_byte;      /* SPM: <0x0A> */
  uint8_t *is_key;       /* text is found by piece: not bytes, doubles, or what encoding can never meet */
  uint32_t *rank;        /* SPM: by score, 0 is the best */
  int32_t byte_ids[256]; /* the token of a single byte, or MI_TOK_NONE */
  int32_t bos, eos, unk;
  uint32_t *map; /* text to id: open addressing, UINT32_MAX is free */
  uint32_t map_mask;
} Vocab;

/* Reads and checks tokenizer.ggml.*. */
bool vocab_read(Vocab *v);
int32_t vocab_find(const Vocab *v, const char *text, size_t n); /* by text as in the file */

/* The model's row; *spm true: none is needed. NULL with an error line: unknown. */
bool vocab_kind(const Model *m, bool *spm, const Pretok **pre, Err *e);

#endif
