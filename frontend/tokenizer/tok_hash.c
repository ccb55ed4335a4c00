/* tok_hash.c - a perfect hash by displacement: keys fall into small buckets; the fullest bucket first, each
 * looks for a displacement that sends all its keys to free slots. 16 bits a bucket suffice with 6 % of the
 * slots free. Source: Belazzougui, Botelho, Dietzfelbinger, "Hash, displace, and compress", 2009. */
#include "frontend/tokenizer/tok_hash.h"

enum { KEYS_PER_BUCKET = 4, SEEDS = 8 };

typedef struct {
  const uint64_t *hash; /* of each key */
  uint32_t *first;      /* [n_buckets + 1]: into key */
  uint32_t *key;        /* keys by bucket */
  uint32_t *order;      /* buckets, the fullest first */
  uint8_t *taken;       /* slots */
  TokHash *out;
} Placing;

static uint32_t bucket_of(const Placing *p, uint32_t key)
{
  return mi_tok_bucket(p->hash[key], p->out->hash.n_buckets);
}

static uint32_t bucket_size(const Placing *p, uint32_t bucket)
{
  return p->first[bucket + 1] - p->first[bucket];
}

/* Counting sorts: keys by bucket, then buckets by falling size. */
static void sort_buckets(Placing *p, uint32_t n, Arena *arena)
{
  uint32_t n_buckets = p->out->hash.n_buckets, largest = 0;
  uint32_t *fill = NEW_ARRAY(arena, uint32_t, n_buckets + 1);

  for (uint32_t i = 0; i < n; i++)
    p->first[bucket_of(p, i) + 1]++;
  for (uint32_t i = 0; i < n_buckets; i++) {
    largest = p->first[i + 1] > largest ? p->first[i + 1] : largest;
    p->first[i + 1] += p->first[i];
    fill[i] = p->first[i];
  }
  for (uint32_t i = 0; i < n; i++)
    p->key[fill[bucket_of(p, i)]++] = i;

  uint32_t *at = NEW_ARRAY(arena, uint32_t, largest + 2);
  for (uint32_t i = 0; i < n_buckets; i++)
    at[largest - bucket_size(p, i) + 1]++;
  for (uint32_t i = 0; i <= largest; i++)
    at[i + 1] += at[i];
  for (uint32_t i = 0; i < n_buckets; i++)
    p->order[at[largest - bucket_size(p, i)]++] = i;
}

static bool place_with(Placing *p, uint32_t bucket, uint32_t displacement)
{
  uint32_t i = p->first[bucket], end = p->first[bucket + 1];

  for (; i < end; i++) {
    uint32_t slot = mi_tok_slot(p->hash[p->key[i]], displacement, p->out->hash.n_slots);
    if (p->taken[slot])
      break;
    p->taken[slot] = 1;
    p->out->slot_of[p->key[i]] = slot;
  }
  for (uint32_t j = p->first[bucket]; i < end && j < i; j++)
    p->taken[p->out->slot_of[p->key[j]]] = 0;
  return i == end;
}

static bool place_all(Placing *p)
{
  for (uint32_t i = 0; i < p->out->hash.n_buckets; i++) {
    uint32_t bucket = p->order[i], displacement = 0;
    while (!place_with(p, bucket, displacement))
      if (++displacement > UINT16_MAX)
        return false;
    p->out->displace[bucket] = (uint16_t)displacement;
  }
  return true;
}

bool tok_hash_build(uint32_t n, TokHashKey *key, const void *keys, Arena *arena, TokHash *out)
{
  uint32_t n_buckets = n / KEYS_PER_BUCKET + 1, n_slots = n + n / 16 + 1;
  uint64_t *hash = NEW_ARRAY(arena, uint64_t, n);

  for (uint64_t seed = 1; seed <= SEEDS; seed++) {
    *out = (TokHash){.hash = {.seed = seed, .n_buckets = n_buckets, .n_slots = n_slots},
                     .displace = NEW_ARRAY(arena, uint16_t, n_buckets),
                     .slot_of = NEW_ARRAY(arena, uint32_t, n)};
    for (uint32_t i = 0; i < n; i++)
      hash[i] = key(keys, seed, i);
    Placing p = {.hash = hash,
                 .first = NEW_ARRAY(arena, uint32_t, n_buckets + 1),
                 .key = NEW_ARRAY(arena, uint32_t, n),
                 .order = NEW_ARRAY(arena, uint32_t, n_buckets),
                 .taken = NEW_ARRAY(arena, uint8_t, n_slots),
                 .out = out};
    sort_buckets(&p, n, arena);
    if (place_all(&p))
      return true;
  }
  return false;
}
