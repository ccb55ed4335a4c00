/* dtype.c - the encodings, decoded plainly. Byte layouts: ggml's block formats as
 * documented with the GGUF specification. */
#include "ir/dtype.h" /* single elements: dtype_element.c */

const DTypeInfo dtype_info[DT_COUNT] = {
#define DTYPE(id, name, gguf, block, bytes, lo, hi, zero, kind, doc)                                         \
  [DT_##id] = {name, gguf, block, bytes, lo, hi, zero, DK_##kind, doc},
#include "ir/dtype.def"
#undef DTYPE
};

int dtype_by_name(const char *name, size_t len)
{
  for (int i = 0; i < DT_COUNT; i++)
    if (strlen(dtype_info[i].name) == len && !memcmp(dtype_info[i].name, name, len))
      return i;
  return -1;
}

int dtype_by_gguf(uint32_t gguf_id)
{
  for (int i = 0; i < DT_COUNT; i++)
    if (dtype_info[i].gguf >= 0 && (uint32_t)dtype_info[i].gguf == gguf_id)
      return i;
  return -1;
}

uint64_t dtype_bytes(DType t, uint64_t n)
{
  return n / dtype_info[t].block * dtype_info[t].bytes;
}

/* ---- 16-bit floats */

static float bits_f32(uint32_t u)
{
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

static uint32_t f32_bits(float f)
{
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}

float f16_to_f32(uint16_t h)
{
  uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = (h >> 10) & 31, man = h & 1023;

  if (exp == 31)
    return bits_f32(sign | 0x7f800000 | man << 13);
  if (exp)
    return bits_f32(sign | (exp + 112) << 23 | man << 13);
  float f = (float)man * 0x1p-24f; /* subnormal or zero */
  return sign ? -f : f;
}

uint16_t f32_to_f16(float f)
{
  uint32_t u = f32_bits(f), sign = u >> 16 & 0x8000, a = u & 0x7fffffff;

  if (a > 0x7f800000)
    return (uint16_t)(sign | 0x7e00);
  if (a >= 0x477ff000) /* rounds to 65536 or more */
    return (uint16_t)(sign | 0x7c00);
  if (a < 0x38800000) { /* subnormal: let float addition round */
    float t = bits_f32(a) + 0.5f;
    return (uint16_t)(sign | (f32_bits(t) - 0x3f000000));
  }
  a += 0xc8000fff + (a >> 13 & 1);
  return (uint16_t)(sign | a >> 13);
}

static uint16_t get16(const uint8_t *p)
{
  return (uint16_t)(p[0] | p[1] << 8);
}

/* ---- blocks */

/* Low nibbles are the first half of a block of 32, high nibbles the second. */
static void nibbles(const uint8_t *q, int16_t *code, int half)
{
  for (int i = 0; i < half; i++) {
    code[i] = q[i] & 15;
    code[half + i] = q[i] >> 4;
  }
}

static void fifth_bits(const uint8_t *h, int16_t *code)
{
  for (int i = 0; i < 32; i++)
    code[i] |= (int16_t)((h[i / 8] >> i % 8 & 1) << 4);
}

/* The 12 bytes that hold eight 6-bit scales and eight 6-bit minima. */
static void k_scales(const uint8_t *s, BlockParts *b)
{
  for (int i = 0; i < 4; i++) {
    b->sub_scale[i] = s[i] & 63;
    b->sub_min[i] = s[i + 4] & 63;
    b->sub_scale[i + 4] = (uint8_t)((s[i + 8] & 15) | (s[i] >> 6) << 4);
    b->sub_min[i + 4] = (uint8_t)((s[i + 8] >> 4) | (s[i + 4] >> 6) << 4);
  }
}

static void q6_codes(const uint8_t *src, BlockParts *b)
{
  const uint8_t *ql = src, *qh = src + 128;

  for (int half = 0; half < 2; half++, ql += 64, qh += 32)
    for (int i = 0; i < 32; i++) {
      int16_t *c = b->code + half * 128 + i;
      c[0] = (int16_t)((ql[i] & 15) | (qh[i] & 3) << 4);
      c[32] = (int16_t)((ql[i + 32] & 15) | (qh[i] >> 2 & 3) << 4);
      c[64] = (int16_t)((ql[i] >> 4) | (qh[i] >> 4 & 3) << 4);
      c[96] = (int16_t)((ql[i + 32] >> 4) | (qh[i] >> 6) << 4);
    }
}

void dtype_block_parts(DType t, const void *src, BlockParts *b)
{
  const uint8_t *p = src;

  b->d = get16(p);
  b->dmin = 0;
  switch (t) {
  case DT_Q4_0: nibbles(p + 2, b->code, 16); break;
  case DT_Q4_1:
    b->dmin = get16(p + 2);
    nibbles(p + 4, b->code, 16);
    break;
  case DT_Q5_0:
    nibbles(p + 6, b->code, 16);
    fifth_bits(p + 2, b->code);
    break;
  case DT_Q5_1:
    b->dmin = get16(p + 2);
    nibbles(p + 8, b->code, 16);
    fifth_bits(p + 4, b->code);
    break;
  case DT_Q8_0:
    for (int i = 0; i < 32; i++)
      b->code[i] = (int8_t)p[2 + i];
    break;
  case DT_Q4_K:
    b->dmin = get16(p + 2);
    k_scales(p + 4, b);
    for (int g = 0; g < 4; g++)
      nibbles(p + 16 + 32 * g, b->code + 64 * g, 32);
    break;
  case DT_Q5_K:
    b->dmin = get16(p + 2);
    k_scales(p + 4, b);
    for (int g = 0; g < 4; g++)
      nibbles(p + 48 + 32 * g, b->code + 64 * g, 32);
    for (int i = 0; i < 256; i++)
      b->code[i] |= (int16_t)((p[16 + i % 32] >> i / 32 & 1) << 4);
    break;
  case DT_Q6_K:
    q6_codes(p, b);
    memcpy(b->sub_scale, p + 192, 16);
    b->d = get16(p + 208);
    break;
  case DT_TQ2_0:
    for (int i = 0; i < 256; i++)
      b->code[i] = (int16_t)(p[i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3);
    b->d = get16(p + 64);
    break;
  default: memset(b, 0, sizeof *b);
  }
}

static void block_to_float(DType t, const uint8_t *src, float *dst)
{
  const DTypeInfo *info = &dtype_info[t];
  BlockParts b;

  dtype_block_parts(t, src, &b);
  float d = f16_to_f32(b.d), m = f16_to_f32(b.dmin);
  for (uint32_t i = 0; i < info->block; i++) {
    int code = b.code[i] - info->zero;
    switch (t) {
    case DT_Q4_K:
    case DT_Q5_K: dst[i] = d * b.sub_scale[i / 32] * (float)code - m * b.sub_min[i / 32]; break;
    case DT_Q6_K: dst[i] = d * (int8_t)b.sub_scale[i / 16] * (float)code; break;
    default: dst[i] = d * (float)code + m;
    }
  }
}

void dtype_to_float(DType t, const void *src, float *dst, uint64_t n)
{
  const DTypeInfo *info = &dtype_info[t];
  const uint8_t *p = src;

  for (uint64_t i = 0; i < n; i += info->block, p += info->bytes)
    switch (t) {
    case DT_F32: memcpy(dst + i, p, 4); break;
    case DT_F16: dst[i] = f16_to_f32(get16(p)); break;
    case DT_BF16: dst[i] = bits_f32((uint32_t)get16(p) << 16); break;
    case DT_I32: {
      int32_t v;
      memcpy(&v, p, 4);
      dst[i] = (float)v;
      break;
    }
    default:
      if (info->block == 1)
        dst[i] = (float)dtype_get(t, p);
      else
        block_to_float(t, p, dst + i);
    }
}
