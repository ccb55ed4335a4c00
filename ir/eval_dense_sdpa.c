/* eval_dense_sdpa.c - attention of dense graphs. It means what products, sum and softmax mean one after the other; what
 * stands between them is not rounded.
 *
 * Source: ONNX Attention-23, without its own masks. */
#include <math.h>

#include "ir/eval_dense.h"

typedef struct {
  const DenseOp *d;
  const Type *q;
  uint32_t rank;
  int64_t rows, heads, keys; /* L, heads, S */
  const double *qs, *ks, *vs;
  double *score;
} Sdpa;

static const double *numbers(Arena *a, const Tensor *t)
{
  int64_t n = type_count(&t->type);
  double *x = NEW_ARRAY(a, double, (size_t)n + 1);

  for (int64_t i = 0; i < n; i++)
    x[i] = (double)tensor_get(t, i);
  return x;
}

/* Element number in an operand that is broadcast, of an index over `rank` dimensions. */
static int64_t place(const Type *t, const int64_t *index, uint32_t rank)
{
  int64_t at = 0;

  for (uint32_t i = 0; i < t->rank; i++)
    at = at * t->dim[i] + (t->dim[i] == 1 ? 0 : index[rank - t->rank + i]);
  return at;
}

/* Where key or value 0 of a head begins. */
static int64_t first_key(const Sdpa *s, const Type *t, const int64_t *batch, int64_t head)
{
  int64_t index[MAX_RANK] = {0};

  memcpy(index, batch, (s->rank - 3) * sizeof *index);
  index[s->rank - 2] = head / (s->heads / t->dim[s->rank - 2]);
  return place(t, index, s->rank);
}

static double mask_at(const Sdpa *s, const int64_t *batch, int64_t row, int64_t head, int64_t key)
{
  int64_t index[MAX_RANK] = {0};

  memcpy(index, batch, (s->rank - 3) * sizeof *index);
  index[s->rank - 3] = head;
  index[s->rank - 2] = row;
  index[s->rank - 1] = key;
  return s->d->n_in < 4 ? 0 : (double)tensor_get(&s->d->in[3], place(&s->d->in[3].type, index, s->rank));
}

static double score(const Sdpa *s, const double *q, const double *k)
{
  double sum = 0, cap = (double)s->d->attr->attention.softcap;

  for (int64_t i = 0; i < type_last(s->q); i++)
    sum += q[i] * k[i];
  sum *= (double)s->d->attr->attention.scale;
  return cap > 0 ? cap * tanh(sum / cap) : sum;
}

static void one_row(const Sdpa *s, const int64_t *batch, int64_t row, int64_t head, int64_t number)
{
  const Type *kt = &s->d->in[1].type, *vt = &s->d->in[2].type;
  const double *q = s->qs + number * type_last(s->q), *k = s->ks + first_key(s, kt, batch, head),
               *v = s->vs + first_key(s, vt, batch, head);
  int64_t width = type_last(vt), groups = vt->dim[s->rank - 2];
  double max = -(double)INFINITY, sum = 0;

  for (int64_t i = 0; i < s->keys; i++) {
    double x = score(s, q, k + i * groups * type_last(kt)) + mask_at(s, batch, row, head, i);
    s->score[i] = x;
    max = x > max || isnan(x) ? x : max;
  }
  for (int64_t i = 0; i < s->keys; i++)
    sum += s->score[i] = exp(s->score[i] - max);
  for (int64_t j = 0; j < width && !(isnan(sum) && s->d->attr->attention.nan_is_0); j++) {
    double y = 0;
    for (int64_t i = 0; i < s->keys; i++)
      y += s->score[i] / sum * v[i * groups * width + j];
    tensor_set(s->d->out, number * width + j, (long double)y);
  }
}

void dense_sdpa_op(const DenseOp *d)
{
  const Type *q = &d->in[0].type;
  Sdpa s = {.d = d, .q = q, .rank = q->rank, .rows = q->dim[q->rank - 3], .heads = q->dim[q->rank - 2]};
  int64_t batch[MAX_RANK] = {0}, numbers_of_rows = type_rows(q);

  s.keys = d->in[1].type.dim[s.rank - 3];
  s.qs = numbers(d->tmp, &d->in[0]);
  s.ks = numbers(d->tmp, &d->in[1]);
  s.vs = numbers(d->tmp, &d->in[2]);
  s.score = NEW_ARRAY(d->tmp, double, (size_t)s.keys);
  for (int64_t i = 0; i < numbers_of_rows; i++) {
    int64_t rest = i / (s.rows * s.heads);
    for (uint32_t b = s.rank - 3; b-- > 0; rest /= q->dim[b])
      batch[b] = rest % q->dim[b];
    one_row(&s, batch, i / s.heads % s.rows, i % s.heads, i);
  }
}
