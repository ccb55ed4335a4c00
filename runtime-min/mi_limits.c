/* mi_limits.c - the speed at which the weights can be read, measured on the weights themselves: in order, by the engine's
 * own threads, with next to no arithmetic. So pages, caches and the other users of this machine are those that the launches
 * met, and a small model's limit is that of the cache it fits in. */
#include "mi_limits.h"
#include "mi_host.h"

#include <stdlib.h>

enum { BLOCK = 8192, LEAST = 1024, PASSES = 3 }; /* words; blocks of a pass, or a clock would be too coarse */

typedef struct {
  const uint64_t *words;
  int64_t blocks, total; /* there are; to read */
  uint64_t *sum;         /* keeps the reads alive */
} Reading;

_Static_assert(sizeof(Reading) <= MI_POOL_JOB, "threads get a copy");

/* From four places at once, which asks more of memory than one stream does. Sums with names stay in registers however
 * little the compiler tries. */
static void read_blocks(const void *job, const MiPoolPiece *piece)
{
  enum { QUARTER = BLOCK / 4 };
  const Reading *r = job;
  int64_t first = mi_pool_begin(r->total, piece->share, piece->n_shares);
  uint64_t a = 0, b = 0, c = 0, d = 0;

  for (int64_t i = first + piece->lo; i < first + piece->hi; i++) {
    const uint64_t *p = r->words + i % r->blocks * BLOCK, *end = p + QUARTER;
    for (; p < end; p += 2) {
      a += p[0], b += p[QUARTER], c += p[2 * QUARTER], d += p[3 * QUARTER];
      a += p[1], b += p[QUARTER + 1], c += p[2 * QUARTER + 1], d += p[3 * QUARTER + 1];
    }
  }
  __atomic_fetch_add(r->sum, a + b + c + d, __ATOMIC_RELAXED);
}

static int64_t blocks_to_read(const void *job, unsigned share, unsigned n_shares)
{
  const Reading *r = job;

  return mi_pool_begin(r->total, share + 1, n_shares) - mi_pool_begin(r->total, share, n_shares);
}

static double read_rate(const MiEngine *e)
{
  const void *weights = (const char *)e->image + e->image->weights; /* begin a page */
  uint64_t sum = 0;
  Reading r = {weights, (int64_t)(e->image->weights_bytes / (BLOCK * sizeof *r.words)), 0, &sum};
  double best = 0;

  r.total = r.blocks > LEAST ? r.blocks : LEAST;
  for (int i = 0; i < PASSES && r.blocks; i++) {
    uint64_t start = mi_host_clock_ns();
    mi_pool_run(e->pool, read_blocks, blocks_to_read, &r, sizeof r);
    uint64_t ns = mi_host_clock_ns() - start;
    double rate = (double)r.total * BLOCK * sizeof *r.words / (double)(ns ? ns : 1);
    best = rate > best ? rate : best;
  }
  return best;
}

/* Whole Gop/s are exact enough; what is no number counts as not given. */
static double given_peak(void)
{
  const char *p = getenv("MICC_PEAK_GOPS");
  double value = 0;

  for (; p && *p >= '0' && *p <= '9' && value < 1e9; p++)
    value = value * 10 + (*p - '0');
  return p && (!*p || *p == '.') ? value : 0;
}

MiLimits mi_limits_find(const MiEngine *e)
{
  return (MiLimits){read_rate(e), given_peak()};
}
