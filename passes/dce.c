/* dce.c - drops nodes that no output needs, and inputs that stay are kept even if unused.
 * needs: verified graph; keeps: order, inputs, outputs */
#include "passes/passes.h"
#include "passes/rewrite.h"

Graph *pass_dce(const Graph *g, Err *e)
{
  Rewrite r = rewrite_begin(g);
  uint8_t *live = NEW_ARRAY(g->module->arena, uint8_t, g->nodes.len);

  (void)e;
  for (Val v = g->nodes.len; v-- > 1;) {
    Op op = graph_node(g, v)->op;
    if (op == OP_output || op == OP_input)
      live[v] = 1;
    for (uint32_t i = 0; live[v] && i < graph_node(g, v)->in.count; i++)
      live[graph_in(g, v, i)] = 1;
  }
  for (Val v = 1; v < g->nodes.len; v++)
    if (live[v])
      rewrite_keep(&r, v, rewrite_inputs(&r, v));
  return r.to;
}
