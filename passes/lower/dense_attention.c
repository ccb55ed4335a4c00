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
#include "passes/lower/dense_plan.h"

#include <math.h>

enum { MAX_VECS = 3, MAX_KEYS = 12, MAX_ROWS = 12, MAX_COLUMNS = 6, UNROLL = 4, MAX_SUMS = 32 };
enum { TILE_BYTES = 24 << 10 }; /* of scores: about what stays in the L1 cache */

static const double least = -3e38; /* what the maximum of a row that sees nothing counts as */

/* An operand and the place in it where a grid step begins. */
typedef struct {
  const DensePlace *at;
  const Type *type;
  uint16_t param;
  KVal first;
} Operand;

typedef struct {
  DenseLower *d;
  Kernel *k;
  const Node *n;
  const Type *type; /* of the result: [.., rows, heads, width] */
  uint32_t rank;
  Operand q, keys, values, mask;
  bool masked, mask_rows;                                /* there is a mask; each row has one of its own */
  int64_t rows, heads, depth, width, count, tiles, tile; /* keys: count, in tiles of at most `tile` */
  unsigned lanes, vecs, group;                           /* rows of a block: lanes * vecs; keys at once */
  unsigned m, columns; /* rows, and vectors of columns, of the product with the values */
  uint16_t scratch;
  int64_t probs_at, mask_at, acc_at, factor_at; /* in scratch; the queries stand at 0 */
  DensePoint at;                                /* batch, first row, head: in the result */
  KVal skip;                                    /* rows of the block that the one before has made; 0: none */
  KVal from, n_keys;                            /* of the tile */
} Sdpa;

static int64_t block_rows(const Sdpa *s)
{
  return (int64_t)s->lanes * s->vecs;
}

static KVal op2(const Sdpa *s, KOp op, KVal a, KVal b)
{
  return k_op2(s->k, op, a, b);
}

static KVal splat(const Sdpa *s, unsigned lanes, KVal v)
{
  return k_splat(s->k, ktype(KE_f32, lanes), v);
}

static KVal number(const Sdpa *s, double v)
{
  return k_flt(s->k, s->lanes, v);
}

static KVal scratch_load(const Sdpa *s, unsigned lanes, KVal at, int64_t c)
{
  return k_load(s->k, ktype(KE_f32, lanes), s->scratch, at, c);
}

static KVal operand_load(const Sdpa *s, const Operand *o, unsigned lanes, KVal at, int64_t c)
{
  return dense_widen(s->k, o->type->dtype, k_load(s->k, ktype(o->at->elem, lanes), o->param, at, c));
}

/* ---- rows become lanes */

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

/* ---- scores */

typedef struct {
  KVal v[MAX_SUMS];
} Sums;

/* `n` numbers of queries and keys from d on: sums of key j and vector i at j * vecs + i. */
static void score_steps(const Sdpa *s, KVal keys, KVal d, unsigned n, Sums *sum)
{
  Kernel *k = s->k;
  int64_t every = s->keys.at->stride[s->rank - 3], step = s->keys.at->stride[s->rank - 1];
  KVal at = idx_add(k, keys, idx_mul(k, d, step)), q_at = idx_mul(k, d, block_rows(s));

  for (unsigned u = 0; u < n; u++) {
    KVal q[MAX_VECS];
    for (unsigned i = 0; i < s->vecs; i++)
      q[i] = scratch_load(s, s->lanes, q_at, u * block_rows(s) + i * s->lanes);
    for (unsigned j = 0; j < s->group; j++) {
      KVal key = splat(s, s->lanes, operand_load(s, &s->keys, 1, at, j * every + u * step));
      for (unsigned i = 0; i < s->vecs; i++)
        sum->v[j * s->vecs + i] = k_fma(k, q[i], key, sum->v[j * s->vecs + i]);
    }
  }
}

static void products(const Sdpa *s, KVal keys, Sums *sum)
{
  Kernel *k = s->k;
  unsigned n = s->group * s->vecs, unroll = (unsigned)min64(UNROLL, s->depth);
  int64_t whole = s->depth / unroll * unroll;
  Sums body;
  KVal d;

  for (unsigned i = 0; i < n; i++)
    sum->v[i] = number(s, 0);
  d = k_loop(k, k_idx(k, 0), k_idx(k, whole), unroll);
  for (unsigned i = 0; i < n; i++)
    sum->v[i] = k_carry(k, sum->v[i]);
  body = *sum;
  score_steps(s, keys, d, unroll, &body);
  k_end(k, body.v, n);
  if (whole < s->depth)
    score_steps(s, keys, k_idx(k, whole), (unsigned)(s->depth - whole), sum);
}

/* Of key `key` of the tile; without rows of its own, at `at`. */
static KVal mask_value(const Sdpa *s, KVal at, KVal key, unsigned j, unsigned i)
{
  if (s->mask_rows)
    return scratch_load(s, s->lanes, idx_mul(s->k, key, block_rows(s)),
                        s->mask_at + j * block_rows(s) + i * s->lanes);
  return splat(s, s->lanes, operand_load(s, &s->mask, 1, at, j));
}

static KVal finished_score(const Sdpa *s, KVal sum, KVal mask)
{
  Kernel *k = s->k;
  double cap = (double)s->n->attr.attention.softcap, scale = (double)s->n->attr.attention.scale;

  if (cap > 0) {
    sum = k_tanh(k, op2(s, K_mul, sum, number(s, scale / cap)));
    scale = cap;
  }
  return mask ? k_fma(k, sum, number(s, scale), mask) : op2(s, K_mul, sum, number(s, scale));
}

/* Scores of a few keys of the tile, from `key` on; top: the maxima so far, per vector of rows. */
static void score_group(const Sdpa *s, KVal key, KVal *top)
{
  Kernel *k = s->k;
  KVal all = idx_add(k, s->from, key), mask_at = 0;
  KVal at = idx_add(k, s->keys.first, idx_mul(k, all, s->keys.at->stride[s->rank - 3]));
  Sums sum;

  if (s->masked && !s->mask_rows)
    mask_at = idx_add(k, s->mask.first, all);
  products(s, at, &sum);
  for (unsigned j = 0; j < s->group; j++)
    for (unsigned i = 0; i < s->vecs; i++) {
      KVal mask = s->masked ? mask_value(s, mask_at, key, j, i) : 0;
      KVal x = finished_score(s, sum.v[j * s->vecs + i], mask);
      k_store(k, s->scratch, idx_mul(k, key, block_rows(s)), s->probs_at + j * block_rows(s) + i * s->lanes,
              x);
      top[i] = k_max_nan(k, top[i], x);
    }
}

/* Whether steps of keys may overlap. */
static bool goes_back(const Sdpa *s)
{
  return s->count % s->group || s->tiles > 1;
}

/* Of all keys of the tile; top becomes their and the former maximum. */
static void scores(const Sdpa *s, KVal *top)
{
  Kernel *k = s->k;
  KVal next[MAX_VECS];

  KVal j = k_loop(k, k_idx(k, 0), s->n_keys, s->group);
  for (unsigned i = 0; i < s->vecs; i++)
    next[i] = top[i] = k_carry(k, top[i]);
  if (goes_back(s))
    j = op2(s, K_min, j, op2(s, K_sub, s->n_keys, k_idx(k, s->group)));
  score_group(s, j, next);
  k_end(k, next, s->vecs);
}

/* ---- probabilities, without their sum as divisor */

static void exponentials(const Sdpa *s, const KVal *top, KVal *sum)
{
  Kernel *k = s->k;
  KVal next[MAX_VECS], j = k_loop(k, k_idx(k, 0), s->n_keys, 1), at;

  for (unsigned i = 0; i < s->vecs; i++)
    sum[i] = k_carry(k, sum[i]);
  at = idx_mul(k, j, block_rows(s));
  for (unsigned i = 0; i < s->vecs; i++) {
    int64_t c = s->probs_at + i * s->lanes;
    KVal e = k_exp_or_0(k, op2(s, K_sub, scratch_load(s, s->lanes, at, c), top[i]));
    k_store(k, s->scratch, at, c, e);
    next[i] = op2(s, K_add, sum[i], e);
  }
  k_end(k, next, s->vecs);
}

static void put_factors(const Sdpa *s, const KVal *factor)
{
  for (unsigned i = 0; i < s->vecs; i++)
    k_store(s->k, s->scratch, k_idx(s->k, 0), s->factor_at + i * s->lanes, factor[i]);
}

/* 1 / sum; nan, or 0, if the maximum is nan or infinite: as softmax has it. */
static void put_inverse_sums(const Sdpa *s, const KVal *top, const KVal *sum)
{
  KVal inverse[MAX_VECS];

  for (unsigned i = 0; i < s->vecs; i++) {
    inverse[i] = op2(s, K_div, number(s, 1), op2(s, K_add, sum[i], op2(s, K_sub, top[i], top[i])));
    if (s->n->attr.attention.nan_is_0)
      inverse[i] = k_select(s->k, op2(s, K_eq, inverse[i], inverse[i]), inverse[i], number(s, 0));
  }
  put_factors(s, inverse);
}

/* Scores of the tile become probabilities, relative to the new maximum; sums so far must shrink by the factors. */
static void tile_softmax(const Sdpa *s, KVal *top, KVal *sum)
{
  KVal factor[MAX_VECS], base[MAX_VECS], old[MAX_VECS];

  memcpy(old, top, sizeof old);
  scores(s, top);
  for (unsigned i = 0; i < s->vecs; i++) {
    base[i] = op2(s, K_max, top[i], number(s, least));
    if (s->tiles == 1)
      continue;
    factor[i] = k_exp(s->k, op2(s, K_sub, op2(s, K_max, old[i], number(s, least)), base[i]));
    sum[i] = op2(s, K_mul, sum[i], factor[i]);
  }
  exponentials(s, base, sum);
  if (s->tiles > 1)
    put_factors(s, factor);
}

/* ---- the product with the values */

/* `rows` rows from `row` on, and `n` vectors of columns, from j + c on. */
typedef struct {
  KVal row, j;
  int64_t c;
  unsigned n, lanes;
} Piece;

static int64_t piece_column(const Piece *p, unsigned i)
{
  return p->c + (int64_t)i * p->lanes;
}

static void value_steps(const Sdpa *s, const Piece *p, KVal key, unsigned n, Sums *sum)
{
  Kernel *k = s->k;
  int64_t every = s->values.at->stride[s->rank - 3];
  KVal at = idx_add(k, s->values.first, idx_mul(k, idx_add(k, s->from, key), every));
  KVal probs = idx_add(k, idx_mul(k, key, block_rows(s)), p->row);

  at = idx_add(k, at, p->j);
  for (unsigned u = 0; u < n; u++) {
    KVal v[MAX_COLUMNS];
    for (unsigned i = 0; i < p->n; i++)
      v[i] = operand_load(s, &s->values, p->lanes, at, u * every + piece_column(p, i));
    for (unsigned m = 0; m < s->m; m++) {
      KVal x = scratch_load(s, 1, probs, s->probs_at + u * block_rows(s) + m);
      x = splat(s, p->lanes, x);
      for (unsigned i = 0; i < p->n; i++)
        sum->v[m * p->n + i] = k_fma(k, v[i], x, sum->v[m * p->n + i]);
    }
  }
}

static void value_loop(const Sdpa *s, const Piece *p, KVal from, KVal to, unsigned step, Sums *sum)
{
  Kernel *k = s->k;
  KVal key = k_loop(k, from, to, step);
  Sums body;

  for (unsigned i = 0; i < s->m * p->n; i++)
    sum->v[i] = k_carry(k, sum->v[i]);
  body = *sum;
  value_steps(s, p, key, step, &body);
  k_end(k, body.v, s->m * p->n);
}

static KVal factor_of(const Sdpa *s, KVal row, unsigned m, unsigned lanes)
{
  return splat(s, lanes, scratch_load(s, 1, row, s->factor_at + m));
}

/* A sum times the factor of its row, which may be 0 where the sum is nan. */
static KVal finished_sum(const Sdpa *s, const Piece *p, unsigned m, KVal sum)
{
  KVal factor = factor_of(s, p->row, m, p->lanes), y = op2(s, K_mul, sum, factor), zero;

  if (!s->n->attr.attention.nan_is_0)
    return y;
  zero = k_flt(s->k, p->lanes, 0);
  return k_select(s->k, op2(s, K_eq, factor, zero), zero, y);
}

static void store_row(const Sdpa *s, const Piece *p, unsigned m, const KVal *value)
{
  Kernel *k = s->k;
  KVal row = idx_add(k, p->row, k_idx(k, m));

  dense_forget(s->d);
  if (s->skip)
    k_if(k, op2(s, K_le, s->skip, row));
  for (unsigned i = 0; i < p->n; i++) {
    DensePoint at = s->at;
    DenseIndex *r = &at.at[s->rank - 3];
    at.lanes = p->lanes;
    r->v = r->v ? idx_add(k, r->v, row) : row;
    at.at[s->rank - 1] = (DenseIndex){.v = p->j, .c = piece_column(p, i), .lane = p->lanes > 1};
    dense_store(s->d, value[i], &at);
  }
  if (s->skip)
    k_end(k, NULL, 0);
  dense_forget(s->d);
}

static int64_t sum_place(const Sdpa *s, const Piece *p, unsigned m, unsigned i)
{
  return s->acc_at + m * s->width + piece_column(p, i);
}

static KVal sum_address(const Sdpa *s, const Piece *p)
{
  return idx_add(s->k, idx_mul(s->k, p->row, s->width), p->j);
}

/* Sums of a piece over the tile, from 0 or from what former tiles gave. */
static void piece_sums(const Sdpa *s, const Piece *p, Sums *sum)
{
  Kernel *k = s->k;
  KVal old = sum_address(s, p), whole = idx_mul(k, op2(s, K_div, s->n_keys, k_idx(k, UNROLL)), UNROLL);

  for (unsigned m = 0; m < s->m; m++)
    for (unsigned i = 0; i < p->n; i++) {
      KVal *v = &sum->v[m * p->n + i];
      *v = s->tiles == 1 ? k_flt(k, p->lanes, 0)
                         : op2(s, K_mul, scratch_load(s, p->lanes, old, sum_place(s, p, m, i)),
                               factor_of(s, p->row, m, p->lanes));
    }
  if (s->count >= UNROLL)
    value_loop(s, p, k_idx(k, 0), whole, UNROLL, sum);
  if (s->tiles > 1 || s->count % UNROLL)
    value_loop(s, p, whole, s->n_keys, 1, sum);
}

static void tile_piece(const Sdpa *s, const Piece *p)
{
  Sums sum;

  piece_sums(s, p, &sum);
  for (unsigned m = 0; m < s->m; m++) {
    KVal *v = &sum.v[m * p->n];
    for (unsigned i = 0; i < p->n; i++)
      if (s->tiles > 1)
        k_store(s->k, s->scratch, sum_address(s, p), sum_place(s, p, m, i), v[i]);
      else
        v[i] = finished_sum(s, p, m, v[i]);
    if (s->tiles == 1)
      store_row(s, p, m, v);
  }
}

static void result_piece(const Sdpa *s, const Piece *p)
{
  for (unsigned m = 0; m < s->m; m++) {
    KVal v[MAX_COLUMNS];
    for (unsigned i = 0; i < p->n; i++) {
      v[i] = scratch_load(s, p->lanes, sum_address(s, p), sum_place(s, p, m, i));
      v[i] = finished_sum(s, p, m, v[i]);
    }
    store_row(s, p, m, v);
  }
}

static void zero_piece(const Sdpa *s, const Piece *p)
{
  for (unsigned m = 0; m < s->m; m++)
    for (unsigned i = 0; i < p->n; i++)
      k_store(s->k, s->scratch, sum_address(s, p), sum_place(s, p, m, i), k_flt(s->k, p->lanes, 0));
}

typedef void PieceFn(const Sdpa *s, const Piece *p);

/* All rows, for `n` vectors of columns. */
static void each_rows(const Sdpa *s, Piece p, PieceFn *fn)
{
  p.row = k_loop(s->k, k_idx(s->k, 0), k_idx(s->k, block_rows(s)), s->m);
  fn(s, &p);
  k_end(s->k, NULL, 0);
}

/* Whole pieces in a loop, then fewer vectors, then ever fewer lanes. */
static void each_piece(const Sdpa *s, PieceFn *fn)
{
  Kernel *k = s->k;
  unsigned lanes = s->lanes;
  int64_t step = (int64_t)s->columns * lanes, at = s->width / step * step;

  if (at) {
    KVal j = k_loop(k, k_idx(k, 0), k_idx(k, at), step);
    each_rows(s, (Piece){.j = j, .n = s->columns, .lanes = lanes}, fn);
    k_end(k, NULL, 0);
  }
  for (; at < s->width; lanes /= 2) {
    unsigned n = (unsigned)((s->width - at) / lanes);
    if (!n)
      continue;
    each_rows(s, (Piece){.j = k_idx(k, 0), .c = at, .n = n, .lanes = lanes}, fn);
    at += (int64_t)n * lanes;
  }
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
  tile_softmax(s, top, sum);
  if (s->tiles == 1)
    put_inverse_sums(s, top, sum);
  each_piece(s, tile_piece);
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
  each_piece(s, zero_piece);
  KVal tile = k_loop(k, k_idx(k, 0), k_idx(k, s->tiles), 1);
  for (unsigned i = 0; i < s->vecs; i++)
    next[i] = top[i] = k_carry(k, top[i]);
  for (unsigned i = 0; i < s->vecs; i++)
    next[s->vecs + i] = sum[i] = k_carry(k, sum[i]);
  do_tile(s, tile, next, next + s->vecs);
  k_end(k, next, 2 * s->vecs);
  put_inverse_sums(s, top, sum);
  each_piece(s, result_piece);
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
