/* onnx_tools.h - what tests of ONNX files share: a notation for their bytes, and the checks that every model
 * must pass, however its file was made. */
#ifndef MICC_ONNX_TOOLS_H
#define MICC_ONNX_TOOLS_H

#include "frontend/onnx/onnx.h"

#include <assert.h>
#include <ctype.h>
#include <stdlib.h>

/* Builds protobuf from words; N is a field's number:
 *   N:VALUE      a varint (-1 takes ten bytes)     N"TEXT"   bytes; N'TEXT' too
 *   Nf1.5        a float in 4 bytes                Nd1.5     a double in 8
 *   Nx0aff       bytes by their digits             N{ ... }  a message
 *   N[1 2 3]     packed varints                    !0aff     bytes without a field
 *   N*COUNT      COUNT zero bytes                  N(1.5 2)  packed floats;  N<1.5 2>  packed doubles */
static inline void onnx_varint(Text *out, uint64_t v)
{
  do
    text_add(out, &(char){(char)((v & 127) | (v > 127 ? 128 : 0))}, 1);
  while (v >>= 7);
}

static inline void onnx_bytes(Text *out, uint64_t field, const char *s, size_t n)
{
  onnx_varint(out, field << 3 | 2);
  onnx_varint(out, n);
  text_add(out, s, n);
}

static inline void onnx_hex(Text *out, const char **s)
{
  for (; isxdigit((unsigned char)**s); *s += 2)
    text_add(out, &(char){(char)strtol((char[]){(*s)[0], (*s)[1], 0}, NULL, 16)}, 1);
}

static inline uint64_t onnx_integer(const char **s)
{
  char *end;
  uint64_t v = **s == '-' ? (uint64_t)strtoll(*s, &end, 0) : strtoull(*s, &end, 0);
  *s = end;
  return v;
}

static inline void onnx_number(Text *out, const char **s, char kind)
{
  char *end;
  double d;
  float f;

  if (kind == ':') {
    onnx_varint(out, onnx_integer(s));
    return;
  }
  d = strtod(*s, &end);
  f = (float)d;
  *s = end;
  text_add(out, kind == 'd' ? (const char *)&d : (const char *)&f, kind == 'd' ? 8 : 4);
}

static inline void onnx_fields(Text *out, const char **s);

static inline void onnx_group(Text *out, uint64_t field, const char **s, char open)
{
  static const char kinds[] = "[:](f)<d>";
  Text inner = {.arena = out->arena};

  if (open == '{')
    onnx_fields(&inner, s);
  for (const char *k = strchr(kinds, open); open != '{' && **s && **s != k[2]; *s += strspn(*s, " "))
    onnx_number(&inner, s, k[1]);
  assert(**s);
  ++*s;
  onnx_bytes(out, field, inner.data ? inner.data : "", inner.len);
}

static inline void onnx_field(Text *out, uint64_t field, const char **s)
{
  char kind = *(*s)++;
  const char *text = *s;
  Text hex = {.arena = out->arena};

  if (kind == '"' || kind == '\'') {
    *s = strchr(text, kind) + 1;
    onnx_bytes(out, field, text, (size_t)(*s - text - 1));
  } else if (kind == 'x') {
    onnx_hex(&hex, s);
    onnx_bytes(out, field, hex.data ? hex.data : "", hex.len);
  } else if (kind == '*') {
    size_t n = onnx_integer(s);
    onnx_bytes(out, field, arena_alloc(out->arena, n), n);
  } else if (strchr("[(<{", kind)) {
    onnx_group(out, field, s, kind);
  } else {
    assert(strchr(":fd", kind));
    onnx_varint(out, field << 3 | (kind == ':' ? 0 : kind == 'f' ? 5 : 1));
    onnx_number(out, s, kind);
  }
}

static inline void onnx_fields(Text *out, const char **s)
{
  for (*s += strspn(*s, " \n"); **s && **s != '}'; *s += strspn(*s, " \n"))
    if (**s == '!') {
      ++*s;
      onnx_hex(out, s);
    } else {
      uint64_t field = onnx_integer(s);
      onnx_field(out, field, s);
    }
}

static inline void onnx_text(Text *out, const char *s)
{
  text_add(out, "", 0);
  onnx_fields(out, &s);
  assert(!*s);
}

/* An error is one line that names the file. */
static inline bool onnx_error_is_line(const Err *e, const char *path)
{
  return e->text[0] && !strchr(e->text, '\n') && !strncmp(e->text, path, strlen(path));
}

/* ---- touching all that a model points to, and asserting what its readers rely on */

typedef struct {
  uint64_t sum;
  uint32_t values, refused; /* tensors whose elements can be had, or not */
} OnnxTouch;

static inline void onnx_touch_name(OnnxTouch *t, const char *s)
{
  assert(s && strlen(s) <= ONNX_NAME_BYTES_MAX);
  t->sum += strlen(s);
}

static inline void onnx_touch_text(OnnxTouch *t, OnnxText s)
{
  assert(s.data && !s.data[s.len]);
  t->sum += s.len;
}

static inline void onnx_touch_value(OnnxTouch *t, bool ok, const Tensor *v, const Err *e, const char *path)
{
  assert(ok ? !e->text[0] : onnx_error_is_line(e, path));
  t->values += ok;
  t->refused += !ok;
  if (!ok)
    return;
  assert(type_count(&v->type) == 0 || v->data);
  uint64_t bytes = (uint64_t)type_count(&v->type) * dtype_info[v->type.dtype].bytes;
  for (uint64_t i = 0; i < bytes; i++)
    t->sum += ((const uint8_t *)v->data)[i];
  if (v->type.dtype == DT_BOOL)
    for (uint64_t i = 0; i < bytes; i++)
      assert(((const uint8_t *)v->data)[i] <= 1);
}

static inline void onnx_touch_tensor(OnnxTouch *t, const OnnxTensor *x)
{
  Arena a = {0};
  Err e = {0}, e2 = {0};
  Tensor v;
  OnnxText *strings;

  assert(x->file && x->count >= 0);
  if (x->name)
    onnx_touch_name(t, x->name);
  bool ok = onnx_tensor_value(x, &a, &v, &e);
  assert(!ok || type_count(&v.type) == x->count);
  onnx_touch_value(t, ok, &v, &e, x->file->path);
  if (onnx_tensor_strings(x, &a, &strings, &e2))
    for (int64_t i = 0; i < x->count; i++)
      onnx_touch_text(t, strings[i]);
  else
    assert(onnx_error_is_line(&e2, x->file->path));
  arena_free(&a);
}

static inline void onnx_touch_sparse(OnnxTouch *t, const OnnxSparse *s)
{
  Arena a = {0};
  Err e = {0};
  Tensor v;

  onnx_touch_tensor(t, s->values);
  onnx_touch_tensor(t, s->indices);
  bool ok = onnx_sparse_value(s, &a, &v, &e);
  onnx_touch_value(t, ok, &v, &e, s->values->file->path);
  arena_free(&a);
}

static inline void onnx_touch_type(OnnxTouch *t, const OnnxType *x)
{
  assert(x->has_shape || x->kind == ONNX_TYPE_TENSOR || x->kind == ONNX_TYPE_SPARSE || !x->n_dims);
  for (uint32_t i = 0; i < x->n_dims; i++) {
    assert(x->dims[i]->value >= -1);
    if (x->dims[i]->param)
      onnx_touch_name(t, x->dims[i]->param);
  }
  if (x->kind == ONNX_TYPE_SEQUENCE || x->kind == ONNX_TYPE_OPTIONAL || x->kind == ONNX_TYPE_MAP)
    onnx_touch_type(t, x->item);
}

static inline void onnx_touch_infos(OnnxTouch *t, OnnxValueInfo *const *v, uint32_t n)
{
  for (uint32_t i = 0; i < n; i++) {
    onnx_touch_name(t, v[i]->name);
    onnx_touch_text(t, v[i]->doc);
    if (v[i]->type)
      onnx_touch_type(t, v[i]->type);
  }
}

static inline void onnx_touch_graph(OnnxTouch *t, const OnnxGraph *g);

static inline void onnx_touch_attr(OnnxTouch *t, const OnnxAttr *a)
{
  bool has = !a->ref_attr_name;

  onnx_touch_name(t, a->name);
  onnx_touch_text(t, a->s);
  for (uint32_t i = 0; i < a->n_ints; i++)
    t->sum += (uint64_t)a->ints[i];
  for (uint32_t i = 0; i < a->n_floats; i++)
    t->sum += a->floats[i] > 0;
  for (uint32_t i = 0; i < a->n_strings; i++)
    onnx_touch_text(t, a->strings[i]);
  for (uint32_t i = 0; i < a->n_tensors; i++)
    onnx_touch_tensor(t, a->tensors[i]);
  for (uint32_t i = 0; i < a->n_graphs; i++)
    onnx_touch_graph(t, a->graphs[i]);
  for (uint32_t i = 0; i < a->n_sparse_tensors; i++)
    onnx_touch_sparse(t, a->sparse_tensors[i]);
  for (uint32_t i = 0; i < a->n_type_protos; i++)
    onnx_touch_type(t, a->type_protos[i]);
  if (a->type == ONNX_ATTR_TENSOR && has)
    onnx_touch_tensor(t, a->t);
  if (a->type == ONNX_ATTR_GRAPH && has)
    onnx_touch_graph(t, a->g);
  if (a->type == ONNX_ATTR_SPARSE_TENSOR && has)
    onnx_touch_sparse(t, a->sparse_tensor);
  if (a->type == ONNX_ATTR_TYPE_PROTO && has)
    onnx_touch_type(t, a->tp);
}

static inline void onnx_touch_nodes(OnnxTouch *t, OnnxNode *const *nodes, uint32_t n)
{
  for (uint32_t i = 0; i < n; i++) {
    const OnnxNode *x = nodes[i];
    const char *names[] = {x->name, x->op_type, x->domain, x->overload};
    assert(x->op_type[0]);
    for (size_t k = 0; k < COUNT(names); k++)
      onnx_touch_name(t, names[k]);
    for (uint32_t k = 0; k < x->n_inputs; k++)
      onnx_touch_name(t, x->inputs[k]);
    for (uint32_t k = 0; k < x->n_outputs; k++)
      onnx_touch_name(t, x->outputs[k]);
    for (uint32_t k = 0; k < x->n_attrs; k++) {
      assert(onnx_attr(x, x->attrs[k]->name) == x->attrs[k]);
      onnx_touch_attr(t, x->attrs[k]);
    }
  }
}

static inline void onnx_touch_graph(OnnxTouch *t, const OnnxGraph *g)
{
  onnx_touch_name(t, g->name);
  onnx_touch_text(t, g->doc);
  onnx_touch_nodes(t, g->nodes, g->n_nodes);
  for (uint32_t i = 0; i < g->n_initializers; i++) {
    assert(g->initializers[i]->name);
    onnx_touch_tensor(t, g->initializers[i]);
  }
  for (uint32_t i = 0; i < g->n_sparse_initializers; i++)
    onnx_touch_sparse(t, g->sparse_initializers[i]);
  onnx_touch_infos(t, g->inputs, g->n_inputs);
  onnx_touch_infos(t, g->outputs, g->n_outputs);
  onnx_touch_infos(t, g->value_infos, g->n_value_infos);
}

static inline OnnxTouch onnx_touch(const OnnxModel *m)
{
  OnnxTouch t = {0};

  assert(m->ir_version >= 1 && m->graph && m->file);
  onnx_touch_text(&t, m->producer_name);
  onnx_touch_text(&t, m->producer_version);
  onnx_touch_text(&t, m->domain);
  onnx_touch_text(&t, m->doc);
  onnx_touch_graph(&t, m->graph);
  for (uint32_t i = 0; i < m->n_metadata; i++)
    onnx_touch_text(&t, m->metadata[i]->value);
  for (uint32_t i = 0; i < m->n_opsets; i++)
    onnx_touch_name(&t, m->opsets[i]->domain);
  for (uint32_t i = 0; i < m->n_functions; i++) {
    const OnnxFunction *f = m->functions[i];
    onnx_touch_name(&t, f->name);
    onnx_touch_name(&t, f->domain);
    onnx_touch_nodes(&t, f->nodes, f->n_nodes);
    onnx_touch_infos(&t, f->value_infos, f->n_value_infos);
    for (uint32_t k = 0; k < f->n_attribute_protos; k++)
      onnx_touch_attr(&t, f->attribute_protos[k]);
  }
  return t;
}

#endif
