/* graph_gen.c - see graph_gen.h. The decoder comes from frontend/arch itself, with random rows and
 * hyper-parameters in place of a file's, so what is tested is what is compiled. */
#include "tests/unit/support/graph_gen.h"

#include "frontend/arch/hyper.h"

#include <math.h>

/* ---- random numbers */

uint64_t rng_next(Rng *r)
{
  uint64_t z = r->state += 0x9e3779b97f4a7c15u;

  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

uint32_t rng_below(Rng *r, uint32_t n)
{
  return (uint32_t)((rng_next(r) >> 32) * n >> 32);
}

double rng_normal(Rng *r)
{
  double s = 0; /* sums only: no libm function that differs between machines */

  for (int i = 0; i < 12; i++)
    s += (double)(rng_next(r) >> 11) * 0x1p-53;
  return s - 6;
}

/* ---- weights */

/* Where a block's float fields are, and by how much codes (and K scales) multiply them. */
static const struct {
  DType type;
  uint32_t d, min; /* byte offsets; 0xffff: none */
  double range;
} block_fields[] = {
    {DT_Q4_0, 0, 0xffff, 8},   {DT_Q4_1, 0, 2, 15},
    {DT_Q5_0, 0, 0xffff, 16},  {DT_Q5_1, 0, 2, 31},
    {DT_Q8_0, 0, 0xffff, 127}, {DT_Q4_K, 0, 2, 15 * 32},
    {DT_Q5_K, 0, 2, 31 * 32},  {DT_Q6_K, 208, 0xffff, 32 * 64},
    {DT_TQ2_0, 64, 0xffff, 2},
};

static void put_f16(uint8_t *p, double v)
{
  uint16_t h = f32_to_f16((float)v);

  memcpy(p, &h, sizeof h);
}

/* Every code and integer scale is random; the float fields are set so that values are of `scale`. */
static void fill_blocks(Rng *r, uint8_t *p, const Weight *w, double scale)
{
  uint32_t bytes = dtype_info[w->type.dtype].bytes, f = 0;

  for (uint64_t i = 0; i < w->bytes; i++)
    p[i] = (uint8_t)rng_next(r);
  while (block_fields[f].type != w->type.dtype)
    f++;
  for (uint64_t at = 0; at < w->bytes; at += bytes) {
    put_f16(p + at + block_fields[f].d, scale * (1 + 0.2 * rng_normal(r)) / block_fields[f].range);
    if (block_fields[f].min != 0xffff) /* q4_1, q5_1 add it once; K types subtract it up to 63 times */
      put_f16(p + at + block_fields[f].min,
              w->type.dtype == DT_Q4_1 || w->type.dtype == DT_Q5_1 ? -scale / 2 : scale / 64);
  }
}

static void fill_floats(Rng *r, uint8_t *p, const Weight *w, double scale)
{
  for (uint64_t i = 0; i < w->bytes / dtype_info[w->type.dtype].bytes; i++) {
    float v = (float)(scale * rng_normal(r));
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    if (w->type.dtype == DT_F32)
      memcpy(p + 4 * i, &v, 4);
    else if (w->type.dtype == DT_F16)
      put_f16(p + 2 * i, (double)v);
    else
      memcpy(p + 2 * i, (uint8_t *)&bits + 2, 2); /* bf16: the upper half, little-endian */
  }
}

void gen_weight(Arena *a, Rng *r, Weight *w, double scale)
{
  w->bytes = dtype_bytes(w->type.dtype, (uint64_t)type_count(&w->type));
  uint8_t *p = arena_alloc(a, w->bytes);

  if (dtype_info[w->type.dtype].kind == DK_BLOCK)
    fill_blocks(r, p, w, scale);
  else
    fill_floats(r, p, w, scale);
  w->data = p;
}

/* Matrices keep the size of what they multiply; vectors are gains or biases. */
void gen_weights(Arena *a, Rng *r, Module *m)
{
  for (uint32_t i = 0; i < m->weights.len; i++) {
    Weight *w = &m->weights.data[i];
    gen_weight(a, r, w, w->type.rank == 2 ? 1.5 / sqrt((double)type_last(&w->type)) : 0.7);
  }
}

/* ---- inputs, states, outputs */

static Array new_array(Arena *a, int64_t n)
{
  return (Array){NEW_ARRAY(a, float, (size_t)n), n};
}

static void fill_normal(Rng *r, Array *x)
{
  for (int64_t i = 0; i < x->count; i++)
    x->data[i] = (float)rng_normal(r);
}

static uint32_t count_ops(const Graph *g, Op op)
{
  uint32_t n = 0;

  for (Val v = 1; v < g->nodes.len; v++)
    n += graph_node(g, v)->op == op;
  return n;
}

Array *gen_inputs(Arena *a, Rng *r, const Graph *g, int64_t pos, uint32_t id_limit)
{
  Array *in = NEW_ARRAY(a, Array, count_ops(g, OP_input) + 1);
  uint32_t n = 0;

  for (Val v = 1; v < g->nodes.len; v++) {
    const Node *node = graph_node(g, v);
    if (node->op != OP_input)
      continue;
    in[n] = new_array(a, type_count(&node->type));
    if (node->type.dtype == DT_F32)
      fill_normal(r, &in[n]);
    else
      for (int64_t i = 0; i < in[n].count; i++)
        in[n].data[i] = node->type.rank == 0 ? (float)pos : (float)rng_below(r, id_limit);
    n++;
  }
  return in;
}

Array *gen_states(Arena *a, Rng *r, const Module *m)
{
  Array *s = NEW_ARRAY(a, Array, m->states.len + 1);

  for (uint32_t i = 0; i < m->states.len; i++) {
    s[i] = new_array(a, type_count(&m->states.data[i].type));
    fill_normal(r, &s[i]);
  }
  return s;
}

Array *gen_outputs(Arena *a, const Graph *g)
{
  return NEW_ARRAY(a, Array, count_ops(g, OP_output) + 1);
}

static double difference(double got, double want)
{
  if (got == want || (isnan(got) && isnan(want)))
    return 0;
  return isfinite(got) && isfinite(want) ? fabs(got - want) : INFINITY;
}

double gen_error(const Array *got, const Array *want)
{
  double worst = 0, largest = 1e-30;

  if (got->count != want->count)
    return INFINITY;
  for (int64_t i = 0; i < want->count; i++) {
    worst = fmax(worst, difference((double)got->data[i], (double)want->data[i]));
    if (isfinite(want->data[i]))
      largest = fmax(largest, fabs((double)want->data[i]));
  }
  return worst / largest;
}

/* ---- a decoder */

typedef struct {
  Arena *a;
  Rng rng;
  Module *m;
  const DecoderOptions *opt;
} Gen;

static bool chance(Gen *g, uint32_t one_in)
{
  return rng_below(&g->rng, one_in) == 0;
}

static uint32_t pick(Gen *g, const uint32_t *from, uint32_t n)
{
  return from[rng_below(&g->rng, n)];
}
#define PICK(g, ...) pick(g, (const uint32_t[]){__VA_ARGS__}, COUNT(((const uint32_t[]){__VA_ARGS__})))

static Slot add_weight(Gen *g, const char *name, DType t, uint32_t rank, uint32_t rows, uint32_t cols)
{
  const char *unique = arena_printf(g->a, "%s.%u", name, g->m->weights.len);
  Type type = type_of(t, rank, rank == 2 ? (int64_t[]){rows, cols} : (int64_t[]){cols});

  *PUSH(g->a, g->m->weights) = (Weight){.name = unique, .type = type};
  return g->m->weights.len;
}

static DType matrix_type(Gen *g, uint32_t cols)
{
  DType t = (DType)g->opt->weights;

  while (g->opt->weights < 0) {
    t = (DType)rng_below(&g->rng, DT_Q8A + 1); /* the rest is for dense graphs */
    if ((dtype_info[t].kind == DK_FLOAT || dtype_info[t].kind == DK_BLOCK) && cols % dtype_info[t].block == 0)
      break;
  }
  return t;
}

static Linear gen_linear(Gen *g, const char *name, uint32_t rows, uint32_t cols)
{
  Linear l = {.weight = add_weight(g, name, matrix_type(g, cols), 2, rows, cols)};

  if (chance(g, 3))
    l.bias = add_weight(g, "bias", DT_F32, 1, 0, rows);
  if (chance(g, 8))
    l.scale = add_weight(g, "scale", DT_F32, 1, 0, 1);
  l.scale_after_bias = chance(g, 2);
  return l;
}

static Slot gen_gain(Gen *g, uint32_t one_in, uint32_t cols)
{
  return chance(g, one_in) ? add_weight(g, "gain", DT_F32, 1, 0, cols) : 0;
}

static Tensors gen_layer(Gen *g, const Hyper *h, const LayerHyper *l)
{
  uint32_t q = l->n_head * h->head_size, kv = l->n_kv_head * h->head_size;

  return (Tensors){
      .mix_norm = gen_gain(g, 1, h->width),
      .mix_post = gen_gain(g, 4, h->width),
      .ffn_norm = gen_gain(g, 1, h->width),
      .ffn_post = gen_gain(g, 4, h->width),
      .q = gen_linear(g, "q", q, h->width),
      .k = gen_linear(g, "k", kv, h->width),
      .v = gen_linear(g, "v", kv, h->width),
      .q_norm = gen_gain(g, 3, h->head_size),
      .k_norm = gen_gain(g, 3, h->head_size),
      .mix_out = gen_linear(g, "out", h->width, q),
      .gate = gen_linear(g, "gate", l->ff_width, h->width),
      .up = gen_linear(g, "up", l->ff_width, h->width),
      .down = gen_linear(g, "down", h->width, l->ff_width),
  };
}

static void gen_rope(Gen *g, uint32_t half)
{
  uint32_t *step = NEW_ARRAY(g->a, uint32_t, half);

  for (uint32_t i = 0; i < half; i++)
    step[i] = (uint32_t)(rng_next(&g->rng) >> (36 + rng_below(&g->rng, 12)));
  *PUSH(g->a, g->m->ropes) = (RopeSpec){half, step, chance(g, 4) ? 1.25f : 1.0f};
}

/* Rows are multiples of `unit`: of a matrix type's block if one is asked for. */
static void gen_hyper(Gen *g, Hyper *h, Family *f)
{
  bool wide = g->opt->wide || (g->opt->weights >= 0 && dtype_info[g->opt->weights].block == 256);
  uint32_t head_size = wide ? 64 : PICK(g, 8, 16, 32, 64), group = PICK(g, 1, 2, 3, 4, 5, 7);

  *f = (Family){.name = "random",
                .rope = chance(g, 2) ? STYLE_HALVES : STYLE_INTERLEAVED,
                .act = PICK(g, OP_silu, OP_gelu),
                .embed = chance(g, 3) ? EMBED_SQRT_WIDTH : EMBED_ONE};
  *h = (Hyper){.family = f,
               .n_vocab = PICK(g, 48, 64, 97),
               .n_layer = 1 + (rng_below(&g->rng, 2) | !!g->opt->context),
               .width = wide ? 256 : PICK(g, 32, 64, 96, 128),
               .head_size = head_size,
               .context = g->opt->context ? g->opt->context : PICK(g, 24, 32, 40),
               .prefill_tokens = g->opt->prefill_tokens,
               .kv = head_size % 32 == 0 && chance(g, 3) ? DT_Q8_0
                     : chance(g, 2)                      ? DT_F16
                                                         : DT_F32,
               .norm_eps = 1e-5,
               .logit_cap = chance(g, 5) ? 5 : 0,
               .attention_scale = 1 / sqrt((double)head_size)};
  h->rope_size = chance(g, 4) ? head_size / 2 : head_size;
  h->layer = NEW_ARRAY(g->a, LayerHyper, h->n_layer);
  for (uint32_t i = 0; i < h->n_layer; i++) {
    uint32_t kv = wide ? 4 : 1 + rng_below(&g->rng, 3);
    h->layer[i] = (LayerHyper){
        PART_attention, PART_gated, kv * group, kv, 0, chance(g, 3) ? g->opt->context / 4 + 7 : 0, 0};
    h->layer[i].ff_width = wide ? 512 : PICK(g, 32, 96, 160);
    if (g->opt->long_rows)
      h->layer[i].ff_width = wide ? 3328 : 3104;
    h->layer[i].rope = h->layer[i].window ? 1 : 0;
    if ((uint64_t)h->layer[i].n_head * head_size % 32) /* rows of the output product are blocks */
      h->layer[i].n_head *= 4;
  }
}

Module *gen_decoder(Arena *a, const DecoderOptions *opt)
{
  Gen g = {a, {opt->seed ^ 0x6465636f6465u}, module_new(a), opt};
  Hyper h;
  Family f;

  gen_hyper(&g, &h, &f);
  Tensors model = {.embed = gen_linear(&g, "embed", h.n_vocab, h.width),
                   .out_norm = gen_gain(&g, 1, h.width)};
  Tensors *layers = NEW_ARRAY(a, Tensors, h.n_layer);
  if (chance(&g, 2))
    model.head = gen_linear(&g, "head", h.n_vocab, h.width);
  for (uint32_t i = 0; i < h.n_layer; i++)
    layers[i] = gen_layer(&g, &h, &h.layer[i]);
  gen_rope(&g, h.rope_size / 2);
  gen_rope(&g, h.rope_size / 2);
  gen_weights(a, &g.rng, g.m);
  decoder_build(g.m, &h, &model, layers);
  return g.m;
}

/* ---- random ops */

typedef struct {
  Rng rng;
  Graph *g;
  uint64_t forbidden;
} Mix;

static bool allowed(const Mix *m, Op op)
{
  return !(m->forbidden >> op & 1);
}

static Val some_value(Mix *m)
{
  uint32_t n = m->g->nodes.len, recent = n > 8 ? 6 : n - 1;
  Val v;

  do /* often a recent one, so that chains grow; the inputs, at least, are f32 */
    v = rng_below(&m->rng, 2) ? n - 1 - rng_below(&m->rng, recent) : 1 + rng_below(&m->rng, n - 1);
  while (graph_node(m->g, v)->type.dtype != DT_F32);
  return v;
}

static Val scalar(Mix *m, double v)
{
  Type t = type_of(DT_F32, 0, NULL);

  return graph_add(m->g, OP_const, NULL, 0, (Attr){.value = v}, &t);
}

/* Operands that keep results near 1. */
static Val tame(Mix *m, Op op, Val x)
{
  if (op == OP_exp && allowed(m, OP_min))
    return graph_add2(m->g, OP_min, x, scalar(m, 1.5));
  if (op == OP_sqrt && allowed(m, OP_abs))
    return graph_add1(m->g, OP_abs, x);
  if (op == OP_log && allowed(m, OP_abs) && allowed(m, OP_add))
    return graph_add2(m->g, OP_add, graph_add1(m->g, OP_abs, x), scalar(m, 0.5));
  return x;
}

static void add_unary(Mix *m)
{
  static const Op ops[] = {OP_neg,     OP_abs,  OP_exp,  OP_log,  OP_sqrt, OP_tanh,
                           OP_sigmoid, OP_silu, OP_gelu, OP_relu, OP_sin,  OP_cos};
  Op op = ops[rng_below(&m->rng, COUNT(ops))];

  if (!allowed(m, op) || (op == OP_exp && !allowed(m, OP_min)) ||
      ((op == OP_sqrt || op == OP_log) && (!allowed(m, OP_abs) || !allowed(m, OP_add))))
    return;
  graph_add1(m->g, op, tame(m, op, some_value(m)));
}

/* The other operand is a weight of the same shape, or broadcast: its last dimension, or a scalar. */
static Val partner(Mix *m, Val x)
{
  const Type *t = &graph_node(m->g, x)->type;
  int64_t last = type_last(t);
  Module *mod = m->g->module;
  Type w = rng_below(&m->rng, 2) || t->rank == 0 ? *t : type_of(DT_F32, 1, &last);

  if (rng_below(&m->rng, 4) == 0)
    return scalar(m, rng_normal(&m->rng));
  *PUSH(mod->arena, mod->weights) =
      (Weight){.name = arena_printf(mod->arena, "w.%u", mod->weights.len), .type = w};
  return graph_add(m->g, OP_weight, NULL, 0, (Attr){.index = mod->weights.len - 1}, &w);
}

static void add_binary(Mix *m)
{
  static const Op ops[] = {OP_add, OP_sub, OP_mul, OP_max, OP_min, OP_div};
  Op op = ops[rng_below(&m->rng, COUNT(ops))];

  if (!allowed(m, op))
    return;
  Val x = some_value(m), y = partner(m, x);
  if (op == OP_div) { /* by something between 0.5 and 2.5 */
    if (!allowed(m, OP_sigmoid) || !allowed(m, OP_add))
      return;
    y = graph_add2(m->g, OP_add, graph_add1(m->g, OP_sigmoid, y), scalar(m, 0.5));
  }
  if (rng_below(&m->rng, 2))
    graph_add2(m->g, op, x, y);
  else if (op != OP_div)
    graph_add2(m->g, op, y, x);
}

static void add_reduce(Mix *m)
{
  static const Op ops[] = {OP_sum, OP_amax, OP_softmax};
  Op op = ops[rng_below(&m->rng, COUNT(ops))];
  Val x = some_value(m);

  if (allowed(m, op) && graph_node(m->g, x)->type.rank)
    graph_add1(m->g, op, x);
}

static void add_norm(Mix *m)
{
  Val x = some_value(m);
  Module *mod = m->g->module;
  const Type *t = &graph_node(m->g, x)->type;
  Type w = type_of(DT_F32, 1, (int64_t[]){type_last(t)});

  if (!allowed(m, OP_rms_norm) || !t->rank)
    return;
  *PUSH(mod->arena, mod->weights) =
      (Weight){.name = arena_printf(mod->arena, "w.%u", mod->weights.len), .type = w};
  Val gain = graph_add(m->g, OP_weight, NULL, 0, (Attr){.index = mod->weights.len - 1}, &w);
  graph_add(m->g, OP_rms_norm, (Val[]){x, gain}, 2, (Attr){.eps = 1e-5}, NULL);
}

static void add_linear(Mix *m)
{
  Val x = some_value(m);
  Module *mod = m->g->module;
  int64_t k = type_last(&graph_node(m->g, x)->type);
  static const DType types[] = {DT_F32, DT_F16, DT_BF16, DT_Q4_0, DT_Q8_0, DT_Q5_1};
  DType t = k % 32 ? DT_F32 : types[rng_below(&m->rng, COUNT(types))];
  Type w = type_of(t, 2, (int64_t[]){1 + rng_below(&m->rng, 40), k});

  if (!allowed(m, OP_linear) || !graph_node(m->g, x)->type.rank)
    return;
  *PUSH(mod->arena, mod->weights) =
      (Weight){.name = arena_printf(mod->arena, "w.%u", mod->weights.len), .type = w};
  Val v = graph_add(m->g, OP_weight, NULL, 0, (Attr){.index = mod->weights.len - 1}, &w);
  graph_add2(m->g, OP_linear, x, v);
}

static void add_reshape(Mix *m)
{
  Val x = some_value(m);
  Type t = graph_node(m->g, x)->type;
  int64_t n = type_count(&t), rows = 1 + rng_below(&m->rng, 4);

  if (!allowed(m, OP_reshape) || n % rows)
    return;
  t = type_of(DT_F32, 2, (int64_t[]){rows, n / rows});
  graph_add(m->g, OP_reshape, &x, 1, (Attr){0}, &t);
}

static void add_transpose(Mix *m)
{
  Val x = some_value(m);
  uint32_t rank = graph_node(m->g, x)->type.rank;
  Attr a = {.perm = {0, 1, 2, 3, 4, 5}};

  if (!allowed(m, OP_transpose) || rank < 2)
    return;
  for (uint32_t i = rank; i-- > 1;) {
    uint32_t k = rng_below(&m->rng, i + 1);
    uint8_t p = a.perm[i];
    a.perm[i] = a.perm[k];
    a.perm[k] = p;
  }
  graph_add(m->g, OP_transpose, &x, 1, a, NULL);
}

static void add_slice(Mix *m)
{
  Val x = some_value(m);
  const Type *t = &graph_node(m->g, x)->type;
  Attr a = {0};

  if (!allowed(m, OP_slice) || !t->rank)
    return;
  a.slice.axis = rng_below(&m->rng, t->rank);
  a.slice.start = rng_below(&m->rng, (uint32_t)t->dim[a.slice.axis]);
  a.slice.count = 1 + rng_below(&m->rng, (uint32_t)(t->dim[a.slice.axis] - a.slice.start));
  graph_add(m->g, OP_slice, &x, 1, a, NULL);
}

static void add_concat(Mix *m)
{
  Val x = some_value(m);
  uint32_t rank = graph_node(m->g, x)->type.rank;

  if (!allowed(m, OP_concat) || !rank || type_count(&graph_node(m->g, x)->type) > 4096)
    return;
  Val in[3] = {x, x, graph_add1(m->g, OP_abs, x)};
  Attr a = {.axis = rng_below(&m->rng, rank)};
  graph_add(m->g, OP_concat, in, 2 + rng_below(&m->rng, 2), a, NULL);
}

Module *gen_random(Arena *a, const GenOptions *opt)
{
  static void (*const add[])(Mix *) = {add_unary,     add_unary, add_binary, add_binary, add_binary,
                                       add_reduce,    add_norm,  add_linear, add_linear, add_reshape,
                                       add_transpose, add_slice, add_concat};
  Module *mod = module_new(a);
  Mix m = {{opt->seed ^ 0x72616e646f6du}, graph_new(mod, "main", 1), opt->forbidden};
  uint32_t n = opt->n_nodes ? opt->n_nodes : 12;

  for (uint32_t i = 0; i < 2; i++) {
    int64_t dim[3] = {1 + rng_below(&m.rng, 4), 1 + rng_below(&m.rng, 5), i ? 32 : 1 + rng_below(&m.rng, 40)};
    uint32_t rank = 1 + rng_below(&m.rng, 3);
    Type t = type_of(DT_F32, rank, dim + (3 - rank));
    graph_add(m.g, OP_input, NULL, 0, (Attr){.name = i ? "y" : "x"}, &t);
  }
  for (uint32_t tries = 0; m.g->nodes.len < n && tries < 20 * n; tries++)
    add[rng_below(&m.rng, COUNT(add))](&m);
  Val out[2] = {some_value(&m), some_value(&m)}; /* only two: something should stay dead */
  graph_add(m.g, OP_output, &out[0], 1, (Attr){.name = "a"}, NULL);
  graph_add(m.g, OP_output, &out[1], 1, (Attr){.name = "b"}, NULL);
  gen_weights(a, &m.rng, mod);
  return mod;
}
