/* attention_steps.c - what is done for each query alone, of one token or of several: from scores to probabilities, the
 * running numbers, the result. And the walk over tiles. See attention.h. */
#include "passes/lower/attention.h"

int64_t attention_probs_at(const Attention *a, unsigned query)
{
  return query * a->tile;
}

static int64_t acc_stride(const Attention *a)
{
  return (int64_t)round_up((uint64_t)a->size, PAD);
}

int64_t attention_acc_at(const Attention *a, unsigned query)
{
  return a->together * a->tile + query * acc_stride(a);
}

int64_t attention_number_at(const Attention *a, Number n)
{
  return attention_acc_at(a, a->together) + n * a->together;
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

/* ---- from scores to probabilities */

static const double least = -1e30; /* below any score; its exponential is as good as 0 */

/* Lane by lane over the vectors of a tile, as a tree. */
static KVal over_tile(Kernel *k, KOp op, const KVal *v)
{
  return k_op2(k, op, k_op2(k, op, v[0], v[1]), k_op2(k, op, v[2], v[3]));
}

static KVal finish_score(const Attention *a, KVal s)
{
  Kernel *k = a->l->k;
  float cap = a->n->attr.attention.softcap;

  s = mul(k, s, k_flt(k, a->lanes, (double)a->n->attr.attention.scale));
  if (cap > 0)
    s = mul(k, k_tanh(k, mul(k, s, k_flt(k, a->lanes, 1.0 / (double)cap))), k_flt(k, a->lanes, (double)cap));
  return s;
}

static KVal query_number(const Attention *a, KVal query, Number n)
{
  return k_load(a->l->k, ktype(KE_f32, 1), a->scratch, query, attention_number_at(a, n));
}

static void set_number(const Attention *a, KVal query, Number n, KVal to)
{
  k_store(a->l->k, a->scratch, query, attention_number_at(a, n), to);
}

/* What a query sees. */
typedef struct {
  KVal pos, low;
} Sight;

static KVal token_of(const Attention *a, KVal query)
{
  Kernel *k = a->l->k;
  return a->tokens > 1 ? k_op2(k, K_div, query, k_idx(k, a->together / a->tokens)) : k_idx(k, 0);
}

static Sight sight_of(const Attention *a, KVal query)
{
  Kernel *k = a->l->k;

  if (a->tokens == 1)
    return (Sight){a->pos, a->low};
  KVal pos = idx_add(k, a->pos, token_of(a, query));
  return (Sight){pos, a->rings ? k_op2(k, K_sub, pos, a->reach) : 0};
}

/* Which positions of the tile, from `first` on, the query sees. */
static KVal seen(const Attention *a, const Sight *s, KVal tile, KVal first)
{
  Kernel *k = a->l->k;
  KType i32 = ktype(KE_i32, a->lanes);
  KVal base = k_cast(k, KE_i32, idx_add(k, idx_mul(k, tile, a->tile), first));
  KVal at = k_op2(k, K_add, kernel_add(k, K_lane, i32, NULL, 0, 0), k_splat(k, i32, base));
  KVal ok = k_op2(k, K_le, at, k_splat(k, i32, k_cast(k, KE_i32, s->pos)));

  if (a->rings)
    ok = k_op2(k, K_and, ok, k_op2(k, K_le, k_splat(k, i32, k_cast(k, KE_i32, s->low)), at));
  return ok;
}

/* Probabilities from the finished scores at `at`, and their sum. */
static KVal exponentials(const Attention *a, const Sight *s, KVal tile, KVal at, KVal top)
{
  Kernel *k = a->l->k;
  KType t = ktype(KE_f32, a->lanes);
  KVal p[KEY_VECTORS], j = k_loop(k, k_idx(k, 0), k_idx(k, a->tile), a->lanes), here = idx_add(k, at, j);
  KVal e = k_exp(k, k_op2(k, K_sub, k_load(k, t, a->scratch, here, 0), k_splat(k, t, top)));

  k_store(k, a->scratch, here, 0, k_select(k, seen(a, s, tile, j), e, k_flt(k, a->lanes, 0.0)));
  k_end(k, NULL, 0);
  for (unsigned i = 0; i < KEY_VECTORS; i++)
    p[i] = k_load(k, t, a->scratch, at, i * a->lanes);
  return k_reduce(k, K_sum, over_tile(k, K_add, p));
}

/* From sums to scores; their maximum. */
static KVal finished_scores(const Attention *a, const Sight *sight, KVal tile, KVal at)
{
  Kernel *k = a->l->k;
  KVal s[KEY_VECTORS];

  for (unsigned i = 0; i < KEY_VECTORS; i++) {
    s[i] = finish_score(a, k_load(k, ktype(KE_f32, a->lanes), a->scratch, at, i * a->lanes));
    s[i] = k_select(k, seen(a, sight, tile, k_idx(k, i * a->lanes)), s[i], k_flt(k, a->lanes, least));
    k_store(k, a->scratch, at, i * a->lanes, s[i]);
  }
  return k_reduce(k, K_rmax, over_tile(k, K_max, s));
}

void attention_softmax(const Attention *a, KVal tile, KVal queries)
{
  Kernel *k = a->l->k;
  KVal h = k_loop(k, k_idx(k, 0), queries, 1), at = idx_mul(k, h, a->tile);
  Sight s = sight_of(a, h);
  KVal old = query_number(a, h, NUM_MAX), top = k_op2(k, K_max, old, finished_scores(a, &s, tile, at));
  KVal factor = k_exp(k, k_op2(k, K_sub, old, top));

  set_number(a, h, NUM_MAX, top);
  set_number(a, h, NUM_FACTOR, factor);
  KVal sum = exponentials(a, &s, tile, at, top);
  set_number(a, h, NUM_SUM, k_fma(k, query_number(a, h, NUM_SUM), factor, sum));
  k_end(k, NULL, 0);
}

/* ---- the loop over tiles */

typedef struct {
  const Attention *a;
  KVal acc;     /* of the query, counted from the first */
  KVal inverse; /* of its sum */
  KVal y;       /* its result */
} Query;

static void clear_columns(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  Query *q = ctx;
  KVal at = idx_add(l->k, q->acc, j);
  k_store(l->k, q->a->scratch, at, attention_acc_at(q->a, 0) + off, k_flt(l->k, lanes, 0.0));
}

void attention_clear(const Attention *a, KVal queries)
{
  Kernel *k = a->l->k;
  KVal h = k_loop(k, k_idx(k, 0), queries, 1);
  Query q = {.a = a, .acc = idx_mul(k, h, acc_stride(a))};

  lower_columns(a->l, a->size, clear_columns, &q);
  set_number(a, h, NUM_MAX, k_flt(k, 1, least));
  set_number(a, h, NUM_SUM, k_flt(k, 1, 0.0));
  k_end(k, NULL, 0);
}

KVal attention_rows(const Attention *a, KVal tile)
{
  Kernel *k = a->l->k;
  KVal n = k_op2(k, K_sub, idx_add(k, a->last, k_idx(k, SLOTS)), idx_mul(k, tile, a->tile));
  n = idx_mul(k, k_op2(k, K_div, n, k_idx(k, SLOTS)), SLOTS);
  return k_op2(k, K_min, n, k_idx(k, a->tile));
}

KVal attention_tiles(const Attention *a, KVal *slot_tile)
{
  Kernel *k = a->l->k;
  KVal from = k_op2(k, K_div, a->low, k_idx(k, a->tile));
  KVal end = idx_add(k, k_op2(k, K_div, a->last, k_idx(k, a->tile)), k_idx(k, 1));
  KVal tile = k_loop(k, from, end, 1);

  *slot_tile = a->rings ? k_op2(k, K_rem, tile, a->tiles) : tile;
  return tile;
}

/* ---- results: to memory, or scaled in scratch and quantised from there */

static void finish_columns(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  Query *q = ctx;
  const Attention *a = q->a;
  Kernel *k = l->k;
  KType t = ktype(KE_f32, lanes);
  KVal at = idx_add(k, q->acc, j), acc = k_load(k, t, a->scratch, at, attention_acc_at(a, 0) + off);
  KVal y = mul(k, acc, k_splat(k, t, q->inverse));

  if (a->stored)
    k_store(k, a->out, idx_add(k, q->y, j), off, y);
  if (a->quantised)
    k_store(k, a->scratch, at, attention_acc_at(a, 0) + off, y);
}

static KVal quant_vector(void *ctx, KVal j, int64_t off)
{
  const Query *q = ctx;
  const Attention *a = q->a;
  return k_load(a->l->k, ktype(KE_f32, a->lanes), a->scratch, idx_add(a->l->k, q->acc, j),
                attention_acc_at(a, 0) + off);
}

/* Heads are whole blocks. */
static void quantise(Query *q, KVal block)
{
  const Attention *a = q->a;
  Q8a to = lower_q8a_value(a->l, a->quantised, KA_WRITE);
  lower_quant_row(a->l, &to, block, a->size / QBLOCK, quant_vector, q);
}

/* From a query's number to a multiple of that: heads of a token follow each other by `step`, tokens by `stride`. */
static KVal place_of(const Attention *a, KVal first, KVal query, int64_t step, int64_t stride)
{
  Kernel *k = a->l->k;
  KVal at = idx_add(k, first, idx_mul(k, query, step));

  if (a->tokens == 1)
    return at;
  return idx_add(k, at, idx_mul(k, token_of(a, query), stride - step * (a->together / a->tokens)));
}

void attention_finish(const Attention *a, KVal queries)
{
  Kernel *k = a->l->k;
  KVal h = k_loop(k, k_idx(k, 0), queries, 1);
  Query q = {.a = a, .acc = idx_mul(k, h, acc_stride(a))};

  q.inverse = k_op2(k, K_div, k_flt(k, 1, 1.0), query_number(a, h, NUM_SUM));
  q.y = place_of(a, a->q_at, h, a->size, a->stride);
  lower_columns(a->l, a->size, finish_columns, &q);
  if (a->quantised)
    quantise(&q, place_of(a, a->block, h, a->size / QBLOCK, a->heads * a->size / QBLOCK));
  k_end(k, NULL, 0);
}
