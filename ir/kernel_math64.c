/* kernel_math64.c - functions of f64 expanded in the kernel IR, and what both sizes share. The methods are those of
 * kernel_math.c; maximum errors were measured by tests/unit/kernel_math.c. Integers of 64 bits are only added, masked
 * and shifted left or, unsigned, right: vectors of them have no more than that on most processors. */
#include "ir/kernel_math.h"

#define MAGIC 0x1.8p52 /* added, it leaves an integer in the low bits */

/* Horner's rule */
KVal km_poly(Kernel *k, KVal x, const double *c, int n)
{
  KVal p = km_num(k, x, c[0]);
  for (int i = 1; i < n; i++)
    p = k_fma(k, p, x, km_num(k, x, c[i]));
  return p;
}

static KVal sign_of(Kernel *k, KVal v)
{
  KType bits = km_bits(k, v);
  int64_t top = bits.elem == KE_i64 ? INT64_MIN : INT32_MIN;
  return k_op2(k, K_and, k_bitcast(k, bits, v), k_int(k, bits, top));
}

/* size >= 0 */
KVal km_copysign(Kernel *k, KVal size, KVal sign)
{
  KVal bits = k_op2(k, K_or, k_bitcast(k, km_bits(k, size), size), sign_of(k, sign));
  return k_bitcast(k, km_type(k, size), bits);
}

KVal km_quadrant(Kernel *k, KVal q, int quarters, KVal s, KVal c)
{
  KType t = km_type(k, q);
  int top = 8 * kelem_info[t.elem].bytes - 1;

  q = quarters ? km_add(k, q, k_int(k, t, quarters)) : q;
  KVal odd = k_op2(k, K_eq, k_op2(k, K_and, q, k_int(k, t, 1)), k_int(k, t, 1));
  KVal v = k_bitcast(k, t, k_select(k, odd, c, s));
  KVal sign = k_shift(k, K_shl, k_op2(k, K_and, q, k_int(k, t, 2)), top - 1);
  return k_bitcast(k, km_type(k, s), k_op2(k, K_xor, v, sign));
}

/* 2^n, n an integer in [-1022, 1023] */
static KVal power_of_2(Kernel *k, KVal n)
{
  KType bits = km_bits(k, n);
  KVal low = k_bitcast(k, bits, km_add(k, n, km_num(k, n, MAGIC)));
  KVal b = km_add(k, k_shift(k, K_shl, low, 52), k_int(k, bits, (int64_t)1023 << 52));
  return k_bitcast(k, km_type(k, n), b);
}

/* e^r and n with e^x = e^r 2^n */
static KVal exp_parts(Kernel *k, KVal x, KVal *n)
{
  /* (e^r - 1 - r) / r^2, |r| <= ln 2 / 2 */
  static const double c[] = {2.51177085405072098e-8, 2.76309890703040455e-7, 2.75572168893300058e-6,
                             2.48014909131484919e-5, 1.98412699165662421e-4, 1.38888889458818308e-3,
                             8.33333333330768458e-3, 4.16666666665208008e-2, 0.166666666666666981,
                             0.50000000000000119};
  KVal big = km_num(k, x, MAGIC);
  *n = km_sub(k, km_add(k, km_mul(k, x, km_num(k, x, 1.4426950408889634)), big), big);
  KVal r = k_fma(k, *n, km_num(k, x, -0x1.62e42feep-1), x); /* ln 2 of 32 bits, and the rest */
  r = k_fma(k, *n, km_num(k, x, -1.9082149292705877e-10), r);
  return km_add(k, k_fma(k, km_mul(k, r, r), km_poly(k, r, c, 10), r), km_num(k, x, 1));
}

static KVal clamped(Kernel *k, KVal x, double lo, double hi) /* nan stays */
{
  x = k_op2(k, K_max, km_num(k, x, lo), x);
  return k_op2(k, K_min, km_num(k, x, hi), x);
}

/* |x| <= 700 */
static KVal exp_near(Kernel *k, KVal x)
{
  KVal n, p = exp_parts(k, x, &n);
  return km_mul(k, p, power_of_2(k, n));
}

/* At most 2 ulp; inf, subnormal numbers and 0 at the ends. */
KVal km_exp64(Kernel *k, KVal x)
{
  KVal n, p = exp_parts(k, clamped(k, x, -746, 710.5), &n);
  KVal half = k_op1(k, K_floor, km_mul(k, n, km_num(k, x, 0.5)));
  return km_mul(k, km_mul(k, p, power_of_2(k, half)), power_of_2(k, km_sub(k, n, half)));
}

/* x = 2^e m, m in [sqrt(1/2), sqrt(2)), f = m - 1, s = f / (2 + f): log m = 2s + s z P(z), z = s^2, which is written
 * as f - (f^2 / 2 - s (f^2 / 2 + z P)) so that f, the largest part, is exact (Cody and Waite). At most 1.5 ulp. */
KVal km_log64(Kernel *k, KVal x)
{
  static const double c[] = {0.147975076586056866, 0.153139032978283691, 0.181835697354423303,
                             0.222221984761320168, 0.285714287432604218, 0.399999999994111077,
                             0.666666666666673489};
  const int64_t root = 0x3fe6a09e667f3bcd, one = (int64_t)1023 << 52, fraction = ((int64_t)1 << 52) - 1;
  KType u64 = ktype(KE_u64, km_type(k, x).lanes), f64 = km_type(k, x);
  KVal zero = km_num(k, x, 0), big = km_num(k, x, INFINITY);
  KVal tiny = k_op2(k, K_lt, x, km_num(k, x, 0x1p-1022));
  KVal scaled = k_select(k, tiny, km_mul(k, x, km_num(k, x, 0x1p54)), x);
  KVal bits = km_add(k, k_bitcast(k, u64, scaled), k_int(k, u64, one - root));
  KVal e =
      k_op2(k, K_or, k_shift(k, K_shr, bits, 52), k_int(k, u64, 0x4330000000000000)); /* 2^52 + e + 1023 */
  KVal bias = k_select(k, tiny, km_num(k, x, 0x1p52 + 1023 + 54), km_num(k, x, 0x1p52 + 1023));
  e = km_sub(k, k_bitcast(k, f64, e), bias);
  KVal m = km_add(k, k_op2(k, K_and, bits, k_int(k, u64, fraction)), k_int(k, u64, root));
  KVal f = km_sub(k, k_bitcast(k, f64, m), km_num(k, x, 1));
  KVal s = k_op2(k, K_div, f, km_add(k, f, km_num(k, x, 2))), z = km_mul(k, s, s);
  KVal half = km_mul(k, km_mul(k, f, f), km_num(k, x, 0.5));
  KVal rest = km_mul(k, s, k_fma(k, z, km_poly(k, z, c, 7), half));
  rest = k_fma(k, e, km_num(k, x, 1.9082149292705877e-10), rest);
  KVal r = km_sub(k, f, km_sub(k, half, rest));
  r = k_fma(k, e, km_num(k, x, 0x1.62e42feep-1), r);
  r = k_select(k, k_op2(k, K_eq, x, zero), k_op1(k, K_neg, big), r);
  r = k_select(k, k_op2(k, K_eq, x, big), big, r);
  return k_select(k, k_op2(k, K_le, zero, x), r, km_num(k, x, NAN));
}

/* |x| < 0.625: the continued fraction x / (1 + x^2 / (3 + x^2 / (5 + ...))), cut at 15; else by e^2|x|. At most
 * 3 ulp. */
KVal km_tanh64(Kernel *k, KVal x)
{
  static const double top[] = {36, 6930, 270270, 2027025}, bottom[] = {1, 630, 51975, 945945, 2027025};
  KVal ax = k_op1(k, K_abs, x), one = km_num(k, x, 1), z = km_mul(k, x, x);
  KVal small = k_op2(k, K_div, km_mul(k, x, km_poly(k, z, top, 4)), km_poly(k, z, bottom, 5));
  KVal e = exp_near(k, clamped(k, km_add(k, ax, ax), 0, 80));
  KVal big = km_sub(k, one, k_op2(k, K_div, km_num(k, x, 2), km_add(k, e, one)));
  return k_select(k, k_op2(k, K_lt, ax, km_num(k, x, 0.625)), small, km_copysign(k, big, x));
}

/* At most 1 ulp of 1 for |x| <= 1e5; beyond, 1e-21 |x| more; nan for inf. */
KVal km_sine64(Kernel *k, KVal x, int quarters)
{
  /* (sin r - r) / r^3 and (cos r - 1 + r^2 / 2) / r^4 of r^2, |r| <= pi/4 */
  static const double sc[] = {1.58966664112967036e-10, -2.50507559593085992e-8, 2.7557313678647988e-6,
                              -1.98412698297710962e-4, 8.33333333332236985e-3,  -0.166666666666666319};
  static const double cc[] = {-1.13595594563303978e-11, 2.08757216262177358e-9, -2.75573143406778118e-7,
                              2.48015872894435418e-5,   -1.3888888888874065e-3, 4.16666666666665992e-2};
  KVal big = km_num(k, x, MAGIC), t = km_add(k, km_mul(k, x, km_num(k, x, 0.63661977236758134)), big);
  KVal n = km_sub(k, t, big), r = k_fma(k, n, km_num(k, x, -0x1.921fb544p0), x); /* pi / 2 in three parts */
  r = k_fma(k, n, km_num(k, x, -0x1.0b4611a6p-34), r);
  r = clamped(k, k_fma(k, n, km_num(k, x, -0x1.3198a2e037073p-69), r), -1, 1);
  KVal z = km_mul(k, r, r), s = k_fma(k, km_mul(k, r, z), km_poly(k, z, sc, 6), r);
  KVal c = k_fma(k, z, km_num(k, x, -0.5), km_num(k, x, 1));
  c = k_fma(k, km_mul(k, z, z), km_poly(k, z, cc, 6), c);
  return km_quadrant(k, k_bitcast(k, km_bits(k, x), t), quarters, s, c);
}

/* |x| < 1: 2 x / sqrt(pi) + x^3 P(x^2); else 1 - e^(-x^2) Q((|x| - 3) / (|x| + 3)). At most 2 ulp. */
KVal km_erf64(Kernel *k, KVal x)
{
  static const double sc[] = {5.97091082409295768e-11, -1.13813309215460993e-9, 1.46620769589498553e-8,
                              -1.63506734438983103e-7, 1.64610365867356954e-6,  -1.49255976748129661e-5,
                              1.20553312200840854e-4,  -8.54832698410320679e-4, 5.22397762488206857e-3,
                              -2.68661706450844926e-2, 0.112837916709549299,    -0.376126389031837496};
  static const double bc[] = {-2.25484791194908706e-6, -1.44367044621482191e-5, -1.85678319864774385e-5,
                              6.07328824030431178e-5,  4.39373494651226284e-5,  -5.97416537982048972e-4,
                              7.07684745291330115e-4,  4.2691304845383454e-3,   -2.4392499347334671e-2,
                              7.16658372581776309e-2,  -0.150115936494551119,   0.245603801712533671,
                              -0.326233560043039636,   0.179001151181389789};
  KVal z = km_mul(k, x, x), t = k_op2(k, K_min, km_num(k, x, 6), k_op1(k, K_abs, x)), three = km_num(k, x, 3);
  KVal small =
      k_fma(k, km_mul(k, x, z), km_poly(k, z, sc, 12), km_mul(k, x, km_num(k, x, 1.1283791670955126)));
  KVal u = k_op2(k, K_div, km_sub(k, t, three), km_add(k, t, three));
  KVal tail = km_mul(k, exp_near(k, k_op1(k, K_neg, km_mul(k, t, t))), km_poly(k, u, bc, 14));
  KVal big = km_copysign(k, km_sub(k, km_num(k, x, 1), tail), x);
  return k_select(k, k_op2(k, K_lt, t, km_num(k, x, 1)), small, big);
}

static KVal is_integer(Kernel *k, KVal x)
{
  return k_op2(k, K_eq, k_op1(k, K_floor, x), x);
}

static KVal not(Kernel * k, KVal mask)
{
  return k_op2(k, K_xor, mask, k_int(k, km_type(k, mask), 1));
}

KVal km_pow64(Kernel *k, KVal x, KVal y, bool wide)
{
  KVal ax = k_op1(k, K_abs, x), one = km_num(k, x, 1), zero = km_num(k, x, 0);
  KVal z = km_mul(k, y, km_log64(k, ax));
  KVal r = wide ? km_exp64(k, z) : exp_near(k, clamped(k, z, -400, 400));

  /* 1 to the power of inf is 1, of nan too */
  KVal unit = k_op2(k, K_and, k_op2(k, K_eq, ax, one), k_op2(k, K_eq, y, y));
  r = k_select(k, unit, one, r);
  /* a negative base: the sign of odd powers, nan for what is no integer; -inf has even powers there */
  KVal whole = is_integer(k, y), even = is_integer(k, km_mul(k, y, km_num(k, x, 0.5)));
  KVal negative = k_op2(k, K_and, k_op2(k, K_lt, x, zero), k_op2(k, K_lt, km_num(k, x, -INFINITY), x));
  r = k_select(k, k_op2(k, K_and, negative, not(k, whole)), km_num(k, x, NAN), r);
  r = km_copysign(k, r, k_select(k, k_op2(k, K_and, whole, not(k, even)), x, one));
  r = k_select(k, k_op2(k, K_eq, x, one), one, r);
  return k_select(k, k_op2(k, K_eq, y, zero), one, r);
}
