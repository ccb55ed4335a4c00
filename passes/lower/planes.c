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
  int16_t high[GROUP];
  uint8_t low[GROUP];
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
    b.high[i] = (int16_t)(c >> 3);
    b.low[i] = (uint8_t)(c & 7);
  }
  return b;
}

/* The norm of (2l - 7) / 2 in twelfths is 6 times that of 2l - 7. */
static uint8_t norm_up(const uint8_t *low)
{
  int sum = 0;
  for (int i = 0; i < GROUP; i++)
    sum += (2 * low[i] - 7) * (2 * low[i] - 7);
  return (uint8_t)ceil(6 * sqrt(sum));
}

void planes_pack_high(const Weight *w, int64_t panel, uint8_t *out)
{
  int64_t rows = min64(ROWS, w->type.dim[0] - panel * ROWS);

  memset(out, 0, planes_panel_bytes(w->type.dim[1]));
  for (int64_t b = 0; b < w->type.dim[1] / GROUP; b++, out += PLANES_HIGH_BLOCK)
    for (int64_t r = 0; r < rows; r++) {
      Block s = split(w, panel * ROWS + r, b);
      panel_put16(out + r * 2, s.d);
      out[PLANES_NORM + r] = norm_up(s.low);
      panel_put_codes(panel_spec(DT_Q5_0), s.high, 0, out + PLANES_CODES + r * 4); /* planes of 4 and 1 */
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
      panel_put16(out + blocks * 16 + b * 2, s.d);
    }
}
