/* panel.h - the layout of a matrix: panels of 16 rows side by side, so that lanes are rows.
 *
 * Plain elements (floats, integers): for each column the 16 rows' values, in the file's own bits.
 *
 * Block types: for each block of 16 rows, one after the other
 *   16 x f16 d;  [16 x f16 minimum or dmin];  [groups x 16 bytes of sub-scales];  [groups x 16 of sub-minima];
 *   then for each group of 32 columns its codes.
 * Codes are stored as code - lo, so that they are unsigned, and cut in planes of 8, 4, 2 or 1 bits, lowest bits
 * first: a 6-bit code has a plane of 4 and one of 2. The 32 columns of a group are 8 fours g = 0 .. 7. A plane of
 * b bits has b pieces of 64 bytes, each with 8 / b successive fours: byte row*4 + j of piece g*b/8 holds column 4g + j,
 * at bit g*b % 8. */
#ifndef MICC_PANEL_H
#define MICC_PANEL_H

#include "ir/graph.h"

typedef struct {
  uint8_t planes[2]; /* bits of each; 0: none */
  bool min;          /* an f16 minimum (added), or dmin where there are sub-minima */
  uint8_t sub;       /* columns that share a sub-scale; 0: none */
  bool sub_min;      /* sub-minima too (subtracted) */
} PanelSpec;

const PanelSpec *panel_spec(DType t); /* NULL for floats */

enum { PIECE = 64 };

/* Byte offsets within a block of 16 rows. */
typedef struct {
  uint32_t min, sub_scale, sub_min, codes; /* from the start of the block */
  uint32_t group_bytes, block_bytes;
} PanelOffsets;
PanelOffsets panel_offsets(DType t);

int64_t panel_columns(const Type *t);           /* all dimensions but the first, the rows, count as one */
uint64_t panel_bytes(DType t, int64_t columns); /* of one panel */
uint64_t panel_weight_bytes(const Type *t);     /* of a matrix, rows rounded up to 16 */

/* Lays out panel `index` of a matrix (row-major in the file's encoding). Rows beyond the last are zero. */
void panel_pack(const Weight *w, int64_t index, uint8_t *out);

/* Pieces of it, for layouts that share them: an f16's bits; the codes of one row in one group of 32 columns, with `out` at
 * the row's first byte, zeroed before. */
static inline void panel_put16(uint8_t *p, uint16_t v)
{
  p[0] = (uint8_t)v;
  p[1] = (uint8_t)(v >> 8);
}
void panel_put_codes(const PanelSpec *s, const int16_t *code, int lo, uint8_t *out);

#endif
