/* program.c - buffers, packing of the arena, sharing of equal kernels, the printed plan. */
#include "ir/program.h"

#include <stdlib.h>

enum { PLACE_ALIGN = 64 };

const char *const layout_name[] = {"vector", "panel16", "planes", "rows", "raw"};

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
  return a->first <= b->last && b->first <= a->last;
}

static bool must_part(const Buffer *a, const Buffer *b, bool by_size)
{
  return a->entry == b->entry && (overlaps_in_time(a, b) || (by_size && a->bytes != b->bytes));
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

/* The lowest offset where the buffer meets none of those placed before with which it cannot share memory. */
static uint64_t lowest_gap(const Program *p, const BySize *order, uint32_t placed, const Buffer *b,
                           bool by_size)
{
  uint64_t at = 0;
  bool moved = true;

  while (moved) {
    moved = false;
    for (uint32_t i = 0; i < placed; i++) {
      const Buffer *o = &p->buffers.data[order[i].index];
      if (must_part(o, b, by_size) && at < o->offset + o->bytes && o->offset < at + b->bytes) {
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

static uint64_t pack_arena(Program *p, bool by_size)
{
  Arena tmp = {0};
  BySize *order = NEW_ARRAY(&tmp, BySize, p->buffers.len);
  uint64_t end = 0;
  uint32_t n = 0;

  for (uint32_t i = 1; i < p->buffers.len; i++)
    if (p->buffers.data[i].space == SPACE_ARENA)
      order[n++] = (BySize){fixed_rank(p, i) ? fixed_rank(p, i) : p->buffers.data[i].bytes, i};
  qsort(order, n, sizeof *order, larger_first);
  for (uint32_t i = 0; i < n; i++) {
    Buffer *b = &p->buffers.data[order[i].index];
    b->offset = lowest_gap(p, order, i, b, by_size);
    end = (uint64_t)max64((int64_t)end, (int64_t)round_up(b->offset + b->bytes, PLACE_ALIGN));
  }
  arena_free(&tmp);
  return end;
}

void program_place(Program *p, uint64_t roomy)
{
  memset(p->space_bytes, 0, sizeof p->space_bytes);
  for (uint32_t i = 1; i < p->buffers.len; i++) {
    Buffer *b = &p->buffers.data[i];
    uint64_t *end = &p->space_bytes[b->space];
    if (b->space == SPACE_WEIGHTS)
      b->offset = *end;
    if (b->space == SPACE_WEIGHTS || b->space == SPACE_STATE)
      *end = (uint64_t)max64((int64_t)*end, (int64_t)round_up(b->offset + b->bytes, PLACE_ALIGN));
    else if (b->space == SPACE_SCRATCH && b->bytes > *end)
      *end = round_up(b->bytes, PLACE_ALIGN);
  }
  uint64_t *arena = &p->space_bytes[SPACE_ARENA];
  *arena = roomy ? pack_arena(p, true) : 0;
  if (!roomy || *arena > roomy)
    *arena = pack_arena(p, false);
}

/* ---- kernels */

/* Kernels of equal shape do the same to buffers of other sizes: layers with and without a window, matrices with more
 * rows. A kernel stands for all that differ from it in a few index constants. Constants in inner loops are left alone:
 * there a known number is worth its code. */
enum { MOST_DEPTH = 1 };

static bool same_frame(const Kernel *a, const Kernel *b)
{
  if (a->nodes.len != b->nodes.len || a->edges.len != b->edges.len || a->params.len != b->params.len ||
      a->scratch_bytes != b->scratch_bytes ||
      memcmp(a->edges.data, b->edges.data, a->edges.len * sizeof *a->edges.data))
    return false;
  for (uint32_t i = 0; i < a->params.len; i++)
    if (a->params.data[i].elem != b->params.data[i].elem ||
        a->params.data[i].access != b->params.data[i].access)
      return false;
  return true;
}

static bool same_node(const KNode *x, const KNode *y)
{
  return x->op == y->op && ktype_eq(x->type, y->type) && x->buf == y->buf && x->in.first == y->in.first &&
         x->in.count == y->in.count;
}

static bool may_vary(const KNode *x, const KNode *y, unsigned depth)
{
  return depth <= MOST_DEPTH && x->op == K_const && ktype_eq(x->type, ktype(KE_idx, 1)) &&
         x->imm.i == (int32_t)x->imm.i && y->imm.i == (int32_t)y->imm.i;
}

/* The two numbers of a constant: in the kernel that stands for both, and in the other. */
typedef struct {
  int64_t ours, other;
} Pair;

/* The constant's number for a node that differs, one more than there are if it is new; 0: no more are possible. */
static uint8_t constant_of(const Pair *pair, uint32_t n, Pair now)
{
  for (uint8_t i = 0; i < n; i++)
    if (pair[i].ours == now.ours && pair[i].other == now.other)
      return i + 1;
  return n < K_CONSTANTS ? (uint8_t)(n + 1) : 0;
}

/* Whether `k` is known as `known` with other constants; *v then has those of both, pair[] their numbers. */
static bool same_kernel(const Kernel *known, const Kernel *k, Varying *v, Pair *pair)
{
  unsigned depth = 0;

  if (!same_frame(known, k))
    return false;
  for (uint32_t i = 0; i < k->nodes.len; i++) {
    const KNode *x = &known->nodes.data[i], *y = &k->nodes.data[i];
    uint8_t c = v->of[i];
    if (!same_node(x, y))
      return false;
    depth += x->op == K_loop || x->op == K_if;
    depth -= x->op == K_end;
    if (!c && x->imm.i == y->imm.i)
      continue;
    Pair now = {x->imm.i, y->imm.i};
    c = c ? c : may_vary(x, y, depth) ? constant_of(pair, v->n, now) : 0;
    if (!c || (c <= v->n && pair[c - 1].other != now.other && pair[c - 1].ours != INT64_MIN))
      return false;
    pair[c - 1] = now;
    v->of[i] = c;
    v->n = c > v->n ? c : v->n;
  }
  return true;
}

/* Characters of the number at `s`, which may be N; 0: none is there. */
static size_t number_at(const char *s)
{
  return *s == 'N' ? 1 : strspn(s, "0123456789");
}

/* The name of a kernel that serves as both: numbers in which they differ are N, as in linear.q5_0.Nx640. */
static const char *common_name(Arena *a, const char *x, const char *y)
{
  const char *first = x;
  Text t = {.arena = a};

  while (*x || *y) {
    size_t n = number_at(x), m = number_at(y);
    bool same = n ? n == m && !memcmp(x, y, n) : *x == *y;
    if (!n != !m || (!n && !same))
      return first; /* they differ in more than numbers */
    text_add(&t, same ? x : "N", same && n ? n : 1);
    x += n ? n : 1;
    y += m ? m : 1;
  }
  return t.data;
}

/* Parts of kernel `index` that were there before hand over its own numbers. */
static void add_constants(Program *p, uint32_t index, const Varying *v, const Pair *pair)
{
  for (uint32_t c = p->varying.data[index].n; c < v->n; c++)
    for (uint32_t i = 0; i < p->parts.len; i++)
      if (p->parts.data[i].kernel == index)
        p->parts.data[i].constant[c] = (int32_t)pair[c].ours;
  p->varying.data[index] = *v;
}

void program_kernel(Program *p, Kernel *k, Part *part)
{
  for (uint32_t i = 0; i < p->kernels.len; i++) {
    Kernel *known = p->kernels.data[i];
    const Varying *old = &p->varying.data[i];
    if (known->nodes.len != k->nodes.len)
      continue;
    Pair pair[K_CONSTANTS];
    for (uint32_t c = 0; c < K_CONSTANTS; c++)
      pair[c] = (Pair){INT64_MIN, 0};
    Varying v = {NEW_ARRAY(p->arena, uint8_t, k->nodes.len), old->n};
    memcpy(v.of, old->of, k->nodes.len);
    if (!same_kernel(known, k, &v, pair))
      continue;
    add_constants(p, i, &v, pair);
    known->name = common_name(p->arena, known->name, k->name);
    part->kernel = i;
    for (uint32_t c = 0; c < v.n; c++)
      part->constant[c] = (int32_t)pair[c].other;
    return;
  }
  *PUSH(p->arena, p->kernels) = k;
  *PUSH(p->arena, p->varying) = (Varying){NEW_ARRAY(p->arena, uint8_t, k->nodes.len), 0};
  part->kernel = p->kernels.len - 1;
}

void program_end_kernels(Program *p)
{
  for (uint32_t i = 0; i < p->kernels.len; i++)
    for (KVal v = 1; v < p->kernels.data[i]->nodes.len; v++) {
      KNode *n = kernel_node(p->kernels.data[i], v);
      uint8_t c = p->varying.data[i].of[v];
      if (!c)
        continue;
      n->op = K_arg;
      n->imm.i = K_CONSTANT + c - 1;
    }
}

/* ---- the plan */

/* tests/bench/llm reads "MB .. x .. positions". */
static void print_part(const Program *p, const Part *part, Text *out)
{
  static const char *const times[] = {"         ", " x tokens", " x sections"};
  const Kernel *k = p->kernels.data[part->kernel];

  text_printf(out, "      %-34s %7u%s", k->name, part->grid, times[part->times]);
  text_printf(out, " %10.4f MB %10.4f Mop ", (double)part->bytes / 1e6, (double)part->ops / 1e6);
  if (part->span)
    text_printf(out, " x %u positions ", part->span);
  for (uint32_t i = 0; i < K_CONSTANTS && part->constant[i]; i++)
    text_printf(out, " %d", part->constant[i]);
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
