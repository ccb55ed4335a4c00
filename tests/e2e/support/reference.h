/* reference.h - what llama.cpp computes (shared/reference/llama.cpp), and measures between logits.
 * All measures are in double. */
#ifndef REFERENCE_H
#define REFERENCE_H

#include "tests/e2e/support/way.h"

typedef struct {
  const char *prompt, *text; /* text: of the continuation */
  int32_t *tokens;           /* prompt, then greedy continuation */
  unsigned n_prompt, n_greedy;
  double *gaps; /* between the two best logits at each step of the continuation; NULL: not stated */
  unsigned n_vocab, n_rows;
  const float *rows; /* logits at the prompt's tokens and the first of the continuation; NULL: none */
} Reference;

/* `name` is relative to reference/llama.cpp and has no ending. False, and a failed check, if it is not
 * there. */
bool reference_read(Suite *s, const char *name, Reference *out);

static inline const int32_t *reference_greedy(const Reference *r)
{
  return r->tokens + r->n_prompt;
}

/* The first index where they differ; n if nowhere. */
unsigned first_difference(const int32_t *a, const int32_t *b, unsigned n);

/* Index of the largest; the first of equals. */
unsigned best_of(const float *row, unsigned n);

/* KL(truth || ours): sum of p log(p / q), p and q the softmax of the rows. */
double kl_row(const float *truth, const float *ours, unsigned n);
double kl_mean(const float *truth, const float *ours, unsigned n_vocab, unsigned n_rows);

/* sum (ours - want)^2 / sum want^2 */
double nmse(const float *want, const float *ours, size_t n);

/* log of the sum of exponentials. */
double log_sum_exp(const float *row, unsigned n);

/* ---- real models: the 1,024 largest logits at each token (reference/llama.cpp/real) */

enum { TOP_K = 1024 };
typedef struct {
  float log_sum;
  struct {
    uint32_t token;
    float logit;
  } top[TOP_K];
} TopRow;

const TopRow *top_read(Suite *s, const char *name, unsigned *n_rows); /* "real/NAME-text" */

/* KL over the tokens that are in the top of both, and one bucket for all others. `ours` is a whole row, or
 * NULL: then `other` is compared. */
double kl_top(const TopRow *truth, const TopRow *other, const float *ours, unsigned n_vocab);

#endif
