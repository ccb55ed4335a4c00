/* quantize.c - blocks of 32 numbers to 8 bits: rows, attention and products end with it.
 *
 * Of a few scales the one with the least squared error is taken: the largest number becomes 127, 126, 125 or 124. All four are
 * nearly as fine as the finest, and how their errors fall is chance: the best is 15 % below the first on the average.
 * The scales are tried in a loop: the code is a quarter of four trials' side by side, and no slower. Their errors wait as vectors,
 * and are summed and compared side by side, for as many blocks as make a vector of sums: what is done for a block's numbers
 * (maximum, inverse, scale, sums of codes) is then done once for all. A block comes out the same in any company. */
#include <assert.h>
#include <limits.h>

#include "passes/lower/dot.h"
#include "passes/lower/panel.h"

enum {
  QUANT_TOP = 127,
  QUANT_TRIALS = 4,
  MAX_BLOCKS = 4,
  MAX_VECTORS = QBLOCK / 4, /* of blocks side by side */
  SUM_BIAS_BITS = 0x4b400000,
  TOP_BITS = 0x42fe0000, /* of 127.0f; below it, down to 64, one less is this bit less: */
  TOP_ONE_BIT = 17,
  Q6_K_ZERO_BITS = 5
};

/* Which arrays of numbers that sums start with: a bit each, and for halves of blocks. And whether scale * sum. */
typedef struct {
  unsigned start;
  bool start16, ssum;
} Numbers;

static Q8a open_arrays(Lower *l, Val v, KAccess access, Numbers n)
{
  const Type *t = &graph_node(l->g, v)->type;
  Q8aLayout lay = lower_q8a(l, type_rows(t), type_last(t));
  uint32_t buffer = lower_place(l, lower_base(l, v))->buffer;
  Q8a q = {.q = lower_param(l, buffer, 0, KE_i8, access, "q"),
           .scale = lower_param(l, buffer, lay.scale, KE_f32, access, "qscale"),
           .start16 = Q8A_NONE,
           .ssum = Q8A_NONE,
           .wide = Q8A_NONE,
           .columns = type_last(t)};

  if (n.start16)
    q.start16 = lower_param(l, buffer, lay.start16, KE_i32, access, "qstart16");
  if (n.ssum)
    q.ssum = lower_param(l, buffer, lay.ssum, KE_f32, access, "qssum");
  for (unsigned i = 0; i < l->zeros.n; i++)
    q.start[i] = n.start >> i & 1 ? lower_param(l, buffer, lay.start[i], KE_i32, access, "qstart") : Q8A_NONE;
  return q;
}

Q8a lower_q8a_made(Lower *l, Val v)
{
  Q8a q = open_arrays(l, v, KA_WRITE, (Numbers){UINT_MAX, true, true});

  if (lower_is_wide(l, v))
    q.wide = lower_wide_codes(l, v, KA_WRITE);
  return q;
}

Q8a lower_q8a_used(Lower *l, Val v, DType t)
{
  const PanelSpec *s = panel_spec(t);
  int zero = lower_zero_code(t), shifted = zero << lower_zero_shift(t);
  bool halves = s->sub && s->sub < QBLOCK;
  Numbers n = {.start16 = zero && halves, .ssum = s->min};

  if (zero && !halves)
    n.start = 1u << lower_start_array(l, zero) | 1u << lower_start_array(l, shifted);
  return open_arrays(l, v, KA_READ, n);
}

int lower_zero_code(DType t)
{
  return dtype_info[t].zero - dtype_info[t].lo;
}

int lower_zero_shift(DType t)
{
  int zero = lower_zero_code(t), top = dtype_info[t].hi - dtype_info[t].lo, by = 0;

  while (zero && zero << by < QZERO && top << (by + 1) <= UINT8_MAX)
    by++;
  return by;
}

unsigned lower_start_array(const Lower *l, int zero)
{
  const Zeros *z = &l->zeros;

  for (unsigned i = 0; i < z->n; i++)
    if (zero == 1 << z->bits[i])
      return i;
  return 0;
}

bool lower_is_wide(const Lower *l, Val v)
{
  int64_t rows = 0, wide = 0;

  if (type_rows(&graph_node(l->g, v)->type) < 2 || l->lanes <= 4 ||
      lower_dot_plan(l->target, DT_Q8_0).kind != DOT2W)
    return false;
  for (Val u = 1; u < l->g->nodes.len; u++) {
    if (graph_node(l->g, u)->op != OP_linear || lower_base(l, graph_in(l->g, u, 0)) != lower_base(l, v))
      continue;
    const Type *w = &graph_node(l->g, lower_base(l, graph_in(l->g, u, 1)))->type;
    rows += w->dim[0];
    wide += w->dtype == DT_Q8_0 ? w->dim[0] : 0;
  }
  return wide * 2 > rows;
}

uint16_t lower_wide_codes(Lower *l, Val v, KAccess access)
{
  const Type *t = &graph_node(l->g, v)->type;
  uint32_t buffer = lower_place(l, lower_base(l, v))->buffer;
  return lower_param(l, buffer, lower_q8a(l, type_rows(t), type_last(t)).bytes, KE_i16, access, "qwide");
}

int32_t lower_sum_bias(const Target *t)
{
  return t->fma ? SUM_BIAS_BITS : 0;
}

static KVal mul(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_mul, a, b);
}

static void add_zero(Zeros *z, DType t)
{
  int zero = lower_zero_code(t);
  uint8_t bits = 0;
  unsigned i = 0;

  while (zero >> (bits + 1))
    bits++;
  if (!zero || panel_spec(t)->sub)
    return;
  while (i < z->n && z->bits[i] != bits)
    i++;
  assert(i < MAX_ZEROS);
  z->bits[i] = bits;
  z->n = i == z->n ? i + 1 : z->n;
}

Zeros lower_zeros(const Module *m)
{
  Zeros z = {1, {QZERO_BITS}};

  for (uint32_t i = 0; i < m->graphs.len; i++) {
    const Graph *g = m->graphs.data[i];
    for (Val v = 1; v < g->nodes.len; v++)
      if (graph_node(g, v)->op == OP_linear && graph_node(g, graph_in(g, v, 0))->type.dtype == DT_Q8A)
        add_zero(&z, graph_node(g, graph_in(g, v, 1))->type.dtype);
  }
  return z;
}

/* Halves of blocks are q6_K's alone. */
unsigned lower_half_zero(const Target *t)
{
  return lower_dot_plan(t, DT_Q6_K).kind == DOT4 ? QZERO_BITS : Q6_K_ZERO_BITS;
}

static KVal start_of(Lower *l, KVal sum, unsigned zero_bits)
{
  KType i32 = kernel_node(l->k, sum)->type;
  return k_op2(l->k, K_sub, k_int(l->k, i32, lower_sum_bias(l->target)),
               mul(l->k, sum, k_int(l->k, i32, 1 << zero_bits)));
}

/* ---- lanes */

/* Lanes first, first + step, .. of a vector. */
static KVal lanes_of(Kernel *k, KVal v, unsigned first, unsigned step, unsigned n)
{
  uint8_t lane[K_MAX_LANES];

  for (unsigned i = 0; i < n; i++)
    lane[i] = (uint8_t)(first + i * step);
  if (step == 1 && n == kernel_node(k, v)->type.lanes)
    return v;
  return n == 1 ? k_extract(k, v, first) : k_shuffle(k, v, v, lane, n);
}

/* Two vectors to one, or the one that is left to itself: lanes `first` of them and `second`. Returns how many are left. */
static unsigned combine(Kernel *k, KOp op, KVal *v, unsigned n, const uint8_t *first, const uint8_t *second,
                        unsigned lanes)
{
  bool whole = n == 1 && lanes == kernel_node(k, v[0])->type.lanes; /* `first` is every lane */

  for (unsigned i = 0; i < n; i += 2) {
    KVal a = v[i], b = v[n > 1 ? i + 1 : i];
    v[i / 2] = k_op2(k, op, whole ? a : k_shuffle(k, a, b, first, lanes), k_shuffle(k, a, b, second, lanes));
  }
  return (n + 1) / 2;
}

/* `left` lanes of each four belong to one result, of which there are `together` side by side: half as many are left. */
static unsigned over_fours(Kernel *k, KOp op, KVal *v, unsigned n, unsigned together, unsigned left)
{
  unsigned lanes = kernel_node(k, v[0])->type.lanes;
  uint8_t first[K_MAX_LANES], second[K_MAX_LANES];

  for (unsigned i = 0; i < lanes; i++) {
    unsigned in = i % 4, of = in / (2 * together) * together + in % together;
    first[i] = (uint8_t)(i - in + of + (in / together % 2 ? lanes : 0));
    second[i] = (uint8_t)(n > 1 ? first[i] + 2u : i ^ (left / 2 * together));
  }
  return combine(k, op, v, n, first, second, lanes);
}

/* Of each `part` lanes the upper half to the lower. */
static unsigned over_halves(Kernel *k, KOp op, KVal *v, unsigned n, unsigned part)
{
  unsigned lanes = kernel_node(k, v[0])->type.lanes / (n > 1 ? 1 : 2);
  uint8_t first[K_MAX_LANES], second[K_MAX_LANES];

  for (unsigned i = 0; i < lanes; i++) {
    first[i] = (uint8_t)(i / (part / 2) * part + i % (part / 2));
    second[i] = (uint8_t)(first[i] + part / 2);
  }
  return combine(k, op, v, n, first, second, lanes);
}

/* Within each four first: there a shuffle of two vectors is one short instruction on all targets. The order of a vector's lanes
 * is the same in any company: lanes 0 and 2, 1 and 3, both; then fours by halves. */
KVal lower_over_lanes(Kernel *k, KOp op, KVal *v, unsigned n)
{
  unsigned results = n;

  for (unsigned left = 4; left > 1; left /= 2)
    n = over_fours(k, op, v, n, results / n, left);
  for (unsigned part = kernel_node(k, v[0])->type.lanes; part > 4; part /= 2)
    n = over_halves(k, op, v, n, part);
  return lanes_of(k, v[0], 0, 1, results);
}

static KVal lane_to_all(Kernel *k, KVal v, unsigned lane, unsigned lanes)
{
  KType t = kernel_node(k, v)->type;
  return t.lanes == 1 ? k_splat(k, ktype(t.elem, lanes), v) : lanes_of(k, v, lane, 0, lanes);
}

/* The least of each four lanes, in all of them. */
static KVal least_of_fours(Kernel *k, KVal v)
{
  unsigned lanes = kernel_node(k, v)->type.lanes;
  uint8_t lane[K_MAX_LANES];

  for (unsigned by = 1; by < QUANT_TRIALS; by *= 2) {
    for (unsigned i = 0; i < lanes; i++)
      lane[i] = (uint8_t)(i ^ by);
    v = k_op2(k, K_min, v, k_shuffle(k, v, v, lane, lanes));
  }
  return v;
}

/* ---- blocks side by side */

typedef struct {
  Lower *l;
  unsigned n, vecs; /* blocks; vectors of each */
  KVal x[MAX_VECTORS];
} Blocks;

/* Of each block, as lanes of a vector. Numbers without a sign are in the order of their bits, and integers are compared sooner. */
static KVal maxima(const Blocks *b)
{
  Kernel *k = b->l->k;
  KVal max[MAX_BLOCKS];

  for (unsigned i = 0; i < b->n; i++)
    for (unsigned j = 0; j < b->vecs; j++) {
      KVal x = k_bitcast(k, ktype(KE_i32, b->l->lanes), k_op1(k, K_abs, b->x[i * b->vecs + j]));
      max[i] = j ? k_op2(k, K_max, max[i], x) : x;
    }
  return k_bitcast(k, ktype(KE_f32, b->n), lower_over_lanes(k, K_max, max, b->n));
}

/* Numbers become fractions of their block's largest. */
static void divide(Blocks *b, KVal inv_max)
{
  Kernel *k = b->l->k;

  for (unsigned i = 0; i < b->n; i++) {
    KVal inv = lane_to_all(k, inv_max, i, b->l->lanes);
    for (unsigned j = 0; j < b->vecs; j++)
      b->x[i * b->vecs + j] = mul(k, b->x[i * b->vecs + j], inv);
  }
}

/* top * x, rounded to the low bits of a float whose unit is 1. */
static KVal rounded(Kernel *k, KVal x, KVal top)
{
  return k_fma(k, x, top, k_flt(k, kernel_node(k, x)->type.lanes, SUM_BIAS));
}

/* The squared error of a block where the largest number becomes `top`, in units of its scale: summed later. */
static KVal error_of(const Blocks *b, unsigned block, KVal top)
{
  Kernel *k = b->l->k;
  KVal error = 0, big = k_flt(k, b->l->lanes, SUM_BIAS);

  for (unsigned j = 0; j < b->vecs; j++) {
    KVal x = b->x[block * b->vecs + j], less = k_op2(k, K_sub, big, rounded(k, x, top));
    KVal e = k_fma(k, x, top, less);
    error = error ? k_fma(k, e, e, error) : mul(k, e, e);
  }
  return error;
}

/* Of all trials of each block, first to last: queues of carries. */
static void trial_errors(const Blocks *b, KVal *error)
{
  Kernel *k = b->l->k;
  unsigned lanes = b->l->lanes, n = b->n * QUANT_TRIALS;
  KVal first = k_flt(k, lanes, QUANT_TOP), none = k_flt(k, lanes, 0.0), next[1 + MAX_BLOCKS * QUANT_TRIALS];

  (void)k_loop(k, k_idx(k, 0), k_idx(k, QUANT_TRIALS), 1);
  KVal top = k_carry(k, first);
  for (unsigned i = 0; i < n; i++)
    error[i] = k_carry(k, none);
  next[0] = k_op2(k, K_sub, top, k_flt(k, lanes, 1.0));
  for (unsigned i = 0; i < n; i++)
    next[1 + i] = i % QUANT_TRIALS < QUANT_TRIALS - 1 ? error[i + 1] : error_of(b, i / QUANT_TRIALS, top);
  k_end(k, next, 1 + n);
}

/* What the largest number of each block becomes: four times, for the trials. Errors are compared by their bits, of which the last
 * two give way to the trial: of (nearly) equal ones the first. */
static KVal best_tops(const Blocks *b)
{
  Kernel *k = b->l->k;
  unsigned lanes = b->n * QUANT_TRIALS;
  KVal error[MAX_BLOCKS * QUANT_TRIALS];
  KType i32 = ktype(KE_i32, lanes);
  KVal which = k_int(k, i32, QUANT_TRIALS - 1);

  trial_errors(b, error);
  KVal trial = k_op2(k, K_and, kernel_add(k, K_lane, i32, NULL, 0, 0), which);
  KVal unit = k_op2(k, K_div, k_flt(k, lanes, 1.0),
                    k_op2(k, K_sub, k_flt(k, lanes, QUANT_TOP), k_cast(k, KE_f32, trial)));
  KVal bits = k_bitcast(k, i32, mul(k, lower_over_lanes(k, K_add, error, lanes), mul(k, unit, unit)));
  bits = k_op2(k, K_or, k_op2(k, K_and, bits, k_int(k, i32, -QUANT_TRIALS)), trial);
  KVal best = k_shift(k, K_shl, k_op2(k, K_and, least_of_fours(k, bits), which), TOP_ONE_BIT);
  return k_bitcast(k, ktype(KE_f32, lanes), k_op2(k, K_sub, k_int(k, i32, TOP_BITS), best));
}

/* Codes, to memory; returns the sums of the first and the second half of each block. */
static KVal put_codes(const Blocks *b, const Q8a *to, KVal block, int64_t step, KVal tops)
{
  Kernel *k = b->l->k;
  KType i32 = ktype(KE_i32, b->l->lanes);
  unsigned half = b->vecs / 2;
  KVal sum[2 * MAX_BLOCKS], at = idx_mul(k, block, QBLOCK);

  for (unsigned i = 0; i < b->n; i++) {
    KVal top = lane_to_all(k, tops, i * QUANT_TRIALS, b->l->lanes);
    for (unsigned j = 0; j < b->vecs; j++) {
      KVal code = k_bitcast(k, i32, rounded(k, b->x[i * b->vecs + j], top)), *s = &sum[2 * i + j / half];
      k_store(k, to->q, at, i * step * QBLOCK + j * b->l->lanes, k_cast(k, KE_i8, code));
      if (to->wide != Q8A_NONE)
        k_store(k, to->wide, at, i * step * QBLOCK + j * b->l->lanes, k_cast(k, KE_i16, code));
      *s = j % half ? k_op2(k, K_add, *s, code) : code;
    }
  }
  KVal sums = lower_over_lanes(k, K_add, sum, 2 * b->n);
  return k_op2(k, K_sub, sums,
               k_int(k, ktype(KE_i32, 2 * b->n), (int32_t)(QBLOCK / 2 * (uint32_t)SUM_BIAS_BITS)));
}

/* Lanes of v, `each` for a block. */
static void put_numbers(const Blocks *b, uint16_t to, KVal block, int64_t step, unsigned each, KVal v)
{
  Kernel *k = b->l->k;
  KVal at = idx_mul(k, block, each);

  if (step == 1)
    k_store(k, to, at, 0, v);
  for (unsigned i = 0; i < b->n && step != 1; i++)
    k_store(k, to, at, i * step * each, lanes_of(k, v, i * each, 1, each));
}

unsigned lower_quant_most(const Lower *l)
{
  return l->lanes / QUANT_TRIALS;
}

void lower_quant_blocks(Lower *l, const Q8a *to, KVal block, int64_t step, unsigned n, const KVal *x)
{
  Kernel *k = l->k;
  Blocks b = {l, n, QBLOCK / l->lanes, {0}};
  KVal one = k_flt(k, n, 1.0), zero = k_flt(k, n, 0.0);

  assert(n <= MAX_BLOCKS && n <= lower_quant_most(l));
  memcpy(b.x, x, n * b.vecs * sizeof *x);
  KVal max = maxima(&b);
  divide(&b, k_select(k, k_op2(k, K_lt, zero, max), k_op2(k, K_div, one, max), zero));
  KVal tops = best_tops(&b), top = lanes_of(k, tops, 0, QUANT_TRIALS, n);
  KVal s = mul(k, max, k_op2(k, K_div, one, top)), halves = put_codes(&b, to, block, step, tops);
  KVal sum = k_op2(k, K_add, lanes_of(k, halves, 0, 2, n), lanes_of(k, halves, 1, 2, n));

  put_numbers(&b, to->scale, block, step, 1, s);
  for (unsigned i = 0; i < l->zeros.n; i++)
    put_numbers(&b, to->start[i], block, step, 1, start_of(l, sum, l->zeros.bits[i]));
  put_numbers(&b, to->start16, block, step, 2, start_of(l, halves, lower_half_zero(l->target)));
  put_numbers(&b, to->ssum, block, step, 1, mul(k, s, k_cast(k, KE_f32, sum)));
}

void lower_quant_row(Lower *l, const Q8a *to, KVal first, int64_t count, QuantFn *fn, void *ctx)
{
  Kernel *k = l->k;
  unsigned vecs = QBLOCK / l->lanes;
  KVal x[MAX_VECTORS];
  int64_t at = 0;

  for (unsigned n = lower_quant_most(l); at < count; n /= 2) {
    int64_t end = at + (count - at) / n * n;
    if (end == at)
      continue;
    KVal b = k_loop(k, k_idx(k, at), k_idx(k, end), n), j = idx_mul(k, b, QBLOCK);
    for (unsigned i = 0; i < n * vecs; i++)
      x[i] = fn(ctx, j, i * l->lanes);
    lower_quant_blocks(l, to, idx_add(k, first, b), 1, n, x);
    k_end(k, NULL, 0);
    at = end;
  }
}
