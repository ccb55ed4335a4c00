/* image.c - see image.h and runtime-min/mi_image.h. */
#include "codegen/image.h"

#include <assert.h>
#include <stdlib.h>

#include "passes/lower/panel.h"
#include "passes/lower/planes.h"

_Static_assert((int)SPACE_WEIGHTS == (int)MI_SPACE_WEIGHTS && (int)SPACE_ARENA == (int)MI_SPACE_ARENA &&
                   (int)SPACE_STATE == (int)MI_SPACE_STATE && (int)SPACE_SCRATCH == (int)MI_SPACE_SCRATCH,
               "spaces have the contract's numbers");

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

/* A run of bytes that is already written; equal ones are written once. */
typedef struct {
  uint64_t hash, n, at;
} Known;

/* Tables of all programs, one after the other. Levels differ in kernels more than in what these work on, and
 * entry points have launches of equal names: runs of binds and names are shared. */
typedef struct {
  ARRAY(MiBind) binds;
  ARRAY(Known) known_binds;
  ARRAY(Known) known_names;
  ARRAY(MiPart) parts;
  ARRAY(MiLaunch) launches;
  ARRAY(MiEntry) entries;
  ARRAY(MiLevel) levels;
  uint32_t kernels;
} Tables;

static MiBind bind_of(const Program *p, const Bind *b)
{
  const Buffer *buf = &p->buffers.data[b->buffer];
  return (MiBind){.offset = buf->offset + b->offset, .space = buf->space};
}

/* Where the binds of a part stand. */
static uint32_t share_binds(Arena *a, Tables *t, const Program *p, Slice binds)
{
  MiBind *run = NEW_ARRAY(a, MiBind, binds.count);

  for (uint32_t i = 0; i < binds.count; i++)
    run[i] = bind_of(p, &p->binds.data[binds.first + i]);
  uint64_t n = binds.count * sizeof *run, hash = hash_bytes(run, n, 0);
  for (uint32_t i = 0; i < t->known_binds.len; i++) {
    const Known *k = &t->known_binds.data[i];
    if (k->hash == hash && k->n == n && !memcmp(&t->binds.data[k->at], run, n))
      return (uint32_t)k->at;
  }
  *PUSH(a, t->known_binds) = (Known){hash, n, t->binds.len};
  for (uint32_t i = 0; i < binds.count; i++)
    *PUSH(a, t->binds) = run[i];
  return t->binds.len - binds.count;
}

static uint64_t share_name(Text *head, Tables *t, const char *name)
{
  uint64_t n = strlen(name) + 1, hash = hash_bytes(name, n, 0);

  for (uint32_t i = 0; i < t->known_names.len; i++) {
    const Known *k = &t->known_names.data[i];
    if (k->hash == hash && k->n == n && !memcmp(head->data + k->at, name, n))
      return k->at;
  }
  uint64_t at = append(head, name, n, 1);
  *PUSH(head->arena, t->known_names) = (Known){hash, n, at};
  return at;
}

static void add_parts(Arena *a, Tables *t, const Program *p)
{
  for (uint32_t i = 0; i < p->parts.len; i++) {
    const Part *q = &p->parts.data[i];
    *PUSH(a, t->parts) = (MiPart){.kernel = t->kernels + q->kernel,
                                  .grid = q->grid,
                                  .per_token = q->per_token,
                                  .first_bind = share_binds(a, t, p, q->binds),
                                  .n_binds = q->binds.count,
                                  .span = q->span,
                                  .bytes = q->bytes,
                                  .ops = q->ops};
  }
}

static void add_launches(Text *head, Tables *t, const Program *p)
{
  uint32_t first_part = t->parts.len;

  for (uint32_t i = 0; i < p->launches.len; i++) {
    const Launch *l = &p->launches.data[i];
    *PUSH(head->arena, t->launches) =
        (MiLaunch){first_part + l->parts.first, l->parts.count, share_name(head, t, l->name)};
  }
}

static void add_entries(Arena *a, Tables *t, const Program *p, MiImage *im)
{
  uint32_t first_launch = t->launches.len;

  for (uint32_t i = 0; i < p->entries.len; i++) {
    const Entry *e = &p->entries.data[i];
    MiEntry *out = PUSH(a, t->entries);
    *out = (MiEntry){.level = t->levels.len,
                     .first_launch = first_launch + e->launches.first,
                     .n_launches = e->launches.count,
                     .tokens = e->tokens,
                     .has_logits = e->logits_buffer != 0};
    strncpy(out->name, e->name, sizeof out->name - 1);
    /* program_place() puts both first, so that they are where the other levels have them */
    if (e->logits_buffer) {
      assert(!t->levels.len || im->logits_at == p->buffers.data[e->logits_buffer].offset);
      im->logits_at = p->buffers.data[e->logits_buffer].offset;
    }
    assert(t->entries.len == 1 || im->tokens_at == p->buffers.data[e->tokens_buffer].offset);
    im->tokens_at = p->buffers.data[e->tokens_buffer].offset;
  }
}

static uint64_t larger(uint64_t a, uint64_t b)
{
  return a > b ? a : b;
}

/* Entries name launches, launches parts: what is named is counted before it is added. */
static void add_program(Text *head, Tables *t, const Program *p, MiImage *im)
{
  Arena *a = head->arena;

  add_entries(a, t, p, im);
  add_launches(head, t, p);
  add_parts(a, t, p);
  MiLevel *level = PUSH(a, t->levels);
  *level = (MiLevel){.needs = p->target_needs};
  strncpy(level->name, p->target, sizeof level->name - 1);
  t->kernels += p->kernels.len;
  im->arena_bytes = larger(im->arena_bytes, p->space_bytes[SPACE_ARENA]);
  im->state_bytes = larger(im->state_bytes, p->space_bytes[SPACE_STATE]);
  im->scratch_bytes = larger(im->scratch_bytes, p->space_bytes[SPACE_SCRATCH]);
}

static uint32_t vocabulary(const Program *p)
{
  const Graph *g = p->module->graphs.data[0];
  for (Val v = 1; v < g->nodes.len; v++)
    if (graph_node(g, v)->op == OP_output)
      return (uint32_t)type_last(&graph_node(g, v)->type);
  return 0;
}

/* All levels read one image: the same weights at the same places. */
static bool same_weights(const Program *a, const Program *b)
{
  if (a->items.len != b->items.len)
    return false;
  for (uint32_t i = 0; i < a->items.len; i++) {
    const Item *x = &a->items.data[i], *y = &b->items.data[i];
    if (x->layout != y->layout || x->weight != y->weight ||
        a->buffers.data[x->buffer].offset != b->buffers.data[y->buffer].offset)
      return false;
  }
  return true;
}

#define PUT(im, t, head, name)                                                                               \
  ((im)->n_##name = (t)->name.len,                                                                           \
   (im)->name = append(head, (t)->name.data, (t)->name.len * sizeof *(t)->name.data, MI_ALIGN))

void image_build(Arena *a, Program *const *programs, unsigned n, const ImageParts *parts, Image *out)
{
  const Program *p = programs[0];
  Text t = {.arena = a};
  Tables tables = {.kernels = 0};
  MiImage im = {.version = MI_VERSION, .header_bytes = sizeof im};

  memcpy(im.magic, MI_MAGIC, sizeof im.magic);
  text_add(&t, (const char *)&im, sizeof im);
  for (unsigned i = 0; i < n; i++) {
    assert(same_weights(p, programs[i]));
    add_program(&t, &tables, programs[i], &im);
  }
  PUT(&im, &tables, &t, binds);
  PUT(&im, &tables, &t, parts);
  PUT(&im, &tables, &t, launches);
  PUT(&im, &tables, &t, entries);
  PUT(&im, &tables, &t, levels);
  im.n_kernels = tables.kernels;
  im.n_vocab = vocabulary(p);
  im.context = p->context;
  im.about_bytes = strlen(parts->about);
  im.about = append(&t, parts->about, im.about_bytes + 1, 1);
  im.has_tokenizer = parts->tokenizer_bytes != 0;
  im.tokenizer_bytes = parts->tokenizer_bytes;
  im.tokenizer = append(&t, parts->tokenizer, parts->tokenizer_bytes, MI_ALIGN);
  im.weights = append(&t, "", 0, MI_PAGE);
  im.weights_bytes = p->space_bytes[SPACE_WEIGHTS];
  im.image_bytes = round_up(im.weights + im.weights_bytes, MI_PAGE);
  memcpy(t.data, &im, sizeof im);
  *out = (Image){p, (const uint8_t *)t.data, im.weights, im.image_bytes};
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
  int64_t panels = (w->type.dim[0] + 15) / 16, batch = (int64_t)(PIECE_BYTES / bytes);

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
  case LAYOUT_PANEL: return write_panels(o, w, panel_pack, panel_bytes(w->type.dtype, w->type.dim[1]), room);
  case LAYOUT_PLANES:
    return write_panels(o, w, planes_pack_high, planes_panel_bytes(w->type.dim[1]), room) &&
           write_panels(o, w, planes_pack_low, 16 * planes_row_bytes(w->type.dim[1]), room);
  case LAYOUT_VECTOR: return write_vector(o, w);
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
    if (p->items.data[i].layout == LAYOUT_PANEL && panel_bytes(t->dtype, t->dim[1]) > most)
      most = panel_bytes(t->dtype, t->dim[1]);
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
