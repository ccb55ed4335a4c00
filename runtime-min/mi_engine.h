/* mi_engine.h - runs the entry points of an image. Allocates when it is opened, and never after. */
#ifndef MI_ENGINE_H
#define MI_ENGINE_H

#include "mi_image.h"
#include "mi_out.h"
#include "mi_pool.h"

/* What a launch cost so far. */
typedef struct {
  uint64_t calls, ns;
  double bytes, ops;
} MiProfileRow;

typedef struct {
  const MiImage *image;
  const MiEntry *entries;
  const MiGrid *grids;
  const MiPart *parts;
  MiKernel *const *kernels;
  MiPool *pool;
  unsigned n_threads;
  uint32_t top;    /* how many of the largest logits the caller looks at; 0: all. Others may be -inf */
  uint32_t level;  /* which of the image's levels runs */
  uint8_t *memory; /* one mapping: states, arena, scratch and pointers of each thread, profile, pool */
  size_t memory_bytes;
  uint8_t *arena, *state;
  uint8_t **pointers;    /* [thread][bind] */
  MiProfileRow *profile; /* one for each part; while `profiling`, a launch's is its first's */
  bool profiling;
} MiEngine;

/* The level that runs here: the last that the processor can, or the one that the environment variable MICC_CPU names.
 * -1: none; `why` gets one line. The image must have passed mi_check_image(). */
int mi_engine_level(const MiImage *image, MiOut *why);

/* Checks the image (`bytes` of it can be read; UINT64_MAX: as many as it says), maps memory, resolves binds,
 * starts n_threads - 1 workers. On failure `why` gets one line; closing is possible, not needed. */
bool mi_engine_open(MiEngine *e, const MiImage *image, uint64_t bytes, MiKernel *const *kernels,
                    unsigned n_threads, MiOut *why);
void mi_engine_close(MiEngine *e);

/* Index of an entry point; -1: the image has none of this name. */
int mi_engine_entry(const MiEngine *e, const char *name);

/* Runs `n` tokens of which the first has position `pos`. States then hold pos + n tokens. False, and nothing
 * done, if n or pos is out of range. Does not check that ids are below the vocabulary's size. An entry without tokens,
 * whose inputs stand in the arena: NULL, 1, 0. */
bool mi_engine_run(MiEngine *e, int entry, const int32_t *tokens, uint32_t n, uint32_t pos);

/* float[n_vocab], after an entry that has logits; valid, and free to be changed, until the next run. */
float *mi_engine_logits(const MiEngine *e);

/* Zeroes the states: the next run starts a new sequence at position 0. */
void mi_engine_reset(MiEngine *e);

/* Memory of its own: all but the image. */
size_t mi_engine_memory_bytes(const MiEngine *e);

#endif
