/* weights.c - finds the tensors of a model by tensor.def, and checks their shapes.
 *
 * After this, building the graph cannot fail: a missing tensor or a wrong shape has been named. */
#include "frontend/arch/hyper.h"

#include <stdio.h>

typedef enum { SIZE_VOCAB, SIZE_WIDTH, SIZE_Q, SIZE_KV, SIZE_HEAD, SIZE_FF, SIZE_COUNT } Size;

typedef struct {
  LayerPart part;
  const char *name; /* of a linear: without ".weight" */
  size_t at;        /* of the Slot or Linear in Tensors */
  bool linear, scale_after_bias;
  Need need, bias, scale;
  Size rows, cols;
} Row;

static const Row table[] = {
#define VECTOR(part, id, name, need, cols)                                                                   \
  {PART_##part, name,       offsetof(Tensors, id), false, false, NEED_##need, NEED_NO, NEED_NO,              \
   SIZE_COUNT,  SIZE_##cols},
#define LINEAR(part, id, name, need, bias, rows, cols, scale)                                                \
  {PART_##part, name,        offsetof(Tensors, id), true,        NEED_##scale == NEED_FFN_SCALE,             \
   NEED_##need, NEED_##bias, NEED_##scale,          SIZE_##rows, SIZE_##cols},
#include "frontend/arch/tensor.def"
#undef VECTOR
#undef LINEAR
};

typedef struct {
  const Model *model;
  const char *path;
  const Family *family;
  Module *out;
  bool *used;
  Err *e;
  uint32_t size[SIZE_COUNT];
  char prefix[32]; /* "blk.3." */
} Binder;

static Need resolve(const Binder *b, Need need)
{
  switch (need) {
  case NEED_QKV_BIAS: return b->family->qkv_bias;
  case NEED_QK_NORM: return b->family->qk_norm;
  case NEED_POST_NORM: return b->family->post_norm;
  case NEED_FFN_SCALE: return b->family->ffn_scale;
  default: return need;
  }
}

static const char *shape_text(const FileTensor *t, char *buf, size_t bytes)
{
  int n = snprintf(buf, bytes, "%s[", dtype_info[t->dtype].name);

  for (uint32_t i = 0; i < t->rank && n < (int)bytes - 32; i++)
    n += snprintf(buf + n, bytes - (size_t)n, "%s%llu", i ? "," : "", (unsigned long long)t->dim[i]);
  snprintf(buf + n, bytes - (size_t)n, "]");
  return buf;
}

static bool shape_is(const FileTensor *t, uint32_t rank, const int64_t *dim)
{
  bool ok = t->rank == rank;

  for (uint32_t i = 0; ok && i < rank; i++)
    ok = t->dim[i] == (uint64_t)dim[i];
  return ok;
}

/* Vectors are added and multiplied as floats; only matrices may be encoded. */
static bool check(const Binder *b, const FileTensor *t, uint32_t rank, const int64_t *dim)
{
  char is[256], want[64];
  DKind kind = dtype_info[t->dtype].kind;

  if (rank == 1)
    snprintf(want, sizeof want, "f32[%lld]", (long long)dim[0]);
  else
    snprintf(want, sizeof want, "[%lld,%lld] of floats or blocks", (long long)dim[0], (long long)dim[1]);
  if (!shape_is(t, rank, dim) || (rank == 1 ? t->dtype != DT_F32 : kind != DK_FLOAT && kind != DK_BLOCK))
    return fail(b->e, "%s: tensor '%s' is %s, must be %s", b->path, t->name, shape_text(t, is, sizeof is),
                want);
  Type type = type_of(t->dtype, rank, dim);
  Err why = {0};
  if (!type_check(&type, &why))
    return fail(b->e, "%s: tensor '%s': %s", b->path, t->name, why.text);
  return t->bytes == dtype_bytes(t->dtype, (uint64_t)type_count(&type)) ||
         fail(b->e, "%s: tensor '%s' has %llu bytes, which do not fit its shape", b->path, t->name,
              (unsigned long long)t->bytes);
}

/* Finds one tensor; *slot stays 0 if it may be absent and is. */
static bool bind(const Binder *b, const char *name, const char *suffix, Need need, uint32_t rank,
                 const int64_t *dim, Slot *slot)
{
  char full[128];

  need = resolve(b, need);
  if (need == NEED_NO)
    return true;
  snprintf(full, sizeof full, "%s%s%s", b->prefix, name, suffix);
  const FileTensor *t = model_tensor(b->model, full);
  if (!t)
    return need == NEED_MAY || fail(b->e, "%s: tensor '%s' is missing", b->path, full);
  if (!check(b, t, rank, dim))
    return false;
  b->used[t - b->model->tensors.data] = true;
  *PUSH(b->out->arena, b->out->weights) = (Weight){t->name, type_of(t->dtype, rank, dim), t->data, t->bytes};
  *slot = b->out->weights.len;
  return true;
}

static bool bind_linear(const Binder *b, const Row *r, Linear *l)
{
  int64_t dim[2] = {b->size[r->rows], b->size[r->cols]}, one = 1;

  l->scale_after_bias = r->scale_after_bias;
  return bind(b, r->name, ".weight", r->need, 2, dim, &l->weight) &&
         bind(b, r->name, ".bias", r->bias, 1, dim, &l->bias) &&
         bind(b, r->name, ".scale", r->scale, 1, &one, &l->scale);
}

static bool bind_part(const Binder *b, LayerPart part, Tensors *t)
{
  for (uint32_t i = 0; i < COUNT(table); i++) {
    const Row *r = &table[i];
    void *at = (char *)t + r->at;
    int64_t cols = r->linear ? 0 : b->size[r->cols];
    if (r->part == part && !(r->linear ? bind_linear(b, r, at) : bind(b, r->name, "", r->need, 1, &cols, at)))
      return false;
  }
  return true;
}

bool weights_bind_model(const Model *m, const Hyper *h, Module *out, bool *used, Tensors *t, Err *e)
{
  Binder b = {m,
              model_shown_path(m->path),
              h->family,
              out,
              used,
              e,
              {[SIZE_VOCAB] = h->n_vocab, [SIZE_WIDTH] = h->width},
              ""};

  return bind_part(&b, PART_MODEL, t);
}

/* A layer beyond the stated count means that the count is wrong, or that the model has parts
 * (multi-token prediction) which are not understood; both are better said. */
static bool check_count(const Binder *b, uint32_t n_layer)
{
  char name[64];

  snprintf(name, sizeof name, "blk.%u.attn_norm.weight", n_layer);
  return !model_tensor(b->model, name) ||
         fail(b->e, "%s: tensor '%s' is there, but metadata '%s.block_count' is %u", b->path, name,
              b->family->name, n_layer);
}

bool weights_bind_layer(const Model *m, const Hyper *h, uint32_t layer, Module *out, bool *used, Tensors *t,
                        Err *e)
{
  const LayerHyper *l = &h->layer[layer];
  Binder b = {m, model_shown_path(m->path), h->family, out, used, e, {0}, ""};

  b.size[SIZE_WIDTH] = h->width;
  b.size[SIZE_HEAD] = h->head_size;
  b.size[SIZE_Q] = l->n_head * h->head_size;
  b.size[SIZE_KV] = l->n_kv_head * h->head_size;
  b.size[SIZE_FF] = l->ff_width;
  snprintf(b.prefix, sizeof b.prefix, "blk.%u.", layer);
  return check_count(&b, h->n_layer) && bind_part(&b, PART_LAYER, t) && bind_part(&b, l->mixer, t) &&
         bind_part(&b, l->ffn, t);
}
