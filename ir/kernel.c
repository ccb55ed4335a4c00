/* kernel.c - building kernels. See kernel.h. */
#include "ir/kernel.h"

#include <assert.h>

/* clang-format off */
const KElemInfo kelem_info[KE_COUNT] = {
    [KE_none] = {"none", 0, false, false}, [KE_bool] = {"bool", 1, false, false},
    [KE_i8]   = {"i8",   1, false, true},  [KE_u8]   = {"u8",   1, false, false},
    [KE_i16]  = {"i16",  2, false, true},  [KE_u16]  = {"u16",  2, false, false},
    [KE_i32]  = {"i32",  4, false, true},  [KE_u32]  = {"u32",  4, false, false},
    [KE_i64]  = {"i64",  8, false, true},  [KE_u64]  = {"u64",  8, false, false},
    [KE_idx]  = {"idx",  8, false, true},  [KE_f16]  = {"f16",  2, true,  true},
    [KE_bf16] = {"bf16", 2, true,  true},  [KE_f32]  = {"f32",  4, true,  true},
    [KE_f64]  = {"f64",  8, true,  true},
};
/* clang-format on */

const KOpInfo kop_info[K_COUNT] = {
#define KOP(name, inputs, imm, type, doc) [K_##name] = {#name, inputs, KI_##imm, KT_##type, doc},
#include "ir/kernel_ops.def"
#undef KOP
};

Kernel *kernel_new(Arena *a, const char *name)
{
  Kernel *k = NEW(a, Kernel);
  k->arena = a;
  k->name = arena_strdup(a, name);
  (void)PUSH(a, k->nodes); /* the none node; arena memory is zeroed */
  return k;
}

uint16_t kernel_param(Kernel *k, const char *name, KElem elem, KAccess access)
{
  KParam *p = PUSH(k->arena, k->params);
  *p = (KParam){arena_strdup(k->arena, name), elem, access};
  return (uint16_t)(k->params.len - 1);
}

KVal kernel_add(Kernel *k, KOp op, KType type, const KVal *in, uint32_t n_in, int64_t imm)
{
  KVal v = k->nodes.len;
  KNode *n = PUSH(k->arena, k->nodes);

  *n = (KNode){.op = (uint8_t)op, .type = type, .in = {k->edges.len, n_in}, .imm.i = imm};
  for (uint32_t i = 0; i < n_in; i++) {
    assert(op == K_shuffle || (in[i] && in[i] < v));
    *PUSH(k->arena, k->edges) = in[i];
  }
  return v;
}

KVal kernel_copy_node(Kernel *k, const Kernel *from, KVal v, KType type, const KVal *map)
{
  const KNode *n = kernel_node(from, v);
  uint32_t in[2 + K_MAX_LANES], many = n->in.count;
  uint32_t *p = many <= COUNT(in) ? in : NEW_ARRAY(k->arena, uint32_t, many);

  for (uint32_t i = 0; i < many; i++) {
    uint32_t x = kernel_in(from, v, i);
    p[i] = n->op == K_shuffle && i >= 2 ? x : map[x]; /* lane numbers follow the values */
  }
  KVal out = kernel_add(k, n->op, type, p, many, 0);
  kernel_node(k, out)->imm = n->imm;
  kernel_node(k, out)->buf = n->buf;
  return out;
}

#ifndef NDEBUG
static void must_fit(const Kernel *k, KVal v)
{
  Err e = {0};
  bool ok = kernel_check_node(k, v, &e);
  assert(ok);
}
#else
#define must_fit(k, v) (void)0
#endif

static KVal put(Kernel *k, KOp op, KType type, const KVal *in, uint32_t n_in, int64_t imm)
{
  KVal v = kernel_add(k, op, type, in, n_in, imm);
  if (kop_info[op].imm != KI_MEM) /* memory ops are checked when their parameter is set */
    must_fit(k, v);
  return v;
}

static KType vtype(const Kernel *k, KVal v)
{
  return kernel_node(k, v)->type;
}

/* ---- builders */

KVal k_grid(Kernel *k)
{
  return put(k, K_grid, ktype(KE_idx, 1), NULL, 0, 0);
}

KVal k_arg(Kernel *k, int n)
{
  return k_cast(k, KE_idx, put(k, K_arg, ktype(KE_i32, 1), NULL, 0, n));
}

KVal k_int(Kernel *k, KType t, int64_t v)
{
  return put(k, K_const, t, NULL, 0, v);
}

KVal k_real(Kernel *k, KType t, double v)
{
  KVal c = put(k, K_const, t, NULL, 0, 0);
  kernel_node(k, c)->imm.f = t.elem == KE_f32 ? (double)(float)v : v;
  return c;
}

KVal k_flt(Kernel *k, unsigned lanes, double v)
{
  return k_real(k, ktype(KE_f32, lanes), v);
}

KVal k_idx(Kernel *k, int64_t v)
{
  return k_int(k, ktype(KE_idx, 1), v);
}

KVal k_loop(Kernel *k, KVal lo, KVal hi, int64_t step)
{
  KVal in[] = {lo, hi};
  return put(k, K_loop, ktype(KE_idx, 1), in, 2, step);
}

KVal k_carry(Kernel *k, KVal first)
{
  return put(k, K_carry, vtype(k, first), &first, 1, 0);
}

void k_end(Kernel *k, const KVal *next, uint32_t n)
{
  put(k, K_end, (KType){0}, next, n, 0);
}

void k_if(Kernel *k, KVal cond)
{
  put(k, K_if, (KType){0}, &cond, 1, 0);
}

void k_else(Kernel *k)
{
  put(k, K_else, (KType){0}, NULL, 0, 0);
}

KVal k_load(Kernel *k, KType t, uint16_t buf, KVal at, int64_t off)
{
  KVal v = put(k, K_load, t, &at, 1, off);
  kernel_node(k, v)->buf = buf;
  must_fit(k, v);
  return v;
}

void k_store(Kernel *k, uint16_t buf, KVal at, int64_t off, KVal value)
{
  KVal in[] = {at, value};
  KVal v = put(k, K_store, (KType){0}, in, 2, off);
  kernel_node(k, v)->buf = buf;
  must_fit(k, v);
}

void k_prefetch(Kernel *k, uint16_t buf, KVal at, int64_t off)
{
  KVal v = put(k, K_prefetch, (KType){0}, &at, 1, off);
  kernel_node(k, v)->buf = buf;
  must_fit(k, v);
}

KVal k_splat(Kernel *k, KType t, KVal scalar)
{
  return ktype_eq(vtype(k, scalar), t) ? scalar : put(k, K_splat, t, &scalar, 1, 0);
}

KVal k_extract(Kernel *k, KVal v, unsigned lane)
{
  return put(k, K_extract, ktype(vtype(k, v).elem, 1), &v, 1, lane);
}

KVal k_shuffle(Kernel *k, KVal a, KVal b, const uint8_t *lanes, unsigned n)
{
  uint32_t in[2 + 256];
  in[0] = a;
  in[1] = b;
  for (unsigned i = 0; i < n; i++)
    in[2 + i] = lanes[i];
  return put(k, K_shuffle, ktype(vtype(k, a).elem, n), in, 2 + n, 0);
}

KVal k_op1(Kernel *k, KOp op, KVal a)
{
  return put(k, op, vtype(k, a), &a, 1, 0);
}

KVal k_op2(Kernel *k, KOp op, KVal a, KVal b)
{
  KVal in[] = {a, b};
  KType t = kop_info[op].type == KT_COND ? ktype(KE_bool, vtype(k, a).lanes) : vtype(k, a);
  return put(k, op, t, in, 2, 0);
}

KVal k_fma(Kernel *k, KVal a, KVal b, KVal c)
{
  KVal in[] = {a, b, c};
  return put(k, K_fma, vtype(k, a), in, 3, 0);
}

KVal k_shift(Kernel *k, KOp op, KVal a, int64_t by)
{
  return put(k, op, vtype(k, a), &a, 1, by);
}

KVal k_select(Kernel *k, KVal c, KVal a, KVal b)
{
  KVal in[] = {c, a, b};
  return put(k, K_select, vtype(k, a), in, 3, 0);
}

KVal k_cast(Kernel *k, KElem to, KVal v)
{
  KType t = vtype(k, v);
  return t.elem == to ? v : put(k, K_cast, ktype(to, t.lanes), &v, 1, 0);
}

KVal k_cast_sat(Kernel *k, KElem to, KVal v)
{
  KType t = vtype(k, v);
  bool cuts = kelem_info[t.elem].is_float && kelem_is_int(to);
  return cuts ? put(k, K_cast_sat, ktype(to, t.lanes), &v, 1, 0) : k_cast(k, to, v);
}

KVal k_bitcast(Kernel *k, KType to, KVal v)
{
  return ktype_eq(vtype(k, v), to) ? v : put(k, K_bitcast, to, &v, 1, 0);
}

KVal k_dot(Kernel *k, KOp op, KVal sum, KVal a, KVal b)
{
  KVal in[] = {sum, a, b};
  return put(k, op, vtype(k, sum), in, 3, 0);
}

KVal k_reduce(Kernel *k, KOp op, KVal v)
{
  KType t = vtype(k, v);
  return t.lanes == 1 ? v : put(k, op, ktype(t.elem, 1), &v, 1, 0);
}
