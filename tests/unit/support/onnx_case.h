/* onnx_case.h - an ONNX file under test, written in the notation of onnx_tools.h. */
#ifndef MICC_TESTS_ONNX_CASE_H
#define MICC_TESTS_ONNX_CASE_H

#include "tests/unit/support/onnx_tools.h"

/* A model of this graph. */
#define ONNX_MODEL(graph) "1:8 8{ 2:13 } 7{ " graph " }"
typedef struct {
  Arena arena;
  uint8_t *copy;
  OnnxModel *m; /* NULL: refused, e says why */
  Err e;
} OnnxCase;

OnnxCase onnx_case_bytes(const void *data, size_t n); /* as a file "t.onnx" */
OnnxCase onnx_case_parse(const char *text);
void onnx_case_close(OnnxCase *c);
void onnx_case_write(const char *path, const char *text);

/* "f32[3] 1.5 -2 0.25" */
const char *onnx_case_shown(const Tensor *v, Arena *a);
/* The same of an initialiser; the error if it has no value; "absent". */
const char *onnx_case_value(OnnxCase *c, const char *name);

#endif
