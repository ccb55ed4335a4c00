/* graph_text.c - prints the graph IR. graph_parse.c reads it again.
 *
 * Tests hold text before and after a pass, so printing renumbers (a value's number is its place).
 * One value a line; how an attribute prints is a row of attr_print. Names print bare when they are
 * plain words, else quoted with \xNN escapes. */
#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "ir/graph_rules.h"

/* ---- printing */

static bool plain_char(char c)
{
  return isalnum((unsigned char)c) || (c && strchr("_./:-", c));
}

static bool plain_name(const char *s)
{
  const char *p = s;

  while (plain_char(*p))
    p++;
  return *s && !*p;
}

static void print_name(Text *out, const char *s)
{
  if (plain_name(s)) {
    text_printf(out, "%s", s);
    return;
  }
  text_printf(out, "\"");
  for (; *s; s++) {
    unsigned char c = (unsigned char)*s;
    if (c < 32 || c > 126 || c == '"' || c == '\\')
      text_printf(out, "\\x%02x", c);
    else
      text_add(out, s, 1);
  }
  text_printf(out, "\"");
}

/* As few digits as give the same number back. */
static void print_number(Text *out, double v, bool single)
{
  static const int digits[] = {6, 9, 12, 15, 17};
  char s[40];

  for (uint32_t i = 0; i < COUNT(digits); i++) {
    snprintf(s, sizeof s, "%.*g", digits[i], v);
    double back = strtod(s, NULL);
    if (single ? (float)back == (float)v : back == v)
      break;
  }
  text_printf(out, "%s", s);
}

static void print_attr_name(const Module *m, const Node *n, Text *out)
{
  (void)m;
  if (!n->attr.name)
    return;
  text_printf(out, " ");
  print_name(out, n->attr.name);
}

static void print_tensor(const Module *m, const Node *n, Text *out)
{
  text_printf(out, " ");
  print_name(out, m->weights.data[n->attr.index].name);
}

static void print_state(const Module *m, const Node *n, Text *out)
{
  text_printf(out, " ");
  print_name(out, m->states.data[n->attr.index].name);
}

static void print_value(const Module *m, const Node *n, Text *out)
{
  (void)m;
  text_printf(out, " ");
  print_number(out, n->attr.value, false);
}

static void print_eps(const Module *m, const Node *n, Text *out)
{
  (void)m;
  text_printf(out, " eps=");
  print_number(out, n->attr.eps, false);
}

static void print_perm(const Module *m, const Node *n, Text *out)
{
  (void)m;
  text_printf(out, " perm=");
  for (uint32_t i = 0; i < n->type.rank; i++)
    text_printf(out, "%s%u", i ? "," : "", n->attr.perm[i]);
}

static void print_slice(const Module *m, const Node *n, Text *out)
{
  (void)m;
  text_printf(out, " axis=%u start=%lld count=%lld", n->attr.slice.axis, (long long)n->attr.slice.start,
              (long long)n->attr.slice.count);
  if (n->attr.slice.step != 1)
    text_printf(out, " step=%lld", (long long)n->attr.slice.step);
}

static void print_axis(const Module *m, const Node *n, Text *out)
{
  (void)m;
  text_printf(out, " axis=%u", n->attr.axis);
}

static void print_rope(const Module *m, const Node *n, Text *out)
{
  (void)m;
  text_printf(out, " rope=%u", n->attr.rope);
}

static void print_style(const Module *m, const Node *n, Text *out)
{
  (void)m;
  text_printf(out, " style=%s", n->attr.interleaved ? "interleaved" : "halves");
}

static void print_attention(const Module *m, const Node *n, Text *out)
{
  (void)m;
  text_printf(out, " scale=");
  print_number(out, (double)n->attr.attention.scale, true);
  if (n->attr.attention.window)
    text_printf(out, " window=%lld", (long long)n->attr.attention.window);
  if (n->attr.attention.softcap != 0) {
    text_printf(out, " softcap=");
    print_number(out, (double)n->attr.attention.softcap, true);
  }
  if (n->attr.attention.nan_is_0)
    text_printf(out, " nan=0");
}

static void print_axes(const Module *m, const Node *n, Text *out)
{
  bool first = true;

  (void)m;
  text_printf(out, " axes=");
  for (uint32_t d = 0; d < MAX_RANK; d++)
    if (n->attr.axes >> d & 1) {
      text_printf(out, "%s%u", first ? "" : ",", d);
      first = false;
    }
}

static void print_arg(const Module *m, const Node *n, Text *out)
{
  (void)m;
  text_printf(out, " axis=%u%s", n->attr.arg.axis, n->attr.arg.last ? " last" : "");
}

static void print_scan(const Module *m, const Node *n, Text *out)
{
  (void)m;
  text_printf(out, " axis=%u%s%s", n->attr.scan.axis, n->attr.scan.exclusive ? " exclusive" : "",
              n->attr.scan.reverse ? " reverse" : "");
}

static void print_list(Text *out, const char *key, const int64_t *v, uint32_t n)
{
  text_printf(out, " %s=", key);
  for (uint32_t i = 0; i < n; i++)
    text_printf(out, "%s%lld", i ? "," : "", (long long)v[i]);
}

static void print_pad(const Module *m, const Node *n, Text *out)
{
  (void)m;
  print_list(out, "lo", n->attr.pad.lo, n->type.rank);
}

static void print_scatter(const Module *m, const Node *n, Text *out)
{
  (void)m;
  text_printf(out, " reduce=%s", graph_scatter_name[n->attr.reduce]);
}

static void print_topk(const Module *m, const Node *n, Text *out)
{
  (void)m;
  text_printf(out, " count=%lld %s", (long long)n->attr.topk.count,
              n->attr.topk.largest ? "largest" : "smallest");
}

static bool all_are(const int64_t *v, uint32_t n, int64_t value)
{
  for (uint32_t i = 0; i < n; i++)
    if (v[i] != value)
      return false;
  return true;
}

/* What is usual is left out: strides and dilations of 1, no padding, one group. */
static void print_window(const Module *m, const Node *n, Text *out)
{
  const Window *w = &n->attr.window;

  (void)m;
  print_list(out, "kernel", w->kernel, w->spatial);
  if (!all_are(w->stride, w->spatial, 1))
    print_list(out, "stride", w->stride, w->spatial);
  if (!all_are(w->dilation, w->spatial, 1))
    print_list(out, "dilation", w->dilation, w->spatial);
  if (!all_are(w->pad_lo, w->spatial, 0))
    print_list(out, "lo", w->pad_lo, w->spatial);
  if (!all_are(w->pad_hi, w->spatial, 0))
    print_list(out, "hi", w->pad_hi, w->spatial);
  if (w->group != 1)
    text_printf(out, " group=%lld", (long long)w->group);
}

static void print_saturate(const Module *m, const Node *n, Text *out)
{
  (void)m;
  if (n->attr.saturate)
    text_printf(out, " saturate");
}

const char *const graph_scatter_name[] = {"none", "add", "mul", "max", "min"};
static_assert(COUNT(graph_scatter_name) == SCATTER_MIN + 1, "every way to scatter has a name");

static void (*const attr_print[])(const Module *m, const Node *n, Text *out) = {
    [ATTR_NAME] = print_attr_name,
    [ATTR_TENSOR] = print_tensor,
    [ATTR_STATE] = print_state,
    [ATTR_VALUE] = print_value,
    [ATTR_EPS] = print_eps,
    [ATTR_PERM] = print_perm,
    [ATTR_SLICE] = print_slice,
    [ATTR_AXIS] = print_axis,
    [ATTR_ROPE] = print_rope,
    [ATTR_STYLE] = print_style,
    [ATTR_ATTENTION] = print_attention,
    [ATTR_AXES] = print_axes,
    [ATTR_ARG] = print_arg,
    [ATTR_SCAN] = print_scan,
    [ATTR_PAD] = print_pad,
    [ATTR_SCATTER] = print_scatter,
    [ATTR_TOPK] = print_topk,
    [ATTR_WINDOW] = print_window,
    [ATTR_SATURATE] = print_saturate,
};
static_assert(COUNT(attr_print) == ATTR_COUNT, "every attribute prints");

/* ---- whole graphs and modules, printed */

static void print_node(const Graph *g, Val v, Text *out)
{
  const Node *n = graph_node(g, v);

  text_printf(out, "  %%%u = %s ", v, op_info[n->op].name);
  type_print(&n->type, out);
  for (uint32_t i = 0; i < n->in.count; i++)
    text_printf(out, "%s%%%u", i ? ", " : " ", graph_in(g, v, i));
  if (attr_print[op_info[n->op].attr])
    attr_print[op_info[n->op].attr](g->module, n, out);
  if (n->launch)
    text_printf(out, "  @%u", n->launch);
  if (n->from) {
    text_printf(out, "  # ");
    print_name(out, n->from);
  }
  text_printf(out, "\n");
}

void graph_print(const Graph *g, Text *out)
{
  text_printf(out, "graph ");
  print_name(out, g->name);
  if (g->dense)
    text_printf(out, " dense {\n");
  else
    text_printf(out, " tokens %lld {\n", (long long)g->tokens);
  for (Val v = 1; v < g->nodes.len; v++)
    print_node(g, v, out);
  text_printf(out, "}\n");
}

static void print_named(const char *kind, const char *name, const Type *t, Text *out)
{
  text_printf(out, "%s ", kind);
  print_name(out, name);
  text_printf(out, " ");
  type_print(t, out);
}

/* Small tensors show their values: the shapes and axes among them decide what a graph does. */
static void print_weight(const Weight *w, Text *out)
{
  DType t = w->type.dtype;
  int64_t n = type_count(&w->type);

  print_named("weight", w->name, &w->type, out);
  if (w->data && n <= 16 && dtype_is_element(t)) {
    text_printf(out, " =");
    for (int64_t i = 0; i < n; i++) {
      const uint8_t *p = (const uint8_t *)w->data + i * dtype_info[t].bytes;
      text_printf(out, " ");
      if (t == DT_U64)
        text_printf(out, "%llu", (unsigned long long)dtype_get_int(t, p));
      else if (dtype_info[t].kind == DK_INT)
        text_printf(out, "%lld", (long long)dtype_get_int(t, p));
      else
        print_number(out, (double)dtype_get(t, p), t != DT_F64);
    }
  }
  text_printf(out, "\n");
}

void module_print(const Module *m, Text *out)
{
  text_add(out, "", 0); /* an empty module is an empty text, not NULL */
  for (uint32_t i = 0; i < m->weights.len; i++)
    print_weight(&m->weights.data[i], out);
  for (uint32_t i = 0; i < m->states.len; i++) {
    print_named("state", m->states.data[i].name, &m->states.data[i].type, out);
    text_printf(out, "\n");
  }
  for (uint32_t i = 0; i < m->ropes.len; i++) {
    const RopeSpec *r = &m->ropes.data[i];
    text_printf(out, "rope %u half %u magnitude ", i, r->half);
    print_number(out, (double)r->magnitude, true);
    text_printf(out, " step");
    for (uint32_t k = 0; k < r->half; k++)
      text_printf(out, " %u", r->step[k]);
    text_printf(out, "\n");
  }
  for (uint32_t i = 0; i < m->graphs.len; i++)
    graph_print(m->graphs.data[i], out);
}
