/* dense_window.c - see dense_window.h.
 *
 * A row is cut in tiles. Those whose windows lie inside the input are alike: a loop. Those at an edge are unrolled, each
 * for its own place, so that what lies outside the input costs nothing. Kernels too wide to unroll walk an edge pixel by
 * pixel, over the kernel columns that are inside. Along the outer dimensions the kernel's range is cut to the input
 * before the loop. */
#include "passes/lower/dense_window.h"

#include <assert.h>

/* ---- geometry */

/* Dimensions along which nothing moves are left out, so that the innermost one is long. */
void walk_init(Walk *w, DenseLower *d, Val v, const DensePlace *x)
{
  const Node *n = graph_node(d->g, v);
  const Type *in = &graph_node(d->g, graph_in(d->g, v, 0))->type;
  const Window *win = &n->attr.window;
  uint32_t slot = 3;

  w->d = d;
  w->k = d->l->k;
  w->v = v;
  w->rank = n->type.rank;
  w->ring = x->ring;
  for (uint32_t i = 0; i < 3; i++) {
    w->in[i] = w->out[i] = w->kernel[i] = w->stride[i] = w->dilation[i] = 1;
    w->pad[i] = w->x_stride[i] = w->dim[i] = 0;
  }
  for (uint32_t s = win->spatial; s-- > 0;) {
    if (in->dim[1 + s] == 1 && n->type.dim[1 + s] == 1 && win->kernel[s] == 1 && !win->pad_lo[s])
      continue;
    slot--;
    w->dim[slot] = 1 + s;
    w->in[slot] = in->dim[1 + s];
    w->out[slot] = n->type.dim[1 + s];
    w->kernel[slot] = win->kernel[s];
    w->stride[slot] = win->stride[s];
    w->dilation[slot] = win->dilation[s];
    w->pad[slot] = win->pad_lo[s];
    w->x_stride[slot] = x->stride[1 + s];
  }
}

unsigned walk_tile(const Walk *w, unsigned most)
{
  int64_t n = w->out[2];

  most = most > WALK_MAX_TILE ? WALK_MAX_TILE : most < 1 ? 1 : most;
  if (n < 1)
    return 1;
  int64_t tiles = (n + most - 1) / most;
  return (unsigned)((n + tiles - 1) / tiles);
}

int64_t walk_rows(const Walk *w, int64_t batch)
{
  return batch * w->out[0] * w->out[1];
}

static KVal part_of(Kernel *k, KVal *index, int64_t n)
{
  if (n == 1)
    return k_idx(k, 0);
  KVal of = k_idx(k, n), r = k_op2(k, K_rem, *index, of);
  *index = k_op2(k, K_div, *index, of);
  return r;
}

void walk_position(Walk *w, KVal index)
{
  w->pos[1] = part_of(w->k, &index, w->out[1]);
  w->pos[0] = part_of(w->k, &index, w->out[0]);
  w->batch = index;
}

/* ---- results */

DensePoint walk_point(const Walk *w, DenseIndex column, DenseIndex c, unsigned lanes)
{
  DensePoint at = {.lanes = lanes};

  at.at[0].v = w->batch;
  for (uint32_t i = 0; i < 2; i++)
    if (w->dim[i])
      at.at[w->dim[i]].v = w->pos[i];
  if (w->dim[2])
    at.at[w->dim[2]] = column;
  at.at[w->rank - 1] = c;
  return at;
}

static void store(Walk *w, DenseIndex column, unsigned p, int64_t channel, unsigned lanes, KVal value)
{
  DenseIndex c = {w->blocks > 1 ? idx_mul(w->k, w->ob, w->block) : 0, w->first + channel, 1};

  column.c += p;
  DensePoint at = walk_point(w, column, c, lanes);
  w->store(w, value, &at);
}

/* The first `n` lanes of a value, in powers of two. */
static void store_some(Walk *w, DenseIndex column, unsigned p, int64_t channel, unsigned n, KVal value)
{
  uint8_t pick[K_MAX_LANES];

  if (n >= w->lanes) {
    store(w, column, p, channel, w->lanes, value);
    return;
  }
  for (unsigned at = 0, size = w->lanes; at < n; at += size) {
    while (size > n - at)
      size /= 2;
    for (unsigned j = 0; j < size; j++)
      pick[j] = (uint8_t)(at + j);
    KVal part = size == 1 ? k_extract(w->k, value, at) : k_shuffle(w->k, value, value, pick, size);
    store(w, column, p, channel + at, size, part);
  }
}

static void store_channels(Walk *w, DenseIndex column, int64_t channels, const Acc *acc)
{
  for (unsigned p = 0; p < w->tile; p++)
    for (unsigned i = 0; i < w->vecs; i++) {
      int64_t first = (int64_t)i * w->lanes, left = channels - first;
      if (left > 0)
        store_some(w, column, p, first, left < w->lanes ? (unsigned)left : w->lanes, acc->v[p][i]);
    }
  dense_forget(w->d);
}

/* The last block may have fewer channels than the others. */
static void store_tile(Walk *w, DenseIndex column, const Acc *acc)
{
  int64_t last = w->outputs - (w->blocks - 1) * w->block;

  dense_forget(w->d);
  if (last == w->block || w->blocks == 1) {
    store_channels(w, column, last, acc);
    return;
  }
  k_if(w->k, k_op2(w->k, K_lt, w->ob, k_idx(w->k, w->blocks - 1)));
  store_channels(w, column, w->block, acc);
  k_else(w->k);
  store_channels(w, column, last, acc);
  k_end(w->k, NULL, 0);
}

/* ---- loops that carry the sums of a tile */

typedef struct {
  KVal column;   /* idx of its first pixel; 0: it is `at` */
  int64_t at;    /* the constant part */
  unsigned n;    /* pixels */
  bool interior; /* no pixel has an input outside of the row */
} Tile;

KVal walk_enter(const Walk *w, unsigned pixels, KVal lo, KVal hi, int64_t step, Acc *acc)
{
  KVal i = k_loop(w->k, lo, hi, step);

  for (unsigned p = 0; p < pixels; p++)
    for (unsigned v = 0; v < w->vecs; v++)
      acc->v[p][v] = k_carry(w->k, acc->v[p][v]);
  return i;
}

void walk_leave(const Walk *w, unsigned pixels, const Acc *body)
{
  KVal next[WALK_MAX_TILE * WALK_MAX_VECS];
  uint32_t n = 0;

  for (unsigned p = 0; p < pixels; p++)
    for (unsigned v = 0; v < w->vecs; v++)
      next[n++] = body->v[p][v];
  k_end(w->k, next, n);
}

/* ---- along the row */

/* Where kernel column kw meets the input, for pixel p: bit p. */
static uint32_t valid_pixels(const Walk *w, const Tile *t, int64_t kw)
{
  uint32_t mask = 0;

  for (unsigned p = 0; p < t->n; p++) {
    int64_t i = (t->at + p) * w->stride[2] + kw * w->dilation[2] - w->pad[2];
    if (t->interior || (i >= 0 && i < w->in[2]))
      mask |= 1u << p;
  }
  return mask;
}

static void column(Walk *w, const Tile *t, int64_t kw, KVal x, KVal tap, Acc *acc)
{
  uint32_t valid = valid_pixels(w, t, kw);

  if (valid)
    w->step(w, x, kw * w->dilation[2] * w->x_stride[2], tap, kw * w->channels, valid, acc);
}

/* One loop over the channels for each kernel column: in one loop for all, an input that several columns meet would be
 * kept for the next, and the sums driven out of the registers. */
static void columns_apart(Walk *w, const Tile *t, int64_t lo, int64_t hi, KVal x, KVal tap, Acc *acc)
{
  Kernel *k = w->k;

  for (int64_t kw = lo; kw < hi; kw++) {
    if (!valid_pixels(w, t, kw))
      continue;
    KVal c = walk_enter(w, t->n, k_idx(k, 0), k_idx(k, w->channels), 1, acc);
    Acc body = *acc;
    column(w, t, kw, idx_add(k, x, idx_mul(k, c, w->x_channel)), idx_add(k, tap, c), &body);
    walk_leave(w, t->n, &body);
  }
}

/* Few channels side by side: no loop at all. */
static void columns_between(Walk *w, const Tile *t, int64_t lo, int64_t hi, KVal x, KVal tap, Acc *acc)
{
  enum { FEW = 4 };
  Kernel *k = w->k;

  if (w->channels > FEW || (w->channels > 1 && w->x_channel != 1)) {
    columns_apart(w, t, lo, hi, x, tap, acc);
    return;
  }
  for (int64_t kw = lo; kw < hi; kw++)
    for (int64_t c = 0; c < w->channels; c++)
      column(w, t, kw, idx_add(k, x, k_idx(k, c * w->x_channel)), idx_add(k, tap, k_idx(k, c)), acc);
}

/* Kernel columns lo .. hi - 1, all pixels inside the input. Where columns and channels lie side by side, they are one
 * loop. */
static void columns_loop(Walk *w, const Tile *t, KVal x, KVal tap, KVal lo, KVal hi, Acc *acc)
{
  Kernel *k = w->k;
  uint32_t all = (1u << t->n) - 1;
  bool one = w->channels == 1 || (w->x_channel == 1 && w->dilation[2] * w->x_stride[2] == w->channels);
  int64_t step = w->dilation[2] * w->x_stride[2];

  if (one && w->channels > 1) {
    lo = idx_mul(k, lo, w->channels);
    hi = idx_mul(k, hi, w->channels);
    step = w->x_channel;
  }
  KVal i = walk_enter(w, t->n, lo, hi, 1, acc);
  Acc body = *acc;
  x = idx_add(k, x, idx_mul(k, i, step));
  if (one) {
    w->step(w, x, 0, idx_add(k, tap, i), 0, all, &body);
  } else {
    KVal c = walk_enter(w, t->n, k_idx(k, 0), k_idx(k, w->channels), 1, &body);
    Acc inner = body;
    tap = idx_add(k, idx_add(k, tap, idx_mul(k, i, w->channels)), c);
    w->step(w, idx_add(k, x, idx_mul(k, c, w->x_channel)), 0, tap, 0, all, &inner);
    walk_leave(w, t->n, &inner);
  }
  walk_leave(w, t->n, &body);
}

/* max(0, a - b * stride + up) / by, at most `most`: an end of the kernel's range at output index i. */
static KVal cut(const Walk *w, uint32_t dim, KVal i, int64_t a, int64_t most)
{
  Kernel *k = w->k;
  KVal x = k_op2(k, K_sub, k_idx(k, a + w->pad[dim] + w->dilation[dim] - 1), idx_mul(k, i, w->stride[dim]));

  x = k_op2(k, K_max, x, k_idx(k, 0));
  if (w->dilation[dim] > 1)
    x = k_op2(k, K_div, x, k_idx(k, w->dilation[dim]));
  return k_op2(k, K_min, x, k_idx(k, most));
}

/* The range of kernel places along a dimension that are inside the input at output index i. */
void walk_range(const Walk *w, uint32_t dim, KVal i, KVal *lo, KVal *hi)
{
  int64_t n = w->kernel[dim],
          end = (w->out[dim] - 1) * w->stride[dim] + (n - 1) * w->dilation[dim] - w->pad[dim];

  *lo = w->pad[dim] > 0 ? cut(w, dim, i, 0, n) : k_idx(w->k, 0);
  *hi = end >= w->in[dim] ? cut(w, dim, i, w->in[dim], n) : k_idx(w->k, n);
}

/* A tile at a known place at an edge of a wide kernel: columns that all pixels meet are a loop, the others, as many as the
 * tile has pixels at most, stand apart. */
static void columns_at_edge(Walk *w, const Tile *t, KVal x, KVal tap, Acc *acc)
{
  uint32_t all = (1u << t->n) - 1;
  Kernel *k = w->k;

  for (int64_t kw = 0, end; kw < w->kernel[2]; kw = end) {
    end = kw + 1;
    if (valid_pixels(w, t, kw) != all) {
      columns_between(w, t, kw, end, x, tap, acc);
      continue;
    }
    while (end < w->kernel[2] && valid_pixels(w, t, end) == all)
      end++;
    columns_loop(w, t, x, tap, k_idx(k, kw), k_idx(k, end), acc);
  }
}

static void along_row(Walk *w, const void *tile, KVal x, KVal row, Acc *acc)
{
  const Tile *t = tile;
  Kernel *k = w->k;
  KVal tap = idx_mul(k, row, w->kernel[2] * w->channels);
  bool few = w->kernel[2] <= WALK_UNROLL;
  bool joined = w->channels > 1 && w->x_channel == 1 && w->dilation[2] * w->x_stride[2] == w->channels;
  KVal lo = k_idx(k, 0), hi = k_idx(k, w->kernel[2]);

  if (few && !(t->interior && joined)) {
    columns_between(w, t, 0, w->kernel[2], x, tap, acc);
    return;
  }
  if (!t->interior && !t->column) {
    columns_at_edge(w, t, x, tap, acc);
    return;
  }
  if (!t->interior)
    walk_range(w, 2, t->column, &lo, &hi);
  columns_loop(w, t, x, tap, lo, hi, acc);
}

/* ---- over the outer kernel dimensions */

typedef struct {
  unsigned pixels;
  WalkRow *fn;
  const void *tile;
} Rows;

/* From x to what is at index `at` of a dimension. */
static KVal advance(const Walk *w, uint32_t dim, KVal x, KVal at)
{
  Kernel *k = w->k;

  if (w->ring && w->dim[dim] == 1)
    at = k_op2(k, K_and, at, k_idx(k, w->ring - 1));
  return idx_add(k, x, idx_mul(k, at, w->x_stride[dim]));
}

/* Kernel places of dimensions dim .. 1, then the row itself; rows count over those before. */
static void over_kernel(Walk *w, const Rows *r, uint32_t dim, KVal x, KVal row, Acc *acc)
{
  Kernel *k = w->k;

  if (dim == 2) {
    r->fn(w, r->tile, x, row, acc);
    return;
  }
  KVal at = idx_add(k, idx_mul(k, w->pos[dim], w->stride[dim]), k_idx(k, -w->pad[dim])), lo, hi;
  row = idx_mul(k, row, w->kernel[dim]);
  if (w->kernel[dim] == 1 && w->pad[dim] <= 0 &&
      (w->out[dim] - 1) * w->stride[dim] - w->pad[dim] < w->in[dim]) {
    over_kernel(w, r, dim + 1, advance(w, dim, x, at), row, acc);
    return;
  }
  walk_range(w, dim, w->pos[dim], &lo, &hi);
  KVal i = walk_enter(w, r->pixels, lo, hi, 1, acc);
  Acc body = *acc;
  at = idx_add(k, at, idx_mul(k, i, w->dilation[dim]));
  over_kernel(w, r, dim + 1, advance(w, dim, x, at), idx_add(k, row, i), &body);
  walk_leave(w, r->pixels, &body);
}

void walk_kernel(Walk *w, unsigned pixels, KVal x, WalkRow *fn, const void *tile, Acc *acc)
{
  over_kernel(w, &(Rows){pixels, fn, tile}, 0, x, k_idx(w->k, 0), acc);
}

static void one_block(Walk *w, const Tile *t, KVal x, KVal first)
{
  DenseIndex column = {.v = t->column, .c = t->column ? 0 : t->at};
  Acc acc;

  for (unsigned p = 0; p < t->n; p++)
    for (unsigned v = 0; v < w->vecs; v++)
      acc.v[p][v] = first;
  walk_kernel(w, t->n, x, along_row, t, &acc);
  store_tile(w, column, &acc);
}

static void do_tile(Walk *w, const Tile *t, KVal first)
{
  Kernel *k = w->k;
  KVal x = w->x;
  unsigned tile = w->tile;
  int64_t c = ((t->column ? 0 : t->at) * w->stride[2] - w->pad[2]) * w->x_stride[2];

  if (t->column)
    x = idx_add(k, x, idx_mul(k, t->column, w->stride[2] * w->x_stride[2]));
  x = idx_add(k, x, k_idx(k, c));
  w->tile = t->n;
  if (w->blocks_inside && w->blocks > 1) {
    w->ob = k_loop(k, k_idx(k, 0), k_idx(k, w->blocks), 1);
    if (w->block_begins)
      w->block_begins(w);
    one_block(w, t, idx_add(k, x, idx_mul(k, w->ob, w->block)), first);
    dense_forget(w->d);
    k_end(k, NULL, 0);
  } else {
    one_block(w, t, x, first);
  }
  w->tile = tile;
}

/* ---- a row in tiles */

/* The first output whose window begins inside the row, and the first behind it whose window ends outside. */
void walk_interior(const Walk *w, int64_t *lo, int64_t *hi)
{
  int64_t reach = w->in[2] - 1 + w->pad[2] - (w->kernel[2] - 1) * w->dilation[2];

  *lo = w->pad[2] <= 0 ? 0 : (w->pad[2] + w->stride[2] - 1) / w->stride[2];
  *hi = reach < 0 ? 0 : reach / w->stride[2] + 1;
  *hi = *hi > w->out[2] ? w->out[2] : *hi;
  *lo = *lo > *hi ? *hi : *lo;
}

/* Pixels from .. to - 1 at an edge. */
static void edge(Walk *w, int64_t from, int64_t to, bool tiles, KVal first)
{
  if (tiles) {
    for (int64_t at = from; at < to; at += w->tile) {
      int64_t left = to - at;
      Tile t = {.at = at, .n = left < w->tile ? (unsigned)left : w->tile};
      do_tile(w, &t, first);
    }
    return;
  }
  if (from >= to)
    return;
  Tile t = {.n = 1};
  t.column = k_loop(w->k, k_idx(w->k, from), k_idx(w->k, to), 1);
  do_tile(w, &t, first);
  k_end(w->k, NULL, 0);
}

void walk_row(Walk *w, KVal first)
{
  int64_t lo, hi, step = w->tile;
  bool few;

  walk_interior(w, &lo, &hi);
  few = w->kernel[2] <= WALK_UNROLL ||
        (w->kernel[2] <= WALK_WIDE && (lo + w->out[2] - hi + 2 * step - 2) / step <= WALK_EDGES);
  if (few) /* edge tiles are whole ones, that reach inside */
    lo = lo ? min64((lo + step - 1) / step * step, w->out[2]) : 0;
  edge(w, 0, lo, few, first);
  int64_t tiles = hi > lo ? (hi - lo) / step : 0, end = lo + tiles * step;
  if (tiles > 1) {
    Tile t = {.n = w->tile, .interior = true};
    t.column = k_loop(w->k, k_idx(w->k, lo), k_idx(w->k, end), step);
    do_tile(w, &t, first);
    k_end(w->k, NULL, 0);
  } else if (tiles) {
    Tile t = {.at = lo, .n = w->tile, .interior = true};
    do_tile(w, &t, first);
  }
  if (end < hi && !few) {
    Tile t = {.at = end, .n = (unsigned)(hi - end), .interior = true};
    do_tile(w, &t, first);
    end = hi;
  }
  edge(w, end, w->out[2], few, first);
}
