/* mi_engine_open.c - all of an engine but its walk over launches: memory, level, binds, workers, what is asked between runs. */
#include "mi_check.h"
#include "mi_cpu.h"
#include "mi_engine.h"
#include "mi_host.h"

#include <stdlib.h>
#include <string.h>

static const void *in_image(const MiImage *image, uint64_t offset)
{
  return (const uint8_t *)image + offset;
}

/* Offsets in the mapping. */
typedef struct {
  size_t state, arena, scratch, scratch_each, pointers, profile, pool, end;
} Layout;

static size_t place(Layout *l, uint64_t bytes)
{
  size_t at = l->end;

  l->end += (bytes + MI_PAGE - 1) / MI_PAGE * MI_PAGE;
  return at;
}

/* Scratch of each thread has pages of its own, so that no line is shared, and is near who touches it first.
 * The sum cannot overflow: the image's sizes are below 2^46, and scratch below that over MI_POOL_MAX. */
static Layout plan(const MiImage *h, unsigned n_threads)
{
  Layout l = {0};

  l.scratch_each = (h->scratch_bytes + MI_PAGE - 1) / MI_PAGE * MI_PAGE;
  l.state = place(&l, h->state_bytes);
  l.arena = place(&l, h->arena_bytes);
  l.scratch = place(&l, l.scratch_each * n_threads);
  l.pointers = place(&l, (uint64_t)n_threads * h->n_binds * sizeof(uint8_t *));
  l.profile = place(&l, (uint64_t)h->n_parts * sizeof(MiProfileRow));
  l.pool = place(&l, mi_pool_bytes(n_threads));
  return l;
}

static uint8_t *pointer(uint8_t *const *base, MiPlace place)
{
  return base[place >> MI_PLACE_BITS] + (uint64_t)(place & ((1u << MI_PLACE_BITS) - 1)) * MI_ALIGN;
}

static void resolve_binds(MiEngine *e, const Layout *l)
{
  const MiImage *h = e->image;
  const MiBind *bind = in_image(h, h->binds);
  const MiPlace *place = in_image(h, h->places);
  uint8_t *base[MI_SPACE_COUNT] = {
      [MI_SPACE_WEIGHTS] = (uint8_t *)in_image(h, h->weights), /* kernels only read them */
      [MI_SPACE_ARENA] = e->arena,
      [MI_SPACE_STATE] = e->state,
  };

  for (unsigned t = 0; t < e->n_threads; t++) {
    base[MI_SPACE_SCRATCH] = e->memory + l->scratch + t * l->scratch_each;
    for (uint32_t i = 0; i < h->n_binds; i++)
      e->pointers[(size_t)t * h->n_binds + i] = pointer(base, place[bind[i]]);
  }
}

static bool map_memory(MiEngine *e)
{
  Layout l = plan(e->image, e->n_threads);

  e->memory_bytes = l.end;
  e->memory = mi_host_map(l.end);
  if (!e->memory)
    return false;
  e->state = e->memory + l.state;
  e->arena = e->memory + l.arena;
  e->pointers = (uint8_t **)(void *)(e->memory + l.pointers);
  e->profile = (MiProfileRow *)(void *)(e->memory + l.profile);
  e->pool = (MiPool *)(void *)(e->memory + l.pool);
  resolve_binds(e, &l);
  mi_host_want_large_pages(e->state, e->image->state_bytes);
  mi_host_want_large_pages(in_image(e->image, e->image->weights + e->image->tables_bytes),
                           e->image->weights_bytes - e->image->tables_bytes);
  return true;
}

static const char *lacks(const MiLevel *l, uint32_t has)
{
  static const struct {
    uint32_t bit;
    const char *name;
  } names[] = {{MI_CPU_X86_64_V2, "x86-64-v2 (SSE4.2)"},
               {MI_CPU_X86_64_V3, "x86-64-v3 (AVX2, FMA, F16C)"},
               {MI_CPU_X86_64_V4, "x86-64-v4 (AVX-512)"},
               {MI_CPU_AVX_VNNI, "AVX-VNNI"},
               {MI_CPU_AVX512_VNNI, "AVX-512 VNNI"}};

  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (l->needs & names[i].bit & ~has)
      return names[i].name;
  return NULL;
}

int mi_engine_level(const MiImage *image, MiOut *why)
{
  const MiLevel *level = in_image(image, image->levels);
  const char *asked = getenv("MICC_CPU");
  uint32_t has = mi_cpu_features();
  int n = (int)image->n_levels;

  for (int i = n; i-- > 0;) {
    bool named = asked && *asked && !strcmp(asked, level[i].name);
    if (asked && *asked && !named)
      continue;
    if (!lacks(&level[i], has))
      return i;
    if (named) {
      mi_out_format(why, "MICC_CPU=%s: this processor lacks %s", asked, lacks(&level[i], has));
      return -1;
    }
  }
  if (asked && *asked && n)
    mi_out_format(why, "MICC_CPU=%s: this program has no such level; see --about", asked);
  else if (n)
    mi_out_format(why, "this program needs a processor with %s", lacks(&level[0], has));
  return n ? -1 : 0;
}

bool mi_engine_open(MiEngine *e, const MiImage *image, uint64_t bytes, MiKernel *const *kernels,
                    unsigned n_threads, MiOut *why)
{
  *e = (MiEngine){.image = image, .kernels = kernels, .n_threads = n_threads};
  if (!mi_check_image(image, bytes, why))
    return false;
  int level = mi_engine_level(image, why);
  if (level < 0)
    return false;
  e->level = (uint32_t)level;
  e->entries = in_image(image, image->entries);
  e->grids = in_image(image, image->grids);
  e->parts = in_image(image, image->parts);
  if (n_threads < 1 || n_threads > MI_POOL_MAX) {
    mi_out_format(why, "%u threads: 1 to %d are possible", n_threads, MI_POOL_MAX);
    return false;
  }
  if (!map_memory(e)) {
    mi_out_format(why, "there is no room for %zu MB of working memory", e->memory_bytes >> 20);
    return false;
  }
  e->pool = mi_pool_start(e->pool, n_threads);
  if (!e->pool) {
    mi_out_format(why, "the system does not start %u threads", n_threads);
    mi_host_unmap(e->memory, e->memory_bytes);
    e->memory = NULL;
    return false;
  }
  return true;
}

void mi_engine_close(MiEngine *e)
{
  if (!e->memory)
    return;
  mi_pool_stop(e->pool);
  mi_host_unmap(e->memory, e->memory_bytes);
  *e = (MiEngine){0};
}

int mi_engine_entry(const MiEngine *e, const char *name)
{
  for (uint32_t i = 0; i < e->image->n_entries; i++)
    if (e->entries[i].level == e->level && !strcmp(e->entries[i].name, name))
      return (int)i;
  return -1;
}

float *mi_engine_logits(const MiEngine *e)
{
  return (float *)(void *)(e->arena + e->image->logits_at);
}

void mi_engine_reset(MiEngine *e)
{
  memset(e->state, 0, e->image->state_bytes);
}

size_t mi_engine_memory_bytes(const MiEngine *e)
{
  return e->memory_bytes;
}
