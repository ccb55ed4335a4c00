/* dense_attention.c - scaled dot-product attention of dense graphs, without a score matrix in memory.
 *
 * A grid step makes a block of query rows of one head. Lanes are rows: the block's queries are transposed into scratch once,
 * then each number of a key counts for all lanes, so that keys are read where they lie, and maximum and sum of a
 * row need no sum across lanes. Scores of a tile of keys are in scratch, [key][row]; with more than one tile, sums so
 * far shrink by what the maximum rises (online softmax). The product with the values has lanes along the result's last
 * dimension, and the probabilities count for all of them.
 *
 * The last block of rows, and the last step of keys in a tile, are moved back so that they are full ones: what is
 * computed twice is the same, and rows are stored once. A row is computed alike wherever it stands. */
#include "passes/lower/dense_attention.h"

#include <math.h>

/* [row][column] of an operand to [column][row] in scratch: columns in whole vectors, the last of which may be junk. */
static void pack_rows(const Sdpa *s, const Operand *o, KVal at, int64_t stride, KVal columns, int64_t to)
{
  Kernel *k = s->k;
  KVal row[K_MAX_LANES], c = k_loop(k, k_idx(k, 0), columns, s->lanes);
  KVal from = idx_add(k, at, c), put = idx_mul(k, c, block_rows(s));

  for (unsigned i = 0; i < s->vecs; i++) {
    for (unsigned j = 0; j < s->lanes; j++)
      row[j] = operand_load(s, o, s->lanes, from, (int64_t)(i * s->lanes + j) * stride);
    dense_transpose_lanes(k, row, s->lanes);
    for (unsigned j = 0; j < s->lanes; j++)
      k_store(k, s->scratch, put, to + j * block_rows(s) + i * s->lanes, row[j]);
  }
  k_end(k, NULL, 0);
}

/* ---- tiles of keys */

static void do_tile(Sdpa *s, KVal tile, KVal *top, KVal *sum)
{
  Kernel *k = s->k;

  s->from = k_idx(k, 0);
  s->n_keys = k_idx(k, s->count);
  if (s->tiles > 1) {
    KVal tiles = k_idx(k, s->tiles), next = idx_mul(k, idx_add(k, tile, k_idx(k, 1)), s->count);
    s->from = op2(s, K_div, idx_mul(k, tile, s->count), tiles);
    s->n_keys = op2(s, K_sub, op2(s, K_div, next, tiles), s->from);
  }
  if (s->mask_rows) {
    uint32_t r = s->mask.type->rank;
    pack_rows(s, &s->mask, idx_add(k, s->mask.first, s->from), s->mask.at->stride[r - 2], s->n_keys,
              s->mask_at);
  }
  sdpa_softmax(s, top, sum);
  if (s->tiles == 1)
    sdpa_inverse_sums(s, top, sum);
  sdpa_tile_values(s);
}

static void do_block(Sdpa *s)
{
  Kernel *k = s->k;
  KVal top[MAX_VECS], sum[MAX_VECS], next[2 * MAX_VECS];

  pack_rows(s, &s->q, s->q.first, s->q.at->stride[s->rank - 3], k_idx(k, s->depth), 0);
  for (unsigned i = 0; i < s->vecs; i++) {
    top[i] = number(s, -(double)INFINITY);
    sum[i] = number(s, 0);
  }
  if (s->tiles == 1) {
    do_tile(s, 0, top, sum);
    return;
  }
  sdpa_zero_sums(s);
  KVal tile = k_loop(k, k_idx(k, 0), k_idx(k, s->tiles), 1);
  for (unsigned i = 0; i < s->vecs; i++)
    next[i] = top[i] = k_carry(k, top[i]);
  for (unsigned i = 0; i < s->vecs; i++)
    next[s->vecs + i] = sum[i] = k_carry(k, sum[i]);
  do_tile(s, tile, next, next + s->vecs);
  k_end(k, next, 2 * s->vecs);
  sdpa_inverse_sums(s, top, sum);
  sdpa_results(s);
}

/* ---- sizes */

/* Rows come in blocks of one to three vectors. Where that fills the blocks badly, fewer are better, though less is made
 * of what is loaded. */
static void choose_rows(Sdpa *s)
{
  static const int64_t cost[MAX_VECS + 1] = {0, 24, 21, 20};
  int64_t best = INT64_MAX;

  s->lanes = s->d->l->lanes;
  while (s->lanes > s->rows)
    s->lanes /= 2;
  for (unsigned n = 1; n <= MAX_VECS && (int64_t)n * s->lanes <= s->rows; n++) {
    int64_t blocks = (s->rows + n * s->lanes - 1) / (n * s->lanes), c = blocks * n * cost[n];
    if (c <= best) {
      best = c;
      s->vecs = n;
    }
  }
}

/* Keys at once: as many as registers hold sums for; somewhat fewer, if that leaves no rest. */
static void choose_keys(Sdpa *s)
{
  unsigned most = (s->d->l->target->registers - 1 - s->vecs) / s->vecs;

  most = (unsigned)min64(min64(most, MAX_KEYS), s->count);
  s->group = most;
  for (unsigned n = most; 3 * n >= 2 * most; n--)
    if (s->count % n == 0) {
      s->group = n;
      break;
    }
  int64_t fit = TILE_BYTES / 4 / block_rows(s);
  s->tiles = s->count <= fit + fit / 2 ? 1 : (s->count + fit - 1) / fit;
  s->tile = (s->count + s->tiles - 1) / s->tiles;
}

/* Loads and products for one key and all rows and columns of a block, about. */
static int64_t product_cost(const Sdpa *s, unsigned m, unsigned n)
{
  int64_t vectors = (s->width + s->lanes - 1) / s->lanes, rest = vectors % n, tiles = block_rows(s) / m;
  int64_t c = vectors / n * (m + n + m * n);

  return tiles * (c + (rest ? m + rest + m * rest : 0));
}

static void choose_product(Sdpa *s)
{
  unsigned regs = s->d->l->target->registers;
  int64_t best = INT64_MAX;

  for (unsigned m = 1; m <= MAX_ROWS; m++)
    for (unsigned n = 1; n <= MAX_COLUMNS; n++) {
      if (block_rows(s) % m || m * n + n + 1 > regs || m * n > MAX_SUMS || product_cost(s, m, n) > best)
        continue;
      best = product_cost(s, m, n);
      s->m = m;
      s->columns = n;
    }
}

static void choose_scratch(Sdpa *s)
{
  uint64_t lanes = s->lanes, depth = round_up((uint64_t)s->depth, lanes),
           tile = round_up((uint64_t)s->tile, lanes);

  s->probs_at = (int64_t)depth * block_rows(s);
  s->mask_at = s->probs_at + (s->mask_rows && goes_back(s) ? (int64_t)tile * block_rows(s) : 0);
  s->factor_at = s->mask_at + (int64_t)tile * block_rows(s);
  s->acc_at = s->factor_at + (int64_t)round_up((uint64_t)block_rows(s), PAD);
  uint64_t floats = (uint64_t)s->acc_at + (s->tiles > 1 ? (uint64_t)(block_rows(s) * s->width) : 0);
  s->scratch = lower_scratch(s->d->l, floats * 4);
}

/* ---- operands and the grid */

static Operand operand(Sdpa *s, Val node, uint32_t i)
{
  Val v = graph_in(s->d->g, node, i);

  return (Operand){.at = dense_place(s->d, v),
                   .type = &graph_node(s->d->g, v)->type,
                   .param = dense_param(s->d, v, KA_READ)};
}

/* Where an operand begins, for a point in its own index space; dimensions of 1 do not move. */
static void begin_at(Sdpa *s, Operand *o, DensePoint at)
{
  int64_t c;

  for (uint32_t i = 0; i < o->type->rank; i++)
    if (o->type->dim[i] == 1)
      at.at[i] = (DenseIndex){0};
  o->first = dense_address(s->d, o->at, o->type->rank, &at, &c);
}

static void begin_operands(Sdpa *s)
{
  Kernel *k = s->k;
  uint32_t n = s->rank;
  DensePoint q = s->at, key = s->at, mask = {.lanes = 1};
  int64_t shared = s->heads / s->keys.type->dim[n - 2];

  key.at[n - 3] = (DenseIndex){0};
  if (shared > 1)
    key.at[n - 2].v = op2(s, K_div, s->at.at[n - 2].v, k_idx(k, shared));
  begin_at(s, &s->q, q);
  begin_at(s, &s->keys, key);
  begin_at(s, &s->values, key);
  if (!s->masked)
    return;
  for (uint32_t i = 0, r = s->mask.type->rank; i < r; i++) {
    uint32_t d = n - r + i; /* the mask's dimensions are [.., heads, rows, keys] */
    mask.at[i] = d + 1 == n ? (DenseIndex){0} : s->at.at[d + 2 == n ? n - 3 : d + 3 == n ? n - 2 : d];
  }
  begin_at(s, &s->mask, mask);
}

/* Blocks of rows innermost: a head's keys and values are used while they are in the cache. Returns the grid. */
static int64_t begin_step(Sdpa *s)
{
  Kernel *k = s->k;
  int64_t size = block_rows(s), blocks = (s->rows + size - 1) / size, grid = blocks;
  KVal rest = k_grid(k), block = op2(s, K_rem, rest, k_idx(k, blocks)), first = idx_mul(k, block, size);

  rest = op2(s, K_div, rest, k_idx(k, blocks));
  s->at = (DensePoint){.lanes = 1};
  s->at.at[s->rank - 3].v = first;
  if (s->rows % size) {
    s->at.at[s->rank - 3].v = op2(s, K_min, first, k_idx(k, s->rows - size));
    s->skip = op2(s, K_sub, first, s->at.at[s->rank - 3].v);
  }
  for (uint32_t i = s->rank - 1; i-- > 0;) {
    int64_t n = s->type->dim[i];
    if (i == s->rank - 3)
      continue;
    s->at.at[i].v = op2(s, K_rem, rest, k_idx(k, n));
    rest = op2(s, K_div, rest, k_idx(k, n));
    grid *= n;
  }
  return grid;
}

static void read_node(Sdpa *s, Val v)
{
  const Graph *g = s->d->g;
  const Type *q = &graph_node(g, graph_in(g, v, 0))->type;

  s->n = graph_node(g, v);
  s->type = &s->n->type;
  s->rank = q->rank;
  s->rows = q->dim[s->rank - 3];
  s->heads = q->dim[s->rank - 2];
  s->depth = type_last(q);
  s->width = type_last(s->type);
  s->count = graph_node(g, graph_in(g, v, 1))->type.dim[s->rank - 3];
  s->masked = s->n->in.count == 4;
}

bool lower_dense_sdpa(DenseLower *d, Val v)
{
  Sdpa s = {.d = d};

  read_node(&s, v);
  dense_begin(d, "sdpa.%lldx%lld.h%lld.%lldx%lld%s", (long long)s.rows, (long long)s.count,
              (long long)s.heads, (long long)s.depth, (long long)s.width, s.masked ? ".mask" : "");
  s.k = d->l->k;
  s.q = operand(&s, v, 0);
  s.keys = operand(&s, v, 1);
  s.values = operand(&s, v, 2);
  if (s.masked) {
    s.mask = operand(&s, v, 3);
    uint32_t r = s.mask.type->rank;
    s.mask_rows = r > 1 && s.mask.type->dim[r - 2] > 1 && s.mask.at->stride[r - 2];
  }
  choose_rows(&s);
  choose_keys(&s);
  choose_product(&s);
  choose_scratch(&s);
  int64_t grid = begin_step(&s);
  begin_operands(&s);
  do_block(&s);
  dense_end(d, grid, (uint64_t)(type_count(s.type) / s.width * s.count) * (uint64_t)(s.depth + s.width + 12));
  return true;
}
