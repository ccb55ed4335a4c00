/* oracle_run.h - runs a whole language model through the oracle, slow and plain: token by token
 * through graph "decode", or tiles through "prefill". Any module with these graphs will do. */
#ifndef MICC_ORACLE_RUN_H
#define MICC_ORACLE_RUN_H

#include "ir/graph.h"

typedef struct {
  Arena arena;                   /* the states */
  const Graph *decode, *prefill; /* prefill: NULL if there is none */
  Array *states;                 /* of the module, in its order */
  int64_t pos;                   /* tokens seen */
  int64_t capacity;              /* of the smallest state */
  int64_t n_vocab;               /* logits in a row */
} OracleRun;

/* All states begin as zeros. */
bool oracle_open(OracleRun *o, const Module *m, Err *e);
void oracle_close(OracleRun *o);

/* Feeds one token; `logits` gets n_vocab floats (NULL: not wanted). */
bool oracle_decode(OracleRun *o, int32_t token, float *logits, Err *e);

/* Feeds the tile's number of tokens (prefill->tokens), for their states alone. */
bool oracle_prefill(OracleRun *o, const int32_t *tokens, Err *e);

/* Feeds the prompt, then n_new times the likeliest token. `tokens` gets the new tokens. `rows`
 * (NULL: not wanted) gets the logits after each token fed through decode: all of the prompt's, or,
 * with `tiles`, those that no whole tile covers (at least the last), then the new ones but the
 * last; *n_rows counts them. */
typedef struct {
  const int32_t *prompt;
  int64_t n_prompt, n_new;
  bool tiles;
} OracleTask;
bool oracle_generate(OracleRun *o, const OracleTask *task, int32_t *tokens, float *rows, int64_t *n_rows,
                     Err *e);

/* Index of the largest; the first of equals. */
int32_t oracle_best(const float *logits, int64_t n);

#endif
