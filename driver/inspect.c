/* inspect.c - prints what a model file holds, for people or as one JSON object.
 *
 * Texts from the file are untrusted: control and invisible formatting characters are printed
 * as JSON escapes in both outputs, bytes that are no UTF-8 as U+FFFD. Numbers are printed
 * exactly: JSON gets them as raw text, since cJSON keeps numbers as doubles. */
#include "driver/inspect.h"
#include "frontend/gguf/gguf.h"
#include "frontend/tokenizer/tokenizer.h"

#include <cjson/cJSON.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

enum {
  SHOWN_ITEMS = 4,         /* of an array, in the text output */
  SHOWN_STRING_BYTES = 96, /* of a string there */
  KEY_COLUMNS = 44,
  NAME_COLUMNS = 32
};

typedef struct {
  bool json, tensors; /* tensors: only their table */
  const char *path;
} Options;

typedef struct {
  Arena arena;
  Model *m;
  Text out;
  Str architecture;         /* empty if the file states none */
  uint32_t count[DT_COUNT]; /* tensors of each type */
  uint64_t bytes[DT_COUNT];
  uint64_t values; /* of all tensors */
} Inspect;

/* ---- values as text */

static Str str_of(const char *z)
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

/* At most about `limit` bytes of it; returns whether that was all. */
static bool add_escaped(Text *t, Str s, uint64_t limit)
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

/* A name in a column; the file's names may hold invisible characters too. */
static void add_column(Text *t, const char *name, size_t columns)
{
  size_t from = t->len;

  add_escaped(t, str_of(name), UINT64_MAX);
  do
    text_add(t, " ", 1);
  while (t->len < from + columns);
}

static void add_quoted(Text *t, Str s, uint64_t limit)
{
  text_add(t, "\"", 1);
  bool all = add_escaped(t, s, limit);
  text_add(t, "\"", 1);
  if (!all)
    text_printf(t, "... (%" PRIu64 " bytes)", s.len);
}

/* The shortest digits that read back as the same number; JSON knows no infinities. */
static void add_float(Text *t, double v, bool single, bool json)
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

static void add_item(Text *t, const Meta *v, uint64_t i, bool json)
{
  MetaType type = v->type == META_ARRAY ? v->item_type : v->type;
  uint64_t u = 0;
  int64_t s = 0;
  double d = 0;
  Str str;

  if (meta_str(v, i, &str))
    add_quoted(t, str, json ? UINT64_MAX : SHOWN_STRING_BYTES);
  else if (type == META_BOOL && meta_u64(v, i, &u))
    text_printf(t, "%s", u ? "true" : "false");
  else if (meta_u64(v, i, &u))
    text_printf(t, "%" PRIu64, u);
  else if (meta_i64(v, i, &s))
    text_printf(t, "%" PRId64, s);
  else if (meta_f64(v, i, &d))
    add_float(t, d, type == META_F32, json);
}

/* JSON: all of it. Otherwise a long array is cut: [512 items: "a", "b", ...] */
static void add_value(Text *t, const Meta *v, bool json)
{
  bool array = v->type == META_ARRAY, cut = array && !json && v->count > SHOWN_ITEMS;

  if (array)
    text_add(t, "[", 1);
  if (cut)
    text_printf(t, "%" PRIu64 " items: ", v->count);
  for (uint64_t i = 0; i < (cut ? SHOWN_ITEMS : v->count); i++) {
    if (i)
      text_add(t, ", ", 2);
    add_item(t, v, i, json);
  }
  if (array)
    text_printf(t, cut ? ", ...]" : "]");
}

/* "u32", "string", "string[512]" */
static const char *meta_type_text(Inspect *x, const Meta *v)
{
  if (v->type != META_ARRAY)
    return meta_type_info[v->type].name;
  return arena_printf(&x->arena, "%s[%" PRIu64 "]", meta_type_info[v->item_type].name, v->count);
}

/* 1185376 as "1,185,376" */
static const char *grouped(Inspect *x, uint64_t n)
{
  char digits[24], with_commas[32];
  int len = snprintf(digits, sizeof digits, "%" PRIu64, n), at = 0;

  for (int i = 0; i < len; i++) {
    if (i && (len - i) % 3 == 0)
      with_commas[at++] = ',';
    with_commas[at++] = digits[i];
  }
  return arena_strndup(&x->arena, with_commas, (size_t)at);
}

static const char *plural(uint64_t n)
{
  return n == 1 ? "" : "s";
}

/* The key after "ARCHITECTURE.", or NULL if it is no hyper-parameter. */
static const char *hyper_name(const Inspect *x, const char *key)
{
  Str a = x->architecture;
  return a.len && !strncmp(key, a.data, a.len) && key[a.len] == '.' ? key + a.len + 1 : NULL;
}

/* ---- for people */

static void line(Text *t, const char *label)
{
  text_printf(t, "%-15s", label);
}

/* A string key without its quotes, a value of another kind as it is, or `absent`. */
static void add_meta_line(Inspect *x, const char *label, const char *key, const char *absent)
{
  const Meta *v = model_meta(x->m, key);
  Str s;

  line(&x->out, label);
  if (meta_str(v, 0, &s) && v->type == META_STR)
    add_escaped(&x->out, s, UINT64_MAX);
  else if (v)
    add_value(&x->out, v, false);
  else
    text_printf(&x->out, "%s", absent);
  text_add(&x->out, "\n", 1);
}

static const struct {
  const char *label, *json, *key;
} licence_keys[] = {
    {"licence", "id", "general.license"},
    {"licence name", "name", "general.license.name"},
    {"licence link", "link", "general.license.link"},
};

static bool has_licence(const Model *m)
{
  for (size_t i = 0; i < COUNT(licence_keys); i++)
    if (model_meta(m, licence_keys[i].key))
      return true;
  return false;
}

static void add_licence(Inspect *x)
{
  if (!has_licence(x->m)) {
    line(&x->out, "licence");
    text_printf(&x->out, "the file states none\n");
  }
  for (size_t i = 0; i < COUNT(licence_keys); i++)
    if (model_meta(x->m, licence_keys[i].key))
      add_meta_line(x, licence_keys[i].label, licence_keys[i].key, "");
}

static void add_summary(Inspect *x, const char *path)
{
  const Model *m = x->m;
  Text *t = &x->out;
  Str s;

  line(t, "file");
  add_escaped(t, str_of(path), UINT64_MAX);
  text_printf(t, "\n%-15s%s bytes\n", "size", grouped(x, m->map_bytes));
  text_printf(t, "%-15s%s, alignment %" PRIu64 ", tensor data from 0x%" PRIx64 "\n", "format", m->format,
              m->alignment, m->data_offset);
  text_printf(t, "%-15s%s\n", "sha256", m->sha256);
  add_meta_line(x, "architecture", "general.architecture", "the file states none");
  add_meta_line(x, "name", "general.name", "the file states none");
  add_licence(x);
  line(t, "tokenizer");
  add_escaped(t, str_of(tokenizer_describe(m, &x->arena)), UINT64_MAX);
  text_printf(t, "\n%-15s", "chat template");
  if (meta_str(model_meta(m, "tokenizer.chat_template"), 0, &s))
    text_printf(t, "present, %s bytes\n", grouped(x, s.len));
  else
    text_printf(t, "none\n");
  text_printf(t, "%-15s%s in %s tensor%s\n", "parameters", grouped(x, x->values), grouped(x, m->tensors.len),
              plural(m->tensors.len));
}

static void add_hyper_parameters(Inspect *x)
{
  bool any = false;

  for (uint32_t i = 0; i < x->m->metas.len; i++) {
    const Meta *v = &x->m->metas.data[i];
    const char *name = hyper_name(x, v->key);
    if (!name)
      continue;
    text_printf(&x->out, "%s  ", any ? "" : "\nhyper-parameters\n");
    add_column(&x->out, name, KEY_COLUMNS);
    add_value(&x->out, v, false);
    text_add(&x->out, "\n", 1);
    any = true;
  }
}

static void add_types(Inspect *x)
{
  text_printf(&x->out, "\ntensor types\n");
  for (int i = 0; i < DT_COUNT; i++)
    if (x->count[i])
      text_printf(&x->out, "  %-8s %8s tensor%-2s %20s bytes\n", dtype_info[i].name, grouped(x, x->count[i]),
                  plural(x->count[i]), grouped(x, x->bytes[i]));
}

static void add_metadata(Inspect *x)
{
  const Model *m = x->m;

  text_printf(&x->out, "\nmetadata, %s key%s\n", grouped(x, m->metas.len), plural(m->metas.len));
  for (uint32_t i = 0; i < m->metas.len; i++) {
    const Meta *v = &m->metas.data[i];
    text_add(&x->out, "  ", 2);
    add_column(&x->out, v->key, KEY_COLUMNS);
    text_printf(&x->out, "%-14s ", meta_type_text(x, v));
    add_value(&x->out, v, false);
    text_add(&x->out, "\n", 1);
  }
}

static void add_shape(Text *t, const FileTensor *v, const char *open, const char *between, const char *close)
{
  text_printf(t, "%s", open);
  for (uint32_t i = 0; i < v->rank; i++)
    text_printf(t, "%s%" PRIu64, i ? between : "", v->dim[i]);
  text_printf(t, "%s", close);
}

static void add_tensors(Inspect *x)
{
  const Model *m = x->m;

  text_printf(&x->out, "tensors, %s\n", grouped(x, m->tensors.len));
  text_printf(&x->out, "  %-*s%-6s %-20s %16s  %s\n", NAME_COLUMNS, "name", "type", "shape", "bytes",
              "offset");
  for (uint32_t i = 0; i < m->tensors.len; i++) {
    const FileTensor *v = &m->tensors.data[i];
    Text shape = {.arena = &x->arena};
    add_shape(&shape, v, "[", "][", "]");
    text_add(&x->out, "  ", 2);
    add_column(&x->out, v->name, NAME_COLUMNS);
    text_printf(&x->out, "%-6s %-20s %16s  0x%" PRIx64 "\n", dtype_info[v->dtype].name, shape.data,
                grouped(x, v->bytes), v->file_offset);
  }
}

static void report(Inspect *x, const Options *o)
{
  if (!o->tensors) {
    add_summary(x, o->path);
    add_hyper_parameters(x);
    add_types(x);
    add_metadata(x);
    text_add(&x->out, "\n", 1);
  }
  add_tensors(x);
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

static void json_raw(cJSON *o, const char *key, const char *raw)
{
  cJSON_AddItemToObject(o, key, cJSON_CreateRaw(raw));
}

static void json_u64(Inspect *x, cJSON *o, const char *key, uint64_t n)
{
  json_raw(o, key, arena_printf(&x->arena, "%" PRIu64, n));
}

static void json_text(Inspect *x, cJSON *o, const char *key, const char *s)
{
  Text t = {.arena = &x->arena};
  add_quoted(&t, str_of(s), UINT64_MAX);
  json_raw(o, key, t.data);
}

/* The whole value, or null if there is none. */
static void json_meta(Inspect *x, cJSON *o, const char *key, const Meta *v)
{
  Text t = {.arena = &x->arena};

  if (v)
    add_value(&t, v, true);
  json_raw(o, key, v ? t.data : "null");
}

static void json_licence(Inspect *x, cJSON *root)
{
  if (!has_licence(x->m)) {
    cJSON_AddNullToObject(root, "license");
    return;
  }
  cJSON *o = cJSON_AddObjectToObject(root, "license");
  for (size_t i = 0; i < COUNT(licence_keys); i++)
    json_meta(x, o, licence_keys[i].json, model_meta(x->m, licence_keys[i].key));
}

static void json_summary(Inspect *x, cJSON *root, const char *path)
{
  const Model *m = x->m;

  json_text(x, root, "file", path);
  json_u64(x, root, "size_bytes", m->map_bytes);
  json_text(x, root, "format", m->format);
  json_u64(x, root, "version", m->version);
  json_u64(x, root, "alignment", m->alignment);
  json_u64(x, root, "data_offset", m->data_offset);
  json_text(x, root, "sha256", m->sha256);
  json_meta(x, root, "architecture", model_meta(m, "general.architecture"));
  json_meta(x, root, "name", model_meta(m, "general.name"));
  json_licence(x, root);
  json_text(x, root, "tokenizer", tokenizer_describe(m, &x->arena));
  cJSON_AddBoolToObject(root, "chat_template", model_meta(m, "tokenizer.chat_template") != NULL);
  json_u64(x, root, "parameters", x->values);
  json_u64(x, root, "tensor_count", m->tensors.len);
}

static void json_hyper_parameters(Inspect *x, cJSON *root)
{
  cJSON *o = cJSON_AddObjectToObject(root, "hyper_parameters");

  for (uint32_t i = 0; i < x->m->metas.len; i++) {
    const char *name = hyper_name(x, x->m->metas.data[i].key);
    if (name)
      json_meta(x, o, name, &x->m->metas.data[i]);
  }
}

static void json_types(Inspect *x, cJSON *root)
{
  cJSON *list = cJSON_AddArrayToObject(root, "tensor_types");

  for (int i = 0; i < DT_COUNT; i++) {
    if (!x->count[i])
      continue;
    cJSON *o = cJSON_CreateObject();
    cJSON_AddItemToArray(list, o);
    json_text(x, o, "type", dtype_info[i].name);
    json_u64(x, o, "tensors", x->count[i]);
    json_u64(x, o, "bytes", x->bytes[i]);
  }
}

static void json_metadata(Inspect *x, cJSON *root)
{
  cJSON *list = cJSON_AddObjectToObject(root, "metadata");

  for (uint32_t i = 0; i < x->m->metas.len; i++) {
    const Meta *v = &x->m->metas.data[i];
    cJSON *o = cJSON_AddObjectToObject(list, v->key);
    json_text(x, o, "type", meta_type_text(x, v));
    json_meta(x, o, "value", v);
  }
}

static void json_tensors(Inspect *x, cJSON *root)
{
  cJSON *list = cJSON_AddArrayToObject(root, "tensors");

  for (uint32_t i = 0; i < x->m->tensors.len; i++) {
    const FileTensor *v = &x->m->tensors.data[i];
    Text shape = {.arena = &x->arena};
    cJSON *o = cJSON_CreateObject();
    cJSON_AddItemToArray(list, o);
    json_text(x, o, "name", v->name);
    json_text(x, o, "type", dtype_info[v->dtype].name);
    add_shape(&shape, v, "[", ", ", "]");
    json_raw(o, "shape", shape.data);
    json_u64(x, o, "bytes", v->bytes);
    json_u64(x, o, "offset", v->file_offset);
  }
}

static void report_json(Inspect *x, const Options *o)
{
  cJSON_Hooks hooks = {json_memory, free};
  cJSON_InitHooks(&hooks);
  cJSON *root = cJSON_CreateObject();

  if (!o->tensors) {
    json_summary(x, root, o->path);
    json_hyper_parameters(x, root);
    json_types(x, root);
    json_metadata(x, root);
  }
  json_tensors(x, root);
  char *s = cJSON_Print(root);
  text_add(&x->out, s, strlen(s));
  text_add(&x->out, "\n", 1);
  free(s);
  cJSON_Delete(root);
}

/* ---- the command */

static void count_tensors(Inspect *x)
{
  for (uint32_t i = 0; i < x->m->tensors.len; i++) {
    const FileTensor *v = &x->m->tensors.data[i];
    const DTypeInfo *info = &dtype_info[v->dtype];
    x->count[v->dtype]++;
    x->bytes[v->dtype] += v->bytes;
    x->values += v->bytes / info->bytes * info->block;
  }
}

static bool inspect(Inspect *x, const Options *o, Err *e)
{
  MemTrap trap;

  if (!mem_try(&trap))
    return fail(e, "out of memory");
  x->out.arena = &x->arena;
  x->m = model_open(o->path, e);
  if (x->m) {
    count_tensors(x);
    meta_str(model_meta(x->m, "general.architecture"), 0, &x->architecture);
    if (!o->tensors)
      model_hash(x->m);
    (o->json ? report_json : report)(x, o);
  }
  mem_done(&trap);
  return x->m != NULL;
}

static int print_file(const Options *o)
{
  Inspect x = {0};
  Err e = {0};
  bool ok = inspect(&x, o, &e);

  if (ok && (fwrite(x.out.data, 1, x.out.len, stdout) != x.out.len || fflush(stdout)))
    ok = fail(&e, "cannot write: %s", strerror(errno));
  if (!ok)
    fprintf(stderr, "micc: %s\n", e.text);
  model_close(x.m);
  arena_free(&x.arena);
  return ok ? 0 : 1;
}

static const char usage[] = "usage: micc inspect [--json] [--tensors] FILE\n"
                            "  --json     one JSON object, complete (arrays too)\n"
                            "  --tensors  the table of tensors only\n";

static int wrong_usage(const char *what, const char *detail)
{
  fprintf(stderr, "micc: inspect: %s%s\n%s", what, detail, usage);
  return 2;
}

int cmd_inspect(int argc, char **argv)
{
  static const struct option options[] = {
      {"json", no_argument, NULL, 'j'},
      {"tensors", no_argument, NULL, 't'},
      {"help", no_argument, NULL, 'h'},
      {0},
  };
  Options o = {0};

  opterr = 0;
  optind = 0; /* from the start, whatever was parsed before */
  for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;)
    switch (c) {
    case 'j': o.json = true; break;
    case 't': o.tensors = true; break;
    case 'h': fputs(usage, stdout); return 0;
    default: return wrong_usage("unknown option: ", argv[optind - 1]);
    }
  if (optind != argc - 1)
    return wrong_usage(optind == argc ? "no file given" : "more than one file given", "");
  o.path = argv[optind];
  return print_file(&o);
}
