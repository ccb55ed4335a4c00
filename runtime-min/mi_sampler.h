/* mi_sampler.h - picks the next token from a row of logits.
 *
 * The chain and its defaults are llama.cpp's: repeat penalty, top-k, top-p, min-p, temperature, dice.
 * The same seed, options and logits give the same tokens. */
#ifndef MI_SAMPLER_H
#define MI_SAMPLER_H

#include <stddef.h>
#include <stdint.h>

typedef struct {
  double repeat_penalty; /* of tokens seen lately: positive logits are divided by it; 1: off */
  int32_t repeat_last_n; /* how many tokens are "lately"; 0: off, -1: all */
  int32_t top_k;         /* keeps the k best; 0 or less: all */
  double top_p;          /* keeps the best that reach this probability together; 1: all */
  double min_p;          /* keeps what has this share of the best one's probability; 0: all */
  double temp;           /* 0: the best always, of equal ones the lowest id */
  uint32_t seed;
} MiSamplerOptions;

#define MI_SAMPLER_DEFAULTS                                                                                  \
  {.repeat_penalty = 1.0, .repeat_last_n = 64, .top_k = 40, .top_p = 0.95, .min_p = 0.05, .temp = 0.8}

typedef struct {
  float logit;
  int32_t id;
} MiCandidate;

typedef struct {
  MiSamplerOptions options;
  uint32_t n_vocab;
  uint64_t random[4];
  MiCandidate *candidates; /* n_vocab */
  uint8_t *seen;           /* a bit for each token; all clear between calls */
} MiSampler;

size_t mi_sampler_bytes(uint32_t n_vocab);

/* `memory` is zeroed, 8-byte aligned, mi_sampler_bytes() long. */
void mi_sampler_init(MiSampler *s, const MiSamplerOptions *options, uint32_t n_vocab, void *memory);

/* The next token after tokens[0..n). Changes the logits of penalised tokens. -1: no logit is a number
 * above -infinity. */
int32_t mi_sampler_next(MiSampler *s, float *logits, const int32_t *tokens, size_t n);

#endif
