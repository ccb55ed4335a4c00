/* tok_vocab.c - see tok_vocab.h. What llama.cpp accepts is accepted, with the same defaults; what it lets
 * pass although it cannot be meant (ids outside of the vocabulary, lists of different lengths) is an error.
 */
#include "frontend/tokenizer/tok_vocab.h"

#include <stdio.h>
#include <stdlib.h>

#define KEY "tokenizer.ggml."

enum {
  TYPE_UNDEFINED,
  TYPE_NORMAL,
  TYPE_UNKNOWN,
  TYPE_CONTROL,
  TYPE_USER_DEFINED,
  TYPE_UNUSED,
  TYPE_BYTE,
  MAX_PROBES = 4096 /* a hostile vocabulary must not cost quadratic time */
};

/* GGUF's token types. Unused tokens are found when encoding, but show nothing. */
static const uint8_t flags_of_type[] = {
    [TYPE_UNDEFINED] = MI_TOKEN_HIDDEN,
    [TYPE_NORMAL] = 0,
    [TYPE_UNKNOWN] = MI_TOKEN_HIDDEN | MI_TOKEN_SPECIAL | MI_TOKEN_CONTROL,
    [TYPE_CONTROL] = MI_TOKEN_HIDDEN | MI_TOKEN_SPECIAL | MI_TOKEN_CONTROL,
    [TYPE_USER_DEFINED] = MI_TOKEN_SPECIAL,
    [TYPE_UNUSED] = MI_TOKEN_HIDDEN,
    [TYPE_BYTE] = 0,
};

#define WORDS(name, ...) static const char *const words_##name[] = {__VA_ARGS__, NULL};
#define PRETOK(name, words, flags)
#include "frontend/tokenizer/pretok.def"
#undef WORDS
#undef PRETOK
static const Pretok pretoks[] = {
#define WORDS(name, ...)
#define PRETOK(name, words, flags) {name, words_##words, flags},
#include "frontend/tokenizer/pretok.def"
#undef WORDS
#undef PRETOK
};

enum {
#define ROLE(role, key, old_key, ends) ROLE_##role,
#define NAME(role, text)
#include "frontend/tokenizer/tok_names.def"
#undef ROLE
#undef NAME
  ROLE_COUNT
};
static const struct {
  const char *key, *old_key;
  bool ends;
} roles[] = {
#define ROLE(role, key, old_key, ends) {key, old_key, ends},
#define NAME(role, text)
#include "frontend/tokenizer/tok_names.def"
#undef ROLE
#undef NAME
};
static const struct {
  int role;
  const char *text;
} names[] = {
#define ROLE(role, key, old_key, ends)
#define NAME(role, text) {ROLE_##role, text},
#include "frontend/tokenizer/tok_names.def"
#undef ROLE
#undef NAME
};

static bool PRINTF(3, 4) bad(const Vocab *v, const char *key, const char *fmt, ...)
{
  char what[512];
  va_list ap;

  va_start(ap, fmt);
  vsnprintf(what, sizeof what, fmt, ap);
  va_end(ap);
  return fail(v->e, "%s: " KEY "%s: %s", model_shown_path(v->m->path), key, what);
}

static const Meta *get(const Model *m, const char *key)
{
  char full[64];

  snprintf(full, sizeof full, KEY "%s", key);
  return model_meta(m, full);
}

/* ---- which tokenizer */

static const Pretok *find_pretok(Str name)
{
  for (size_t i = 0; i < COUNT(pretoks); i++)
    if (str_eq(name, pretoks[i].name))
      return &pretoks[i];
  return NULL;
}

static bool unknown_pretok(const Model *m, Str name, Err *e)
{
  char known[640];
  size_t n = 0;

  for (size_t i = 0; i < COUNT(pretoks) && n < sizeof known; i++)
    n += (size_t)snprintf(known + n, sizeof known - n, " %s", pretoks[i].name);
  return fail(e, "%s: " KEY "pre: unknown pre-tokenizer '%.*s'; known:%s", model_shown_path(m->path),
              (int)min64((int64_t)name.len, 64), name.data, known);
}

bool vocab_kind(const Model *m, bool *spm, const Pretok **pre, Err *e)
{
  Str kind, name = {"default", 7};

  *pre = NULL;
  if (!meta_str(get(m, "model"), 0, &kind))
    return fail(e, "%s: " KEY "model is not a text", model_shown_path(m->path));
  *spm = str_eq(kind, "llama");
  if (*spm)
    return true;
  if (!str_eq(kind, "gpt2"))
    return fail(e, "%s: " KEY "model: unknown tokenizer '%.*s'; known: llama (SPM), gpt2 (byte-level BPE)",
                m->path, (int)min64((int64_t)kind.len, 64), kind.data);
  if (get(m, "pre") && !meta_str(get(m, "pre"), 0, &name))
    return fail(e, "%s: " KEY "pre is not a text", model_shown_path(m->path));
  *pre = find_pretok(name.len ? name : (Str){"default", 7});
  return *pre || unknown_pretok(m, name, e);
}

/* ---- text to id */

static uint32_t *map_place(const Vocab *v, const char *text, size_t n)
{
  uint32_t at = (uint32_t)mi_tok_hash_text(0, text, n) & v->map_mask;

  for (uint32_t probes = 0; probes < MAX_PROBES; probes++, at = (at + 1) & v->map_mask) {
    uint32_t id = v->map[at];
    if (id == UINT32_MAX || (v->text[id].len == n && memcmp(v->text[id].data, text, n) == 0))
      return &v->map[at];
  }
  return NULL;
}

int32_t vocab_find(const Vocab *v, const char *text, size_t n)
{
  const uint32_t *place = n ? map_place(v, text, n) : NULL;
  return place && *place != UINT32_MAX ? (int32_t)*place : MI_TOK_NONE;
}

/* Of tokens with the same text the first one counts. */
static bool fill_map(Vocab *v)
{
  uint32_t size = 16;

  while (size < 2 * v->n)
    size *= 2;
  v->map_mask = size - 1;
  v->map = NEW_ARRAY(v->arena, uint32_t, size);
  memset(v->map, 0xff, size * sizeof *v->map);
  for (uint32_t i = 0; i < v->n; i++) {
    uint32_t *place = v->text[i].len ? map_place(v, v->text[i].data, v->text[i].len) : NULL;
    if (!place && v->text[i].len)
      return bad(v, "tokens", "too many texts with the same hash");
    if (place && *place == UINT32_MAX) {
      *place = i;
      v->is_key[i] = 1;
    }
  }
  return true;
}

/* ---- tokens */

/* The list `key`, with one item for each token. NULL in *out: absent. */
static bool get_list(const Vocab *v, const char *key, const Meta **out)
{
  const Meta *list = get(v->m, key);

  *out = list;
  if (!list)
    return true;
  if (list->type != META_ARRAY || list->item_type == META_STR)
    return bad(v, key, "not a list of numbers");
  if (list->count != v->n)
    return bad(v, key, "%llu items for %u tokens", (unsigned long long)list->count, v->n);
  return true;
}

static bool read_texts(Vocab *v)
{
  const Meta *list = get(v->m, "tokens");

  if (!list || list->type != META_ARRAY || list->item_type != META_STR)
    return bad(v, "tokens", "not a list of texts");
  if (list->count < 1 || list->count > MI_TOK_MAX_TOKENS)
    return bad(v, "tokens", "%llu tokens; 1 to %d are possible", (unsigned long long)list->count,
               MI_TOK_MAX_TOKENS);
  v->n = (uint32_t)list->count;
  v->text = list->strings;
  v->piece = NEW_ARRAY(v->arena, Str, v->n);
  v->token_flags = NEW_ARRAY(v->arena, uint8_t, v->n);
  v->is_byte = NEW_ARRAY(v->arena, uint8_t, v->n);
  v->is_key = NEW_ARRAY(v->arena, uint8_t, v->n);
  return fill_map(v);
}

static bool read_types(Vocab *v)
{
  const Meta *list;
  int64_t type;

  if (!get_list(v, "token_type", &list))
    return false;
  for (uint32_t i = 0; list && i < v->n; i++) {
    if (!meta_i64(list, i, &type))
      return bad(v, "token_type", "item %u is not a whole number", i);
    if (type < 0 || type >= (int64_t)COUNT(flags_of_type))
      type = TYPE_UNDEFINED;
    v->token_flags[i] = flags_of_type[type];
    v->is_byte[i] = type == TYPE_BYTE;
  }
  return true;
}

typedef struct {
  double score;
  uint32_t id;
} Scored;

static int compare_scored(const void *a, const void *b)
{
  const Scored *x = a, *y = b;
  return x->score != y->score ? (x->score < y->score) - (x->score > y->score)
                              : (x->id > y->id) - (x->id < y->id);
}

/* Only the order of scores counts: tokens get their rank in it, equal scores the same one. */
static bool read_scores(Vocab *v)
{
  Scored *all = NEW_ARRAY(v->arena, Scored, v->n);
  const Meta *list;

  if (!get_list(v, "scores", &list))
    return false;
  if (!list)
    return bad(v, "scores", "missing; an SPM tokenizer needs them");
  for (uint32_t i = 0; i < v->n; i++) {
    all[i].id = i;
    if (!meta_f64(list, i, &all[i].score) || all[i].score != all[i].score)
      return bad(v, "scores", "item %u is not a number", i);
  }
  qsort(all, v->n, sizeof *all, compare_scored);
  v->rank = NEW_ARRAY(v->arena, uint32_t, v->n);
  for (uint32_t i = 1; i < v->n; i++)
    v->rank[all[i].id] = v->rank[all[i - 1].id] + (all[i].score < all[i - 1].score);
  return true;
}

/* ---- BOS, EOS and the rest of the family */

/* An id from metadata; absent or -1: the default, if the vocabulary is that large. */
static bool read_id(const Vocab *v, const char *key, int64_t otherwise, int32_t *out)
{
  const Meta *meta = get(v->m, key);
  int64_t id = -1;

  if (meta && !meta_i64(meta, 0, &id))
    return bad(v, key, "not a token id");
  if (id == -1 || id == UINT32_MAX)
    id = otherwise < v->n ? otherwise : MI_TOK_NONE;
  else if (id < 0 || id >= v->n)
    return bad(v, key, "token %lld; there are %u tokens", (long long)id, v->n);
  *out = (int32_t)id;
  return true;
}

static bool read_flag(Vocab *v, const char *key, uint32_t flag)
{
  const Meta *meta = get(v->m, key);
  uint64_t on;

  if (!meta)
    return true;
  if (meta->type != META_BOOL || !meta_u64(meta, 0, &on))
    return bad(v, key, "not true or false");
  v->flags = on ? v->flags | flag : v->flags & ~flag;
  return true;
}

static bool read_flags(Vocab *v)
{
  v->flags = v->pre ? v->pre->flags : MI_TOK_SPM | MI_TOK_ADD_BOS | MI_TOK_SPACE_PREFIX;
  if (!read_flag(v, "add_bos_token", MI_TOK_ADD_BOS) || !read_flag(v, "add_eos_token", MI_TOK_ADD_EOS) ||
      !read_flag(v, "add_space_prefix", MI_TOK_SPACE_PREFIX))
    return false;
  if (v->pre)
    v->flags &= ~(uint32_t)MI_TOK_SPACE_PREFIX; /* only SPM heeds it */
  if ((v->flags & MI_TOK_ADD_BOS) && v->bos < 0)
    return bad(v, "add_bos_token", "a BOS token is asked for, but none is named");
  if ((v->flags & MI_TOK_ADD_EOS) && v->eos < 0)
    return bad(v, "add_eos_token", "an EOS token is asked for, but none is named");
  return true;
}

static void make_control(Vocab *v, int32_t id)
{
  v->token_flags[id] |= flags_of_type[TYPE_CONTROL];
}

static bool apply_names(Vocab *v)
{
  int32_t of_role[ROLE_COUNT];

  for (int r = 0; r < ROLE_COUNT; r++) {
    of_role[r] = MI_TOK_NONE;
    if (roles[r].old_key && !read_id(v, roles[r].old_key, MI_TOK_NONE, &of_role[r]))
      return false;
    if (roles[r].key && !read_id(v, roles[r].key, of_role[r], &of_role[r]))
      return false;
    if (of_role[r] >= 0 && roles[r].ends)
      v->token_flags[of_role[r]] |= MI_TOKEN_EOG;
  }
  for (size_t i = 0; i < COUNT(names); i++) {
    int role = names[i].role;
    int32_t id = vocab_find(v, names[i].text, strlen(names[i].text));
    if (id < 0 || of_role[role] >= 0)
      continue;
    if (role == ROLE_ends_if_control && !(v->token_flags[id] & MI_TOKEN_CONTROL))
      continue;
    if (roles[role].key)
      of_role[role] = id;
    make_control(v, id);
    if (roles[role].ends)
      v->token_flags[id] |= MI_TOKEN_EOG;
    if (role == ROLE_shown)
      v->token_flags[id] = MI_TOKEN_SPECIAL | (v->token_flags[id] & MI_TOKEN_EOG);
  }
  return true;
}

static bool is_eog_name(const Vocab *v, const char *name)
{
  int32_t id = vocab_find(v, name, strlen(name));
  return id >= 0 && (v->token_flags[id] & MI_TOKEN_EOG);
}

/* gpt-oss and Solar separate messages by <|end|>: there it ends nothing. */
static void apply_end_of_message(Vocab *v)
{
  bool call = is_eog_name(v, "<|call|>") || is_eog_name(v, "<|calls|>");

  if (call && is_eog_name(v, "<|end|>") && (is_eog_name(v, "<|return|>") || is_eog_name(v, "<|flush|>")))
    v->token_flags[vocab_find(v, "<|end|>", 7)] = MI_TOKEN_SPECIAL;
}

/* Phi-3's special tokens take the white space behind them along; its file cannot say so. */
static void apply_rstrip(Vocab *v)
{
  static const char *const not[] = {"<unk>", "<s>", "<|endoftext|>"};
  Str name;
  bool phi3 = false;

  if (!meta_str(model_meta(v->m, "general.name"), 0, &name))
    return;
  for (uint64_t i = 0; i + 4 <= name.len && !phi3; i++) {
    const char *s = name.data + i;
    phi3 = (s[0] | 32) == 'p' && (s[1] | 32) == 'h' && (s[2] | 32) == 'i' &&
           (s[3] == '3' || (i + 5 <= name.len && s[3] == '-' && s[4] == '3'));
  }
  if (!phi3)
    return;
  for (uint32_t i = 0; i < v->n; i++)
    if (v->token_flags[i] & MI_TOKEN_SPECIAL)
      v->token_flags[i] |= MI_TOKEN_RSTRIP;
  for (size_t i = 0; i < COUNT(not); i++) {
    int32_t id = vocab_find(v, not[i], strlen(not[i]));
    if (id >= 0)
      v->token_flags[id] &= (uint8_t)~MI_TOKEN_RSTRIP;
  }
}

static bool read_specials(Vocab *v)
{
  /* BPE's default is Falcon's */
  int32_t eot, eom, ends[3];

  if (!read_id(v, "bos_token_id", v->pre ? 11 : 1, &v->bos) ||
      !read_id(v, "eos_token_id", v->pre ? 11 : 2, &v->eos) ||
      !read_id(v, "unknown_token_id", v->pre ? MI_TOK_NONE : 0, &v->unk) ||
      !read_id(v, "eot_token_id", MI_TOK_NONE, &eot) || !read_id(v, "eom_token_id", MI_TOK_NONE, &eom))
    return false;
  if (!read_flags(v) || !apply_names(v))
    return false;
  ends[0] = v->eos;
  ends[1] = eot;
  ends[2] = eom;
  for (size_t i = 0; i < COUNT(ends); i++)
    if (ends[i] >= 0)
      v->token_flags[ends[i]] |= MI_TOKEN_EOG;
  apply_end_of_message(v);
  apply_rstrip(v);
  return true;
}

/* ---- what tokens stand for */

enum { LAST_PRINTABLE = 0x143 };

/* GPT-2's printable alphabet: bytes that print stand for themselves, the others for U+0100 and up. */
static void fill_alphabet(int16_t byte_of[LAST_PRINTABLE + 1])
{
  int next = 0x100;

  for (int i = 0; i <= LAST_PRINTABLE; i++)
    byte_of[i] = -1;
  for (int b = 0; b < 256; b++) {
    bool prints = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
    byte_of[prints ? b : next++] = (int16_t)b;
  }
}

/* False if a character is not of the alphabet. All of it is below U+0800: one or two bytes. */
static bool decode_alphabet(const int16_t *byte_of, Str s, char *out, uint64_t *n)
{
  *n = 0;
  for (uint64_t i = 0; i < s.len; i++) {
    uint32_t c = (uint8_t)s.data[i];
    if (c >= 0xc2 && c < 0xe0 && i + 1 < s.len && ((uint8_t)s.data[i + 1] & 0xc0) == 0x80)
      c = (c & 31) << 6 | ((uint8_t)s.data[++i] & 63);
    else if (c >= 0x80)
      return false;
    if (c > LAST_PRINTABLE || byte_of[c] < 0)
      return false;
    out[(*n)++] = (char)byte_of[c];
  }
  return true;
}

static uint64_t replace_spaces(Str s, char *out)
{
  uint64_t n = 0;

  for (uint64_t i = 0; i < s.len; n++) {
    bool sign = s.len - i >= 3 && memcmp(s.data + i, "\xe2\x96\x81", 3) == 0;
    out[n] = sign ? ' ' : s.data[i];
    i += sign ? 3 : 1;
  }
  return n;
}

static bool parse_byte(Str s, char *out)
{
  static const char digits[] = "0123456789ABCDEF";
  const char *hi = s.len == 6 ? memchr(digits, s.data[3], 16) : NULL;
  const char *lo = s.len == 6 ? memchr(digits, s.data[4], 16) : NULL;

  if (!hi || !lo || memcmp(s.data, "<0x", 3) != 0 || s.data[5] != '>')
    return false;
  *out = (char)((hi - digits) << 4 | (lo - digits));
  return true;
}

/* A special token shows its text as it is. If encoding would have to find it as something else, it is no key:
 * it is cut out of the text before. */
static bool make_piece(Vocab *v, uint32_t i, const int16_t *byte_of, char *buffer)
{
  Str text = v->text[i];
  uint64_t n = text.len;
  bool ok = true;

  if (v->is_byte[i]) {
    if (!parse_byte(text, buffer))
      return bad(v, "tokens", "token %u is of the type byte, but '%.*s' is not of the form <0x0A>", i,
                 (int)min64((int64_t)text.len, 64), text.data);
    v->is_key[i] = 0;
    v->piece[i] = (Str){buffer, 1};
    return true;
  }
  if (v->pre) {
    ok = decode_alphabet(byte_of, text, buffer, &n);
  } else {
    ok = !memchr(text.data ? text.data : "", ' ', text.len); /* text has U+2581 instead */
    n = replace_spaces(text, buffer);
  }
  bool literal = (v->token_flags[i] & MI_TOKEN_SPECIAL) || (v->pre && !ok);
  if (literal) {
    ok = ok && n == text.len && memcmp(text.data, buffer, n) == 0;
    v->piece[i] = text;
  } else {
    v->piece[i] = (Str){buffer, n};
  }
  v->is_key[i] = v->is_key[i] && ok;
  if (v->piece[i].len > MI_TOK_MAX_PIECE)
    return bad(v, "tokens", "token %u is %llu bytes long; %d are possible", i,
               (unsigned long long)v->piece[i].len, MI_TOK_MAX_PIECE);
  return true;
}

static bool make_pieces(Vocab *v)
{
  int16_t byte_of[LAST_PRINTABLE + 1];
  uint64_t total = 0;

  for (uint32_t i = 0; i < v->n; i++)
    total += v->text[i].len;
  char *buffer = arena_alloc(v->arena, total);
  fill_alphabet(byte_of);
  for (uint32_t i = 0; i < v->n; i++) {
    if (!make_piece(v, i, byte_of, buffer))
      return false;
    buffer += v->text[i].len;
  }
  return true;
}

/* BPE begins with bytes; SPM falls back to them where no token fits. */
static void find_bytes(Vocab *v)
{
  for (int b = 0; b < 256; b++)
    v->byte_ids[b] = MI_TOK_NONE;
  for (uint32_t i = v->n; i-- > 0;)
    if (v->is_key[i] && v->piece[i].len == 1)
      v->byte_ids[(uint8_t)v->piece[i].data[0]] = (int32_t)i;
  for (int b = 0; b < 256 && !v->pre; b++) {
    char name[8];
    int n = snprintf(name, sizeof name, "<0x%02X>", (unsigned)b);
    int32_t id = vocab_find(v, name, (size_t)n);
    if (id >= 0)
      v->byte_ids[b] = id;
  }
}

bool vocab_read(Vocab *v)
{
  bool spm;

  if (!vocab_kind(v->m, &spm, &v->pre, v->e) || !read_texts(v) || !read_types(v) || !read_specials(v) ||
      !make_pieces(v) || (spm && !read_scores(v)))
    return false;
  find_bytes(v);
  return true;
}
