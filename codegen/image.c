/* image.c - see image.h and runtime-min/mi_image.h. */
#include "codegen/image.h"

#include <assert.h>
#include <stdlib.h>

#include "passes/lower/panel.h"
#include "passes/lower/planes.h"
#include "runtime-min/mi_array.h"

_Static_assert((int)MI_CONSTANTS == (int)K_CONSTANTS, "a grid has the constants that kernels can read");
_Static_assert((int)SPACE_WEIGHTS == (int)MI_SPACE_WEIGHTS && (int)SPACE_ARENA == (int)MI_SPACE_ARENA &&
                   (int)SPACE_STATE == (int)MI_SPACE_STATE && (int)SPACE_SCRATCH == (int)MI_SPACE_SCRATCH,
               "spaces have the contract's numbers");
_Static_assert((int)TIMES_ONCE == (int)MI_ONCE && (int)TIMES_TOKENS == (int)MI_PER_TOKEN &&
                   (int)TIMES_SECTIONS == (int)MI_PER_SECTION,
               "and so has what grids count for");

enum { PIECE_BYTES = 1 << 20 };

/* Appends to the head; returns the offset. */
static uint64_t append(Text *t, const void *bytes, uint64_t n, uint64_t align)
{
  static const char zeros[MI_PAGE];
  while (t->len % align)
    text_add(t, zeros, min64((int64_t)(align - t->len % align), MI_PAGE));
  uint64_t at = t->len;
  text_add(t, bytes, n);
  return at;
}

/* ---- tables, in which what is equal stands once */

/* A run of rows that stands in its table. */
typedef struct {
  uint64_t hash;
  uint32_t first, n;
} Known;

/* Tables of all programs. Entry points work on the same weights, layers are launched under the same names, levels
 * differ in kernels more than in what these work on. */
typedef struct {
  ARRAY(MiPlace) places;
  ARRAY(MiBind) binds;
  ARRAY(Known) known_binds;
  ARRAY(MiGrid) grids;
  ARRAY(MiPart) parts;
  ARRAY(MiEntry) entries;
  ARRAY(MiLevel) levels;
  ARRAY(MiIo) ios;
  Text names;
  Text io_names;    /* not cut, and not shared: users see them */
  uint32_t kernels; /* of the levels before */
} Tables;

typedef struct {
  Arena *a;
  Tables *t;
  const Program *p;
  MiImage *im;
  Err *e;
} Build;

static bool place_of(const Build *c, const Bind *b, MiPlace *out)
{
  const Buffer *buf = &c->p->buffers.data[b->buffer];
  uint64_t at = buf->offset + b->offset;

  assert(at % MI_ALIGN == 0);
  *out = MI_PLACE(buf->space, at);
  return at / MI_ALIGN < 1u << MI_PLACE_BITS || fail(c->e,
                                                     "'%s' would lie %llu bytes behind the start: at most 64 "
                                                     "GiB of weights and of states can be reached",
                                                     buf->name, (unsigned long long)at);
}

/* Index of a bind's place. Those of one layer are near each other, hence from the end. */
static bool share_place(const Build *c, const Bind *b, MiBind *out)
{
  MiPlace place;

  if (!place_of(c, b, &place))
    return false;
  uint32_t i = c->t->places.len;
  while (i-- > 0)
    if (c->t->places.data[i] == place)
      break;
  if (i == UINT32_MAX) {
    i = c->t->places.len;
    *PUSH(c->a, c->t->places) = place;
  }
  *out = (MiBind)i;
  return i <= UINT16_MAX || fail(c->e, "the plan has more than %d places in memory", UINT16_MAX + 1);
}

/* Where a part's binds stand. */
static bool share_binds(const Build *c, Slice binds, uint32_t *first)
{
  MiBind run[MI_MAX_PARAMS];
  Tables *t = c->t;

  if (binds.count > MI_MAX_PARAMS)
    return fail(c->e, "a kernel has %u parameters: at most %d are possible", binds.count, MI_MAX_PARAMS);
  for (uint32_t i = 0; i < binds.count; i++)
    if (!share_place(c, &c->p->binds.data[binds.first + i], &run[i]))
      return false;
  uint64_t hash = hash_bytes(run, binds.count * sizeof *run, 0);
  for (uint32_t i = 0; i < t->known_binds.len; i++) {
    const Known *k = &t->known_binds.data[i];
    *first = k->first;
    if (k->hash == hash && k->n == binds.count && !memcmp(&t->binds.data[k->first], run, k->n * sizeof *run))
      return true;
  }
  *first = t->binds.len;
  *PUSH(c->a, t->known_binds) = (Known){hash, t->binds.len, binds.count};
  for (uint32_t i = 0; i < binds.count; i++)
    *PUSH(c->a, t->binds) = run[i];
  return true;
}

/* Launches of equal layers have one name: numbers in it become N. A launch whose name finds no room has none. */
static uint16_t share_name(const Build *c, const char *name)
{
  enum { MOST = 1 << 15 };
  Text *names = &c->t->names;
  char kind[128];
  uint64_t n = 0;

  for (; *name && n < sizeof kind - 1; name++)
    if (*name < '0' || *name > '9')
      kind[n++] = *name;
    else if (name[1] < '0' || name[1] > '9')
      kind[n++] = 'N';
  kind[n++] = 0;
  for (uint64_t at = 0; at < names->len; at += strlen(names->data + at) + 1)
    if (!strcmp(names->data + at, kind))
      return (uint16_t)at;
  if (names->len + n > MOST)
    return 0;
  text_add(names, kind, n);
  return (uint16_t)(names->len - n);
}

/* Number of a part's grid among those of its entry, which begin at `first`. */
static bool share_grid(const Build *c, const Part *q, uint32_t first, uint16_t *out)
{
  Tables *t = c->t;
  uint32_t kernel = t->kernels + q->kernel, i = first;
  MiGrid grid = {.bytes = (float)q->bytes,
                 .ops = (float)q->ops,
                 .grid = q->grid,
                 .span = q->span,
                 .kernel = (uint16_t)kernel,
                 .n_binds = (uint8_t)q->binds.count,
                 .times = (uint8_t)q->times};

  if (kernel > UINT16_MAX)
    return fail(c->e, "the plan has more than %d kernels", UINT16_MAX + 1);
  memcpy(grid.constant, q->constant, sizeof grid.constant);

  while (i < t->grids.len && memcmp(&t->grids.data[i], &grid, sizeof grid))
    i++;
  if (i == t->grids.len)
    *PUSH(c->a, t->grids) = grid;
  *out = (uint16_t)(i - first);
  return i - first <= UINT16_MAX || fail(c->e, "the plan has more than %d grids", UINT16_MAX + 1);
}

static bool add_launch(const Build *c, const Launch *l, uint32_t first_grid)
{
  for (uint32_t i = 0; i < l->parts.count; i++) {
    const Part *q = &c->p->parts.data[l->parts.first + i];
    MiPart part = {.name = share_name(c, l->name) & 0x7fff, .last = i + 1 == l->parts.count};
    uint32_t first_bind = 0;
    uint16_t grid = 0;
    if (!share_binds(c, q->binds, &first_bind) || !share_grid(c, q, first_grid, &grid))
      return false;
    part.first_bind = first_bind;
    part.grid = grid;
    *PUSH(c->a, c->t->parts) = part;
  }
  return true;
}

/* An earlier entry whose parts are those that were added last: these are taken back. */
static void share_parts(Tables *t, MiEntry *e)
{
  for (uint32_t i = 0; i < t->entries.len; i++) {
    const MiEntry *o = &t->entries.data[i];
    if (o->n_parts == e->n_parts &&
        !memcmp(&t->parts.data[o->first_part], &t->parts.data[e->first_part], e->n_parts * sizeof(MiPart))) {
      t->parts.len = e->first_part;
      e->first_part = o->first_part;
      return;
    }
  }
}

static uint32_t elem_of(DType t)
{
  static const uint8_t elem[DT_COUNT] = {
      [DT_F32] = MI_ELEM_F32, [DT_F16] = MI_ELEM_F16,   [DT_BF16] = MI_ELEM_BF16, [DT_F64] = MI_ELEM_F64,
      [DT_I8] = MI_ELEM_I8,   [DT_U8] = MI_ELEM_U8,     [DT_I16] = MI_ELEM_I16,   [DT_U16] = MI_ELEM_U16,
      [DT_I32] = MI_ELEM_I32, [DT_U32] = MI_ELEM_U32,   [DT_I64] = MI_ELEM_I64,   [DT_U64] = MI_ELEM_U64,
      [DT_I4] = MI_ELEM_I8,   [DT_BOOL] = MI_ELEM_BOOL, [DT_I2] = MI_ELEM_I8};

  return elem[t] || t == DT_F32 ? elem[t] : MI_ELEM_CODE;
}

static void add_io(const Build *c, const Io *io, bool output)
{
  MiIo *out = PUSH(c->a, c->t->ios);

  *out = (MiIo){.name = c->t->io_names.len,
                .offset = c->p->buffers.data[io->buffer].offset,
                .elem = elem_of(io->type.dtype),
                .output = output,
                .rank = io->type.rank};
  for (uint32_t d = 0; d < io->type.rank; d++)
    out->dim[d] = (uint64_t)io->type.dim[d];
  text_add(&c->t->io_names, io->name, strlen(io->name) + 1);
}

static void add_ios(const Build *c, const Entry *e)
{
  for (uint32_t i = 0; i < e->inputs.count; i++)
    add_io(c, &c->p->ios.data[e->inputs.first + i], false);
  for (uint32_t i = 0; i < e->outputs.count; i++)
    add_io(c, &c->p->ios.data[e->outputs.first + i], true);
}

/* program_place() puts token ids and logits first, so that they are where the other levels have them. */
static void add_ends(const Build *c, const Entry *e)
{
  const Buffer *buffers = c->p->buffers.data;
  MiImage *im = c->im;

  if (e->logits_buffer) {
    assert(!c->t->levels.len || im->logits_at == buffers[e->logits_buffer].offset);
    im->logits_at = buffers[e->logits_buffer].offset;
  }
  assert(!c->t->entries.len || im->tokens_at == buffers[e->tokens_buffer].offset);
  im->tokens_at = buffers[e->tokens_buffer].offset;
}

static bool add_entry(const Build *c, const Entry *e)
{
  Tables *t = c->t;
  MiEntry out = {.level = t->levels.len,
                 .first_part = t->parts.len,
                 .first_grid = t->grids.len,
                 .tokens = e->tokens,
                 .has_logits = e->logits_buffer != 0};

  for (uint32_t i = 0; i < e->launches.count; i++)
    if (!add_launch(c, &c->p->launches.data[e->launches.first + i], out.first_grid))
      return false;
  strncpy(out.name, e->name, sizeof out.name - 1);
  out.n_parts = t->parts.len - out.first_part;
  out.n_grids = t->grids.len - out.first_grid;
  share_parts(t, &out);
  if (c->p->module->graphs.data[0]->dense) {
    out.first_io = t->ios.len;
    add_ios(c, e);
    out.n_ios = t->ios.len - out.first_io;
  } else {
    add_ends(c, e);
  }
  *PUSH(c->a, t->entries) = out;
  return true;
}

static uint64_t larger(uint64_t a, uint64_t b)
{
  return a > b ? a : b;
}

static bool add_program(const Build *c)
{
  const Program *p = c->p;
  MiImage *im = c->im;
  Tables *t = c->t;

  for (uint32_t i = 0; i < p->entries.len; i++)
    if (!add_entry(c, &p->entries.data[i]))
      return false;
  MiLevel *level = PUSH(c->a, t->levels);
  *level = (MiLevel){.needs = p->target_needs};
  strncpy(level->name, p->target, sizeof level->name - 1);
  t->kernels += p->kernels.len;
  im->arena_bytes = larger(im->arena_bytes, p->space_bytes[SPACE_ARENA]);
  im->state_bytes = larger(im->state_bytes, p->space_bytes[SPACE_STATE]);
  im->scratch_bytes = larger(im->scratch_bytes, p->space_bytes[SPACE_SCRATCH]);
  return true;
}

static uint32_t vocabulary(const Program *p)
{
  const Graph *g = p->module->graphs.data[0];
  for (Val v = 1; v < g->nodes.len && !g->dense; v++)
    if (graph_node(g, v)->op == OP_output)
      return (uint32_t)type_last(&graph_node(g, v)->type);
  return 0;
}

/* ---- one image for all levels */

static const Buffer *item_buffer(const Program *p, const Item *it)
{
  return &p->buffers.data[it->buffer];
}

static bool same_item(const Program *p, const Item *x, const Program *q, const Item *y)
{
  uint64_t bytes = item_buffer(p, x)->bytes;

  if (x->layout != y->layout || bytes != item_buffer(q, y)->bytes)
    return false;
  return x->layout == LAYOUT_RAW ? x->data == y->data || !memcmp(x->data, y->data, bytes)
                                 : x->weight == y->weight;
}

/* The item of the first program that holds the same bytes; most programs have theirs in the same order. */
static const Item *find_item(const Program *first, const Program *p, uint32_t i)
{
  const Item *it = &p->items.data[i];

  if (i < first->items.len && same_item(first, &first->items.data[i], p, it))
    return &first->items.data[i];
  for (uint32_t k = 0; k < first->items.len; k++)
    if (same_item(first, &first->items.data[k], p, it))
      return &first->items.data[k];
  return NULL;
}

/* What a level lays out otherwise than the first goes behind the first one's weights. */
static const Item *add_item(Program *first, const Program *p, uint32_t i)
{
  Item it = p->items.data[i];
  const Buffer *b = item_buffer(p, &it);
  uint64_t *end = &first->space_bytes[SPACE_WEIGHTS];

  it.buffer = program_buffer(first, SPACE_WEIGHTS, b->name, b->bytes);
  first->buffers.data[it.buffer].offset = round_up(*end, MI_ALIGN);
  *end = round_up(first->buffers.data[it.buffer].offset + b->bytes, MI_ALIGN);
  *PUSH(first->arena, first->items) = it;
  return &first->items.data[first->items.len - 1];
}

/* The weights of the first program become those of all. */
static void share_weights(Program *const *programs, unsigned n)
{
  for (unsigned p = 1; p < n; p++) {
    for (uint32_t i = 0; i < programs[p]->items.len; i++) {
      const Item *it = find_item(programs[0], programs[p], i);
      it = it ? it : add_item(programs[0], programs[p], i);
      programs[p]->buffers.data[programs[p]->items.data[i].buffer].offset =
          item_buffer(programs[0], it)->offset;
    }
    programs[p]->space_bytes[SPACE_WEIGHTS] = programs[0]->space_bytes[SPACE_WEIGHTS];
  }
}

#define PUT(im, t, head, name)                                                                               \
  ((im)->n_##name = (t)->name.len,                                                                           \
   (im)->name = append(head, (t)->name.data, (t)->name.len * sizeof *(t)->name.data, 8))

static void put_tables(Text *head, Tables *t, MiImage *im)
{
  PUT(im, t, head, places);
  PUT(im, t, head, binds);
  PUT(im, t, head, grids);
  PUT(im, t, head, parts);
  PUT(im, t, head, entries);
  PUT(im, t, head, levels);
  uint64_t names = append(head, t->io_names.data, t->io_names.len, 1);
  for (uint32_t i = 0; i < t->ios.len; i++)
    t->ios.data[i].name += names;
  PUT(im, t, head, ios);
  im->names_bytes = t->names.len;
  im->names = append(head, t->names.data, t->names.len, 1);
  im->n_kernels = t->kernels;
}

/* Of the weights before the first that a launch reads whole, so many bytes are in pages of their own. */
static uint64_t tables_bytes(const Program *p)
{
  enum { ROWS = 1 << 18 }; /* rows of tables are shorter, and shorter weights are not worth a thought */
  uint64_t first = p->space_bytes[SPACE_WEIGHTS];

  for (uint32_t i = 0; i < p->parts.len; i++) {
    const Part *q = &p->parts.data[i];
    for (uint32_t j = 0; j < q->binds.count && q->bytes >= ROWS; j++) {
      const Buffer *b = &p->buffers.data[p->binds.data[q->binds.first + j].buffer];
      if (b->space == SPACE_WEIGHTS && b->offset < first)
        first = b->offset;
    }
  }
  return first / MI_PAGE * MI_PAGE;
}

bool image_build(Arena *a, Program *const *programs, unsigned n, const ImageParts *parts, Image *out, Err *e)
{
  const Program *p = programs[0];
  Text t = {.arena = a};
  Tables tables = {.names = {.arena = a}, .io_names = {.arena = a}};
  MiImage im = {.version = MI_VERSION, .header_bytes = sizeof im};

  memcpy(im.magic, MI_MAGIC, sizeof im.magic);
  text_add(&t, (const char *)&im, sizeof im);
  text_add(&tables.names, "", 1);
  share_weights(programs, n);
  for (unsigned i = 0; i < n; i++)
    if (!add_program(&(Build){a, &tables, programs[i], &im, e}))
      return false;
  put_tables(&t, &tables, &im);
  im.n_vocab = vocabulary(p);
  im.context = p->module->graphs.data[0]->dense ? 1 : p->context; /* without tokens: one call */
  im.about_bytes = strlen(parts->about);
  im.about = append(&t, parts->about, im.about_bytes + 1, 1);
  im.has_tokenizer = parts->tokenizer_bytes != 0;
  im.tokenizer_bytes = parts->tokenizer_bytes;
  im.tokenizer = append(&t, parts->tokenizer, parts->tokenizer_bytes, MI_ALIGN);
  im.weights = append(&t, "", 0, MI_PAGE);
  im.weights_bytes = p->space_bytes[SPACE_WEIGHTS];
  im.tables_bytes = tables_bytes(p);
  im.image_bytes = round_up(im.weights + im.weights_bytes, MI_PAGE);
  memcpy(t.data, &im, sizeof im);
  *out = (Image){p, (const uint8_t *)t.data, im.weights, im.image_bytes};
  return true;
}

/* ---- weights */

typedef struct {
  ImageSink *sink;
  void *ctx;
  uint64_t at; /* bytes of the image that were given out */
} Out;

static bool give(Out *o, const void *bytes, uint64_t n)
{
  o->at += n;
  return !n || o->sink(o->ctx, bytes, n);
}

static bool pad_to(Out *o, uint64_t at)
{
  static const uint8_t zeros[MI_PAGE];
  while (o->at < at)
    if (!give(o, zeros, (uint64_t)min64((int64_t)(at - o->at), sizeof zeros)))
      return false;
  return true;
}

typedef void PackFn(const Weight *w, int64_t panel, uint8_t *out);

static bool write_panels(Out *o, const Weight *w, PackFn *pack, uint64_t bytes, uint8_t *room)
{
  int64_t panels = (w->type.dim[0] + 15) / 16, batch = bytes ? (int64_t)(PIECE_BYTES / bytes) : panels;

  batch = batch ? batch : 1;
  for (int64_t p = 0; p < panels; p += batch) {
    int64_t n = min64(batch, panels - p);
    for (int64_t i = 0; i < n; i++)
      pack(w, p + i, room + (uint64_t)i * bytes);
    if (!give(o, room, (uint64_t)n * bytes))
      return false;
  }
  return true;
}

static bool write_vector(Out *o, const Weight *w)
{
  enum { AT_ONCE = 256 }; /* a multiple of every block */
  float f[AT_ONCE];
  uint64_t n = (uint64_t)type_count(&w->type);

  for (uint64_t i = 0; i < n; i += AT_ONCE) {
    uint64_t m = (uint64_t)min64(AT_ONCE, (int64_t)(n - i));
    dtype_to_float(w->type.dtype, (const uint8_t *)w->data + dtype_bytes(w->type.dtype, i), f, m);
    if (!give(o, f, m * sizeof *f))
      return false;
  }
  return true;
}

static bool write_item(Out *o, const Program *p, const Item *it, uint8_t *room)
{
  const Weight *w = &p->module->weights.data[it->weight];

  switch (it->layout) {
  case LAYOUT_PANEL:
    return write_panels(o, w, panel_pack, panel_bytes(w->type.dtype, panel_columns(&w->type)), room);
  case LAYOUT_PLANES:
    return write_panels(o, w, planes_pack_high, planes_panel_bytes(w->type.dim[1]), room) &&
           write_panels(o, w, planes_pack_low, 16 * planes_row_bytes(w->type.dim[1]), room);
  case LAYOUT_VECTOR: return write_vector(o, w);
  case LAYOUT_ROWS: return give(o, w->data, tensor_bytes(&w->type));
  case LAYOUT_RAW: return give(o, it->data, p->buffers.data[it->buffer].bytes);
  }
  return false;
}

/* Room for a batch of panels, or for the largest panel. */
static uint64_t room_bytes(const Program *p)
{
  uint64_t most = PIECE_BYTES;
  for (uint32_t i = 0; i < p->items.len; i++) {
    const Type *t = &p->module->weights.data[p->items.data[i].weight].type;
    if (p->items.data[i].layout == LAYOUT_PANEL && panel_bytes(t->dtype, panel_columns(t)) > most)
      most = panel_bytes(t->dtype, panel_columns(t));
  }
  return most;
}

bool image_write(const Image *im, ImageSink *sink, void *ctx)
{
  const Program *p = im->prog;
  Arena tmp = {0};
  uint8_t *room = arena_alloc(&tmp, room_bytes(p));
  Out o = {sink, ctx, 0};
  bool ok = give(&o, im->head, im->head_bytes);

  for (uint32_t i = 0; ok && i < p->items.len; i++) {
    const Buffer *b = &p->buffers.data[p->items.data[i].buffer];
    ok = pad_to(&o, im->head_bytes + b->offset) && write_item(&o, p, &p->items.data[i], room);
  }
  ok = ok && pad_to(&o, im->bytes);
  arena_free(&tmp);
  return ok;
}
