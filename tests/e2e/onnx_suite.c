/* onnx_suite.c - the ONNX backend suite: each case is imported, evaluated, and compared within ONNX's tolerance.
 *
 *   e2e_onnx_suite [-v] [PART ...]     only cases whose path holds one of the parts; -v prints those that pass, too
 *
 * A case runs in a process of its own, so that one that crashes is a line in the list. */
#include "passes/passes.h"
#include "tests/e2e/support/onnx_case.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *const folders[] = {"node", "simple", "pytorch-converted", "pytorch-operator"};

enum { CASE_SECONDS = 60 };

typedef enum { PASS, WRONG, NOT_IMPORTED, CRASHED, VERDICTS } Verdict;
static const char *const verdict_names[VERDICTS] = {"pass", "WRONG", "not imported", "CRASHED"};

typedef struct {
  const char *name; /* of the op, or of the folder for cases of several nodes */
  uint32_t count[VERDICTS];
} OpCount;

typedef struct {
  Arena arena;
  bool verbose;
  char **parts;
  int n_parts;
  ARRAY(OpCount) ops;
  uint32_t total[VERDICTS];
} Suite;

/* ---- one case */

static bool run_oracle(const OnnxCase *c, Tensor *out, Err *e)
{
  (void)e;
  graph_eval_dense(c->module->graphs.data[0], c->arena, c->inputs, out);
  return true;
}

/* What the passes make of the graph means the same, after each of them. */
static const struct {
  const char *name;
  Graph *(*run)(const Graph *g, Err *e);
} passes[] = {{"widen", pass_widen},       {"simplify", pass_simplify}, {"dce", pass_dce},
              {"channels", pass_channels}, {"products", pass_products}, {"simplify again", pass_simplify},
              {"dce again", pass_dce}};

static bool run_passes(const OnnxCase *c, Tensor *out, Err *e)
{
  const Graph *g = c->module->graphs.data[0];

  for (uint32_t i = 0; i < COUNT(passes); i++) {
    Err why = {0};
    g = passes[i].run(g, &why);
    if (!g || !graph_verify(g, &why))
      return fail(e, "pass %s: %s", passes[i].name, why.text);
    graph_eval_dense(g, c->arena, c->inputs, out);
    if (!onnx_case_compare(c, out, onnx_case_tolerance, &why))
      return fail(e, "after pass %s: %s", passes[i].name, why.text);
  }
  return true;
}

static const struct {
  const char *name;
  bool (*run)(const OnnxCase *c, Tensor *out, Err *e);
} ways[] = {{"oracle", run_oracle}, {"passes", run_passes}};

static Verdict judge(const char *dir, Arena *a, const char **op, Err *e)
{
  OnnxCase c;
  bool ok = onnx_case_open(&c, a, dir, e);

  if (c.onnx)
    *op = c.onnx->graph->n_nodes == 1 ? arena_strdup(a, c.onnx->graph->nodes[0]->op_type) : "(several)";
  Tensor *out = ok ? NEW_ARRAY(a, Tensor, c.n_outputs) : NULL;
  Verdict v = ok ? PASS : NOT_IMPORTED;
  for (uint32_t i = 0; v == PASS && i < COUNT(ways); i++) {
    Err why = {0};
    if (!ways[i].run(&c, out, &why) || !onnx_case_compare(&c, out, onnx_case_tolerance, &why)) {
      fail(e, "%s: %s", ways[i].name, why.text);
      v = WRONG;
    }
  }
  onnx_case_close(&c);
  return v;
}

/* The child's whole life: "verdict \n op \n message". */
static void child(const char *dir, int to)
{
  Arena a = {0};
  Err e = {0};
  const char *op = "(unread)";

  alarm(CASE_SECONDS);
  Verdict v = judge(dir, &a, &op, &e);
  dprintf(to, "%d\n%s\n%s", (int)v, op, v == PASS ? "" : e.text);
  _exit(0);
}

static Verdict run_case(Suite *s, const char *dir, const char **op, const char **why)
{
  char buf[2048] = "", *line = buf;
  int pipes[2], status;
  size_t len = 0;

  fflush(stdout);
  if (pipe(pipes))
    exit(2);
  pid_t pid = fork();
  if (pid == 0)
    child(dir, pipes[1]);
  close(pipes[1]);
  for (ssize_t n; (n = read(pipes[0], buf + len, sizeof buf - 1 - len)) > 0;)
    len += (size_t)n;
  close(pipes[0]);
  waitpid(pid, &status, 0);
  *op = "(crashed)";
  *why = WIFSIGNALED(status) ? arena_printf(&s->arena, "signal %d", WTERMSIG(status)) : "it ended early";
  if (!len || !WIFEXITED(status) || WEXITSTATUS(status))
    return CRASHED;
  int v = atoi(strsep(&line, "\n"));
  *op = arena_strdup(&s->arena, strsep(&line, "\n"));
  *why = arena_strdup(&s->arena, line);
  return (Verdict)v;
}

/* ---- all of them */

static OpCount *count_of(Suite *s, const char *name)
{
  for (uint32_t i = 0; i < s->ops.len; i++)
    if (!strcmp(s->ops.data[i].name, name))
      return &s->ops.data[i];
  *PUSH(&s->arena, s->ops) = (OpCount){.name = name};
  return &s->ops.data[s->ops.len - 1];
}

static bool wanted(const Suite *s, const char *path)
{
  for (int i = 0; i < s->n_parts; i++)
    if (strstr(path, s->parts[i]))
      return true;
  return s->n_parts == 0;
}

static void run_folder(Suite *s, const char *folder)
{
  const char *root = arena_printf(&s->arena, "%s/suites/onnx-backend-tests/%s", MICC_SHARED_DIR, folder);
  struct dirent **names;
  int n = scandir(root, &names, NULL, alphasort);

  for (int i = 0; i < n; i++) {
    const char *path = arena_printf(&s->arena, "%s/%s", folder, names[i]->d_name), *op, *why;
    bool run = names[i]->d_name[0] != '.' && wanted(s, path);
    free(names[i]);
    if (!run)
      continue;
    Verdict v = run_case(s, arena_printf(&s->arena, "%s/%s", root, strchr(path, '/') + 1), &op, &why);
    count_of(s, op)->count[v]++;
    s->total[v]++;
    if (v != PASS || s->verbose)
      printf("%-12s %s: %s\n", verdict_names[v], path, v == PASS ? op : why);
  }
  if (n >= 0)
    free(names);
}

static int by_name(const void *a, const void *b)
{
  return strcmp(((const OpCount *)a)->name, ((const OpCount *)b)->name);
}

static void print_counts(Suite *s)
{
  if (s->ops.len)
    qsort(s->ops.data, s->ops.len, sizeof *s->ops.data, by_name);
  printf("\n%-28s %6s %6s %12s %7s\n", "operator", "pass", "wrong", "not imported", "crashed");
  for (uint32_t i = 0; i < s->ops.len; i++) {
    const uint32_t *c = s->ops.data[i].count;
    printf("%-28s %6u %6u %12u %7u\n", s->ops.data[i].name, c[PASS], c[WRONG], c[NOT_IMPORTED], c[CRASHED]);
  }
  const uint32_t *t = s->total;
  printf("%-28s %6u %6u %12u %7u\n", "all", t[PASS], t[WRONG], t[NOT_IMPORTED], t[CRASHED]);
}

int main(int argc, char **argv)
{
  Suite s = {.verbose = argc > 1 && !strcmp(argv[1], "-v")};

  s.parts = argv + 1 + s.verbose;
  s.n_parts = argc - 1 - s.verbose;
  if (access(MICC_SHARED_DIR "/suites/onnx-backend-tests/node", R_OK)) {
    printf("skipped: %s/suites/onnx-backend-tests is not there\n", MICC_SHARED_DIR);
    return 0;
  }
  for (uint32_t i = 0; i < COUNT(folders); i++)
    run_folder(&s, folders[i]);
  print_counts(&s);
  int bad = s.total[WRONG] || s.total[CRASHED];
  arena_free(&s.arena);
  return bad;
}
