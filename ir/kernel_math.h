/* kernel_math.h - shared by the files that expand functions in the kernel IR. Values are f32 or f64. */
#ifndef MICC_KERNEL_MATH_H
#define MICC_KERNEL_MATH_H

#include "ir/kernel.h"

#include <math.h>

static inline KType km_type(const Kernel *k, KVal v)
{
  return kernel_node(k, v)->type;
}

static inline KVal km_mul(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_mul, a, b);
}

static inline KVal km_add(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_add, a, b);
}

static inline KVal km_sub(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_sub, a, b);
}

/* a constant of the type of `like` */
static inline KVal km_num(Kernel *k, KVal like, double v)
{
  return k_real(k, km_type(k, like), v);
}

/* The integer type of the same bits. */
static inline KType km_bits(const Kernel *k, KVal v)
{
  KType t = km_type(k, v);
  return ktype(t.elem == KE_f64 ? KE_i64 : KE_i32, t.lanes);
}

KVal km_poly(Kernel *k, KVal x, const double *c, int n); /* n coefficients, the highest power first */
KVal km_copysign(Kernel *k, KVal size, KVal sign);

/* sin(r + pi/2 (q + quarters)) of sine and cosine of r; q is an integer of the same size. */
KVal km_quadrant(Kernel *k, KVal q, int quarters, KVal s, KVal c);

/* f64 (kernel_math64.c) */
KVal km_exp64(Kernel *k, KVal x);
KVal km_log64(Kernel *k, KVal x);
KVal km_tanh64(Kernel *k, KVal x);
KVal km_sine64(Kernel *k, KVal x, int quarters);
KVal km_erf64(Kernel *k, KVal x);
KVal km_pow64(Kernel *k, KVal x, KVal y, bool wide); /* not wide: good for a result in the range of f32 */

#endif
