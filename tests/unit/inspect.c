/* inspect.c - `micc inspect`: what it prints, as text and as JSON, and its exit codes. */
#include "driver/inspect.c" /* the driver is a program, not a library */
#include "tests/unit/gguf_tools.h"

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

static Inspect run(const char *path, Options o)
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
  arena_free(&x->arena);
}

static Inspect run_odd(Options o)
{
  char path[] = "/tmp/micc-inspect-XXXXXX";
  Arena a = {0};
  Text t = {.arena = &a};
  int fd = mkstemp(path);

  gguf_text(&t, odd_file);
  cr_assert(fd >= 0 && write(fd, t.data, t.len) == (ssize_t)t.len);
  close(fd);
  Inspect x = run(path, o);
  unlink(path);
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
  Inspect x = run(sample_path(), (Options){0});
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
  Inspect x = run_odd((Options){0});
  expect_lines(&x, want, COUNT(want));
  done(&x);
}

Test(inspect, tensors_only)
{
  Inspect x = run(sample_path(), (Options){.tensors = true});
  cr_expect(!strncmp(x.out.data, "tensors, 48\n", 12));
  done(&x);
  x = run(sample_path(), (Options){.tensors = true, .json = true});
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
  Inspect x = run(sample_path(), (Options){.json = true});
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
  Inspect x = run_odd((Options){.json = true});
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
