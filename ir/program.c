/* program.c - buffers, packing of the arena, sharing of equal kernels, the printed plan. */
#include "ir/program.h"

#include <stdlib.h>

enum { PLACE_ALIGN = 64 };

const char *const layout_name[] = {"vector", "panel16", "planes", "raw"};

uint32_t program_buffer(Program *p, Space space, const char *name, uint64_t bytes)
{
  if (!p->buffers.len)
    (void)PUSH(p->arena, p->buffers); /* none */
  uint32_t b = p->buffers.len;
  *PUSH(p->arena, p->buffers) = (Buffer){.space = space, .name = name, .bytes = bytes, .first = UINT32_MAX};
  return b;
}

/* ---- placing */

static bool overlaps_in_time(const Buffer *a, const Buffer *b)
{
  return a->entry == b->entry && a->first <= b->last && b->first <= a->last;
}

typedef struct {
  uint64_t bytes;
  uint32_t index;
} BySize;

static int larger_first(const void *pa, const void *pb)
{
  const BySize *a = pa, *b = pb;
  if (a->bytes != b->bytes)
    return a->bytes < b->bytes ? 1 : -1;
  return a->index < b->index ? -1 : 1;
}

/* The lowest offset where the buffer meets none of those placed before that live at the same time. */
static uint64_t lowest_gap(const Program *p, const BySize *order, uint32_t placed, const Buffer *b)
{
  uint64_t at = 0;
  bool moved = true;

  while (moved) {
    moved = false;
    for (uint32_t i = 0; i < placed; i++) {
      const Buffer *o = &p->buffers.data[order[i].index];
      if (overlaps_in_time(o, b) && at < o->offset + o->bytes && o->offset < at + b->bytes) {
        at = round_up(o->offset + o->bytes, PLACE_ALIGN);
        moved = true;
      }
    }
  }
  return at;
}

/* Token ids and logits come first: they are at the same place in every entry, and for every target. */
static uint64_t fixed_rank(const Program *p, uint32_t buffer)
{
  for (uint32_t i = 0; i < p->entries.len; i++) {
    if (p->entries.data[i].tokens_buffer == buffer)
      return UINT64_MAX;
    if (p->entries.data[i].logits_buffer == buffer)
      return UINT64_MAX - 1;
  }
  return 0;
}

static void pack_arena(Program *p, uint64_t *end)
{
  Arena tmp = {0};
  BySize *order = NEW_ARRAY(&tmp, BySize, p->buffers.len);
  uint32_t n = 0;

  for (uint32_t i = 1; i < p->buffers.len; i++)
    if (p->buffers.data[i].space == SPACE_ARENA)
      order[n++] = (BySize){fixed_rank(p, i) ? fixed_rank(p, i) : p->buffers.data[i].bytes, i};
  qsort(order, n, sizeof *order, larger_first);
  for (uint32_t i = 0; i < n; i++) {
    Buffer *b = &p->buffers.data[order[i].index];
    b->offset = lowest_gap(p, order, i, b);
    *end = (uint64_t)max64((int64_t)*end, (int64_t)round_up(b->offset + b->bytes, PLACE_ALIGN));
  }
  arena_free(&tmp);
}

void program_place(Program *p)
{
  memset(p->space_bytes, 0, sizeof p->space_bytes);
  for (uint32_t i = 1; i < p->buffers.len; i++) {
    Buffer *b = &p->buffers.data[i];
    uint64_t *end = &p->space_bytes[b->space];
    if (b->space == SPACE_WEIGHTS || b->space == SPACE_STATE) {
      b->offset = *end;
      *end = round_up(b->offset + b->bytes, PLACE_ALIGN);
    } else if (b->space == SPACE_SCRATCH && b->bytes > *end) {
      *end = round_up(b->bytes, PLACE_ALIGN);
    }
  }
  pack_arena(p, &p->space_bytes[SPACE_ARENA]);
}

/* ---- kernels */

static bool same_kernel(const Kernel *a, const Kernel *b)
{
  if (a->nodes.len != b->nodes.len || a->edges.len != b->edges.len || a->params.len != b->params.len ||
      a->scratch_bytes != b->scratch_bytes || strcmp(a->name, b->name) ||
      memcmp(a->edges.data, b->edges.data, a->edges.len * sizeof *a->edges.data))
    return false;
  for (uint32_t i = 0; i < a->params.len; i++)
    if (a->params.data[i].elem != b->params.data[i].elem ||
        a->params.data[i].access != b->params.data[i].access)
      return false;
  for (uint32_t i = 0; i < a->nodes.len; i++) {
    const KNode *x = &a->nodes.data[i], *y = &b->nodes.data[i];
    if (x->op != y->op || !ktype_eq(x->type, y->type) || x->buf != y->buf || x->in.first != y->in.first ||
        x->in.count != y->in.count || x->imm.i != y->imm.i)
      return false;
  }
  return true;
}

uint32_t program_kernel(Program *p, Kernel *k)
{
  for (uint32_t i = 0; i < p->kernels.len; i++)
    if (same_kernel(p->kernels.data[i], k))
      return i;
  *PUSH(p->arena, p->kernels) = k;
  return p->kernels.len - 1;
}

/* ---- the plan */

static void print_part(const Program *p, const Part *part, Text *out)
{
  const Kernel *k = p->kernels.data[part->kernel];

  text_printf(out, "      %-34s %7u%s", k->name, part->grid, part->per_token ? " x tokens" : "         ");
  text_printf(out, " %10.4f MB %10.4f Mop ", (double)part->bytes / 1e6, (double)part->ops / 1e6);
  if (part->span)
    text_printf(out, " x %u positions ", part->span);
  for (uint32_t i = 0; i < part->binds.count; i++) {
    const Bind *b = &p->binds.data[part->binds.first + i];
    const KParam *param = &k->params.data[i];
    static const char *const mark[] = {"", "=", "+=", "~"};
    text_printf(out, " %s%s", p->buffers.data[b->buffer].name, mark[param->access]);
  }
  text_printf(out, "\n");
}

/* What one call reads and one token multiplies; what grows with the positions seen stands apart. tests/bench/llm reads
 * this line. */
static void print_total(const Program *p, const Entry *en, Text *out)
{
  uint64_t bytes[2] = {0}, ops[2] = {0};

  for (uint32_t i = 0; i < en->launches.count; i++) {
    const Launch *l = &p->launches.data[en->launches.first + i];
    for (uint32_t j = 0; j < l->parts.count; j++) {
      const Part *part = &p->parts.data[l->parts.first + j];
      bytes[!!part->span] += part->bytes;
      ops[!!part->span] += part->ops;
    }
  }
  text_printf(out, "  total: %.6f MB a call, %.6f Mop a token; a position seen: %.6f MB, %.6f Mop\n",
              (double)bytes[0] / 1e6, (double)ops[0] / 1e6, (double)bytes[1] / 1e6, (double)ops[1] / 1e6);
}

static void print_items(const Program *p, Text *out)
{
  text_printf(out, "weights: %.3f MB\n", (double)p->space_bytes[SPACE_WEIGHTS] / 1e6);
  for (uint32_t i = 0; i < p->items.len; i++) {
    const Item *it = &p->items.data[i];
    const Buffer *b = &p->buffers.data[it->buffer];
    const Weight *w = it->layout == LAYOUT_RAW ? NULL : &p->module->weights.data[it->weight];
    text_printf(out, "  %12llu %12llu  %-8s %-6s %s\n", (unsigned long long)b->offset,
                (unsigned long long)b->bytes, layout_name[it->layout],
                w ? dtype_info[w->type.dtype].name : "-", b->name);
  }
}

void program_print(const Program *p, Text *out)
{
  text_printf(out, "arena %.3f MB, state %.3f MB, scratch %.3f KB a thread, %u kernels\n",
              (double)p->space_bytes[SPACE_ARENA] / 1e6, (double)p->space_bytes[SPACE_STATE] / 1e6,
              (double)p->space_bytes[SPACE_SCRATCH] / 1e3, p->kernels.len);
  for (uint32_t e = 0; e < p->entries.len; e++) {
    const Entry *en = &p->entries.data[e];
    text_printf(out, "\nentry %s, %u tokens, %u launches   (operands: = written, += both, ~ scratch)\n",
                en->name, en->tokens, en->launches.count);
    for (uint32_t i = 0; i < en->launches.count; i++) {
      const Launch *l = &p->launches.data[en->launches.first + i];
      text_printf(out, "  %3u %s\n", i, l->name);
      for (uint32_t j = 0; j < l->parts.count; j++)
        print_part(p, &p->parts.data[l->parts.first + j], out);
    }
    print_total(p, en, out);
  }
  text_printf(out, "\nother buffers:");
  for (uint32_t i = 1; i < p->buffers.len; i++)
    if (p->buffers.data[i].space == SPACE_STATE)
      text_printf(out, " state:%s:%llu", p->buffers.data[i].name,
                  (unsigned long long)p->buffers.data[i].bytes);
  text_printf(out, "\n\n");
  print_items(p, out);
}
