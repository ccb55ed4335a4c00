/* mi_pool.h - a fork-join pool for short parallel regions, thousands of them a second.
 *
 * A run has a share for each thread. It hands out the iterations 0 <= i < length of every share in contiguous ranges,
 * each exactly once, and returns when all are done. The calling thread is thread 0 and works too. */
#ifndef MI_POOL_H
#define MI_POOL_H

#include <stddef.h>
#include <stdint.h>

enum { MI_POOL_MAX = 1024 };

typedef struct MiPool MiPool;

/* Iterations lo <= i < hi of one of n shares, for a thread to do. */
typedef struct {
  unsigned thread, share, n_shares;
  int64_t lo, hi;
} MiPoolPiece;

typedef void MiPoolWork(void *job, const MiPoolPiece *piece);

/* How many iterations a share has, below 2^31. Any thread may ask, at any time of the run. */
typedef int64_t MiPoolLength(const void *job, unsigned share, unsigned n_shares);

/* Where a share of so many iterations begins that are cut evenly; share may be n_shares, for the end. */
static inline int64_t mi_pool_begin(int64_t total, unsigned share, unsigned n_shares)
{
  return (int64_t)((uint64_t)total * share / n_shares);
}

/* Memory for a pool of so many threads; 64-byte aligned, zeroed. */
size_t mi_pool_bytes(unsigned n_threads);

/* Starts n_threads - 1 workers. NULL if the system gives no more threads; errno says why. */
MiPool *mi_pool_start(void *memory, unsigned n_threads);

/* Results must not depend on how shares are cut, nor on their number. */
void mi_pool_run(MiPool *p, MiPoolWork *work, MiPoolLength *length, void *job);

/* Ends the workers; the memory is the caller's again. */
void mi_pool_stop(MiPool *p);

#endif
