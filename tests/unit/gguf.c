/* gguf.c - the GGUF reader against good, bad, damaged and real files.
 * MICC_UPDATE=1 rewrites the fuzzer's seeds in tests/fuzz/gguf. */
#include "frontend/gguf/gguf.h"
#include "tests/unit/gguf_tools.h"
#include "tests/unit/support/files.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#define H(version, tensors, keys) "'GGUF' 4:" #version " 8:" #tensors " 8:" #keys " "

#define SAMPLE "stories260K.gguf"
static const char seeds_dir[] = MICC_SOURCE_DIR "/tests/fuzz/gguf";

/* Every metadata type as a scalar and as an array; used with both versions. */
#define ALL_TYPES                                                                                            \
  "\"u8\" 4:0 1:200 \"i8\" 4:1 1:0xff \"u16\" 4:2 2:65535 \"i16\" 4:3 2:0x8000 "                             \
  "\"u32\" 4:4 4:0xffffffff \"i32\" 4:5 4:0xfffffffe \"f32\" 4:6 x:0000c03f \"bool\" 4:7 1:1 "               \
  "\"str\" 4:8 \"hello\" \"u64\" 4:10 8:0xffffffffffffffff \"i64\" 4:11 8:0xfffffffffffffffd "               \
  "\"f64\" 4:12 x:0000000000000440 \"empty\" 4:8 8:0 "                                                       \
  "\"au8\" 4:9 4:0 8:2 1:1 1:2 \"ai16\" 4:9 4:3 8:2 2:1 2:0xffff \"af32\" 4:9 4:6 8:1 x:000080bf "           \
  "\"abool\" 4:9 4:7 8:3 1:0 1:1 1:0 \"astr\" 4:9 4:8 8:3 \"a\" 8:0 \"ccc\" "                                \
  "\"ai64\" 4:9 4:11 8:1 8:7 \"af64\" 4:9 4:12 8:1 x:000000000000f03f \"none\" 4:9 4:4 8:0 "

/* Tensors in another order than their data, a gap between them, and a scale of types. */
#define TENSORS                                                                                              \
  "\"general.alignment\" 4:4 4:64 "                                                                          \
  "\"b\" 4:2 8:32 8:3 4:8 8:64 \"a\" 4:1 8:4 4:0 8:0 \"c.weight\" 4:4 8:1 8:2 8:1 8:3 4:1 8:192 "            \
  "pad:64 x:0000803f 0*60 0*128 0*12"

/* Good files, which are the fuzzer's seeds too. */
static const struct {
  const char *name, *bytes;
} good[] = {
    {"empty-v2", H(2, 0, 0)},
    {"empty-v3", H(3, 0, 0)},
    {"types-v2", H(2, 0, 21) ALL_TYPES},
    {"types-v3", H(3, 0, 21) ALL_TYPES},
    {"tensors", H(3, 3, 1) TENSORS},
    {"blocks",
     H(3, 4, 1) "\"general.architecture\" 4:8 \"llama\" "
                "\"q4\" 4:1 8:32 4:2 8:0 \"k4\" 4:2 8:256 8:1 4:12 8:32 \"k6\" 4:1 8:256 4:14 8:192 "
                "\"bf\" 4:1 8:3 4:30 8:416 pad:32 0*422"},
};

/* ---- helpers */

/* Parses bytes written in the notation. `*copy` lives as long as the model. */
static Model *parse(const char *bytes, uint8_t **copy, Err *e)
{
  Arena a = {0};
  Text t = {.arena = &a};

  gguf_text(&t, bytes);
  *copy = exact_copy(t.data, t.len);
  Model *m = gguf_parse(*copy, t.len, "t.gguf", e);
  arena_free(&a);
  return m;
}

/* The sample model, from the tree or from the shared folder. */
static const char *sample_path(void)
{
  static const char in_tree[] = MICC_SOURCE_DIR "/tests/data/" SAMPLE;
  return access(in_tree, R_OK) ? MICC_SHARED_DIR "/models/llm-stories260k/" SAMPLE : in_tree;
}

/* ---- good files */

Test(gguf, good_files)
{
  for (size_t i = 0; i < COUNT(good); i++) {
    Err e = {0};
    uint8_t *copy;
    Model *m = parse(good[i].bytes, &copy, &e);
    cr_assert(m, "%s: %s", good[i].name, e.text);
    model_touch(m);
    cr_expect_str_eq(m->format, strstr(good[i].name, "v2") ? "GGUF v2" : "GGUF v3");
    model_close(m);
    free(copy);
  }
}

/* What each accessor says of each key's first item; "-" is false. */
Test(gguf, accessors)
{
  static const struct {
    const char *key, *u, *i, *f, *s;
  } want[] = {
      {"u8", "200", "200", "200", "-"},
      {"i8", "-", "-1", "-1", "-"},
      {"u16", "65535", "65535", "65535", "-"},
      {"i16", "-", "-32768", "-32768", "-"},
      {"u32", "4294967295", "4294967295", "4294967295", "-"},
      {"i32", "-", "-2", "-2", "-"},
      {"f32", "-", "-", "1.5", "-"},
      {"bool", "1", "1", "1", "-"},
      {"str", "-", "-", "-", "hello"},
      {"u64", "18446744073709551615", "-", "1.8446744073709552e+19", "-"},
      {"i64", "-", "-3", "-3", "-"},
      {"f64", "-", "-", "2.5", "-"},
      {"empty", "-", "-", "-", ""},
      {"au8", "1", "1", "1", "-"},
      {"ai16", "1", "1", "1", "-"},
      {"af32", "-", "-", "-1", "-"},
      {"abool", "0", "0", "0", "-"},
      {"astr", "-", "-", "-", "a"},
      {"ai64", "7", "7", "7", "-"},
      {"af64", "-", "-", "1", "-"},
      {"none", "-", "-", "-", "-"},
      {"absent", "-", "-", "-", "-"},
  };
  Err e = {0};
  uint8_t *copy;
  Model *m = parse(good[3].bytes, &copy, &e);
  cr_assert(m, "%s", e.text);
  for (size_t k = 0; k < COUNT(want); k++) {
    const Meta *v = model_meta(m, want[k].key);
    char u[32] = "-", i[32] = "-", f[32] = "-", s[32] = "-";
    uint64_t un;
    int64_t in;
    double fn;
    Str sn;
    if (meta_u64(v, 0, &un))
      snprintf(u, sizeof u, "%" PRIu64, un);
    if (meta_i64(v, 0, &in))
      snprintf(i, sizeof i, "%" PRId64, in);
    if (meta_f64(v, 0, &fn))
      snprintf(f, sizeof f, "%.17g", fn);
    if (meta_str(v, 0, &sn))
      snprintf(s, sizeof s, "%.*s", (int)sn.len, sn.data);
    cr_expect_str_eq(u, want[k].u, "%s as u64: %s", want[k].key, u);
    cr_expect_str_eq(i, want[k].i, "%s as i64: %s", want[k].key, i);
    cr_expect_str_eq(f, want[k].f, "%s as f64: %s", want[k].key, f);
    cr_expect_str_eq(s, want[k].s, "%s as text: %s", want[k].key, s);
  }
  model_close(m);
  free(copy);
}

Test(gguf, array_items)
{
  Err e = {0};
  uint8_t *copy;
  Model *m = parse(good[2].bytes, &copy, &e);
  int64_t n;
  Str s;

  cr_assert(m, "%s", e.text);
  cr_expect(meta_i64(model_meta(m, "ai16"), 1, &n) && n == -1);
  cr_expect(!meta_i64(model_meta(m, "ai16"), 2, &n));
  cr_expect(meta_str(model_meta(m, "astr"), 1, &s) && s.len == 0 && str_eq(s, ""));
  cr_expect(meta_str(model_meta(m, "astr"), 2, &s) && str_eq(s, "ccc") && !str_eq(s, "cc"));
  cr_expect(!meta_str(model_meta(m, "astr"), 3, &s));
  cr_expect(!meta_str(model_meta(m, "str"), 1, &s));
  cr_expect_eq(model_meta(m, "none")->count, 0);
  model_close(m);
  free(copy);
}

Test(gguf, tensors)
{
  Err e = {0};
  uint8_t *copy;
  Model *m = parse(good[4].bytes, &copy, &e);

  cr_assert(m, "%s", e.text);
  const FileTensor *a = model_tensor(m, "a"), *b = model_tensor(m, "b"), *c = model_tensor(m, "c.weight");
  cr_assert(a && b && c && !model_tensor(m, "d"));
  cr_expect_eq(m->alignment, 64);
  cr_expect(b->rank == 2 && b->dim[0] == 3 && b->dim[1] == 32 && b->dtype == DT_Q8_0 && b->bytes == 102);
  cr_expect(c->rank == 4 && c->dim[0] == 3 && c->dim[2] == 2 && c->dtype == DT_F16 && c->bytes == 12);
  cr_expect(a->file_offset == m->data_offset && b->file_offset == a->file_offset + 64);
  float one;
  memcpy(&one, a->data, sizeof one);
  cr_expect(one == 1.0F);
  model_close(m);
  free(copy);
}

/* ---- bad files */

#define NAME64 "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
#define READS  "; it reads f32 f16 bf16 i32 q4_0 q4_1 q5_0 q5_1 q8_0 q4_K q5_K q6_K tq2_0"

static const struct {
  const char *bytes, *message;
} bad[] = {
    /* header */
    {"", "0x0: magic needs 4 bytes, 0 are left"},
    {"'GGU'", "0x0: magic needs 4 bytes, 3 are left"},
    {"'GGUX' 4:3", "0x0: begins with bytes 47 47 55 58, expected \"GGUF\""},
    {"'GGUF' 2:3", "0x4: version needs 4 bytes, 2 are left"},
    {"'GGUF' 4:0", "0x4: GGUF version 0, expected 2 or 3"},
    {"'GGUF' 4:1 4:0 4:0", "0x4: GGUF version 1, expected 2 or 3"},
    {"'GGUF' 4:4", "0x4: GGUF version 4, expected 2 or 3"},
    {"'GGUF' x:00000003 x:0000000000000001", "0x4: big-endian GGUF file, expected little-endian"},
    {"'GGUF' 4:3 4:0", "0x8: tensor count needs 8 bytes, 4 are left"},
    {"'GGUF' 4:3 8:0 7:0", "0x10: key count needs 8 bytes, 7 are left"},
    {H(3, 262145, 0), "0x8: 262145 tensors, expected at most 262144"},
    {H(3, 0xffffffffffffffff, 0), "0x8: 18446744073709551615 tensors, expected at most 262144"},
    {H(3, 0, 65537), "0x10: 65537 keys, expected at most 65536"},
    {H(3, 2, 0) "0*65", "0x8: 2 tensors need at least 66 bytes, 65 are left"},
    {H(3, 0, 2) "0*27", "0x10: 2 keys need at least 28 bytes, 27 are left"},
    /* keys */
    {H(3, 0, 1) "8:0 0*20", "0x18: key of 0 bytes, expected 1 to 65535"},
    {H(3, 0, 1) "8:65536 0*20", "0x18: key of 65536 bytes, expected 1 to 65535"},
    {H(3, 0, 1) "8:21 0*20", "0x20: key needs 21 bytes, 20 are left"},
    {H(3, 0, 1) "8:3 x:61ff62 4:0 1:0", "0x21: key holds byte 0xff, expected valid UTF-8"},
    {H(3, 0, 1) "8:3 x:eda080 4:0 1:0", "0x20: key holds byte 0xed, expected valid UTF-8"},
    {H(3, 0, 1) "8:3 x:6162c3 4:0 1:0", "0x22: key holds byte 0xc3, expected valid UTF-8"},
    {H(3, 0, 1) "8:2 x:c0af 4:0 2:0", "0x20: key holds byte 0xc0, expected valid UTF-8"},
    {H(3, 0, 1) "8:3 x:610a62 4:0 1:0", "0x21: key holds control character 0x0a, expected text"},
    {H(3, 0, 1) "8:3 x:616200 4:0 1:0", "0x22: key holds control character 0x00, expected text"},
    {H(3, 0, 1) "8:2 x:c29b 4:0 1:0 0*2", "0x20: key holds control character 0x9b, expected text"},
    {H(3, 0, 2) "\"k\" 4:0 1:5 \"k\" 4:0 1:6", "0x26: key 'k': is there twice, first at 0x18"},
    {H(3, 0, 2) "\"kk\" 4:0 1:5 8:8 'k'", "0x10: 2 keys need at least 28 bytes, 24 are left"},
    {H(3, 0, 2) "\"kkkkkk\" 4:0 1:5 8:3 'k'", "0x33: key needs 3 bytes, 1 are left"},
    /* values */
    {H(3, 0, 1) "\"abc\" 4:13 1:0", "0x23: key 'abc': value type 13, expected 0 to 12"},
    {H(3, 0, 1) "\"abcd\" 2:0", "0x24: key 'abcd': value type needs 4 bytes, 2 are left"},
    {H(3, 0, 1) "\"abc\" 4:4 3:0", "0x27: key 'abc': value needs 4 bytes, 3 are left"},
    {H(3, 0, 1) "\"abc\" 4:12 7:0", "0x27: key 'abc': value needs 8 bytes, 7 are left"},
    {H(3, 0, 1) "\"abc\" 4:7 1:2", "0x27: key 'abc': bool of value 2, expected 0 or 1"},
    {H(3, 0, 1) "\"abc\" 4:8 7:0", "0x27: key 'abc': string length needs 8 bytes, 7 are left"},
    {H(3, 0, 1) "\"abc\" 4:8 8:5 'four'", "0x2f: key 'abc': string needs 5 bytes, 4 are left"},
    {H(3, 0, 1) "\"abc\" 4:8 8:0xffffffffffffffff 'four'",
     "0x2f: key 'abc': string needs 18446744073709551615 bytes, 4 are left"},
    /* arrays */
    {H(3, 0, 1) "\"abc\" 4:9 2:0", "0x27: key 'abc': item type needs 4 bytes, 2 are left"},
    {H(3, 0, 1) "\"abc\" 4:9 4:99 8:0", "0x27: key 'abc': item type 99, expected 0 to 12"},
    {H(3, 0, 1) "\"abc\" 4:9 4:9 8:0",
     "0x27: key 'abc': array of arrays, expected an array of numbers, bools or strings"},
    {H(3, 0, 1) "\"abc\" 4:9 4:4 4:0", "0x2b: key 'abc': item count needs 8 bytes, 4 are left"},
    {H(3, 0, 1) "\"abc\" 4:9 4:4 8:16777217", "0x2b: key 'abc': 16777217 items, expected at most 16777216"},
    {H(3, 0, 1) "\"abc\" 4:9 4:4 8:2 7:0", "0x2b: key 'abc': 2 items need at least 8 bytes, 7 are left"},
    {H(3, 0, 1) "\"abc\" 4:9 4:8 8:2 0*15", "0x2b: key 'abc': 2 items need at least 16 bytes, 15 are left"},
    {H(3, 0, 1) "\"abc\" 4:9 4:8 8:2 \"ab\" 6:0", "0x3d: key 'abc': string length needs 8 bytes, 6 are left"},
    {H(3, 0, 1) "\"abc\" 4:9 4:8 8:2 \"ab\" 8:2 'x'", "0x45: key 'abc': string needs 2 bytes, 1 are left"},
    {H(3, 0, 1) "\"abc\" 4:9 4:7 8:3 x:010002", "0x35: key 'abc': bool of value 2, expected 0 or 1"},
    /* keys that the reader itself needs */
    {H(3, 0, 1) "\"general.alignment\" 4:8 \"32\"",
     "0x18: key 'general.alignment': string, expected a positive integer"},
    {H(3, 0, 1) "\"general.alignment\" 4:5 4:0xffffffff",
     "0x18: key 'general.alignment': i32, expected a positive integer"},
    {H(3, 0, 1) "\"general.alignment\" 4:4 4:24",
     "0x18: key 'general.alignment': is 24, expected a power of two from 8 to 1048576"},
    {H(3, 0, 1) "\"general.alignment\" 4:4 4:4",
     "0x18: key 'general.alignment': is 4, expected a power of two from 8 to 1048576"},
    {H(3, 0, 1) "\"general.alignment\" 4:10 8:0x8000000000000000",
     "0x18: key 'general.alignment': is 9223372036854775808, expected a power of two from 8 to 1048576"},
    {H(3, 0, 2) "\"split.no\" 4:2 2:1 \"split.count\" 4:2 2:3",
     "0x2e: key 'split.count': this is part 2 of 3, expected a whole model: merge the parts first"},
    /* tensor table */
    {H(3, 1, 0) "8:0 0*40", "0x18: tensor name of 0 bytes, expected 1 to 255"},
    {H(3, 1, 0) "8:256 0*300", "0x18: tensor name of 256 bytes, expected 1 to 255"},
    {H(3, 1, 0) "8:2 x:7f61 0*40", "0x20: tensor name holds control character 0x7f, expected text"},
    {H(3, 1, 0) "\"ab\" 4:0 0*32", "0x22: tensor 'ab': 0 dimensions, expected 1 to 4"},
    {H(3, 1, 0) "\"ab\" 4:5 0*32", "0x22: tensor 'ab': 5 dimensions, expected 1 to 4"},
    {H(3, 1, 0) "\"ab\" 4:2 8:4 8:0 4:0 8:0", "0x2e: tensor 'ab': dimension of size 0, expected 1 or more"},
    {H(3, 1, 0) "\"ab\" 4:3 8:4 8:8 5:0", "0x36: tensor 'ab': dimension needs 8 bytes, 5 are left"},
    {H(3, 1, 0) "\"ab\" 4:2 8:0x100000000 8:0x80000000 4:0 8:0",
     "0x2e: tensor 'ab': dimension of size 2147483648 makes 2^63 values or more"},
    {H(3, 1, 0) "\"ab\" 4:2 8:0x100000000 8:0x100000000 4:0 8:0",
     "0x2e: tensor 'ab': dimension of size 4294967296 makes 2^63 values or more"},
    {H(3, 1, 0) "\"ab\" 4:2 8:0x80000000 8:0x80000000 4:0 8:0",
     "0x36: tensor 'ab': more than 2^64 bytes of data"},
    {H(3, 1, 0) "\"ab\" 4:2 8:48 8:2 4:2 8:0",
     "0x36: tensor 'ab': rows of 48 values, expected a multiple of 32 (q4_0)"},
    {H(3, 1, 0) "\"ab\" 4:2 8:128 8:2 4:12 8:0",
     "0x36: tensor 'ab': rows of 128 values, expected a multiple of 256 (q4_K)"},
    {H(3, 1, 0) "\"ab\" 4:2 8:4 8:8 3:0", "0x36: tensor 'ab': type needs 4 bytes, 3 are left"},
    {H(3, 1, 0) "\"ab\" 4:2 8:4 8:8 4:0 7:0", "0x3a: tensor 'ab': offset needs 8 bytes, 7 are left"},
    /* types */
    {H(3, 1, 0) "\"x\" 4:1 8:32 4:39 8:0",
     " 1 tensor has a type that micc does not read yet: mxfp4 (1, first 'x')" READS},
    {H(3, 4, 0) "\"x\" 4:1 8:256 4:10 8:0 \"y\" 4:1 8:256 4:11 8:0 \"z\" 4:1 8:256 4:10 8:0 "
                "\"" NAME64 "z\" 4:1 8:256 4:4294967295 8:0",
     " 4 tensors have types that micc does not read yet: q2_K (2, first 'x'), q3_K (1, first 'y'), "
     "type 4294967295 (1, first '" NAME64 "...')" READS},
    /* data */
    {H(3, 1, 0) "\"ab\" 4:1 8:4 4:0 8:8 0*99", "0x18: tensor 'ab': offset 0x8, expected a multiple of 32"},
    {H(3, 1, 0) "\"ab\" 4:1 8:4 4:0 8:0",
     "0x18: tensor 'ab': 16 bytes at data offset 0x0, but the file has 0x0 bytes of data"},
    {H(3, 1, 0) "\"ab\" 4:1 8:4 4:0 8:32 pad:32 0*47",
     "0x18: tensor 'ab': 16 bytes at data offset 0x20, but the file has 0x2f bytes of data"},
    {H(3, 1, 0) "\"ab\" 4:1 8:4 4:0 8:0xffffffffffffffe0 pad:32 0*64",
     "0x18: tensor 'ab': 16 bytes at data offset 0xffffffffffffffe0, but the file has 0x40 bytes of data"},
    {H(3, 1, 0) "\"ab\" 4:2 8:0x80000000 8:0x3fffffff 4:0 8:0 pad:32 0*64",
     "0x18: tensor 'ab': 9223372028264841216 bytes at data offset 0x0, but the file has 0x40 bytes of data"},
    {H(3, 2, 0) "\"a\" 4:1 8:9 4:0 8:0 \"b\" 4:1 8:9 4:0 8:32 pad:32 0*96",
     "0x39: tensor 'b': data at 0x80 overlaps tensor 'a' (0x60 to 0x84)"},
    {H(3, 2, 0) "\"a\" 4:1 8:9 4:0 8:32 \"b\" 4:1 8:9 4:0 8:32 pad:32 0*96",
     "0x39: tensor 'b': data at 0x80 overlaps tensor 'a' (0x80 to 0xa4)"},
    {H(3, 2, 0) "\"a\" 4:1 8:4 4:0 8:0 \"a\" 4:1 8:4 4:0 8:32 pad:32 0*64",
     "0x39: tensor 'a': is there twice, first at 0x18"},
};

Test(gguf, bad_files)
{
  for (size_t i = 0; i < COUNT(bad); i++) {
    Err e = {0};
    uint8_t *copy;
    Model *m = parse(bad[i].bytes, &copy, &e);
    cr_expect(!m, "bad file %zu is accepted: %s", i, bad[i].message);
    cr_expect(!strncmp(e.text, "t.gguf:", 7) && !strcmp(e.text + 7, bad[i].message),
              "got:  %s\nwant: t.gguf:%s", e.text, bad[i].message);
    model_close(m);
    free(copy);
  }
}

/* Thirty-two kinds are listed; when names would not fit, the types stay. */
Test(gguf, many_odd_types)
{
  Arena a = {0};
  Text bytes = {.arena = &a};
  Err e = {0};
  uint8_t *copy;

  text_printf(&bytes, H(3, 40, 0));
  for (int i = 0; i < 40; i++)
    text_printf(&bytes, "\"a-rather-long-tensor-name-%d\" 4:1 8:32 4:%d 8:0 ", i, 1000 + i);
  cr_expect_null(parse(bytes.data, &copy, &e));
  cr_expect(
      strstr(e.text, "40 tensors have types that micc does not read yet: type 1000 (1), type 1001 (1), "));
  cr_expect(strstr(e.text, ", type 1031 (1), further types (8)" READS), "%s", e.text);
  free(copy);
  arena_free(&a);
}

/* A path longer than an error's room shows its end, and the message stays whole. */
Test(gguf, long_path)
{
  char path[3000];
  Err e = {0};

  memset(path, 'd', sizeof path);
  memcpy(path + sizeof path - 7, "x.gguf", 7);
  cr_expect_null(gguf_parse((const uint8_t *)"GGUF", 4, path, &e));
  cr_expect(strstr(e.text, "x.gguf:0x4: version needs 4 bytes, 0 are left"));
  Err e2 = {0};
  cr_expect_null(model_open(path, &e2));
  cr_expect(strstr(e2.text, "x.gguf: cannot be opened: File name too long"), "%s", e2.text);
}

/* ---- damaged files */

/* Whatever is cut off a file, an error line says so: each byte of a GGUF file's table matters. */
Test(gguf, every_truncation)
{
  for (size_t i = 0; i < COUNT(good); i++) {
    Arena a = {0};
    Text t = {.arena = &a};
    gguf_text(&t, good[i].bytes);
    for (size_t n = 0; n < t.len; n++) {
      Err e = {0};
      uint8_t *copy = exact_copy(t.data, n);
      cr_expect_null(gguf_parse(copy, n, "t.gguf", &e), "%s cut to %zu bytes", good[i].name, n);
      cr_expect(error_is_line(&e, "t.gguf:"), "%s", e.text);
      free(copy);
    }
    arena_free(&a);
  }
}

static uint64_t next_random(uint64_t *s)
{
  *s = *s * 6364136223846793005U + 1442695040888963407U;
  return *s >> 33;
}

/* Three in four damage the table (all that lies before the data), one in four cuts. */
static size_t damage(uint8_t *p, size_t n, size_t table, uint64_t *seed)
{
  if (next_random(seed) % 4 == 0)
    return next_random(seed) % n;
  for (uint64_t k = next_random(seed) % 4 + 1; k-- > 0;) {
    size_t at = next_random(seed) % table;
    switch (next_random(seed) % 3) {
    case 0: p[at] = (uint8_t)next_random(seed); break;
    case 1: p[at] ^= (uint8_t)(1 << next_random(seed) % 8); break;
    default: memset(p + at, next_random(seed) % 2 ? 0xff : 0, table - at < 8 ? table - at : 8);
    }
  }
  return n;
}

Test(gguf, thousand_damages)
{
  size_t bytes;
  uint64_t seed = 1;
  int valid = 0;
  Err first = {0};
  uint8_t *file = file_read(sample_path(), &bytes);

  cr_assert(file, "%s is missing", sample_path());
  Model *whole = gguf_parse(file, bytes, SAMPLE, &first);
  cr_assert(whole, "%s", first.text);
  size_t table = whole->data_offset;
  model_close(whole);
  for (int i = 0; i < 1000; i++) {
    Err e = {0};
    uint8_t *p = exact_copy(file, bytes);
    size_t n = damage(p, bytes, table, &seed);
    uint8_t *cut = exact_copy(p, n);
    Model *m = gguf_parse(cut, n, "t.gguf", &e);
    cr_expect(m || error_is_line(&e, "t.gguf:"), "damage %d: %s", i, e.text);
    if (m)
      model_touch(m);
    valid += m != NULL;
    model_close(m);
    free(cut);
    free(p);
  }
  cr_expect(valid > 0 && valid < 1000, "%d of 1,000 are valid: the damage is no test", valid);
  free(file);
}

/* ---- out of memory */

Test(gguf, each_allocation_fails)
{
  Arena a = {0};
  Text t = {.arena = &a};
  long n = 0;
  Model *m = NULL;

  /* Larger than an arena's chunk, so that several allocations happen; with the longest messages. */
  gguf_text(&t, H(3, 1, 3) "\"tokens\" 4:9 4:8 8:9000 0*72000 \"more\" 4:9 4:8 8:9000 0*72000 ");
  gguf_text(&t, "\"last\" 4:9 4:8 8:9000 0*72000 \"w\" 4:1 8:8 4:0 8:0 pad:32 0*32");
  while (!m) {
    Err e = {0};
    mem_fail_at(++n);
    m = gguf_parse((const uint8_t *)t.data, t.len, "t.gguf", &e);
    mem_fail_at(0);
    cr_assert(m || !strcmp(e.text, "t.gguf: out of memory while reading"), "%s", e.text);
    cr_assert(n < 100);
  }
  cr_expect(n > 3, "only %ld allocations", n);
  model_touch(m);
  model_close(m);
  arena_free(&a);
}

/* ---- files */

Test(model, files_that_are_no_models)
{
  static const struct {
    const char *bytes, *message;
  } odd[] = {
      {"", "is empty, expected a model file"},
      {"8:2 '{}'", "is a safetensors file; micc does not read that yet, it reads GGUF and ONNX"},
      {"4:28 'TFL3' 0*40", "is a TFLite file; micc does not read that yet, it reads GGUF and ONNX"},
      {"'PK' x:0304 0*26",
       "is a zip archive (PyTorch, Keras or NumPy); micc does not read that yet, it reads GGUF and ONNX"},
      {"'tjgg' 0*26", "is a ggml file from before GGUF; micc does not read that yet, it reads GGUF and ONNX"},
      {"'version https://git-lfs.github.com/spec/v1'",
       "is a Git LFS pointer, not the model itself; micc does not read that yet, it reads GGUF and ONNX"},
      {"'what is this'", "begins with bytes 77 68 61 74, expected \"GGUF\""},
  };
  char path[] = "/tmp/micc-test-XXXXXX";
  int fd = mkstemp(path);

  cr_assert(fd >= 0);
  close(fd);
  for (size_t i = 0; i < COUNT(odd); i++) {
    Arena a = {0};
    Text t = {.arena = &a};
    Err e = {0};
    gguf_text(&t, odd[i].bytes);
    file_write(path, t.data, t.len);
    cr_expect_null(model_open(path, &e));
    cr_expect(error_is_line(&e, path) && strstr(e.text, odd[i].message), "got:  %s\nwant: %s", e.text,
              odd[i].message);
    arena_free(&a);
  }
  unlink(path);
}

Test(model, paths_that_cannot_be_mapped)
{
  static const struct {
    const char *path, *message;
  } odd[] = {
      {"/nonexistent.gguf", "/nonexistent.gguf: cannot be opened: No such file or directory"},
      {"/", "/: is a directory, expected a model file"},
      {"/dev/null", "/dev/null: is not a regular file, so it cannot be mapped"},
  };
  for (size_t i = 0; i < COUNT(odd); i++) {
    Err e = {0};
    cr_expect_null(model_open(odd[i].path, &e));
    cr_expect_str_eq(e.text, odd[i].message);
  }
}

Test(model, hash)
{
  Err e = {0};
  Model *m = model_open(sample_path(), &e);

  cr_assert(m, "%s", e.text);
  model_hash(m);
  cr_expect_str_eq(m->sha256, "270cba1bd5109f42d03350f60406024560464db173c0e387d91f0426d3bd256d");
  model_close(m);
}

/* ---- real files */

/* Opens them all; those with types that dtype.def has not must say so, and nothing else. */
static void open_folder(const char *dir, int *opened, int *refused)
{
  DIR *d = opendir(dir);

  for (struct dirent *f; d && (f = readdir(d));) {
    char path[2048];
    Err e = {0};
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, f->d_name);
    if (f->d_name[0] != '.' && !stat(path, &st) && S_ISDIR(st.st_mode))
      open_folder(path, opened, refused);
    size_t n = strlen(path);
    if (n < 5 || strcmp(path + n - 5, ".gguf"))
      continue;
    Model *m = model_open(path, &e);
    if (m)
      model_touch(m);
    else
      cr_expect(strstr(e.text, " micc does not read yet: "), "%s", e.text);
    *(m ? opened : refused) += 1;
    model_close(m);
  }
  if (d)
    closedir(d);
}

Test(model, real_files)
{
  int opened = 0, refused = 0;

  if (access(MICC_SHARED_DIR, R_OK)) {
    printf("skipped: the real files, no folder " MICC_SHARED_DIR "\n");
    return;
  }
  open_folder(MICC_SHARED_DIR "/models", &opened, &refused);
  open_folder(MICC_SHARED_DIR "/suites/gguf-archs", &opened, &refused);
  open_folder(MICC_SHARED_DIR "/suites/tokenizers-llama.cpp", &opened, &refused);
  printf("%d real files are read, %d refused for their types\n", opened, refused);
  cr_expect(opened > 100 && refused < 12);
}

Test(model, real_refusals)
{
  static const struct {
    const char *path, *message;
  } odd[] = {
      {"/models/llm-quant-test/quant-test-Q2_K.gguf", "q2_K ("},
      {"/models/llm-quant-test/quant-test-MXFP4_MOE.gguf", "mxfp4 ("},
      {"/models/llm-quant-test/quant-test-TQ1_0.gguf", "tq1_0 ("},
      {"/models/llm-quant-test/quant-test-IQ4_XS.gguf", "iq4_xs ("},
  };
  for (size_t i = 0; i < COUNT(odd) && !access(MICC_SHARED_DIR, R_OK); i++) {
    char path[2048];
    Err e = {0};
    snprintf(path, sizeof path, "%s%s", MICC_SHARED_DIR, odd[i].path);
    cr_expect_null(model_open(path, &e));
    cr_expect(strstr(e.text, odd[i].message), "%s", e.text);
  }
}

/* ---- the fuzzer's seeds */

static const char *const bad_seeds[] = {
    H(3, 0, 1) "\"abc\" 4:9 4:9 8:0",
    H(3, 2, 0) "\"a\" 4:1 8:9 4:0 8:0 \"b\" 4:1 8:9 4:0 8:32 pad:32 0*96",
    H(3, 1, 0) "\"x\" 4:1 8:32 4:39 8:0",
    "'GGUF' x:00000003 x:0000000000000001",
};

static void check_seed(const char *name, const char *bytes)
{
  Arena a = {0};
  Text t = {.arena = &a};
  char path[1024];
  size_t n = 0;

  gguf_text(&t, bytes);
  snprintf(path, sizeof path, "%s/%s", seeds_dir, name);
  if (getenv("MICC_UPDATE"))
    file_write(path, t.data, t.len);
  uint8_t *file = file_read(path, &n);
  cr_expect(file && n == t.len && n < 4096 && !memcmp(file, t.data, n), "%s differs: run with MICC_UPDATE=1",
            path);
  free(file);
  arena_free(&a);
}

Test(gguf, seeds)
{
  for (size_t i = 0; i < COUNT(good); i++)
    check_seed(good[i].name, good[i].bytes);
  for (size_t i = 0; i < COUNT(bad_seeds); i++)
    check_seed((char[]){'b', 'a', 'd', '-', (char)('1' + i), 0}, bad_seeds[i]);
}
