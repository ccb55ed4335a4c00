/* op_pool.c - ONNX pools: maximum (with its place), average, p-norm, over windows and over everything; MaxUnpool.
 *
 * Averages are a pool_sum over numbers that are known when compiling: how many elements each window counts. */
#include "frontend/onnx/onnx_ops.h"
#include "frontend/onnx/op_window.h"

#include <math.h>

/* ---- MaxPool */

static double lowest_of(DType t)
{
  return im_is_float(t) ? (double)-INFINITY : (double)dtype_info[t].lo;
}

/* The first maximum of each window, as its position in all of x. */
static Val max_places(Import *im, const OnnxNode *n, Val x, const Window *w)
{
  Type t = im_type(im, x), y = t;
  WindowGrid g;

  if (!window_grid(im, n, w, &t, &g))
    return 0;
  int64_t rows = t.dim[0] * t.dim[1], size = im_span(&t, 2, t.rank);
  Val table = window_table(im, &g, false);
  Val outside = im_add2(im, OP_lt, table, im_const_i(im, DT_I64, 0));
  Val all = im_gather(im, im_reshape_to(im, x, rows, size), table, 1);
  Val best = im_arg(im, OP_argmax, im_where(im, outside, im_const_like(im, x, lowest_of(t.dtype)), all), 2,
                    false, false);
  Val from = window_table(im, &g, im_int(im, n, "storage_order", 0));
  Val first = im_op_f(im, OP_mul, im_iota(im, DT_I64, g.places), (double)g.count);
  Val channel = im_op_f(im, OP_mul, im_iota(im, DT_I64, rows), (double)size);
  Val at = im_gather(im, im_flat(im, from), im_add2(im, OP_add, best, first), 0);
  memcpy(y.dim + 2, g.out, w->spatial * sizeof *g.out);
  return im_reshape(im, im_add2(im, OP_add, at, im_unsqueeze(im, channel, 1)), y.rank, y.dim);
}

bool op_max_pool(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  Type t = im_type(im, x);
  Window w;

  if (!window_read_pool(im, n, &t, im_ints(im, n, "kernel_shape"), &w, NULL))
    return false;
  Val y = im_channels_first(im, im_pool(im, OP_pool_max, im_channels_last(im, x), &w));
  return im_out(im, n, 0, y) && (!im_wants(im, n, 1) || im_out(im, n, 1, max_places(im, n, x, &w)));
}

/* ---- AveragePool */

static int64_t ceil_div(int64_t a, int64_t b)
{
  return a / b + (a % b > 0);
}

/* Of the elements that the window at place p of dimension i sees, those in -before .. end - 1. */
static int64_t counted(const Window *w, uint32_t i, int64_t p, int64_t before, int64_t end)
{
  int64_t first = w->pad_lo[i] - p * w->stride[i]; /* the kernel's element at 0, times the dilation */
  int64_t from = max64(0, ceil_div(first - before, w->dilation[i]));
  int64_t to = min64(w->kernel[i], ceil_div(first + end, w->dilation[i]));

  return max64(0, to - from);
}

/* How many elements each window counts, as [1, places .., 1]: those in x, and in the pads if they count. */
static Val count_table(Import *im, const Type *x, const Window *w, bool pads, const int64_t *pad_hi)
{
  Type all = {.dtype = x->dtype, .rank = x->rank, .dim = {1, 1, 1, 1, 1}};

  for (uint32_t i = 0; i < w->spatial; i++)
    all.dim[1 + i] = window_places(w, i, x->dim[2 + i]);
  Tensor t = im_tensor_new(im, all);
  for (int64_t at = 0, n = t.data ? type_count(&all) : 0; at < n; at++) {
    int64_t count = 1, rest = at;
    for (uint32_t i = w->spatial; i-- > 0; rest /= all.dim[1 + i])
      count *= counted(w, i, rest % all.dim[1 + i], pads ? w->pad_lo[i] : 0,
                       x->dim[2 + i] + (pads ? pad_hi[i] : 0));
    tensor_set(&t, at, count ? count : 1);
  }
  return t.data ? im_const_tensor(im, &t) : 0;
}

/* One window that sees all of x. */
static bool sees_all(const Window *w, const Type *x)
{
  for (uint32_t i = 0; i < w->spatial; i++)
    if (w->kernel[i] != x->dim[2 + i] || w->pad_lo[i] || w->pad_hi[i])
      return false;
  return true;
}

static uint32_t spatial_axes(const Type *t)
{
  return ((1u << t->rank) - 1) & ~3u;
}

Val window_average(Import *im, const OnnxNode *n, Val x)
{
  Type t = im_type(im, x);
  int64_t pad_hi[MAX_SPATIAL];
  Window w;

  if (!window_read_pool(im, n, &t, im_ints(im, n, "kernel_shape"), &w, pad_hi))
    return 0;
  if (sees_all(&w, &t))
    return im_mean(im, x, spatial_axes(&t), true);
  Val sum = im_pool(im, OP_pool_sum, im_channels_last(im, x), &w);
  Val count = count_table(im, &t, &w, im_int(im, n, "count_include_pad", 0), pad_hi);
  return im_channels_first(im, im_add2(im, OP_div, sum, count));
}

bool op_average_pool(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  return im_out(im, n, 0, im_cast_like(im, window_average(im, n, im_float_compute(im, x)), x));
}

/* ---- p-norms */

static Val raised(Import *im, Val x, double p)
{
  Val a = im_add1(im, OP_abs, x);
  return p == 1 ? a : p == 2 ? im_add2(im, OP_mul, x, x) : im_op_f(im, OP_pow, a, p);
}

static Val lowered(Import *im, Val x, double p)
{
  return p == 1 ? x : p == 2 ? im_add1(im, OP_sqrt, x) : im_op_f(im, OP_pow, x, 1 / p);
}

bool op_lp_pool(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  double p = im_opset(im, n) < 2 ? im_float(im, n, "p", 2) : (double)im_int(im, n, "p", 2);
  Type t = im_type(im, x);
  Window w;

  if (!window_read_pool(im, n, &t, im_ints(im, n, "kernel_shape"), &w, NULL))
    return false;
  Val powers = raised(im, im_float_compute(im, x), p);
  Val sum = im_channels_first(im, im_pool(im, OP_pool_sum, im_channels_last(im, powers), &w));
  return im_out(im, n, 0, im_cast_like(im, lowered(im, sum, p), x));
}

/* ---- over everything */

bool op_global_pool(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), y = im_float_compute(im, x);
  Type t = im_type(im, x);
  uint32_t axes = spatial_axes(&t);

  if (im_is(n, "GlobalMaxPool"))
    return im_out(im, n, 0, im_reduce(im, OP_reduce_max, x, axes, true));
  if (im_is(n, "GlobalAveragePool"))
    return im_out(im, n, 0, im_cast_like(im, im_mean(im, y, axes, true), x));
  double p = im_opset(im, n) < 2 ? im_float(im, n, "p", 2) : (double)im_int(im, n, "p", 2);
  y = lowered(im, im_sum(im, raised(im, y, p), axes, true), p);
  return im_out(im, n, 0, im_cast_like(im, y, x));
}

/* ---- MaxUnpool: indices are positions in the tensor whose size follows from the window; output_shape adds zeros
 * behind it. */

static bool unpooled(Import *im, const OnnxNode *n, Val x, Type *t)
{
  Window w;

  *t = im_type(im, x);
  if (!window_read(im, n, t, im_ints(im, n, "kernel_shape"), &w))
    return false;
  for (uint32_t i = 0; i < w.spatial; i++)
    t->dim[2 + i] = (t->dim[2 + i] - 1) * w.stride[i] + window_extent(&w, i) - w.pad_lo[i] - w.pad_hi[i];
  return true;
}

bool op_max_unpool(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), at = im_in(im, n, 1);
  Ints shape = im_ints_of(im, n, 2, NULL);
  int64_t lo[MAX_RANK] = {0}, hi[MAX_RANK] = {0};
  Type t;

  if (!unpooled(im, n, x, &t))
    return false;
  if (shape.given && shape.len != t.rank)
    return im_fail(im, n, "output_shape has %u entries, must have %u", shape.len, t.rank);
  Val zeros = im_flat(im, im_full(im, t.dtype, t.rank, t.dim, 0));
  Val y = im_reshape(im, im_scatter(im, zeros, im_flat(im, at), im_flat(im, x), SCATTER_NONE), t.rank, t.dim);
  for (uint32_t i = 0; shape.given && i < t.rank; i++)
    if (__builtin_sub_overflow(shape.data[i], t.dim[i], &hi[i]))
      return im_fail(im, n, "dimension %lld", (long long)shape.data[i]);
  return im_out(im, n, 0, im_pad(im, y, lo, hi, 0));
}
