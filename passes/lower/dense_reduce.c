/* dense_reduce.c - along axes: reductions, softmax, places of extrema, scans.
 *
 * Where the innermost dimension is reduced, lanes are parts of one sum, which are added at the end in a fixed order;
 * where it stays, lanes are results side by side. Vectors are four registers wide, so that sums do not wait for each
 * other. The input may be any expression: it is computed where it is read. */
#include "passes/lower/dense_plan.h"

#include <math.h>
#include <stdio.h>

enum { WIDE = 4, NONE = UINT32_MAX };

typedef struct {
  DenseLower *d;
  Kernel *k;
  Val v, x;
  Op op;
  DType t; /* of x */
  DenseLoops loops;
  DensePoint at;   /* in x */
  int64_t n, axis; /* of the one axis of scans and the like */
  unsigned lanes;
  uint32_t lane_loop; /* NONE: lanes are parts of one result */
  KVal part;
} Reduce;

/* ---- numbers */

static KVal op2(Reduce *r, KOp op, KVal a, KVal b)
{
  return k_op2(r->k, op, a, b);
}

/* bool is reduced as u8 */
static KVal input(Reduce *r)
{
  KVal x = dense_expr(r->d, r->x, &r->at);
  return r->t == DT_BOOL ? k_cast(r->k, KE_u8, x) : x;
}

static KVal output(Reduce *r, KVal sum)
{
  return r->t == DT_BOOL ? k_cast(r->k, KE_bool, sum) : sum;
}

static KVal combine(Reduce *r, KVal sum, KVal x)
{
  switch (r->op) {
  case OP_reduce_sum:
  case OP_cumsum: return op2(r, K_add, sum, x);
  case OP_reduce_prod:
  case OP_cumprod: return op2(r, K_mul, sum, x);
  default: break;
  }
  return (r->op == OP_reduce_max ? k_max_nan : k_min_nan)(r->k, sum, x);
}

static KVal neutral(Reduce *r, unsigned lanes)
{
  bool max = r->op == OP_reduce_max, prod = r->op == OP_reduce_prod || r->op == OP_cumprod;
  KElem e = r->t == DT_BOOL ? KE_u8 : dense_elem(r->t);

  if (r->op != OP_reduce_max && r->op != OP_reduce_min)
    return dense_const(r->k, r->t, lanes, prod);
  if (kelem_info[e].is_float)
    return dense_const(r->k, r->t, lanes, max ? -INFINITY : INFINITY);
  int bits = dtype_bits(r->t) - (dtype_is_signed(r->t) ? 1 : 0);
  uint64_t highest = bits == 64 ? UINT64_MAX : ((uint64_t)1 << bits) - 1;
  uint64_t lowest = dtype_is_signed(r->t) ? ~highest : 0;
  return k_int(r->k, ktype(e, lanes), (int64_t)(max ? lowest : highest));
}

/* The upper half onto the lower. */
static KVal halve(Reduce *r, KVal v)
{
  unsigned n = kernel_node(r->k, v)->type.lanes / 2;
  uint8_t lo[K_MAX_LANES], hi[K_MAX_LANES];

  if (n == 1)
    return combine(r, k_extract(r->k, v, 0), k_extract(r->k, v, 1));
  for (unsigned i = 0; i < n; i++) {
    lo[i] = (uint8_t)i;
    hi[i] = (uint8_t)(n + i);
  }
  return combine(r, k_shuffle(r->k, v, v, lo, n), k_shuffle(r->k, v, v, hi, n));
}

/* ---- one value of all elements along a dimension; `each` gives those at an index */
typedef KVal Each(Reduce *r, void *ctx, DenseIndex at, unsigned lanes);

static unsigned lanes_within(unsigned most, int64_t n)
{
  while (most > 1 && most > n)
    most /= 2;
  return most;
}

static KVal fold(Reduce *r, int64_t n, Each *each, void *ctx)
{
  Kernel *k = r->k;
  unsigned lanes = lanes_within(r->lanes * WIDE, n);
  int64_t whole = n / lanes * lanes, from = whole;
  KVal sum = neutral(r, lanes);

  if (whole > (int64_t)lanes) {
    dense_forget(r->d);
    KVal i = k_loop(k, k_idx(k, 0), k_idx(k, whole), lanes);
    KVal carry = k_carry(k, sum), next = combine(r, carry, each(r, ctx, dense_index(i, 0, lanes), lanes));
    k_end(k, &next, 1);
    dense_forget(r->d);
    sum = carry;
  } else if (whole) {
    sum = each(r, ctx, dense_index(0, 0, lanes), lanes);
  }
  while (lanes > 1) {
    sum = halve(r, sum);
    lanes /= 2;
    if (n - from >= (int64_t)lanes) {
      sum = combine(r, sum, each(r, ctx, dense_index(0, from, lanes), lanes));
      from += lanes;
    }
  }
  return sum;
}

/* ---- loops that stay are the grid's; one of them is cut in parts, and left to the lanes */

enum { FEW = 16 };

/* Lanes walk results side by side: the innermost loop, or the next one if only few elements are reduced there. */
static void choose_lanes(Reduce *r)
{
  const DenseLoop *l = r->loops.loop;
  bool second = r->loops.n > 1 && l[0].special && l[0].n <= FEW && !l[1].special && l[1].n >= r->lanes;

  r->lane_loop = second ? 1 : r->loops.n && !l[0].special ? 0 : NONE;
}

static bool lanes_stay(const Reduce *r)
{
  return r->lane_loop != NONE;
}

/* Indices of the loops that stay, less the innermost if lanes walk it. Returns the grid. */
static int64_t grid(Reduce *r, bool lanes, int64_t part_size)
{
  Kernel *k = r->k;
  int64_t count = 1, parts = 1;
  KVal rest = k_grid(k);

  if (lanes) {
    parts = (r->loops.loop[r->lane_loop].n + part_size - 1) / part_size;
    r->part = parts > 1 ? op2(r, K_rem, rest, k_idx(k, parts)) : 0;
    rest = parts > 1 ? op2(r, K_div, rest, k_idx(k, parts)) : rest;
  }
  for (uint32_t i = 0; i < r->loops.n; i++) {
    const DenseLoop *l = &r->loops.loop[i];
    if (l->special || (lanes && i == r->lane_loop))
      continue;
    r->at.at[l->dim] = (DenseIndex){.v = op2(r, K_rem, rest, k_idx(k, l->n))};
    rest = op2(r, K_div, rest, k_idx(k, l->n));
    count *= l->n;
  }
  return count * parts;
}

/* `fn` for the results that lanes walk side by side; once if there are none. */
static void over_lanes(Reduce *r, unsigned most, DenseSpan *fn)
{
  if (!lanes_stay(r)) {
    fn(r->d, r, (DenseIndex){0}, 1);
    return;
  }
  int64_t n = r->loops.loop[r->lane_loop].n;
  unsigned lanes = lanes_within(most, n);
  if (r->part)
    dense_span_part(r->d, n, r->part, most, lanes, fn, r);
  else
    dense_span(r->d, n, lanes, fn, r);
}

static void start(Reduce *r, DenseLower *d, Val v, uint32_t axes)
{
  const Node *n = graph_node(d->g, v);
  DenseLeaves leaves = {{0}}, after = {{0}};
  char dims[96] = "";
  size_t len = 0;

  *r = (Reduce){
      .d = d, .v = v, .x = graph_in(d->g, v, 0), .op = n->op, .lanes = d->l->lanes, .at = {.lanes = 1}};
  r->t = graph_node(d->g, r->x)->type.dtype;
  dense_leaves(d, r->x, &leaves);
  dense_result_leaves(d, &after);
  for (uint32_t i = 0; i < after.at.len; i++)
    *PUSH(d->l->arena, leaves.at) = after.at.data[i];
  dense_loops(&graph_node(d->g, r->x)->type, &leaves, axes, &r->loops);
  for (uint32_t i = r->loops.n; i-- > 0 && len < sizeof dims - 24;)
    len += (size_t)snprintf(dims + len, sizeof dims - len, ".%lld%s", (long long)r->loops.loop[i].n,
                            r->loops.loop[i].special ? "r" : "");
  dense_begin(d, "%s%s", op_info[n->op].name, dims);
  r->k = d->l->k;
  choose_lanes(r);
}

static void finish(Reduce *r, int64_t count)
{
  uint64_t n = (uint64_t)type_count(&graph_node(r->d->g, r->x)->type);

  dense_end(r->d, count, n * dense_group_cost(r->d));
}

static KVal store_result(Reduce *r, KVal value)
{
  DensePoint at = r->at;

  at.lanes = kernel_node(r->k, value)->type.lanes;
  dense_forget(r->d);
  dense_store(r->d, value, &at);
  dense_forget(r->d);
  return value;
}

/* ---- reductions */

static KVal reduce_each(Reduce *r, void *ctx, DenseIndex at, unsigned lanes)
{
  const DenseLoop *l = ctx;

  r->at.at[l->dim] = at;
  r->at.lanes = lanes;
  return input(r);
}

/* Over the reduced loops from `level` down. */
static KVal reduce_nest(Reduce *r, uint32_t level, unsigned lanes)
{
  Kernel *k = r->k;

  if (level == UINT32_MAX) {
    r->at.lanes = lanes;
    return input(r);
  }
  const DenseLoop *l = &r->loops.loop[level];
  if (!l->special)
    return reduce_nest(r, level - 1, lanes);
  if (level == 0 && !lanes_stay(r))
    return fold(r, l->n, reduce_each, (void *)(uintptr_t)l);
  dense_forget(r->d);
  KVal none = neutral(r, lanes), i = k_loop(k, k_idx(k, 0), k_idx(k, l->n), 1), sum = k_carry(k, none);
  r->at.at[l->dim] = (DenseIndex){.v = i};
  KVal next = combine(r, sum, reduce_nest(r, level - 1, lanes));
  k_end(k, &next, 1);
  dense_forget(r->d);
  return sum;
}

static void reduce_lanes(DenseLower *d, void *ctx, DenseIndex at, unsigned lanes)
{
  Reduce *r = ctx;

  (void)d;
  if (lanes_stay(r))
    r->at.at[r->loops.loop[r->lane_loop].dim] = at;
  KVal sum = reduce_nest(r, r->loops.n - 1, lanes);
  if (!lanes_stay(r))
    for (uint32_t i = 0; i < r->loops.n; i++)
      if (r->loops.loop[i].special)
        r->at.at[r->loops.loop[i].dim] = (DenseIndex){0};
  store_result(r, output(r, sum));
}

bool lower_dense_reduce(DenseLower *d, Val v)
{
  Reduce r;

  start(&r, d, v, graph_node(d->g, v)->attr.axes);
  int64_t size = r.lanes * WIDE, count = grid(&r, lanes_stay(&r), size);
  over_lanes(&r, (unsigned)size, reduce_lanes);
  finish(&r, count);
  return true;
}

/* ---- places of extrema */

static KVal is_better(Reduce *r, KVal x, KVal best, bool last)
{
  bool max = r->op == OP_argmax;
  KVal a = max ? best : x, b = max ? x : best, better = op2(r, last ? K_le : K_lt, a, b);

  if (dtype_info[r->t].kind != DK_FLOAT)
    return better;
  KVal one = k_int(r->k, kernel_node(r->k, better)->type, 1);
  KVal nan = op2(r, K_xor, op2(r, K_eq, x, x), one);
  return op2(r, K_and, op2(r, K_or, better, nan), op2(r, K_eq, best, best));
}

static void arg_lanes(DenseLower *d, void *ctx, DenseIndex at, unsigned lanes)
{
  Reduce *r = ctx;
  Kernel *k = r->k;
  KType idx = ktype(KE_i32, lanes);
  bool last = graph_node(d->g, r->v)->attr.arg.last;

  if (lanes_stay(r))
    r->at.at[r->loops.loop[r->lane_loop].dim] = at;
  r->at.lanes = lanes;
  r->at.at[r->axis] = (DenseIndex){0};
  KVal x0 = input(r), zero = k_int(k, idx, 0);
  dense_forget(d);
  KVal i = k_loop(k, k_idx(k, 1), k_idx(k, r->n), 1), best = k_carry(k, x0), place = k_carry(k, zero);
  r->at.at[r->axis] = (DenseIndex){.v = i};
  KVal x = input(r), better = is_better(r, x, best, last);
  KVal here = k_splat(k, idx, k_cast(k, KE_i32, i));
  KVal next[] = {k_select(k, better, x, best), k_select(k, better, here, place)};
  k_end(k, next, 2);
  r->at.at[r->axis] = (DenseIndex){0};
  store_result(r, k_cast(k, KE_i64, place));
}

/* One axis, walked in its order. */
static bool along_axis(DenseLower *d, Val v, uint32_t axis, DenseSpan *fn)
{
  Reduce r;

  start(&r, d, v, 1u << axis);
  r.axis = axis;
  r.n = graph_node(d->g, r.x)->type.dim[axis];
  int64_t count = grid(&r, lanes_stay(&r), r.lanes);
  over_lanes(&r, r.lanes, fn);
  finish(&r, count);
  return true;
}

bool lower_dense_arg(DenseLower *d, Val v)
{
  return along_axis(d, v, graph_node(d->g, v)->attr.arg.axis, arg_lanes);
}

/* ---- scans */

static void scan_lanes(DenseLower *d, void *ctx, DenseIndex at, unsigned lanes)
{
  Reduce *r = ctx;
  Kernel *k = r->k;
  bool reverse = graph_node(d->g, r->v)->attr.scan.reverse,
       exclusive = graph_node(d->g, r->v)->attr.scan.exclusive;

  if (lanes_stay(r))
    r->at.at[r->loops.loop[r->lane_loop].dim] = at;
  r->at.lanes = lanes;
  dense_forget(d);
  KVal none = neutral(r, lanes), i = k_loop(k, k_idx(k, 0), k_idx(k, r->n), 1), sum = k_carry(k, none);
  r->at.at[r->axis] = (DenseIndex){.v = reverse ? op2(r, K_sub, k_idx(k, r->n - 1), i) : i};
  KVal next = combine(r, sum, input(r));
  store_result(r, exclusive ? sum : next);
  k_end(k, &next, 1);
  dense_forget(d);
}

bool lower_dense_scan(DenseLower *d, Val v)
{
  return along_axis(d, v, graph_node(d->g, v)->attr.scan.axis, scan_lanes);
}

/* ---- softmax, in f32: the row is computed once, into scratch */

typedef struct {
  DType from;
  uint16_t row;
  KVal max, scale;
} Softmax;

static KVal soft_input(Reduce *r, void *ctx, DenseIndex at, unsigned lanes)
{
  const Softmax *s = ctx;

  r->at.at[r->axis] = at;
  r->at.lanes = lanes;
  KVal x = dense_expr(r->d, r->x, &r->at);
  x = s->from == DT_F64 ? k_cast(r->k, KE_f32, x) : x;
  k_store(r->k, s->row, at.v ? at.v : k_idx(r->k, 0), at.c, x);
  return x;
}

static KVal soft_exp(Reduce *r, void *ctx, DenseIndex at, unsigned lanes)
{
  const Softmax *s = ctx;
  Kernel *k = r->k;
  KVal i = at.v ? at.v : k_idx(k, 0), x = k_load(k, ktype(KE_f32, lanes), s->row, i, at.c);

  x = k_exp_or_0(k, op2(r, K_sub, x, k_splat(k, ktype(KE_f32, lanes), s->max)));
  k_store(k, s->row, i, at.c, x);
  return x;
}

typedef struct {
  Reduce *r;
  const Softmax *s;
} SoftStore;

static void soft_store(DenseLower *d, void *ctx, DenseIndex at, unsigned lanes)
{
  const SoftStore *c = ctx;
  Reduce *r = c->r;
  Kernel *k = r->k;
  KVal i = at.v ? at.v : k_idx(k, 0), x = k_load(k, ktype(KE_f32, lanes), c->s->row, i, at.c);

  (void)d;
  r->at.at[r->axis] = at;
  x = op2(r, K_mul, x, k_splat(k, ktype(KE_f32, lanes), c->s->scale));
  store_result(r, c->s->from == DT_F64 ? k_cast(k, KE_f64, x) : x);
}

bool lower_dense_softmax(DenseLower *d, Val v)
{
  const Type *t = &graph_node(d->g, v)->type;
  uint32_t axis = t->rank ? t->rank - 1 : 0;
  Reduce r;

  start(&r, d, v, 1u << axis);
  r.axis = axis;
  r.n = type_last(t);
  Softmax s = {.from = r.t, .row = lower_scratch(d->l, (uint64_t)r.n * 4)};
  int64_t rows = grid(&r, false, 1);
  r.t = DT_F32;
  r.op = OP_reduce_max;
  s.max = fold(&r, r.n, soft_input, &s);
  r.op = OP_reduce_sum;
  KVal sum = fold(&r, r.n, soft_exp, &s);
  s.scale = op2(&r, K_div, k_flt(r.k, 1, 1), sum);
  dense_forget(d);
  dense_span(d, r.n, r.lanes, soft_store, &(SoftStore){&r, &s});
  r.op = OP_softmax;
  finish(&r, rows);
  return true;
}
