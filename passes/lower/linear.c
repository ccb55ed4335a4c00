/* linear.c - products of activations and weights: y[t, n] = sum over k of x[t, k] w[n, k].
 *
 * One grid iteration makes 16 rows of the result (a panel, see panel.h) for every token of the call, in tiles
 * of as many tokens as the target's registers hold. Lanes are rows, so there is never a horizontal sum. Each
 * result is summed over k in the same order whatever the tile, so one token alone (decode) and a tile of
 * tokens (prefill) give the same bits. Where registers hold one token only, decode's kernel is prefill's too.
 * Block types are in linear_block.c. Panels of theirs are unpacked once, for all tiles of a call; long rows in strips, for each
 * of which the tiles follow each other, with their sums in scratch.
 *
 * Several products with one input, combined by elementwise nodes (gate and up), share an iteration: the elementwise
 * nodes are the epilogue. A short one takes the sums from registers. Else the sums go through scratch, and the epilogue
 * is a loop over tokens and vectors, so that its code is there once. If it ends with a quantised value, an iteration makes
 * two panels: a block of 32 columns. */
#include "passes/lower/linear.h"
#include "passes/lower/panel.h"

#include <assert.h>
#include <stdio.h>

enum { UNROLL = 4, SAME_SETS = 8192 };

static KVal mul(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_mul, a, b);
}

static void zero_sums(const Linear *c, Sums *s)
{
  KVal zero = k_flt(c->l->k, c->lanes, 0.0);
  for (unsigned m = 0; m < c->tile; m++)
    for (unsigned i = 0; i < c->vecs; i++)
      s->v[m][i] = zero;
}

void linear_open(const Linear *c, Sums *s, Sums *carries)
{
  if (!s)
    return;
  for (unsigned m = 0; m < c->tile; m++)
    for (unsigned i = 0; i < c->vecs; i++)
      carries->v[m][i] = k_carry(c->l->k, s->v[m][i]);
  *s = *carries;
}

void linear_close(const Linear *c, Sums *s, const Sums *carries)
{
  KVal next[MAX_TILE * MAX_VEC] = {0};
  uint32_t n = 0;

  for (unsigned m = 0; m < c->tile && s; m++)
    for (unsigned i = 0; i < c->vecs; i++)
      next[n++] = s->v[m][i];
  k_end(c->l->k, next, n);
  if (s)
    *s = *carries;
}

/* ---- float weights: one multiply-add for each column */

/* A matrix of floats: where a row's columns of the panels that are abreast start. */
typedef struct {
  uint16_t w;
  DType dtype;
  int64_t columns;
} Floats;

static int64_t column_bytes(const Floats *f)
{
  return dtype_info[f->dtype].bytes * PANEL_ROWS;
}

/* Vector `i` of the rows of the column that is `u` columns from byte `at` of the first panel. */
static KVal float_weights(const Linear *c, const Floats *f, KVal at, unsigned u, unsigned i)
{
  Kernel *k = c->l->k;
  unsigned vecs = PANEL_ROWS / c->lanes, bytes = (unsigned)dtype_info[f->dtype].bytes;
  int64_t off = (f->columns * (i / vecs) + u) * column_bytes(f) + i % vecs * c->lanes * bytes;

  if (f->dtype == DT_F32)
    return k_load(k, linear_vec(c, KE_f32, 1), f->w, at, off);
  if (f->dtype == DT_F16)
    return k_cast(k, KE_f32, k_load(k, linear_vec(c, KE_f16, 1), f->w, at, off));
  KVal bits = k_cast(k, KE_u32, k_load(k, linear_vec(c, KE_u16, 1), f->w, at, off));
  return k_bitcast(k, linear_vec(c, KE_f32, 1), k_shift(k, K_shl, bits, 16));
}

/* At column `j` (idx) of the row: byte of the first panel, or float of the scratch. */
static KVal column_at(const Linear *c, const Floats *f, int64_t at, KVal j)
{
  Kernel *k = c->l->k;

  if (c->unpack)
    return idx_add(k, k_idx(k, at), idx_mul(k, j, linear_rows(c)));
  return idx_mul(k, idx_add(k, idx_mul(k, c->panel, f->columns), j), column_bytes(f));
}

static void float_columns(const Linear *c, const Floats *f, uint16_t x, KVal w_at, KVal x_at, int64_t stride,
                          unsigned n, Sums *s)
{
  Kernel *k = c->l->k;

  for (unsigned u = 0; u < n; u++) {
    KVal row[MAX_VEC];
    for (unsigned i = 0; i < c->vecs; i++)
      row[i] = c->unpack ? k_load(k, linear_vec(c, KE_f32, 1), linear_scratch(c), w_at,
                                  u * linear_rows(c) + i * c->lanes)
                         : float_weights(c, f, w_at, u, i);
    for (unsigned m = 0; m < c->tile; m++) {
      KVal a = k_splat(k, linear_vec(c, KE_f32, 1), k_load(k, ktype(KE_f32, 1), x, x_at, m * stride + u));
      for (unsigned i = 0; i < c->vecs; i++)
        s->v[m][i] = k_fma(k, row[i], a, s->v[m][i]);
    }
  }
}

/* What is streamed: of a token alone what comes soon; else a line of the next panels for each step and tile. */
static void float_prefetch(const Linear *c, const Floats *f, KVal at, KVal j)
{
  Kernel *k = c->l->k;

  if (linear_streams(c)) {
    lower_prefetch(c->l, f->w, at, c->l->target->ahead_bytes, UNROLL * column_bytes(f));
    return;
  }
  if (!c->tiles)
    return;
  KVal next = idx_add(k, idx_mul(k, idx_add(k, c->panel, k_idx(k, c->abreast)), f->columns),
                      idx_mul(k, j, c->abreast));
  KVal line = idx_mul(k, k_op2(k, K_div, c->token, k_idx(k, c->tile)), CACHE_LINE);
  k_prefetch(k, f->w, idx_add(k, idx_mul(k, next, column_bytes(f)), line), 0);
}

static void float_product(const Linear *c, const Floats *f, Val x, int64_t at, Sums *sums)
{
  Kernel *k = c->l->k;
  uint16_t xp = lower_value(c->l, x, KA_READ);
  bool weight =
      graph_node(c->l->g, lower_base(c->l, x))->op == OP_weight; /* vectors are not padded by rows */
  int64_t stride = weight ? f->columns : lower_stride(&graph_node(c->l->g, x)->type);
  KVal x0 = idx_mul(k, c->token, stride);
  int64_t whole = f->columns / UNROLL * UNROLL;
  Sums carries;

  KVal j = k_loop(k, k_idx(k, 0), k_idx(k, whole), UNROLL);
  linear_open(c, sums, &carries);
  KVal w_at = column_at(c, f, at, j);
  float_prefetch(c, f, w_at, j);
  float_columns(c, f, xp, w_at, idx_add(k, x0, j), stride, UNROLL, sums);
  linear_close(c, sums, &carries);
  if (f->columns > whole) {
    j = k_idx(k, whole);
    float_columns(c, f, xp, column_at(c, f, at, j), idx_add(k, x0, j), stride, (unsigned)(f->columns - whole),
                  sums);
  }
}

/* 16 bits to floats, once for all tiles: columns `j` .. `j` + n of all panels that are abreast. */
static void unpack_columns(const Linear *c, const Floats *f, int64_t to, KVal j, unsigned n)
{
  Kernel *k = c->l->k;
  KVal at = idx_mul(k, idx_add(k, idx_mul(k, c->panel, f->columns), j), column_bytes(f));

  for (unsigned u = 0; u < n; u++)
    for (unsigned i = 0; i < c->vecs; i++)
      k_store(k, linear_scratch(c), column_at(c, f, to, j), u * linear_rows(c) + i * c->lanes,
              float_weights(c, f, at, u, i));
}

static void float_unpack(const Linear *c, const Floats *f, int64_t to)
{
  Kernel *k = c->l->k;
  int64_t whole = f->columns / UNROLL * UNROLL;

  unpack_columns(c, f, to, k_loop(k, k_idx(k, 0), k_idx(k, whole), UNROLL), UNROLL);
  k_end(k, NULL, 0);
  unpack_columns(c, f, to, k_idx(k, whole), (unsigned)(f->columns - whole));
}

/* ---- a product of either kind */

typedef struct {
  Val x; /* maybe a view: its own type has the stride */
  const Type *w;
  uint32_t weight;
} Operands;

static Operands operands(const Linear *c, uint32_t product)
{
  const Graph *g = c->l->g;
  const Node *w = graph_node(g, lower_base(c->l, graph_in(g, c->product[product], 1)));
  return (Operands){graph_in(g, c->product[product], 0), &w->type, w->attr.index};
}

static uint16_t panels(const Linear *c, uint32_t weight)
{
  return lower_param(c->l, lower_weight(c->l, weight, LAYOUT_PANEL), 0, KE_u8, KA_READ, "w");
}

static Floats floats(const Linear *c, const Operands *p)
{
  return (Floats){panels(c, p->weight), p->w->dtype, p->w->dim[1]};
}

static bool is_block(const Linear *c, const Operands *p)
{
  return graph_node(c->l->g, p->x)->type.dtype == DT_Q8A;
}

/* Added to the product's sums. */
static void product(const Linear *c, uint32_t i)
{
  Operands p = operands(c, i);

  if (!is_block(c, &p)) {
    Floats f = floats(c, &p);
    float_product(c, &f, p.x, c->unpacked[i], &c->sums[i]);
  } else if (c->unpack)
    linear_unpacked(c, panels(c, p.weight), p.x, p.w->dtype, c->unpacked[i], &c->sums[i]);
  else
    linear_block(c, panels(c, p.weight), p.x, p.w->dtype, &c->sums[i]);
}

static void unpack(const Linear *c, uint32_t i)
{
  Operands p = operands(c, i);
  Floats f = floats(c, &p);

  if (!c->unpack)
    return;
  if (is_block(c, &p))
    linear_unpack(c, f.w, p.w->dtype, c->unpacked[i]);
  else
    float_unpack(c, &f, c->unpacked[i]);
}

/* What `columns` of a product take. */
static int64_t unpacked_floats(const Linear *c, uint32_t i, int64_t columns)
{
  Operands p = operands(c, i);
  return is_block(c, &p) ? linear_unpacked_floats(c, p.w->dtype, columns) : columns * linear_rows(c);
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

/* Scratch: for each product, for each token of the call, the columns of an iteration. */
static int64_t sums_at(const Linear *c, uint32_t product)
{
  return (int64_t)product * c->scratch_tokens * c->panels * PANEL_ROWS;
}

static KVal sum_value(const Epilogue *p, uint32_t product)
{
  const Linear *c = p->c;

  if (!p->at)
    return c->sums[product].v[p->m][p->i];
  return k_load(c->l->k, linear_vec(c, KE_f32, 1), linear_scratch(c), p->at, sums_at(c, product));
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
    k_store(l->k, linear_scratch(c), p->at, 0, epilogue_value(p, graph_in(l->g, quantised(c), 0)));
}

static void epilogue_in_registers(const Linear *c)
{
  Kernel *k = c->l->k;
  Epilogue p = {.c = c, .column = linear_rows_at(c, idx_mul(k, c->panel, PANEL_ROWS), 1)};

  for (p.m = 0; p.m < c->tile; p.m++) {
    p.row = p.m ? idx_add(k, c->token, k_idx(k, p.m)) : c->token;
    for (p.i = 0; p.i < c->vecs; p.i++) {
      p.off = p.i * c->lanes;
      store_results(&p);
    }
  }
}

/* As many tokens at once as go together; what is made beyond the last one, nobody reads. */
static void quantise_tokens(const Linear *c, KVal iteration, KVal end)
{
  Kernel *k = c->l->k;
  Q8a q = lower_q8a_made(c->l, quantised(c));
  int64_t blocks = q.columns / QBLOCK;
  unsigned n = lower_quant_most(c->l);
  KVal x[QBLOCK / 4];

  while (c->scratch_tokens % n)
    n /= 2;
  KVal m = k_loop(k, k_idx(k, 0), end, n), row = idx_add(k, c->token, m), at = idx_mul(k, m, QBLOCK);
  for (unsigned i = 0; i < n * QBLOCK / c->lanes; i++)
    x[i] = k_load(k, linear_vec(c, KE_f32, 1), linear_scratch(c), at, i * c->lanes);
  lower_quant_blocks(c->l, &q, idx_add(k, idx_mul(k, row, blocks), iteration), blocks, n, x);
  k_end(k, NULL, 0);
}

/* `iteration`: of the grid. `end`: idx, of the tokens. Vectors first, blocks after them: a token's chain of dependent
 * instructions is long, and the shorter what lies between two chains, the more of them run at once. */
static void epilogue_in_scratch(const Linear *c, KVal iteration, KVal end)
{
  Kernel *k = c->l->k;
  KVal zero = k_idx(k, 0);
  int64_t columns = c->panels * PANEL_ROWS;
  Epilogue p = {.c = c};

  KVal m = k_loop(k, zero, end, 1);
  p.row = idx_add(k, c->token, m);
  KVal j = k_loop(k, zero, k_idx(k, columns), c->lanes);
  p.at = idx_add(k, idx_mul(k, m, columns), j);
  p.column = idx_add(k, idx_mul(k, iteration, columns), j);
  store_results(&p);
  k_end(k, NULL, 0);
  k_end(k, NULL, 0);
  if (quantised(c))
    quantise_tokens(c, iteration, end);
}

/* Where those of a tile start. */
static KVal tile_at(const Linear *c, KVal panel, KVal token)
{
  Kernel *k = c->l->k;
  KVal at = idx_mul(k, token, c->panels * PANEL_ROWS);
  return linear_rows_at(c, idx_add(k, idx_mul(k, panel, PANEL_ROWS), at), 1);
}

static int64_t tile_sum_at(const Linear *c, uint32_t product, unsigned m, unsigned i)
{
  return sums_at(c, product) + m * c->panels * PANEL_ROWS + i * c->lanes;
}

static void sums_to_scratch(const Linear *c, uint32_t product, KVal at)
{
  for (unsigned m = 0; m < c->tile; m++)
    for (unsigned i = 0; i < c->vecs; i++)
      k_store(c->l->k, linear_scratch(c), at, tile_sum_at(c, product, m, i), c->sums[product].v[m][i]);
}

static void sums_from_scratch(const Linear *c, uint32_t product, KVal at)
{
  for (unsigned m = 0; m < c->tile; m++)
    for (unsigned i = 0; i < c->vecs; i++)
      c->sums[product].v[m][i] =
          k_load(c->l->k, linear_vec(c, KE_f32, 1), linear_scratch(c), at, tile_sum_at(c, product, m, i));
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

static bool through_scratch(const Linear *c)
{
  bool is_long = c->tile > 1 && c->n > c->n_products + 1;
  return quantised(c) || is_long || c->strip;
}

/* The loop over tiles, if there is one. */
static void begin_tiles(Linear *c)
{
  c->token = c->tiles ? k_loop(c->l->k, k_idx(c->l->k, 0), c->tokens, c->tile) : k_idx(c->l->k, 0);
}

static void end_tiles(const Linear *c)
{
  if (c->tiles)
    k_end(c->l->k, NULL, 0);
}

static void iteration_in_registers(Linear *c, KVal iteration)
{
  c->panel = idx_mul(c->l->k, iteration, c->panels);
  for (uint32_t i = 0; i < c->n_products; i++)
    unpack(c, i);
  begin_tiles(c);
  begin_rows(c);
  for (uint32_t i = 0; i < c->n_products; i++) {
    zero_sums(c, &c->sums[i]);
    product(c, i);
  }
  epilogue_in_registers(c);
  end_rows(c);
  end_tiles(c);
}

/* Sums of all tokens, in scratch. */
static void zero_scratch(const Linear *c)
{
  Kernel *k = c->l->k;
  int64_t columns = c->panels * PANEL_ROWS;

  for (uint32_t i = 0; i < c->n_products; i++) {
    KVal j = k_loop(k, k_idx(k, 0), idx_mul(k, c->tokens, columns), c->lanes);
    k_store(k, linear_scratch(c), j, sums_at(c, i), k_flt(k, c->lanes, 0.0));
    k_end(k, NULL, 0);
  }
}

/* Strip after strip: what is unpacked stays in the first-level cache for all tiles, whose sums wait in scratch. */
static void product_by_strips(Linear *c, uint32_t i, KVal panel)
{
  Kernel *k = c->l->k;

  c->from = k_loop(k, k_idx(k, 0), c->groups, c->strip);
  c->to = k_op2(k, K_min, idx_add(k, c->from, k_idx(k, c->strip)), c->groups);
  unpack(c, i);
  begin_tiles(c);
  KVal at = tile_at(c, panel, c->token);
  sums_from_scratch(c, i, at);
  product(c, i);
  sums_to_scratch(c, i, at);
  end_tiles(c);
  k_end(k, NULL, 0);
}

/* One product after the other, that what is unpacked stays in the cache. `panel`: the first that is abreast, from the
 * iteration's first on. */
static void product_to_scratch(Linear *c, uint32_t i, KVal panel)
{
  if (c->strip) {
    product_by_strips(c, i, panel);
    return;
  }
  unpack(c, i);
  if (!c->shared)
    begin_tiles(c);
  begin_rows(c);
  zero_sums(c, &c->sums[i]);
  product(c, i);
  sums_to_scratch(c, i, tile_at(c, panel, c->shared ? k_idx(c->l->k, 0) : c->token));
  end_rows(c);
  if (!c->shared)
    end_tiles(c);
}

static void iteration_in_scratch(Linear *c, KVal iteration)
{
  Kernel *k = c->l->k;
  bool loop = c->panels > c->abreast;

  KVal zero = k_idx(k, 0);
  if (c->strip)
    zero_scratch(c);
  if (c->shared)
    begin_tiles(c);
  KVal token = c->token, panel = loop ? k_loop(k, zero, k_idx(k, c->panels), c->abreast) : zero;
  c->panel = idx_add(k, idx_mul(k, iteration, c->panels), panel);
  for (uint32_t i = 0; i < c->n_products; i++)
    product_to_scratch(c, i, panel);
  if (loop)
    k_end(k, NULL, 0);
  c->token = c->shared ? token : zero;
  epilogue_in_scratch(c, iteration, c->shared || !c->tiles ? k_idx(k, c->tile) : c->tokens);
  if (c->shared)
    end_tiles(c);
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

/* Floats of 16 bits become floats once, if those of all rows that are abreast stay in the cache. */
static bool floats_unpack(const Linear *c)
{
  for (uint32_t i = 0; i < c->n_products; i++)
    if (operands(c, i).w->dtype == DT_F32 ||
        (uint64_t)unpacked_floats(c, i, operands(c, i).w->dim[1]) * sizeof(float) >
            c->l->target->l2_bytes / 2)
      return false;
  return true;
}

/* Where vectors are as long as a panel, two panels abreast halve the loads for each product. Codes are only where they are
 * unpacked, which a tile alone does not do. */
static unsigned panels_abreast(const Linear *c, int64_t tokens, int64_t rows, bool block)
{
  int64_t least = block ? MAX_TILE / 2 : 1;
  return c->vecs == 1 && tokens > least && rows % (2 * PANEL_ROWS) == 0 ? 2 : 1;
}

/* As many groups as the first-level cache has place for when they are unpacked, in strips of one size; 0: whole rows, if they are at
 * most half as long again, which the second level gives nearly as fast, without a detour of the sums. Floats gain nothing: a
 * multiply-add for each of theirs is work enough to hide the second level. Nor do activations whose rows are so many bytes that
 * all tokens' strips fall into a few sets of the second-level cache. */
static int64_t strip_of(const Linear *c, bool block)
{
  int64_t columns = operands(c, 0).w->dim[1], groups = columns / QBLOCK, bytes = 0, align = 1;

  if (!block || !c->unpack || columns % SAME_SETS == 0)
    return 0;
  for (uint32_t i = 0; i < c->n_products; i++)
    align = max64(align, dtype_info[operands(c, i).w->dtype].block / QBLOCK);
  for (uint32_t i = 0; i < c->n_products; i++)
    bytes = max64(bytes, unpacked_floats(c, i, align * QBLOCK) * (int64_t)sizeof(float));
  int64_t most = max64(c->l->target->l1_bytes / bytes, 1) * align;
  if (groups <= most + most / 2)
    return 0;
  int64_t strips = (groups + most - 1) / most;
  return (int64_t)round_up((uint64_t)((groups + strips - 1) / strips), (uint64_t)align);
}

/* Where each product is unpacked to. Those that follow each other use the same place. */
static void place_unpacked(Linear *c)
{
  int64_t end = c->scratch_floats;

  for (uint32_t i = 0; i < c->n_products && c->unpack; i++) {
    int64_t columns = c->strip ? c->strip * QBLOCK : operands(c, i).w->dim[1];
    int64_t floats = unpacked_floats(c, i, columns);
    c->unpacked[i] = through_scratch(c) ? c->scratch_floats : end;
    end = max64(end, c->unpacked[i] + floats);
  }
  c->scratch_floats = end;
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
  c.abreast = panels_abreast(&c, tokens, type_last(y), block);
  c.vecs *= c.abreast;
  c.tile = tile_for(&c, tokens, block);
  c.panels = quantised(&c) ? QBLOCK / PANEL_ROWS : c.abreast;
  c.shared = all && tokens_in_registers(&c, block) < 2;
  if (c.shared && c.vecs == MAX_VEC) /* nor do they hold a panel well: half of it at once, in half the code */
    c.vecs /= 2;
  KVal iteration = k_grid(l->k);
  c.from = k_idx(l->k, 0);
  c.groups = c.to = k_idx(l->k, type_last(x) / QBLOCK);
  c.stride = k_idx(l->k, y->rank > 1 ? lower_stride(y) : 0);
  /* first in all kernels of a product: they share lists of buffers */
  for (uint32_t i = 0; i < c.n_products; i++)
    (void)panels(&c, operands(&c, i).weight);
  c.token = k_idx(l->k, 0);
  c.tiles = tokens > (int64_t)c.tile || c.shared;
  c.tokens = all ? k_arg(l->k, 1) : k_idx(l->k, tokens);
  c.unpack = c.tiles && !c.shared && (block ? tokens_in_registers(&c, block) > 1 : floats_unpack(&c));
  c.strip = strip_of(&c, block);
  c.scratch_tokens = c.shared ? c.tile : tokens;
  c.scratch_floats = through_scratch(&c) ? sums_at(&c, c.n_products) : 0;
  place_unpacked(&c);
  (through_scratch(&c) ? iteration_in_scratch : iteration_in_registers)(&c, iteration);
  uint64_t rows = c.panels * PANEL_ROWS;
  lower_end(l, round_up((uint64_t)type_last(y), rows) / rows, false, bytes, ops);
  return true;
}
