/* op_norm.c - ONNX normalisations. Statistics of 16-bit floats are f32 (stash_type), and results are rounded once.
 *
 * Those of inference with known parameters come down to one multiplication and one addition: the parameters fold. */
#include "frontend/onnx/onnx_ops.h"
#include "frontend/onnx/op_formula.h"

/* ---- parts */

typedef struct {
  Val mean, variance, centred; /* the first two with dimensions of 1 along the axes */
} Moments;

static Moments moments(Import *im, Val x, uint32_t axes)
{
  Moments m = {.mean = im_mean(im, x, axes, true)};

  m.centred = sub(im, x, m.mean);
  m.variance = im_mean(im, mul(im, m.centred, m.centred), axes, true);
  return m;
}

/* 1 / sqrt(variance + epsilon) */
static Val inverse_deviation(Import *im, const OnnxNode *n, Val variance)
{
  return im_rsqrt(im, im_op_f(im, OP_add, variance, im_float(im, n, "epsilon", 1e-5)));
}

/* The type that statistics are computed in: stash_type, or that of x; never 16 bits. */
static Val stashed(Import *im, const OnnxNode *n, Val x)
{
  DType t = im_dtype_attr(im, n, "stash_type", DT_F32);
  return im_float_compute(im, im_elem(im, x) == DT_F64 ? x : im_cast(im, x, t));
}

/* Axes from `first` on. */
static uint32_t axes_from(uint32_t first, uint32_t rank)
{
  return ((1u << rank) - 1) & ~((1u << first) - 1);
}

/* An input with a number for each channel, as [1, C, 1 ..] in x's type. */
static Val per_channel(Import *im, const OnnxNode *n, uint32_t input, Val x)
{
  return im_at_channel(im, im_cast_like(im, im_in(im, n, input), x), 1, im_rank(im, x));
}

/* ---- BatchNormalization */

/* Before opset 9, spatial 0: parameters for each element of a sample. */
static Val batch_parameter(Import *im, const OnnxNode *n, uint32_t input, Val x)
{
  if (im_int(im, n, "spatial", 1))
    return per_channel(im, n, input, x);
  return im_unsqueeze(im, im_cast_like(im, im_in(im, n, input), x), 0);
}

static Val mixed(Import *im, Val old, Val now, double momentum)
{
  Val flat = im_cast_like(im, im_flat(im, now), old);
  return add(im, im_op_f(im, OP_mul, old, momentum), im_op_f(im, OP_mul, flat, 1 - momentum));
}

/* Statistics of the batch itself; the running ones are outputs. */
static bool batch_training(Import *im, const OnnxNode *n, Val x, Val y, Val scale, Val bias)
{
  Moments m = moments(im, y, ((1u << im_rank(im, y)) - 1) & ~2u);
  double momentum = im_float(im, n, "momentum", 0.9);
  Val out = add(im, mul(im, m.centred, mul(im, inverse_deviation(im, n, m.variance), scale)), bias);

  return im_out(im, n, 0, im_cast_like(im, out, x)) &&
         im_out(im, n, 1, mixed(im, im_in(im, n, 3), m.mean, momentum)) &&
         im_out(im, n, 2, mixed(im, im_in(im, n, 4), m.variance, momentum));
}

bool op_batch_normalization(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), y = im_float_compute(im, x);

  if (im_rank(im, x) < 2)
    return im_fail(im, n, "the input has no channels");
  Val scale = batch_parameter(im, n, 1, y), bias = batch_parameter(im, n, 2, y);
  if (im_int(im, n, "training_mode", 0))
    return batch_training(im, n, x, y, scale, bias);
  Val mean = batch_parameter(im, n, 3, y), variance = batch_parameter(im, n, 4, y);
  scale = mul(im, scale, inverse_deviation(im, n, variance));
  y = add(im, mul(im, y, scale), sub(im, bias, mul(im, mean, scale)));
  return im_out(im, n, 0, im_cast_like(im, y, x));
}

/* ---- over a sample's elements */

static Val normalized(Import *im, const OnnxNode *n, Val x, uint32_t axes)
{
  Moments m = moments(im, x, axes);
  return mul(im, m.centred, inverse_deviation(im, n, m.variance));
}

bool op_instance_normalization(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), y = im_float_compute(im, x);

  if (im_rank(im, x) < 2)
    return im_fail(im, n, "the input has no channels");
  y = normalized(im, n, y, axes_from(2, im_rank(im, x)));
  y = add(im, mul(im, y, per_channel(im, n, 1, y)), per_channel(im, n, 2, y));
  return im_out(im, n, 0, im_cast_like(im, y, x));
}

/* Before opset 21, scale and bias are one for each group. */
bool op_group_normalization(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), y = stashed(im, n, x), scale = im_in(im, n, 1), bias = im_in(im, n, 2);
  Type t = im_type(im, x);
  int64_t groups = im_int(im, n, "num_groups", 0), samples = t.rank ? t.dim[0] : 1, rest = 1;

  if (t.rank < 2 || groups < 1 || t.dim[1] % groups)
    return im_fail(im, n, "%lld groups of %lld channels", (long long)groups, (long long)im_dim(im, x, 1));
  int64_t share = t.dim[1] / groups;
  rest = im_span(&t, 2, t.rank);
  y = normalized(im, n, im_reshape_to(im, y, samples, groups, share, rest), 4 | 8);
  int64_t each = im_dim(im, scale, 0) == t.dim[1] ? share : 1;
  scale = im_reshape_to(im, im_cast_like(im, scale, y), groups, each, 1);
  bias = im_reshape_to(im, im_cast_like(im, bias, y), groups, each, 1);
  y = im_reshape(im, add(im, mul(im, y, scale), bias), t.rank, t.dim);
  return im_out(im, n, 0, im_cast_like(im, y, x));
}

bool op_layer_normalization(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), y = stashed(im, n, x), bias = im_opt(im, n, 2);
  uint32_t axis = im_axis_attr(im, n, "axis", -1, im_rank(im, x));
  Moments m = moments(im, y, axes_from(axis, im_rank(im, x)));
  Val inverse = inverse_deviation(im, n, m.variance);

  y = mul(im, mul(im, m.centred, inverse), im_cast_like(im, im_in(im, n, 1), y));
  if (bias)
    y = add(im, y, im_cast_like(im, bias, y));
  return im_out(im, n, 0, im_cast_like(im, y, x)) && im_out(im, n, 1, m.mean) && im_out(im, n, 2, inverse);
}

bool op_rms_normalization(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), y = stashed(im, n, x);
  uint32_t axis = im_axis_attr(im, n, "axis", -1, im_rank(im, x));
  Val mean = im_mean(im, mul(im, y, y), axes_from(axis, im_rank(im, x)), true);

  y = mul(im, mul(im, y, inverse_deviation(im, n, mean)), im_cast_like(im, im_in(im, n, 1), y));
  return im_out(im, n, 0, im_cast_like(im, y, x));
}

bool op_mean_variance_normalization(Import *im, const OnnxNode *n)
{
  static const int64_t but_channels[] = {0, 2, 3};
  Val x = im_in(im, n, 0), y = im_float_compute(im, x);
  Ints axes = im_ints(im, n, "axes");

  if (!axes.given)
    axes = (Ints){but_channels, 3, true};
  Moments m = moments(im, y, im_axes(im, n, axes, im_rank(im, x)));
  Val deviation = im_op_f(im, OP_add, im_add1(im, OP_sqrt, m.variance), 1e-9);
  return im_out(im, n, 0, im_cast_like(im, im_add2(im, OP_div, m.centred, deviation), x));
}

/* 0 where the norm is 0. */
bool op_lp_normalization(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), y = im_float_compute(im, x);
  uint32_t axes = 1u << im_axis_attr(im, n, "axis", -1, im_rank(im, x));
  bool one = im_int(im, n, "p", 2) == 1;
  Val norm = one ? im_sum(im, im_add1(im, OP_abs, y), axes, true)
                 : im_add1(im, OP_sqrt, im_sum(im, mul(im, y, y), axes, true));
  Val zero = im_const_like(im, y, 0), is_zero = im_add2(im, OP_eq, norm, zero);

  norm = im_where(im, is_zero, im_const_like(im, y, 1), norm);
  return im_out(im, n, 0, im_cast_like(im, im_where(im, is_zero, zero, im_add2(im, OP_div, y, norm)), x));
}

/* ---- LRN: sums over neighbouring channels are a pool along the channels. */

static Val power_of(Import *im, Val v, double p)
{
  return p == 1 ? v : p == 0.5 ? im_add1(im, OP_sqrt, v) : im_op_f(im, OP_pow, v, p);
}

bool op_lrn(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), y = im_float_compute(im, x);
  Type t = im_type(im, x);
  int64_t size = im_int(im, n, "size", 1);
  double alpha = im_float(im, n, "alpha", 1e-4), beta = im_float(im, n, "beta", 0.75);

  if (t.rank < 2 || size < 1 || size > INT32_MAX)
    return im_fail(im, n, "size is %lld", (long long)size);
  Window w = {.spatial = 1, .group = 1, .kernel = {size}, .stride = {1}, .dilation = {1}};
  w.pad_lo[0] = (size - 1) / 2;
  w.pad_hi[0] = size - 1 - w.pad_lo[0];
  Val squares = im_reshape_to(im, mul(im, y, y), t.dim[0], t.dim[1], im_span(&t, 2, t.rank));
  Val sum = im_reshape(im, im_pool(im, OP_pool_sum, squares, &w), t.rank, t.dim);
  Val base = im_op_f(im, OP_add, im_op_f(im, OP_mul, sum, alpha / (double)size), im_float(im, n, "bias", 1));
  return im_out(im, n, 0, im_cast_like(im, im_add2(im, OP_div, y, power_of(im, base, beta)), x));
}
