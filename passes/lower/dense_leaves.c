/* dense_leaves.c - what an expression reads from memory, with strides along the dimensions of its value; and from that,
 * which dimensions can be walked as one.
 *
 * Points are linear in the indices, so the strides of a leaf are differences of its address between the origin and one
 * step along each dimension: all these points go down the expression together. */
#include "passes/lower/dense_plan.h"

typedef struct {
  DensePoint at[1 + MAX_RANK]; /* the origin, then a step along each dimension */
} Probe;

typedef struct {
  Val v;
  Probe p;
} Seen;

typedef struct {
  DenseLower *d;
  Val top;
  uint32_t rank;
  DenseLeaves *out;
  ARRAY(Seen) seen;
} Walk;

static int64_t address(const DensePlace *p, uint32_t rank, const DensePoint *at)
{
  int64_t a = p->offset;

  for (uint32_t i = 0; i < rank; i++)
    a += at->at[i].c * p->stride[i];
  return a;
}

static void leaf(Walk *w, Val v, const Probe *p)
{
  const DensePlace *at = &w->d->place[v];
  uint32_t rank = graph_node(w->d->g, v)->type.rank;
  DensePlace seen = {.base = at->base, .elem = at->elem, .offset = address(at, rank, &p->at[0])};

  for (uint32_t i = 0; i < w->rank; i++)
    seen.stride[i] = address(at, rank, &p->at[1 + i]) - seen.offset;
  *PUSH(w->d->l->arena, w->out->at) = seen;
}

static bool known(Walk *w, Val v, const Probe *p)
{
  for (uint32_t i = 0; i < w->seen.len; i++)
    if (w->seen.data[i].v == v && !memcmp(&w->seen.data[i].p, p, sizeof *p))
      return true;
  *PUSH(w->d->l->arena, w->seen) = (Seen){v, *p};
  return false;
}

static void walk(Walk *w, Val v, const Probe *p)
{
  const Node *n = graph_node(w->d->g, v);
  bool stored = w->d->place[v].base && !(v == w->top && v == w->d->result);

  if (n->op == OP_const || (v == w->d->anchor && v != w->top) || known(w, v, p))
    return;
  if (stored) {
    leaf(w, v, p);
    return;
  }
  for (uint32_t i = 0; i < n->in.count; i++) {
    Val in = graph_in(w->d->g, v, i);
    Probe next;
    memset(&next, 0, sizeof next);
    for (uint32_t j = 0; j <= w->rank; j++)
      if (dense_is_movement(n->op))
        dense_through(NULL, w->d->g, v, &p->at[j], &next.at[j]);
      else
        dense_at_operand(&n->type, &p->at[j], &graph_node(w->d->g, in)->type, &next.at[j]);
    walk(w, in, &next);
  }
}

void dense_leaves(DenseLower *d, Val v, DenseLeaves *out)
{
  Walk w = {.d = d, .top = v, .rank = graph_node(d->g, v)->type.rank, .out = out};
  Probe p;

  memset(&p, 0, sizeof p);
  for (uint32_t i = 0; i <= w.rank; i++) {
    p.at[i].lanes = 1;
    if (i)
      p.at[i].at[i - 1].c = 1;
  }
  out->at.len = 0;
  walk(&w, v, &p);
}

/* Strides along the result's dimensions become strides along the anchor's, which differ in dimensions of 1. */
static void to_anchor(const Type *from, const Type *to, DensePlace *p)
{
  DensePlace r = *p;
  uint32_t i = 0;

  memset(r.stride, 0, sizeof r.stride);
  for (uint32_t o = 0; o < to->rank; o++) {
    if (to->dim[o] == 1)
      continue;
    while (i < from->rank && from->dim[i] == 1)
      i++;
    if (i < from->rank)
      r.stride[o] = p->stride[i++];
  }
  *p = r;
}

void dense_result_leaves(DenseLower *d, DenseLeaves *out)
{
  const Type *from = &graph_node(d->g, d->result)->type, *to = &graph_node(d->g, d->anchor)->type;

  out->at.len = 0;
  if (d->result != d->anchor)
    dense_leaves(d, d->result, out);
  *PUSH(d->l->arena, out->at) = d->place[d->result];
  for (uint32_t i = 0; i < out->at.len; i++)
    to_anchor(from, to, &out->at.data[i]);
}

/* ---- dimensions walked as one */

static bool all_merge(const DenseLeaves *l, uint32_t outer, uint32_t inner, int64_t n)
{
  for (uint32_t i = 0; i < l->at.len; i++)
    if (l->at.data[i].stride[outer] != l->at.data[i].stride[inner] * n)
      return false;
  return true;
}

void dense_loops(const Type *t, const DenseLeaves *l, uint32_t apart, DenseLoops *out)
{
  out->n = 0;
  for (uint32_t i = t->rank; i-- > 0;) {
    if (t->dim[i] == 1)
      continue;
    DenseLoop *last = out->n ? &out->loop[out->n - 1] : NULL;
    bool special = apart >> i & 1;
    if (last && last->special == special && all_merge(l, i, last->dim, last->n)) {
      last->n *= t->dim[i];
    } else {
      out->loop[out->n++] = (DenseLoop){.dim = i, .n = t->dim[i], .special = special};
    }
  }
}
