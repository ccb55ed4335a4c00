/* tok_hash.h - perfect hashing for the table: which slot each key gets. */
#ifndef MICC_TOK_HASH_H
#define MICC_TOK_HASH_H

#include "ir/base.h"
#include "runtime-min/mi_tok_format.h"

typedef struct {
  MiTokHash hash;     /* offsets not set */
  uint16_t *displace; /* [hash.n_buckets] */
  uint32_t *slot_of;  /* [n]: of key i */
} TokHash;

/* The 64-bit hash of key i. */
typedef uint64_t TokHashKey(const void *keys, uint64_t seed, uint32_t i);

/* n different keys. False if some cannot be told apart by any seed that is tried: such keys are made on purpose. */
bool tok_hash_build(uint32_t n, TokHashKey *key, const void *keys, Arena *arena, TokHash *out);

#endif
