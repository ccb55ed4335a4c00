/* real.c - two real language models through micc, against llama.cpp: Gemma 3 270M and Qwen2.5-Coder 0.5B,
 * both Q4_K_M. shared/reference/llama.cpp/real/README.md says where they come from; get_models.sh fetches
 * them. They are looked for in the folder that MICC_MODELS names, or else in BUILD/models. */
#include "tests/e2e/support/inprocess.h"
#include "tests/e2e/support/reference.h"
#include "tests/e2e/support/scene.h"
#include "tests/e2e/support/tally.h"
#include "tests/e2e/support/way.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Where the reference's two best logits are closer than this, rounding may change the choice. */
static const double near_tie = 0.25;

typedef struct {
  const char *file, *reference;
  const char *cases[4];
  double llama_kl;   /* as the reference's README states it */
  unsigned n_tokens; /* of a sequence for prefill; Gemma's windows hold 512 */
} Real;

static const Real models[] = {
    {"gemma-3-270m-q4_k_m.gguf", "gemma3-270m-q4_k_m", {"france", "recipe", "multi"}, 0.00477, 600},
    {"qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
     "qwen2.5-coder-0.5b-instruct-q4_k_m",
     {"fib", "reverse", "sql"},
     0.00087,
     120},
};

static const char *reference_name(Suite *s, const Real *m, const char *folder, const char *name)
{
  return arena_printf(&s->arena, "real/%s%s-%s", folder, m->reference, name);
}

/* ---- greedy continuations */

static unsigned steps_before_tie(const Reference *r)
{
  unsigned n = 0;
  while (n < r->n_greedy && r->gaps[n] >= near_tie)
    n++;
  return n;
}

/* Once both have chosen differently at a near tie, nothing can be compared any more. */
static void test_against(const Told *told, const Reference *r, const char *what, const char *name)
{
  unsigned safe = r->gaps ? steps_before_tie(r) : 0;
  unsigned n = told->n_tokens < r->n_greedy ? told->n_tokens : r->n_greedy;
  unsigned same = first_difference(told->tokens, reference_greedy(r), n);

  tally(r->gaps && same >= safe, "%-8s against %-21s: %2u of %u tokens equal, first near tie at %u", name,
        what, same, r->n_greedy, safe);
}

static void test_case(Suite *s, const Real *m, const Way *w, const char *name)
{
  Reference truth, llama;
  Told told;

  if (!reference_read(s, reference_name(s, m, "f32/", name), &truth) ||
      !reference_read(s, reference_name(s, m, "", name), &llama) ||
      !way_generate(s, w, truth.prompt, truth.n_greedy, ARGS("-t", "2"), &told))
    return;
  bool ids = told.n_prompt == truth.n_prompt && !memcmp(told.prompt, truth.tokens, 4 * truth.n_prompt);
  tally(ids, "%-8s prompt: %u token ids, %s", name, told.n_prompt, ids ? "equal" : "not the reference's");
  test_against(&told, &truth, "the F32 truth", name);
  test_against(&told, &llama, "llama.cpp's own", name);
}

/* ---- divergence from the truth */

static void test_kl(Suite *s, const Real *m, const Way *w)
{
  unsigned n_truth, n_llama, n_vocab;
  Reference r;
  const TopRow *truth = top_read(s, reference_name(s, m, "f32/", "text"), &n_truth);
  const TopRow *llama = top_read(s, reference_name(s, m, "", "text"), &n_llama);

  if (!truth || !llama || n_truth != n_llama || !reference_read(s, reference_name(s, m, "", "text"), &r))
    return;
  const float *rows = way_logits(s, w, r.tokens, n_truth, ARGS("-t", "2"), &n_vocab);
  double ours = 0, theirs = 0, most = 0;
  for (unsigned i = 0; rows && i < n_truth; i++) {
    double kl = kl_top(&truth[i], &llama[i], rows + (size_t)i * n_vocab, n_vocab);
    ours += kl / n_truth;
    most = fmax(most, kl);
    theirs += kl_top(&truth[i], &llama[i], NULL, 0) / n_truth;
  }
  tally(fabs(theirs - m->llama_kl) < 1e-5,
        "text: llama.cpp's mean KL from the truth is %.5f (its README: %.5f)", theirs, m->llama_kl);
  tally(rows && ours <= theirs,
        "text: our mean KL from the truth is %.5f (%.0f%% of llama.cpp's), the largest %.4f, %u rows", ours,
        100 * ours / theirs, most, n_truth);
}

/* ---- the same bits through prefill and decode, beyond the sliding windows */

enum { TILE = 96, ROWS = 3 };

static void test_prefill(Suite *s, const char *path, unsigned n_tokens)
{
  InOptions o = {"native", TILE, 1024, 2};
  int32_t *tokens = NEW_ARRAY(&s->arena, int32_t, n_tokens);
  InProgram p;

  if (in_open(&p, path, &o)) {
    size_t n = (size_t)ROWS * p.n_vocab;
    float *want = NEW_ARRAY(&s->arena, float, n), *got = NEW_ARRAY(&s->arena, float, n);
    for (unsigned i = 0; i < n_tokens; i++)
      tokens[i] = (int32_t)((i * 7919u + 11) % 100000);
    bool ok = in_feed(&p, tokens, n_tokens, 0, want, ROWS) &&
              in_feed(&p, tokens, n_tokens, n_tokens - ROWS, got, ROWS);
    tally(ok && !memcmp(want, got, n * sizeof *want),
          "%u tokens: the last %d rows of logits have the same bits through prefill and decode", n_tokens,
          ROWS);
  }
  in_close(&p);
}

/* ---- a model */

static const char *model_path(Suite *s, const char *file)
{
  const char *folder = getenv("MICC_MODELS");
  return folder && *folder ? arena_printf(&s->arena, "%s/%s", folder, file)
                           : arena_printf(&s->arena, "%s/models/%s", MICC_BINARY_DIR, file);
}

static void test_model(Suite *s, const Real *m)
{
  const char *path = model_path(s, m->file);
  const char *flags = getenv("MICC_FLAGS"); /* more of micc's options, to see what they do to the figures */
  Ways w = {.n = 0};

  suite_section(s, m->file);
  if (scene_size(path) < 0) {
    tally_skip("%s: %s is not there (tests/e2e/get_models.sh fetches it)", m->file, path);
    return;
  }
  if (MICC_HAVE_LLVM)
    way_exe(s, path, flags ? arena_printf(&s->arena, "--context=1024 %s", flags) : "--context=1024", &w);
  else
    way_run(s, path, "--backend=tcc", &w);
  test_kl(s, m, w.way);
  for (unsigned i = 0; i < COUNT(m->cases) && m->cases[i]; i++)
    test_case(s, m, w.way, m->cases[i]);
  if (MICC_HAVE_LLVM)
    test_prefill(s, path, m->n_tokens);
}

int main(void)
{
  Suite s;

  suite_open(&s);
  if (scene_size(MICC_SHARED_DIR "/reference/llama.cpp/real/README.md") < 0)
    tally_skip("real models: %s has no references", MICC_SHARED_DIR);
  else
    for (unsigned i = 0; i < COUNT(models); i++)
      test_model(&s, &models[i]);
  return suite_close(&s);
}
