/* mi_main.h - the command line of every compiled program. */
#ifndef MI_MAIN_H
#define MI_MAIN_H

#include "mi_image.h"

/* Reads a prompt, writes its continuation. Returns the exit status: 0; 1: it failed while running;
 * 2: wrong options; 130: interrupted. Messages go to standard error, as "NAME: ...". */
int mi_main(const MiImage *image, MiKernel *const *kernels, int argc, char **argv);

#endif
