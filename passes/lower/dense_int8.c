/* dense_int8.c - exact products of bytes: conv and linear of u8 values and constant i8 weights, summed in i32.
 *
 * Lanes are output channels. What a kernel place finds side by side in the input is a run: the channels, and where rows
 * lie without gaps also the kernel's columns. Four bytes of a run are one step: they are repeated in all lanes and
 * multiplied with four weights of each channel. The sums of a tile, some pixels and some vectors of channels, stay in
 * registers.
 *
 * Weights: [panel of 16 channels][kernel place that begins a run][step][16 channels][4 bytes]; zeros where a run ends
 * within a step (what the input has there is another's, and counts nothing). The order is the same for all targets.
 *
 * Places outside of the input are no matter of this file: pass_qdq() pads with the zero point. */
#include "passes/lower/dense.h"
#include "passes/lower/dot.h"

#include <string.h>

enum {
  AXES = 4, /* of results, besides channels */
  MAX_PIXELS = 16,
  MAX_VECS = 4,
  MAX_PARTS = 4,
  ENOUGH_SUMS = 8, /* that do not wait for each other */
  UNROLL = 320,    /* products in a straight line */
  STEP = 4,
  MIN_GRID = 16
};

/* A dimension of the result, and the window along it. */
typedef struct {
  int dim; /* -1: none */
  int64_t n, kernel;
  int64_t step, tap; /* bytes of x from one result, from one kernel place to the next */
  bool in_run;
} Axis;

typedef struct {
  DenseLower *d;
  Kernel *k;
  const Type *type; /* of the result */
  Axis axis[AXES];
  int pixel; /* the axis that tiles lie along */
  Val bias;  /* 0: none */
  uint16_t xp, wp;
  int64_t offset, outputs, depth;
  int64_t run, steps, runs; /* bytes of a run, steps of it, runs of a window */
  unsigned lanes, vecs, pixels, parts;
  DotPlan plan;
  KVal at[AXES], block, panel[MAX_VECS]; /* of the grid iteration */
} Int8;

typedef struct {
  KVal v[MAX_PIXELS][MAX_VECS][MAX_PARTS];
} Sums;

/* ---- sums */

static void each_sum(const Int8 *c, Sums *s, void (*fn)(const Int8 *c, KVal *sum, void *ctx), void *ctx)
{
  for (unsigned p = 0; p < c->pixels; p++)
    for (unsigned i = 0; i < c->vecs; i++)
      for (unsigned u = 0; u < c->parts; u++)
        fn(c, &s->v[p][i][u], ctx);
}

static void set_sum(const Int8 *c, KVal *sum, void *ctx)
{
  (void)c;
  *sum = *(KVal *)ctx;
}

static void carry_sum(const Int8 *c, KVal *sum, void *ctx)
{
  (void)ctx;
  *sum = k_carry(c->k, *sum);
}

typedef struct {
  KVal v[MAX_PIXELS * MAX_VECS * MAX_PARTS];
  uint32_t n;
} List;

static void list_sum(const Int8 *c, KVal *sum, void *ctx)
{
  List *l = ctx;

  (void)c;
  l->v[l->n++] = *sum;
}

static KVal enter(const Int8 *c, int64_t n, int64_t step, Sums *s)
{
  KVal i = k_loop(c->k, k_idx(c->k, 0), k_idx(c->k, n), step);

  each_sum(c, s, carry_sum, NULL);
  return i;
}

static void leave(const Int8 *c, Sums *s)
{
  List next = {.n = 0};

  each_sum(c, s, list_sum, &next);
  k_end(c->k, next.v, next.n);
}

/* ---- a run */

static int64_t vector_row(const Int8 *c, unsigned i)
{
  return (int64_t)i * c->lanes % PANEL_ROWS;
}

/* `n` steps from x and from byte w of each panel. */
static void steps(const Int8 *c, KVal x, KVal w, int64_t n, Sums *s)
{
  Kernel *k = c->k;
  KType bytes = ktype(KE_i8, c->lanes * STEP);

  for (int64_t g = 0; g < n; g++) {
    KVal row[MAX_VECS];
    for (unsigned i = 0; i < c->vecs; i++)
      row[i] =
          k_load(k, bytes, c->wp, idx_add(k, c->panel[i], w), (g * PANEL_ROWS + vector_row(c, i)) * STEP);
    for (unsigned p = 0; p < c->pixels; p++) {
      KVal four = k_load(k, ktype(KE_i32, 1), c->xp, x, p * c->axis[c->pixel].step + g * STEP);
      four = k_splat(k, ktype(KE_u8, c->lanes * STEP), four);
      for (unsigned i = 0; i < c->vecs; i++) {
        Dot dot = {.sum32 = s->v[p][i][g % c->parts]};
        lower_dot_group(c->d->l, c->plan, &dot, four, row[i]);
        s->v[p][i][g % c->parts] = lower_dot_done(c->d->l, c->plan, &dot, 0);
      }
    }
  }
}

static int64_t products(const Int8 *c)
{
  return (int64_t)c->pixels * c->vecs;
}

static void one_run(const Int8 *c, KVal x, KVal w, Sums *s)
{
  Kernel *k = c->k;
  int64_t unroll = max64(UNROLL / 4 / products(c) / c->parts, 1) * c->parts;
  int64_t whole = c->steps * products(c) <= UNROLL ? 0 : c->steps / unroll * unroll;

  if (whole) {
    KVal g = enter(c, whole, unroll, s);
    Sums body = *s;
    steps(c, idx_add(k, x, idx_mul(k, g, STEP)), idx_add(k, w, idx_mul(k, g, STEP * PANEL_ROWS)), unroll,
          &body);
    leave(c, &body);
    x = idx_add(k, x, k_idx(k, whole * STEP));
    w = idx_add(k, w, k_idx(k, whole * STEP * PANEL_ROWS));
  }
  steps(c, x, w, c->steps - whole, s);
}

/* Kernel places along axes a .. that begin runs; `run` counts them. */
static void window(const Int8 *c, int a, KVal x, KVal run, Sums *s)
{
  Kernel *k = c->k;
  const Axis *ax = &c->axis[a];

  if (a == AXES) {
    one_run(c, x, idx_mul(k, run, c->steps * STEP * PANEL_ROWS), s);
    return;
  }
  if (ax->in_run || ax->kernel == 1) {
    window(c, a + 1, x, run, s);
    return;
  }
  run = idx_mul(k, run, ax->kernel);
  if (c->runs * c->steps * products(c) <= UNROLL) {
    for (int64_t i = 0; i < ax->kernel; i++)
      window(c, a + 1, idx_add(k, x, k_idx(k, i * ax->tap)), idx_add(k, run, k_idx(k, i)), s);
    return;
  }
  KVal i = enter(c, ax->kernel, 1, s);
  Sums body = *s;
  window(c, a + 1, idx_add(k, x, idx_mul(k, i, ax->tap)), idx_add(k, run, i), &body);
  leave(c, &body);
}

/* ---- results */

static void store(const Int8 *c, KVal column, unsigned p, int64_t channel, unsigned lanes, KVal value)
{
  uint32_t last = c->type->rank - 1;
  DensePoint at = {.lanes = lanes}, b = {.lanes = lanes};

  for (int a = 0; a < AXES; a++)
    if (c->axis[a].dim >= 0)
      at.at[c->axis[a].dim].v = a == c->pixel ? column : c->at[a];
  if (c->axis[c->pixel].dim >= 0)
    at.at[c->axis[c->pixel].dim].c = p;
  KVal first = c->block ? idx_mul(c->k, c->block, (int64_t)c->lanes * c->vecs) : 0;
  at.at[last] = (DenseIndex){.v = first, .c = channel, .lane = lanes > 1};
  b.at[0] = at.at[last];
  if (c->bias)
    value = k_op2(c->k, K_add, value, dense_expr(c->d, c->bias, &b));
  dense_store(c->d, value, &at);
}

/* The first `n` lanes of a value, in powers of two. */
static void store_some(const Int8 *c, KVal column, unsigned p, int64_t channel, int64_t n, KVal value)
{
  uint8_t pick[K_MAX_LANES];

  if (n >= c->lanes) {
    store(c, column, p, channel, c->lanes, value);
    return;
  }
  for (unsigned at = 0, size = c->lanes; at < n; at += size) {
    while (size > n - at)
      size /= 2;
    for (unsigned j = 0; j < size; j++)
      pick[j] = (uint8_t)(at + j);
    KVal part = size == 1 ? k_extract(c->k, value, at) : k_shuffle(c->k, value, value, pick, size);
    store(c, column, p, channel + at, size, part);
  }
}

static void store_channels(const Int8 *c, KVal column, int64_t channels, const Sums *s)
{
  for (unsigned p = 0; p < c->pixels; p++)
    for (unsigned i = 0; i < c->vecs; i++) {
      int64_t first = (int64_t)i * c->lanes;
      if (first < channels)
        store_some(c, column, p, first, channels - first, s->v[p][i][0]);
    }
  dense_forget(c->d);
}

static int64_t block_size(const Int8 *c)
{
  return (int64_t)c->lanes * c->vecs;
}

static int64_t blocks_of(const Int8 *c)
{
  return (c->outputs + block_size(c) - 1) / block_size(c);
}

/* The last block may have fewer channels than the others. */
static void store_tile(const Int8 *c, KVal column, const Sums *s)
{
  int64_t blocks = blocks_of(c), last = c->outputs - (blocks - 1) * block_size(c);

  dense_forget(c->d);
  if (blocks == 1 || last == block_size(c)) {
    store_channels(c, column, last, s);
    return;
  }
  k_if(c->k, k_op2(c->k, K_lt, c->block, k_idx(c->k, blocks - 1)));
  store_channels(c, column, block_size(c), s);
  k_else(c->k);
  store_channels(c, column, last, s);
  k_end(c->k, NULL, 0);
}

static void tile(const Int8 *c, KVal column)
{
  Kernel *k = c->k;
  KVal zero = k_int(k, ktype(KE_i32, c->lanes), 0), x = k_idx(k, c->offset);
  Sums s;

  for (int a = 0; a < AXES; a++)
    x = idx_add(k, x, idx_mul(k, a == c->pixel ? column : c->at[a], c->axis[a].step));
  each_sum(c, &s, set_sum, &zero);
  window(c, 0, x, k_idx(k, 0), &s);
  for (unsigned p = 0; p < c->pixels; p++)
    for (unsigned i = 0; i < c->vecs; i++)
      for (unsigned u = 1; u < c->parts; u++)
        s.v[p][i][0] = k_op2(k, K_add, s.v[p][i][0], s.v[p][i][u]);
  store_tile(c, column, &s);
}

/* Tiles lo .. hi - 1; the last one reaches back, if it would reach too far. */
static void tiles(const Int8 *c, int64_t n, KVal lo, KVal hi)
{
  Kernel *k = c->k;
  int64_t all = c->axis[c->pixel].n;

  dense_forget(c->d);
  if (n == 1) {
    tile(c, k_idx(k, 0));
    return;
  }
  KVal column = idx_mul(k, k_loop(k, lo, hi, 1), c->pixels);
  if (all % c->pixels)
    column = k_op2(k, K_min, column, k_idx(k, all - c->pixels));
  tile(c, column);
  k_end(k, NULL, 0);
  dense_forget(c->d);
}

/* ---- the grid */

static KVal take(Kernel *k, KVal *rest, int64_t n)
{
  if (n == 1)
    return k_idx(k, 0);
  KVal of = k_idx(k, n), i = k_op2(k, K_rem, *rest, of);
  *rest = k_op2(k, K_div, *rest, of);
  return i;
}

/* The last block may have fewer panels: what is behind them repeats the last. */
static void find_panels(Int8 *c)
{
  Kernel *k = c->k;
  int64_t all = (c->outputs + PANEL_ROWS - 1) / PANEL_ROWS,
          each = (block_size(c) + PANEL_ROWS - 1) / PANEL_ROWS;

  for (unsigned i = 0; i < c->vecs; i++) {
    int64_t number = (int64_t)i * c->lanes / PANEL_ROWS;
    KVal p = k_idx(k, number);
    if (c->block)
      p = idx_add(k, idx_mul(k, c->block, each), p);
    if (number && blocks_of(c) * each > all)
      p = k_op2(k, K_min, p, k_idx(k, all - 1));
    c->panel[i] = idx_mul(k, p, c->runs * c->steps * STEP * PANEL_ROWS);
  }
}

/* Blocks of one row of results follow each other, unless the weights are more than fits beside them. */
static int64_t grid(Int8 *c)
{
  Kernel *k = c->k;
  KVal rest = k_grid(k);
  int64_t blocks = blocks_of(c), rows = 1, n = (c->axis[c->pixel].n + c->pixels - 1) / c->pixels;
  bool by_rows = c->depth * c->outputs <= (int64_t)c->d->l->target->l2_bytes / 2;

  for (int a = 0; a < AXES; a++)
    rows *= a == c->pixel ? 1 : c->axis[a].n;
  int64_t cuts = max64(1, min64(n, MIN_GRID / (rows * blocks))), size = (n + cuts - 1) / cuts;
  cuts = (n + size - 1) / size;
  if (blocks > 1 && by_rows)
    c->block = take(k, &rest, blocks);
  KVal cut = take(k, &rest, cuts);
  for (int a = AXES; a-- > 0;)
    if (a != c->pixel)
      c->at[a] = take(k, &rest, c->axis[a].n);
  if (blocks > 1 && !by_rows)
    c->block = rest;
  find_panels(c);
  KVal lo = idx_mul(k, cut, size), hi = idx_add(k, lo, k_idx(k, size));
  tiles(c, n, lo, n % size ? k_op2(k, K_min, hi, k_idx(k, n)) : hi);
  return rows * blocks * cuts;
}

/* ---- shapes */

static unsigned tile_of(const Int8 *c, unsigned vecs)
{
  int64_t spare = c->plan.kind == DOT4 ? 1 : 3, n = c->axis[c->pixel].n;
  int64_t most = (c->d->l->target->registers - spare - vecs) / vecs;

  most = min64(max64(most, 1), min64(MAX_PIXELS, n));
  int64_t tiles_of_most = (n + most - 1) / most;
  return (unsigned)((n + tiles_of_most - 1) / tiles_of_most);
}

/* Loads for each product, with what is computed for nothing: the fewer the better. */
static double tile_cost(const Int8 *c, unsigned pixels, unsigned vecs)
{
  int64_t block = (int64_t)vecs * c->lanes, all = (c->outputs + block - 1) / block * block;
  int64_t n = c->axis[c->pixel].n, covered = (n + pixels - 1) / pixels * pixels;
  double loads = (double)(pixels + vecs) / (pixels * vecs);

  return (1 + loads) * (double)all * (double)covered;
}

static void choose_tile(Int8 *c)
{
  unsigned unit;
  double best = 0;

  c->lanes = c->d->l->lanes < PANEL_ROWS ? c->d->l->lanes : PANEL_ROWS;
  while (c->lanes > 1 && c->lanes / 2 >= c->outputs)
    c->lanes /= 2;
  unit = c->outputs > c->lanes ? PANEL_ROWS / c->lanes : 1;
  for (unsigned vecs = unit; vecs <= MAX_VECS; vecs += unit) {
    unsigned pixels = tile_of(c, vecs);
    double cost = tile_cost(c, pixels, vecs);
    if (vecs == unit || cost < best) {
      best = cost;
      c->vecs = vecs;
      c->pixels = pixels;
    }
  }
  c->parts = 1;
  while (c->parts < MAX_PARTS && c->parts * 2 <= c->steps && products(c) * c->parts < ENOUGH_SUMS)
    c->parts *= 2;
}

/* The innermost kernel axes whose places follow each other without gaps. */
static void find_run(Int8 *c, int64_t channels)
{
  c->run = channels;
  c->runs = 1;
  bool joined = true;
  for (int a = AXES; a-- > 0;) {
    Axis *ax = &c->axis[a];
    joined = joined && (ax->kernel == 1 || ax->tap == c->run);
    ax->in_run = joined;
    *(joined ? &c->run : &c->runs) *= ax->kernel;
  }
  c->steps = (c->run + STEP - 1) / STEP;
  for (c->pixel = AXES - 1; c->pixel > 0 && c->axis[c->pixel].n == 1;)
    c->pixel--;
}

static void no_axes(Int8 *c)
{
  for (int a = 0; a < AXES; a++)
    c->axis[a] = (Axis){.dim = -1, .n = 1, .kernel = 1};
}

static bool conv_axes(Int8 *c, const Node *n, const DensePlace *x)
{
  const Window *w = &n->attr.window;

  c->axis[0] = (Axis){.dim = 0, .n = n->type.dim[0], .kernel = 1, .step = x->stride[0]};
  for (uint32_t i = 0; i < w->spatial; i++) {
    if (w->pad_lo[i] || w->pad_hi[i])
      return false;
    c->axis[AXES - w->spatial + i] = (Axis){.dim = (int)i + 1,
                                            .n = n->type.dim[1 + i],
                                            .kernel = w->kernel[i],
                                            .step = x->stride[1 + i] * w->stride[i],
                                            .tap = x->stride[1 + i] * w->dilation[i]};
  }
  return w->group == 1;
}

static bool linear_axes(Int8 *c, const Node *n, const DensePlace *x)
{
  uint32_t rows = n->type.rank - 1;

  for (uint32_t i = 0; i < rows && rows <= AXES; i++)
    c->axis[AXES - rows + i] = (Axis){.dim = (int)i, .n = n->type.dim[i], .kernel = 1, .step = x->stride[i]};
  return rows <= AXES;
}

/* ---- weights */

static void pack_run(const Int8 *c, const int8_t *from, int8_t *to, int64_t channel)
{
  for (int64_t i = 0; i < c->run; i++)
    to[(i / STEP * PANEL_ROWS + channel) * STEP + i % STEP] = from[i];
}

static uint32_t pack(const Int8 *c, const Weight *weight)
{
  Lower *l = c->d->l;
  int64_t panels = (c->outputs + PANEL_ROWS - 1) / PANEL_ROWS, run_bytes = c->steps * STEP * PANEL_ROWS;
  uint64_t bytes = (uint64_t)(panels * c->runs * run_bytes);
  int8_t *data = arena_alloc(l->arena, bytes);

  memset(data, 0, bytes);
  for (int64_t o = 0; o < c->outputs; o++)
    for (int64_t r = 0; r < c->runs; r++)
      pack_run(c, (const int8_t *)weight->data + (o * c->runs + r) * c->run,
               data + (o / PANEL_ROWS * c->runs + r) * run_bytes, o % PANEL_ROWS);
  uint32_t b = program_buffer(l->prog, SPACE_WEIGHTS, weight->name, bytes);
  *PUSH(l->arena, l->prog->items) = (Item){.layout = LAYOUT_RAW, .data = data, .type = DT_I8, .buffer = b};
  return b;
}

bool dense_int8(DenseLower *d, Val v)
{
  const Node *n = graph_node(d->g, v);
  Val x = graph_in(d->g, v, 0), w = graph_in(d->g, v, 1);
  const Type *xt = &graph_node(d->g, x)->type, *wt = &graph_node(d->g, w)->type;
  const DensePlace *place = dense_place(d, x);
  const Weight *weight = dense_weight(d, w);
  bool conv = n->op == OP_conv;

  if (xt->dtype != DT_U8 || wt->dtype != DT_I8 || !weight || !weight->data || !type_count(wt) ||
      (type_last(xt) > 1 && place->stride[xt->rank - 1] != 1))
    return false;
  Int8 c = {.d = d, .type = &n->type, .offset = place->offset, .outputs = wt->dim[0]};
  no_axes(&c);
  if (!(conv ? conv_axes : linear_axes)(&c, n, place))
    return false;
  c.bias = n->in.count > 2 ? graph_in(d->g, v, 2) : 0;
  c.depth = type_count(wt) / c.outputs;
  c.plan = d->l->target->dot4 || d->l->target->loops ? (DotPlan){DOT4, 0} : (DotPlan){DOT2W, 0};
  find_run(&c, type_last(xt));
  choose_tile(&c);
  dense_begin(d, "%s.u8.%lldx%lldx%lld.%lld", op_info[n->op].name, (long long)c.outputs, (long long)c.depth,
              (long long)c.run, (long long)c.axis[c.pixel].n);
  c.k = d->l->k;
  c.xp = dense_param(d, x, KA_READ);
  c.wp = lower_param(d->l, pack(&c, weight), 0, KE_i8, KA_READ, "w");
  d->bytes += (uint64_t)(c.depth * c.outputs);
  dense_end(d, grid(&c), (uint64_t)(type_count(&n->type) * c.depth));
  return true;
}
