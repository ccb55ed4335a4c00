/* dense_few.c - convolutions with few output channels for a vector's lanes: lanes are what is summed.
 *
 * A row of the kernel meets kernel columns times channels numbers that lie side by side, in the input as in the weights.
 * They are taken a vector at a time, several pixels with each vector of weights; the lanes of a sum are added at the
 * end. Rows of weights are padded with zeros to whole vectors; what an input's vector holds beyond its row is masked. */
#include "passes/lower/dense_window.h"

#include <string.h>

enum { MAX_PIXELS = 8, PAD_TO = 16, CHUNK = 64 };

typedef struct {
  Walk w;
  const DensePlace *place;
  Val bias;
  uint16_t xp, wp;
  int64_t columns, padded; /* of one kernel row: numbers, and with padding */
  unsigned pixels;         /* of a tile */
} Few;

/* A tile: pixels from `column`; at an edge one, which kernel columns lo .. hi - 1 meet. */
typedef struct {
  KVal column;
  unsigned n;
  bool edge;
  KVal lo, hi;
} Tile;

/* ---- weights: [output][kernel place before the row][padded] */

static uint32_t pack(Few *c, DenseLower *d, const Weight *weight)
{
  Lower *l = d->l;
  const Type *t = &weight->type;
  int64_t rows = type_count(t) / c->columns;
  uint64_t bytes = (uint64_t)(rows * c->padded + PAD_TO) * 4;
  float *data = arena_alloc(l->arena, bytes);
  Tensor from = {*t, (void *)(uintptr_t)weight->data};

  memset(data, 0, bytes);
  for (int64_t r = 0; r < rows; r++)
    for (int64_t i = 0; i < c->columns; i++)
      data[r * c->padded + i] = (float)tensor_get(&from, r * c->columns + i);
  uint32_t b = program_buffer(l->prog, SPACE_WEIGHTS, weight->name, bytes);
  *PUSH(l->arena, l->prog->items) = (Item){.layout = LAYOUT_RAW, .data = data, .buffer = b};
  return b;
}

/* ---- sums */

/* Lanes before `n`, an idx. */
static KVal lanes_before(const Few *c, KVal n)
{
  Kernel *k = c->w.k;
  KType ints = ktype(KE_i32, c->w.lanes);

  return k_op2(k, K_lt, kernel_add(k, K_lane, ints, NULL, 0, 0), k_splat(k, ints, k_cast(k, KE_i32, n)));
}

/* A vector of every pixel's input at x + off; lanes outside of the mask (0: none) do not count. */
static void step(Few *c, const Tile *t, KVal x, KVal w, int64_t off, KVal mask, Acc *s)
{
  Kernel *k = c->w.k;
  KType type = ktype(KE_f32, c->w.lanes);
  int64_t place = c->w.kernel[0] * c->w.kernel[1] * c->padded;
  KVal weight[WALK_MAX_VECS];

  for (int64_t o = 0; o < c->w.outputs; o++)
    weight[o] = k_load(k, type, c->wp, w, o * place + off);
  for (unsigned p = 0; p < t->n; p++) {
    KVal in = k_load(k, type, c->xp, x, off + (int64_t)p * c->w.stride[2] * c->w.x_stride[2]);
    if (mask)
      in = k_select(k, mask, in, k_flt(k, c->w.lanes, 0));
    for (int64_t o = 0; o < c->w.outputs; o++)
      s->v[p][o] = k_fma(k, weight[o], in, s->v[p][o]);
  }
}

/* One kernel row at an edge: as much of it as meets the input. */
static void along_edge(Few *c, const Tile *t, KVal x, KVal w, Acc *s)
{
  Kernel *k = c->w.k;
  KVal from = idx_mul(k, t->lo, c->w.channels), n = k_op2(k, K_sub, idx_mul(k, t->hi, c->w.channels), from);
  KVal i = walk_enter(&c->w, t->n, k_idx(k, 0), n, c->w.lanes, s), at = idx_add(k, from, i);
  Acc body = *s;

  step(c, t, idx_add(k, x, at), idx_add(k, w, at), 0, lanes_before(c, k_op2(k, K_sub, n, i)), &body);
  walk_leave(&c->w, t->n, &body);
}

/* One kernel row: whole vectors, then the rest. */
static void along_row(Few *c, const Tile *t, KVal x, KVal w, Acc *s)
{
  Kernel *k = c->w.k;
  int64_t whole = c->columns / c->w.lanes * c->w.lanes;

  if (whole > 4 * (int64_t)c->w.lanes) {
    KVal i = walk_enter(&c->w, t->n, k_idx(k, 0), k_idx(k, whole), c->w.lanes, s);
    Acc body = *s;
    step(c, t, idx_add(k, x, i), idx_add(k, w, i), 0, 0, &body);
    walk_leave(&c->w, t->n, &body);
  } else {
    for (int64_t i = 0; i < whole; i += c->w.lanes)
      step(c, t, x, w, i, 0, s);
  }
  if (c->columns > whole)
    step(c, t, x, w, whole, lanes_before(c, k_idx(k, c->columns - whole)), s);
}

static void one_row(Walk *w, const void *tile, KVal x, KVal row, Acc *s)
{
  Few *c = w->ctx;
  const Tile *t = tile;

  (t->edge ? along_edge : along_row)(c, t, x, idx_mul(w->k, row, c->padded), s);
}

/* ---- results */

static void store(Few *c, const Tile *t, unsigned p, int64_t o, KVal sum)
{
  Walk *w = &c->w;
  DensePoint at = walk_point(w, (DenseIndex){.v = t->column, .c = p}, (DenseIndex){.c = o}, 1),
             b = {.lanes = 1};
  KVal value = k_reduce(w->k, K_sum, sum);

  b.at[0].c = o;
  if (c->bias)
    value = k_op2(w->k, K_add, value, dense_expr(w->d, c->bias, &b));
  dense_store(w->d, value, &at);
}

static void do_tile(Few *c, const Tile *t)
{
  Walk *w = &c->w;
  Kernel *k = w->k;
  KVal x = w->x;
  Acc s;

  for (unsigned p = 0; p < t->n; p++)
    for (int64_t o = 0; o < w->outputs; o++)
      s.v[p][o] = k_flt(k, w->lanes, 0);
  x = idx_add(k, x, idx_mul(k, t->column, w->stride[2] * w->x_stride[2]));
  x = idx_add(k, x, k_idx(k, -w->pad[2] * w->x_stride[2]));
  walk_kernel(w, t->n, x, one_row, t, &s);
  dense_forget(w->d);
  for (unsigned p = 0; p < t->n; p++)
    for (int64_t o = 0; o < w->outputs; o++)
      store(c, t, p, o, s.v[p][o]);
  dense_forget(w->d);
}

/* Pixels from .. to - 1 at an edge, one by one. */
static void edge(Few *c, int64_t from, int64_t to)
{
  Walk *w = &c->w;
  Tile t = {.n = 1, .edge = true};

  t.column = k_loop(w->k, k_idx(w->k, from), k_idx(w->k, to), 1);
  walk_range(w, 2, t.column, &t.lo, &t.hi);
  do_tile(c, &t);
  k_end(w->k, NULL, 0);
}

/* A chunk of a row; the first and the last have the edges. */
static void chunk(Few *c, KVal number, int64_t lo, int64_t hi, int64_t chunks)
{
  Walk *w = &c->w;
  Kernel *k = w->k;
  KVal from = idx_add(k, idx_mul(k, number, CHUNK), k_idx(k, lo)),
       to = k_op2(k, K_min, idx_add(k, from, k_idx(k, CHUNK)), k_idx(k, hi));
  Tile t = {.n = c->pixels};

  if (lo > 0) {
    k_if(k, k_op2(k, K_eq, number, k_idx(k, 0)));
    edge(c, 0, lo);
    k_end(k, NULL, 0);
  }
  if (hi < w->out[2]) {
    k_if(k, k_op2(k, K_eq, number, k_idx(k, chunks - 1)));
    edge(c, hi, w->out[2]);
    k_end(k, NULL, 0);
  }
  KVal whole = idx_add(k, to, k_idx(k, 1 - (int64_t)c->pixels));
  t.column = k_loop(k, from, whole, c->pixels);
  do_tile(c, &t);
  k_end(k, NULL, 0);
  if (c->pixels == 1)
    return;
  /* what the tiles left: from + the whole tiles' pixels */
  KVal n = k_op2(k, K_max, k_op2(k, K_sub, to, from), k_idx(k, 0)), per = k_idx(k, c->pixels);
  KVal rest = idx_add(k, from, idx_mul(k, k_op2(k, K_div, n, per), c->pixels));
  t.n = 1;
  t.column = k_loop(k, rest, to, 1);
  do_tile(c, &t);
  k_end(k, NULL, 0);
}

/* ---- shapes */

/* Sums over lanes at the end cost as much as some vectors of the sum itself. */
static bool takes(const Few *c, const DenseLower *d, Val v)
{
  const Walk *w = &c->w;
  const Node *n = graph_node(d->g, v);
  const Weight *weight = dense_weight(d, graph_in(d->g, v, 1));
  int64_t vectors = w->kernel[0] * w->kernel[1] * ((c->columns + w->lanes - 1) / w->lanes);

  return n->type.dtype == DT_F32 && weight && weight->data && n->attr.window.group == 1 &&
         w->outputs <= WALK_MAX_VECS && w->outputs * 2 <= w->lanes && c->place->elem == KE_f32 &&
         w->dilation[2] == 1 && c->place->stride[n->type.rank - 1] == 1 && w->x_stride[2] == w->channels &&
         c->columns >= w->lanes && w->dim[2] && (w->outputs * 4 <= w->lanes || vectors >= 16);
}

bool dense_few(DenseLower *d, Val v)
{
  const Node *n = graph_node(d->g, v);
  Val x = graph_in(d->g, v, 0), weight = graph_in(d->g, v, 1);
  const Type *wt = &graph_node(d->g, weight)->type;
  Few c = {.place = dense_place(d, x), .bias = n->in.count > 2 ? graph_in(d->g, v, 2) : 0};
  Walk *w = &c.w;
  int64_t lo, hi;

  walk_init(w, d, v, c.place);
  w->lanes = d->l->lanes;
  w->outputs = type_last(&n->type);
  w->vecs = (unsigned)min64(w->outputs, WALK_MAX_VECS); /* one for each output */
  w->ctx = &c;
  w->channels = type_last(wt);
  c.columns = w->kernel[2] * w->channels;
  c.padded = (int64_t)round_up((uint64_t)c.columns, PAD_TO);
  if (!takes(&c, d, v))
    return false;
  c.pixels = (unsigned)min64(MAX_PIXELS, (d->l->target->registers - 4) / w->outputs);
  dense_begin(d, "conv.few.%lldx%lldx%lld.%lld.%lld", (long long)w->outputs,
              (long long)(type_count(wt) / w->outputs), (long long)w->channels, (long long)w->out[2],
              (long long)w->stride[2]);
  w->k = d->l->k;
  c.xp = dense_param(d, x, KA_READ);
  c.wp = lower_param(d->l, pack(&c, d, dense_weight(d, weight)), 0, KE_f32, KA_READ, "w");
  walk_interior(w, &lo, &hi);
  int64_t chunks = hi > lo ? (hi - lo + CHUNK - 1) / CHUNK : 1;
  KVal g = k_grid(w->k), number = k_idx(w->k, 0);
  if (chunks > 1) {
    number = k_op2(w->k, K_rem, g, k_idx(w->k, chunks));
    g = k_op2(w->k, K_div, g, k_idx(w->k, chunks));
  }
  walk_position(w, g);
  w->x = idx_add(w->k, idx_mul(w->k, w->batch, c.place->stride[0]), k_idx(w->k, c.place->offset));
  chunk(&c, number, lo, hi, chunks);
  dense_end(d, walk_rows(w, n->type.dim[0]) * chunks,
            (uint64_t)(type_count(&n->type) * (type_count(wt) / w->outputs)));
  return true;
}
