/* gguf.c - libFuzzer entry of the GGUF reader: any bytes give a sound model or one error line. */
#include "frontend/gguf/gguf.h"
#include "tests/unit/gguf_tools.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
  Err e = {0};
  Model *m = gguf_parse(data, bytes, "fuzz.gguf", &e);

  if (m)
    model_touch(m);
  else
    assert(error_is_line(&e, "fuzz.gguf:"));
  model_close(m);
  return 0;
}
