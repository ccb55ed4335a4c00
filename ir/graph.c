/* graph.c - building the graph IR, and the rules of its types.
 *
 * One rule infers and checks: graph_add() infers a node's type with it, graph_verify() asks it
 * again and compares. The rules are by ResultRule where several ops share one, and by op below. */
#include "ir/graph.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

const OpInfo op_info[OP_COUNT] = {
    [OP_none] = {"none", 0, ATTR_NONE, RES_GIVEN, "no value"},
#define OP(name, inputs, attr, result, doc) [OP_##name] = {#name, inputs, ATTR_##attr, RES_##result, doc},
#include "ir/graph_ops.def"
#undef OP
};

/* More elements than any real tensor has, few enough that byte counts never overflow. */
static const int64_t max_elements = (int64_t)1 << 44;

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

bool type_check(const Type *t, Err *e)
{
  int64_t n = 1;

  if ((unsigned)t->dtype >= DT_COUNT)
    return fail(e, "element type %u does not exist", (unsigned)t->dtype);
  if (t->rank > MAX_RANK)
    return fail(e, "rank %u is above %d", t->rank, MAX_RANK);
  for (uint32_t i = 0; i < t->rank; i++) {
    if (t->dim[i] < 1)
      return fail(e, "dimension %u is %lld, must be at least 1", i, (long long)t->dim[i]);
    if (t->dim[i] > max_elements / n)
      return fail(e, "more than 2^44 elements");
    n *= t->dim[i];
  }
  if (type_last(t) % dtype_info[t->dtype].block)
    return fail(e, "the last dimension, %lld, is no multiple of the %u values of a %s block",
                (long long)type_last(t), dtype_info[t->dtype].block, dtype_info[t->dtype].name);
  return true;
}

/* ---- modules and graphs */

Module *module_new(Arena *a)
{
  Module *m = NEW(a, Module);

  m->arena = a;
  return m;
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

Val graph_add(Graph *g, Op op, const Val *in, uint32_t n_in, Attr attr, const Type *type)
{
  Arena *a = g->module->arena;
  Node n = {.op = op, .attr = attr, .in = {g->edges.len, n_in}};
  Err e = {0};

  if (type)
    n.type = *type;
  if (!graph_infer(g, op, in, n_in, &attr, &n.type, &e)) {
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

/* ---- the rules. `out` holds the stated type on entry, the inferred one at the end. */

typedef struct {
  const Graph *g;
  Op op;
  uint32_t n_in;
  const Val *in;
  const Attr *attr;
  Type *out;
  Err *e;
} Rule;

static const Type *in_type(const Rule *r, uint32_t i)
{
  return &r->g->nodes.data[r->in[i]].type;
}

static const char *type_text(const Rule *r, const Type *t)
{
  Text s = {.arena = r->g->module->arena};

  type_print(t, &s);
  return s.data;
}

static bool bad_input(const Rule *r, uint32_t i, const char *want)
{
  return fail(r->e, "%s: input %u is %s, must be %s", op_info[r->op].name, i, type_text(r, in_type(r, i)),
              want);
}

static bool is_f32(const Rule *r, uint32_t i)
{
  return in_type(r, i)->dtype == DT_F32 || bad_input(r, i, "f32");
}

static bool is_scalar_i32(const Rule *r, uint32_t i)
{
  const Type *t = in_type(r, i);

  return (t->dtype == DT_I32 && t->rank == 0) || bad_input(r, i, "i32[]");
}

static bool is_f32_of_rank(const Rule *r, uint32_t i, uint32_t rank, const char *want)
{
  return (in_type(r, i)->dtype == DT_F32 && in_type(r, i)->rank == rank) || bad_input(r, i, want);
}

/* Arithmetic that integers have too. */
static bool op_takes_ints(Op op)
{
  switch (op) {
  case OP_neg:
  case OP_abs:
  case OP_add:
  case OP_sub:
  case OP_mul:
  case OP_max:
  case OP_min: return true;
  default: return false;
  }
}

static bool is_number(const Rule *r, uint32_t i)
{
  if (op_takes_ints(r->op) && in_type(r, i)->dtype == DT_I32)
    return true;
  return is_f32(r, i);
}

static bool infer_bcast(const Rule *r)
{
  const Type *a = in_type(r, 0), *b = in_type(r, 1);
  const Type *hi = a->rank >= b->rank ? a : b, *lo = a->rank >= b->rank ? b : a;

  if (!is_number(r, 0) || !is_number(r, 1))
    return false;
  if (a->dtype != b->dtype)
    return bad_input(r, 1, "of the first input's element type");
  *r->out = *hi;
  for (uint32_t i = 0; i < lo->rank; i++) {
    int64_t *d = &r->out->dim[hi->rank - lo->rank + i];
    if (*d != lo->dim[i] && *d != 1 && lo->dim[i] != 1)
      return fail(r->e, "%s: %s and %s do not broadcast", op_info[r->op].name, type_text(r, a),
                  type_text(r, b));
    *d = max64(*d, lo->dim[i]);
  }
  return true;
}

static bool infer_reduce(const Rule *r)
{
  if (!is_f32(r, 0))
    return false;
  if (in_type(r, 0)->rank == 0)
    return bad_input(r, 0, "of rank 1 or more");
  *r->out = *in_type(r, 0);
  r->out->dim[r->out->rank - 1] = 1;
  return true;
}

static bool infer_transpose(const Rule *r)
{
  const Type *t = in_type(r, 0);
  uint32_t seen = 0;

  *r->out = *t;
  for (uint32_t i = 0; i < t->rank; i++) {
    uint8_t p = r->attr->perm[i];
    if (p >= t->rank || seen >> p & 1)
      return fail(r->e, "transpose: perm is no permutation of %u dimensions", t->rank);
    seen |= 1u << p;
    r->out->dim[i] = t->dim[p];
  }
  if (dtype_info[t->dtype].block > 1 && r->attr->perm[t->rank - 1] != t->rank - 1)
    return fail(r->e, "transpose: blocks of %s lie along the last dimension, which must stay",
                dtype_info[t->dtype].name);
  return true;
}

static bool infer_slice(const Rule *r)
{
  const Type *t = in_type(r, 0);
  uint32_t axis = r->attr->slice.axis;
  int64_t start = r->attr->slice.start, count = r->attr->slice.count;

  if (axis >= t->rank)
    return fail(r->e, "slice: axis %u, but the input is %s", axis, type_text(r, t));
  if (start < 0 || count < 1 || start > t->dim[axis] || count > t->dim[axis] - start)
    return fail(r->e, "slice: elements %lld .. +%lld of axis %u, which has %lld", (long long)start,
                (long long)count, axis, (long long)t->dim[axis]);
  if (axis == t->rank - 1 && start % dtype_info[t->dtype].block)
    return fail(r->e, "slice: start %lld lies inside a block of %s", (long long)start,
                dtype_info[t->dtype].name);
  *r->out = *t;
  r->out->dim[axis] = count;
  return true;
}

static bool infer_concat(const Rule *r)
{
  uint32_t axis = r->attr->axis;
  Type sum = *in_type(r, 0);

  if (axis >= sum.rank)
    return fail(r->e, "concat: axis %u, but the first input is %s", axis, type_text(r, &sum));
  for (uint32_t i = 1; i < r->n_in; i++) {
    Type t = *in_type(r, i);
    int64_t here = t.rank == sum.rank ? t.dim[axis] : 0;
    t.dim[axis] = sum.dim[axis];
    if (!type_eq(&t, &sum))
      return bad_input(r, i, "like the first but for the axis");
    if (here > max_elements - sum.dim[axis])
      return fail(r->e, "concat: more than 2^44 elements");
    sum.dim[axis] += here;
  }
  *r->out = sum;
  return true;
}

static bool infer_linear(const Rule *r)
{
  const Type *x = in_type(r, 0), *w = in_type(r, 1);

  if (x->dtype != DT_F32 && x->dtype != DT_Q8A)
    return bad_input(r, 0, "f32 or q8a");
  if (x->rank == 0)
    return bad_input(r, 0, "of rank 1 or more");
  if (dtype_info[w->dtype].kind != DK_FLOAT && dtype_info[w->dtype].kind != DK_BLOCK)
    return bad_input(r, 1, "of floats or blocks");
  if (x->dtype == DT_Q8A && dtype_info[w->dtype].kind != DK_BLOCK)
    return bad_input(r, 1, "of a block type, since x is q8a");
  if (w->rank != 2 || w->dim[1] != type_last(x))
    return fail(r->e, "linear: x is %s, w is %s, must be [n, %lld]", type_text(r, x), type_text(r, w),
                (long long)type_last(x));
  *r->out = *x;
  r->out->dtype = DT_F32;
  r->out->dim[x->rank - 1] = w->dim[0];
  return true;
}

static bool infer_quant(const Rule *r)
{
  if (!is_f32(r, 0))
    return false;
  *r->out = *in_type(r, 0);
  r->out->dtype = DT_Q8A; /* whole blocks: checked with every result */
  return true;
}

static bool infer_embed(const Rule *r)
{
  const Type *tokens = in_type(r, 0), *table = in_type(r, 1);
  DKind kind = dtype_info[table->dtype].kind;

  if (tokens->dtype != DT_I32 || tokens->rank != 1)
    return bad_input(r, 0, "i32[tokens]");
  if (table->rank != 2 || (kind != DK_FLOAT && kind != DK_BLOCK))
    return bad_input(r, 1, "a table [rows, width] of floats or blocks");
  *r->out = type_of(DT_F32, 2, (int64_t[]){tokens->dim[0], table->dim[1]});
  return true;
}

static bool check_rms_norm(const Rule *r)
{
  const Type *x = in_type(r, 0), *gain = in_type(r, 1);

  if (!is_f32(r, 0) || !is_f32(r, 1))
    return false;
  if (x->rank == 0 || gain->rank != 1 || gain->dim[0] != type_last(x))
    return fail(r->e, "rms_norm: x is %s, gain is %s, must be f32[%lld]", type_text(r, x), type_text(r, gain),
                (long long)type_last(x));
  if (!(r->attr->eps >= 0 && r->attr->eps < 1))
    return fail(r->e, "rms_norm: eps is %g, must be at least 0 and below 1", r->attr->eps);
  return true;
}

static bool check_rope(const Rule *r)
{
  const Type *x = in_type(r, 0), *table = in_type(r, 1);

  if (!is_f32_of_rank(r, 0, 3, "f32[tokens, heads, size]") ||
      !is_f32_of_rank(r, 1, 3, "f32[tokens, 2, half]"))
    return false;
  if (table->dim[0] != x->dim[0] || table->dim[1] != 2 || table->dim[2] > x->dim[2] / 2)
    return fail(r->e, "rope: x is %s, its table %s, must be f32[%lld, 2, at most %lld]", type_text(r, x),
                type_text(r, table), (long long)x->dim[0], (long long)x->dim[2] / 2);
  return true;
}

/* A state's numbers are rounded to its own type when they are stored. */
static bool is_state_type(const Rule *r, uint32_t i)
{
  const Type *t = in_type(r, i);
  return (t->rank == 3 &&
          (t->dtype == DT_F32 || t->dtype == DT_F16 || (t->dtype == DT_Q8_0 && t->dim[2] % 32 == 0))) ||
         fail(r->e, "%s: input %u is %s, must be f32, f16 or q8_0[capacity, heads, size]",
              op_info[r->op].name, i, type_text(r, t));
}

static bool check_update(const Rule *r)
{
  const Type *state = in_type(r, 0), *value = in_type(r, 1);

  if (!is_state_type(r, 0) || !is_f32_of_rank(r, 1, 3, "f32[tokens, heads, size]") || !is_scalar_i32(r, 2))
    return false;
  if (state->dim[1] != value->dim[1] || state->dim[2] != value->dim[2] || value->dim[0] > state->dim[0])
    return fail(r->e, "update: value %s does not fit into state %s", type_text(r, value),
                type_text(r, state));
  return true;
}

static bool check_attention(const Rule *r)
{
  const Type *q = in_type(r, 0), *k = in_type(r, 1), *v = in_type(r, 2);

  if (!is_f32_of_rank(r, 0, 3, "f32 of rank 3") || !is_state_type(r, 1) || !is_state_type(r, 2) ||
      !is_scalar_i32(r, 3))
    return false;
  if (!type_eq(k, v) || k->dim[2] != q->dim[2] || q->dim[1] % k->dim[1] || q->dim[0] > k->dim[0])
    return fail(r->e, "attention: q %s, k %s and v %s do not fit", type_text(r, q), type_text(r, k),
                type_text(r, v));
  if (r->attr->attention.window < 0)
    return fail(r->e, "attention: window is %lld", (long long)r->attr->attention.window);
  if (!(r->attr->attention.softcap >= 0))
    return fail(r->e, "attention: softcap is %g", (double)r->attr->attention.softcap);
  return true;
}

static bool infer_same(const Rule *r)
{
  bool ok = true;

  switch (r->op) {
  case OP_output: break;
  case OP_rms_norm: ok = check_rms_norm(r); break;
  case OP_rope: ok = check_rope(r); break;
  case OP_update: ok = check_update(r); break;
  case OP_attention: ok = check_attention(r); break;
  default: ok = is_number(r, 0); break;
  }
  if (ok && r->op == OP_softmax && in_type(r, 0)->rank == 0)
    return bad_input(r, 0, "of rank 1 or more");
  if (ok)
    *r->out = *in_type(r, 0);
  return ok;
}

static bool given_is(const Rule *r, const Type *t)
{
  return type_eq(r->out, t) ||
         fail(r->e, "%s is %s, must be %s", op_info[r->op].name, type_text(r, r->out), type_text(r, t));
}

static bool no_index(const Rule *r, uint32_t index, uint32_t len)
{
  return fail(r->e, "%s: index %u, but the module has %u", op_info[r->op].name, index, len);
}

static bool given_reshape(const Rule *r)
{
  const Type *t = in_type(r, 0);

  if (t->dtype == r->out->dtype && type_count(t) == type_count(r->out))
    return true;
  return fail(r->e, "reshape: %s cannot become %s", type_text(r, t), type_text(r, r->out));
}

static bool given_rope_table(const Rule *r)
{
  const Module *m = r->g->module;

  if (!is_scalar_i32(r, 0))
    return false;
  if (r->attr->rope >= m->ropes.len)
    return no_index(r, r->attr->rope, m->ropes.len);
  int64_t half = m->ropes.data[r->attr->rope].half, tokens = r->out->rank ? r->out->dim[0] : 1;
  Type t = type_of(DT_F32, 3, (int64_t[]){tokens, 2, half});
  return given_is(r, &t);
}

static bool infer_given(const Rule *r)
{
  const Module *m = r->g->module;
  uint32_t index = r->attr->index;

  if (!type_check(r->out, r->e))
    return false;
  switch (r->op) {
  case OP_weight:
    return index < m->weights.len ? given_is(r, &m->weights.data[index].type)
                                  : no_index(r, index, m->weights.len);
  case OP_state:
    return index < m->states.len ? given_is(r, &m->states.data[index].type)
                                 : no_index(r, index, m->states.len);
  case OP_input:
  case OP_const:
    return r->out->dtype == DT_F32 || r->out->dtype == DT_I32 ||
           fail(r->e, "%s is %s, must be f32 or i32", op_info[r->op].name, type_text(r, r->out));
  case OP_reshape: return given_reshape(r);
  case OP_rope_table: return given_rope_table(r);
  default: return fail(r->e, "op %u does not exist", (unsigned)r->op);
  }
}

static bool (*const rules[])(const Rule *) = {
    [RES_GIVEN] = infer_given,   [RES_SAME] = infer_same,           [RES_BCAST] = infer_bcast,
    [RES_REDUCE] = infer_reduce, [RES_TRANSPOSE] = infer_transpose, [RES_SLICE] = infer_slice,
    [RES_CONCAT] = infer_concat, [RES_LINEAR] = infer_linear,       [RES_QUANT] = infer_quant,
    [RES_EMBED] = infer_embed,
};

static bool check_inputs(const Graph *g, Op op, const Val *in, uint32_t n_in, Err *e)
{
  int want = op_info[op].inputs;

  if (want < 0 ? n_in == 0 : n_in != (uint32_t)want)
    return fail(e, "%s: %u inputs, must be %s%d", op_info[op].name, n_in, want < 0 ? "at least " : "",
                want < 0 ? 1 : want);
  for (uint32_t i = 0; i < n_in; i++) {
    if (in[i] == 0 || in[i] >= g->nodes.len)
      return fail(e, "%s: input %u is %%%u, which is not defined", op_info[op].name, i, in[i]);
    if (g->nodes.data[in[i]].op == OP_output)
      return fail(e, "%s: input %u is an output", op_info[op].name, i);
  }
  return true;
}

bool graph_infer(const Graph *g, Op op, const Val *in, uint32_t n_in, const Attr *attr, Type *out, Err *e)
{
  Rule r = {g, op, n_in, in, attr, out, e};

  if (op <= OP_none || op >= OP_COUNT)
    return fail(e, "op %u does not exist", (unsigned)op);
  if (!check_inputs(g, op, in, n_in, e) || !rules[op_info[op].result](&r))
    return false;
  Err why = {0};
  return type_check(out, &why) || fail(e, "%s: %s", op_info[op].name, why.text);
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
  if (!type_check(&t, e) || !graph_infer(g, n->op, g->edges.data + n->in.first, n->in.count, &n->attr, &t, e))
    return false;
  Rule r = {.g = g};
  return type_eq(&t, &n->type) || fail(e, "%s: its type is %s, must be %s", op_info[n->op].name,
                                       type_text(&r, &n->type), type_text(&r, &t));
}

bool graph_verify(const Graph *g, Err *e)
{
  if (g->nodes.len == 0 || g->nodes.data[0].op != OP_none)
    return fail(e, "graph %s: node 0 must be the none node", g->name);
  if (g->tokens < 1)
    return fail(e, "graph %s: %lld tokens", g->name, (long long)g->tokens);
  for (Val v = 1; v < g->nodes.len; v++) {
    Err why = {0};
    if (!verify_node(g, v, &why)) {
      const char *from = graph_node(g, v)->from;
      return fail(e, "graph %s, %%%u%s%s: %s", g->name, v, from ? ", " : "", from ? from : "", why.text);
    }
  }
  return true;
}

static bool verify_unique(const Module *m, Err *e)
{
  for (uint32_t i = 0; i < m->weights.len; i++)
    for (uint32_t k = 0; k < i; k++)
      if (!strcmp(m->weights.data[i].name, m->weights.data[k].name))
        return fail(e, "weight '%s' stands twice in the module", m->weights.data[i].name);
  for (uint32_t i = 0; i < m->states.len; i++)
    for (uint32_t k = 0; k < i; k++)
      if (!strcmp(m->states.data[i].name, m->states.data[k].name))
        return fail(e, "state '%s' stands twice in the module", m->states.data[i].name);
  return true;
}

static bool verify_named(const char *kind, const char *name, const Type *t, Err *e)
{
  Err why = {0};

  if (!name || !name[0])
    return fail(e, "a %s without a name", kind);
  return type_check(t, &why) || fail(e, "%s '%s': %s", kind, name, why.text);
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
  if (!verify_unique(m, e))
    return false;
  for (uint32_t i = 0; i < m->graphs.len; i++)
    if (!graph_verify(m->graphs.data[i], e))
      return false;
  return true;
}
