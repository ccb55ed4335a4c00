/* onnx_tensor.c - from a tensor in the file to an array in memory: where the elements lie (raw bytes, a list of
 * numbers, a file beside the model), and how they are packed there.
 *
 * Source: onnx.proto, message TensorProto; docs/ExternalData.md of ONNX. */
#define _GNU_SOURCE /* realpath() */
#include "frontend/mapping.h"
#include "frontend/onnx/onnx_wire.h"

#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

enum { FIELD_STRINGS = 6, FIELD_RAW = 9, EXTERNAL = 1 };

const OnnxElemInfo onnx_elem_info[ONNX_ELEM_COUNT] = {
    {"undefined", -1, 0, 0},
#define ONNX_ELEM(id, name, dtype, bits, field) {name, dtype, bits, field},
#include "frontend/onnx/onnx_elem.def"
#undef ONNX_ELEM
};

const OnnxElemInfo *onnx_elem(int32_t data_type)
{
  return &onnx_elem_info[data_type > 0 && data_type < ONNX_ELEM_COUNT ? data_type : 0];
}

int onnx_elem_of(DType t)
{
  for (int i = 1; i < ONNX_ELEM_COUNT; i++)
    if (onnx_elem_info[i].dtype == (int)t)
      return i;
  return 0;
}

/* A tensor that is looked at. */
typedef struct {
  const OnnxTensor *t;
  Wire w; /* what messages need */
} Look;

static Look look(const OnnxTensor *t, Arena *a, Err *e)
{
  return (Look){t, {.data = t->file->data, .path = t->file->path, .arena = a, .e = e}};
}

static bool PRINTF(2, 3) bad(Look *l, const char *fmt, ...)
{
  char what[400];
  va_list ap;

  va_start(ap, fmt);
  vsnprintf(what, sizeof what, fmt, ap);
  va_end(ap);
  const char *name = l->t->name ? l->t->name : "";
  return wire_bad(&l->w, l->t->place.at, "tensor '%s': %s", wire_shown(&l->w, name), what);
}

/* ---- external data */

/* A path below the model's folder: relative, without "..". */
static bool is_inside(OnnxText s)
{
  if (!s.len || strlen(s.data) != s.len || s.data[0] == '/' || strchr(s.data, '\\'))
    return false;
  for (const char *p = s.data; *p; p += strspn(p, "/")) {
    size_t n = strcspn(p, "/");
    if (n == 2 && !memcmp(p, "..", 2))
      return false;
    p += n;
  }
  return true;
}

static bool decimal(OnnxText s, uint64_t *out)
{
  *out = 0;
  for (uint64_t i = 0; i < s.len; i++) {
    unsigned digit = (unsigned)(uint8_t)s.data[i] - '0';
    if (digit > 9 || __builtin_mul_overflow(*out, (uint64_t)10, out) ||
        __builtin_add_overflow(*out, digit, out))
      return false;
  }
  return s.len > 0;
}

static size_t folder_length(const char *path)
{
  const char *slash = strrchr(path, '/');
  return slash ? (size_t)(slash - path) + 1 : 0;
}

/* Neighbours usually lie in the same file. A file that is noted twice is only mapped twice. */
static OnnxFile *note_file(Wire *w, const char *location)
{
  size_t folder = folder_length(w->file->path);
  OnnxFile *f = w->file->next;

  if (f && !strcmp(f->path + folder, location))
    return f;
  f = NEW(w->arena, OnnxFile);
  *f = (OnnxFile){.model = w->file, .next = w->file->next};
  f->path = arena_printf(w->arena, "%.*s%s", (int)folder, w->file->path, location);
  return w->file->next = f;
}

bool onnx_external_find(Wire *w, OnnxTensor *t)
{
  Look l = {t, *w};
  OnnxText location = {"", 0};

  for (uint32_t i = 0; i < t->n_external_data && t->data_location == EXTERNAL; i++) {
    const OnnxProp *p = t->external_data[i];
    bool offset = !strcmp(p->key, "offset"), length = !strcmp(p->key, "length");
    if (!strcmp(p->key, "location"))
      location = p->value;
    if ((offset || length) && !decimal(p->value, offset ? &t->external_offset : &t->external_length))
      return bad(&l, "external data: %s '%.40s', expected a number", p->key, p->value.data);
    t->external_has_length |= length;
  }
  if (t->data_location != EXTERNAL)
    return true;
  if (!is_inside(location))
    return bad(&l, "external data in '%.100s', expected a path inside the model's folder", location.data);
  t->external = note_file(w, location.data);
  return true;
}

/* Links may not lead out of the folder where the model stands. Where the model itself is a link, as in download
 * caches, its data may stand beside what it links to. */
static bool stays_inside(const char *data, const char *model, Arena *a)
{
  char real_folder[PATH_MAX], real_model[PATH_MAX];
  size_t n = folder_length(model);
  const char *folder = n ? arena_strndup(a, model, n) : ".";

  if (realpath(folder, real_folder)) {
    n = strlen(real_folder);
    if (!strncmp(data, real_folder, n) && (data[n] == '/' || n == 1))
      return true;
  }
  if (!realpath(model, real_model))
    return false;
  return !strncmp(data, real_model, folder_length(real_model));
}

static bool open_external(Look *l, OnnxFile *f)
{
  char real[PATH_MAX];
  Mapping map;
  Err why = {0};

  if (f->data)
    return true;
  if (!realpath(f->path, real))
    return bad(l, "external data in '%s': %s", mapping_shown_path(f->path), strerror(errno));
  if (!stays_inside(real, f->model->path, l->w.arena))
    return bad(l, "external data in '%s', which leads out of the model's folder",
               mapping_shown_path(f->path));
  if (!mapping_open(real, &map, &why))
    return bad(l, "external data in %s", why.text);
  f->data = map.data;
  f->bytes = map.bytes;
  f->mapped = true;
  return true;
}

/* ---- raw bytes */

static bool external_bytes(Look *l, uint64_t need, OnnxBytes *out)
{
  const OnnxTensor *t = l->t;

  if (t->external_has_length && t->external_length != need)
    return bad(l, "%" PRIu64 " bytes of external data, expected %" PRIu64, t->external_length, need);
  if (!need)
    return true;
  if (!open_external(l, t->external))
    return false;
  const OnnxFile *f = t->external;
  if (t->external_offset > f->bytes || need > f->bytes - t->external_offset)
    return bad(l, "%" PRIu64 " bytes at 0x%" PRIx64 " of '%s', which has 0x%" PRIx64, need,
               t->external_offset, mapping_shown_path(f->path), f->bytes);
  *out = (OnnxBytes){f->data + t->external_offset, need};
  return true;
}

static bool raw_bytes(Look *l, uint64_t need, OnnxBytes *out)
{
  *out = (OnnxBytes){(const uint8_t *)"", 0};
  if (l->t->external)
    return external_bytes(l, need, out);
  if (l->t->raw.len != need)
    return bad(l, "%" PRIu64 " bytes of raw data, expected %" PRIu64, l->t->raw.len, need);
  if (need)
    *out = l->t->raw;
  return true;
}

/* Where a file packs several into a byte, memory has one in each: the first lies in the lowest bits. */
static uint8_t *unpack(Look *l, const uint8_t *bytes, uint32_t bits)
{
  int64_t n = l->t->count;
  uint8_t *out = arena_alloc(l->w.arena, (size_t)n);
  unsigned each = 8 / bits, mask = (1U << bits) - 1;
  bool is_signed = l->t->data_type == ONNX_INT4 || l->t->data_type == ONNX_INT2;

  for (int64_t i = 0; i < n; i++) {
    unsigned code = bytes[(uint64_t)i / each] >> bits * ((uint64_t)i % each) & mask;
    out[i] = (uint8_t)(is_signed && code >> (bits - 1) ? code | ~mask : code);
  }
  return out;
}

/* Any byte but 0 means true; in memory true is 1. */
static const uint8_t *clean_bools(Look *l, OnnxBytes b)
{
  uint64_t odd = 0;

  while (odd < b.len && b.data[odd] <= 1)
    odd++;
  if (odd == b.len)
    return b.data;
  uint8_t *out = arena_copy(l->w.arena, b.data, b.len);
  for (uint64_t i = 0; i < b.len; i++)
    out[i] = out[i] != 0;
  return out;
}

static const void *from_raw(Look *l, const OnnxElemInfo *info, OnnxBytes b)
{
  uint32_t bytes = info->bits / 8;

  if (info->bits < 8)
    return unpack(l, b.data, info->bits);
  if (info->dtype == DT_BOOL)
    return clean_bools(l, b);
  if ((uintptr_t)b.data % bytes == 0)
    return b.data;
  return arena_copy(l->w.arena, b.data, b.len);
}

/* ---- lists of numbers */

/* The items of one field, one after another; packed ones are taken apart. */
typedef struct {
  Look *l;
  uint32_t field;
  uint64_t pos, end;       /* in the message */
  uint64_t list, list_end; /* in a packed list */
  WireType packed_type;    /* what the list holds */
} Numbers;

static Numbers numbers_of(Look *l, const OnnxElemInfo *info)
{
  const OnnxPlace *p = &l->t->place;
  WireType type = info->field == 4 ? WIRE_FIXED32 : info->field == 10 ? WIRE_FIXED64 : WIRE_VARINT;
  return (Numbers){l, info->field, p->at, p->at + p->bytes, 0, 0, type};
}

static bool packed_number(Numbers *n, uint64_t *out)
{
  const uint8_t *data = n->l->w.data;
  uint32_t bytes = n->packed_type == WIRE_FIXED32 ? 4 : 8;

  if (n->packed_type == WIRE_VARINT)
    return wire_varint(data, &n->list, n->list_end, out) || bad(n->l, "its list of numbers is not valid");
  if (bytes > n->list_end - n->list)
    return bad(n->l, "its list of numbers ends inside one");
  *out = 0;
  memcpy(out, data + n->list, bytes);
  n->list += bytes;
  return true;
}

/* 1: *out is the next number; 0: there is none; -1: an error. */
static int next_number(Numbers *n, uint64_t *out)
{
  WireItem item;

  while (n->list == n->list_end) {
    if (n->pos >= n->end)
      return 0;
    if (!wire_item(&n->l->w, "tensor", &n->pos, n->end, &item))
      return -1;
    if (item.number != n->field)
      continue;
    if (item.type == n->packed_type) {
      *out = item.value;
      return 1;
    }
    if (item.type != WIRE_BYTES) {
      bad(n->l, "a number has wire type %d, expected %d", (int)item.type, (int)n->packed_type);
      return -1;
    }
    n->list = item.start;
    n->list_end = item.start + item.len;
  }
  return packed_number(n, out) ? 1 : -1;
}

/* Counted before memory is taken: the dimensions may promise anything. */
static bool check_count(Look *l, const OnnxElemInfo *info, uint64_t need)
{
  Numbers n = numbers_of(l, info);
  uint64_t value, count = 0;
  int more;

  while ((more = next_number(&n, &value)) > 0)
    count++;
  if (more < 0)
    return false;
  return count == need || bad(l, "%" PRIu64 " numbers, expected %" PRIu64, count, need);
}

static bool from_list(Look *l, const OnnxElemInfo *info, const void **out)
{
  uint32_t bytes = info->bits < 8 ? 1 : info->bits / 8, each = info->bits < 8 ? 8 / info->bits : 1;
  uint64_t need = ((uint64_t)l->t->count + each - 1) / each, value;

  if (!check_count(l, info, need))
    return false;
  uint8_t *array = arena_array(l->w.arena, bytes, need);
  Numbers n = numbers_of(l, info);
  for (uint64_t i = 0; next_number(&n, &value) > 0; i++) {
    if (info->dtype == DT_BOOL)
      value = value != 0;
    memcpy(array + i * bytes, &value, bytes); /* the low bytes: the hosts of micc are little-endian */
  }
  *out = info->bits < 8 ? unpack(l, array, info->bits) : array;
  return true;
}

/* ---- the value of a tensor */

static bool check_elem(Look *l, const OnnxElemInfo *info)
{
  if (info->dtype >= 0)
    return true;
  if (info == onnx_elem_info)
    return bad(l, "element type %" PRId32 " is not known", l->t->data_type);
  return bad(l, "its elements are of type %s, which micc does not compute with", info->name);
}

static bool check_rank(Look *l, uint32_t n)
{
  return n <= MAX_RANK || bad(l, "%" PRIu32 " dimensions, expected at most %d", n, MAX_RANK);
}

/* Bytes that the file needs for all elements. */
static bool stored_bytes(Look *l, const OnnxElemInfo *info, uint64_t *out)
{
  uint64_t bits;

  if (!mul_u64((uint64_t)l->t->count, info->bits, &bits))
    return bad(l, "more than 2^61 bytes of data");
  *out = bits / 8 + (bits % 8 != 0);
  return true;
}

bool onnx_tensor_value(const OnnxTensor *t, Arena *a, Tensor *out, Err *e)
{
  Look l = look(t, a, e);
  const OnnxElemInfo *info = onnx_elem(t->data_type);
  bool listed = t->place.has & 1U << info->field, raw = t->external || t->place.has & 1U << FIELD_RAW;
  const void *data = NULL;
  uint64_t need = 0;
  OnnxBytes bytes;

  if (!check_elem(&l, info) || !check_rank(&l, t->n_dims) || !stored_bytes(&l, info, &need))
    return false;
  if (raw && !(listed && !t->external && !t->raw.len)) {
    if (!raw_bytes(&l, need, &bytes))
      return false;
    data = from_raw(&l, info, bytes);
  } else if (!from_list(&l, info, &data)) {
    return false;
  }
  *out = (Tensor){type_of((DType)info->dtype, t->n_dims, t->dims), (void *)(uintptr_t)data};
  return true;
}

bool onnx_tensor_strings(const OnnxTensor *t, Arena *a, OnnxText **out, Err *e)
{
  Look l = look(t, a, e);
  uint64_t pos = t->place.at, end = pos + t->place.bytes;
  ARRAY(OnnxText) found = {0};
  WireItem item;

  if (t->data_type != ONNX_STRING)
    return bad(&l, "its elements are of type %s, expected strings", onnx_elem(t->data_type)->name);
  while (pos < end) {
    if (!wire_item(&l.w, "tensor", &pos, end, &item))
      return false;
    if (item.number == FIELD_STRINGS && item.type == WIRE_BYTES)
      *PUSH(a, found) =
          (OnnxText){arena_strndup(a, (const char *)t->file->data + item.start, item.len), item.len};
  }
  if (found.len != t->count)
    return bad(&l, "%" PRIu32 " strings, expected %" PRId64, found.len, t->count);
  *out = found.data;
  return true;
}

/* ---- sparse tensors */

/* The place of element `i` among all, or -1. */
static int64_t flat_index(const OnnxSparse *s, const Tensor *indices, int64_t i)
{
  const int64_t *at = indices->data;
  int64_t flat = 0;

  if (indices->type.rank == 1)
    return at[i] >= 0 && at[i] < s->count ? at[i] : -1;
  for (uint32_t d = 0; d < s->n_dims; d++) {
    int64_t k = at[i * s->n_dims + d];
    if (k < 0 || k >= s->dims[d])
      return -1;
    flat = flat * s->dims[d] + k;
  }
  return flat;
}

static bool check_sparse(Look *l, const OnnxSparse *s, const Tensor *values, const Tensor *indices)
{
  const Type *t = &indices->type;

  if (values->type.rank != 1)
    return bad(l, "values of %" PRIu32 " dimensions, expected 1", values->type.rank);
  if (t->dtype != DT_I64 || t->rank < 1 || t->rank > 2 || t->dim[0] != values->type.dim[0] ||
      (t->rank == 2 && t->dim[1] != s->n_dims))
    return bad(l, "indices are no int64 for each of %" PRId64 " values", values->type.dim[0]);
  return (uint64_t)s->count <= ONNX_SPARSE_BYTES_MAX / dtype_info[values->type.dtype].bytes ||
         bad(l, "%" PRId64 " elements, expected at most %d bytes for them", s->count, ONNX_SPARSE_BYTES_MAX);
}

bool onnx_sparse_value(const OnnxSparse *s, Arena *a, Tensor *out, Err *e)
{
  Look l = look(s->values, a, e);
  Tensor values, indices;

  if (!check_rank(&l, s->n_dims) || !onnx_tensor_value(s->values, a, &values, e) ||
      !onnx_tensor_value(s->indices, a, &indices, e) || !check_sparse(&l, s, &values, &indices))
    return false;
  uint32_t bytes = dtype_info[values.type.dtype].bytes;
  char *dense = arena_array(a, bytes, (size_t)s->count);
  for (int64_t i = 0; i < values.type.dim[0]; i++) {
    int64_t at = flat_index(s, &indices, i);
    if (at < 0)
      return bad(&l, "index of value %" PRId64 " is out of range", i);
    memcpy(dense + at * bytes, (char *)values.data + i * bytes, bytes);
  }
  *out = (Tensor){type_of(values.type.dtype, s->n_dims, s->dims), dense};
  return true;
}

/* ---- files of one tensor */

static bool read_whole(const char *path, Arena *a, Mapping *out, Err *e)
{
  Mapping map;

  if (!mapping_open(path, &map, e))
    return false;
  *out = (Mapping){arena_copy(a, map.data, map.bytes), map.bytes};
  mapping_close(map);
  return true;
}

bool onnx_read_tensor(const char *path, Arena *a, OnnxTensor **out, Err *e)
{
  Wire w = {.path = path, .arena = a, .e = e};
  Mapping map;

  *out = NULL;
  if (!read_whole(path, a, &map, e))
    return false;
  w.data = map.data;
  w.file = NEW(a, OnnxFile);
  *w.file = (OnnxFile){.path = arena_strdup(a, path), .data = map.data, .bytes = map.bytes};
  OnnxTensor *t = NEW(a, OnnxTensor);
  if (!wire_read(&w, &onnx_tensor_message, 0, map.bytes, t))
    return false;
  *out = t;
  return true;
}
