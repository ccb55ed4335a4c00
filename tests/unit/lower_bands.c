/* Chains of windows that one kernel computes in bands of rows: random ones, for a target whose cache holds next to nothing,
 * against the oracle; and which chains become one kernel. */
#include <criterion/criterion.h>
#include <math.h>

#include "passes/passes.h"
#include "tests/unit/support/dense_check.h"

enum { SMALL_CACHE = 8 << 10 };

static Window random_window(Make *b, const Type *t, uint32_t most, uint32_t most_stride)
{
  Window w = {.spatial = 2, .group = 1};

  for (uint32_t i = 0; i < 2; i++) {
    w.kernel[i] = 1 + make_below(b, (uint32_t)min64(most, t->dim[1 + i]));
    w.stride[i] = 1 + make_below(b, most_stride);
    w.dilation[i] = 1;
    w.pad_lo[i] = make_below(b, (uint32_t)w.kernel[i]);
    w.pad_hi[i] = make_below(b, (uint32_t)w.kernel[i]);
  }
  return w;
}

static Val conv(Make *b, Val x, Window w, int64_t outputs)
{
  int64_t in_group = type_last(make_type(b, x)) / w.group;
  Val weight = make_weight(b, "w", MAKE_SHAPE(b->t, outputs, w.kernel[0], w.kernel[1], in_group));

  if (make_below(b, 2))
    return MAKE(b, OP_conv, ATTR(.window = w), NULL, x, weight);
  return MAKE(b, OP_conv, ATTR(.window = w), NULL, x, weight, make_weight(b, "w", MAKE_SHAPE(b->t, outputs)));
}

static Val random_stage(Make *b, Val x, bool first)
{
  const Type t = *make_type(b, x);
  Window point = {.spatial = 2, .group = 1, .kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}},
         w = random_window(b, &t, 7, 2);

  switch (make_below(b, first ? 4 : 6)) {
  case 0:
  case 1: return conv(b, x, point, 1 + make_below(b, 40));
  case 2: return conv(b, x, random_window(b, &t, 3, 2), 1 + make_below(b, 20));
  case 3: return MAKE(b, make_below(b, 2) ? OP_pool_max : OP_pool_sum, ATTR(.window = w), NULL, x);
  default: w.group = type_last(&t); return conv(b, x, w, type_last(&t));
  }
}

/* Of the size of what was summed, so that errors stay small. */
static Val scaled(Make *b, Val x)
{
  const Node *n = graph_node(b->g, x);
  const Window *w = &n->attr.window;
  double terms = (double)(w->kernel[0] * w->kernel[1]);

  if (n->op == OP_conv)
    terms *= (double)(type_last(make_type(b, graph_in(b->g, x, 0))) / w->group);
  double scale = n->op == OP_pool_max ? 1 : 0.5 / sqrt(terms);
  return MAKE(b, OP_mul, ATTR(0), NULL, x, make_constant(b, b->t, scale));
}

/* Some lie channel by channel. */
static Val picture(Make *b)
{
  int64_t n = 1 + make_below(b, 5), rows = 12 + make_below(b, 60), columns = 2 + make_below(b, 14);

  if (make_below(b, 3))
    return make_input(b, "x", MAKE_SHAPE(b->t, n, rows, columns, 1 + make_below(b, 20)));
  Val x = make_input(b, "x", MAKE_SHAPE(b->t, n, 1 + make_below(b, 4), rows, columns));
  return MAKE(b, OP_transpose, ATTR(.perm = {0, 2, 3, 1}), NULL, x);
}

static void make_chain(Make *b)
{
  uint32_t n = 2 + (uint32_t)make_below(b, 4);
  Val x = picture(b);

  for (uint32_t i = 0; i < n; i++) {
    x = make_after(b, scaled(b, random_stage(b, x, i == 0)));
    if (!make_below(b, 8))
      make_output(b, x);
  }
  make_output(b, x);
}

static void check_chains(const char *cpu, ExecWay way, uint32_t seeds)
{
  const DenseOps chain = {.make = make_chain};
  Err e = {0};
  Target target = *target_find(cpu, &e);

  target.l2_bytes = SMALL_CACHE;
  dense_check_target(&chain, DT_F32, seeds, &target, way);
}

Test(lower_bands, interpreted)
{
  check_chains("x86-64-v2", EXEC_EVAL, 40);
  check_chains("x86-64-v3", EXEC_EVAL, 40);
  check_chains("x86-64-v4", EXEC_EVAL, 80);
}

#if MICC_HAVE_TCC
Test(lower_bands, in_c)
{
  check_chains("c", EXEC_TCC, 80);
}
#endif

#if MICC_HAVE_LLVM
Test(lower_bands, in_llvm)
{
  check_chains("native", EXEC_LLVM, 40);
}
#endif

/* ---- what becomes one kernel */

typedef struct {
  Arena a;
  Module *m;
  Make b;
  Rng rng;
} Net;

static void start(Net *n, uint64_t seed)
{
  *n = (Net){.rng = {seed}};
  n->m = module_new(&n->a);
  n->b = (Make){.g = graph_new_dense(n->m, "run"), .r = &n->rng, .t = DT_F32};
}

static Val begin(Net *n, int64_t rows, int64_t channels)
{
  start(n, 1);
  return make_input(&n->b, "x", MAKE_SHAPE(DT_F32, 1, rows, 80, channels));
}

static Val window(Net *n, Op op, Val x, int64_t size, int64_t stride, bool each, int64_t outputs)
{
  Window w = {.spatial = 2,
              .group = each ? outputs : 1,
              .kernel = {size, size},
              .stride = {stride, stride},
              .dilation = {1, 1},
              .pad_lo = {(size - 1) / 2, (size - 1) / 2},
              .pad_hi = {(size - 1) / 2, (size - 1) / 2}};

  return op == OP_conv ? conv(&n->b, x, w, outputs) : MAKE(&n->b, op, ATTR(.window = w), NULL, x);
}

static const Program *lower(Net *n, uint32_t l2_bytes)
{
  Program *p;
  Err e = {0};
  Target t = *target_find("x86-64-v3", &e), *target = &t;

  t.l2_bytes = l2_bytes ? l2_bytes : t.l2_bytes;
  cr_assert(module_verify(n->m, &e), "%s", e.text);
  cr_assert(
      passes_run(n->m, &(PassOptions){.targets = (const Target *const *)&target, .n_targets = 1}, &p, &e),
      "%s", e.text);
  return p;
}

static void expect_kernels(Net *n, uint32_t want)
{
  uint32_t parts = lower(n, 0)->parts.len;

  cr_expect_eq(parts, want, "%u kernels, not %u", parts, want);
  arena_free(&n->a);
}

/* That random chains test what they should. */
Test(lower_bands, most_random_chains_have_bands)
{
  uint32_t with = 0, all = 100;

  for (uint64_t s = 1; s <= all; s++) {
    Net n;
    start(&n, s);
    make_chain(&n.b);
    const Program *p = lower(&n, SMALL_CACHE);
    for (uint32_t i = 0; i < p->parts.len; i++)
      if (!strncmp(p->kernels.data[p->parts.data[i].kernel]->name, "bands.", 6)) {
        with++;
        break;
      }
    arena_free(&n.a);
  }
  cr_expect_gt(with, all / 2, "%u of %u", with, all);
}

Test(lower_bands, point_depthwise_and_pool_are_one_kernel)
{
  Net n;
  Val x = window(&n, OP_conv, begin(&n, 80, 16), 1, 1, false, 32);

  x = window(&n, OP_conv, x, 3, 1, true, 32);
  make_output(&n.b, window(&n, OP_pool_max, x, 2, 2, false, 32));
  expect_kernels(&n, 1);
}

Test(lower_bands, pictures_are_read_as_they_lie)
{
  Net n;
  start(&n, 1);
  Val x = make_input(&n.b, "x", MAKE_SHAPE(DT_F32, 1, 3, 80, 80));

  x = MAKE(&n.b, OP_transpose, ATTR(.perm = {0, 2, 3, 1}), NULL, x);
  make_output(&n.b, window(&n, OP_conv, x, 3, 2, false, 32));
  expect_kernels(&n, 1);
}

Test(lower_bands, small_values_are_stored)
{
  Net n;
  Val x = window(&n, OP_conv, begin(&n, 8, 16), 1, 1, false, 32);

  make_output(&n.b, window(&n, OP_conv, x, 3, 1, true, 32));
  expect_kernels(&n, 2);
}

Test(lower_bands, values_that_two_read_are_stored)
{
  Net n;
  Val x = window(&n, OP_conv, begin(&n, 80, 16), 1, 1, false, 32);

  make_output(&n.b, window(&n, OP_conv, x, 3, 1, true, 32));
  make_output(&n.b, x);
  expect_kernels(&n, 2);
}

Test(lower_bands, much_work_is_not_repeated)
{
  Net n;
  Val x = window(&n, OP_conv, begin(&n, 24, 64), 1, 1, false, 64);

  make_output(&n.b, window(&n, OP_conv, x, 7, 1, true, 64));
  expect_kernels(&n, 2);
}
