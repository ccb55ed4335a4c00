/* sampler.c - the sampler chain: what each step keeps, distributions, seeds. */
#include "runtime-min/mi_sampler.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static MiSamplerOptions only(void) /* every step off */
{
  return (MiSamplerOptions){.repeat_penalty = 1, .top_p = 1, .temp = 1, .seed = 1};
}

typedef struct {
  MiSampler s;
  void *memory;
} Fixture;

static Fixture make(MiSamplerOptions o, uint32_t n_vocab)
{
  Fixture f = {.memory = calloc(1, mi_sampler_bytes(n_vocab))};

  mi_sampler_init(&f.s, &o, n_vocab, f.memory);
  return f;
}

/* How often each token comes in n draws. */
static void histogram(MiSamplerOptions o, const float *logits, uint32_t n_vocab, int n, int *count)
{
  Fixture f = make(o, n_vocab);
  float copy[64];

  cr_assert_leq(n_vocab, 64);
  memset(count, 0, n_vocab * sizeof *count);
  for (int i = 0; i < n; i++) {
    memcpy(copy, logits, n_vocab * sizeof *logits);
    int32_t id = mi_sampler_next(&f.s, copy, NULL, 0);
    cr_assert(id >= 0 && (uint32_t)id < n_vocab);
    count[id]++;
  }
  free(f.memory);
}

static float noise(uint64_t *state)
{
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (float)(*state >> 40) / 16777216.0f * 20 - 10;
}

static float *random_logits(uint32_t n, uint64_t seed)
{
  float *l = malloc(n * sizeof *l);

  for (uint32_t i = 0; i < n; i++)
    l[i] = noise(&seed);
  return l;
}

Test(sampler, greedy_takes_the_lowest_of_the_best)
{
  MiSamplerOptions o = only();
  float logits[40] = {0};
  o.temp = 0;
  Fixture f = make(o, 40);

  cr_assert_eq(mi_sampler_next(&f.s, logits, NULL, 0), 0);
  logits[37] = logits[5] = logits[20] = 3;
  cr_assert_eq(mi_sampler_next(&f.s, logits, NULL, 0), 5);
  free(f.memory);
}

Test(sampler, top_k_of_one_is_greedy)
{
  MiSamplerOptions o = only(), g = only();
  o.top_k = 1;
  g.temp = 0;

  for (uint32_t n = 1; n < 2000; n += 37) {
    Fixture a = make(o, n), b = make(g, n);
    float *l = random_logits(n, n);
    cr_assert_eq(mi_sampler_next(&a.s, l, NULL, 0), mi_sampler_next(&b.s, l, NULL, 0));
    free(l);
    free(a.memory);
    free(b.memory);
  }
}

static const float *sorting;

static int by_logit(const void *a, const void *b)
{
  int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;

  return sorting[x] != sorting[y] ? (sorting[x] < sorting[y] ? 1 : -1) : x - y;
}

/* Draws many times at a high temperature: everything drawn is among the k best, and all of them appear. */
Test(sampler, top_k_keeps_the_k_best)
{
  static const int sizes[][2] = {{200, 5},   {200, 99}, {200, 100}, {200, 101},
                                 {200, 199}, {17, 16},  {1000, 40}};

  for (size_t c = 0; c < sizeof sizes / sizeof *sizes; c++) {
    uint32_t n = (uint32_t)sizes[c][0], k = (uint32_t)sizes[c][1];
    float *l = random_logits(n, c + 9);
    int32_t *order = malloc(n * sizeof *order);
    uint8_t *drawn = calloc(n, 1);
    MiSamplerOptions o = only();
    o.top_k = (int32_t)k;
    o.temp = 1000;
    Fixture f = make(o, n);
    for (uint32_t i = 0; i < n; i++) {
      l[i] = roundf(l[i] * 8) / 8; /* with ties */
      order[i] = (int32_t)i;
    }
    sorting = l;
    qsort(order, n, sizeof *order, by_logit);
    for (int i = 0; i < 5000; i++)
      drawn[mi_sampler_next(&f.s, l, NULL, 0)] = 1;
    for (uint32_t i = 0; i < n; i++)
      cr_assert_eq(drawn[order[i]], i < k, "n %u, k %u: rank %u", n, k, i);
    free(l);
    free(order);
    free(drawn);
    free(f.memory);
  }
}

/* Probabilities 0.5, 0.25, 0.125, 0.125: frequencies follow them. */
static const float halves[4] = {0.0f, -0.69314718f, -1.38629436f, -1.38629436f};

Test(sampler, draws_follow_the_distribution)
{
  int count[4];

  histogram(only(), halves, 4, 80000, count);
  cr_assert_float_eq(count[0] / 80000.0, 0.5, 0.01);
  cr_assert_float_eq(count[1] / 80000.0, 0.25, 0.01);
  cr_assert_float_eq(count[2] / 80000.0, 0.125, 0.01);
  cr_assert_float_eq(count[3] / 80000.0, 0.125, 0.01);
}

Test(sampler, temperature_sharpens)
{
  MiSamplerOptions o = only();
  int count[4];

  o.temp = 0.5; /* squares the weights: 16 : 4 : 1 : 1 */
  histogram(o, halves, 4, 80000, count);
  cr_assert_float_eq(count[0] / 80000.0, 16 / 22.0, 0.01);
  cr_assert_float_eq(count[1] / 80000.0, 4 / 22.0, 0.01);
}

Test(sampler, top_p_keeps_the_shortest_sufficient_prefix)
{
  MiSamplerOptions o = only();
  int count[4];

  o.top_p = 0.7;
  histogram(o, halves, 4, 40000, count);
  cr_assert_float_eq(count[0] / 40000.0, 2 / 3.0, 0.01);
  cr_assert_eq(count[2] + count[3], 0);
  o.top_p = 0.1;
  histogram(o, halves, 4, 1000, count);
  cr_assert_eq(count[0], 1000);
  o.top_p = 0; /* at least one stays */
  histogram(o, halves, 4, 1000, count);
  cr_assert_eq(count[0], 1000);
}

/* Top-p counts within what top-k has kept, as llama.cpp does: of 0.5 and 0.25, the first alone is 0.667. */
Test(sampler, top_p_comes_after_top_k)
{
  MiSamplerOptions o = only();
  int count[4];

  o.top_k = 2;
  o.top_p = 0.6;
  histogram(o, halves, 4, 1000, count);
  cr_assert_eq(count[0], 1000);
}

Test(sampler, min_p_is_relative_to_the_best)
{
  MiSamplerOptions o = only();
  int count[4];

  o.min_p = 0.3; /* 0.25 / 0.5 stays, 0.125 / 0.5 goes */
  histogram(o, halves, 4, 40000, count);
  cr_assert_float_eq(count[1] / 40000.0, 1 / 3.0, 0.01);
  cr_assert_eq(count[2] + count[3], 0);
}

/* The cuts come before temperature: a high one brings nothing back. */
Test(sampler, temperature_comes_last)
{
  MiSamplerOptions o = only();
  int count[4];

  o.min_p = 0.3;
  o.temp = 900;
  histogram(o, halves, 4, 40000, count);
  cr_assert_float_eq(count[0] / 40000.0, 0.5, 0.01);
  cr_assert_eq(count[2] + count[3], 0);
}

Test(sampler, penalty_lowers_what_was_said_once_for_each_token)
{
  MiSamplerOptions o = only();
  float logits[4] = {4, -4, 4, -4};
  int32_t said[] = {3, 3, 2, 0, 0, 1};

  o.temp = 0;
  o.repeat_penalty = 2;
  o.repeat_last_n = 4;
  Fixture f = make(o, 4);
  mi_sampler_next(&f.s, logits, said, 6); /* looks at 2 0 0 1 */
  cr_assert_eq(logits[0], 2);
  cr_assert_eq(logits[1], -8);
  cr_assert_eq(logits[2], 2);
  cr_assert_eq(logits[3], -4);
  f.s.options.repeat_last_n = 0;
  mi_sampler_next(&f.s, logits, said, 6);
  cr_assert_eq(logits[0], 2);
  f.s.options.repeat_last_n = -1;
  mi_sampler_next(&f.s, logits, said, 6);
  cr_assert_eq(logits[0], 1);
  cr_assert_eq(logits[3], -8);
  free(f.memory);
}

Test(sampler, same_seed_same_tokens)
{
  enum { N = 50000, DRAWS = 50 };
  MiSamplerOptions o = MI_SAMPLER_DEFAULTS;
  float *l = random_logits(N, 3);
  int32_t ids[3][DRAWS];

  o.temp = 20;
  for (int run = 0; run < 3; run++) {
    o.seed = run == 2 ? 43 : 42;
    Fixture f = make(o, N);
    for (int i = 0; i < DRAWS; i++)
      ids[run][i] = mi_sampler_next(&f.s, l, NULL, 0);
    free(f.memory);
  }
  cr_assert_eq(memcmp(ids[0], ids[1], sizeof ids[0]), 0);
  cr_assert_neq(memcmp(ids[0], ids[2], sizeof ids[0]), 0);
  free(l);
}

/* What is no number, or minus infinity, is never drawn; infinity always is. */
Test(sampler, odd_numbers_are_survived)
{
  MiSamplerOptions variants[3] = {only(), only(), MI_SAMPLER_DEFAULTS};
  variants[1].temp = 0;

  for (int v = 0; v < 3; v++) {
    float l[33];
    Fixture f = make(variants[v], 33);
    for (int i = 0; i < 33; i++)
      l[i] = i % 2 ? NAN : -INFINITY;
    cr_assert_eq(mi_sampler_next(&f.s, l, NULL, 0), -1);
    l[20] = -5;
    cr_assert_eq(mi_sampler_next(&f.s, l, NULL, 0), 20);
    l[7] = INFINITY;
    for (int i = 0; i < 20; i++)
      cr_assert_eq(mi_sampler_next(&f.s, l, NULL, 0), 7);
    free(f.memory);
  }
}
