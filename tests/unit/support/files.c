/* files.c - see files.h. */
#include "tests/unit/support/files.h"

#include <assert.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint8_t *exact_copy(const void *data, size_t n)
{
  uint8_t *p = malloc(n ? n : 1);

  assert(p);
  return n ? memcpy(p, data, n) : p;
}

uint8_t *file_read(const char *path, size_t *bytes)
{
  FILE *f = fopen(path, "rb");

  if (!f)
    return NULL;
  fseek(f, 0, SEEK_END);
  *bytes = (size_t)ftell(f);
  rewind(f);
  uint8_t *p = malloc(*bytes + 1);
  size_t n = p ? fread(p, 1, *bytes, f) : 0;
  assert(p && n == *bytes);
  fclose(f);
  return p;
}

void file_write(const char *path, const void *data, size_t n)
{
  FILE *f = fopen(path, "wb");
  bool ok = f && (!n || fwrite(data, 1, n, f) == n);

  ok = f && !fclose(f) && ok;
  assert(ok);
}
