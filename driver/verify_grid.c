/* verify_grid.c - see verify_grid.h. */
#include "driver/verify_grid.h"

#include <math.h>

typedef struct {
  const Graph *g;
  double *step;  /* 0: none */
  bool *narrows; /* becomes an integer of 8 bits or fewer */
} Grid;

static bool is_narrow(const Node *n)
{
  const DTypeInfo *info = &dtype_info[n->type.dtype];
  return info->kind == DK_INT && info->bytes == 1 && n->type.dtype != DT_BOOL;
}

/* The constant that a value is a view of, or NULL. */
static const Node *constant(const Graph *g, Val v)
{
  const Node *n = graph_node(g, v);

  while (n->op == OP_reshape || n->op == OP_expand || n->op == OP_transpose || n->op == OP_cast)
    n = graph_node(g, graph_in(g, v, 0)), v = graph_in(g, v, 0);
  return n->op == OP_const || n->op == OP_weight ? n : NULL;
}

/* Smallest and largest size of a constant's elements. */
static bool sizes(const Graph *g, Val v, double *low, double *high)
{
  const Node *n = constant(g, v);

  *low = INFINITY;
  *high = 0;
  if (!n)
    return false;
  if (n->op == OP_const)
    *low = *high = fabs(n->attr.value);
  for (int64_t i = 0; n->op == OP_weight && i < type_count(&n->type); i++) {
    Tensor t = {n->type, (void *)(uintptr_t)g->module->weights.data[n->attr.index].data};
    double x = fabs((double)tensor_get(&t, i));
    *low = fmin(*low, x);
    *high = fmax(*high, x);
  }
  return true;
}

/* One operand is constant: the other's step, and where the constant is. */
static double other_step(const Grid *c, Val v, uint32_t *at)
{
  for (*at = 0; *at < 2; ++*at)
    if (constant(c->g, graph_in(c->g, v, *at)))
      return c->step[graph_in(c->g, v, 1 - *at)];
  return 0;
}

static double scaled_step(const Grid *c, Val v)
{
  uint32_t at;
  double step = other_step(c, v, &at), low, high;

  if (step == 0 || !sizes(c->g, graph_in(c->g, v, at), &low, &high))
    return 0;
  if (graph_node(c->g, v)->op == OP_mul)
    return step * high;
  return at == 1 && low > 0 ? step / low : 0;
}

static double concat_step(const Grid *c, Val v)
{
  double most = 0;

  for (uint32_t i = 0; i < graph_node(c->g, v)->in.count; i++) {
    double step = c->step[graph_in(c->g, v, i)];
    if (step == 0)
      return 0;
    most = fmax(most, step);
  }
  return most;
}

static double step_of(const Grid *c, Val v)
{
  const Node *n = graph_node(c->g, v);
  uint32_t at;

  if (n->op == OP_const || n->op == OP_weight)
    return 0;
  if (is_narrow(n))
    return 1;
  switch (n->op) {
  case OP_round: return c->narrows[v];
  case OP_add:
  case OP_sub:
  case OP_max:
  case OP_min: return other_step(c, v, &at);
  case OP_mul:
  case OP_div: return scaled_step(c, v);
  case OP_concat: return concat_step(c, v);
  case OP_cast:
    return n->type.dtype == DT_BOOL || dtype_info[n->type.dtype].kind == DK_FLOAT8
               ? 0
               : c->step[graph_in(c->g, v, 0)];
  case OP_reshape:
  case OP_transpose:
  case OP_slice:
  case OP_expand:
  case OP_pad:
  case OP_gather:
  case OP_pool_max:
  case OP_relu:
  case OP_neg:
  case OP_abs:
  case OP_output: return c->step[graph_in(c->g, v, 0)];
  default: return 0;
  }
}

/* From a cast back to the rounding: zero points and bounds may stand between. */
static void mark_narrow(Grid *c)
{
  for (Val v = c->g->nodes.len; v-- > 1;) {
    const Node *n = graph_node(c->g, v);
    bool between = n->op == OP_add || n->op == OP_sub || n->op == OP_max || n->op == OP_min;
    if ((n->op == OP_cast && is_narrow(n)) || (c->narrows[v] && between))
      for (uint32_t i = 0; i < n->in.count; i++)
        c->narrows[graph_in(c->g, v, i)] = true;
  }
}

double *verify_grid(const Graph *g, Arena *a)
{
  Grid c = {g, NEW_ARRAY(a, double, g->nodes.len), NEW_ARRAY(a, bool, g->nodes.len)};

  mark_narrow(&c);
  for (Val v = 1; v < g->nodes.len; v++)
    c.step[v] = step_of(&c, v);
  return c.step;
}
