/* gguf_tools.h - what tests of GGUF files share: a notation for their bytes, and the
 * checks that every model must pass, however its file was made. */
#ifndef MICC_GGUF_TOOLS_H
#define MICC_GGUF_TOOLS_H

#include "frontend/model.h"

#include <assert.h>
#include <ctype.h>
#include <stdlib.h>

/* Builds bytes from words that spaces separate:
 *   'TEXT'   the bytes themselves
 *   "TEXT"   a string: its length in 8 bytes, then the bytes
 *   N:VALUE  an integer of N bytes (1 to 8), little-endian
 *   x:HEX    bytes by their hexadecimal digits
 *   0*N      N bytes of zero
 *   pad:N    zeros up to a multiple of N */
static inline void gguf_text(Text *out, const char *s)
{
  static const char zeros[4096];

  for (; *s; s += strspn(s, " \n")) {
    if (*s == '\'' || *s == '"') {
      const char *end = strchr(s + 1, *s);
      uint64_t n = (uint64_t)(end - s - 1);
      if (*s == '"')
        text_add(out, (const char *)&n, 8); /* the hosts of our tests are little-endian */
      text_add(out, s + 1, n);
      s = end + 1;
    } else if (!strncmp(s, "x:", 2)) {
      for (s += 2; isxdigit((unsigned char)*s); s += 2)
        text_add(out, &(char){(char)strtol((char[]){s[0], s[1], 0}, NULL, 16)}, 1);
    } else if (!strncmp(s, "pad:", 4)) {
      uint64_t to = strtoull(s + 4, (char **)(uintptr_t)&s, 10);
      text_add(out, zeros, round_up(out->len, to) - out->len);
    } else {
      uint64_t n = strtoull(s, (char **)(uintptr_t)&s, 10);
      assert(*s == '*' || (*s == ':' && n <= 8));
      bool zero = *s == '*';
      uint64_t v = strtoull(s + 1, (char **)(uintptr_t)&s, 0);
      for (; zero && v; v -= v < sizeof zeros ? v : sizeof zeros)
        text_add(out, zeros, v < sizeof zeros ? v : sizeof zeros);
      if (!zero)
        text_add(out, (const char *)&v, n);
    }
  }
}

/* Touches all that a model points to, and asserts what readers of it rely on. */
static inline uint64_t model_touch(const Model *m)
{
  uint64_t sum = 0;

  assert(m->alignment && !(m->alignment & (m->alignment - 1)) && m->format);
  for (uint32_t i = 0; i < m->metas.len; i++) {
    const Meta *v = &m->metas.data[i];
    assert(v->key[0] && model_meta(m, v->key) == v && v->item_type != META_ARRAY);
    for (uint64_t k = 0; k < v->count; k++) {
      uint64_t u = 0;
      int64_t s = 0;
      double d = 0;
      Str t = {0};
      bool number = meta_f64(v, k, &d);
      sum += (uint64_t)meta_u64(v, k, &u) + (uint64_t)meta_i64(v, k, &s) + u;
      assert(number != meta_str(v, k, &t));
      for (uint64_t b = 0; b < t.len; b++)
        sum += (uint8_t)t.data[b];
    }
  }
  for (uint32_t i = 0; i < m->tensors.len; i++) {
    const FileTensor *t = &m->tensors.data[i];
    uint64_t n = 1;
    for (uint32_t d = 0; d < t->rank; d++)
      assert(t->dim[d] && mul_u64(n, t->dim[d], &n));
    assert(model_tensor(m, t->name) == t && t->rank >= 1 && t->rank <= MODEL_MAX_DIMS);
    assert(t->bytes == dtype_bytes(t->dtype, n) && t->bytes > 0);
    assert(t->file_offset >= m->data_offset && t->bytes <= m->map_bytes - t->file_offset);
    assert(t->data == m->map + t->file_offset && t->file_offset % m->alignment == 0);
    sum += *(const uint8_t *)t->data + ((const uint8_t *)t->data)[t->bytes - 1];
  }
  return sum;
}

/* An error is one line that names the file. */
static inline bool error_is_line(const Err *e, const char *path)
{
  return e->text[0] && !strchr(e->text, '\n') && !strncmp(e->text, path, strlen(path));
}

#endif
