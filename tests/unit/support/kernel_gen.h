/* kernel_gen.h - random kernels that verify, touch only their buffers and have one right answer, to hold
 * a printer against the interpreter.
 *
 *   for (uint64_t seed = 1; seed < 100; seed++) {
 *     Arena a = {0};
 *     KernelGen g = kernel_gen(&a, seed, KERNEL_GEN_ALL);
 *     KernelGenMemory want = kernel_gen_memory(&a, &g), got = kernel_gen_memory(&a, &g);
 *     kernel_eval(g.k, want.buf, g.bytes, g.args, 0, g.grid, &e);
 *     compiled((uint8_t **)got.buf, g.args, 0, g.grid);
 *     cr_expect(kernel_gen_same(&g, &want, &got, &e), "%s", e.text);
 *   }
 *
 * They have nested loops with carries, ifs, vectors of 1 to 64 lanes, every op, overlapping and unaligned
 * accesses, scratch. A NaN has many bits, so that no NaN's bits become an integer or 16-bit float; a float that is
 * cast to an integer fits, or saturates; dot2 does not overflow, and no pair of dot4 passes 32767. */
#ifndef MICC_KERNEL_GEN_H
#define MICC_KERNEL_GEN_H

#include "ir/kernel.h"

enum {
  KERNEL_GEN_F16 = 1, /* f16 values and casts */
  KERNEL_GEN_FMA = 2, /* the fma op */
  KERNEL_GEN_ODD = 4, /* 3 and 24 lanes too */
  KERNEL_GEN_ALL = 7,
  KERNEL_GEN_BUFS = 8
};

typedef struct {
  Kernel *k;
  uint64_t seed;
  int64_t grid; /* iterations to run; each touches memory of its own */
  int32_t args[2];
  uint64_t bytes[KERNEL_GEN_BUFS]; /* of each parameter, scratch too */
} KernelGen;

typedef struct {
  void *buf[KERNEL_GEN_BUFS];
} KernelGenMemory;

KernelGen kernel_gen(Arena *a, uint64_t seed, unsigned features);

/* The same content each time, each buffer 1 byte off alignment. */
KernelGenMemory kernel_gen_memory(Arena *a, const KernelGen *g);

/* Compares what was written: bit by bit, where any NaN equals any other. */
bool kernel_gen_same(const KernelGen *g, const KernelGenMemory *want, const KernelGenMemory *got, Err *e);

#endif
