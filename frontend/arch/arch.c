/* arch.c - see arch.h. The way through: the family's row, hyper-parameters, rotation tables,
 * tensors, graphs; each step checks the file before the next relies on it. */
#include "frontend/arch/hyper.h"

typedef struct {
  Module *module;
  Hyper hyper;
  Tensors model, *layers;
  bool *used; /* of each tensor of the file */
} Built;

/* 16 bits are enough beside weights that were rounded to as many or fewer. */
static DType kv_type(const Model *m, const ArchOptions *opt)
{
  if (opt->kv >= 0)
    return (DType)opt->kv;
  for (uint32_t i = 0; i < m->tensors.len; i++)
    if (m->tensors.data[i].rank > 1 && m->tensors.data[i].dtype != DT_F32)
      return DT_F16;
  return DT_F32;
}

static bool build(Model *m, const ArchOptions *opt, Built *b, Err *e)
{
  const Family *f = family_find(m, e);

  if (!f || !hyper_read(m, f, opt, &b->hyper, e))
    return false;
  Keys keys = keys_of(m, f, e);
  b->hyper.kv = kv_type(m, opt);
  if (b->hyper.kv == DT_Q8_0 && b->hyper.head_size % 32)
    return fail(e, "%s: heads of %u elements cannot be kept in q8_0, which has blocks of 32: use f16 or f32",
                m->path, b->hyper.head_size);
  b->module = module_new(&m->arena);
  b->used = NEW_ARRAY(&m->arena, bool, m->tensors.len);
  b->layers = NEW_ARRAY(&m->arena, Tensors, b->hyper.n_layer);
  if (!rope_read(&keys, &b->hyper, b->module, b->used) ||
      !weights_bind_model(m, &b->hyper, b->module, b->used, &b->model, e))
    return false;
  for (uint32_t i = 0; i < b->hyper.n_layer; i++)
    if (!weights_bind_layer(m, &b->hyper, i, b->module, b->used, &b->layers[i], e))
      return false;
  decoder_build(b->module, &b->hyper, &b->model, b->layers);
  return true;
}

/* Tensors that say nothing about the result in float: scales of quantised activations. */
static bool is_harmless(const char *name)
{
  static const char suffix[] = ".input_scale";
  size_t n = strlen(name), s = sizeof suffix - 1;

  return n > s && !strcmp(name + n - s, suffix);
}

static void list_unused(Model *m, const bool *used, ArchInfo *out)
{
  ARRAY(const char *) names = {0};

  for (uint32_t i = 0; i < m->tensors.len; i++)
    if (!used[i] && !is_harmless(m->tensors.data[i].name))
      *PUSH(&m->arena, names) = m->tensors.data[i].name;
  out->unused = names.data;
  out->n_unused = names.len;
}

bool arch_build(Model *m, const ArchOptions *opt, Module **out, Err *e)
{
  Built b = {0};

  if (!build(m, opt, &b, e))
    return false;
  *out = b.module;
  return true;
}

bool arch_info(Model *m, const ArchOptions *opt, ArchInfo *out, Err *e)
{
  Built b = {0};

  if (!build(m, opt, &b, e))
    return false;
  const Hyper *h = &b.hyper;
  *out = (ArchInfo){
      .family = h->family->name,
      .kv = h->kv,
      .n_vocab = h->n_vocab,
      .n_layer = h->n_layer,
      .width = h->width,
      .n_head = h->layer[0].n_head,
      .n_kv_head = h->layer[0].n_kv_head,
      .ff_width = h->layer[0].ff_width,
      .head_size = h->head_size,
      .context = h->context,
      .context_trained = h->context_trained,
      .tied = !b.model.head.weight,
  };
  for (uint32_t i = 0; i < h->n_layer; i++)
    if (h->layer[i].window > out->window)
      out->window = h->layer[i].window;
  for (uint32_t i = 0; i < b.module->weights.len; i++) {
    out->parameters += (uint64_t)type_count(&b.module->weights.data[i].type);
    out->weight_bytes += b.module->weights.data[i].bytes;
  }
  list_unused(m, b.used, out);
  return true;
}
