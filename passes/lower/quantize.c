/* quantize.c - a block of 32 numbers to 8 bits: rows, attention and products end with it.
 *
 * Of a few scales the one with the least squared error is taken: the largest number becomes 127, 126, 125 or 124. All four are
 * nearly as fine as the finest, and how their errors fall is chance: the best is 15 % below the first on the average.
 * The scales are tried in a loop: the code is a quarter of four trials' side by side, and no slower. Their errors wait as vectors, and are
 * summed and compared side by side. */
#include "passes/lower/lower.h"

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
               lower_param(l, buffer, lay.ssum, KE_f32, access, "qssum"),
               type_last(t)};
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

/* The sums of `n` vectors, a power of two that is at most their lanes, as lanes of one: the first halves of what is left of
 * each vector are added to the second. */
static KVal sums_of(Kernel *k, KVal *v, unsigned n)
{
  unsigned lanes = kernel_node(k, v[0])->type.lanes;

  for (unsigned part = lanes; n > 1 || part > 1; part /= 2) {
    unsigned left = n > 1 ? lanes : lanes / 2, pairs = n > 1 ? n / 2 : 1;
    for (unsigned p = 0; p < pairs; p++) {
      KVal a = v[n > 1 ? 2 * p : 0], b = v[n > 1 ? 2 * p + 1 : 0];
      uint8_t first[K_MAX_LANES], second[K_MAX_LANES];
      for (unsigned i = 0; i < left; i++) {
        first[i] = (uint8_t)(i / (part / 2) * part + i % (part / 2));
        second[i] = (uint8_t)(first[i] + part / 2);
      }
      v[p] = k_op2(k, K_add, k_shuffle(k, a, b, first, left), k_shuffle(k, a, b, second, left));
    }
    n = pairs;
    lanes = left;
  }

  return v[0];
}

/* The squared error of what the largest number becomes, in units of its scale: summed later. */
static KVal error_of(Lower *l, const KVal *x, KVal inverse)
{
  Kernel *k = l->k;
  KVal error = 0, inv = k_splat(k, ktype(KE_f32, l->lanes), inverse);

  for (unsigned i = 0; i < QBLOCK / l->lanes; i++) {
    KVal t = mul(k, x[i], inv), e = k_op2(k, K_sub, t, k_round(k, t));
    error = error ? k_fma(k, e, e, error) : mul(k, e, e);
  }
  return error;
}

/* Of all trials, first to last: a queue of carries. */
static void trial_errors(Lower *l, const KVal *x, KVal inv_max, KVal *error)
{
  Kernel *k = l->k;
  KVal first = k_flt(k, 1, QUANT_TOP), none = k_flt(k, l->lanes, 0.0), next[1 + QUANT_TRIALS];

  (void)k_loop(k, k_idx(k, 0), k_idx(k, QUANT_TRIALS), 1);
  KVal top = k_carry(k, first);
  for (int i = 0; i < QUANT_TRIALS; i++)
    error[i] = k_carry(k, none);
  next[0] = k_op2(k, K_sub, top, k_flt(k, 1, 1.0));
  memcpy(next + 1, error + 1, (QUANT_TRIALS - 1) * sizeof *next);
  next[QUANT_TRIALS] = error_of(l, x, mul(k, inv_max, top));
  k_end(k, next, COUNT(next));
}

/* What the largest number becomes. */
static KVal best_top(Lower *l, const KVal *x, KVal inv_max)
{
  Kernel *k = l->k;
  KType four = ktype(KE_f32, QUANT_TRIALS);
  KVal error[QUANT_TRIALS];

  trial_errors(l, x, inv_max, error);
  KVal trial = k_cast(k, KE_f32, kernel_add(k, K_lane, ktype(KE_i32, QUANT_TRIALS), NULL, 0, 0));
  KVal top = k_op2(k, K_sub, k_flt(k, QUANT_TRIALS, QUANT_TOP), trial);
  KVal unit = k_op2(k, K_div, k_flt(k, QUANT_TRIALS, 1.0), top);
  KVal less = k_op1(k, K_neg, mul(k, sums_of(k, error, QUANT_TRIALS), mul(k, unit, unit)));
  KVal best = k_op2(k, K_le, k_splat(k, four, k_reduce(k, K_rmax, less)), less);
  return k_reduce(k, K_rmax, k_select(k, best, top, k_flt(k, QUANT_TRIALS, QUANT_TOP - QUANT_TRIALS + 1)));
}

int32_t lower_sum_bias(const Target *t)
{
  enum { SUM_BIAS_BITS = 0x4b400000 };
  return t->fma ? SUM_BIAS_BITS : 0;
}

static KVal start_of(Lower *l, KVal sum)
{
  KType i32 = ktype(KE_i32, 1);
  return k_op2(l->k, K_sub, k_int(l->k, i32, lower_sum_bias(l->target)),
               mul(l->k, sum, k_int(l->k, i32, QZERO)));
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
  KVal top = best_top(l, x, inv_max), s = mul(k, max, k_op2(k, K_div, one, top));
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
