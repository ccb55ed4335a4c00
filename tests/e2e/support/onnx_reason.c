/* onnx_reason.c - see onnx_reason.h. What is outside follows from the model alone: its types, its operators, and whether
 * it asks for training. */
#include "tests/e2e/support/onnx_reason.h"

enum {
  TRAINING,
  STRING,
  SEQUENCE,
  OPTIONAL,
  MAP,
  RANDOM,
  IMAGE,
  CLASSICAL,
  TEXT,
  DYNAMIC,
  NOISE,
  OPERATOR,
  NONE
};

const OnnxReason onnx_reasons[] = {
    [TRAINING] = {"training", "optimizers, gradients, and operators in training mode", true},
    [STRING] = {"strings", "tensors of texts: kernels have no such type", true},
    [SEQUENCE] = {"sequences", "lists of tensors as inputs or outputs of the model", true},
    [OPTIONAL] = {"optional values", "inputs or outputs of the model that may be there or not", true},
    [MAP] = {"maps", "tables from keys to values", true},
    [RANDOM] = {"random numbers", "the suite's own results are not made to be compared either", false},
    [IMAGE] = {"image files", "a decoder of JPEG, PNG, WebP ... is no part of a network", false},
    [CLASSICAL] = {"classical models", "ai.onnx.ml: trees, tables and scalers beside networks", false},
    [TEXT] = {"features of texts", "n-grams are counted outside of a network", false},
    [DYNAMIC] =
        {"shapes that depend on data",
         "the result has as many rows as there can be; those behind the last one that data selects are -1",
         false},
    [NOISE] = {"noise",
               "the suite's value is rounding of its own f32 arithmetic, further from the exact 0 than its "
               "tolerance",
               false},
    [OPERATOR] = {"operators", "the importer does not have them (yet)", false},
    [NONE] = {"unexplained", "these must not be", false},
};
const uint32_t onnx_reason_count = COUNT(onnx_reasons);

/* ---- walking */

typedef struct {
  void (*fn)(void *ctx, const OnnxNode *n);
  void *ctx;
} Walk;

static void walk_graph(const Walk *w, const OnnxGraph *g);

static void walk_nodes(const Walk *w, OnnxNode *const *nodes, uint32_t n)
{
  for (uint32_t i = 0; i < n; i++) {
    w->fn(w->ctx, nodes[i]);
    for (uint32_t a = 0; a < nodes[i]->n_attrs; a++)
      if (nodes[i]->attrs[a]->type == ONNX_ATTR_GRAPH)
        walk_graph(w, nodes[i]->attrs[a]->g);
  }
}

static void walk_graph(const Walk *w, const OnnxGraph *g)
{
  walk_nodes(w, g->nodes, g->n_nodes);
}

void onnx_each_node(const OnnxModel *m, void (*fn)(void *ctx, const OnnxNode *n), void *ctx)
{
  Walk w = {fn, ctx};

  walk_graph(&w, m->graph);
  for (uint32_t i = 0; i < m->n_functions; i++)
    walk_nodes(&w, m->functions[i]->nodes, m->functions[i]->n_nodes);
}

/* ---- what the model's types say */

static uint32_t type_bits(const OnnxType *t)
{
  static const int kinds[] = {[ONNX_TYPE_SEQUENCE] = SEQUENCE,
                              [ONNX_TYPE_OPTIONAL] = OPTIONAL,
                              [ONNX_TYPE_MAP] = MAP,
                              [ONNX_TYPE_OPAQUE] = NONE};
  uint32_t bits = 0;

  for (; t && t->item; t = t->item)
    bits |= 1u << kinds[t->kind];
  return bits | (t && t->kind == ONNX_TYPE_TENSOR && t->elem_type == ONNX_STRING) << STRING;
}

static uint32_t types_bits(OnnxValueInfo *const *v, uint32_t n)
{
  uint32_t bits = 0;

  for (uint32_t i = 0; i < n; i++)
    bits |= type_bits(v[i]->type);
  return bits;
}

/* ---- what its operators say */

static const struct {
  const char *part; /* of the operator's name, or its domain */
  uint32_t reason;
} parts[] = {
    {"ai.onnx.preview.training", TRAINING},
    {"Sequence", SEQUENCE},
    {"Optional", OPTIONAL},
    {"String", STRING},
    {"Regex", STRING},
    {"Random", RANDOM},
    {"Bernoulli", RANDOM},
    {"Multinomial", RANDOM},
    {"ImageDecoder", IMAGE},
    {"ai.onnx.ml", CLASSICAL},
    {"TfIdf", TEXT},
    {"NonMaxSuppression", DYNAMIC},
};

/* Dropout is told by an input since opset 12. */
static bool is_training(const OnnxNode *n)
{
  const OnnxAttr *a = onnx_attr(n, "training_mode");
  return (a && a->i) || (!strcmp(n->op_type, "Dropout") && n->n_inputs == 3 && n->inputs[2][0]);
}

static void node_bits(void *ctx, const OnnxNode *n)
{
  uint32_t *bits = ctx;

  for (uint32_t i = 0; i < COUNT(parts); i++)
    if (strstr(n->op_type, parts[i].part) || strstr(n->domain, parts[i].part))
      *bits |= 1u << parts[i].reason;
  *bits |= (uint32_t)is_training(n) << TRAINING;
}

static uint32_t model_bits(const OnnxModel *m)
{
  const OnnxGraph *g = m->graph;
  uint32_t bits = types_bits(g->inputs, g->n_inputs) | types_bits(g->outputs, g->n_outputs) |
                  types_bits(g->value_infos, g->n_value_infos);

  onnx_each_node(m, node_bits, &bits);
  return bits;
}

uint32_t onnx_reason_outside(const OnnxModel *m)
{
  uint32_t bits = model_bits(m), i = 0;

  while (i < onnx_reason_count && !(onnx_reasons[i].outside && bits >> i & 1))
    i++;
  return i;
}

/* ---- what the message says */

static const struct {
  const char *part;
  uint32_t reason;
} messages[] = {
    {"not supported:", OPERATOR},
    {"element 101: 3.06161689e-15, must be 1.90734866e-07", NOISE}, /* DFT, inverse */
};

uint32_t onnx_reason_of(const OnnxModel *m, const char *why)
{
  uint32_t bits = model_bits(m);

  for (uint32_t i = RANDOM; i <= DYNAMIC; i++)
    if (bits >> i & 1)
      return i;
  for (uint32_t i = 0; i < COUNT(messages); i++)
    if (strstr(why, messages[i].part))
      return messages[i].reason;
  return NONE;
}
