/* main.c - the `micc` command: which command, which options. */
#include "driver/driver.h"

#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "codegen/package.h"
#include "driver/inspect.h"

static const char usage[] =
    "usage: micc [options] MODEL.gguf -o PROGRAM      compile a model to one static executable\n"
    "       micc run [options] MODEL.gguf [-p TEXT]   compile in memory and run; takes the program's options "
    "too\n"
    "       micc inspect MODEL.gguf [--json]          what is in a model file\n"
    "       micc targets | ops | passes               what this micc knows\n"
    "\n"
    "  -o FILE           what to write (default: the model's name, without its ending)\n"
    "  --emit=KIND       exe (default), obj, c, llvm, asm, graph, kernels, plan; text goes to standard "
    "output\n"
    "                    without -o\n"
    "  --cpu=NAME        x86-64-v2, x86-64-v3 (default), x86-64-v4, cascadelake, ... or native; see micc "
    "targets\n"
    "  -c, --context=N   capacity in tokens (default: the model's own limit, at most 4096)\n"
    "  --prefill=N       tokens in a tile of the prompt (default 96; 0: none, token by token)\n"
    "  -O0 .. -O3        effort of LLVM (default 2)\n"
    "  --backend=KIND    of run: llvm (default) or tcc\n"
    "  --oracle          of run: through the interpreter of the graph, slow and plain\n"
    "  --print-after=P   print what pass P leaves (or all); see micc passes\n"
    "  --time-passes     print how long each pass takes\n"
    "  -v, --verbose     sizes and times;  --version;  -h, --help\n";

enum { O_EMIT = 256, O_CPU, O_PREFILL, O_BACKEND, O_ORACLE, O_PRINT, O_TIME, O_VERSION };

static const struct option longs[] = {
    {"emit", required_argument, NULL, O_EMIT},
    {"cpu", required_argument, NULL, O_CPU},
    {"context", required_argument, NULL, 'c'},
    {"prefill", required_argument, NULL, O_PREFILL},
    {"backend", required_argument, NULL, O_BACKEND},
    {"oracle", no_argument, NULL, O_ORACLE},
    {"print-after", required_argument, NULL, O_PRINT},
    {"time-passes", no_argument, NULL, O_TIME},
    {"verbose", no_argument, NULL, 'v'},
    {"version", no_argument, NULL, O_VERSION},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static const char *const emits[EMIT_COUNT] = {"exe", "obj", "c", "llvm", "asm", "graph", "kernels", "plan"};

static int wrong(const char *what, const char *value)
{
  fprintf(stderr, "micc: %s '%s'; see micc --help\n", what, value);
  return 2;
}

static bool number(const char *s, uint32_t max, uint32_t *out)
{
  char *end;
  unsigned long v = strtoul(s, &end, 10);

  if (*s < '0' || *s > '9' || *end || v > max)
    return false;
  *out = (uint32_t)v;
  return true;
}

static int set_emit(Options *o, const char *value)
{
  for (int i = 0; i < EMIT_COUNT; i++)
    if (!strcmp(value, emits[i])) {
      o->emit = (Emit)i;
      return 0;
    }
  fprintf(stderr, "micc: cannot emit '%s'; known: exe, obj, c, llvm, asm, graph, kernels, plan\n", value);
  return 2;
}

/* One option; 0, an exit status, or -1: done, leave with success. */
static int set_option(Options *o, int option, const char *value)
{
  switch (option) {
  case 'o': o->output = value; return 0;
  case 'c':
    return number(value, 1u << 20, &o->context) && o->context ? 0 : wrong("no such context size:", value);
  case 'O':
    o->opt_level = value[0] - '0';
    return value[0] >= '0' && value[0] <= '3' && !value[1] ? 0
                                                           : wrong("no such level of optimisation:", value);
  case 'v': o->verbose = true; return 0;
  case O_EMIT: return set_emit(o, value);
  case O_CPU: o->cpu = value; return 0;
  case O_PREFILL:
    return number(value, 4096, &o->prefill_tokens) ? 0 : wrong("no such number of tokens:", value);
  case O_BACKEND:
    o->tcc = !strcmp(value, "tcc");
    return o->tcc || !strcmp(value, "llvm") ? 0 : wrong("no such backend:", value);
  case O_ORACLE: o->oracle = true; return 0;
  case O_PRINT: o->print_after = value; return 0;
  case O_TIME: o->time_passes = true; return 0;
  case O_VERSION: printf("micc %s\n", MICC_VERSION); return -1;
  case 'h': fputs(usage, stdout); return -1;
  default: return 2;
  }
}

static int parse_compile(Options *o, int argc, char **argv)
{
  int option, status;

  while ((option = getopt_long(argc, argv, "o:c:O:vh", longs, NULL)) != -1)
    if ((status = set_option(o, option, optarg)))
      return status;
  if (optind == argc) {
    fputs("micc: no model file given; see micc --help\n", stderr);
    return 2;
  }
  if (argc - optind > 1)
    return wrong("one model at a time; not expected:", argv[optind + 1]);
  o->model = argv[optind];
  return 0;
}

/* ---- micc run: our options are taken out, the rest is the program's */

static const struct option *own_long(const char *arg, const char **value)
{
  size_t len = strcspn(arg + 2, "=");

  for (const struct option *l = longs; l->name; l++)
    if (strlen(l->name) == len && !strncmp(l->name, arg + 2, len) && l->val != 'h' && l->val != O_VERSION) {
      *value = arg[2 + len] ? arg + 3 + len : NULL;
      return l;
    }
  return NULL;
}

/* Options of programs that take a value as the next word: it is not looked at. */
static bool takes_value(const char *arg)
{
  static const char *const names[] = {
      "-p",        "--prompt", "-f",          "--file",  "-n",      "--n-predict",      "-t",
      "--threads", "--temp",   "--top-k",     "--top-p", "--min-p", "--repeat-penalty", "--repeat-last-n",
      "-s",        "--seed",   "--token-ids", "--logits"};
  for (size_t i = 0; i < COUNT(names); i++)
    if (!strcmp(arg, names[i]))
      return true;
  return false;
}

/* Consumes argv[*i] (and its value) if it is ours. 1: it was; 0: not ours; else an exit status. */
static int own_option(Options *o, int argc, char **argv, int *i)
{
  const char *arg = argv[*i], *value = NULL;
  int option = 0, status;

  if (!strncmp(arg, "--", 2) && arg[2]) {
    const struct option *l = own_long(arg, &value);
    if (!l)
      return 0;
    option = l->val;
    if (l->has_arg == required_argument && !value)
      value = *i + 1 < argc ? argv[++*i] : NULL;
    if (l->has_arg == required_argument && !value)
      return wrong("no value for", arg);
  } else if (!strcmp(arg, "-c") || !strcmp(arg, "-v") || (!strncmp(arg, "-O", 2) && arg[2])) {
    option = arg[1];
    value = option == 'O' ? arg + 2 : option == 'c' ? (*i + 1 < argc ? argv[++*i] : "") : NULL;
  } else {
    return 0;
  }
  status = set_option(o, option, value);
  return status ? status : 1;
}

static int run(Options *o, int argc, char **argv)
{
  char **rest = calloc((size_t)argc + 2, sizeof *rest);
  int n = 1, status = 0;

  if (!rest)
    return 1;
  for (int i = 1; i < argc && !status; i++) {
    int own = own_option(o, argc, argv, &i);
    if (own > 1)
      status = own;
    else if (own)
      continue;
    else if (!o->model && argv[i][0] != '-')
      o->model = rest[0] = argv[i];
    else {
      rest[n++] = argv[i];
      if (takes_value(argv[i]) && i + 1 < argc)
        rest[n++] = argv[++i];
    }
  }
  for (int i = 1; i < n; i++)
    if (!o->model && (!strcmp(rest[i], "-h") || !strcmp(rest[i], "--help"))) {
      fputs(usage, stdout);
      free(rest);
      return 0;
    }
  if (!status && !o->model) {
    fputs("micc: run: no model file given; see micc --help\n", stderr);
    status = 2;
  }
  if (!status)
    status = o->oracle ? cmd_oracle(o, n, rest) : cmd_run(o, n, rest);
  free(rest);
  return status;
}

/* ---- lists */

static int list_targets(void)
{
  for (unsigned i = 0; i < target_count; i++) {
    const Target *t = &target_table[i];
    printf("%-20s %-18s %2u-byte vectors, %u registers%s%s%s\n", t->name, t->triple ? t->triple : "C99",
           t->vector_bytes, t->registers, t->fma ? ", fma" : "", t->dot4 ? ", 8-bit dot products" : "",
           t->runs_here && t->runs_here() ? (t == target_host() ? "  (native)" : "  (runs here)") : "");
  }
  return 0;
}

static int list_ops(void)
{
  for (int op = 1; op < OP_COUNT; op++)
    printf("%-12s %s\n", op_info[op].name, op_info[op].doc);
  return 0;
}

static void interrupted(int signal_number)
{
  file_abandon_all();
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

int main(int argc, char **argv)
{
  Options o = {.cpu = NULL, .opt_level = 2, .prefill_tokens = 96};

  if (argc > 1 && !strcmp(argv[1], "run"))
    return run(&o, argc - 1, argv + 1);
  if (argc > 1 && !strcmp(argv[1], "inspect"))
    return cmd_inspect(argc - 1, argv + 1);
  if (argc > 1 && !strcmp(argv[1], "targets"))
    return list_targets();
  if (argc > 1 && (!strcmp(argv[1], "ops") || !strcmp(argv[1], "--ops")))
    return list_ops();
  if (argc > 1 && !strcmp(argv[1], "passes")) {
    puts(passes_list());
    return 0;
  }
  int status = parse_compile(&o, argc, argv);
  if (status)
    return status < 0 ? 0 : status;
  signal(SIGINT, interrupted);
  signal(SIGTERM, interrupted);
  signal(SIGHUP, interrupted);
  return cmd_compile(&o);
}
