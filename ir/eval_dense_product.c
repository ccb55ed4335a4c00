/* eval_dense_product.c - products of dense graphs: linear, matmul, convolutions, pools.
 *
 * Operands are read into plain arrays of numbers, all products are then sums over rows of both, and results are
 * rounded as they are stored. Sums of f32 and less run in double (their products are exact there), of f64 in long
 * double, of integers in 64 bits. */
#include "ir/eval_dense.h"

#include <math.h>

typedef enum { NUM_DOUBLE, NUM_LONG, NUM_INT } Kind;

typedef struct {
  Kind kind;
  uint32_t bytes; /* of a number */
} Numbers;

static Numbers numbers_of(DType t)
{
  if (dense_is_int(t))
    return (Numbers){NUM_INT, sizeof(int64_t)};
  return t == DT_F64 ? (Numbers){NUM_LONG, sizeof(long double)} : (Numbers){NUM_DOUBLE, sizeof(double)};
}

static void *numbers_new(const Numbers *n, Arena *a, int64_t count)
{
  return arena_array(a, n->bytes, (size_t)count);
}

/* number[i] = element[first + i * step] */
static void read_numbers(const Numbers *n, const Tensor *t, int64_t first, int64_t step, int64_t count,
                         void *out)
{
  for (int64_t i = 0; i < count; i++) {
    int64_t at = first + i * step;
    switch (n->kind) {
    case NUM_DOUBLE: ((double *)out)[i] = (double)tensor_get(t, at); break;
    case NUM_LONG: ((long double *)out)[i] = tensor_get(t, at); break;
    case NUM_INT: ((int64_t *)out)[i] = tensor_get_int(t, at); break;
    }
  }
}

/* Four sums, so that whole models take seconds; the order is fixed all the same. */
#define DEFINE_DOT(name, type)                                                                               \
  static type name(const type *a, const type *b, int64_t n)                                                  \
  {                                                                                                          \
    type s0 = 0, s1 = 0, s2 = 0, s3 = 0;                                                                     \
    int64_t i = 0;                                                                                           \
                                                                                                             \
    for (; i + 4 <= n; i += 4) {                                                                             \
      s0 += a[i] * b[i];                                                                                     \
      s1 += a[i + 1] * b[i + 1];                                                                             \
      s2 += a[i + 2] * b[i + 2];                                                                             \
      s3 += a[i + 3] * b[i + 3];                                                                             \
    }                                                                                                        \
    for (; i < n; i++)                                                                                       \
      s0 += a[i] * b[i];                                                                                     \
    return (s0 + s1) + (s2 + s3);                                                                            \
  }
DEFINE_DOT(dot_double, double)
DEFINE_DOT(dot_long, long double)
DEFINE_DOT(dot_int, uint64_t)

/* out[at] = bias[b] + a . w, of k numbers */
typedef struct {
  Numbers num;
  int64_t k;
  Tensor *out;
  const Tensor *bias; /* or NULL */
} Product;

static void put_product(const Product *p, const void *a, const void *w, int64_t at, int64_t b)
{
  switch (p->num.kind) {
  case NUM_DOUBLE:
  case NUM_LONG: {
    long double y = p->num.kind == NUM_LONG ? dot_long(a, w, p->k) : (long double)dot_double(a, w, p->k);
    tensor_set(p->out, at, p->bias ? y + tensor_get(p->bias, b) : y);
    break;
  }
  case NUM_INT: {
    uint64_t y = dot_int(a, w, p->k);
    tensor_set_int(p->out, at, (int64_t)(p->bias ? y + (uint64_t)tensor_get_int(p->bias, b) : y));
    break;
  }
  }
}

void dense_linear_op(const DenseOp *d)
{
  const Tensor *x = &d->in[0], *w = &d->in[1];
  int64_t n = w->type.dim[0], k = w->type.dim[1], rows = type_rows(&x->type);
  Product p = {numbers_of(x->type.dtype), k, d->out, NULL};
  uint8_t *a = numbers_new(&p.num, d->tmp, rows * k);
  void *row = numbers_new(&p.num, d->tmp, k);

  read_numbers(&p.num, x, 0, 1, rows * k, a);
  for (int64_t i = 0; i < n; i++) {
    read_numbers(&p.num, w, i * k, 1, k, row);
    for (int64_t r = 0; r < rows; r++)
      put_product(&p, a + r * k * p.num.bytes, row, r * n + i, 0);
  }
}

void dense_matmul_op(const DenseOp *d)
{
  const Tensor *x = &d->in[0], *y = &d->in[1];
  int64_t m = x->type.dim[x->type.rank - 2], k = type_last(&x->type), n = type_last(&y->type);
  Product p = {numbers_of(x->type.dtype), k, d->out, NULL};
  uint8_t *a = numbers_new(&p.num, d->tmp, m * k);
  void *column = numbers_new(&p.num, d->tmp, k);
  Type batch = d->out->type, tx = x->type, ty = y->type;

  batch.rank -= 2;
  tx.rank -= 2;
  ty.rank -= 2;
  Walk w = walk_begin(&batch);
  walk_bcast(&w, 0, &tx);
  walk_bcast(&w, 1, &ty);
  for (int64_t b = 0; b < type_count(&batch); b++, walk_next(&w)) {
    read_numbers(&p.num, x, w.at[0] * m * k, 1, m * k, a);
    for (int64_t i = 0; i < n; i++) {
      read_numbers(&p.num, y, w.at[1] * k * n + i, n, k, column);
      for (int64_t r = 0; r < m; r++)
        put_product(&p, a + r * k * p.num.bytes, column, (b * m + r) * n + i, 0);
    }
  }
}

/* ---- windows */

/* A window over up to three spatial dimensions, written as three: those that are missing have size 1. */
typedef struct {
  int64_t batch, channels;
  int64_t in[MAX_SPATIAL], out[MAX_SPATIAL];
  Window w;
} Geometry;

static Geometry geometry(const DenseOp *d)
{
  const Window *w = &d->attr->window;
  const Type *x = &d->in[0].type, *y = &d->out->type;
  Geometry g = {.batch = x->dim[0], .channels = type_last(x)};

  g.w = (Window){.spatial = MAX_SPATIAL, .group = w->group};
  for (uint32_t i = 0; i < MAX_SPATIAL; i++) {
    bool own = i + w->spatial >= MAX_SPATIAL;
    uint32_t from = own ? i + w->spatial - MAX_SPATIAL : 0;
    g.in[i] = own ? x->dim[1 + from] : 1;
    g.out[i] = own ? y->dim[1 + from] : 1;
    g.w.kernel[i] = own ? w->kernel[from] : 1;
    g.w.stride[i] = own ? w->stride[from] : 1;
    g.w.dilation[i] = own ? w->dilation[from] : 1;
    g.w.pad_lo[i] = own ? w->pad_lo[from] : 0;
  }
  return g;
}

static int64_t kernel_places(const Geometry *g)
{
  return g->w.kernel[0] * g->w.kernel[1] * g->w.kernel[2];
}

static int64_t out_places(const Geometry *g)
{
  return g->out[0] * g->out[1] * g->out[2];
}

/* The place in x (without channels) that kernel place `k` sees from result place `p`; -1: outside. */
static int64_t place_seen(const Geometry *g, int64_t p, int64_t k)
{
  int64_t at[MAX_SPATIAL];

  for (int i = MAX_SPATIAL; i-- > 0; p /= g->out[i], k /= g->w.kernel[i]) {
    at[i] = p % g->out[i] * g->w.stride[i] + k % g->w.kernel[i] * g->w.dilation[i] - g->w.pad_lo[i];
    if (at[i] < 0 || at[i] >= g->in[i])
      return -1;
  }
  return (at[0] * g->in[1] + at[1]) * g->in[2] + at[2];
}

/* All that the window sees from one place, group after group: [group][kernel place][channel of the group]. */
static void see(const Geometry *g, uint32_t bytes, const uint8_t *x, int64_t p, uint8_t *patch)
{
  size_t chunk = (size_t)(g->channels / g->w.group) * bytes;
  int64_t places = kernel_places(g);

  for (int64_t k = 0; k < places; k++) {
    int64_t at = place_seen(g, p, k);
    for (int64_t group = 0; group < g->w.group; group++) {
      uint8_t *to = patch + (size_t)(group * places + k) * chunk;
      if (at < 0)
        memset(to, 0, chunk); /* 0, in doubles too */
      else
        memcpy(to, x + (size_t)(at * g->w.group + group) * chunk, chunk);
    }
  }
}

void dense_conv_op(const DenseOp *d)
{
  const Tensor *x = &d->in[0], *w = &d->in[1];
  Geometry g = geometry(d);
  int64_t k = kernel_places(&g) * (g.channels / g.w.group), outs = w->type.dim[0], places = out_places(&g);
  int64_t image = g.in[0] * g.in[1] * g.in[2] * g.channels, share = outs / g.w.group;
  Product p = {numbers_of(x->type.dtype), k, d->out, d->n_in == 3 ? &d->in[2] : NULL};
  uint8_t *weights = numbers_new(&p.num, d->tmp, outs * k), *pixels = numbers_new(&p.num, d->tmp, image);
  uint8_t *patch = numbers_new(&p.num, d->tmp, g.w.group * k);

  read_numbers(&p.num, w, 0, 1, outs * k, weights);
  for (int64_t b = 0; b < g.batch; b++) {
    read_numbers(&p.num, x, b * image, 1, image, pixels);
    for (int64_t at = 0; at < places; at++) {
      see(&g, p.num.bytes, pixels, at, patch);
      for (int64_t o = 0; o < outs; o++)
        put_product(&p, patch + o / share * k * p.num.bytes, weights + o * k * p.num.bytes,
                    (b * places + at) * outs + o, o);
    }
  }
}

/* One result. Long doubles hold 64-bit integers exactly, so maxima need no integer path. */
static void pool_max(const DenseOp *d, const Geometry *g, int64_t image, int64_t p, int64_t c, int64_t out)
{
  DType t = d->out->type.dtype;
  bool ints = dense_is_int(t), any = false;
  long double best = -(long double)INFINITY;

  for (int64_t k = 0; k < kernel_places(g); k++) {
    int64_t at = place_seen(g, p, k);
    if (at < 0)
      continue;
    long double v = tensor_get(&d->in[0], (image + at) * g->channels + c);
    best = v > best || isnan(v) ? v : best;
    any = true;
  }
  if (ints && !any)
    tensor_set_int(d->out, out, dense_int_lowest(t));
  else
    tensor_set(d->out, out, best);
}

static void pool_sum(const DenseOp *d, const Geometry *g, int64_t image, int64_t p, int64_t c, int64_t out)
{
  bool ints = dense_is_int(d->out->type.dtype);
  long double sum = 0;
  uint64_t total = 0;

  for (int64_t k = 0; k < kernel_places(g); k++) {
    int64_t at = place_seen(g, p, k), i = (image + at) * g->channels + c;
    if (at >= 0 && ints)
      total += (uint64_t)tensor_get_int(&d->in[0], i);
    else if (at >= 0)
      sum += tensor_get(&d->in[0], i);
  }
  if (ints)
    tensor_set_int(d->out, out, (int64_t)total);
  else
    tensor_set(d->out, out, sum);
}

void dense_pool_op(const DenseOp *d)
{
  Geometry g = geometry(d);
  int64_t out = 0;

  for (int64_t b = 0; b < g.batch; b++)
    for (int64_t p = 0; p < out_places(&g); p++)
      for (int64_t c = 0; c < g.channels; c++, out++)
        (d->op == OP_pool_max ? pool_max : pool_sum)(d, &g, b * g.in[0] * g.in[1] * g.in[2], p, c, out);
}
