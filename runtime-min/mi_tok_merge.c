/* mi_tok_merge.c - from a stretch of text to tokens by merging neighbours, best pair first: sentencepiece's
 * BPE (priority: score of the merged token) and byte-level BPE (priority: rank of the merge).
 *
 * Symbols are a linked list over the text; candidate pairs wait in a heap. A pair that changed since it was
 * put there is recognised by its rank. n symbols make at most 2 n - 2 entries: n - 1 at the start, and each
 * of n - 1 merges removes one and adds two. So time is O(n log n), memory known beforehand. */
#include "mi_tok.h"

/* ---- look-ups */

const char *mi_tok_text(const MiTokTable *t, int32_t id, size_t *bytes)
{
  const uint32_t *base = MI_AT(t, uint32_t, t->piece_base);
  const uint16_t *delta = MI_AT(t, uint16_t, t->piece_delta);
  uint32_t i = (uint32_t)id, begin = base[i / MI_TOK_PIECE_GROUP] + delta[i];

  *bytes = base[(i + 1) / MI_TOK_PIECE_GROUP] + delta[i + 1] - begin;
  return MI_AT(t, char, t->text) + begin;
}

static uint32_t hash_slot(const MiTokTable *t, const MiTokHash *h, uint64_t hash)
{
  uint32_t bucket = mi_tok_bucket(hash, h->n_buckets);
  return mi_tok_slot(hash, MI_AT(t, uint16_t, h->displace)[bucket], h->n_slots);
}

int32_t mi_tok_find(const MiTokTable *t, const char *s, size_t n)
{
  size_t bytes;

  if (n > t->max_piece)
    return MI_TOK_NONE;
  uint64_t hash = mi_tok_hash_text(t->tokens.seed, s, n);
  uint32_t slot = MI_AT(t, uint32_t, t->tokens.slots)[hash_slot(t, &t->tokens, hash)];
  uint32_t id = slot & MI_TOK_MAX_TOKENS;
  if (id == MI_TOK_MAX_TOKENS || slot != mi_tok_slot_text(hash, id))
    return MI_TOK_NONE;
  const char *text = mi_tok_text(t, (int32_t)id, &bytes);
  return bytes == n && memcmp(text, s, n) == 0 ? (int32_t)id : MI_TOK_NONE;
}

static uint32_t score_rank(const MiTokTable *t, int32_t id)
{
  const MiTokRun *run = MI_AT(t, MiTokRun, t->runs);
  uint32_t lo = 0, hi = t->n_runs;

  while (hi - lo > 1) {
    uint32_t mid = lo + (hi - lo) / 2;
    if (run[mid].first <= (uint32_t)id)
      lo = mid;
    else
      hi = mid;
  }
  return (run[lo].rank & ~(1u << 31)) + (run[lo].rank >> 31 ? (uint32_t)id - run[lo].first : 0);
}

static uint32_t merge_rank(const MiTokTable *t, int32_t left, int32_t right)
{
  if (left < 0 || right < 0)
    return MI_TOK_NO_RANK;
  uint64_t hash = mi_tok_hash_pair(t->merges.seed, (uint32_t)left, (uint32_t)right);
  uint64_t slot = MI_AT(t, uint64_t, t->merges.slots)[hash_slot(t, &t->merges, hash)];
  uint32_t rank = (uint32_t)(slot >> 2 * MI_TOK_ID_BITS);
  return slot == mi_tok_slot_pair((uint32_t)left, (uint32_t)right, rank) ? rank : MI_TOK_NO_RANK;
}

/* ---- the heap */

static void heap_push(MiTokEncoder *e, uint64_t item)
{
  uint64_t *h = e->heap;
  size_t i = e->n_heap++;

  for (; i && h[(i - 1) / 2] > item; i = (i - 1) / 2)
    h[i] = h[(i - 1) / 2];
  h[i] = item;
}

static uint64_t heap_pop(MiTokEncoder *e)
{
  uint64_t *h = e->heap, top = h[0], last = h[--e->n_heap];
  size_t i = 0, child;

  for (; (child = 2 * i + 1) < e->n_heap; i = child) {
    if (child + 1 < e->n_heap && h[child + 1] < h[child])
      child++;
    if (h[child] >= last)
      break;
    h[i] = h[child];
  }
  h[i] = last;
  return top;
}

/* ---- merging */

/* Computes the rank of the pair that begins at i, and makes it wait. */
static void consider(MiTokEncoder *e, const char *s, uint32_t n, uint32_t i)
{
  MiTokSymbol *left = &e->symbols[i];

  left->rank = MI_TOK_NO_RANK;
  if (left->next == n)
    return;
  const MiTokSymbol *right = &e->symbols[left->next];
  if (e->table->flags & MI_TOK_SPM) {
    int32_t id = mi_tok_find(e->table, s + i, right->next - i);
    if (id >= 0)
      left->rank = score_rank(e->table, id);
  } else {
    left->rank = merge_rank(e->table, left->id, right->id);
  }
  if (left->rank != MI_TOK_NO_RANK)
    heap_push(e, (uint64_t)left->rank << 32 | i);
}

static void merge(MiTokEncoder *e, const char *s, uint32_t n, uint32_t i)
{
  MiTokSymbol *left = &e->symbols[i], *right = &e->symbols[left->next];

  left->next = right->next;
  right->rank = MI_TOK_NO_RANK;
  if (left->next != n)
    e->symbols[left->next].prev = i;
  left->id = mi_tok_find(e->table, s + i, left->next - i);
  if (i)
    consider(e, s, n, left->prev);
  consider(e, s, n, i);
}

/* A symbol that is no token: its bytes, or one unknown token for all of it. */
static void put_bytes(MiTokEncoder *e, const char *s, size_t n)
{
  const int32_t *byte_ids = MI_AT(e->table, int32_t, e->table->byte_ids);

  for (size_t i = 0; i < n; i++) {
    int32_t id = byte_ids[(uint8_t)s[i]];
    if (id < 0) {
      if (e->table->unk >= 0)
        mi_tok_put(e, e->table->unk);
      return;
    }
    mi_tok_put(e, id);
  }
}

/* The symbols stand; s is n bytes long. */
static void merge_all(MiTokEncoder *e, const char *s, uint32_t n)
{
  e->n_heap = 0;
  for (uint32_t i = 0; i < n; i = e->symbols[i].next)
    consider(e, s, n, i);
  while (e->n_heap) {
    uint64_t top = heap_pop(e);
    if (e->symbols[(uint32_t)top].rank == top >> 32)
      merge(e, s, n, (uint32_t)top);
  }
  for (uint32_t i = 0; i < n; i = e->symbols[i].next) {
    const MiTokSymbol *symbol = &e->symbols[i];
    if (symbol->id >= 0)
      mi_tok_put(e, symbol->id);
    else
      put_bytes(e, s + i, symbol->next - i);
  }
}

void mi_tok_spm(MiTokEncoder *e, const char *s, size_t n)
{
  uint32_t prev = 0, cp;

  for (uint32_t i = 0, next; i < n; prev = i, i = next) {
    next = i + (uint32_t)mi_utf8(s + i, n - i, &cp);
    e->symbols[i] = (MiTokSymbol){prev, next, mi_tok_find(e->table, s + i, next - i), MI_TOK_NO_RANK};
  }
  merge_all(e, s, (uint32_t)n);
}

void mi_tok_bpe(MiTokEncoder *e, const char *s, size_t n)
{
  const int32_t *byte_ids = MI_AT(e->table, int32_t, e->table->byte_ids);

  if (e->table->flags & MI_TOK_IGNORE_MERGES) {
    int32_t id = mi_tok_find(e->table, s, n);
    if (id >= 0) {
      mi_tok_put(e, id);
      return;
    }
  }
  for (uint32_t i = 0; i < n; i++)
    e->symbols[i] = (MiTokSymbol){i - (i > 0), i + 1, byte_ids[(uint8_t)s[i]], MI_TOK_NO_RANK};
  merge_all(e, s, (uint32_t)n);
}
