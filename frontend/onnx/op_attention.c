/* op_attention.c - ONNX Attention and RotaryEmbedding.
 *
 * Heads that share keys and values (grouped queries) are rows of one product, so nothing is repeated. Masks become one
 * sum of 0 and -inf; what of it is known when compiling (causal, windows) is a constant.
 *
 * Source: ONNX Attention-23 to -25, RotaryEmbedding-23. */
#include "frontend/onnx/onnx_ops.h"

#include <math.h>

enum { IN_MASK = 3, IN_PAST_KEY, IN_PAST_VALUE, IN_LENGTHS };

typedef struct {
  Import *im;
  const OnnxNode *n;
  Val q, k, v; /* [batch, heads, tokens, size], as floats that are computed with; k, v: with the past */
  int64_t batch, heads, kv_heads, rows, columns, past;
  Val lengths; /* [batch, 1, 1, 1] i64: keys that count; or 0 */
} Attn;

/* [batch, tokens, heads * size] -> [batch, heads, tokens, size] */
static Val split_heads(Import *im, const OnnxNode *n, Val x, int64_t heads)
{
  if (im_rank(im, x) == 4)
    return x;
  int64_t width = im_dim(im, x, 2);
  if (im_rank(im, x) != 3 || heads < 1 || width % heads) {
    im_fail(im, n, "%lld heads in %lld elements", (long long)heads, (long long)width);
    return 0;
  }
  return im_swap(im, im_reshape_to(im, x, im_dim(im, x, 0), im_dim(im, x, 1), heads, width / heads), 1, 2);
}

static Val merge_heads(Import *im, Val x)
{
  x = im_swap(im, x, 1, 2);
  return im_reshape_to(im, x, im_dim(im, x, 0), im_dim(im, x, 1), im_dim(im, x, 2) * im_dim(im, x, 3));
}

static Val with_past(Import *im, const OnnxNode *n, Val now, uint32_t input)
{
  Val past = im_opt(im, n, input);
  return past ? im_concat(im, (Val[]){past, now}, 2, 2) : now;
}

/* ---- masks: which keys a query may see */

static Val both(Import *im, Val a, Val b)
{
  return !a ? b : !b ? a : im_add2(im, OP_and, a, b);
}

/* Places of queries among the keys, [rows, 1]; with lengths [batch, 1, rows, 1]. */
static Val query_places(const Attn *a)
{
  Import *im = a->im;
  Val i = im_unsqueeze(im, im_iota(im, DT_I64, a->rows), 1);

  if (!a->lengths)
    return im_add2(im, OP_add, i, im_const_i(im, DT_I64, a->past));
  return im_add2(im, OP_add, i, im_add2(im, OP_sub, a->lengths, im_const_i(im, DT_I64, a->rows)));
}

/* bool, broadcasts to [batch, heads, rows, columns]; 0: all. */
static Val allowed_places(const Attn *a)
{
  Import *im = a->im;
  Val j = im_iota(im, DT_I64, a->columns), p = query_places(a), seen = 0;
  int64_t left = im_int(im, a->n, "left_window_size", -1), right = im_int(im, a->n, "right_window_size", -1);

  if (im_int(im, a->n, "is_causal", 0))
    seen = im_add2(im, OP_le, j, p);
  if (left >= 0)
    seen = both(im, seen, im_add2(im, OP_le, im_add2(im, OP_sub, p, im_const_i(im, DT_I64, left)), j));
  if (right >= 0)
    seen = both(im, seen, im_add2(im, OP_le, j, im_add2(im, OP_add, p, im_const_i(im, DT_I64, right))));
  return a->lengths ? both(im, seen, im_add2(im, OP_lt, j, a->lengths)) : seen;
}

static Val hidden(Import *im, Val seen, DType t)
{
  return im_where(im, seen, im_const(im, t, 0), im_const(im, t, -(double)INFINITY));
}

/* What is added to the scores, or 0. A mask that is shorter than the keys hides those behind it. */
static Val bias_of(const Attn *a)
{
  Import *im = a->im;
  DType t = im_elem(im, a->q);
  Val mask = im_opt(im, a->n, IN_MASK), seen = allowed_places(a);
  uint32_t last = im_rank(im, mask) ? im_rank(im, mask) - 1 : 0;
  int64_t missing = a->columns - im_dim(im, mask, last);

  if (mask && im_elem(im, mask) != DT_BOOL)
    mask = im_cast(im, mask, t);
  if (mask && missing > 0 && im_dim(im, mask, last) > 1)
    mask = im_pad_axis(im, mask, last, 0, missing,
                       im_const_like(im, mask, im_elem(im, mask) == DT_BOOL ? 0 : -(double)INFINITY));
  if (mask && im_elem(im, mask) == DT_BOOL) {
    seen = both(im, seen, mask);
    mask = 0;
  }
  if (!seen)
    return mask;
  seen = hidden(im, seen, t);
  return mask ? im_add2(im, OP_add, mask, seen) : seen;
}

/* Rows that see nothing give 0, not nan. A constant bias tells whether there are some. */
static bool may_hide_rows(const Attn *a, Val bias)
{
  Val most = im_reduce(a->im, OP_reduce_max, bias, 1u << (im_rank(a->im, bias) - 1), false);
  Tensor t;

  if (!im_constant(a->im, most, &t))
    return true;
  for (int64_t i = 0; i < type_count(&t.type); i++)
    if (isinf(tensor_get(&t, i)))
      return true;
  return false;
}

static Val probabilities(const Attn *a, Val scores, Val bias)
{
  Import *im = a->im;
  Val p = im_softmax(im, scores, 3);

  if (!bias || !im_rank(im, bias) || !may_hide_rows(a, bias))
    return p;
  Val most = im_reduce(im, OP_reduce_max, bias, 1u << (im_rank(im, bias) - 1), true);
  Val none = im_add2(im, OP_eq, most, im_const_like(im, most, -(double)INFINITY));
  return im_where(im, none, im_const_like(im, p, 0), p);
}

/* ---- Attention */

/* Queries of the heads that share keys stand one after the other: [batch, kv heads, group * rows, size]. */
static Val grouped(const Attn *a, Val x)
{
  return im_reshape_to(a->im, x, a->batch, a->kv_heads, a->heads / a->kv_heads * a->rows,
                       im_dim(a->im, x, 3));
}

static Val ungrouped(const Attn *a, Val x)
{
  return im_reshape_to(a->im, x, a->batch, a->heads, a->rows, im_dim(a->im, x, 3));
}

static bool read_attention(Import *im, const OnnxNode *n, Attn *a, Val *key, Val *value)
{
  Val q = im_in(im, n, 0), lengths = im_opt(im, n, IN_LENGTHS), past = im_opt(im, n, IN_PAST_KEY);
  int64_t heads = im_int(im, n, "q_num_heads", 0), kv_heads = im_int(im, n, "kv_num_heads", 0);

  q = split_heads(im, n, q, heads);
  *key = with_past(im, n, split_heads(im, n, im_in(im, n, 1), kv_heads), IN_PAST_KEY);
  *value = with_past(im, n, split_heads(im, n, im_in(im, n, 2), kv_heads), IN_PAST_VALUE);
  if (!im_ok(im))
    return false;
  *a = (Attn){.im = im,
              .n = n,
              .q = im_float_compute(im, q),
              .k = im_cast_like(im, *key, im_float_compute(im, q)),
              .v = im_float_compute(im, *value),
              .batch = im_dim(im, q, 0),
              .heads = im_dim(im, q, 1),
              .kv_heads = im_dim(im, *key, 1),
              .rows = im_dim(im, q, 2),
              .columns = im_dim(im, *key, 2),
              .past = past ? im_dim(im, past, 2) : 0};
  if (a->kv_heads < 1 || a->heads % a->kv_heads)
    return im_fail(im, n, "%lld heads cannot share %lld", (long long)a->heads, (long long)a->kv_heads);
  if (lengths)
    a->lengths = im_reshape_to(im, im_cast(im, lengths, DT_I64), im_dim(im, lengths, 0), 1, 1, 1);
  return true;
}

/* The scores at each stage, as qk_matmul_output_mode counts them. */
enum { RAW, CAPPED, MASKED, SOFTMAX, STAGES };

static void score(const Attn *a, Val *stage)
{
  Import *im = a->im;
  double scale = im_float(im, a->n, "scale", 1 / sqrt((double)max64(1, im_dim(im, a->q, 3))));
  double cap = im_float(im, a->n, "softcap", 0);
  Val bias = bias_of(a), q = im_op_f(im, OP_mul, a->q, scale);

  stage[RAW] = ungrouped(a, im_matmul(im, grouped(a, q), im_swap(im, a->k, 2, 3)));
  stage[CAPPED] = stage[RAW];
  if (cap > 0)
    stage[CAPPED] = im_op_f(im, OP_mul, im_add1(im, OP_tanh, im_op_f(im, OP_div, stage[RAW], cap)), cap);
  stage[MASKED] = bias ? im_add2(im, OP_add, stage[CAPPED], bias) : stage[CAPPED];
  stage[SOFTMAX] = probabilities(a, stage[MASKED], bias);
}

bool op_attention(Import *im, const OnnxNode *n)
{
  Val first = im_in(im, n, 0), key, value, stage[STAGES];
  int64_t mode = im_int(im, n, "qk_matmul_output_mode", 0);
  Attn a;

  if (!read_attention(im, n, &a, &key, &value))
    return false;
  if (mode < 0 || mode >= STAGES)
    return im_fail(im, n, "qk_matmul_output_mode is %lld", (long long)mode);
  score(&a, stage);
  Val p = im_cast_like(im, stage[SOFTMAX], a.v);
  Val y = im_cast_like(im, ungrouped(&a, im_matmul(im, grouped(&a, p), a.v)), first);
  return im_out(im, n, 0, im_rank(im, first) == 3 ? merge_heads(im, y) : y) && im_out(im, n, 1, key) &&
         im_out(im, n, 2, value) && im_out(im, n, 3, im_cast_like(im, stage[mode], first));
}

/* ---- RotaryEmbedding */

typedef struct {
  Val cosine, sine; /* broadcast to [batch, tokens, heads, half] */
} Angles;

static Val angles_of(Import *im, const OnnxNode *n, uint32_t input, Val x, int64_t half)
{
  Val cache = im_cast_like(im, im_in(im, n, input), x), ids = im_opt(im, n, 3);

  if (ids)
    cache = im_gather(im, cache, ids, 0);
  if (im_rank(im, cache) != 3 || im_dim(im, cache, 2) != half) {
    im_fail(im, n, "the caches do not fit %lld angles", (long long)half);
    return 0;
  }
  return im_unsqueeze(im, cache, 2);
}

/* Pairs stand side by side (interleaved), or half the size apart. */
static Val rotate(Import *im, Val x, int64_t half, bool interleaved, Angles g)
{
  Type t = im_type(im, x);
  uint32_t axis = interleaved ? 4 : 3;
  int64_t pairs[5] = {t.dim[0], t.dim[1], t.dim[2], interleaved ? half : 2, interleaved ? 2 : half};

  x = im_reshape(im, x, 5, pairs);
  Val a = im_squeeze(im, im_part(im, x, axis, 0, 1), axis),
      b = im_squeeze(im, im_part(im, x, axis, 1, 1), axis);
  Val real = im_add2(im, OP_sub, im_add2(im, OP_mul, g.cosine, a), im_add2(im, OP_mul, g.sine, b));
  Val imaginary = im_add2(im, OP_add, im_add2(im, OP_mul, g.sine, a), im_add2(im, OP_mul, g.cosine, b));
  return im_reshape(im, im_stack(im, (Val[]){real, imaginary}, 2, axis), t.rank, t.dim);
}

bool op_rotary_embedding(Import *im, const OnnxNode *n)
{
  Val first = im_in(im, n, 0), x = im_float_compute(im, first);
  bool flat = im_rank(im, x) == 3;

  x = im_swap(im, split_heads(im, n, x, im_int(im, n, "num_heads", 0)), 1, 2);
  if (!im_ok(im))
    return false;
  int64_t size = im_dim(im, x, 3), turned = im_int(im, n, "rotary_embedding_dim", 0), half;
  turned = turned ? turned : size;
  half = turned / 2;
  if (turned < 0 || turned > size || turned % 2)
    return im_fail(im, n, "%lld elements of %lld cannot be turned", (long long)turned, (long long)size);
  Angles g = {angles_of(im, n, 1, x, half), angles_of(im, n, 2, x, half)};
  Val y = rotate(im, im_part(im, x, 3, 0, turned), half, im_int(im, n, "interleaved", 0), g);
  if (turned < size)
    y = im_concat(im, (Val[]){y, im_part(im, x, 3, turned, size - turned)}, 2, 3);
  y = im_cast_like(im, im_swap(im, y, 1, 2), first);
  return im_out(im, n, 0, flat ? merge_heads(im, y) : y);
}
