/* rope.c - rotation frequencies, as turns per position in 32-bit fixed point.
 *
 * Frequency i of n/2 is base^(-2i/n) radians a position. It is changed, in this order, by the
 * file's factors (a tensor; Llama 3), and by scaling to longer contexts: linear (all divided by the
 * factor) or YaRN (slow ones divided, fast ones kept, a ramp between; cosines and sines grow).
 *
 * Source: YaRN, arXiv 2309.00071, sections 3.2 and 3.4; GGUF's rope.* keys. */
#include "frontend/arch/hyper.h"

#include <math.h>
#include <stdio.h>

typedef enum { SCALE_NONE, SCALE_LINEAR, SCALE_YARN } Scaling;

typedef struct {
  uint32_t size; /* rotated elements of a head */
  double base;
  Scaling scaling;
  double factor;     /* of context extension, >= 1 usually */
  double mix;        /* YaRN: how much of the ramp is used, 1 */
  double fast, slow; /* YaRN: turns over the original context where the ramp begins and ends */
  double original;   /* context before the extension */
  double magnitude;
  const float *divide; /* [size / 2] or NULL */
} Rope;

static bool read_scaling_type(const Keys *k, Scaling *out)
{
  static const struct {
    const char *name;
    Scaling scaling;
  } known[] = {{"none", SCALE_NONE}, {"linear", SCALE_LINEAR}, {"yarn", SCALE_YARN}};
  char key[128];
  Str name;

  *out = SCALE_LINEAR;
  if (!key_present(k, "rope.scaling.type"))
    return true;
  snprintf(key, sizeof key, "%s.rope.scaling.type", k->prefix);
  if (!meta_str(model_meta(k->model, key), 0, &name))
    return fail(k->e, "%s: metadata '%s' must be a string", k->path, key);
  for (uint32_t i = 0; i < COUNT(known); i++)
    if (str_eq(name, known[i].name)) {
      *out = known[i].scaling;
      return true;
    }
  return fail(k->e, "%s: metadata '%s' is '%.*s'; none, linear and yarn are supported", k->path, key,
              (int)(name.len < 64 ? name.len : 64), name.data);
}

/* The factor on cosines and sines. YaRN: 1 + 0.1 ln(factor), relative to what `log_mul` says is
 * already in the weights. */
static bool read_magnitude(const Keys *k, Rope *r)
{
  const double one = 1, none = 0;
  double attn_factor, yarn_factor, log_mul;

  if (!key_num(k, "rope.scaling.attn_factor", 0, 1e6, &one, &attn_factor) ||
      !key_num(k, "rope.scaling.yarn_attn_factor", 0, 1e6, &one, &yarn_factor) ||
      !key_num(k, "rope.scaling.yarn_log_multiplier", 0, 1e6, &none, &log_mul))
    return false;
  if (r->mix != 0) {
    double log_factor = r->factor > 1 ? 0.1 * log(r->factor) : 0;
    yarn_factor = (1 + log_factor) / (1 + log_mul * log_factor);
  }
  r->magnitude = attn_factor * yarn_factor;
  return true;
}

static bool read_scaling(const Keys *k, const Hyper *h, Rope *r)
{
  const double one = 1, fast = 32, slow = 1, unset = -1, original = h->context_trained;

  if (!read_scaling_type(k, &r->scaling) || !key_num(k, "rope.scale_linear", 0, 1e6, &one, &r->factor) ||
      !key_num(k, "rope.scaling.factor", 0, 1e6, &r->factor, &r->factor) ||
      !key_num(k, "rope.scaling.original_context_length", 1, 1e12, &original, &r->original) ||
      !key_num(k, "rope.scaling.yarn_ext_factor", -1e6, 1e6, &unset, &r->mix) ||
      !key_num(k, "rope.scaling.yarn_beta_fast", 1e-6, 1e6, &fast, &r->fast) ||
      !key_num(k, "rope.scaling.yarn_beta_slow", 1e-6, 1e6, &slow, &r->slow))
    return false;
  if (r->factor == 0 || r->scaling == SCALE_NONE)
    r->factor = 1; /* files write 0 for "not set" */
  if (r->mix < 0)
    r->mix = r->scaling == SCALE_YARN ? 1 : 0;
  return read_magnitude(k, r);
}

static bool read_factors(const Keys *k, Rope *r, bool *used)
{
  const FileTensor *t = model_tensor(k->model, "rope_freqs.weight");
  uint32_t half = r->size / 2;

  if (!t)
    return true;
  if (t->dtype != DT_F32 || t->rank != 1 || t->dim[0] != half)
    return fail(k->e, "%s: tensor 'rope_freqs.weight' must be f32[%u], one factor for each pair of elements",
                k->path, half);
  float *divide = NEW_ARRAY(&k->model->arena, float, half);
  dtype_to_float(DT_F32, t->data, divide, half);
  for (uint32_t i = 0; i < half; i++)
    if (!(fabsf(divide[i]) > 1e-6f && fabsf(divide[i]) < 1e6f))
      return fail(k->e, "%s: tensor 'rope_freqs.weight': item %u is %g, must be a factor other than 0",
                  k->path, i, (double)divide[i]);
  used[t - k->model->tensors.data] = true;
  r->divide = divide;
  return true;
}

/* The index whose frequency makes that many turns over the original context. */
static double index_of_turns(const Rope *r, double turns)
{
  return r->size * log(r->original / (turns * 2 * M_PI)) / (2 * log(r->base));
}

/* 1: the frequency is kept; 0: it is divided by the factor. */
static double kept_share(const Rope *r, uint32_t i)
{
  double first = fmax(0, floor(index_of_turns(r, r->fast)));
  double last = fmin(r->size - 1, ceil(index_of_turns(r, r->slow)));
  double ramp = (i - first) / fmax(0.001, last - first);

  return (1 - fmin(1, fmax(0, ramp))) * r->mix;
}

static double radians(const Rope *r, uint32_t i)
{
  double plain = pow(r->base, -2.0 * i / r->size) / (r->divide ? (double)r->divide[i] : 1);
  double keep = r->mix != 0 ? kept_share(r, i) : 0;

  return plain / r->factor * (1 - keep) + plain * keep;
}

static void add_spec(Module *m, const Rope *r)
{
  uint32_t half = r->size / 2, *step = NEW_ARRAY(m->arena, uint32_t, half);

  for (uint32_t i = 0; i < half; i++) {
    double turns = radians(r, i) / (2 * M_PI);
    step[i] = (uint32_t)(int64_t)rint((turns - floor(turns)) * 0x1p32); /* whole turns drop out */
  }
  *PUSH(m->arena, m->ropes) = (RopeSpec){half, step, (float)r->magnitude};
}

bool rope_read(const Keys *k, const Hyper *h, Module *out, bool *used)
{
  const double base = 10000;
  Rope r = {.size = h->rope_size}, local = {.size = h->rope_size, .factor = 1, .magnitude = 1};
  bool windows = false;

  if (!key_num(k, "rope.freq_base", 1.001, 1e15, &base, &r.base) || !read_scaling(k, h, &r) ||
      !read_factors(k, &r, used))
    return false;
  add_spec(out, &r);
  for (uint32_t i = 0; i < h->n_layer; i++)
    windows |= h->layer[i].rope == 1;
  if (windows) { /* layers with a window never see far: their frequencies are not scaled */
    if (!key_num(k, "rope.freq_base_swa", 1.001, 1e15, &base, &local.base))
      return false;
    add_spec(out, &local);
  }
  return true;
}
