/* inspect_onnx.c - the report of `micc inspect` on an ONNX file. */
#include "driver/inspect_text.h"
#include "frontend/mapping.h"

#include <inttypes.h>
#include <stdlib.h>
#include <strings.h>

enum { VALUE_COLUMNS = 24, OP_COLUMNS = 32, TENSOR_COLUMNS = 40, METADATA_BYTES = 200, TYPE_DEPTH_MAX = 8 };

/* An operator, and how many nodes use it. */
typedef struct {
  const char *domain, *op;
  uint64_t nodes;
} OpCount;

typedef struct {
  const OnnxTensor *tensor;
  const char *name; /* its own, or that of the node's output */
} NamedTensor;

typedef struct {
  Arena *arena;
  const OnnxModel *m;
  ARRAY(OpCount) ops;
  ARRAY(NamedTensor) tensors;      /* initialisers and constants, wherever they stand */
  uint64_t count[ONNX_ELEM_COUNT]; /* tensors of each type */
  uint64_t bytes[ONNX_ELEM_COUNT];
  uint64_t values;
  char sha256[65];
} Found;

/* ---- what the model consists of */

static uint64_t stored_bytes_of(const OnnxTensor *t)
{
  unsigned __int128 bits = (unsigned __int128)t->count * onnx_elem(t->data_type)->bits;
  return (uint64_t)((bits + 7) / 8);
}

static void find_tensor(Found *f, const OnnxTensor *t, const char *name)
{
  size_t elem = (size_t)(onnx_elem(t->data_type) - onnx_elem_info);

  *PUSH(f->arena, f->tensors) = (NamedTensor){t, t->name && *t->name ? t->name : name};
  f->count[elem]++;
  f->bytes[elem] += stored_bytes_of(t);
  f->values += (uint64_t)t->count;
}

static void find_in_graph(Found *f, const OnnxGraph *g);

static void find_in_nodes(Found *f, OnnxNode *const *nodes, uint32_t n)
{
  for (uint32_t i = 0; i < n; i++) {
    *PUSH(f->arena, f->ops) = (OpCount){nodes[i]->domain, nodes[i]->op_type, 1};
    for (uint32_t k = 0; k < nodes[i]->n_attrs; k++) {
      const OnnxAttr *a = nodes[i]->attrs[k];
      if (a->t)
        find_tensor(f, a->t, nodes[i]->n_outputs ? nodes[i]->outputs[0] : "");
      if (a->g)
        find_in_graph(f, a->g);
      for (uint32_t j = 0; j < a->n_graphs; j++)
        find_in_graph(f, a->graphs[j]);
    }
  }
}

static void find_in_graph(Found *f, const OnnxGraph *g)
{
  find_in_nodes(f, g->nodes, g->n_nodes);
  for (uint32_t i = 0; i < g->n_initializers; i++)
    find_tensor(f, g->initializers[i], "");
  for (uint32_t i = 0; i < g->n_sparse_initializers; i++)
    find_tensor(f, g->sparse_initializers[i]->values, "");
}

static int by_op(const void *a, const void *b)
{
  const OpCount *x = a, *y = b;
  int c = strcmp(x->domain, y->domain);
  return c ? c : strcmp(x->op, y->op);
}

static int by_nodes(const void *a, const void *b)
{
  const OpCount *x = a, *y = b;
  return x->nodes != y->nodes ? (x->nodes < y->nodes) - (x->nodes > y->nodes) : by_op(a, b);
}

/* Equal ones become one entry; the most used come first. */
static void merge_ops(Found *f)
{
  OpCount *ops = f->ops.data;
  uint32_t n = 0;

  if (!f->ops.len)
    return;
  qsort(ops, f->ops.len, sizeof *ops, by_op);
  for (uint32_t i = 1; i < f->ops.len; i++)
    if (by_op(&ops[n], &ops[i]))
      ops[++n] = ops[i];
    else
      ops[n].nodes++;
  f->ops.len = n + 1;
  qsort(ops, f->ops.len, sizeof *ops, by_nodes);
}

static void find_all(Found *f)
{
  find_in_graph(f, f->m->graph);
  for (uint32_t i = 0; i < f->m->n_functions; i++)
    find_in_nodes(f, f->m->functions[i]->nodes, f->m->functions[i]->n_nodes);
  merge_ops(f);
}

/* Old files name initialisers as inputs too: what a caller gives is the rest. Names are compared sorted. */
static int by_text_of(const void *a, const void *b)
{
  return strcmp(*(const char *const *)a, *(const char *const *)b);
}

typedef struct {
  OnnxValueInfo **data;
  uint32_t len;
} Values;

static Values inputs_of(const Found *f)
{
  const OnnxGraph *g = f->m->graph;
  const char **given = NEW_ARRAY(f->arena, const char *, g->n_initializers);
  Values v = {NEW_ARRAY(f->arena, OnnxValueInfo *, g->n_inputs), 0};

  for (uint32_t i = 0; i < g->n_initializers; i++)
    given[i] = g->initializers[i]->name;
  if (g->n_initializers)
    qsort(given, g->n_initializers, sizeof *given, by_text_of);
  for (uint32_t i = 0; i < g->n_inputs; i++)
    if (!g->n_initializers ||
        !bsearch(&g->inputs[i]->name, given, g->n_initializers, sizeof *given, by_text_of))
      v.data[v.len++] = g->inputs[i];
  return v;
}

static Values outputs_of(const Found *f)
{
  return (Values){f->m->graph->outputs, f->m->graph->n_outputs};
}

static bool says_licence(const char *key)
{
  for (; *key; key++)
    if (!strncasecmp(key, "license", 7) || !strncasecmp(key, "licence", 7))
      return true;
  return false;
}

/* ---- values as text */

static Str str_of_text(OnnxText s)
{
  return (Str){s.data, s.len};
}

static void show_dims(Text *t, const OnnxType *x)
{
  text_add(t, "[", 1);
  for (uint32_t i = 0; i < x->n_dims; i++) {
    const OnnxDim *d = x->dims[i];
    text_printf(t, "%s", i ? "," : "");
    if (d->value >= 0)
      text_printf(t, "%" PRId64, d->value);
    else
      inspect_escaped(t, inspect_str(d->param ? d->param : "?"), UINT64_MAX);
  }
  text_add(t, "]", 1);
}

/* "float[N,3,224,224]", "sequence(int64[?])"; a tensor of any rank has no brackets. */
static void show_type(Text *t, const OnnxType *x, int depth)
{
  static const char *const names[] = {
      [ONNX_TYPE_NONE] = "unknown",      [ONNX_TYPE_TENSOR] = "",           [ONNX_TYPE_SPARSE] = "sparse ",
      [ONNX_TYPE_SEQUENCE] = "sequence", [ONNX_TYPE_OPTIONAL] = "optional", [ONNX_TYPE_MAP] = "map",
      [ONNX_TYPE_OPAQUE] = "opaque",
  };
  OnnxTypeKind kind = x ? x->kind : ONNX_TYPE_NONE;

  text_printf(t, "%s", names[kind]);
  if (kind == ONNX_TYPE_TENSOR || kind == ONNX_TYPE_SPARSE) {
    text_printf(t, "%s", onnx_elem(x->elem_type)->name);
    if (x->has_shape)
      show_dims(t, x);
  } else if (kind == ONNX_TYPE_SEQUENCE || kind == ONNX_TYPE_OPTIONAL || kind == ONNX_TYPE_MAP) {
    text_printf(t, "(");
    if (kind == ONNX_TYPE_MAP)
      text_printf(t, "%s, ", onnx_elem(x->elem_type)->name);
    if (depth < TYPE_DEPTH_MAX)
      show_type(t, x->item, depth + 1);
    else
      text_printf(t, "...");
    text_printf(t, ")");
  }
}

static void show_shape(Text *t, const OnnxTensor *x, const char *between)
{
  text_add(t, "[", 1);
  for (uint32_t i = 0; i < x->n_dims; i++)
    text_printf(t, "%s%" PRId64, i ? between : "", x->dims[i]);
  text_add(t, "]", 1);
}

/* ---- for people */

static void show_text(Text *t, const char *label, OnnxText s)
{
  if (!s.len)
    return;
  inspect_line(t, label);
  if (!inspect_escaped(t, str_of_text(s), METADATA_BYTES))
    text_printf(t, "... (%" PRIu64 " bytes)", s.len);
  text_add(t, "\n", 1);
}

static void show_licence(const Found *f, Text *t)
{
  bool any = false;

  for (uint32_t i = 0; i < f->m->n_metadata; i++)
    if (says_licence(f->m->metadata[i]->key)) {
      show_text(t, any ? "" : "licence", f->m->metadata[i]->value);
      any = true;
    }
  if (!any)
    text_printf(t, "%-15sthe file states none\n", "licence");
}

static void show_opsets(const Found *f, Text *t)
{
  inspect_line(t, "opset");
  if (!f->m->n_opsets)
    text_printf(t, "%" PRId64, onnx_opset(f->m, ""));
  for (uint32_t i = 0; i < f->m->n_opsets; i++) {
    const OnnxOpset *o = f->m->opsets[i];
    text_printf(t, "%s", i ? ", " : "");
    inspect_escaped(t, inspect_str(o->domain), UINT64_MAX);
    text_printf(t, "%s%" PRId64, *o->domain ? " " : "", o->version);
  }
  text_add(t, "\n", 1);
}

static void show_external(const Found *f, Text *t)
{
  for (const OnnxFile *x = f->m->file->next; x; x = x->next) {
    inspect_line(t, x == f->m->file->next ? "external data" : "");
    inspect_escaped(t, inspect_str(x->path), UINT64_MAX);
    text_add(t, "\n", 1);
  }
}

static void show_summary(const Found *f, Text *t)
{
  const OnnxModel *m = f->m;

  inspect_line(t, "file");
  inspect_escaped(t, inspect_str(m->file->path), UINT64_MAX);
  text_printf(t, "\n%-15s%s bytes\n", "size", inspect_grouped(f->arena, m->file->bytes));
  text_printf(t, "%-15sONNX, IR version %" PRId64 "\n", "format", m->ir_version);
  text_printf(t, "%-15s%s\n", "sha256", f->sha256);
  show_opsets(f, t);
  show_text(t, "producer", m->producer_name);
  show_text(t, "", m->producer_version);
  show_text(t, "domain", m->domain);
  if (m->model_version)
    text_printf(t, "%-15s%" PRId64 "\n", "model version", m->model_version);
  show_text(t, "graph", (OnnxText){m->graph->name, strlen(m->graph->name)});
  show_text(t, "description", m->doc.len ? m->doc : m->graph->doc);
  show_licence(f, t);
  show_external(f, t);
  text_printf(t, "%-15s%s in %s tensor%s\n", "parameters", inspect_grouped(f->arena, f->values),
              inspect_grouped(f->arena, f->tensors.len), inspect_plural(f->tensors.len));
}

static void show_values(Text *t, const char *title, Values v)
{
  text_printf(t, "\n%s\n", title);
  for (uint32_t i = 0; i < v.len; i++) {
    text_add(t, "  ", 2);
    inspect_column(t, v.data[i]->name, VALUE_COLUMNS);
    show_type(t, v.data[i]->type, 0);
    text_add(t, "\n", 1);
  }
}

static void show_ops(const Found *f, Text *t)
{
  uint64_t nodes = 0;

  for (uint32_t i = 0; i < f->ops.len; i++)
    nodes += f->ops.data[i].nodes;
  text_printf(t, "\noperators, %s in %s node%s\n", inspect_grouped(f->arena, f->ops.len),
              inspect_grouped(f->arena, nodes), inspect_plural(nodes));
  for (uint32_t i = 0; i < f->ops.len; i++) {
    const OpCount *o = &f->ops.data[i];
    text_add(t, "  ", 2);
    inspect_column(t, arena_printf(f->arena, "%s%s%s", o->domain, *o->domain ? "." : "", o->op), OP_COLUMNS);
    text_printf(t, "%10s\n", inspect_grouped(f->arena, o->nodes));
  }
}

static void show_functions(const Found *f, Text *t)
{
  if (f->m->n_functions)
    text_printf(t, "\nfunctions, %s\n", inspect_grouped(f->arena, f->m->n_functions));
  for (uint32_t i = 0; i < f->m->n_functions; i++) {
    const OnnxFunction *x = f->m->functions[i];
    text_add(t, "  ", 2);
    inspect_column(t, arena_printf(f->arena, "%s%s%s", x->domain, *x->domain ? "." : "", x->name),
                   OP_COLUMNS);
    text_printf(t, "%10s node%s\n", inspect_grouped(f->arena, x->n_nodes), inspect_plural(x->n_nodes));
  }
}

static void show_types(const Found *f, Text *t)
{
  text_printf(t, "\ntensor types\n");
  for (int i = 0; i < ONNX_ELEM_COUNT; i++)
    if (f->count[i])
      text_printf(t, "  %-14s %8s tensor%-2s %20s bytes\n", onnx_elem_info[i].name,
                  inspect_grouped(f->arena, f->count[i]), inspect_plural(f->count[i]),
                  inspect_grouped(f->arena, f->bytes[i]));
}

static void show_metadata(const Found *f, Text *t)
{
  text_printf(t, "\nmetadata, %s key%s\n", inspect_grouped(f->arena, f->m->n_metadata),
              inspect_plural(f->m->n_metadata));
  for (uint32_t i = 0; i < f->m->n_metadata; i++) {
    text_add(t, "  ", 2);
    inspect_column(t, f->m->metadata[i]->key, OP_COLUMNS);
    inspect_quoted(t, str_of_text(f->m->metadata[i]->value), METADATA_BYTES);
    text_add(t, "\n", 1);
  }
}

static void show_tensors(const Found *f, Text *t)
{
  text_printf(t, "tensors, %s\n", inspect_grouped(f->arena, f->tensors.len));
  text_printf(t, "  %-*s%-14s %-20s %16s  %s\n", TENSOR_COLUMNS, "name", "type", "shape", "bytes", "offset");
  for (uint32_t i = 0; i < f->tensors.len; i++) {
    const OnnxTensor *x = f->tensors.data[i].tensor;
    Text shape = {.arena = f->arena};
    show_shape(&shape, x, ",");
    text_add(t, "  ", 2);
    inspect_column(t, f->tensors.data[i].name, TENSOR_COLUMNS);
    text_printf(t, "%-14s %-20s %16s  0x%" PRIx64 "\n", onnx_elem(x->data_type)->name, shape.data,
                inspect_grouped(f->arena, stored_bytes_of(x)), x->place.at);
  }
}

static void show(const Found *f, const InspectOptions *o, Text *t)
{
  if (!o->tensors) {
    show_summary(f, t);
    show_values(t, "inputs", inputs_of(f));
    show_values(t, "outputs", outputs_of(f));
    show_ops(f, t);
    show_functions(f, t);
    show_types(f, t);
    show_metadata(f, t);
    text_add(t, "\n", 1);
  }
  show_tensors(f, t);
}

/* ---- JSON */

static void put_text(const Found *f, cJSON *o, const char *key, OnnxText s)
{
  Text t = {.arena = f->arena};

  inspect_quoted(&t, str_of_text(s), UINT64_MAX);
  inspect_json_raw(o, key, t.data);
}

static void put_summary(const Found *f, cJSON *root)
{
  const OnnxModel *m = f->m;

  inspect_json_text(f->arena, root, "file", m->file->path);
  inspect_json_u64(f->arena, root, "size_bytes", m->file->bytes);
  inspect_json_text(f->arena, root, "format", "ONNX");
  inspect_json_u64(f->arena, root, "ir_version", (uint64_t)m->ir_version);
  inspect_json_text(f->arena, root, "sha256", f->sha256);
  put_text(f, root, "producer", m->producer_name);
  put_text(f, root, "producer_version", m->producer_version);
  put_text(f, root, "domain", m->domain);
  inspect_json_raw(root, "model_version", arena_printf(f->arena, "%" PRId64, m->model_version));
  inspect_json_text(f->arena, root, "graph", m->graph->name);
  put_text(f, root, "doc", m->doc);
  put_text(f, root, "graph_doc", m->graph->doc);
  inspect_json_u64(f->arena, root, "parameters", f->values);
  inspect_json_u64(f->arena, root, "tensor_count", f->tensors.len);
}

static void put_opsets(const Found *f, cJSON *root)
{
  cJSON *list = cJSON_AddArrayToObject(root, "opsets");

  for (uint32_t i = 0; i < f->m->n_opsets; i++) {
    cJSON *o = inspect_json_item(list);
    inspect_json_text(f->arena, o, "domain", f->m->opsets[i]->domain);
    inspect_json_u64(f->arena, o, "version", (uint64_t)f->m->opsets[i]->version);
  }
}

/* Numbers, names of free dimensions, null for those without a name. */
static void put_dims(const Found *f, cJSON *o, const OnnxType *x)
{
  Text t = {.arena = f->arena};

  text_printf(&t, "[");
  for (uint32_t i = 0; i < x->n_dims; i++) {
    const OnnxDim *d = x->dims[i];
    text_printf(&t, "%s", i ? ", " : "");
    if (d->value >= 0)
      text_printf(&t, "%" PRId64, d->value);
    else if (d->param)
      inspect_quoted(&t, inspect_str(d->param), UINT64_MAX);
    else
      text_printf(&t, "null");
  }
  text_printf(&t, "]");
  inspect_json_raw(o, "shape", t.data);
}

static void put_values(const Found *f, cJSON *root, const char *key, Values v)
{
  cJSON *list = cJSON_AddArrayToObject(root, key);

  for (uint32_t i = 0; i < v.len; i++) {
    const OnnxType *x = v.data[i]->type;
    cJSON *o = inspect_json_item(list);
    inspect_json_text(f->arena, o, "name", v.data[i]->name);
    if (x && x->kind == ONNX_TYPE_TENSOR) {
      inspect_json_text(f->arena, o, "type", onnx_elem(x->elem_type)->name);
    } else {
      Text t = {.arena = f->arena};
      show_type(&t, x, 0); /* escaped already */
      inspect_json_raw(o, "type", arena_printf(f->arena, "\"%s\"", t.data));
    }
    if (x && x->has_shape)
      put_dims(f, o, x);
    else
      cJSON_AddNullToObject(o, "shape");
  }
}

static void put_ops(const Found *f, cJSON *root)
{
  cJSON *list = cJSON_AddArrayToObject(root, "operators");

  for (uint32_t i = 0; i < f->ops.len; i++) {
    cJSON *o = inspect_json_item(list);
    inspect_json_text(f->arena, o, "domain", f->ops.data[i].domain);
    inspect_json_text(f->arena, o, "name", f->ops.data[i].op);
    inspect_json_u64(f->arena, o, "nodes", f->ops.data[i].nodes);
  }
}

static void put_functions(const Found *f, cJSON *root)
{
  cJSON *list = cJSON_AddArrayToObject(root, "functions");

  for (uint32_t i = 0; i < f->m->n_functions; i++) {
    cJSON *o = inspect_json_item(list);
    inspect_json_text(f->arena, o, "domain", f->m->functions[i]->domain);
    inspect_json_text(f->arena, o, "name", f->m->functions[i]->name);
    inspect_json_u64(f->arena, o, "nodes", f->m->functions[i]->n_nodes);
  }
}

static void put_types(const Found *f, cJSON *root)
{
  cJSON *list = cJSON_AddArrayToObject(root, "tensor_types");

  for (int i = 0; i < ONNX_ELEM_COUNT; i++) {
    if (!f->count[i])
      continue;
    cJSON *o = inspect_json_item(list);
    inspect_json_text(f->arena, o, "type", onnx_elem_info[i].name);
    inspect_json_u64(f->arena, o, "tensors", f->count[i]);
    inspect_json_u64(f->arena, o, "bytes", f->bytes[i]);
  }
}

/* `licences`: only what names one; null if nothing does. */
static void put_metadata(const Found *f, cJSON *root, const char *key, bool licences)
{
  cJSON *o = cJSON_CreateObject();

  for (uint32_t i = 0; i < f->m->n_metadata; i++)
    if (!licences || says_licence(f->m->metadata[i]->key))
      put_text(f, o, f->m->metadata[i]->key, f->m->metadata[i]->value);
  if (!licences || o->child) {
    cJSON_AddItemToObject(root, key, o);
  } else {
    cJSON_Delete(o);
    cJSON_AddNullToObject(root, key);
  }
}

static void put_external(const Found *f, cJSON *root)
{
  cJSON *list = cJSON_AddArrayToObject(root, "external_data");

  for (const OnnxFile *x = f->m->file->next; x; x = x->next) {
    Text t = {.arena = f->arena};
    inspect_quoted(&t, inspect_str(x->path), UINT64_MAX);
    cJSON_AddItemToArray(list, cJSON_CreateRaw(t.data));
  }
}

static void put_tensors(const Found *f, cJSON *root)
{
  cJSON *list = cJSON_AddArrayToObject(root, "tensors");

  for (uint32_t i = 0; i < f->tensors.len; i++) {
    const OnnxTensor *x = f->tensors.data[i].tensor;
    Text shape = {.arena = f->arena};
    cJSON *o = inspect_json_item(list);
    inspect_json_text(f->arena, o, "name", f->tensors.data[i].name);
    inspect_json_text(f->arena, o, "type", onnx_elem(x->data_type)->name);
    show_shape(&shape, x, ", ");
    inspect_json_raw(o, "shape", shape.data);
    inspect_json_u64(f->arena, o, "bytes", stored_bytes_of(x));
    inspect_json_u64(f->arena, o, "offset", x->place.at);
  }
}

static void put(const Found *f, const InspectOptions *o, Text *t)
{
  cJSON *root = inspect_json_new();

  if (!o->tensors) {
    put_summary(f, root);
    put_opsets(f, root);
    put_metadata(f, root, "license", true);
    put_values(f, root, "inputs", inputs_of(f));
    put_values(f, root, "outputs", outputs_of(f));
    put_ops(f, root);
    put_functions(f, root);
    put_types(f, root);
    put_metadata(f, root, "metadata", false);
    put_external(f, root);
  }
  put_tensors(f, root);
  inspect_json_print(root, t);
}

bool inspect_onnx(const InspectOptions *o, Arena *a, Text *out, OnnxModel **m, Err *e)
{
  Found f = {.arena = a};

  if (!onnx_read(o->path, a, m, e))
    return false;
  f.m = *m;
  find_all(&f);
  if (!o->tensors)
    mapping_sha256((Mapping){f.m->file->data, f.m->file->bytes}, f.sha256);
  (o->json ? put : show)(&f, o, out);
  return true;
}
