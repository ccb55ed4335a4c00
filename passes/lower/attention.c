/* attention.c - attention over the cache, with a streaming softmax.
 *
 * One grid iteration makes one head of one token. It walks the cache in tiles of 16 slots, counted from slot
 * 0 whatever the window, so the order of every sum depends only on the token's position: prefill and decode
 * give the same bits. Keys of a tile are stored transposed ([size][16]), so scores are vectors whose lanes
 * are slots. */
#include "passes/lower/lower.h"

#include <assert.h>

enum { MAX_PIECES = KEY_TILE / 4, CHUNK = 4 };

typedef struct {
  Lower *l;
  const Node *n;
  uint16_t q, keys, values, out, scratch;
  int64_t heads, kv_heads, size, slots;
  unsigned lanes, pieces; /* f32 lanes of a vector; vectors of a tile of slots */
  KVal q_at, out_at;      /* elements where the head's query and result start */
  KVal pos, low;          /* idx: the token's position; the first slot it sees */
  KVal kv_head;
} Attention;

/* Scratch: 16 probabilities, then the running result. */
enum { PROBS_AT = 0, ACC_AT = KEY_TILE };

static KVal mul(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_mul, a, b);
}

static void clear_columns(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  Attention *a = ctx;
  k_store(l->k, a->scratch, j, ACC_AT + off, k_flt(l->k, lanes, 0.0));
}

/* q . k for the 16 slots of a tile. */
static void scores(const Attention *a, KVal tile, KVal *s)
{
  Kernel *k = a->l->k;
  KVal zero = k_flt(k, a->lanes, 0.0),
       first = idx_mul(k, idx_add(k, idx_mul(k, a->kv_head, a->slots / KEY_TILE), tile), a->size * KEY_TILE);
  KVal next[MAX_PIECES];
  KVal d = k_loop(k, k_idx(k, 0), k_idx(k, a->size), 1);

  for (unsigned i = 0; i < a->pieces; i++)
    s[i] = k_carry(k, zero);
  KVal q = k_splat(k, ktype(KE_f32, a->lanes), k_load(k, ktype(KE_f32, 1), a->q, idx_add(k, a->q_at, d), 0));
  KVal at = idx_add(k, first, idx_mul(k, d, KEY_TILE));
  for (unsigned i = 0; i < a->pieces; i++)
    next[i] = k_fma(k, k_load(k, ktype(KE_f32, a->lanes), a->keys, at, i * a->lanes), q, s[i]);
  k_end(k, next, a->pieces);
  for (unsigned i = 0; i < a->pieces; i++) {
    s[i] = mul(k, s[i], k_flt(k, a->lanes, a->n->attr.attention.scale));
    float cap = a->n->attr.attention.softcap;
    if (cap > 0)
      s[i] = mul(k, k_tanh(k, mul(k, s[i], k_flt(k, a->lanes, 1.0 / cap))), k_flt(k, a->lanes, cap));
  }
}

/* Which slots of the tile the token sees. */
static KVal seen(const Attention *a, KVal tile, unsigned i)
{
  Kernel *k = a->l->k;
  KType i32 = ktype(KE_i32, a->lanes);
  KVal base = k_op2(k, K_add, k_cast(k, KE_i32, idx_mul(k, tile, KEY_TILE)),
                    k_int(k, ktype(KE_i32, 1), i * a->lanes));
  KVal slot = k_op2(k, K_add, kernel_add(k, K_lane, i32, NULL, 0, 0), k_splat(k, i32, base));
  KVal ok = k_op2(k, K_le, slot, k_splat(k, i32, k_cast(k, KE_i32, a->pos)));

  if (a->n->attr.attention.window)
    ok = k_op2(k, K_and, ok, k_op2(k, K_le, k_splat(k, i32, k_cast(k, KE_i32, a->low)), slot));
  return ok;
}

/* Adds 16 value rows, each times its probability, to `chunk` vectors of the result. */
static void add_values(const Attention *a, KVal tile, KVal factor, KVal j, int64_t off, unsigned chunk,
                       unsigned lanes)
{
  Kernel *k = a->l->k;
  KType t = ktype(KE_f32, lanes);
  KVal acc[CHUNK], f = k_splat(k, t, factor);
  KVal row = idx_mul(k, idx_add(k, idx_mul(k, a->kv_head, a->slots), idx_mul(k, tile, KEY_TILE)), a->size);
  KVal at = idx_add(k, row, j);

  for (unsigned c = 0; c < chunk; c++)
    acc[c] = mul(k, k_load(k, t, a->scratch, j, ACC_AT + off + c * lanes), f);
  for (unsigned s = 0; s < KEY_TILE; s++) {
    KVal p = k_splat(k, t, k_load(k, ktype(KE_f32, 1), a->scratch, k_idx(k, 0), PROBS_AT + s));
    for (unsigned c = 0; c < chunk; c++)
      acc[c] = k_fma(k, k_load(k, t, a->values, at, s * a->size + off + c * lanes), p, acc[c]);
  }
  for (unsigned c = 0; c < chunk; c++)
    k_store(k, a->scratch, j, ACC_AT + off + c * lanes, acc[c]);
}

typedef struct {
  Attention *a;
  KVal tile, factor;
  int64_t from;
} Values;

static void value_columns(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  Values *v = ctx;
  (void)l;
  add_values(v->a, v->tile, v->factor, j, v->from + off, 1, lanes);
}

static void all_values(Attention *a, KVal tile, KVal factor)
{
  Kernel *k = a->l->k;
  int64_t step = CHUNK * a->lanes, whole = a->size / step * step;
  Values rest = {a, tile, factor, whole};

  if (whole) {
    KVal j = k_loop(k, k_idx(k, 0), k_idx(k, whole), step);
    add_values(a, tile, factor, j, 0, CHUNK, a->lanes);
    k_end(k, NULL, 0);
  }
  lower_columns(a->l, a->size - whole, value_columns, &rest);
}

/* The loop over tiles: running maximum and sum are carried, the result is in scratch. Returns 1 / sum. */
static KVal walk_tiles(Attention *a)
{
  Kernel *k = a->l->k;
  const double least = -1e30;
  KVal tile_of_low = k_op2(k, K_div, a->low, k_idx(k, KEY_TILE));
  KVal end = idx_add(k, k_op2(k, K_div, a->pos, k_idx(k, KEY_TILE)), k_idx(k, 1));
  KVal max0 = k_flt(k, 1, least), sum0 = k_flt(k, 1, 0.0);
  KVal tile = k_loop(k, tile_of_low, end, 1), max = k_carry(k, max0), sum = k_carry(k, sum0);
  KVal s[MAX_PIECES], ok[MAX_PIECES], top = max, total = 0;
  KType t = ktype(KE_f32, a->lanes);

  scores(a, tile, s);
  for (unsigned i = 0; i < a->pieces; i++) {
    ok[i] = seen(a, tile, i);
    s[i] = k_select(k, ok[i], s[i], k_flt(k, a->lanes, least));
    top = k_op2(k, K_max, top, k_reduce(k, K_rmax, s[i]));
  }
  KVal factor = k_exp(k, k_op2(k, K_sub, max, top));
  for (unsigned i = 0; i < a->pieces; i++) {
    KVal p = k_exp(k, k_op2(k, K_sub, s[i], k_splat(k, t, top)));
    p = k_select(k, ok[i], p, k_flt(k, a->lanes, 0.0));
    k_store(k, a->scratch, k_idx(k, 0), PROBS_AT + i * a->lanes, p);
    total = total ? k_op2(k, K_add, total, k_reduce(k, K_sum, p)) : k_reduce(k, K_sum, p);
  }
  all_values(a, tile, factor);
  KVal next[] = {top, k_fma(k, sum, factor, total)};
  k_end(k, next, 2);
  return k_op2(k, K_div, k_flt(k, 1, 1.0), sum);
}

typedef struct {
  Attention *a;
  KVal inverse;
} Finish;

static void finish_columns(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  Finish *f = ctx;
  Kernel *k = l->k;
  KVal v = mul(k, k_load(k, ktype(KE_f32, lanes), f->a->scratch, j, ACC_AT + off),
               k_splat(k, ktype(KE_f32, lanes), f->inverse));
  k_store(k, f->a->out, idx_add(k, f->a->out_at, j), off, v);
}

static uint32_t state_of(const Lower *l, Val v)
{
  v = lower_base(l, v);
  while (graph_node(l->g, v)->op == OP_update)
    v = lower_base(l, graph_in(l->g, v, 0));
  return graph_node(l->g, v)->attr.index;
}

static void where(Attention *a, const Type *t)
{
  Kernel *k = a->l->k;
  KVal i = k_grid(k), token = k_op2(k, K_div, i, k_idx(k, a->heads)),
       head = k_op2(k, K_rem, i, k_idx(k, a->heads));

  a->kv_head = k_op2(k, K_div, head, k_idx(k, a->heads / a->kv_heads));
  a->q_at = a->out_at = idx_add(k, idx_mul(k, token, lower_stride(t)), idx_mul(k, head, a->size));
  a->pos = idx_add(k, k_arg(k, 0), token);
  a->low = k_idx(k, 0);
  if (a->n->attr.attention.window)
    a->low = k_op2(k, K_max, a->low, k_op2(k, K_sub, a->pos, k_idx(k, a->n->attr.attention.window - 1)));
}

bool lower_attention(Lower *l, const Val *nodes, uint32_t n)
{
  Val v = nodes[0];
  const Type t = graph_node(l->g, v)->type; /* [T, heads, size] */
  uint32_t keys = state_of(l, graph_in(l->g, v, 1)), values = state_of(l, graph_in(l->g, v, 2));
  const Type *state = &l->prog->module->states.data[keys].type;
  Attention a = {
      .l = l, .n = graph_node(l->g, v), .heads = t.dim[1], .size = t.dim[2], .kv_heads = state->dim[1]};

  assert(n == 1);
  (void)n;
  a.slots = (int64_t)round_up((uint64_t)state->dim[0], KEY_TILE);
  a.lanes = l->lanes;
  a.pieces = KEY_TILE / l->lanes;
  lower_begin(l, "attention.%lldx%lld.kv%lld%s", (long long)a.heads, (long long)a.size, (long long)a.kv_heads,
              a.n->attr.attention.window ? ".window" : "");
  a.q = lower_value(l, graph_in(l->g, v, 0), KA_READ);
  a.keys = lower_param(l, l->state_buffer[keys], 0, KE_f32, KA_READ, "keys");
  a.values = lower_param(l, l->state_buffer[values], 0, KE_f32, KA_READ, "values");
  a.out = lower_value(l, v, KA_WRITE);
  a.scratch = lower_scratch(l, (uint64_t)(ACC_AT + round_up((uint64_t)a.size, PAD)) * 4);
  where(&a, &t);
  lower_columns(l, a.size, clear_columns, &a);
  Finish f = {&a, walk_tiles(&a)};
  lower_columns(l, a.size, finish_columns, &f);
  lower_end(l, (uint64_t)a.heads * (lower_per_token(l, &t) ? 1 : (uint64_t)t.dim[0]), lower_per_token(l, &t),
            0, 0);
  return true;
}
