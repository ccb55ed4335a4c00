/* models.c - small models through micc and what it makes, against llama.cpp's tokens and logits.
 *
 * Three claims (README.md here says more): the text is right, by every way from model to text; the numbers
 * depend neither on threads nor on how a token came in; quantised weights cost no more accuracy than they
 * cost llama.cpp. References: shared/reference/llama.cpp, shared/suites/gguf-archs. */
#include "tests/e2e/support/inprocess.h"
#include "tests/e2e/support/proc.h"
#include "tests/e2e/support/reference.h"
#include "tests/e2e/support/scene.h"
#include "tests/e2e/support/tally.h"
#include "tests/e2e/support/way.h"

#include <stdio.h>
#include <unistd.h>

#define SHARED_MODELS MICC_SHARED_DIR "/models/"
#define STORIES       SHARED_MODELS "llm-stories260k/stories260K"
#define TINY_Q8       SHARED_MODELS "llm-tinystories-656k/gguf-q8_0/TinyStories-656K-Q8_0.gguf"
#define QUANT         SHARED_MODELS "llm-quant-test/quant-test-"
#define ARCHS         MICC_SHARED_DIR "/suites/gguf-archs/"

static const char model_in_tree[] = MICC_SOURCE_DIR "/tests/data/stories260K.gguf";

/* Two logits closer than this may change places: quantised activations move the difference of two logits of
 * the models here by 0.1 at most. */
static const double near_tie = 0.25;

static const char *base_name(const char *path)
{
  return strrchr(path, '/') + 1;
}

/* Any tokens will do where only equal bits are asked for. */
static int32_t *some_tokens(Suite *s, unsigned n, unsigned n_vocab)
{
  int32_t *t = NEW_ARRAY(&s->arena, int32_t, n);
  for (unsigned i = 0; i < n; i++)
    t[i] = (int32_t)((i * 37 + 11) % n_vocab);
  return t;
}

/* Those that need no C compiler are enough for most. */
static Ways quick_ways(Suite *s, const char *model)
{
  Ways w = {.n = 0};

  if (MICC_HAVE_LLVM)
    way_exe(s, model, NULL, &w);
  if (MICC_HAVE_LLVM)
    way_run(s, model, NULL, &w);
  if (MICC_HAVE_TCC)
    way_run(s, model, "--backend=tcc", &w);
  return w;
}

/* ---- greedy continuations */

static void same_continuation(Suite *s, const Way *w, const char *name, const Reference *r,
                              const char *threads)
{
  Told told;

  if (!way_generate(s, w, r->prompt, r->n_greedy, ARGS("-t", threads), &told))
    return;
  bool prompt = told.n_prompt == r->n_prompt && !memcmp(told.prompt, r->tokens, 4 * r->n_prompt);
  unsigned n = told.n_tokens < r->n_greedy ? told.n_tokens : r->n_greedy;
  unsigned same = first_difference(told.tokens, reference_greedy(r), n);
  bool text = !strcmp(told.text, r->text);

  tally(prompt && text && same == r->n_greedy && told.n_tokens == r->n_greedy,
        "%-18s %-14s -t %s: prompt ids %s, %u of %u tokens equal, text %s", name, w->label, threads,
        prompt ? "equal" : "DIFFER", same, r->n_greedy, text ? "equal" : "DIFFERS");
}

static void test_stories(Suite *s)
{
  static const struct {
    const char *model, *reference, *compilers[2]; /* none: those of the row before */
  } rows[] = {{STORIES ".gguf", "stories260K-F32", {"gcc", "clang-19"}},
              {STORIES ".gguf", "stories260K-F32-lily", {NULL}},
              {STORIES "-F16.gguf", "stories260K-F16", {"gcc"}},
              {STORIES "-BF16.gguf", "stories260K-BF16", {"clang-19"}}};
  Ways w = {.n = 0};
  Reference r;

  suite_section(s, "stories260K: greedy continuations equal llama.cpp's, token for token");
  for (unsigned i = 0; i < COUNT(rows); i++) {
    if (rows[i].compilers[0])
      w = quick_ways(s, rows[i].model);
    for (unsigned j = 0; j < 2 && rows[i].compilers[j]; j++)
      way_c(s, rows[i].model, rows[i].compilers[j], "-O2", &w);
    if (!reference_read(s, rows[i].reference, &r))
      continue;
    for (unsigned j = 0; j < w.n; j++) {
      same_continuation(s, &w.way[j], rows[i].reference, &r, "1");
      same_continuation(s, &w.way[j], rows[i].reference, &r, "2");
    }
  }
}

/* How far our best logit lies above the reference's token, after the reference's own tokens; the largest of
 * all steps up to `n`. Zero: the same choice at each step. */
static double worst_choice(const Reference *r, const float *rows, unsigned n_vocab, unsigned n,
                           unsigned *step)
{
  double worst = 0;

  *step = 0;
  for (unsigned i = 0; i < n; i++) {
    const float *row = rows + (size_t)(r->n_prompt - 1 + i) * n_vocab;
    double gap = (double)row[best_of(row, n_vocab)] - (double)row[reference_greedy(r)[i]];
    if (gap > worst) {
      worst = gap;
      *step = i;
    }
  }
  return worst;
}

/* A continuation may leave the reference's at a near tie, and then means nothing any more. So the program is
 * led along the reference's tokens, and each of its choices is looked at. */
static void near_choices(Suite *s, const Way *w, const char *name, const Reference *r)
{
  unsigned n_vocab, step, n = r->n_prompt + r->n_greedy;
  Told told;
  const float *rows = way_logits(s, w, r->tokens, n, ARGS("-t", "2"), &n_vocab);

  if (!rows || !way_generate(s, w, r->prompt, r->n_greedy, ARGS("-t", "2"), &told))
    return;
  unsigned most = told.n_tokens < r->n_greedy ? told.n_tokens : r->n_greedy;
  unsigned same = first_difference(told.tokens, reference_greedy(r), most);
  double worst = worst_choice(r, rows, n_vocab, r->n_greedy, &step);
  tally(
      worst < near_tie && told.n_prompt == r->n_prompt && !memcmp(told.prompt, r->tokens, 4 * r->n_prompt),
      "%-26s %-14s: %u of %u tokens equal on its own; led, its choices are within %.4f (step %u; bound %.2f)",
      name, w->label, same, r->n_greedy, worst, step, near_tie);
}

static void test_tiny_q8(Suite *s)
{
  static const char *const references[] = {"f32/TinyStories-656K-Q8_0", "TinyStories-656K-Q8_0-lily"};
  Ways w;
  Reference r;

  suite_section(s, "TinyStories-656K Q8_0: choices equal the reference's up to near ties");
  w = quick_ways(s, TINY_Q8);
  way_c(s, TINY_Q8, "gcc", "-O1", &w); /* -O2 takes 10 s */
  for (unsigned i = 0; i < COUNT(references); i++)
    for (unsigned j = 0; j < w.n && reference_read(s, references[i], &r); j++)
      near_choices(s, &w.way[j], references[i], &r);
}

/* For a tree without the shared folder: the ways against each other. */
static void test_ways_agree(Suite *s)
{
  static const char prompt[] = "Once upon a time";
  enum { N = 200 };
  Ways w;
  Told first = {0}, told;

  suite_section(s, "the model in the tree: every way gives the same tokens");
  w = quick_ways(s, model_in_tree);
  for (unsigned i = 0; i < w.n; i++) {
    if (!way_generate(s, &w.way[i], prompt, N, ARGS("--ignore-eos"), &told))
      continue;
    if (!first.n_tokens)
      first = told;
    unsigned same = told.n_tokens == N ? first_difference(told.tokens, first.tokens, N) : 0;
    tally(same == N, "%-14s: %u of %d tokens equal: \"%.40s...\"", w.way[i].label, same, N, told.text);
  }
}

/* ---- the same bits whatever the threads */

static void same_bits(Suite *s, const char *model)
{
  enum { N = 64 };
  int32_t *tokens = some_tokens(s, N, 500);
  unsigned n_vocab, n_vocab2;
  Ways w = {.n = 0};

  if (MICC_HAVE_LLVM)
    way_exe(s, model, NULL, &w);
  else
    way_run(s, model, "--backend=tcc", &w);
  const float *one = way_logits(s, w.way, tokens, N, ARGS("-t", "1"), &n_vocab);

  for (const char *t = "23"; one && *t; t++) {
    const char threads[] = {*t, 0};
    const float *more = way_logits(s, w.way, tokens, N, ARGS("-t", threads), &n_vocab2);
    if (more)
      tally(n_vocab == n_vocab2 && !memcmp(one, more, sizeof *one * N * n_vocab),
            "%-32s -t %s: %u rows of %u logits have the bits of -t 1", base_name(model), threads, N, n_vocab);
  }
}

static void test_threads(Suite *s, bool shared)
{
  static const char *const models[] = {STORIES "-F16.gguf", TINY_Q8, QUANT "Q4_K_S.gguf", QUANT "Q6_K.gguf",
                                       QUANT "qwen2-Q8_0.gguf"};

  suite_section(s, "logits do not depend on the number of threads");
  same_bits(s, model_in_tree);
  for (unsigned i = 0; shared && i < COUNT(models); i++)
    same_bits(s, models[i]);
}

/* ---- the same bits through prefill and decode */

enum { ROWS = 5 };

typedef struct {
  const char *cpu; /* NULL: C */
  uint32_t tile;
  unsigned threads;
  uint32_t n; /* tokens */
  uint32_t tiled[5];
} Split;

/* Programs that differ in tile and threads; in each, splits of the same tokens. All give the bits of the
 * first program's decode, token by token. */
static void same_bits_split(Suite *s, const char *model, const Split *split, unsigned n_splits)
{
  float *want = NULL, *got = NULL;
  unsigned same = 0, all = 0;
  InProgram p;

  for (unsigned i = 0; i < n_splits; i++, in_close(&p)) {
    InOptions o = {split[i].cpu, split[i].tile, 256, split[i].threads};
    if (!in_open(&p, model, &o))
      continue;
    int32_t *tokens = some_tokens(s, split[i].n, p.n_vocab < 500 ? p.n_vocab : 500);
    size_t count = (size_t)ROWS * p.n_vocab;
    if (!want) {
      want = NEW_ARRAY(&s->arena, float, count), got = NEW_ARRAY(&s->arena, float, count);
      in_feed(&p, tokens, split[i].n, 0, want, ROWS);
    }
    for (unsigned j = 0; j < COUNT(split[i].tiled) && split[i].tiled[j]; j++, all++)
      same += in_feed(&p, tokens, split[i].n, split[i].tiled[j], got, ROWS) &&
              !memcmp(want, got, count * sizeof *want);
  }
  tally(all && same == all, "%-32s %-18s: %u of %u splits have decode's bits", base_name(model),
        split[0].cpu ? split[0].cpu : "C", same, all);
}

/* Whole tiles, a short last tile, a tile of one, and a tile that is no multiple of any register tile. */
static void split_for(Suite *s, const char *model, const char *cpu)
{
  Split llvm[] = {{cpu, 96, 1, 130, {125, 97, 96, 5, 1}}, {cpu, 7, 3, 130, {124, 49}}};
  Split c[] = {{NULL, 12, 2, 24, {19, 12}}, {NULL, 5, 1, 24, {13}}};

  if (cpu)
    same_bits_split(s, model, llvm, COUNT(llvm));
  else
    same_bits_split(s, model, c, COUNT(c));
}

static const char *const quant_types[] = {"F32",  "F16",   "BF16",      "Q8_0",       "Q4_0",
                                          "Q4_1", "Q5_0",  "Q5_1",      "Q4_K_S",     "Q5_K_S",
                                          "Q6_K", "TQ2_0", "qwen2-F32", "qwen2-Q8_0", "qwen2-Q4_K_S"};

static void test_prefill(Suite *s, const Cpus *cpus, bool shared)
{
  suite_section(s, "logits do not depend on whether tokens came through prefill or decode");
  for (unsigned c = 0; c < cpus->n; c++)
    split_for(s, model_in_tree, cpus->name[c]);
  if (MICC_HAVE_TCC)
    split_for(s, model_in_tree, NULL);
  for (unsigned i = 0; shared && i < COUNT(quant_types); i++) {
    const char *model = arena_printf(&s->arena, QUANT "%s.gguf", quant_types[i]);
    for (unsigned c = i % 3; c < cpus->n; c += 3) /* each row of the target table sees a third of the types */
      split_for(s, model, cpus->name[c]);
    if (MICC_HAVE_TCC && i % 3 == 0)
      split_for(s, model, NULL);
  }
}

/* ---- quantised weights: no farther from the truth than llama.cpp is */

typedef struct {
  Reference truth, llama;
  unsigned rows; /* after the same tokens in both */
} Quant;

/* Where the two references begin to differ in what they continue with, their rows can no longer be compared. */
static bool quant_read(Suite *s, const char *type, Quant *q)
{
  bool is_truth = strstr(type, "F32");
  const char *name = arena_printf(&s->arena, "quant-test-%s", type);

  if (!reference_read(s, name, &q->llama) ||
      !reference_read(s, is_truth ? name : arena_printf(&s->arena, "f32/%s", name), &q->truth))
    return false;
  if (q->truth.n_rows <= q->truth.n_prompt || q->llama.n_rows != q->truth.n_rows)
    return tally(false, "%s: the references have %u and %u rows", name, q->truth.n_rows, q->llama.n_rows);
  unsigned fed = q->truth.n_rows - q->truth.n_prompt;
  q->rows =
      q->truth.n_prompt + first_difference(reference_greedy(&q->truth), reference_greedy(&q->llama), fed);
  return true;
}

static double quant_kl(Suite *s, const Quant *q, const Way *w)
{
  unsigned n_vocab;
  const float *rows = way_logits(s, w, q->truth.tokens, q->rows, ARGS("-t", "2"), &n_vocab);
  return rows && n_vocab == q->truth.n_vocab ? kl_mean(q->truth.rows, rows, n_vocab, q->rows) : 1e9;
}

static void test_quant_type(Suite *s, const char *type, const Cpus *cpus)
{
  const char *model = arena_printf(&s->arena, QUANT "%s.gguf", type);
  bool is_float = strstr(type, "F32") || strstr(type, "F16");
  Text line = {.arena = &s->arena};
  Quant q;
  Ways w = {.n = 0};
  bool ok = true;

  if (!quant_read(s, type, &q))
    return;
  double theirs = kl_mean(q.truth.rows, q.llama.rows, q.truth.n_vocab, q.rows);
  double bound = is_float && (theirs == 0 || theirs > 1e-6) ? 1e-6 : theirs;
  for (unsigned c = 0; c < cpus->n; c++)
    way_run(s, model, arena_printf(&s->arena, "--prefill=0 --cpu=%s", cpus->name[c]), &w);
  if (MICC_HAVE_TCC)
    way_run(s, model, "--prefill=0 --backend=tcc", &w);
  for (unsigned i = 0; i < w.n; i++) {
    double ours = quant_kl(s, &q, &w.way[i]);
    ok &= ours <= bound;
    text_printf(&line, " %9.3e%c", ours, ours <= bound ? ' ' : '!');
  }
  tally(ok, "%-13s %2u rows  %9.3e |%s", type, q.rows, theirs, line.data);
}

static void test_quant(Suite *s, const Cpus *cpus)
{
  suite_section(
      s, "mean KL from the truth (weights as floats): ours is no larger than llama.cpp's, floats below 1e-6");
  printf("        %-13s %7s  llama.cpp |", "type", "");
  for (unsigned c = 0; c < cpus->n; c++)
    printf(" %-10.10s", cpus->name[c]);
  printf("%s\n", MICC_HAVE_TCC ? " C" : "");
  for (unsigned i = 0; i < COUNT(quant_types); i++)
    test_quant_type(s, quant_types[i], cpus);
}

static void test_unread_types(Suite *s)
{
  static const char *const rows[][2] = {{"Q2_K", "q2_K"},     {"Q3_K_S", "q3_K"},     {"IQ4_NL", "iq4_nl"},
                                        {"IQ4_XS", "iq4_xs"}, {"MXFP4_MOE", "mxfp4"}, {"TQ1_0", "tq1_0"}};

  suite_section(s, "types that are not read yet: one line that names type and tensor, and no file");
  for (unsigned i = 0; i < COUNT(rows); i++) {
    const char *out = arena_printf(&s->arena, "%s/none", s->dir);
    Proc p = proc(&s->arena, NULL, MICC_EXE, arena_printf(&s->arena, QUANT "%s.gguf", rows[i][0]), "-o", out);
    tally(p.status == 1 && proc_lines(p.err) == 1 && strstr(p.err, rows[i][1]) &&
              strstr(p.err, "output.weight") && !p.out_len && scene_size(out) < 0,
          "%-10s exit status %d: %.*s", rows[i][0], p.status, (int)strcspn(p.err, "\n"), p.err);
  }
}

/* ---- architectures */

static void test_archs(Suite *s)
{
  static const char *const names[] = {"llama-dense", "mistral3-dense", "qwen2-dense"};
  enum { N = 48 };
  static const double bound = 1e-9;

  suite_section(s, "gguf-archs: normalised squared difference from llama.cpp's logits, 48 tokens");
  for (unsigned i = 0; i < COUNT(names); i++) {
    const char *model = arena_printf(&s->arena, ARCHS "%s.gguf", names[i]);
    size_t count;
    unsigned n_vocab;
    const float *want = floats_read(s, arena_printf(&s->arena, ARCHS "%s.logits.f32", names[i]), &count);
    Ways w = quick_ways(s, model);
    for (unsigned j = 0; want && j < w.n; j++) {
      const float *rows = way_logits(s, &w.way[j], some_tokens(s, N, 128), N, ARGS("-t", "2"), &n_vocab);
      bool fits = rows && count == (size_t)N * n_vocab;
      double d = fits ? nmse(want, rows, (size_t)N * n_vocab) : 1e9;
      tally(d < bound, "%-14s %-14s: %.2e (bound %.0e)", names[i], w.way[j].label, d, bound);
    }
  }
}

int main(void)
{
  Suite s;
  bool shared = scene_size(TINY_Q8) >= 0;
  Cpus cpus = {.n = 0};

  suite_open(&s);
  if (MICC_HAVE_LLVM)
    cpus = cpus_here(&s);
  test_ways_agree(&s);
  test_threads(&s, shared);
  test_prefill(&s, &cpus, shared);
  if (!shared) {
    tally_skip("models and references: %s is not there", MICC_SHARED_DIR);
    return suite_close(&s);
  }
  test_stories(&s);
  test_tiny_q8(&s);
  test_quant(&s, &cpus);
  test_unread_types(&s);
  test_archs(&s);
  return suite_close(&s);
}
