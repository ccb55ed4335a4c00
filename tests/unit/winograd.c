/* Convolutions by F(m, r) (passes/lower/dense_winograd.c) against the oracle: every m and r, edges, padding, kernel rows,
 * element types; through the kernel interpreter at 4, 8 and 16 lanes, through C (libtcc) and through LLVM. Errors are
 * stated in docs/numerics.md: VERBOSE=1 prints them. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "codegen/exec.h"
#include "passes/passes.h"
#include "tests/unit/support/make.h"

/* Of 1-D convolutions rows is 0. */
typedef struct {
  const char *kernel; /* what the names of the kernels begin with; NULL: it is computed directly */
  int64_t batch, rows, columns, kernel_rows, kernel_columns, channels, outputs;
  int64_t dilation, above, below, left, right; /* dilation: of the kernel's rows */
  DType type;
} Case;

static const Case cases[] = {
    /*                       n   h   w kh kw   c   o  d  paddings */
    {"conv.winograd4.3.", 1, 0, 64, 1, 3, 48, 48, 1, 0, 0, 0, 0, DT_F32},
    {"conv.winograd4.3.", 2, 0, 71, 1, 3, 40, 32, 1, 0, 0, 1, 1, DT_F32},
    {"conv.winograd4.3.", 1, 0, 67, 1, 3, 33, 48, 1, 0, 0, 2, 0, DT_F32},
    {"conv.winograd4.5.", 1, 0, 70, 1, 5, 16, 32, 1, 0, 0, 0, 0, DT_F32},
    {"conv.winograd4.5.", 1, 0, 129, 1, 5, 24, 64, 1, 0, 0, 2, 2, DT_F32},
    {"conv.winograd4.5.", 1, 0, 66, 1, 5, 40, 16, 1, 0, 0, 4, 1, DT_F32},
    {"conv.winograd2.5.", 2, 9, 6, 5, 5, 16, 32, 1, 2, 2, 2, 2, DT_F32},
    {"conv.winograd2.5.", 1, 16, 2, 3, 5, 48, 48, 1, 1, 1, 2, 2, DT_F32},
    {"conv.winograd4.3.", 1, 13, 13, 3, 3, 16, 48, 1, 1, 1, 1, 1, DT_F32},
    {"conv.winograd4.3.", 2, 9, 15, 3, 3, 17, 80, 1, 0, 1, 1, 0, DT_F32},
    {"conv.winograd4.3.", 1, 12, 16, 2, 3, 16, 32, 2, 2, 0, 0, 2, DT_F32},
    {"conv.winograd4.3.", 1, 8, 12, 1, 3, 32, 32, 1, 0, 0, 1, 1, DT_F32},
    {"conv.winograd4.5.", 1, 5, 20, 3, 5, 16, 16, 1, 1, 1, 2, 2, DT_F32},
    {"conv.winograd4.3.", 1, 64, 1, 3, 1, 48, 48, 1, 1, 1, 0, 0,
     DT_F32}, /* along the rows: nothing else moves */
    {"conv.winograd2.3.", 1, 16, 2, 3, 3, 48, 16, 1, 1, 1, 1, 1, DT_F32},
    {"conv.winograd2.3.", 1, 9, 6, 3, 3, 32, 32, 1, 1, 1, 1, 1, DT_F32},
    {"conv.winograd4.3.", 1, 20, 20, 3, 3, 16, 16, 1, 1, 1, 1, 1, DT_F16},
    {"conv.winograd4.3.", 1, 20, 19, 3, 3, 16, 32, 1, 1, 1, 1, 1, DT_BF16},
    {NULL, 1, 3, 8, 3, 3, 16, 16, 1, 1, 1, 1, 1, DT_F32},   /* few tiles */
    {NULL, 1, 20, 20, 3, 3, 15, 16, 1, 1, 1, 1, 1, DT_F32}, /* few channels */
    {NULL, 1, 20, 20, 3, 3, 16, 24, 1, 1, 1, 1, 1, DT_F32}, /* half a panel of outputs */
    {NULL, 1, 20, 20, 3, 3, 16, 16, 1, 1, 1, 1, 3, DT_F32}, /* windows outside of the input */
    {NULL, 1, 6, 12, 3, 3, 16, 128, 1, 1, 1, 1, 1, DT_F16}, /* weights would be computed for too little */
};

/* ---- graphs */

static Window window(const Case *c)
{
  Window w = {.spatial = c->rows ? 2 : 1, .group = 1};
  uint32_t last = w.spatial - 1;

  for (uint32_t i = 0; i <= last; i++)
    w.stride[i] = w.dilation[i] = 1;
  w.kernel[0] = c->kernel_rows;
  w.dilation[0] = c->dilation;
  w.pad_lo[0] = c->above;
  w.pad_hi[0] = c->below;
  w.kernel[last] = c->kernel_columns;
  w.pad_lo[last] = c->left;
  w.pad_hi[last] = c->right;
  return w;
}

/* The convolution alone, or with a bias and what follows. */
static void build(Make *b, const Case *c, bool plain)
{
  DType t = c->type;
  Val x, w;

  if (c->rows) {
    x = make_input(b, "x", MAKE_SHAPE(t, c->batch, c->rows, c->columns, c->channels));
    w = make_weight(b, "w", MAKE_SHAPE(t, c->outputs, c->kernel_rows, c->kernel_columns, c->channels));
  } else {
    x = make_input(b, "x", MAKE_SHAPE(t, c->batch, c->columns, c->channels));
    w = make_weight(b, "w", MAKE_SHAPE(t, c->outputs, c->kernel_columns, c->channels));
  }
  Attr attr = {.window = window(c)};
  if (plain) {
    make_output(b, MAKE(b, OP_conv, attr, NULL, x, w));
    return;
  }
  Val y = MAKE(b, OP_conv, attr, NULL, x, w, make_weight(b, "b", MAKE_SHAPE(t, c->outputs)));
  y = MAKE(b, OP_relu, ATTR(0), NULL, y);
  make_output(b, MAKE(b, OP_add, ATTR(0), NULL, y, make_input(b, "y", *make_type(b, y))));
}

static void fill(Rng *rng, Tensor *t)
{
  for (int64_t i = 0; i < type_count(&t->type); i++)
    tensor_set(t, i, rng_normal(rng));
}

static void fill_weights(Arena *a, Rng *rng, Module *m)
{
  for (uint32_t i = 0; i < m->weights.len; i++) {
    Tensor t = tensor_new(a, &m->weights.data[i].type);
    fill(rng, &t);
    m->weights.data[i].data = t.data;
    m->weights.data[i].bytes = tensor_bytes(&t.type);
  }
}

/* ---- results */

static bool has_kernel(const Program *p, const char *prefix)
{
  for (uint32_t i = 0; i < p->kernels.len; i++)
    if (!strncmp(p->kernels.data[i]->name, prefix, strlen(prefix)))
      return true;
  return false;
}

/* The largest difference, beside the root mean square of what must be. */
static double error_of(const Tensor *want, const Tensor *got)
{
  int64_t n = type_count(&want->type);
  double most = 0, squares = 0;

  for (int64_t i = 0; i < n; i++) {
    double x = (double)tensor_get(want, i), d = fabs(x - (double)tensor_get(got, i));
    most = d <= most ? most : isnan(d) ? INFINITY : d;
    squares += x * x;
  }
  return most / sqrt(squares / (double)n);
}

static void check(const Case *c, bool plain, uint64_t seed, const char *cpu, ExecWay way)
{
  Arena a = {0};
  Rng rng = {seed};
  Err e = {0};
  Module *m = module_new(&a);
  Make b = {.g = graph_new_dense(m, "run"), .r = &rng, .t = c->type, .op = OP_conv};
  Tensor x[2], want, got;
  Program *p;

  *PUSH(m->arena, m->graphs) = b.g;
  build(&b, c, plain);
  cr_assert(module_verify(m, &e), "%s", e.text);
  fill_weights(&a, &rng, m);
  uint32_t inputs = 0;
  for (Val v = 1; v < b.g->nodes.len; v++)
    if (graph_node(b.g, v)->op == OP_input) {
      x[inputs] = tensor_new(&a, &graph_node(b.g, v)->type);
      fill(&rng, &x[inputs++]);
    }
  graph_eval_dense(b.g, &a, x, &want);
  const Target *target = target_find(cpu, &e);
  cr_assert(target && passes_run(m, &(PassOptions){.targets = &target, .n_targets = 1}, &p, &e), "%s",
            e.text);
  cr_expect_eq(has_kernel(p, c->kernel ? c->kernel : "conv.winograd"), c->kernel != NULL, "case %td, %s: %s",
               c - cases, cpu, c->kernel ? c->kernel : "is not direct");
  Exec *exec = exec_open(p, target, way, &e);
  cr_assert(exec && exec_run(exec, x, &got, &a, &e), "%s", e.text);
  double error = error_of(&want, &got), bound = c->type == DT_F32 ? 1e-5 : c->type == DT_F16 ? 8e-3 : 6e-2;
  if (getenv("VERBOSE") && c->kernel)
    fprintf(stderr, "%s case %td, %s: %.2g\n", c->kernel, c - cases, cpu, error);
  cr_expect(error < bound, "case %td, %s: the largest error is %g", c - cases, cpu, error);
  exec_close(exec);
  arena_free(&a);
}

static void check_all(const char *cpu, ExecWay way)
{
  for (size_t i = 0; i < COUNT(cases); i++) {
    check(&cases[i], true, i, cpu, way);
    check(&cases[i], false, i + 100, cpu, way);
  }
}

Test(winograd, interpreted_4_lanes)
{
  check_all("x86-64-v2", EXEC_EVAL);
}

Test(winograd, interpreted_8_lanes)
{
  check_all("x86-64-v3", EXEC_EVAL);
}

Test(winograd, interpreted_16_lanes)
{
  check_all("x86-64-v4", EXEC_EVAL);
}

#if MICC_HAVE_TCC
Test(winograd, in_c)
{
  check_all("c", EXEC_TCC);
}
#endif

#if MICC_HAVE_LLVM
Test(winograd, in_llvm)
{
  check_all("native", EXEC_LLVM);
}
#endif
