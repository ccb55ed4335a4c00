/* dense_conv.c - convolutions: y[n, p, o] = bias[o] + sum over kernel places k and channels c of
 * x[n, p * stride + k * dilation - pad, c] * w[o, k, c], channels last.
 *
 * Lanes are output channels: one grid iteration makes a block of them for one row of the result, tile by tile, with the
 * tile's sums in registers (see dense_window.h). The weights lie in panels of 16 channels, in the order in which they
 * are used. An input is one number for all lanes (the usual case), as many numbers as there are groups among the lanes,
 * or one for each lane (depthwise, where it is a plain load). */
#include "passes/lower/dense_window.h"
#include "passes/lower/panel.h"

enum { SMALL_WORK = 4000000, SMALL_SUMS = 12 };

typedef enum { INPUT_ONE, INPUT_EACH, INPUT_GROUPS } InputKind;

typedef struct {
  Walk w;
  const DensePlace *place;
  Val x, weight, bias; /* bias 0: none */
  DType x_type, type;  /* type: of the result */
  uint16_t xp, wp;
  bool panels; /* constant weights; else they are read where they lie */
  InputKind kind;
  KVal panel[WALK_MAX_VECS]; /* idx: where each panel of the block starts */
  bool grouped;
  int64_t all, in_group, out_group, columns; /* columns: kernel places times in_group */
} Conv;

/* ---- operands */

static KVal widened(Conv *c, DType t, uint16_t p, KElem memory, unsigned lanes, KVal at, int64_t off)
{
  KVal v = dense_widen(c->w.k, t, k_load(c->w.k, ktype(memory, lanes), p, at, off));
  return kernel_node(c->w.k, v)->type.elem == c->w.elem ? v : k_cast(c->w.k, c->w.elem, v);
}

/* Weights that are computed: [o, k, c] as they lie. Lanes behind the last channel repeat it. */
static KVal loose_weights(Conv *c, KVal tap, int64_t dtap, unsigned i)
{
  Kernel *k = c->w.k;
  const DensePlace *p = dense_place(c->w.d, c->weight);
  KVal lane[64];

  for (unsigned j = 0; j < c->w.lanes; j++) {
    KVal o = idx_add(k, idx_mul(k, c->w.ob, c->w.block), k_idx(k, i * c->w.lanes + j));
    o = k_op2(k, K_min, idx_add(k, o, k_idx(k, c->w.first)), k_idx(k, c->all - 1));
    KVal at = idx_add(k, idx_mul(k, o, c->columns), tap);
    lane[j] =
        widened(c, graph_node(c->w.d->g, c->weight)->type.dtype, c->wp, p->elem, 1, at, dtap + p->offset);
  }
  return c->w.lanes == 1 ? lane[0] : dense_pack(k, lane, c->w.lanes);
}

static KVal weights(Conv *c, KVal tap, int64_t dtap, unsigned i)
{
  Kernel *k = c->w.k;
  DType t = graph_node(c->w.d->g, c->weight)->type.dtype;
  int64_t row = (int64_t)i * c->w.lanes;

  if (!c->panels)
    return loose_weights(c, tap, dtap, i);
  KVal at = idx_add(k, c->panel[row / PANEL_ROWS], idx_mul(k, tap, PANEL_ROWS));
  int64_t off = dtap * PANEL_ROWS + row % PANEL_ROWS;
  return widened(c, t, c->wp, dense_memory(t), c->w.lanes, at, off);
}

/* First input channel of the group that output channel block * ob + o belongs to, o constant. */
static KVal group_channel(Conv *c, int64_t o)
{
  Kernel *k = c->w.k;
  KVal at = idx_add(k, idx_mul(k, c->w.ob, c->w.block), k_idx(k, o));

  at = k_op2(k, K_min, at, k_idx(k, c->all - 1));
  return idx_mul(k, k_op2(k, K_div, at, k_idx(k, c->out_group)), c->in_group);
}

static KVal input_groups(Conv *c, KVal x, int64_t dx, unsigned i)
{
  Kernel *k = c->w.k;
  KVal lane[64];

  for (unsigned j = 0; j < c->w.lanes; j++)
    lane[j] = widened(c, c->x_type, c->xp, c->place->elem, 1,
                      idx_add(k, x, group_channel(c, (int64_t)i * c->w.lanes + j)), dx);
  return c->w.lanes == 1 ? lane[0] : dense_pack(k, lane, c->w.lanes);
}

static KVal input(Conv *c, KVal x, int64_t dx, unsigned i)
{
  Kernel *k = c->w.k;

  if (c->kind == INPUT_EACH)
    return widened(c, c->x_type, c->xp, c->place->elem, c->w.lanes, x, dx + (int64_t)i * c->w.lanes);
  if (c->kind == INPUT_GROUPS)
    return input_groups(c, x, dx, i);
  KVal one = widened(c, c->x_type, c->xp, c->place->elem, 1, x, dx);
  return c->w.lanes == 1 ? one : k_splat(k, ktype(c->w.elem, c->w.lanes), one);
}

static KVal multiply_add(Conv *c, KVal a, KVal b, KVal sum)
{
  Kernel *k = c->w.k;

  return c->w.elem == KE_f32 ? k_fma(k, a, b, sum) : k_op2(k, K_add, k_op2(k, K_mul, a, b), sum);
}

static void conv_step(Walk *w, KVal x, int64_t dx, KVal tap, int64_t dtap, uint32_t valid, Acc *acc)
{
  Conv *c = w->ctx;
  KVal row[WALK_MAX_VECS];

  for (unsigned i = 0; i < w->vecs; i++)
    row[i] = weights(c, tap, dtap, i);
  for (unsigned p = 0; p < w->tile; p++) {
    int64_t at = dx + (int64_t)p * w->stride[2] * w->x_stride[2];
    KVal one = 0;
    if (!(valid >> p & 1))
      continue;
    for (unsigned i = 0; i < w->vecs; i++) {
      if (!one || c->kind != INPUT_ONE)
        one = input(c, x, at, i);
      acc->v[p][i] = multiply_add(c, row[i], one, acc->v[p][i]);
    }
  }
}

/* ---- results */

static void conv_store(Walk *w, KVal value, const DensePoint *at)
{
  Conv *c = w->ctx;
  DensePoint b = {.lanes = at->lanes};

  b.at[0] = at->at[w->rank - 1];
  if (c->bias)
    value = k_op2(w->k, K_add, value, dense_expr(w->d, c->bias, &b));
  dense_store(w->d, value, at);
}

/* ---- shapes */

static int64_t pow2_at_least(int64_t n)
{
  int64_t p = 1;

  while (p < n)
    p *= 2;
  return p;
}

/* Lanes, vectors and tile. Wide blocks read an input once for several vectors. */
static void choose_block(Conv *c)
{
  Walk *w = &c->w;
  const Lower *l = w->d->l;
  unsigned most = l->lanes * 4 / (kelem_info[w->elem].bytes < 4 ? 4 : kelem_info[w->elem].bytes), vecs;

  w->lanes = (unsigned)min64(most ? most : 1, pow2_at_least(c->w.outputs));
  int64_t unit = w->lanes < PANEL_ROWS && c->w.outputs > w->lanes ? PANEL_ROWS : w->lanes;
  vecs = (unsigned)(unit / w->lanes);
  if (c->kind == INPUT_ONE && vecs == 1 && w->lanes == PANEL_ROWS) {
    int64_t whole = c->grouped ? c->out_group : c->w.outputs;
    vecs = whole >= 2 * PANEL_ROWS && (!c->grouped || c->out_group % (2 * PANEL_ROWS) == 0) ? 2 : 1;
  }
  w->vecs = vecs;
  c->w.block = (int64_t)w->lanes * vecs;
  c->w.blocks = (c->w.outputs + c->w.block - 1) / c->w.block;
  int64_t taps = min64(w->kernel[2], WALK_UNROLL), free = l->target->registers - 2 - vecs;
  if (c->kind == INPUT_GROUPS)
    free = 2 * vecs;
  else if (c->kind == INPUT_EACH) /* weights of a row and the inputs between pixels stay in registers too */
    free = (l->target->registers - 2 * taps) / (1 + min64(taps, w->stride[2]));
  int64_t most_tile = max64(1, free / vecs), work = walk_rows(w, 1) * w->out[2] * w->outputs * c->columns;
  if (c->kind == INPUT_ONE &&
      work < SMALL_WORK) /* enough for the multiply-adds' latency, and half the code */
    most_tile = min64(most_tile, max64(1, SMALL_SUMS / vecs));
  w->tile = walk_tile(w, (unsigned)most_tile);
}

/* Which groups the lanes of a block can see. */
static InputKind input_kind(const Conv *c)
{
  if (!c->grouped || c->out_group % (2 * PANEL_ROWS) == 0 || c->out_group == PANEL_ROWS)
    return INPUT_ONE;
  return c->in_group == 1 && c->out_group == 1 ? INPUT_EACH : INPUT_GROUPS;
}

static void init(Conv *c, DenseLower *d, Val v)
{
  const Node *n = graph_node(d->g, v);
  const Type *wt;

  c->x = graph_in(d->g, v, 0);
  c->weight = graph_in(d->g, v, 1);
  c->bias = n->in.count > 2 ? graph_in(d->g, v, 2) : 0;
  c->x_type = graph_node(d->g, c->x)->type.dtype;
  c->type = n->type.dtype;
  wt = &graph_node(d->g, c->weight)->type;
  c->all = wt->dim[0];
  c->grouped = n->attr.window.group > 1;
  c->in_group = type_last(wt);
  c->out_group = c->all / n->attr.window.group;
  c->columns = type_count(wt) / (c->all ? c->all : 1);
  c->kind = input_kind(c);
}

/* The last block may have fewer panels: what is behind them repeats the last. */
static void find_panels(Walk *w)
{
  Conv *c = w->ctx;
  Kernel *k = c->w.k;
  int64_t each = (c->w.block + PANEL_ROWS - 1) / PANEL_ROWS, all = (c->all + PANEL_ROWS - 1) / PANEL_ROWS,
          first = c->w.first / PANEL_ROWS;

  for (int64_t i = 0; i < each; i++) {
    KVal p = idx_add(k, idx_mul(k, c->w.ob, each), k_idx(k, first + i));
    if (i && first + c->w.blocks * each > all)
      p = k_op2(k, K_min, p, k_idx(k, all - 1));
    c->panel[i] = idx_mul(k, p, c->columns * PANEL_ROWS);
  }
}

/* Grid order: blocks of channels of one row follow each other, so that the row stays in the cache; unless the weights are
 * the larger part. */
static void position(Conv *c, int64_t batch)
{
  Walk *w = &c->w;
  Kernel *k = w->k;
  KVal g = k_grid(k);
  int64_t rows = walk_rows(w, batch);
  bool by_rows = c->columns * c->w.outputs * 4 <= (int64_t)w->d->l->target->l2_bytes / 2;

  c->w.ob = k_idx(k, 0);
  if (w->blocks_inside) {
    w->block_begins = find_panels;
  } else if (c->w.blocks > 1 && by_rows) {
    c->w.ob = k_op2(k, K_rem, g, k_idx(k, c->w.blocks));
    g = k_op2(k, K_div, g, k_idx(k, c->w.blocks));
  } else if (c->w.blocks > 1) {
    c->w.ob = k_op2(k, K_div, g, k_idx(k, rows));
    g = k_op2(k, K_rem, g, k_idx(k, rows));
  }
  walk_position(w, g);
}

/* The row at pos, of block ob or of all. */
static void row(Conv *c)
{
  Walk *w = &c->w;
  Kernel *k = w->k;

  find_panels(w);
  w->x = idx_add(k, idx_mul(k, w->batch, c->place->stride[0]), k_idx(k, c->place->offset));
  if (c->kind == INPUT_EACH && !w->blocks_inside)
    w->x = idx_add(k, w->x, idx_mul(k, w->ob, w->block));
  if (c->kind == INPUT_ONE && c->grouped)
    w->x = idx_add(k, w->x, group_channel(c, 0));
  walk_row(w, dense_const(k, c->type, w->lanes, 0));
}

/* In a kernel that has begun: output channels from `first` on. Those that fill no block are left over, so that no kernel
 * has to tell blocks apart. */
static void begin(Conv *c, DenseLower *d, Val v, int64_t first)
{
  Walk *w = &c->w;

  init(c, d, v);
  c->place = dense_place(d, c->x);
  walk_init(w, d, v, c->place);
  w->first = first;
  w->outputs = c->all - first;
  w->elem = dense_elem(c->type);
  w->channels = c->in_group;
  w->x_channel = c->place->stride[w->rank - 1];
  w->step = conv_step;
  w->store = conv_store;
  w->ctx = c;
  c->panels = dense_weight(d, c->weight) != NULL;
  choose_block(c);
  if (!c->grouped && w->blocks > 1 && w->outputs % w->block) {
    w->blocks--;
    w->outputs = w->blocks * w->block;
  }
  c->xp = dense_param(d, c->x, KA_READ);
  c->wp = c->panels ? dense_panels(d, c->weight) : dense_param(d, c->weight, KA_READ);
}

static int64_t some_of_row(DenseLower *d, Val v, int64_t first, KVal batch, KVal at)
{
  Conv c = {.kind = INPUT_ONE};
  Walk *w = &c.w;

  begin(&c, d, v, first);
  Kernel *k = w->k;
  w->batch = batch;
  w->pos[0] = k_idx(k, 0);
  w->pos[1] = at;
  w->blocks_inside = c.kind == INPUT_EACH;
  w->block_begins = w->blocks_inside ? find_panels : NULL;
  bool loop = w->blocks > 1 && !w->blocks_inside;
  w->ob = loop ? k_loop(k, k_idx(k, 0), k_idx(k, w->blocks), 1) : k_idx(k, 0);
  row(&c);
  if (loop)
    k_end(k, NULL, 0);
  return w->outputs;
}

void dense_conv_row(DenseLower *d, Val v, KVal batch, KVal at)
{
  int64_t all = type_last(&graph_node(d->g, v)->type);

  for (int64_t first = 0; first < all;)
    first += some_of_row(d, v, first, batch, at);
}

/* Output channels from `first` on; returns how many. */
static int64_t some_channels(DenseLower *d, Val v, int64_t first)
{
  const Node *n = graph_node(d->g, v);
  const Window *win = &n->attr.window;
  Conv c = {.kind = INPUT_ONE};
  Walk *w = &c.w;

  init(&c, d, v);
  dense_begin(d, "conv%u.%lldx%lldx%lld.%lld.%lld%s%s", win->spatial, (long long)(c.all - first),
              (long long)c.columns, (long long)c.in_group, (long long)n->type.dim[n->type.rank - 2],
              (long long)win->stride[0], dtype_info[c.type].name, win->group > 1 ? ".group" : "");
  begin(&c, d, v, first);
  w->blocks_inside = c.kind == INPUT_EACH && walk_rows(w, n->type.dim[0]) >= WALK_ROWS;
  position(&c, n->type.dim[0]);
  row(&c);
  int64_t pixels = type_count(&n->type) / (c.all ? c.all : 1);
  dense_end(d, walk_rows(w, n->type.dim[0]) * (w->blocks_inside ? 1 : w->blocks),
            (uint64_t)(pixels * w->outputs * c.columns));
  return w->outputs;
}

bool lower_dense_conv(DenseLower *d, Val v)
{
  int64_t all = type_last(&graph_node(d->g, v)->type);

  if (dense_few(d, v) || dense_int8(d, v) || dense_winograd(d, v))
    return true;
  for (int64_t first = 0; first < all;)
    first += some_channels(d, v, first);
  return true;
}
