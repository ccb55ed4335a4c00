/* graph_rules.h - what the rules of types share (graph_infer.c, graph_dense.c). Private to ir. */
#ifndef MICC_GRAPH_RULES_H
#define MICC_GRAPH_RULES_H

#include "ir/graph.h"

/* More elements than any real tensor has, few enough that byte counts never overflow. */
#define MAX_ELEMENTS ((int64_t)1 << 44)

extern const char *const graph_scatter_name[]; /* by ScatterReduce */

/* `out` holds the stated type on entry, the inferred one at the end. */
typedef struct {
  const Graph *g;
  Op op;
  uint32_t n_in;
  const Val *in;
  const Attr *attr;
  Type *out;
  Err *e;
} Rule;

typedef bool RuleFn(const Rule *r);

const Type *rule_in(const Rule *r, uint32_t i);
const char *rule_type_text(const Graph *g, const Type *t);
bool rule_bad_input(const Rule *r, uint32_t i, const char *want); /* reports, false */
bool rule_bcast(const Rule *r, Type *acc, const Type *t);         /* acc becomes both, broadcast */

/* Dense graphs: does the op take inputs of these types? */
bool rule_dense_takes(const Rule *r);

bool rule_dense_given(const Rule *r); /* expand, pad, cast, bitcast */
bool rule_dense_scatter(const Rule *r);
RuleFn rule_dense_linear, rule_dense_where, rule_dense_axes, rule_dense_arg, rule_dense_gather,
    rule_dense_topk, rule_dense_matmul, rule_dense_sdpa, rule_dense_conv, rule_dense_pool;

#endif
