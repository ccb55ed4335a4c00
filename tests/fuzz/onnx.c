/* onnx.c - libFuzzer entry of the ONNX reader: any bytes give a sound model or one error line, and so does any
 * tensor in it. */
#include "tests/unit/support/onnx_tools.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
  Arena a = {0};
  Err e = {0};
  OnnxModel *m;

  onnx_probe(data, bytes);
  if (onnx_parse(data, bytes, "fuzz.onnx", &a, &m, &e))
    onnx_touch(m);
  else
    assert(!m && onnx_error_is_line(&e, "fuzz.onnx:"));
  onnx_close(m);
  arena_free(&a);
  return 0;
}
