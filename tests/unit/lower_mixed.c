/* Lowered dense graphs of many ops, which share values, end in several outputs, and whose groups and places interact. */
#include "tests/unit/support/dense_check.h"

#include <criterion/criterion.h>

enum { MIXED_NODES = 24 };

static Val mixed_movement(Make *b, Val v)
{
  const Type t = *make_type(b, v);
  Attr attr = {.name = NULL};
  uint32_t axis = (uint32_t)make_below(b, t.rank);

  switch (make_below(b, 4)) {
  case 0:
    for (uint32_t i = 0; i < t.rank; i++)
      attr.perm[i] = (uint8_t)((i + axis) % t.rank);
    return MAKE(b, OP_transpose, attr, NULL, v);
  case 1:
    attr.slice.axis = axis;
    attr.slice.step = 1 + make_below(b, 2);
    attr.slice.count = (t.dim[axis] + 1) / 2;
    attr.slice.start = 0;
    return MAKE(b, OP_slice, attr, NULL, v);
  case 2: {
    Type flat = t.rank > 1 && make_below(b, 2) ? MAKE_SHAPE(t.dtype, type_rows(&t), type_last(&t))
                                               : MAKE_SHAPE(t.dtype, 1, type_count(&t));
    return MAKE(b, OP_reshape, attr, &flat, v);
  }
  default: {
    Type wide = t;
    if (t.dim[axis] == 1)
      wide.dim[axis] = 3;
    return MAKE(b, OP_expand, attr, &wide, v);
  }
  }
}

/* A value that broadcasts with v. */
static Val mixed_partner(Make *b, const Val *known, uint32_t n, Val v)
{
  const Type *t = make_type(b, v);

  for (uint32_t i = 0; i < 8; i++) {
    Val o = known[make_below(b, n)];
    if (type_eq(make_type(b, o), t))
      return o;
  }
  Type last = MAKE_SHAPE(t->dtype, type_last(t));
  switch (make_below(b, 4)) {
  case 0: return make_weight(b, "w", last);
  case 1: return make_constant(b, t->dtype, 0.5);
  case 2: return MAKE(b, OP_reduce_max, ATTR(.axes = 1u << make_below(b, t->rank)), NULL, v);
  default: return make_input(b, "x", *t);
  }
}

static Val mixed_anchor(Make *b, Val v)
{
  const Type t = *make_type(b, v);
  uint32_t axis = (uint32_t)make_below(b, t.rank);
  int64_t k = type_last(&t), n = 1 + make_below(b, 24);

  switch (make_below(b, 7)) {
  case 0: return MAKE(b, OP_softmax, ATTR(0), NULL, v);
  case 1: return MAKE(b, OP_reduce_sum, ATTR(.axes = 1u << axis), NULL, v);
  case 2: return MAKE(b, OP_cumsum, ATTR(.scan = {axis, make_below(b, 2), make_below(b, 2)}), NULL, v);
  case 3: return MAKE(b, OP_linear, ATTR(0), NULL, v, make_weight(b, "w", MAKE_SHAPE(t.dtype, n, k)));
  case 4:
    return MAKE(b, OP_gather, ATTR(.axis = axis), NULL, v, make_weight(b, "idx", MAKE_SHAPE(DT_I64, n)));
  case 5:
    return t.rank > 1 ? MAKE(b, OP_matmul, ATTR(0), NULL, v, make_weight(b, "w", MAKE_SHAPE(t.dtype, k, n)))
                      : v;
  default:
    return t.rank > 2 ? MAKE(b, OP_pool_max,
                             ATTR(.window = {.spatial = t.rank - 2 < 3 ? t.rank - 2 : 3,
                                             .group = 1,
                                             .kernel = {1, 1, 1},
                                             .stride = {1, 1, 1},
                                             .dilation = {1, 1, 1}}),
                             NULL, v)
                      : v;
  }
}

static void op_mixed(Make *b)
{
  static const Op unary[] = {OP_neg, OP_abs, OP_tanh, OP_sigmoid, OP_relu, OP_atan, OP_erf};
  static const Op binary[] = {OP_add, OP_sub, OP_mul, OP_max, OP_min};
  Val known[2 + MIXED_NODES];
  uint8_t used[4096] = {0};
  uint32_t n = 0;

  known[n++] = make_input(b, "x", make_random_shape(b, b->t, 1 + (uint32_t)make_below(b, 4)));
  known[n++] = make_input(b, "x", make_random_shape(b, b->t, 1 + (uint32_t)make_below(b, 3)));
  while (n < COUNT(known)) {
    Val v = known[n - 1 - make_below(b, n < 6 ? n : 6)], r;
    const Type t = *make_type(b, v);
    switch (make_below(b, 10)) {
    case 0:
    case 1: r = MAKE(b, unary[make_below(b, COUNT(unary))], ATTR(0), NULL, v); break;
    case 2:
    case 3:
    case 4:
      r = MAKE(b, binary[make_below(b, COUNT(binary))], ATTR(0), NULL, v, mixed_partner(b, known, n, v));
      break;
    case 5:
    case 6: r = mixed_movement(b, v); break;
    case 7: {
      Val o = known[make_below(b, n)];
      r = type_eq(make_type(b, o), &t)
              ? MAKE(b, OP_concat, ATTR(.axis = (uint32_t)make_below(b, t.rank)), NULL, v, o)
              : v;
      break;
    }
    default: r = mixed_anchor(b, v);
    }
    if (type_count(make_type(b, r)) > 4000)
      r = make_input(b, "x", make_random_shape(b, b->t, 2));
    known[n++] = r;
  }
  for (Val v = 1; v < b->g->nodes.len; v++)
    for (uint32_t i = 0; i < graph_node(b->g, v)->in.count; i++)
      used[graph_in(b->g, v, i)] = 1;
  Val last = b->g->nodes.len;
  for (Val v = 1; v < last; v++)
    if (!used[v] || !make_below(b, 10))
      make_output(b, v);
}

static const DenseOps mixed = {op_mixed, OP_none, TAKES_FLOAT, 0};

Test(lower_mixed, interpreted)
{
  dense_check_type(&mixed, DT_F32, 200, "x86-64-v3", EXEC_EVAL);
  dense_check_type(&mixed, DT_F32, 100, "x86-64-v4", EXEC_EVAL);
}

#if MICC_HAVE_LLVM
Test(lower_mixed, in_llvm)
{
  dense_check_type(&mixed, DT_F32, 20, "native", EXEC_LLVM);
}
#endif
