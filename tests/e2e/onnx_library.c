/* onnx_library.c - the libraries that micc makes of an ONNX model: static, shared, an object, C source; linked by a C99
 * program (tests/data/client.c), with every C compiler that is here, with sanitizers, two in one program. */
#define _GNU_SOURCE
#include "tests/e2e/support/tiny_scene.h"

#include <sys/stat.h>
#include <unistd.h>

enum { SIZE_LIMIT = 300 * 1000 };

static const struct {
  const char *emit, *output, *files, *link; /* link: what the client's compiler gets */
} kinds[] = {
    {"lib", "lib/libtiny.a", "libtiny.a tiny.h", "lib/libtiny.a"},
    {"so", "so/libtiny.so", "libtiny.so tiny.h", "-Lso -ltiny -Wl,-rpath,$PWD/so"},
    {"obj", "obj/tiny.o", "tiny.h tiny.o", "obj/tiny.o"},
    {"c", "c/tiny.c", "tiny.c tiny.h", "c/tiny.c -lm"},
};

static bool client_agrees(const char *name)
{
  Bytes b;
  TinyOut got;

  if (!scene_read(&tiny.arena, tiny_at(name), &b) || b.len != 4 * TINY_SCORES + 8 + 5 * TINY_INT)
    return false;
  memcpy(got.scores, b.data, sizeof got.scores);
  memcpy(&got.best, b.data + sizeof got.scores, 8);
  memcpy(got.quantised, b.data + sizeof got.scores + 8, TINY_INT);
  memcpy(got.level, b.data + sizeof got.scores + 8 + TINY_INT, sizeof got.level);
  return tiny_agrees(&got, &tiny.want);
}

static void run_client(const char *what, const char *command)
{
  unlink(tiny_at("client.out"));
  Proc p = TINY_RUN("sh", "-c",
                    arena_printf(&tiny.arena, "%s -o client && ./client inputs.raw client.out", command));

  if (!tally(!p.status && !p.err_len && client_agrees("client.out"), "%s", what))
    tiny_show(&p);
}

static void make_libraries(void)
{
  for (size_t k = 0; k < COUNT(kinds); k++) {
    const char *emit = arena_printf(&tiny.arena, "--emit=%s", kinds[k].emit);
    mkdir(tiny_at(kinds[k].emit), 0755);
    Proc p = TINY_RUN(MICC_EXE, "tiny.onnx", "--shape=N=1", emit, "-o", kinds[k].output);
    if (!tiny_succeeds(&p, arena_printf(&tiny.arena, "%s -o %s", emit, kinds[k].output)))
      continue;
    tally(!strcmp(scene_names(&tiny.arena, tiny_at(kinds[k].emit)), kinds[k].files), "the files are %s",
          kinds[k].files);
    const char *second = arena_printf(&tiny.arena, "again-%s", kinds[k].emit);
    mkdir(tiny_at(second), 0755);
    TINY_RUN(MICC_EXE, "tiny.onnx", "--shape=N=1", emit, "-o",
             arena_printf(&tiny.arena, "%s%s", second, strchr(kinds[k].output, '/')));
    p = TINY_RUN("diff", "-r", kinds[k].emit, second);
    tally(!p.status, "the same bytes twice");
    tally(scene_size(tiny_at(kinds[k].output)) < SIZE_LIMIT, "%lld bytes",
          scene_size(tiny_at(kinds[k].output)));
  }
}

static void test_clients(void)
{
  static const char flags[] = "-std=c99 -O2 -Wall -Wextra -Wpedantic -Werror";

  for (size_t k = 0; k < COUNT(kinds); k++)
    run_client(arena_printf(&tiny.arena, "a C99 program with --emit=%s: refusals, odd addresses, 4 threads",
                            kinds[k].emit),
               arena_printf(&tiny.arena, "gcc %s -I%s %s/tests/data/client.c %s -lpthread", flags,
                            kinds[k].emit, MICC_SOURCE_DIR, kinds[k].link));
  mkdir(tiny_at("two"), 0755);
  TINY_RUN(MICC_EXE, "tiny.onnx", "--shape=N=1", "--emit=lib", "-o", "two/libsecond.a");
  run_client("two models in one program",
             arena_printf(&tiny.arena,
                          "gcc -DSECOND %s -Ilib -Itwo %s/tests/data/client.c two/libsecond.a lib/libtiny.a "
                          "-lpthread",
                          flags, MICC_SOURCE_DIR));
  run_client("and as position-dependent code, linked statically",
             arena_printf(&tiny.arena,
                          "gcc -static -no-pie %s -Ilib %s/tests/data/client.c lib/libtiny.a -lpthread",
                          flags, MICC_SOURCE_DIR));
}

/* Warnings are errors, and nothing outside of the blocks may be touched. */
static void test_c(void)
{
  static const struct {
    const char *cc, *flags;
  } compilers[] = {
      {"gcc", "-std=c99 -O1 -Wall -Wextra -Wpedantic -Werror -fsanitize=address,undefined "
              "-fno-sanitize-recover=all"},
      {"gcc", "-std=c99 -O3 -march=native -Wall -Wextra -Wpedantic -Werror"},
      {"clang-19", "-std=c99 -O2 -Wall -Wextra -Wpedantic -Werror"},
      {"clang-19", "-std=c99 -O1 -Wall -Wextra -Werror -fsanitize=undefined -fno-sanitize-recover=all"},
      {"tcc", "-std=c99 -Wall -Werror"},
  };

  for (size_t i = 0; i < COUNT(compilers); i++)
    if (tiny_has(compilers[i].cc))
      run_client(arena_printf(&tiny.arena, "C source with %s %s", compilers[i].cc, compilers[i].flags),
                 arena_printf(&tiny.arena, "%s %s -Ic %s/tests/data/client.c c/tiny.c -lm -lpthread",
                              compilers[i].cc, compilers[i].flags, MICC_SOURCE_DIR));
}

static void test_header(void)
{
  static const char text[] =
      "#include \"tiny.h\"\n"
      "int main() { tiny_context c = tiny_context(); return tiny_run(&c) == -1 ? 0 : 1; }\n";
  Bytes b;

  scene_write(tiny_at("main.cc"), text, sizeof text - 1, 0644);
  if (tiny_has("g++")) {
    Proc p =
        TINY_RUN("sh", "-c",
                 "g++ -std=c++11 -Wall -Wextra -Wpedantic -Werror -Ilib main.cc lib/libtiny.a -o cc && ./cc");
    tiny_succeeds(&p, "the header in a C++ program");
  }
  if (!scene_read(&tiny.arena, tiny_at("lib/tiny.h"), &b))
    return;
  tally(strstr(b.data, "const float *image_0; /* [1][2][8][8] row-major; input \"image:0\" */\n") &&
            strstr(b.data, "const float *class_;") && strstr(b.data, "float *scores_a;") &&
            strstr(b.data, "int64_t *scores_a_2; /* [1] row-major; output \"scores_a\" */") &&
            strstr(b.data, "uint8_t *int_;"),
        "names become identifiers of C, each its own");
  tally(strstr(b.data, "float *scores_a; /* [1][5] from 0 to 1, row-major; output \"scores/a\" */") != NULL,
        "a range that is known is stated");
  tally(strstr(b.data, "#define TINY_ARENA_BYTES ") && strstr(b.data, "#define TINY_WEIGHT_BYTES ") &&
            strstr(b.data, " *   source: tiny.onnx\n") && strstr(b.data, " *   license: Apache-2.0"),
        "the header states memory and source");
}

/* Symbols that nm lists with one of these letters, sorted: "a b c". */
static const char *symbols(const char *options, const char *file, const char *letters)
{
  Proc p =
      TINY_RUN("sh", "-c",
               arena_printf(&tiny.arena, "nm %s %s | grep ' [%s] ' | sed 's/.* //' | sort -u | tr '\\n' ' '",
                            options, file, letters));
  return p.out;
}

/* Whether the words of a list are all among the allowed ones; both are alphabetical. */
static bool only(const char *list, const char *const *allowed)
{
  for (; *allowed; allowed++) {
    size_t n = strlen(*allowed);
    if (!strncmp(list, *allowed, n) && list[n] == ' ')
      list += n + 1;
  }
  return !*list;
}

static void test_symbols(void)
{
  static const char *const of_archive[] = {"memcpy", "memmove", "memset", "tiny_weights", NULL},
                           *const of_others[] = {"memcpy", "memmove", "memset", NULL};

  for (size_t k = 0; k < 3; k++) {
    bool shared = !strcmp(kinds[k].emit, "so"), archive = !strcmp(kinds[k].emit, "lib");
    const char *needs = symbols(shared ? "-D" : "", kinds[k].output, "U"),
               *has = symbols(shared ? "-D --defined-only" : "--defined-only", kinds[k].output, "A-Z");
    tally(only(needs, archive ? of_archive : of_others), "%s needs: %s", kinds[k].output, needs);
    tally(!strcmp(has, shared ? "tiny_run " : "tiny_run tiny_weights "), "and defines: %s", has);
    tally(!*symbols("", kinds[k].output, "bBdDC"), "and no data that can be written to");
  }
}

/* -o decides the prefix and where the header lies. */
static void test_names(void)
{
  static const struct {
    const char *output, *header, *function;
  } names[] = {{"names/libface.a", "names/face.h", "int face_run("},
               {"names/face.so", "names/face.h", "int face_run("},
               {"names/my-net.2.a", "names/my_net_2.h", "int my_net_2_run("},
               {"names/2net.a", "names/_2net.h", "int _2net_run("},
               {"names/lib.a", "names/lib.h", "int lib_run("}};

  mkdir(tiny_at("names"), 0755);
  for (size_t i = 0; i < COUNT(names); i++) {
    Bytes b;
    unlink(tiny_at(names[i].header));
    Proc p = TINY_RUN(MICC_EXE, "tiny.onnx", "--shape=N=1",
                      strstr(names[i].output, ".so") ? "--emit=so" : "--emit=lib", "-o", names[i].output);
    if (!tally(!p.status && scene_read(&tiny.arena, tiny_at(names[i].header), &b) &&
                   strstr(b.data, names[i].function),
               "-o %s: %s with %s", names[i].output, names[i].header, names[i].function))
      tiny_show(&p);
  }
  mkdir(tiny_at("plain"), 0755);
  Proc p =
      proc(&tiny.arena, HOW(.dir = tiny_at("plain")), MICC_EXE, "../tiny.onnx", "--shape=N=1", "--emit=lib");
  tally(!p.status && !strcmp(scene_names(&tiny.arena, tiny_at("plain")), "tiny.a tiny.h"),
        "without -o: tiny.a and tiny.h");
}

int main(void)
{
  if (!MICC_HAVE_LLVM) {
    tally_skip("micc was built without LLVM, so it makes no libraries");
    return tally_end();
  }
  if (tiny_open()) {
    make_libraries();
    test_clients();
    test_c();
    test_header();
    test_symbols();
    test_names();
  }
  return tiny_close();
}
