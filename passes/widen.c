/* widen.c - values in 16-bit floats become f32: models in f16 and bf16 are computed in f32, rounded once at the end.
 * needs: verified dense graph; keeps: order, the types of inputs and outputs; weights stay as they are stored, and are
 * widened where they are read */
#include "passes/passes.h"
#include "passes/rewrite.h"

static bool is_short(DType t)
{
  return t == DT_F16 || t == DT_BF16;
}

static Val cast(Graph *g, Val v, DType to)
{
  Type t = graph_node(g, v)->type;

  if (t.dtype == to)
    return v;
  t.dtype = to;
  Val c = graph_add(g, OP_cast, &v, 1, (Attr){.saturate = true}, &t);
  graph_node(g, c)->from = graph_node(g, v)->from;
  return c;
}

/* Products read short weights as they are. */
static bool reads_short(const Graph *g, Val v, uint32_t input)
{
  Op op = graph_node(g, v)->op;
  return (op == OP_linear || op == OP_conv) && input == 1 &&
         graph_node(g, graph_in(g, v, input))->op == OP_weight;
}

/* A node whose meaning hangs on its input's own type. */
static bool needs_own(const Graph *g, Val v)
{
  Op op = graph_node(g, v)->op;
  return op == OP_bitcast || op == OP_output;
}

static void widen_node(Rewrite *r, Val v)
{
  const Graph *g = r->from;
  const Node *n = graph_node(g, v);
  Val *in = rewrite_inputs(r, v);
  Type t = n->type;
  bool leaf = n->op == OP_input || n->op == OP_weight;

  for (uint32_t i = 0; i < n->in.count; i++) {
    DType was = graph_node(g, graph_in(g, v, i))->type.dtype;
    if (is_short(was) && !reads_short(g, v, i))
      in[i] = cast(r->to, in[i], needs_own(g, v) ? was : DT_F32);
  }
  if (leaf || needs_own(g, v) || !is_short(t.dtype)) {
    rewrite_keep(r, v, in);
    return;
  }
  t.dtype = DT_F32;
  r->map[v] = n->op == OP_cast && graph_node(r->to, in[0])->type.dtype == DT_F32
                  ? in[0]
                  : graph_add(r->to, n->op, in, n->in.count, n->attr, &t);
  graph_node(r->to, r->map[v])->from = n->from;
}

Graph *pass_widen(const Graph *g, Err *e)
{
  Rewrite r = rewrite_begin(g);

  (void)e;
  for (Val v = 1; v < g->nodes.len; v++)
    widen_node(&r, v);
  return r.to;
}
