/* op_product.c - ONNX products of matrices: MatMul, Gemm; Det.
 *
 * 16-bit floats are multiplied as they are; sums are f32 and rounded once. */
#include "frontend/onnx/op_product.h"
#include "frontend/onnx/onnx_ops.h"

/* ---- products */

Val product_rows(Import *im, Val x, Val w)
{
  if (im_rank(im, w) != 2) {
    if (x && w)
      im_fail(im, im->node, "weights have %u dimensions, must have 2", im_rank(im, w));
    return 0;
  }
  if (im_is_constant(im, w))
    return im_add2(im, OP_linear, x, w);
  w = im_swap(im, im_cast_like(im, w, x), 0, 1);
  if (im_rank(im, x) == 1)
    return im_squeeze(im, im_matmul(im, im_unsqueeze(im, x, 0), w), 0);
  return im_matmul(im, x, w);
}

Val product_matmul(Import *im, Val a, Val b)
{
  uint32_t ra = im_rank(im, a), rb = im_rank(im, b);

  if (!im_ok(im) || !ra || !rb)
    return im_fail(im, im->node, "scalars have no matrix product"), 0;
  Val y = im_matmul(im, ra == 1 ? im_unsqueeze(im, a, 0) : a, rb == 1 ? im_unsqueeze(im, b, 1) : b);
  if (rb == 1 && y)
    y = im_squeeze(im, y, im_rank(im, y) - 1);
  if (ra == 1 && y)
    y = im_squeeze(im, y, im_rank(im, y) - (rb == 1 ? 1 : 2));
  return y;
}

bool op_matmul(Import *im, const OnnxNode *n)
{
  return im_out(im, n, 0, product_matmul(im, im_in(im, n, 0), im_in(im, n, 1)));
}

/* ---- Gemm */

static Val scaled(Import *im, Val v, double by)
{
  return by == 1 ? v : im_op_f(im, OP_mul, v, by);
}

bool op_gemm(Import *im, const OnnxNode *n)
{
  Val first = im_in(im, n, 0), a = im_float_compute(im, first), b = im_in(im, n, 1), c = im_opt(im, n, 2);
  double beta = im_float(im, n, "beta", 1);

  if (im_rank(im, a) != 2 || im_rank(im, b) != 2)
    return im_fail(im, n, "the inputs are no matrices");
  if (im_int(im, n, "transA", 0))
    a = im_swap(im, a, 0, 1);
  Val y = im_int(im, n, "transB", 0) ? product_rows(im, a, b) : im_matmul(im, a, im_cast_like(im, b, a));
  y = scaled(im, y, im_float(im, n, "alpha", 1));
  if (c && beta != 0)
    y = im_add2(im, OP_add, y, scaled(im, im_cast_like(im, c, y), beta));
  return im_out(im, n, 0, im_cast_like(im, y, first));
}

/* ---- Det: elimination with the largest pivot of each column, unrolled. */

typedef struct {
  Val det;  /* [batch] so far */
  Val rest; /* [batch, m, m] */
} Elimination;

static Val equal(Import *im, Val a, Val b)
{
  return im_add2(im, OP_eq, a, b);
}

static Elimination eliminate(Import *im, Elimination e)
{
  int64_t m = im_dim(im, e.rest, 1);
  Val zero = im_const_like(im, e.rest, 0), one = im_const_like(im, e.rest, 1);
  Val column = im_part(im, e.rest, 2, 0, 1), top = im_part(im, e.rest, 1, 0, 1);
  Val at = im_arg(im, OP_argmax, im_add1(im, OP_abs, column), 1, false, true);
  Val here = equal(im, im_reshape_to(im, im_iota(im, DT_I64, m), 1, m, 1), at);
  Val row = im_sum(im, im_where(im, here, e.rest, zero), 2, true); /* the one with the pivot */
  Val pivot = im_part(im, row, 2, 0, 1), kept = equal(im, at, im_const_i(im, DT_I64, 0));
  Val rows = im_where(im, here, top, e.rest); /* the top row takes its place */
  Val factor =
      im_add2(im, OP_div, im_part(im, rows, 2, 0, 1), im_where(im, equal(im, pivot, zero), one, pivot));
  Val below = im_add2(im, OP_sub, rows, im_add2(im, OP_mul, factor, row));
  Val sign = im_flat(im, im_where(im, kept, one, im_add1(im, OP_neg, one)));

  e.det = im_add2(im, OP_mul, im_add2(im, OP_mul, e.det, sign), im_flat(im, pivot));
  e.rest = im_part(im, im_part(im, below, 1, 1, m - 1), 2, 1, m - 1);
  return e;
}

bool op_det(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  Type t = im_type(im, x);
  int64_t m = im_dim(im, x, -1), batch = t.rank < 2 ? 1 : im_span(&t, 0, t.rank - 2);

  if (t.rank < 2 || im_dim(im, x, -2) != m || m > 256)
    return im_fail(im, n, "the input has no square matrices of up to 256 rows");
  Elimination e = {.rest = im_reshape_to(im, im_float_compute(im, x), batch, m, m)};
  e.det = im_full(im, im_elem(im, e.rest), 1, &batch, 1);
  for (int64_t i = 0; i < m; i++)
    e = eliminate(im, e);
  return im_out(im, n, 0, im_cast_like(im, im_reshape(im, e.det, t.rank - 2, t.dim), x));
}
