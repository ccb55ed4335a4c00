/* attention.h - what the kernels of one token and of a prompt's tokens share.
 *
 * A kernel works on a few queries with the same keys and values: heads of one token, or of several tokens. Scratch has, for
 * each query, a tile of scores, which become probabilities; then for all their numbers in a tile.
 * What is done for each query alone is a loop over queries: its code is there once.
 *
 * Positions go by sections of MI_SECTION. The results of a section are made for themselves, and then added to those of
 * the sections before: so several threads may make the sections of one token, and sums are the same whoever makes them. */
#ifndef MICC_LOWER_ATTENTION_H
#define MICC_LOWER_ATTENTION_H

#include "passes/lower/lower.h"

enum { SLOTS = 4, ATTENTION_UNROLL = 2 };

/* Of a query: what its result shrinks by; maximum, then sum, in a tile. */
typedef enum { NUM_FACTOR, NUM_TILE, NUMBERS } Number;

/* Of some positions: each query's sum of values, then their maxima of scores, then their sums of probabilities. */
typedef struct {
  uint16_t buf;
  KVal at; /* idx: where they start, in elements; 0: there are none */
} Results;

typedef struct {
  Lower *l;
  Val v;
  const Node *n;
  uint16_t q, keys, values, scratch;
  bool stored;                       /* the result is wanted in 32 bits */
  uint16_t out;                      /* there */
  Val quantised;                     /* the node that wants it in 8 bits, 0: none */
  uint16_t key_scales, value_scales; /* q8_0 states */
  bool blocks;                       /* states are q8_0 */
  bool rings;                        /* states may be rings: some layer of the graph has a window */
  KElem elem;                        /* of the states */
  int64_t heads, kv_heads, size, slots;
  int64_t group_bytes;      /* of a state: from a group of slots to the next */
  unsigned together;        /* queries of an iteration */
  unsigned tokens;          /* that they belong to: query h is that of token h / (together / tokens) */
  unsigned unroll;          /* of a token alone: columns of keys, and rows of values, at once */
  unsigned vecs;            /* of a token alone: vectors of a tile's keys at once */
  unsigned lanes;           /* f32 lanes of a vector; a tile has KEY_VECTORS of them */
  int64_t tile;             /* positions */
  int64_t stride;           /* of queries and results, from token to token */
  KVal q_at;                /* element where the first query, and its result, start */
  KVal block;               /* the block of a quantised result where the first query's starts */
  KVal pos, low;            /* idx: the first token's position; the first position it sees */
  KVal last;                /* the last token's position */
  KVal reach;               /* rings: how many positions before its own a token sees */
  KVal tiles;               /* of a head's keys */
  KVal group, scales_group; /* idx: elements of the state, and scales, from a group of slots to the next */
  KVal kv_head;             /* idx: whose keys and values they share */
  KVal section_no;          /* idx: of the section, counted from position 0 */
  Results section, all;     /* of the section; of all so far */
  KVal at, scales_at;       /* of the tile: where its elements, and their scales, start in the state */
  KVal next;                /* of a token alone: how many elements from there to those of the next tile */
} Attention;

/* ---- scratch, in elements */
int64_t attention_probs_at(const Attention *a, unsigned query);
int64_t attention_number_at(const Attention *a, Number n);
int64_t attention_scratch(const Attention *a); /* how many these are */

/* ---- results, in elements from their start */
int64_t attention_acc_at(const Attention *a, unsigned query);
int64_t attention_results(const Attention *a); /* how many these are */

/* ---- steps */
KVal attention_load(const Attention *a, uint16_t state, unsigned lanes, KVal at, int64_t off); /* as f32 */
KVal attention_number(const Attention *a, uint16_t buf, unsigned lanes, KVal at, int64_t off); /* splat */

/* For `queries` (idx) queries: results (those that there are) of nothing; from the sums of a tile to probabilities; the section's
 * results, added to all, and of prompts ready for the next section; all, of whole tokens, to where they belong. */
void attention_clear(const Attention *a, KVal queries);
void attention_softmax(const Attention *a, KVal tile, KVal queries);
void attention_merge(const Attention *a, KVal queries);
void attention_finish(const Attention *a, KVal queries);

/* idx: the first section that a query sees, and the one behind the last. */
KVal attention_first_section(const Attention *a);
KVal attention_end_section(const Attention *a);

/* The loop over tiles of the section that a query sees; its index. Sets where that tile is in the state. */
KVal attention_tiles(Attention *a);
/* How many rows of the tile must be added: up to the last token's own, rounded up to what a step takes. */
KVal attention_rows(const Attention *a, KVal tile);

/* ---- prompts (attention_prompt.c) */
unsigned attention_prompt_tokens(const Attention *a);   /* of an iteration */
void attention_prompt(const Attention *a, KVal tokens); /* idx: as many of these there are */

#endif
