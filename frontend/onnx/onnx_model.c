/* onnx_model.c - the messages of onnx.proto as tables, what is checked of each, and reading a whole model.
 *
 * Source: onnx.proto of IR version 14 (onnx-ml). Fields that say nothing of what a model computes
 * (doc strings of nodes, device configurations, training) have no rows. */
#include "frontend/mapping.h"
#include "frontend/onnx/onnx_wire.h"

#include <inttypes.h>
#include <stdlib.h>

#define ONE(T, m, proto, kind, sub)  {proto, WIRE_##kind, offsetof(T, m), 0, sub}
#define MANY(T, m, proto, kind, sub) {proto, WIRE_##kind, offsetof(T, m), offsetof(T, n_##m), sub}
#define LATER(proto)                 {proto, WIRE_LATER, 0, 0, NULL}
#define PART(proto, sub)             {proto, WIRE_PART, 0, 0, sub}
#define MESSAGE(id, name, bytes, shift, finish)                                                              \
  static const WireMessage id##_message = {name, bytes, id##_fields, COUNT(id##_fields), shift, finish}

static const WireMessage graph_message, type_message; /* messages that hold each other */

static bool finish_tensor(Wire *w, void *s);
static bool finish_sparse(Wire *w, void *s);
static bool finish_dim(Wire *w, void *s);
static bool finish_type(Wire *w, void *s);
static bool finish_value_info(Wire *w, void *s);
static bool finish_attr(Wire *w, void *s);
static bool finish_node(Wire *w, void *s);
static bool finish_graph(Wire *w, void *s);
static bool finish_opset(Wire *w, void *s);
static bool finish_function(Wire *w, void *s);
static bool finish_prop(Wire *w, void *s);

static const WireField prop_fields[] = {
    [1] = ONE(OnnxProp, key, "key", NAME, NULL),
    [2] = ONE(OnnxProp, value, "value", TEXT, NULL),
};
MESSAGE(prop, "metadata", sizeof(OnnxProp), 0, finish_prop);

static const WireField tensor_fields[] = {
    [1] = MANY(OnnxTensor, dims, "dims", INT64, NULL),
    [2] = ONE(OnnxTensor, data_type, "data_type", INT32, NULL),
    [4] = LATER("float_data"),
    [5] = LATER("int32_data"),
    [6] = LATER("string_data"),
    [7] = LATER("int64_data"),
    [8] = ONE(OnnxTensor, name, "name", NAME, NULL),
    [9] = ONE(OnnxTensor, raw, "raw_data", SLICE, NULL),
    [10] = LATER("double_data"),
    [11] = LATER("uint64_data"),
    [13] = MANY(OnnxTensor, external_data, "external_data", STRUCT, &prop_message),
    [14] = ONE(OnnxTensor, data_location, "data_location", INT32, NULL),
};
const WireMessage onnx_tensor_message = {
    "tensor", sizeof(OnnxTensor), tensor_fields, COUNT(tensor_fields), 0, finish_tensor,
};

static const WireField sparse_fields[] = {
    [1] = ONE(OnnxSparse, values, "values", STRUCT, &onnx_tensor_message),
    [2] = ONE(OnnxSparse, indices, "indices", STRUCT, &onnx_tensor_message),
    [3] = MANY(OnnxSparse, dims, "dims", INT64, NULL),
};
MESSAGE(sparse, "sparse tensor", sizeof(OnnxSparse), 0, finish_sparse);

static const WireField dim_fields[] = {
    [1] = ONE(OnnxDim, value, "dim_value", INT64, NULL),
    [2] = ONE(OnnxDim, param, "dim_param", NAME, NULL),
};
MESSAGE(dim, "dimension", sizeof(OnnxDim), 0, finish_dim);

/* The parts of a type share its `has`: bits from 16 for what stands in its kind, from 24 for a shape. */
enum { TYPE_BITS = 16, SHAPE_BITS = 24, HAS_SHAPE = 1 << (TYPE_BITS + 2) };

static const WireField shape_fields[] = {[1] = MANY(OnnxType, dims, "dim", STRUCT, &dim_message)};
MESSAGE(shape, "shape", 0, SHAPE_BITS, NULL);

static const WireField tensor_type_fields[] = {
    [1] = ONE(OnnxType, elem_type, "elem_type", INT32, NULL),
    [2] = PART("shape", &shape_message),
};
MESSAGE(tensor_type, "tensor type", 0, TYPE_BITS, NULL);

static const WireField item_fields[] = {[1] = ONE(OnnxType, item, "elem_type", STRUCT, &type_message)};
MESSAGE(item, "type", 0, TYPE_BITS, NULL);

static const WireField map_fields[] = {
    [1] = ONE(OnnxType, elem_type, "key_type", INT32, NULL),
    [2] = ONE(OnnxType, item, "value_type", STRUCT, &type_message),
};
MESSAGE(map, "map type", 0, TYPE_BITS, NULL);

static const WireField type_fields[] = {
    [1] = PART("tensor_type", &tensor_type_message),
    [4] = PART("sequence_type", &item_message),
    [5] = PART("map_type", &map_message),
    [7] = LATER("opaque_type"),
    [8] = PART("sparse_tensor_type", &tensor_type_message),
    [9] = PART("optional_type", &item_message),
};
static const WireMessage type_message = {
    "type", sizeof(OnnxType), type_fields, COUNT(type_fields), 0, finish_type,
};

static const WireField value_info_fields[] = {
    [1] = ONE(OnnxValueInfo, name, "name", NAME, NULL),
    [2] = ONE(OnnxValueInfo, type, "type", STRUCT, &type_message),
    [3] = ONE(OnnxValueInfo, doc, "doc_string", TEXT, NULL),
};
MESSAGE(value_info, "value info", sizeof(OnnxValueInfo), 0, finish_value_info);

static const WireField attr_fields[] = {
    [1] = ONE(OnnxAttr, name, "name", NAME, NULL),
    [2] = ONE(OnnxAttr, f, "f", FLOAT, NULL),
    [3] = ONE(OnnxAttr, i, "i", INT64, NULL),
    [4] = ONE(OnnxAttr, s, "s", TEXT, NULL),
    [5] = ONE(OnnxAttr, t, "t", STRUCT, &onnx_tensor_message),
    [6] = ONE(OnnxAttr, g, "g", STRUCT, &graph_message),
    [7] = MANY(OnnxAttr, floats, "floats", FLOAT, NULL),
    [8] = MANY(OnnxAttr, ints, "ints", INT64, NULL),
    [9] = MANY(OnnxAttr, strings, "strings", TEXT, NULL),
    [10] = MANY(OnnxAttr, tensors, "tensors", STRUCT, &onnx_tensor_message),
    [11] = MANY(OnnxAttr, graphs, "graphs", STRUCT, &graph_message),
    [14] = ONE(OnnxAttr, tp, "tp", STRUCT, &type_message),
    [15] = MANY(OnnxAttr, type_protos, "type_protos", STRUCT, &type_message),
    [20] = ONE(OnnxAttr, type, "type", INT32, NULL),
    [21] = ONE(OnnxAttr, ref_attr_name, "ref_attr_name", NAME, NULL),
    [22] = ONE(OnnxAttr, sparse_tensor, "sparse_tensor", STRUCT, &sparse_message),
    [23] = MANY(OnnxAttr, sparse_tensors, "sparse_tensors", STRUCT, &sparse_message),
};
MESSAGE(attr, "attribute", sizeof(OnnxAttr), 0, finish_attr);

static const WireField node_fields[] = {
    [1] = MANY(OnnxNode, inputs, "input", NAME, NULL),
    [2] = MANY(OnnxNode, outputs, "output", NAME, NULL),
    [3] = ONE(OnnxNode, name, "name", NAME, NULL),
    [4] = ONE(OnnxNode, op_type, "op_type", NAME, NULL),
    [5] = MANY(OnnxNode, attrs, "attribute", STRUCT, &attr_message),
    [7] = ONE(OnnxNode, domain, "domain", NAME, NULL),
    [8] = ONE(OnnxNode, overload, "overload", NAME, NULL),
};
MESSAGE(node, "node", sizeof(OnnxNode), 0, finish_node);

static const WireField graph_fields[] = {
    [1] = MANY(OnnxGraph, nodes, "node", STRUCT, &node_message),
    [2] = ONE(OnnxGraph, name, "name", NAME, NULL),
    [5] = MANY(OnnxGraph, initializers, "initializer", STRUCT, &onnx_tensor_message),
    [10] = ONE(OnnxGraph, doc, "doc_string", TEXT, NULL),
    [11] = MANY(OnnxGraph, inputs, "input", STRUCT, &value_info_message),
    [12] = MANY(OnnxGraph, outputs, "output", STRUCT, &value_info_message),
    [13] = MANY(OnnxGraph, value_infos, "value_info", STRUCT, &value_info_message),
    [15] = MANY(OnnxGraph, sparse_initializers, "sparse_initializer", STRUCT, &sparse_message),
    [16] = MANY(OnnxGraph, metadata, "metadata_props", STRUCT, &prop_message),
};
static const WireMessage graph_message = {
    "graph", sizeof(OnnxGraph), graph_fields, COUNT(graph_fields), 0, finish_graph,
};

static const WireField opset_fields[] = {
    [1] = ONE(OnnxOpset, domain, "domain", NAME, NULL),
    [2] = ONE(OnnxOpset, version, "version", INT64, NULL),
};
MESSAGE(opset, "opset import", sizeof(OnnxOpset), 0, finish_opset);

static const WireField function_fields[] = {
    [1] = ONE(OnnxFunction, name, "name", NAME, NULL),
    [4] = MANY(OnnxFunction, inputs, "input", NAME, NULL),
    [5] = MANY(OnnxFunction, outputs, "output", NAME, NULL),
    [6] = MANY(OnnxFunction, attributes, "attribute", NAME, NULL),
    [7] = MANY(OnnxFunction, nodes, "node", STRUCT, &node_message),
    [8] = ONE(OnnxFunction, doc, "doc_string", TEXT, NULL),
    [9] = MANY(OnnxFunction, opsets, "opset_import", STRUCT, &opset_message),
    [10] = ONE(OnnxFunction, domain, "domain", NAME, NULL),
    [11] = MANY(OnnxFunction, attribute_protos, "attribute_proto", STRUCT, &attr_message),
    [12] = MANY(OnnxFunction, value_infos, "value_info", STRUCT, &value_info_message),
    [13] = ONE(OnnxFunction, overload, "overload", NAME, NULL),
};
MESSAGE(function, "function", sizeof(OnnxFunction), 0, finish_function);

static const WireField model_fields[] = {
    [1] = ONE(OnnxModel, ir_version, "ir_version", INT64, NULL),
    [2] = ONE(OnnxModel, producer_name, "producer_name", TEXT, NULL),
    [3] = ONE(OnnxModel, producer_version, "producer_version", TEXT, NULL),
    [4] = ONE(OnnxModel, domain, "domain", TEXT, NULL),
    [5] = ONE(OnnxModel, model_version, "model_version", INT64, NULL),
    [6] = ONE(OnnxModel, doc, "doc_string", TEXT, NULL),
    [7] = ONE(OnnxModel, graph, "graph", STRUCT, &graph_message),
    [8] = MANY(OnnxModel, opsets, "opset_import", STRUCT, &opset_message),
    [14] = MANY(OnnxModel, metadata, "metadata_props", STRUCT, &prop_message),
    [25] = MANY(OnnxModel, functions, "functions", STRUCT, &function_message),
};
MESSAGE(model, "model", sizeof(OnnxModel), 0, NULL);

/* ---- what is checked, and completed */

static const char *or_empty(const char *s)
{
  return s ? s : "";
}

/* Both spellings of ONNX's own domain become "". */
static const char *plain_domain(const char *s)
{
  return s && strcmp(s, "ai.onnx") ? s : "";
}

static bool finish_prop(Wire *w, void *s)
{
  OnnxProp *p = s;

  (void)w;
  p->key = or_empty(p->key);
  p->value.data = or_empty(p->value.data);
  return true;
}

/* Elements of these dimensions. Also with a 0 among them the product of the others must fit, so that any
 * order of multiplying does. */
static bool count_elements(Wire *w, const OnnxPlace *at, const char *what, const int64_t *dims, uint32_t n,
                           int64_t *count)
{
  int64_t product = 1;
  bool empty = false;

  if (n > ONNX_DIMS_MAX)
    return wire_bad(w, at->at, "%s: %" PRIu32 " dimensions, expected at most %d", what, n, ONNX_DIMS_MAX);
  for (uint32_t i = 0; i < n; i++) {
    empty |= dims[i] == 0;
    if (dims[i] < 0)
      return wire_bad(w, at->at, "%s: dimension of size %" PRId64, what, dims[i]);
    if (dims[i] && __builtin_mul_overflow(product, dims[i], &product))
      return wire_bad(w, at->at, "%s: the dimensions make 2^63 elements or more", what);
  }
  *count = empty ? 0 : product;
  return true;
}

static bool finish_tensor(Wire *w, void *s)
{
  OnnxTensor *t = s;

  t->file = w->file;
  w->tensors++;
  return count_elements(w, &t->place, "tensor", t->dims, t->n_dims, &t->count) && onnx_external_find(w, t);
}

static bool finish_sparse(Wire *w, void *s)
{
  OnnxSparse *t = s;

  if (!t->values || !t->indices)
    return wire_bad(w, t->place.at, "sparse tensor: no %s", t->values ? "indices" : "values");
  return count_elements(w, &t->place, "sparse tensor", t->dims, t->n_dims, &t->count);
}

static bool finish_dim(Wire *w, void *s)
{
  OnnxDim *d = s;

  (void)w;
  if (!(d->place.has & 1U << 1) || d->value < 0) /* some writers have -1 for a free dimension */
    d->value = -1;
  if (d->param && !*d->param)
    d->param = NULL;
  return true;
}

static bool finish_type(Wire *w, void *s)
{
  static const struct {
    uint32_t field;
    OnnxTypeKind kind;
  } kinds[] = {{1, ONNX_TYPE_TENSOR}, {4, ONNX_TYPE_SEQUENCE}, {5, ONNX_TYPE_MAP},
               {7, ONNX_TYPE_OPAQUE}, {8, ONNX_TYPE_SPARSE},   {9, ONNX_TYPE_OPTIONAL}};
  OnnxType *t = s;

  for (size_t i = 0; i < COUNT(kinds); i++)
    if (t->place.has & 1U << kinds[i].field) {
      if (t->kind)
        return wire_bad(w, t->place.at, "type: is of two kinds");
      t->kind = kinds[i].kind;
    }
  t->has_shape = t->place.has & HAS_SHAPE && (t->kind == ONNX_TYPE_TENSOR || t->kind == ONNX_TYPE_SPARSE);
  if ((t->kind == ONNX_TYPE_SEQUENCE || t->kind == ONNX_TYPE_MAP || t->kind == ONNX_TYPE_OPTIONAL) &&
      !t->item)
    return wire_bad(w, t->place.at, "type: its elements have no type");
  return t->n_dims <= ONNX_DIMS_MAX ||
         wire_bad(w, t->place.at, "type: %" PRIu32 " dimensions, expected at most %d", t->n_dims,
                  ONNX_DIMS_MAX);
}

static bool finish_value_info(Wire *w, void *s)
{
  OnnxValueInfo *v = s;

  (void)w;
  v->name = or_empty(v->name);
  v->doc.data = or_empty(v->doc.data);
  return true;
}

/* By type: the field that holds the value. */
static const uint8_t attr_field[ONNX_ATTR_COUNT] = {
    [ONNX_ATTR_FLOAT] = 2,          [ONNX_ATTR_INT] = 3,
    [ONNX_ATTR_STRING] = 4,         [ONNX_ATTR_TENSOR] = 5,
    [ONNX_ATTR_GRAPH] = 6,          [ONNX_ATTR_FLOATS] = 7,
    [ONNX_ATTR_INTS] = 8,           [ONNX_ATTR_STRINGS] = 9,
    [ONNX_ATTR_TENSORS] = 10,       [ONNX_ATTR_GRAPHS] = 11,
    [ONNX_ATTR_SPARSE_TENSOR] = 22, [ONNX_ATTR_SPARSE_TENSORS] = 23,
    [ONNX_ATTR_TYPE_PROTO] = 14,    [ONNX_ATTR_TYPE_PROTOS] = 15,
};

/* Files of IR version 1 state no type. */
static void find_attr_type(OnnxAttr *a)
{
  for (int32_t k = 1; k < ONNX_ATTR_COUNT && !a->type; k++)
    if (a->place.has & 1U << attr_field[k])
      a->type = k;
}

static bool finish_attr(Wire *w, void *s)
{
  OnnxAttr *a = s;

  a->name = or_empty(a->name);
  a->s.data = or_empty(a->s.data);
  if (a->ref_attr_name && !*a->ref_attr_name)
    a->ref_attr_name = NULL;
  find_attr_type(a);
  if (a->type < 0 || a->type >= ONNX_ATTR_COUNT)
    return wire_bad(w, a->place.at, "attribute '%s': type %" PRId32 ", expected 1 to %d",
                    wire_shown(w, a->name), a->type, ONNX_ATTR_COUNT - 1);
  bool absent = (a->type == ONNX_ATTR_TENSOR && !a->t) || (a->type == ONNX_ATTR_GRAPH && !a->g) ||
                (a->type == ONNX_ATTR_SPARSE_TENSOR && !a->sparse_tensor) ||
                (a->type == ONNX_ATTR_TYPE_PROTO && !a->tp);
  return !absent || a->ref_attr_name ||
         wire_bad(w, a->place.at, "attribute '%s': the value is missing", wire_shown(w, a->name));
}

static int by_name(const void *a, const void *b)
{
  return strcmp((*(OnnxAttr *const *)a)->name, (*(OnnxAttr *const *)b)->name);
}

/* Sorting, not comparing all with all: no choice of names makes it slow. */
static bool check_attrs(Wire *w, OnnxAttr *const *attrs, uint32_t n)
{
  if (n < 2)
    return true;
  OnnxAttr **sorted = arena_copy(w->arena, attrs, n * sizeof *attrs);
  qsort(sorted, n, sizeof *sorted, by_name);
  for (uint32_t i = 1; i < n; i++)
    if (!by_name(&sorted[i - 1], &sorted[i]))
      return wire_bad(w, sorted[i]->place.at, "attribute '%s' is there twice",
                      wire_shown(w, sorted[i]->name));
  return true;
}

static bool finish_node(Wire *w, void *s)
{
  OnnxNode *n = s;

  n->name = or_empty(n->name);
  n->overload = or_empty(n->overload);
  n->domain = plain_domain(n->domain);
  if (!n->op_type || !*n->op_type)
    return wire_bad(w, n->place.at, "node '%s': no op_type", wire_shown(w, n->name));
  return check_attrs(w, n->attrs, n->n_attrs);
}

static bool finish_graph(Wire *w, void *s)
{
  OnnxGraph *g = s;

  g->name = or_empty(g->name);
  g->doc.data = or_empty(g->doc.data);
  for (uint32_t i = 0; i < g->n_initializers; i++)
    if (!g->initializers[i]->name)
      return wire_bad(w, g->initializers[i]->place.at, "initializer: no name");
  for (uint32_t i = 0; i < g->n_sparse_initializers; i++)
    if (!g->sparse_initializers[i]->values->name)
      return wire_bad(w, g->sparse_initializers[i]->place.at, "sparse initializer: no name");
  return true;
}

static bool finish_opset(Wire *w, void *s)
{
  OnnxOpset *o = s;

  o->domain = plain_domain(o->domain);
  return o->version >= 0 || wire_bad(w, o->place.at, "opset import: version %" PRId64, o->version);
}

static bool finish_function(Wire *w, void *s)
{
  OnnxFunction *f = s;

  f->name = or_empty(f->name);
  f->domain = plain_domain(f->domain);
  f->overload = or_empty(f->overload);
  f->doc.data = or_empty(f->doc.data);
  return check_attrs(w, f->attribute_protos, f->n_attribute_protos);
}

static bool finish_model(Wire *w, OnnxModel *m)
{
  OnnxText *texts[] = {&m->producer_name, &m->producer_version, &m->domain, &m->doc};

  for (size_t i = 0; i < COUNT(texts); i++)
    texts[i]->data = or_empty(texts[i]->data);
  if (m->ir_version < 1 || m->ir_version > ONNX_IR_VERSION_MAX)
    return wire_bad(w, 0, "IR version %" PRId64 ", expected 1 to %d", m->ir_version, ONNX_IR_VERSION_MAX);
  m->tensors = w->tensors;
  return m->graph || wire_bad(w, 0, "the model has no graph");
}

/* ---- what is asked of a model */

const OnnxAttr *onnx_attr(const OnnxNode *n, const char *name)
{
  for (uint32_t i = 0; i < n->n_attrs; i++)
    if (!strcmp(n->attrs[i]->name, name))
      return n->attrs[i];
  return NULL;
}

int64_t onnx_opset(const OnnxModel *m, const char *domain)
{
  for (uint32_t i = 0; i < m->n_opsets; i++)
    if (!strcmp(m->opsets[i]->domain, domain))
      return m->opsets[i]->version;
  /* Before IR version 3 files imported nothing, and meant the first. */
  return !*domain && m->ir_version < 3 && !m->n_opsets;
}

const char *onnx_where(const OnnxModel *m, const OnnxPlace *at, Arena *a)
{
  return arena_printf(a, "%s:0x%" PRIx64, mapping_shown_path(m->file->path), at->at);
}

/* ---- is it a model at all */

/* Follows the model's fields: all must be known, and of their type. A file that was cut off still counts, if its
 * version was seen. */
bool onnx_probe(const uint8_t *data, uint64_t bytes)
{
  static const uint32_t others = 1U << 20 | 1U << 26; /* training, device configurations: no rows */
  uint64_t pos = 0, key, value;
  bool version = false, graph = false;

  while (pos < bytes) {
    if (!wire_varint(data, &pos, bytes, &key) || key >> 3 == 0 || key >> 3 > 26)
      return false;
    uint32_t number = (uint32_t)(key >> 3);
    if (!(others >> number & 1) && !(number < COUNT(model_fields) && model_fields[number].kind))
      return false;
    if ((key & 7) != (number == 1 || number == 5 ? WIRE_VARINT : WIRE_BYTES) ||
        !wire_varint(data, &pos, bytes, &value))
      return false;
    version |= number == 1 && value >= 1 && value <= ONNX_IR_VERSION_MAX;
    graph |= number == 7;
    if ((key & 7) == WIRE_BYTES && value > bytes - pos)
      return version;
    pos += (key & 7) == WIRE_BYTES ? value : 0;
  }
  return version && graph;
}

/* ---- reading */

static bool parse(Wire *w, Mapping map, const char *path, OnnxModel **out)
{
  OnnxModel *m = NEW(w->arena, OnnxModel);

  w->data = map.data;
  w->file = NEW(w->arena, OnnxFile);
  *w->file = (OnnxFile){.path = arena_strdup(w->arena, path), .data = map.data, .bytes = map.bytes};
  if (!wire_read(w, &model_message, 0, map.bytes, m) || !finish_model(w, m))
    return false;
  m->file = w->file;
  *out = m;
  return true;
}

/* What changes after mem_try() lives in the caller: setjmp() forgets this frame's own. */
static bool parse_or_out_of_memory(Wire *w, Mapping map, const char *path, OnnxModel **out)
{
  MemTrap trap;

  if (!mem_try(&trap))
    return fail(w->e, "%s: out of memory while reading", mapping_shown_path(path));
  bool ok = parse(w, map, path, out);
  mem_done(&trap);
  return ok;
}

bool onnx_parse(const uint8_t *data, uint64_t bytes, const char *path, Arena *a, OnnxModel **out, Err *e)
{
  Wire w = {.path = path, .arena = a, .e = e};

  *out = NULL;
  return parse_or_out_of_memory(&w, (Mapping){data, bytes}, path, out);
}

bool onnx_read(const char *path, Arena *a, OnnxModel **out, Err *e)
{
  Mapping map;

  *out = NULL;
  if (!mapping_open(path, &map, e))
    return false;
  bool ok = onnx_parse(map.data, map.bytes, path, a, out, e);
  if (ok)
    (*out)->file->mapped = true;
  else
    mapping_close(map);
  return ok;
}

void onnx_close(OnnxModel *m)
{
  for (OnnxFile *f = m ? m->file : NULL; f; f = f->next) {
    if (!f->mapped)
      continue;
    mapping_close((Mapping){f->data, f->bytes});
    f->mapped = false;
    f->data = NULL;
  }
}
