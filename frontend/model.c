/* model.c - opens a model file, and gives out its metadata. See model.h. */
#include "frontend/model.h"
#include "frontend/gguf/gguf.h"
#include "frontend/mapping.h"

/* ---- which format is it */

static bool is_safetensors(const uint8_t *p, uint64_t n)
{
  uint64_t header = 0;

  for (int i = 0; i < 8 && n > 8; i++)
    header |= (uint64_t)p[i] << 8 * i;
  return n > 8 && header >= 2 && header <= n - 8 && p[8] == '{';
}

/* Formats that are told apart only to say so. */
static const struct {
  const char *what;
  bool (*test)(const uint8_t *, uint64_t);
  uint32_t at;
  const char *magic;
} other_formats[] = {
    {"a safetensors file", is_safetensors, 0, NULL},
    {"a TFLite file", NULL, 4, "TFL3"},
    {"a zip archive (PyTorch, Keras or NumPy)", NULL, 0, "PK\x03\x04"},
    {"an HDF5 file", NULL, 0, "\x89HDF"},
    {"a ggml file from before GGUF", NULL, 0, "lmgg"},
    {"a ggml file from before GGUF", NULL, 0, "fmgg"},
    {"a ggml file from before GGUF", NULL, 0, "tjgg"},
    {"a Git LFS pointer, not the model itself", NULL, 0, "version https://git-lfs"},
};

static const char *other_format(const uint8_t *p, uint64_t n)
{
  for (size_t i = 0; i < COUNT(other_formats); i++) {
    const char *magic = other_formats[i].magic;
    uint32_t at = other_formats[i].at;
    if (magic ? n >= at + strlen(magic) && !memcmp(p + at, magic, strlen(magic))
              : other_formats[i].test(p, n))
      return other_formats[i].what;
  }
  return NULL;
}

/* ---- opening */

Model *model_open(const char *path, Err *e)
{
  Mapping map;

  if (!mapping_open(path, &map, e))
    return NULL;
  const char *other = other_format(map.data, map.bytes);
  Model *m = other ? NULL : gguf_parse(map.data, map.bytes, path, e);
  if (other)
    fail(e, "%s: is %s; micc does not read that yet, it reads GGUF and ONNX", model_shown_path(path), other);
  if (m)
    m->mapped = true;
  else
    mapping_close(map);
  return m;
}

void model_close(Model *m)
{
  if (!m)
    return;
  if (m->mapped)
    mapping_close((Mapping){m->map, m->map_bytes});
  Arena a = m->arena; /* the model itself lies in it */
  arena_free(&a);
}

void model_hash(Model *m)
{
  mapping_sha256((Mapping){m->map, m->map_bytes}, m->sha256);
}

const char *model_shown_path(const char *path)
{
  return mapping_shown_path(path);
}

/* ---- look-up */

const Meta *model_meta(const Model *m, const char *key)
{
  for (uint32_t i = 0; i < m->metas.len; i++)
    if (!strcmp(m->metas.data[i].key, key))
      return &m->metas.data[i];
  return NULL;
}

const FileTensor *model_tensor(const Model *m, const char *name)
{
  for (uint32_t i = 0; i < m->tensors.len; i++)
    if (!strcmp(m->tensors.data[i].name, name))
      return &m->tensors.data[i];
  return NULL;
}

/* ---- values */

/* The type of item `i`, or META_TYPE_COUNT if there is no such item. */
static MetaType item_type(const Meta *v, uint64_t i)
{
  if (!v || i >= v->count)
    return META_TYPE_COUNT;
  return v->type == META_ARRAY ? v->item_type : v->type;
}

static uint64_t item_bits(const Meta *v, MetaType t, uint64_t i)
{
  uint32_t n = meta_type_info[t].bytes;
  uint64_t bits = 0;

  for (uint32_t b = 0; b < n; b++)
    bits |= (uint64_t)v->raw[i * n + b] << 8 * b;
  return bits;
}

/* An integer as 64 bits of two's complement; *is_signed tells how to read the top bit. */
static bool item_integer(const Meta *v, uint64_t i, uint64_t *out, bool *is_signed)
{
  MetaType t = item_type(v, i);

  *is_signed = false;
  switch (t) {
  case META_U8:
  case META_U16:
  case META_U32:
  case META_U64:
  case META_BOOL: *out = item_bits(v, t, i); return true;
  case META_I8:
  case META_I16:
  case META_I32:
  case META_I64: {
    uint32_t unused = 64 - 8 * meta_type_info[t].bytes;
    *is_signed = true;
    *out = (uint64_t)((int64_t)(item_bits(v, t, i) << unused) >> unused);
    return true;
  }
  default: return false;
  }
}

bool meta_u64(const Meta *v, uint64_t i, uint64_t *out)
{
  uint64_t n;
  bool is_signed;

  if (!item_integer(v, i, &n, &is_signed) || (is_signed && n > INT64_MAX))
    return false;
  *out = n;
  return true;
}

bool meta_i64(const Meta *v, uint64_t i, int64_t *out)
{
  uint64_t n;
  bool is_signed;

  if (!item_integer(v, i, &n, &is_signed) || (!is_signed && n > INT64_MAX))
    return false;
  *out = (int64_t)n;
  return true;
}

bool meta_f64(const Meta *v, uint64_t i, double *out)
{
  MetaType t = item_type(v, i);
  uint64_t n;
  bool is_signed;

  if (t == META_F32) {
    uint32_t bits = (uint32_t)item_bits(v, t, i);
    float f;
    memcpy(&f, &bits, sizeof f);
    *out = (double)f;
  } else if (t == META_F64) {
    uint64_t bits = item_bits(v, t, i);
    memcpy(out, &bits, sizeof *out);
  } else if (item_integer(v, i, &n, &is_signed)) {
    *out = is_signed ? (double)(int64_t)n : (double)n;
  } else {
    return false;
  }
  return true;
}

bool meta_str(const Meta *v, uint64_t i, Str *out)
{
  if (item_type(v, i) != META_STR)
    return false;
  *out = v->strings[i];
  return true;
}

bool str_eq(Str s, const char *z)
{
  return s.len == strlen(z) && (!s.len || !memcmp(s.data, z, s.len));
}
