/* lower.c - graphs to a program: places every value, cuts each launch in independent parts, and hands
 * every part to the lowering of its family.
 * needs: launches from pass_fuse; keeps: the graphs; leaves: kernels with any op (see pass_legalize) */
#include "passes/lower/lower.h"

#include <assert.h>
#include <stdio.h>

#include "passes/lower/dense.h"
#include "passes/lower/panel.h"
#include "passes/lower/planes.h"
#include "passes/passes.h"

/* ---- places */

int64_t lower_stride(const Type *t)
{
  int64_t row = t->rank ? type_count(t) / t->dim[0] : 1;
  return t->rank > 1 ? (int64_t)round_up((uint64_t)row, PAD) : 1;
}

static bool unpadded(const Type *t)
{
  return t->rank < 2 || type_count(t) / t->dim[0] % PAD == 0;
}

bool lower_is_view(const Graph *g, Val v)
{
  const Node *n = graph_node(g, v);
  if (n->op != OP_reshape)
    return false;
  const Node *in = graph_node(g, graph_in(g, v, 0));
  if (in->op == OP_weight || (n->type.rank > 1 && in->type.rank > 1 && n->type.dim[0] == in->type.dim[0]))
    return true;
  return unpadded(&n->type) && unpadded(&in->type);
}

Val lower_base(const Lower *l, Val v)
{
  while (lower_is_view(l->g, v))
    v = graph_in(l->g, v, 0);
  return v;
}

Q8aLayout lower_q8a(const Lower *l, int64_t rows, int64_t columns)
{
  uint64_t n = (uint64_t)rows * (uint64_t)columns, array = round_up(n / QBLOCK * 4, 64);
  Q8aLayout q = {.scale = round_up(n, 64)};

  q.ssum = q.scale + array;
  q.start16 = q.ssum + array;
  q.bytes = q.start16 + round_up(n / (QBLOCK / 2) * 4, 64);
  for (unsigned i = 0; i < l->zeros.n; i++, q.bytes += array)
    q.start[i] = q.bytes;
  return q;
}

int64_t lower_slots(const Lower *l, const Type *state)
{
  assert(SLOT_GROUP % l->key_tile == 0);
  return (int64_t)round_up((uint64_t)state->dim[0], SLOT_GROUP);
}

KElem lower_state_elem(const Type *state)
{
  return state->dtype == DT_F16 ? KE_f16 : state->dtype == DT_Q8_0 ? KE_i8 : KE_f32;
}

/* In a group of slots. */
static uint64_t state_elements(const Type *t)
{
  return SLOT_GROUP * (uint64_t)(type_count(t) / t->dim[0]);
}

uint64_t lower_state_scales(const Type *state)
{
  return round_up(state_elements(state) * kelem_info[lower_state_elem(state)].bytes, STATE_ALIGN);
}

/* Of a group of slots. q8_0: all codes, then all scales, both in the order of the elements. */
static uint64_t group_bytes(const Type *t)
{
  uint64_t scales = t->dtype == DT_Q8_0 ? state_elements(t) / QBLOCK * kelem_info[KE_f16].bytes : 0;
  return lower_state_scales(t) + round_up(scales, STATE_ALIGN);
}

/* Where a head's groups are a multiple of a large power of two apart, they have the same few places in a cache: then one more
 * head's share is left free. */
static uint64_t spread(const Type *t, uint64_t stride)
{
  enum { CROWDED = 8 };
  uint64_t share = state_elements(t) / (uint64_t)t->dim[1] * kelem_info[lower_state_elem(t)].bytes;
  return stride / share % CROWDED ? stride : stride + round_up(share, STATE_ALIGN);
}

/* States with as many slots as state `first` has, from byte `at` on; returns where they end. */
static uint64_t place_states(Lower *l, const Module *m, uint32_t first, uint64_t at)
{
  const Type *like = &m->states.data[first].type;
  uint64_t groups = (uint64_t)lower_slots(l, like) / SLOT_GROUP, in = 0, stride = 0;

  for (uint32_t i = first; i < m->states.len; i++)
    if (lower_slots(l, &m->states.data[i].type) == lower_slots(l, like))
      stride += group_bytes(&m->states.data[i].type);
  stride = spread(like, stride);
  for (uint32_t i = first; i < m->states.len; i++) {
    const State *s = &m->states.data[i];
    if (lower_slots(l, &s->type) != lower_slots(l, like))
      continue;
    uint64_t bytes = group_bytes(&s->type);
    l->state_buffer[i] = program_buffer(l->prog, SPACE_STATE, s->name, (groups - 1) * stride + bytes);
    l->prog->buffers.data[l->state_buffer[i]].offset = at + in;
    l->state_stride[i] = stride;
    in += bytes;
  }
  return at + groups * stride;
}

/* All states' slots for some positions lie together, those for the next behind them: memory is touched as a context grows, page after
 * page, and may be had in large pages. */
static void find_states(Lower *l, const Module *m)
{
  uint64_t at = 0;

  l->state_buffer = NEW_ARRAY(m->arena, uint32_t, m->states.len);
  l->state_stride = NEW_ARRAY(m->arena, uint64_t, m->states.len);
  for (uint32_t i = 0; i < m->states.len; i++)
    if (!l->state_buffer[i])
      at = place_states(l, m, i, at);
}

KVal lower_slot_at(Kernel *k, KVal head, KVal slot, int64_t size, KVal group)
{
  KVal in = k_op2(k, K_rem, slot, k_idx(k, SLOT_GROUP)), row = idx_add(k, idx_mul(k, head, SLOT_GROUP), in);
  KVal at = k_op2(k, K_mul, k_op2(k, K_div, slot, k_idx(k, SLOT_GROUP)), group);
  return idx_add(k, at, idx_mul(k, row, size));
}

bool lower_per_token(const Lower *l, const Type *t)
{
  return t->rank > 1 && l->g->tokens > 1 && t->dim[0] == l->g->tokens;
}

static uint32_t arena_buffer(Lower *l, Val v, uint64_t bytes)
{
  const Node *n = graph_node(l->g, v);
  const char *op = op_info[n->op].name;
  uint32_t b = program_buffer(l->prog, SPACE_ARENA,
                              n->from ? arena_printf(l->arena, "%s.%s", n->from, op)
                                      : arena_printf(l->arena, "%%%u.%s", v, op),
                              bytes);
  l->prog->buffers.data[b].entry = l->entry;
  return b;
}

/* A value that is computed gets a buffer when it is first written. */
static void place_computed(Lower *l, Val v)
{
  const Node *n = graph_node(l->g, v);
  Place *p = &l->place[v];

  if (n->type.dtype == DT_Q8A) {
    uint64_t bytes = lower_q8a(l, type_rows(&n->type), type_last(&n->type)).bytes;
    if (lower_is_wide(l, v))
      bytes += (uint64_t)type_count(&n->type) * sizeof(int16_t);
    *p = (Place){PLACE_Q8A, arena_buffer(l, v, bytes), type_last(&n->type)};
    l->prog->buffers.data[p->buffer].arrays = true;
    return;
  }
  int64_t stride = lower_stride(&n->type), rows = n->type.rank > 1 ? n->type.dim[0] : 1;
  uint64_t count =
      n->type.rank > 1 ? (uint64_t)(rows * stride) : round_up((uint64_t)type_count(&n->type), PAD);
  *p = (Place){PLACE_ARENA, arena_buffer(l, v, count * 4), stride};
}

const Place *lower_place(Lower *l, Val v)
{
  if (l->place[v].kind == PLACE_NONE)
    place_computed(l, v);
  return &l->place[v];
}

static bool is_panel_use(const Graph *g, Val user, uint32_t input)
{
  Op op = graph_node(g, user)->op;
  return (op == OP_linear || op == OP_embed) && input == 1;
}

uint32_t lower_weight(Lower *l, uint32_t weight, Layout layout)
{
  uint32_t *b = &l->weight_buffer[layout][weight];

  if (!*b) {
    const Weight *w = &l->prog->module->weights.data[weight];
    uint64_t bytes = layout == LAYOUT_PANEL    ? panel_weight_bytes(&w->type)
                     : layout == LAYOUT_PLANES ? planes_weight_bytes(&w->type)
                     : layout == LAYOUT_ROWS   ? tensor_bytes(&w->type) + DENSE_SLACK
                                               : round_up((uint64_t)type_count(&w->type), PAD) * 4;
    *b = program_buffer(l->prog, SPACE_WEIGHTS, w->name, bytes);
    *PUSH(l->arena, l->prog->items) = (Item){.layout = layout, .weight = weight, .buffer = *b};
  }
  return *b;
}

static void place_leaf(Lower *l, Val v)
{
  const Node *n = graph_node(l->g, v);
  Place *p = &l->place[v];

  switch (n->op) {
  case OP_const: p->kind = PLACE_CONST; break;
  case OP_state: *p = (Place){PLACE_STATE, l->state_buffer[n->attr.index], 0}; break;
  case OP_input: {
    uint64_t count = round_up((uint64_t)type_count(&n->type), PAD) + (uint64_t)lower_stride(&n->type) * PAD;
    if (n->type.rank > 1)
      count = (uint64_t)(lower_stride(&n->type) * n->type.dim[0]);
    *p = (Place){PLACE_ARENA, arena_buffer(l, v, count * 4), lower_stride(&n->type)};
    Buffer *b = &l->prog->buffers.data[p->buffer];
    b->first = 0;
    b->last = UINT32_MAX; /* the caller may read it back, and writes before the first launch */
    if (!strcmp(n->attr.name, "tokens"))
      l->prog->entries.data[l->entry].tokens_buffer = p->buffer;
    break;
  }
  default: break;
  }
}

/* Which states hold keys is decided by who reads them: attention's first state. */
static void find_key_states(Lower *l, const Module *m)
{
  for (uint32_t i = 0; i < m->graphs.len; i++) {
    const Graph *g = m->graphs.data[i];
    for (Val v = 1; v < g->nodes.len; v++) {
      if (graph_node(g, v)->op != OP_attention)
        continue;
      Val s = graph_in(g, v, 1);
      while (graph_node(g, s)->op == OP_update)
        s = graph_in(g, s, 0);
      if (graph_node(g, s)->op == OP_state)
        l->state_is_keys[graph_node(g, s)->attr.index] = 1;
    }
  }
}

static void count_users(Lower *l)
{
  const Graph *g = l->g;

  for (Val v = 1; v < g->nodes.len; v++)
    for (uint32_t i = 0; i < graph_node(g, v)->in.count; i++) {
      Val in = graph_in(g, v, i), base = lower_base(l, in);
      if (lower_is_view(g, v))
        continue; /* its own users count */
      l->users[base]++;
      if (graph_node(g, v)->op == OP_output || graph_node(g, v)->launch != graph_node(g, base)->launch)
        l->outside[base] = 1;
    }
}

/* ---- kernels under construction */

void lower_begin(Lower *l, const char *fmt, ...)
{
  char name[200];
  va_list ap;
  va_start(ap, fmt);
  vsnprintf(name, sizeof name, fmt, ap);
  va_end(ap);
  l->k = kernel_new(l->arena, name);
  l->binds.len = 0;
}

static void touch(Lower *l, uint32_t buffer)
{
  Buffer *b = &l->prog->buffers.data[buffer];
  if (b->space != SPACE_ARENA)
    return;
  if (b->first > l->launch)
    b->first = l->launch;
  if (b->last < l->launch || b->first == l->launch)
    b->last = b->last > l->launch ? b->last : l->launch;
}

/* x, x2, x3: parameters are told apart by name in a kernel's text. */
static const char *free_name(const Lower *l, const char *name)
{
  const char *tried = name;

  for (uint32_t n = 2, i = 0; i < l->k->params.len; i++)
    if (!strcmp(l->k->params.data[i].name, tried)) {
      tried = arena_printf(l->arena, "%s%u", name, n++);
      i = UINT32_MAX; /* once more from the start */
    }
  return tried;
}

uint16_t lower_param(Lower *l, uint32_t buffer, uint64_t offset, KElem elem, KAccess access, const char *name)
{
  touch(l, buffer);
  for (uint32_t i = 0; i < l->binds.len; i++) {
    KParam *p = &l->k->params.data[i];
    if (l->binds.data[i].buffer == buffer && l->binds.data[i].offset == offset && p->elem == elem) {
      if (p->access != access)
        p->access = KA_BOTH;
      return (uint16_t)i;
    }
  }
  *PUSH(l->arena, l->binds) = (Bind){buffer, offset};
  return kernel_param(l->k, free_name(l, name), elem, access);
}

uint16_t lower_scratch(Lower *l, uint64_t bytes)
{
  if (!l->k->scratch_bytes)
    lower_param(l, program_buffer(l->prog, SPACE_SCRATCH, "scratch", 0), 0, KE_f32, KA_SCRATCH, "scratch");
  uint16_t p = 0;
  while (l->k->params.data[p].access != KA_SCRATCH)
    p++;
  if (bytes > l->k->scratch_bytes)
    l->k->scratch_bytes = bytes;
  l->prog->buffers.data[l->binds.data[p].buffer].bytes = l->k->scratch_bytes;
  return p;
}

uint16_t lower_value(Lower *l, Val v, KAccess access)
{
  Val base = lower_base(l, v);
  const Node *n = graph_node(l->g, base);

  if (n->op == OP_weight)
    return lower_param(l, lower_weight(l, n->attr.index, LAYOUT_VECTOR), 0, KE_f32, KA_READ, "c");
  return lower_param(l, lower_place(l, base)->buffer, 0, KE_f32, access, access == KA_READ ? "x" : "y");
}

Part *lower_end(Lower *l, uint64_t grid, bool per_token, uint64_t bytes, uint64_t ops)
{
  Program *p = l->prog;
  uint32_t first = p->binds.len;

  for (uint32_t i = 0; i < l->binds.len; i++)
    *PUSH(l->arena, p->binds) = l->binds.data[i];
  Kernel *k = pass_legalize(l->arena, l->k, l->target);
  Part part = {.grid = (uint32_t)grid,
               .times = per_token ? TIMES_TOKENS : TIMES_ONCE,
               .binds = {first, l->binds.len},
               .bytes = bytes,
               .ops = ops};
  program_kernel(p, k, &part);
  *PUSH(l->arena, p->parts) = part;
  l->k = NULL;
  return &p->parts.data[p->parts.len - 1];
}

void lower_barrier(Lower *l, const char *name)
{
  Program *p = l->prog;
  uint32_t first = l->first_part;

  *PUSH(l->arena, p->launches) = (Launch){name, {first, p->parts.len - first}};
  l->first_part = p->parts.len;
  l->launch++;
}

/* ---- parts of a launch: nodes that read each other, or products that share an epilogue */

typedef struct {
  Lower *l;
  Val *parent; /* union-find over the nodes of the graph */
} Parts;

static Val find(Parts *p, Val v)
{
  while (p->parent[v] != v)
    v = p->parent[v] = p->parent[p->parent[v]];
  return v;
}

static void join(Parts *p, Val a, Val b)
{
  a = find(p, a);
  b = find(p, b);
  if (a < b)
    p->parent[b] = a;
  else
    p->parent[a] = b;
}

static void join_parts(Parts *p)
{
  const Graph *g = p->l->g;

  for (Val v = 1; v < g->nodes.len; v++)
    p->parent[v] = v;
  for (Val v = 1; v < g->nodes.len; v++) {
    uint32_t launch = graph_node(g, v)->launch;
    for (uint32_t i = 0; launch && i < graph_node(g, v)->in.count; i++) {
      Val in = lower_base(p->l, graph_in(g, v, i));
      if (graph_node(g, in)->launch == launch)
        join(p, v, in);
    }
  }
}

typedef bool LowerFn(Lower *l, const Val *nodes, uint32_t n);

/* The family of a part follows from its first node. */
static LowerFn *family(Op op)
{
  if (lower_is_row(op))
    return lower_rows;
  switch (op) {
  case OP_linear: return lower_linear;
  case OP_attention: return lower_attention;
  case OP_embed: return lower_embed;
  case OP_rope_table: return lower_rope_table;
  case OP_reshape:
  case OP_transpose:
  case OP_slice:
  case OP_concat:
  case OP_output: return lower_move; /* an output of a constant */
  default: return NULL;
  }
}

static bool uses_planes(const Lower *l, Val v)
{
  const Node *w =
      graph_node(l->g, v)->op == OP_linear ? graph_node(l->g, lower_base(l, graph_in(l->g, v, 1))) : NULL;
  return w && w->op == OP_weight && l->weight_planes[w->attr.index];
}

static bool lower_part(Lower *l, const Val *nodes, uint32_t n)
{
  LowerFn *fn = NULL;

  if (n == 1 && uses_planes(l, nodes[0]))
    return lower_head(l, nodes[0]);
  for (uint32_t i = 0; i < n; i++)
    if (graph_node(l->g, nodes[i])->op == OP_linear)
      fn = lower_linear;
  if (!fn)
    fn = family(graph_node(l->g, nodes[0])->op);
  return fn(l, nodes, n);
}

static const char *launch_name(Lower *l, const Val *nodes, uint32_t n)
{
  const Node *last = graph_node(l->g, nodes[n - 1]), *first = graph_node(l->g, nodes[0]);
  const char *from = last->from ? last->from : first->from;
  return arena_printf(l->arena, "%s%s%s", from ? from : "", from ? " " : "", op_info[first->op].name);
}

static bool lower_launch(Lower *l, Parts *parts, const Val *nodes, uint32_t n)
{
  Val *group = NEW_ARRAY(l->arena, Val, n);

  l->first_part = l->prog->parts.len;
  l->name = launch_name(l, nodes, n);
  for (uint32_t i = 0; i < n; i++) {
    Val root = find(parts, nodes[i]);
    uint32_t count = 0;
    bool seen = false;
    for (uint32_t j = 0; j < n; j++) {
      if (find(parts, nodes[j]) != root)
        continue;
      seen = seen || j < i;
      group[count++] = nodes[j];
    }
    if (!seen && !lower_part(l, group, count))
      return false;
  }
  lower_barrier(l, l->name);
  return true;
}

/* ---- a graph */

static bool report_unlowered(const Graph *g, Err *e)
{
  uint32_t count[OP_COUNT] = {0};
  char text[600] = "";
  size_t len = 0;

  for (Val v = 1; v < g->nodes.len; v++)
    if (graph_node(g, v)->launch && !family(graph_node(g, v)->op))
      count[graph_node(g, v)->op]++;
  for (int op = 0; op < OP_COUNT; op++)
    if (count[op] && len < sizeof text - 80)
      len += (size_t)snprintf(text + len, sizeof text - len, "%s%s (%u)", len ? ", " : "", op_info[op].name,
                              count[op]);
  return len ? fail(e, "graph '%s': no lowering for %s", g->name, text) : true;
}

static void add_io(Lower *l, Slice *list, const Node *n, uint32_t buffer)
{
  *PUSH(l->arena, l->prog->ios) = (Io){n->attr.name, n->type, buffer};
  list->count++;
}

static void list_inputs(Lower *l)
{
  Entry *entry = &l->prog->entries.data[l->entry];

  entry->inputs = (Slice){l->prog->ios.len, 0};
  for (Val v = 1; v < l->g->nodes.len; v++)
    if (graph_node(l->g, v)->op == OP_input)
      add_io(l, &entry->inputs, graph_node(l->g, v), l->place[v].buffer);
}

/* Outputs live to the end. A state stays where it is. */
static void list_outputs(Lower *l)
{
  Entry *entry = &l->prog->entries.data[l->entry];

  entry->outputs = (Slice){l->prog->ios.len, 0};
  for (Val v = 1; v < l->g->nodes.len; v++) {
    const Node *n = graph_node(l->g, v);
    if (n->op != OP_output)
      continue;
    const Place *p = n->launch ? &l->place[v] : &l->place[lower_base(l, graph_in(l->g, v, 0))];
    uint32_t buffer = p->kind == PLACE_ARENA ? p->buffer : 0;
    if (buffer) {
      l->prog->buffers.data[buffer].last = UINT32_MAX;
      if (!strcmp(n->attr.name, "logits"))
        entry->logits_buffer = buffer;
    }
    add_io(l, &entry->outputs, n, buffer);
  }
}

static bool lower_graph(Lower *l, const Graph *g)
{
  Program *p = l->prog;
  uint32_t n_nodes = g->nodes.len, first = p->launches.len;
  Parts parts = {l, NEW_ARRAY(l->arena, Val, n_nodes)};
  Val *nodes = NEW_ARRAY(l->arena, Val, n_nodes);
  uint32_t last_launch = 0;

  if (!report_unlowered(g, l->e))
    return false;
  l->g = g;
  l->entry = p->entries.len;
  l->launch = 0;
  l->place = NEW_ARRAY(l->arena, Place, n_nodes);
  l->users = NEW_ARRAY(l->arena, uint32_t, n_nodes);
  l->outside = NEW_ARRAY(l->arena, uint8_t, n_nodes);
  *PUSH(l->arena, p->entries) = (Entry){.name = g->name, .tokens = (uint32_t)g->tokens};
  for (Val v = 1; v < n_nodes; v++) {
    place_leaf(l, v);
    if (graph_node(g, v)->launch > last_launch)
      last_launch = graph_node(g, v)->launch;
  }
  list_inputs(l);
  count_users(l);
  join_parts(&parts);
  for (uint32_t launch = 1; launch <= last_launch; launch++) {
    uint32_t n = 0;
    for (Val v = 1; v < n_nodes; v++)
      if (graph_node(g, v)->launch == launch)
        nodes[n++] = v;
    if (n && !lower_launch(l, &parts, nodes, n))
      return false;
  }
  list_outputs(l);
  p->entries.data[l->entry].launches = (Slice){first, p->launches.len - first};
  return true;
}

/* A head is laid out in planes if that saves bytes: a q8_0 matrix of many rows whose product is the logits, for one
 * token, and nothing else; all its other uses are embeddings. */
enum { PLANES_MIN_ROWS = 32768 };

static bool is_head(const Graph *g, Val v)
{
  const Type *w = &graph_node(g, graph_in(g, v, 1))->type;
  uint32_t logits = 0, others = 0;

  for (Val u = v + 1; u < g->nodes.len; u++)
    for (uint32_t i = 0; i < graph_node(g, u)->in.count; i++)
      if (graph_in(g, u, i) == v) {
        bool out = graph_node(g, u)->op == OP_output && !strcmp(graph_node(g, u)->attr.name, "logits");
        *(out ? &logits : &others) += 1;
      }
  return w->dtype == DT_Q8_0 && w->dim[0] >= PLANES_MIN_ROWS && logits && !others &&
         graph_node(g, v)->type.dim[0] == 1 && graph_node(g, v)->type.rank == 2 &&
         graph_node(g, graph_in(g, v, 0))->type.dtype == DT_Q8A;
}

static void find_heads(Lower *l, const Module *m)
{
  uint8_t *other = NEW_ARRAY(m->arena, uint8_t, m->weights.len);

  for (uint32_t i = 0; i < m->graphs.len; i++) {
    const Graph *g = m->graphs.data[i];
    for (Val v = 1; v < g->nodes.len; v++)
      for (uint32_t j = 0; j < graph_node(g, v)->in.count; j++) {
        const Node *w = graph_node(g, graph_in(g, v, j));
        if (w->op != OP_weight || (graph_node(g, v)->op == OP_embed && j == 1))
          continue;
        bool head = graph_node(g, v)->op == OP_linear && j == 1 && is_head(g, v);
        (head ? l->weight_planes : other)[w->attr.index] = 1;
      }
  }
  for (uint32_t i = 0; i < m->weights.len; i++)
    l->weight_planes[i] &= (uint8_t)!other[i];
}

/* Matrices of block types have no other layout than panels. */
static bool check_weight_uses(const Module *m, Err *e)
{
  for (uint32_t i = 0; i < m->graphs.len; i++) {
    const Graph *g = m->graphs.data[i];
    for (Val v = 1; v < g->nodes.len && !g->dense; v++)
      for (uint32_t j = 0; j < graph_node(g, v)->in.count; j++) {
        const Node *w = graph_node(g, graph_in(g, v, j));
        if (w->op != OP_weight)
          continue;
        if (is_panel_use(g, v, j) && w->type.rank != 2)
          return fail(e, "weight '%s' must be a matrix", m->weights.data[w->attr.index].name);
        if (!is_panel_use(g, v, j) && dtype_info[w->type.dtype].kind != DK_FLOAT)
          return fail(e, "weight '%s' of type %s is used outside of a product",
                      m->weights.data[w->attr.index].name, dtype_info[w->type.dtype].name);
      }
  }
  return true;
}

bool pass_lower(const Module *m, const Target *target, const PassOptions *o, Program **out, Err *e)
{
  Program *p = NEW(m->arena, Program);
  Lower l = {.prog = p, .arena = m->arena, .target = target, .e = e, .lanes = target->vector_bytes / 4};

  l.key_tile = KEY_VECTORS * l.lanes;

  if (!check_weight_uses(m, e))
    return false;
  p->arena = m->arena;
  p->module = m;
  p->target = target->name;
  p->target_needs = target->needs;
  (void)program_buffer(p, SPACE_SCRATCH, "none", 0);
  p->buffers.len = 1;
  for (int i = 0; i < LAYOUT_RAW; i++)
    l.weight_buffer[i] = NEW_ARRAY(m->arena, uint32_t, m->weights.len);
  l.state_is_keys = NEW_ARRAY(m->arena, uint8_t, m->states.len);
  l.weight_planes = NEW_ARRAY(m->arena, uint8_t, m->weights.len);
  l.zeros = lower_zeros(m);
  if (!o->whole_head)
    find_heads(&l, m);
  l.rope_buffer = NEW_ARRAY(m->arena, uint32_t, m->ropes.len);
  p->context = module_context(m);
  find_key_states(&l, m);
  find_states(&l, m);
  for (uint32_t i = 0; i < m->graphs.len; i++)
    if (!(m->graphs.data[i]->dense ? lower_dense_graph : lower_graph)(&l, m->graphs.data[i]))
      return false;
  program_end_kernels(p);
  program_drop_unread(p);
  program_place(p, o->threads ? target->l2_bytes / 2 : 0);
  *out = p;
  return true;
}
