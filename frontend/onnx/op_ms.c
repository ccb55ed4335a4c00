/* op_ms.c - operators of the domain com.microsoft that exporters emit: activations, fused products and convolutions,
 * normalisations with what stands before them.
 *
 * ONNX Runtime's optimiser replaces chains of ONNX operators by these; here they become the chains again.
 * Source: ONNX Runtime, docs/ContribOperators.md, all since version 1. */
#include "frontend/onnx/import_scope.h"
#include "frontend/onnx/onnx_ops.h"
#include "frontend/onnx/op_product.h"
#include "frontend/onnx/op_window.h"

#include <float.h>
#include <math.h>

static Val plus(Import *im, Val a, Val b)
{
  return im_add2(im, OP_add, a, b);
}
static Val times(Import *im, Val a, Val b)
{
  return im_add2(im, OP_mul, a, b);
}

/* Input i in the type of x; 0 if it is absent. */
static Val optional(Import *im, const OnnxNode *n, uint32_t i, Val x)
{
  Val v = im_opt(im, n, i);
  return v ? im_cast_like(im, v, x) : 0;
}

static Val plus_optional(Import *im, const OnnxNode *n, uint32_t i, Val x)
{
  Val v = optional(im, n, i, x);
  return v ? plus(im, x, v) : x;
}

/* What another handler gave as the node's only output. */
static Val given(Import *im, const OnnxNode *n)
{
  Val v = 0;
  return im_ok(im) && im_wants(im, n, 0) && im_lookup(im, n->outputs[0], &v) ? v : 0;
}

/* ---- activations */

static Val gelu(Import *im, Val x)
{
  Val e = im_add1(im, OP_erf, im_op_f(im, OP_mul, x, M_SQRT1_2));
  return times(im, im_op_f(im, OP_mul, x, 0.5), im_op_f(im, OP_add, e, 1));
}

bool op_bias_gelu(Import *im, const OnnxNode *n)
{
  Val a = im_in(im, n, 0), x = im_float_compute(im, a);
  return im_out(im, n, 0, im_cast_like(im, gelu(im, plus(im, x, im_cast_like(im, im_in(im, n, 1), x))), a));
}

bool op_fast_gelu(Import *im, const OnnxNode *n)
{
  Val a = im_in(im, n, 0), x = plus_optional(im, n, 1, im_float_compute(im, a));
  return im_out(im, n, 0, im_cast_like(im, im_add1(im, OP_gelu, x), a));
}

bool op_quick_gelu(Import *im, const OnnxNode *n)
{
  Val a = im_in(im, n, 0), x = im_float_compute(im, a);
  Val gate = im_add1(im, OP_sigmoid, im_op_f(im, OP_mul, x, im_float(im, n, "alpha", 1.702)));
  return im_out(im, n, 0, im_cast_like(im, times(im, x, gate), a));
}

/* x + bias + skip */
bool op_bias_add(Import *im, const OnnxNode *n)
{
  return im_out(im, n, 0, plus(im, plus(im, im_in(im, n, 0), im_in(im, n, 1)), im_in(im, n, 2)));
}

/* ---- activations of fused operators, with up to two parameters */

typedef Val (*Activation)(Import *im, Val x, double a, double b);

static Val act_relu(Import *im, Val x, double a, double b)
{
  (void)a, (void)b;
  return im_add1(im, OP_relu, x);
}
static Val act_tanh(Import *im, Val x, double a, double b)
{
  (void)a, (void)b;
  return im_add1(im, OP_tanh, x);
}
static Val act_sigmoid(Import *im, Val x, double a, double b)
{
  (void)a, (void)b;
  return im_add1(im, OP_sigmoid, x);
}
static Val act_leaky(Import *im, Val x, double a, double b)
{
  (void)b;
  return im_where(im, im_add2(im, OP_lt, x, im_const_like(im, x, 0)), im_op_f(im, OP_mul, x, a), x);
}
static Val act_clip(Import *im, Val x, double a, double b)
{
  return im_clip(im, x, a, b);
}
static Val act_hard_sigmoid(Import *im, Val x, double a, double b)
{
  return im_clip(im, im_op_f(im, OP_add, im_op_f(im, OP_mul, x, a), b), 0, 1);
}
static Val act_hard_swish(Import *im, Val x, double a, double b)
{
  (void)a, (void)b;
  return times(im, x, act_hard_sigmoid(im, x, 1.0 / 6, 0.5));
}
static Val act_gelu(Import *im, Val x, double a, double b)
{
  (void)a, (void)b;
  return gelu(im, x);
}

static const struct {
  const char *name;
  Activation fn;
  double a, b; /* if they are not given */
} activations[] = {
    {"Relu", act_relu, 0, 0},
    {"Tanh", act_tanh, 0, 0},
    {"Sigmoid", act_sigmoid, 0, 0},
    {"LeakyRelu", act_leaky, 0.01, 0},
    {"Clip", act_clip, -FLT_MAX, FLT_MAX},
    {"HardSigmoid", act_hard_sigmoid, 0.2, 0.5},
    {"HardSwish", act_hard_swish, 0, 0},
    {"Gelu", act_gelu, 0, 0},
};

/* FusedConv has activation_params, the others activation_alpha and activation_beta. */
static Val activated(Import *im, const OnnxNode *n, Val x)
{
  const char *name = im_str(im, n, "activation", "");
  Floats params = im_floats(im, n, "activation_params");

  for (uint32_t i = 0; i < COUNT(activations); i++)
    if (!strcmp(name, activations[i].name)) {
      double a = params.len > 0 ? params.data[0] : im_float(im, n, "activation_alpha", activations[i].a);
      double b = params.len > 1 ? params.data[1] : im_float(im, n, "activation_beta", activations[i].b);
      return activations[i].fn(im, x, a, b);
    }
  if (name[0])
    im_fail(im, n, "activation '%s' is not supported", name);
  return x;
}

/* Z is added before the activation: a residual. */
bool op_fused_conv(Import *im, const OnnxNode *n)
{
  Val y = window_conv_onnx(im, n, im_in(im, n, 0), im_in(im, n, 1), im_opt(im, n, 2));
  return im_out(im, n, 0, activated(im, n, plus_optional(im, n, 3, y)));
}

bool op_fused_gemm(Import *im, const OnnxNode *n)
{
  return op_gemm(im, n) && im_out(im, n, 0, activated(im, n, given(im, n)));
}

/* transA: the last two dimensions are exchanged. transBatchA: the first dimension stands before the last. */
static Val operand(Import *im, const OnnxNode *n, uint32_t i, const char *trans, const char *batch)
{
  Val v = im_in(im, n, i);
  uint32_t rank = im_rank(im, v);

  if (rank < 2)
    return v;
  if (im_int(im, n, batch, 0))
    v = im_move(im, v, 0, rank - 2);
  return im_int(im, n, trans, 0) ? im_swap(im, v, rank - 2, rank - 1) : v;
}

bool op_fused_mat_mul(Import *im, const OnnxNode *n)
{
  Val y = product_matmul(im, operand(im, n, 0, "transA", "transBatchA"),
                         operand(im, n, 1, "transB", "transBatchB"));
  double alpha = im_float(im, n, "alpha", 1);

  return im_out(im, n, 0, activated(im, n, alpha == 1 ? y : im_op_f(im, OP_mul, y, alpha)));
}

/* ---- normalisation along the last dimension */

typedef struct {
  Val y, mean, inverse;
} Norm;

/* mean: of LayerNormalization; without it, the simplified one. gamma and beta (or 0) have x's type. */
static Norm normalize(Import *im, Val x, bool mean, double epsilon)
{
  Norm r = {.y = x};
  uint32_t axis = im_rank(im, x) ? 1u << (im_rank(im, x) - 1) : 0;

  if (mean) {
    r.mean = im_mean(im, x, axis, true);
    r.y = im_add2(im, OP_sub, x, r.mean);
  }
  r.inverse = im_rsqrt(im, im_op_f(im, OP_add, im_mean(im, times(im, r.y, r.y), axis, true), epsilon));
  r.y = times(im, r.y, r.inverse);
  return r;
}

/* Inputs: x, skip, gamma, [beta,] bias. Outputs: y, mean, inverse deviation, x + skip + bias. */
static bool skip_norm(Import *im, const OnnxNode *n, bool mean)
{
  Val first = im_in(im, n, 0), x = im_float_compute(im, first);
  Val sum = plus_optional(im, n, mean ? 4 : 3, plus(im, x, im_cast_like(im, im_in(im, n, 1), x)));
  Norm r = normalize(im, sum, mean, im_float(im, n, "epsilon", 1e-12));
  Val y = times(im, r.y, im_cast_like(im, im_in(im, n, 2), x));

  if (mean)
    y = plus_optional(im, n, 3, y);
  return im_out(im, n, 0, im_cast_like(im, y, first)) && (!mean || im_out(im, n, 1, r.mean)) &&
         im_out(im, n, 2, r.inverse) && im_out(im, n, 3, im_cast_like(im, sum, first));
}

bool op_skip_layer_normalization(Import *im, const OnnxNode *n)
{
  return skip_norm(im, n, true);
}

bool op_skip_simplified_layer_normalization(Import *im, const OnnxNode *n)
{
  return skip_norm(im, n, false);
}

/* Rows of a table by ids, which ONNX Runtime refuses out of range. */
static Val embedded(Import *im, const OnnxNode *n, uint32_t table, Val ids)
{
  Val t = im_in(im, n, table);

  if (im_rank(im, t) != 2)
    return t ? (im_fail(im, n, "input %u must have 2 dimensions", table), 0) : 0;
  return im_float_compute(im, im_gather(im, t, ids, 0));
}

/* Number of ones in each row of the mask; without a mask 0. */
static Val mask_index(Import *im, const OnnxNode *n, Val ids)
{
  int64_t batch = im_dim(im, ids, 0);

  if (!im_has(im, n, 7))
    return im_full(im, DT_I32, 1, &batch, 0);
  return im_sum(im, im_cast(im, im_in(im, n, 7), DT_I32), 2, false);
}

/* Inputs: ids, segments, tables of words, positions and segments, gamma, beta, mask, positions. */
bool op_embed_layer_normalization(Import *im, const OnnxNode *n)
{
  Val ids = im_in(im, n, 0), at = im_opt(im, n, 8), table = im_in(im, n, 2);

  if (!im_ok(im) || im_rank(im, ids) != 2)
    return im_fail(im, n, "the ids must have 2 dimensions");
  if (!at)
    at = im_iota(im, DT_I32, im_dim(im, ids, 1));
  Val sum = plus(im, embedded(im, n, 2, ids), embedded(im, n, 3, at));
  if (im_has(im, n, 1) && im_has(im, n, 4))
    sum = plus(im, sum, embedded(im, n, 4, im_in(im, n, 1)));
  Norm r = normalize(im, sum, true, im_float(im, n, "epsilon", 1e-12));
  Val y = times(im, r.y, im_cast_like(im, im_in(im, n, 5), sum));
  y = plus_optional(im, n, 6, y);
  return im_out(im, n, 0, im_cast_like(im, y, table)) && im_out(im, n, 1, mask_index(im, n, ids)) &&
         im_out(im, n, 2, im_cast_like(im, sum, table));
}
