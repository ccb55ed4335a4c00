/* program.c - the command line of a compiled program: options, exit statuses, messages, output, files.
 * The program is the sample of the contract, run by mi_main() in a child process. */
#include "runtime-min/mi_main.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONTRACT_NO_MAIN
#include "../../samples/contract/contract.c"

enum { TEXT_MAX = 1 << 14, ARGS_MAX = 16 };

typedef struct {
  int status; /* exit status, or -signal */
  char out[TEXT_MAX], err[TEXT_MAX];
} Result;

static void read_back(int fd, char *text)
{
  ssize_t n = pread(fd, text, TEXT_MAX - 1, 0);

  cr_assert_geq(n, 0);
  text[n] = 0;
  close(fd);
}

static int unnamed_file(void)
{
  char name[] = "/tmp/micc-program-XXXXXX";
  int fd = mkstemp(name);

  cr_assert_geq(fd, 0);
  unlink(name);
  return fd;
}

/* Runs the program with these words (cut at spaces) and this standard input. out_fd -1: collect. */
static Result run_with(MiKernel *const *kernels, const char *words, const char *input, int out_fd)
{
  static char copy[1024], name[] = "some/where/count";
  char *argv[ARGS_MAX + 1] = {name};
  int argc = 1, out = out_fd < 0 ? unnamed_file() : out_fd, err = unnamed_file(), in = unnamed_file();
  Result r = {0};

  snprintf(copy, sizeof copy, "%s", words);
  for (char *w = strtok(copy, " "); w && argc < ARGS_MAX; w = strtok(NULL, " "))
    argv[argc++] = w;
  cr_assert_eq(pwrite(in, input, strlen(input), 0), (ssize_t)strlen(input));
  fflush(NULL);
  pid_t child = fork();
  if (child == 0) {
    dup2(in, 0);
    dup2(out, 1);
    dup2(err, 2);
    _exit(mi_main(&image.header, kernels, argc, argv));
  }
  cr_assert_eq(waitpid(child, &r.status, 0), child);
  r.status = WIFEXITED(r.status) ? WEXITSTATUS(r.status) : -WTERMSIG(r.status);
  close(in);
  if (out_fd < 0)
    read_back(out, r.out);
  read_back(err, r.err);
  return r;
}

static Result run(const char *words)
{
  return run_with(mi_kernels, words, "", -1);
}

/* ---- usage */

typedef struct {
  const char *words;
  int status;
  const char *message;
} Wrong;

static const Wrong wrong[] = {
    {"--foo", 2, "count: unknown option --foo (see --help)\n"},
    {"-x", 2, "count: unknown option -x"},
    {"--prompts x", 2, "unknown option --prompts"},
    {"--promp x", 2, "unknown option --promp"},
    {"-n", 2, "count: -n needs a value"},
    {"--token-ids", 2, "--token-ids needs a value"},
    {"--json=1", 2, "--json takes no value"},
    {"-n x", 2, "--n-predict: 'x' is not a whole number"},
    {"-n 1.5", 2, "--n-predict: '1.5' is not a whole number"},
    {"-n 5x", 2, "--n-predict: '5x' is not a whole number"},
    {"-n 99999999999999999999999", 2, "--n-predict"},
    {"-n=5", 2, "--n-predict: '=5' is not"},
    {"-n -2", 2, "--n-predict: -2 is out of range"},
    {"-t 0", 2, "--threads: 0 is out of range (1 to 1024)"},
    {"-t 5000", 2, "--threads: 5000 is out of range"},
    {"--temp warm", 2, "--temp: 'warm' is not a number"},
    {"--temp -1", 2, "--temp: -1 is out of range"},
    {"--temp nan", 2, "--temp: 'nan' is not a number"},
    {"--temp 1e", 2, "--temp: '1e' is not a number"},
    {"--temp 1e999", 2, "--temp: 1e999 is out of range"},
    {"--top-p 1.01", 2, "--top-p: 1.01 is out of range (0 to 1)"},
    {"--min-p=2", 2, "--min-p: 2 is out of range"},
    {"--repeat-penalty 0", 2, "--repeat-penalty: 0 is out of range (0.001 to 1000)"},
    {"--seed 4294967296", 2, "--seed: 4294967296 is out of range"},
    {"a b", 2, "more than one prompt: 'b'"},
    {"-p a b", 2, "more than one prompt"},
    {"-p a -f b", 2, "more than one prompt: give one of"},
    {"-f a --token-ids 1", 2, "more than one prompt: give one of"},
    {"-p text", 2, "this model has no tokenizer: give --token-ids"},
    {"", 2, "this model has no tokenizer"},
    {"--token-ids 16", 2, "16 is not in the vocabulary of 16"},
    {"--token-ids 99999999999999999999", 2, "is not in the vocabulary"},
    {"--token-ids 1,,2", 2, "--token-ids: numbers with commas between them are needed, not ',2'"},
    {"--token-ids 1,", 2, "--token-ids: numbers"},
    {"--token-ids -1", 2, "--token-ids: numbers"},
    {"--token-ids 1x", 2, "--token-ids: numbers"},
    {"--token-ids 1,1,1,1,1,1,1,1,1,1,1,1,1", 1, "the prompt has 13 tokens, but the context holds 12"},
    {"--token-ids 1 --logits /nowhere/x", 1, "cannot create /nowhere/x."},
};

Test(program, wrong_options_are_reported)
{
  for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
    Result r = run(wrong[i].words);
    cr_assert_eq(r.status, wrong[i].status, "'%s' gave status %d", wrong[i].words, r.status);
    cr_assert_not_null(strstr(r.err, wrong[i].message), "'%s': %s", wrong[i].words, r.err);
    cr_assert_eq(strchr(r.err, '\n'), r.err + strlen(r.err) - 1, "one line: %s", r.err);
    cr_assert_str_empty(r.out);
  }
}

Test(program, help_fits_a_screen)
{
  Result r = run("--help");
  int lines = 0, column = 0;

  cr_assert_eq(r.status, 0);
  for (const char *p = r.out; *p; p++) {
    column = *p == '\n' ? 0 : column + 1;
    lines += *p == '\n';
    cr_assert_leq(column, 80);
  }
  cr_assert_leq(lines, 24);
  cr_assert_not_null(strstr(r.out, "  -n, --n-predict N "));
}

Test(program, tells_about_itself)
{
  Result r = run("--about");

  cr_assert_eq(r.status, 0);
  cr_assert_eq(strncmp(r.out, "model: a counter by hand\n", 25), 0);
  cr_assert_not_null(strstr(r.out, "\nmemory_states: 48 bytes\n"));
  r = run("--version");
  cr_assert_eq(r.status, 0);
  cr_assert_str_eq(r.out, "count, image version 4\n");
}

/* ---- generation */

Test(program, greedy_counts_whatever_the_threads)
{
  static const char *const threads[] = {"-t 1", "-t 2", "-t 3", "-t5", "--threads=2", ""};

  for (size_t i = 0; i < sizeof threads / sizeof *threads; i++) {
    char words[128];
    snprintf(words, sizeof words, "--token-ids 9,1,2,3,4,5 -n 4 --temp 0 %s", threads[i]);
    Result r = run(words);
    cr_assert_eq(r.status, 0, "%s", r.err);
    cr_assert_str_eq(r.out, "6 7 8 9\n");
    cr_assert_str_empty(r.err);
  }
}

Test(program, full_context_ends_with_a_message)
{
  Result r = run("--token-ids 0,1,2,3 --temp 0");

  cr_assert_eq(r.status, 0);
  cr_assert_str_eq(r.out, "4 5 6 7 8 9 10 11 12\n"); /* the last from the logits of position 11 */
  cr_assert_str_eq(r.err, "count: the context of 12 tokens is full (-c at compile time raises it)\n");
  r = run("--token-ids 0,1,2,3,4,5,6,7,8,9,10,11 --temp 0 -n 1");
  cr_assert_str_eq(r.out, "12\n");
  cr_assert_str_empty(r.err);
}

Test(program, same_seed_same_text)
{
  const char *words = "--token-ids 5 --temp 9 --min-p 0 --top-p 1 --top-k 0 -n 9 -s 77";
  Result a = run(words), b = run(words);

  cr_assert_str_eq(a.out, b.out);
  b = run("--token-ids 5 --temp 9 --min-p 0 --top-p 1 --top-k 0 -n 9 -s 78");
  cr_assert_str_neq(a.out, b.out);
}

Test(program, json_is_one_object)
{
  static const char begin[] = "{\"prompt_tokens\": [3, 4],\n \"tokens\": [5, 6, 7],\n \"text\": null,\n"
                              " \"stop_reason\": \"limit\",\n \"timings\": {\"load_ms\": ";
  Result r = run("--token-ids 3,4 -n 3 --temp 0 --json --seed 12 -t 2");

  cr_assert_eq(r.status, 0);
  cr_assert_eq(strncmp(r.out, begin, sizeof begin - 1), 0, "%s", r.out);
  cr_assert_not_null(strstr(r.out, "\"prompt_n\": 2, "));
  cr_assert_not_null(strstr(r.out, "\"predicted_n\": 2, "));
  cr_assert_not_null(strstr(r.out, "},\n \"memory_bytes\": "));
  cr_assert_not_null(strstr(r.out, ",\n \"seed\": 12,\n \"threads\": 2}\n"));
  r = run("--token-ids 3 --temp 0 --json");
  cr_assert_not_null(strstr(r.out, "\"stop_reason\": \"context\""));
  r = run("--token-ids 3 -n 0 --json");
  cr_assert_not_null(strstr(r.out, "\"tokens\": [],"));
}

Test(program, profile_groups_launches)
{
  Result r = run("--token-ids 1,2,3,4,5,6 -n 2 --temp 0 --profile");

  cr_assert_eq(r.status, 0);
  cr_assert_str_eq(r.out, "7 8\n");
  cr_assert_not_null(strstr(r.err, "prefill   "));
  cr_assert_not_null(strstr(r.err, "  head, keep                        2 "));
  cr_assert_not_null(strstr(r.err, "Gop/s not known (MICC_PEAK_GOPS)\n"));
  setenv("MICC_PEAK_GOPS", "640", 1);
  r = run("--token-ids 1,2,3,4,5,6 -n 2 --temp 0 --profile -t 2");
  cr_assert_not_null(strstr(r.err, "max of 2 threads: "));
  cr_assert_not_null(strstr(r.err, "; 640 Gop/s, as MICC_PEAK_GOPS says\n"));
  cr_assert_not_null(strstr(r.err, "%\n"));
}

/* ---- logits */

Test(program, logits_rows_are_written)
{
  char path[] = "/tmp/micc-logits-XXXXXX", words[128];
  float row[5 * VOCAB + 1];

  close(mkstemp(path));
  snprintf(words, sizeof words, "--token-ids 3,9,1 -n 2 --temp 0 --logits %s", path);
  Result r = run(words);
  cr_assert_eq(r.status, 0, "%s", r.err);
  cr_assert_str_eq(r.out, "2 3\n");
  int fd = open(path, O_RDONLY);
  cr_assert_eq(read(fd, row, sizeof row), 5 * VOCAB * 4);
  close(fd);
  static const int best[] = {4, 10, 2, 3, 4};
  for (int i = 0; i < 5; i++)
    for (int v = 0; v < VOCAB; v++)
      cr_assert_eq(row[i * VOCAB + v], 1 - (float)((v - best[i]) * (v - best[i])));
  snprintf(words, sizeof words, "--token-ids 3,9,1 -n 0 --logits %s", path);
  r = run(words);
  fd = open(path, O_RDONLY);
  cr_assert_eq(read(fd, row, sizeof row), 3 * VOCAB * 4);
  close(fd);
  unlink(path);
}

/* ---- trouble on the way */

static void interrupting(uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi)
{
  embed(buf, args, lo, hi);
  if (args[0] == 5)
    raise(SIGINT);
}

static void broken(uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi)
{
  (void)args;
  for (int64_t v = lo; v < hi; v++)
    ((float *)(void *)buf[2])[v] = __builtin_nanf("");
}

Test(program, interrupt_ends_after_the_token)
{
  MiKernel *const kernels[N_KERNELS] = {interrupting, keep, head};
  Result r = run_with(kernels, "--token-ids 1,2,3 --temp 0", "", -1);

  cr_assert_eq(r.status, 130);
  cr_assert_str_eq(r.out, "4 5 6\n");
  r = run_with(kernels, "--token-ids 1,2,3 --temp 0 --json", "", -1);
  cr_assert_eq(r.status, 130);
  cr_assert_not_null(strstr(r.out, "\"tokens\": [4, 5, 6],"));
  cr_assert_not_null(strstr(r.out, "\"stop_reason\": \"interrupt\""));
  r = run_with(kernels, "--token-ids 1,2,3,4,5,6 --temp 0 --json", "", -1); /* at the prompt's last token */
  cr_assert_eq(r.status, 130);
  cr_assert_not_null(strstr(r.out, "\"tokens\": [],"));
}

Test(program, unusable_logits_are_reported)
{
  MiKernel *const kernels[N_KERNELS] = {embed, keep, broken};
  Result r = run_with(kernels, "--token-ids 1,2,3", "", -1);

  cr_assert_eq(r.status, 1);
  cr_assert_not_null(strstr(r.err, "count: the model gives no usable logits at position 2"));
}

Test(program, closed_pipe_ends_quietly)
{
  int ends[2];

  cr_assert_eq(pipe(ends), 0);
  close(ends[0]);
  Result r = run_with(mi_kernels, "--token-ids 1,2,3 --temp 0", "", ends[1]);
  cr_assert_eq(r.status, 1);
  cr_assert_str_empty(r.err);
  close(ends[1]);
}

Test(program, full_disk_is_reported)
{
  int fd = open("/dev/full", O_WRONLY);

  if (fd < 0) {
    puts("skipped: no /dev/full");
    return;
  }
  Result r = run_with(mi_kernels, "--token-ids 1,2,3 --temp 0", "", fd);
  cr_assert_eq(r.status, 1);
  cr_assert_str_eq(r.err, "count: cannot write the output: No space left on device\n");
  close(fd);
  r = run("--token-ids 1 --logits /dev/full");
  cr_assert_eq(r.status, 1);
  cr_assert_str_eq(r.err, "count: cannot write /dev/full: No space left on device\n");
  fd = open("/dev/full", O_WRONLY);
  cr_assert(write(fd, "x", 1) < 0, "the device was replaced by a file");
  close(fd);
}
