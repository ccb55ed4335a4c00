/* op_index.c - ONNX operators that choose elements by index: Gather and Scatter with their relatives, OneHot,
 * ReverseSequence, Compress, NonZero, Unique, Upsample.
 *
 * The core has two of them: gather of rows, and scatter of rows. What indexes single elements (GatherElements) or
 * by several coordinates (GatherND) computes a flat index into the reshaped data. Flat indices are i32 where they fit. */
#include "frontend/onnx/onnx_ops.h"

#include <stdlib.h>

/* The type that indices of n elements are computed in. */
static DType index_type(int64_t n)
{
  return n <= INT32_MAX ? DT_I32 : DT_I64;
}

static bool never_negative(Import *im, Val indices)
{
  DType t = im_elem(im, indices);
  Tensor x;

  if (dtype_info[t].kind == DK_INT && !dtype_is_signed(t))
    return true;
  if (!im_constant(im, indices, &x))
    return false;
  for (int64_t i = 0, n = type_count(&x.type); i < n; i++)
    if (tensor_get_int(&x, i) < 0)
      return false;
  return true;
}

/* Indices into `dim` elements, from a table of `all`, with negative ones counted from the end. */
static Val wrapped(Import *im, Val indices, int64_t dim, int64_t all)
{
  if (dtype_info[im_elem(im, indices)].kind != DK_INT) {
    im_fail(im, im->node, "indices must be integers");
    return 0;
  }
  bool as_they_are = never_negative(im, indices);
  Val i = im_cast(im, indices, index_type(all));
  return as_they_are ? i : im_wrap_indices(im, i, dim);
}

/* 0, stride, 2 stride .. along one of `rank` dimensions. */
static Val steps(Import *im, DType t, uint32_t axis, uint32_t rank, int64_t n, int64_t stride)
{
  Val i = im_add2(im, OP_mul, im_iota(im, t, n), im_const_i(im, t, stride));
  return im_at_channel(im, i, axis, rank);
}

/* ---- Gather */

/* Constant indices in equal steps are a slice, which lowering reads in place. */
static bool as_steps(const Tensor *x, int64_t dim, int64_t *start, int64_t *step)
{
  int64_t n = type_count(&x->type);

  *step = 1;
  for (int64_t i = 0; i < n; i++) {
    int64_t at = tensor_get_int(x, i) + (tensor_get_int(x, i) < 0 ? dim : 0);
    if (at < 0 || at >= dim)
      return false;
    if (i == 0)
      *start = at;
    if (i == 1)
      *step = at - *start;
    if (at != *start + i * *step)
      return false;
  }
  return n > 0 && *step != 0;
}

static Val gather_slice(Import *im, Val x, Val indices, uint32_t axis)
{
  Type t = im_type(im, x), out = t, ti = im_type(im, indices);
  int64_t start = 0, step;
  Tensor c;

  if (im_is_constant(im, x) || !im_constant(im, indices, &c) || dtype_info[ti.dtype].kind != DK_INT ||
      t.rank + ti.rank > MAX_RANK + 1 || !as_steps(&c, t.dim[axis], &start, &step))
    return 0;
  out.rank = t.rank - 1 + ti.rank;
  memcpy(out.dim + axis, ti.dim, ti.rank * sizeof *ti.dim);
  memcpy(out.dim + axis + ti.rank, t.dim + axis + 1, (t.rank - axis - 1) * sizeof *t.dim);
  return im_reshape(im, im_slice(im, x, axis, start, type_count(&ti), step), out.rank, out.dim);
}

bool op_gather(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), indices = im_in(im, n, 1);
  uint32_t axis = im_axis_attr(im, n, "axis", 0, im_rank(im, x));
  int64_t dim = im_dim(im, x, axis);

  if (!im_ok(im))
    return false;
  Val slice = gather_slice(im, x, indices, axis);
  return im_out(im, n, 0, slice ? slice : im_gather(im, x, wrapped(im, indices, dim, dim), axis));
}

/* Flat places in data: indices replace the coordinate of `axis`, the others are those of the index itself. */
static Val element_places(Import *im, const Type *data, Val indices, uint32_t axis)
{
  Type ti = im_type(im, indices);
  int64_t all = type_count(data);
  DType it = index_type(all);

  if (ti.rank != data->rank) {
    im_fail(im, im->node, "indices have %u dimensions, the data %u", ti.rank, data->rank);
    return 0;
  }
  int64_t stride = im_span(data, axis + 1, data->rank);
  Val at = wrapped(im, indices, data->dim[axis], all);
  at = im_add2(im, OP_mul, at, im_const_i(im, it, stride));
  for (uint32_t i = 0; i < ti.rank; i++)
    if (i != axis && ti.dim[i] > 1)
      at = im_add2(im, OP_add, at, steps(im, it, i, ti.rank, ti.dim[i], im_span(data, i + 1, data->rank)));
  return at;
}

bool op_gather_elements(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), indices = im_in(im, n, 1);
  Type t = im_type(im, x);
  uint32_t axis = im_axis_attr(im, n, "axis", 0, t.rank);

  return im_out(im, n, 0, im_gather(im, im_flat(im, x), element_places(im, &t, indices, axis), 0));
}

/* Flat places of the rows that the last dimension's k coordinates name, in data[dims from `first` on]. */
static Val row_places(Import *im, const Type *data, Val indices, uint32_t first)
{
  uint32_t last = im_rank(im, indices) - 1;
  int64_t k = im_dim(im, indices, -1), all = type_count(data);
  DType it = index_type(all);
  Val at = 0;

  for (int64_t i = 0; i < k; i++) {
    uint32_t axis = first + (uint32_t)i;
    int64_t stride = im_span(data, axis + 1, first + (uint32_t)k);
    Val one = wrapped(im, im_squeeze(im, im_part(im, indices, last, i, 1), last), data->dim[axis], all);
    one = im_add2(im, OP_mul, one, im_const_i(im, it, stride));
    at = at ? im_add2(im, OP_add, at, one) : one;
  }
  if (k)
    return at;
  Type t = im_type(im, indices);
  return im_full(im, it, t.rank - 1, t.dim, 0);
}

bool op_gather_nd(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), indices = im_in(im, n, 1);
  Type t = im_type(im, x), ti = im_type(im, indices);
  int64_t b = im_int(im, n, "batch_dims", 0), k = im_dim(im, indices, -1), d[2 * MAX_RANK];

  if (!im_ok(im) || !ti.rank || b < 0 || b >= ti.rank || b + k > t.rank)
    return im_fail(im, n, "indices of %lld coordinates after %lld batch dimensions", (long long)k,
                   (long long)b);
  uint32_t named = (uint32_t)(b + k), rank = ti.rank - 1 + t.rank - named;
  Val at = row_places(im, &t, indices, (uint32_t)b);
  for (uint32_t i = 0; i < b; i++)
    if (ti.dim[i] > 1)
      at = im_add2(im, OP_add, at,
                   steps(im, im_elem(im, at), i, ti.rank - 1, ti.dim[i], im_span(&t, i + 1, named)));
  if (rank > MAX_RANK)
    return im_fail(im, n, "the result has %u dimensions", rank);
  memcpy(d, ti.dim, (ti.rank - 1) * sizeof *d);
  memcpy(d + ti.rank - 1, t.dim + named, (t.rank - named) * sizeof *d);
  Val table = im_reshape_to(im, x, im_span(&t, 0, named), im_span(&t, named, t.rank));
  return im_out(im, n, 0, im_reshape(im, im_gather(im, table, im_flat(im, at), 0), rank, d));
}

/* ---- Scatter */

static ScatterReduce reduction(Import *im, const OnnxNode *n)
{
  static const char *const names[] = {"none", "add", "mul", "max", "min"};
  const char *name = im_str(im, n, "reduction", "none");

  for (uint32_t i = 0; i < COUNT(names); i++)
    if (!strcmp(name, names[i]))
      return (ScatterReduce)i;
  im_fail(im, n, "reduction '%s' is not known", name);
  return SCATTER_NONE;
}

bool op_scatter_elements(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), indices = im_in(im, n, 1), updates = im_in(im, n, 2);
  Type t = im_type(im, x);
  uint32_t axis = im_axis_attr(im, n, "axis", 0, t.rank);
  Val at = im_flat(im, element_places(im, &t, indices, axis));

  x = im_scatter(im, im_flat(im, x), at, im_flat(im, updates), reduction(im, n));
  return im_out(im, n, 0, im_reshape(im, x, t.rank, t.dim));
}

bool op_scatter_nd(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), indices = im_in(im, n, 1), updates = im_in(im, n, 2);
  Type t = im_type(im, x), ti = im_type(im, indices);
  int64_t k = im_dim(im, indices, -1);

  if (!im_ok(im) || !ti.rank || k > t.rank)
    return im_fail(im, n, "indices of %lld coordinates for %u dimensions", (long long)k, t.rank);
  int64_t rows = im_span(&t, 0, (uint32_t)k), inner = im_span(&t, (uint32_t)k, t.rank);
  Val at = im_flat(im, row_places(im, &t, indices, 0));
  updates = im_reshape_to(im, updates, im_span(&ti, 0, ti.rank - 1), inner);
  x = im_scatter(im, im_reshape_to(im, x, rows, inner), at, updates, reduction(im, n));
  return im_out(im, n, 0, im_reshape(im, x, t.rank, t.dim));
}

/* Rows of new values from a place of each batch on, along `axis`; circular: around the end. ONNX TensorScatter-24. */
bool op_tensor_scatter(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), updates = im_in(im, n, 1);
  Type t = im_type(im, x), tu = im_type(im, updates);
  uint32_t axis = im_axis_attr(im, n, "axis", -2, t.rank);
  bool circular = !strcmp(im_str(im, n, "mode", "linear"), "circular");

  if (!im_ok(im) || axis == 0 || tu.rank != t.rank)
    return im_fail(im, n, "axis %u of %u dimensions", axis, t.rank);
  int64_t before = im_span(&t, 0, axis), inner = im_span(&t, axis + 1, t.rank);
  int64_t dim = t.dim[axis], count = tu.dim[axis], each = before / max64(1, t.dim[0]);
  Val start = im_has(im, n, 2) ? im_cast(im, im_in(im, n, 2), DT_I32) : im_full(im, DT_I32, 1, t.dim, 0);
  Val at = im_add2(im, OP_add, im_unsqueeze(im, start, 1), im_iota(im, DT_I32, count)); /* [batch, count] */
  if (circular)
    at = im_add2(im, OP_mod, at, im_const_i(im, DT_I32, dim));
  at = im_expand(im, im_unsqueeze(im, at, 1), 3, (int64_t[]){t.dim[0], each, count});
  at = im_add2(im, OP_add, im_reshape_to(im, at, before, count), steps(im, DT_I32, 0, 2, before, dim));
  x = im_scatter(im, im_reshape_to(im, x, before * dim, inner), im_flat(im, at),
                 im_reshape_to(im, updates, before * count, inner), SCATTER_NONE);
  return im_out(im, n, 0, im_reshape(im, x, t.rank, t.dim));
}

/* ---- OneHot, ReverseSequence */

bool op_one_hot(Import *im, const OnnxNode *n)
{
  Val indices = im_in(im, n, 0), values = im_in(im, n, 2);
  Floats depth = im_need_floats(im, n, im_in(im, n, 1), "depth");
  uint32_t rank = im_rank(im, indices) + 1, axis = im_axis_attr(im, n, "axis", -1, rank);

  if (!im_ok(im) || depth.len != 1 || !(depth.data[0] >= 1 && depth.data[0] <= INT32_MAX) || rank > MAX_RANK)
    return im_fail(im, n, "depth must be one number");
  int64_t d = (int64_t)depth.data[0];
  Val at = im_wrap_indices(im, im_cast(im, indices, DT_I64), d);
  Val hot =
      im_add2(im, OP_eq, im_unsqueeze(im, at, axis), im_at_channel(im, im_iota(im, DT_I64, d), axis, rank));
  Val off = im_reshape(im, im_part(im, values, 0, 0, 1), 0, NULL);
  Val on = im_reshape(im, im_part(im, values, 0, 1, 1), 0, NULL);
  return im_out(im, n, 0, im_where(im, hot, on, off));
}

/* The first len[b] of each sequence in reverse. */
bool op_reverse_sequence(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), len = im_unsqueeze(im, im_cast(im, im_in(im, n, 1), DT_I32), 1);
  int64_t time_axis = im_int(im, n, "time_axis", 0), batch_axis = im_int(im, n, "batch_axis", 1);

  if (im_rank(im, x) < 2 || time_axis + batch_axis != 1 || (time_axis != 0 && time_axis != 1))
    return im_fail(im, n, "axes must be 0 and 1");
  if (time_axis == 0)
    x = im_swap(im, x, 0, 1);
  Type t = im_type(im, x);
  Val i = im_iota(im, DT_I32, t.dim[1]), back = im_add2(im, OP_sub, im_op_f(im, OP_sub, len, 1), i);
  Val at = im_where(im, im_add2(im, OP_lt, i, len), back, i); /* [batch, time] */
  at = im_add2(im, OP_add, at, steps(im, DT_I32, 0, 2, t.dim[0], t.dim[1]));
  Val rows = im_reshape_to(im, x, t.dim[0] * t.dim[1], im_span(&t, 2, t.rank));
  x = im_reshape(im, im_gather(im, rows, im_flat(im, at), 0), t.rank, t.dim);
  return im_out(im, n, 0, time_axis == 0 ? im_swap(im, x, 0, 1) : x);
}

/* ---- results whose size depends on values: constants alone */

bool op_compress(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  Ints keep = im_need_ints(im, n, im_in(im, n, 1), "condition");
  int64_t *at = NEW_ARRAY(im->arena, int64_t, keep.len), count = 0;
  uint32_t axis = 0;

  if (im_attr(im, n, "axis"))
    axis = im_axis_attr(im, n, "axis", 0, im_rank(im, x));
  else
    x = im_flat(im, x);
  if (!im_ok(im) || keep.len > im_dim(im, x, axis))
    return im_fail(im, n, "the condition has more entries than the dimension");
  for (uint32_t i = 0; i < keep.len; i++)
    if (keep.data[i])
      at[count++] = i;
  return im_out(im, n, 0, im_gather(im, x, im_const_ints(im, at, count), axis));
}

bool op_non_zero(Import *im, const OnnxNode *n)
{
  Tensor x;

  if (!im_need_constant(im, n, im_in(im, n, 0), "X", &x))
    return false;
  int64_t all = type_count(&x.type), count = 0;
  for (int64_t i = 0; i < all; i++)
    count += tensor_get(&x, i) != 0;
  Tensor r = im_tensor_new(im, type_of(DT_I64, 2, (int64_t[]){x.type.rank, count}));
  for (int64_t i = 0, k = 0; r.data && i < all; i++) {
    int64_t rest = i;
    if (tensor_get(&x, i) == 0)
      continue;
    for (uint32_t d = x.type.rank; d-- > 0; rest /= x.type.dim[d])
      tensor_set_int(&r, d * count + k, rest % x.type.dim[d]);
    k++;
  }
  return im_out(im, n, 0, im_const_tensor(im, &r));
}

/* ---- Unique: rows [count, width] of a constant, compared as sequences of numbers */

typedef struct {
  const Tensor *x;
  int64_t outer, dim, inner; /* of the axis; one row is x[.., i, ..] */
  int64_t row;
} UniqueKey;

static long double row_element(const UniqueKey *k, int64_t j)
{
  return tensor_get(k->x, (j / k->inner * k->dim + k->row) * k->inner + j % k->inner);
}

static int compare_rows(const void *pa, const void *pb)
{
  const UniqueKey *a = pa, *b = pb;

  for (int64_t j = 0; j < a->outer * a->inner; j++) {
    long double x = row_element(a, j), y = row_element(b, j);
    if (x != y)
      return x < y ? -1 : 1;
  }
  return 0;
}

static int compare_stable(const void *pa, const void *pb)
{
  const UniqueKey *a = pa, *b = pb;
  int c = compare_rows(a, b);

  return c ? c : (a->row > b->row) - (a->row < b->row);
}

static int compare_first(const void *pa, const void *pb)
{
  int64_t a = *(const int64_t *)pa, b = *(const int64_t *)pb;
  return (a > b) - (a < b);
}

typedef struct {
  int64_t *first, *inverse, *counts, n; /* first: the row where each distinct one first stands */
} Groups;

static Groups group_rows(Import *im, UniqueKey *keys, int64_t n, bool sorted)
{
  int64_t(*order)[2] = arena_array(im->arena, sizeof *order, (size_t)n); /* first row, group by value */
  int64_t *rank = NEW_ARRAY(im->arena, int64_t, (size_t)n), *group = NEW_ARRAY(im->arena, int64_t, (size_t)n);
  Groups g = {NEW_ARRAY(im->arena, int64_t, (size_t)n), NEW_ARRAY(im->arena, int64_t, (size_t)n),
              NEW_ARRAY(im->arena, int64_t, (size_t)n), 0};

  qsort(keys, (size_t)n, sizeof *keys, compare_stable);
  for (int64_t i = 0; i < n; i++) {
    if (i == 0 || compare_rows(&keys[i - 1], &keys[i])) {
      order[g.n][0] = keys[i].row;
      order[g.n][1] = g.n;
      g.n++;
    }
    group[keys[i].row] = g.n - 1;
  }
  if (!sorted)
    qsort(order, (size_t)g.n, sizeof *order, compare_first);
  for (int64_t i = 0; i < g.n; i++) {
    g.first[i] = order[i][0];
    rank[order[i][1]] = i;
  }
  for (int64_t i = 0; i < n; i++) {
    g.inverse[i] = rank[group[i]];
    g.counts[g.inverse[i]]++;
  }
  return g;
}

bool op_unique(Import *im, const OnnxNode *n)
{
  Val v = im_in(im, n, 0);
  bool flat = !im_attr(im, n, "axis");
  uint32_t axis = flat ? 0 : im_axis_attr(im, n, "axis", 0, im_rank(im, v));
  Tensor x;

  v = flat ? im_flat(im, v) : v;
  if (!im_need_constant(im, n, v, "X", &x))
    return false;
  const int64_t *d = x.type.dim;
  UniqueKey *keys = NEW_ARRAY(im->arena, UniqueKey, (size_t)d[axis]);
  for (int64_t i = 0; i < d[axis]; i++)
    keys[i] = (UniqueKey){&x, im_span(&x.type, 0, axis), d[axis], im_span(&x.type, axis + 1, x.type.rank), i};
  Groups g = group_rows(im, keys, d[axis], im_int(im, n, "sorted", 1));
  Val first = im_const_ints(im, g.first, g.n);
  return im_out(im, n, 0, im_gather(im, im_const_tensor(im, &x), first, axis)) && im_out(im, n, 1, first) &&
         im_out(im, n, 2, im_const_ints(im, g.inverse, d[axis])) &&
         im_out(im, n, 3, im_const_ints(im, g.counts, g.n));
}
