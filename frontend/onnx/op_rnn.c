/* op_rnn.c - ONNX LSTM, GRU, RNN, unrolled over time.
 *
 * The inputs of all steps go through their weights as one product; a step has one product with the state (a GRU that
 * resets before it: two), and elementwise work.
 *
 * Source: ONNX LSTM-22, GRU-22, RNN-22. Gates stand in the order i o f c, and z r h. */
#include "frontend/onnx/onnx_ops.h"
#include "frontend/onnx/op_activation.h"
#include "frontend/onnx/op_formula.h"
#include "frontend/onnx/op_product.h"

#include <strings.h>

/* ---- what all three have */

enum { ACTS_MAX = 3, STEPS_MAX = 1 << 14 };

typedef struct {
  Val h, c; /* [batch, hidden]; c: LSTM only */
} Memory;

typedef struct Rnn Rnn;

/* One direction. */
typedef struct {
  bool reverse;
  Val w, r;         /* [gates * hidden, inputs], [gates * hidden, hidden] */
  Val wb, rb, peep; /* biases [gates * hidden], peepholes [3 * hidden]; or 0 */
  const Activation *act;
} Direction;

typedef struct {
  const char *name;
  uint32_t gates, acts;
  const char *defaults[ACTS_MAX];
  uint32_t initial_c, peepholes; /* inputs, 0: it has none */
  Memory (*step)(const Rnn *r, const Direction *d, Val x, Memory s);
} RnnKind;

struct Rnn {
  Import *im;
  const OnnxNode *n;
  const RnnKind *kind;
  uint32_t directions;
  int64_t steps, batch, hidden;
  bool batch_first;
  double clip; /* 0: none; cell states are not clipped, as in ONNX Runtime and OpenVINO */
  Val x;       /* [steps, batch, inputs] */
  Val lengths; /* [batch, 1] or 0 */
  Activation act[2 * ACTS_MAX];
};

static Val activate_free(const Rnn *r, const Direction *d, uint32_t which, Val x)
{
  return d->act[which].of(r->im, x, d->act[which].a, d->act[which].b);
}

/* Of a gate: `clip` bounds what goes in. */
static Val activate(const Rnn *r, const Direction *d, uint32_t which, Val x)
{
  return activate_free(r, d, which, r->clip > 0 ? im_clip(r->im, x, -r->clip, r->clip) : x);
}

static Val gate(const Rnn *r, Val all, uint32_t i)
{
  return im_part(r->im, all, im_rank(r->im, all) - 1, i * r->hidden, r->hidden);
}

static Val bias_sum(Import *im, const Direction *d)
{
  return d->wb ? add(im, d->wb, d->rb) : 0;
}

/* ---- the three */

static Memory lstm_step(const Rnn *r, const Direction *d, Val x, Memory s)
{
  Import *im = r->im;
  Val all = add(im, x, product_rows(im, s.h, d->r)), in = gate(r, all, 0), out = gate(r, all, 1);
  Val keep = gate(r, all, 2), c = s.c;

  if (d->peep) {
    in = add(im, in, mul(im, gate(r, d->peep, 0), c));
    keep = add(im, keep, mul(im, gate(r, d->peep, 2), c));
  }
  in = activate(r, d, 0, in);
  keep = im_int(im, r->n, "input_forget", 0) ? im_add2(im, OP_sub, im_const_like(im, in, 1), in)
                                             : activate(r, d, 0, keep);
  c = add(im, mul(im, keep, c), mul(im, in, activate(r, d, 1, gate(r, all, 3))));
  if (d->peep)
    out = add(im, out, mul(im, gate(r, d->peep, 1), c));
  return (Memory){mul(im, activate(r, d, 0, out), activate_free(r, d, 2, c)), c};
}

/* z was + (1 - z) now */
static Val mix(Import *im, Val z, Val was, Val now)
{
  return add(im, now, mul(im, z, im_add2(im, OP_sub, was, now)));
}

static Memory gru_step(const Rnn *r, const Direction *d, Val x, Memory s)
{
  Import *im = r->im;
  bool late = im_int(im, r->n, "linear_before_reset", 0);
  int64_t rows = late ? 3 * r->hidden : 2 * r->hidden;
  Val own = product_rows(im, s.h, im_part(im, d->r, 0, 0, rows)), now;

  if (late && d->rb)
    own = add(im, own, d->rb);
  Val z = activate(r, d, 0, add(im, gate(r, x, 0), gate(r, own, 0)));
  Val reset = activate(r, d, 0, add(im, gate(r, x, 1), gate(r, own, 1)));
  if (late)
    now = mul(im, reset, gate(r, own, 2));
  else
    now = product_rows(im, mul(im, reset, s.h), im_part(im, d->r, 0, 2 * r->hidden, r->hidden));
  now = activate(r, d, 1, add(im, gate(r, x, 2), now));
  return (Memory){mix(im, z, s.h, now), 0};
}

static Memory rnn_step(const Rnn *r, const Direction *d, Val x, Memory s)
{
  return (Memory){activate(r, d, 0, add(r->im, x, product_rows(r->im, s.h, d->r))), 0};
}

static const RnnKind kinds[] = {
    {"GRU", 3, 2, {"Sigmoid", "Tanh"}, 0, 0, gru_step},
    {"LSTM", 4, 3, {"Sigmoid", "Tanh", "Tanh"}, 6, 7, lstm_step},
    {"RNN", 1, 1, {"Tanh"}, 0, 0, rnn_step},
};

/* ---- one direction over time */

static Val part_of(Import *im, Val v, uint32_t direction)
{
  return v ? im_squeeze(im, im_part(im, v, 0, direction, 1), 0) : 0;
}

/* Inputs of the node with a direction in front, as floats that are computed with. */
static Val direction_input(const Rnn *r, uint32_t i, uint32_t direction)
{
  return i ? im_float_compute(r->im, part_of(r->im, im_opt(r->im, r->n, i), direction)) : 0;
}

static Direction direction_of(Rnn *r, uint32_t i)
{
  const char *how = im_str(r->im, r->n, "direction", "forward");
  int64_t rows = r->kind->gates * r->hidden;
  Val both = direction_input(r, 3, i);
  Direction d = {
      .reverse = i == 1 || !strcmp(how, "reverse"),
      .w = part_of(r->im, im_in(r->im, r->n, 1), i),
      .r = part_of(r->im, im_in(r->im, r->n, 2), i),
      .wb = both ? im_part(r->im, both, 0, 0, rows) : 0,
      .rb = both ? im_part(r->im, both, 0, rows, rows) : 0,
      .peep = direction_input(r, r->kind->peepholes, i),
      .act = r->act + i * r->kind->acts,
  };
  return d;
}

/* [steps, batch, gates * hidden] */
static Val project(const Rnn *r, const Direction *d)
{
  bool late = im_is(r->n, "GRU") && im_int(r->im, r->n, "linear_before_reset", 0);
  Val bias = late ? d->wb : bias_sum(r->im, d), all = product_rows(r->im, r->x, d->w);
  return bias ? add(r->im, all, bias) : all;
}

static Val initial(const Rnn *r, uint32_t input, uint32_t direction)
{
  Val v = input ? im_opt(r->im, r->n, input) : 0;

  if (!v)
    return im_full(r->im, im_elem(r->im, r->x), 2, (int64_t[]){r->batch, r->hidden}, 0);
  return part_of(r->im, im_float_compute(r->im, r->batch_first ? im_swap(r->im, v, 0, 1) : v), direction);
}

/* Fills y[step]; what stands behind a sequence's end leaves the state as it is, and gives 0. */
static Memory run_direction(Rnn *r, uint32_t i, Val *y)
{
  Import *im = r->im;
  Direction d = direction_of(r, i);
  Val all = project(r, &d);
  Memory s = {initial(r, 5, i), r->kind->initial_c ? initial(r, r->kind->initial_c, i) : 0};

  for (int64_t k = 0; k < r->steps && im_ok(im); k++) {
    int64_t t = d.reverse ? r->steps - 1 - k : k;
    Memory now = r->kind->step(r, &d, im_squeeze(im, im_part(im, all, 0, t, 1), 0), s);
    y[t] = now.h;
    if (r->lengths) {
      Val inside = im_gt(im, r->lengths, im_const_i(im, DT_I32, t));
      y[t] = im_where(im, inside, now.h, im_const_like(im, now.h, 0));
      now.h = im_where(im, inside, now.h, s.h);
      now.c = now.c ? im_where(im, inside, now.c, s.c) : 0;
    }
    s = now;
  }
  return s;
}

/* ---- the node */

static bool read_activation(Rnn *r, const char *name, Floats alpha, Floats beta, uint32_t *used,
                            Activation *out)
{
  const Activation *act = activation_find(name);

  if (!act)
    return im_fail(r->im, r->n, "activation '%s' is not known", name);
  *out = *act;
  if (act->takes > 0 && used[0] < alpha.len)
    out->a = alpha.data[used[0]++];
  if (act->takes > 1 && used[1] < beta.len)
    out->b = beta.data[used[1]++];
  return true;
}

static bool read_activations(Rnn *r)
{
  const OnnxAttr *a = im_attr(r->im, r->n, "activations");
  Floats alpha = im_floats(r->im, r->n, "activation_alpha"), beta = im_floats(r->im, r->n, "activation_beta");
  uint32_t count = r->directions * r->kind->acts, used[2] = {0};
  bool ok = true;

  if (a && (a->type != ONNX_ATTR_STRINGS || a->n_strings != count))
    return im_fail(r->im, r->n, "activations must be %u names", count);
  for (uint32_t i = 0; i < count && ok; i++) {
    const char *name = a ? a->strings[i].data : r->kind->defaults[i % r->kind->acts];
    ok = read_activation(r, name, alpha, beta, used, &r->act[i]);
  }
  return ok;
}

/* Lengths that are all the steps change nothing. */
static Val read_lengths(Rnn *r)
{
  Val v = im_opt(r->im, r->n, 4);
  Tensor t;
  bool all = v && im_constant(r->im, v, &t);

  for (int64_t i = 0; all && i < type_count(&t.type); i++)
    all = tensor_get_int(&t, i) >= r->steps;
  return !v || all ? 0 : im_unsqueeze(r->im, im_cast(r->im, v, DT_I32), 1);
}

static bool read_rnn(Import *im, const OnnxNode *n, Rnn *r)
{
  const char *how = im_str(im, n, "direction", "forward");
  Val x = im_float_compute(im, im_in(im, n, 0));
  Type w = im_type(im, im_in(im, n, 1)), rec = im_type(im, im_in(im, n, 2));

  *r = (Rnn){.im = im, .n = n, .kind = kinds, .batch_first = im_int(im, n, "layout", 0)};
  while (!im_is(n, r->kind->name))
    r->kind++;
  r->directions = !strcmp(how, "bidirectional") ? 2 : 1;
  if (!im_ok(im) || im_rank(im, x) != 3 || w.rank != 3 || rec.rank != 3)
    return im_fail(im, n, "X, W and R must have three dimensions");
  r->x = r->batch_first ? im_swap(im, x, 0, 1) : x;
  r->steps = im_dim(im, r->x, 0);
  r->batch = im_dim(im, r->x, 1);
  r->hidden = rec.dim[2];
  r->clip = im_float(im, n, "clip", 0);
  if (w.dim[0] != r->directions || rec.dim[0] != r->directions || w.dim[1] != rec.dim[1] ||
      rec.dim[2] > INT32_MAX || rec.dim[1] != r->kind->gates * r->hidden)
    return im_fail(im, n, "R has %lld x %lld x %lld elements", (long long)rec.dim[0], (long long)rec.dim[1],
                   (long long)rec.dim[2]);
  if (r->steps < 1 || r->steps > STEPS_MAX)
    return im_fail(im, n, "%lld steps, 1 to %d are supported", (long long)r->steps, STEPS_MAX);
  r->lengths = read_lengths(r);
  return read_activations(r);
}

static Val last_states(const Rnn *r, const Val *v)
{
  Val all = im_stack(r->im, v, r->directions, 0);
  return im_cast_like(r->im, r->batch_first ? im_swap(r->im, all, 0, 1) : all, im_in(r->im, r->n, 0));
}

/* [steps, directions, batch, hidden], or [batch, steps, directions, hidden] */
static Val all_states(const Rnn *r, const Val *v)
{
  Val all = im_cast_like(r->im, im_stack(r->im, v, r->directions, 1), im_in(r->im, r->n, 0));
  return r->batch_first ? im_move(r->im, all, 2, 0) : all;
}

bool op_rnn(Import *im, const OnnxNode *n)
{
  Val h[2] = {0}, c[2] = {0}, y[2] = {0};
  Rnn r;

  if (!read_rnn(im, n, &r))
    return false;
  Val *steps = NEW_ARRAY(im->arena, Val, (size_t)r.steps);
  for (uint32_t i = 0; i < r.directions && im_ok(im); i++) {
    Memory s = run_direction(&r, i, steps);
    h[i] = s.h;
    c[i] = s.c;
    y[i] = im_wants(im, n, 0) ? im_stack(im, steps, (uint32_t)r.steps, 0) : 0;
  }
  return im_ok(im) && (!im_wants(im, n, 0) || im_out(im, n, 0, all_states(&r, y))) &&
         (!im_wants(im, n, 1) || im_out(im, n, 1, last_states(&r, h))) &&
         (!c[0] || !im_wants(im, n, 2) || im_out(im, n, 2, last_states(&r, c)));
}
