/* eval_dense_map.c - elementwise ops of dense graphs, for floats and for integers, and casts. */
#include "ir/eval_dense.h"

#include <assert.h>
#include <math.h>

bool dense_is_int(DType t)
{
  return dtype_info[t].kind == DK_INT;
}

int64_t dense_int_highest(DType t)
{
  int bits = dtype_bits(t) - dtype_is_signed(t);
  return bits == 64 ? -1 : (int64_t)(((uint64_t)1 << bits) - 1);
}

int64_t dense_int_lowest(DType t)
{
  return dtype_is_signed(t) ? -dense_int_highest(t) - 1 : 0;
}

bool dense_int_less(DType t, int64_t a, int64_t b)
{
  return t == DT_U64 ? (uint64_t)a < (uint64_t)b : a < b;
}

/* ---- one input */

static long double float1(Op op, long double x)
{
  switch (op) {
  case OP_neg: return -x;
  case OP_abs: return fabsl(x);
  case OP_exp: return expl(x);
  case OP_log: return logl(x);
  case OP_sqrt: return sqrtl(x);
  case OP_tanh: return tanhl(x);
  case OP_sigmoid: return 1 / (1 + expl(-x));
  case OP_silu: return x / (1 + expl(-x));
  case OP_gelu: return 0.5L * x * (1 + tanhl(sqrtl(2 / acosl(-1)) * (x + 0.044715L * x * x * x)));
  case OP_relu: return isnan(x) || x > 0 ? x : 0;
  case OP_sin: return sinl(x);
  case OP_cos: return cosl(x);
  case OP_floor: return floorl(x);
  case OP_ceil: return ceill(x);
  case OP_round: return rintl(x);
  case OP_trunc: return truncl(x);
  case OP_sign: return x > 0 ? 1 : x < 0 ? -1 : isnan(x) ? x : 0;
  case OP_erf: return erfl(x);
  case OP_atan: return atanl(x);
  default: assert(!"not an op of one float"); return 0;
  }
}

static int64_t int1(Op op, DType t, int64_t x)
{
  bool below = dense_int_less(t, x, 0);

  switch (op) {
  case OP_neg: return (int64_t)-(uint64_t)x;
  case OP_abs: return below ? (int64_t)-(uint64_t)x : x;
  case OP_relu: return below ? 0 : x;
  case OP_sign: return below ? -1 : x != 0;
  case OP_not: return t == DT_BOOL ? !x : ~x;
  default: assert(!"not an op of one integer"); return 0;
  }
}

void dense_unary(const DenseOp *d)
{
  DType t = d->out->type.dtype;
  int64_t n = type_count(&d->out->type);

  if (dense_is_int(t))
    for (int64_t i = 0; i < n; i++)
      tensor_set_int(d->out, i, int1(d->op, t, tensor_get_int(&d->in[0], i)));
  else
    for (int64_t i = 0; i < n; i++)
      tensor_set(d->out, i, float1(d->op, tensor_get(&d->in[0], i)));
}

/* ---- two inputs */

/* The remainder of the division rounded down: it has the sign of b. */
static long double float_mod(long double a, long double b)
{
  long double m = fmodl(a, b);

  if (m == 0)
    return copysignl(m, b);
  return (m < 0) != (b < 0) ? m + b : m;
}

static long double float2(Op op, long double a, long double b)
{
  switch (op) {
  case OP_add: return a + b;
  case OP_sub: return a - b;
  case OP_mul: return a * b;
  case OP_div: return a / b;
  case OP_max: return isnan(a) || a > b ? a : b;
  case OP_min: return isnan(a) || a < b ? a : b;
  case OP_pow: return powl(a, b);
  case OP_mod: return float_mod(a, b);
  case OP_fmod: return fmodl(a, b);
  default: assert(!"not an op of two floats"); return 0;
  }
}

static int64_t int_div(DType t, int64_t a, int64_t b)
{
  if (b == 0)
    return 0;
  if (t == DT_U64)
    return (int64_t)((uint64_t)a / (uint64_t)b);
  return b == -1 ? (int64_t)-(uint64_t)a : a / b;
}

static int64_t int_fmod(DType t, int64_t a, int64_t b)
{
  return b ? (int64_t)((uint64_t)a - (uint64_t)int_div(t, a, b) * (uint64_t)b) : 0;
}

static int64_t int_mod(DType t, int64_t a, int64_t b)
{
  int64_t m = int_fmod(t, a, b);
  return m && dense_int_less(t, m, 0) != dense_int_less(t, b, 0) ? m + b : m;
}

static int64_t int_pow(DType t, int64_t a, int64_t b)
{
  uint64_t result = 1, base = (uint64_t)a;

  if (dense_int_less(t, b, 0)) /* 1 / a^-b, toward zero */
    return a == 1 ? 1 : a == -1 ? (b & 1 ? -1 : 1) : 0;
  for (uint64_t e = (uint64_t)b; e; e >>= 1, base *= base)
    if (e & 1)
      result *= base;
  return (int64_t)result;
}

static int64_t int_shl(DType t, int64_t a, int64_t b)
{
  return (uint64_t)b < (uint64_t)dtype_bits(t) ? (int64_t)((uint64_t)a << b) : 0;
}

static int64_t int_shr(DType t, int64_t a, int64_t b)
{
  if ((uint64_t)b >= (uint64_t)dtype_bits(t))
    return dense_int_less(t, a, 0) ? -1 : 0;
  return t == DT_U64 ? (int64_t)((uint64_t)a >> b) : a >> b;
}

static int64_t int2(Op op, DType t, int64_t a, int64_t b)
{
  switch (op) {
  case OP_add: return (int64_t)((uint64_t)a + (uint64_t)b);
  case OP_sub: return (int64_t)((uint64_t)a - (uint64_t)b);
  case OP_mul: return (int64_t)((uint64_t)a * (uint64_t)b);
  case OP_div: return int_div(t, a, b);
  case OP_max: return dense_int_less(t, a, b) ? b : a;
  case OP_min: return dense_int_less(t, b, a) ? b : a;
  case OP_pow: return int_pow(t, a, b);
  case OP_mod: return int_mod(t, a, b);
  case OP_fmod: return int_fmod(t, a, b);
  case OP_and: return a & b;
  case OP_or: return a | b;
  case OP_xor: return a ^ b;
  case OP_shl: return int_shl(t, a, b);
  case OP_shr: return int_shr(t, a, b);
  default: assert(!"not an op of two integers"); return 0;
  }
}

static void apply2(Op op, DType t, const void *a, const void *b, void *out)
{
  if (dense_is_int(t))
    dtype_put_int(t, out, int2(op, t, dtype_get_int(t, a), dtype_get_int(t, b)));
  else
    dtype_put(t, out, float2(op, dtype_get(t, a), dtype_get(t, b)), false);
}

void dense_combine(Op op, DType t, void *acc, const void *x)
{
  apply2(op, t, acc, x, acc);
}

static Walk walk_inputs(const DenseOp *d)
{
  Walk w = walk_begin(&d->out->type);

  for (uint32_t i = 0; i < d->n_in; i++)
    walk_bcast(&w, (int)i, &d->in[i].type);
  return w;
}

void dense_binary(const DenseOp *d)
{
  DType t = d->out->type.dtype;
  Walk w = walk_inputs(d);

  for (int64_t i = 0; i < type_count(&d->out->type); i++, walk_next(&w))
    apply2(d->op, t, tensor_at(&d->in[0], w.at[0]), tensor_at(&d->in[1], w.at[1]), tensor_to(d->out, i));
}

static bool compare_ints(Op op, DType t, int64_t a, int64_t b)
{
  return op == OP_eq ? a == b : op == OP_lt ? dense_int_less(t, a, b) : !dense_int_less(t, b, a);
}

static bool compare_floats(Op op, long double a, long double b)
{
  return op == OP_eq ? a == b : op == OP_lt ? a < b : a <= b;
}

void dense_compare(const DenseOp *d)
{
  DType t = d->in[0].type.dtype;
  bool ints = dense_is_int(t);
  uint8_t *y = d->out->data;
  Walk w = walk_inputs(d);

  for (int64_t i = 0; i < type_count(&d->out->type); i++, walk_next(&w)) {
    const Tensor *a = &d->in[0], *b = &d->in[1];
    y[i] = ints ? compare_ints(d->op, t, tensor_get_int(a, w.at[0]), tensor_get_int(b, w.at[1]))
                : compare_floats(d->op, tensor_get(a, w.at[0]), tensor_get(b, w.at[1]));
  }
}

void dense_where_op(const DenseOp *d)
{
  const uint8_t *c = d->in[0].data;
  Walk w = walk_inputs(d);

  for (int64_t i = 0; i < type_count(&d->out->type); i++, walk_next(&w)) {
    int from = c[w.at[0]] ? 1 : 2;
    memcpy(tensor_to(d->out, i), tensor_at(&d->in[from], w.at[from]), dtype_info[d->out->type.dtype].bytes);
  }
}

/* ---- casts */

void dense_cast(const DenseOp *d)
{
  DType from = d->in[0].type.dtype, to = d->out->type.dtype;
  bool ints = dense_is_int(from) && dense_is_int(to);

  for (int64_t i = 0; i < type_count(&d->out->type); i++)
    if (ints)
      tensor_set_int(d->out, i, tensor_get_int(&d->in[0], i));
    else
      dtype_put(to, tensor_to(d->out, i), tensor_get(&d->in[0], i), d->attr->saturate);
}
