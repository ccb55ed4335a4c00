/* op_sample.c - ONNX operators that read a map at places that the input says: GridSample, RoiAlign, DeformConv; and
 * what belongs to them: AffineGrid, Col2Im.
 *
 * Maps are rows [places, C], channels last: a sample is a sum of gathered rows with weights. Each spatial dimension has
 * its taps (an index and a weight); a row's number and weight combine one tap of each. */
#include "frontend/onnx/op_product.h"
#include "frontend/onnx/op_window.h"
#include "frontend/onnx/onnx_ops.h"
#include "frontend/onnx/op_formula.h"

#include <math.h>

enum { TAPS_MAX = 4 };

static Val at_least(Import *im, Val a, double b)
{
  return im_ge(im, a, im_const_like(im, a, b));
}
static Val at_most(Import *im, Val a, double b)
{
  return im_add2(im, OP_le, a, im_const_like(im, a, b));
}
static Val both(Import *im, Val a, Val b)
{
  return im_add2(im, OP_and, a, b);
}

/* ---- taps */

typedef struct {
  uint32_t n;
  Val index[TAPS_MAX];  /* whole numbers as floats, inside */
  Val weight[TAPS_MAX]; /* 0: it is 1 */
} Taps;

typedef struct {
  Val rows;      /* [batch * size, C] */
  int64_t batch; /* the first dimension of indices */
  uint32_t dims;
  int64_t dim[MAX_SPATIAL];
} Rows;

/* [N, C, ..] as rows. */
static Rows rows_of(Import *im, Val x)
{
  Type t = im_type(im, x);
  Rows r = {.batch = t.dim[0], .dims = t.rank - 2};

  memcpy(r.dim, t.dim + 2, r.dims * sizeof *r.dim);
  r.rows = im_reshape_to(im, im_channels_last(im, x), t.dim[0] * im_span(&t, 2, t.rank), t.dim[1]);
  return r;
}

/* Row numbers (i64) for one tap of each dimension; the first dimension of an index counts the batch. */
static Val row_numbers(Import *im, const Rows *r, const Taps *taps, const uint32_t *which)
{
  Val at = 0;
  int64_t size = 1;

  for (uint32_t i = 0; i < r->dims; i++) {
    Val index = im_cast(im, taps[i].index[which[i]], DT_I64);
    at = at ? add(im, times(im, at, (double)r->dim[i]), index) : index;
    size *= r->dim[i];
  }
  Val batch = times(im, im_iota(im, DT_I64, r->batch), (double)size);
  return add(im, at, im_at_channel(im, batch, 0, im_rank(im, at)));
}

static Val weight_of(Import *im, const Rows *r, const Taps *taps, const uint32_t *which)
{
  Val w = 0;

  for (uint32_t i = 0; i < r->dims; i++) {
    Val one = taps[i].weight[which[i]];
    w = !one ? w : w ? mul(im, w, one) : one;
  }
  return w;
}

static bool next_choice(const Rows *r, const Taps *taps, uint32_t *which)
{
  for (uint32_t i = r->dims; i-- > 0;) {
    if (++which[i] < taps[i].n)
      return true;
    which[i] = 0;
  }
  return false;
}

/* [places .., C]: the sum (or the maximum) of the weighted rows. */
static Val sample(Import *im, const Rows *r, const Taps *taps, Op combine)
{
  uint32_t which[MAX_SPATIAL] = {0};
  Val all = 0;

  do {
    Val at = row_numbers(im, r, taps, which), w = weight_of(im, r, taps, which);
    Val rows = im_gather(im, r->rows, at, 0);
    if (w)
      rows = mul(im, rows, im_unsqueeze(im, w, im_rank(im, w)));
    all = all ? im_add2(im, combine, all, rows) : rows;
  } while (next_choice(r, taps, which) && im_ok(im));
  return all;
}

/* ---- GridSample */

typedef enum { PAD_ZEROS, PAD_BORDER, PAD_REFLECTION } Padding;

typedef struct {
  Padding padding;
  bool corners;
  char mode; /* n, l, c */
} GridStyle;

static Val clamp(Import *im, Val x, int64_t size)
{
  return im_clip(im, x, 0, (double)(size - 1));
}

/* Places outside of [lo, hi] are mirrored at the ends until they are inside. */
static Val reflect(Import *im, Val x, double lo, double hi)
{
  double span = hi - lo;

  if (span <= 0)
    return times(im, x, 0);
  Val d = im_add1(im, OP_abs, plus(im, x, -lo)), turns = im_add1(im, OP_floor, times(im, d, 1 / span));
  Val rest = sub(im, d, times(im, turns, span));
  Val odd = im_gt(im, im_op_f(im, OP_fmod, turns, 2), im_const_like(im, x, 0.5));
  return im_where(im, odd, sub(im, im_const_like(im, x, hi), rest), plus(im, rest, lo));
}

static Val reflect_place(Import *im, const GridStyle *s, Val x, int64_t size)
{
  return s->corners ? reflect(im, x, 0, (double)(size - 1)) : reflect(im, x, -0.5, (double)size - 0.5);
}

/* -1 .. 1 as places of elements. */
static Val place_of(Import *im, const GridStyle *s, Val g, int64_t size)
{
  g = plus(im, g, 1);
  return s->corners ? times(im, g, (double)(size - 1) / 2) : plus(im, times(im, g, (double)size / 2), -0.5);
}

/* The index of one tap, inside, and its weight. */
static void put_tap(Import *im, const GridStyle *s, Taps *t, Val at, Val weight, int64_t size)
{
  Val inside = both(im, at_least(im, at, 0), at_most(im, at, (double)(size - 1)));

  if (s->padding == PAD_REFLECTION)
    at = im_where(im, inside, at, im_add1(im, OP_trunc, reflect_place(im, s, at, size)));
  if (s->padding == PAD_ZEROS) {
    Val zero = im_const_like(im, at, 0);
    weight = im_where(im, inside, weight ? weight : im_const_like(im, at, 1), zero);
  }
  t->index[t->n] = clamp(im, at, size);
  t->weight[t->n++] = weight;
}

/* Keys' kernel with a = -0.75 at a distance in 0 .. 1, or (far) in 1 .. 2. */
static Val cubic(Import *im, Val d, bool far)
{
  const double a = -0.75;
  Val x;

  if (far) {
    x = plus(im, times(im, d, a), -5 * a);
    return plus(im, mul(im, plus(im, mul(im, x, d), 8 * a), d), -4 * a);
  }
  x = mul(im, plus(im, times(im, d, a + 2), -(a + 3)), d);
  return plus(im, mul(im, x, d), 1);
}

static Taps grid_taps(Import *im, const GridStyle *s, Val x, int64_t size)
{
  Taps t = {0};

  if (s->mode == 'n')
    x = im_add1(im, OP_round, x);
  if (s->padding == PAD_BORDER && s->mode != 'c')
    x = clamp(im, x, size);
  if (s->padding == PAD_REFLECTION)
    x = reflect_place(im, s, x, size);
  if (s->mode == 'n') {
    put_tap(im, s, &t, im_add1(im, OP_trunc, x), 0, size);
    return t;
  }
  Val low = im_add1(im, OP_floor, x), part = sub(im, x, low),
      rest = sub(im, im_const_like(im, part, 1), part);
  if (s->mode == 'l') {
    put_tap(im, s, &t, low, rest, size);
    put_tap(im, s, &t, plus(im, low, 1), part, size);
    return t;
  }
  put_tap(im, s, &t, plus(im, low, -1), cubic(im, plus(im, part, 1), true), size);
  put_tap(im, s, &t, low, cubic(im, part, false), size);
  put_tap(im, s, &t, plus(im, low, 1), cubic(im, rest, false), size);
  put_tap(im, s, &t, plus(im, low, 2), cubic(im, plus(im, rest, 1), true), size);
  return t;
}

static bool read_grid_style(Import *im, const OnnxNode *n, GridStyle *s)
{
  static const char *const paddings[] = {"zeros", "border", "reflection"};
  const char *mode = im_str(im, n, "mode", "linear"), *padding = im_str(im, n, "padding_mode", "zeros");
  uint32_t p = 0;

  while (p < COUNT(paddings) && strcmp(padding, paddings[p]))
    p++;
  *s = (GridStyle){.padding = (Padding)p, .corners = im_int(im, n, "align_corners", 0)};
  s->mode = !strncmp(mode, "bi", 2) ? mode[2] : mode[0];
  if (p == COUNT(paddings) || !s->mode || !strchr("nlc", s->mode))
    return im_fail(im, n, "mode '%s' with padding_mode '%s' is not known", mode, padding);
  return true;
}

/* The grid's last dimension counts from the innermost one. */
bool op_grid_sample(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), grid = im_in(im, n, 1), y = im_float_compute(im, x);
  Type t = im_type(im, x), tg = im_type(im, grid);
  uint32_t dims = t.rank > 2 ? t.rank - 2 : 0;
  Taps taps[MAX_SPATIAL];
  GridStyle s;

  if (!im_ok(im) || dims < 1 || dims > MAX_SPATIAL || tg.rank != t.rank || im_dim(im, grid, -1) != dims)
    return im_fail(im, n, "a grid of %u dimensions for an input of %u", tg.rank, t.rank);
  if (!read_grid_style(im, n, &s))
    return false;
  for (uint32_t i = 0; i < dims; i++) {
    Val g = im_squeeze(im, im_part(im, grid, tg.rank - 1, dims - 1 - i, 1), tg.rank - 1);
    taps[i] = grid_taps(im, &s, place_of(im, &s, im_cast_like(im, g, y), t.dim[2 + i]), t.dim[2 + i]);
  }
  Rows r = rows_of(im, y);
  y = im_channels_first(im, sample(im, &r, taps, OP_add));
  return im_out(im, n, 0, im_cast_like(im, y, x));
}

/* ---- AffineGrid */

static double grid_coordinate(int64_t i, int64_t size, bool corners)
{
  if (corners)
    return size > 1 ? -1 + 2.0 * (double)i / (double)(size - 1) : -1;
  return -1 + (2.0 * (double)i + 1) / (double)size;
}

/* [places, dims + 1]: coordinates, the innermost first, and 1. */
static Val base_grid(Import *im, DType dt, const int64_t *size, uint32_t dims, bool corners)
{
  int64_t places = 1;

  for (uint32_t i = 0; i < dims; i++)
    if (size[i] < 1 || size[i] > INT32_MAX || __builtin_mul_overflow(places, size[i], &places))
      return im_fail(im, im->node, "size %lld", (long long)size[i]), 0;
  Tensor t = im_tensor_new(im, type_of(dt, 2, (int64_t[]){places, dims + 1}));
  for (int64_t p = 0; t.data && p < places; p++) {
    int64_t rest = p;
    for (uint32_t i = dims; i-- > 0; rest /= size[i])
      tensor_set(&t, p * (dims + 1) + dims - 1 - i, grid_coordinate(rest % size[i], size[i], corners));
    tensor_set(&t, p * (dims + 1) + dims, 1);
  }
  return t.data ? im_const_tensor(im, &t) : 0;
}

bool op_affine_grid(Import *im, const OnnxNode *n)
{
  Val theta = im_in(im, n, 0), wide = im_float_compute(im, theta);
  Ints size = im_need_ints(im, n, im_in(im, n, 1), "size");
  uint32_t dims = size.len > 2 ? size.len - 2 : 0;
  int64_t out[MAX_RANK];

  if (!im_ok(im) || dims < 2 || dims > 3 || im_rank(im, theta) != 3 || im_dim(im, theta, 1) != dims ||
      im_dim(im, theta, 2) != dims + 1)
    return im_fail(im, n, "a size of %u numbers does not fit theta", size.len);
  Val base = base_grid(im, im_elem(im, wide), size.data + 2, dims, im_int(im, n, "align_corners", 0));
  Val grid = im_matmul(im, base, im_swap(im, wide, 1, 2));
  out[0] = im_dim(im, theta, 0);
  memcpy(out + 1, size.data + 2, dims * sizeof *out);
  out[1 + dims] = dims;
  return im_out(im, n, 0, im_cast_like(im, im_reshape(im, grid, dims + 2, out), theta));
}

/* ---- RoiAlign */

typedef struct {
  Import *im;
  const OnnxNode *n;
  Rows map;         /* batch 1: row numbers hold the image's */
  int64_t out[2];   /* bins: height, width */
  Val rois, images; /* [R, 4], [R] i64 */
  double scale, offset;
  bool max;
} Rois;

typedef struct {
  Val start, bin; /* [R, 1] */
} Side;

/* Of height (axis 0) or width (1) of the regions. */
static Side side_of(const Rois *r, Val rois, int axis)
{
  Import *im = r->im;
  Val from = plus(im, times(im, im_part(im, rois, 1, 1 - axis, 1), r->scale), -r->offset);
  Val to = plus(im, times(im, im_part(im, rois, 1, 3 - axis, 1), r->scale), -r->offset);
  Val size = sub(im, to, from);

  if (r->offset == 0)
    size = im_op_f(im, OP_max, size, 1);
  return (Side){from, im_op_f(im, OP_div, size, (double)r->out[axis])};
}

/* [R, bins * samples] coordinates, as two taps whose weights are 0 far outside. */
static Taps roi_taps(const Rois *r, Side s, int axis, int64_t samples)
{
  Import *im = r->im;
  int64_t size = r->map.dim[axis], count = r->out[axis] * samples;
  Taps t = {.n = 2};

  if (count > 1 << 20)
    return im_fail(im, r->n, "%lld samples along a side of a region", (long long)count), t;
  double *part = NEW_ARRAY(im->arena, double, (size_t)count);
  for (int64_t i = 0; i < count; i++)
    part[i] = (double)(i / samples) + ((double)(i % samples) + 0.5) / (double)samples;
  Val at = mul(im, s.bin, im_const_floats(im, im_elem(im, s.bin), part, 2, (int64_t[]){1, count}));
  at = add(im, at, s.start);
  Val known = im_cast_like(im, both(im, at_least(im, at, -1), at_most(im, at, (double)size)), at);
  at = clamp(im, at, size);
  t.index[0] = im_add1(im, OP_floor, at);
  t.index[1] = im_op_f(im, OP_min, plus(im, t.index[0], 1), (double)(size - 1));
  Val rest = sub(im, at, t.index[0]);
  t.weight[0] = mul(im, known, sub(im, im_const_like(im, rest, 1), rest));
  t.weight[1] = mul(im, known, rest);
  return t;
}

/* Regions from `first` on, `count` of them, each bin seen by h x w samples. */
static Val align(const Rois *r, int64_t first, int64_t count, int64_t h, int64_t w)
{
  Import *im = r->im;
  Val rois = im_part(im, r->rois, 0, first, count), images = im_part(im, r->images, 0, first, count);
  Taps taps[2] = {roi_taps(r, side_of(r, rois, 0), 0, h), roi_taps(r, side_of(r, rois, 1), 1, w)};
  Val image = im_reshape_to(im, times(im, images, (double)r->map.dim[0]), count, 1, 1);

  for (uint32_t k = 0; k < 2; k++) {
    taps[0].index[k] = add(im, im_unsqueeze(im, im_cast(im, taps[0].index[k], DT_I64), 2), image);
    taps[0].weight[k] = im_unsqueeze(im, taps[0].weight[k], 2);
    taps[1].index[k] = im_unsqueeze(im, taps[1].index[k], 1);
    taps[1].weight[k] = im_unsqueeze(im, taps[1].weight[k], 1);
  }
  Val y = sample(im, &r->map, taps, r->max ? OP_max : OP_add);
  y = im_reshape_to(im, y, count, r->out[0], h, r->out[1], w, im_dim(im, y, -1));
  y = r->max ? im_reduce(im, OP_reduce_max, y, 4 | 16, false) : im_mean(im, y, 4 | 16, false);
  return im_channels_first(im, y);
}

/* Without sampling_ratio each region has its own number of samples: they must be known. */
static Val align_adaptive(const Rois *r)
{
  Import *im = r->im;
  int64_t count = im_dim(im, r->rois, 0);
  Val sides[2] = {side_of(r, r->rois, 0).bin, side_of(r, r->rois, 1).bin};
  Floats h = im_need_floats(im, r->n, sides[0], "rois"), w = im_need_floats(im, r->n, sides[1], "rois");
  Val *each = NEW_ARRAY(im->arena, Val, (size_t)count);

  for (int64_t i = 0; i < count && im_ok(im); i++) {
    double size[2] = {ceil(h.data[i]), ceil(w.data[i])};
    if (!(size[0] >= 1 && size[1] >= 1 && size[0] * size[1] <= 1 << 20)) {
      im_fail(im, r->n, "region %lld has %g x %g samples in a bin", (long long)i, size[0], size[1]);
      return 0;
    }
    each[i] = align(r, i, 1, (int64_t)size[0], (int64_t)size[1]);
  }
  return im_ok(im) ? im_concat(im, each, (uint32_t)count, 0) : 0;
}

bool op_roi_align(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), wide = im_float_compute(im, x), rois = im_in(im, n, 1);
  int64_t ratio = im_int(im, n, "sampling_ratio", 0);
  const char *place = im_str(im, n, "coordinate_transformation_mode",
                             im_opset(im, n) < 16 ? "output_half_pixel" : "half_pixel");

  if (im_rank(im, x) != 4 || im_rank(im, rois) != 2 || im_dim(im, rois, 1) != 4 || im_dim(im, rois, 0) < 1)
    return im_fail(im, n, "the input must be images, and rois boxes of four numbers");
  Rois r = {.im = im,
            .n = n,
            .map = rows_of(im, wide),
            .out = {im_int(im, n, "output_height", 1), im_int(im, n, "output_width", 1)},
            .rois = im_cast_like(im, rois, wide),
            .images = im_cast(im, im_in(im, n, 2), DT_I64),
            .scale = im_float(im, n, "spatial_scale", 1),
            .offset = strcmp(place, "half_pixel") ? 0 : 0.5,
            .max = !strcmp(im_str(im, n, "mode", "avg"), "max")};
  r.map.batch = 1;
  if (r.out[0] < 1 || r.out[1] < 1 || r.out[0] > INT16_MAX || r.out[1] > INT16_MAX || ratio < 0 ||
      ratio > 1 << 10)
    return im_fail(im, n, "%lld x %lld bins of %lld samples", (long long)r.out[0], (long long)r.out[1],
                   (long long)ratio);
  Val y = ratio ? align(&r, 0, im_dim(im, rois, 0), ratio, ratio) : align_adaptive(&r);
  return im_out(im, n, 0, im_cast_like(im, y, x));
}

/* ---- DeformConv */

typedef struct {
  Window w;
  WindowGrid g;
  int64_t samples, groups, offset_groups, channels, outputs;
} Deform;

/* Places that dimension i of the kernel sees without offsets: [kernel elements, places]. */
static Val plain_places(Import *im, DType dt, const WindowGrid *g, uint32_t i)
{
  Tensor t = im_tensor_new(im, type_of(dt, 2, (int64_t[]){g->count, g->places}));
  int64_t at[MAX_SPATIAL];

  for (int64_t k = 0; t.data && k < g->count * g->places; k++) {
    window_seen(g, k % g->places, k / g->places, at);
    tensor_set(&t, k, at[i]);
  }
  return t.data ? im_const_tensor(im, &t) : 0;
}

/* [samples * offset groups, kernel elements * places, channels of an offset group] */
static Val deformed(Import *im, Val x, Val offset, const Deform *d)
{
  static const GridStyle style = {.padding = PAD_ZEROS, .mode = 'l'};
  int64_t batch = d->samples * d->offset_groups, share = d->channels / d->offset_groups;
  uint32_t dims = d->w.spatial;
  Type t = im_type(im, x);
  Taps taps[MAX_SPATIAL];

  t.dim[0] = batch;
  t.dim[1] = share;
  Rows r = rows_of(im, im_reshape(im, x, t.rank, t.dim));
  offset = im_reshape_to(im, offset, batch, d->g.count, dims, d->g.places);
  for (uint32_t i = 0; i < dims; i++) {
    Val at = im_squeeze(im, im_part(im, offset, 2, i, 1), 2);
    at = add(im, at, plain_places(im, im_elem(im, at), &d->g, i));
    taps[i] = grid_taps(im, &style, im_reshape_to(im, at, batch, d->g.count * d->g.places), d->g.in[i]);
  }
  return sample(im, &r, taps, OP_add);
}

/* The product with weights [O, C / groups, kernel ..] of x [samples, places, C, kernel]. */
static Val deform_product(Import *im, Val x, Val w, const Deform *d)
{
  int64_t rows = d->samples * d->g.places, inner = d->channels / d->groups * d->g.count;
  int64_t share = d->outputs / d->groups;

  if (d->groups == 1)
    return product_rows(im, im_reshape_to(im, x, rows, inner), im_reshape_to(im, w, d->outputs, inner));
  x = im_swap(im, im_reshape_to(im, x, rows, d->groups, inner), 0, 1);
  w = im_swap(im, im_reshape_to(im, im_cast_like(im, w, x), d->groups, share, inner), 1, 2);
  return im_reshape_to(im, im_swap(im, im_matmul(im, x, w), 0, 1), rows, d->outputs);
}

static bool read_deform(Import *im, const OnnxNode *n, const Type *x, Val w, Val offset, Deform *d)
{
  Type tw = im_type(im, w), to = im_type(im, offset);

  *d = (Deform){.groups = im_int(im, n, "group", 1), .offset_groups = im_int(im, n, "offset_group", 1)};
  if (!window_read(im, n, x, window_kernel_of(im, n, w), &d->w) || !window_grid(im, n, &d->w, x, &d->g))
    return false;
  d->samples = x->dim[0];
  d->channels = x->dim[1];
  d->outputs = tw.dim[0];
  int64_t numbers = d->samples * d->g.count * d->w.spatial * d->g.places;
  if (d->groups < 1 || d->channels % d->groups || d->outputs % d->groups || tw.rank != x->rank ||
      tw.dim[1] != d->channels / d->groups || d->offset_groups < 1 || d->channels % d->offset_groups ||
      type_count(&to) % d->offset_groups || type_count(&to) / d->offset_groups != numbers)
    return im_fail(im, n, "weights and offsets do not fit the input");
  return true;
}

bool op_deform_conv(Import *im, const OnnxNode *n)
{
  Val first = im_in(im, n, 0), x = im_float_compute(im, first), w = im_in(im, n, 1), offset = im_in(im, n, 2);
  Val bias = im_opt(im, n, 3), mask = im_opt(im, n, 4);
  Type t = im_type(im, x);
  Deform d;

  if (!im_ok(im) || !read_deform(im, n, &t, w, offset, &d))
    return false;
  Val y = deformed(im, x, im_cast_like(im, offset, x), &d);
  int64_t batch = d.samples * d.offset_groups, share = d.channels / d.offset_groups;
  if (mask)
    y = mul(im, y, im_reshape_to(im, im_cast_like(im, mask, x), batch, d.g.count * d.g.places, 1));
  y = im_reshape_to(im, y, d.samples, d.offset_groups, d.g.count, d.g.places, share);
  y = im_transpose(im, y, (const uint8_t[]){0, 3, 1, 4, 2});
  y = deform_product(im, y, w, &d);
  if (bias)
    y = add(im, y, im_cast_like(im, bias, y));
  t.dim[1] = d.outputs;
  memcpy(t.dim + 2, d.g.out, d.w.spatial * sizeof *t.dim);
  y = im_swap(im, im_reshape_to(im, y, d.samples, d.g.places, d.outputs), 1, 2);
  return im_out(im, n, 0, im_cast_like(im, im_reshape(im, y, t.rank, t.dim), first));
}

/* ---- Col2Im: what each kernel element saw is added where it stood. */

bool op_col2im(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), y = im_float_compute(im, x);
  Ints image = im_need_ints(im, n, im_in(im, n, 1), "image_shape");
  Ints block = im_need_ints(im, n, im_in(im, n, 2), "block_shape");
  Type t = {.dtype = im_elem(im, x), .rank = image.len + 2, .dim = {im_dim(im, x, 0), 1}};
  WindowGrid g;
  Window w;

  if (!im_ok(im) || image.len > MAX_SPATIAL || im_rank(im, x) != 3)
    return im_fail(im, n, "images of %u dimensions, up to %d are supported", image.len, MAX_SPATIAL);
  for (uint32_t i = 0; i < image.len; i++)
    if ((t.dim[2 + i] = image.data[i]) < 1 || image.data[i] > INT32_MAX)
      return im_fail(im, n, "image_shape has %lld", (long long)image.data[i]);
  if (!window_read(im, n, &t, block, &w) || !window_grid(im, n, &w, &t, &g))
    return false;
  if (im_dim(im, x, 1) % g.count || im_dim(im, x, 2) != g.places || !im_ok(im))
    return im_fail(im, n, "%lld columns of %lld blocks, must be %lld", (long long)im_dim(im, x, 1),
                   (long long)im_dim(im, x, 2), (long long)g.places);
  t.dim[1] = im_dim(im, x, 1) / g.count;
  int64_t rows = t.dim[0] * t.dim[1], size = im_span(&t, 2, t.rank);
  Val at = im_flat(im, im_swap(im, window_table(im, &g, false), 0, 1));
  Val zeros = im_full(im, im_elem(im, y), 2, (int64_t[]){size, rows}, 0);
  y = im_swap(im, im_reshape_to(im, y, rows, g.count * g.places), 0, 1);
  y = im_swap(im, im_scatter(im, zeros, at, y, SCATTER_ADD), 0, 1);
  return im_out(im, n, 0, im_cast_like(im, im_reshape(im, y, t.rank, t.dim), x));
}
