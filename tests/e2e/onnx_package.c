/* onnx_package.c - the program that micc makes of an ONNX model: what it reads, writes, tells and refuses.
 *
 *   e2e_onnx_package --write     writes tests/data/tiny.onnx */
#define _GNU_SOURCE
#include "tests/e2e/support/tiny_scene.h"

#include <math.h>
#include <unistd.h>

enum { SIZE_LIMIT = 300 * 1000 };

static bool write_model(void)
{
  Text t = {.arena = &tiny.arena};

  tiny_model(&t);
  return scene_write(TINY_PATH, t.data, t.len, 0644);
}

/* ---- inputs in all their forms */

static void write_inputs(void)
{
  double wide[TINY_IMAGE];
  float columns[TINY_IMAGE];
  char *p;
  size_t n;

  tiny_write("image.raw", MI_ELEM_F32, tiny.in.image, "1,2,8,8");
  tiny_write("image.json", MI_ELEM_F32, tiny.in.image, "1,2,8,8");
  tiny_write("flat.json", MI_ELEM_F32, tiny.in.image, "128");
  tiny_write("square.npy", MI_ELEM_F32, tiny.in.image, "2,8,8");
  tiny_write("turned.npy", MI_ELEM_F32, tiny.in.image, "1,8,8,2");
  tiny_write("turned.json", MI_ELEM_F32, tiny.in.image, "1,8,8,2");
  for (int i = 0; i < TINY_IMAGE; i++)
    wide[i] = (double)tiny.in.image[i];
  tiny_write("wide.npy", MI_ELEM_F64, wide, "1,2,8,8");
  for (int i = 0; i < TINY_IMAGE; i++) /* the first dimension fastest */
    columns[i / 64 + i / 8 % 8 * 2 + i % 8 * 16] = tiny.in.image[i];
  tiny_write("fortran.npy", MI_ELEM_F32, columns, "1,2,8,8");
  Bytes b;
  if (scene_read(&tiny.arena, tiny_at("fortran.npy"), &b) && (p = memmem(b.data, 128, "False,", n = 6)))
    memcpy(p, "True, ", n), scene_write(tiny_at("fortran.npy"), b.data, b.len, 0644);
}

/* ---- the program */

static void test_program(void)
{
  Proc p = TINY_RUN(MICC_EXE, "tiny.onnx", "--shape=N=1");

  if (!tiny_succeeds(&p, "micc tiny.onnx --shape=N=1 writes a program"))
    return;
  p = TINY_RUN(MICC_EXE, "tiny.onnx", "--shape=N=1", "-o", "again");
  tally(!p.status && scene_same(tiny_at("tiny"), tiny_at("again")), "the same bytes twice");
  long long size = scene_size(tiny_at("tiny"));
  tally(size > 0 && size < SIZE_LIMIT, "%lld bytes", size);
  p = TINY_RUN("ldd", "tiny");
  tally(strstr(p.err, "not a dynamic executable") || strstr(p.out, "statically"), "it is static");

  static const char *const empty[] = {NULL};
  const char *place = scene_open(&tiny.arena);
  TINY_RUN("cp", "tiny", "image.npy", "class.npy", place);
  p = proc(&tiny.arena, HOW(.dir = place, .env = empty), "./tiny", "image.npy", "class.npy", "-o", "out/");
  tiny_succeeds(&p, "it runs in a folder of its own, in an empty environment");
  TINY_RUN("cp", "-r", arena_printf(&tiny.arena, "%s/out", place), "lone");
  tally(tiny_folder_agrees("lone"), "and computes what the definitions say");
  tally(!strcmp(scene_names(&tiny.arena, place), "class.npy image.npy out tiny"),
        "and leaves nothing else behind");
  scene_close(place);
}

static const char *const givings[] = {
    "image.npy class.npy",     "class=class.npy image.npy", "class=class.npy image:0=image.npy",
    "image.raw class.npy",     "image.json class.npy",      "flat.json class.npy",
    "square.npy class.npy",    "wide.npy class.npy",        "fortran.npy class.npy",
    "- class.npy < image.npy", "- class.npy < image.json",  "image:0=- class.npy < image.raw",
    "-- image.npy class.npy",  "-t1 image.npy class.npy",   "--threads=3 image.npy class.npy",
};

static void test_givings(void)
{
  for (size_t i = 0; i < COUNT(givings); i++) {
    const char *out = arena_printf(&tiny.arena, "given%zu/", i),
               *command = arena_printf(&tiny.arena, "./tiny -o %s %s", out, givings[i]);
    Proc p = TINY_RUN("sh", "-c", command);
    if (!tally(!p.status && !p.err_len && tiny_folder_agrees(out), "%s", command))
      tiny_show(&p);
  }
}

/* What is wrong, the exit status, and what must be said of it. */
static const struct {
  const char *command;
  int status;
  const char *says;
} faults[] = {
    {"./tiny", 2, "input image:0 is not given"},
    {"./tiny image.npy", 2, "input class is not given"},
    {"./tiny image.npy class.npy class.npy", 2, "there is no further input"},
    {"./tiny image:0=image.npy image:0=image.npy", 2, "input image:0 is given twice"},
    {"./tiny other=image.npy class.npy", 2, "'other=image.npy': no input has that name"},
    {"./tiny - - < image.npy", 2, "standard input can be read for one input only"},
    {"./tiny none.npy class.npy", 1, "input image:0: cannot read none.npy: No such file"},
    {"./tiny . class.npy", 1, "cannot read .: Is a directory"},
    {"./tiny class.npy image.npy", 1, "its shape is [4,1,1], and f32[1,2,8,8] is needed"},
    {"./tiny turned.npy class.npy", 1, "its shape is [1,8,8,2], and f32[1,2,8,8] is needed"},
    {"./tiny turned.json class.npy", 1, "its shape is [1,8,8,2], and f32[1,2,8,8] is needed"},
    {"head -c 500 image.raw | ./tiny - class.npy", 1, "it has 500 bytes, and f32[1,2,8,8] (512 bytes)"},
    {"./tiny - class.npy < /dev/zero", 1, "cannot read standard input: File too large"},
    {"echo '[1, 2, x]' > bad.json; ./tiny bad.json class.npy", 1, "bad.json: its 'x' is not a number"},
    {"./tiny --speed image.npy class.npy", 2, "unknown option --speed"},
    {"./tiny -z image.npy class.npy", 2, "unknown option -z"},
    {"./tiny image.npy class.npy -o", 2, "-o needs a value: FILE"},
    {"./tiny image.npy class.npy -o ''", 2, "the name is empty"},
    {"./tiny image.npy class.npy -t 0", 2, "'0' is not a number from 1 to"},
    {"./tiny --bench=0", 2, "'0' is not a number of runs"},
    {"./tiny --bench=1 -o x.npy", 2, "--bench writes no outputs"},
    {"./tiny --about=1", 2, "--about takes no value"},
    {"./tiny image.npy class.npy -o x.npy", 2, "there are 4 outputs: -o needs a folder"},
    {"./tiny image.npy class.npy -o none/none/", 1, "cannot create none/none/: No such file"},
    {"./tiny image.npy class.npy -o image.npy/", 1, "Not a directory"},
    {"./tiny image.npy class.npy > /dev/full", 1, "cannot write the outputs: No space left"},
    {"./tiny --help > /dev/full", 1, "cannot write: No space left"},
    {MICC_EXE " run tiny.onnx --shape=N=1 image.npy", 2, "input class is not given"},
    {MICC_EXE " run tiny.onnx --shape=N=1 --emit=c", 2, "run writes nothing"},
    {MICC_EXE " run --oracle tiny.onnx", 2, "micc verify"},
    {MICC_EXE " tiny.onnx --shape=N=1 --kv=f16", 1, "--kv is for language models"},
    {MICC_EXE " tiny.onnx --shape=N=1 -c 100", 1, "--context is for language models"},
    {MICC_EXE " tiny.onnx --shape=M=1", 1, "--shape M: the model has no such input"},
    {MICC_EXE " tiny.onnx --shape=N=1 --fix=foo=1", 1, "--fix foo: the model has no such input"},
    {MICC_EXE " tiny.onnx --shape=class=4x1x2", 1, "--shape class: the model has 4x1x1"},
    {MICC_EXE " tiny.onnx --shape=N=1 --emit=lib -o -", 1, "cannot go to standard output"},
    {MICC_EXE " tiny.onnx --shape=N=1 --emit=lib -o none/x.a", 1, "none/x.a: cannot write: No such file"},
    {MICC_EXE " tiny.onnx --shape=N=1 --emit=lib -o /dev/null", 1, "is no file"},
    {MICC_EXE " tiny.onnx --shape=N=1 --emit=c -o x.h", 1, "would be both the library and its header"},
    {MICC_EXE " tiny.onnx --shape=N=1 --emit=so --cpu=x86-64-v2,x86-64-v3", 1, "for one level"},
    {"cp tiny.onnx m.h; " MICC_EXE " m.h --shape=N=1 --emit=lib -o m.a", 1, "m.h: is the model file"},
    {MICC_EXE " tiny.onnx --shape=N=1 -o tiny.onnx", 1, "is the model file"},
    {MICC_EXE " verify " MICC_SOURCE_DIR "/tests/data/stories260K.gguf --case .", 1,
     "is a GGUF file; verify"},
    {MICC_EXE " verify tiny.onnx", 2, "verify takes a model and a folder"},
    {MICC_EXE " verify tiny.onnx --case none", 1, "none: has no input_0.npy"},
    {MICC_EXE " verify tiny.onnx --case none --rtol=-1", 2, "not a tolerance"},
};

static void test_faults(void)
{
  const char *names = scene_names(&tiny.arena, tiny.dir);

  for (size_t i = 0; i < COUNT(faults); i++) {
    Proc p = TINY_RUN("sh", "-c", faults[i].command);
    if (!tally(p.status == faults[i].status && strstr(p.err, faults[i].says), "%s: %s",
               strstr(faults[i].command, MICC_EXE) == faults[i].command
                   ? arena_printf(&tiny.arena, "micc%s", faults[i].command + strlen(MICC_EXE))
                   : faults[i].command,
               faults[i].says))
      tiny_show(&p);
    else if (proc_lines(p.err) > 2) /* ONNX programs say in a line of their own what --shape took */
      tally(false, "that is %zu lines: %s", proc_lines(p.err), p.err);
  }
  TINY_RUN("rm", "-f", "m.h", "bad.json");
  tally(!strcmp(scene_names(&tiny.arena, tiny.dir), names), "none of them leaves a file");
}

static void test_outputs(void)
{
  Proc p = TINY_RUN("./tiny", "image.npy", "class.npy");
  TinyOut got;
  Bytes b;

  tally(!p.status && !strncmp(p.out, "{\"scores/a\": [[", 15) && strstr(p.out, ",\n\"scores_a\": [") &&
            strstr(p.out, ",\n\"int\": [[[[") && p.out[p.out_len - 2] == '}',
        "without -o, outputs are JSON with their names");
  scene_write(tiny_at("scores.json"), p.out + 13, (size_t)(strchr(p.out, '\n') - p.out - 14), 0644);
  tally(tiny_read("scores.json", MI_ELEM_F32, got.scores, "1,5") &&
            fabsf(got.scores[0] - tiny.want.scores[0]) < 1e-5f,
        "that can be read again");
  p = TINY_RUN(MICC_EXE, "run", "-o", "inrun/", "tiny.onnx", "--shape=N=1", "image.npy", "class.npy");
  if (!tally(!p.status && tiny_folder_agrees("inrun"), "micc run computes the same"))
    tiny_show(&p);
  p = TINY_RUN(MICC_EXE, "run", "--backend=tcc", "tiny.onnx", "--shape=N=1", "image.npy", "class.npy", "-o",
               "intcc/");
  if (!tally(!p.status && tiny_folder_agrees("intcc"), "with --backend=tcc too"))
    tiny_show(&p);
  p = TINY_RUN("./tiny", "image.npy", "class.npy", "-o", "given0");
  tally(!p.status && tiny_folder_agrees("given0"), "a folder that is there is written to");
  p = TINY_RUN("sh", "-c", "ulimit -f 0; ./tiny image.npy class.npy -o full/");
  tally(p.status && !*scene_names(&tiny.arena, tiny_at("full")),
        "a disk that is full leaves no part of a file");
  if (scene_read(&tiny.arena, tiny_at("given0/int.npy"), &b))
    tally(!memcmp(b.data, "\x93NUMPY\1\0", 8) && b.len == 128 + TINY_INT &&
              strstr(b.data + 10, "{'descr': '|u1', 'fortran_order': False, 'shape': (1, 4, 4, 4), }"),
          "a .npy file as numpy writes it");
}

static void test_told(void)
{
  Proc p = TINY_RUN("./tiny", "--help");

  tally(!p.status && strstr(p.out, "usage: tiny [options] INPUT... [-o FILE]") &&
            strstr(p.out, "--bench[=N]") && strstr(p.out, "input  image:0 f32[1,2,8,8]\n") &&
            strstr(p.out, "output scores_a i64[1]\n"),
        "--help tells options, inputs and outputs");
  p = TINY_RUN("./tiny", "--about");
  tally(!p.status && strstr(p.out, "source: tiny.onnx\n") && strstr(p.out, "source sha256: ") &&
            strstr(p.out, "license: Apache-2.0 WITH LLVM-exception\n") && strstr(p.out, "opset 17\n"),
        "--about tells the source, its hash, its licence");
  p = TINY_RUN("./tiny", "--bench=7");
  tally(!p.status && !strncmp(p.out, "7 runs, ", 8) && proc_lines(p.out) == 1, "--bench=7: %s", p.out);
  p = TINY_RUN("./tiny", "--bench=3", "--profile");
  const char *all = strstr(p.err, "  all "), *table = strstr(p.err, "run  ");
  tally(!p.status && table && !strstr(table + 1, "run  ") && all && !strstr(all + 1, "  all "),
        "--profile prints one table");
  p = TINY_RUN(MICC_EXE, "run", "tiny.onnx", "--shape=N=1", "--help");
  tally(!p.status && strstr(p.out, "input  class f32[4,1,1]\n"), "micc run tiny.onnx --help");
}

int main(int argc, char **argv)
{
  if (argc == 2 && !strcmp(argv[1], "--write"))
    return !write_model();
  if (!MICC_HAVE_LLVM) {
    tally_skip("micc was built without LLVM, so it makes no programs");
    return tally_end();
  }
  if (tiny_open()) {
    write_inputs();
    test_program();
    test_givings();
    test_faults();
    test_outputs();
    test_told();
  }
  return tiny_close();
}
