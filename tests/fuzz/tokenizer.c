/* tokenizer.c - libFuzzer entry of the tokenizer. The first byte says what the rest is: a text for one of two
 * tables, or a vocabulary. Any text gives ids of the vocabulary, and bytes that come back; any vocabulary gives a
 * table that can be used, or one error line. */
#define _GNU_SOURCE /* memmem */
#include "tests/unit/tokenizer_tools.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static const int32_t *byte_ids(const MiTokTable *t)
{
  return (const int32_t *)(const void *)((const char *)t + t->byte_ids);
}

/* Encodes and decodes; `lossless`: every byte has a token and shows itself. */
static void use_table(const void *table, const char *s, size_t n, bool special, bool lossless)
{
  Arena a = {0};
  MiDecoder d = {0};
  char out[1024];
  Ids ids = tok_encode(table, &a, s, n, !lossless, special);

  assert(ids.n >= 0 && ids.n <= 2 * (int64_t)n + 2);
  for (int64_t i = 0; i < ids.n; i++) {
    assert(ids.ids[i] >= 0 && (uint32_t)ids.ids[i] < mi_tok_vocab(table));
    size_t shown = mi_tok_decode(table, &d, ids.ids[i], out, sizeof out);
    assert(shown <= sizeof out);
  }
  mi_tok_flush(&d, out, sizeof out);
  if (lossless) {
    Text back = tok_bytes(table, &a, ids.ids, ids.n, true);
    assert(back.len == n && (!n || memcmp(back.data, s, n) == 0));
  }
  arena_free(&a);
}

/* All bytes in GPT-2's alphabet, some words, and the merges that lead to them. */
static const void *bpe_table(Arena *a)
{
  static TokModel m;
  Text tokens = {.arena = a};
  int next = 0x100;
  Err e = {0};

  for (int b = 0; b < 256; b++) {
    bool prints = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    int c = prints ? b : next++;
    if (c < 0x80)
      text_printf(&tokens, "%c\n", c);
    else
      text_printf(&tokens, "%c%c\n", 0xc0 | c >> 6, 0x80 | (c & 63));
  }
  text_printf(&tokens, "aa\naaaa\nĠa\nĠĠ\nab\naba\nba\n00\nÃ¤\n<s>\n<<s>>");
  tok_str(&m, "model", "gpt2");
  tok_str(&m, "pre", "llama-bpe");
  tok_strs(&m, "tokens", tokens.data);
  tok_strs(&m, "merges", "a a\naa aa\nĠ a\nĠ Ġ\na b\nab a\nb a\n0 0\nÃ ¤");
  int32_t *types = NEW_ARRAY(a, int32_t, 267);
  for (int i = 0; i < 267; i++)
    types[i] = i < 265 ? 1 : 4;
  tok_ints(&m, "token_type", types, 267);
  tok_bool(&m, "add_bos_token", false);
  const void *table = tok_table(&m.model, a, &e);
  assert(table);
  return table;
}

static const void *spm_table(Arena *a)
{
  Err e = {0};
  Model *m = model_open(MICC_SOURCE_DIR "/tests/data/stories260K.gguf", &e);
  const void *table = m ? tok_table(m, a, &e) : NULL;

  assert(table);
  model_close(m);
  return table;
}

/* Lists from what is there: a line of tokens and a line of merges; types and scores from the bytes. */
static void use_vocabulary(const char *s, size_t n, bool spm)
{
  TokModel m = {0};
  Arena a = {0};
  Err e = {0};
  const char *half = n ? memchr(s, '\f', n) : NULL;
  char *tokens = arena_strndup(&a, s, half ? (size_t)(half - s) : n);
  char *merges = arena_strndup(&a, half ? half + 1 : s, half ? n - (size_t)(half + 1 - s) : 0);

  tok_str(&m, "model", spm ? "llama" : "gpt2");
  tok_strs(&m, "tokens", tokens);
  uint64_t count = m.model.metas.data[m.model.metas.len - 1].count;
  int32_t *numbers = NEW_ARRAY(&a, int32_t, count);
  for (uint64_t i = 0; n && i < count; i++)
    numbers[i] = s[i % n] % 8;
  tok_ints(&m, "token_type", numbers, count);
  tok_array(&m, "scores", META_I32, numbers, count);
  tok_strs(&m, "merges", merges);
  tok_u32(&m, "bos_token_id", n ? (uint8_t)s[n - 1] % 32 : 0);
  const void *table = tok_table(&m.model, &a, &e);
  assert(table || (e.text[0] && !strchr(e.text, '\n')));
  if (table)
    use_table(table, s, n, true, false);
  arena_free(&m.arena);
  arena_free(&a);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes)
{
  static Arena tables;
  static const void *bpe, *spm;
  const char *s = (const char *)data + 1;

  if (!bytes--)
    return 0;
  if (!bpe) {
    bpe = bpe_table(&tables);
    spm = spm_table(&tables);
    assert(byte_ids(bpe)[0xff] >= 0 && byte_ids(spm)[0xff] >= 0);
  }
  switch (data[0] % 6) {
  case 0: use_table(bpe, s, bytes, false, true); break;
  case 1: use_table(bpe, s, bytes, true, true); break;
  case 2: use_table(spm, s, bytes, false, !bytes || !memmem(s, bytes, "\xe2\x96\x81", 3)); break;
  case 3: use_table(spm, s, bytes, true, false); break;
  case 4: use_vocabulary(s, bytes, false); break;
  case 5: use_vocabulary(s, bytes, true); break;
  }
  return 0;
}
