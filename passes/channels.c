/* channels.c - transposes move through a dense graph toward its outputs, and cancel where they meet their inverse: a net
 * of convolutions, which each stand between two transposes after import, keeps its channels last from end to end.
 * needs: verified dense graph; keeps: types and values of outputs; leaves: dead nodes
 *
 * A value is noted as a base in the new graph and a permutation that is still owed: value = transpose(base, perm). Ops
 * that work alike under any order of dimensions (elementwise, concat, pad, slices, reductions, ...) are done on the base,
 * with their axes renamed; a transpose only changes what is owed; where the true order matters, the transpose is made.
 * Constants are transposed when compiling. If all that costs more transposes than before (attention has some that
 * are best where they stand), the graph stays as it was. */
#include "passes/constants.h"
#include "passes/passes.h"
#include "passes/rewrite.h"

typedef struct {
  Val base;
  bool owed;
  uint8_t perm[MAX_RANK]; /* dimension i of the value is dimension perm[i] of the base */
  Val made;               /* the transposed value, once it was needed */
} Lazy;

typedef struct {
  Rewrite r;
  Lazy *lazy; /* of each node of the old graph */
} Channels;

static const Type *type_of_new(const Channels *c, Val v)
{
  return &graph_node(c->r.to, v)->type;
}

static const Type *type_of_old(const Channels *c, Val v)
{
  return &graph_node(c->r.from, v)->type;
}

static Lazy *lazy_in(const Channels *c, Val v, uint32_t i)
{
  return &c->lazy[graph_in(c->r.from, v, i)];
}

/* ---- permutations */

static bool is_identity(const uint8_t *perm, uint32_t rank)
{
  for (uint32_t i = 0; i < rank; i++)
    if (perm[i] != i)
      return false;
  return true;
}

static void inverse(const uint8_t *perm, uint32_t rank, uint8_t *out)
{
  for (uint32_t i = 0; i < rank; i++)
    out[perm[i]] = (uint8_t)i;
}

/* Dimensions above size 1 keep their order: elements stay where they are. */
static bool moves_nothing(const Type *t, const uint8_t *perm)
{
  int last = -1;

  for (uint32_t i = 0; i < t->rank; i++) {
    if (t->dim[perm[i]] == 1)
      continue;
    if (perm[i] < last)
      return false;
    last = perm[i];
  }
  return true;
}

static Type permuted(const Type *t, const uint8_t *perm)
{
  Type to = *t;

  for (uint32_t i = 0; i < t->rank; i++)
    to.dim[i] = t->dim[perm[i]];
  return to;
}

static Val reshape(Channels *c, Val v, const Type *to)
{
  Type t = *to; /* may lie in the node array, which moves */
  Val constant;

  if (type_eq(type_of_new(c, v), &t))
    return v;
  constant = constant_reshape(c->r.to, v, &t);
  return constant ? constant : graph_add(c->r.to, OP_reshape, &v, 1, (Attr){0}, &t);
}

/* transpose(v, perm) in the cheapest way. */
static Val transpose(Channels *c, Val v, const uint8_t *perm)
{
  Type t = *type_of_new(c, v), to = permuted(&t, perm);
  Attr attr = {0};

  if (is_identity(perm, t.rank))
    return v;
  if (moves_nothing(&t, perm))
    return reshape(c, v, &to);
  Val constant = constant_transpose(c->r.to, v, perm);
  memcpy(attr.perm, perm, t.rank);
  return constant ? constant : graph_add(c->r.to, OP_transpose, &v, 1, attr, NULL);
}

/* The value itself, in its true order. */
static Val made(Channels *c, Lazy *l)
{
  if (!l->made)
    l->made = l->owed ? transpose(c, l->base, l->perm) : l->base;
  return l->made;
}

static void done(Channels *c, Val v, Val base)
{
  c->lazy[v] = (Lazy){.base = base, .made = base};
}

static void owe(Channels *c, Val v, Val base, const uint8_t *perm, uint32_t rank)
{
  Lazy *l = &c->lazy[v];

  *l = (Lazy){.base = base, .owed = !is_identity(perm, rank)};
  memcpy(l->perm, perm, rank);
  if (!l->owed)
    l->made = base;
}

/* ---- operands in another's order */

/* Leading dimensions of size 1 up to `rank`. */
static Type lifted(const Type *t, uint32_t rank)
{
  Type to = {.dtype = t->dtype, .rank = rank};

  for (uint32_t i = 0; i < rank; i++)
    to.dim[i] = i < rank - t->rank ? 1 : t->dim[i - (rank - t->rank)];
  return to;
}

/* The base that, permuted, is the value with leading dimensions: so that it broadcasts with bases under `perm`. */
static Val base_under(Channels *c, Lazy *l, const uint8_t *perm, uint32_t rank)
{
  Type t = *type_of_new(c, l->base);
  uint8_t order[MAX_RANK];

  if (type_count(&t) == 1 && t.rank <= 1)
    return made(c, l);
  if (l->owed && t.rank == rank) { /* both at once */
    for (uint32_t i = 0; i < rank; i++)
      order[perm[i]] = l->perm[i];
    return transpose(c, l->base, order);
  }
  Val v = made(c, l);
  Type up = lifted(type_of_new(c, v), rank);
  inverse(perm, rank, order);
  return transpose(c, reshape(c, v, &up), order);
}

/* Which operand's order the others take: the largest that owes something, if no other of the result's size, which is
 * no constant, owes nothing. -1: none. */
static int leader(const Channels *c, Val v, uint32_t rank)
{
  int best = -1;
  int64_t most = 0, plain = 0;

  for (uint32_t i = 0; i < graph_node(c->r.from, v)->in.count; i++) {
    const Lazy *l = lazy_in(c, v, i);
    const Type *t = type_of_new(c, l->base);
    int64_t n = type_count(t);
    if (l->owed && t->rank == rank && n > most) {
      best = (int)i;
      most = n;
    } else if (!l->owed && !constant_node(c->r.to, l->base)) {
      plain = max64(plain, n);
    }
  }
  return plain > most ? -1 : best;
}

/* ---- ops, each with what the base's op is */

static void keep(Channels *c, Val v)
{
  const Node *n = graph_node(c->r.from, v);

  for (uint32_t i = 0; i < n->in.count; i++)
    c->r.in[i] = made(c, lazy_in(c, v, i));
  done(c, v, rewrite_keep(&c->r, v, c->r.in));
}

/* The node on bases: attributes and a given type are said in the base's order. */
static void keep_base(Channels *c, Val v, const uint8_t *perm, Attr attr)
{
  const Node *n = graph_node(c->r.from, v);
  uint8_t inv[MAX_RANK], order[MAX_RANK];

  memcpy(order, perm, n->type.rank); /* perm may lie in what is overwritten */
  inverse(order, n->type.rank, inv);
  Type type = permuted(&n->type, inv);
  Val out = graph_add(c->r.to, n->op, c->r.in, n->in.count, attr, &type);
  graph_node(c->r.to, out)->from = n->from;
  owe(c, v, out, order, n->type.rank);
}

static void do_transpose(Channels *c, Val v)
{
  const Node *n = graph_node(c->r.from, v);
  const Lazy *in = lazy_in(c, v, 0);
  uint8_t perm[MAX_RANK];

  for (uint32_t i = 0; i < n->type.rank; i++)
    perm[i] = in->owed ? in->perm[n->attr.perm[i]] : n->attr.perm[i];
  owe(c, v, in->base, perm, n->type.rank);
}

/* Elementwise ops and concat; other inputs follow the leader. */
static void do_together(Channels *c, Val v)
{
  const Node *n = graph_node(c->r.from, v);
  uint32_t rank = n->type.rank;
  int lead = leader(c, v, rank);
  Attr attr = n->attr;

  if (lead < 0) {
    keep(c, v);
    return;
  }
  const uint8_t *perm = lazy_in(c, v, (uint32_t)lead)->perm;
  for (uint32_t i = 0; i < n->in.count; i++)
    c->r.in[i] = base_under(c, lazy_in(c, v, i), perm, rank);
  if (n->op == OP_concat)
    attr.axis = perm[attr.axis];
  keep_base(c, v, perm, attr);
}

static uint32_t axes_under(uint32_t axes, const uint8_t *perm, uint32_t rank)
{
  uint32_t to = 0;

  for (uint32_t i = 0; i < rank; i++)
    to |= (axes >> i & 1) << perm[i];
  return to;
}

/* Attributes that name dimensions of the first input, in the base's order. */
static Attr attr_under(const Node *n, const uint8_t *perm)
{
  Attr a = n->attr;

  switch (op_info[n->op].attr) {
  case ATTR_AXES: a.axes = axes_under(a.axes, perm, n->type.rank); break;
  case ATTR_ARG: a.arg.axis = perm[a.arg.axis]; break;
  case ATTR_SCAN: a.scan.axis = perm[a.scan.axis]; break;
  case ATTR_SLICE: a.slice.axis = perm[a.slice.axis]; break;
  case ATTR_AXIS: a.axis = perm[a.axis]; break;
  case ATTR_PAD:
    for (uint32_t i = 0; i < n->type.rank; i++)
      a.pad.lo[perm[i]] = n->attr.pad.lo[i];
    break;
  default: break;
  }
  return a;
}

/* The first input leads; the result has its rank and order. */
static void do_first(Channels *c, Val v)
{
  const Node *n = graph_node(c->r.from, v);
  const Lazy *x = lazy_in(c, v, 0);

  if (!x->owed || type_of_new(c, x->base)->rank != n->type.rank) {
    keep(c, v);
    return;
  }
  c->r.in[0] = x->base;
  for (uint32_t i = 1; i < n->in.count; i++)
    c->r.in[i] = made(c, lazy_in(c, v, i));
  keep_base(c, v, x->perm, attr_under(n, x->perm));
}

/* A gather with one dimension of indices keeps the order of dimensions. */
static void do_gather(Channels *c, Val v)
{
  if (type_of_old(c, graph_in(c->r.from, v, 1))->rank == 1)
    do_first(c, v);
  else
    keep(c, v);
}

/* What works along the last dimension may have the others in any order. */
static void do_rows(Channels *c, Val v)
{
  const Lazy *x = lazy_in(c, v, 0);
  uint32_t rank = type_of_old(c, graph_in(c->r.from, v, 0))->rank;

  if (x->owed && rank && x->perm[rank - 1] == rank - 1)
    do_first(c, v);
  else
    keep(c, v);
}

/* ---- reshape. Its dimensions fall into groups of equal products; a group whose dimensions stand together, and in order,
 * in the base too is reshaped there. Dimensions of size 1 are left aside. */

typedef struct {
  uint32_t n;               /* groups */
  uint32_t in[MAX_RANK];    /* of each input dimension above 1: its group */
  uint32_t first[MAX_RANK]; /* of each group: first output dimension, and one past the last */
  uint32_t end[MAX_RANK];
} Groups;

static bool find_groups(const Type *from, const Type *to, Groups *g)
{
  uint32_t j = 0;

  g->n = 0;
  if (!type_count(from))
    return false;
  for (uint32_t i = 0; i < from->rank;) {
    int64_t left = 1, right = 1;
    if (from->dim[i] == 1) {
      i++;
      continue;
    }
    left = from->dim[i];
    g->in[i++] = g->n;
    g->first[g->n] = j;
    while (left != right)
      if (right < left) {
        right *= to->dim[j++]; /* the counts are equal, so there is one */
      } else {
        while (from->dim[i] == 1)
          i++;
        left *= from->dim[i];
        g->in[i++] = g->n;
      }
    g->end[g->n++] = j;
  }
  if (g->n)
    g->end[g->n - 1] = to->rank;
  return g->n > 0;
}

/* The order of groups in the base; false if one is torn apart there. */
static bool groups_in_base(const Lazy *x, const Type *from, const Groups *g, uint32_t *order)
{
  uint8_t inv[MAX_RANK];
  uint32_t n = 0, seen = 0;
  int last = -1;

  inverse(x->perm, from->rank, inv);
  for (uint32_t b = 0; b < from->rank; b++) {
    uint32_t i = inv[b];
    if (from->dim[i] == 1)
      continue;
    if (n && order[n - 1] == g->in[i]) {
      if ((int)i < last)
        return false;
    } else if (seen >> g->in[i] & 1) {
      return false;
    } else {
      seen |= 1u << g->in[i];
      order[n++] = g->in[i];
    }
    last = (int)i;
  }
  return true;
}

static void do_reshape(Channels *c, Val v)
{
  const Type *to = type_of_old(c, v), *from = type_of_old(c, graph_in(c->r.from, v, 0));
  const Lazy *x = lazy_in(c, v, 0);
  Type base = {.dtype = to->dtype, .rank = to->rank};
  uint32_t order[MAX_RANK], at = 0;
  uint8_t perm[MAX_RANK];
  Groups g;

  if (!x->owed || !find_groups(from, to, &g) || !groups_in_base(x, from, &g, order)) {
    keep(c, v);
    return;
  }
  for (uint32_t k = 0; k < g.n; k++)
    for (uint32_t j = g.first[order[k]]; j < g.end[order[k]]; j++) {
      perm[j] = (uint8_t)at;
      base.dim[at++] = to->dim[j];
    }
  owe(c, v, reshape(c, x->base, &base), perm, to->rank);
}

/* ---- the walk */

typedef void DoFn(Channels *c, Val v);

static DoFn *const special[OP_COUNT] = {
    [OP_transpose] = do_transpose, [OP_reshape] = do_reshape,   [OP_concat] = do_together,
    [OP_reduce_sum] = do_first,    [OP_reduce_prod] = do_first, [OP_reduce_max] = do_first,
    [OP_reduce_min] = do_first,    [OP_argmax] = do_first,      [OP_argmin] = do_first,
    [OP_cumsum] = do_first,        [OP_cumprod] = do_first,     [OP_slice] = do_first,
    [OP_pad] = do_first,           [OP_expand] = do_first,      [OP_gather] = do_gather,
    [OP_softmax] = do_rows,        [OP_topk] = do_rows,         [OP_linear] = do_rows,
};

static DoFn *how(Op op)
{
  return special[op] ? special[op] : op_elementwise(op) ? do_together : keep;
}

/* Elements that transposes move; those that nothing reads do not count. */
static int64_t cost(const Graph *g)
{
  Arena tmp = {0};
  uint8_t *live = NEW_ARRAY(&tmp, uint8_t, g->nodes.len);
  int64_t sum = 0;

  for (Val v = g->nodes.len; v-- > 1;) {
    const Node *n = graph_node(g, v);
    if (n->op == OP_output)
      live[v] = 1;
    for (uint32_t i = 0; live[v] && i < n->in.count; i++)
      live[graph_in(g, v, i)] = 1;
    if (live[v] && n->op == OP_transpose &&
        !moves_nothing(&graph_node(g, graph_in(g, v, 0))->type, n->attr.perm))
      sum += type_count(&n->type);
  }
  arena_free(&tmp);
  return sum;
}

Graph *pass_channels(const Graph *g, Err *e)
{
  uint32_t weights = g->module->weights.len;
  Channels c = {.r = rewrite_begin(g), .lazy = NEW_ARRAY(g->module->arena, Lazy, g->nodes.len)};

  (void)e;
  for (Val v = 1; v < g->nodes.len; v++)
    how(graph_node(g, v)->op)(&c, v);
  if (cost(c.r.to) < cost(g))
    return c.r.to;
  g->module->weights.len = weights; /* those were made for the new graph */
  return rewrite_clone(g);
}
