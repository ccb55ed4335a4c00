/* tokenizer.c - tests of the tokenizer on real vocabularies: llama.cpp's vectors, the prompts of the
 * reference runs, and what must hold for any text. Models that are not there are skipped with a line that
 * says so; stories260K is in the tree. */
#include "tests/unit/tokenizer_tools.h"

#include <cjson/cJSON.h>
#include <criterion/criterion.h>
#include <time.h>
#include <unistd.h>
#include <utf8proc.h>

#define SUITE   MICC_SHARED_DIR "/suites/tokenizers-llama.cpp/"
#define RUNS    MICC_SHARED_DIR "/reference/llama.cpp/"
#define MODELS  MICC_SHARED_DIR "/models/"
#define STORIES MICC_SOURCE_DIR "/tests/data/stories260K.gguf"
#define GEMMA   "gemma-3-270m-q4_k_m.gguf"
#define QWEN    "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf"

/* A model's table, and all that is allocated for a test. */
typedef struct {
  Arena arena;
  Model *model;
  const void *table;
} Tok;

/* A name without a folder is a large model, which the tests download or are told of. */
static const char *full_path(Arena *a, const char *path)
{
  const char *folder = getenv("MICC_MODELS");

  if (strchr(path, '/'))
    return path;
  return arena_printf(a, "%s/%s", folder ? folder : MICC_BINARY_DIR "/models", path);
}

static bool is_missing(const char *path)
{
  Arena a = {0};
  bool missing = access(full_path(&a, path), R_OK) != 0;

  if (missing)
    fprintf(stderr, "skipped: %s is not there\n", full_path(&a, path));
  arena_free(&a);
  return missing;
}

static Tok open_tok(const char *path)
{
  Tok t = {0};
  Err e = {0};

  t.model = model_open(full_path(&t.arena, path), &e);
  cr_assert(t.model, "%s", e.text);
  t.table = tok_table(t.model, &t.arena, &e);
  cr_assert(t.table, "%s", e.text);
  return t;
}

static void close_tok(Tok *t)
{
  model_close(t->model);
  arena_free(&t->arena);
}

static char *read_text(Arena *a, const char *path)
{
  Text t = {.arena = a};
  char part[4096];
  FILE *f = fopen(path, "rb");

  cr_assert(f, "%s", path);
  text_add(&t, "", 0);
  for (size_t n; (n = fread(part, 1, sizeof part, f)) > 0;)
    text_add(&t, part, n);
  fclose(f);
  return t.data;
}

/* ---- vectors: texts between marker lines, and a line of ids for each. They were made without BOS. */

static int run_vectors(Tok *t, const char *stem)
{
  static const char mark[] = "\n__ggml_vocab_test__\n";
  char *text = read_text(&t->arena, arena_printf(&t->arena, "%s%s.gguf.inp", SUITE, stem));
  char *ids = read_text(&t->arena, arena_printf(&t->arena, "%s%s.gguf.out", SUITE, stem));
  int count = 0;

  for (char *end; (end = strstr(text, mark)); text = end + strlen(mark), count++) {
    *end = 0;
    size_t n = strcspn(ids, "\n");
    const char *expected = arena_strndup(&t->arena, ids + (*ids == ' '), n - (*ids == ' '));
    const char *got = tok_ids(t->table, &t->arena, text, false, false);
    cr_expect_str_eq(got, expected, "%s '%s': %s, not %s", stem, text, got, expected);
    ids += n + 1;
  }
  return count;
}

Test(tokenizer, agrees_with_the_vectors)
{
  static const struct {
    const char *model, *vectors;
  } cases[] = {
      {SUITE "ggml-vocab-llama-spm.gguf", "ggml-vocab-llama-spm"},
      {SUITE "ggml-vocab-phi-3.gguf", "ggml-vocab-phi-3"},
      {SUITE "ggml-vocab-gpt-2.gguf", "ggml-vocab-gpt-2"},
      {SUITE "ggml-vocab-mpt.gguf", "ggml-vocab-mpt"},
      {SUITE "ggml-vocab-refact.gguf", "ggml-vocab-refact"},
      {SUITE "ggml-vocab-starcoder.gguf", "ggml-vocab-starcoder"},
      {SUITE "ggml-vocab-falcon.gguf", "ggml-vocab-falcon"},
      {SUITE "ggml-vocab-deepseek-coder.gguf", "ggml-vocab-deepseek-coder"},
      {SUITE "ggml-vocab-deepseek-llm.gguf", "ggml-vocab-deepseek-llm"},
      {QWEN, "ggml-vocab-qwen2"},
      {QWEN, "extra-2025-02/ggml-vocab-deepseek-r1-qwen"},
  };

  for (size_t i = 0; i < COUNT(cases); i++) {
    if (is_missing(cases[i].model))
      continue;
    Tok t = open_tok(cases[i].model);
    cr_expect_geq(run_vectors(&t, cases[i].vectors), 45, "%s", cases[i].vectors);
    close_tok(&t);
  }
}

/* ---- reference runs: the prompt's ids; the continuation's text from its ids */

static int64_t json_ids(const cJSON *list, Arena *a, int32_t **out)
{
  int64_t n = 0;
  const cJSON *item;

  *out = NEW_ARRAY(a, int32_t, (size_t)cJSON_GetArraySize(list));
  cJSON_ArrayForEach(item, list)(*out)[n++] = (int32_t)item->valuedouble;
  return n;
}

/* What a reader of the stream sees. */
static const char *stream(const void *table, Arena *a, const int32_t *ids, int64_t n, bool continues)
{
  MiDecoder d = {.started = continues};
  Text t = {.arena = a};
  char out[1024];

  text_add(&t, "", 0);
  for (int64_t i = 0; i < n; i++)
    text_add(&t, out, mi_tok_decode(table, &d, ids[i], out, sizeof out));
  text_add(&t, out, mi_tok_flush(&d, out, sizeof out));
  return t.data;
}

static bool is_utf8(const char *s, size_t n)
{
  utf8proc_int32_t cp;

  for (utf8proc_ssize_t bytes; n; s += bytes, n -= (size_t)bytes) {
    bytes = utf8proc_iterate((const uint8_t *)s, (utf8proc_ssize_t)n, &cp);
    if (bytes <= 0)
      return false;
  }
  return true;
}

/* The references show control tokens; we do not. */
static const char *with_control(Tok *t, const int32_t *ids, int64_t n)
{
  const Meta *tokens = model_meta(t->model, "tokenizer.ggml.tokens");
  Text all = {.arena = &t->arena};

  text_add(&all, "", 0);
  for (int64_t i = 0; i < n; i++) {
    Text piece = tok_bytes(t->table, &t->arena, ids + i, 1, false);
    Str name = tokens->strings[ids[i]];
    text_add(&all, piece.len ? piece.data : name.data, piece.len ? piece.len : name.len);
  }
  return all.data;
}

static void check_run(Tok *t, const char *path)
{
  cJSON *run = cJSON_Parse(read_text(&t->arena, path));
  int32_t *ids;

  cr_assert(run, "%s", path);
  const char *prompt = cJSON_GetStringValue(cJSON_GetObjectItem(run, "prompt"));
  const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(run, "greedy_text"));
  int64_t n = json_ids(cJSON_GetObjectItem(run, "prompt_tokens"), &t->arena, &ids);
  const char *expected = tok_show(&t->arena, ids, n), *got = tok_ids(t->table, &t->arena, prompt, true, true);
  cr_expect_str_eq(got, expected, "%s: %s, not %s", path, got, expected);
  n = json_ids(cJSON_GetObjectItem(run, "greedy_tokens"), &t->arena, &ids);
  const char *bytes = with_control(t, ids, n);
  cr_expect_str_eq(bytes, text, "%s: '%s', not '%s'", path, bytes, text);
  const char *shown = stream(t->table, &t->arena, ids, n, true);
  cr_expect(is_utf8(shown, strlen(shown)));
  if (is_utf8(text, strlen(text)) && !strstr(text, "<|"))
    cr_expect_str_eq(shown, text, "%s", path);
  cJSON_Delete(run);
}

Test(tokenizer, agrees_with_the_reference_runs)
{
  static const struct {
    const char *model;
    const char *runs[24]; /* the random models of all types share a vocabulary */
  } cases[] = {
      {MODELS "llm-stories260k/stories260K.gguf", {"stories260K-F32", "stories260K-F32-lily"}},
      {MODELS "llm-stories260k/stories260K-F16.gguf", {"stories260K-F16", "f32/stories260K-F16"}},
      {MODELS "llm-stories260k/stories260K-BF16.gguf", {"stories260K-BF16", "f32/stories260K-BF16"}},
      {MODELS "llm-tinystories-656k/gguf-q8_0/TinyStories-656K-Q8_0.gguf",
       {"TinyStories-656K-Q8_0", "TinyStories-656K-Q8_0-lily", "f32/TinyStories-656K-Q8_0"}},
      {MODELS "llm-quant-test/quant-test-F32.gguf",
       {"quant-test-F32", "quant-test-F16", "quant-test-BF16", "quant-test-Q8_0", "quant-test-Q4_0",
        "quant-test-Q4_1", "quant-test-Q5_0", "quant-test-Q5_1", "quant-test-Q4_K_S", "quant-test-Q5_K_S",
        "quant-test-Q6_K", "quant-test-Q2_K", "quant-test-Q3_K_S", "quant-test-IQ4_NL", "quant-test-IQ4_XS",
        "quant-test-TQ1_0", "quant-test-TQ2_0", "quant-test-MXFP4_MOE"}},
      {MODELS "llm-quant-test/quant-test-qwen2-F32.gguf",
       {"quant-test-qwen2-F32", "quant-test-qwen2-Q4_K_S", "quant-test-qwen2-Q8_0"}},
      {GEMMA,
       {"real/gemma3-270m-q4_k_m-france", "real/gemma3-270m-q4_k_m-multi", "real/gemma3-270m-q4_k_m-recipe",
        "real/gemma3-270m-q4_k_m-text", "real/f32/gemma3-270m-q4_k_m-multi"}},
      {QWEN,
       {"real/qwen2.5-coder-0.5b-instruct-q4_k_m-fib", "real/qwen2.5-coder-0.5b-instruct-q4_k_m-reverse",
        "real/qwen2.5-coder-0.5b-instruct-q4_k_m-sql", "real/qwen2.5-coder-0.5b-instruct-q4_k_m-text"}},
  };

  for (size_t i = 0; i < COUNT(cases); i++) {
    if (is_missing(cases[i].model) || is_missing(RUNS "stories260K-F32.json"))
      continue;
    Tok t = open_tok(cases[i].model);
    for (size_t k = 0; k < COUNT(cases[i].runs) && cases[i].runs[k]; k++)
      check_run(&t, arena_printf(&t.arena, RUNS "%s.json", cases[i].runs[k]));
    close_tok(&t);
  }
}

/* ---- what holds for any text */

static const char *const any[] = {
    STORIES,
    SUITE "ggml-vocab-gpt-2.gguf",
    SUITE "ggml-vocab-starcoder.gguf",
    SUITE "ggml-vocab-llama-spm.gguf",
    GEMMA,
    QWEN,
};

/* Random bytes, text that is mostly words, and long runs. */
static size_t random_text(uint64_t *seed, char *s, size_t cap)
{
  static const char *const words[] = {" the", "\n", "é",  "中文", " ",   "\xff",
                                      "12",   "'s", "🦙", "▁",    "<s>", "\xe4"};
  size_t n = 0, want = tok_random(seed) % cap;
  uint32_t kind = tok_random(seed) % 3;

  while (n < want) {
    const char *word = words[tok_random(seed) % COUNT(words)];
    size_t bytes = kind == 0 ? 1 : strlen(word), times = kind == 2 ? 1 + tok_random(seed) % 40 : 1;
    for (; times && n + bytes < cap; times--, n += bytes)
      if (kind == 0)
        s[n] = (char)tok_random(seed);
      else
        memcpy(s + n, word, bytes);
  }
  return n;
}

/* The sign for a space counts as a space in SPM. */
static size_t with_spaces(char *s, size_t n)
{
  size_t m = 0;

  for (size_t i = 0; i < n; m++) {
    bool sign = n - i >= 3 && memcmp(s + i, "▁", 3) == 0;
    s[m] = sign ? ' ' : s[i];
    i += sign ? 3 : 1;
  }
  return m;
}

/* Some BPE vocabularies lack bytes that UTF-8 never uses: these vanish. */
static size_t with_tokens(const MiTokTable *t, char *s, size_t n)
{
  const int32_t *byte_ids = (const int32_t *)(const void *)((const char *)t + t->byte_ids);
  size_t m = 0;

  for (size_t i = 0; i < n; i++)
    if (byte_ids[(uint8_t)s[i]] >= 0)
      s[m++] = s[i];
  return m;
}

Test(tokenizer, bytes_come_back)
{
  for (size_t i = 0; i < COUNT(any); i++) {
    if (is_missing(any[i]))
      continue;
    Tok t = open_tok(any[i]);
    const MiTokTable *table = t.table;
    uint64_t seed = 3;
    for (int round = 0; round < 500; round++) {
      Arena a = {0};
      char s[600];
      size_t n = random_text(&seed, s, sizeof s);
      Ids ids = tok_encode(t.table, &a, s, n, false, false);
      Text back = tok_bytes(t.table, &a, ids.ids, ids.n, true);
      n = table->flags & MI_TOK_SPM ? with_spaces(s, n) : with_tokens(table, s, n);
      cr_assert_eq(back.len, n, "%s, round %d: %zu bytes became %zu", any[i], round, n, back.len);
      cr_assert(n == 0 || memcmp(back.data, s, n) == 0, "%s, round %d", any[i], round);
      arena_free(&a);
    }
    close_tok(&t);
  }
}

Test(tokenizer, a_stream_is_utf8_at_every_step)
{
  for (size_t i = 0; i < COUNT(any); i++) {
    if (is_missing(any[i]))
      continue;
    Tok t = open_tok(any[i]);
    uint64_t seed = 4;
    for (int round = 0; round < 500; round++) {
      MiDecoder d = {0};
      char s[100], out[1024];
      Ids ids = tok_encode(t.table, &t.arena, s, random_text(&seed, s, sizeof s), false, false);
      for (int64_t k = 0; k < ids.n; k++) {
        int32_t id = round % 2 ? ids.ids[k] : (int32_t)(tok_random(&seed) % mi_tok_vocab(t.table));
        cr_assert(is_utf8(out, mi_tok_decode(t.table, &d, id, out, sizeof out)), "%s, token %d", any[i], id);
      }
      cr_assert(is_utf8(out, mi_tok_flush(&d, out, sizeof out)));
    }
    close_tok(&t);
  }
}

/* Bytes one by one, as byte tokens give them. */
Test(tokenizer, a_stream_shows_whole_characters_and_marks_broken_ones)
{
  static const struct {
    const char *bytes, *shown;
  } cases[] = {
      {"aä中🦙z", "aä中🦙z"},
      {"\xff", "\xef\xbf\xbd"},
      {"\xc3", "\xef\xbf\xbd"},
      {"\xc3z", "\xef\xbf\xbdz"},
      {"\xe4\xb8z", "\xef\xbf\xbdz"},
      {"\xf0\x9f\xa6", "\xef\xbf\xbd"},
      {"\xf0\x9f\xc3\xa4", "\xef\xbf\xbdä"},
      {"\xed\xa0\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* a surrogate */
      {"\xc0\xaf", "\xef\xbf\xbd\xef\xbf\xbd"},
      {"\xf4\x90\x80\x80", "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
      {"\xef\xbf\xbd", "\xef\xbf\xbd"},
  };
  Tok t = open_tok(STORIES);
  const int32_t *byte_ids =
      (const int32_t *)(const void *)((const char *)t.table + ((const MiTokTable *)t.table)->byte_ids);

  for (size_t i = 0; i < COUNT(cases); i++) {
    int32_t ids[16];
    int64_t n = 0;
    for (const char *s = cases[i].bytes; *s; s++)
      ids[n++] = byte_ids[(uint8_t)*s];
    cr_expect_str_eq(stream(t.table, &t.arena, ids, n, true), cases[i].shown, "case %zu", i);
  }
  close_tok(&t);
}

Test(tokenizer, a_text_begins_without_the_prefix)
{
  Tok t = open_tok(STORIES);
  Ids ids = tok_encode(t.table, &t.arena, "Once  upon ", 11, true, true);

  cr_expect_str_eq(stream(t.table, &t.arena, ids.ids, ids.n, false), "Once  upon ");
  cr_expect_str_eq(stream(t.table, &t.arena, ids.ids, ids.n, true), " Once  upon ");
  cr_expect_eq(mi_tok_bos(t.table), 1);
  cr_expect(mi_tok_is_eog(t.table, 2) && !mi_tok_is_eog(t.table, 1));
  close_tok(&t);
}

Test(tokenizer, long_texts_take_little_time, .timeout = 60)
{
  enum { BYTES = 1 << 20 };
  static const char *const unit[] = {"a", " ", "\n", "\xff", "中", "ab ", "<", "0", "\xc3", "  x"};

  for (size_t i = 0; i < COUNT(any); i++) {
    if (is_missing(any[i]))
      continue;
    Tok t = open_tok(any[i]);
    char *s = arena_alloc(&t.arena, BYTES);
    for (size_t u = 0; u < COUNT(unit); u++) {
      for (size_t k = 0; k < BYTES; k++)
        s[k] = unit[u][k % strlen(unit[u])];
      clock_t start = clock();
      Ids ids = tok_encode(t.table, &t.arena, s, BYTES, false, true);
      cr_expect_gt(ids.n, 1000, "%s, '%s': %lld", any[i], unit[u], (long long)ids.n);
      cr_expect_lt(clock() - start, 5 * CLOCKS_PER_SEC, "%s, '%s'", any[i], unit[u]);
    }
    close_tok(&t);
  }
}

Test(tokenizer, says_how_many_tokens_there_are_when_there_is_no_room)
{
  Tok t = open_tok(STORIES);
  const char *s = "Once upon a time";
  size_t bytes = mi_tok_work_bytes(t.table, strlen(s));
  char *work = malloc(bytes + 1);
  int32_t ids[8] = {0};

  cr_expect_eq(mi_tok_encode(t.table, s, strlen(s), 1, 1, ids, 2, work, bytes), 5);
  cr_expect(ids[0] == 1 && ids[1] == 403 && ids[2] == 0);
  cr_expect_eq(mi_tok_encode(t.table, s, strlen(s), 1, 1, NULL, 0, work + 1, bytes), 5,
               "work of any alignment");
  cr_expect_eq(mi_tok_encode(t.table, s, strlen(s), 1, 1, ids, 8, work, bytes - 1), -1);
  cr_expect_eq(mi_tok_piece(t.table, 403, 0, work, 2), 5);
  free(work);
  close_tok(&t);
}

/* ---- the table */

Test(tokenizer, ends_of_generation)
{
  static const struct {
    const char *model, *ends;
  } cases[] = {
      {STORIES, "2"},
      {SUITE "ggml-vocab-llama-spm.gguf", "2"},
      {SUITE "ggml-vocab-phi-3.gguf", "32000 32007"},
      {SUITE "ggml-vocab-gpt-2.gguf", "50256"},
      {SUITE "ggml-vocab-falcon.gguf", "11"},
      {GEMMA, "1 106"},
      {QWEN, "151643 151645 151662 151663 151664"},
  };

  for (size_t i = 0; i < COUNT(cases); i++) {
    if (is_missing(cases[i].model))
      continue;
    Tok t = open_tok(cases[i].model);
    ARRAY(int32_t) ends = {0};
    for (uint32_t id = 0; id < mi_tok_vocab(t.table); id++)
      if (mi_tok_is_eog(t.table, (int32_t)id))
        *PUSH(&t.arena, ends) = (int32_t)id;
    cr_expect_str_eq(tok_show(&t.arena, ends.data, ends.len), cases[i].ends, "%s: %s", cases[i].model,
                     tok_show(&t.arena, ends.data, ends.len));
    close_tok(&t);
  }
}

Test(tokenizer, describes_itself)
{
  static const struct {
    const char *model, *text;
  } cases[] = {
      {STORIES, "SPM, 512 tokens"},
      {SUITE "ggml-vocab-gpt-2.gguf", "BPE (gpt-2), 50,257 tokens"},
      {SUITE "ggml-vocab-gpt-neox.gguf", "BPE (default), 50,432 tokens"},
      {SUITE "ggml-vocab-bert-bge.gguf", "unknown"},
  };

  for (size_t i = 0; i < COUNT(cases); i++) {
    Arena a = {0};
    Err e = {0};
    if (is_missing(cases[i].model))
      continue;
    Model *m = model_open(cases[i].model, &e);
    cr_assert(m, "%s", e.text);
    cr_expect_str_eq(tokenizer_describe(m, &a), cases[i].text);
    model_close(m);
    arena_free(&a);
  }
}

Test(tokenizer, a_table_is_the_same_each_time_and_a_lack_of_memory_is_an_error)
{
  Tok t = open_tok(STORIES);
  const uint8_t *first, *again;
  uint64_t bytes, same;
  Err e = {0};
  bool ok = false;

  cr_assert(tokenizer_build(t.model, &t.arena, &first, &bytes, &e));
  for (long n = 1; !ok; n++) {
    Arena tight = {0};
    Err lack = {0};
    mem_fail_at(n);
    ok = tokenizer_build(t.model, &tight, &again, &same, &lack);
    mem_fail_at(0);
    cr_assert(ok || strstr(lack.text, "out of memory"), "%s", lack.text);
    cr_assert(!ok || (bytes == same && memcmp(first, again, bytes) == 0));
    arena_free(&tight);
  }
  cr_expect_eq(((const MiTokTable *)(const void *)first)->bytes, bytes);
  cr_expect_lt(bytes, 16 * 1024);
  close_tok(&t);
}
