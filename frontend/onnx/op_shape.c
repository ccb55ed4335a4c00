/* op_shape.c - ONNX operators that move elements or only rename dimensions: reshapes, slices, pads, tiles, constants.
 *
 * Shapes are numbers at import, so Shape, Size and Range are constants, and what computes with them folds. */
#include "frontend/onnx/onnx_ops.h"

#include <math.h>
#include <stdlib.h>

/* Dimensions from the file, checked: at most MAX_RANK of them, none negative. */
static bool take_dims(Import *im, const OnnxNode *n, Ints x, int64_t *d)
{
  if (!im_ok(im))
    return false;
  if (x.len > MAX_RANK)
    return im_fail(im, n, "%u dimensions, at most %d are supported", x.len, MAX_RANK);
  for (uint32_t i = 0; i < x.len; i++) {
    d[i] = x.data[i];
    if (d[i] < 0)
      return im_fail(im, n, "dimension %u is %lld", i, (long long)d[i]);
  }
  return true;
}

/* ---- the same elements under another shape */

bool op_identity(Import *im, const OnnxNode *n)
{
  return im_out(im, n, 0, im_any(im, n, 0));
}

/* 0 keeps the input's dimension (unless allowzero), -1 takes what is left. */
static bool reshape_dims(Import *im, const OnnxNode *n, const Type *t, Ints shape, int64_t *d)
{
  bool zero = im_int(im, n, "allowzero", 0);
  int64_t left = type_count(t);
  int free_at = -1;

  for (uint32_t i = 0; i < shape.len; i++) {
    d[i] = shape.data[i] == 0 && !zero && i < t->rank ? t->dim[i] : shape.data[i];
    if (d[i] == -1 && free_at < 0) {
      free_at = (int)i;
      continue;
    }
    if (d[i] < 0 || (d[i] > 0 && left % d[i]))
      return im_fail(im, n, "dimension %u of the new shape is %lld, for %lld elements", i, (long long)d[i],
                     (long long)type_count(t));
    left = d[i] ? left / d[i] : 0;
  }
  if (free_at >= 0)
    d[free_at] = left;
  return true;
}

bool op_reshape(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  Ints shape = im_ints_of(im, n, 1, "shape");
  Type t = im_type(im, x);
  int64_t d[MAX_RANK];

  if (!im_ok(im) || !shape.given)
    return im_fail(im, n, "there is no shape");
  if (shape.len > MAX_RANK)
    return im_fail(im, n, "%u dimensions, at most %d are supported", shape.len, MAX_RANK);
  return reshape_dims(im, n, &t, shape, d) && im_out(im, n, 0, im_reshape(im, x, shape.len, d));
}

bool op_flatten(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  int64_t rank = im_rank(im, x), axis = im_int(im, n, "axis", 1);

  if (axis < -rank || axis > rank)
    return im_fail(im, n, "axis %lld of %lld dimensions", (long long)axis, (long long)rank);
  return im_out(im, n, 0, im_flat_at(im, x, (uint32_t)(axis < 0 ? axis + rank : axis)));
}

bool op_squeeze(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  Ints axes = im_ints_of(im, n, 1, "axes");
  Type t = im_type(im, x);
  uint32_t mask = axes.given ? im_axes(im, n, axes, t.rank) : 0;

  for (uint32_t i = 0; !axes.given && i < t.rank; i++)
    mask |= t.dim[i] == 1 ? 1u << i : 0;
  return im_out(im, n, 0, im_squeeze_mask(im, x, mask));
}

bool op_unsqueeze(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  Ints axes = im_ints_of(im, n, 1, "axes");

  if (!im_ok(im) || im_rank(im, x) + axes.len > MAX_RANK)
    return im_fail(im, n, "more than %d dimensions", MAX_RANK);
  axes.given = true;
  return im_out(im, n, 0, im_unsqueeze_mask(im, x, im_axes(im, n, axes, im_rank(im, x) + axes.len)));
}

bool op_transpose(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  Ints perm = im_ints(im, n, "perm");
  uint32_t rank = im_rank(im, x);
  uint8_t p[MAX_RANK];

  if (perm.given && perm.len != rank)
    return im_fail(im, n, "perm has %u entries, for %u dimensions", perm.len, rank);
  for (uint32_t i = 0; i < rank; i++)
    p[i] = (uint8_t)(perm.given ? im_axis(im, n, perm.data[i], rank) : rank - 1 - i);
  return im_out(im, n, 0, im_transpose(im, x, p));
}

/* ---- parts and joins */

bool op_concat(Import *im, const OnnxNode *n)
{
  uint32_t count = im_in_count(n);
  Val *in = NEW_ARRAY(im->arena, Val, count);

  for (uint32_t i = 0; i < count; i++)
    in[i] = im_in(im, n, i);
  if (!im_ok(im) || !count)
    return im_fail(im, n, "there are no inputs");
  return im_out(im, n, 0, im_concat(im, in, count, im_axis_attr(im, n, "axis", 1, im_rank(im, in[0]))));
}

/* Sizes are given, or equal; where they do not divide, the last one is smaller (opset 18). */
bool op_split(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  uint32_t axis = im_axis_attr(im, n, "axis", 0, im_rank(im, x)), parts = n->n_outputs;
  Ints sizes = im_ints_of(im, n, 1, "split");
  int64_t dim = im_dim(im, x, axis), at = 0, each = parts ? (dim + parts - 1) / parts : 0;
  bool ok = im_ok(im);

  if (sizes.given && sizes.len != parts)
    return im_fail(im, n, "%u sizes for %u outputs", sizes.len, parts);
  for (uint32_t i = 0; ok && i < parts; i++) {
    int64_t size = sizes.given ? sizes.data[i] : min64(each, dim - at);
    if (size < 0 || size > dim - at)
      return im_fail(im, n, "size %lld of the %lld elements that are left", (long long)size,
                     (long long)(dim - at));
    ok = im_out(im, n, i, im_part(im, x, axis, at, size));
    at += size;
  }
  return ok && (at == dim || im_fail(im, n, "sizes end at %lld of %lld", (long long)at, (long long)dim));
}

/* ONNX Slice: ends that lie outside are cut to the dimension. */
static Val slice_axis(Import *im, Val x, uint32_t axis, int64_t start, int64_t end, int64_t step)
{
  int64_t dim = im_dim(im, x, axis), lo = step < 0 ? -1 : 0, hi = step < 0 ? dim - 1 : dim;

  start = min64(max64(start < 0 ? start + dim : start, step < 0 ? min64(0, hi) : 0), hi);
  end = min64(max64(end < 0 ? end + dim : end, lo), hi);
  step = max64(step, -INT64_MAX);
  int64_t count = step > 0 ? (end > start ? 1 + (end - start - 1) / step : 0)
                           : (start > end ? 1 + (start - end - 1) / -step : 0);
  if (count < 2)
    step = 1;
  return im_slice(im, x, axis, count ? start : 0, count, step);
}

bool op_slice(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  Ints starts = im_ints_of(im, n, 1, "starts"), ends = im_ints_of(im, n, 2, "ends");
  Ints axes = im_ints_of(im, n, 3, "axes"), steps = im_ints_of(im, n, 4, NULL);

  if (!im_ok(im) || starts.len != ends.len || (axes.given && axes.len != starts.len) ||
      (steps.given && steps.len != starts.len))
    return im_fail(im, n, "starts, ends, axes and steps differ in number");
  for (uint32_t i = 0; i < starts.len && x; i++) {
    uint32_t axis = im_axis(im, n, axes.given ? axes.data[i] : i, im_rank(im, x));
    int64_t step = steps.given ? steps.data[i] : 1;
    if (!step)
      return im_fail(im, n, "step is 0");
    x = slice_axis(im, x, axis, starts.data[i], ends.data[i], step);
  }
  return im_out(im, n, 0, x);
}

/* The middle `size` of a dimension, or the dimension in the middle of `size`. */
static Val center(Import *im, Val x, uint32_t axis, int64_t size)
{
  int64_t dim = im_dim(im, x, axis), less = (dim - size) / 2, more = (size - dim) / 2;

  return dim > size ? im_part(im, x, axis, less, size) : im_pad_axis(im, x, axis, more, size - dim - more, 0);
}

bool op_center_crop_pad(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  Ints shape = im_ints_of(im, n, 1, NULL), axes = im_ints(im, n, "axes");

  if (!im_ok(im) || shape.len != (axes.given ? axes.len : im_rank(im, x)))
    return im_fail(im, n, "shape has %u entries", shape.len);
  for (uint32_t i = 0; i < shape.len; i++) {
    if (shape.data[i] < 0 || shape.data[i] > INT32_MAX)
      return im_fail(im, n, "dimension %lld", (long long)shape.data[i]);
    x = center(im, x, im_axis(im, n, axes.given ? axes.data[i] : i, im_rank(im, x)), shape.data[i]);
  }
  return im_out(im, n, 0, x);
}

/* ---- pads */

typedef enum { PAD_CONSTANT, PAD_REFLECT, PAD_EDGE, PAD_WRAP, PAD_UNKNOWN } PadMode;
static const char *const pad_modes[PAD_UNKNOWN] = {"constant", "reflect", "edge", "wrap"};

static PadMode pad_mode(Import *im, const OnnxNode *n)
{
  const char *name = im_str(im, n, "mode", "constant");
  PadMode m = PAD_CONSTANT;

  while (m < PAD_UNKNOWN && strcmp(name, pad_modes[m]))
    m++;
  if (m == PAD_UNKNOWN)
    im_fail(im, n, "mode '%s' is not known", name);
  return m;
}

static int64_t floor_mod(int64_t a, int64_t n)
{
  int64_t r = a % n;
  return r < 0 ? r + n : r;
}

/* Which element of a dimension stands at place i, inside or outside of it. */
static int64_t pad_source(PadMode m, int64_t i, int64_t dim)
{
  if (m == PAD_EDGE)
    return min64(max64(i, 0), dim - 1);
  if (m == PAD_WRAP)
    return floor_mod(i, dim);
  if (dim == 1)
    return 0;
  i = floor_mod(i, 2 * (dim - 1));
  return i < dim ? i : 2 * (dim - 1) - i;
}

enum { PAD_MAX = 1 << 24 }; /* elements along an axis */

/* As a gather with constant indices. */
static Val pad_from_inside(Import *im, Val x, uint32_t axis, int64_t lo, int64_t hi, PadMode m)
{
  int64_t dim = im_dim(im, x, axis), count = dim + lo + hi;

  if (!x || (!lo && !hi))
    return x;
  if (dim < 1 || count < 0 || count > PAD_MAX) {
    im_fail(im, im->node, "pads of %lld and %lld at a dimension of %lld", (long long)lo, (long long)hi,
            (long long)dim);
    return 0;
  }
  int64_t *at = NEW_ARRAY(im->arena, int64_t, (size_t)count);
  for (int64_t i = 0; i < count; i++)
    at[i] = pad_source(m, i - lo, dim);
  return im_gather(im, x, im_const_ints(im, at, count), axis);
}

/* Pads as two numbers for each dimension; the file has all beginnings, then all ends, of the axes. */
static bool take_pads(Import *im, const OnnxNode *n, uint32_t rank, int64_t *lo, int64_t *hi)
{
  Ints pads = im_ints_of(im, n, 1, im_attr(im, n, "paddings") ? "paddings" : "pads");
  Ints axes = im_ints_of(im, n, 3, NULL);
  uint32_t count = axes.given ? axes.len : rank;

  if (!im_ok(im) || pads.len != 2 * count || count > rank)
    return im_fail(im, n, "%u pads for %u dimensions", pads.len, rank);
  for (uint32_t i = 0; i < count; i++) {
    uint32_t axis = im_axis(im, n, axes.given ? axes.data[i] : i, rank);
    lo[axis] = pads.data[i];
    hi[axis] = pads.data[count + i];
    if (llabs(lo[axis]) > INT32_MAX || llabs(hi[axis]) > INT32_MAX)
      return im_fail(im, n, "pad %lld", (long long)pads.data[i]);
  }
  return true;
}

bool op_pad(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), value = 0;
  PadMode m = pad_mode(im, n);
  int64_t lo[MAX_RANK] = {0}, hi[MAX_RANK] = {0};

  if (!take_pads(im, n, im_rank(im, x), lo, hi))
    return false;
  if (m == PAD_CONSTANT) {
    value = im_has(im, n, 2) ? im_reshape(im, im_in(im, n, 2), 0, NULL)
                             : im_const_like(im, x, im_float(im, n, "value", 0));
    return im_out(im, n, 0, im_pad(im, x, lo, hi, value));
  }
  for (uint32_t i = 0, rank = im_rank(im, x); i < rank; i++)
    x = pad_from_inside(im, x, i, lo[i], hi[i], m);
  return im_out(im, n, 0, x);
}

/* ---- repetition */

bool op_expand(Import *im, const OnnxNode *n)
{
  int64_t d[MAX_RANK];
  Val x = im_in(im, n, 0);
  Ints shape = im_need_ints(im, n, im_in(im, n, 1), "shape");

  return take_dims(im, n, shape, d) && im_out(im, n, 0, im_broadcast(im, x, shape.len, d));
}

static Val repeat(Import *im, Val x, uint32_t axis, int64_t times)
{
  Type t = im_type(im, x);
  int64_t before = im_span(&t, 0, axis), after = im_span(&t, axis, t.rank);

  if (times == 1 || !x)
    return x;
  if (__builtin_mul_overflow(t.dim[axis], times, &t.dim[axis])) {
    im_fail(im, im->node, "%lld repeats are too many", (long long)times);
    return 0;
  }
  x = im_expand(im, im_reshape_to(im, x, before, 1, after), 3, (int64_t[]){before, times, after});
  return im_reshape(im, x, t.rank, t.dim);
}

/* Before opset 6: how often, and along which axis. */
static bool tile_one(Import *im, const OnnxNode *n, Val x)
{
  int64_t times = im_int_of(im, n, 1, NULL, 1), axis = im_int_of(im, n, 2, NULL, 0);
  uint32_t at = im_axis(im, n, axis, im_rank(im, x));

  return im_out(im, n, 0, times < 0 || !im_ok(im) ? 0 : repeat(im, x, at, times));
}

bool op_tile(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  int64_t times[MAX_RANK];

  if (im_opset(im, n) < 6)
    return tile_one(im, n, x);
  Ints repeats = im_need_ints(im, n, im_in(im, n, 1), "repeats");
  if (!take_dims(im, n, repeats, times) || repeats.len != im_rank(im, x))
    return im_fail(im, n, "%u repeats for %u dimensions", repeats.len, im_rank(im, x));
  for (uint32_t i = 0; i < repeats.len; i++)
    x = repeat(im, x, i, times[i]);
  return im_out(im, n, 0, x);
}

/* ---- channels and space */

bool op_depth_to_space(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  Type t = im_type(im, x);
  int64_t b = im_int(im, n, "blocksize", 0), *d = t.dim;
  bool crd = !strcmp(im_str(im, n, "mode", "DCR"), "CRD");

  if (t.rank != 4 || b < 1 || b > INT16_MAX || d[1] % (b * b))
    return im_fail(im, n, "block size %lld", (long long)b);
  int64_t c = d[1] / (b * b);
  x = crd ? im_reshape_to(im, x, d[0], c, b, b, d[2], d[3]) : im_reshape_to(im, x, d[0], b, b, c, d[2], d[3]);
  x = im_transpose(im, x, crd ? (const uint8_t[]){0, 1, 4, 2, 5, 3} : (const uint8_t[]){0, 3, 4, 1, 5, 2});
  return im_out(im, n, 0, im_reshape_to(im, x, d[0], c, d[2] * b, d[3] * b));
}

bool op_space_to_depth(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  Type t = im_type(im, x);
  int64_t b = im_int(im, n, "blocksize", 0), *d = t.dim;

  if (t.rank != 4 || b < 1 || b > INT16_MAX || d[2] % b || d[3] % b)
    return im_fail(im, n, "block size %lld", (long long)b);
  x = im_reshape_to(im, x, d[0], d[1], d[2] / b, b, d[3] / b, b);
  x = im_transpose(im, x, (const uint8_t[]){0, 3, 5, 1, 2, 4});
  return im_out(im, n, 0, im_reshape_to(im, x, d[0], d[1] * b * b, d[2] / b, d[3] / b));
}

/* ---- constants */

bool op_shape(Import *im, const OnnxNode *n)
{
  Type t = im_type(im, im_in(im, n, 0));
  int64_t rank = t.rank, start = im_int(im, n, "start", 0), end = im_int(im, n, "end", rank);

  start = min64(max64(start < 0 ? start + rank : start, 0), rank);
  end = min64(max64(end < 0 ? end + rank : end, 0), rank);
  return im_out(im, n, 0, im_const_ints(im, t.dim + start, max64(end - start, 0)));
}

bool op_size(Import *im, const OnnxNode *n)
{
  Type t = im_type(im, im_in(im, n, 0));
  return im_out(im, n, 0, im_const_i(im, DT_I64, type_count(&t)));
}

static Val constant_list(Import *im, const OnnxNode *n)
{
  Ints ints = im_ints(im, n, "value_ints");
  Floats floats = im_floats(im, n, "value_floats");

  if (ints.given)
    return im_const_ints(im, ints.data, ints.len);
  return floats.given ? im_const_floats(im, DT_F32, floats.data, 1, (int64_t[]){floats.len}) : 0;
}

bool op_constant(Import *im, const OnnxNode *n)
{
  const OnnxAttr *sparse = im_attr(im, n, "sparse_value");
  Err why = {0};
  Tensor t;

  if (im_tensor(im, n, "value", &t))
    return im_out(im, n, 0, im_const_tensor(im, &t));
  if (sparse && sparse->type == ONNX_ATTR_SPARSE_TENSOR) {
    if (!onnx_sparse_value(sparse->sparse_tensor, im->arena, &t, &why))
      return im_fail(im, n, "%s", why.text);
    return im_out(im, n, 0, im_const_tensor(im, &t));
  }
  if (im_attr(im, n, "value_int"))
    return im_out(im, n, 0, im_const_i(im, DT_I64, im_int(im, n, "value_int", 0)));
  if (im_attr(im, n, "value_float"))
    return im_out(im, n, 0, im_const(im, DT_F32, im_float(im, n, "value_float", 0)));
  Val list = constant_list(im, n);
  return list ? im_out(im, n, 0, list) : im_fail(im, n, "its value is no tensor and no number");
}

bool op_constant_of_shape(Import *im, const OnnxNode *n)
{
  Ints shape = im_need_ints(im, n, im_in(im, n, 0), "shape");
  int64_t d[MAX_RANK];
  Tensor t;

  if (!take_dims(im, n, shape, d))
    return false;
  if (!im_tensor(im, n, "value", &t))
    return im_out(im, n, 0, im_full(im, DT_F32, shape.len, d, 0));
  if (type_count(&t.type) != 1)
    return im_fail(im, n, "value must be one number");
  return im_out(im, n, 0, im_expand(im, im_reshape(im, im_const_tensor(im, &t), 0, NULL), shape.len, d));
}

static Val range_floats(Import *im, DType t, double start, double limit, double delta)
{
  double count = ceil((limit - start) / delta);

  if (!(count <= INT32_MAX)) {
    im_fail(im, im->node, "the range has no end");
    return 0;
  }
  Tensor r = im_tensor_new(im, type_of(t, 1, (int64_t[]){count > 0 ? (int64_t)count : 0}));
  for (int64_t i = 0; r.data && i < r.type.dim[0]; i++)
    tensor_set(&r, i, (long double)(start + (double)i * delta));
  return im_const_tensor(im, &r);
}

static Val range_ints(Import *im, DType t, int64_t start, int64_t limit, int64_t delta)
{
  __int128 span = delta > 0 ? (__int128)limit - start : (__int128)start - limit;
  __int128 step = delta > 0 ? delta : -(__int128)delta, count = span > 0 ? (span + step - 1) / step : 0;

  if (count > INT32_MAX) {
    im_fail(im, im->node, "the range is too long");
    return 0;
  }
  Tensor r = im_tensor_new(im, type_of(t, 1, (int64_t[]){(int64_t)count}));
  for (int64_t i = 0; r.data && i < r.type.dim[0]; i++)
    tensor_set_int(&r, i, start + i * delta);
  return im_const_tensor(im, &r);
}

bool op_range(Import *im, const OnnxNode *n)
{
  static const char *const names[3] = {"start", "limit", "delta"};
  DType t = im_elem(im, im_in(im, n, 0));
  double f[3] = {0};
  int64_t k[3] = {0};
  Tensor x;

  for (uint32_t i = 0; i < 3; i++) {
    if (!im_need_constant(im, n, im_in(im, n, i), names[i], &x))
      return false;
    if (x.type.dtype != t || type_count(&x.type) != 1)
      return im_fail(im, n, "%s must be one number of the start's type", names[i]);
    f[i] = (double)tensor_get(&x, 0);
    k[i] = dtype_info[t].kind == DK_INT ? tensor_get_int(&x, 0) : 0;
  }
  if (f[2] == 0)
    return im_fail(im, n, "delta is 0");
  return im_out(im, n, 0,
                dtype_info[t].kind == DK_INT ? range_ints(im, t, k[0], k[1], k[2])
                                             : range_floats(im, t, f[0], f[1], f[2]));
}

/* A bool table over the last two dimensions: column - row, compared. */
static Val diagonal_mask(Import *im, int64_t rows, int64_t columns, int64_t k, Op op)
{
  Val row = im_unsqueeze(im, im_iota(im, DT_I64, rows), 1), column = im_iota(im, DT_I64, columns);
  return im_add2(im, op, im_add2(im, OP_add, row, im_const_i(im, DT_I64, k)), column);
}

bool op_eye_like(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  Type t = im_type(im, x);

  if (t.rank != 2)
    return im_fail(im, n, "the input must have two dimensions");
  Val eye = diagonal_mask(im, t.dim[0], t.dim[1], im_int(im, n, "k", 0), OP_eq);
  return im_out(im, n, 0, im_cast(im, eye, im_dtype_attr(im, n, "dtype", t.dtype)));
}

bool op_trilu(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  int64_t k = im_int_of(im, n, 1, NULL, 0);

  if (im_rank(im, x) < 2)
    return im_fail(im, n, "the input must have two dimensions or more");
  k = min64(max64(k, -INT32_MAX), INT32_MAX);
  /* upper: column >= row + k; lower: column < row + k + 1, the opposite of >= */
  bool upper = im_int(im, n, "upper", 1);
  Val mask = diagonal_mask(im, im_dim(im, x, -2), im_dim(im, x, -1), upper ? k : k + 1, OP_le);
  Val zero = im_const_like(im, x, 0);
  return im_out(im, n, 0, upper ? im_where(im, mask, x, zero) : im_where(im, mask, zero, x));
}

/* ---- training ops as inference has them */

/* The mask has the data's type before opset 10. */
bool op_dropout(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  Type t = im_type(im, x);
  bool training = im_int_of(im, n, 2, NULL, 0);

  if (training && im_float_of(im, n, 1, NULL, 0.5) != 0)
    return im_fail(im, n, "training mode is not supported: export for inference");
  return im_out(im, n, 0, x) &&
         im_out(im, n, 1, im_full(im, im_opset(im, n) < 10 ? t.dtype : DT_BOOL, t.rank, t.dim, 1));
}
