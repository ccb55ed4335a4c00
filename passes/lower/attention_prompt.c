/* attention_prompt.c - attention of a prompt's tokens: the heads of one key/value head for several tokens at once.
 *
 * For each tile of positions, keys and values are converted to f32 in scratch once, for all queries. Products are made in tiles of
 * registers: a few queries by two vectors, so that a load of keys, or values, serves as many multiply-adds as there are queries.
 * Each sum is made in the order in which one token alone has it: see attention.c. A tile of positions that some of
 * the queries do not see leaves these as they were: their probabilities are 0, their factor is 1. */
#include "passes/lower/attention.h"

enum { TILE_VECTORS = 2, TILE_MAX = 12, CONVERTED = 2 };

typedef struct {
  const Attention *a;
  unsigned tile; /* queries of a register tile */
  KVal queries;  /* idx: whole tiles */
  KVal tokens;   /* idx */
  int64_t width; /* columns of values that lie side by side, row after row */
  int64_t q_at, keys_at, key_scales_at, values_at, end; /* in scratch */
  uint16_t keys; /* where keys are read: in scratch, or f32 in the state */
} Prompt;

typedef struct {
  KVal v[TILE_MAX][TILE_VECTORS];
} Tile;

static unsigned tile_queries(const Target *t)
{
  return t->registers >= 32 ? 12 : 6;
}

/* Whole tiles of registers, however many heads there are. More tokens convert keys and values less often, which is a few
 * percent; fewer leave work for more threads. */
unsigned attention_prompt_tokens(const Attention *a)
{
  return a->kv_heads > 1 ? 24 : 12;
}

/* ---- scratch */

static bool converts_keys(const Prompt *p)
{
  return p->a->elem != KE_f32;
}

static void place_scratch(Prompt *p)
{
  const Attention *a = p->a;
  int64_t chunks = (a->size + p->width - 1) / p->width;

  p->q_at = attention_scratch(a) + 2 * attention_results(a);
  p->keys_at = p->q_at + (int64_t)round_up((uint64_t)(a->together * a->size), PAD);
  p->key_scales_at = p->keys_at + (converts_keys(p) ? a->size * a->tile : 0);
  p->values_at = p->key_scales_at + (a->blocks ? a->size / QBLOCK * a->tile : 0);
  p->end = p->values_at + chunks * p->width * a->tile;
}

typedef struct {
  const Prompt *p;
  KVal from, to;  /* elements; of values, `to` alone: row of the tile */
  int64_t column; /* the first */
} Copy;

static void query_columns(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  const Copy *c = ctx;
  KVal x = k_load(l->k, ktype(KE_f32, lanes), c->p->a->q, idx_add(l->k, c->from, j), off);
  k_store(l->k, c->p->a->scratch, idx_add(l->k, c->to, j), c->p->q_at + off, x);
}

/* Queries lie one behind the other. Those that fill the last tile are the last token's. */
static void copy_queries(const Prompt *p)
{
  const Attention *a = p->a;
  Kernel *k = a->l->k;
  KVal h = k_loop(k, k_idx(k, 0), p->queries, 1), group = k_idx(k, a->together / a->tokens);
  KVal last = k_op2(k, K_sub, p->tokens, k_idx(k, 1));
  KVal token = k_op2(k, K_min, k_op2(k, K_div, h, group), last);
  Copy c = {p, idx_add(k, a->q_at, idx_mul(k, token, a->stride)), idx_mul(k, h, a->size), 0};

  c.from = idx_add(k, c.from, idx_mul(k, k_op2(k, K_rem, h, group), a->size));
  lower_columns(a->l, a->size, query_columns, &c);
  k_end(k, NULL, 0);
}

/* Vectors of keys, or rows of values, that are converted at once; without an instruction for it that is long code. */
static unsigned at_once(const Prompt *p)
{
  return p->a->elem == KE_f16 && !p->a->l->target->f16c ? 1 : CONVERTED;
}

/* Whole tiles: `n` elements. All loads first: they may be of what is stored next to. */
static void convert_all(const Prompt *p, uint16_t from, KVal at, KElem elem, int64_t to, int64_t n)
{
  const Attention *a = p->a;
  Kernel *k = a->l->k;
  unsigned vecs = at_once(p);
  KVal j = k_loop(k, k_idx(k, 0), k_idx(k, n), vecs * a->lanes), x[CONVERTED];

  at = idx_add(k, at, j);
  for (unsigned i = 0; i < vecs; i++)
    x[i] = k_load(k, ktype(elem, a->lanes), from, at, i * a->lanes);
  for (unsigned i = 0; i < vecs; i++) {
    if (elem == KE_i8)
      x[i] = k_cast(k, KE_i32, x[i]);
    k_store(k, a->scratch, j, to + i * a->lanes, k_cast(k, KE_f32, x[i]));
  }
  k_end(k, NULL, 0);
}

static void convert_keys(const Prompt *p)
{
  const Attention *a = p->a;
  int64_t n = a->size * a->tile;

  if (!converts_keys(p))
    return;
  convert_all(p, a->keys, a->at, a->elem, p->keys_at, n);
  if (a->blocks)
    convert_all(p, a->key_scales, a->scales_at, KE_f16, p->key_scales_at, n / QBLOCK);
}

/* Columns from `column` + off on of a row of the tile in the state. */
static KVal value(const Prompt *p, KVal row, KVal column, int64_t off, unsigned lanes)
{
  const Attention *a = p->a;
  Kernel *k = a->l->k;
  KVal x = attention_load(a, a->values, lanes,
                          idx_add(k, a->at, idx_add(k, idx_mul(k, row, a->size), column)), off);

  if (!a->blocks)
    return x;
  KVal block = k_op2(k, K_div, idx_add(k, column, k_idx(k, off)), k_idx(k, QBLOCK));
  KVal at = idx_add(k, a->scales_at, idx_add(k, idx_mul(k, row, a->size / QBLOCK), block));
  KVal scale = k_cast(k, KE_f32, k_load(k, ktype(KE_f16, 1), a->value_scales, at, 0));
  return k_op2(k, K_mul, x, k_splat(k, ktype(KE_f32, lanes), scale));
}

static void last_columns(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  const Copy *c = ctx;
  const Prompt *p = c->p;
  KVal at = idx_add(l->k, idx_mul(l->k, c->to, p->width), j);
  k_store(l->k, p->a->scratch, at, p->values_at + c->column * p->a->tile + off,
          value(p, c->to, j, c->column + off, lanes));
}

/* A few rows of the chunk at `column` (idx), which is a multiple of the width. */
static void convert_chunk(const Prompt *p, const Copy *c, KVal column, unsigned rows)
{
  const Attention *a = p->a;
  Kernel *k = a->l->k;
  KVal x[CONVERTED][TILE_VECTORS];
  KVal to = idx_add(k, idx_mul(k, column, a->tile), idx_mul(k, c->to, p->width));

  for (unsigned u = 0; u < rows; u++)
    for (unsigned i = 0; i < TILE_VECTORS; i++)
      x[u][i] = value(p, idx_add(k, c->to, k_idx(k, u)), column, i * a->lanes, a->lanes);
  for (unsigned u = 0; u < rows; u++)
    for (unsigned i = 0; i < TILE_VECTORS; i++)
      k_store(k, a->scratch, to, p->values_at + u * p->width + i * a->lanes, x[u][i]);
}

static void convert_values(const Prompt *p, KVal rows)
{
  const Attention *a = p->a;
  Kernel *k = a->l->k;
  int64_t whole = a->size / p->width * p->width;
  KVal zero = k_idx(k, 0);
  Copy c = {.p = p, .column = whole};

  if (whole) {
    unsigned step = at_once(p);
    c.to = k_loop(k, zero, rows, step);
    KVal column = k_loop(k, zero, k_idx(k, whole), p->width);
    convert_chunk(p, &c, column, step);
    k_end(k, NULL, 0);
    k_end(k, NULL, 0);
  }
  if (whole == a->size)
    return;
  c.to = k_loop(k, zero, rows, 1);
  lower_columns(a->l, a->size - whole, last_columns, &c);
  k_end(k, NULL, 0);
}

/* ---- tiles of registers */

static void carry(const Prompt *p, unsigned vecs, const Tile *first, Tile *t)
{
  for (unsigned q = 0; q < p->tile; q++)
    for (unsigned i = 0; i < vecs; i++)
      t->v[q][i] = k_carry(p->a->l->k, first->v[q][i]);
}

static void end_carries(const Prompt *p, unsigned vecs, const Tile *t)
{
  KVal next[TILE_MAX * TILE_VECTORS];
  uint32_t n = 0;

  for (unsigned q = 0; q < p->tile; q++)
    for (unsigned i = 0; i < vecs; i++)
      next[n++] = t->v[q][i];
  k_end(p->a->l->k, next, n);
}

/* ---- scores */

typedef struct {
  const Prompt *p;
  unsigned vecs;
  KVal keys; /* where column 0 of the first vector is */
  KVal q;    /* where the tile's first query is */
  Tile zero;
} Scores;

static void score_column(const Scores *s, KVal d, Tile *t)
{
  const Attention *a = s->p->a;
  Kernel *k = a->l->k;
  KVal key[TILE_VECTORS], at = idx_add(k, s->keys, idx_mul(k, d, a->tile));
  int64_t base = converts_keys(s->p) ? s->p->keys_at : 0;

  for (unsigned i = 0; i < s->vecs; i++)
    key[i] = k_load(k, ktype(KE_f32, a->lanes), s->p->keys, at, base + i * a->lanes);
  for (unsigned q = 0; q < s->p->tile; q++) {
    KVal x = attention_number(a, a->scratch, a->lanes, idx_add(k, s->q, d), s->p->q_at + q * a->size);
    for (unsigned i = 0; i < s->vecs; i++)
      t->v[q][i] = k_fma(k, key[i], x, t->v[q][i]);
  }
}

/* Columns from .. from + count, one at a time: a tile has sums enough to wait for none. */
static void score_columns(const Scores *s, KVal from, int64_t count, Tile *out)
{
  Kernel *k = s->p->a->l->k;
  KVal d = k_loop(k, k_idx(k, 0), k_idx(k, count), 1);
  Tile body;

  carry(s->p, s->vecs, &s->zero, out);
  body = *out;
  score_column(s, idx_add(k, from, d), &body);
  end_carries(s->p, s->vecs, &body);
}

/* q8_0: each 32 columns have scales of their own. `vector`: idx, the position of the first lane. */
static void score_blocks(const Scores *s, KVal vector, Tile *out)
{
  const Attention *a = s->p->a;
  Kernel *k = a->l->k;
  KVal b = k_loop(k, k_idx(k, 0), k_idx(k, a->size / QBLOCK), 1);
  Tile part, body;

  carry(s->p, s->vecs, &s->zero, out);
  score_columns(s, idx_mul(k, b, QBLOCK), QBLOCK, &part);
  KVal at = idx_add(k, idx_mul(k, b, a->tile), vector);
  for (unsigned i = 0; i < s->vecs; i++) {
    KVal scale = k_load(k, ktype(KE_f32, a->lanes), a->scratch, at, s->p->key_scales_at + i * a->lanes);
    for (unsigned q = 0; q < s->p->tile; q++)
      body.v[q][i] = k_fma(k, part.v[q][i], scale, out->v[q][i]);
  }
  end_carries(s->p, s->vecs, &body);
}

/* q . k for the positions of a tile that are seen, to scratch. */
static void scores(const Prompt *p, KVal rows)
{
  const Attention *a = p->a;
  Kernel *k = a->l->k;
  Scores s = {.p = p, .vecs = a->blocks ? 1 : TILE_VECTORS};
  Tile sum;

  for (unsigned q = 0; q < p->tile; q++)
    for (unsigned i = 0; i < s.vecs; i++)
      s.zero.v[q][i] = k_flt(k, a->lanes, 0.0);
  KVal first = converts_keys(p) ? k_idx(k, 0) : a->at;
  KVal vector = k_loop(k, k_idx(k, 0), rows, s.vecs * a->lanes);
  KVal h = k_loop(k, k_idx(k, 0), p->queries, p->tile);
  s.keys = idx_add(k, first, vector);
  s.q = idx_mul(k, h, a->size);
  if (a->blocks)
    score_blocks(&s, vector, &sum);
  else
    score_columns(&s, k_idx(k, 0), a->size, &sum);
  KVal to = idx_add(k, idx_mul(k, h, a->tile), vector);
  for (unsigned q = 0; q < p->tile; q++)
    for (unsigned i = 0; i < s.vecs; i++)
      k_store(k, a->scratch, to, attention_probs_at(a, q) + i * a->lanes, sum.v[q][i]);
  k_end(k, NULL, 0);
  k_end(k, NULL, 0);
}

/* ---- values */

/* Adds the tile's rows to `vecs` vectors of the results of a tile of queries, from `column` (idx) on; the values are at `from`. */
static void add_values(const Prompt *p, KVal from, KVal column, KVal rows, unsigned vecs)
{
  const Attention *a = p->a;
  Kernel *k = a->l->k;
  KType t = ktype(KE_f32, a->lanes);
  KVal h = k_loop(k, k_idx(k, 0), p->queries, p->tile), probs = idx_mul(k, h, a->tile);
  int64_t acc = attention_acc_at(a, 1);
  KVal at = idx_add(k, idx_add(k, a->section.at, column), idx_mul(k, h, acc));
  Tile first, sum, body;

  for (unsigned q = 0; q < p->tile; q++) {
    KVal factor = attention_number(a, a->scratch, a->lanes, h, attention_number_at(a, NUM_FACTOR) + q);
    for (unsigned i = 0; i < vecs; i++)
      first.v[q][i] = k_op2(k, K_mul, k_load(k, t, a->section.buf, at, q * acc + i * a->lanes), factor);
  }
  KVal s = k_loop(k, k_idx(k, 0), rows, 1), v[TILE_VECTORS];
  carry(p, vecs, &first, &sum);
  body = sum;
  KVal row = idx_add(k, from, idx_mul(k, s, p->width));
  for (unsigned i = 0; i < vecs; i++)
    v[i] = k_load(k, t, a->scratch, row, p->values_at + i * a->lanes);
  for (unsigned q = 0; q < p->tile; q++) {
    KVal x = attention_number(a, a->scratch, a->lanes, idx_add(k, probs, s), attention_probs_at(a, q));
    for (unsigned i = 0; i < vecs; i++)
      body.v[q][i] = k_fma(k, v[i], x, body.v[q][i]);
  }
  end_carries(p, vecs, &body);
  for (unsigned q = 0; q < p->tile; q++)
    for (unsigned i = 0; i < vecs; i++)
      k_store(k, a->section.buf, at, q * acc + i * a->lanes, sum.v[q][i]);
  k_end(k, NULL, 0);
}

static void all_values(const Prompt *p, KVal rows)
{
  const Attention *a = p->a;
  Kernel *k = a->l->k;
  int64_t vectors = (a->size + a->lanes - 1) / a->lanes, whole = vectors / TILE_VECTORS;

  if (whole) {
    KVal c = k_loop(k, k_idx(k, 0), k_idx(k, whole), 1);
    add_values(p, idx_mul(k, c, a->tile * p->width), idx_mul(k, c, p->width), rows, TILE_VECTORS);
    k_end(k, NULL, 0);
  }
  if (vectors > whole * TILE_VECTORS)
    add_values(p, k_idx(k, whole * a->tile * p->width), k_idx(k, whole * p->width), rows,
               (unsigned)(vectors - whole * TILE_VECTORS));
}

/* ---- an iteration */

void attention_prompt(const Attention *in, KVal tokens)
{
  Attention a = *in;
  Kernel *k = a.l->k;
  Prompt p = {.a = &a, .tile = tile_queries(a.l->target), .tokens = tokens, .width = TILE_VECTORS * a.lanes};
  KVal real = idx_mul(k, tokens, a.together / a.tokens);

  p.queries = k_op2(k, K_div, idx_add(k, real, k_idx(k, p.tile - 1)), k_idx(k, p.tile));
  p.queries = idx_mul(k, p.queries, p.tile);
  place_scratch(&p);
  a.scratch = lower_scratch(a.l, (uint64_t)p.end * sizeof(float));
  a.section = (Results){a.scratch, k_idx(k, attention_scratch(&a))};
  a.all = (Results){a.scratch, k_idx(k, attention_scratch(&a) + attention_results(&a))};
  p.keys = converts_keys(&p) ? a.scratch : a.keys;
  copy_queries(&p);
  attention_clear(&a, p.queries);
  a.section_no = k_loop(k, attention_first_section(&a), attention_end_section(&a), 1);
  KVal tile = attention_tiles(&a), rows = attention_rows(&a, tile);
  convert_keys(&p);
  scores(&p, rows);
  attention_softmax(&a, tile, p.queries);
  convert_values(&p, rows);
  all_values(&p, rows);
  k_end(k, NULL, 0);
  attention_merge(&a, p.queries);
  k_end(k, NULL, 0);
  attention_finish(&a, real);
}
