/* dtype.h - element types as rows of dtype.def, and what each stored block means. */
#ifndef MICC_DTYPE_H
#define MICC_DTYPE_H

#include "ir/base.h"

typedef enum {
#define DTYPE(id, ...) DT_##id,
#include "ir/dtype.def"
#undef DTYPE
  DT_COUNT
} DType;

/* FLOAT8: floats of one byte, which dense graphs move and cast, but never compute with. BOOL is an INT. */
typedef enum { DK_FLOAT, DK_INT, DK_BLOCK, DK_ACT, DK_FLOAT8 } DKind;

typedef struct {
  const char *name;
  int gguf;       /* type id in GGUF files, -1 if none */
  uint32_t block; /* values in a block */
  uint32_t bytes; /* bytes of a block */
  int lo, hi;     /* range of the codes; 0, 0 for integers of 32 and 64 bits: dtype_bits() */
  int zero;       /* the code that means 0 */
  DKind kind;
  const char *doc;
} DTypeInfo;

extern const DTypeInfo dtype_info[DT_COUNT];

/* -1 if there is none */
int dtype_by_name(const char *name, size_t len);
int dtype_by_gguf(uint32_t gguf_id);

/* Bytes of `n` values (n must be a multiple of the block). */
uint64_t dtype_bytes(DType t, uint64_t n);

/* Reads `n` values (whole blocks) at src as float: the definition of each encoding. */
void dtype_to_float(DType t, const void *src, float *dst, uint64_t n);

/* One element of a type that is no block: any of them is exact in a long double. */
bool dtype_is_element(DType t); /* neither blocks nor activations: what dense graphs hold */
bool dtype_is_number(DType t);  /* f32 f16 bf16 f64 and the integers, without bool */
bool dtype_is_signed(DType t);
int dtype_bits(DType t); /* of the value: 4 for i4, 1 for bool */
long double dtype_get(DType t, const void *p);

/* Stores x as the graph op `cast` does: floats to nearest even; to integers toward zero, out of range the nearest,
 * nan as 0, but to those of 4 and 2 bits the low bits; bool is x != 0. `saturate` decides what one-byte floats do beyond
 * their range: the largest, or infinity or nan; f8e8m0 takes the next power of two upward; f4e2m1 saturates always,
 * and nan is its -0. */
void dtype_put(DType t, void *p, long double x, bool saturate);

/* Exact integers for those: any integer type; put wraps. u64 passes as its two's complement. */
int64_t dtype_get_int(DType t, const void *p);
void dtype_put_int(DType t, void *p, int64_t x);

float f16_to_f32(uint16_t h);
uint16_t f32_to_f16(float f); /* rounds to nearest even */

/* One quantised block, taken apart; codes in [lo, hi].
 * value[i] = scale[i / group] * (code[i] - zero) + minimum[i / group] */
typedef struct {
  uint8_t sub_scale[16]; /* K types: the integer scale of each group (q6_K: as s8) */
  uint8_t sub_min[16];
  int16_t code[256];
  uint16_t d, dmin; /* f16 bits; dmin also holds q4_1's and q5_1's minimum */
} BlockParts;
void dtype_block_parts(DType t, const void *src, BlockParts *out);

#endif
