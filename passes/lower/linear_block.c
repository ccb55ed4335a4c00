/* linear_block.c - products of 8-bit activations and matrices of block types.
 *
 * A run is the columns that share a scale: 32, or 16. Its codes times activations are summed as integers, the sum becomes a
 * float, is scaled, and added. One token alone unpacks codes as it reads them. Where tiles of tokens follow each other, a panel
 * is unpacked once, to scratch: whole bytes, scales and minima as floats, in the order of their use.
 *
 * What is done for each token, vector and run but the integer products is kept to two multiply-adds (three with a minimum):
 * sums start with a number that the activations' producer has stored (see lower.h), which makes zero zero and the sum's
 * bits a float. Where pairs are summed in 16 bits, codes of 8 bits are too large for that: they are unpacked to 16 bits, and
 * their activations are there in 16 bits, too, if most of those who read them want that. */
#include "passes/lower/dot.h"
#include "passes/lower/linear.h"
#include "passes/lower/panel.h"

#include <assert.h>

enum { FOURS = QBLOCK / 4, MAX_RUNS = 2, MAX_SUMS = MAX_TILE * MAX_VEC };

/* A matrix and its activations. */
typedef struct {
  uint16_t w;
  DType dtype;
  DotPlan plan;
  Q8a act;
  unsigned runs; /* of a group of 32 columns */
  bool unpacked;
  unsigned
      words; /* of 4 bytes, of a row's four unpacked codes: if 2, codes are 16 bits, and two columns are in each */
  uint16_t act16; /* activations for such codes, or Q8A_NONE: they are made wide where they are used */
  int shift;      /* of unpacked codes */
} Block;

/* A run, or group, of the loop. Where its first token's activations, sums and scales are: */
typedef struct {
  KVal column, run, group;
  KVal codes;          /* idx: byte where the group's codes start; unpacked: float where the run's do */
  unsigned first;      /* four of columns, from there */
  KVal scale[MAX_VEC]; /* f32 */
  KVal min[MAX_VEC];   /* 0: none; added, times the sum of the activations */
} Run;

static KVal mul(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_mul, a, b);
}

static KVal add(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_add, a, b);
}

static bool has_min(DType t)
{
  return panel_spec(t)->min;
}

/* By how many bits codes are shifted in scratch, so that zero is QZERO if it can. */
static int code_shift(const Linear *c, DType t)
{
  /* other products have no bits to spare */
  return lower_dot_plan(c->l->target, t).kind == DOT4 ? lower_zero_shift(t) : 0;
}

static Block block_of(const Linear *c, DType t)
{
  return (Block){.dtype = t,
                 .plan = lower_dot_plan(c->l->target, t),
                 .words = 1,
                 .runs = panel_spec(t)->sub == QBLOCK / MAX_RUNS ? MAX_RUNS : 1};
}

/* ---- the integer products of a run */

/* The activations of columns 4n .. 4n+3, the same for every row. */
static KVal act_dword(const Linear *c, const Block *b, KVal at, unsigned m, unsigned n)
{
  Kernel *k = c->l->k;
  KVal x = k_load(k, ktype(KE_i32, 1), b->act.q, at, (int64_t)m * b->act.columns + n * 4);
  return k_splat(k, linear_vec(c, KE_i8, 4), x);
}

/* Of columns 2n and 2n + 1, in 16 bits. */
static KVal act_pair(const Linear *c, const Block *b, KVal at, unsigned m, unsigned n)
{
  Kernel *k = c->l->k;
  int64_t off = (int64_t)m * b->act.columns + n * 2;
  KVal x;

  if (b->act16 != Q8A_NONE) {
    x = k_load(k, ktype(KE_i32, 1), b->act16, at, off);
  } else {
    KVal two = k_load(k, ktype(KE_i8, 2), b->act.q, at, off);
    x = k_bitcast(k, ktype(KE_i32, 1), k_cast(k, KE_i16, two));
  }
  return k_bitcast(k, linear_vec(c, KE_i16, 2), k_splat(k, linear_vec(c, KE_i32, 1), x));
}

static KVal act_float(const Linear *c, const Block *b, uint16_t buffer, KVal at, unsigned m)
{
  Kernel *k = c->l->k;
  KVal x = k_load(k, ktype(KE_f32, 1), buffer, at, (int64_t)m * b->act.columns / QBLOCK);
  return k_splat(k, linear_vec(c, KE_f32, 1), x);
}

static KVal run_codes(const Linear *c, const Block *b, const Run *r, unsigned i, unsigned n)
{
  if (b->unpacked)
    return k_load(c->l->k, linear_vec(c, KE_u8, 4), linear_scratch(c), r->codes,
                  n * linear_rows(c) + i * c->lanes);
  return lower_codes(c->l, b->w, b->dtype, r->codes, i * c->lanes * 4, n, c->lanes * 4);
}

/* What the sum of token `m` starts with: the float's bias, less what the code that means zero will add. */
static KVal start_sum(const Linear *c, const Block *b, const Run *r, unsigned m)
{
  Kernel *k = c->l->k;
  KType i32 = linear_vec(c, KE_i32, 1);
  bool halves = b->runs > 1;
  int zero = lower_zero_code(b->dtype) << b->shift, down = 0;
  int64_t bias = lower_sum_bias(c->l->target), off = (int64_t)m * b->act.columns / QBLOCK * b->runs;
  unsigned i = lower_start_array(c->l, zero);

  if (!zero)
    return k_int(k, i32, bias);
  while (zero << down < 1 << (halves ? lower_half_zero(c->l->target) : c->l->zeros.bits[i]))
    down++;
  uint16_t stored = halves ? b->act.start16 : b->act.start[i];
  KVal s = k_splat(k, i32, k_load(k, ktype(KE_i32, 1), stored, r->run, off));
  return down ? add(k, k_shift(k, K_shr, s, down), k_int(k, i32, bias - (bias >> down))) : s;
}

/* The sum times a scale. With the bias the sum's bits are those of the float bias + sum: one multiply-add takes the bias away
 * and scales, rounded once, since bias times scale is exact: the bias is 3 * 2^22, and scales have at most 19 bits. */
static KVal scaled(const Linear *c, KVal sum, KVal scale)
{
  Kernel *k = c->l->k;

  if (!lower_sum_bias(c->l->target))
    return mul(k, k_cast(k, KE_f32, sum), scale);
  KVal off = mul(k, scale, k_flt(k, c->lanes, -SUM_BIAS));
  return k_fma(k, k_bitcast(k, linear_vec(c, KE_f32, 1), sum), scale, off);
}

/* The integer sums of a run: [token][vector]. */
typedef struct {
  Dot v[MAX_TILE][MAX_VEC];
} Dots;

/* The products of four columns. */
static void four_sums(const Linear *c, const Block *b, const Run *r, unsigned n, Dots *d)
{
  KVal code[MAX_VEC];

  for (unsigned i = 0; i < c->vecs; i++)
    code[i] = run_codes(c, b, r, i, n);
  for (unsigned m = 0; m < c->tile; m++) {
    KVal x = act_dword(c, b, r->column, m, n);
    for (unsigned i = 0; i < c->vecs; i++)
      lower_dot_group(c->l, b->plan, &d->v[m][i], code[i], x);
  }
}

static uint32_t dots_in_use(const Linear *c, Dots *d, Dot **list)
{
  uint32_t n = 0;

  for (unsigned m = 0; m < c->tile; m++)
    for (unsigned i = 0; i < c->vecs; i++)
      list[n++] = &d->v[m][i];
  return n;
}

/* The run from its word number `j` (idx) on. */
static Run run_from(const Linear *c, const Block *b, const Run *r, KVal j)
{
  Kernel *k = c->l->k;
  Run now = *r;

  now.codes = idx_add(k, r->codes, idx_mul(k, j, linear_rows(c)));
  now.column = idx_add(k, r->column, idx_mul(k, j, 4 / b->words));
  return now;
}

/* Adds the products of a word: of two columns in 16 bits, else of four. */
typedef void WordFn(const Linear *c, const Block *b, const Run *r, unsigned n, Dots *d);

/* All words, `n` at once, into sums of 32 bits. */
static void looped_sums(const Linear *c, const Block *b, const Run *r, WordFn *fn, unsigned n, Dots *d)
{
  Kernel *k = c->l->k;
  KVal carry[MAX_SUMS], next[MAX_SUMS];
  Dot *sum[MAX_SUMS];
  uint32_t sums = dots_in_use(c, d, sum);

  assert(b->runs == 1);
  KVal j = k_loop(k, k_idx(k, 0), k_idx(k, FOURS * b->words), n);
  for (uint32_t i = 0; i < sums; i++)
    sum[i]->sum32 = carry[i] = k_carry(k, sum[i]->sum32);
  Run now = run_from(c, b, r, j);
  for (unsigned u = 0; u < n; u++)
    fn(c, b, &now, u, d);
  for (uint32_t i = 0; i < sums; i++) {
    next[i] = sum[i]->sum32;
    sum[i]->sum32 = carry[i];
  }
  k_end(k, next, sums);
}

static void all_fours(const Linear *c, const Block *b, const Run *r, Dots *d)
{
  if (b->unpacked && b->runs == 1) {
    looped_sums(c, b, r, four_sums, FOURS / 4, d);
    return;
  }
  for (unsigned n = 0; n < FOURS / b->runs; n++)
    four_sums(c, b, r, r->first + n, d);
}

/* From the start of a run to its scales, and from there to its minima. */
static int64_t run_scales(const Linear *c, const Block *b)
{
  return b->words * FOURS / b->runs * linear_rows(c);
}

/* Of an unpacked run. */
static void load_scale(const Linear *c, const Block *b, Run *r, unsigned i)
{
  r->scale[i] =
      k_load(c->l->k, linear_vec(c, KE_f32, 1), linear_scratch(c), r->codes, run_scales(c, b) + i * c->lanes);
}

static void load_min(const Linear *c, const Block *b, Run *r, unsigned i)
{
  if (has_min(b->dtype))
    r->min[i] = k_load(c->l->k, linear_vec(c, KE_f32, 1), linear_scratch(c), r->codes,
                       run_scales(c, b) + linear_rows(c) + i * c->lanes);
}

static void run_sums(const Linear *c, const Block *b, Run *r, Sums *s)
{
  Kernel *k = c->l->k;
  KVal start[MAX_TILE];
  Dots d = {0};

  for (unsigned m = 0; m < c->tile && b->plan.kind != DOT2; m++) {
    start[m] = start_sum(c, b, r, m);
    for (unsigned i = 0; i < c->vecs; i++)
      d.v[m][i].sum32 = start[m];
  }
  all_fours(c, b, r, &d);
  for (unsigned i = 0; i < c->vecs && b->unpacked; i++) {
    load_scale(c, b, r, i);
    load_min(c, b, r, i);
  }
  for (unsigned m = 0; m < c->tile; m++) {
    if (b->plan.kind == DOT2)
      start[m] = start_sum(c, b, r, m);
    KVal xs = act_float(c, b, b->act.scale, r->group, m);
    for (unsigned i = 0; i < c->vecs; i++)
      s->v[m][i] = k_fma(k, scaled(c, lower_dot_done(c->l, b->plan, &d.v[m][i], start[m]), r->scale[i]), xs,
                         s->v[m][i]);
  }
}

/* ---- a run of a tile by pairs
 *
 * 16 registers hold two sums for each of 3 tokens and 2 vectors, codes, an activation and a product, and not one more. So all
 * is done in the order that stands here, which pins keep: a token's products, then its sums, nothing loaded ahead, and ones,
 * which do not vary, once in each run. Else LLVM holds those in a register, adds products of several fours to each other, takes
 * one token after the other with codes for all, and sums go through memory: an eighth slower. */

static void pin(const Linear *c, KVal *v)
{
  *v = k_op1(c->l->k, K_pin, *v);
}

static void word_sums(const Linear *c, const Block *b, const Run *r, unsigned n, Dots *d)
{
  Kernel *k = c->l->k;
  bool wide = b->words > 1;
  KType t = linear_vec(c, wide ? KE_i32 : KE_i16, wide ? 1 : 2);
  KVal code[MAX_VEC], product[MAX_VEC];

  for (unsigned i = 0; i < c->vecs; i++) {
    code[i] = run_codes(c, b, r, i, n);
    if (wide)
      code[i] = k_bitcast(k, linear_vec(c, KE_i16, 2), code[i]);
  }
  for (unsigned m = 0; m < c->tile; m++) {
    KVal x = (wide ? act_pair : act_dword)(c, b, r->column, m, n);
    for (unsigned i = 0; i < c->vecs; i++)
      product[i] = k_dot(k, wide ? K_dot2w : K_dot2, k_int(k, t, 0), code[i], x);
    for (unsigned i = 0; i < c->vecs; i++)
      pin(c, &product[i]);
    for (unsigned i = 0; i < c->vecs; i++) {
      KVal *sum = wide ? &d->v[m][i].sum32 : &d->v[m][i].sum16;
      *sum = *sum ? add(k, *sum, product[i]) : product[i];
      pin(c, sum);
    }
  }
}

/* Adds sums in 16 bits to those in 32, and begins them anew. */
static void widen_sums(const Linear *c, KVal ones, Dots *d)
{
  Kernel *k = c->l->k;
  Dot *sum[MAX_SUMS];
  uint32_t sums = dots_in_use(c, d, sum);

  for (uint32_t i = 0; i < sums; i++) {
    KVal before = sum[i]->sum32 ? sum[i]->sum32 : k_int(k, linear_vec(c, KE_i32, 1), 0);
    sum[i]->sum32 = k_dot(k, K_dot2w, before, sum[i]->sum16, ones);
    sum[i]->sum16 = 0;
  }
}

static void words_in_order(const Linear *c, const Block *b, const Run *r, Dots *d)
{
  Kernel *k = c->l->k;
  unsigned fours = FOURS / b->runs, safe = (unsigned)b->plan.safe;
  KVal ones = 0;

  for (unsigned n = 0; n < fours; n++) {
    word_sums(c, b, r, n, d);
    if ((n + 1) % safe && n + 1 < fours)
      continue;
    ones = ones ? ones : k_op1(k, K_pin, k_int(k, linear_vec(c, KE_i16, 2), 1));
    widen_sums(c, ones, d);
  }
}

/* The integer sums, from what they start with. Words of two columns are looped over: unrolled they are 1 % faster, in three
 * times the code. */
static void sums_in_order(const Linear *c, const Block *b, const Run *r, Dots *d)
{
  Kernel *k = c->l->k;
  bool wide = b->words > 1;

  if (!wide)
    words_in_order(c, b, r, d);
  for (unsigned m = 0; m < c->tile; m++) {
    KVal start = start_sum(c, b, r, m);
    for (unsigned i = 0; i < c->vecs; i++) {
      d->v[m][i].sum32 = wide ? start : add(k, d->v[m][i].sum32, start);
      pin(c, &d->v[m][i].sum32);
    }
  }
  if (wide)
    looped_sums(c, b, r, word_sums, 4, d);
}

static void run_in_order(const Linear *c, const Block *b, Run *r, Sums *s)
{
  Kernel *k = c->l->k;
  Dots d = {0};

  sums_in_order(c, b, r, &d);
  for (unsigned i = 0; i < c->vecs; i++) {
    load_scale(c, b, r, i);
    for (unsigned m = 0; m < c->tile; m++) {
      d.v[m][i].sum32 = scaled(c, d.v[m][i].sum32, r->scale[i]);
      pin(c, &d.v[m][i].sum32);
    }
  }
  for (unsigned m = 0; m < c->tile; m++) {
    KVal xs = act_float(c, b, b->act.scale, r->group, m);
    for (unsigned i = 0; i < c->vecs; i++) {
      s->v[m][i] = k_fma(k, d.v[m][i].sum32, xs, s->v[m][i]);
      pin(c, &s->v[m][i]);
    }
  }
  for (unsigned i = 0; i < c->vecs; i++)
    load_min(c, b, r, i);
}

/* Minima are added after the last run of a group. */
static void add_minima(const Linear *c, const Block *b, const Run *r, Sums *s)
{
  for (unsigned m = 0; m < c->tile && has_min(b->dtype); m++) {
    KVal xsum = act_float(c, b, b->act.ssum, r->group, m);
    for (unsigned i = 0; i < c->vecs; i++)
      s->v[m][i] = k_fma(c->l->k, r->min[i], xsum, s->v[m][i]);
  }
}

/* ---- a panel as weights have it */

/* A group of the panel's loop: its runs. */
typedef struct {
  KVal index; /* idx: number within a row */
  Run run[MAX_RUNS];
} Group;

typedef void GroupFn(const Linear *c, const Block *b, Group *g, void *ctx);

static KVal half_floats(const Linear *c, uint16_t w, KVal at, int64_t off)
{
  return k_cast(c->l->k, KE_f32, k_load(c->l->k, linear_vec(c, KE_f16, 1), w, at, off));
}

static KVal small_ints(const Linear *c, uint16_t w, KVal at, int64_t off, KElem e)
{
  Kernel *k = c->l->k;
  return k_cast(k, KE_f32, k_cast(k, KE_i32, k_load(k, linear_vec(c, e, 1), w, at, off)));
}

/* Scales and minima of group `j` (idx) of the block at `at`. */
static void group_scales(const Linear *c, const Block *b, Group *g, KVal at, KVal j)
{
  Kernel *k = c->l->k;
  const PanelSpec *s = panel_spec(b->dtype);
  PanelOffsets o = panel_offsets(b->dtype);
  KVal d_at = linear_rows_at(c, at, 2), sub_at = 0;

  if (s->sub)
    sub_at = linear_rows_at(c, idx_add(k, at, idx_mul(k, j, b->runs * PANEL_ROWS)), 1);
  for (unsigned i = 0; i < c->vecs; i++) {
    KVal d = half_floats(c, b->w, d_at, i * c->lanes * 2);
    for (unsigned h = 0; h < b->runs; h++) {
      int64_t off = o.sub_scale + h * PANEL_ROWS + i * c->lanes;
      KElem e = s->sub_min ? KE_u8 : KE_i8;
      g->run[h].scale[i] = s->sub ? mul(k, d, small_ints(c, b->w, sub_at, off, e)) : d;
    }
    if (!s->min)
      continue;
    KVal *min = &g->run[b->runs - 1].min[i];
    *min = half_floats(c, b->w, d_at, o.min + i * c->lanes * 2);
    if (s->sub_min)
      *min = k_op1(k, K_neg, mul(k, *min, small_ints(c, b->w, sub_at, o.sub_min + i * c->lanes, KE_u8)));
  }
}

/* Group `j` (idx) of the block at `at`, number `block` of the row. */
static Group group_at(const Linear *c, const Block *b, KVal at, KVal block, KVal j)
{
  Kernel *k = c->l->k;
  PanelOffsets o = panel_offsets(b->dtype);
  Group g = {.index = idx_add(k, idx_mul(k, block, dtype_info[b->dtype].block / QBLOCK), j)};
  KVal codes = idx_add(k, idx_add(k, at, k_idx(k, o.codes)), idx_mul(k, j, o.group_bytes));

  for (unsigned h = 0; h < b->runs; h++)
    g.run[h].codes = linear_rows_at(c, codes, 4);
  group_scales(c, b, &g, at, j);
  return g;
}

static KVal in_blocks(const Linear *c, KVal n, int64_t groups)
{
  return groups == 1 ? n : k_op2(c->l->k, K_div, n, k_idx(c->l->k, groups));
}

/* Each group of a panel from .. to. `s`: sums that are carried through, or NULL. */
static void each_group(const Linear *c, const Block *b, GroupFn *fn, Sums *s, void *ctx)
{
  Kernel *k = c->l->k;
  int64_t bytes = panel_offsets(b->dtype).block_bytes, groups = dtype_info[b->dtype].block / QBLOCK;
  KVal blocks = in_blocks(c, c->groups, groups);
  KVal zero = k_idx(k, 0), first = idx_mul(k, mul(k, c->panel, blocks), bytes), j = zero;
  Sums outer, inner;

  KVal n = k_loop(k, in_blocks(c, c->from, groups), in_blocks(c, c->to, groups), 1);
  linear_open(c, s, &outer);
  KVal at = idx_add(k, first, idx_mul(k, n, bytes));
  if (groups > 1) {
    j = k_loop(k, zero, k_idx(k, groups), 1);
    linear_open(c, s, &inner);
  }
  if (linear_streams(c)) /* a few lines at a time: many at once wait for each other, and all else for them */
    lower_prefetch(c->l, b->w, idx_add(k, at, idx_mul(k, j, bytes / groups)),
                   panel_spec(b->dtype)->planes[1] ? PREFETCH_PLANES : c->l->target->ahead_bytes,
                   bytes / groups);
  Group g = group_at(c, b, at, n, j);
  fn(c, b, &g, ctx);
  if (groups > 1)
    linear_close(c, s, &inner);
  linear_close(c, s, &outer);
}

static void group_sums(const Linear *c, const Block *b, Group *g, void *ctx)
{
  Kernel *k = c->l->k;
  KVal group = idx_add(k, mul(k, c->token, c->groups), g->index);

  for (unsigned h = 0; h < b->runs; h++) {
    Run *r = &g->run[h];
    r->group = group;
    r->column = idx_mul(k, group, QBLOCK);
    r->run = h ? idx_add(k, g->run[0].run, k_idx(k, h)) : idx_mul(k, group, b->runs);
    r->first = h * FOURS / b->runs;
    run_sums(c, b, r, ctx);
  }
  add_minima(c, b, &g->run[b->runs - 1], ctx);
}

void linear_block(const Linear *c, uint16_t w, Val x, DType t, Sums *sums)
{
  Block b = block_of(c, t);

  b.w = w;
  b.act = lower_q8a_used(c->l, x, t);
  each_group(c, &b, group_sums, sums, sums);
}

/* ---- a panel unpacked: for each run its codes, scales, minima */

static int64_t run_floats(const Linear *c, const Block *b)
{
  return (b->words * FOURS / b->runs + 1 + has_min(b->dtype)) * linear_rows(c);
}

static Block unpacked_block(const Linear *c, DType t)
{
  Block b = block_of(c, t);
  b.shift = code_shift(c, t);
  b.words = b.plan.kind == DOT2W ? 2 : 1;
  return b;
}

int64_t linear_unpacked_floats(const Linear *c, DType t, int64_t columns)
{
  Block b = unpacked_block(c, t);
  return columns / QBLOCK * b.runs * run_floats(c, &b);
}

/* Word `n` of a row's four codes, in scratch. */
static KVal code_word(const Linear *c, const Block *b, KVal code, unsigned n)
{
  Kernel *k = c->l->k;
  KType u32 = linear_vec(c, KE_u32, 1);

  if (b->words == 1)
    return b->shift ? k_shift(k, K_shl, code, b->shift) : code;
  KVal four = k_bitcast(k, u32, code), two = n ? k_shift(k, K_shr, four, 16) : four;
  KVal first = k_op2(k, K_and, two, k_int(k, u32, 0xff));
  return k_op2(k, K_or, first, k_shift(k, K_shl, k_op2(k, K_and, two, k_int(k, u32, 0xff00)), 8));
}

/* Scales grow smaller by as much as codes grow. */
static void unpack_run(const Linear *c, const Block *b, const Run *r, KVal at)
{
  Kernel *k = c->l->k;
  uint16_t to = linear_scratch(c);
  unsigned fours = FOURS / b->runs, rows = linear_rows(c);
  int64_t scales = run_scales(c, b);
  KVal small = k_flt(k, c->lanes, 1.0 / (1 << b->shift));

  for (unsigned i = 0; i < c->vecs; i++) {
    for (unsigned n = 0; n < fours; n++) {
      KVal code = run_codes(c, b, r, i, r->first + n);
      for (unsigned w = 0; w < b->words; w++)
        k_store(k, to, at, (n * b->words + w) * rows + i * c->lanes, code_word(c, b, code, w));
    }
    k_store(k, to, at, scales + i * c->lanes, b->shift ? mul(k, r->scale[i], small) : r->scale[i]);
    if (has_min(b->dtype))
      k_store(k, to, at, scales + rows + i * c->lanes, r->min[i]);
  }
}

static void unpack_group(const Linear *c, const Block *b, Group *g, void *ctx)
{
  Kernel *k = c->l->k;
  KVal nth = k_op2(k, K_sub, g->index, c->from);
  KVal at = idx_add(k, *(const KVal *)ctx, idx_mul(k, nth, b->runs * run_floats(c, b)));

  for (unsigned h = 0; h < b->runs; h++) {
    g->run[h].first = h * FOURS / b->runs;
    unpack_run(c, b, &g->run[h], h ? idx_add(k, at, k_idx(k, run_floats(c, b))) : at);
  }
}

void linear_unpack(const Linear *c, uint16_t w, DType t, int64_t at)
{
  Block b = unpacked_block(c, t);

  b.w = w;
  for (unsigned p = 0; p < c->abreast; p++) {
    Linear one = *c;
    KVal to = k_idx(c->l->k, at + p * PANEL_ROWS);
    one.vecs = PANEL_ROWS / c->lanes;
    one.panel = p ? idx_add(c->l->k, c->panel, k_idx(c->l->k, p)) : c->panel;
    each_group(&one, &b, unpack_group, NULL, &to);
  }
}

/* Run `j` (idx) of the row. */
static Run unpacked_run(const Linear *c, const Block *b, KVal j, int64_t at)
{
  Kernel *k = c->l->k;
  KVal row = mul(k, c->token, c->groups);
  KVal group = b->runs == 1 ? j : k_op2(k, K_div, j, k_idx(k, b->runs));
  KVal nth = k_op2(k, K_sub, j, idx_mul(k, c->from, b->runs));
  Run r = {.run = idx_add(k, idx_mul(k, row, b->runs), j),
           .group = idx_add(k, row, group),
           .codes = idx_add(k, k_idx(k, at), idx_mul(k, nth, run_floats(c, b)))};

  r.column = idx_mul(k, r.run, QBLOCK / b->runs);
  return r;
}

/* Of the next panels a line for each run and tile: they come from memory while these are worked on. */
static void prefetch_next(const Linear *c, const Block *b, KVal j)
{
  Kernel *k = c->l->k;
  int64_t groups = dtype_info[b->dtype].block / QBLOCK, bytes = panel_offsets(b->dtype).block_bytes;
  KVal panel = idx_add(k, c->panel, k_idx(k, c->abreast));
  KVal next = idx_mul(k, mul(k, panel, in_blocks(c, c->groups, groups)), bytes);
  KVal line = idx_mul(k, k_op2(k, K_div, c->token, k_idx(k, c->tile)), CACHE_LINE);

  k_prefetch(k, b->w,
             idx_add(k, idx_add(k, next, line), idx_mul(k, j, c->abreast * bytes / groups / b->runs)), 0);
}

/* The next tile's activations, where all tiles' are more than the second-level cache has: the rows of a strip are too short for
 * the processor to see them coming. */
static void prefetch_activations(const Linear *c, const Block *b, const Run *r)
{
  bool wide = b->act16 != Q8A_NONE;

  if (!c->strip || c->l->g->tokens * b->act.columns * (wide ? 2 : 1) <= c->l->target->l2_bytes)
    return;
  for (unsigned m = 0; m < c->tile; m++)
    k_prefetch(c->l->k, wide ? b->act16 : b->act.q, r->column, (c->tile + m) * b->act.columns);
}

void linear_unpacked(const Linear *c, uint16_t w, Val x, DType t, int64_t at, Sums *sums)
{
  Kernel *k = c->l->k;
  Block b = unpacked_block(c, t);
  Sums carries;

  b.w = w;
  b.unpacked = true;
  b.act = lower_q8a_used(c->l, x, t);
  b.act16 = b.words > 1 && lower_is_wide(c->l, x) ? lower_wide_codes(c->l, x, KA_READ) : Q8A_NONE;
  KVal j = k_loop(k, idx_mul(k, c->from, b.runs), idx_mul(k, c->to, b.runs), 1);
  linear_open(c, sums, &carries);
  prefetch_next(c, &b, j);
  Run r = unpacked_run(c, &b, j, at);
  prefetch_activations(c, &b, &r);
  (b.plan.kind == DOT4 ? run_sums : run_in_order)(c, &b, &r, sums);
  add_minima(c, &b, &r, sums);
  linear_close(c, sums, &carries);
}
