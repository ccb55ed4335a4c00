/* op_quant.h - integers that stand for real numbers: x = (q - zero) * scale. What operators on them share. */
#ifndef MICC_ONNX_OP_QUANT_H
#define MICC_ONNX_OP_QUANT_H

#include "frontend/onnx/import.h"

/* Parameters in a shape that broadcasts against their tensor. */
typedef struct {
  Val scale, zero; /* zero 0: there is none, or it is the constant 0 */
  DType type;      /* of the integers */
} Quant;

/* Inputs `scale` and `scale + 1` of the node, for all elements together; a single number becomes a scalar. The type is
 * that of the zero point; if it is absent, that of `like`. */
Quant quant_in(Import *im, const OnnxNode *n, uint32_t scale, Val like);
/* One input as quant_in reads it; 0 if it is absent, or a zero point that is 0. */
Val quant_param(Import *im, const OnnxNode *n, uint32_t i);
Val quant_zero(Import *im, const OnnxNode *n, uint32_t i);

Val quant_shift(Import *im, Val q, Val zero); /* q - zero as i32, exact; zero may be 0 */
Val quant_decode(Import *im, Val q, Quant p); /* f32 */
Val quant_round(Import *im, Val x, Quant p);  /* x to the nearest integer, + zero, saturated */
Val quant_encode(Import *im, Val x, Quant p); /* quant_round of x / scale */
/* An i32 sum of products whose unit is `unit` (a scale), as integers of p. */
Val quant_rescale(Import *im, Val sum, Val unit, Quant p);
/* x as u8 by the range of its values; p: how (DynamicQuantizeLinear). */
Val quant_dynamic(Import *im, Val x, Quant *p);

#endif
