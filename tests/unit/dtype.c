/* dtype.c - tests of ir/dtype.h. The block types are checked against formulas written here for
 * one value at a time, from the description of the formats, sharing nothing with ir/dtype.c. */
#include "ir/dtype.h"

#include <criterion/criterion.h>
#include <math.h>

/* ---- 16-bit floats */

static double half_value(unsigned h)
{
  double sign = h >> 15 ? -1 : 1;
  int exponent = (int)(h >> 10 & 31), mantissa = (int)(h & 1023);

  if (exponent == 31)
    return mantissa ? NAN : sign * INFINITY;
  if (exponent == 0)
    return sign * ldexp(mantissa, -24);
  return sign * ldexp(1024 + mantissa, exponent - 25);
}

Test(f16, every_value_reads_and_returns)
{
  for (unsigned h = 0; h < 65536; h++) {
    float f = f16_to_f32((uint16_t)h);
    double want = half_value(h);
    if (isnan(want)) {
      cr_assert(isnan(f), "0x%04x", h);
      cr_assert(isnan(f16_to_f32(f32_to_f16(f))), "0x%04x", h);
      cr_assert_eq(f32_to_f16(f) >> 15, h >> 15, "0x%04x", h);
      continue;
    }
    cr_assert_eq(f, want, "0x%04x", h);
    cr_assert_eq(!!signbit(f), h >> 15, "0x%04x", h);
    cr_assert_eq(f32_to_f16(f), h, "0x%04x", h);
  }
}

/* Between two neighbours: below the middle, the middle (to even), above the middle. */
Test(f16, rounds_to_nearest_even)
{
  for (unsigned h = 0; h < 0x7bff; h++) {
    double lower = half_value(h), upper = half_value(h + 1);
    float middle = (float)((lower + upper) / 2); /* exact: one bit more than a half has */
    unsigned even = h & 1 ? h + 1 : h;
    cr_assert_eq(f32_to_f16(nextafterf(middle, 0)), h, "0x%04x", h);
    cr_assert_eq(f32_to_f16(middle), even, "0x%04x", h);
    cr_assert_eq(f32_to_f16(nextafterf(middle, INFINITY)), h + 1, "0x%04x", h);
    cr_assert_eq(f32_to_f16(-middle), even | 0x8000, "0x%04x", h);
  }
}

Test(f16, beyond_its_range)
{
  cr_assert_eq(f32_to_f16(65519.99f), 0x7bff);
  cr_assert_eq(f32_to_f16(65520.0f), 0x7c00);
  cr_assert_eq(f32_to_f16(1e30f), 0x7c00);
  cr_assert_eq(f32_to_f16(-INFINITY), 0xfc00);
  cr_assert_eq(f32_to_f16(0x1p-26f), 0);
  cr_assert_eq(f32_to_f16(-1e-30f), 0x8000);
}

/* ---- plain types */

Test(dtype, bf16_is_the_upper_half_of_a_float)
{
  for (unsigned b = 0; b < 65536; b++) {
    uint8_t bytes[2] = {(uint8_t)b, (uint8_t)(b >> 8)};
    uint32_t bits = (uint32_t)b << 16, got;
    float f;
    dtype_to_float(DT_BF16, bytes, &f, 1);
    memcpy(&got, &f, 4);
    cr_assert_eq(got, bits);
  }
}

Test(dtype, plain_types_from_unaligned_bytes)
{
  static const float floats[3] = {1.5f, -0.0f, 3e38f};
  static const int32_t ints[3] = {0, -7, 1 << 24};
  uint8_t raw[1 + 12];
  float out[3];

  memcpy(raw + 1, floats, 12);
  dtype_to_float(DT_F32, raw + 1, out, 3);
  cr_assert_arr_eq((const char *)out, (const char *)floats, 12);
  memcpy(raw + 1, ints, 12);
  dtype_to_float(DT_I32, raw + 1, out, 3);
  for (int i = 0; i < 3; i++)
    cr_assert_eq(out[i], (float)ints[i]);
}

/* ---- blocks: value i of a block at p, in double */

static double half_at(const uint8_t *p)
{
  return half_value(p[0] | (unsigned)p[1] << 8);
}

static int bit_at(const uint8_t *p, int i)
{
  return p[i / 8] >> i % 8 & 1;
}

/* In blocks of 32, value i and value i + 16 share a byte. */
static int nibble32(const uint8_t *p, int i)
{
  return i < 16 ? p[i] % 16 : p[i - 16] / 16;
}

static double q4_0(const uint8_t *p, int i)
{
  return half_at(p) * (nibble32(p + 2, i) - 8);
}

static double q4_1(const uint8_t *p, int i)
{
  return half_at(p) * nibble32(p + 4, i) + half_at(p + 2);
}

static double q5_0(const uint8_t *p, int i)
{
  return half_at(p) * (nibble32(p + 6, i) + 16 * bit_at(p + 2, i) - 16);
}

static double q5_1(const uint8_t *p, int i)
{
  return half_at(p) * (nibble32(p + 8, i) + 16 * bit_at(p + 4, i)) + half_at(p + 2);
}

static double q8_0(const uint8_t *p, int i)
{
  int code = p[2 + i];
  return half_at(p) * (code < 128 ? code : code - 256);
}

/* Scales 0..3 and minima 0..3 are the low six bits of bytes 0..3 and 4..7. The later ones have
 * their low four bits in bytes 8..11 and their high two on top of the earlier ones' bytes. */
static int k_scale(const uint8_t *s, int g)
{
  return g < 4 ? s[g] % 64 : s[g + 4] % 16 + s[g - 4] / 64 * 16;
}

static int k_minimum(const uint8_t *s, int g)
{
  return g < 4 ? s[g + 4] % 64 : s[g + 4] / 16 + s[g] / 64 * 16;
}

/* Groups 2k and 2k + 1 share 32 bytes: the low nibbles and the high ones. */
static int k_nibble(const uint8_t *q, int i)
{
  int byte = q[i / 64 * 32 + i % 32];
  return i % 64 < 32 ? byte % 16 : byte / 16;
}

static double k_value(const uint8_t *p, int i, int code)
{
  int g = i / 32;
  return half_at(p) * k_scale(p + 4, g) * code - half_at(p + 2) * k_minimum(p + 4, g);
}

static double q4_k(const uint8_t *p, int i)
{
  return k_value(p, i, k_nibble(p + 16, i));
}

static double q5_k(const uint8_t *p, int i)
{
  int high = p[16 + i % 32] >> i / 32 & 1;
  return k_value(p, i, k_nibble(p + 48, i) + 16 * high);
}

/* ql: 128 bytes of low nibbles, qh: 64 bytes of high pairs, 16 signed scales, d. Each half of
 * 128 values has four rows of 32: rows 0 and 2 share a byte of ql, so do 1 and 3. */
static double q6_k(const uint8_t *p, int i)
{
  int half = i / 128, row = i % 128 / 32, column = i % 32;
  int low = p[64 * half + 32 * (row % 2) + column];
  int high = p[128 + 32 * half + column] >> 2 * row & 3;
  int code = (row < 2 ? low % 16 : low / 16) + 16 * high - 32;
  int scale = p[192 + i / 16];
  return half_at(p + 208) * (scale < 128 ? scale : scale - 256) * code;
}

/* Each half of 128 values: 32 bytes with four values each, 32 apart. */
static double tq2_0(const uint8_t *p, int i)
{
  int byte = p[i / 128 * 32 + i % 32], row = i % 128 / 32;
  return half_at(p + 64) * (byte / (1 << 2 * row) % 4 - 1);
}

static const struct {
  DType type;
  double (*value)(const uint8_t *p, int i);
  int halves[2]; /* where the f16 scales lie */
} blocks[] = {
    {DT_Q4_0, q4_0, {0, 0}}, {DT_Q4_1, q4_1, {0, 2}},     {DT_Q5_0, q5_0, {0, 0}},
    {DT_Q5_1, q5_1, {0, 2}}, {DT_Q8_0, q8_0, {0, 0}},     {DT_Q4_K, q4_k, {0, 2}},
    {DT_Q5_K, q5_k, {0, 2}}, {DT_Q6_K, q6_k, {208, 208}}, {DT_TQ2_0, tq2_0, {64, 64}},
};

static uint32_t next_random(uint32_t *state)
{
  return *state = *state * 1664525u + 1013904223u;
}

/* Scales get a magnitude of 0.5 to 1, so that a wrong code shows. */
static void random_block(uint8_t *p, uint32_t bytes, const int halves[2], uint32_t *state)
{
  for (uint32_t i = 0; i < bytes; i++)
    p[i] = (uint8_t)(next_random(state) >> 24);
  for (int i = 0; i < 2; i++)
    p[halves[i] + 1] = (uint8_t)((p[halves[i] + 1] & 0x83) | 14 << 2);
}

Test(dtype, blocks_equal_their_formulas)
{
  enum { N = 64 };
  static uint8_t raw[N * 256];
  static float got[N * 256];
  uint32_t state = 1;

  for (size_t b = 0; b < COUNT(blocks); b++) {
    const DTypeInfo *info = &dtype_info[blocks[b].type];
    for (int k = 0; k < N; k++)
      random_block(raw + (size_t)k * info->bytes, info->bytes, blocks[b].halves, &state);
    dtype_to_float(blocks[b].type, raw, got, (uint64_t)N * info->block);
    for (uint32_t i = 0; i < N * info->block; i++) {
      double want = blocks[b].value(raw + (size_t)(i / info->block) * info->bytes, (int)(i % info->block));
      cr_assert(fabs(got[i] - want) < 1e-3, "%s value %u: %g, not %g", info->name, i, got[i], want);
    }
  }
}

Test(dtype, codes_stay_in_their_range)
{
  uint8_t raw[256];
  uint32_t state = 2;
  BlockParts parts;

  for (size_t b = 0; b < COUNT(blocks); b++) {
    const DTypeInfo *info = &dtype_info[blocks[b].type];
    int lowest = 1000, highest = -1000;
    for (int k = 0; k < 500; k++) {
      random_block(raw, info->bytes, blocks[b].halves, &state);
      dtype_block_parts(blocks[b].type, raw, &parts);
      for (uint32_t i = 0; i < info->block; i++) {
        lowest = parts.code[i] < lowest ? parts.code[i] : lowest;
        highest = parts.code[i] > highest ? parts.code[i] : highest;
      }
    }
    cr_assert_eq(lowest, info->lo, "%s", info->name);
    cr_assert_eq(highest, info->hi, "%s", info->name);
  }
}

/* ---- the table */

Test(dtype, found_by_gguf_id_and_by_name)
{
  /* ids from the GGUF specification */
  static const struct {
    uint32_t id;
    DType type;
  } known[] = {
      {0, DT_F32},   {1, DT_F16},   {2, DT_Q4_0},  {3, DT_Q4_1}, {6, DT_Q5_0},  {7, DT_Q5_1},   {8, DT_Q8_0},
      {12, DT_Q4_K}, {13, DT_Q5_K}, {14, DT_Q6_K}, {26, DT_I32}, {30, DT_BF16}, {35, DT_TQ2_0},
  };
  int found = 0;

  for (size_t i = 0; i < COUNT(known); i++)
    cr_assert_eq(dtype_by_gguf(known[i].id), (int)known[i].type, "id %u", known[i].id);
  for (uint32_t id = 0; id < 1000; id++)
    found += dtype_by_gguf(id) >= 0;
  cr_assert_eq(found, (int)COUNT(known), "no other id is taken for a type");
  cr_assert_eq(dtype_by_gguf(UINT32_MAX), -1);

  for (int t = 0; t < DT_COUNT; t++)
    cr_assert_eq(dtype_by_name(dtype_info[t].name, strlen(dtype_info[t].name)), t);
  cr_assert_eq(dtype_by_name("q4_", 3), -1);
  cr_assert_eq(dtype_by_name("", 0), -1);
}

Test(dtype, sizes)
{
  cr_assert_eq(dtype_bytes(DT_F32, 3), 12);
  cr_assert_eq(dtype_bytes(DT_Q4_K, 512), 288);
  cr_assert_eq(dtype_bytes(DT_Q8_0, 1ull << 35), (1ull << 30) * 34);
}
