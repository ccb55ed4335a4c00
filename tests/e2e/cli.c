/* cli.c - the `micc` command as a user meets it: what each command line writes, what a wrong one says, and
 * that nothing is left behind when it fails or is stopped. */
#define _GNU_SOURCE
#include "codegen/target.h"
#include "ir/graph.h"
#include "ir/kernel.h"
#include "tests/e2e/support/proc.h"
#include "tests/e2e/support/scene.h"
#include "tests/e2e/support/tally.h"

#include <cjson/cJSON.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const char model[] = MICC_SOURCE_DIR "/tests/data/stories260K.gguf";
static const char prompt[] = "Once upon a time";
static Arena arena;

static bool has(const char *text, const char *part)
{
  return strstr(text, part) != NULL;
}

static const char *at(const char *dir, const char *name)
{
  return arena_printf(&arena, "%s/%s", dir, name);
}

static void show(const Proc *p)
{
  tally_note("exit status %d; printed '%.300s'; said '%.300s'", p->status, p->out, p->err);
}

/* Checks that a command succeeded quietly. */
static bool quiet(const Proc *p, const char *what)
{
  bool ok = tally(!p->status && !p->err_len, "%s: succeeds, and says nothing", what);
  if (!ok)
    show(p);
  return ok;
}

/* ---- what this micc knows */

static size_t widest(const char *text)
{
  size_t most = 0;

  for (const char *end; *text; text = *end ? end + 1 : end) {
    end = strchrnul(text, '\n');
    most = (size_t)(end - text) > most ? (size_t)(end - text) : most;
  }
  return most;
}

static void test_help(void)
{
  Proc p = proc(&arena, NULL, MICC_EXE, "--help");

  quiet(&p, "micc --help");
  tally(proc_lines(p.out) <= 24 && widest(p.out) <= 100, "micc --help fits a screen of 24 x 100 (%zu x %zu)",
        proc_lines(p.out), widest(p.out));
  Proc h = proc(&arena, NULL, MICC_EXE, "-h");
  tally(!strcmp(p.out, h.out), "micc -h is micc --help");
  p = proc(&arena, NULL, MICC_EXE, "run", "--help");
  tally(!p.status && has(p.out, "micc run"), "micc run --help");
  p = proc(&arena, NULL, MICC_EXE, "run", model, "--help");
  tally(!p.status && has(p.out, "--temp"), "micc run MODEL --help tells the program's options");
  p = proc(&arena, NULL, MICC_EXE, "--version");
  tally(!p.status && !strcmp(p.out, "micc " MICC_VERSION "\n"), "micc --version");
}

static void test_lists(void)
{
  static const char *const lists[][3] = {
      {"targets", "x86-64-v3", "cascadelake"}, {"ops", "linear", "attention"}, {"passes", "fuse", "lower"}};

  for (size_t i = 0; i < COUNT(lists); i++) {
    Proc p = proc(&arena, NULL, MICC_EXE, lists[i][0]);
    quiet(&p, arena_printf(&arena, "micc %s", lists[i][0]));
    tally(has(p.out, lists[i][1]) && has(p.out, lists[i][2]), "micc %s names %s and %s", lists[i][0],
          lists[i][1], lists[i][2]);
  }
}

static void test_inspect(void)
{
  Proc p = proc(&arena, NULL, MICC_EXE, "inspect", model);

  quiet(&p, "micc inspect");
  tally(has(p.out, "llama") && has(p.out, "token_embd.weight") &&
            has(p.out, "270cba1bd5109f42d03350f60406024560464db173c0e387d91f0426d3bd256d"),
        "micc inspect tells family, tensors and sha256");
  p = proc(&arena, NULL, MICC_EXE, "inspect", "--json", model);
  cJSON *json = cJSON_Parse(p.out);
  tally(!p.status && cJSON_IsObject(json), "micc inspect --json is one JSON object");
  cJSON_Delete(json);
  p = proc(&arena, NULL, MICC_EXE, "inspect", MICC_EXE);
  tally(p.status == 1 && proc_lines(p.err) == 1, "micc inspect of something else: one line, exit status 1");
}

/* ---- what is written */

static const char *run_text(const char *dir, const char *program)
{
  Proc p = proc(&arena, HOW(.dir = dir), program, "-p", prompt, "-n", "40", "--temp", "0");

  if (!tally(!p.status && p.out_len > 60, "%s runs", program))
    show(&p);
  return p.out;
}

static void test_exe(const char *text)
{
  const char *dir = scene_open(&arena);
  ProcHow in = {.dir = dir};
  Proc p = proc(&arena, &in, MICC_EXE, model, "-o", "story");

  quiet(&p, "micc MODEL -o story");
  tally(!strcmp(run_text(dir, "./story"), text), "./story continues as micc run does");
  p = proc(&arena, &in, MICC_EXE, model);
  quiet(&p, "micc MODEL");
  tally(!strcmp(scene_names(&arena, dir), "stories260K story"),
        "without -o the program is named after the model");
  tally(scene_same(at(dir, "story"), at(dir, "stories260K")), "and has the same bytes");
  p = proc(&arena, &in, MICC_EXE, "-o", "story", "-c", "64", model);
  p = proc(&arena, &in, "./story", "--about");
  tally(!p.status && has(p.out, "context: 64 tokens"), "an older program is replaced");
  scene_close(dir);
}

/* A model whose name has no ending is not overwritten by its program. */
static void test_names(void)
{
  const char *dir = scene_open(&arena);
  ProcHow in = {.dir = dir};
  Bytes bytes;

  scene_read(&arena, model, &bytes);
  scene_write(at(dir, "tiny"), bytes.data, bytes.len, 0644);
  Proc p = proc(&arena, &in, MICC_EXE, "tiny");
  tally(!p.status && !strcmp(scene_names(&arena, dir), "tiny tiny.out"),
        "a model without an ending: tiny.out");
  p = proc(&arena, &in, MICC_EXE, "tiny", "-o", "./tiny");
  tally(p.status == 1 && has(p.err, "is the model"), "-o that names the model is refused");
  p = proc(&arena, &in, "ln", "-s", "tiny", "link.weights");
  p = proc(&arena, &in, MICC_EXE, "tiny", "--emit=c", "-o", "link.c");
  tally(p.status == 1 && has(p.err, "is the model"), "so are weights that would replace the model");
  tally(scene_same(at(dir, "tiny"), model), "the model is as it was");
  scene_close(dir);
}

static void test_object(const char *dir)
{
  ProcHow in = {.dir = dir};
  Proc p = proc(&arena, &in, MICC_EXE, model, "--emit=obj");

  quiet(&p, "--emit=obj");
  p = proc(&arena, &in, "nm", "stories260K.o");
  tally(!p.status && has(p.out, " mi_kernels\n"), "--emit=obj: an ELF object with mi_kernels");
  tally(!has(p.out, " U "), "the object needs no symbol from elsewhere");
}

static void test_llvm(const char *dir)
{
  ProcHow in = {.dir = dir};
  Proc p = proc(&arena, &in, MICC_EXE, model, "--emit=llvm", "-o", "m.ll");

  quiet(&p, "--emit=llvm -o m.ll");
  p = proc(&arena, &in, "clang-19", "--target=x86_64-unknown-linux-musl", "-O0", "-c", "m.ll", "-o", "ll.o");
  quiet(&p, "clang compiles the LLVM IR");
  p = proc(&arena, &in, MICC_EXE, model, "--emit=asm", "-o", "m.s");
  quiet(&p, "--emit=asm -o m.s");
  p = proc(&arena, &in, "clang-19", "-c", "m.s", "-o", "s.o");
  quiet(&p, "clang assembles the assembly");
  p = proc(&arena, &in, "nm", "s.o");
  tally(has(p.out, " mi_kernels\n"), "and mi_kernels is in it");
  Proc text = proc(&arena, &in, MICC_EXE, model, "--emit=asm");
  Bytes file;
  tally(scene_read(&arena, at(dir, "m.s"), &file) && file.len == text.out_len &&
            !memcmp(file.data, text.out, file.len),
        "without -o the same text goes to standard output");
}

/* Warnings of both compilers are errors here. The runtime is GNU C, as it says. */
static void test_c(const char *dir, const char *text)
{
  static const char *const compilers[] = {"gcc", "clang-19"};
  static const char runtime[] = MICC_BINARY_DIR "/share/micc/runtime-min";
  ProcHow in = {.dir = dir, .seconds = 300};
  Proc p = proc(&arena, &in, MICC_EXE, model, "--emit=c", "-o", "model.c");

  quiet(&p, "--emit=c -o model.c");
  for (size_t i = 0; i < COUNT(compilers); i++) {
    p = proc(&arena, &in, compilers[i], "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O2", "-c",
             "model.c");
    quiet(&p, arena_printf(&arena, "%s -std=c99 -Wall -Wextra -Wpedantic -O2", compilers[i]));
  }
  p = proc(&arena, &in, "sh", "-c",
           "cc -O1 model.o $0/mi_*.c $0/start/mi_start_file.c -o model -lpthread -lm", runtime);
  quiet(&p, "it links with share/micc/runtime-min");
  tally(!strcmp(run_text(dir, "./model"), text), "the program from C continues as the others do");
  p = proc(&arena, HOW(.dir = "/"), at(dir, "model"), "-p", prompt, "-n", "5", "--temp", "0");
  tally(!p.status, "it finds its weights beside itself, from any folder");
}

static void test_graph_text(const char *dir)
{
  Proc p = proc(&arena, HOW(.dir = dir), MICC_EXE, model, "--emit=graph");
  Err e = {0};

  quiet(&p, "--emit=graph");
  Module *m = module_parse(&arena, p.out, "graph", &e);
  tally(m && module_verify(m, &e), "the graph's text parses and verifies %s", e.text);
  Text again = {.arena = &arena};
  if (m)
    module_print(m, &again);
  tally(m && !strcmp(again.data, p.out), "and prints as the same text");
}

/* The end of the first kernel of a text: the line "}". */
static const char *kernel_end(const char *text)
{
  const char *end = strstr(text, "\n}\n");
  return end ? end + 3 : NULL;
}

static void test_kernels_text(const char *dir)
{
  Proc p = proc(&arena, HOW(.dir = dir), MICC_EXE, model, "--emit=kernels");
  int n = 0, good = 0;
  Err e = {0};

  quiet(&p, "--emit=kernels");
  for (const char *k = p.out, *end; (end = kernel_end(k)); k = end, n++) {
    Kernel *kernel = kernel_parse(&arena, arena_strndup(&arena, k, (size_t)(end - k)), "kernel", &e);
    Text again = {.arena = &arena};
    if (kernel && kernel_verify(kernel, &e)) {
      kernel_print(kernel, &again);
      good += again.len == (size_t)(end - k) && !memcmp(again.data, k, again.len);
    }
  }
  tally(n > 5 && good == n, "%d of %d kernels parse, verify and print as the same text %s", good, n, e.text);
}

static void test_plan(const char *dir)
{
  Proc p = proc(&arena, HOW(.dir = dir), MICC_EXE, model, "--emit=plan");

  quiet(&p, "--emit=plan");
  tally(has(p.out, "entry decode") && has(p.out, "entry prefill") && has(p.out, "panel"),
        "the plan names entry points and layouts of weights");
  p = proc(&arena, HOW(.dir = dir), MICC_EXE, model, "--emit=plan", "-o", "/dev/stdout");
  tally(!p.status && has(p.out, "entry decode"), "-o may name a device");
}

static void test_emits(const char *text)
{
  const char *dir = scene_open(&arena);

  test_object(dir);
  test_llvm(dir);
  test_c(dir, text);
  test_graph_text(dir);
  test_kernels_text(dir);
  test_plan(dir);
  scene_close(dir);
}

static void test_options(void)
{
  const char *dir = scene_open(&arena);
  ProcHow in = {.dir = dir};
  Proc p = proc(&arena, &in, MICC_EXE, model, "--emit=plan", "-o", "plan", "--print-after=fuse");

  tally(!p.status && has(p.err, "graph") && !p.out_len,
        "--print-after=fuse prints graphs, beside the output");
  p = proc(&arena, &in, MICC_EXE, model, "--emit=plan", "-o", "plan", "--print-after", "all");
  tally(!p.status && has(p.err, "kernel"), "--print-after all");
  p = proc(&arena, &in, MICC_EXE, model, "-o", "story", "--time-passes");
  tally(!p.status && has(p.err, "simplify") && has(p.err, "lower") && has(p.err, "llvm"), "--time-passes");
  p = proc(&arena, &in, MICC_EXE, model, "-o", "story", "-v");
  tally(!p.status && has(p.err, "KB"), "-v tells sizes");
  static const char *const more[] = {"-O0",      "-O3",         "--cpu=cascadelake", "--cpu=x86-64-v2,native",
                                     "--kv=f16", "--prefill=0", "--prefill=1",       "-c1"};
  for (size_t i = 0; i < COUNT(more); i++) {
    unlink(at(dir, "story"));
    p = proc(&arena, &in, MICC_EXE, model, "-o", "story", more[i]);
    quiet(&p, arena_printf(&arena, "micc MODEL %s", more[i]));
    bool here = strcmp(more[i], "--cpu=cascadelake") || target_find("cascadelake", NULL)->runs_here();
    p = proc(&arena, &in, "./story", "-p", "", "-n", "1", "--temp", "0");
    tally(here ? !p.status && p.out_len : p.status == 1 && has(p.err, "needs a processor with"),
          here ? "and its program runs" : "and its program says that this machine lacks the level");
  }
  p = proc(&arena, &in, MICC_EXE, model, "-o", "story", "-c", "4096");
  tally(!p.status && has(p.err, "warning") && proc_lines(p.err) == 1,
        "a context beyond what the model was trained with: a warning");
  scene_close(dir);
}

/* ---- micc run */

static const char *test_run(void)
{
  const char *dir = scene_open(&arena);
  ProcHow in = {.dir = dir};
  Proc p = proc(&arena, &in, MICC_EXE, "run", model, "-p", prompt, "-n", "40", "--temp", "0");
  const char *text = p.out;

  quiet(&p, "micc run");
  tally(p.out_len > 60 && !strncmp(text, prompt, strlen(prompt)), "it continues the prompt");
  p = proc(&arena, &in, MICC_EXE, "run", "-n", "40", "-p", prompt, "-O1", model, "--temp=0", "-c", "128",
           "-t2");
  tally(!strcmp(p.out, text), "options of micc and of the program may be mixed");
  p = proc(&arena, &in, MICC_EXE, "run", model, prompt, "-n", "40", "--temp", "0", "--cpu=x86-64-v3");
  tally(!strcmp(p.out, text), "a prompt may stand by itself");
  in.input = arena_printf(&arena, "%s\n", prompt);
  p = proc(&arena, &in, MICC_EXE, "run", model, "-n", "40", "--temp", "0");
  tally(!strcmp(p.out, text), "or come through a pipe");
  in.input = NULL;
  p = proc(&arena, &in, MICC_EXE, "run", model, "-n", "3", "--temp", "0", "--", "-c");
  tally(!p.status && !strncmp(p.out, "-c", 2), "after -- a prompt may begin with -");
  p = proc(&arena, &in, MICC_EXE, "run", "--backend=tcc", model, "-p", prompt, "-n", "40", "--temp", "0");
  tally(!strcmp(p.out, text), "--backend=tcc gives the same text");
  p = proc(&arena, &in, MICC_EXE, "run", model, "--oracle", "-p", prompt, "-n", "10");
  tally(!p.status && p.out_len > 20 && !strncmp(p.out, text, p.out_len - 1), "--oracle gives the same text");
  tally(!strcmp(scene_names(&arena, dir), ""), "micc run writes nothing");
  scene_close(dir);
  return text;
}

/* ---- wrong use: one line that names the culprit, nothing written */

typedef struct {
  const char *args[7];
  int status;
  const char *says;
} Wrong;

#define M model
static const Wrong wrongs[] = {
    {{NULL}, 2, "no model"},
    {{"--bogus", M}, 2, "'--bogus'"},
    {{"-x", M}, 2, "'-x'"},
    {{M, "-o"}, 2, "'-o'"},
    {{M, "--emit"}, 2, "'--emit'"},
    {{M, "--emit=exo"}, 2, "'exo'"},
    {{M, "--cpu=pentium"}, 2, "x86-64-v4+vnni, native"},
    {{M, "--cpu=x86-64-v3,pentium"}, 2, "'pentium'"},
    {{M, "--cpu="}, 2, "--cpu"},
    {{M, "--cpu=x86-64-v3,x86-64-v2"}, 2, "x86-64-v2"},
    {{M, "--kv=q7_0"}, 2, "'q7_0'"},
    {{M, "--kv=q8_0"}, 1, "heads of 8"},
    {{M, "--head=half"}, 2, "'half'"},
    {{M, "--cpu=c"}, 1, "--cpu=c"},
    {{M, "--verbose=3"}, 2, "'--verbose=3'"},
    {{M, "other.gguf"}, 2, "'other.gguf'"},
    {{M, "-c", "0"}, 2, "'0'"},
    {{M, "-c", "-5"}, 2, "'-5'"},
    {{M, "-c", "2k"}, 2, "'2k'"},
    {{M, "-c", "99999999999999999999"}, 2, "'99999999999999999999'"},
    {{M, "--prefill=x"}, 2, "'x'"},
    {{M, "-O7"}, 2, "'7'"},
    {{M, "--print-after=fus"}, 2, "'fus'"},
    {{M, "--backend=gcc"}, 2, "'gcc'"},
    {{M, "--oracle"}, 2, "--oracle"},
    {{"missing.gguf"}, 1, "missing.gguf"},
    {{""}, 1, "No such file"},
    {{"/"}, 1, "directory"},
    {{"/dev/null"}, 1, "/dev/null"},
    {{MICC_EXE}, 1, "micc"},
    {{M, "-o", ""}, 1, "empty"},
    {{M, "-o", "-"}, 1, "standard output"},
    {{M, "--emit=c", "-o", "-"}, 1, "standard output"},
    {{M, "--emit=c", "-o", "x.weights"}, 1, "x.weights"},
    {{M, "-o", "no/such/folder"}, 1, "no/such/folder"},
    {{M, "--emit=obj", "-o", "no/such/folder"}, 1, "no/such/folder"},
    {{M, "--emit=c", "-o", "no/such/folder.c"}, 1, "no/such/folder"},
    {{M, "-o", "/"}, 1, "directory"},
    {{M, "--emit=plan", "-o", "/"}, 1, "directory"},
    {{M, "-o", "/dev/null"}, 1, "regular file"},
    {{M, "--emit=plan", "-o", "/dev/full"}, 1, "No space left"},
    {{M, "--emit=obj", "-o", "/dev/full"}, 1, "No space left"},
    {{"run"}, 2, "run"},
    {{"run", "missing.gguf", "-p", "x"}, 1, "missing.gguf"},
    {{"run", M, "--bogus"}, 2, "--bogus"},
    {{"run", M, "-p"}, 2, "-p"},
    {{"run", M, "--emit=c"}, 2, "--emit"},
    {{"run", M, "-n", "many"}, 2, "'many'"},
    {{"run", M, "--cpu=pentium"}, 2, "'pentium'"},
    {{"run", M, "--token-ids", "1,99999", "-n", "1"}, 2, "99999"},
    {{"run", M, "--oracle", "-n", "3"}, 2, "--token-ids"},
    {{"run", M, "--oracle", "-p", "x", "--temp", "0"}, 2, "--temp"},
    {{"inspect", "missing.gguf"}, 1, "missing.gguf"},
    {{"targets", "x"}, 2, "'x'"},
    {{"passes", "x"}, 2, "'x'"},
};
#undef M

static void test_wrong(const char *dir, const Wrong *w)
{
  const char *argv[10] = {MICC_EXE};
  Text words = {.arena = &arena};

  text_printf(&words, "micc");
  for (size_t i = 0; i < COUNT(w->args) && w->args[i]; i++) {
    argv[i + 1] = w->args[i];
    text_printf(&words, " %s", w->args[i] == model ? "MODEL" : w->args[i]);
  }
  Proc p = proc_run(&arena, HOW(.dir = dir), argv);
  bool ok = p.status == w->status && proc_lines(p.err) == 1 &&
            (!strncmp(p.err, "micc: ", 6) || !strncmp(p.err, "stories260K.gguf: ", 18)) &&
            has(p.err, w->says) && !p.out_len && !*scene_names(&arena, dir);
  if (!tally(ok, "wrong: %s", words.data)) {
    show(&p);
    tally_note("left behind: '%s'", scene_names(&arena, dir));
  }
}

/* An output that is too large for the file system, or for the user's limit. */
static void test_full(const char *dir)
{
  static const char *const kinds[] = {"exe", "c", "obj", "asm"};

  for (size_t i = 0; i < COUNT(kinds); i++) {
    Proc p = proc(&arena, HOW(.dir = dir, .file_limit = 6000), MICC_EXE, model, "-o", "x.c",
                  arena_printf(&arena, "--emit=%s", kinds[i]));
    if (!tally(p.status == 1 && proc_lines(p.err) == 1 && has(p.err, "File too large") &&
                   !*scene_names(&arena, dir),
               "--emit=%s beyond the limit on file sizes: one line, nothing left", kinds[i])) {
      show(&p);
      tally_note("left behind: '%s'", scene_names(&arena, dir));
    }
  }
  Proc p = proc(&arena, HOW(.dir = dir, .file_limit = 600000), MICC_EXE, model, "-o", "x");
  tally(p.status == 1 && has(p.err, "File too large") && !*scene_names(&arena, dir),
        "the same while weights are written");
}

static void test_streams(const char *dir)
{
  static const char *const commands[] = {"--help", "targets", "ops", "passes"};

  for (size_t i = 0; i < COUNT(commands); i++) {
    Proc p = proc(&arena, HOW(.dir = dir, .out_path = "/dev/full"), MICC_EXE, commands[i]);
    tally(p.status == 1 && has(p.err, "No space left"), "micc %s > /dev/full fails", commands[i]);
  }
  Proc p = proc(&arena, HOW(.dir = dir, .out_path = "/dev/full"), MICC_EXE, model, "--emit=plan");
  tally(p.status == 1 && proc_lines(p.err) == 1, "micc --emit=plan > /dev/full fails");
  p = proc(&arena, HOW(.dir = dir, .closed = 2), MICC_EXE, model, "--emit=plan");
  tally(p.status == 1 && proc_lines(p.err) == 1, "so it does when standard output is closed");
  p = proc(&arena, HOW(.dir = dir, .closed = 7), MICC_EXE, model, "-o", "story", "-v");
  tally(!p.status, "micc -o works with all three standard files closed");
  p = proc(&arena, HOW(.dir = dir), "./story", "-p", "x", "-n", "2");
  tally(!p.status, "and the program is whole");
  unlink(at(dir, "story"));
}

static void test_failures(void)
{
  const char *dir = scene_open(&arena);

  for (size_t i = 0; i < COUNT(wrongs); i++)
    test_wrong(dir, &wrongs[i]);
  test_full(dir);
  test_streams(dir);
  scene_write(at(dir, "empty.gguf"), "", 0, 0644);
  Proc p = proc(&arena, HOW(.dir = dir), MICC_EXE, "empty.gguf");
  tally(p.status == 1 && has(p.err, "empty") && !strcmp(scene_names(&arena, dir), "empty.gguf"),
        "an empty model");
  scene_write(at(dir, "empty.gguf"), "old", 3, 0644);
  p = proc(&arena, HOW(.dir = dir, .file_limit = 6000), MICC_EXE, model, "-o", "empty.gguf");
  tally(p.status == 1 && scene_size(at(dir, "empty.gguf")) == 3,
        "a failed compile leaves an older output alone");
  scene_close(dir);
}

/* ---- stopped */

/* Killed after each of some delays, compiling leaves all of its output or none. */
static void test_killed(int signal_number, const char *name)
{
  const char *dir = scene_open(&arena);
  int stopped = 0, whole = 0, bad = 0;

  for (int ms = 2; ms < 400; ms += ms / 3 + 1) {
    Proc p = proc(&arena, HOW(.dir = dir, .signal = signal_number, .signal_ms = ms), MICC_EXE, model, "-o",
                  "story");
    const char *left = scene_names(&arena, dir);
    stopped += p.status == 128 + signal_number && !*left;
    whole += !strcmp(left, "story") && (!p.status || p.status == 128 + signal_number);
    bad += *left && strcmp(left, "story");
    unlink(at(dir, "story"));
  }
  tally(stopped && !bad, "%s in mid-compile: %d times nothing was left, %d times the whole program", name,
        stopped, whole);
  scene_close(dir);
}

/* A linker of our own, first in PATH, makes the moment certain. */
static void test_killed_linking(void)
{
  const char *dir = scene_open(&arena), *bin = scene_open(&arena);
  const char *started = at(bin, "started"),
             *script = arena_printf(&arena, "#!/bin/sh\n: > %s\nexec sleep 3\n", started);
  const char *const env[] = {arena_printf(&arena, "PATH=%s:/usr/bin:/bin", bin), NULL};

  scene_write(at(bin, "ld.lld-19"), script, strlen(script), 0755);
  Proc p = proc(&arena, HOW(.dir = dir, .env = env, .signal = SIGTERM, .signal_ms = 50, .until = started),
                MICC_EXE, model, "-o", "story");
  tally(p.status == 128 + SIGTERM && p.wall_ms < 2900 && !*scene_names(&arena, dir),
        "SIGTERM while the linker runs ends both, and leaves nothing");
  script = "#!/bin/sh\necho no memory >&2\necho for this >&2\nexit 3\n";
  scene_write(at(bin, "ld.lld-19"), script, strlen(script), 0755);
  p = proc(&arena, HOW(.dir = dir, .env = env), MICC_EXE, model, "-o", "story");
  tally(p.status == 1 && has(p.err, "no memory for this") && proc_lines(p.err) == 1 &&
            !*scene_names(&arena, dir),
        "what a failing linker says is told on one line");
  scene_close(dir);
  scene_close(bin);
}

/* The file becomes shorter while it is mapped. */
static void test_shrinking_model(void)
{
  const char *dir = scene_open(&arena), *bin = scene_open(&arena);
  const char *script =
      arena_printf(&arena, "#!/bin/sh\n: > %s\nexec /usr/bin/ld.lld-19 \"$@\"\n", at(bin, "m.gguf"));
  const char *const env[] = {arena_printf(&arena, "PATH=%s:/usr/bin:/bin", bin), NULL};
  Bytes bytes;

  scene_read(&arena, model, &bytes);
  scene_write(at(bin, "m.gguf"), bytes.data, bytes.len, 0644);
  scene_write(at(bin, "ld.lld-19"), script, strlen(script), 0755);
  Proc p = proc(&arena, HOW(.dir = dir, .env = env), MICC_EXE, at(bin, "m.gguf"), "-o", "story");
  if (!tally(p.status == 1 && proc_lines(p.err) == 1 && !*scene_names(&arena, dir),
             "a model that is cut short while it is read: one line, nothing left"))
    show(&p);
  scene_close(dir);
  scene_close(bin);
}

int main(void)
{
  if (!MICC_HAVE_LLVM) {
    tally_skip("micc was built without LLVM, so it makes no programs");
    return tally_end();
  }
  test_help();
  test_lists();
  test_inspect();
  const char *text = test_run();
  test_exe(text);
  test_names();
  test_emits(text);
  test_options();
  test_failures();
  test_killed(SIGINT, "SIGINT");
  test_killed(SIGTERM, "SIGTERM");
  test_killed_linking();
  test_shrinking_model();
  arena_free(&arena);
  return tally_end();
}
