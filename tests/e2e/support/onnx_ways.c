/* onnx_ways.c - see onnx_ways.h */
#include "tests/e2e/support/onnx_ways.h"

#include "codegen/exec.h"
#include "passes/passes.h"

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

static bool run_compiled(const OnnxCase *c, const char *level, ExecWay way, Tensor *out, Err *e)
{
  const Target *target = target_find(level, e);
  PassOptions po = {.targets = &target, .n_targets = 1};
  Program *p = NULL;

  if (!target || !passes_run(module_copy(c->module), &po, &p, e))
    return false;
  Exec *x = exec_open(p, target, way, e);
  bool ok = x && exec_run(x, c->inputs, out, c->arena, e);
  exec_close(x);
  return ok;
}

/* Kernels of several levels on any machine; every access is checked. */
static bool run_kernels(const OnnxCase *c, Tensor *out, Err *e)
{
  static const char *const levels[] = {"c", "x86-64-v2", "x86-64-v3", "x86-64-v4+vnni"};

  for (uint32_t i = 0; i < COUNT(levels); i++) {
    Err why = {0};
    if (!run_compiled(c, levels[i], EXEC_EVAL, out, &why) ||
        !onnx_case_compare(c, out, onnx_case_tolerance, &why))
      return fail(e, "level %s: %s", levels[i], why.text);
  }
  return true;
}

#if MICC_HAVE_TCC
static bool run_c(const OnnxCase *c, Tensor *out, Err *e)
{
  return run_compiled(c, "c", EXEC_TCC, out, e);
}
#endif

#if MICC_HAVE_LLVM
static bool run_llvm(const OnnxCase *c, Tensor *out, Err *e)
{
  return run_compiled(c, "native", EXEC_LLVM, out, e);
}
#endif

const OnnxWay onnx_ways[] = {
    {"oracle", run_oracle}, {"passes", run_passes}, {"kernels", run_kernels},
#if MICC_HAVE_TCC
    {"C", run_c},
#endif
#if MICC_HAVE_LLVM
    {"LLVM", run_llvm},
#endif
};
const uint32_t onnx_way_count = COUNT(onnx_ways);

bool onnx_way_holds(const OnnxWay *w, const OnnxCase *c, Err *e)
{
  Tensor *out = NEW_ARRAY(c->arena, Tensor, c->n_outputs + 1);
  Err why = {0};

  if (w->run(c, out, &why) && onnx_case_compare(c, out, onnx_case_tolerance, &why))
    return true;
  return fail(e, "%s: %s", w->name, why.text);
}
