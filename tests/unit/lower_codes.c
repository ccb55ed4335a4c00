/* Lowered products of bytes, and the float arithmetic of quantised nets that becomes such, against the oracle. */
#include "tests/unit/support/dense_check.h"

#include <criterion/criterion.h>

/* What makes codes of sums. */
static Val requantized(Make *b, Val sum)
{
  Val x = MAKE(b, OP_cast, ATTR(.saturate = true), &MAKE_LIKE(b, sum, DT_F32), sum);

  x = MAKE(b, OP_mul, ATTR(0), NULL, x,
           make_weight(b, "w", MAKE_SHAPE(DT_F32, type_last(make_type(b, sum)))));
  return make_below(b, 2) ? MAKE(b, OP_relu, ATTR(0), NULL, x) : x;
}

static void op_code_linear(Make *b)
{
  int64_t k = 1 + make_below(b, 150), n = 1 + make_below(b, 100), m = 1 + make_below(b, 20);
  Type x = make_below(b, 2) ? MAKE_SHAPE(DT_U8, m, k) : MAKE_SHAPE(DT_U8, 2, m, k);
  Val sum = MAKE(b, OP_linear, ATTR(0), NULL, make_input(b, "code", x),
                 make_weight(b, "code", MAKE_SHAPE(DT_I8, n, k)));

  make_output(b, make_below(b, 2) ? make_after(b, sum) : requantized(b, sum));
}

static void op_code_conv(Make *b)
{
  uint32_t d = 1 + (uint32_t)make_below(b, 3);
  Type x = {.dtype = DT_U8, .rank = d + 2}, w = {.dtype = DT_I8, .rank = d + 2};
  Window win = {.spatial = d, .group = 1};

  x.dim[0] = 1 + make_below(b, 2);
  for (uint32_t i = 0; i < d; i++) {
    win.kernel[i] = 1 + make_below(b, d < 3 ? 6 : 3);
    win.stride[i] = 1 + make_below(b, 2);
    win.dilation[i] = make_below(b, 4) ? 1 : 2;
    win.pad_lo[i] = make_below(b, 8) ? 0 : 1;
    x.dim[1 + i] = (win.kernel[i] - 1) * win.dilation[i] + 1 + make_below(b, d == 1 ? 50 : 12);
    w.dim[1 + i] = win.kernel[i];
  }
  x.dim[d + 1] = w.dim[d + 1] = 1 + make_below(b, 20);
  w.dim[0] = 1 + make_below(b, 70);
  Val in[3] = {make_input(b, "code", x), make_weight(b, "code", w),
               make_weight(b, "w", MAKE_SHAPE(DT_I32, w.dim[0]))};
  Val sum = make_node(b, OP_conv, ATTR(.window = win), NULL, 2 + make_below(b, 2), in);
  make_output(b, make_below(b, 2) ? make_after(b, sum) : requantized(b, sum));
}

typedef struct {
  DType t;
  int zero;
  double scale;
} Quantized;

static Quantized random_quantized(Make *b, double range)
{
  DType t = make_below(b, 2) ? DT_I8 : DT_U8;
  int lo = t == DT_I8 ? -128 : 0;

  return (Quantized){t, make_below(b, 3) ? lo + (int)make_below(b, 256) : lo, range / 255};
}

static Val quantize(Make *b, Val x, const Quantized *q)
{
  x = MAKE(b, OP_round, ATTR(0), NULL, MAKE(b, OP_div, ATTR(0), NULL, x, make_constant(b, DT_F32, q->scale)));
  if (q->zero)
    x = MAKE(b, OP_add, ATTR(0), NULL, x, make_constant(b, DT_F32, q->zero));
  return MAKE(b, OP_cast, ATTR(.saturate = true), &MAKE_LIKE(b, x, q->t), x);
}

static Val dequantize(Make *b, Val x, const Quantized *q)
{
  x = MAKE(b, OP_cast, ATTR(.saturate = true), &MAKE_LIKE(b, x, DT_F32), x);
  if (q->zero)
    x = MAKE(b, OP_sub, ATTR(0), NULL, x, make_constant(b, DT_F32, q->zero));
  return MAKE(b, OP_mul, ATTR(0), NULL, x, make_constant(b, DT_F32, q->scale));
}

/* Channels first, as models say it. */
static Val quantized_conv(Make *b, Val x)
{
  Type t = *make_type(b, x);
  int64_t outs = 1 + make_below(b, 40), kernel = 1 + make_below(b, 3);
  bool depthwise = !make_below(b, 4);
  Window win = {
      .spatial = 2, .group = depthwise ? t.dim[1] : 1, .kernel = {kernel, kernel}, .dilation = {1, 1}};

  outs = depthwise ? t.dim[1] : outs;
  win.stride[0] = win.stride[1] = 1 + make_below(b, 2);
  win.pad_lo[0] = win.pad_lo[1] = win.pad_hi[0] = win.pad_hi[1] = kernel / 2;
  Val w = make_weight(b, "code", MAKE_SHAPE(DT_I8, outs, kernel, kernel, depthwise ? 1 : t.dim[1]));
  w = MAKE(b, OP_cast, ATTR(.saturate = true), &MAKE_LIKE(b, w, DT_F32), w);
  w = MAKE(b, OP_mul, ATTR(0), NULL, w, make_constant(b, DT_F32, 1.0 / 128 / (double)t.dim[1]));
  x = MAKE(b, OP_transpose, ATTR(.perm = {0, 2, 3, 1}), NULL, x);
  x = MAKE(b, OP_conv, ATTR(.window = win), NULL, x, w, make_weight(b, "w", MAKE_SHAPE(DT_F32, outs)));
  return MAKE(b, OP_transpose, ATTR(.perm = {0, 3, 1, 2}), NULL, x);
}

static Val quantized_pool(Make *b, Op op, Val x)
{
  Window win = {
      .spatial = 2, .group = 1, .kernel = {2, 2}, .stride = {1, 1}, .dilation = {1, 1}, .pad_hi = {1, 1}};

  x = MAKE(b, OP_transpose, ATTR(.perm = {0, 2, 3, 1}), NULL, x);
  x = MAKE(b, op, ATTR(.window = win), NULL, x);
  return MAKE(b, OP_transpose, ATTR(.perm = {0, 3, 1, 2}), NULL, x);
}

/* Layers between quantisations. Each ends in an output, from which the next begins anew: one step is the most that
 * rounding may move. */
static void op_quantized(Make *b)
{
  Val x = make_input(
      b, "x", MAKE_SHAPE(DT_F32, 1, 1 + make_below(b, 20), 3 + make_below(b, 12), 3 + make_below(b, 12)));
  Quantized q = random_quantized(b, 8), next;

  x = quantize(b, x, &q);
  make_output(b, x);
  x = dequantize(b, x, &q);
  next = make_below(b, 2) ? q : random_quantized(b, 6);
  switch (make_below(b, 6)) {
  case 0:
  case 1: x = quantized_conv(b, x); break;
  case 2: x = quantized_pool(b, OP_pool_max, x); break;
  case 3: x = quantized_pool(b, OP_pool_sum, x); break;
  case 4: x = MAKE(b, OP_add, ATTR(0), NULL, x, x); break;
  default: x = MAKE(b, OP_concat, ATTR(.axis = 1), NULL, x, x);
  }
  if (make_below(b, 2))
    x = MAKE(b, OP_relu, ATTR(0), NULL, x);
  make_output(b, quantize(b, x, &next));
}

static void check_codes(const char *cpu, ExecWay way, uint32_t seeds)
{
  static const DenseOps codes[] = {{op_code_linear, OP_linear, TAKES_OWN, 0},
                                   {op_code_conv, OP_conv, TAKES_OWN, 0},
                                   {op_quantized, OP_round, TAKES_OWN, 0}};

  for (size_t i = 0; i < COUNT(codes); i++)
    dense_check_type(&codes[i], DT_U8, seeds, cpu, way);
}

Test(lower_codes, interpreted)
{
  static const char *const cpus[] = {"x86-64-v2", "x86-64-v3", "x86-64-v4", "x86-64-v4+vnni"};

  for (size_t i = 0; i < COUNT(cpus); i++)
    check_codes(cpus[i], EXEC_EVAL, 60);
}

#if MICC_HAVE_TCC
Test(lower_codes, in_c)
{
  check_codes("c", EXEC_TCC, 60);
}
#endif

#if MICC_HAVE_LLVM
Test(lower_codes, in_llvm)
{
  check_codes("native", EXEC_LLVM, 40);
  check_codes("x86-64-v3", EXEC_LLVM, 20);
}
#endif
