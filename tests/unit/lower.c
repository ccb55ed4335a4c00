/* Lowered graphs against the oracle: random graphs and random decoder models, run through the kernel
 * interpreter at 4, 8 and 16 lanes, through C (libtcc) and through LLVM. And what must hold bit for bit: the
 * same logits whether a token came through prefill or decode. */
#include "passes/lower/lower.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "codegen/c.h"
#include "codegen/image.h"
#include "passes/lower/panel.h"
#include "passes/passes.h"
#include "tests/unit/support/graph_gen.h"
#if MICC_HAVE_LLVM
#include "codegen/llvm.h"
#endif
#if MICC_HAVE_TCC
#include "codegen/tcc.h"
#endif

typedef enum { THROUGH_EVAL, THROUGH_TCC, THROUGH_LLVM } Through;

/* A program ready to run in this process. */
typedef struct {
  Arena *a;
  Program *p;
  Through through;
  uint32_t top; /* logits wanted; 0: all */
  uint8_t *space[4];
  MiKernel *const *kernels;
#if MICC_HAVE_LLVM
  LlvmJit *llvm;
#endif
#if MICC_HAVE_TCC
  TccJit *tcc;
#endif
} Run;

static bool collect(void *ctx, const void *bytes, uint64_t n)
{
  Text *t = ctx;
  text_add(t, bytes, n);
  return true;
}

static uint8_t *aligned(Arena *a, uint64_t bytes)
{
  uint8_t *p = arena_alloc(a, bytes + 64);
  return p + (64 - (uintptr_t)p % 64) % 64;
}

static void load_weights(Run *r)
{
  Image im;
  Text t = {.arena = r->a};

  Err e = {0};
  cr_assert(image_build(r->a, &(Program *){r->p}, 1, &(ImageParts){"", NULL, 0}, &im, &e));
  cr_assert(image_write(&im, collect, &t));
  cr_assert_eq(t.len, im.bytes);
  r->space[SPACE_WEIGHTS] = aligned(r->a, im.bytes - im.head_bytes);
  memcpy(r->space[SPACE_WEIGHTS], t.data + im.head_bytes, im.bytes - im.head_bytes);
}

static void compile(Run *r, const Target *target)
{
  const Kernel *const *k = (const Kernel *const *)r->p->kernels.data;
  Err e = {0};

  (void)k, (void)e, (void)target;
#if MICC_HAVE_LLVM
  if (r->through == THROUGH_LLVM) {
    r->llvm = llvm_jit(k, r->p->kernels.len, &(LlvmOptions){.target = target, .opt_level = 2}, &e);
    cr_assert(r->llvm, "%s", e.text);
    r->kernels = llvm_jit_table(r->llvm);
  }
#endif
#if MICC_HAVE_TCC
  if (r->through == THROUGH_TCC) {
    Text t = {.arena = r->a};
    cr_assert(c_print_kernels(k, r->p->kernels.len, &t, &e), "%s", e.text);
    r->tcc = tcc_jit(t.data, &e);
    cr_assert(r->tcc, "%s", e.text);
    r->kernels = tcc_jit_symbol(r->tcc, "mi_kernels");
  }
#endif
}

static Run run_open(Arena *a, Module *m, const char *cpu, Through through)
{
  Run r = {.a = a, .through = through};
  Err e = {0};
  const Target *target = target_find(cpu, &e);
  Program *p;

  cr_assert(target, "%s", e.text);
  Text log = {.arena = a};
  cr_assert(passes_run(m, &(PassOptions){.targets = &target, .n_targets = 1, .log = &log}, &p, &e), "%s",
            e.text);
  r.p = p;
  for (int s = SPACE_ARENA; s <= SPACE_SCRATCH; s++)
    r.space[s] = aligned(a, p->space_bytes[s]);
  memset(r.space[SPACE_ARENA], 0x7f,
         p->space_bytes[SPACE_ARENA]); /* 3e38: what is read before it is written shows */
  load_weights(&r);
  compile(&r, target);
  return r;
}

static void run_close(Run *r)
{
#if MICC_HAVE_LLVM
  if (r->llvm)
    llvm_jit_free(r->llvm);
#endif
#if MICC_HAVE_TCC
  if (r->tcc)
    tcc_jit_free(r->tcc);
#endif
  (void)r;
}

static void run_part(const Run *r, const Part *part, const int32_t *args)
{
  uint8_t *buf[MI_MAX_PARAMS];
  void *eval_buf[MI_MAX_PARAMS];
  uint64_t bytes[MI_MAX_PARAMS];
  int64_t grid = (int64_t)part->grid * (part->per_token ? args[1] : 1);
  Err e = {0};

  cr_assert_leq(part->binds.count, MI_MAX_PARAMS);
  int32_t all[K_ARGS] = {args[0], args[1], args[2]};
  memcpy(all + K_CONSTANT, part->constant, sizeof part->constant);
  for (uint32_t i = 0; i < part->binds.count; i++) {
    const Bind *b = &r->p->binds.data[part->binds.first + i];
    const Buffer *at = &r->p->buffers.data[b->buffer];
    eval_buf[i] = buf[i] = r->space[at->space] + at->offset + b->offset;
    bytes[i] = at->bytes - b->offset;
  }
  if (r->through == THROUGH_EVAL)
    cr_assert(kernel_eval(r->p->kernels.data[part->kernel], eval_buf, bytes, all, 0, grid, &e), "%s", e.text);
  else
    r->kernels[part->kernel](buf, all, 0, grid);
}

static void run_entry(const Run *r, uint32_t entry, int32_t pos, int32_t tokens)
{
  const Entry *en = &r->p->entries.data[entry];
  int32_t args[3] = {pos, tokens, (int32_t)r->top};

  for (uint32_t i = 0; i < en->launches.count; i++) {
    const Launch *l = &r->p->launches.data[en->launches.first + i];
    for (uint32_t j = l->parts.count; j-- > 0;) /* any order must do */
      run_part(r, &r->p->parts.data[l->parts.first + j], args);
  }
}

/* ---- rows of arena values, which are padded */

static void put(const Run *r, const Io *io, const Array *x)
{
  uint8_t *to = r->space[SPACE_ARENA] + r->p->buffers.data[io->buffer].offset;
  int64_t rows = io->type.rank > 1 ? io->type.dim[0] : 1, row = x->count / rows,
          stride = lower_stride(&io->type);

  for (int64_t i = 0; i < x->count; i++) {
    int64_t at = rows > 1 ? i / row * stride + i % row : i;
    if (io->type.dtype == DT_I32)
      ((int32_t *)(void *)to)[at] = (int32_t)x->data[i];
    else
      ((float *)(void *)to)[at] = x->data[i];
  }
}

static Array get(const Run *r, const Io *io)
{
  const float *from =
      (const float *)(const void *)(r->space[SPACE_ARENA] + r->p->buffers.data[io->buffer].offset);
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

static void compare_random(uint64_t seed, const char *cpu, Through through)
{
  Arena a = {0};
  Module *m = gen_random(&a, &(GenOptions){.seed = seed, .n_nodes = 14});
  Rng rng = {seed};
  Run r = run_open(&a, m, cpu, through);
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
  run_close(&r);
  arena_free(&a);
}

static const char *const eval_rows[] = {"x86-64-v2", "x86-64-v3", "cascadelake"};

Test(lower, random_graphs_interpreted)
{
  for (uint64_t seed = 1; seed <= 150; seed++)
    compare_random(seed, eval_rows[seed % 3], THROUGH_EVAL);
}

#if MICC_HAVE_TCC
Test(lower, random_graphs_in_c)
{
  for (uint64_t seed = 1; seed <= 60; seed++)
    compare_random(seed, "c", THROUGH_TCC);
}
#endif

#if MICC_HAVE_LLVM
Test(lower, random_graphs_in_llvm)
{
  static const char *const rows[] = {"x86-64-v2", "native"};
  for (uint64_t seed = 1; seed <= 40; seed++)
    compare_random(seed, rows[seed % 2], THROUGH_LLVM);
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
  int32_t *ids = (int32_t *)(void *)(r->space[SPACE_ARENA] + r->p->buffers.data[en->tokens_buffer].offset);

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

static void compare_decoder(uint64_t seed, int dtype, const char *cpu, Through through)
{
  Arena a = {0};
  Module *m = gen_decoder(&a, &(DecoderOptions){.seed = seed, .prefill_tokens = TILE, .weights = dtype});
  Rng rng = {seed};
  Array *states = gen_states(&a, &rng, m);

  for (uint32_t i = 0; i < m->states.len; i++)
    memset(states[i].data, 0, sizeof(float) * (size_t)states[i].count);
  Run whole = run_open(&a, m, cpu, through), mixed = whole;
  mixed.space[SPACE_STATE] = aligned(&a, whole.p->space_bytes[SPACE_STATE]);
  uint32_t decode = entry_named(&whole, "decode"), prefill = entry_named(&whole, "prefill");
  const Graph *g = m->graphs.data[decode]; /* after the passes: activations are rounded as in the program */
  int last = STEPS < (int)whole.p->context ? STEPS : (int)whole.p->context - 1;
  Array a1 = {0}, b1, want = {0};

  for (int i = 0; i <= last; i++) {
    a1 = feed(&whole, m, decode, i, 1);
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
  int fed = 0;
  for (int n; fed < last; fed += n) {
    n = last - fed < TILE - 5 ? last - fed : TILE - 5; /* tiles that are not full */
    feed(&mixed, m, prefill, fed, n);
  }
  b1 = feed(&mixed, m, decode, last, 1);
  cr_expect(!memcmp(a1.data, b1.data, sizeof(float) * (size_t)a1.count),
            "seed %llu, %s: prefill and decode differ", (unsigned long long)seed, cpu);
  run_close(&whole);
  arena_free(&a);
}

static void decoders(const char *cpu, Through through, uint64_t seeds)
{
  for (uint64_t seed = 1; seed <= seeds; seed++)
    for (int t = -1; t < DT_COUNT; t++)
      if (t < 0 || t == DT_F32 || t == DT_F16 || t == DT_BF16 || dtype_info[t].kind == DK_BLOCK)
        compare_decoder(seed * 100 + (uint64_t)(t + 1), t, cpu, through);
}

#if MICC_HAVE_LLVM
Test(lower, decoders_in_llvm_v2)
{
  decoders("x86-64-v2", THROUGH_LLVM, 1);
}

Test(lower, decoders_in_llvm_v3)
{
  Err e = {0};
  if (target_find("x86-64-v3", &e)->runs_here())
    decoders("x86-64-v3", THROUGH_LLVM, 1);
  else
    puts("skipped: x86-64-v3, this machine lacks it");
}

Test(lower, decoders_in_llvm_native)
{
  decoders("native", THROUGH_LLVM, 2);
}
#endif

#if MICC_HAVE_TCC
Test(lower, decoders_in_c)
{
  decoders("c", THROUGH_TCC, 1);
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

static void check_head(const char *cpu, Through through)
{
  Arena a = {0};
  Err e = {0};
  Rng rng = {5};
  Module *m = module_parse(&a, head_text, "head", &e);

  cr_assert(m, "%s", e.text);
  gen_weights(&a, &rng, m);
  Run r = run_open(&a, m, cpu, through);
  const Graph *g = m->graphs.data[0];
  const Entry *en = &r.p->entries.data[0];
  Array *in = gen_inputs(&a, &rng, g, 0, 100), *want = gen_outputs(&a, g);
  cr_assert_eq(r.p->items.data[0].layout, LAYOUT_PLANES);
  graph_eval(g, &a, in, NULL, want);
  for (uint32_t i = 0; i < 2; i++)
    put(&r, &r.p->ios.data[en->inputs.first + i], &in[i]);
  run_entry(&r, 0, 0, 1);
  Array all = get(&r, &r.p->ios.data[en->outputs.first]);
  double error = gen_error(&all, want);
  cr_expect_lt(error, 1e-5, "%s: %g", cpu, error);
  check_top(&r, &in[0], &all, 1);
  check_top(&r, &in[0], &all, 40);
  run_close(&r);
  arena_free(&a);
}

Test(lower, head_in_planes)
{
#if MICC_HAVE_LLVM
  check_head("x86-64-v2", THROUGH_LLVM);
  check_head("native", THROUGH_LLVM);
#endif
  check_head("x86-64-v3", THROUGH_EVAL);
}
