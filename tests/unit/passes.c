/* Passes on text: tests/cases/passes/PASS*.txt holds a graph, `---`, and the graph that the pass must leave; cases are
 * separated by `===`. With MICC_UPDATE set, the files are rewritten with what comes out: review the diff. */
#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>

#include "passes/passes.h"

typedef Graph *Pass(const Graph *g, Err *e);

static const struct {
  const char *name;
  Pass *run;
} passes[] = {{"simplify", pass_simplify}, {"dce", pass_dce},           {"channels", pass_channels},
              {"products", pass_products}, {"quantize", pass_quantize}, {"fuse", pass_fuse},
              {"qdq", pass_qdq},           {"requant", pass_requant},   {"attention", pass_attention}};

static char *read_file(Arena *a, const char *path)
{
  FILE *f = fopen(path, "rb");
  cr_assert(f, "%s cannot be opened", path);
  char *text = arena_alloc(a, 1 << 18);
  size_t n = fread(text, 1, (1 << 18) - 1, f);
  text[n] = 0;
  fclose(f);
  return text;
}

static char *split(char **at, const char *mark)
{
  char *text = *at, *end = text ? strstr(text, mark) : NULL;

  *at = end ? end + strlen(mark) : NULL;
  if (end)
    *end = 0;
  return text;
}

/* Leading comment lines tell what the case is about; they are kept. */
static size_t comment_bytes(const char *text)
{
  const char *p = text;
  while (*p == '#' || *p == '\n')
    p += strcspn(p, "\n") + (p[strcspn(p, "\n")] == '\n');
  return (size_t)(p - text);
}

static char *transformed(Arena *a, Pass *run, const char *text, const char *file)
{
  Err e = {0};
  Module *m = module_parse(a, text, file, &e);
  cr_assert(m, "%s", e.text);
  for (uint32_t i = 0; i < m->graphs.len; i++) {
    Graph *g = run(m->graphs.data[i], &e);
    cr_assert(g && graph_verify(g, &e), "%s: %s", file, e.text);
    m->graphs.data[i] = g;
  }
  Text out = {.arena = a};
  module_print(m, &out);
  return out.data;
}

static void run_file(const char *name, Pass *run)
{
  Arena a = {0};
  char *path = arena_printf(&a, "%s/tests/cases/passes/%s", MICC_SOURCE_DIR, name),
       *rest = read_file(&a, path);
  Text updated = {.arena = &a};
  bool update = getenv("MICC_UPDATE") != NULL;
  int n = 0;

  while (rest) {
    char *one = split(&rest, "===\n"), *want = one, *from = split(&want, "---\n");
    char *got = transformed(&a, run, from, path);
    n++;
    text_printf(&updated, "%s%s---\n%s", n > 1 ? "===\n" : "", from, got);
    if (!update)
      cr_expect(want && !strcmp(want, got), "%s, case %d (%.*s): expected\n%s\ngot\n%s", name, n,
                (int)(comment_bytes(from) ? strcspn(from, "\n") : 0), from, want ? want : "nothing", got);
  }
  cr_assert_gt(n, 0);
  if (update) {
    FILE *f = fopen(path, "wb");
    cr_assert(f && fwrite(updated.data, 1, updated.len, f) == updated.len);
    fclose(f);
  }
  arena_free(&a);
}

Test(passes, cases)
{
  Arena a = {0};
  DIR *dir = opendir(MICC_SOURCE_DIR "/tests/cases/passes");
  size_t files = 0;

  cr_assert(dir);
  for (struct dirent *d; (d = readdir(dir));)
    for (size_t i = 0; i < COUNT(passes); i++)
      if (!strncmp(d->d_name, passes[i].name, strlen(passes[i].name)) && strstr(d->d_name, ".txt")) {
        run_file(d->d_name, passes[i].run);
        files++;
      }
  closedir(dir);
  cr_expect_geq(files, COUNT(passes));
  arena_free(&a);
}

Test(passes, an_unknown_pass_is_named)
{
  Arena a = {0};
  Err e = {0};
  Text log = {.arena = &a};
  Program *p;
  Module *m = module_parse(&a, "graph main tokens 1 {\n  %1 = input f32[4] x\n  %2 = output f32[4] %1 y\n}\n",
                           "t", &e);

  cr_assert(m, "%s", e.text);
  const Target *target = target_find("c", &e);
  cr_expect(!passes_run(
      m, &(PassOptions){.targets = &target, .n_targets = 1, .print_after = "fues", .log = &log}, &p, &e));
  cr_expect(strstr(e.text, "fues") && strstr(e.text, "fuse"), "%s", e.text);
  arena_free(&a);
}
