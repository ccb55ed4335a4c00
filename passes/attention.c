/* attention.c - softmax(scale q k' + mask) v, as exporters write it, becomes the op sdpa: the score matrix is never stored.
 * needs: verified dense graph, simplified; keeps: types and values of outputs, but for rounding; leaves: dead nodes
 *
 * Looked for from the second product back to the first, where nothing else reads what stands between:
 *   matmul(p, v); p a softmax, perhaps with rows set to 0, of scores; scores a matmul(q, k'), times constants, capped by
 *   tanh, plus masks or with a very low number where a condition hides them. Reshapes may regroup heads.
 * sdpa wants heads behind rows, as products give them: its transposes cancel with those of the exporter. */
#include <math.h>

#include "passes/passes.h"
#include "passes/rewrite.h"

enum { MAX_MASKS = 4 };

/* What is added to scores: a value, or `fill` where a condition says so, else 0. */
typedef struct {
  Val value, hides; /* one of them, in the old graph */
  bool negated;     /* the value is subtracted */
  bool inverted;    /* hidden where the condition is false */
  double fill;
} Mask;

typedef struct {
  const Graph *g;
  const uint32_t *uses;
  Val first, second; /* the products */
  Val none;          /* condition for rows that are 0; 0: there is none */
  Type shape;        /* of the softmax: [.., heads, rows, keys] */
  Mask mask[MAX_MASKS];
  unsigned masks;
  double scale, cap; /* cap 0: none */
  bool nan_is_0;     /* nan among probabilities became 0 */
  bool reshaped;     /* between softmax and first product: masks must not stand before that */
  Val q, k, v;       /* operands of the products, constant factors taken off */
} Match;

typedef struct {
  Rewrite r;
  uint32_t *uses;
} Pass;

static const Node *node(const Match *m, Val v)
{
  return graph_node(m->g, v);
}

static const Type *type_at(const Match *m, Val v)
{
  return &graph_node(m->g, v)->type;
}

static Val input(const Match *m, Val v, uint32_t i)
{
  return graph_in(m->g, v, i);
}

static bool same_dims(const Type *a, const Type *b)
{
  return a->rank == b->rank && !memcmp(a->dim, b->dim, a->rank * sizeof *a->dim);
}

static bool constant_value(const Match *m, Val v, double *value)
{
  const Node *n = node(m, v);

  *value = n->op == OP_const ? n->attr.value : 0;
  return n->op == OP_const;
}

/* ---- from the first product's scores on */

static bool find_scores(Match *m, Val v);

/* x * c, c * x or x / c */
static Val constant_factor(const Match *m, Val v, double *factor)
{
  Op op = node(m, v)->op;

  for (uint32_t side = 0; side < 2 && (op == OP_mul || op == OP_div); side++) {
    Val x = input(m, v, side);
    if ((op == OP_div && side) || !constant_value(m, input(m, v, !side), factor) || !isfinite(*factor) ||
        *factor == 0 || !same_dims(type_at(m, x), type_at(m, v)))
      continue;
    *factor = op == OP_div ? 1 / *factor : *factor;
    return x;
  }
  return 0;
}

static bool find_scaled(Match *m, Val v)
{
  double factor;
  Val x = constant_factor(m, v, &factor);

  m->scale *= x ? factor : 1;
  return x && find_scores(m, x);
}

/* cap tanh(x / cap): the factors that were met are the cap; those that follow count within. */
static bool find_capped(Match *m, Val v)
{
  if (m->cap != 0 || !(m->scale > 0))
    return false;
  m->cap = m->scale;
  return find_scores(m, input(m, v, 0));
}

static bool takes_mask(const Match *m, Val masked, Val scores, Val mask)
{
  const Type *t = type_at(m, mask);

  return m->masks < MAX_MASKS && m->scale == 1 && m->cap == 0 && !m->reshaped && t->rank &&
         type_last(t) == type_last(&m->shape) && same_dims(type_at(m, masked), type_at(m, scores));
}

static bool find_masked(Match *m, Val v)
{
  Match before = *m;

  bool sub = node(m, v)->op == OP_sub;

  for (uint32_t side = 0; side < (sub ? 1 : 2); side++) {
    Val x = input(m, v, side), mask = input(m, v, !side);
    if (!takes_mask(m, v, x, mask))
      continue;
    m->mask[m->masks++] = (Mask){.value = mask, .negated = sub};
    if (find_scores(m, x))
      return true;
    *m = before;
  }
  return false;
}

/* A score so low that no other is left beside it: what hides is then a number to add. */
static bool hides(const Match *m, Val v, double *fill)
{
  return constant_value(m, v, fill) && *fill <= -1e9;
}

static bool find_hidden(Match *m, Val v)
{
  Match before = *m;

  for (uint32_t side = 1; side < 3; side++) {
    Val c = input(m, v, 0), x = input(m, v, side);
    Mask mask = {.hides = c, .inverted = side == 1};
    if (!hides(m, input(m, v, 3 - side), &mask.fill) || !takes_mask(m, v, x, c))
      continue;
    m->mask[m->masks++] = mask;
    if (find_scores(m, x))
      return true;
    *m = before;
  }
  return false;
}

/* Nothing has been seen yet that hangs on the shape: then the one before is as good. */
static bool find_reshaped(Match *m, Val v)
{
  Val x = input(m, v, 0);

  if (m->masks || m->none)
    m->reshaped = true;
  else
    m->shape = *type_at(m, x);
  return type_last(type_at(m, x)) == type_last(type_at(m, v)) && find_scores(m, x);
}

static bool find_scores(Match *m, Val v)
{
  const Node *n = node(m, v);

  if (m->uses[v] != 1 || type_last(&n->type) != type_last(&m->shape))
    return false;
  switch (n->op) {
  case OP_matmul: m->first = v; return true;
  case OP_mul:
  case OP_div: return find_scaled(m, v);
  case OP_tanh: return find_capped(m, v);
  case OP_sub:
  case OP_add: return find_masked(m, v);
  case OP_where: return find_hidden(m, v);
  case OP_reshape: return find_reshaped(m, v);
  default: return false;
  }
}

/* ---- from the second product to the softmax */

/* where(c, 0, p), whole rows at once */
static Val without_rows(Match *m, Val v)
{
  double zero;
  Val c = input(m, v, 0), p = input(m, v, 2);

  if (m->none || !constant_value(m, input(m, v, 1), &zero) || zero != 0 || type_last(type_at(m, c)) != 1 ||
      !same_dims(type_at(m, p), type_at(m, v)))
    return 0;
  m->none = c;
  m->shape = *type_at(m, v);
  return p;
}

/* where(p == p, p, 0) or where(not(p == p), 0, p): all of p's readers */
static Val without_nan(Match *m, Val v)
{
  double zero;
  Val c = input(m, v, 0);
  bool not = node(m, c)->op == OP_not;
  Val p = input(m, v, not? 2 : 1), eq = not ? input(m, c, 0) : c;

  if (m->none || m->nan_is_0 || node(m, eq)->op != OP_eq || input(m, eq, 0) != p || input(m, eq, 1) != p ||
      m->uses[eq] != 1 || m->uses[c] != 1 || m->uses[p] != 3 || node(m, p)->op != OP_softmax ||
      !constant_value(m, input(m, v, not? 1 : 2), &zero) || zero != 0)
    return 0;
  m->nan_is_0 = true;
  return p;
}

static bool find_softmax(Match *m, Val v)
{
  const Node *n = node(m, v);

  if (m->uses[v] != (m->nan_is_0 ? 3 : 1))
    return false;
  switch (n->op) {
  case OP_softmax:
    if (m->none && !same_dims(&m->shape, &n->type))
      return false;
    m->shape = n->type;
    return find_scores(m, input(m, v, 0));
  case OP_reshape:
    return type_last(&n->type) == type_last(type_at(m, input(m, v, 0))) && find_softmax(m, input(m, v, 0));
  case OP_where: {
    Val p = without_nan(m, v);
    p = p ? p : without_rows(m, v);
    return p && find_softmax(m, p);
  }
  default: return false;
  }
}

/* ---- shapes */

/* Ones before the dimensions. */
static Type padded(const Type *t, uint32_t rank)
{
  Type to = {.dtype = t->dtype, .rank = rank};

  for (uint32_t i = 0; i < rank; i++)
    to.dim[i] = i + t->rank < rank ? 1 : t->dim[i + t->rank - rank];
  return to;
}

static int64_t count_of(const int64_t *dim, uint32_t n)
{
  int64_t count = 1;

  for (uint32_t i = 0; i < n; i++)
    count *= dim[i];
  return count;
}

/* The shape [.., groups, keys, size] of a product's right side, whose last two dimensions are keys and size in either
 * order; `batch`: the product's shape. Its rows are the scores' rows, or those of several heads one after the other. */
static bool groups_of(const Match *m, const Type *batch, const Type *right, int64_t keys, int64_t size,
                      Type *to)
{
  uint32_t n = m->shape.rank;
  const int64_t *want = m->shape.dim;
  Type b = padded(batch, n), r = padded(right, n);
  bool prefix = !memcmp(b.dim, want, (n - 3) * sizeof *want);
  int64_t groups = b.dim[n - 3], heads = want[n - 3];

  *to = r;
  if (prefix && groups && heads % groups == 0 && b.dim[n - 2] == heads / groups * want[n - 2]) {
    /* as it is */
  } else if (b.dim[n - 2] == want[n - 2] && count_of(b.dim, n - 2) == count_of(want, n - 2) &&
             count_of(r.dim, n - 2) == count_of(want, n - 2)) {
    memcpy(to->dim, want, (n - 2) * sizeof *want);
  } else {
    return false;
  }
  to->dim[n - 2] = keys;
  to->dim[n - 1] = size;
  return true;
}

static Val without_factor(Match *m, Val v)
{
  double factor;
  Val x = constant_factor(m, v, &factor);

  m->scale *= x ? factor : 1;
  return x ? x : v;
}

/* sdpa's lanes are rows. Where some stay empty, products whose lanes are keys and a softmax are faster, as long as the
 * scores stay in a cache. */
static bool fills_lanes(int64_t rows, int64_t keys)
{
  enum { MOST_LANES = 16, MANY_ROWS = 48, SOME_ROWS = 24, MANY_KEYS = 1024 };

  return rows % MOST_LANES == 0 || rows >= MANY_ROWS || (rows >= SOME_ROWS && keys >= MANY_KEYS);
}

/* Heads are a dimension of their own, all shapes have one rank. */
static bool fits(Match *m)
{
  const Type *first = type_at(m, m->first), *second = type_at(m, m->second);
  uint32_t n = m->shape.rank < 3 ? 3 : m->shape.rank;

  n = n < first->rank ? first->rank : n;
  n = n < second->rank ? second->rank : n;
  m->shape = padded(&m->shape, n);
  m->q = without_factor(m, input(m, m->first, 0));
  m->k = without_factor(m, input(m, m->first, 1));
  m->v = input(m, m->second, 1);
  const Type *q = type_at(m, m->q);
  int64_t rows = count_of(m->shape.dim, n - 1);
  return first->dtype == DT_F32 && type_last(q) && type_count(second) &&
         fills_lanes(m->shape.dim[n - 2], m->shape.dim[n - 1]) &&
         type_count(first) == rows * m->shape.dim[n - 1] && type_count(q) == rows * type_last(q) &&
         type_count(second) == rows * type_last(second);
}

/* ---- what it becomes */

static Val emit(Pass *p, Op op, const Val *in, uint32_t n, Attr attr, const Type *type, const char *from)
{
  Type t = type ? *type : (Type){0};
  Val v = graph_add(p->r.to, op, in, n, attr, type ? &t : NULL);

  graph_node(p->r.to, v)->from = from;
  return v;
}

static Val emit_reshape(Pass *p, Val v, const Type *to, const char *from)
{
  const Type *t = &graph_node(p->r.to, v)->type;

  return same_dims(t, to) ? v : emit(p, OP_reshape, &v, 1, (Attr){0}, to, from);
}

/* Dimensions a and b from the end change places; a transpose before is made undone or joined. */
static Val emit_swap(Pass *p, Val v, uint32_t a, uint32_t b, const char *from)
{
  const Node *n = graph_node(p->r.to, v);
  uint32_t rank = n->type.rank;
  bool moves = false;
  Attr attr = {0};

  for (uint32_t i = 0; i < rank; i++) {
    uint32_t of = i == rank - a ? rank - b : i == rank - b ? rank - a : i;
    attr.perm[i] = n->op == OP_transpose ? n->attr.perm[of] : (uint8_t)of;
    moves |= attr.perm[i] != i;
  }
  v = n->op == OP_transpose ? graph_in(p->r.to, v, 0) : v;
  return moves ? emit(p, OP_transpose, &v, 1, attr, NULL, from) : v;
}

static Val emit_scalar(Pass *p, double value, const char *from)
{
  Type t = type_of(DT_F32, 0, NULL);
  return emit(p, OP_const, NULL, 0, (Attr){.value = value}, &t, from);
}

static Val emit_mask(Pass *p, const Mask *m, const char *from)
{
  if (m->value && m->negated)
    return emit(p, OP_neg, &p->r.map[m->value], 1, (Attr){0}, NULL, from);
  if (m->value)
    return p->r.map[m->value];
  Val seen = emit_scalar(p, 0, from), hidden = emit_scalar(p, m->fill, from);
  Val in[] = {p->r.map[m->hides], m->inverted ? seen : hidden, m->inverted ? hidden : seen};
  return emit(p, OP_where, in, 3, (Attr){0}, NULL, from);
}

static Val emit_masks(Pass *p, const Match *m, const char *from)
{
  Val sum = 0;

  for (unsigned i = 0; i < m->masks; i++) {
    Val mask = emit_mask(p, &m->mask[i], from);
    sum = sum ? emit(p, OP_add, (Val[]){sum, mask}, 2, (Attr){0}, NULL, from) : mask;
  }
  return sum;
}

static Val emit_sdpa(Pass *p, const Match *m, const char *from)
{
  uint32_t n = m->shape.rank;
  int64_t keys = m->shape.dim[n - 1], size = type_last(type_at(m, m->q));
  Type q = m->shape, k, v, result = *type_at(m, m->second);

  q.dim[n - 1] = size;
  if (!groups_of(m, type_at(m, m->first), type_at(m, m->k), keys, size, &k) ||
      !groups_of(m, &result, type_at(m, m->v), keys, type_last(&result), &v) ||
      memcmp(&k.dim[n - 3], &v.dim[n - 3], sizeof *k.dim) != 0)
    return 0;
  Val in[] = {emit_reshape(p, p->r.map[m->q], &q, from),
              emit_reshape(p, emit_swap(p, p->r.map[m->k], 1, 2, from), &k, from),
              emit_reshape(p, p->r.map[m->v], &v, from), emit_masks(p, m, from)};
  for (unsigned i = 0; i < 3; i++)
    in[i] = emit_swap(p, in[i], 2, 3, from);
  Attr attr = {.attention = {.scale = (float)m->scale, .softcap = (float)m->cap, .nan_is_0 = m->nan_is_0}};
  Val out = emit(p, OP_sdpa, in, in[3] ? 4 : 3, attr, NULL, from);
  out = emit_swap(p, out, 2, 3, from);
  if (m->none)
    out =
        emit(p, OP_where, (Val[]){p->r.map[m->none], emit_scalar(p, 0, from), out}, 3, (Attr){0}, NULL, from);
  return emit_reshape(p, out, &result, from);
}

static Val attention(Pass *p, Val v)
{
  Match m = {.g = p->r.from, .uses = p->uses, .second = v, .scale = 1};

  if (graph_node(m.g, v)->op != OP_matmul || !find_softmax(&m, input(&m, v, 0)) || !fits(&m))
    return 0;
  return emit_sdpa(p, &m, graph_node(m.g, v)->from);
}

Graph *pass_attention(const Graph *g, Err *e)
{
  Pass p = {.r = rewrite_begin(g), .uses = NEW_ARRAY(g->module->arena, uint32_t, g->nodes.len)};

  (void)e;
  for (uint32_t i = 0; i < g->edges.len; i++)
    p.uses[g->edges.data[i]]++;
  for (Val v = 1; v < g->nodes.len; v++) {
    Val out = attention(&p, v);
    if (out)
      p.r.map[v] = out;
    else
      rewrite_keep(&p.r, v, rewrite_inputs(&p.r, v));
  }
  return p.r.to;
}
