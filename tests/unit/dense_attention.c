/* Attention of dense graphs, lowered, against the oracle: random shapes, layouts and masks, at every number of lanes; few
 * and many keys, rows that see nothing. */
#include <criterion/criterion.h>
#include <math.h>

#include "tests/unit/support/dense_check.h"

/* Of the shape, as it is, or with two dimensions swapped. */
static Val layout(Make *b, Type t)
{
  Attr attr = {.name = NULL};
  Type from = t;

  if (make_below(b, 3) == 0)
    return make_operand(b, "x", t);
  if (make_below(b, 2))
    return make_input(b, "x", t);
  uint32_t i = (uint32_t)make_below(b, t.rank), j = t.rank - 1 - (uint32_t)make_below(b, 3);
  for (uint32_t d = 0; d < t.rank; d++)
    attr.perm[d] = (uint8_t)(d == i ? j : d == j ? i : d);
  from.dim[i] = t.dim[j];
  from.dim[j] = t.dim[i];
  return MAKE(b, OP_transpose, attr, NULL, make_input(b, "x", from));
}

/* Broadcast to scores, which it may hide. */
static Val mask(Make *b, Type scores)
{
  Type t = scores, whole;

  for (uint32_t i = 0; i + 1 < t.rank; i++)
    t.dim[i] = make_below(b, 2) ? t.dim[i] : 1;
  whole = t;
  if (make_below(b, 3) == 0) { /* fewer dimensions */
    t.rank--;
    memmove(t.dim, t.dim + 1, t.rank * sizeof *t.dim);
    whole = t;
  }
  if (make_below(b, 2))
    return make_operand(b, "x", t);
  whole.dtype = DT_BOOL;
  return MAKE(b, OP_where, ATTR(0), NULL, make_input(b, "x", whole), make_constant(b, t.dtype, 0.5),
              make_constant(b, t.dtype, -(double)INFINITY));
}

static int64_t one_of(Make *b, int64_t a, int64_t other)
{
  return make_below(b, 2) ? a : other;
}

static void attend(Make *b, int64_t rows, int64_t keys)
{
  uint32_t rank = 3 + (uint32_t)make_below(b, 3), n = rank - 3;
  int64_t groups = 1 + make_below(b, 3), heads = groups * (1 + make_below(b, 3));
  Type q = {.dtype = b->t, .rank = rank}, k, v, scores;

  for (uint32_t i = 0; i < n; i++)
    q.dim[i] = 1 + make_below(b, 3);
  k = q;
  for (uint32_t i = 0; i < n; i++)
    k.dim[i] = one_of(b, q.dim[i], 1);
  v = scores = q;
  q.dim[n] = rows;
  k.dim[n] = v.dim[n] = keys;
  q.dim[n + 1] = heads;
  k.dim[n + 1] = v.dim[n + 1] = groups;
  q.dim[n + 2] = k.dim[n + 2] = 1 + make_below(b, 40);
  v.dim[n + 2] = one_of(b, q.dim[n + 2], 1 + make_below(b, 70));
  scores.dim[n] = heads;
  scores.dim[n + 1] = rows;
  scores.dim[n + 2] = keys;
  Attr attr = {
      .attention = {.scale = 0.2f, .softcap = make_below(b, 4) ? 0 : 2, .nan_is_0 = make_below(b, 2)}};
  Val in[] = {layout(b, q), layout(b, k), layout(b, v), make_below(b, 2) ? mask(b, scores) : 0};
  make_output(b, make_after(b, make_node(b, OP_sdpa, attr, NULL, in[3] ? 4 : 3, in)));
}

static void few(Make *b)
{
  attend(b, 1 + make_below(b, 60), 1 + make_below(b, 60));
}

/* Several tiles of keys. */
static void many(Make *b)
{
  attend(b, 1 + make_below(b, 20), 400 + make_below(b, 1500));
}

/* ---- as exporters write it: what the pass makes of it must mean the same */

static Val swapped(Make *b, Val x)
{
  Attr attr = {.name = NULL};
  uint32_t n = make_type(b, x)->rank;

  for (uint32_t i = 0; i < n; i++)
    attr.perm[i] = (uint8_t)(i + 2 < n ? i : 2 * n - 3 - i);
  return MAKE(b, OP_transpose, attr, NULL, x);
}

static Val scaled(Make *b, Val x, double by)
{
  return make_below(b, 2) ? MAKE(b, OP_mul, ATTR(0), NULL, make_constant(b, b->t, by), x)
                          : MAKE(b, OP_div, ATTR(0), NULL, x, make_constant(b, b->t, 1 / by));
}

static Val masked(Make *b, Val scores)
{
  Type t = *make_type(b, scores);

  if (make_below(b, 3) == 0)
    return scores;
  if (make_below(b, 2))
    return MAKE(b, OP_add, ATTR(0), NULL, mask(b, t), scores);
  t.dtype = DT_BOOL;
  t.dim[0] = 1;
  Val low = make_constant(b, b->t, make_below(b, 2) ? -(double)INFINITY : -3e38);
  return MAKE(b, OP_where, ATTR(0), NULL, make_input(b, "x", t), scores, low);
}

static Val reshaped(Make *b, Val x, uint32_t rank, const int64_t *dim)
{
  Type t = type_of(b->t, rank, dim);
  return MAKE(b, OP_reshape, ATTR(0), &t, x);
}

/* Heads are dimension 1; those of a group are rows of one product. */
static void pattern(Make *b)
{
  int64_t n = 1 + make_below(b, 2), groups = 1 + make_below(b, 3), share = 1 + make_below(b, 2);
  int64_t rows = make_below(b, 2) ? 16 : 48 + make_below(b, 20), keys = 1 + make_below(b, 20),
          size = 1 + make_below(b, 12);
  int64_t heads = groups * share;
  Val q = layout(b, MAKE_SHAPE(b->t, n, heads, rows, size)),
      k = layout(b, MAKE_SHAPE(b->t, n, groups, keys, size)),
      v = layout(b, MAKE_SHAPE(b->t, n, groups, keys, size + 1));

  if (make_below(b, 2))
    q = scaled(b, q, 0.5);
  q = reshaped(b, q, 4, (int64_t[]){n, groups, share * rows, size});
  Val s = MAKE(b, OP_matmul, ATTR(0), NULL, q, swapped(b, k));
  if (make_below(b, 2))
    s = scaled(b, s, 0.3);
  s = reshaped(b, s, 4, (int64_t[]){n, heads, rows, keys});
  if (make_below(b, 4) == 0)
    s = scaled(b, MAKE(b, OP_tanh, ATTR(0), NULL, s), 3);
  s = MAKE(b, OP_softmax, ATTR(0), NULL, masked(b, masked(b, s)));
  if (make_below(b, 3) == 0)
    s = MAKE(b, OP_where, ATTR(0), NULL, MAKE(b, OP_eq, ATTR(0), NULL, s, s), s, make_constant(b, b->t, 0));
  else if (make_below(b, 2))
    s = MAKE(b, OP_where, ATTR(0), NULL, make_input(b, "x", MAKE_SHAPE(DT_BOOL, heads, rows, 1)),
             make_constant(b, b->t, 0), s);
  s = reshaped(b, s, 4, (int64_t[]){n, groups, share * rows, keys});
  s = MAKE(b, OP_matmul, ATTR(0), NULL, s, v);
  s = reshaped(b, s, 4, (int64_t[]){n, heads, rows, size + 1});
  make_output(b, make_after(b, swapped(b, s)));
}

static const DenseOps cases[] = {{few, OP_sdpa, TAKES_FLOAT, 16}, {many, OP_sdpa, TAKES_FLOAT, 2}};
static const DenseOps exported = {pattern, OP_none, TAKES_FLOAT, 24};

static void check_all(const char *cpu, ExecWay way)
{
  static const DType types[] = {DT_F16, DT_BF16, DT_F32};

  for (size_t i = 0; i < COUNT(cases); i++)
    for (size_t t = 0; t < COUNT(types); t++)
      dense_check_type(&cases[i], types[t], cases[i].seeds, cpu, way);
  dense_check_type(&exported, DT_F32, exported.seeds, cpu,
                   way); /* in 16 bits the oracle rounds scores, too */
}

Test(dense_attention, interpreted_4_lanes)
{
  check_all("x86-64-v2", EXEC_EVAL);
}

Test(dense_attention, interpreted_8_lanes)
{
  check_all("x86-64-v3", EXEC_EVAL);
}

Test(dense_attention, interpreted_16_lanes)
{
  check_all("x86-64-v4", EXEC_EVAL);
}

#if MICC_HAVE_TCC
Test(dense_attention, in_c)
{
  check_all("c", EXEC_TCC);
}
#endif

#if MICC_HAVE_LLVM
Test(dense_attention, in_llvm)
{
  check_all("native", EXEC_LLVM);
}
#endif
