/* mi_array.c - see mi_array.h. */
#define _GNU_SOURCE
#include "mi_array.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
  const char *name, *npy; /* numpy's name of the type, without its byte order */
  uint32_t bytes;
  bool is_float, is_signed;
} elems[MI_ELEM_COUNT] = {
    [MI_ELEM_F32] = {"f32", "f4", 4, true, true},     [MI_ELEM_F16] = {"f16", "f2", 2, true, true},
    [MI_ELEM_BF16] = {"bf16", "f4", 2, true, true},   [MI_ELEM_F64] = {"f64", "f8", 8, true, true},
    [MI_ELEM_I8] = {"i8", "i1", 1, false, true},      [MI_ELEM_U8] = {"u8", "u1", 1, false, false},
    [MI_ELEM_I16] = {"i16", "i2", 2, false, true},    [MI_ELEM_U16] = {"u16", "u2", 2, false, false},
    [MI_ELEM_I32] = {"i32", "i4", 4, false, true},    [MI_ELEM_U32] = {"u32", "u4", 4, false, false},
    [MI_ELEM_I64] = {"i64", "i8", 8, false, true},    [MI_ELEM_U64] = {"u64", "u8", 8, false, false},
    [MI_ELEM_BOOL] = {"bool", "b1", 1, false, false}, [MI_ELEM_CODE] = {"code", "u1", 1, false, false},
};

const char *mi_elem_name(MiElem e)
{
  return elems[e].name;
}

uint32_t mi_elem_bytes(MiElem e)
{
  return elems[e].bytes;
}

uint64_t mi_array_bytes(const MiArray *a)
{
  return a->count * elems[a->elem].bytes;
}

void mi_array_type(const MiArray *a, MiOut *out)
{
  mi_out_format(out, "%s[", elems[a->elem].name);
  for (uint32_t d = 0; d < a->rank; d++)
    mi_out_format(out, d ? ",%llu" : "%llu", (unsigned long long)a->dim[d]);
  mi_out_text(out, "]");
}

MiFileKind mi_array_kind(const char *path)
{
  size_t n = strlen(path);

  if (n > 4 && !strcmp(path + n - 4, ".npy"))
    return MI_FILE_NPY;
  return n > 5 && !strcmp(path + n - 5, ".json") ? MI_FILE_JSON : MI_FILE_RAW;
}

/* ---- single elements */

static float half_to_float(uint16_t h)
{
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, e = h >> 10 & 31, m = h & 1023, bits;
  float f;

  if (e == 0) {
    f = (float)m * 0x1p-24f;
    return sign ? -f : f;
  }
  bits = sign | (e == 31 ? 0x7f800000 : (e + 112) << 23) | m << 13;
  memcpy(&f, &bits, sizeof f);
  return f;
}

/* To nearest, ties to even, in the integers that the bits are. */
static uint16_t float_to_half(float f)
{
  uint32_t bits;

  memcpy(&bits, &f, sizeof bits);
  uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
  bits &= 0x7fffffff;
  if (bits > 0x7f800000)
    return sign | 0x7e00;
  if (bits >= 0x477ff000)
    return sign | 0x7c00;
  if (bits < 0x38800000) /* subnormal: steps of 2^-24 */
    return sign | (uint16_t)lrintf(fabsf(f) * 0x1p24f);
  return sign | (uint16_t)((bits - 0x38000000 + 0xfff + (bits >> 13 & 1)) >> 13);
}

static uint16_t float_to_bf16(float f)
{
  uint32_t bits;

  memcpy(&bits, &f, sizeof bits);
  return (uint16_t)((f != f ? bits | 0x400000 : bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#define READ(type)                                                                                           \
  do {                                                                                                       \
    type x_;                                                                                                 \
    memcpy(&x_, p, sizeof x_);                                                                               \
    return (long double)x_;                                                                                  \
  } while (0)

static long double get(MiElem e, const uint8_t *p)
{
  uint16_t h;

  switch (e) {
  case MI_ELEM_F32: READ(float);
  case MI_ELEM_F64: READ(double);
  case MI_ELEM_F16: memcpy(&h, p, 2); return (long double)half_to_float(h);
  case MI_ELEM_BF16: {
    uint32_t bits;
    float f;
    memcpy(&h, p, 2);
    bits = (uint32_t)h << 16;
    memcpy(&f, &bits, 4);
    return (long double)f;
  }
  case MI_ELEM_I8: READ(int8_t);
  case MI_ELEM_I16: READ(int16_t);
  case MI_ELEM_U16: READ(uint16_t);
  case MI_ELEM_I32: READ(int32_t);
  case MI_ELEM_U32: READ(uint32_t);
  case MI_ELEM_I64: READ(int64_t);
  case MI_ELEM_U64: READ(uint64_t);
  default: return *p;
  }
}

#define WRITE(type)                                                                                          \
  do {                                                                                                       \
    type x_ = (type)x;                                                                                       \
    memcpy(p, &x_, sizeof x_);                                                                               \
    return;                                                                                                  \
  } while (0)

static void set(MiElem e, uint8_t *p, long double x)
{
  uint16_t h;

  switch (e) {
  case MI_ELEM_F32: WRITE(float);
  case MI_ELEM_F64: WRITE(double);
  case MI_ELEM_F16:
    h = float_to_half((float)x);
    memcpy(p, &h, 2);
    return;
  case MI_ELEM_BF16:
    h = float_to_bf16((float)x);
    memcpy(p, &h, 2);
    return;
  case MI_ELEM_I8: WRITE(int8_t);
  case MI_ELEM_I16: WRITE(int16_t);
  case MI_ELEM_U16: WRITE(uint16_t);
  case MI_ELEM_I32: WRITE(int32_t);
  case MI_ELEM_U32: WRITE(uint32_t);
  case MI_ELEM_I64: WRITE(int64_t);
  case MI_ELEM_U64: WRITE(uint64_t);
  case MI_ELEM_BOOL: *p = x != 0; return;
  default: *p = (uint8_t)x;
  }
}

/* Whether the number is one of the type's, but for rounding of floats. */
static bool fits(MiElem e, long double x)
{
  unsigned bits = elems[e].bytes * 8;

  if (elems[e].is_float)
    return true;
  if (e == MI_ELEM_BOOL)
    return x == 0 || x == 1;
  if (x != truncl(x))
    return false;
  long double top = ldexpl(1, (int)bits - elems[e].is_signed);
  return x < top && x >= (elems[e].is_signed ? -top : 0);
}

long double mi_array_get(const MiArray *a, uint64_t i)
{
  return get(a->elem, (const uint8_t *)a->data + i * elems[a->elem].bytes);
}

static bool set_checked(MiArray *a, uint64_t i, long double x, MiOut *why)
{
  if (!fits(a->elem, x)) {
    char text[48];
    snprintf(text, sizeof text, "%.9Lg", x);
    mi_out_format(why, "element %llu is %s, which %s does not hold", (unsigned long long)i, text,
                  elems[a->elem].name);
    return false;
  }
  set(a->elem, (uint8_t *)a->data + i * elems[a->elem].bytes, x);
  return true;
}

/* ---- files, whole in memory */

typedef struct {
  uint8_t *bytes;
  size_t n, mapped; /* mapped: bytes to unmap, else to free */
} Input;

static bool read_stream(int fd, Input *in)
{
  size_t cap = 0;

  for (;;) {
    if (in->n + 4096 > cap) {
      uint8_t *more = realloc(in->bytes, cap = cap ? cap * 2 : 1 << 16);
      if (!more) {
        errno = ENOMEM;
        return false;
      }
      in->bytes = more;
    }
    ssize_t got = read(fd, in->bytes + in->n, cap - in->n);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0)
      return got == 0;
    in->n += (size_t)got;
  }
}

static bool read_fd(int fd, Input *in)
{
  struct stat st;

  if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0) {
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p != MAP_FAILED) {
      *in = (Input){p, (size_t)st.st_size, (size_t)st.st_size};
      return true;
    }
  }
  return read_stream(fd, in);
}

static void release(Input *in)
{
  if (in->mapped)
    munmap(in->bytes, in->mapped);
  else
    free(in->bytes);
}

static bool read_file(const char *path, Input *in, MiOut *why)
{
  bool standard = !strcmp(path, "-");
  int fd = standard ? 0 : open(path, O_RDONLY | O_CLOEXEC);
  bool ok = fd >= 0 && read_fd(fd, in);

  if (!ok)
    mi_out_format(why, "cannot read %s: %s", standard ? "standard input" : path, strerror(errno));
  if (fd > 0)
    close(fd);
  return ok;
}

/* ---- .npy */

typedef struct {
  const char *at, *end;
} Header;

/* The text of the header behind 'key':, NULL if there is none. */
static const char *npy_key(const Header *h, const char *key)
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

static bool npy_shape(const char *p, const char *end, MiArray *a)
{
  a->rank = 0;
  a->count = 1;
  if (*p != '(')
    return false;
  for (p++; p < end && *p != ')';) {
    uint64_t n = 0;
    if (*p < '0' || *p > '9' || a->rank == MI_MAX_RANK)
      return false;
    for (; p < end && *p >= '0' && *p <= '9'; p++)
      if (n > UINT32_MAX)
        return false;
      else
        n = n * 10 + (uint64_t)(*p - '0');
    if (n && a->count > UINT64_MAX / 16 / n)
      return false;
    a->count *= a->dim[a->rank++] = n;
    while (p < end && (*p == ',' || *p == ' ' || *p == 'L'))
      p++;
  }
  return p < end;
}

static int npy_elem(const char *p, const char *end)
{
  if (end - p < 5 || (*p != '\'' && *p != '"') || !strchr("<|=", p[1]))
    return -1;
  for (int e = 0; e < MI_ELEM_CODE; e++)
    if (e != MI_ELEM_BF16 && !memcmp(p + 2, elems[e].npy, 2) && p[4] == *p)
      return e;
  return -1;
}

static bool convert(const uint8_t *from, MiElem elem, MiArray *a, MiOut *why)
{
  if (elem == a->elem || (elem == MI_ELEM_U8 && a->elem == MI_ELEM_CODE)) {
    if (a->count)
      memcpy(a->data, from, mi_array_bytes(a));
    return true;
  }
  for (uint64_t i = 0; i < a->count; i++)
    if (!set_checked(a, i, get(elem, from + i * elems[elem].bytes), why))
      return false;
  return true;
}

/* What a file of numpy's holds: type, shape, and where the elements begin. */
static bool npy_open(const Input *in, MiArray *a, MiOut *why)
{
  uint64_t wide = in->n > 12 && in->bytes[6] > 1, start = wide ? 12 : 10;
  uint64_t n = in->n < start ? 0
               : wide        ? in->bytes[8] | in->bytes[9] << 8 | (uint64_t)in->bytes[10] << 16 |
                            (uint64_t)in->bytes[11] << 24
                      : (uint64_t)(in->bytes[8] | in->bytes[9] << 8);

  if (in->n < start || n > in->n - start) {
    mi_out_text(why, "it is a .npy file that is cut off");
    return false;
  }
  Header h = {(const char *)in->bytes + start, (const char *)in->bytes + start + n};
  const char *descr = npy_key(&h, "descr"), *order = npy_key(&h, "fortran_order"),
             *dims = npy_key(&h, "shape");
  int elem = descr ? npy_elem(descr, h.end) : -1;
  if (elem < 0 || !dims || !npy_shape(dims, h.end, a)) {
    mi_out_text(why, "its .npy header names no type and shape that are known here (little-endian numbers)");
    return false;
  }
  a->elem = (MiElem)elem;
  if (order && *order == 'T' && a->rank > 1) {
    mi_out_text(why, "it is in Fortran order: save numpy.ascontiguousarray() of it");
    return false;
  }
  if (a->count * elems[elem].bytes > in->n - start - n) {
    mi_out_text(why, "it is a .npy file that is cut off");
    return false;
  }
  a->data = in->bytes + start + n;
  return true;
}

static bool read_npy(const Input *in, MiArray *a, MiOut *why)
{
  MiArray from;

  if (!npy_open(in, &from, why))
    return false;
  if (from.count == a->count)
    return convert(from.data, from.elem, a, why);
  mi_out_text(why, "it is ");
  mi_array_type(&from, why);
  mi_out_text(why, ", and ");
  mi_array_type(a, why);
  mi_out_text(why, " is needed");
  return false;
}

/* ---- JSON */

static bool json_space(char c)
{
  return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == ',' || c == '[' || c == ']';
}

static bool json_number(const char *word, long double *x)
{
  static const struct {
    const char *word;
    long double x;
  } names[] = {{"true", 1}, {"false", 0}, {"NaN", NAN}, {"Infinity", INFINITY}, {"-Infinity", -INFINITY}};
  char *end;

  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (!strcmp(word, names[i].word)) {
      *x = names[i].x;
      return true;
    }
  if (!strchr("-0123456789", *word) || strpbrk(word, "xXnN"))
    return false;
  *x = strtold(word, &end);
  return !*end;
}

/* Brackets only have to match: [1,2,3,4] and [[1,2],[3,4]] fill the same array. */
static bool read_json(const Input *in, MiArray *a, MiOut *why)
{
  const char *p = (const char *)in->bytes, *end = p + in->n;
  uint64_t i = 0;
  int64_t depth = 0;
  char word[64];

  for (; p < end && depth >= 0; p++) {
    long double x;
    size_t n = 0;
    depth += (*p == '[') - (*p == ']');
    if (json_space(*p))
      continue;
    for (; p < end && !json_space(*p) && n < sizeof word - 1; p++)
      word[n++] = *p;
    p--;
    word[n] = 0;
    if (!json_number(word, &x)) {
      mi_out_format(why, "'%s' is not a number", word);
      return false;
    }
    if (i < a->count && !set_checked(a, i, x, why))
      return false;
    i++;
  }
  if (depth) {
    mi_out_text(why, "its brackets do not match");
    return false;
  }
  if (i != a->count) {
    mi_out_format(why, "it has %llu numbers, and ", (unsigned long long)i);
    mi_array_type(a, why);
    mi_out_text(why, " is needed");
  }
  return i == a->count;
}

static bool read_raw(const Input *in, MiArray *a, MiOut *why)
{
  if (in->n != mi_array_bytes(a)) {
    mi_out_format(why, "it has %zu bytes, and ", in->n);
    mi_array_type(a, why);
    mi_out_format(why, " (%llu bytes) is needed", (unsigned long long)mi_array_bytes(a));
    return false;
  }
  if (in->n)
    memcpy(a->data, in->bytes, in->n);
  return true;
}

static bool looks_like_json(const char *path, const Input *in)
{
  size_t i = 0;

  if (mi_array_kind(path) == MI_FILE_JSON)
    return true;
  if (strcmp(path, "-"))
    return false;
  while (i < in->n && json_space((char)in->bytes[i]) && in->bytes[i] != '[')
    i++;
  return i < in->n && strchr("[-0123456789", in->bytes[i]);
}

bool mi_array_read(const char *path, MiArray *a, MiOut *why)
{
  Input in = {0};
  char line[256];
  MiOut reason = {.buf = line, .cap = sizeof line, .fd = -1};
  bool ok = false;

  if (read_file(path, &in, why)) {
    if (in.n >= 8 && !memcmp(in.bytes, "\x93NUMPY", 6))
      ok = read_npy(&in, a, &reason);
    else
      ok = looks_like_json(path, &in) ? read_json(&in, a, &reason) : read_raw(&in, a, &reason);
    if (!ok)
      mi_out_format(why, "%s: %s", path, mi_out_string(&reason));
  }
  release(&in);
  return ok;
}

bool mi_array_npy(const char *path, MiArray *a, MiOut *why)
{
  Input in = {0};
  char line[256];
  MiOut reason = {.buf = line, .cap = sizeof line, .fd = -1};
  bool ok = read_file(path, &in, why);

  if (ok) {
    ok = in.n >= 8 && !memcmp(in.bytes, "\x93NUMPY", 6);
    if (!ok)
      mi_out_text(&reason, "it is no .npy file");
    ok = ok && npy_open(&in, a, &reason);
    if (!ok)
      mi_out_format(why, "%s: %s", path, mi_out_string(&reason));
  }
  a->data = NULL;
  release(&in);
  return ok;
}

/* ---- writing */

static void json_element(const MiArray *a, uint64_t i, MiOut *out)
{
  long double x = mi_array_get(a, i);
  char text[48];

  if (a->elem == MI_ELEM_BOOL)
    snprintf(text, sizeof text, x != 0 ? "true" : "false");
  else if (isnan(x))
    snprintf(text, sizeof text, "NaN");
  else if (isinf(x))
    snprintf(text, sizeof text, x < 0 ? "-Infinity" : "Infinity");
  else
    snprintf(text, sizeof text, "%.*Lg", a->elem == MI_ELEM_F64 ? 17 : elems[a->elem].is_float ? 9 : 20, x);
  mi_out_text(out, text);
}

void mi_array_json(const MiArray *a, MiOut *out)
{
  for (uint64_t i = 0; i < a->count; i++) {
    uint64_t inner = 1;
    uint32_t opens = 0, d = a->rank;
    for (; d-- > 0 && i % (inner *= a->dim[d]) == 0;)
      opens++;
    if (i)
      for (uint32_t c = 0; c < opens; c++)
        mi_out_text(out, "]");
    mi_out_text(out, i ? (opens ? ",\n" : ", ") : "");
    for (uint32_t c = 0; c < opens; c++)
      mi_out_text(out, "[");
    json_element(a, i, out);
  }
  for (uint32_t c = 0; c < a->rank; c++)
    mi_out_text(out, a->count ? "]" : c ? "" : "[]");
}

static void npy_header(const MiArray *a, MiOut *out)
{
  char dict[256];
  MiOut d = {.buf = dict, .cap = sizeof dict, .fd = -1};
  static const uint8_t magic[8] = {0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};

  mi_out_format(&d, "{'descr': '%s%s', 'fortran_order': False, 'shape': (",
                elems[a->elem].npy[1] == '1' ? "|" : "<", elems[a->elem].npy);
  for (uint32_t i = 0; i < a->rank; i++)
    mi_out_format(&d, "%llu,%s", (unsigned long long)a->dim[i], i + 1 < a->rank ? " " : "");
  mi_out_text(&d, "), }");
  while ((10 + d.n + 1) % 64)
    mi_out_text(&d, " ");
  mi_out_text(&d, "\n");
  const uint8_t size[2] = {(uint8_t)d.n, (uint8_t)(d.n >> 8)};
  mi_out_bytes(out, magic, sizeof magic);
  mi_out_bytes(out, size, sizeof size);
  mi_out_bytes(out, dict, d.n);
}

static void put_array(MiFileKind kind, const MiArray *a, MiOut *out)
{
  if (kind == MI_FILE_JSON) {
    mi_array_json(a, out);
    mi_out_text(out, "\n");
    return;
  }
  if (kind == MI_FILE_NPY)
    npy_header(a, out);
  if (kind == MI_FILE_NPY && a->elem == MI_ELEM_BF16)
    for (uint64_t i = 0; i < a->count; i++) {
      float f = (float)mi_array_get(a, i);
      mi_out_bytes(out, &f, sizeof f);
    }
  else
    mi_out_bytes(out, a->data, mi_array_bytes(a));
}

bool mi_array_write(const char *path, MiFileKind kind, const MiArray *a, MiOut *why)
{
  char buffer[4096], temporary[4096];
  MiOut name = {.buf = temporary, .cap = sizeof temporary, .fd = -1};
  struct stat st;
  bool standard = !strcmp(path, "-"), replace = !standard && (stat(path, &st) || S_ISREG(st.st_mode));

  mi_out_format(&name, replace ? "%s.%ld.tmp" : "%s", path, (long)getpid());
  int fd = standard ? 1 : open(mi_out_string(&name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd < 0) {
    mi_out_format(why, "cannot create %s: %s", path, strerror(errno));
    return false;
  }
  MiOut out = {.buf = buffer, .cap = sizeof buffer, .fd = fd};
  put_array(kind, a, &out);
  bool ok = mi_out_flush(&out);
  if (!standard && close(fd) && ok) {
    ok = false;
    out.error = errno;
  }
  if (ok && replace && rename(mi_out_string(&name), path)) {
    ok = false;
    out.error = errno;
  }
  if (!ok) {
    mi_out_format(why, "cannot write %s: %s", path, strerror(out.error));
    if (replace)
      unlink(mi_out_string(&name));
  }
  return ok;
}
