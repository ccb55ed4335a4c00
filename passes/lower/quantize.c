/* quantize.c - a block of 32 numbers to 8 bits: rows, attention and products end with it.
 *
 * Of a few scales the one with the least squared error is taken: the largest number becomes 127, 126, 125 or 124. All four are
 * nearly as fine as the finest, and how their errors fall is chance: the best is 15 % below the first on the average.
 * The scales are tried in a loop: the code is a quarter of four trials' side by side, and no slower. */
#include "passes/lower/lower.h"

#include <math.h>

enum { QUANT_TOP = 127, QUANT_TRIALS = 4 };

Q8a lower_q8a_value(Lower *l, Val v, KAccess access)
{
  const Type *t = &graph_node(l->g, v)->type;
  Q8aLayout lay = lower_q8a(type_rows(t), type_last(t));
  uint32_t buffer = lower_place(l, lower_base(l, v))->buffer;

  return (Q8a){lower_param(l, buffer, 0, KE_i8, access, "q"),
               lower_param(l, buffer, lay.scale, KE_f32, access, "qscale"),
               lower_param(l, buffer, lay.start, KE_i32, access, "qstart"),
               lower_param(l, buffer, lay.start16, KE_i32, access, "qstart16"),
               lower_param(l, buffer, lay.ssum, KE_f32, access, "qssum"), type_last(t)};
}

static KVal mul(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_mul, a, b);
}

static KVal sum_of(Kernel *k, const KVal *codes, unsigned n)
{
  KVal s = codes[0];
  for (unsigned i = 1; i < n; i++)
    s = k_op2(k, K_add, s, codes[i]);
  return k_reduce(k, K_sum, s);
}

static KVal block_max(Lower *l, const KVal *x)
{
  Kernel *k = l->k;
  KVal max = k_op1(k, K_abs, x[0]);

  for (unsigned i = 1; i < QBLOCK / l->lanes; i++)
    max = k_op2(k, K_max, max, k_op1(k, K_abs, x[i]));
  return k_reduce(k, K_rmax, max);
}

/* The squared error of a scale. */
static KVal error_of(Lower *l, const KVal *x, KVal scale, KVal inverse)
{
  Kernel *k = l->k;
  KType t = ktype(KE_f32, l->lanes);
  KVal error = 0, s = k_splat(k, t, scale), inv = k_splat(k, t, inverse);

  for (unsigned i = 0; i < QBLOCK / l->lanes; i++) {
    KVal e = k_op2(k, K_sub, x[i], mul(k, k_round(k, mul(k, x[i], inv)), s));
    error = error ? k_fma(k, e, e, error) : mul(k, e, e);
  }
  return k_reduce(k, K_sum, error);
}

/* What the largest number becomes. */
static KVal best_top(Lower *l, const KVal *x, KVal max, KVal inv_max)
{
  Kernel *k = l->k;
  KVal one = k_flt(k, 1, 1.0), first = k_flt(k, 1, QUANT_TOP), none = k_flt(k, 1, INFINITY);

  (void)k_loop(k, k_idx(k, 0), k_idx(k, QUANT_TRIALS), 1);
  KVal top = k_carry(k, first), best = k_carry(k, first), least = k_carry(k, none);
  KVal error = error_of(l, x, mul(k, max, k_op2(k, K_div, one, top)), mul(k, inv_max, top));
  KVal better = k_op2(k, K_lt, error, least);
  KVal next[] = {k_op2(k, K_sub, top, one), k_select(k, better, top, best),
                 k_select(k, better, error, least)};
  k_end(k, next, COUNT(next));
  return best;
}

int32_t lower_sum_bias(const Target *t)
{
  enum { SUM_BIAS_BITS = 0x4b400000 };
  return t->fma ? SUM_BIAS_BITS : 0;
}

static KVal start_of(Lower *l, KVal sum)
{
  KType i32 = ktype(KE_i32, 1);
  return k_op2(l->k, K_sub, k_int(l->k, i32, lower_sum_bias(l->target)), mul(l->k, sum, k_int(l->k, i32, QZERO)));
}

KVal lower_start_to_sum(Lower *l, KVal start)
{
  KVal less = k_op2(l->k, K_sub, k_int(l->k, ktype(KE_i32, 1), lower_sum_bias(l->target)), start);
  return k_shift(l->k, K_shr, less, QZERO_BITS);
}

void lower_quant_block(Lower *l, const Q8a *to, KVal block, const KVal *x)
{
  Kernel *k = l->k;
  unsigned n = QBLOCK / l->lanes;
  KVal code[QBLOCK / 4] = {0}, one = k_flt(k, 1, 1.0), zero = k_flt(k, 1, 0.0), max = block_max(l, x);
  KVal inv_max = k_select(k, k_op2(k, K_lt, zero, max), k_op2(k, K_div, one, max), zero);
  KVal top = best_top(l, x, max, inv_max), s = mul(k, max, k_op2(k, K_div, one, top));
  KVal inv = k_splat(k, ktype(KE_f32, l->lanes), mul(k, inv_max, top));

  for (unsigned i = 0; i < n; i++) {
    code[i] = k_cast(k, KE_i32, k_round(k, mul(k, x[i], inv)));
    k_store(k, to->q, idx_mul(k, block, QBLOCK), i * l->lanes, k_cast(k, KE_i8, code[i]));
  }
  KVal lo = sum_of(k, code, n / 2), hi = sum_of(k, code + n / 2, n / 2);
  k_store(k, to->scale, block, 0, s);
  KVal sum = k_op2(k, K_add, lo, hi);
  k_store(k, to->start, block, 0, start_of(l, sum));
  k_store(k, to->start16, idx_mul(k, block, 2), 0, start_of(l, lo));
  k_store(k, to->start16, idx_mul(k, block, 2), 1, start_of(l, hi));
  k_store(k, to->ssum, block, 0, mul(k, s, k_cast(k, KE_f32, sum)));
}
