/* graph_dense.c - the rules of types that only dense graphs need. What each op means: graph_ops.def. */
#include "ir/graph_rules.h"

/* ---- element types */

static const char *const takes_text[] = {
    [TAKES_FLOAT] = "of f16, bf16, f32 or f64",   [TAKES_NUM] = "of floats or integers",
    [TAKES_BITS] = "of integers or bool",         [TAKES_ALL] = "of floats, integers or bool",
    [TAKES_ANY] = "of an element type, no block",
};

static bool takes(OpTakes takes, DType t)
{
  bool is_int = dtype_info[t].kind == DK_INT && t != DT_BOOL, is_float = dtype_info[t].kind == DK_FLOAT;

  switch (takes) {
  case TAKES_OWN: return true;
  case TAKES_FLOAT: return is_float;
  case TAKES_NUM: return is_float || is_int;
  case TAKES_BITS: return is_int || t == DT_BOOL;
  case TAKES_ALL: return is_float || is_int || t == DT_BOOL;
  case TAKES_ANY: return dtype_is_element(t);
  }
  return false;
}

bool rule_dense_takes(const Rule *r)
{
  OpTakes want = op_info[r->op].takes;

  for (uint32_t i = 0; i < r->n_in; i++)
    if (!takes(want, rule_in(r, i)->dtype))
      return rule_bad_input(r, i, takes_text[want]);
  if (r->op == OP_weight && !dtype_is_element(r->out->dtype))
    return fail(r->e, "weight is %s, which no dense graph holds", rule_type_text(r->g, r->out));
  return true;
}

static bool same_dtype(const Rule *r, uint32_t a, uint32_t b)
{
  if (rule_in(r, a)->dtype == rule_in(r, b)->dtype)
    return true;
  return fail(r->e, "%s: input %u is %s, must be of %s like input %u", op_info[r->op].name, b,
              rule_type_text(r->g, rule_in(r, b)), dtype_info[rule_in(r, a)->dtype].name, a);
}

static bool is_integer(const Rule *r, uint32_t i)
{
  DType t = rule_in(r, i)->dtype;
  return (dtype_info[t].kind == DK_INT && t != DT_BOOL) || rule_bad_input(r, i, "of integers");
}

static bool is_code(DType t)
{
  return t == DT_I8 || t == DT_U8;
}

/* Weights may be kept in 16 bits where the sums are f32; 8-bit integers may differ in sign. */
static bool weight_fits(const Rule *r, uint32_t x, uint32_t w)
{
  DType tx = rule_in(r, x)->dtype, tw = rule_in(r, w)->dtype;
  return (tx == DT_F32 && (tw == DT_F16 || tw == DT_BF16)) || (is_code(tx) && is_code(tw)) ||
         same_dtype(r, x, w);
}

/* Sums of 8-bit integers are exact, in 32 bits. */
static DType sum_type(DType t)
{
  return is_code(t) ? DT_I32 : t;
}

static bool bad_axis(const Rule *r, uint32_t axis)
{
  return fail(r->e, "%s: axis %u, but the input is %s", op_info[r->op].name, axis,
              rule_type_text(r->g, rule_in(r, 0)));
}

/* ---- given types */

static bool given_expand(const Rule *r)
{
  const Type *t = rule_in(r, 0);
  bool ok = t->dtype == r->out->dtype && t->rank <= r->out->rank;

  for (uint32_t i = 1; ok && i <= t->rank; i++)
    ok = t->dim[t->rank - i] == 1 || t->dim[t->rank - i] == r->out->dim[r->out->rank - i];
  return ok || fail(r->e, "expand: %s does not broadcast to %s", rule_type_text(r->g, t),
                    rule_type_text(r->g, r->out));
}

static bool given_pad(const Rule *r)
{
  const Type *t = rule_in(r, 0), *value = rule_in(r, 1);

  if (value->rank)
    return rule_bad_input(r, 1, "a scalar");
  if (!same_dtype(r, 0, 1))
    return false;
  if (t->dtype != r->out->dtype || t->rank != r->out->rank)
    return fail(r->e, "pad: %s cannot become %s", rule_type_text(r->g, t), rule_type_text(r->g, r->out));
  for (uint32_t i = 0; i < t->rank; i++)
    if (r->attr->pad.lo[i] < -MAX_ELEMENTS || r->attr->pad.lo[i] > MAX_ELEMENTS)
      return fail(r->e, "pad: %lld elements before dimension %u", (long long)r->attr->pad.lo[i], i);
  return true;
}

static bool given_cast(const Rule *r)
{
  Type t = *rule_in(r, 0);
  DType to = r->out->dtype;

  if (!dtype_is_element(to))
    return fail(r->e, "%s: the result is %s, which no dense graph holds", op_info[r->op].name,
                rule_type_text(r->g, r->out));
  if (r->op == OP_bitcast && dtype_info[t.dtype].bytes != dtype_info[to].bytes)
    return fail(r->e, "bitcast: %s has another size than %s", dtype_info[t.dtype].name, dtype_info[to].name);
  t.dtype = to;
  return type_eq(&t, r->out) || fail(r->e, "%s is %s, must be %s", op_info[r->op].name,
                                     rule_type_text(r->g, r->out), rule_type_text(r->g, &t));
}

bool rule_dense_given(const Rule *r)
{
  switch (r->op) {
  case OP_expand: return given_expand(r);
  case OP_pad: return given_pad(r);
  case OP_cast:
  case OP_bitcast: return given_cast(r);
  default: return fail(r->e, "op %u does not exist", (unsigned)r->op);
  }
}

/* ---- elementwise, along axes */

bool rule_dense_where(const Rule *r)
{
  if (rule_in(r, 0)->dtype != DT_BOOL)
    return rule_bad_input(r, 0, "of bool");
  if (!dtype_is_element(rule_in(r, 1)->dtype))
    return rule_bad_input(r, 1, takes_text[TAKES_ANY]);
  if (!same_dtype(r, 1, 2))
    return false;
  *r->out = *rule_in(r, 1);
  return rule_bcast(r, r->out, rule_in(r, 2)) && rule_bcast(r, r->out, rule_in(r, 0));
}

bool rule_dense_axes(const Rule *r)
{
  const Type *t = rule_in(r, 0);

  if (r->attr->axes >> t->rank)
    return fail(r->e, "%s: axes %#x, but the input is %s", op_info[r->op].name, r->attr->axes,
                rule_type_text(r->g, t));
  *r->out = *t;
  for (uint32_t d = 0; d < t->rank; d++)
    if (r->attr->axes >> d & 1)
      r->out->dim[d] = 1;
  return true;
}

bool rule_dense_arg(const Rule *r)
{
  const Type *t = rule_in(r, 0);
  uint32_t axis = r->attr->arg.axis;

  if (axis >= t->rank)
    return bad_axis(r, axis);
  if (!t->dim[axis])
    return fail(r->e, "%s: %s has no elements along axis %u", op_info[r->op].name, rule_type_text(r->g, t),
                axis);
  *r->out = *t;
  r->out->dtype = DT_I64;
  r->out->dim[axis] = 1;
  return true;
}

bool rule_dense_topk(const Rule *r)
{
  const Type *t = rule_in(r, 0);
  int64_t count = r->attr->topk.count;

  if (!t->rank)
    return rule_bad_input(r, 0, "of rank 1 or more");
  if (count < 0 || count > type_last(t))
    return fail(r->e, "topk: %lld of %lld elements", (long long)count, (long long)type_last(t));
  *r->out = *t;
  r->out->dtype = DT_I64;
  r->out->dim[t->rank - 1] = count;
  return true;
}

/* ---- index */

bool rule_dense_gather(const Rule *r)
{
  const Type *data = rule_in(r, 0), *index = rule_in(r, 1);
  uint32_t axis = r->attr->axis, rank = data->rank + index->rank - 1;

  if (!dtype_is_element(data->dtype))
    return rule_bad_input(r, 0, takes_text[TAKES_ANY]);
  if (!is_integer(r, 1))
    return false;
  if (axis >= data->rank)
    return bad_axis(r, axis);
  if (rank > MAX_RANK)
    return fail(r->e, "gather: the result has %u dimensions, %d are allowed", rank, MAX_RANK);
  if (!data->dim[axis] && type_count(index))
    return fail(r->e, "gather: axis %u of %s has no elements", axis, rule_type_text(r->g, data));
  *r->out = (Type){.dtype = data->dtype, .rank = rank};
  memcpy(r->out->dim, data->dim, axis * sizeof(int64_t));
  memcpy(r->out->dim + axis, index->dim, index->rank * sizeof(int64_t));
  memcpy(r->out->dim + axis + index->rank, data->dim + axis + 1, (data->rank - axis - 1) * sizeof(int64_t));
  return true;
}

bool rule_dense_scatter(const Rule *r)
{
  const Type *data = rule_in(r, 0), *index = rule_in(r, 1), *updates = rule_in(r, 2);
  OpTakes want = r->attr->reduce == SCATTER_NONE ? TAKES_ANY : TAKES_NUM;
  Type t = *data;

  if (!takes(want, data->dtype))
    return rule_bad_input(r, 0, takes_text[want]);
  if (!data->rank)
    return rule_bad_input(r, 0, "of rank 1 or more");
  if (!is_integer(r, 1) || (index->rank != 1 && !rule_bad_input(r, 1, "of rank 1")) || !same_dtype(r, 0, 2))
    return false;
  if ((unsigned)r->attr->reduce > SCATTER_MIN)
    return fail(r->e, "scatter: reduce %u does not exist", (unsigned)r->attr->reduce);
  t.dim[0] = index->dim[0];
  return type_eq(&t, updates) || rule_bad_input(r, 2, rule_type_text(r->g, &t));
}

/* ---- products and windows */

bool rule_dense_linear(const Rule *r)
{
  const Type *x = rule_in(r, 0), *w = rule_in(r, 1);

  if (!x->rank)
    return rule_bad_input(r, 0, "of rank 1 or more");
  if (!weight_fits(r, 0, 1))
    return false;
  if (w->rank != 2 || w->dim[1] != type_last(x))
    return fail(r->e, "linear: x is %s, w is %s, must be [n, %lld]", rule_type_text(r->g, x),
                rule_type_text(r->g, w), (long long)type_last(x));
  *r->out = *x;
  r->out->dtype = sum_type(x->dtype);
  r->out->dim[x->rank - 1] = w->dim[0];
  return true;
}

bool rule_dense_matmul(const Rule *r)
{
  Type a = *rule_in(r, 0), b = *rule_in(r, 1);

  if (!same_dtype(r, 0, 1))
    return false;
  if (a.rank < 2 || b.rank < 2)
    return rule_bad_input(r, a.rank < 2 ? 0 : 1, "of rank 2 or more");
  int64_t m = a.dim[a.rank - 2], k = a.dim[a.rank - 1], n = b.dim[b.rank - 1];
  if (b.dim[b.rank - 2] != k)
    return fail(r->e, "matmul: %s and %s do not fit", rule_type_text(r->g, &a), rule_type_text(r->g, &b));
  a.rank -= 2;
  b.rank -= 2;
  if (!rule_bcast(r, &a, &b))
    return false;
  a.dim[a.rank++] = m;
  a.dim[a.rank++] = n;
  *r->out = a;
  return true;
}

static bool sdpa_takes(const Rule *r)
{
  DType t = rule_in(r, 0)->dtype;

  if (r->n_in < 3 || r->n_in > 4)
    return fail(r->e, "sdpa: %u inputs, must be q, k, v and perhaps a mask", r->n_in);
  if (t != DT_F16 && t != DT_BF16 && t != DT_F32)
    return rule_bad_input(r, 0, "of f16, bf16 or f32");
  for (uint32_t i = 1; i < r->n_in; i++)
    if (!same_dtype(r, 0, i))
      return false;
  if (r->attr->attention.window || !(r->attr->attention.softcap >= 0))
    return fail(r->e, "sdpa: window is %lld, softcap %g; must be 0, and 0 or more",
                (long long)r->attr->attention.window, (double)r->attr->attention.softcap);
  return true;
}

/* Keys or values: of q's rank, for all or some of its batch, for each head or for groups of them. */
static bool sdpa_serves(const Type *q, const Type *x)
{
  uint32_t n = q->rank;

  for (uint32_t i = 0; i + 3 < n && x->rank == n; i++)
    if (x->dim[i] != 1 && x->dim[i] != q->dim[i])
      return false;
  return x->rank == n && x->dim[n - 2] && q->dim[n - 2] % x->dim[n - 2] == 0;
}

bool rule_dense_sdpa(const Rule *r)
{
  if (!sdpa_takes(r))
    return false;
  const Type *q = rule_in(r, 0), *k = rule_in(r, 1), *v = rule_in(r, 2);
  uint32_t n = q->rank;
  bool ok = n >= 3 && sdpa_serves(q, k) && sdpa_serves(q, v) && k->dim[n - 3] && type_last(q) &&
            k->dim[n - 3] == v->dim[n - 3] && k->dim[n - 2] == v->dim[n - 2] && type_last(k) == type_last(q);

  if (!ok)
    return fail(r->e, "sdpa: q %s, k %s and v %s do not fit", rule_type_text(r->g, q),
                rule_type_text(r->g, k), rule_type_text(r->g, v));
  if (r->n_in == 4) {
    Type scores = *q, all;
    scores.dim[n - 3] = q->dim[n - 2];
    scores.dim[n - 2] = q->dim[n - 3];
    scores.dim[n - 1] = k->dim[n - 3];
    all = scores;
    if (!rule_bcast(r, &all, rule_in(r, 3)))
      return false;
    if (!type_eq(&all, &scores) || type_last(rule_in(r, 3)) != type_last(&scores))
      return rule_bad_input(r, 3,
                            arena_printf(r->g->module->arena, "of %lld keys, no larger than %s",
                                         (long long)type_last(&scores), rule_type_text(r->g, &scores)));
  }
  *r->out = *q;
  r->out->dim[n - 1] = type_last(v);
  return true;
}

static bool check_window(const Rule *r)
{
  const Window *w = &r->attr->window;

  if (w->spatial < 1 || w->spatial > MAX_SPATIAL)
    return fail(r->e, "%s: %u spatial dimensions, 1 to %d are allowed", op_info[r->op].name, w->spatial,
                MAX_SPATIAL);
  for (uint32_t i = 0; i < w->spatial; i++) {
    if (w->kernel[i] < 1 || w->stride[i] < 1 || w->dilation[i] < 1 || w->pad_lo[i] < 0 || w->pad_hi[i] < 0)
      return fail(r->e, "%s: kernel %lld, stride %lld, dilation %lld, pads %lld and %lld",
                  op_info[r->op].name, (long long)w->kernel[i], (long long)w->stride[i],
                  (long long)w->dilation[i], (long long)w->pad_lo[i], (long long)w->pad_hi[i]);
    if (w->kernel[i] > INT32_MAX || w->stride[i] > INT32_MAX || w->dilation[i] > INT32_MAX ||
        w->pad_lo[i] > INT32_MAX || w->pad_hi[i] > INT32_MAX)
      return fail(r->e, "%s: the window is larger than 2^31", op_info[r->op].name);
  }
  if (rule_in(r, 0)->rank != w->spatial + 2)
    return fail(r->e, "%s: x is %s, must have %u spatial dimensions", op_info[r->op].name,
                rule_type_text(r->g, rule_in(r, 0)), w->spatial);
  return true;
}

/* Places of the window along each spatial dimension. */
static bool slide(const Rule *r)
{
  const Window *w = &r->attr->window;

  *r->out = *rule_in(r, 0);
  for (uint32_t i = 0; i < w->spatial; i++) {
    int64_t room = r->out->dim[1 + i] + w->pad_lo[i] + w->pad_hi[i];
    int64_t extent = w->dilation[i] * (w->kernel[i] - 1) + 1;
    if (extent > room)
      return fail(r->e, "%s: the window spans %lld elements of dimension %u, which has %lld",
                  op_info[r->op].name, (long long)extent, 1 + i, (long long)room);
    r->out->dim[1 + i] = (room - extent) / w->stride[i] + 1;
  }
  return true;
}

bool rule_dense_pool(const Rule *r)
{
  if (!check_window(r))
    return false;
  if (r->attr->window.group != 1)
    return fail(r->e, "%s: group is %lld, must be 1", op_info[r->op].name, (long long)r->attr->window.group);
  if (!slide(r))
    return false;
  if (r->op == OP_pool_sum)
    r->out->dtype = sum_type(r->out->dtype);
  return true;
}

bool rule_dense_conv(const Rule *r)
{
  const Window *win = &r->attr->window;

  if (r->n_in < 2 || r->n_in > 3)
    return fail(r->e, "conv: %u inputs, must be x, w and perhaps a bias", r->n_in);
  if (!takes(TAKES_NUM, rule_in(r, 0)->dtype))
    return rule_bad_input(r, 0, takes_text[TAKES_NUM]);
  if (!check_window(r) || !weight_fits(r, 0, 1))
    return false;
  const Type *x = rule_in(r, 0), *w = rule_in(r, 1);
  int64_t out = w->rank ? w->dim[0] : 0, group = win->group;
  bool ok = w->rank == x->rank && group >= 1 && type_last(x) % group == 0 && out % group == 0 &&
            type_last(w) == type_last(x) / group;
  for (uint32_t i = 0; ok && i < win->spatial; i++)
    ok = w->dim[1 + i] == win->kernel[i];
  if (!ok)
    return fail(r->e, "conv: x %s, w %s and group %lld do not fit", rule_type_text(r->g, x),
                rule_type_text(r->g, w), (long long)group);
  DType sum = sum_type(x->dtype);
  if (r->n_in == 3 &&
      (rule_in(r, 2)->dtype != sum || rule_in(r, 2)->rank != 1 || rule_in(r, 2)->dim[0] != out))
    return rule_bad_input(
        r, 2,
        arena_printf(r->g->module->arena, "a bias of %s for each output channel", dtype_info[sum].name));
  if (!slide(r))
    return false;
  r->out->dtype = sum;
  r->out->dim[r->out->rank - 1] = out;
  return true;
}
