/* scene.h - a folder of its own for a test, and the files in it. */
#ifndef SCENE_H
#define SCENE_H

#include "ir/base.h"

typedef struct {
  char *data; /* zero-terminated */
  size_t len;
} Bytes;

const char *scene_open(Arena *a);                   /* makes an empty folder, absolute path */
void scene_close(const char *dir);                  /* removes it and all in it */
const char *scene_names(Arena *a, const char *dir); /* of its files, sorted, "a b c"; "" if there are none */

bool scene_read(Arena *a, const char *path, Bytes *out);
bool scene_write(const char *path, const void *bytes, size_t n, unsigned mode);
bool scene_same(const char *path_a, const char *path_b); /* both can be read, and hold the same bytes */
long long scene_size(const char *path);                  /* -1: no such file */

#endif
