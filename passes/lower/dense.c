/* dense.c - a dense graph to launches: plans groups and places (dense_plan.c), lowers group after group, and puts
 * neighbours that do not need each other in one launch.
 * needs: a verified dense graph; keeps: the graph; leaves: an entry with its inputs and outputs */
#include "passes/lower/dense_plan.h"

typedef struct {
  DenseLower d;
  Val *first, *next; /* members of each group, per node */
  uint32_t *written; /* per buffer: 1 + the launch that writes it */
  const char *name;  /* of the launch under construction */
} Dense;

/* ---- launches */

static void end_launch(Dense *s)
{
  Lower *l = s->d.l;

  if (l->prog->parts.len > l->first_part)
    lower_barrier(l, s->name);
}

static bool is_fresh(const Dense *s, Val v)
{
  const DensePlace *p = &s->d.place[v];

  if (!p->base || graph_node(s->d.g, p->base)->op == OP_weight)
    return false;
  return s->written[s->d.buffer[p->base]] == s->d.l->launch + 1;
}

/* What movement that is no place reads, too. */
static bool reads_fresh(const Dense *s, Val v)
{
  const Node *n = graph_node(s->d.g, v);

  for (uint32_t i = 0; i < n->in.count; i++) {
    Val in = graph_in(s->d.g, v, i);
    if (is_fresh(s, in))
      return true;
    if (!s->d.place[in].base && dense_is_movement(graph_node(s->d.g, in)->op) && reads_fresh(s, in))
      return true;
  }
  return false;
}

static bool must_wait(const Dense *s, Val v)
{
  for (Val m = s->first[v]; m; m = s->next[m])
    if (!dense_surrounds(&s->d, m) && reads_fresh(s, m))
      return true;
  Val from = dense_fed_by(&s->d, v);
  return from && must_wait(s, from);
}

static void begin_group(Dense *s, Val v)
{
  const Node *n = graph_node(s->d.g, v);

  if (must_wait(s, v))
    end_launch(s);
  Val anchor = s->d.anchors[v];
  const char *op = op_info[graph_node(s->d.g, anchor ? anchor : v)->op].name;
  s->name = n->from ? arena_printf(s->d.l->arena, "%s %s", n->from, op) : op;
}

static void list_members(Dense *s)
{
  uint32_t n = s->d.g->nodes.len;

  s->first = NEW_ARRAY(s->d.l->arena, Val, n);
  s->next = NEW_ARRAY(s->d.l->arena, Val, n);
  for (Val v = 1; v < n; v++) {
    Val g = s->d.group[v];
    if (!g)
      continue;
    s->next[v] = s->first[g];
    s->first[g] = v;
  }
}

/* ---- groups */

static bool same_place(const DensePlace *a, const DensePlace *b, const Type *t)
{
  if (a->base != b->base || a->offset != b->offset)
    return false;
  for (uint32_t i = 0; i < t->rank; i++)
    if (t->dim[i] != 1 && a->stride[i] != b->stride[i])
      return false;
  return true;
}

/* Inputs that were not computed in place are copied. */
static void lower_concat(Dense *s, Val v)
{
  DenseLower *d = &s->d;
  const Node *n = graph_node(d->g, v);
  DensePlace to = d->place[v];

  for (uint32_t i = 0; i < n->in.count; i++) {
    Val in = graph_in(d->g, v, i);
    const Type *t = &graph_node(d->g, in)->type;
    if (type_count(t) && !same_place(&d->place[in], &to, t))
      dense_copy(d, in, v, &to);
    to.offset += t->dim[n->attr.axis] * to.stride[n->attr.axis];
  }
}

static bool lower_group(Dense *s, Val v)
{
  DenseLower *d = &s->d;
  const Node *n = graph_node(d->g, v);
  bool ok = true;

  if (!type_count(&n->type))
    return true;
  begin_group(s, v);
  d->result = v;
  d->anchor = d->anchors[v];
  if (n->op == OP_concat)
    lower_concat(s, v);
  else if (d->anchor && !dense_bands(d, v))
    ok = dense_row(graph_node(d->g, d->anchor)->op)->lower(d, d->anchor);
  else if (!d->anchor)
    ok = lower_dense_map(d, v);
  s->written[d->buffer[d->place[v].base]] = d->l->launch + 1;
  return ok;
}

/* ---- inputs and outputs */

static void add_io(Lower *l, Slice *list, const Node *n, uint32_t buffer)
{
  *PUSH(l->arena, l->prog->ios) = (Io){n->attr.name, n->type, buffer};
  list->count++;
}

static void list_inputs(DenseLower *d)
{
  Slice *list = &d->l->prog->entries.data[d->l->entry].inputs;

  *list = (Slice){d->l->prog->ios.len, 0};
  for (Val v = 1; v < d->g->nodes.len; v++)
    if (graph_node(d->g, v)->op == OP_input)
      add_io(d->l, list, graph_node(d->g, v), d->buffer[v]);
}

static void list_outputs(DenseLower *d)
{
  Slice *list = &d->l->prog->entries.data[d->l->entry].outputs;

  *list = (Slice){d->l->prog->ios.len, 0};
  for (Val v = 1; v < d->g->nodes.len; v++) {
    const Node *n = graph_node(d->g, v);
    if (n->op != OP_output)
      continue;
    uint32_t b = d->buffer[d->group[v] ? v : dense_output_base(d, v)];
    Buffer *buffer = &d->l->prog->buffers.data[b];
    buffer->last = UINT32_MAX;
    buffer->first = buffer->first == UINT32_MAX ? 0 : buffer->first; /* of no element: nobody wrote it */
    add_io(d->l, list, n, b);
  }
}

bool lower_dense_graph(Lower *l, const Graph *g)
{
  Program *p = l->prog;
  Dense s = {.d = {.l = l, .g = g}, .name = ""};
  uint32_t first = p->launches.len;

  l->g = g;
  l->entry = p->entries.len;
  l->launch = 0;
  l->first_part = p->parts.len;
  *PUSH(l->arena, p->entries) = (Entry){.name = g->name, .tokens = (uint32_t)g->tokens};
  dense_plan(&s.d);
  s.written = NEW_ARRAY(l->arena, uint32_t, p->buffers.len);
  list_members(&s);
  list_inputs(&s.d);
  for (Val v = 1; v < g->nodes.len; v++)
    if (s.d.group[v] == v && !s.d.feeds[v] && !lower_group(&s, v))
      return false;
  end_launch(&s);
  list_outputs(&s.d);
  p->entries.data[l->entry].launches = (Slice){first, p->launches.len - first};
  return true;
}
