/* op_resize.c - ONNX Resize and Upsample, one axis after the other: where sizes are known, each element of the result is
 * a sum of a few elements of the axis with weights that are numbers of the compiler.
 *
 * The nearest element alone: a repetition or a slice where the places are regular, else a gather. Few weights: as
 * many gathers. Many (antialias, when it shrinks): a product with a constant matrix.
 *
 * Source: ONNX Resize-19, Upsample-9. Without antialias, linear and cubic are the same sum with a kernel of radius 1 or 2;
 * with it, the kernel is as much wider as the axis shrinks. */
#include "frontend/onnx/op_product.h"
#include "frontend/onnx/onnx_ops.h"

#include <math.h>

enum { SIZE_MAX_AXIS = 1 << 22, TABLE_MAX = 1 << 22, TAPS_MAX = 1 << 12, GATHERS_MAX = 4 };

typedef struct {
  const char *mode, *transform, *nearest;
  double cubic_a, extrapolation;
  bool antialias, exclude_outside;
} Style;

typedef struct {
  int64_t in, out;
  double scale, roi[2];
  uint32_t taps;
  int64_t *index; /* [out][taps], within the axis */
  double *weight; /* [out][taps] */
  bool *outside;  /* [out]: gets the extrapolation value; NULL: none */
} Map;

/* ---- coordinates: where place i of the result lies in the input. In f32, as runtimes compute them: which element is the
 * nearest hangs on that. */

typedef float (*Transform)(const Map *m, float i);

static float scale_of(const Map *m)
{
  return (float)m->scale;
}
static float full_size(const Map *m)
{
  return scale_of(m) * (float)m->in;
}
static float half_pixel(const Map *m, float i)
{
  return (i + 0.5f) / scale_of(m) - 0.5f;
}
static float half_pixel_symmetric(const Map *m, float i)
{
  float centre = (float)m->in / 2;
  return centre * (1 - (float)m->out / full_size(m)) + half_pixel(m, i);
}
static float pytorch_half_pixel(const Map *m, float i)
{
  return m->out == 1 ? 0 : half_pixel(m, i);
}
static float align_corners(const Map *m, float i)
{
  return m->out == 1 ? 0 : i * (float)(m->in - 1) / (full_size(m) - 1);
}
static float asymmetric(const Map *m, float i)
{
  return i / scale_of(m);
}
static float tf_half_pixel_for_nn(const Map *m, float i)
{
  return (i + 0.5f) / scale_of(m);
}
static float tf_crop_and_resize(const Map *m, float i)
{
  float last = (float)(m->in - 1), from = (float)m->roi[0] * last,
        part = (float)(m->roi[1] - m->roi[0]) * last;
  return from + (m->out == 1 ? part / 2 : i * part / (full_size(m) - 1));
}

static const struct {
  const char *name;
  Transform at;
} transforms[] = {
    {"half_pixel", half_pixel},
    {"half_pixel_symmetric", half_pixel_symmetric},
    {"pytorch_half_pixel", pytorch_half_pixel},
    {"align_corners", align_corners},
    {"asymmetric", asymmetric},
    {"tf_half_pixel_for_nn", tf_half_pixel_for_nn},
    {"tf_crop_and_resize", tf_crop_and_resize},
};

static Transform transform_of(Import *im, const OnnxNode *n, const char *name)
{
  for (uint32_t i = 0; i < COUNT(transforms); i++)
    if (!strcmp(name, transforms[i].name))
      return transforms[i].at;
  im_fail(im, n, "coordinate_transformation_mode '%s' is not known", name);
  return NULL;
}

/* ---- weights */

static double round_prefer_floor(double x)
{
  return ceil(x - 0.5);
}
static double round_prefer_ceil(double x)
{
  return floor(x + 0.5);
}

static const struct {
  const char *name;
  double (*of)(double x);
} roundings[] = {
    {"round_prefer_floor", round_prefer_floor},
    {"round_prefer_ceil", round_prefer_ceil},
    {"floor", floor},
    {"ceil", ceil},
};

static double triangle(double x, double a)
{
  (void)a;
  return fmax(0, 1 - fabs(x));
}

/* R. Keys, Cubic convolution interpolation for digital image processing, 1981. */
static double cubic(double x, double a)
{
  x = fabs(x);
  if (x <= 1)
    return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? ((a * x - 5 * a) * x + 8 * a) * x - 4 * a : 0;
}

static int64_t clamp(double i, int64_t n)
{
  return i<0 ? 0 : i>(double)(n - 1) ? n - 1 : (int64_t)i;
}

/* The elements around x and their weights, which sum to 1. */
static void weigh(const Map *m, const Style *s, double x, double radius, double shrink, int64_t *index,
                  double *weight)
{
  double first = floor(x - radius / shrink) + 1, sum = 0;

  for (uint32_t k = 0; k < m->taps; k++) {
    double i = first + k, d = (i - x) * shrink;
    bool inside = i >= 0 && i < (double)m->in;
    index[k] = clamp(i, m->in);
    weight[k] = radius == 1 ? triangle(d, 0) : cubic(d, s->cubic_a);
    weight[k] = s->exclude_outside && !inside ? 0 : weight[k];
    sum += weight[k];
  }
  for (uint32_t k = 0; k < m->taps; k++)
    weight[k] /= sum != 0 ? sum : 1;
}

static bool new_tables(Import *im, const OnnxNode *n, Map *m)
{
  if (m->taps > TAPS_MAX || m->out > TABLE_MAX / (int64_t)m->taps)
    return im_fail(im, n, "%u weights for each of %lld elements are too many", m->taps, (long long)m->out);
  m->index = NEW_ARRAY(im->arena, int64_t, (size_t)m->out * m->taps);
  m->weight = NEW_ARRAY(im->arena, double, (size_t)m->out * m->taps);
  return true;
}

static bool make_nearest(Import *im, const OnnxNode *n, Map *m, const Style *s, Transform at)
{
  uint32_t r = 0;

  while (r < COUNT(roundings) && strcmp(s->nearest, roundings[r].name))
    r++;
  if (r == COUNT(roundings))
    return im_fail(im, n, "nearest_mode '%s' is not known", s->nearest);
  m->taps = 1;
  if (!new_tables(im, n, m))
    return false;
  for (int64_t i = 0; i < m->out; i++) {
    m->index[i] = clamp(roundings[r].of((double)at(m, (float)i)), m->in);
    m->weight[i] = 1;
  }
  return true;
}

static bool make_map(Import *im, const OnnxNode *n, const Style *s, Map *m)
{
  Transform at = transform_of(im, n, s->transform);
  double radius = !strcmp(s->mode, "cubic") ? 2 : 1, shrink = s->antialias ? fmin(1, m->scale) : 1;

  if (!at)
    return false;
  if (at == tf_crop_and_resize) {
    m->outside = NEW_ARRAY(im->arena, bool, (size_t)m->out);
    for (int64_t i = 0; i < m->out; i++)
      m->outside[i] = at(m, (float)i) < 0 || at(m, (float)i) > (float)(m->in - 1);
  }
  if (!strcmp(s->mode, "nearest"))
    return make_nearest(im, n, m, s, at);
  if (strcmp(s->mode, "linear") && strcmp(s->mode, "bilinear") && radius == 1)
    return im_fail(im, n, "mode '%s' is not known", s->mode);
  m->taps = (uint32_t)fmin(TAPS_MAX + 1.0, ceil(2 * radius / shrink));
  if (!new_tables(im, n, m))
    return false;
  for (int64_t i = 0; i < m->out; i++)
    weigh(m, s, (double)at(m, (float)i), radius, shrink, m->index + i * m->taps, m->weight + i * m->taps);
  return true;
}

/* ---- from maps to core ops */

/* Dimensions stay apart where one more is left, so that transposes can pass. */
static Val repeat_each(Import *im, Val x, uint32_t axis, int64_t times)
{
  Type t = im_type(im, x), out = t, split = {.dtype = t.dtype, .rank = t.rank + 1};

  out.dim[axis] *= times;
  if (t.rank == MAX_RANK) {
    int64_t before = im_span(&t, 0, axis + 1), after = im_span(&t, axis + 1, t.rank);
    split = type_of(t.dtype, 3, (int64_t[]){before, 1, after});
    axis = 0;
  } else {
    for (uint32_t i = 0; i < split.rank; i++)
      split.dim[i] = i <= axis ? t.dim[i] : i == axis + 1 ? 1 : t.dim[i - 1];
  }
  x = im_reshape(im, x, split.rank, split.dim);
  split.dim[axis + 1] = times;
  x = im_expand(im, x, split.rank, split.dim);
  return im_reshape(im, x, out.rank, out.dim);
}

/* Each element `times` times, in order. */
static bool is_repetition(const Map *m, int64_t *times)
{
  *times = m->in ? m->out / m->in : 0;
  bool yes = *times > 0 && *times * m->in == m->out;

  for (int64_t i = 0; yes && i < m->out; i++)
    yes = m->index[i] == i / *times;
  return yes;
}

static bool is_slice(const Map *m, int64_t *step)
{
  *step = m->out > 1 ? m->index[1] - m->index[0] : 1;
  bool yes = *step > 0;

  for (int64_t i = 1; yes && i < m->out; i++)
    yes = m->index[i] == m->index[0] + i * *step;
  return yes;
}

static Val pick_nearest(Import *im, Val x, uint32_t axis, const Map *m)
{
  int64_t by;

  if (is_repetition(m, &by))
    return repeat_each(im, x, axis, by);
  if (is_slice(m, &by))
    return im_slice(im, x, axis, m->index[0], m->out, by);
  return im_gather(im, x, im_const_ints(im, m->index, m->out), axis);
}

/* Sum over k of element index[.][k] times weight[.][k]. */
static Val sum_gathers(Import *im, Val x, uint32_t axis, const Map *m)
{
  int64_t *at = NEW_ARRAY(im->arena, int64_t, (size_t)m->out);
  double *weight = NEW_ARRAY(im->arena, double, (size_t)m->out);
  Val sum = 0;

  for (uint32_t k = 0; k < m->taps; k++) {
    for (int64_t i = 0; i < m->out; i++) {
      at[i] = m->index[i * m->taps + k];
      weight[i] = m->weight[i * m->taps + k];
    }
    Val w = im_const_floats(im, im_elem(im, x), weight, 1, &m->out);
    Val part = im_gather(im, x, im_const_ints(im, at, m->out), axis);
    part = im_add2(im, OP_mul, part, im_at_channel(im, w, axis, im_rank(im, x)));
    sum = sum ? im_add2(im, OP_add, sum, part) : part;
  }
  return sum;
}

static Val multiply_matrix(Import *im, Val x, uint32_t axis, const Map *m)
{
  Tensor t = im_tensor_new(im, type_of(im_elem(im, x), 2, (int64_t[]){m->out, m->in}));
  uint32_t last = im_rank(im, x) - 1;

  if (!t.data)
    return 0;
  for (int64_t i = 0; i < m->out * (int64_t)m->taps; i++) {
    int64_t at = i / m->taps * m->in + m->index[i];
    tensor_set(&t, at, tensor_get(&t, at) + (long double)m->weight[i]);
  }
  Val y = product_rows(im, im_move(im, x, axis, last), im_const_tensor(im, &t));
  return im_move(im, y, last, axis);
}

static Val apply_map(Import *im, Val x, uint32_t axis, const Map *m, const Style *s)
{
  Val y = m->taps == 1             ? pick_nearest(im, x, axis, m)
          : m->taps <= GATHERS_MAX ? sum_gathers(im, x, axis, m)
                                   : multiply_matrix(im, x, axis, m);
  if (!m->outside)
    return y;
  Tensor t = im_tensor_new(im, type_of(DT_BOOL, 1, &m->out));
  for (int64_t i = 0; t.data && i < m->out; i++)
    tensor_set(&t, i, m->outside[i]);
  Val mask = t.data ? im_at_channel(im, im_const_tensor(im, &t), axis, im_rank(im, x)) : 0;
  return im_where(im, mask, im_const_like(im, y, s->extrapolation), y);
}

/* ---- sizes and scales */

typedef struct {
  uint32_t n;
  uint32_t axis[MAX_RANK];
  double scale[MAX_RANK];
  int64_t size[MAX_RANK];
  double roi[MAX_RANK][2];
} Plan;

static bool take_scales(Import *im, const OnnxNode *n, Val x, Floats f, Plan *p)
{
  for (uint32_t i = 0; i < p->n; i++) {
    double size = floor((double)im_dim(im, x, p->axis[i]) * f.data[i]);
    if (!(f.data[i] > 0 && size >= 0 && size <= SIZE_MAX_AXIS))
      return im_fail(im, n, "scale %g of %lld elements", f.data[i], (long long)im_dim(im, x, p->axis[i]));
    p->scale[i] = f.data[i];
    p->size[i] = (int64_t)size;
  }
  return true;
}

/* One scale for all axes: the least or the greatest of them. */
static void keep_aspect(Import *im, Val x, bool larger, Plan *p)
{
  double scale = p->scale[0];

  for (uint32_t i = 1; i < p->n; i++)
    scale = larger ? fmax(scale, p->scale[i]) : fmin(scale, p->scale[i]);
  for (uint32_t i = 0; i < p->n; i++) {
    p->scale[i] = scale;
    p->size[i] = (int64_t)floor(scale * (double)im_dim(im, x, p->axis[i]) + 0.5);
  }
}

static bool take_sizes(Import *im, const OnnxNode *n, Val x, Ints sizes, Plan *p)
{
  const char *policy = im_str(im, n, "keep_aspect_ratio_policy", "stretch");

  for (uint32_t i = 0; i < p->n; i++) {
    int64_t in = im_dim(im, x, p->axis[i]);
    if (sizes.data[i] < 0 || sizes.data[i] > SIZE_MAX_AXIS || in < 1)
      return im_fail(im, n, "size %lld from %lld", (long long)sizes.data[i], (long long)in);
    p->size[i] = sizes.data[i];
    p->scale[i] = (double)sizes.data[i] / (double)in;
  }
  if (!strcmp(policy, "stretch"))
    return true;
  if (strcmp(policy, "not_larger") && strcmp(policy, "not_smaller"))
    return im_fail(im, n, "keep_aspect_ratio_policy '%s' is not known", policy);
  keep_aspect(im, x, !strcmp(policy, "not_smaller"), p);
  return true;
}

static bool take_axes(Import *im, const OnnxNode *n, Val x, Plan *p)
{
  Ints axes = im_ints(im, n, "axes");

  im_axes(im, n, axes, im_rank(im, x));
  p->n = axes.given ? axes.len : im_rank(im, x);
  if (!im_ok(im) || p->n > MAX_RANK)
    return false;
  for (uint32_t i = 0; i < p->n; i++) {
    p->axis[i] = axes.given ? im_axis(im, n, axes.data[i], im_rank(im, x)) : i;
    p->roi[i][1] = 1;
  }
  return true;
}

static bool take_roi(Import *im, const OnnxNode *n, Plan *p)
{
  Floats roi = im_floats_of(im, n, 1, NULL);

  if (!roi.len)
    return im_ok(im);
  if (roi.len != 2 * p->n)
    return im_fail(im, n, "roi has %u numbers, must have %u", roi.len, 2 * p->n);
  for (uint32_t i = 0; i < p->n; i++) {
    p->roi[i][0] = roi.data[i];
    p->roi[i][1] = roi.data[p->n + i];
  }
  return true;
}

/* ---- the nodes */

static bool resize(Import *im, const OnnxNode *n, const Style *s, const Plan *p)
{
  Val first = im_in(im, n, 0), x = first;
  bool crop = !strcmp(s->transform, "tf_crop_and_resize"), nearest = !strcmp(s->mode, "nearest");

  if (!nearest) /* integers too have weights */
    x = im_is_float(im_elem(im, x)) ? im_float_compute(im, x) : im_cast(im, x, DT_F32);
  for (uint32_t i = 0; i < p->n; i++) {
    Map m = {.in = im_dim(im, x, p->axis[i]), .out = p->size[i], .scale = p->scale[i]};
    memcpy(m.roi, p->roi[i], sizeof m.roi);
    if (m.in == m.out && m.scale == 1 && !(crop && (m.roi[0] != 0 || m.roi[1] != 1)))
      continue;
    if (m.in < 1 && m.out > 0)
      return im_fail(im, n, "dimension %u is empty", p->axis[i]);
    if (!make_map(im, n, s, &m))
      return false;
    x = apply_map(im, x, p->axis[i], &m, s);
  }
  return im_out(im, n, 0, im_cast_like(im, x, first));
}

/* Before opset 11: scales alone, and places as those of Upsample. */
static bool resize_by_scales(Import *im, const OnnxNode *n)
{
  Style s = {.mode = im_str(im, n, "mode", "nearest"), .transform = "asymmetric", .nearest = "floor"};
  Val x = im_in(im, n, 0);
  Floats scales = im_floats_of(im, n, 1, "scales");
  Plan p = {.n = im_rank(im, x)};

  for (uint32_t i = 0; i < p.n; i++)
    p.axis[i] = i;
  if (!im_ok(im) || scales.len != p.n)
    return im_fail(im, n, "%u scales for %u dimensions", scales.len, p.n);
  return take_scales(im, n, x, scales, &p) && resize(im, n, &s, &p);
}

bool op_upsample(Import *im, const OnnxNode *n)
{
  return resize_by_scales(im, n);
}

bool op_resize(Import *im, const OnnxNode *n)
{
  Style s = {
      .mode = im_str(im, n, "mode", "nearest"),
      .transform = im_str(im, n, "coordinate_transformation_mode", "half_pixel"),
      .nearest = im_str(im, n, "nearest_mode", "round_prefer_floor"),
      .cubic_a = im_float(im, n, "cubic_coeff_a", -0.75),
      .extrapolation = im_float(im, n, "extrapolation_value", 0),
      .antialias = im_int(im, n, "antialias", 0),
      .exclude_outside = im_int(im, n, "exclude_outside", 0),
  };
  Plan p = {0};

  if (im_opset(im, n) < 11)
    return resize_by_scales(im, n);
  Val x = im_in(im, n, 0);
  if (!im_ok(im) || !take_axes(im, n, x, &p))
    return false;
  if (!strcmp(s.transform, "tf_crop_and_resize") && !take_roi(im, n, &p))
    return false;
  Floats scales = im_floats_of(im, n, 2, NULL);
  Ints sizes = im_ints_of(im, n, 3, NULL);
  if (scales.len == p.n && p.n)
    return take_scales(im, n, x, scales, &p) && resize(im, n, &s, &p);
  if (sizes.len != p.n)
    return im_fail(im, n, "%u scales and %u sizes for %u axes", scales.len, sizes.len, p.n);
  return take_sizes(im, n, x, sizes, &p) && resize(im, n, &s, &p);
}
