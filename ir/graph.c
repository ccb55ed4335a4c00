/* graph.c - types, building the graph IR, and its verifier.
 *
 * One rule infers and checks (graph_infer.c): graph_add() infers a node's type with it, graph_verify()
 * asks it again and compares. */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#include "ir/graph_rules.h"

const OpInfo op_info[OP_COUNT] = {
    [OP_none] = {"none", 0, ATTR_NONE, RES_GIVEN, IN_BOTH, TAKES_OWN, "no value"},
#define OP(name, inputs, attr, result, graphs, takes, doc)                                                   \
  [OP_##name] = {#name, inputs, ATTR_##attr, RES_##result, IN_##graphs, TAKES_##takes, doc},
#include "ir/graph_ops.def"
#undef OP
};

bool op_elementwise(Op op)
{
  const OpInfo *info = &op_info[op];

  switch (info->result) {
  case RES_BCAST:
  case RES_COMPARE:
  case RES_WHERE: return true;
  case RES_SAME: return info->inputs == 1 && info->attr == ATTR_NONE && op != OP_softmax;
  default: return op == OP_cast || op == OP_bitcast;
  }
}

/* ---- types */

Type type_of(DType t, uint32_t rank, const int64_t *dim)
{
  Type r = {.dtype = t, .rank = rank};

  assert(rank <= MAX_RANK);
  for (uint32_t i = 0; i < rank; i++)
    r.dim[i] = dim[i];
  return r;
}

bool type_eq(const Type *a, const Type *b)
{
  if (a->dtype != b->dtype || a->rank != b->rank)
    return false;
  for (uint32_t i = 0; i < a->rank; i++)
    if (a->dim[i] != b->dim[i])
      return false;
  return true;
}

int64_t type_rows(const Type *t)
{
  int64_t n = 1;

  for (uint32_t i = 0; i + 1 < t->rank; i++)
    n *= t->dim[i];
  return n;
}

int64_t type_last(const Type *t)
{
  return t->rank ? t->dim[t->rank - 1] : 1;
}

int64_t type_count(const Type *t)
{
  return type_rows(t) * type_last(t);
}

void type_print(const Type *t, Text *out)
{
  text_printf(out, "%s[", dtype_info[t->dtype].name);
  for (uint32_t i = 0; i < t->rank; i++)
    text_printf(out, "%s%lld", i ? "," : "", (long long)t->dim[i]);
  text_printf(out, "]");
}

static bool check_type(const Type *t, int64_t least, Err *e)
{
  int64_t n = 1;

  if ((unsigned)t->dtype >= DT_COUNT)
    return fail(e, "element type %u does not exist", (unsigned)t->dtype);
  if (t->rank > MAX_RANK)
    return fail(e, "rank %u is above %d", t->rank, MAX_RANK);
  for (uint32_t i = 0; i < t->rank; i++) {
    if (t->dim[i] < least)
      return fail(e, "dimension %u is %lld, must be at least %lld", i, (long long)t->dim[i],
                  (long long)least);
    if (t->dim[i] > MAX_ELEMENTS / n)
      return fail(e, "more than 2^44 elements");
    n *= max64(t->dim[i], 1);
  }
  if (type_last(t) % dtype_info[t->dtype].block)
    return fail(e, "the last dimension, %lld, is no multiple of the %u values of a %s block",
                (long long)type_last(t), dtype_info[t->dtype].block, dtype_info[t->dtype].name);
  return true;
}

bool type_check(const Type *t, Err *e)
{
  return check_type(t, 1, e);
}

bool type_check_dense(const Type *t, Err *e)
{
  return check_type(t, 0, e);
}

/* ---- attributes */

static bool same_double(double a, double b)
{
  return !memcmp(&a, &b, sizeof a); /* -0 is not 0, nan is itself */
}

static bool same_slice(const Attr *a, const Attr *b)
{
  return a->slice.axis == b->slice.axis && a->slice.start == b->slice.start &&
         a->slice.count == b->slice.count && a->slice.step == b->slice.step;
}

static bool same_attention(const Attr *a, const Attr *b)
{
  return same_double((double)a->attention.scale, (double)b->attention.scale) &&
         same_double((double)a->attention.softcap, (double)b->attention.softcap) &&
         a->attention.window == b->attention.window && a->attention.nan_is_0 == b->attention.nan_is_0;
}

static bool same_window(const Window *a, const Window *b)
{
  bool same = a->spatial == b->spatial && a->group == b->group;

  for (uint32_t i = 0; same && i < a->spatial; i++)
    same = a->kernel[i] == b->kernel[i] && a->stride[i] == b->stride[i] && a->dilation[i] == b->dilation[i] &&
           a->pad_lo[i] == b->pad_lo[i] && a->pad_hi[i] == b->pad_hi[i];
  return same;
}

/* By fields: structs have gaps, and what lies in those is not said. */
bool attr_eq(AttrKind kind, const Attr *a, const Attr *b)
{
  switch (kind) {
  case ATTR_NONE:
  case ATTR_COUNT: return true;
  case ATTR_NAME: return a->name == b->name || (a->name && b->name && !strcmp(a->name, b->name));
  case ATTR_TENSOR:
  case ATTR_STATE: return a->index == b->index;
  case ATTR_VALUE: return same_double(a->value, b->value);
  case ATTR_EPS: return same_double(a->eps, b->eps);
  case ATTR_PERM: return !memcmp(a->perm, b->perm, sizeof a->perm);
  case ATTR_SLICE: return same_slice(a, b);
  case ATTR_AXIS: return a->axis == b->axis;
  case ATTR_ROPE: return a->rope == b->rope;
  case ATTR_STYLE: return a->interleaved == b->interleaved;
  case ATTR_ATTENTION: return same_attention(a, b);
  case ATTR_AXES: return a->axes == b->axes;
  case ATTR_ARG: return a->arg.axis == b->arg.axis && a->arg.last == b->arg.last;
  case ATTR_SCAN:
    return a->scan.axis == b->scan.axis && a->scan.exclusive == b->scan.exclusive &&
           a->scan.reverse == b->scan.reverse;
  case ATTR_PAD: return !memcmp(&a->pad, &b->pad, sizeof a->pad);
  case ATTR_SCATTER: return a->reduce == b->reduce;
  case ATTR_TOPK: return a->topk.count == b->topk.count && a->topk.largest == b->topk.largest;
  case ATTR_WINDOW: return same_window(&a->window, &b->window);
  case ATTR_SATURATE: return a->saturate == b->saturate;
  }
  return false;
}

/* ---- modules and graphs */

Module *module_new(Arena *a)
{
  Module *m = NEW(a, Module);

  m->arena = a;
  return m;
}

Module *module_copy(const Module *m)
{
  Module *c = NEW(m->arena, Module);

  *c = *m;
  c->weights.data = arena_copy(m->arena, m->weights.data, m->weights.len * sizeof *m->weights.data);
  c->weights.cap = m->weights.len;
  c->graphs.data = arena_copy(m->arena, m->graphs.data, m->graphs.len * sizeof *m->graphs.data);
  c->graphs.cap = m->graphs.len;
  for (uint32_t i = 0; i < m->graphs.len; i++) {
    Graph *g = arena_copy(m->arena, m->graphs.data[i], sizeof *g);
    g->module = c;
    c->graphs.data[i] = g;
  }
  return c;
}

uint32_t module_context(const Module *m)
{
  int64_t n = m->states.len ? INT32_MAX : 0;

  for (uint32_t i = 0; i < m->states.len; i++)
    n = min64(n, m->states.data[i].type.dim[0]);
  return m->context ? m->context : (uint32_t)n;
}

Graph *graph_new(Module *m, const char *name, int64_t tokens)
{
  Graph *g = NEW(m->arena, Graph);

  g->module = m;
  g->name = arena_strdup(m->arena, name);
  g->tokens = tokens;
  *PUSH(m->arena, g->nodes) = (Node){.op = OP_none};
  *PUSH(m->arena, m->graphs) = g;
  return g;
}

Graph *graph_new_dense(Module *m, const char *name)
{
  Graph *g = graph_new(m, name, 1);

  g->dense = true;
  return g;
}

Val graph_add(Graph *g, Op op, const Val *in, uint32_t n_in, Attr attr, const Type *type)
{
  Arena *a = g->module->arena;
  Node n = {.op = op, .attr = attr, .in = {g->edges.len, n_in}};
  Err e = {0};

  if (type)
    n.type = *type;
  if (op == OP_slice && !n.attr.slice.step)
    n.attr.slice.step = 1;
  if (!graph_infer(g, op, in, n_in, &n.attr, &n.type, &e)) {
    fprintf(stderr, "graph_add: %s\n", e.text); /* our own fault, as in an assert */
    abort();
  }
  for (uint32_t i = 0; i < n_in; i++) {
    Val v = in[i]; /* `in` may lie in the edge array, which moves */
    *PUSH(a, g->edges) = v;
  }
  *PUSH(a, g->nodes) = n;
  return g->nodes.len - 1;
}

Val graph_add1(Graph *g, Op op, Val a)
{
  return graph_add(g, op, &a, 1, (Attr){0}, NULL);
}

Val graph_add2(Graph *g, Op op, Val a, Val b)
{
  return graph_add(g, op, (Val[]){a, b}, 2, (Attr){0}, NULL);
}

/* ---- verifier */

static bool verify_node(const Graph *g, Val v, Err *e)
{
  const Node *n = graph_node(g, v);

  if (n->in.first > g->edges.len || n->in.count > g->edges.len - n->in.first)
    return fail(e, "edges %u .. +%u of %u", n->in.first, n->in.count, g->edges.len);
  for (uint32_t i = 0; i < n->in.count; i++)
    if (graph_in(g, v, i) >= v)
      return fail(e, "input %u is %%%u, which comes later", i, graph_in(g, v, i));
  Type t = n->type;
  if (!(g->dense ? type_check_dense(&t, e) : type_check(&t, e)) ||
      !graph_infer(g, n->op, g->edges.data + n->in.first, n->in.count, &n->attr, &t, e))
    return false;
  if (n->op == OP_slice && !n->attr.slice.step)
    return fail(e, "slice: step is 0");
  return type_eq(&t, &n->type) || fail(e, "%s: its type is %s, must be %s", op_info[n->op].name,
                                       rule_type_text(g, &n->type), rule_type_text(g, &t));
}

bool graph_verify(const Graph *g, Err *e)
{
  if (g->nodes.len == 0 || g->nodes.data[0].op != OP_none)
    return fail(e, "graph %s: node 0 must be the none node", g->name);
  if (g->tokens < 1)
    return fail(e, "graph %s: %lld tokens", g->name, (long long)g->tokens);
  if (g->dense && g->tokens != 1)
    return fail(e, "graph %s is dense, but has %lld tokens", g->name, (long long)g->tokens);
  for (Val v = 1; v < g->nodes.len; v++) {
    Err why = {0};
    if (!verify_node(g, v, &why)) {
      const char *from = graph_node(g, v)->from;
      return fail(e, "graph %s, %%%u%s%s: %s", g->name, v, from ? ", " : "", from ? from : "", why.text);
    }
  }
  return true;
}

/* Names of weights (by_state: of states) in a table of hashes: an unrolled model has tens of thousands. */
static bool verify_unique(const Module *m, bool by_state, Err *e)
{
  uint32_t n = by_state ? m->states.len : m->weights.len, mask = 15;
  Arena tmp = {0};
  const char *twice = NULL;

  while (mask < 2 * n)
    mask = mask * 2 + 1;
  const char **slot = NEW_ARRAY(&tmp, const char *, (size_t)mask + 1);
  for (uint32_t i = 0; i < n && !twice; i++) {
    const char *name = by_state ? m->states.data[i].name : m->weights.data[i].name;
    uint32_t at = (uint32_t)hash_bytes(name, strlen(name), 0) & mask;
    for (; slot[at] && strcmp(slot[at], name); at = (at + 1) & mask)
      ;
    twice = slot[at];
    slot[at] = name;
  }
  arena_free(&tmp);
  return !twice || fail(e, "%s '%s' stands twice in the module", by_state ? "state" : "weight", twice);
}

static bool verify_named(const char *kind, const char *name, const Type *t, Err *e)
{
  Err why = {0};

  if (!name || !name[0])
    return fail(e, "a %s without a name", kind);
  return type_check_dense(t, &why) || fail(e, "%s '%s': %s", kind, name, why.text);
}

bool module_verify(const Module *m, Err *e)
{
  for (uint32_t i = 0; i < m->weights.len; i++) {
    const Weight *w = &m->weights.data[i];
    if (!verify_named("weight", w->name, &w->type, e))
      return false;
    if (w->data && w->bytes != dtype_bytes(w->type.dtype, (uint64_t)type_count(&w->type)))
      return fail(e, "weight '%s' has %llu bytes, which do not fit its type", w->name,
                  (unsigned long long)w->bytes);
  }
  for (uint32_t i = 0; i < m->states.len; i++)
    if (!verify_named("state", m->states.data[i].name, &m->states.data[i].type, e))
      return false;
  for (uint32_t i = 0; i < m->ropes.len; i++)
    if (!m->ropes.data[i].half || !m->ropes.data[i].step)
      return fail(e, "rope %u has no frequencies", i);
  if (!verify_unique(m, false, e) || !verify_unique(m, true, e))
    return false;
  for (uint32_t i = 0; i < m->graphs.len; i++)
    if (!graph_verify(m->graphs.data[i], e))
      return false;
  return true;
}
