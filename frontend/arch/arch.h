/* arch.h - from a model file to the graph IR: the model families.
 *
 * The module that comes out has one K and one V state a layer (f32, f16 or q8_0[context, kv_heads, head_size],
 * "k.N" and "v.N") and the graphs
 *   decode    one token:  inputs tokens i32[1], pos i32[]; output logits f32[1, n_vocab]
 *   prefill   T tokens:   inputs tokens i32[T], pos i32[]; only the states; its outputs are the
 *             last layer's updates, so that nothing which leads to them is dropped as dead code */
#ifndef MICC_ARCH_H
#define MICC_ARCH_H

#include "frontend/model.h"
#include "ir/graph.h"

typedef struct {
  uint32_t context;        /* capacity in tokens; 0: the model's own limit, at most 4096 */
  uint32_t prefill_tokens; /* tokens in a tile; 0: no prefill graph */
  int kv; /* type of keys and values in the states: DT_F32, DT_F16, DT_Q8_0; -1: f32 if all the model's
                              matrices are f32, else f16 */
} ArchOptions;

/* What the compiler wants to know besides the graphs. Strings live in the model's arena. */
typedef struct {
  const char *family;
  DType kv; /* of keys and values in the states */
  uint32_t n_vocab, n_layer, width;
  uint32_t n_head, n_kv_head, ff_width; /* of the first layer: later ones may differ */
  uint32_t head_size;
  uint32_t context;                  /* the program's capacity */
  uint32_t context_trained;          /* what the file states */
  uint32_t window;                   /* of the layers with sliding windows; 0: none */
  bool tied;                         /* the head is the embedding table */
  uint64_t parameters, weight_bytes; /* of the tensors that are used */
  const char **unused; /* tensors of the file that nothing reads (known harmless ones left out) */
  uint32_t n_unused;
} ArchInfo;

/* Builds the model. The module lives in the model's arena and names its mapping. A model that is
 * not understood gives one line that names the tensor or key, what it is, and what was expected. */
bool arch_build(Model *m, const ArchOptions *opt, Module **out, Err *e);

/* The same checks; tells what arch_build() would make. */
bool arch_info(Model *m, const ArchOptions *opt, ArchInfo *out, Err *e);

/* Names of the known families, NULL at the end. */
extern const char *const arch_families[];

#endif
