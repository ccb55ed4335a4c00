/* mi_check.c - checks an image once, so that nothing has to be checked while it runs.
 *
 * An image can be a file of its own (mi_start_file.c), hence cut off, of another version, or not an
 * image at all. It is as trustworthy as the program that reads it: what is guarded against is
 * accidents, by checking every offset, index and size that the engine uses. */
#include "mi_check.h"
#include "mi_array.h"

#include <string.h>

enum { TOKENS_MAX = 1 << 16, CONTEXT_MAX = 1 << 28, VOCAB_MAX = 1 << 24, TOTAL_MAX = INT32_MAX };
#define SPACE_MAX ((uint64_t)1 << 46)

typedef struct {
  const MiImage *h;
  const uint8_t *base;
  uint64_t size;
  uint64_t space_bytes[MI_SPACE_COUNT];
  MiOut *why;
} Check;

static bool inside(uint64_t offset, uint64_t bytes, uint64_t size)
{
  return offset <= size && bytes <= size - offset;
}

/* A piece of the image: `count` rows at `offset`. */
typedef struct {
  const char *name;
  uint64_t offset, count, row_bytes, align;
} Piece;

static bool check_piece(const Check *c, const Piece *p)
{
  uint64_t room = p->offset <= c->size ? c->size - p->offset : 0;

  if (p->offset % p->align == 0 && p->offset <= c->size && p->count <= room / p->row_bytes)
    return true;
  mi_out_format(c->why, "the image's %s (%llu at %llu) are misplaced in %llu bytes", p->name,
                (unsigned long long)p->count, (unsigned long long)p->offset, (unsigned long long)c->size);
  return false;
}

static bool check_head(Check *c, uint64_t bytes)
{
  const MiImage *h = c->h;

  if (bytes < sizeof *h || memcmp(h->magic, MI_MAGIC, sizeof h->magic)) {
    mi_out_text(c->why, "this is not an image");
    return false;
  }
  if (h->version != MI_VERSION || h->header_bytes != sizeof *h) {
    mi_out_format(c->why, "the image has version %u, this program reads version %u", h->version, MI_VERSION);
    return false;
  }
  if (h->image_bytes < sizeof *h || h->image_bytes > bytes) {
    mi_out_format(c->why, "the image has %llu bytes, but it should have %llu", (unsigned long long)bytes,
                  (unsigned long long)h->image_bytes);
    return false;
  }
  return true;
}

static bool check_sizes(Check *c)
{
  const MiImage *h = c->h;
  bool ok = h->arena_bytes <= SPACE_MAX && h->state_bytes <= SPACE_MAX &&
            h->scratch_bytes <= SPACE_MAX / 1024 && h->context >= 1 && h->context <= CONTEXT_MAX &&
            h->n_vocab <= VOCAB_MAX && h->logits_at % 4 == 0 && h->tokens_at % 4 == 0;

  if (!ok)
    mi_out_text(c->why, "the image's memory sizes are out of range");
  return ok;
}

static bool check_pieces(const Check *c)
{
  const MiImage *h = c->h;
  uint64_t others = h->tables_bytes <= h->weights_bytes ? h->weights_bytes - h->tables_bytes : UINT64_MAX;
  const Piece pieces[] = {
      {"levels", h->levels, h->n_levels, sizeof(MiLevel), 8},
      {"entries", h->entries, h->n_entries, sizeof(MiEntry), 8},
      {"grids", h->grids, h->n_grids, sizeof(MiGrid), 8},
      {"parts", h->parts, h->n_parts, sizeof(MiPart), 8},
      {"binds", h->binds, h->n_binds, sizeof(MiBind), 8},
      {"places", h->places, h->n_places, sizeof(MiPlace), 8},
      {"names", h->names, h->names_bytes, 1, 1},
      {"inputs and outputs", h->ios, h->n_ios, sizeof(MiIo), 8},
      {"about bytes", h->about, h->about_bytes, 1, 1},
      {"tokenizer bytes", h->tokenizer, h->tokenizer_bytes, 1, 16},
      {"weights", h->weights, h->weights_bytes, 1, MI_PAGE},
      {"weights that are no tables", h->weights + h->tables_bytes, others, 1, MI_PAGE},
  };

  for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++)
    if (!check_piece(c, &pieces[i]))
      return false;
  return true;
}

static bool check_levels(const Check *c)
{
  const MiLevel *level = (const void *)(c->base + c->h->levels);

  for (uint32_t i = 0; i < c->h->n_levels; i++)
    if (!memchr(level[i].name, 0, sizeof level->name)) {
      mi_out_format(c->why, "level %u has no name", i);
      return false;
    }
  return true;
}

static bool check_places(const Check *c)
{
  const MiPlace *place = (const void *)(c->base + c->h->places);

  for (uint32_t i = 0; i < c->h->n_places; i++) {
    uint64_t offset = (uint64_t)(place[i] & ((1u << MI_PLACE_BITS) - 1)) * MI_ALIGN;
    if (offset >= c->space_bytes[place[i] >> MI_PLACE_BITS]) {
      mi_out_format(c->why, "place %u is outside its space", i);
      return false;
    }
  }
  return true;
}

static bool check_binds(const Check *c)
{
  const MiBind *bind = (const void *)(c->base + c->h->binds);

  for (uint32_t i = 0; i < c->h->n_binds; i++)
    if (bind[i] >= c->h->n_places) {
      mi_out_format(c->why, "bind %u means place %u of %u", i, bind[i], c->h->n_places);
      return false;
    }
  return true;
}

static bool check_grids(const Check *c)
{
  const MiGrid *grid = (const void *)(c->base + c->h->grids);

  for (uint32_t i = 0; i < c->h->n_grids; i++) {
    const MiGrid *g = &grid[i];
    if (g->kernel >= c->h->n_kernels || g->n_binds > MI_MAX_PARAMS) {
      mi_out_format(c->why, "grid %u runs kernel %u of %u with %u binds", i, g->kernel, c->h->n_kernels,
                    g->n_binds);
      return false;
    }
  }
  return true;
}

/* Names are read to their zero. */
static bool check_names(const Check *c)
{
  const MiImage *h = c->h;

  if (h->names_bytes && !c->base[h->names + h->names_bytes - 1])
    return true;
  mi_out_text(c->why, "the image's names do not end");
  return false;
}

static bool check_part(const Check *c, const MiEntry *e, const MiPart *p)
{
  const MiGrid *grid = (const MiGrid *)(const void *)(c->base + c->h->grids) + e->first_grid;

  return p->grid < e->n_grids && p->name < c->h->names_bytes &&
         inside(p->first_bind, grid[p->grid].n_binds, c->h->n_binds);
}

static uint64_t times_at_most(const Check *c, const MiEntry *e, const MiGrid *g)
{
  return g->times == MI_ONCE ? 1 : (uint64_t)e->tokens + c->h->context / MI_SECTION;
}

/* The iterations of a launch must fit the pool's 31 bits, and the last launch must end. */
static bool check_parts(const Check *c, const MiEntry *e)
{
  const MiPart *part = (const MiPart *)(const void *)(c->base + c->h->parts) + e->first_part;
  const MiGrid *grid = (const MiGrid *)(const void *)(c->base + c->h->grids) + e->first_grid;
  uint64_t total = 0;

  for (uint32_t i = 0; i < e->n_parts; i++) {
    if (!check_part(c, e, &part[i])) {
      mi_out_format(c->why, "part %u is out of range", e->first_part + i);
      return false;
    }
    const MiGrid *g = &grid[part[i].grid];
    total += (uint64_t)g->grid * times_at_most(c, e, g);
    if (total > TOTAL_MAX) {
      mi_out_format(c->why, "part %u: its launch has too many iterations", e->first_part + i);
      return false;
    }
    total = part[i].last ? 0 : total;
  }
  if (!e->n_parts || part[e->n_parts - 1].last)
    return true;
  mi_out_format(c->why, "part %u does not end its launch", e->first_part + e->n_parts - 1);
  return false;
}

static bool check_io(const Check *c, const MiIo *io)
{
  uint64_t bytes = io->elem < MI_ELEM_COUNT ? mi_elem_bytes((MiElem)io->elem) : 0;
  const char *name = (const char *)c->base + io->name;

  if (!bytes || io->rank > MI_MAX_RANK || io->name >= c->size || !memchr(name, 0, c->size - io->name))
    return false;
  for (uint32_t d = 0; d < io->rank; d++) {
    if (io->dim[d] > SPACE_MAX || (io->dim[d] && bytes > SPACE_MAX / io->dim[d]))
      return false;
    bytes *= io->dim[d];
  }
  return io->offset % MI_ALIGN == 0 && inside(io->offset, bytes, c->h->arena_bytes);
}

static bool check_ios(const Check *c)
{
  const MiIo *io = (const void *)(c->base + c->h->ios);

  for (uint64_t i = 0; i < c->h->n_ios; i++)
    if (!check_io(c, &io[i])) {
      mi_out_format(c->why, "input or output %llu is out of range", (unsigned long long)i);
      return false;
    }
  return true;
}

static bool check_entries(const Check *c)
{
  const MiEntry *entry = (const void *)(c->base + c->h->entries);
  const MiImage *h = c->h;

  for (uint32_t i = 0; i < h->n_entries; i++) {
    const MiEntry *e = &entry[i];
    bool ok = memchr(e->name, 0, sizeof e->name) && (e->level < h->n_levels || !e->level) &&
              inside(e->first_part, e->n_parts, h->n_parts) &&
              inside(e->first_grid, e->n_grids, h->n_grids) && inside(e->first_io, e->n_ios, h->n_ios) &&
              e->tokens >= 1 && e->tokens <= TOKENS_MAX &&
              inside(h->tokens_at, 4ull * e->tokens, h->arena_bytes) &&
              (!e->has_logits || (h->n_vocab && inside(h->logits_at, 4ull * h->n_vocab, h->arena_bytes)));
    if (!ok) {
      mi_out_format(c->why, "entry %u is out of range", i);
      return false;
    }
    if (!check_parts(c, e))
      return false;
  }
  return true;
}

bool mi_check_image(const MiImage *image, uint64_t bytes, MiOut *why)
{
  Check c = {.h = image, .base = (const uint8_t *)image, .why = why};

  if (!check_head(&c, bytes))
    return false;
  c.size = image->image_bytes;
  c.space_bytes[MI_SPACE_WEIGHTS] = image->weights_bytes;
  c.space_bytes[MI_SPACE_ARENA] = image->arena_bytes;
  c.space_bytes[MI_SPACE_STATE] = image->state_bytes;
  c.space_bytes[MI_SPACE_SCRATCH] = image->scratch_bytes;
  return check_sizes(&c) && check_pieces(&c) && check_levels(&c) && check_places(&c) && check_binds(&c) &&
         check_grids(&c) && check_names(&c) && check_ios(&c) && check_entries(&c);
}
