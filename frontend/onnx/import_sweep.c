/* import_sweep.c - drops what no output needs: constants that were folded into others, outputs that nobody reads.
 *
 * Nodes and weights keep their order. Inputs stay, also unused ones: they are what the caller gives. */
#include "frontend/onnx/import_scope.h"

static bool *mark(const Graph *g, Arena *a)
{
  bool *live = NEW_ARRAY(a, bool, g->nodes.len);

  for (Val v = g->nodes.len - 1; v; v--) {
    Op op = graph_node(g, v)->op;
    live[v] |= op == OP_output || op == OP_input;
    for (uint32_t i = 0; live[v] && i < graph_node(g, v)->in.count; i++)
      live[graph_in(g, v, i)] = true;
  }
  return live;
}

/* Nodes move down, and so do their edges: both stand in order. */
static void keep_nodes(Graph *g, const bool *live, Arena *a)
{
  Val *to = NEW_ARRAY(a, Val, g->nodes.len), n_nodes = 1;
  uint32_t n_edges = 0;

  for (Val v = 1; v < g->nodes.len; v++) {
    if (!live[v])
      continue;
    Node n = *graph_node(g, v);
    for (uint32_t i = 0; i < n.in.count; i++)
      g->edges.data[n_edges + i] = to[g->edges.data[n.in.first + i]];
    n.in.first = n_edges;
    n_edges += n.in.count;
    to[v] = n_nodes;
    g->nodes.data[n_nodes++] = n;
  }
  g->nodes.len = n_nodes;
  g->edges.len = n_edges;
}

static void keep_weights(Graph *g, Arena *a)
{
  Module *m = g->module;
  uint32_t *to = NEW_ARRAY(a, uint32_t, m->weights.len + 1), n = 0;
  bool *used = NEW_ARRAY(a, bool, m->weights.len + 1);

  for (Val v = 1; v < g->nodes.len; v++)
    if (graph_node(g, v)->op == OP_weight)
      used[graph_node(g, v)->attr.index] = true;
  for (uint32_t i = 0; i < m->weights.len; i++) {
    to[i] = n;
    if (used[i])
      m->weights.data[n++] = m->weights.data[i];
  }
  m->weights.len = n;
  for (Val v = 1; v < g->nodes.len; v++)
    if (graph_node(g, v)->op == OP_weight)
      graph_node(g, v)->attr.index = to[graph_node(g, v)->attr.index];
}

void import_sweep(Import *im)
{
  Arena scratch = {0};

  keep_nodes(im->graph, mark(im->graph, &scratch), &scratch);
  keep_weights(im->graph, &scratch);
  arena_free(&scratch);
}
