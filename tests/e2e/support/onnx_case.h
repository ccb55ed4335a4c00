/* onnx_case.h - a case of the ONNX backend suite: a model, inputs, and the outputs that must come out. */
#ifndef MICC_TEST_ONNX_CASE_H
#define MICC_TEST_ONNX_CASE_H

#include "frontend/onnx/import.h"

typedef struct {
  Arena *arena;
  const char *dir; /* holds model.onnx and test_data_set_0 */
  OnnxModel *onnx; /* NULL until it is read */
  Module *module;  /* NULL until it is imported */
  Tensor *given;   /* one for each of the model's inputs; data NULL: the case has no file for it */
  uint32_t n_given;
  Tensor *inputs; /* of the graph's input nodes, in order: what was not fixed */
  Tensor *want;   /* one for each output */
  uint32_t n_outputs;
  const char *fix;  /* an input to fix from the start; NULL: none */
  uint32_t n_fixed; /* inputs that had to become constants, since shapes depend on them */
} OnnxCase;

/* Reads and imports. Shapes come from the case's inputs; an input that decides shapes is fixed to the case's value.
 * False with a reason: what is not supported, as micc would say it. onnx_case_close() in any case. */
bool onnx_case_open(OnnxCase *c, Arena *a, const char *dir, Err *e);
void onnx_case_close(OnnxCase *c);

/* The part of that behind reading, for cases that are stored otherwise: `onnx` and `given` are set. */
bool onnx_case_import(OnnxCase *c, Err *e);

typedef struct {
  double relative, absolute;
} Tolerance;
/* ONNX's own for f32: see onnx/backend/test/runner. Integers and bools must be equal. */
extern const Tolerance onnx_case_tolerance;

/* Whether got is near enough to what the case wants; else a line that says where not. */
bool onnx_case_compare(const OnnxCase *c, const Tensor *got, Tolerance tol, Err *e);

#endif
