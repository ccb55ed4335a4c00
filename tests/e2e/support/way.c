/* way.c - compiles models, runs the programs, reads what they tell. */
#include "tests/e2e/support/way.h"
#include "tests/e2e/support/proc.h"
#include "tests/e2e/support/scene.h"
#include "tests/e2e/support/tally.h"

#include <cjson/cJSON.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static const ProcHow patient = {.seconds = 300};

/* ---- the suite */

static double now_ms(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

void suite_open(Suite *s)
{
  *s = (Suite){.start_ms = now_ms()};
  s->dir = scene_open(&s->arena);
}

void suite_section(Suite *s, const char *title)
{
  printf("\n== %s (%.1f s)\n", title, (now_ms() - s->start_ms) / 1e3);
}

int suite_close(Suite *s)
{
  printf("\n%.1f s: ", (now_ms() - s->start_ms) / 1e3);
  scene_close(s->dir);
  arena_free(&s->arena);
  return tally_end();
}

static const char *new_path(Suite *s, const char *name)
{
  return arena_printf(&s->arena, "%s/%u-%s", s->dir, s->files++, name);
}

const float *floats_read(Suite *s, const char *path, size_t *n)
{
  Bytes file;
  bool read = scene_read(&s->arena, path, &file);

  *n = read ? file.len / sizeof(float) : 0;
  return *n ? (const float *)(const void *)file.data : NULL;
}

/* ---- commands */

Args args_of(const char *const *words)
{
  Args a = {.n = 0};
  for (; words[a.n] && a.n + 1 < COUNT(a.word); a.n++)
    a.word[a.n] = words[a.n];
  return a;
}

Args args_join(Args a, Args b)
{
  for (unsigned i = 0; i < b.n && a.n + 1 < COUNT(a.word); i++)
    a.word[a.n++] = b.word[i];
  return a;
}

/* A check only if it went wrong: what follows says that it went right. */
static bool goes_well(Suite *s, Args a, const char *what, Proc *out)
{
  *out = proc_run(&s->arena, &patient, a.word);
  return out->status == 0 || tally(false, "%s: exit status %d: %.600s", what, out->status, out->err);
}

/* ---- programs */

static void add_way(Ways *w, const char *label, Args command)
{
  w->way[w->n++] = (Way){label, command};
}

static Args options_of(Suite *s, const char *options)
{
  Args a = {.n = 0};

  for (size_t n; options && *options && a.n + 1 < COUNT(a.word); options += n + (options[n] == ' ')) {
    n = strcspn(options, " ");
    a.word[a.n++] = arena_strndup(&s->arena, options, n);
  }
  return a;
}

void way_exe(Suite *s, const char *model, const char *options, Ways *out)
{
  const char *path = new_path(s, "program");
  Args a = ARGS(MICC_EXE, model, "-o", path);
  Proc p;

  bool ok = goes_well(s, args_join(a, options_of(s, options)), model, &p);
  add_way(out, options ? options : "executable", ok ? ARGS(path) : (Args){.n = 0});
}

void way_run(Suite *s, const char *model, const char *options, Ways *out)
{
  Args a = ARGS(MICC_EXE, "run", model);
  add_way(out, options ? options : "run", args_join(a, options_of(s, options)));
}

/* Program and runtime; the runtime is compiled once for each compiler. */
static const char script[] =
    "set -e; cc=$1 level=$2 source=$3 out=$4 runtime=$5 tree=$6\n"
    "[ -f \"$runtime\" ] || $cc -std=gnu11 -O2 -I\"$tree\" -r -nostdlib -o \"$runtime\""
    " \"$tree\"/runtime-min/mi_*.c \"$tree\"/runtime-min/start/mi_start_file.c\n"
    "$cc -std=c99 $level -Wall -Wextra -Werror -o \"$out\" \"$source\" \"$runtime\" -lpthread -lm\n";

/* The image file stands beside the source, where the program looks for it. */
void way_c(Suite *s, const char *model, const char *cc, const char *level, Ways *out)
{
  const char *program = new_path(s, "c"), *source = arena_printf(&s->arena, "%s.c", program);
  const char *runtime = arena_printf(&s->arena, "%s/runtime-%s.o", s->dir, cc);
  Proc p;

  if (proc(&s->arena, NULL, "sh", "-c", "command -v \"$0\"", cc).status) {
    tally_skip("C by %s, which is not here", cc);
    return;
  }
  bool ok =
      goes_well(s, ARGS(MICC_EXE, model, "--emit=c", "-o", source), model, &p) &&
      goes_well(s, ARGS("sh", "-c", script, "build", cc, level, source, program, runtime, MICC_SOURCE_DIR),
                cc, &p);
  add_way(out, arena_printf(&s->arena, "C, %s", cc), ok ? ARGS(program) : (Args){.n = 0});
}

Cpus cpus_here(Suite *s)
{
  Proc p = proc(&s->arena, NULL, MICC_EXE, "targets");
  Cpus c = {.n = 0};

  for (const char *line = p.out, *end; (end = strchr(line, '\n')); line = end + 1) {
    const char *text = arena_strndup(&s->arena, line, (size_t)(end - line));
    bool here = strstr(text, "(runs here)") || strstr(text, "(native)");
    if (here && !strstr(text, " C99 ") && c.n < COUNT(c.name))
      c.name[c.n++] = arena_strndup(&s->arena, text, strcspn(text, " "));
  }
  return c;
}

/* ---- what they tell */

static int32_t *ints_of(Suite *s, const cJSON *list, unsigned *n)
{
  int32_t *out = NEW_ARRAY(&s->arena, int32_t, (size_t)cJSON_GetArraySize(list) + 1);
  const cJSON *item;

  *n = 0;
  cJSON_ArrayForEach(item, list) out[(*n)++] = item->valueint;
  return out;
}

static bool read_told(Suite *s, const char *json, Told *out)
{
  cJSON *j = cJSON_Parse(json);
  const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(j, "text"));

  out->prompt = ints_of(s, cJSON_GetObjectItem(j, "prompt_tokens"), &out->n_prompt);
  out->tokens = ints_of(s, cJSON_GetObjectItem(j, "tokens"), &out->n_tokens);
  out->text = arena_strdup(&s->arena, text ? text : "");
  bool ok = j != NULL;
  cJSON_Delete(j);
  return ok;
}

bool way_generate(Suite *s, const Way *w, const char *prompt, unsigned n, Args options, Told *out)
{
  const char *count = arena_printf(&s->arena, "%u", n);
  Args a = args_join(w->command, ARGS("-p", prompt, "-n", count, "--temp", "0", "--json"));
  Proc p;

  return w->command.n && goes_well(s, args_join(a, options), w->label, &p) &&
         (read_told(s, p.out, out) || tally(false, "%s --json prints no JSON: %s", w->label, p.out));
}

static const char *ids_text(Suite *s, const int32_t *tokens, unsigned n)
{
  Text t = {.arena = &s->arena};
  for (unsigned i = 0; i < n; i++)
    text_printf(&t, i ? ",%d" : "%d", tokens[i]);
  return t.data;
}

const float *way_logits(Suite *s, const Way *w, const int32_t *tokens, unsigned n, Args options,
                        unsigned *n_vocab)
{
  const char *path = new_path(s, "logits"), *ids = ids_text(s, tokens, n);
  Args a = args_join(w->command, ARGS("--token-ids", ids, "-n", "0", "--logits", path));
  size_t count;
  Proc p;

  if (!w->command.n || !goes_well(s, args_join(a, options), w->label, &p))
    return NULL;
  const float *rows = floats_read(s, path, &count);
  unlink(path);
  *n_vocab = (unsigned)(count / n);
  if (rows && count % n == 0)
    return rows;
  tally(false, "%s --logits wrote %zu numbers for %u tokens", w->label, count, n);
  return NULL;
}
