/* main.c - the `micc` command: which command, which options. */
#define _GNU_SOURCE
#include "driver/driver.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "codegen/package.h"
#include "driver/inspect.h"

static const char usage[] =
    "usage: micc [options] MODEL [-o PROGRAM]       compile a GGUF or ONNX model to a static executable\n"
    "       micc run [options] MODEL [-p TEXT]      compile in memory and run; takes its options too\n"
    "       micc inspect [--json] MODEL             what is in a model file\n"
    "       micc verify MODEL --case DIR            compile, run on DIR, compare with its outputs (ONNX)\n"
    "       micc targets | ops | passes             what this micc knows\n"
    "\n"
    "  -o FILE           what to write (default: the model's name, without its ending)\n"
    "  --emit=KIND       exe (default), lib, so, obj, c, llvm, asm, graph, kernels, plan; the last five\n"
    "                    are texts, for standard output; lib and so: ONNX; c writes NAME.weights too\n"
    "  --cpu=NAME,...    levels that the program has kernels for, rising; it takes the best as it starts\n"
    "                    (default: x86-64-v2,x86-64-v3,x86-64-v4+vnni), or native; see micc targets\n"
    "  -c, --context=N   capacity in tokens (default: the model's own limit, at most 4096)\n"
    "  --prefill=N       tokens in a tile of the prompt (default 264; 0: none, token by token)\n"
    "  -O0 .. -O3        effort of LLVM (default 2)\n"
    "  --shape=NAME=1x3  dimensions of an ONNX input, or --shape=N=1 of a symbolic dimension\n"
    "  --fix=NAME=1,2    an ONNX input that is constant in the program\n"
    "  --kv=TYPE         keys and values in f32, f16 or q8_0 (default: f16, but f32 if all matrices are)\n"
    "  --head=KIND       of large q8_0 heads: planes (default; reads two thirds of it) or whole\n"
    "  --backend=KIND    of run and verify: llvm (default) or tcc; --oracle of run: interpret the graph\n"
    "  --case=DIR        of verify: holds input_N and, if there are any, output_N, each .npy or .pb\n"
    "  --rtol, --atol, --steps=X   of verify: how far elements may be off (1e-3, 1e-4, 1 quantised step)\n"
    "  --print-after=P   print what pass P leaves, or all; --time-passes: how long each takes\n"
    "  -v, --verbose     sizes and times;  --version;  -h, --help\n";

enum {
  O_EMIT = 256,
  O_CPU,
  O_PREFILL,
  O_KV,
  O_HEAD,
  O_BACKEND,
  O_ORACLE,
  O_PRINT,
  O_TIME,
  O_VERSION,
  O_SHAPE,
  O_FIX,
  O_CASE,
  O_RTOL,
  O_ATOL,
  O_STEPS
};

static const struct option longs[] = {
    {"emit", required_argument, NULL, O_EMIT},
    {"cpu", required_argument, NULL, O_CPU},
    {"context", required_argument, NULL, 'c'},
    {"prefill", required_argument, NULL, O_PREFILL},
    {"kv", required_argument, NULL, O_KV},
    {"head", required_argument, NULL, O_HEAD},
    {"shape", required_argument, NULL, O_SHAPE},
    {"fix", required_argument, NULL, O_FIX},
    {"backend", required_argument, NULL, O_BACKEND},
    {"oracle", no_argument, NULL, O_ORACLE},
    {"print-after", required_argument, NULL, O_PRINT},
    {"time-passes", no_argument, NULL, O_TIME},
    {"verbose", no_argument, NULL, 'v'},
    {"version", no_argument, NULL, O_VERSION},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static const char *const emits[EMIT_COUNT] = {
#define EMIT(id, name, ending, meaning) name,
#include "driver/emit.def"
#undef EMIT
};

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
  fprintf(stderr, "micc: cannot emit '%s'; known:", value);
  for (int i = 0; i < EMIT_COUNT; i++)
    fprintf(stderr, "%s %s", i ? "," : "", emits[i]);
  fputc('\n', stderr);
  return 2;
}

static int set_cpu(Options *o, const char *value)
{
  const Target *targets[MAX_TARGETS];
  Err e = {0};

  o->cpu = value;
  if (target_list(value, targets, MAX_TARGETS, &e))
    return 0;
  fprintf(stderr, "micc: %s\n", e.text);
  return 2;
}

/* passes_list() is "a, b, c". */
static int set_print(Options *o, const char *value)
{
  size_t n = strlen(value);

  o->print_after = value;
  for (const char *p = passes_list(); *p; p += strspn(p, ", ")) {
    size_t len = strcspn(p, ", ");
    if (len == n && !memcmp(p, value, n))
      return 0;
    p += len;
  }
  if (!strcmp(value, "all"))
    return 0;
  fprintf(stderr, "micc: no pass is named '%s'; known: all, %s\n", value, passes_list());
  return 2;
}

static int set_kv(Options *o, const char *value)
{
  if (!strcmp(value, "f32"))
    o->kv = DT_F32;
  else if (!strcmp(value, "f16"))
    o->kv = DT_F16;
  else if (!strcmp(value, "q8_0"))
    o->kv = DT_Q8_0;
  else
    return wrong("no such type of the KV cache (f32, f16, q8_0):", value);
  return 0;
}

/* NAME=1x3x224x224, or N=1 for a symbolic dimension. */
static int set_shape(Options *o, const char *value)
{
  char *text = arena_strdup(&o->texts, value), *equals = strrchr(text, '='), *p = equals;
  OnnxShape *s = &o->shapes[o->n_shapes];

  if (!equals || equals == text || o->n_shapes == MAX_GIVEN)
    return wrong("--shape takes NAME=1x3x224x224, not", value);
  *equals = 0;
  *s = (OnnxShape){.name = text};
  do {
    char *end;
    unsigned long long n = strtoull(p + 1, &end, 10);
    if (p[1] < '0' || p[1] > '9' || n > INT32_MAX || s->rank == MAX_RANK || (*end && *end != 'x'))
      return wrong("--shape takes NAME=1x3x224x224, not", value);
    s->dim[s->rank++] = (int64_t)n;
    p = end;
  } while (*p);
  o->n_shapes++;
  return 0;
}

static int set_fix(Options *o, const char *value)
{
  char *text = arena_strdup(&o->texts, value), *equals = strchr(text, '=');

  if (!equals || equals == text || !equals[1] || o->n_fixes == MAX_GIVEN)
    return wrong("--fix takes NAME=VALUE[,VALUE...], not", value);
  *equals = 0;
  o->fixes[o->n_fixes++] = (OnnxFix){.name = text, .text = equals + 1};
  return 0;
}

/* One option; 0, an exit status, or -1: done, leave with success. */
static int set_option(Options *o, int option, const char *value)
{
  switch (option) {
  case 'o': o->output = value; return 0;
  case 'c':
    return number(value, 1u << 20, &o->context) && o->context
               ? 0
               : wrong("the context must be 1 to 1048576 tokens, not", value);
  case 'O':
    o->opt_level = value[0] - '0';
    return value[0] >= '0' && value[0] <= '3' && !value[1] ? 0 : wrong("-O takes 0 to 3, not", value);
  case 'v': o->verbose = true; return 0;
  case O_EMIT: o->emit_given = true; return set_emit(o, value);
  case O_CPU: return set_cpu(o, value);
  case O_PREFILL:
    return number(value, 4096, &o->prefill_tokens) ? 0
                                                   : wrong("--prefill takes 0 to 4096 tokens, not", value);
  case O_SHAPE: return set_shape(o, value);
  case O_FIX: return set_fix(o, value);
  case O_KV: return set_kv(o, value);
  case O_HEAD:
    o->whole_head = !strcmp(value, "whole");
    return o->whole_head || !strcmp(value, "planes") ? 0 : wrong("no such head (planes, whole):", value);
  case O_BACKEND:
    o->tcc = !strcmp(value, "tcc");
    return o->tcc || !strcmp(value, "llvm") ? 0 : wrong("--backend takes llvm or tcc, not", value);
  case O_ORACLE: o->oracle = true; return 0;
  case O_PRINT: return set_print(o, value);
  case O_TIME: o->time_passes = true; return 0;
  case O_VERSION: printf("micc %s\n", MICC_VERSION); return -1;
  case 'h': fputs(usage, stdout); return -1;
  default: return 2;
  }
}

/* What getopt_long() refuses. */
static int refused(int option, char **argv)
{
  char letter[3] = {'-', (char)optopt, 0};
  const char *word = argv[optind - 1], *arg = strncmp(word, "--", 2) && optopt < 256 ? letter : word;

  if (option == ':')
    return wrong("no value for", arg);
  return wrong(strchr(arg, '=') && optopt ? "no value is expected:" : "unknown option", arg);
}

static int parse_compile(Options *o, int argc, char **argv)
{
  int option, status;

  opterr = 0;
  while ((option = getopt_long(argc, argv, ":o:c:O:vh", longs, NULL)) != -1)
    if ((status = option == '?' || option == ':' ? refused(option, argv) : set_option(o, option, optarg)))
      return status;
  if (optind == argc) {
    fputs("micc: no model file given; see micc --help\n", stderr);
    return 2;
  }
  if (argc - optind > 1)
    return wrong("one model at a time; not expected:", argv[optind + 1]);
  o->model = argv[optind];
  if (o->tcc || o->oracle)
    return wrong("for micc run only:", o->tcc ? "--backend=tcc" : "--oracle");
  return 0;
}

/* ---- micc verify */

static bool real(const char *s, double *out)
{
  char *end;

  *out = strtod(s, &end);
  return *s && !*end && *out >= 0 && *out < 1e300;
}

static int verify(Options *o, int argc, char **argv)
{
  static const struct option more[] = {{"case", required_argument, NULL, O_CASE},
                                       {"rtol", required_argument, NULL, O_RTOL},
                                       {"atol", required_argument, NULL, O_ATOL},
                                       {"steps", required_argument, NULL, O_STEPS},
                                       {"shape", required_argument, NULL, O_SHAPE},
                                       {"fix", required_argument, NULL, O_FIX},
                                       {"cpu", required_argument, NULL, O_CPU},
                                       {"backend", required_argument, NULL, O_BACKEND},
                                       {"help", no_argument, NULL, 'h'},
                                       {NULL, 0, NULL, 0}};
  VerifyOptions v = {.relative = 1e-3, .absolute = 1e-4, .steps = 1};
  int option, status = 0;

  opterr = 0;
  while (!status && (option = getopt_long(argc, argv, ":h", more, NULL)) != -1) {
    double *number = option == O_RTOL ? &v.relative : option == O_ATOL ? &v.absolute : &v.steps;
    if (option == '?' || option == ':')
      status = refused(option, argv);
    else if (option == O_CASE)
      v.dir = optarg;
    else if (option == O_RTOL || option == O_ATOL || option == O_STEPS)
      status = real(optarg, number) ? 0 : wrong("not a tolerance:", optarg);
    else
      status = set_option(o, option, optarg);
  }
  if (status)
    return status < 0 ? 0 : status;
  if (argc - optind != 1 || !v.dir)
    return wrong("verify takes a model and a folder:", "micc verify MODEL.onnx --case DIR");
  o->model = argv[optind];
  return cmd_verify(o, &v);
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
      "-p",        "--prompt", "-f",          "--file",   "-n",      "--n-predict",      "-t",
      "--threads", "--temp",   "--top-k",     "--top-p",  "--min-p", "--repeat-penalty", "--repeat-last-n",
      "-s",        "--seed",   "--token-ids", "--logits", "-o",      "--output"};
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

typedef struct {
  char **argv; /* [0]: the model, as the program's name */
  int argc;
} Rest;

/* Sorts the words into ours, the model, and the program's. 0, or an exit status. */
static int split(Options *o, int argc, char **argv, Rest *rest)
{
  bool plain = false; /* after "--" */

  for (int i = 1; i < argc; i++) {
    int own = plain ? 0 : own_option(o, argc, argv, &i);
    if (own > 1)
      return own;
    if (own)
      continue;
    if (!plain && !strcmp(argv[i], "--"))
      plain = true;
    if (!o->model && argv[i][0] != '-') {
      o->model = rest->argv[0] = argv[i];
      continue;
    }
    rest->argv[rest->argc++] = argv[i];
    if (!plain && takes_value(argv[i]) && i + 1 < argc)
      rest->argv[rest->argc++] = argv[++i];
  }
  return 0;
}

static bool asks_help(const Rest *rest)
{
  for (int i = 1; i < rest->argc; i++)
    if (!strcmp(rest->argv[i], "-h") || !strcmp(rest->argv[i], "--help"))
      return true;
  return false;
}

static int run_split(Options *o, const Rest *rest)
{
  if (!o->model && asks_help(rest)) {
    fputs(usage, stdout);
    return 0;
  }
  if (!o->model)
    return wrong("no model file given to", "run");
  if (o->emit_given)
    return wrong("run writes nothing; not expected:", "--emit");
  return o->oracle ? cmd_oracle(o, rest->argc, rest->argv) : cmd_run(o, rest->argc, rest->argv);
}

static int run(Options *o, int argc, char **argv)
{
  Rest rest = {calloc((size_t)argc + 2, sizeof *rest.argv), 1};
  int status;

  if (!rest.argv)
    return 1;
  status = split(o, argc, argv, &rest);
  if (!status)
    status = run_split(o, &rest);
  free(rest.argv);
  return status;
}

/* ---- lists */

static int list_targets(void)
{
  for (unsigned i = 0; i < target_count; i++) {
    const Target *t = &target_table[i];
    bool here = t->runs_here && t->runs_here();
    printf("%-18s %-15s %-26s %2u-byte vectors, %u registers%s%s%s\n", t->name, t->alias ? t->alias : "",
           t->triple ? t->triple : "C99", t->vector_bytes, t->registers, t->fma ? ", fma" : "",
           t->dot4 ? ", 8-bit dot products" : "",
           !here                ? ""
           : t == target_host() ? "  (native)"
                                : "  (runs here)");
  }
  return 0;
}

static int list_ops(void)
{
  for (int op = 1; op < OP_COUNT; op++)
    printf("%-12s %s\n", op_info[op].name, op_info[op].doc);
  return 0;
}

static int list_passes(void)
{
  puts(passes_list());
  return 0;
}

/* ---- signals */

static void interrupted(int signal_number)
{
  file_abandon_all();
  signal(signal_number, SIG_DFL);
  raise(signal_number);
}

/* The mapped model file became shorter, or its disk fails. */
static void unreadable(int signal_number)
{
  static const char line[] = "micc: the model file cannot be read any more\n";

  (void)signal_number;
  file_abandon_all();
  _exit(write(2, line, sizeof line - 1) < 0 ? 2 : 1);
}

static void catch_signals(void)
{
  static const int ends[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGXCPU};
  struct sigaction old;

  for (size_t i = 0; i < COUNT(ends); i++)
    if (!sigaction(ends[i], NULL, &old) && old.sa_handler == SIG_DFL) /* nohup stays in force */
      signal(ends[i], interrupted);
  signal(SIGBUS, unreadable);
  signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is an error like a full disk */
}

/* Else the first file that we open would be taken for standard output or for the place of messages. */
static void fill_standard_files(void)
{
  for (int fd = 0; fd < 3; fd++)
    if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
      (void)!open("/dev/null", fd ? O_RDONLY : O_WRONLY); /* the wrong way: using it fails as before */
}

/* ---- commands */

static int list(int argc, char **argv, int (*print)(void))
{
  return argc > 2 ? wrong("not expected:", argv[2]) : print();
}

static int command(Options *o, int argc, char **argv)
{
  const char *name = argc > 1 ? argv[1] : "";

  if (!strcmp(name, "run"))
    return run(o, argc - 1, argv + 1);
  if (!strcmp(name, "verify"))
    return verify(o, argc - 1, argv + 1);
  if (!strcmp(name, "inspect"))
    return cmd_inspect(argc - 1, argv + 1);
  if (!strcmp(name, "targets"))
    return list(argc, argv, list_targets);
  if (!strcmp(name, "ops") || !strcmp(name, "--ops"))
    return list(argc, argv, list_ops);
  if (!strcmp(name, "passes"))
    return list(argc, argv, list_passes);
  int status = parse_compile(o, argc, argv);
  return status < 0 ? 0 : status ? status : cmd_compile(o);
}

int main(int argc, char **argv)
{
  Options o = {.cpu = NULL, .opt_level = 2, .prefill_tokens = 264, .kv = -1};

  fill_standard_files();
  catch_signals();
  int status = command(&o, argc, argv);
  arena_free(&o.texts);
  if ((fflush(stdout) || ferror(stdout)) && !status) {
    fprintf(stderr, "micc: cannot write to standard output: %s\n", strerror(errno));
    status = 1;
  }
  return status;
}
