/* kernel_eval.c - runs kernels on any machine: what kernel_ops.def says, lane by lane, and so the
 * measure of every printer.
 *
 * A kernel is prepared once a call: each value gets a fixed place in memory, each node that does
 * something becomes an instruction whose function is picked by op and element. One function
 * computes one op, so that no product and sum of a kernel can ever be contracted.
 *
 * What the table calls forbidden is reported: accesses outside of a buffer, division by less than
 * one, 16-bit sums that overflow. A float too large for its integer (the table does not say)
 * saturates, NaN gives 0. */
#include "ir/kernel.h"

#include <math.h>

typedef struct Ins Ins;
typedef const char *Run(const Ins *x); /* NULL, or what went wrong */

typedef struct {
  uint8_t *to;
  const uint8_t *from;
  uint32_t bytes;
} Move;

struct Ins {
  Run *run; /* NULL: structure and memory, done by the walk */
  void *out;
  const void *in[3];
  uint8_t op;
  uint8_t lanes; /* of the result */
  uint8_t src_lanes;
  uint16_t buf;
  uint32_t bytes;  /* of the value that is moved, loaded or stored */
  uint32_t target; /* loop: behind its end; end: its loop; if, else: where to go on */
  uint32_t n_moves;
  const Move *moves; /* loop: first values of its carries; end: the next ones */
  int64_t imm;
  const uint32_t *lane; /* shuffle */
  KVal node;
};

#define A(T)  const T *a = x->in[0]
#define AB(T) A(T), *b = x->in[1]
#define LANES for (unsigned l = 0; l < x->lanes; l++)

/* ---- arithmetic: one function for each op and element, from an expression of lane l */

#define EACH_INT(M, ...)                                                                                     \
  M(i8, int8_t, __VA_ARGS__)                                                                                 \
  M(u8, uint8_t, __VA_ARGS__)                                                                                \
  M(i16, int16_t, __VA_ARGS__)                                                                               \
  M(u16, uint16_t, __VA_ARGS__)                                                                              \
  M(i32, int32_t, __VA_ARGS__) M(u32, uint32_t, __VA_ARGS__) M(idx, int64_t, __VA_ARGS__)
#define EACH_ARITH(M, ...) EACH_INT(M, __VA_ARGS__) M(f32, float, __VA_ARGS__)
#define EACH_BITS(M, ...)  EACH_INT(M, __VA_ARGS__) M(mask, uint8_t, __VA_ARGS__)

#define ROW_INT(op)                                                                                          \
  {[KE_i8] = op##_i8,   [KE_u8] = op##_u8,   [KE_i16] = op##_i16, [KE_u16] = op##_u16,                       \
   [KE_i32] = op##_i32, [KE_u32] = op##_u32, [KE_idx] = op##_idx}
#define ROW_ARITH(op)                                                                                        \
  {[KE_i8] = op##_i8,   [KE_u8] = op##_u8,   [KE_i16] = op##_i16, [KE_u16] = op##_u16,                       \
   [KE_i32] = op##_i32, [KE_u32] = op##_u32, [KE_idx] = op##_idx, [KE_f32] = op##_f32}
#define ROW_BITS(op)                                                                                         \
  {[KE_i8] = op##_i8,   [KE_u8] = op##_u8,   [KE_i16] = op##_i16, [KE_u16] = op##_u16,                       \
   [KE_i32] = op##_i32, [KE_u32] = op##_u32, [KE_idx] = op##_idx, [KE_bool] = op##_mask}

#define LANEWISE1(E, T, op, R, expr)                                                                         \
  static const char *op##_##E(const Ins *x)                                                                  \
  {                                                                                                          \
    A(T);                                                                                                    \
    R *d = x->out;                                                                                           \
    LANES d[l] = (R)(expr);                                                                                  \
    return NULL;                                                                                             \
  }
#define LANEWISE2(E, T, op, R, expr)                                                                         \
  static const char *op##_##E(const Ins *x)                                                                  \
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
SAME2(f32, float, add, a[l] + b[l])
SAME2(f32, float, sub, a[l] - b[l])
SAME2(f32, float, mul, a[l] * b[l])
SAME2(f32, float, div, a[l] / b[l])
SAME1(f32, float, neg, -a[l])
SAME1(f32, float, abs, fabsf(a[l]))
SAME1(f32, float, sqrt, sqrtf(a[l]))
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

#define DIVISION(E, T, op, expr)                                                                             \
  static const char *op##_##E(const Ins *x)                                                                  \
  {                                                                                                          \
    AB(T);                                                                                                   \
    T *d = x->out;                                                                                           \
    LANES                                                                                                    \
    {                                                                                                        \
      if (b[l] <= 0)                                                                                         \
        return "divides by less than 1";                                                                     \
      d[l] = (T)(expr);                                                                                      \
    }                                                                                                        \
    return NULL;                                                                                             \
  }
EACH_INT(DIVISION, div, a[l] / b[l])
EACH_INT(DIVISION, rem, a[l] % b[l])

static const char *fma_f32(const Ins *x)
{
  AB(float), *c = x->in[2];
  float *d = x->out;
  LANES d[l] = fmaf(a[l], b[l], c[l]);
  return NULL;
}

/* lane: a is not read */
#define LANE(E, T, op)                                                                                       \
  static const char *op##_##E(const Ins *x)                                                                  \
  {                                                                                                          \
    T *d = x->out;                                                                                           \
    LANES d[l] = (T)l;                                                                                       \
    return NULL;                                                                                             \
  }
EACH_INT(LANE, lane)

/* ---- reductions: the upper half onto the lower, until one is left */

#define REDUCE(E, T, op, expr)                                                                               \
  static const char *op##_##E(const Ins *x)                                                                  \
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
REDUCE(f32, float, sum, d[l] + d[u])
EACH_ARITH(REDUCE, rmax, d[l] > d[u] ? d[l] : d[u])

/* ---- moving lanes: by the element's size */

#define EACH_SIZE(M) M(8, uint8_t) M(16, uint16_t) M(32, uint32_t) M(64, uint64_t)
#define ROW_SIZE(op)                                                                                         \
  {[KE_bool] = op##_8, [KE_i8] = op##_8,   [KE_u8] = op##_8,   [KE_i16] = op##_16, [KE_u16] = op##_16,       \
   [KE_i32] = op##_32, [KE_u32] = op##_32, [KE_idx] = op##_64, [KE_f16] = op##_16, [KE_f32] = op##_32}

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

/* ---- casts: through 64-bit integers or float, which hold every element */

#define TO_WIDE(E, T)                                                                                        \
  static const char *wide_##E(const Ins *x)                                                                  \
  {                                                                                                          \
    A(T);                                                                                                    \
    int64_t *d = x->out;                                                                                     \
    LANES d[l] = (int64_t)a[l];                                                                              \
    return NULL;                                                                                             \
  }
#define FROM_WIDE(E, T)                                                                                      \
  static const char *narrow_##E(const Ins *x)                                                                \
  {                                                                                                          \
    A(int64_t);                                                                                              \
    T *d = x->out;                                                                                           \
    LANES d[l] = (T)a[l];                                                                                    \
    return NULL;                                                                                             \
  }
#define WIDE(E, T, unused) TO_WIDE(E, T) FROM_WIDE(E, T)
EACH_INT(WIDE, )

static Run *const to_wide[KE_COUNT] = ROW_INT(wide), *const from_wide[KE_COUNT] = ROW_INT(narrow);

static int64_t float_to_int(float f, KElem to)
{
  unsigned bits = 8u * kelem_info[to].bytes - kelem_info[to].is_signed;
  double hi = ldexp(1.0, (int)bits), lo = kelem_info[to].is_signed ? -hi : 0.0;

  if (!(f >= lo)) /* NaN too */
    return f < lo ? (int64_t)lo : 0;
  return f < hi ? (int64_t)f : (int64_t)(UINT64_MAX >> (64 - bits));
}

static void to_float(const Ins *x, KElem from, float *f)
{
  const uint16_t *half = x->in[0];
  int64_t wide[K_MAX_LANES];

  if (from == KE_f32) {
    memcpy(f, x->in[0], sizeof *f * x->lanes);
  } else if (from == KE_f16) {
    LANES f[l] = f16_to_f32(half[l]);
  } else {
    to_wide[from](&(Ins){.out = wide, .in = {x->in[0]}, .lanes = x->lanes});
    LANES f[l] = (float)wide[l];
  }
}

/* imm: from, to */
static const char *cast(const Ins *x)
{
  KElem from = (KElem)(x->imm >> 8), to = (KElem)(x->imm & 255);
  int64_t wide[K_MAX_LANES];
  float f[K_MAX_LANES];
  uint16_t *half = x->out;

  if (kelem_info[to].is_float || kelem_info[from].is_float)
    to_float(x, from, f);
  if (to == KE_f32) {
    memcpy(x->out, f, sizeof *f * x->lanes);
  } else if (to == KE_f16) {
    LANES half[l] = f32_to_f16(f[l]);
  } else {
    if (kelem_info[from].is_float)
      LANES wide[l] = float_to_int(f[l], to);
    else
      to_wide[from](&(Ins){.out = wide, .in = {x->in[0]}, .lanes = x->lanes});
    from_wide[to](&(Ins){.out = x->out, .in = {wide}, .lanes = x->lanes});
  }
  return NULL;
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
    [K_lane] = ROW_INT(lane),       [K_splat] = ROW_SIZE(splat),      [K_extract] = ROW_SIZE(extract),
    [K_add] = ROW_ARITH(add),       [K_sub] = ROW_ARITH(sub),         [K_mul] = ROW_ARITH(mul),
    [K_div] = ROW_ARITH(div),       [K_rem] = ROW_INT(rem),           [K_neg] = ROW_ARITH(neg),
    [K_abs] = ROW_ARITH(abs),       [K_min] = ROW_ARITH(min),         [K_max] = ROW_ARITH(max),
    [K_fma] = {[KE_f32] = fma_f32}, [K_sqrt] = {[KE_f32] = sqrt_f32}, [K_and] = ROW_BITS(and),
    [K_or] = ROW_BITS(or),          [K_xor] = ROW_BITS(xor),          [K_shl] = ROW_INT(shl),
    [K_shr] = ROW_INT(shr),         [K_lt] = ROW_ARITH(lt),           [K_le] = ROW_ARITH(le),
    [K_eq] = ROW_ARITH(eq),         [K_select] = ROW_SIZE(select),    [K_sum] = ROW_ARITH(sum),
    [K_rmax] = ROW_ARITH(rmax),     [K_shuffle] = ROW_SIZE(shuffle),
};
static Run *const run_by_op[K_COUNT] = {
    [K_grid] = move, [K_cast] = cast,   [K_bitcast] = move, [K_dot4] = dot4,
    [K_dot2] = dot2, [K_dot2w] = dot2w, [K_widen] = widen,
};

static Run *pick_run(KOp op, KType type, KType in)
{
  if (run_by_op[op])
    return run_by_op[op];
  if (op == K_splat && in.elem != type.elem)
    return splat_dword;
  return run_by_elem[op][op == K_select || op == K_lane ? type.elem : in.elem];
}

/* ---- preparing */

typedef struct {
  const Kernel *k;
  void *const *buf;
  const uint64_t *buf_bytes;
  const int32_t *args;
  Err *e;
  Arena tmp;
  void **value; /* where each node's value lies */
  ARRAY(Ins) ins;
  ARRAY(uint32_t) open; /* instructions of loops, ifs and elses not yet closed */
  uint8_t *moving;      /* next values of carries on their way: they may be carries themselves */
  int64_t grid;
} Eval;

static void put_const(uint8_t *out, const KNode *n)
{
  uint32_t bytes = kelem_info[n->type.elem].bytes;
  float f = (float)n->imm.f;
  uint8_t one = n->imm.i & 1;

  for (unsigned l = 0; l < n->type.lanes; l++, out += bytes)
    if (n->type.elem == KE_f32)
      memcpy(out, &f, sizeof f);
    else if (n->type.elem == KE_bool)
      *out = one;
    else
      from_wide[n->type.elem](&(Ins){.out = out, .in = {&n->imm.i}, .lanes = 1});
}

static Ins plain_ins(const Eval *v, KVal at)
{
  const KNode *n = kernel_node(v->k, at);
  uint32_t n_in = n->op == K_shuffle ? 2 : n->in.count < 3 ? n->in.count : 3;
  KType in = n_in ? kernel_node(v->k, kernel_in(v->k, at, n->op == K_store))->type : n->type;
  Ins x = {.run = pick_run((KOp)n->op, n->type, in),
           .out = v->value[at],
           .op = n->op,
           .lanes = n->type.lanes,
           .src_lanes = in.lanes,
           .buf = n->buf,
           .bytes = ktype_bytes(n->op == K_store ? in : n->type),
           .imm = n->op == K_cast ? in.elem << 8 | n->type.elem : n->imm.i,
           .node = at};

  for (uint32_t i = 0; i < n_in; i++)
    x.in[i] = v->value[kernel_in(v->k, at, i)];
  if (n->op == K_shuffle)
    x.lane = &v->k->edges.data[n->in.first + 2];
  if (n->op == K_grid)
    x.in[0] = &v->grid;
  return x;
}

/* The values `from` for the carries behind a loop. */
static void add_moves(Eval *v, Ins *x, KVal loop, const uint32_t *from, uint32_t n)
{
  Move *m = NEW_ARRAY(&v->tmp, Move, n);
  for (uint32_t i = 0; i < n; i++) {
    KVal carry = loop + 1 + i, src = from ? from[i] : kernel_in(v->k, carry, 0);
    m[i] = (Move){v->value[carry], v->value[src], ktype_bytes(kernel_node(v->k, carry)->type)};
  }
  x->moves = m;
  x->n_moves = n;
}

static void open_loop(Eval *v, KVal at)
{
  Ins x = plain_ins(v, at);
  uint32_t n = 0;

  while (at + 1 + n < v->k->nodes.len && kernel_node(v->k, at + 1 + n)->op == K_carry)
    n++;
  add_moves(v, &x, at, NULL, n);
  *PUSH(&v->tmp, v->open) = v->ins.len;
  *PUSH(&v->tmp, v->ins) = x;
}

static void open_branch(Eval *v, KVal at)
{
  if (kernel_node(v->k, at)->op == K_else)
    v->ins.data[v->open.data[--v->open.len]].target = v->ins.len + 1;
  *PUSH(&v->tmp, v->open) = v->ins.len;
  *PUSH(&v->tmp, v->ins) = plain_ins(v, at);
}

static void close_any(Eval *v, KVal at)
{
  uint32_t head = v->open.data[--v->open.len];
  const KNode *n = kernel_node(v->k, at);

  if (v->ins.data[head].op == K_loop) {
    Ins x = {.op = K_end, .target = head};
    add_moves(v, &x, v->ins.data[head].node, v->k->edges.data + n->in.first, n->in.count);
    *PUSH(&v->tmp, v->ins) = x;
  }
  v->ins.data[head].target = v->ins.len;
}

static bool prepare_node(Eval *v, KVal at)
{
  const KNode *n = kernel_node(v->k, at);

  switch (n->op) {
  case K_const: put_const(v->value[at], n); break;
  case K_arg:
    if (n->imm.i < 0 || n->imm.i >= K_ARGS)
      return fail(v->e, "kernel '%s': %%%u = arg: there is no argument %lld", v->k->name, at,
                  (long long)n->imm.i);
    if (n->type.elem == KE_idx)
      memcpy(v->value[at], &(int64_t){v->args[n->imm.i]}, sizeof(int64_t));
    else
      memcpy(v->value[at], &v->args[n->imm.i], sizeof *v->args);
    break;
  case K_carry: break;
  case K_loop: open_loop(v, at); break;
  case K_if:
  case K_else: open_branch(v, at); break;
  case K_end: close_any(v, at); break;
  default: *PUSH(&v->tmp, v->ins) = plain_ins(v, at);
  }
  return true;
}

static bool prepare(Eval *v)
{
  uint32_t n = v->k->nodes.len;
  uint64_t bytes = 0;

  v->value = NEW_ARRAY(&v->tmp, void *, n);
  for (KVal i = 1; i < n; i++)
    bytes += round_up(ktype_bytes(kernel_node(v->k, i)->type), 16);
  uint8_t *at = arena_alloc(&v->tmp, bytes);
  v->moving = arena_alloc(&v->tmp, bytes);
  for (KVal i = 1; i < n; i++) {
    v->value[i] = at;
    at += round_up(ktype_bytes(kernel_node(v->k, i)->type), 16);
  }
  for (KVal i = 1; i < n; i++)
    if (!prepare_node(v, i))
      return false;
  return true;
}

/* ---- walking */

static bool wrong(const Eval *v, const Ins *x, const char *what)
{
  return fail(v->e, "kernel '%s', iteration %lld: %%%u = %s: %s", v->k->name, (long long)v->grid, x->node,
              kop_info[x->op].name, what);
}

static bool find_memory(const Eval *v, const Ins *x, uint8_t **p)
{
  int64_t index = *(const int64_t *)x->in[0], at;
  uint32_t elem_bytes = kelem_info[v->k->params.data[x->buf].elem].bytes;
  uint64_t size = v->buf_bytes[x->buf];

  if (!__builtin_add_overflow(index, x->imm, &at) && !__builtin_mul_overflow(at, elem_bytes, &at) &&
      at >= 0 && x->bytes <= size && (uint64_t)at <= size - x->bytes) {
    *p = (uint8_t *)v->buf[x->buf] + at;
    return true;
  }
  return fail(v->e,
              "kernel '%s', iteration %lld: %%%u = %s: %u bytes at %s[%lld + %lld] are outside of its %llu",
              v->k->name, (long long)v->grid, x->node, kop_info[x->op].name, x->bytes,
              v->k->params.data[x->buf].name, (long long)index, (long long)x->imm, (unsigned long long)size);
}

static void move_carries(Eval *v, const Ins *x)
{
  uint8_t *at = v->moving;

  for (const Move *m = x->moves; m < x->moves + x->n_moves; at += m++->bytes)
    memcpy(at, m->from, m->bytes);
  at = v->moving;
  for (const Move *m = x->moves; m < x->moves + x->n_moves; at += m++->bytes)
    memcpy(m->to, at, m->bytes);
}

/* Whether the loop goes on; an index beyond 64 bits is beyond its bound too. */
static bool next_index(const Ins *loop)
{
  int64_t *i = loop->out;
  return !__builtin_add_overflow(*i, loop->imm, i) && *i < *(const int64_t *)loop->in[1];
}

/* Memory and structure; *pc stands behind x. */
static bool step(Eval *v, const Ins *x, uint32_t *pc)
{
  uint8_t *p;

  switch (x->op) {
  case K_load:
    if (!find_memory(v, x, &p))
      return false;
    memcpy(x->out, p, x->bytes);
    break;
  case K_prefetch: break;
  case K_store:
    if (!find_memory(v, x, &p))
      return false;
    memcpy(p, x->in[1], x->bytes);
    break;
  case K_loop:
    memcpy(x->out, x->in[0], sizeof(int64_t));
    move_carries(v, x);
    if (*(const int64_t *)x->in[0] >= *(const int64_t *)x->in[1])
      *pc = x->target;
    break;
  case K_if:
    if (!*(const uint8_t *)x->in[0])
      *pc = x->target;
    break;
  case K_else: *pc = x->target; break;
  case K_end:
    move_carries(v, x);
    if (next_index(&v->ins.data[x->target]))
      *pc = x->target + 1;
    break;
  default: return wrong(v, x, "has no meaning for its element");
  }
  return true;
}

static bool iterate(Eval *v)
{
  for (uint32_t pc = 0; pc < v->ins.len;) {
    const Ins *x = &v->ins.data[pc++];
    const char *what = x->run ? x->run(x) : NULL;
    if (what)
      return wrong(v, x, what);
    if (!x->run && !step(v, x, &pc))
      return false;
  }
  return true;
}

bool kernel_eval(const Kernel *k, void *const *buf, const uint64_t *buf_bytes, const int32_t *args,
                 int64_t lo, int64_t hi, Err *e)
{
  Eval v = {.k = k, .buf = buf, .buf_bytes = buf_bytes, .args = args, .e = e};
  bool ok = kernel_verify(k, e) && prepare(&v);

  for (v.grid = lo; ok && v.grid < hi; v.grid++)
    ok = iterate(&v);
  arena_free(&v.tmp);
  return ok;
}
