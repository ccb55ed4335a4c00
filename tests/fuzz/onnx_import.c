/* onnx_import.c - libFuzzer entry of the ONNX importer: any bytes give a module that verifies or one error line. */
#include "frontend/onnx/import.h"
#include "tests/unit/support/onnx_tools.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
  Arena a = {0};
  Err e = {0};
  OnnxModel *m;
  Module *module;
  OnnxImportOptions none = {0};

  if (onnx_parse(data, bytes, "fuzz.onnx", &a, &m, &e) && onnx_import(m, &none, &a, &module, &e))
    assert(module->graphs.len == 1);
  else
    assert(onnx_error_is_line(&e, "fuzz.onnx"));
  onnx_close(m);
  arena_free(&a);
  return 0;
}
