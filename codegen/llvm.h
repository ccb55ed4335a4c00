/* llvm.h - prints kernels as LLVM IR, and makes machine code of it.
 *
 * The object holds one constant array, `mi_kernels`: pointers to the kernels in the order given, each with
 * the signature MiKernel of runtime-min/mi_image.h. It needs no symbol from elsewhere. Same kernels and
 * options: same bytes. Everything here may be called from several threads at once. */
#ifndef MICC_LLVM_H
#define MICC_LLVM_H

#include "codegen/library.h"
#include "codegen/target.h"
#include "ir/kernel.h"
#include "runtime-min/mi_image.h"

typedef struct {
  uint32_t kernels;
  double build_ms, optimize_ms, emit_ms;
} LlvmTimes;

typedef struct {
  const Target *target;         /* a row with a triple; of several, the first */
  const Target *const *targets; /* of each kernel, all of one triple; NULL: `target` for all */
  int opt_level;                /* 0 .. 3 */
  LlvmTimes *times;             /* added to, if not NULL */
  const Library *library;       /* not NULL: in place of the array, NAME_run(); position independent */
} LlvmOptions;

typedef enum { LLVM_OBJ, LLVM_ASM, LLVM_IR } LlvmOutput; /* IR: after optimisation, as text */

/* The kernels must have passed kernel_verify(), and pass_legalize() for the target. The bytes live in `a`;
 * text ends with a zero that n_bytes does not count. */
bool llvm_emit(const Kernel *const *kernels, uint32_t n, const LlvmOptions *o, LlvmOutput what, Arena *a,
               const void **bytes, uint64_t *n_bytes, Err *e);

/* The same in this process's memory, ready to be called; NULL on failure. */
typedef struct LlvmJit LlvmJit;
LlvmJit *llvm_jit(const Kernel *const *kernels, uint32_t n, const LlvmOptions *o, Err *e);
MiKernel *const *llvm_jit_table(const LlvmJit *jit);
void llvm_jit_free(LlvmJit *jit);

#endif
