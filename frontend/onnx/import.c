/* import.c - from an ONNX model to a module with one dense graph: inputs, initialisers, nodes in order, outputs.
 *
 * Functions are imported where they are called, graphs inside nodes where their node stands (op_control.c), so the
 * result is one flat list of core ops. */
#include "frontend/onnx/import_scope.h"
#include "frontend/onnx/onnx_ops.h"

enum { DEPTH_MAX = 64 }; /* of functions and graphs in each other: a function may call itself */

/* ---- initialisers */

/* Names of weights are unique in a module. Folded constants are "%1", "%2" ..; a name that could be taken for one
 * of them, or that stands in a nested graph, which may be imported often, gets a number before it. */
static const char *weight_name(Import *im, const char *name)
{
  if (name && name[0] && name[0] != '%' && !im->depth)
    return name;
  return arena_printf(im->arena, "%%%u.%s", im->folded++, name ? name : "");
}

static bool add_initializer(Import *im, const char *name, const Tensor *t)
{
  Val before;

  if (!im->scope->outer && im_lookup(im, name, &before)) /* --fix gives another value */
    return true;
  im->from = name;
  Val v = im_weight(im, weight_name(im, name), t);
  im_bind(im, name, v);
  return v != 0;
}

static bool add_initializers(Import *im, const OnnxGraph *g)
{
  Tensor t;

  for (uint32_t i = 0; i < g->n_initializers; i++)
    if (!onnx_tensor_value(g->initializers[i], im->arena, &t, im->err) ||
        !add_initializer(im, g->initializers[i]->name, &t))
      return false;
  for (uint32_t i = 0; i < g->n_sparse_initializers; i++)
    if (!onnx_sparse_value(g->sparse_initializers[i], im->arena, &t, im->err) ||
        !add_initializer(im, g->sparse_initializers[i]->values->name, &t))
      return false;
  return true;
}

/* ---- nodes */

const OnnxFunction *im_function(const Import *im, const OnnxNode *n)
{
  for (uint32_t i = 0; i < im->model->n_functions; i++) {
    const OnnxFunction *f = im->model->functions[i];
    if (!strcmp(f->name, n->op_type) && !strcmp(f->domain, n->domain) && !strcmp(f->overload, n->overload))
      return f;
  }
  return NULL;
}

typedef struct {
  ImScope *scope;
  const OnnxNode *node;
  const char *from;
} Place;

static bool enter(Import *im, ImScope *s, Place *before)
{
  *before = (Place){im->scope, im->node, im->from};
  if (im->depth >= DEPTH_MAX)
    return im_fail(im, im->node, "more than %d graphs and functions in each other", DEPTH_MAX);
  im->depth++;
  im->scope = s;
  return true;
}

static void leave(Import *im, const Place *before)
{
  im->depth--;
  im->scope = before->scope;
  im->node = before->node;
  im->from = before->from;
}

static bool output_value(Import *im, const OnnxNode *n, const char *name, Val *v)
{
  *v = 0;
  return (im_lookup(im, name, v) && *v) || im_fail(im, n, "no node gives its output '%s'", name);
}

static bool import_nodes(Import *im, OnnxNode *const *nodes, uint32_t n);

static bool function_body(Import *im, const OnnxNode *n, const OnnxFunction *f, Val *out)
{
  if (!import_nodes(im, f->nodes, f->n_nodes))
    return false;
  for (uint32_t i = 0; i < f->n_outputs; i++)
    if (!im_wants(im, n, i))
      out[i] = 0;
    else if (!output_value(im, n, f->outputs[i], &out[i]))
      return false;
  return true;
}

static bool call_function(Import *im, const OnnxNode *n, const OnnxFunction *f)
{
  ImScope *s = im_scope_new(im, NULL);
  Val *in = NEW_ARRAY(im->arena, Val, f->n_inputs), *out = NEW_ARRAY(im->arena, Val, f->n_outputs);
  Place before;

  s->function = f;
  s->call = n;
  s->caller = im->scope;
  for (uint32_t i = 0; i < f->n_inputs; i++)
    in[i] = im_any(im, n, i);
  if (!im_ok(im) || !enter(im, s, &before))
    return false;
  for (uint32_t i = 0; i < f->n_inputs; i++)
    im_bind(im, f->inputs[i], in[i]);
  bool ok = function_body(im, n, f, out);
  leave(im, &before);
  for (uint32_t i = 0; ok && i < f->n_outputs; i++)
    ok = !im_wants(im, n, i) || im_out(im, n, i, out[i]);
  return ok;
}

static bool import_node(Import *im, const OnnxNode *n)
{
  const OnnxFunction *f = im_function(im, n);
  int later;

  im->node = n;
  im->from = n->name[0] ? n->name : n->n_outputs ? n->outputs[0] : n->op_type;
  if (f)
    return call_function(im, n, f);
  const OnnxOp *op = onnx_op_find(n->domain, n->op_type, im_opset(im, n), &later);
  if (!op)
    return import_check_ops(im, true) && im_fail(im, n, "the operator is not supported");
  return (op->handler(im, n) && im_ok(im)) || im_fail(im, n, "is not supported in this form");
}

static bool import_nodes(Import *im, OnnxNode *const *nodes, uint32_t n)
{
  for (uint32_t i = 0; i < n; i++)
    if (!import_node(im, nodes[i]))
      return false;
  return true;
}

/* ---- graphs inside nodes */

static bool graph_body(Import *im, const OnnxGraph *g, Val *outputs)
{
  const OnnxNode *n = im->node;

  if (!add_initializers(im, g) || !import_nodes(im, g->nodes, g->n_nodes))
    return false;
  for (uint32_t i = 0; i < g->n_outputs; i++)
    if (!output_value(im, n, g->outputs[i]->name, &outputs[i]))
      return false;
  return true;
}

bool im_graph(Import *im, const OnnxGraph *g, const Val *in, uint32_t n_in, Val *outputs)
{
  Place before;

  if (g->n_inputs != n_in)
    return im_fail(im, im->node, "its graph takes %u inputs, must take %u", g->n_inputs, n_in);
  if (!im_ok(im) || !enter(im, im_scope_new(im, im->scope), &before))
    return false;
  for (uint32_t i = 0; i < n_in; i++)
    im_bind(im, g->inputs[i]->name, in[i]);
  bool ok = graph_body(im, g, outputs);
  leave(im, &before);
  return ok;
}

/* ---- the model */

static bool add_outputs(Import *im, const OnnxGraph *g)
{
  for (uint32_t i = 0; i < g->n_outputs; i++) {
    const char *name = g->outputs[i]->name;
    Val v = 0;
    if (!name || !name[0])
      return im_fail(im, NULL, "output %u has no name", i);
    if (!im_lookup(im, name, &v) || !v)
      return im_fail(im, NULL, "no node gives output '%s'", name);
    if (im_sequence(im, v))
      return im_fail(im, NULL, "output '%s' is a sequence of tensors, which is not supported", name);
    im->from = name;
    im_emit(im, OP_output, &v, 1, (Attr){.name = name}, NULL);
  }
  return g->n_outputs ? im_ok(im) : im_fail(im, NULL, "the model has no outputs");
}

static void note_restored(Import *im)
{
  if (im->restored.nodes)
    im_note(im, "MatMulNBits: the weights of %u node%s are stored as floats, %llu bytes in place of %llu",
            im->restored.nodes, im->restored.nodes > 1 ? "s" : "", (unsigned long long)im->restored.stored,
            (unsigned long long)im->restored.packed);
}

bool onnx_import(const OnnxModel *m, const OnnxImportOptions *opt, Arena *a, Module **out, Err *e)
{
  Import im = {.arena = a, .module = module_new(a), .model = m, .opt = opt, .err = e};

  if (opt->need)
    *opt->need = NULL;
  im.graph = graph_new_dense(im.module, "run");
  im.scope = im_scope_new(&im, NULL);
  im.from = m->graph->name;
  if (!import_check_ops(&im, false) || !import_inputs(&im) || !add_initializers(&im, m->graph) ||
      !import_nodes(&im, m->graph->nodes, m->graph->n_nodes) || !add_outputs(&im, m->graph))
    return false;
  import_sweep(&im);
  note_restored(&im);
  *out = im.module;
  return module_verify(im.module, e);
}
