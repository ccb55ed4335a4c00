/* op_ms_quant.c - operators of the domain com.microsoft on integers that stand for real numbers.
 *
 * Elementwise ones and softmax restore, compute in f32 and quantise again: that is what ONNX Runtime's tables and
 * kernels do, to the last step of the result. Products and sums are exact (op_quant.c).
 *
 * Source: ONNX Runtime, docs/ContribOperators.md, all since version 1. */
#include "frontend/onnx/onnx_ops.h"
#include "frontend/onnx/op_product.h"
#include "frontend/onnx/op_quant.h"
#include "frontend/onnx/op_window.h"

/* Input i with the parameters that stand behind it. */
static Val decoded(Import *im, const OnnxNode *n, uint32_t i)
{
  Val x = im_in(im, n, i);
  return quant_decode(im, x, quant_in(im, n, i + 1, x));
}

/* The result's type is that of its zero point, or of input 0. */
static bool give_encoded(Import *im, const OnnxNode *n, Val y, uint32_t scale)
{
  return im_out(im, n, 0, quant_encode(im, y, quant_in(im, n, scale, im_in(im, n, 0))));
}

/* ---- elementwise */

bool op_qlinear_binary(Import *im, const OnnxNode *n)
{
  Op op = im_is(n, "QLinearAdd") ? OP_add : OP_mul;
  return give_encoded(im, n, im_add2(im, op, decoded(im, n, 0), decoded(im, n, 3)), 6);
}

bool op_qlinear_unary(Import *im, const OnnxNode *n)
{
  Val x = decoded(im, n, 0), y;

  if (im_is(n, "QLinearSigmoid"))
    y = im_add1(im, OP_sigmoid, x);
  else
    y = im_where(im, im_add2(im, OP_lt, x, im_const_like(im, x, 0)),
                 im_op_f(im, OP_mul, x, im_float(im, n, "alpha", 0.01)), x);
  return give_encoded(im, n, y, 3);
}

bool op_qlinear_where(Import *im, const OnnxNode *n)
{
  Val y = im_where(im, im_cast(im, im_in(im, n, 0), DT_BOOL), decoded(im, n, 1), decoded(im, n, 4));
  return give_encoded(im, n, y, 7);
}

/* ---- along axes */

/* Before opset 13 of ONNX, Softmax took all dimensions from the axis on together. */
bool op_qlinear_softmax(Import *im, const OnnxNode *n)
{
  Val x = decoded(im, n, 0);
  Type t = im_type(im, x);
  uint32_t axis = im_axis_attr(im, n, "axis", -1, t.rank);

  if (im_int(im, n, "opset", 13) >= 13)
    return give_encoded(im, n, im_softmax(im, x, axis), 3);
  Val y = im_softmax(im, im_flat_at(im, x, axis), 1);
  return give_encoded(im, n, im_reshape(im, y, t.rank, t.dim), 3);
}

/* The mean of the integers, whose sum is exact, is rounded once: restored numbers would add up to another side of a half
 * in another order. */
bool op_qlinear_pool(Import *im, const OnnxNode *n)
{
  bool last = im_int(im, n, "channels_last", 0);
  Val q = im_in(im, n, 0), y;
  Quant from = quant_in(im, n, 1, q), to = quant_in(im, n, 3, q);
  Val x = im_cast(im, quant_shift(im, last ? im_channels_first(im, q) : q, from.zero), DT_F32);

  if (im_is(n, "QLinearAveragePool"))
    y = window_average(im, n, x);
  else
    y = im_mean(im, x, ((1u << im_rank(im, x)) - 1) & ~3u, true);
  y = quant_rescale(im, y, from.scale, to);
  return im_out(im, n, 0, last ? im_channels_last(im, y) : y);
}

/* Inputs: the result's parameters, then each tensor with its own. A tensor that has the result's stays as it is. */
bool op_qlinear_concat(Import *im, const OnnxNode *n)
{
  uint32_t count = im_in_count(n) / 3;
  Val *in = NEW_ARRAY(im->arena, Val, count + 1);
  Quant y = quant_in(im, n, 0, im_in(im, n, 2));

  if (im_in_count(n) != 2 + 3 * count || count == 0)
    return im_fail(im, n, "%u inputs, must be 2 and 3 for each tensor", im_in_count(n));
  for (uint32_t i = 0; i < count; i++) {
    in[i] = im_in(im, n, 2 + 3 * i);
    Quant p = quant_in(im, n, 3 + 3 * i, in[i]);
    if (p.scale != y.scale || p.zero != y.zero)
      in[i] = quant_encode(im, quant_decode(im, in[i], p), y);
  }
  return im_out(im, n, 0, im_concat(im, in, count, im_axis_attr(im, n, "axis", 0, im_rank(im, in[0]))));
}

/* ---- products */

/* sum * unit + bias, as floats */
static bool give_real(Import *im, const OnnxNode *n, Val sum, Val unit, uint32_t bias)
{
  Val y = im_add2(im, OP_mul, im_cast(im, sum, DT_F32), unit), b = im_opt(im, n, bias);
  return im_out(im, n, 0, b ? im_add2(im, OP_add, y, im_cast(im, b, DT_F32)) : y);
}

static Val product(Import *im, Val a, Val a_zero, Val b, Val b_zero)
{
  return product_matmul(im, quant_shift(im, a, a_zero), quant_shift(im, b, b_zero));
}

bool op_mat_mul_integer_to_float(Import *im, const OnnxNode *n)
{
  Val unit = im_add2(im, OP_mul, quant_param(im, n, 2), quant_param(im, n, 3));
  Val sum = product(im, im_in(im, n, 0), quant_zero(im, n, 4), im_in(im, n, 1), quant_zero(im, n, 5));
  return give_real(im, n, sum, unit, 6);
}

bool op_dynamic_quantize_mat_mul(Import *im, const OnnxNode *n)
{
  Val b = im_in(im, n, 1);
  Quant p, q = quant_in(im, n, 2, b);
  Val a = quant_dynamic(im, im_in(im, n, 0), &p);

  return give_real(im, n, product(im, a, p.zero, b, q.zero), im_add2(im, OP_mul, p.scale, q.scale), 4);
}

static Val turned(Import *im, const OnnxNode *n, Val v, const char *trans)
{
  if (im_rank(im, v) != 2)
    return v ? (im_fail(im, n, "the inputs are no matrices"), 0) : 0;
  return im_int(im, n, trans, 0) ? im_swap(im, v, 0, 1) : v;
}

/* Inputs: a, its parameters, b, its parameters (one for each column, perhaps), C (i32), the result's parameters. */
bool op_qgemm(Import *im, const OnnxNode *n)
{
  Val a = im_in(im, n, 0), b = im_in(im, n, 3), c = im_opt(im, n, 6);
  Quant pa = quant_in(im, n, 1, a), pb = quant_in(im, n, 4, b);
  Val unit = im_op_f(im, OP_mul, im_add2(im, OP_mul, pa.scale, pb.scale), im_float(im, n, "alpha", 1));

  a = turned(im, n, quant_shift(im, a, pa.zero), "transA");
  b = turned(im, n, quant_shift(im, b, pb.zero), "transB");
  Val sum = product_matmul(im, a, b);
  if (c)
    sum = im_add2(im, OP_add, sum, c);
  if (!im_has(im, n, 7))
    return im_out(im, n, 0, im_add2(im, OP_mul, im_cast(im, sum, DT_F32), unit));
  return im_out(im, n, 0, quant_rescale(im, sum, unit, quant_in(im, n, 7, im_in(im, n, 0))));
}

/* ---- MatMulNBits: weights of 2, 4 or 8 bits in blocks along K, packed from the low bits on
 *
 * Weights must be constant, and become a constant matrix [N, K] in the type of the scales: dense graphs have no blocks
 * with scales. The import ends with a note that says so. */

typedef struct {
  int64_t n, k, block, bits, blocks; /* blocks: in a row */
  Tensor codes, scales, zeros, group;
  bool has_zeros, has_group;
} NBits;

static bool tensor_of(Import *im, const OnnxNode *n, uint32_t i, const char *what, Tensor *t, bool *has)
{
  *has = im_has(im, n, i);
  return !*has || im_need_constant(im, n, im_in(im, n, i), what, t);
}

static bool holds(const Tensor *t, int64_t count)
{
  return type_count(&t->type) == count;
}

static bool check_nbits(Import *im, const OnnxNode *n, const NBits *w)
{
  int64_t packed = (w->blocks * w->bits + 7) / 8;
  bool u8 = w->codes.type.dtype == DT_U8, zero_u8 = w->has_zeros && w->zeros.type.dtype == DT_U8;

  if (!u8 || !holds(&w->codes, w->n * w->blocks * (w->block * w->bits / 8)))
    return im_fail(im, n, "the weights must be %lld rows of %lld blocks, as bytes", (long long)w->n,
                   (long long)w->blocks);
  if (!im_is_float(w->scales.type.dtype) || !holds(&w->scales, w->n * w->blocks))
    return im_fail(im, n, "there must be %lld scales", (long long)(w->n * w->blocks));
  if (w->has_zeros && !holds(&w->zeros, w->n * (zero_u8 ? packed : w->blocks)))
    return im_fail(im, n, "the zero points have another size");
  for (int64_t i = 0; w->has_group && i < w->k; i++)
    if (type_count(&w->group.type) < w->k || tensor_get(&w->group, i) < 0 ||
        tensor_get(&w->group, i) >= (long double)w->blocks)
      return im_fail(im, n, "g_idx must hold %lld numbers of blocks", (long long)w->k);
  return true;
}

static bool read_nbits(Import *im, const OnnxNode *n, NBits *w)
{
  bool has;

  w->n = im_int(im, n, "N", 0);
  w->k = im_int(im, n, "K", 0);
  w->bits = im_int(im, n, "bits", 4);
  w->block = im_int(im, n, "block_size", 0);
  if (w->n < 1 || w->k < 1 || w->n > INT32_MAX || w->k > INT32_MAX || w->block < 8 || w->block > 1 << 20 ||
      (w->block & (w->block - 1)) || (w->bits != 2 && w->bits != 4 && w->bits != 8))
    return im_fail(im, n, "N %lld, K %lld, bits %lld, block_size %lld", (long long)w->n, (long long)w->k,
                   (long long)w->bits, (long long)w->block);
  if (im_int(im, n, "weight_prepacked", 0))
    return im_fail(im, n, "weights that are packed for one machine");
  w->blocks = (w->k + w->block - 1) / w->block;
  return tensor_of(im, n, 1, "B", &w->codes, &has) && tensor_of(im, n, 2, "scales", &w->scales, &has) &&
         tensor_of(im, n, 3, "zero_points", &w->zeros, &w->has_zeros) &&
         tensor_of(im, n, 4, "g_idx", &w->group, &w->has_group) && check_nbits(im, n, w);
}

static int code_at(const uint8_t *row, int64_t i, int64_t bits)
{
  int64_t at = i * bits;
  return row[at / 8] >> at % 8 & ((1 << bits) - 1);
}

static long double zero_of(const NBits *w, int64_t row, int64_t block)
{
  if (!w->has_zeros)
    return (long double)(1 << (w->bits - 1));
  if (w->zeros.type.dtype != DT_U8)
    return tensor_get(&w->zeros, row * w->blocks + block);
  const uint8_t *bytes = w->zeros.data;
  return code_at(bytes + row * ((w->blocks * w->bits + 7) / 8), block, w->bits);
}

static Val restored(Import *im, const NBits *w)
{
  Tensor t = im_tensor_new(im, type_of(w->scales.type.dtype, 2, (int64_t[]){w->n, w->k}));
  int64_t row_bytes = w->blocks * w->block * w->bits / 8;

  im->restored.nodes++;
  im->restored.packed += tensor_bytes(&w->codes.type) + tensor_bytes(&w->scales.type);
  im->restored.stored += tensor_bytes(&t.type);
  for (int64_t r = 0; t.data && r < w->n; r++)
    for (int64_t k = 0; k < w->k; k++) {
      int64_t b = w->has_group ? (int64_t)tensor_get(&w->group, k) : k / w->block;
      int code = code_at((const uint8_t *)w->codes.data + r * row_bytes, k, w->bits);
      tensor_set(&t, r * w->k + k, (code - zero_of(w, r, b)) * tensor_get(&w->scales, r * w->blocks + b));
    }
  return t.data ? im_const_tensor(im, &t) : 0;
}

bool op_mat_mul_n_bits(Import *im, const OnnxNode *n)
{
  Val a = im_in(im, n, 0), x = im_float_compute(im, a), bias = im_opt(im, n, 5);
  NBits w = {0};

  if (!im_ok(im) || !read_nbits(im, n, &w))
    return false;
  Val y = product_rows(im, x, restored(im, &w));
  if (bias)
    y = im_add2(im, OP_add, y, im_cast_like(im, bias, y));
  return im_out(im, n, 0, im_cast_like(im, y, a));
}
