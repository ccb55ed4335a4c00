/* dense_plan.c - which nodes are computed together, and where what is stored lies.
 *
 * From the last node to the first, so that all readers of a node are decided before it: a node whose readers are all in
 * one group joins it, unless it must be in memory, would be computed much more often than once for each element, or is
 * a second anchor. Movement belongs to no group: it passes on what its readers ask, or is stored itself if they ask
 * for an order that its strides cannot give. Since only the last node of a group is read from outside, groups have no
 * cycles and can run in the order of their last nodes.
 *
 * needs: a dense graph; sets: group, anchors, feeds, need, place, buffer */
#include "passes/lower/dense_plan.h"

#include <assert.h>

enum { MANY = UINT32_MAX, MAX_OPERANDS = 12, MAX_MEMBERS = 64, MAX_REPEATED_COST = 2, FEW_CHANNELS = 4 };

bool dense_is_movement(Op op)
{
  return op == OP_reshape || op == OP_transpose || op == OP_slice || op == OP_expand;
}

/* ---- families */

static const DenseRow rows[OP_COUNT] = {
#define ROW(op, fn, epilogue, ...) [OP_##op] = {lower_dense_##fn, {__VA_ARGS__}, epilogue}
    ROW(softmax, softmax, true, NEED_VALUE),
    ROW(reduce_sum, reduce, true, NEED_VALUE),
    ROW(reduce_prod, reduce, true, NEED_VALUE),
    ROW(reduce_max, reduce, true, NEED_VALUE),
    ROW(reduce_min, reduce, true, NEED_VALUE),
    ROW(argmax, arg, true, NEED_VALUE),
    ROW(argmin, arg, true, NEED_VALUE),
    ROW(cumsum, scan, true, NEED_VALUE),
    ROW(cumprod, scan, true, NEED_VALUE),
    ROW(linear, linear, true, NEED_PLACE, NEED_PLACE),
    ROW(matmul, matmul, true, NEED_PLACE, NEED_ROWS),
    ROW(sdpa, sdpa, true, NEED_ROWS, NEED_PLACE, NEED_ROWS),
    ROW(conv, conv, true, NEED_ROWS, NEED_DENSE, NEED_VALUE),
    ROW(pool_max, pool, true, NEED_ROWS),
    ROW(pool_sum, pool, true, NEED_ROWS),
    ROW(gather, gather, true, NEED_PLACE, NEED_VALUE),
    ROW(scatter, scatter, false, NEED_PLACE, NEED_VALUE, NEED_PLACE),
    ROW(topk, topk, true, NEED_PLACE),
    ROW(pad, pad, true, NEED_PLACE, NEED_VALUE),
#undef ROW
};

const DenseRow *dense_row(Op op)
{
  return rows[op].lower ? &rows[op] : NULL;
}

static DenseNeed need_of(const DenseRow *r, uint32_t input)
{
  return (DenseNeed)r->need[input < COUNT(r->need) ? input : COUNT(r->need) - 1];
}

/* ---- who reads what */

typedef struct {
  DenseLower *d;
  const Graph *g;
  Val *reader;        /* per node: 0 nobody, the one group, or MANY */
  uint8_t *spread;    /* per node: a reader needs an element more than once */
  uint8_t *moved;     /* per node: a reader sees it at other places than its group's result has */
  uint16_t *operands; /* per group */
  uint16_t *members;  /* per group */
} Plan;

static void ask(Plan *p, Val v, Val reader, DenseNeed need)
{
  if (!p->reader[v])
    p->reader[v] = reader;
  else if (p->reader[v] != reader)
    p->reader[v] = MANY;
  if (p->d->need[v] < need)
    p->d->need[v] = (uint8_t)need;
}

static bool same_order(const Type *a, const Type *b)
{
  uint32_t i = 0, j = 0;

  for (;; i++, j++) {
    while (i < a->rank && a->dim[i] == 1)
      i++;
    while (j < b->rank && b->dim[j] == 1)
      j++;
    if (i == a->rank || j == b->rank)
      return i == a->rank && j == b->rank;
    if (a->dim[i] != b->dim[j])
      return false;
  }
}

static bool is_leaf(Op op)
{
  return op == OP_input || op == OP_weight || op == OP_const;
}

static const Type *type_at(const Plan *p, Val v)
{
  return &graph_node(p->g, v)->type;
}

/* Inputs that may need a parameter of the kernel. */
static uint32_t operands_of(const Plan *p, Val v)
{
  uint32_t n = 0;

  for (uint32_t i = 0; i < graph_node(p->g, v)->in.count; i++)
    n += graph_node(p->g, graph_in(p->g, v, i))->op != OP_const;
  return n;
}

/* What stands for an input of a node in the same group. */
static void ask_input(Plan *p, Val v, uint32_t i, Val group, DenseNeed need, bool anchor)
{
  Val in = graph_in(p->g, v, i);
  const Type *t = type_at(p, v), *from = type_at(p, in);

  ask(p, in, need == NEED_VALUE ? group : MANY, need);
  p->spread[in] |= (uint8_t)(anchor ? 0 : p->spread[v] || type_count(from) < type_count(t));
  p->moved[in] |= (uint8_t)(anchor || p->moved[v] || !same_order(t, from));
}

/* ---- movement */

/* A permutation that leaves the last dimension that is not 1 where it is, or all of them. */
static bool keeps_last(const Node *n, const Type *in)
{
  uint32_t o = n->type.rank, i = in->rank;

  while (o > 0 && n->type.dim[o - 1] == 1)
    o--;
  while (i > 0 && in->dim[i - 1] == 1)
    i--;
  return o == 0 || n->attr.perm[o - 1] == i - 1;
}

static bool keeps_order(const Node *n)
{
  int last = -1;

  for (uint32_t i = 0; i < n->type.rank; i++) {
    if (n->type.dim[i] == 1)
      continue;
    if (n->attr.perm[i] < last)
      return false;
    last = n->attr.perm[i];
  }
  return true;
}

static bool outermost(const Type *t, uint32_t axis)
{
  for (uint32_t i = 0; i < axis; i++)
    if (t->dim[i] != 1)
      return false;
  return true;
}

/* Whether a movement can give the order that is asked for, if its input has that order. */
static bool can_give(const Plan *p, Val v, DenseNeed need)
{
  const Node *n = graph_node(p->g, v);
  const Type *in = type_at(p, graph_in(p->g, v, 0));
  bool dense = need == NEED_DENSE;

  if (need < NEED_ROWS)
    return true;
  switch (n->op) {
  case OP_transpose: return dense ? keeps_order(n) : keeps_last(n, in);
  case OP_slice:
    if (n->type.dim[n->attr.slice.axis] == in->dim[n->attr.slice.axis] && n->attr.slice.step == 1)
      return true;
    if (dense)
      return n->attr.slice.step == 1 && outermost(in, n->attr.slice.axis);
    return n->attr.slice.step == 1 || n->attr.slice.axis + 1 < n->type.rank;
  case OP_expand:
    if (dense || !n->type.rank)
      return type_count(&n->type) == type_count(in);
    return type_last(&n->type) == type_last(in);
  default: return true;
  }
}

/* What a movement asks of its input in turn. */
static void pass_on(Plan *p, Val v)
{
  const Node *n = graph_node(p->g, v);
  Val in = graph_in(p->g, v, 0);
  const Type *from = type_at(p, in);
  DenseNeed need = (DenseNeed)p->d->need[v];
  Val reader = p->reader[v];

  if (n->op == OP_reshape && !same_order(&n->type, from)) {
    if (need != NEED_VALUE || !dense_merges(&n->type, from)) {
      need = NEED_DENSE;
      reader = MANY;
    }
  }
  ask(p, in, reader, need);
  p->spread[in] |= (uint8_t)(p->spread[v] || type_count(from) < type_count(&n->type));
  p->moved[in] |= (uint8_t)(p->moved[v] || n->op != OP_reshape || !same_order(&n->type, from));
}

/* ---- groups */

static void begin_group(Plan *p, Val v)
{
  p->d->group[v] = v;
  p->operands[v] = 1; /* the result */
  p->moved[v] = 0;
  p->spread[v] = 0;
}

/* Where elements become bytes: what is read elsewhere than where it is computed had better be these. */
static bool makes_bytes(const Plan *p, Val v)
{
  const Node *n = graph_node(p->g, v);

  return n->op == OP_cast && (n->type.dtype == DT_U8 || n->type.dtype == DT_I8) &&
         dtype_info[type_at(p, graph_in(p->g, v, 0))->dtype].bytes > 1;
}

/* Whether a node may join the group of its readers. */
static bool joins(const Plan *p, Val v)
{
  const Node *n = graph_node(p->g, v);
  Val group = p->reader[v];

  if (group == MANY || p->d->need[v] != NEED_VALUE || p->members[group] >= MAX_MEMBERS ||
      p->operands[group] - 1 + operands_of(p, v) > MAX_OPERANDS)
    return false;
  if (p->spread[v] && dense_cost(n->op, n->type.dtype) > MAX_REPEATED_COST)
    return false;
  if (p->moved[v] && makes_bytes(p, v))
    return false;
  if (dense_is_elementwise(n->op))
    return true;
  const DenseRow *r = dense_row(n->op);
  return r && r->epilogue && !p->d->anchors[group] && !p->moved[v] && !p->spread[v];
}

/* A convolution of few channels, which pictures have, takes its input as it lies: each number is read alone. */
static bool takes_any_place(const Plan *p, Val v)
{
  const Node *n = graph_node(p->g, v);

  return n->op == OP_conv && n->type.dtype == DT_F32 && n->attr.window.group == 1 &&
         type_last(&n->type) * 2 > p->d->l->lanes &&
         type_last(type_at(p, graph_in(p->g, v, 0))) <= FEW_CHANNELS;
}

static DenseNeed need_at(const Plan *p, Val v, uint32_t input)
{
  const DenseRow *r = dense_row(graph_node(p->g, v)->op);

  if (!r)
    return NEED_VALUE;
  return input == 0 && takes_any_place(p, v) ? NEED_PLACE : need_of(r, input);
}

static void plan_computed(Plan *p, Val v)
{
  const Node *n = graph_node(p->g, v);
  const DenseRow *r = dense_row(n->op);

  if (!p->reader[v])
    return; /* nobody needs it */
  if (joins(p, v)) {
    p->d->group[v] = p->reader[v];
    p->operands[p->reader[v]]--; /* it is no operand itself */
  } else {
    begin_group(p, v);
  }
  Val group = p->d->group[v];
  if (r)
    p->d->anchors[group] = v;
  p->members[group]++;
  p->operands[group] = (uint16_t)(p->operands[group] + operands_of(p, v));
  for (uint32_t i = 0; i < n->in.count; i++)
    ask_input(p, v, i, group, need_at(p, v, i), r != NULL);
}

static void plan_movement(Plan *p, Val v)
{
  if (!p->reader[v])
    return;
  if (!can_give(p, v, (DenseNeed)p->d->need[v])) {
    begin_group(p, v);
    p->d->need[v] = NEED_VALUE; /* of its input */
    p->reader[v] = v;
  }
  pass_on(p, v);
}

static void plan_node(Plan *p, Val v)
{
  const Node *n = graph_node(p->g, v);

  if (is_leaf(n->op)) {
    if (n->op == OP_const && p->d->need[v] != NEED_VALUE)
      begin_group(p, v); /* to memory */
    return;
  }
  if (n->op == OP_output) {
    Val in = graph_in(p->g, v, 0);
    p->reader[v] = MANY;
    ask(p, in, MANY, NEED_DENSE);
  } else if (n->op == OP_concat) {
    if (!p->reader[v])
      return;
    begin_group(p, v);
    for (uint32_t i = 0; i < n->in.count; i++)
      ask(p, graph_in(p->g, v, i), MANY, NEED_VALUE);
  } else if (dense_is_movement(n->op)) {
    plan_movement(p, v);
  } else {
    plan_computed(p, v);
  }
}

/* ---- bands */

/* A group whose result one window alone reads may be computed in its kernel, row by row. First to last: chains grow
 * towards the outputs. */
static void plan_bands(Plan *p)
{
  DenseLower *d = p->d;
  uint16_t *readers = NEW_ARRAY(d->l->arena, uint16_t, p->g->nodes.len);

  for (Val v = 1; v < p->g->nodes.len; v++)
    for (uint32_t i = 0; i < graph_node(p->g, v)->in.count; i++) {
      Val in = graph_in(p->g, v, i);
      readers[in] = (uint16_t)min64(readers[in] + 1, 2);
    }
  for (Val v = 1; v < p->g->nodes.len; v++) {
    Val anchor = d->group[v] == v ? d->anchors[v] : 0, in;
    if (!anchor || graph_node(p->g, anchor)->in.count == 0)
      continue;
    in = graph_in(p->g, anchor, 0);
    uint32_t operands = (uint32_t)p->operands[in] + p->operands[v] - 2;
    if (d->group[in] != in || readers[in] != 1 || operands > MAX_OPERANDS || !dense_can_feed(d, in, v))
      continue;
    d->feeds[in] = v;
    p->operands[v] = (uint16_t)operands;
  }
}

/* ---- places */

static void dense_strides(const Type *t, int64_t *stride)
{
  int64_t s = 1;

  for (uint32_t i = t->rank; i-- > 0; s *= t->dim[i])
    stride[i] = s;
}

static DensePlace own_place(const Plan *p, Val v)
{
  const Type *t = type_at(p, v);
  DensePlace at = {.base = v, .elem = dense_memory(t->dtype)};

  dense_strides(t, at.stride);
  return at;
}

static uint32_t arena_buffer(const Plan *p, Val v)
{
  Lower *l = p->d->l;
  const Node *n = graph_node(p->g, v);
  const char *op = op_info[n->op].name;
  const char *name =
      n->from ? arena_printf(l->arena, "%s.%s", n->from, op) : arena_printf(l->arena, "%%%u.%s", v, op);
  uint32_t b = program_buffer(l->prog, SPACE_ARENA, name, tensor_bytes(&n->type) + DENSE_SLACK);

  l->prog->buffers.data[b].entry = l->entry;
  return b;
}

static bool is_dense_place(const DensePlace *at, const Type *t)
{
  int64_t s = 1;

  for (uint32_t i = t->rank; i-- > 0; s *= t->dim[i])
    if (t->dim[i] != 1 && at->stride[i] != s)
      return false;
  return true;
}

/* Strides of a reshape of strides, if there are any (numpy's rule). */
static bool reshape_place(const DensePlace *from, const Type *in, const Type *out, DensePlace *to)
{
  uint32_t i = 0, o = 0;

  while (i < in->rank || o < out->rank) {
    uint32_t i0 = i, o0 = o;
    int64_t ni = i < in->rank ? in->dim[i++] : 1, no = o < out->rank ? out->dim[o++] : 1;
    while (ni != no) {
      if (ni < no && i < in->rank)
        ni *= in->dim[i++];
      else if (no < ni && o < out->rank)
        no *= out->dim[o++];
      else
        return false;
    }
    int64_t s = 1, run = 0;
    for (uint32_t k = i; k-- > i0;) {
      if (in->dim[k] == 1)
        continue;
      if (run && from->stride[k] != run)
        return false;
      s = run ? s : from->stride[k];
      run = from->stride[k] * in->dim[k];
    }
    for (uint32_t k = o; k-- > o0; s *= out->dim[k])
      to->stride[k] = s;
  }
  return true;
}

/* Whether a value may lie like this for all who read it. */
static bool serves(const Plan *p, Val v, const DensePlace *at)
{
  const Type *t = type_at(p, v);
  uint32_t last = t->rank;

  while (last > 0 && t->dim[last - 1] == 1)
    last--;
  switch (p->d->need[v]) {
  case NEED_VALUE:
  case NEED_PLACE: return true;
  case NEED_ROWS: return last == 0 || at->stride[last - 1] == 1;
  case NEED_DENSE: return is_dense_place(at, t);
  default: return false;
  }
}

/* An input of a concat or a pad is computed right where that needs it, if nobody asks it to lie otherwise; through reshapes,
 * if strides can say where. */
static void place_piece(const Plan *p, Val in, DensePlace at)
{
  DenseLower *d = p->d;

  while (graph_node(p->g, in)->op == OP_reshape && !d->group[in] && serves(p, in, &at)) {
    Val from = graph_in(p->g, in, 0);
    DensePlace to = at;
    memset(to.stride, 0, sizeof to.stride);
    if (!type_count(type_at(p, in)) || !reshape_place(&at, type_at(p, in), type_at(p, from), &to))
      return;
    at = to;
    in = from;
  }
  if (d->group[in] == in && !d->place[in].base && serves(p, in, &at))
    d->place[in] = at;
}

static void place_result(const Plan *p, Val v)
{
  DenseLower *d = p->d;
  const Node *n = graph_node(p->g, v);

  if (d->feeds[v]) {
    d->place[v] = dense_ring(d, v);
    return;
  }
  if (!d->place[v].base) {
    d->place[v] = own_place(p, v);
    d->buffer[v] = arena_buffer(p, v);
  }
  DensePlace at = d->place[v];
  if (n->op == OP_pad && dense_can_surround(d, v)) {
    for (uint32_t i = 0; i < n->type.rank; i++)
      at.offset += n->attr.pad.lo[i] * at.stride[i];
    place_piece(p, graph_in(p->g, v, 0), at);
  }
  if (n->op != OP_concat)
    return;
  for (uint32_t i = 0; i < n->in.count; i++) {
    Val in = graph_in(p->g, v, i);
    place_piece(p, in, at);
    at.offset += type_at(p, in)->dim[n->attr.axis] * at.stride[n->attr.axis];
  }
}

static void place_movement(const Plan *p, Val v)
{
  const Node *n = graph_node(p->g, v);
  Val in = graph_in(p->g, v, 0);
  const DensePlace *from = &p->d->place[in];
  const Type *t = type_at(p, in);
  DensePlace to = *from;

  if (!from->base || p->d->place[v].base || !type_count(&n->type))
    return;
  memset(to.stride, 0, sizeof to.stride);
  switch (n->op) {
  case OP_reshape:
    if (!reshape_place(from, t, &n->type, &to))
      return;
    break;
  case OP_transpose:
    for (uint32_t i = 0; i < n->type.rank; i++)
      to.stride[i] = from->stride[n->attr.perm[i]];
    break;
  case OP_slice:
    memcpy(to.stride, from->stride, sizeof to.stride);
    to.offset += n->attr.slice.start * from->stride[n->attr.slice.axis];
    to.stride[n->attr.slice.axis] *= n->attr.slice.step;
    break;
  default: /* expand */
    for (uint32_t i = 1; i <= t->rank; i++)
      if (t->dim[t->rank - i] != 1)
        to.stride[n->type.rank - i] = from->stride[t->rank - i];
  }
  p->d->place[v] = to;
}

/* What an output names: through reshapes, which are no work. */
Val dense_output_base(const DenseLower *d, Val v)
{
  do
    v = graph_in(d->g, v, 0);
  while (graph_node(d->g, v)->op == OP_reshape && !d->group[v]);
  return v;
}

/* A value that must be dense may be so in a concat's buffer; an output has a buffer of its own. What nothing computes
 * is copied. */
static void plan_outputs(Plan *p)
{
  for (Val v = 1; v < p->g->nodes.len; v++) {
    if (graph_node(p->g, v)->op != OP_output)
      continue;
    Val base = dense_output_base(p->d, v);
    if (p->d->group[base] == base)
      p->d->need[base] = NEED_DENSE + 1;
    else
      begin_group(p, v);
  }
}

static void place_leaf(const Plan *p, Val v)
{
  p->d->place[v] = own_place(p, v);
  if (graph_node(p->g, v)->op != OP_input)
    return;
  uint32_t b = arena_buffer(p, v);
  p->d->buffer[v] = b;
  p->d->l->prog->buffers.data[b].first = 0;
  p->d->l->prog->buffers.data[b].last =
      UINT32_MAX; /* the caller writes before the first launch, and may read it back */
}

static void place_all(Plan *p)
{
  uint32_t n = p->g->nodes.len;

  for (Val v = n; v-- > 1;)
    if (p->d->group[v] == v)
      place_result(p, v);
  for (Val v = 1; v < n; v++) {
    const Node *node = graph_node(p->g, v);
    if (node->op == OP_input || node->op == OP_weight)
      place_leaf(p, v);
    else if (dense_is_movement(node->op) && p->d->group[v] != v)
      place_movement(p, v);
  }
}

void dense_plan(DenseLower *d)
{
  Arena *a = d->l->arena;
  uint32_t n = d->g->nodes.len;
  Plan p = {d,
            d->g,
            NEW_ARRAY(a, Val, n),
            NEW_ARRAY(a, uint8_t, n),
            NEW_ARRAY(a, uint8_t, n),
            NEW_ARRAY(a, uint16_t, n),
            NEW_ARRAY(a, uint16_t, n)};

  d->place = NEW_ARRAY(a, DensePlace, n);
  d->group = NEW_ARRAY(a, Val, n);
  d->anchors = NEW_ARRAY(a, Val, n);
  d->feeds = NEW_ARRAY(a, Val, n);
  d->need = NEW_ARRAY(a, uint8_t, n);
  d->buffer = NEW_ARRAY(a, uint32_t, n);
  d->seen = NEW_ARRAY(a, uint32_t, n);
  for (Val v = n; v-- > 1;)
    plan_node(&p, v);
  plan_outputs(&p);
  plan_bands(&p);
  place_all(&p);
}
