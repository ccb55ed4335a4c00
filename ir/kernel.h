/* kernel.h - the kernel IR: one loop nest over buffers, written for no language.
 *
 * Nodes stand in one list in program order; `loop`, `if`, `else` and `end` give it structure.
 * A carry may be used after its loop: it is then the loop's last value. */
#ifndef MICC_KERNEL_H
#define MICC_KERNEL_H

#include "ir/base.h"
#include "ir/graph.h" /* Slice */

typedef uint32_t KVal; /* index of a node in its kernel; 0 is none */

typedef enum {
  K_none,
#define KOP(name, ...) K_##name,
#include "ir/kernel_ops.def"
#undef KOP
  K_COUNT
} KOp;

/* Elements. `idx` is the type of indices: 64 bits on a CPU. Integers stand together, in this order.
 * f16 and bf16 are only moved and cast. In memory a bool is a byte: stored as 0 or 1, true if not 0. */
typedef enum {
  KE_none,
  KE_bool,
  KE_i8,
  KE_u8,
  KE_i16,
  KE_u16,
  KE_i32,
  KE_u32,
  KE_i64,
  KE_u64,
  KE_idx,
  KE_f16,
  KE_bf16,
  KE_f32,
  KE_f64,
  KE_COUNT
} KElem;

typedef struct {
  const char *name;
  uint8_t bytes;
  bool is_float, is_signed;
} KElemInfo;
extern const KElemInfo kelem_info[KE_COUNT];

enum { K_MAX_LANES = 128 };
enum {
  K_CONSTANT = 3,
  K_CONSTANTS = 7,
  K_ARGS = K_CONSTANT + K_CONSTANTS
}; /* of `arg`: the grid's constants come last */

typedef struct {
  uint8_t elem;  /* KElem */
  uint8_t lanes; /* 1: a scalar */
} KType;

typedef enum { KI_NONE, KI_INT, KI_CONST, KI_MEM, KI_LANES } KImm;
typedef enum { KT_GIVEN, KT_SAME, KT_COND, KT_NONE } KTypeRule;

typedef struct {
  const char *name;
  int inputs;
  KImm imm;
  KTypeRule type;
  const char *doc;
} KOpInfo;
extern const KOpInfo kop_info[K_COUNT];

typedef struct {
  uint8_t op; /* KOp */
  KType type;
  uint16_t buf; /* load, store: parameter */
  Slice in;     /* inputs, in the kernel's edge array; shuffle: two inputs, then the lane numbers */
  union {
    int64_t i; /* INT, MEM (element offset); CONST of integers and bool */
    double f;  /* CONST of f32 and f64 (f32 values are exact in it) */
  } imm;
} KNode;

typedef enum { KA_READ, KA_WRITE, KA_BOTH, KA_SCRATCH } KAccess;

typedef struct {
  const char *name;
  KElem elem;
  KAccess access; /* SCRATCH: memory of one thread, any content at the start of an iteration */
} KParam;

typedef struct {
  Arena *arena;
  const char *name;
  ARRAY(KParam) params; /* distinct parameters never overlap in memory */
  ARRAY(KNode) nodes;   /* nodes.data[0] is the none node */
  ARRAY(uint32_t) edges;
  uint64_t scratch_bytes; /* size of the scratch parameter's memory, 0 if it has none */
} Kernel;

Kernel *kernel_new(Arena *a, const char *name);
uint16_t kernel_param(Kernel *k, const char *name, KElem elem, KAccess access);

/* The one way to append: checks arity and types by the table (asserts). */
KVal kernel_add(Kernel *k, KOp op, KType type, const KVal *in, uint32_t n_in, int64_t imm);

/* Node `v` of another kernel, as a node of type `type` of this one; map: what its values are here. */
KVal kernel_copy_node(Kernel *k, const Kernel *from, KVal v, KType type, const KVal *map);

/* what arithmetic takes */
static inline bool kelem_is_int(unsigned e)
{
  return e >= KE_i8 && e <= KE_idx;
}
static inline bool kelem_is_real(unsigned e)
{
  return e == KE_f32 || e == KE_f64;
}
static inline KType ktype(KElem e, unsigned lanes)
{
  return (KType){(uint8_t)e, (uint8_t)lanes};
}
static inline bool ktype_eq(KType a, KType b)
{
  return a.elem == b.elem && a.lanes == b.lanes;
}
static inline uint32_t ktype_bytes(KType t)
{
  return kelem_info[t.elem].bytes * (uint32_t)t.lanes;
}
static inline KNode *kernel_node(const Kernel *k, KVal v)
{
  return &k->nodes.data[v];
}
static inline KVal kernel_in(const Kernel *k, KVal v, uint32_t i)
{
  return k->edges.data[k->nodes.data[v].in.first + i];
}

/* ---- builders: thin, typed by their inputs */
KVal k_grid(Kernel *k);
KVal k_arg(Kernel *k, int n); /* as idx */
KVal k_int(Kernel *k, KType t, int64_t v);
KVal k_flt(Kernel *k, unsigned lanes, double v); /* f32, rounded to float */
KVal k_real(Kernel *k, KType t, double v);       /* f32 or f64 */
KVal k_idx(Kernel *k, int64_t v);
KVal k_loop(Kernel *k, KVal lo, KVal hi, int64_t step);
KVal k_carry(Kernel *k, KVal first);
void k_end(Kernel *k, const KVal *next, uint32_t n);
void k_if(Kernel *k, KVal cond);
void k_else(Kernel *k);
KVal k_load(Kernel *k, KType t, uint16_t buf, KVal at, int64_t off);
void k_store(Kernel *k, uint16_t buf, KVal at, int64_t off, KVal v);
void k_prefetch(Kernel *k, uint16_t buf, KVal at, int64_t off);
KVal k_splat(Kernel *k, KType t, KVal scalar);
KVal k_extract(Kernel *k, KVal v, unsigned lane);
KVal k_shuffle(Kernel *k, KVal a, KVal b, const uint8_t *lanes, unsigned n);
KVal k_op1(Kernel *k, KOp op, KVal a);
KVal k_op2(Kernel *k, KOp op, KVal a, KVal b);
KVal k_fma(Kernel *k, KVal a, KVal b, KVal c);
KVal k_shift(Kernel *k, KOp op, KVal a, int64_t by);
KVal k_select(Kernel *k, KVal c, KVal a, KVal b);
KVal k_cast(Kernel *k, KElem to, KVal v);
KVal k_cast_sat(Kernel *k, KElem to, KVal v); /* as k_cast, but floats to integers saturate, NaN gives 0 */
KVal k_bitcast(Kernel *k, KType to, KVal v);
KVal k_dot(Kernel *k, KOp op, KVal sum, KVal a, KVal b);
KVal k_reduce(Kernel *k, KOp op, KVal v); /* K_sum or K_rmax, to a scalar */

/* ---- functions expanded in the IR; maximum errors are stated where they are (kernel_math.c). f32 or f64, as IEEE 754
 * has it at the ends and for nan; the sign of a zero result may be lost */
KVal k_exp_ieee(Kernel *k, KVal x);
KVal k_log(Kernel *k, KVal x);
KVal k_tanh(Kernel *k, KVal x);
KVal k_sigmoid_ieee(Kernel *k, KVal x);
KVal k_erf(Kernel *k, KVal x);
KVal k_atan(Kernel *k, KVal x);
KVal k_sin(Kernel *k, KVal x);
KVal k_cos(Kernel *k, KVal x);
KVal k_pow(Kernel *k, KVal x, KVal y);
KVal k_max_nan(Kernel *k, KVal a, KVal b); /* nan if one is; any element */
KVal k_min_nan(Kernel *k, KVal a, KVal b);
/* f32; faster, and other at the ends */
KVal k_exp(Kernel *k, KVal x);      /* never 0 or inf */
KVal k_exp_or_0(Kernel *k, KVal x); /* 0 where it would be subnormal, or soon become so */
KVal k_sigmoid(Kernel *k, KVal x);
KVal k_round(Kernel *k, KVal x);                              /* to nearest even, |x| < 2^22 */
void k_sincos_turns(Kernel *k, KVal turns, KVal *s, KVal *c); /* of 2 pi * turns, |turns| <= 0.5 */
void k_sincos(Kernel *k, KVal radians, KVal *s, KVal *c);

bool kernel_verify(const Kernel *k, Err *e);
bool kernel_check_node(const Kernel *k, KVal v, Err *e); /* what its row asks of types and immediates */

/* ---- text form (kernel_text.c)
 *   kernel mv.q4_0 (w: u8, x: i8, y: f32 write, s: f32 scratch 256) {
 *     %1 = grid idx
 *     %2 = const f32x8 0
 *     %3 = const idx 0
 *     %4 = const idx 18
 *     %5 = loop idx %3, %4, 1
 *       %6 = carry f32x8 %2
 *       %7 = load f32x8 x[%5 + 16]
 *       %8 = fma f32x8 %7, %7, %6
 *     end %8
 *     store y[%1], %6
 *   } */
void kernel_print(const Kernel *k, Text *out);
Kernel *kernel_parse(Arena *a, const char *text, const char *file, Err *e);

/* ---- the kernel interpreter (kernel_eval.c): runs grid iterations lo .. hi-1 at any lane count on
 * any machine. buf[i] is parameter i's memory of buf_bytes[i] bytes; an access outside fails with a line
 * in *e. */
bool kernel_eval(const Kernel *k, void *const *buf, const uint64_t *buf_bytes, const int32_t *args,
                 int64_t lo, int64_t hi, Err *e);

#endif
