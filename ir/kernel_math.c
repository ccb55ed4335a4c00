/* kernel_math.c - functions expanded in the kernel IR, so that every target computes the same
 * and nothing calls a library in a hot loop. Maximum errors are against the exact function and
 * were measured over the stated range by tests/unit/kernel_math.c.
 *
 * exp: n = round(x log2 e), r = x - n ln 2 in two parts, a polynomial for e^r, times 2^n put
 * together in the exponent bits. Source of the method: any text on elementary functions (Muller). */
#include "ir/kernel.h"

#include <math.h>

static unsigned lanes_of(const Kernel *k, KVal v)
{
  return kernel_node(k, v)->type.lanes;
}

static KVal mul(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_mul, a, b);
}

static KVal add(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_add, a, b);
}

/* c[0] x^n + ... + c[n] by Horner's rule */
static KVal polynomial(Kernel *k, KVal x, const double *c, int n)
{
  unsigned l = lanes_of(k, x);
  KVal p = k_flt(k, l, c[0]);
  for (int i = 1; i <= n; i++)
    p = k_fma(k, p, x, k_flt(k, l, c[i]));
  return p;
}

/* Adding and taking away 1.5 * 2^23 leaves no room for a fraction. */
KVal k_round(Kernel *k, KVal x)
{
  KVal big = k_flt(k, lanes_of(k, x), 12582912.0);
  return k_op2(k, K_sub, add(k, x, big), big);
}

/* At most 2 ulp for |x| <= 87; below -87.3 gives 0 or the smallest normal, above 88.7 the largest power. */
KVal k_exp(Kernel *k, KVal x)
{
  static const double c[] = {1.0 / 5040, 1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0, 1.0};
  unsigned l = lanes_of(k, x);
  KType i32 = ktype(KE_i32, l), f32 = ktype(KE_f32, l);

  x = k_op2(k, K_max, x, k_flt(k, l, -87.33));
  x = k_op2(k, K_min, x, k_flt(k, l, 88.37));
  KVal n = k_round(k, mul(k, x, k_flt(k, l, 1.4426950408889634)));
  KVal r = k_fma(k, n, k_flt(k, l, -0.693359375), x); /* exact: the constant has 9 bits */
  r = k_fma(k, n, k_flt(k, l, 2.12194440054690583e-4), r);
  KVal p = polynomial(k, r, c, 7);
  KVal bits = k_shift(k, K_shl, add(k, k_cast(k, KE_i32, n), k_int(k, i32, 127)), 23);
  return mul(k, p, k_bitcast(k, f32, bits));
}

/* x = 2^e m with m in [sqrt(1/2), sqrt(2)): e ln 2 in two parts, and a polynomial for log(1 + (m - 1)) (minimax,
 * Cephes' coefficients). At most 2 ulp; 0 gives -inf, below 0 nan. */
KVal k_log(Kernel *k, KVal x)
{
  static const double c[] = {7.0376836292e-2,  -1.1514610310e-1, 1.1676998740e-1,
                             -1.2420140846e-1, 1.4249322787e-1,  -1.6668057665e-1,
                             2.0000714765e-1,  -2.4999993993e-1, 3.3333331174e-1};
  unsigned l = lanes_of(k, x);
  KType i32 = ktype(KE_i32, l), f32 = ktype(KE_f32, l);
  KVal tiny = k_op2(k, K_lt, x, k_flt(k, l, 0x1p-126)); /* subnormals are made normal first */
  KVal scaled = k_select(k, tiny, mul(k, x, k_flt(k, l, 0x1p23)), x);
  KVal bits = k_op2(k, K_sub, k_bitcast(k, i32, scaled), k_int(k, i32, 0x3f3504f3)); /* sqrt(1/2) */
  KVal e = k_cast(k, KE_f32, k_shift(k, K_shr, bits, 23));
  e = k_op2(k, K_sub, e, k_select(k, tiny, k_flt(k, l, 23), k_flt(k, l, 0)));
  KVal m_bits = k_op2(k, K_add, k_op2(k, K_and, bits, k_int(k, i32, 0x7fffff)), k_int(k, i32, 0x3f3504f3));
  KVal m = k_op2(k, K_sub, k_bitcast(k, f32, m_bits), k_flt(k, l, 1)), m2 = mul(k, m, m);
  KVal r = mul(k, mul(k, m2, m), polynomial(k, m, c, 8));
  r = k_fma(k, e, k_flt(k, l, -2.12194440054690583e-4), r);
  r = add(k, m, k_fma(k, m2, k_flt(k, l, -0.5), r));
  r = k_fma(k, e, k_flt(k, l, 0.693359375), r);
  KVal zero = k_flt(k, l, 0), big = k_flt(k, l, INFINITY);
  r = k_select(k, k_op2(k, K_eq, x, zero), k_op1(k, K_neg, big), r);
  r = k_select(k, k_op2(k, K_eq, x, big), big, r);
  return k_select(k, k_op2(k, K_le, zero, x), r, k_flt(k, l, NAN)); /* nan is not ordered */
}

/* 1 / (1 + e^-x): at most 4 ulp */
KVal k_sigmoid(Kernel *k, KVal x)
{
  KVal one = k_flt(k, lanes_of(k, x), 1.0);
  return k_op2(k, K_div, one, add(k, one, k_exp(k, k_op1(k, K_neg, x))));
}

/* |x| < 0.625: an odd polynomial (minimax, Cephes' coefficients); else 1 - 2 / (e^2|x| + 1) with the
 * sign of x. At most 4 ulp. */
KVal k_tanh(Kernel *k, KVal x)
{
  static const double c[] = {-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1,
                             -3.33332819422e-1};
  unsigned l = lanes_of(k, x);
  KVal one = k_flt(k, l, 1.0), ax = k_op1(k, K_abs, x), x2 = mul(k, x, x);
  KVal small = k_fma(k, mul(k, polynomial(k, x2, c, 4), x2), x, x);
  KVal e = k_exp(k, add(k, ax, ax));
  KVal big = k_op2(k, K_sub, one, k_op2(k, K_div, k_flt(k, l, 2.0), add(k, e, one)));
  KVal zero = k_flt(k, l, 0.0);

  big = k_select(k, k_op2(k, K_lt, x, zero), k_op1(k, K_neg, big), big);
  return k_select(k, k_op2(k, K_lt, ax, k_flt(k, l, 0.625)), small, big);
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
  unsigned l = lanes_of(k, turns);
  KType i32 = ktype(KE_i32, l);
  KVal q = k_round(k, mul(k, turns, k_flt(k, l, 4.0)));
  KVal r = k_fma(k, q, k_flt(k, l, -0.25), turns), r2 = mul(k, r, r);
  KVal sine = mul(k, polynomial(k, r2, sc, 4), r), cosine = polynomial(k, r2, cc, 4);
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
  KVal t = mul(k, radians, k_flt(k, lanes_of(k, radians), 0.15915494309189535));
  k_sincos_turns(k, k_op2(k, K_sub, t, k_round(k, t)), s, c);
}
