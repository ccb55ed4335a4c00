/* decoder.c - the decoder builder: one token stream through a stack of layers.
 *
 * A layer is a mixer and a feed-forward, each under a norm and added to the stream; which ones is
 * the layer's own choice (LayerHyper), so hybrid stacks need rows in `parts` and no other shape.
 * All tensors are bound and checked before (weights.c): nothing here can fail.
 *
 * Prefill stops where the last layer has written its states: what only feeds the head is not built. */
#include "frontend/arch/hyper.h"

#include <assert.h>
#include <math.h>

typedef struct {
  const Hyper *h;
  Module *m;
  Graph *g;
  Val tokens, pos;
  Val rope[2];      /* tables, by LayerHyper.rope; 0: not made yet */
  const char *from; /* place of the nodes that are being added */
} Decoder;

typedef struct {
  uint32_t index, first_state; /* in the module's states */
  const LayerHyper *h;
  const Tensors *t;
  bool states_only; /* nothing but this layer's states is wanted */
} Layer;

/* ---- nodes */

static Val emit(Decoder *d, Op op, const Val *in, uint32_t n_in, Attr attr, const Type *type)
{
  Val v = graph_add(d->g, op, in, n_in, attr, type);

  graph_node(d->g, v)->from = d->from;
  return v;
}

static Val emit1(Decoder *d, Op op, Val a)
{
  return emit(d, op, &a, 1, (Attr){0}, NULL);
}

static Val emit2(Decoder *d, Op op, Val a, Val b)
{
  return emit(d, op, (Val[]){a, b}, 2, (Attr){0}, NULL);
}

static Val constant(Decoder *d, double value)
{
  Type scalar = type_of(DT_F32, 0, NULL);

  return emit(d, OP_const, NULL, 0, (Attr){.value = value}, &scalar);
}

static Val weight(Decoder *d, Slot slot)
{
  return emit(d, OP_weight, NULL, 0, (Attr){.index = slot - 1}, &d->m->weights.data[slot - 1].type);
}

static Val reshape(Decoder *d, Val x, uint32_t rank, const int64_t *dim)
{
  Type t = type_of(graph_node(d->g, x)->type.dtype, rank, dim);

  return emit(d, OP_reshape, &x, 1, (Attr){0}, &t);
}

static void output(Decoder *d, Val x, const char *name)
{
  emit(d, OP_output, &x, 1, (Attr){.name = name}, NULL);
}

static void place(Decoder *d, const Layer *l, const char *what)
{
  d->from = arena_printf(d->m->arena, "blk.%u.%s", l->index, what);
}

/* ---- pieces that all layers are made of */

static Val norm(Decoder *d, Val x, Slot gain)
{
  if (!gain)
    return x;
  return emit(d, OP_rms_norm, (Val[]){x, weight(d, gain)}, 2, (Attr){.eps = d->h->norm_eps}, NULL);
}

static Val scaled(Decoder *d, Val x, const Linear *l)
{
  return l->scale ? emit2(d, OP_mul, x, weight(d, l->scale)) : x;
}

static Val linear(Decoder *d, Val x, const Linear *l)
{
  Val y = emit2(d, OP_linear, x, weight(d, l->weight));

  if (!l->scale_after_bias)
    y = scaled(d, y, l);
  if (l->bias)
    y = emit2(d, OP_add, y, weight(d, l->bias));
  return l->scale_after_bias ? scaled(d, y, l) : y;
}

/* ---- attention */

static Val rope_table(Decoder *d, const Layer *l)
{
  uint32_t i = l->h->rope;
  Type t = type_of(DT_F32, 3, (int64_t[]){d->g->tokens, 2, d->m->ropes.data[i].half});
  const char *from = d->from;

  if (!d->rope[i]) {
    d->from = "rope"; /* shared by all layers */
    d->rope[i] = emit(d, OP_rope_table, &d->pos, 1, (Attr){.rope = i}, &t);
    d->from = from;
  }
  return d->rope[i];
}

static Val heads(Decoder *d, Val x, uint32_t n_head)
{
  return reshape(d, x, 3, (int64_t[]){d->g->tokens, n_head, d->h->head_size});
}

static Val rotated(Decoder *d, const Layer *l, Val x)
{
  Attr style = {.interleaved = d->h->family->rope == STYLE_INTERLEAVED};

  return emit(d, OP_rope, (Val[]){x, rope_table(d, l)}, 2, style, NULL);
}

/* A layer with a window keeps as many slots as the window and one tile of the prompt need. */
static void attention_states(Module *m, const Hyper *h, uint32_t i)
{
  int64_t window = h->layer[i].window, tile = h->prefill_tokens ? h->prefill_tokens : 1;
  int64_t slots = window ? min64(h->context, window + tile - 1) : h->context;
  Type t = type_of(h->kv, 3, (int64_t[]){slots, h->layer[i].n_kv_head, h->head_size});

  *PUSH(m->arena, m->states) = (State){arena_printf(m->arena, "k.%u", i), t};
  *PUSH(m->arena, m->states) = (State){arena_printf(m->arena, "v.%u", i), t};
}

static Val updated(Decoder *d, uint32_t state, Val value)
{
  Val old = emit(d, OP_state, NULL, 0, (Attr){.index = state}, &d->m->states.data[state].type);

  return emit(d, OP_update, (Val[]){old, value, d->pos}, 3, (Attr){0}, NULL);
}

static Val attention_scores(Decoder *d, const Layer *l, Val q, Val k, Val v)
{
  Attr a = {.attention = {.scale = (float)d->h->attention_scale, .window = l->h->window}};
  int64_t width = (int64_t)l->h->n_head * d->h->head_size;

  place(d, l, "attention");
  Val y = emit(d, OP_attention, (Val[]){q, k, v, d->pos}, 4, a, NULL);
  return reshape(d, y, 2, (int64_t[]){d->g->tokens, width});
}

static Val attention(Decoder *d, const Layer *l, Val x)
{
  const Tensors *t = l->t;
  uint32_t k_state = l->first_state, v_state = k_state + 1;
  Val q = 0;

  if (!l->states_only) {
    place(d, l, "attn_q");
    q = norm(d, heads(d, linear(d, x, &t->q), l->h->n_head), t->q_norm);
    q = rotated(d, l, q);
  }
  place(d, l, "attn_k");
  Val k = norm(d, heads(d, linear(d, x, &t->k), l->h->n_kv_head), t->k_norm);
  k = updated(d, k_state, rotated(d, l, k));
  place(d, l, "attn_v");
  Val v = updated(d, v_state, heads(d, linear(d, x, &t->v), l->h->n_kv_head));
  if (l->states_only) {
    output(d, k, d->m->states.data[k_state].name);
    output(d, v, d->m->states.data[v_state].name);
    return 0;
  }
  Val y = attention_scores(d, l, q, k, v);
  place(d, l, "attn_output");
  return linear(d, y, &t->mix_out);
}

/* ---- feed-forward: down(act(gate x) * up x) */

static Val gated(Decoder *d, const Layer *l, Val x)
{
  place(d, l, "ffn_gate");
  Val gate = emit1(d, d->h->family->act, linear(d, x, &l->t->gate));
  place(d, l, "ffn_up");
  Val up = linear(d, x, &l->t->up);
  Val y = emit2(d, OP_mul, gate, up);
  place(d, l, "ffn_down");
  return linear(d, y, &l->t->down);
}

/* ---- the stack */

/* What a layer can be made of. A mixer may keep states; its build() gives 0 if only they are wanted. */
static const struct {
  Val (*build)(Decoder *, const Layer *, Val);
  void (*add_states)(Module *, const Hyper *, uint32_t layer);
} parts[] = {
    [PART_attention] = {attention, attention_states},
    [PART_gated] = {gated, NULL},
};

static Val layer(Decoder *d, const Layer *l, Val x)
{
  place(d, l, "attn_norm");
  Val y = parts[l->h->mixer].build(d, l, norm(d, x, l->t->mix_norm));
  if (l->states_only)
    return 0;
  place(d, l, "attn_post");
  x = emit2(d, OP_add, x, norm(d, y, l->t->mix_post));
  place(d, l, "ffn_norm");
  y = parts[l->h->ffn].build(d, l, norm(d, x, l->t->ffn_norm));
  place(d, l, "ffn_post");
  return emit2(d, OP_add, x, norm(d, y, l->t->ffn_post));
}

static Val embedded(Decoder *d, const Tensors *t)
{
  d->from = "token_embd";
  Val x = emit2(d, OP_embed, d->tokens, weight(d, t->embed.weight));
  x = scaled(d, x, &t->embed);
  if (d->h->family->embed == EMBED_SQRT_WIDTH)
    x = emit2(d, OP_mul, x, constant(d, (double)sqrtf((float)d->h->width)));
  return x;
}

static void head(Decoder *d, const Tensors *t, Val x)
{
  d->from = "output_norm";
  x = norm(d, x, t->out_norm);
  d->from = "output";
  x = linear(d, x, t->head.weight ? &t->head : &t->embed);
  if (d->h->logit_cap != 0) {
    x = emit1(d, OP_tanh, emit2(d, OP_div, x, constant(d, d->h->logit_cap)));
    x = emit2(d, OP_mul, x, constant(d, d->h->logit_cap));
  }
  output(d, x, "logits");
}

static void build_graph(Module *m, const Hyper *h, const Tensors *model, const Tensors *layers,
                        const uint32_t *first_state, const char *name, uint32_t n_tokens, bool with_head)
{
  Decoder d = {.h = h, .m = m, .g = graph_new(m, name, n_tokens)};
  Type tokens = type_of(DT_I32, 1, (int64_t[]){n_tokens}), pos = type_of(DT_I32, 0, NULL);

  d.tokens = emit(&d, OP_input, NULL, 0, (Attr){.name = "tokens"}, &tokens);
  d.pos = emit(&d, OP_input, NULL, 0, (Attr){.name = "pos"}, &pos);
  Val x = embedded(&d, model);
  for (uint32_t i = 0; i < h->n_layer; i++) {
    Layer l = {i, first_state[i], &h->layer[i], &layers[i], !with_head && i == h->n_layer - 1};
    x = layer(&d, &l, x);
  }
  if (with_head)
    head(&d, model, x);
}

void decoder_build(Module *out, const Hyper *h, const Tensors *model, const Tensors *layers)
{
  uint32_t *first_state = NEW_ARRAY(out->arena, uint32_t, h->n_layer);

  for (uint32_t i = 0; i < h->n_layer; i++) {
    first_state[i] = out->states.len;
    if (parts[h->layer[i].mixer].add_states)
      parts[h->layer[i].mixer].add_states(out, h, i);
  }
  out->context = h->context;
  build_graph(out, h, model, layers, first_state, "decode", 1, true);
  if (h->prefill_tokens)
    build_graph(out, h, model, layers, first_state, "prefill", h->prefill_tokens, false);
}
