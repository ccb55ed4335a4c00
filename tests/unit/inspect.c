/* inspect.c - `micc inspect`: what it prints, as text and as JSON, and its exit codes. */
#include "driver/inspect.c" /* the driver is a program, not a library */
#include "driver/inspect_onnx.c"
#include "driver/inspect_text.c"
#include "tests/unit/gguf_tools.h"
#include "tests/unit/support/onnx_tools.h"

#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <unistd.h>

static const char *sample_path(void)
{
  static const char in_tree[] = MICC_SOURCE_DIR "/tests/data/stories260K.gguf";
  return access(in_tree, R_OK) ? MICC_SHARED_DIR "/models/llm-stories260k/stories260K.gguf" : in_tree;
}

/* A file with one value of each awkward kind. */
static const char odd_file[] =
    "'GGUF' 4:3 8:1 8:11 \"general.architecture\" 4:8 \"toy\" \"toy.layers\" 4:4 4:2 "
    "\"toyish\" 4:4 4:1 "
    "\"general.license\" 4:8 \"MIT\" \"general.license.link\" 4:8 \"https://example.org\" "
    "\"controls\" 4:8 8:10 x:1b5b6d0a09005c22c29b "
    "\"broken\" 4:8 8:3 x:61ff62 \"hidden\" 4:8 8:7 x:e280aef3a08081 "
    "\"big\" 4:10 8:0xffffffffffffffff \"odd\" 4:9 4:6 8:4 x:0000c07f x:0000807f x:cdcccc3d x:00000080 "
    "\"many\" 4:9 4:0 8:6 x:010203040506 "
    "8:9 x:746f6be280ae7b7d2e 4:2 8:2 8:3 4:1 8:0 pad:32 0*12";

static Inspect run(const char *path, InspectOptions o)
{
  Inspect x = {0};
  Err e = {0};

  o.path = path;
  cr_assert(inspect(&x, &o, &e), "%s", e.text);
  return x;
}

static void done(Inspect *x)
{
  model_close(x->m);
  onnx_close(x->onnx);
  arena_free(&x->arena);
}

static Inspect run_bytes(const Text *t, InspectOptions o)
{
  char path[] = "/tmp/micc-inspect-XXXXXX";
  int fd = mkstemp(path);

  cr_assert(fd >= 0 && write(fd, t->data, t->len) == (ssize_t)t->len);
  close(fd);
  Inspect x = run(path, o);
  unlink(path);
  return x;
}

static Inspect run_odd(InspectOptions o)
{
  Arena a = {0};
  Text t = {.arena = &a};

  gguf_text(&t, odd_file);
  Inspect x = run_bytes(&t, o);
  arena_free(&a);
  return x;
}

/* A model with one of each: types, free dimensions, subgraphs, functions, external data, odd texts. */
static const char onnx_file[] =
    "1:8 2'maker' 3'2.0' 5:3 6'what it does' 8{ 2:17 } 8{ 1'com.microsoft' 2:1 } "
    "14{ 1'model_license' 2'MIT' } 14{ 1'author' 2x611b5b6dff } "
    "25{ 1'F' 10'mine' 4'a' 5'b' 7{ 4'Elu' 1'a' 2'b' } } "
    "7{ 2'net' 1{ 4'Relu' 1'x' 2'y' } 1{ 4'Relu' 1'y' 2'z' } 1{ 4'Gelu' 7'com.microsoft' 1'z' 2'u' } "
    "1{ 4'If' 1'c' 2'v' 5{ 1'then_branch' 6{ 1{ 4'Constant' 2'k' 5{ 1'value' 5{ 1[2 2] 2:7 7[1 2 3 4] } 20:4 "
    "} } } "
    "20:5 } } 11{ 1'x' 2{ 1{ 1:1 2{ 1{ 2'batch' } 1{ } 1{ 1:3 } } } } } 11{ 1'w' 2{ 1{ 1:10 } } } "
    "11{ 1'c' 2{ 4{ 1{ 1{ 1:9 2{ } } } } } } 12{ 1'v' } "
    "5{ 8'w' 1[3 5] 2:10 14:1 13{ 1'location' 2'w.bin' } } }";

static Inspect run_onnx(InspectOptions o)
{
  Arena a = {0};
  Text t = {.arena = &a};

  onnx_text(&t, onnx_file);
  Inspect x = run_bytes(&t, o);
  arena_free(&a);
  return x;
}

static void expect_lines(const Inspect *x, const char *const *want, size_t n)
{
  for (size_t i = 0; i < n; i++)
    cr_expect(strstr(x->out.data, want[i]), "missing: %s", want[i]);
}

Test(inspect, sample_text)
{
  static const char *const want[] = {
      "\nsize           1,185,376 bytes\n",
      "\nformat         GGUF v3, alignment 32, tensor data from 0x3760\n",
      "\nsha256         270cba1bd5109f42d03350f60406024560464db173c0e387d91f0426d3bd256d\n",
      "\narchitecture   llama\n",
      "\nlicence        the file states none\n",
      "\nchat template  none\n",
      "\nparameters     292,800 in 48 tensors\n",
      "\n  embedding_length                            64\n",
      "\n  f32            48 tensors             1,171,200 bytes\n",
      " string[512]    [512 items: \"<unk>\", \"<s>\", \"</s>\", \"<0x00>\", ...]\n",
      " f32            1e-05\n",
      "\n  blk.4.ffn_norm.weight           f32    [64]                              256  0x121560\n",
  };
  Inspect x = run(sample_path(), (InspectOptions){0});
  expect_lines(&x, want, COUNT(want));
  done(&x);
}

Test(inspect, odd_text)
{
  static const char *const want[] = {
      "\nlicence        MIT\nlicence link   https://example.org\n",
      "\nhyper-parameters\n  layers                                      2\n\n",
      "\"\\u001b[m\\n\\t\\u0000\\\\\\\"\\u009b\"\n",
      "\"a\357\277\275b\"\n",
      "\"\\u202e\\udb40\\udc01\"\n",
      " 18446744073709551615\n",
      " [nan, inf, 0.1, -0]\n",
      " u8[6]          [6 items: 1, 2, 3, 4, ...]\n",
      "\n  tok\\u202e{}.                    f16    [3][2]                             12  0x",
  };
  Inspect x = run_odd((InspectOptions){0});
  expect_lines(&x, want, COUNT(want));
  done(&x);
}

Test(inspect, tensors_only)
{
  Inspect x = run(sample_path(), (InspectOptions){.tensors = true});
  cr_expect(!strncmp(x.out.data, "tensors, 48\n", 12));
  done(&x);
  x = run(sample_path(), (InspectOptions){.tensors = true, .json = true});
  cJSON *j = cJSON_Parse(x.out.data);
  cr_assert(j);
  cr_expect_eq(cJSON_GetArraySize(j), 1);
  cr_expect_eq(cJSON_GetArraySize(cJSON_GetObjectItem(j, "tensors")), 48);
  cJSON_Delete(j);
  done(&x);
}

static const cJSON *at(const cJSON *j, const char *key)
{
  const cJSON *v = cJSON_GetObjectItemCaseSensitive(j, key);
  cr_assert(v, "no member '%s'", key);
  return v;
}

Test(inspect, sample_json)
{
  Inspect x = run(sample_path(), (InspectOptions){.json = true});
  cJSON *j = cJSON_Parse(x.out.data);
  cr_assert(j);
  cr_expect_str_eq(at(j, "file")->valuestring, sample_path());
  cr_expect_eq(at(j, "size_bytes")->valuedouble, 1185376);
  cr_expect_str_eq(at(j, "format")->valuestring, "GGUF v3");
  cr_expect(cJSON_IsNull(at(j, "license")));
  cr_expect(cJSON_IsFalse(at(j, "chat_template")) && cJSON_IsString(at(j, "tokenizer")));
  cr_expect_eq(at(at(j, "hyper_parameters"), "block_count")->valuedouble, 5);
  cr_expect_eq(cJSON_GetArraySize(at(j, "tensors")), 48);
  cr_expect_eq(at(j, "parameters")->valuedouble, 292800);
  const cJSON *tokens = at(at(j, "metadata"), "tokenizer.ggml.tokens");
  cr_expect_str_eq(at(tokens, "type")->valuestring, "string[512]");
  cr_expect_eq(cJSON_GetArraySize(at(tokens, "value")), 512);
  cJSON_Delete(j);
  done(&x);
}

Test(inspect, odd_json)
{
  Inspect x = run_odd((InspectOptions){.json = true});
  cr_expect(strstr(x.out.data, "18446744073709551615"));
  cr_expect(strstr(x.out.data, "[null, null, 0.1, -0]"));
  cr_expect(strstr(x.out.data, "[1, 2, 3, 4, 5, 6]"));
  cr_expect(strstr(x.out.data, "\"\\u001b[m\\n\\t\\u0000\\\\\\\"\\u009b\""));
  cJSON *j = cJSON_Parse(x.out.data);
  cr_assert(j);
  cr_expect_str_eq(at(at(j, "license"), "id")->valuestring, "MIT");
  cr_expect(cJSON_IsNull(at(at(j, "license"), "name")));
  cr_expect_str_eq(cJSON_GetArrayItem(at(j, "tensors"), 0)->child->valuestring, "tok\342\200\256{}.");
  cJSON_Delete(j);
  done(&x);
}

Test(inspect, onnx_text)
{
  static const char *const want[] = {
      "\nformat         ONNX, IR version 8\n",
      "\nopset          17, com.microsoft 1\n",
      "\nproducer       maker\n               2.0\n",
      "\nmodel version  3\ngraph          net\ndescription    what it does\nlicence        MIT\n",
      "\nexternal data  /tmp/w.bin\n",
      "\nparameters     19 in 2 tensors\n",
      "\ninputs\n  x                       float[batch,?,3]\n  c                       sequence(bool[])\n\n",
      "\noutputs\n  v                       unknown\n",
      "\noperators, 5 in 6 nodes\n  Relu                                     2\n  Constant ",
      "\n  com.microsoft.Gelu                       1\n",
      "\nfunctions, 1\n  mine.F                                   1 node\n",
      "\n  int64                 1 tensor                     32 bytes\n  float16               1 tensor  ",
      "\n  author                          \"a\\u001b[m\357\277\275\"\n",
      "\n  k                                       int64          [2,2]                              32  0x",
  };
  Inspect x = run_onnx((InspectOptions){0});
  expect_lines(&x, want, COUNT(want));
  done(&x);
}

Test(inspect, onnx_json)
{
  Inspect x = run_onnx((InspectOptions){.json = true});
  cJSON *j = cJSON_Parse(x.out.data);
  cr_assert(j);
  cr_expect_str_eq(at(j, "format")->valuestring, "ONNX");
  cr_expect_str_eq(at(at(j, "license"), "model_license")->valuestring, "MIT");
  cr_expect(cJSON_GetArraySize(at(j, "inputs")) == 2 && cJSON_GetArraySize(at(j, "operators")) == 5);
  const cJSON *shape = at(at(j, "inputs")->child, "shape");
  cr_expect_str_eq(shape->child->valuestring, "batch");
  cr_expect(cJSON_IsNull(shape->child->next) && shape->child->next->next->valueint == 3);
  cr_expect_str_eq(at(at(j, "inputs")->child->next, "type")->valuestring, "sequence(bool[])");
  cr_expect(cJSON_IsNull(at(at(j, "outputs")->child, "shape")));
  cr_expect_eq(cJSON_GetArraySize(at(j, "metadata")), 2);
  cr_expect_eq(strlen(at(j, "sha256")->valuestring), 64);
  cJSON_Delete(j);
  done(&x);
}

Test(inspect, onnx_tensors)
{
  Inspect x = run_onnx((InspectOptions){.tensors = true});
  cr_expect(!strncmp(x.out.data, "tensors, 2\n", 11), "%s", x.out.data);
  done(&x);
}

Test(inspect, exit_codes)
{
  static const struct {
    int code;
    const char *argv[4];
  } calls[] = {
      {2, {"inspect"}},
      {2, {"inspect", "a", "b"}},
      {2, {"inspect", "--nonsense", "a"}},
      {2, {"inspect", "-z"}},
      {1, {"inspect", "/nonexistent.gguf"}},
      {1, {"inspect", "--json", "/"}},
      {0, {"inspect", "--help"}},
  };
  cr_redirect_stdout();
  cr_redirect_stderr();
  for (size_t i = 0; i < COUNT(calls); i++) {
    char *argv[5] = {0};
    int n = 0;
    for (; n < 4 && calls[i].argv[n]; n++)
      argv[n] = (char *)(uintptr_t)calls[i].argv[n];
    cr_expect_eq(cmd_inspect(n, argv), calls[i].code, "call %zu", i);
  }
}

Test(inspect, error_line)
{
  char *argv[] = {(char[]){"inspect"}, (char[]){"/nonexistent.gguf"}, NULL};

  cr_redirect_stdout();
  cr_redirect_stderr();
  cmd_inspect(2, argv);
  fflush(stderr);
  cr_assert_stderr_eq_str("micc: /nonexistent.gguf: cannot be opened: No such file or directory\n");
}
