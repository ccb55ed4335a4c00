/* kernel_eval_ops.c - what each op of the kernel IR computes. One function computes one op, so that no product
 * and sum of a kernel can ever be contracted. A float too large for its integer saturates in `cast` too, and NaN
 * gives 0: there the table does not say. */
#include "ir/kernel_eval.h"

#include "ir/dtype.h"

#include <math.h>

#define A(T)  const T *a = x->in[0]
#define AB(T) A(T), *b = x->in[1]
#define LANES for (unsigned l = 0; l < x->lanes; l++)

/* ---- arithmetic: one function for each op and element, from an expression of lane l */

#define EACH_INT(M, ...)                                                                                     \
  M(i8, int8_t, __VA_ARGS__)                                                                                 \
  M(u8, uint8_t, __VA_ARGS__)                                                                                \
  M(i16, int16_t, __VA_ARGS__)                                                                               \
  M(u16, uint16_t, __VA_ARGS__)                                                                              \
  M(i32, int32_t, __VA_ARGS__)                                                                               \
  M(u32, uint32_t, __VA_ARGS__)                                                                              \
  M(i64, int64_t, __VA_ARGS__)                                                                               \
  M(u64, uint64_t, __VA_ARGS__) M(idx, int64_t, __VA_ARGS__)
#define EACH_REAL(M, ...)  M(f32, float, __VA_ARGS__) M(f64, double, __VA_ARGS__)
#define EACH_ARITH(M, ...) EACH_INT(M, __VA_ARGS__) EACH_REAL(M, __VA_ARGS__)
#define EACH_BITS(M, ...)  EACH_INT(M, __VA_ARGS__) M(mask, uint8_t, __VA_ARGS__)

#define INTS(op)                                                                                             \
  [KE_i8] = op##_of_i8, [KE_u8] = op##_of_u8, [KE_i16] = op##_of_i16, [KE_u16] = op##_of_u16,                \
  [KE_i32] = op##_of_i32, [KE_u32] = op##_of_u32, [KE_i64] = op##_of_i64, [KE_u64] = op##_of_u64,            \
  [KE_idx] = op##_of_idx
#define REALS(op)     [KE_f32] = op##_of_f32, [KE_f64] = op##_of_f64
#define ROW_INT(op)   {INTS(op)}
#define ROW_REAL(op)  {REALS(op)}
#define ROW_ARITH(op) {INTS(op), REALS(op)}
#define ROW_BITS(op)  {INTS(op), [KE_bool] = op##_of_mask}
#define ROW_EQ(op)    {INTS(op), REALS(op), [KE_bool] = op##_of_mask}

#define LANEWISE1(E, T, op, R, expr)                                                                         \
  static const char *op##_of_##E(const Ins *x)                                                               \
  {                                                                                                          \
    A(T);                                                                                                    \
    R *d = x->out;                                                                                           \
    LANES d[l] = (R)(expr);                                                                                  \
    return NULL;                                                                                             \
  }
#define LANEWISE2(E, T, op, R, expr)                                                                         \
  static const char *op##_of_##E(const Ins *x)                                                               \
  {                                                                                                          \
    AB(T);                                                                                                   \
    R *d = x->out;                                                                                           \
    LANES d[l] = (R)(expr);                                                                                  \
    return NULL;                                                                                             \
  }
#define SAME1(E, T, op, expr) LANEWISE1(E, T, op, T, expr)
#define SAME2(E, T, op, expr) LANEWISE2(E, T, op, T, expr)
#define COND2(E, T, op, expr) LANEWISE2(E, T, op, uint8_t, expr)

/* Integers wrap: computed in the unsigned type of most bits, and cut. */
EACH_INT(SAME2, add, (uint64_t)a[l] + (uint64_t)b[l])
EACH_INT(SAME2, sub, (uint64_t)a[l] - (uint64_t)b[l])
EACH_INT(SAME2, mul, (uint64_t)a[l] * (uint64_t)b[l])
EACH_INT(SAME1, neg, 0 - (uint64_t)a[l])
EACH_INT(SAME1, abs, a[l] > 0 ? (uint64_t)a[l] : 0 - (uint64_t)a[l])
EACH_REAL(SAME2, add, a[l] + b[l])
EACH_REAL(SAME2, sub, a[l] - b[l])
EACH_REAL(SAME2, mul, a[l] * b[l])
EACH_REAL(SAME2, div, a[l] / b[l])
EACH_REAL(SAME1, neg, -a[l])
EACH_REAL(SAME1, abs, fabs(a[l]))
EACH_REAL(SAME1, floor, floor(a[l]))
EACH_REAL(SAME1, ceil, ceil(a[l]))
EACH_REAL(SAME1, trunc, trunc(a[l]))
EACH_REAL(SAME1, round, rint(a[l]))
SAME1(f32, float, sqrt, sqrtf(a[l]))
SAME1(f64, double, sqrt, sqrt(a[l]))
EACH_ARITH(SAME2, min, a[l] < b[l] ? a[l] : b[l])
EACH_ARITH(SAME2, max, a[l] > b[l] ? a[l] : b[l])
EACH_BITS(SAME2, and, a[l] & b[l])
EACH_BITS(SAME2, or, a[l] | b[l])
EACH_BITS(SAME2, xor, a[l] ^ b[l])
EACH_INT(SAME1, shl, (uint64_t)a[l] << x->imm)
EACH_INT(SAME1, shr, a[l] >> x->imm)
EACH_ARITH(COND2, lt, a[l] < b[l])
EACH_ARITH(COND2, le, a[l] <= b[l])
EACH_ARITH(COND2, eq, a[l] == b[l])
COND2(mask, uint8_t, eq, a[l] == b[l])

/* Amounts are seen as unsigned in their own width. */
#define SHIFTS(E, T, U)                                                                                      \
  SAME2(E, T, shlv, (U)b[l] < 8 * sizeof(T) ? (uint64_t)a[l] << (U)b[l] : 0)                                 \
  SAME2(E, T, shrv,                                                                                          \
        a[l] >> ((U)b[l] < 8 * sizeof(T) ? (U)b[l] : 8 * sizeof(T) - 1) >>                                   \
            ((T) - 1 > 0 && (U)b[l] >= 8 * sizeof(T)))
SHIFTS(i8, int8_t, uint8_t)
SHIFTS(u8, uint8_t, uint8_t)
SHIFTS(i16, int16_t, uint16_t)
SHIFTS(u16, uint16_t, uint16_t)
SHIFTS(i32, int32_t, uint32_t)
SHIFTS(u32, uint32_t, uint32_t)
SHIFTS(i64, int64_t, uint64_t)
SHIFTS(u64, uint64_t, uint64_t)
SHIFTS(idx, int64_t, uint64_t)

/* signed types only */
#define IS_MINUS_1(T, b) ((T) - 1 < 1 && (b) == (T) - 1)
#define DIVISIONS(E, T, unused)                                                                              \
  SAME2(E, T, div, b[l] == 0 ? 0 : IS_MINUS_1(T, b[l]) ? 0 - (uint64_t)a[l] : (uint64_t)(a[l] / b[l]))       \
  SAME2(E, T, rem, b[l] == 0 || IS_MINUS_1(T, b[l]) ? 0 : a[l] % b[l])
EACH_INT(DIVISIONS, )

#define FMA(E, T, op, function)                                                                              \
  static const char *op##_of_##E(const Ins *x)                                                               \
  {                                                                                                          \
    AB(T), *c = x->in[2];                                                                                    \
    T *d = x->out;                                                                                           \
    LANES d[l] = function(a[l], b[l], c[l]);                                                                 \
    return NULL;                                                                                             \
  }
FMA(f32, float, fma, fmaf)
FMA(f64, double, fma, fma)

/* lane: a is not read */
#define LANE(E, T, op)                                                                                       \
  static const char *op##_of_##E(const Ins *x)                                                               \
  {                                                                                                          \
    T *d = x->out;                                                                                           \
    LANES d[l] = (T)l;                                                                                       \
    return NULL;                                                                                             \
  }
EACH_INT(LANE, lane)

/* ---- reductions: the upper half onto the lower, until one is left */

#define REDUCE(E, T, op, expr)                                                                               \
  static const char *op##_of_##E(const Ins *x)                                                               \
  {                                                                                                          \
    T d[K_MAX_LANES];                                                                                        \
    memcpy(d, x->in[0], sizeof(T) * x->src_lanes);                                                           \
    for (unsigned half = x->src_lanes / 2u; half; half /= 2)                                                 \
      for (unsigned l = 0, u = half; l < half; l++, u++)                                                     \
        d[l] = (T)(expr);                                                                                    \
    memcpy(x->out, d, sizeof(T));                                                                            \
    return NULL;                                                                                             \
  }
EACH_INT(REDUCE, sum, (uint64_t)d[l] + (uint64_t)d[u])
EACH_REAL(REDUCE, sum, d[l] + d[u])
EACH_ARITH(REDUCE, rmax, d[l] > d[u] ? d[l] : d[u])

/* ---- moving lanes: by the element's size */

#define EACH_SIZE(M) M(8, uint8_t) M(16, uint16_t) M(32, uint32_t) M(64, uint64_t)
#define ROW_SIZE(op)                                                                                         \
  {[KE_bool] = op##_8, [KE_i8] = op##_8,    [KE_u8] = op##_8,   [KE_i16] = op##_16, [KE_u16] = op##_16,      \
   [KE_i32] = op##_32, [KE_u32] = op##_32,  [KE_i64] = op##_64, [KE_u64] = op##_64, [KE_idx] = op##_64,      \
   [KE_f16] = op##_16, [KE_bf16] = op##_16, [KE_f32] = op##_32, [KE_f64] = op##_64}

#define SELECT(E, T)                                                                                         \
  static const char *select_##E(const Ins *x)                                                                \
  {                                                                                                          \
    A(uint8_t);                                                                                              \
    const T *b = x->in[1], *c = x->in[2];                                                                    \
    T *d = x->out;                                                                                           \
    LANES d[l] = a[l] ? b[l] : c[l];                                                                         \
    return NULL;                                                                                             \
  }
EACH_SIZE(SELECT)

#define SHUFFLE(E, T)                                                                                        \
  static const char *shuffle_##E(const Ins *x)                                                               \
  {                                                                                                          \
    AB(T);                                                                                                   \
    T *d = x->out;                                                                                           \
    LANES d[l] = x->lane[l] < x->src_lanes ? a[x->lane[l]] : b[x->lane[l] - x->src_lanes];                   \
    return NULL;                                                                                             \
  }
EACH_SIZE(SHUFFLE)

#define EXTRACT(E, T)                                                                                        \
  static const char *extract_##E(const Ins *x)                                                               \
  {                                                                                                          \
    A(T);                                                                                                    \
    *(T *)x->out = a[x->imm];                                                                                \
    return NULL;                                                                                             \
  }
EACH_SIZE(EXTRACT)

/* of an element, or of a dword seen as bytes */
#define SPLAT(E, T)                                                                                          \
  static const char *splat_##E(const Ins *x)                                                                 \
  {                                                                                                          \
    T *d = x->out;                                                                                           \
    LANES d[l] = *(const T *)x->in[0];                                                                       \
    return NULL;                                                                                             \
  }
EACH_SIZE(SPLAT)

static const char *splat_dword(const Ins *x)
{
  for (unsigned l = 0; l < x->lanes; l += 4)
    memcpy((uint8_t *)x->out + l, x->in[0], 4);
  return NULL;
}

static const char *move(const Ins *x)
{
  memcpy(x->out, x->in[0], x->bytes);
  return NULL;
}

/* ---- casts: through 64-bit integers (u64: their bits) or double, which hold every element */

#define TO_WIDE(E, T)                                                                                        \
  static const char *wide_of_##E(const Ins *x)                                                               \
  {                                                                                                          \
    A(T);                                                                                                    \
    int64_t *d = x->out;                                                                                     \
    LANES d[l] = (int64_t)a[l];                                                                              \
    return NULL;                                                                                             \
  }
#define FROM_WIDE(E, T)                                                                                      \
  static const char *narrow_of_##E(const Ins *x)                                                             \
  {                                                                                                          \
    A(int64_t);                                                                                              \
    T *d = x->out;                                                                                           \
    LANES d[l] = (T)a[l];                                                                                    \
    return NULL;                                                                                             \
  }
#define WIDE(E, T, unused) TO_WIDE(E, T) FROM_WIDE(E, T)
EACH_INT(WIDE, )
TO_WIDE(mask, uint8_t)

static Run *const to_wide[KE_COUNT] = ROW_BITS(wide), *const from_wide[KE_COUNT] = ROW_INT(narrow);

void kernel_put_int(KElem e, void *out, int64_t i)
{
  if (e == KE_bool)
    *(uint8_t *)out = i & 1;
  else
    from_wide[e](&(Ins){.out = out, .in = {&i}, .lanes = 1});
}

static float bf16_to_f32(uint16_t h)
{
  uint32_t u = (uint32_t)h << 16;
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

static uint16_t f32_to_bf16(float f)
{
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  if (isnan(f))
    return (uint16_t)(u >> 16 | 0x40);
  return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* As cast_sat; the low bits, of u64 all 64 of them. */
static int64_t real_to_int(double f, KElem to)
{
  unsigned bits = 8u * kelem_info[to].bytes - kelem_info[to].is_signed;
  double hi = ldexp(1.0, (int)bits), lo = kelem_info[to].is_signed ? -hi : 0.0;

  if (!(f >= lo)) /* NaN too */
    return f < lo ? (int64_t)lo : 0;
  if (!(f < hi))
    return (int64_t)(UINT64_MAX >> (64 - bits));
  return to == KE_u64 ? (int64_t)(uint64_t)f : (int64_t)f;
}

static void read_reals(const Ins *x, KElem from, double *d)
{
  const uint16_t *half = x->in[0];
  const float *f = x->in[0];

  if (from == KE_f64)
    memcpy(d, x->in[0], sizeof *d * x->lanes);
  else if (from == KE_f32)
    LANES d[l] = (double)f[l];
  else
    LANES d[l] = (double)(from == KE_f16 ? f16_to_f32(half[l]) : bf16_to_f32(half[l]));
}

/* Each number rounded to float, or to double, once. */
static void write_reals(const Ins *x, KElem to, const double *d, const float *f)
{
  uint16_t *half = x->out;

  if (to == KE_f64)
    memcpy(x->out, d, sizeof *d * x->lanes);
  else if (to == KE_f32)
    memcpy(x->out, f, sizeof *f * x->lanes);
  else
    LANES half[l] = to == KE_f16 ? f32_to_f16(f[l]) : f32_to_bf16(f[l]);
}

static const char *cast_real(const Ins *x, KElem from, KElem to)
{
  double d[K_MAX_LANES];
  float f[K_MAX_LANES];
  uint8_t *mask = x->out;

  read_reals(x, from, d);
  if (to == KE_bool) {
    LANES mask[l] = d[l] != 0;
  } else if (kelem_info[to].is_float) {
    LANES f[l] = (float)d[l];
    write_reals(x, to, d, f);
  } else {
    int64_t wide[K_MAX_LANES];
    LANES wide[l] = real_to_int(d[l], to);
    from_wide[to](&(Ins){.out = x->out, .in = {wide}, .lanes = x->lanes});
  }
  return NULL;
}

static const char *cast_int(const Ins *x, KElem from, KElem to)
{
  int64_t wide[K_MAX_LANES];
  double d[K_MAX_LANES];
  float f[K_MAX_LANES];
  uint8_t *mask = x->out;

  to_wide[from](&(Ins){.out = wide, .in = {x->in[0]}, .lanes = x->lanes});
  if (to == KE_bool) {
    LANES mask[l] = wide[l] != 0;
  } else if (kelem_info[to].is_float) {
    LANES d[l] = from == KE_u64 ? (double)(uint64_t)wide[l] : (double)wide[l];
    LANES f[l] = from == KE_u64 ? (float)(uint64_t)wide[l] : (float)wide[l];
    write_reals(x, to, d, f);
  } else {
    from_wide[to](&(Ins){.out = x->out, .in = {wide}, .lanes = x->lanes});
  }
  return NULL;
}

/* imm: from, to */
static const char *cast(const Ins *x)
{
  KElem from = (KElem)(x->imm >> 8), to = (KElem)(x->imm & 255);
  return kelem_info[from].is_float ? cast_real(x, from, to) : cast_int(x, from, to);
}

/* ---- integer products */

static const char *dot4(const Ins *x)
{
  A(int32_t);
  const uint8_t *b = x->in[1];
  const int8_t *c = x->in[2];
  int32_t *d = x->out;

  LANES
  {
    int sum = 0;
    for (unsigned j = 4 * l; j < 4 * l + 4; j++)
      sum += b[j] * c[j];
    d[l] = (int32_t)((uint32_t)a[l] + (uint32_t)sum);
  }
  return NULL;
}

static const char *dot2(const Ins *x)
{
  A(int16_t);
  const uint8_t *b = x->in[1];
  const int8_t *c = x->in[2];
  int16_t *d = x->out;

  LANES
  {
    int pair = b[2 * l] * c[2 * l] + b[2 * l + 1] * c[2 * l + 1], sum = a[l] + pair;
    if (pair != (int16_t)pair || sum != (int16_t)sum)
      return "overflows 16 bits";
    d[l] = (int16_t)sum;
  }
  return NULL;
}

static const char *dot2w(const Ins *x)
{
  A(int32_t);
  const int16_t *b = x->in[1], *c = x->in[2];
  int32_t *d = x->out;

  LANES
  {
    int64_t sum = (int64_t)b[2 * l] * c[2 * l] + (int64_t)b[2 * l + 1] * c[2 * l + 1];
    d[l] = (int32_t)(uint32_t)((uint64_t)a[l] + (uint64_t)sum);
  }
  return NULL;
}

static const char *widen(const Ins *x)
{
  A(int16_t);
  int32_t *d = x->out;
  LANES d[l] = a[2 * l] + a[2 * l + 1];
  return NULL;
}

/* ---- the table, by the element of the first input (select, splat, lane: of the result) */

static Run *const run_by_elem[K_COUNT][KE_COUNT] = {
    [K_lane] = ROW_INT(lane),   [K_splat] = ROW_SIZE(splat),     [K_extract] = ROW_SIZE(extract),
    [K_add] = ROW_ARITH(add),   [K_sub] = ROW_ARITH(sub),        [K_mul] = ROW_ARITH(mul),
    [K_div] = ROW_ARITH(div),   [K_rem] = ROW_INT(rem),          [K_neg] = ROW_ARITH(neg),
    [K_abs] = ROW_ARITH(abs),   [K_min] = ROW_ARITH(min),        [K_max] = ROW_ARITH(max),
    [K_fma] = ROW_REAL(fma),    [K_sqrt] = ROW_REAL(sqrt),       [K_floor] = ROW_REAL(floor),
    [K_ceil] = ROW_REAL(ceil),  [K_trunc] = ROW_REAL(trunc),     [K_round] = ROW_REAL(round),
    [K_and] = ROW_BITS(and),    [K_or] = ROW_BITS(or),           [K_xor] = ROW_BITS(xor),
    [K_shl] = ROW_INT(shl),     [K_shr] = ROW_INT(shr),          [K_shlv] = ROW_INT(shlv),
    [K_shrv] = ROW_INT(shrv),   [K_lt] = ROW_ARITH(lt),          [K_le] = ROW_ARITH(le),
    [K_eq] = ROW_EQ(eq),        [K_select] = ROW_SIZE(select),   [K_sum] = ROW_ARITH(sum),
    [K_rmax] = ROW_ARITH(rmax), [K_shuffle] = ROW_SIZE(shuffle),
};
static Run *const run_by_op[K_COUNT] = {
    [K_grid] = move, [K_pin] = move,  [K_cast] = cast,   [K_cast_sat] = cast, [K_bitcast] = move,
    [K_dot4] = dot4, [K_dot2] = dot2, [K_dot2w] = dot2w, [K_widen] = widen,
};

Run *kernel_run(KOp op, KType type, KType in)
{
  if (run_by_op[op])
    return run_by_op[op];
  if (op == K_splat && in.elem != type.elem)
    return splat_dword;
  return run_by_elem[op][op == K_select || op == K_lane ? type.elem : in.elem];
}
