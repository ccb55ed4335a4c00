/* cases.c - see cases.h. */
#include "tests/unit/support/cases.h"

#include <assert.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

char *cases_read(Arena *a, const char *path)
{
  FILE *f = fopen(path, "rb");
  Text t = {.arena = a};
  char buf[4096];

  assert(f);
  for (size_t n; (n = fread(buf, 1, sizeof buf, f)) > 0;)
    text_add(&t, buf, n);
  fclose(f);
  return t.data ? t.data : arena_strdup(a, "");
}

/* Runs one case, [from, to); appends it as it should read. */
static bool run_case(Arena *a, const char *path, const char *from, const char *to, CaseResult *result,
                     Text *updated)
{
  char *all = arena_strndup(a, from, (size_t)(to - from)), *line = strstr(all, "---\n");

  assert(line);
  char *source = arena_strndup(a, all, (size_t)(line - all));
  const char *want = line + 4, *got = result(a, path, source);
  text_printf(updated, "%s---\n%s", source, got);
  if (!strcmp(got, want))
    return true;
  if (!getenv("MICC_UPDATE"))
    fprintf(stderr, "%s:\n%s--- gives\n%s--- expected\n%s", path, source, got, want);
  return false;
}

static bool run_file(const char *path, CaseResult *result)
{
  Arena a = {0};
  Text updated = {.arena = &a};
  bool ok = true;

  for (const char *p = cases_read(&a, path); p;) {
    const char *end = strstr(p, "====\n");
    ok &= run_case(&a, path, p, end ? end : p + strlen(p), result, &updated);
    if (end)
      text_printf(&updated, "====\n");
    p = end ? end + 5 : NULL;
  }
  if (!ok && getenv("MICC_UPDATE")) {
    FILE *f = fopen(path, "wb");
    ok = f && fwrite(updated.data, 1, updated.len, f) == updated.len && !fclose(f);
  }
  arena_free(&a);
  return ok;
}

int cases_run(const char *folder, CaseResult *result)
{
  char path[512];
  DIR *d = opendir(folder);
  int n = 0, good = 0;

  assert(d);
  for (struct dirent *f; (f = readdir(d));) {
    size_t len = strlen(f->d_name);
    if (len <= 4 || strcmp(f->d_name + len - 4, ".txt"))
      continue;
    snprintf(path, sizeof path, "%s/%s", folder, f->d_name);
    good += run_file(path, result);
    n++;
  }
  closedir(d);
  return good == n ? n : -1;
}
