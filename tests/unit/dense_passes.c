/* dense_passes.c - passes over random dense graphs: what comes out must compute what went in, says the oracle. */
#include "passes/passes.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- random graphs: any op with any attributes that graph_infer accepts */

typedef struct {
  Arena *a;
  Graph *g;
  uint64_t state;
} Gen;

static uint32_t below(Gen *r, uint32_t n)
{
  r->state = r->state * 6364136223846793005u + 1442695040888963407u;
  return n ? (uint32_t)(r->state >> 33) % n : 0;
}

static Val any(Gen *r)
{
  return 1 + below(r, r->g->nodes.len - 1);
}

static const Type *type_at(const Gen *r, Val v)
{
  return &graph_node(r->g, v)->type;
}

static Type random_type(Gen *r, DType t)
{
  Type type = {.dtype = t, .rank = below(r, 5)};

  for (uint32_t i = 0; i < type.rank; i++)
    type.dim[i] = below(r, 4) == 0 ? 1 : 1 + below(r, 5);
  return type;
}

static Tensor random_tensor(Gen *r, const Type *t)
{
  Tensor x = tensor_new(r->a, t);

  for (int64_t i = 0; i < type_count(t); i++)
    tensor_set(&x, i,
               dtype_info[t->dtype].kind == DK_FLOAT ? ((int)below(r, 17) - 8) * 0.25L
                                                     : (int)below(r, 7) - 2);
  return x;
}

static Val constant(Gen *r, const Type *t)
{
  Module *m = r->g->module;

  if (below(r, 4) == 0)
    return graph_add(r->g, OP_const, NULL, 0, (Attr){.value = (int)below(r, 4) - 1}, t);
  const char *name = arena_printf(r->a, "w%u", m->weights.len);
  *PUSH(m->arena, m->weights) = (Weight){name, *t, random_tensor(r, t).data, tensor_bytes(t)};
  return graph_add(r->g, OP_weight, NULL, 0, (Attr){.index = m->weights.len - 1}, t);
}

/* Adds the node if it is valid and not too large; 0 if not. */
static Val try_add(Gen *r, Op op, const Val *in, uint32_t n, Attr attr, const Type *type)
{
  Type t = type ? *type : (Type){0};
  Err e = {0};

  for (uint32_t i = 0; i < n; i++)
    if (!in[i])
      return 0;
  if (!graph_infer(r->g, op, in, n, &attr, &t, &e) || type_count(&t) > 2000)
    return 0;
  return graph_add(r->g, op, in, n, attr, &t);
}

static void permutation(Gen *r, uint8_t *perm, uint32_t rank)
{
  for (uint32_t i = 0; i < rank; i++) {
    uint32_t k = below(r, i + 1);
    perm[i] = perm[k];
    perm[k] = (uint8_t)i;
  }
}

static Val transposed(Gen *r, Val x)
{
  Attr a = {0};

  permutation(r, a.perm, type_at(r, x)->rank);
  return try_add(r, OP_transpose, &x, 1, a, NULL);
}

/* Dimensions join, divide, and ones come between. */
static Val reshaped(Gen *r, Val x)
{
  Type from = *type_at(r, x), to = {.dtype = from.dtype};
  int64_t run = 1;

  for (uint32_t i = 0; i < from.rank && to.rank < 6; i++) {
    run *= from.dim[i];
    if (below(r, 3) == 0 && i + 1 < from.rank)
      continue; /* joins with the next */
    if (run % 2 == 0 && below(r, 3) == 0) {
      to.dim[to.rank++] = 2;
      run /= 2;
    }
    if (below(r, 6) == 0)
      to.dim[to.rank++] = 1;
    to.dim[to.rank++] = run;
    run = 1;
  }
  return type_count(&to) == type_count(&from) ? try_add(r, OP_reshape, &x, 1, (Attr){0}, &to) : 0;
}

static Val sliced(Gen *r, Val x)
{
  const Type *t = type_at(r, x);

  if (!t->rank)
    return 0;
  Attr a = {.slice = {.axis = below(r, t->rank)}};
  uint32_t n = (uint32_t)t->dim[a.slice.axis];
  a.slice.start = below(r, n);
  a.slice.count = 1 + below(r, n);
  a.slice.step = (int)below(r, 5) - 2;
  return try_add(r, OP_slice, &x, 1, a, NULL);
}

static Val padded(Gen *r, Val x)
{
  Type t = *type_at(r, x), s = type_of(t.dtype, 0, NULL);
  Attr a = {0};

  for (uint32_t i = 0; i < t.rank; i++) {
    a.pad.lo[i] = (int)below(r, 4) - 1;
    t.dim[i] += (int)below(r, 4) - 1;
  }
  Val in[] = {x, constant(r, &s)};
  return try_add(r, OP_pad, in, 2, a, &t);
}

static Val gathered(Gen *r, Val x)
{
  Type t = type_of(DT_I64, 1 + (below(r, 4) == 0), (int64_t[]){1 + below(r, 4), 2});
  Val in[] = {x, constant(r, &t)};

  return try_add(r, OP_gather, in, 2, (Attr){.axis = below(r, 4)}, NULL);
}

static Val along(Gen *r, Val x)
{
  static const Op reduce[] = {OP_reduce_sum, OP_reduce_max, OP_reduce_min};
  uint32_t rank = type_at(r, x)->rank;

  switch (below(r, 5)) {
  case 0: return try_add(r, OP_argmax, &x, 1, (Attr){.arg = {below(r, 4), below(r, 2)}}, NULL);
  case 1: return try_add(r, OP_cumsum, &x, 1, (Attr){.scan = {below(r, 4), below(r, 2), below(r, 2)}}, NULL);
  case 2: return try_add(r, OP_softmax, &x, 1, (Attr){0}, NULL);
  case 3: return try_add(r, OP_topk, &x, 1, (Attr){.topk = {1 + below(r, 2), below(r, 2)}}, NULL);
  default: return try_add(r, reduce[below(r, 3)], &x, 1, (Attr){.axes = below(r, 1u << rank)}, NULL);
  }
}

static Val expanded(Gen *r, Val x)
{
  Type t = *type_at(r, x);

  for (uint32_t i = 0; i < t.rank; i++)
    if (t.dim[i] == 1)
      t.dim[i] = 1 + below(r, 3);
  return try_add(r, OP_expand, &x, 1, (Attr){0}, &t);
}

static Val joined(Gen *r, Val x)
{
  Type t = *type_at(r, x);
  Attr a = {.axis = below(r, 4)};

  if (a.axis >= t.rank)
    return 0;
  t.dim[a.axis] = 1 + below(r, 3);
  Val in[] = {x, below(r, 2) ? constant(r, &t) : x, x};
  return try_add(r, OP_concat, in, 2 + below(r, 2), a, NULL);
}

static Val cast_to(Gen *r, Val x)
{
  static const DType to[] = {DT_F32, DT_I32, DT_BOOL, DT_U8, DT_F64, DT_I64};
  Type t = *type_at(r, x);

  t.dtype = to[below(r, 6)];
  return try_add(r, OP_cast, &x, 1, (Attr){0}, &t);
}

static Val elementwise1(Gen *r, Val x)
{
  static const Op op[] = {OP_neg, OP_abs, OP_relu, OP_sigmoid, OP_floor, OP_sign, OP_not, OP_exp};
  return try_add(r, op[below(r, COUNT(op))], &x, 1, (Attr){0}, NULL);
}

/* With itself, another value, or a constant that broadcasts. */
static Val elementwise2(Gen *r, Val x)
{
  static const Op op[] = {OP_add, OP_sub, OP_mul, OP_max, OP_min, OP_div,
                          OP_and, OP_or,  OP_xor, OP_eq,  OP_lt,  OP_pow};
  Type t = *type_at(r, x);
  Val y = x;

  for (uint32_t i = 0; i < t.rank; i++)
    if (below(r, 2))
      t.dim[i] = 1;
  switch (below(r, 4)) {
  case 0: break;
  case 1: y = any(r); break;
  default: y = constant(r, &t);
  }
  Val in[] = {x, y};
  if (below(r, 2))
    in[0] = y, in[1] = x;
  return try_add(r, op[below(r, COUNT(op))], in, 2, (Attr){0}, NULL);
}

static Val chosen(Gen *r, Val x)
{
  Type t = *type_at(r, x);
  Val y = constant(r, &t);

  t.dtype = DT_BOOL;
  return try_add(r, OP_where, (Val[]){below(r, 2) ? any(r) : constant(r, &t), x, y}, 3, (Attr){0}, NULL);
}

static Val product(Gen *r, Val x)
{
  Type t = *type_at(r, x), w = {.dtype = t.dtype, .rank = 2};

  if (!t.rank || t.dtype == DT_BOOL)
    return 0;
  w.dim[0] = 1 + below(r, 4);
  w.dim[1] = type_last(&t);
  if (below(r, 2))
    return try_add(r, OP_linear, (Val[]){x, constant(r, &w)}, 2, (Attr){0}, NULL);
  w.dim[0] = type_last(&t);
  w.dim[1] = 1 + below(r, 4);
  return try_add(r, OP_matmul, (Val[]){x, constant(r, &w)}, 2, (Attr){0}, NULL);
}

/* As an importer does it: channels last inside of two transposes. */
static Val window(Gen *r, Val x)
{
  static const uint8_t last[] = {0, 2, 3, 1}, first[] = {0, 3, 1, 2};
  Window win = {.spatial = 2, .group = 1, .kernel = {1, 1}, .stride = {1, 1}, .dilation = {1, 1}};
  Attr a = {0};

  if (type_at(r, x)->rank != 4)
    return 0;
  memcpy(a.perm, last, 4);
  x = try_add(r, OP_transpose, &x, 1, a, NULL);
  a = (Attr){.window = win};
  for (int i = 0; i < 2; i++) {
    a.window.kernel[i] = 1 + below(r, 3);
    a.window.stride[i] = 1 + below(r, 2);
    a.window.pad_lo[i] = below(r, 2);
  }
  if (below(r, 2)) {
    x = try_add(r, below(r, 2) ? OP_pool_max : OP_pool_sum, &x, 1, a, NULL);
  } else {
    Type t = *type_at(r, x);
    t.dim[3] = type_last(&t);
    t.dim[0] = 1 + below(r, 4);
    t.dim[1] = a.window.kernel[0];
    t.dim[2] = a.window.kernel[1];
    x = try_add(r, OP_conv, (Val[]){x, constant(r, &t)}, 2, a, NULL);
  }
  a = (Attr){0};
  memcpy(a.perm, first, 4);
  return try_add(r, OP_transpose, &x, 1, a, NULL);
}

typedef Val Add(Gen *r, Val x);

static Module *random_graph(Arena *a, uint64_t seed)
{
  static Add *const add[] = {transposed,   transposed, reshaped, sliced,  padded,      gathered,
                             along,        expanded,   joined,   cast_to, window,      elementwise1,
                             elementwise2, chosen,     product,  window,  elementwise2};
  Module *m = module_new(a);
  Gen r = {a, graph_new_dense(m, "run"), seed * 0x9e3779b97f4a7c15u + 1};
  Type t = type_of(DT_F32, 4, (int64_t[]){1, 1 + below(&r, 4), 1 + below(&r, 5), 1 + below(&r, 5)});
  Val x = graph_add(r.g, OP_input, NULL, 0, (Attr){.name = "x"}, &t);

  t = random_type(&r, below(&r, 2) ? DT_F32 : DT_I32);
  graph_add(r.g, OP_input, NULL, 0, (Attr){.name = "y"}, &t);
  for (int i = 0; i < 25; i++) {
    Val v = add[below(&r, COUNT(add))](&r, x);
    x = v && below(&r, 4) ? v : any(&r);
  }
  uint32_t n = r.g->nodes.len;
  for (Val v = n > 12 ? n - 12 : 1; v < n; v++)
    graph_add(r.g, OP_output, &v, 1, (Attr){.name = arena_printf(a, "o%u", v)}, NULL);
  return m;
}

/* ---- before and after */

static uint32_t count_of(const Graph *g, Op op)
{
  uint32_t n = 0;
  for (Val v = 1; v < g->nodes.len; v++)
    n += graph_node(g, v)->op == op;
  return n;
}

static Tensor *outputs_of(Arena *a, const Graph *g, const Tensor *in)
{
  Tensor *out = NEW_ARRAY(a, Tensor, count_of(g, OP_output) + 1);
  graph_eval_dense(g, a, in, out);
  return out;
}

static bool close_to(long double x, long double y)
{
  if (isnan(x) || isnan(y))
    return isnan(x) && isnan(y);
  return x == y || fabsl(x - y) <= 1e-4L * fmaxl(1, fabsl(x));
}

/* Exactly equal, but where a float's rounding may differ. */
static bool same_tensor(const Tensor *x, const Tensor *y)
{
  if (!type_eq(&x->type, &y->type))
    return false;
  for (int64_t i = 0; i < type_count(&x->type); i++)
    if (!close_to(tensor_get(x, i), tensor_get(y, i)))
      return false;
  return true;
}

static void compare(Arena *a, const char *name, uint64_t seed, const Graph *before, const Graph *after)
{
  Gen r = {a, NULL, seed};
  Tensor in[2];
  uint32_t n = 0;
  Err e = {0};

  cr_assert(graph_verify(after, &e), "%s, seed %llu: %s", name, (unsigned long long)seed, e.text);
  for (Val v = 1; v < before->nodes.len; v++)
    if (graph_node(before, v)->op == OP_input)
      in[n++] = random_tensor(&r, &graph_node(before, v)->type);
  Tensor *x = outputs_of(a, before, in), *y = outputs_of(a, after, in);
  cr_assert_eq(count_of(before, OP_output), count_of(after, OP_output));
  for (uint32_t i = 0; i < count_of(before, OP_output); i++)
    if (!same_tensor(&x[i], &y[i])) {
      Text t = {.arena = a};
      graph_print(before, &t);
      graph_print(after, &t);
      cr_assert_fail("%s, seed %llu: output %u differs\n%s", name, (unsigned long long)seed, i, t.data);
    }
}

static Graph *all_of_them(const Graph *g, Err *e)
{
  g = pass_dce(pass_simplify(pass_qdq(g, e), e), e);
  g = pass_channels(pass_attention(g, e), e);
  g = pass_requant(pass_products(g, e), e);
  return pass_dce(pass_simplify(g, e), e);
}

Test(dense_passes, random_graphs)
{
  static const struct {
    const char *name;
    Graph *(*run)(const Graph *g, Err *e);
  } passes[] = {{"qdq", pass_qdq},           {"simplify", pass_simplify}, {"dce", pass_dce},
                {"channels", pass_channels}, {"products", pass_products}, {"requant", pass_requant},
                {"all", all_of_them}};
  uint32_t saved = 0;

  for (uint64_t seed = 0; seed < 400; seed++)
    for (size_t p = 0; p < COUNT(passes); p++) {
      Arena a = {0};
      Module *m = random_graph(&a, seed);
      const Graph *g = m->graphs.data[0];
      Err e = {0};
      cr_assert(module_verify(m, &e), "seed %llu: %s", (unsigned long long)seed, e.text);
      Graph *after = passes[p].run(g, &e);
      cr_assert(module_verify(m, &e), "seed %llu: %s", (unsigned long long)seed, e.text);
      compare(&a, passes[p].name, seed, g, after);
      saved += p == COUNT(passes) - 1 && count_of(after, OP_transpose) < count_of(g, OP_transpose);
      arena_free(&a);
    }
  cr_expect_gt(saved, 100, "transposes cancelled in %u graphs", saved);
}
