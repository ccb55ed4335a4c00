/* base.c - see base.h */
#include "ir/base.h"

#include <stdio.h>
#include <stdlib.h>

enum { CHUNK_BYTES = 64 * 1024, ALIGN_BYTES = 16 };

struct Chunk {
  Chunk *next;
  size_t used, cap;
  _Alignas(ALIGN_BYTES) unsigned char data[];
};

bool fail(Err *e, const char *fmt, ...)
{
  if (e && !e->text[0]) {
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(e->text, sizeof e->text, fmt, ap);
    va_end(ap);
    for (char *c = e->text; *c; c++)
      if ((unsigned char)*c < ' ' || *c == 127)
        *c = *c == '\n' ? ' ' : '?';
  }
  return false;
}

/* ---- out of memory */

static _Thread_local MemTrap *innermost;
static _Thread_local long fail_countdown;

void mem_enter(MemTrap *t)
{
  t->outer = innermost;
  innermost = t;
}

void mem_done(MemTrap *t)
{
  innermost = t->outer;
}

void mem_fail_at(long n)
{
  fail_countdown = n;
}

static void *get_memory(size_t bytes)
{
  void *p = NULL;

  if (!fail_countdown || --fail_countdown)
    p = malloc(bytes);
  if (p)
    return p;
  if (!innermost)
    abort(); /* a caller forgot mem_try(): our fault */
  MemTrap *t = innermost;
  innermost = t->outer;
  longjmp(t->env, 1);
}

/* ---- arenas */

void *arena_alloc(Arena *a, size_t bytes)
{
  size_t need = round_up(bytes ? bytes : 1, ALIGN_BYTES);
  Chunk *c = a->chunk;

  if (!c || c->cap - c->used < need) {
    size_t cap = need > CHUNK_BYTES ? need : CHUNK_BYTES;
    c = get_memory(sizeof *c + cap);
    c->used = 0;
    c->cap = cap;
    c->next = a->chunk;
    a->chunk = c;
  }
  void *p = c->data + c->used;
  c->used += need;
  return memset(p, 0, need);
}

void *arena_array(Arena *a, size_t item_bytes, size_t n)
{
  uint64_t bytes;
  if (!mul_u64(item_bytes, n, &bytes) || bytes > SIZE_MAX / 2)
    bytes = SIZE_MAX / 2; /* more than any system has: ends in mem_try() */
  return arena_alloc(a, bytes);
}

void *arena_copy(Arena *a, const void *src, size_t bytes)
{
  void *p = arena_alloc(a, bytes);
  return bytes ? memcpy(p, src, bytes) : p;
}

char *arena_strndup(Arena *a, const char *s, size_t n)
{
  char *p = arena_alloc(a, n + 1);
  if (n)
    memcpy(p, s, n);
  return p;
}

char *arena_strdup(Arena *a, const char *s)
{
  return arena_strndup(a, s, strlen(s));
}

char *arena_printf(Arena *a, const char *fmt, ...)
{
  va_list ap, again;
  va_start(ap, fmt);
  va_copy(again, ap);
  int n = vsnprintf(NULL, 0, fmt, ap);
  va_end(ap);
  char *p = arena_alloc(a, (size_t)n + 1);
  vsnprintf(p, (size_t)n + 1, fmt, again);
  va_end(again);
  return p;
}

void arena_free(Arena *a)
{
  for (Chunk *c = a->chunk, *next; c; c = next) {
    next = c->next;
    free(c);
  }
  a->chunk = NULL;
}

void array_grow(Arena *a, void **data, uint32_t *cap, size_t item_bytes)
{
  uint32_t more = *cap ? *cap * 2 : 8;
  void *p = arena_array(a, item_bytes, more);
  if (*cap)
    memcpy(p, *data, item_bytes * *cap);
  *data = p;
  *cap = more;
}

/* ---- text */

void text_add(Text *t, const char *s, size_t n)
{
  if (t->len + n + 1 > t->cap) {
    size_t cap = (t->len + n + 1) * 2;
    char *p = arena_alloc(t->arena, cap < 256 ? 256 : cap);
    if (t->len)
      memcpy(p, t->data, t->len);
    t->data = p;
    t->cap = cap < 256 ? 256 : cap;
  }
  if (n)
    memcpy(t->data + t->len, s, n);
  t->len += n;
  t->data[t->len] = 0;
}

void text_printf(Text *t, const char *fmt, ...)
{
  char small[256];
  va_list ap, again;
  va_start(ap, fmt);
  va_copy(again, ap);
  int n = vsnprintf(small, sizeof small, fmt, ap);
  va_end(ap);
  if ((size_t)n < sizeof small) {
    text_add(t, small, (size_t)n);
  } else {
    Arena tmp = {0};
    char *p = arena_alloc(&tmp, (size_t)n + 1);
    vsnprintf(p, (size_t)n + 1, fmt, again);
    text_add(t, p, (size_t)n);
    arena_free(&tmp);
  }
  va_end(again);
}

uint64_t hash_bytes(const void *data, size_t n, uint64_t seed)
{
  const unsigned char *p = data;
  uint64_t h = 0xcbf29ce484222325u ^ seed;
  for (size_t i = 0; i < n; i++)
    h = (h ^ p[i]) * 0x100000001b3u;
  return h;
}
