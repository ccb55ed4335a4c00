/* onnx_case.c - see onnx_case.h. */
#include "tests/unit/support/onnx_case.h"

#include "tests/unit/support/files.h"

OnnxCase onnx_case_bytes(const void *data, size_t n)
{
  OnnxCase c = {.copy = exact_copy(data, n)};
  onnx_parse(c.copy, n, "t.onnx", &c.arena, &c.m, &c.e);
  return c;
}

OnnxCase onnx_case_parse(const char *text)
{
  Arena a = {0};
  Text t = {.arena = &a};

  onnx_text(&t, text);
  OnnxCase c = onnx_case_bytes(t.data, t.len);
  arena_free(&a);
  return c;
}

void onnx_case_close(OnnxCase *c)
{
  onnx_close(c->m);
  arena_free(&c->arena);
  free(c->copy);
}

void onnx_case_write(const char *path, const char *text)
{
  Arena a = {0};
  Text t = {.arena = &a};

  onnx_text(&t, text);
  file_write(path, t.data, t.len);
  arena_free(&a);
}

const char *onnx_case_shown(const Tensor *v, Arena *a)
{
  Text t = {.arena = a};

  type_print(&v->type, &t);
  for (int64_t i = 0; i < type_count(&v->type); i++)
    text_printf(&t, " %.20Lg", tensor_get(v, i));
  return t.data;
}

const char *onnx_case_value(OnnxCase *c, const char *name)
{
  const OnnxGraph *g = c->m->graph;
  Tensor v;
  Err e = {0};

  for (uint32_t i = 0; i < g->n_initializers; i++)
    if (!strcmp(g->initializers[i]->name, name))
      return onnx_tensor_value(g->initializers[i], &c->arena, &v, &e) ? onnx_case_shown(&v, &c->arena)
                                                                      : arena_strdup(&c->arena, e.text);
  for (uint32_t i = 0; i < g->n_sparse_initializers; i++)
    if (!strcmp(g->sparse_initializers[i]->values->name, name))
      return onnx_sparse_value(g->sparse_initializers[i], &c->arena, &v, &e)
                 ? onnx_case_shown(&v, &c->arena)
                 : arena_strdup(&c->arena, e.text);
  return "absent";
}
