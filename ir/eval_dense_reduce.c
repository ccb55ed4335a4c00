/* eval_dense_reduce.c - along axes: sums, products, extrema, scans, softmax, the k best. */
#include "ir/eval_dense.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>

/* ---- accumulators: one for each result, a float or an integer */

typedef struct {
  Op op; /* add, mul, max or min */
  DType t;
  bool ints;
} Acc;

typedef union {
  long double f;
  int64_t i;
} Sum;

static Acc acc_of(Op op, DType t)
{
  static const Op step[OP_COUNT] = {
      [OP_reduce_sum] = OP_add, [OP_reduce_prod] = OP_mul, [OP_reduce_max] = OP_max,
      [OP_reduce_min] = OP_min, [OP_cumsum] = OP_add,      [OP_cumprod] = OP_mul,
  };
  return (Acc){step[op], t, dense_is_int(t)};
}

static Sum acc_start(const Acc *a)
{
  switch (a->op) {
  case OP_mul: return a->ints ? (Sum){.i = 1} : (Sum){.f = 1};
  case OP_max: return a->ints ? (Sum){.i = dense_int_lowest(a->t)} : (Sum){.f = -(long double)INFINITY};
  case OP_min: return a->ints ? (Sum){.i = dense_int_highest(a->t)} : (Sum){.f = (long double)INFINITY};
  default: return a->ints ? (Sum){.i = 0} : (Sum){.f = 0};
  }
}

static void add_int(const Acc *a, Sum *s, int64_t x)
{
  switch (a->op) {
  case OP_mul: s->i = (int64_t)((uint64_t)s->i * (uint64_t)x); break;
  case OP_max: s->i = dense_int_less(a->t, s->i, x) ? x : s->i; break;
  case OP_min: s->i = dense_int_less(a->t, x, s->i) ? x : s->i; break;
  default: s->i = (int64_t)((uint64_t)s->i + (uint64_t)x);
  }
}

static void add_float(const Acc *a, Sum *s, long double x)
{
  switch (a->op) {
  case OP_mul: s->f *= x; break;
  case OP_max: s->f = isnan(x) || x > s->f ? x : s->f; break;
  case OP_min: s->f = isnan(x) || x < s->f ? x : s->f; break;
  default: s->f += x;
  }
}

static void acc_add(const Acc *a, Sum *s, const Tensor *x, int64_t i)
{
  if (a->ints)
    add_int(a, s, tensor_get_int(x, i));
  else
    add_float(a, s, tensor_get(x, i));
}

static void acc_store(const Acc *a, const Sum *s, Tensor *out, int64_t i)
{
  if (a->ints)
    tensor_set_int(out, i, s->i);
  else
    tensor_set(out, i, s->f);
}

void dense_reduce(const DenseOp *d)
{
  const Tensor *x = &d->in[0];
  int64_t n = type_count(&d->out->type);
  Acc acc = acc_of(d->op, x->type.dtype);
  Sum *sum = NEW_ARRAY(d->tmp, Sum, (size_t)n);
  Walk w = walk_begin(&x->type);

  for (int64_t i = 0; i < n; i++)
    sum[i] = acc_start(&acc);
  walk_bcast(&w, 0, &d->out->type); /* the place in the result stands still along the axes */
  for (int64_t i = 0; i < type_count(&x->type); i++, walk_next(&w))
    acc_add(&acc, &sum[w.at[0]], x, i);
  for (int64_t i = 0; i < n; i++)
    acc_store(&acc, &sum[i], d->out, i);
}

void dense_scan(const DenseOp *d)
{
  const Tensor *x = &d->in[0];
  int64_t inner, outer, n = x->type.dim[d->attr->scan.axis];
  Acc acc = acc_of(d->op, x->type.dtype);

  dense_axis(&x->type, d->attr->scan.axis, &inner, &outer);
  for (int64_t line = 0; line < outer * inner; line++) {
    Sum sum = acc_start(&acc);
    for (int64_t k = 0; k < n; k++) {
      int64_t step = d->attr->scan.reverse ? n - 1 - k : k;
      int64_t i = (line / inner * n + step) * inner + line % inner;
      if (d->attr->scan.exclusive)
        acc_store(&acc, &sum, d->out, i);
      acc_add(&acc, &sum, x, i);
      if (!d->attr->scan.exclusive)
        acc_store(&acc, &sum, d->out, i);
    }
  }
}

/* ---- places of extrema */

/* A long double holds integers of 64 bits exactly, so all types compare alike. */
static bool better(const DenseOp *d, long double x, long double best)
{
  if (isnan(best))
    return false;
  if (isnan(x) || (d->attr->arg.last && x == best))
    return true;
  return d->op == OP_argmax ? x > best : x < best;
}

void dense_arg_op(const DenseOp *d)
{
  const Tensor *x = &d->in[0];
  int64_t inner, outer, n = x->type.dim[d->attr->arg.axis];

  dense_axis(&x->type, d->attr->arg.axis, &inner, &outer);
  for (int64_t line = 0; line < outer * inner; line++) {
    int64_t first = line / inner * n * inner + line % inner, at = 0;
    long double best = tensor_get(x, first);
    for (int64_t k = 1; k < n; k++) {
      long double v = tensor_get(x, first + k * inner);
      if (better(d, v, best)) {
        best = v;
        at = k;
      }
    }
    tensor_set_int(d->out, line, at);
  }
}

typedef struct {
  long double key; /* smaller is better */
  bool nan;
  int64_t index;
} Candidate;

/* nan stands beyond the infinity whose key it shares: the best of the largest, the last of the smallest. */
static int by_key(const void *pa, const void *pb)
{
  const Candidate *a = pa, *b = pb;

  if (a->key < b->key || a->key > b->key)
    return a->key < b->key ? -1 : 1;
  if (a->nan != b->nan)
    return (a->key < 0) == a->nan ? -1 : 1;
  return a->index < b->index ? -1 : a->index > b->index;
}

void dense_topk_op(const DenseOp *d)
{
  const Tensor *x = &d->in[0];
  int64_t n = type_last(&x->type), k = d->attr->topk.count;
  Candidate *c = NEW_ARRAY(d->tmp, Candidate, (size_t)n);

  for (int64_t row = 0; row < type_rows(&x->type); row++) {
    for (int64_t i = 0; i < n; i++) {
      long double v = tensor_get(x, row * n + i);
      bool nan = isnan(v);
      v = nan ? (long double)INFINITY : v;
      c[i] = (Candidate){d->attr->topk.largest ? -v : v, nan, i};
    }
    qsort(c, (size_t)n, sizeof *c, by_key);
    for (int64_t i = 0; i < k; i++)
      tensor_set_int(d->out, row * k + i, c[i].index);
  }
}

/* ---- softmax */

void dense_softmax(const DenseOp *d)
{
  const Tensor *x = &d->in[0];
  int64_t n = type_last(&x->type);
  long double *e = NEW_ARRAY(d->tmp, long double, (size_t)n);

  for (int64_t at = 0; at < type_count(&x->type); at += n) {
    long double max = -(long double)INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++) {
      e[i] = tensor_get(x, at + i);
      max = e[i] > max || isnan(e[i]) ? e[i] : max;
    }
    for (int64_t i = 0; i < n; i++)
      sum += e[i] = expl(e[i] - max);
    for (int64_t i = 0; i < n; i++)
      tensor_set(d->out, at + i, e[i] / sum);
  }
}
