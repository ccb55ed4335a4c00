/* op_quant.h - integers that stand for real numbers: x = (q - zero) * scale. What operators on them share. */
#ifndef MICC_ONNX_OP_QUANT_H
#define MICC_ONNX_OP_QUANT_H

#include "frontend/onnx/import.h"

/* Parameters in a shape that broadcasts against their tensor. zero 0: there is none, or it is the constant 0. */
typedef struct {
  Val scale, zero;
} Quant;

/* Inputs `scale` and `scale + 1` of the node, for all elements together; a single number becomes a scalar. */
Quant quant_in(Import *im, const OnnxNode *n, uint32_t scale);
/* One input as quant_in reads it; 0 if it is absent. */
Val quant_param(Import *im, const OnnxNode *n, uint32_t i);
/* A parameter that is a list [n] belongs to dimension `axis` of `rank`: [1 .. n .. 1]. `size` is what n must be. */
Val quant_at_axis(Import *im, const OnnxNode *n, Val v, uint32_t axis, uint32_t rank, int64_t size);

Val quant_shift(Import *im, Val q, Val zero);           /* q - zero as i32, exact; zero may be 0 */
Val quant_decode(Import *im, Val q, Quant p);           /* f32 */
Val quant_round(Import *im, Val x, Val zero, DType to); /* x to the nearest integer, + zero, saturated */
Val quant_encode(Import *im, Val x, Quant p, DType to); /* quant_round of x / scale */
Val quant_encode_like(Import *im, Val x, Quant p,
                      Val as); /* to the type of p.zero; without one to that of `as` */
/* An i32 sum of products whose unit is `unit` (a scale) in the integers of p. `as` as above. */
Val quant_rescale(Import *im, Val sum, Val unit, Quant p, Val as);

Val quant_product(Import *im, Val a, Val b); /* numpy's matmul, also of vectors */

#endif
