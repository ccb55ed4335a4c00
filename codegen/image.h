/* image.h - a program as one flat block of bytes: what runtime-min/mi_image.h describes. */
#ifndef MICC_IMAGE_H
#define MICC_IMAGE_H

#include "ir/program.h"
#include "runtime-min/mi_image.h"

typedef struct {
  const char *about;        /* "key: value" lines */
  const uint8_t *tokenizer; /* see frontend/tokenizer; may be NULL */
  uint64_t tokenizer_bytes;
} ImageParts;

typedef struct {
  const Program *prog; /* the first: its weights are those of all */
  const uint8_t *head; /* everything before the weights */
  uint64_t head_bytes; /* whole pages */
  uint64_t bytes;      /* of the image */
} Image;

/* Builds what stands before the weights, in `a`, from the programs of one module, one for each level in rising
 * order. Kernels are numbered through: those of the first program, then those of the second, ... Fails if the contract's numbers are too
 * small for the plan. */
bool image_build(Arena *a, Program *const *programs, unsigned n, const ImageParts *parts, Image *out, Err *e);

/* Gives the image to `sink` piece by piece, weights laid out on the way: memory use does not grow with
 * the model. Stops and returns false as soon as sink does. */
typedef bool ImageSink(void *ctx, const void *bytes, uint64_t n);
bool image_write(const Image *im, ImageSink *sink, void *ctx);

#endif
