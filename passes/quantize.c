/* quantize.c - products with block weights get their activations in 8 bits.
 * needs: verified graph; keeps: everything else; adds: one quant node for each input of such products */
#include "passes/passes.h"
#include "passes/rewrite.h"

static bool wants_quant(const Graph *g, Val v)
{
  if (graph_node(g, v)->op != OP_linear)
    return false;
  DType x = graph_node(g, graph_in(g, v, 0))->type.dtype, w = graph_node(g, graph_in(g, v, 1))->type.dtype;
  return x == DT_F32 && dtype_info[w].kind == DK_BLOCK;
}

Graph *pass_quantize(const Graph *g, Err *e)
{
  Rewrite r = rewrite_begin(g);
  Val *quantised = NEW_ARRAY(g->module->arena, Val, g->nodes.len);

  (void)e;
  for (Val v = 1; v < g->nodes.len; v++) {
    Val *in = rewrite_inputs(&r, v);
    if (wants_quant(g, v)) {
      Val x = graph_in(g, v, 0);
      if (!quantised[x]) {
        quantised[x] = graph_add1(r.to, OP_quant, in[0]);
        graph_node(r.to, quantised[x])->from = graph_node(g, x)->from;
      }
      in[0] = quantised[x];
    }
    rewrite_keep(&r, v, in);
  }
  return r.to;
}
