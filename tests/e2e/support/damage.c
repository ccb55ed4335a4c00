/* damage.c - see damage.h */
#define _GNU_SOURCE
#include "tests/e2e/support/damage.h"

#include <stdlib.h>

/* splitmix64: every seed gives a good sequence of its own. */
static uint64_t next(uint64_t *state)
{
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static size_t below(uint64_t *state, size_t n)
{
  return n ? (size_t)(next(state) % n) : 0;
}

/* Three of four places lie in the head. */
static size_t place(uint64_t *state, const Bytes *b, size_t head)
{
  return below(state, head && head < b->len && below(state, 4) ? head : b->len);
}

static const char *cut(Arena *a, Bytes *b, uint64_t *s, size_t at)
{
  (void)s;
  b->len = at;
  return arena_printf(a, "cut to %zu bytes", at);
}

static const char *change(Arena *a, Bytes *b, uint64_t *s, size_t at)
{
  uint8_t with = (uint8_t)(1 + below(s, 255));
  b->data[at] = (char)((uint8_t)b->data[at] ^ with);
  return arena_printf(a, "byte %#zx ^ %#x", at, with);
}

/* What programs stumble over: the ends of number ranges, infinity, not-a-number. */
static const char *extreme(Arena *a, Bytes *b, uint64_t *s, size_t at)
{
  static const uint64_t values[] = {
      0,          1,          0x7fffffff,         0x80000000,         0xffffffff,
      0x7f800000, 0x7fc00000, 0x7fffffffffffffff, 0x8000000000000000, UINT64_MAX,
      0x100000000};
  uint64_t v = values[below(s, COUNT(values))];
  size_t n = below(s, 2) ? 4 : 8;

  n = n < b->len - at ? n : b->len - at;
  memcpy(b->data + at, &v, n);
  return arena_printf(a, "%#llx in %zu bytes at %#zx", (unsigned long long)v, n, at);
}

static const char *hole(Arena *a, Bytes *b, uint64_t *s, size_t at)
{
  size_t n = 1 + below(s, 256);

  n = n < b->len - at ? n : b->len - at;
  memset(b->data + at, below(s, 2) ? 0 : 0xff, n);
  return arena_printf(a, "%zu equal bytes at %#zx", n, at);
}

static const char *move(Arena *a, Bytes *b, uint64_t *s, size_t at)
{
  size_t from = below(s, b->len), n = 1 + below(s, 64), longest = b->len - (from > at ? from : at);

  n = n < longest ? n : longest;
  memmove(b->data + at, b->data + from, n);
  return arena_printf(a, "%zu bytes from %#zx to %#zx", n, from, at);
}

const char *damage(Arena *a, Bytes *b, uint64_t seed, size_t head)
{
  static const char *(*const kinds[])(Arena *, Bytes *, uint64_t *,
                                      size_t) = {cut, change, change, extreme, extreme, hole, move};
  uint64_t s = seed;
  size_t at = place(&s, b, head);

  return kinds[below(&s, COUNT(kinds))](a, b, &s, at);
}

bool damage_value(Bytes *b, const char *key, const char *hex)
{
  char *value = memmem(b->data, b->len, key, strlen(key)), *end = b->data + b->len, *stop;

  if (!value)
    return false;
  for (value += strlen(key) + 4; *hex && value < end; hex = stop + (*stop == ' '))
    *value++ = (char)strtoul(hex, &stop, 16);
  return true;
}
