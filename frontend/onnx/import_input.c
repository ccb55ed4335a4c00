/* import_input.c - the model's inputs: numbers for free dimensions (--shape), constants for fixed inputs (--fix).
 *
 * A free dimension takes, in this order: what --shape says for the input, what --shape says for the dimension's name,
 * what another input gave to that name; a free batch becomes 1. All that stay free are an error. */
#include "frontend/onnx/import_scope.h"

#include <errno.h>
#include <stdlib.h>

typedef struct {
  const char *name;
  int64_t value;
} Symbol;

typedef struct {
  Import *im;
  ARRAY(Symbol) symbols;
  Text free_dims;
} Inputs;

static const OnnxShape *shape_option(const Import *im, const char *name)
{
  for (uint32_t i = 0; i < im->opt->n_shapes; i++)
    if (!strcmp(im->opt->shapes[i].name, name))
      return &im->opt->shapes[i];
  return NULL;
}

static const OnnxFix *fix_option(const Import *im, const char *name)
{
  for (uint32_t i = 0; i < im->opt->n_fixes; i++)
    if (!strcmp(im->opt->fixes[i].name, name))
      return &im->opt->fixes[i];
  return NULL;
}

static bool is_initializer(const OnnxGraph *g, const char *name)
{
  for (uint32_t i = 0; i < g->n_initializers; i++)
    if (!strcmp(g->initializers[i]->name, name))
      return true;
  for (uint32_t i = 0; i < g->n_sparse_initializers; i++)
    if (!strcmp(g->sparse_initializers[i]->values->name, name))
      return true;
  return false;
}

static const OnnxValueInfo *find_input(const OnnxGraph *g, const char *name)
{
  for (uint32_t i = 0; i < g->n_inputs; i++)
    if (!strcmp(g->inputs[i]->name, name))
      return g->inputs[i];
  return NULL;
}

/* ---- symbols */

static bool define(Inputs *s, const char *name, int64_t value)
{
  for (uint32_t i = 0; i < s->symbols.len; i++)
    if (!strcmp(s->symbols.data[i].name, name))
      return s->symbols.data[i].value == value ||
             im_fail(s->im, NULL, "dimension '%s' cannot be both %lld and %lld", name,
                     (long long)s->symbols.data[i].value, (long long)value);
  *PUSH(s->im->arena, s->symbols) = (Symbol){name, value};
  return true;
}

static bool symbol(const Inputs *s, const char *name, int64_t *value)
{
  for (uint32_t i = 0; name && i < s->symbols.len; i++)
    if (!strcmp(s->symbols.data[i].name, name)) {
      *value = s->symbols.data[i].value;
      return true;
    }
  return false;
}

/* 1x3xHx?: numbers where they are known, names of the others. */
static const char *shape_text(Inputs *s, const OnnxType *t)
{
  Text out = {.arena = s->im->arena};

  for (uint32_t i = 0; i < t->n_dims; i++) {
    int64_t value = t->dims[i]->value;
    text_printf(&out, "%s", i ? "x" : "");
    if (value >= 0 || symbol(s, t->dims[i]->param, &value))
      text_printf(&out, "%lld", (long long)value);
    else
      text_printf(&out, "%s", t->dims[i]->param && t->dims[i]->param[0] ? t->dims[i]->param : "?");
  }
  return out.len ? out.data : "";
}

/* What --shape says of an input must fit what the model says, and gives values to its symbols. */
static bool use_shape_option(Inputs *s, const OnnxValueInfo *v, const OnnxShape *o)
{
  const OnnxType *t = v->type;

  if (!t || t->kind != ONNX_TYPE_TENSOR || !t->has_shape)
    return true;
  bool fits = t->n_dims == o->rank;
  for (uint32_t i = 0; fits && i < o->rank; i++) {
    const OnnxDim *d = t->dims[i];
    fits = d->value < 0 || d->value == o->dim[i];
    if (fits && d->value < 0 && d->param && d->param[0] && !define(s, d->param, o->dim[i]))
      return false;
  }
  return fits || im_fail(s->im, NULL, "--shape %s: the model has %s", v->name, shape_text(s, t));
}

static bool uses_symbol(const OnnxGraph *g, const char *name)
{
  for (uint32_t i = 0; i < g->n_inputs; i++) {
    const OnnxType *t = g->inputs[i]->type;
    for (uint32_t k = 0; t && k < t->n_dims; k++)
      if (t->dims[k]->param && !strcmp(t->dims[k]->param, name))
        return true;
  }
  return false;
}

static bool use_options(Inputs *s)
{
  const OnnxGraph *g = s->im->model->graph;

  for (uint32_t i = 0; i < s->im->opt->n_shapes; i++) {
    const OnnxShape *o = &s->im->opt->shapes[i];
    const OnnxValueInfo *v = find_input(g, o->name);
    if (v && !use_shape_option(s, v, o))
      return false;
    if (!v && (o->rank != 1 || !uses_symbol(g, o->name)))
      return im_fail(s->im, NULL, "--shape %s: the model has no such input or dimension", o->name);
    if (!v && !define(s, o->name, o->dim[0]))
      return false;
  }
  for (uint32_t i = 0; i < s->im->opt->n_fixes; i++)
    if (!find_input(g, s->im->opt->fixes[i].name))
      return im_fail(s->im, NULL, "--fix %s: the model has no such input", s->im->opt->fixes[i].name);
  return true;
}

/* ---- types */

static bool is_tensor(Inputs *s, const OnnxValueInfo *v)
{
  if (v->type && v->type->kind == ONNX_TYPE_TENSOR)
    return true;
  return im_fail(s->im, NULL,
                 "input '%s' is no tensor (sequences, maps and optional values are not supported)", v->name);
}

static bool elem_type(Inputs *s, const OnnxValueInfo *v, DType *out)
{
  const OnnxElemInfo *info = onnx_elem(v->type->elem_type);

  *out = (DType)info->dtype;
  return info->dtype >= 0 ||
         im_fail(s->im, NULL, "input '%s' holds elements of type %s, which is not supported", v->name,
                 info->name);
}

/* The first dimension, and the second of a recurrent state [layers, batch, size]. */
static bool is_batch(const OnnxType *t, uint32_t i)
{
  return i == 0 || (i == 1 && t->n_dims == 3 && t->dims[0]->value > 1 && t->dims[2]->value > 1);
}

/* The number of a dimension that the model leaves free, or -1 where nobody gave one. */
static int64_t free_dim(Inputs *s, const OnnxValueInfo *v, uint32_t i)
{
  const char *name = v->type->dims[i]->param;
  int64_t value = -1;

  if (name && !name[0])
    name = NULL;
  if (symbol(s, name, &value) || !is_batch(v->type, i))
    return value;
  im_note(s->im, "input '%s': the free dimension %s is taken as 1 (another: --shape %s)", v->name,
          name ? name : arena_printf(s->im->arena, "%u", i),
          name ? arena_printf(s->im->arena, "%s=NUMBER", name)
               : arena_printf(s->im->arena, "%s=%s", v->name, shape_text(s, v->type)));
  if (name)
    define(s, name, 1);
  return 1;
}

/* Batches first: their names may stand at other places of inputs that come before. */
static void take_batches(Inputs *s)
{
  const OnnxGraph *g = s->im->model->graph;

  for (uint32_t i = 0; i < g->n_inputs; i++) {
    const OnnxValueInfo *v = g->inputs[i];
    bool free_batch =
        v->type && v->type->kind == ONNX_TYPE_TENSOR && v->type->n_dims && v->type->dims[0]->value < 0;
    const char *name = free_batch ? v->type->dims[0]->param : NULL;
    if (name && name[0] && !shape_option(s->im, v->name) && !fix_option(s->im, v->name) &&
        !is_initializer(g, v->name))
      free_dim(s, v, 0);
  }
}

static bool input_type(Inputs *s, const OnnxValueInfo *v, Type *t)
{
  const OnnxShape *o = shape_option(s->im, v->name);
  bool missing = false;

  *t = (Type){0};
  if (!is_tensor(s, v) || !elem_type(s, v, &t->dtype))
    return false;
  if (o) {
    *t = type_of(t->dtype, o->rank, o->dim);
    return true;
  }
  if (!v->type->has_shape)
    return im_fail(s->im, NULL, "input '%s' has no shape: give it with --shape %s=1x3x224x224 or the like",
                   v->name, v->name);
  if (v->type->n_dims > MAX_RANK)
    return im_fail(s->im, NULL, "input '%s' has %u dimensions, at most %d are supported", v->name,
                   v->type->n_dims, MAX_RANK);
  t->rank = v->type->n_dims;
  for (uint32_t i = 0; i < t->rank; i++) {
    t->dim[i] = v->type->dims[i]->value >= 0 ? v->type->dims[i]->value : free_dim(s, v, i);
    missing |= t->dim[i] < 0;
  }
  if (missing)
    text_printf(&s->free_dims, "%s--shape %s=%s", s->free_dims.len ? ", " : "", v->name,
                shape_text(s, v->type));
  return true;
}

/* ---- fixed values */

static uint32_t count_numbers(const char *text)
{
  uint32_t n = 1;

  for (; *text; text++)
    n += *text == ',';
  return n;
}

/* One number of the text under a type; *end: behind it. */
static bool read_number(const char *p, Tensor *t, int64_t i, char **end)
{
  bool yes = !strncmp(p, "true", 4), no = !strncmp(p, "false", 5);

  errno = 0;
  if (yes || no) {
    *end = (char *)(uintptr_t)(p + (yes ? 4 : 5));
    tensor_set(t, i, yes);
    return true;
  }
  if (dtype_info[t->type.dtype].kind != DK_INT) {
    tensor_set(t, i, strtold(p, end));
  } else {
    int64_t x = t->type.dtype == DT_U64 ? (int64_t)strtoull(p, end, 0) : strtoll(p, end, 0);
    tensor_set_int(t, i, x);
    if (t->type.dtype != DT_U64 && tensor_get_int(t, i) != x)
      return false;
  }
  return *end != p && errno != ERANGE;
}

/* The shape of `n` values: the input's own; its one free dimension follows from n. */
static bool fixed_type(Inputs *s, const OnnxValueInfo *v, uint32_t n, Type *t)
{
  const OnnxType *want = v->type;
  int64_t known = 1, free_at = -1;

  t->rank = n > 1;
  t->dim[0] = n;
  if (!want->has_shape || want->n_dims > MAX_RANK)
    return true;
  t->rank = want->n_dims;
  for (uint32_t i = 0; i < t->rank; i++) {
    t->dim[i] = want->dims[i]->value;
    if (t->dim[i] < 0 && !symbol(s, want->dims[i]->param, &t->dim[i]) && free_at < 0)
      free_at = i;
    else if (t->dim[i] < 0)
      t->dim[i] = 1;
    known *= i == free_at ? 1 : t->dim[i];
  }
  if (free_at >= 0)
    t->dim[free_at] = known ? n / known : 0;
  return known * (free_at >= 0 ? t->dim[free_at] : 1) == n || n == 1 ||
         im_fail(s->im, NULL, "--fix %s: %u values, the input is %s", v->name, n, shape_text(s, want));
}

static Val fixed_text(Inputs *s, const OnnxValueInfo *v, const char *text)
{
  Type t = {0};
  uint32_t n = count_numbers(text), i = 0;

  if (!elem_type(s, v, &t.dtype) || !fixed_type(s, v, n, &t))
    return 0;
  Tensor value = im_tensor_new(s->im, t);
  int64_t count = value.data ? type_count(&t) : 0;
  const char *p = text;
  for (; i < n && i < count; i++) {
    char *end;
    if (!read_number(p, &value, i, &end) || *end != (i + 1 < n ? ',' : 0)) {
      im_fail(s->im, NULL, "--fix %s=%s: number %u is no %s", v->name, text, i + 1, dtype_info[t.dtype].name);
      return 0;
    }
    p = end + 1;
  }
  for (; i < count; i++)
    tensor_set(&value, i, tensor_get(&value, 0));
  return im_const_tensor(s->im, &value);
}

static Val fixed_value(Inputs *s, const OnnxValueInfo *v, const OnnxFix *fix)
{
  DType want;

  if (!is_tensor(s, v) || !elem_type(s, v, &want))
    return 0;
  if (fix->text)
    return fixed_text(s, v, fix->text);
  if (fix->tensor->type.dtype != want) {
    im_fail(s->im, NULL, "--fix %s: the value is %s, must be %s", v->name,
            dtype_info[fix->tensor->type.dtype].name, dtype_info[want].name);
    return 0;
  }
  return im_const_tensor(s->im, fix->tensor);
}

/* ---- all of them */

static bool add_input(Inputs *s, const OnnxValueInfo *v)
{
  Import *im = s->im;
  const OnnxFix *fix = fix_option(im, v->name);
  Type t;
  Val in;

  if (!fix && is_initializer(im->model->graph, v->name))
    return true;
  im->from = v->name;
  if (fix) {
    in = fixed_value(s, v, fix);
  } else {
    if (!input_type(s, v, &t))
      return false;
    if (s->free_dims.len)
      return true; /* the others are looked at too, then all are reported */
    in = im_emit(im, OP_input, NULL, 0, (Attr){.name = v->name}, &t);
  }
  im_bind(im, v->name, in);
  return in != 0;
}

bool import_inputs(Import *im)
{
  const OnnxGraph *g = im->model->graph;
  Inputs s = {.im = im, .free_dims = {.arena = im->arena}};

  if (!use_options(&s))
    return false;
  take_batches(&s);
  for (uint32_t i = 0; i < g->n_inputs; i++)
    if (!add_input(&s, g->inputs[i]))
      return false;
  return !s.free_dims.len || im_fail(im, NULL, "free dimensions need numbers: give %s", s.free_dims.data);
}
