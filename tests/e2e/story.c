/* story.c - a compiled program as a user meets it: where prompts come from, what it prints and writes, what
 * it says of wrong options, and how it stops. */
#define _GNU_SOURCE
#include "tests/e2e/support/proc.h"
#include "tests/e2e/support/scene.h"
#include "tests/e2e/support/tally.h"

#include <cjson/cJSON.h>
#include <pty.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static const char model[] = MICC_SOURCE_DIR "/tests/data/stories260K.gguf";
static const char prompt[] = "Once upon a time";
enum { N_VOCAB = 512 };
static Arena arena;
static const char *dir;    /* where ./story lies */
static const char *greedy; /* what it continues with, 30 tokens */

static bool has(const char *text, const char *part)
{
  return strstr(text, part) != NULL;
}

static void show(const Proc *p)
{
  tally_note("exit status %d; printed '%.300s'; said '%.300s'", p->status, p->out, p->err);
}

/* ./story -n 30 --temp 0 and more */
static Proc greedily(const char *input, const char *const *more)
{
  const char *argv[16] = {"./story", "-n", "30", "--temp", "0"};

  for (size_t i = 0; more[i]; i++)
    argv[5 + i] = more[i];
  return proc_run(&arena, HOW(.dir = dir, .input = input), argv);
}

#define GREEDILY(input, ...) greedily(input, (const char *const[]){__VA_ARGS__, NULL})

static void same(const Proc *p, const char *what)
{
  if (!tally(!p->status && !p->err_len && !strcmp(p->out, greedy), "%s", what))
    show(p);
}

/* ---- prompts */

static void test_prompts(void)
{
  Proc p = GREEDILY("no", "-p", prompt);

  greedy = p.out;
  tally(!p.status && p.out_len > 60 && !strncmp(p.out, prompt, strlen(prompt)),
        "-p: the prompt is continued");
  tally(p.out_len && p.out[p.out_len - 1] == '\n', "the text ends with a newline");
  p = GREEDILY("no", prompt);
  same(&p, "a prompt may stand by itself");
  p = GREEDILY("no", "--prompt=Once upon a time");
  same(&p, "or behind =");
  p = GREEDILY("no", "--", prompt);
  same(&p, "or behind --");
  p = GREEDILY("Once upon a time\n", NULL);
  same(&p, "or come through a pipe");
  scene_write(arena_printf(&arena, "%s/prompt.txt", dir), "Once upon a time\n", 17, 0644);
  p = GREEDILY("no", "-f", "prompt.txt");
  same(&p, "or from a file");
  p = GREEDILY("Once upon a time", "-f", "-");
  same(&p, "-f - is standard input");
  p = GREEDILY("", NULL);
  tally(!p.status && p.out_len > 20, "an empty prompt begins a text");
  p = GREEDILY("no", "-p", "Zwölf \xf0\x9f\x98\x80 Boxkämpfer \xff\xfe");
  tally(!p.status && p.out_len > 20, "any bytes are a prompt");
}

static void test_token_ids(void)
{
  Proc text = proc(&arena, HOW(.dir = dir), "./story", "-p", prompt, "-n", "20", "--temp", "0", "--json");
  cJSON *json = cJSON_Parse(text.out), *id;
  Text ids = {.arena = &arena}, want = {.arena = &arena};

  cJSON_ArrayForEach(id, cJSON_GetObjectItem(json, "prompt_tokens"))
      text_printf(&ids, "%s%d", ids.len ? "," : "", id->valueint);
  cJSON_ArrayForEach(id, cJSON_GetObjectItem(json, "tokens"))
      text_printf(&want, "%s%d", want.len ? " " : "", id->valueint);
  text_printf(&want, "\n");
  Proc p = proc(&arena, HOW(.dir = dir), "./story", "--token-ids", ids.data, "-n", "20", "--temp", "0");
  if (!tally(!p.status && !strcmp(p.out, want.data), "--token-ids continues with ids, as the text does"))
    show(&p);
  cJSON_Delete(json);
}

/* ---- --json */

static bool number(const cJSON *json, const char *name, double least)
{
  const cJSON *n = cJSON_GetObjectItem(json, name);
  return tally(cJSON_IsNumber(n) && n->valuedouble >= least, "--json: %s is a number from %g", name, least);
}

static bool ids_below(const cJSON *list, int n_vocab, int n)
{
  const cJSON *id;

  if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != n)
    return false;
  cJSON_ArrayForEach(id, list) if (!cJSON_IsNumber(id) || id->valueint < 0 ||
                                   id->valueint >= n_vocab) return false;
  return true;
}

static void test_json(void)
{
  Proc p = GREEDILY("", "-p", prompt, "--json", "-t", "2", "-s", "7");
  cJSON *json = cJSON_Parse(p.out), *timings = cJSON_GetObjectItem(json, "timings"),
        *text = cJSON_GetObjectItem(json, "text"), *stop = cJSON_GetObjectItem(json, "stop_reason");
  int n_prompt = cJSON_GetArraySize(cJSON_GetObjectItem(json, "prompt_tokens"));

  tally(!p.status && !p.err_len && cJSON_IsObject(json), "--json prints one JSON object");
  tally(n_prompt > 1 && ids_below(cJSON_GetObjectItem(json, "prompt_tokens"), N_VOCAB, n_prompt),
        "--json: prompt_tokens are ids");
  tally(ids_below(cJSON_GetObjectItem(json, "tokens"), N_VOCAB, 30),
        "--json: tokens are as many ids as asked for");
  tally(cJSON_IsString(text) &&
            !strncmp(greedy + strlen(prompt), text->valuestring, strlen(text->valuestring)),
        "--json: text is what would be printed behind the prompt");
  tally(cJSON_IsString(stop) && !strcmp(stop->valuestring, "limit"), "--json: stop_reason is limit");
  number(timings, "load_ms", 0);
  number(timings, "prompt_n", n_prompt);
  number(timings, "prompt_ms", 1e-6);
  number(timings, "prompt_per_second", 1);
  number(timings, "predicted_n", 29);
  number(timings, "predicted_ms", 1e-6);
  number(timings, "predicted_per_second", 1);
  number(json, "memory_bytes", 100000);
  cJSON_Delete(json);
}

static void stops(const char *program, const char *reason, const char *option, const char *says)
{
  Proc p = proc(&arena, HOW(.dir = dir), program, "-p", prompt, "--json", "--temp", "0", option);
  cJSON *json = cJSON_Parse(p.out), *stop = cJSON_GetObjectItem(json, "stop_reason");

  if (!tally(!p.status && cJSON_IsString(stop) && !strcmp(stop->valuestring, reason) && has(p.err, says),
             "%s %s: stop_reason %s %s", program, option, reason, says))
    show(&p);
  cJSON_Delete(json);
}

/* The model itself does not end its texts; a copy whose end-of-text token is the full stop does. */
static void test_stop_reasons(void)
{
  static const char key[] = "tokenizer.ggml.eos_token_id";
  static const uint32_t full_stop = 426;
  const char *path = arena_printf(&arena, "%s/dot.gguf", dir);
  Bytes b;
  char *found = scene_read(&arena, model, &b) ? memmem(b.data, b.len, key, sizeof key - 1) : NULL;

  stops("./story", "context", "--ignore-eos", "context of 2048 tokens is full");
  if (!tally(found, "the model names its end of text"))
    return;
  memcpy(found + sizeof key - 1 + 4, &full_stop, sizeof full_stop); /* behind the value's type */
  scene_write(path, b.data, b.len, 0644);
  Proc p = proc(&arena, HOW(.dir = dir), MICC_EXE, "dot.gguf");
  stops("./dot", "eog", "-n100", "");
  stops("./dot", "context", "--ignore-eos", "full");
  p = proc(&arena, HOW(.dir = dir), "./dot", "-p", prompt, "-n", "100", "--temp", "0");
  tally(p.out_len > sizeof prompt && !strncmp(p.out, greedy, p.out_len - 1) && p.out[p.out_len - 2] == '.',
        "the text ends with that token");
  unlink(path);
  unlink(arena_printf(&arena, "%s/dot", dir));
}

/* ---- what it tells and writes */

static void test_about(void)
{
  static const char *const lines[] = {
      "model: ",
      "family: llama",
      "source: stories260K.gguf",
      "license: ",
      "format: GGUF v3",
      "precision: f32",
      "tokenizer: ",
      "memory: ",
      "target: x86_64",
      ("compiler: micc " MICC_VERSION),
      "source sha256: 270cba1bd5109f42d03350f60406024560464db173c0e387d91f0426d3bd256d"};
  Proc p = proc(&arena, HOW(.dir = dir), "./story", "--about");

  for (size_t i = 0; i < COUNT(lines); i++)
    tally(has(p.out, lines[i]), "--about tells %s", lines[i]);
  p = proc(&arena, HOW(.dir = dir), "./story", "--help");
  tally(!p.status && proc_lines(p.out) <= 24 && has(p.out, "--top-k"), "--help fits a screen");
  p = proc(&arena, HOW(.dir = dir), "./story", "--version");
  tally(!p.status && has(p.out, MICC_VERSION) && proc_lines(p.out) == 1, "--version");
  p = proc(&arena, HOW(.dir = dir), "./story", "-p", prompt, "-n", "5", "--profile");
  tally(!p.status && has(p.err, "GB/s") && has(p.err, "attention"), "--profile");
}

static void test_logits(void)
{
  const char *path = arena_printf(&arena, "%s/l.f32", dir);
  Proc p = proc(&arena, HOW(.dir = dir), "./story", "-p", prompt, "-n", "0", "--logits", "l.f32", "--json");
  cJSON *json = cJSON_Parse(p.out);
  int n = cJSON_GetArraySize(cJSON_GetObjectItem(json, "prompt_tokens"));

  tally(!p.status && n > 1 && scene_size(path) == 4ll * n * N_VOCAB,
        "--logits: a row for each token of the prompt");
  tally(!strcmp(scene_names(&arena, dir), "l.f32 prompt.txt story"), "and no other file");
  p = proc(&arena, HOW(.dir = dir), "./story", "-p", prompt, "-n", "2", "--logits", "/dev/full");
  tally(p.status == 1 && has(p.err, "/dev/full: No space left"), "--logits on a full disk fails");
  unlink(path);
  cJSON_Delete(json);
}

/* Numbers do not depend on threads, nor on how a prompt came in. */
static void test_threads(void)
{
  static const char *const threads[] = {"1", "2", "3", "4", "64"};

  for (size_t i = 0; i < COUNT(threads); i++) {
    Proc p = GREEDILY("", "-p", prompt, "-t", threads[i]);
    same(&p, arena_printf(&arena, "-t %s gives the same text", threads[i]));
  }
}

static void test_sampling(void)
{
  Proc a = proc(&arena, HOW(.dir = dir), "./story", "-p", prompt, "-n", "40", "-s", "5");
  Proc b = proc(&arena, HOW(.dir = dir), "./story", "-p", prompt, "-n", "40", "--seed", "5", "-t", "1");
  Proc c = proc(&arena, HOW(.dir = dir), "./story", "-p", prompt, "-n", "40", "--seed", "6");

  tally(!a.status && !strcmp(a.out, b.out), "the same seed, the same text");
  tally(!c.status && strcmp(a.out, c.out), "another seed, another text");
  Proc k = GREEDILY("", "-p", prompt, "--temp", "5", "--top-k", "1");
  same(&k, "--top-k 1 is greedy at any temperature");
  Proc p = GREEDILY("", "-p", prompt, "--temp", "5", "--min-p", "1");
  same(&p, "so is --min-p 1");
  p = GREEDILY("", "-p", prompt, "--repeat-penalty", "1.5");
  tally(!p.status && strcmp(p.out, greedy), "--repeat-penalty changes the text");
}

/* ---- wrong use */

typedef struct {
  const char *args[5];
  int status;
  const char *says;
} Wrong;

static const Wrong wrongs[] = {
    {{"--bogus"}, 2, "--bogus"},
    {{"-z"}, 2, "-z"},
    {{"-p"}, 2, "-p"},
    {{"-p", "a", "b"}, 2, "'b'"},
    {{"a", "b"}, 2, "'b'"},
    {{"-p", "a", "-f", "b"}, 2, "-f"},
    {{"-n", "x"}, 2, "'x'"},
    {{"-n", "-2"}, 2, "-2"},
    {{"-n", "1e3"}, 2, "1e3"},
    {{"-t", "0"}, 2, "--threads"},
    {{"-t", "99999"}, 2, "--threads"},
    {{"--temp", "hot"}, 2, "'hot'"},
    {{"--temp", "-1"}, 2, "--temp"},
    {{"--temp", "nan"}, 2, "'nan'"},
    {{"--top-p", "1.5"}, 2, "--top-p"},
    {{"--json=1"}, 2, "--json"},
    {{"--token-ids", "1,,2"}, 2, "--token-ids"},
    {{"--token-ids", "512"}, 2, "512"},
    {{"--token-ids", "99999999999999999999999"}, 2, "--token-ids"},
    {{"-f", "missing.txt"}, 1, "missing.txt"},
    {{"-f", "/"}, 1, "directory"},
    {{"-p", "x", "--logits", "no/such/folder"}, 1, "no/such/folder"},
};

static void test_wrong(void)
{
  for (size_t i = 0; i < COUNT(wrongs); i++) {
    const char *argv[8] = {"./story"};
    Text words = {.arena = &arena};
    text_printf(&words, "./story");
    for (size_t k = 0; k < COUNT(wrongs[i].args) && wrongs[i].args[k]; k++) {
      argv[k + 1] = wrongs[i].args[k];
      text_printf(&words, " %s", argv[k + 1]);
    }
    Proc p = proc_run(&arena, HOW(.dir = dir), argv);
    if (!tally(p.status == wrongs[i].status && proc_lines(p.err) == 1 && has(p.err, wrongs[i].says) &&
                   !p.out_len,
               "wrong: %s", words.data))
      show(&p);
  }
}

/* A prompt that does not fit is told with both numbers. */
static void test_long_prompt(void)
{
  Text t = {.arena = &arena};

  for (int i = 0; i < 3000; i++)
    text_printf(&t, "word ");
  Proc p = proc(&arena, HOW(.dir = dir, .input = t.data), "./story", "-n", "1");
  if (!tally(p.status == 1 && proc_lines(p.err) == 1 && has(p.err, "2048"),
             "a prompt beyond the context: one line"))
    show(&p);
}

/* ---- stopped */

static void test_streams(void)
{
  Proc p = proc(&arena, HOW(.dir = dir, .out_path = "/dev/full"), "./story", "-p", prompt, "-n", "20");
  tally(p.status == 1 && has(p.err, "No space left") && proc_lines(p.err) == 1, "./story > /dev/full fails");
  p = proc(&arena, HOW(.dir = dir, .closed = 2), "./story", "-p", prompt, "-n", "20");
  tally(p.status == 1 && proc_lines(p.err) == 1, "so it does when standard output is closed");
  p = proc(&arena, HOW(.dir = dir, .closed = 1), "./story", "-n", "20");
  tally(p.status == 1 && proc_lines(p.err) == 1, "and when the prompt should come from a closed input");
  p = proc(&arena, HOW(.dir = dir, .closed = 6), "./story", "-p", prompt, "-n", "2", "--logits", "l.f32");
  tally(p.status == 1 && scene_size(arena_printf(&arena, "%s/l.f32", dir)) < 0,
        "text never ends up in a file of logits");
  p = proc(&arena, HOW(.dir = dir), "sh", "-c",
           "./story -p 'Once upon' -n 500 --ignore-eos | head -c 10; wait");
  tally(!p.status && p.out_len == 10 && !p.err_len, "a reader that goes away ends it quietly");
}

/* Compiled with so much context that it would go on for minutes. */
static void test_interrupt(void)
{
  static const int signals[] = {SIGINT, SIGTERM};

  Proc p = proc(&arena, HOW(.dir = dir), MICC_EXE, model, "-o", "long", "-c", "1000000");
  for (size_t i = 0; i < COUNT(signals); i++) {
    p = proc(&arena, HOW(.dir = dir, .until = "", .signal = signals[i], .signal_ms = 150), "./long", "-p",
             prompt, "--ignore-eos");
    tally(p.status == 128 + signals[i] && p.wall_ms < 20000, "signal %d ends the program, exit status %d",
          signals[i], p.status);
    if (signals[i] == SIGINT)
      tally(p.out_len > strlen(prompt) && p.out[p.out_len - 1] == '\n' && !p.err_len,
            "Ctrl-C: what was written ends with a newline");
  }
  p = proc(&arena, HOW(.dir = dir, .signal = SIGINT, .signal_ms = 400), "./long", "-p", prompt,
           "--ignore-eos", "--json", "--logits", "l.f32");
  cJSON *json = cJSON_Parse(p.out), *stop = cJSON_GetObjectItem(json, "stop_reason");
  if (!tally(p.status == 130 && cJSON_IsString(stop) && !strcmp(stop->valuestring, "interrupt"),
             "Ctrl-C: the JSON object is whole"))
    show(&p);
  tally(!strcmp(scene_names(&arena, dir), "long prompt.txt story"), "and no half a file is left");
  cJSON_Delete(json);
}

/* ---- typed at a terminal */

/* Waits for "> ", types, and reads to the end; *status as waitpid() gives it. */
static const char *typed(const char *keys, int *status)
{
  Text t = {.arena = &arena};
  char buf[4096];
  int fd;
  bool asked = false;
  pid_t pid = forkpty(&fd, NULL, NULL, NULL);

  text_add(&t, "", 0);
  if (pid < 0)
    return t.data;
  if (!pid) {
    if (!chdir(dir))
      execl("./story", "./story", "-n", "30", "--temp", "0", (char *)NULL);
    _exit(127);
  }
  for (ssize_t n; (n = read(fd, buf, sizeof buf)) > 0;) {
    text_add(&t, buf, (size_t)n);
    if (!asked && has(t.data, "> ")) {
      asked = true;
      if (write(fd, keys, strlen(keys)) < 0)
        break;
    }
  }
  waitpid(pid, status, 0);
  close(fd);
  return t.data;
}

/* A terminal writes "\r\n" for "\n". */
static void test_terminal(void)
{
  static const char begin[] = "> Once upon a time\r\nOnce upon a time, there";
  int status = -1;
  const char *text = typed("Once upon a time\n", &status);

  tally(WIFEXITED(status) && !WEXITSTATUS(status) && !strncmp(text, begin, sizeof begin - 1),
        "at a terminal it asks for a prompt, and continues one line");
  text = typed("Once\x03", &status);
  tally(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT, "Ctrl-C instead ends it at once");
  text = typed("\x04", &status);
  tally(WIFEXITED(status) && !WEXITSTATUS(status) && strlen(text) > 20, "end of input: an empty prompt");
}

int main(void)
{
  if (!MICC_HAVE_LLVM) {
    tally_skip("micc was built without LLVM, so it makes no programs");
    return tally_end();
  }
  dir = scene_open(&arena);
  Proc p = proc(&arena, HOW(.dir = dir), MICC_EXE, model, "-o", "story");
  if (tally(!p.status, "micc MODEL -o story")) {
    test_prompts();
    test_token_ids();
    test_json();
    test_stop_reasons();
    test_about();
    test_logits();
    test_threads();
    test_sampling();
    test_wrong();
    test_long_prompt();
    test_streams();
    test_interrupt();
    test_terminal();
  }
  scene_close(dir);
  arena_free(&arena);
  return tally_end();
}
