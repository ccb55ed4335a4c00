/* onnx_reason.h - what a case of the ONNX backend suite needs, and for those that fail, why they do. */
#ifndef MICC_TEST_ONNX_REASON_H
#define MICC_TEST_ONNX_REASON_H

#include "frontend/onnx/onnx.h"

typedef struct {
  const char *title, *text;
  bool
      outside; /* types and modes that micc does not aim at: such cases do not count in the share that passes */
} OnnxReason;

extern const OnnxReason onnx_reasons[];
extern const uint32_t onnx_reason_count; /* the last one: there is none */

/* Whether the case is outside of what micc aims at, pass or fail; onnx_reason_count if not. */
uint32_t onnx_reason_outside(const OnnxModel *m);
/* Of a case inside that failed with this message. */
uint32_t onnx_reason_of(const OnnxModel *m, const char *why);

/* Calls fn for each node of the model, also in subgraphs and functions' bodies. */
void onnx_each_node(const OnnxModel *m, void (*fn)(void *ctx, const OnnxNode *n), void *ctx);

#endif
