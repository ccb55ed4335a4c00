/* import_check.c - lists everything in a model that cannot be imported, at once and with what would help. */
#include "frontend/onnx/import_scope.h"
#include "frontend/onnx/onnx_ops.h"

#include <stdio.h>

enum { MESSAGE_OPS = 6 }; /* in the error's line; if there are more, the notes have all */

typedef struct {
  const OnnxNode *first;
  int64_t opset;
  uint32_t count;
  int later;
} Missing;

typedef struct {
  Import *im;
  bool branches;
  ARRAY(Missing) missing;
  ARRAY(const OnnxFunction *) done;
} Check;

static const struct {
  const char *part; /* of the op's name, or its domain */
  const char *help;
} hints[] = {
    {"String", "process texts outside of the model"},
    {"Regex", "process texts outside of the model"},
    {"TfIdf", "process texts outside of the model"},
    {"Random", "give random numbers as an input"},
    {"Multinomial", "give random numbers as an input"},
    {"Gradient", "export for inference, without training"},
    {"training", "export for inference, without training"},
    {"ai.onnx.ml", "keep classical models and tables outside of the network"},
};

static const char *help_for(const Missing *m, char *buf, size_t size)
{
  if (m->later) {
    snprintf(buf, size, "export with opset %d or later", m->later);
    return buf;
  }
  for (uint32_t i = 0; i < COUNT(hints); i++)
    if (strstr(m->first->op_type, hints[i].part) || strstr(m->first->domain, hints[i].part))
      return hints[i].help;
  return m->first->domain[0] ? "export with ONNX's own operators, or with the function's body in the file"
                             : "export with another opset, or with a decomposition into simpler operators";
}

static void add_missing(Check *c, const OnnxNode *n, int64_t opset, int later)
{
  for (uint32_t i = 0; i < c->missing.len; i++) {
    Missing *m = &c->missing.data[i];
    if (m->opset == opset && !strcmp(m->first->op_type, n->op_type) && !strcmp(m->first->domain, n->domain)) {
      m->count++;
      return;
    }
  }
  *PUSH(c->im->arena, c->missing) = (Missing){n, opset, 1, later};
}

static void check_nodes(Check *c, OnnxNode *const *nodes, uint32_t n);

/* A function's body, once, with its own opsets. */
static void check_function(Check *c, const OnnxFunction *f)
{
  ImScope *outer = c->im->scope;

  for (uint32_t i = 0; i < c->done.len; i++)
    if (c->done.data[i] == f)
      return;
  *PUSH(c->im->arena, c->done) = f;
  c->im->scope = im_scope_new(c->im, NULL);
  c->im->scope->function = f;
  check_nodes(c, f->nodes, f->n_nodes);
  c->im->scope = outer;
}

static void check_node(Check *c, const OnnxNode *n)
{
  const OnnxFunction *f = im_function(c->im, n);
  int64_t opset = im_opset(c->im, n);
  int later;

  if (f)
    check_function(c, f);
  else if (!onnx_op_find(n->domain, n->op_type, opset, &later))
    add_missing(c, n, opset, later);
  if (im_is(n, "If") && !c->branches)
    return;
  for (uint32_t i = 0; i < n->n_attrs; i++) {
    if (n->attrs[i]->type == ONNX_ATTR_GRAPH && n->attrs[i]->g) /* NULL: the function's caller has it */
      check_nodes(c, n->attrs[i]->g->nodes, n->attrs[i]->g->n_nodes);
    for (uint32_t k = 0; k < n->attrs[i]->n_graphs; k++)
      check_nodes(c, n->attrs[i]->graphs[k]->nodes, n->attrs[i]->graphs[k]->n_nodes);
  }
}

static void check_nodes(Check *c, OnnxNode *const *nodes, uint32_t n)
{
  for (uint32_t i = 0; i < n; i++)
    check_node(c, nodes[i]);
}

static void describe(const Missing *m, Text *out)
{
  const char *name = m->first->name[0] ? m->first->name : m->first->n_outputs ? m->first->outputs[0] : "";

  text_printf(out, "%.64s (%.64s opset %lld, %u node%s, first '%.48s%s')", m->first->op_type,
              m->first->domain[0] ? m->first->domain : "ai.onnx", (long long)m->opset, m->count,
              m->count > 1 ? "s" : "", name, strlen(name) > 48 ? ".." : "");
}

bool import_check_ops(Import *im, bool branches)
{
  Check c = {.im = im, .branches = branches};
  Text line = {.arena = im->arena};
  ImScope *scope = im->scope;
  char buf[64];

  im->scope = NULL;
  check_nodes(&c, im->model->graph->nodes, im->model->graph->n_nodes);
  im->scope = scope;
  if (!c.missing.len)
    return true;
  for (uint32_t i = 0; i < c.missing.len; i++) {
    const Missing *m = &c.missing.data[i];
    Text all = {.arena = im->arena};
    describe(m, &all);
    if (c.missing.len > MESSAGE_OPS)
      im_note(im, "not supported: %s: %s", all.data, help_for(m, buf, sizeof buf));
    if (i < MESSAGE_OPS)
      text_printf(&line, "%s%s: %s", i ? "; " : "", all.data, help_for(m, buf, sizeof buf));
  }
  if (c.missing.len > MESSAGE_OPS)
    text_printf(&line, "; and %u more", c.missing.len - MESSAGE_OPS);
  return im_fail(im, NULL, "%u operator%s not supported: %s", c.missing.len,
                 c.missing.len > 1 ? "s are" : " is", line.data);
}
