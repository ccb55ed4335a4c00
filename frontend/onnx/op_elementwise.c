/* op_elementwise.c - ONNX operators that work on each element: arithmetic, comparisons, logic, bits, casts (activations:
 * op_activation.c).
 *
 * What has a core op is a row of a table. The others are written as their formula, in the form that neither overflows
 * nor cancels where the result is finite. */
#include "frontend/onnx/onnx_ops.h"
#include "frontend/onnx/op_formula.h"

#include <float.h>
#include <math.h>

typedef struct {
  const char *name;
  Op op;
} Pair;

static Op find_op(const Pair *pairs, uint32_t n, const OnnxNode *node)
{
  for (uint32_t i = 0; i < n; i++)
    if (im_is(node, pairs[i].name))
      return pairs[i].op;
  return OP_none;
}

/* ---- one input, one core op */

static const Pair unary[] = {
    {"Abs", OP_abs}, {"Atan", OP_atan}, {"BitwiseNot", OP_not}, {"Ceil", OP_ceil},       {"Cos", OP_cos},
    {"Erf", OP_erf}, {"Exp", OP_exp},   {"Floor", OP_floor},    {"Log", OP_log},         {"Neg", OP_neg},
    {"Not", OP_not}, {"Relu", OP_relu}, {"Round", OP_round},    {"Sigmoid", OP_sigmoid}, {"Sign", OP_sign},
    {"Sin", OP_sin}, {"Sqrt", OP_sqrt}, {"Tanh", OP_tanh},
};

bool op_unary(Import *im, const OnnxNode *n)
{
  return im_out(im, n, 0, im_add1(im, find_op(unary, COUNT(unary), n), im_in(im, n, 0)));
}

/* ---- two inputs. Before opset 7, b is aligned with `axis` of a where `broadcast` is 1. */

static Val second(Import *im, const OnnxNode *n)
{
  Val a = im_in(im, n, 0), b = im_in(im, n, 1);

  if (im_opset(im, n) >= 7 || !im_attr(im, n, "axis"))
    return b;
  Type ta = im_type(im, a), tb = im_type(im, b);
  uint32_t axis = im_axis_attr(im, n, "axis", 0, ta.rank);
  if (axis + tb.rank > ta.rank) {
    im_fail(im, n, "axis %u leaves no room for %u dimensions", axis, tb.rank);
    return 0;
  }
  for (uint32_t i = tb.rank; i < ta.rank - axis; i++)
    tb.dim[i] = 1;
  return im_reshape(im, b, ta.rank - axis, tb.dim);
}

static const Pair binary[] = {
    {"Add", OP_add}, {"And", OP_and},  {"BitwiseAnd", OP_and}, {"BitwiseOr", OP_or},   {"BitwiseXor", OP_xor},
    {"Div", OP_div}, {"Equal", OP_eq}, {"Less", OP_lt},        {"LessOrEqual", OP_le}, {"Mul", OP_mul},
    {"Or", OP_or},   {"Sub", OP_sub},  {"Xor", OP_xor},
};

bool op_binary(Import *im, const OnnxNode *n)
{
  return im_out(im, n, 0, im_add2(im, find_op(binary, COUNT(binary), n), im_in(im, n, 0), second(im, n)));
}

bool op_greater(Import *im, const OnnxNode *n)
{
  Op op = im_is(n, "Greater") ? OP_lt : OP_le;
  return im_out(im, n, 0, im_add2(im, op, second(im, n), im_in(im, n, 0)));
}

bool op_mod(Import *im, const OnnxNode *n)
{
  Op op = im_int(im, n, "fmod", 0) ? OP_fmod : OP_mod;
  return im_out(im, n, 0, im_add2(im, op, im_in(im, n, 0), im_in(im, n, 1)));
}

bool op_bit_shift(Import *im, const OnnxNode *n)
{
  Op op = !strcmp(im_str(im, n, "direction", ""), "LEFT") ? OP_shl : OP_shr;
  return im_out(im, n, 0, im_add2(im, op, im_in(im, n, 0), im_in(im, n, 1)));
}

/* The common exponents, without a power function. 0 if it is none of them. */
static Val simple_power(Import *im, Val x, Val y)
{
  Tensor t;
  Type out, tx = im_type(im, x), ty = im_type(im, y);

  if (!im_constant(im, y, &t) || type_count(&t.type) != 1 || !im_is_float(im_elem(im, x)) ||
      !im_broadcast_dims(im, &tx, &ty, &out) || out.rank != tx.rank)
    return 0;
  double p = (double)tensor_get(&t, 0);
  if (p == 1)
    return x;
  if (p == 2)
    return mul(im, x, x);
  if (p == 3)
    return mul(im, mul(im, x, x), x);
  if (p == -1)
    return over(im, 1, x);
  return p == 0.5 ? root(im, x) : 0;
}

/* The result has the base's type; unlike types meet in the wider kind. */
bool op_pow(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), y = second(im, n), simple = simple_power(im, x, y);
  DType t = im_elem(im, x), via = im_is_float(t) || !im_is_float(im_elem(im, y)) ? t : im_elem(im, y);

  if (simple)
    return im_out(im, n, 0, simple);
  return im_out(im, n, 0, im_cast(im, im_add2(im, OP_pow, im_cast(im, x, via), im_cast(im, y, via)), t));
}

bool op_where(Import *im, const OnnxNode *n)
{
  return im_out(im, n, 0, im_where(im, im_in(im, n, 0), im_in(im, n, 1), im_in(im, n, 2)));
}

/* ---- any number of inputs */

static const Pair variadic[] = {{"Max", OP_max}, {"Mean", OP_add}, {"Min", OP_min}, {"Sum", OP_add}};

bool op_variadic(Import *im, const OnnxNode *n)
{
  uint32_t count = im_in_count(n);
  Op op = find_op(variadic, COUNT(variadic), n);
  Val v = im_in(im, n, 0);

  for (uint32_t i = 1; i < count; i++)
    v = im_add2(im, op, v, im_in(im, n, i));
  return im_out(im, n, 0, im_is(n, "Mean") ? im_op_f(im, OP_div, v, count) : v);
}

/* ---- trigonometry and its relatives */

bool op_reciprocal(Import *im, const OnnxNode *n)
{
  return formula_out(im, n, over(im, 1, formula_in(im, n)));
}

bool op_tan(Import *im, const OnnxNode *n)
{
  Val x = formula_in(im, n);
  return formula_out(im, n, divide(im, im_add1(im, OP_sin, x), im_add1(im, OP_cos, x)));
}

static Val one_minus_square(Import *im, Val x)
{
  return mul(im, from(im, 1, x), plus(im, x, 1));
}

bool op_asin(Import *im, const OnnxNode *n)
{
  Val x = formula_in(im, n);
  return formula_out(im, n, im_add1(im, OP_atan, divide(im, x, root(im, one_minus_square(im, x)))));
}

bool op_acos(Import *im, const OnnxNode *n)
{
  Val x = formula_in(im, n);
  Val half = im_add1(im, OP_atan, root(im, divide(im, from(im, 1, x), plus(im, x, 1))));
  return formula_out(im, n, times(im, half, 2));
}

static Val half_of(Import *im, Op op, Val x) /* (e^x op e^-x) / 2 */
{
  return times(im, im_add2(im, op, exponential(im, x), exponential(im, im_add1(im, OP_neg, x))), 0.5);
}

bool op_sinh(Import *im, const OnnxNode *n)
{
  return formula_out(im, n, half_of(im, OP_sub, formula_in(im, n)));
}

bool op_cosh(Import *im, const OnnxNode *n)
{
  return formula_out(im, n, half_of(im, OP_add, formula_in(im, n)));
}

bool op_asinh(Import *im, const OnnxNode *n)
{
  Val x = formula_in(im, n), a = im_add1(im, OP_abs, x);
  Val l = logarithm(im, add(im, a, root(im, plus(im, mul(im, a, a), 1))));
  return formula_out(im, n, mul(im, im_add1(im, OP_sign, x), l));
}

bool op_acosh(Import *im, const OnnxNode *n)
{
  Val x = formula_in(im, n), square = mul(im, plus(im, x, -1), plus(im, x, 1));
  return formula_out(im, n, logarithm(im, add(im, x, root(im, square))));
}

bool op_atanh(Import *im, const OnnxNode *n)
{
  Val x = formula_in(im, n);
  return formula_out(im, n, times(im, logarithm(im, divide(im, plus(im, x, 1), from(im, 1, x))), 0.5));
}

/* ---- limits and tests */

/* Bounds came as attributes before opset 11. If they cross, the upper one wins. */
static Val clip_to(Import *im, const OnnxNode *n, Val x, uint32_t i, const char *name, Op op)
{
  if (im_has(im, n, i))
    return im_add2(im, op, x, im_in(im, n, i));
  return im_attr(im, n, name) ? im_op_f(im, op, x, im_float(im, n, name, 0)) : x;
}

bool op_clip(Import *im, const OnnxNode *n)
{
  Val x = clip_to(im, n, im_in(im, n, 0), 1, "min", OP_max);
  return im_out(im, n, 0, clip_to(im, n, x, 2, "max", OP_min));
}

bool op_is_nan(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  return im_out(im, n, 0, im_add1(im, OP_not, im_add2(im, OP_eq, x, x)));
}

bool op_is_inf(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  bool up = im_int(im, n, "detect_positive", 1), down = im_int(im, n, "detect_negative", 1);
  Val inf = im_const_like(im, x, INFINITY);

  if (up && down)
    return im_out(im, n, 0, im_add2(im, OP_eq, im_add1(im, OP_abs, x), inf));
  if (!up && !down) {
    Type t = im_type(im, x);
    return im_out(im, n, 0, im_full(im, DT_BOOL, t.rank, t.dim, 0));
  }
  return im_out(im, n, 0, im_add2(im, OP_eq, x, im_const_like(im, x, up ? INFINITY : -INFINITY)));
}

/* ---- element types */

/* A power of two that is near: the exponent's bits of an f32. ONNX Cast-24, round_mode "nearest" or "down"; "up" is
 * what the core's cast does. */
static Val to_e8m0(Import *im, Val x, const char *mode)
{
  int64_t bias = !strcmp(mode, "nearest") ? 0x400000 : 0;
  Val bits = im_bitcast(im, im_cast(im, x, DT_F32), DT_U32);

  bits = im_add2(im, OP_add, bits, im_const_i(im, DT_U32, bias));
  bits = im_add2(im, OP_shr, bits, im_const_i(im, DT_U32, 23));
  return im_bitcast(im, im_cast(im, bits, DT_U8), DT_F8E8M0);
}

static bool cast_out(Import *im, const OnnxNode *n, Val x, DType to)
{
  const char *mode = im_str(im, n, "round_mode", "up");

  if (to == DT_F8E8M0 && im_is_float(im_elem(im, x)) && strcmp(mode, "up"))
    return im_out(im, n, 0, to_e8m0(im, x, mode));
  return im_out(im, n, 0, im_cast_to(im, x, to, im_int(im, n, "saturate", 1)));
}

bool op_cast(Import *im, const OnnxNode *n)
{
  return cast_out(im, n, im_in(im, n, 0), im_dtype_attr(im, n, "to", DT_F32));
}

bool op_cast_like(Import *im, const OnnxNode *n)
{
  return cast_out(im, n, im_in(im, n, 0), im_elem(im, im_in(im, n, 1)));
}

bool op_bit_cast(Import *im, const OnnxNode *n)
{
  return im_out(im, n, 0, im_bitcast(im, im_in(im, n, 0), im_dtype_attr(im, n, "to", DT_F32)));
}
