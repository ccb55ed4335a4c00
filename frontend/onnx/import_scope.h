/* import_scope.h - names of one graph or function body, and where they stand. Inside the importer alone. */
#ifndef MICC_ONNX_IMPORT_SCOPE_H
#define MICC_ONNX_IMPORT_SCOPE_H

#include "frontend/onnx/import.h"

struct ImScope {
  ImScope *outer; /* whose names are visible too; NULL for a model's graph and a function's body */
  struct {
    const char *name;
    Val v; /* 0: an optional input that the caller left out */
  } *slots;
  uint32_t cap, len;
  /* of a function's body: the call, which its attribute references look at */
  const OnnxFunction *function;
  const OnnxNode *call;
  ImScope *caller;
};

ImScope *im_scope_new(Import *im, ImScope *outer);
void im_bind(Import *im, const char *name, Val v); /* in im->scope; a later one replaces */
bool im_lookup(const Import *im, const char *name, Val *v);

Val im_weight(Import *im, const char *name, const Tensor *t); /* a tensor of the file; scalars become const */
Val im_fold(Import *im, Val v); /* the last node of the graph, evaluated if that is worth it */

const OnnxFunction *im_function(const Import *im,
                                const OnnxNode *n); /* of the model, that the node calls; or NULL */

/* import_check.c: an error that lists all operators that are not supported. Those in branches of If count
 * only if `branches` says so: they may turn out to be dead. */
bool import_check_ops(Import *im, bool branches);
bool import_inputs(Import *im); /* import_input.c: shapes and fixed values */
void import_sweep(Import *im);  /* import_sweep.c: drops what no output needs */

#endif
