/* dense_window.h - how convolutions and pools walk: outputs of one row (along the innermost spatial dimension) in tiles
 * held in registers, lanes along the channels. */
#ifndef MICC_DENSE_WINDOW_H
#define MICC_DENSE_WINDOW_H

#include "passes/lower/dense.h"

enum {
  WALK_MAX_TILE = 16,
  WALK_MAX_VECS = 8,
  WALK_UNROLL = 7,
  WALK_WIDE = 64,
  WALK_EDGES = 6,
  WALK_ROWS = 8
};
/* WALK_UNROLL: kernel columns that are unrolled; up to WALK_WIDE of them, if the edges are at most WALK_EDGES tiles, these
 * are unrolled. WALK_ROWS: as many grid iterations are enough. */

/* Values of a tile: [pixel][vector of channels]. */
typedef struct {
  KVal v[WALK_MAX_TILE][WALK_MAX_VECS];
} Acc;

typedef struct Walk Walk;

/* Adds to the sums what kernel column `kw` and input channel `c` contribute; what differs between families.
 *   x     idx: where pixel 0 of the tile finds its input for this column
 *   tap   idx: number of the kernel place, times the input channels of a group, plus channel
 *   dx    constant to add to x; dtap to tap
 *   valid bit p: pixel p has an input there */
typedef void WalkStep(Walk *w, KVal x, int64_t dx, KVal tap, int64_t dtap, uint32_t valid, Acc *acc);

/* What is done with a sum that is complete: value, at this point of the node's result. */
typedef void WalkStore(Walk *w, KVal value, const DensePoint *at);

/* Adds what one row of the kernel contributes to a tile; x: where kernel column 0 of pixel 0 would be, row: its number
 * among the kernel's rows. */
typedef void WalkRow(Walk *w, const void *tile, KVal x, KVal row, Acc *acc);

/* Called when `ob` has its value, for what hangs on it. */
typedef void WalkBlock(Walk *w);

struct Walk {
  DenseLower *d;
  Kernel *k;
  Val v;
  /* three spatial dimensions, the first ones 1 where the op has fewer */
  int64_t in[3], out[3], kernel[3], stride[3], dilation[3], pad[3], x_stride[3];
  uint32_t dim[3]; /* of the node, that each of these is; 0: none */
  uint32_t rank;
  int64_t channels;  /* that one step walks over: input channels of a group, or 1 */
  int64_t x_channel; /* elements from one of them to the next */
  int64_t ring;      /* as of the input's place */
  unsigned tile, vecs, lanes;
  int64_t first; /* channel of the result that this kernel begins with */
  int64_t outputs, block,
      blocks; /* channels of the result; of a grid iteration: lanes * vecs; how many of these */
  KElem elem; /* of sums */
  WalkStep *step;
  WalkStore *store;
  WalkBlock *block_begins; /* NULL: nothing does */
  bool
      blocks_inside; /* a tile goes over all blocks, `block` elements of the input apart, before the next tile:
                              where channels of the input are those of the result, so that whole lines are read */
  void *ctx;
  /* of the grid iteration */
  KVal batch, pos[3]; /* output index; pos[2] is unused */
  KVal ob;            /* idx: which block of channels */
  KVal x;             /* idx: input at batch, channel base, spatial 0 */
};

/* Fills the geometry from the node; x is its input's place. */
void walk_init(Walk *w, DenseLower *d, Val v, const DensePlace *x);
/* As many pixels as fit, which cut a row evenly. */
unsigned walk_tile(const Walk *w, unsigned most);
/* Takes apart a grid index that counts batch, pos[0], pos[1] (the last fastest). */
void walk_position(Walk *w, KVal index);
int64_t walk_rows(const Walk *w, int64_t batch);
/* Kernel places lo .. hi - 1 of a dimension meet the input at output index i. */
void walk_range(const Walk *w, uint32_t dim, KVal i, KVal *lo, KVal *hi);
/* The first output of a row whose window begins inside it, and the first behind that whose window ends outside. */
void walk_interior(const Walk *w, int64_t *lo, int64_t *hi);
/* The row at pos: every tile of it, `first` being the sums before. */
void walk_row(Walk *w, KVal first);

/* One row of a node's result, in a kernel that has begun: all channels. What differs between families for bands. */
typedef void WalkRowOf(DenseLower *d, Val v, KVal batch, KVal row);
WalkRowOf dense_conv_row, dense_pool_row;

/* ---- pieces of a walk, for families that cut rows in another way */

/* A loop that carries the sums of so many pixels, `vecs` each; acc has them inside, and after walk_leave() behind it. */
KVal walk_enter(const Walk *w, unsigned pixels, KVal lo, KVal hi, int64_t step, Acc *acc);
void walk_leave(const Walk *w, unsigned pixels, const Acc *body);
/* Every kernel row that meets the input at pos. */
void walk_kernel(Walk *w, unsigned pixels, KVal x, WalkRow *fn, const void *tile, Acc *acc);
/* The node's result at pos, pixel `column`, channels `c`. */
DensePoint walk_point(const Walk *w, DenseIndex column, DenseIndex c, unsigned lanes);

/* dense_few.c: convolutions of few output channels; false: not one that it takes. */
bool dense_few(DenseLower *d, Val v);

/* dense_winograd.c: convolutions that are faster with fewer multiplications; false: not one that it takes. */
bool dense_winograd(DenseLower *d, Val v);

#endif
