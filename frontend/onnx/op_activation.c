/* op_activation.c - activations: a table of formulas with up to two parameters, which recurrences and fused operators name
 * too, and those that need more.
 *
 * Each formula is written in the form that neither overflows nor cancels where the result is finite. */
#include "frontend/onnx/op_activation.h"
#include "frontend/onnx/onnx_ops.h"
#include "frontend/onnx/op_formula.h"

#include <float.h>
#include <math.h>
#include <strings.h>

/* alpha (e^x - 1) for negative x; the positive ones, which would overflow, are cut. */
static Val exp_branch(Import *im, Val x, double alpha)
{
  return times(im, plus(im, exponential(im, im_op_f(im, OP_min, x, 0)), -1), alpha);
}

static Val act_affine(Import *im, Val x, double a, double b)
{
  return plus(im, times(im, x, a), b);
}
static Val act_celu(Import *im, Val x, double a, double b)
{
  (void)b;
  return im_where(im, negative(im, x), exp_branch(im, times(im, x, 1 / a), a), x);
}
static Val act_clip(Import *im, Val x, double a, double b)
{
  return im_clip(im, x, a, b);
}
static Val act_elu(Import *im, Val x, double a, double b)
{
  (void)b;
  return im_where(im, negative(im, x), exp_branch(im, x, a), x);
}
static Val act_gelu(Import *im, Val x, double a, double b)
{
  (void)a, (void)b;
  return mul(im, times(im, x, 0.5), plus(im, im_add1(im, OP_erf, times(im, x, M_SQRT1_2)), 1));
}
static Val act_hard_sigmoid(Import *im, Val x, double a, double b)
{
  return im_clip(im, act_affine(im, x, a, b), 0, 1);
}
static Val act_hard_swish(Import *im, Val x, double a, double b)
{
  (void)a, (void)b;
  return mul(im, x, act_hard_sigmoid(im, x, 1.0 / 6, 0.5));
}
static Val act_leaky_relu(Import *im, Val x, double a, double b)
{
  Val low = times(im, x, a);

  (void)b;
  return a > 0 && a <= 1 ? im_add2(im, OP_max, x, low) : im_where(im, negative(im, x), low, x);
}
static Val act_relu(Import *im, Val x, double a, double b)
{
  (void)a, (void)b;
  return im_add1(im, OP_relu, x);
}
static Val act_scaled_tanh(Import *im, Val x, double a, double b)
{
  return times(im, im_add1(im, OP_tanh, times(im, x, b)), a);
}
static Val act_sigmoid(Import *im, Val x, double a, double b)
{
  (void)a, (void)b;
  return im_add1(im, OP_sigmoid, x);
}
static Val act_softplus(Import *im, Val x, double a, double b)
{
  Val tail = exponential(im, im_add1(im, OP_neg, im_add1(im, OP_abs, x)));

  (void)a, (void)b;
  return add(im, im_op_f(im, OP_max, x, 0), logarithm(im, plus(im, tail, 1)));
}
static Val act_mish(Import *im, Val x, double a, double b)
{
  return mul(im, x, im_add1(im, OP_tanh, act_softplus(im, x, a, b)));
}
static Val act_softsign(Import *im, Val x, double a, double b)
{
  (void)a, (void)b;
  return divide(im, x, plus(im, im_add1(im, OP_abs, x), 1));
}
static Val act_swish(Import *im, Val x, double a, double b)
{
  (void)b;
  return a == 1 ? im_add1(im, OP_silu, x) : mul(im, x, im_add1(im, OP_sigmoid, times(im, x, a)));
}
static Val act_tanh(Import *im, Val x, double a, double b)
{
  (void)a, (void)b;
  return im_add1(im, OP_tanh, x);
}
static Val act_thresholded_relu(Import *im, Val x, double a, double b)
{
  (void)b;
  return im_where(im, im_gt(im, x, im_const_like(im, x, a)), x, im_const_like(im, x, 0));
}

/* Sources: ONNX RNN-22 (names, alpha and beta of recurrences); the operators of these names; com.microsoft FusedConv. */
static const Activation activations[] = {
    {"Affine", act_affine, 2, 1, 0},
    {"Celu", act_celu, 1, 1, 0},
    {"Clip", act_clip, 2, -FLT_MAX, FLT_MAX},
    {"Elu", act_elu, 1, 1, 0},
    {"Gelu", act_gelu, 0, 0, 0},
    {"HardSigmoid", act_hard_sigmoid, 2, 0.2, 0.5},
    {"HardSwish", act_hard_swish, 0, 0, 0},
    {"LeakyRelu", act_leaky_relu, 1, 0.01, 0},
    {"Mish", act_mish, 0, 0, 0},
    {"QuickGelu", act_swish, 1, 1.702, 0},
    {"Relu", act_relu, 0, 0, 0},
    {"ScaledTanh", act_scaled_tanh, 2, 1, 1},
    {"Sigmoid", act_sigmoid, 0, 0, 0},
    {"Softplus", act_softplus, 0, 0, 0},
    {"Softsign", act_softsign, 0, 0, 0},
    {"Swish", act_swish, 1, 1, 0},
    {"Tanh", act_tanh, 0, 0, 0},
    {"ThresholdedRelu", act_thresholded_relu, 1, 1, 0},
};

const Activation *activation_find(const char *name)
{
  for (uint32_t i = 0; i < COUNT(activations); i++)
    if (!strcasecmp(name, activations[i].name))
      return &activations[i];
  return NULL;
}

/* ---- operators */

bool op_activation(Import *im, const OnnxNode *n)
{
  const Activation *act = activation_find(n->op_type);
  double a = act->takes > 0 ? im_float(im, n, "alpha", act->a) : 0;
  double b = act->takes > 1 ? im_float(im, n, "beta", act->b) : 0;

  return formula_out(im, n, act->of(im, formula_in(im, n), a, b));
}

bool op_gelu(Import *im, const OnnxNode *n)
{
  Val x = formula_in(im, n);
  bool by_tanh = !strcmp(im_str(im, n, "approximate", "none"), "tanh");

  return formula_out(im, n, by_tanh ? im_add1(im, OP_gelu, x) : act_gelu(im, x, 0, 0));
}

bool op_selu(Import *im, const OnnxNode *n)
{
  double alpha = im_float(im, n, "alpha", 1.67326319217681884765625);
  double gamma = im_float(im, n, "gamma", 1.05070102214813232421875);

  return formula_out(im, n, times(im, act_elu(im, formula_in(im, n), alpha, 0), gamma));
}

/* Before opset 7 a slope of one dimension belongs to the channels. */
bool op_prelu(Import *im, const OnnxNode *n)
{
  Val x = formula_in(im, n), slope = im_float_compute(im, im_in(im, n, 1));

  if (im_opset(im, n) < 7 && im_rank(im, slope) == 1 && im_rank(im, x) > 1)
    slope = im_at_channel(im, slope, 1, im_rank(im, x));
  return formula_out(im, n, im_where(im, negative(im, x), mul(im, x, slope), x));
}

bool op_swiglu(Import *im, const OnnxNode *n)
{
  Val value = im_float_compute(im, im_in(im, n, 1));
  Val gate = act_swish(im, formula_in(im, n), im_float(im, n, "alpha", 1), 0);
  return formula_out(im, n, mul(im, gate, value));
}

/* x < -lambd: x + bias; x > lambd: x - bias; else 0 */
bool op_shrink(Import *im, const OnnxNode *n)
{
  Val x = formula_in(im, n), zero = im_const_like(im, x, 0);
  double lambd = im_float(im, n, "lambd", 0.5), bias = im_float(im, n, "bias", 0);
  Val low = im_add2(im, OP_lt, x, im_const_like(im, x, -lambd));
  Val high = im_gt(im, x, im_const_like(im, x, lambd));
  return formula_out(im, n,
                     im_where(im, low, plus(im, x, bias), im_where(im, high, plus(im, x, -bias), zero)));
}
