/* onnx_case.c - reads a case, imports its model, compares results. */
#include "tests/e2e/support/onnx_case.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

const Tolerance onnx_case_tolerance = {1e-3, 1e-7};

static bool read_tensor(Arena *a, const char *path, Tensor *out, Err *e)
{
  OnnxTensor *t;
  return onnx_read_tensor(path, a, &t, e) && onnx_tensor_value(t, a, out, e);
}

static const char *data_path(const OnnxCase *c, const char *kind, uint32_t i)
{
  return arena_printf(c->arena, "%s/test_data_set_0/%s_%u.pb", c->dir, kind, i);
}

/* Sequences and strings are said so by the importer, which comes first: here they only must not stop it. */
static bool is_tensor(const OnnxValueInfo *v)
{
  return v->type && v->type->kind == ONNX_TYPE_TENSOR && onnx_elem(v->type->elem_type)->dtype >= 0;
}

static bool read_inputs(OnnxCase *c, Err *e)
{
  const OnnxGraph *g = c->onnx->graph;

  c->given = NEW_ARRAY(c->arena, Tensor, g->n_inputs);
  for (; c->n_given < g->n_inputs; c->n_given++) {
    const char *path = data_path(c, "input", c->n_given);
    if (access(path, R_OK) || !is_tensor(g->inputs[c->n_given]))
      break;
    if (!read_tensor(c->arena, path, &c->given[c->n_given], e))
      return false;
  }
  return true;
}

static bool read_outputs(OnnxCase *c, Err *e)
{
  const OnnxGraph *g = c->onnx->graph;

  c->n_outputs = g->n_outputs;
  c->want = NEW_ARRAY(c->arena, Tensor, g->n_outputs);
  for (uint32_t i = 0; i < g->n_outputs; i++)
    if (!read_tensor(c->arena, data_path(c, "output", i), &c->want[i], e))
      return false;
  return true;
}

static uint32_t given_index(const OnnxCase *c, const char *name)
{
  uint32_t i = 0;

  while (i < c->n_given && (!c->given[i].data || strcmp(c->onnx->graph->inputs[i]->name, name)))
    i++;
  return i;
}

/* Again, with one more constant, as long as the importer asks for one. */
static bool import(OnnxCase *c, Err *e)
{
  const OnnxGraph *g = c->onnx->graph;
  OnnxShape *shapes = NEW_ARRAY(c->arena, OnnxShape, g->n_inputs);
  OnnxFix *fixes = NEW_ARRAY(c->arena, OnnxFix, g->n_inputs);
  const char *need;
  OnnxImportOptions opt = {.shapes = shapes, .fixes = fixes, .need = &need};

  for (uint32_t i = 0; i < c->n_given; i++) {
    const Type *t = &c->given[i].type;
    if (!c->given[i].data)
      continue;
    OnnxShape *o = &shapes[opt.n_shapes++];
    *o = (OnnxShape){.name = g->inputs[i]->name, .rank = t->rank};
    memcpy(o->dim, t->dim, sizeof t->dim);
  }
  if (c->fix && given_index(c, c->fix) < c->n_given)
    fixes[opt.n_fixes++] = (OnnxFix){.name = c->fix, .tensor = &c->given[given_index(c, c->fix)]};
  for (;;) {
    *e = (Err){0};
    if (onnx_import(c->onnx, &opt, c->arena, &c->module, e))
      break;
    uint32_t i = need ? given_index(c, need) : c->n_given;
    if (i >= c->n_given || opt.n_fixes >= c->n_given)
      return false;
    fixes[opt.n_fixes++] = (OnnxFix){.name = need, .tensor = &c->given[i]};
  }
  c->n_fixed = opt.n_fixes;
  return true;
}

static bool collect_inputs(OnnxCase *c, Err *e)
{
  const Graph *g = c->module->graphs.data[0];
  uint32_t n = 0;

  c->inputs = NEW_ARRAY(c->arena, Tensor, g->nodes.len);
  for (Val v = 1; v < g->nodes.len; v++) {
    const Node *node = graph_node(g, v);
    if (node->op != OP_input)
      continue;
    uint32_t i = given_index(c, node->attr.name);
    if (i == c->n_given)
      return fail(e, "the case gives no input '%s'", node->attr.name);
    c->inputs[n++] = c->given[i];
  }
  return true;
}

bool onnx_case_import(OnnxCase *c, Err *e)
{
  return import(c, e) && collect_inputs(c, e);
}

bool onnx_case_open(OnnxCase *c, Arena *a, const char *dir, Err *e)
{
  *c = (OnnxCase){.arena = a, .dir = dir};
  return onnx_read(arena_printf(a, "%s/model.onnx", dir), a, &c->onnx, e) && read_inputs(c, e) &&
         onnx_case_import(c, e) && read_outputs(c, e);
}

void onnx_case_close(OnnxCase *c)
{
  onnx_close(c->onnx);
  c->onnx = NULL;
}

static bool near(DType t, long double got, long double want, Tolerance tol)
{
  if (dtype_info[t].kind == DK_INT)
    return got == want;
  if (isnan(want) || isinf(want))
    return isnan(want) ? isnan(got) : got == want;
  /* bf16 has steps of 2^-7: one of them is as near as two ways to round come. */
  double relative = t == DT_BF16 ? fmax(tol.relative, 0x1p-7) : tol.relative;
  return fabsl(got - want) <= (long double)tol.absolute + (long double)relative * fabsl(want);
}

static const char *type_text(const OnnxCase *c, const Type *t)
{
  Text s = {.arena = c->arena};

  type_print(t, &s);
  return s.data;
}

bool onnx_case_compare(const OnnxCase *c, const Tensor *got, Tolerance tol, Err *e)
{
  for (uint32_t k = 0; k < c->n_outputs; k++) {
    const Tensor *want = &c->want[k];
    if (!type_eq(&got[k].type, &want->type))
      return fail(e, "output %u is %s, must be %s", k, type_text(c, &got[k].type), type_text(c, &want->type));
    for (int64_t i = 0; i < type_count(&want->type); i++) {
      long double x = tensor_get(&got[k], i), y = tensor_get(want, i);
      if (!near(want->type.dtype, x, y, tol))
        return fail(e, "output %u (%s), element %lld: %.9Lg, must be %.9Lg", k, type_text(c, &want->type),
                    (long long)i, x, y);
    }
  }
  return true;
}
