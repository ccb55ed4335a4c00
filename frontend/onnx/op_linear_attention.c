/* op_linear_attention.c - ONNX LinearAttention: a state takes the place of past keys and values; FlexAttention, whose
 * scores go through graphs of the model.
 *
 * The state of a head is a matrix [key size, value size]. Each token lets it decay, corrects or adds k v', and reads q of
 * it: tokens are unrolled. Heads of queries that share a state are rows of one product.
 *
 * Source: ONNX LinearAttention-27, ai.onnx.preview FlexAttention-1. */
#include "frontend/onnx/onnx_ops.h"
#include "frontend/onnx/op_formula.h"

#include <math.h>

/* ---- LinearAttention */

typedef struct {
  int64_t batch, tokens, heads, states, key, value; /* heads: of queries; states: heads of keys */
  Val q, k, v, decay,
      beta; /* [batch, tokens, states, ..]: q [heads / states, key], k [key, 1], v [1, value], the others
                               broadcast against the state; decay and beta may be 0 */
  double scale;
} Linear;

/* Input i, [batch, tokens, states * a * b] with a * b whatever there is, as [batch, tokens, states, a, b]. */
static Val read_input(Import *im, const OnnxNode *n, const Linear *l, uint32_t i, int64_t a, int64_t b)
{
  Val x = im_float_compute(im, im_in(im, n, i));
  int64_t states = im_dim(im, x, 2) == a * b ? 1 : l->states; /* one for all */

  if (!im_ok(im) || im_rank(im, x) != 3 || im_dim(im, x, 0) != l->batch || im_dim(im, x, 1) != l->tokens ||
      im_dim(im, x, 2) != states * a * b) {
    im_fail(im, n, "input %u must be [%lld, %lld, %lld]", i, (long long)l->batch, (long long)l->tokens,
            (long long)(l->states * a * b));
    return 0;
  }
  return im_reshape_to(im, x, l->batch, l->tokens, states, a, b);
}

/* What the update rule needs must be there, and what it does not know must not. */
static bool read_rule(Import *im, const OnnxNode *n, bool *gated, bool *delta)
{
  const char *rule = im_str(im, n, "update_rule", "gated_delta");

  *gated = !strncmp(rule, "gated", 5);
  *delta = !strcmp(rule, "delta") || !strcmp(rule, "gated_delta");
  if (!*gated && !*delta && strcmp(rule, "linear"))
    return im_fail(im, n, "update_rule '%s' is not supported", rule);
  if (*gated != im_has(im, n, 4) || *delta != im_has(im, n, 5))
    return im_fail(im, n, "decay and beta do not fit update_rule '%s'", rule);
  return true;
}

static bool read_linear(Import *im, const OnnxNode *n, Linear *l)
{
  Val q = im_in(im, n, 0), k = im_in(im, n, 1), v = im_in(im, n, 2);
  bool gated, delta;

  *l = (Linear){.batch = im_dim(im, q, 0), .tokens = im_dim(im, q, 1), .scale = im_float(im, n, "scale", 0)};
  l->heads = im_int(im, n, "q_num_heads", 0);
  l->states = im_int(im, n, "kv_num_heads", 0);
  if (!im_ok(im) || l->heads < 1 || l->states < 1 || l->heads > 1 << 16 || l->heads % l->states ||
      im_dim(im, k, -1) % l->states || im_dim(im, v, -1) % l->states)
    return im_fail(im, n, "%lld heads of queries, %lld of keys", (long long)l->heads, (long long)l->states);
  l->key = im_dim(im, k, -1) / l->states;
  l->value = im_dim(im, v, -1) / l->states;
  l->scale = l->scale != 0 ? l->scale : 1 / sqrt((double)max64(1, l->key));
  if (!read_rule(im, n, &gated, &delta))
    return false;
  l->q = im_op_f(im, OP_mul, read_input(im, n, l, 0, l->heads / l->states, l->key), l->scale);
  l->k = read_input(im, n, l, 1, l->key, 1);
  l->v = read_input(im, n, l, 2, 1, l->value);
  if (gated) {
    bool each = im_dim(im, im_in(im, n, 4), 2) == l->states * l->key;
    l->decay = im_add1(im, OP_exp, read_input(im, n, l, 4, each ? l->key : 1, 1));
  }
  if (delta)
    l->beta = read_input(im, n, l, 5, 1, 1);
  return im_ok(im);
}

static Val first_state(Import *im, const OnnxNode *n, const Linear *l)
{
  int64_t dim[] = {l->batch, l->states, l->key, l->value};

  if (!im_has(im, n, 3))
    return im_full(im, im_elem(im, l->k), 4, dim, 0);
  Val s = im_cast_like(im, im_in(im, n, 3), l->k);
  Type t = im_type(im, s), want = type_of(t.dtype, 4, dim);
  return type_eq(&t, &want) ? s : (im_fail(im, n, "the past state has another shape"), 0);
}

static Val at_token(Import *im, Val x, int64_t t)
{
  return im_squeeze(im, im_part(im, x, 1, t, 1), 1);
}

/* One token: changes the state, gives [batch, states, heads / states, value]. */
static Val step(Import *im, const Linear *l, int64_t t, Val *state)
{
  Val k = at_token(im, l->k, t), v = at_token(im, l->v, t);

  if (l->decay)
    *state = mul(im, *state, at_token(im, l->decay, t));
  if (l->beta) {
    Val known = im_matmul(im, im_swap(im, k, 2, 3), *state);
    v = mul(im, at_token(im, l->beta, t), im_add2(im, OP_sub, v, known));
  }
  *state = im_add2(im, OP_add, *state, mul(im, k, v));
  return im_matmul(im, at_token(im, l->q, t), *state);
}

bool op_linear_attention(Import *im, const OnnxNode *n)
{
  Val like = im_in(im, n, 0), past = im_opt(im, n, 3);
  Linear l;

  if (!read_linear(im, n, &l))
    return false;
  Val state = first_state(im, n, &l), *out = NEW_ARRAY(im->arena, Val, (size_t)l.tokens + 1);
  for (int64_t t = 0; t < l.tokens && im_ok(im); t++)
    out[t] = step(im, &l, t, &state);
  if (!im_ok(im) || !l.tokens)
    return im_fail(im, n, "there are no tokens");
  Val y = im_reshape_to(im, im_stack(im, out, (uint32_t)l.tokens, 1), l.batch, l.tokens, l.heads * l.value);
  return im_out(im, n, 0, im_cast_like(im, y, like)) &&
         im_out(im, n, 1, im_cast_like(im, state, past ? past : like));
}

/* ---- FlexAttention */

/* x through the graph of an attribute, if the node has it. */
static Val through(Import *im, const OnnxNode *n, const char *name, Val x)
{
  Val y = 0;

  if (!im_attr(im, n, name))
    return x;
  const OnnxGraph *g = im_graph_attr(im, n, name);
  if (!g || g->n_outputs != 1 || !im_graph(im, g, &x, 1, &y))
    return im_ok(im) ? (im_fail(im, n, "%s must give one output", name), 0) : 0;
  Type a = im_type(im, x), b = im_type(im, y);
  return type_eq(&a, &b) ? y : (im_fail(im, n, "%s changes the shape or type", name), 0);
}

bool op_flex_attention(Import *im, const OnnxNode *n)
{
  Val first = im_in(im, n, 0), q = im_float_compute(im, first);
  Val k = im_cast_like(im, im_in(im, n, 1), q), v = im_cast_like(im, im_in(im, n, 2), q);
  int64_t batch = im_dim(im, q, 0), heads = im_dim(im, q, 1), rows = im_dim(im, q, 2),
          size = im_dim(im, q, 3);
  int64_t shared = im_dim(im, k, 1), keys = im_dim(im, k, 2), width = im_dim(im, v, 3);
  double scale = im_float(im, n, "scale", 0);

  if (!im_ok(im) || im_rank(im, q) != 4 || im_rank(im, k) != 4 || im_rank(im, v) != 4 || shared < 1 ||
      heads % shared)
    return im_fail(im, n, "inputs must have 4 dimensions, heads of keys divide those of queries");
  DType precise = im_dtype_attr(im, n, "softmax_precision", im_elem(im, q));
  q = im_reshape_to(im, q, batch, shared, heads / shared * rows, size);
  Val p = im_op_f(im, OP_mul, im_matmul(im, q, im_swap(im, k, 2, 3)),
                  scale != 0 ? scale : 1 / sqrt((double)max64(1, size)));
  p = im_cast(im, im_reshape_to(im, p, batch, heads, rows, keys), precise);
  p = im_softmax(im, through(im, n, "score_mod", p), 3);
  p = im_cast_like(im, through(im, n, "prob_mod", p), v);
  p = im_matmul(im, im_reshape_to(im, p, batch, shared, heads / shared * rows, keys), v);
  return im_out(im, n, 0, im_cast_like(im, im_reshape_to(im, p, batch, heads, rows, width), first));
}
