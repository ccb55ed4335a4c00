/* mi_formats.h - what mi_array.c knows of each kind of file. Texts of errors begin with "it" or "its". */
#ifndef MI_FORMATS_H
#define MI_FORMATS_H

#include "mi_elem.h"

typedef struct {
  const uint8_t *bytes;
  size_t n;
} MiBytes;

/* Element i of the array; false: the type does not hold the number. */
bool mi_array_set(MiArray *a, uint64_t i, long double x, MiOut *why);

/* Whether a file of that shape fills the array: the same dimensions, those of 1 left out, or one plain list. */
bool mi_array_fits(const MiArray *a, const MiArray *file, MiOut *why);

/* ---- mi_npy.c */

typedef struct {
  MiArray array; /* data: in the file's bytes, not aligned */
  bool fortran;  /* the first dimension lies side by side */
} MiNpy;

bool mi_npy_is(MiBytes in);
bool mi_npy_open(MiBytes in, MiNpy *out, MiOut *why);
bool mi_npy_read(MiBytes in, MiArray *a, MiOut *why);
void mi_npy_write(const MiArray *a, MiOut *out);

/* ---- mi_json.c */

bool mi_json_is(MiBytes in); /* nothing but what JSON of numbers is made of */
bool mi_json_read(MiBytes in, MiArray *a, MiOut *why);

#endif
