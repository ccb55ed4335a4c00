/* import_node.c - what a handler reads from its node and gives back: names, inputs, outputs, attributes.
 *
 * Scopes nest: a graph inside a node sees the names around it; a function's body sees none but its own, and
 * takes attributes from the node that calls it. */
#include "frontend/onnx/import_scope.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>

enum { SEQUENCE_ITEMS_MAX = 1 << 22 }; /* unrolled loops end here */

/* ---- messages */

static const char *node_name(const OnnxNode *n)
{
  if (n->name[0])
    return n->name;
  return n->n_outputs && n->outputs[0][0] ? n->outputs[0] : "unnamed";
}

bool im_fail(Import *im, const OnnxNode *n, const char *fmt, ...)
{
  char text[768];
  va_list ap;

  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  if (!n)
    return fail(im->err, "%s: %s", im->model->file->path, text);
  return fail(im->err, "%s: node '%s' (%s): %s", onnx_where(im->model, &n->place, im->arena), node_name(n),
              n->op_type, text);
}

void im_note(Import *im, const char *fmt, ...)
{
  char text[768];
  va_list ap;

  if (!im->opt->notes)
    return;
  va_start(ap, fmt);
  vsnprintf(text, sizeof text, fmt, ap);
  va_end(ap);
  text_printf(im->opt->notes, "%s\n", text);
}

/* ---- scopes */

ImScope *im_scope_new(Import *im, ImScope *outer)
{
  ImScope *s = NEW(im->arena, ImScope);

  s->outer = outer;
  s->cap = 16;
  s->slots = arena_array(im->arena, sizeof *s->slots, s->cap);
  return s;
}

static uint32_t slot_of(const ImScope *s, const char *name)
{
  uint32_t i = (uint32_t)hash_bytes(name, strlen(name), 0) & (s->cap - 1);

  while (s->slots[i].name && strcmp(s->slots[i].name, name))
    i = (i + 1) & (s->cap - 1);
  return i;
}

static void scope_grow(Import *im, ImScope *s)
{
  ImScope old = *s;

  s->cap *= 2;
  s->slots = arena_array(im->arena, sizeof *s->slots, s->cap);
  for (uint32_t i = 0; i < old.cap; i++)
    if (old.slots[i].name)
      s->slots[slot_of(s, old.slots[i].name)] = old.slots[i];
}

void im_bind(Import *im, const char *name, Val v)
{
  ImScope *s = im->scope;

  if (2 * (s->len + 1) > s->cap)
    scope_grow(im, s);
  uint32_t i = slot_of(s, name);
  s->len += s->slots[i].name == NULL;
  s->slots[i].name = name;
  s->slots[i].v = v;
}

bool im_lookup(const Import *im, const char *name, Val *v)
{
  for (const ImScope *s = im->scope; s; s = s->outer) {
    uint32_t i = slot_of(s, name);
    if (s->slots[i].name) {
      *v = s->slots[i].v;
      return true;
    }
  }
  return false;
}

/* The function around s, or NULL. */
static const ImScope *function_scope(const ImScope *s)
{
  while (s && !s->function)
    s = s->outer;
  return s;
}

/* ---- inputs and outputs */

uint32_t im_in_count(const OnnxNode *n)
{
  uint32_t count = n->n_inputs;

  while (count && !n->inputs[count - 1][0])
    count--;
  return count;
}

Val im_any(Import *im, const OnnxNode *n, uint32_t i)
{
  Val v = 0;

  if (i >= n->n_inputs || !n->inputs[i][0])
    return 0;
  if (!im_lookup(im, n->inputs[i], &v))
    im_fail(im, n, "input '%s' is not defined before it", n->inputs[i]);
  return v;
}

Val im_opt(Import *im, const OnnxNode *n, uint32_t i)
{
  Val v = im_any(im, n, i);

  if (!im_sequence(im, v))
    return v;
  im_fail(im, n, "input '%s' is a sequence of tensors", n->inputs[i]);
  return 0;
}

Val im_in(Import *im, const OnnxNode *n, uint32_t i)
{
  Val v = im_opt(im, n, i);

  if (!v)
    im_fail(im, n, "input %u is missing", i);
  return v;
}

bool im_has(const Import *im, const OnnxNode *n, uint32_t i)
{
  Val v;
  return i < n->n_inputs && n->inputs[i][0] && (!im_lookup(im, n->inputs[i], &v) || v);
}

bool im_wants(const Import *im, const OnnxNode *n, uint32_t i)
{
  (void)im;
  return i < n->n_outputs && n->outputs[i][0];
}

bool im_out(Import *im, const OnnxNode *n, uint32_t i, Val v)
{
  if (!im_ok(im))
    return false;
  if (!v)
    return im_fail(im, n, "output %u has no value", i);
  if (im_wants(im, n, i))
    im_bind(im, n->outputs[i], v);
  return true;
}

/* ---- sequences */

const ImSequence *im_sequence(const Import *im, Val v)
{
  uint32_t lo = 0, hi = im->sequences.len;

  while (lo < hi) {
    uint32_t at = (lo + hi) / 2;
    if (im->sequences.data[at].name < v)
      lo = at + 1;
    else
      hi = at;
  }
  return lo < im->sequences.len && im->sequences.data[lo].name == v ? &im->sequences.data[lo] : NULL;
}

const ImSequence *im_in_sequence(Import *im, const OnnxNode *n, uint32_t i)
{
  static const ImSequence none;
  Val v = im_any(im, n, i);
  const ImSequence *s = im_sequence(im, v);

  if (!s)
    im_fail(im, n, v ? "input %u is no sequence" : "input %u is missing", i);
  return s ? s : &none;
}

/* Its name is a node of its own: not shared with an equal constant. */
Val im_sequence_new(Import *im, const Val *items, uint32_t len)
{
  static const Type scalar = {.dtype = DT_F32};

  if (!im_ok(im))
    return 0;
  if (len > SEQUENCE_ITEMS_MAX - im->sequence_items) {
    im_fail(im, im->node, "more than %d tensors in sequences", SEQUENCE_ITEMS_MAX);
    return 0;
  }
  im->sequence_items += len;
  Val v = graph_add(im->graph, OP_const, NULL, 0, (Attr){0}, &scalar);
  *PUSH(im->arena, im->sequences) = (ImSequence){v, arena_copy(im->arena, items, len * sizeof *items), len};
  return v;
}

int64_t im_opset(const Import *im, const OnnxNode *n)
{
  const ImScope *s = function_scope(im->scope);

  for (uint32_t i = 0; s && i < s->function->n_opsets; i++)
    if (!strcmp(s->function->opsets[i]->domain, n->domain))
      return s->function->opsets[i]->version;
  int64_t version = onnx_opset(im->model, n->domain);
  return version ? version : 1;
}

bool im_is(const OnnxNode *n, const char *op_type)
{
  return !strcmp(n->op_type, op_type);
}

/* ---- attributes */

static const OnnxAttr *default_of(const OnnxFunction *f, const char *name)
{
  for (uint32_t i = 0; i < f->n_attribute_protos; i++)
    if (!strcmp(f->attribute_protos[i]->name, name) && !f->attribute_protos[i]->ref_attr_name)
      return f->attribute_protos[i];
  return NULL;
}

const OnnxAttr *im_attr(Import *im, const OnnxNode *n, const char *name)
{
  const OnnxAttr *a = onnx_attr(n, name);
  const ImScope *s = im->scope;

  while (a && a->ref_attr_name) {
    const char *ref = a->ref_attr_name;
    s = function_scope(s);
    if (!s)
      return NULL;
    a = onnx_attr(s->call, ref);
    if (!a)
      return default_of(s->function, ref);
    s = s->caller;
  }
  return a;
}

static const char *const kinds[ONNX_ATTR_COUNT] = {
    [ONNX_ATTR_FLOAT] = "a number",          [ONNX_ATTR_INT] = "an integer",
    [ONNX_ATTR_STRING] = "a text",           [ONNX_ATTR_TENSOR] = "a tensor",
    [ONNX_ATTR_GRAPH] = "a graph",           [ONNX_ATTR_FLOATS] = "a list of numbers",
    [ONNX_ATTR_INTS] = "a list of integers",
};

static const OnnxAttr *attr_of(Import *im, const OnnxNode *n, const char *name, OnnxAttrType type)
{
  const OnnxAttr *a = im_attr(im, n, name);

  if (!a || a->type == (int32_t)type)
    return a;
  im_fail(im, n, "attribute '%s' must be %s", name, kinds[type]);
  return NULL;
}

int64_t im_int(Import *im, const OnnxNode *n, const char *name, int64_t otherwise)
{
  const OnnxAttr *a = attr_of(im, n, name, ONNX_ATTR_INT);
  return a ? a->i : otherwise;
}

double im_float(Import *im, const OnnxNode *n, const char *name, double otherwise)
{
  const OnnxAttr *a = attr_of(im, n, name, ONNX_ATTR_FLOAT);
  return a ? (double)a->f : otherwise;
}

const char *im_str(Import *im, const OnnxNode *n, const char *name, const char *otherwise)
{
  const OnnxAttr *a = attr_of(im, n, name, ONNX_ATTR_STRING);
  return a ? a->s.data : otherwise;
}

Ints im_ints(Import *im, const OnnxNode *n, const char *name)
{
  const OnnxAttr *a = attr_of(im, n, name, ONNX_ATTR_INTS);
  return a ? (Ints){a->ints, a->n_ints, true} : (Ints){0};
}

Floats im_floats(Import *im, const OnnxNode *n, const char *name)
{
  const OnnxAttr *a = attr_of(im, n, name, ONNX_ATTR_FLOATS);

  if (!a)
    return (Floats){0};
  double *x = NEW_ARRAY(im->arena, double, a->n_floats);
  for (uint32_t i = 0; i < a->n_floats; i++)
    x[i] = (double)a->floats[i];
  return (Floats){x, a->n_floats, true};
}

bool im_tensor(Import *im, const OnnxNode *n, const char *name, Tensor *out)
{
  const OnnxAttr *a = attr_of(im, n, name, ONNX_ATTR_TENSOR);
  Err why = {0};

  if (!a)
    return false;
  return onnx_tensor_value(a->t, im->arena, out, &why) ||
         im_fail(im, n, "attribute '%s': %s", name, why.text);
}

const OnnxGraph *im_graph_attr(Import *im, const OnnxNode *n, const char *name)
{
  const OnnxAttr *a = attr_of(im, n, name, ONNX_ATTR_GRAPH);

  if (!a)
    im_fail(im, n, "attribute '%s' is missing", name);
  return a ? a->g : NULL;
}

DType im_dtype(Import *im, int64_t onnx_type)
{
  const OnnxElemInfo *info = onnx_elem(onnx_type > 0 && onnx_type < ONNX_ELEM_COUNT ? (int32_t)onnx_type : 0);

  if (info->dtype >= 0)
    return (DType)info->dtype;
  im_fail(im, im->node, "element type %lld (%s) is not supported", (long long)onnx_type, info->name);
  return DT_F32;
}

DType im_dtype_attr(Import *im, const OnnxNode *n, const char *name, DType otherwise)
{
  return im_attr(im, n, name) ? im_dtype(im, im_int(im, n, name, 0)) : otherwise;
}

/* ---- attribute or input, by the opset */

Ints im_ints_of(Import *im, const OnnxNode *n, int i, const char *name)
{
  if (i >= 0 && im_has(im, n, (uint32_t)i))
    return im_need_ints(im, n, im_in(im, n, (uint32_t)i), name ? name : n->inputs[i]);
  return name ? im_ints(im, n, name) : (Ints){0};
}

Floats im_floats_of(Import *im, const OnnxNode *n, int i, const char *name)
{
  if (i >= 0 && im_has(im, n, (uint32_t)i))
    return im_need_floats(im, n, im_in(im, n, (uint32_t)i), name ? name : n->inputs[i]);
  return name ? im_floats(im, n, name) : (Floats){0};
}

double im_float_of(Import *im, const OnnxNode *n, int i, const char *name, double otherwise)
{
  if (i < 0 || !im_has(im, n, (uint32_t)i))
    return name ? im_float(im, n, name, otherwise) : otherwise;
  Floats f = im_floats_of(im, n, i, NULL);
  if (f.len != 1)
    im_fail(im, n, "input '%s' must be one number", n->inputs[i]);
  return f.len == 1 ? f.data[0] : otherwise;
}

int64_t im_int_of(Import *im, const OnnxNode *n, int i, const char *name, int64_t otherwise)
{
  if (i < 0 || !im_has(im, n, (uint32_t)i))
    return name ? im_int(im, n, name, otherwise) : otherwise;
  Ints x = im_ints_of(im, n, i, NULL);
  if (x.len != 1)
    im_fail(im, n, "input '%s' must be one number", n->inputs[i]);
  return x.len == 1 ? x.data[0] : otherwise;
}

/* ---- axes */

uint32_t im_axis(Import *im, const OnnxNode *n, int64_t axis, uint32_t rank)
{
  if (axis >= -(int64_t)rank && axis < (int64_t)rank)
    return (uint32_t)(axis < 0 ? axis + rank : axis);
  im_fail(im, n, "axis %lld of %u dimensions", (long long)axis, rank);
  return 0;
}

uint32_t im_axis_attr(Import *im, const OnnxNode *n, const char *name, int64_t otherwise, uint32_t rank)
{
  return im_axis(im, n, im_int(im, n, name, otherwise), rank);
}

uint32_t im_axes(Import *im, const OnnxNode *n, Ints axes, uint32_t rank)
{
  uint32_t mask = 0;

  if (!axes.given)
    return (1u << rank) - 1;
  for (uint32_t i = 0; i < axes.len; i++) {
    uint32_t bit = 1u << im_axis(im, n, axes.data[i], rank);
    if (mask & bit)
      im_fail(im, n, "axis %lld stands twice", (long long)axes.data[i]);
    mask |= bit;
  }
  return mask;
}
