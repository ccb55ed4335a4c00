/* dense_attention.h - what the files of dense_attention.c share. */
#ifndef MICC_DENSE_ATTENTION_H
#define MICC_DENSE_ATTENTION_H

#include "passes/lower/dense_plan.h"

enum { MAX_VECS = 3, MAX_KEYS = 12, MAX_ROWS = 12, MAX_COLUMNS = 6, UNROLL = 4, MAX_SUMS = 32 };
enum { TILE_BYTES = 24 << 10 }; /* of scores: about what stays in the L1 cache */

/* An operand and the place in it where a grid step begins. */
typedef struct {
  const DensePlace *at;
  const Type *type;
  uint16_t param;
  KVal first;
} Operand;

typedef struct {
  DenseLower *d;
  Kernel *k;
  const Node *n;
  const Type *type; /* of the result: [.., rows, heads, width] */
  uint32_t rank;
  Operand q, keys, values, mask;
  bool masked, mask_rows;                                /* there is a mask; each row has one of its own */
  int64_t rows, heads, depth, width, count, tiles, tile; /* keys: count, in tiles of at most `tile` */
  unsigned lanes, vecs, group;                           /* rows of a block: lanes * vecs; keys at once */
  unsigned m, columns; /* rows, and vectors of columns, of the product with the values */
  uint16_t scratch;
  int64_t probs_at, mask_at, acc_at, factor_at; /* in scratch; the queries stand at 0 */
  DensePoint at;                                /* batch, first row, head: in the result */
  KVal skip;                                    /* rows of the block that the one before has made; 0: none */
  KVal from, n_keys;                            /* of the tile */
} Sdpa;

typedef struct {
  KVal v[MAX_SUMS];
} Sums;

static inline int64_t block_rows(const Sdpa *s)
{
  return (int64_t)s->lanes * s->vecs;
}

static inline KVal op2(const Sdpa *s, KOp op, KVal a, KVal b)
{
  return k_op2(s->k, op, a, b);
}

static inline KVal splat(const Sdpa *s, unsigned lanes, KVal v)
{
  return k_splat(s->k, ktype(KE_f32, lanes), v);
}

static inline KVal number(const Sdpa *s, double v)
{
  return k_flt(s->k, s->lanes, v);
}

static inline KVal scratch_load(const Sdpa *s, unsigned lanes, KVal at, int64_t c)
{
  return k_load(s->k, ktype(KE_f32, lanes), s->scratch, at, c);
}

static inline KVal operand_load(const Sdpa *s, const Operand *o, unsigned lanes, KVal at, int64_t c)
{
  return dense_widen(s->k, o->type->dtype, k_load(s->k, ktype(o->at->elem, lanes), o->param, at, c));
}

/* Whether steps of keys may overlap. */
static inline bool goes_back(const Sdpa *s)
{
  return s->count % s->group || s->tiles > 1;
}

/* Probabilities of a tile of keys, in scratch, without their sum as divisor; the maxima and sums of the rows move on. With
 * several tiles, factors by which what was summed before shrinks. (dense_attention_score.c) */
void sdpa_softmax(const Sdpa *s, KVal *top, KVal *sum);
/* In place of the factors: what the results are multiplied by at the end. */
void sdpa_inverse_sums(const Sdpa *s, const KVal *top, const KVal *sum);

/* The product with the values (dense_attention_value.c): of the only tile, stored; of one of several, */
void sdpa_tile_values(const Sdpa *s);
/* which begin with zeros, */
void sdpa_zero_sums(const Sdpa *s);
/* and what they sum up to, stored. */
void sdpa_results(const Sdpa *s);

#endif
