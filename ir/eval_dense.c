/* eval_dense.c - the oracle of dense graphs: what each op means, in plain loops (see eval_dense.h). */
#include "ir/eval_dense.h"

#include <assert.h>

/* ---- tensors */

uint64_t tensor_bytes(const Type *t)
{
  return dtype_bytes(t->dtype, (uint64_t)type_count(t));
}

Tensor tensor_new(Arena *a, const Type *t)
{
  return (Tensor){*t, arena_alloc(a, tensor_bytes(t) + 1)}; /* an empty tensor has a place too */
}

long double tensor_get(const Tensor *t, int64_t i)
{
  return dtype_get(t->type.dtype, tensor_at(t, i));
}

void tensor_set(Tensor *t, int64_t i, long double x)
{
  dtype_put(t->type.dtype, tensor_to(t, i), x, true);
}

int64_t tensor_get_int(const Tensor *t, int64_t i)
{
  return dtype_get_int(t->type.dtype, tensor_at(t, i));
}

void tensor_set_int(Tensor *t, int64_t i, int64_t x)
{
  dtype_put_int(t->type.dtype, tensor_to(t, i), x);
}

/* ---- places */

void dense_axis(const Type *t, uint32_t axis, int64_t *inner, int64_t *outer)
{
  *inner = *outer = 1;
  for (uint32_t d = 0; d < t->rank; d++)
    *(d < axis ? outer : inner) *= d == axis ? 1 : t->dim[d];
}

Walk walk_begin(const Type *t)
{
  Walk w = {.rank = t->rank};

  memcpy(w.dim, t->dim, sizeof w.dim);
  return w;
}

void walk_bcast(Walk *w, int operand, const Type *t)
{
  int64_t stride = 1;

  for (uint32_t i = 1; i <= t->rank; i++) {
    int64_t n = t->dim[t->rank - i];
    w->stride[operand][w->rank - i] = n == 1 ? 0 : stride;
    stride *= n;
  }
}

void walk_next(Walk *w)
{
  for (uint32_t d = w->rank; d-- > 0;) {
    for (int k = 0; k < 3; k++)
      w->at[k] += w->stride[k][d];
    if (++w->index[d] < w->dim[d])
      return;
    for (int k = 0; k < 3; k++)
      w->at[k] -= w->stride[k][d] * w->dim[d];
    w->index[d] = 0;
  }
}

/* ---- the ops */

static void eval_const(const DenseOp *d)
{
  for (int64_t i = 0; i < type_count(&d->out->type); i++)
    tensor_set(d->out, i, (long double)d->attr->value);
}

static DenseFn *const dense_op[OP_COUNT] = {
    [OP_const] = eval_const,        [OP_neg] = dense_unary,         [OP_abs] = dense_unary,
    [OP_exp] = dense_unary,         [OP_log] = dense_unary,         [OP_sqrt] = dense_unary,
    [OP_tanh] = dense_unary,        [OP_sigmoid] = dense_unary,     [OP_silu] = dense_unary,
    [OP_gelu] = dense_unary,        [OP_relu] = dense_unary,        [OP_sin] = dense_unary,
    [OP_cos] = dense_unary,         [OP_floor] = dense_unary,       [OP_ceil] = dense_unary,
    [OP_round] = dense_unary,       [OP_trunc] = dense_unary,       [OP_sign] = dense_unary,
    [OP_erf] = dense_unary,         [OP_atan] = dense_unary,        [OP_not] = dense_unary,
    [OP_add] = dense_binary,        [OP_sub] = dense_binary,        [OP_mul] = dense_binary,
    [OP_div] = dense_binary,        [OP_max] = dense_binary,        [OP_min] = dense_binary,
    [OP_pow] = dense_binary,        [OP_mod] = dense_binary,        [OP_fmod] = dense_binary,
    [OP_and] = dense_binary,        [OP_or] = dense_binary,         [OP_xor] = dense_binary,
    [OP_shl] = dense_binary,        [OP_shr] = dense_binary,        [OP_eq] = dense_compare,
    [OP_lt] = dense_compare,        [OP_le] = dense_compare,        [OP_where] = dense_where_op,
    [OP_cast] = dense_cast,         [OP_reduce_sum] = dense_reduce, [OP_reduce_prod] = dense_reduce,
    [OP_reduce_max] = dense_reduce, [OP_reduce_min] = dense_reduce, [OP_argmax] = dense_arg_op,
    [OP_argmin] = dense_arg_op,     [OP_cumsum] = dense_scan,       [OP_cumprod] = dense_scan,
    [OP_softmax] = dense_softmax,   [OP_topk] = dense_topk_op,      [OP_transpose] = dense_transpose,
    [OP_slice] = dense_slice,       [OP_concat] = dense_concat,     [OP_expand] = dense_expand,
    [OP_pad] = dense_pad,           [OP_gather] = dense_gather_op,  [OP_scatter] = dense_scatter_op,
    [OP_linear] = dense_linear_op,  [OP_matmul] = dense_matmul_op,  [OP_conv] = dense_conv_op,
    [OP_pool_max] = dense_pool_op,  [OP_pool_sum] = dense_pool_op,  [OP_sdpa] = dense_sdpa_op,
};

static bool eval_weight(const Graph *g, const Node *n, Tensor *out)
{
  const Weight *w = &g->module->weights.data[n->attr.index];

  *out = (Tensor){n->type, (void *)(uintptr_t)w->data}; /* read, never written */
  return w->data != NULL;
}

bool graph_eval_node(const Graph *g, Val v, const Tensor *in, Arena *a, Tensor *out)
{
  const Node *n = graph_node(g, v);
  Arena tmp = {0};

  if (n->op == OP_weight)
    return eval_weight(g, n, out);
  if (n->op == OP_reshape || n->op == OP_output || n->op == OP_bitcast) {
    *out = (Tensor){n->type, in[0].data};
    return true;
  }
  if (!dense_op[n->op])
    return false;
  *out = tensor_new(a, &n->type);
  if (type_count(&n->type))
    dense_op[n->op](&(DenseOp){n->op, &n->attr, in, n->in.count, out, &tmp});
  arena_free(&tmp);
  return true;
}

void graph_eval_dense(const Graph *g, Arena *a, const Tensor *inputs, Tensor *outputs)
{
  Arena scratch = {0};
  Tensor *value = NEW_ARRAY(&scratch, Tensor, g->nodes.len),
         *in = NEW_ARRAY(&scratch, Tensor, g->edges.len + 1);
  uint32_t n_input = 0, n_output = 0;

  assert(g->dense);
  for (Val v = 1; v < g->nodes.len; v++) {
    const Node *n = graph_node(g, v);
    for (uint32_t i = 0; i < n->in.count; i++)
      in[i] = value[graph_in(g, v, i)];
    if (n->op == OP_input) {
      assert(type_eq(&inputs[n_input].type, &n->type));
      value[v] = inputs[n_input++];
    } else {
      bool known = graph_eval_node(g, v, in, &scratch, &value[v]);
      assert(known);
      (void)known;
    }
    if (n->op == OP_output)
      outputs[n_output++] = (Tensor){n->type, arena_copy(a, in[0].data, tensor_bytes(&n->type))};
  }
  arena_free(&scratch);
}
