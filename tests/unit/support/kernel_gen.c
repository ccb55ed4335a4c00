/* kernel_gen.c - see kernel_gen.h. Statements are drawn from a table; their inputs are drawn from the
 * values in scope, or made when there is none of the type. */
#include "tests/unit/support/kernel_gen.h"

#include <math.h>

enum {
  P_FLOATS,  /* f32 read */
  P_BYTES,   /* u8 read */
  P_WORDS,   /* i16 read */
  P_OUT,     /* f32 write: an iteration's own OUT_ELEMS */
  P_BOTH,    /* u8 both: an iteration's own BOTH_BYTES, of integers, bools and 16-bit floats */
  P_SCRATCH, /* i32 scratch */
  P_DOUBLES, /* f64 read */
  P_OUT64,   /* f64 write, as P_OUT */
  IN_BYTES = 4096,
  OUT_ELEMS = 320,
  BOTH_BYTES = 1600,
  SCRATCH_BYTES = 2048,
  GRID = 3,
  MAX_VALUES = 400,
  MAX_DEPTH = 3,
  VAR = 16 /* a drawn index adds 0 .. VAR-1 */
};

typedef struct {
  KType type;
  int64_t off;
} Slot;

typedef struct {
  Kernel *k;
  uint64_t state;
  unsigned features;
  KVal value[MAX_VALUES]; /* in scope */
  int n_values;
  Slot slot[32]; /* of scratch, written in scope */
  int n_slots;
  int64_t scratch_used;
  KVal grid;
  int depth, budget;
} Gen;

static uint32_t draw(Gen *g, uint32_t below)
{
  g->state = g->state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(g->state >> 33) % below;
}

static KType vtype(const Gen *g, KVal v)
{
  return kernel_node(g->k, v)->type;
}

static bool is_int(KElem e)
{
  return kelem_is_int(e) && e != KE_idx;
}

static KVal keep(Gen *g, KVal v)
{
  if (g->n_values < MAX_VALUES)
    g->value[g->n_values++] = v;
  return v;
}

static unsigned draw_lanes(Gen *g, unsigned max)
{
  static const uint8_t lanes[] = {1, 1, 1, 2, 4, 4, 8, 8, 16, 32, 64, 3, 24};
  unsigned n;
  do
    n = lanes[draw(g, g->features & KERNEL_GEN_ODD ? COUNT(lanes) : COUNT(lanes) - 2)];
  while (n > max);
  return n;
}

static KElem draw_int(Gen *g)
{
  return (KElem)(KE_i8 + draw(g, KE_u64 - KE_i8 + 1));
}

static KElem draw_elem(Gen *g)
{
  return draw(g, 2) ? draw(g, 4) ? KE_f32 : KE_f64 : draw_int(g);
}

/* A value in scope for which the test holds; the newer the likelier. 0 if there is none. */
static KVal find(Gen *g, bool (*test)(KType t, KType like), KType like)
{
  KVal found = 0;
  for (int i = g->n_values, seen = 0; i-- && seen < 4;)
    if (test(vtype(g, g->value[i]), like) && (!seen++ || draw(g, 3) == 0))
      found = g->value[i];
  return found;
}

static bool test_same(KType t, KType like)
{
  return ktype_eq(t, like);
}

static bool test_elem(KType t, KType like)
{
  return t.elem == like.elem;
}

static bool test_number(KType t, KType like)
{
  (void)like;
  return is_int((KElem)t.elem) || kelem_is_real(t.elem);
}

static bool test_storable(KType t, KType like)
{
  (void)like;
  return t.elem != KE_idx;
}

static bool test_any(KType t, KType like)
{
  (void)t;
  (void)like;
  return true;
}

/* ---- values out of nothing */

static KVal constant(Gen *g, KType t)
{
  static const int64_t special[] = {0,     1,     -1,        127,       128,       255,
                                    32767, 65535, INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN};

  if (kelem_is_real(t.elem))
    return k_real(g->k, t, draw(g, 8) ? (draw(g, 2001) - 1000.0) / 128 : draw(g, 2) ? -0.0 : 1e30);
  if (t.elem == KE_bool)
    return k_int(g->k, t, draw(g, 2));
  int64_t i = draw(g, 2) ? special[draw(g, COUNT(special))] : (int64_t)draw(g, 200) - 100;
  unsigned bits = 8u * kelem_info[t.elem].bytes;
  if (t.elem != KE_idx) /* as its element has it, so that it can be read back from text */
    i = (int64_t)((uint64_t)i << (64 - bits)) >> (64 - bits);
  if (!kelem_info[t.elem].is_signed)
    i &= (int64_t)(UINT64_MAX >> (64 - bits));
  return k_int(g->k, t, i);
}

static KVal small_index(Gen *g)
{
  KVal v = find(g, test_same, ktype(KE_idx, 1));
  return v ? k_op2(g->k, K_and, v, k_idx(g->k, VAR - 1)) : k_idx(g->k, draw(g, VAR));
}

static uint16_t input_param(Gen *g, KElem e)
{
  if (kelem_is_real(e))
    return e == KE_f32 ? P_FLOATS : P_DOUBLES;
  return e == KE_f16 || e == KE_bf16 ? P_WORDS : (uint16_t)(P_BYTES + draw(g, 2));
}

static KVal load_input(Gen *g, KType t)
{
  uint16_t p = input_param(g, (KElem)t.elem);
  uint32_t size = kelem_info[g->k->params.data[p].elem].bytes;
  int64_t last = (IN_BYTES - ktype_bytes(t)) / size - VAR;
  if (!draw(g, 8))
    k_prefetch(g->k, p, small_index(g), draw(g, 1 << 20)); /* anywhere */
  return k_load(g->k, t, p, small_index(g), draw(g, (uint32_t)last + 1));
}

/* Places of this iteration in the buffer that takes values of the type. */
static KVal own_index(Gen *g, bool floats)
{
  KVal base = k_op2(g->k, K_mul, g->grid, k_idx(g->k, floats ? OUT_ELEMS : BOTH_BYTES));
  return draw(g, 2) ? base : k_op2(g->k, K_add, base, small_index(g));
}

static int64_t own_offset(Gen *g, KType t)
{
  int64_t last = kelem_is_real(t.elem) ? OUT_ELEMS - t.lanes : BOTH_BYTES - (int64_t)ktype_bytes(t);
  return draw(g, (uint32_t)(last - VAR) + 1);
}

static KVal make(Gen *g, KType t)
{
  uint32_t how = draw(g, 8);

  if (t.elem == KE_idx)
    return k_idx(g->k, (int64_t)draw(g, 20) - 4);
  if ((t.elem == KE_bool && how) || (how == 0 && t.elem != KE_f16 && t.elem != KE_bf16))
    return constant(g, t);
  if (how == 1 && is_int((KElem)t.elem))
    return kernel_add(g->k, K_lane, t, NULL, 0, 0);
  if (how == 2 && !kelem_is_real(t.elem))
    return k_load(g->k, t, P_BOTH, own_index(g, false), own_offset(g, t));
  return load_input(g, t);
}

static KVal get(Gen *g, KType t)
{
  KVal v = draw(g, 8) ? find(g, test_same, t) : 0;
  return v ? v : keep(g, make(g, t));
}

/* Without NaN, and within what an integer of the element holds. */
static KVal tame(Gen *g, KVal v, KElem to)
{
  KType t = vtype(g, v);
  double hi = to == KE_i8 ? 100 : to == KE_u8 ? 200 : to == KE_f16 || to == KE_bf16 ? 70000 : 30000;
  double lo = kelem_info[to].is_signed ? -hi : 0;
  return k_op2(g->k, K_min, k_op2(g->k, K_max, v, k_real(g->k, t, lo)), k_real(g->k, t, hi));
}

static KVal less_than(Gen *g, KVal v, int64_t n)
{
  return k_op2(g->k, K_and, v, k_int(g->k, vtype(g, v), n - 1));
}

/* ---- statements: each adds a value or a store */

typedef void Statement(Gen *g);

static KType draw_type(Gen *g)
{
  KElem e = draw_elem(g);
  return ktype(e, draw_lanes(g, 64));
}

static KVal draw_number(Gen *g)
{
  KVal v = find(g, test_number, (KType){0});
  return v && draw(g, 4) ? v : get(g, draw_type(g));
}

static void do_arith(Gen *g)
{
  static const KOp ops[] = {K_add, K_sub, K_mul, K_min, K_max};
  KVal a = draw_number(g);
  keep(g, k_op2(g->k, ops[draw(g, COUNT(ops))], a, get(g, vtype(g, a))));
}

static void do_unary(Gen *g)
{
  static const KOp ops[] = {K_neg, K_abs, K_pin};
  KVal a = draw_number(g);
  keep(g, k_op1(g->k, ops[draw(g, COUNT(ops))], a));
}

static void do_float(Gen *g)
{
  static const KOp ops[] = {K_sqrt, K_floor, K_ceil, K_trunc, K_round};
  KType t = ktype(draw(g, 3) ? KE_f32 : KE_f64, draw_lanes(g, 64));
  KVal a = get(g, t);

  if (g->features & KERNEL_GEN_FMA && draw(g, 2))
    keep(g, k_fma(g->k, a, get(g, t), get(g, t)));
  else if (draw(g, 3) == 0)
    keep(g, k_op2(g->k, K_div, a, get(g, t)));
  else
    keep(g, k_op1(g->k, ops[draw(g, COUNT(ops))], a));
}

static void do_division(Gen *g)
{
  KType t = draw(g, 4) ? ktype(draw_int(g), draw_lanes(g, 64)) : ktype(KE_idx, 1);
  KVal a = get(g, t), b = draw(g, 3) ? get(g, t) : k_int(g->k, t, 1 + (int64_t)draw(g, 100));
  if (draw(g, 2))
    b = less_than(g, b, 4);
  keep(g, k_op2(g->k, draw(g, 2) ? K_div : K_rem, a, b));
}

static void do_bits(Gen *g)
{
  static const KOp ops[] = {K_and, K_or, K_xor, K_shl, K_shr, K_shlv, K_shrv};
  KOp op = ops[draw(g, COUNT(ops))];
  KType t = ktype(draw(g, 5) ? draw_int(g) : op < K_shl ? KE_bool : KE_i16, draw_lanes(g, 64));
  KVal a = get(g, t);

  if (op == K_shl || op == K_shr)
    keep(g, k_shift(g->k, op, a, draw(g, 8u * kelem_info[t.elem].bytes)));
  else if (op == K_shlv || op == K_shrv)
    keep(g, k_op2(g->k, op, a, draw(g, 2) ? less_than(g, get(g, t), 64) : get(g, t)));
  else
    keep(g, k_op2(g->k, op, a, get(g, t)));
}

static void do_compare(Gen *g)
{
  static const KOp ops[] = {K_lt, K_le, K_eq};
  KVal a = draw(g, 8) ? draw_number(g) : get(g, ktype(KE_bool, draw_lanes(g, 64)));
  KOp op = vtype(g, a).elem == KE_bool ? K_eq : ops[draw(g, COUNT(ops))];
  keep(g, k_op2(g->k, op, a, get(g, vtype(g, a))));
}

static void do_select(Gen *g)
{
  KVal a = draw_number(g);
  KType t = vtype(g, a);
  KVal c = get(g, ktype(KE_bool, t.lanes));
  keep(g, k_select(g->k, c, a, get(g, t)));
}

static void do_splat(Gen *g)
{
  KType t = draw_type(g);
  bool dwords = (t.elem == KE_i8 || t.elem == KE_u8) && t.lanes % 4 == 0 && draw(g, 2);
  keep(g, k_splat(g->k, t, get(g, ktype(dwords ? KE_i32 : (KElem)t.elem, 1))));
}

static void do_extract(Gen *g)
{
  KVal a = find(g, test_any, (KType){0});
  if (a)
    keep(g, k_extract(g->k, a, draw(g, vtype(g, a).lanes)));
}

static void do_shuffle(Gen *g)
{
  KVal a = find(g, test_any, (KType){0});
  uint8_t lanes[64];

  if (!a || vtype(g, a).elem == KE_idx)
    return;
  unsigned n = draw_lanes(g, 64), n_in = vtype(g, a).lanes, start = draw(g, 2 * n_in);
  for (unsigned i = 0, kind = draw(g, 3); i < n; i++)
    lanes[i] = (uint8_t)(kind == 0   ? draw(g, 2 * n_in)
                         : kind == 1 ? (start + i) % (2 * n_in)
                                     : (i / 2 + (i % 2) * n_in) % (2 * n_in));
  keep(g, k_shuffle(g->k, a, get(g, vtype(g, a)), lanes, n));
}

static void do_reduce(Gen *g)
{
  KVal a = draw_number(g);
  unsigned n = vtype(g, a).lanes;
  if (!(n & (n - 1)))
    keep(g, k_reduce(g->k, draw(g, 2) ? K_sum : K_rmax, a));
}

static void cast_half(Gen *g, KVal a)
{
  KElem half = g->features & KERNEL_GEN_F16 && draw(g, 2) ? KE_f16 : KE_bf16, to = draw_elem(g);

  if (draw(g, 2)) {
    keep(g, k_cast(g->k, half, kelem_is_real(vtype(g, a).elem) ? tame(g, a, half) : a));
    return;
  }
  a = get(g, ktype(half, vtype(g, a).lanes)); /* any bits */
  if (kelem_is_real(to))
    keep(g, k_cast(g->k, to, a));
  else
    keep(g, draw(g, 2) ? k_cast_sat(g->k, to, a) : k_cast(g->k, to, tame(g, k_cast(g->k, KE_f32, a), to)));
}

static void do_cast(Gen *g)
{
  KVal a = draw_number(g);
  KElem from = (KElem)vtype(g, a).elem, to = draw_elem(g);

  switch (draw(g, 6)) {
  case 0: cast_half(g, a); return;
  case 1: keep(g, k_cast(g->k, KE_bool, a)); return;
  case 2: keep(g, k_cast(g->k, to, get(g, ktype(KE_bool, vtype(g, a).lanes)))); return;
  default: break;
  }
  if (kelem_is_real(from) && is_int(to) && draw(g, 2))
    keep(g, k_cast_sat(g->k, to, a));
  else
    keep(g, k_cast(g->k, to, kelem_is_real(from) && is_int(to) ? tame(g, a, to) : a));
}

static void do_index(Gen *g)
{
  KVal i = get(g, ktype(KE_i32, 1));
  KVal a = k_cast(g->k, KE_idx, i);
  KVal b = k_op2(g->k, K_add, a, get(g, ktype(KE_idx, 1)));
  keep(g, b);
  keep(g, k_cast(g->k, KE_i32, b));
}

static void do_bitcast(Gen *g)
{
  static const uint8_t of_size[9][2] = {
      {0}, {KE_i8, KE_u8}, {KE_i16, KE_u16}, {0}, {KE_i32, KE_f32}, {0}, {0}, {0}, {KE_i64, KE_f64}};
  KVal a = draw_number(g);
  KType t = vtype(g, a);
  uint32_t size = 1u << draw(g, 4);

  if (kelem_is_real(t.elem)) /* NaN has no bits to rely on */
    a = tame(g, a, KE_i16);
  while (ktype_bytes(t) % size)
    size /= 2;
  if (ktype_bytes(t) / size > K_MAX_LANES)
    return;
  KElem to = (KElem)of_size[size][draw(g, 2)];
  keep(g, k_bitcast(g->k, ktype(to, ktype_bytes(t) / size), a));
}

static void do_dot(Gen *g)
{
  static const KOp ops[] = {K_dot4, K_dot2, K_dot2w};
  KOp op = ops[draw(g, 3)];
  unsigned n = draw_lanes(g, op == K_dot4 ? 16 : 32), ways = op == K_dot4 ? 4 : 2;

  if (op == K_dot2w) {
    KType t = ktype(KE_i16, n * 2);
    KVal a = get(g, t), b = get(g, t);
    keep(g, k_dot(g->k, op, get(g, ktype(KE_i32, n)), a, b));
    return;
  }
  KVal a = less_than(g, get(g, ktype(KE_u8, n * ways)), op == K_dot4 ? 128 : 16);
  KVal b = get(g, ktype(KE_i8, n * ways));
  KVal sum = op == K_dot4 ? get(g, ktype(KE_i32, n)) : k_int(g->k, ktype(KE_i16, n), draw(g, 100));
  for (uint32_t i = op == K_dot4 ? 0 : draw(g, 4), j = 0; j <= i; j++)
    sum = k_dot(g->k, op, sum, a, b);
  keep(g, sum);
}

static void do_widen(Gen *g)
{
  KVal a = get(g, ktype(KE_i16, 2 * draw_lanes(g, 32)));
  KVal in[] = {a};
  keep(g, kernel_add(g->k, K_widen, ktype(KE_i32, vtype(g, a).lanes / 2u), in, 1, 0));
}

static void store(Gen *g, KVal v)
{
  KType t = vtype(g, v);
  bool reals = kelem_is_real(t.elem);

  if (t.elem == KE_idx)
    store(g, k_cast(g->k, draw(g, 2) ? KE_i32 : KE_i64, v));
  else
    k_store(g->k,
            !reals             ? P_BOTH
            : t.elem == KE_f32 ? P_OUT
                               : P_OUT64,
            own_index(g, reals), own_offset(g, t), v);
}

static void do_store(Gen *g)
{
  KVal v = find(g, test_any, (KType){0});
  if (v)
    store(g, v);
}

/* Each slot is written once, so that a load behind it has one answer. */
static void do_scratch(Gen *g)
{
  if (g->n_slots && draw(g, 2)) {
    Slot s = g->slot[draw(g, (uint32_t)g->n_slots)];
    keep(g, k_load(g->k, s.type, P_SCRATCH, k_idx(g->k, 1), s.off - 1));
    return;
  }
  KVal v = find(g, test_storable, (KType){0});
  int64_t words = v ? (ktype_bytes(vtype(g, v)) + 3) / 4 : 0;
  if (!v || g->n_slots == COUNT(g->slot) || g->scratch_used + words > SCRATCH_BYTES / 4)
    return;
  k_store(g->k, P_SCRATCH, k_idx(g->k, g->scratch_used), 0, v);
  g->slot[g->n_slots++] = (Slot){vtype(g, v), g->scratch_used};
  g->scratch_used += words;
}

/* ---- structure */

static void block(Gen *g, int statements);

/* What a body leaves in scope: nothing. */
typedef struct {
  int n_values, n_slots;
} Scope;

static Scope enter(Gen *g)
{
  g->depth++;
  return (Scope){g->n_values, g->n_slots};
}

static void leave(Gen *g, Scope s)
{
  g->depth--;
  g->n_values = s.n_values;
  g->n_slots = s.n_slots;
}

static KType draw_carried(Gen *g)
{
  static const uint8_t elems[] = {KE_f32, KE_f32, KE_f64, KE_i32, KE_i16, KE_u8, KE_i64, KE_bool, KE_idx};
  KElem e = (KElem)elems[draw(g, COUNT(elems))];
  return ktype(e, e == KE_idx ? 1 : draw_lanes(g, 64));
}

static void do_loop(Gen *g)
{
  KVal carry[4], first[4], next[4];
  uint32_t n = draw(g, 4);
  KVal lo = draw(g, 2) ? k_idx(g->k, (int64_t)draw(g, 4) - 1) : small_index(g);
  KVal hi = draw(g, 2) ? k_op2(g->k, K_add, lo, k_idx(g->k, draw(g, 5)))
                       : less_than(g, get(g, ktype(KE_idx, 1)), 8);

  for (uint32_t i = 0; i < n; i++) /* two of a type can swap */
    first[i] = get(g, i && draw(g, 2) ? vtype(g, first[i - 1]) : draw_carried(g));
  KVal index = k_loop(g->k, lo, hi, 1 + draw(g, 3));
  for (uint32_t i = 0; i < n; i++)
    carry[i] = k_carry(g->k, first[i]);
  Scope s = enter(g);
  keep(g, index);
  for (uint32_t i = 0; i < n; i++)
    keep(g, carry[i]);
  block(g, 3 + (int)draw(g, 8));
  for (uint32_t i = 0; i < n; i++)
    next[i] = get(g, vtype(g, carry[i]));
  k_end(g->k, next, n);
  leave(g, s);
  for (uint32_t i = 0; i < n; i++)
    keep(g, carry[i]);
}

static void do_if(Gen *g)
{
  KVal c = draw(g, 4) ? find(g, test_same, ktype(KE_bool, 1)) : 0;

  if (!c) {
    KVal any = find(g, test_elem, ktype(KE_bool, 1));
    c = any ? k_extract(g->k, any, draw(g, vtype(g, any).lanes))
            : k_op2(g->k, K_lt, get(g, ktype(KE_i32, 1)), get(g, ktype(KE_i32, 1)));
  }
  k_if(g->k, c);
  Scope s = enter(g);
  block(g, 1 + (int)draw(g, 4));
  do_store(g);
  leave(g, s);
  if (draw(g, 2)) {
    k_else(g->k);
    s = enter(g);
    block(g, 1 + (int)draw(g, 4));
    do_store(g);
    leave(g, s);
  }
  k_end(g->k, NULL, 0);
}

static Statement *const statements[] = {
    do_arith,   do_arith,   do_arith, do_unary,   do_float,   do_float,   do_division, do_bits,
    do_compare, do_select,  do_splat, do_extract, do_shuffle, do_reduce,  do_cast,     do_cast,
    do_index,   do_bitcast, do_dot,   do_widen,   do_store,   do_scratch, do_loop,     do_if,
};

static void block(Gen *g, int n)
{
  for (int i = 0; i < n && g->budget > 0; i++, g->budget--) {
    Statement *s = statements[draw(g, COUNT(statements))];
    if ((s != do_loop && s != do_if) || g->depth < MAX_DEPTH)
      s(g);
  }
}

KernelGen kernel_gen(Arena *a, uint64_t seed, unsigned features)
{
  Gen g = {.k = kernel_new(a, arena_printf(a, "random%llu", (unsigned long long)seed)),
           .state = seed * 0x9e3779b97f4a7c15u,
           .features = features,
           .budget = 60};

  kernel_param(g.k, "floats", KE_f32, KA_READ);
  kernel_param(g.k, "bytes", KE_u8, KA_READ);
  kernel_param(g.k, "words", KE_i16, KA_READ);
  kernel_param(g.k, "out", KE_f32, KA_WRITE);
  kernel_param(g.k, "both", KE_u8, KA_BOTH);
  kernel_param(g.k, "scratch", KE_i32, KA_SCRATCH);
  kernel_param(g.k, "doubles", KE_f64, KA_READ);
  kernel_param(g.k, "out64", KE_f64, KA_WRITE);
  g.k->scratch_bytes = SCRATCH_BYTES;
  g.grid = keep(&g, k_grid(g.k));
  keep(&g, k_arg(g.k, 0));
  keep(&g, k_arg(g.k, 1));
  block(&g, 20 + (int)draw(&g, 20));
  for (int i = g.n_values; i-- > 0 && i > g.n_values - 16;) /* nothing is computed in vain */
    store(&g, g.value[i]);
  return (KernelGen){g.k,
                     seed,
                     GRID,
                     {(int32_t)draw(&g, 50), 1 + (int32_t)draw(&g, 8)},
                     {IN_BYTES, IN_BYTES, IN_BYTES, GRID * OUT_ELEMS * 4, GRID * BOTH_BYTES, SCRATCH_BYTES,
                      IN_BYTES, GRID * OUT_ELEMS * 8}};
}

/* ---- memory */

static float draw_float(Gen *g)
{
  static const float special[] = {0,   -0.0f,  1,     -1,       INFINITY, -INFINITY,
                                  NAN, 1e-40f, 1e30f, 65519.0f, 0.5f,     2.5f};
  return draw(g, 16) ? ((float)draw(g, 1 << 16) - 32768) / 4096 : special[draw(g, COUNT(special))];
}

KernelGenMemory kernel_gen_memory(Arena *a, const KernelGen *k)
{
  Gen g = {.state = k->seed};
  KernelGenMemory m;

  for (int p = 0; p < KERNEL_GEN_BUFS; p++) {
    uint8_t *at = (uint8_t *)arena_alloc(a, k->bytes[p] + 1) + 1;
    m.buf[p] = at;
    for (uint64_t i = 0; i < k->bytes[p]; i += p >= P_DOUBLES ? 8 : 4) {
      float f = draw_float(&g);
      double d = draw(&g, 2) ? (double)f : (double)f * 1e7 / 3;
      uint32_t bits = draw(&g, 1 << 16) | draw(&g, 1 << 16) << 16;
      if (p >= P_DOUBLES)
        memcpy(at + i, &d, 8);
      else
        memcpy(at + i, p == P_FLOATS || p == P_OUT ? (const void *)&f : (const void *)&bits, 4);
    }
  }
  return m;
}

static double real_at(const void *buf, uint64_t i, bool wide)
{
  float f = 0;
  double d = 0;
  memcpy(&f, (const uint8_t *)buf + 4 * i, wide ? 0 : 4);
  memcpy(&d, (const uint8_t *)buf + 8 * i, wide ? 8 : 0);
  return wide ? d : (double)f;
}

static bool same_reals(const KernelGen *k, int p, const KernelGenMemory *want, const KernelGenMemory *got,
                       Err *e)
{
  bool wide = p == P_OUT64;

  for (uint64_t i = 0; i < k->bytes[p] / (wide ? 8 : 4); i++) {
    double w = real_at(want->buf[p], i, wide), h = real_at(got->buf[p], i, wide);
    if (memcmp(&w, &h, 8) && !(isnan(w) && isnan(h)))
      return fail(e, "%s: %s[%llu] is %.17g, not %.17g", k->k->name, k->k->params.data[p].name,
                  (unsigned long long)i, h, w);
  }
  return true;
}

bool kernel_gen_same(const KernelGen *k, const KernelGenMemory *want, const KernelGenMemory *got, Err *e)
{
  if (!same_reals(k, P_OUT, want, got, e) || !same_reals(k, P_OUT64, want, got, e))
    return false;
  for (int p = P_FLOATS; p <= P_BOTH; p++)
    for (uint64_t i = 0; p != P_OUT && i < k->bytes[p]; i++) {
      uint8_t w = ((uint8_t *)want->buf[p])[i], h = ((uint8_t *)got->buf[p])[i];
      if (w != h)
        return fail(e, "%s: %s[%llu] is %u, not %u", k->k->name, k->k->params.data[p].name,
                    (unsigned long long)i, h, w);
    }
  return true;
}
