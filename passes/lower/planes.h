/* planes.h - the layout of a large head: a q8_0 matrix cut in two planes, so that most rows can be ruled out by the first.
 *
 * A code c (-128 .. 127) is 8 h + l with h in -16 .. 15 and l in 0 .. 7. So c = (8 h + 3.5) + (l - 3.5): the high plane
 * gives a row's product but for a rest that is at most (Cauchy-Schwarz, block by block)
 *     sum over blocks of |d| * norm(l - 3.5) * norm(activations).
 *
 * High plane, in panels of 16 rows: for each block of 32 columns 16 x f16 d; 16 x u8 norm of l - 3.5, in twelfths, rounded
 * up; then h + 16 as planes of 4 and 1 bits, as panel.h has them for q5_0.
 * Low plane, behind it, by rows: for each block 16 bytes, l of column j in the low and of column j + 16 in the high half of
 * byte j; after all blocks f16 d of each again. */
#ifndef MICC_PLANES_H
#define MICC_PLANES_H

#include "ir/graph.h"

enum {
  PLANES_NORM = 32, /* from the start of a block of 16 rows */
  PLANES_CODES = 48,
  PLANES_HIGH_BLOCK = 368, /* bytes of 16 rows, 32 columns */
  PLANES_LOW_BLOCK = 18    /* bytes of one row, 32 columns */
};

static inline uint64_t planes_panel_bytes(int64_t columns)
{
  return (uint64_t)columns / 32 * PLANES_HIGH_BLOCK;
}
static inline uint64_t planes_row_bytes(int64_t columns)
{
  return (uint64_t)columns / 32 * PLANES_LOW_BLOCK;
}
uint64_t planes_low_at(const Type *t);       /* where the low plane starts */
uint64_t planes_weight_bytes(const Type *t); /* of both */

/* One panel of the high plane, and the same 16 rows of the low one. */
void planes_pack_high(const Weight *w, int64_t panel, uint8_t *out);
void planes_pack_low(const Weight *w, int64_t panel, uint8_t *out);

#endif
