/* constants.c - see constants.h. */
#include "passes/constants.h"

bool constant_node(const Graph *g, Val v)
{
  Op op = graph_node(g, v)->op;
  return op == OP_const || op == OP_weight;
}

bool constant_tensor(const Graph *g, Val v, Arena *a, Tensor *out)
{
  return constant_node(g, v) && type_count(&graph_node(g, v)->type) <= CONSTANT_MAX &&
         graph_eval_node(g, v, NULL, a, out);
}

/* Does a const node of that value read back as these bits? */
static bool const_holds(DType t, const void *element, double value)
{
  uint64_t back = 0;

  dtype_put(t, &back, (long double)value, true);
  return !memcmp(&back, element, dtype_info[t].bytes);
}

bool constant_uniform(const Tensor *t, double *value)
{
  int64_t n = type_count(&t->type);
  size_t bytes = dtype_info[t->type.dtype].bytes;
  const uint8_t *p = t->data;

  if (!p || n == 0 || memcmp(p, p + bytes, (size_t)(n - 1) * bytes) != 0)
    return false;
  *value = (double)tensor_get(t, 0);
  return const_holds(t->type.dtype, p, *value);
}

static bool weight_named(const Module *m, const char *name)
{
  for (uint32_t i = 0; i < m->weights.len; i++)
    if (!strcmp(m->weights.data[i].name, name))
      return true;
  return false;
}

static const char *new_name(Module *m, const char *from)
{
  const char *name = arena_printf(m->arena, "%s.c%u", from && *from ? from : "folded", m->weights.len);

  while (weight_named(m, name))
    name = arena_printf(m->arena, "%s.", name);
  return name;
}

Val constant_weight(Graph *to, const char *from, const Tensor *t, bool keep)
{
  Module *m = to->module;
  Weight w = {.name = new_name(m, from), .type = t->type, .data = t->data, .bytes = tensor_bytes(&t->type)};

  if (t->data && !keep)
    w.data = arena_copy(m->arena, t->data, w.bytes + !w.bytes);
  *PUSH(m->arena, m->weights) = w;
  return graph_add(to, OP_weight, NULL, 0, (Attr){.index = m->weights.len - 1}, &t->type);
}

Val constant_add(Graph *to, const char *from, const Tensor *t, bool keep)
{
  double value;

  if (constant_uniform(t, &value))
    return graph_add(to, OP_const, NULL, 0, (Attr){.value = value}, &t->type);
  return constant_weight(to, from, t, keep);
}

static const char *weight_name(const Graph *g, Val v)
{
  return g->module->weights.data[graph_node(g, v)->attr.index].name;
}

Val constant_transpose(Graph *g, Val v, const uint8_t *perm)
{
  Type t = graph_node(g, v)->type, from = t;
  Attr attr = {0};
  Arena tmp = {0};
  Tensor in, out = {0};

  for (uint32_t i = 0; i < t.rank; i++) {
    attr.perm[i] = perm[i];
    t.dim[i] = from.dim[perm[i]];
  }
  if (!constant_node(g, v))
    return 0;
  if (graph_node(g, v)->op == OP_const)
    return graph_add(g, OP_const, NULL, 0, graph_node(g, v)->attr, &t);
  out.type = t;
  const char *name = weight_name(g, v);
  if (constant_tensor(g, v, &tmp, &in)) {
    Graph *one = graph_new_dense(module_new(&tmp), "one");
    Val x = graph_add(one, OP_input, NULL, 0, (Attr){0}, &from);
    graph_eval_node(one, graph_add(one, OP_transpose, &x, 1, attr, NULL), &in, &tmp, &out);
  }
  Val made = constant_weight(g, name, &out, false);
  arena_free(&tmp);
  return made;
}

Val constant_reshape(Graph *g, Val v, const Type *type)
{
  const Node *n = graph_node(g, v);

  if (n->op == OP_const)
    return graph_add(g, OP_const, NULL, 0, n->attr, type);
  if (n->op != OP_weight)
    return 0;
  const Weight *w = &g->module->weights.data[n->attr.index];
  Tensor t = {*type, (void *)(uintptr_t)w->data};
  return constant_weight(g, w->name, &t, true);
}
