/* requant.c - what stands between the integers of a product and their quantisation is one multiplication and one
 * addition: relu((sum * a + b)) / c is relu(sum * (a / c) + b / c), for constants a, b and a number c > 0.
 *
 * needs: verified dense graph, as pass_qdq() and pass_products() leave it; keeps: types; values up to a rounding in f32;
 * leaves: dead nodes */
#include "passes/constants.h"
#include "passes/passes.h"
#include "passes/rewrite.h"

#include <math.h>

typedef struct {
  Rewrite r;
  uint32_t *uses; /* of each node of the old graph */
} Requant;

static const Node *node(const Requant *q, Val v)
{
  return graph_node(q->r.from, v);
}

static Val in_of(const Requant *q, Val v, uint32_t i)
{
  return graph_in(q->r.from, v, i);
}

static bool is_sum_of_integers(const Requant *q, Val v)
{
  const Node *n = node(q, v);
  return n->op == OP_cast && n->type.dtype == DT_F32 && node(q, in_of(q, v, 0))->type.dtype == DT_I32;
}

/* The constant operand of a node that has one, and does not broadcast the other: its number; -1: none. */
static int constant_side(const Requant *q, Val v)
{
  const Node *n = node(q, v);

  for (uint32_t i = n->op == OP_div || n->op == OP_sub ? 1 : 0; i < 2; i++)
    if (constant_node(q->r.from, in_of(q, v, i)) && type_eq(&n->type, &node(q, in_of(q, v, !i))->type))
      return (int)i;
  return -1;
}

static bool number(const Requant *q, Val v, double *out)
{
  Arena tmp = {0};
  Tensor t;
  bool ok = type_count(&node(q, v)->type) == 1 && constant_tensor(q->r.from, v, &tmp, &t);

  if (ok)
    *out = (double)tensor_get(&t, 0);
  arena_free(&tmp);
  return ok && *out > 0 && isfinite(*out);
}

/* f * c, or f / c */
static Val scaled_constant(Requant *q, Val c, double f, bool inverse)
{
  Arena tmp = {0};
  Tensor t;
  Val made = 0;

  if (constant_tensor(q->r.from, c, &tmp, &t)) {
    Tensor to = tensor_new(&tmp, &t.type);
    for (int64_t i = 0; i < type_count(&t.type); i++)
      tensor_set(&to, i, inverse ? f / tensor_get(&t, i) : f * tensor_get(&t, i));
    made = constant_add(q->r.to, "scaled", &to, false);
  }
  arena_free(&tmp);
  return made;
}

static Val add2(Requant *q, Op op, Val a, Val b)
{
  return a && b ? graph_add2(q->r.to, op, a, b) : 0;
}

static Val times(Requant *q, Val v, double f);

static Val scaled_times(Requant *q, Val v, int side, double f)
{
  bool inverse = node(q, v)->op == OP_div;
  Val c = in_of(q, v, (uint32_t)side), x = in_of(q, v, !side);
  double one;

  if (is_sum_of_integers(q, x))
    return add2(q, OP_mul, q->r.map[x], scaled_constant(q, c, f, inverse));
  return number(q, c, &one) ? times(q, x, inverse ? f / one : f * one) : 0;
}

/* v * f in the new graph, at no cost; 0: there is none. */
static Val times(Requant *q, Val v, double f)
{
  const Node *n = node(q, v);
  int side = -1;

  if (q->uses[v] != 1 || n->type.dtype != DT_F32 || type_count(&n->type) == 0)
    return 0;
  if (n->op == OP_relu) {
    Val x = times(q, in_of(q, v, 0), f);
    return x ? graph_add1(q->r.to, OP_relu, x) : 0;
  }
  if (n->op == OP_mul || n->op == OP_div || n->op == OP_add || n->op == OP_sub)
    side = constant_side(q, v);
  if (side < 0)
    return 0;
  if (n->op == OP_mul || n->op == OP_div)
    return scaled_times(q, v, side, f);
  Val x = times(q, in_of(q, v, !side), f);
  return x ? add2(q, n->op, x, scaled_constant(q, in_of(q, v, (uint32_t)side), f, false)) : 0;
}

static Val better(Requant *q, Val v)
{
  const Node *n = node(q, v);
  int side = n->op == OP_mul || n->op == OP_div ? constant_side(q, v) : -1;
  double c;

  if (side < 0 || n->type.dtype != DT_F32 || !number(q, in_of(q, v, (uint32_t)side), &c))
    return 0;
  return times(q, in_of(q, v, !side), n->op == OP_div ? 1 / c : c);
}

Graph *pass_requant(const Graph *g, Err *e)
{
  Requant q = {.r = rewrite_begin(g), .uses = NEW_ARRAY(g->module->arena, uint32_t, g->nodes.len)};

  (void)e;
  for (uint32_t i = 0; i < g->edges.len; i++)
    q.uses[g->edges.data[i]]++;
  for (Val v = 1; v < g->nodes.len; v++) {
    Val out = better(&q, v);
    if (out) {
      graph_node(q.r.to, out)->from = graph_node(g, v)->from;
      q.r.map[v] = out;
    } else {
      rewrite_keep(&q.r, v, rewrite_inputs(&q.r, v));
    }
  }
  return q.r.to;
}
