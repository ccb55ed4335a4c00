/* dense_winograd.c - convolutions with fewer multiplications: F(m, r) along the innermost spatial dimension (winograd.h).
 *
 * What comes from the kernel's rows and from the channels is summed before it is brought back. Three kernels:
 *   input    its rows, cut in tiles that overlap: for each point t the value there,
 *            V[t][image][row, with padding][tile][channel]
 *   conv     of some tiles and a block of outputs, for each point M[t] = sum over kernel rows and channels of V[t] * U[t],
 *            a product of matrices with its sums in registers; then m results of each tile from the values of M
 *   weights  U[panel of 16 outputs][t][kernel row][channel][16]: packed when compiled, in f32. Weights of 16 bits stay so
 *            in the program, and are computed anew beside the input. */
#include "passes/lower/dense_window.h"
#include "passes/lower/panel.h"
#include "passes/lower/winograd.h"

enum { MAX_POINTS = WINOGRAD_POINTS, LEAST_CHANNELS = 16, LEAST_TILES = 16, AHEAD = 4096 };
/* AHEAD: elements of weights that are asked for before their use, where no cache near holds all */

typedef struct {
  Walk w;
  Winograd f;
  const DensePlace *place;
  Val x, weight, bias; /* bias 0: none */
  DType x_type, w_type;
  int64_t batch, tiles, rows, all; /* tiles of a row; rows of an image of V; tiles of an image of results */
  int64_t stride, plane;           /* of V: elements of a tile, of a point */
  int64_t kernel_rows, panel;      /* elements of U from a panel to the next */
  uint32_t values, weights;        /* buffers of V and U */
} Conv;

/* ---- weights */

static uint32_t arena_buffer(Conv *c, const char *name, int64_t elements)
{
  Lower *l = c->w.d->l;
  uint32_t b = program_buffer(l->prog, SPACE_ARENA, name, (uint64_t)elements * 4);

  l->prog->buffers.data[b].entry = l->entry;
  return b;
}

static uint64_t u_bytes(const Conv *c)
{
  return (uint64_t)(c->w.outputs / PANEL_ROWS * c->panel) * 4;
}

static uint64_t v_bytes(const Conv *c)
{
  return (uint64_t)(c->plane * c->f.points) * 4;
}

/* The values at all points of one output's taps in kernel row `row`, channel `channel`. */
static void pack_taps(const Conv *c, const Tensor *from, int64_t output, int64_t row, int64_t channel,
                      float *to)
{
  const Winograd *f = &c->f;
  int64_t channels = c->w.channels;
  double tap[MAX_POINTS];

  for (int k = 0; k < f->r; k++)
    tap[k] = (double)tensor_get(from, ((output * c->kernel_rows + row) * f->r + k) * channels + channel);
  for (int t = 0; t < f->points; t++) {
    double sum = 0;
    for (int k = 0; k < f->r; k++)
      sum += f->weight[t][k] * tap[k];
    int64_t at = (t * c->kernel_rows + row) * channels + channel;
    to[output / PANEL_ROWS * c->panel + at * PANEL_ROWS + output % PANEL_ROWS] = (float)sum;
  }
}

static uint32_t pack(const Conv *c)
{
  Lower *l = c->w.d->l;
  const Weight *weight = dense_weight(c->w.d, c->weight);
  uint64_t bytes = u_bytes(c);
  float *data = arena_alloc(l->arena, bytes);
  Tensor from = {graph_node(c->w.d->g, c->weight)->type, (void *)(uintptr_t)weight->data};

  for (int64_t o = 0; o < c->w.outputs; o++)
    for (int64_t row = 0; row < c->kernel_rows; row++)
      for (int64_t i = 0; i < c->w.channels; i++)
        pack_taps(c, &from, o, row, i, data);
  uint32_t b = program_buffer(l->prog, SPACE_WEIGHTS, weight->name, bytes);
  *PUSH(l->arena, l->prog->items) = (Item){.layout = LAYOUT_RAW, .data = data, .type = DT_F32, .buffer = b};
  return b;
}

static KVal load(Kernel *k, DType t, uint16_t p, unsigned lanes, KVal at, int64_t off)
{
  return dense_widen(k, t, k_load(k, ktype(dense_memory(t), lanes), p, at, off));
}

/* One grid iteration: one panel, one kernel row. */
static void spread_weights(Conv *c)
{
  DenseLower *d = c->w.d;
  int64_t rows = c->kernel_rows, channels = c->w.channels;
  unsigned lanes = (unsigned)min64(d->l->lanes, PANEL_ROWS);

  dense_begin(d, "winograd.weights%u.%u.%lldx%lldx%lld.%s", c->f.m, c->f.r, (long long)c->w.outputs,
              (long long)rows, (long long)channels, dtype_info[c->w_type].name);
  Kernel *k = d->l->k;
  uint16_t from = dense_panels(d, c->weight), to = lower_param(d->l, c->weights, 0, KE_f32, KA_WRITE, "u");
  KVal of = k_idx(k, rows), g = k_grid(k), panel = k_op2(k, K_div, g, of), row = k_op2(k, K_rem, g, of);
  KVal i = k_loop(k, k_idx(k, 0), k_idx(k, channels), 1);
  KVal src = idx_mul(k, idx_add(k, idx_mul(k, g, c->f.r * channels), i), PANEL_ROWS);
  KVal dst = idx_mul(k, idx_add(k, idx_mul(k, row, channels), i), PANEL_ROWS);
  dst = idx_add(k, idx_mul(k, panel, c->panel), dst);
  for (unsigned at = 0; at < PANEL_ROWS; at += lanes) {
    KVal tap[MAX_POINTS], value[MAX_POINTS];
    for (int t = 0; t < c->f.r; t++)
      tap[t] = load(k, c->w_type, from, lanes, src, t * channels * PANEL_ROWS + at);
    winograd_values(k, &c->f, WINOGRAD_WEIGHT, tap, value);
    for (int t = 0; t < c->f.points; t++)
      k_store(k, to, dst, t * rows * channels * PANEL_ROWS + at, value[t]);
  }
  k_end(k, NULL, 0);
  d->bytes += u_bytes(c);
  dense_end(d, c->w.outputs / PANEL_ROWS * rows, (uint64_t)(c->w.outputs * rows * channels * c->f.points));
}

/* ---- input */

typedef struct {
  uint16_t from, to;
  unsigned lanes;
  KVal x, v; /* idx: column 0 of the row in the input, tile 0 of it in V; at the block's first channel */
  int64_t channels; /* of a block */
} Spread;

/* The tile whose number is column + at (column may be 0: none). */
static void spread_tile(const Conv *c, const Spread *s, KVal column, int64_t at, bool interior)
{
  const Walk *w = &c->w;
  Kernel *k = w->k;
  KVal in[MAX_POINTS], out[MAX_POINTS], x = s->x, v = s->v;

  if (column) {
    x = idx_add(k, x, idx_mul(k, column, c->f.m * w->x_stride[2]));
    v = idx_add(k, v, idx_mul(k, column, c->stride));
  }
  KVal i = k_loop(k, k_idx(k, 0), k_idx(k, s->channels), s->lanes);
  for (int t = 0; t < c->f.points; t++) {
    int64_t from = at * c->f.m + t - w->pad[2];
    in[t] = interior || (from >= 0 && from < w->in[2])
                ? load(k, c->x_type, s->from, s->lanes, idx_add(k, x, i), from * w->x_stride[2])
                : k_flt(k, s->lanes, 0);
  }
  winograd_values(k, &c->f, WINOGRAD_INPUT, in, out);
  for (int t = 0; t < c->f.points; t++)
    k_store(k, s->to, idx_add(k, v, i), t * c->plane + at * c->stride, out[t]);
  k_end(k, NULL, 0);
}

/* Tiles at the ends stand apart, each for its own place. */
static void spread_row(const Conv *c, const Spread *s)
{
  const Walk *w = &c->w;
  Kernel *k = w->k;
  int64_t room = w->in[2] + w->pad[2] - c->f.points, lo = (w->pad[2] + c->f.m - 1) / c->f.m,
          hi = room < 0 ? 0 : min64(room / c->f.m + 1, c->tiles);

  lo = min64(lo, c->tiles);
  for (int64_t at = 0; at < lo; at++)
    spread_tile(c, s, 0, at, false);
  if (lo < hi) {
    KVal column = k_loop(k, k_idx(k, lo), k_idx(k, hi), 1);
    spread_tile(c, s, column, 0, true);
    k_end(k, NULL, 0);
  }
  for (int64_t at = max64(lo, hi); at < c->tiles; at++)
    spread_tile(c, s, 0, at, false);
}

static void spread_nothing(const Conv *c, const Spread *s)
{
  Kernel *k = c->w.k;
  KVal tile = k_loop(k, k_idx(k, 0), k_idx(k, c->tiles), 1),
       i = k_loop(k, k_idx(k, 0), k_idx(k, s->channels), s->lanes);
  KVal v = idx_add(k, idx_add(k, s->v, idx_mul(k, tile, c->stride)), i);

  for (int t = 0; t < c->f.points; t++)
    k_store(k, s->to, v, t * c->plane, k_flt(k, s->lanes, 0));
  k_end(k, NULL, 0);
  k_end(k, NULL, 0);
}

/* One grid iteration: a row; of few long rows, some of the channels. */
static void spread_input(Conv *c)
{
  DenseLower *d = c->w.d;
  Walk *w = &c->w;
  int64_t blocks = 1, rows = c->batch * c->rows;
  Spread s = {.lanes = (unsigned)min64(d->l->lanes, PANEL_ROWS)};

  while (rows * blocks < WALK_ROWS && c->stride / blocks % (2 * PANEL_ROWS) == 0)
    blocks *= 2;
  s.channels = c->stride / blocks;
  dense_begin(d, "winograd.input%u.%u.%lldx%lldx%lld.%s", c->f.m, c->f.r, (long long)c->rows,
              (long long)w->in[2], (long long)w->channels, dtype_info[c->x_type].name);
  Kernel *k = w->k = d->l->k;
  s.from = dense_param(d, c->x, KA_READ);
  s.to = lower_param(d->l, c->values, 0, KE_f32, KA_WRITE, "v");
  KVal of = k_idx(k, blocks), g = k_grid(k),
       first = blocks == 1 ? k_idx(k, 0) : idx_mul(k, k_op2(k, K_rem, g, of), s.channels);
  g = blocks == 1 ? g : k_op2(k, K_div, g, of);
  KVal n = k_idx(k, c->rows), image = c->batch == 1 ? k_idx(k, 0) : k_op2(k, K_div, g, n),
       row = idx_add(k, c->batch == 1 ? g : k_op2(k, K_rem, g, n), k_idx(k, -w->pad[1]));
  s.v = idx_add(k, idx_mul(k, g, c->tiles * c->stride), first);
  s.x = idx_add(k, idx_mul(k, image, c->place->stride[0]), k_idx(k, c->place->offset));
  s.x = idx_add(k, idx_add(k, s.x, idx_mul(k, row, w->x_stride[1])), first);
  if (c->rows == w->in[1] && !w->pad[1]) {
    spread_row(c, &s);
  } else {
    KVal above = k_op2(k, K_le, k_idx(k, 0), row), below = k_op2(k, K_lt, row, k_idx(k, w->in[1]));
    k_if(k, k_op2(k, K_and, above, below));
    spread_row(c, &s);
    k_else(k);
    spread_nothing(c, &s);
    k_end(k, NULL, 0);
  }
  d->bytes += v_bytes(c);
  dense_end(d, rows * blocks, (uint64_t)(c->plane * c->f.points * 2));
}

/* ---- products */

typedef struct {
  uint16_t v, u, sums;
  KVal x;                    /* idx: in V, point 0 of the first tile */
  KVal panel[WALK_MAX_VECS]; /* idx: in U, where each vector of a block finds its panel */
  KVal first;                /* idx: number of the first tile */
  bool far;                  /* the weights do not stay in the cache */
} Product;

static void multiply(const Conv *c, const Product *p, KVal x, KVal u, Acc *acc)
{
  const Walk *w = &c->w;
  Kernel *k = w->k;
  KType type = ktype(KE_f32, w->lanes);
  KVal row[WALK_MAX_VECS];

  for (unsigned i = 0; i < w->vecs; i++)
    row[i] = k_load(k, type, p->u, idx_add(k, p->panel[i], u), i * w->lanes % PANEL_ROWS);
  for (unsigned i = 0; p->far && i < w->vecs; i += PANEL_ROWS / w->lanes)
    k_prefetch(k, p->u, idx_add(k, p->panel[i], u), AHEAD);
  for (unsigned t = 0; t < w->tile; t++) {
    KVal one = k_load(k, ktype(KE_f32, 1), p->v, x, t * c->stride);
    one = w->lanes == 1 ? one : k_splat(k, type, one);
    for (unsigned i = 0; i < w->vecs; i++)
      acc->v[t][i] = k_fma(k, row[i], one, acc->v[t][i]);
  }
}

static void channels(const Conv *c, const Product *p, KVal x, KVal u, Acc *acc)
{
  const Walk *w = &c->w;
  Kernel *k = w->k;
  KVal i = walk_enter(w, w->tile, k_idx(k, 0), k_idx(k, w->channels), 1, acc);
  Acc body = *acc;

  multiply(c, p, idx_add(k, x, i), idx_add(k, u, idx_mul(k, i, PANEL_ROWS)), &body);
  walk_leave(w, w->tile, &body);
}

static void kernel_rows(const Conv *c, const Product *p, KVal x, KVal u, Acc *acc)
{
  const Walk *w = &c->w;
  Kernel *k = w->k;

  if (c->kernel_rows == 1) {
    channels(c, p, x, u, acc);
    return;
  }
  KVal i = walk_enter(w, w->tile, k_idx(k, 0), k_idx(k, c->kernel_rows), 1, acc);
  Acc body = *acc;
  channels(c, p, idx_add(k, x, idx_mul(k, i, w->dilation[1] * c->tiles * c->stride)),
           idx_add(k, u, idx_mul(k, i, w->channels * PANEL_ROWS)), &body);
  walk_leave(w, w->tile, &body);
}

static void all_points(const Conv *c, const Product *p)
{
  const Walk *w = &c->w;
  Kernel *k = w->k;
  KVal t = k_loop(k, k_idx(k, 0), k_idx(k, c->f.points), 1);
  KVal to = idx_mul(k, t, w->tile * w->block);
  Acc acc;

  for (unsigned n = 0; n < w->tile; n++)
    for (unsigned i = 0; i < w->vecs; i++)
      acc.v[n][i] = k_flt(k, w->lanes, 0);
  kernel_rows(c, p, idx_add(k, p->x, idx_mul(k, t, c->plane)),
              idx_mul(k, t, c->kernel_rows * w->channels * PANEL_ROWS), &acc);
  for (unsigned n = 0; n < w->tile; n++)
    for (unsigned i = 0; i < w->vecs; i++)
      k_store(k, p->sums, to, n * w->block + i * w->lanes, acc.v[n][i]);
  k_end(k, NULL, 0);
}

/* ---- results */

static void store_pixels(const Conv *c, KVal column, int64_t n, KVal (*y)[MAX_POINTS])
{
  const Walk *w = &c->w;
  Kernel *k = w->k;

  dense_forget(w->d);
  for (int64_t j = 0; j < n; j++)
    for (unsigned i = 0; i < w->vecs; i++) {
      DenseIndex o = {w->blocks > 1 ? idx_mul(k, w->ob, w->block) : 0, i * w->lanes, 1};
      DensePoint at = walk_point(w, (DenseIndex){.v = column, .c = j}, o, w->lanes), b = {.lanes = w->lanes};
      KVal value = y[i][j];
      b.at[0] = o;
      if (c->bias)
        value = k_op2(k, K_add, value, dense_expr(w->d, c->bias, &b));
      dense_store(w->d, value, &at);
    }
  dense_forget(w->d);
}

/* Every tile of the group, as far as there are tiles and pixels. */
static void results(Conv *c, const Product *p)
{
  Walk *w = &c->w;
  Kernel *k = w->k;
  int64_t rest = w->out[2] - (c->tiles - 1) * c->f.m;
  KVal left = k_op2(k, K_sub, k_idx(k, c->all), p->first), y[WALK_MAX_VECS][MAX_POINTS];
  KVal n = k_loop(k, k_idx(k, 0), k_op2(k, K_min, left, k_idx(k, w->tile)), 1),
       tile = idx_add(k, p->first, n);

  w->pos[0] = k_idx(k, 0);
  w->pos[1] = w->pos[0];
  if (w->out[1] > 1) {
    w->pos[1] = k_op2(k, K_div, tile, k_idx(k, c->tiles));
    tile = k_op2(k, K_rem, tile, k_idx(k, c->tiles));
  }
  for (unsigned i = 0; i < w->vecs; i++) {
    KVal in[MAX_POINTS];
    for (int t = 0; t < c->f.points; t++)
      in[t] = k_load(k, ktype(KE_f32, w->lanes), p->sums, idx_mul(k, n, w->block),
                     t * w->tile * w->block + i * w->lanes);
    winograd_results(k, &c->f, in, y[i]);
  }
  KVal column = idx_mul(k, tile, c->f.m);
  if (rest == c->f.m) {
    store_pixels(c, column, rest, y);
  } else {
    k_if(k, k_op2(k, K_lt, tile, k_idx(k, c->tiles - 1)));
    store_pixels(c, column, c->f.m, y);
    k_else(k);
    store_pixels(c, column, rest, y);
    k_end(k, NULL, 0);
  }
  k_end(k, NULL, 0);
}

/* Blocks of the same tiles follow each other, unless the weights are the larger part. */
static int64_t position(Conv *c, Product *p)
{
  Walk *w = &c->w;
  Kernel *k = w->k;
  int64_t groups = (c->all + w->tile - 1) / w->tile, images = groups * c->batch;
  bool by_tiles = !p->far;
  KVal g = k_grid(k), n = k_idx(k, by_tiles ? w->blocks : images);
  KVal high = k_op2(k, K_div, g, n), low = k_op2(k, K_rem, g, n);

  w->ob = w->blocks == 1 ? k_idx(k, 0) : by_tiles ? low : high;
  g = w->blocks == 1 ? g : by_tiles ? high : low;
  w->batch = c->batch == 1 ? k_idx(k, 0) : k_op2(k, K_div, g, k_idx(k, groups));
  p->first = idx_mul(k, c->batch == 1 ? g : k_op2(k, K_rem, g, k_idx(k, groups)), w->tile);
  p->x = idx_add(k, idx_mul(k, w->batch, c->rows * c->tiles), p->first);
  p->x = idx_mul(k, p->x, c->stride);
  for (unsigned i = 0; i < w->vecs; i++) {
    KVal panel = idx_mul(k, w->ob, w->block / PANEL_ROWS);
    p->panel[i] = idx_mul(k, idx_add(k, panel, k_idx(k, i * w->lanes / PANEL_ROWS)), c->panel);
  }
  return images * w->blocks;
}

/* Vectors of a block: whole panels that divide the outputs; as many tiles as registers are left for. */
static void choose_block(Conv *c)
{
  Walk *w = &c->w;
  int64_t panels = w->outputs / PANEL_ROWS;

  w->lanes = (unsigned)min64(w->d->l->lanes, PANEL_ROWS);
  w->vecs = PANEL_ROWS / w->lanes;
  if (w->vecs == 1)
    w->vecs = panels % 2 == 0 ? 2 : panels % 3 == 0 ? 3 : 1;
  w->block = (int64_t)w->lanes * w->vecs;
  w->blocks = w->outputs / w->block;
  int64_t most = ((int64_t)w->d->l->target->registers - 2 - w->vecs) / w->vecs;
  most = min64(max64(1, most), WALK_MAX_TILE);
  int64_t groups = (c->all + most - 1) / most;
  if (groups > 1 && groups * w->blocks < WALK_ROWS && groups * w->blocks % 2)
    groups++; /* a few of them go evenly to two threads */
  w->tile = (unsigned)((c->all + groups - 1) / groups);
}

static void product(Conv *c)
{
  DenseLower *d = c->w.d;
  Walk *w = &c->w;
  Product p;

  dense_begin(d, "conv.winograd%d.%d.%lldx%lldx%lld.%lldx%lld", c->f.m, c->f.r, (long long)w->outputs,
              (long long)c->kernel_rows, (long long)w->channels, (long long)w->out[1], (long long)w->out[2]);
  w->k = d->l->k;
  choose_block(c);
  p.v = lower_param(d->l, c->values, 0, KE_f32, KA_READ, "v");
  p.u = lower_param(d->l, c->weights, 0, KE_f32, KA_READ, "u");
  p.sums = lower_scratch(d->l, (uint64_t)(c->f.points * w->tile * w->block) * 4);
  d->bytes += u_bytes(c) + v_bytes(c);
  p.far = u_bytes(c) > d->l->target->l2_bytes / 2;
  int64_t grid = position(c, &p);
  all_points(c, &p);
  results(c, &p);
  dense_end(d, grid, (uint64_t)(c->batch * c->all * c->f.points * c->kernel_rows * w->channels * w->outputs));
}

/* ---- shapes */

static void set_fast(Conv *c, int m, int r)
{
  Walk *w = &c->w;

  c->f = winograd(m, r);
  c->tiles = (w->out[2] + m - 1) / m;
  c->rows = w->out[1] + (w->kernel[1] - 1) * w->dilation[1];
  c->all = w->out[1] * c->tiles;
  c->stride = (int64_t)round_up((uint64_t)w->channels, PANEL_ROWS);
  c->plane = c->batch * c->rows * c->tiles * c->stride;
  c->kernel_rows = w->kernel[1];
  c->panel = c->f.points * c->kernel_rows * w->channels * PANEL_ROWS;
}

/* Time in multiply-adds of vectors of 16, as measured: what a value of V, U or M costs beside those; and 64 bytes of weights
 * that come from afar, which are those above a size. The same for all targets, so that one program's share weights. */
enum { COST_INPUT = 10, COST_WEIGHT = 12, COST_RESULT = 12, COST_FAR = 16, NEAR = 1 << 20 };

static double far_cost(double bytes)
{
  return bytes > NEAR ? (bytes - NEAR) / 64 * COST_FAR : 0;
}

static double direct_cost(const Conv *c)
{
  const Walk *w = &c->w;
  double pixels = (double)(c->batch * w->out[1] * w->out[2]),
         weights = (double)(w->kernel[1] * w->kernel[2] * w->channels * w->outputs);

  return pixels * weights / PANEL_ROWS + (c->w_type == DT_F32 ? far_cost(weights * 4) : 0);
}

static double fast_cost(const Conv *c)
{
  double results = (double)(c->batch * c->all * c->f.points * c->w.outputs) / PANEL_ROWS,
         inputs = (double)(c->plane * c->f.points) / PANEL_ROWS,
         sums = results * (double)(c->kernel_rows * c->w.channels), weights = (double)u_bytes(c);

  weights = c->w_type == DT_F32 ? far_cost(weights) : weights / 64 * COST_WEIGHT;
  return sums + COST_RESULT * results + COST_INPUT * inputs + weights;
}

/* Larger tiles, with more weights, only where they gain. Below some tiles weights are read for too few of them. */
static bool choose(Conv *c)
{
  static const struct {
    int m, r;
  } rows[] = {{2, 3}, {4, 3}, {2, 5}, {4, 5}};
  const double gain = 0.88;
  double best = direct_cost(c) * gain;
  int m = 0;

  for (size_t i = 0; i < COUNT(rows); i++) {
    if (rows[i].r != c->w.kernel[2])
      continue;
    set_fast(c, rows[i].m, rows[i].r);
    if (c->all < LEAST_TILES || fast_cost(c) >= best)
      continue;
    best = fast_cost(c) * (c->w_type == DT_F32 ? gain : 1);
    m = rows[i].m;
  }
  if (m)
    set_fast(c, m, (int)c->w.kernel[2]);
  return m > 0;
}

static bool takes(const Conv *c, const DenseLower *d, Val v)
{
  const Walk *w = &c->w;
  const Node *n = graph_node(d->g, v);
  const Weight *weight = dense_weight(d, c->weight);
  KElem x = dense_memory(c->x_type);

  return weight && weight->data && n->attr.window.group == 1 && dense_elem(n->type.dtype) == KE_f32 &&
         dense_elem(c->x_type) == KE_f32 && dense_elem(c->w_type) == KE_f32 && c->place->elem == x &&
         d->l->lanes > 1 && w->channels >= LEAST_CHANNELS && w->outputs % PANEL_ROWS == 0 &&
         c->place->stride[n->type.rank - 1] == 1 && w->in[0] == 1 && w->out[0] == 1 && w->kernel[0] == 1 &&
         w->pad[0] == 0 && w->stride[1] == 1 && w->stride[2] == 1 && w->dilation[2] == 1 && w->dim[2] &&
         w->pad[1] >= 0 && w->pad[2] >= 0 && w->pad[2] < w->kernel[2] &&
         w->out[2] - w->in[2] - w->pad[2] + w->kernel[2] - 1 < w->kernel[2];
}

bool dense_winograd(DenseLower *d, Val v)
{
  const Node *n = graph_node(d->g, v);
  Conv c = {.x = graph_in(d->g, v, 0), .weight = graph_in(d->g, v, 1)};
  Walk *w = &c.w;

  c.place = dense_place(d, c.x);
  c.bias = n->in.count > 2 ? graph_in(d->g, v, 2) : 0;
  c.x_type = graph_node(d->g, c.x)->type.dtype;
  c.w_type = graph_node(d->g, c.weight)->type.dtype;
  c.batch = n->type.dim[0];
  walk_init(w, d, v, c.place);
  w->outputs = type_last(&n->type);
  w->channels = type_last(&graph_node(d->g, c.weight)->type);
  if (!takes(&c, d, v) || !choose(&c))
    return false;
  c.values = arena_buffer(&c, "winograd.input", c.plane * c.f.points + WALK_MAX_TILE * c.stride);
  spread_input(&c);
  if (c.w_type == DT_F32) {
    c.weights = pack(&c);
  } else {
    c.weights = arena_buffer(&c, "winograd.weights", c.panel * w->outputs / PANEL_ROWS);
    spread_weights(&c);
  }
  lower_barrier(d->l, "winograd");
  product(&c);
  return true;
}
