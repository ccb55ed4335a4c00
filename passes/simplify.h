/* simplify.h - what the two files of the pass share: simplify.c (the walk, rules of algebra, sharing) and
 * simplify_dense.c (shapes and constants of dense graphs). */
#ifndef MICC_SIMPLIFY_H
#define MICC_SIMPLIFY_H

#include "passes/rewrite.h"

typedef struct {
  Rewrite r;
  Val bound[26]; /* pattern variables a .. z */
  Val *slot;     /* a table of hashes: nodes of r.to that later equal ones become */
  uint32_t slots, used;
} Simplify;

/* Adds the node, or something cheaper that is equal. */
Val simplify_emit(Simplify *s, Op op, const Val *in, uint32_t n, Attr attr, const Type *type);

/* What node v becomes in a dense graph, or 0. */
Val simplify_shape(Simplify *s, Val v);
Val simplify_fold(Simplify *s, Val v);

#endif
