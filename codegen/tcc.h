/* tcc.h - compiles C in memory, in milliseconds, through libtcc. */
#ifndef MICC_TCC_H
#define MICC_TCC_H

#include "ir/base.h"

typedef struct TccJit TccJit;

/* Compiles one C file; NULL with the compiler's first complaints in *e. What c_print_kernels() prints
 * needs no files on this machine; other source finds libtcc's headers and libtcc1.a in MICC_TCC_DIR
 * (of the build) or lib/micc/tcc (of the install tree).
 * libtcc 0.9.27 compiles one file at a time: calls are serialised by a lock. */
TccJit *tcc_jit(const char *c_source, Err *e);

/* Of a function or variable, NULL if there is none; lives until tcc_jit_free(). */
void *tcc_jit_symbol(TccJit *jit, const char *name);
void tcc_jit_free(TccJit *jit);

#endif
