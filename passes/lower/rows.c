/* rows.c - ops that work along the last axis, one row a grid iteration: norms, softmax, sums, quantisation,
 * rope, cache writes and elementwise ops, any chain of them in one kernel.
 *
 * Each node is a stage. Reductions loop over the row and leave numbers; elementwise results are
 * evaluated where they are used, unless they are used twice or leave the launch: then they are stored. */
#include "passes/lower/lower.h"

#include <math.h>

enum { OPS_EACH = 4 }; /* operations for an element and a node, roughly */

bool lower_is_row(Op op)
{
  switch (op) {
  case OP_sum:
  case OP_amax:
  case OP_softmax:
  case OP_rms_norm:
  case OP_quant:
  case OP_rope:
  case OP_update: return true;
  default: return lower_is_elementwise(op);
  }
}

typedef enum { ROW_INLINE, ROW_STORED, ROW_NUMBER } RowKind;

typedef struct {
  Val v;
  RowKind kind;
  KVal number, number2; /* sum, maximum; rms_norm: 1 / rms; softmax: maximum, 1 / sum */
  int64_t scratch;      /* STORED and not in the arena: element offset, else -1 */
} RowNode;

typedef struct {
  Val v;
  KVal start;
} RowStart;

typedef struct {
  Lower *l;
  RowNode *node;
  uint32_t n;
  Type full; /* the shape whose rows are walked */
  KVal row;
  ARRAY(RowStart) starts;
  RowNode *now; /* the stage under construction */
  int64_t scratch_used;
} Row;

static RowNode *in_part(const Row *r, Val v)
{
  for (uint32_t i = 0; i < r->n; i++)
    if (r->node[i].v == v)
      return &r->node[i];
  return NULL;
}

static KVal mul(Kernel *k, KVal a, KVal b)
{
  return k_op2(k, K_mul, a, b);
}

static KVal start_of(Row *r, Val v)
{
  for (uint32_t i = 0; i < r->starts.len; i++)
    if (r->starts.data[i].v == v)
      return r->starts.data[i].start;
  return 0;
}

static uint16_t scratch(Row *r)
{
  return lower_scratch(r->l, (uint64_t)r->scratch_used * 4);
}

/* ---- evaluating a value at columns j + off .. */

static KVal eval(Row *r, Val v, KVal j, int64_t off, unsigned lanes);

static KVal eval_inline(Row *r, const RowNode *rn, KVal j, int64_t off, unsigned lanes)
{
  Kernel *k = r->l->k;
  const Node *n = graph_node(r->l->g, rn->v);
  KType t = ktype(KE_f32, lanes);
  KVal a = eval(r, graph_in(r->l->g, rn->v, 0), j, off, lanes);

  switch (n->op) {
  case OP_rms_norm:
    return mul(k, mul(k, a, k_splat(k, t, rn->number)), eval(r, graph_in(r->l->g, rn->v, 1), j, off, lanes));
  case OP_softmax:
    return mul(k, k_exp(k, k_op2(k, K_sub, a, k_splat(k, t, rn->number))), k_splat(k, t, rn->number2));
  default:
    return lower_elementwise(k, n->op, a,
                             n->in.count > 1 ? eval(r, graph_in(r->l->g, rn->v, 1), j, off, lanes) : 0);
  }
}

static KVal eval(Row *r, Val v, KVal j, int64_t off, unsigned lanes)
{
  Lower *l = r->l;
  RowNode *rn = in_part(r, lower_base(l, v));
  KType t = ktype(KE_f32, lanes);

  if (!rn)
    return lower_operand(l, v, &r->full, start_of(r, v), j, off, lanes);
  switch (rn->kind) {
  case ROW_NUMBER: return k_splat(l->k, t, rn->number);
  case ROW_STORED:
    if (rn->scratch >= 0)
      return k_load(l->k, t, scratch(r), j, rn->scratch + off);
    return k_load(l->k, t, lower_value(l, rn->v, KA_READ), idx_add(l->k, start_of(r, rn->v), j), off);
  default: return eval_inline(r, rn, j, off, lanes);
  }
}

/* ---- reductions */

typedef enum { RED_SUM, RED_MAX, RED_SQUARES, RED_EXP } Red;

static KVal red_value(Row *r, Red red, Val v, KVal j, int64_t off, unsigned lanes)
{
  KVal x = eval(r, v, j, off, lanes);
  if (red == RED_EXP)
    x = k_exp(r->l->k, k_op2(r->l->k, K_sub, x, k_splat(r->l->k, ktype(KE_f32, lanes), r->now->number)));
  return x;
}

static KVal combine(Kernel *k, Red red, KVal acc, KVal x)
{
  return red == RED_MAX       ? k_op2(k, K_max, acc, x)
         : red == RED_SQUARES ? k_fma(k, x, x, acc)
                              : k_op2(k, K_add, acc, x);
}

/* Whole vectors side by side, their lanes at the end, then what is left over. */
static KVal reduce(Row *r, Red red, Val v)
{
  Kernel *k = r->l->k;
  unsigned lanes = r->l->lanes;
  int64_t n = type_last(&r->full), at = n / lanes * lanes;
  KOp op = red == RED_MAX ? K_rmax : K_sum;
  double zero = red == RED_MAX ? -INFINITY : 0.0;
  KVal total = k_flt(k, 1, zero);

  if (at) {
    KVal first = k_flt(k, lanes, zero), j = k_loop(k, k_idx(k, 0), k_idx(k, at), lanes),
         acc = k_carry(k, first);
    KVal next = combine(k, red, acc, red_value(r, red, v, j, 0, lanes));
    k_end(k, &next, 1);
    total = k_reduce(k, op, acc);
  }
  for (lanes /= 2; lanes; lanes /= 2)
    if (n - at >= lanes) {
      KVal x = combine(k, red, k_flt(k, lanes, zero), red_value(r, red, v, k_idx(k, 0), at, lanes));
      total = k_op2(k, red == RED_MAX ? K_max : K_add, total, k_reduce(k, op, x));
      at += lanes;
    }
  return total;
}

static void stage_rms_norm(Row *r, const Node *n)
{
  Kernel *k = r->l->k;
  KVal ss = reduce(r, RED_SQUARES, graph_in(r->l->g, r->now->v, 0));
  KVal mean = k_op2(k, K_div, ss, k_flt(k, 1, (double)type_last(&r->full)));
  KVal rms = k_op1(k, K_sqrt, k_op2(k, K_add, mean, k_flt(k, 1, n->attr.eps)));
  r->now->number = k_op2(k, K_div, k_flt(k, 1, 1.0), rms);
}

static void stage_softmax(Row *r)
{
  Kernel *k = r->l->k;
  Val x = graph_in(r->l->g, r->now->v, 0);
  r->now->number = reduce(r, RED_MAX, x);
  r->now->number2 = k_op2(k, K_div, k_flt(k, 1, 1.0), reduce(r, RED_EXP, x));
}

/* ---- storing */

static void store(Row *r, KVal j, int64_t off, KVal value)
{
  Lower *l = r->l;

  if (r->now->scratch >= 0)
    k_store(l->k, scratch(r), j, r->now->scratch + off, value);
  else
    k_store(l->k, lower_value(l, r->now->v, KA_WRITE), idx_add(l->k, start_of(r, r->now->v), j), off, value);
}

static void store_columns(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  Row *r = ctx;
  (void)l;
  store(r, j, off, eval_inline(r, r->now, j, off, lanes));
}

/* ---- quantisation */

enum { MAX_VECTORS = QBLOCK / 4 };

static KVal quant_vector(void *ctx, KVal j, int64_t off)
{
  Row *r = ctx;
  return eval(r, graph_in(r->l->g, r->now->v, 0), j, off, r->l->lanes);
}

static void stage_quant(Row *r)
{
  Q8a to = lower_q8a_made(r->l, r->now->v);
  int64_t blocks = to.columns / QBLOCK;

  lower_quant_row(r->l, &to, idx_mul(r->l->k, r->row, blocks), blocks, quant_vector, r);
}

/* ---- rope */

/* Heads in a token: rows that share a position. */
static int64_t heads_of(const Row *r)
{
  return r->full.rank > 2 ? r->full.dim[r->full.rank - 2] : 1;
}

static KVal token_of(Row *r)
{
  int64_t heads = heads_of(r);
  return heads == 1 ? r->row : k_op2(r->l->k, K_div, r->row, k_idx(r->l->k, heads));
}

typedef struct {
  Row *r;
  KVal table; /* start of the token's cosines */
  uint16_t param;
  int64_t half;
} Rope;

static void rotate(Rope *p, KVal j, int64_t off, unsigned lanes, KVal a, KVal b, KVal *x, KVal *y)
{
  Kernel *k = p->r->l->k;
  KType t = ktype(KE_f32, lanes);
  KVal c = k_load(k, t, p->param, idx_add(k, p->table, j), off);
  KVal s = k_load(k, t, p->param, idx_add(k, p->table, j), p->half + off);

  *x = k_op2(k, K_sub, mul(k, a, c), mul(k, b, s));
  *y = k_op2(k, K_add, mul(k, a, s), mul(k, b, c));
}

static void rope_halves(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  Rope *p = ctx;
  Val in = graph_in(l->g, p->r->now->v, 0);
  KVal x, y;

  rotate(p, j, off, lanes, eval(p->r, in, j, off, lanes), eval(p->r, in, j, off + p->half, lanes), &x, &y);
  store(p->r, j, off, x);
  store(p->r, j, off + p->half, y);
}

static void rope_pairs(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  Rope *p = ctx;
  Kernel *k = l->k;
  KVal j2 = idx_mul(k, j, 2), v = eval(p->r, graph_in(l->g, p->r->now->v, 0), j2, 2 * off, 2 * lanes), x, y;
  uint8_t even[K_MAX_LANES], odd[K_MAX_LANES], both[K_MAX_LANES];

  for (unsigned i = 0; i < lanes; i++) {
    even[i] = (uint8_t)(2 * i);
    odd[i] = (uint8_t)(2 * i + 1);
    both[2 * i] = (uint8_t)i;
    both[2 * i + 1] = (uint8_t)(lanes + i);
  }
  rotate(p, j, off, lanes, k_shuffle(k, v, v, even, lanes), k_shuffle(k, v, v, odd, lanes), &x, &y);
  store(p->r, j2, 2 * off, k_shuffle(k, x, y, both, 2 * lanes));
}

typedef struct {
  Row *r;
  int64_t from;
} Rest;

static void rope_rest(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  Rest *p = ctx;
  store(p->r, j, p->from + off, eval(p->r, graph_in(l->g, p->r->now->v, 0), j, p->from + off, lanes));
}

static void stage_rope(Row *r, const Node *n)
{
  Lower *l = r->l;
  Val table = lower_base(l, graph_in(l->g, r->now->v, 1));
  const Type *t = &graph_node(l->g, table)->type; /* [T, 2, half] */
  Rope p = {r, 0, lower_value(l, table, KA_READ), t->dim[2]};
  Rest rest = {r, 2 * t->dim[2]};

  p.table = idx_mul(l->k, token_of(r), lower_stride(t));
  lower_columns(l, p.half, n->attr.interleaved ? rope_pairs : rope_halves, &p);
  lower_columns(l, type_last(&r->full) - rest.from, rope_rest, &rest);
}

/* ---- cache writes */

typedef struct {
  Row *r;
  uint16_t param, scales;
  KElem elem;
  KVal at, scale_at; /* element where the row starts, and its first scale */
  bool keys;         /* in tiles, transposed: columns are a tile's positions apart */
} CacheRow;

static void cache_store(const CacheRow *c, KVal j, int64_t off, KVal x)
{
  Lower *l = c->r->l;
  Kernel *k = l->k;
  unsigned lanes = kernel_node(k, x)->type.lanes;

  if (!c->keys) {
    k_store(k, c->param, idx_add(k, c->at, j), off, x);
    return;
  }
  KVal at = idx_add(k, c->at, idx_mul(k, j, l->key_tile));
  for (unsigned i = 0; i < lanes; i++)
    k_store(k, c->param, at, (off + i) * l->key_tile, lanes == 1 ? x : k_extract(k, x, i));
}

static void cache_columns(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  CacheRow *c = ctx;
  cache_store(c, j, off, k_cast(l->k, c->elem, eval(c->r, graph_in(l->g, c->r->now->v, 1), j, off, lanes)));
}

/* q8_0: for each 32 columns a scale in 16 bits, and codes. */
static void cache_blocks(const CacheRow *c, int64_t size)
{
  Lower *l = c->r->l;
  Kernel *k = l->k;
  unsigned lanes = l->lanes, n = QBLOCK / lanes;
  KVal x[MAX_VECTORS], max = 0, b = k_loop(k, k_idx(k, 0), k_idx(k, size / QBLOCK), 1),
                       j = idx_mul(k, b, QBLOCK);

  for (unsigned i = 0; i < n; i++) {
    x[i] = eval(c->r, graph_in(l->g, c->r->now->v, 1), j, i * lanes, lanes);
    KVal a = k_op1(k, K_abs, x[i]);
    max = max ? k_op2(k, K_max, max, a) : a;
  }
  KVal half = k_cast(k, KE_f16, mul(k, k_reduce(k, K_rmax, max), k_flt(k, 1, 1.0 / 127)));
  KVal scale = k_cast(k, KE_f32, half), zero = k_flt(k, 1, 0.0);
  KVal inv = k_select(k, k_op2(k, K_lt, zero, scale), k_op2(k, K_div, k_flt(k, 1, 1.0), scale), zero);
  for (unsigned i = 0; i < n; i++) {
    KVal code = k_round(k, mul(k, x[i], k_splat(k, ktype(KE_f32, lanes), inv)));
    code = k_op2(k, K_min, k_op2(k, K_max, code, k_flt(k, lanes, -127)), k_flt(k, lanes, 127));
    cache_store(c, j, i * lanes, k_cast(k, KE_i8, k_cast(k, KE_i32, code)));
  }
  k_store(k, c->scales, idx_add(k, c->scale_at, idx_mul(k, b, c->keys ? l->key_tile : 1)), 0, half);
  k_end(k, NULL, 0);
}

/* State [capacity, heads, size], in whole groups of slots. In a group: values [head][slot][size], keys
 * [head][tile][size][slot in the tile]. Scales of q8_0 likewise, with a 32nd of the size. */
static void stage_update(Row *r)
{
  Lower *l = r->l;
  Kernel *k = l->k;
  Val s = lower_base(l, graph_in(l->g, r->now->v, 0));
  while (graph_node(l->g, s)->op == OP_update)
    s = graph_in(l->g, s, 0);
  uint32_t state = graph_node(l->g, s)->attr.index;
  const Type *t = &l->prog->module->states.data[state].type;
  KElem elem = lower_state_elem(t);
  int64_t heads = heads_of(r), size = type_last(&r->full), stride = (int64_t)l->state_stride[state];
  CacheRow c = {.r = r, .elem = elem, .keys = l->state_is_keys[state]};
  KVal head = heads == 1 ? k_idx(k, 0) : k_op2(k, K_rem, r->row, k_idx(k, heads));
  /* a ring, also where the whole context has room: layers with a window and without then share a kernel */
  KVal slot = k_op2(k, K_rem, idx_add(k, k_arg(k, 0), token_of(r)), k_idx(k, lower_slots(l, t)));

  c.param = lower_param(l, l->state_buffer[state], 0, elem, KA_WRITE, "state");
  KVal lane = c.keys ? k_op2(k, K_rem, slot, k_idx(k, l->key_tile)) : k_idx(k, 0);
  slot = c.keys ? k_op2(k, K_sub, slot, lane) : slot;
  c.at = lower_slot_at(k, head, slot, size, k_idx(k, stride / kelem_info[elem].bytes));
  c.at = idx_add(k, c.at, lane);
  if (t->dtype != DT_Q8_0) {
    lower_columns(l, size, cache_columns, &c);
    return;
  }
  c.scales = lower_param(l, l->state_buffer[state], lower_state_scales(t), KE_f16, KA_WRITE, "scales");
  c.scale_at = lower_slot_at(k, head, slot, size / QBLOCK, k_idx(k, stride / kelem_info[KE_f16].bytes));
  c.scale_at = idx_add(k, c.scale_at, lane);
  cache_blocks(&c, size);
}

/* ---- a part */

static unsigned times_read(const Row *r, Val v)
{
  const Graph *g = r->l->g;
  unsigned n = 0;

  for (uint32_t i = 0; i < r->n; i++)
    for (uint32_t j = 0; j < graph_node(g, r->node[i].v)->in.count; j++)
      if (lower_base(r->l, graph_in(g, r->node[i].v, j)) == v) {
        Op op = graph_node(g, r->node[i].v)->op;
        n += op == OP_softmax ? 3 : op == OP_rms_norm ? 2 : 1;
      }
  return n;
}

static void decide_kind(Row *r, RowNode *rn)
{
  Lower *l = r->l;
  Op op = graph_node(l->g, rn->v)->op;

  rn->scratch = -1;
  if (op == OP_sum || op == OP_amax)
    rn->kind = ROW_NUMBER;
  else if (op == OP_rope || l->outside[rn->v] || times_read(r, rn->v) > 1)
    rn->kind = ROW_STORED;
  /* A sum is most often the residual, which goes from layer to layer through the arena: where a prompt's last layer
   * has no successor it goes there too, for the sake of one kernel. */
  if (rn->kind == ROW_STORED && op == OP_add)
    l->outside[rn->v] = 1;
  if (rn->kind == ROW_STORED && !l->outside[rn->v]) {
    rn->scratch = r->scratch_used;
    r->scratch_used += (int64_t)round_up((uint64_t)type_last(&r->full), PAD);
  }
}

static void emit_stage(Row *r)
{
  Lower *l = r->l;
  const Node *n = graph_node(l->g, r->now->v);
  bool plain = true; /* its elements can be evaluated column by column */

  switch (n->op) {
  case OP_sum: r->now->number = reduce(r, RED_SUM, graph_in(l->g, r->now->v, 0)); break;
  case OP_amax: r->now->number = reduce(r, RED_MAX, graph_in(l->g, r->now->v, 0)); break;
  case OP_rms_norm: stage_rms_norm(r, n); break;
  case OP_softmax: stage_softmax(r); break;
  case OP_quant:
    stage_quant(r);
    plain = false;
    break;
  case OP_rope:
    stage_rope(r, n);
    plain = false;
    break;
  case OP_update:
    stage_update(r);
    plain = false;
    break;
  default: break;
  }
  if (r->now->kind == ROW_NUMBER && l->outside[r->now->v])
    store(r, k_idx(l->k, 0), 0, r->now->number);
  else if (r->now->kind == ROW_STORED && plain)
    lower_columns(l, type_last(&r->full), store_columns, r);
}

static void add_start(Row *r, Val v, const Type *full)
{
  RowStart s = {v, lower_row_start(r->l, v, full, r->row)};
  *PUSH(r->l->arena, r->starts) = s;
}

/* Row starts are computed before any loop, so that they are seen in all of them. */
static void find_starts(Row *r)
{
  Lower *l = r->l;

  for (uint32_t i = 0; i < r->n; i++) {
    Val v = r->node[i].v;
    const Node *n = graph_node(l->g, v);
    for (uint32_t j = 0; j < n->in.count; j++) {
      Val in = graph_in(l->g, v, j);
      Op op = graph_node(l->g, lower_base(l, in))->op;
      bool column = !(n->op == OP_rope && j == 1) && !(n->op == OP_update && j != 1) && op != OP_state;
      if (column && !in_part(r, lower_base(l, in)) && !start_of(r, in))
        add_start(r, in, &r->full);
    }
    if ((r->node[i].kind == ROW_STORED || r->node[i].kind == ROW_NUMBER) && r->node[i].scratch < 0 &&
        l->outside[v] && n->op != OP_quant && n->op != OP_update) {
      (void)lower_value(l, v, KA_WRITE);
      add_start(r, v, &r->full);
    }
  }
}

static void name_kernel(Row *r)
{
  char name[160] = "rows";
  size_t len = strlen(name);

  for (uint32_t i = 0; i < r->n && len < 120; i++) {
    const char *op = op_info[graph_node(r->l->g, r->node[i].v)->op].name;
    memcpy(name + len, ".", 1);
    memcpy(name + len + 1, op, strlen(op) + 1);
    len += strlen(op) + 1;
  }
  lower_begin(r->l, "%s.%lld", name, (long long)type_last(&r->full));
}

bool lower_rows(Lower *l, const Val *nodes, uint32_t n)
{
  Row r = {.l = l, .node = NEW_ARRAY(l->arena, RowNode, n), .n = n};
  const Node *first = graph_node(l->g, nodes[0]);
  Val shaped = first->op == OP_update ? graph_in(l->g, nodes[0], 1)
               : first->op == OP_sum || first->op == OP_amax || first->op == OP_quant
                   ? graph_in(l->g, nodes[0], 0)
                   : nodes[0];

  r.full = graph_node(l->g, shaped)->type;
  for (uint32_t i = 0; i < n; i++)
    r.node[i].v = nodes[i];
  for (uint32_t i = 0; i < n; i++)
    decide_kind(&r, &r.node[i]);
  name_kernel(&r);
  r.row = k_grid(l->k);
  find_starts(&r);
  for (r.now = r.node; r.now < r.node + n; r.now++)
    emit_stage(&r);
  bool per_token = lower_per_token(l, &r.full);
  int64_t rows = type_rows(&r.full);
  int64_t mine = per_token ? rows / l->g->tokens : rows;
  lower_end(l, (uint64_t)mine, per_token, 0, (uint64_t)(mine * type_last(&r.full) * n * OPS_EACH));
  return true;
}
