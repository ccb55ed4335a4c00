/* op_window.c - see op_window.h. */
#include "frontend/onnx/op_window.h"

#include <math.h>

enum { WINDOW_MAX = 1 << 24 }; /* a kernel, stride, dilation or pad: products of two fit by far */

/* One number for each dimension out of an attribute; `otherwise` where it is not given. */
static bool take(Import *im, const OnnxNode *n, const char *name, Ints x, uint32_t count, int64_t lowest,
                 int64_t otherwise, int64_t *out)
{
  if (x.given && x.len != count)
    return im_fail(im, n, "%s has %u entries, must have %u", name, x.len, count);
  for (uint32_t i = 0; i < count; i++) {
    out[i] = x.given ? x.data[i] : otherwise;
    if (out[i] < lowest || out[i] > WINDOW_MAX)
      return im_fail(im, n, "%s[%u] is %lld, %lld to %d are possible", name, i, (long long)out[i],
                     (long long)lowest, WINDOW_MAX);
  }
  return im_ok(im);
}

int64_t window_extent(const Window *w, uint32_t i)
{
  return w->dilation[i] * (w->kernel[i] - 1) + 1;
}

int64_t window_places(const Window *w, uint32_t i, int64_t in)
{
  int64_t room = in + w->pad_lo[i] + w->pad_hi[i] - window_extent(w, i);
  return room < 0 ? 0 : room / w->stride[i] + 1;
}

Ints window_kernel_of(Import *im, const OnnxNode *n, Val weights)
{
  Ints given = im_ints(im, n, "kernel_shape");
  Type t = im_type(im, weights);
  uint32_t count = t.rank > 2 ? t.rank - 2 : 0;
  int64_t *k = NEW_ARRAY(im->arena, int64_t, count);

  for (uint32_t i = 0; i < count; i++) {
    k[i] = t.dim[2 + i];
    if (given.given && (given.len != count || given.data[i] != k[i]))
      im_fail(im, n, "kernel_shape is not that of the weights");
  }
  return (Ints){k, count, true};
}

/* auto_pad: places are the input's size over the stride, and what that takes stands around it. */
static bool same_pads(Window *w, const Type *x, bool upper)
{
  for (uint32_t i = 0; i < w->spatial; i++) {
    int64_t in = x->dim[2 + i], places = (in + w->stride[i] - 1) / w->stride[i];
    int64_t total = max64(0, (places - 1) * w->stride[i] + window_extent(w, i) - in);
    w->pad_lo[i] = upper ? total / 2 : total - total / 2;
    w->pad_hi[i] = total - w->pad_lo[i];
  }
  return true;
}

static bool read_pads(Import *im, const OnnxNode *n, Window *w, const Type *x)
{
  const char *how = im_str(im, n, "auto_pad", "NOTSET");
  int64_t pads[2 * MAX_SPATIAL];

  if (!strcmp(how, "SAME_UPPER") || !strcmp(how, "SAME_LOWER"))
    return same_pads(w, x, how[5] == 'U');
  if (!strcmp(how, "VALID"))
    return true;
  if (strcmp(how, "NOTSET") && how[0])
    return im_fail(im, n, "auto_pad '%s' is not known", how);
  if (!take(im, n, "pads", im_ints(im, n, "pads"), 2 * w->spatial, -WINDOW_MAX, 0, pads))
    return false;
  memcpy(w->pad_lo, pads, w->spatial * sizeof *pads);
  memcpy(w->pad_hi, pads + w->spatial, w->spatial * sizeof *pads);
  return true;
}

bool window_read(Import *im, const OnnxNode *n, const Type *x, Ints kernel, Window *w)
{
  Type t = *x;
  uint32_t d = t.rank > 2 ? t.rank - 2 : 0;

  *w = (Window){.spatial = d, .group = 1};
  if (!im_ok(im))
    return false;
  if (d < 1 || d > MAX_SPATIAL)
    return im_fail(im, n, "the input has %u spatial dimensions, 1 to %d are supported", d, MAX_SPATIAL);
  for (uint32_t i = 0; i < d; i++)
    if (t.dim[2 + i] > INT32_MAX)
      return im_fail(im, n, "dimension %u is %lld", 2 + i, (long long)t.dim[2 + i]);
  if (!kernel.given)
    return im_fail(im, n, "kernel_shape is missing");
  return take(im, n, "kernel_shape", kernel, d, 1, 1, w->kernel) &&
         take(im, n, "strides", im_ints(im, n, "strides"), d, 1, 1, w->stride) &&
         take(im, n, "dilations", im_ints(im, n, "dilations"), d, 1, 1, w->dilation) &&
         read_pads(im, n, w, &t);
}

bool window_read_pool(Import *im, const OnnxNode *n, const Type *x, Ints kernel, Window *w, int64_t *pad_hi)
{

  if (!window_read(im, n, x, kernel, w))
    return false;
  for (uint32_t i = 0; i < w->spatial; i++) {
    int64_t in = x->dim[2 + i], reach = in + w->pad_lo[i], room = reach + w->pad_hi[i] - window_extent(w, i);
    if (pad_hi)
      pad_hi[i] = w->pad_hi[i];
    if (!im_int(im, n, "ceil_mode", 0) || room < 0)
      continue;
    int64_t places = (room + w->stride[i] - 1) / w->stride[i] + 1;
    places -= (places - 1) * w->stride[i] >= reach;
    w->pad_hi[i] = max64(w->pad_hi[i], (places - 1) * w->stride[i] + window_extent(w, i) - in - w->pad_lo[i]);
  }
  return true;
}

/* ---- tables */

enum { SEEN_MAX = 1 << 24 };

bool window_grid(Import *im, const OnnxNode *n, const Window *w, const Type *x, WindowGrid *g)
{
  double all = 1;

  *g = (WindowGrid){.w = *w, .places = 1, .count = 1};
  for (uint32_t i = 0; i < w->spatial; i++) {
    g->in[i] = x->dim[2 + i];
    g->out[i] = window_places(w, i, g->in[i]);
    all *= fmax(1, (double)g->out[i]) * (double)w->kernel[i];
    if (all > SEEN_MAX)
      return im_fail(im, n, "its windows see more than %d elements", SEEN_MAX);
    g->places *= g->out[i];
    g->count *= w->kernel[i];
  }
  return true;
}

void window_seen(const WindowGrid *g, int64_t p, int64_t k, int64_t *at)
{
  for (uint32_t i = g->w.spatial; i-- > 0; p /= g->out[i], k /= g->w.kernel[i])
    at[i] = p % g->out[i] * g->w.stride[i] + k % g->w.kernel[i] * g->w.dilation[i] - g->w.pad_lo[i];
}

/* The element's number in one channel, rows first, or columns first; -1: outside of x. */
static int64_t position(const WindowGrid *g, const int64_t *at, bool columns)
{
  int64_t p = 0;

  for (uint32_t i = 0; i < g->w.spatial; i++) {
    uint32_t d = columns ? g->w.spatial - 1 - i : i;
    if (at[d] < 0 || at[d] >= g->in[d])
      return -1;
    p = p * g->in[d] + at[d];
  }
  return p;
}

Val window_table(Import *im, const WindowGrid *g, bool columns)
{
  Tensor t = im_tensor_new(im, type_of(DT_I64, 2, (int64_t[]){g->places, g->count}));
  int64_t at[MAX_SPATIAL];

  for (int64_t i = 0; t.data && i < g->places * g->count; i++) {
    window_seen(g, i / g->count, i % g->count, at);
    tensor_set_int(&t, i, position(g, at, columns));
  }
  return t.data ? im_const_tensor(im, &t) : 0;
}

/* ---- convolutions */

/* Negative pads cut x; the window keeps the others. */
static Val cut_pads(Import *im, Val x, Window *w)
{
  int64_t lo[MAX_RANK] = {0}, hi[MAX_RANK] = {0};

  for (uint32_t i = 0; i < w->spatial; i++) {
    lo[1 + i] = min64(0, w->pad_lo[i]);
    hi[1 + i] = min64(0, w->pad_hi[i]);
    w->pad_lo[i] = max64(0, w->pad_lo[i]);
    w->pad_hi[i] = max64(0, w->pad_hi[i]);
  }
  return im_pad(im, x, lo, hi, 0);
}

Val window_conv(Import *im, Val x, Val weights, Val bias, Window w)
{
  x = cut_pads(im, x, &w);
  return im_conv(im, x, weights, bias, &w);
}

Val window_conv_onnx(Import *im, const OnnxNode *n, Val x, Val weights, Val bias)
{
  Type t = im_type(im, x);
  Window w;

  if (!window_read(im, n, &t, window_kernel_of(im, n, weights), &w))
    return 0;
  w.group = im_int(im, n, "group", 1);
  Val y = window_conv(im, im_channels_last(im, x), im_channels_last(im, weights), bias, w);
  return im_channels_first(im, y);
}
