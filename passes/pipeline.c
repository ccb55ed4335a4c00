/* pipeline.c - the passes in order, with verification after each, --print-after and --time-passes. */
#include <time.h>

#include "passes/passes.h"

static Graph *pass_tidy(const Graph *g, Err *e)
{
  g = pass_simplify(g, e);
  return g ? pass_dce(g, e) : NULL;
}

static const struct {
  const char *name;
  Graph *(*run)(const Graph *g, Err *e);
  OpIn graphs; /* of which sort */
  const char *doc;
} graph_passes[] = {
    {"widen", pass_widen, IN_DENSE, "16-bit floats are computed in f32"},
    {"qdq", pass_qdq, IN_DENSE, "quantised values stay 8-bit integers, products are of bytes"},
    {"simplify", pass_simplify, IN_BOTH, "rewrite rules, constants, equal nodes shared"},
    {"dce", pass_dce, IN_BOTH, "drop what no output needs"},
    {"attention", pass_attention, IN_DENSE, "softmax(q k') v becomes one op"},
    {"channels", pass_channels, IN_DENSE, "transposes move, cancel, and leave channels last"},
    {"products", pass_products, IN_DENSE, "matmul to linear; scales and biases into weights"},
    {"requant", pass_requant, IN_DENSE, "one scale between a product of bytes and its codes"},
    {"tidy", pass_tidy, IN_DENSE, "simplify and dce again"},
    {"quantize", pass_quantize, IN_LANG, "8-bit activations for block weights"},
    {"fuse", pass_fuse, IN_LANG, "group nodes into launches"},
};

const char *passes_list(void)
{
  return "build, widen, qdq, simplify, dce, attention, channels, products, requant, tidy, quantize, fuse, "
         "lower";
}

static double now_ms(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static bool wanted(const PassOptions *o, const char *name)
{
  return o->print_after && o->log && (!strcmp(o->print_after, name) || !strcmp(o->print_after, "all"));
}

static void report(const PassOptions *o, const char *name, double start_ms)
{
  if (o->time_passes && o->log)
    text_printf(o->log, "%-10s %8.3f ms\n", name, now_ms() - start_ms);
}

static bool known_pass(const char *name)
{
  static const char *const others[] = {"all", "build", "lower"};

  for (size_t i = 0; i < COUNT(others); i++)
    if (!strcmp(name, others[i]))
      return true;
  for (size_t i = 0; i < COUNT(graph_passes); i++)
    if (!strcmp(name, graph_passes[i].name))
      return true;
  return false;
}

static bool run_graph_passes(Module *m, const PassOptions *o, Err *e)
{
  for (size_t p = 0; p < COUNT(graph_passes); p++) {
    double start = now_ms();
    for (uint32_t i = 0; i < m->graphs.len; i++) {
      if (graph_passes[p].graphs == (m->graphs.data[i]->dense ? IN_LANG : IN_DENSE))
        continue;
      Graph *g = graph_passes[p].run(m->graphs.data[i], e);
      if (!g || !graph_verify(g, e))
        return false;
      m->graphs.data[i] = g;
    }
    report(o, graph_passes[p].name, start);
    if (wanted(o, graph_passes[p].name))
      module_print(m, o->log);
  }
  return true;
}

static bool lower(const Module *m, const Target *target, const PassOptions *o, Program **out, Err *e)
{
  double start = now_ms();

  if (!pass_lower(m, target, o, out, e))
    return false;
  for (uint32_t i = 0; i < (*out)->kernels.len; i++)
    if (!kernel_verify((*out)->kernels.data[i], e))
      return false;
  report(o, "lower", start);
  if (wanted(o, "lower"))
    for (uint32_t i = 0; i < (*out)->kernels.len; i++)
      kernel_print((*out)->kernels.data[i], o->log);
  return true;
}

bool passes_run(Module *m, const PassOptions *o, Program **out, Err *e)
{
  if (o->print_after && !known_pass(o->print_after))
    return fail(e, "no pass is named '%s'; there are: %s", o->print_after, passes_list());
  if (!module_verify(m, e))
    return false;
  if (wanted(o, "build"))
    module_print(m, o->log);
  if (!run_graph_passes(m, o, e))
    return false;
  for (unsigned i = 0; i < o->n_targets; i++)
    if (!lower(m, o->targets[i], o, &out[i], e))
      return false;
  return true;
}
