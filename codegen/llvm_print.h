/* llvm_print.h - shared by the files of the LLVM printer; see llvm_print.c. */
#ifndef MICC_LLVM_PRINT_H
#define MICC_LLVM_PRINT_H

#include "codegen/target.h"
#include "ir/kernel.h"

#include <llvm-c/Core.h>

enum { LLVM_MAX_DEPTH = 64, LLVM_MAX_BYTES = 2 * K_MAX_LANES };

/* An open loop or if. */
typedef struct {
  KVal open;
  LLVMBasicBlockRef header; /* loop */
  LLVMBasicBlockRef after;  /* loop: what follows; if: the other branch */
  LLVMBasicBlockRef join;   /* if with else: what follows */
} LlvmFrame;

typedef struct {
  LLVMContextRef ctx;
  LLVMModuleRef module;
  LLVMBuilderRef b;
  const Target *target;
  Err *e;
  /* of the kernel that is being printed */
  const Kernel *k;
  KVal at;           /* the node */
  LLVMValueRef fn;   /* parameters as the kernel's, then args, lo, hi */
  LLVMValueRef grid; /* the iteration */
  LLVMValueRef *val; /* val[v]: the value of node v */
  LlvmFrame frame[LLVM_MAX_DEPTH];
  uint32_t depth;
} Printer;

/* Adds a function with MiKernel's signature; NULL on failure. */
LLVMValueRef llvm_print_kernel(Printer *p, const Kernel *k);

/* ---- types: f16 and bf16 are held as i16, since all that is done with them is to move and to convert them */
LLVMTypeRef llvm_type(const Printer *p, KType t);
LLVMTypeRef llvm_lanes(LLVMTypeRef elem, unsigned lanes);

/* ---- values */
static inline LLVMValueRef llvm_in(const Printer *p, uint32_t i)
{
  return p->val[kernel_in(p->k, p->at, i)];
}
static inline KType llvm_in_type(const Printer *p, uint32_t i)
{
  return kernel_node(p->k, kernel_in(p->k, p->at, i))->type;
}
LLVMValueRef llvm_const(const Printer *p, KType t, int64_t i);
LLVMValueRef llvm_const_real(const Printer *p, KType t, double f);
LLVMValueRef llvm_intrinsic(const Printer *p, const char *name, LLVMTypeRef overload, LLVMValueRef *in,
                            unsigned n);
/* lanes first, first + stride, ... of v; one lane gives a scalar */
LLVMValueRef llvm_lanes_of(const Printer *p, LLVMValueRef v, unsigned first, unsigned stride, unsigned n);
/* v's lanes, then more's (scalars are single lanes) */
LLVMValueRef llvm_concat(const Printer *p, LLVMValueRef v, unsigned have, LLVMValueRef more, unsigned n);
LLVMValueRef llvm_cast(const Printer *p, LLVMValueRef v, KType from, KElem to); /* f16: needs F16C */
LLVMValueRef llvm_cast_sat(const Printer *p, LLVMValueRef v, KType from, KElem to);

/* ---- the ops: value of node p->at (llvm_ops.c; llvm_dot.c has the integer products) */
bool llvm_print_op(Printer *p, const KNode *n);
LLVMValueRef llvm_dot(Printer *p, const KNode *n);
LLVMValueRef llvm_widen(Printer *p, const KNode *n);

#endif
