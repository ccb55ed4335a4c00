/* dense_attention_value.c - probabilities times values. See dense_attention.c. */
#include "passes/lower/dense_attention.h"

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

void sdpa_tile_values(const Sdpa *s)
{
  each_piece(s, tile_piece);
}

void sdpa_zero_sums(const Sdpa *s)
{
  each_piece(s, zero_piece);
}

void sdpa_results(const Sdpa *s)
{
  each_piece(s, result_piece);
}
