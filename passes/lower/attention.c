/* attention.c - attention over the cache, with a streaming softmax.
 *
 * One grid iteration makes a few heads of one token, those that share keys and values, so that each of these is
 * loaded once; for one section of the positions. A second launch puts the sections' results together. An iteration
 * walks the positions in tiles of four vectors, counted from position 0 whatever the window; every sum of a head is made
 * in the same order however many heads go together. So prefill and decode give the same bits. Keys of a tile are
 * stored transposed ([size][tile]): scores are vectors whose lanes are positions. Of prompts an iteration makes the
 * heads of several tokens, all sections: attention_prompt.c.
 *
 * States of layers with windows are rings: tile t of the positions is tile t mod (slots / tile) of the state. */
#include "passes/lower/attention.h"

#include <assert.h>

#include "runtime-min/mi_image.h" /* MI_SECTION */

enum { MAX_HEADS = 7, MAX_CHUNK = 8 };

static KVal mul(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_mul, a, b);
}

/* Of the next tile, since no cache keeps a context of all layers: `n` elements from `at` (idx) on. Less than a line would be asked
 * for again and again. */
static void prefetch_next_tile(const Attention *a, uint16_t state, KVal at, int64_t n)
{
  Kernel *k = a->l->k;

  if (n * kelem_info[a->elem].bytes >= CACHE_LINE)
    lower_prefetch(a->l, state, idx_add(k, idx_add(k, a->at, a->next), at), 0, n);
}

/* Sums of `vecs` vectors for each query, a number of each, and one vector of keys or values. */
static unsigned registers_for(unsigned queries, unsigned vecs)
{
  return queries * (vecs + 1) + 1;
}

/* Where registers are just enough, the order that is written must stay. */
static void pin_if_tight(const Attention *a, unsigned vecs, KVal *sum)
{
  if (registers_for(a->together, vecs) >= a->l->target->registers)
    *sum = k_op1(a->l->k, K_pin, *sum);
}

/* ---- scores */

typedef struct {
  KVal v[MAX_HEADS][KEY_VECTORS];
} Scores;

/* Adds column d + u of the queries times that of the keys. The queries wait in registers, not the keys. */
static void score_column(const Attention *a, KVal at, KVal d, unsigned u, Scores *s)
{
  Kernel *k = a->l->k;
  KVal q[MAX_HEADS];

  for (unsigned h = 0; h < a->together; h++)
    q[h] = attention_number(a, a->q, a->lanes, idx_add(k, a->q_at, d), h * a->size + u);
  for (unsigned i = 0; i < a->vecs; i++) {
    KVal key = attention_load(a, a->keys, a->lanes, at, u * a->tile + i * a->lanes);
    for (unsigned h = 0; h < a->together; h++)
      s->v[h][i] = k_fma(k, key, q[h], s->v[h][i]);
    for (unsigned h = 0; h < a->together; h++)
      pin_if_tight(a, a->vecs, &s->v[h][i]);
  }
}

static void carry_scores(const Attention *a, const Scores *first, Scores *s)
{
  for (unsigned h = 0; h < a->together; h++)
    for (unsigned i = 0; i < a->vecs; i++)
      s->v[h][i] = k_carry(a->l->k, first->v[h][i]);
}

static void end_scores(const Attention *a, const Scores *s)
{
  KVal next[MAX_HEADS * KEY_VECTORS];
  uint32_t n = 0;

  for (unsigned h = 0; h < a->together; h++)
    for (unsigned i = 0; i < a->vecs; i++)
      next[n++] = s->v[h][i];
  k_end(a->l->k, next, n);
}

/* Columns from .. from + count of the queries and of the keys of the positions from `slot` (idx) of the tile on. */
static void score_columns(const Attention *a, KVal slot, KVal from, int64_t count, const Scores *zero,
                          Scores *out)
{
  Kernel *k = a->l->k;
  int64_t whole = count / a->unroll * a->unroll;
  KVal d = k_loop(k, k_idx(k, 0), k_idx(k, whole), a->unroll);
  Scores body;

  carry_scores(a, zero, out);
  body = *out;
  d = idx_add(k, from, d);
  KVal first = idx_add(k, a->at, slot), at = idx_add(k, first, idx_mul(k, d, a->tile));
  int64_t each = a->vecs * a->lanes; /* of all columns as many as there are of this one */
  prefetch_next_tile(a, a->keys, idx_add(k, idx_mul(k, slot, a->size), idx_mul(k, d, each)),
                     a->unroll * each);
  for (unsigned u = 0; u < a->unroll; u++)
    score_column(a, at, d, u, &body);
  end_scores(a, &body);
  for (unsigned u = 0; u < count - whole; u++)
    score_column(a, idx_add(k, first, k_idx(k, whole * a->tile)), k_idx(k, whole), u, out);
}

/* q8_0: each 32 columns have scales of their own. */
static void score_blocks(const Attention *a, KVal slot, const Scores *zero, Scores *out)
{
  Kernel *k = a->l->k;
  KVal b = k_loop(k, k_idx(k, 0), k_idx(k, a->size / QBLOCK), 1);
  Scores part, body;

  carry_scores(a, zero, out);
  score_columns(a, slot, idx_mul(k, b, QBLOCK), QBLOCK, zero, &part);
  KVal at = idx_add(k, idx_add(k, a->scales_at, slot), idx_mul(k, b, a->tile));
  for (unsigned i = 0; i < a->vecs; i++) {
    KVal scale = k_cast(k, KE_f32, k_load(k, ktype(KE_f16, a->lanes), a->key_scales, at, i * a->lanes));
    for (unsigned h = 0; h < a->together; h++)
      body.v[h][i] = k_fma(k, part.v[h][i], scale, out->v[h][i]);
  }
  end_scores(a, &body);
}

/* q . k for the positions of a tile, to scratch. */
static void scores(const Attention *a)
{
  Kernel *k = a->l->k;
  KVal none = k_flt(k, a->lanes, 0.0), slot = k_idx(k, 0);
  bool parts = a->vecs < KEY_VECTORS;
  Scores zero, sum;

  for (unsigned h = 0; h < a->together; h++)
    for (unsigned i = 0; i < a->vecs; i++)
      zero.v[h][i] = none;
  if (parts)
    slot = k_loop(k, slot, k_idx(k, a->tile), a->vecs * a->lanes);
  if (a->blocks)
    score_blocks(a, slot, &zero, &sum);
  else
    score_columns(a, slot, k_idx(k, 0), a->size, &zero, &sum);
  for (unsigned h = 0; h < a->together; h++)
    for (unsigned i = 0; i < a->vecs; i++)
      k_store(k, a->scratch, slot, attention_probs_at(a, h) + i * a->lanes, sum.v[h][i]);
  if (parts)
    k_end(k, NULL, 0);
}

/* ---- values */

typedef struct {
  KVal v[MAX_HEADS][MAX_CHUNK];
} Accs;

/* The value at columns off .. of row s + u; `scales` is where the scales of the tile's rows start, at these columns. */
static KVal one_value(const Attention *a, KVal row, KVal scales, unsigned u, int64_t off, unsigned lanes)
{
  Kernel *k = a->l->k;
  KVal v = attention_load(a, a->values, lanes, row, u * a->size + off);

  if (!a->blocks)
    return v;
  KVal scale = k_load(k, ktype(KE_f16, 1), a->value_scales, scales, u * (a->size / QBLOCK) + off / QBLOCK);
  return mul(k, v, k_splat(k, ktype(KE_f32, lanes), k_cast(k, KE_f32, scale)));
}

/* Adds a few value rows, from position `s` of the tile on, each times its probability. */
static void value_rows(const Attention *a, KVal j, KVal scales, KVal s, int64_t off, unsigned chunk,
                       unsigned lanes, Accs *acc)
{
  Kernel *k = a->l->k;
  KVal row = idx_add(k, idx_add(k, a->at, j), idx_mul(k, s, a->size));
  int64_t each = chunk * lanes; /* of all rows as many as there are of these columns */

  scales = a->blocks ? idx_add(k, scales, idx_mul(k, s, a->size / QBLOCK)) : 0;
  KVal columns = idx_mul(k, idx_add(k, j, k_idx(k, off)), a->tile);
  prefetch_next_tile(a, a->values, idx_add(k, columns, idx_mul(k, s, each)), a->unroll * each);
  for (unsigned u = 0; u < a->unroll; u++) {
    KVal p[MAX_HEADS];
    for (unsigned h = 0; h < a->together; h++)
      p[h] = attention_number(a, a->scratch, lanes, s, attention_probs_at(a, h) + u);
    for (unsigned c = 0; c < chunk; c++) {
      KVal v = one_value(a, row, scales, u, off + c * lanes, lanes);
      for (unsigned h = 0; h < a->together; h++)
        acc->v[h][c] = k_fma(k, v, p[h], acc->v[h][c]);
      for (unsigned h = 0; h < a->together; h++)
        pin_if_tight(a, chunk, &acc->v[h][c]);
    }
  }
}

/* Adds the tile's first `rows` value rows to `chunk` vectors of every head's result. */
static void add_values(const Attention *a, KVal rows, KVal j, int64_t off, unsigned chunk, unsigned lanes)
{
  Kernel *k = a->l->k;
  KType t = ktype(KE_f32, lanes);
  KVal next[MAX_HEADS * MAX_CHUNK];
  KVal scales = 0, results = idx_add(k, a->section.at, j);
  uint32_t n = 0;
  Accs first, acc, body;

  for (unsigned h = 0; h < a->together; h++)
    for (unsigned c = 0; c < chunk; c++) {
      KVal old = k_load(k, t, a->section.buf, results, attention_acc_at(a, h) + off + c * lanes);
      first.v[h][c] =
          mul(k, old,
              attention_number(a, a->scratch, lanes, k_idx(k, 0), attention_number_at(a, NUM_FACTOR) + h));
    }
  if (a->blocks) /* columns go by whole blocks */
    scales = idx_add(k, a->scales_at, k_op2(k, K_div, j, k_idx(k, QBLOCK)));
  KVal s = k_loop(k, k_idx(k, 0), rows, a->unroll);
  for (unsigned h = 0; h < a->together; h++)
    for (unsigned c = 0; c < chunk; c++)
      acc.v[h][c] = k_carry(k, first.v[h][c]);
  body = acc;
  value_rows(a, j, scales, s, off, chunk, lanes, &body);
  for (unsigned h = 0; h < a->together; h++)
    for (unsigned c = 0; c < chunk; c++)
      next[n++] = body.v[h][c];
  k_end(k, next, n);
  for (unsigned h = 0; h < a->together; h++)
    for (unsigned c = 0; c < chunk; c++)
      k_store(k, a->section.buf, results, attention_acc_at(a, h) + off + c * lanes, acc.v[h][c]);
}

typedef struct {
  Attention *a;
  KVal rows;
  int64_t from;
} Values;

static void value_columns(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  Values *v = ctx;
  (void)l;
  add_values(v->a, v->rows, j, v->from + off, 1, lanes);
}

/* Whole steps of `chunk` vectors from column `from` on; returns where they end. */
static int64_t value_steps(Attention *a, KVal rows, int64_t from, unsigned chunk)
{
  Kernel *k = a->l->k;
  int64_t step = chunk * a->lanes, end = from + (a->size - from) / step * step;

  if (end > from) {
    KVal j = k_loop(k, k_idx(k, from), k_idx(k, end), step);
    add_values(a, rows, j, 0, chunk, a->lanes);
    k_end(k, NULL, 0);
  }
  return end;
}

/* As many vectors of a row of values at once as there are registers for; for q8_0 whole blocks. Somewhat fewer, if that leaves
 * no rest. */
static unsigned chunk_for(const Attention *a)
{
  unsigned most = MAX_CHUNK, all = (unsigned)min64(a->size / a->lanes, MAX_CHUNK), block = QBLOCK / a->lanes;

  while (most > 1 && (most > all || registers_for(a->together, most) > a->l->target->registers))
    most--;
  if (a->blocks)
    return most > block ? most / block * block : block;
  for (unsigned n = most; 2 * n > most; n--)
    if (a->size % (n * a->lanes) == 0)
      return n;
  return most;
}

static void all_values(Attention *a, KVal rows)
{
  int64_t done = value_steps(a, rows, 0, chunk_for(a));

  if (a->blocks)
    done = value_steps(a, rows, done, QBLOCK / a->lanes);
  Values rest = {a, rows, done};
  lower_columns(a->l, a->size - done, value_columns, &rest);
}

/* ---- the kernel */

static uint32_t state_of(const Lower *l, Val v)
{
  v = lower_base(l, v);
  while (graph_node(l->g, v)->op == OP_update)
    v = lower_base(l, graph_in(l->g, v, 0));
  return graph_node(l->g, v)->attr.index;
}

/* How many vectors of keys go at once with so many heads; 0: not even one. q8_0: sums of a block beside those of all. */
static unsigned keys_at_once(const Attention *a, unsigned heads)
{
  unsigned vecs = KEY_VECTORS, sums = a->blocks ? 2 : 1;

  while (vecs && registers_for(heads, vecs * sums) > a->l->target->registers)
    vecs /= 2;
  return vecs;
}

/* As many heads of a group as registers hold. */
static unsigned heads_together(const Attention *a)
{
  int64_t group = a->heads / a->kv_heads;

  for (unsigned n = MAX_HEADS; n > 1; n--)
    if (group % n == 0 && keys_at_once(a, n))
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

/* Where the queries of item `item` of a token are, and their results. */
static void find_queries(Attention *a, KVal item, KVal token)
{
  Kernel *k = a->l->k;
  KVal head = idx_mul(k, item, a->together / a->tokens);

  a->kv_head = k_op2(k, K_div, head, k_idx(k, a->heads / a->kv_heads));
  a->q_at = idx_add(k, idx_mul(k, token, a->stride), idx_mul(k, head, a->size));
  if (a->quantised)
    a->block = idx_add(k, idx_mul(k, token, a->heads * a->size / QBLOCK), idx_mul(k, head, a->size / QBLOCK));
}

/* The positions that a token sees, and where they are in the states. */
static void find_positions(Attention *a, KVal token)
{
  Kernel *k = a->l->k;

  a->tiles = k_idx(k, a->slots / a->tile);
  a->group = k_idx(k, a->group_bytes / kelem_info[a->elem].bytes);
  if (a->blocks)
    a->scales_group = k_idx(k, a->group_bytes / kelem_info[KE_f16].bytes);
  a->last = a->pos = idx_add(k, k_arg(k, 0), token);
  a->low = k_idx(k, 0);
  if (a->rings) {
    a->reach = k_idx(k, seen_most(a) - 1);
    a->low = k_op2(k, K_max, a->low, k_op2(k, K_sub, a->pos, a->reach));
  }
}

/* For one token, and one section of it. */
static uint64_t iterations(const Attention *a)
{
  return (uint64_t)a->heads / a->together;
}

static const char *name_of(const Attention *a)
{
  return a->n->from ? a->n->from : "attention";
}

/* Where the results of a token's sections lie: of an iteration's heads one section after the other. */
static uint32_t sections_buffer(const Attention *a)
{
  Program *p = a->l->prog;
  uint64_t all = (p->context + MI_SECTION - 1) / MI_SECTION,
           seen = ((uint64_t)seen_most(a) + MI_SECTION - 2) / MI_SECTION + 1;
  uint32_t b = program_buffer(p, SPACE_ARENA, arena_printf(a->l->arena, "%s.sections", name_of(a)),
                              iterations(a) * (seen < all ? seen : all) * (uint64_t)attention_results(a) *
                                  sizeof(float));

  p->buffers.data[b].entry = a->l->entry;
  return b;
}

/* idx: where the results of section `i`, counted from the first that is seen, are. */
static KVal section_at(const Attention *a, KVal i)
{
  return idx_mul(a->l->k, i, attention_results(a));
}

/* A grid iteration: a few heads of one token, of one section that it sees. */
static uint64_t one_section(Attention *a, uint32_t sections)
{
  Kernel *k = a->l->k;
  KVal i = k_grid(k), queries = k_idx(k, a->together);

  find_positions(a, k_idx(k, 0));
  KVal first = attention_first_section(a), count = k_op2(k, K_sub, attention_end_section(a), first);
  find_queries(a, k_op2(k, K_div, i, count), k_idx(k, 0));
  a->section_no = idx_add(k, first, k_op2(k, K_rem, i, count));
  a->scratch = lower_scratch(a->l, (uint64_t)attention_scratch(a) * sizeof(float));
  a->section = (Results){lower_param(a->l, sections, 0, KE_f32, KA_BOTH, "sections"), section_at(a, i)};
  attention_clear(a, queries);
  KVal tile = attention_tiles(a);
  scores(a);
  attention_softmax(a, tile, queries);
  all_values(a, attention_rows(a, tile));
  k_end(k, NULL, 0);
  return iterations(a);
}

/* A grid iteration: a few heads of one token, from the results of its sections. */
static uint64_t all_sections(Attention *a, uint32_t sections)
{
  Kernel *k = a->l->k;
  KVal i = k_grid(k), queries = k_idx(k, a->together);

  find_positions(a, k_idx(k, 0));
  find_queries(a, i, k_idx(k, 0));
  a->scratch = lower_scratch(a->l, (uint64_t)(attention_scratch(a) + attention_results(a)) * sizeof(float));
  a->section = (Results){lower_param(a->l, sections, 0, KE_f32, KA_READ, "sections"), 0};
  a->all = (Results){a->scratch, k_idx(k, attention_scratch(a))};
  attention_clear(a, queries);
  KVal count = k_op2(k, K_sub, attention_end_section(a), attention_first_section(a));
  KVal s = k_loop(k, k_idx(k, 0), count, 1);
  a->section.at = section_at(a, idx_add(k, k_op2(k, K_mul, i, count), s));
  attention_merge(a, queries);
  k_end(k, NULL, 0);
  attention_finish(a, queries);
  return iterations(a);
}

/* A grid iteration: the heads of one key/value head, of several tokens; fewer, or none, where the call ends. */
static uint64_t several_tokens(Attention *a)
{
  Kernel *k = a->l->k;
  int64_t tiles = (a->l->g->tokens + a->tokens - 1) / a->tokens;
  KVal i = k_grid(k), token = idx_mul(k, k_op2(k, K_rem, i, k_idx(k, tiles)), a->tokens);
  KVal left = k_op2(k, K_sub, k_arg(k, 1), token);

  k_if(k, k_op2(k, K_lt, k_idx(k, 0), left));
  find_positions(a, token);
  find_queries(a, k_op2(k, K_div, i, k_idx(k, tiles)), token);
  left = k_op2(k, K_min, left, k_idx(k, a->tokens));
  a->last = k_op2(k, K_sub, idx_add(k, a->pos, left), k_idx(k, 1));
  attention_prompt(a, left);
  k_end(k, NULL, 0);
  return (uint64_t)(tiles * a->kv_heads);
}

static void open_states(Attention *a, const Type *state)
{
  Lower *l = a->l;
  uint32_t keys = l->state_buffer[state_of(l, graph_in(l->g, a->v, 1))],
           values = l->state_buffer[state_of(l, graph_in(l->g, a->v, 2))];

  a->keys = lower_param(l, keys, 0, a->elem, KA_READ, "keys");
  a->values = lower_param(l, values, 0, a->elem, KA_READ, "values");
  assert(l->state_stride[state_of(l, graph_in(l->g, a->v, 2))] == (uint64_t)a->group_bytes);
  if (!a->blocks)
    return;
  a->key_scales = lower_param(l, keys, lower_state_scales(state), KE_f16, KA_READ, "kscales");
  a->value_scales = lower_param(l, values, lower_state_scales(state), KE_f16, KA_READ, "vscales");
}

static void open_results(Attention *a)
{
  if (a->stored)
    a->out = lower_value(a->l, a->v, KA_WRITE);
}

static void begin(const Attention *a, const char *what)
{
  lower_begin(a->l, "attention%s.%lldx%lld.kv%lld.%s", what, (long long)a->heads, (long long)a->size,
              (long long)a->kv_heads, kelem_info[a->elem].name);
}

/* Each position that is seen costs so many bytes and multiply-adds more. */
static Part *end(const Attention *a, uint64_t grid, uint64_t bytes, uint64_t ops)
{
  Part *part = lower_end(a->l, grid, false, bytes, ops);
  part->span = (uint32_t)seen_most(a);
  return part;
}

static void lower_prompt(Attention *a, const Type *state, uint64_t bytes, uint64_t ops)
{
  begin(a, "");
  a->q = lower_value(a->l, graph_in(a->l->g, a->v, 0), KA_READ);
  open_states(a, state);
  open_results(a);
  end(a, several_tokens(a), bytes, ops);
}

static void lower_sections(Attention *a, const Type *state, uint64_t bytes, uint64_t ops)
{
  Lower *l = a->l;
  uint32_t sections = sections_buffer(a);

  begin(a, "");
  a->q = lower_value(l, graph_in(l->g, a->v, 0), KA_READ);
  open_states(a, state);
  end(a, one_section(a, sections), bytes, ops)->times = TIMES_SECTIONS;
  lower_barrier(l, l->name);
  l->name = arena_printf(l->arena, "%s merge", name_of(a));
  begin(a, ".merge");
  open_results(a);
  end(a, all_sections(a, sections), 0, ops / MI_SECTION + 1);
}

bool lower_attention(Lower *l, const Val *nodes, uint32_t n)
{
  Val v = nodes[0];
  const Type t = graph_node(l->g, v)->type; /* [T, heads, size] */
  const Type *state = &l->prog->module->states.data[state_of(l, graph_in(l->g, v, 1))].type;
  Attention a = {.l = l,
                 .v = v,
                 .n = graph_node(l->g, v),
                 .heads = t.dim[1],
                 .size = t.dim[2],
                 .kv_heads = state->dim[1]};

  assert(n <= 2);
  a.stored = l->outside[v];
  a.quantised = n > 1 ? nodes[1] : 0;
  a.stride = lower_stride(&t);
  a.slots = lower_slots(l, state);
  a.group_bytes = (int64_t)l->state_stride[state_of(l, graph_in(l->g, v, 1))];
  a.elem = lower_state_elem(state);
  a.blocks = state->dtype == DT_Q8_0;
  a.lanes = l->lanes;
  a.tile = l->key_tile;
  a.rings = has_windows(l->g);
  uint64_t bytes = 2 * (uint64_t)(a.kv_heads * a.size) * kelem_info[a.elem].bytes,
           ops = 2 * (uint64_t)(a.heads * a.size);
  if (lower_per_token(l, &t)) {
    a.tokens = attention_prompt_tokens(&a);
    a.together = a.tokens * (unsigned)(a.heads / a.kv_heads);
    lower_prompt(&a, state, bytes, ops);
  } else {
    assert(t.dim[0] == 1);
    a.tokens = 1;
    a.together = heads_together(&a);
    a.vecs = keys_at_once(&a, a.together);
    a.unroll = a.elem == KE_f16 && !l->target->f16c ? 1 /* a conversion is long code */
               : a.vecs == 1                        ? SLOTS
                             : ATTENTION_UNROLL; /* a line at least, so that it is prefetched */
    lower_sections(&a, state, bytes, ops);
  }
  return true;
}
