/* dense.c - the oracle of dense graphs, and single elements.
 *
 * tests/cases/dense/NAME.txt: a dense graph whose inputs are weights with values, `---`, and its outputs, a line each:
 * name, type, values. Cases are divided by lines of ====; MICC_UPDATE=1 rewrites what comes out. The values were worked
 * out by hand (round ones), or by the formula in double. */
#include "ir/graph.h"
#include "tests/unit/support/cases.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

static void print_tensor(const char *name, const Tensor *t, Text *out)
{
  text_printf(out, "%s ", name);
  type_print(&t->type, out);
  text_printf(out, " =");
  for (int64_t i = 0; i < type_count(&t->type); i++)
    if (t->type.dtype == DT_U64)
      text_printf(out, " %llu", (unsigned long long)tensor_get_int(t, i));
    else if (dtype_info[t->type.dtype].kind == DK_INT)
      text_printf(out, " %lld", (long long)tensor_get_int(t, i));
    else if (isnan(tensor_get(t, i)))
      text_printf(out, " nan");
    else
      text_printf(out, " %.*Lg", t->type.dtype == DT_F64 ? 15 : 7, tensor_get(t, i));
  text_printf(out, "\n");
}

static const char *outputs_of(Arena *a, const char *path, const char *source)
{
  Err e = {0};
  Text out = {.arena = a};
  Module *m = module_parse(a, source, path, &e);
  uint32_t n = 0;

  cr_assert(m && module_verify(m, &e), "%s\n%s", e.text, source);
  const Graph *g = m->graphs.data[0];
  Tensor *result = NEW_ARRAY(a, Tensor, g->nodes.len);
  graph_eval_dense(g, a, NULL, result);
  for (Val v = 1; v < g->nodes.len; v++)
    if (graph_node(g, v)->op == OP_output)
      print_tensor(graph_node(g, v)->attr.name, &result[n++], &out);
  return out.data;
}

Test(dense, cases)
{
  cr_expect_gt(cases_run(MICC_SOURCE_DIR "/tests/cases/dense", outputs_of), 3);
}

/* Inputs come in the order of their nodes; a graph may give an input back. */
Test(dense, inputs)
{
  Arena a = {0};
  Module *m = module_new(&a);
  Graph *g = graph_new_dense(m, "run");
  Type t = type_of(DT_I64, 1, (int64_t[]){2}), s = type_of(DT_I64, 0, NULL);
  Val x = graph_add(g, OP_input, NULL, 0, (Attr){.name = "x"}, &t);
  Val y = graph_add(g, OP_input, NULL, 0, (Attr){.name = "y"}, &s);
  Val sum = graph_add2(g, OP_sub, x, y);
  int64_t vx[] = {1, INT64_MIN}, vy[] = {2};
  Tensor in[] = {{t, vx}, {s, vy}}, out[2];
  Err e = {0};

  graph_add(g, OP_output, &sum, 1, (Attr){.name = "d"}, NULL);
  graph_add(g, OP_output, &x, 1, (Attr){.name = "x again"}, NULL);
  cr_assert(module_verify(m, &e), "%s", e.text);
  graph_eval_dense(g, &a, in, out);
  cr_expect_eq(tensor_get_int(&out[0], 0), -1);
  cr_expect_eq(tensor_get_int(&out[0], 1), INT64_MAX - 1);
  cr_expect_eq(tensor_get_int(&out[1], 1), INT64_MIN);
  cr_expect_neq(out[1].data, (void *)vx);
  arena_free(&a);
}

/* What the importer folds with: nodes that have no value say so. */
Test(dense, single_nodes)
{
  Arena a = {0};
  Err e = {0};
  Module *m = module_parse(&a,
                           "weight w f32[2]\nweight k f32[2] = 1 2\ngraph run dense {\n"
                           "  %1 = input f32[2] x\n  %2 = weight f32[2] w\n  %3 = weight f32[2] k\n"
                           "  %4 = add f32[2] %3, %3\n  %5 = reshape f32[1,2] %3\n}\n",
                           "t", &e);
  cr_assert(m, "%s", e.text);
  const Graph *g = m->graphs.data[0];
  Tensor k, sum, view, none;

  cr_expect(!graph_eval_node(g, 1, NULL, &a, &none), "an input");
  cr_expect(!graph_eval_node(g, 2, NULL, &a, &none), "a weight without data");
  cr_assert(graph_eval_node(g, 3, NULL, &a, &k));
  cr_assert(graph_eval_node(g, 4, (Tensor[]){k, k}, &a, &sum));
  cr_expect(tensor_get(&sum, 1) == 4);
  cr_assert(graph_eval_node(g, 5, &k, &a, &view));
  cr_expect(view.data == k.data && view.type.rank == 2);
  arena_free(&a);
}

/* ---- elements */

/* Every code of a type of 8 bits or 16 comes back from its value; nans as some nan. */
Test(dense, codes_round_trip)
{
  for (int t = 0; t < DT_COUNT; t++) {
    if (!dtype_is_element((DType)t) || dtype_info[t].bytes > 2)
      continue;
    int bits = dtype_bits((DType)t), n = 1 << bits;
    for (int i = 0; i < n; i++) {
      uint16_t code = (uint16_t)i, back = 0;
      if (dtype_info[t].kind == DK_INT)
        dtype_put_int((DType)t, &code, i);
      long double x = dtype_get((DType)t, &code);
      dtype_put((DType)t, &back, x, false);
      long double y = dtype_get((DType)t, &back);
      cr_expect(isnan(x) ? isnan(y) : !memcmp(&code, &back, dtype_info[t].bytes), "%s %x: %Lg, %x",
                dtype_info[t].name, i, x, back);
    }
  }
}

/* Values from the tables of ONNX's notes on float8 and float4. */
Test(dense, narrow_floats)
{
  static const struct {
    DType t;
    int code;
    double value;
  } known[] = {
      {DT_F8E4M3FN, 0x7e, 448},
      {DT_F8E4M3FN, 0x08, 0x1p-6},
      {DT_F8E4M3FN, 0x01, 0x1p-9},
      {DT_F8E4M3FN, 0x80, -0.0},
      {DT_F8E4M3FN, 0x7f, NAN},
      {DT_F8E4M3FN, 0xff, NAN},
      {DT_F8E4M3FNUZ, 0x7f, 240},
      {DT_F8E4M3FNUZ, 0x08, 0x1p-7},
      {DT_F8E4M3FNUZ, 0x01, 0x1p-10},
      {DT_F8E4M3FNUZ, 0x80, NAN},
      {DT_F8E4M3FNUZ, 0xff, -240},
      {DT_F8E5M2, 0x7b, 57344},
      {DT_F8E5M2, 0x7c, INFINITY},
      {DT_F8E5M2, 0xfc, -INFINITY},
      {DT_F8E5M2, 0x7d, NAN},
      {DT_F8E5M2, 0x04, 0x1p-14},
      {DT_F8E5M2, 0x01, 0x1p-16},
      {DT_F8E5M2FNUZ, 0x7f, 57344},
      {DT_F8E5M2FNUZ, 0x04, 0x1p-15},
      {DT_F8E5M2FNUZ, 0x01, 0x1p-17},
      {DT_F8E5M2FNUZ, 0x80, NAN},
      {DT_F8E8M0, 127, 1},
      {DT_F8E8M0, 0, 0x1p-127},
      {DT_F8E8M0, 254, 0x1p127},
      {DT_F8E8M0, 255, NAN},
      {DT_F4E2M1, 1, 0.5},
      {DT_F4E2M1, 7, 6},
      {DT_F4E2M1, 15, -6},
      {DT_F4E2M1, 8, -0.0},
      {DT_BF16, 0x3f80, 1},
      {DT_BF16, 0x7f80, INFINITY},
      {DT_BF16, 1, 0x1p-133},
      {DT_F16, 1, 0x1p-24},
      {DT_F16, 0x7bff, 65504},
  };

  for (size_t i = 0; i < COUNT(known); i++) {
    uint16_t code = (uint16_t)known[i].code;
    double got = (double)dtype_get(known[i].t, &code);
    cr_expect(isnan(known[i].value) ? isnan(got) : !memcmp(&got, &known[i].value, sizeof got), "%s %x: %g",
              dtype_info[known[i].t].name, known[i].code, got);
  }
}

static int stored(DType t, long double x, bool saturate)
{
  uint16_t code = 0;
  dtype_put(t, &code, x, saturate);
  return code;
}

/* Ties go to even codes; beyond the range `saturate` decides. */
Test(dense, rounding)
{
  static const struct {
    DType t;
    double x;
    int saturated, not;
  } cases[] = {
      {DT_F8E4M3FN, 0, 0, 0},
      {DT_F8E4M3FN, 464, 0x7e, 0x7e}, /* half way to 480: to even */
      {DT_F8E4M3FN, 465, 0x7e, 0x7f},
      {DT_F8E4M3FN, -1e30, 0xfe, 0xff},
      {DT_F8E4M3FN, INFINITY, 0x7e, 0x7f},
      {DT_F8E4M3FN, 1.0625, 0x38, 0x38}, /* between 1 and 1.125 */
      {DT_F8E4M3FN, 1.1875, 0x3a, 0x3a},
      {DT_F8E4M3FN, 0x1p-10, 0, 0}, /* half of the smallest */
      {DT_F8E4M3FN, -0x1.8p-10, 0x81, 0x81},
      {DT_F8E4M3FNUZ, -0.0, 0, 0},
      {DT_F8E4M3FNUZ, -1e-9, 0, 0},
      {DT_F8E4M3FNUZ, 1e9, 0x7f, 0x80},
      {DT_F8E5M2, 61439, 0x7b, 0x7b},
      {DT_F8E5M2, 61440, 0x7b, 0x7c},
      {DT_F8E5M2, -INFINITY, 0xfb, 0xfc},
      {DT_F8E5M2FNUZ, -INFINITY, 0xff, 0x80},
      {DT_F4E2M1, 100, 7, 7},
      {DT_F4E2M1, 0.25, 0, 0},
      {DT_F4E2M1, 2.5, 4, 4},
      {DT_F4E2M1, 5, 6, 6},
      {DT_F4E2M1, -0.75, 10, 10},
      {DT_F8E8M0, 1, 127, 127},
      {DT_F8E8M0, 1.01, 128, 128}, /* upward */
      {DT_F8E8M0, INFINITY, 254, 255},
      {DT_F16, 65519.99, 0x7bff, 0x7bff},
      {DT_F16, 65520, 0x7c00, 0x7c00},
      {DT_F16, 0x1p-25, 0, 0},
      {DT_F16, 1 + 0x1p-11, 0x3c00, 0x3c00},
      {DT_F16, 1 + 0x1p-11 + 0x1p-40, 0x3c01, 0x3c01}, /* through float it would be a tie */
      {DT_BF16, 1 + 0x1p-8, 0x3f80, 0x3f80},
      {DT_BF16, 1 + 0x1.8p-7, 0x3f82, 0x3f82},
      {DT_BF16, 1e39, 0x7f80, 0x7f80},
  };

  for (size_t i = 0; i < COUNT(cases); i++) {
    cr_expect_eq(stored(cases[i].t, (long double)cases[i].x, true), cases[i].saturated, "%s %g saturated: %x",
                 dtype_info[cases[i].t].name, cases[i].x, stored(cases[i].t, (long double)cases[i].x, true));
    cr_expect_eq(stored(cases[i].t, (long double)cases[i].x, false), cases[i].not, "%s %g: %x",
                 dtype_info[cases[i].t].name, cases[i].x, stored(cases[i].t, (long double)cases[i].x, false));
  }
}

Test(dense, integers)
{
  uint64_t u = 0;
  int64_t i = 0;

  dtype_put(DT_U64, &u, 18446744073709551615.0L, true);
  cr_expect_eq(u, UINT64_MAX);
  cr_expect(dtype_get(DT_U64, &u) == 18446744073709551615.0L);
  dtype_put(DT_U64, &u, 1e30L, true);
  cr_expect_eq(u, UINT64_MAX);
  dtype_put(DT_U64, &u, -1, true);
  cr_expect_eq(u, 0);
  dtype_put(DT_I64, &i, 1e30L, true);
  cr_expect_eq(i, INT64_MAX);
  dtype_put(DT_I64, &i, -1e30L, true);
  cr_expect_eq(i, INT64_MIN);
  dtype_put(DT_I64, &i, (long double)NAN, true);
  cr_expect_eq(i, 0);
}
