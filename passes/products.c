/* products.c - what constants can do to the weights of products in a dense graph, done when compiling:
 *   matmul with a constant [K, N] on the right is linear with its transpose;
 *   a convolution, or linear, times a constant for each channel is one with other weights (a batch norm's scale);
 *   a convolution plus a constant for each channel is one with another bias.
 * needs: verified dense graph, channels last (pass_channels); keeps: types and values of outputs, but for a rounding of
 * weights; leaves: dead nodes */
#include "passes/constants.h"
#include "passes/passes.h"
#include "passes/rewrite.h"

typedef struct {
  Rewrite r;
  uint32_t *uses; /* of each node of the old graph */
} Products;

static const Node *node(const Products *p, Val v)
{
  return graph_node(p->r.to, v);
}

static Val add(Products *p, Op op, const Val *in, uint32_t n, Attr attr, const char *from)
{
  Val v = graph_add(p->r.to, op, in, n, attr, NULL);

  graph_node(p->r.to, v)->from = from;
  return v;
}

/* ---- matmul */

static Val matmul_as_linear(Products *p, const Val *in, const char *from)
{
  const Type *b = &node(p, in[1])->type;
  Type matrix = {.dtype = b->dtype, .rank = 2};

  if (!constant_node(p->r.to, in[1]) || type_count(b) == 0)
    return 0;
  if (dtype_info[b->dtype].kind == DK_INT && dtype_bits(b->dtype) == 8)
    return 0; /* matmul wraps in 8 bits, linear sums in 32 */
  matrix.dim[0] = b->dim[b->rank - 2];
  matrix.dim[1] = b->dim[b->rank - 1];
  if (type_count(b) != type_count(&matrix) || b->rank > node(p, in[0])->type.rank)
    return 0; /* a matrix for each batch, or more dimensions than the other side has */
  Val w = b->rank == 2 ? in[1] : constant_reshape(p->r.to, in[1], &matrix);
  w = constant_transpose(p->r.to, w, (const uint8_t[]){1, 0});
  return add(p, OP_linear, (Val[]){in[0], w}, 2, (Attr){0}, from);
}

/* ---- constants for each channel */

/* Does the constant have one value for each of n channels, which stand last (or one for all)? */
static bool per_channel(const Type *t, int64_t n)
{
  return t->dtype != DT_BOOL && type_rows(t) == 1 && (type_last(t) == n || type_last(t) == 1);
}

static long double at_channel(const Tensor *t, int64_t i)
{
  return tensor_get(t, type_count(&t->type) == 1 ? 0 : i);
}

/* The weights times (or divided by) their output's factor. */
static Val scaled_weights(Products *p, Op op, Val w, const Tensor *factor)
{
  const char *name = p->r.to->module->weights.data[node(p, w)->attr.index].name;
  Arena tmp = {0};
  Tensor old, scaled;
  Val made = 0;

  if (constant_tensor(p->r.to, w, &tmp, &old)) {
    Type type = old.type;
    scaled = tensor_new(&tmp, &type);
    int64_t row = type_count(&type) / type.dim[0];
    for (int64_t i = 0; i < type_count(&type); i++) {
      long double f = at_channel(factor, i / row);
      tensor_set(&scaled, i, op == OP_div ? tensor_get(&old, i) / f : tensor_get(&old, i) * f);
    }
    made = constant_weight(p->r.to, name, &scaled, false);
  }
  arena_free(&tmp);
  return made;
}

/* op(bias, value) for each of n channels; without a bias yet, of 0. */
static Val combined_bias(Products *p, Op op, const Tensor *bias, const Tensor *value, const Type *type)
{
  Arena tmp = {0};
  Tensor sum = tensor_new(&tmp, type);

  for (int64_t i = 0; i < type_count(type); i++) {
    long double a = bias ? tensor_get(bias, i) : 0, b = at_channel(value, i);
    tensor_set(&sum, i, op == OP_mul ? a * b : op == OP_div ? a / b : op == OP_sub ? a - b : a + b);
  }
  Val made = constant_weight(p->r.to, "bias", &sum, false);
  arena_free(&tmp);
  return made;
}

typedef struct {
  Op op;        /* of the product and the constant: mul, div, add, sub */
  Val product;  /* conv or linear, in the new graph */
  Tensor value; /* the constant */
  Tensor bias;  /* of the product, if `has_bias` */
  bool has_bias;
  Val w, b; /* what they become; b = 0: no bias */
} Merge;

static bool merge_constants(Products *p, Merge *m)
{
  const Node *n = node(p, m->product);
  Type bias_type = {.dtype = n->type.dtype, .rank = 1, .dim = {type_last(&n->type)}};
  bool scales = m->op == OP_mul || m->op == OP_div;

  m->w = graph_in(p->r.to, m->product, 1);
  if (scales && !(m->w = scaled_weights(p, m->op, m->w, &m->value)))
    return false;
  if (!scales || m->has_bias)
    m->b = combined_bias(p, m->op, m->has_bias ? &m->bias : NULL, &m->value, &bias_type);
  return true;
}

/* The product that one operand is, if nothing else reads it, and the other operand's values. */
static bool find_merge(Products *p, Val v, const Val *in, uint32_t side, Arena *tmp, Merge *m)
{
  const Node *n = graph_node(p->r.from, v), *x = node(p, in[side]);
  bool conv = x->op == OP_conv, adds = n->op == OP_add || n->op == OP_sub;

  *m = (Merge){.op = n->op, .product = in[side], .has_bias = conv && x->in.count == 3};
  if ((!conv && (x->op != OP_linear || adds)) || p->uses[graph_in(p->r.from, v, side)] != 1)
    return false;
  if (side == 1 && (n->op == OP_sub || n->op == OP_div))
    return false;
  if (dtype_info[x->type.dtype].kind != DK_FLOAT || !type_eq(&x->type, &n->type) || !type_count(&n->type))
    return false;
  const Node *w = node(p, graph_in(p->r.to, in[side], 1)); /* of 16 bits it would be rounded coarsely */
  if (w->op != OP_weight || (!adds && w->type.dtype != n->type.dtype))
    return false;
  if (!per_channel(&node(p, in[!side])->type, type_last(&x->type)) ||
      !constant_tensor(p->r.to, in[!side], tmp, &m->value))
    return false;
  return !m->has_bias || constant_tensor(p->r.to, graph_in(p->r.to, in[side], 2), tmp, &m->bias);
}

static Val merge_into_product(Products *p, Val v, const Val *in, const char *from)
{
  Arena tmp = {0};
  Val out = 0;
  Merge m;

  for (uint32_t side = 0; side < 2 && !out; side++) {
    if (!find_merge(p, v, in, side, &tmp, &m) || !merge_constants(p, &m))
      continue;
    Val now[3] = {graph_in(p->r.to, m.product, 0), m.w, m.b};
    out = add(p, node(p, m.product)->op, now, m.b ? 3 : 2, node(p, m.product)->attr, from);
  }
  arena_free(&tmp);
  return out;
}

/* ---- the walk */

static Val better(Products *p, Val v, const Val *in, const char *from)
{
  switch (graph_node(p->r.from, v)->op) {
  case OP_matmul: return matmul_as_linear(p, in, from);
  case OP_mul:
  case OP_div:
  case OP_add:
  case OP_sub: return merge_into_product(p, v, in, from);
  default: return 0;
  }
}

Graph *pass_products(const Graph *g, Err *e)
{
  Products p = {.r = rewrite_begin(g), .uses = NEW_ARRAY(g->module->arena, uint32_t, g->nodes.len)};

  (void)e;
  for (uint32_t i = 0; i < g->edges.len; i++)
    p.uses[g->edges.data[i]]++;
  for (Val v = 1; v < g->nodes.len; v++) {
    const Val *in = rewrite_inputs(&p.r, v);
    const char *from = graph_node(g, v)->from;
    Val out = better(&p, v, in, from);
    if (out)
      p.r.map[v] = out;
    else
      rewrite_keep(&p.r, v, in);
  }
  return p.r.to;
}
