/* c_print.h - shared by the files of the C printer: c.c (the file, its kernels), c_ops.c (what each op prints). */
#ifndef MICC_C_PRINT_H
#define MICC_C_PRINT_H

#include "ir/kernel.h"

enum { C_MAX_OPEN = 64 }; /* the verifier's depth of loops and ifs */

typedef struct {
  const Kernel *k;
  Text *out;
  bool *helpers;  /* those that are called */
  uint32_t *uses; /* of each value */
  int depth;      /* of indentation */
  KVal open[C_MAX_OPEN];
  int n_open;
} CPrinter;

static inline const KNode *c_node(const CPrinter *p, KVal v)
{
  return kernel_node(p->k, v);
}

static inline const KNode *c_input(const CPrinter *p, KVal v, uint32_t i)
{
  return c_node(p, kernel_in(p->k, v, i));
}

/* Prints a value or statement; false if its op has no row. */
bool c_print_op(CPrinter *p, KVal v);

#endif
