/* status.c - docs/STATUS.md is what the tables and the tests say: this program writes it (--write) and checks it.
 *
 * Rows come from the tables that the compiler is made of. A claim names a row, its level, and the test that backs it
 * with a text that must stand in that test; a row without a claim is Experimental, since no test of its own is
 * known; what is planned must not be in a table yet. */
#include "tests/e2e/support/onnx_status.h"
#include "tests/e2e/support/scene.h"
#include "tests/e2e/support/tally.h"

#include "codegen/target.h"

#include <stdio.h>

static const char path[] = MICC_SOURCE_DIR "/docs/STATUS.md";
static Arena arena;

typedef enum { STABLE, PREVIEW, EXPERIMENTAL, PLANNED, NOT_SUPPORTED } Level;
static const char *const level_name[] = {"Stable", "Preview", "Experimental", "Planned", "not supported"};

typedef struct {
  const char *row;
  Level level;
  const char *test, *text; /* file under tests/, and what stands in it; NULL: nothing backs it */
  const char *note;
} Claim;

#define MODELS "e2e/models.c"

/* ---- claims */

static const Claim formats[] = {
    {"GGUF, version 3", PREVIEW, "unit/gguf.c", "GGUF", NULL},
    {"GGUF, version 2", PREVIEW, "unit/gguf.c", "version", NULL},
    {"GGUF, big-endian or split", NOT_SUPPORTED, NULL, NULL, NULL},
    {"safetensors", PLANNED, NULL, NULL, NULL},
    {"ONNX, opset 7 to 23", PREVIEW, "e2e/onnx_suite.c", "onnx_suite.txt", "vision, audio, encoders"},
    {"TFLite", PLANNED, NULL, NULL, NULL},
};

static const Claim families[] = {
    {"llama", PREVIEW, MODELS, "llama-dense", "Llama 2 and 3, TinyLlama, SmolLM2, Mistral"},
    {"mistral3", PREVIEW, MODELS, "mistral3-dense", "Ministral 3"},
    {"qwen2", PREVIEW, MODELS, "qwen2-dense", "Qwen 2 and 2.5"},
    {"qwen3", EXPERIMENTAL, "e2e/oracle.c", "qwen3-dense", "by the oracle alone"},
    {"gemma3", PREVIEW, "e2e/real.c", "gemma-3-270m", "Gemma 3, text"},
    {"gemma, gemma2, phi3, and mixtures of experts", PLANNED, NULL, NULL, NULL},
    {"recurrent and hybrid: mamba2, jamba, lfm2", PLANNED, NULL, NULL, NULL},
};

static const Claim tensors[] = {
    {"f32", PREVIEW, MODELS, "\"F32\"", NULL},
    {"f16", PREVIEW, MODELS, "\"F16\"", NULL},
    {"bf16", PREVIEW, MODELS, "\"BF16\"", NULL},
    {"i32", NOT_SUPPORTED, NULL, NULL, "read and shown; no family has weights of it"},
    {"q4_0", PREVIEW, MODELS, "\"Q4_0\"", NULL},
    {"q4_1", PREVIEW, MODELS, "\"Q4_1\"", NULL},
    {"q5_0", PREVIEW, MODELS, "\"Q5_0\"", NULL},
    {"q5_1", PREVIEW, MODELS, "\"Q5_1\"", NULL},
    {"q8_0", PREVIEW, MODELS, "\"Q8_0\"", NULL},
    {"q4_K", PREVIEW, MODELS, "\"Q4_K_S\"", NULL},
    {"q5_K", PREVIEW, MODELS, "\"Q5_K_S\"", NULL},
    {"q6_K", PREVIEW, MODELS, "\"Q6_K\"", NULL},
    {"tq2_0", PREVIEW, MODELS, "\"TQ2_0\"", NULL},
    {"q2_K, q3_K, iq1 to iq4, tq1_0, mxfp4", PLANNED, NULL, NULL, "refused by name"},
};

static const Claim tokenizers[] = {
    {"SPM", PREVIEW, "unit/tokenizer.c", "ggml-vocab-llama-spm", NULL},
    {"BPE: gpt-2", PREVIEW, "unit/tokenizer.c", "\"ggml-vocab-gpt-2\"", NULL},
    {"BPE: mpt", PREVIEW, "unit/tokenizer.c", "\"ggml-vocab-mpt\"", NULL},
    {"BPE: refact", PREVIEW, "unit/tokenizer.c", "\"ggml-vocab-refact\"", NULL},
    {"BPE: starcoder", PREVIEW, "unit/tokenizer.c", "\"ggml-vocab-starcoder\"", NULL},
    {"BPE: falcon", PREVIEW, "unit/tokenizer.c", "\"ggml-vocab-falcon\"", NULL},
    {"BPE: deepseek-coder", PREVIEW, "unit/tokenizer.c", "\"ggml-vocab-deepseek-coder\"", NULL},
    {"BPE: deepseek-llm", PREVIEW, "unit/tokenizer.c", "\"ggml-vocab-deepseek-llm\"", NULL},
    {"BPE: qwen2", PREVIEW, "unit/tokenizer.c", "\"ggml-vocab-qwen2\"", NULL},
    {"BPE: deepseek-r1-qwen", PREVIEW, "unit/tokenizer.c", "ggml-vocab-deepseek-r1-qwen", NULL},
    {"WordPiece, unigram", PLANNED, NULL, NULL, NULL},
};

static const Claim targets[] = {
    {"c", PREVIEW, MODELS, "--backend=tcc", NULL},
    {"x86-64-v2", PREVIEW, MODELS, "--cpu=%s", NULL},
    {"x86-64-v3", PREVIEW, MODELS, "--cpu=%s", NULL},
    {"x86-64-v3+avxvnni", EXPERIMENTAL, "unit/llvm_code.c", "target_table",
     "compiled by tests; run where the processor has it"},
    {"x86-64-v4", PREVIEW, MODELS, "--cpu=%s", "run where the processor has it"},
    {"x86-64-v4+vnni", PREVIEW, MODELS, "--cpu=%s", "run where the processor has it"},
};

static const Claim packages[] = {
    {"exe", PREVIEW, "e2e/package.c", "test_elf", "Linux on x86-64, static"},
    {"obj", PREVIEW, "e2e/cli.c", "test_object", NULL},
    {"c", PREVIEW, "e2e/cli.c", "test_c", NULL},
    {"llvm", PREVIEW, "e2e/cli.c", "test_llvm", NULL},
    {"asm", PREVIEW, "e2e/cli.c", "--emit=asm", NULL},
    {"graph", PREVIEW, "e2e/cli.c", "test_graph_text", NULL},
    {"kernels", PREVIEW, "e2e/cli.c", "test_kernels_text", NULL},
    {"plan", PREVIEW, "e2e/cli.c", "test_plan", NULL},
    {"spirv, wasm, web", PLANNED, NULL, NULL, NULL},
};

static const Claim ways[] = {
    {"micc run, through LLVM", PREVIEW, "e2e/cli.c", "test_run", NULL},
    {"micc run --backend=tcc", PREVIEW, "e2e/cli.c", "--backend=tcc", NULL},
    {"micc run --oracle", PREVIEW, "e2e/cli.c", "--oracle", NULL},
    {"micc inspect", PREVIEW, "e2e/cli.c", "test_inspect", NULL},
};

static const Claim systems[] = {
    {"Linux, x86-64", PREVIEW, "e2e/package.c", "test_places", NULL},
    {"Linux, aarch64, riscv64, armhf", PLANNED, NULL, NULL, "from C source they are not tested either"},
    {"Windows, macOS", PLANNED, NULL, NULL, NULL},
    {"WebAssembly, WebGPU", PLANNED, NULL, NULL, NULL},
    {"Vulkan", PLANNED, NULL, NULL, NULL},
    {"Cortex-M", PLANNED, NULL, NULL, NULL},
};

/* ---- rows of the tables */

typedef struct {
  const char *name, *note;
} Row;

#define NO_ROWS {NULL, NULL}

static const Row family_rows[] = {
#define FAMILY(name, ...) {#name, NULL},
#include "frontend/arch/family.def"
#undef FAMILY
    NO_ROWS};

/* Types that files hold. */
static const Row tensor_rows[] = {
#define DTYPE(id, text, gguf, block, bytes, lo, hi, zero, kind, meaning) {(gguf) >= 0 ? text : NULL, meaning},
#include "ir/dtype.def"
#undef DTYPE
    NO_ROWS};

static const Row tokenizer_rows[] = {{"SPM", NULL},
#define WORDS(...)
#define PRETOK(name, words, flags) {"BPE: " name, NULL},
#include "frontend/tokenizer/pretok.def"
#undef WORDS
#undef PRETOK
                                     NO_ROWS};

static const Row package_rows[] = {
#define EMIT(id, name, ending, meaning) {name, meaning},
#include "driver/emit.def"
#undef EMIT
    NO_ROWS};

/* ---- checking */

static bool stands_in(const char *file, const char *text)
{
  Bytes b;
  return scene_read(&arena, arena_printf(&arena, MICC_SOURCE_DIR "/tests/%s", file), &b) &&
         strstr(b.data, text);
}

static const Claim *claim_of(const Claim *claims, size_t n, const char *row)
{
  for (size_t i = 0; i < n; i++)
    if (!strcmp(claims[i].row, row))
      return &claims[i];
  return NULL;
}

static bool is_row(const Row *rows, size_t n, const char *name)
{
  for (size_t i = 0; i < n; i++)
    if (rows[i].name && !strcmp(rows[i].name, name))
      return true;
  return false;
}

/* A planned thing that is in a table, or a tested one that is not, and tests that do not exist. */
static void check_claims(const char *title, const Claim *claims, size_t n, const Row *rows, size_t n_rows)
{
  for (size_t i = 0; i < n; i++) {
    const Claim *c = &claims[i];
    bool tested = c->level <= EXPERIMENTAL, backed = c->test && stands_in(c->test, c->text);
    if (tested && !backed)
      tally(false, "%s: %s is %s, but '%s' is not in tests/%s", title, c->row, level_name[c->level], c->text,
            c->test);
    if (rows && tested && !is_row(rows, n_rows, c->row))
      tally(false, "%s: %s is %s, but no table has it", title, c->row, level_name[c->level]);
    if (rows && c->level == PLANNED && is_row(rows, n_rows, c->row))
      tally(false, "%s: %s is Planned, but a table has it already", title, c->row);
  }
}

/* ---- printing */

static const char *quoted(const char *text)
{
  return text ? text : "";
}

static void print_row(Text *t, const char *row, const char *meaning, const Claim *c)
{
  Level level = c ? c->level : EXPERIMENTAL;
  const char *note = c && c->note ? c->note : quoted(meaning);

  text_printf(t, "| %s | %s | %s |", row, level_name[level], note);
  text_printf(t, c && c->test ? " `tests/%s` |\n" : " %s|\n", c && c->test ? c->test : "");
}

/* Rows of the table in its order, then what only the claims name. Without rows: the claims. */
static void section(Text *t, const char *title, const char *about, const Claim *claims, size_t n,
                    const Row *rows, size_t n_rows)
{
  check_claims(title, claims, n, rows, n_rows);
  text_printf(t, "\n## %s\n\n%s%s| | status | | shown by |\n|---|---|---|---|\n", title, about,
              *about ? "\n\n" : "");
  for (size_t i = 0; i < n_rows; i++)
    if (rows[i].name)
      print_row(t, rows[i].name, rows[i].note, claim_of(claims, n, rows[i].name));
  for (size_t i = 0; i < n; i++)
    if (!rows || !is_row(rows, n_rows, claims[i].row))
      print_row(t, claims[i].row, NULL, &claims[i]);
}

#define SECTION(t, title, about, claims, rows)                                                               \
  section(t, title, about, claims, COUNT(claims), rows, COUNT(rows))
#define LIST(t, title, about, claims) section(t, title, about, claims, COUNT(claims), NULL, 0)

static bool is_any(const char *name, const char *const *names, size_t n)
{
  for (size_t i = 0; i < n; i++)
    if (!strcmp(name, names[i]))
      return true;
  return false;
}

/* A cell is no better than its row and its column. C is for any machine; C of a level's shape is not what tests run,
 * and from level "c" no machine code is made. */
static const char *cell(const Target *t, const char *package)
{
  static const char *const machine_code[] = {"exe", "obj", "llvm", "asm"};
  const Claim *row = claim_of(targets, COUNT(targets), t->name);
  const Claim *column = claim_of(packages, COUNT(packages), package);
  Level a = row ? row->level : EXPERIMENTAL, b = column ? column->level : EXPERIMENTAL;

  if (!t->triple && is_any(package, machine_code, COUNT(machine_code)))
    return "-";
  if (t->triple && !strcmp(package, "c"))
    b = EXPERIMENTAL;
  return level_name[a > b ? a : b];
}

/* Targets down, packages across. */
static void matrix(Text *t)
{
  size_t n = COUNT(package_rows) - 1;

  text_printf(t, "\n## What is written for which CPU level\n\n|");
  for (size_t k = 0; k < n; k++)
    text_printf(t, " | %s", package_rows[k].name);
  text_printf(t, " |\n|---");
  for (size_t k = 0; k < n; k++)
    text_printf(t, "|---");
  text_printf(t, "|\n");
  for (unsigned i = 0; i < target_count; i++) {
    text_printf(t, "| %s", target_table[i].name);
    for (size_t k = 0; k < n; k++)
      text_printf(t, " | %s", cell(&target_table[i], package_rows[k].name));
    text_printf(t, " |\n");
  }
}

static void target_section(Text *t)
{
  Row rows[32];
  size_t n = 0;

  for (; n < target_count && n < COUNT(rows); n++)
    rows[n] =
        (Row){target_table[n].name, target_table[n].triple ? target_table[n].triple : "C99, any machine"};
  matrix(t);
  section(t, "CPU levels",
          "A program holds kernels for one or several levels, and takes the best as it starts.", targets,
          COUNT(targets), rows, n);
}

static const char head[] = "# Status\n"
                           "\n"
                           "Made by `e2e_status --write` from the compiler's tables and a list of what tests "
                           "run; the test `e2e_status` fails "
                           "when this page says anything else.\n"
                           "\n"
                           "| word | means |\n"
                           "|---|---|\n"
                           "| Stable | tests run it, and it will stay as it is |\n"
                           "| Preview | tests run it; options and formats may still change |\n"
                           "| Experimental | it is in a table and has parts in common with what tests run, "
                           "but no test of its own runs it "
                           "whole |\n"
                           "| Planned | not there yet |\n"
                           "| not supported | refused, with a message |\n"
                           "\n"
                           "This is the first release: nothing is Stable.\n";

static const char *page(void)
{
  Text t = {.arena = &arena};

  text_printf(&t, "%s", head);
  LIST(&t, "Formats", "", formats);
  SECTION(&t, "Model families", "By `general.architecture`.", families, family_rows);
  SECTION(&t, "Tensor types", "", tensors, tensor_rows);
  SECTION(
      &t, "Tokenizers",
      "By `tokenizer.ggml.model` and, for BPE, `tokenizer.ggml.pre`. Experimental: no vocabulary of its own "
      "is tested.",
      tokenizers, tokenizer_rows);
  SECTION(&t, "Packages", "`micc --emit=`", packages, package_rows);
  target_section(&t);
  LIST(&t, "Systems", "", systems);
  LIST(&t, "Commands", "", ways);
  onnx_status_print(&arena, &t);
  return t.data;
}

/* The first line that differs, for the message. */
static void show_difference(const char *have, const char *want)
{
  size_t line = 1, i = 0;

  for (; have[i] && have[i] == want[i]; i++)
    line += have[i] == '\n';
  while (i && want[i - 1] != '\n')
    i--;
  tally_note("line %zu should be: %.*s", line, (int)strcspn(want + i, "\n"), want + i);
  tally_note("if that is true, write the page: e2e_status --write");
}

int main(int argc, char **argv)
{
  const char *want = page();
  Bytes have = {NULL, 0};

  if (argc > 1 && !strcmp(argv[1], "--write")) {
    if (!scene_write(path, want, strlen(want), 0644))
      perror(path);
  }
  bool read = scene_read(&arena, path, &have);
  if (!tally(read && !strcmp(have.data, want), "docs/STATUS.md says what tables and tests say") && read)
    show_difference(have.data, want);
  arena_free(&arena);
  return tally_end();
}
