/* qdq.c - quantised models in 8 bits: a dense graph's integers with a scale and a zero point meet in products of
 * integers, and lie in memory as bytes.
 *
 * ONNX says a quantised net as float operations between DequantizeLinear and QuantizeLinear, or as products of integers
 * less their zero points; both arrive as casts and arithmetic. This pass notes what a value is made of: codes, a zero
 * point and perhaps a scale,
 *
 *   value = (codes - zero) * scale          f32, or without a scale i32, f32, i8, u8
 *
 * and lets the codes flow as far as they can. Movement, maxima over windows and relu are done on codes. A product of two
 * such values, one of them constant with a scale for each output, is an exact product of bytes in i32 (conv, linear,
 * pool_sum; what its operand's zero point adds is a constant for each output), then one multiplication and one addition
 * in f32. What is quantised as its operand was before is that operand. Where the value itself is needed, it is computed
 * from the codes.
 *
 * Codes that are computed here are u8: those of an i8 are 128 more, so that every product is u8 by i8.
 *
 * needs: verified dense graph, as imported; keeps: types of outputs; values up to a rounding of the product's scales in
 * f32, which may move a result by one step of its quantisation; leaves: dead nodes */
#include "passes/constants.h"
#include "passes/passes.h"
#include "passes/rewrite.h"

#include <math.h>
#include <stdlib.h>

enum { MAX_DEPTH = 65536, I8_SHIFT = 128, FEW_PLACES = 9 }; /* 65536 products of bytes stay in 31 bits */

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

/* ---- nodes */

static const Node *old_node(const Qdq *q, Val v)
{
  return graph_node(q->r.from, v);
}

static const Type *old_type(const Qdq *q, Val v)
{
  return &graph_node(q->r.from, v)->type;
}

static Val old_in(const Qdq *q, Val v, uint32_t i)
{
  return graph_in(q->r.from, v, i);
}

static const Type *new_type(const Qdq *q, Val v)
{
  return &graph_node(q->r.to, v)->type;
}

static Val emit(Qdq *q, Op op, const Val *in, uint32_t n, Attr attr, const Type *type)
{
  return graph_add(q->r.to, op, in, n, attr, type);
}

static Val emit2(Qdq *q, Op op, Val a, Val b)
{
  return emit(q, op, (Val[]){a, b}, 2, (Attr){0}, NULL);
}

static Val emit_scalar(Qdq *q, DType t, double value)
{
  Type type = {.dtype = t};
  return emit(q, OP_const, NULL, 0, (Attr){.value = value}, &type);
}

static Val emit_cast(Qdq *q, Val v, DType t, Op op)
{
  Type type = *new_type(q, v);

  if (type.dtype == t)
    return v;
  type.dtype = t;
  return emit(q, op, &v, 1, (Attr){.saturate = op == OP_cast}, &type);
}

static bool is_code_type(DType t)
{
  return t == DT_I8 || t == DT_U8;
}

/* Codes with a zero point that is computed are for products alone. */
static const Codes *codes_of(const Qdq *q, Val v)
{
  return q->codes[v].base && !q->codes[v].dynamic ? &q->codes[v] : NULL;
}

static const Codes *operand_codes(const Qdq *q, Val v)
{
  return q->codes[v].base ? &q->codes[v] : NULL;
}

static bool note(Qdq *q, Val v, Val base, int zero, double scale)
{
  if (!graph_node(q->r.to, base)->from)
    graph_node(q->r.to, base)->from = old_node(q, v)->from;
  q->codes[v] = (Codes){base, zero, scale, 0};
  return true;
}

/* Is the zero point a code itself? */
static bool holds(const Qdq *q, Val base, int zero)
{
  bool is_signed = new_type(q, base)->dtype == DT_I8;
  return zero >= (is_signed ? INT8_MIN : 0) && zero <= (is_signed ? INT8_MAX : UINT8_MAX);
}

/* ---- values from codes */

static Val value_of(Qdq *q, const Codes *c, DType t)
{
  if (is_code_type(t)) {
    if (t == new_type(q, c->base)->dtype)
      return c->base; /* without a zero point then */
    Val flipped = emit2(q, OP_xor, c->base, emit_scalar(q, DT_U8, I8_SHIFT));
    return emit_cast(q, flipped, t, OP_bitcast);
  }
  Val v = emit_cast(q, c->base, t, OP_cast);
  if (c->zero)
    v = emit2(q, OP_sub, v, emit_scalar(q, t, c->zero));
  if (c->dynamic)
    v = emit2(q, OP_sub, v, c->dynamic);
  return c->scale != 0 ? emit2(q, OP_mul, v, emit_scalar(q, t, c->scale)) : v;
}

/* An old node's value in the new graph. */
static Val plain(Qdq *q, Val v)
{
  if (!q->r.map[v])
    q->r.map[v] = value_of(q, &q->codes[v], old_type(q, v)->dtype);
  return q->r.map[v];
}

static void keep(Qdq *q, Val v)
{
  const Node *n = old_node(q, v);

  for (uint32_t i = 0; i < n->in.count; i++)
    q->r.in[i] = plain(q, old_in(q, v, i));
  rewrite_keep(&q->r, v, q->r.in);
}

/* Codes as u8: an i8's are 128 more. */
static Codes as_u8(Qdq *q, const Codes *c)
{
  Codes to = *c;

  if (new_type(q, c->base)->dtype == DT_U8)
    return to;
  to.base = emit_cast(q, c->base, DT_U8, OP_bitcast);
  to.base = emit2(q, OP_xor, to.base, emit_scalar(q, DT_U8, I8_SHIFT));
  to.zero += I8_SHIFT;
  return to;
}

/* ---- constants of the old graph */

static bool scalar_constant(const Qdq *q, Val v, double *out)
{
  Arena tmp = {0};
  Tensor t;
  bool ok = type_count(old_type(q, v)) == 1 && constant_tensor(q->r.from, v, &tmp, &t);

  if (ok)
    *out = (double)tensor_get(&t, 0);
  arena_free(&tmp);
  return ok;
}

/* An operand that is a number and leaves the other's type as it is. */
static bool number_beside(const Qdq *q, Val v, uint32_t i, double *out)
{
  return type_eq(old_type(q, v), old_type(q, old_in(q, v, !i))) && scalar_constant(q, old_in(q, v, i), out) &&
         isfinite(*out);
}

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

/* Weights [outputs, ..] as bytes. */
typedef struct {
  Tensor code;    /* i8 */
  double *scale;  /* of each output; NULL: none */
  int64_t *total; /* sum of each output's codes */
  int64_t outputs, depth;
} Weights;

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
static bool read_weights(const Qdq *q, Val v, bool swap, Arena *a, Weights *w)
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

/* ---- products */

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
  Val y = emit_cast(q, sum, DT_F32, OP_cast);
  y = emit2(q, OP_mul, y, constant_weight(q->r.to, "scale", &t, false));
  arena_free(&tmp);
  return y;
}

/* Places outside x are 0, whose code is the zero point. */
static Val emit_padding(Qdq *q, Val x, const Codes *c, Window *w)
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
  Val zero = c->dynamic ? emit_cast(q, c->dynamic, type.dtype, OP_cast) : emit_scalar(q, type.dtype, c->zero);
  return emit(q, OP_pad, (Val[]){x, zero}, 2, attr, &type);
}

/* Operand 0 with its codes as u8, if a product with these weights is one of bytes. */
static bool product_operand(const Qdq *q, Val v, const Weights *w, const Codes **x)
{
  *x = operand_codes(q, old_in(q, v, 0));
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
  Codes u = as_u8(q, x);
  if (!holds(q, u.base, u.zero))
    return false;
  in[0] = emit_padding(q, u.base, &u, &attr.window);
  in[1] = constant_weight(q->r.to, "codes", &w->code, false);
  in[2] = emit_bias(q, w, u.zero, whole ? &more : NULL);
  Val y = less_dynamic(q, emit(q, OP_conv, in, in[2] ? 3 : 2, attr, NULL), w, &u);
  if (w->scale)
    y = emit_scale(q, y, u.scale, w);
  q->r.map[v] = bias && !whole ? emit2(q, OP_add, y, plain(q, bias)) : y;
  return true;
}

static bool linear_of_codes(Qdq *q, Val v, const Weights *w)
{
  const Codes *x;

  if (!product_operand(q, v, w, &x))
    return false;
  Codes u = as_u8(q, x);
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

static bool do_product(Qdq *q, Val v)
{
  const Node *n = old_node(q, v);
  Arena tmp = {0};
  Weights w;
  bool ok = false;

  if (!operand_codes(q, old_in(q, v, 0)) || (n->op == OP_matmul && !one_matrix(q, v)))
    return false;
  if (read_weights(q, old_in(q, v, 1), n->op == OP_matmul, &tmp, &w))
    ok = n->op == OP_conv ? conv_of_codes(q, v, &w, &tmp) : linear_of_codes(q, v, &w);
  arena_free(&tmp);
  if (ok)
    graph_node(q->r.to, q->r.map[v])->from = n->from;
  return ok;
}

/* ---- sums over windows */

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
  Val base = emit_padding(q, x->base, x, &w), sum = 0;

  for (int64_t i = 0; i < places; i++) {
    at.base = emit_place(q, base, i, &w, old_type(q, v));
    Val one = value_of(q, &at, DT_F32);
    sum = sum ? emit2(q, OP_add, sum, one) : one;
  }
  q->r.map[v] = sum;
  return true;
}

static bool do_pool_sum(Qdq *q, Val v)
{
  const Node *n = old_node(q, v);
  const Codes *x = codes_of(q, old_in(q, v, 0));
  double places = 1;

  for (uint32_t i = 0; i < n->attr.window.spatial; i++)
    places *= (double)n->attr.window.kernel[i];
  if (!x || x->scale == 0 || n->type.dtype != DT_F32 || type_count(&n->type) == 0 || places > MAX_DEPTH)
    return false;
  if (places <= FEW_PLACES && holds(q, x->base, x->zero))
    return sum_of_places(q, v, x, (int64_t)places);
  Val y = emit(q, OP_pool_sum, &x->base, 1, n->attr, NULL);
  if (x->zero) {
    Val counts = emit_counts(q, v);
    y = emit2(q, OP_sub, y, emit2(q, OP_mul, counts, emit_scalar(q, DT_I32, x->zero)));
  }
  y = emit_cast(q, y, DT_F32, OP_cast);
  q->r.map[v] = emit2(q, OP_mul, y, emit_scalar(q, DT_F32, x->scale));
  return true;
}

/* Sums along axes are exact in integers. */
static bool do_reduce_sum(Qdq *q, Val v)
{
  const Node *n = old_node(q, v);
  const Codes *x = codes_of(q, old_in(q, v, 0));
  int64_t count = type_count(old_type(q, old_in(q, v, 0))) / max64(1, type_count(&n->type));

  if (!x || x->scale == 0 || n->type.dtype != DT_F32 || type_count(&n->type) == 0 || count > MAX_DEPTH)
    return false;
  Val y = emit_cast(q, x->base, DT_I32, OP_cast);
  y = emit(q, OP_reduce_sum, &y, 1, n->attr, NULL);
  if (x->zero)
    y = emit2(q, OP_sub, y, emit_scalar(q, DT_I32, (double)(x->zero * count)));
  y = emit_cast(q, y, DT_F32, OP_cast);
  q->r.map[v] = emit2(q, OP_mul, y, emit_scalar(q, DT_F32, x->scale));
  return true;
}

/* ---- what is done on codes */

static bool do_cast(Qdq *q, Val v)
{
  Val in = old_in(q, v, 0);
  DType to = old_type(q, v)->dtype;
  const Codes *c = codes_of(q, in);

  if ((to != DT_F32 && to != DT_I32) || !is_code_type(old_type(q, in)->dtype))
    return false;
  return c ? note(q, v, c->base, c->zero, 0) : note(q, v, plain(q, in), 0, 0);
}

static bool do_sub(Qdq *q, Val v)
{
  const Codes *c = codes_of(q, old_in(q, v, 0));
  double z;

  if (!c || c->scale != 0 || is_code_type(old_type(q, v)->dtype) || !number_beside(q, v, 1, &z) ||
      z != rint(z) || fabs(z) > 255 || abs(c->zero) > 255)
    return false;
  return note(q, v, c->base, c->zero + (int)z, 0);
}

/* What DynamicQuantizeLinear gives: one zero point, known when it runs. */
static bool do_dynamic_sub(Qdq *q, Val v)
{
  Val zero = old_in(q, v, 1);
  const Codes *c = codes_of(q, old_in(q, v, 0));
  Type scalar = {.dtype = DT_I32};

  if (!c || c->scale != 0 || c->zero || old_type(q, v)->dtype != DT_I32 ||
      type_count(old_type(q, zero)) != 1 || !type_eq(old_type(q, v), old_type(q, old_in(q, v, 0))))
    return false;
  Val d = plain(q, zero);
  if (new_type(q, d)->rank)
    d = emit(q, OP_reshape, &d, 1, (Attr){0}, &scalar);
  note(q, v, c->base, 0, 0);
  q->codes[v].dynamic = d;
  return true;
}

static bool do_shift(Qdq *q, Val v)
{
  return do_sub(q, v) || do_dynamic_sub(q, v);
}

static bool do_mul(Qdq *q, Val v)
{
  for (uint32_t i = 0; i < 2; i++) {
    const Codes *c = codes_of(q, old_in(q, v, i));
    double s;
    if (c && c->scale == 0 && old_type(q, v)->dtype == DT_F32 && number_beside(q, v, !i, &s) && s > 0)
      return note(q, v, c->base, c->zero, s);
  }
  return false;
}

static bool do_movement(Qdq *q, Val v)
{
  const Node *n = old_node(q, v);
  const Codes *c = codes_of(q, old_in(q, v, 0));
  Type type = n->type;

  if (!c)
    return false;
  type.dtype = new_type(q, c->base)->dtype;
  return note(q, v, emit(q, n->op, &c->base, 1, n->attr, &type), c->zero, c->scale);
}

static bool do_concat(Qdq *q, Val v)
{
  const Node *n = old_node(q, v);
  const Codes *first = codes_of(q, old_in(q, v, 0));

  for (uint32_t i = 0; i < n->in.count; i++) {
    const Codes *c = codes_of(q, old_in(q, v, i));
    if (!c || !first || c->zero != first->zero || c->scale != first->scale ||
        new_type(q, c->base)->dtype != new_type(q, first->base)->dtype)
      return false;
    q->r.in[i] = c->base;
  }
  return note(q, v, emit(q, OP_concat, q->r.in, n->in.count, n->attr, NULL), first->zero, first->scale);
}

/* No window may lie outside of x altogether: its maximum is no code. */
static bool do_pool_max(Qdq *q, Val v)
{
  const Window *w = &old_node(q, v)->attr.window;

  for (uint32_t i = 0; i < w->spatial; i++)
    if (w->pad_lo[i] >= w->kernel[i] || w->pad_hi[i] >= w->kernel[i] || w->dilation[i] != 1)
      return false;
  return do_movement(q, v);
}

static bool do_relu(Qdq *q, Val v)
{
  const Codes *c = codes_of(q, old_in(q, v, 0));

  if (!c || is_code_type(old_type(q, v)->dtype) || !holds(q, c->base, c->zero))
    return false;
  DType t = new_type(q, c->base)->dtype;
  Val base = c->zero != (t == DT_I8 ? INT8_MIN : 0) ? emit2(q, OP_max, c->base, emit_scalar(q, t, c->zero))
                                                    : c->base;
  return note(q, v, base, c->zero, c->scale);
}

static bool do_gather(Qdq *q, Val v)
{
  const Codes *c = codes_of(q, old_in(q, v, 0));

  if (!c)
    return false;
  Val in[2] = {c->base, plain(q, old_in(q, v, 1))};
  return note(q, v, emit(q, OP_gather, in, 2, old_node(q, v)->attr, NULL), c->zero, c->scale);
}

/* ---- quantisation: cast(round(x) + zero) */

typedef struct {
  Val x; /* what is rounded, of the old graph */
  int zero;
} Rounded;

static bool find_rounded(const Qdq *q, Val v, Rounded *out)
{
  Val in = old_in(q, v, 0);
  double zero = 0;

  if (!is_code_type(old_type(q, v)->dtype) || old_type(q, in)->dtype != DT_F32)
    return false;
  if (old_node(q, in)->op == OP_add) {
    if (!number_beside(q, in, 1, &zero) || zero != rint(zero) || fabs(zero) > 255)
      return false;
    in = old_in(q, in, 0);
  }
  if (old_node(q, in)->op != OP_round)
    return false;
  *out = (Rounded){old_in(q, in, 0), (int)zero};
  return true;
}

/* The codes that x was before, if it is quantised as it was. */
static const Codes *same_codes(const Qdq *q, const Rounded *r, int shift)
{
  double s;

  if (old_node(q, r->x)->op != OP_div || !number_beside(q, r->x, 1, &s))
    return NULL;
  const Codes *c = codes_of(q, old_in(q, r->x, 0));
  return c && c->scale == s && c->zero == r->zero + shift ? c : NULL;
}

static bool do_quantize(Qdq *q, Val v)
{
  Rounded r;
  DType to = old_type(q, v)->dtype;

  if (!find_rounded(q, v, &r))
    return false;
  const Codes *c = same_codes(q, &r, 0);
  if (c && new_type(q, c->base)->dtype == to)
    return note(q, v, c->base, 0, 0);
  int shift = to == DT_I8 ? I8_SHIFT : 0;
  c = same_codes(q, &r, shift);
  if (c && new_type(q, c->base)->dtype == DT_U8)
    return note(q, v, c->base, shift, 0);
  Val x = plain(q, r.x), y = emit(q, OP_round, &x, 1, (Attr){0}, NULL);
  if (r.zero + shift)
    y = emit2(q, OP_add, y, emit_scalar(q, DT_F32, r.zero + shift));
  return note(q, v, emit_cast(q, y, DT_U8, OP_cast), shift, 0);
}

/* ---- the walk */

static bool do_casts(Qdq *q, Val v)
{
  return do_cast(q, v) || do_quantize(q, v);
}

typedef bool Handler(Qdq *q, Val v);

static Handler *const handlers[OP_COUNT] = {
    [OP_cast] = do_casts,
    [OP_sub] = do_shift,
    [OP_mul] = do_mul,
    [OP_reshape] = do_movement,
    [OP_transpose] = do_movement,
    [OP_slice] = do_movement,
    [OP_expand] = do_movement,
    [OP_concat] = do_concat,
    [OP_pool_max] = do_pool_max,
    [OP_pool_sum] = do_pool_sum,
    [OP_reduce_sum] = do_reduce_sum,
    [OP_relu] = do_relu,
    [OP_gather] = do_gather,
    [OP_conv] = do_product,
    [OP_linear] = do_product,
    [OP_matmul] = do_product,
};

Graph *pass_qdq(const Graph *g, Err *e)
{
  Qdq q = {.r = rewrite_begin(g), .codes = NEW_ARRAY(g->module->arena, Codes, g->nodes.len)};

  (void)e;
  for (Val v = 1; v < g->nodes.len; v++) {
    Handler *h = handlers[graph_node(g, v)->op];
    if (!h || !h(&q, v))
      keep(&q, v);
  }
  return q.r.to;
}
