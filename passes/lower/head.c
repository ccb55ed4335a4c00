/* head.c - a large head that reads two thirds: the product of the last hidden state with a q8_0 matrix in two planes
 * (planes.h), of which the low one is read only for rows that can still be among the largest logits.
 *
 * The caller says how many of the largest logits it needs (run-time integer 2; 0: all). Four launches:
 *   norms      of each block of activations
 *   high       for each row the product with the high plane, and an upper bound of its logit; for each panel of 16 rows the
 *              largest lower bound
 *   threshold  a number that at least so many logits reach: a k-th largest among the maxima of groups of rows
 *   low        adds the low plane's product to rows whose upper bound reaches the threshold; all others become -inf
 * The result for the rows that are kept is the same, bit for bit, as when all are kept. */
#include "passes/lower/dot.h"
#include "passes/lower/lower.h"
#include "passes/lower/planes.h"

#include <math.h>

enum {
  GROUP_PANELS = 16,
  HALF_BLOCK = QBLOCK / 2,
  LOW_PANELS = 64,
  LOW_AHEAD = 8,
  MAX_VECS = PANEL_ROWS / 4,
  HIGH_UNIT = 8
};

/* Bounds are exact but for rounding: what a few hundred float operations may add. A block's product and its middle are each
 * rounded apart, and may cancel: they are at most 8 * 31 and 124.5 times sqrt(32) norms of its activations, so by no more than
 * 2e-4 of such a norm; the slack of its bound, whose low codes have a norm of sqrt(8) at least, is 3e-3. */
static const double norm_slack = 1.0001, bound_slack = 1.001, value_slack = 1e-5;

/* What a code of 0 stands for in the high plane, in its units. */
static const double middle_code = 3.5 / HIGH_UNIT - 16;

typedef struct {
  Lower *l;
  const Type *w;
  uint32_t weights; /* buffers */
  uint32_t norms, halves, high, upper, best, threshold;
  uint32_t act;
  Q8aLayout q;
  int64_t columns, blocks, panels;
  int64_t together; /* blocks whose low codes fill a vector */
  Val logits;
} Head;

static KVal mul(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_mul, a, b);
}

static KVal add(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_add, a, b);
}

static uint16_t floats(const Head *h, uint32_t buffer, KAccess access, const char *name)
{
  return lower_param(h->l, buffer, 0, KE_f32, access, name);
}

static uint32_t work_buffer(const Head *h, const char *name, int64_t count)
{
  Program *p = h->l->prog;
  uint32_t b = program_buffer(p, SPACE_ARENA, name, round_up((uint64_t)count, PAD) * 4);
  p->buffers.data[b].entry = h->l->entry;
  return b;
}

/* ---- norms: of a block's activations, times its scale, over 12 (the low plane's norms are in twelfths). And the
 * activations in the order of the low plane: of as many blocks as fill a vector, first the first halves, then the others. */

static void reorder(const Head *h, uint16_t q, uint16_t y)
{
  Kernel *k = h->l->k;
  KType half = ktype(KE_i8, HALF_BLOCK);
  int64_t n = h->together;
  KVal g = k_loop(k, k_idx(k, 0), k_idx(k, h->blocks / n), 1), at = idx_mul(k, g, n * QBLOCK);

  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < 2; j++)
      k_store(k, y, at, (j * n + i) * HALF_BLOCK, k_load(k, half, q, at, (2 * i + j) * HALF_BLOCK));
  k_end(k, NULL, 0);
}

static void norms_kernel(const Head *h)
{
  Lower *l = h->l;
  lower_begin(l, "head.norms.%lld", (long long)h->columns);
  Kernel *k = l->k;
  uint16_t q = lower_param(l, h->act, 0, KE_i8, KA_READ, "q"),
           scale = lower_param(l, h->act, h->q.scale, KE_f32, KA_READ, "qscale"),
           y = floats(h, h->norms, KA_WRITE, "norms");
  KVal b = k_loop(k, k_idx(k, 0), k_idx(k, h->blocks), 1), sum = 0;

  for (unsigned i = 0; i < QBLOCK / l->lanes; i++) {
    KVal x = k_cast(k, KE_i32, k_load(k, ktype(KE_i8, l->lanes), q, idx_mul(k, b, QBLOCK), i * l->lanes));
    sum = sum ? add(k, sum, mul(k, x, x)) : mul(k, x, x);
  }
  KVal norm = k_op1(k, K_sqrt, k_cast(k, KE_f32, k_reduce(k, K_sum, sum)));
  KVal s = k_load(k, ktype(KE_f32, 1), scale, b, 0);
  k_store(k, y, b, 0, mul(k, mul(k, norm, s), k_flt(k, 1, norm_slack / 12)));
  k_end(k, NULL, 0);
  reorder(h, q, lower_param(l, h->halves, 0, KE_i8, KA_WRITE, "halves"));
  lower_end(l, 1, false, 0, (uint64_t)h->columns);
}

/* ---- high: one panel */

static KVal f16_lanes(const Head *h, uint16_t w, KVal at, unsigned i)
{
  Kernel *k = h->l->k;
  return k_cast(k, KE_f32, k_load(k, ktype(KE_f16, h->l->lanes), w, at, i * h->l->lanes * 2));
}

/* For each row of the panel (h + 16) . x of a block. Vectors of rows share each four of activations. */
static void high_sums(const Head *h, uint16_t w, uint16_t q, KVal at, KVal b, KVal *sum)
{
  Lower *l = h->l;
  Kernel *k = l->k;
  DotPlan plan = lower_dot_plan(l->target, DT_Q5_0);
  unsigned vecs = PANEL_ROWS / l->lanes, bytes = l->lanes * 4;
  Dot dot[MAX_VECS] = {0};

  for (unsigned g = 0; g < QBLOCK / 4; g++) {
    KVal x = k_splat(k, ktype(KE_i8, bytes), k_load(k, ktype(KE_i32, 1), q, idx_mul(k, b, QBLOCK), g * 4));
    for (unsigned i = 0; i < vecs; i++)
      lower_dot_group(l, plan, &dot[i], lower_codes(l, w, DT_Q5_0, at, PLANES_CODES + i * bytes, g, bytes),
                      x);
  }
  for (unsigned i = 0; i < vecs; i++)
    sum[i] = k_cast(k, KE_f32, lower_dot_done(l, plan, &dot[i], 0));
}

static void high_kernel(const Head *h)
{
  Lower *l = h->l;
  unsigned lanes = l->lanes, vecs = PANEL_ROWS / lanes;
  lower_begin(l, "head.high.%lldx%lld", (long long)h->w->dim[0], (long long)h->columns);
  Kernel *k = l->k;
  uint16_t w = lower_param(l, h->weights, 0, KE_u8, KA_READ, "w"),
           q = lower_param(l, h->act, 0, KE_i8, KA_READ, "q"),
           scale = lower_param(l, h->act, h->q.scale, KE_f32, KA_READ, "qscale"),
           ssum = lower_param(l, h->act, h->q.ssum, KE_f32, KA_READ, "qssum"),
           norms = floats(h, h->norms, KA_READ, "norms"), high = floats(h, h->high, KA_WRITE, "high"),
           upper = floats(h, h->upper, KA_WRITE, "upper"), best = floats(h, h->best, KA_WRITE, "best");
  KType one = ktype(KE_f32, 1), vec = ktype(KE_f32, lanes);
  KVal zero = k_flt(k, lanes, 0.0), sum[MAX_VECS], carry[2 * MAX_VECS], next[2 * MAX_VECS];
  KVal panel = k_grid(k), w0 = idx_mul(k, panel, (int64_t)planes_panel_bytes(h->columns));
  KVal b = k_loop(k, k_idx(k, 0), k_idx(k, h->blocks), 1);

  for (unsigned i = 0; i < 2 * vecs; i++)
    carry[i] = k_carry(k, zero);
  KVal at = add(k, w0, idx_mul(k, b, PLANES_HIGH_BLOCK)), xs = k_splat(k, vec, k_load(k, one, scale, b, 0));
  lower_prefetch(l, w, at, PREFETCH_PLANES, PLANES_HIGH_BLOCK);
  KVal norm = k_splat(k, vec, k_load(k, one, norms, b, 0));
  KVal middle = k_splat(k, vec, mul(k, k_load(k, one, ssum, b, 0), k_flt(k, 1, middle_code)));
  high_sums(h, w, q, at, b, sum);
  for (unsigned i = 0; i < vecs; i++) {
    KVal d = f16_lanes(h, w, at, i);
    KVal n =
        k_cast(k, KE_f32, k_cast(k, KE_i32, k_load(k, ktype(KE_u8, lanes), w, at, PLANES_NORM + i * lanes)));
    next[i] = k_fma(k, k_fma(k, sum[i], xs, middle), d, carry[i]);
    next[vecs + i] = k_fma(k, mul(k, n, norm), k_op1(k, K_abs, d), carry[vecs + i]);
  }
  k_end(k, next, 2 * vecs);
  KVal row = idx_mul(k, panel, PANEL_ROWS), top = 0;
  for (unsigned i = 0; i < vecs; i++) {
    KVal value = mul(k, carry[i], k_flt(k, lanes, HIGH_UNIT));
    KVal bound = k_fma(k, k_op1(k, K_abs, value), k_flt(k, lanes, value_slack),
                       mul(k, carry[vecs + i], k_flt(k, lanes, bound_slack)));
    KVal lower = k_op2(k, K_sub, value, bound);
    k_store(k, high, row, i * lanes, value);
    k_store(k, upper, row, i * lanes, add(k, value, bound));
    top = top ? k_op2(k, K_max, top, lower) : lower;
  }
  k_store(k, best, panel, 0, k_reduce(k, K_rmax, top));
  lower_end(l, (uint64_t)h->panels, false, planes_low_at(h->w), (uint64_t)type_count(h->w));
}

/* ---- threshold: the k-th largest maximum of groups of 256 rows. Rows that no whole group holds are left out, and equal
 * maxima count once: either makes the threshold smaller, which is safe. */

static void threshold_kernel(const Head *h)
{
  Lower *l = h->l;
  unsigned lanes = l->lanes;
  int64_t groups = h->panels / GROUP_PANELS, padded = (int64_t)round_up((uint64_t)groups, PAD);
  lower_begin(l, "head.threshold.%lld", (long long)h->panels);
  Kernel *k = l->k;
  uint16_t best = floats(h, h->best, KA_READ, "best"), y = floats(h, h->threshold, KA_WRITE, "threshold"),
           scratch = lower_scratch(l, (uint64_t)padded * 4);
  KVal zero = k_idx(k, 0), wanted = k_arg(k, 2);

  for (int64_t i = padded - PAD; i < padded; i += lanes)
    k_store(k, scratch, zero, i, k_flt(k, lanes, -INFINITY));
  KVal g = k_loop(k, zero, k_idx(k, groups), 1), top = 0;
  for (unsigned i = 0; i < GROUP_PANELS; i += lanes) {
    KVal v = k_load(k, ktype(KE_f32, lanes), best, idx_mul(k, g, GROUP_PANELS), i);
    top = top ? k_op2(k, K_max, top, v) : v;
  }
  k_store(k, scratch, g, 0, k_reduce(k, K_rmax, top));
  k_end(k, NULL, 0);

  KVal none = k_flt(k, 1, INFINITY), lowest = k_flt(k, lanes, -INFINITY), end = k_idx(k, padded);
  (void)k_loop(k, zero, wanted, 1);
  KVal last = k_carry(k, none), below = k_splat(k, ktype(KE_f32, lanes), last);
  KVal j = k_loop(k, zero, end, lanes), acc = k_carry(k, lowest);
  KVal v = k_load(k, ktype(KE_f32, lanes), scratch, j, 0);
  KVal next = k_op2(k, K_max, acc, k_select(k, k_op2(k, K_lt, v, below), v, lowest));
  k_end(k, &next, 1);
  next = k_reduce(k, K_rmax, acc);
  k_end(k, &next, 1);
  KVal all = k_op2(k, K_or, k_op2(k, K_eq, wanted, zero), k_op2(k, K_lt, k_idx(k, groups), wanted));
  k_store(k, y, zero, 0, k_select(k, all, k_flt(k, 1, -INFINITY), last));
  lower_end(l, 1, false, 0, (uint64_t)h->panels);
}

/* ---- low: the rows that can matter. They are few, and lie apart: an iteration first lists those of many panels, and then asks
 * for a row's bytes a few rows before its turn. Lanes are columns here, four to a block and half; they are added at the end. */

typedef struct {
  uint16_t w, q, halves, scale, ssum;
} LowParams;

typedef struct {
  KVal acc, correct; /* lanes of products; of what the codes' middle, 3.5, takes away */
} Low;

/* Adds blocks b .. b + n: low codes times activations, first halves at x, the others `other` behind. */
static Low low_blocks(const Head *h, const LowParams *p, KVal row, KVal b, int64_t n, uint16_t act,
                      int64_t other, Low sum)
{
  Lower *l = h->l;
  Kernel *k = l->k;
  DotPlan plan = lower_dot_plan(l->target, DT_Q4_0);
  unsigned bytes = (unsigned)n * HALF_BLOCK, lanes = bytes / 4;
  KType u8 = ktype(KE_u8, bytes), i8 = ktype(KE_i8, bytes), fn = ktype(KE_f32, (unsigned)n);
  KVal codes = k_load(k, u8, p->w, add(k, row, idx_mul(k, b, HALF_BLOCK)), 0), x = idx_mul(k, b, QBLOCK);
  KVal d = k_load(k, ktype(KE_f16, (unsigned)n), p->w, add(k, row, idx_mul(k, b, 2)), h->blocks * HALF_BLOCK);
  uint8_t four[K_MAX_LANES];
  Dot dot = {0};

  d = k_cast(k, KE_f32, d);
  lower_dot_group(l, plan, &dot, k_op2(k, K_and, codes, k_int(k, u8, 15)), k_load(k, i8, act, x, 0));
  lower_dot_group(l, plan, &dot, k_shift(k, K_shr, codes, 4), k_load(k, i8, act, x, other));
  for (unsigned i = 0; i < lanes; i++)
    four[i] = (uint8_t)(i / 4);
  KVal factor = mul(k, d, k_load(k, fn, p->scale, b, 0));
  factor = n == 1 ? k_splat(k, ktype(KE_f32, lanes), factor) : k_shuffle(k, factor, factor, four, lanes);
  KVal middle = mul(k, k_load(k, fn, p->ssum, b, 0), k_flt(k, (unsigned)n, -3.5));
  return (Low){k_fma(k, k_cast(k, KE_f32, lower_dot_done(l, plan, &dot, 0)), factor, sum.acc),
               k_fma(k, d, middle, sum.correct)};
}

/* Blocks from .. to, n at once; the sum of them all. */
static KVal low_range(const Head *h, const LowParams *p, KVal row, int64_t from, int64_t to, int64_t n)
{
  Kernel *k = h->l->k;
  bool whole = n == h->together;
  KVal acc0 = k_flt(k, (unsigned)n * 4, 0.0), correct0 = k_flt(k, (unsigned)n, 0.0);
  KVal b = k_loop(k, k_idx(k, from), k_idx(k, to), n), acc = k_carry(k, acc0), correct = k_carry(k, correct0);
  Low next = low_blocks(h, p, row, b, n, whole ? p->halves : p->q, (whole ? n : 1) * HALF_BLOCK,
                        (Low){acc, correct});

  k_end(k, (KVal[]){next.acc, next.correct}, 2);
  return add(k, k_reduce(k, K_sum, acc), k_reduce(k, K_sum, correct));
}

static KVal low_row_at(const Head *h, KVal row)
{
  KVal from = idx_mul(h->l->k, row, (int64_t)planes_row_bytes(h->columns));
  return idx_add(h->l->k, from, k_idx(h->l->k, (int64_t)planes_low_at(h->w)));
}

static KVal low_sum(const Head *h, const LowParams *p, KVal row)
{
  Kernel *k = h->l->k;
  KVal from = low_row_at(h, row);
  int64_t whole = h->blocks / h->together * h->together;
  KVal sum = low_range(h, p, from, 0, whole, h->together);

  return whole < h->blocks ? add(k, sum, low_range(h, p, from, whole, h->blocks, 1)) : sum;
}

/* Numbers in scratch, which is of floats: how many rows are listed, and behind that the list. */
static void put_number(Kernel *k, uint16_t scratch, KVal at, int64_t off, KVal i)
{
  k_store(k, scratch, at, off, k_bitcast(k, ktype(KE_f32, 1), k_cast(k, KE_i32, i)));
}

static KVal get_number(Kernel *k, uint16_t scratch, KVal at, int64_t off)
{
  KVal f = k_load(k, ktype(KE_f32, 1), scratch, at, off);
  return k_cast(k, KE_idx, k_bitcast(k, ktype(KE_i32, 1), f));
}

/* The rows of panels first .. end whose upper bound reaches `least`; logits of all others are -inf. Most panels have no
 * such row. */
static void list_rows(const Head *h, uint16_t upper, uint16_t y, uint16_t scratch, KVal first, KVal end,
                      KVal least)
{
  Lower *l = h->l;
  Kernel *k = l->k;
  KType one = ktype(KE_f32, 1), vec = ktype(KE_f32, l->lanes);
  KVal zero = k_idx(k, 0), step = k_idx(k, 1), top = 0;

  put_number(k, scratch, zero, 0, zero);
  KVal row0 = idx_mul(k, k_loop(k, first, end, 1), PANEL_ROWS);
  for (unsigned i = 0; i < PANEL_ROWS; i += l->lanes) {
    k_store(k, y, row0, i, k_flt(k, l->lanes, -INFINITY));
    KVal u = k_load(k, vec, upper, row0, i);
    top = top ? k_op2(k, K_max, top, u) : u;
  }
  k_if(k, k_op2(k, K_le, least, k_reduce(k, K_rmax, top)));
  KVal listed = get_number(k, scratch, zero, 0);
  KVal r = k_loop(k, zero, k_idx(k, PANEL_ROWS), 1), n = k_carry(k, listed), row = add(k, row0, r);
  put_number(k, scratch, n, 1, row); /* the next takes its place if it does not matter */
  KVal next = add(k, n, k_select(k, k_op2(k, K_le, least, k_load(k, one, upper, row, 0)), step, zero));
  k_end(k, &next, 1);
  put_number(k, scratch, zero, 0, n);
  k_end(k, NULL, 0);
  k_end(k, NULL, 0);
}

static void low_kernel(const Head *h)
{
  Lower *l = h->l;
  lower_begin(l, "head.low.%lldx%lld", (long long)h->w->dim[0], (long long)h->columns);
  Kernel *k = l->k;
  LowParams p = {lower_param(l, h->weights, 0, KE_u8, KA_READ, "w"),
                 lower_param(l, h->act, 0, KE_i8, KA_READ, "q"),
                 lower_param(l, h->halves, 0, KE_i8, KA_READ, "halves"),
                 lower_param(l, h->act, h->q.scale, KE_f32, KA_READ, "qscale"),
                 lower_param(l, h->act, h->q.ssum, KE_f32, KA_READ, "qssum")};
  uint16_t high = floats(h, h->high, KA_READ, "high"), upper = floats(h, h->upper, KA_READ, "upper"),
           threshold = floats(h, h->threshold, KA_READ, "threshold"), y = lower_value(l, h->logits, KA_WRITE),
           scratch = lower_scratch(l, (LOW_PANELS * PANEL_ROWS + 2) * sizeof(float));
  KType one = ktype(KE_f32, 1);
  KVal first = idx_mul(k, k_grid(k), LOW_PANELS), zero = k_idx(k, 0);
  KVal end = k_op2(k, K_min, idx_add(k, first, k_idx(k, LOW_PANELS)), k_idx(k, h->panels));

  list_rows(h, upper, y, scratch, first, end, k_load(k, one, threshold, zero, 0));
  KVal n = get_number(k, scratch, zero, 0), i = k_loop(k, zero, n, 1);
  KVal soon = k_op2(k, K_min, idx_add(k, i, k_idx(k, LOW_AHEAD)), k_op2(k, K_sub, n, k_idx(k, 1)));
  lower_prefetch(l, p.w, low_row_at(h, get_number(k, scratch, soon, 1)), 0,
                 (int64_t)planes_row_bytes(h->columns));
  KVal row = get_number(k, scratch, i, 1);
  k_store(k, y, row, 0, add(k, k_load(k, one, high, row, 0), low_sum(h, &p, row)));
  k_end(k, NULL, 0);
  /* what is read depends on the logits: a sixteenth is usual for the top 40 */
  lower_end(l, (uint64_t)((h->panels + LOW_PANELS - 1) / LOW_PANELS), false,
            (uint64_t)(h->panels * PANEL_ROWS) * planes_row_bytes(h->columns) / 16,
            (uint64_t)type_count(h->w) / 16);
}

bool lower_head(Lower *l, Val v)
{
  Val x = lower_base(l, graph_in(l->g, v, 0));
  const Node *w = graph_node(l->g, lower_base(l, graph_in(l->g, v, 1)));
  Head h = {.l = l, .w = &w->type, .columns = w->type.dim[1], .logits = v};

  h.blocks = h.columns / QBLOCK;
  h.together = l->lanes / 4;
  h.panels = (w->type.dim[0] + PANEL_ROWS - 1) / PANEL_ROWS;
  h.weights = lower_weight(l, w->attr.index, LAYOUT_PLANES);
  h.act = lower_place(l, x)->buffer;
  h.q = lower_q8a(l, 1, h.columns);
  h.norms = work_buffer(&h, "head.norms", h.blocks);
  h.halves = work_buffer(&h, "head.halves", h.columns / 4);
  h.high = work_buffer(&h, "head.high", h.panels * PANEL_ROWS);
  h.upper = work_buffer(&h, "head.upper", h.panels * PANEL_ROWS);
  h.best = work_buffer(&h, "head.best", h.panels);
  h.threshold = work_buffer(&h, "head.threshold", 1);
  norms_kernel(&h);
  lower_barrier(l, "head norms");
  high_kernel(&h);
  lower_barrier(l, "head high");
  threshold_kernel(&h);
  lower_barrier(l, "head threshold");
  low_kernel(&h);
  return true;
}
