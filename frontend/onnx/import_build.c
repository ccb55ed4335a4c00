/* import_build.c - builders of core ops: they check what comes from the file, fold constants, and leave out what
 * changes nothing. */
#include "frontend/onnx/import_scope.h"

enum { NODES_MAX = 1 << 20 }; /* unrolled loops end here */

Type im_type(const Import *im, Val v)
{
  return graph_node(im->graph, v)->type;
}

int64_t im_dim(const Import *im, Val v, int64_t axis)
{
  Type t = im_type(im, v);
  int64_t i = axis < 0 ? axis + t.rank : axis;

  return i >= 0 && i < t.rank ? t.dim[i] : 1;
}

int64_t im_span(const Type *t, uint32_t from, uint32_t to)
{
  int64_t n = 1;

  for (uint32_t i = from; i < to && i < t->rank; i++)
    n *= t->dim[i];
  return n;
}

/* ---- any op */

Val im_emit(Import *im, Op op, const Val *in, uint32_t n_in, Attr attr, const Type *type)
{
  Type t = type ? *type : (Type){0};
  Err why = {0};

  if (!im_ok(im))
    return 0;
  for (uint32_t i = 0; i < n_in; i++)
    if (!in[i]) {
      im_fail(im, im->node, "input %u of %s has no value", i, op_info[op].name);
      return 0;
    }
  if (im->graph->nodes.len >= NODES_MAX) {
    im_fail(im, im->node, "the graph unrolls to more than %d operations", NODES_MAX);
    return 0;
  }
  if (op == OP_slice && !attr.slice.step)
    attr.slice.step = 1;
  if (!graph_infer(im->graph, op, in, n_in, &attr, &t, &why)) {
    im_fail(im, im->node, "%s", why.text);
    return 0;
  }
  Val v = graph_add(im->graph, op, in, n_in, attr, &t);
  graph_node(im->graph, v)->from = im->from;
  return im_fold(im, v);
}

Val im_add1(Import *im, Op op, Val a)
{
  return im_emit(im, op, &a, 1, (Attr){0}, NULL);
}

Val im_add2(Import *im, Op op, Val a, Val b)
{
  return im_emit(im, op, (Val[]){a, b}, 2, (Attr){0}, NULL);
}

Val im_add3(Import *im, Op op, Val a, Val b, Val c)
{
  return im_emit(im, op, (Val[]){a, b, c}, 3, (Attr){0}, NULL);
}

Val im_op_f(Import *im, Op op, Val a, double b)
{
  return im_add2(im, op, a, im_const_like(im, a, b));
}

Val im_where(Import *im, Val c, Val a, Val b)
{
  return im_add3(im, OP_where, c, a, b);
}

Val im_gt(Import *im, Val a, Val b)
{
  return im_add2(im, OP_lt, b, a);
}

Val im_ge(Import *im, Val a, Val b)
{
  return im_add2(im, OP_le, b, a);
}

Val im_clip(Import *im, Val v, double lo, double hi)
{
  return im_op_f(im, OP_min, im_op_f(im, OP_max, v, lo), hi);
}

Val im_rsqrt(Import *im, Val v)
{
  return im_add2(im, OP_div, im_const_like(im, v, 1), im_add1(im, OP_sqrt, v));
}

/* ---- element types */

Val im_cast_to(Import *im, Val v, DType t, bool saturate)
{
  Type type = im_type(im, v);

  if (!v || type.dtype == t)
    return v;
  type.dtype = t;
  return im_emit(im, OP_cast, &v, 1, (Attr){.saturate = saturate}, &type);
}

Val im_cast(Import *im, Val v, DType t)
{
  return im_cast_to(im, v, t, true);
}

Val im_cast_like(Import *im, Val v, Val like)
{
  return im_cast(im, v, im_elem(im, like));
}

Val im_bitcast(Import *im, Val v, DType t)
{
  Type type = im_type(im, v);

  if (!v || type.dtype == t)
    return v;
  type.dtype = t;
  return im_emit(im, OP_bitcast, &v, 1, (Attr){0}, &type);
}

Val im_float_compute(Import *im, Val v)
{
  DType t = im_elem(im, v);
  return t == DT_F16 || t == DT_BF16 || dtype_info[t].kind == DK_FLOAT8 ? im_cast(im, v, DT_F32) : v;
}

/* ---- shapes */

static bool rank_fits(Import *im, uint32_t rank)
{
  return rank <= MAX_RANK || im_fail(im, im->node, "rank %u is above %d", rank, MAX_RANK);
}

/* A constant under another shape shares its elements. */
static Val reshape_constant(Import *im, Val v, const Type *t)
{
  const Node *n = graph_node(im->graph, v);
  Tensor x;

  if (n->op == OP_const)
    return im_full(im, t->dtype, t->rank, t->dim, n->attr.value);
  im_constant(im, v, &x);
  x.type = *t;
  return im_const_tensor(im, &x);
}

Val im_reshape(Import *im, Val v, uint32_t rank, const int64_t *dim)
{
  Err why = {0};

  if (!im_ok(im) || !v || !rank_fits(im, rank))
    return 0;
  Type was = im_type(im, v), t = type_of(was.dtype, rank, dim);
  if (type_eq(&was, &t))
    return v;
  if (!graph_infer(im->graph, OP_reshape, &v, 1, &(Attr){0}, &t, &why)) {
    im_fail(im, im->node, "%s", why.text);
    return 0;
  }
  if (im_is_constant(im, v))
    return reshape_constant(im, v, &t);
  if (graph_node(im->graph, v)->op == OP_reshape)
    return im_reshape(im, graph_in(im->graph, v, 0), rank, dim);
  return im_emit(im, OP_reshape, &v, 1, (Attr){0}, &t);
}

Val im_flat(Import *im, Val v)
{
  Type t = im_type(im, v);
  int64_t n = type_count(&t);
  return im_reshape(im, v, 1, &n);
}

Val im_flat_at(Import *im, Val v, uint32_t axis)
{
  Type t = im_type(im, v);
  int64_t d[2] = {1, 1};

  for (uint32_t i = 0; i < t.rank; i++)
    d[i >= axis] *= t.dim[i];
  return im_reshape(im, v, 2, d);
}

/* With zeros among the dimensions type_count is 0 whatever the others are, so reshapes keep them all. */
Val im_unsqueeze_mask(Import *im, Val v, uint32_t axes)
{
  Type t = im_type(im, v);
  int64_t d[2 * 32];
  uint32_t rank = t.rank + (uint32_t)__builtin_popcount(axes), from = 0;

  if (!rank_fits(im, rank))
    return 0;
  for (uint32_t i = 0; i < rank; i++)
    d[i] = axes >> i & 1 || from >= t.rank ? 1 : t.dim[from++];
  return im_reshape(im, v, rank, d);
}

Val im_squeeze_mask(Import *im, Val v, uint32_t axes)
{
  Type t = im_type(im, v);
  int64_t d[MAX_RANK];
  uint32_t rank = 0;

  for (uint32_t i = 0; i < t.rank; i++)
    if (!(axes >> i & 1))
      d[rank++] = t.dim[i];
    else if (t.dim[i] != 1) {
      im_fail(im, im->node, "dimension %u is %lld and cannot be dropped", i, (long long)t.dim[i]);
      return 0;
    }
  return im_reshape(im, v, rank, d);
}

Val im_unsqueeze(Import *im, Val v, uint32_t axis)
{
  return im_unsqueeze_mask(im, v, 1u << axis);
}

Val im_squeeze(Import *im, Val v, uint32_t axis)
{
  return im_squeeze_mask(im, v, 1u << axis);
}

Val im_at_channel(Import *im, Val v, uint32_t axis, uint32_t rank)
{
  int64_t d[MAX_RANK];
  Type t = im_type(im, v);

  if (!rank_fits(im, rank) || axis >= rank)
    return 0;
  for (uint32_t i = 0; i < rank; i++)
    d[i] = 1;
  d[axis] = type_count(&t);
  return im_reshape(im, v, rank, d);
}

/* ---- order */

Val im_transpose(Import *im, Val v, const uint8_t *perm)
{
  uint32_t rank = im_rank(im, v), same = 0;
  Attr a = {0};

  while (same < rank && perm[same] == same)
    same++;
  if (same == rank)
    return v;
  memcpy(a.perm, perm, rank);
  return im_emit(im, OP_transpose, &v, 1, a, NULL);
}

Val im_swap(Import *im, Val v, uint32_t a, uint32_t b)
{
  uint8_t perm[MAX_RANK];

  if (a >= MAX_RANK || b >= MAX_RANK)
    return 0;
  for (uint8_t i = 0; i < MAX_RANK; i++)
    perm[i] = i;
  perm[a] = (uint8_t)b;
  perm[b] = (uint8_t)a;
  return im_transpose(im, v, perm);
}

Val im_move(Import *im, Val v, uint32_t from, uint32_t to)
{
  uint8_t perm[MAX_RANK];
  uint32_t rank = im_rank(im, v), k = 0;

  if (from >= rank || to >= rank)
    return v ? (im_fail(im, im->node, "axes %u and %u of %u dimensions", from, to, rank), 0) : 0;
  for (uint32_t i = 0; i < rank; i++) {
    k += k == from;
    perm[i] = (uint8_t)(i == to ? from : k++);
  }
  return im_transpose(im, v, perm);
}

Val im_channels_last(Import *im, Val v)
{
  return im_rank(im, v) < 3 ? v : im_move(im, v, 1, im_rank(im, v) - 1);
}

Val im_channels_first(Import *im, Val v)
{
  return im_rank(im, v) < 3 ? v : im_move(im, v, im_rank(im, v) - 1, 1);
}

/* ---- broadcasting */

bool im_broadcast_dims(Import *im, const Type *a, const Type *b, Type *out)
{
  const Type *hi = a->rank >= b->rank ? a : b, *lo = a->rank >= b->rank ? b : a;

  *out = *hi;
  for (uint32_t i = 0; i < lo->rank; i++) {
    int64_t *d = &out->dim[hi->rank - lo->rank + i];
    if (*d != lo->dim[i] && *d != 1 && lo->dim[i] != 1)
      return im_fail(im, im->node, "dimensions %lld and %lld do not broadcast", (long long)*d,
                     (long long)lo->dim[i]);
    *d = *d == 1 ? lo->dim[i] : *d;
  }
  return true;
}

Val im_expand(Import *im, Val v, uint32_t rank, const int64_t *dim)
{
  if (!im_ok(im) || !v || !rank_fits(im, rank))
    return 0;
  Type was = im_type(im, v), t = type_of(was.dtype, rank, dim);
  if (type_eq(&was, &t))
    return v;
  const Node *n = graph_node(im->graph, v);
  if (n->op == OP_const)
    return im_full(im, t.dtype, rank, dim, n->attr.value);
  return im_emit(im, OP_expand, &v, 1, (Attr){0}, &t);
}

Val im_broadcast(Import *im, Val v, uint32_t rank, const int64_t *dim)
{
  Type out, t = im_type(im, v);

  if (!rank_fits(im, rank))
    return 0;
  Type want = type_of(t.dtype, rank, dim);
  return im_broadcast_dims(im, &t, &want, &out) ? im_expand(im, v, out.rank, out.dim) : 0;
}

/* ---- parts */

Val im_slice(Import *im, Val v, uint32_t axis, int64_t start, int64_t count, int64_t step)
{
  if (v && axis < im_rank(im, v) && start == 0 && step == 1 && count == im_dim(im, v, axis))
    return v;
  Attr a = {.slice = {axis, start, count, step}};
  return im_emit(im, OP_slice, &v, 1, a, NULL);
}

Val im_part(Import *im, Val v, uint32_t axis, int64_t start, int64_t count)
{
  return im_slice(im, v, axis, start, count, 1);
}

Val im_flip(Import *im, Val v, uint32_t axis)
{
  int64_t n = im_dim(im, v, axis);
  return n < 2 ? v : im_slice(im, v, axis, n - 1, n, -1);
}

Val im_concat(Import *im, const Val *in, uint32_t n, uint32_t axis)
{
  return n == 1 ? in[0] : im_emit(im, OP_concat, in, n, (Attr){.axis = axis}, NULL);
}

Val im_stack(Import *im, const Val *in, uint32_t n, uint32_t axis)
{
  Val *wide = NEW_ARRAY(im->arena, Val, n);

  for (uint32_t i = 0; i < n; i++)
    wide[i] = im_unsqueeze(im, in[i], axis);
  return im_concat(im, wide, n, axis);
}

Val im_pad(Import *im, Val v, const int64_t *lo, const int64_t *hi, Val value)
{
  Type t = im_type(im, v);
  Attr a = {0};
  bool any = false;

  for (uint32_t i = 0; i < t.rank; i++) {
    if (__builtin_add_overflow(t.dim[i], lo[i], &t.dim[i]) ||
        __builtin_add_overflow(t.dim[i], hi[i], &t.dim[i]) || t.dim[i] < 0) {
      im_fail(im, im->node, "pads %lld and %lld leave no valid dimension %u", (long long)lo[i],
              (long long)hi[i], i);
      return 0;
    }
    a.pad.lo[i] = lo[i];
    any |= lo[i] || hi[i];
  }
  if (!any)
    return v;
  return im_emit(im, OP_pad, (Val[]){v, value ? value : im_const_like(im, v, 0)}, 2, a, &t);
}

Val im_pad_axis(Import *im, Val v, uint32_t axis, int64_t lo, int64_t hi, Val value)
{
  int64_t los[MAX_RANK] = {0}, his[MAX_RANK] = {0};

  if (axis >= MAX_RANK)
    return 0;
  los[axis] = lo;
  his[axis] = hi;
  return im_pad(im, v, los, his, value);
}

/* ---- indices */

Val im_gather(Import *im, Val data, Val indices, uint32_t axis)
{
  return im_emit(im, OP_gather, (Val[]){data, indices}, 2, (Attr){.axis = axis}, NULL);
}

Val im_wrap_indices(Import *im, Val indices, int64_t n)
{
  Val wide = im_cast(im, indices, im_elem(im, indices) == DT_I64 ? DT_I64 : DT_I32);
  Val wrapped = im_add2(im, OP_add, wide, im_const_i(im, im_elem(im, wide), n));

  return im_where(im, im_add2(im, OP_lt, wide, im_const_like(im, wide, 0)), wrapped, wide);
}

Val im_scatter(Import *im, Val data, Val indices, Val updates, ScatterReduce reduce)
{
  return im_emit(im, OP_scatter, (Val[]){data, indices, updates}, 3, (Attr){.reduce = reduce}, NULL);
}

/* ---- along axes */

Val im_reduce(Import *im, Op op, Val v, uint32_t axes, bool keep)
{
  Type t = im_type(im, v);
  uint32_t dropped = 0;
  Val r = axes & ((1u << t.rank) - 1) ? im_emit(im, op, &v, 1, (Attr){.axes = axes}, NULL) : v;

  for (uint32_t i = 0; i < t.rank; i++)
    dropped |= axes & 1u << i;
  return keep ? r : im_squeeze_mask(im, r, dropped);
}

Val im_sum(Import *im, Val v, uint32_t axes, bool keep)
{
  return im_reduce(im, OP_reduce_sum, v, axes, keep);
}

Val im_mean(Import *im, Val v, uint32_t axes, bool keep)
{
  Type t = im_type(im, v);
  double n = 1;

  for (uint32_t i = 0; i < t.rank; i++)
    n *= axes >> i & 1 ? (double)t.dim[i] : 1;
  return im_op_f(im, OP_div, im_sum(im, v, axes, keep), n);
}

Val im_arg(Import *im, Op op, Val v, uint32_t axis, bool last, bool keep)
{
  Attr a = {.arg = {axis, last}};
  Val r = im_emit(im, op, &v, 1, a, NULL);
  return keep ? r : im_squeeze(im, r, axis);
}

Val im_cum(Import *im, Op op, Val v, uint32_t axis, bool exclusive, bool reverse)
{
  Attr a = {.scan = {axis, exclusive, reverse}};
  return im_emit(im, op, &v, 1, a, NULL);
}

Val im_softmax(Import *im, Val v, uint32_t axis)
{
  uint32_t rank = im_rank(im, v), last = rank ? rank - 1 : 0;

  if (axis == last)
    return im_add1(im, OP_softmax, v);
  return im_swap(im, im_add1(im, OP_softmax, im_swap(im, v, axis, last)), axis, last);
}

Val im_topk(Import *im, Val v, int64_t count, bool largest)
{
  Attr a = {.topk = {count, largest}};
  return im_emit(im, OP_topk, &v, 1, a, NULL);
}

Val im_log_softmax(Import *im, Val x, uint32_t axis)
{
  Val y = im_float_compute(im, x);

  y = im_add2(im, OP_sub, y, im_reduce(im, OP_reduce_max, y, 1u << axis, true));
  Val sum = im_sum(im, im_add1(im, OP_exp, y), 1u << axis, true);
  return im_cast_like(im, im_add2(im, OP_sub, y, im_add1(im, OP_log, sum)), x);
}

Val im_pick(Import *im, Val x, Val indices)
{
  Type t = im_type(im, x), ti = im_type(im, indices);
  int64_t n = type_last(&t), k = type_last(&ti), rows = type_rows(&t);
  Val base = im_add2(im, OP_mul, im_iota(im, DT_I64, rows), im_const_i(im, DT_I64, n));
  Val at = im_add2(im, OP_add, im_reshape_to(im, indices, rows, k), im_unsqueeze(im, base, 1));
  return im_reshape(im, im_gather(im, im_flat(im, x), at, 0), ti.rank, ti.dim);
}

/* ---- products */

Val im_matmul(Import *im, Val a, Val b)
{
  return im_add2(im, OP_matmul, a, b);
}

Val im_conv(Import *im, Val x, Val w, Val bias, const Window *win)
{
  return im_emit(im, OP_conv, (Val[]){x, w, bias}, bias ? 3 : 2, (Attr){.window = *win}, NULL);
}

Val im_pool(Import *im, Op op, Val x, const Window *win)
{
  return im_emit(im, op, &x, 1, (Attr){.window = *win}, NULL);
}
