/* rewrite.h - how a graph pass copies: node by node, in order, into a new graph of the same name. */
#ifndef MICC_REWRITE_H
#define MICC_REWRITE_H

#include "ir/graph.h"

typedef struct {
  const Graph *from;
  Graph *to;
  Val *map; /* node of the old graph -> of the new; 0: dropped */
  Val *in;  /* room for the inputs of one node */
} Rewrite;

Rewrite rewrite_begin(const Graph *g); /* the new graph is not in the module's list */

/* The inputs of old node v, as values of the new graph. */
Val *rewrite_inputs(Rewrite *r, Val v);

/* Copies old node v with the given inputs; notes it in the map. */
Val rewrite_keep(Rewrite *r, Val v, const Val *in);

/* A copy of the graph itself: same nodes, edges and order. */
Graph *rewrite_clone(const Graph *g);

#endif
