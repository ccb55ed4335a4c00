/* c.h - prints kernels as portable C99. */
#ifndef MICC_C_H
#define MICC_C_H

#include "ir/kernel.h"

/* Appends one self-contained C file to *out: it includes <math.h>, <stdint.h> and <string.h> only
 * (nothing if MI_NO_INCLUDES is defined: then it must stand behind their declarations), has a function
 * for each verified kernel in the shape of runtime-min/mi_image.h's MiKernel, and ends with
 *
 *   MiKernel *const mi_kernels[] = {...};
 *   const uint32_t mi_n_kernels = n;
 *
 * Compiles without warnings with -std=c99 -Wall -Wextra -Wpedantic; gives the interpreter's bits with any
 * compiler that keeps to IEEE 754 and does not contract (f16 and fma are printed, and slow).
 * Fails, naming the kernel and the op, where the table has no pattern. */
bool c_print_kernels(const Kernel *const *kernels, uint32_t n, Text *out, Err *e);

/* The same without the array: static functions k_0, k_1 ... alone. */
bool c_print_functions(const Kernel *const *kernels, uint32_t n, Text *out, Err *e);

#endif
