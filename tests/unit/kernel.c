/* Kernels as text: what the parser takes and refuses, and what every op computes, in the interpreter
 * and in C through libtcc. The cases lie in tests/cases/kernel. */
#include "codegen/c.h"
#include "ir/dtype.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#if MICC_HAVE_TCC
#include "codegen/tcc.h"
#endif

enum { MAX_BUFS = 16, MAX_VALUES = 64 };

/* ---- files of cases: text, and what stands behind --- */

typedef struct {
  char *text, *expected;
} Case;

static char *read_file(Arena *a, const char *name)
{
  char *path = arena_printf(a, "%s/tests/cases/kernel/%s", MICC_SOURCE_DIR, name);
  FILE *f = fopen(path, "rb");

  cr_assert(f, "%s cannot be opened", path);
  char *text = arena_alloc(a, 1 << 20);
  size_t n = fread(text, 1, (1 << 20) - 1, f);
  text[n] = 0;
  fclose(f);
  return text;
}

/* Cuts *at behind the next line that is `mark`; what is before is returned. */
static char *cut(char **at, const char *mark)
{
  char *text = *at;

  for (char *line = text; line; line = strchr(line, '\n')) {
    line += *line == '\n';
    if (!strncmp(line, mark, strlen(mark)) && (line[strlen(mark)] == '\n' || !line[strlen(mark)])) {
      *at = line + strlen(mark);
      *at += **at == '\n';
      *line = 0;
      return text;
    }
  }
  *at = text + strlen(text);
  return text;
}

static bool next_case(char **at, Case *c)
{
  if (!**at)
    return false;
  char *all = cut(at, "====");
  c->text = cut(&all, "---");
  c->expected = all;
  return true;
}

static char *first_case(Arena *a, const char *file)
{
  char *at = read_file(a, file);
  cut(&at, "====");
  return at;
}

static Kernel *parse(Arena *a, const char *text)
{
  Err e = {0};
  Kernel *k = kernel_parse(a, text, "case", &e);
  cr_assert(k, "%s\n%s", e.text, text);
  return k;
}

static const char *print(const Kernel *k)
{
  Text t = {.arena = k->arena};
  kernel_print(k, &t);
  return t.data;
}

/* ---- text */

Test(kernel, prints_what_it_reads)
{
  Arena a = {0};
  Case c;
  int n = 0;

  for (char *at = first_case(&a, "roundtrip.txt"); next_case(&at, &c); n++)
    cr_expect_str_eq(print(parse(&a, c.text)), c.text);
  cr_expect_gt(n, 3);
  arena_free(&a);
}

Test(kernel, every_op_survives_printing)
{
  bool seen[K_COUNT] = {0};
  Arena a = {0};
  Case c;

  for (char *at = first_case(&a, "eval.txt"); next_case(&at, &c);) {
    Kernel *k = parse(&a, c.text);
    const char *text = print(k);
    cr_expect_str_eq(print(parse(&a, text)), text);
    for (KVal v = 1; v < k->nodes.len; v++)
      seen[kernel_node(k, v)->op] = true;
  }
  for (int op = K_none + 1; op < K_COUNT; op++)
    cr_expect(seen[op], "eval.txt has no case for %s", kop_info[op].name);
  arena_free(&a);
}

Test(kernel, bad_text_gets_a_line)
{
  Arena a = {0};
  Case c;

  for (char *at = first_case(&a, "errors.txt"); next_case(&at, &c);) {
    Err e = {0};
    c.expected[strcspn(c.expected, "\n")] = 0;
    cr_expect_null(kernel_parse(&a, c.text, "case", &e), "taken: %s", c.text);
    cr_expect_str_eq(e.text, c.expected, "%s\nis said of %s\nnot\n%s", e.text, c.text, c.expected);
  }
  arena_free(&a);
}

static uint32_t random32(uint32_t *state)
{
  *state = *state * 1664525u + 1013904223u;
  return *state >> 8;
}

/* Bytes changed, dropped, doubled: an error or a kernel, never more. */
Test(kernel, damaged_text_is_harmless)
{
  Arena all = {0};
  uint32_t state = 1;
  Case c;

  for (char *at = first_case(&all, "eval.txt"); next_case(&at, &c);)
    for (int round = 0; round < 200; round++) {
      Arena a = {0};
      Err e = {0};
      size_t len = strlen(c.text);
      char *text = arena_alloc(&a, len + 64);
      memcpy(text, c.text, len + 1);
      for (uint32_t i = random32(&state) % 3 + 1; i--;) {
        size_t place = random32(&state) % len, from = random32(&state) % len;
        if (random32(&state) % 4)
          text[place] = text[from];
        else
          text[place] = (char)(random32(&state) % 255 + 1);
      }
      Kernel *k = kernel_parse(&a, text, "case", &e);
      cr_expect((k != NULL) == !e.text[0]);
      if (k)
        cr_expect_str_eq(print(parse(&a, print(k))), print(k));
      arena_free(&a);
    }
  arena_free(&all);
}

/* ---- values */

typedef struct {
  const Kernel *k;
  int64_t grid;
  int32_t args[K_ARGS];
  uint64_t bytes[MAX_BUFS];
  uint8_t *before[MAX_BUFS], *after[MAX_BUFS]; /* after: NULL where nothing is expected */
  char *error;
} Run;

static void put_value(KElem e, uint8_t *to, const char *word)
{
  float f = strtof(word, NULL);
  double d = strtod(word, NULL);
  int64_t i = e == KE_u64 ? (int64_t)strtoull(word, NULL, 10) : strtoll(word, NULL, 10);
  uint16_t half = f32_to_f16(f);
  const void *from = e == KE_f32   ? (const void *)&f
                     : e == KE_f64 ? (const void *)&d
                     : e == KE_f16 ? (const void *)&half
                                   : (const void *)&i;

  memcpy(to, from, kelem_info[e].bytes);
}

static uint8_t *read_values(Arena *a, KElem e, char *words, uint64_t *bytes)
{
  uint8_t *to = arena_alloc(a, MAX_VALUES * 8);
  uint64_t n = 0;

  for (char *save, *w = strtok_r(words, " ", &save); w; w = strtok_r(NULL, " ", &save), n++) {
    cr_assert_lt(n, MAX_VALUES);
    put_value(e, to + n * kelem_info[e].bytes, w);
  }
  *bytes = n * kelem_info[e].bytes;
  return to;
}

static void read_buffer(Arena *a, Run *r, const char *name, bool after, char *values)
{
  for (uint32_t i = 0; i < r->k->params.len; i++)
    if (!strcmp(r->k->params.data[i].name, name)) {
      uint8_t *v = read_values(a, r->k->params.data[i].elem, values, &r->bytes[i]);
      *(after ? &r->after[i] : &r->before[i]) = v;
      return;
    }
  cr_assert_fail("no parameter '%s'", name);
}

static Run read_run(Arena *a, const Case *c)
{
  Run r = {.k = parse(a, c->text), .grid = 1};

  for (char *save, *line = strtok_r(c->expected, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
    char *rest = line + strcspn(line, " ");
    *rest++ = 0;
    if (!strcmp(line, "grid"))
      r.grid = atoi(rest);
    else if (!strcmp(line, "args"))
      sscanf(rest, "%d %d %d %d", &r.args[0], &r.args[1], &r.args[2], &r.args[K_CONSTANT]);
    else if (!strcmp(line, "error"))
      r.error = rest;
    else if (rest[0] == '=')
      read_buffer(a, &r, line, false, rest + 2);
    else
      read_buffer(a, &r, line, true, rest + 3);
  }
  return r;
}

/* Buffers stand 1 byte off any alignment, and of exactly their size for the sanitizer. */
static void fill(const Run *r, uint8_t **mem, void **buf)
{
  for (uint32_t i = 0; i < r->k->params.len; i++) {
    bool scratch = r->k->params.data[i].access == KA_SCRATCH;
    uint64_t n = scratch ? r->k->scratch_bytes : r->bytes[i];
    mem[i] = malloc(n + 1);
    memset(mem[i], scratch ? 0xa5 : 0, n + 1);
    buf[i] = mem[i] + 1;
    if (r->before[i])
      memcpy(buf[i], r->before[i], n);
  }
}

static bool equal_values(KElem e, const uint8_t *a, const uint8_t *b)
{
  float x, y;

  if (!memcmp(a, b, kelem_info[e].bytes))
    return true;
  if (e != KE_f32)
    return false;
  memcpy(&x, a, 4);
  memcpy(&y, b, 4);
  return isnan(x) && isnan(y);
}

static void check_buffers(const Run *r, void **buf, const char *who)
{
  for (uint32_t i = 0; i < r->k->params.len; i++) {
    KElem e = r->k->params.data[i].elem;
    uint32_t size = kelem_info[e].bytes;
    for (uint64_t at = 0; r->after[i] && at < r->bytes[i]; at += size)
      cr_expect(equal_values(e, (uint8_t *)buf[i] + at, r->after[i] + at), "%s: %s: %s[%d] differs", who,
                r->k->name, r->k->params.data[i].name, (int)(at / size));
  }
}

static void release(const Run *r, uint8_t **mem)
{
  for (uint32_t i = 0; i < r->k->params.len; i++)
    free(mem[i]);
}

static void interpret(const Run *r)
{
  uint8_t *mem[MAX_BUFS];
  void *buf[MAX_BUFS];
  uint64_t bytes[MAX_BUFS];
  Err e = {0};

  fill(r, mem, buf);
  for (uint32_t i = 0; i < r->k->params.len; i++)
    bytes[i] = r->k->params.data[i].access == KA_SCRATCH ? r->k->scratch_bytes : r->bytes[i];
  bool ok = kernel_eval(r->k, buf, bytes, r->args, 0, r->grid, &e);
  cr_expect(ok == !r->error && (ok || strstr(e.text, r->error)), "%s: '%s'", r->k->name, e.text);
  if (ok)
    check_buffers(r, buf, "interpreter");
  release(r, mem);
}

Test(kernel, interpreter_computes_the_table)
{
  Arena a = {0};
  Case c;

  for (char *at = first_case(&a, "eval.txt"); next_case(&at, &c);) {
    Run r = read_run(&a, &c);
    interpret(&r);
  }
  arena_free(&a);
}

/* ---- the C printer */

#if MICC_HAVE_TCC
typedef void KernelFn(uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi);

static void run_in_c(const Run *r)
{
  Text t = {.arena = r->k->arena};
  uint8_t *mem[MAX_BUFS];
  void *buf[MAX_BUFS];
  Err e = {0};

  cr_assert(c_print_kernels(&r->k, 1, &t, &e), "%s", e.text);
  TccJit *jit = tcc_jit(t.data, &e);
  cr_assert(jit, "%s\n%s", e.text, t.data);
  KernelFn **kernels = tcc_jit_symbol(jit, "mi_kernels");
  cr_assert(kernels);
  fill(r, mem, buf);
  kernels[0]((uint8_t **)buf, r->args, 0, r->grid);
  check_buffers(r, buf, "C");
  release(r, mem);
  tcc_jit_free(jit);
}

Test(kernel, c_computes_the_table)
{
  Arena a = {0};
  Case c;

  for (char *at = first_case(&a, "eval.txt"); next_case(&at, &c);) {
    Run r = read_run(&a, &c);
    if (!r.error)
      run_in_c(&r);
  }
  arena_free(&a);
}

/* Every f16, and floats around every rounding step, against dtype.c. */
Test(kernel, c_rounds_halves)
{
  static const uint16_t low[] = {0, 1, 0xfff, 0x1000, 0x1001, 0x7fff, 0x8000, 0xefff, 0xf000, 0xf001, 0xffff};
  static uint16_t half[65536], rounded[65536];
  static float wide[65536], value[65536];
  Arena a = {0};
  Err e = {0};
  Text t = {.arena = &a};
  const Kernel *k = parse(&a, "kernel halves (h: f16, x: f32, y: f32 write, z: f16 write) {\n"
                              "  %1 = grid idx\n"
                              "  %2 = load f16 h[%1]\n"
                              "  %3 = cast f32 %2\n"
                              "  store y[%1], %3\n"
                              "  %4 = load f32 x[%1]\n"
                              "  %5 = cast f16 %4\n"
                              "  store z[%1], %5\n"
                              "}\n");

  cr_assert(c_print_kernels(&k, 1, &t, &e), "%s", e.text);
  TccJit *jit = tcc_jit(t.data, &e);
  cr_assert(jit, "%s", e.text);
  KernelFn **kernels = tcc_jit_symbol(jit, "mi_kernels");
  for (unsigned round = 0; round < COUNT(low); round++) {
    for (uint32_t i = 0; i < 65536; i++) {
      uint32_t bits = i << 16 | low[round];
      half[i] = (uint16_t)i;
      memcpy(&wide[i], &bits, 4);
    }
    void *buf[] = {half, wide, value, rounded};
    kernels[0]((uint8_t **)buf, (int32_t[]){0, 1}, 0, 65536);
    for (uint32_t i = 0; i < 65536; i++) {
      float want = f16_to_f32(half[i]);
      cr_assert(equal_values(KE_f32, (uint8_t *)&want, (uint8_t *)&value[i]), "f16 %04x", i);
      cr_assert(isnan(wide[i]) || rounded[i] == f32_to_f16(wide[i]), "%a", (double)wide[i]);
    }
  }
  tcc_jit_free(jit);
  arena_free(&a);
}

Test(kernel, tcc_reports_errors)
{
  Err e = {0};

  cr_expect_null(tcc_jit("int f(void) { return x; }", &e));
  cr_expect_str_eq(e.text, "libtcc: <string>:1: error: 'x' undeclared");
  e = (Err){0};
  cr_expect_null(tcc_jit("int g(void); int f(void) { return g(); }", &e));
  cr_expect_str_eq(e.text, "libtcc: tcc: error: undefined symbol 'g'");
  e = (Err){0};
  TccJit *jit = tcc_jit("#include <stddef.h>\nsize_t three = 3;", &e);
  cr_assert(jit, "%s", e.text);
  cr_expect_eq(*(size_t *)tcc_jit_symbol(jit, "three"), 3);
  cr_expect_null(tcc_jit_symbol(jit, "four"));
  tcc_jit_free(jit);
}
#endif

Test(kernel, names_cannot_leave_a_comment)
{
  Arena a = {0};
  Text t = {.arena = &a};
  Err e = {0};
  const Kernel *k = kernel_new(&a, "x */ int evil; /* \\\n");

  cr_assert(c_print_kernels(&k, 1, &t, &e));
  cr_expect(strstr(t.data, "/* x __ int evil; __ __ */"));
  cr_expect_str_eq(print(k), "kernel x__/_int_evil__/____ () {\n}\n");
  arena_free(&a);
}
