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
#include "passes/qdq.h"
#include "passes/passes.h"

#include <math.h>
#include <stdlib.h>

/* ---- nodes */

Val qdq_scalar(Qdq *q, DType t, double value)
{
  Type type = {.dtype = t};
  return emit(q, OP_const, NULL, 0, (Attr){.value = value}, &type);
}

Val qdq_cast(Qdq *q, Val v, DType t, Op op)
{
  Type type = *new_type(q, v);

  if (type.dtype == t)
    return v;
  type.dtype = t;
  return emit(q, op, &v, 1, (Attr){.saturate = op == OP_cast}, &type);
}

/* Codes with a zero point that is computed are for products alone. */
const Codes *qdq_codes(const Qdq *q, Val v)
{
  return q->codes[v].base && !q->codes[v].dynamic ? &q->codes[v] : NULL;
}

const Codes *qdq_operand_codes(const Qdq *q, Val v)
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
bool qdq_holds(const Qdq *q, Val base, int zero)
{
  bool is_signed = new_type(q, base)->dtype == DT_I8;
  return zero >= (is_signed ? INT8_MIN : 0) && zero <= (is_signed ? INT8_MAX : UINT8_MAX);
}

/* ---- values from codes */

Val qdq_value(Qdq *q, const Codes *c, DType t)
{
  if (is_code_type(t)) {
    if (t == new_type(q, c->base)->dtype)
      return c->base; /* without a zero point then */
    Val flipped = emit2(q, OP_xor, c->base, qdq_scalar(q, DT_U8, I8_SHIFT));
    return qdq_cast(q, flipped, t, OP_bitcast);
  }
  Val v = qdq_cast(q, c->base, t, OP_cast);
  if (c->zero)
    v = emit2(q, OP_sub, v, qdq_scalar(q, t, c->zero));
  if (c->dynamic)
    v = emit2(q, OP_sub, v, c->dynamic);
  return c->scale != 0 ? emit2(q, OP_mul, v, qdq_scalar(q, t, c->scale)) : v;
}

/* An old node's value in the new graph. */
Val qdq_plain(Qdq *q, Val v)
{
  if (!q->r.map[v])
    q->r.map[v] = qdq_value(q, &q->codes[v], old_type(q, v)->dtype);
  return q->r.map[v];
}

static void keep(Qdq *q, Val v)
{
  const Node *n = old_node(q, v);

  for (uint32_t i = 0; i < n->in.count; i++)
    q->r.in[i] = qdq_plain(q, old_in(q, v, i));
  rewrite_keep(&q->r, v, q->r.in);
}

/* Codes as u8: an i8's are 128 more. */
Codes qdq_as_u8(Qdq *q, const Codes *c)
{
  Codes to = *c;

  if (new_type(q, c->base)->dtype == DT_U8)
    return to;
  to.base = qdq_cast(q, c->base, DT_U8, OP_bitcast);
  to.base = emit2(q, OP_xor, to.base, qdq_scalar(q, DT_U8, I8_SHIFT));
  to.zero += I8_SHIFT;
  return to;
}

/* ---- numbers */

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

/* ---- what is done on codes */

static bool do_cast(Qdq *q, Val v)
{
  Val in = old_in(q, v, 0);
  DType to = old_type(q, v)->dtype;
  const Codes *c = qdq_codes(q, in);

  if ((to != DT_F32 && to != DT_I32) || !is_code_type(old_type(q, in)->dtype))
    return false;
  return c ? note(q, v, c->base, c->zero, 0) : note(q, v, qdq_plain(q, in), 0, 0);
}

static bool do_sub(Qdq *q, Val v)
{
  const Codes *c = qdq_codes(q, old_in(q, v, 0));
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
  const Codes *c = qdq_codes(q, old_in(q, v, 0));
  Type scalar = {.dtype = DT_I32};

  if (!c || c->scale != 0 || c->zero || old_type(q, v)->dtype != DT_I32 ||
      type_count(old_type(q, zero)) != 1 || !type_eq(old_type(q, v), old_type(q, old_in(q, v, 0))))
    return false;
  Val d = qdq_plain(q, zero);
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
    const Codes *c = qdq_codes(q, old_in(q, v, i));
    double s;
    if (c && c->scale == 0 && old_type(q, v)->dtype == DT_F32 && number_beside(q, v, !i, &s) && s > 0)
      return note(q, v, c->base, c->zero, s);
  }
  return false;
}

static bool do_movement(Qdq *q, Val v)
{
  const Node *n = old_node(q, v);
  const Codes *c = qdq_codes(q, old_in(q, v, 0));
  Type type = n->type;

  if (!c)
    return false;
  type.dtype = new_type(q, c->base)->dtype;
  return note(q, v, emit(q, n->op, &c->base, 1, n->attr, &type), c->zero, c->scale);
}

static bool do_concat(Qdq *q, Val v)
{
  const Node *n = old_node(q, v);
  const Codes *first = qdq_codes(q, old_in(q, v, 0));

  for (uint32_t i = 0; i < n->in.count; i++) {
    const Codes *c = qdq_codes(q, old_in(q, v, i));
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
  const Codes *c = qdq_codes(q, old_in(q, v, 0));

  if (!c || is_code_type(old_type(q, v)->dtype) || !qdq_holds(q, c->base, c->zero))
    return false;
  DType t = new_type(q, c->base)->dtype;
  Val base =
      c->zero != (t == DT_I8 ? INT8_MIN : 0) ? emit2(q, OP_max, c->base, qdq_scalar(q, t, c->zero)) : c->base;
  return note(q, v, base, c->zero, c->scale);
}

static bool do_gather(Qdq *q, Val v)
{
  const Codes *c = qdq_codes(q, old_in(q, v, 0));

  if (!c)
    return false;
  Val in[2] = {c->base, qdq_plain(q, old_in(q, v, 1))};
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
  const Codes *c = qdq_codes(q, old_in(q, r->x, 0));
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
  Val x = qdq_plain(q, r.x), y = emit(q, OP_round, &x, 1, (Attr){0}, NULL);
  if (r.zero + shift)
    y = emit2(q, OP_add, y, qdq_scalar(q, DT_F32, r.zero + shift));
  return note(q, v, qdq_cast(q, y, DT_U8, OP_cast), shift, 0);
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
    [OP_pool_sum] = qdq_pool_sum,
    [OP_reduce_sum] = qdq_reduce_sum,
    [OP_relu] = do_relu,
    [OP_gather] = do_gather,
    [OP_conv] = qdq_product,
    [OP_linear] = qdq_product,
    [OP_matmul] = qdq_product,
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
