/* c.c - prints kernels as portable C99: one file, a function a kernel, one walk over its nodes (c_ops.c). */
#include "codegen/c.h"
#include "codegen/c_helpers.h"
#include "codegen/c_print.h"

#include <assert.h>

static const char head_text[] =
    "/* Kernels, printed by micc. A contracted product and sum would change results. */\n"
    "#ifndef MI_NO_INCLUDES\n"
    "#include <math.h>\n#include <stdint.h>\n#include <string.h>\n"
    "#endif\n"
    "#if defined(__clang__)\n"
    "#pragma STDC FP_CONTRACT OFF\n"
    "#elif defined(__GNUC__)\n"
    "#pragma GCC optimize(\"fp-contract=off\")\n"
    "#endif\n"
    "#ifdef __GNUC__\n" /* constants may be folded into what looks like a slip; gcc forgets the cast of a
                           shift */
    "#pragma GCC diagnostic ignored \"-Wtautological-compare\"\n"
    "#pragma GCC diagnostic ignored \"-Wdiv-by-zero\"\n"
    "#pragma GCC diagnostic ignored \"-Wshift-overflow\"\n"
    "#pragma GCC diagnostic ignored \"-Wshift-negative-value\"\n"
    "#endif\n"
    "#define EACH(n) for (int l = 0; l < (n); l++)\n\n"
    "typedef void MiKernel(uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi);\n";

/* A carry that stays as it is prints no copy; a shuffle may take no lane of an input. */
static bool is_printed(const CPrinter *p, KVal v, uint32_t i, KVal head)
{
  const KNode *n = c_node(p, v);

  if (n->op == K_end)
    return kernel_in(p->k, v, i) != head + 1 + i;
  if (n->op != K_shuffle)
    return true;
  for (uint32_t l = 2; l < n->in.count; l++)
    if ((kernel_in(p->k, v, l) >= c_input(p, v, 0)->type.lanes) == i)
      return true;
  return false;
}

static void count_uses(CPrinter *p)
{
  KVal open[C_MAX_OPEN];
  int n_open = 0;

  for (KVal v = 1; v < p->k->nodes.len; v++) {
    const KNode *n = c_node(p, v);
    uint32_t n_in = n->op == K_shuffle ? 2 : n->in.count;
    if (n->op == K_loop || n->op == K_if) {
      assert(n_open < C_MAX_OPEN);
      open[n_open++] = v;
    }
    KVal head = n->op == K_end ? open[--n_open] : 0;
    for (uint32_t i = 0; i < n_in; i++)
      p->uses[kernel_in(p->k, v, i)] += is_printed(p, v, i, head);
  }
}

/* Names come from models; a comment must not end early. */
static void print_name(Text *out, const char *name)
{
  for (; *name; name++)
    text_add(out, *name >= ' ' && *name <= '~' && *name != '*' && *name != '/' && *name != '\\' ? name : "_",
             1);
}

static void print_params(CPrinter *p)
{
  bool *used = NEW_ARRAY(p->out->arena, bool, p->k->params.len);

  for (KVal v = 1; v < p->k->nodes.len; v++)
    if (kop_info[c_node(p, v)->op].imm == KI_MEM)
      used[c_node(p, v)->buf] = true;
  for (uint32_t i = 0; i < p->k->params.len; i++) {
    const KParam *param = &p->k->params.data[i];
    if (!used[i])
      continue;
    text_printf(p->out, "  %suint8_t *restrict b%u = buf[%u]; /* ", param->access == KA_READ ? "const " : "",
                i, i);
    print_name(p->out, param->name);
    text_printf(p->out, " */\n");
  }
}

static bool print_kernel(const Kernel *k, uint32_t number, bool *helpers, Text *out, Err *e)
{
  Arena tmp = {0};
  CPrinter p = {
      .k = k, .out = out, .helpers = helpers, .uses = NEW_ARRAY(&tmp, uint32_t, k->nodes.len), .depth = 2};
  bool ok = true;

  count_uses(&p);
  text_printf(out, "\n/* ");
  print_name(out, k->name);
  text_printf(out,
              " */\n"
              "static void k_%u(uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi)\n{\n",
              number);
  print_params(&p);
  text_printf(out, "  (void)buf; (void)args;\n  for (int64_t g = lo; g < hi; g++) {\n");
  for (KVal v = 1; ok && v < k->nodes.len; v++) {
    ok = c_print_op(&p, v) ||
         fail(e, "kernel '%s': C has no pattern for %s", k->name, kop_info[kernel_node(k, v)->op].name);
  }
  text_printf(out, "  }\n}\n");
  arena_free(&tmp);
  return ok;
}

bool c_print_functions(const Kernel *const *kernels, uint32_t n, Text *out, Err *e)
{
  Arena tmp = {0};
  Text functions = {.arena = &tmp};
  bool *helpers = NEW_ARRAY(&tmp, bool, c_helper_count), ok = true;

  for (uint32_t i = 0; ok && i < n; i++)
    ok = print_kernel(kernels[i], i, helpers, &functions, e);
  text_add(out, head_text, strlen(head_text));
  c_print_helpers(helpers, out);
  text_add(out, functions.data ? functions.data : "", functions.len);
  arena_free(&tmp);
  return ok;
}

bool c_print_kernels(const Kernel *const *kernels, uint32_t n, Text *out, Err *e)
{
  if (!c_print_functions(kernels, n, out, e))
    return false;
  text_printf(out, "\nextern MiKernel *const mi_kernels[];\nextern const uint32_t mi_n_kernels;\n"
                   "MiKernel *const mi_kernels[] = {");
  for (uint32_t i = 0; i < n; i++)
    text_printf(out, "%sk_%u,", i % 8 ? " " : "\n    ", i);
  text_printf(out, "%s};\nconst uint32_t mi_n_kernels = %u;\n", n ? "\n" : "0", n);
  return true;
}
