/* mi_start.c - main() of a program that carries its image: runtime-min/README.md, "How a program is put
 * together".
 *
 * The image is not known when this is compiled and linked. A page in its own section stands for it; the
 * packager places that section far above the code, writes the image over it, and lets the segment grow.
 * So the compiler must believe nothing about the page: neither what it holds nor that its address fits
 * 32 bits. Hence the pointer, which is data and volatile. */
#include "../mi_main.h"

#ifndef MI_MAIN
#define MI_MAIN mi_main
#endif

extern MiKernel *const mi_kernels[];

typedef union {
  char page[MI_PAGE];
  MiImage image;
} MiImagePage;

__attribute__((section(".mi_image"), aligned(4096), used)) const MiImagePage mi_image_header = {{0}};

static const MiImage *const volatile image = &mi_image_header.image;

int main(int argc, char **argv)
{
  return MI_MAIN(image, mi_kernels, argc, argv);
}
