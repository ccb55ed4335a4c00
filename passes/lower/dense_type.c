/* dense_type.c - elements of dense values: in memory, in registers, and from one type to another.
 *
 * Floats of 16 bits are computed in f32. Floats of one byte are only moved and cast: in registers they are their codes.
 * What `cast` means is said by ir/dtype_element.c. */
#include "passes/lower/dense.h"

#include <math.h>

static const uint8_t elem_of[DT_COUNT] = {
    [DT_F32] = KE_f32,       [DT_F16] = KE_f16,     [DT_BF16] = KE_bf16,     [DT_F64] = KE_f64,
    [DT_I8] = KE_i8,         [DT_U8] = KE_u8,       [DT_I16] = KE_i16,       [DT_U16] = KE_u16,
    [DT_I32] = KE_i32,       [DT_U32] = KE_u32,     [DT_I64] = KE_i64,       [DT_U64] = KE_u64,
    [DT_BOOL] = KE_bool,     [DT_I4] = KE_i8,       [DT_U4] = KE_u8,         [DT_I2] = KE_i8,
    [DT_U2] = KE_u8,         [DT_F8E4M3FN] = KE_u8, [DT_F8E4M3FNUZ] = KE_u8, [DT_F8E5M2] = KE_u8,
    [DT_F8E5M2FNUZ] = KE_u8, [DT_F8E8M0] = KE_u8,   [DT_F4E2M1] = KE_u8,
};

KElem dense_memory(DType t)
{
  return (KElem)elem_of[t];
}

KElem dense_elem(DType t)
{
  return t == DT_F16 || t == DT_BF16 ? KE_f32 : (KElem)elem_of[t];
}

static unsigned lanes_of(const Kernel *k, KVal v)
{
  return kernel_node(k, v)->type.lanes;
}

/* The same number in every lane, of v's type. */
static KVal same(Kernel *k, KVal v, double x)
{
  KType t = kernel_node(k, v)->type;
  return kelem_is_real(t.elem) ? k_real(k, t, x) : k_int(k, t, (int64_t)x);
}

static KVal op_int(Kernel *k, KOp op, KVal a, int64_t v)
{
  return k_op2(k, op, a, k_int(k, kernel_node(k, a)->type, v));
}

static KVal not_zero(Kernel *k, KVal v)
{
  KVal zero = k_op2(k, K_eq, v, same(k, v, 0));
  return k_op2(k, K_xor, zero, k_int(k, kernel_node(k, zero)->type, 1));
}

KVal dense_const(Kernel *k, DType t, unsigned lanes, double v)
{
  KType type = ktype(dense_elem(t), lanes);

  if (kelem_is_real(type.elem))
    return k_real(k, type, v);
  if (t == DT_BOOL)
    return k_int(k, type, v != 0);
  uint64_t bits = 0;
  dtype_put(t, &bits, (long double)v, true);
  return k_int(k, type, dtype_info[t].kind == DK_INT ? dtype_get_int(t, &bits) : (int64_t)bits);
}

KVal dense_widen(Kernel *k, DType t, KVal memory)
{
  return t == DT_F16 || t == DT_BF16 ? k_cast(k, KE_f32, memory) : memory;
}

/* ---- floats of one byte, as in ir/dtype_element.c */

typedef struct {
  int sign, mantissa, bias, largest, infinity, nan;
  bool one_zero;
} Small;

static const Small *small_of(DType t)
{
  static const Small small[DT_COUNT] = {
      [DT_F8E4M3FN] = {7, 3, 7, 0x7e, -1, 0x7f, false},  [DT_F8E4M3FNUZ] = {7, 3, 8, 0x7f, -1, 0x80, true},
      [DT_F8E5M2] = {7, 2, 15, 0x7b, 0x7c, 0x7e, false}, [DT_F8E5M2FNUZ] = {7, 2, 16, 0x7f, -1, 0x80, true},
      [DT_F4E2M1] = {3, 1, 1, 7, -1, -1, false},
  };
  return &small[t];
}

static KVal decode_scale(Kernel *k, KVal code)
{
  unsigned n = lanes_of(k, code);
  KVal c = k_cast(k, KE_u32, code), bits = k_shift(k, K_shl, c, 23);
  KVal zero = k_op2(k, K_eq, c, same(k, c, 0)), nan = k_op2(k, K_eq, c, same(k, c, 255));

  bits = k_select(k, zero, same(k, c, 0x400000), bits); /* 2^-127 */
  bits = k_select(k, nan, same(k, c, 0x7fc00000), bits);
  return k_bitcast(k, ktype(KE_f32, n), bits);
}

/* Exponent and fraction moved into place make a float too small by the difference of the biases. */
static KVal decode_small(Kernel *k, DType t, KVal code)
{
  const Small *s = small_of(t);
  unsigned n = lanes_of(k, code);
  KVal c = k_cast(k, KE_u32, code), body = op_int(k, K_and, c, (1 << s->sign) - 1);
  KVal moved = k_bitcast(k, ktype(KE_f32, n), k_shift(k, K_shl, body, 23 - s->mantissa));
  KVal v = k_op2(k, K_mul, moved, k_flt(k, n, ldexp(1, 127 - s->bias)));

  if (s->infinity >= 0)
    v = k_select(k, k_op2(k, K_eq, body, same(k, body, s->infinity)), k_flt(k, n, INFINITY), v);
  if (s->nan >= 0 && !s->one_zero) {
    KVal above = k_op2(k, K_lt, same(k, body, s->infinity >= 0 ? s->infinity : s->largest), body);
    v = k_select(k, above, k_flt(k, n, NAN), v);
  }
  KVal negative = not_zero(k, op_int(k, K_and, c, 1 << s->sign));
  v = k_select(k, negative, k_op1(k, K_neg, v), v);
  return s->one_zero ? k_select(k, k_op2(k, K_eq, c, same(k, c, s->nan)), k_flt(k, n, NAN), v) : v;
}

static KVal encode_scale(Kernel *k, KVal v, bool saturate)
{
  unsigned n = lanes_of(k, v);
  KVal bits = k_bitcast(k, ktype(KE_i32, n), v), zero = same(k, bits, 0), nan = same(k, bits, 255);
  KVal more = k_op2(k, K_lt, zero, op_int(k, K_and, bits, 0x7fffff));
  KVal code = k_shift(k, K_shr, bits, 23), most = same(k, bits, saturate ? 254 : 255);

  code = k_op2(k, K_add, code, k_select(k, more, same(k, bits, 1), zero));
  code = k_op2(k, K_min, code, most);
  code = k_select(k, k_op2(k, K_le, bits, same(k, bits, 0x400000)), zero, code); /* up to 2^-127 */
  code = k_select(k, k_op2(k, K_lt, bits, zero), nan, code);
  code = k_select(k, k_op2(k, K_eq, v, same(k, v, 0)), zero, code);
  return k_cast(k, KE_u8, k_select(k, k_op2(k, K_eq, v, v), code, nan));
}

static KVal encode_small(Kernel *k, DType t, KVal v, bool saturate)
{
  const Small *s = small_of(t);
  unsigned n = lanes_of(k, v);
  KType i32 = ktype(KE_i32, n), f32 = ktype(KE_f32, n);
  KVal a = k_op1(k, K_abs, v), bits = k_bitcast(k, i32, a);
  KVal e = op_int(k, K_max, op_int(k, K_add, k_shift(k, K_shr, bits, 23), s->bias - 127), 1);
  KVal scale = k_op2(k, K_sub, k_int(k, i32, 127 + s->mantissa + s->bias), e);
  KVal units = k_round(k, k_op2(k, K_mul, a, k_bitcast(k, f32, k_shift(k, K_shl, scale, 23))));
  KVal largest = k_int(k, i32, s->largest);
  int beyond = saturate || s->nan < 0 ? s->largest : s->infinity >= 0 ? s->infinity : s->nan;
  KVal finite = k_op2(k, K_lt, bits, k_int(k, i32, 0x7f800000));

  units = k_cast(k, KE_i32, k_select(k, finite, units, k_flt(k, n, 0)));
  KVal body = k_op2(k, K_add, units, k_shift(k, K_shl, op_int(k, K_sub, e, 1), s->mantissa));
  KVal fits = k_op2(k, K_and, finite, k_op2(k, K_le, body, largest));
  body = k_select(k, fits, body, k_int(k, i32, beyond));
  KVal sign = k_shift(k, K_shr, k_bitcast(k, ktype(KE_u32, n), v), 31);
  sign = k_shift(k, K_shl, k_cast(k, KE_i32, sign), s->sign);
  KVal code = k_op2(k, K_or, body, sign);
  if (s->one_zero) {
    KVal bare =
        k_op2(k, K_or, k_op2(k, K_eq, body, k_int(k, i32, 0)), k_op2(k, K_eq, body, k_int(k, i32, s->nan)));
    code = k_select(k, bare, body, code);
  }
  KVal nan = k_int(k, i32, s->nan < 0 ? 1 << s->sign : s->nan);
  if (s->nan >= 0 && !s->one_zero)
    nan = k_op2(k, K_or, nan, sign);
  return k_cast(k, KE_u8, k_select(k, k_op2(k, K_eq, v, v), code, nan));
}

/* ---- casts */

/* Integers of fewer bits than their element: the upper bits repeat the sign, or are 0. */
static KVal wrap(Kernel *k, DType t, KVal v)
{
  int drop = (int)dtype_info[t].bytes * 8 - dtype_bits(t);

  if (dtype_info[t].kind != DK_INT || t == DT_BOOL || !drop)
    return v;
  return k_shift(k, K_shr, k_shift(k, K_shl, v, drop), drop);
}

/* Toward zero; out of range the nearest; nan gives 0. Narrow ones wrap, from 32 bits. */
static KVal float_to_int(Kernel *k, DType to, KVal v)
{
  if (dtype_bits(to) >= 8)
    return k_cast_sat(k, dense_elem(to), v);
  return wrap(k, to, k_cast(k, dense_elem(to), k_cast_sat(k, KE_i32, v)));
}

KVal dense_narrow(Kernel *k, DType t, KVal v)
{
  return t == DT_F16 || t == DT_BF16 ? k_cast(k, dense_memory(t), v) : wrap(k, t, v);
}

static KVal to_float8(Kernel *k, DType to, KVal v, bool saturate)
{
  KElem from = (KElem)kernel_node(k, v)->type.elem;

  if (from != KE_f32)
    v = k_cast(k, KE_f32, v);
  return to == DT_F8E8M0 ? encode_scale(k, v, saturate) : encode_small(k, to, v, saturate);
}

KVal dense_convert(Kernel *k, DType from, DType to, KVal v, bool saturate)
{
  if (from == to)
    return v;
  if (dtype_info[from].kind == DK_FLOAT8)
    return dense_convert(k, DT_F32, to, from == DT_F8E8M0 ? decode_scale(k, v) : decode_small(k, from, v),
                         saturate);
  if (to == DT_BOOL)
    return k_cast(k, KE_bool, v);
  if (dtype_info[to].kind == DK_FLOAT8)
    return to_float8(k, to, v, saturate);
  if (dtype_info[to].kind == DK_INT)
    return dtype_info[from].kind == DK_INT ? wrap(k, to, k_cast(k, dense_elem(to), v))
                                           : float_to_int(k, to, v);
  if (kernel_node(k, v)->type.elem != dense_elem(to))
    v = k_cast(k, dense_elem(to), v);
  if (dense_memory(to) != dense_elem(to)) /* f16, bf16: rounded */
    v = k_cast(k, dense_elem(to), k_cast(k, dense_memory(to), v));
  return v;
}
