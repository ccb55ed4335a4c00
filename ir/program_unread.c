/* program_unread.c - drops arrays that no kernel reads, and what is computed for them. Whoever quantises a value writes all that
 * products may ask for; what they do ask for is known when all kernels stand, and a kernel for several values writes what one of them
 * needs. */
#include "ir/program.h"

#include <stdlib.h>

typedef ARRAY(Bind) Binds;

static int by_place(const void *pa, const void *pb)
{
  const Bind *a = pa, *b = pb;
  if (a->buffer != b->buffer)
    return a->buffer < b->buffer ? -1 : 1;
  return a->offset < b->offset ? -1 : a->offset > b->offset;
}

/* Of arrays that some kernel reads, in order. */
static Binds find_reads(const Program *p)
{
  Binds r = {0};

  for (uint32_t i = 0; i < p->parts.len; i++) {
    const Part *part = &p->parts.data[i];
    const Kernel *k = p->kernels.data[part->kernel];
    for (uint32_t j = 0; j < part->binds.count; j++) {
      const Bind *b = &p->binds.data[part->binds.first + j];
      if (p->buffers.data[b->buffer].arrays && k->params.data[j].access != KA_WRITE)
        *PUSH(p->arena, r) = *b;
    }
  }
  if (r.len)
    qsort(r.data, r.len, sizeof *r.data, by_place);
  return r;
}

/* Of each kernel: which parameters some part needs. */
static uint8_t **find_needs(const Program *p)
{
  Binds reads = find_reads(p);
  uint8_t **need = NEW_ARRAY(p->arena, uint8_t *, p->kernels.len);

  for (uint32_t i = 0; i < p->kernels.len; i++)
    need[i] = NEW_ARRAY(p->arena, uint8_t, p->kernels.data[i]->params.len);
  for (uint32_t i = 0; i < p->parts.len; i++) {
    const Part *part = &p->parts.data[i];
    for (uint32_t j = 0; j < part->binds.count; j++) {
      const Bind *b = &p->binds.data[part->binds.first + j];
      need[part->kernel][j] |= !p->buffers.data[b->buffer].arrays ||
                               (reads.len && bsearch(b, reads.data, reads.len, sizeof *reads.data, by_place));
    }
  }
  return need;
}

static bool is_root(const KNode *n, const uint8_t *need)
{
  switch (n->op) {
  case K_store: return need[n->buf];
  case K_prefetch:
  case K_grid:
  case K_loop:
  case K_carry:
  case K_if:
  case K_else:
  case K_end: return true;
  default: return false;
  }
}

/* Which nodes are needed: users stand behind what they use, but for carries, which all stay. */
static uint8_t *live_nodes(Arena *a, const Kernel *k, const uint8_t *need)
{
  uint8_t *live = NEW_ARRAY(a, uint8_t, k->nodes.len);

  for (KVal v = k->nodes.len; v-- > 1;) {
    const KNode *n = kernel_node(k, v);
    uint32_t values = n->op == K_shuffle ? 2 : n->in.count; /* lane numbers follow */
    live[v] |= is_root(n, need);
    for (uint32_t i = 0; live[v] && i < values; i++)
      live[kernel_in(k, v, i)] = 1;
  }
  return live;
}

static Kernel *without(Arena *a, const Kernel *from, const uint8_t *need)
{
  const uint8_t *live = live_nodes(a, from, need);
  Kernel *k = kernel_new(a, from->name);
  KVal *map = NEW_ARRAY(a, KVal, from->nodes.len);
  uint16_t *param = NEW_ARRAY(a, uint16_t, from->params.len);

  k->scratch_bytes = from->scratch_bytes;
  for (uint32_t i = 0; i < from->params.len; i++) {
    const KParam *p = &from->params.data[i];
    if (need[i])
      param[i] = kernel_param(k, p->name, p->elem, p->access);
  }
  for (KVal v = 1; v < from->nodes.len; v++) {
    const KNode *n = kernel_node(from, v);
    if (!live[v])
      continue;
    map[v] = kernel_copy_node(k, from, v, n->type, map);
    if (kop_info[n->op].imm == KI_MEM)
      kernel_node(k, map[v])->buf = param[n->buf];
  }
  return k;
}

static bool drops_any(const Kernel *k, const uint8_t *need)
{
  return k->params.len && memchr(need, 0, k->params.len);
}

void program_drop_unread(Program *p)
{
  uint8_t **need = find_needs(p);

  for (uint32_t i = 0; i < p->parts.len; i++) {
    Part *part = &p->parts.data[i];
    uint32_t kept = 0;
    for (uint32_t j = 0; j < part->binds.count; j++)
      if (need[part->kernel][j])
        p->binds.data[part->binds.first + kept++] = p->binds.data[part->binds.first + j];
    part->binds.count = kept;
  }
  for (uint32_t i = 0; i < p->kernels.len; i++)
    if (drops_any(p->kernels.data[i], need[i]))
      p->kernels.data[i] = without(p->arena, p->kernels.data[i], need[i]);
}
