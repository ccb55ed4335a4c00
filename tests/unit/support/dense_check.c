/* dense_check.c - see dense_check.h. */
#include "tests/unit/support/dense_check.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "passes/passes.h"

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED __has_feature(address_sanitizer)
#else
#define SANITIZED 0
#endif

uint32_t dense_check_seeds(uint32_t n)
{
  return SANITIZED ? (n + 7) / 8 : n;
}

/* ---- data */

static void fill(Rng *rng, const char *name, Tensor *t)
{
  bool idx = !strncmp(name, "idx", 3), pos = !strncmp(name, "pos", 3);

  for (int64_t i = 0; i < type_count(&t->type); i++) {
    double v = rng_normal(rng) * 1.5;
    if (dtype_info[t->type.dtype].kind == DK_INT)
      v = t->type.dtype == DT_BOOL ? rng_below(rng, 2) : idx ? (double)rng_below(rng, 7) - 1 : round(v * 3);
    if (!dtype_is_signed(t->type.dtype) && v < 0)
      v = -v;
    if (!strncmp(name, "code", 4))
      v = (double)(rng_below(rng, 8) ? rng_below(rng, 256) : 255) -
          (dtype_is_signed(t->type.dtype) ? 128 : 0);
    tensor_set(t, i, (long double)(pos ? fabs(v) + 0.1 : v));
  }
}

static void fill_weights(Arena *a, Rng *rng, Module *m)
{
  for (uint32_t i = 0; i < m->weights.len; i++) {
    Weight *w = &m->weights.data[i];
    Tensor t = tensor_new(a, &w->type);
    if (w->data)
      continue;
    fill(rng, w->name, &t);
    w->data = t.data;
    w->bytes = tensor_bytes(&w->type);
  }
}

/* Quantised values may be a step off. */
static double steps_bound(const Graph *g, DType t)
{
  for (Val v = 1; v < g->nodes.len && (t == DT_I8 || t == DT_U8); v++)
    if (graph_node(g, v)->op == OP_round)
      return 1;
  return 0;
}

static double error_bound(const Graph *g, DType t)
{
  bool half = false;

  for (Val v = 1; v < g->nodes.len; v++) {
    DType d = graph_node(g, v)->type.dtype;
    half = half || d == DT_F16 || d == DT_BF16;
  }
  return t == DT_BF16 ? 0.05 : half ? 0.01 : dtype_info[t].kind == DK_INT ? 0 : 1e-4;
}

static bool close_enough(long double got, long double want, double bound, double steps)
{
  if (isnan(want) || isnan(got))
    return isnan(want) && isnan(got);
  return got == want || fabsl(got - want) <= (long double)bound * fmaxl(1, fabsl(want)) + (long double)steps;
}

static void compare(const Graph *g, const Tensor *want, const Tensor *got, const char *what)
{
  double bound = error_bound(g, want->type.dtype), steps = steps_bound(g, want->type.dtype);

  for (int64_t i = 0; i < type_count(&want->type); i++) {
    long double x = tensor_get(got, i), y = tensor_get(want, i);
    cr_expect(close_enough(x, y, bound, steps), "%s: element %lld is %Lg, not %Lg", what, (long long)i, x, y);
    if (!close_enough(x, y, bound, steps))
      break;
  }
}

static uint32_t list_nodes(const Graph *g, Op op, Val *out)
{
  uint32_t n = 0;

  for (Val v = 1; v < g->nodes.len; v++)
    if (graph_node(g, v)->op == op)
      out[n++] = v;
  return n;
}

static void check_module(Arena *a, Module *m, uint64_t seed, const Target *target, ExecWay way,
                         const char *what)
{
  Rng rng = {seed};
  const Graph *g = m->graphs.data[0];
  Val *in = NEW_ARRAY(a, Val, g->nodes.len), *out = NEW_ARRAY(a, Val, g->nodes.len);
  uint32_t n_in = list_nodes(g, OP_input, in), n_out = list_nodes(g, OP_output, out);
  Tensor *x = NEW_ARRAY(a, Tensor, n_in + 1), *want = NEW_ARRAY(a, Tensor, n_out + 1),
         *got = NEW_ARRAY(a, Tensor, n_out + 1);

  fill_weights(a, &rng, m);
  for (uint32_t i = 0; i < n_in; i++) {
    x[i] = tensor_new(a, &graph_node(g, in[i])->type);
    fill(&rng, graph_node(g, in[i])->attr.name, &x[i]);
  }
  graph_eval_dense(g, a, x, want);
  Program *p;
  Err e = {0};
  cr_assert(passes_run(m, &(PassOptions){.targets = &target, .n_targets = 1}, &p, &e), "%s", e.text);
  Exec *exec = exec_open(p, target, way, &e);
  cr_assert(exec, "%s", e.text);
  cr_assert_eq(p->entries.data[0].inputs.count, n_in);
  cr_assert_eq(p->entries.data[0].outputs.count, n_out);
  cr_assert(exec_run(exec, x, got, a, &e), "%s", e.text);
  for (uint32_t i = 0; i < n_out; i++)
    compare(g, &want[i], &got[i], what);
  exec_close(exec);
}

static const Target *find_target(const char *cpu)
{
  Err e = {0};
  const Target *target = target_find(cpu, &e);

  cr_assert(target, "%s", e.text);
  return target;
}

void dense_check_module(Arena *a, Module *m, uint64_t seed, const char *cpu, ExecWay way, const char *what)
{
  check_module(a, m, seed, find_target(cpu), way, what);
}

/* ---- graphs of an op */

static bool is_taken(OpTakes takes, DType t)
{
  switch (takes) {
  case TAKES_FLOAT: return dtype_info[t].kind == DK_FLOAT;
  case TAKES_NUM: return dtype_is_number(t);
  case TAKES_BITS: return dtype_info[t].kind == DK_INT;
  case TAKES_ALL: return dtype_is_number(t) || t == DT_BOOL;
  default: return dtype_is_element(t);
  }
}

static void check_one(const DenseOps *f, DType t, uint64_t seed, const Target *target, ExecWay way)
{
  Arena a = {0};
  Rng rng = {seed * 1000 + t};
  Err e = {0};
  Module *m = module_new(&a);
  Make b = {.g = graph_new_dense(m, "run"), .r = &rng, .t = t, .op = f->op};
  const char *what = arena_printf(&a, "%s %s seed %llu, %s", op_info[f->op].name, dtype_info[t].name,
                                  (unsigned long long)seed, target->name);

  f->make(&b);
  if (getenv("VERBOSE"))
    fprintf(stderr, "%s\n", what);
  if (getenv("GRAPH")) {
    Text text = {.arena = &a};
    graph_print(b.g, &text);
    fputs(text.data, stderr);
  }
  cr_assert(module_verify(m, &e), "%s: %s", what, e.text);
  check_module(&a, m, seed, target, way, what);
  arena_free(&a);
}

void dense_check_one(const DenseOps *f, DType t, uint64_t seed, const char *cpu, ExecWay way)
{
  check_one(f, t, seed, find_target(cpu), way);
}

static bool is_asked(const DenseOps *f, uint64_t seed)
{
  const char *only = getenv("OP"), *one = getenv("SEED");

  return (!only || !strcmp(only, op_info[f->op].name)) && (!one || (uint64_t)atoi(one) == seed);
}

void dense_check_target(const DenseOps *f, DType t, uint32_t seeds, const Target *target, ExecWay way)
{
  for (uint64_t s = 1; s <= dense_check_seeds(seeds); s++)
    if (is_asked(f, s))
      check_one(f, t, s, target, way);
}

void dense_check_type(const DenseOps *f, DType t, uint32_t seeds, const char *cpu, ExecWay way)
{
  dense_check_target(f, t, seeds, find_target(cpu), way);
}

void dense_check_types(const DenseOps *f, const char *cpu, ExecWay way)
{
  for (int t = 0; t < DT_COUNT; t++)
    if (dtype_is_element((DType)t) && is_taken(f->takes, (DType)t))
      dense_check_type(f, (DType)t, f->seeds, cpu, way);
}
