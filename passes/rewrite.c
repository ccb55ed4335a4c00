/* rewrite.c - see rewrite.h. */
#include "passes/rewrite.h"

Rewrite rewrite_begin(const Graph *g)
{
  Arena *a = g->module->arena;
  Rewrite r = {.from = g, .to = graph_new(g->module, g->name, g->tokens)};

  r.to->dense = g->dense;
  g->module->graphs.len--; /* the pipeline decides which graphs the module has */
  r.map = NEW_ARRAY(a, Val, g->nodes.len);
  r.in = NEW_ARRAY(a, Val, g->edges.len + 1);
  return r;
}

Val *rewrite_inputs(Rewrite *r, Val v)
{
  for (uint32_t i = 0; i < graph_node(r->from, v)->in.count; i++)
    r->in[i] = r->map[graph_in(r->from, v, i)];
  return r->in;
}

Val rewrite_keep(Rewrite *r, Val v, const Val *in)
{
  const Node *n = graph_node(r->from, v);
  Val out = graph_add(r->to, n->op, in, n->in.count, n->attr, &n->type);

  graph_node(r->to, out)->from = n->from;
  graph_node(r->to, out)->launch = n->launch;
  return r->map[v] = out;
}

Graph *rewrite_clone(const Graph *g)
{
  Rewrite r = rewrite_begin(g);
  for (Val v = 1; v < g->nodes.len; v++)
    rewrite_keep(&r, v, rewrite_inputs(&r, v));
  return r.to;
}
