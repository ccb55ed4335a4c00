/* lower.h - what the lowerings of op families share: where values live, kernels under construction.
 *
 * Arena values are f32, row-major; the stride of the first dimension is rounded up to 16 elements, so that
 * vector code may touch whole panels. What lies in the padding is never used.
 * A q8a value of K columns has arrays of codes, of scales, of what sums of 32 and of 16 start with, and of scale * sum of 32. */
#ifndef MICC_LOWER_H
#define MICC_LOWER_H

#include "codegen/target.h"
#include "ir/program.h"

enum { PANEL_ROWS = 16, PAD = 16, QBLOCK = 32, KEY_VECTORS = 4 };

/* Slots of a state that lie together, a multiple of every level's tile of keys, so that states lie at the same places for all. */
enum { SLOT_GROUP = 64, STATE_ALIGN = 64 };

typedef enum {
  PLACE_NONE,
  PLACE_ARENA,
  PLACE_Q8A,
  PLACE_VECTOR,
  PLACE_PANEL,
  PLACE_STATE,
  PLACE_CONST
} PlaceKind;

/* Where a value is found. */
typedef struct {
  PlaceKind kind;
  uint32_t buffer;
  int64_t stride; /* elements from one index of the first dimension to the next */
} Place;

/* Codes of products that mean zero, as powers of 2: for each, a q8a value has an array of numbers that sums start with (see
 * Q8a). */
enum { MAX_ZEROS = 4 };
typedef struct {
  unsigned n;
  uint8_t bits[MAX_ZEROS];
} Zeros;

/* The arrays of a q8a buffer: bytes from its start. */
typedef struct {
  uint64_t scale, start[MAX_ZEROS], start16, ssum, bytes;
} Q8aLayout;

typedef struct {
  Program *prog;
  Arena *arena;
  const Graph *g;
  const Target *target;
  Err *e;
  uint32_t entry;                      /* index of the entry under construction */
  uint32_t launch;                     /* index of the launch within the entry */
  uint32_t first_part;                 /* of the launch under construction */
  const char *name;                    /* of it */
  unsigned lanes;                      /* f32 lanes of a vector register */
  int64_t key_tile;                    /* positions whose keys lie side by side: KEY_VECTORS vectors */
  Place *place;                        /* per node of the graph */
  uint32_t *users;                     /* per node: how many nodes read it */
  uint8_t *outside;                    /* per node: read by another launch, or an output */
  uint32_t *weight_buffer[LAYOUT_RAW]; /* by layout, per weight of the module: its buffer, 0 not yet placed */
  uint8_t *weight_planes;              /* per weight of the module: laid out as planes.h says */
  uint32_t *state_buffer;              /* per state of the module */
  uint64_t *state_stride;              /* per state: bytes from a group of slots to the next */
  uint8_t *state_is_keys;              /* per state: stored in tiles of keys, transposed */
  uint32_t *rope_buffer;               /* per rope spec */
  Zeros zeros;                         /* of the module's products */
  Kernel *k;                           /* under construction */
  ARRAY(Bind) binds;                   /* one for each of its parameters */
} Lower;

/* ---- values */
Val lower_base(const Lower *l, Val v);     /* through reshapes */
bool lower_is_view(const Graph *g, Val v); /* a reshape that needs no copy */
int64_t lower_stride(const Type *t);       /* of an arena value's first dimension */
const Place *lower_place(Lower *l, Val v); /* gives it a buffer if it has none */
Q8aLayout lower_q8a(const Lower *l, int64_t rows, int64_t columns);
int64_t lower_slots(const Lower *l,
                    const Type *state); /* whole groups: positions are kept at slots mod this */
KElem lower_state_elem(const Type *state);
uint64_t lower_state_scales(const Type *state); /* q8_0: where a group's f16 scales start, in bytes */
/* Element where a head's slot starts, if a slot has `size` and a group begins every `group` (idx). Of keys: of a tile's first. */
KVal lower_slot_at(Kernel *k, KVal head, KVal slot, int64_t size, KVal group);
bool lower_per_token(const Lower *l, const Type *t); /* first dimension counts the call's tokens */

/* ---- kernels */
void lower_begin(Lower *l, const char *fmt, ...) PRINTF(2, 3);
/* A parameter for `buffer` from byte `offset`; asking again for the same gives the same. */
uint16_t lower_param(Lower *l, uint32_t buffer, uint64_t offset, KElem elem, KAccess access,
                     const char *name);
uint16_t lower_scratch(Lower *l, uint64_t bytes);
uint16_t lower_value(Lower *l, Val v, KAccess access); /* f32 parameter of an arena or vector value */
Part *lower_end(Lower *l, uint64_t grid, bool per_token, uint64_t bytes, uint64_t ops);
uint32_t lower_weight(Lower *l, uint32_t weight, Layout layout); /* its buffer in that layout */

/* Ends a launch within a launch: what was lowered since the last one runs before what follows. */
void lower_barrier(Lower *l, const char *name);

/* ---- elementwise ops (elementwise.c) */
bool lower_is_elementwise(Op op);
KVal lower_elementwise(Kernel *k, Op op, KVal a, KVal b);

/* An operand that is broadcast to type `full`: where its row `row` starts, in elements (0 for a const), and
 * its lanes at columns j + off .. of that row. */
KVal lower_row_start(Lower *l, Val v, const Type *full, KVal row);
KVal lower_operand(Lower *l, Val v, const Type *full, KVal start, KVal j, int64_t off, unsigned lanes);

/* idx helpers */
KVal idx_mul(Kernel *k, KVal a, int64_t by);
KVal idx_add(Kernel *k, KVal a, KVal b);

/* Emits code over n columns: a loop of whole vectors, then ever smaller vectors for the rest.
 * `fn` gets the index j and the constant offset to add, and the lanes. */
typedef void LaneFn(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes);
void lower_columns(Lower *l, int64_t n, LaneFn *fn, void *ctx);

/* The codes (u8) of columns 4g .. 4g+3 for `bytes` / 4 rows of a panel, unpacked in registers. `at` + off is where
 * the group's codes for the first of these rows start; see panel.h. */
KVal lower_codes(Lower *l, uint16_t w, DType t, KVal at, int64_t off, unsigned g, unsigned bytes);

/* Hints that `n` elements of `buf` from `at` + `ahead` on will be read: the processor's own prefetching does not keep up where
 * each line is worked on for long. PREFETCH_PLANES: bytes ahead for streamed codes in two planes, which take longer than others,
 * as measured; for others the target's row says it. */
enum { CACHE_LINE = 64, PREFETCH_PLANES = 3072 };
void lower_prefetch(Lower *l, uint16_t buf, KVal at, int64_t ahead, int64_t n);

/* ---- quantisation (quantize.c) */

/* What `op` makes of each of `n` vectors, a power of two that is at most their lanes, as lanes of one: as k_reduce() would have it,
 * the first halves of what is left of each vector are combined with the second. */
KVal lower_over_lanes(Kernel *k, KOp op, KVal *v, unsigned n);

/* A q8a value: its parameters and its columns. */
typedef struct {
  uint16_t q, scale, start[MAX_ZEROS], start16, ssum;
  uint16_t wide; /* if it is written: codes in 16 bits too, or Q8A_NONE */
  int64_t columns;
} Q8a;
enum { Q8A_ARRAYS = 5 + MAX_ZEROS, Q8A_NONE = UINT16_MAX };

/* Integer sums start with the bits of SUM_BIAS where the target has fma, so that they are floats without conversion:
 * the bias and the sum, exactly. Stored is that bias - zero * (sum of the activations), for each code that means zero in a
 * product; where codes can be shifted, that is QZERO for all. */
#define SUM_BIAS 12582912.0 /* 3 * 2^22 */
enum { QZERO_BITS = 7, QZERO = 1 << QZERO_BITS };
int32_t lower_sum_bias(const Target *t); /* bits of SUM_BIAS, or 0 */
Zeros lower_zeros(const Module *m);      /* QZERO first */
unsigned lower_half_zero(const Target *t);
Q8a lower_q8a_made(Lower *l, Val v);
/* What products with weights of type `t` read of it, on any level: the others are Q8A_NONE. */
Q8a lower_q8a_used(Lower *l, Val v, DType t);

/* Codes count from the lowest, so that they have no sign: the one that means zero. By how many bits they can be shifted so that it
 * becomes QZERO, or comes near. The number of the array of what sums start with for a zero. */
int lower_zero_code(DType t);
int lower_zero_shift(DType t);
unsigned lower_start_array(const Lower *l, int zero);

/* Behind the arrays of a value that prompts multiply in 16 bits (see dot.h) are its codes in 16 bits, if that is so for
 * most of the rows of weights that it meets: the others are not worth a kernel of its own to whoever makes it. */
bool lower_is_wide(const Lower *l, Val v);
uint16_t lower_wide_codes(Lower *l, Val v, KAccess access);

/* x: the QBLOCK / lanes vectors of each of n blocks, a power of two and at most lower_quant_most(). They become numbers `block`,
 * block + step .. of the value. */
unsigned lower_quant_most(const Lower *l);
void lower_quant_blocks(Lower *l, const Q8a *to, KVal block, int64_t step, unsigned n, const KVal *x);

/* `count` blocks, number `first` of the value and those after it; fn gives the vector from column j + off on. */
typedef KVal QuantFn(void *ctx, KVal j, int64_t off);
void lower_quant_row(Lower *l, const Q8a *to, KVal first, int64_t count, QuantFn *fn, void *ctx);

/* ---- one function for each family: lowers the nodes of one part of a launch */
bool lower_is_row(Op op); /* works along the last axis: what lower_rows() takes */
bool lower_rows(Lower *l, const Val *nodes, uint32_t n);
bool lower_linear(Lower *l, const Val *nodes, uint32_t n);
bool lower_attention(Lower *l, const Val *nodes, uint32_t n);
bool lower_embed(Lower *l, const Val *nodes, uint32_t n);
bool lower_rope_table(Lower *l, const Val *nodes, uint32_t n);
bool lower_head(Lower *l, Val v); /* a product that planes.h lays out */
bool lower_move(Lower *l, const Val *nodes, uint32_t n);

#endif
