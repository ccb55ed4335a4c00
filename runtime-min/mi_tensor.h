/* mi_tensor.h - the command line of a program made of a model with tensors in and out. */
#ifndef MI_TENSOR_H
#define MI_TENSOR_H

#include "mi_image.h"

/* Reads the inputs from files, runs the model, writes the outputs. Returns the exit status: 0; 1: it failed while
 * running; 2: wrong options. Messages go to standard error, as "NAME: ...". */
int mi_tensor_main(const MiImage *image, MiKernel *const *kernels, int argc, char **argv);

#endif
