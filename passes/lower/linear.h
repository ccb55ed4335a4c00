/* linear.h - what the two files of products share: linear.c (parts, float weights, epilogues) and linear_block.c (block types). */
#ifndef MICC_LINEAR_H
#define MICC_LINEAR_H

#include "passes/lower/lower.h"

enum { MAX_TILE = 12, MAX_VEC = PANEL_ROWS / 4, MAX_PRODUCTS = 8 };

/* Sums of one product for a tile: [token][vector]. */
typedef struct {
  KVal v[MAX_TILE][MAX_VEC];
} Sums;

typedef struct {
  Lower *l;
  const Val *nodes;
  uint32_t n;
  KVal panel;                /* idx: of the matrix */
  KVal row;                  /* idx: first row within the panel; 0: all rows at once */
  KVal groups;               /* idx: of 32 columns, in a row of the input */
  KVal from, to;             /* idx: groups that are multiplied now: all, or those of a strip */
  KVal stride;               /* idx: of the results */
  KVal tokens;               /* idx: of the call */
  KVal token;                /* idx: first token of the tile */
  unsigned tile;             /* tokens in a tile */
  unsigned panels;           /* of an iteration */
  unsigned abreast;          /* panels whose sums are in registers together */
  bool tiles;                /* there is a loop over them */
  bool shared;               /* decode and prefill have one kernel */
  bool unpack;               /* codes are unpacked to scratch, for all tiles */
  int64_t strip;             /* groups that are unpacked at a time, for all tiles; 0: a whole row */
  unsigned lanes, vecs;      /* f32 lanes of a vector; vectors of a tile's rows */
  Val product[MAX_PRODUCTS]; /* the linear nodes, and their sums */
  Sums *sums;
  uint32_t n_products;
  int64_t unpacked[MAX_PRODUCTS]; /* float of the scratch where a product's unpacked panel starts */
  int64_t scratch_floats;
  int64_t scratch_tokens; /* whose sums it holds */
} Linear;

static inline KType linear_vec(const Linear *c, KElem e, unsigned per_lane)
{
  return ktype(e, c->lanes * per_lane);
}

static inline uint16_t linear_scratch(const Linear *c)
{
  return lower_scratch(c->l, (uint64_t)c->scratch_floats * sizeof(float));
}

/* One token alone reads each weight once, from memory; a tile of tokens reads it again from the cache. */
static inline bool linear_streams(const Linear *c)
{
  return c->l->g->tokens == 1 || c->shared;
}

/* Rows that lie side by side in scratch. */
static inline unsigned linear_rows(const Linear *c)
{
  return c->abreast * PANEL_ROWS;
}

/* From where all rows of a panel start to where those of this turn do. */
static inline KVal linear_rows_at(const Linear *c, KVal at, int64_t bytes_each)
{
  Kernel *k = c->l->k;
  return c->row ? idx_add(k, at, idx_mul(k, c->row, bytes_each)) : at;
}

/* For a loop's start and end: every sum is a carry in it, `carries`, and has the carry's last value after it. NULL: no sums. */
void linear_open(const Linear *c, Sums *s, Sums *carries);
void linear_close(const Linear *c, Sums *s, const Sums *carries);

/* linear_block.c: the product of 8-bit activations and a panel of a block type, added to `sums` */
void linear_block(const Linear *c, uint16_t w, Val x, DType t, Sums *sums);

/* The same in two steps: the codes from .. to of the panels that are abreast unpacked to scratch from float `at` on, then for
 * each tile their product. */
int64_t linear_unpacked_floats(const Linear *c, DType t, int64_t columns);
void linear_unpack(const Linear *c, uint16_t w, DType t, int64_t at);
void linear_unpacked(const Linear *c, uint16_t w, Val x, DType t, int64_t at, Sums *sums);

#endif
