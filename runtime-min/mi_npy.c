/* mi_npy.c - numpy's files. Source: numpy.lib.format, versions 1.0 to 3.0. */
#include "mi_formats.h"

#include <string.h>

bool mi_npy_is(MiBytes in)
{
  return in.n >= 8 && !memcmp(in.bytes, "\x93NUMPY", 6);
}

/* ---- the header: a Python dictionary */

typedef struct {
  const char *at, *end;
} Header;

/* What stands behind 'key':, NULL if there is none. */
static const char *value_of(const Header *h, const char *key)
{
  size_t n = strlen(key);

  for (const char *p = h->at; p + n + 2 < h->end; p++)
    if ((*p == '\'' || *p == '"') && !memcmp(p + 1, key, n) && p[n + 1] == *p) {
      for (p += n + 2; p < h->end && (*p == ' ' || *p == ':'); p++)
        ;
      return p < h->end ? p : NULL;
    }
  return NULL;
}

/* A dimension, and the comma behind it. */
static const char *read_dim(const char *p, const char *end, MiArray *a)
{
  uint64_t n = 0;

  if (*p < '0' || *p > '9' || a->rank == MI_MAX_RANK)
    return NULL;
  for (; p < end && *p >= '0' && *p <= '9'; p++)
    if (n > UINT32_MAX)
      return NULL;
    else
      n = n * 10 + (uint64_t)(*p - '0');
  if (n && a->count > UINT64_MAX / 16 / n)
    return NULL;
  a->count *= a->dim[a->rank++] = n;
  p += p < end && *p == 'L'; /* as Python 2 wrote it */
  while (p < end && *p == ' ')
    p++;
  if (p == end || (*p != ',' && *p != ')'))
    return NULL;
  p += *p == ',';
  while (p < end && *p == ' ')
    p++;
  return p;
}

static bool read_shape(const char *p, const char *end, MiArray *a)
{
  a->rank = 0;
  a->count = 1;
  if (*p != '(')
    return false;
  for (p++; p < end && *p == ' ';)
    p++;
  while (p && p < end && *p != ')')
    p = read_dim(p, end, a);
  return p && p < end;
}

static int read_elem(const char *p, const char *end)
{
  if (end - p < 5 || (*p != '\'' && *p != '"') || !memchr("<|=", p[1], 3))
    return -1;
  for (int e = 0; e < MI_ELEM_CODE; e++)
    if (e != MI_ELEM_BF16 && !memcmp(p + 2, mi_elem_info[e].npy, 2) && p[4] == *p)
      return e;
  return -1;
}

static bool read_header(const Header *h, MiNpy *out, MiOut *why)
{
  const char *descr = value_of(h, "descr"), *order = value_of(h, "fortran_order"),
             *dims = value_of(h, "shape");
  int elem = descr ? read_elem(descr, h->end) : -1;

  if (elem < 0) {
    mi_out_text(why, "its .npy header names no type that is known here (little-endian numbers)");
    return false;
  }
  if (!order || !dims || !read_shape(dims, h->end, &out->array)) {
    mi_out_text(why, "its .npy header states no shape that is possible here");
    return false;
  }
  out->array.elem = (MiElem)elem;
  out->fortran = *order == 'T';
  return true;
}

/* Where the header's text begins; 0: not in such a file. */
static uint64_t header_start(MiBytes in, uint64_t *n)
{
  const uint8_t *b = in.bytes;

  if (b[6] == 1 && in.n >= 10) {
    *n = (uint64_t)(b[8] | b[9] << 8);
    return 10;
  }
  if ((b[6] == 2 || b[6] == 3) && in.n >= 12) {
    *n = b[8] | (uint64_t)b[9] << 8 | (uint64_t)b[10] << 16 | (uint64_t)b[11] << 24;
    return 12;
  }
  return 0;
}

bool mi_npy_open(MiBytes in, MiNpy *out, MiOut *why)
{
  uint64_t n = 0, start = header_start(in, &n);

  *out = (MiNpy){.fortran = false};
  if (in.bytes[6] < 1 || in.bytes[6] > 3) {
    mi_out_format(why, "it is a .npy file of version %u, not 1 to 3", in.bytes[6]);
    return false;
  }
  if (!start || n > in.n - start) {
    mi_out_text(why, "it is a .npy file that is cut off");
    return false;
  }
  Header h = {(const char *)in.bytes + start, (const char *)in.bytes + start + n};
  if (!read_header(&h, out, why))
    return false;
  if (mi_array_bytes(&out->array) > in.n - start - n) {
    mi_out_text(why, "it is a .npy file that is cut off");
    return false;
  }
  out->array.data = (void *)(uintptr_t)(in.bytes + start + n); /* only read */
  return true;
}

/* ---- elements */

/* The next element's place in the file: `index` counts as the array does, the last dimension fastest. */
static uint64_t next_place(const MiNpy *from, uint64_t *index)
{
  const MiArray *f = &from->array;
  uint64_t at = 0, stride = 1;

  for (uint32_t d = f->rank; d-- > 0 && ++index[d] == f->dim[d];)
    index[d] = 0;
  for (uint32_t d = 0; d < f->rank; d++) {
    at += index[d] * stride;
    stride *= f->dim[d];
  }
  return at;
}

static bool convert(const MiNpy *from, MiArray *a, MiOut *why)
{
  const MiArray *f = &from->array;
  uint64_t index[MI_MAX_RANK] = {0}, at = 0;

  for (uint64_t i = 0; i < a->count; i++) {
    if (!mi_array_set(a, i, mi_array_get(f, at), why))
      return false;
    at = from->fortran ? next_place(from, index) : i + 1;
  }
  return true;
}

bool mi_npy_read(MiBytes in, MiArray *a, MiOut *why)
{
  MiNpy from;

  if (!mi_npy_open(in, &from, why) || !mi_array_fits(a, &from.array, why))
    return false;
  MiElem e = from.array.elem;
  bool same = e == a->elem || (e == MI_ELEM_U8 && a->elem == MI_ELEM_CODE);
  if (!same || from.fortran || e == MI_ELEM_BOOL) /* bools in files may be other than 0 and 1 */
    return convert(&from, a, why);
  if (a->count)
    memcpy(a->data, from.array.data, mi_array_bytes(a));
  return true;
}

/* ---- writing */

static void put_header(const MiArray *a, MiOut *out)
{
  char dict[256];
  MiOut d = {.buf = dict, .cap = sizeof dict, .fd = -1};
  const char *npy = mi_elem_info[a->elem].npy;

  mi_out_format(&d, "{'descr': '%s%s', 'fortran_order': False, 'shape': (", npy[1] == '1' ? "|" : "<", npy);
  for (uint32_t i = 0; i < a->rank; i++)
    mi_out_format(&d, i ? ", %llu" : "%llu", (unsigned long long)a->dim[i]);
  mi_out_text(&d, a->rank == 1 ? ",), }" : "), }");
  while ((10 + d.n + 1) % 64)
    mi_out_text(&d, " ");
  mi_out_text(&d, "\n");
  const uint8_t head[10] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, (uint8_t)d.n, (uint8_t)(d.n >> 8)};
  mi_out_bytes(out, head, sizeof head);
  mi_out_bytes(out, dict, d.n);
}

void mi_npy_write(const MiArray *a, MiOut *out)
{
  put_header(a, out);
  if (a->elem != MI_ELEM_BF16) {
    mi_out_bytes(out, a->data, mi_array_bytes(a));
    return;
  }
  for (uint64_t i = 0; i < a->count; i++) { /* numpy has no such type */
    float f = (float)mi_array_get(a, i);
    mi_out_bytes(out, &f, sizeof f);
  }
}
