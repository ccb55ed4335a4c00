/* planes.c - see planes.h. */
#include "passes/lower/planes.h"

#include <math.h>

#include "passes/lower/panel.h"

enum { ROWS = 16, GROUP = 32 };

static int64_t panels(const Type *t)
{
  return (t->dim[0] + ROWS - 1) / ROWS;
}

uint64_t planes_low_at(const Type *t)
{
  return (uint64_t)panels(t) * planes_panel_bytes(t->dim[1]);
}

uint64_t planes_weight_bytes(const Type *t)
{
  return planes_low_at(t) + (uint64_t)(panels(t) * ROWS) * planes_row_bytes(t->dim[1]);
}

typedef struct {
  uint16_t d;
  uint8_t high[GROUP], low[GROUP];
} Block;

static Block split(const Weight *w, int64_t row, int64_t block)
{
  const uint8_t *src = w->data;
  BlockParts p;
  Block b;

  dtype_block_parts(DT_Q8_0, src + dtype_bytes(DT_Q8_0, (uint64_t)(row * w->type.dim[1] + block * GROUP)),
                    &p);
  b.d = p.d;
  for (int i = 0; i < GROUP; i++) {
    int c = p.code[i] + 128;
    b.high[i] = (uint8_t)(c >> 3);
    b.low[i] = (uint8_t)(c & 7);
  }
  return b;
}

static void put16(uint8_t *p, uint16_t v)
{
  p[0] = (uint8_t)v;
  p[1] = (uint8_t)(v >> 8);
}

/* The norm of (2l - 7) / 2 in twelfths is 6 times that of 2l - 7. */
static uint8_t norm_up(const uint8_t *low)
{
  int sum = 0;
  for (int i = 0; i < GROUP; i++)
    sum += (2 * low[i] - 7) * (2 * low[i] - 7);
  return (uint8_t)ceil(6 * sqrt(sum));
}

/* As a plane of 4 bits and one of 1 (panel.h). */
static void put_high(const uint8_t *code, uint8_t *out)
{
  for (int i = 0; i < GROUP; i++) {
    int g = i / 4;
    out[g / 2 * PIECE + i % 4] |= (uint8_t)((code[i] & 15) << g % 2 * 4);
    out[4 * PIECE + i % 4] |= (uint8_t)(code[i] >> 4 << g);
  }
}

void planes_pack_high(const Weight *w, int64_t panel, uint8_t *out)
{
  int64_t rows = min64(ROWS, w->type.dim[0] - panel * ROWS);

  memset(out, 0, planes_panel_bytes(w->type.dim[1]));
  for (int64_t b = 0; b < w->type.dim[1] / GROUP; b++, out += PLANES_HIGH_BLOCK)
    for (int64_t r = 0; r < rows; r++) {
      Block s = split(w, panel * ROWS + r, b);
      put16(out + r * 2, s.d);
      out[PLANES_NORM + r] = norm_up(s.low);
      put_high(s.high, out + PLANES_CODES + r * 4);
    }
}

void planes_pack_low(const Weight *w, int64_t panel, uint8_t *out)
{
  int64_t rows = min64(ROWS, w->type.dim[0] - panel * ROWS);

  memset(out, 0, ROWS * planes_row_bytes(w->type.dim[1]));
  for (int64_t r = 0; r < rows; r++, out += planes_row_bytes(w->type.dim[1]))
    for (int64_t b = 0, blocks = w->type.dim[1] / GROUP; b < blocks; b++) {
      Block s = split(w, panel * ROWS + r, b);
      for (int i = 0; i < GROUP / 2; i++)
        out[b * 16 + i] = (uint8_t)(s.low[i] | s.low[i + 16] << 4);
      put16(out + blocks * 16 + b * 2, s.d);
    }
}
