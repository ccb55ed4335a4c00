/* op_quant.c - ONNX operators that quantise, restore, and compute with 8-bit integers exactly.
 *
 * A quantised tensor is not a type of the graph: it is integers, and formulas around them. Products are those of i32
 * after the zero points are taken off; results are x / scale rounded to nearest even, plus the zero point, saturated.
 *
 * Source: ONNX QuantizeLinear-25, DequantizeLinear-25, DynamicQuantizeLinear-11, QLinearConv-10, QLinearMatMul-21,
 * MatMulInteger-10. */
#include "frontend/onnx/op_quant.h"
#include "frontend/onnx/onnx_ops.h"
#include "frontend/onnx/op_product.h"
#include "frontend/onnx/op_window.h"

/* ---- parameters */

static bool is_zero(Import *im, Val v)
{
  Tensor t;

  if (!im_constant(im, v, &t))
    return false;
  for (int64_t i = 0; i < type_count(&t.type); i++)
    if (tensor_get(&t, i) != 0)
      return false;
  return true;
}

Val quant_param(Import *im, const OnnxNode *n, uint32_t i)
{
  Val v = im_opt(im, n, i);
  Type t = im_type(im, v);

  return v && type_count(&t) == 1 ? im_reshape(im, v, 0, NULL) : v;
}

Val quant_zero(Import *im, const OnnxNode *n, uint32_t i)
{
  Val v = quant_param(im, n, i);

  return v && is_zero(im, v) ? 0 : v;
}

Quant quant_in(Import *im, const OnnxNode *n, uint32_t scale, Val like)
{
  Val zero = im_opt(im, n, scale + 1);

  im_in(im, n, scale);
  return (Quant){quant_param(im, n, scale), quant_zero(im, n, scale + 1), im_elem(im, zero ? zero : like)};
}

/* A parameter that is a list [n] belongs to dimension `axis` of `rank`: [1 .. n .. 1]. `size` is what n must be. */
static Val at_axis(Import *im, const OnnxNode *n, Val v, uint32_t axis, uint32_t rank, int64_t size)
{
  if (!v || im_rank(im, v) != 1)
    return v;
  if (im_dim(im, v, 0) != size)
    im_fail(im, n, "%lld scales or zero points, for %lld channels", (long long)im_dim(im, v, 0),
            (long long)size);
  return im_at_channel(im, v, axis, rank);
}

/* ---- there and back */

Val quant_shift(Import *im, Val q, Val zero)
{
  Val x = im_cast(im, q, DT_I32);
  return zero ? im_add2(im, OP_sub, x, im_cast(im, zero, DT_I32)) : x;
}

Val quant_decode(Import *im, Val q, Quant p)
{
  Val x = im_cast(im, q, DT_F32);

  if (p.zero)
    x = im_add2(im, OP_sub, x, im_cast(im, p.zero, DT_F32));
  return im_add2(im, OP_mul, x, im_cast(im, p.scale, DT_F32));
}

/* The cast saturates integers of 8 and 16 bits by itself; the narrower ones would wrap. */
Val quant_round(Import *im, Val x, Quant p)
{
  const DTypeInfo *d = &dtype_info[p.type];

  x = im_add1(im, OP_round, im_cast(im, x, DT_F32));
  if (p.zero)
    x = im_add2(im, OP_add, x, im_cast(im, p.zero, DT_F32));
  if (dtype_bits(p.type) < 8)
    x = im_clip(im, x, d->lo, d->hi);
  return im_cast(im, x, p.type);
}

Val quant_encode(Import *im, Val x, Quant p)
{
  return quant_round(im, im_add2(im, OP_div, x, im_cast_like(im, p.scale, x)), p);
}

Val quant_rescale(Import *im, Val sum, Val unit, Quant p)
{
  Val factor = im_cast(im, im_add2(im, OP_div, unit, p.scale), DT_F32);
  return quant_round(im, im_add2(im, OP_mul, im_cast(im, sum, DT_F32), factor), p);
}

/* ---- QuantizeLinear, DequantizeLinear: for all elements together, along an axis, or in blocks of an axis
 *
 * Blocks become an axis of their own: x [.., n, ..] is [.., n / block, block, ..], its parameters [.., n / block, 1, ..]. */

typedef struct {
  Type type; /* of x in the model */
  uint32_t axis;
  int64_t block; /* 0: no blocks */
  Val x;
  Quant p;
} Linear;

static Val blocked_param(Import *im, const OnnxNode *n, const Linear *l, Val v)
{
  Type t = im_type(im, v);

  if (!v)
    return 0;
  for (uint32_t i = 0; i < l->type.rank; i++) {
    int64_t want = i == l->axis ? (l->type.dim[i] + l->block - 1) / l->block : l->type.dim[i];
    if (t.rank != l->type.rank || t.dim[i] != want) {
      im_fail(im, n, "the scales of blocks of %lld must have %lld elements along dimension %u",
              (long long)l->block, (long long)want, i);
      return 0;
    }
  }
  return im_unsqueeze(im, v, l->axis + 1);
}

static void split_blocks(Import *im, const OnnxNode *n, Linear *l)
{
  Type t = l->type;
  int64_t last = l->block - t.dim[l->axis] % l->block;

  l->p.scale = blocked_param(im, n, l, im_in(im, n, 1));
  l->p.zero = l->p.zero ? blocked_param(im, n, l, im_opt(im, n, 2)) : 0;
  if (last != l->block)
    l->x = im_pad_axis(im, l->x, l->axis, 0, last, im_const_like(im, l->x, 0));
  if (!im_ok(im) || t.rank + 1 > MAX_RANK)
    return;
  for (uint32_t i = t.rank; i > l->axis + 1; i--)
    t.dim[i] = t.dim[i - 1];
  t.dim[l->axis] = (t.dim[l->axis] + l->block - 1) / l->block;
  t.dim[l->axis + 1] = l->block;
  l->x = im_reshape(im, l->x, t.rank + 1, t.dim);
}

static Val join_blocks(Import *im, const Linear *l, Val y)
{
  Type t = l->type;

  if (!l->block)
    return y;
  t.dim[l->axis] = (t.dim[l->axis] + l->block - 1) / l->block * l->block;
  return im_part(im, im_reshape(im, y, t.rank, t.dim), l->axis, 0, l->type.dim[l->axis]);
}

static bool read_linear(Import *im, const OnnxNode *n, Linear *l)
{
  *l = (Linear){.x = im_in(im, n, 0), .block = im_int(im, n, "block_size", 0)};
  l->p = quant_in(im, n, 1, l->x);
  l->type = im_type(im, l->x);
  uint32_t rank = l->type.rank;
  if (!im_ok(im) || l->block < 0 || l->block > INT32_MAX)
    return im_fail(im, n, "block_size is %lld", (long long)l->block);
  if (l->block || im_rank(im, l->p.scale) > 0)
    l->axis = im_axis_attr(im, n, "axis", 1, rank);
  if (!im_ok(im))
    return false;
  if (l->block) {
    split_blocks(im, n, l);
    return im_ok(im);
  }
  l->p.scale = at_axis(im, n, l->p.scale, l->axis, rank, l->type.dim[l->axis]);
  l->p.zero = at_axis(im, n, l->p.zero, l->axis, rank, l->type.dim[l->axis]);
  return im_ok(im);
}

/* `output_dtype` and `precision`: 0 is as if they were not given. */
static DType type_attr(Import *im, const OnnxNode *n, const char *name, DType otherwise)
{
  int64_t type = im_int(im, n, name, 0);
  return type ? im_dtype(im, type) : otherwise;
}

static bool is_quantized(DType t)
{
  return dtype_info[t].kind == DK_FLOAT8 ||
         (dtype_info[t].kind == DK_INT && t != DT_BOOL && dtype_bits(t) <= 16);
}

bool op_quantize_linear(Import *im, const OnnxNode *n)
{
  Linear l;
  Val y;

  if (!read_linear(im, n, &l))
    return false;
  DType to = im_has(im, n, 2) ? l.p.type : type_attr(im, n, "output_dtype", DT_U8);
  DType divide = type_attr(im, n, "precision", im_elem(im, l.p.scale));
  if (!im_ok(im) || !is_quantized(to) || !im_is_float(divide))
    return im_fail(im, n, "cannot quantise to %s with scales %s", dtype_info[to].name,
                   dtype_info[divide].name);
  Val x = im_cast(im, l.x, divide);
  if (dtype_info[to].kind == DK_FLOAT8)
    y = im_cast_to(im, im_add2(im, OP_div, x, im_cast(im, l.p.scale, divide)), to,
                   im_int(im, n, "saturate", 1));
  else
    y = quant_encode(im, x, (Quant){l.p.scale, l.p.zero, to});
  return im_out(im, n, 0, join_blocks(im, &l, y));
}

bool op_dequantize_linear(Import *im, const OnnxNode *n)
{
  Linear l;

  if (!read_linear(im, n, &l))
    return false;
  Val y = quant_decode(im, l.x, l.p);
  return im_out(
      im, n, 0,
      join_blocks(im, &l, im_cast(im, y, type_attr(im, n, "output_dtype", im_elem(im, l.p.scale)))));
}

Val quant_dynamic(Import *im, Val x, Quant *p)
{
  Val all = im_flat(im, x), zero = im_const_like(im, x, 0);
  Val lo = im_add2(im, OP_min, im_reduce(im, OP_reduce_min, all, 1, false), zero);
  Val hi = im_add2(im, OP_max, im_reduce(im, OP_reduce_max, all, 1, false), zero);
  Val scale = im_op_f(im, OP_div, im_add2(im, OP_sub, hi, lo), 255);

  scale = im_where(im, im_add2(im, OP_eq, hi, lo), im_const_like(im, x, 1), scale);
  Val shift = im_add1(im, OP_neg, im_add2(im, OP_div, lo, scale));
  *p = (Quant){scale, im_cast(im, im_add1(im, OP_round, shift), DT_U8), DT_U8};
  return quant_encode(im, x, *p);
}

bool op_dynamic_quantize_linear(Import *im, const OnnxNode *n)
{
  Quant p;
  Val y = quant_dynamic(im, im_in(im, n, 0), &p);
  return im_out(im, n, 0, y) && im_out(im, n, 1, p.scale) && im_out(im, n, 2, p.zero);
}

/* ---- products of integers */

/* A list [M] of parameters of a matrix's rows. */
static Val of_rows(Import *im, Val v)
{
  return v && im_rank(im, v) == 1 ? im_unsqueeze(im, v, 1) : v;
}

static Quant rows_in(Import *im, const OnnxNode *n, uint32_t scale, Val like)
{
  Quant p = quant_in(im, n, scale, like);
  return (Quant){of_rows(im, p.scale), of_rows(im, p.zero), p.type};
}

bool op_mat_mul_integer(Import *im, const OnnxNode *n)
{
  Val a = quant_shift(im, im_in(im, n, 0), of_rows(im, quant_zero(im, n, 2)));
  Val b = quant_shift(im, im_in(im, n, 1), quant_zero(im, n, 3));

  return im_out(im, n, 0, product_matmul(im, a, b));
}

bool op_qlinear_mat_mul(Import *im, const OnnxNode *n)
{
  Val a = im_in(im, n, 0), b = im_in(im, n, 3);
  Quant pa = rows_in(im, n, 1, a), pb = quant_in(im, n, 4, b), y = rows_in(im, n, 6, a);
  Val sum = product_matmul(im, quant_shift(im, a, pa.zero), quant_shift(im, b, pb.zero));

  return im_out(im, n, 0, quant_rescale(im, sum, im_add2(im, OP_mul, pa.scale, pb.scale), y));
}

/* Weights [O, ..] less their zero points, of which there may be one for each output channel. */
static Val shifted_weights(Import *im, const OnnxNode *n, Val w, uint32_t zero)
{
  Val z = at_axis(im, n, quant_zero(im, n, zero), 0, im_rank(im, w), im_dim(im, w, 0));
  return quant_shift(im, w, z);
}

bool op_qlinear_conv(Import *im, const OnnxNode *n)
{
  Val data = im_in(im, n, 0), w = im_in(im, n, 3);
  Quant x = quant_in(im, n, 1, data), y = quant_in(im, n, 6, data);
  bool last = im_int(im, n, "channels_last", 0); /* com.microsoft alone */

  Val scale = at_axis(im, n, quant_param(im, n, 4), 1, im_rank(im, w), im_dim(im, w, 0));
  Val sum = quant_shift(im, last ? im_channels_first(im, data) : data, x.zero);
  sum = window_conv_onnx(im, n, sum, shifted_weights(im, n, w, 5), im_opt(im, n, 8));
  Val r = quant_rescale(im, sum, im_add2(im, OP_mul, x.scale, scale), y);
  return im_out(im, n, 0, last ? im_channels_last(im, r) : r);
}
