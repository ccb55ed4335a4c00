/* jit.h - kernels as functions of this process, through LLVM or libtcc: whichever this micc was built with. */
#ifndef MICC_JIT_H
#define MICC_JIT_H

#include "codegen/llvm.h"
#include "codegen/tcc.h"

typedef struct {
  MiKernel *const *kernels; /* in the order given */
  LlvmJit *llvm;
  TccJit *tcc;
} Jit;

/* False with a reason, also if this micc lacks what is asked. The printed C lives in `a`. */
bool jit_llvm(Jit *j, const Kernel *const *kernels, uint32_t n, const LlvmOptions *o, Err *e);
bool jit_tcc(Jit *j, const Kernel *const *kernels, uint32_t n, Arena *a, Err *e);
void jit_free(Jit *j); /* also after a failure, and of zeros */

#endif
