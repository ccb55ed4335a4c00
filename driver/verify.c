/* verify.c - `micc verify MODEL.onnx --case DIR`: compiles a model, runs it on a case's inputs, and compares with what
 * the case says must come out; without outputs, with the oracle.
 *
 * If something differs, every node's value is kept, compiled and compared with the oracle's, to name the first node
 * that differs. */
#include "driver/driver.h"
#include "driver/verify_grid.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

#include "codegen/exec.h"
#include "runtime-min/mi_array.h"

enum { PASS_STATUS = 0, DIFFERS = 1 };

typedef struct {
  const Options *opt;
  const VerifyOptions *v;
  Arena arena;
  OnnxModel *onnx;
  Module *module;
  const Graph *oracle; /* as all ways compute it: 16-bit floats as f32, rounded at the end */
  double *grid;        /* of its nodes */
  const Target *target;
  Tensor *given; /* one for each of the model's inputs that the case has a file for */
  uint32_t n_given;
  Tensor *inputs; /* of the graph's input nodes, in order */
  Tensor *want;   /* one for each output; data NULL: the case has no file */
  uint32_t n_want;
  bool same; /* all outputs agree */
  Err *e;
} Verify;

/* ---- files */

static int dtype_of(MiElem e)
{
  static const uint8_t types[MI_ELEM_COUNT] = {DT_F32, DT_F16, DT_BF16, DT_F64, DT_I8,  DT_U8,   DT_I16,
                                               DT_U16, DT_I32, DT_U32,  DT_I64, DT_U64, DT_BOOL, DT_U8};
  return types[e];
}

static bool read_npy(Verify *c, const char *path, Tensor *out)
{
  char line[256];
  MiOut why = {.buf = line, .cap = sizeof line, .fd = -1};
  MiArray a;
  Type t = {0};

  if (!mi_array_npy(path, &a, &why))
    return fail(c->e, "%s", mi_out_string(&why));
  t.dtype = (DType)dtype_of(a.elem);
  t.rank = a.rank;
  for (uint32_t d = 0; d < a.rank; d++)
    t.dim[d] = (int64_t)a.dim[d];
  if (!type_check_dense(&t, c->e))
    return false;
  *out = tensor_new(&c->arena, &t);
  a.data = out->data;
  return mi_array_read(path, &a, &why) || fail(c->e, "%s", mi_out_string(&why));
}

static bool read_pb(Verify *c, const char *path, Tensor *out)
{
  OnnxTensor *t;
  return onnx_read_tensor(path, &c->arena, &t, c->e) && onnx_tensor_value(t, &c->arena, out, c->e);
}

/* KIND_N.npy or .pb; *found: there is one. */
static bool read_file(Verify *c, const char *kind, uint32_t n, Tensor *out, bool *found)
{
  const char *npy = arena_printf(&c->arena, "%s/%s_%u.npy", c->v->dir, kind, n),
             *pb = arena_printf(&c->arena, "%s/%s_%u.pb", c->v->dir, kind, n);

  *found = true;
  if (!access(npy, F_OK))
    return read_npy(c, npy, out);
  if (!access(pb, F_OK))
    return read_pb(c, pb, out);
  *found = false;
  return true;
}

/* An initializer that is listed among the inputs (old files) is no input of the case. */
static bool is_initializer(const OnnxGraph *g, const char *name)
{
  for (uint32_t i = 0; i < g->n_initializers; i++)
    if (!strcmp(g->initializers[i]->name, name))
      return true;
  return false;
}

static const char *input_name(const Verify *c, uint32_t n)
{
  const OnnxGraph *g = c->onnx->graph;

  for (uint32_t i = 0; i < g->n_inputs; i++)
    if (!is_initializer(g, g->inputs[i]->name) && !n--)
      return g->inputs[i]->name;
  return NULL;
}

static bool read_case(Verify *c)
{
  const OnnxGraph *g = c->onnx->graph;
  bool found = true;

  c->given = NEW_ARRAY(&c->arena, Tensor, g->n_inputs + 1);
  while (found && input_name(c, c->n_given)) {
    if (!read_file(c, "input", c->n_given, &c->given[c->n_given], &found))
      return false;
    c->n_given += found;
  }
  c->want = NEW_ARRAY(&c->arena, Tensor, g->n_outputs + 1);
  for (uint32_t i = 0; i < g->n_outputs; i++)
    if (!read_file(c, "output", i, &c->want[i], &found))
      return false;
    else
      c->n_want += found;
  return c->n_given || !input_name(c, 0) || fail(c->e, "%s: has no input_0.npy or input_0.pb", c->v->dir);
}

/* ---- import: shapes are the case's; an input that decides shapes is fixed to the case's value, and named */

static uint32_t given_index(const Verify *c, const char *name)
{
  uint32_t i = 0;

  while (i < c->n_given && strcmp(input_name(c, i), name))
    i++;
  return i;
}

static bool is_given(const Options *o, const char *name)
{
  for (uint32_t i = 0; i < o->n_fixes; i++)
    if (!strcmp(o->fixes[i].name, name))
      return true;
  return false;
}

static bool import(Verify *c)
{
  const Options *o = c->opt;
  OnnxShape *shapes = NEW_ARRAY(&c->arena, OnnxShape, c->n_given + o->n_shapes + 1);
  OnnxFix *fixes = NEW_ARRAY(&c->arena, OnnxFix, c->n_given + o->n_fixes + 1);
  const char *need = NULL;
  Text notes = {.arena = &c->arena};
  OnnxImportOptions opt = {.shapes = shapes, .fixes = fixes, .notes = &notes, .need = &need};

  for (uint32_t i = 0; i < o->n_shapes; i++)
    shapes[opt.n_shapes++] = o->shapes[i];
  for (uint32_t i = 0; i < o->n_fixes; i++)
    fixes[opt.n_fixes++] = o->fixes[i];
  for (uint32_t i = 0; i < c->n_given; i++)
    if (!is_given(o, input_name(c, i))) {
      OnnxShape *s = &shapes[opt.n_shapes++];
      *s = (OnnxShape){.name = input_name(c, i), .rank = c->given[i].type.rank};
      memcpy(s->dim, c->given[i].type.dim, sizeof s->dim);
    }
  for (;;) {
    *c->e = (Err){0};
    if (onnx_import(c->onnx, &opt, &c->arena, &c->module, c->e))
      break;
    if (!need)
      need = compile_onnx_switch(c->onnx, fixes, opt.n_fixes);
    uint32_t i = need ? given_index(c, need) : c->n_given;
    if (i >= c->n_given || is_given(o, need) || opt.n_fixes >= c->n_given + o->n_fixes)
      return false;
    printf("input %s decides what is computed: fixed to the case's value (--fix %s=...)\n", need, need);
    fixes[opt.n_fixes++] = (OnnxFix){.name = need, .tensor = &c->given[i]};
  }
  if (notes.len)
    fputs(notes.data, stderr);
  return true;
}

static bool collect_inputs(Verify *c)
{
  const Graph *g = c->module->graphs.data[0];
  uint32_t n = 0;

  c->inputs = NEW_ARRAY(&c->arena, Tensor, g->nodes.len);
  for (Val v = 1; v < g->nodes.len; v++) {
    const Node *node = graph_node(g, v);
    if (node->op != OP_input)
      continue;
    uint32_t i = given_index(c, node->attr.name);
    if (i == c->n_given)
      return fail(c->e, "%s: there is no file for input '%s'", c->v->dir, node->attr.name);
    if (!type_eq(&c->given[i].type, &node->type))
      return fail(c->e, "%s: input_%u has another type or shape than input '%s'", c->v->dir, i,
                  node->attr.name);
    c->inputs[n++] = c->given[i];
  }
  return true;
}

/* ---- comparing */

typedef struct {
  long double error; /* absolute, of the element that is furthest out */
  long double got, want;
  int64_t at, wrong; /* elements outside of the tolerance */
} Difference;

/* grid: distance of the values that are possible; 0: any. The last bits of a step do not count. */
static bool near(const Verify *c, DType t, double grid, long double got, long double want)
{
  long double error = fabsl(got - want), steps = (long double)(c->v->steps * grid) * 1.00001L;

  if (dtype_info[t].kind == DK_INT)
    return error <= steps;
  if (isnan(want) || isinf(want))
    return isnan(want) ? isnan(got) : got == want;
  return error <= (long double)c->v->absolute || error <= (long double)c->v->relative * fabsl(want) ||
         error <= steps;
}

static Difference compare(const Verify *c, double grid, const Tensor *got, const Tensor *want)
{
  Difference d = {0};

  for (int64_t i = 0; i < type_count(&want->type); i++) {
    long double x = tensor_get(got, i), y = tensor_get(want, i), error = fabsl(x - y);
    d.wrong += !near(c, want->type.dtype, grid, x, y);
    if (error > d.error || (isnan(error) && !(isnan(x) && isnan(y)))) {
      d.error = isnan(error) ? INFINITY : error;
      d.at = i;
      d.got = x;
      d.want = y;
    }
  }
  return d;
}

static const char *place_text(Verify *c, const Type *t, int64_t at)
{
  Text s = {.arena = &c->arena};
  int64_t index[MAX_RANK];

  for (uint32_t d = t->rank; d-- > 0;) {
    index[d] = at % t->dim[d];
    at /= t->dim[d];
  }
  text_printf(&s, "[");
  for (uint32_t d = 0; d < t->rank; d++)
    text_printf(&s, "%s%lld", d ? "," : "", (long long)index[d]);
  text_printf(&s, "]");
  return s.data;
}

/* ---- running */

static bool run_compiled(Verify *c, Module *m, Tensor *out)
{
  Program *p = NULL;
  PassOptions po = {.targets = &c->target, .n_targets = 1};

  if (!passes_run(m, &po, &p, c->e))
    return false;
  Exec *x = exec_open(p, c->target, c->opt->tcc ? EXEC_TCC : EXEC_LLVM, c->e);
  bool ok = x && exec_run(x, c->inputs, out, &c->arena, c->e);
  exec_close(x);
  return ok;
}

/* ---- the first node that differs */

/* The graph with every computed node as an output, in order. */
static Module *with_all_outputs(Verify *c, Val *nodes, uint32_t *n)
{
  Module *m = module_copy(c->oracle->module);
  Graph *g = m->graphs.data[0];
  const Graph *from = c->oracle;

  g->nodes.data = arena_copy(&c->arena, from->nodes.data, from->nodes.len * sizeof *from->nodes.data);
  g->nodes.len = g->nodes.cap = from->nodes.len;
  g->edges.data = arena_copy(&c->arena, from->edges.data, (from->edges.len + 1) * sizeof *from->edges.data);
  g->edges.len = g->edges.cap = from->edges.len;
  uint32_t len = g->nodes.len;
  for (Val v = 1; v < len; v++) {
    Op op = graph_node(g, v)->op;
    if (op == OP_output)
      graph_node(g, v)->attr.name = arena_printf(&c->arena, "output %u", v);
    if (op == OP_input || op == OP_weight || op == OP_const || op == OP_output || op == OP_reshape)
      continue;
    nodes[(*n)++] = v;
    graph_add(g, OP_output, &v, 1, (Attr){.name = arena_printf(&c->arena, "node %u", v)}, NULL);
  }
  return m;
}

/* What the oracle makes of a node's inputs as they were computed. */
static bool expect(const Verify *c, const Tensor *value, Val v, Arena *a, Tensor *want)
{
  const Graph *g = c->oracle;
  uint32_t n = graph_node(g, v)->in.count;
  Tensor *in = NEW_ARRAY(a, Tensor, n + 1);

  for (uint32_t i = 0; i < n; i++)
    in[i] = value[graph_in(g, v, i)];
  return graph_eval_node(g, v, in, a, want);
}

static bool node_differs(Verify *c, Val v, const Tensor *got, const Tensor *want)
{
  const Node *node = graph_node(c->oracle, v);
  Difference d = compare(c, c->grid[v], got, want);

  if (d.wrong)
    printf("first node that differs from the oracle: %s (%s), %lld of %lld elements, e.g. %s: %.9Lg, must be "
           "%.9Lg\n",
           node->from ? node->from : "unnamed", op_info[node->op].name, (long long)d.wrong,
           (long long)type_count(&node->type), place_text(c, &node->type, d.at), d.got, d.want);
  return d.wrong;
}

/* `got` holds the values of `nodes`; each is compared with the oracle's on the same inputs. */
static bool any_node_differs(Verify *c, const Val *nodes, const Tensor *got)
{
  const Graph *g = c->oracle;
  Tensor *value = NEW_ARRAY(&c->arena, Tensor, g->nodes.len);
  uint32_t at = 0, n_input = 0;
  bool differs = false;

  for (Val v = 1; !differs && v < g->nodes.len; v++) {
    Arena tmp = {0};
    Tensor want;
    if (graph_node(g, v)->op == OP_input) {
      value[v] = c->inputs[n_input++];
    } else if (nodes[at] == v) {
      value[v] = got[at++];
      differs = expect(c, value, v, &tmp, &want) && node_differs(c, v, &value[v], &want);
    } else if (graph_node(g, v)->op != OP_output) {
      expect(c, value, v, &c->arena, &value[v]);
    }
    arena_free(&tmp);
  }
  return differs;
}

static void name_first(Verify *c)
{
  const Graph *g = c->oracle;
  Val *nodes = NEW_ARRAY(&c->arena, Val, g->nodes.len);
  uint32_t n = 0, outputs = 0;
  Module *m = with_all_outputs(c, nodes, &n);
  Tensor *got = NEW_ARRAY(&c->arena, Tensor, m->graphs.data[0]->nodes.len);

  for (Val v = 1; v < g->nodes.len; v++)
    outputs += graph_node(g, v)->op == OP_output;
  if (run_compiled(c, m, got) && !any_node_differs(c, nodes, got + outputs))
    printf("each node agrees with the oracle on what it is given: the graph means something else than the "
           "case\n");
}

/* ---- the command */

static bool report(Verify *c, const Tensor *got, uint32_t n)
{
  const Graph *g = c->oracle;
  bool same = true;
  uint32_t i = 0;

  for (Val v = 1; v < g->nodes.len && i < n; v++) {
    if (graph_node(g, v)->op != OP_output)
      continue;
    const Tensor *want = &c->want[i];
    if (want->data && !type_eq(&want->type, &got[i].type)) {
      Text t = {.arena = &c->arena};
      type_print(&got[i].type, &t);
      text_printf(&t, ", the case has ");
      type_print(&want->type, &t);
      printf("%-24s DIFFERS: it is %s\n", graph_node(g, v)->attr.name, t.data);
      same = false;
    } else if (want->data) {
      Difference d = compare(c, c->grid[v], &got[i], want);
      const char *steps = c->grid[v] > 0 && dtype_info[want->type.dtype].kind == DK_FLOAT
                              ? arena_printf(&c->arena, "; quantised, in steps of %.3g", c->grid[v])
                              : "";
      printf("%-24s %s: largest error %.3Lg at %s (%.9Lg, must be %.9Lg), %lld of %lld elements outside%s\n",
             graph_node(g, v)->attr.name, d.wrong ? "DIFFERS" : "agrees", d.error,
             place_text(c, &want->type, d.at), d.got, d.want, (long long)d.wrong,
             (long long)type_count(&want->type), steps);
      same &= !d.wrong;
    }
    i++;
  }
  return same;
}

/* Other formats are named by model_open(). */
static bool read_model(Verify *c)
{
  if (compile_is_onnx(c->opt->model))
    return onnx_read(c->opt->model, &c->arena, &c->onnx, c->e);
  Model *m = model_open(c->opt->model, c->e);
  if (!m)
    return false;
  model_close(m);
  return fail(c->e, "%s: is a GGUF file; verify compares results of ONNX models", c->opt->model);
}

static bool verify(Verify *c)
{
  c->target = c->opt->tcc ? target_find("c", c->e) : target_find(c->opt->cpu ? c->opt->cpu : "native", c->e);
  if (!c->target || !read_model(c) || !read_case(c) || !import(c) || !collect_inputs(c))
    return false;
  c->oracle = pass_widen(module_copy(c->module)->graphs.data[0], c->e);
  if (!c->oracle)
    return false;
  c->grid = verify_grid(c->oracle, &c->arena);
  uint32_t n = c->onnx->graph->n_outputs;
  Tensor *got = NEW_ARRAY(&c->arena, Tensor, n + 1);
  if (!c->n_want) {
    printf("%s has no outputs: compared with the oracle\n", c->v->dir);
    graph_eval_dense(c->oracle, &c->arena, c->inputs, c->want);
  }
  if (!run_compiled(c, module_copy(c->module), got))
    return false;
  c->same = report(c, got, n);
  if (!c->same)
    name_first(c);
  return true;
}

int cmd_verify(const Options *opt, const VerifyOptions *v)
{
  Err e = {0};
  Verify c = {.opt = opt, .v = v, .e = &e};
  MemTrap trap;
  volatile bool ok = false;
  if (mem_try(&trap)) {
    ok = verify(&c);
    mem_done(&trap);
  } else {
    fail(&e, "out of memory");
  }
  onnx_close(c.onnx);
  arena_free(&c.arena);
  if (!ok)
    fprintf(stderr, "micc: %s\n", e.text);
  return ok && c.same ? PASS_STATUS : DIFFERS;
}
