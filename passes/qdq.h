/* qdq.h - what the files of the pass qdq share: values as codes, and nodes of the graph that it makes. See qdq.c. */
#ifndef MICC_QDQ_H
#define MICC_QDQ_H

#include "passes/constants.h"
#include "passes/rewrite.h"

enum { MAX_DEPTH = 65536, I8_SHIFT = 128 }; /* 65536 products of bytes stay in 31 bits */

typedef struct {
  Val base; /* codes, u8 or i8, in the new graph; 0: the value is no such thing */
  int zero;
  double scale; /* 0: none */
  Val dynamic;  /* i32, in the new graph: a zero point that is computed, taken off too; 0: none */
} Codes;

typedef struct {
  Rewrite r;
  Codes *codes; /* of each node of the old graph */
} Qdq;

/* ---- nodes of the two graphs */

static inline const Node *old_node(const Qdq *q, Val v)
{
  return graph_node(q->r.from, v);
}

static inline const Type *old_type(const Qdq *q, Val v)
{
  return &graph_node(q->r.from, v)->type;
}

static inline Val old_in(const Qdq *q, Val v, uint32_t i)
{
  return graph_in(q->r.from, v, i);
}

static inline const Type *new_type(const Qdq *q, Val v)
{
  return &graph_node(q->r.to, v)->type;
}

static inline bool is_code_type(DType t)
{
  return t == DT_I8 || t == DT_U8;
}

static inline Val emit(Qdq *q, Op op, const Val *in, uint32_t n, Attr attr, const Type *type)
{
  return graph_add(q->r.to, op, in, n, attr, type);
}

static inline Val emit2(Qdq *q, Op op, Val a, Val b)
{
  return emit(q, op, (Val[]){a, b}, 2, (Attr){0}, NULL);
}

Val qdq_scalar(Qdq *q, DType t, double value);
Val qdq_cast(Qdq *q, Val v, DType t, Op op); /* op: cast or bitcast */

/* ---- codes */

/* Of an old node; NULL: it has none. Those with a zero point that is computed are for products alone. */
const Codes *qdq_codes(const Qdq *q, Val v);
const Codes *qdq_operand_codes(const Qdq *q, Val v);
Codes qdq_as_u8(Qdq *q, const Codes *c);          /* an i8's are 128 more */
bool qdq_holds(const Qdq *q, Val base, int zero); /* is the zero point a code itself? */
Val qdq_value(Qdq *q, const Codes *c, DType t);   /* the value that they stand for */
Val qdq_plain(Qdq *q, Val v);                     /* an old node's value in the new graph */

/* ---- weights (qdq_weights.c) */

/* Weights [outputs, ..] as bytes. */
typedef struct {
  Tensor code;    /* i8 */
  double *scale;  /* of each output; NULL: none */
  int64_t *total; /* sum of each output's codes */
  int64_t outputs, depth;
} Weights;

/* Of a constant of the old graph, in whatever order it says codes, zero points, scales and movement; false: it is no bytes,
 * or has scales within an output. `swap`: the constant is [depth, outputs]. */
bool qdq_weights(const Qdq *q, Val v, bool swap, Arena *a, Weights *out);

/* ---- what becomes of an old node, noted in `map` or `codes`; false: not handled */

/* conv, linear, matmul (qdq_product.c) */
bool qdq_product(Qdq *q, Val v);
/* pool_sum and reduce_sum (qdq_sum.c) */
bool qdq_pool_sum(Qdq *q, Val v);
bool qdq_reduce_sum(Qdq *q, Val v);

/* Places outside x become the code of its zero point; the window has no padding then. */
Val qdq_padding(Qdq *q, Val x, const Codes *c, Window *w);

#endif
