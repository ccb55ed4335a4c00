/* simplify_dense.c - rules of dense graphs that patterns cannot say: movement that moves nothing or moves twice, and
 * nodes of constants, which the oracle evaluates (see simplify.c). */
#include <math.h>

#include "passes/constants.h"
#include "passes/simplify.h"

/* A gather becomes a few slices if it is so long that what reads it can do without it. */
enum { MAX_RUNS = 4, LONG_RUN = 64 };

typedef Val RuleFn(Simplify *s, Val v);

static const Node *node(const Simplify *s, Val v)
{
  return graph_node(s->r.to, v);
}

static Val input(const Simplify *s, Val v, uint32_t i)
{
  return graph_in(s->r.to, v, i);
}

static const Type *type_at(const Simplify *s, Val v)
{
  return &graph_node(s->r.to, v)->type;
}

static Val emit1(Simplify *s, Op op, Val in, Attr attr, const Type *type)
{
  Type t = type ? *type : (Type){0}; /* `type` may lie in the node array, which moves */
  return simplify_emit(s, op, &in, 1, attr, type ? &t : NULL);
}

static Val emit_const(Simplify *s, double value, const Type *type)
{
  Type t = *type;
  return simplify_emit(s, OP_const, NULL, 0, (Attr){.value = value}, &t);
}

static bool same_type(const Simplify *s, Val a, Val b)
{
  return type_eq(type_at(s, a), type_at(s, b));
}

/* ---- leaves */

/* An integer constant is the number that its type holds. */
static Val simplify_const(Simplify *s, Val v)
{
  const Node *n = node(s, v);
  uint64_t element = 0;

  if (dtype_info[n->type.dtype].kind != DK_INT)
    return 0;
  dtype_put(n->type.dtype, &element, (long double)n->attr.value, true);
  double held = (double)dtype_get(n->type.dtype, &element);
  return memcmp(&held, &n->attr.value, sizeof held) ? emit_const(s, held, &n->type) : 0;
}

/* A weight of one value is a const. Larger ones stay: products and convolutions want them in memory. */
static Val simplify_weight(Simplify *s, Val v)
{
  const Node *n = node(s, v);
  Tensor t = {n->type, (void *)(uintptr_t)s->r.to->module->weights.data[n->attr.index].data};
  double value;

  return type_count(&n->type) == 1 && constant_uniform(&t, &value) ? emit_const(s, value, &n->type) : 0;
}

/* ---- movement */

static Val simplify_transpose(Simplify *s, Val v)
{
  const Node *n = node(s, v);
  Val x = input(s, v, 0);
  Type from = *type_at(s, x), to = n->type;
  Attr attr = n->attr, both = {0};
  uint32_t last = 0;
  bool moves = false;

  for (uint32_t i = 0; i < to.rank; i++)
    if (to.dim[i] != 1) { /* do dimensions of size 1 move alone? */
      moves |= attr.perm[i] < last;
      last = attr.perm[i];
    }
  if (!moves)
    return type_eq(&from, &to) ? x : emit1(s, OP_reshape, x, (Attr){0}, &to);
  if (node(s, x)->op != OP_transpose)
    return 0;
  for (uint32_t i = 0; i < to.rank; i++)
    both.perm[i] = node(s, x)->attr.perm[attr.perm[i]];
  return emit1(s, OP_transpose, input(s, x, 0), both, NULL);
}

/* The part of a concat that holds elements start .. of its axis; *start becomes the place in the part. */
static Val part_at(const Simplify *s, Val concat, int64_t *start)
{
  const Node *n = node(s, concat);

  for (uint32_t i = 0; i < n->in.count; i++) {
    int64_t len = type_at(s, input(s, concat, i))->dim[n->attr.axis];
    if (*start < len)
      return input(s, concat, i);
    *start -= len;
  }
  return 0;
}

static Val slice_of_concat(Simplify *s, Val x, Attr attr)
{
  Val part = part_at(s, x, &attr.slice.start);

  if (!part || attr.slice.step < 0)
    return 0;
  int64_t last = attr.slice.start + (attr.slice.count - 1) * attr.slice.step;
  return last < type_at(s, part)->dim[attr.slice.axis] ? emit1(s, OP_slice, part, attr, NULL) : 0;
}

static Val simplify_slice(Simplify *s, Val v)
{
  const Node *n = node(s, v);
  Val x = input(s, v, 0);
  Attr attr = n->attr, inner = node(s, x)->attr;
  Op op = node(s, x)->op;

  if (attr.slice.count == 0)
    return 0;
  if (attr.slice.count == 1 && attr.slice.step != 1) {
    attr.slice.step = 1;
    return emit1(s, OP_slice, x, attr, NULL);
  }
  if (attr.slice.start == 0 && attr.slice.step == 1 && same_type(s, v, x))
    return x;
  if (op == OP_concat && inner.axis == attr.slice.axis)
    return slice_of_concat(s, x, attr);
  if (op != OP_slice || inner.slice.axis != attr.slice.axis)
    return 0;
  attr.slice.start = inner.slice.start + attr.slice.start * inner.slice.step;
  attr.slice.step *= inner.slice.step;
  return emit1(s, OP_slice, input(s, x, 0), attr, NULL);
}

static Val simplify_concat(Simplify *s, Val v)
{
  const Node *n = node(s, v);
  uint32_t count = n->in.count, kept = 0, axis = n->attr.axis;
  Attr attr = n->attr;
  Arena tmp = {0};
  Val *in = NEW_ARRAY(&tmp, Val, count), out = 0;

  for (uint32_t i = 0; i < count; i++)
    if (type_at(s, input(s, v, i))->dim[axis])
      in[kept++] = input(s, v, i);
  if (count == 1)
    out = input(s, v, 0);
  else if (kept < count)
    out = kept ? simplify_emit(s, OP_concat, in, kept, attr, NULL) : in[0] ? in[0] : input(s, v, 0);
  arena_free(&tmp);
  return out;
}

static Val simplify_expand(Simplify *s, Val v)
{
  Val x = input(s, v, 0);

  if (same_type(s, v, x))
    return x;
  return node(s, x)->op == OP_expand ? emit1(s, OP_expand, input(s, x, 0), (Attr){0}, type_at(s, v)) : 0;
}

static Val simplify_pad(Simplify *s, Val v)
{
  const Node *n = node(s, v);

  for (uint32_t i = 0; i < n->type.rank; i++)
    if (n->attr.pad.lo[i])
      return 0;
  return same_type(s, v, input(s, v, 0)) ? input(s, v, 0) : 0;
}

/* Indices from `at` on that are start, start + step, .. */
static Attr run_at(const Tensor *t, int64_t at)
{
  int64_t count = type_count(&t->type), start = tensor_get_int(t, at), n = 1,
          step = at + 1 < count ? tensor_get_int(t, at + 1) - start : 1;

  while (at + n < count && tensor_get_int(t, at + n) == start + n * step)
    n++;
  return (Attr){.slice = {.start = start, .count = n, .step = n == 1 ? 1 : step}};
}

/* The same; where the last one begins a longer run, it is that one's: in 2 1 0 1 2 3 .. all from 0 on are together. */
static Attr next_run(const Tensor *t, int64_t at)
{
  Attr run = run_at(t, at);
  int64_t n = run.slice.count;

  if (n > 1 && at + n < type_count(&t->type) && run_at(t, at + n - 1).slice.count > n)
    run.slice.count--;
  return run;
}

/* The runs that constant indices consist of; 0: too many, or out of range. */
static uint32_t index_runs(const Tensor *t, int64_t n, Attr *run)
{
  int64_t count = type_count(&t->type), most = count < LONG_RUN ? 1 : MAX_RUNS;
  uint32_t runs = 0;

  for (int64_t i = 0; i < count; i++)
    if (tensor_get_int(t, i) < 0 || tensor_get_int(t, i) >= n)
      return 0;
  for (int64_t at = 0; at < count; at += run[runs++].slice.count) {
    if (runs == most)
      return 0;
    run[runs] = next_run(t, at);
  }
  return runs;
}

static Val emit_run(Simplify *s, Val x, Attr run, uint32_t axis)
{
  bool repeats = run.slice.step == 0;
  Type type = *type_at(s, x);

  run.slice.axis = axis;
  type.dim[axis] = run.slice.count;
  if (repeats)
    run.slice.count = run.slice.step = 1;
  x = emit1(s, OP_slice, x, run, NULL);
  return repeats ? emit1(s, OP_expand, x, (Attr){0}, &type) : x;
}

/* Constant indices that run along the axis are slices: reflected, repeated and wrapped edges among them. */
static Val simplify_gather(Simplify *s, Val v)
{
  const Node *n = node(s, v);
  Val x = input(s, v, 0), piece[MAX_RUNS];
  Type to = n->type;
  uint32_t axis = n->attr.axis, runs = 0;
  Attr run[MAX_RUNS];
  Arena tmp = {0};
  Tensor t;

  if (constant_tensor(s->r.to, input(s, v, 1), &tmp, &t))
    runs = index_runs(&t, type_at(s, x)->dim[axis], run);
  arena_free(&tmp);
  for (uint32_t i = 0; i < runs; i++)
    piece[i] = emit_run(s, x, run[i], axis);
  if (!runs)
    return 0;
  x = runs > 1 ? simplify_emit(s, OP_concat, piece, runs, (Attr){.axis = axis}, NULL) : piece[0];
  return emit1(s, OP_reshape, x, (Attr){0}, &to);
}

/* ---- types */

/* Bits of a whole number that the type holds exactly; 0: it is no number type. */
static int exact_bits(DType t)
{
  switch (t) {
  case DT_F64: return 53;
  case DT_F32: return 24;
  case DT_F16: return 11;
  case DT_BF16: return 8;
  default: return dtype_bits(t) - (t != DT_BOOL && dtype_is_signed(t));
  }
}

/* Does `wide` hold every value of t? */
static bool holds(DType wide, DType t)
{
  DKind k = dtype_info[t].kind, kw = dtype_info[wide].kind;

  if (t == wide)
    return true;
  if (k == DK_INT && kw == DK_INT)
    return (!dtype_is_signed(t) || dtype_is_signed(wide)) && exact_bits(wide) >= exact_bits(t) &&
           wide != DT_BOOL;
  if (k == DK_INT)
    return kw == DK_FLOAT && exact_bits(wide) >= exact_bits(t);
  if (wide == DT_F64)
    return true;
  return wide == DT_F32 && t != DT_F64 && kw == DK_FLOAT && k != DK_INT;
}

static Val simplify_cast(Simplify *s, Val v)
{
  Val x = input(s, v, 0);
  DType to = type_at(s, v)->dtype, through = type_at(s, x)->dtype;

  if (to == through)
    return x;
  if (node(s, x)->op != OP_cast)
    return 0;
  Val y = input(s, x, 0);
  DType from = type_at(s, y)->dtype;
  return to == from && holds(through, from) ? y : 0;
}

static Val simplify_bitcast(Simplify *s, Val v)
{
  Val x = input(s, v, 0);

  if (same_type(s, v, x))
    return x;
  return node(s, x)->op == OP_bitcast ? emit1(s, OP_bitcast, input(s, x, 0), (Attr){0}, type_at(s, v)) : 0;
}

/* ---- arithmetic */

/* Reductions over dimensions of size 1. */
static Val simplify_reduce(Simplify *s, Val v)
{
  return same_type(s, v, input(s, v, 0)) ? input(s, v, 0) : 0;
}

/* Division by a power of two is multiplication with its inverse, exactly. */
static Val simplify_div(Simplify *s, Val v)
{
  Val x = input(s, v, 0), by = input(s, v, 1);
  const Node *n = node(s, by);
  int exponent;

  if (n->op != OP_const || dtype_info[n->type.dtype].kind != DK_FLOAT || !isfinite(n->attr.value))
    return 0;
  if (fabs(frexp(n->attr.value, &exponent)) != 0.5 || exponent < -12 || exponent > 12) /* f16 holds it too */
    return 0;
  by = emit_const(s, 1 / n->attr.value, &n->type);
  return simplify_emit(s, OP_mul, (Val[]){x, by}, 2, (Attr){0}, NULL);
}

/* A constant condition of one value chooses, and broadcasts what it chose. */
static Val simplify_where(Simplify *s, Val v)
{
  const Node *c = node(s, input(s, v, 0));
  Type t = *type_at(s, v);

  if (c->op != OP_const)
    return 0;
  return emit1(s, OP_expand, input(s, v, c->attr.value != 0 ? 1 : 2), (Attr){0}, &t);
}

/* An operand whose elements are all equal is a const: rules and kernels see its value. */
static Val uniform_operands(Simplify *s, Val v)
{
  const Node *n = node(s, v);
  Val in[3];
  bool changed = false;

  if (!op_elementwise(n->op))
    return 0;
  for (uint32_t i = 0; i < n->in.count; i++) {
    Val x = in[i] = input(s, v, i);
    const Node *w = node(s, x);
    double value;
    if (w->op != OP_weight)
      continue;
    Tensor t = {w->type, (void *)(uintptr_t)s->r.to->module->weights.data[w->attr.index].data};
    if (!constant_uniform(&t, &value))
      continue;
    in[i] = emit_const(s, value, &t.type);
    changed = true;
  }
  Type type = node(s, v)->type;
  return changed ? simplify_emit(s, node(s, v)->op, in, node(s, v)->in.count, node(s, v)->attr, &type) : 0;
}

static RuleFn *const shape_rules[OP_COUNT] = {
    [OP_const] = simplify_const,       [OP_weight] = simplify_weight,     [OP_transpose] = simplify_transpose,
    [OP_slice] = simplify_slice,       [OP_concat] = simplify_concat,     [OP_expand] = simplify_expand,
    [OP_pad] = simplify_pad,           [OP_gather] = simplify_gather,     [OP_cast] = simplify_cast,
    [OP_bitcast] = simplify_bitcast,   [OP_reduce_sum] = simplify_reduce, [OP_reduce_prod] = simplify_reduce,
    [OP_reduce_max] = simplify_reduce, [OP_reduce_min] = simplify_reduce, [OP_div] = simplify_div,
    [OP_where] = simplify_where,
};

Val simplify_shape(Simplify *s, Val v)
{
  RuleFn *rule = shape_rules[node(s, v)->op];
  Val to = rule ? rule(s, v) : 0;

  return to ? to : uniform_operands(s, v);
}

/* ---- constants */

/* Which ops only move elements: of equal elements they make equal elements. (A pad may bring another value.) */
static bool only_moves(Op op)
{
  return op == OP_reshape || op == OP_transpose || op == OP_slice || op == OP_expand || op == OP_gather;
}

/* Elementwise ops of consts: one element is computed. */
static Val fold_consts(Simplify *s, Val v)
{
  const Node *n = node(s, v);
  Arena tmp = {0};
  Graph *g = graph_new_dense(module_new(&tmp), "fold");
  Val in[3];
  Tensor value[3], out;
  double result;

  for (uint32_t i = 0; i < n->in.count; i++) {
    const Node *c = node(s, input(s, v, i));
    Type scalar = type_of(c->type.dtype, 0, NULL);
    in[i] = graph_add(g, OP_const, NULL, 0, c->attr, &scalar);
    graph_eval_node(g, in[i], NULL, &tmp, &value[i]);
  }
  Type scalar = type_of(n->type.dtype, 0, NULL), type = n->type;
  Val y = graph_add(g, n->op, in, n->in.count, n->attr, &scalar);
  bool fits = graph_eval_node(g, y, value, &tmp, &out) && constant_uniform(&out, &result);
  arena_free(&tmp);
  return fits ? emit_const(s, result, &type) : 0;
}

/* Folding must not make a model much larger: results of up to 4096 elements, or of twice the inputs' bytes. */
static bool worth_folding(const Simplify *s, Val v)
{
  const Node *n = node(s, v);
  uint64_t bytes = 0;

  for (uint32_t i = 0; i < n->in.count; i++)
    if (node(s, input(s, v, i))->op == OP_weight)
      bytes += tensor_bytes(type_at(s, input(s, v, i)));
  return type_count(&n->type) <= 4096 ||
         (type_count(&n->type) <= CONSTANT_MAX && tensor_bytes(&n->type) <= 2 * bytes);
}

static Val evaluate(Simplify *s, Val v)
{
  const Node *n = node(s, v);
  Arena tmp = {0};
  Tensor *in = NEW_ARRAY(&tmp, Tensor, n->in.count), out;
  bool known = true;
  const char *from = n->from ? n->from : op_info[n->op].name;
  Val made = 0;

  for (uint32_t i = 0; known && i < n->in.count; i++)
    known = constant_tensor(s->r.to, input(s, v, i), &tmp, &in[i]);
  if (known && graph_eval_node(s->r.to, v, in, &tmp, &out)) {
    bool shared = n->op == OP_reshape && node(s, input(s, v, 0))->op == OP_weight;
    made = constant_add(s->r.to, from, &out, shared);
  }
  arena_free(&tmp);
  return made;
}

/* A node of constants is a constant: the oracle says which. */
Val simplify_fold(Simplify *s, Val v)
{
  const Node *n = node(s, v);
  bool consts = true;

  if (n->in.count == 0 || n->op == OP_output)
    return 0;
  for (uint32_t i = 0; i < n->in.count; i++) {
    if (!constant_node(s->r.to, input(s, v, i)))
      return 0;
    consts &= node(s, input(s, v, i))->op == OP_const;
  }
  Type type = n->type;
  if (only_moves(n->op) && node(s, input(s, v, 0))->op == OP_const)
    return emit_const(s, node(s, input(s, v, 0))->attr.value, &type);
  Val made = consts && op_elementwise(n->op) ? fold_consts(s, v) : 0;
  if (!made && n->op == OP_transpose)
    made = constant_transpose(s->r.to, input(s, v, 0), n->attr.perm);
  if (!made && worth_folding(s, v))
    made = evaluate(s, v);
  return made;
}
