/* mi_check.h - is this image well formed? */
#ifndef MI_CHECK_H
#define MI_CHECK_H

#include "mi_image.h"
#include "mi_out.h"

#include <stdbool.h>

/* Checks an image of which `bytes` bytes are readable (UINT64_MAX: trust its own size, as a program
 * does that carries its image). After true, walking the image stays inside it, and every bind inside
 * its space. Otherwise `why` gets one line. */
bool mi_check_image(const MiImage *image, uint64_t bytes, MiOut *why);

#endif
