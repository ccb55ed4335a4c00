/* dense_map.c - elementwise expressions, copies and the pieces of a concat: every element of a value is computed once
 * and stored. Neighbouring dimensions are walked as one where all operands allow it; lanes lie along the innermost. */
#include "passes/lower/dense_plan.h"

#include <stdio.h>

enum { STEP_OPS = 8192, GRID_STEPS = 16, MAX_TILE_COST = 8 };

/* ---- loops over one dimension */

DenseIndex dense_index(KVal v, int64_t c, unsigned lanes)
{
  return (DenseIndex){.v = v, .c = c, .lane = lanes > 1};
}

/* What is left behind the whole vectors, in ever smaller ones. */
static void span_rest(DenseLower *d, int64_t from, int64_t n, unsigned lanes, DenseSpan *fn, void *ctx)
{
  for (lanes /= 2; lanes; lanes /= 2)
    if (n - from >= (int64_t)lanes) {
      fn(d, ctx, dense_index(0, from, lanes), lanes);
      from += lanes;
    }
}

static void span_loop(DenseLower *d, KVal lo, KVal hi, unsigned lanes, DenseSpan *fn, void *ctx)
{
  dense_forget(d);
  KVal i = k_loop(d->l->k, lo, hi, lanes);
  fn(d, ctx, dense_index(i, 0, lanes), lanes);
  k_end(d->l->k, NULL, 0);
  dense_forget(d);
}

void dense_span(DenseLower *d, int64_t n, unsigned lanes, DenseSpan *fn, void *ctx)
{
  Kernel *k = d->l->k;
  int64_t whole = n / lanes * lanes;

  if (whole > (int64_t)lanes)
    span_loop(d, k_idx(k, 0), k_idx(k, whole), lanes, fn, ctx);
  else if (whole)
    fn(d, ctx, dense_index(0, 0, lanes), lanes);
  span_rest(d, whole, n, lanes, fn, ctx);
}

void dense_span_part(DenseLower *d, int64_t n, KVal part, int64_t size, unsigned lanes, DenseSpan *fn,
                     void *ctx)
{
  Kernel *k = d->l->k;
  int64_t whole = n / lanes * lanes, last = (n + size - 1) / size - 1;
  KVal lo = idx_mul(k, part, size), hi = k_op2(k, K_min, idx_add(k, lo, k_idx(k, size)), k_idx(k, whole));

  span_loop(d, lo, hi, lanes, fn, ctx);
  if (whole == n)
    return;
  k_if(k, k_op2(k, K_eq, part, k_idx(k, last)));
  span_rest(d, whole, n, lanes, fn, ctx);
  k_end(k, NULL, 0);
  dense_forget(d);
}

/* ---- a map */

typedef struct {
  Val v; /* whose elements are computed */
  const DensePlace *to;
  uint16_t param;
  DenseLeaves leaves;
  DenseLoops loops;
  DensePoint at;
  unsigned lanes;
} Map;

static void element(DenseLower *d, void *ctx, DenseIndex i, unsigned lanes)
{
  Map *m = ctx;
  const Type *t = &graph_node(d->g, m->v)->type;

  m->at.lanes = lanes;
  if (m->loops.n)
    m->at.at[m->loops.loop[0].dim] = i;
  if (m->v == d->result)
    dense_put_result(d, &m->at);
  else
    dense_put(d, m->param, m->to, t->dtype, t->rank, &m->at, dense_expr(d, m->v, &m->at));
}

/* Loops from `level` down to 1, then the innermost: all of it, or a step. */
static void nest(DenseLower *d, Map *m, uint32_t level, KVal part, int64_t size)
{
  Kernel *k = d->l->k;

  if (level == 0) {
    if (part)
      dense_span_part(d, m->loops.loop[0].n, part, size, m->lanes, element, m);
    else
      dense_span(d, m->loops.n ? m->loops.loop[0].n : 1, m->lanes, element, m);
    return;
  }
  const DenseLoop *l = &m->loops.loop[level];
  dense_forget(d);
  m->at.at[l->dim] = (DenseIndex){.v = k_loop(k, k_idx(k, 0), k_idx(k, l->n), 1)};
  nest(d, m, level - 1, part, size);
  k_end(k, NULL, 0);
  dense_forget(d);
}

/* One byte an element: four times the lanes. */
static unsigned lanes_for(const DenseLower *d, const Map *m)
{
  unsigned bytes = 1, lanes;

  for (Val v = 1; v <= m->v; v++) {
    const Node *n = graph_node(d->g, v);
    if (v != m->v && (d->group[v] != m->v || m->v != d->result))
      continue;
    for (uint32_t i = 0; i <= n->in.count; i++) {
      DType t = (i ? graph_node(d->g, graph_in(d->g, v, i - 1)) : n)->type.dtype;
      unsigned b = t == DT_BOOL ? 1 : kelem_info[dense_elem(t)].bytes;
      bytes = b > bytes ? b : bytes;
    }
  }
  lanes = d->l->lanes * 4 / (bytes > 4 ? 4 : bytes);
  return lanes;
}

/* How much of the loops the grid walks: outer loops from the outermost on, and steps of the innermost if these are few. */
typedef struct {
  uint32_t loops;
  int64_t count, size, steps; /* size 0: the innermost is not cut */
} Cut;

static Cut cut_grid(const Map *m, int64_t cost)
{
  Cut c = {.count = 1, .steps = 1};
  int64_t inner = m->loops.n ? m->loops.loop[0].n : 1, unit = m->lanes * 4;

  while (c.loops + 1 < m->loops.n && c.count < GRID_STEPS)
    c.count *= m->loops.loop[m->loops.n - 1 - c.loops++].n;
  int64_t size = (int64_t)round_up((uint64_t)(STEP_OPS / cost + 1), (uint64_t)unit);
  if (c.count < GRID_STEPS && c.loops + 1 >= m->loops.n && inner >= 2 * size) {
    c.size = size;
    c.steps = (inner + size - 1) / size;
  }
  return c;
}

static void emit(DenseLower *d, Map *m, uint64_t cost)
{
  Kernel *k = d->l->k;
  uint64_t ops = (uint64_t)type_count(&graph_node(d->g, m->v)->type) * cost;
  int64_t tiles = cost <= MAX_TILE_COST ? dense_tiles(d, m->v, m->to, m->param, &m->leaves, &m->loops) : 0;

  if (tiles) {
    dense_end(d, tiles, ops);
    return;
  }
  Cut c = cut_grid(m, (int64_t)cost);
  KVal rest = c.count * c.steps > 1 ? k_grid(k) : 0, part = 0;

  m->at = (DensePoint){.lanes = 1};
  if (c.size) {
    part = c.count > 1 ? k_op2(k, K_rem, rest, k_idx(k, c.steps)) : rest;
    rest = c.count > 1 ? k_op2(k, K_div, rest, k_idx(k, c.steps)) : rest;
  }
  for (uint32_t i = c.loops; i-- > 0;) { /* the innermost of these counts fastest */
    const DenseLoop *l = &m->loops.loop[m->loops.n - 1 - i];
    m->at.at[l->dim] = (DenseIndex){.v = i ? k_op2(k, K_rem, rest, k_idx(k, l->n)) : rest};
    rest = i ? k_op2(k, K_div, rest, k_idx(k, l->n)) : rest;
  }
  nest(d, m, m->loops.n > c.loops + 1 ? m->loops.n - 1 - c.loops : 0, part, c.size);
  dense_end(d, c.count * c.steps, ops);
}

static void map_name(DenseLower *d, const Map *m, const char *what)
{
  char dims[96] = "";
  size_t len = 0;

  for (uint32_t i = m->loops.n; i-- > 0 && len < sizeof dims - 24;)
    len += (size_t)snprintf(dims + len, sizeof dims - len, "%s%lld", len ? "x" : ".",
                            (long long)m->loops.loop[i].n);
  dense_begin(d, "map.%s%s", what, dims);
}

static void loops_of(DenseLower *d, Map *m)
{
  dense_leaves(d, m->v, &m->leaves);
  *PUSH(d->l->arena, m->leaves.at) = *m->to;
  dense_loops(&graph_node(d->g, m->v)->type, &m->leaves, 0, &m->loops);
  m->lanes = lanes_for(d, m);
}

uint64_t dense_group_cost(const DenseLower *d)
{
  uint64_t cost = 0;

  for (Val v = 1; v <= d->result; v++)
    if (d->group[v] == d->result)
      cost += dense_cost(graph_node(d->g, v)->op, graph_node(d->g, v)->type.dtype);
  return cost ? cost : 1;
}

bool lower_dense_map(DenseLower *d, Val v)
{
  Map m = {.v = v, .to = dense_place(d, v)};

  loops_of(d, &m);
  map_name(d, &m, op_info[graph_node(d->g, v)->op].name);
  m.param = dense_param(d, v, KA_WRITE);
  emit(d, &m, dense_group_cost(d));
  return true;
}

void dense_copy(DenseLower *d, Val v, Val into, const DensePlace *to)
{
  Map m = {.v = v, .to = to};

  d->result = d->anchor = 0;
  loops_of(d, &m);
  map_name(d, &m, "copy");
  m.param = dense_param(d, into, KA_WRITE);
  emit(d, &m, 1);
}
