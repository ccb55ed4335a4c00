/* mi_sampler.c - the sampler chain.
 *
 * Top-k, top-p and min-p each keep the first so many of the candidates in descending order; so the chain
 * keeps the shortest of the three prefixes, and needs no more of the order than that. A vocabulary has up
 * to 300,000 tokens and k is small: the k best are collected in one scan that mostly compares blocks of
 * logits with the worst kept one, and a heap gives out the best of those until a limit is reached.
 * exp is written here so that a seed means the same with every C library. */
#include "mi_sampler.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

enum { BLOCK = 16 };

size_t mi_sampler_bytes(uint32_t n_vocab)
{
  return n_vocab * sizeof(MiCandidate) + (n_vocab + 7) / 8;
}

/* Vigna, "splitmix64", the recommended way to spread a seed. */
static uint64_t splitmix(uint64_t *state)
{
  uint64_t z = *state += 0x9e3779b97f4a7c15u;

  z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
  z = (z ^ z >> 27) * 0x94d049bb133111ebu;
  return z ^ z >> 31;
}

static uint64_t rotate(uint64_t x, int n)
{
  return x << n | x >> (64 - n);
}

/* Blackman and Vigna, xoshiro256++; 53 bits of it as a number in [0, 1). */
static double dice(uint64_t s[4])
{
  uint64_t r = rotate(s[0] + s[3], 23) + s[0], t = s[1] << 17;

  s[2] ^= s[0];
  s[3] ^= s[1];
  s[1] ^= s[2];
  s[0] ^= s[3];
  s[2] ^= t;
  s[3] = rotate(s[3], 45);
  return (double)(r >> 11) * 0x1p-53;
}

void mi_sampler_init(MiSampler *s, const MiSamplerOptions *options, uint32_t n_vocab, void *memory)
{
  uint64_t state = options->seed;

  *s = (MiSampler){.options = *options, .n_vocab = n_vocab, .candidates = memory};
  s->seen = (uint8_t *)(s->candidates + n_vocab);
  for (int i = 0; i < 4; i++)
    s->random[i] = splitmix(&state);
}

/* e^x for x <= 0, to 1e-15: 2^k times a Taylor polynomial on |r| <= ln(2)/2. */
static double exp_negative(double x)
{
  static const double ln2_high = 0x1.62e42fee00000p-1, ln2_low = 0x1.a39ef35793c76p-33;
  static const double inverse[] = {1.0 / 13, 1.0 / 12, 1.0 / 11, 1.0 / 10, 1.0 / 9, 1.0 / 8, 1.0 / 7,
                                   1.0 / 6,  1.0 / 5,  1.0 / 4,  1.0 / 3,  1.0 / 2, 1};

  if (!(x > -700))
    return 0;
  int k = (int)(x * 1.4426950408889634 - 0.5);
  double r = x - k * ln2_high - k * ln2_low, sum = 1;
  for (size_t i = 0; i < sizeof inverse / sizeof *inverse; i++)
    sum = 1 + sum * r * inverse[i];
  union {
    uint64_t bits;
    double value;
  } scale = {.bits = (uint64_t)(1023 + k) << 52};
  return sum * scale.value;
}

static bool better(MiCandidate a, MiCandidate b)
{
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

static void swap(MiCandidate *a, MiCandidate *b)
{
  MiCandidate t = *a;

  *a = *b;
  *b = t;
}

/* Moves the k best of n to the front, in any order (Hoare's quickselect). */
static void select_best(MiCandidate *c, size_t n, size_t k)
{
  size_t lo = 0, hi = n;

  while (hi - lo > 1 && k > lo && k < hi) {
    size_t mid = lo + (hi - lo) / 2, last = lo;
    if (better(c[mid], c[lo]))
      swap(&c[mid], &c[lo]);
    if (better(c[hi - 1], c[lo]))
      swap(&c[hi - 1], &c[lo]);
    if (better(c[mid], c[hi - 1]))
      swap(&c[mid], &c[hi - 1]); /* the median of the three is the pivot, at the end */
    for (size_t i = lo; i < hi - 1; i++)
      if (better(c[i], c[hi - 1]))
        swap(&c[i], &c[last++]);
    swap(&c[last], &c[hi - 1]);
    if (k <= last)
      hi = last;
    else
      lo = last + 1;
  }
}

/* Whether one of a block of logits is above the floor; four lanes, since that needs no reassociation. */
static bool any_above(const float *l, float floor)
{
  float m[4] = {l[0], l[1], l[2], l[3]};

  for (int i = 4; i < BLOCK; i += 4)
    for (int j = 0; j < 4; j++)
      m[j] = l[i + j] > m[j] ? l[i + j] : m[j];
  /* not (m <= floor): a NaN in front hides others of its lane */
  return !(m[0] <= floor) || !(m[1] <= floor) || !(m[2] <= floor) || !(m[3] <= floor);
}

/* Collects the k best in any order, without those that are -infinity or no number; returns how many.
 * The buffer holds twice k, so that a selection is paid for by k new candidates. Ids ascend, hence a logit
 * equal to the worst kept one loses. */
static size_t collect(MiCandidate *c, const float *logits, size_t n_vocab, size_t k)
{
  size_t cap = k <= n_vocab / 2 ? 2 * k : n_vocab, n = 0;
  float floor = -INFINITY;

  for (size_t i = 0; i < n_vocab; i += BLOCK) {
    size_t end = i + BLOCK < n_vocab ? i + BLOCK : n_vocab;
    if (end == i + BLOCK && !any_above(logits + i, floor))
      continue;
    for (size_t j = i; j < end; j++) {
      if (!(logits[j] > floor))
        continue;
      c[n++] = (MiCandidate){.logit = logits[j], .id = (int32_t)j};
      if (n < cap || n <= k)
        continue;
      select_best(c, n, k);
      n = k;
      floor = c[0].logit;
      for (size_t m = 1; m < k; m++)
        floor = c[m].logit < floor ? c[m].logit : floor;
    }
  }
  if (n <= k)
    return n;
  select_best(c, n, k);
  return k;
}

static void sift_down(MiCandidate *c, size_t i, size_t n)
{
  for (size_t child; (child = 2 * i + 1) < n; i = child) {
    child += child + 1 < n && better(c[child + 1], c[child]);
    if (!better(c[child], c[i]))
      return;
    swap(&c[i], &c[child]);
  }
}

static double weight(MiCandidate c, float best, double temp)
{
  return c.logit >= best ? 1 : exp_negative(((double)c.logit - best) / temp); /* best may be infinity */
}

/* Top-p and min-p: orders the kept candidates, the best last at c[n - 1], and returns how many there are. */
static size_t cut(const MiSamplerOptions *o, MiCandidate *c, size_t n)
{
  double all = 0, sum = 0;
  size_t kept = 0;

  for (size_t i = n / 2; i-- > 0;)
    sift_down(c, i, n);
  float best = c[0].logit;
  for (size_t i = 0; o->top_p < 1 && i < n; i++)
    all += weight(c[i], best, 1);
  while (kept < n) {
    double w = weight(c[0], best, 1);
    if (kept && (w < o->min_p || (o->top_p < 1 && sum >= o->top_p * all)))
      break;
    sum += w;
    kept++;
    swap(&c[0], &c[n - kept]);
    sift_down(c, 0, n - kept);
  }
  return kept;
}

static int32_t draw(MiSampler *s, const MiCandidate *c, size_t n)
{
  float best = c[0].logit;
  double sum = 0, temp = s->options.temp;

  for (size_t i = 0; i < n; i++)
    best = c[i].logit > best ? c[i].logit : best;
  for (size_t i = 0; i < n; i++)
    sum += weight(c[i], best, temp);
  double at = dice(s->random) * sum;
  for (size_t i = n; i-- > 1;) { /* from the best one on, if they are ordered */
    at -= weight(c[i], best, temp);
    if (at < 0)
      return c[i].id;
  }
  return c[0].id;
}

static void penalise(MiSampler *s, float *logits, const int32_t *tokens, size_t n)
{
  const MiSamplerOptions *o = &s->options;
  size_t last = o->repeat_last_n < 0 ? n : (size_t)o->repeat_last_n, from = last < n ? n - last : 0;

  if (o->repeat_penalty == 1)
    return;
  for (size_t i = from; i < n; i++) {
    uint32_t id = (uint32_t)tokens[i];
    if (s->seen[id / 8] >> (id % 8) & 1)
      continue;
    s->seen[id / 8] |= (uint8_t)(1 << (id % 8));
    double l = logits[id];
    logits[id] = (float)(l > 0 ? l / o->repeat_penalty : l * o->repeat_penalty);
  }
  for (size_t i = from; i < n; i++)
    s->seen[tokens[i] / 8] = 0;
}

int32_t mi_sampler_next(MiSampler *s, float *logits, const int32_t *tokens, size_t n)
{
  const MiSamplerOptions *o = &s->options;
  size_t k = o->temp <= 0                                       ? 1
             : o->top_k <= 0 || (uint32_t)o->top_k > s->n_vocab ? s->n_vocab
                                                                : (size_t)o->top_k;

  penalise(s, logits, tokens, n);
  size_t count = collect(s->candidates, logits, s->n_vocab, k);
  if (!count)
    return -1;
  if (count == 1)
    return s->candidates[0].id;
  if (o->top_p >= 1 && o->min_p <= 0)
    return draw(s, s->candidates, count);
  size_t kept = cut(o, s->candidates, count);
  return draw(s, s->candidates + count - kept, kept);
}
