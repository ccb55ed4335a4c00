/* graph.c - the graph IR: types, text form, verifier.
 *
 * tests/cases/graph/NAME.txt holds cases, divided by lines of ====: a module's text, a line ---, and
 * what must come out: its text printed, or `error: LINE: what`. MICC_UPDATE=1 rewrites the latter. */
#include "ir/graph.h"
#include "tests/unit/support/cases.h"
#include "tests/unit/support/graph_gen.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- text cases */

static const char *result_of(Arena *a, const char *path, const char *source)
{
  Err e = {0};
  Text t = {.arena = a};
  Module *m = module_parse(a, source, "case", &e);

  (void)path;
  if (m && module_verify(m, &e))
    module_print(m, &t);
  else
    text_printf(&t, "error: %s\n", e.text + (strncmp(e.text, "case:", 5) ? 0 : 5));
  return t.data;
}

Test(graph, cases)
{
  cr_expect_gt(cases_run(MICC_SOURCE_DIR "/tests/cases/graph", result_of), 2);
}

/* ---- text of generated graphs: printed, parsed, printed */

static void round_trip(Arena *a, const Module *m)
{
  Text one = {.arena = a}, two = {.arena = a};
  Err e = {0};

  cr_assert(module_verify(m, &e), "%s", e.text);
  module_print(m, &one);
  Module *again = module_parse(a, one.data, "again", &e);
  cr_assert(again, "%s", e.text);
  cr_assert(module_verify(again, &e), "%s", e.text);
  module_print(again, &two);
  cr_assert_str_eq(one.data, two.data);
}

Test(graph, random_graphs_round_trip)
{
  for (uint64_t seed = 0; seed < 200; seed++) {
    Arena a = {0};
    round_trip(&a, gen_random(&a, &(GenOptions){.seed = seed, .n_nodes = 30}));
    arena_free(&a);
  }
}

Test(graph, random_decoders_round_trip)
{
  for (uint64_t seed = 0; seed < 20; seed++) {
    Arena a = {0};
    round_trip(&a, gen_decoder(&a, &(DecoderOptions){.seed = seed, .prefill_tokens = 5, .weights = -1}));
    arena_free(&a);
  }
}

/* ---- damaged text: an error line or a module that verifies, nothing else */

static const char *sample(Arena *a)
{
  static Text t;

  t = (Text){.arena = a};
  module_print(gen_decoder(a, &(DecoderOptions){.seed = 3, .prefill_tokens = 2, .weights = -1}), &t);
  return t.data;
}

static void try_text(const char *text)
{
  Arena a = {0};
  Err e = {0};
  Module *m = module_parse(&a, text, "t", &e);

  cr_assert_eq(m == NULL, e.text[0] != 0);
  cr_assert(m || !strncmp(e.text, "t:", 2), "%s", e.text);
  cr_assert(!m || module_verify(m, &e) || e.text[0]);
  arena_free(&a);
}

Test(graph, truncated_text)
{
  Arena a = {0};
  const char *text = sample(&a);

  for (size_t n = 0; n < strlen(text); n += 7) {
    char *cut = arena_strndup(&a, text, n);
    try_text(cut);
  }
  arena_free(&a);
}

Test(graph, changed_text)
{
  static const char with[] = " %@#={}[],.-0919x\n\"\\";
  Arena a = {0};
  const char *text = sample(&a);
  Rng r = {7};

  for (int i = 0; i < 3000; i++) {
    char *copy = arena_strdup(&a, text);
    for (uint32_t k = 0; k <= rng_below(&r, 3); k++)
      copy[rng_below(&r, (uint32_t)strlen(text))] = with[rng_below(&r, sizeof with - 1)];
    try_text(copy);
  }
  arena_free(&a);
}

/* The text of a dense graph with every op, from the cases. */
static const char *dense_sample(Arena *a)
{
  char *text = cases_read(a, MICC_SOURCE_DIR "/tests/cases/graph/dense.txt"), *end = strstr(text, "---\n");

  cr_assert(end);
  *end = 0;
  return text;
}

Test(graph, changed_dense_text)
{
  static const char with[] = " %@#={}[],.-0919x\n\"\\8";
  Arena a = {0};
  const char *text = dense_sample(&a);
  Rng r = {11};

  for (int i = 0; i < 3000; i++) {
    char *copy = arena_strdup(&a, text);
    for (uint32_t k = 0; k <= rng_below(&r, 3); k++)
      copy[rng_below(&r, (uint32_t)strlen(text))] = with[rng_below(&r, sizeof with - 1)];
    try_text(copy);
  }
  arena_free(&a);
}

/* ---- verifier: damage that text cannot express */

static Graph *small_graph(Arena *a)
{
  static const char text[] = "weight w f32[3,4]\n"
                             "graph g tokens 2 {\n"
                             "  %1 = input f32[2,4] x\n"
                             "  %2 = weight f32[3,4] w\n"
                             "  %3 = linear f32[2,3] %1, %2\n"
                             "  %4 = add f32[2,3] %3, %3  # blk.0.sum\n"
                             "  %5 = output f32[2,3] %4 y\n"
                             "}\n";
  Err e = {0};
  Module *m = module_parse(a, text, "t", &e);

  cr_assert(m, "%s", e.text);
  return m->graphs.data[0];
}

static void break_order(Graph *g)
{
  g->edges.data[graph_node(g, 3)->in.first] = 4;
}
static void break_self(Graph *g)
{
  g->edges.data[graph_node(g, 4)->in.first] = 4;
}
static void break_type(Graph *g)
{
  graph_node(g, 4)->type.dim[1] = 4;
}
static void break_dtype(Graph *g)
{
  graph_node(g, 4)->type.dtype = DT_COUNT;
}
static void break_op(Graph *g)
{
  graph_node(g, 4)->op = OP_COUNT;
}
static void break_arity(Graph *g)
{
  graph_node(g, 4)->in.count = 1;
}
static void break_edges(Graph *g)
{
  graph_node(g, 4)->in.first = 1000;
}
static void break_weight(Graph *g)
{
  graph_node(g, 2)->attr.index = 1;
}
static void break_tokens(Graph *g)
{
  g->tokens = 0;
}
static void break_bytes(Graph *g)
{
  static const float data[12];
  g->module->weights.data[0].data = data;
  g->module->weights.data[0].bytes = 47;
}
static void break_names(Graph *g)
{
  *PUSH(g->module->arena, g->module->weights) = g->module->weights.data[0];
}

Test(graph, verifier)
{
  static const struct {
    void (*damage)(Graph *);
    const char *want;
  } cases[] = {
      {break_order, "graph g, %3: input 0 is %4, which comes later"},
      {break_self, "graph g, %4, blk.0.sum: input 0 is %4, which comes later"},
      {break_type, "graph g, %4, blk.0.sum: add: its type is f32[2,4], must be f32[2,3]"},
      {break_dtype, "graph g, %4, blk.0.sum: element type "},
      {break_op, "graph g, %4, blk.0.sum: op "},
      {break_arity, "graph g, %4, blk.0.sum: add: 1 inputs, must be 2"},
      {break_edges, "graph g, %4, blk.0.sum: edges 1000 .. +2 of 5"},
      {break_weight, "graph g, %2: weight: index 1, but the module has 1"},
      {break_tokens, "graph g: 0 tokens"},
      {break_bytes, "weight 'w' has 47 bytes, which do not fit its type"},
      {break_names, "weight 'w' stands twice in the module"},
  };

  for (size_t i = 0; i < COUNT(cases); i++) {
    Arena a = {0};
    Err e = {0};
    Graph *g = small_graph(&a);
    cases[i].damage(g);
    cr_expect(!module_verify(g->module, &e));
    cr_expect(!strncmp(e.text, cases[i].want, strlen(cases[i].want)), "%s", e.text);
    arena_free(&a);
  }
}

/* ---- types */

Test(graph, types)
{
  Type t = type_of(DT_Q4_0, 3, (int64_t[]){2, 3, 64}), u = t, scalar = type_of(DT_F32, 0, NULL);
  Err e = {0};

  cr_expect_eq(type_rows(&t), 6);
  cr_expect_eq(type_last(&t), 64);
  cr_expect_eq(type_count(&t), 384);
  cr_expect_eq(type_count(&scalar), 1);
  cr_expect_eq(type_last(&scalar), 1);
  cr_expect(type_eq(&t, &u));
  u.dim[0] = 3;
  cr_expect(!type_eq(&t, &u));
  u.dim[2] = 63;
  cr_expect(type_check(&t, &e) && !type_check(&u, &e));
  cr_expect_str_eq(e.text, "the last dimension, 63, is no multiple of the 32 values of a q4_0 block");
}

Test(graph, sizes_do_not_overflow)
{
  Type t = type_of(DT_F32, 4, (int64_t[]){1 << 30, 1 << 30, 1 << 30, 1 << 30});
  Err e = {0};

  cr_expect(!type_check(&t, &e));
  cr_expect_str_eq(e.text, "more than 2^44 elements");
}

/* Each op of the table has a doc line and a way to print and parse: see cases/ops.txt. */
Test(graph, table)
{
  for (int op = OP_none + 1; op < OP_COUNT; op++) {
    cr_expect(op_info[op].name && op_info[op].doc && op_info[op].doc[0]);
    cr_expect_geq(op_info[op].inputs, -1);
  }
}

static void build_until(long n)
{
  Arena a = {0};
  MemTrap trap;

  if (mem_try(&trap)) {
    mem_fail_at(n);
    gen_decoder(&a, &(DecoderOptions){.seed = 1, .weights = -1});
    mem_done(&trap);
  }
  mem_fail_at(0);
  arena_free(&a);
}

Test(graph, out_of_memory)
{
  for (long n = 1; n < 12; n++)
    build_until(n);
}
