/* op_conv.c - ONNX convolutions: plain, of integers, transposed, causal with a state.
 *
 * Channels are first in ONNX and last in the core op: the transposes between cancel later (passes/channels.c). */
#include "frontend/onnx/onnx_ops.h"
#include "frontend/onnx/op_window.h"

bool op_conv(Import *im, const OnnxNode *n)
{
  return im_out(im, n, 0, window_conv_onnx(im, n, im_in(im, n, 0), im_in(im, n, 1), im_opt(im, n, 2)));
}

/* ---- ConvTranspose
 *
 * With stride s, result element u sees the weights k = u mod s, u mod s + s ..: so it is s convolutions of stride 1
 * with T = ceil(kernel / s) weights each, whose results interleave. They are one convolution with s times the output
 * channels: no multiplication with an inserted zero is done, and as channels stand last, interleaving the last
 * spatial dimension moves nothing. */

enum { GROWN_MAX = 64 }; /* how often weights may be repeated by zeros */

typedef struct {
  Window w;                  /* as ONNX means it; pads may be negative */
  int64_t out[MAX_SPATIAL];  /* sizes of the result */
  int64_t taps[MAX_SPATIAL]; /* T */
  int64_t phases;            /* product of the strides */
  int64_t outputs, share;    /* channels of the result, and of a group of it */
} Spread;

static int64_t floor_div(int64_t a, int64_t b)
{
  return a / b - (a % b < 0);
}

/* Pads that give the stated size: ONNX puts the odd one in front, but for SAME_UPPER. */
static void pads_for(Spread *s, uint32_t i, int64_t full, int64_t size, bool upper)
{
  int64_t total = full - size;

  s->w.pad_lo[i] = upper ? floor_div(total, 2) : total - floor_div(total, 2);
  s->w.pad_hi[i] = total - s->w.pad_lo[i];
}

static bool spread_sizes(Import *im, const OnnxNode *n, const Type *x, Spread *s)
{
  Ints more = im_ints(im, n, "output_padding"), shape = im_ints(im, n, "output_shape");
  const char *pad = im_str(im, n, "auto_pad", "NOTSET");
  uint32_t d = s->w.spatial;

  if ((more.given && more.len != d) || (shape.given && shape.len < d))
    return im_fail(im, n, "output_padding and output_shape must have %u entries", d);
  for (uint32_t i = 0; i < d; i++) {
    int64_t extra = more.given ? more.data[i] : 0;
    int64_t size = shape.given ? shape.data[shape.len - d + i] : x->dim[2 + i] * s->w.stride[i];
    if (extra < 0 || extra > INT32_MAX || size < 0 || size > INT32_MAX)
      return im_fail(im, n, "output_padding %lld, size %lld", (long long)extra, (long long)size);
    int64_t full = s->w.stride[i] * (x->dim[2 + i] - 1) + extra + window_extent(&s->w, i);
    if (shape.given || !strncmp(pad, "SAME", 4))
      pads_for(s, i, full, size, !strcmp(pad, "SAME_UPPER"));
    s->out[i] = full - s->w.pad_lo[i] - s->w.pad_hi[i];
    if (s->out[i] < 0 || s->out[i] > INT32_MAX)
      return im_fail(im, n, "the result has %lld elements along spatial dimension %u", (long long)s->out[i],
                     i);
  }
  return true;
}

/* A dilated kernel with a stride becomes a plain one with zeros in it. */
static Val fill_dilation(Import *im, Val w, Window *win, uint32_t i)
{
  Type t = im_type(im, w);
  int64_t before = im_span(&t, 0, 2 + i), after = im_span(&t, 3 + i, t.rank), extent = window_extent(win, i);

  if (win->dilation[i] == 1 || win->stride[i] == 1)
    return w;
  w = im_reshape_to(im, w, before, win->kernel[i], 1, after);
  w = im_pad_axis(im, w, 2, 0, win->dilation[i] - 1, 0);
  w = im_part(im, im_reshape_to(im, w, before, win->kernel[i] * win->dilation[i], after), 1, 0, extent);
  t.dim[2 + i] = win->kernel[i] = extent;
  win->dilation[i] = 1;
  return im_reshape(im, w, t.rank, t.dim);
}

/* [C, O / group, ..] -> [O, C / group, ..] */
static Val swap_channels(Import *im, Val w, int64_t group)
{
  Type t = im_type(im, w);
  int64_t inputs = t.dim[0] / group, outputs = t.dim[1], rest = im_span(&t, 2, t.rank);

  w = im_swap(im, im_reshape_to(im, w, group, inputs, outputs, rest), 1, 2);
  t.dim[0] = outputs * group;
  t.dim[1] = inputs;
  return im_reshape(im, w, t.rank, t.dim);
}

/* Where the phases of all dimensions stand among the output channels: before them; within a group, behind. */
static bool phases_first(const Spread *s)
{
  return s->w.group == 1;
}

/* Weights [O, C / group, k ..] as [phases and O, T .., C / group], flipped. */
static Val phase_weights(Import *im, Val w, const Spread *s)
{
  Type t = im_type(im, w);
  uint32_t d = s->w.spatial, rank = 2, phase_at[MAX_SPATIAL], tap_at[MAX_SPATIAL], k = 0;
  int64_t dim[2 + 2 * MAX_SPATIAL] = {t.dim[0], t.dim[1]}, hi[MAX_RANK] = {0}, lo[MAX_RANK] = {0};
  uint8_t perm[MAX_RANK];

  for (uint32_t i = 0; i < d; i++) {
    hi[2 + i] = s->taps[i] * s->w.stride[i] - s->w.kernel[i];
    dim[tap_at[i] = rank++] = s->taps[i];
    dim[phase_at[i] = rank++] = s->w.stride[i];
  }
  w = im_reshape(im, im_pad(im, w, lo, hi, 0), rank, dim);
  for (uint32_t i = 0; i < d; i++)
    w = im_flip(im, w, tap_at[i]);
  if (!phases_first(s))
    perm[k++] = 0;
  for (uint32_t i = 0; i < d; i++)
    perm[k++] = (uint8_t)phase_at[i];
  if (phases_first(s))
    perm[k++] = 0;
  for (uint32_t i = 0; i < d; i++)
    perm[k++] = (uint8_t)tap_at[i];
  perm[k] = 1;
  w = im_transpose(im, w, perm);
  t.dim[0] *= s->phases;
  for (uint32_t i = 0; i < d; i++)
    t.dim[1 + i] = s->taps[i];
  t.dim[1 + d] = dim[1];
  return im_reshape(im, w, t.rank, t.dim);
}

static Val phase_bias(Import *im, Val bias, const Spread *s)
{
  int64_t first[2] = {s->phases, s->outputs}, last[2] = {s->outputs, s->phases};

  if (!bias || s->phases == 1)
    return bias;
  if (phases_first(s))
    return im_flat(im, im_expand(im, im_reshape_to(im, bias, 1, s->outputs), 2, first));
  return im_flat(im, im_expand(im, im_reshape_to(im, bias, s->outputs, 1), 2, last));
}

/* [N, q .., phases and O] -> [N, q * s .., O] */
static Val interleave(Import *im, Val y, const Spread *s)
{
  Type t = im_type(im, y);
  uint32_t d = s->w.spatial, rank = 1 + d, phase_at[MAX_SPATIAL] = {0}, channel_at, k = 0;
  int64_t dim[2 + 2 * MAX_SPATIAL];
  uint8_t perm[MAX_RANK];

  if (s->phases == 1)
    return y;
  memcpy(dim, t.dim, rank * sizeof *dim);
  channel_at = phases_first(s) ? rank + d : rank++;
  for (uint32_t i = 0; i < d; i++)
    dim[phase_at[i] = rank++] = s->w.stride[i];
  dim[channel_at] = s->outputs;
  rank += phases_first(s);
  perm[k++] = 0;
  for (uint32_t i = 0; i < d; i++) {
    perm[k++] = (uint8_t)(1 + i);
    perm[k++] = (uint8_t)phase_at[i];
    t.dim[1 + i] *= s->w.stride[i];
  }
  perm[k] = (uint8_t)channel_at;
  t.dim[1 + d] = s->outputs;
  y = im_transpose(im, im_reshape(im, y, rank, dim), perm);
  return im_reshape(im, y, t.rank, t.dim);
}

/* All places q that hold wanted elements; then those elements. */
static Val spread_conv(Import *im, Val x, Val weights, Val bias, const Spread *s)
{
  Window w = {.spatial = s->w.spatial, .group = s->w.group};
  int64_t first[MAX_SPATIAL];

  for (uint32_t i = 0; i < w.spatial; i++) {
    int64_t stride = s->w.stride[i], pad = s->w.pad_lo[i], in = im_dim(im, x, 1 + i);
    w.kernel[i] = s->taps[i];
    w.stride[i] = 1;
    w.dilation[i] = s->w.dilation[i];
    int64_t reach = w.dilation[i] * (w.kernel[i] - 1), end = -floor_div(-(pad + s->out[i]), stride);
    first[i] = floor_div(pad, stride);
    w.pad_lo[i] = reach - first[i];
    w.pad_hi[i] = end - in;
    first[i] = pad - first[i] * stride;
  }
  Val y = interleave(im, window_conv(im, x, weights, bias, w), s);
  for (uint32_t i = 0; i < w.spatial; i++)
    y = im_part(im, y, 1 + i, first[i], s->out[i]);
  return y;
}

/* Builders fold what does not grow; these weights should be constant even so. */
static Val settled(Import *im, const OnnxNode *n, Val v, bool constant)
{
  Tensor t;

  if (!constant || im_is_constant(im, v) || !im_need_constant(im, n, v, "W", &t))
    return v;
  return im_const_tensor(im, &t);
}

bool op_conv_transpose(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), w = im_in(im, n, 1), bias = im_opt(im, n, 2);
  Type tx = im_type(im, x), tw = im_type(im, w);
  int64_t group = im_int(im, n, "group", 1);
  bool constant = im_is_constant(im, w);
  Spread s = {.phases = 1};

  if (!window_read(im, n, &tx, window_kernel_of(im, n, w), &s.w) || !spread_sizes(im, n, &tx, &s))
    return false;
  if (group < 1 || tw.dim[0] % group || tw.dim[0] != tx.dim[1])
    return im_fail(im, n, "%lld channels, weights for %lld, group %lld", (long long)tx.dim[1],
                   (long long)tw.dim[0], (long long)group);
  s.w.group = group;
  s.outputs = group * tw.dim[1];
  double grown = 1;
  for (uint32_t i = 0; i < s.w.spatial; i++) {
    s.taps[i] = (window_extent(&s.w, i) + s.w.stride[i] - 1) / s.w.stride[i];
    if (s.w.stride[i] == 1)
      s.taps[i] = s.w.kernel[i];
    grown *= (double)(s.taps[i] * s.w.stride[i]) / (double)s.w.kernel[i];
    s.phases *= s.w.stride[i];
    if (grown > GROWN_MAX)
      return im_fail(im, n, "strides and dilations make its weights %g times as many", grown);
  }
  for (uint32_t i = 0; i < s.w.spatial; i++)
    w = fill_dilation(im, w, &s.w, i);
  w = settled(im, n, phase_weights(im, swap_channels(im, w, group), &s), constant);
  Val y = spread_conv(im, im_channels_last(im, x), w, phase_bias(im, bias, &s), &s);
  return im_out(im, n, 0, im_channels_first(im, y));
}

/* ---- ConvInteger */

/* A zero point as i32; for weights, one for each output channel stands before the others. */
static Val without_zero(Import *im, const OnnxNode *n, Val x, uint32_t input)
{
  Val zero = im_opt(im, n, input), wide = im_cast(im, x, DT_I32);

  if (!zero)
    return wide;
  zero = im_cast(im, zero, DT_I32);
  if (im_rank(im, zero) == 1)
    zero =
        im_dim(im, zero, 0) == 1 ? im_reshape(im, zero, 0, NULL) : im_at_channel(im, zero, 0, im_rank(im, x));
  return im_add2(im, OP_sub, wide, zero);
}

bool op_conv_integer(Import *im, const OnnxNode *n)
{
  Val x = without_zero(im, n, im_in(im, n, 0), 2), w = without_zero(im, n, im_in(im, n, 1), 3);
  return im_out(im, n, 0, window_conv_onnx(im, n, x, w, 0));
}

/* ---- CausalConvWithState: each channel on its own; the state is what stands before the input. */

bool op_causal_conv_with_state(Import *im, const OnnxNode *n)
{
  Val first = im_in(im, n, 0), x = first, w = im_in(im, n, 1), bias = im_opt(im, n, 2),
      past = im_opt(im, n, 3);
  const char *act = im_str(im, n, "activation", "none");
  int64_t before = im_dim(im, w, 2) - 1;

  if (im_rank(im, x) != 3 || im_rank(im, w) != 3 || before < 0)
    return im_fail(im, n, "input and weight must have three dimensions");
  x = past ? im_concat(im, (Val[]){past, x}, 2, 2) : im_pad_axis(im, x, 2, before, 0, 0);
  Window win = {
      .spatial = 1, .group = im_dim(im, x, 1), .kernel = {before + 1}, .stride = {1}, .dilation = {1}};
  Val y = im_conv(im, im_channels_last(im, x), im_channels_last(im, w), bias, &win);
  y = im_channels_first(im, y);
  if (strcmp(act, "none"))
    y = im_add1(im, OP_silu, im_float_compute(im, y));
  return im_out(im, n, 0, im_cast_like(im, y, first)) &&
         im_out(im, n, 1, im_part(im, x, 2, im_dim(im, x, 2) - before, before));
}
