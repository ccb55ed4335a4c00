/* dense_check.h - dense graphs lowered and run, against their oracle: through the kernel interpreter, C or LLVM.
 *
 * Data are small numbers; of names that begin with `idx`, integers from -1 to 5; with `pos`, above 0; with `code`, all that
 * the type has. To look at one case: OP=name, SEED=number, VERBOSE=1 (names each), GRAPH=1 (prints each). */
#ifndef MICC_TESTS_DENSE_CHECK_H
#define MICC_TESTS_DENSE_CHECK_H

#include "codegen/exec.h"
#include "tests/unit/support/make.h"

typedef struct {
  void (*make)(Make *b);
  Op op; /* OP_none: whatever make() does */
  OpTakes takes;
  uint32_t seeds; /* graphs of each type */
} DenseOps;

/* As many, or fewer where sanitizers, ten times as slow, look for what the first graphs show already. */
uint32_t dense_check_seeds(uint32_t n);
void dense_check_module(Arena *a, Module *m, uint64_t seed, const char *cpu, ExecWay way, const char *what);
void dense_check_one(const DenseOps *f, DType t, uint64_t seed, const char *cpu, ExecWay way);
/* So many graphs of one type, for a target that may be no row of the table. */
void dense_check_target(const DenseOps *f, DType t, uint32_t seeds, const Target *target, ExecWay way);
/* Its seeds for each type that the op takes, */
void dense_check_types(const DenseOps *f, const char *cpu, ExecWay way);
/* or so many for one type. */
void dense_check_type(const DenseOps *f, DType t, uint32_t seeds, const char *cpu, ExecWay way);

#endif
