/* graph_infer.c - the rules of the graph IR's types: by ResultRule where several ops share one, and by op below.
 * What only dense graphs have is in graph_dense.c. */
#include "ir/graph_rules.h"

const Type *rule_in(const Rule *r, uint32_t i)
{
  return &r->g->nodes.data[r->in[i]].type;
}

const char *rule_type_text(const Graph *g, const Type *t)
{
  Text s = {.arena = g->module->arena};

  type_print(t, &s);
  return s.data;
}

bool rule_bad_input(const Rule *r, uint32_t i, const char *want)
{
  return fail(r->e, "%s: input %u is %s, must be %s", op_info[r->op].name, i,
              rule_type_text(r->g, rule_in(r, i)), want);
}

/* In dense graphs the op's row of the table has said what it takes (rule_dense_takes). */
static bool is_f32(const Rule *r, uint32_t i)
{
  return r->g->dense || rule_in(r, i)->dtype == DT_F32 || rule_bad_input(r, i, "f32");
}

static bool is_scalar_i32(const Rule *r, uint32_t i)
{
  const Type *t = rule_in(r, i);

  return (t->dtype == DT_I32 && t->rank == 0) || rule_bad_input(r, i, "i32[]");
}

static bool is_f32_of_rank(const Rule *r, uint32_t i, uint32_t rank, const char *want)
{
  return (rule_in(r, i)->dtype == DT_F32 && rule_in(r, i)->rank == rank) || rule_bad_input(r, i, want);
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
  if (op_takes_ints(r->op) && rule_in(r, i)->dtype == DT_I32)
    return true;
  return is_f32(r, i);
}

bool rule_bcast(const Rule *r, Type *acc, const Type *t)
{
  Type a = *acc;

  if (a.rank < t->rank)
    acc->rank = t->rank;
  for (uint32_t i = 1; i <= acc->rank; i++) { /* aligned at the last dimension */
    int64_t x = i <= a.rank ? a.dim[a.rank - i] : 1, y = i <= t->rank ? t->dim[t->rank - i] : 1;
    if (x != y && x != 1 && y != 1)
      return fail(r->e, "%s: %s and %s do not broadcast", op_info[r->op].name, rule_type_text(r->g, &a),
                  rule_type_text(r->g, t));
    acc->dim[acc->rank - i] = x == 1 ? y : x;
  }
  return true;
}

static bool infer_bcast(const Rule *r)
{
  const Type *a = rule_in(r, 0), *b = rule_in(r, 1);

  if (!is_number(r, 0) || !is_number(r, 1))
    return false;
  if (a->dtype != b->dtype)
    return rule_bad_input(r, 1, "of the first input's element type");
  *r->out = *a;
  return rule_bcast(r, r->out, b);
}

static bool infer_compare(const Rule *r)
{
  if (!infer_bcast(r))
    return false;
  r->out->dtype = DT_BOOL;
  return true;
}

static bool infer_reduce(const Rule *r)
{
  if (!is_f32(r, 0))
    return false;
  if (rule_in(r, 0)->rank == 0)
    return rule_bad_input(r, 0, "of rank 1 or more");
  *r->out = *rule_in(r, 0);
  r->out->dim[r->out->rank - 1] = 1;
  return true;
}

static bool infer_transpose(const Rule *r)
{
  const Type *t = rule_in(r, 0);
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

/* Element i is start + i * step; nothing overflows, since all lie within the dimension. */
static bool slice_fits(const Attr *a, int64_t n, int64_t step)
{
  int64_t start = a->slice.start, count = a->slice.count, last;

  if (start < 0 || count < 0 || start > n || count > n)
    return false;
  if (count == 0)
    return true;
  if (__builtin_mul_overflow(count - 1, step, &last) || __builtin_add_overflow(last, start, &last))
    return false;
  return start < n && last >= 0 && last < n;
}

static bool infer_slice(const Rule *r)
{
  const Type *t = rule_in(r, 0);
  uint32_t axis = r->attr->slice.axis;
  int64_t start = r->attr->slice.start, step = r->attr->slice.step ? r->attr->slice.step : 1;

  if (axis >= t->rank)
    return fail(r->e, "slice: axis %u, but the input is %s", axis, rule_type_text(r->g, t));
  if (step != 1 && !r->g->dense)
    return fail(r->e, "slice: step %lld, only dense graphs have steps", (long long)step);
  if (!slice_fits(r->attr, t->dim[axis], step) || (!r->g->dense && !r->attr->slice.count))
    return fail(r->e, "slice: elements %lld .. +%lld of axis %u, which has %lld", (long long)start,
                (long long)r->attr->slice.count, axis, (long long)t->dim[axis]);
  if (axis == t->rank - 1 && start % dtype_info[t->dtype].block)
    return fail(r->e, "slice: start %lld lies inside a block of %s", (long long)start,
                dtype_info[t->dtype].name);
  *r->out = *t;
  r->out->dim[axis] = r->attr->slice.count;
  return true;
}

static bool infer_concat(const Rule *r)
{
  uint32_t axis = r->attr->axis;
  Type sum = *rule_in(r, 0);

  if (axis >= sum.rank)
    return fail(r->e, "concat: axis %u, but the first input is %s", axis, rule_type_text(r->g, &sum));
  for (uint32_t i = 1; i < r->n_in; i++) {
    Type t = *rule_in(r, i);
    int64_t here = t.rank == sum.rank ? t.dim[axis] : 0;
    t.dim[axis] = sum.dim[axis];
    if (!type_eq(&t, &sum))
      return rule_bad_input(r, i, "like the first but for the axis");
    if (here > MAX_ELEMENTS - sum.dim[axis])
      return fail(r->e, "concat: more than 2^44 elements");
    sum.dim[axis] += here;
  }
  *r->out = sum;
  return true;
}

/* What a language model's matrices and tables are of. */
static bool is_table(const Type *t)
{
  return t->dtype == DT_F32 || t->dtype == DT_F16 || t->dtype == DT_BF16 ||
         dtype_info[t->dtype].kind == DK_BLOCK;
}

static bool infer_linear(const Rule *r)
{
  const Type *x = rule_in(r, 0), *w = rule_in(r, 1);

  if (r->g->dense)
    return rule_dense_linear(r);
  if (x->dtype != DT_F32 && x->dtype != DT_Q8A)
    return rule_bad_input(r, 0, "f32 or q8a");
  if (x->rank == 0)
    return rule_bad_input(r, 0, "of rank 1 or more");
  if (!is_table(w))
    return rule_bad_input(r, 1, "of floats or blocks");
  if (x->dtype == DT_Q8A && dtype_info[w->dtype].kind != DK_BLOCK)
    return rule_bad_input(r, 1, "of a block type, since x is q8a");
  if (w->rank != 2 || w->dim[1] != type_last(x))
    return fail(r->e, "linear: x is %s, w is %s, must be [n, %lld]", rule_type_text(r->g, x),
                rule_type_text(r->g, w), (long long)type_last(x));
  *r->out = *x;
  r->out->dtype = DT_F32;
  r->out->dim[x->rank - 1] = w->dim[0];
  return true;
}

static bool infer_quant(const Rule *r)
{
  if (!is_f32(r, 0))
    return false;
  *r->out = *rule_in(r, 0);
  r->out->dtype = DT_Q8A; /* whole blocks: checked with every result */
  return true;
}

static bool infer_embed(const Rule *r)
{
  const Type *tokens = rule_in(r, 0), *table = rule_in(r, 1);

  if (tokens->dtype != DT_I32 || tokens->rank != 1)
    return rule_bad_input(r, 0, "i32[tokens]");
  if (table->rank != 2 || !is_table(table))
    return rule_bad_input(r, 1, "a table [rows, width] of floats or blocks");
  *r->out = type_of(DT_F32, 2, (int64_t[]){tokens->dim[0], table->dim[1]});
  return true;
}

static bool check_rms_norm(const Rule *r)
{
  const Type *x = rule_in(r, 0), *gain = rule_in(r, 1);

  if (!is_f32(r, 0) || !is_f32(r, 1))
    return false;
  if (x->rank == 0 || gain->rank != 1 || gain->dim[0] != type_last(x))
    return fail(r->e, "rms_norm: x is %s, gain is %s, must be f32[%lld]", rule_type_text(r->g, x),
                rule_type_text(r->g, gain), (long long)type_last(x));
  if (!(r->attr->eps >= 0 && r->attr->eps < 1))
    return fail(r->e, "rms_norm: eps is %g, must be at least 0 and below 1", r->attr->eps);
  return true;
}

static bool check_rope(const Rule *r)
{
  const Type *x = rule_in(r, 0), *table = rule_in(r, 1);

  if (!is_f32_of_rank(r, 0, 3, "f32[tokens, heads, size]") ||
      !is_f32_of_rank(r, 1, 3, "f32[tokens, 2, half]"))
    return false;
  if (table->dim[0] != x->dim[0] || table->dim[1] != 2 || table->dim[2] > x->dim[2] / 2)
    return fail(r->e, "rope: x is %s, its table %s, must be f32[%lld, 2, at most %lld]",
                rule_type_text(r->g, x), rule_type_text(r->g, table), (long long)x->dim[0],
                (long long)x->dim[2] / 2);
  return true;
}

/* A state's numbers are rounded to its own type when they are stored. */
static bool is_state_type(const Rule *r, uint32_t i)
{
  const Type *t = rule_in(r, i);
  return (t->rank == 3 &&
          (t->dtype == DT_F32 || t->dtype == DT_F16 || (t->dtype == DT_Q8_0 && t->dim[2] % 32 == 0))) ||
         fail(r->e, "%s: input %u is %s, must be f32, f16 or q8_0[capacity, heads, size]",
              op_info[r->op].name, i, rule_type_text(r->g, t));
}

static bool check_update(const Rule *r)
{
  const Type *state = rule_in(r, 0), *value = rule_in(r, 1);

  if (!is_state_type(r, 0) || !is_f32_of_rank(r, 1, 3, "f32[tokens, heads, size]") || !is_scalar_i32(r, 2))
    return false;
  if (state->dim[1] != value->dim[1] || state->dim[2] != value->dim[2] || value->dim[0] > state->dim[0])
    return fail(r->e, "update: value %s does not fit into state %s", rule_type_text(r->g, value),
                rule_type_text(r->g, state));
  return true;
}

static bool check_attention(const Rule *r)
{
  const Type *q = rule_in(r, 0), *k = rule_in(r, 1), *v = rule_in(r, 2);

  if (!is_f32_of_rank(r, 0, 3, "f32 of rank 3") || !is_state_type(r, 1) || !is_state_type(r, 2) ||
      !is_scalar_i32(r, 3))
    return false;
  if (!type_eq(k, v) || k->dim[2] != q->dim[2] || q->dim[1] % k->dim[1] || q->dim[0] > k->dim[0])
    return fail(r->e, "attention: q %s, k %s and v %s do not fit", rule_type_text(r->g, q),
                rule_type_text(r->g, k), rule_type_text(r->g, v));
  if (r->attr->attention.nan_is_0)
    return fail(r->e, "attention: nan=0 is for sdpa alone");
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
  case OP_scatter: ok = rule_dense_scatter(r); break;
  case OP_cumsum:
  case OP_cumprod:
    ok = r->attr->scan.axis < rule_in(r, 0)->rank ||
         fail(r->e, "%s: axis %u, but the input is %s", op_info[r->op].name, r->attr->scan.axis,
              rule_type_text(r->g, rule_in(r, 0)));
    break;
  default: ok = is_number(r, 0); break;
  }
  if (ok && r->op == OP_softmax && rule_in(r, 0)->rank == 0)
    return rule_bad_input(r, 0, "of rank 1 or more");
  if (ok)
    *r->out = *rule_in(r, 0);
  return ok;
}

static bool given_is(const Rule *r, const Type *t)
{
  return type_eq(r->out, t) || fail(r->e, "%s is %s, must be %s", op_info[r->op].name,
                                    rule_type_text(r->g, r->out), rule_type_text(r->g, t));
}

static bool no_index(const Rule *r, uint32_t index, uint32_t len)
{
  return fail(r->e, "%s: index %u, but the module has %u", op_info[r->op].name, index, len);
}

static bool given_reshape(const Rule *r)
{
  const Type *t = rule_in(r, 0);

  if (t->dtype == r->out->dtype && type_count(t) == type_count(r->out))
    return true;
  return fail(r->e, "reshape: %s cannot become %s", rule_type_text(r->g, t), rule_type_text(r->g, r->out));
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

  if (!(r->g->dense ? type_check_dense : type_check)(r->out, r->e))
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
    if (r->g->dense)
      return dtype_is_element(r->out->dtype) || fail(r->e, "%s is %s, which no dense graph holds",
                                                     op_info[r->op].name, rule_type_text(r->g, r->out));
    return r->out->dtype == DT_F32 || r->out->dtype == DT_I32 ||
           fail(r->e, "%s is %s, must be f32 or i32", op_info[r->op].name, rule_type_text(r->g, r->out));
  case OP_reshape: return given_reshape(r);
  case OP_rope_table: return given_rope_table(r);
  default: return rule_dense_given(r);
  }
}

static RuleFn *const rules[] = {
    [RES_GIVEN] = infer_given,    [RES_SAME] = infer_same,           [RES_BCAST] = infer_bcast,
    [RES_REDUCE] = infer_reduce,  [RES_TRANSPOSE] = infer_transpose, [RES_SLICE] = infer_slice,
    [RES_CONCAT] = infer_concat,  [RES_LINEAR] = infer_linear,       [RES_QUANT] = infer_quant,
    [RES_EMBED] = infer_embed,    [RES_COMPARE] = infer_compare,     [RES_WHERE] = rule_dense_where,
    [RES_AXES] = rule_dense_axes, [RES_ARG] = rule_dense_arg,        [RES_GATHER] = rule_dense_gather,
    [RES_TOPK] = rule_dense_topk, [RES_MATMUL] = rule_dense_matmul,  [RES_SDPA] = rule_dense_sdpa,
    [RES_CONV] = rule_dense_conv, [RES_POOL] = rule_dense_pool,
};

static bool check_sort(const Rule *r)
{
  OpIn in = op_info[r->op].graphs;

  if (in == IN_LANG && r->g->dense)
    return fail(r->e, "%s: dense graphs do not have it", op_info[r->op].name);
  if (in == IN_DENSE && !r->g->dense)
    return fail(r->e, "%s: only dense graphs have it", op_info[r->op].name);
  return !r->g->dense || rule_dense_takes(r);
}

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
  if (!check_inputs(g, op, in, n_in, e) || !check_sort(&r) || !rules[op_info[op].result](&r))
    return false;
  Err why = {0};
  return (g->dense ? type_check_dense : type_check)(out, &why) ||
         fail(e, "%s: %s", op_info[op].name, why.text);
}
