/* gguf.c - reads GGUF files: header, metadata, tensor table, and where the data lies.
 *
 * The file is hostile: each count is checked against a limit and against the bytes that are
 * left before anything is allocated, so memory stays proportional to the file (about six
 * bytes for each of its own). Nothing is copied but names.
 *
 * Source: the GGUF specification (ggml, docs/gguf.md), versions 2 and 3. */
#include "frontend/gguf/gguf.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

enum {
  KEY_BYTES_LEAST = 8 + 1 + 4 + 1,            /* length, one byte, type, value */
  TENSOR_BYTES_LEAST = 8 + 1 + 4 + 8 + 4 + 8, /* length, one byte, rank, dimension, type, offset */
  DEFAULT_ALIGNMENT = 32,
  ODD_KINDS_MAX = 32,
  SHOWN_BYTES = 64, /* of a name, in messages */
};

const MetaTypeInfo meta_type_info[META_TYPE_COUNT] = {
    [META_U8] = {"u8", 1},       [META_I8] = {"i8", 1},     [META_U16] = {"u16", 2},
    [META_I16] = {"i16", 2},     [META_U32] = {"u32", 4},   [META_I32] = {"i32", 4},
    [META_F32] = {"f32", 4},     [META_BOOL] = {"bool", 1}, [META_STR] = {"string", 0},
    [META_ARRAY] = {"array", 0}, [META_U64] = {"u64", 8},   [META_I64] = {"i64", 8},
    [META_F64] = {"f64", 8},
};

/* Types that ggml has or had and dtype.def has not, by GGUF id: for messages. */
static const char *const other_type[] = {
    [4] = "q4_2",        [5] = "q4_3",      [9] = "q8_1",    [10] = "q2_K",       [11] = "q3_K",
    [15] = "q8_K",       [16] = "iq2_xxs",  [17] = "iq2_xs", [18] = "iq3_xxs",    [19] = "iq1_s",
    [20] = "iq4_nl",     [21] = "iq3_s",    [22] = "iq2_s",  [23] = "iq4_xs",     [24] = "i8",
    [25] = "i16",        [27] = "i64",      [28] = "f64",    [29] = "iq1_m",      [31] = "q4_0_4_4",
    [32] = "q4_0_4_8",   [33] = "q4_0_8_8", [34] = "tq1_0",  [36] = "iq4_nl_4_4", [37] = "iq4_nl_4_8",
    [38] = "iq4_nl_8_8", [39] = "mxfp4",    [40] = "nvfp4",  [41] = "q1_0",       [42] = "q2_0",
};

/* Tensors of one type that cannot be read. */
typedef struct {
  uint32_t id, count;
  const char *first;
} Odd;

/* A key or a tensor's name, and where its entry begins in the file. */
typedef struct {
  const char *text;
  uint64_t at;
} Name;

typedef struct {
  Model *m;
  Arena *arena;
  Err *e;
  uint64_t pos;
  const char *kind, *name; /* what is being read, for messages; NULL in the header */
  Name *keys, *names;
  ARRAY(Odd) odd;
  uint64_t odd_tensors, odd_rest; /* all of them; those of further types than `odd` holds */
} Reader;

/* ---- messages */

/* A name cut to a length that fits a message, at a character's boundary. */
static const char *shown(Reader *r, const char *name)
{
  size_t n = SHOWN_BYTES;

  if (strlen(name) <= SHOWN_BYTES)
    return name;
  while (n > 0 && ((uint8_t)name[n] & 0xc0) == 0x80)
    n--;
  return arena_printf(r->arena, "%.*s...", (int)n, name);
}

static bool PRINTF(3, 4) bad(Reader *r, uint64_t at, const char *fmt, ...)
{
  char what[480];
  va_list ap;

  va_start(ap, fmt);
  vsnprintf(what, sizeof what, fmt, ap);
  va_end(ap);
  const char *path = model_shown_path(r->m->path);
  if (r->name)
    return fail(r->e, "%s:0x%" PRIx64 ": %s '%s': %s", path, at, r->kind, shown(r, r->name), what);
  return fail(r->e, "%s:0x%" PRIx64 ": %s", path, at, what);
}

/* ---- numbers and strings */

static uint64_t left(const Reader *r)
{
  return r->m->map_bytes - r->pos;
}

static bool need(Reader *r, uint64_t bytes, const char *what)
{
  if (bytes <= left(r))
    return true;
  return bad(r, r->pos, "%s needs %" PRIu64 " bytes, %" PRIu64 " are left", what, bytes, left(r));
}

static bool read_number(Reader *r, const char *what, uint32_t bytes, uint64_t *out)
{
  *out = 0;
  if (!need(r, bytes, what))
    return false;
  for (uint32_t i = 0; i < bytes; i++)
    *out |= (uint64_t)r->m->map[r->pos + i] << 8 * i;
  r->pos += bytes;
  return true;
}

static bool read_u32(Reader *r, const char *what, uint32_t *out)
{
  uint64_t v;
  bool ok = read_number(r, what, 4, &v);
  *out = (uint32_t)v;
  return ok;
}

static bool read_u64(Reader *r, const char *what, uint64_t *out)
{
  return read_number(r, what, 8, out);
}

/* Names are shown to people and written into programs: valid UTF-8, no control characters. */
static bool check_text(Reader *r, const char *what, uint64_t at, uint64_t len)
{
  const uint8_t *s = r->m->map + at;

  for (uint64_t i = 0; i < len;) {
    utf8proc_int32_t c;
    utf8proc_ssize_t n = utf8proc_iterate(s + i, (utf8proc_ssize_t)(len - i), &c);
    if (n <= 0)
      return bad(r, at + i, "%s holds byte 0x%02x, expected valid UTF-8", what, s[i]);
    if (c < 0x20 || (c >= 0x7f && c < 0xa0))
      return bad(r, at + i, "%s holds control character 0x%02x, expected text", what, (unsigned)c);
    i += (uint64_t)n;
  }
  return true;
}

static bool read_name(Reader *r, const char *what, uint64_t limit, Name *out)
{
  uint64_t len, at = r->pos;

  if (!read_u64(r, what, &len))
    return false;
  if (len == 0 || len > limit)
    return bad(r, at, "%s of %" PRIu64 " bytes, expected 1 to %" PRIu64, what, len, limit);
  if (!need(r, len, what) || !check_text(r, what, r->pos, len))
    return false;
  *out = (Name){arena_strndup(r->arena, (const char *)r->m->map + r->pos, len), at};
  r->pos += len;
  return true;
}

/* ---- names are unique */

static int by_text(const void *a, const void *b)
{
  const Name *x = a, *y = b;
  int c = strcmp(x->text, y->text);
  return c ? c : (x->at > y->at) - (x->at < y->at);
}

/* Sorting, not hashing: no choice of names makes it slow. Leaves `names` sorted. */
static bool check_unique(Reader *r, const char *kind, Name *names, uint32_t n)
{
  const Name *again = NULL, *first = NULL;

  if (n)
    qsort(names, n, sizeof *names, by_text);
  for (uint32_t i = 1; i < n; i++)
    if (!strcmp(names[i - 1].text, names[i].text) && (!again || names[i].at < again->at)) {
      first = &names[i - 1];
      again = &names[i];
    }
  if (!again)
    return true;
  r->kind = kind;
  r->name = again->text;
  return bad(r, again->at, "is there twice, first at 0x%" PRIx64, first->at);
}

/* ---- header */

static bool read_version(Reader *r)
{
  Model *m = r->m;

  if (!read_u32(r, "version", &m->version))
    return false;
  if (m->version && !(m->version & 0xffff))
    return bad(r, 4, "big-endian GGUF file, expected little-endian");
  if (m->version != 2 && m->version != 3)
    return bad(r, 4, "GGUF version %" PRIu32 ", expected 2 or 3", m->version);
  m->format = m->version == 2 ? "GGUF v2" : "GGUF v3";
  return true;
}

static bool check_count(Reader *r, uint64_t at, const char *what, uint64_t count, uint64_t limit,
                        uint64_t least)
{
  if (count > limit)
    return bad(r, at, "%" PRIu64 " %s, expected at most %" PRIu64, count, what, limit);
  if (count * least > left(r))
    return bad(r, at, "%" PRIu64 " %s need at least %" PRIu64 " bytes, %" PRIu64 " are left", count, what,
               count * least, left(r));
  return true;
}

static bool read_header(Reader *r)
{
  Model *m = r->m;
  const uint8_t *p = m->map;
  uint64_t tensors, keys;

  if (!need(r, 4, "magic"))
    return false;
  if (memcmp(p, "GGUF", 4))
    return bad(r, 0, "begins with bytes %02x %02x %02x %02x, expected \"GGUF\"", p[0], p[1], p[2], p[3]);
  r->pos = 4;
  if (!read_version(r) || !read_u64(r, "tensor count", &tensors) || !read_u64(r, "key count", &keys))
    return false;
  if (!check_count(r, 8, "tensors", tensors, GGUF_TENSORS_MAX, TENSOR_BYTES_LEAST) ||
      !check_count(r, 16, "keys", keys, GGUF_KEYS_MAX, KEY_BYTES_LEAST))
    return false;
  m->tensors.len = m->tensors.cap = (uint32_t)tensors;
  m->metas.len = m->metas.cap = (uint32_t)keys;
  return true;
}

/* ---- metadata */

static bool check_bools(Reader *r, const Meta *v)
{
  for (uint64_t i = 0; i < v->count; i++)
    if (v->raw[i] > 1)
      return bad(r, r->pos + i, "bool of value %u, expected 0 or 1", v->raw[i]);
  return true;
}

static bool read_strings(Reader *r, Meta *v)
{
  Str *s = NEW_ARRAY(r->arena, Str, v->count);

  for (uint64_t i = 0; i < v->count; i++) {
    if (!read_u64(r, "string length", &s[i].len) || !need(r, s[i].len, "string"))
      return false;
    s[i].data = (const char *)r->m->map + r->pos;
    r->pos += s[i].len;
  }
  v->strings = s;
  return true;
}

static bool read_items(Reader *r, Meta *v, MetaType t)
{
  uint64_t bytes = v->count * meta_type_info[t].bytes;

  v->raw = r->m->map + r->pos;
  if (t == META_STR)
    return read_strings(r, v);
  if (!need(r, bytes, v->type == META_ARRAY ? "array" : "value") || (t == META_BOOL && !check_bools(r, v)))
    return false;
  r->pos += bytes;
  return true;
}

static bool read_type(Reader *r, const char *what, MetaType *out)
{
  uint32_t t;
  uint64_t at = r->pos;

  if (!read_u32(r, what, &t))
    return false;
  if (t >= META_TYPE_COUNT)
    return bad(r, at, "%s %" PRIu32 ", expected 0 to %d", what, t, META_TYPE_COUNT - 1);
  *out = (MetaType)t;
  return true;
}

static bool read_array(Reader *r, Meta *v)
{
  uint64_t at = r->pos;

  if (!read_type(r, "item type", &v->item_type))
    return false;
  if (v->item_type == META_ARRAY)
    return bad(r, at, "array of arrays, expected an array of numbers, bools or strings");
  at = r->pos;
  if (!read_u64(r, "item count", &v->count))
    return false;
  uint64_t least = v->item_type == META_STR ? 8 : meta_type_info[v->item_type].bytes;
  return check_count(r, at, "items", v->count, GGUF_ITEMS_MAX, least) && read_items(r, v, v->item_type);
}

static bool read_key(Reader *r, Meta *v, Name *name)
{
  r->name = NULL;
  if (!read_name(r, "key", GGUF_KEY_BYTES_MAX, name))
    return false;
  r->kind = "key";
  r->name = v->key = name->text;
  v->count = 1;
  if (!read_type(r, "value type", &v->type))
    return false;
  v->item_type = v->type;
  return v->type == META_ARRAY ? read_array(r, v) : read_items(r, v, v->type);
}

static bool read_metadata(Reader *r)
{
  Model *m = r->m;
  uint32_t n = m->metas.len;

  m->metas.data = NEW_ARRAY(r->arena, Meta, n);
  r->keys = NEW_ARRAY(r->arena, Name, n);
  for (uint32_t i = 0; i < n; i++)
    if (!read_key(r, &m->metas.data[i], &r->keys[i]))
      return false;
  return true;
}

/* A key that the reader itself needs as a number; absent: `*out` stays. */
static bool own_number(Reader *r, const char *key, uint64_t *out, uint64_t *at)
{
  const Meta *v = model_meta(r->m, key);

  *at = 0;
  if (!v)
    return true;
  *at = r->keys[v - r->m->metas.data].at;
  r->kind = "key";
  r->name = key;
  return meta_u64(v, 0, out) || bad(r, *at, "%s, expected a positive integer", meta_type_info[v->type].name);
}

static bool check_metadata(Reader *r)
{
  Model *m = r->m;
  uint64_t at, parts = 1, part = 0;

  m->alignment = DEFAULT_ALIGNMENT;
  if (!own_number(r, "general.alignment", &m->alignment, &at))
    return false;
  if (m->alignment < GGUF_ALIGNMENT_MIN || m->alignment > GGUF_ALIGNMENT_MAX ||
      m->alignment & (m->alignment - 1))
    return bad(r, at, "is %" PRIu64 ", expected a power of two from %d to %d", m->alignment,
               GGUF_ALIGNMENT_MIN, GGUF_ALIGNMENT_MAX);
  if (!own_number(r, "split.no", &part, &at) || !own_number(r, "split.count", &parts, &at))
    return false;
  if (parts > 1)
    return bad(r, at,
               "this is part %" PRIu64 " of %" PRIu64 ", expected a whole model: merge the parts first",
               part + 1, parts);
  return check_unique(r, "key", r->keys, m->metas.len);
}

/* ---- tensors */

static void note_odd(Reader *r, uint32_t id, const char *name)
{
  r->odd_tensors++;
  for (uint32_t i = 0; i < r->odd.len; i++)
    if (r->odd.data[i].id == id) {
      r->odd.data[i].count++;
      return;
    }
  if (r->odd.len < ODD_KINDS_MAX)
    *PUSH(r->arena, r->odd) = (Odd){id, 1, name};
  else
    r->odd_rest++;
}

static void odd_list(Reader *r, Text *out, bool with_names)
{
  for (uint32_t i = 0; i < r->odd.len; i++) {
    const Odd *o = &r->odd.data[i];
    text_add(out, ", ", i ? 2 : 0);
    if (o->id < COUNT(other_type) && other_type[o->id])
      text_printf(out, "%s", other_type[o->id]);
    else
      text_printf(out, "type %" PRIu32, o->id);
    text_printf(out, " (%" PRIu32, o->count);
    if (with_names)
      text_printf(out, ", first '%s'", shown(r, o->first));
    text_add(out, ")", 1);
  }
  if (r->odd_rest)
    text_printf(out, ", further types (%" PRIu64 ")", r->odd_rest);
}

/* All of them in one line, with what would help. */
static bool check_types(Reader *r)
{
  Text list = {.arena = r->arena}, known = {.arena = r->arena};

  if (!r->odd_tensors)
    return true;
  for (int i = 0; i < DT_COUNT; i++)
    if (dtype_info[i].gguf >= 0)
      text_printf(&known, known.len ? " %s" : "%s", dtype_info[i].name);
  odd_list(r, &list, true);
  if (list.len > 512) { /* every type matters more than the names */
    list.len = 0;
    odd_list(r, &list, false);
  }
  return fail(r->e, "%s: %" PRIu64 " tensor%s that micc does not read yet: %s; it reads %s",
              model_shown_path(r->m->path), r->odd_tensors,
              r->odd_tensors == 1 ? " has a type" : "s have types", list.data, known.data);
}

/* Dimensions stand innermost first in the file. */
static bool read_dims(Reader *r, FileTensor *t)
{
  uint64_t at = r->pos, values = 1;

  if (!read_u32(r, "dimension count", &t->rank))
    return false;
  if (t->rank < 1 || t->rank > GGUF_DIMS_MAX)
    return bad(r, at, "%" PRIu32 " dimensions, expected 1 to %d", t->rank, GGUF_DIMS_MAX);
  for (uint32_t i = t->rank; i-- > 0;) {
    at = r->pos;
    if (!read_u64(r, "dimension", &t->dim[i]))
      return false;
    if (!t->dim[i])
      return bad(r, at, "dimension of size 0, expected 1 or more");
    if (!mul_u64(values, t->dim[i], &values) || values > INT64_MAX)
      return bad(r, at, "dimension of size %" PRIu64 " makes 2^63 values or more", t->dim[i]);
  }
  t->bytes = values; /* the type comes later in the file */
  return true;
}

static bool read_element_type(Reader *r, FileTensor *t)
{
  uint32_t id;
  uint64_t at = r->pos, row = t->dim[t->rank - 1];

  if (!read_u32(r, "type", &id))
    return false;
  int found = dtype_by_gguf(id);
  if (found < 0) {
    note_odd(r, id, t->name);
    return true;
  }
  const DTypeInfo *info = &dtype_info[found];
  t->dtype = (DType)found;
  if (row % info->block)
    return bad(r, at, "rows of %" PRIu64 " values, expected a multiple of %" PRIu32 " (%s)", row, info->block,
               info->name);
  if (!mul_u64(t->bytes / info->block, info->bytes, &t->bytes))
    return bad(r, at, "more than 2^64 bytes of data");
  return true;
}

static bool read_tensor(Reader *r, FileTensor *t, Name *name)
{
  r->name = NULL;
  if (!read_name(r, "tensor name", GGUF_NAME_BYTES_MAX, name))
    return false;
  r->kind = "tensor";
  r->name = t->name = name->text;
  return read_dims(r, t) && read_element_type(r, t) && read_u64(r, "offset", &t->file_offset);
}

static bool read_tensors(Reader *r)
{
  Model *m = r->m;
  uint32_t n = m->tensors.len;

  m->tensors.data = NEW_ARRAY(r->arena, FileTensor, n);
  r->names = NEW_ARRAY(r->arena, Name, n);
  for (uint32_t i = 0; i < n; i++)
    if (!read_tensor(r, &m->tensors.data[i], &r->names[i]))
      return false;
  r->name = NULL;
  return check_types(r);
}

/* ---- tensor data */

static bool place_tensor(Reader *r, FileTensor *t, uint64_t at)
{
  const Model *m = r->m;
  uint64_t room = m->data_offset < m->map_bytes ? m->map_bytes - m->data_offset : 0;

  r->kind = "tensor";
  r->name = t->name;
  if (t->file_offset % m->alignment)
    return bad(r, at, "offset 0x%" PRIx64 ", expected a multiple of %" PRIu64, t->file_offset, m->alignment);
  if (t->file_offset > room || t->bytes > room - t->file_offset)
    return bad(r, at,
               "%" PRIu64 " bytes at data offset 0x%" PRIx64 ", but the file has 0x%" PRIx64 " bytes of data",
               t->bytes, t->file_offset, room);
  t->file_offset += m->data_offset;
  t->data = m->map + t->file_offset;
  return true;
}

static int by_offset(const void *a, const void *b)
{
  const FileTensor *x = *(const FileTensor *const *)a, *y = *(const FileTensor *const *)b;
  if (x->file_offset != y->file_offset)
    return x->file_offset < y->file_offset ? -1 : 1;
  return (x > y) - (x < y);
}

static bool check_overlaps(Reader *r)
{
  const Model *m = r->m;
  uint32_t n = m->tensors.len;
  const FileTensor **sorted = NEW_ARRAY(r->arena, const FileTensor *, n);

  for (uint32_t i = 0; i < n; i++)
    sorted[i] = &m->tensors.data[i];
  if (n)
    qsort(sorted, n, sizeof(const FileTensor *), by_offset);
  for (uint32_t i = 1; i < n; i++) {
    const FileTensor *a = sorted[i - 1], *b = sorted[i];
    if (a->file_offset + a->bytes > b->file_offset) {
      r->name = b->name;
      return bad(r, r->names[b - m->tensors.data].at,
                 "data at 0x%" PRIx64 " overlaps tensor '%s' (0x%" PRIx64 " to 0x%" PRIx64 ")",
                 b->file_offset, shown(r, a->name), a->file_offset, a->file_offset + a->bytes);
    }
  }
  return true;
}

static bool place_tensors(Reader *r)
{
  Model *m = r->m;

  m->data_offset = round_up(r->pos, m->alignment);
  for (uint32_t i = 0; i < m->tensors.len; i++)
    if (!place_tensor(r, &m->tensors.data[i], r->names[i].at))
      return false;
  return check_overlaps(r) && check_unique(r, "tensor", r->names, m->tensors.len);
}

/* ---- the whole */

static Model *read_all(Reader *r)
{
  bool ok = read_header(r) && read_metadata(r) && check_metadata(r) && read_tensors(r) && place_tensors(r);
  return ok ? r->m : NULL;
}

/* What changes after mem_try() lives in the caller: setjmp() forgets this frame's own. */
static Model *read_or_out_of_memory(Reader *r, const char *path, const uint8_t *data, uint64_t bytes)
{
  MemTrap trap;

  if (!mem_try(&trap)) {
    fail(r->e, "%s: out of memory while reading", model_shown_path(path));
    return NULL;
  }
  r->m = NEW(r->arena, Model);
  r->m->path = arena_strdup(r->arena, path);
  r->m->map = data;
  r->m->map_bytes = bytes;
  Model *m = read_all(r);
  mem_done(&trap);
  return m;
}

Model *gguf_parse(const uint8_t *data, uint64_t bytes, const char *path, Err *e)
{
  Arena arena = {0};
  Reader r = {.arena = &arena, .e = e};
  Model *m = read_or_out_of_memory(&r, path, data, bytes);

  if (m)
    m->arena = arena;
  else
    arena_free(&arena);
  return m;
}
