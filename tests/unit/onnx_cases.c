/* onnx_cases.c - ONNX nodes on text: tests/cases/onnx/NAME.txt holds nodes, their inputs, and what must come out of the
 * imported graph by the oracle. For operators of which the ONNX backend suite has no cases, above all com.microsoft.
 *
 *   # what it is about
 *   OP[@OPSET] [DOMAIN] [ATTRIBUTE=VALUE ..]          opset 17, domain com.microsoft; values 1 1.5 text [1,2] [1.0,2.0]
 *   in TYPE[DIMS] VALUES | const .. | none            inputs; constants stand in the model
 *   out TYPE[DIMS] VALUES | none                      outputs; "none": nobody wants it
 *   error TEXT                                        instead of outputs: the message that must come
 *   note TEXT                                         what the user is told besides
 *
 * The values in ms*.txt are what ONNX Runtime 1.32 gives, those in signal.txt what numpy gives in f64. */
#include "frontend/onnx/onnx_ops.h"
#include "tests/unit/support/onnx_tools.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <math.h>
#include <stdio.h>

enum { SLOTS_MAX = 16 };

typedef struct {
  Arena arena;
  const char *file, *about, *error, *note;
  Text graph; /* in the notation of onnx_tools.h */
  int opset;
  Tensor in[SLOTS_MAX], out[SLOTS_MAX];
  uint32_t n_in, n_out, slots, outs; /* graph inputs and outputs; places of the node */
} Case;

/* ---- reading */

static Tensor read_tensor(Case *c, char *s)
{
  char *bracket = strchr(s, '['), *p = bracket + 1;
  int dtype = dtype_by_name(s, (size_t)(bracket - s));
  Type t = {.dtype = (DType)dtype};

  cr_assert(dtype >= 0, "%s: %s: no type in '%s'", c->file, c->about, s);
  while (*p != ']') {
    t.dim[t.rank++] = strtoll(p, &p, 10);
    p += *p == ',';
  }
  Tensor x = tensor_new(&c->arena, &t);
  p++;
  for (int64_t i = 0; i < type_count(&t); i++)
    tensor_set(&x, i, strtold(p, &p));
  cr_assert(p[strspn(p, " ")] == 0, "%s: %s: too many values", c->file, c->about);
  return x;
}

static void add_dims(Text *out, const Type *t, const char *before, const char *after)
{
  for (uint32_t i = 0; i < t->rank; i++)
    text_printf(out, "%s1:%lld%s", before, (long long)t->dim[i], after);
}

static void add_constant(Case *c, const Tensor *x, uint32_t slot)
{
  DType t = x->type.dtype;
  bool real = dtype_info[t].kind == DK_FLOAT;

  text_printf(&c->graph, "5{ 8'x%u' 2:%d ", slot, onnx_elem_of(t));
  add_dims(&c->graph, &x->type, "", " ");
  text_printf(&c->graph, "%s", real ? "4(" : t == DT_I64 ? "7[" : "5[");
  for (int64_t i = 0; i < type_count(&x->type); i++)
    text_printf(&c->graph, "%.9Lg ", tensor_get(x, i));
  text_printf(&c->graph, "%s } ", real ? ")" : "]");
}

static void add_input(Case *c, const Tensor *x, uint32_t slot)
{
  text_printf(&c->graph, "11{ 1'x%u' 2{ 1{ 1:%d 2{ ", slot, onnx_elem_of(x->type.dtype));
  add_dims(&c->graph, &x->type, "1{ ", " } ");
  text_printf(&c->graph, "} } } } ");
  c->in[c->n_in++] = *x;
}

/* A list of numbers with a point is one of floats. */
static void add_attribute(Text *node, const char *name, char *value)
{
  char *end;
  bool list = *value == '[', real = strchr(value, '.') || strchr(value, 'e');

  if (!list)
    strtod(value, &end);
  if (!list && (*end || end == value)) {
    text_printf(node, "5{ 1'%s' 4'%s' 20:3 } ", name, value);
    return;
  }
  if (!list) {
    text_printf(node, "5{ 1'%s' %s%s 20:%d } ", name, real ? "2f" : "3:", value, real ? 1 : 2);
    return;
  }
  for (char *p = value; *p; p++)
    *p = *p == ',' || *p == '[' || *p == ']' ? ' ' : *p;
  text_printf(node, "5{ 1'%s' %s%s%s 20:%d } ", name, real ? "7(" : "8[", value, real ? ")" : "]",
              real ? 6 : 7);
}

static void read_node(Case *c, char *line, Text *node)
{
  char *op = strsep(&line, " "), *at = strchr(op, '@'), *word;
  const char *domain = "com.microsoft";

  c->opset = at ? atoi(at + 1) : 17;
  if (at)
    *at = 0;
  while ((word = strsep(&line, " "))) {
    char *value = strchr(word, '=');
    if (value) {
      *value++ = 0;
      add_attribute(node, word, value);
    } else {
      domain = strcmp(word, "ai.onnx") ? word : "";
    }
  }
  text_printf(node, "4'%s' 7'%s' ", op, domain);
}

static void read_input(Case *c, Text *node, char *rest, bool constant)
{
  uint32_t slot = c->slots++;

  cr_assert(slot < SLOTS_MAX);
  text_printf(node, "1'x%u' ", slot);
  Tensor x = read_tensor(c, rest);
  if (constant)
    add_constant(c, &x, slot);
  else
    add_input(c, &x, slot);
}

static void read_output(Case *c, Text *node, char *rest)
{
  if (!strcmp(rest, "none")) {
    text_printf(node, "2'' ");
    return;
  }
  cr_assert(c->n_out < SLOTS_MAX);
  text_printf(node, "2'y%u' ", c->n_out);
  text_printf(&c->graph, "12{ 1'y%u' } ", c->n_out);
  c->out[c->n_out++] = read_tensor(c, rest);
}

static void read_case(Case *c, char *text)
{
  Text node = {.arena = &c->arena};
  char *line;

  while ((line = strsep(&text, "\n"))) {
    char *rest = strchr(line, ' ');
    size_t word = rest ? (size_t)(rest++ - line) : strlen(line);
    if (!*line)
      continue;
    if (*line == '#') {
      c->about = c->about ? c->about : line + 2;
    } else if (!strcmp(line, "none")) {
      c->slots++;
      text_printf(&node, "1'' ");
    } else if (word == 2 && !memcmp(line, "in", 2)) {
      read_input(c, &node, rest, false);
    } else if (word == 5 && !memcmp(line, "const", 5)) {
      read_input(c, &node, rest, true);
    } else if (word == 3 && !memcmp(line, "out", 3)) {
      read_output(c, &node, rest);
    } else if (word == 5 && !memcmp(line, "error", 5)) {
      c->error = rest;
      text_printf(&node, "2'y' ");
      text_printf(&c->graph, "12{ 1'y' } ");
    } else if (word == 4 && !memcmp(line, "note", 4)) {
      c->note = rest;
    } else {
      read_node(c, line, &node);
    }
  }
  text_printf(&c->graph, "1{ %s} ", node.data);
}

/* ---- checking */

static bool near_enough(DType t, long double x, long double y)
{
  if (dtype_info[t].kind != DK_FLOAT)
    return x == y;
  return (isnan(x) && isnan(y)) || fabsl(x - y) <= 2e-6L + 1e-5L * fabsl(y) || x == y;
}

static void compare(const Case *c, const Tensor *got, uint32_t k)
{
  const Tensor *want = &c->out[k];

  cr_assert(type_eq(&got->type, &want->type), "%s: %s: output %u has another type", c->file, c->about, k);
  for (int64_t i = 0; i < type_count(&want->type); i++) {
    long double x = tensor_get(got, i), y = tensor_get(want, i);
    cr_assert(near_enough(want->type.dtype, x, y), "%s: %s: output %u, element %lld: %.9Lg, must be %.9Lg",
              c->file, c->about, k, (long long)i, x, y);
  }
}

static void check_case(const char *file, char *text)
{
  Case c = {.file = file};
  OnnxModel *model = NULL;
  Module *m = NULL;
  Err e = {0};

  c.graph.arena = &c.arena;
  read_case(&c, text);
  Text bytes = {.arena = &c.arena}, notes = {.arena = &c.arena};
  text_add(&notes, "", 0);
  onnx_text(&bytes, arena_printf(&c.arena, "1:8 8{ 2:%d } 8{ 1'com.microsoft' 2:1 } 7{ 2'g' %s }", c.opset,
                                 c.graph.data));
  bool ok = onnx_parse((const uint8_t *)bytes.data, bytes.len, "m.onnx", &c.arena, &model, &e) &&
            onnx_import(model, &(OnnxImportOptions){.notes = &notes}, &c.arena, &m, &e);
  if (c.error) {
    cr_assert(!ok && strstr(e.text, c.error), "%s: %s: said '%s'", file, c.about, e.text);
  } else {
    cr_assert(ok, "%s: %s: %s", file, c.about, e.text);
    Tensor got[SLOTS_MAX];
    graph_eval_dense(m->graphs.data[0], &c.arena, c.in, got);
    for (uint32_t k = 0; k < c.n_out; k++)
      compare(&c, &got[k], k);
    cr_expect(!c.note || strstr(notes.data, c.note), "%s: %s: noted '%s'", file, c.about, notes.data);
  }
  onnx_close(model);
  arena_free(&c.arena);
}

/* Cases are divided by empty lines. */
static void check_file(const char *name)
{
  Arena a = {0};
  char *path = arena_printf(&a, "%s/tests/cases/onnx/%s", MICC_SOURCE_DIR, name);
  FILE *f = fopen(path, "rb");
  cr_assert(f, "%s cannot be opened", path);
  char *text = arena_alloc(&a, 1 << 18), *next;
  text[fread(text, 1, (1 << 18) - 1, f)] = 0;
  fclose(f);

  for (; text; text = next) {
    next = strstr(text, "\n\n");
    if (next) {
      *next = 0;
      next += 2;
    }
    check_case(name, text);
  }
  arena_free(&a);
}

Test(onnx_cases, all)
{
  DIR *dir = opendir(MICC_SOURCE_DIR "/tests/cases/onnx");
  uint32_t files = 0;

  cr_assert(dir);
  for (struct dirent *d; (d = readdir(dir));)
    if (d->d_name[0] != '.') {
      check_file(d->d_name);
      files++;
    }
  closedir(dir);
  cr_assert(files);
}
