/* Lowered graphs against the oracle: random graphs and random decoder models, run through the kernel
 * interpreter at 4, 8 and 16 lanes, through C (libtcc) and through LLVM. And what must hold bit for bit: the
 * same logits whether a token came through prefill or decode. */
#include "passes/lower/lower.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "codegen/exec.h"
#include "passes/lower/panel.h"
#include "passes/passes.h"
#include "tests/unit/support/graph_gen.h"

/* A program ready to run in this process. */
typedef struct {
  Arena *a;
  Program *p;
  Exec *x;
  uint32_t top; /* logits wanted; 0: all */
} Run;

static Run run_open(Arena *a, Module *m, const char *cpu, ExecWay way)
{
  Run r = {.a = a};
  Err e = {0};
  const Target *target = target_find(cpu, &e);

  cr_assert(target, "%s", e.text);
  cr_assert(passes_run(m, &(PassOptions){.targets = &target, .n_targets = 1}, &r.p, &e), "%s", e.text);
  r.x = exec_open(r.p, target, way, &e);
  cr_assert(r.x, "%s", e.text);
  return r;
}

static void run_entry(const Run *r, uint32_t entry, int32_t pos, int32_t tokens)
{
  Err e = {0};
  cr_assert(exec_entry(r->x, entry, (const int32_t[]){pos, tokens, (int32_t)r->top}, &e), "%s", e.text);
}

/* ---- rows of arena values, which are padded */

static void put(const Run *r, const Io *io, const Array *x)
{
  void *to = exec_data(r->x, io->buffer);
  int64_t rows = io->type.rank > 1 ? io->type.dim[0] : 1, row = x->count / rows,
          stride = lower_stride(&io->type);

  for (int64_t i = 0; i < x->count; i++) {
    int64_t at = rows > 1 ? i / row * stride + i % row : i;
    if (io->type.dtype == DT_I32)
      ((int32_t *)to)[at] = (int32_t)x->data[i];
    else
      ((float *)to)[at] = x->data[i];
  }
}

static Array get(const Run *r, const Io *io)
{
  const float *from = exec_data(r->x, io->buffer);
  int64_t n = type_count(&io->type), rows = io->type.rank > 1 ? io->type.dim[0] : 1, row = n / rows;
  Array out = {NEW_ARRAY(r->a, float, (size_t)n), n};

  for (int64_t i = 0; i < n; i++)
    out.data[i] = from[rows > 1 ? i / row * lower_stride(&io->type) + i % row : i];
  return out;
}

/* ---- random graphs */

/* A code of a q8a value may fall to the other side of a half: one step of 127. */
static bool has_quant(const Graph *g)
{
  for (Val v = 1; v < g->nodes.len; v++)
    if (graph_node(g, v)->op == OP_quant)
      return true;
  return false;
}

static void compare_random(uint64_t seed, const char *cpu, ExecWay way)
{
  Arena a = {0};
  Module *m = gen_random(&a, &(GenOptions){.seed = seed, .n_nodes = 14});
  Rng rng = {seed};
  Run r = run_open(&a, m, cpu, way);
  const Graph *g = m->graphs.data[0]; /* after the passes: activations are rounded as in the program */
  Array *in = gen_inputs(&a, &rng, g, 0, 8), *want = gen_outputs(&a, g);

  graph_eval(g, &a, in, NULL, want);
  const Entry *en = &r.p->entries.data[0];
  for (uint32_t i = 0; i < en->inputs.count; i++)
    put(&r, &r.p->ios.data[en->inputs.first + i], &in[i]);
  run_entry(&r, 0, 0, 1);
  for (uint32_t i = 0; i < en->outputs.count; i++) {
    Array got = get(&r, &r.p->ios.data[en->outputs.first + i]);
    double error = gen_error(&got, &want[i]);
    cr_expect_lt(error, has_quant(g) ? 0.01 : 2e-5, "seed %llu, %s: output %u differs by %g",
                 (unsigned long long)seed, cpu, i, error);
  }
  exec_close(r.x);
  arena_free(&a);
}

static const char *const eval_rows[] = {"x86-64-v2", "x86-64-v3", "cascadelake"};

Test(lower, random_graphs_interpreted)
{
  for (uint64_t seed = 1; seed <= 150; seed++)
    compare_random(seed, eval_rows[seed % 3], EXEC_EVAL);
}

#if MICC_HAVE_TCC
Test(lower, random_graphs_in_c)
{
  for (uint64_t seed = 1; seed <= 60; seed++)
    compare_random(seed, "c", EXEC_TCC);
}
#endif

#if MICC_HAVE_LLVM
Test(lower, random_graphs_in_llvm)
{
  static const char *const rows[] = {"x86-64-v2", "native"};
  for (uint64_t seed = 1; seed <= 40; seed++)
    compare_random(seed, rows[seed % 2], EXEC_LLVM);
}
#endif

/* ---- random decoders: every kind of weight, prefill and decode */

enum { TILE = 24, STEPS = 40 };

static int32_t token_at(const Module *m, int i)
{
  const Graph *g = m->graphs.data[0];
  for (Val v = 1; v < g->nodes.len; v++)
    if (graph_node(g, v)->op == OP_embed)
      return (int32_t)((i * 37 + 11) % graph_node(g, graph_in(g, v, 1))->type.dim[0]);
  return 0;
}

static uint32_t entry_named(const Run *r, const char *name)
{
  for (uint32_t i = 0; i < r->p->entries.len; i++)
    if (!strcmp(r->p->entries.data[i].name, name))
      return i;
  cr_assert_fail("no such entry");
  return 0;
}

static Array feed(const Run *r, const Module *m, uint32_t entry, int from, int n)
{
  const Entry *en = &r->p->entries.data[entry];
  int32_t *ids = exec_data(r->x, en->tokens_buffer);

  for (int i = 0; i < n; i++)
    ids[i] = token_at(m, from + i);
  run_entry(r, entry, from, n);
  for (uint32_t i = 0; i < en->outputs.count; i++)
    if (r->p->ios.data[en->outputs.first + i].buffer)
      return get(r, &r->p->ios.data[en->outputs.first + i]);
  return (Array){0};
}

static Array oracle_logits(Arena *a, const Module *m, const Graph *decode, Array *states, int pos)
{
  Array in[2], *out = gen_outputs(a, decode);
  uint32_t n = 0;

  for (Val v = 1; v < decode->nodes.len; v++)
    if (graph_node(decode, v)->op == OP_input) {
      float *x = NEW_ARRAY(a, float, 1);
      *x = strcmp(graph_node(decode, v)->attr.name, "pos") ? (float)token_at(m, pos) : (float)pos;
      in[n++] = (Array){x, 1};
    }
  graph_eval(decode, a, in, states, out);
  return out[0];
}

static void compare_decoder(uint64_t seed, int dtype, bool long_rows, const char *cpu, ExecWay way)
{
  Arena a = {0};
  Module *m = gen_decoder(
      &a, &(DecoderOptions){.seed = seed, .prefill_tokens = TILE, .weights = dtype, .long_rows = long_rows});
  Rng rng = {seed};
  Array *states = gen_states(&a, &rng, m);

  for (uint32_t i = 0; i < m->states.len; i++)
    memset(states[i].data, 0, sizeof(float) * (size_t)states[i].count);
  Run r = run_open(&a, m, cpu, way);
  uint32_t decode = entry_named(&r, "decode"), prefill = entry_named(&r, "prefill");
  const Graph *g = m->graphs.data[decode]; /* after the passes: activations are rounded as in the program */
  int last = STEPS < (int)r.p->context ? STEPS : (int)r.p->context - 1;
  Array a1 = {0}, b1, want = {0};

  for (int i = 0; i <= last; i++) {
    a1 = feed(&r, m, decode, i, 1);
    want = oracle_logits(&a, m, g, states, i);
  }
  double error = gen_error(&a1, &want);
  /* a code, or a key in 16 bits, may be rounded the other way */
  double bound = dtype < 0 || dtype_info[dtype].kind != DK_FLOAT ? 0.05
                 : m->states.data[0].type.dtype == DT_Q8_0       ? 0.05
                 : m->states.data[0].type.dtype == DT_F16        ? 0.005
                                                                 : 1e-4;
  cr_expect_lt(error, bound, "seed %llu, %s, weights %s: logits differ by %g", (unsigned long long)seed, cpu,
               dtype < 0 ? "mixed" : dtype_info[dtype].name, error);
  exec_reset(r.x);
  int fed = 0;
  for (int n; fed < last; fed += n) {
    n = last - fed < TILE - 5 ? last - fed : TILE - 5; /* tiles that are not full */
    feed(&r, m, prefill, fed, n);
  }
  b1 = feed(&r, m, decode, last, 1);
  cr_expect(!memcmp(a1.data, b1.data, sizeof(float) * (size_t)a1.count),
            "seed %llu, %s: prefill and decode differ", (unsigned long long)seed, cpu);
  exec_close(r.x);
  arena_free(&a);
}

static void decoders(const char *cpu, ExecWay way, uint64_t seeds)
{
  for (uint64_t seed = 1; seed <= seeds; seed++)
    for (int t = -1; t < DT_COUNT; t++)
      if (t < 0 || t == DT_F32 || t == DT_F16 || t == DT_BF16 || dtype_info[t].kind == DK_BLOCK)
        compare_decoder(seed * 100 + (uint64_t)(t + 1), t, false, cpu, way);
}

/* Rows that are unpacked strip by strip, the last one shorter: runs of 32 and of 16, with and without minima, codes in 8 and,
 * where a target wants it, in 16 bits. */
static void long_rows(const char *cpu, ExecWay way)
{
  static const DType types[] = {DT_Q4_0, DT_Q4_1, DT_Q8_0, DT_Q4_K, DT_Q6_K};
  for (size_t i = 0; i < COUNT(types); i++)
    compare_decoder(1 + i, types[i], true, cpu, way);
}

#if MICC_HAVE_LLVM
Test(lower, decoders_in_llvm_v2)
{
  decoders("x86-64-v2", EXEC_LLVM, 1);
}

Test(lower, decoders_in_llvm_v3)
{
  Err e = {0};
  if (target_find("x86-64-v3", &e)->runs_here())
    decoders("x86-64-v3", EXEC_LLVM, 1);
  else
    puts("skipped: x86-64-v3, this machine lacks it");
}

Test(lower, decoders_in_llvm_native)
{
  decoders("native", EXEC_LLVM, 2);
}

Test(lower, long_rows_in_llvm)
{
  Err e = {0};
  long_rows("native", EXEC_LLVM);
  if (target_find("x86-64-v3", &e)->runs_here())
    long_rows("x86-64-v3", EXEC_LLVM);
  else
    puts("skipped: x86-64-v3, this machine lacks it");
}
#endif

/* As a machine without AVX-512 tests it: two panels abreast. */
Test(lower, long_rows_interpreted)
{
  compare_decoder(1, DT_Q4_0, true, "cascadelake", EXEC_EVAL);
}

#if MICC_HAVE_TCC
Test(lower, decoders_in_c)
{
  decoders("c", EXEC_TCC, 1);
}

Test(lower, long_rows_in_c)
{
  long_rows("c", EXEC_TCC);
}
#endif

/* The same program twice. */
Test(lower, plans_are_repeatable)
{
  Arena a = {0};
  Text plan[2] = {{.arena = &a}, {.arena = &a}};
  for (int i = 0; i < 2; i++) {
    Program *p;
    Err e = {0};
    const Target *target = target_find("x86-64-v3", &e);
    Module *m = gen_decoder(&a, &(DecoderOptions){.seed = 7, .prefill_tokens = TILE, .weights = -1});
    cr_assert(passes_run(m, &(PassOptions){.targets = &target, .n_targets = 1, .log = &plan[i]}, &p, &e),
              "%s", e.text);
    program_print(p, &plan[i]);
  }
  cr_expect_str_eq(plan[0].data, plan[1].data);
  arena_free(&a);
}

/* ---- a head in two planes: the largest logits are those of the whole head */

enum { HEAD_ROWS = 40000 };

static const char head_text[] = "weight w q8_0[40000,160]\n"
                                "graph decode tokens 1 {\n"
                                "  %1 = input f32[1,160] x\n"
                                "  %2 = input i32[1] tokens\n"
                                "  %3 = weight q8_0[40000,160] w\n"
                                "  %4 = embed f32[1,160] %2, %3\n"
                                "  %5 = add f32[1,160] %1, %4\n"
                                "  %6 = linear f32[1,40000] %5, %3\n"
                                "  %7 = output f32[1,40000] %6 logits\n"
                                "}\n";

static int larger_first(const void *a, const void *b)
{
  const float *x = a, *y = b;
  return *x < *y ? 1 : *x > *y ? -1 : 0;
}

static void check_top(Run *r, const Array *x, const Array *all, uint32_t top)
{
  const Entry *en = &r->p->entries.data[0];
  Array sorted = {arena_copy(r->a, all->data, sizeof(float) * (size_t)all->count), all->count};
  int64_t kept = 0;

  qsort(sorted.data, (size_t)all->count, sizeof(float), larger_first);
  r->top = top;
  put(r, &r->p->ios.data[en->inputs.first], x);
  run_entry(r, 0, 0, 1);
  Array got = get(r, &r->p->ios.data[en->outputs.first]);
  for (int64_t i = 0; i < all->count; i++) {
    bool same = got.data[i] == all->data[i], out = got.data[i] == -INFINITY;
    kept += !out;
    cr_assert(same || (out && all->data[i] < sorted.data[top - 1]), "top %u, row %lld: %g, not %g", top,
              (long long)i, (double)got.data[i], (double)all->data[i]);
  }
  printf("top %u: %lld of %d rows read\n", top, (long long)kept, HEAD_ROWS);
  cr_expect_lt(kept, HEAD_ROWS / 2);
}

/* shift: added to each activation. A large one makes sums of activations large, and what the high plane's middle takes away. */
static void check_head(const char *cpu, ExecWay way, float shift)
{
  Arena a = {0};
  Err e = {0};
  Rng rng = {5};
  Module *m = module_parse(&a, head_text, "head", &e);

  cr_assert(m, "%s", e.text);
  gen_weights(&a, &rng, m);
  Run r = run_open(&a, m, cpu, way);
  const Graph *g = m->graphs.data[0];
  const Entry *en = &r.p->entries.data[0];
  Array *in = gen_inputs(&a, &rng, g, 0, 100), *want = gen_outputs(&a, g);
  cr_assert_eq(r.p->items.data[0].layout, LAYOUT_PLANES);
  for (int64_t i = 0; i < in[0].count; i++)
    in[0].data[i] += shift;
  graph_eval(g, &a, in, NULL, want);
  for (uint32_t i = 0; i < 2; i++)
    put(&r, &r.p->ios.data[en->inputs.first + i], &in[i]);
  run_entry(&r, 0, 0, 1);
  Array all = get(&r, &r.p->ios.data[en->outputs.first]);
  double error = gen_error(&all, want);
  cr_expect_lt(error, 1e-5, "%s: %g", cpu, error);
  check_top(&r, &in[0], &all, 1);
  check_top(&r, &in[0], &all, 40);
  exec_close(r.x);
  arena_free(&a);
}

Test(lower, head_in_planes)
{
#if MICC_HAVE_LLVM
  check_head("x86-64-v2", EXEC_LLVM, 0);
  check_head("x86-64-v2", EXEC_LLVM, 100);
  check_head("native", EXEC_LLVM, 0);
  check_head("native", EXEC_LLVM, 100);
#endif
  check_head("x86-64-v3", EXEC_EVAL, 0);
}
