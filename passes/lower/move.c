/* move.c - ops that only move elements: transpose, slice, concat, and reshapes that padding keeps from being
 * views. One grid iteration copies one row of the result, element by element; every source index is computed
 * from the result's. Plain and general; hot models avoid these ops. */
#include "passes/lower/lower.h"

typedef struct {
  Lower *l;
  KVal index[MAX_RANK]; /* of the result */
  Type t;
} Move;

/* Elements from one index to the next along each dimension. */
static void strides_of(const Lower *l, Val v, int64_t *stride)
{
  const Type *t = &graph_node(l->g, v)->type;
  bool arena = graph_node(l->g, lower_base(l, v))->op != OP_weight;
  int64_t s = 1;

  for (uint32_t i = t->rank; i-- > 0; s *= t->dim[i])
    stride[i] = i == 0 && t->rank > 1 && arena ? lower_stride(t) : s;
}

static KVal load_at(const Move *m, Val in, const KVal *index)
{
  Kernel *k = m->l->k;
  const Type *t = &graph_node(m->l->g, in)->type;
  const Node *base = graph_node(m->l->g, lower_base(m->l, in));
  int64_t stride[MAX_RANK];
  KVal at = k_idx(k, 0);

  if (base->op == OP_const)
    return k_flt(k, 1, base->attr.value);
  strides_of(m->l, in, stride);
  for (uint32_t i = 0; i < t->rank; i++)
    at = idx_add(k, at, idx_mul(k, index[i], stride[i]));
  return k_load(k, ktype(KE_f32, 1), lower_value(m->l, in, KA_READ), at, 0);
}

static KVal moved(const Move *m, Val v)
{
  Kernel *k = m->l->k;
  const Node *n = graph_node(m->l->g, v);
  Val in = graph_in(m->l->g, v, 0);
  const Type *from = &graph_node(m->l->g, in)->type;
  KVal index[MAX_RANK];

  memcpy(index, m->index, sizeof index);
  switch (n->op) {
  case OP_transpose:
    for (uint32_t i = 0; i < m->t.rank; i++)
      index[n->attr.perm[i]] = m->index[i];
    break;
  case OP_slice:
    index[n->attr.slice.axis] = idx_add(k, index[n->attr.slice.axis], k_idx(k, n->attr.slice.start));
    break;
  case OP_reshape: {
    KVal flat = k_idx(k, 0);
    for (uint32_t i = 0; i < m->t.rank; i++)
      flat = idx_add(k, idx_mul(k, flat, m->t.dim[i]), m->index[i]);
    for (uint32_t i = from->rank; i-- > 0;) {
      index[i] = k_op2(k, K_rem, flat, k_idx(k, from->dim[i]));
      flat = k_op2(k, K_div, flat, k_idx(k, from->dim[i]));
    }
    break;
  }
  default: break;
  }
  return load_at(m, in, index);
}

/* Writes the element of the result at m->index, or for concat's input `part`, at `offset` along the axis. */
static void store_at(const Move *m, Val v, const KVal *index, KVal value)
{
  Kernel *k = m->l->k;
  int64_t stride[MAX_RANK];
  KVal at = k_idx(k, 0);

  strides_of(m->l, v, stride);
  for (uint32_t i = 0; i < graph_node(m->l->g, v)->type.rank; i++)
    at = idx_add(k, at, idx_mul(k, index[i], stride[i]));
  k_store(k, lower_value(m->l, v, KA_WRITE), at, 0, value);
}

/* One kernel for the whole result, or for one input of a concat: grid over the rows of `walk`. */
static void move_kernel(Lower *l, Val v, Val concat_in, int64_t offset)
{
  const Node *n = graph_node(l->g, v);
  Move m = {.l = l, .t = concat_in ? graph_node(l->g, concat_in)->type : n->type};
  int64_t rows = type_rows(&m.t);

  lower_begin(l, "move.%s.%lldx%lld", op_info[n->op].name, (long long)rows, (long long)type_last(&m.t));
  Kernel *k = l->k;
  KVal rest = k_grid(k);
  for (uint32_t i = m.t.rank ? m.t.rank - 1 : 0; i-- > 0;) {
    m.index[i] = k_op2(k, K_rem, rest, k_idx(k, m.t.dim[i]));
    rest = k_op2(k, K_div, rest, k_idx(k, m.t.dim[i]));
  }
  KVal j = k_loop(k, k_idx(k, 0), k_idx(k, type_last(&m.t)), 1);
  if (m.t.rank)
    m.index[m.t.rank - 1] = j;
  if (concat_in) {
    KVal to[MAX_RANK];
    memcpy(to, m.index, sizeof to);
    to[n->attr.axis] = idx_add(k, to[n->attr.axis], k_idx(k, offset));
    store_at(&m, v, to, load_at(&m, concat_in, m.index));
  } else {
    store_at(&m, v, m.index, moved(&m, v));
  }
  k_end(k, NULL, 0);
  lower_end(l, (uint64_t)rows, false, 0, (uint64_t)type_count(&m.t));
}

bool lower_move(Lower *l, const Val *nodes, uint32_t n)
{
  Val v = nodes[0];
  const Node *node = graph_node(l->g, v);
  int64_t offset = 0;

  (void)n;
  if (node->op != OP_concat) {
    move_kernel(l, v, 0, 0);
    return true;
  }
  for (uint32_t i = 0; i < node->in.count; i++) {
    Val in = graph_in(l->g, v, i);
    move_kernel(l, v, in, offset);
    offset += graph_node(l->g, in)->type.dim[node->attr.axis];
  }
  return true;
}
