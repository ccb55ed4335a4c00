/* op_sequence.c - sequences of tensors, and optional values. Neither lasts beyond the import: a sequence is a list of
 * values, its length and positions in it are constants, and an optional value is there or is not. They end where a
 * tensor is taken out of them; a model's own inputs and outputs cannot be any. */
#include "frontend/onnx/import_scope.h"
#include "frontend/onnx/onnx_ops.h"

/* ---- sequences of given tensors */

bool op_sequence_construct(Import *im, const OnnxNode *n)
{
  Val *items = NEW_ARRAY(im->arena, Val, n->n_inputs);

  for (uint32_t i = 0; i < n->n_inputs; i++)
    items[i] = im_in(im, n, i);
  return im_out(im, n, 0, im_sequence_new(im, items, n->n_inputs));
}

bool op_sequence_empty(Import *im, const OnnxNode *n)
{
  return im_out(im, n, 0, im_sequence_new(im, NULL, 0));
}

bool op_sequence_length(Import *im, const OnnxNode *n)
{
  return im_out(im, n, 0, im_const_i(im, DT_I64, im_in_sequence(im, n, 0)->len));
}

/* Of input i, in [-len, end). */
static uint32_t position(Import *im, const OnnxNode *n, uint32_t i, int64_t otherwise, uint32_t len,
                         uint32_t end)
{
  int64_t at = im_int_of(im, n, (int)i, NULL, otherwise);

  if (im_ok(im) && (at < -(int64_t)len || at >= (int64_t)end))
    im_fail(im, n, "position %lld in a sequence of %u", (long long)at, len);
  return im_ok(im) ? (uint32_t)(at < 0 ? at + len : at) : 0;
}

bool op_sequence_at(Import *im, const OnnxNode *n)
{
  const ImSequence *s = im_in_sequence(im, n, 0);

  if (!im_has(im, n, 1))
    return im_fail(im, n, "the position is missing");
  uint32_t at = position(im, n, 1, 0, s->len, s->len);
  return im_ok(im) && im_out(im, n, 0, s->items[at]);
}

bool op_sequence_insert(Import *im, const OnnxNode *n)
{
  ImSequence s = *im_in_sequence(im, n, 0);
  Val *items = NEW_ARRAY(im->arena, Val, (size_t)s.len + 1), v = im_in(im, n, 1);
  uint32_t at = position(im, n, 2, s.len, s.len, s.len + 1);

  for (uint32_t i = 0; i < s.len; i++)
    items[i + (i >= at)] = s.items[i];
  items[at] = v;
  return im_out(im, n, 0, im_sequence_new(im, items, s.len + 1));
}

bool op_sequence_erase(Import *im, const OnnxNode *n)
{
  ImSequence s = *im_in_sequence(im, n, 0);
  Val *items = NEW_ARRAY(im->arena, Val, (size_t)s.len + 1);
  uint32_t at = position(im, n, 1, -1, s.len, s.len);

  for (uint32_t i = 0; i < s.len; i++)
    items[i - (i > at)] = s.items[i];
  return im_ok(im) && im_out(im, n, 0, im_sequence_new(im, items, s.len - 1));
}

/* ---- between tensors and sequences */

/* Sizes of the parts: numbers, or one for all, of which the last part takes what is left. */
static Ints part_sizes(Import *im, const OnnxNode *n, int64_t dim)
{
  Ints split = im_ints_of(im, n, 1, NULL);
  int64_t each = split.given && split.len ? split.data[0] : 1;
  bool one = !split.given || im_rank(im, im_in(im, n, 1)) == 0;

  if (!one || !im_ok(im))
    return split;
  int64_t count = each > 0 ? dim / each + (dim % each != 0) : -1;
  if (count < 0 || count > UINT16_MAX) {
    im_fail(im, n, "%lld elements in parts of %lld", (long long)dim, (long long)each);
    return (Ints){0};
  }
  int64_t *sizes = NEW_ARRAY(im->arena, int64_t, (size_t)count);
  for (int64_t i = 0; i < count; i++)
    sizes[i] = min64(each, dim - i * each);
  return (Ints){sizes, (uint32_t)count, true};
}

bool op_split_to_sequence(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  uint32_t axis = im_axis_attr(im, n, "axis", 0, im_rank(im, x));
  Ints sizes = part_sizes(im, n, im_dim(im, x, axis));
  bool squeeze = !im_has(im, n, 1) && !im_int(im, n, "keepdims", 1);
  Val *items = NEW_ARRAY(im->arena, Val, sizes.len);
  int64_t at = 0;

  for (uint32_t i = 0; im_ok(im) && i < sizes.len; i++) {
    if (sizes.data[i] < 0 || sizes.data[i] > im_dim(im, x, axis) - at)
      return im_fail(im, n, "part %u has %lld elements", i, (long long)sizes.data[i]);
    items[i] = im_part(im, x, axis, at, sizes.data[i]);
    items[i] = squeeze ? im_squeeze(im, items[i], axis) : items[i];
    at += sizes.data[i];
  }
  if (im_ok(im) && at != im_dim(im, x, axis))
    return im_fail(im, n, "the parts have %lld of %lld elements", (long long)at,
                   (long long)im_dim(im, x, axis));
  return im_out(im, n, 0, im_sequence_new(im, items, sizes.len));
}

bool op_concat_from_sequence(Import *im, const OnnxNode *n)
{
  const ImSequence *s = im_in_sequence(im, n, 0);
  bool stack = im_int(im, n, "new_axis", 0);

  if (!im_ok(im) || !s->len)
    return im_fail(im, n, "the sequence is empty");
  uint32_t axis = im_axis_attr(im, n, "axis", 0, im_rank(im, s->items[0]) + stack);
  if (!im_ok(im))
    return false;
  return im_out(im, n, 0,
                stack ? im_stack(im, s->items, s->len, axis) : im_concat(im, s->items, s->len, axis));
}

/* ---- SequenceMap */

typedef struct {
  Import *im;
  const OnnxNode *n;
  const OnnxGraph *body;
  Val *in, *out; /* of the body */
  Val **results; /* [outputs][rounds] */
  uint32_t rounds;
} Map;

/* Sequences give their element, tensors themselves. */
static bool map_round(Map *m, uint32_t round)
{
  for (uint32_t i = 0; i < m->n->n_inputs; i++) {
    Val v = im_any(m->im, m->n, i);
    const ImSequence *s = im_sequence(m->im, v);
    if (s && s->len != m->rounds)
      return im_fail(m->im, m->n, "sequences of %u and %u tensors", m->rounds, s->len);
    m->in[i] = s ? s->items[round] : v;
  }
  if (!im_graph(m->im, m->body, m->in, m->n->n_inputs, m->out))
    return false;
  for (uint32_t i = 0; i < m->n->n_outputs; i++)
    if (im_sequence(m->im, m->results[i][round] = m->out[i]))
      return im_fail(m->im, m->n, "its graph gives a sequence of tensors");
  return true;
}

bool op_sequence_map(Import *im, const OnnxNode *n)
{
  Map m = {.im = im, .n = n, .body = im_graph_attr(im, n, "body"), .rounds = im_in_sequence(im, n, 0)->len};
  bool ok = im_ok(im);

  if (!ok || m.body->n_outputs != n->n_outputs)
    return im_fail(im, n, "its graph must have %u outputs", n->n_outputs);
  m.in = NEW_ARRAY(im->arena, Val, n->n_inputs);
  m.out = NEW_ARRAY(im->arena, Val, n->n_outputs);
  m.results = NEW_ARRAY(im->arena, Val *, n->n_outputs);
  for (uint32_t i = 0; i < n->n_outputs; i++)
    m.results[i] = NEW_ARRAY(im->arena, Val, m.rounds);
  for (uint32_t i = 0; ok && i < m.rounds; i++)
    ok = map_round(&m, i);
  for (uint32_t i = 0; ok && i < n->n_outputs; i++)
    ok = im_out(im, n, i, im_sequence_new(im, m.results[i], m.rounds));
  return ok;
}

/* ---- optional values: the value, or a name without one */

bool op_optional(Import *im, const OnnxNode *n)
{
  if (im_has(im, n, 0))
    return im_out(im, n, 0, im_any(im, n, 0));
  if (im_wants(im, n, 0))
    im_bind(im, n->outputs[0], 0);
  return im_ok(im);
}

bool op_optional_get_element(Import *im, const OnnxNode *n)
{
  Val v = im_any(im, n, 0);
  return v ? im_out(im, n, 0, v) : im_fail(im, n, "there is no value");
}

bool op_optional_has_element(Import *im, const OnnxNode *n)
{
  return im_out(im, n, 0, im_const_i(im, DT_BOOL, im_has(im, n, 0)));
}
