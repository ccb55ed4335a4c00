/* eval_dense.h - what the files of the dense oracle share. Private to ir.
 *
 *   eval_dense.c          tensors, leaves, the walk over a graph
 *   eval_dense_map.c      elementwise ops, casts
 *   eval_dense_reduce.c   along axes: sums, maxima, scans, softmax, topk
 *   eval_dense_move.c     shape, movement, gather and scatter
 *   eval_dense_product.c  linear, matmul, conv, pools
 *   eval_dense_sdpa.c     attention
 *
 * Elements are read and rounded by dtype_get and dtype_put (dtype_element.c) alone. Floats are computed in long
 * double, or in double where a product's inputs have at most f32's digits; integers in 64 bits, which wrap as their
 * own type does when stored. */
#ifndef MICC_EVAL_DENSE_H
#define MICC_EVAL_DENSE_H

#include "ir/graph.h"

typedef struct {
  Op op;
  const Attr *attr;
  const Tensor *in;
  uint32_t n_in;
  Tensor *out; /* allocated, zeroed */
  Arena *tmp;  /* freed after the op */
} DenseOp;

typedef void DenseFn(const DenseOp *d);

DenseFn dense_unary, dense_binary, dense_compare, dense_where_op, dense_cast;
DenseFn dense_reduce, dense_arg_op, dense_scan, dense_softmax, dense_topk_op;
DenseFn dense_transpose, dense_slice, dense_concat, dense_expand, dense_pad, dense_gather_op,
    dense_scatter_op;
DenseFn dense_linear_op, dense_matmul_op, dense_sdpa_op, dense_conv_op, dense_pool_op;

/* acc = op(acc, x), both of type t */
void dense_combine(Op op, DType t, void *acc, const void *x);
bool dense_is_int(DType t); /* integers and bool */
bool dense_int_less(DType t, int64_t a, int64_t b);
int64_t dense_int_lowest(DType t); /* u64 as two's complement */
int64_t dense_int_highest(DType t);

/* Elements of one step along the axis, and how often the axis is walked. */
void dense_axis(const Type *t, uint32_t axis, int64_t *inner, int64_t *outer);

/* Walks all elements of a shape in order, and with them the places in up to three operands. */
typedef struct {
  uint32_t rank;
  int64_t dim[MAX_RANK], index[MAX_RANK];
  int64_t stride[3][MAX_RANK], at[3];
} Walk;

Walk walk_begin(const Type *t);
void walk_bcast(Walk *w, int operand, const Type *t); /* numpy broadcasting of an operand of that type */
void walk_next(Walk *w);

static inline const uint8_t *tensor_at(const Tensor *t, int64_t i)
{
  return (const uint8_t *)t->data + (uint64_t)i * dtype_info[t->type.dtype].bytes;
}
static inline uint8_t *tensor_to(const Tensor *t, int64_t i)
{
  return (uint8_t *)t->data + (uint64_t)i * dtype_info[t->type.dtype].bytes;
}

#endif
