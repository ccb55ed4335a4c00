/* onnx_tiny.h - a small ONNX model of our own (tests/data/tiny.onnx), with names that are hard to write as file names or
 * in C, and what it must compute.
 *
 *   image:0  f32[N,2,8,8] -> Conv 3x3, 4 channels, padded -> Relu -> MaxPool 2x2 -> Mul by
 *   class    f32[4,1,1]   -> [N,4,4,4] -> Gemm to 5 -> Softmax   scores/a  f32[N,5]
 *                                               -> ArgMax        scores_a  i64[N]
 *                                      -> QuantizeLinear         int       u8[N,4,4,4]
 *                                         -> DequantizeLinear    level     f32[N,4,4,4] */
#ifndef MICC_TEST_ONNX_TINY_H
#define MICC_TEST_ONNX_TINY_H

#include "ir/base.h"

#define TINY_PATH MICC_SOURCE_DIR "/tests/data/tiny.onnx"

enum { TINY_IMAGE = 2 * 8 * 8, TINY_CLASS = 4, TINY_SCORES = 5, TINY_INT = 4 * 4 * 4 };

typedef struct {
  float image[TINY_IMAGE], class[TINY_CLASS];
} TinyIn;

typedef struct {
  float scores[TINY_SCORES];
  int64_t best;
  uint8_t quantised[TINY_INT];
  float level[TINY_INT];
} TinyOut;

void tiny_model(Text *out); /* the file's bytes */
void tiny_inputs(uint64_t seed, TinyIn *in);
void tiny_outputs(const TinyIn *in, TinyOut *out); /* by definition, in double */

/* Whether they agree; a level may be one step off where rounding is a matter of the last bit. */
bool tiny_agrees(const TinyOut *got, const TinyOut *want);

#endif
