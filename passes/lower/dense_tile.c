/* dense_tile.c - expressions whose operand's neighbours are not the result's: transposed copies, and images whose channels
 * become the last dimension.
 *
 * Lanes run along the dimension b where the operand's elements lie side by side. As many such vectors as there are lanes,
 * for indices of the result's innermost dimension a, are transposed in registers and stored along a; where a is short,
 * its few vectors are interleaved, and are then one piece of the result. */
#include "passes/lower/dense_plan.h"

enum { MAX_SHORT = 4, BLOCK_TILES = 8, MAX_TILE = 16 };

typedef struct {
  DenseLower *d;
  Kernel *k;
  Val v;
  const Type *t;
  const DensePlace *to;
  uint16_t param;
  const DenseLoops *loops;
  uint32_t b; /* index of its loop; a is loop 0 */
  unsigned lanes;
  DensePoint at; /* of the outer loops */
} Tiles;

static const DenseLoop *loop_a(const Tiles *x)
{
  return &x->loops->loop[0];
}

static const DenseLoop *loop_b(const Tiles *x)
{
  return &x->loops->loop[x->b];
}

static bool is_short(const Tiles *x)
{
  return loop_a(x)->n <= MAX_SHORT;
}

/* A leaf that strides along a and not along b. */
static bool finds_b(Tiles *x, const DenseLeaves *leaves)
{
  for (uint32_t i = 0; i + 1 < leaves->at.len; i++) { /* the last one is the result */
    const int64_t *stride = leaves->at.data[i].stride;
    if (stride[loop_a(x)->dim] == 0 || stride[loop_a(x)->dim] == 1)
      continue;
    for (x->b = 1; x->b < x->loops->n; x->b++)
      if (stride[loop_b(x)->dim] == 1 && loop_b(x)->n >= x->lanes)
        return true;
  }
  return false;
}

static bool applies(Tiles *x, const DenseLeaves *leaves)
{
  if (x->loops->n < 2 || !finds_b(x, leaves) || x->to->stride[loop_a(x)->dim] != 1)
    return false;
  return is_short(x) ? x->to->stride[loop_b(x)->dim] == loop_a(x)->n : loop_a(x)->n >= x->lanes;
}

static KVal value(Tiles *x, const DensePoint *at)
{
  KVal v = x->v == x->d->result ? dense_evaluate(x->d, x->v, at) : dense_expr(x->d, x->v, at);
  return dense_narrow(x->k, x->t->dtype, v);
}

/* Vector j: the elements (b + lane, a + j). */
static KVal column(Tiles *x, KVal a, KVal b, unsigned j)
{
  DensePoint at = x->at;

  at.lanes = x->lanes;
  at.at[loop_a(x)->dim] = (DenseIndex){.v = a, .c = j};
  at.at[loop_b(x)->dim] = (DenseIndex){.v = b, .lane = 1};
  return value(x, &at);
}

/* Swaps the blocks off the diagonal, of one lane, two, four .. */
void dense_transpose_lanes(Kernel *k, KVal *row, unsigned n)
{
  for (unsigned h = 1; h < n; h *= 2) {
    uint8_t low[MAX_TILE], high[MAX_TILE];
    for (unsigned i = 0; i < n; i++) {
      low[i] = (uint8_t)(i & h ? n + i - h : i);
      high[i] = (uint8_t)(i & h ? n + i : i + h);
    }
    for (unsigned i = 0; i < n; i++) {
      KVal a = row[i], b = row[i ^ h];
      if (i & h)
        continue;
      row[i] = k_shuffle(k, a, b, low, n);
      row[i + h] = k_shuffle(k, a, b, high, n);
    }
  }
}

static KVal address(Tiles *x, KVal a, KVal b, unsigned of_b, int64_t *c)
{
  DensePoint at = x->at;

  at.at[loop_a(x)->dim] = (DenseIndex){.v = a};
  at.at[loop_b(x)->dim] = (DenseIndex){.v = b, .c = of_b};
  return dense_address(x->d, x->to, x->t->rank, &at, c);
}

static void square_tile(Tiles *x, KVal a, KVal b)
{
  KVal row[MAX_TILE];
  int64_t c;

  for (unsigned j = 0; j < x->lanes; j++)
    row[j] = column(x, a, b, j);
  dense_transpose_lanes(x->k, row, x->lanes);
  for (unsigned i = 0; i < x->lanes; i++) {
    KVal at = address(x, a, b, i, &c);
    k_store(x->k, x->param, at, c, row[i]);
  }
}

/* Element f of the piece is of vector f % n, lane f / n. */
static void short_tile(Tiles *x, KVal b)
{
  unsigned n = (unsigned)loop_a(x)->n, lanes = x->lanes;
  KVal row[MAX_SHORT];
  int64_t c;

  for (unsigned j = 0; j < n; j++)
    row[j] = column(x, 0, b, j);
  KVal at = address(x, 0, b, 0, &c);
  for (unsigned q = 0; q < n; q++) {
    KVal piece = row[0];
    for (unsigned j = 1; j < n; j++) {
      uint8_t from[MAX_TILE];
      for (unsigned i = 0; i < lanes; i++) {
        unsigned f = q * lanes + i, lane = f / n;
        from[i] = (uint8_t)(f % n == j ? lanes + lane : j == 1 ? lane : i);
      }
      piece = k_shuffle(x->k, piece, row[j], from, lanes);
    }
    k_store(x->k, x->param, at, c + q * lanes, piece);
  }
}

/* ---- what tiles leave over: element by element along a */

typedef struct {
  Tiles *x;
  KVal b;
  int64_t from;
} Rest;

static void rest_span(DenseLower *d, void *ctx, DenseIndex i, unsigned lanes)
{
  Rest *r = ctx;
  Tiles *x = r->x;
  DensePoint at = x->at;

  i.c += r->from;
  at.lanes = lanes;
  at.at[loop_a(x)->dim] = i;
  at.at[loop_b(x)->dim] = (DenseIndex){.v = r->b};
  KVal v = x->v == d->result ? dense_evaluate(d, x->v, &at) : dense_expr(d, x->v, &at);
  dense_put(d, x->param, x->to, x->t->dtype, x->t->rank, &at, v);
}

/* Rows lo .. hi-1 of b, from index `from` of a on. */
static void rest(Tiles *x, KVal lo, KVal hi, int64_t from)
{
  dense_forget(x->d);
  Rest r = {x, k_loop(x->k, lo, hi, 1), from};
  dense_forget(x->d);
  dense_span(x->d, loop_a(x)->n - from, x->lanes, rest_span, &r);
  k_end(x->k, NULL, 0);
  dense_forget(x->d);
}

/* All of a for `lanes` indices of b. */
static void strip(Tiles *x, KVal b)
{
  Kernel *k = x->k;
  int64_t n = loop_a(x)->n, whole = n / x->lanes * x->lanes;

  dense_forget(x->d);
  if (is_short(x)) {
    short_tile(x, b);
    dense_forget(x->d);
    return;
  }
  KVal a = k_loop(k, k_idx(k, 0), k_idx(k, whole), x->lanes);
  square_tile(x, a, b);
  k_end(k, NULL, 0);
  dense_forget(x->d);
  if (whole < n)
    rest(x, b, idx_add(k, b, k_idx(k, x->lanes)), whole);
}

static int64_t outer_grid(Tiles *x, KVal rest)
{
  Kernel *k = x->k;
  int64_t count = 1;

  for (uint32_t i = 1; i < x->loops->n; i++) {
    const DenseLoop *l = &x->loops->loop[i];
    if (i == x->b)
      continue;
    x->at.at[l->dim] = (DenseIndex){.v = k_op2(k, K_rem, rest, k_idx(k, l->n))};
    rest = k_op2(k, K_div, rest, k_idx(k, l->n));
    count *= l->n;
  }
  return count;
}

int64_t dense_tiles(DenseLower *d, Val v, const DensePlace *to, uint16_t param, const DenseLeaves *leaves,
                    const DenseLoops *loops)
{
  Tiles x = {d, d->l->k, v, &graph_node(d->g, v)->type, to, param, loops, 0, d->l->lanes, {.lanes = 1}};
  Kernel *k = x.k;

  if (!applies(&x, leaves))
    return 0;
  int64_t n = loop_b(&x)->n, whole = n / x.lanes * x.lanes, size = x.lanes * (is_short(&x) ? BLOCK_TILES : 1);
  int64_t blocks = (n + size - 1) / size;
  KVal g = k_grid(k), block = blocks > 1 ? k_op2(k, K_rem, g, k_idx(k, blocks)) : k_idx(k, 0);
  int64_t count = blocks * outer_grid(&x, blocks > 1 ? k_op2(k, K_div, g, k_idx(k, blocks)) : g);
  KVal lo = idx_mul(k, block, size), hi = k_op2(k, K_min, idx_add(k, lo, k_idx(k, size)), k_idx(k, whole));
  KVal b = k_loop(k, lo, hi, x.lanes);
  strip(&x, b);
  k_end(k, NULL, 0);
  dense_forget(d);
  if (whole < n) {
    k_if(k, k_op2(k, K_eq, block, k_idx(k, blocks - 1)));
    rest(&x, k_idx(k, whole), k_idx(k, n), 0);
    k_end(k, NULL, 0);
    dense_forget(d);
  }
  return count;
}
