/* qdq_product.c - products of codes with constant bytes: exact sums in i32, then one scale in f32. */
#include "passes/qdq.h"

/* What the operand's zero point adds, and a bias of integers; 0: nothing. */
static Val emit_bias(Qdq *q, const Weights *w, int zero, const Tensor *bias)
{
  Arena tmp = {0};
  Type type = type_of(DT_I32, 1, &w->outputs);
  Tensor t = tensor_new(&tmp, &type);
  bool any = false;

  for (int64_t o = 0; o < w->outputs; o++) {
    tensor_set_int(&t, o, (bias ? tensor_get_int(bias, o) : 0) - zero * w->total[o]);
    any = any || tensor_get_int(&t, o);
  }
  Val v = any ? constant_weight(q->r.to, "bias", &t, false) : 0;
  arena_free(&tmp);
  return v;
}

/* Less what a computed zero point adds. */
static Val less_dynamic(Qdq *q, Val sum, const Weights *w, const Codes *x)
{
  Arena tmp = {0};
  Type type = type_of(DT_I32, 1, &w->outputs);

  if (!x->dynamic)
    return sum;
  Tensor t = tensor_new(&tmp, &type);
  for (int64_t o = 0; o < w->outputs; o++)
    tensor_set_int(&t, o, w->total[o]);
  Val totals = constant_add(q->r.to, "totals", &t, false);
  arena_free(&tmp);
  return emit2(q, OP_sub, sum, emit2(q, OP_mul, totals, x->dynamic));
}

/* The f32 value of sums of integers that stand for (codes - zero) * weights. */
static Val emit_scale(Qdq *q, Val sum, double x, const Weights *w)
{
  Arena tmp = {0};
  Type type = type_of(DT_F32, 1, &w->outputs);
  Tensor t = tensor_new(&tmp, &type);

  for (int64_t o = 0; o < w->outputs; o++)
    tensor_set(&t, o, x * w->scale[o]);
  Val y = qdq_cast(q, sum, DT_F32, OP_cast);
  y = emit2(q, OP_mul, y, constant_weight(q->r.to, "scale", &t, false));
  arena_free(&tmp);
  return y;
}

/* Places outside x are 0, whose code is the zero point. */
Val qdq_padding(Qdq *q, Val x, const Codes *c, Window *w)
{
  Type type = *new_type(q, x);
  Attr attr = {0};
  bool any = false;

  for (uint32_t i = 0; i < w->spatial; i++) {
    attr.pad.lo[1 + i] = w->pad_lo[i];
    type.dim[1 + i] += w->pad_lo[i] + w->pad_hi[i];
    any = any || w->pad_lo[i] || w->pad_hi[i];
    w->pad_lo[i] = w->pad_hi[i] = 0;
  }
  if (!any)
    return x;
  Val zero = c->dynamic ? qdq_cast(q, c->dynamic, type.dtype, OP_cast) : qdq_scalar(q, type.dtype, c->zero);
  return emit(q, OP_pad, (Val[]){x, zero}, 2, attr, &type);
}

/* Operand 0 with its codes as u8, if a product with these weights is one of bytes. */
static bool product_operand(const Qdq *q, Val v, const Weights *w, const Codes **x)
{
  *x = qdq_operand_codes(q, old_in(q, v, 0));
  return *x && (!(*x)->dynamic || new_type(q, (*x)->base)->dtype == DT_U8) &&
         ((*x)->scale != 0) == (w->scale != NULL) && type_count(old_type(q, v)) > 0 &&
         is_code_type(new_type(q, (*x)->base)->dtype) && (*x)->zero >= 0 - I8_SHIFT && (*x)->zero <= 255;
}

/* A bias that is added to the integers: constant, of i32. */
static bool integer_bias(const Qdq *q, Val bias, Arena *a, Tensor *out)
{
  return bias && old_type(q, bias)->dtype == DT_I32 && constant_tensor(q->r.from, bias, a, out);
}

static bool conv_of_codes(Qdq *q, Val v, const Weights *w, Arena *tmp)
{
  const Node *n = old_node(q, v);
  Val bias = n->in.count > 2 ? old_in(q, v, 2) : 0, in[3];
  Attr attr = n->attr;
  const Codes *x;
  Tensor more;
  bool whole = integer_bias(q, bias, tmp, &more);

  if (!product_operand(q, v, w, &x))
    return false;
  Codes u = qdq_as_u8(q, x);
  if (!qdq_holds(q, u.base, u.zero))
    return false;
  in[0] = qdq_padding(q, u.base, &u, &attr.window);
  in[1] = constant_weight(q->r.to, "codes", &w->code, false);
  in[2] = emit_bias(q, w, u.zero, whole ? &more : NULL);
  Val y = less_dynamic(q, emit(q, OP_conv, in, in[2] ? 3 : 2, attr, NULL), w, &u);
  if (w->scale)
    y = emit_scale(q, y, u.scale, w);
  q->r.map[v] = bias && !whole ? emit2(q, OP_add, y, qdq_plain(q, bias)) : y;
  return true;
}

static bool linear_of_codes(Qdq *q, Val v, const Weights *w)
{
  const Codes *x;

  if (!product_operand(q, v, w, &x))
    return false;
  Codes u = qdq_as_u8(q, x);
  Val codes = constant_weight(q->r.to, "codes", &w->code, false), bias = emit_bias(q, w, u.zero, NULL);
  Val y = emit2(q, OP_linear, u.base, codes);
  y = less_dynamic(q, bias ? emit2(q, OP_add, y, bias) : y, w, &u);
  q->r.map[v] = w->scale ? emit_scale(q, y, u.scale, w) : y;
  return true;
}

/* A matmul whose right side is one matrix is linear with its transpose. */
static bool one_matrix(const Qdq *q, Val v)
{
  return old_type(q, old_in(q, v, 1))->rank == 2;
}

bool qdq_product(Qdq *q, Val v)
{
  const Node *n = old_node(q, v);
  Arena tmp = {0};
  Weights w;
  bool ok = false;

  if (!qdq_operand_codes(q, old_in(q, v, 0)) || (n->op == OP_matmul && !one_matrix(q, v)))
    return false;
  if (qdq_weights(q, old_in(q, v, 1), n->op == OP_matmul, &tmp, &w))
    ok = n->op == OP_conv ? conv_of_codes(q, v, &w, &tmp) : linear_of_codes(q, v, &w);
  arena_free(&tmp);
  if (ok)
    graph_node(q->r.to, q->r.map[v])->from = n->from;
  return ok;
}
