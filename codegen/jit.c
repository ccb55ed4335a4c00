/* jit.c - see jit.h. */
#include "codegen/jit.h"

#include "codegen/c.h"

bool jit_llvm(Jit *j, const Kernel *const *kernels, uint32_t n, const LlvmOptions *o, Err *e)
{
  *j = (Jit){0};
#if MICC_HAVE_LLVM
  j->llvm = llvm_jit(kernels, n, o, e);
  j->kernels = j->llvm ? llvm_jit_table(j->llvm) : NULL;
  return j->llvm != NULL;
#else
  (void)kernels, (void)n, (void)o;
  return fail(e, "this micc was built without LLVM: use --backend=tcc");
#endif
}

bool jit_tcc(Jit *j, const Kernel *const *kernels, uint32_t n, Arena *a, Err *e)
{
  *j = (Jit){0};
#if MICC_HAVE_TCC
  Text t = {.arena = a};
  if (!c_print_kernels(kernels, n, &t, e))
    return false;
  j->tcc = tcc_jit(t.data, e);
  j->kernels = j->tcc ? tcc_jit_symbol(j->tcc, "mi_kernels") : NULL;
  return j->tcc != NULL;
#else
  (void)kernels, (void)n, (void)a;
  return fail(e, "this micc was built without libtcc");
#endif
}

void jit_free(Jit *j)
{
#if MICC_HAVE_LLVM
  if (j->llvm)
    llvm_jit_free(j->llvm);
#endif
#if MICC_HAVE_TCC
  if (j->tcc)
    tcc_jit_free(j->tcc);
#endif
  *j = (Jit){0};
}
