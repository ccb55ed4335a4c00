/* onnx_status.c - see onnx_status.h */
#include "tests/e2e/support/onnx_status.h"

#include <stdio.h>

#include "frontend/onnx/onnx_ops.h"
#include "tests/e2e/support/scene.h"
#include "tests/e2e/support/tally.h"

typedef struct {
  char domain[64], name[64];
  unsigned pass, all;
} Shown;

typedef struct {
  Arena *arena;
  Text *t;
  ARRAY(Shown) shown;
} Page;

static const char path[] = MICC_SOURCE_DIR "/tests/e2e/onnx_suite_ops.txt";

static const char *domain_name(OnnxDomain d)
{
  return onnx_domains[d][0] ? onnx_domains[d] : "ai.onnx";
}

static void read_shown(Page *p)
{
  Bytes b;

  if (!scene_read(p->arena, path, &b)) {
    tally(false, "%s cannot be read", path);
    return;
  }
  for (char *rest = b.data, *line; (line = strsep(&rest, "\n"));) {
    Shown s;
    if (*line != '#' && sscanf(line, "%63s %63s %u %u", s.domain, s.name, &s.pass, &s.all) == 4)
      *PUSH(p->arena, p->shown) = s;
  }
}

static const Shown *shown_of(const Page *p, const OnnxOp *op)
{
  for (uint32_t i = 0; i < p->shown.len; i++)
    if (!strcmp(p->shown.data[i].name, op->name) && !strcmp(p->shown.data[i].domain, domain_name(op->domain)))
      return &p->shown.data[i];
  return NULL;
}

/* A bar would end the cell. */
static void print_cell(Text *t, const char *s)
{
  for (; *s; s++)
    text_printf(t, *s == '|' ? "\\|" : "%c", *s);
}

static void print_op(const Page *p, const OnnxOp *op)
{
  const Shown *s = shown_of(p, op);

  text_printf(p->t, "| %s | %s %d | %s | ", op->name, domain_name(op->domain), op->since,
              s && s->pass ? "Preview" : "Experimental");
  print_cell(p->t, op->doc);
  text_printf(p->t, s ? " | %u of %u |\n" : " | |\n", s ? s->pass : 0, s ? s->all : 0);
}

static bool is_op(const Shown *s)
{
  for (uint32_t i = 0; i < onnx_op_count; i++)
    if (!strcmp(onnx_ops[i].name, s->name) && !strcmp(domain_name(onnx_ops[i].domain), s->domain))
      return true;
  return false;
}

static void print_missing(const Page *p, const Shown *s)
{
  text_printf(p->t, "| %s | %s | not supported | | %u of %u |\n", s->name, s->domain, s->pass, s->all);
}

void onnx_status_print(Arena *a, Text *t)
{
  Page p = {.arena = a, .t = t};

  read_shown(&p);
  text_printf(
      t,
      "\n## ONNX operators\n\n"
      "Of each: the opset that its row begins with, and how many cases of ONNX's backend suite have a node "
      "of it and pass, by the oracle, through C and through LLVM (`tests/e2e/onnx_suite.c`; those that do "
      "not pass: `tests/e2e/onnx_suite.txt`). A case may fail for another of its operators.\n\n"
      "| | opset | status | | cases that pass |\n|---|---|---|---|---|\n");
  for (uint32_t i = 0; i < onnx_op_count; i++)
    print_op(&p, &onnx_ops[i]);
  for (uint32_t i = 0; i < p.shown.len; i++)
    if (!is_op(&p.shown.data[i]))
      print_missing(&p, &p.shown.data[i]);
}
