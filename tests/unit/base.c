/* base.c - tests of ir/base.h: arenas, growable arrays, text, errors, and memory that runs out. */
#include "ir/base.h"

#include <criterion/criterion.h>

Test(arena, gives_zeroed_aligned_memory_of_any_size)
{
  static const size_t sizes[] = {0, 1, 15, 16, 17, 1000, 64 * 1024 - 16, 64 * 1024, 1 << 20};
  Arena a = {0};

  for (int round = 0; round < 100; round++)
    for (size_t i = 0; i < COUNT(sizes); i++) {
      unsigned char *p = arena_alloc(&a, sizes[i]);
      cr_assert_eq((uintptr_t)p % 16, 0);
      for (size_t k = 0; k < sizes[i]; k++)
        cr_assert_eq(p[k], 0);
      memset(p, 0xa5, sizes[i]); /* the next ones must not see it */
      if (round && sizes[i] > 1000)
        break;
    }
  arena_free(&a);
  cr_assert_null(a.chunk);
  cr_assert_not_null(arena_alloc(&a, 1), "an arena can be used again");
  arena_free(&a);
}

Test(arena, copies_strings)
{
  Arena a = {0};

  cr_assert_str_eq(arena_strdup(&a, ""), "");
  cr_assert_str_eq(arena_strdup(&a, "tensor"), "tensor");
  cr_assert_str_eq(arena_strndup(&a, "tensor", 3), "ten");
  cr_assert_str_eq(arena_strndup(&a, NULL, 0), "");
  cr_assert_str_eq(arena_printf(&a, "%s.%d", "blk", 7), "blk.7");
  cr_assert_arr_eq(arena_copy(&a, "a\0b", 3), "a\0b", 3);

  char *wide = arena_printf(&a, "%5000d", 1);
  cr_assert_eq(strlen(wide), 5000);
  arena_free(&a);
}

Test(array, grows_and_keeps_its_items)
{
  Arena a = {0};
  ARRAY(uint32_t) xs = {0};

  for (uint32_t i = 0; i < 10000; i++)
    *PUSH(&a, xs) = i * i;
  cr_assert_eq(xs.len, 10000);
  for (uint32_t i = 0; i < xs.len; i++)
    cr_assert_eq(xs.data[i], i * i);
  arena_free(&a);
}

Test(text, grows_and_stays_terminated)
{
  Arena a = {0};
  Text t = {.arena = &a};
  char big[1000];

  memset(big, 'x', sizeof big - 1);
  big[sizeof big - 1] = 0;
  text_add(&t, "", 0);
  cr_assert_str_eq(t.data, "");
  text_printf(&t, "%%%d = ", 1);
  text_add(&t, "input", 5);
  cr_assert_str_eq(t.data, "%1 = input");

  for (int i = 0; i < 20; i++)
    text_printf(&t, "%s", big); /* beyond the small buffer of text_printf */
  cr_assert_eq(t.len, 10 + 20 * 999);
  cr_assert_eq(strlen(t.data), t.len);
  arena_free(&a);
}

Test(error, first_message_wins)
{
  Err e = {0};

  cr_assert_not(fail(&e, "model.gguf:0x%x: %s", 0x1f40, "truncated"));
  cr_assert_not(fail(&e, "a later one"));
  cr_assert_str_eq(e.text, "model.gguf:0x1f40: truncated");
  cr_assert_not(fail(NULL, "nobody listens"));
}

Test(error, message_is_one_line)
{
  Err e = {0};

  fail(&e, "name '%s'", "a\x1b[31m\nb\x7f");
  cr_assert_str_eq(e.text, "name 'a?[31m b?'");
}

Test(error, long_message_is_cut)
{
  Err e = {0};

  fail(&e, "%3000d", 1);
  cr_assert_eq(strlen(e.text), sizeof e.text - 1);
}

/* Fills an arena with 4 chunks. */
static bool build_something(Arena *a)
{
  MemTrap trap;

  if (mem_try(&trap)) {
    for (int i = 0; i < 4; i++)
      arena_alloc(a, 100000);
    mem_done(&trap);
    return true;
  }
  return false;
}

Test(memory, each_failing_allocation_is_caught)
{
  for (long n = 1; n <= 5; n++) {
    Arena a = {0};
    mem_fail_at(n);
    cr_assert_eq(build_something(&a), n == 5, "allocation %ld", n);
    mem_fail_at(0);
    cr_assert(build_something(&a), "the arena is whole after a failure");
    arena_free(&a);
  }
}

Test(memory, inner_trap_leaves_the_outer_one)
{
  Arena a = {0};
  MemTrap outer;
  volatile int step = 0;

  if (mem_try(&outer)) {
    mem_fail_at(1);
    cr_assert_not(build_something(&a));
    step = 1;
    mem_fail_at(1);
    arena_alloc(&a, 1 << 20);
    cr_assert_fail("the allocation should have failed");
  }
  cr_assert_eq(step, 1);
  arena_free(&a);
}

Test(memory, array_size_that_overflows_is_out_of_memory)
{
  Arena a = {0};
  MemTrap trap;
  volatile bool caught = true;

  if (mem_try(&trap)) {
    arena_array(&a, 16, SIZE_MAX / 8);
    mem_done(&trap);
    caught = false;
  }
  cr_assert(caught);
  arena_free(&a);
}

Test(arithmetic, products_and_rounding)
{
  uint64_t p;

  cr_assert(mul_u64(1ull << 31, 1ull << 32, &p));
  cr_assert_eq(p, 1ull << 63);
  cr_assert_not(mul_u64(1ull << 32, 1ull << 32, &p));
  cr_assert_eq(round_up(0, 64), 0);
  cr_assert_eq(round_up(65, 64), 128);
  cr_assert_eq(min64(-1, 1), -1);
  cr_assert_eq(max64(-1, 1), 1);
}

/* FNV-1a's published values for 64 bits */
Test(arithmetic, hash)
{
  cr_assert_eq(hash_bytes("", 0, 0), 0xcbf29ce484222325u);
  cr_assert_eq(hash_bytes("a", 1, 0), 0xaf63dc4c8601ec8cu);
  cr_assert_eq(hash_bytes("foobar", 6, 0), 0x85944171f73967e8u);
}
