/* op_ms_attention.c - attention of the domain com.microsoft: the projection in the operator (Attention, QAttention), or
 * before it (MultiHeadAttention, GroupQueryAttention); RotaryEmbedding.
 *
 * All of them are softmax(scale q k' + mask) v over heads [batch, heads, sequence, size]. A mask is what is added to
 * the scores. Not supported: buffers that past and present share, whose place is known at run time alone.
 *
 * Source: ONNX Runtime, docs/ContribOperators.md, all since version 1. */
#include "frontend/onnx/onnx_ops.h"
#include "frontend/onnx/op_formula.h"
#include "frontend/onnx/op_product.h"
#include "frontend/onnx/op_quant.h"

#include <float.h>
#include <math.h>

static Val add_given(Import *im, Val a, Val b) /* either may be 0: absent */
{
  return a && b ? add(im, a, b) : a ? a : b;
}
/* ---- scores */

typedef struct {
  Val q, k, v; /* [batch, heads, sequence, size]; k and v may have fewer heads, each for a group of q's */
  Val mask;    /* 0: none */
  double scale, softcap;
  bool causal;
  int64_t window; /* causal: a query sees so many keys, up to its own; -1: all before it */
} Attend;

/* 0 where query i may look at key j, else the lowest number: [s, t], the last query at the last key. */
static Val causal_table(Import *im, DType dt, int64_t s, int64_t t, int64_t window)
{
  Tensor x = im_tensor_new(im, type_of(dt, 2, (int64_t[]){s, t}));

  for (int64_t i = 0; x.data && i < s; i++)
    for (int64_t j = 0; j < t; j++) {
      int64_t back = i + t - s - j;
      tensor_set(&x, i * t + j, back < 0 || (window >= 0 && back >= window) ? -(long double)FLT_MAX : 0);
    }
  return x.data ? im_const_tensor(im, &x) : 0;
}

static Val masked(Import *im, const Attend *a, Val scores)
{
  int64_t s = im_dim(im, scores, -2), t = im_dim(im, scores, -1);

  if (a->softcap > 0) {
    scores = im_add1(im, OP_tanh, im_op_f(im, OP_mul, scores, 1 / a->softcap));
    scores = im_op_f(im, OP_mul, scores, a->softcap);
  }
  if (a->causal)
    scores = add_given(im, scores, causal_table(im, im_elem(im, scores), s, t, a->window));
  return a->mask ? add_given(im, scores, im_cast_like(im, a->mask, scores)) : scores;
}

/* [batch, sequence, heads * size of v] */
static Val attend(Import *im, const OnnxNode *n, const Attend *a)
{
  int64_t batch = im_dim(im, a->q, 0), heads = im_dim(im, a->q, 1), s = im_dim(im, a->q, 2);
  int64_t groups = im_dim(im, a->k, 1), size = im_dim(im, a->q, 3), width = im_dim(im, a->v, 3);
  double scale = a->scale != 0 ? a->scale : 1 / sqrt((double)max64(1, size));

  if (!im_ok(im) || groups < 1 || heads % groups || im_dim(im, a->v, 1) != groups) {
    im_fail(im, n, "%lld heads of queries, %lld of keys", (long long)heads, (long long)groups);
    return 0;
  }
  int64_t rows = heads / groups * s,
          t = im_dim(im, a->k, 2); /* heads that share keys are rows of one product */
  Val q = im_reshape_to(im, a->q, batch, groups, rows, size);
  Val scores = im_op_f(im, OP_mul, im_matmul(im, q, im_swap(im, a->k, 2, 3)), scale);
  scores = im_softmax(im, masked(im, a, im_reshape_to(im, scores, batch, heads, s, t)), 3);
  Val y = im_matmul(im, im_reshape_to(im, scores, batch, groups, rows, t), a->v);
  y = im_reshape_to(im, y, batch, heads, s, width);
  return im_reshape_to(im, im_swap(im, y, 1, 2), batch, s, heads * width);
}

/* [batch, sequence, heads * size] -> [batch, heads, sequence, size] */
static Val split_heads(Import *im, const OnnxNode *n, Val x, int64_t heads)
{
  if (!im_ok(im) || im_rank(im, x) != 3 || heads < 1 || im_dim(im, x, 2) % heads) {
    im_fail(im, n, "%lld dimensions do not divide into %lld heads", (long long)im_dim(im, x, -1),
            (long long)heads);
    return 0;
  }
  x = im_reshape_to(im, x, im_dim(im, x, 0), im_dim(im, x, 1), heads, im_dim(im, x, 2) / heads);
  return im_swap(im, x, 1, 2);
}

/* ---- masks: of integers, for keys [t] of each batch */

/* lengths [batch], or ends and then starts [2 * batch] */
static Val mask_of_lengths(Import *im, Val m, int64_t batch, int64_t t)
{
  Val place = im_iota(im, DT_I32, t);
  Val seen = im_add2(im, OP_lt, place, im_unsqueeze(im, im_part(im, m, 0, 0, batch), 1));

  if (im_dim(im, m, 0) == 2 * batch) {
    Val start = im_unsqueeze(im, im_part(im, m, 0, batch, batch), 1);
    seen = im_add2(im, OP_and, seen, im_ge(im, place, start));
  }
  return im_unsqueeze_mask(im, seen, 6);
}

/* Input i as what is added to scores [batch, heads, s, t]; 0 if it is absent. */
static Val mask_in(Import *im, const OnnxNode *n, uint32_t i, const Attend *a)
{
  Val m = im_opt(im, n, i), seen;
  int64_t batch = im_dim(im, a->q, 0), t = im_dim(im, a->k, 2);

  if (!m || !im_ok(im))
    return 0;
  m = im_cast(im, m, DT_I32);
  uint32_t rank = im_rank(im, m);
  Val some = im_gt(im, m, im_const_i(im, DT_I32, 0));
  if (rank == 1 && (im_dim(im, m, 0) == batch || im_dim(im, m, 0) == 2 * batch)) {
    seen = mask_of_lengths(im, m, batch, t);
  } else if (rank >= 2 && rank <= 4 && im_dim(im, m, -1) == t) {
    seen = rank == 4 ? some : im_unsqueeze_mask(im, some, rank == 3 ? 2 : 6);
  } else {
    im_fail(im, n, "input %u is no mask for %lld keys", i, (long long)t);
    return 0;
  }
  Val far = im_const(im, im_elem(im, a->q), im_float(im, n, "mask_filter_value", -10000));
  return im_where(im, seen, im_const_like(im, a->q, 0), far);
}

/* ---- Attention: one matrix for q, k and v */

/* past [2, batch, heads, sequence, size] stands before the new keys and values. */
static bool join_past(Import *im, const OnnxNode *n, uint32_t i, Attend *a)
{
  Val past = im_opt(im, n, i);

  if (past && im_rank(im, past) != 5)
    return im_fail(im, n, "the past must have 5 dimensions");
  if (past) {
    past = im_cast_like(im, past, a->k);
    a->k = im_concat(im, (Val[]){im_squeeze(im, im_part(im, past, 0, 0, 1), 0), a->k}, 2, 2);
    a->v = im_concat(im, (Val[]){im_squeeze(im, im_part(im, past, 0, 1, 1), 0), a->v}, 2, 2);
  }
  return im_ok(im);
}

static bool refuse(Import *im, const OnnxNode *n, const char *const *names, uint32_t count)
{
  for (uint32_t i = 0; i < count; i++)
    if (im_int(im, n, names[i], 0))
      return im_fail(im, n, "%s is not supported", names[i]);
  return true;
}

/* Widths of q, k and v in a row of `all` numbers. */
static bool read_sizes(Import *im, const OnnxNode *n, int64_t all, int64_t *size)
{
  Ints given = im_ints(im, n, "qkv_hidden_sizes");

  for (uint32_t i = 0; i < 3; i++)
    size[i] = given.len == 3 ? given.data[i] : all / 3;
  if (size[0] < 1 || size[1] != size[0] || size[2] < 1 || size[0] > all || size[2] > all ||
      2 * size[0] + size[2] != all)
    return im_fail(im, n, "%lld columns do not divide into queries, keys and values", (long long)all);
  return true;
}

/* qkv [batch, sequence, widths of q, k, v]. Inputs: mask, past, what is added to the scores (0: none). */
static bool give_attention(Import *im, const OnnxNode *n, Val qkv, uint32_t mask, uint32_t past,
                           uint32_t bias)
{
  static const char *const no[] = {"do_rotary", "past_present_share_buffer"};
  int64_t size[3], heads = im_int(im, n, "num_heads", 0);
  Attend a = {
      .scale = im_float(im, n, "scale", 0), .causal = im_int(im, n, "unidirectional", 0), .window = -1};

  if (!im_ok(im) || !refuse(im, n, no, COUNT(no)) || !read_sizes(im, n, im_dim(im, qkv, 2), size))
    return im_fail(im, n, "no product of rank 3");
  a.q = split_heads(im, n, im_part(im, qkv, 2, 0, size[0]), heads);
  a.k = split_heads(im, n, im_part(im, qkv, 2, size[0], size[1]), heads);
  a.v = split_heads(im, n, im_part(im, qkv, 2, size[0] + size[1], size[2]), heads);
  if (!join_past(im, n, past, &a))
    return false;
  a.mask = mask_in(im, n, mask, &a);
  if (bias && im_has(im, n, bias))
    a.mask = add_given(im, a.mask, im_cast_like(im, im_in(im, n, bias), a.q));
  Val y = attend(im, n, &a), like = im_opt(im, n, 2) ? im_opt(im, n, 2) : im_in(im, n, 0);
  if (im_wants(im, n, 1) && !im_out(im, n, 1, im_cast_like(im, im_stack(im, (Val[]){a.k, a.v}, 2, 0), like)))
    return false;
  return im_out(im, n, 0, im_cast_like(im, y, like));
}

bool op_ms_attention(Import *im, const OnnxNode *n)
{
  Val x = im_float_compute(im, im_in(im, n, 0)), w = im_in(im, n, 1), b = im_opt(im, n, 2);

  if (!im_ok(im) || im_rank(im, x) != 3 || im_rank(im, w) != 2)
    return im_fail(im, n, "the input must have 3 dimensions, the weights 2");
  Val qkv = im_matmul(im, x, im_cast_like(im, w, x));
  return give_attention(im, n, b ? add_given(im, qkv, im_cast_like(im, b, x)) : qkv, 3, 4, 5);
}

/* Inputs: x, weights, bias, their scales, mask, their zero points, past. */
bool op_qattention(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), w = im_in(im, n, 1), bias = im_in(im, n, 2);
  Val unit = im_add2(im, OP_mul, quant_param(im, n, 3), quant_param(im, n, 4));

  if (!im_ok(im) || im_rank(im, x) != 3 || im_rank(im, w) != 2)
    return im_fail(im, n, "the input must have 3 dimensions, the weights 2");
  Val sum = im_matmul(im, quant_shift(im, x, quant_zero(im, n, 6)), quant_shift(im, w, quant_zero(im, n, 7)));
  Val qkv = mul(im, im_cast(im, sum, DT_F32), im_cast(im, unit, DT_F32));
  return give_attention(im, n, add_given(im, qkv, im_cast(im, bias, DT_F32)), 5, 8, 0);
}

/* ---- MultiHeadAttention */

/* Input i [batch, sequence, heads * size] plus its part of the bias; [batch, heads, sequence, size] as it is. */
static Val heads_in(Import *im, const OnnxNode *n, uint32_t i, int64_t heads, int64_t bias_at)
{
  Val x = im_float_compute(im, im_in(im, n, i)), bias = im_opt(im, n, 3);

  if (im_rank(im, x) == 4)
    return x;
  if (bias)
    x = add_given(im, x, im_cast_like(im, im_part(im, bias, 0, bias_at, im_dim(im, x, 2)), x));
  return split_heads(im, n, x, heads);
}

/* Number `at` of `count` that are packed in x [batch, sequence, heads, count, size]. */
static Val unpacked(Import *im, const OnnxNode *n, Val x, int64_t at, int64_t count)
{
  x = im_float_compute(im, x);
  if (!im_ok(im) || im_rank(im, x) != 5 || im_dim(im, x, 3) != count || im_has(im, n, 3)) {
    im_fail(im, n, "packed inputs must have 5 dimensions, and no bias");
    return 0;
  }
  return im_swap(im, im_squeeze(im, im_part(im, x, 3, at, 1), 3), 1, 2);
}

static bool read_heads(Import *im, const OnnxNode *n, Attend *a)
{
  int64_t heads = im_int(im, n, "num_heads", 0);
  Val q = im_in(im, n, 0), k = im_opt(im, n, 1);

  if (!im_ok(im))
    return false;
  if (!k) {
    a->q = unpacked(im, n, q, 0, 3);
    a->k = unpacked(im, n, q, 1, 3);
    a->v = unpacked(im, n, q, 2, 3);
  } else if (im_rank(im, k) == 5) {
    a->q = heads_in(im, n, 0, heads, 0);
    a->k = unpacked(im, n, k, 0, 2);
    a->v = unpacked(im, n, k, 1, 2);
  } else {
    int64_t width = im_dim(im, q, 2);
    a->q = heads_in(im, n, 0, heads, 0);
    a->k = heads_in(im, n, 1, heads, width);
    a->v = heads_in(im, n, 2, heads, 2 * width);
  }
  return im_ok(im);
}

/* Inputs: q, k, v, bias, mask of keys, what is added to the scores, past keys and values. */
bool op_multi_head_attention(Import *im, const OnnxNode *n)
{
  Attend a = {
      .scale = im_float(im, n, "scale", 0), .causal = im_int(im, n, "unidirectional", 0), .window = -1};
  Val like = im_in(im, n, 0);

  if (im_has(im, n, 8) || im_has(im, n, 9))
    return im_fail(im, n, "a past of variable length is not supported");
  if (!read_heads(im, n, &a))
    return false;
  if (im_has(im, n, 6) && im_has(im, n, 7)) {
    a.k = im_concat(im, (Val[]){im_cast_like(im, im_in(im, n, 6), a.k), a.k}, 2, 2);
    a.v = im_concat(im, (Val[]){im_cast_like(im, im_in(im, n, 7), a.v), a.v}, 2, 2);
  }
  a.mask = mask_in(im, n, 4, &a);
  if (im_has(im, n, 5))
    a.mask = add_given(im, a.mask, im_cast_like(im, im_in(im, n, 5), a.q));
  Val y = attend(im, n, &a);
  return im_out(im, n, 0, im_cast_like(im, y, like)) && im_out(im, n, 1, im_cast_like(im, a.k, like)) &&
         im_out(im, n, 2, im_cast_like(im, a.v, like));
}

/* ---- rotation of heads [batch, heads, sequence, size] */

/* Rows of the table of cosines or sines, [1 or batch, 1, sequence, pairs]. position: [1], the first, or
 * [batch, sequence]. */
static Val angles(Import *im, const OnnxNode *n, Val x, uint32_t table, Val position)
{
  Val t = im_in(im, n, table);
  int64_t s = im_dim(im, x, 2);

  if (!im_ok(im) || im_rank(im, t) != 2 || im_rank(im, position) > 2)
    return 0;
  if (im_rank(im, position) < 2)
    position =
        im_unsqueeze(im, add_given(im, im_iota(im, im_elem(im, position), s), im_flat(im, position)), 0);
  return im_unsqueeze(im, im_cast_like(im, im_gather(im, t, position, 0), x), 1);
}

static Val rotated(Import *im, const OnnxNode *n, Val x, Val cosines, Val sines, bool interleaved)
{
  int64_t pairs = im_dim(im, cosines, -1), size = im_dim(im, x, 3);
  Type t = im_type(im, x);

  if (!im_ok(im) || t.rank != 4 || 2 * pairs > size || pairs < 1) {
    im_fail(im, n, "cannot rotate %lld pairs of %lld numbers", (long long)pairs, (long long)size);
    return 0;
  }
  Val part = im_part(im, x, 3, 0, 2 * pairs), re, how[2];
  if (interleaved)
    part = im_reshape_to(im, part, t.dim[0], t.dim[1], t.dim[2], pairs, 2);
  else
    part = im_swap(im, im_reshape_to(im, part, t.dim[0], t.dim[1], t.dim[2], 2, pairs), 3, 4);
  re = im_squeeze(im, im_part(im, part, 4, 0, 1), 4);
  Val image = im_squeeze(im, im_part(im, part, 4, 1, 1), 4);
  how[0] = im_add2(im, OP_sub, mul(im, re, cosines), mul(im, image, sines));
  how[1] = im_add2(im, OP_add, mul(im, image, cosines), mul(im, re, sines));
  Val y = im_stack(im, how, 2, interleaved ? 4 : 3);
  y = im_reshape_to(im, y, t.dim[0], t.dim[1], t.dim[2], 2 * pairs);
  return 2 * pairs == size ? y
                           : im_concat(im, (Val[]){y, im_part(im, x, 3, 2 * pairs, size - 2 * pairs)}, 2, 3);
}

/* Inputs: x [batch, sequence, width] or [batch, heads, sequence, size], positions, cosines, sines. */
bool op_ms_rotary_embedding(Import *im, const OnnxNode *n)
{
  static const char *const no[] = {"is_packed_batching"};
  Val first = im_in(im, n, 0), x = im_float_compute(im, first), position = im_in(im, n, 1),
      table = im_in(im, n, 2);
  Type t = im_type(im, x);
  int64_t heads = im_int(im, n, "num_heads", 0);

  if (!im_ok(im) || !refuse(im, n, no, COUNT(no)))
    return false;
  if (!heads && t.rank == 3)
    heads = im_dim(im, x, 2) / max64(1, 2 * im_dim(im, table, 1));
  if (t.rank == 3)
    x = split_heads(im, n, x, heads);
  if (!im_ok(im) || im_rank(im, x) != 4)
    return im_fail(im, n, "the input must have 3 or 4 dimensions");
  Val cosines = angles(im, n, x, 2, position), sines = angles(im, n, x, 3, position);
  x = rotated(im, n, x, cosines, sines, im_int(im, n, "interleaved", 0));
  if (t.rank == 3)
    x = im_reshape(im, im_swap(im, x, 1, 2), 3, t.dim);
  return im_out(im, n, 0, im_cast_like(im, x, first));
}

/* ---- GroupQueryAttention of a whole text: without a past */

static Val columns(Import *im, Val x, int64_t from, int64_t count)
{
  return im_rank(im, x) == 3 && from + count <= im_dim(im, x, 2) ? im_part(im, x, 2, from, count) : 0;
}

/* q, k and v may be packed in the first input. */
static bool read_groups(Import *im, const OnnxNode *n, Attend *a)
{
  int64_t heads = im_int(im, n, "num_heads", 0), groups = im_int(im, n, "kv_num_heads", 0);
  Val q = im_float_compute(im, im_in(im, n, 0)), k = im_opt(im, n, 1), v = im_opt(im, n, 2);

  if (!im_ok(im) || heads < 1 || groups < 1 || heads > 1 << 16 || groups > heads || !k != !v)
    return im_fail(im, n, "%lld heads, %lld for keys", (long long)heads, (long long)groups);
  if (!k) {
    int64_t size = im_dim(im, q, -1) / (heads + 2 * groups);
    v = columns(im, q, (heads + groups) * size, groups * size);
    k = columns(im, q, heads * size, groups * size);
    q = columns(im, q, 0, heads * size);
  }
  a->q = split_heads(im, n, q, heads);
  a->k = split_heads(im, n, im_float_compute(im, k), groups);
  a->v = split_heads(im, n, im_float_compute(im, v), groups);
  return im_ok(im);
}

static bool rotate_groups(Import *im, const OnnxNode *n, Attend *a)
{
  bool interleaved = im_int(im, n, "rotary_interleaved", 0);
  Val position = im_opt(im, n, 9);

  if (!im_int(im, n, "do_rotary", 0))
    return true;
  if (!position)
    position = im_const_i(im, DT_I64, 0);
  Val cosines = angles(im, n, a->q, 7, position), sines = angles(im, n, a->q, 8, position);
  a->q = rotated(im, n, a->q, cosines, sines, interleaved);
  a->k = rotated(im, n, a->k, cosines, sines, interleaved);
  return im_ok(im);
}

/* Inputs: q, k, v, past keys and values, length of each text less 1, the longest, cosines, sines, positions, what is
 * added to the scores. What stands behind a text's end is seen by nobody before it: the order of keys hides it. */
bool op_group_query_attention(Import *im, const OnnxNode *n)
{
  static const char *const no[] = {"kv_cache_bit_width", "sliding_window_cache", "qk_output"};
  Attend a = {.scale = im_float(im, n, "scale", 0), .softcap = im_float(im, n, "softcap", 0)};
  Val like = im_in(im, n, 0);

  a.causal = im_int(im, n, "causal", 1);
  a.window = im_int(im, n, "local_window_size", -1);
  for (uint32_t i = 11; i < im_in_count(n); i++)
    if (im_has(im, n, i))
      return im_fail(im, n, "input %u is not supported", i);
  if (!refuse(im, n, no, COUNT(no)) || im_int(im, n, "smooth_softmax", -1) > 0)
    return im_fail(im, n, "smooth_softmax is not supported");
  if ((im_has(im, n, 3) && im_dim(im, im_in(im, n, 3), 2)) || !a.causal)
    return im_fail(im, n, "a past whose length is known at run time alone is not supported");
  if (!read_groups(im, n, &a) || !rotate_groups(im, n, &a))
    return false;
  if (im_has(im, n, 10))
    a.mask = im_cast_like(im, im_in(im, n, 10), a.q);
  Val y = attend(im, n, &a);
  return im_out(im, n, 0, im_cast_like(im, y, like)) && im_out(im, n, 1, im_cast_like(im, a.k, like)) &&
         im_out(im, n, 2, im_cast_like(im, a.v, like));
}
