/* c_helpers.c - see c_helpers.h. All are exact, for any value, on any machine with IEEE 754 arithmetic; none needs a
 * library: libtcc and bare machines have none. */
#include "codegen/c_helpers.h"

#include <assert.h>

enum { MAX_HELPERS = 32 };

/* Rounding: from 2^23 (2^52) on, all floats are integers; below, adding and taking away that number leaves no
 * room for a fraction. The sign is put back, since a zero has one. */
#define ROUNDING(E, type, uint, big, sign)                                                                   \
  {"sign_" E, NULL,                                                                                          \
   "\nstatic " type " sign_" E "(" type " size, " type " x)\n"                                               \
   "{\n"                                                                                                     \
   "  " uint " u, s;\n"                                                                                      \
   "  memcpy(&u, &size, sizeof u);\n"                                                                        \
   "  memcpy(&s, &x, sizeof s);\n"                                                                           \
   "  u = (u & ~" sign ") | (s & " sign ");\n"                                                               \
   "  memcpy(&size, &u, sizeof u);\n"                                                                        \
   "  return size;\n"                                                                                        \
   "}\n"},                                                                                                   \
      {"round_" E, "sign_" E,                                                                                \
       "\nstatic " type " round_" E "(" type " x)\n"                                                         \
       "{\n"                                                                                                 \
       "  " type " a = x < 0 ? -x : x;\n"                                                                    \
       "  return sign_" E "(a < " big " ? a + " big " - " big " : a, x);\n"                                  \
       "}\n"},                                                                                               \
      {"trunc_" E, "round_" E,                                                                               \
       "\nstatic " type " trunc_" E "(" type " x)\n"                                                         \
       "{\n"                                                                                                 \
       "  " type " a = x < 0 ? -x : x, r = round_" E "(a);\n"                                                \
       "  return sign_" E "(r > a ? r - 1 : r, x);\n"                                                        \
       "}\n"},                                                                                               \
      {"floor_" E, "round_" E,                                                                               \
       "\nstatic " type " floor_" E "(" type " x)\n"                                                         \
       "{\n"                                                                                                 \
       "  " type " r = round_" E "(x);\n"                                                                    \
       "  return r > x ? r - 1 : r;\n"                                                                       \
       "}\n"},                                                                                               \
      {"ceil_" E, "floor_" E,                                                                                \
       "\nstatic " type " ceil_" E "(" type " x)\n"                                                          \
       "{\n"                                                                                                 \
       "  return -floor_" E "(-x);\n"                                                                        \
       "}\n"},

/* Floats to integers that saturate. The bounds are floats; NaN is on no side of them. */
#define SATURATING(name, type, low, high, max)                                                               \
  {"sat_" name, NULL,                                                                                        \
   "\nstatic " type " sat_" name "(double x)\n"                                                              \
   "{\n"                                                                                                     \
   "  return x >= " high " ? " max " : x > " low " ? (" type ")x : (" type ")(x <= " low " ? " low           \
   " : 0);\n"                                                                                                \
   "}\n"},

static const struct {
  const char *name, *calls, *text;
} helper[] = {
    /* The exponent is rebased by a product, which is exact and puts subnormal numbers right; rounding to nearest
     * even is left to integer carries and, below 2^-14, to an addition. */
    {"f16_value", NULL,
     "\nstatic float f16_value(uint16_t h)\n"
     "{\n"
     "  uint32_t u = (uint32_t)(h & 0x7fff) << 13;\n"
     "  float f;\n"
     "  memcpy(&f, &u, 4);\n"
     "  f *= 5.19229686e+33f;\n"
     "  memcpy(&u, &f, 4);\n"
     "  u |= (h & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u;\n"
     "  u |= (uint32_t)(h & 0x8000) << 16;\n"
     "  memcpy(&f, &u, 4);\n"
     "  return f;\n"
     "}\n"},
    {"f16_bits", NULL,
     "\nstatic uint16_t f16_bits(float f)\n"
     "{\n"
     "  uint32_t u, sign, small;\n"
     "  memcpy(&u, &f, 4);\n"
     "  sign = u >> 16 & 0x8000u;\n"
     "  u &= 0x7fffffffu;\n"
     "  memcpy(&f, &u, 4);\n"
     "  f += 0.5f;\n"
     "  memcpy(&small, &f, 4);\n"
     "  if (u > 0x7f800000u)\n"
     "    u = 0x7e00u;\n"
     "  else if (u >= 0x477ff000u)\n"
     "    u = 0x7c00u;\n"
     "  else if (u < 0x38800000u)\n"
     "    u = small - 0x3f000000u;\n"
     "  else\n"
     "    u = (u + 0xc8000fffu + (u >> 13 & 1u)) >> 13;\n"
     "  return (uint16_t)(sign | u);\n"
     "}\n"},
    {"bf16_value", NULL,
     "\nstatic float bf16_value(uint16_t h)\n"
     "{\n"
     "  uint32_t u = (uint32_t)h << 16;\n"
     "  float f;\n"
     "  memcpy(&f, &u, 4);\n"
     "  return f;\n"
     "}\n"},
    {"bf16_bits", NULL,
     "\nstatic uint16_t bf16_bits(float f)\n"
     "{\n"
     "  uint32_t u;\n"
     "  memcpy(&u, &f, 4);\n"
     "  u = (u & 0x7fffffffu) > 0x7f800000u ? u | 0x400000u : u + 0x7fffu + (u >> 16 & 1u);\n"
     "  return (uint16_t)(u >> 16);\n"
     "}\n"},
    /* the lowest bit of 64 cannot be rounded to, but it can break a tie */
    {"u64_f32", NULL,
     "\nstatic float u64_f32(uint64_t u)\n"
     "{\n"
     "  return u >> 63 ? 2 * (float)(int64_t)(u >> 1 | (u & 1)) : (float)(int64_t)u;\n"
     "}\n"},
    {"u64_f64", NULL,
     "\nstatic double u64_f64(uint64_t u)\n"
     "{\n"
     "  return u >> 63 ? 2 * (double)(int64_t)(u >> 1 | (u & 1)) : (double)(int64_t)u;\n"
     "}\n"},
    {"f64_u64", NULL,
     "\nstatic uint64_t f64_u64(double x)\n"
     "{\n"
     "  return x < 9223372036854775808.0 ? (uint64_t)(int64_t)x\n"
     "                                   : (uint64_t)(int64_t)(x - 9223372036854775808.0) ^ (uint64_t)1 << "
     "63;\n"
     "}\n"},
    /* clang-format off */
    ROUNDING("f32", "float", "uint32_t", "8388608.0f", "0x80000000u")
    ROUNDING("f64", "double", "uint64_t", "4503599627370496.0", "((uint64_t)1 << 63)")
    SATURATING("i8",  "int8_t",   "-128",          "128.0",        "127")
    SATURATING("u8",  "uint8_t",  "0",             "256.0",        "255")
    SATURATING("i16", "int16_t",  "-32768",        "32768.0",      "32767")
    SATURATING("u16", "uint16_t", "0",             "65536.0",      "65535")
    SATURATING("i32", "int32_t",  "(-2147483647 - 1)", "2147483648.0", "2147483647")
    SATURATING("u32", "uint32_t", "0",             "4294967296.0", "4294967295u")
    SATURATING("i64", "int64_t",  "(-9223372036854775807 - 1)", "9223372036854775808.0", "9223372036854775807")
    /* clang-format on */
    {"sat_u64", "f64_u64",
     "\nstatic uint64_t sat_u64(double x)\n"
     "{\n"
     "  return x >= 18446744073709551616.0 ? 18446744073709551615u : x > 0 ? f64_u64(x) : 0;\n"
     "}\n"},
};

const unsigned c_helper_count = COUNT(helper);

unsigned c_helper(const char *name)
{
  unsigned i = 0;

  while (i < COUNT(helper) && strcmp(helper[i].name, name))
    i++;
  assert(i < COUNT(helper));
  return i;
}

void c_print_helpers(const bool *needed, Text *out)
{
  bool print[MAX_HELPERS] = {0};
  static_assert(COUNT(helper) <= MAX_HELPERS, "MAX_HELPERS");

  for (unsigned i = COUNT(helper); i-- > 0;) { /* a helper calls one before it */
    print[i] |= needed[i];
    if (print[i] && helper[i].calls)
      print[c_helper(helper[i].calls)] = true;
  }
  for (unsigned i = 0; i < COUNT(helper); i++)
    if (print[i])
      text_add(out, helper[i].text, strlen(helper[i].text));
}
