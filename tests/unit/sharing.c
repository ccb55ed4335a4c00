/* Kernels that are equal but for a few numbers become one, whose parts hand the numbers over: ir/program.c. */
#include <criterion/criterion.h>
#include <string.h>

#include "ir/program.h"

static Kernel *copy_kernel(Arena *a, const char *name, int rows, int stride, int columns)
{
  Err e = {0};
  const char *text = arena_printf(a,
                                  "kernel %s (x: f32, y: f32 write) {\n"
                                  "  %%1 = grid idx\n"
                                  "  %%2 = const idx %d\n"
                                  "  %%3 = const idx 0\n"
                                  "  %%4 = loop idx %%3, %%2, 1\n"
                                  "    %%5 = const idx %d\n"
                                  "    %%6 = mul idx %%1, %%5\n"
                                  "    %%7 = loop idx %%3, %%5, 8\n"
                                  "      %%8 = const idx %d\n"
                                  "      %%9 = mul idx %%4, %%8\n"
                                  "      %%10 = load f32x8 x[%%9]\n"
                                  "      store y[%%6], %%10\n"
                                  "    end\n"
                                  "  end\n"
                                  "}\n",
                                  name, rows, stride, columns);
  Kernel *k = kernel_parse(a, text, "test", &e);
  cr_assert(k, "%s", e.text);
  return k;
}

static uint32_t add(Program *p, Kernel *k)
{
  Part part = {.grid = 1};
  program_kernel(p, k, &part);
  *PUSH(p->arena, p->parts) = part;
  return part.kernel;
}

Test(sharing, numbers_become_constants)
{
  Arena a = {0};
  Program p = {.arena = &a};
  Err e = {0};

  cr_expect_eq(add(&p, copy_kernel(&a, "copy.q4_K.64x32", 64, 32, 8)), 0);
  cr_expect_eq(add(&p, copy_kernel(&a, "copy.q4_K.64x32", 64, 32, 8)), 0);
  cr_expect_eq(add(&p, copy_kernel(&a, "copy.q4_K.64x16", 64, 16, 8)), 0);
  cr_expect_eq(add(&p, copy_kernel(&a, "copy.q4_K.128x16", 128, 16, 8)), 0);
  cr_expect_eq(p.kernels.len, 1);
  cr_expect_str_eq(p.kernels.data[0]->name, "copy.q4_K.NxN");
  static const int32_t want[][2] = {{32, 64}, {32, 64}, {16, 64}, {16, 128}};
  for (uint32_t i = 0; i < p.parts.len; i++)
    cr_expect_eq(memcmp(p.parts.data[i].constant, want[i], sizeof want[i]), 0, "part %u", i);
  program_end_kernels(&p);
  cr_expect(kernel_verify(p.kernels.data[0], &e), "%s", e.text);
  cr_expect_eq(kernel_node(p.kernels.data[0], 5)->op, K_arg);
  cr_expect_eq(kernel_node(p.kernels.data[0], 5)->imm.i, K_CONSTANT);
  cr_expect_eq(kernel_node(p.kernels.data[0], 2)->imm.i, K_CONSTANT + 1);
  arena_free(&a);
}

Test(sharing, numbers_in_inner_loops_stay)
{
  Arena a = {0};
  Program p = {.arena = &a};

  add(&p, copy_kernel(&a, "copy", 64, 32, 8));
  cr_expect_eq(add(&p, copy_kernel(&a, "copy", 64, 32, 16)), 1);
  arena_free(&a);
}

/* Two numbers that were one constant may part in a third kernel: then it is another kernel. */
Test(sharing, a_constant_is_one_number)
{
  Arena a = {0};
  Program p = {.arena = &a};

  cr_expect_eq(add(&p, copy_kernel(&a, "copy.one", 64, 64, 8)), 0);
  cr_expect_eq(add(&p, copy_kernel(&a, "copy.two", 32, 32, 8)), 0);
  cr_expect_eq(add(&p, copy_kernel(&a, "copy.one", 32, 64, 8)), 1);
  cr_expect_str_eq(p.kernels.data[0]->name, "copy.one");
  arena_free(&a);
}
