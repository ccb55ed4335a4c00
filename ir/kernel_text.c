/* kernel_text.c - the text form of kernels: what is printed is read back as the same kernel.
 *
 * One statement a line, laid out by the immediate of its row in kernel_ops.def. Printing counts
 * the values from 1 in order, so that unrelated changes leave expected texts alone; reading takes
 * any numbers. The text may be hostile: the parser checks what it needs for memory safety and
 * leaves the meaning to kernel_verify(), whose complaints get the line of their node. */
#include "ir/kernel.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum {
  MAX_PARAMS = 24,     /* as many as a launch can bind */
  MAX_NUMBER = 1 << 20 /* of a value in the text */
};

static const char *const access_name[] = {
    [KA_READ] = "", [KA_WRITE] = "write", [KA_BOTH] = "both", [KA_SCRATCH] = "scratch"};

static bool is_name_char(char c)
{
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
         (c && strchr("_.+-/", c));
}

/* ---- printing */

typedef struct {
  const Kernel *k;
  Text *out;
  uint32_t *number; /* of each value in the text */
  int depth;
} Printer;

/* Names come from models: what the parser could not read back becomes an underscore. */
static void print_name(Text *out, const char *name)
{
  if (!*name)
    text_add(out, "_", 1);
  for (; *name; name++)
    text_add(out, is_name_char(*name) ? name : "_", 1);
}

static void print_type(Text *out, KType t)
{
  text_printf(out, " %s", kelem_info[t.elem].name);
  if (t.lanes > 1)
    text_printf(out, "x%u", t.lanes);
}

static void print_value(const Printer *p, const char *before, KVal v)
{
  text_printf(p->out, "%s%%%u", before, p->number[v]);
}

static void print_memory(const Printer *p, const KNode *n)
{
  text_add(p->out, " ", 1);
  print_name(p->out, p->k->params.data[n->buf].name);
  print_value(p, "[", p->k->edges.data[n->in.first]);
  if (n->imm.i < 0)
    text_printf(p->out, " - %llu", 0 - (unsigned long long)n->imm.i);
  else if (n->imm.i)
    text_printf(p->out, " + %lld", (long long)n->imm.i);
  text_add(p->out, "]", 1);
  for (uint32_t i = 1; i < n->in.count; i++)
    print_value(p, ", ", p->k->edges.data[n->in.first + i]);
}

/* Nine digits tell any two floats apart, seventeen any two doubles. */
static void print_const(Text *out, const KNode *n)
{
  if (kelem_info[n->type.elem].is_float)
    text_printf(out, " %.*g", n->type.elem == KE_f64 ? 17 : 9, n->imm.f);
  else if (n->type.elem == KE_u64)
    text_printf(out, " %llu", (unsigned long long)n->imm.i);
  else
    text_printf(out, " %lld", (long long)n->imm.i);
}

static void print_lanes(const Printer *p, const KNode *n)
{
  for (uint32_t i = 2; i < n->in.count; i++)
    text_printf(p->out, "%s%u", i == 2 ? ", [" : ",", p->k->edges.data[n->in.first + i]);
  text_add(p->out, "]", 1);
}

static void print_operands(const Printer *p, const KNode *n)
{
  const KOpInfo *info = &kop_info[n->op];
  uint32_t n_vals = info->imm == KI_LANES ? 2 : n->in.count;

  if (info->imm == KI_MEM) {
    print_memory(p, n);
    return;
  }
  for (uint32_t i = 0; i < n_vals; i++)
    print_value(p, i ? ", " : " ", p->k->edges.data[n->in.first + i]);
  if (info->imm == KI_INT)
    text_printf(p->out, "%s%lld", n_vals ? ", " : " ", (long long)n->imm.i);
  if (info->imm == KI_CONST)
    print_const(p->out, n);
  if (info->imm == KI_LANES)
    print_lanes(p, n);
}

static void print_node(Printer *p, KVal v)
{
  const KNode *n = kernel_node(p->k, v);

  if (n->op == K_end || n->op == K_else)
    p->depth--;
  text_printf(p->out, "%*s", 2 * p->depth + 2, "");
  if (p->number[v])
    text_printf(p->out, "%%%u = ", p->number[v]);
  text_printf(p->out, "%s", kop_info[n->op].name);
  if (p->number[v])
    print_type(p->out, n->type);
  print_operands(p, n);
  text_add(p->out, "\n", 1);
  if (n->op == K_loop || n->op == K_if || n->op == K_else)
    p->depth++;
}

static void print_header(const Kernel *k, Text *out)
{
  text_printf(out, "kernel ");
  print_name(out, k->name);
  text_printf(out, " (");
  for (uint32_t i = 0; i < k->params.len; i++) {
    const KParam *p = &k->params.data[i];
    text_printf(out, "%s", i ? ", " : "");
    print_name(out, p->name);
    text_printf(out, ": %s%s%s", kelem_info[p->elem].name, p->access ? " " : "", access_name[p->access]);
    if (p->access == KA_SCRATCH)
      text_printf(out, " %llu", (unsigned long long)k->scratch_bytes);
  }
  text_printf(out, ") {\n");
}

void kernel_print(const Kernel *k, Text *out)
{
  Arena tmp = {0};
  Printer p = {k, out, NEW_ARRAY(&tmp, uint32_t, k->nodes.len), 0};
  uint32_t count = 0;

  for (KVal v = 1; v < k->nodes.len; v++)
    p.number[v] = kop_info[kernel_node(k, v)->op].type == KT_NONE ? 0 : ++count;
  print_header(k, out);
  for (KVal v = 1; v < k->nodes.len; v++)
    print_node(&p, v);
  text_printf(out, "}\n");
  arena_free(&tmp);
}

/* ---- parsing */

typedef struct {
  const char *at, *file;
  uint32_t line;
  Kernel *k;
  Err *e;
  ARRAY(KVal) value;     /* by its number in the text */
  ARRAY(uint32_t) lines; /* of each node */
  Arena tmp;
} Parser;

typedef struct {
  const char *s;
  uint32_t len;
} Word;

static bool wrong(const Parser *p, uint32_t line, const char *fmt, ...) PRINTF(3, 4);

static bool wrong(const Parser *p, uint32_t line, const char *fmt, ...)
{
  char what[512];
  va_list ap;

  va_start(ap, fmt);
  vsnprintf(what, sizeof what, fmt, ap);
  va_end(ap);
  return fail(p->e, "%s:%u: %s", p->file, line, what);
}

/* Within a line, or to the next statement. */
static void skip_blanks(Parser *p)
{
  while (*p->at == ' ' || *p->at == '\t' || *p->at == '\r')
    p->at++;
  if (*p->at == '#')
    p->at += strcspn(p->at, "\n");
}

static void skip_lines(Parser *p)
{
  for (skip_blanks(p); *p->at == '\n'; skip_blanks(p)) {
    p->at++;
    p->line++;
  }
}

static bool accept(Parser *p, char c)
{
  skip_blanks(p);
  if (*p->at != c)
    return false;
  p->at++;
  return true;
}

static bool expect(Parser *p, char c)
{
  if (accept(p, c))
    return true;
  Word seen = {p->at, (uint32_t)strcspn(p->at, " \t\r\n,")};
  if (!seen.len)
    return wrong(p, p->line, "expected '%c'%s", c, *p->at ? "" : ", the text ends");
  return wrong(p, p->line, "expected '%c', not '%.*s'", c, seen.len < 40 ? (int)seen.len : 40, seen.s);
}

static bool at_line_end(Parser *p)
{
  skip_blanks(p);
  return !*p->at || *p->at == '\n';
}

static bool parse_word(Parser *p, Word *w, const char *what)
{
  skip_blanks(p);
  *w = (Word){p->at, 0};
  while (is_name_char(w->s[w->len]) && w->len < 200)
    w->len++;
  p->at += w->len;
  return w->len || wrong(p, p->line, "expected %s", what);
}

static bool same(Word w, const char *s)
{
  return strlen(s) == w.len && !memcmp(w.s, s, w.len);
}

/* Decimal, or hexadecimal after 0x. */
static bool parse_int(Parser *p, int64_t *out)
{
  skip_blanks(p);
  const char *digits = p->at + (*p->at == '-');
  char *end;

  if (*digits < '0' || *digits > '9')
    return wrong(p, p->line, "expected an integer");
  errno = 0;
  *out = strtoll(p->at, &end, digits[0] == '0' && digits[1] == 'x' ? 16 : 10);
  if (errno)
    return wrong(p, p->line, "the integer has more than 64 bits");
  p->at = end;
  return true;
}

static bool parse_elem(Parser *p, Word w, uint8_t *elem)
{
  for (uint8_t i = KE_none + 1; i < KE_COUNT; i++)
    if (same(w, kelem_info[i].name)) {
      *elem = i;
      return true;
    }
  return wrong(p, p->line, "'%.*s' is no element type", (int)w.len, w.s);
}

/* f32x8: digits behind an x are lanes; `idx` has none. */
static bool parse_type(Parser *p, KType *t)
{
  Word w, elem;
  unsigned lanes = 1;

  if (!parse_word(p, &w, "a type"))
    return false;
  elem = w;
  while (elem.len && w.s[elem.len - 1] >= '0' && w.s[elem.len - 1] <= '9')
    elem.len--;
  if (elem.len > 1 && elem.len < w.len && w.s[elem.len - 1] == 'x') {
    lanes = w.len - elem.len > 3 ? 0 : (unsigned)strtoul(w.s + elem.len, NULL, 10);
    elem.len--;
  } else {
    elem = w;
  }
  if (!lanes || lanes > K_MAX_LANES)
    return wrong(p, p->line, "'%.*s' does not have 1 to %d lanes", (int)w.len, w.s, K_MAX_LANES);
  t->lanes = (uint8_t)lanes;
  return parse_elem(p, elem, &t->elem);
}

static bool parse_number(Parser *p, uint32_t *number)
{
  int64_t i;

  if (!expect(p, '%') || !parse_int(p, &i))
    return false;
  if (i < 1 || i > MAX_NUMBER)
    return wrong(p, p->line, "values are numbered from 1 to %d", MAX_NUMBER);
  *number = (uint32_t)i;
  return true;
}

static bool parse_value(Parser *p, uint32_t *v)
{
  uint32_t number;

  if (!parse_number(p, &number))
    return false;
  if (number >= p->value.len || !p->value.data[number])
    return wrong(p, p->line, "%%%u is not defined before", number);
  *v = p->value.data[number];
  return true;
}

/* ---- what an immediate may be */

static bool parse_float(Parser *p, KElem elem, double *out)
{
  char *end = NULL;
  bool some = !at_line_end(p);
  double f = !some ? 0 : elem == KE_f64 ? strtod(p->at, &end) : (double)strtof(p->at, &end);

  if (!end || end == p->at)
    return wrong(p, p->line, "expected a number");
  if (isinf(f) && !memchr(p->at, 'i', (size_t)(end - p->at)))
    return wrong(p, p->line, "the number is too large for %s", kelem_info[elem].name);
  p->at = end;
  *out = f;
  return true;
}

/* The one element whose values do not fit an int64_t. */
static bool parse_u64(Parser *p, int64_t *out)
{
  char *end;

  skip_blanks(p);
  if (*p->at < '0' || *p->at > '9')
    return parse_int(p, out) && (*out >= 0 || wrong(p, p->line, "the constant does not fit u64"));
  errno = 0;
  *out = (int64_t)strtoull(p->at, &end, p->at[0] == '0' && p->at[1] == 'x' ? 16 : 10);
  if (errno)
    return wrong(p, p->line, "the integer has more than 64 bits");
  p->at = end;
  return true;
}

static bool parse_const(Parser *p, KNode *n)
{
  const KElemInfo *elem = &kelem_info[n->type.elem];
  int bits = n->type.elem == KE_bool ? 1 : 8 * elem->bytes - elem->is_signed;

  if (elem->is_float)
    return parse_float(p, (KElem)n->type.elem, &n->imm.f);
  if (n->type.elem == KE_u64)
    return parse_u64(p, &n->imm.i);
  if (!parse_int(p, &n->imm.i))
    return false;
  int64_t hi = (int64_t)(UINT64_MAX >> (64 - bits)), lo = elem->is_signed ? -hi - 1 : 0;
  return (n->imm.i >= lo && n->imm.i <= hi) || wrong(p, p->line, "the constant does not fit %s", elem->name);
}

static bool add_edge(Parser *p, KNode *n, uint32_t edge)
{
  *PUSH(p->k->arena, p->k->edges) = edge;
  n->in.count++;
  return true;
}

static bool parse_lanes(Parser *p, KNode *n)
{
  int64_t lane;

  if (!expect(p, ',') || !expect(p, '['))
    return false;
  do {
    if (!parse_int(p, &lane))
      return false;
    if (lane < 0 || lane >= 2 * K_MAX_LANES || n->in.count >= 2 + K_MAX_LANES)
      return wrong(p, p->line, "too many lanes, or a lane number out of range");
    add_edge(p, n, (uint32_t)lane);
  } while (accept(p, ','));
  return expect(p, ']');
}

static bool parse_input(Parser *p, KNode *n)
{
  uint32_t v = 0;
  return parse_value(p, &v) && add_edge(p, n, v);
}

static bool parse_buffer(Parser *p, KNode *n)
{
  Word w;

  if (!parse_word(p, &w, "a parameter"))
    return false;
  for (n->buf = 0; n->buf < p->k->params.len; n->buf++)
    if (same(w, p->k->params.data[n->buf].name))
      return true;
  return wrong(p, p->line, "'%.*s' is no parameter", (int)w.len, w.s);
}

static bool parse_memory(Parser *p, KNode *n)
{
  if (!parse_buffer(p, n) || !expect(p, '[') || !parse_input(p, n))
    return false;
  bool minus = accept(p, '-');
  if (minus || accept(p, '+')) {
    if (!parse_int(p, &n->imm.i))
      return false;
    if (n->imm.i < 0)
      return wrong(p, p->line, "an offset has one sign");
    n->imm.i = minus ? -n->imm.i : n->imm.i;
  }
  if (!expect(p, ']'))
    return false;
  for (int i = 1; i < kop_info[n->op].inputs; i++)
    if (!expect(p, ',') || !parse_input(p, n))
      return false;
  return true;
}

static bool parse_operands(Parser *p, KNode *n)
{
  const KOpInfo *info = &kop_info[n->op];

  if (info->imm == KI_MEM)
    return parse_memory(p, n);
  for (int i = 0; info->inputs < 0 ? !at_line_end(p) : i < info->inputs; i++)
    if ((i && !expect(p, ',')) || !parse_input(p, n))
      return false;
  switch (info->imm) {
  case KI_INT: return (!info->inputs || expect(p, ',')) && parse_int(p, &n->imm.i);
  case KI_CONST: return parse_const(p, n);
  case KI_LANES: return parse_lanes(p, n);
  default: return true;
  }
}

/* ---- statements */

static bool parse_op(Parser *p, uint8_t *op)
{
  Word w;

  if (!parse_word(p, &w, "an operation"))
    return false;
  for (*op = K_none + 1; *op < K_COUNT; ++*op)
    if (same(w, kop_info[*op].name))
      return true;
  return wrong(p, p->line, "'%.*s' is no operation", (int)w.len, w.s);
}

static bool define(Parser *p, uint32_t number, KVal v)
{
  while (p->value.len <= number)
    *PUSH(&p->tmp, p->value) = 0;
  if (p->value.data[number])
    return wrong(p, p->line, "%%%u is defined twice", number);
  p->value.data[number] = v;
  return true;
}

static bool parse_statement(Parser *p)
{
  Kernel *k = p->k;
  uint32_t number = 0;
  KNode n = {.in = {k->edges.len, 0}};

  if (*p->at == '%' && (!parse_number(p, &number) || !expect(p, '=')))
    return false;
  if (!parse_op(p, &n.op))
    return false;
  bool gives = kop_info[n.op].type != KT_NONE;
  if (gives != (number > 0))
    return wrong(p, p->line, "'%s' gives %s", kop_info[n.op].name, gives ? "a value: %N = ..." : "no value");
  if ((gives && !parse_type(p, &n.type)) || !parse_operands(p, &n))
    return false;
  if (!at_line_end(p))
    return wrong(p, p->line, "text after the statement");
  *PUSH(k->arena, k->nodes) = n;
  *PUSH(&p->tmp, p->lines) = p->line;
  return !gives || define(p, number, k->nodes.len - 1);
}

/* ---- the kernel */

static bool parse_access(Parser *p, KParam *param)
{
  Word w;
  int64_t bytes = 0;

  skip_blanks(p);
  if (!is_name_char(*p->at))
    return true; /* read */
  if (!parse_word(p, &w, "an access"))
    return false;
  for (param->access = KA_WRITE; !same(w, access_name[param->access]); param->access++)
    if (param->access == KA_SCRATCH)
      return wrong(p, p->line, "'%.*s' is not write, both or scratch", (int)w.len, w.s);
  if (param->access != KA_SCRATCH)
    return true;
  if (!parse_int(p, &bytes))
    return false;
  if (bytes <= 0 || p->k->scratch_bytes)
    return wrong(p, p->line, "one parameter may be scratch, of at least a byte");
  p->k->scratch_bytes = (uint64_t)bytes;
  return true;
}

static bool parse_param(Parser *p)
{
  Word name, elem;
  KParam param = {0};
  uint8_t e = 0;

  if (!parse_word(p, &name, "a parameter") || !expect(p, ':') || !parse_word(p, &elem, "an element type") ||
      !parse_elem(p, elem, &e))
    return false;
  if (e == KE_idx)
    return wrong(p, p->line, "idx is not in memory");
  if (p->k->params.len == MAX_PARAMS)
    return wrong(p, p->line, "more than %d parameters", MAX_PARAMS);
  for (uint32_t i = 0; i < p->k->params.len; i++)
    if (same(name, p->k->params.data[i].name))
      return wrong(p, p->line, "parameter '%.*s' twice", (int)name.len, name.s);
  if (!parse_access(p, &param))
    return false;
  kernel_param(p->k, arena_strndup(&p->tmp, name.s, name.len), (KElem)e, param.access);
  return true;
}

static bool parse_header(Parser *p)
{
  Word w, name;

  skip_lines(p);
  if (!parse_word(p, &w, "'kernel'"))
    return false;
  if (!same(w, "kernel"))
    return wrong(p, p->line, "expected 'kernel', not '%.*s'", (int)w.len, w.s);
  if (!parse_word(p, &name, "the kernel's name") || !expect(p, '('))
    return false;
  p->k->name = arena_strndup(p->k->arena, name.s, name.len);
  if (!accept(p, ')')) {
    do {
      skip_lines(p);
      if (!parse_param(p))
        return false;
    } while (accept(p, ','));
    if (!expect(p, ')'))
      return false;
  }
  return expect(p, '{') && (at_line_end(p) || wrong(p, p->line, "text after '{'"));
}

/* The verifier names a node; its line is where a text cut short begins to get the same complaint. */
static bool verify(Parser *p)
{
  Err e = {0};
  Kernel part = *p->k;
  uint32_t lo = 1, hi = p->k->nodes.len; /* a failing prefix has more than lo nodes, at most hi */

  if (kernel_verify(p->k, &e))
    return true;
  while (lo + 1 < hi) {
    Err cut = {0};
    part.nodes.len = lo + (hi - lo) / 2;
    if (!kernel_verify(&part, &cut) && !strcmp(cut.text, e.text))
      hi = part.nodes.len;
    else
      lo = part.nodes.len;
  }
  return wrong(p, hi < 2 ? p->line : p->lines.data[hi - 2], "%s", e.text);
}

static bool parse_kernel(Parser *p)
{
  if (!parse_header(p))
    return false;
  for (skip_lines(p); *p->at && *p->at != '}'; skip_lines(p))
    if (!parse_statement(p))
      return false;
  if (!expect(p, '}'))
    return false;
  skip_lines(p);
  return *p->at ? wrong(p, p->line, "text after the kernel") : verify(p);
}

Kernel *kernel_parse(Arena *a, const char *text, const char *file, Err *e)
{
  Parser p = {.at = text, .file = file, .line = 1, .k = kernel_new(a, ""), .e = e};
  bool ok = parse_kernel(&p);

  arena_free(&p.tmp);
  return ok ? p.k : NULL;
}
