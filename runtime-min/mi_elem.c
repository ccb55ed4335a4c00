/* mi_elem.c - see mi_elem.h. */
#include "mi_elem.h"

#include <math.h>
#include <string.h>

const MiElemInfo mi_elem_info[MI_ELEM_COUNT] = {
    [MI_ELEM_F32] = {"f32", "f4", 4, true, true},     [MI_ELEM_F16] = {"f16", "f2", 2, true, true},
    [MI_ELEM_BF16] = {"bf16", "f4", 2, true, true},   [MI_ELEM_F64] = {"f64", "f8", 8, true, true},
    [MI_ELEM_I8] = {"i8", "i1", 1, false, true},      [MI_ELEM_U8] = {"u8", "u1", 1, false, false},
    [MI_ELEM_I16] = {"i16", "i2", 2, false, true},    [MI_ELEM_U16] = {"u16", "u2", 2, false, false},
    [MI_ELEM_I32] = {"i32", "i4", 4, false, true},    [MI_ELEM_U32] = {"u32", "u4", 4, false, false},
    [MI_ELEM_I64] = {"i64", "i8", 8, false, true},    [MI_ELEM_U64] = {"u64", "u8", 8, false, false},
    [MI_ELEM_BOOL] = {"bool", "b1", 1, false, false}, [MI_ELEM_CODE] = {"code", "u1", 1, false, false},
};

const char *mi_elem_name(MiElem e)
{
  return mi_elem_info[e].name;
}

uint32_t mi_elem_bytes(MiElem e)
{
  return mi_elem_info[e].bytes;
}

/* ---- 16-bit floats */

static float half_to_float(uint16_t h)
{
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023, bits;
  float f;

  if (e == 0) {
    f = (float)m * 0x1p-24f;
    return sign ? -f : f;
  }
  bits = sign | (e == 31 ? 0x7f800000 : (e + 112) << 23) | m << 13;
  memcpy(&f, &bits, sizeof f);
  return f;
}

static float bf16_to_float(uint16_t h)
{
  uint32_t bits = (uint32_t)h << 16;
  float f;

  memcpy(&f, &bits, sizeof f);
  return f;
}

/* The float next to x toward zero, its last bit set if it is not x: enough to round again to fewer bits. */
static uint32_t to_odd(long double x)
{
  float f = (float)x;
  uint32_t bits;

  memcpy(&bits, &f, sizeof bits);
  if (x != x || (long double)f == x)
    return bits;
  bits -= fabsl((long double)f) > fabsl(x);
  return bits | 1;
}

/* To nearest, ties to even, in the integers that the bits are. */
static uint16_t to_half(uint32_t bits)
{
  uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);

  bits &= 0x7fffffff;
  if (bits > 0x7f800000)
    return sign | 0x7e00;
  if (bits >= 0x477ff000)
    return sign | 0x7c00;
  if (bits >= 0x38800000)
    return sign | (uint16_t)((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);
  if (bits < 0x33000000)
    return sign;
  uint32_t m = (bits & 0x7fffff) | 0x800000, drop = 126 - (bits >> 23); /* steps of 2^-24 */
  return sign | (uint16_t)((m + (1u << (drop - 1)) - 1 + (m >> drop & 1)) >> drop);
}

static uint16_t to_bf16(uint32_t bits)
{
  bool nan = (bits & 0x7fffffff) > 0x7f800000;

  return (uint16_t)((nan ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* ---- as numbers */

#define READ(type)                                                                                           \
  do {                                                                                                       \
    type x_;                                                                                                 \
    memcpy(&x_, p, sizeof x_);                                                                               \
    return (long double)x_;                                                                                  \
  } while (0)

long double mi_elem_get(MiElem e, const uint8_t *p)
{
  uint16_t h = 0;

  switch (e) {
  case MI_ELEM_F32: READ(float);
  case MI_ELEM_F64: READ(double);
  case MI_ELEM_F16: memcpy(&h, p, 2); return (long double)half_to_float(h);
  case MI_ELEM_BF16: memcpy(&h, p, 2); return (long double)bf16_to_float(h);
  case MI_ELEM_I8: READ(int8_t);
  case MI_ELEM_I16: READ(int16_t);
  case MI_ELEM_U16: READ(uint16_t);
  case MI_ELEM_I32: READ(int32_t);
  case MI_ELEM_U32: READ(uint32_t);
  case MI_ELEM_I64: READ(int64_t);
  case MI_ELEM_U64: READ(uint64_t);
  default: return *p;
  }
}

#define WRITE(type, value)                                                                                   \
  do {                                                                                                       \
    type x_ = (type)(value);                                                                                 \
    memcpy(p, &x_, sizeof x_);                                                                               \
    return;                                                                                                  \
  } while (0)

void mi_elem_set(MiElem e, uint8_t *p, long double x)
{
  switch (e) {
  case MI_ELEM_F32: WRITE(float, x);
  case MI_ELEM_F64: WRITE(double, x);
  case MI_ELEM_F16: WRITE(uint16_t, to_half(to_odd(x)));
  case MI_ELEM_BF16: WRITE(uint16_t, to_bf16(to_odd(x)));
  case MI_ELEM_I8: WRITE(int8_t, x);
  case MI_ELEM_I16: WRITE(int16_t, x);
  case MI_ELEM_U16: WRITE(uint16_t, x);
  case MI_ELEM_I32: WRITE(int32_t, x);
  case MI_ELEM_U32: WRITE(uint32_t, x);
  case MI_ELEM_I64: WRITE(int64_t, x);
  case MI_ELEM_U64: WRITE(uint64_t, x);
  case MI_ELEM_BOOL: *p = x != 0; return;
  default: *p = (uint8_t)x;
  }
}

/* What is beyond the largest number by less than half a step is rounded to it. */
static long double float_limit(MiElem e)
{
  switch (e) {
  case MI_ELEM_F16: return 65520.0L;
  case MI_ELEM_BF16: return 0x1.ffp127L;
  case MI_ELEM_F32: return 0x1.ffffffp127L;
  default: return 0x1.fffffffffffff8p1023L;
  }
}

bool mi_elem_holds(MiElem e, long double x)
{
  const MiElemInfo *info = &mi_elem_info[e];

  if (info->is_float)
    return isnan(x) || isinf(x) || fabsl(x) < float_limit(e);
  if (e == MI_ELEM_BOOL)
    return x == 0 || x == 1;
  if (x != truncl(x))
    return false;
  long double top = ldexpl(1, (int)(info->bytes * 8) - info->is_signed);
  return x < top && x >= (info->is_signed ? -top : 0);
}
