/* op_einsum.c - ONNX Einsum: operands are joined one after the other, each time as one batched product.
 *
 * A label is a letter, or a dimension that "..." stands for, counted from the last. What no later operand and not the
 * result names is summed as early as possible. */
#include "frontend/onnx/onnx_ops.h"

enum { LETTERS = 52, LABELS = LETTERS + MAX_RANK };

typedef struct {
  uint8_t label[MAX_RANK];
  uint32_t n;
} Labels;

typedef struct {
  Val v;
  Labels l; /* one for each dimension of v */
} Operand;

typedef struct {
  Import *im;
  const OnnxNode *n;
  Labels out;
  uint32_t dots; /* dimensions of the longest "..." */
  bool explicit_out;
} Einsum;

static int find(const Labels *l, uint8_t label)
{
  for (uint32_t i = 0; i < l->n; i++)
    if (l->label[i] == label)
      return (int)i;
  return -1;
}

static void drop(Labels *l, uint32_t at)
{
  memmove(l->label + at, l->label + at + 1, --l->n - at);
}

static int letter(char c)
{
  return c >= 'a' && c <= 'z' ? c - 'a' + 26 : c >= 'A' && c <= 'Z' ? c - 'A' : -1;
}

/* ---- the equation. Capitals stand before small letters, as in numpy. */

static bool push(Einsum *e, Labels *l, uint8_t label)
{
  if (l->n == MAX_RANK)
    return im_fail(e->im, e->n, "a term has more than %d dimensions", MAX_RANK);
  l->label[l->n++] = label;
  return true;
}

/* One term up to `end`; dots: how many dimensions its "..." has. */
static bool read_term(Einsum *e, const char *p, const char *end, uint32_t dots, Labels *l)
{
  bool ok = true;

  *l = (Labels){0};
  for (; p < end && ok; p++) {
    if (*p == ' ')
      continue;
    if (end - p >= 3 && !strncmp(p, "...", 3)) {
      for (uint32_t i = dots; i-- > 0 && ok;)
        ok = push(e, l, (uint8_t)(LETTERS + i));
      p += 2;
    } else {
      ok = letter(*p) >= 0 ? push(e, l, (uint8_t)letter(*p))
                           : im_fail(e->im, e->n, "'%c' in the equation is no label", *p);
    }
  }
  return ok;
}

static uint32_t letters_in(const char *p, const char *end)
{
  uint32_t n = 0;

  for (; p < end; p++)
    n += letter(*p) >= 0;
  return n;
}

static bool has_dots(const char *p, const char *end)
{
  return memchr(p, '.', (size_t)(end - p)) != NULL;
}

static bool read_operand(Einsum *e, const char *p, const char *end, Val v, Operand *o)
{
  uint32_t rank = im_rank(e->im, v), letters = letters_in(p, end);
  uint32_t dots = rank > letters ? rank - letters : 0;

  o->v = im_float_compute(e->im, v);
  if (letters + (has_dots(p, end) ? dots : 0) != rank)
    return im_fail(e->im, e->n, "a term has %u labels for %u dimensions", letters, rank);
  e->dots = dots > e->dots ? dots : e->dots;
  return read_term(e, p, end, dots, &o->l);
}

/* Without "->": "...", then what stands once, in the order of the alphabet. */
static bool implied_out(Einsum *e, const uint32_t *times)
{
  bool ok = true;

  for (uint32_t i = e->dots; i-- > 0 && ok;)
    ok = push(e, &e->out, (uint8_t)(LETTERS + i));
  for (uint32_t i = 0; i < LETTERS && ok; i++)
    ok = times[i] != 1 || push(e, &e->out, (uint8_t)i);
  return ok;
}

static bool read_equation(Einsum *e, const char *text, Operand *o, uint32_t count)
{
  const char *arrow = strstr(text, "->"), *end = arrow ? arrow : text + strlen(text), *p = text;
  uint32_t times[LABELS] = {0};

  for (uint32_t i = 0; i < count; i++) {
    const char *comma = memchr(p, ',', (size_t)(end - p)), *stop = comma ? comma : end;
    if ((!comma) != (i + 1 == count))
      return im_fail(e->im, e->n, "the equation is not for %u inputs", count);
    if (!read_operand(e, p, stop, im_in(e->im, e->n, i), &o[i]))
      return false;
    for (uint32_t k = 0; k < o[i].l.n; k++)
      times[o[i].l.label[k]]++;
    p = stop + 1;
  }
  if (!arrow)
    return implied_out(e, times);
  return read_term(e, arrow + 2, text + strlen(text), e->dots, &e->out);
}

/* ---- one operand */

static Val move_last(Import *im, Operand *o, uint32_t at)
{
  uint8_t label = o->l.label[at];

  drop(&o->l, at);
  o->l.label[o->l.n++] = label;
  return im_move(im, o->v, at, o->l.n - 1);
}

/* A label that stands twice means the diagonal. */
static void take_diagonals(Einsum *e, Operand *o)
{
  for (uint32_t i = 0; i < o->l.n && im_ok(e->im); i++) {
    Labels behind = o->l;
    memmove(behind.label, behind.label + i + 1, behind.n -= i + 1);
    int twin = find(&behind, o->l.label[i]);
    if (twin < 0)
      continue;
    o->v = move_last(e->im, o, i + 1 + (uint32_t)twin);
    o->v = move_last(e->im, o, i);
    Type t = im_type(e->im, o->v);
    int64_t d = t.dim[t.rank - 1];
    if (t.dim[t.rank - 2] != d) {
      im_fail(e->im, e->n, "a diagonal of dimensions %lld and %lld", (long long)t.dim[t.rank - 2],
              (long long)d);
      return;
    }
    t.dim[--t.rank - 1] = d * d;
    o->v = im_slice(e->im, im_reshape(e->im, o->v, t.rank, t.dim), t.rank - 1, 0, d, d + 1);
    o->l.n--;
    i = (uint32_t)-1;
  }
}

/* Sums what only this operand has. */
static void sum_rest(Einsum *e, Operand *o, const bool *needed)
{
  uint32_t axes = 0;

  for (uint32_t i = 0; i < o->l.n; i++)
    axes |= needed[o->l.label[i]] ? 0 : 1u << i;
  for (uint32_t i = o->l.n; i-- > 0;)
    if (axes >> i & 1)
      drop(&o->l, i);
  if (axes)
    o->v = im_sum(e->im, o->v, axes, false);
}

/* The operand's dimensions in the order of `want`; labels that it lacks get 1. */
static Val arranged(Import *im, const Operand *o, const Labels *want)
{
  uint8_t perm[MAX_RANK];
  uint32_t k = 0, missing = 0;

  for (uint32_t i = 0; i < want->n; i++) {
    int at = find(&o->l, want->label[i]);
    if (at >= 0)
      perm[k++] = (uint8_t)at;
    else
      missing |= 1u << i;
  }
  return im_unsqueeze_mask(im, im_transpose(im, o->v, perm), missing);
}

/* ---- two operands */

typedef struct {
  Labels batch, rows, columns, inner; /* in both and kept; in a; in b; in both and summed */
} Join;

static bool append(Einsum *e, Labels *to, const Labels *from)
{
  for (uint32_t i = 0; i < from->n; i++)
    if (!push(e, to, from->label[i]))
      return false;
  return true;
}

static bool sort_labels(Einsum *e, const Operand *a, const Operand *b, const bool *needed, Join *j)
{
  bool ok = true;

  *j = (Join){0};
  for (uint32_t i = 0; i < a->l.n && ok; i++) {
    uint8_t x = a->l.label[i];
    ok = push(e, find(&b->l, x) < 0 ? &j->rows : needed[x] ? &j->batch : &j->inner, x);
  }
  for (uint32_t i = 0; i < b->l.n && ok; i++)
    if (find(&a->l, b->l.label[i]) < 0)
      ok = push(e, &j->columns, b->l.label[i]);
  return ok;
}

/* A dimension of 1 under a label that is larger in the other one. */
static void broadcast_labels(Einsum *e, Operand *a, const Operand *b)
{
  Type t = im_type(e->im, a->v), tb = im_type(e->im, b->v);

  for (uint32_t i = 0; i < a->l.n; i++) {
    int at = find(&b->l, a->l.label[i]);
    if (at >= 0 && t.dim[i] == 1)
      t.dim[i] = tb.dim[at];
  }
  a->v = im_expand(e->im, a->v, t.rank, t.dim);
}

static int64_t product_of(const Import *im, const Operand *o, const Labels *l)
{
  int64_t n = 1;

  for (uint32_t i = 0; i < l->n; i++)
    n *= im_dim(im, o->v, find(&o->l, l->label[i]));
  return n;
}

/* [batch, first, second], without a batch [first, second]. */
static Val as_matrices(Einsum *e, const Operand *o, const Labels *batch, const Labels *first,
                       const Labels *second)
{
  int64_t d[3] = {product_of(e->im, o, batch), product_of(e->im, o, first), product_of(e->im, o, second)};
  Labels all = *batch;

  if (!append(e, &all, first) || !append(e, &all, second))
    return 0;
  return im_reshape(e->im, arranged(e->im, o, &all), batch->n ? 3 : 2, batch->n ? d : d + 1);
}

static Operand join(Einsum *e, Operand a, Operand b, const bool *needed)
{
  Operand y = {0};
  Join j;

  broadcast_labels(e, &a, &b);
  broadcast_labels(e, &b, &a);
  if (!sort_labels(e, &a, &b, needed, &j))
    return y;
  y.l = j.batch;
  if (!append(e, &y.l, &j.rows) || !append(e, &y.l, &j.columns))
    return y;
  if (!j.inner.n) {
    y.v = im_add2(e->im, OP_mul, arranged(e->im, &a, &y.l), arranged(e->im, &b, &y.l));
    return y;
  }
  Type t = {.rank = y.l.n};
  for (uint32_t i = 0; i < y.l.n; i++) {
    const Operand *o = find(&a.l, y.l.label[i]) >= 0 ? &a : &b;
    t.dim[i] = im_dim(e->im, o->v, find(&o->l, y.l.label[i]));
  }
  Val left = as_matrices(e, &a, &j.batch, &j.rows, &j.inner);
  Val right = as_matrices(e, &b, &j.batch, &j.inner, &j.columns);
  y.v = im_reshape(e->im, im_matmul(e->im, left, right), t.rank, t.dim);
  return y;
}

/* Labels of the result, and of operands from `from` on. */
static void mark_needed(const Einsum *e, const Operand *o, uint32_t from, uint32_t count, bool *needed)
{
  memset(needed, 0, LABELS * sizeof *needed);
  for (uint32_t i = 0; i < e->out.n; i++)
    needed[e->out.label[i]] = true;
  for (; from < count; from++)
    for (uint32_t i = 0; i < o[from].l.n; i++)
      needed[o[from].l.label[i]] = true;
}

bool op_einsum(Import *im, const OnnxNode *n)
{
  uint32_t count = im_in_count(n);
  Operand *o = NEW_ARRAY(im->arena, Operand, count + 1);
  Einsum e = {.im = im, .n = n};
  bool needed[LABELS];

  if (!count || !read_equation(&e, im_str(im, n, "equation", ""), o, count))
    return im_fail(im, n, "the equation cannot be read");
  for (uint32_t i = 0; i < count; i++)
    take_diagonals(&e, &o[i]);
  for (uint32_t i = 1; i < count && im_ok(im); i++) {
    mark_needed(&e, o, i, count, needed);
    sum_rest(&e, &o[i - 1], needed);
    mark_needed(&e, o, i + 1, count, needed);
    Labels a = o[i - 1].l;
    bool later[LABELS];
    memcpy(later, needed, sizeof later);
    for (uint32_t k = 0; k < a.n; k++)
      needed[a.label[k]] = true;
    sum_rest(&e, &o[i], needed);
    o[i] = join(&e, o[i - 1], o[i], later);
  }
  mark_needed(&e, o, count, count, needed);
  sum_rest(&e, &o[count - 1], needed);
  for (uint32_t i = 0; i < e.out.n; i++)
    if (find(&o[count - 1].l, e.out.label[i]) < 0 && e.out.label[i] < LETTERS)
      return im_fail(im, n, "the result has a label that no input has");
  return im_out(im, n, 0, im_cast_like(im, arranged(im, &o[count - 1], &e.out), im_in(im, n, 0)));
}
