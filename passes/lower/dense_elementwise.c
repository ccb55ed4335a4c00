/* dense_elementwise.c - elementwise ops of dense graphs on vectors of computed elements, for floats, integers and bool.
 * Their meaning stands in ir/eval_dense_map.c. */
#include "passes/lower/dense.h"

#include <math.h>

bool dense_is_elementwise(Op op)
{
  switch (op) {
  case OP_neg ... OP_min:
  case OP_floor ... OP_bitcast: return true;
  default: return false;
  }
}

unsigned dense_cost(Op op, DType t)
{
  switch (op) {
  case OP_exp:
  case OP_log:
  case OP_tanh:
  case OP_sigmoid:
  case OP_silu:
  case OP_gelu:
  case OP_sin:
  case OP_cos:
  case OP_erf:
  case OP_atan: return 20;
  case OP_pow: return 40;
  case OP_div:
  case OP_sqrt:
  case OP_mod:
  case OP_fmod: return 8;
  case OP_cast: return dtype_info[t].kind == DK_FLOAT8 ? 12 : 2;
  default: return 1;
  }
}

/* ---- helpers */

static KVal op(Kernel *k, KOp o, KVal a, KVal b)
{
  return k_op2(k, o, a, b);
}

static KVal num(Kernel *k, DType t, KVal like, double v)
{
  return dense_const(k, t, kernel_node(k, like)->type.lanes, v);
}

static KVal invert(Kernel *k, KVal c)
{
  return op(k, K_xor, c, k_int(k, kernel_node(k, c)->type, 1));
}

static bool is_float(DType t)
{
  return dtype_info[t].kind == DK_FLOAT;
}

typedef KVal FloatFn(Kernel *k, KVal x);

static KVal silu(Kernel *k, KVal x)
{
  return op(k, K_mul, x, k_sigmoid_ieee(k, x));
}

static KVal gelu(Kernel *k, KVal x)
{
  KType t = kernel_node(k, x)->type;
  KVal x3 = op(k, K_mul, op(k, K_mul, x, x), x), half = k_real(k, t, 0.5);
  KVal u = op(k, K_add, op(k, K_mul, x3, k_real(k, t, 0.044715)), x);
  KVal th = k_tanh(k, op(k, K_mul, u, k_real(k, t, 0.7978845608028654)));
  return op(k, K_mul, op(k, K_mul, x, half), op(k, K_add, th, k_real(k, t, 1)));
}

static FloatFn *const float_fn[OP_COUNT] = {
    [OP_exp] = k_exp_ieee, [OP_log] = k_log,   [OP_tanh] = k_tanh, [OP_sigmoid] = k_sigmoid_ieee,
    [OP_silu] = silu,      [OP_gelu] = gelu,   [OP_sin] = k_sin,   [OP_cos] = k_cos,
    [OP_erf] = k_erf,      [OP_atan] = k_atan,
};

static KVal sign(Kernel *k, DType t, KVal x)
{
  KVal zero = num(k, t, x, 0), one = num(k, t, x, 1);
  KVal s = k_select(k, op(k, K_lt, zero, x), one, zero);

  if (dtype_is_signed(t))
    s = k_select(k, op(k, K_lt, x, zero), k_op1(k, K_neg, one), s);
  return is_float(t) ? k_select(k, op(k, K_eq, x, x), s, x) : s;
}

static KVal unary(Kernel *k, Op o, DType t, KVal x)
{
  if (float_fn[o])
    return float_fn[o](k, x);
  switch (o) {
  case OP_neg: return k_op1(k, K_neg, x);
  case OP_abs: return dtype_is_signed(t) ? k_op1(k, K_abs, x) : x;
  case OP_sqrt: return k_op1(k, K_sqrt, x);
  case OP_relu: return op(k, K_max, num(k, t, x, 0), x); /* nan stays */
  case OP_floor: return k_op1(k, K_floor, x);
  case OP_ceil: return k_op1(k, K_ceil, x);
  case OP_round: return k_op1(k, K_round, x);
  case OP_trunc: return k_op1(k, K_trunc, x);
  case OP_sign: return sign(k, t, x);
  case OP_not: return op(k, K_xor, x, k_int(k, kernel_node(k, x)->type, t == DT_BOOL ? 1 : -1));
  default: return 0;
  }
}

/* ---- two inputs */

/* a - b trunc(a / b), put right where the quotient was rounded over a whole number. */
static KVal float_fmod(Kernel *k, DType t, KVal a, KVal b)
{
  KVal x = k_op1(k, K_abs, a), y = k_op1(k, K_abs, b), zero = num(k, t, a, 0);
  KVal q = k_op1(k, K_floor, op(k, K_div, x, y)), r;

  if (t == DT_F64)
    r = op(k, K_sub, x, op(k, K_mul, q, y));
  else
    r = k_fma(k, k_op1(k, K_neg, q), y, x);
  r = k_select(k, op(k, K_lt, r, zero), op(k, K_add, r, y), r);
  r = k_select(k, op(k, K_le, y, r), op(k, K_sub, r, y), r);
  KVal far = k_op2(k, K_and, op(k, K_eq, y, num(k, t, a, INFINITY)), op(k, K_lt, x, y));
  r = k_select(k, far, x, r);
  return k_select(k, op(k, K_lt, a, zero), k_op1(k, K_neg, r), r);
}

static KVal mod(Kernel *k, DType t, KVal a, KVal b)
{
  KVal r = is_float(t) ? float_fmod(k, t, a, b) : op(k, K_rem, a, b), zero = num(k, t, a, 0);

  if (!dtype_is_signed(t))
    return r;
  KVal other = op(k, K_xor, op(k, K_lt, r, zero), op(k, K_lt, b, zero));
  other = op(k, K_and, other, invert(k, op(k, K_eq, r, zero)));
  return k_select(k, other, op(k, K_add, r, b), r);
}

/* By squares; the loop ends when the exponent has no bits left in any lane. */
static KVal int_pow(Kernel *k, DType t, KVal a, KVal b)
{
  KVal zero = num(k, t, a, 0), one = num(k, t, a, 1);

  (void)k_loop(k, k_idx(k, 0), k_idx(k, dtype_bits(t)), 1);
  KVal result = k_carry(k, one), base = k_carry(k, a), e = k_carry(k, b);
  KVal odd = invert(k, op(k, K_eq, op(k, K_and, e, one), zero));
  KVal next[] = {k_select(k, odd, op(k, K_mul, result, base), result), op(k, K_mul, base, base),
                 k_shift(k, K_shr, e, 1)};
  k_end(k, next, 3);
  if (!dtype_is_signed(t))
    return result;
  KVal minus = k_op1(k, K_neg, one), even = op(k, K_eq, op(k, K_and, b, one), zero);
  KVal low = k_select(k, op(k, K_eq, a, one), one, zero);
  low = k_select(k, op(k, K_eq, a, minus), k_select(k, even, one, minus), low);
  return k_select(k, op(k, K_lt, b, zero), low, result);
}

static KVal compare(Kernel *k, Op o, DType t, KVal a, KVal b)
{
  if (t != DT_BOOL)
    return op(k, o == OP_eq ? K_eq : o == OP_lt ? K_lt : K_le, a, b);
  switch (o) {
  case OP_eq: return invert(k, op(k, K_xor, a, b));
  case OP_lt: return op(k, K_and, invert(k, a), b);
  default: return op(k, K_or, invert(k, a), b);
  }
}

KVal dense_binary_op(Kernel *k, Op o, DType t, KVal a, KVal b)
{
  bool f = is_float(t);

  switch (o) {
  case OP_add: return op(k, K_add, a, b);
  case OP_sub: return op(k, K_sub, a, b);
  case OP_mul: return op(k, K_mul, a, b);
  case OP_div: return op(k, K_div, a, b);
  case OP_max: return k_max_nan(k, a, b);
  case OP_min: return k_min_nan(k, a, b);
  case OP_pow: return f ? k_pow(k, a, b) : int_pow(k, t, a, b);
  case OP_mod: return mod(k, t, a, b);
  case OP_fmod: return f ? float_fmod(k, t, a, b) : op(k, K_rem, a, b);
  case OP_and: return op(k, K_and, a, b);
  case OP_or: return op(k, K_or, a, b);
  case OP_xor: return op(k, K_xor, a, b);
  case OP_shl: return t == DT_BOOL ? op(k, K_and, a, invert(k, b)) : op(k, K_shlv, a, b);
  case OP_shr: return t == DT_BOOL ? op(k, K_and, a, invert(k, b)) : op(k, K_shrv, a, b);
  case OP_eq:
  case OP_lt:
  case OP_le: return compare(k, o, t, a, b);
  default: return 0;
  }
}

/* ---- a node */

static KVal where(Kernel *k, DType t, KVal c, KVal a, KVal b)
{
  if (t != DT_BOOL)
    return k_select(k, c, a, b);
  return op(k, K_or, op(k, K_and, c, a), op(k, K_and, invert(k, c), b));
}

/* A bool is a byte in memory alone. */
static KVal bitcast(Kernel *k, DType from, DType to, KVal v)
{
  unsigned n = kernel_node(k, v)->type.lanes;
  KVal bits = from == DT_BOOL ? k_cast(k, KE_u8, v) : dense_narrow(k, from, v);

  if (to == DT_BOOL)
    return k_cast(k, KE_bool, k_bitcast(k, ktype(KE_u8, n), bits));
  if (kernel_node(k, bits)->type.elem != dense_memory(to))
    bits = k_bitcast(k, ktype(dense_memory(to), n), bits);
  return dense_widen(k, to, bits);
}

/* x ** 2 and the like, which models write as pow. 0: none of them. */
static KVal small_power(Kernel *k, const Graph *g, Val v, KVal x)
{
  const Node *e = graph_node(g, graph_in(g, v, 1));
  double by = e->op == OP_const ? e->attr.value : 0;

  if (e->op == OP_weight && type_count(&e->type) == 1 && g->module->weights.data[e->attr.index].data)
    by = (double)dtype_get(e->type.dtype, g->module->weights.data[e->attr.index].data);
  if (by == 1)
    return x;
  if (by == 2)
    return op(k, K_mul, x, x);
  if (by == 3)
    return op(k, K_mul, x, op(k, K_mul, x, x));
  return 0;
}

KVal dense_elementwise(Kernel *k, const Graph *g, Val v, const KVal *in)
{
  const Node *n = graph_node(g, v);
  DType t = n->type.dtype, from = graph_node(g, graph_in(g, v, 0))->type.dtype;
  KVal r = n->op == OP_pow ? small_power(k, g, v, in[0]) : 0;

  if (n->op == OP_cast)
    return dense_convert(k, from, t, in[0], n->attr.saturate);
  if (n->op == OP_bitcast)
    return bitcast(k, from, t, in[0]);
  if (n->op == OP_where)
    return where(k, t, in[0], in[1], in[2]);
  if (!r)
    r = n->in.count == 1 ? unary(k, n->op, from, in[0]) : dense_binary_op(k, n->op, from, in[0], in[1]);
  bool few = dtype_info[t].kind == DK_INT && t != DT_BOOL && dtype_bits(t) < 8;
  return few ? dense_narrow(k, t, r) : r; /* wraps */
}
