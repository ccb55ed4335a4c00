/* hyper.h - what the parts of frontend/arch share: a family's row, the checked hyper-parameters
 * of one model, and its tensors bound to names. */
#ifndef MICC_ARCH_HYPER_H
#define MICC_ARCH_HYPER_H

#include "frontend/arch/arch.h"

/* ---- a row of family.def */
typedef enum { STYLE_INTERLEAVED, STYLE_HALVES } RopeStyle;
typedef enum { EMBED_ONE, EMBED_SQRT_WIDTH } EmbedScale;
typedef enum { PART_MODEL, PART_LAYER, PART_attention, PART_gated } LayerPart;
typedef enum {
  NEED_NO,
  NEED_MAY,
  NEED_MUST,
  NEED_QKV_BIAS,
  NEED_QK_NORM,
  NEED_POST_NORM,
  NEED_FFN_SCALE
} Need;

typedef struct {
  const char *name;
  RopeStyle rope;
  LayerPart mixer, ffn;
  Op act;
  Need qkv_bias, qk_norm, post_norm, ffn_scale;
  EmbedScale embed;
  uint32_t window_period;
  bool logit_cap, long_scale;
  uint32_t wide_layers;
} Family;

/* ---- the hyper-parameters, checked */
enum {
  MAX_LAYERS = 1024,
  MAX_WIDTH = 1 << 20,
  MAX_HEADS = 1 << 14,
  MAX_HEAD_SIZE = 1 << 13,
  MAX_IDS = 1 << 24 /* tokens and positions: exact as floats in the oracle */
};

typedef struct {
  LayerPart mixer, ffn;
  uint32_t n_head, n_kv_head, ff_width;
  uint32_t window; /* 0: all earlier tokens */
  uint32_t rope;   /* index in the module's ropes */
} LayerHyper;

typedef struct {
  const Family *family;
  uint32_t n_vocab, n_layer, width, head_size, rope_size;
  uint32_t context, context_trained, prefill_tokens;
  double norm_eps, logit_cap, attention_scale;
  DType kv; /* of the states */
  LayerHyper *layer;
} Hyper;

const Family *family_find(const Model *m, Err *e);
bool hyper_read(Model *m, const Family *f, const ArchOptions *opt, Hyper *h, Err *e);

/* ---- metadata, by key below the family's name ("attention.head_count") */
typedef struct {
  Model *model;
  const char *path;   /* for messages */
  const char *prefix; /* the family's name */
  Err *e;
} Keys;

Keys keys_of(Model *m, const Family *f, Err *e);
bool key_present(const Keys *k, const char *key);
/* Integers and numbers within bounds. `missing` is the value of an absent key; without one
 * (NULL), the key must be there. */
bool key_u32(const Keys *k, const char *key, uint32_t lo, uint32_t hi, const uint32_t *missing,
             uint32_t *out);
bool key_num(const Keys *k, const char *key, double lo, double hi, const double *missing, double *out);
/* Item `i` of an array, or the scalar that holds for all. */
bool key_item(const Keys *k, const char *key, uint32_t i, uint32_t lo, uint32_t hi, const uint32_t *missing,
              uint32_t *out);

/* ---- rope.c: adds the model's rotation tables to the module, by index of LayerHyper.rope */
bool rope_read(const Keys *k, const Hyper *h, Module *out, bool *used);

/* ---- weights.c: the tensors, found and checked. 0: absent; else 1 + index in module->weights */
typedef uint32_t Slot;
typedef struct {
  Slot weight, bias, scale;
  bool scale_after_bias;
} Linear;

typedef struct {
#define VECTOR(part, id, ...) Slot id;
#define LINEAR(part, id, ...) Linear id;
#include "frontend/arch/tensor.def"
#undef VECTOR
#undef LINEAR
} Tensors; /* of the model, or of one layer */

bool weights_bind_model(const Model *m, const Hyper *h, Module *out, bool *used, Tensors *t, Err *e);
bool weights_bind_layer(const Model *m, const Hyper *h, uint32_t layer, Module *out, bool *used, Tensors *t,
                        Err *e);

/* ---- decoder.c */
void decoder_build(Module *out, const Hyper *h, const Tensors *model, const Tensors *layers);

#endif
