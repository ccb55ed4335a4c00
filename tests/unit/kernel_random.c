/* Random kernels: the text form and the C printer against the interpreter, bit by bit. C is compiled by
 * libtcc in memory, and by the compilers that this machine has, warnings being errors. */
#include "codegen/c.h"
#include "tests/unit/support/kernel_gen.h"

#include <criterion/criterion.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#if MICC_HAVE_TCC
#include "codegen/tcc.h"
#endif

enum { BATCH = 16 };

typedef void KernelFn(uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi);

static const char *print(const Kernel *k)
{
  Text t = {.arena = k->arena};
  kernel_print(k, &t);
  return t.data;
}

static KernelGen generate(Arena *a, uint64_t seed)
{
  Err e = {0};
  KernelGen g = kernel_gen(a, seed, KERNEL_GEN_ALL);
  cr_assert(kernel_verify(g.k, &e), "%s\n%s", e.text, print(g.k));
  return g;
}

static KernelGenMemory interpret(Arena *a, const KernelGen *g, const Kernel *k)
{
  KernelGenMemory m = kernel_gen_memory(a, g);
  Err e = {0};
  cr_assert(kernel_eval(k, m.buf, g->bytes, g->args, 0, g->grid, &e), "%s\n%s", e.text, print(k));
  return m;
}

/* The same text, and the same values. */
Test(kernel_random, text)
{
  bool seen[K_COUNT] = {0};

  for (uint64_t seed = 1; seed <= 300; seed++) {
    Arena a = {0};
    Err e = {0};
    KernelGen g = generate(&a, seed);
    const char *text = print(g.k);
    Kernel *k = kernel_parse(&a, text, "random", &e);
    cr_assert(k, "%s\n%s", e.text, text);
    cr_assert_str_eq(print(k), text);
    KernelGenMemory want = interpret(&a, &g, g.k), got = interpret(&a, &g, k);
    cr_expect(kernel_gen_same(&g, &want, &got, &e), "%s", e.text);
    for (KVal v = 1; v < k->nodes.len; v++)
      seen[kernel_node(k, v)->op] = true;
    arena_free(&a);
  }
  for (int op = K_none + 1; op < K_COUNT; op++)
    cr_expect(seen[op], "the generator makes no %s", kop_info[op].name);
}

/* Kernels first .. first + BATCH - 1 as one C file. */
static const char *print_batch(Arena *a, uint64_t first, KernelGen *g)
{
  const Kernel *k[BATCH];
  Text t = {.arena = a};
  Err e = {0};

  for (int i = 0; i < BATCH; i++) {
    g[i] = generate(a, first + (uint64_t)i);
    k[i] = g[i].k;
  }
  cr_assert(c_print_kernels(k, BATCH, &t, &e), "%s", e.text);
  return t.data;
}

static void run_batch(Arena *a, const KernelGen *g, KernelFn *const *kernels, const char *who)
{
  for (int i = 0; i < BATCH; i++) {
    KernelGenMemory want = interpret(a, &g[i], g[i].k), got = kernel_gen_memory(a, &g[i]);
    Err e = {0};
    kernels[i]((uint8_t **)got.buf, g[i].args, 0, g[i].grid);
    cr_expect(kernel_gen_same(&g[i], &want, &got, &e), "%s: %s", who, e.text);
  }
}

#if MICC_HAVE_TCC
Test(kernel_random, libtcc)
{
  for (uint64_t first = 1; first < 20 * BATCH; first += BATCH) {
    Arena a = {0};
    Err e = {0};
    KernelGen g[BATCH];
    TccJit *jit = tcc_jit(print_batch(&a, first, g), &e);
    cr_assert(jit, "%s", e.text);
    run_batch(&a, g, tcc_jit_symbol(jit, "mi_kernels"), "libtcc");
    tcc_jit_free(jit);
    arena_free(&a);
  }
}
#endif

/* ---- compilers of this machine */

static void write_file(const char *path, const char *text)
{
  FILE *f = fopen(path, "wb");
  cr_assert(f && fputs(text, f) >= 0 && fclose(f) == 0, "cannot write %s", path);
}

static void compile_and_run(const char *compiler, const char *options, uint64_t first)
{
  char dir[] = "/tmp/micc-kernels-XXXXXX";
  Arena a = {0};
  KernelGen g[BATCH];

  if (system(arena_printf(&a, "command -v %s >/dev/null", compiler))) {
    printf("skipped: no %s on this machine\n", compiler);
    return;
  }
  cr_assert(mkdtemp(dir));
  const char *source = arena_printf(&a, "%s/k.c", dir), *object = arena_printf(&a, "%s/k.so", dir);
  write_file(source, print_batch(&a, first, g));
  cr_expect_eq(
      system(arena_printf(&a, "%s %s -shared -fPIC -o %s %s -lm", compiler, options, object, source)), 0,
      "%s complains of the C", compiler);
  void *lib = dlopen(object, RTLD_NOW | RTLD_LOCAL);
  cr_expect(lib);
  if (lib)
    run_batch(&a, g, dlsym(lib, "mi_kernels"), compiler);
  unlink(source);
  unlink(object);
  rmdir(dir);
  arena_free(&a);
}

#define WARNINGS "-std=c99 -Wall -Wextra -Wpedantic -Werror "

Test(kernel_random, gcc)
{
  compile_and_run("gcc", WARNINGS "-O2", 1001);
}

Test(kernel_random, clang)
{
  compile_and_run("clang-19", WARNINGS "-O2", 2001);
}

/* As the user's own gnu99 build would be: everything on, and the system's headers. */
Test(kernel_random, gcc_native)
{
  compile_and_run("gcc", "-std=gnu99 -Wall -Wextra -Werror -O3 -march=native", 3001);
}

Test(kernel_random, tcc)
{
  compile_and_run("tcc", "-Wall -Werror", 4001);
}
