/* panel.c - see panel.h. */
#include "passes/lower/panel.h"

#include <assert.h>

enum { ROWS = 16, GROUP = 32 };

static const PanelSpec specs[DT_COUNT] = {
    /*            planes   min    sub  sub_min */
    [DT_Q4_0] = {{4, 0}, false, 0, false},  [DT_Q4_1] = {{4, 0}, true, 0, false},
    [DT_Q5_0] = {{4, 1}, false, 0, false},  [DT_Q5_1] = {{4, 1}, true, 0, false},
    [DT_Q8_0] = {{8, 0}, false, 0, false},  [DT_Q4_K] = {{4, 0}, true, 32, true},
    [DT_Q5_K] = {{4, 1}, true, 32, true},   [DT_Q6_K] = {{4, 2}, false, 16, false},
    [DT_TQ2_0] = {{2, 0}, false, 0, false},
};

const PanelSpec *panel_spec(DType t)
{
  return specs[t].planes[0] ? &specs[t] : NULL;
}

PanelOffsets panel_offsets(DType t)
{
  const PanelSpec *s = &specs[t];
  uint32_t block = dtype_info[t].block, subs = s->sub ? block / s->sub : 0;
  PanelOffsets o;

  o.min = ROWS * 2;
  o.sub_scale = o.min + (s->min ? ROWS * 2 : 0);
  o.sub_min = o.sub_scale + subs * ROWS;
  o.codes = o.sub_min + (s->sub_min ? subs * ROWS : 0);
  o.group_bytes = (uint32_t)PIECE * (s->planes[0] + s->planes[1]);
  o.block_bytes = o.codes + block / GROUP * o.group_bytes;
  return o;
}

uint64_t panel_bytes(DType t, int64_t columns)
{
  if (!panel_spec(t))
    return (uint64_t)columns * ROWS * dtype_info[t].bytes;
  return (uint64_t)columns / dtype_info[t].block * panel_offsets(t).block_bytes;
}

int64_t panel_columns(const Type *t)
{
  int64_t n = 1;

  for (uint32_t i = 1; i < t->rank; i++)
    n *= t->dim[i];
  return n;
}

uint64_t panel_weight_bytes(const Type *t)
{
  return round_up((uint64_t)t->dim[0], ROWS) / ROWS * panel_bytes(t->dtype, panel_columns(t));
}

void panel_put_codes(const PanelSpec *s, const int16_t *code, int lo, uint8_t *out)
{
  int shift = 0;

  for (int p = 0; p < 2 && s->planes[p]; p++) {
    int bits = s->planes[p], mask = (1 << bits) - 1;
    for (int i = 0; i < GROUP; i++) {
      int g = i / 4, field = (code[i] - lo) >> shift & mask;
      out[g * bits / 8 * PIECE + i % 4] |= (uint8_t)(field << g * bits % 8);
    }
    out += bits * PIECE;
    shift += bits;
  }
}

static void pack_block(DType t, const uint8_t *src, uint32_t row, uint8_t *out)
{
  const PanelSpec *s = &specs[t];
  PanelOffsets o = panel_offsets(t);
  uint32_t block = dtype_info[t].block, subs = s->sub ? block / s->sub : 0;
  BlockParts b;

  dtype_block_parts(t, src, &b);
  panel_put16(out + row * 2, b.d);
  if (s->min)
    panel_put16(out + o.min + row * 2, b.dmin);
  for (uint32_t i = 0; i < subs; i++) {
    out[o.sub_scale + i * ROWS + row] = b.sub_scale[i];
    if (s->sub_min)
      out[o.sub_min + i * ROWS + row] = b.sub_min[i];
  }
  for (uint32_t g = 0; g < block / GROUP; g++)
    panel_put_codes(s, b.code + g * GROUP, dtype_info[t].lo, out + o.codes + g * o.group_bytes + row * 4);
}

static void pack_floats(const Weight *w, int64_t first, int64_t rows, uint8_t *out)
{
  uint32_t bytes = dtype_info[w->type.dtype].bytes;
  int64_t columns = panel_columns(&w->type);

  for (int64_t r = 0; r < rows; r++) {
    const uint8_t *src = (const uint8_t *)w->data + (uint64_t)((first + r) * columns) * bytes;
    for (int64_t c = 0; c < columns; c++)
      memcpy(out + (uint64_t)(c * ROWS + r) * bytes, src + (uint64_t)c * bytes, bytes);
  }
}

void panel_pack(const Weight *w, int64_t index, uint8_t *out)
{
  DType t = w->type.dtype;
  int64_t first = index * ROWS, rows = min64(ROWS, w->type.dim[0] - first), columns = panel_columns(&w->type);

  memset(out, 0, panel_bytes(t, columns));
  if (!panel_spec(t)) {
    pack_floats(w, first, rows, out);
    return;
  }
  uint32_t block = dtype_info[t].block, block_bytes = panel_offsets(t).block_bytes;
  for (int64_t r = 0; r < rows; r++) {
    const uint8_t *src = (const uint8_t *)w->data + dtype_bytes(t, (uint64_t)((first + r) * columns));
    for (int64_t b = 0; b < columns / block; b++)
      pack_block(t, src + (uint64_t)b * dtype_info[t].bytes, (uint32_t)r, out + (uint64_t)b * block_bytes);
  }
}
