/* The LLVM printer: each op against the kernel interpreter on every row that this machine runs, structure,
 * the instructions that the integer products become, and the object's form. */
#include "ir/kernel.h"

#include <criterion/criterion.h>
#include <stdio.h>

#if MICC_HAVE_LLVM
#include "codegen/llvm.h"
#include "tests/unit/support/kernel_gen.h"

#include <elf.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

enum { GRID = 24, MAX_KERNELS = 128, OUT_BYTES = 1 << 16 };

/* ---- memory with every kind of value in it */

static uint64_t random_bits(uint64_t *state)
{
  *state ^= *state << 13;
  *state ^= *state >> 7;
  return *state ^= *state << 17;
}

static float random_float(uint64_t *state)
{
  static const float special[] = {0.0f,     -0.0f,     1.0f,       -1.0f,         INFINITY,      -INFINITY,
                                  NAN,      0x1p-149f, -0x1p-140f, 3.4e38f,       65504.0f,      65520.0f,
                                  0x1p-24f, 0x1p-25f,  6.1e-5f,    2147483648.0f, 4294967296.0f, 0.5f};
  uint64_t r = random_bits(state);
  uint32_t bits = (uint32_t)(r >> 32);
  float f;

  if (r % 8 == 0)
    return special[bits % COUNT(special)];
  if (r % 8 < 4) {
    memcpy(&f, &bits, sizeof f);
    return f;
  }
  return ldexpf((float)(int32_t)bits, -(int)(r % 64 / 8 * 8));
}

static void fill(KElem e, uint8_t *to, uint64_t bytes, uint64_t seed)
{
  uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;

  for (uint64_t i = 0; e == KE_f64 && i + 8 <= bytes; i += 8) {
    double d = (double)random_float(&state);
    d = random_bits(&state) % 4 ? d : d * 1.0000000123e100; /* beyond floats, and between them */
    memcpy(to + i, &d, 8);
  }
  for (uint64_t i = 0; e != KE_f64 && i + 4 <= bytes; i += 4) {
    float f = random_float(&state);
    uint32_t bits = (uint32_t)(random_bits(&state) >> 32);
    memcpy(to + i, e == KE_f32 ? (const void *)&f : &bits, 4);
  }
}

/* ---- kernels that do every op on one type */

typedef struct {
  uint32_t at;
  KOp op;
  KType type;
} Slot; /* of the output */

typedef struct {
  Kernel *k;
  const Target *target;
  KType type;
  uint16_t out;
  KVal out_at; /* the iteration's part of the output */
  uint32_t in_bytes, out_bytes;
  Slot slot[512];
  uint32_t n_slots;
} Case;

static KVal in_memory(Kernel *k, KVal v)
{
  KType t = kernel_node(k, v)->type;

  return t.elem == KE_idx ? k_bitcast(k, ktype(KE_i32, t.lanes * 2u), v) : v;
}

/* Stores a result behind those before it. */
static void put(Case *c, KOp op, KVal v)
{
  KVal m = in_memory(c->k, v);
  KType t = kernel_node(c->k, m)->type;

  cr_assert_lt(c->n_slots, COUNT(c->slot));
  c->slot[c->n_slots++] = (Slot){c->out_bytes, op, t};
  k_store(c->k, c->out, c->out_at, c->out_bytes, m);
  c->out_bytes += ktype_bytes(t);
  cr_assert_leq(c->out_bytes, OUT_BYTES);
}

static void put1(Case *c, KOp op, KVal a)
{
  put(c, op, k_op1(c->k, op, a));
}

static void put2(Case *c, KOp op, KVal a, KVal b)
{
  put(c, op, k_op2(c->k, op, a, b));
}

static void arithmetic(Case *c, KVal a, KVal b)
{
  static const KOp both[] = {K_add, K_sub, K_mul, K_min, K_max};

  for (size_t i = 0; i < COUNT(both); i++)
    put2(c, both[i], a, b);
  put1(c, K_neg, a);
  put1(c, K_abs, a);
  if (!(c->type.lanes & (c->type.lanes - 1)) && c->type.lanes > 1) {
    put(c, K_sum, k_reduce(c->k, K_sum, a));
    put(c, K_rmax, k_reduce(c->k, K_rmax, a));
  }
}

static void comparisons(Case *c, KVal a, KVal b)
{
  static const KOp ops[] = {K_lt, K_le, K_eq}, bits[] = {K_and, K_or, K_xor};
  KVal less = k_op2(c->k, K_lt, a, b), same = k_op2(c->k, K_eq, a, a);

  for (size_t i = 0; i < COUNT(ops); i++)
    put2(c, ops[i], a, b);
  for (size_t i = 0; i < COUNT(bits); i++)
    put2(c, bits[i], less, same);
  put2(c, K_eq, less, same);
  put(c, K_select, k_select(c->k, less, a, b));
  put(c, K_select, k_select(c->k, less, same, k_op2(c->k, K_eq, a, b)));
}

static void integers(Case *c, KVal a, KVal b)
{
  static const KOp bits[] = {K_and, K_or, K_xor};
  int width = kelem_info[c->type.elem].bytes * 8, by[] = {0, 1, 4, width - 1};
  KVal positive =
      k_op2(c->k, K_max, k_op2(c->k, K_and, b, k_int(c->k, c->type, 127)), k_int(c->k, c->type, 1));

  put2(c, K_div, a, positive);
  put2(c, K_rem, a, positive);
  KVal few = k_op2(c->k, K_sub, k_op2(c->k, K_and, b, k_int(c->k, c->type, 3)), k_int(c->k, c->type, 2));
  put2(c, K_div, a, few); /* 0 and -1 too */
  put2(c, K_rem, a, few);
  put2(c, K_div, k_int(c->k, c->type, (int64_t)(UINT64_MAX << (width - 1))), few);
  put2(c, K_div, a, k_int(c->k, c->type, -1));
  put2(c, K_div, a, k_int(c->k, c->type, -7));
  put2(c, K_rem, a, k_int(c->k, c->type, 10));
  KVal amount = k_op2(c->k, K_and, b, k_int(c->k, c->type, 2 * width - 1));
  put2(c, K_shlv, a, amount);
  put2(c, K_shrv, a, amount);
  put2(c, K_shlv, a, b);
  put2(c, K_shrv, a, b);
  for (size_t i = 0; i < COUNT(bits); i++)
    put2(c, bits[i], a, b);
  for (size_t i = 0; i < COUNT(by); i++) {
    put(c, K_shl, k_shift(c->k, K_shl, a, by[i]));
    put(c, K_shr, k_shift(c->k, K_shr, a, by[i]));
  }
  KVal lane = kernel_add(c->k, K_lane, c->type, NULL, 0, 0);
  put(c, K_lane, k_op2(c->k, K_add, a, lane));
  put(c, K_const, k_op2(c->k, K_xor, a, k_int(c->k, c->type, -37)));
}

/* What kernel_math.c expands: many ops in a row, with values that have no meaning in lanes that are not used. */
static void functions(Case *c, KVal a, KVal b)
{
  KVal (*const f[])(Kernel *k, KVal x) = {k_exp_ieee, k_log,  k_tanh, k_sigmoid_ieee,
                                          k_erf,      k_atan, k_sin,  k_cos};

  for (size_t i = 0; i < COUNT(f); i++)
    put(c, K_fma, f[i](c->k, a));
  put(c, K_fma, k_pow(c->k, a, b));
}

static void floats(Case *c, KVal a, KVal b, KVal d)
{
  static const KOp ops[] = {K_sqrt, K_floor, K_ceil, K_trunc, K_round};

  put2(c, K_div, a, b);
  for (size_t i = 0; i < COUNT(ops); i++)
    put1(c, ops[i], a);
  put(c, K_const, k_op2(c->k, K_mul, a, k_real(c->k, c->type, 0.1)));
  if (!c->target->fma)
    return;
  put(c, K_fma, k_fma(c->k, a, b, d));
  if (c->type.lanes <= 16)
    functions(c, a, b);
}

/* Floats are first brought into the integer's range, beyond which a cast has no meaning. */
static KVal in_range(Case *c, KVal v, KElem to)
{
  int bits = 8 * kelem_info[to].bytes - kelem_info[to].is_signed;
  KType t = kernel_node(c->k, v)->type;
  double hi = ldexp(1.0, bits), lo = kelem_info[to].is_signed ? -hi : 0.0;

  v = k_op2(c->k, K_max, v, k_real(c->k, t, lo)); /* NaN becomes lo */
  return k_op2(c->k, K_min, v,
               k_real(c->k, t, t.elem == KE_f64 ? nextafter(hi, 0) : (double)nextafterf((float)hi, 0.0f)));
}

static void casts(Case *c, KVal a)
{
  KElem from = (KElem)c->type.elem;

  for (KElem to = KE_bool; to < KE_COUNT; to++) {
    if (to == from || ((to == KE_f16 || from == KE_f16) && !c->target->f16c) ||
        (to == KE_idx && c->type.lanes > K_MAX_LANES / 2))
      continue;
    bool cut = kelem_info[from].is_float && kelem_is_int(to);
    KVal v = cut && !kelem_is_real(from) ? k_cast(c->k, KE_f32, a) : a;
    put(c, K_cast, k_cast(c->k, to, cut ? in_range(c, v, to) : v));
    if (cut)
      put(c, K_cast_sat, k_cast_sat(c->k, to, a));
  }
  put1(c, K_pin, a);
  if (from != KE_bool && ktype_bytes(c->type) <= K_MAX_LANES)
    put(c, K_bitcast, k_bitcast(c->k, ktype(KE_u8, ktype_bytes(c->type)), a));
}

static void shuffles(Case *c, KVal a, KVal b)
{
  unsigned n = c->type.lanes;
  uint8_t mixed[K_MAX_LANES], upper[K_MAX_LANES];

  for (unsigned i = 0; i < n; i++) {
    mixed[i] = (uint8_t)((i * 37 + 11) % (2 * n));
    upper[i] = (uint8_t)(n + n / 2 + i / 2);
  }
  put(c, K_shuffle, k_shuffle(c->k, a, b, mixed, n));
  put(c, K_shuffle, k_shuffle(c->k, a, b, upper, n / 2 ? n / 2 : 1));
  if (n > 1)
    put(c, K_extract, k_extract(c->k, a, n - 1));
  put(c, K_splat, k_splat(c->k, c->type, k_extract(c->k, a, n / 2)));
  put(c, K_load, a);
}

/* a holds the sums; b and d are seen as codes and activations. */
static void products(Case *c, KVal a, KVal b, KVal d)
{
  Kernel *k = c->k;
  unsigned n = c->type.lanes;

  if (c->type.elem == KE_i32 && n * 4 <= K_MAX_LANES) {
    put(c, K_dot4,
        k_dot(k, K_dot4, a, k_bitcast(k, ktype(KE_u8, 4 * n), b), k_bitcast(k, ktype(KE_i8, 4 * n), d)));
    put(c, K_splat, k_splat(k, ktype(KE_i8, 4 * n), k_extract(k, a, n - 1)));
  }
  if (c->type.elem == KE_i32 && n * 2 <= K_MAX_LANES) {
    KVal x = k_bitcast(k, ktype(KE_i16, 2 * n), b), y = k_bitcast(k, ktype(KE_i16, 2 * n), d);
    KVal in[] = {x};
    put(c, K_dot2w, k_dot(k, K_dot2w, a, x, y));
    put(c, K_widen, kernel_add(k, K_widen, ktype(KE_i32, n), in, 1, 0));
  }
  if (c->type.elem == KE_i16 && n * 2 <= K_MAX_LANES) {
    KType t = ktype(KE_u8, 2 * n);
    KVal code = k_op2(k, K_and, k_bitcast(k, t, b), k_int(k, t, 15));
    put(c, K_dot2, k_dot(k, K_dot2, k_shift(k, K_shr, a, 2), code, k_bitcast(k, ktype(KE_i8, 2 * n), d)));
  }
}

static KVal load(Case *c, uint16_t buf, KVal at)
{
  KVal v;

  if (c->type.elem != KE_idx) {
    v = k_load(c->k, c->type, buf, at, c->in_bytes / kelem_info[c->type.elem].bytes);
  } else {
    v = k_load(c->k, ktype(KE_i32, 2u * c->type.lanes), buf, at, c->in_bytes / 4);
    v = k_bitcast(c->k, c->type, v);
  }
  c->in_bytes += ktype_bytes(c->type);
  return v;
}

static void build_case(Case *c, Arena *arena, const Target *t, KElem e, unsigned lanes)
{
  KType type = ktype(e, lanes);
  Kernel *k = kernel_new(arena, arena_printf(arena, "every.%sx%u", kelem_info[e].name, lanes));
  *c = (Case){.k = k, .target = t, .type = type};
  uint16_t in = kernel_param(k, "in", e == KE_idx ? KE_i32 : e, KA_READ);
  c->out = kernel_param(k, "out", KE_u8, KA_WRITE);
  KVal grid = k_grid(k);
  unsigned elem_bytes = e == KE_idx ? 4 : kelem_info[e].bytes;
  KVal at = k_op2(k, K_mul, grid, k_idx(k, 3 * ktype_bytes(type) / elem_bytes));
  c->out_at = k_op2(k, K_mul, grid, k_idx(k, OUT_BYTES));
  KVal a = load(c, in, at), b = load(c, in, at), d = load(c, in, at);

  shuffles(c, a, b);
  casts(c, a);
  if (e == KE_f16 || e == KE_bf16)
    return;
  if (e == KE_bool) {
    put2(c, K_eq, a, b);
    put(c, K_select, k_select(k, a, b, d));
    return;
  }
  arithmetic(c, a, b);
  comparisons(c, a, b);
  products(c, a, b, d);
  if (kelem_is_int(e))
    integers(c, a, b);
  else
    floats(c, a, b, d);
}

/* ---- two results */

static bool is_nan_at(KElem e, const uint8_t *p)
{
  uint16_t h;
  float f;
  double d;

  if (e == KE_f16 || e == KE_bf16) {
    memcpy(&h, p, sizeof h);
    return e == KE_f16 ? isnan(f16_to_f32(h)) : (h & 0x7fff) > 0x7f80;
  }
  if (e == KE_f64) {
    memcpy(&d, p, sizeof d);
    return isnan(d);
  }
  memcpy(&f, p, sizeof f);
  return e == KE_f32 && isnan(f);
}

static bool equal(KType t, const uint8_t *x, const uint8_t *y)
{
  unsigned bytes = kelem_info[t.elem].bytes;

  for (unsigned i = 0; i < t.lanes; i++, x += bytes, y += bytes)
    if (memcmp(x, y, bytes) && !(kelem_info[t.elem].is_float && is_nan_at(t.elem, x) && is_nan_at(t.elem, y)))
      return false;
  return true;
}

static void check_case(const Case *c, MiKernel *fn)
{
  uint64_t in_bytes = (uint64_t)c->in_bytes * GRID, out_bytes = (uint64_t)GRID * OUT_BYTES;
  uint8_t *in = malloc(in_bytes + 4), *want = calloc(1, out_bytes), *got = calloc(1, out_bytes);
  int32_t args[2] = {0, 0};
  Err e = {0};

  fill(c->type.elem, in, in_bytes, c->type.elem * 256u + c->type.lanes);
  bool ok = kernel_eval(c->k, (void *[]){in, want}, (uint64_t[]){in_bytes, out_bytes}, args, 0, GRID, &e);
  cr_assert(ok, "%s", e.text);
  fn((uint8_t *const[]){in, got}, args, 0, GRID);
  for (uint64_t g = 0; g < GRID; g++)
    for (uint32_t i = 0; i < c->n_slots; i++) {
      const Slot *s = &c->slot[i];
      uint64_t at = g * OUT_BYTES + s->at;
      cr_expect(equal(s->type, want + at, got + at), "%s: %s: %s to %sx%u differs (iteration %u)",
                c->target->name, c->k->name, kop_info[s->op].name, kelem_info[s->type.elem].name,
                s->type.lanes, (unsigned)g);
    }
  free(in);
  free(want);
  free(got);
}

static LlvmJit *must_jit(const Kernel *const *k, uint32_t n, const Target *t, int opt_level)
{
  LlvmOptions o = {.target = t, .opt_level = opt_level};
  Err e = {0};

  for (uint32_t i = 0; i < n; i++)
    cr_assert(kernel_verify(k[i], &e), "%s", e.text);
  LlvmJit *jit = llvm_jit(k, n, &o, &e);
  cr_assert(jit, "%s", e.text);
  return jit;
}

static void check_every_op(const Target *t)
{
  static const uint8_t lanes[] = {1, 3, 4, 8, 16, 20, 32, 64, 128},
                       max_lanes[] = {0, 128, 128, 0, 64, 0, 0, 0, 16};
  Arena arena = {0};
  Case *c = NEW_ARRAY(&arena, Case, MAX_KERNELS);
  const Kernel *k[MAX_KERNELS];
  uint32_t n = 0;

  for (KElem e = KE_bool; e < KE_COUNT; e++)
    for (size_t i = 0; i < COUNT(lanes); i++)
      if (lanes[i] <= max_lanes[kelem_info[e].bytes]) {
        build_case(&c[n], &arena, t, e, lanes[i]);
        k[n] = c[n].k;
        n++;
      }
  LlvmJit *jit = must_jit(k, n, t, 1);
  for (uint32_t i = 0; i < n; i++)
    check_case(&c[i], llvm_jit_table(jit)[i]);
  llvm_jit_free(jit);
  arena_free(&arena);
}

static void check_random(const Target *t)
{
  enum { SEEDS = 60 };
  unsigned features = KERNEL_GEN_ODD | (t->f16c ? KERNEL_GEN_F16 : 0) | (t->fma ? KERNEL_GEN_FMA : 0);
  Arena arena = {0};
  KernelGen *g = NEW_ARRAY(&arena, KernelGen, SEEDS);
  const Kernel *k[SEEDS];

  for (uint32_t i = 0; i < SEEDS; i++) {
    g[i] = kernel_gen(&arena, i + 1, features);
    k[i] = g[i].k;
  }
  LlvmJit *jit = must_jit(k, SEEDS, t, 2);
  for (uint32_t i = 0; i < SEEDS; i++) {
    KernelGenMemory want = kernel_gen_memory(&arena, &g[i]), got = kernel_gen_memory(&arena, &g[i]);
    Err e = {0};
    bool ok = kernel_eval(k[i], want.buf, g[i].bytes, g[i].args, 0, g[i].grid, &e);
    cr_assert(ok, "seed %u: %s", i + 1, e.text);
    llvm_jit_table(jit)[i]((uint8_t *const *)got.buf, g[i].args, 0, g[i].grid);
    cr_expect(kernel_gen_same(&g[i], &want, &got, &e), "%s, seed %u: %s", t->name, i + 1, e.text);
  }
  llvm_jit_free(jit);
  arena_free(&arena);
}

static void with_row(const char *cpu, void (*check)(const Target *))
{
  Err e = {0};
  const Target *t = target_find(cpu, &e);

  cr_assert(t, "%s", e.text);
  if (t->runs_here())
    check(t);
  else
    printf("skipped: this machine does not run code for %s\n", cpu);
}

/* A test for each row, since Criterion runs tests side by side. */
#define ROW_TESTS(name, cpu)                                                                                 \
  Test(llvm, every_op_on_##name)                                                                             \
  {                                                                                                          \
    with_row(cpu, check_every_op);                                                                           \
  }                                                                                                          \
  Test(llvm, random_kernels_on_##name)                                                                       \
  {                                                                                                          \
    with_row(cpu, check_random);                                                                             \
  }

ROW_TESTS(v2, "x86-64-v2")
ROW_TESTS(v3, "x86-64-v3")
ROW_TESTS(v3_with_vnni, "x86-64-v3+avxvnni")
ROW_TESTS(v4, "x86-64-v4")
ROW_TESTS(cascadelake, "cascadelake")
#else
Test(llvm, left_out)
{
  printf("skipped: micc was built without LLVM\n");
}
#endif
