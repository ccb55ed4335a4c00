/* op_reduce.c - ONNX operators along axes: reductions, positions of extremes, running sums, the softmax family.
 *
 * 16-bit floats are computed in f32 where a result is made of several steps. */
#include "frontend/onnx/onnx_ops.h"

#include <math.h>

/* ---- Reduce* */

/* What happens before, at, and after the sum. */
static Val reduce_plain(Import *im, Op op, Val x, uint32_t axes, bool keep)
{
  return im_reduce(im, op, x, axes, keep);
}

static Val reduce_mean(Import *im, Op op, Val x, uint32_t axes, bool keep)
{
  (void)op;
  return im_mean(im, x, axes, keep);
}

static Val reduce_l1(Import *im, Op op, Val x, uint32_t axes, bool keep)
{
  return im_reduce(im, op, im_add1(im, OP_abs, x), axes, keep);
}

static Val reduce_square(Import *im, Op op, Val x, uint32_t axes, bool keep)
{
  return im_reduce(im, op, im_add2(im, OP_mul, x, x), axes, keep);
}

static Val reduce_l2(Import *im, Op op, Val x, uint32_t axes, bool keep)
{
  Val sum = reduce_square(im, op, x, axes, keep);
  DType t = im_elem(im, sum);

  if (im_is_float(t))
    return im_add1(im, OP_sqrt, sum);
  return im_cast(im, im_add1(im, OP_sqrt, im_cast(im, sum, DT_F64)), t);
}

static Val reduce_log(Import *im, Op op, Val x, uint32_t axes, bool keep)
{
  return im_add1(im, OP_log, im_reduce(im, op, x, axes, keep));
}

/* The maximum, which e^x is divided by so that it stays finite; 0 where it is infinite itself. */
static Val finite_max(Import *im, Val x, uint32_t axes)
{
  Val m = im_reduce(im, OP_reduce_max, x, axes, true);
  Val infinite = im_add2(im, OP_eq, im_add1(im, OP_abs, m), im_const_like(im, m, INFINITY));
  return im_where(im, infinite, im_const_like(im, m, 0), m);
}

static Val reduce_log_exp(Import *im, Op op, Val x, uint32_t axes, bool keep)
{
  Val m = finite_max(im, x, axes), e = im_add1(im, OP_exp, im_add2(im, OP_sub, x, m));
  Val sum = im_add2(im, OP_add, im_add1(im, OP_log, im_reduce(im, op, e, axes, true)), m);
  return keep ? sum : im_squeeze_mask(im, sum, axes);
}

static const struct {
  const char *name;
  Op op;
  Val (*build)(Import *im, Op op, Val x, uint32_t axes, bool keep);
} reductions[] = {
    {"ReduceL1", OP_reduce_sum, reduce_l1},      {"ReduceL2", OP_reduce_sum, reduce_l2},
    {"ReduceLogSum", OP_reduce_sum, reduce_log}, {"ReduceLogSumExp", OP_reduce_sum, reduce_log_exp},
    {"ReduceMax", OP_reduce_max, reduce_plain},  {"ReduceMean", OP_reduce_sum, reduce_mean},
    {"ReduceMin", OP_reduce_min, reduce_plain},  {"ReduceProd", OP_reduce_prod, reduce_plain},
    {"ReduceSum", OP_reduce_sum, reduce_plain},  {"ReduceSumSquare", OP_reduce_sum, reduce_square},
};

bool op_reduce(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  DType t = im_elem(im, x);
  Ints axes = im_ints_of(im, n, 1, "axes");
  uint32_t i = 0;

  if (axes.given && !axes.len) { /* as if they were left out */
    axes.given = false;
  }
  if (!axes.given && im_int(im, n, "noop_with_empty_axes", 0))
    axes = (Ints){.given = true};
  while (!im_is(n, reductions[i].name))
    i++;
  uint32_t mask = im_axes(im, n, axes, im_rank(im, x));
  Val r =
      reductions[i].build(im, reductions[i].op, im_float_compute(im, x), mask, im_int(im, n, "keepdims", 1));
  return im_out(im, n, 0, im_cast(im, r, t));
}

/* ---- positions */

bool op_arg(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  uint32_t axis = im_axis_attr(im, n, "axis", 0, im_rank(im, x));
  bool last = im_int(im, n, "select_last_index", 0), keep = im_int(im, n, "keepdims", 1);

  return im_out(im, n, 0, im_arg(im, im_is(n, "ArgMax") ? OP_argmax : OP_argmin, x, axis, last, keep));
}

bool op_top_k(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  uint32_t rank = im_rank(im, x), axis = im_axis_attr(im, n, "axis", -1, rank);
  int64_t k = im_int_of(im, n, 1, "k", 0);

  if (!im_ok(im) || k < 0 || k > im_dim(im, x, axis))
    return im_fail(im, n, "k is %lld of %lld elements", (long long)k, (long long)im_dim(im, x, axis));
  Val last = im_move(im, x, axis, rank - 1);
  Val indices = im_topk(im, last, k, im_int(im, n, "largest", 1));
  return im_out(im, n, 0, im_move(im, im_pick(im, last, indices), rank - 1, axis)) &&
         im_out(im, n, 1, im_move(im, indices, rank - 1, axis));
}

/* ---- running sums and products */

bool op_cum(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  uint32_t axis = im_axis(im, n, im_int_of(im, n, 1, NULL, 0), im_rank(im, x));
  Val r = im_cum(im, im_is(n, "CumSum") ? OP_cumsum : OP_cumprod, im_float_compute(im, x), axis,
                 im_int(im, n, "exclusive", 0), im_int(im, n, "reverse", 0));
  return im_out(im, n, 0, im_cast_like(im, r, x));
}

/* ---- softmax and its relatives: before opset 13 over all dimensions from the axis on, then over one */

static Val hardmax(Import *im, Val x, uint32_t axis)
{
  Val at = im_arg(im, OP_argmax, x, axis, false, true);
  Val i = im_at_channel(im, im_iota(im, DT_I64, im_dim(im, x, axis)), axis, im_rank(im, x));
  return im_cast_like(im, im_add2(im, OP_eq, i, at), x);
}

bool op_softmax(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  Type t = im_type(im, x);
  bool old = im_opset(im, n) < 13;
  uint32_t axis = im_axis_attr(im, n, "axis", old ? 1 : -1, t.rank);
  Val (*build)(Import *, Val, uint32_t) = im_is(n, "Softmax")      ? im_softmax
                                          : im_is(n, "LogSoftmax") ? im_log_softmax
                                                                   : hardmax;
  if (!im_ok(im))
    return false;
  if (!old || axis + 1 == t.rank)
    return im_out(im, n, 0, build(im, x, axis));
  return im_out(im, n, 0, im_reshape(im, build(im, im_flat_at(im, x, axis), 1), t.rank, t.dim));
}
