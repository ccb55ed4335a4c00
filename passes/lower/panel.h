/* panel.h - the layout of a matrix: panels of 16 rows side by side, so that lanes are rows.
 *
 * Floats: for each column the 16 rows' values, in the file's own 16 or 32 bits.
 * Block types: for each block of 16 rows, one after the other
 *     16 x f16 d;  [16 x f16 minimum or dmin];  [groups x 16 bytes of sub-scales];  [groups x 16 of
 * sub-minima]; then for each 32 columns: codes, low part first, then high bits. Codes are stored as code -
 * lo, so that they are unsigned. Low 4 bits: four pieces of 64 bytes; byte row*4 + j of piece q holds the
 * code of column 4q + j, and in its high nibble that of column 16 + 4q + j. 8 bits: eight pieces, byte row*4
 * + j of piece g holds column 4g + j. The fifth bit: 64 bytes, bit g of byte row*4 + j belongs to column 4g +
 * j. Bits five and six: two pieces; bits 2f, 2f+1 of byte row*4 + j of piece h belong to column 16h + 4f + j.
 */
#ifndef MICC_PANEL_H
#define MICC_PANEL_H

#include "ir/graph.h"

typedef struct {
  uint8_t low_bits, high_bits; /* of a code */
  bool min;                    /* an f16 minimum (added), or dmin where there are sub-minima */
  uint8_t sub;                 /* columns that share a sub-scale; 0: none */
  bool sub_min;                /* sub-minima too (subtracted) */
} PanelSpec;

const PanelSpec *panel_spec(DType t); /* NULL for floats */

/* Byte offsets within a block of 16 rows. */
typedef struct {
  uint32_t min, sub_scale, sub_min, codes; /* from the start of the block */
  uint32_t high;                           /* from the start of a group's codes */
  uint32_t group_bytes, block_bytes;
} PanelOffsets;
PanelOffsets panel_offsets(DType t);

uint64_t panel_bytes(DType t, int64_t columns); /* of one panel */
uint64_t panel_weight_bytes(const Type *t);     /* of a matrix, rows rounded up to 16 */

/* Lays out panel `index` of a matrix (row-major in the file's encoding). Rows beyond the last are zero. */
void panel_pack(const Weight *w, int64_t index, uint8_t *out);

#endif
