/* gguf.h - the GGUF reader: versions 2 and 3, little-endian. */
#ifndef MICC_GGUF_H
#define MICC_GGUF_H

#include "frontend/model.h"

/* Limits that a file is held to before anything is allocated for it. */
enum {
  GGUF_KEYS_MAX = 65536,
  GGUF_TENSORS_MAX = 262144,
  GGUF_KEY_BYTES_MAX = 65535, /* the specification's */
  GGUF_NAME_BYTES_MAX = 255,  /* the specification has 64, some writers have more */
  GGUF_DIMS_MAX = 4,
  GGUF_ITEMS_MAX = 16 << 20, /* of one array; the largest vocabularies have 2^18 */
  GGUF_ALIGNMENT_MIN = 8,
  GGUF_ALIGNMENT_MAX = 1 << 20,
};

typedef struct {
  const char *name;
  uint32_t bytes; /* of a number; 0 for strings and arrays */
} MetaTypeInfo;
extern const MetaTypeInfo meta_type_info[META_TYPE_COUNT];

/* Checks a whole file that lies in memory and returns what is in it; `data` must live as
 * long as the model. `path` is for messages. On failure NULL, with one line in *e. */
Model *gguf_parse(const uint8_t *data, uint64_t bytes, const char *path, Err *e);

#endif
