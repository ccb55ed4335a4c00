/* mi_pool.h - a fork-join pool for short parallel regions, thousands of them a second.
 *
 * A run hands out the iterations 0 <= i < total in contiguous ranges, each exactly once, and returns
 * when all are done. The calling thread is thread 0 and works too. */
#ifndef MI_POOL_H
#define MI_POOL_H

#include <stddef.h>
#include <stdint.h>

enum { MI_POOL_MAX = 1024 };

typedef struct MiPool MiPool;
typedef void MiPoolWork(void *job, unsigned thread, int64_t lo, int64_t hi);

/* Memory for a pool of so many threads; 64-byte aligned, zeroed. */
size_t mi_pool_bytes(unsigned n_threads);

/* Starts n_threads - 1 workers. NULL if the system gives no more threads; errno says why. */
MiPool *mi_pool_start(void *memory, unsigned n_threads);

/* total < 2^31. Results must not depend on how the range is cut. */
void mi_pool_run(MiPool *p, MiPoolWork *work, void *job, int64_t total);

/* Ends the workers; the memory is the caller's again. */
void mi_pool_stop(MiPool *p);

#endif
