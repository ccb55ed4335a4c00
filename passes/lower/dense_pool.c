/* dense_pool.c - pools: the largest or the sum of each window, channel by channel. Lanes are channels; tiles as in
 * dense_window.h. */
#include "passes/lower/dense_window.h"

#include <math.h>

typedef struct {
  Walk w;
  const DensePlace *place;
  DType type;
  uint16_t xp;
  KOp op;
} Pool;

static void pool_step(Walk *w, KVal x, int64_t dx, KVal tap, int64_t dtap, uint32_t valid, Acc *acc)
{
  Pool *c = w->ctx;
  Kernel *k = w->k;

  (void)tap, (void)dtap;
  for (unsigned p = 0; p < w->tile; p++)
    for (unsigned i = 0; i < w->vecs && valid >> p & 1; i++) {
      int64_t at = dx + (int64_t)p * w->stride[2] * w->x_stride[2] + (int64_t)i * w->lanes;
      KVal v = dense_widen(k, c->type, k_load(k, ktype(c->place->elem, w->lanes), c->xp, x, at));
      if (kernel_node(k, v)->type.elem != w->elem) /* sums of 8-bit integers */
        v = k_cast(k, w->elem, v);
      acc->v[p][i] = k_op2(k, c->op, acc->v[p][i], v);
    }
}

static void pool_store(Walk *w, KVal value, const DensePoint *at)
{
  dense_store(w->d, value, at);
}

static void choose_block(Pool *c)
{
  Walk *w = &c->w;
  unsigned bytes = kelem_info[w->elem].bytes, most = w->d->l->lanes * 4 / (bytes < 4 ? 4 : bytes);

  w->lanes = 1;
  while (w->lanes < most && w->lanes < w->outputs)
    w->lanes *= 2;
  w->vecs = 1;
  w->block = w->lanes;
  w->blocks = (w->outputs + w->block - 1) / w->block;
  w->tile = walk_tile(w, 4);
}

/* What no element changes. */
static KVal neutral(const Pool *c)
{
  bool top = kelem_info[c->w.elem].is_float, is_signed = kelem_info[c->w.elem].is_signed;
  double low = top ? -INFINITY : is_signed ? -ldexp(1, dtype_bits(c->type) - 1) : 0;

  return dense_const(c->w.k, c->type, c->w.lanes, c->op == K_add ? 0 : low);
}

/* In a kernel that has begun. */
static void begin(Pool *c, DenseLower *d, Val v)
{
  const Node *n = graph_node(d->g, v);
  Val x = graph_in(d->g, v, 0);
  Walk *w = &c->w;

  *c = (Pool){.type = n->type.dtype, .op = n->op == OP_pool_max ? K_max : K_add, .place = dense_place(d, x)};
  walk_init(w, d, v, c->place);
  w->outputs = type_last(&n->type);
  w->elem = dense_elem(c->type);
  w->channels = 1;
  w->x_channel = 1;
  w->step = pool_step;
  w->store = pool_store;
  w->ctx = c;
  choose_block(c);
  c->xp = dense_param(d, x, KA_READ);
  w->ob = k_idx(w->k, 0);
}

/* The row at pos, of block ob or of all. */
static void row(Pool *c)
{
  Walk *w = &c->w;
  Kernel *k = w->k;
  KVal channel = w->blocks_inside ? k_idx(k, 0) : idx_mul(k, w->ob, w->block);

  w->x =
      idx_add(k, idx_add(k, idx_mul(k, w->batch, c->place->stride[0]), channel), k_idx(k, c->place->offset));
  walk_row(w, neutral(c));
}

void dense_pool_row(DenseLower *d, Val v, KVal batch, KVal at)
{
  Pool c;

  begin(&c, d, v);
  c.w.batch = batch;
  c.w.pos[0] = k_idx(d->l->k, 0);
  c.w.pos[1] = at;
  c.w.blocks_inside = true;
  row(&c);
}

bool lower_dense_pool(DenseLower *d, Val v)
{
  const Node *n = graph_node(d->g, v);
  const Window *win = &n->attr.window;
  Pool c;
  Walk *w = &c.w;

  dense_begin(d, "%s.%lldx%lld.%lld%s", op_info[n->op].name, (long long)win->kernel[0],
              (long long)win->kernel[win->spatial - 1], (long long)type_last(&n->type),
              dtype_info[n->type.dtype].name);
  begin(&c, d, v);
  Kernel *k = w->k;
  KVal g = k_grid(k);
  w->blocks_inside = walk_rows(w, n->type.dim[0]) >= WALK_ROWS;
  if (w->blocks > 1 && !w->blocks_inside) {
    w->ob = k_op2(k, K_rem, g, k_idx(k, w->blocks));
    g = k_op2(k, K_div, g, k_idx(k, w->blocks));
  }
  walk_position(w, g);
  row(&c);
  int64_t steps = walk_rows(w, n->type.dim[0]) * (w->blocks_inside ? 1 : w->blocks);
  int64_t taps = w->kernel[0] * w->kernel[1] * w->kernel[2];
  dense_end(d, steps, (uint64_t)(type_count(&n->type) * taps));
  return true;
}
