/* onnx_tiny.c - see onnx_tiny.h */
#include "tests/e2e/support/onnx_tiny.h"

#include "tests/unit/support/onnx_tools.h"

#include <math.h>

enum { KERNEL = 4 * 2 * 3 * 3, DENSE = TINY_INT * 5 };
static const double step = 0.03125;
static const int zero = 3;

typedef struct {
  float kernel[KERNEL], kernel_bias[4], dense[DENSE], dense_bias[5];
} Weights;

/* Multiples of 1/64 from -1 to 1. */
static void fill(uint64_t *seed, float *x, size_t n)
{
  for (size_t i = 0; i < n; i++) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    x[i] = (float)((int64_t)(*seed >> 33) % 65) / 64 * (*seed >> 63 ? 1 : -1);
  }
}

static void weights(Weights *w)
{
  uint64_t seed = 1;

  fill(&seed, w->kernel, KERNEL);
  fill(&seed, w->kernel_bias, 4);
  fill(&seed, w->dense, DENSE);
  fill(&seed, w->dense_bias, 5);
}

/* ---- the file */

static void initialiser(Text *out, const char *dims, const char *name, const float *x, size_t n)
{
  text_printf(out, "5{1[%s] 2:1 8'%s' 4(", dims, name);
  for (size_t i = 0; i < n; i++)
    text_printf(out, "%.9g ", (double)x[i]);
  text_printf(out, ")}\n");
}

static void value(Text *out, int list, const char *name, int type, const char *dims)
{
  text_printf(out, "%d{1'%s' 2{1{1:%d 2{%s}}}}\n", list, name, type, dims);
}

static void nodes(Text *out)
{
  static const char *const node[] = {
      "1'image:0' 1'conv.w' 1'conv.b' 2'c' 3'conv' 4'Conv' 5{1'pads' 8[1 1 1 1] 20:7}",
      "1'c' 2'r' 3'relu' 4'Relu'",
      "1'r' 2'p' 3'pool' 4'MaxPool' 5{1'kernel_shape' 8[2 2] 20:7} 5{1'strides' 8[2 2] 20:7}",
      "1'p' 1'class' 2'm' 3'scale' 4'Mul'",
      "1'm' 2'f' 3'flatten' 4'Flatten'",
      "1'f' 1'dense.w' 1'dense.b' 2'g' 3'dense' 4'Gemm'",
      "1'g' 2'scores/a' 3'softmax' 4'Softmax'",
      "1'g' 2'scores_a' 3'best' 4'ArgMax' 5{1'axis' 3:1 20:2} 5{1'keepdims' 3:0 20:2}",
      "1'm' 1'step' 1'zero' 2'int' 3'quantize' 4'QuantizeLinear'",
      "1'int' 1'step' 1'zero' 2'level' 3'dequantize' 4'DequantizeLinear'"};

  for (size_t i = 0; i < COUNT(node); i++)
    text_printf(out, "1{%s}\n", node[i]);
}

void tiny_model(Text *out)
{
  Text t = {.arena = out->arena};
  Weights w;

  weights(&w);
  text_printf(&t, "1:8 2'micc' 3'tests' 8{1'' 2:17} 14{1'license' 2'Apache-2.0 WITH LLVM-exception'} 7{\n");
  nodes(&t);
  text_printf(&t, "2'tiny'\n");
  initialiser(&t, "4 2 3 3", "conv.w", w.kernel, KERNEL);
  initialiser(&t, "4", "conv.b", w.kernel_bias, 4);
  initialiser(&t, "64 5", "dense.w", w.dense, DENSE);
  initialiser(&t, "5", "dense.b", w.dense_bias, 5);
  text_printf(&t, "5{2:1 8'step' 4(%g)} 5{2:2 8'zero' 9x%02x}\n", step, zero);
  value(&t, 11, "image:0", 1, "1{2'N'} 1{1:2} 1{1:8} 1{1:8}");
  value(&t, 11, "class", 1, "1{1:4} 1{1:1} 1{1:1}");
  value(&t, 12, "scores/a", 1, "1{2'N'} 1{1:5}");
  value(&t, 12, "scores_a", 7, "1{2'N'}");
  value(&t, 12, "int", 2, "1{2'N'} 1{1:4} 1{1:4} 1{1:4}");
  value(&t, 12, "level", 1, "1{2'N'} 1{1:4} 1{1:4} 1{1:4}");
  text_printf(&t, "}");
  onnx_text(out, t.data);
}

/* ---- what it computes */

void tiny_inputs(uint64_t seed, TinyIn *in)
{
  fill(&seed, in->image, TINY_IMAGE);
  fill(&seed, in->class, TINY_CLASS);
}

static double convolution(const Weights *w, const TinyIn *in, int o, int y, int x)
{
  double sum = (double)w->kernel_bias[o];

  for (int c = 0; c < 2; c++)
    for (int i = 0; i < 3; i++)
      for (int k = 0; k < 3; k++) {
        int row = y + i - 1, column = x + k - 1;
        if (row >= 0 && row < 8 && column >= 0 && column < 8)
          sum += (double)w->kernel[((o * 2 + c) * 3 + i) * 3 + k] *
                 (double)in->image[(c * 8 + row) * 8 + column];
      }
  return sum > 0 ? sum : 0;
}

static double pooled(const Weights *w, const TinyIn *in, int o, int y, int x)
{
  double most = 0;

  for (int i = 0; i < 4; i++)
    most = fmax(most, convolution(w, in, o, 2 * y + i / 2, 2 * x + i % 2));
  return most * (double)in->class[o];
}

void tiny_outputs(const TinyIn *in, TinyOut *out)
{
  Weights w;
  double m[TINY_INT], g[TINY_SCORES], sum = 0;

  weights(&w);
  *out = (TinyOut){.best = 0};
  for (int i = 0; i < TINY_INT; i++) {
    m[i] = pooled(&w, in, i / 16, i / 4 % 4, i % 4);
    double q = nearbyint(m[i] / step) + zero;
    out->quantised[i] = (uint8_t)(q < 0 ? 0 : q > 255 ? 255 : q);
    out->level[i] = (float)((out->quantised[i] - zero) * step);
  }
  for (int k = 0; k < TINY_SCORES; k++) {
    g[k] = (double)w.dense_bias[k];
    for (int i = 0; i < TINY_INT; i++)
      g[k] += m[i] * (double)w.dense[i * 5 + k];
    out->best = g[k] > g[out->best] ? k : out->best;
  }
  for (int k = 0; k < TINY_SCORES; k++)
    sum += exp(g[k] - g[out->best]);
  for (int k = 0; k < TINY_SCORES; k++)
    out->scores[k] = (float)(exp(g[k] - g[out->best]) / sum);
}

bool tiny_agrees(const TinyOut *got, const TinyOut *want)
{
  bool same = got->best == want->best;

  for (int k = 0; k < TINY_SCORES; k++)
    same = same && fabsf(got->scores[k] - want->scores[k]) < 1e-5f;
  for (int i = 0; i < TINY_INT; i++)
    same = same && abs(got->quantised[i] - want->quantised[i]) <= 1 &&
           got->level[i] == (float)((got->quantised[i] - zero) * step);
  return same;
}
