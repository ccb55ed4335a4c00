/* qdq_sum.c - sums of codes: over windows and along axes. */
#include "passes/qdq.h"

enum { FEW_PLACES = 9 };

/* How often a place counts in its window: [1, ..spatial, 1]. */
static Val emit_counts(Qdq *q, Val v)
{
  Arena tmp = {0};
  Type type = *old_type(q, old_in(q, v, 0));
  Graph *g = graph_new_dense(module_new(&tmp), "counts");

  type.dtype = DT_I32;
  type.dim[0] = type.dim[type.rank - 1] = 1;
  Tensor ones = tensor_new(&tmp, &type), sum;
  for (int64_t i = 0; i < type_count(&type); i++)
    tensor_set_int(&ones, i, 1);
  Val x = graph_add(g, OP_input, NULL, 0, (Attr){.name = "x"}, &type);
  graph_eval_node(g, graph_add(g, OP_pool_sum, &x, 1, old_node(q, v)->attr, NULL), &ones, &tmp, &sum);
  Val counts = constant_add(q->r.to, "counts", &sum, false);
  arena_free(&tmp);
  return counts;
}

/* Codes at one place of each window. */
static Val emit_place(Qdq *q, Val x, int64_t place, const Window *w, const Type *out)
{
  for (uint32_t i = w->spatial; i-- > 0; place /= w->kernel[i]) {
    Attr a = {.slice = {1 + i, place % w->kernel[i] * w->dilation[i], out->dim[1 + i], w->stride[i]}};
    x = emit(q, OP_slice, &x, 1, a, NULL);
  }
  return x;
}

/* Averages of codes fall on halves often, which the rounding of f32 sums decides: so these are added as f32, in order. */
static bool sum_of_places(Qdq *q, Val v, const Codes *x, int64_t places)
{
  Window w = old_node(q, v)->attr.window;
  Codes at = {.zero = x->zero, .scale = x->scale};
  Val base = qdq_padding(q, x->base, x, &w), sum = 0;

  for (int64_t i = 0; i < places; i++) {
    at.base = emit_place(q, base, i, &w, old_type(q, v));
    Val one = qdq_value(q, &at, DT_F32);
    sum = sum ? emit2(q, OP_add, sum, one) : one;
  }
  q->r.map[v] = sum;
  return true;
}

bool qdq_pool_sum(Qdq *q, Val v)
{
  const Node *n = old_node(q, v);
  const Codes *x = qdq_codes(q, old_in(q, v, 0));
  double places = 1;

  for (uint32_t i = 0; i < n->attr.window.spatial; i++)
    places *= (double)n->attr.window.kernel[i];
  if (!x || x->scale == 0 || n->type.dtype != DT_F32 || type_count(&n->type) == 0 || places > MAX_DEPTH)
    return false;
  if (places <= FEW_PLACES && qdq_holds(q, x->base, x->zero))
    return sum_of_places(q, v, x, (int64_t)places);
  Val y = emit(q, OP_pool_sum, &x->base, 1, n->attr, NULL);
  if (x->zero) {
    Val counts = emit_counts(q, v);
    y = emit2(q, OP_sub, y, emit2(q, OP_mul, counts, qdq_scalar(q, DT_I32, x->zero)));
  }
  y = qdq_cast(q, y, DT_F32, OP_cast);
  q->r.map[v] = emit2(q, OP_mul, y, qdq_scalar(q, DT_F32, x->scale));
  return true;
}

/* Sums along axes are exact in integers. */
bool qdq_reduce_sum(Qdq *q, Val v)
{
  const Node *n = old_node(q, v);
  const Codes *x = qdq_codes(q, old_in(q, v, 0));
  int64_t count = type_count(old_type(q, old_in(q, v, 0))) / max64(1, type_count(&n->type));

  if (!x || x->scale == 0 || n->type.dtype != DT_F32 || type_count(&n->type) == 0 || count > MAX_DEPTH)
    return false;
  Val y = qdq_cast(q, x->base, DT_I32, OP_cast);
  y = emit(q, OP_reduce_sum, &y, 1, n->attr, NULL);
  if (x->zero)
    y = emit2(q, OP_sub, y, qdq_scalar(q, DT_I32, (double)(x->zero * count)));
  y = qdq_cast(q, y, DT_F32, OP_cast);
  q->r.map[v] = emit2(q, OP_mul, y, qdq_scalar(q, DT_F32, x->scale));
  return true;
}
