/* oracle.c - whole models through the oracle, against llama.cpp's logits and greedy tokens.
 *
 * The oracle quantises no activation, so for quantised models the reference is the same model with
 * its weights as floats (reference/llama.cpp/f32): one bound holds for all types. */
#include "frontend/arch/arch.h"
#include "ir/oracle_run.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static const double bound = 1e-11; /* of sum (got - want)^2 / sum want^2 */
static const char data_model[] = MICC_SOURCE_DIR "/tests/data/stories260K.gguf";
enum { MAX_TOKENS = 64, TILE = 4, ARCH_TOKENS = 48 };

static int failures;

#define CHECK(ok, ...)                                                                                       \
  do {                                                                                                       \
    if (!(ok)) {                                                                                             \
      failures++;                                                                                            \
      printf("FAILED %s:%d: ", __FILE__, __LINE__);                                                          \
      printf(__VA_ARGS__);                                                                                   \
      printf("\n");                                                                                          \
    }                                                                                                        \
  } while (0)

/* ---- a model, ready to run */

typedef struct {
  Model *model;
  Module *module;
  OracleRun run;
} Loaded;

static bool load(Loaded *l, const char *path)
{
  Err e = {0};
  ArchOptions opt = {.context = 128, .prefill_tokens = TILE};

  *l = (Loaded){.model = model_open(path, &e)};
  bool ok = l->model && arch_build(l->model, &opt, &l->module, &e) && module_verify(l->module, &e) &&
            oracle_open(&l->run, l->module, &e);
  CHECK(ok, "%s", e.text);
  return ok;
}

static void unload(Loaded *l)
{
  oracle_close(&l->run);
  if (l->model)
    model_close(l->model);
}

/* ---- references */

typedef struct {
  int32_t prompt[MAX_TOKENS], greedy[MAX_TOKENS];
  int64_t n_prompt, n_greedy;
  float *logits;
  int64_t n_logits;
} Reference;

static char *read_all(const char *path, size_t *bytes)
{
  FILE *f = fopen(path, "rb");
  char *data = NULL;
  size_t n = 0;

  if (!f)
    return NULL;
  if (fseek(f, 0, SEEK_END) == 0) {
    n = (size_t)ftell(f);
    rewind(f);
    data = calloc(1, n + 1);
    *bytes = data ? fread(data, 1, n, f) : 0;
  }
  fclose(f);
  return data;
}

static int64_t read_tokens(const cJSON *json, const char *key, int32_t *out)
{
  int64_t n = 0;
  const cJSON *item;

  cJSON_ArrayForEach(item, cJSON_GetObjectItem(json, key)) if (n < MAX_TOKENS) out[n++] = item->valueint;
  return n;
}

static bool read_reference(const char *name, Reference *r)
{
  char path[512];
  size_t bytes = 0;

  snprintf(path, sizeof path, MICC_SHARED_DIR "/reference/llama.cpp/%s.json", name);
  char *text = read_all(path, &bytes);
  cJSON *json = text ? cJSON_ParseWithLength(text, bytes) : NULL;
  r->n_prompt = read_tokens(json, "prompt_tokens", r->prompt);
  r->n_greedy = read_tokens(json, "greedy_tokens", r->greedy);
  cJSON_Delete(json);
  free(text);
  snprintf(path, sizeof path, MICC_SHARED_DIR "/reference/llama.cpp/%s.logits.f32", name);
  r->logits = (float *)(void *)read_all(path, &bytes);
  r->n_logits = (int64_t)(bytes / sizeof(float));
  return r->n_prompt > 0 && r->n_greedy > 0 && r->logits;
}

static double error_of(const float *got, const float *want, int64_t n)
{
  double d = 0, w = 0;

  for (int64_t i = 0; i < n; i++) {
    d += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
    w += (double)want[i] * (double)want[i];
  }
  return d / w;
}

/* ---- one model: logits of prompt and first tokens, greedy tokens, and the same by tiles */

typedef struct {
  const char *model, *reference;
  int64_t n_new;
} ModelCase;

static const ModelCase models[] = {
    {"llm-stories260k/stories260K.gguf", "stories260K-F32", 24},
    {"llm-stories260k/stories260K-F16.gguf", "f32/stories260K-F16", 8},
    {"llm-stories260k/stories260K-BF16.gguf", "f32/stories260K-BF16", 8},
    {"llm-tinystories-656k/gguf-q8_0/TinyStories-656K-Q8_0.gguf", "f32/TinyStories-656K-Q8_0", 16},
    {"llm-quant-test/quant-test-F32.gguf", "quant-test-F32", 4},
    {"llm-quant-test/quant-test-F16.gguf", "f32/quant-test-F16", 2},
    {"llm-quant-test/quant-test-BF16.gguf", "f32/quant-test-BF16", 2},
    {"llm-quant-test/quant-test-Q8_0.gguf", "f32/quant-test-Q8_0", 2},
    {"llm-quant-test/quant-test-Q4_0.gguf", "f32/quant-test-Q4_0", 2},
    {"llm-quant-test/quant-test-Q4_1.gguf", "f32/quant-test-Q4_1", 2},
    {"llm-quant-test/quant-test-Q5_0.gguf", "f32/quant-test-Q5_0", 2},
    {"llm-quant-test/quant-test-Q5_1.gguf", "f32/quant-test-Q5_1", 2},
    {"llm-quant-test/quant-test-Q4_K_S.gguf", "f32/quant-test-Q4_K_S", 2},
    {"llm-quant-test/quant-test-Q5_K_S.gguf", "f32/quant-test-Q5_K_S", 2},
    {"llm-quant-test/quant-test-Q6_K.gguf", "f32/quant-test-Q6_K", 2},
    {"llm-quant-test/quant-test-qwen2-F32.gguf", "quant-test-qwen2-F32", 4},
    {"llm-quant-test/quant-test-qwen2-Q8_0.gguf", "f32/quant-test-qwen2-Q8_0", 2},
    {"llm-quant-test/quant-test-qwen2-Q4_K_S.gguf", "f32/quant-test-qwen2-Q4_K_S", 2},
};

static void by_tiles(Loaded *l, const OracleTask *task, const int32_t *want, const float *want_row)
{
  OracleTask tiled = *task;
  OracleRun run;
  int32_t tokens[MAX_TOKENS];
  int64_t n_rows = 0;
  Err e = {0};
  float *rows = calloc((size_t)(MAX_TOKENS * 2 * l->run.n_vocab), sizeof *rows);

  tiled.tiles = true;
  bool ok = oracle_open(&run, l->module, &e) && oracle_generate(&run, &tiled, tokens, rows, &n_rows, &e);
  CHECK(ok, "%s", e.text);
  CHECK(!ok || !memcmp(tokens, want, (size_t)task->n_new * sizeof *want), "other tokens by tiles");
  CHECK(!ok || !memcmp(rows + (n_rows - 1) * run.n_vocab, want_row, (size_t)run.n_vocab * sizeof *rows),
        "other logits by tiles");
  oracle_close(&run);
  free(rows);
}

static void compare(Loaded *l, const ModelCase *c, const Reference *r)
{
  OracleTask task = {r->prompt, r->n_prompt, c->n_new, false};
  int32_t tokens[MAX_TOKENS] = {0};
  int64_t n_rows = 0, n_vocab = l->run.n_vocab;
  Err e = {0};
  float *rows = calloc((size_t)((r->n_prompt + c->n_new) * n_vocab), sizeof *rows);

  CHECK(oracle_generate(&l->run, &task, tokens, rows, &n_rows, &e), "%s", e.text);
  double error = error_of(rows, r->logits, min64(n_rows * n_vocab, r->n_logits));
  printf("%-60s %.2g\n", c->model, error);
  CHECK(error < bound, "%s: error %g", c->model, error);
  CHECK(!memcmp(tokens, r->greedy, (size_t)c->n_new * sizeof *tokens), "%s: other tokens", c->model);
  by_tiles(l, &task, tokens, rows + (n_rows - 1) * n_vocab);
  free(rows);
}

static void run_model(const ModelCase *c)
{
  char path[512];
  Loaded l = {0};
  Reference r = {0};

  snprintf(path, sizeof path, MICC_SHARED_DIR "/models/%s", c->model);
  if (!load(&l, path))
    return;
  if (read_reference(c->reference, &r))
    compare(&l, c, &r);
  else
    CHECK(false, "no reference %s", c->reference);
  free(r.logits);
  unload(&l);
}

/* ---- one architecture of suites/gguf-archs (its README says which tokens) */

static const char *const archs[] = {"llama-dense", "mistral3-dense", "qwen2-dense", "qwen3-dense"};

static void run_arch(const char *name)
{
  char path[512];
  Loaded l = {0};
  size_t bytes = 0;
  double error = 0;

  snprintf(path, sizeof path, MICC_SHARED_DIR "/suites/gguf-archs/%s.logits.f32", name);
  float *want = (float *)(void *)read_all(path, &bytes);
  snprintf(path, sizeof path, MICC_SHARED_DIR "/suites/gguf-archs/%s.gguf", name);
  if (want && load(&l, path)) {
    int64_t n_vocab = l.run.n_vocab;
    float *got = calloc((size_t)(ARCH_TOKENS * n_vocab), sizeof *got);
    Err e = {0};
    for (int64_t i = 0; i < ARCH_TOKENS; i++)
      CHECK(oracle_decode(&l.run, (int32_t)((i * 37 + 11) % n_vocab), got + i * n_vocab, &e), "%s", e.text);
    CHECK(bytes == (size_t)(ARCH_TOKENS * n_vocab) * sizeof *want, "%s: size of the reference", name);
    error = error_of(got, want, ARCH_TOKENS * n_vocab);
    free(got);
    unload(&l);
  }
  printf("%-60s %.2g\n", name, error);
  CHECK(want && error < bound, "%s: error %g", name, error);
  free(want);
}

/* ---- what is in the tree */

static void run_tree_model(void)
{
  static const int32_t prompt[] = {1, 403, 407, 261, 378}; /* Once upon a time */
  static const int32_t want[] = {432, 383, 286, 261, 376, 298, 315, 421};
  OracleTask task = {prompt, COUNT(prompt), COUNT(want), true};
  int32_t tokens[COUNT(want)] = {0};
  int64_t n_rows;
  Loaded l;
  Err e = {0};

  if (load(&l, data_model)) {
    CHECK(oracle_generate(&l.run, &task, tokens, NULL, &n_rows, &e), "%s", e.text);
    CHECK(!memcmp(tokens, want, sizeof want), "other tokens");
  }
  unload(&l);
}

static void run_misuse(void)
{
  static const int32_t outside = 512, prompt[200];
  OracleTask endless = {prompt, 200, 0, false};
  int32_t tokens[1];
  int64_t n_rows;
  Loaded l;

  if (load(&l, data_model)) {
    Err e = {0}, full = {0}, empty = {0};
    CHECK(!oracle_decode(&l.run, outside, NULL, &e) && !strcmp(e.text, "token 512 is not one of 512"), "%s",
          e.text);
    CHECK(!oracle_generate(&l.run, &endless, tokens, NULL, &n_rows, &full) &&
              !strcmp(full.text, "the context is full: 129 tokens, 128 fit"),
          "%s", full.text);
    CHECK(!oracle_generate(&l.run, &(OracleTask){0}, tokens, NULL, &n_rows, &empty), "an empty prompt");
  }
  unload(&l);
}

int main(void)
{
  run_tree_model();
  run_misuse();
  if (access(MICC_SHARED_DIR "/reference/llama.cpp", R_OK)) {
    printf("skipped: %s is not there; only the model in the tree was run\n", MICC_SHARED_DIR);
    return failures != 0;
  }
  for (size_t i = 0; i < COUNT(models); i++)
    run_model(&models[i]);
  for (size_t i = 0; i < COUNT(archs); i++)
    run_arch(archs[i]);
  printf(failures ? "%d failures\n" : "passed\n", failures);
  return failures != 0;
}
