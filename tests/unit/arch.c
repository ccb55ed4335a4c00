/* arch.c - the model families: what is built from a good file, and what is said of bad ones. The
 * bad ones are stories260K, changed in memory one thing at a time. */
#include "frontend/arch/arch.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

#define SAMPLE MICC_SOURCE_DIR "/tests/data/stories260K.gguf"

static Model *open_sample(void)
{
  Err e = {0};
  Model *m = model_open(SAMPLE, &e);

  cr_assert(m, "%s", e.text);
  m->path = "m.gguf";
  return m;
}

/* ---- changes */

typedef enum { U32, F32, STR, U32S, NO_KEY, NO_TENSOR, RENAME, SHAPE, DTYPE, OPTION } Change;

typedef struct {
  Change change;
  const char *name;
  double number[2]; /* of keys; dimensions; DType; {context, prefill tile} */
  const char *text;
  const char *want; /* after "m.gguf: "; NULL: it builds */
} ArchCase;

/* The key's record; a new one if there is none. */
static Meta *key_of(Model *m, const char *name)
{
  for (uint32_t i = 0; i < m->metas.len; i++)
    if (!strcmp(m->metas.data[i].key, name))
      return &m->metas.data[i];
  Meta *v = PUSH(&m->arena, m->metas);
  *v = (Meta){.key = name};
  return v;
}

static void set_number(Model *m, const ArchCase *c)
{
  uint8_t raw[4];
  uint32_t u = c->change == U32 ? (uint32_t)c->number[0] : 0;
  float f = (float)c->number[0];

  memcpy(raw, c->change == U32 ? (void *)&u : (void *)&f, 4);
  *key_of(m, c->name) = (Meta){.key = c->name,
                               .type = c->change == U32 ? META_U32 : META_F32,
                               .count = 1,
                               .raw = arena_copy(&m->arena, raw, 4)};
}

static void set_string(Model *m, const ArchCase *c)
{
  Str s = {c->text, strlen(c->text)};

  *key_of(m, c->name) =
      (Meta){.key = c->name, .type = META_STR, .count = 1, .strings = arena_copy(&m->arena, &s, sizeof s)};
}

/* number[0] items of number[1]; the last one is doubled. */
static void set_array(Model *m, const ArchCase *c)
{
  uint32_t n = (uint32_t)c->number[0], *item = NEW_ARRAY(&m->arena, uint32_t, n);

  for (uint32_t i = 0; i < n; i++)
    item[i] = (uint32_t)c->number[1] << (i == n - 1);
  *key_of(m, c->name) =
      (Meta){.key = c->name, .type = META_ARRAY, .item_type = META_U32, .count = n, .raw = (uint8_t *)item};
}

static FileTensor *tensor_of(Model *m, const char *name)
{
  for (uint32_t i = 0; i < m->tensors.len; i++)
    if (!strcmp(m->tensors.data[i].name, name))
      return &m->tensors.data[i];
  cr_assert(false, "%s", name);
  return NULL;
}

static void change(Model *m, const ArchCase *c, ArchOptions *opt)
{
  switch (c->change) {
  case U32:
  case F32: set_number(m, c); break;
  case STR: set_string(m, c); break;
  case U32S: set_array(m, c); break;
  case NO_KEY: key_of(m, c->name)->key = "gone"; break;
  case NO_TENSOR: tensor_of(m, c->name)->name = "gone"; break;
  case RENAME: tensor_of(m, c->name)->name = c->text; break;
  case SHAPE:
    tensor_of(m, c->name)->rank = c->number[1] != 0 ? 2 : 1;
    tensor_of(m, c->name)->dim[0] = (uint64_t)c->number[0];
    tensor_of(m, c->name)->dim[1] = (uint64_t)c->number[1];
    break;
  case DTYPE: tensor_of(m, c->name)->dtype = (DType)c->number[0]; break;
  case OPTION:
    *opt = (ArchOptions){.context = (uint32_t)c->number[0], .prefill_tokens = (uint32_t)c->number[1]};
    break;
  }
}

#define KNOWN "known families: "
/* One case a line reads as a table. */
/* clang-format off */
static const ArchCase cases[] = {
    /* the family */
    {NO_KEY, "general.architecture", {0}, NULL, "metadata 'general.architecture' is missing or no string"},
    {U32, "general.architecture", {3}, NULL, "metadata 'general.architecture' is missing or no string"},
    {STR, "general.architecture", {0}, "mamba",
     "model family 'mamba' is not known; " KNOWN "llama, mistral3, "},
    {STR, "general.architecture", {0}, "qwen2", "metadata 'qwen2.block_count' is missing"},
    /* counts */
    {NO_KEY, "llama.block_count", {0}, NULL, "metadata 'llama.block_count' is missing"},
    {U32, "llama.block_count", {0}, NULL, "metadata 'llama.block_count' is 0, must be 1 to 1024"},
    {U32, "llama.block_count", {4e9}, NULL, "metadata 'llama.block_count' is 4000000000, must be 1 to 1024"},
    {F32, "llama.block_count", {5}, NULL, "metadata 'llama.block_count' must be an integer of 0 or more"},
    {STR, "llama.block_count", {0}, "5", "metadata 'llama.block_count' must be an integer of 0 or more"},
    {U32S, "llama.block_count", {2, 5}, NULL,
     "metadata 'llama.block_count' must be one number, not an array"},
    {U32, "llama.block_count", {6}, NULL, "tensor 'blk.5.attn_norm.weight' is missing"},
    {U32, "llama.block_count", {4}, NULL,
     "tensor 'blk.4.attn_norm.weight' is there, but metadata 'llama.block_count' is 4"},
    {U32, "llama.embedding_length", {128}, NULL,
     "tensor 'token_embd.weight' is f32[512,64], must be [512,128] of floats or blocks"},
    {U32, "llama.embedding_length", {0}, NULL,
     "metadata 'llama.embedding_length' is 0, must be 1 to 1048576"},
    {U32, "llama.vocab_size", {511}, NULL,
     "metadata 'llama.vocab_size' is 511, but 'token_embd.weight' has 512 rows"},
    {SHAPE, "token_embd.weight", {256, 128}, NULL,
     "metadata 'tokenizer.ggml.tokens' has 512 items, but 'token_embd.weight' has 256 rows"},
    {NO_TENSOR, "token_embd.weight", {0}, NULL, "tensor 'token_embd.weight' is missing"},
    {SHAPE, "token_embd.weight", {32768, 0}, NULL, "tensor 'token_embd.weight' must be a matrix of 1 to "},
    {NO_KEY, "llama.feed_forward_length", {0}, NULL, "metadata 'llama.feed_forward_length' is missing"},
    {U32, "llama.feed_forward_length", {171}, NULL,
     "tensor 'blk.0.ffn_gate.weight' is f32[172,64], must be [171,64] of floats or blocks"},
    /* context */
    {NO_KEY, "llama.context_length", {0}, NULL, "metadata 'llama.context_length' is missing"},
    {U32, "llama.context_length", {0}, NULL, "metadata 'llama.context_length' is 0, must be 1 to 4294967295"},
    {OPTION, NULL, {4e9, 0}, NULL, "a context of 4000000000 tokens, at most 16777216 are possible"},
    {OPTION, NULL, {16, 16}, NULL, NULL},
    /* heads */
    {NO_KEY, "llama.attention.head_count", {0}, NULL, "metadata 'llama.attention.head_count' is missing"},
    {U32, "llama.attention.head_count", {0}, NULL,
     "metadata 'llama.attention.head_count' is 0, must be 1 to 16384"},
    {U32, "llama.attention.head_count", {7}, NULL,
     "width 64 is no multiple of 7 heads, and metadata 'llama.attention.key_length' is missing"},
    {U32, "llama.attention.head_count_kv", {3}, NULL,
     "8 heads in layer 0 ('llama.attention.head_count') are no multiple of 3 key/value heads"},
    {U32, "llama.attention.head_count_kv", {0}, NULL,
     "metadata 'llama.attention.head_count_kv' is 0, must be 1 to 16384"},
    {U32, "llama.attention.head_count_kv", {8}, NULL,
     "tensor 'blk.0.attn_k.weight' is f32[32,64], must be [64,64] of floats or blocks"},
    {U32S, "llama.attention.head_count_kv", {4, 4}, NULL,
     "metadata 'llama.attention.head_count_kv' has 4 items, must have one for each layer"},
    {U32S, "llama.attention.head_count_kv", {6, 4}, NULL, NULL},
    {U32S, "llama.attention.head_count_kv", {5, 4}, NULL,
     "tensor 'blk.4.attn_k.weight' is f32[32,64], must be [64,64] of floats or blocks"},
    {U32, "llama.attention.key_length", {16}, NULL,
     "tensor 'blk.0.attn_q.weight' is f32[64,64], must be [128,64] of floats or blocks"},
    {U32, "llama.attention.key_length", {100000}, NULL,
     "metadata 'llama.attention.key_length' is 100000, must be 1 to 8192"},
    {U32, "llama.attention.value_length", {16}, NULL,
     "metadata 'llama.attention.value_length' is 16, must be as key_length, 8"},
    {U32, "llama.rope.dimension_count", {7}, NULL,
     "7 elements of a head are rotated ('llama.rope.dimension_count'), must be even"},
    {U32, "llama.rope.dimension_count", {10}, NULL,
     "metadata 'llama.rope.dimension_count' is 10, must be 2 to 8"},
    {U32, "llama.rope.dimension_count", {4}, NULL, NULL},
    /* numbers */
    {NO_KEY, "llama.attention.layer_norm_rms_epsilon", {0}, NULL,
     "metadata 'llama.attention.layer_norm_rms_epsilon' is missing"},
    {F32, "llama.attention.layer_norm_rms_epsilon", {NAN}, NULL,
     "metadata 'llama.attention.layer_norm_rms_epsilon' is nan, must be 0 to 0.5"},
    {F32, "llama.rope.freq_base", {0}, NULL, "metadata 'llama.rope.freq_base' is 0, must be 1.001 to 1e+15"},
    {STR, "llama.rope.freq_base", {0}, "x", "metadata 'llama.rope.freq_base' must be a number"},
    {STR, "llama.rope.scaling.type", {0}, "longrope",
     "metadata 'llama.rope.scaling.type' is 'longrope'; none, linear and yarn are supported"},
    {U32, "llama.rope.scaling.type", {0}, NULL, "metadata 'llama.rope.scaling.type' must be a string"},
    {F32, "llama.rope.scaling.factor", {-1}, NULL,
     "metadata 'llama.rope.scaling.factor' is -1, must be 0 to 1e+06"},
    {U32, "llama.expert_count", {8}, NULL,
     "metadata 'llama.expert_count' is 8: this is not supported for family llama"},
    /* tensors */
    {NO_TENSOR, "output_norm.weight", {0}, NULL, "tensor 'output_norm.weight' is missing"},
    {NO_TENSOR, "blk.3.ffn_down.weight", {0}, NULL, "tensor 'blk.3.ffn_down.weight' is missing"},
    {NO_TENSOR, "blk.0.attn_q.weight", {0}, NULL, "tensor 'blk.0.attn_q.weight' is missing"},
    {SHAPE, "blk.2.attn_norm.weight", {32, 2}, NULL,
     "tensor 'blk.2.attn_norm.weight' is f32[32,2], must be f32[64]"},
    {SHAPE, "blk.1.attn_output.weight", {4096, 0}, NULL,
     "tensor 'blk.1.attn_output.weight' is f32[4096], must be [64,64] of floats or blocks"},
    {DTYPE, "blk.1.attn_norm.weight", {DT_F16}, NULL,
     "tensor 'blk.1.attn_norm.weight' is f16[64], must be f32[64]"},
    {DTYPE, "blk.1.attn_q.weight", {DT_I32}, NULL,
     "tensor 'blk.1.attn_q.weight' is i32[64,64], must be [64,64] of floats or blocks"},
    {DTYPE, "blk.1.attn_q.weight", {DT_Q4_K}, NULL,
     "tensor 'blk.1.attn_q.weight': the last dimension, 64, is no multiple of the 256 values of a q4_K " "block"},
    {DTYPE, "blk.1.attn_q.weight", {DT_F16}, NULL,
     "tensor 'blk.1.attn_q.weight' has 16384 bytes, which do not fit its shape"},
    {RENAME, "blk.4.ffn_norm.weight", {0}, "blk.4.attn_q.bias", "tensor 'blk.4.ffn_norm.weight' is missing"},
    {RENAME, "output.weight", {0}, "output.bias", "tensor 'output.bias' is f32[512,64], must be f32[512]"},
    {RENAME, "output.weight", {0}, "rope_freqs.weight",
     "tensor 'rope_freqs.weight' must be f32[4], one factor for each pair of elements"},
    {NO_TENSOR, "output.weight", {0}, NULL, NULL}, /* the head is tied then */
};
/* clang-format on */

static void check_case(const ArchCase *c)
{
  static const char prefix[] = "m.gguf: ";
  Model *m = open_sample();
  ArchOptions opt = {0};
  Module *out = NULL;
  Err e = {0};

  change(m, c, &opt);
  bool ok = arch_build(m, &opt, &out, &e);
  cr_expect_eq(ok, c->want == NULL, "%s: %s", c->name ? c->name : "option", e.text);
  if (!ok && c->want)
    cr_expect(!strncmp(e.text, prefix, sizeof prefix - 1) &&
                  !strncmp(e.text + sizeof prefix - 1, c->want, strlen(c->want)),
              "got      %s\nexpected %s%s", e.text, prefix, c->want);
  cr_expect(!ok || module_verify(out, &e), "%s", e.text);
  model_close(m);
}

Test(arch, refusals)
{
  for (size_t i = 0; i < COUNT(cases); i++)
    check_case(&cases[i]);
}

/* Every family that is named is built from something: the message lists them all. */
Test(arch, unknown_family_lists_the_known)
{
  Model *m = open_sample();
  ArchCase c = {STR, "general.architecture", {0}, "nosuch", NULL};
  Module *out;
  Err e = {0};

  change(m, &c, NULL);
  cr_expect(!arch_build(m, &(ArchOptions){0}, &out, &e));
  for (int i = 0; arch_families[i]; i++)
    cr_expect(strstr(e.text, arch_families[i]), "%s", arch_families[i]);
  model_close(m);
}

/* ---- what is built */

static uint32_t count_ops(const Graph *g, Op op)
{
  uint32_t n = 0;

  for (Val v = 1; v < g->nodes.len; v++)
    n += graph_node(g, v)->op == op;
  return n;
}

static bool has_place(const Graph *g, const char *from)
{
  for (Val v = 1; v < g->nodes.len; v++)
    if (graph_node(g, v)->from && !strcmp(graph_node(g, v)->from, from))
      return true;
  return false;
}

Test(arch, graphs)
{
  Model *m = open_sample();
  Module *out;
  Err e = {0};

  cr_assert(arch_build(m, &(ArchOptions){.context = 100, .prefill_tokens = 8}, &out, &e), "%s", e.text);
  cr_assert(module_verify(out, &e), "%s", e.text);
  cr_assert_eq(out->graphs.len, 2);
  const Graph *decode = out->graphs.data[0], *prefill = out->graphs.data[1];
  cr_expect_str_eq(decode->name, "decode");
  cr_expect_str_eq(prefill->name, "prefill");
  cr_expect_eq(prefill->tokens, 8);
  cr_expect_eq(out->states.len, 10);
  cr_expect_str_eq(out->states.data[9].name, "v.4");
  cr_expect(type_eq(&out->states.data[0].type, &(Type){DT_F32, 3, {100, 4, 8}}));
  cr_expect_eq(count_ops(decode, OP_attention), 5);
  cr_expect_eq(count_ops(decode, OP_update), 10);
  cr_expect_eq(count_ops(decode, OP_rope_table), 1);
  cr_expect_eq(count_ops(decode, OP_linear), 5 * 7 + 1);
  /* the last layer of prefill has only K and V */
  cr_expect_eq(count_ops(prefill, OP_attention), 4);
  cr_expect_eq(count_ops(prefill, OP_update), 10);
  cr_expect_eq(count_ops(prefill, OP_linear), 4 * 7 + 2);
  cr_expect_eq(count_ops(prefill, OP_output), 2);
  cr_expect(has_place(decode, "blk.4.attn_q") && has_place(decode, "output"));
  cr_expect(!has_place(prefill, "blk.4.attn_q") && !has_place(prefill, "output"));
  model_close(m);
}

Test(arch, no_prefill_graph)
{
  Model *m = open_sample();
  Module *out;
  Err e = {0};

  cr_assert(arch_build(m, &(ArchOptions){0}, &out, &e), "%s", e.text);
  cr_expect_eq(out->graphs.len, 1);
  cr_expect_eq(out->states.data[0].type.dim[0], 2048); /* the model's own context */
  model_close(m);
}

Test(arch, info)
{
  Model *m = open_sample();
  ArchCase unused = {RENAME, "output.weight", {0}, "blk.0.strange.weight", NULL};
  ArchInfo info;
  Err e = {0};

  cr_assert(arch_info(m, &(ArchOptions){.context = 64}, &info, &e), "%s", e.text);
  cr_expect_str_eq(info.family, "llama");
  cr_expect_eq(info.n_vocab, 512);
  cr_expect_eq(info.n_layer, 5);
  cr_expect_eq(info.width, 64);
  cr_expect_eq(info.n_head, 8);
  cr_expect_eq(info.n_kv_head, 4);
  cr_expect_eq(info.head_size, 8);
  cr_expect_eq(info.ff_width, 172);
  cr_expect_eq(info.context, 64);
  cr_expect_eq(info.context_trained, 2048);
  cr_expect_eq(info.window, 0);
  cr_expect(!info.tied);
  cr_expect_eq(info.n_unused, 0);
  cr_expect_eq(info.weight_bytes, info.parameters * 4);
  change(m, &unused, NULL);
  cr_assert(arch_info(m, &(ArchOptions){.context = 64}, &info, &e), "%s", e.text);
  cr_expect(info.tied);
  cr_assert_eq(info.n_unused, 1);
  cr_expect_str_eq(info.unused[0], "blk.0.strange.weight");
  model_close(m);
}

/* ---- rotation: turns per position, 2^32 a turn */

/* Builds with these keys set, and gives the first table's steps (4 of them). */
static RopeSpec rope_with(Model *m, const ArchCase *set, size_t n)
{
  Module *out;
  Err e = {0};

  for (size_t i = 0; i < n; i++)
    change(m, &set[i], NULL);
  cr_assert(arch_build(m, &(ArchOptions){0}, &out, &e), "%s", e.text);
  return out->ropes.data[0];
}

static void expect_steps(const RopeSpec *r, const double *radians)
{
  for (int i = 0; i < 4; i++)
    cr_expect_float_eq((double)r->step[i], radians[i] / (2 * M_PI) * 0x1p32, 1, "step %d", i);
}

Test(arch, rope_frequencies)
{
  Model *m = open_sample();
  RopeSpec r = rope_with(m, NULL, 0);

  cr_assert_eq(r.half, 4);
  cr_expect_eq(r.magnitude, 1);
  expect_steps(&r, (double[]){1, 0.1, 0.01, 0.001});
  model_close(m);
}

Test(arch, rope_linear_scaling)
{
  static const ArchCase set[] = {{F32, "llama.rope.scaling.factor", {4}, NULL, NULL},
                                 {F32, "llama.rope.freq_base", {81}, NULL, NULL}};
  Model *m = open_sample();
  RopeSpec r = rope_with(m, set, 2);

  expect_steps(&r, (double[]){1 / 4.0, 1 / 12.0, 1 / 36.0, 1 / 108.0});
  model_close(m);
}

/* 2048 positions: the ramp begins where a frequency makes 32 turns, and ends where it makes 1:
 * 8 ln(2048 / (32 * 2 pi)) / (2 ln 10000) = 1.008 -> 1; 8 ln(2048 / (2 pi)) / (2 ln 10000) = 2.51 -> 3.
 * So frequencies 0 and 1 are kept, 2 is halfway, 3 is divided. */
Test(arch, rope_yarn)
{
  static const ArchCase set[] = {{STR, "llama.rope.scaling.type", {0}, "yarn", NULL},
                                 {F32, "llama.rope.scaling.factor", {4}, NULL, NULL}};
  Model *m = open_sample();
  RopeSpec r = rope_with(m, set, 2);

  expect_steps(&r, (double[]){1, 0.1, 0.01 * (0.5 + 0.5 / 4), 0.001 / 4});
  cr_expect_float_eq((double)r.magnitude, 1 + 0.1 * log(4), 1e-6);
  model_close(m);
}

/* ---- Gemma 3, from the same tensors: windows, two rope bases, scales */

static const ArchCase as_gemma[] = {
    {STR, "general.architecture", {0}, "gemma3", NULL},
    {U32, "gemma3.block_count", {5}, NULL, NULL},
    {U32, "gemma3.embedding_length", {64}, NULL, NULL},
    {U32, "gemma3.feed_forward_length", {172}, NULL, NULL},
    {U32, "gemma3.context_length", {64}, NULL, NULL},
    {U32, "gemma3.attention.head_count", {8}, NULL, NULL},
    {U32, "gemma3.attention.head_count_kv", {4}, NULL, NULL},
    {F32, "gemma3.attention.layer_norm_rms_epsilon", {1e-6}, NULL, NULL},
    {F32, "gemma3.rope.freq_base", {1e6}, NULL, NULL},
    {F32, "gemma3.final_logit_softcapping", {30}, NULL, NULL},
    {U32, "gemma3.attention.sliding_window", {12}, NULL, NULL},
    {U32, "gemma3.attention.sliding_window_pattern", {3}, NULL, NULL},
};

static void add_vector(Model *m, const char *name, uint64_t n)
{
  float *ones = NEW_ARRAY(&m->arena, float, n);

  *PUSH(&m->arena, m->tensors) = (FileTensor){name, DT_F32, 1, {n}, ones, n * 4, 0};
}

static Model *open_gemma(void)
{
  static const struct {
    const char *name;
    uint64_t n;
  } vectors[] = {{"attn_q_norm", 8}, {"attn_k_norm", 8}, {"post_attention_norm", 64}, {"post_ffw_norm", 64}};
  Model *m = open_sample();

  for (size_t i = 0; i < COUNT(as_gemma); i++)
    change(m, &as_gemma[i], NULL);
  for (int layer = 0; layer < 5; layer++)
    for (size_t i = 0; i < COUNT(vectors); i++)
      add_vector(m, arena_printf(&m->arena, "blk.%d.%s.weight", layer, vectors[i].name), vectors[i].n);
  return m;
}

/* Windows of the layers, in order; 0 at the end. */
static void windows_of(const Graph *g, int64_t *window)
{
  for (Val v = 1; v < g->nodes.len; v++)
    if (graph_node(g, v)->op == OP_attention)
      *window++ = graph_node(g, v)->attr.attention.window;
}

Test(arch, gemma3)
{
  Model *m = open_gemma();
  Module *out;
  Err e = {0};
  int64_t window[5], want[5] = {12, 12, 0, 12, 12};

  cr_assert(arch_build(m, &(ArchOptions){0}, &out, &e), "%s", e.text);
  cr_assert(module_verify(out, &e), "%s", e.text);
  const Graph *g = out->graphs.data[0];
  windows_of(g, window);
  cr_expect_arr_eq(window, want, sizeof want);
  cr_expect_eq(count_ops(g, OP_rope_table), 2);
  cr_expect_eq(count_ops(g, OP_gelu), 5);
  cr_expect_eq(count_ops(g, OP_tanh), 1);
  cr_expect_eq(count_ops(g, OP_rms_norm), 5 * 6 + 1);
  cr_assert_eq(out->ropes.len, 2);
  expect_steps(&out->ropes.data[0], (double[]){1, 0.0316227766, 0.001, 0.0000316227766});
  expect_steps(&out->ropes.data[1], (double[]){1, 0.1, 0.01, 0.001});
  model_close(m);
}

Test(arch, gemma3_needs_its_norms)
{
  Model *m = open_gemma();
  ArchCase c = {NO_TENSOR, "blk.2.post_ffw_norm.weight", {0}, NULL, NULL};
  Module *out;
  Err e = {0};

  change(m, &c, NULL);
  cr_expect(!arch_build(m, &(ArchOptions){0}, &out, &e));
  cr_expect_str_eq(e.text, "m.gguf: tensor 'blk.2.post_ffw_norm.weight' is missing");
  model_close(m);
}

/* ---- metadata at random: a line or a module that verifies */

Test(arch, random_numbers_in_metadata)
{
  static const uint32_t with[] = {0, 1, 2, 3, 7, 8, 64, 172, 511, 65536, 0x7fffffff, 0x80000000, 0xffffffff};
  Model *m = open_sample();
  uint32_t n = m->metas.len;

  for (uint32_t i = 0; i < n; i++)
    for (size_t k = 0; k < COUNT(with); k++) {
      Meta old = m->metas.data[i];
      Module *out;
      Err e = {0};
      if (old.type == META_ARRAY || old.type == META_STR)
        continue;
      m->metas.data[i].raw = (const uint8_t *)&with[k];
      bool ok = arch_build(m, &(ArchOptions){.prefill_tokens = 1}, &out, &e);
      cr_expect_eq(ok, !e.text[0]);
      cr_expect(!ok || module_verify(out, &e), "%s", e.text);
      m->metas.data[i] = old;
    }
  model_close(m);
}
