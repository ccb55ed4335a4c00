/* scene.c - see scene.h */
#define _GNU_SOURCE
#include "tests/e2e/support/scene.h"

#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

const char *scene_open(Arena *a)
{
  const char *tmp = getenv("TMPDIR");
  char *dir = arena_printf(a, "%s/micc-test-XXXXXX", tmp && *tmp ? tmp : "/tmp");

  if (!mkdtemp(dir)) {
    perror(dir);
    exit(1);
  }
  chmod(dir, 0755);
  return dir;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *at)
{
  (void)st, (void)kind, (void)at;
  return remove(path);
}

void scene_close(const char *dir)
{
  nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

const char *scene_names(Arena *a, const char *dir)
{
  struct dirent **entries;
  Text t = {.arena = a};
  int n = scandir(dir, &entries, NULL, alphasort);

  text_add(&t, "", 0);
  for (int i = 0; i < n; i++) {
    if (strcmp(entries[i]->d_name, ".") && strcmp(entries[i]->d_name, ".."))
      text_printf(&t, "%s%s", t.len ? " " : "", entries[i]->d_name);
    free(entries[i]);
  }
  if (n >= 0)
    free(entries);
  return n < 0 ? "(no such folder)" : t.data;
}

long long scene_size(const char *path)
{
  struct stat st;
  return stat(path, &st) ? -1 : (long long)st.st_size;
}

bool scene_read(Arena *a, const char *path, Bytes *out)
{
  long long n = scene_size(path);
  int fd = n < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC);

  *out = (Bytes){NULL, 0};
  if (fd < 0)
    return false;
  out->data = arena_alloc(a, (size_t)n + 1);
  for (ssize_t got; out->len < (size_t)n; out->len += (size_t)got)
    if ((got = read(fd, out->data + out->len, (size_t)n - out->len)) <= 0)
      break;
  close(fd);
  return out->len == (size_t)n;
}

bool scene_write(const char *path, const void *bytes, size_t n, unsigned mode)
{
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, mode);
  bool ok = fd >= 0 && write(fd, bytes, n) == (ssize_t)n;

  if (fd >= 0)
    close(fd);
  return ok;
}

bool scene_same(const char *path_a, const char *path_b)
{
  Arena tmp = {0};
  Bytes a, b;
  bool same = scene_read(&tmp, path_a, &a) && scene_read(&tmp, path_b, &b) && a.len == b.len &&
              !memcmp(a.data, b.data, a.len);

  arena_free(&tmp);
  return same;
}
