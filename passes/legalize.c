/* legalize.c - rewrites a kernel for what its target lacks, so that printers need to know nothing:
 * fma becomes a product and a sum; 16-bit floats become their bits, converted by integer arithmetic.
 * needs: a kernel; keeps: meaning, but for fma's single rounding; leaves: no K_fma, no f16 where the row has
 * none */
#include "passes/passes.h"

typedef struct {
  const Target *target;
  const Kernel *from;
  Kernel *k;
  KVal *map; /* value of the old kernel -> of the new */
} Legal;

static KType legal_type(const Legal *l, KType t)
{
  if (t.elem == KE_f16 && !l->target->f16c)
    t.elem = KE_u16;
  return t;
}

static KVal with(Kernel *k, KOp op, KVal a, int64_t v)
{
  return k_op2(k, op, a, k_int(k, kernel_node(k, a)->type, v));
}

/* Exponent and fraction moved into place make a float 2^112 too small; subnormals come out right too. */
static KVal half_to_float(Kernel *k, KVal h)
{
  unsigned n = kernel_node(k, h)->type.lanes;
  KType u32 = ktype(KE_u32, n), f32 = ktype(KE_f32, n);
  KVal w = k_cast(k, KE_u32, h), em = with(k, K_and, w, 0x7fff), moved = k_shift(k, K_shl, em, 13);
  KVal value = k_op2(k, K_mul, k_bitcast(k, f32, moved), k_flt(k, n, 0x1p112));
  KVal special = k_op2(k, K_le, k_int(k, u32, 0x7c00), em);
  KVal bits = k_select(k, special, with(k, K_or, moved, 0x7f800000), k_bitcast(k, u32, value));
  KVal sign = k_shift(k, K_shl, with(k, K_and, w, 0x8000), 16);
  return k_bitcast(k, f32, k_op2(k, K_or, bits, sign));
}

/* Rounds to nearest even: by integer carry for normal results, by float addition for subnormal ones. */
static KVal float_to_half(Kernel *k, KVal f)
{
  unsigned n = kernel_node(k, f)->type.lanes;
  KType u32 = ktype(KE_u32, n), f32 = ktype(KE_f32, n);
  KVal bits = k_bitcast(k, u32, f), a = with(k, K_and, bits, 0x7fffffff);
  KVal odd = with(k, K_and, k_shift(k, K_shr, a, 13), 1);
  KVal normal = k_shift(k, K_shr, k_op2(k, K_add, with(k, K_add, a, 0xc8000fff), odd), 13);
  KVal small = k_op2(k, K_add, k_bitcast(k, f32, a), k_flt(k, n, 0.5));
  KVal sub = with(k, K_sub, k_bitcast(k, u32, small), 0x3f000000);
  KVal r = k_select(k, k_op2(k, K_lt, a, k_int(k, u32, 0x38800000)), sub, normal);
  r = k_select(k, k_op2(k, K_le, k_int(k, u32, 0x477ff000), a), k_int(k, u32, 0x7c00), r);
  r = k_select(k, k_op2(k, K_lt, k_int(k, u32, 0x7f800000), a), k_int(k, u32, 0x7e00), r);
  KVal sign = with(k, K_and, k_shift(k, K_shr, bits, 16), 0x8000);
  return k_cast(k, KE_u16, k_op2(k, K_or, r, sign));
}

static KVal legal_node(Legal *l, const KNode *n, KVal v)
{
  KVal a = n->in.count ? l->map[kernel_in(l->from, v, 0)] : 0;
  KElem from = n->in.count ? kernel_node(l->from, kernel_in(l->from, v, 0))->type.elem : KE_none;

  if (n->op == K_fma && !l->target->fma)
    return k_op2(l->k, K_add, k_op2(l->k, K_mul, a, l->map[kernel_in(l->from, v, 1)]),
                 l->map[kernel_in(l->from, v, 2)]);
  if (n->op == K_cast && !l->target->f16c && from == KE_f16)
    return k_cast(l->k, n->type.elem, half_to_float(l->k, a));
  if (n->op == K_cast && !l->target->f16c && n->type.elem == KE_f16)
    return float_to_half(l->k, k_cast(l->k, KE_f32, a));
  return kernel_copy_node(l->k, l->from, v, legal_type(l, n->type), l->map);
}

Kernel *pass_legalize(Arena *a, const Kernel *from, const Target *target)
{
  Legal l = {target, from, kernel_new(a, from->name), NEW_ARRAY(a, KVal, from->nodes.len)};

  l.k->scratch_bytes = from->scratch_bytes;
  for (uint32_t i = 0; i < from->params.len; i++) {
    const KParam *p = &from->params.data[i];
    kernel_param(l.k, p->name, legal_type(&l, ktype(p->elem, 1)).elem, p->access);
  }
  for (KVal v = 1; v < from->nodes.len; v++)
    l.map[v] = legal_node(&l, kernel_node(from, v), v);
  return l.k;
}
