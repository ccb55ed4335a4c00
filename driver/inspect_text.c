/* inspect_text.c - how `micc inspect` writes what comes from files. See inspect_text.h. */
#include "driver/inspect_text.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

/* ---- texts */

Str inspect_str(const char *z)
{
  return (Str){z, strlen(z)};
}

static void add_escape(Text *t, utf8proc_int32_t c)
{
  if (c > 0xffff) {
    add_escape(t, 0xd800 + ((c - 0x10000) >> 10));
    add_escape(t, 0xdc00 + ((c - 0x10000) & 0x3ff));
  } else {
    text_printf(t, "\\u%04x", (unsigned)c);
  }
}

/* Characters that would change how a terminal shows what follows, or that nobody sees. */
static bool is_invisible(utf8proc_int32_t c)
{
  utf8proc_category_t k = utf8proc_category(c);
  return k == UTF8PROC_CATEGORY_CC || k == UTF8PROC_CATEGORY_CF || k == UTF8PROC_CATEGORY_ZL ||
         k == UTF8PROC_CATEGORY_ZP;
}

static void add_char(Text *t, utf8proc_int32_t c, const uint8_t *s, size_t n)
{
  static const char plain[] = "\"\\\n\t\r", letter[] = "\"\\ntr";
  const char *p = c && c < 128 ? strchr(plain, (int)c) : NULL;

  if (p)
    text_printf(t, "\\%c", letter[p - plain]);
  else if (is_invisible(c))
    add_escape(t, c);
  else
    text_add(t, (const char *)s, n);
}

bool inspect_escaped(Text *t, Str s, uint64_t limit)
{
  const uint8_t *p = (const uint8_t *)s.data;
  uint64_t i = 0;

  while (i < s.len && i < limit) {
    utf8proc_int32_t c;
    /* A character has four bytes at most: a long string's length need not fit a signed size. */
    utf8proc_ssize_t n = utf8proc_iterate(p + i, (utf8proc_ssize_t)min64(4, (int64_t)(s.len - i)), &c);
    if (n > 0)
      add_char(t, c, p + i, (size_t)n);
    else
      text_add(t, "\xef\xbf\xbd", 3);
    i += n > 0 ? (uint64_t)n : 1;
  }
  return i >= s.len;
}

void inspect_column(Text *t, const char *name, size_t columns)
{
  size_t from = t->len;

  inspect_escaped(t, inspect_str(name), UINT64_MAX);
  do
    text_add(t, " ", 1);
  while (t->len < from + columns);
}

void inspect_quoted(Text *t, Str s, uint64_t limit)
{
  text_add(t, "\"", 1);
  bool all = inspect_escaped(t, s, limit);
  text_add(t, "\"", 1);
  if (!all)
    text_printf(t, "... (%" PRIu64 " bytes)", s.len);
}

/* ---- numbers */

/* The shortest digits that read back as the same number; JSON knows no infinities. */
void inspect_float(Text *t, double v, bool single, bool json)
{
  char digits[40];

  if (!isfinite(v)) {
    text_printf(t, "%s", json ? "null" : isnan(v) ? "nan" : v < 0 ? "-inf" : "inf");
    return;
  }
  for (int n = single ? 6 : 15; n <= 17; n++) {
    snprintf(digits, sizeof digits, "%.*g", n, v);
    double back = single ? (double)strtof(digits, NULL) : strtod(digits, NULL);
    if (memcmp(&back, &v, sizeof v) == 0)
      break;
  }
  text_add(t, digits, strlen(digits));
}

const char *inspect_grouped(Arena *a, uint64_t n)
{
  char digits[24], with_commas[32];
  int len = snprintf(digits, sizeof digits, "%" PRIu64, n), at = 0;

  for (int i = 0; i < len; i++) {
    if (i && (len - i) % 3 == 0)
      with_commas[at++] = ',';
    with_commas[at++] = digits[i];
  }
  return arena_strndup(a, with_commas, (size_t)at);
}

const char *inspect_plural(uint64_t n)
{
  return n == 1 ? "" : "s";
}

void inspect_line(Text *t, const char *label)
{
  text_printf(t, "%-15s", label);
}

/* ---- JSON */

static void *json_memory(size_t bytes)
{
  void *p = malloc(bytes);
  if (p)
    return p;
  fputs("micc: out of memory\n", stderr);
  exit(1);
}

void inspect_json_raw(cJSON *o, const char *key, const char *raw)
{
  cJSON_AddItemToObject(o, key, cJSON_CreateRaw(raw));
}

void inspect_json_u64(Arena *a, cJSON *o, const char *key, uint64_t n)
{
  inspect_json_raw(o, key, arena_printf(a, "%" PRIu64, n));
}

void inspect_json_text(Arena *a, cJSON *o, const char *key, const char *s)
{
  Text t = {.arena = a};
  inspect_quoted(&t, inspect_str(s), UINT64_MAX);
  inspect_json_raw(o, key, t.data);
}

cJSON *inspect_json_new(void)
{
  cJSON_Hooks hooks = {json_memory, free};
  cJSON_InitHooks(&hooks);
  return cJSON_CreateObject();
}

cJSON *inspect_json_item(cJSON *list)
{
  cJSON *o = cJSON_CreateObject();
  cJSON_AddItemToArray(list, o);
  return o;
}

void inspect_json_print(cJSON *root, Text *out)
{
  char *s = cJSON_Print(root);
  text_add(out, s, strlen(s));
  text_add(out, "\n", 1);
  free(s);
  cJSON_Delete(root);
}
