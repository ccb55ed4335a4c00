/* inspect.c - prints what a model file holds, for people or as one JSON object: the command, and GGUF files. */
#include "driver/inspect.h"
#include "driver/inspect_text.h"
#include "frontend/gguf/gguf.h"
#include "frontend/mapping.h"
#include "frontend/tokenizer/tokenizer.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>

enum {
  SHOWN_ITEMS = 4,         /* of an array, in the text output */
  SHOWN_STRING_BYTES = 96, /* of a string there */
  KEY_COLUMNS = 44,
  NAME_COLUMNS = 32
};

typedef struct {
  Arena arena;
  Model *m;        /* of a GGUF file */
  OnnxModel *onnx; /* of an ONNX file */
  Text out;
  Str architecture;         /* empty if the file states none */
  uint32_t count[DT_COUNT]; /* tensors of each type */
  uint64_t bytes[DT_COUNT];
  uint64_t values; /* of all tensors */
} Inspect;

/* ---- values as text */

static void add_item(Text *t, const Meta *v, uint64_t i, bool json)
{
  MetaType type = v->type == META_ARRAY ? v->item_type : v->type;
  uint64_t u = 0;
  int64_t s = 0;
  double d = 0;
  Str str;

  if (meta_str(v, i, &str))
    inspect_quoted(t, str, json ? UINT64_MAX : SHOWN_STRING_BYTES);
  else if (type == META_BOOL && meta_u64(v, i, &u))
    text_printf(t, "%s", u ? "true" : "false");
  else if (meta_u64(v, i, &u))
    text_printf(t, "%" PRIu64, u);
  else if (meta_i64(v, i, &s))
    text_printf(t, "%" PRId64, s);
  else if (meta_f64(v, i, &d))
    inspect_float(t, d, type == META_F32, json);
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

/* The key after "ARCHITECTURE.", or NULL if it is no hyper-parameter. */
static const char *hyper_name(const Inspect *x, const char *key)
{
  Str a = x->architecture;
  return a.len && !strncmp(key, a.data, a.len) && key[a.len] == '.' ? key + a.len + 1 : NULL;
}

/* ---- for people */

/* A string key without its quotes, a value of another kind as it is, or `absent`. */
static void add_meta_line(Inspect *x, const char *label, const char *key, const char *absent)
{
  const Meta *v = model_meta(x->m, key);
  Str s;

  inspect_line(&x->out, label);
  if (meta_str(v, 0, &s) && v->type == META_STR)
    inspect_escaped(&x->out, s, UINT64_MAX);
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
    inspect_line(&x->out, "licence");
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

  inspect_line(t, "file");
  inspect_escaped(t, inspect_str(path), UINT64_MAX);
  text_printf(t, "\n%-15s%s bytes\n", "size", inspect_grouped(&x->arena, m->map_bytes));
  text_printf(t, "%-15s%s, alignment %" PRIu64 ", tensor data from 0x%" PRIx64 "\n", "format", m->format,
              m->alignment, m->data_offset);
  text_printf(t, "%-15s%s\n", "sha256", m->sha256);
  add_meta_line(x, "architecture", "general.architecture", "the file states none");
  add_meta_line(x, "name", "general.name", "the file states none");
  add_licence(x);
  inspect_line(t, "tokenizer");
  inspect_escaped(t, inspect_str(tokenizer_describe(m, &x->arena)), UINT64_MAX);
  text_printf(t, "\n%-15s", "chat template");
  if (meta_str(model_meta(m, "tokenizer.chat_template"), 0, &s))
    text_printf(t, "present, %s bytes\n", inspect_grouped(&x->arena, s.len));
  else
    text_printf(t, "none\n");
  text_printf(t, "%-15s%s in %s tensor%s\n", "parameters", inspect_grouped(&x->arena, x->values),
              inspect_grouped(&x->arena, m->tensors.len), inspect_plural(m->tensors.len));
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
    inspect_column(&x->out, name, KEY_COLUMNS);
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
      text_printf(&x->out, "  %-8s %8s tensor%-2s %20s bytes\n", dtype_info[i].name,
                  inspect_grouped(&x->arena, x->count[i]), inspect_plural(x->count[i]),
                  inspect_grouped(&x->arena, x->bytes[i]));
}

static void add_metadata(Inspect *x)
{
  const Model *m = x->m;

  text_printf(&x->out, "\nmetadata, %s key%s\n", inspect_grouped(&x->arena, m->metas.len),
              inspect_plural(m->metas.len));
  for (uint32_t i = 0; i < m->metas.len; i++) {
    const Meta *v = &m->metas.data[i];
    text_add(&x->out, "  ", 2);
    inspect_column(&x->out, v->key, KEY_COLUMNS);
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

  text_printf(&x->out, "tensors, %s\n", inspect_grouped(&x->arena, m->tensors.len));
  text_printf(&x->out, "  %-*s%-6s %-20s %16s  %s\n", NAME_COLUMNS, "name", "type", "shape", "bytes",
              "offset");
  for (uint32_t i = 0; i < m->tensors.len; i++) {
    const FileTensor *v = &m->tensors.data[i];
    Text shape = {.arena = &x->arena};
    add_shape(&shape, v, "[", "][", "]");
    text_add(&x->out, "  ", 2);
    inspect_column(&x->out, v->name, NAME_COLUMNS);
    text_printf(&x->out, "%-6s %-20s %16s  0x%" PRIx64 "\n", dtype_info[v->dtype].name, shape.data,
                inspect_grouped(&x->arena, v->bytes), v->file_offset);
  }
}

static void report(Inspect *x, const InspectOptions *o)
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

/* The whole value, or null if there is none. */
static void json_meta(Inspect *x, cJSON *o, const char *key, const Meta *v)
{
  Text t = {.arena = &x->arena};

  if (v)
    add_value(&t, v, true);
  inspect_json_raw(o, key, v ? t.data : "null");
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

  inspect_json_text(&x->arena, root, "file", path);
  inspect_json_u64(&x->arena, root, "size_bytes", m->map_bytes);
  inspect_json_text(&x->arena, root, "format", m->format);
  inspect_json_u64(&x->arena, root, "version", m->version);
  inspect_json_u64(&x->arena, root, "alignment", m->alignment);
  inspect_json_u64(&x->arena, root, "data_offset", m->data_offset);
  inspect_json_text(&x->arena, root, "sha256", m->sha256);
  json_meta(x, root, "architecture", model_meta(m, "general.architecture"));
  json_meta(x, root, "name", model_meta(m, "general.name"));
  json_licence(x, root);
  inspect_json_text(&x->arena, root, "tokenizer", tokenizer_describe(m, &x->arena));
  cJSON_AddBoolToObject(root, "chat_template", model_meta(m, "tokenizer.chat_template") != NULL);
  inspect_json_u64(&x->arena, root, "parameters", x->values);
  inspect_json_u64(&x->arena, root, "tensor_count", m->tensors.len);
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
    cJSON *o = inspect_json_item(list);
    inspect_json_text(&x->arena, o, "type", dtype_info[i].name);
    inspect_json_u64(&x->arena, o, "tensors", x->count[i]);
    inspect_json_u64(&x->arena, o, "bytes", x->bytes[i]);
  }
}

static void json_metadata(Inspect *x, cJSON *root)
{
  cJSON *list = cJSON_AddObjectToObject(root, "metadata");

  for (uint32_t i = 0; i < x->m->metas.len; i++) {
    const Meta *v = &x->m->metas.data[i];
    cJSON *o = cJSON_AddObjectToObject(list, v->key);
    inspect_json_text(&x->arena, o, "type", meta_type_text(x, v));
    json_meta(x, o, "value", v);
  }
}

static void json_tensors(Inspect *x, cJSON *root)
{
  cJSON *list = cJSON_AddArrayToObject(root, "tensors");

  for (uint32_t i = 0; i < x->m->tensors.len; i++) {
    const FileTensor *v = &x->m->tensors.data[i];
    Text shape = {.arena = &x->arena};
    cJSON *o = inspect_json_item(list);
    inspect_json_text(&x->arena, o, "name", v->name);
    inspect_json_text(&x->arena, o, "type", dtype_info[v->dtype].name);
    add_shape(&shape, v, "[", ", ", "]");
    inspect_json_raw(o, "shape", shape.data);
    inspect_json_u64(&x->arena, o, "bytes", v->bytes);
    inspect_json_u64(&x->arena, o, "offset", v->file_offset);
  }
}

static void report_json(Inspect *x, const InspectOptions *o)
{
  cJSON *root = inspect_json_new();

  if (!o->tensors) {
    json_summary(x, root, o->path);
    json_hyper_parameters(x, root);
    json_types(x, root);
    json_metadata(x, root);
  }
  json_tensors(x, root);
  inspect_json_print(root, &x->out);
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

static bool inspect_gguf(Inspect *x, const InspectOptions *o, Err *e)
{
  x->m = model_open(o->path, e);
  if (!x->m)
    return false;
  count_tensors(x);
  meta_str(model_meta(x->m, "general.architecture"), 0, &x->architecture);
  if (!o->tensors)
    model_hash(x->m);
  (o->json ? report_json : report)(x, o);
  return true;
}

/* By what the file holds, never by its name. Other formats are named by model_open(). */
static bool inspect_any(Inspect *x, const InspectOptions *o, Err *e)
{
  Mapping map;

  if (!mapping_open(o->path, &map, e))
    return false;
  bool onnx = onnx_probe(map.data, map.bytes);
  mapping_close(map);
  return onnx ? inspect_onnx(o, &x->arena, &x->out, &x->onnx, e) : inspect_gguf(x, o, e);
}

static bool inspect(Inspect *x, const InspectOptions *o, Err *e)
{
  MemTrap trap;

  if (!mem_try(&trap))
    return fail(e, "out of memory");
  x->out.arena = &x->arena;
  bool ok = inspect_any(x, o, e);
  mem_done(&trap);
  return ok;
}

static int print_file(const InspectOptions *o)
{
  Inspect x = {0};
  Err e = {0};
  bool ok = inspect(&x, o, &e);

  if (ok && (fwrite(x.out.data, 1, x.out.len, stdout) != x.out.len || fflush(stdout)))
    ok = fail(&e, "cannot write: %s", strerror(errno));
  if (!ok)
    fprintf(stderr, "micc: %s\n", e.text);
  model_close(x.m);
  onnx_close(x.onnx);
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
  InspectOptions o = {0};

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
