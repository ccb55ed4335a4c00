/* mi_elem.h - elements of arrays, one at a time, as numbers. */
#ifndef MI_ELEM_H
#define MI_ELEM_H

#include "mi_array.h"

typedef struct {
  const char *name, *npy; /* npy: numpy's name, without its byte order */
  uint32_t bytes;
  bool is_float, is_signed;
} MiElemInfo;
extern const MiElemInfo mi_elem_info[MI_ELEM_COUNT];

long double mi_elem_get(MiElem e, const uint8_t *p);

/* Floats are rounded to nearest, ties to even; integers must hold the number. */
void mi_elem_set(MiElem e, uint8_t *p, long double x);

/* Whether the type has the number, but for rounding of floats. */
bool mi_elem_holds(MiElem e, long double x);

#endif
