/* dense.h - lowering of dense graphs: values in their own element types, one kernel for a group of nodes.
 *
 * A group is what one kernel computes: elementwise nodes around at most one node of another family (its anchor: a
 * product, a convolution, a reduction, ...). What only the anchor reads is computed where it is read; what only stands
 * between the anchor and the group's last node is computed on its result before the store (its epilogue). The last
 * node is the group's result, and the only one that goes to memory. See dense_plan.c for who joins whom.
 *
 * Movement (reshape, transpose, slice, expand) is no work where strides can say it: dense_expr() and dense_place() see
 * through it. Concat is no work where its inputs can be written in place.
 *
 * A lowering of a family:
 *
 *   bool lower_dense_NAME(DenseLower *d, Val v)             v: the anchor
 *   {
 *     dense_begin(d, "conv.%lldx%lld", ...);            the name tells shapes; equal kernels are shared
 *     Kernel *k = d->l->k;
 *     const DensePlace *x = dense_place(d, input);      an input that the family's row says it reads from memory
 *     uint16_t p = dense_param(d, input, KA_READ);
 *     DensePoint at = {.lanes = d->l->lanes};           an index for each dimension of v
 *     at.at[0] = (DenseIndex){.v = row};
 *     at.at[1] = (DenseIndex){.v = column, .c = 8, .lane = 1};    lane i is column + 8 + i
 *     dense_store(d, value, &at);                       epilogue and store; value as dense_elem(type of v) says
 *     dense_end(d, grid, ops);
 *   }
 *
 * Values in memory have no padding: never store more lanes than there are elements. Loads may pass the end of a value
 * by DENSE_SLACK bytes. */
#ifndef MICC_DENSE_H
#define MICC_DENSE_H

#include "passes/lower/lower.h"

enum { DENSE_SLACK = 256 };

/* What a family asks of an input. */
typedef enum {
  NEED_VALUE, /* dense_expr() at any point: may be computed on the spot, as often as it is asked for */
  NEED_PLACE, /* in memory, any strides */
  NEED_ROWS,  /* in memory, the last dimension's elements side by side */
  NEED_DENSE  /* in memory, row-major without gaps */
} DenseNeed;

/* Where a value lies: element (i, j, ..) at offset + i * stride[0] + j * stride[1] .., counted in elements. */
typedef struct {
  Val base;   /* the input, weight or result that it is, or is a part of; 0: not in memory */
  KElem elem; /* in memory: one-byte floats are u8 */
  int64_t offset, stride[MAX_RANK];
  int64_t ring; /* 0, or: only so many rows of dimension 1 are kept, a power of two (in scratch) */
} DensePlace;

/* An index along one dimension: v + c, and `lane` more for each next lane. v may be 0 (none). */
typedef struct {
  KVal v;
  int64_t c, lane;
} DenseIndex;

typedef struct {
  DenseIndex at[MAX_RANK];
  unsigned lanes;
} DensePoint;

typedef struct {
  Val v;
  DensePoint at;
  KVal value;
} DenseMemo;

typedef struct {
  Lower *l;
  const Graph *g;
  DensePlace *place; /* per node: of results, inputs, weights, and of movement over these */
  Val *group;        /* per node: the last node of its group; 0: leaves and movement, which belong to none */
  Val *anchors;      /* per node that is a group's last: the anchor, 0 if all is elementwise */
  Val *feeds; /* per node that is a group's last: the group that makes its rows as it needs them; 0: none */
  uint8_t *need;     /* per node: DenseNeed, the most that a reader asks */
  uint32_t *buffer;  /* per node that is a place's base */
  uint32_t *seen;    /* per node: the last group that counted its bytes */
  uint32_t groups;   /* begun so far */
  Val result;        /* of the group under construction: its last node, */
  Val anchor;        /* its anchor, */
  KVal anchor_value; /* and what the anchor is at the point of dense_store() */
  ARRAY(DenseMemo) memo;
  uint64_t bytes; /* what the kernel reads and writes */
} DenseLower;

/* ---- types */
KElem dense_memory(DType t); /* element in memory */
KElem dense_elem(DType t);   /* element to compute with: f32 for floats of 16 bits, the code for those of 8 */
KVal dense_widen(Kernel *k, DType t, KVal memory); /* from the one to the other, any lanes */
KVal dense_narrow(Kernel *k, DType t, KVal v);     /* and back, rounded; integers of few bits wrap */
KVal dense_const(Kernel *k, DType t, unsigned lanes, double v);
KVal dense_convert(Kernel *k, DType from, DType to, KVal v,
                   bool saturate); /* the graph's op `cast`, on computed elements */

/* ---- kernels */
void dense_begin(DenseLower *d, const char *fmt, ...) PRINTF(2, 3);
void dense_end(DenseLower *d, int64_t grid,
               uint64_t ops); /* grid: independent steps, of some 1000 operations or more */
/* Must be called where values of the body before are out of scope: behind the end of a loop or branch in which
 * dense_expr() or dense_store() was called, and at its start. */
void dense_forget(DenseLower *d);

/* ---- operands */
const DensePlace *dense_place(const DenseLower *d, Val v);
uint16_t dense_param(DenseLower *d, Val v,
                     KAccess access);                   /* the buffer of its place, in its memory element */
const Weight *dense_weight(const DenseLower *d, Val v); /* if v is a weight (or its reshape), else NULL */
/* A constant matrix in panels of 16 rows (panel.h) in its own element: [rows, all other dimensions as columns]. */
uint16_t dense_panels(DenseLower *d, Val weight);
/* The value of v at a point of its own index space, as dense_elem(its type). */
KVal dense_expr(DenseLower *d, Val v, const DensePoint *at);
/* Loads from a place, at that point, as dense_elem(t): lanes that do not lie side by side are put together. */
KVal dense_load(DenseLower *d, uint16_t param, const DensePlace *p, DType t, uint32_t rank,
                const DensePoint *at);
/* Element number of a point: the variable part (an idx), and the constant part in *c. */
KVal dense_address(DenseLower *d, const DensePlace *p, uint32_t rank, const DensePoint *at, int64_t *c);

/* What the group's result is where the anchor is `value`: computed, rounded and stored. The point counts in the anchor's
 * dimensions. Lanes along a dimension whose elements do not lie side by side are stored one by one. */
void dense_store(DenseLower *d, KVal value, const DensePoint *at);

/* ---- vectors */
KVal dense_pack(Kernel *k, const KVal *scalar, unsigned n);   /* n lanes of n scalars, n a power of two */
void dense_transpose_lanes(Kernel *k, KVal *row, unsigned n); /* n vectors of n lanes, n at most 16 */
/* Loops over 0 .. n-1 in steps of `lanes`, then ever fewer lanes for the rest; fn gets index and lanes. */
typedef void DenseSpan(DenseLower *d, void *ctx, DenseIndex at, unsigned lanes);
void dense_span(DenseLower *d, int64_t n, unsigned lanes, DenseSpan *fn, void *ctx);

/* ---- elementwise ops (dense_elementwise.c) */
bool dense_is_elementwise(Op op);
KVal dense_elementwise(Kernel *k, const Graph *g, Val v, const KVal *in); /* in and result as dense_elem() */
KVal dense_binary_op(Kernel *k, Op op, DType t, KVal a, KVal b);          /* of inputs of type t */
unsigned dense_cost(Op op, DType t); /* operations for one element, about */

/* ---- families: each lowers the group whose anchor (or only node) is v */
typedef bool DenseFamily(DenseLower *d, Val v);
DenseFamily lower_dense_map, lower_dense_reduce, lower_dense_softmax, lower_dense_arg, lower_dense_scan;
DenseFamily lower_dense_linear, lower_dense_matmul, lower_dense_sdpa, lower_dense_conv, lower_dense_pool;
DenseFamily lower_dense_gather, lower_dense_scatter, lower_dense_topk, lower_dense_pad;

/* conv and linear of u8 by constant i8 (dense_int8.c); false: not one that it takes. */
DenseFamily dense_int8;

/* A graph with Graph.dense set. */
bool lower_dense_graph(Lower *l, const Graph *g);

#endif
