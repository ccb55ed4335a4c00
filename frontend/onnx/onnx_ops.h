/* onnx_ops.h - the handlers that onnx_ops.def names, one function for each row (several rows may share one). */
#ifndef MICC_ONNX_OPS_H
#define MICC_ONNX_OPS_H

#include "frontend/onnx/import.h"

#define ONNX(name, domain, since, handler, doc) bool handler(Import *im, const OnnxNode *n);
#include "frontend/onnx/onnx_ops.def"
#undef ONNX

typedef enum { OD_AI, OD_MS, OD_ML, OD_PREVIEW, OD_COUNT } OnnxDomain;

typedef struct {
  const char *name;
  OnnxDomain domain;
  int since;
  OnnxHandler handler;
  const char *doc;
} OnnxOp;
extern const OnnxOp onnx_ops[];
extern const uint32_t onnx_op_count;

extern const char *const onnx_domains[OD_COUNT];
/* The row of a node's operator, or NULL. `*later`: set if one exists from this opset on, else 0. */
const OnnxOp *onnx_op_find(const char *domain, const char *name, int64_t opset, int *later);

#endif
