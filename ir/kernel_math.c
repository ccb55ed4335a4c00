/* kernel_math.c - functions of f32 expanded in the kernel IR, so that every target computes the same
 * and nothing calls a library in a hot loop (of f64: kernel_math64.c). Maximum errors are against the exact function
 * and were measured over the stated range by tests/unit/kernel_math.c. Coefficients without a source are minimax
 * (Remez), made for the range that stands beside them.
 *
 * exp: n = round(x log2 e), r = x - n ln 2 in two parts, a polynomial for e^r, times 2^n put
 * together in the exponent bits. Source of the method: any text on elementary functions (Muller). */
#include "ir/kernel_math.h"

/* Adding and taking away 1.5 * 2^23 leaves no room for a fraction. */
KVal k_round(Kernel *k, KVal x)
{
  KVal big = k_flt(k, km_type(k, x).lanes, 12582912.0);
  return k_op2(k, K_sub, km_add(k, x, big), big);
}

/* e^r 2^n = e^x, |x| < 2^20: r in [-ln 2 / 2, ln 2 / 2], n in the low bits of a float whose unit is 1. */
static KVal exp_parts(Kernel *k, KVal x, KVal *n_bits, KVal *n)
{
  static const double c[] = {1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0};
  KVal big = km_num(k, x, 12582912.0), t = km_add(k, km_mul(k, x, km_num(k, x, 1.4426950408889634)), big);

  *n = km_sub(k, t, big);
  *n_bits = k_bitcast(k, ktype(KE_i32, km_type(k, x).lanes), t);
  KVal r = k_fma(k, *n, km_num(k, x, -0.693359375), x); /* exact: the constant has 9 bits */
  return km_poly(k, k_fma(k, *n, km_num(k, x, 2.12194440054690583e-4), r), c, 8);
}

/* 2^n, n in [-126, 127], from the low bits of a float */
static KVal power_of_2(Kernel *k, KVal n_bits)
{
  KType t = km_type(k, n_bits);
  KVal bits = km_add(k, k_shift(k, K_shl, n_bits, 23), k_int(k, t, 127 << 23));
  return k_bitcast(k, ktype(KE_f32, t.lanes), bits);
}

/* At most 2 ulp for |x| <= 87; below -87.3 gives 0 or the smallest normal, above 88.7 the largest power; nan stays. */
KVal k_exp(Kernel *k, KVal x)
{
  KVal n, n_bits;

  x = k_op2(k, K_max, km_num(k, x, -87.33), x); /* nan is the second */
  x = k_op2(k, K_min, km_num(k, x, 88.37), x);
  KVal p = exp_parts(k, x, &n_bits, &n);
  return km_mul(k, p, power_of_2(k, n_bits));
}

/* Subnormal numbers are slow to compute with: probabilities of what a mask hides must not be any, when divided by
 * their sum or multiplied. */
KVal k_exp_or_0(Kernel *k, KVal x)
{
  return k_select(k, k_op2(k, K_lt, x, km_num(k, x, -80)), km_num(k, x, 0), k_exp(k, x));
}

/* At most 2 ulp where the result is normal, half a unit more where it is not; inf and 0 beyond. 2^n is two factors,
 * of which only the last rounds. */
KVal k_exp_ieee(Kernel *k, KVal x)
{
  KVal n, n_bits;

  if (km_type(k, x).elem == KE_f64)
    return km_exp64(k, x);
  x = k_op2(k, K_max, km_num(k, x, -104.5), x);
  x = k_op2(k, K_min, km_num(k, x, 89.5), x);
  KVal p = exp_parts(k, x, &n_bits, &n);
  KVal i = km_sub(k, n_bits, k_int(k, km_type(k, n_bits), 0x4b400000)); /* the bits of 1.5 * 2^23 */
  KVal half = k_shift(k, K_shr, i, 1);
  return km_mul(k, km_mul(k, p, power_of_2(k, half)), power_of_2(k, km_sub(k, i, half)));
}

/* x = 2^e m with m in [sqrt(1/2), sqrt(2)): e ln 2 in two parts, and a polynomial for log(1 + (m - 1)) (minimax,
 * Cephes' coefficients). At most 2 ulp; 0 gives -inf, below 0 nan. */
KVal k_log(Kernel *k, KVal x)
{
  static const double c[] = {7.0376836292e-2,  -1.1514610310e-1, 1.1676998740e-1,
                             -1.2420140846e-1, 1.4249322787e-1,  -1.6668057665e-1,
                             2.0000714765e-1,  -2.4999993993e-1, 3.3333331174e-1};
  if (km_type(k, x).elem == KE_f64)
    return km_log64(k, x);
  unsigned l = km_type(k, x).lanes;
  KType i32 = ktype(KE_i32, l), f32 = ktype(KE_f32, l);
  KVal tiny = k_op2(k, K_lt, x, k_flt(k, l, 0x1p-126)); /* subnormals are made normal first */
  KVal scaled = k_select(k, tiny, km_mul(k, x, k_flt(k, l, 0x1p23)), x);
  KVal bits = k_op2(k, K_sub, k_bitcast(k, i32, scaled), k_int(k, i32, 0x3f3504f3)); /* sqrt(1/2) */
  KVal e = k_cast(k, KE_f32, k_shift(k, K_shr, bits, 23));
  e = k_op2(k, K_sub, e, k_select(k, tiny, k_flt(k, l, 23), k_flt(k, l, 0)));
  KVal m_bits = k_op2(k, K_add, k_op2(k, K_and, bits, k_int(k, i32, 0x7fffff)), k_int(k, i32, 0x3f3504f3));
  KVal m = k_op2(k, K_sub, k_bitcast(k, f32, m_bits), k_flt(k, l, 1)), m2 = km_mul(k, m, m);
  KVal r = km_mul(k, km_mul(k, m2, m), km_poly(k, m, c, 9));
  r = k_fma(k, e, k_flt(k, l, -2.12194440054690583e-4), r);
  r = km_add(k, m, k_fma(k, m2, k_flt(k, l, -0.5), r));
  r = k_fma(k, e, k_flt(k, l, 0.693359375), r);
  KVal zero = k_flt(k, l, 0), big = k_flt(k, l, INFINITY);
  r = k_select(k, k_op2(k, K_eq, x, zero), k_op1(k, K_neg, big), r);
  r = k_select(k, k_op2(k, K_eq, x, big), big, r);
  return k_select(k, k_op2(k, K_le, zero, x), r, k_flt(k, l, NAN)); /* nan is not ordered */
}

/* 1 / (1 + e^-x): at most 4 ulp */
KVal k_sigmoid(Kernel *k, KVal x)
{
  KVal one = k_flt(k, km_type(k, x).lanes, 1.0);
  return k_op2(k, K_div, one, km_add(k, one, k_exp(k, k_op1(k, K_neg, x))));
}

/* As above, with 0 and 1 at the ends; f64: 4 ulp. */
KVal k_sigmoid_ieee(Kernel *k, KVal x)
{
  KVal one = km_num(k, x, 1.0);
  return k_op2(k, K_div, one, km_add(k, one, k_exp_ieee(k, k_op1(k, K_neg, x))));
}

/* |x| < 0.625: an odd polynomial (minimax, Cephes' coefficients); else 1 - 2 / (e^2|x| + 1) with the
 * sign of x. At most 4 ulp; nan is taken for small. */
KVal k_tanh(Kernel *k, KVal x)
{
  static const double c[] = {-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1,
                             -3.33332819422e-1};
  if (km_type(k, x).elem == KE_f64)
    return km_tanh64(k, x);
  unsigned l = km_type(k, x).lanes;
  KVal one = k_flt(k, l, 1.0), ax = k_op1(k, K_abs, x), x2 = km_mul(k, x, x);
  KVal small = k_fma(k, km_mul(k, km_poly(k, x2, c, 5), x2), x, x);
  KVal e = k_exp(k, km_add(k, ax, ax));
  KVal big = k_op2(k, K_sub, one, k_op2(k, K_div, k_flt(k, l, 2.0), km_add(k, e, one)));
  KVal zero = k_flt(k, l, 0.0);

  big = k_select(k, k_op2(k, K_lt, x, zero), k_op1(k, K_neg, big), big);
  return k_select(k, k_op2(k, K_le, k_flt(k, l, 0.625), ax), big, small);
}

/* Quarter turns: sine and cosine of r in [-1/8, 1/8] turn by Taylor polynomials in turns, then
 * swapped and negated by the quadrant. Absolute error below 2e-7. */
void k_sincos_turns(Kernel *k, KVal turns, KVal *s, KVal *c)
{
  /* (2 pi)^n / n! with alternating signs */
  static const double sc[] = {42.05869394489765, -76.70585975306137, 81.60524927607506, -41.34170224039976,
                              6.283185307179586};
  static const double cc[] = {60.24464137187666, -85.45681720669373, 64.93939402266829, -19.739208802178716,
                              1.0};
  unsigned l = km_type(k, turns).lanes;
  KType i32 = ktype(KE_i32, l);
  KVal q = k_round(k, km_mul(k, turns, k_flt(k, l, 4.0)));
  KVal r = k_fma(k, q, k_flt(k, l, -0.25), turns), r2 = km_mul(k, r, r);
  KVal sine = km_mul(k, km_poly(k, r2, sc, 5), r), cosine = km_poly(k, r2, cc, 5);
  KVal qi = k_cast(k, KE_i32, q), one = k_int(k, i32, 1), two = k_int(k, i32, 2), zero = k_int(k, i32, 0);
  KVal even = k_op2(k, K_eq, k_op2(k, K_and, qi, one), zero);
  KVal pos_s = k_op2(k, K_eq, k_op2(k, K_and, qi, two), zero);
  KVal pos_c = k_op2(k, K_eq, k_op2(k, K_and, k_op2(k, K_add, qi, one), two), zero);
  KVal a = k_select(k, even, sine, cosine), b = k_select(k, even, cosine, sine);

  *s = k_select(k, pos_s, a, k_op1(k, K_neg, a));
  *c = k_select(k, pos_c, b, k_op1(k, K_neg, b));
}

/* Radians to turns, less whole turns. Absolute error below 1e-6 + |x| * 2^-24. */
void k_sincos(Kernel *k, KVal radians, KVal *s, KVal *c)
{
  KVal t = km_mul(k, radians, k_flt(k, km_type(k, radians).lanes, 0.15915494309189535));
  k_sincos_turns(k, k_op2(k, K_sub, t, k_round(k, t)), s, c);
}

/* x less the nearest quarter turn, computed in double: exact to 2^-53 of x. The quadrant stands in the low bits of q.
 * Beyond 2^51 there is no quadrant; what comes out is bounded, and nan for inf. */
static KVal quarter(Kernel *k, KVal x, KVal *q)
{
  KVal wide = k_cast(k, KE_f64, x), big = km_num(k, wide, 0x1.8p52);
  KVal t = km_add(k, km_mul(k, wide, km_num(k, wide, 0.63661977236758134)), big), n = km_sub(k, t, big);
  KVal r = k_fma(k, n, km_num(k, wide, -1.5707963267341256), wide); /* pi / 2 of 33 bits, and the rest */
  r = k_fma(k, n, km_num(k, wide, -6.0771005065061922e-11), r);

  *q = k_cast(k, KE_i32, k_bitcast(k, ktype(KE_i64, km_type(k, x).lanes), t));
  r = k_op2(k, K_max, km_num(k, wide, -1), r);
  return k_cast(k, KE_f32, k_op2(k, K_min, km_num(k, wide, 1), r));
}

/* Sine of the angle that is `turns` quarters further. r in [-pi/4, pi/4]. */
static KVal sine32(Kernel *k, KVal x, int quarters)
{
  static const double sc[] = {-0.000195140846, 0.00833215505, -0.1666665459};
  static const double cc[] = {2.443484687e-5, -0.001388733709, 0.04166664627};
  KVal q, r = quarter(k, x, &q), z = km_mul(k, r, r);
  KVal s = k_fma(k, km_mul(k, r, z), km_poly(k, z, sc, 3), r);
  KVal c = k_fma(k, z, km_num(k, x, -0.5), km_num(k, x, 1));

  c = k_fma(k, km_mul(k, z, z), km_poly(k, z, cc, 3), c);
  return km_quadrant(k, q, quarters, s, c);
}

/* Absolute error below 1.2e-7 (1.5 ulp of 1) for |x| <= 1e8, then 2^-53 |x| more; nan for inf. */
KVal k_sin(Kernel *k, KVal x)
{
  return km_type(k, x).elem == KE_f64 ? km_sine64(k, x, 0) : sine32(k, x, 0);
}

KVal k_cos(Kernel *k, KVal x)
{
  return km_type(k, x).elem == KE_f64 ? km_sine64(k, x, 1) : sine32(k, x, 1);
}

/* |x| < 0.92: x + x P(x^2); else 1 - e^P(|x|), since log(erfc) is nearly a polynomial. At most 2 ulp; 1 at inf. */
KVal k_erf(Kernel *k, KVal x)
{
  static const double sc[] = {-0.0005990851437, 0.004993179748, -0.02676661585,
                              0.1128181615,     -0.3761249368,  0.12837915};
  static const double bc[] = {-2.116182956e-5, 0.0004352179988, -0.00417463874, 0.02512861339,
                              -0.1082939294,   -0.6333346685,   -1.129520816,   0.0001758730116};
  if (km_type(k, x).elem == KE_f64)
    return km_erf64(k, x);
  KVal t = k_op2(k, K_min, km_num(k, x, 4), k_op1(k, K_abs, x));
  KVal small = k_fma(k, x, km_poly(k, km_mul(k, x, x), sc, 6), x);
  KVal big = km_sub(k, km_num(k, x, 1), k_exp(k, km_poly(k, t, bc, 8)));
  return k_select(k, k_op2(k, K_lt, t, km_num(k, x, 0.92)), small, km_copysign(k, big, x));
}

/* At most 3 ulp (f64: 5 ulp), a little above tan(pi/8); else 1. */
KVal k_atan(Kernel *k, KVal x)
{
  /* (atan r - r) / r^3 of r^2, |r| <= tan(pi/8) */
  static const double c32[] = {0.08057877679, -0.1387915194, 0.1997786694, -0.3333295387};
  static const double c64[] = {0.0151955025014558394,  -0.0334748270773731438, 0.0450356648101561899,
                               -0.0521840887527641489, 0.0587702254234581427,  -0.0666622682852733226,
                               0.076922827645388998,   -0.0909090814480769297, 0.111111110881861628,
                               -0.142857142853881551,  0.199999999999976704,   -0.333333333333333275};
  bool wide = km_type(k, x).elem == KE_f64;
  KVal ax = k_op1(k, K_abs, x), one = km_num(k, x, 1), zero = km_num(k, x, 0);
  KVal mid = k_op2(k, K_lt, km_num(k, x, 0.41421356237309503), ax);
  KVal far = k_op2(k, K_lt, km_num(k, x, 2.4142135623730951), ax);
  KVal num = k_select(k, mid, km_sub(k, ax, one), ax), den = k_select(k, mid, km_add(k, ax, one), one);
  KVal base = k_select(k, mid, km_num(k, x, 0.78539816339744828), zero);

  num = k_select(k, far, km_num(k, x, -1), num);
  den = k_select(k, far, ax, den);
  base = k_select(k, far, km_num(k, x, 1.5707963267948966), base);
  KVal r = k_op2(k, K_div, num, den), z = km_mul(k, r, r);
  KVal p = wide ? km_poly(k, z, c64, 12) : km_poly(k, z, c32, 4);
  return km_copysign(k, km_add(k, base, k_fma(k, km_mul(k, r, z), p, r)), x);
}

/* |x|^y, then what IEEE 754-2019 (9.2.1) says of signs and of ends. f32 by way of f64: rounded once, but for 1e-9 of
 * an ulp; f64: relative error below 1e-15 + 3e-16 |y log x|. */
KVal k_pow(Kernel *k, KVal x, KVal y)
{
  bool wide = km_type(k, x).elem == KE_f64;
  KVal r = km_pow64(k, k_cast(k, KE_f64, x), k_cast(k, KE_f64, y), wide);
  return k_cast(k, wide ? KE_f64 : KE_f32, r);
}

KVal k_max_nan(Kernel *k, KVal a, KVal b)
{
  return k_select(k, k_op2(k, K_eq, a, a), k_op2(k, K_max, a, b), a);
}

KVal k_min_nan(Kernel *k, KVal a, KVal b)
{
  return k_select(k, k_op2(k, K_eq, a, a), k_op2(k, K_min, a, b), a);
}
