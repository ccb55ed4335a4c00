/* onnx_reader.c - the ONNX reader against good, bad and damaged files.
 * MICC_UPDATE=1 rewrites the fuzzer's seeds in tests/fuzz/onnx. */
#include "tests/unit/support/files.h"
#include "tests/unit/support/onnx_case.h"

#include <criterion/criterion.h>
#include <stdio.h>

static const char seeds_dir[] = MICC_SOURCE_DIR "/tests/fuzz/onnx";

#define FLOAT4(name) "11{ 1\"" name "\" 2{ 1{ 1:1 2{ 1{ 1:4 } } } } } "

/* Initialisers in every form: packed and loose numbers, raw bytes, none at all. */
#define STORAGE                                                                                              \
  "5{ 8'f32' 1:3 2:1 4(1.5 -2 0.25) } 5{ 8'f32 loose' 1[3] 2:1 4f1.5 4f-2 4f0.25 } "                         \
  "5{ 8'f32 raw' 1:3 2:1 9x0000c03f000000c00000803e } 5{ 8'scalar' 2:1 4(7) } 5{ 8'empty' 1[2 0 3] 2:1 } "   \
  "5{ 8'i64' 1:2 2:7 7[-3 4] } 5{ 8'i64 loose' 1:2 2:7 7:-3 7:4 } 5{ 8'both' 1:3 2:7 7[5] 7:6 7[7] } "       \
  "5{ 8'f64' 1:2 2:11 10<1.5 -2> } 5{ 8'u64' 1:2 2:13 11[1 18446744073709551615] } "                         \
  "5{ 8'u32' 1:1 2:12 11[4294967295] } 5{ 8'i8' 1:3 2:3 5[-128 127 -1] } 5{ 8'u8' 1:2 2:2 5[255 7] } "       \
  "5{ 8'f16' 1:2 2:10 5[15360 49152] } 5{ 8'bf16' 1:2 2:16 5[16256 49152] } "                                \
  "5{ 8'bool' 1:3 2:9 5[0 1 9] } 5{ 8'bool raw' 1:3 2:9 9x000207 } 5{ 8'i4' 1:3 2:22 5[143 7] } "            \
  "5{ 8'strings' 1:2 2:8 6'ab' 6'' } "

/* The narrow types, packed as files have them. */
#define NARROW                                                                                               \
  "5{ 8'u4' 1:3 2:21 9x8f07 } 5{ 8'i4' 1:3 2:22 9x8f07 } 5{ 8'f4' 1:2 2:23 9x72 } 5{ 8'u2' 1:5 2:25 9xe403 " \
  "} "                                                                                                       \
  "5{ 8'i2' 1:5 2:26 9xe403 } 5{ 8'e8m0' 1:1 2:24 9x7f } 5{ 8'f8a' 1:1 2:17 9x38 } 5{ 8'f8b' 1:1 2:18 9x40 " \
  "} "                                                                                                       \
  "5{ 8'f8c' 1:1 2:19 9x3c } 5{ 8'f8d' 1:1 2:20 9x40 } "

#define SPARSE                                                                                               \
  "15{ 1{ 8'flat' 1:2 2:1 4(3 4) } 2{ 1:2 2:7 7[1 5] } 3[2 3] } "                                            \
  "15{ 1{ 8'pairs' 1:2 2:3 5[3 4] } 2{ 1[2 2] 2:7 7[0 1 1 2] } 3[2 3] } "

/* Every kind of attribute, with and without its type. */
#define ATTRS                                                                                                \
  "1{ 4'Op' 1'x' 1'' 2'y' 7'ai.onnx' 5{ 1'f' 2f1.5 20:1 } 5{ 1'i' 3:-7 20:2 } 5{ 1's' 4'text' 20:3 } "       \
  "5{ 1't' 5{ 1:1 2:1 4(2) } 20:4 } 5{ 1'g' 6{ 2'body' 1{ 4'Abs' 1'x' 2'z' } 12{ 1'z' } } 20:5 } "           \
  "5{ 1'floats' 7(1 2) 20:6 } 5{ 1'ints' 8[1 -2] 8:3 20:7 } 5{ 1'strings' 9'a' 9'' 20:8 } "                  \
  "5{ 1'tensors' 10{ 2:7 7[1] } 20:9 } 5{ 1'graphs' 11{ 2'h' } 20:10 } "                                     \
  "5{ 1'sp' 22{ 1{ 1:1 2:1 4(3) } 2{ 1:1 2:7 7[0] } 3:2 } 20:11 } 5{ 1'tp' 14{ 1{ 1:1 } } 20:13 } "          \
  "5{ 1'ref' 21'outer' 20:2 } 5{ 1'old f' 2f0.5 } 5{ 1'old ints' 8[4 5] } 5{ 1'none' } } "

#define TYPES                                                                                                \
  "11{ 1'a' 2{ 1{ 1:1 2{ 1{ 2'N' } 1{ 1:3 } 1{ } 1{ 1:-1 } } } } } 11{ 1'any' 2{ 1{ 1:1 } } } "              \
  "11{ 1'scalar' 2{ 1{ 1:7 2{ } } } } 11{ 1'seq' 2{ 4{ 1{ 1{ 1:1 } } } } } "                                 \
  "11{ 1'map' 2{ 5{ 1:8 2{ 1{ 1:1 2{ 1{ 1:0 } } } } } } } 11{ 1'opt' 2{ 9{ 1{ 4{ 1{ 1{ 1:1 } } } } } } } "   \
  "11{ 1'sparse' 2{ 8{ 1:1 2{ 1{ 1:2 } } } } } 11{ 1'opaque' 2{ 7{ 1'd' } } } 11{ 1'bare' } "

/* Good models, which are the fuzzer's seeds too. */
static const struct {
  const char *name, *bytes;
} good[] = {
    {"relu", ONNX_MODEL("1{ 1'x' 2'y' 3'n' 4'Relu' } 2'g' " FLOAT4("x") "12{ 1'y' 2{ 1{ 1:1 } } }")},
    {"storage", ONNX_MODEL(STORAGE)},
    {"narrow", ONNX_MODEL(NARROW)},
    {"sparse", ONNX_MODEL(SPARSE)},
    {"attributes", ONNX_MODEL(ATTRS)},
    {"types", ONNX_MODEL(TYPES)},
    {"texts", "1:4 2'maker' 3'1.0' 4'org.example' 5:7 6'two\nlines' 14{ 1'license' 2'MIT' } 14{ } "
              "8{ 2:11 } 8{ 1'com.microsoft' 2:1 } 7{ 10'doc' } 15'unknown' 99:5 98f1 97d1"},
    {"functions",
     ONNX_MODEL("1{ 4'F' 7'mine' 1'x' 2'y' 8'two' }") " 25{ 1'F' 10'mine' 13'two' 4'a' 5'b' 6'alpha' "
                                                      "11{ 1'beta' 2f1 20:1 } 8'doc' 9{ 2:13 } "
                                                      "7{ 4'Elu' 1'a' 2'b' 5{ 1'alpha' 21'alpha' "
                                                      "20:1 } } 12{ 1'b' } }"},
    {"external", ONNX_MODEL("5{ 8'w' 1:2 2:1 13{ 1'location' 2'data.bin' } 13{ 1'offset' 2'4' } "
                            "13{ 1'length' 2'8' } 14:1 }")},
    {"version-1", "1:1 2'old' 7{ 1{ 4'Abs' 1'x' 2'y' 5{ 1'k' 3:1 } } }"},
};

static OnnxCase parse_good(const char *name)
{
  for (size_t i = 0; i < COUNT(good); i++)
    if (!strcmp(good[i].name, name)) {
      OnnxCase c = onnx_case_parse(good[i].bytes);
      cr_assert(c.m, "%s: %s", name, c.e.text);
      return c;
    }
  cr_assert_fail("no good file %s", name);
  abort();
}

/* ---- good files */

Test(onnx_reader, good_files)
{
  for (size_t i = 0; i < COUNT(good); i++) {
    OnnxCase c = onnx_case_parse(good[i].bytes);
    cr_assert(c.m, "%s: %s", good[i].name, c.e.text);
    onnx_touch(c.m);
    onnx_case_close(&c);
  }
}

Test(onnx_reader, values)
{
  static const struct {
    const char *file, *tensor, *want;
  } cases[] = {
      {"storage", "f32", "f32[3] 1.5 -2 0.25"},
      {"storage", "f32 loose", "f32[3] 1.5 -2 0.25"},
      {"storage", "f32 raw", "f32[3] 1.5 -2 0.25"},
      {"storage", "scalar", "f32[] 7"},
      {"storage", "empty", "f32[2,0,3]"},
      {"storage", "i64", "i64[2] -3 4"},
      {"storage", "i64 loose", "i64[2] -3 4"},
      {"storage", "both", "i64[3] 5 6 7"},
      {"storage", "f64", "f64[2] 1.5 -2"},
      {"storage", "u64", "u64[2] 1 18446744073709551615"},
      {"storage", "u32", "u32[1] 4294967295"},
      {"storage", "i8", "i8[3] -128 127 -1"},
      {"storage", "u8", "u8[2] 255 7"},
      {"storage", "f16", "f16[2] 1 -2"},
      {"storage", "bf16", "bf16[2] 1 -2"},
      {"storage", "bool", "bool[3] 0 1 1"},
      {"storage", "bool raw", "bool[3] 0 1 1"},
      {"storage", "i4", "i4[3] -1 -8 7"},
      {"narrow", "u4", "u4[3] 15 8 7"},
      {"narrow", "i4", "i4[3] -1 -8 7"},
      {"narrow", "f4", "f4e2m1[2] 1 6"},
      {"narrow", "u2", "u2[5] 0 1 2 3 3"},
      {"narrow", "i2", "i2[5] 0 1 -2 -1 -1"},
      {"narrow", "e8m0", "f8e8m0[1] 1"},
      {"narrow", "f8a", "f8e4m3fn[1] 1"},
      {"narrow", "f8b", "f8e4m3fnuz[1] 1"},
      {"narrow", "f8c", "f8e5m2[1] 1"},
      {"narrow", "f8d", "f8e5m2fnuz[1] 1"},
      {"sparse", "flat", "f32[2,3] 0 3 0 0 0 4"},
      {"sparse", "pairs", "i8[2,3] 0 3 0 0 0 4"},
  };
  for (size_t i = 0; i < COUNT(cases); i++) {
    OnnxCase c = parse_good(cases[i].file);
    cr_expect_str_eq(onnx_case_value(&c, cases[i].tensor), cases[i].want, "%s: %s", cases[i].tensor,
                     onnx_case_value(&c, cases[i].tensor));
    onnx_case_close(&c);
  }
}

Test(onnx_reader, strings)
{
  OnnxCase c = parse_good("storage");
  const OnnxGraph *g = c.m->graph;
  OnnxText *s;

  cr_assert(onnx_tensor_strings(g->initializers[g->n_initializers - 1], &c.arena, &s, &c.e));
  cr_expect(s[0].len == 2 && !strcmp(s[0].data, "ab") && s[1].len == 0);
  cr_expect(!onnx_tensor_strings(g->initializers[0], &c.arena, &s, &c.e));
  cr_expect(strstr(c.e.text, "tensor 'f32': its elements are of type float, expected strings"), "%s",
            c.e.text);
  onnx_case_close(&c);
}

Test(onnx_reader, attributes)
{
  OnnxCase c = parse_good("attributes");
  const OnnxNode *n = c.m->graph->nodes[0];
  const OnnxAttr *a;

  cr_expect(n->n_inputs == 2 && !strcmp(n->inputs[0], "x") && !strcmp(n->inputs[1], "") &&
            !strcmp(n->outputs[0], "y"));
  cr_expect(!*n->domain && !*n->name && !*n->overload && !strcmp(n->op_type, "Op"));
  cr_expect((a = onnx_attr(n, "f")) && a->type == ONNX_ATTR_FLOAT && a->f == 1.5F);
  cr_expect((a = onnx_attr(n, "i")) && a->type == ONNX_ATTR_INT && a->i == -7);
  cr_expect((a = onnx_attr(n, "s")) && a->type == ONNX_ATTR_STRING && a->s.len == 4 &&
            !strcmp(a->s.data, "text"));
  cr_expect((a = onnx_attr(n, "t")) && a->t->count == 1);
  cr_expect((a = onnx_attr(n, "g")) && !strcmp(a->g->name, "body") &&
            !strcmp(a->g->nodes[0]->op_type, "Abs"));
  cr_expect((a = onnx_attr(n, "floats")) && a->n_floats == 2 && a->floats[1] == 2);
  cr_expect((a = onnx_attr(n, "ints")) && a->n_ints == 3 && a->ints[1] == -2 && a->ints[2] == 3);
  cr_expect((a = onnx_attr(n, "strings")) && a->n_strings == 2 && !strcmp(a->strings[0].data, "a"));
  cr_expect((a = onnx_attr(n, "tensors")) && a->n_tensors == 1);
  cr_expect((a = onnx_attr(n, "graphs")) && a->n_graphs == 1 && !strcmp(a->graphs[0]->name, "h"));
  cr_expect((a = onnx_attr(n, "sp")) && a->sparse_tensor->count == 2);
  cr_expect((a = onnx_attr(n, "tp")) && a->tp->kind == ONNX_TYPE_TENSOR);
  cr_expect((a = onnx_attr(n, "ref")) && !strcmp(a->ref_attr_name, "outer"));
  cr_expect((a = onnx_attr(n, "old f")) && a->type == ONNX_ATTR_FLOAT && a->f == 0.5F);
  cr_expect((a = onnx_attr(n, "old ints")) && a->type == ONNX_ATTR_INTS && a->n_ints == 2);
  cr_expect((a = onnx_attr(n, "none")) && a->type == ONNX_ATTR_UNDEFINED);
  cr_expect_null(onnx_attr(n, "absent"));
  onnx_case_close(&c);
}

Test(onnx_reader, types)
{
  OnnxCase c = parse_good("types");
  OnnxValueInfo **in = c.m->graph->inputs;
  const OnnxType *t = in[0]->type;

  cr_expect(t->kind == ONNX_TYPE_TENSOR && t->elem_type == ONNX_FLOAT && t->has_shape && t->n_dims == 4);
  cr_expect(t->dims[0]->value == -1 && !strcmp(t->dims[0]->param, "N") && t->dims[1]->value == 3);
  cr_expect(t->dims[2]->value == -1 && !t->dims[2]->param && t->dims[3]->value == -1);
  cr_expect(!in[1]->type->has_shape && in[2]->type->has_shape && in[2]->type->n_dims == 0);
  cr_expect(in[3]->type->kind == ONNX_TYPE_SEQUENCE && in[3]->type->item->kind == ONNX_TYPE_TENSOR);
  cr_expect(in[4]->type->kind == ONNX_TYPE_MAP && in[4]->type->elem_type == ONNX_STRING);
  cr_expect(in[4]->type->item->dims[0]->value == 0);
  cr_expect(in[5]->type->kind == ONNX_TYPE_OPTIONAL && in[5]->type->item->kind == ONNX_TYPE_SEQUENCE);
  cr_expect(in[6]->type->kind == ONNX_TYPE_SPARSE && in[6]->type->dims[0]->value == 2);
  cr_expect(in[7]->type->kind == ONNX_TYPE_OPAQUE);
  cr_expect_null(in[8]->type);
  onnx_case_close(&c);
}

Test(onnx_reader, model)
{
  OnnxCase c = parse_good("texts"), f = parse_good("functions"), old = parse_good("version-1");

  cr_expect_str_eq(c.m->producer_name.data, "maker");
  cr_expect_str_eq(c.m->doc.data, "two\nlines");
  cr_expect(c.m->ir_version == 4 && c.m->model_version == 7 && c.m->n_metadata == 2);
  cr_expect_str_eq(c.m->metadata[0]->key, "license");
  cr_expect(onnx_opset(c.m, "") == 11 && onnx_opset(c.m, "com.microsoft") == 1 && !onnx_opset(c.m, "x"));
  cr_expect(onnx_opset(old.m, "") == 1);
  cr_expect(f.m->n_functions == 1 && !strcmp(f.m->functions[0]->attributes[0], "alpha"));
  cr_expect(f.m->functions[0]->attribute_protos[0]->f == 1 && onnx_opset(f.m, "") == 13);
  cr_expect_str_eq(onnx_where(f.m, &f.m->graph->nodes[0]->place, &f.arena), "t.onnx:0xa");
  onnx_case_close(&c);
  onnx_case_close(&f);
  onnx_case_close(&old);
}

Test(onnx_reader, elements)
{
  for (int i = 1; i < ONNX_ELEM_COUNT; i++) {
    const OnnxElemInfo *info = onnx_elem(i);
    cr_expect(info->dtype < 0 || onnx_elem_of((DType)info->dtype) == i, "%s", info->name);
    cr_expect(info->dtype < 0 || dtype_info[info->dtype].bytes == (info->bits < 8 ? 1 : info->bits / 8), "%s",
              info->name);
  }
  cr_expect(ONNX_BFLOAT16 == 16 && ONNX_INT2 == 26 && !onnx_elem_of(DT_Q4_0));
  cr_expect_str_eq(onnx_elem(-5)->name, "undefined");
}

/* ---- bad files */

static const struct {
  const char *bytes, *message;
} bad[] = {
    {"", "0x0: IR version 0, expected 1 to 1000"},
    {"1:8", "0x0: the model has no graph"},
    {"1:1001 7{ }", "0x0: IR version 1001, expected 1 to 1000"},
    /* the wire */
    {"1:8 !ff", "0x2: model: expected a field"},
    {"1:8 !00", "0x2: model: expected a field"},
    {"1:8 !08", "0x2: model: field 1 is no valid number"},
    {"1:8 !08ffffffffffffffffff02", "0x2: model: field 1 is no valid number"},
    {"1:8 !08ffffffffffffffffffff01", "0x2: model: field 1 is no valid number"},
    {"1:8 !0b", "0x2: model: field 1 has wire type 3, expected 0, 1, 2 or 5"},
    {"1:8 !0f", "0x2: model: field 1 has wire type 7, expected 0, 1, 2 or 5"},
    {"1:8 !3a05", "0x2: model: field 7 needs 5 bytes, 0 are left"},
    {"1:8 !3affffffffffffffffff01", "0x2: model: field 7 needs 18446744073709551615 bytes, 0 are left"},
    {"1:8 !3a", "0x2: model: field 7 has no valid length"},
    {"1:8 !9d0600", "0x2: model: field 99 needs 4 bytes, 1 are left"},
    {"1:8 !990600", "0x2: model: field 99 needs 8 bytes, 1 are left"},
    {"1:8 7{ !0a05 } 2'behind'", "0x4: graph: field 1 needs 5 bytes, 0 are left"},
    {"1'x' 7{ }", "0x0: model: ir_version has wire type 2, expected 0"},
    {"1:8 7:5", "0x2: model: graph has wire type 0, expected 2"},
    {"1:8 7{ } 7{ }", "0x4: model: graph is there twice"},
    {ONNX_MODEL("1{ 4'A' 5{ 1'k' 8f1.5 } }"), "0x12: attribute: ints has wire type 5, expected 0"},
    {ONNX_MODEL("1{ 4'A' 5{ 1'k' 7x0000 } }"),
     "0x12: attribute: floats has 2 bytes, expected a multiple of 4"},
    {ONNX_MODEL("1{ 4'A' 5{ 1'k' 8x01ff } }"), "0x12: attribute: ints holds no valid numbers"},
    {ONNX_MODEL("1{ 4'A' 5{ 1'k' 8xffffffffffffffffff02 } }"),
     "0x12: attribute: ints holds no valid numbers"},
    /* names */
    {ONNX_MODEL("1{ 3x61ff }"), "0xd: node: name holds byte 0xff, expected valid UTF-8"},
    {ONNX_MODEL("1{ 3x6100 }"), "0xd: node: name holds control character 0x00, expected text"},
    {ONNX_MODEL("1{ 3*65536 }"), "0xe: node: name has 65536 bytes, expected at most 65535"},
    /* structure */
    {ONNX_MODEL("1{ 3'n' }"), "0xa: node 'n': no op_type"},
    {ONNX_MODEL("1{ 3'n' 4'' }"), "0xa: node 'n': no op_type"},
    {ONNX_MODEL("1{ 4'A' 5{ 1'k' 3:1 } 5{ 1'j' 3:1 } 5{ 1'k' 3:2 } }"), "0x1d: attribute 'k' is there twice"},
    {ONNX_MODEL("1{ 4'A' 5{ 1'k' 20:15 } }"), "0xf: attribute 'k': type 15, expected 1 to 14"},
    {ONNX_MODEL("1{ 4'A' 5{ 1'k' 20:-1 } }"), "0xf: attribute 'k': type -1, expected 1 to 14"},
    {ONNX_MODEL("1{ 4'A' 5{ 1'k' 20:4 } }"), "0xf: attribute 'k': the value is missing"},
    {ONNX_MODEL("1{ 4'A' 5{ 1'k' 20:5 3:1 } }"), "0xf: attribute 'k': the value is missing"},
    {ONNX_MODEL("5{ 2:1 }"), "0xa: initializer: no name"},
    {ONNX_MODEL("15{ 1{ 8'v' } }"), "0xa: sparse tensor: no indices"},
    {ONNX_MODEL("15{ 2{ } }"), "0xa: sparse tensor: no values"},
    {ONNX_MODEL("15{ 1{ } 2{ } }"), "0xa: sparse initializer: no name"},
    {ONNX_MODEL("11{ 1'x' 2{ 1{ } 4{ 1{ } } } }"), "0xf: type: is of two kinds"},
    {ONNX_MODEL("11{ 1'x' 2{ 4{ } } }"), "0xf: type: its elements have no type"},
    {"1:8 8{ 2:-1 } 7{ }", "0x4: opset import: version -1"},
    {ONNX_MODEL("5{ 8'w' 1:-1 2:1 }"), "0xa: tensor: dimension of size -1"},
    {ONNX_MODEL("5{ 8'w' 1[4294967296 4294967296] 2:1 }"),
     "0xa: tensor: the dimensions make 2^63 elements or more"},
    {ONNX_MODEL("5{ 8'w' 1[4294967296 4294967296 0] 2:1 }"),
     "0xa: tensor: the dimensions make 2^63 elements or more"},
    {ONNX_MODEL("5{ 8'w' 1*65 2:1 }"), "0xa: tensor: 65 dimensions, expected at most 64"},
    /* external data */
    {ONNX_MODEL("5{ 8'w' 14:1 }"),
     "0xa: tensor 'w': external data in '', expected a path inside the model's folder"},
    {ONNX_MODEL("5{ 8'w' 14:1 13{ 1'location' 2'/etc/passwd' } }"),
     "0xa: tensor 'w': external data in '/etc/passwd', expected a path inside the model's folder"},
    {ONNX_MODEL("5{ 8'w' 14:1 13{ 1'location' 2'a/../../b' } }"),
     "0xa: tensor 'w': external data in 'a/../../b', expected a path inside the model's folder"},
    {ONNX_MODEL("5{ 8'w' 14:1 13{ 1'location' 2'..' } }"),
     "0xa: tensor 'w': external data in '..', expected a path inside the model's folder"},
    {ONNX_MODEL("5{ 8'w' 14:1 13{ 1'location' 2x610062 } }"),
     "0xa: tensor 'w': external data in 'a', expected a path inside the model's folder"},
    {ONNX_MODEL("5{ 8'w' 14:1 13{ 1'location' 2'a' } 13{ 1'offset' 2'-1' } }"),
     "0xa: tensor 'w': external data: offset '-1', expected a number"},
    {ONNX_MODEL("5{ 8'w' 14:1 13{ 1'location' 2'a' } 13{ 1'length' 2'18446744073709551616' } }"),
     "0xa: tensor 'w': external data: length '18446744073709551616', expected a number"},
    {ONNX_MODEL("5{ 8'w' 14:1 13{ 1'location' 2'a' } 13{ 1'length' } }"),
     "0xa: tensor 'w': external data: length '', expected a number"},
};

Test(onnx_reader, bad_files)
{
  for (size_t i = 0; i < COUNT(bad); i++) {
    OnnxCase c = onnx_case_parse(bad[i].bytes);
    cr_expect(!c.m, "bad file %zu is accepted: %s", i, bad[i].message);
    cr_expect(!strncmp(c.e.text, "t.onnx:", 7) && !strcmp(c.e.text + 7, bad[i].message),
              "got:  %s\nwant: t.onnx:%s", c.e.text, bad[i].message);
    onnx_case_close(&c);
  }
}

/* Files that can be read, whose tensor has no value. */
static const struct {
  const char *tensor, *message;
} no_value[] = {
    {"1:3 2:1", "0 numbers, expected 3"},
    {"1:3 2:1 4(1 2)", "2 numbers, expected 3"},
    {"1:1 2:1 4(1 2)", "2 numbers, expected 1"},
    {"1[1000000 1000000 1000] 2:1 4(1)", "1 numbers, expected 1000000000000000"},
    {"1[1000000 1000000 1000] 2:1 9x00000000", "4 bytes of raw data, expected 4000000000000000"},
    {"1[4294967296 1073741824] 2:1", "more than 2^61 bytes of data"},
    {"1:3 2:7 4(1 2 3)", "0 numbers, expected 3"},
    {"1:2 2:1 9x00000000", "4 bytes of raw data, expected 8"},
    {"1:3 2:22 9x00", "1 bytes of raw data, expected 2"},
    {"1:3 2:22 5[1 2 3]", "3 numbers, expected 2"},
    {"1:1 2:1 4x000000", "its list of numbers ends inside one"},
    {"1:1 2:7 7xff", "its list of numbers is not valid"},
    {"1:1 2:7 7f1.5", "a number has wire type 5, expected 0"},
    {"1:1 2:0", "element type 0 is not known"},
    {"1:1 2:99", "element type 99 is not known"},
    {"1:1 2:-1", "element type -1 is not known"},
    {"1:1 2:8 6'a'", "its elements are of type string, which micc does not compute with"},
    {"1:1 2:14 4(1 2)", "its elements are of type complex64, which micc does not compute with"},
    {"1:1 2:27 9x00", "its elements are of type float6e2m3, which micc does not compute with"},
    {"1[1 1 1 1 1 1 1 1 1] 2:1 4(1)", "9 dimensions, expected at most 8"},
    {"1:1 2:1 14:1 13{ 1'location' 2'no such file' }",
     "external data in 'no such file': No such file or directory"},
    {"1:2 2:1 14:1 13{ 1'location' 2'x' } 13{ 1'length' 2'4' }", "4 bytes of external data, expected 8"},
};

Test(onnx_reader, no_value)
{
  for (size_t i = 0; i < COUNT(no_value); i++) {
    Arena a = {0};
    OnnxCase c = onnx_case_parse(arena_printf(&a, "1:8 8{ 2:13 } 7{ 5{ 8'w' %s } }", no_value[i].tensor));
    cr_assert(c.m, "%s", c.e.text);
    const char *want = arena_printf(&a, "t.onnx:0xa: tensor 'w': %s", no_value[i].message);
    cr_expect_str_eq(onnx_case_value(&c, "w"), want, "%zu: %s", i, onnx_case_value(&c, "w"));
    onnx_case_close(&c);
    arena_free(&a);
  }
}

Test(onnx_reader, sparse_without_value)
{
  static const struct {
    const char *tensor, *message;
  } cases[] = {
      {"1{ 8'w' 1:1 2:1 4(3) } 2{ 1:1 2:7 7[6] } 3[2 3]", "index of value 0 is out of range"},
      {"1{ 8'w' 1:1 2:1 4(3) } 2{ 1:1 2:7 7[-1] } 3[2 3]", "index of value 0 is out of range"},
      {"1{ 8'w' 1:1 2:1 4(3) } 2{ 1[1 2] 2:7 7[0 3] } 3[2 3]", "index of value 0 is out of range"},
      {"1{ 8'w' 1:1 2:1 4(3) } 2{ 1[1 1] 2:7 7[0] } 3[2 3]", "indices are no int64 for each of 1 values"},
      {"1{ 8'w' 1:1 2:1 4(3) } 2{ 1:1 2:6 5[0] } 3[2 3]", "indices are no int64 for each of 1 values"},
      {"1{ 8'w' 1:2 2:1 4(3 4) } 2{ 1:1 2:7 7[0] } 3[2 3]", "indices are no int64 for each of 2 values"},
      {"1{ 8'w' 2:1 4(3) } 2{ 1:1 2:7 7[0] } 3[2 3]", "values of 0 dimensions, expected 1"},
      {"1{ 8'w' 1:1 2:1 4(3) } 2{ 1:1 2:7 7[0] } 3[100000 100000]",
       "10000000000 elements, expected at most 268435456 bytes for them"},
  };
  for (size_t i = 0; i < COUNT(cases); i++) {
    Arena a = {0};
    OnnxCase c = onnx_case_parse(arena_printf(&a, "1:8 8{ 2:13 } 7{ 15{ %s } }", cases[i].tensor));
    cr_assert(c.m, "%s", c.e.text);
    cr_expect(strstr(onnx_case_value(&c, "w"), cases[i].message), "%zu: %s", i, onnx_case_value(&c, "w"));
    onnx_case_close(&c);
    arena_free(&a);
  }
}

/* Graphs in attributes of nodes in graphs, deeper than any stack should go. */
Test(onnx_reader, depth)
{
  for (int levels = 10; levels <= 1000; levels *= 10) {
    Arena a = {0};
    Text bytes = {.arena = &a};
    text_add(&bytes, "", 0);
    for (int i = 0; i < levels; i++) {
      Text outer = {.arena = &a}, attr = {.arena = &a};
      onnx_bytes(&attr, 1, "g", 1);
      onnx_bytes(&attr, 6, bytes.data, bytes.len);
      onnx_bytes(&outer, 4, "If", 2);
      onnx_bytes(&outer, 5, attr.data, attr.len);
      bytes.len = 0;
      onnx_bytes(&bytes, 1, outer.data, outer.len);
    }
    Text model = {.arena = &a};
    onnx_text(&model, "1:8 8{ 2:13 }");
    onnx_bytes(&model, 7, bytes.data, bytes.len);
    OnnxCase c = onnx_case_bytes(model.data, model.len);
    cr_expect(levels == 10 ? c.m != NULL : strstr(c.e.text, ": more than 100 messages in each other") != NULL,
              "%s", c.e.text);
    onnx_case_close(&c);
    arena_free(&a);
  }
}

/* ---- damaged files */

Test(onnx_reader, every_truncation)
{
  for (size_t i = 0; i < COUNT(good); i++) {
    Arena a = {0};
    Text t = {.arena = &a};
    onnx_text(&t, good[i].bytes);
    for (size_t n = 0; n < t.len; n++) {
      OnnxCase c = onnx_case_bytes(t.data, n);
      cr_expect(c.m || onnx_error_is_line(&c.e, "t.onnx:"), "%s", c.e.text);
      if (c.m)
        onnx_touch(c.m);
      onnx_case_close(&c);
    }
    arena_free(&a);
  }
}

static uint64_t next_random(uint64_t *s)
{
  *s = *s * 6364136223846793005U + 1442695040888963407U;
  return *s >> 33;
}

static void damage(char *p, size_t n, uint64_t *seed)
{
  for (uint64_t k = next_random(seed) % 4 + 1; k-- > 0;) {
    size_t at = next_random(seed) % n;
    switch (next_random(seed) % 3) {
    case 0: p[at] = (char)next_random(seed); break;
    case 1: p[at] ^= (char)(1 << next_random(seed) % 8); break;
    default: memset(p + at, next_random(seed) % 2 ? 0xff : 0, n - at < 4 ? n - at : 4);
    }
  }
}

Test(onnx_reader, damages)
{
  uint64_t seed = 1;
  int valid = 0;

  for (size_t i = 0; i < COUNT(good); i++) {
    Arena a = {0};
    Text t = {.arena = &a};
    onnx_text(&t, good[i].bytes);
    for (int k = 0; k < 1000; k++) {
      char *copy = arena_copy(&a, t.data, t.len);
      damage(copy, t.len, &seed);
      OnnxCase c = onnx_case_bytes(copy, t.len);
      if (c.m)
        onnx_touch(c.m);
      else
        cr_expect(onnx_error_is_line(&c.e, "t.onnx:"), "%s", c.e.text);
      valid += c.m != NULL;
      onnx_case_close(&c);
    }
    arena_free(&a);
  }
  printf("of %zu damaged models %d can be read\n", COUNT(good) * 1000, valid);
}

Test(onnx_reader, allocations_fail)
{
  for (long n = 1;; n++) {
    Arena a = {0};
    Text t = {.arena = &a};
    onnx_text(&t, good[4].bytes);
    uint8_t *copy = exact_copy(t.data, t.len);
    OnnxCase c = {.copy = copy};
    mem_fail_at(n);
    onnx_parse(copy, t.len, "t.onnx", &c.arena, &c.m, &c.e);
    mem_fail_at(0);
    bool whole = c.m != NULL;
    cr_expect(whole || !strcmp(c.e.text, "t.onnx: out of memory while reading"), "%s", c.e.text);
    onnx_case_close(&c);
    arena_free(&a);
    if (whole)
      break;
  }
}

/* ---- the fuzzer's seeds */

Test(onnx_reader, seeds)
{
  for (size_t i = 0; i < COUNT(good); i++) {
    Arena a = {0};
    Text t = {.arena = &a};
    char path[1024];
    size_t n = 0;
    onnx_text(&t, good[i].bytes);
    snprintf(path, sizeof path, "%s/%s", seeds_dir, good[i].name);
    if (getenv("MICC_UPDATE"))
      file_write(path, t.data, t.len);
    uint8_t *file = file_read(path, &n);
    cr_expect(file && n == t.len && !memcmp(file, t.data, n), "%s differs: run with MICC_UPDATE=1", path);
    free(file);
    arena_free(&a);
  }
}
