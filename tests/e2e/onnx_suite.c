/* onnx_suite.c - the ONNX backend suite: each case is imported, evaluated, compiled by each way, and compared within
 * ONNX's tolerance.
 *
 *   e2e_onnx_suite                  runs all, and checks onnx_suite.txt and onnx_suite_ops.txt
 *   e2e_onnx_suite --write          ... writes them instead
 *   e2e_onnx_suite [-v] PART ...    only cases whose path holds one of the parts; -v prints those that pass, too
 *
 * onnx_suite.txt lists the cases that do not pass, each under its reason. It is checked both ways: a listed case that
 * passes fails the test, and so does one that fails and is not listed. onnx_suite_ops.txt says of each operator how
 * many cases show it; docs/STATUS.md has a table of that. */
#include "tests/e2e/support/crew.h"
#include "tests/e2e/support/onnx_reason.h"
#include "tests/e2e/support/onnx_ways.h"
#include "tests/e2e/support/scene.h"
#include "tests/e2e/support/tally.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SUITE     MICC_SHARED_DIR "/suites/onnx-backend-tests"
#define LIST_FILE MICC_SOURCE_DIR "/tests/e2e/onnx_suite.txt"
#define OPS_FILE  MICC_SOURCE_DIR "/tests/e2e/onnx_suite_ops.txt"
#define UPDATE    "if that is right: e2e_onnx_suite --write, then e2e_status --write"
#define LIST_ABOUT                                                                                           \
  "# Cases of the ONNX backend suite that do not pass, by reason. Written by e2e_onnx_suite --write.\n"
#define OPS_ABOUT                                                                                            \
  "# Operators in the cases of the ONNX backend suite that are not below: domain, name, cases that pass, "   \
  "cases.\n# Written by e2e_onnx_suite --write.\n"

enum { CASE_SECONDS = 60, WORKERS = 2, NODE_PERCENT = 95 };

static const char *const folders[] = {"node", "simple", "pytorch-converted", "pytorch-operator"};

/* What a worker says of a case. */
typedef struct {
  bool imported;
  uint8_t reason; /* outside: also of those that pass; else of those that fail */
  uint32_t held;  /* bit for each way */
  char ops[1500]; /* "domain name\n..." without repetition */
  Err why;        /* the first failure; "": none */
} Result;

typedef struct {
  const char *path; /* "node/test_abs" */
  const Result *result;
} Case;

typedef struct {
  const char *name; /* "ai.onnx Abs" */
  uint32_t pass, all;
} OpCount;

typedef struct {
  Arena arena;
  bool verbose, write;
  char **parts;
  int n_parts;
  ARRAY(Case) cases;
  ARRAY(OpCount) ops;
} Suite;

static bool passes(const Case *c)
{
  return !c->result->why.text[0];
}

static bool inside(const Case *c)
{
  return c->result->reason >= onnx_reason_count || !onnx_reasons[c->result->reason].outside;
}

/* ---- one case, in a worker */

static void note_op(void *ctx, const OnnxNode *n)
{
  Result *r = ctx;
  char line[200];
  size_t len = strlen(r->ops);

  snprintf(line, sizeof line, "%s %s\n", n->domain[0] ? n->domain : "ai.onnx", n->op_type);
  const char *at = strstr(r->ops, line);
  if (!(at && (at == r->ops || at[-1] == '\n')))
    snprintf(r->ops + len, sizeof r->ops - len, "%s", line);
}

static void judge(const OnnxCase *c, Result *r)
{
  r->imported = true;
  for (uint32_t i = 0; i < onnx_way_count; i++) {
    Err e = {0};
    bool ok = onnx_way_holds(&onnx_ways[i], c, &e);
    r->held |= (uint32_t)ok << i;
    if (!ok && !r->why.text[0])
      r->why = e;
  }
}

static void run_case(void *ctx, uint32_t job, void *result)
{
  const Suite *s = ctx;
  Result *r = result;
  Arena a = {0};
  Err e = {0};
  OnnxCase c;
  bool ok = onnx_case_open(&c, &a, arena_printf(&a, SUITE "/%s", s->cases.data[job].path), &e);

  r->reason = (uint8_t)onnx_reason_count;
  if (c.onnx) {
    onnx_each_node(c.onnx, note_op, r);
    r->reason = (uint8_t)onnx_reason_outside(c.onnx);
  }
  if (ok)
    judge(&c, r);
  else
    r->why = e;
  if (c.onnx && r->why.text[0] && r->reason == onnx_reason_count)
    r->reason = (uint8_t)onnx_reason_of(c.onnx, r->why.text);
  onnx_case_close(&c);
  arena_free(&a);
}

static void died(void *ctx, uint32_t job, void *result, const char *why)
{
  Result *r = result;
  (void)ctx, (void)job;

  r->reason = (uint8_t)(onnx_reason_count - 1);
  fail(&r->why, "CRASHED: %s", why);
}

/* ---- all of them */

static bool wanted(const Suite *s, const char *path)
{
  for (int i = 0; i < s->n_parts; i++)
    if (strstr(path, s->parts[i]))
      return true;
  return s->n_parts == 0;
}

static void find_cases(Suite *s, const char *folder)
{
  struct dirent **names;
  int n = scandir(arena_printf(&s->arena, SUITE "/%s", folder), &names, NULL, alphasort);

  for (int i = 0; i < n; i++) {
    const char *path = arena_printf(&s->arena, "%s/%s", folder, names[i]->d_name);
    if (names[i]->d_name[0] != '.' && wanted(s, path))
      PUSH(&s->arena, s->cases)->path = path;
    free(names[i]);
  }
  if (n >= 0)
    free(names);
}

static bool run_all(Suite *s)
{
  Crew crew = {.workers = WORKERS,
               .seconds = CASE_SECONDS,
               .jobs = s->cases.len,
               .result_bytes = sizeof(Result),
               .run = run_case,
               .died = died,
               .ctx = s};
  const Result *results = crew_run(&crew);

  for (uint32_t i = 0; results && i < s->cases.len; i++)
    s->cases.data[i].result = &results[i];
  return results;
}

/* ---- sums */

static OpCount *count_of(Suite *s, const char *name)
{
  for (uint32_t i = 0; i < s->ops.len; i++)
    if (!strcmp(s->ops.data[i].name, name))
      return &s->ops.data[i];
  *PUSH(&s->arena, s->ops) = (OpCount){.name = name};
  return &s->ops.data[s->ops.len - 1];
}

static int by_name(const void *a, const void *b)
{
  return strcmp(((const OpCount *)a)->name, ((const OpCount *)b)->name);
}

static void count_ops(Suite *s)
{
  for (uint32_t i = 0; i < s->cases.len; i++) {
    char *rest = arena_strdup(&s->arena, s->cases.data[i].result->ops), *name;
    while ((name = strsep(&rest, "\n")) && *name) {
      OpCount *n = count_of(s, name);
      n->all++;
      n->pass += passes(&s->cases.data[i]);
    }
  }
  if (s->ops.len)
    qsort(s->ops.data, s->ops.len, sizeof *s->ops.data, by_name);
}

static void print_cases(const Suite *s)
{
  for (uint32_t i = 0; i < s->cases.len; i++) {
    const Case *c = &s->cases.data[i];
    if (!passes(c))
      printf("%-12s %s: %s\n", c->result->imported ? "WRONG" : "not imported", c->path, c->result->why.text);
    else if (s->verbose)
      printf("%-12s %s\n", "pass", c->path);
  }
}

static void print_ways(const Suite *s)
{
  printf("%u cases", s->cases.len);
  for (uint32_t w = 0; w < onnx_way_count; w++) {
    uint32_t n = 0;
    for (uint32_t i = 0; i < s->cases.len; i++)
      n += s->cases.data[i].result->held >> w & 1;
    printf(", %s %u", onnx_ways[w].name, n);
  }
  printf("\n");
}

static void check_folder(const Suite *s, const char *folder, unsigned percent)
{
  uint32_t pass[2] = {0}, all[2] = {0}; /* outside, inside */
  size_t n = strlen(folder);

  for (uint32_t i = 0; i < s->cases.len; i++) {
    const Case *c = &s->cases.data[i];
    bool here = !strncmp(c->path, folder, n) && c->path[n] == '/';
    all[inside(c)] += here;
    pass[inside(c)] += here && passes(c);
  }
  tally(pass[1] * 100 >= all[1] * percent,
        "%s: %u of %u pass, %.1f %%, at least %u; of training, strings, sequences, optional values, maps: %u "
        "of %u",
        folder, pass[1], all[1], all[1] ? 100.0 * pass[1] / all[1] : 0.0, percent, pass[0], all[0]);
}

/* ---- the lists */

static const char *ops_text(Suite *s)
{
  Text t = {.arena = &s->arena};

  text_printf(&t, OPS_ABOUT);
  for (uint32_t i = 0; i < s->ops.len; i++)
    text_printf(&t, "%s %u %u\n", s->ops.data[i].name, s->ops.data[i].pass, s->ops.data[i].all);
  return t.data;
}

static void list_reason(Suite *s, uint32_t reason, Text *t)
{
  uint32_t n = 0;

  for (uint32_t i = 0; i < s->cases.len; i++) {
    const Case *c = &s->cases.data[i];
    if (passes(c) || c->result->reason != reason)
      continue;
    if (!n++)
      text_printf(t, "\n## %s: %s\n", onnx_reasons[reason].title, onnx_reasons[reason].text);
    text_printf(t, "%s\n", c->path);
  }
}

static const char *list_text(Suite *s)
{
  Text t = {.arena = &s->arena};

  text_printf(&t, LIST_ABOUT);
  for (uint32_t r = 0; r < onnx_reason_count; r++)
    list_reason(s, r, &t);
  return t.data;
}

static bool has_line(const char *text, const char *line)
{
  const char *whole = line;
  size_t n = strlen(line);

  for (const char *at = text; (at = strstr(at, whole)); at += n)
    if ((at == text || at[-1] == '\n') && (at[n] == '\n' || !at[n]))
      return true;
  return false;
}

/* The test's two halves: what fails is listed, what is listed fails. */
static void check_cases(Suite *s, const char *list)
{
  for (uint32_t i = 0; i < s->cases.len; i++) {
    const Case *c = &s->cases.data[i];
    bool listed = has_line(list, c->path);
    if (!passes(c) && !listed)
      tally(false, "%s: %s", c->path, c->result->why.text);
    if (passes(c) && listed)
      tally(false, "%s passes, but onnx_suite.txt lists it", c->path);
    if (!passes(c) && c->result->reason == onnx_reason_count - 1)
      tally(false, "%s has no reason: %s", c->path, c->result->why.text);
  }
}

static void check_file(Suite *s, const char *path, const char *want)
{
  Bytes have = {NULL, 0};
  bool read = scene_read(&s->arena, path, &have);

  if (!tally(read && !strcmp(have.data, want), "%s says what came out", strrchr(path, '/') + 1))
    tally_note(UPDATE);
}

static void check_lists(Suite *s)
{
  const char *list = list_text(s), *ops = ops_text(s);
  Bytes have = {NULL, 0};

  if (s->write &&
      !(scene_write(LIST_FILE, list, strlen(list), 0644) && scene_write(OPS_FILE, ops, strlen(ops), 0644)))
    perror(LIST_FILE);
  check_cases(s, scene_read(&s->arena, LIST_FILE, &have) ? have.data : "");
  check_file(s, LIST_FILE, list);
  check_file(s, OPS_FILE, ops);
}

int main(int argc, char **argv)
{
  Suite s = {.verbose = argc > 1 && !strcmp(argv[1], "-v"), .write = argc > 1 && !strcmp(argv[1], "--write")};

  s.parts = argv + 1 + (s.verbose || s.write);
  s.n_parts = argc - 1 - (s.verbose || s.write);
  if (access(SUITE "/node", R_OK)) {
    tally_skip("%s is not there", SUITE);
    return 0;
  }
  for (uint32_t i = 0; i < COUNT(folders); i++)
    find_cases(&s, folders[i]);
  if (!run_all(&s))
    return perror("e2e_onnx_suite"), 2;
  count_ops(&s);
  if (s.n_parts) {
    print_cases(&s);
  } else {
    check_lists(&s);
    for (uint32_t i = 0; i < COUNT(folders); i++)
      check_folder(&s, folders[i], i ? 100 : NODE_PERCENT);
  }
  print_ways(&s);
  arena_free(&s.arena);
  return tally_end();
}
