/* onnx_models.c - whole ONNX models: what ONNX Runtime computed (shared/reference/onnxruntime) must come out, by each way.
 *
 *   e2e_onnx_models [NAME ...]     only cases whose name holds one of these
 *
 * A case that the table lacks fails the test. */
#include "tests/e2e/support/onnx_reference.h"
#include "tests/e2e/support/onnx_ways.h"
#include "tests/e2e/support/tally.h"

#include "passes/passes.h"

#include <dirent.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define CASES MICC_SHARED_DIR "/reference/onnxruntime"

/* As all ways compute it: 16-bit floats as f32, rounded at the end. */
static bool run_oracle(const OnnxCase *c, Tensor *out, Err *e)
{
  const Graph *g = pass_widen(c->module->graphs.data[0], e);

  if (g)
    graph_eval_dense(g, c->arena, c->inputs, out);
  return g != NULL;
}

static double seconds(void)
{
  struct timespec t;

  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void check_way(const OnnxCase *c, const OnnxReference *r, const OnnxWay *w)
{
  Tensor *out = NEW_ARRAY(c->arena, Tensor, c->n_outputs);
  Tolerance tol = onnx_reference_tolerance(r);
  Err e = {0};
  double start = seconds();
  bool ran = w->run(c, out, &e), same = ran && onnx_case_compare(c, out, tol, &e);
  OnnxDistance d = ran ? onnx_reference_distance(c, out, tol) : (OnnxDistance){0};

  tally(same, "%-28s %-8s %6.2f s   off by %.2g, %.2g of what it must be%s%s", r->name, w->name,
        seconds() - start, d.absolute, d.relative, same ? "" : ": ", same ? "" : e.text);
}

static void check_model(const OnnxReference *r)
{
  Arena a = {0};
  Err e = {0};
  OnnxCase c;
  double start = seconds();
  bool ok = onnx_reference_open(&c, &a, r, &e);

  tally(ok, "%-28s %-8s %6.2f s   %u nodes, %u inputs fixed%s%s", r->name, "import", seconds() - start,
        ok ? c.module->graphs.data[0]->nodes.len - 1 : 0, c.n_fixed, ok ? "" : ": ", ok ? "" : e.text);
  if (ok)
    check_way(&c, r, &(OnnxWay){"oracle", run_oracle});
  for (uint32_t w = 0; ok && w < onnx_way_count; w++)
    if (!strcmp(onnx_ways[w].name, "C") || !strcmp(onnx_ways[w].name, "LLVM"))
      check_way(&c, r, &onnx_ways[w]);
  onnx_case_close(&c);
  arena_free(&a);
}

static bool in_table(const char *name)
{
  for (uint32_t i = 0; i < onnx_reference_count; i++)
    if (!strcmp(onnx_references[i].name, name))
      return true;
  return false;
}

static void check_table(void)
{
  struct dirent **names;
  int n = scandir(CASES, &names, NULL, alphasort);

  for (int i = 0; i < n; i++) {
    if (names[i]->d_name[0] != '.' && !in_table(names[i]->d_name))
      tally(false, "case %s is not in the table", names[i]->d_name);
    free(names[i]);
  }
  if (n >= 0)
    free(names);
}

static bool wanted(const char *name, int argc, char **argv)
{
  for (int i = 1; i < argc; i++)
    if (strstr(name, argv[i]))
      return true;
  return argc < 2;
}

int main(int argc, char **argv)
{
  if (access(CASES, R_OK)) {
    tally_skip("%s is not there", CASES);
    return 0;
  }
  check_table();
  for (uint32_t i = 0; i < onnx_reference_count; i++)
    if (wanted(onnx_references[i].name, argc, argv))
      check_model(&onnx_references[i]);
  return tally_end();
}
