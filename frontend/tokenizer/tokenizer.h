/* tokenizer.h - a model's tokenizer, computed at compile time into one flat table that
 * compiled programs map and use in place (runtime-min/mi_tokenizer.h has its format). */
#ifndef MICC_TOKENIZER_H
#define MICC_TOKENIZER_H

#include "frontend/model.h"

/* Builds the table from GGUF metadata (tokenizer.ggml.*), in `arena`.
 * A model without a vocabulary (tokenizer.ggml.model absent, "no_vocab" or "none") gives *bytes = 0 and
 * true. An unknown tokenizer model or pre-tokenizer is an error that lists the known ones. */
bool tokenizer_build(const Model *m, Arena *arena, const uint8_t **table, uint64_t *bytes, Err *e);

/* One line for people: "SPM, 32,000 tokens" / "BPE (qwen2), 151,936 tokens" / "none". */
const char *tokenizer_describe(const Model *m, Arena *arena);

#endif
