/* Lowered dense graphs against their oracle: every op and element type, random graphs; through the kernel interpreter at
 * 4, 8 and 16 lanes, through C (libtcc) and through LLVM. What is read before it is written, or past an end, shows. */
#include "passes/lower/dense.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "codegen/exec.h"
#include "passes/passes.h"
#include "tests/unit/support/graph_gen.h"

/* ---- data: small numbers; of names that begin with `idx`, integers from -1 to 5; with `pos`, above 0; with `code`,
 * all that the type has */

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

static void check_module(Arena *a, Module *m, uint64_t seed, const char *cpu, ExecWay way, const char *what)
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
  const Target *target = target_find(cpu, &e);
  cr_assert(target, "%s", e.text);
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

/* ---- graphs under construction */

typedef struct {
  Graph *g;
  Rng *r;
  DType t;
  Op op;
  uint32_t names;
} Make;

static int64_t below(Make *b, uint32_t n)
{
  return (int64_t)rng_below(b->r, n);
}

static Type shape(DType t, uint32_t rank, const int64_t *dim)
{
  return type_of(t, rank, dim);
}

#define SHAPE(t, ...)                                                                                        \
  shape(t, sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (const int64_t[]){__VA_ARGS__})

static const char *name_of(Make *b, const char *prefix)
{
  return arena_printf(b->g->module->arena, "%s%u", prefix, b->names++);
}

static Val input(Make *b, const char *prefix, Type t)
{
  return graph_add(b->g, OP_input, NULL, 0, (Attr){.name = name_of(b, prefix)}, &t);
}

static Val weight(Make *b, const char *prefix, Type t)
{
  Module *m = b->g->module;

  *PUSH(m->arena, m->weights) = (Weight){.name = name_of(b, prefix), .type = t};
  return graph_add(b->g, OP_weight, NULL, 0, (Attr){.index = m->weights.len - 1}, &t);
}

static bool is_code(DType t)
{
  return t == DT_I8 || t == DT_U8;
}

static Val constant(Make *b, DType t, double v)
{
  Type scalar = type_of(t, 0, NULL);
  return graph_add(b->g, OP_const, NULL, 0, (Attr){.value = v}, &scalar);
}

static Val add_op(Make *b, Op op, Attr attr, const Type *t, uint32_t n, const Val *in)
{
  return graph_add(b->g, op, in, n, attr, t);
}

#define ADD(b, op, attr, t, ...)                                                                             \
  add_op(b, op, attr, t, sizeof((const Val[]){__VA_ARGS__}) / sizeof(Val), (const Val[]){__VA_ARGS__})
#define ATTR(...) ((Attr){__VA_ARGS__})

static void output(Make *b, Val v)
{
  ADD(b, OP_output, ATTR(.name = name_of(b, "out")), NULL, v);
}

static const Type *type_in(const Make *b, Val v)
{
  return &graph_node(b->g, v)->type;
}

#define SHAPE_LIKE(b, v, t) ((Type[]){with_dtype(*type_in(b, v), t)}[0])
static Type with_dtype(Type type, DType t)
{
  type.dtype = t;
  return type;
}

/* An elementwise node behind what is tested, so that it has an epilogue now and then. */
static Val after(Make *b, Val v)
{
  DType t = type_in(b, v)->dtype;

  if (t == DT_BOOL || !dtype_is_number(t) || below(b, 2))
    return v;
  int64_t last = type_last(type_in(b, v));
  v = ADD(b, OP_add, ATTR(0), NULL, v,
          below(b, 2) ? weight(b, "w", SHAPE(t, last)) : input(b, "x", *type_in(b, v)));
  return below(b, 2) ? ADD(b, OP_relu, ATTR(0), NULL, v) : v;
}

/* What is read may be a movement or an expression. */
static Val before(Make *b, Val v)
{
  const Type t = *type_in(b, v);
  Attr attr = {.name = NULL};

  switch (below(b, 6)) {
  case 0: /* a part of something larger */
    if (t.rank) {
      Type wide = t;
      uint32_t axis = (uint32_t)below(b, t.rank);
      wide.dim[axis] = wide.dim[axis] * 2 + 1;
      attr.slice.axis = axis;
      attr.slice.start = below(b, 2) ? 1 : 2 * t.dim[axis] - (t.dim[axis] > 0);
      attr.slice.step = attr.slice.start == 1 ? 1 + below(b, 2) : -1;
      attr.slice.count = t.dim[axis];
      if (attr.slice.step == 2)
        attr.slice.start = 0;
      return ADD(b, OP_slice, attr, NULL, input(b, "x", wide));
    }
    return v;
  case 1: /* dimensions in another order */
    if (t.rank > 1) {
      Type other = t;
      for (uint32_t i = 0; i < t.rank; i++)
        attr.perm[i] = (uint8_t)i;
      uint32_t k = (uint32_t)below(b, t.rank), j = (uint32_t)below(b, t.rank);
      attr.perm[k] = (uint8_t)j;
      attr.perm[j] = (uint8_t)k;
      other.dim[k] = t.dim[j];
      other.dim[j] = t.dim[k];
      return ADD(b, OP_transpose, attr, NULL, input(b, "x", other));
    }
    return v;
  case 2: return dtype_is_number(t.dtype) ? ADD(b, OP_neg, attr, NULL, v) : v;
  case 3: { /* another shape */
    Type flat = SHAPE(t.dtype, type_count(&t));
    return ADD(b, OP_reshape, attr, &t, input(b, "x", flat));
  }
  default: return v;
  }
}

static Val operand(Make *b, const char *prefix, Type t)
{
  Val v = below(b, 3) ? input(b, prefix, t) : weight(b, prefix, t);
  bool idx = prefix[0] == 'i';
  return idx ? v : before(b, v);
}

/* ---- one op in graphs of its own */

static void make_unary(Make *b)
{
  const char *name = b->op == OP_log || b->op == OP_sqrt ? "pos" : "x";
  Val x = input(b, name, SHAPE(b->t, 1 + below(b, 3), 19 + below(b, 30)));
  output(b, ADD(b, b->op, ATTR(0), NULL, x));
}

static void make_binary(Make *b)
{
  const char *name = b->op == OP_pow ? "pos" : "x";
  int64_t m = 1 + below(b, 5), n = 1 + below(b, 40);
  Val x = input(b, name, SHAPE(b->t, 3, m, n)), y;

  switch (below(b, 4)) {
  case 0: y = input(b, name, SHAPE(b->t, n)); break;
  case 1: y = weight(b, name, SHAPE(b->t, m, 1)); break;
  case 2: y = constant(b, b->t, 2); break;
  default: y = input(b, name, SHAPE(b->t, 3, m, n));
  }
  output(b, below(b, 2) ? ADD(b, b->op, ATTR(0), NULL, x, y) : ADD(b, b->op, ATTR(0), NULL, y, x));
}

static void make_where(Make *b)
{
  int64_t m = 1 + below(b, 5), n = 1 + below(b, 40);
  Val c = operand(b, "x", SHAPE(DT_BOOL, m, 1)), x = operand(b, "x", SHAPE(b->t, m, n)),
      y = operand(b, "x", SHAPE(b->t, n));
  output(b, ADD(b, OP_where, ATTR(0), NULL, c, x, y));
}

static void make_cast(Make *b)
{
  for (int t = 0; t < DT_COUNT; t++) {
    Type to = SHAPE((DType)t, 21);
    if (!dtype_is_element((DType)t))
      continue;
    Val x = input(b, "x", SHAPE(b->t, 21));
    Val y = ADD(b, OP_cast, ATTR(.saturate = below(b, 2)), &to, x);
    output(b, y);
    if (dtype_info[t].bytes == dtype_info[b->t].bytes && dtype_bits((DType)t) >= 8 && dtype_bits(b->t) >= 8)
      output(b, ADD(b, OP_bitcast, ATTR(0), &to, x));
  }
}

static Type random_shape(Make *b, DType t, uint32_t rank)
{
  Type s = {.dtype = t, .rank = rank};

  for (uint32_t i = 0; i < rank; i++)
    s.dim[i] = below(b, 6) ? 1 + below(b, i + 1 == rank ? 40 : 5) : 1;
  return s;
}

static void make_reduce(Make *b)
{
  Type t = random_shape(b, b->t, 1 + (uint32_t)below(b, 4));
  uint32_t axes = (uint32_t)below(b, 1u << t.rank);
  if (!below(b, 8))
    t.dim[below(b, t.rank)] = 0;
  output(b, after(b, ADD(b, b->op, ATTR(.axes = axes), NULL, operand(b, "x", t))));
}

static void make_axis(Make *b)
{
  Type t = random_shape(b, b->t, 1 + (uint32_t)below(b, 4));
  uint32_t axis = (uint32_t)below(b, t.rank);
  Attr attr = {.name = NULL};

  if (b->op == OP_argmax || b->op == OP_argmin) {
    attr.arg.axis = axis;
    attr.arg.last = below(b, 2);
  } else {
    attr.scan.axis = axis;
    attr.scan.exclusive = below(b, 2);
    attr.scan.reverse = below(b, 2);
  }
  output(b, after(b, ADD(b, b->op, attr, NULL, operand(b, "x", t))));
}

static void make_softmax(Make *b)
{
  output(b, after(b, ADD(b, OP_softmax, ATTR(0), NULL,
                         operand(b, "x", random_shape(b, b->t, 1 + (uint32_t)below(b, 4))))));
}

static void make_topk(Make *b)
{
  Type t = random_shape(b, b->t, 1 + (uint32_t)below(b, 3));
  Attr attr = {.topk = {1 + below(b, (uint32_t)type_last(&t)), below(b, 2)}};
  output(b, ADD(b, OP_topk, attr, NULL, operand(b, "x", t)));
}

static void make_gather(Make *b)
{
  Type t = random_shape(b, b->t, 1 + (uint32_t)below(b, 3)),
       it = random_shape(b, below(b, 2) ? DT_I64 : DT_I32, (uint32_t)below(b, 3));
  output(b, after(b, ADD(b, OP_gather, ATTR(.axis = (uint32_t)below(b, t.rank)), NULL, operand(b, "x", t),
                         operand(b, "idx", it))));
}

static void make_scatter(Make *b)
{
  Type t = random_shape(b, b->t, 1 + (uint32_t)below(b, 3)), u = t;
  u.dim[0] = 1 + below(b, 6);
  bool num = dtype_is_number(b->t);
  Attr attr = {.reduce = num ? (ScatterReduce)below(b, 5) : SCATTER_NONE};
  output(b, ADD(b, OP_scatter, attr, NULL, operand(b, "x", t), operand(b, "idx", SHAPE(DT_I64, u.dim[0])),
                operand(b, "x", u)));
}

static void make_pad(Make *b)
{
  Type t = random_shape(b, b->t, 1 + (uint32_t)below(b, 3)), to = t;
  Attr attr = {.name = NULL};

  for (uint32_t i = 0; i < t.rank; i++) {
    attr.pad.lo[i] = below(b, 5) - 2;
    to.dim[i] = max64(0, t.dim[i] + below(b, 5) - 1);
  }
  output(b, after(b, ADD(b, OP_pad, attr, &to, operand(b, "x", t), constant(b, b->t, 1))));
}

static void make_movement(Make *b)
{
  Type t = random_shape(b, b->t, 1 + (uint32_t)below(b, 4)), wide = t;
  Val x = before(b, before(b, input(b, "x", t)));

  for (uint32_t i = 0; i < t.rank; i++)
    if (t.dim[i] == 1)
      wide.dim[i] = 1 + below(b, 4);
  output(b, ADD(b, OP_expand, ATTR(0), &wide, x));
  if (t.rank > 1) {
    Attr attr = {.name = NULL};
    for (uint32_t i = 0; i < t.rank; i++)
      attr.perm[i] = (uint8_t)((i + 1) % t.rank);
    output(b, ADD(b, OP_transpose, attr, NULL, x));
  }
  output(b, x);
  output(b, weight(b, "w", t));
}

/* Large enough for tiles in registers. */
static void make_transpose(Make *b)
{
  int64_t n = 1 + below(b, 70), m = 1 + below(b, 70), c = 1 + below(b, 5);
  Val x = input(b, "x", SHAPE(b->t, c, m, n)), y = weight(b, "w", SHAPE(b->t, n));
  Attr attr = {.perm = {1, 2, 0}}, back = {.perm = {0, 2, 1}};

  output(b, ADD(b, OP_transpose, attr, NULL, x));
  if (dtype_is_number(b->t))
    x = ADD(b, OP_sub, ATTR(0), NULL, x, y);
  output(b, ADD(b, OP_transpose, back, NULL, x));
}

/* Results that become every second element of a whole. */
static void make_stack(Make *b)
{
  Type t = random_shape(b, b->t, 2), apart = SHAPE(b->t, t.dim[0], t.dim[1], 1);
  Val in[2];

  for (int i = 0; i < 2; i++) {
    in[i] = operand(b, "x", t);
    if (dtype_is_number(b->t))
      in[i] = ADD(b, OP_linear, ATTR(0), NULL, in[i], weight(b, "w", SHAPE(b->t, t.dim[1], t.dim[1])));
    apart.dtype = type_in(b, in[i])->dtype;
    in[i] = ADD(b, OP_reshape, ATTR(0), &apart, in[i]);
  }
  output(b, ADD(b, OP_concat, ATTR(.axis = 2), NULL, in[0], in[1]));
}

static void make_concat(Make *b)
{
  Type t = random_shape(b, b->t, 1 + (uint32_t)below(b, 3));
  uint32_t axis = (uint32_t)below(b, t.rank);
  Val in[4], y;

  for (int i = 0; i < 4; i++) {
    t.dim[axis] = below(b, 5);
    in[i] = operand(b, "x", t);
    if (dtype_is_number(b->t))
      in[i] = ADD(b, OP_neg, ATTR(0), NULL, in[i]);
  }
  y = ADD(b, OP_concat, ATTR(.axis = axis), NULL, in[0], in[1], in[2]);
  output(b, after(b, y));
  output(b, ADD(b, OP_concat, ATTR(.axis = axis), NULL, y, in[3], in[0]));
}

static void make_linear(Make *b)
{
  int64_t k = 1 + below(b, 20), n = 1 + below(b, 70), m = 1 + below(b, 30);
  Type w = SHAPE(b->t, n, k);
  Val wv = below(b, 4) ? weight(b, "w", w) : operand(b, "x", w);
  Val x = below(b, 2) ? operand(b, "x", SHAPE(b->t, m, k)) : operand(b, "x", SHAPE(b->t, 2, m, k));
  output(b, after(b, ADD(b, OP_linear, ATTR(0), NULL, x, wv)));
}

static void make_matmul(Make *b)
{
  int64_t k = 1 + below(b, 20), n = 1 + below(b, 40), m = 1 + below(b, 30);
  Val x = below(b, 2) ? operand(b, "x", SHAPE(b->t, m, k)) : operand(b, "x", SHAPE(b->t, 2, 3, m, k));
  Val y = below(b, 2) ? operand(b, "x", SHAPE(b->t, k, n)) : operand(b, "x", SHAPE(b->t, 3, k, n));
  output(b, after(b, ADD(b, OP_matmul, ATTR(0), NULL, x, y)));
}

static void make_window(Make *b)
{
  uint32_t d = 1 + (uint32_t)below(b, 3);
  int64_t group = b->op == OP_conv ? 1 + below(b, 3) : 1, in_group = 1 + below(b, 9),
          out_group = 1 + below(b, 20);
  Type x = {.dtype = b->t, .rank = d + 2}, w = {.dtype = b->t, .rank = d + 2};
  Window win = {.spatial = d, .group = group};

  if (!below(b, 3)) { /* depthwise */
    group = win.group = b->op == OP_conv ? 1 + below(b, 40) : 1;
    in_group = out_group = 1;
  }
  x.dim[0] = 1 + below(b, 2);
  for (uint32_t i = 0; i < d; i++) {
    win.kernel[i] = 1 + below(b, 4);
    win.stride[i] = 1 + below(b, 3);
    win.dilation[i] = 1 + below(b, 2);
    win.pad_lo[i] = below(b, 3);
    win.pad_hi[i] = below(b, 3);
    x.dim[1 + i] = (win.kernel[i] - 1) * win.dilation[i] + 1 + below(b, d == 1 ? 40 : 9);
    w.dim[1 + i] = win.kernel[i];
  }
  x.dim[d + 1] = group * in_group;
  w.dim[0] = group * out_group;
  w.dim[d + 1] = in_group;
  Val xv = operand(b, "x", x);
  if (b->op != OP_conv) {
    output(b, after(b, ADD(b, b->op, ATTR(.window = win), NULL, xv)));
    return;
  }
  Val wv = below(b, 4) ? weight(b, "w", w) : operand(b, "x", w);
  if (below(b, 2))
    output(b, after(b, ADD(b, OP_conv, ATTR(.window = win), NULL, xv, wv)));
  else
    output(b, after(b, ADD(b, OP_conv, ATTR(.window = win), NULL, xv, wv,
                           weight(b, "w", SHAPE(is_code(b->t) ? DT_I32 : b->t, w.dim[0])))));
}

/* ---- products of bytes, and the float arithmetic of quantised nets that becomes such */

/* What makes codes of sums. */
static Val requantized(Make *b, Val sum)
{
  Val x = ADD(b, OP_cast, ATTR(.saturate = true), &SHAPE_LIKE(b, sum, DT_F32), sum);

  x = ADD(b, OP_mul, ATTR(0), NULL, x, weight(b, "w", SHAPE(DT_F32, type_last(type_in(b, sum)))));
  return below(b, 2) ? ADD(b, OP_relu, ATTR(0), NULL, x) : x;
}

static void make_code_linear(Make *b)
{
  int64_t k = 1 + below(b, 150), n = 1 + below(b, 100), m = 1 + below(b, 20);
  Type x = below(b, 2) ? SHAPE(DT_U8, m, k) : SHAPE(DT_U8, 2, m, k);
  Val sum = ADD(b, OP_linear, ATTR(0), NULL, input(b, "code", x), weight(b, "code", SHAPE(DT_I8, n, k)));

  output(b, below(b, 2) ? after(b, sum) : requantized(b, sum));
}

static void make_code_conv(Make *b)
{
  uint32_t d = 1 + (uint32_t)below(b, 3);
  Type x = {.dtype = DT_U8, .rank = d + 2}, w = {.dtype = DT_I8, .rank = d + 2};
  Window win = {.spatial = d, .group = 1};

  x.dim[0] = 1 + below(b, 2);
  for (uint32_t i = 0; i < d; i++) {
    win.kernel[i] = 1 + below(b, d < 3 ? 6 : 3);
    win.stride[i] = 1 + below(b, 2);
    win.dilation[i] = below(b, 4) ? 1 : 2;
    win.pad_lo[i] = below(b, 8) ? 0 : 1;
    x.dim[1 + i] = (win.kernel[i] - 1) * win.dilation[i] + 1 + below(b, d == 1 ? 50 : 12);
    w.dim[1 + i] = win.kernel[i];
  }
  x.dim[d + 1] = w.dim[d + 1] = 1 + below(b, 20);
  w.dim[0] = 1 + below(b, 70);
  Val in[3] = {input(b, "code", x), weight(b, "code", w), weight(b, "w", SHAPE(DT_I32, w.dim[0]))};
  Val sum = add_op(b, OP_conv, ATTR(.window = win), NULL, 2 + below(b, 2), in);
  output(b, below(b, 2) ? after(b, sum) : requantized(b, sum));
}

typedef struct {
  DType t;
  int zero;
  double scale;
} Quantized;

static Quantized random_quantized(Make *b, double range)
{
  DType t = below(b, 2) ? DT_I8 : DT_U8;
  int lo = t == DT_I8 ? -128 : 0;

  return (Quantized){t, below(b, 3) ? lo + (int)below(b, 256) : lo, range / 255};
}

static Val quantize(Make *b, Val x, const Quantized *q)
{
  x = ADD(b, OP_round, ATTR(0), NULL, ADD(b, OP_div, ATTR(0), NULL, x, constant(b, DT_F32, q->scale)));
  if (q->zero)
    x = ADD(b, OP_add, ATTR(0), NULL, x, constant(b, DT_F32, q->zero));
  return ADD(b, OP_cast, ATTR(.saturate = true), &SHAPE_LIKE(b, x, q->t), x);
}

static Val dequantize(Make *b, Val x, const Quantized *q)
{
  x = ADD(b, OP_cast, ATTR(.saturate = true), &SHAPE_LIKE(b, x, DT_F32), x);
  if (q->zero)
    x = ADD(b, OP_sub, ATTR(0), NULL, x, constant(b, DT_F32, q->zero));
  return ADD(b, OP_mul, ATTR(0), NULL, x, constant(b, DT_F32, q->scale));
}

/* Channels first, as models say it. */
static Val quantized_conv(Make *b, Val x)
{
  Type t = *type_in(b, x);
  int64_t outs = 1 + below(b, 40), kernel = 1 + below(b, 3);
  bool depthwise = !below(b, 4);
  Window win = {
      .spatial = 2, .group = depthwise ? t.dim[1] : 1, .kernel = {kernel, kernel}, .dilation = {1, 1}};

  outs = depthwise ? t.dim[1] : outs;
  win.stride[0] = win.stride[1] = 1 + below(b, 2);
  win.pad_lo[0] = win.pad_lo[1] = win.pad_hi[0] = win.pad_hi[1] = kernel / 2;
  Val w = weight(b, "code", SHAPE(DT_I8, outs, kernel, kernel, depthwise ? 1 : t.dim[1]));
  w = ADD(b, OP_cast, ATTR(.saturate = true), &SHAPE_LIKE(b, w, DT_F32), w);
  w = ADD(b, OP_mul, ATTR(0), NULL, w, constant(b, DT_F32, 1.0 / 128 / (double)t.dim[1]));
  x = ADD(b, OP_transpose, ATTR(.perm = {0, 2, 3, 1}), NULL, x);
  x = ADD(b, OP_conv, ATTR(.window = win), NULL, x, w, weight(b, "w", SHAPE(DT_F32, outs)));
  return ADD(b, OP_transpose, ATTR(.perm = {0, 3, 1, 2}), NULL, x);
}

static Val quantized_pool(Make *b, Op op, Val x)
{
  Window win = {
      .spatial = 2, .group = 1, .kernel = {2, 2}, .stride = {1, 1}, .dilation = {1, 1}, .pad_hi = {1, 1}};

  x = ADD(b, OP_transpose, ATTR(.perm = {0, 2, 3, 1}), NULL, x);
  x = ADD(b, op, ATTR(.window = win), NULL, x);
  return ADD(b, OP_transpose, ATTR(.perm = {0, 3, 1, 2}), NULL, x);
}

/* Layers between quantisations. Each ends in an output, from which the next begins anew: one step is the most that
 * rounding may move. */
static void make_quantized(Make *b)
{
  Val x = input(b, "x", SHAPE(DT_F32, 1, 1 + below(b, 20), 3 + below(b, 12), 3 + below(b, 12)));
  Quantized q = random_quantized(b, 8), next;

  x = quantize(b, x, &q);
  output(b, x);
  x = dequantize(b, x, &q);
  next = below(b, 2) ? q : random_quantized(b, 6);
  switch (below(b, 6)) {
  case 0:
  case 1: x = quantized_conv(b, x); break;
  case 2: x = quantized_pool(b, OP_pool_max, x); break;
  case 3: x = quantized_pool(b, OP_pool_sum, x); break;
  case 4: x = ADD(b, OP_add, ATTR(0), NULL, x, x); break;
  default: x = ADD(b, OP_concat, ATTR(.axis = 1), NULL, x, x);
  }
  if (below(b, 2))
    x = ADD(b, OP_relu, ATTR(0), NULL, x);
  output(b, quantize(b, x, &next));
}

/* ---- graphs of many ops, which share values, end in several outputs, and whose groups and places interact */

enum { MIXED_NODES = 24 };

static Val mixed_movement(Make *b, Val v)
{
  const Type t = *type_in(b, v);
  Attr attr = {.name = NULL};
  uint32_t axis = (uint32_t)below(b, t.rank);

  switch (below(b, 4)) {
  case 0:
    for (uint32_t i = 0; i < t.rank; i++)
      attr.perm[i] = (uint8_t)((i + axis) % t.rank);
    return ADD(b, OP_transpose, attr, NULL, v);
  case 1:
    attr.slice.axis = axis;
    attr.slice.step = 1 + below(b, 2);
    attr.slice.count = (t.dim[axis] + 1) / 2;
    attr.slice.start = 0;
    return ADD(b, OP_slice, attr, NULL, v);
  case 2: {
    Type flat = t.rank > 1 && below(b, 2) ? SHAPE(t.dtype, type_rows(&t), type_last(&t))
                                          : SHAPE(t.dtype, 1, type_count(&t));
    return ADD(b, OP_reshape, attr, &flat, v);
  }
  default: {
    Type wide = t;
    if (t.dim[axis] == 1)
      wide.dim[axis] = 3;
    return ADD(b, OP_expand, attr, &wide, v);
  }
  }
}

/* A value that broadcasts with v. */
static Val mixed_partner(Make *b, const Val *known, uint32_t n, Val v)
{
  const Type *t = type_in(b, v);

  for (uint32_t i = 0; i < 8; i++) {
    Val o = known[below(b, n)];
    if (type_eq(type_in(b, o), t))
      return o;
  }
  Type last = SHAPE(t->dtype, type_last(t));
  switch (below(b, 4)) {
  case 0: return weight(b, "w", last);
  case 1: return constant(b, t->dtype, 0.5);
  case 2: return ADD(b, OP_reduce_max, ATTR(.axes = 1u << below(b, t->rank)), NULL, v);
  default: return input(b, "x", *t);
  }
}

static Val mixed_anchor(Make *b, Val v)
{
  const Type t = *type_in(b, v);
  uint32_t axis = (uint32_t)below(b, t.rank);
  int64_t k = type_last(&t), n = 1 + below(b, 24);

  switch (below(b, 7)) {
  case 0: return ADD(b, OP_softmax, ATTR(0), NULL, v);
  case 1: return ADD(b, OP_reduce_sum, ATTR(.axes = 1u << axis), NULL, v);
  case 2: return ADD(b, OP_cumsum, ATTR(.scan = {axis, below(b, 2), below(b, 2)}), NULL, v);
  case 3: return ADD(b, OP_linear, ATTR(0), NULL, v, weight(b, "w", SHAPE(t.dtype, n, k)));
  case 4: return ADD(b, OP_gather, ATTR(.axis = axis), NULL, v, weight(b, "idx", SHAPE(DT_I64, n)));
  case 5: return t.rank > 1 ? ADD(b, OP_matmul, ATTR(0), NULL, v, weight(b, "w", SHAPE(t.dtype, k, n))) : v;
  default:
    return t.rank > 2 ? ADD(b, OP_pool_max,
                            ATTR(.window = {.spatial = t.rank - 2 < 3 ? t.rank - 2 : 3,
                                            .group = 1,
                                            .kernel = {1, 1, 1},
                                            .stride = {1, 1, 1},
                                            .dilation = {1, 1, 1}}),
                            NULL, v)
                      : v;
  }
}

static void make_mixed(Make *b)
{
  static const Op unary[] = {OP_neg, OP_abs, OP_tanh, OP_sigmoid, OP_relu, OP_atan, OP_erf};
  static const Op binary[] = {OP_add, OP_sub, OP_mul, OP_max, OP_min};
  Val known[2 + MIXED_NODES];
  uint8_t used[4096] = {0};
  uint32_t n = 0;

  known[n++] = input(b, "x", random_shape(b, b->t, 1 + (uint32_t)below(b, 4)));
  known[n++] = input(b, "x", random_shape(b, b->t, 1 + (uint32_t)below(b, 3)));
  while (n < COUNT(known)) {
    Val v = known[n - 1 - below(b, n < 6 ? n : 6)], r;
    const Type t = *type_in(b, v);
    switch (below(b, 10)) {
    case 0:
    case 1: r = ADD(b, unary[below(b, COUNT(unary))], ATTR(0), NULL, v); break;
    case 2:
    case 3:
    case 4:
      r = ADD(b, binary[below(b, COUNT(binary))], ATTR(0), NULL, v, mixed_partner(b, known, n, v));
      break;
    case 5:
    case 6: r = mixed_movement(b, v); break;
    case 7: {
      Val o = known[below(b, n)];
      r = type_eq(type_in(b, o), &t) ? ADD(b, OP_concat, ATTR(.axis = (uint32_t)below(b, t.rank)), NULL, v, o)
                                     : v;
      break;
    }
    default: r = mixed_anchor(b, v);
    }
    if (type_count(type_in(b, r)) > 4000)
      r = input(b, "x", random_shape(b, b->t, 2));
    known[n++] = r;
  }
  for (Val v = 1; v < b->g->nodes.len; v++)
    for (uint32_t i = 0; i < graph_node(b->g, v)->in.count; i++)
      used[graph_in(b->g, v, i)] = 1;
  Val last = b->g->nodes.len;
  for (Val v = 1; v < last; v++)
    if (!used[v] || !below(b, 10))
      output(b, v);
}

/* ---- which ops, of which types, how often */

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#elif defined(__has_feature)
#define SANITIZED __has_feature(address_sanitizer)
#else
#define SANITIZED 0
#endif

/* Sanitizers look for what the first graphs show already, and are ten times as slow. */
static uint32_t seeds_of(uint32_t n)
{
  return SANITIZED ? (n + 7) / 8 : n;
}

typedef struct {
  void (*make)(Make *b);
  Op op; /* 0: whatever make() does */
  OpTakes takes;
  uint32_t seeds;
} Family;

static const Family families[] = {
    {make_where, OP_where, TAKES_ALL, 2},
    {make_cast, OP_cast, TAKES_ANY, 1},
    {make_reduce, OP_reduce_sum, TAKES_NUM, 12},
    {make_reduce, OP_reduce_prod, TAKES_NUM, 4},
    {make_reduce, OP_reduce_max, TAKES_ALL, 4},
    {make_reduce, OP_reduce_min, TAKES_ALL, 4},
    {make_axis, OP_argmax, TAKES_NUM, 6},
    {make_axis, OP_argmin, TAKES_NUM, 4},
    {make_axis, OP_cumsum, TAKES_NUM, 6},
    {make_axis, OP_cumprod, TAKES_NUM, 2},
    {make_softmax, OP_softmax, TAKES_FLOAT, 12},
    {make_topk, OP_topk, TAKES_NUM, 4},
    {make_gather, OP_gather, TAKES_ANY, 6},
    {make_scatter, OP_scatter, TAKES_ANY, 6},
    {make_pad, OP_pad, TAKES_ANY, 6},
    {make_transpose, OP_transpose, TAKES_ANY, 4},
    {make_stack, OP_concat, TAKES_ANY, 2},
    {make_movement, OP_none, TAKES_ANY, 6},
    {make_concat, OP_concat, TAKES_ANY, 6},
    {make_linear, OP_linear, TAKES_NUM, 8},
    {make_matmul, OP_matmul, TAKES_NUM, 8},
    {make_window, OP_conv, TAKES_NUM, 8},
    {make_window, OP_pool_max, TAKES_NUM, 4},
    {make_window, OP_pool_sum, TAKES_NUM, 4},
};

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

static void check_one(const Family *f, DType t, uint64_t seed, const char *cpu, ExecWay way)
{
  Arena a = {0};
  Rng rng = {seed * 1000 + t};
  Err e = {0};
  Module *m = module_new(&a);
  Make b = {.g = graph_new_dense(m, "run"), .r = &rng, .t = t, .op = f->op};
  const char *what = arena_printf(&a, "%s %s seed %llu, %s", op_info[f->op].name, dtype_info[t].name,
                                  (unsigned long long)seed, cpu);

  *PUSH(m->arena, m->graphs) = b.g;
  f->make(&b);
  if (getenv("VERBOSE"))
    fprintf(stderr, "%s\n", what);
  if (getenv("GRAPH")) {
    Text text = {.arena = &a};
    graph_print(b.g, &text);
    fputs(text.data, stderr);
  }
  cr_assert(module_verify(m, &e), "%s: %s", what, e.text);
  check_module(&a, m, seed, cpu, way, what);
  arena_free(&a);
}

static void check_family(const Family *f, const char *cpu, ExecWay way)
{
  const char *only = getenv("OP"), *seed = getenv("SEED");

  if (only && strcmp(only, op_info[f->op].name))
    return;
  for (int t = 0; t < DT_COUNT; t++)
    for (uint64_t s = 1;
         s <= seeds_of(f->seeds) && dtype_is_element((DType)t) && is_taken(f->takes, (DType)t); s++)
      if (!seed || (uint64_t)atoi(seed) == s)
        check_one(f, (DType)t, s, cpu, way);
}

static void check_elementwise(const char *cpu, ExecWay way)
{
  for (int op = OP_neg; op < OP_COUNT; op++) {
    bool movement = op_info[op].result != RES_SAME && op_info[op].result != RES_BCAST &&
                    op_info[op].result != RES_COMPARE;
    if (op_info[op].graphs == IN_LANG || movement || op == OP_softmax || op == OP_scatter ||
        op == OP_cumsum || op == OP_cumprod)
      continue;
    Family f = {op_info[op].inputs == 1 ? make_unary : make_binary, (Op)op, op_info[op].takes,
                op_info[op].inputs == 1 ? 1 : 4};
    check_family(&f, cpu, way);
  }
}

static void check_all(const char *cpu, ExecWay way)
{
  check_elementwise(cpu, way);
  for (size_t i = 0; i < COUNT(families); i++)
    check_family(&families[i], cpu, way);
}

static void check_codes(const char *cpu, ExecWay way, uint32_t seeds)
{
  const Family families_of_codes[] = {{make_code_linear, OP_linear, TAKES_OWN, 0},
                                      {make_code_conv, OP_conv, TAKES_OWN, 0},
                                      {make_quantized, OP_round, TAKES_OWN, 0}};
  const char *seed = getenv("SEED"), *only = getenv("OP");

  for (size_t i = 0; i < COUNT(families_of_codes); i++)
    for (uint64_t s = 1; s <= seeds_of(seeds); s++)
      if ((!seed || (uint64_t)atoi(seed) == s) &&
          (!only || !strcmp(only, op_info[families_of_codes[i].op].name)))
        check_one(&families_of_codes[i], DT_U8, s, cpu, way);
}

Test(lower_dense, codes_interpreted)
{
  static const char *const cpus[] = {"x86-64-v2", "x86-64-v3", "x86-64-v4", "x86-64-v4+vnni"};

  for (size_t i = 0; i < COUNT(cpus); i++)
    check_codes(cpus[i], EXEC_EVAL, 60);
}

#if MICC_HAVE_TCC
Test(lower_dense, codes_in_c)
{
  check_codes("c", EXEC_TCC, 60);
}
#endif

#if MICC_HAVE_LLVM
Test(lower_dense, codes_in_llvm)
{
  check_codes("native", EXEC_LLVM, 40);
  check_codes("x86-64-v3", EXEC_LLVM, 20);
}
#endif

static void check_mixed(const char *cpu, ExecWay way, uint32_t seeds)
{
  static const Family mixed = {make_mixed, OP_none, TAKES_FLOAT, 0};
  const char *seed = getenv("SEED");

  for (uint64_t s = 1; s <= seeds_of(seeds); s++)
    if (!seed || (uint64_t)atoi(seed) == s)
      check_one(&mixed, DT_F32, s, cpu, way);
}

Test(lower_dense, mixed_interpreted)
{
  check_mixed("x86-64-v3", EXEC_EVAL, 200);
  check_mixed("x86-64-v4", EXEC_EVAL, 100);
}

#if MICC_HAVE_LLVM
Test(lower_dense, mixed_in_llvm)
{
  check_mixed("native", EXEC_LLVM, 20);
}
#endif

Test(lower_dense, interpreted_4_lanes)
{
  check_all("x86-64-v2", EXEC_EVAL);
}

Test(lower_dense, interpreted_8_lanes)
{
  check_all("x86-64-v3", EXEC_EVAL);
}

Test(lower_dense, interpreted_16_lanes)
{
  check_all("x86-64-v4", EXEC_EVAL);
}

#if MICC_HAVE_TCC
Test(lower_dense, in_c)
{
  check_all("c", EXEC_TCC);
}
#endif

#if MICC_HAVE_LLVM
Test(lower_dense, in_llvm)
{
  check_all("native", EXEC_LLVM);
}
#endif
