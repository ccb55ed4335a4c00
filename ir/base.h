/* base.h - what every part of the compiler leans on: arenas, growable arrays,
 * text building, and the one way to report an error.
 *
 * Memory: everything lives in arenas that are freed whole. When the system has no
 * memory left, control leaves through the innermost mem_try(), so no allocation site
 * checks for NULL. mem_fail_at() makes the n-th allocation fail, for tests. */
#ifndef MICC_BASE_H
#define MICC_BASE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define COUNT(a)     (sizeof(a) / sizeof((a)[0]))
#define PRINTF(f, a) __attribute__((format(printf, f, a), nonnull(f)))

/* ---- errors: the world's faults. The text names the file and the place. */
typedef struct {
  char text[1024];
} Err;

/* Stores the message (the first one wins) and returns false, so that callers write
 * `return fail(e, ...)`. Control characters, which names in hostile files may hold, become '?': a message is
 * one line. */
bool fail(Err *e, const char *fmt, ...) PRINTF(2, 3);

/* ---- arenas */
typedef struct Chunk Chunk;
typedef struct {
  Chunk *chunk;
} Arena;

void *arena_alloc(Arena *a, size_t bytes); /* zeroed, 16-byte aligned */
void *arena_copy(Arena *a, const void *src, size_t bytes);
char *arena_strdup(Arena *a, const char *s);
char *arena_strndup(Arena *a, const char *s, size_t n); /* adds the terminating zero */
char *arena_printf(Arena *a, const char *fmt, ...) PRINTF(2, 3);
void arena_free(Arena *a);

#define NEW(arena, T)          ((T *)arena_alloc(arena, sizeof(T)))
#define NEW_ARRAY(arena, T, n) ((T *)arena_array(arena, sizeof(T), n))
void *arena_array(Arena *a, size_t item_bytes, size_t n); /* checks the product */

/* ---- growable arrays in an arena:  ARRAY(int) xs = {0};  *PUSH(arena, xs) = 3; */
#define ARRAY(T)                                                                                             \
  struct {                                                                                                   \
    T *data;                                                                                                 \
    uint32_t len, cap;                                                                                       \
  }
#define PUSH(arena, v)                                                                                       \
  ((v).len == (v).cap ? array_grow(arena, (void **)&(v).data, &(v).cap, sizeof *(v).data) : (void)0,         \
   (v).data + (v).len++)
void array_grow(Arena *a, void **data, uint32_t *cap, size_t item_bytes);

/* ---- text that grows, in an arena; always zero-terminated */
typedef struct {
  Arena *arena;
  char *data;
  size_t len, cap;
} Text;

void text_printf(Text *t, const char *fmt, ...) PRINTF(2, 3);
void text_add(Text *t, const char *s, size_t n);

/* ---- out of memory. Usage: MemTrap trap; if (mem_try(&trap)) { ...; mem_done(&trap); } else error */
typedef struct MemTrap {
  jmp_buf env;
  struct MemTrap *outer;
} MemTrap;
void mem_enter(MemTrap *t);
void mem_done(MemTrap *t);
#define mem_try(t) (mem_enter(t), setjmp((t)->env) == 0)
void mem_fail_at(long n); /* the n-th allocation from now fails; 0 switches it off */

/* ---- small arithmetic */
static inline uint64_t round_up(uint64_t n, uint64_t to)
{
  return (n + to - 1) / to * to;
}
static inline int64_t min64(int64_t a, int64_t b)
{
  return a < b ? a : b;
}
static inline int64_t max64(int64_t a, int64_t b)
{
  return a > b ? a : b;
}
/* false when the product does not fit */
static inline bool mul_u64(uint64_t a, uint64_t b, uint64_t *out)
{
  return !__builtin_mul_overflow(a, b, out);
}
uint64_t hash_bytes(const void *data, size_t n, uint64_t seed); /* FNV-1a, 64 bits */

#endif
