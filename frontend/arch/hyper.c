/* hyper.c - reads a model's metadata into checked hyper-parameters.
 *
 * The file is hostile until here: every number gets bounds, and every refusal names the key, its
 * value and what was expected. Source: the GGUF specification, "standardized key-value pairs". */
#include "frontend/arch/hyper.h"

#include <math.h>
#include <stdio.h>

static const Family families[] = {
#define FAMILY(name, rope, mixer, ffn, act, bias, qk, post, scale, embed, period, cap, far, wide)            \
  {#name,       STYLE_##rope, PART_##mixer,  PART_##ffn, OP_##act, NEED_##bias, NEED_##qk,                   \
   NEED_##post, NEED_##scale, EMBED_##embed, period,     cap,      far,         wide},
#include "frontend/arch/family.def"
#undef FAMILY
};

const char *const arch_families[] = {
#define FAMILY(name, ...) #name,
#include "frontend/arch/family.def"
#undef FAMILY
    NULL};

const Family *family_find(const Model *m, Err *e)
{
  const Meta *v = model_meta(m, "general.architecture");
  Str name;
  char known[256];
  int n = 0;

  if (!v || !meta_str(v, 0, &name)) {
    fail(e, "%s: metadata 'general.architecture' is missing or no string", model_shown_path(m->path));
    return NULL;
  }
  for (uint32_t i = 0; i < COUNT(families); i++) {
    if (str_eq(name, families[i].name))
      return &families[i];
    n += snprintf(known + n, sizeof known - (size_t)n, "%s%s", i ? ", " : "", families[i].name);
  }
  fail(e, "%s: model family '%.*s' is not known; known families: %s", model_shown_path(m->path),
       (int)(name.len < 64 ? name.len : 64), name.data, known);
  return NULL;
}

/* ---- keys */

Keys keys_of(Model *m, const Family *f, Err *e)
{
  return (Keys){m, model_shown_path(m->path), f->name, e};
}

typedef struct {
  char text[128];
} KeyName;

static const char *full_key(const Keys *k, const char *key, KeyName *buf)
{
  snprintf(buf->text, sizeof buf->text, "%s.%s", k->prefix, key);
  return buf->text;
}

static const Meta *find_key(const Keys *k, const char *key)
{
  KeyName buf;

  return model_meta(k->model, full_key(k, key, &buf));
}

bool key_present(const Keys *k, const char *key)
{
  return find_key(k, key) != NULL;
}

static bool key_missing(const Keys *k, const char *key)
{
  KeyName buf;

  return fail(k->e, "%s: metadata '%s' is missing", k->path, full_key(k, key, &buf));
}

static bool key_kind(const Keys *k, const char *key, const char *want)
{
  KeyName buf;

  return fail(k->e, "%s: metadata '%s' must be %s", k->path, full_key(k, key, &buf), want);
}

static bool in_range_u32(const Keys *k, const char *key, const Meta *v, uint64_t i, uint32_t lo, uint32_t hi,
                         uint32_t *out)
{
  KeyName buf;
  uint64_t n;

  if (!meta_u64(v, i, &n))
    return key_kind(k, key, "an integer of 0 or more");
  if (n < lo || n > hi)
    return fail(k->e, "%s: metadata '%s' is %llu, must be %u to %u", k->path, full_key(k, key, &buf),
                (unsigned long long)n, lo, hi);
  *out = (uint32_t)n;
  return true;
}

bool key_u32(const Keys *k, const char *key, uint32_t lo, uint32_t hi, const uint32_t *missing, uint32_t *out)
{
  const Meta *v = find_key(k, key);

  if (!v && !missing)
    return key_missing(k, key);
  if (!v) {
    *out = *missing;
    return true;
  }
  return v->type == META_ARRAY ? key_kind(k, key, "one number, not an array")
                               : in_range_u32(k, key, v, 0, lo, hi, out);
}

bool key_item(const Keys *k, const char *key, uint32_t i, uint32_t lo, uint32_t hi, const uint32_t *missing,
              uint32_t *out)
{
  const Meta *v = find_key(k, key);
  KeyName buf;

  if (!v || v->type != META_ARRAY)
    return key_u32(k, key, lo, hi, missing, out);
  if (i >= v->count)
    return fail(k->e, "%s: metadata '%s' has %llu items, must have one for each layer", k->path,
                full_key(k, key, &buf), (unsigned long long)v->count);
  return in_range_u32(k, key, v, i, lo, hi, out);
}

bool key_num(const Keys *k, const char *key, double lo, double hi, const double *missing, double *out)
{
  const Meta *v = find_key(k, key);
  KeyName buf;

  if (!v && !missing)
    return key_missing(k, key);
  if (!v) {
    *out = *missing;
    return true;
  }
  if (v->type == META_ARRAY || !meta_f64(v, 0, out))
    return key_kind(k, key, "a number");
  return (*out >= lo && *out <= hi) || fail(k->e, "%s: metadata '%s' is %g, must be %g to %g", k->path,
                                            full_key(k, key, &buf), *out, lo, hi);
}

/* ---- the model's numbers */

/* What the file asks for and this compiler cannot do yet. */
static bool refuse_unknown(const Keys *k)
{
  static const char *const must_be_zero[] = {
      "expert_count", "attention.clamp_kqv", "attention.max_alibi_bias",
      "logit_scale",  "embedding_scale",     "residual_scale"};
  const double zero = 0;

  for (uint32_t i = 0; i < COUNT(must_be_zero); i++) {
    double v;
    KeyName buf;
    if (!key_num(k, must_be_zero[i], -INFINITY, INFINITY, &zero, &v))
      return false;
    if (v != 0)
      return fail(k->e, "%s: metadata '%s' is %g: this is not supported for family %s", k->path,
                  full_key(k, must_be_zero[i], &buf), v, k->prefix);
  }
  return true;
}

static bool read_vocab(const Keys *k, Hyper *h)
{
  const FileTensor *t = model_tensor(k->model, "token_embd.weight");
  const Meta *tokens = model_meta(k->model, "tokenizer.ggml.tokens");
  uint32_t stated;

  if (!t)
    return fail(k->e, "%s: tensor 'token_embd.weight' is missing", k->path);
  if (t->rank != 2 || t->dim[0] < 1 || t->dim[0] > MAX_IDS)
    return fail(k->e, "%s: tensor 'token_embd.weight' must be a matrix of 1 to %d rows", k->path, MAX_IDS);
  h->n_vocab = (uint32_t)t->dim[0];
  if (!key_u32(k, "vocab_size", 0, UINT32_MAX, &h->n_vocab, &stated))
    return false;
  if (stated != h->n_vocab)
    return fail(k->e, "%s: metadata '%s.vocab_size' is %u, but 'token_embd.weight' has %u rows", k->path,
                k->prefix, stated, h->n_vocab);
  if (tokens && tokens->type == META_ARRAY && tokens->count > h->n_vocab)
    return fail(k->e,
                "%s: metadata 'tokenizer.ggml.tokens' has %llu items, but 'token_embd.weight' has %u rows",
                k->path, (unsigned long long)tokens->count, h->n_vocab);
  return true;
}

static bool read_head_size(const Keys *k, Hyper *h)
{
  uint32_t n_head, value_size, size = 0;

  if (!key_item(k, "attention.head_count", 0, 1, MAX_HEADS, NULL, &n_head))
    return false;
  if (!key_present(k, "attention.key_length")) {
    if (h->width % n_head)
      return fail(
          k->e, "%s: width %u is no multiple of %u heads, and metadata '%s.attention.key_length' is missing",
          k->path, h->width, n_head, k->prefix);
    size = h->width / n_head;
  }
  if (!key_u32(k, "attention.key_length", 1, MAX_HEAD_SIZE, &size, &h->head_size) ||
      !key_u32(k, "attention.value_length", 1, MAX_HEAD_SIZE, &h->head_size, &value_size))
    return false;
  if (value_size != h->head_size)
    return fail(k->e, "%s: metadata '%s.attention.value_length' is %u, must be as key_length, %u", k->path,
                k->prefix, value_size, h->head_size);
  if (!key_u32(k, "rope.dimension_count", 2, h->head_size, &h->head_size, &h->rope_size))
    return false;
  if (h->rope_size % 2)
    return fail(k->e, "%s: %u elements of a head are rotated ('%s.rope.dimension_count'), must be even",
                k->path, h->rope_size, k->prefix);
  h->attention_scale =
      1 / sqrt(h->n_layer == h->family->wide_layers ? (double)h->width / n_head : (double)h->head_size);
  return true;
}

/* Beyond the original context, queries would be scaled by position, which no op does. */
static bool check_long_scale(const Keys *k, const Hyper *h)
{
  double scale, none = 0;
  uint32_t original;

  if (!h->family->long_scale)
    return true;
  if (!key_num(k, "attention.temperature_scale", -INFINITY, INFINITY, &none, &scale) ||
      !key_u32(k, "rope.scaling.original_context_length", 1, UINT32_MAX, &h->context_trained, &original))
    return false;
  return scale == 0 || h->context <= original ||
         fail(k->e,
              "%s: a context above %u tokens is not supported ('%s.attention.temperature_scale'); %u asked",
              k->path, original, k->prefix, h->context);
}

static bool read_context(const Keys *k, const ArchOptions *opt, Hyper *h)
{
  uint32_t own;

  if (!key_u32(k, "context_length", 1, UINT32_MAX, NULL, &h->context_trained))
    return false;
  own = h->context_trained < 4096 ? h->context_trained : 4096;
  h->context = opt->context ? opt->context : own;
  h->prefill_tokens = opt->prefill_tokens;
  if (h->context > MAX_IDS)
    return fail(k->e, "%s: a context of %u tokens, at most %d are possible", k->path, h->context, MAX_IDS);
  if (h->prefill_tokens > h->context) /* a larger tile would never be full */
    h->prefill_tokens = h->context;
  return check_long_scale(k, h);
}

/* ---- layers */

/* The pattern is a period (every n-th layer is global) or says of each layer whether it has a window. */
static bool read_window(const Keys *k, const Hyper *h, uint32_t i, uint32_t *window)
{
  const Meta *pattern = find_key(k, "attention.sliding_window_pattern");
  const uint32_t none = 0;
  uint32_t period = h->family->window_period, size, local;

  *window = 0;
  if (!period)
    return true;
  if (!key_u32(k, "attention.sliding_window", 0, UINT32_MAX, &none, &size))
    return false;
  if (pattern && pattern->type == META_ARRAY) {
    if (!key_item(k, "attention.sliding_window_pattern", i, 0, 1, &none, &local))
      return false;
  } else {
    if (!key_u32(k, "attention.sliding_window_pattern", 1, MAX_LAYERS, &period, &period))
      return false;
    local = (i + 1) % period != 0;
  }
  *window = local ? size : 0;
  return true;
}

static bool read_layer(const Keys *k, const Hyper *h, uint32_t i, LayerHyper *l)
{
  *l = (LayerHyper){.mixer = h->family->mixer, .ffn = h->family->ffn};
  if (!key_item(k, "attention.head_count", i, 1, MAX_HEADS, NULL, &l->n_head) ||
      !key_item(k, "attention.head_count_kv", i, 1, MAX_HEADS, &l->n_head, &l->n_kv_head) ||
      !key_item(k, "feed_forward_length", i, 1, MAX_WIDTH, NULL, &l->ff_width) ||
      !read_window(k, h, i, &l->window))
    return false;
  l->rope = l->window ? 1 : 0;
  return l->n_head % l->n_kv_head == 0 ||
         fail(k->e,
              "%s: %u heads in layer %u ('%s.attention.head_count') are no multiple of %u key/value heads",
              k->path, l->n_head, i, k->prefix, l->n_kv_head);
}

bool hyper_read(Model *m, const Family *f, const ArchOptions *opt, Hyper *h, Err *e)
{
  Keys k = keys_of(m, f, e);
  const double none = 0;

  *h = (Hyper){.family = f};
  if (!refuse_unknown(&k) || !key_u32(&k, "block_count", 1, MAX_LAYERS, NULL, &h->n_layer) ||
      !key_u32(&k, "embedding_length", 1, MAX_WIDTH, NULL, &h->width) || !read_vocab(&k, h) ||
      !key_num(&k, "attention.layer_norm_rms_epsilon", 0, 0.5, NULL, &h->norm_eps) ||
      !read_head_size(&k, h) || !read_context(&k, opt, h))
    return false;
  if (f->logit_cap && !key_num(&k, "final_logit_softcapping", 0, 1e6, &none, &h->logit_cap))
    return false;
  h->layer = NEW_ARRAY(&m->arena, LayerHyper, h->n_layer);
  for (uint32_t i = 0; i < h->n_layer; i++)
    if (!read_layer(&k, h, i, &h->layer[i]))
      return false;
  return true;
}
