/* qdq_weights.c - constants that are bytes with scales, read from what an exporter wrote around them. */
#include "passes/qdq.h"

#include <math.h>

/* A constant's integers, and a scale for each (count 0: none), in the same shape. */
typedef struct {
  Tensor code, scale;
} Decoded;

/* Where element i of type `full` finds its operand of a type that broadcasts to it. */
static int64_t operand_at(const Type *full, int64_t i, const Type *part)
{
  int64_t at = 0, step = 1;

  for (uint32_t d = 1; d <= full->rank; d++) {
    int64_t n = full->dim[full->rank - d], own = d <= part->rank ? part->dim[part->rank - d] : 1;
    if (own > 1)
      at += i % n * step;
    step *= own;
    i /= n;
  }
  return at;
}

static bool decode(const Qdq *q, Val v, Arena *a, Decoded *out);

static bool decode_leaf(const Qdq *q, Val v, Arena *a, Decoded *out)
{
  Tensor t;
  Type type = *old_type(q, v);

  if ((!is_code_type(type.dtype) && type.dtype != DT_I32) || !constant_tensor(q->r.from, v, a, &t))
    return false;
  type.dtype = DT_I32;
  *out = (Decoded){.code = tensor_new(a, &type)};
  for (int64_t i = 0; i < type_count(&type); i++)
    tensor_set_int(&out->code, i, tensor_get_int(&t, i));
  return true;
}

static bool decode_shifted(const Qdq *q, Val v, Arena *a, Decoded *out)
{
  Tensor zero;

  if (!decode(q, old_in(q, v, 0), a, out) || out->scale.data ||
      !type_eq(old_type(q, v), old_type(q, old_in(q, v, 0))) ||
      !constant_tensor(q->r.from, old_in(q, v, 1), a, &zero))
    return false;
  for (int64_t i = 0; i < type_count(&out->code.type); i++) {
    long double z = tensor_get(&zero, operand_at(&out->code.type, i, &zero.type));
    if (z != rintl(z) || fabsl(z) > 255)
      return false;
    tensor_set_int(&out->code, i, tensor_get_int(&out->code, i) - (int64_t)z);
  }
  return true;
}

static bool decode_scaled(const Qdq *q, Val v, uint32_t i, Arena *a, Decoded *out)
{
  Tensor scale;
  Type type = *old_type(q, v);

  if (type.dtype != DT_F32 || !type_eq(&type, old_type(q, old_in(q, v, i))) ||
      !constant_tensor(q->r.from, old_in(q, v, !i), a, &scale) || !decode(q, old_in(q, v, i), a, out) ||
      out->scale.data)
    return false;
  out->scale = tensor_new(a, &type);
  for (int64_t e = 0; e < type_count(&type); e++)
    tensor_set(&out->scale, e, tensor_get(&scale, operand_at(&type, e, &scale.type)));
  return true;
}

static Tensor moved(Arena *a, const Tensor *t, const Node *n)
{
  Graph *g = graph_new_dense(module_new(a), "moved");
  Val x = graph_add(g, OP_input, NULL, 0, (Attr){.name = "x"}, &t->type);
  Type type = n->type;
  Tensor out;

  type.dtype = t->type.dtype;
  graph_eval_node(g, graph_add(g, n->op, &x, 1, n->attr, &type), t, a, &out);
  return out;
}

static bool decode_moved(const Qdq *q, Val v, Arena *a, Decoded *out)
{
  if (!decode(q, old_in(q, v, 0), a, out))
    return false;
  out->code = moved(a, &out->code, old_node(q, v));
  if (out->scale.data)
    out->scale = moved(a, &out->scale, old_node(q, v));
  return true;
}

static bool decode(const Qdq *q, Val v, Arena *a, Decoded *out)
{
  const Node *n = old_node(q, v);
  DType to = n->type.dtype;

  if (type_count(&n->type) > CONSTANT_MAX)
    return false;
  switch (n->op) {
  case OP_weight:
  case OP_const: return decode_leaf(q, v, a, out);
  case OP_cast:
    return (to == DT_I32 || to == DT_F32) && is_code_type(old_type(q, old_in(q, v, 0))->dtype) &&
           decode(q, old_in(q, v, 0), a, out);
  case OP_sub: return decode_shifted(q, v, a, out);
  case OP_mul: return decode_scaled(q, v, 0, a, out) || decode_scaled(q, v, 1, a, out);
  case OP_transpose:
  case OP_reshape: return decode_moved(q, v, a, out);
  default: return false;
  }
}

static bool row_scales(Weights *w, const Tensor *scale, Arena *a)
{
  w->scale = NEW_ARRAY(a, double, w->outputs);
  for (int64_t o = 0; o < w->outputs; o++) {
    w->scale[o] = (double)tensor_get(scale, o * w->depth);
    if (!(w->scale[o] > 0) || !isfinite(w->scale[o]))
      return false;
    for (int64_t i = 1; i < w->depth; i++)
      if ((double)tensor_get(scale, o * w->depth + i) != w->scale[o])
        return false;
  }
  return true;
}

/* `swap`: the constant is [depth, outputs]. */
bool qdq_weights(const Qdq *q, Val v, bool swap, Arena *a, Weights *w)
{
  Decoded d;
  Type type = *old_type(q, v);

  if (type_count(&type) == 0 || !decode(q, v, a, &d))
    return false;
  if (swap) {
    Node n = {.op = OP_transpose,
              .attr = {.perm = {1, 0}},
              .type = type_of(DT_I8, 2, (int64_t[]){type.dim[1], type.dim[0]})};
    d.code = moved(a, &d.code, &n);
    d.scale = d.scale.data ? moved(a, &d.scale, &n) : d.scale;
  }
  type = d.code.type;
  type.dtype = DT_I8;
  *w = (Weights){.code = tensor_new(a, &type), .outputs = type.dim[0]};
  w->depth = type_count(&type) / w->outputs;
  w->total = NEW_ARRAY(a, int64_t, w->outputs);
  for (int64_t i = 0; i < type_count(&type); i++) {
    int64_t c = tensor_get_int(&d.code, i);
    if (c < INT8_MIN || c > INT8_MAX)
      return false;
    tensor_set_int(&w->code, i, c);
    w->total[i / w->depth] += c;
  }
  return w->depth <= MAX_DEPTH && (!d.scale.data || row_scales(w, &d.scale, a));
}
