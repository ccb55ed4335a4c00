/* exec.h - runs a program in this process, on one thread, without an image or the runtime: what `micc verify` and the
 * tests compare with. */
#ifndef MICC_EXEC_H
#define MICC_EXEC_H

#include "codegen/target.h"
#include "ir/program.h"

typedef enum {
  EXEC_LLVM, /* machine code, through ORC */
  EXEC_TCC,  /* what the C printer prints, through libtcc */
  EXEC_EVAL  /* the kernel interpreter: any target's kernels on any machine, every access checked */
} ExecWay;

typedef struct Exec Exec;

/* Lays out the weights and compiles the kernels of a program, lowered for `target`. NULL with a reason, also if this
 * micc was built without what the way needs. */
Exec *exec_open(const Program *p, const Target *target, ExecWay way, Err *e);
void exec_close(Exec *x); /* NULL is fine */

/* A dense program. inputs: one for each Io of the entry, of its type. outputs: filled, data in `a`. */
bool exec_run(Exec *x, const Tensor *inputs, Tensor *outputs, Arena *a, Err *e);

/* Any program, step by step: where a buffer lies; an entry point, with its three run-time integers (position, tokens,
 * largest logits wanted); states as before the first call, which are zeros. */
void *exec_data(const Exec *x, uint32_t buffer);
bool exec_entry(Exec *x, uint32_t entry, const int32_t arg[3], Err *e);
void exec_reset(Exec *x);

#endif
