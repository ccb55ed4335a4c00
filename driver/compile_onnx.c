/* compile_onnx.c - what is ONNX's own on the way from a model file to a program. */
#include "driver/driver.h"

#include <stdio.h>

#include "frontend/mapping.h"

bool compile_is_onnx(const char *path)
{
  Mapping m;
  Err ignored = {0};

  if (!mapping_open(path, &m, &ignored))
    return false;
  bool gguf = m.bytes >= 4 && !memcmp(m.data, "GGUF", 4), is = !gguf && onnx_probe(m.data, m.bytes);
  mapping_close(m);
  return is;
}

bool compile_onnx_open(Compile *c, Err *e)
{
  return onnx_read(c->path, c->arena, &c->onnx, e);
}

/* ---- import */

static bool has_branches(const OnnxGraph *g)
{
  for (uint32_t i = 0; i < g->n_nodes; i++)
    if (!strcmp(g->nodes[i]->op_type, "If"))
      return true;
  return false;
}

static bool is_fixed(const OnnxFix *fixes, uint32_t n, const char *name)
{
  for (uint32_t i = 0; i < n; i++)
    if (!strcmp(fixes[i].name, name))
      return true;
  return false;
}

const char *compile_onnx_switch(const OnnxModel *m, const OnnxFix *fixes, uint32_t n_fixes)
{
  enum { INT32 = 6, INT64 = 7, BOOL = 9 }; /* TensorProto.DataType */
  const OnnxGraph *g = m->graph;

  for (uint32_t i = 0; has_branches(g) && i < g->n_inputs; i++) {
    const OnnxType *t = g->inputs[i]->type;
    bool one = t && t->kind == ONNX_TYPE_TENSOR && t->has_shape;
    for (uint32_t d = 0; one && d < t->n_dims; d++)
      one = t->dims[d]->value == 1;
    if (one && (t->elem_type == INT64 || t->elem_type == INT32 || t->elem_type == BOOL) &&
        !is_fixed(fixes, n_fixes, g->inputs[i]->name))
      return g->inputs[i]->name;
  }
  return NULL;
}

/* A branch that would not be taken may be what cannot be compiled. */
static bool explain(const Compile *c, const char *need, Err *e)
{
  const char *name = need ? NULL : compile_onnx_switch(c->onnx, c->opt->fixes, c->opt->n_fixes);
  Err first = *e;

  if (!name)
    return false;
  *e = (Err){0};
  return fail(e, "%s; if input %s decides which branch is taken: --fix=%s=VALUE", first.text, name, name);
}

bool compile_onnx_module(Compile *c, Err *e)
{
  Text notes = {.arena = c->arena};
  const char *need = NULL;
  OnnxImportOptions o = {.shapes = c->opt->shapes,
                         .n_shapes = c->opt->n_shapes,
                         .fixes = c->opt->fixes,
                         .n_fixes = c->opt->n_fixes,
                         .notes = &notes,
                         .need = &need};
  bool ok = onnx_import(c->onnx, &o, c->arena, &c->module, e);

  if (notes.len)
    fputs(notes.data, stderr);
  return ok || explain(c, need, e);
}

/* ---- what --about prints */

static void add_metadata(const Compile *c, Text *t)
{
  const OnnxModel *m = c->onnx;
  const char *licence = NULL;

  for (uint32_t i = 0; i < m->n_metadata; i++)
    if (!strcmp(m->metadata[i]->key, "license") || !strcmp(m->metadata[i]->key, "licence"))
      licence = compile_one_line(t->arena, m->metadata[i]->value.data, m->metadata[i]->value.len);
  text_printf(t, "license: %s\n", licence ? licence : "not stated in the file");
}

static void add_precision(const Compile *c, Text *t)
{
  uint64_t bytes[DT_COUNT] = {0}, total = 0;
  const Program *p = c->programs[0];

  for (uint32_t i = 0; i < p->items.len; i++) {
    const Item *item = &p->items.data[i];
    DType d = item->layout == LAYOUT_RAW ? item->type : c->module->weights.data[item->weight].type.dtype;
    bytes[d] += p->buffers.data[item->buffer].bytes;
    total += p->buffers.data[item->buffer].bytes;
  }
  text_printf(t, "precision:");
  for (int d = 0; d < DT_COUNT; d++)
    if (bytes[d])
      text_printf(t, " %s %.1f%%", dtype_info[d].name, 100.0 * (double)bytes[d] / (double)total);
  text_printf(t, "%s\n", total ? " of weight bytes" : " no weights");
}

const char *compile_onnx_about(const Compile *c, Text *t)
{
  const OnnxModel *m = c->onnx;
  const Program *p = c->programs[0];
  const char *slash = strrchr(c->path, '/'), *file = slash ? slash + 1 : c->path;
  char sha256[65];

  mapping_sha256((Mapping){m->file->data, m->file->bytes}, sha256);
  file = compile_one_line(t->arena, file, strlen(file));
  const char *name = compile_one_line(t->arena, m->graph->name, strlen(m->graph->name));
  text_printf(t, "model: %s\n", *name ? name : file);
  text_printf(t, "source: %s\nsource sha256: %s\nformat: ONNX, IR version %lld, opset %lld\n", file, sha256,
              (long long)m->ir_version, (long long)onnx_opset(m, ""));
  if (m->producer_name.len)
    text_printf(t, "producer: %s %s\n",
                compile_one_line(t->arena, m->producer_name.data, m->producer_name.len),
                compile_one_line(t->arena, m->producer_version.data ? m->producer_version.data : "",
                                 m->producer_version.len));
  add_metadata(c, t);
  add_precision(c, t);
  text_printf(t, "memory: weights %.3f MB (mapped), arena %.3f MB\n",
              (double)p->space_bytes[SPACE_WEIGHTS] / 1e6, (double)p->space_bytes[SPACE_ARENA] / 1e6);
  compile_add_target(c, t);
  return t->data;
}
