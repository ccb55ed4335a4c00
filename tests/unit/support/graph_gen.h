/* graph_gen.h - random graphs that verify, with weights and inputs, for running two ways and
 * comparing: the oracle against lowered code, text against text, before and after a pass.
 *
 * The same seed gives the same graph on any machine. Values stay near 1, so that a bound on the
 * error means something: weights are small, exp and division get tame operands. */
#ifndef MICC_TESTS_GRAPH_GEN_H
#define MICC_TESTS_GRAPH_GEN_H

#include "ir/graph.h"

/* ---- random numbers (splitmix64) */
typedef struct {
  uint64_t state;
} Rng;
uint64_t rng_next(Rng *r);
uint32_t rng_below(Rng *r, uint32_t n); /* 0 .. n-1 */
double rng_normal(Rng *r);              /* roughly normal, mean 0, deviation 1 */

/* ---- a graph "main" of random ops on small tensors, one entry point without states */
typedef struct {
  uint64_t seed;
  uint32_t n_nodes;   /* about; 0: 12 */
  uint64_t forbidden; /* bit 1 << op: ops that must not occur */
} GenOptions;
Module *gen_random(Arena *a, const GenOptions *opt);

/* ---- a small decoder model with graphs "decode" and "prefill", as frontend/arch builds them:
 * random sizes, grouped heads, rope style, windows, biases, norms, activation, tied head */
typedef struct {
  uint64_t seed;
  uint32_t prefill_tokens; /* 0: no prefill graph */
  int weights;             /* DType of all matrices; -1: a random one each */
  uint32_t context;        /* 0: a short one; else two layers, so that prompts have attention */
  bool wide;               /* rows of whole 256s, as K types need; implied by them */
  bool long_rows;          /* whose unpacked codes no first-level cache has place for */
} DecoderOptions;
Module *gen_decoder(Arena *a, const DecoderOptions *opt);

/* ---- data */
/* Weight data for a declared type, about `scale` in size; also for text modules without data. */
void gen_weight(Arena *a, Rng *r, Weight *w, double scale);
void gen_weights(Arena *a, Rng *r, Module *m);
/* Inputs of a graph in its order: f32 near 1; `pos` as given; other i32 in 0 .. id_limit-1. */
Array *gen_inputs(Arena *a, Rng *r, const Graph *g, int64_t pos, uint32_t id_limit);
/* States of a module, filled with values near 1 (slots beyond pos as well: they must not matter). */
Array *gen_states(Arena *a, Rng *r, const Module *m);
Array *gen_outputs(Arena *a, const Graph *g); /* room for graph_eval's results */

/* Largest difference, relative to the largest expected value. */
double gen_error(const Array *got, const Array *want);

#endif
