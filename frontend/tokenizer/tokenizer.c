/* tokenizer.c - see tokenizer.h: lays a checked vocabulary out as the flat table of mi_tok_format.h.
 * Equal metadata gives equal bytes: nothing depends on addresses, and hashing is seeded with constants. */
#include "frontend/tokenizer/tokenizer.h"
#include "frontend/tokenizer/regex.h"
#include "frontend/tokenizer/tok_hash.h"
#include "frontend/tokenizer/tok_vocab.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_TABLE = 1 << 30 };

typedef struct {
  uint32_t left, right, rank;
} Merge;

typedef ARRAY(Merge) Merges;

static uint32_t append(Text *t, const void *data, size_t bytes)
{
  static const char zeros[16];

  text_add(t, zeros, (16 - t->len % 16) % 16);
  uint32_t at = (uint32_t)t->len;
  text_add(t, data, bytes);
  return at;
}

static bool no_hash(const Vocab *v, const char *key)
{
  return fail(v->e, "%s: tokenizer.ggml.%s: no perfect hash was found", model_shown_path(v->m->path), key);
}

/* ---- pieces */

static bool add_pieces(const Vocab *v, Text *t, MiTokTable *head)
{
  uint32_t *base = NEW_ARRAY(v->arena, uint32_t, v->n / MI_TOK_PIECE_GROUP + 1);
  uint16_t *delta = NEW_ARRAY(v->arena, uint16_t, v->n + 1);
  Text all = {.arena = v->arena};

  for (uint32_t i = 0; i <= v->n; i++) {
    if (i % MI_TOK_PIECE_GROUP == 0)
      base[i / MI_TOK_PIECE_GROUP] = (uint32_t)all.len;
    delta[i] = (uint16_t)(all.len - base[i / MI_TOK_PIECE_GROUP]);
    if (i == v->n)
      break;
    text_add(&all, v->piece[i].data, v->piece[i].len);
    if (v->piece[i].len > head->max_piece)
      head->max_piece = (uint32_t)v->piece[i].len;
  }
  head->text = append(t, all.data, all.len);
  head->piece_base = append(t, base, (v->n / MI_TOK_PIECE_GROUP + 1) * sizeof *base);
  head->piece_delta = append(t, delta, (v->n + 1) * sizeof *delta);
  head->token_flags = append(t, v->token_flags, v->n);
  head->byte_ids = append(t, v->byte_ids, sizeof v->byte_ids);
  return true;
}

/* ---- special tokens */

typedef struct {
  Str text;
  uint32_t id;
} Special;

static int compare_special(const void *a, const void *b)
{
  const Special *x = a, *y = b;
  int order = memcmp(x->text.data, y->text.data, x->text.len < y->text.len ? x->text.len : y->text.len);

  if (order)
    return order;
  if (x->text.len != y->text.len)
    return x->text.len < y->text.len ? -1 : 1;
  return (x->id > y->id) - (x->id < y->id);
}

static void add_specials(const Vocab *v, Text *t, MiTokTable *head)
{
  Special *list = NEW_ARRAY(v->arena, Special, v->n);
  uint32_t *ids = NEW_ARRAY(v->arena, uint32_t, v->n), by_lead[257] = {0}, n = 0, kept = 0;

  for (uint32_t i = 0; i < v->n; i++)
    if ((v->token_flags[i] & MI_TOKEN_SPECIAL) && v->piece[i].len)
      list[n++] = (Special){v->piece[i], i};
  if (n)
    qsort(list, n, sizeof *list, compare_special);
  for (uint32_t i = 0; i < n; i++) {
    Str text = list[i].text;
    if (kept && i && text.len == list[i - 1].text.len &&
        memcmp(text.data, list[i - 1].text.data, text.len) == 0)
      continue; /* a double: the first id stands */
    ids[kept++] = list[i].id;
    by_lead[(uint8_t)text.data[0] + 1] = kept;
  }
  for (uint32_t i = 0; i < 256; i++)
    if (by_lead[i + 1] < by_lead[i])
      by_lead[i + 1] = by_lead[i];
  head->specials = append(t, ids, kept * sizeof *ids);
  head->by_lead = append(t, by_lead, sizeof by_lead);
}

/* ---- text to token */

typedef struct {
  const Vocab *v;
  const uint32_t *ids;
} TextKeys;

static uint64_t text_key(const void *keys, uint64_t seed, uint32_t i)
{
  const TextKeys *k = keys;
  Str piece = k->v->piece[k->ids[i]];

  return mi_tok_hash_text(seed, piece.data, piece.len);
}

static bool add_texts(const Vocab *v, Text *t, MiTokTable *head)
{
  uint32_t *ids = NEW_ARRAY(v->arena, uint32_t, v->n), n = 0;
  TextKeys keys = {v, ids};
  TokHash found;

  for (uint32_t i = 0; i < v->n; i++)
    if (v->is_key[i])
      ids[n++] = i;
  if (!tok_hash_build(n, text_key, &keys, v->arena, &found))
    return no_hash(v, "tokens");
  uint32_t *slots = NEW_ARRAY(v->arena, uint32_t, found.hash.n_slots);
  memset(slots, 0xff, found.hash.n_slots * sizeof *slots);
  for (uint32_t i = 0; i < n; i++)
    slots[found.slot_of[i]] = mi_tok_slot_text(text_key(&keys, found.hash.seed, i), ids[i]);
  head->tokens = found.hash;
  head->tokens.displace = append(t, found.displace, found.hash.n_buckets * sizeof *found.displace);
  head->tokens.slots = append(t, slots, found.hash.n_slots * sizeof *slots);
  return true;
}

/* ---- SPM: ranks of tokens. Trained vocabularies have few runs: ids in the order of scores. */

static void add_ranks(const Vocab *v, Text *t, MiTokTable *head)
{
  ARRAY(MiTokRun) runs = {0};
  bool open = false; /* the last run has one id so far: its step is not known */

  for (uint32_t i = 0; i < v->n; i++) {
    uint32_t change = i ? v->rank[i] - v->rank[i - 1] : UINT32_MAX;
    MiTokRun *last = runs.len ? &runs.data[runs.len - 1] : NULL;
    if (change <= 1 && open)
      last->rank |= change << 31;
    if (change > 1 || last->rank >> 31 != change) {
      *PUSH(v->arena, runs) = (MiTokRun){i, v->rank[i]};
      open = true;
    } else {
      open = false;
    }
  }
  head->n_runs = runs.len;
  head->runs = append(t, runs.data, runs.len * sizeof *runs.data);
}

/* ---- BPE: merges */

/* "left right", where a space may also be the first byte of left. Merges of texts that are no tokens can
 * never lead to a token: they are left out. */
static bool parse_merge(const Vocab *v, Str line, Merge *out)
{
  const char *space = line.len > 1 ? memchr(line.data + 1, ' ', line.len - 1) : NULL;
  char whole[4 * MI_TOK_MAX_PIECE];

  if (!space || line.len > sizeof whole)
    return false;
  size_t n_left = (size_t)(space - line.data), n_right = line.len - n_left - 1;
  memcpy(whole, line.data, n_left);
  memcpy(whole + n_left, space + 1, n_right);
  int32_t left = vocab_find(v, whole, n_left), right = vocab_find(v, space + 1, n_right);
  int32_t merged = vocab_find(v, whole, n_left + n_right);
  if (left < 0 || right < 0 || merged < 0 || !v->is_key[left] || !v->is_key[right] || !v->is_key[merged])
    return false;
  out->left = (uint32_t)left;
  out->right = (uint32_t)right;
  return true;
}

static int compare_merges(const void *a, const void *b)
{
  const Merge *x = a, *y = b;

  if (x->left != y->left)
    return x->left < y->left ? -1 : 1;
  if (x->right != y->right)
    return x->right < y->right ? -1 : 1;
  return (x->rank > y->rank) - (x->rank < y->rank);
}

static bool read_merges(const Vocab *v, Merges *out)
{
  const Meta *list = model_meta(v->m, "tokenizer.ggml.merges");
  uint32_t kept = 0;

  if (!list || list->type != META_ARRAY || list->item_type != META_STR)
    return fail(v->e, "%s: tokenizer.ggml.merges is not a list of texts; a BPE tokenizer needs it",
                model_shown_path(v->m->path));
  if (list->count > MI_TOK_MAX_MERGES)
    return fail(v->e, "%s: tokenizer.ggml.merges: %llu merges; %d are possible", model_shown_path(v->m->path),
                (unsigned long long)list->count, MI_TOK_MAX_MERGES);
  for (uint32_t i = 0; i < list->count; i++) {
    Merge merge = {.rank = i};
    if (parse_merge(v, list->strings[i], &merge))
      *PUSH(v->arena, *out) = merge;
  }
  if (out->len)
    qsort(out->data, out->len, sizeof *out->data, compare_merges);
  for (uint32_t i = 0; i < out->len; i++) { /* of doubles the first counts */
    Merge m = out->data[i];
    if (!kept || m.left != out->data[kept - 1].left || m.right != out->data[kept - 1].right)
      out->data[kept++] = m;
  }
  out->len = kept;
  return true;
}

static uint64_t merge_key(const void *keys, uint64_t seed, uint32_t i)
{
  const Merge *m = (const Merge *)keys + i;

  return mi_tok_hash_pair(seed, m->left, m->right);
}

static bool add_merges(const Vocab *v, Text *t, MiTokTable *head)
{
  Merges merges = {0};
  TokHash found;

  if (!read_merges(v, &merges))
    return false;
  if (!tok_hash_build(merges.len, merge_key, merges.data, v->arena, &found))
    return no_hash(v, "merges");
  uint64_t *slots = NEW_ARRAY(v->arena, uint64_t, found.hash.n_slots);
  memset(slots, 0xff, found.hash.n_slots * sizeof *slots);
  for (uint32_t i = 0; i < merges.len; i++)
    slots[found.slot_of[i]] =
        mi_tok_slot_pair(merges.data[i].left, merges.data[i].right, merges.data[i].rank);
  head->merges = found.hash;
  head->merges.displace = append(t, found.displace, found.hash.n_buckets * sizeof *found.displace);
  head->merges.slots = append(t, slots, found.hash.n_slots * sizeof *slots);
  return true;
}

static bool add_words(const Vocab *v, Text *t, MiTokTable *head)
{
  const uint8_t *block;
  uint32_t n = 0, bytes;

  while (v->pre->words[n])
    n++;
  if (!regex_build(v->pre->words, n, v->arena, &block, &bytes, v->e))
    return false;
  head->regex = append(t, block, bytes);
  return true;
}

/* ---- the table */

static bool lay_out(const Vocab *v, Text *t)
{
  MiTokTable head = {.magic = MI_TOK_MAGIC,
                     .version = MI_TOK_VERSION,
                     .n_tokens = v->n,
                     .flags = v->flags,
                     .bos = v->bos,
                     .eos = v->eos,
                     .unk = v->unk};

  append(t, &head, sizeof head);
  if (!add_pieces(v, t, &head))
    return false;
  add_specials(v, t, &head);
  if (!add_texts(v, t, &head))
    return false;
  if (!v->pre)
    add_ranks(v, t, &head);
  else if (!add_words(v, t, &head) || !add_merges(v, t, &head))
    return false;
  append(t, "", 0);
  if (t->len > MAX_TABLE)
    return fail(v->e, "%s: the tokenizer's table has %zu bytes; %d are possible",
                model_shown_path(v->m->path), t->len, MAX_TABLE);
  head.bytes = (uint32_t)t->len;
  memcpy(t->data, &head, sizeof head);
  return true;
}

static bool build(Vocab *v, Arena *arena, const uint8_t **table, uint64_t *bytes)
{
  Text t = {.arena = v->arena};
  MemTrap trap;

  if (!mem_try(&trap))
    return fail(v->e, "%s: out of memory for the tokenizer", model_shown_path(v->m->path));
  bool ok = vocab_read(v) && lay_out(v, &t);
  if (ok) {
    *table = arena_copy(arena, t.data, t.len);
    *bytes = t.len;
  }
  mem_done(&trap);
  return ok;
}

static bool has_vocabulary(const Model *m)
{
  const Meta *kind = model_meta(m, "tokenizer.ggml.model");
  Str name;

  return kind && !(meta_str(kind, 0, &name) && (str_eq(name, "no_vocab") || str_eq(name, "none")));
}

bool tokenizer_build(const Model *m, Arena *arena, const uint8_t **table, uint64_t *bytes, Err *e)
{
  Arena scratch = {0};
  Vocab v = {.m = m, .arena = &scratch, .e = e};

  *table = NULL;
  *bytes = 0;
  if (!has_vocabulary(m))
    return true;
  bool ok = build(&v, arena, table, bytes);
  arena_free(&scratch);
  return ok;
}

const char *tokenizer_describe(const Model *m, Arena *arena)
{
  const Meta *tokens = model_meta(m, "tokenizer.ggml.tokens");
  const Pretok *pre;
  bool spm;
  char digits[32];
  Text t = {.arena = arena};
  Err e = {0};

  if (!has_vocabulary(m))
    return "none";
  if (!vocab_kind(m, &spm, &pre, &e))
    return "unknown";
  if (spm)
    text_add(&t, "SPM, ", 5);
  else
    text_printf(&t, "BPE (%s), ", pre->name);
  int n = snprintf(digits, sizeof digits, "%llu", tokens ? (unsigned long long)tokens->count : 0);
  for (int i = 0; i < n; i++)
    text_printf(&t, "%s%c", i && (n - i) % 3 == 0 ? "," : "", digits[i]);
  text_add(&t, " tokens", 7);
  return t.data;
}
