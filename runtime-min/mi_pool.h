/* mi_pool.h - a fork-join pool for short parallel regions, thousands of them a second.
 *
 * A run has a share for each thread. It hands out the iterations 0 <= i < length of every share in contiguous ranges,
 * each exactly once, and returns when all are done. The calling thread is thread 0 and works too. */
#ifndef MI_POOL_H
#define MI_POOL_H

#include <stddef.h>
#include <stdint.h>

enum {
  MI_POOL_MAX = 1024, /* threads */
  MI_POOL_JOB = 40,   /* bytes that a run is told; with what goes beside them, a cache line */
};

typedef struct MiPool MiPool;

/* Iterations lo <= i < hi of one of n shares, for a thread to do. */
typedef struct {
  unsigned thread, share, n_shares;
  int64_t lo, hi;
} MiPoolPiece;

/* `job` is a copy, 8-byte aligned. */
typedef void MiPoolWork(const void *job, const MiPoolPiece *piece);

/* How many iterations a share has, below 2^31. Any thread may ask, and one that is late even after the run: only the job's
 * own bytes, and what never changes, may be asked for it. */
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

/* Results must not depend on how shares are cut, nor on their number. The job has at most MI_POOL_JOB bytes. */
void mi_pool_run(MiPool *p, MiPoolWork *work, MiPoolLength *length, const void *job, size_t bytes);

/* Ends the workers; the memory is the caller's again. */
void mi_pool_stop(MiPool *p);

#endif
