/* dense_bands.c - windows over windows: a chain of convolutions and pools in one kernel, a band of rows at a time.
 *
 * A value that the second-level cache does not hold, and that one window alone reads, is never stored as a whole: its rows
 * are made when the window comes to need them, and the last few are kept in a ring in the thread's scratch memory. What is
 * made so may itself be fed row by row. A grid iteration makes a band of the last window's rows. Rows that two bands need
 * are made twice, which limits how many bands there are. */
#include "passes/lower/dense_plan.h"
#include "passes/lower/dense_window.h"

enum {
  MAX_STAGES = 8,
  MAX_RING = 8,
  MAX_COLUMNS = 128,
  FEW_BANDS = 4,
  MANY_BANDS = 16,
  REPEATED_PERCENT = 10
};

/* ---- chains */

typedef struct {
  Val group, anchor;
  const Type *type; /* of both */
  const Window *window;
  int64_t rows_in; /* of its input */
  int64_t columns; /* multiply-adds for an element */
} Stage;

/* The last window first. */
typedef struct {
  uint32_t n;
  Stage at[MAX_STAGES];
} Chain;

Val dense_fed_by(const DenseLower *d, Val group)
{
  Val anchor = d->anchors[group];

  if (!anchor || !graph_node(d->g, anchor)->in.count)
    return 0;
  Val in = graph_in(d->g, anchor, 0);
  return d->feeds[in] == group ? in : 0;
}

static Stage stage_of(const DenseLower *d, Val group)
{
  const Node *n = graph_node(d->g, d->anchors[group]);
  Stage s = {group, d->anchors[group], &n->type, &n->attr.window, 0, 1};

  s.rows_in = graph_node(d->g, graph_in(d->g, s.anchor, 0))->type.dim[1];
  if (n->op != OP_conv) {
    for (uint32_t i = 0; i < s.window->spatial; i++)
      s.columns *= s.window->kernel[i];
    return s;
  }
  const Type *w = &graph_node(d->g, graph_in(d->g, s.anchor, 1))->type;
  for (uint32_t i = 1; i < w->rank; i++)
    s.columns *= w->dim[i];
  return s;
}

static Chain chain_of(const DenseLower *d, Val group)
{
  Chain c = {.n = 0};

  for (; group && c.n < MAX_STAGES; group = dense_fed_by(d, group))
    c.at[c.n++] = stage_of(d, group);
  return c;
}

/* ---- how many bands */

/* Multiply-adds for the last window's rows lo .. hi - 1. */
static int64_t work(const Chain *c, int64_t lo, int64_t hi)
{
  int64_t sum = 0;

  for (uint32_t i = 0; i < c->n && lo < hi; i++) {
    const Stage *s = &c->at[i];
    sum += (hi - lo) * s->type->dim[2] * s->type->dim[3] * s->columns;
    lo = max64(lo * s->window->stride[0] - s->window->pad_lo[0], 0);
    hi = min64((hi - 1) * s->window->stride[0] - s->window->pad_lo[0] + s->window->kernel[0], s->rows_in);
  }
  return sum;
}

static int64_t work_in_bands(const Chain *c, int64_t size)
{
  int64_t sum = 0, rows = c->at[0].type->dim[1];

  for (int64_t lo = 0; lo < rows; lo += size)
    sum += work(c, lo, min64(lo + size, rows));
  return sum;
}

/* Rows of a band: as few as repeat no more than is allowed, 0 if that leaves too little to share among threads. */
static int64_t band_rows(const Chain *c)
{
  int64_t rows = c->at[0].type->dim[1], batch = c->at[0].type->dim[0], once = work(c, 0, rows);

  for (int64_t n = MANY_BANDS; n > 0 && n * batch >= FEW_BANDS; n /= 2) {
    int64_t size = (rows + n - 1) / n;
    if (work_in_bands(c, size) <= once + once * REPEATED_PERCENT / 100)
      return size;
  }
  return 0;
}

/* ---- which windows */

static bool is_window(const DenseLower *d, Val group)
{
  const Node *n = graph_node(d->g, d->anchors[group]);

  return d->anchors[group] && (n->op == OP_conv || n->op == OP_pool_max || n->op == OP_pool_sum);
}

/* Rows of f32 that dense_window.c walks. */
static bool has_rows(const DenseLower *d, Val group)
{
  const Node *n = graph_node(d->g, d->anchors[group]);
  const Type *in = &graph_node(d->g, graph_in(d->g, d->anchors[group], 0))->type;
  const Window *w = &n->attr.window;
  bool few =
      n->op == OP_conv && w->group == 1 && n->type.dim[3] * 2 <= d->l->lanes; /* dense_few.c has these */

  return w->spatial == 2 && n->type.dtype == DT_F32 && in->dtype == DT_F32 && n->type.dim[1] > 1 &&
         n->type.dim[2] > 1 && in->dim[1] > 1 && in->dim[2] > 1 && !few;
}

/* A window that does little with each element: what it waits for is memory. */
static bool is_light(const DenseLower *d, const Stage *s)
{
  const Type *in = &graph_node(d->g, graph_in(d->g, s->anchor, 0))->type;
  bool point = s->window->kernel[0] == 1 && s->window->kernel[1] == 1;

  return graph_node(d->g, s->anchor)->op != OP_conv || point ||
         (s->window->group == in->dim[3] && in->dim[3] == s->type->dim[3]);
}

static int64_t ring_rows(const Window *reader)
{
  int64_t n = 1;

  while (n < reader->kernel[0])
    n *= 2;
  return n;
}

/* Elements of the ring in which a stage's rows lie for the reader. */
static int64_t ring_elements(const Stage *s, const Window *reader)
{
  return ring_rows(reader) * s->type->dim[2] * s->type->dim[3];
}

static bool rings_fit(const DenseLower *d, const Chain *c)
{
  int64_t sum = 0;

  for (uint32_t i = 1; i < c->n; i++)
    sum += ring_elements(&c->at[i], c->at[i - 1].window);
  return sum * 4 <= d->l->target->l2_bytes / 2;
}

bool dense_can_feed(const DenseLower *d, Val from, Val to)
{
  const Type *t = &graph_node(d->g, from)->type;

  if (!is_window(d, from) || !is_window(d, to) || !has_rows(d, from) || !has_rows(d, to) ||
      d->need[from] > NEED_ROWS || tensor_bytes(t) <= d->l->target->l2_bytes / 2)
    return false;
  Chain before = chain_of(d, from), c = {.n = 1, .at = {stage_of(d, to)}};
  const Window *w = c.at[0].window;
  if (!type_eq(t, before.at[0].type) || !is_light(d, &c.at[0]) || before.at[0].columns > MAX_COLUMNS ||
      w->dilation[0] != 1 || w->kernel[0] < w->stride[0] || w->kernel[0] > MAX_RING || before.n == MAX_STAGES)
    return false;
  memcpy(&c.at[1], before.at, before.n * sizeof *before.at);
  c.n += before.n;
  return rings_fit(d, &c) && band_rows(&c);
}

/* ---- the kernel */

/* Rings lie one behind the other, the last window's first. */
DensePlace dense_ring(const DenseLower *d, Val group)
{
  const Type *t = &graph_node(d->g, group)->type;
  DensePlace at = {.base = group, .elem = KE_f32, .stride = {0, t->dim[2] * t->dim[3], t->dim[3], 1}};

  at.ring = ring_rows(&graph_node(d->g, d->anchors[d->feeds[group]])->attr.window);
  for (Val g = d->feeds[group]; d->feeds[g]; g = d->feeds[g]) {
    Stage s = stage_of(d, g);
    at.offset += ring_elements(&s, &graph_node(d->g, d->anchors[d->feeds[g]])->attr.window);
  }
  return at;
}

typedef struct {
  DenseLower *d;
  const Chain *chain;
  KVal batch;
} Bands;

/* Rows from .. to - 1 of a stage; the first one of this band is `first`. What the row before did not need is made first. */
static void make_rows(Bands *b, uint32_t stage, KVal from, KVal to, KVal first)
{
  DenseLower *d = b->d;
  Kernel *k = d->l->k;
  const Stage *s = &b->chain->at[stage];
  const Window *w = s->window;
  KVal row = k_loop(k, from, to, 1), zero = k_idx(k, 0);

  if (stage + 1 < b->chain->n) {
    KVal pad = k_idx(k, w->pad_lo[0]), begin = k_op2(k, K_sub, idx_mul(k, row, w->stride[0]), pad),
         end = idx_add(k, begin, k_idx(k, w->kernel[0])), known = idx_add(k, end, k_idx(k, -w->stride[0])),
         lo = k_select(k, k_op2(k, K_lt, first, row), known, begin),
         origin = k_op2(k, K_sub, idx_mul(k, first, w->stride[0]), pad);
    make_rows(b, stage + 1, k_op2(k, K_max, lo, zero), k_op2(k, K_min, end, k_idx(k, s->rows_in)),
              k_op2(k, K_max, origin, zero));
  }
  d->result = s->group;
  d->anchor = s->anchor;
  dense_forget(d);
  (graph_node(d->g, s->anchor)->op == OP_conv ? dense_conv_row : dense_pool_row)(d, s->anchor, b->batch, row);
  dense_forget(d);
  k_end(k, NULL, 0);
}

static void begin(const Chain *c, DenseLower *d)
{
  const char *name = "bands";

  for (uint32_t i = c->n; i-- > 0;) {
    const Stage *s = &c->at[i];
    name =
        arena_printf(d->l->arena, "%s.%s.%lldx%lld.%lld", name, op_info[graph_node(d->g, s->anchor)->op].name,
                     (long long)s->type->dim[3], (long long)s->columns, (long long)s->type->dim[2]);
  }
  dense_begin(d, "%s", name);
}

bool dense_bands(DenseLower *d, Val group)
{
  if (!dense_fed_by(d, group))
    return false;
  Chain c = chain_of(d, group);
  Bands b = {.d = d, .chain = &c};
  begin(&c, d);
  Kernel *k = d->l->k;
  int64_t rows = c.at[0].type->dim[1], size = band_rows(&c), bands = (rows + size - 1) / size;
  KVal g = k_grid(k), from = idx_mul(k, k_op2(k, K_rem, g, k_idx(k, bands)), size),
       to = k_op2(k, K_min, idx_add(k, from, k_idx(k, size)), k_idx(k, rows));
  b.batch = k_op2(k, K_div, g, k_idx(k, bands));
  make_rows(&b, 0, from, to, from);
  int64_t batch = c.at[0].type->dim[0];
  dense_end(d, bands * batch, (uint64_t)(batch * work_in_bands(&c, size)));
  return true;
}
