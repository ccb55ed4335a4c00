/* eval_dense_move.c - ops of dense graphs that move elements as they are: bytes are copied, whatever their type. */
#include "ir/eval_dense.h"

/* Copies a block of the given shape between two places with strides, in elements. */
typedef struct {
  uint32_t rank, bytes; /* bytes of an element */
  int64_t dim[MAX_RANK];
  int64_t to[MAX_RANK], from[MAX_RANK];
} Move;

static void move_line(const Move *m, uint32_t d, uint8_t *dst, const uint8_t *src)
{
  int64_t to = m->to[d] * m->bytes, from = m->from[d] * m->bytes;

  if (m->to[d] == 1 && m->from[d] == 1) {
    memcpy(dst, src, (size_t)m->dim[d] * m->bytes);
    return;
  }
  for (int64_t i = 0; i < m->dim[d]; i++, dst += to, src += from)
    memcpy(dst, src, m->bytes);
}

static void move_block(const Move *m, uint32_t d, uint8_t *dst, const uint8_t *src)
{
  if (m->rank == 0)
    memcpy(dst, src, m->bytes);
  else if (d + 1 == m->rank)
    move_line(m, d, dst, src);
  else
    for (int64_t i = 0; i < m->dim[d]; i++)
      move_block(m, d + 1, dst + i * m->to[d] * m->bytes, src + i * m->from[d] * m->bytes);
}

static void strides_of(const Type *t, int64_t *stride)
{
  int64_t n = 1;

  for (uint32_t d = t->rank; d-- > 0; n *= t->dim[d])
    stride[d] = n;
}

/* The shape and both strides of a tensor's type. */
static Move move_of(const Type *t)
{
  Move m = {.rank = t->rank, .bytes = dtype_info[t->dtype].bytes};

  memcpy(m.dim, t->dim, sizeof m.dim);
  strides_of(t, m.to);
  strides_of(t, m.from);
  return m;
}

void dense_transpose(const DenseOp *d)
{
  int64_t stride[MAX_RANK];
  Move m = move_of(&d->out->type);

  strides_of(&d->in[0].type, stride);
  for (uint32_t i = 0; i < m.rank; i++)
    m.from[i] = stride[d->attr->perm[i]];
  move_block(&m, 0, d->out->data, d->in[0].data);
}

void dense_slice(const DenseOp *d)
{
  uint32_t axis = d->attr->slice.axis;
  Move m = move_of(&d->out->type);

  strides_of(&d->in[0].type, m.from);
  int64_t start = d->attr->slice.start * m.from[axis];
  m.from[axis] *= d->attr->slice.step;
  move_block(&m, 0, d->out->data, tensor_at(&d->in[0], start));
}

void dense_concat(const DenseOp *d)
{
  uint32_t axis = d->attr->axis;
  int64_t at = 0;

  for (uint32_t i = 0; i < d->n_in; i++) {
    Move m = move_of(&d->in[i].type);
    strides_of(&d->out->type, m.to);
    move_block(&m, 0, tensor_to(d->out, at * m.to[axis]), d->in[i].data);
    at += d->in[i].type.dim[axis];
  }
}

void dense_expand(const DenseOp *d)
{
  Move m = move_of(&d->out->type);
  Walk w = walk_begin(&d->out->type);

  walk_bcast(&w, 0, &d->in[0].type);
  memcpy(m.from, w.stride[0], sizeof m.from);
  move_block(&m, 0, d->out->data, d->in[0].data);
}

void dense_pad(const DenseOp *d)
{
  Move m = move_of(&d->out->type);
  int64_t to = 0, from = 0;

  for (int64_t i = 0; i < type_count(&d->out->type); i++)
    memcpy(tensor_to(d->out, i), d->in[1].data, m.bytes);
  strides_of(&d->in[0].type, m.from);
  for (uint32_t i = 0; i < m.rank; i++) {
    int64_t lo = d->attr->pad.lo[i], first = max64(lo, 0);
    m.dim[i] = min64(d->in[0].type.dim[i] + lo, d->out->type.dim[i]) - first;
    if (m.dim[i] <= 0)
      return;
    to += first * m.to[i];
    from += (first - lo) * m.from[i];
  }
  move_block(&m, 0, tensor_to(d->out, to), tensor_at(&d->in[0], from));
}

/* ---- index */

/* As an unsigned number if the type is u64: what is too large for i64 is clamped or skipped like any other. */
static int64_t index_at(const Tensor *t, int64_t i)
{
  int64_t v = tensor_get_int(t, i);
  return t->type.dtype == DT_U64 && v < 0 ? INT64_MAX : v;
}

void dense_gather_op(const DenseOp *d)
{
  const Tensor *data = &d->in[0], *index = &d->in[1];
  int64_t inner, outer, n = data->type.dim[d->attr->axis], count = type_count(&index->type);
  size_t bytes;
  uint8_t *y = d->out->data;

  dense_axis(&data->type, d->attr->axis, &inner, &outer);
  bytes = (size_t)inner * dtype_info[data->type.dtype].bytes;
  for (int64_t o = 0; o < outer; o++)
    for (int64_t i = 0; i < count; i++, y += bytes) {
      int64_t at = min64(max64(index_at(index, i), 0), n - 1);
      memcpy(y, tensor_at(data, (o * n + at) * inner), bytes);
    }
}

void dense_scatter_op(const DenseOp *d)
{
  static const Op step[] = {
      [SCATTER_ADD] = OP_add, [SCATTER_MUL] = OP_mul, [SCATTER_MAX] = OP_max, [SCATTER_MIN] = OP_min};
  const Tensor *data = &d->in[0], *index = &d->in[1], *updates = &d->in[2];
  int64_t inner, outer, n = data->type.dim[0];
  DType t = data->type.dtype;

  dense_axis(&data->type, 0, &inner, &outer);
  memcpy(d->out->data, data->data, tensor_bytes(&data->type));
  for (int64_t i = 0; i < type_count(&index->type); i++) {
    int64_t at = index_at(index, i);
    if (at < 0 || at >= n)
      continue;
    if (d->attr->reduce == SCATTER_NONE)
      memcpy(tensor_to(d->out, at * inner), tensor_at(updates, i * inner),
             (size_t)inner * dtype_info[t].bytes);
    else
      for (int64_t k = 0; k < inner; k++)
        dense_combine(step[d->attr->reduce], t, tensor_to(d->out, at * inner + k),
                      tensor_at(updates, i * inner + k));
  }
}
