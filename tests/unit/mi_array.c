/* mi_array.c - arrays in files: headers of numpy's as its versions write them, hostile ones, JSON, raw bytes, and
 * rounding, which must be that of ir/dtype. */
#include "ir/dtype.h"
#include "runtime-min/mi_elem.h"

#include <criterion/criterion.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { ROOM = 4096 };
static char path[64], said[256];

/* ---- files */

static void write_file(const char *ending, const void *bytes, size_t n)
{
  snprintf(path, sizeof path, "array-%ld%s", (long)getpid(), ending);
  FILE *f = fopen(path, "wb");
  cr_assert(f && fwrite(bytes, 1, n, f) == n && !fclose(f));
}

static MiArray array_of(MiElem elem, void *data, const char *dims)
{
  MiArray a = {.elem = elem, .count = 1, .data = data};

  for (char *end; *dims; dims = *end ? end + 1 : end)
    a.count *= a.dim[a.rank++] = strtoull(dims, &end, 10);
  return a;
}

/* Reads the file into an array of that type; what is said of it, "" if it is taken. The array lies in a block of its own
 * size, so that a sanitizer sees more. */
static const char *read_as(MiElem elem, const char *dims, double *out)
{
  MiOut why = {.buf = said, .cap = sizeof said, .fd = -1};
  MiArray a = array_of(elem, NULL, dims);

  a.data = malloc(mi_array_bytes(&a) + 1);
  bool ok = mi_array_read(path, &a, &why);
  for (uint64_t i = 0; ok && out && i < a.count; i++)
    out[i] = (double)mi_array_get(&a, i);
  free(a.data);
  unlink(path);
  const char *text = mi_out_string(&why);
  cr_assert(ok == !*text, "%s", text);
  cr_assert(ok || !strncmp(text, path, strlen(path)), "%s", text);
  return ok ? "" : text + strlen(path) + 2;
}

/* A .npy file of version 1, 2 or 3 with that dictionary and these bytes behind. */
static void write_npy(int version, const char *dict, const void *data, size_t bytes)
{
  uint8_t file[ROOM] = {0x93, 'N', 'U', 'M', 'P', 'Y', (uint8_t)version};
  size_t n = strlen(dict), start = version == 1 ? 10 : 12;

  file[8] = (uint8_t)n;
  file[9] = (uint8_t)(n >> 8);
  memcpy(file + start, dict, n);
  memcpy(file + start + n, data, bytes);
  write_file(".npy", file, start + n + bytes);
}

#define DICT(descr, order, shape)                                                                            \
  "{'descr': '" descr "', 'fortran_order': " order ", 'shape': " shape ", }   \n"

/* ---- numpy's files */

Test(mi_array, versions)
{
  static const float x[6] = {0, 1, 2, -3, 4.5f, 1e30f};
  double got[6];

  for (int version = 1; version <= 3; version++) {
    write_npy(version, DICT("<f4", "False", "(2, 3)"), x, sizeof x);
    cr_assert_str_eq(read_as(MI_ELEM_F32, "2,3", got), "");
    for (int i = 0; i < 6; i++)
      cr_assert_eq(got[i], (double)x[i]);
  }
}

Test(mi_array, dictionaries)
{
  static const float x[6] = {1, 2, 3, 4, 5, 6};
  static const char *const taken[] = {
      "{\"descr\": \"<f4\", \"fortran_order\": False, \"shape\": (2, 3)}",
      "{'shape':(2,3,),'fortran_order':False,'descr':'<f4'}",
      "{'descr': '=f4', 'fortran_order': False, 'shape': (2L, 3L), }",
      DICT("<f4", "False", "( 2 , 3 )"),
      DICT("<f4", "False", "(1, 2, 1, 3)"),
      DICT("<f4", "False", "(6,)"),
  };
  double got[6];

  for (size_t i = 0; i < COUNT(taken); i++) {
    write_npy(1, taken[i], x, sizeof x);
    cr_assert_str_eq(read_as(MI_ELEM_F32, "2,3", got), "", "%s: %s", taken[i], said);
    for (int k = 0; k < 6; k++)
      cr_assert_eq(got[k], k + 1);
  }
}

Test(mi_array, fortran_order)
{
  static const int16_t x[12] = {0, 6, 2, 8, 4, 10,
                                1, 7, 3, 9, 5, 11}; /* [2,3,2], the first dimension fastest */
  double got[12];

  write_npy(1, DICT("<i2", "True", "(2, 3, 2)"), x, sizeof x);
  cr_assert_str_eq(read_as(MI_ELEM_I16, "2,3,2", got), "");
  for (int i = 0; i < 12; i++)
    cr_assert_eq(got[i], i);
  write_npy(1, DICT("<i2", "True", "(12,)"), x, sizeof x);
  cr_assert_str_eq(read_as(MI_ELEM_F32, "12", got), "");
  cr_assert_eq(got[1], 6);
}

Test(mi_array, element_types)
{
  static const struct {
    const char *dict;
    uint64_t bits;
    MiElem as;
    double want;
  } cases[] = {
      {DICT("|i1", "False", "()"), 0x80, MI_ELEM_I64, -128},
      {DICT("|u1", "False", "()"), 0x80, MI_ELEM_F16, 128},
      {DICT("<i2", "False", "()"), 0x8000, MI_ELEM_I32, -32768},
      {DICT("<u2", "False", "()"), 0x8000, MI_ELEM_U64, 32768},
      {DICT("<i4", "False", "()"), 0x80000000, MI_ELEM_F32, -2147483648.0},
      {DICT("<u4", "False", "()"), 0x80000000, MI_ELEM_I64, 2147483648.0},
      {DICT("<i8", "False", "()"), 0x8000000000000000, MI_ELEM_F64, -9223372036854775808.0},
      {DICT("<u8", "False", "()"), 0x8000000000000000, MI_ELEM_F32, 9223372036854775808.0},
      {DICT("<f2", "False", "()"), 0x3555, MI_ELEM_F32, 0x1.554p-2},
      {DICT("<f8", "False", "()"), 0x3ff8000000000000, MI_ELEM_I8, 1.5},
      {DICT("<f8", "False", "()"), 0x4060000000000000, MI_ELEM_U8, 128},
      {DICT("|b1", "False", "()"), 1, MI_ELEM_F32, 1},
      {DICT("|b1", "False", "()"), 1, MI_ELEM_BOOL, 1},
      {DICT("|u1", "False", "()"), 0xaa, MI_ELEM_CODE, 0xaa},
      {DICT("<f4", "False", "()"), 0x3f808001, MI_ELEM_BF16, 0x1.02p0},
  };

  for (size_t i = 0; i < COUNT(cases); i++) {
    double got = 0;
    write_npy(1, cases[i].dict, &cases[i].bits, 8);
    const char *text = read_as(cases[i].as, "1", &got);
    if (cases[i].want == 1.5)
      cr_assert_str_eq(text, "its element 0 is 1.5, which i8 does not hold");
    else
      cr_assert(!*text && got == cases[i].want, "%s: %s %g", cases[i].dict, text, got);
  }
}

Test(mi_array, hostile_headers)
{
  static const char *const refused[] = {
      "",
      "{",
      "{}",
      "'descr'",
      "'descr':",
      "{'descr': '<f4'",
      "{'descr': '<f4', 'fortran_order': False, 'shape': ",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (2",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (2, ",
      "{'descr': '<f4', 'shape': (2, 3)}",
      "{'descr': [('shape', '<f4')], 'fortran_order': False}",
      DICT(">f4", "False", "(2, 3)"),
      DICT("<f16", "False", "(2, 3)"),
      DICT("<c8", "False", "(2, 3)"),
      DICT("|O", "False", "(2, 3)"),
      DICT("<f4", "False", "(-2, -3)"),
      DICT("<f4", "False", "(2 3)"),
      DICT("<f4", "False", "(2,, 3)"),
      DICT("<f4", "False", "6"),
      DICT("<f4", "False", "(2.0, 3)"),
      DICT("<f4", "False", "(1, 1, 1, 1, 1, 1, 1, 2, 3)"),
      DICT("<f4", "False", "(99999999999, 3)"),
      DICT("<f4", "False", "(4294967295, 4294967295, 4294967295)"),
      DICT("<f4", "False", "(18446744073709551616,)"),
      DICT("<f4", "False", "(2, 4)"),
      DICT("<f4", "False", "(3, 2)"),
      DICT("<f4", "False", "(2, 3, 2)"),
      DICT("<f4", "False", "()"),
      DICT("<f4", "False", "(0, 3)"),
      DICT("<f8", "False", "(2, 3)"),
      DICT("<f4", "True", "(4294967295, 2)"),
  };
  static const float x[6] = {1, 2, 3, 4, 5, 6};

  for (int version = 1; version <= 3; version++)
    for (size_t i = 0; i < COUNT(refused); i++) {
      write_npy(version, refused[i], x, sizeof x);
      cr_assert_neq(*read_as(MI_ELEM_F32, "2,3", NULL), 0, "taken: %s", refused[i]);
    }
}

/* Every length of a good file, every byte of its head changed: never a read outside of it. */
Test(mi_array, damaged)
{
  static const float x[6] = {1, 2, 3, 4, 5, 6};
  uint8_t file[ROOM];

  for (int version = 0; version < 5; version++) {
    write_npy(version, DICT("<f4", "False", "(2, 3)"), x, sizeof x);
    FILE *f = fopen(path, "rb");
    size_t n = fread(file, 1, sizeof file, f);
    fclose(f);
    for (size_t cut = 0; cut < n; cut++) {
      write_file(".npy", file, cut);
      cr_assert_neq(*read_as(MI_ELEM_F32, "2,3", NULL), 0, "%zu bytes", cut);
    }
    for (size_t at = 0; at < n; at++)
      for (int with = 1; with < 256; with *= 2) {
        file[at] ^= (uint8_t)with;
        write_file(".npy", file, n);
        read_as(MI_ELEM_F32, "2,3", NULL);
        file[at] ^= (uint8_t)with;
      }
  }
}

Test(mi_array, lengths_that_lie)
{
  uint8_t file[64] = {0x93, 'N', 'U', 'M', 'P', 'Y', 2, 0, 0xff, 0xff, 0xff, 0xff};

  write_file(".npy", file, sizeof file);
  cr_assert_str_eq(read_as(MI_ELEM_F32, "1", NULL), "it is a .npy file that is cut off");
  file[6] = 1;
  write_file(".npy", file, sizeof file);
  cr_assert_str_eq(read_as(MI_ELEM_F32, "1", NULL), "it is a .npy file that is cut off");
  file[6] = 9;
  write_file(".npy", file, sizeof file);
  cr_assert_str_eq(read_as(MI_ELEM_F32, "1", NULL), "it is a .npy file of version 9, not 1 to 3");
  write_file(".npy", "hello", 5);
  cr_assert_str_eq(read_as(MI_ELEM_F32, "1", NULL), "it is no .npy file");
}

Test(mi_array, type_and_shape)
{
  MiOut why = {.buf = said, .cap = sizeof said, .fd = -1};
  static const int64_t x[2] = {1, 2};
  MiArray a;
  char text[64];
  MiOut out = {.buf = text, .cap = sizeof text, .fd = -1};

  write_npy(3, DICT("<i8", "False", "(1, 2, 1)"), x, sizeof x);
  cr_assert(mi_array_npy(path, &a, &why) && !a.data);
  mi_array_type(&a, &out);
  cr_assert_str_eq(mi_out_string(&out), "i64[1,2,1]");
  unlink(path);
  cr_assert_not(mi_array_npy(path, &a, &why));
  cr_assert(strstr(mi_out_string(&why), "No such file"));
}

/* ---- JSON */

static const char *json(const char *text, MiElem elem, const char *dims, double *out)
{
  write_file(".json", text, strlen(text));
  return read_as(elem, dims, out);
}

Test(mi_array, json)
{
  static const char *const taken[] = {"[[1,2],[3,4]]", " [ [1.0, 2e0],\r\n\t[30E-1, 4] ] ", "[1,2,3,4]",
                                      "[[[1,2]],[[3,4]]]"};
  double got[4];

  for (size_t i = 0; i < COUNT(taken); i++) {
    cr_assert_str_eq(json(taken[i], MI_ELEM_I8, "2,2", got), "", "%s: %s", taken[i], said);
    for (int k = 0; k < 4; k++)
      cr_assert_eq(got[k], k + 1);
  }
  cr_assert_str_eq(json("-0.5", MI_ELEM_F16, "", got), "");
  cr_assert_eq(got[0], -0.5);
  cr_assert_str_eq(json("[true, false]", MI_ELEM_BOOL, "2", got), "");
  cr_assert(got[0] == 1 && got[1] == 0);
  cr_assert_str_eq(json("[NaN, Infinity, -Infinity]", MI_ELEM_F32, "3", got), "");
  cr_assert(isnan(got[0]) && got[1] == INFINITY && got[2] == -INFINITY);
  cr_assert_str_eq(json("[-9223372036854775808, 9223372036854775807]", MI_ELEM_I64, "2", NULL), "");
  cr_assert_str_eq(json("[18446744073709551615]", MI_ELEM_U64, "1", NULL), "");
  cr_assert_str_eq(json("[]", MI_ELEM_F32, "0,3", NULL), "");
  cr_assert_str_eq(json("[[],[]]", MI_ELEM_F32, "2,0", NULL), "");
}

Test(mi_array, json_faults)
{
  static const struct {
    const char *text, *says;
  } cases[] = {
      {"", "it ends where a number is expected"},
      {"[", "it ends where a number is expected"},
      {"[1,2,3,4", "it lacks a closing bracket"},
      {"[1,2,3,4]]", "it has more behind its value"},
      {"[1,2,3,4] 5", "it has more behind its value"},
      {"[1 2 3 4]", "it lacks a comma between two values"},
      {"[1,2,3,]", "it ends where a number is expected"},
      {"[1,,2,3]", "it ends where a number is expected"},
      {"[[1,2],[3]]", "it has lists of 2 and of 1 at the same depth"},
      {"[[1,2],3,4]", "it has numbers at different depths"},
      {"[1,2,[3,4]]", "it has numbers at different depths"},
      {"[1,2,3]", "its shape is [3], and f32[2,2] is needed"},
      {"[1,2,3,4,5]", "its shape is [5], and f32[2,2] is needed"},
      {"[[1,2,3,4]]", "its shape is [1,4], and f32[2,2] is needed"},
      {"[1,2,3,x]", "its 'x' is not a number"},
      {"[1,2,3,0x4]", "its '0x4' is not a number"},
      {"[1,2,3,+4]", "its '+4' is not a number"},
      {"[1,2,3,.4]", "its '.4' is not a number"},
      {"[1,2,3,-]", "its '-' is not a number"},
      {"[1,2,3,1e]", "its '1e' is not a number"},
      {"[1,2,3,nan]", "its 'nan' is not a number"},
      {"[1,2,3,null]", "its 'null' is not a number"},
      {"[1,2,3,1e99999]", "its '1e99999' is not a number"},
      {"[1,2,3,1e39]", "its element 3 is 1e+39, which f32 does not hold"},
      {"{\"x\": [1,2,3,4]}", "its '{\"x\":' is not a number"},
      {"[[[[[[[[[1]]]]]]]]]", "its lists are more than 8 deep"},
  };

  for (size_t i = 0; i < COUNT(cases); i++)
    cr_assert_str_eq(json(cases[i].text, MI_ELEM_F32, "2,2", NULL), cases[i].says, "%s", cases[i].text);
  cr_assert_str_eq(json("[256]", MI_ELEM_U8, "1", NULL), "its element 0 is 256, which u8 does not hold");
  cr_assert_str_eq(json("[-1]", MI_ELEM_U64, "1", NULL), "its element 0 is -1, which u64 does not hold");
  cr_assert_str_eq(json("[2]", MI_ELEM_BOOL, "1", NULL), "its element 0 is 2, which bool does not hold");
  cr_assert_str_eq(json("[NaN]", MI_ELEM_I32, "1", NULL), "its element 0 is nan, which i32 does not hold");
}

/* ---- writing, and reading it again */

static void fill(uint8_t *bytes, size_t n)
{
  uint32_t seed = 1;

  for (size_t i = 0; i < n; i++)
    bytes[i] = (uint8_t)((seed = seed * 1664525 + 1013904223) >> 24);
}

Test(mi_array, round_trip)
{
  static const char *const endings[] = {".npy", ".json", ".raw"};
  uint8_t data[24 * 8], again[24 * 8];
  MiOut why = {.buf = said, .cap = sizeof said, .fd = -1};

  for (int e = 0; e < MI_ELEM_COUNT; e++)
    for (size_t i = 0; i < COUNT(endings); i++) {
      MiArray a = array_of((MiElem)e, data, "2,1,3,4"), b = array_of((MiElem)e, again, "2,1,3,4");
      size_t n = mi_array_bytes(&a);
      fill(data, n);
      for (size_t k = 0; k < n && (e == MI_ELEM_BOOL || mi_elem_info[e].is_float); k++)
        data[k] &= e == MI_ELEM_BOOL ? 1 : 0xb7; /* neither infinite nor not a number: these have many bits */
      memset(again, 0x5a, sizeof again);
      write_file(endings[i], "", 0);
      cr_assert(mi_array_write(path, mi_array_kind(path), &a, &why) && mi_array_read(path, &b, &why),
                "%s%s: %s", mi_elem_name((MiElem)e), endings[i], mi_out_string(&why));
      cr_assert(!memcmp(data, again, n), "%s%s", mi_elem_name((MiElem)e), endings[i]);
      unlink(path);
    }
}

Test(mi_array, json_text)
{
  static const struct {
    const char *dims, *text;
  } cases[] = {{"", "7"},
               {"1", "[7]"},
               {"3", "[7, 8, 9]"},
               {"2,2", "[[7, 8],\n[9, 10]]"},
               {"2,1,1", "[[[7]],\n[[8]]]"},
               {"0", "[]"},
               {"2,0", "[]"}};
  int32_t x[4] = {7, 8, 9, 10};

  for (size_t i = 0; i < COUNT(cases); i++) {
    char text[128];
    MiOut out = {.buf = text, .cap = sizeof text, .fd = -1};
    MiArray a = array_of(MI_ELEM_I32, x, cases[i].dims);
    mi_array_json(&a, &out);
    cr_assert_str_eq(mi_out_string(&out), cases[i].text);
  }
}

/* ---- rounding */

static const struct {
  MiElem elem;
  DType dtype;
} floats[] = {{MI_ELEM_F16, DT_F16}, {MI_ELEM_BF16, DT_BF16}, {MI_ELEM_F32, DT_F32}, {MI_ELEM_F64, DT_F64}};

static void check_rounding(int f, long double x)
{
  uint8_t got[8] = {0}, want[8] = {0};

  mi_elem_set(floats[f].elem, got, x);
  dtype_put(floats[f].dtype, want, x, true);
  cr_assert(!memcmp(got, want, 8), "%s of %La: %02x%02x, not %02x%02x", mi_elem_name(floats[f].elem), x,
            got[1], got[0], want[1], want[0]);
}

/* All values of 16 bits, what lies between two of them, and a little beside that. */
Test(mi_array, rounding)
{
  for (int f = 0; f < 2; f++)
    for (uint32_t i = 0; i < 0x7fff; i++) {
      uint8_t p[2] = {(uint8_t)i, (uint8_t)(i >> 8)}, q[2] = {(uint8_t)(i + 1), (uint8_t)((i + 1) >> 8)};
      long double x = mi_elem_get(floats[f].elem, p), y = mi_elem_get(floats[f].elem, q), half = (x + y) / 2;
      cr_assert(x == dtype_get(floats[f].dtype, p) || (isnan(x) && isnan(dtype_get(floats[f].dtype, p))));
      if (isnan(x) || isinf(x) || isinf(y))
        continue;
      for (int sign = -1; sign <= 1; sign += 2) {
        check_rounding(f, sign * x);
        check_rounding(f, sign * half);
        check_rounding(f, sign * half * (1 + 0x1p-50L));
        check_rounding(f, sign * half * (1 - 0x1p-50L));
      }
    }
}

Test(mi_array, rounding_at_the_ends)
{
  static const long double x[] = {65504,     65519.99L,   65520,          65536,       1e10L,
                                  1e-10L,    0x1p-25L,    0x1.0001p-25L,  0x1p-24L,    0x1p-149L,
                                  0x1p-150L, 0x1.fep127L, 0x1.fefffp127L, 0x1.ffp127L, 0x1.fffffep127L,
                                  0,         INFINITY,    0x1p-133L,      0x1p-134L,   0x1.8p-134L};

  for (size_t f = 0; f < COUNT(floats); f++)
    for (size_t i = 0; i < COUNT(x); i++) {
      check_rounding((int)f, x[i]);
      check_rounding((int)f, -x[i]);
    }
  cr_assert(mi_elem_holds(MI_ELEM_F16, 65519.99L) && !mi_elem_holds(MI_ELEM_F16, 65520));
  cr_assert(mi_elem_holds(MI_ELEM_F32, 0x1.fffffep127L) && !mi_elem_holds(MI_ELEM_F32, 0x1p128L));
  cr_assert(mi_elem_holds(MI_ELEM_BF16, 0x1.fep127L) && !mi_elem_holds(MI_ELEM_BF16, -0x1.ffp127L));
  cr_assert(mi_elem_holds(MI_ELEM_F64, 1e308L) && !mi_elem_holds(MI_ELEM_F64, 1e309L));
}

/* Doubles at random, of all sizes. */
Test(mi_array, rounding_of_doubles)
{
  uint64_t seed = 1;

  for (int i = 0; i < 200000; i++) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    long double x = ldexpl((long double)(int64_t)(seed >> 11 << 11), (int)(seed % 97) - 48 - 63);
    for (int f = 0; f < 3; f++)
      check_rounding(f, x);
  }
}
