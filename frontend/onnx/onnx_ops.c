/* onnx_ops.c - the table of operators, and how a node finds its row. */
#include "frontend/onnx/onnx_ops.h"

const char *const onnx_domains[OD_COUNT] = {
    [OD_AI] = "", [OD_MS] = "com.microsoft", [OD_ML] = "ai.onnx.ml", [OD_PREVIEW] = "ai.onnx.preview"};

const OnnxOp onnx_ops[] = {
#define ONNX(name, domain, since, handler, doc) {#name, OD_##domain, since, handler, doc},
#include "frontend/onnx/onnx_ops.def"
#undef ONNX
};
const uint32_t onnx_op_count = COUNT(onnx_ops);

/* The first row with this name, or the end. */
static uint32_t first_row(const char *name)
{
  uint32_t lo = 0, hi = onnx_op_count;

  while (lo < hi) {
    uint32_t mid = (lo + hi) / 2;
    if (strcmp(onnx_ops[mid].name, name) < 0)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo;
}

const OnnxOp *onnx_op_find(const char *domain, const char *name, int64_t opset, int *later)
{
  const OnnxOp *best = NULL;

  *later = 0;
  for (uint32_t i = first_row(name); i < onnx_op_count && !strcmp(onnx_ops[i].name, name); i++) {
    if (strcmp(onnx_domains[onnx_ops[i].domain], domain))
      continue;
    if (onnx_ops[i].since <= opset)
      best = &onnx_ops[i];
    else if (!*later)
      *later = onnx_ops[i].since;
  }
  return best;
}
