/* elementwise.c - elementwise ops on vectors, broadcast operands, loops over columns: what rows,
 * product epilogues and copies share. */
#include "passes/lower/lower.h"

bool lower_is_elementwise(Op op)
{
  return op >= OP_neg && op <= OP_min;
}

/* The form with tanh, x (1 + tanh u) / 2, is x times the sigmoid of 2u. */
static KVal gelu(Kernel *k, KVal x)
{
  unsigned n = kernel_node(k, x)->type.lanes;
  KVal x3 = k_op2(k, K_mul, k_op2(k, K_mul, x, x), x);
  KVal u = k_op2(k, K_mul, k_fma(k, x3, k_flt(k, n, 0.044715), x), k_flt(k, n, 2 * 0.7978845608028654));
  return k_op2(k, K_mul, x, k_sigmoid(k, u));
}

KVal lower_elementwise(Kernel *k, Op op, KVal a, KVal b)
{
  unsigned n = kernel_node(k, a)->type.lanes;
  KVal s, c;

  switch (op) {
  case OP_neg: return k_op1(k, K_neg, a);
  case OP_abs: return k_op1(k, K_abs, a);
  case OP_exp: return k_exp(k, a);
  case OP_log: return k_log(k, a);
  case OP_sqrt: return k_op1(k, K_sqrt, a);
  case OP_tanh: return k_tanh(k, a);
  case OP_sigmoid: return k_sigmoid(k, a);
  case OP_silu: return k_op2(k, K_mul, a, k_sigmoid(k, a));
  case OP_gelu: return gelu(k, a);
  case OP_relu: return k_op2(k, K_max, a, k_flt(k, n, 0.0));
  case OP_sin: k_sincos(k, a, &s, &c); return s;
  case OP_cos: k_sincos(k, a, &s, &c); return c;
  case OP_add: return k_op2(k, K_add, a, b);
  case OP_sub: return k_op2(k, K_sub, a, b);
  case OP_mul: return k_op2(k, K_mul, a, b);
  case OP_div: return k_op2(k, K_div, a, b);
  case OP_max: return k_op2(k, K_max, a, b);
  case OP_min: return k_op2(k, K_min, a, b);
  default: return 0;
  }
}

/* Known numbers are multiplied here: kernels that differ in what nothing is multiplied by are equal. */
KVal idx_mul(Kernel *k, KVal a, int64_t by)
{
  const KNode *n = kernel_node(k, a);

  if (n->op == K_const)
    return k_idx(k, n->imm.i * by);
  return by == 1 ? a : by == 0 ? k_idx(k, 0) : k_op2(k, K_mul, a, k_idx(k, by));
}

KVal idx_add(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_add, a, b);
}

/* Strides, in elements, of an operand of type t along each dimension of `full`; 0 where it is broadcast. A dimension
 * of one row has the stride that it would have with more: so one token's kernel is that of several. */
static void operand_strides(const Lower *l, Val v, const Type *full, int64_t *stride)
{
  const Type *t = &graph_node(l->g, v)->type;
  bool arena = l->place[lower_base(l, v)].kind == PLACE_ARENA;
  int64_t s = 1, own[MAX_RANK];

  for (uint32_t i = t->rank; i-- > 0;) {
    own[i] = i == 0 && t->rank > 1 && arena ? lower_stride(t) : s;
    s *= t->dim[i];
  }
  for (uint32_t i = 0; i < full->rank; i++) {
    uint32_t back = full->rank - i;
    bool rows = i + 1 < full->rank && full->dim[i] == 1;
    stride[i] = back <= t->rank && (t->dim[t->rank - back] > 1 || rows) ? own[t->rank - back] : 0;
  }
}

/* The element offset of a row's start. Rows with one stride throughout need no division. */
static KVal row_offset(Kernel *k, const Type *full, const int64_t *stride, KVal row)
{
  KVal at = 0, rest = row;
  bool even = true;
  int64_t step = full->rank > 1 ? stride[full->rank - 2] : 0, rows = 1;

  for (uint32_t i = full->rank - 1; full->rank && i-- > 0;) {
    even = even && (full->dim[i] == 1 || stride[i] == step * rows);
    rows *= full->dim[i];
  }
  if (even)
    return idx_mul(k, row, step);
  for (uint32_t i = full->rank - 1; i-- > 0;) {
    KVal index = i ? k_op2(k, K_rem, rest, k_idx(k, full->dim[i])) : rest;
    if (stride[i])
      at = at ? idx_add(k, at, idx_mul(k, index, stride[i])) : idx_mul(k, index, stride[i]);
    if (i)
      rest = k_op2(k, K_div, rest, k_idx(k, full->dim[i]));
  }
  return at ? at : k_idx(k, 0);
}

KVal lower_row_start(Lower *l, Val v, const Type *full, KVal row)
{
  int64_t stride[MAX_RANK] = {0};
  Val base = lower_base(l, v);

  if (graph_node(l->g, base)->op == OP_const)
    return 0;
  if (graph_node(l->g, base)->op != OP_weight)
    (void)lower_place(l, base);
  operand_strides(l, v, full, stride);
  return row_offset(l->k, full, stride, row);
}

KVal lower_operand(Lower *l, Val v, const Type *full, KVal start, KVal j, int64_t off, unsigned lanes)
{
  Kernel *k = l->k;
  const Node *n = graph_node(l->g, lower_base(l, v));
  int64_t stride[MAX_RANK] = {0};

  if (n->op == OP_const)
    return k_flt(k, lanes, n->attr.value);
  uint16_t p = lower_value(l, v, KA_READ);
  operand_strides(l, v, full, stride);
  if (full->rank && stride[full->rank - 1])
    return k_load(k, ktype(KE_f32, lanes), p, idx_add(k, start, j), off);
  return k_splat(k, ktype(KE_f32, lanes), k_load(k, ktype(KE_f32, 1), p, start, 0));
}

void lower_columns(Lower *l, int64_t n, LaneFn *fn, void *ctx)
{
  Kernel *k = l->k;
  int64_t whole = n / l->lanes * l->lanes;

  if (whole > (int64_t)l->lanes) {
    KVal j = k_loop(k, k_idx(k, 0), k_idx(k, whole), l->lanes);
    fn(l, ctx, j, 0, l->lanes);
    k_end(k, NULL, 0);
  } else if (whole) {
    fn(l, ctx, k_idx(k, 0), 0, l->lanes);
  }
  for (unsigned lanes = l->lanes / 2; lanes; lanes /= 2)
    if (n - whole >= (int64_t)lanes) {
      fn(l, ctx, k_idx(k, 0), whole, lanes);
      whole += lanes;
    }
}
