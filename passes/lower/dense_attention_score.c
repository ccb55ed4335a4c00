/* dense_attention_score.c - scores of a tile of keys, and the probabilities that they become. See dense_attention.c. */
#include "passes/lower/dense_attention.h"

static const double least = -3e38; /* what the maximum of a row that sees nothing counts as */

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
void sdpa_inverse_sums(const Sdpa *s, const KVal *top, const KVal *sum)
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
void sdpa_softmax(const Sdpa *s, KVal *top, KVal *sum)
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
