/* onnx_corrupt.c - an ONNX file damaged at each of 1,000 places gives one error line or a valid program: never a crash, a
 * hang, or a file left behind.
 *
 * All go through the compiler's steps within child processes, on memory that ends at a page that cannot be touched, with
 * a time limit; small programs are run by the interpreter of kernels, which checks every access. Every sixteenth goes
 * through the command as well; what it makes of it is run. */
#define _GNU_SOURCE
#include "codegen/exec.h"
#include "codegen/image.h"
#include "frontend/onnx/import.h"
#include "passes/passes.h"
#include "runtime-min/mi_check.h"
#include "tests/e2e/support/crew.h"
#include "tests/e2e/support/damage.h"
#include "tests/e2e/support/onnx_tiny.h"
#include "tests/e2e/support/proc.h"
#include "tests/e2e/support/scene.h"
#include "tests/e2e/support/tally.h"

#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

enum { CASES = 1000, SECONDS = 20, EVERY = 16, SHOWN = 5, PAGE = 4096, WORKERS = 2 };
static const uint64_t run_bytes = 1 << 22, run_ops = 1 << 24; /* limits of what is run in the child */
static Arena arena;

typedef enum { NOTHING, ERROR_LINE, PROGRAM, RAN, WRONG } Outcome;

typedef struct {
  Outcome outcome;
  char what[160], said[1024];
} Result;

typedef struct {
  const char *name, *file;
  Bytes whole;
  uint64_t first; /* seeds: cases of another model differ */
} Damaged;

/* ---- the compiler's steps */

static bool sink(void *ctx, const void *bytes, uint64_t n)
{
  uint64_t *left = ctx;

  (void)bytes;
  if (n > *left)
    return false;
  *left -= n;
  return true;
}

/* What a program checks when it starts, on the head; the weights come out in the stated size. */
static bool check_image(const Image *im, Arena *a, Err *e)
{
  char line[256];
  MiOut why = {.buf = line, .cap = sizeof line, .fd = -1};
  uint64_t left = im->bytes;
  void *head = (void *)round_up((uintptr_t)arena_alloc(a, im->head_bytes + PAGE), PAGE);

  memcpy(head, im->head, im->head_bytes);
  if (!mi_check_image(head, im->bytes, &why))
    return fail(e, "WRONG: %s", mi_out_string(&why));
  return (image_write(im, sink, &left) && !left) || fail(e, "WRONG: the image has another size than it says");
}

static uint64_t operations(const Program *p)
{
  uint64_t sum = 0;

  for (uint32_t i = 0; i < p->parts.len; i++)
    sum += p->parts.data[i].ops;
  return sum;
}

/* On inputs of zeros. */
static bool run(const Program *p, const Target *t, const Graph *g, Arena *a, Err *e)
{
  Tensor *in = NEW_ARRAY(a, Tensor, g->nodes.len), *out = NEW_ARRAY(a, Tensor, g->nodes.len);
  uint32_t n = 0;

  for (Val v = 1; v < g->nodes.len; v++)
    if (graph_node(g, v)->op == OP_input)
      in[n++] = tensor_new(a, &graph_node(g, v)->type);
  Exec *x = exec_open(p, t, EXEC_EVAL, e);
  bool ok = x && exec_run(x, in, out, a, e);
  exec_close(x);
  return ok || fail(e, "WRONG: it does not run");
}

static Outcome build(const Bytes *b, const char *path, Arena *a, OnnxModel **m, Err *e)
{
  OnnxImportOptions none = {0};
  Module *module;
  Program *programs[2];
  const Target *targets[2];
  unsigned n = target_list("x86-64-v2,x86-64-v4+vnni", targets, COUNT(targets), e);
  PassOptions po = {.targets = targets, .n_targets = n};
  ImageParts parts = {"about", NULL, 0};
  Image image;

  if (!n || !onnx_parse((const uint8_t *)b->data, b->len, path, a, m, e) ||
      !onnx_import(*m, &none, a, &module, e) || !passes_run(module, &po, programs, e) ||
      !image_build(a, programs, n, &parts, &image, e) || !check_image(&image, a, e))
    return ERROR_LINE;
  const Program *p = programs[0];
  if (p->space_bytes[SPACE_ARENA] + p->space_bytes[SPACE_WEIGHTS] > run_bytes || operations(p) > run_ops)
    return PROGRAM;
  return run(p, targets[0], module->graphs.data[0], a, e) ? RAN : WRONG;
}

/* Bytes whose end is the end of a page. */
static Bytes at_page_end(const Bytes *b)
{
  size_t room = round_up(b->len, PAGE);
  char *map = mmap(NULL, room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

  mprotect(map + room, PAGE, PROT_NONE);
  memcpy(map + room - b->len, b->data, b->len);
  return (Bytes){map + room - b->len, b->len};
}

static bool is_line(const char *s)
{
  if (!*s || !strncmp(s, "WRONG", 5))
    return false;
  for (; *s; s++)
    if ((unsigned char)*s < 32 || *s == 127)
      return false;
  return true;
}

static void try_case(void *ctx, uint32_t job, void *result)
{
  const Damaged *d = ctx;
  Result *r = result;
  Arena a = {0};
  Err e = {0};
  MemTrap trap;
  OnnxModel *m = NULL;
  Bytes b = {arena_copy(&a, d->whole.data, d->whole.len), d->whole.len};

  snprintf(r->what, sizeof r->what, "%s", damage(&a, &b, d->first + job, 0));
  b = at_page_end(&b);
  if (mem_try(&trap)) {
    r->outcome = build(&b, d->file, &a, &m, &e);
    mem_done(&trap);
  } else {
    fail(&e, "out of memory");
    r->outcome = ERROR_LINE;
  }
  if (r->outcome == ERROR_LINE && !is_line(e.text))
    r->outcome = WRONG;
  snprintf(r->said, sizeof r->said, "%s", e.text);
  onnx_close(m);
  arena_free(&a);
  munmap((void *)((uintptr_t)b.data & ~(uintptr_t)(PAGE - 1)), round_up(b.len, PAGE) + PAGE);
}

static void died(void *ctx, uint32_t job, void *result, const char *why)
{
  Result *r = result;

  (void)ctx, (void)job;
  r->outcome = WRONG;
  snprintf(r->said, sizeof r->said, "%s", why);
}

static void test_in_process(Damaged *d, uint32_t cases)
{
  Crew crew = {.workers = WORKERS,
               .seconds = SECONDS,
               .jobs = cases,
               .result_bytes = sizeof(Result),
               .run = try_case,
               .died = died,
               .ctx = d};
  const Result *r = crew_run(&crew);
  uint32_t count[WRONG + 1] = {0};

  for (uint32_t i = 0; r && i < cases; i++)
    if (count[r[i].outcome]++ < SHOWN && (r[i].outcome == WRONG || r[i].outcome == NOTHING))
      tally_note("case %u, %s: %s", i, r[i].what, r[i].said);
  tally(r && !count[WRONG] && !count[NOTHING],
        "%s damaged at %u places: %u error lines, %u sound programs, %u of them run", d->name, cases,
        count[ERROR_LINE], count[PROGRAM] + count[RAN], count[RAN]);
}

/* ---- some of them through the command */

typedef struct {
  int errors, programs, ran, stopped;
} Counts;

static bool are_lines(const char *err)
{
  size_t n = strlen(err);

  for (size_t i = 0; i < n; i++)
    if (((unsigned char)err[i] < 32 && err[i] != '\n') || err[i] == 127)
      return false;
  return n && err[n - 1] == '\n';
}

/* The last line is the error; those before it are notes. */
static bool ends_with_error(const char *err)
{
  const char *last = err;

  for (const char *p = err; *p; p++)
    if (*p == '\n' && p[1])
      last = p + 1;
  return are_lines(err) && !strncmp(last, "micc: ", 6);
}

static void run_program(const char *dir, const char *what, Counts *n)
{
  Proc p = proc(&arena, HOW(.dir = dir, .seconds = SECONDS), "./out", "--bench=1");

  n->ran += !p.status;
  n->stopped += p.status == 1 && proc_lines(p.err) == 1;
  if (p.status && (p.status != 1 || proc_lines(p.err) != 1))
    tally(false, "%s: the program ends with status %d: %.200s", what, p.status, p.err);
}

static void command(const char *dir, const Bytes *b, const char *what, Counts *n)
{
  scene_write(arena_printf(&arena, "%s/bad.onnx", dir), b->data, b->len, 0644);
  Proc p = proc(&arena, HOW(.dir = dir, .seconds = SECONDS), MICC_EXE, "bad.onnx", "-o", "out");
  const char *left = scene_names(&arena, dir);

  if (!p.status && !strcmp(left, "bad.onnx out")) {
    n->programs++;
    run_program(dir, what, n);
  } else if (p.status == 1 && ends_with_error(p.err) && !strcmp(left, "bad.onnx")) {
    n->errors++;
  } else {
    tally(false, "%s: status %d, left '%s', said: %.200s", what, p.status, left, p.err);
  }
  unlink(arena_printf(&arena, "%s/out", dir));
}

static void test_command(const Damaged *d, uint32_t cases)
{
  const char *dir = scene_open(&arena);
  Counts n = {0};
  int tried = 0;

  for (uint32_t i = 0; i < cases; i += EVERY, tried++) {
    Bytes b = {arena_copy(&arena, d->whole.data, d->whole.len), d->whole.len};
    const char *what = damage(&arena, &b, d->first + i, 0);
    command(dir, &b, what, &n);
  }
  tally(n.errors + n.programs == tried && n.ran + n.stopped == n.programs,
        "%s, %d of them by micc: %d error lines; %d programs, of which %d ran and %d stopped with a line",
        d->name, tried, n.errors, n.programs, n.ran, n.stopped);
  scene_close(dir);
}

static void test_model(const char *name, const char *path, uint64_t first, uint32_t cases)
{
  Damaged d = {.name = name, .file = "bad.onnx", .first = first};

  if (!scene_read(&arena, path, &d.whole)) {
    tally_skip("%s is not there", path);
    return;
  }
  test_in_process(&d, cases);
  if (MICC_HAVE_LLVM)
    test_command(&d, cases);
  else
    tally_skip("micc was built without LLVM, so it makes no programs");
}

int main(void)
{
  static const char real[] = MICC_SHARED_DIR "/models/onnx-micro-kws/micro_kws_m_qdq.onnx";
  bool both = !access(real, R_OK);

  test_model("tiny.onnx", TINY_PATH, 0, both ? CASES * 6 / 10 : CASES);
  test_model("micro_kws_m_qdq.onnx", real, CASES, CASES - CASES * 6 / 10);
  arena_free(&arena);
  return tally_end();
}
