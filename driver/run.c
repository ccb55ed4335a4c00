/* run.c - `micc run`: the program in memory, nothing written. */
#include "driver/driver.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "codegen/jit.h"
#include "frontend/tokenizer/tokenizer.h"
#include "ir/oracle_run.h"
#include "runtime-min/mi_main.h"
#include "runtime-min/mi_options.h"
#include "runtime-min/mi_tensor.h"
#include "runtime-min/mi_tokenizer.h"

static int failed(const Err *e)
{
  fprintf(stderr, "micc: %s\n", e->text);
  return 1;
}

/* ---- the image in memory */

static bool sink_memory(void *ctx, const void *bytes, uint64_t n)
{
  uint8_t **to = ctx;
  memcpy(*to, bytes, n);
  *to += n;
  return true;
}

static MiImage *image_in_memory(const Image *im, Err *e)
{
  void *p = mmap(NULL, im->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

  if (p == MAP_FAILED) {
    fail(e, "no memory for %llu bytes of weights", (unsigned long long)im->bytes);
    return NULL;
  }
  uint8_t *to = p;
  image_write(im, sink_memory, &to);
  mprotect(p, im->bytes, PROT_READ);
  return p;
}

/* ---- kernels in memory */

static bool jit(const Compile *c, Jit *j, Err *e)
{
  LlvmOptions lo = {c->targets[0], c->kernel_targets, c->opt->opt_level, NULL, NULL};

  return c->opt->tcc ? jit_tcc(j, c->kernels, c->n_kernels, c->arena, e)
                     : jit_llvm(j, c->kernels, c->n_kernels, &lo, e);
}

static int run_compiled(const Compile *c, int argc, char **argv, Err *e)
{
  Jit j;
  MiImage *image = jit(c, &j, e) ? image_in_memory(&c->image, e) : NULL;
  int status = !image    ? failed(e)
               : c->onnx ? mi_tensor_main(image, j.kernels, argc, argv)
                         : mi_main(image, j.kernels, argc, argv);

  if (image)
    munmap(image, c->image.bytes);
  jit_free(&j);
  return status;
}

/* The program's own options are looked at before the model is compiled, which may take long. -1: go on. */
static int check_options(int argc, char **argv)
{
  char line[256], text[1024];
  MiOut why = {.buf = line, .cap = sizeof line, .fd = -1}, out = {.buf = text, .cap = sizeof text, .fd = 1};
  MiOptions mo;

  if (!mi_options_parse(&mo, argc, argv, &why)) {
    fprintf(stderr, "micc: run: %s\n", mi_out_string(&why));
    return 2;
  }
  if (!mo.help)
    return -1;
  mi_options_help(&out, "micc run MODEL.gguf");
  return mi_out_flush(&out) ? 0 : 1;
}

int cmd_run(const Options *opt, int argc, char **argv)
{
  Options o = *opt;
  Compile c = {0};
  Err e = {0};
  MemTrap trap;
  volatile int status = compile_is_onnx(opt->model) ? -1 : check_options(argc, argv);

  if (status >= 0)
    return status;
  if (!o.cpu && !o.tcc)
    o.cpu = "native";
  if (mem_try(&trap)) {
    status =
        compile_open(&c, &o, &e) && compile_build(&c, &e) ? run_compiled(&c, argc, argv, &e) : failed(&e);
    mem_done(&trap);
  } else {
    fail(&e, "out of memory");
    failed(&e);
  }
  compile_close(&c);
  return status;
}

/* ---- the oracle: -p TEXT or --token-ids, -n; greedy */

typedef struct {
  const char *prompt, *ids;
  long n;
} OracleArgs;

static bool oracle_args(OracleArgs *a, int argc, char **argv, Err *e)
{
  *a = (OracleArgs){.n = 16};
  for (int i = 1; i < argc; i += 2) {
    const char *value = i + 1 < argc ? argv[i + 1] : "", *arg = argv[i];
    if (!strcmp(arg, "-p") || !strcmp(arg, "--prompt"))
      a->prompt = value;
    else if (!strcmp(arg, "--token-ids"))
      a->ids = value;
    else if (!strcmp(arg, "-n") || !strcmp(arg, "--n-predict"))
      a->n = atol(value);
    else
      return fail(e, "run --oracle takes -p TEXT, --token-ids IDS and -n N (greedy); not '%s'", arg);
  }
  if (a->n < 1 || a->n > 1 << 20)
    return fail(e, "run --oracle: -n must be 1 or more");
  return (a->prompt || a->ids) || fail(e, "run --oracle needs -p TEXT or --token-ids IDS");
}

static bool parse_ids(const char *s, uint32_t n_vocab, Arena *a, int32_t **ids, int64_t *n, Err *e)
{
  char *end;
  *ids = NEW_ARRAY(a, int32_t, strlen(s) + 1);
  for (*n = 0; *s; s = *end == ',' ? end + 1 : end) {
    long id = strtol(s, &end, 10);
    if (end == s || (*end && *end != ',') || id < 0 || id >= (long)n_vocab)
      return fail(e, "--token-ids: '%s' is no list of ids below %u", s, n_vocab);
    (*ids)[(*n)++] = (int32_t)id;
  }
  return *n > 0 || fail(e, "--token-ids is empty");
}

static bool oracle_prompt(Model *m, const OracleArgs *args, const uint8_t *table, uint32_t n_vocab,
                          int32_t **ids, int64_t *n, Err *e)
{
  if (args->ids)
    return parse_ids(args->ids, n_vocab, &m->arena, ids, n, e);
  if (!table)
    return fail(e, "the model has no tokenizer: use --token-ids");
  size_t len = strlen(args->prompt), work_bytes = mi_tok_work_bytes(table, len);
  void *work = arena_alloc(&m->arena, work_bytes);
  *ids = NEW_ARRAY(&m->arena, int32_t, len + 8);
  *n = mi_tok_encode(table, args->prompt, len, 1, 1, *ids, len + 8, work, work_bytes);
  return *n > 0 || fail(e, "the prompt is empty");
}

static void oracle_write(const uint8_t *table, const int32_t *tokens, int64_t n)
{
  MiDecoder d = {0};
  char piece[1024];

  for (int64_t i = 0; i < n; i++) {
    if (!table)
      printf("%s%d", i ? " " : "", tokens[i]);
    else
      fwrite(piece, 1, mi_tok_decode(table, &d, tokens[i], piece, sizeof piece), stdout);
  }
  if (table)
    fwrite(piece, 1, mi_tok_flush(&d, piece, sizeof piece), stdout);
  putchar('\n');
}

static bool oracle(const Options *o, Model *m, const OracleArgs *args, Err *e)
{
  ArchOptions ao = {o->context, 0, o->kv};
  ArchInfo info;
  Module *module;
  const uint8_t *table = NULL;
  uint64_t table_bytes = 0;
  OracleRun run = {0};
  OracleTask task = {.n_new = args->n};
  int32_t *ids = NULL, *tokens = NEW_ARRAY(&m->arena, int32_t, (size_t)args->n);
  int64_t rows = 0;

  if (!arch_info(m, &ao, &info, e) || !arch_build(m, &ao, &module, e) ||
      !tokenizer_build(m, &m->arena, &table, &table_bytes, e) ||
      !oracle_prompt(m, args, table_bytes ? table : NULL, info.n_vocab, &ids, &task.n_prompt, e) ||
      !oracle_open(&run, module, e))
    return false;
  task.prompt = ids;
  bool ok = oracle_generate(&run, &task, tokens, NULL, &rows, e);
  if (ok) {
    if (table_bytes && args->prompt)
      fputs(args->prompt, stdout);
    oracle_write(table_bytes ? table : NULL, tokens, args->n);
  }
  oracle_close(&run);
  return ok;
}

int cmd_oracle(const Options *opt, int argc, char **argv)
{
  OracleArgs args;
  Err e = {0};
  MemTrap trap;
  Model *volatile m = NULL;
  volatile bool ok = false;

  if (compile_is_onnx(opt->model)) {
    fail(&e, "run --oracle is for language models; micc verify compares an ONNX model with the interpreter");
    failed(&e);
    return 2;
  }
  if (!oracle_args(&args, argc, argv, &e)) {
    failed(&e);
    return 2;
  }
  if (mem_try(&trap)) {
    m = model_open(opt->model, &e);
    ok = m && oracle(opt, m, &args, &e);
    mem_done(&trap);
  } else {
    fail(&e, "out of memory");
  }
  if (m)
    model_close(m);
  return ok ? 0 : failed(&e);
}
