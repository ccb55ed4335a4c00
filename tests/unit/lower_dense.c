/* Lowered dense graphs against their oracle: every op and element type, random graphs; through the kernel interpreter at
 * 4, 8 and 16 lanes, through C (libtcc) and through LLVM. What is read before it is written, or past an end, shows. */
#include "tests/unit/support/dense_check.h"

#include <criterion/criterion.h>

/* ---- one op in graphs of its own */

static void op_unary(Make *b)
{
  const char *name = b->op == OP_log || b->op == OP_sqrt ? "pos" : "x";
  Val x = make_input(b, name, MAKE_SHAPE(b->t, 1 + make_below(b, 3), 19 + make_below(b, 30)));
  make_output(b, MAKE(b, b->op, ATTR(0), NULL, x));
}

static void op_binary(Make *b)
{
  const char *name = b->op == OP_pow ? "pos" : "x";
  int64_t m = 1 + make_below(b, 5), n = 1 + make_below(b, 40);
  Val x = make_input(b, name, MAKE_SHAPE(b->t, 3, m, n)), y;

  switch (make_below(b, 4)) {
  case 0: y = make_input(b, name, MAKE_SHAPE(b->t, n)); break;
  case 1: y = make_weight(b, name, MAKE_SHAPE(b->t, m, 1)); break;
  case 2: y = make_constant(b, b->t, 2); break;
  default: y = make_input(b, name, MAKE_SHAPE(b->t, 3, m, n));
  }
  make_output(b,
              make_below(b, 2) ? MAKE(b, b->op, ATTR(0), NULL, x, y) : MAKE(b, b->op, ATTR(0), NULL, y, x));
}

static void op_where(Make *b)
{
  int64_t m = 1 + make_below(b, 5), n = 1 + make_below(b, 40);
  Val c = make_operand(b, "x", MAKE_SHAPE(DT_BOOL, m, 1)), x = make_operand(b, "x", MAKE_SHAPE(b->t, m, n)),
      y = make_operand(b, "x", MAKE_SHAPE(b->t, n));
  make_output(b, MAKE(b, OP_where, ATTR(0), NULL, c, x, y));
}

static void op_cast(Make *b)
{
  for (int t = 0; t < DT_COUNT; t++) {
    Type to = MAKE_SHAPE((DType)t, 21);
    if (!dtype_is_element((DType)t))
      continue;
    Val x = make_input(b, "x", MAKE_SHAPE(b->t, 21));
    Val y = MAKE(b, OP_cast, ATTR(.saturate = make_below(b, 2)), &to, x);
    make_output(b, y);
    if (dtype_info[t].bytes == dtype_info[b->t].bytes && dtype_bits((DType)t) >= 8 && dtype_bits(b->t) >= 8)
      make_output(b, MAKE(b, OP_bitcast, ATTR(0), &to, x));
  }
}

static void op_reduce(Make *b)
{
  Type t = make_random_shape(b, b->t, 1 + (uint32_t)make_below(b, 4));
  uint32_t axes = (uint32_t)make_below(b, 1u << t.rank);
  if (!make_below(b, 8))
    t.dim[make_below(b, t.rank)] = 0;
  make_output(b, make_after(b, MAKE(b, b->op, ATTR(.axes = axes), NULL, make_operand(b, "x", t))));
}

static void op_axis(Make *b)
{
  Type t = make_random_shape(b, b->t, 1 + (uint32_t)make_below(b, 4));
  uint32_t axis = (uint32_t)make_below(b, t.rank);
  Attr attr = {.name = NULL};

  if (b->op == OP_argmax || b->op == OP_argmin) {
    attr.arg.axis = axis;
    attr.arg.last = make_below(b, 2);
  } else {
    attr.scan.axis = axis;
    attr.scan.exclusive = make_below(b, 2);
    attr.scan.reverse = make_below(b, 2);
  }
  make_output(b, make_after(b, MAKE(b, b->op, attr, NULL, make_operand(b, "x", t))));
}

static void op_softmax(Make *b)
{
  make_output(
      b,
      make_after(b, MAKE(b, OP_softmax, ATTR(0), NULL,
                         make_operand(b, "x", make_random_shape(b, b->t, 1 + (uint32_t)make_below(b, 4))))));
}

static void op_topk(Make *b)
{
  Type t = make_random_shape(b, b->t, 1 + (uint32_t)make_below(b, 3));
  Attr attr = {.topk = {1 + make_below(b, (uint32_t)type_last(&t)), make_below(b, 2)}};
  make_output(b, MAKE(b, OP_topk, attr, NULL, make_operand(b, "x", t)));
}

static void op_gather(Make *b)
{
  Type t = make_random_shape(b, b->t, 1 + (uint32_t)make_below(b, 3)),
       it = make_random_shape(b, make_below(b, 2) ? DT_I64 : DT_I32, (uint32_t)make_below(b, 3));
  make_output(b, make_after(b, MAKE(b, OP_gather, ATTR(.axis = (uint32_t)make_below(b, t.rank)), NULL,
                                    make_operand(b, "x", t), make_operand(b, "idx", it))));
}

static void op_scatter(Make *b)
{
  Type t = make_random_shape(b, b->t, 1 + (uint32_t)make_below(b, 3)), u = t;
  u.dim[0] = 1 + make_below(b, 6);
  bool num = dtype_is_number(b->t);
  Attr attr = {.reduce = num ? (ScatterReduce)make_below(b, 5) : SCATTER_NONE};
  make_output(b, MAKE(b, OP_scatter, attr, NULL, make_operand(b, "x", t),
                      make_operand(b, "idx", MAKE_SHAPE(DT_I64, u.dim[0])), make_operand(b, "x", u)));
}

static void op_pad(Make *b)
{
  Type t = make_random_shape(b, b->t, 1 + (uint32_t)make_below(b, 3)), to = t;
  Attr attr = {.name = NULL};

  for (uint32_t i = 0; i < t.rank; i++) {
    attr.pad.lo[i] = make_below(b, 5) - 2;
    to.dim[i] = max64(0, t.dim[i] + make_below(b, 5) - 1);
  }
  make_output(b,
              make_after(b, MAKE(b, OP_pad, attr, &to, make_operand(b, "x", t), make_constant(b, b->t, 1))));
}

static void op_movement(Make *b)
{
  Type t = make_random_shape(b, b->t, 1 + (uint32_t)make_below(b, 4)), wide = t;
  Val x = make_before(b, make_before(b, make_input(b, "x", t)));

  for (uint32_t i = 0; i < t.rank; i++)
    if (t.dim[i] == 1)
      wide.dim[i] = 1 + make_below(b, 4);
  make_output(b, MAKE(b, OP_expand, ATTR(0), &wide, x));
  if (t.rank > 1) {
    Attr attr = {.name = NULL};
    for (uint32_t i = 0; i < t.rank; i++)
      attr.perm[i] = (uint8_t)((i + 1) % t.rank);
    make_output(b, MAKE(b, OP_transpose, attr, NULL, x));
  }
  make_output(b, x);
  make_output(b, make_weight(b, "w", t));
}

/* Large enough for tiles in registers. */
static void op_transpose(Make *b)
{
  int64_t n = 1 + make_below(b, 70), m = 1 + make_below(b, 70), c = 1 + make_below(b, 5);
  Val x = make_input(b, "x", MAKE_SHAPE(b->t, c, m, n)), y = make_weight(b, "w", MAKE_SHAPE(b->t, n));
  Attr attr = {.perm = {1, 2, 0}}, back = {.perm = {0, 2, 1}};

  make_output(b, MAKE(b, OP_transpose, attr, NULL, x));
  if (dtype_is_number(b->t))
    x = MAKE(b, OP_sub, ATTR(0), NULL, x, y);
  make_output(b, MAKE(b, OP_transpose, back, NULL, x));
}

/* Results that become every second element of a whole. */
static void op_stack(Make *b)
{
  Type t = make_random_shape(b, b->t, 2), apart = MAKE_SHAPE(b->t, t.dim[0], t.dim[1], 1);
  Val in[2];

  for (int i = 0; i < 2; i++) {
    in[i] = make_operand(b, "x", t);
    if (dtype_is_number(b->t))
      in[i] =
          MAKE(b, OP_linear, ATTR(0), NULL, in[i], make_weight(b, "w", MAKE_SHAPE(b->t, t.dim[1], t.dim[1])));
    apart.dtype = make_type(b, in[i])->dtype;
    in[i] = MAKE(b, OP_reshape, ATTR(0), &apart, in[i]);
  }
  make_output(b, MAKE(b, OP_concat, ATTR(.axis = 2), NULL, in[0], in[1]));
}

static void op_concat(Make *b)
{
  Type t = make_random_shape(b, b->t, 1 + (uint32_t)make_below(b, 3));
  uint32_t axis = (uint32_t)make_below(b, t.rank);
  Val in[4], y;

  for (int i = 0; i < 4; i++) {
    t.dim[axis] = make_below(b, 5);
    in[i] = make_operand(b, "x", t);
    if (dtype_is_number(b->t))
      in[i] = MAKE(b, OP_neg, ATTR(0), NULL, in[i]);
  }
  y = MAKE(b, OP_concat, ATTR(.axis = axis), NULL, in[0], in[1], in[2]);
  make_output(b, make_after(b, y));
  make_output(b, MAKE(b, OP_concat, ATTR(.axis = axis), NULL, y, in[3], in[0]));
}

static void op_linear(Make *b)
{
  int64_t k = 1 + make_below(b, 20), n = 1 + make_below(b, 70), m = 1 + make_below(b, 30);
  Type w = MAKE_SHAPE(b->t, n, k);
  Val wv = make_below(b, 4) ? make_weight(b, "w", w) : make_operand(b, "x", w);
  Val x = make_below(b, 2) ? make_operand(b, "x", MAKE_SHAPE(b->t, m, k))
                           : make_operand(b, "x", MAKE_SHAPE(b->t, 2, m, k));
  make_output(b, make_after(b, MAKE(b, OP_linear, ATTR(0), NULL, x, wv)));
}

static void op_matmul(Make *b)
{
  int64_t k = 1 + make_below(b, 20), n = 1 + make_below(b, 40), m = 1 + make_below(b, 30);
  Val x = make_below(b, 2) ? make_operand(b, "x", MAKE_SHAPE(b->t, m, k))
                           : make_operand(b, "x", MAKE_SHAPE(b->t, 2, 3, m, k));
  Val y = make_below(b, 2) ? make_operand(b, "x", MAKE_SHAPE(b->t, k, n))
                           : make_operand(b, "x", MAKE_SHAPE(b->t, 3, k, n));
  make_output(b, make_after(b, MAKE(b, OP_matmul, ATTR(0), NULL, x, y)));
}

static void op_window(Make *b)
{
  uint32_t d = 1 + (uint32_t)make_below(b, 3);
  int64_t group = b->op == OP_conv ? 1 + make_below(b, 3) : 1, in_group = 1 + make_below(b, 9),
          out_group = 1 + make_below(b, 20);
  Type x = {.dtype = b->t, .rank = d + 2}, w = {.dtype = b->t, .rank = d + 2};
  Window win = {.spatial = d, .group = group};

  if (!make_below(b, 3)) { /* depthwise */
    group = win.group = b->op == OP_conv ? 1 + make_below(b, 40) : 1;
    in_group = out_group = 1;
  }
  x.dim[0] = 1 + make_below(b, 2);
  for (uint32_t i = 0; i < d; i++) {
    win.kernel[i] = 1 + make_below(b, 4);
    win.stride[i] = 1 + make_below(b, 3);
    win.dilation[i] = 1 + make_below(b, 2);
    win.pad_lo[i] = make_below(b, 3);
    win.pad_hi[i] = make_below(b, 3);
    x.dim[1 + i] = (win.kernel[i] - 1) * win.dilation[i] + 1 + make_below(b, d == 1 ? 40 : 9);
    w.dim[1 + i] = win.kernel[i];
  }
  x.dim[d + 1] = group * in_group;
  w.dim[0] = group * out_group;
  w.dim[d + 1] = in_group;
  Val xv = make_operand(b, "x", x);
  if (b->op != OP_conv) {
    make_output(b, make_after(b, MAKE(b, b->op, ATTR(.window = win), NULL, xv)));
    return;
  }
  Val wv = make_below(b, 4) ? make_weight(b, "w", w) : make_operand(b, "x", w);
  if (make_below(b, 2))
    make_output(b, make_after(b, MAKE(b, OP_conv, ATTR(.window = win), NULL, xv, wv)));
  else
    make_output(b, make_after(b, MAKE(b, OP_conv, ATTR(.window = win), NULL, xv, wv,
                                      make_weight(b, "w",
                                                  MAKE_SHAPE(b->t == DT_I8 || b->t == DT_U8 ? DT_I32 : b->t,
                                                             w.dim[0])))));
}

/* ---- which ops, of which types, how often */

static const DenseOps families[] = {
    {op_where, OP_where, TAKES_ALL, 2},
    {op_cast, OP_cast, TAKES_ANY, 1},
    {op_reduce, OP_reduce_sum, TAKES_NUM, 12},
    {op_reduce, OP_reduce_prod, TAKES_NUM, 4},
    {op_reduce, OP_reduce_max, TAKES_ALL, 4},
    {op_reduce, OP_reduce_min, TAKES_ALL, 4},
    {op_axis, OP_argmax, TAKES_NUM, 6},
    {op_axis, OP_argmin, TAKES_NUM, 4},
    {op_axis, OP_cumsum, TAKES_NUM, 6},
    {op_axis, OP_cumprod, TAKES_NUM, 2},
    {op_softmax, OP_softmax, TAKES_FLOAT, 12},
    {op_topk, OP_topk, TAKES_NUM, 4},
    {op_gather, OP_gather, TAKES_ANY, 6},
    {op_scatter, OP_scatter, TAKES_ANY, 6},
    {op_pad, OP_pad, TAKES_ANY, 6},
    {op_transpose, OP_transpose, TAKES_ANY, 4},
    {op_stack, OP_concat, TAKES_ANY, 2},
    {op_movement, OP_none, TAKES_ANY, 6},
    {op_concat, OP_concat, TAKES_ANY, 6},
    {op_linear, OP_linear, TAKES_NUM, 8},
    {op_matmul, OP_matmul, TAKES_NUM, 8},
    {op_window, OP_conv, TAKES_NUM, 8},
    {op_window, OP_pool_max, TAKES_NUM, 4},
    {op_window, OP_pool_sum, TAKES_NUM, 4},
};

static void check_elementwise(const char *cpu, ExecWay way)
{
  for (int op = OP_neg; op < OP_COUNT; op++) {
    bool movement = op_info[op].result != RES_SAME && op_info[op].result != RES_BCAST &&
                    op_info[op].result != RES_COMPARE;
    if (op_info[op].graphs == IN_LANG || movement || op == OP_softmax || op == OP_scatter ||
        op == OP_cumsum || op == OP_cumprod)
      continue;
    DenseOps f = {op_info[op].inputs == 1 ? op_unary : op_binary, (Op)op, op_info[op].takes,
                  op_info[op].inputs == 1 ? 1 : 4};
    dense_check_types(&f, cpu, way);
  }
}

static void check_all(const char *cpu, ExecWay way)
{
  check_elementwise(cpu, way);
  for (size_t i = 0; i < COUNT(families); i++)
    dense_check_types(&families[i], cpu, way);
}

Test(lower_dense, interpreted_4_lanes)
{
  check_all("x86-64-v2", EXEC_EVAL);
}

Test(lower_dense, interpreted_8_lanes)
{
  check_all("x86-64-v3", EXEC_EVAL);
}

Test(lower_dense, interpreted_16_lanes)
{
  check_all("x86-64-v4", EXEC_EVAL);
}

#if MICC_HAVE_TCC
Test(lower_dense, in_c)
{
  check_all("c", EXEC_TCC);
}
#endif

#if MICC_HAVE_LLVM
Test(lower_dense, in_llvm)
{
  check_all("native", EXEC_LLVM);
}
#endif
