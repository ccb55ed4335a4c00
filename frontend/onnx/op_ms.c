/* op_ms.c - operators of the domain com.microsoft that exporters emit: activations, fused products and convolutions,
 * normalisations with what stands before them.
 *
 * ONNX Runtime's optimiser replaces chains of ONNX operators by these; here they become the chains again.
 * Source: ONNX Runtime, docs/ContribOperators.md, all since version 1. */
#include "frontend/onnx/import_scope.h"
#include "frontend/onnx/onnx_ops.h"
#include "frontend/onnx/op_activation.h"
#include "frontend/onnx/op_formula.h"
#include "frontend/onnx/op_product.h"
#include "frontend/onnx/op_window.h"

#include <math.h>

/* Input i in the type of x; 0 if it is absent. */
static Val optional(Import *im, const OnnxNode *n, uint32_t i, Val x)
{
  Val v = im_opt(im, n, i);
  return v ? im_cast_like(im, v, x) : 0;
}

static Val plus_optional(Import *im, const OnnxNode *n, uint32_t i, Val x)
{
  Val v = optional(im, n, i, x);
  return v ? add(im, x, v) : x;
}

/* What another handler gave as the node's only output. */
static Val given(Import *im, const OnnxNode *n)
{
  Val v = 0;
  return im_ok(im) && im_wants(im, n, 0) && im_lookup(im, n->outputs[0], &v) ? v : 0;
}

/* ---- activations */

bool op_bias_gelu(Import *im, const OnnxNode *n)
{
  Val a = im_in(im, n, 0), x = im_float_compute(im, a);
  return im_out(
      im, n, 0,
      im_cast_like(
          im, activation_find("Gelu")->of(im, add(im, x, im_cast_like(im, im_in(im, n, 1), x)), 0, 0), a));
}

bool op_fast_gelu(Import *im, const OnnxNode *n)
{
  Val a = im_in(im, n, 0), x = plus_optional(im, n, 1, im_float_compute(im, a));
  return im_out(im, n, 0, im_cast_like(im, im_add1(im, OP_gelu, x), a));
}

/* x + bias + skip */
bool op_bias_add(Import *im, const OnnxNode *n)
{
  return im_out(im, n, 0, add(im, add(im, im_in(im, n, 0), im_in(im, n, 1)), im_in(im, n, 2)));
}

/* FusedConv has activation_params, the others activation_alpha and activation_beta. */
static Val activated(Import *im, const OnnxNode *n, Val x)
{
  const char *name = im_str(im, n, "activation", "");
  Floats params = im_floats(im, n, "activation_params");

  const Activation *act = activation_find(name);

  if (act)
    return act->of(im, x, params.len > 0 ? params.data[0] : im_float(im, n, "activation_alpha", act->a),
                   params.len > 1 ? params.data[1] : im_float(im, n, "activation_beta", act->b));
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
  r.inverse = im_rsqrt(im, im_op_f(im, OP_add, im_mean(im, mul(im, r.y, r.y), axis, true), epsilon));
  r.y = mul(im, r.y, r.inverse);
  return r;
}

/* Inputs: x, skip, gamma, [beta,] bias. Outputs: y, mean, inverse deviation, x + skip + bias. */
static bool skip_norm(Import *im, const OnnxNode *n, bool mean)
{
  Val first = im_in(im, n, 0), x = im_float_compute(im, first);
  Val sum = plus_optional(im, n, mean ? 4 : 3, add(im, x, im_cast_like(im, im_in(im, n, 1), x)));
  Norm r = normalize(im, sum, mean, im_float(im, n, "epsilon", 1e-12));
  Val y = mul(im, r.y, im_cast_like(im, im_in(im, n, 2), x));

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
  Val sum = add(im, embedded(im, n, 2, ids), embedded(im, n, 3, at));
  if (im_has(im, n, 1) && im_has(im, n, 4))
    sum = add(im, sum, embedded(im, n, 4, im_in(im, n, 1)));
  Norm r = normalize(im, sum, true, im_float(im, n, "epsilon", 1e-12));
  Val y = mul(im, r.y, im_cast_like(im, im_in(im, n, 5), sum));
  y = plus_optional(im, n, 6, y);
  return im_out(im, n, 0, im_cast_like(im, y, table)) && im_out(im, n, 1, mask_index(im, n, ids)) &&
         im_out(im, n, 2, im_cast_like(im, sum, table));
}
