/* onnx_wire.c - reads protobuf messages into structs. See onnx_wire.h.
 *
 * Each message is gone through twice: once to count its repeated fields, so that arrays are taken once in their
 * final size, and once to read them. Counts are of things that are there, so memory stays proportional to the
 * file: no number in it says how much to take. */
#include "frontend/onnx/onnx_wire.h"
#include "frontend/mapping.h"

#include <inttypes.h>
#include <stdio.h>
#include <utf8proc.h>

enum {
  SHOWN_BYTES = 64,       /* of a name, in messages */
  MESSAGES_MAX = 1 << 22, /* of a file: some 200 bytes of memory each */
  FIELD_NUMBER_MAX = (1 << 29) - 1,
};

/* ---- messages */

const char *wire_shown(Wire *w, const char *name)
{
  size_t n = SHOWN_BYTES;

  if (strlen(name) <= n)
    return name;
  while (n > 0 && ((uint8_t)name[n] & 0xc0) == 0x80)
    n--;
  return arena_printf(w->arena, "%.*s...", (int)n, name);
}

bool wire_bad(Wire *w, uint64_t at, const char *fmt, ...)
{
  char what[480];
  va_list ap;

  va_start(ap, fmt);
  vsnprintf(what, sizeof what, fmt, ap);
  va_end(ap);
  return fail(w->e, "%s:0x%" PRIx64 ": %s", mapping_shown_path(w->path), at, what);
}

/* ---- items */

bool wire_varint(const uint8_t *data, uint64_t *pos, uint64_t end, uint64_t *out)
{
  *out = 0;
  for (unsigned shift = 0; *pos < end && shift < 70; shift += 7) {
    uint8_t b = data[(*pos)++];
    if (shift == 63 && b > 1)
      return false; /* more than 64 bits */
    *out |= (uint64_t)(b & 127) << shift;
    if (b < 128)
      return true;
  }
  return false;
}

static bool need(Wire *w, const char *message, WireItem *item, uint64_t pos, uint64_t bytes, uint64_t end)
{
  if (bytes <= end - pos)
    return true;
  return wire_bad(w, item->at, "%s: field %" PRIu32 " needs %" PRIu64 " bytes, %" PRIu64 " are left", message,
                  item->number, bytes, end - pos);
}

static bool fixed(Wire *w, const char *message, WireItem *item, uint64_t *pos, uint32_t bytes, uint64_t end)
{
  item->value = 0;
  if (!need(w, message, item, *pos, bytes, end))
    return false;
  for (uint32_t i = 0; i < bytes; i++)
    item->value |= (uint64_t)w->data[(*pos)++] << 8 * i;
  return true;
}

static bool bytes_item(Wire *w, const char *message, WireItem *item, uint64_t *pos, uint64_t end)
{
  if (!wire_varint(w->data, pos, end, &item->len))
    return wire_bad(w, item->at, "%s: field %" PRIu32 " has no valid length", message, item->number);
  if (!need(w, message, item, *pos, item->len, end))
    return false;
  item->start = *pos;
  *pos += item->len;
  return true;
}

bool wire_item(Wire *w, const char *message, uint64_t *pos, uint64_t end, WireItem *out)
{
  uint64_t tag;

  *out = (WireItem){.at = *pos};
  if (!wire_varint(w->data, pos, end, &tag) || tag >> 3 == 0 || tag >> 3 > FIELD_NUMBER_MAX)
    return wire_bad(w, out->at, "%s: expected a field", message);
  out->number = (uint32_t)(tag >> 3);
  out->type = (WireType)(tag & 7);
  switch (out->type) {
  case WIRE_VARINT:
    if (wire_varint(w->data, pos, end, &out->value))
      return true;
    return wire_bad(w, out->at, "%s: field %" PRIu32 " is no valid number", message, out->number);
  case WIRE_FIXED64: return fixed(w, message, out, pos, 8, end);
  case WIRE_FIXED32: return fixed(w, message, out, pos, 4, end);
  case WIRE_BYTES: return bytes_item(w, message, out, pos, end);
  default:
    return wire_bad(w, out->at, "%s: field %" PRIu32 " has wire type %d, expected 0, 1, 2 or 5", message,
                    out->number, (int)out->type);
  }
}

/* ---- what a field is */

/* What items of a kind look like; repeated numbers may also be packed into bytes. */
static const WireType wire_type_of[] = {
    [WIRE_INT64] = WIRE_VARINT, [WIRE_INT32] = WIRE_VARINT, [WIRE_FLOAT] = WIRE_FIXED32,
    [WIRE_NAME] = WIRE_BYTES,   [WIRE_TEXT] = WIRE_BYTES,   [WIRE_SLICE] = WIRE_BYTES,
    [WIRE_STRUCT] = WIRE_BYTES, [WIRE_PART] = WIRE_BYTES,
};

static const size_t item_bytes[] = {
    [WIRE_INT64] = sizeof(int64_t), [WIRE_INT32] = sizeof(int32_t), [WIRE_FLOAT] = sizeof(float),
    [WIRE_NAME] = sizeof(char *),   [WIRE_TEXT] = sizeof(OnnxText), [WIRE_SLICE] = sizeof(OnnxBytes),
    [WIRE_STRUCT] = sizeof(void *),
};

static const WireField *field_of(const WireMessage *m, uint32_t number)
{
  return number < m->n_fields && m->fields[number].kind ? &m->fields[number] : NULL;
}

static bool is_number(WireKind k)
{
  return k == WIRE_INT64 || k == WIRE_INT32 || k == WIRE_FLOAT;
}

static bool is_packed(const WireField *f, const WireItem *item)
{
  return f->count && is_number(f->kind) && item->type == WIRE_BYTES;
}

static bool check_type(Wire *w, const WireMessage *m, const WireField *f, const WireItem *item)
{
  if (f->kind == WIRE_LATER || item->type == wire_type_of[f->kind] || is_packed(f, item))
    return true;
  return wire_bad(w, item->at, "%s: %s has wire type %d, expected %d", m->name, f->name, (int)item->type,
                  (int)wire_type_of[f->kind]);
}

/* ---- counting */

/* Numbers in an item: each varint has one byte below 128, its last. */
static uint32_t count_of(const Wire *w, const WireField *f, const WireItem *item)
{
  uint64_t n = 0;

  if (!is_packed(f, item))
    return 1;
  if (f->kind == WIRE_FLOAT)
    return (uint32_t)min64((int64_t)(item->len / 4), UINT32_MAX);
  for (uint64_t i = 0; i < item->len; i++)
    n += w->data[item->start + i] < 128;
  return (uint32_t)(n < UINT32_MAX ? n : UINT32_MAX);
}

static uint32_t *counter(const WireField *f, void *s)
{
  return (uint32_t *)(void *)((char *)s + f->count);
}

static bool count_items(Wire *w, const WireMessage *m, uint64_t pos, uint64_t end, void *s)
{
  WireItem item;

  while (pos < end) {
    if (!wire_item(w, m->name, &pos, end, &item))
      return false;
    const WireField *f = field_of(m, item.number);
    if (!f)
      continue;
    if (!check_type(w, m, f, &item))
      return false;
    if (f->count && __builtin_add_overflow(*counter(f, s), count_of(w, f, &item), counter(f, s)))
      return wire_bad(w, item.at, "%s: too many %s", m->name, f->name);
  }
  return true;
}

/* Arrays in their final size; the counts begin anew, for read_items(). */
static void take_arrays(Wire *w, const WireMessage *m, void *s)
{
  for (uint32_t i = 0; i < m->n_fields; i++) {
    const WireField *f = &m->fields[i];
    if (!f->count || !*counter(f, s))
      continue;
    *(void **)(void *)((char *)s + f->member) = arena_array(w->arena, item_bytes[f->kind], *counter(f, s));
    *counter(f, s) = 0;
  }
}

/* ---- reading */

/* Names are shown to people and written into programs: valid UTF-8, no control characters. */
static bool read_name(Wire *w, const WireMessage *m, const WireField *f, const WireItem *item,
                      const char **out)
{
  const uint8_t *s = w->data + item->start;

  if (item->len > ONNX_NAME_BYTES_MAX)
    return wire_bad(w, item->at, "%s: %s has %" PRIu64 " bytes, expected at most %d", m->name, f->name,
                    item->len, ONNX_NAME_BYTES_MAX);
  for (uint64_t i = 0; i < item->len;) {
    utf8proc_int32_t c;
    utf8proc_ssize_t n = utf8proc_iterate(s + i, (utf8proc_ssize_t)(item->len - i), &c);
    if (n <= 0)
      return wire_bad(w, item->start + i, "%s: %s holds byte 0x%02x, expected valid UTF-8", m->name, f->name,
                      s[i]);
    if (c < 0x20 || (c >= 0x7f && c < 0xa0))
      return wire_bad(w, item->start + i, "%s: %s holds control character 0x%02x, expected text", m->name,
                      f->name, (unsigned)c);
    i += (uint64_t)n;
  }
  *out = arena_strndup(w->arena, (const char *)s, item->len);
  return true;
}

static bool read_struct(Wire *w, const WireMessage *m, const WireItem *item, void **out)
{
  if (++w->messages > MESSAGES_MAX)
    return wire_bad(w, item->at, "more than %d messages in a file", MESSAGES_MAX);
  *out = arena_alloc(w->arena, m->bytes);
  return wire_read(w, m, item->start, item->start + item->len, *out);
}

static void store_number(WireKind k, uint64_t value, void *to)
{
  if (k == WIRE_INT64)
    *(int64_t *)to = (int64_t)value;
  else
    *(uint32_t *)to = (uint32_t)value; /* also a float's bits; of an int32 the lower half is what counts */
}

static bool read_packed(Wire *w, const WireMessage *m, const WireField *f, const WireItem *item, char *to,
                        uint32_t *count)
{
  uint64_t pos = item->start, end = pos + item->len, value = 0;

  if (f->kind == WIRE_FLOAT && item->len % 4)
    return wire_bad(w, item->at, "%s: %s has %" PRIu64 " bytes, expected a multiple of 4", m->name, f->name,
                    item->len);
  while (pos < end) {
    if (f->kind == WIRE_FLOAT) {
      uint32_t bits;
      memcpy(&bits, w->data + pos, 4);
      value = bits;
      pos += 4;
    } else if (!wire_varint(w->data, &pos, end, &value)) {
      return wire_bad(w, item->at, "%s: %s holds no valid numbers", m->name, f->name);
    }
    store_number(f->kind, value, to + *count * item_bytes[f->kind]);
    ++*count;
  }
  return true;
}

static bool read_value(Wire *w, const WireMessage *m, const WireField *f, const WireItem *item, void *to)
{
  const uint8_t *bytes = w->data + item->start;

  switch (f->kind) {
  case WIRE_NAME: return read_name(w, m, f, item, to);
  case WIRE_TEXT:
    *(OnnxText *)to = (OnnxText){arena_strndup(w->arena, (const char *)bytes, item->len), item->len};
    return true;
  case WIRE_SLICE: *(OnnxBytes *)to = (OnnxBytes){bytes, item->len}; return true;
  case WIRE_STRUCT: return read_struct(w, f->message, item, to);
  default: store_number(f->kind, item->value, to); return true;
  }
}

static bool read_repeated(Wire *w, const WireMessage *m, const WireField *f, const WireItem *item, void *s)
{
  char *array = *(char **)(void *)((char *)s + f->member);
  uint32_t *count = counter(f, s);

  if (is_packed(f, item))
    return read_packed(w, m, f, item, array, count);
  return read_value(w, m, f, item, array + (*count)++ * item_bytes[f->kind]);
}

static bool read_field(Wire *w, const WireMessage *m, const WireField *f, const WireItem *item, void *s)
{
  OnnxPlace *place = s;
  uint32_t bit = 1U << (item->number + m->has_shift);
  bool again = place->has & bit;

  place->has |= bit;
  if (f->kind == WIRE_LATER)
    return true;
  if (f->count)
    return read_repeated(w, m, f, item, s);
  /* Protobuf would merge the two; no writer makes them. Of other fields the last one counts. */
  if (again && (f->kind == WIRE_STRUCT || f->kind == WIRE_PART))
    return wire_bad(w, item->at, "%s: %s is there twice", m->name, f->name);
  if (f->kind == WIRE_PART)
    return wire_read(w, f->message, item->start, item->start + item->len, s);
  return read_value(w, m, f, item, (char *)s + f->member);
}

static bool read_items(Wire *w, const WireMessage *m, uint64_t pos, uint64_t end, void *s)
{
  WireItem item;

  while (pos < end) {
    if (!wire_item(w, m->name, &pos, end, &item))
      return false;
    const WireField *f = field_of(m, item.number);
    if (f && !read_field(w, m, f, &item, s))
      return false;
  }
  return true;
}

bool wire_read(Wire *w, const WireMessage *m, uint64_t at, uint64_t end, void *s)
{
  if (w->depth >= ONNX_DEPTH_MAX)
    return wire_bad(w, at, "more than %d messages in each other", ONNX_DEPTH_MAX);
  if (m->bytes)
    *(OnnxPlace *)s = (OnnxPlace){at, end - at, 0};
  w->depth++;
  if (!count_items(w, m, at, end, s))
    return false;
  take_arrays(w, m, s);
  if (!read_items(w, m, at, end, s))
    return false;
  w->depth--;
  return !m->finish || m->finish(w, s);
}
