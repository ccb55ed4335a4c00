/* op_formula.h - arithmetic by short names, for operators that are formulas of several steps. Such formulas compute 16-bit
 * floats in f32 and round once: formula_in(), formula_out(). */
#ifndef MICC_ONNX_OP_FORMULA_H
#define MICC_ONNX_OP_FORMULA_H

#include "frontend/onnx/import.h"

static inline Val formula_in(Import *im, const OnnxNode *n)
{
  return im_float_compute(im, im_in(im, n, 0));
}
static inline bool formula_out(Import *im, const OnnxNode *n, Val v) /* in the type of the first input */
{
  return im_out(im, n, 0, im_cast_like(im, v, im_in(im, n, 0)));
}

static inline Val add(Import *im, Val a, Val b)
{
  return im_add2(im, OP_add, a, b);
}
static inline Val sub(Import *im, Val a, Val b)
{
  return im_add2(im, OP_sub, a, b);
}
static inline Val mul(Import *im, Val a, Val b)
{
  return im_add2(im, OP_mul, a, b);
}
static inline Val divide(Import *im, Val a, Val b)
{
  return im_add2(im, OP_div, a, b);
}
static inline Val plus(Import *im, Val a, double b)
{
  return b == 0 ? a : im_op_f(im, OP_add, a, b);
}
static inline Val times(Import *im, Val a, double b)
{
  return b == 1 ? a : im_op_f(im, OP_mul, a, b);
}
static inline Val from(Import *im, double a, Val b) /* a - b */
{
  return sub(im, im_const_like(im, b, a), b);
}
static inline Val over(Import *im, double a, Val b) /* a / b */
{
  return divide(im, im_const_like(im, b, a), b);
}
static inline Val exponential(Import *im, Val a)
{
  return im_add1(im, OP_exp, a);
}
static inline Val logarithm(Import *im, Val a)
{
  return im_add1(im, OP_log, a);
}
static inline Val root(Import *im, Val a)
{
  return im_add1(im, OP_sqrt, a);
}
static inline Val negative(Import *im, Val a) /* bool: a < 0 */
{
  return im_add2(im, OP_lt, a, im_const_like(im, a, 0));
}

#endif
