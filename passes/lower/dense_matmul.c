/* dense_matmul.c - products of dense graphs: y[.., m, n] = sum over k of a[.., m, k] * b[k, n].
 *
 * A grid step makes a block of columns for some rows, tile by tile: the sums of some rows and some vectors of columns stay
 * in registers while k runs. b is a constant in panels of 16 columns (panel.h), or lies in memory, if possible with its
 * columns side by side; of a, one element counts for all lanes. Few sums would wait for each other: then each is cut in
 * parts that take turns. */
#include "passes/lower/dense_plan.h"
#include "passes/lower/panel.h"

#include <stdio.h>

enum { MAX_ROWS = 12, MAX_VECS = 8, MAX_SUMS = 24, UNROLL = 4, ENOUGH_SUMS = 8, MIN_GRID = 16 };

typedef struct {
  DType t;
  uint16_t param;
  KElem elem;
  int64_t offset, k;        /* elements; from one k to the next */
  int64_t stride[MAX_RANK]; /* along the result's dimensions */
} Operand;

typedef struct {
  DenseLower *d;
  Kernel *k;
  Val v;
  DType t;
  const Type *type;
  Operand a, b;
  bool panels;
  int64_t depth, columns;
  uint32_t column_dim;
  unsigned lanes, vecs, rows, parts;
  DenseLoops loops;
  DensePoint at; /* indices of the outer loops */
} Product;

/* A tile: `rows` from index `row`, `vecs` vectors of `lanes` columns, `valid` of them real, from constant column c of
 * block `block`. */
typedef struct {
  DenseIndex row;
  unsigned rows, vecs, lanes;
  KVal block; /* 0: the first */
  int64_t c, valid;
} Tile;

typedef struct {
  KVal v[MAX_ROWS][MAX_VECS][UNROLL];
} Sums;

static KVal add_to(Kernel *k, KVal sum, KVal x)
{
  return sum ? idx_add(k, sum, x) : x;
}

/* ---- addresses */

static uint32_t row_dim(const Product *p)
{
  return p->loops.n ? p->loops.loop[0].dim : 0;
}

/* Where an operand begins for the outer loops and the tile's first row. */
static KVal outer_address(Product *p, const Operand *o, const Tile *t, bool rows)
{
  Kernel *k = p->k;
  KVal sum = 0;

  for (uint32_t i = 1; i < p->loops.n; i++) {
    uint32_t dim = p->loops.loop[i].dim;
    if (o->stride[dim])
      sum = add_to(k, sum, idx_mul(k, p->at.at[dim].v, o->stride[dim]));
  }
  if (rows && p->loops.n && t->row.v)
    sum = add_to(k, sum, idx_mul(k, t->row.v, o->stride[row_dim(p)]));
  return sum;
}

static int64_t block_columns(const Product *p)
{
  return (int64_t)p->lanes * p->vecs;
}

static KVal b_address(Product *p, const Tile *t)
{
  Kernel *k = p->k;
  KVal sum = p->panels ? 0 : outer_address(p, &p->b, t, false);
  int64_t step = p->panels ? block_columns(p) * p->depth : block_columns(p) * p->b.stride[p->column_dim];

  return t->block ? add_to(k, sum, idx_mul(k, t->block, step)) : sum;
}

/* ---- the inner loop */

/* 8-bit integers are summed in 32 bits. */
static KVal widened(const Product *p, DType t, KVal v)
{
  KElem sum = dense_elem(p->t);

  v = dense_widen(p->k, t, v);
  return kernel_node(p->k, v)->type.elem == sum ? v : k_cast(p->k, sum, v);
}

static KVal load_b(Product *p, const Tile *t, KVal at, unsigned u, unsigned i)
{
  Kernel *k = p->k;
  int64_t column = t->c + (int64_t)i * t->lanes, stride = p->b.stride[p->column_dim];
  KVal lane[K_MAX_LANES];

  if (p->panels) {
    int64_t off = column / PANEL_ROWS * p->depth * PANEL_ROWS + column % PANEL_ROWS + (int64_t)u * PANEL_ROWS;
    return widened(p, p->b.t, k_load(k, ktype(p->b.elem, t->lanes), p->b.param, at, off));
  }
  int64_t off = p->b.offset + column * stride + u * p->b.k;
  if (stride == 1)
    return widened(p, p->b.t, k_load(k, ktype(p->b.elem, t->lanes), p->b.param, at, off));
  for (unsigned j = 0; j < t->lanes; j++)
    lane[j] = k_load(k, ktype(p->b.elem, 1), p->b.param, at, off + j * stride);
  return widened(p, p->b.t, dense_pack(k, lane, t->lanes));
}

static KVal multiply_add(const Product *p, KVal a, KVal b, KVal sum)
{
  if (kelem_is_real(dense_elem(p->t)))
    return k_fma(p->k, a, b, sum);
  return k_op2(p->k, K_add, k_op2(p->k, K_mul, a, b), sum);
}

/* `n` steps of k. */
static void steps(Product *p, const Tile *t, KVal a_at, KVal b_at, unsigned n, Sums *s)
{
  Kernel *k = p->k;
  KType type = ktype(dense_elem(p->t), t->lanes);

  for (unsigned u = 0; u < n; u++) {
    KVal b[MAX_VECS];
    for (unsigned i = 0; i < t->vecs; i++)
      b[i] = load_b(p, t, b_at, u, i);
    for (unsigned m = 0; m < t->rows; m++) {
      int64_t row = p->loops.n ? (t->row.c + m) * p->a.stride[row_dim(p)] : 0;
      KVal x = k_load(k, ktype(p->a.elem, 1), p->a.param, a_at, p->a.offset + row + u * p->a.k);
      x = k_splat(k, type, widened(p, p->a.t, x));
      for (unsigned i = 0; i < t->vecs; i++)
        s->v[m][i][u % p->parts] = multiply_add(p, b[i], x, s->v[m][i][u % p->parts]);
    }
  }
}

typedef void EachSum(Product *p, KVal *sum, void *ctx);

static void each_sum(Product *p, const Tile *t, Sums *s, EachSum *fn, void *ctx)
{
  for (unsigned m = 0; m < t->rows; m++)
    for (unsigned i = 0; i < t->vecs; i++)
      for (unsigned u = 0; u < p->parts; u++)
        fn(p, &s->v[m][i][u], ctx);
}

static void set_sum(Product *p, KVal *sum, void *ctx)
{
  (void)p;
  *sum = *(KVal *)ctx;
}

static void carry_sum(Product *p, KVal *sum, void *ctx)
{
  (void)ctx;
  *sum = k_carry(p->k, *sum);
}

typedef struct {
  KVal v[MAX_SUMS * 2];
  uint32_t n;
} List;

static void list_sum(Product *p, KVal *sum, void *ctx)
{
  List *l = ctx;
  (void)p;
  l->v[l->n++] = *sum;
}

static KVal along(Product *p, KVal at, KVal i, int64_t stride)
{
  return add_to(p->k, at, idx_mul(p->k, i, stride));
}

static void inner_loop(Product *p, const Tile *t, Sums *s)
{
  Kernel *k = p->k;
  KVal a0 = outer_address(p, &p->a, t, true), b0 = b_address(p, t);
  int64_t unroll = min64(UNROLL, p->depth), whole = unroll ? p->depth / unroll * unroll : 0;
  int64_t b_step = p->panels ? PANEL_ROWS : p->b.k;

  if (whole > unroll) {
    KVal i = k_loop(k, k_idx(k, 0), k_idx(k, whole), unroll);
    each_sum(p, t, s, carry_sum, NULL);
    Sums body = *s;
    List next = {.n = 0};
    steps(p, t, along(p, a0, i, p->a.k), along(p, b0, i, b_step), (unsigned)unroll, &body);
    each_sum(p, t, &body, list_sum, &next);
    k_end(k, next.v, next.n);
  } else {
    whole = 0;
  }
  if (p->depth > whole) {
    KVal i = k_idx(k, whole);
    steps(p, t, along(p, a0, i, p->a.k), along(p, b0, i, b_step), (unsigned)(p->depth - whole), s);
  }
}

/* ---- results */

static void store_lanes(Product *p, const Tile *t, unsigned m, int64_t column, unsigned lanes, KVal value)
{
  DensePoint at = p->at;

  at.lanes = lanes;
  if (p->loops.n) {
    at.at[row_dim(p)] = t->row;
    at.at[row_dim(p)].c += m;
  }
  KVal block = t->block ? idx_mul(p->k, t->block, block_columns(p)) : 0;
  at.at[p->column_dim] = (DenseIndex){.v = block, .c = column, .lane = lanes > 1};
  dense_store(p->d, value, &at);
}

/* The first `valid` lanes, in powers of two. */
static void store_vector(Product *p, const Tile *t, unsigned m, int64_t column, int64_t valid, KVal value)
{
  uint8_t pick[K_MAX_LANES];

  if (valid >= t->lanes) {
    store_lanes(p, t, m, column, t->lanes, value);
    return;
  }
  unsigned size = t->lanes;
  for (unsigned at = 0; at < valid; at += size) {
    while (size > valid - at)
      size /= 2;
    for (unsigned j = 0; j < size; j++)
      pick[j] = (uint8_t)(at + j);
    KVal part = size == 1 ? k_extract(p->k, value, at) : k_shuffle(p->k, value, value, pick, size);
    store_lanes(p, t, m, column + at, size, part);
  }
}

static void do_tile(Product *p, const Tile *t)
{
  Kernel *k = p->k;
  KVal zero = dense_const(k, p->t, t->lanes, 0);
  Sums s;

  dense_forget(p->d);
  each_sum(p, t, &s, set_sum, &zero);
  inner_loop(p, t, &s);
  for (unsigned m = 0; m < t->rows; m++)
    for (unsigned i = 0; i < t->vecs; i++) {
      KVal sum = s.v[m][i][0];
      for (unsigned u = 1; u < p->parts; u++)
        sum = k_op2(k, K_add, sum, s.v[m][i][u]);
      int64_t first = (int64_t)i * t->lanes;
      if (first < t->valid)
        store_vector(p, t, m, t->c + first, t->valid - first, sum);
    }
  dense_forget(p->d);
}

/* ---- blocks of columns */

/* Columns c .. c + n - 1 behind the start of a block. Panels may be read past the last column, other operands not. */
static void do_columns(Product *p, Tile *t, int64_t n)
{
  int64_t c = 0;

  while (c < n) {
    int64_t left = n - c;
    t->c = c;
    t->lanes = p->lanes;
    while (!p->panels && t->lanes > left)
      t->lanes /= 2;
    int64_t most = p->panels ? (left + t->lanes - 1) / t->lanes : left / t->lanes;
    t->vecs = (unsigned)min64(p->vecs, most);
    t->valid = left;
    do_tile(p, t);
    c += (int64_t)t->vecs * t->lanes;
  }
}

/* All rows of a block: tiles in a loop, and the rest. */
static void do_rows(Product *p, Tile *t, KVal lo, KVal hi, int64_t rows, int64_t columns)
{
  Kernel *k = p->k;
  int64_t whole = rows / p->rows * p->rows;

  if (lo || whole > p->rows) {
    dense_forget(p->d);
    t->row = (DenseIndex){.v = k_loop(k, lo ? lo : k_idx(k, 0), lo ? hi : k_idx(k, whole), p->rows)};
    t->rows = p->rows;
    do_columns(p, t, columns);
    k_end(k, NULL, 0);
    dense_forget(p->d);
  } else if (whole) {
    t->row = (DenseIndex){0};
    t->rows = p->rows;
    do_columns(p, t, columns);
  }
}

static void do_rest(Product *p, Tile *t, int64_t rows, int64_t columns)
{
  int64_t whole = rows / p->rows * p->rows;

  if (rows == whole)
    return;
  t->row = (DenseIndex){.c = whole};
  t->rows = (unsigned)(rows - whole);
  do_columns(p, t, columns);
}

typedef struct {
  int64_t rows, blocks, cuts, cut_rows; /* rows are cut in so many grid steps */
  KVal cut;
} Shape;

static void do_block(Product *p, const Shape *s, Tile *t, int64_t columns)
{
  Kernel *k = p->k;
  int64_t whole = s->rows / p->rows * p->rows;
  KVal lo = 0, hi = 0;

  if (s->cuts > 1) {
    lo = idx_mul(k, s->cut, s->cut_rows);
    hi = k_op2(k, K_min, idx_add(k, lo, k_idx(k, s->cut_rows)), k_idx(k, whole));
  }
  do_rows(p, t, lo, hi, s->rows, columns);
  if (s->rows == whole)
    return;
  if (s->cuts > 1)
    k_if(k, k_op2(k, K_eq, s->cut, k_idx(k, s->cuts - 1)));
  do_rest(p, t, s->rows, columns);
  if (s->cuts > 1)
    k_end(k, NULL, 0);
}

static void do_blocks(Product *p, const Shape *s, KVal block)
{
  Kernel *k = p->k;
  int64_t last = p->columns - (s->blocks - 1) * block_columns(p);
  Tile t = {.block = block};

  if (s->blocks == 1 || last == block_columns(p)) {
    do_block(p, s, &t, last);
    return;
  }
  k_if(k, k_op2(k, K_lt, block, k_idx(k, s->blocks - 1)));
  do_block(p, s, &t, block_columns(p));
  k_else(k);
  do_block(p, s, &t, last);
  k_end(k, NULL, 0);
  dense_forget(p->d);
}

/* ---- shapes */

static KVal take(Product *p, KVal *rest, int64_t n)
{
  if (n == 1)
    return k_idx(p->k, 0);
  KVal i = k_op2(p->k, K_rem, *rest, k_idx(p->k, n));
  *rest = k_op2(p->k, K_div, *rest, k_idx(p->k, n));
  return i;
}

/* As many rows and vectors as registers hold; more vectors, then parts, where rows are few. */
static void choose_tile(Product *p, int64_t rows)
{
  const Target *target = p->d->l->target;
  unsigned bytes = kelem_info[dense_elem(p->t)].bytes, regs = target->registers;

  p->lanes = bytes > 4 ? p->d->l->lanes / 2 : p->d->l->lanes;
  int64_t all = (p->columns + p->lanes - 1) / p->lanes;
  unsigned unit = p->panels && p->lanes < PANEL_ROWS ? PANEL_ROWS / p->lanes : 1;
  p->vecs = unit > 2 ? unit : 2;
  unsigned most = (regs - 1 - p->vecs) / p->vecs;
  most = most > MAX_ROWS ? MAX_ROWS : most ? most : 1;
  int64_t tiles = (rows + most - 1) / most;
  p->rows = (unsigned)((rows + tiles - 1) / (tiles ? tiles : 1));
  while (p->vecs * 2 <= MAX_VECS && p->rows * p->vecs < ENOUGH_SUMS && all >= (int64_t)p->vecs * 2 * 4)
    p->vecs *= 2;
  while (p->vecs > unit && p->vecs > all)
    p->vecs /= 2;
  p->parts = 1;
  while (p->parts < UNROLL && p->rows * p->vecs * p->parts < ENOUGH_SUMS)
    p->parts *= 2;
}

static Shape shape_of(Product *p)
{
  Shape s = {.rows = p->loops.n ? p->loops.loop[0].n : 1, .cuts = 1};
  int64_t others = 1;

  choose_tile(p, s.rows);
  s.blocks = (p->columns + block_columns(p) - 1) / block_columns(p);
  for (uint32_t i = 1; i < p->loops.n; i++)
    others *= p->loops.loop[i].n;
  int64_t tiles = s.rows / p->rows;
  if (others * s.blocks < MIN_GRID && tiles > 1)
    s.cuts = min64(tiles, (MIN_GRID + others * s.blocks - 1) / (others * s.blocks));
  s.cut_rows = (tiles + s.cuts - 1) / s.cuts * p->rows;
  s.cuts = (tiles * p->rows + s.cut_rows - 1) / s.cut_rows;
  return s;
}

/* What the loops over rows must agree with: both operands, what the epilogue reads, and where the result goes. */
static void find_loops(Product *p)
{
  DenseLower *d = p->d;
  DenseLeaves all = {{0}};
  DensePlace a = {.base = 0}, b = {.base = 0};

  dense_result_leaves(d, &all);
  memcpy(a.stride, p->a.stride, sizeof a.stride);
  if (!p->panels)
    memcpy(b.stride, p->b.stride, sizeof b.stride);
  *PUSH(d->l->arena, all.at) = a;
  if (!p->panels)
    *PUSH(d->l->arena, all.at) = b;
  dense_loops(p->type, &all, 1u << p->column_dim, &p->loops);
  for (uint32_t i = 0; i < p->loops.n; i++) /* columns are no row */
    if (p->loops.loop[i].special) {
      p->loops.n--;
      memmove(&p->loops.loop[i], &p->loops.loop[i + 1], (p->loops.n - i) * sizeof p->loops.loop[0]);
    }
  if (p->loops.n && b.stride[p->loops.loop[0].dim] != 0) { /* a batch, each with a b of its own and one row */
    memmove(&p->loops.loop[1], &p->loops.loop[0], p->loops.n++ * sizeof p->loops.loop[0]);
    p->loops.loop[0] = (DenseLoop){.dim = p->column_dim - 1, .n = 1};
  }
}

static void operand(Product *p, Operand *o, Val in, uint32_t k_dim)
{
  DenseLower *d = p->d;
  const Type *t = &graph_node(d->g, in)->type;
  const DensePlace *at = dense_place(d, in);

  *o = (Operand){.t = t->dtype, .elem = at->elem, .offset = at->offset, .k = at->stride[k_dim]};
}

static bool product(Product *p)
{
  DenseLower *d = p->d;
  Kernel *k = p->k;

  Shape s = shape_of(p);
  int64_t count = s.cuts * s.blocks;
  KVal rest = k_grid(k);
  /* blocks outermost: a block of columns is used for all rows while it is in the cache */
  s.cut = take(p, &rest, s.cuts);
  for (uint32_t i = 1; i < p->loops.n; i++) {
    p->at.at[p->loops.loop[i].dim] = (DenseIndex){.v = take(p, &rest, p->loops.loop[i].n)};
    count *= p->loops.loop[i].n;
  }
  do_blocks(p, &s, s.blocks > 1 ? rest : 0);
  dense_end(d, count, (uint64_t)(type_count(p->type) * p->depth));
  return true;
}

static Product begin(DenseLower *d, Val v, int64_t depth)
{
  const Type *t = &graph_node(d->g, v)->type;
  int64_t columns = type_last(t);

  dense_begin(d, "%s.%lldx%lldx%lld.%s", op_info[graph_node(d->g, v)->op].name,
              (long long)(columns ? type_count(t) / columns : 0), (long long)columns, (long long)depth,
              dtype_info[t->dtype].name);
  return (Product){.d = d,
                   .k = d->l->k,
                   .v = v,
                   .t = t->dtype,
                   .type = t,
                   .depth = depth,
                   .columns = columns,
                   .column_dim = t->rank ? t->rank - 1 : 0,
                   .at = {.lanes = 1}};
}

bool lower_dense_linear(DenseLower *d, Val v)
{
  Val x = graph_in(d->g, v, 0), w = graph_in(d->g, v, 1);
  const Type *xt = &graph_node(d->g, x)->type, *wt = &graph_node(d->g, w)->type;
  const DensePlace *at = dense_place(d, x);

  if (dense_int8(d, v))
    return true;
  Product p = begin(d, v, type_last(xt));

  operand(&p, &p.a, x, xt->rank - 1);
  memcpy(p.a.stride, at->stride, (xt->rank - 1) * sizeof *at->stride);
  p.panels = dense_weight(d, w) != NULL && graph_node(d->g, w)->op == OP_weight;
  p.a.param = dense_param(d, x, KA_READ);
  if (p.panels) {
    p.b = (Operand){.t = wt->dtype, .elem = dense_memory(wt->dtype), .param = dense_panels(d, w)};
  } else {
    operand(&p, &p.b, w, 1);
    p.b.stride[p.column_dim] = dense_place(d, w)->stride[0];
    p.b.param = dense_param(d, w, KA_READ);
  }
  find_loops(&p);
  return product(&p);
}

/* Strides of an operand's batch dimensions along the result's. */
static void batch_strides(const DensePlace *at, const Type *t, const Type *result, int64_t *stride)
{
  for (uint32_t i = 3; i <= t->rank; i++)
    if (t->dim[t->rank - i] != 1)
      stride[result->rank - i] = at->stride[t->rank - i];
}

bool lower_dense_matmul(DenseLower *d, Val v)
{
  Val a = graph_in(d->g, v, 0), b = graph_in(d->g, v, 1);
  const Type *at = &graph_node(d->g, a)->type, *bt = &graph_node(d->g, b)->type;
  Product p = begin(d, v, type_last(at));

  operand(&p, &p.a, a, at->rank - 1);
  operand(&p, &p.b, b, bt->rank - 2);
  batch_strides(dense_place(d, a), at, p.type, p.a.stride);
  batch_strides(dense_place(d, b), bt, p.type, p.b.stride);
  p.a.stride[p.type->rank - 2] = dense_place(d, a)->stride[at->rank - 2];
  p.b.stride[p.column_dim] = dense_place(d, b)->stride[bt->rank - 1];
  p.a.param = dense_param(d, a, KA_READ);
  p.b.param = dense_param(d, b, KA_READ);
  find_loops(&p);
  return product(&p);
}
