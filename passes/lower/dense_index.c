/* dense_index.c - gather, scatter, topk, pad: what computes where to read or write. */
#include "passes/lower/dense_plan.h"

#include <stdio.h>

typedef struct {
  DenseLower *d;
  Kernel *k;
  Val v;
  DensePoint at; /* in the result */
  unsigned lanes;
} Index;

static Index start(DenseLower *d, Val v)
{
  const Node *n = graph_node(d->g, v);
  char dims[96] = "";
  size_t len = 0;

  for (uint32_t i = 0; i < n->type.rank && len < sizeof dims - 24; i++)
    len += (size_t)snprintf(dims + len, sizeof dims - len, "%s%lld", i ? "x" : "", (long long)n->type.dim[i]);
  dense_begin(d, "%s.%s", op_info[n->op].name, dims);
  return (Index){.d = d, .k = d->l->k, .v = v, .at = {.lanes = 1}, .lanes = d->l->lanes};
}

/* Indices of dimensions 0 .. n-1 from the grid; returns it. */
static int64_t grid(Index *x, const Type *t, uint32_t n)
{
  int64_t count = 1;
  KVal rest = 0;

  for (uint32_t i = n; i-- > 0;) {
    if (t->dim[i] == 1)
      continue;
    rest = rest ? rest : k_grid(x->k);
    x->at.at[i] = (DenseIndex){.v = k_op2(x->k, K_rem, rest, k_idx(x->k, t->dim[i]))};
    rest = k_op2(x->k, K_div, rest, k_idx(x->k, t->dim[i]));
    count *= t->dim[i];
  }
  return count;
}

static void store(Index *x, KVal value, const DensePoint *at)
{
  dense_forget(x->d);
  dense_store(x->d, value, at);
  dense_forget(x->d);
}

static KVal index_expr(Index *x, Val indices, const DensePoint *at)
{
  KVal i = dense_expr(x->d, indices, at);
  return k_cast(x->k, KE_idx, i);
}

/* ---- gather: result dims = data[:axis], indices, data[axis + 1:] */

typedef struct {
  Index x;
  Val data;
  DensePoint from; /* in data */
  uint32_t axis, rank, index_rank;
} Gather;

/* Elements along data's last dimension, which is not the axis. */
static void gather_span(DenseLower *d, void *ctx, DenseIndex at, unsigned lanes)
{
  Gather *g = ctx;
  const Type *t = &graph_node(d->g, g->data)->type;
  DensePoint to = g->x.at;

  g->from.at[g->rank - 1] = at;
  g->from.lanes = to.lanes = lanes;
  to.at[g->rank - 2 + g->index_rank] = at;
  KVal v =
      dense_load(d, dense_param(d, g->data, KA_READ), dense_place(d, g->data), t->dtype, t->rank, &g->from);
  store(&g->x, v, &to);
}

bool lower_dense_gather(DenseLower *d, Val v)
{
  const Node *n = graph_node(d->g, v);
  Val indices = graph_in(d->g, v, 1);
  Gather g = {.data = graph_in(d->g, v, 0), .axis = n->attr.axis};
  const Type *data = &graph_node(d->g, g.data)->type, *it = &graph_node(d->g, indices)->type;
  DensePoint ip = {.lanes = 1};

  g.x = start(d, v);
  g.rank = data->rank;
  g.index_rank = it->rank;
  bool rows = g.axis + 1 < g.rank;
  Kernel *k = g.x.k;
  int64_t count = grid(&g.x, &n->type, n->type.rank - rows);
  for (uint32_t i = 0; i < it->rank; i++)
    ip.at[i] = g.x.at.at[g.axis + i];
  KVal zero = k_idx(k, 0), at = index_expr(&g.x, indices, &ip);
  if (it->dtype == DT_U64) /* beyond i64: the last */
    at = k_select(k, k_op2(k, K_lt, at, zero), k_idx(k, data->dim[g.axis] - 1), at);
  at = k_op2(k, K_min, k_op2(k, K_max, at, zero), k_idx(k, data->dim[g.axis] - 1));
  for (uint32_t i = 0; i < g.rank; i++)
    g.from.at[i] = i == g.axis ? (DenseIndex){.v = at} : g.x.at.at[i < g.axis ? i : i - 1 + it->rank];
  g.from.lanes = 1;
  if (rows) {
    dense_span(d, data->dim[g.rank - 1], g.x.lanes, gather_span, &g);
  } else {
    KVal x = dense_load(d, dense_param(d, g.data, KA_READ), dense_place(d, g.data), data->dtype, data->rank,
                        &g.from);
    store(&g.x, x, &g.x.at);
  }
  dense_end(d, count, (uint64_t)type_count(&n->type) * dense_group_cost(d));
  return true;
}

/* ---- scatter: a step of the grid copies some columns of data [n, inner], then updates them in order */

typedef struct {
  Index x;
  Val data, updates;
  KVal row, update; /* of the result; of the updates, 0: copy */
  KVal column;      /* where the step's columns begin; 0: at 0 */
  uint32_t dim;     /* the dimension that columns lie along */
} Scatter;

static KVal load_at(Index *x, Val v, const DensePoint *at)
{
  const Type *t = &graph_node(x->d->g, v)->type;
  return dense_load(x->d, dense_param(x->d, v, KA_READ), dense_place(x->d, v), t->dtype, t->rank, at);
}

static KVal scattered(Scatter *s, KVal old, KVal update)
{
  static const Op op[] = {
      [SCATTER_ADD] = OP_add, [SCATTER_MUL] = OP_mul, [SCATTER_MAX] = OP_max, [SCATTER_MIN] = OP_min};
  const Node *n = graph_node(s->x.d->g, s->x.v);

  return dense_binary_op(s->x.k, op[n->attr.reduce], n->type.dtype, old, update);
}

static void scatter_span(DenseLower *d, void *ctx, DenseIndex at, unsigned lanes)
{
  Scatter *s = ctx;
  const Node *n = graph_node(d->g, s->x.v);
  const DensePlace *to = dense_place(d, s->x.v);
  DensePoint p = s->x.at, u;

  p.lanes = lanes;
  if (n->type.rank > 1) {
    if (s->column)
      at.v = at.v ? idx_add(s->x.k, at.v, s->column) : s->column;
    p.at[s->dim] = at;
  }
  u = p;
  p.at[0] = (DenseIndex){.v = s->row};
  u.at[0] = (DenseIndex){.v = s->update ? s->update : s->row};
  KVal v = load_at(&s->x, s->update ? s->updates : s->data, &u);
  uint16_t param = dense_param(d, s->x.v, KA_WRITE);
  if (s->update && n->attr.reduce != SCATTER_NONE) {
    param = dense_param(d, s->x.v, KA_BOTH);
    v = scattered(s, dense_load(d, param, to, n->type.dtype, n->type.rank, &p), v);
  }
  dense_put(d, param, to, n->type.dtype, n->type.rank, &p, v);
}

/* All elements of one row that belong to the grid's step: loops over dimensions 1 .. dim, whose indices are free. */
static void scatter_row(Scatter *s, uint32_t dim, int64_t columns)
{
  const Type *t = &graph_node(s->x.d->g, s->x.v)->type;
  Kernel *k = s->x.k;

  if (dim >= s->dim) {
    dense_span(s->x.d, t->rank > 1 ? columns : 1, s->x.lanes, scatter_span, s);
    return;
  }
  KVal i = k_loop(k, k_idx(k, 0), k_idx(k, t->dim[dim]), 1);
  s->x.at.at[dim] = (DenseIndex){.v = i};
  scatter_row(s, dim + 1, columns);
  k_end(k, NULL, 0);
  dense_forget(s->x.d);
}

/* Columns that one step of the grid takes: all, or a divisor of them. */
static int64_t scatter_columns(int64_t n, int64_t unit)
{
  return n % unit == 0 && n / unit > 1 ? unit : n;
}

bool lower_dense_scatter(DenseLower *d, Val v)
{
  const Node *n = graph_node(d->g, v);
  Val indices = graph_in(d->g, v, 1);
  const Type *t = &n->type, *it = &graph_node(d->g, indices)->type;
  Scatter s = {.x = start(d, v), .data = graph_in(d->g, v, 0), .updates = graph_in(d->g, v, 2)};
  Kernel *k = s.x.k;
  DensePoint ip = {.lanes = 1};

  s.dim = t->rank - 1;
  int64_t last = t->rank > 1 ? t->dim[s.dim] : 1, columns = scatter_columns(last, s.x.lanes * 4);
  if (columns < last)
    s.column = idx_mul(k, k_grid(k), columns);
  s.row = k_loop(k, k_idx(k, 0), k_idx(k, t->dim[0]), 1);
  scatter_row(&s, 1, columns);
  k_end(k, NULL, 0);
  dense_forget(d);
  s.update = k_loop(k, k_idx(k, 0), k_idx(k, it->dim[0]), 1);
  ip.at[0] = (DenseIndex){.v = s.update};
  s.row = index_expr(&s.x, indices, &ip);
  k_if(k, k_op2(k, K_and, k_op2(k, K_le, k_idx(k, 0), s.row), k_op2(k, K_lt, s.row, k_idx(k, t->dim[0]))));
  dense_forget(d);
  scatter_row(&s, 1, columns);
  k_end(k, NULL, 0);
  k_end(k, NULL, 0);
  dense_forget(d);
  dense_end(d, last / columns,
            (uint64_t)type_count(t) + (uint64_t)type_count(&graph_node(d->g, s.updates)->type));
  return true;
}

/* ---- topk: the best of what stands behind the last one, `count` times. Keys are integers in the order of the values. */

/* Floats: the bits, of negative numbers all but the sign turned round; nan above all. -0 is 0. */
static KVal key_of(Index *x, DType t, KVal v, bool largest)
{
  Kernel *k = x->k;
  KVal key = v;

  if (dtype_info[t].kind == DK_FLOAT) {
    KElem e = dense_elem(t) == KE_f64 ? KE_i64 : KE_i32;
    KType it = ktype(e, 1);
    KVal zero = dense_const(k, t, 1, 0),
         bits = k_bitcast(k, it, k_select(k, k_op2(k, K_eq, v, zero), zero, v));
    KVal most = k_int(k, it, e == KE_i64 ? INT64_MAX : INT32_MAX);
    key = k_select(k, k_op2(k, K_lt, bits, k_int(k, it, 0)), k_op2(k, K_xor, bits, most), bits);
    key = k_select(k, k_op2(k, K_eq, v, v), key, most);
  }
  KType own = kernel_node(k, key)->type;
  return largest ? key : k_op2(k, K_xor, key, k_int(k, own, -1));
}

bool lower_dense_topk(DenseLower *d, Val v)
{
  const Node *n = graph_node(d->g, v);
  Val data = graph_in(d->g, v, 0);
  const Type *t = &graph_node(d->g, data)->type;
  bool largest = n->attr.topk.largest;
  Index x = start(d, v);
  Kernel *k = x.k;
  uint32_t last = t->rank - 1;
  int64_t count = grid(&x, &n->type, last);
  DensePoint from = x.at, to = x.at;

  /* last_key, last_at: the one that was found last; the first time there is none */
  from.at[last] = (DenseIndex){0};
  KVal any = key_of(&x, t->dtype, load_at(&x, data, &from), largest), none = k_idx(k, -1);
  KVal j = k_loop(k, k_idx(k, 0), k_idx(k, n->attr.topk.count), 1);
  KVal last_key = k_carry(k, any), last_at = k_carry(k, none);
  KVal i = k_loop(k, k_idx(k, 0), k_idx(k, t->dim[last]), 1), best = k_carry(k, last_key),
       at = k_carry(k, none);
  from.at[last] = (DenseIndex){.v = i};
  dense_forget(d);
  KVal key = key_of(&x, t->dtype, load_at(&x, data, &from), largest);
  KVal behind = k_op2(k, K_or, k_op2(k, K_lt, key, last_key),
                      k_op2(k, K_and, k_op2(k, K_eq, key, last_key), k_op2(k, K_lt, last_at, i)));
  behind = k_op2(k, K_or, behind, k_op2(k, K_lt, j, k_idx(k, 1)));
  KVal better = k_op2(k, K_or, k_op2(k, K_lt, best, key), k_op2(k, K_lt, at, k_idx(k, 0)));
  KVal take = k_op2(k, K_and, behind, better);
  KVal inner[] = {k_select(k, take, key, best), k_select(k, take, i, at)};
  k_end(k, inner, 2);
  to.at[last] = (DenseIndex){.v = j};
  store(&x, k_cast(k, KE_i64, at), &to);
  k_end(k, (KVal[]){best, at}, 2);
  dense_forget(d);
  dense_end(d, count, (uint64_t)(type_count(t) * n->attr.topk.count) * 4);
  return true;
}

/* ---- pad: rows of the result, of which a part comes from x where the outer indices are inside */

typedef struct {
  Index x;
  Val data, fill;
  int64_t lo;
  bool inside;
  int64_t from; /* first element of this span */
} Pad;

static void pad_span(DenseLower *d, void *ctx, DenseIndex at, unsigned lanes)
{
  Pad *p = ctx;
  const Node *n = graph_node(d->g, p->x.v);
  uint32_t rank = n->type.rank;
  DensePoint to = p->x.at, from = {.lanes = lanes}, fill = {.lanes = lanes};

  at.c += p->from;
  to.lanes = lanes;
  if (rank)
    to.at[rank - 1] = at;
  if (!p->inside) {
    KVal v = dense_expr(d, p->fill, &fill);
    dense_store(d, v, &to);
    return;
  }
  for (uint32_t i = 0; i < rank; i++) {
    from.at[i] = to.at[i];
    from.at[i].c -= n->attr.pad.lo[i];
  }
  dense_store(d, load_at(&p->x, p->data, &from), &to);
}

static void pad_part(Pad *p, bool inside, int64_t from, int64_t to)
{
  p->inside = inside;
  p->from = from;
  dense_forget(p->x.d);
  if (to > from)
    dense_span(p->x.d, to - from, p->x.lanes, pad_span, p);
  dense_forget(p->x.d);
}

/* Whether the outer indices are inside x; 0: they always are. */
static KVal outer_inside(Pad *p, const Type *in)
{
  const Node *n = graph_node(p->x.d->g, p->x.v);
  Kernel *k = p->x.k;
  KVal all = 0;

  for (uint32_t i = 0; i + 1 < n->type.rank; i++) {
    int64_t lo = n->attr.pad.lo[i], hi = lo + in->dim[i];
    if (lo <= 0 && hi >= n->type.dim[i])
      continue;
    KVal at = p->x.at.at[i].v ? p->x.at.at[i].v : k_idx(k, 0);
    KVal c = k_op2(k, K_and, k_op2(k, K_le, k_idx(k, lo), at), k_op2(k, K_lt, at, k_idx(k, hi)));
    all = all ? k_op2(k, K_and, all, c) : c;
  }
  return all;
}

bool lower_dense_pad(DenseLower *d, Val v)
{
  if (dense_surrounds(d, v)) {
    dense_surround(d, v);
    return true;
  }
  const Node *n = graph_node(d->g, v);
  Pad p = {.x = start(d, v), .data = graph_in(d->g, v, 0), .fill = graph_in(d->g, v, 1)};
  const Type *in = &graph_node(d->g, p.data)->type;
  Kernel *k = p.x.k;
  uint32_t last = n->type.rank ? n->type.rank - 1 : 0;
  int64_t width = type_last(&n->type), count = grid(&p.x, &n->type, last);
  int64_t lo = n->type.rank ? n->attr.pad.lo[last] : 0;
  int64_t begin = min64(max64(lo, 0), width), end = max64(begin, min64(lo + type_last(in), width));
  KVal inside = outer_inside(&p, in);

  if (!type_count(in))
    end = begin;
  if (inside)
    k_if(k, inside);
  pad_part(&p, false, 0, begin);
  pad_part(&p, true, begin, end);
  pad_part(&p, false, end, width);
  if (inside) {
    k_else(k);
    pad_part(&p, false, 0, width);
    k_end(k, NULL, 0);
  }
  dense_end(d, count, (uint64_t)type_count(&n->type) * dense_group_cost(d));
  return true;
}
