/* op_control.c - If, Loop and Scan. A dense graph has no control flow: a branch is chosen at import or by
 * `where`, and loops are unrolled.
 *
 * If: a constant condition takes its branch; else both run and each result is chosen, which asks for equal types.
 * Loop: the trip count is a constant, or the condition is one in each round. A condition that is computed at run time
 * ends nothing: later rounds keep the carried values as they were, which asks for a trip count and for no scan outputs.
 * Scan: as many rounds as the axis has elements. */
#include "frontend/onnx/onnx_ops.h"

enum { ROUNDS_MAX = 100000, VALUES_MAX = 1000 };

/* ---- If */

static bool run_branch(Import *im, const OnnxNode *n, const char *name, Val *out)
{
  const OnnxGraph *g = im_graph_attr(im, n, name);

  if (!g || g->n_outputs != n->n_outputs)
    return im_fail(im, n, "%s must have %u outputs", name, n->n_outputs);
  return im_graph(im, g, NULL, 0, out);
}

static bool both_branches(Import *im, const OnnxNode *n, Val c)
{
  Val *yes = NEW_ARRAY(im->arena, Val, n->n_outputs), *no = NEW_ARRAY(im->arena, Val, n->n_outputs);
  bool ok = run_branch(im, n, "then_branch", yes) && run_branch(im, n, "else_branch", no);

  for (uint32_t i = 0; ok && i < n->n_outputs; i++) {
    Type a = im_type(im, yes[i]), b = im_type(im, no[i]);
    Tensor t;
    if (!type_eq(&a, &b) || im_sequence(im, yes[i]) || im_sequence(im, no[i])) /* says which input decides */
      return im_need_constant(im, n, c, "cond", &t);
    ok = im_out(im, n, i, im_where(im, c, yes[i], no[i]));
  }
  return ok;
}

/* One of the branches cannot be had, perhaps the one that is never taken: what decides can be given. */
static bool choose(Import *im, const OnnxNode *n, Val c)
{
  Err why = *im->err;
  Tensor value;

  *im->err = (Err){0};
  im_need_constant(im, n, c, "cond", &value);
  if (im_ok(im) || (im->opt->need && !*im->opt->need))
    *im->err = why;
  return false;
}

bool op_if(Import *im, const OnnxNode *n)
{
  Val c = im_in(im, n, 0), *out = NEW_ARRAY(im->arena, Val, n->n_outputs);
  Type t = im_type(im, c);
  Tensor value;

  if (!im_ok(im) || t.dtype != DT_BOOL || type_count(&t) != 1)
    return im_fail(im, n, "the condition must be one bool");
  if (!im_constant(im, c, &value))
    return both_branches(im, n, im_reshape(im, c, 0, NULL)) || choose(im, n, c);
  bool ok = run_branch(im, n, tensor_get_int(&value, 0) ? "then_branch" : "else_branch", out);
  for (uint32_t i = 0; ok && i < n->n_outputs; i++)
    ok = im_out(im, n, i, out[i]);
  return ok;
}

/* ---- what Loop and Scan share: values carried from round to round, and results that pile up */

typedef ARRAY(Val) Vals;

typedef struct {
  Import *im;
  const OnnxNode *n;
  const OnnxGraph *body;
  uint32_t carried, scanned; /* numbers of values */
  Val *state;                /* [carried] */
  Vals *piles;               /* [scanned]: one value of each round */
  Val *in, *out;             /* of the body */
} Rounds;

static bool rounds_new(Rounds *r, Import *im, const OnnxNode *n, uint32_t carried)
{
  *r = (Rounds){.im = im, .n = n, .body = im_graph_attr(im, n, "body"), .carried = carried};
  if (!r->body || carried > n->n_outputs || r->body->n_outputs > VALUES_MAX || r->body->n_inputs > VALUES_MAX)
    return im_fail(im, n, "%u carried values for %u outputs", carried, n->n_outputs);
  r->scanned = n->n_outputs - carried;
  r->state = NEW_ARRAY(im->arena, Val, carried);
  r->piles = NEW_ARRAY(im->arena, Vals, r->scanned);
  r->in = NEW_ARRAY(im->arena, Val, r->body->n_inputs);
  r->out = NEW_ARRAY(im->arena, Val, r->body->n_outputs);
  return true;
}

static bool give_carried(Rounds *r)
{
  bool ok = true;

  for (uint32_t i = 0; ok && i < r->carried; i++)
    ok = im_out(r->im, r->n, i, r->state[i]);
  return ok;
}

static bool add_to_piles(Rounds *r, const Val *v)
{
  for (uint32_t i = 0; i < r->scanned; i++) {
    if (im_sequence(r->im, v[i]))
      return im_fail(r->im, r->n, "a result of each round is a sequence of tensors");
    *PUSH(r->im->arena, r->piles[i]) = v[i];
  }
  return true;
}

/* ---- Loop: body(iteration, condition, carried ..) -> (condition, carried .., scan ..) */

typedef struct {
  Rounds r;
  int64_t trips; /* -1: no limit */
  Val active;    /* a condition of run time; 0: all rounds so far ran for sure */
} Loop;

/* Whether the constant condition v holds; *dynamic if it is no constant. */
static bool holds(Import *im, Val v, bool *dynamic)
{
  Tensor t;

  *dynamic = !im_constant(im, v, &t);
  return *dynamic || (type_count(&t.type) == 1 && tensor_get_int(&t, 0));
}

/* New carried values; where the loop has ended, the old ones. */
static bool carry(Loop *l, const Val *next)
{
  Rounds *r = &l->r;

  for (uint32_t i = 0; i < r->carried; i++) {
    Type a = im_type(r->im, next[i]), b = im_type(r->im, r->state[i]);
    bool list = im_sequence(r->im, next[i]) || im_sequence(r->im, r->state[i]);
    if (l->active && (list || !type_eq(&a, &b)))
      return im_fail(r->im, r->n,
                     "carried value %u changes its shape, and the end of the loop is only known at run time",
                     i);
    r->state[i] = l->active ? im_where(r->im, l->active, next[i], r->state[i]) : next[i];
  }
  return im_ok(r->im);
}

static bool one_round(Loop *l, int64_t round, Val condition)
{
  Rounds *r = &l->r;
  Import *im = r->im;

  r->in[0] = im_const_i(im, DT_I64, round);
  r->in[1] = condition;
  memcpy(r->in + 2, r->state, r->carried * sizeof *r->in);
  if (!im_graph(im, r->body, r->in, r->body->n_inputs, r->out) || !carry(l, r->out + 1))
    return false;
  return add_to_piles(r, r->out + 1 + r->carried);
}

static bool run_rounds(Loop *l, Val condition)
{
  Import *im = l->r.im;
  bool dynamic;
  Tensor t;

  for (int64_t round = 0; l->trips < 0 || round < l->trips; round++) {
    bool need = l->trips < 0 || l->r.scanned; /* what says so names the input to fix */
    if (need && !im_need_constant(im, l->r.n, condition, "the loop's condition", &t))
      return false;
    if (need)
      condition = im_const_tensor(im, &t);
    if (!holds(im, condition, &dynamic))
      return true;
    if (round == ROUNDS_MAX)
      return im_fail(im, l->r.n, "more than %d rounds", ROUNDS_MAX);
    if (dynamic) {
      Val c = im_reshape(im, condition, 0, NULL);
      l->active = l->active ? im_add2(im, OP_and, l->active, c) : c;
    }
    if (!one_round(l, round, condition))
      return false;
    condition = l->r.out[0];
  }
  return true;
}

/* Scan outputs of no round at all have the body's own shapes under a first dimension of 0. */
static Val empty_pile(Rounds *r, const OnnxValueInfo *v)
{
  int64_t d[MAX_RANK] = {0};
  const OnnxType *t = v->type;

  if (!t || t->kind != ONNX_TYPE_TENSOR || t->n_dims >= MAX_RANK) {
    im_fail(r->im, r->n, "the shape of '%s' is not known, since there are no rounds", v->name);
    return 0;
  }
  for (uint32_t i = 0; i < t->n_dims; i++)
    d[i + 1] = max64(t->dims[i]->value, 0);
  return im_full(r->im, im_dtype(r->im, t->elem_type), t->n_dims + 1, d, 0);
}

static bool give_piles(Rounds *r, uint32_t first_output)
{
  bool ok = true;

  for (uint32_t i = 0; ok && i < r->scanned; i++) {
    const Vals *p = &r->piles[i];
    ok = im_out(r->im, r->n, r->carried + i,
                p->len ? im_stack(r->im, p->data, p->len, 0)
                       : empty_pile(r, r->body->outputs[first_output + i]));
  }
  return ok;
}

static bool trip_count(Loop *l)
{
  Import *im = l->r.im;
  Tensor t;

  l->trips = -1;
  if (!im_has(im, l->r.n, 0))
    return true;
  if (!im_need_constant(im, l->r.n, im_in(im, l->r.n, 0), "M", &t))
    return false;
  if (dtype_info[t.type.dtype].kind != DK_INT || type_count(&t.type) != 1)
    return im_fail(im, l->r.n, "the trip count must be one integer");
  l->trips = max64(tensor_get_int(&t, 0), 0);
  return true;
}

bool op_loop(Import *im, const OnnxNode *n)
{
  Loop l = {0};

  if (n->n_inputs < 2 || !rounds_new(&l.r, im, n, n->n_inputs - 2) || !trip_count(&l))
    return im_fail(im, n, "inputs are missing");
  if (l.r.body->n_inputs != n->n_inputs || l.r.body->n_outputs != 1 + n->n_outputs)
    return im_fail(im, n, "the body has %u inputs and %u outputs", l.r.body->n_inputs, l.r.body->n_outputs);
  for (uint32_t i = 0; i < l.r.carried; i++)
    if (!(l.r.state[i] = im_any(im, n, i + 2)))
      return im_fail(im, n, "input %u is missing", i + 2);
  Val condition = im_has(im, n, 1) ? im_in(im, n, 1) : im_const_i(im, DT_BOOL, 1);
  return im_ok(im) && run_rounds(&l, condition) && give_carried(&l.r) && give_piles(&l.r, 1 + l.r.carried);
}

/* ---- Scan: body(state .., one element of each scanned input ..) -> (state .., one element of each result ..) */

static int64_t entry(Ints list, uint32_t i)
{
  return i < list.len ? list.data[i] : 0;
}

typedef struct {
  Rounds r;
  uint32_t inputs, first; /* scanned inputs begin at input `first` of the node */
  const Val *from;        /* them */
  Ints in_axes, in_directions, out_axes, out_directions;
} Scan;

static bool scan_round(Scan *s, int64_t round, int64_t rounds)
{
  Rounds *r = &s->r;
  Import *im = r->im;

  memcpy(r->in, r->state, r->carried * sizeof *r->in);
  for (uint32_t i = 0; i < s->inputs; i++) {
    uint32_t axis = im_axis(im, r->n, entry(s->in_axes, i), im_rank(im, s->from[i]));
    int64_t at = entry(s->in_directions, i) ? rounds - 1 - round : round;
    r->in[r->carried + i] = im_squeeze(im, im_part(im, s->from[i], axis, at, 1), axis);
  }
  if (!im_graph(im, r->body, r->in, r->body->n_inputs, r->out))
    return false;
  memcpy(r->state, r->out, r->carried * sizeof *r->state);
  return add_to_piles(r, r->out + r->carried);
}

static Val scan_result(Scan *s, uint32_t i)
{
  Rounds *r = &s->r;
  Vals *p = &r->piles[i];

  if (!p->len)
    return empty_pile(r, r->body->outputs[r->carried + i]);
  if (entry(s->out_directions, i))
    for (uint32_t k = 0; k < p->len / 2; k++) {
      Val v = p->data[k];
      p->data[k] = p->data[p->len - 1 - k];
      p->data[p->len - 1 - k] = v;
    }
  uint32_t rank = im_rank(r->im, p->data[0]) + 1;
  return im_stack(r->im, p->data, p->len, im_axis(r->im, r->n, entry(s->out_axes, i), rank));
}

static bool scan_all(Scan *s, Val *results)
{
  Rounds *r = &s->r;
  uint32_t axis = im_axis(r->im, r->n, entry(s->in_axes, 0), im_rank(r->im, s->from[0]));
  int64_t rounds = im_dim(r->im, s->from[0], axis);

  if (!im_ok(r->im) || rounds > ROUNDS_MAX)
    return im_fail(r->im, r->n, "%lld rounds", (long long)rounds);
  for (int64_t i = 0; i < rounds; i++)
    if (!scan_round(s, i, rounds))
      return false;
  for (uint32_t i = 0; i < r->scanned; i++)
    results[i] = scan_result(s, i);
  return im_ok(r->im);
}

static bool scan_new(Scan *s, Import *im, const OnnxNode *n, uint32_t first)
{
  int64_t inputs = im_int(im, n, "num_scan_inputs", 0);

  *s = (Scan){.first = first};
  if (inputs < 1 || n->n_inputs < first + inputs)
    return im_fail(im, n, "%lld scanned inputs of %u", (long long)inputs, n->n_inputs);
  s->inputs = (uint32_t)inputs;
  if (!rounds_new(&s->r, im, n, n->n_inputs - first - s->inputs))
    return false;
  if (s->r.body->n_inputs != n->n_inputs - first || s->r.body->n_outputs != n->n_outputs)
    return im_fail(im, n, "the body has %u inputs and %u outputs", s->r.body->n_inputs, s->r.body->n_outputs);
  return true;
}

bool op_scan(Import *im, const OnnxNode *n)
{
  Scan s;

  if (!scan_new(&s, im, n, 0))
    return false;
  s.in_axes = im_ints(im, n, "scan_input_axes");
  s.in_directions = im_ints(im, n, "scan_input_directions");
  s.out_axes = im_ints(im, n, "scan_output_axes");
  s.out_directions = im_ints(im, n, "scan_output_directions");
  Val *from = NEW_ARRAY(im->arena, Val, s.inputs), *results = NEW_ARRAY(im->arena, Val, s.r.scanned);
  for (uint32_t i = 0; i < s.r.carried; i++)
    s.r.state[i] = im_in(im, n, i);
  for (uint32_t i = 0; i < s.inputs; i++)
    from[i] = im_in(im, n, s.r.carried + i);
  s.from = from;
  bool ok = im_ok(im) && scan_all(&s, results) && give_carried(&s.r);
  for (uint32_t i = 0; ok && i < s.r.scanned; i++)
    ok = im_out(im, n, s.r.carried + i, results[i]);
  return ok;
}

/* ---- Scan-8: a batch around it all, and lengths of sequences, of which only "all" is supported */

static bool scan_batch_item(Scan *s, int64_t b, Vals *all)
{
  Rounds *r = &s->r;
  Import *im = r->im;
  Val *from = NEW_ARRAY(im->arena, Val, s->inputs), *results = NEW_ARRAY(im->arena, Val, r->scanned);

  for (uint32_t i = 0; i < r->carried + s->inputs; i++) {
    Val v = im_squeeze(im, im_part(im, im_in(im, r->n, i + 1), 0, b, 1), 0);
    *(i < r->carried ? &r->state[i] : &from[i - r->carried]) = v;
  }
  memset(r->piles, 0, r->scanned * sizeof *r->piles);
  s->from = from;
  if (!scan_all(s, results))
    return false;
  for (uint32_t i = 0; i < r->carried; i++)
    *PUSH(im->arena, all[i]) = r->state[i];
  for (uint32_t i = 0; i < r->scanned; i++)
    *PUSH(im->arena, all[r->carried + i]) = results[i];
  return true;
}

bool op_scan_8(Import *im, const OnnxNode *n)
{
  Vals *all = NEW_ARRAY(im->arena, Vals, n->n_outputs);
  Scan s;

  if (im_has(im, n, 0))
    return im_fail(im, n, "sequence lengths are not supported");
  if (!scan_new(&s, im, n, 1))
    return false;
  s.in_directions = im_ints(im, n, "directions");
  int64_t batch = im_dim(im, im_in(im, n, 1), 0);
  for (int64_t b = 0; b < batch && b < ROUNDS_MAX; b++)
    if (!scan_batch_item(&s, b, all))
      return false;
  bool ok = im_ok(im) && batch > 0;
  for (uint32_t i = 0; ok && i < n->n_outputs; i++)
    ok = im_out(im, n, i, im_stack(im, all[i].data, all[i].len, 0));
  return ok;
}
