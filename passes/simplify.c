/* simplify.c - replaces an expression by a cheaper equal one, computes what is constant, and shares equal
 * nodes. needs: verified graph; keeps: types, outputs, states; leaves: dead nodes
 *
 * Every node goes through emit(): rules first, then folding, then sharing. The rules are a table with the
 * algebra visible; most school algebra is wrong on floats (x - x is not 0 for infinities), so each row says
 * when it holds. A rule is skipped when its result would have another type (through broadcasting). */
#include <ctype.h>
#include <stdlib.h>

#include "passes/lower/lower.h"
#include "passes/passes.h"
#include "passes/rewrite.h"

typedef enum { ALWAYS, INTS } When;

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
    {"abs(neg(x))", "abs(x)", ALWAYS},
    {"abs(abs(x))", "abs(x)", ALWAYS},
    {"add(x, neg(y))", "sub(x, y)", ALWAYS},
    {"sub(x, neg(y))", "add(x, y)", ALWAYS},
    {"max(x, x)", "x", ALWAYS},
    {"min(x, x)", "x", ALWAYS},
    {"relu(relu(x))", "relu(x)", ALWAYS},
    {"mul(x, sigmoid(x))", "silu(x)", ALWAYS},
};

typedef struct {
  Rewrite r;
  Val bound[26]; /* pattern variables a .. z */
} Simplify;

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
  return op == OP_add || op == OP_mul || op == OP_max || op == OP_min;
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

static Val emit(Simplify *s, Op op, const Val *in, uint32_t n, Attr attr, const Type *type);

static Val build(Simplify *s, const char *p, const Type *type)
{
  Val in[2] = {0};
  uint32_t n = 0;

  if (is_variable(p))
    return s->bound[*p - 'a'];
  if (!islower((unsigned char)*p))
    return emit(s, OP_const, NULL, 0, (Attr){.value = strtod(p, NULL)}, type);
  size_t len = strcspn(p, "(");
  for (const char *a = p + len + 1; *a && *a != ')' && n < 2; a = next_arg(a))
    in[n++] = build(s, a, type);
  return emit(s, (Op)op_named(p, len), in, n, (Attr){0}, type);
}

static Val apply_rules(Simplify *s, Val v)
{
  Type type = graph_node(s->r.to, v)->type;

  for (size_t i = 0; i < COUNT(rules); i++) {
    memset(s->bound, 0, sizeof s->bound);
    if ((rules[i].when == INTS && dtype_info[type.dtype].kind != DK_INT) || !match(s, rules[i].from, v))
      continue;
    if (is_variable(rules[i].to) && !type_eq(&graph_node(s->r.to, s->bound[*rules[i].to - 'a'])->type, &type))
      continue;
    Val to = build(s, rules[i].to, &type);
    if (type_eq(&graph_node(s->r.to, to)->type, &type))
      return to;
  }
  return 0;
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
    return emit(s, OP_const, NULL, 0, graph_node(s->r.to, in)->attr, &type);
  if (type_eq(&graph_node(s->r.to, in)->type, &type))
    return in;
  if (graph_node(s->r.to, in)->op != OP_reshape)
    return 0;
  in = graph_in(s->r.to, in, 0);
  return emit(s, OP_reshape, &in, 1, (Attr){0}, &type);
}

/* A product of more than two dimensions is one of rows and columns. */
static Val flatten_linear(Simplify *s, Val v)
{
  const Node *n = graph_node(s->r.to, v);
  Type type = n->type;

  if (n->op != OP_linear || type.rank <= 2)
    return 0;
  Val in[2] = {graph_in(s->r.to, v, 0), graph_in(s->r.to, v, 1)};
  const Type *x = &graph_node(s->r.to, in[0])->type;
  Type flat = type_of(x->dtype, 2, (int64_t[]){type_rows(x), type_last(x)});
  in[0] = emit(s, OP_reshape, in, 1, (Attr){0}, &flat);
  Val y = emit(s, OP_linear, in, 2, (Attr){0}, NULL);
  return emit(s, OP_reshape, &y, 1, (Attr){0}, &type);
}

/* An elementwise op of constants is a constant: the oracle says which. */
static Val fold(Simplify *s, Val v)
{
  const Node *n = graph_node(s->r.to, v);
  Arena tmp = {0};
  Val in[2];

  if (!lower_is_elementwise(n->op))
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
  return emit(s, OP_const, NULL, 0, (Attr){.value = result}, &type);
}

static bool same_attr(Op op, const Attr *a, const Attr *b)
{
  if (op_info[op].attr == ATTR_NAME)
    return !strcmp(a->name, b->name);
  return !memcmp(a, b, sizeof *a); /* attributes are zeroed before they are set */
}

/* An equal node before v, or v. Outputs are never shared. */
static Val share(Simplify *s, Val v)
{
  Graph *g = s->r.to;
  const Node *n = graph_node(g, v);

  for (Val o = 1; n->op != OP_output && o < v; o++) {
    const Node *m = graph_node(g, o);
    if (m->op == n->op && m->in.count == n->in.count && type_eq(&m->type, &n->type) &&
        same_attr(n->op, &m->attr, &n->attr) &&
        !memcmp(g->edges.data + m->in.first, g->edges.data + n->in.first, n->in.count * sizeof(Val)))
      return o;
  }
  return v;
}

static Val emit(Simplify *s, Op op, const Val *in, uint32_t n, Attr attr, const Type *type)
{
  Val v = graph_add(s->r.to, op, in, n, attr, type), better;

  if ((better = apply_rules(s, v)) || (better = simplify_reshape(s, v)) || (better = flatten_linear(s, v)) ||
      (better = fold(s, v)))
    return better;
  return share(s, v);
}

Graph *pass_simplify(const Graph *g, Err *e)
{
  Simplify s = {.r = rewrite_begin(g)};

  (void)e;
  for (Val v = 1; v < g->nodes.len; v++) {
    const Node *n = graph_node(g, v);
    Val out = emit(&s, n->op, rewrite_inputs(&s.r, v), n->in.count, n->attr, &n->type);
    if (!graph_node(s.r.to, out)->from)
      graph_node(s.r.to, out)->from = n->from;
    s.r.map[v] = out;
  }
  return s.r.to;
}
