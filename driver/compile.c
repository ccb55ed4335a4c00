/* compile.c - from a model file to what -o names. */
#include "driver/driver.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "codegen/c.h"
#include "codegen/package.h"
#include "frontend/tokenizer/tokenizer.h"
#if MICC_HAVE_LLVM
#include "codegen/llvm.h"
#endif

/* A program runs well on any x86-64 of the last 15 years; what is to be read is one level. */
static const char default_cpus[] = "x86-64-v2,x86-64-v3,x86-64-v4+vnni", default_cpu[] = "x86-64-v3";

static double now_ms(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* ---- what --about prints */

static const char *base_name(const char *path)
{
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

/* On one line: what a file says of itself shall not look like a line of ours, nor steer a terminal. */
const char *compile_one_line(Arena *a, const char *s, size_t n)
{
  char *line = arena_strndup(a, s, n);

  for (size_t i = 0; i < n; i++)
    if ((unsigned char)line[i] < 32 || line[i] == 127)
      line[i] = ' ';
  return line;
}

static const char *meta_text(const Model *m, Arena *a, const char *key)
{
  Str s;
  const Meta *v = model_meta(m, key);
  return v && meta_str(v, 0, &s) ? compile_one_line(a, s.data, s.len) : NULL;
}

/* Element types of the weights with their share, largest first by table order. */
static void add_precision(const Model *m, Text *t)
{
  uint64_t bytes[DT_COUNT] = {0}, total = 0;

  for (uint32_t i = 0; i < m->tensors.len; i++) {
    bytes[m->tensors.data[i].dtype] += m->tensors.data[i].bytes;
    total += m->tensors.data[i].bytes;
  }
  text_printf(t, "precision:");
  for (int d = 0; d < DT_COUNT; d++)
    if (bytes[d])
      text_printf(t, " %s %.1f%%", dtype_info[d].name, 100.0 * (double)bytes[d] / (double)total);
  text_printf(t, " of weight bytes; activations of block products in 8 bits, all else f32\n");
}

void compile_add_target(const Compile *c, Text *t)
{
  text_printf(t, "target: %s", c->targets[0]->triple ? c->targets[0]->triple : "C99");
  for (unsigned i = 0; i < c->n_targets; i++)
    text_printf(t, "%s %s", i ? "," : "", c->targets[i]->name);
  text_printf(t, "\ncompiler: micc %s\n", MICC_VERSION);
}

static const char *about(const Compile *c, Arena *a)
{
  const Model *m = c->model;
  const Program *p = c->programs[0];
  Text t = {.arena = a};
  const char *name = meta_text(m, a, "general.name"), *licence = meta_text(m, a, "general.license");
  const char *file = compile_one_line(a, base_name(m->path), strlen(base_name(m->path)));
  uint64_t state = p->space_bytes[SPACE_STATE], arena = p->space_bytes[SPACE_ARENA];

  text_printf(&t, "model: %s\n", name ? name : file);
  text_printf(&t, "family: %s, %u layers, width %u, %u heads (%u key/value), vocabulary %u\n", c->info.family,
              c->info.n_layer, c->info.width, c->info.n_head, c->info.n_kv_head, c->info.n_vocab);
  text_printf(&t, "parameters: %.1f M\n", (double)c->info.parameters / 1e6);
  text_printf(&t, "source: %s\nsource sha256: %s\nformat: %s\n", file, m->sha256, m->format);
  text_printf(&t, "license: %s\n", licence ? licence : "not stated in the file");
  add_precision(m, &t);
  text_printf(&t, "tokenizer: %s\n", tokenizer_describe(m, a));
  text_printf(&t, "context: %u tokens (trained with %u), keys and values in %s\n", c->info.context,
              c->info.context_trained, dtype_info[c->info.kv].name);
  text_printf(&t, "memory: weights %.1f MB (mapped), state %.1f MB, arena %.2f MB\n",
              (double)p->space_bytes[SPACE_WEIGHTS] / 1e6, (double)state / 1e6, (double)arena / 1e6);
  compile_add_target(c, &t);
  return t.data;
}

/* ---- from file to program */

static bool is_library(const Compile *c)
{
  Emit kind = c->opt->emit;

  return kind == EMIT_LIB || kind == EMIT_SO || (c->is_onnx && (kind == EMIT_OBJ || kind == EMIT_C));
}

static bool pick_targets(Compile *c, Err *e)
{
  const Options *o = c->opt;
  bool c_source = o->emit == EMIT_C || o->tcc;
  const char *cpu = o->cpu                               ? o->cpu
                    : c_source                           ? "c"
                    : o->emit == EMIT_EXE                ? default_cpus
                    : o->emit == EMIT_OBJ && !c->is_onnx ? default_cpus
                                                         : default_cpu;

  c->n_targets = target_list(cpu, c->targets, MAX_TARGETS, e);
  if (!c->n_targets)
    return false;
  if (!c->targets[0]->triple && !c_source && o->emit <= EMIT_ASM)
    return fail(e, "--cpu=%s is for --emit=c", cpu);
  bool library = is_library(c) && o->emit != EMIT_C;
  return c->n_targets == 1 || !(c_source || library) ||
         fail(e, "--cpu=%s: %s is for one level", cpu, library ? "a library" : "C source");
}

/* The kernels of all levels, one after the other, as the image numbers them. */
static void list_kernels(Compile *c)
{
  uint32_t n = 0;

  for (unsigned t = 0; t < c->n_targets; t++)
    c->n_kernels += c->programs[t]->kernels.len;
  c->kernels = NEW_ARRAY(c->arena, const Kernel *, c->n_kernels);
  c->kernel_targets = NEW_ARRAY(c->arena, const Target *, c->n_kernels);
  for (unsigned t = 0; t < c->n_targets; t++)
    for (uint32_t i = 0; i < c->programs[t]->kernels.len; i++) {
      c->kernels[n] = c->programs[t]->kernels.data[i];
      c->kernel_targets[n++] = c->targets[t];
    }
}

static void flush_log(Compile *c)
{
  if (c->log.len)
    fputs(c->log.data, stderr);
  c->log.len = 0;
}

static bool language_model(Compile *c, Err *e)
{
  ArchOptions ao = {c->opt->context, c->opt->prefill_tokens, c->opt->kv};

  if (!arch_info(c->model, &ao, &c->info, e) || !arch_build(c->model, &ao, &c->module, e) ||
      !tokenizer_build(c->model, c->arena, &c->tokenizer, &c->tokenizer_bytes, e))
    return false;
  for (uint32_t i = 0; i < c->info.n_unused; i++)
    fprintf(stderr, "micc: warning: %s: tensor '%s' is not used\n", c->path, c->info.unused[i]);
  if (c->info.context_trained && c->info.context > c->info.context_trained)
    fprintf(stderr, "micc: warning: %s: was trained with %u tokens of context, not %u\n", c->path,
            c->info.context_trained, c->info.context);
  return true;
}

static bool run_passes(Compile *c, Err *e)
{
  PassOptions po = {.targets = c->targets,
                    .n_targets = c->n_targets,
                    .whole_head = c->opt->whole_head,
                    .threads = !is_library(c),
                    .print_after = c->opt->print_after,
                    .time_passes = c->opt->time_passes,
                    .log = &c->log};
  bool ok = passes_run(c->module, &po, c->programs, e);
  flush_log(c);
  return ok;
}

bool compile_build(Compile *c, Err *e)
{
  Text t = {.arena = c->arena};

  c->log.arena = c->arena;
  if (!(c->onnx ? compile_onnx_module(c, e) : language_model(c, e)) || !run_passes(c, e))
    return false;
  list_kernels(c);
  if (c->model)
    model_hash(c->model);
  c->about = c->onnx ? compile_onnx_about(c, &t) : about(c, c->arena);
  ImageParts parts = {c->about, c->tokenizer, c->tokenizer_bytes};
  return image_build(c->arena, c->programs, c->n_targets, &parts, &c->image, e);
}

/* An option that would do nothing is a mistake. */
static bool check_options(const Compile *c, Err *e)
{
  const Options *o = c->opt;

  if (c->is_onnx && (o->context || o->kv >= 0))
    return fail(e, "%s: %s is for language models", c->path, o->context ? "--context" : "--kv");
  if (!c->is_onnx && (o->n_shapes || o->n_fixes))
    return fail(e, "%s: %s is for ONNX models", c->path, o->n_shapes ? "--shape" : "--fix");
  return true;
}

bool compile_open(Compile *c, const Options *opt, Err *e)
{
  *c = (Compile){.opt = opt, .path = opt->model, .is_onnx = compile_is_onnx(opt->model)};
  if (!check_options(c, e) || !pick_targets(c, e))
    return false;
  if (c->is_onnx) {
    c->arena = &c->own;
    return compile_onnx_open(c, e);
  }
  c->model = model_open(opt->model, e);
  if (c->model)
    c->arena = &c->model->arena;
  return c->model;
}

void compile_close(Compile *c)
{
  if (c->model)
    model_close(c->model);
  onnx_close(c->onnx);
  arena_free(&c->own);
  c->model = NULL;
  c->onnx = NULL;
}

/* ---- what comes out */

/* The model's file name without its ending; `extra` is appended. */
static const char *default_output(const Options *o, Arena *a, const char *extra)
{
  const char *base = base_name(o->model), *dot = strrchr(base, '.');
  size_t n = dot && dot != base ? (size_t)(dot - base) : strlen(base);
  const char *name = arena_printf(a, "%.*s%s", (int)n, base, extra);
  return strcmp(name, o->model) ? name : arena_printf(a, "%s.out", name);
}

/* Whether a file of this name may be written: it is not the model itself. */
static bool is_free(const Compile *c, const char *path, Err *e)
{
  struct stat out, model;

  if (!*path)
    return fail(e, "the output file's name is empty");
  return stat(path, &out) || stat(c->path, &model) || out.st_dev != model.st_dev ||
         out.st_ino != model.st_ino || fail(e, "%s: is the model file; write to another name", path);
}

static bool is_stdout(const char *path)
{
  return !path || !strcmp(path, "-");
}

static bool write_bytes(const char *path, const void *bytes, uint64_t n, Err *e)
{
  Arena a = {0};
  OutFile f = {.fd = -1};

  if (is_stdout(path)) {
    bool ok = fwrite(bytes, 1, n, stdout) == n && !fflush(stdout);
    return ok || fail(e, "cannot write to standard output: %s", strerror(errno));
  }
  bool ok = file_begin(&f, &a, path, e) && file_write(&f, bytes, n) && file_commit(&f, 0644);
  file_abandon(&f);
  arena_free(&a);
  return ok;
}

#if MICC_HAVE_LLVM
static bool emit_llvm(Compile *c, LlvmOutput what, const void **bytes, uint64_t *n, Err *e)
{
  LlvmTimes times = {0};
  LlvmOptions lo = {c->targets[0], c->kernel_targets, c->opt->opt_level, &times, c->library};
  bool ok = llvm_emit(c->kernels, c->n_kernels, &lo, what, c->arena, bytes, n, e);

  if (ok && (c->opt->time_passes || c->opt->verbose))
    fprintf(stderr, "llvm       %8.3f ms (%u kernels: build %.1f, optimise %.1f, emit %.1f)\n",
            times.build_ms + times.optimize_ms + times.emit_ms, times.kernels, times.build_ms,
            times.optimize_ms, times.emit_ms);
  return ok;
}
#else
typedef enum { LLVM_OBJ, LLVM_ASM, LLVM_IR } LlvmOutput;
static bool emit_llvm(Compile *c, LlvmOutput what, const void **bytes, uint64_t *n, Err *e)
{
  (void)c, (void)what, (void)bytes, (void)n;
  return fail(
      e, "this micc was built without LLVM: it has --emit=c, graph, kernels, plan and run --backend=tcc");
}
#endif

static bool write_llvm(Compile *c, LlvmOutput what, const char *path, Err *e)
{
  const void *bytes = NULL;
  uint64_t n = 0;
  return emit_llvm(c, what, &bytes, &n, e) && write_bytes(path, bytes, n, e);
}

static bool write_exe(Compile *c, const char *path, Err *e)
{
  const void *object = NULL;
  uint64_t n = 0;
  double start = now_ms();

  if (!emit_llvm(c, LLVM_OBJ, &object, &n, e) || !package_exe(path, object, n, &c->image, c->targets[0], e))
    return false;
  if (c->opt->verbose)
    fprintf(stderr, "%s: %.1f KB of kernels, %.3f MB of image (tokenizer %.1f KB), link and write %.1f ms\n",
            path, (double)n / 1e3, (double)c->image.bytes / 1e6, (double)c->tokenizer_bytes / 1e3,
            now_ms() - start);
  return true;
}

/* Objects, libraries and C source of an ONNX model. */
static bool write_library(Compile *c, const char *path, Err *e)
{
  static const LibraryKind kinds[EMIT_COUNT] = {[EMIT_LIB] = LIBRARY_STATIC,
                                                [EMIT_SO] = LIBRARY_SHARED,
                                                [EMIT_OBJ] = LIBRARY_OBJECT,
                                                [EMIT_C] = LIBRARY_C};
  Library l;
  const void *code = NULL;
  uint64_t n = 0;
  Text t = {.arena = c->arena};
  bool source = c->opt->emit == EMIT_C;

  if (!library_init(&l, c->arena, path, c->programs[0], c->about, e) ||
      !is_free(c, library_header_path(&l, c->arena, path), e))
    return false;
  c->library = &l;
  if (source ? !c_print_functions(c->kernels, c->n_kernels, &t, e) : !emit_llvm(c, LLVM_OBJ, &code, &n, e))
    return false;
  return library_write(&l, kinds[c->opt->emit], path, source ? t.data : code, source ? t.len : n, &c->image,
                       e);
}

static void c_string(Text *t, const char *s)
{
  for (; *s; s++)
    text_printf(t, strchr("\"\\?", *s) ? "\\%c" : (unsigned char)*s < 32 ? "\\%03o" : "%c", *s);
}

/* NAME.c and NAME.weights: see runtime-min/start/mi_start_file.c. */
static bool write_c(Compile *c, const char *path, Err *e)
{
  Arena *a = c->arena;
  Text t = {.arena = a};

  const char *base = base_name(path), *dot = strrchr(base, '.');
  const char *stem = arena_strndup(a, path, dot && dot != base ? (size_t)(dot - path) : strlen(path));
  const char *weights = arena_printf(a, "%s.weights", stem);
  if (!strcmp(weights, path))
    return fail(e, "%s: would be both the source and its weights: use -o NAME.c", path);
  text_printf(&t,
              "/* Made by micc %s from %s. Weights: %s.weights. To make a program:\n"
              " *   cc -O3 %s RUNTIME/mi_*.c RUNTIME/start/mi_start_file.c -o %s -lpthread -lm\n"
              " * where RUNTIME is share/micc/runtime-min of micc's installation. */\n",
              MICC_VERSION, base_name(c->path), base_name(stem), base, base_name(stem));
  if (!c_print_kernels(c->kernels, c->n_kernels, &t, e))
    return false;
  text_printf(&t, "\nextern const char mi_image_name[];\nconst char mi_image_name[] = \"");
  c_string(&t, base_name(stem));
  text_printf(&t, "\";\n");
  return is_free(c, weights, e) && package_source(path, t.data, weights, &c->image, e);
}

static bool write_text(Compile *c, const char *path, Err *e)
{
  Text t = {.arena = c->arena};

  switch (c->opt->emit) {
  case EMIT_GRAPH: module_print(c->module, &t); break;
  case EMIT_PLAN:
    for (unsigned i = 0; i < c->n_targets; i++)
      program_print(c->programs[i], &t);
    break;
  default:
    for (uint32_t i = 0; i < c->n_kernels; i++)
      kernel_print(c->kernels[i], &t);
  }
  return write_bytes(path, t.data, t.len, e);
}

/* What is written where -o says nothing: a file named after the model, or (NULL) standard output. */
static const char *const endings[EMIT_COUNT] = {
#define EMIT(id, name, ending, meaning) ending,
#include "driver/emit.def"
#undef EMIT
};

static const char *output_path(const Compile *c, Arena *a, Err *e)
{
  const Options *o = c->opt;
  const char *path = o->output ? o->output : endings[o->emit] ? default_output(o, a, endings[o->emit]) : "-";
  bool one_stream = o->emit != EMIT_EXE && o->emit != EMIT_C && o->emit != EMIT_LIB && o->emit != EMIT_SO &&
                    !(o->emit == EMIT_OBJ && c->is_onnx);

  if (is_stdout(path) && !one_stream)
    fail(e, "%s cannot go to standard output: use -o FILE",
         o->emit == EMIT_C     ? "C and its weights"
         : o->emit == EMIT_EXE ? "a program"
                               : "a library and its header");
  else if (is_free(c, path, e))
    return path;
  return NULL;
}

static bool emit(Compile *c, const char *path, Err *e)
{
  switch (c->opt->emit) {
  case EMIT_EXE: return write_exe(c, path, e);
  case EMIT_LIB:
  case EMIT_SO: return write_library(c, path, e);
  case EMIT_OBJ: return c->onnx ? write_library(c, path, e) : write_llvm(c, LLVM_OBJ, path, e);
  case EMIT_LLVM: return write_llvm(c, LLVM_IR, path, e);
  case EMIT_ASM: return write_llvm(c, LLVM_ASM, path, e);
  case EMIT_C: return c->onnx ? write_library(c, path, e) : write_c(c, path, e);
  default: return write_text(c, path, e);
  }
}

static bool compile(Compile *c, const Options *opt, Err *e)
{
  const char *path;

  if (!compile_open(c, opt, e))
    return false;
  path = output_path(c, c->arena, e);
  return path && compile_build(c, e) && emit(c, path, e);
}

int cmd_compile(const Options *opt)
{
  Compile c = {0};
  Err e = {0};
  MemTrap trap;
  volatile bool ok = false;

  if (mem_try(&trap)) {
    ok = compile(&c, opt, &e);
    mem_done(&trap);
  } else {
    fail(&e, "out of memory");
    file_abandon_all();
  }
  compile_close(&c);
  if (!ok)
    fprintf(stderr, "micc: %s\n", e.text);
  return ok ? 0 : 1;
}
