/* llvm_entry.h - the function of a library, in LLVM IR. */
#ifndef MICC_LLVM_ENTRY_H
#define MICC_LLVM_ENTRY_H

#include "codegen/library.h"

#include <llvm-c/Core.h>

/* Adds NAME_run() to a module that has the program's kernels as functions, in their order; weights are the hidden
 * symbol NAME_weights of another object. */
void llvm_print_entry(LLVMContextRef ctx, LLVMModuleRef module, const Library *l, LLVMValueRef *kernels,
                      Arena *a);

#endif
