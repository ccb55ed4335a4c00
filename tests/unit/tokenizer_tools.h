/* tokenizer_tools.h - what tests of the tokenizer share: models that are nothing but metadata, tables, and
 * encoding into an array. */
#ifndef MICC_TOKENIZER_TOOLS_H
#define MICC_TOKENIZER_TOOLS_H

#include "frontend/tokenizer/tokenizer.h"
#include "runtime-min/mi_tok_format.h"
#include "runtime-min/mi_tokenizer.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- a model made by hand */

typedef struct {
  Arena arena;
  Model model;
} TokModel;

static inline Meta *tok_meta(TokModel *m, const char *key, MetaType type, const void *raw, size_t bytes)
{
  Meta *v = PUSH(&m->arena, m->model.metas);

  *v = (Meta){.key = arena_printf(&m->arena, "tokenizer.ggml.%s", key), .type = type, .count = 1};
  v->raw = arena_copy(&m->arena, raw, bytes);
  m->model.path = "made";
  return v;
}

static inline void tok_u32(TokModel *m, const char *key, uint32_t value)
{
  tok_meta(m, key, META_U32, &value, sizeof value);
}

static inline void tok_bool(TokModel *m, const char *key, bool value)
{
  tok_meta(m, key, META_BOOL, &(uint8_t){value}, 1);
}

static inline void tok_str(TokModel *m, const char *key, const char *s)
{
  Meta *v = tok_meta(m, key, META_STR, NULL, 0);
  Str *text = NEW(&m->arena, Str);

  *text = (Str){arena_strdup(&m->arena, s), strlen(s)};
  v->strings = text;
}

/* Texts that newlines separate. */
static inline void tok_strs(TokModel *m, const char *key, const char *s)
{
  Meta *v = tok_meta(m, key, META_ARRAY, NULL, 0);
  ARRAY(Str) all = {0};

  for (size_t n; *s; s += n + (s[n] == '\n')) {
    n = strcspn(s, "\n");
    *PUSH(&m->arena, all) = (Str){arena_strndup(&m->arena, s, n), n};
  }
  v->item_type = META_STR;
  v->strings = all.data;
  v->count = all.len;
}

static inline void tok_array(TokModel *m, const char *key, MetaType item, const void *raw, uint64_t n)
{
  Meta *v = tok_meta(m, key, META_ARRAY, raw, n * 4);

  v->item_type = item;
  v->count = n;
}

static inline void tok_floats(TokModel *m, const char *key, const float *x, uint64_t n)
{
  tok_array(m, key, META_F32, x, n);
}

static inline void tok_ints(TokModel *m, const char *key, const int32_t *x, uint64_t n)
{
  tok_array(m, key, META_I32, x, n);
}

/* ---- tables and texts */

static inline const void *tok_table(const Model *m, Arena *a, Err *e)
{
  const uint8_t *table;
  uint64_t bytes;

  return tokenizer_build(m, a, &table, &bytes, e) ? table : NULL;
}

typedef struct {
  int64_t n;
  int32_t *ids;
} Ids;

static inline Ids tok_encode(const void *table, Arena *a, const char *s, size_t n, bool bos, bool special)
{
  size_t bytes = mi_tok_work_bytes(table, n);
  void *work = malloc(bytes);
  Ids r = {.ids = arena_alloc(a, (2 * n + 2) * sizeof(int32_t))};

  r.n = mi_tok_encode(table, s, n, bos, special, r.ids, 2 * n + 2, work, bytes);
  free(work);
  return r;
}

/* "1 2 3" */
static inline const char *tok_show(Arena *a, const int32_t *ids, int64_t n)
{
  Text t = {.arena = a};

  text_add(&t, "", 0);
  for (int64_t i = 0; i < n; i++)
    text_printf(&t, i ? " %d" : "%d", ids[i]);
  return t.data;
}

static inline const char *tok_ids(const void *table, Arena *a, const char *s, bool bos, bool special)
{
  Ids r = tok_encode(table, a, s, strlen(s), bos, special);
  return tok_show(a, r.ids, r.n);
}

/* All bytes of the tokens; `first`: they begin a text. */
static inline Text tok_bytes(const void *table, Arena *a, const int32_t *ids, int64_t n, bool first)
{
  Text t = {.arena = a};
  char piece[1024];

  text_add(&t, "", 0);
  for (int64_t i = 0; i < n; i++) {
    size_t bytes = mi_tok_piece(table, ids[i], first && i == 0, piece, sizeof piece);
    text_add(&t, piece, bytes);
  }
  return t;
}

static inline uint32_t tok_random(uint64_t *state)
{
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(*state >> 33);
}

#endif
