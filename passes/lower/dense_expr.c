/* dense_expr.c - operands and results of dense kernels: addresses, loads, expressions computed where they are read,
 * epilogues. See dense.h. */
#include "passes/lower/dense_plan.h"

#include <assert.h>
#include <stdio.h>

/* ---- points */

static bool is_unit(const Type *t, uint32_t d)
{
  return t->dim[d] == 1;
}

/* Broadcast dimensions of an operand do not move. */
void dense_at_operand(const Type *from, const DensePoint *at, const Type *to, DensePoint *out)
{
  *out = (DensePoint){.lanes = at->lanes};
  for (uint32_t i = 1; i <= to->rank; i++)
    if (!is_unit(to, to->rank - i))
      out->at[to->rank - i] = at->at[from->rank - i];
}

/* sum = sum * by + more; by, a constant */
static void index_step(Kernel *k, DenseIndex *sum, int64_t by, const DenseIndex *more)
{
  if (sum->v)
    sum->v = idx_mul(k, sum->v, by);
  sum->v = !sum->v ? more->v : more->v ? idx_add(k, sum->v, more->v) : sum->v;
  sum->c = sum->c * by + more->c;
  sum->lane = sum->lane * by + more->lane;
}

/* Shapes whose dimensions can be grouped so that each of `in` is one or more of `out`: then an index into `out` gives
 * that into `in` without division. */
bool dense_merges(const Type *out, const Type *in)
{
  uint32_t o = 0;

  for (uint32_t i = 0; i < in->rank; i++) {
    int64_t n = 1;
    if (is_unit(in, i))
      continue;
    while (o < out->rank && n < in->dim[i])
      n *= out->dim[o++];
    if (n != in->dim[i])
      return false;
  }
  return true;
}

static void at_reshape(Kernel *k, const Type *out, const DensePoint *at, const Type *in, DensePoint *p)
{
  uint32_t o = 0;

  for (uint32_t i = 0; i < in->rank; i++) {
    int64_t n = 1;
    while (!is_unit(in, i) && o < out->rank && n < in->dim[i]) {
      n *= out->dim[o];
      if (!is_unit(out, o))
        index_step(k, &p->at[i], out->dim[o], &at->at[o]);
      o++;
    }
  }
}

/* The point of a movement's input. */
void dense_through(Kernel *k, const Graph *g, Val v, const DensePoint *at, DensePoint *out)
{
  const Node *n = graph_node(g, v);
  const Type *in = &graph_node(g, graph_in(g, v, 0))->type;
  DensePoint p = {.lanes = at->lanes};

  switch (n->op) {
  case OP_reshape: at_reshape(k, &n->type, at, in, &p); break;
  case OP_expand: dense_at_operand(&n->type, at, in, &p); break;
  case OP_transpose:
    for (uint32_t i = 0; i < n->type.rank; i++)
      p.at[n->attr.perm[i]] = at->at[i];
    break;
  case OP_slice: {
    DenseIndex start = {.c = n->attr.slice.start}, *i = &p.at[n->attr.slice.axis];
    p = *at;
    index_step(k, i, n->attr.slice.step, &start);
    break;
  }
  default: assert(!"no movement");
  }
  *out = p;
}

/* ---- memory */

KVal dense_address(DenseLower *d, const DensePlace *p, uint32_t rank, const DensePoint *at, int64_t *c)
{
  Kernel *k = d->l->k;
  KVal sum = 0;

  *c = 0;
  for (uint32_t i = 0; i < rank; i++) {
    const DenseIndex *x = &at->at[i];
    *c += x->c * p->stride[i];
    if (!x->v || !p->stride[i])
      continue;
    KVal index = i == 1 && p->ring ? k_op2(k, K_and, x->v, k_idx(k, p->ring - 1)) : x->v;
    KVal part = idx_mul(k, index, p->stride[i]);
    sum = sum ? idx_add(k, sum, part) : part;
  }
  /* an index, not part of the constant: kernels that differ in it alone are one (program_kernel) */
  KVal from = k_idx(k, p->offset);
  return sum ? idx_add(k, sum, from) : from;
}

int64_t dense_lane_stride(const DensePlace *p, uint32_t rank, const DensePoint *at)
{
  int64_t s = 0;

  for (uint32_t i = 0; i < rank; i++)
    s += at->at[i].lane * p->stride[i];
  return at->lanes > 1 ? s : 1;
}

/* Twice as many lanes, of two values. */
static KVal join(Kernel *k, KVal a, KVal b)
{
  unsigned n = kernel_node(k, a)->type.lanes;
  uint8_t lanes[K_MAX_LANES];

  for (unsigned i = 0; i < 2 * n; i++)
    lanes[i] = (uint8_t)i;
  return k_shuffle(k, a, b, lanes, 2 * n);
}

KVal dense_pack(Kernel *k, const KVal *scalar, unsigned n)
{
  if (n == 1)
    return scalar[0];
  if (n > 2)
    return join(k, dense_pack(k, scalar, n / 2), dense_pack(k, scalar + n / 2, n / 2));
  KType pair = ktype((KElem)kernel_node(k, scalar[0])->type.elem, 2);
  return k_shuffle(k, k_splat(k, pair, scalar[0]), k_splat(k, pair, scalar[1]), (const uint8_t[]){0, 2}, 2);
}

/* Lanes `every` elements apart, from whole vectors: every < 0 goes backwards. */
static KVal load_every(Kernel *k, uint16_t param, KElem e, KVal at, int64_t c, int64_t every, unsigned lanes)
{
  int64_t step = every < 0 ? -every : every, first = every < 0 ? c + (int64_t)(lanes - 1) * every : c;
  KType t = ktype(e, lanes);
  KVal r = k_load(k, t, param, at, first);

  for (int64_t v = step > 1 ? 1 : 0; v < step; v++) {
    KVal more = v ? k_load(k, t, param, at, first + v * lanes) : r;
    uint8_t from[K_MAX_LANES];
    for (unsigned i = 0; i < lanes; i++) {
      unsigned place = every < 0 ? lanes - 1 - i : i; /* in units of `step` from the first */
      int64_t element = place * step, vector = element / lanes;
      int64_t before = v <= 1 ? element % lanes : i;
      from[i] = (uint8_t)(vector == v && v ? lanes + element % lanes : before);
    }
    r = k_shuffle(k, r, more, from, lanes);
  }
  return r;
}

enum { MAX_EVERY = 4 };

static KVal load_apart(Kernel *k, uint16_t param, KElem e, KVal at, int64_t c, int64_t stride, unsigned lanes)
{
  KVal scalar[K_MAX_LANES];

  if (lanes > 2 && stride <= MAX_EVERY && -stride <= MAX_EVERY)
    return load_every(k, param, e, at, c, stride, lanes);
  for (unsigned i = 0; i < lanes; i++)
    scalar[i] = k_load(k, ktype(e, 1), param, at, c + (int64_t)i * stride);
  return dense_pack(k, scalar, lanes);
}

KVal dense_load(DenseLower *d, uint16_t param, const DensePlace *p, DType t, uint32_t rank,
                const DensePoint *at)
{
  Kernel *k = d->l->k;
  int64_t c, stride = dense_lane_stride(p, rank, at);
  KVal v, a = dense_address(d, p, rank, at, &c);

  if (stride == 1)
    v = k_load(k, ktype(p->elem, at->lanes), param, a, c);
  else if (stride == 0)
    v = k_splat(k, ktype(p->elem, at->lanes), k_load(k, ktype(p->elem, 1), param, a, c));
  else
    v = load_apart(k, param, p->elem, a, c, stride, at->lanes);
  return dense_widen(k, t, v);
}

const DensePlace *dense_place(const DenseLower *d, Val v)
{
  assert(d->place[v].base);
  return &d->place[v];
}

uint32_t dense_buffer(DenseLower *d, Val v)
{
  const DensePlace *p = dense_place(d, v);
  const Node *base = graph_node(d->g, p->base);

  return base->op == OP_weight ? lower_weight(d->l, base->attr.index, LAYOUT_ROWS) : d->buffer[p->base];
}

uint16_t dense_param(DenseLower *d, Val v, KAccess access)
{
  const DensePlace *p = dense_place(d, v);

  if (p->ring)
    return lower_scratch(d->l, (uint64_t)(p->offset + p->ring * p->stride[1]) * kelem_info[p->elem].bytes +
                                   DENSE_SLACK);
  uint32_t buffer = dense_buffer(d, v);
  if (d->seen[v] != d->groups) {
    d->seen[v] = d->groups;
    d->bytes += tensor_bytes(&graph_node(d->g, v)->type);
  }
  return lower_param(d->l, buffer, 0, p->elem, access, access == KA_READ ? "x" : "y");
}

const Weight *dense_weight(const DenseLower *d, Val v)
{
  while (graph_node(d->g, v)->op == OP_reshape)
    v = graph_in(d->g, v, 0);
  const Node *n = graph_node(d->g, v);
  return n->op == OP_weight ? &d->g->module->weights.data[n->attr.index] : NULL;
}

uint16_t dense_panels(DenseLower *d, Val v)
{
  while (graph_node(d->g, v)->op == OP_reshape)
    v = graph_in(d->g, v, 0);
  const Node *n = graph_node(d->g, v);
  d->bytes += tensor_bytes(&n->type);
  return lower_param(d->l, lower_weight(d->l, n->attr.index, LAYOUT_PANEL), 0, dense_memory(n->type.dtype),
                     KA_READ, "w");
}

/* ---- kernels */

void dense_forget(DenseLower *d)
{
  d->memo.len = 0;
}

void dense_begin(DenseLower *d, const char *fmt, ...)
{
  char name[160];
  va_list ap;

  va_start(ap, fmt);
  vsnprintf(name, sizeof name, fmt, ap);
  va_end(ap);
  lower_begin(d->l, "%s", name);
  dense_forget(d);
  d->groups++;
  d->bytes = 0;
}

void dense_end(DenseLower *d, int64_t grid, uint64_t ops)
{
  lower_end(d->l, (uint64_t)grid, false, d->bytes, ops);
}

/* ---- expressions */

static bool same_point(const DensePoint *a, const DensePoint *b, uint32_t rank)
{
  if (a->lanes != b->lanes)
    return false;
  for (uint32_t i = 0; i < rank; i++)
    if (a->at[i].v != b->at[i].v || a->at[i].c != b->at[i].c || a->at[i].lane != b->at[i].lane)
      return false;
  return true;
}

static KVal recall(const DenseLower *d, Val v, const DensePoint *at)
{
  for (uint32_t i = d->memo.len; i-- > 0;) {
    const DenseMemo *m = &d->memo.data[i];
    if (m->v == v && same_point(&m->at, at, graph_node(d->g, v)->type.rank))
      return m->value;
  }
  return 0;
}

static KVal compute(DenseLower *d, Val v, const DensePoint *at)
{
  const Node *n = graph_node(d->g, v);
  KVal in[3];

  assert(dense_is_elementwise(n->op) && n->in.count <= COUNT(in));
  for (uint32_t i = 0; i < n->in.count; i++) {
    Val x = graph_in(d->g, v, i);
    DensePoint p;
    dense_at_operand(&n->type, at, &graph_node(d->g, x)->type, &p);
    in[i] = dense_expr(d, x, &p);
  }
  return dense_elementwise(d->l->k, d->g, v, in);
}

/* Not from memory. */
KVal dense_evaluate(DenseLower *d, Val v, const DensePoint *at)
{
  const Node *n = graph_node(d->g, v);
  DensePoint p = *at;

  if (n->op == OP_const)
    return dense_const(d->l->k, n->type.dtype, at->lanes, n->attr.value);
  if (dense_is_movement(n->op))
    dense_through(d->l->k, d->g, v, at, &p);
  else if (n->op != OP_output)
    return compute(d, v, at);
  return dense_expr(d, graph_in(d->g, v, 0), &p);
}

KVal dense_expr(DenseLower *d, Val v, const DensePoint *at)
{
  const Node *n = graph_node(d->g, v);

  if (v == d->anchor)
    return d->anchor_value;
  if (n->op == OP_const)
    return dense_evaluate(d, v, at);
  KVal value = recall(d, v, at);
  if (value)
    return value;
  if (d->place[v].base)
    value = dense_load(d, dense_param(d, v, KA_READ), dense_place(d, v), n->type.dtype, n->type.rank, at);
  else
    value = dense_evaluate(d, v, at);
  *PUSH(d->l->arena, d->memo) = (DenseMemo){v, *at, value};
  return value;
}

/* ---- results */

static void store_apart(Kernel *k, uint16_t y, KVal at, int64_t c, int64_t stride, KVal v)
{
  unsigned lanes = kernel_node(k, v)->type.lanes;

  for (unsigned i = 0; i < lanes; i++)
    k_store(k, y, at, c + (int64_t)i * stride, k_extract(k, v, i));
}

void dense_put(DenseLower *d, uint16_t param, const DensePlace *p, DType t, uint32_t rank,
               const DensePoint *at, KVal v)
{
  Kernel *k = d->l->k;
  int64_t c, stride = dense_lane_stride(p, rank, at);
  KVal a = dense_address(d, p, rank, at, &c);

  v = dense_narrow(k, t, v);
  if (stride == 1)
    k_store(k, param, a, c, v);
  else
    store_apart(k, param, a, c, stride, v);
}

/* Shapes that differ in dimensions of 1 alone: the others keep their order. */
static void at_result(const Type *from, const DensePoint *at, const Type *to, DensePoint *out)
{
  uint32_t i = 0;

  *out = (DensePoint){.lanes = at->lanes};
  for (uint32_t o = 0; o < to->rank; o++) {
    if (is_unit(to, o))
      continue;
    while (i < from->rank && is_unit(from, i))
      i++;
    if (i < from->rank)
      out->at[o] = at->at[i++];
  }
}

void dense_put_result(DenseLower *d, const DensePoint *at)
{
  const Type *t = &graph_node(d->g, d->result)->type;
  KVal v = d->result == d->anchor ? d->anchor_value : dense_evaluate(d, d->result, at);

  dense_put(d, dense_param(d, d->result, KA_WRITE), dense_place(d, d->result), t->dtype, t->rank, at, v);
}

void dense_store(DenseLower *d, KVal value, const DensePoint *at)
{
  DensePoint p;

  at_result(&graph_node(d->g, d->anchor)->type, at, &graph_node(d->g, d->result)->type, &p);
  d->anchor_value = value;
  dense_put_result(d, &p);
}
