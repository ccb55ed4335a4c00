/* crew.h - many small jobs on a few processes: a job that crashes is a result, and its process is replaced. */
#ifndef CREW_H
#define CREW_H

#include "ir/base.h"

typedef struct {
  unsigned workers, seconds; /* of processes; that a job may take */
  uint32_t jobs;
  size_t result_bytes;
  void (*run)(void *ctx, uint32_t job, void *result);                   /* in a worker; result is zeroed */
  void (*died)(void *ctx, uint32_t job, void *result, const char *why); /* here, after a worker's end */
  void *ctx;
} Crew;

/* The results, one after the other, in memory that all share and that lives as long as the process; NULL if the
 * system has none. */
void *crew_run(const Crew *c);

#endif
