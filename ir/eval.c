/* eval.c - the oracle: what each op of the graph IR means, in plain loops.
 *
 * Every target and every pass is tested against it, so it takes no short cut that a reader would
 * have to trust. A value is an array of floats whatever its element type; sums and functions run
 * in double and are rounded to float once, at the end of each op.
 *
 * Weights are decoded a row at a time where a product or a table reads them, and whole only where
 * some other op asks (gains and biases): a model never lies in memory as floats. */
#include "ir/graph.h"

#include <assert.h>
#include <math.h>

typedef struct {
  const Graph *g;
  Arena scratch; /* every value that does not leave; freed at the end of the call */
  Arena *out;
  const Array *inputs;
  Array *states, *outputs;
  float **value;     /* of each node; NULL: not computed, or a weight not asked for yet */
  Val *last_use;     /* of each node: the last node that reads it */
  uint32_t *readers; /* of each state: how many state nodes stand for it */
  uint32_t n_input, n_output;
} Eval;

static const Type *type_at(const Eval *ev, Val v)
{
  return &graph_node(ev->g, v)->type;
}

/* ---- values, and rows of matrices that may still be in the file */

/* A weight, or weights stacked by rows: read in place. */
static bool is_stored(const Eval *ev, Val v)
{
  const Node *n = graph_node(ev->g, v);

  if (n->op == OP_weight)
    return true;
  if (n->op != OP_concat || n->attr.axis != 0 || n->type.rank != 2)
    return false;
  for (uint32_t i = 0; i < n->in.count; i++)
    if (!is_stored(ev, graph_in(ev->g, v, i)))
      return false;
  return true;
}

static void read_row(Eval *ev, Val v, int64_t row, float *dst)
{
  const Node *n = graph_node(ev->g, v);
  int64_t width = type_last(&n->type);

  if (ev->value[v]) {
    memcpy(dst, ev->value[v] + row * width, (size_t)width * sizeof *dst);
  } else if (n->op == OP_weight) {
    const Weight *w = &ev->g->module->weights.data[n->attr.index];
    uint64_t row_bytes = dtype_bytes(w->type.dtype, (uint64_t)width);
    dtype_to_float(w->type.dtype, (const uint8_t *)w->data + (uint64_t)row * row_bytes, dst, (uint64_t)width);
  } else {
    uint32_t i = 0;
    for (; row >= type_at(ev, graph_in(ev->g, v, i))->dim[0]; i++)
      row -= type_at(ev, graph_in(ev->g, v, i))->dim[0];
    read_row(ev, graph_in(ev->g, v, i), row, dst);
  }
}

static float *new_value(Eval *ev, Val v)
{
  return NEW_ARRAY(&ev->scratch, float, (size_t)type_count(type_at(ev, v)));
}

static const float *value_of(Eval *ev, Val v)
{
  if (!ev->value[v]) {
    float *all = new_value(ev, v);
    int64_t width = type_last(type_at(ev, v));
    for (int64_t r = 0; r < type_rows(type_at(ev, v)); r++)
      read_row(ev, v, r, all + r * width);
    ev->value[v] = all;
  }
  return ev->value[v];
}

static const float *input_of(Eval *ev, Val v, uint32_t i)
{
  return value_of(ev, graph_in(ev->g, v, i));
}

static int64_t position(Eval *ev, Val v, uint32_t i)
{
  return (int64_t)input_of(ev, v, i)[0];
}

/* ---- leaves */

static void eval_input(Eval *ev, Val v)
{
  const Array *in = &ev->inputs[ev->n_input++];

  assert(in->count == type_count(type_at(ev, v)));
  ev->value[v] = in->data;
}

static void eval_state(Eval *ev, Val v)
{
  ev->value[v] = ev->states[graph_node(ev->g, v)->attr.index].data;
}

static void eval_weight(Eval *ev, Val v)
{
  (void)ev, (void)v; /* value_of and read_row fetch it */
}

static void eval_const(Eval *ev, Val v)
{
  float *y = ev->value[v] = new_value(ev, v);

  for (int64_t i = 0; i < type_count(type_at(ev, v)); i++)
    y[i] = (float)graph_node(ev->g, v)->attr.value;
}

static void eval_output(Eval *ev, Val v)
{
  size_t n = (size_t)type_count(type_at(ev, v));

  ev->outputs[ev->n_output++] =
      (Array){arena_copy(ev->out, input_of(ev, v, 0), n * sizeof(float)), (int64_t)n};
}

/* ---- elementwise */

static double apply1(Op op, double x)
{
  switch (op) {
  case OP_neg: return -x;
  case OP_abs: return fabs(x);
  case OP_exp: return exp(x);
  case OP_log: return log(x);
  case OP_sqrt: return sqrt(x);
  case OP_tanh: return tanh(x);
  case OP_sigmoid: return 1 / (1 + exp(-x));
  case OP_silu: return x / (1 + exp(-x));
  case OP_gelu: return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
  case OP_relu: return x > 0 ? x : 0;
  case OP_sin: return sin(x);
  case OP_cos: return cos(x);
  default: assert(!"not an op of one input"); return 0;
  }
}

static double apply2(Op op, double a, double b)
{
  switch (op) {
  case OP_add: return a + b;
  case OP_sub: return a - b;
  case OP_mul: return a * b;
  case OP_div: return a / b;
  case OP_max: return a > b ? a : b;
  case OP_min: return a < b ? a : b;
  default: assert(!"not an op of two inputs"); return 0;
  }
}

static void eval_unary(Eval *ev, Val v)
{
  const float *x = input_of(ev, v, 0);
  float *y = ev->value[v] = new_value(ev, v);

  for (int64_t i = 0; i < type_count(type_at(ev, v)); i++)
    y[i] = (float)apply1(graph_node(ev->g, v)->op, (double)x[i]);
}

/* Where element `i` of the result lies in an operand of type `t`: dimensions align at the last,
 * and those of size 1 are repeated. */
static int64_t bcast_index(const Type *result, const Type *t, int64_t i)
{
  int64_t at = 0, stride = 1;

  for (uint32_t d = 0; d < t->rank; d++) {
    int64_t n = result->dim[result->rank - 1 - d], own = t->dim[t->rank - 1 - d];
    if (own != 1)
      at += i % n * stride;
    i /= n;
    stride *= own;
  }
  return at;
}

static void eval_binary(Eval *ev, Val v)
{
  const Type *t = type_at(ev, v);
  const Type *ta = type_at(ev, graph_in(ev->g, v, 0)), *tb = type_at(ev, graph_in(ev->g, v, 1));
  const float *a = input_of(ev, v, 0), *b = input_of(ev, v, 1);
  float *y = ev->value[v] = new_value(ev, v);

  for (int64_t i = 0; i < type_count(t); i++)
    y[i] = (float)apply2(graph_node(ev->g, v)->op, (double)a[bcast_index(t, ta, i)],
                         (double)b[bcast_index(t, tb, i)]);
}

/* ---- along the last axis */

static double row_max(const float *x, int64_t n)
{
  double m = (double)x[0];

  for (int64_t i = 1; i < n; i++)
    m = (double)x[i] > m ? (double)x[i] : m;
  return m;
}

static double row_sum(const float *x, int64_t n)
{
  double s = 0;

  for (int64_t i = 0; i < n; i++)
    s += (double)x[i];
  return s;
}

static void eval_reduce(Eval *ev, Val v)
{
  int64_t n = type_last(type_at(ev, graph_in(ev->g, v, 0)));
  const float *x = input_of(ev, v, 0);
  float *y = ev->value[v] = new_value(ev, v);

  for (int64_t r = 0; r < type_count(type_at(ev, v)); r++)
    y[r] = (float)(graph_node(ev->g, v)->op == OP_sum ? row_sum(x + r * n, n) : row_max(x + r * n, n));
}

static void softmax_row(const float *x, float *y, int64_t n)
{
  double max = row_max(x, n), sum = 0;

  for (int64_t i = 0; i < n; i++)
    sum += exp((double)x[i] - max);
  for (int64_t i = 0; i < n; i++)
    y[i] = (float)(exp((double)x[i] - max) / sum);
}

static void eval_softmax(Eval *ev, Val v)
{
  int64_t n = type_last(type_at(ev, v));
  const float *x = input_of(ev, v, 0);
  float *y = ev->value[v] = new_value(ev, v);

  for (int64_t r = 0; r < type_rows(type_at(ev, v)); r++)
    softmax_row(x + r * n, y + r * n, n);
}

/* Four sums, so that a whole model takes seconds, not minutes; the order is fixed all the same. */
static double dot(const float *a, const float *b, int64_t n)
{
  double s[4] = {0};
  int64_t i = 0;

  for (; i + 4 <= n; i += 4)
    for (int k = 0; k < 4; k++)
      s[k] += (double)a[i + k] * (double)b[i + k];
  for (; i < n; i++)
    s[0] += (double)a[i] * (double)b[i];
  return (s[0] + s[1]) + (s[2] + s[3]);
}

static void eval_rms_norm(Eval *ev, Val v)
{
  int64_t n = type_last(type_at(ev, v));
  const float *x = input_of(ev, v, 0), *gain = input_of(ev, v, 1);
  float *y = ev->value[v] = new_value(ev, v);

  for (int64_t r = 0; r < type_rows(type_at(ev, v)); r++, x += n, y += n) {
    double root = sqrt(dot(x, x, n) / (double)n + graph_node(ev->g, v)->attr.eps);
    for (int64_t i = 0; i < n; i++)
      y[i] = (float)((double)x[i] / root * (double)gain[i]);
  }
}

/* ---- shape */

static void eval_reshape(Eval *ev, Val v)
{
  float *y = ev->value[v] = new_value(ev, v);

  memcpy(y, input_of(ev, v, 0), (size_t)type_count(type_at(ev, v)) * sizeof *y);
}

static void strides_of(const Type *t, int64_t *stride)
{
  int64_t n = 1;

  for (uint32_t d = t->rank; d-- > 0; n *= t->dim[d])
    stride[d] = n;
}

static void eval_transpose(Eval *ev, Val v)
{
  const Type *t = type_at(ev, v);
  int64_t stride[MAX_RANK];
  const float *x = input_of(ev, v, 0);
  float *y = ev->value[v] = new_value(ev, v);

  strides_of(type_at(ev, graph_in(ev->g, v, 0)), stride);
  for (int64_t i = 0; i < type_count(t); i++) {
    int64_t at = 0, rest = i;
    for (uint32_t d = t->rank; d-- > 0; rest /= t->dim[d])
      at += rest % t->dim[d] * stride[graph_node(ev->g, v)->attr.perm[d]];
    y[i] = x[at];
  }
}

/* Elements of one step along the axis, and the number of times the axis is walked. */
static void axis_shape(const Type *t, uint32_t axis, int64_t *inner, int64_t *outer)
{
  *inner = *outer = 1;
  for (uint32_t d = 0; d < t->rank; d++)
    *(d < axis ? outer : inner) *= d == axis ? 1 : t->dim[d];
}

static void eval_slice(Eval *ev, Val v)
{
  const Attr *a = &graph_node(ev->g, v)->attr;
  const Type *t = type_at(ev, graph_in(ev->g, v, 0));
  int64_t inner, outer, len = t->dim[a->slice.axis];
  const float *x = input_of(ev, v, 0);
  float *y = ev->value[v] = new_value(ev, v);

  axis_shape(t, a->slice.axis, &inner, &outer);
  for (int64_t o = 0; o < outer; o++, y += a->slice.count * inner)
    memcpy(y, x + (o * len + a->slice.start) * inner, (size_t)(a->slice.count * inner) * sizeof *y);
}

static void eval_concat(Eval *ev, Val v)
{
  const Node *n = graph_node(ev->g, v);
  int64_t inner, outer;

  if (is_stored(ev, v))
    return; /* fetched by rows, as a weight is */
  float *y = ev->value[v] = new_value(ev, v);
  axis_shape(&n->type, n->attr.axis, &inner, &outer);
  for (int64_t o = 0; o < outer; o++)
    for (uint32_t i = 0; i < n->in.count; i++) {
      int64_t chunk = type_at(ev, graph_in(ev->g, v, i))->dim[n->attr.axis] * inner;
      memcpy(y, input_of(ev, v, i) + o * chunk, (size_t)chunk * sizeof *y);
      y += chunk;
    }
}

/* ---- products and tables */

static void eval_linear(Eval *ev, Val v)
{
  const Type *t = type_at(ev, v);
  Val w = graph_in(ev->g, v, 1);
  int64_t n = type_last(t), rows = type_rows(t), k = type_last(type_at(ev, w));
  const float *x = input_of(ev, v, 0);
  float *row = NEW_ARRAY(&ev->scratch, float, (size_t)k);
  float *y = ev->value[v] = new_value(ev, v);

  for (int64_t i = 0; i < n; i++) {
    read_row(ev, w, i, row);
    for (int64_t r = 0; r < rows; r++)
      y[r * n + i] = (float)dot(x + r * k, row, k);
  }
}

/* For each block of 32, all in float but for the errors: with n = 127, 126, 125, 124 the scale is max|x| * (1 / n), a code
 * (x * (1 / max|x|)) * n to nearest even; of the four the one with the least squared error, the first of equals. */
static void quant_block(const float *x, float *y)
{
  float amax = 0, inv_max;
  double least = INFINITY;

  for (int i = 0; i < 32; i++)
    amax = fabsf(x[i]) > amax ? fabsf(x[i]) : amax;
  inv_max = amax > 0 ? 1.0f / amax : 0;
  for (int n = 127; n >= 124; n--) {
    float scale = amax * (float)(1.0 / n), value[32];
    double error = 0;
    for (int i = 0; i < 32; i++) {
      value[i] = rintf(x[i] * inv_max * (float)n) * scale;
      error += ((double)x[i] - (double)value[i]) * ((double)x[i] - (double)value[i]);
    }
    if (error < least) {
      least = error;
      memcpy(y, value, sizeof value);
    }
  }
}

static void eval_quant(Eval *ev, Val v)
{
  const float *x = input_of(ev, v, 0);
  float *y = ev->value[v] = new_value(ev, v);

  for (int64_t i = 0; i < type_count(type_at(ev, v)); i += 32)
    quant_block(x + i, y + i);
}

static void eval_embed(Eval *ev, Val v)
{
  const Type *t = type_at(ev, v);
  Val table = graph_in(ev->g, v, 1);
  const float *tokens = input_of(ev, v, 0);
  float *y = ev->value[v] = new_value(ev, v);

  for (int64_t r = 0; r < t->dim[0]; r++) {
    assert(tokens[r] >= 0 && (int64_t)tokens[r] < type_at(ev, table)->dim[0]);
    read_row(ev, table, (int64_t)tokens[r], y + r * t->dim[1]);
  }
}

/* ---- language models */

static void eval_rope_table(Eval *ev, Val v)
{
  const RopeSpec *spec = &ev->g->module->ropes.data[graph_node(ev->g, v)->attr.rope];
  int64_t pos = position(ev, v, 0), half = spec->half;
  float *y = ev->value[v] = new_value(ev, v);

  for (int64_t t = 0; t < type_at(ev, v)->dim[0]; t++, y += 2 * half)
    for (int64_t i = 0; i < half; i++) {
      int32_t turn = (int32_t)((uint32_t)(pos + t) * spec->step[i]); /* wraps: whole turns drop out */
      double angle = 2 * M_PI * ((double)turn / 0x1p32);
      y[i] = (float)(cos(angle) * (double)spec->magnitude);
      y[half + i] = (float)(sin(angle) * (double)spec->magnitude);
    }
}

static void rotate_head(const float *x, float *y, const float *table, int64_t half, bool interleaved)
{
  for (int64_t i = 0; i < half; i++) {
    int64_t p = interleaved ? 2 * i : i, q = interleaved ? 2 * i + 1 : i + half;
    double c = (double)table[i], s = (double)table[half + i];
    y[p] = (float)((double)x[p] * c - (double)x[q] * s);
    y[q] = (float)((double)x[p] * s + (double)x[q] * c);
  }
}

static void eval_rope(Eval *ev, Val v)
{
  const Type *t = type_at(ev, v);
  int64_t half = type_last(type_at(ev, graph_in(ev->g, v, 1))), size = t->dim[2];
  const float *x = input_of(ev, v, 0), *table = input_of(ev, v, 1);
  float *y = ev->value[v] = new_value(ev, v);

  memcpy(y, x, (size_t)type_count(t) * sizeof *y);
  for (int64_t r = 0; r < t->dim[0] * t->dim[1]; r++)
    rotate_head(x + r * size, y + r * size, table + r / t->dim[1] * 2 * half, half,
                graph_node(ev->g, v)->attr.interleaved);
}

/* The state's buffer may be written in place if nothing later reads its old contents. */
static float *take_over(Eval *ev, Val state, Val v)
{
  const Node *n = graph_node(ev->g, state);
  bool own = n->op == OP_update || (n->op == OP_state && ev->readers[n->attr.index] == 1);

  if (own && ev->last_use[state] == v)
    return ev->value[state];
  float *copy = new_value(ev, v);
  return memcpy(copy, value_of(ev, state), (size_t)type_count(type_at(ev, v)) * sizeof *copy);
}

/* What a state of this type keeps of a row of numbers. q8_0: for each 32 an f16 scale max|x| / 127, codes to nearest even. */
static void keep_row(DType t, const float *x, int64_t n, float *y)
{
  for (int64_t i = 0; i < n; i++)
    y[i] = t == DT_F16 ? f16_to_f32(f32_to_f16(x[i])) : x[i];
  for (int64_t b = 0; t == DT_Q8_0 && b < n; b += 32) {
    float max = 0;
    for (int i = 0; i < 32; i++)
      max = fabsf(x[b + i]) > max ? fabsf(x[b + i]) : max;
    float scale = f16_to_f32(f32_to_f16(max * (1.0f / 127))), inv = scale > 0 ? 1.0f / scale : 0;
    for (int i = 0; i < 32; i++)
      y[b + i] = fminf(fmaxf(rintf(x[b + i] * inv), -127), 127) * scale;
  }
}

static void eval_update(Eval *ev, Val v)
{
  const Type *t = type_at(ev, v);
  int64_t slot = t->dim[1] * t->dim[2], count = type_at(ev, graph_in(ev->g, v, 1))->dim[0];
  const float *value = input_of(ev, v, 1);
  int64_t pos = position(ev, v, 2);

  assert(pos >= 0 && count <= t->dim[0]);
  float *y = ev->value[v] = take_over(ev, graph_in(ev->g, v, 0), v);
  for (int64_t i = 0; i < count; i++)
    keep_row(t->dtype, value + i * slot, slot, y + (pos + i) % t->dim[0] * slot);
}

/* One query of one head. `k` and `v` point at the head's first slot, `stride` floats apart. */
typedef struct {
  const float *q, *k, *v;
  int64_t size, stride, slots, first, last; /* positions first .. last, held at slots mod `slots` */
  const Attr *attr;
  double *score; /* room for all positions */
} Head;

static void attend(const Head *h, float *out)
{
  double cap = (double)h->attr->attention.softcap, max = -INFINITY, sum = 0;
  int64_t n = h->last - h->first + 1;

  for (int64_t i = 0; i < n; i++) {
    const float *k = h->k + (h->first + i) % h->slots * h->stride;
    double x = dot(h->q, k, h->size) * (double)h->attr->attention.scale;
    h->score[i] = cap != 0 ? cap * tanh(x / cap) : x;
    max = h->score[i] > max ? h->score[i] : max;
  }
  for (int64_t i = 0; i < n; i++)
    sum += h->score[i] = exp(h->score[i] - max);
  for (int64_t j = 0; j < h->size; j++) {
    double y = 0;
    for (int64_t i = 0; i < n; i++)
      y += h->score[i] / sum * (double)h->v[(h->first + i) % h->slots * h->stride + j];
    out[j] = (float)y;
  }
}

static void eval_attention(Eval *ev, Val v)
{
  const Type *t = type_at(ev, v), *tk = type_at(ev, graph_in(ev->g, v, 1));
  const Attr *attr = &graph_node(ev->g, v)->attr;
  const float *q = input_of(ev, v, 0), *k = input_of(ev, v, 1), *val = input_of(ev, v, 2);
  int64_t pos = position(ev, v, 3), size = t->dim[2], heads = t->dim[1], group = heads / tk->dim[1];
  int64_t window = attr->attention.window, seen = pos + t->dim[0];
  double *score = NEW_ARRAY(&ev->scratch, double, (size_t)seen);
  float *y = ev->value[v] = new_value(ev, v);

  assert(pos >= 0 && (window ? min64(seen, window + t->dim[0] - 1) : seen) <= tk->dim[0]);
  for (int64_t r = 0; r < t->dim[0] * heads; r++) {
    int64_t last = pos + r / heads, kv = r % heads / group * size;
    int64_t first = window ? max64(0, last - window + 1) : 0;
    Head h = {q + r * size, k + kv, val + kv, size, tk->dim[1] * size, tk->dim[0], first, last, attr, score};
    attend(&h, y + r * size);
  }
}

/* ---- the walk */

static void (*const eval_op[OP_COUNT])(Eval *, Val) = {
    [OP_input] = eval_input,     [OP_weight] = eval_weight,       [OP_state] = eval_state,
    [OP_const] = eval_const,     [OP_output] = eval_output,       [OP_neg] = eval_unary,
    [OP_abs] = eval_unary,       [OP_exp] = eval_unary,           [OP_log] = eval_unary,
    [OP_sqrt] = eval_unary,      [OP_tanh] = eval_unary,          [OP_sigmoid] = eval_unary,
    [OP_silu] = eval_unary,      [OP_gelu] = eval_unary,          [OP_relu] = eval_unary,
    [OP_sin] = eval_unary,       [OP_cos] = eval_unary,           [OP_add] = eval_binary,
    [OP_sub] = eval_binary,      [OP_mul] = eval_binary,          [OP_div] = eval_binary,
    [OP_max] = eval_binary,      [OP_min] = eval_binary,          [OP_sum] = eval_reduce,
    [OP_amax] = eval_reduce,     [OP_softmax] = eval_softmax,     [OP_rms_norm] = eval_rms_norm,
    [OP_reshape] = eval_reshape, [OP_slice] = eval_slice,         [OP_transpose] = eval_transpose,
    [OP_concat] = eval_concat,   [OP_linear] = eval_linear,       [OP_quant] = eval_quant,
    [OP_embed] = eval_embed,     [OP_rope] = eval_rope,           [OP_rope_table] = eval_rope_table,
    [OP_update] = eval_update,   [OP_attention] = eval_attention,
};

static void find_uses(Eval *ev)
{
  const Graph *g = ev->g;

  for (Val v = 1; v < g->nodes.len; v++) {
    for (uint32_t i = 0; i < graph_node(g, v)->in.count; i++)
      ev->last_use[graph_in(g, v, i)] = v;
    if (graph_node(g, v)->op == OP_state)
      ev->readers[graph_node(g, v)->attr.index]++;
  }
}

/* The state that a chain of updates began with; -1 if it began with something else. */
static int64_t updated_state(const Graph *g, Val v)
{
  while (graph_node(g, v)->op == OP_update)
    v = graph_in(g, v, 0);
  return graph_node(g, v)->op == OP_state ? (int64_t)graph_node(g, v)->attr.index : -1;
}

static void store_states(Eval *ev)
{
  for (Val v = 1; v < ev->g->nodes.len; v++) {
    int64_t s = graph_node(ev->g, v)->op == OP_update ? updated_state(ev->g, v) : -1;
    if (s >= 0 && ev->value[v] != ev->states[s].data)
      memcpy(ev->states[s].data, ev->value[v], (size_t)type_count(type_at(ev, v)) * sizeof(float));
  }
}

void graph_eval(const Graph *g, Arena *a, const Array *inputs, Array *states, Array *outputs)
{
  Eval ev = {.g = g, .out = a, .inputs = inputs, .states = states, .outputs = outputs};

  assert(!g->dense); /* those: graph_eval_dense */
  ev.value = NEW_ARRAY(&ev.scratch, float *, g->nodes.len);
  ev.last_use = NEW_ARRAY(&ev.scratch, Val, g->nodes.len);
  ev.readers = NEW_ARRAY(&ev.scratch, uint32_t, g->module->states.len + 1);
  find_uses(&ev);
  for (Val v = 1; v < g->nodes.len; v++) {
    assert(eval_op[graph_node(g, v)->op]);
    eval_op[graph_node(g, v)->op](&ev, v);
  }
  store_states(&ev);
  arena_free(&ev.scratch);
}
