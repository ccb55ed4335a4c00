/* attention.c - attention over the cache, with a streaming softmax.
 *
 * One grid iteration makes a few heads of one token: heads that share keys and values, so that each of these is
 * loaded once. It walks the positions in tiles of four vectors, counted from position 0 whatever the window; every sum
 * of a head is made in the same order however many heads go together. So prefill and decode give the same bits. Keys
 * of a tile are stored transposed ([size][tile]): scores are vectors whose lanes are positions.
 *
 * States of layers with windows are rings: tile t of the positions is tile t mod (slots / tile) of the state. */
#include "passes/lower/lower.h"

#include <assert.h>

enum { MAX_HEADS = 7, MAX_CHUNK = 8, SLOTS = 4, UNROLL = 4 };

typedef struct {
  Lower *l;
  const Node *n;
  uint16_t q, keys, values, scratch;
  bool stored;                       /* the result is wanted in 32 bits */
  uint16_t out;                      /* there */
  Val quantised;                     /* the node that wants it in 8 bits, 0: none */
  uint16_t key_scales, value_scales; /* q8_0 states */
  bool blocks;                       /* states are q8_0 */
  bool rings;                        /* states may be rings: some layer of the graph has a window */
  KElem elem;                        /* of the states */
  int64_t heads, kv_heads, size, slots;
  unsigned together; /* heads of an iteration */
  unsigned unroll;   /* columns of keys, and rows of values, at once */
  unsigned lanes;    /* f32 lanes of a vector; a tile has KEY_VECTORS of them */
  int64_t tile;      /* positions */
  KVal q_at;         /* element where the first head's query, and its result, start */
  KVal block;        /* the block of a quantised result where the first head starts */
  KVal pos, low;     /* idx: the token's position; the first position it sees */
  KVal tiles;        /* of a head's keys */
  KVal first_tile;   /* of the keys of the heads that share them */
} Attention;

/* Scratch: for each head a tile of scores, which become probabilities; then for each head the running result; then for all
 * heads their numbers. What is done for each head alone is a loop over heads: their code is there once. */
static int64_t probs_at(const Attention *a, unsigned h)
{
  return h * a->tile;
}

static int64_t acc_at(const Attention *a, unsigned h)
{
  return a->together * a->tile + h * (int64_t)round_up((uint64_t)a->size, PAD);
}

typedef enum {
  NUM_MAX,
  NUM_SUM,
  NUM_FACTOR,
  NUMBERS
} Number; /* running maximum and sum; what the result shrinks by */

static int64_t number_at(const Attention *a, Number n)
{
  return acc_at(a, a->together) + n * a->together;
}

static KVal mul(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_mul, a, b);
}

static KVal state_load(const Attention *a, uint16_t state, unsigned lanes, KVal at, int64_t off)
{
  Kernel *k = a->l->k;
  KVal x = k_load(k, ktype(a->elem, lanes), state, at, off);
  return k_cast(k, KE_f32, a->blocks ? k_cast(k, KE_i32, x) : x);
}

static KVal number(const Attention *a, uint16_t buf, unsigned lanes, KVal at, int64_t off)
{
  Kernel *k = a->l->k;
  return k_splat(k, ktype(KE_f32, lanes), k_load(k, ktype(KE_f32, 1), buf, at, off));
}

static void clear_columns(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  Attention *a = ctx;
  for (unsigned h = 0; h < a->together; h++)
    k_store(l->k, a->scratch, j, acc_at(a, h) + off, k_flt(l->k, lanes, 0.0));
}

/* ---- scores */

typedef struct {
  KVal v[MAX_HEADS][KEY_VECTORS];
} Scores;

static KVal finish_score(const Attention *a, KVal s)
{
  Kernel *k = a->l->k;
  float cap = a->n->attr.attention.softcap;

  s = mul(k, s, k_flt(k, a->lanes, (double)a->n->attr.attention.scale));
  if (cap > 0)
    s = mul(k, k_tanh(k, mul(k, s, k_flt(k, a->lanes, 1.0 / (double)cap))), k_flt(k, a->lanes, (double)cap));
  return s;
}

/* Adds column d + u of the queries times that of the keys. */
static void score_column(const Attention *a, KVal at, KVal d, unsigned u, Scores *s)
{
  Kernel *k = a->l->k;
  KVal key[KEY_VECTORS];

  for (unsigned i = 0; i < KEY_VECTORS; i++)
    key[i] = state_load(a, a->keys, a->lanes, at, u * a->tile + i * a->lanes);
  for (unsigned h = 0; h < a->together; h++) {
    KVal q = number(a, a->q, a->lanes, idx_add(k, a->q_at, d), h * a->size + u);
    for (unsigned i = 0; i < KEY_VECTORS; i++)
      s->v[h][i] = k_fma(k, key[i], q, s->v[h][i]);
  }
}

static void carry_scores(const Attention *a, const Scores *first, Scores *s)
{
  for (unsigned h = 0; h < a->together; h++)
    for (unsigned i = 0; i < KEY_VECTORS; i++)
      s->v[h][i] = k_carry(a->l->k, first->v[h][i]);
}

static void end_scores(const Attention *a, const Scores *s)
{
  KVal next[MAX_HEADS * KEY_VECTORS];
  uint32_t n = 0;

  for (unsigned h = 0; h < a->together; h++)
    for (unsigned i = 0; i < KEY_VECTORS; i++)
      next[n++] = s->v[h][i];
  k_end(a->l->k, next, n);
}

/* Columns from .. from + count of the queries and of the keys, whose column 0 is at `first`. */
static void score_columns(const Attention *a, KVal first, KVal from, int64_t count, const Scores *zero,
                          Scores *out)
{
  Kernel *k = a->l->k;
  int64_t whole = count / a->unroll * a->unroll;
  KVal d = k_loop(k, k_idx(k, 0), k_idx(k, whole), a->unroll);
  Scores body;

  carry_scores(a, zero, out);
  body = *out;
  d = idx_add(k, from, d);
  for (unsigned u = 0; u < a->unroll; u++)
    score_column(a, idx_add(k, first, idx_mul(k, d, a->tile)), d, u, &body);
  end_scores(a, &body);
  for (unsigned u = 0; u < count - whole; u++)
    score_column(a, idx_add(k, first, k_idx(k, whole * a->tile)), k_idx(k, whole), u, out);
}

/* q8_0: each 32 columns have scales of their own. */
static void score_blocks(const Attention *a, KVal tiles, KVal first, const Scores *zero, Scores *out)
{
  Kernel *k = a->l->k;
  KVal b = k_loop(k, k_idx(k, 0), k_idx(k, a->size / QBLOCK), 1);
  Scores part, body;

  carry_scores(a, zero, out);
  score_columns(a, first, idx_mul(k, b, QBLOCK), QBLOCK, zero, &part);
  KVal at = idx_mul(k, idx_add(k, idx_mul(k, tiles, a->size / QBLOCK), b), a->tile);
  for (unsigned i = 0; i < KEY_VECTORS; i++) {
    KVal scale = k_cast(k, KE_f32, k_load(k, ktype(KE_f16, a->lanes), a->key_scales, at, i * a->lanes));
    for (unsigned h = 0; h < a->together; h++)
      body.v[h][i] = k_fma(k, part.v[h][i], scale, out->v[h][i]);
  }
  end_scores(a, &body);
}

/* q . k for the positions of a tile, to scratch. */
static void scores(const Attention *a, KVal tile)
{
  Kernel *k = a->l->k;
  KVal none = k_flt(k, a->lanes, 0.0), tiles = idx_add(k, a->first_tile, tile);
  KVal first = idx_mul(k, tiles, a->size * a->tile);
  Scores zero, sum;

  for (unsigned h = 0; h < a->together; h++)
    for (unsigned i = 0; i < KEY_VECTORS; i++)
      zero.v[h][i] = none;
  if (a->blocks)
    score_blocks(a, tiles, first, &zero, &sum);
  else
    score_columns(a, first, k_idx(k, 0), a->size, &zero, &sum);
  for (unsigned h = 0; h < a->together; h++)
    for (unsigned i = 0; i < KEY_VECTORS; i++)
      k_store(k, a->scratch, k_idx(k, 0), probs_at(a, h) + i * a->lanes, sum.v[h][i]);
}

/* Which positions of the tile, from `first` on, the token sees. */
static KVal seen(const Attention *a, KVal tile, KVal first)
{
  Kernel *k = a->l->k;
  KType i32 = ktype(KE_i32, a->lanes);
  KVal base = k_cast(k, KE_i32, idx_add(k, idx_mul(k, tile, a->tile), first));
  KVal at = k_op2(k, K_add, kernel_add(k, K_lane, i32, NULL, 0, 0), k_splat(k, i32, base));
  KVal ok = k_op2(k, K_le, at, k_splat(k, i32, k_cast(k, KE_i32, a->pos)));

  if (a->rings)
    ok = k_op2(k, K_and, ok, k_op2(k, K_le, k_splat(k, i32, k_cast(k, KE_i32, a->low)), at));
  return ok;
}

/* ---- values */

typedef struct {
  KVal v[MAX_HEADS][MAX_CHUNK];
} Accs;

/* The value at columns off .. of row s + u; `scales` is where the scales of the tile's rows start, at these columns. */
static KVal one_value(const Attention *a, KVal row, KVal scales, unsigned u, int64_t off, unsigned lanes)
{
  Kernel *k = a->l->k;
  KVal v = state_load(a, a->values, lanes, row, u * a->size + off);

  if (!a->blocks)
    return v;
  KVal scale = k_load(k, ktype(KE_f16, 1), a->value_scales, scales, u * (a->size / QBLOCK) + off / QBLOCK);
  return mul(k, v, k_splat(k, ktype(KE_f32, lanes), k_cast(k, KE_f32, scale)));
}

/* Adds a few value rows, from position `s` of the tile on, each times its probability. */
static void value_rows(const Attention *a, KVal at, KVal scales, KVal s, int64_t off, unsigned chunk,
                       unsigned lanes, Accs *acc)
{
  Kernel *k = a->l->k;
  KVal row = idx_add(k, at, idx_mul(k, s, a->size));

  scales = a->blocks ? idx_add(k, scales, idx_mul(k, s, a->size / QBLOCK)) : 0;

  for (unsigned u = 0; u < a->unroll; u++) {
    KVal v[MAX_CHUNK];
    for (unsigned c = 0; c < chunk; c++)
      v[c] = one_value(a, row, scales, u, off + c * lanes, lanes);
    for (unsigned h = 0; h < a->together; h++) {
      KVal p = number(a, a->scratch, lanes, s, probs_at(a, h) + u);
      for (unsigned c = 0; c < chunk; c++)
        acc->v[h][c] = k_fma(k, v[c], p, acc->v[h][c]);
    }
  }
}

/* Adds the tile's first `rows` value rows to `chunk` vectors of every head's result. */
static void add_values(const Attention *a, KVal tile, KVal rows, KVal j, int64_t off, unsigned chunk,
                       unsigned lanes)
{
  Kernel *k = a->l->k;
  KType t = ktype(KE_f32, lanes);
  KVal next[MAX_HEADS * MAX_CHUNK];
  KVal slot = idx_mul(k, idx_add(k, a->first_tile, tile), a->tile);
  KVal at = idx_add(k, idx_mul(k, slot, a->size), j), scales = 0;
  uint32_t n = 0;
  Accs first, acc, body;

  for (unsigned h = 0; h < a->together; h++)
    for (unsigned c = 0; c < chunk; c++) {
      KVal old = k_load(k, t, a->scratch, j, acc_at(a, h) + off + c * lanes);
      first.v[h][c] = mul(k, old, number(a, a->scratch, lanes, k_idx(k, 0), number_at(a, NUM_FACTOR) + h));
    }
  if (a->blocks) /* columns go by whole blocks */
    scales = idx_add(k, idx_mul(k, slot, a->size / QBLOCK), k_op2(k, K_div, j, k_idx(k, QBLOCK)));
  KVal s = k_loop(k, k_idx(k, 0), rows, a->unroll);
  for (unsigned h = 0; h < a->together; h++)
    for (unsigned c = 0; c < chunk; c++)
      acc.v[h][c] = k_carry(k, first.v[h][c]);
  body = acc;
  value_rows(a, at, scales, s, off, chunk, lanes, &body);
  for (unsigned h = 0; h < a->together; h++)
    for (unsigned c = 0; c < chunk; c++)
      next[n++] = body.v[h][c];
  k_end(k, next, n);
  for (unsigned h = 0; h < a->together; h++)
    for (unsigned c = 0; c < chunk; c++)
      k_store(k, a->scratch, j, acc_at(a, h) + off + c * lanes, acc.v[h][c]);
}

typedef struct {
  Attention *a;
  KVal tile, rows;
  int64_t from;
} Values;

static void value_columns(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  Values *v = ctx;
  (void)l;
  add_values(v->a, v->tile, v->rows, j, v->from + off, 1, lanes);
}

/* Whole steps of `chunk` vectors from column `from` on; returns where they end. */
static int64_t value_steps(Attention *a, KVal tile, KVal rows, int64_t from, unsigned chunk)
{
  Kernel *k = a->l->k;
  int64_t step = chunk * a->lanes, end = from + (a->size - from) / step * step;

  if (end > from) {
    KVal j = k_loop(k, k_idx(k, from), k_idx(k, end), step);
    add_values(a, tile, rows, j, 0, chunk, a->lanes);
    k_end(k, NULL, 0);
  }
  return end;
}

/* As many vectors at once as leave registers for the values and a probability; for q8_0 whole blocks. Somewhat fewer, if
 * that leaves no rest. */
static unsigned chunk_for(const Attention *a)
{
  unsigned most = (a->l->target->registers - 2) / (a->together + 1), block = QBLOCK / a->lanes;

  most = most > MAX_CHUNK ? MAX_CHUNK : most ? most : 1;
  if (a->blocks)
    return most > block ? most / block * block : block;
  for (unsigned n = most; 2 * n > most; n--)
    if (a->size % (n * a->lanes) == 0)
      return n;
  return most;
}

static void all_values(Attention *a, KVal tile, KVal rows)
{
  int64_t done = value_steps(a, tile, rows, 0, chunk_for(a));

  if (a->blocks)
    done = value_steps(a, tile, rows, done, QBLOCK / a->lanes);
  Values rest = {a, tile, rows, done};
  lower_columns(a->l, a->size - done, value_columns, &rest);
}

/* ---- the loop over tiles */

static const double least = -1e30; /* below any score; its exponential is as good as 0 */

/* Lane by lane over the vectors of a tile, as a tree. */
static KVal over_tile(Kernel *k, KOp op, const KVal *v)
{
  return k_op2(k, op, k_op2(k, op, v[0], v[1]), k_op2(k, op, v[2], v[3]));
}

static KVal head_number(const Attention *a, KVal head, Number n)
{
  return k_load(a->l->k, ktype(KE_f32, 1), a->scratch, head, number_at(a, n));
}

static void set_number(const Attention *a, KVal head, Number n, KVal to)
{
  k_store(a->l->k, a->scratch, head, number_at(a, n), to);
}

/* Probabilities from the finished scores at `at`, and their sum. */
static KVal exponentials(const Attention *a, KVal tile, KVal at, KVal top)
{
  Kernel *k = a->l->k;
  KType t = ktype(KE_f32, a->lanes);
  KVal p[KEY_VECTORS], j = k_loop(k, k_idx(k, 0), k_idx(k, a->tile), a->lanes), here = idx_add(k, at, j);
  KVal e = k_exp(k, k_op2(k, K_sub, k_load(k, t, a->scratch, here, 0), k_splat(k, t, top)));

  k_store(k, a->scratch, here, 0, k_select(k, seen(a, tile, j), e, k_flt(k, a->lanes, 0.0)));
  k_end(k, NULL, 0);
  for (unsigned i = 0; i < KEY_VECTORS; i++)
    p[i] = k_load(k, t, a->scratch, at, i * a->lanes);
  return k_reduce(k, K_sum, over_tile(k, K_add, p));
}

/* From sums to scores; their maximum. */
static KVal finished_scores(const Attention *a, KVal tile, KVal at)
{
  Kernel *k = a->l->k;
  KVal s[KEY_VECTORS];

  for (unsigned i = 0; i < KEY_VECTORS; i++) {
    s[i] = finish_score(a, k_load(k, ktype(KE_f32, a->lanes), a->scratch, at, i * a->lanes));
    s[i] = k_select(k, seen(a, tile, k_idx(k, i * a->lanes)), s[i], k_flt(k, a->lanes, least));
    k_store(k, a->scratch, at, i * a->lanes, s[i]);
  }
  return k_reduce(k, K_rmax, over_tile(k, K_max, s));
}

/* From scores to probabilities, in scratch. */
static void softmax_heads(const Attention *a, KVal tile)
{
  Kernel *k = a->l->k;
  KVal h = k_loop(k, k_idx(k, 0), k_idx(k, a->together), 1), at = idx_mul(k, h, a->tile);
  KVal old = head_number(a, h, NUM_MAX), top = k_op2(k, K_max, old, finished_scores(a, tile, at));
  KVal factor = k_exp(k, k_op2(k, K_sub, old, top));

  set_number(a, h, NUM_MAX, top);
  set_number(a, h, NUM_FACTOR, factor);
  KVal sum = exponentials(a, tile, at, top);
  set_number(a, h, NUM_SUM, k_fma(k, head_number(a, h, NUM_SUM), factor, sum));
  k_end(k, NULL, 0);
}

/* How many rows of the tile must be added: up to the token's own, rounded up to what a step takes. */
static KVal rows_seen(const Attention *a, KVal tile)
{
  Kernel *k = a->l->k;
  KVal n = k_op2(k, K_sub, idx_add(k, a->pos, k_idx(k, SLOTS)), idx_mul(k, tile, a->tile));
  n = idx_mul(k, k_op2(k, K_div, n, k_idx(k, SLOTS)), SLOTS);
  return k_op2(k, K_min, n, k_idx(k, a->tile));
}

static void walk_tiles(Attention *a)
{
  Kernel *k = a->l->k;
  KVal from = k_op2(k, K_div, a->low, k_idx(k, a->tile));
  KVal end = idx_add(k, k_op2(k, K_div, a->pos, k_idx(k, a->tile)), k_idx(k, 1));

  for (unsigned h = 0; h < a->together; h++) {
    set_number(a, k_idx(k, h), NUM_MAX, k_flt(k, 1, least));
    set_number(a, k_idx(k, h), NUM_SUM, k_flt(k, 1, 0.0));
  }
  KVal tile = k_loop(k, from, end, 1), slot_tile = tile;
  if (a->rings)
    slot_tile = k_op2(k, K_rem, tile, a->tiles);
  scores(a, slot_tile);
  softmax_heads(a, tile);
  all_values(a, slot_tile, rows_seen(a, tile));
  k_end(k, NULL, 0);
}

/* ---- results: to memory, or scaled in scratch and quantised from there */

typedef struct {
  Attention *a;
  KVal inverse[MAX_HEADS];
} Finish;

static void finish_columns(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  Finish *f = ctx;
  Attention *a = f->a;
  Kernel *k = l->k;
  KType t = ktype(KE_f32, lanes);

  for (unsigned h = 0; h < a->together; h++) {
    KVal acc = k_load(k, t, a->scratch, j, acc_at(a, h) + off);
    KVal y = mul(k, acc, k_splat(k, t, f->inverse[h]));
    if (a->stored)
      k_store(k, a->out, idx_add(k, a->q_at, j), h * a->size + off, y);
    if (a->quantised)
      k_store(k, a->scratch, j, acc_at(a, h) + off, y);
  }
}

/* Heads are whole blocks, and lie side by side in scratch. */
static void quantise(Attention *a)
{
  Kernel *k = a->l->k;
  Q8a to = lower_q8a_value(a->l, a->quantised, KA_WRITE);
  KVal b = k_loop(k, k_idx(k, 0), k_idx(k, a->together * a->size / QBLOCK), 1), x[QBLOCK / 4];

  for (unsigned i = 0; i < QBLOCK / a->lanes; i++)
    x[i] = k_load(k, ktype(KE_f32, a->lanes), a->scratch, idx_mul(k, b, QBLOCK), acc_at(a, 0) + i * a->lanes);
  lower_quant_block(a->l, &to, idx_add(k, a->block, b), x);
  k_end(k, NULL, 0);
}

/* ---- the kernel */

static uint32_t state_of(const Lower *l, Val v)
{
  v = lower_base(l, v);
  while (graph_node(l->g, v)->op == OP_update)
    v = lower_base(l, graph_in(l->g, v, 0));
  return graph_node(l->g, v)->attr.index;
}

/* As many heads of a group as registers hold, if two threads still find work for one token. */
static unsigned heads_together(const Attention *a)
{
  int64_t group = a->heads / a->kv_heads;
  unsigned each = a->blocks ? 2 * KEY_VECTORS : KEY_VECTORS, most = (a->l->target->registers - 3) / each;

  for (unsigned n = most < MAX_HEADS ? most : MAX_HEADS; n > 1; n--)
    if (group % n == 0 && (a->heads / n > 1 || a->l->g->tokens > 1))
      return n;
  return 1;
}

static bool has_windows(const Graph *g)
{
  for (Val v = 1; v < g->nodes.len; v++)
    if (graph_node(g, v)->op == OP_attention && graph_node(g, v)->attr.attention.window)
      return true;
  return false;
}

/* As many positions as a token sees at most. Where some layers have windows, the others have one as wide as the context:
 * then all share a kernel, whose constants are the grid's. */
static int64_t seen_most(const Attention *a)
{
  int64_t context = a->l->prog->context, window = a->n->attr.attention.window;
  return window && window < context ? window : context;
}

static void find_place(Attention *a, const Type *t)
{
  Kernel *k = a->l->k;
  int64_t items = a->heads / a->together;
  KVal i = k_grid(k), token = k_op2(k, K_div, i, k_idx(k, items)), item = k_op2(k, K_rem, i, k_idx(k, items));
  KVal head = idx_mul(k, item, a->together);

  a->tiles = k_idx(k, a->slots / a->tile);
  a->first_tile = mul(k, k_op2(k, K_div, head, k_idx(k, a->heads / a->kv_heads)), a->tiles);
  a->q_at = idx_add(k, idx_mul(k, token, lower_stride(t)), idx_mul(k, head, a->size));
  if (a->quantised)
    a->block = idx_add(k, idx_mul(k, token, a->heads * a->size / QBLOCK), idx_mul(k, head, a->size / QBLOCK));
  a->pos = idx_add(k, k_arg(k, 0), token);
  a->low = k_idx(k, 0);
  if (a->rings)
    a->low = k_op2(k, K_max, a->low, k_op2(k, K_sub, a->pos, k_idx(k, seen_most(a) - 1)));
}

bool lower_attention(Lower *l, const Val *nodes, uint32_t n)
{
  Val v = nodes[0];
  const Type t = graph_node(l->g, v)->type; /* [T, heads, size] */
  uint32_t keys = state_of(l, graph_in(l->g, v, 1)), values = state_of(l, graph_in(l->g, v, 2));
  const Type *state = &l->prog->module->states.data[keys].type;
  Attention a = {
      .l = l, .n = graph_node(l->g, v), .heads = t.dim[1], .size = t.dim[2], .kv_heads = state->dim[1]};
  Finish f = {.a = &a};

  assert(n <= 2);
  a.stored = l->outside[v];
  a.quantised = n > 1 ? nodes[1] : 0;
  a.slots = lower_slots(l, state);
  a.elem = lower_state_elem(state);
  a.blocks = state->dtype == DT_Q8_0;
  a.lanes = l->lanes;
  a.tile = l->key_tile;
  a.rings = has_windows(l->g);
  a.together = heads_together(&a);
  a.unroll = a.elem == KE_f16 && !l->target->f16c ? 1 : UNROLL; /* where a conversion is long code */
  lower_begin(l, "attention.%lldx%lld.kv%lld.%s", (long long)a.heads, (long long)a.size,
              (long long)a.kv_heads, kelem_info[a.elem].name);
  a.q = lower_value(l, graph_in(l->g, v, 0), KA_READ);
  a.keys = lower_param(l, l->state_buffer[keys], 0, a.elem, KA_READ, "keys");
  a.values = lower_param(l, l->state_buffer[values], 0, a.elem, KA_READ, "values");
  if (a.blocks) {
    a.key_scales =
        lower_param(l, l->state_buffer[keys], lower_state_scales(l, state), KE_f16, KA_READ, "kscales");
    a.value_scales =
        lower_param(l, l->state_buffer[values], lower_state_scales(l, state), KE_f16, KA_READ, "vscales");
  }
  if (a.stored)
    a.out = lower_value(l, v, KA_WRITE);
  a.scratch = lower_scratch(l, (uint64_t)number_at(&a, NUMBERS) * sizeof(float));
  find_place(&a, &t);
  lower_columns(l, a.size, clear_columns, &a);
  walk_tiles(&a);
  for (unsigned h = 0; h < a.together; h++)
    f.inverse[h] = k_op2(l->k, K_div, k_flt(l->k, 1, 1.0), head_number(&a, k_idx(l->k, h), NUM_SUM));
  lower_columns(l, a.size, finish_columns, &f);
  if (a.quantised)
    quantise(&a);
  int64_t grid = a.heads / a.together;
  bool per_token = lower_per_token(l, &t);
  uint64_t row = (uint64_t)(a.kv_heads * a.size);
  Part *part = lower_end(l, (uint64_t)(per_token ? grid : grid * t.dim[0]), per_token,
                         2 * row * kelem_info[a.elem].bytes, 2 * (uint64_t)(a.heads * a.size));
  part->span = (uint32_t)seen_most(&a);
  return true;
}
