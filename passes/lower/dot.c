/* dot.c - see dot.h. */
#include "passes/lower/dot.h"

enum { ACT_MAX = 127 };

DotPlan lower_dot_plan(const Target *t, DType codes)
{
  int range = dtype_info[codes].hi - dtype_info[codes].lo, safe = INT16_MAX / (2 * range * ACT_MAX);

  if (t->dot4 || t->loops)
    return (DotPlan){DOT4, 0};
  return safe ? (DotPlan){DOT2, safe} : (DotPlan){DOT2W, 0};
}

void lower_dot_flush(Lower *l, Dot *d)
{
  Kernel *k = l->k;

  if (!d->in16)
    return;
  KType t = kernel_node(k, d->sum16)->type;
  KVal wide = kernel_add(k, K_widen, ktype(KE_i32, t.lanes / 2u), &d->sum16, 1, 0);
  d->sum32 = d->sum32 ? k_op2(k, K_add, d->sum32, wide) : wide;
  d->in16 = 0;
}

static KVal even16(Kernel *k, KVal bytes, bool is_signed)
{
  KType t = ktype(is_signed ? KE_i16 : KE_u16, kernel_node(k, bytes)->type.lanes / 2u);
  return k_shift(k, K_shr, k_shift(k, K_shl, k_bitcast(k, t, bytes), 8), 8);
}

static KVal odd16(Kernel *k, KVal bytes, bool is_signed)
{
  KType t = ktype(is_signed ? KE_i16 : KE_u16, kernel_node(k, bytes)->type.lanes / 2u);
  return k_shift(k, K_shr, k_bitcast(k, t, bytes), 8);
}

void lower_dot_group(Lower *l, DotPlan plan, Dot *d, KVal code, KVal x)
{
  Kernel *k = l->k;
  unsigned lanes = kernel_node(k, code)->type.lanes;
  KType i32 = ktype(KE_i32, lanes / 4), i16 = ktype(KE_i16, lanes / 2);

  if (plan.kind != DOT2 && !d->sum32)
    d->sum32 = k_int(k, i32, 0);
  switch (plan.kind) {
  case DOT4: d->sum32 = k_dot(k, K_dot4, d->sum32, code, x); break;
  case DOT2:
    if (!d->in16)
      d->sum16 = k_int(k, i16, 0);
    d->sum16 = k_dot(k, K_dot2, d->sum16, code, x);
    if (++d->in16 == plan.safe)
      lower_dot_flush(l, d);
    break;
  case DOT2W: {
    KVal s = k_dot(k, K_dot2w, d->sum32, k_bitcast(k, i16, even16(k, code, false)), even16(k, x, true));
    d->sum32 = k_dot(k, K_dot2w, s, k_bitcast(k, i16, odd16(k, code, false)), odd16(k, x, true));
    break;
  }
  }
}

KVal lower_dot_done(Lower *l, DotPlan plan, Dot *d, KVal correct)
{
  lower_dot_flush(l, d);
  return plan.kind == DOT2 && correct ? k_op2(l->k, K_add, d->sum32, correct) : d->sum32;
}
