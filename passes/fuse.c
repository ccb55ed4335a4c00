/* fuse.c - groups nodes into launches: each launch is one parallel region with a barrier at its end.
 * needs: verified graph; keeps: nodes, order, types, meaning; sets: Node.launch
 *
 * Which launches take more than one node:
 *   products: linears of one input run side by side (Q|K|V); elementwise nodes of the result's shape become
 *     their epilogue (bias, residual, gate * up), and join the products they combine; so does its quantisation;
 *   rows: ops that work along the last axis (norms, softmax, quantisation, rope, cache writes, elementwise) are done
 *     row by row, one after the other, when they have the same rows; independent parts too: nodes whose inputs all
 *     stand before it;
 *   attention, with the quantisation of its result.
 *   any, with rope's tables.
 * All others are a launch of their own. */
#include "passes/lower/lower.h"
#include "passes/passes.h"
#include "passes/rewrite.h"
#include "runtime-min/mi_image.h" /* MI_MAX_PARAMS */

typedef enum { KIND_LEAF, KIND_PRODUCT, KIND_ROWS, KIND_SOLO } Kind;

typedef struct {
  Kind kind;
  Val input; /* of products: what they all multiply */
  uint32_t nodes;
  bool quantised; /* one of its results is */
} Group;

typedef struct {
  Graph *g;
  Arena *arena;
  ARRAY(Group) groups; /* groups.data[0] is none */
  uint32_t *ready;     /* per node: the launch after which it is there; 0: from the start */
} Fuse;

enum { MAX_PART_NODES = 24 };

static Kind kind_of(const Graph *g, Val v)
{
  Op op = graph_node(g, v)->op;

  if (lower_is_row(op))
    return KIND_ROWS;
  switch (op) {
  case OP_input:
  case OP_weight:
  case OP_state:
  case OP_const: return KIND_LEAF;
  case OP_output: {
    Val of = graph_in(g, v, 0);
    while (lower_is_view(g, of))
      of = graph_in(g, of, 0);
    op = graph_node(g, of)->op; /* what nothing computes must be copied */
    return op == OP_weight || op == OP_const ? KIND_SOLO : KIND_LEAF;
  }
  case OP_linear: return KIND_PRODUCT;
  default: return lower_is_view(g, v) ? KIND_LEAF : KIND_SOLO;
  }
}

static uint32_t start(Fuse *f, Kind kind, Val input)
{
  *PUSH(f->arena, f->groups) = (Group){.kind = kind, .input = input};
  return f->groups.len - 1;
}

/* The latest launch among a node's inputs. */
static uint32_t inputs_ready(const Fuse *f, Val v)
{
  uint32_t latest = 0;

  for (uint32_t i = 0; i < graph_node(f->g, v)->in.count; i++) {
    uint32_t r = f->ready[graph_in(f->g, v, i)];
    latest = r > latest ? r : latest;
  }
  return latest;
}

static uint32_t place_product(Fuse *f, Val v)
{
  Val x = graph_in(f->g, v, 0);

  for (uint32_t i = f->ready[x] + 1; i < f->groups.len; i++)
    if (f->groups.data[i].kind == KIND_PRODUCT && f->groups.data[i].input == x)
      return i;
  return start(f, KIND_PRODUCT, x);
}

/* What a row op works along: the shape of its rows. */
static Type row_shape(const Graph *g, Val v)
{
  const Node *n = graph_node(g, v);

  if (n->op == OP_sum || n->op == OP_amax || n->op == OP_quant)
    return graph_node(g, graph_in(g, v, 0))->type;
  if (n->op == OP_update)
    return graph_node(g, graph_in(g, v, 1))->type;
  return n->type;
}

static bool same_dims(const Type *a, const Type *b)
{
  if (a->rank != b->rank)
    return false;
  for (uint32_t i = 0; i < a->rank; i++)
    if (a->dim[i] != b->dim[i])
      return false;
  return true;
}

static bool is_scalar_or_row(const Graph *g, Val v)
{
  const Type *t = &graph_node(g, v)->type;
  return type_rows(t) == 1;
}

/* An elementwise node can be computed where the products' sums are still in registers, if every input
 * from this launch has its shape, and the others are there before and are whole, one row, or a number. */
static bool fits_epilogue(const Fuse *f, Val v, uint32_t launch)
{
  const Node *n = graph_node(f->g, v);

  if (!lower_is_elementwise(n->op) || n->type.rank != 2)
    return false;
  for (uint32_t i = 0; i < n->in.count; i++) {
    Val in = graph_in(f->g, v, i);
    const Type *t = &graph_node(f->g, in)->type;
    bool whole = same_dims(t, &n->type);
    if (f->ready[in] == launch ? !whole || graph_node(f->g, in)->launch != launch
                               : !whole && !is_scalar_or_row(f->g, in))
      return false;
    if (!whole && type_last(t) != 1 && type_last(t) != type_last(&n->type))
      return false;
  }
  return true;
}

/* Every input from this launch must have the node's rows and columns, or be one value for each row. */
static bool fits_rows(const Fuse *f, Val v, uint32_t launch)
{
  Type mine = row_shape(f->g, v);

  for (uint32_t i = 0; i < graph_node(f->g, v)->in.count; i++) {
    Val in = graph_in(f->g, v, i);
    if (f->ready[in] != launch)
      continue;
    if (graph_node(f->g, in)->launch != launch) /* a view of a row: other rows */
      return false;
    const Type *t = &graph_node(f->g, in)->type;
    Type theirs = row_shape(f->g, in), as_column = mine;
    as_column.dim[as_column.rank ? as_column.rank - 1 : 0] = 1;
    if (!same_dims(&theirs, &mine) || (!same_dims(t, &mine) && !same_dims(t, &as_column)) ||
        t->dtype == DT_Q8A || graph_node(f->g, in)->op == OP_update)
      return false;
  }
  return true;
}

/* How many buffers the product launch's kernel takes, if nodes read by later ones than `v` are stored. */
static uint32_t buffers(const Fuse *f, uint32_t launch, Val v)
{
  uint32_t n = 2 * Q8A_ARRAYS + 1; /* what is multiplied, what is made of it, scratch */

  for (Val u = 1; u < f->g->nodes.len; u++) {
    const Node *node = graph_node(f->g, u);
    for (uint32_t i = 0; i < node->in.count; i++) {
      const Node *in = graph_node(f->g, graph_in(f->g, u, i));
      bool from = in->launch == launch, to = node->launch == launch || u == v;
      bool given = node->op == OP_linear && i == 0;
      n += from != to && !given && in->op != OP_const;
    }
  }
  return n;
}

/* A quantised value is made by what makes its numbers: attention, head by head, if heads are whole blocks; a product's
 * epilogue, two panels at a time. */
static bool fits_quant(const Fuse *f, Val v, uint32_t launch)
{
  Val in = graph_in(f->g, v, 0), of = in;
  Kind kind = f->groups.data[launch].kind;

  while (lower_is_view(f->g, of))
    of = graph_in(f->g, of, 0);
  const Node *n = graph_node(f->g, of);
  if (n->launch != launch || f->groups.data[launch].quantised)
    return false;
  if (n->op == OP_attention)
    return type_last(&n->type) % QBLOCK == 0;
  return kind == KIND_PRODUCT && in == of && n->type.rank == 2 && buffers(f, launch, v) <= MI_MAX_PARAMS;
}

static uint32_t place_quant(Fuse *f, Val v)
{
  uint32_t latest = inputs_ready(f, v);

  if (!latest || !fits_quant(f, v, latest))
    return 0;
  f->groups.data[latest].quantised = true;
  return latest;
}

static uint32_t place_rows(Fuse *f, Val v)
{
  uint32_t joined = graph_node(f->g, v)->op == OP_quant ? place_quant(f, v) : 0;
  if (joined)
    return joined;

  uint32_t latest = inputs_ready(f, v);
  const Group *g = latest ? &f->groups.data[latest] : NULL;

  if (g && g->kind == KIND_PRODUCT && g->nodes < MAX_PART_NODES && fits_epilogue(f, v, latest) &&
      (!g->quantised || buffers(f, latest, v) <= MI_MAX_PARAMS))
    return latest;
  if (g && g->kind == KIND_ROWS && g->nodes < MAX_PART_NODES && fits_rows(f, v, latest))
    return latest;
  for (uint32_t i = latest + 1; i < f->groups.len; i++) /* beside others, as a part of its own */
    if (f->groups.data[i].kind == KIND_ROWS && f->groups.data[i].nodes < MAX_PART_NODES)
      return i;
  return start(f, KIND_ROWS, 0);
}

/* Tables that depend on the position alone are made beside whatever comes first: then they stand in nobody's way. */
static uint32_t place_solo(Fuse *f, Val v)
{
  uint32_t first = inputs_ready(f, v) + 1;

  if (graph_node(f->g, v)->op == OP_rope_table && first < f->groups.len)
    return first;
  return start(f, KIND_SOLO, 0);
}

Graph *pass_fuse(const Graph *g, Err *e)
{
  Arena *a = g->module->arena;
  Fuse f = {.g = rewrite_clone(g), .arena = a, .ready = NEW_ARRAY(a, uint32_t, g->nodes.len)};

  (void)e;
  (void)PUSH(a, f.groups);
  for (Val v = 1; v < f.g->nodes.len; v++) {
    uint32_t launch = 0;
    switch (kind_of(f.g, v)) {
    case KIND_LEAF: break;
    case KIND_PRODUCT: launch = place_product(&f, v); break;
    case KIND_ROWS: launch = place_rows(&f, v); break;
    case KIND_SOLO: launch = place_solo(&f, v); break;
    }
    graph_node(f.g, v)->launch = launch;
    f.groups.data[launch].nodes++;
    f.ready[v] = launch ? launch : inputs_ready(&f, v);
  }
  return f.g;
}
