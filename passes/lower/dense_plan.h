/* dense_plan.h - what the core of dense lowering shares: who is computed where (dense_plan.c), points and places
 * (dense_expr.c). Families need dense.h alone. */
#ifndef MICC_DENSE_PLAN_H
#define MICC_DENSE_PLAN_H

#include "passes/lower/dense.h"

/* A row of the table of families. */
typedef struct {
  DenseFamily *lower;
  uint8_t need[3]; /* of each input; the last one counts for all further */
  bool epilogue;   /* what follows may be computed on its result */
} DenseRow;
const DenseRow *dense_row(Op op); /* NULL: no family */

bool dense_is_movement(Op op);

/* Fills group, anchors, need and place for the graph. */
void dense_plan(DenseLower *d);
Val dense_output_base(const DenseLower *d, Val v); /* whose buffer an output is, if it is no group itself */

/* ---- points */
void dense_at_operand(const Type *from, const DensePoint *at, const Type *to, DensePoint *out);
bool dense_merges(const Type *out, const Type *in);
void dense_through(Kernel *k, const Graph *g, Val v, const DensePoint *at, DensePoint *out);
int64_t dense_lane_stride(const DensePlace *p, uint32_t rank, const DensePoint *at);
uint32_t dense_buffer(DenseLower *d, Val v); /* a weight is laid out now */
void dense_put(DenseLower *d, uint16_t param, const DensePlace *p, DType t, uint32_t rank,
               const DensePoint *at, KVal v);
KVal dense_evaluate(DenseLower *d, Val v, const DensePoint *at); /* never from memory: v's own op */
/* Computes the result there, which is no anchor's or whose anchor_value is set, and stores it. */
void dense_put_result(DenseLower *d, const DensePoint *at);

/* ---- strides of all that an expression reads, along each dimension of v (dense_leaves.c) */
typedef struct {
  ARRAY(DensePlace) at; /* place of each leaf seen from v: strides along v's dimensions; base: the leaf's */
} DenseLeaves;
void dense_leaves(DenseLower *d, Val v, DenseLeaves *out);
/* Of what the epilogue reads, and of the result, along the anchor's dimensions. */
void dense_result_leaves(DenseLower *d, DenseLeaves *out);

/* Neighbouring dimensions that all leaves walk with one stride are one loop: an index on its innermost dimension counts
 * them all. Innermost first; dimensions of 1 are left out. */
typedef struct {
  uint32_t dim; /* the innermost of them */
  int64_t n;
  bool special; /* as asked for: never joined with others */
} DenseLoop;
typedef struct {
  uint32_t n;
  DenseLoop loop[MAX_RANK];
} DenseLoops;
void dense_loops(const Type *t, const DenseLeaves *l, uint32_t special, DenseLoops *out);

/* ---- loops (dense_map.c) */
DenseIndex dense_index(KVal v, int64_t c,
                       unsigned lanes); /* v + c, lanes side by side if there are several */
/* Step `part` of a span that is cut in steps of `size` elements, a multiple of the lanes. */
void dense_span_part(DenseLower *d, int64_t n, KVal part, int64_t size, unsigned lanes, DenseSpan *fn,
                     void *ctx);

/* An expression whose operand lies across its result: see dense_tile.c. Emits it and returns the grid, or 0 if it is none. */
int64_t dense_tiles(DenseLower *d, Val v, const DensePlace *to, uint16_t param, const DenseLeaves *leaves,
                    const DenseLoops *loops);

/* ---- pads whose input is computed in place (dense_borders.c) */
bool dense_can_surround(const DenseLower *d, Val pad); /* ... if its input is put there */
bool dense_surrounds(const DenseLower *d, Val v);      /* v is a pad whose input was */
void dense_surround(DenseLower *d, Val pad);

/* ---- windows whose input is made row by row as they need it (dense_bands.c) */
bool dense_can_feed(const DenseLower *d, Val from, Val to); /* groups; only the anchor of `to` reads `from` */
Val dense_fed_by(const DenseLower *d, Val group);           /* 0: none */
DensePlace dense_ring(const DenseLower *d, Val group);      /* of a group that feeds another */
bool dense_bands(DenseLower *d, Val group);                 /* false: nothing feeds it */

uint64_t dense_group_cost(const DenseLower *d); /* operations for one element of the result, about */
/* All elements of v to a place within the value `into`. */
void dense_copy(DenseLower *d, Val v, Val into, const DensePlace *to);

#endif
