/* onnx_reference.h - what ONNX Runtime computes of whole models (shared/reference/onnxruntime), as cases. */
#ifndef MICC_TEST_ONNX_REFERENCE_H
#define MICC_TEST_ONNX_REFERENCE_H

#include "tests/e2e/support/onnx_case.h"

typedef struct {
  const char *name;  /* folder below reference/onnxruntime */
  const char *model; /* below models/ */
  const char *fix;   /* an input that becomes a constant; NULL: none */
  double absolute;   /* how far an element may be off; 0: 1e-4 */
} OnnxReference;

/* All of them. */
extern const OnnxReference onnx_references[];
extern const uint32_t onnx_reference_count;

/* Reads the model, input_N.npy and output_N.npy, and imports; shapes are those of the inputs. False with a reason.
 * onnx_case_close() in any case. */
bool onnx_reference_open(OnnxCase *c, Arena *a, const OnnxReference *r, Err *e);

/* What models must agree to: 1e-3 of the value, or an absolute distance. */
Tolerance onnx_reference_tolerance(const OnnxReference *r);

/* The largest distance of an element, and, of those that are off by more than the absolute tolerance, relative to what
 * it must be. */
typedef struct {
  double absolute, relative;
} OnnxDistance;
OnnxDistance onnx_reference_distance(const OnnxCase *c, const Tensor *got, Tolerance tol);

#endif
