/* dense_borders.c - pads whose input was computed right where they need it (dense_plan.c): what is left is to fill the
 * places around it.
 *
 * Of a result whose dimensions a and b are padded, b the inner one, that is for each index before them: what lies before
 * the first row of the input, between two rows, and behind the last. */
#include "passes/lower/dense_plan.h"

typedef struct {
  int64_t outer, slab; /* slabs, and elements of one */
  int64_t rows, row;   /* rows of the input in a slab, elements from one to the next */
  int64_t lead, gap, tail;
} Borders;

/* One or two padded dimensions with none between; nothing is cut. */
static bool find_borders(const DenseLower *d, Val v, Borders *out)
{
  const Node *n = graph_node(d->g, v);
  const Type *in = &graph_node(d->g, graph_in(d->g, v, 0))->type;
  const int64_t *lo = n->attr.pad.lo;
  uint32_t rank = n->type.rank, a = rank, b = rank;
  int64_t inner = 1;

  for (uint32_t i = 0; i < rank; i++) {
    if (lo[i] < 0 || lo[i] + in->dim[i] > n->type.dim[i])
      return false;
    if (in->dim[i] == n->type.dim[i])
      continue;
    if (b != rank && (a != rank || i != b + 1))
      return false;
    a = b;
    b = i;
  }
  if (b == rank || !type_count(in))
    return false;
  for (uint32_t i = b + 1; i < rank; i++)
    inner *= n->type.dim[i];
  bool two = a != rank;
  *out = (Borders){.outer = 1, .rows = two ? in->dim[a] : 1, .row = n->type.dim[b] * inner};
  out->slab = out->row * (two ? n->type.dim[a] : 1);
  for (uint32_t i = 0; i < (two ? a : b); i++)
    out->outer *= n->type.dim[i];
  out->lead = (two ? lo[a] * out->row : 0) + lo[b] * inner;
  out->gap = out->row - in->dim[b] * inner;
  out->tail = out->slab - out->lead - (out->rows - 1) * out->row - in->dim[b] * inner;
  return true;
}

bool dense_can_surround(const DenseLower *d, Val v)
{
  Borders b;

  return d->group[v] == v && d->anchors[v] == v && d->place[v].base == v &&
         graph_node(d->g, graph_in(d->g, v, 1))->op == OP_const && find_borders(d, v, &b);
}

bool dense_surrounds(const DenseLower *d, Val v)
{
  return graph_node(d->g, v)->op == OP_pad && d->place[graph_in(d->g, v, 0)].base == v;
}

typedef struct {
  uint16_t param;
  KVal at;
  int64_t from;
  DType t;
  double value;
} Fill;

static void fill_span(DenseLower *d, void *ctx, DenseIndex i, unsigned lanes)
{
  const Fill *f = ctx;
  Kernel *k = d->l->k;
  KVal at = i.v ? idx_add(k, f->at, i.v) : f->at;

  k_store(k, f->param, at, f->from + i.c, dense_narrow(k, f->t, dense_const(k, f->t, lanes, f->value)));
}

static void fill(DenseLower *d, Fill *f, KVal at, int64_t from, int64_t n)
{
  unsigned bytes = dtype_info[f->t].bytes, lanes = d->l->lanes * 4 / (bytes > 4 ? 4 : bytes);

  f->at = at;
  f->from = from;
  dense_span(d, n, lanes, fill_span, f);
}

void dense_surround(DenseLower *d, Val v)
{
  const Node *n = graph_node(d->g, v), *value = graph_node(d->g, graph_in(d->g, v, 1));
  Borders b = {.outer = 1};

  find_borders(d, v, &b);
  dense_begin(d, "pad.around.%lldx%lldx%lld.%lld", (long long)b.outer, (long long)b.rows, (long long)b.row,
              (long long)b.gap);
  Kernel *k = d->l->k;
  Fill f = {.param = dense_param(d, v, KA_WRITE), .t = n->type.dtype, .value = value->attr.value};
  KVal slab = b.outer > 1 ? idx_mul(k, k_grid(k), b.slab) : k_idx(k, 0);
  fill(d, &f, slab, 0, b.lead);
  if (b.rows > 1) {
    KVal row = k_loop(k, k_idx(k, 0), k_idx(k, b.rows - 1), 1);
    fill(d, &f, idx_add(k, slab, idx_mul(k, row, b.row)), b.lead + b.row - b.gap, b.gap);
    k_end(k, NULL, 0);
  }
  fill(d, &f, slab, b.slab - b.tail, b.tail);
  dense_end(d, b.outer, (uint64_t)(b.outer * (b.slab - b.rows * (b.row - b.gap))));
}
