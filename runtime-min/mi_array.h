/* mi_array.h - arrays in files: .npy, JSON, raw bytes; what programs of tensor models read and write.
 *
 * Sources: the NPY format, versions 1.0 to 3.0 (numpy.lib.format); RFC 8259 for JSON, which here also knows NaN,
 * Infinity and -Infinity, as Python's json does. */
#ifndef MI_ARRAY_H
#define MI_ARRAY_H

#include "mi_out.h"

#include <stdbool.h>
#include <stdint.h>

/* Element types, as an image numbers them. The last are codes of one byte each, which files hold as u8. */
typedef enum {
  MI_ELEM_F32,
  MI_ELEM_F16,
  MI_ELEM_BF16, /* files hold f32: numpy has no such type */
  MI_ELEM_F64,
  MI_ELEM_I8,
  MI_ELEM_U8,
  MI_ELEM_I16,
  MI_ELEM_U16,
  MI_ELEM_I32,
  MI_ELEM_U32,
  MI_ELEM_I64,
  MI_ELEM_U64,
  MI_ELEM_BOOL,
  MI_ELEM_CODE,
  MI_ELEM_COUNT
} MiElem;

enum { MI_MAX_RANK = 8 };

/* A row-major array; `data` holds `count` elements. */
typedef struct {
  MiElem elem;
  uint32_t rank;
  uint64_t dim[MI_MAX_RANK];
  uint64_t count;
  void *data;
} MiArray;

typedef enum { MI_FILE_NPY, MI_FILE_JSON, MI_FILE_RAW } MiFileKind;

const char *mi_elem_name(MiElem e); /* "f32" */
uint32_t mi_elem_bytes(MiElem e);
uint64_t mi_array_bytes(const MiArray *a);
void mi_array_type(const MiArray *a, MiOut *out); /* f32[1,3,240,320] */

/* By ending: .npy, .json; all else is raw. */
MiFileKind mi_array_kind(const char *path);

/* Fills a->data, whose type and shape are given, from a file ("-": standard input).
 *   numpy's      what begins as such; of any type and order whose numbers the array's type has, but for rounding of floats
 *   JSON         what is named .json, and standard input that is text: nested lists
 *   raw bytes    all else, as many as the array has
 * Shapes agree if they do without dimensions of 1; one plain list fills any shape. False: `why` gets one line. */
bool mi_array_read(const char *path, MiArray *a, MiOut *why);

/* Type and shape of a .npy file; no data. */
bool mi_array_npy(const char *path, MiArray *a, MiOut *why);

/* Writes a file whole or not at all ("-": standard output). */
bool mi_array_write(const char *path, MiFileKind kind, const MiArray *a, MiOut *why);

/* Nested lists. */
void mi_array_json(const MiArray *a, MiOut *out);

/* Element i as a number: integers up to 64 bits and doubles are exact where long double has 64 bits. */
long double mi_array_get(const MiArray *a, uint64_t i);

#endif
