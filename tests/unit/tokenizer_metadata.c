/* tokenizer_metadata.c - tests of frontend/tokenizer on vocabularies made by hand: what metadata means, and
 * what is refused. */
#include "tests/unit/tokenizer_tools.h"

#include <criterion/criterion.h>

/* ---- SPM */

static TokModel spm(const char *tokens, const float *scores, const int32_t *types)
{
  TokModel m = {0};

  tok_str(&m, "model", "llama");
  tok_strs(&m, "tokens", tokens);
  uint64_t n = m.model.metas.data[m.model.metas.len - 1].count;
  if (scores)
    tok_floats(&m, "scores", scores, n);
  if (types)
    tok_ints(&m, "token_type", types, n);
  return m;
}

/*                               0      1    2     3  4  5   6   7    8       9       10 */
static const char spm_tokens[] = "<unk>\n<s>\n</s>\na\nb\n▁\nab\n▁a\n<0x0A>\n<0xC3>\n<user>";
static const float spm_scores[] = {0, 0, 0, -3, -4, -5, -1, -2, 0, 0, 0};
static const int32_t spm_types[] = {2, 3, 3, 1, 1, 1, 1, 1, 6, 6, 4};

static const char *spm_encode(TokModel *m, const char *s, bool bos, bool special)
{
  Err e = {0};
  const void *table = tok_table(&m->model, &m->arena, &e);

  cr_assert(table, "%s", e.text);
  return tok_ids(table, &m->arena, s, bos, special);
}

Test(tokenizer_metadata, spm_merges_by_score)
{
  static const struct {
    const char *text, *ids;
  } cases[] = {
      {"", ""},
      {"a", "7"},
      {"ab", "5 6"}, /* ab is better than a space and a */
      {" ", "5 5"},
      {"\n", "5 8"},
      {"aab", "7 6"},
      {"x", "5 0"},          /* no byte token */
      {"\xc3\xa4", "5 9 0"}, /* only for the first byte */
      {"\xe4\xb8\xad", "5 0"},
      {"b▁a", "5 4 7"},
      {"b a", "5 4 7"},
      {"<user>ab", "10 5 6"}, /* the prefix comes after a special token too */
      {"</s>", "5 0 0 0 0"},
      {"ab<user>", "5 6 10"},
  };
  TokModel m = spm(spm_tokens, spm_scores, spm_types);

  for (size_t i = 0; i < COUNT(cases); i++) {
    const char *ids = spm_encode(&m, cases[i].text, false, false);
    cr_expect_str_eq(ids, cases[i].ids, "'%s': %s", cases[i].text, ids);
  }
  arena_free(&m.arena);
}

Test(tokenizer_metadata, spm_heeds_flags_and_defaults)
{
  TokModel m = spm(spm_tokens, spm_scores, spm_types);

  cr_expect_str_eq(spm_encode(&m, "a", true, false), "1 7", "BOS is the default");
  cr_expect_str_eq(spm_encode(&m, "", true, false), "1");
  cr_expect_str_eq(spm_encode(&m, "<s>a</s>", false, true), "1 7 2");
  tok_bool(&m, "add_space_prefix", false);
  cr_expect_str_eq(spm_encode(&m, "ab", true, false), "1 6");
  tok_bool(&m, "add_eos_token", true);
  cr_expect_str_eq(spm_encode(&m, "ab", true, false), "1 6 2");
  cr_expect_str_eq(spm_encode(&m, "ab", false, false), "6");
  tok_bool(&m, "add_bos_token", false);
  cr_expect_str_eq(spm_encode(&m, "ab", true, false), "6 2");
  tok_u32(&m, "eos_token_id", 10);
  cr_expect_str_eq(spm_encode(&m, "ab", true, false), "6 10");
  arena_free(&m.arena);
}

/* Any order of ids, with ties and gaps. */
Test(tokenizer_metadata, spm_ranks_any_scores)
{
  TokModel m = spm("a\nb\nc\nab\nbc\nca\nabc\ncab", (float[]){0, 0, 0, 5, 5, 7, -1e9f, 5}, NULL);

  tok_bool(&m, "add_space_prefix", false);
  cr_expect_str_eq(spm_encode(&m, "abc", false, false), "6"); /* ties: from the left */
  cr_expect_str_eq(spm_encode(&m, "bcab", false, false), "1 7");
  cr_expect_str_eq(spm_encode(&m, "abca", false, false), "3 5");
  arena_free(&m.arena);
}

/* ---- BPE */

static TokModel bpe(const char *tokens, const char *merges, const int32_t *types)
{
  TokModel m = {0};

  tok_str(&m, "model", "gpt2");
  tok_strs(&m, "tokens", tokens);
  uint64_t n = m.model.metas.data[m.model.metas.len - 1].count;
  tok_strs(&m, "merges", merges);
  if (types)
    tok_ints(&m, "token_type", types, n);
  return m;
}

Test(tokenizer_metadata, bpe_merges_by_rank)
{
  /* Ġ is a space, Ċ a newline */
  TokModel m = bpe("a\nb\nc\nĠ\nĊ\nab\nbc\nĠa\nabc\nĠabc", "b c\nĠ a\na bc\na b\nx y\na b\nb\nĠa b", NULL);

  tok_str(&m, "pre", "gpt-2");
  cr_expect_str_eq(spm_encode(&m, "abc", false, false), "8");
  cr_expect_str_eq(spm_encode(&m, "ab", false, false), "5");
  cr_expect_str_eq(spm_encode(&m, " abc", false, false), "7 6");
  cr_expect_str_eq(spm_encode(&m, "\n a", false, false), "4 7");
  cr_expect_str_eq(spm_encode(&m, "axb\xff", false, false), "0 1", "bytes without a token vanish");
  cr_expect_str_eq(spm_encode(&m, "a", true, false), "0", "no BOS");
  tok_u32(&m, "unknown_token_id", 9);
  cr_expect_str_eq(spm_encode(&m, "axb", false, false), "0 9 1");
  arena_free(&m.arena);

  m = bpe("a\nb\nc\nĠ\nab\nĠabc", "a b", NULL);
  tok_str(&m, "pre", "llama-bpe");
  tok_u32(&m, "bos_token_id", 2);
  cr_expect_str_eq(spm_encode(&m, "ab abc abcc", true, false), "2 4 5 3 4 2 2",
                   "a word that is a token is that token");
  arena_free(&m.arena);
}

static Text show_text(const void *table, Arena *a, int32_t id)
{
  return tok_bytes(table, a, &id, 1, false);
}

Test(tokenizer_metadata, tokens_are_shown_as_their_type_says)
{
  TokModel m =
      bpe("Ġa\n<|im_end|>\n<x>\nĠ y\n<|fim_prefix|>\n<pad>\nü", "a b", (int32_t[]){1, 1, 4, 4, 1, 5, 1});
  Err e = {0};
  const void *table = tok_table(&m.model, &m.arena, &e);

  cr_assert(table, "%s", e.text);
  cr_expect_str_eq(show_text(table, &m.arena, 0).data, " a");
  cr_expect_str_eq(show_text(table, &m.arena, 1).data, "", "control, by its name");
  cr_expect_str_eq(show_text(table, &m.arena, 2).data, "<x>");
  cr_expect_str_eq(show_text(table, &m.arena, 3).data, "Ġ y", "as it is");
  cr_expect_str_eq(show_text(table, &m.arena, 4).data, "");
  cr_expect_str_eq(show_text(table, &m.arena, 5).data, "");
  cr_expect_str_eq(show_text(table, &m.arena, 6).data, "\xfc");
  cr_expect_str_eq(show_text(table, &m.arena, 7).data, "");
  cr_expect_str_eq(show_text(table, &m.arena, -1).data, "");
  cr_expect(mi_tok_is_eog(table, 1) && !mi_tok_is_eog(table, 4) && !mi_tok_is_eog(table, -1));
  cr_expect_eq(mi_tok_vocab(table), 7);
  cr_expect_eq(mi_tok_bos(table), -1);
  arena_free(&m.arena);
}

Test(tokenizer_metadata, ends_of_generation)
{
  TokModel m =
      bpe("a\n<|return|>\n<|call|>\n<|end|>\n<|message|>\n<|repo_name|>\n<reponame>\nx\ny\nz", "a b", NULL);
  Err e = {0};

  tok_u32(&m, "eot_token_id", 7);
  tok_u32(&m, "eom_token_id", 8);
  tok_u32(&m, "fim_sep_token_id", 9);
  const void *table = tok_table(&m.model, &m.arena, &e);
  cr_assert(table, "%s", e.text);
  static const bool ends[] = {0, 1, 1, 0, 0, 1, 0, 1, 1, 1};
  for (int32_t i = 0; i < 10; i++)
    cr_expect_eq(mi_tok_is_eog(table, i), ends[i], "token %d", i);
  cr_expect_str_eq(show_text(table, &m.arena, 3).data, "<|end|>");
  cr_expect_str_eq(show_text(table, &m.arena, 4).data, "<|message|>");
  cr_expect_str_eq(tok_ids(table, &m.arena, "a<|message|>a<|call|>", false, true), "0 4 0 2");
  cr_expect_str_eq(tok_ids(table, &m.arena, "a<|message|>a<|call|>", false, false), "0 4 0 0",
                   "of the call, one a");
  arena_free(&m.arena);
}

Test(tokenizer_metadata, phi3_strips_white_space_behind_special_tokens)
{
  TokModel m =
      spm("<unk>\n<s>\n</s>\na\n▁\n<|user|>", (float[]){0, 0, 0, -3, -4, 0}, (int32_t[]){2, 3, 3, 1, 1, 3});
  Err e = {0};
  Meta *name = PUSH(&m.arena, m.model.metas);

  *name = (Meta){.key = "general.name", .type = META_STR, .count = 1, .strings = &(Str){"My Phi-3 mini", 13}};
  const void *table = tok_table(&m.model, &m.arena, &e);
  cr_assert(table, "%s", e.text);
  cr_expect_str_eq(tok_ids(table, &m.arena, "<|user|> \n a", false, true), "5 4 3");
  cr_expect_str_eq(tok_ids(table, &m.arena, "<s> a", false, true), "1 4 4 3");
  arena_free(&m.arena);
}

/* ---- special tokens: against the definition, by cutting at one after the other, the longest first */

enum { SPECIALS = 6 };

static void cut(Text *out, char (*special)[8], int k, const char *s, size_t n)
{
  const char *text = k < 0 ? "" : special[k];
  size_t len = strlen(text);

  for (size_t i = 0; k >= 0 && i + len <= n; i++)
    if (memcmp(s + i, text, len) == 0) {
      cut(out, special, k - 1, s, i);
      text_printf(out, " %d", k + 2);
      s += i + len;
      n -= i + len;
      i = (size_t)-1;
    }
  if (k >= 0)
    cut(out, special, k - 1, s, n);
  for (size_t i = 0; k < 0 && i < n; i++)
    text_printf(out, " %d", s[i] - 'a');
}

Test(tokenizer_metadata, special_tokens_are_cut_the_longest_first)
{
  uint64_t seed = 1;

  for (int round = 0; round < 300; round++) {
    char special[SPECIALS][8] = {{0}}, s[64];
    Arena a = {0};
    Text tokens = {.arena = &a}, expected = {.arena = &a}, got = {.arena = &a};
    text_printf(&tokens, "a\nb");
    for (int k = 0; k < SPECIALS; k++) {
      for (int i = 0; i < k + 2; i++) /* each another length: of equal ones the order is not defined */
        special[k][i] = (char)('a' + tok_random(&seed) % 2);
      text_printf(&tokens, "\n%s", special[k]);
    }
    TokModel m = bpe(tokens.data, "x y", (int32_t[]){1, 1, 4, 4, 4, 4, 4, 4});
    Err e = {0};
    const void *table = tok_table(&m.model, &a, &e);
    cr_assert(table, "%s", e.text);
    for (int t = 0; t < 20; t++) {
      size_t n = tok_random(&seed) % sizeof s;
      for (size_t i = 0; i < n; i++)
        s[i] = (char)('a' + tok_random(&seed) % 2);
      expected.len = got.len = 0;
      cut(&expected, special, SPECIALS - 1, s, n);
      Ids ids = tok_encode(table, &a, s, n, false, false);
      text_printf(&got, " %s", tok_show(&a, ids.ids, ids.n));
      cr_assert_str_eq(got.data, n ? expected.data : " ", "%.*s", (int)n, s);
    }
    arena_free(&m.arena);
    arena_free(&a);
  }
}

/* ---- merging: against the definition, by looking for the best pair again and again */

static int find_text(const Meta *tokens, const char *s, size_t n)
{
  for (uint64_t i = 0; i < tokens->count; i++)
    if (tokens->strings[i].len == n && memcmp(tokens->strings[i].data, s, n) == 0)
      return (int)i;
  return -1;
}

static int plain_merge(const Meta *tokens, const float *scores, const char *s, int n, int32_t *ids)
{
  int end[64], count = n;

  for (int i = 0; i < n; i++)
    end[i] = i + 1;
  for (;;) {
    int best = -1, best_id = -1;
    for (int i = 0; i + 1 < count; i++) {
      int begin = i ? end[i - 1] : 0, id = find_text(tokens, s + begin, (size_t)(end[i + 1] - begin));
      if (id >= 0 && (best < 0 || scores[id] > scores[best_id])) {
        best = i;
        best_id = id;
      }
    }
    if (best < 0)
      break;
    memmove(end + best, end + best + 1, (size_t)(--count - best) * sizeof *end);
  }
  for (int i = 0; i < count; i++)
    ids[i] = find_text(tokens, s + (i ? end[i - 1] : 0), (size_t)(end[i] - (i ? end[i - 1] : 0)));
  return count;
}

Test(tokenizer_metadata, spm_merges_the_best_pair_first)
{
  enum { TOKENS = 40 };
  uint64_t seed = 2;

  for (int round = 0; round < 100; round++) {
    Arena a = {0};
    Text tokens = {.arena = &a};
    float scores[TOKENS + 3] = {0};
    text_printf(&tokens, "a\nb\nc");
    for (int k = 0; k < TOKENS; k++) {
      text_printf(&tokens, "\n");
      for (uint32_t i = 0, n = 2 + tok_random(&seed) % 5; i < n; i++)
        text_printf(&tokens, "%c", (int)('a' + tok_random(&seed) % 3));
      scores[k + 3] = (float)(tok_random(&seed) % 20); /* ties */
    }
    TokModel m = spm(tokens.data, scores, NULL);
    tok_bool(&m, "add_space_prefix", false);
    Err e = {0};
    const void *table = tok_table(&m.model, &a, &e);
    cr_assert(table, "%s", e.text);
    for (int t = 0; t < 50; t++) {
      char s[40];
      int32_t ids[40];
      int n = 1 + (int)(tok_random(&seed) % 39);
      for (int i = 0; i < n; i++)
        s[i] = (char)('a' + tok_random(&seed) % 3);
      int count = plain_merge(model_meta(&m.model, "tokenizer.ggml.tokens"), scores, s, n, ids);
      Ids got = tok_encode(table, &a, s, (size_t)n, false, false);
      cr_assert_str_eq(tok_show(&a, got.ids, got.n), tok_show(&a, ids, count), "%.*s", n, s);
    }
    arena_free(&m.arena);
    arena_free(&a);
  }
}

/* ---- what is refused, and what is not */

typedef void Change(TokModel *m);

static void refuse(const char *message, bool is_bpe, Change *change)
{
  TokModel m =
      is_bpe ? bpe("a\nb\nab", "a b", NULL) : spm("<unk>\na\nb", (float[]){0, -1, -2}, (int32_t[]){2, 1, 1});
  Err e = {0};

  change(&m);
  cr_expect_null(tok_table(&m.model, &m.arena, &e), "%s", message);
  cr_expect_str_eq(e.text, message);
  arena_free(&m.arena);
}

/* Replaces a key that stands already. */
static void again(TokModel *m, const char *key)
{
  for (uint32_t i = 0; i < m->model.metas.len; i++)
    if (!strcmp(m->model.metas.data[i].key + 15, key))
      m->model.metas.data[i].key = "gone";
}

static void other_model(TokModel *m)
{
  again(m, "model");
  tok_str(m, "model", "bert");
}
static void numeric_model(TokModel *m)
{
  again(m, "model");
  tok_u32(m, "model", 7);
}
static void no_tokens(TokModel *m)
{
  again(m, "tokens");
}
static void zero_tokens(TokModel *m)
{
  again(m, "tokens");
  tok_strs(m, "tokens", "");
}
static void huge_count(TokModel *m)
{
  again(m, "tokens");
  tok_strs(m, "tokens", "a");
  m->model.metas.data[m->model.metas.len - 1].count = 1ull << 40;
}
static void no_scores(TokModel *m)
{
  again(m, "scores");
}
static void few_scores(TokModel *m)
{
  again(m, "scores");
  tok_floats(m, "scores", (float[]){1, 2}, 2);
}
static void nan_score(TokModel *m)
{
  again(m, "scores");
  tok_ints(m, "scores", (int32_t[]){0, 0, 0}, 3);
  m->model.metas.data[m->model.metas.len - 1].item_type = META_F32;
  memset((uint8_t *)(uintptr_t)m->model.metas.data[m->model.metas.len - 1].raw + 4, 0xff, 4);
}
static void many_types(TokModel *m)
{
  again(m, "token_type");
  tok_ints(m, "token_type", (int32_t[]){1, 1, 1, 1}, 4);
}
static void float_types(TokModel *m)
{
  again(m, "token_type");
  tok_floats(m, "token_type", (float[]){1, 1, 1}, 3);
}
static void bad_bos(TokModel *m)
{
  tok_u32(m, "bos_token_id", 3);
}
static void text_eos(TokModel *m)
{
  tok_str(m, "eos_token_id", "2");
}
static void bad_fim(TokModel *m)
{
  tok_u32(m, "fim_pad_token_id", 1u << 31);
}
static void eos_wanted(TokModel *m)
{
  tok_bool(m, "add_eos_token", true);
}
static void bos_wanted(TokModel *m)
{
  tok_bool(m, "add_bos_token", true);
}
static void numeric_flag(TokModel *m)
{
  tok_u32(m, "add_bos_token", 1);
}
static void odd_byte(TokModel *m)
{
  again(m, "token_type");
  tok_ints(m, "token_type", (int32_t[]){1, 6, 1}, 3);
}
static void long_token(TokModel *m)
{
  again(m, "tokens");
  tok_strs(m, "tokens", arena_printf(&m->arena, "a\nb\n%01021d", 0));
}
static void no_merges(TokModel *m)
{
  again(m, "merges");
}
static void no_such_pre(TokModel *m)
{
  tok_str(m, "pre", "klingon");
}

Test(tokenizer_metadata, refuses_what_cannot_be_meant)
{
#define KEY "made: tokenizer.ggml."
  refuse(KEY "model: unknown tokenizer 'bert'; known: llama (SPM), gpt2 (byte-level BPE)", false,
         other_model);
  refuse(KEY "model is not a text", false, numeric_model);
  refuse(KEY "tokens: not a list of texts", false, no_tokens);
  refuse(KEY "tokens: 0 tokens; 1 to 1048575 are possible", false, zero_tokens);
  refuse(KEY "tokens: 1099511627776 tokens; 1 to 1048575 are possible", true, huge_count);
  refuse(KEY "scores: missing; an SPM tokenizer needs them", false, no_scores);
  refuse(KEY "scores: 2 items for 3 tokens", false, few_scores);
  refuse(KEY "scores: item 1 is not a number", false, nan_score);
  refuse(KEY "token_type: 4 items for 3 tokens", false, many_types);
  refuse(KEY "token_type: item 0 is not a whole number", false, float_types);
  refuse(KEY "bos_token_id: token 3; there are 3 tokens", false, bad_bos);
  refuse(KEY "eos_token_id: not a token id", false, text_eos);
  refuse(KEY "fim_pad_token_id: token 2147483648; there are 3 tokens", true, bad_fim);
  refuse(KEY "add_eos_token: an EOS token is asked for, but none is named", true, eos_wanted);
  refuse(KEY "add_bos_token: a BOS token is asked for, but none is named", true, bos_wanted);
  refuse(KEY "add_bos_token: not true or false", false, numeric_flag);
  refuse(KEY "tokens: token 1 is of the type byte, but 'a' is not of the form <0x0A>", false, odd_byte);
  refuse(KEY "tokens: token 2 is 1021 bytes long; 1020 are possible", true, long_token);
  refuse(KEY "merges is not a list of texts; a BPE tokenizer needs it", true, no_merges);
  refuse(
      KEY
      "pre: unknown pre-tokenizer 'klingon'; known: default gpt-2 a.x-4.0 exaone4 gigachat granite-docling "
      "jais mellum mpt olmo phi-2 trillion llama-bpe llama3 llama-v3 falcon-h1 falcon3 lfm2 midm-2.0 pixtral "
      "dbrx smaug-bpe qwen2 deepseek-r1-qwen hunyuan kormo megrez solar-open stablelm2 smollm codeshell "
      "command-r exaone mellum2 minerva-7b refact starcoder falcon deepseek-coder deepseek-llm",
      true, no_such_pre);
}

Test(tokenizer_metadata, accepts_what_files_contain)
{
  TokModel m = {0};
  const uint8_t *table;
  uint64_t bytes;
  Err e = {0};

  cr_expect(tokenizer_build(&m.model, &m.arena, &table, &bytes, &e) && !bytes, "no vocabulary at all");
  cr_expect_str_eq(tokenizer_describe(&m.model, &m.arena), "none");
  tok_str(&m, "model", "no_vocab");
  cr_expect(tokenizer_build(&m.model, &m.arena, &table, &bytes, &e) && !bytes);
  arena_free(&m.arena);

  /* empty and double tokens, types beyond the known ones, -1 for "none" */
  m = bpe("a\n\nb\nb\nc", "a b\nb a\n\nab", (int32_t[]){1, 1, 1, 99, -4});
  tok_u32(&m, "padding_token_id", UINT32_MAX);
  tok_u32(&m, "bos_token_id", UINT32_MAX);
  cr_assert(tokenizer_build(&m.model, &m.arena, &table, &bytes, &e), "%s", e.text);
  cr_expect_str_eq(tok_ids(table, &m.arena, "abcab", true, true), "0 2 4 0 2");
  cr_expect_str_eq(tokenizer_describe(&m.model, &m.arena), "BPE (default), 5 tokens");
  arena_free(&m.arena);
}
