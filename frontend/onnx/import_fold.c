/* import_fold.c - constants: which values are, what they hold, and when a node of constants is evaluated at once.
 *
 * Not everything is worth it: a broadcast constant costs memory that the model's file did not, and a quantised weight
 * that is widened loses what made it small (lowering sees through the cast). Such nodes stay, and are evaluated
 * only where a number is needed at compile time (im_need_constant). */
#include "frontend/onnx/import_scope.h"

#include <math.h>

enum {
  FOLD_GROWTH_BYTES = 1 << 16, /* results up to here may be larger than their inputs */
  SHARED_BYTES = 1 << 16,      /* larger ones are not compared */
  FOLD_WIDEN_COUNT = 256,      /* and up to here elements may become wider */
};
static const double fold_work = 0x1p26, work_max = 0x1p33;              /* of one node, of a model */
static const uint64_t table_bytes = 1 << 28, tables_bytes = 1ull << 31; /* of one table, of all */

bool im_is_constant(const Import *im, Val v)
{
  Op op = graph_node(im->graph, v)->op;
  return op == OP_weight || op == OP_const;
}

static void fill(Tensor *t, double value)
{
  int64_t n = type_count(&t->type);
  size_t bytes = dtype_info[t->type.dtype].bytes;

  if (n == 0)
    return;
  tensor_set(t, 0, value);
  for (int64_t i = 1; i < n; i++)
    memcpy((char *)t->data + (size_t)i * bytes, t->data, bytes);
}

static bool leaf_value(const Import *im, Val v, Arena *a, Tensor *out)
{
  const Node *n = graph_node(im->graph, v);

  if (n->op == OP_weight) {
    const Weight *w = &im->module->weights.data[n->attr.index];
    *out = (Tensor){w->type, (void *)(uintptr_t)w->data}; /* read only, as all that evaluation reads */
    return true;
  }
  if (n->op != OP_const || tensor_bytes(&n->type) > table_bytes)
    return false;
  *out = tensor_new(a, &n->type);
  fill(out, n->attr.value);
  return true;
}

bool im_constant(Import *im, Val v, Tensor *out)
{
  return im_is_constant(im, v) && leaf_value(im, v, im->arena, out);
}

/* ---- constants as nodes */

/* One value in all elements, and a double that means exactly it. -0 and nan stay arrays. */
static bool uniform(const Tensor *t, double *value)
{
  int64_t n = type_count(&t->type);
  size_t bytes = dtype_info[t->type.dtype].bytes;
  const char *p = t->data;

  if (n == 0 || (n > 1 && memcmp(p, p + bytes, (size_t)(n - 1) * bytes)))
    return false;
  long double x = tensor_get(t, 0);
  *value = (double)x;
  return (long double)*value == x && !(x == 0 && signbit(x));
}

static Val add_leaf(Import *im, Op op, Attr attr, const Type *type)
{
  Val v = graph_add(im->graph, op, NULL, 0, attr, type);

  graph_node(im->graph, v)->from = im->from;
  return v;
}

/* ---- equal constants are one node: unrolled loops make the same ones in every round */

static const void *leaf_bytes(const Import *im, Val v, uint64_t *bytes)
{
  const Node *n = graph_node(im->graph, v);

  if (n->op == OP_const) {
    *bytes = sizeof n->attr.value;
    return &n->attr.value;
  }
  *bytes = im->module->weights.data[n->attr.index].bytes;
  return im->module->weights.data[n->attr.index].data;
}

static uint64_t leaf_hash(Op op, const Type *t, const void *data, uint64_t bytes)
{
  uint64_t h = hash_bytes(data, bytes, (uint64_t)op << 32 | t->rank << 8 | t->dtype);
  return hash_bytes(t->dim, t->rank * sizeof *t->dim, h);
}

static void share_grow(Import *im)
{
  Val *old = im->shared.data;
  uint32_t cap = im->shared.cap;

  im->shared.cap = cap ? 2 * cap : 256;
  im->shared.data = NEW_ARRAY(im->arena, Val, im->shared.cap);
  for (uint32_t i = 0; i < cap; i++) {
    uint64_t bytes;
    if (!old[i])
      continue;
    const Node *n = graph_node(im->graph, old[i]);
    const void *data = leaf_bytes(im, old[i], &bytes);
    uint32_t k = (uint32_t)leaf_hash(n->op, &n->type, data, bytes);
    while (im->shared.data[k &= im->shared.cap - 1])
      k++;
    im->shared.data[k] = old[i];
  }
}

static bool same_leaf(const Import *im, Val v, Op op, const Type *t, const void *data, uint64_t bytes)
{
  const Node *n = graph_node(im->graph, v);
  uint64_t size;
  const void *p = leaf_bytes(im, v, &size);

  return n->op == op && type_eq(&n->type, t) && size == bytes && !memcmp(p, data, bytes);
}

/* The place of an equal constant, or of one to come. */
static Val *share(Import *im, Op op, const Type *t, const void *data, uint64_t bytes)
{
  if (2 * (im->shared.len + 1) > im->shared.cap)
    share_grow(im);
  uint32_t k = (uint32_t)leaf_hash(op, t, data, bytes);
  while (im->shared.data[k &= im->shared.cap - 1] && !same_leaf(im, im->shared.data[k], op, t, data, bytes))
    k++;
  im->shared.len += !im->shared.data[k];
  return &im->shared.data[k];
}

static Val add_const(Import *im, const Type *t, double value)
{
  Val *v = share(im, OP_const, t, &value, sizeof value);

  if (!*v)
    *v = add_leaf(im, OP_const, (Attr){.value = value}, t);
  return *v;
}

static Val add_weight(Import *im, const char *name, const Tensor *t)
{
  Weight w = {name, t->type, t->data ? t->data : "", tensor_bytes(&t->type)};

  *PUSH(im->arena, im->module->weights) = w;
  return add_leaf(im, OP_weight, (Attr){.index = im->module->weights.len - 1}, &t->type);
}

static Val add_computed(Import *im, const Tensor *t)
{
  uint64_t bytes = tensor_bytes(&t->type);
  Val *v = bytes <= SHARED_BYTES ? share(im, OP_weight, &t->type, t->data ? t->data : "", bytes) : NULL;

  if (v && *v)
    return *v;
  Val added = add_weight(im, arena_printf(im->arena, "%%%u", im->folded++), t);
  if (v)
    *v = added;
  return added;
}

static bool type_fits(Import *im, const Type *t)
{
  Err why = {0};
  return type_check_dense(t, &why) || im_fail(im, im->node, "%s", why.text);
}

Val im_const_tensor(Import *im, const Tensor *t)
{
  double value;

  if (!im_ok(im) || !type_fits(im, &t->type))
    return 0;
  if (uniform(t, &value))
    return add_const(im, &t->type, value);
  return add_computed(im, t);
}

Val im_weight(Import *im, const char *name, const Tensor *t)
{
  double value;

  if (!im_ok(im) || !type_fits(im, &t->type))
    return 0;
  if (type_count(&t->type) == 1 && uniform(t, &value))
    return add_const(im, &t->type, value);
  return add_weight(im, name, t);
}

Val im_full(Import *im, DType t, uint32_t rank, const int64_t *dim, double value)
{
  if (!im_ok(im))
    return 0;
  if (rank > MAX_RANK) {
    im_fail(im, im->node, "rank %u is above %d", rank, MAX_RANK);
    return 0;
  }
  Type type = type_of(t, rank, dim);
  if (!type_fits(im, &type))
    return 0;
  Type one = {.dtype = t}; /* the value as its type rounds it */
  Tensor rounded = tensor_new(im->arena, &one);
  tensor_set(&rounded, 0, value);
  if (!uniform(&rounded, &value)) {
    Tensor all = im_tensor_new(im, type);
    if (all.data)
      fill(&all, value);
    return all.data ? im_const_tensor(im, &all) : 0;
  }
  return add_const(im, &type, value);
}

Val im_const(Import *im, DType t, double value)
{
  return im_full(im, t, 0, NULL, value);
}

Val im_const_like(Import *im, Val v, double value)
{
  return im_const(im, im_elem(im, v), value);
}

Tensor im_tensor_new(Import *im, Type t)
{
  if (!im_ok(im) || !type_fits(im, &t))
    return (Tensor){.type = t};
  uint64_t bytes = tensor_bytes(&t);
  if (bytes > table_bytes || bytes > tables_bytes - im->table_bytes) {
    im_fail(im, im->node, "a table of %lld elements is too large", (long long)type_count(&t));
    return (Tensor){.type = t};
  }
  im->table_bytes += bytes;
  return tensor_new(im->arena, &t);
}

Val im_const_i(Import *im, DType t, int64_t value)
{
  Tensor x = im_tensor_new(im, type_of(t, 0, NULL));

  if (!x.data)
    return 0;
  if (dtype_info[t].kind == DK_INT)
    tensor_set_int(&x, 0, value);
  else
    tensor_set(&x, 0, (long double)value);
  return im_const_tensor(im, &x);
}

Val im_const_ints(Import *im, const int64_t *x, int64_t n)
{
  Tensor t = im_tensor_new(im, type_of(DT_I64, 1, &n));

  if (!t.data)
    return 0;
  for (int64_t i = 0; i < n; i++)
    ((int64_t *)t.data)[i] = x[i];
  return im_const_tensor(im, &t);
}

Val im_const_floats(Import *im, DType dt, const double *x, uint32_t rank, const int64_t *dim)
{
  Tensor t = im_tensor_new(im, type_of(dt, rank, dim));

  if (!t.data)
    return 0;
  for (int64_t i = 0; i < type_count(&t.type); i++)
    tensor_set(&t, i, (long double)x[i]);
  return im_const_tensor(im, &t);
}

Val im_iota(Import *im, DType dt, int64_t n)
{
  Tensor t = im_tensor_new(im, type_of(dt, 1, &n));

  if (!t.data)
    return 0;
  for (int64_t i = 0; i < n; i++)
    tensor_set(&t, i, (long double)i);
  return im_const_tensor(im, &t);
}

/* ---- folding */

/* Multiplications or moves that evaluation takes, roughly. */
static double work_of(const Graph *g, const Node *n)
{
  double out = (double)type_count(&n->type);

  if (n->op == OP_matmul || n->op == OP_linear)
    return out * (double)type_last(&graph_node(g, g->edges.data[n->in.first])->type);
  if (n->op == OP_conv) {
    const Type *w = &graph_node(g, g->edges.data[n->in.first + 1])->type;
    return out * (double)type_count(w) / (double)max64(1, w->dim[0]);
  }
  for (uint32_t i = 0; (n->op == OP_pool_max || n->op == OP_pool_sum) && i < n->attr.window.spatial; i++)
    out *= (double)n->attr.window.kernel[i];
  for (uint32_t i = 0; i < n->in.count; i++)
    out += (double)type_count(&graph_node(g, g->edges.data[n->in.first + i])->type);
  return out;
}

/* 8-bit weights of a product: pass_qdq() wants to see them. */
static bool is_codes(const Type *t)
{
  return t->rank >= 2 && (t->dtype == DT_I8 || t->dtype == DT_U8);
}

static bool worth_folding(const Import *im, const Node *n)
{
  const Graph *g = im->graph;
  uint64_t in = 0;

  for (uint32_t i = 0; i < n->in.count; i++) {
    Val v = g->edges.data[n->in.first + i];
    if (!im_is_constant(im, v))
      return false;
    in += tensor_bytes(&graph_node(g, v)->type);
  }
  const Type *first = n->in.count ? &graph_node(g, g->edges.data[n->in.first])->type : &n->type;
  if (n->op == OP_cast && dtype_info[n->type.dtype].bytes > dtype_info[first->dtype].bytes &&
      (type_count(&n->type) > FOLD_WIDEN_COUNT || is_codes(first)))
    return false;
  return n->in.count && n->op != OP_output &&
         tensor_bytes(&n->type) <= (uint64_t)max64((int64_t)in, FOLD_GROWTH_BYTES) &&
         work_of(g, n) <= fold_work;
}

static bool eval_from_leaves(Import *im, Val v, Arena *a, Tensor *out)
{
  const Node *n = graph_node(im->graph, v);
  Tensor *in = NEW_ARRAY(a, Tensor, n->in.count);

  for (uint32_t i = 0; i < n->in.count; i++)
    if (!leaf_value(im, graph_in(im->graph, v, i), a, &in[i]))
      return false;
  return graph_eval_node(im->graph, v, in, a, out);
}

Val im_fold(Import *im, Val v)
{
  Node *n = graph_node(im->graph, v);
  Arena scratch = {0};
  Tensor t;

  if (!worth_folding(im, n) || im->work > work_max)
    return v;
  im->work += 64 + work_of(im->graph, n);
  bool ok = eval_from_leaves(im, v, &scratch, &t);
  if (ok) {
    im->graph->nodes.len--; /* it is the last one */
    im->graph->edges.len = n->in.first;
    t.data = arena_copy(im->arena, t.data, tensor_bytes(&t.type));
    v = im_const_tensor(im, &t);
  }
  arena_free(&scratch);
  return v;
}

/* ---- values that are needed at compile time */

/* The first graph input that v depends on, or 0. */
static Val input_below(const Import *im, Val v)
{
  const Graph *g = im->graph;
  Arena scratch = {0};
  bool *seen = NEW_ARRAY(&scratch, bool, (size_t)v + 1);
  Val found = 0;

  seen[v] = true;
  for (Val u = v; u; u--) {
    if (!seen[u])
      continue;
    if (graph_node(g, u)->op == OP_input)
      found = u;
    for (uint32_t i = 0; i < graph_node(g, u)->in.count; i++)
      seen[graph_in(g, u, i)] = true;
  }
  arena_free(&scratch);
  return found;
}

/* A value that depends on no input. */
static bool evaluate(Import *im, Val v, Arena *a, Tensor *out)
{
  const Graph *g = im->graph;
  Tensor *value = NEW_ARRAY(a, Tensor, (size_t)v + 1);
  bool *need = NEW_ARRAY(a, bool, (size_t)v + 1);

  need[v] = true;
  for (Val u = v; u; u--)
    for (uint32_t i = 0; need[u] && i < graph_node(g, u)->in.count; i++)
      need[graph_in(g, u, i)] = true;
  for (Val u = 1; u <= v; u++) {
    const Node *n = graph_node(g, u);
    Tensor in[64], *ins = n->in.count > COUNT(in) ? NEW_ARRAY(a, Tensor, n->in.count) : in;
    if (!need[u] || leaf_value(im, u, a, &value[u]))
      continue;
    for (uint32_t i = 0; i < n->in.count; i++)
      ins[i] = value[graph_in(g, u, i)];
    im->work += work_of(g, n);
    if (tensor_bytes(&n->type) > table_bytes || im->work > work_max ||
        !graph_eval_node(g, u, ins, a, &value[u]))
      return false;
  }
  *out = value[v];
  return true;
}

bool im_need_constant(Import *im, const OnnxNode *n, Val v, const char *what, Tensor *out)
{
  *out = (Tensor){0};
  if (!im_ok(im) || !v)
    return false;
  if (im_constant(im, v, out))
    return true;
  Val input = input_below(im, v);
  if (input) {
    const char *name = graph_node(im->graph, input)->attr.name;
    if (im->opt->need)
      *im->opt->need = name;
    return im_fail(
        im, n, "'%s' must be known at compile time, but comes from input '%s': give it with --fix %s=VALUE",
        what, name, name);
  }
  Arena scratch = {0};
  bool ok = evaluate(im, v, &scratch, out);
  if (ok)
    out->data = arena_copy(im->arena, out->data, tensor_bytes(&out->type));
  arena_free(&scratch);
  return ok || im_fail(im, n, "'%s' must be known at compile time, and is too large to compute then", what);
}

Ints im_need_ints(Import *im, const OnnxNode *n, Val v, const char *what)
{
  Tensor t;

  if (!im_need_constant(im, n, v, what, &t))
    return (Ints){0};
  int64_t count = type_count(&t.type), *x = NEW_ARRAY(im->arena, int64_t, (size_t)count);
  if (dtype_info[t.type.dtype].kind != DK_INT) {
    im_fail(im, n, "'%s' must hold integers", what);
    return (Ints){0};
  }
  for (int64_t i = 0; i < count; i++)
    x[i] = tensor_get_int(&t, i);
  return (Ints){x, (uint32_t)count, true};
}

Floats im_need_floats(Import *im, const OnnxNode *n, Val v, const char *what)
{
  Tensor t;

  if (!im_need_constant(im, n, v, what, &t))
    return (Floats){0};
  int64_t count = type_count(&t.type);
  double *x = NEW_ARRAY(im->arena, double, (size_t)count);
  for (int64_t i = 0; i < count; i++)
    x[i] = (double)tensor_get(&t, i);
  return (Floats){x, (uint32_t)count, true};
}
