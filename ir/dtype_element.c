/* dtype_element.c - one element of a type that is no block: read, rounded, written.
 *
 * A long double holds every element exactly (64 bits of mantissa), so that rounding happens once, here.
 * Source: IEEE 754; ONNX technical notes on float8, float4 and int4 for the narrow types. */
#include <assert.h>
#include <float.h>
#include <math.h>

#include "ir/dtype.h"

static_assert(LDBL_MANT_DIG >= 64, "64-bit integers are exact in long double");

bool dtype_is_element(DType t)
{
  return dtype_info[t].kind == DK_FLOAT || dtype_info[t].kind == DK_INT || dtype_info[t].kind == DK_FLOAT8;
}

bool dtype_is_number(DType t)
{
  return dtype_info[t].kind == DK_FLOAT || (dtype_info[t].kind == DK_INT && t != DT_BOOL);
}

bool dtype_is_signed(DType t)
{
  return dtype_info[t].kind != DK_INT || dtype_info[t].lo < 0 || t == DT_I32 || t == DT_I64;
}

int dtype_bits(DType t)
{
  switch (t) {
  case DT_BOOL: return 1;
  case DT_I2:
  case DT_U2: return 2;
  case DT_I4:
  case DT_U4:
  case DT_F4E2M1: return 4;
  default: return (int)(dtype_info[t].bytes * 8 / dtype_info[t].block);
  }
}

/* ---- floats of few bits */

typedef struct {
  int mantissa, bias; /* bits, exponent bias */
  int largest;        /* code of the largest finite value, without sign */
  int infinity, nan;  /* codes, -1: none */
  bool one_zero;      /* no -0 (its code is nan) */
} Small;

static const Small small[DT_COUNT] = {
    [DT_F16] = {10, 15, 0x7bff, 0x7c00, 0x7e00, false},
    [DT_BF16] = {7, 127, 0x7f7f, 0x7f80, 0x7fc0, false},
    [DT_F8E4M3FN] = {3, 7, 0x7e, -1, 0x7f, false},
    [DT_F8E4M3FNUZ] = {3, 8, 0x7f, -1, 0x80, true},
    [DT_F8E5M2] = {2, 15, 0x7b, 0x7c, 0x7e, false},
    [DT_F8E5M2FNUZ] = {2, 16, 0x7f, -1, 0x80, true},
    [DT_F4E2M1] = {1, 1, 7, -1, -1, false},
};

static int sign_bit(DType t)
{
  return 1 << (dtype_bits(t) - 1);
}

static long double small_value(DType t, int code)
{
  const Small *s = &small[t];
  int sign = code & sign_bit(t), body = code & (sign_bit(t) - 1);
  int exponent = body >> s->mantissa, fraction = body & ((1 << s->mantissa) - 1);
  long double v;

  if (s->one_zero ? code == s->nan : body > s->largest && body != s->infinity)
    return (long double)NAN;
  if (body == s->infinity)
    v = (long double)INFINITY;
  else if (exponent)
    v = ldexpl((long double)(fraction | 1 << s->mantissa), exponent - s->bias - s->mantissa);
  else
    v = ldexpl((long double)fraction, 1 - s->bias - s->mantissa);
  return sign ? -v : v;
}

/* Code of |x|, rounded to nearest even; may lie beyond the largest. */
static int small_body(const Small *s, long double x)
{
  int e;

  if (x == 0)
    return 0;
  if (x >= 0x1p128L)
    return INT16_MAX + 1; /* beyond any of them */
  frexpl(x, &e);
  int exponent = e - 1 + s->bias > 1 ? e - 1 + s->bias : 1;
  long double units = rintl(ldexpl(x, s->mantissa + s->bias - exponent));
  return (int)units + ((exponent - 1) << s->mantissa); /* a carry moves into the exponent by itself */
}

/* What stands for a value out of range. Types with neither nan nor infinity saturate always. */
static int small_beyond(const Small *s, bool saturate)
{
  if (saturate || s->nan < 0)
    return s->largest;
  return s->infinity >= 0 ? s->infinity : s->nan;
}

static int small_code(DType t, long double x, bool saturate)
{
  const Small *s = &small[t];
  int sign = signbit(x) ? sign_bit(t) : 0;

  if (isnan(x))
    return s->nan < 0 ? sign_bit(t) : s->nan | (s->one_zero ? 0 : sign);
  int body = isinf(x) ? INT16_MAX + 1 : small_body(s, fabsl(x));
  if (body > s->largest)
    body = small_beyond(s, saturate && dtype_info[t].kind == DK_FLOAT8);
  if (s->one_zero && (body == 0 || body == s->nan))
    return body;
  return sign | body;
}

/* ---- powers of two */

static long double scale_value(int code)
{
  return code == 255 ? (long double)NAN : ldexpl(1, code - 127);
}

/* The next power of two that is not below x. */
static int scale_code(long double x, bool saturate)
{
  int e;

  if (isnan(x) || signbit(x))
    return x == 0 ? 0 : 255;
  if (isinf(x))
    return saturate ? 254 : 255;
  e = frexpl(x, &e) > 0.5L ? e + 127 : e + 126;
  if (x == 0 || e < 0)
    return 0;
  return e <= 254 ? e : saturate ? 254 : 255;
}

/* ---- integers */

/* clang-format off */
#define EACH_INT(X)                                                                                         \
  X(DT_I8, int8_t)   X(DT_U8, uint8_t)   X(DT_I16, int16_t) X(DT_U16, uint16_t) X(DT_I32, int32_t)          \
  X(DT_U32, uint32_t) X(DT_I64, int64_t) X(DT_U64, uint64_t) X(DT_I4, int8_t)   X(DT_U4, uint8_t)           \
  X(DT_I2, int8_t)   X(DT_U2, uint8_t)   X(DT_BOOL, uint8_t)
/* clang-format on */

int64_t dtype_get_int(DType t, const void *p)
{
  switch (t) {
#define READ(id, type)                                                                                       \
  case id: {                                                                                                 \
    type v;                                                                                                  \
    memcpy(&v, p, sizeof v);                                                                                 \
    return (int64_t)v;                                                                                       \
  }
    EACH_INT(READ)
#undef READ
  default: return 0;
  }
}

/* The low bits of x as a value of the type. */
static int64_t wrapped(DType t, int64_t x)
{
  int bits = dtype_bits(t), shift = 64 - bits;
  uint64_t up = (uint64_t)x << shift;

  if (t == DT_BOOL)
    return x != 0;
  return dtype_is_signed(t) ? (int64_t)up >> shift : (int64_t)(up >> shift);
}

void dtype_put_int(DType t, void *p, int64_t x)
{
  x = wrapped(t, x);
  switch (t) {
#define WRITE(id, type)                                                                                      \
  case id: {                                                                                                 \
    type v = (type)x;                                                                                        \
    memcpy(p, &v, sizeof v);                                                                                 \
    break;                                                                                                   \
  }
    EACH_INT(WRITE)
#undef WRITE
  default: break;
  }
}

static void put_real(DType t, void *p, long double x)
{
  int bits = dtype_bits(t) - (dtype_is_signed(t) ? 1 : 0);
  bool narrow = bits < 7; /* wraps: the range of i64 is where those saturate */
  long double lo = narrow ? -0x1p63L : dtype_is_signed(t) ? -ldexpl(1, bits) : 0;
  long double hi = narrow ? 0x1p63L - 1 : ldexpl(1, bits) - 1;

  if (t == DT_BOOL)
    x = x != 0; /* nan is true */
  x = isnan(x) ? 0 : truncl(x);
  x = x < lo ? lo : x > hi ? hi : x;
  dtype_put_int(t, p, x >= 0x1p63L ? (int64_t)(uint64_t)x : (int64_t)x);
}

/* ---- all of them */

static uint16_t code_at(DType t, const void *p)
{
  uint16_t wide;

  if (dtype_info[t].bytes == 1)
    return *(const uint8_t *)p;
  memcpy(&wide, p, 2);
  return wide;
}

long double dtype_get(DType t, const void *p)
{
  float f;
  double d;

  switch (t) {
  case DT_F32: memcpy(&f, p, sizeof f); return (long double)f;
  case DT_F64: memcpy(&d, p, sizeof d); return (long double)d;
  case DT_F16: return (long double)f16_to_f32(code_at(t, p));
  case DT_U64: return (long double)(uint64_t)dtype_get_int(t, p);
  case DT_F8E8M0: return scale_value(code_at(t, p));
  default:
    if (dtype_info[t].kind == DK_INT)
      return (long double)dtype_get_int(t, p);
    return small_value(t, code_at(t, p));
  }
}

static void put_code(DType t, void *p, int code)
{
  uint16_t wide = (uint16_t)code;
  uint8_t narrow = (uint8_t)code;

  if (dtype_info[t].bytes == 1)
    memcpy(p, &narrow, 1);
  else
    memcpy(p, &wide, 2);
}

void dtype_put(DType t, void *p, long double x, bool saturate)
{
  float f = (float)x;
  double d = (double)x;

  switch (t) {
  case DT_F32: memcpy(p, &f, sizeof f); break;
  case DT_F64: memcpy(p, &d, sizeof d); break;
  case DT_F8E8M0: put_code(t, p, scale_code(x, saturate)); break;
  default:
    if (dtype_info[t].kind == DK_INT)
      put_real(t, p, x);
    else
      put_code(t, p, small_code(t, x, saturate));
  }
}
