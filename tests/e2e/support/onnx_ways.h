/* onnx_ways.h - the ways from an ONNX case's graph to its outputs: what must hold of a case, way after way. */
#ifndef MICC_TEST_ONNX_WAYS_H
#define MICC_TEST_ONNX_WAYS_H

#include "tests/e2e/support/onnx_case.h"

typedef struct {
  const char *name;
  bool (*run)(const OnnxCase *c, Tensor *out, Err *e);
} OnnxWay;

/* Those that this build has. */
extern const OnnxWay onnx_ways[];
extern const uint32_t onnx_way_count;

/* Runs the case by that way and compares; false with a line that names the way. */
bool onnx_way_holds(const OnnxWay *w, const OnnxCase *c, Err *e);

#endif
