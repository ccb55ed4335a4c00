/* linear.c - products of activations and weights: y[t, n] = sum over k of x[t, k] w[n, k].
 *
 * One grid iteration makes 16 rows of the result (a panel, see panel.h) for every token of the call, in tiles
 * of as many tokens as the target's registers hold. Lanes are rows, so there is never a horizontal sum. Each
 * result is summed over k in the same order whatever the tile, so one token alone (decode) and a tile of
 * tokens (prefill) give the same bits. Where registers hold one token only, decode's kernel is prefill's too.
 *
 * Several products with one input, combined by elementwise nodes (gate and up), share an iteration: the elementwise
 * nodes are the epilogue. A short one takes the sums from registers. Else the sums go through scratch, and the epilogue
 * is a loop over tokens and vectors, so that its code is there once. If it ends with a quantised value, an iteration makes
 * two panels: a block of 32 columns. */
#include "passes/lower/dot.h"
#include "passes/lower/lower.h"
#include "passes/lower/panel.h"

#include <assert.h>
#include <stdio.h>

enum { MAX_TILE = 12, MAX_VEC = PANEL_ROWS / 4, UNROLL = 4 };

/* Sums of one product for a tile: [token][vector]. */
typedef struct {
  KVal v[MAX_TILE][MAX_VEC];
} Sums;

typedef struct {
  Lower *l;
  const Val *nodes;
  uint32_t n;
  KVal panel;           /* idx: of the matrix */
  KVal row;             /* idx: first row within the panel; 0: all rows at once */
  KVal groups;          /* idx: of 32 columns, in a row of the input */
  KVal stride;          /* idx: of the results */
  KVal token;           /* idx: first token of the tile */
  unsigned tile;        /* tokens in a tile */
  unsigned panels;      /* of an iteration */
  bool shared;          /* decode and prefill have one kernel */
  unsigned lanes, vecs; /* f32 lanes of a vector; vectors of a panel */
  Val product[8];       /* the linear nodes, and their sums */
  Sums *sums;
  uint32_t n_products;
} Linear;

static KType vec(const Linear *c, KElem e, unsigned per_lane)
{
  return ktype(e, c->lanes * per_lane);
}

static KVal mul(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_mul, a, b);
}

static KVal add(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_add, a, b);
}

/* ---- float weights: one multiply-add for each column */

static KVal float_weights(const Linear *c, uint16_t w, DType t, KVal at, int64_t off)
{
  Kernel *k = c->l->k;
  KType f32 = vec(c, KE_f32, 1);

  if (t == DT_F32)
    return k_load(k, f32, w, at, off * 4);
  if (t == DT_F16)
    return k_cast(k, KE_f32, k_load(k, vec(c, KE_f16, 1), w, at, off * 2));
  KVal bits = k_cast(k, KE_u32, k_load(k, vec(c, KE_u16, 1), w, at, off * 2));
  return k_bitcast(k, f32, k_shift(k, K_shl, bits, 16));
}

static void float_columns(const Linear *c, uint16_t w, uint16_t x, DType t, KVal w_at, KVal x_at,
                          int64_t stride, unsigned n, Sums *s)
{
  Kernel *k = c->l->k;

  for (unsigned u = 0; u < n; u++) {
    KVal row[MAX_VEC];
    for (unsigned i = 0; i < c->vecs; i++)
      row[i] = float_weights(c, w, t, w_at, u * PANEL_ROWS + i * c->lanes);
    for (unsigned m = 0; m < c->tile; m++) {
      KVal a = k_splat(k, vec(c, KE_f32, 1), k_load(k, ktype(KE_f32, 1), x, x_at, m * stride + u));
      for (unsigned i = 0; i < c->vecs; i++)
        s->v[m][i] = k_fma(k, row[i], a, s->v[m][i]);
    }
  }
}

/* Carries for every sum of the tile, and the end of their loop. */
static void open_sums(const Linear *c, const Sums *first, Sums *s)
{
  for (unsigned m = 0; m < c->tile; m++)
    for (unsigned i = 0; i < c->vecs; i++)
      s->v[m][i] = k_carry(c->l->k, first->v[m][i]);
}

static void close_sums(const Linear *c, const Sums *s)
{
  KVal next[MAX_TILE * MAX_VEC];
  uint32_t n = 0;

  for (unsigned m = 0; m < c->tile; m++)
    for (unsigned i = 0; i < c->vecs; i++)
      next[n++] = s->v[m][i];
  k_end(c->l->k, next, n);
}

static void zero_sums(const Linear *c, Sums *s)
{
  KVal zero = k_flt(c->l->k, c->lanes, 0.0);
  for (unsigned m = 0; m < c->tile; m++)
    for (unsigned i = 0; i < c->vecs; i++)
      s->v[m][i] = zero;
}

/* One token alone reads each weight once, from memory; a tile of tokens reads it again from the cache. */
static bool streams(const Linear *c)
{
  return c->l->g->tokens == 1 || c->shared;
}

static void float_product(const Linear *c, uint16_t w, Val x, DType t, int64_t columns, Sums *out)
{
  Kernel *k = c->l->k;
  uint16_t xp = lower_value(c->l, x, KA_READ);
  bool weight =
      graph_node(c->l->g, lower_base(c->l, x))->op == OP_weight; /* vectors are not padded by rows */
  int64_t stride = weight ? columns : lower_stride(&graph_node(c->l->g, x)->type),
          es = dtype_info[t].bytes * PANEL_ROWS;
  KVal w0 = idx_mul(k, c->panel, columns * es), x0 = idx_mul(k, c->token, stride);
  int64_t whole = columns / UNROLL * UNROLL;
  Sums first, body;

  zero_sums(c, &first);
  KVal j = k_loop(k, k_idx(k, 0), k_idx(k, whole), UNROLL);
  open_sums(c, &first, out);
  body = *out;
  KVal at = idx_add(k, w0, idx_mul(k, j, es));
  if (streams(c))
    lower_prefetch(c->l, w, at, UNROLL * es);
  float_columns(c, w, xp, t, at, idx_add(k, x0, j), stride, UNROLL, &body);
  close_sums(c, &body);
  if (columns > whole)
    float_columns(c, w, xp, t, idx_add(k, w0, k_idx(k, whole * es)), idx_add(k, x0, k_idx(k, whole)), stride,
                  (unsigned)(columns - whole), out);
}

/* ---- a group of 32 columns for the whole tile */

typedef struct {
  uint16_t w;
  DType dtype;
  DotPlan plan;
  Q8a act;
  KVal group;             /* idx: number of the group of 32 within a row */
  KVal codes;             /* idx: byte where its codes start */
  KVal scale[2][MAX_VEC]; /* of each sub-group, f32 */
  KVal min[MAX_VEC];      /* 0: none; added, times the sum of the activations */
} Group;

static KVal act_at(const Linear *c, const Group *g, int64_t per_group)
{
  Kernel *k = c->l->k;
  return idx_mul(k, idx_add(k, mul(k, c->token, c->groups), g->group), per_group);
}

/* The activations of columns 4n .. 4n+3, the same for every row. */
static KVal act_dword(const Linear *c, const Group *g, KVal at, unsigned m, unsigned n)
{
  Kernel *k = c->l->k;
  KVal x = k_load(k, ktype(KE_i32, 1), g->act.q, at, (int64_t)m * g->act.columns + n * 4);
  return k_splat(k, vec(c, KE_i8, 4), x);
}

/* What takes away the code that means zero: -zero * (sum of the activations), for sub-group `h` of `subs`. */
static KVal correction(const Linear *c, const Group *g, KVal at, unsigned m, unsigned h, unsigned subs)
{
  Kernel *k = c->l->k;
  int zero = dtype_info[g->dtype].zero - dtype_info[g->dtype].lo;
  int64_t off = (int64_t)m * g->act.columns / 16;
  KType i32 = ktype(KE_i32, 1);

  if (!zero)
    return 0;
  KVal s = k_load(k, i32, g->act.sum16, at, off + h);
  if (subs == 1)
    s = add(k, s, k_load(k, i32, g->act.sum16, at, off + 1));
  return k_splat(k, vec(c, KE_i32, 1), mul(k, s, k_int(k, i32, -zero)));
}

static void group_sums(const Linear *c, Group *g, Sums *s)
{
  Kernel *k = c->l->k;
  unsigned subs = panel_spec(g->dtype)->sub == 16 ? 2 : 1, per_sub = 8 / subs;
  KVal q_at = act_at(c, g, QBLOCK), s16_at = act_at(c, g, 2), f_at = act_at(c, g, 1);
  KVal part[MAX_TILE][MAX_VEC] = {{0}};

  for (unsigned h = 0; h < subs; h++) {
    Dot dot[MAX_TILE][MAX_VEC] = {{{0}}};
    KVal correct[MAX_TILE];
    for (unsigned m = 0; m < c->tile; m++) {
      correct[m] = correction(c, g, s16_at, m, h, subs);
      for (unsigned i = 0; i < c->vecs && g->plan.kind != DOT2; i++)
        dot[m][i].sum32 = correct[m];
    }
    for (unsigned n = h * per_sub; n < (h + 1) * per_sub; n++) {
      KVal code[MAX_VEC];
      for (unsigned i = 0; i < c->vecs; i++)
        code[i] = lower_codes(c->l, g->w, g->dtype, g->codes, i * c->lanes * 4, n, c->lanes * 4);
      for (unsigned m = 0; m < c->tile; m++) {
        KVal x = act_dword(c, g, q_at, m, n);
        for (unsigned i = 0; i < c->vecs; i++)
          lower_dot_group(c->l, g->plan, &dot[m][i], code[i], x);
      }
    }
    for (unsigned m = 0; m < c->tile; m++)
      for (unsigned i = 0; i < c->vecs; i++) {
        KVal d = k_cast(k, KE_f32, lower_dot_done(c->l, g->plan, &dot[m][i], correct[m]));
        part[m][i] = part[m][i] ? k_fma(k, d, g->scale[h][i], part[m][i]) : mul(k, d, g->scale[h][i]);
      }
  }
  KType f32 = vec(c, KE_f32, 1);
  for (unsigned m = 0; m < c->tile; m++) {
    int64_t off = (int64_t)m * g->act.columns / QBLOCK;
    KVal xs = k_splat(k, f32, k_load(k, ktype(KE_f32, 1), g->act.scale, f_at, off));
    KVal xsum = g->min[0] ? k_splat(k, f32, k_load(k, ktype(KE_f32, 1), g->act.ssum, f_at, off)) : 0;
    for (unsigned i = 0; i < c->vecs; i++) {
      s->v[m][i] = k_fma(k, part[m][i], xs, s->v[m][i]);
      if (xsum)
        s->v[m][i] = k_fma(k, g->min[i], xsum, s->v[m][i]);
    }
  }
}

/* ---- scales of a block of 16 rows */

static KVal half_floats(const Linear *c, uint16_t w, KVal at, int64_t off)
{
  return k_cast(c->l->k, KE_f32, k_load(c->l->k, vec(c, KE_f16, 1), w, at, off));
}

static KVal small_ints(const Linear *c, uint16_t w, KVal at, int64_t off, KElem e)
{
  Kernel *k = c->l->k;
  return k_cast(k, KE_f32, k_cast(k, KE_i32, k_load(k, vec(c, e, 1), w, at, off)));
}

/* From where all rows of a panel start to where those of this turn do. */
static KVal rows_at(const Linear *c, KVal at, int64_t bytes_each)
{
  Kernel *k = c->l->k;
  return c->row ? idx_add(k, at, idx_mul(k, c->row, bytes_each)) : at;
}

/* Scales and minima of group `g->group % groups` (idx `in_block`) of the block at `at`. */
static void group_scales(const Linear *c, Group *g, KVal at, KVal in_block, const KVal *d, const KVal *dmin)
{
  Kernel *k = c->l->k;
  const PanelSpec *s = panel_spec(g->dtype);
  PanelOffsets o = panel_offsets(g->dtype);
  unsigned subs = s->sub == 16 ? 2 : 1;
  KVal sub_at = s->sub ? idx_add(k, at, idx_mul(k, in_block, subs * PANEL_ROWS)) : 0;

  sub_at = s->sub ? rows_at(c, sub_at, 1) : 0;

  for (unsigned i = 0; i < c->vecs; i++) {
    for (unsigned h = 0; h < subs; h++) {
      int64_t off = o.sub_scale + h * PANEL_ROWS + i * c->lanes;
      g->scale[h][i] =
          s->sub ? mul(k, d[i], small_ints(c, g->w, sub_at, off, s->sub_min ? KE_u8 : KE_i8)) : d[i];
    }
    if (s->sub_min) {
      KVal m = mul(k, dmin[i], small_ints(c, g->w, sub_at, o.sub_min + i * c->lanes, KE_u8));
      g->min[i] = k_op1(k, K_neg, m);
    } else if (s->min) {
      g->min[i] = dmin[i];
    }
  }
}

static void block_product(const Linear *c, uint16_t w, Val x, DType t, Sums *out)
{
  Kernel *k = c->l->k;
  const PanelSpec *s = panel_spec(t);
  PanelOffsets o = panel_offsets(t);
  Group g = {
      .w = w, .dtype = t, .plan = lower_dot_plan(c->l->target, t), .act = lower_q8a_value(c->l, x, KA_READ)};
  int64_t groups = dtype_info[t].block / QBLOCK;
  KVal blocks = groups == 1 ? c->groups : k_op2(k, K_div, c->groups, k_idx(k, groups));
  KVal d[MAX_VEC], dmin[MAX_VEC] = {0}, zero = k_idx(k, 0);
  Sums first, body;

  zero_sums(c, &first);
  KVal w0 = idx_mul(k, mul(k, c->panel, blocks), o.block_bytes);
  KVal b = k_loop(k, zero, blocks, 1);
  open_sums(c, &first, out);
  KVal at = idx_add(k, w0, idx_mul(k, b, o.block_bytes));
  if (streams(c))
    lower_prefetch(c->l, w, at, o.block_bytes);
  KVal d_at = rows_at(c, at, 2);
  for (unsigned i = 0; i < c->vecs; i++) {
    d[i] = half_floats(c, w, d_at, i * c->lanes * 2);
    if (s->min)
      dmin[i] = half_floats(c, w, d_at, o.min + i * c->lanes * 2);
  }
  if (groups == 1) {
    body = *out;
    g.group = b;
    g.codes = rows_at(c, idx_add(k, at, k_idx(k, o.codes)), 4);
    group_scales(c, &g, at, zero, d, dmin);
    group_sums(c, &g, &body);
  } else {
    KVal j = k_loop(k, zero, k_idx(k, groups), 1);
    Sums inner;
    open_sums(c, out, &body);
    inner = body;
    g.group = idx_add(k, idx_mul(k, b, groups), j);
    g.codes = rows_at(c, idx_add(k, at, idx_add(k, idx_mul(k, j, o.group_bytes), k_idx(k, o.codes))), 4);
    group_scales(c, &g, at, j, d, dmin);
    group_sums(c, &g, &inner);
    close_sums(c, &inner);
  }
  close_sums(c, &body);
}

static void product(const Linear *c, Val v, Sums *out)
{
  Lower *l = c->l;
  Val x = graph_in(l->g, v, 0); /* maybe a view: its own type has the stride */
  const Node *w = graph_node(l->g, lower_base(l, graph_in(l->g, v, 1)));
  uint16_t wp = lower_param(l, lower_weight(l, w->attr.index, LAYOUT_PANEL), 0, KE_u8, KA_READ, "w");

  if (graph_node(l->g, x)->type.dtype == DT_Q8A)
    block_product(c, wp, x, w->type.dtype, out);
  else
    float_product(c, wp, x, w->type.dtype, w->type.dim[1], out);
}

/* ---- epilogue */

typedef struct {
  const Linear *c;
  unsigned m, i; /* sums in registers: token in the tile, vector in the panel */
  KVal at;       /* else: where those of the first product are in scratch */
  KVal row, column;
  int64_t off;   /* to add to the column */
  KVal memo[64]; /* per node of the part */
} Epilogue;

/* Scratch: for each product, for each token of the tile, the columns of an iteration. */
static int64_t sums_at(const Linear *c, uint32_t product)
{
  return (int64_t)product * c->tile * c->panels * PANEL_ROWS;
}

static uint16_t scratch(const Linear *c)
{
  return lower_scratch(c->l, (uint64_t)sums_at(c, c->n_products) * sizeof(float));
}

static KVal sum_value(const Epilogue *p, uint32_t product)
{
  const Linear *c = p->c;

  if (!p->at)
    return c->sums[product].v[p->m][p->i];
  return k_load(c->l->k, vec(c, KE_f32, 1), scratch(c), p->at, sums_at(c, product));
}

static KVal epilogue_value(Epilogue *p, Val v)
{
  const Linear *c = p->c;
  Lower *l = c->l;
  Val base = lower_base(l, v);
  const Node *n = graph_node(l->g, base);

  for (uint32_t i = 0; i < c->n; i++) {
    if (c->nodes[i] != base)
      continue;
    for (uint32_t j = 0; j < c->n_products && !p->memo[i]; j++)
      if (c->product[j] == base)
        p->memo[i] = sum_value(p, j);
    if (!p->memo[i]) {
      KVal a = epilogue_value(p, graph_in(l->g, base, 0));
      KVal b = n->in.count > 1 ? epilogue_value(p, graph_in(l->g, base, 1)) : 0;
      p->memo[i] = lower_elementwise(l->k, n->op, a, b);
    }
    return p->memo[i];
  }
  const Type *full = &graph_node(l->g, c->product[0])->type;
  KVal start = lower_row_start(l, v, full, p->row);
  return lower_operand(l, v, full, start, p->column, p->off, c->lanes);
}

static Val quantised(const Linear *c)
{
  for (uint32_t i = 0; i < c->n; i++)
    if (graph_node(c->l->g, c->nodes[i])->op == OP_quant)
      return c->nodes[i];
  return 0;
}

/* The results of one vector that others read. */
static void store_results(Epilogue *p)
{
  const Linear *c = p->c;
  Lower *l = c->l;

  assert(c->n <= COUNT(p->memo));
  memset(p->memo, 0, sizeof p->memo);
  for (uint32_t n = 0; n < c->n; n++) {
    const Node *node = graph_node(l->g, c->nodes[n]);
    if (node->op == OP_quant || !l->outside[c->nodes[n]])
      continue;
    uint16_t y = lower_value(l, c->nodes[n], KA_WRITE);
    KVal at = idx_add(l->k, mul(l->k, p->row, c->stride), p->column);
    k_store(l->k, y, at, p->off, epilogue_value(p, c->nodes[n]));
  }
  if (quantised(c)) /* its numbers take the place of the first product's sums */
    k_store(l->k, scratch(c), p->at, 0, epilogue_value(p, graph_in(l->g, quantised(c), 0)));
}

static void epilogue_in_registers(const Linear *c)
{
  Kernel *k = c->l->k;
  Epilogue p = {.c = c, .column = rows_at(c, idx_mul(k, c->panel, PANEL_ROWS), 1)};

  for (p.m = 0; p.m < c->tile; p.m++) {
    p.row = p.m ? idx_add(k, c->token, k_idx(k, p.m)) : c->token;
    for (p.i = 0; p.i < c->vecs; p.i++) {
      p.off = p.i * c->lanes;
      store_results(&p);
    }
  }
}

static void quantise(const Linear *c, KVal iteration, KVal row, KVal at)
{
  Kernel *k = c->l->k;
  Q8a to = lower_q8a_value(c->l, quantised(c), KA_WRITE);
  KVal x[QBLOCK / 4];

  for (unsigned i = 0; i < QBLOCK / c->lanes; i++)
    x[i] = k_load(k, vec(c, KE_f32, 1), scratch(c), at, i * c->lanes);
  lower_quant_block(c->l, &to, idx_add(k, idx_mul(k, row, to.columns / QBLOCK), iteration), x);
}

/* `iteration`: of the grid. */
static void epilogue_in_scratch(const Linear *c, KVal iteration)
{
  Kernel *k = c->l->k;
  int64_t columns = c->panels * PANEL_ROWS;
  Epilogue p = {.c = c};
  KVal m = k_loop(k, k_idx(k, 0), k_idx(k, c->tile), 1), at = idx_mul(k, m, columns);

  p.row = idx_add(k, c->token, m);
  KVal j = k_loop(k, k_idx(k, 0), k_idx(k, columns), c->lanes);
  p.at = idx_add(k, at, j);
  p.column = idx_add(k, idx_mul(k, iteration, columns), j);
  store_results(&p);
  k_end(k, NULL, 0);
  if (quantised(c))
    quantise(c, iteration, p.row, at);
  k_end(k, NULL, 0);
}

static void sums_to_scratch(const Linear *c, uint32_t product, KVal panel)
{
  Kernel *k = c->l->k;
  int64_t columns = c->panels * PANEL_ROWS;
  KVal at = rows_at(c, idx_mul(k, panel, PANEL_ROWS), 1);

  for (unsigned m = 0; m < c->tile; m++)
    for (unsigned i = 0; i < c->vecs; i++)
      k_store(k, scratch(c), at, sums_at(c, product) + m * columns + i * c->lanes, c->sums[product].v[m][i]);
}

/* ---- a part */

/* Tokens for which there are registers: two sums each (integer and float), a few registers besides for codes and activations. */
static unsigned tokens_in_registers(const Linear *c, bool block)
{
  return (c->l->target->registers - 4) / (c->vecs * (block ? 2 : 1));
}

static unsigned tile_for(const Linear *c, int64_t tokens, bool block)
{
  static const unsigned sizes[] = {12, 8, 6, 4, 3, 2};
  unsigned budget = tokens_in_registers(c, block);

  for (unsigned i = 0; i < COUNT(sizes); i++)
    if (sizes[i] <= budget && tokens % sizes[i] == 0)
      return sizes[i];
  return 1;
}

static void begin_rows(Linear *c)
{
  unsigned at_once = c->vecs * c->lanes;
  c->row = at_once < PANEL_ROWS ? k_loop(c->l->k, k_idx(c->l->k, 0), k_idx(c->l->k, PANEL_ROWS), at_once) : 0;
}

static void end_rows(const Linear *c)
{
  if (c->row)
    k_end(c->l->k, NULL, 0);
}

static void tile_in_registers(Linear *c, KVal iteration)
{
  c->panel = iteration;
  begin_rows(c);
  for (uint32_t i = 0; i < c->n_products; i++)
    product(c, c->product[i], &c->sums[i]);
  epilogue_in_registers(c);
  end_rows(c);
}

static void tile_in_scratch(Linear *c, KVal iteration)
{
  Kernel *k = c->l->k;
  KVal panel = k_loop(k, k_idx(k, 0), k_idx(k, c->panels), 1);

  c->panel = idx_add(k, idx_mul(k, iteration, c->panels), panel);
  begin_rows(c);
  for (uint32_t i = 0; i < c->n_products; i++) {
    product(c, c->product[i], &c->sums[i]);
    sums_to_scratch(c, i, panel);
  }
  end_rows(c);
  k_end(k, NULL, 0);
  epilogue_in_scratch(c, iteration);
}

static void tile_body(Linear *c, KVal iteration)
{
  bool is_long = c->tile > 1 && c->n > c->n_products + 1;
  (quantised(c) || is_long ? tile_in_scratch : tile_in_registers)(c, iteration);
}

static bool start_part(Linear *c, uint64_t *bytes, uint64_t *ops)
{
  Lower *l = c->l;
  char name[160];
  size_t len = 0;

  *bytes = *ops = 0;
  for (uint32_t i = 0; i < c->n; i++) {
    Val v = c->nodes[i];
    if (graph_node(l->g, v)->op != OP_linear)
      continue;
    const Type *x = &graph_node(l->g, graph_in(l->g, v, 0))->type;
    const Type *w = &graph_node(l->g, lower_base(l, graph_in(l->g, v, 1)))->type;
    if (c->n_products == COUNT(c->product) || x->rank > 2 ||
        graph_node(l->g, lower_base(l, graph_in(l->g, v, 1)))->op != OP_weight)
      return fail(
          l->e,
          "graph '%s': a product whose weights are computed, or of more than two dimensions, has no lowering",
          l->g->name);
    c->product[c->n_products++] = v;
    len += (size_t)snprintf(name + len, sizeof name - len, "%s%s", len ? "+" : "", dtype_info[w->dtype].name);
    *bytes += panel_weight_bytes(w);
    *ops += (uint64_t)type_count(w);
  }
  const Type *w = &graph_node(l->g, lower_base(l, graph_in(l->g, c->product[0], 1)))->type;
  lower_begin(l, "linear.%s.%lldx%lld%s", name, (long long)w->dim[0], (long long)w->dim[1],
              c->n > c->n_products ? ".epilogue" : "");
  return true;
}

bool lower_linear(Lower *l, const Val *nodes, uint32_t n)
{
  Linear c = {.l = l, .nodes = nodes, .n = n, .lanes = l->lanes, .vecs = PANEL_ROWS / l->lanes};
  uint64_t bytes, ops;

  if (!start_part(&c, &bytes, &ops))
    return false;
  const Type *x = &graph_node(l->g, graph_in(l->g, c.product[0], 0))->type;
  const Type *y = &graph_node(l->g, c.product[0])->type;
  int64_t tokens = type_rows(x);
  bool block = x->dtype == DT_Q8A, all = y->rank > 1 && y->dim[0] == l->g->tokens;
  c.sums = NEW_ARRAY(l->arena, Sums, c.n_products);
  c.tile = tile_for(&c, tokens, block);
  c.panels = quantised(&c) ? QBLOCK / PANEL_ROWS : 1;
  c.shared = all && tokens_in_registers(&c, block) < 2;
  if (c.shared && c.vecs == MAX_VEC) /* nor do they hold a panel well: half of it at once, in half the code */
    c.vecs /= 2;
  KVal iteration = k_grid(l->k);
  c.groups = k_idx(l->k, type_last(x) / QBLOCK);
  c.stride = k_idx(l->k, y->rank > 1 ? lower_stride(y) : 0);
  c.token = k_idx(l->k, 0);
  if (tokens > (int64_t)c.tile || c.shared) {
    c.token = k_loop(l->k, c.token, all ? k_arg(l->k, 1) : k_idx(l->k, tokens), c.tile);
    tile_body(&c, iteration);
    k_end(l->k, NULL, 0);
  } else {
    tile_body(&c, iteration);
  }
  uint64_t rows = c.panels * PANEL_ROWS;
  lower_end(l, round_up((uint64_t)type_last(y), rows) / rows, false, bytes, ops);
  return true;
}
