/* mapping.h - a file that is read through memory: opened, checked and mapped read-only, and its hash. */
#ifndef MICC_MAPPING_H
#define MICC_MAPPING_H

#include "ir/base.h"

typedef struct {
  const uint8_t *data;
  uint64_t bytes;
} Mapping;

/* False with one line in *e: "file: what is wrong". Empty files, folders and devices are refused. */
bool mapping_open(const char *path, Mapping *out, Err *e);
void mapping_close(Mapping m);

/* SHA-256 in lower-case hex; "" when libcrypto has no memory. */
void mapping_sha256(Mapping m, char out[65]);

const char *mapping_shown_path(const char *path); /* a long path's end, so that messages fit an Err */

#endif
