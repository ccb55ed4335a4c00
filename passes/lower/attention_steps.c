/* attention_steps.c - what is done for each query alone, of one token or of several: from scores to probabilities, the
 * running numbers, the result. And the walk over tiles. See attention.h. */
#include "passes/lower/attention.h"

#include <assert.h>

#include "runtime-min/mi_image.h" /* MI_SECTION */

/* Numbers of a query in results, which lie behind the sums of values. */
typedef enum { RESULT_MAX, RESULT_SUM, RESULT_NUMBERS } ResultNumber;

int64_t attention_probs_at(const Attention *a, unsigned query)
{
  return query * a->tile;
}

static int64_t acc_stride(const Attention *a)
{
  return (int64_t)round_up((uint64_t)a->size, PAD);
}

int64_t attention_number_at(const Attention *a, Number n)
{
  return a->together * a->tile + n * (int64_t)round_up(a->together, PAD);
}

int64_t attention_scratch(const Attention *a)
{
  return attention_number_at(a, NUMBERS);
}

int64_t attention_acc_at(const Attention *a, unsigned query)
{
  return query * acc_stride(a);
}

static int64_t result_number_at(const Attention *a, ResultNumber n)
{
  return attention_acc_at(a, a->together) + n * (int64_t)round_up(a->together, PAD);
}

int64_t attention_results(const Attention *a)
{
  return result_number_at(a, RESULT_NUMBERS);
}

static KVal mul(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_mul, a, b);
}

KVal attention_load(const Attention *a, uint16_t state, unsigned lanes, KVal at, int64_t off)
{
  Kernel *k = a->l->k;
  KVal x = k_load(k, ktype(a->elem, lanes), state, at, off);
  return k_cast(k, KE_f32, a->blocks ? k_cast(k, KE_i32, x) : x);
}

KVal attention_number(const Attention *a, uint16_t buf, unsigned lanes, KVal at, int64_t off)
{
  Kernel *k = a->l->k;
  return k_splat(k, ktype(KE_f32, lanes), k_load(k, ktype(KE_f32, 1), buf, at, off));
}

/* ---- from scores to probabilities, as powers of 2 */

static const double log2_e = 1.4426950408889634;
static const double unseen = -3e38,
                    least = -1e30; /* a score that is not seen; a maximum before there is one */

/* 2^x for x <= 0 and a little above; 0 below -125, and 2^0 is 1. Relative error below 8e-7. The polynomial is minimax (Remez). */
static KVal power_of_2(Kernel *k, KVal x)
{
  static const double c[] = {1.1130942730233073e-3, 9.662766009569168e-3, 5.556870996952057e-2,
                             2.4022400379180908e-1, 6.931435465812683e-1, 1.0};
  unsigned lanes = kernel_node(k, x)->type.lanes;
  KType i32 = ktype(KE_i32, lanes), f32 = ktype(KE_f32, lanes);
  KVal big = k_flt(k, lanes, 12582912.0), t = k_op2(k, K_add, x, big);
  KVal f = k_op2(k, K_sub, x, k_op2(k, K_sub, t, big)), p = k_flt(k, lanes, c[0]);

  for (unsigned i = 1; i < COUNT(c); i++)
    p = k_fma(k, p, f, k_flt(k, lanes, c[i]));
  KVal n = k_shift(k, K_shl, k_bitcast(k, i32, t), 23);
  p = k_bitcast(k, f32, k_op2(k, K_add, k_bitcast(k, i32, p), n));
  return k_select(k, k_op2(k, K_lt, x, k_flt(k, lanes, -125)), k_flt(k, lanes, 0.0), p);
}

static KVal scores_load(const Attention *a, KVal at, int64_t off)
{
  return k_load(a->l->k, ktype(KE_f32, a->lanes), a->scratch, at, off);
}

/* Scores are the sums times this. */
static bool is_linear(const Attention *a)
{
  return !(a->n->attr.attention.softcap > 0) && a->n->attr.attention.scale > 0;
}

static KVal to_scores(const Attention *a, unsigned lanes)
{
  return k_flt(a->l->k, lanes, is_linear(a) ? log2_e * (double)a->n->attr.attention.scale : log2_e);
}

/* From sums to scores. */
static void finish_scores(const Attention *a, KVal queries)
{
  Kernel *k = a->l->k;
  float cap = a->n->attr.attention.softcap;

  if (is_linear(a))
    return;
  KVal at = k_loop(k, k_idx(k, 0), idx_mul(k, queries, a->tile), a->lanes);
  KVal s = mul(k, scores_load(a, at, 0), k_flt(k, a->lanes, (double)a->n->attr.attention.scale));
  if (cap > 0)
    s = mul(k, k_tanh(k, mul(k, s, k_flt(k, a->lanes, 1.0 / (double)cap))), k_flt(k, a->lanes, (double)cap));
  k_store(k, a->scratch, at, 0, s);
  k_end(k, NULL, 0);
}

static KVal token_of(const Attention *a, KVal query)
{
  Kernel *k = a->l->k;
  return a->tokens > 1 ? k_op2(k, K_div, query, k_idx(k, a->together / a->tokens)) : k_idx(k, 0);
}

/* Which positions of the tile, from `first` (idx) on, a token sees. */
static KVal seen(const Attention *a, KVal pos, KVal tile, KVal first)
{
  Kernel *k = a->l->k;
  KType i32 = ktype(KE_i32, a->lanes);
  KVal base = k_cast(k, KE_i32, idx_add(k, idx_mul(k, tile, a->tile), first));
  KVal at = k_op2(k, K_add, kernel_add(k, K_lane, i32, NULL, 0, 0), k_splat(k, i32, base));
  KVal ok = k_op2(k, K_le, at, k_splat(k, i32, k_cast(k, KE_i32, pos)));

  if (a->rings) {
    KVal low = k_splat(k, i32, k_cast(k, KE_i32, k_op2(k, K_sub, pos, a->reach)));
    ok = k_op2(k, K_and, ok, k_op2(k, K_le, low, at));
  }
  return ok;
}

/* Whether there are positions in the tile that some query does not see. */
static KVal is_border(const Attention *a, KVal tile)
{
  Kernel *k = a->l->k;
  KVal first = idx_mul(k, tile, a->tile), end = idx_add(k, first, k_idx(k, a->tile - 1));
  KVal border = k_op2(k, K_lt, a->pos, end);

  if (a->rings)
    border = k_op2(k, K_or, border, k_op2(k, K_lt, first, k_op2(k, K_sub, a->last, a->reach)));
  return border;
}

/* In loops: there are few such tiles. */
static void hide_unseen(const Attention *a, KVal tile, KVal queries)
{
  Kernel *k = a->l->k;

  k_if(k, is_border(a, tile));
  KVal h = k_loop(k, k_idx(k, 0), queries, 1), pos = idx_add(k, a->pos, token_of(a, h));
  KVal j = k_loop(k, k_idx(k, 0), k_idx(k, a->tile), a->lanes);
  KVal at = idx_add(k, idx_mul(k, h, a->tile), j), none = k_flt(k, a->lanes, unseen);
  k_store(k, a->scratch, at, 0, k_select(k, seen(a, pos, tile, j), scores_load(a, at, 0), none));
  k_end(k, NULL, 0);
  k_end(k, NULL, 0);
  k_end(k, NULL, 0);
}

static KVal numbers(const Attention *a, KVal h, Number n)
{
  return k_load(a->l->k, ktype(KE_f32, a->lanes), a->scratch, h, attention_number_at(a, n));
}

static void set_numbers(const Attention *a, KVal h, Number n, KVal to)
{
  k_store(a->l->k, a->scratch, h, attention_number_at(a, n), to);
}

static KVal result_numbers(const Attention *a, const Results *r, KVal h, ResultNumber n)
{
  return k_load(a->l->k, ktype(KE_f32, a->lanes), r->buf, idx_add(a->l->k, r->at, h), result_number_at(a, n));
}

static void set_result_numbers(const Attention *a, const Results *r, KVal h, ResultNumber n, KVal to)
{
  k_store(a->l->k, r->buf, idx_add(a->l->k, r->at, h), result_number_at(a, n), to);
}

/* Queries whose vectors are reduced together: those of a prompt go by whole tiles of registers. */
static unsigned side_by_side(const Attention *a)
{
  return a->tokens > 1 ? a->lanes / 4 : 1;
}

/* The largest sum of each query, in the tile. */
static void tile_maxima(const Attention *a, KVal queries)
{
  Kernel *k = a->l->k;
  unsigned side = side_by_side(a);
  KVal h = k_loop(k, k_idx(k, 0), queries, side), at = idx_mul(k, h, a->tile), max[K_MAX_LANES / 4];

  for (unsigned q = 0; q < side; q++) {
    KVal v[KEY_VECTORS];
    for (unsigned i = 0; i < KEY_VECTORS; i++)
      v[i] = scores_load(a, at, q * a->tile + i * a->lanes);
    max[q] = k_op2(k, K_max, k_op2(k, K_max, v[0], v[1]), k_op2(k, K_max, v[2], v[3]));
  }
  set_numbers(a, h, NUM_TILE, lower_over_lanes(k, K_max, max, side));
  k_end(k, NULL, 0);
}

/* New maxima, and what results shrink by. A query that has not seen anything yet stays as it is: factors of 0 do not matter. */
static void new_maxima(const Attention *a, KVal queries)
{
  Kernel *k = a->l->k;
  KVal h = k_loop(k, k_idx(k, 0), queries, a->lanes), old = result_numbers(a, &a->section, h, RESULT_MAX);
  KVal top = k_op2(k, K_max, old, mul(k, numbers(a, h, NUM_TILE), to_scores(a, a->lanes)));

  set_numbers(a, h, NUM_FACTOR, power_of_2(k, k_op2(k, K_sub, old, top)));
  set_result_numbers(a, &a->section, h, RESULT_MAX, top);
  k_end(k, NULL, 0);
}

/* Probabilities, and the sum of each query's in the tile. */
static void exponentials(const Attention *a, KVal queries)
{
  Kernel *k = a->l->k;
  unsigned side = side_by_side(a);
  KVal h = k_loop(k, k_idx(k, 0), queries, side), none = k_flt(k, a->lanes, 0.0), zero = k_idx(k, 0);
  KVal less[K_MAX_LANES / 4], sum[K_MAX_LANES / 4], next[K_MAX_LANES / 4];

  KVal max = idx_add(k, a->section.at, h);
  for (unsigned q = 0; q < side; q++)
    less[q] = k_op1(k, K_neg,
                    attention_number(a, a->section.buf, a->lanes, max, result_number_at(a, RESULT_MAX) + q));
  KVal j = k_loop(k, zero, k_idx(k, a->tile), a->lanes);
  for (unsigned q = 0; q < side; q++)
    sum[q] = k_carry(k, none);
  KVal at = idx_add(k, idx_mul(k, h, a->tile), j);
  for (unsigned q = 0; q < side; q++) {
    KVal p = power_of_2(k, k_fma(k, scores_load(a, at, q * a->tile), to_scores(a, a->lanes), less[q]));
    k_store(k, a->scratch, at, q * a->tile, p);
    next[q] = k_op2(k, K_add, sum[q], p);
  }
  k_end(k, next, side);
  set_numbers(a, h, NUM_TILE, lower_over_lanes(k, K_add, sum, side));
  k_end(k, NULL, 0);
}

static void new_sums(const Attention *a, KVal queries)
{
  Kernel *k = a->l->k;
  KVal h = k_loop(k, k_idx(k, 0), queries, a->lanes);

  KVal sum = result_numbers(a, &a->section, h, RESULT_SUM);
  set_result_numbers(a, &a->section, h, RESULT_SUM,
                     k_fma(k, sum, numbers(a, h, NUM_FACTOR), numbers(a, h, NUM_TILE)));
  k_end(k, NULL, 0);
}

void attention_softmax(const Attention *a, KVal tile, KVal queries)
{
  finish_scores(a, queries);
  hide_unseen(a, tile, queries);
  tile_maxima(a, queries);
  new_maxima(a, queries);
  exponentials(a, queries);
  new_sums(a, queries);
}

/* ---- results of sections */

typedef struct {
  const Attention *a;
  KVal query;   /* where its first column is, counted from where sums of values start */
  KVal keep;    /* merging: what all so far is multiplied with, */
  KVal add;     /* and what the section is */
  KVal inverse; /* of its sum of probabilities */
  KVal y;       /* where its result is */
} Query;

static Query query_of(const Attention *a, KVal h)
{
  return (Query){.a = a, .query = idx_mul(a->l->k, h, acc_stride(a))};
}

static KVal load_acc(const Query *q, const Results *r, KVal j, int64_t off, unsigned lanes)
{
  Kernel *k = q->a->l->k;
  return k_load(k, ktype(KE_f32, lanes), r->buf, idx_add(k, idx_add(k, r->at, q->query), j), off);
}

static void store_acc(const Query *q, const Results *r, KVal j, int64_t off, KVal v)
{
  Kernel *k = q->a->l->k;
  k_store(k, r->buf, idx_add(k, idx_add(k, r->at, q->query), j), off, v);
}

static void clear_columns(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  const Query *q = ctx;

  if (q->a->section.at)
    store_acc(q, &q->a->section, j, off, k_flt(l->k, lanes, 0.0));
  if (q->a->all.at)
    store_acc(q, &q->a->all, j, off, k_flt(l->k, lanes, 0.0));
}

static void clear_numbers(const Attention *a, const Results *r, KVal h)
{
  Kernel *k = a->l->k;

  if (!r->at)
    return;
  set_result_numbers(a, r, h, RESULT_MAX, k_flt(k, a->lanes, least));
  set_result_numbers(a, r, h, RESULT_SUM, k_flt(k, a->lanes, 0.0));
}

void attention_clear(const Attention *a, KVal queries)
{
  Kernel *k = a->l->k;
  KVal h = k_loop(k, k_idx(k, 0), queries, 1);
  Query q = query_of(a, h);

  lower_columns(a->l, a->size, clear_columns, &q);
  k_end(k, NULL, 0);
  /* whole vectors: lanes beyond the queries take part in what follows, and subnormal numbers would be slow */
  h = k_loop(k, k_idx(k, 0), queries, a->lanes);
  clear_numbers(a, &a->section, h);
  clear_numbers(a, &a->all, h);
  set_numbers(a, h, NUM_TILE, k_flt(k, a->lanes, 0.0));
  k_end(k, NULL, 0);
}

static void merge_columns(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  const Query *q = ctx;
  Kernel *k = l->k;
  KType t = ktype(KE_f32, lanes);
  KVal all = mul(k, load_acc(q, &q->a->all, j, off, lanes), k_splat(k, t, q->keep));
  KVal part = load_acc(q, &q->a->section, j, off, lanes);

  store_acc(q, &q->a->all, j, off, k_fma(k, part, k_splat(k, t, q->add), all));
  if (q->a->tokens > 1)
    store_acc(q, &q->a->section, j, off, k_flt(k, lanes, 0.0));
}

/* What has the smaller maximum shrinks. The first section's results come out as they are: those of nothing shrink to 0. */
static void merge_numbers(const Attention *a, KVal h)
{
  Kernel *k = a->l->k;
  KVal one = k_flt(k, a->lanes, 1.0), zero = k_flt(k, a->lanes, 0.0);
  KVal max = result_numbers(a, &a->all, h, RESULT_MAX), more = result_numbers(a, &a->section, h, RESULT_MAX);
  KVal by = k_op2(k, K_sub, more, max), grows = k_op2(k, K_lt, zero, by);
  KVal shrink = power_of_2(k, k_op1(k, K_neg, k_op1(k, K_abs, by)));
  KVal keep = k_select(k, grows, shrink, one), add = k_select(k, grows, one, shrink);

  KVal sum = mul(k, result_numbers(a, &a->all, h, RESULT_SUM), keep);
  sum = k_fma(k, result_numbers(a, &a->section, h, RESULT_SUM), add, sum);
  set_numbers(a, h, NUM_FACTOR, keep);
  set_numbers(a, h, NUM_TILE, add);
  set_result_numbers(a, &a->all, h, RESULT_MAX, k_op2(k, K_max, max, more));
  set_result_numbers(a, &a->all, h, RESULT_SUM, sum);
  if (a->tokens > 1)
    clear_numbers(a, &a->section, h);
}

void attention_merge(const Attention *a, KVal queries)
{
  Kernel *k = a->l->k;

  merge_numbers(a, k_loop(k, k_idx(k, 0), queries, a->lanes));
  k_end(k, NULL, 0);
  KVal h = k_loop(k, k_idx(k, 0), queries, 1);
  Query q = query_of(a, h);
  q.keep = attention_number(a, a->scratch, 1, h, attention_number_at(a, NUM_FACTOR));
  q.add = attention_number(a, a->scratch, 1, h, attention_number_at(a, NUM_TILE));
  lower_columns(a->l, a->size, merge_columns, &q);
  k_end(k, NULL, 0);
}

KVal attention_first_section(const Attention *a)
{
  Kernel *k = a->l->k;
  return k_op2(k, K_div, a->low, k_idx(k, MI_SECTION));
}

KVal attention_end_section(const Attention *a)
{
  Kernel *k = a->l->k;
  return idx_add(k, k_op2(k, K_div, a->last, k_idx(k, MI_SECTION)), k_idx(k, 1));
}

/* ---- the loop over tiles */

KVal attention_rows(const Attention *a, KVal tile)
{
  Kernel *k = a->l->k;
  KVal n = k_op2(k, K_sub, idx_add(k, a->last, k_idx(k, SLOTS)), idx_mul(k, tile, a->tile));
  n = idx_mul(k, k_op2(k, K_div, n, k_idx(k, SLOTS)), SLOTS);
  return k_op2(k, K_min, n, k_idx(k, a->tile));
}

KVal attention_tiles(Attention *a)
{
  Kernel *k = a->l->k;
  int64_t tiles = MI_SECTION / a->tile;
  KVal first = idx_mul(k, a->section_no, tiles), behind = idx_add(k, first, k_idx(k, tiles));
  KVal from = k_op2(k, K_max, first, k_op2(k, K_div, a->low, k_idx(k, a->tile)));
  KVal end = idx_add(k, k_op2(k, K_div, a->last, k_idx(k, a->tile)), k_idx(k, 1));
  KVal tile = k_loop(k, from, k_op2(k, K_min, end, behind), 1);

  assert(MI_SECTION % a->tile == 0);

  KVal slot = idx_mul(k, a->rings ? k_op2(k, K_rem, tile, a->tiles) : tile, a->tile);
  a->at = lower_slot_at(k, a->kv_head, slot, a->size, a->group);
  if (a->blocks)
    a->scales_at = lower_slot_at(k, a->kv_head, slot, a->size / QBLOCK, a->scales_group);
  if (a->tokens == 1)
    a->next =
        k_op2(k, K_sub, lower_slot_at(k, a->kv_head, idx_add(k, slot, k_idx(k, a->tile)), a->size, a->group),
              a->at);
  return tile;
}

/* ---- results: to memory, or scaled in scratch and quantised from there */

static void finish_columns(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  const Query *q = ctx;
  const Attention *a = q->a;
  Kernel *k = l->k;
  KVal acc = load_acc(q, &a->all, j, off, lanes),
       y = mul(k, acc, k_splat(k, ktype(KE_f32, lanes), q->inverse));

  if (a->stored)
    k_store(k, a->out, idx_add(k, q->y, j), off, y);
  if (a->quantised)
    store_acc(q, &a->all, j, off, y);
}

static KVal quant_vector(void *ctx, KVal j, int64_t off)
{
  const Query *q = ctx;
  return load_acc(q, &q->a->all, j, off, q->a->lanes);
}

/* Heads are whole blocks, and those of a token lie side by side: more blocks at once than one head may have. */
static void quantise(const Attention *a, KVal queries)
{
  Kernel *k = a->l->k;
  int64_t heads = a->together / a->tokens, blocks = a->size / QBLOCK;
  Q8a to = lower_q8a_made(a->l, a->quantised);
  KVal t = k_loop(k, k_idx(k, 0), k_op2(k, K_div, queries, k_idx(k, heads)), 1);
  Query q = query_of(a, idx_mul(k, t, heads));

  assert(acc_stride(a) == a->size);
  lower_quant_row(a->l, &to, idx_add(k, a->block, idx_mul(k, t, a->heads * blocks)), heads * blocks,
                  quant_vector, &q);
  k_end(k, NULL, 0);
}

/* Element of a query's result: heads of a token follow each other, tokens by the stride. */
static KVal result_at(const Attention *a, KVal query)
{
  Kernel *k = a->l->k;
  KVal at = idx_add(k, a->q_at, idx_mul(k, query, a->size));

  if (a->tokens == 1)
    return at;
  return idx_add(k, at, idx_mul(k, token_of(a, query), a->stride - a->size * (a->together / a->tokens)));
}

void attention_finish(const Attention *a, KVal queries)
{
  Kernel *k = a->l->k;
  KVal h = k_loop(k, k_idx(k, 0), queries, 1);
  Query q = query_of(a, h);

  KVal sum = attention_number(a, a->all.buf, 1, idx_add(k, a->all.at, h), result_number_at(a, RESULT_SUM));
  q.inverse = k_op2(k, K_div, k_flt(k, 1, 1.0), sum);
  q.y = result_at(a, h);
  lower_columns(a->l, a->size, finish_columns, &q);
  k_end(k, NULL, 0);
  if (a->quantised)
    quantise(a, queries);
}
