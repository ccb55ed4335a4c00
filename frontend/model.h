/* model.h - a model file once it is read: metadata and tensors, whatever the format.
 * Everything points into the arena or into the file's read-only mapping. */
#ifndef MICC_MODEL_H
#define MICC_MODEL_H

#include "ir/dtype.h"

enum { MODEL_MAX_DIMS = 8 };

/* Types of metadata values: GGUF's numbering. */
typedef enum {
  META_U8,
  META_I8,
  META_U16,
  META_I16,
  META_U32,
  META_I32,
  META_F32,
  META_BOOL,
  META_STR,
  META_ARRAY,
  META_U64,
  META_I64,
  META_F64,
  META_TYPE_COUNT
} MetaType;

typedef struct {
  const char *data; /* not zero-terminated */
  uint64_t len;
} Str;

typedef struct {
  const char *key; /* zero-terminated, in the arena */
  MetaType type;
  MetaType item_type; /* of an array's items (never META_ARRAY: nesting is refused) */
  uint64_t count;     /* items of an array, else 1 */
  const uint8_t *raw; /* the value(s) in the file; numbers are unaligned little-endian */
  const Str *strings; /* META_STR, or an array of strings: `count` of them */
} Meta;

typedef struct {
  const char *name; /* zero-terminated, in the arena */
  DType dtype;
  uint32_t rank;
  uint64_t dim[MODEL_MAX_DIMS]; /* outermost first (GGUF's order reversed): [rows][columns] */
  const void *data;             /* in the mapping */
  uint64_t bytes;
  uint64_t file_offset;
} FileTensor;

typedef struct {
  Arena arena;
  const char *path;
  const char *format; /* "GGUF v3" */
  const uint8_t *map; /* the whole file, read-only */
  uint64_t map_bytes;
  uint32_t version;
  uint64_t alignment;
  uint64_t data_offset; /* GGUF: where tensor data begins */
  ARRAY(Meta) metas;
  ARRAY(FileTensor) tensors;
  char sha256[65]; /* of the file, lower-case hex; filled by model_hash() */
  bool mapped;     /* model_close() unmaps `map` */
} Model;

/* Opens, maps and checks a model file; the format is found by its magic bytes.
 * On failure returns NULL with a line in *e: "file:0xoffset: what is wrong". */
Model *model_open(const char *path, Err *e);
void model_close(Model *m);
void model_hash(Model *m);
const char *model_shown_path(const char *path); /* a long path's end, so that messages fit an Err */

const Meta *model_meta(const Model *m, const char *key);          /* NULL if absent */
const FileTensor *model_tensor(const Model *m, const char *name); /* NULL if absent */

/* A scalar (or item `i` of an array) as that type; false if absent, of another kind
 * (text/number), or out of range. Integers convert from any integer type, bool too. */
bool meta_u64(const Meta *v, uint64_t i, uint64_t *out);
bool meta_i64(const Meta *v, uint64_t i, int64_t *out);
bool meta_f64(const Meta *v, uint64_t i, double *out);
bool meta_str(const Meta *v, uint64_t i, Str *out);
bool str_eq(Str s, const char *z);

#endif
