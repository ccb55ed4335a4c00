/* simplify.c - replaces an expression by a cheaper equal one, computes what is constant, and shares equal
 * nodes. needs: verified graph; keeps: types, outputs, states; leaves: dead nodes
 *
 * Every node goes through simplify_emit(): rules first, then folding, then sharing. The rules are a table with the
 * algebra visible; most school algebra is wrong on floats (x - x is not 0 for infinities), so each row says
 * when it holds. A rule is skipped when its result would have another type (through broadcasting). */
#include "passes/simplify.h"

#include <ctype.h>
#include <stdlib.h>

#include "passes/lower/lower.h"
#include "passes/passes.h"

typedef enum { ALWAYS, INTS, FLOATS, BOOLS, SIGNED } When; /* INTS: bool too, where an op has it */

typedef struct {
  const char *from, *to;
  When when;
} Rule;

static const Rule rules[] = {
    {"add(x, -0)", "x", ALWAYS}, /* x + 0 is not x for x = -0 */
    {"add(x, 0)", "x", INTS},
    {"sub(x, 0)", "x", ALWAYS},
    {"sub(x, x)", "0", INTS}, /* float: inf - inf is nan */
    {"mul(x, 1)", "x", ALWAYS},
    {"mul(x, -1)", "neg(x)", ALWAYS},
    {"mul(x, 0)", "0", INTS}, /* float: nan, inf, -0 */
    {"div(x, 1)", "x", ALWAYS},
    {"neg(neg(x))", "x", ALWAYS},
    {"abs(neg(x))", "abs(x)", SIGNED}, /* u8: abs does nothing, neg does */
    {"abs(abs(x))", "abs(x)", ALWAYS},
    {"add(x, neg(y))", "sub(x, y)", ALWAYS},
    {"sub(x, neg(y))", "add(x, y)", ALWAYS},
    {"max(x, x)", "x", ALWAYS},
    {"min(x, x)", "x", ALWAYS},
    {"relu(relu(x))", "relu(x)", ALWAYS},
    {"mul(x, sigmoid(x))", "silu(x)", ALWAYS},
    {"max(x, 0)", "relu(x)", FLOATS}, /* relu(-0) is 0, as is max(-0, 0) */
    {"not(not(x))", "x", ALWAYS},
    {"and(x, x)", "x", ALWAYS},
    {"or(x, x)", "x", ALWAYS},
    {"or(x, 0)", "x", ALWAYS},
    {"xor(x, 0)", "x", ALWAYS},
    {"and(x, 0)", "0", ALWAYS},
    {"and(x, 1)", "x", BOOLS},
    {"or(x, 1)", "1", BOOLS},
    {"xor(x, 1)", "not(x)", BOOLS},
    {"shl(x, 0)", "x", ALWAYS},
    {"shr(x, 0)", "x", ALWAYS},
    {"pow(x, 1)", "x", ALWAYS},
    {"pow(x, 2)", "mul(x, x)", ALWAYS},
    {"pow(x, 3)", "mul(mul(x, x), x)", ALWAYS}, /* floats: a rounding more, as numpy's x * x * x */
    {"pow(x, -1)", "div(1, x)", FLOATS},
    {"where(c, x, x)", "x", ALWAYS},
    {"where(1, x, y)", "x", ALWAYS},
    {"where(0, x, y)", "y", ALWAYS},
};

static bool applies(When when, DType t)
{
  DKind kind = dtype_info[t].kind;

  switch (when) {
  case ALWAYS: return true;
  case INTS: return kind == DK_INT;
  case FLOATS: return kind == DK_FLOAT;
  case BOOLS: return t == DT_BOOL;
  case SIGNED: return kind == DK_FLOAT || (kind == DK_INT && dtype_is_signed(t));
  }
  return false;
}

/* ---- patterns: op(arg, arg), a variable (one letter), or a number */

static bool is_variable(const char *p)
{
  return islower((unsigned char)p[0]) && !isalpha((unsigned char)p[1]) && p[1] != '(';
}

static int op_named(const char *p, size_t len)
{
  for (int op = 1; op < OP_COUNT; op++)
    if (strlen(op_info[op].name) == len && !memcmp(op_info[op].name, p, len))
      return op;
  return 0;
}

static const char *past(const char *p)
{
  int depth = 0;
  for (; *p && (depth || (*p != ',' && *p != ')')); p++)
    depth += *p == '(' ? 1 : *p == ')' ? -1 : 0;
  return p;
}

static const char *next_arg(const char *p)
{
  p = past(p);
  while (*p == ',' || *p == ' ')
    p++;
  return p;
}

static bool commutes(Op op)
{
  static const bool yes[OP_COUNT] = {[OP_add] = true, [OP_mul] = true, [OP_max] = true, [OP_min] = true,
                                     [OP_and] = true, [OP_or] = true,  [OP_xor] = true, [OP_eq] = true};
  return yes[op];
}

static bool same_bits(double a, double b)
{
  return !memcmp(&a, &b, sizeof a);
}

static bool match(Simplify *s, const char *p, Val v);

static bool match_args(Simplify *s, const char *p, Val v, bool swapped)
{
  uint32_t n = graph_node(s->r.to, v)->in.count;

  for (uint32_t i = 0; i < n; i++, p = next_arg(p))
    if (!match(s, p, graph_in(s->r.to, v, swapped ? n - 1 - i : i)))
      return false;
  return true;
}

static bool match(Simplify *s, const char *p, Val v)
{
  const Node *n = graph_node(s->r.to, v);

  if (is_variable(p)) {
    Val *b = &s->bound[*p - 'a'];
    if (!*b)
      *b = v;
    return *b == v;
  }
  if (!islower((unsigned char)*p))
    return n->op == OP_const && same_bits(n->attr.value, strtod(p, NULL));
  size_t len = strcspn(p, "(");
  if (n->op != (Op)op_named(p, len))
    return false;
  Val saved[26];
  memcpy(saved, s->bound, sizeof saved);
  if (match_args(s, p + len + 1, v, false))
    return true;
  memcpy(s->bound, saved, sizeof saved);
  return commutes(n->op) && match_args(s, p + len + 1, v, true);
}

/* ---- emitting */

/* Numbers take the type of the whole. */
static Val build(Simplify *s, const char *p, const Type *type)
{
  Val in[2] = {0};
  uint32_t n = 0;

  if (is_variable(p))
    return s->bound[*p - 'a'];
  if (!islower((unsigned char)*p))
    return simplify_emit(s, OP_const, NULL, 0, (Attr){.value = strtod(p, NULL)}, type);
  size_t len = strcspn(p, "(");
  for (const char *a = p + len + 1; *a && *a != ')' && n < 2; a = next_arg(a))
    in[n++] = build(s, a, type);
  return simplify_emit(s, (Op)op_named(p, len), in, n, (Attr){0}, type);
}

static Val try_rules(Simplify *s, Val v)
{
  Type type = graph_node(s->r.to, v)->type;

  for (size_t i = 0; i < COUNT(rules); i++) {
    memset(s->bound, 0, sizeof s->bound);
    if (!applies(rules[i].when, type.dtype) || !match(s, rules[i].from, v))
      continue;
    if (is_variable(rules[i].to) && !type_eq(&graph_node(s->r.to, s->bound[*rules[i].to - 'a'])->type, &type))
      continue;
    Val to = build(s, rules[i].to, &type);
    if (type_eq(&graph_node(s->r.to, to)->type, &type))
      return to;
  }
  return 0;
}

/* What is built passes through here too, while its own rule's variables are still needed. */
static Val apply_rules(Simplify *s, Val v)
{
  Val saved[26];

  memcpy(saved, s->bound, sizeof saved);
  Val to = try_rules(s, v);
  memcpy(s->bound, saved, sizeof saved);
  return to;
}

/* A reshape of a reshape is one, and none if the type comes back. */
static Val simplify_reshape(Simplify *s, Val v)
{
  const Node *n = graph_node(s->r.to, v);
  Val in = n->op == OP_reshape ? graph_in(s->r.to, v, 0) : 0;
  Type type = n->type;

  if (!in)
    return 0;
  if (graph_node(s->r.to, in)->op == OP_const)
    return simplify_emit(s, OP_const, NULL, 0, graph_node(s->r.to, in)->attr, &type);
  if (type_eq(&graph_node(s->r.to, in)->type, &type))
    return in;
  if (graph_node(s->r.to, in)->op != OP_reshape)
    return 0;
  in = graph_in(s->r.to, in, 0);
  return simplify_emit(s, OP_reshape, &in, 1, (Attr){0}, &type);
}

/* A product of more than two dimensions is one of rows and columns. */
static Val flatten_linear(Simplify *s, Val v)
{
  const Node *n = graph_node(s->r.to, v);
  Type type = n->type;

  if (n->op != OP_linear || type.rank <= 2 || s->r.to->dense)
    return 0;
  Val in[2] = {graph_in(s->r.to, v, 0), graph_in(s->r.to, v, 1)};
  const Type *x = &graph_node(s->r.to, in[0])->type;
  Type flat = type_of(x->dtype, 2, (int64_t[]){type_rows(x), type_last(x)});
  in[0] = simplify_emit(s, OP_reshape, in, 1, (Attr){0}, &flat);
  Val y = simplify_emit(s, OP_linear, in, 2, (Attr){0}, NULL);
  return simplify_emit(s, OP_reshape, &y, 1, (Attr){0}, &type);
}

/* An elementwise op of constants is a constant: the oracle says which. */
static Val fold(Simplify *s, Val v)
{
  const Node *n = graph_node(s->r.to, v);
  Arena tmp = {0};
  Val in[2];

  if (!lower_is_elementwise(n->op) || s->r.to->dense)
    return 0;
  for (uint32_t i = 0; i < n->in.count; i++)
    if (graph_node(s->r.to, graph_in(s->r.to, v, i))->op != OP_const)
      return 0;
  Module *m = module_new(&tmp);
  Graph *g = graph_new(m, "fold", 1);
  Type scalar = type_of(n->type.dtype, 0, NULL), type = n->type;
  for (uint32_t i = 0; i < n->in.count; i++)
    in[i] = graph_add(g, OP_const, NULL, 0, graph_node(s->r.to, graph_in(s->r.to, v, i))->attr, &scalar);
  Val value = graph_add(g, n->op, in, n->in.count, (Attr){0}, NULL);
  graph_add(g, OP_output, &value, 1, (Attr){.name = "out"}, NULL);
  Array out;
  graph_eval(g, &tmp, NULL, NULL, &out);
  double result = out.data[0];
  arena_free(&tmp);
  return simplify_emit(s, OP_const, NULL, 0, (Attr){.value = result}, &type);
}

/* ---- equal nodes are one */

static const Weight *weight_of(const Simplify *s, const Node *n)
{
  const Weight *w = n->op == OP_weight ? &s->r.to->module->weights.data[n->attr.index] : NULL;
  return w && w->data && s->r.to->dense ? w : NULL;
}

/* Not all of the attribute: what differs between many nodes that are else alike. */
static uint64_t hash_node(const Simplify *s, const Node *n)
{
  const Weight *w = weight_of(s, n);
  uint64_t h = (uint64_t)n->op;

  if (n->in.count) /* else there may be no edges at all */
    h = hash_bytes(s->r.to->edges.data + n->in.first, n->in.count * sizeof(Val), h);
  h = hash_bytes(n->type.dim, n->type.rank * sizeof n->type.dim[0], h + (uint64_t)n->type.dtype);
  if (w)
    return hash_bytes(w->data, w->bytes < 4096 ? w->bytes : 4096, h);
  if (n->op == OP_weight || n->op == OP_state)
    return hash_bytes(&n->attr.index, sizeof n->attr.index, h);
  if (n->op == OP_slice)
    return hash_bytes(&n->attr.slice.start, sizeof n->attr.slice.start, h);
  return n->op == OP_const ? hash_bytes(&n->attr.value, sizeof n->attr.value, h) : h;
}

static bool same_attr(const Simplify *s, const Node *a, const Node *b)
{
  const Weight *wa = weight_of(s, a), *wb = weight_of(s, b);

  if (wa && wb && !memcmp(wa->data, wb->data, wa->bytes))
    return true;
  return attr_eq(op_info[a->op].attr, &a->attr, &b->attr);
}

static bool same_node(const Simplify *s, const Node *a, const Node *b)
{
  const Val *edges = s->r.to->edges.data;

  return a->op == b->op && a->in.count == b->in.count && type_eq(&a->type, &b->type) &&
         (!a->in.count || !memcmp(edges + a->in.first, edges + b->in.first, a->in.count * sizeof(Val))) &&
         same_attr(s, a, b);
}

/* The place of an equal node in the table, or a free one. */
static uint32_t find_slot(const Simplify *s, Val v)
{
  const Node *n = graph_node(s->r.to, v);
  uint32_t mask = s->slots - 1, at = (uint32_t)hash_node(s, n) & mask;

  while (s->slot[at] && !same_node(s, graph_node(s->r.to, s->slot[at]), n))
    at = (at + 1) & mask;
  return at;
}

static void grow(Simplify *s)
{
  Simplify old = *s;

  s->slots = old.slots ? old.slots * 2 : 256;
  s->slot = NEW_ARRAY(s->r.to->module->arena, Val, s->slots);
  for (uint32_t i = 0; i < old.slots; i++)
    if (old.slot[i])
      s->slot[find_slot(s, old.slot[i])] = old.slot[i];
}

/* An equal node before v, or v. Outputs are never shared, nor what the caller of a dense graph gives. */
static Val share(Simplify *s, Val v)
{
  Op op = graph_node(s->r.to, v)->op;

  if (op == OP_output || (op == OP_input && s->r.to->dense))
    return v;
  if (s->used * 2 >= s->slots)
    grow(s);
  uint32_t at = find_slot(s, v);
  if (!s->slot[at]) {
    s->slot[at] = v;
    s->used++;
  }
  return s->slot[at];
}

Val simplify_emit(Simplify *s, Op op, const Val *in, uint32_t n, Attr attr, const Type *type)
{
  Val v = graph_add(s->r.to, op, in, n, attr, type), better;

  if ((better = apply_rules(s, v)) || (better = simplify_reshape(s, v)) || (better = flatten_linear(s, v)) ||
      (better = fold(s, v)))
    return better;
  if (s->r.to->dense && (better = simplify_shape(s, v)))
    return better;
  if (s->r.to->dense && (better = simplify_fold(s, v)))
    v = better; /* a new constant, which may stand there already */
  return share(s, v);
}

Graph *pass_simplify(const Graph *g, Err *e)
{
  Simplify s = {.r = rewrite_begin(g)};

  (void)e;
  for (Val v = 1; v < g->nodes.len; v++) {
    const Node *n = graph_node(g, v);
    Val out = simplify_emit(&s, n->op, rewrite_inputs(&s.r, v), n->in.count, n->attr, &n->type);
    if (!graph_node(s.r.to, out)->from)
      graph_node(s.r.to, out)->from = n->from;
    s.r.map[v] = out;
  }
  return s.r.to;
}
