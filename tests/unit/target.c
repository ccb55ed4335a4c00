/* The target table: rows fit together, names are found, the host has its row. */
#include "codegen/target.h"

#include <criterion/criterion.h>
#include <stdio.h>

Test(target, names_are_distinct_and_found)
{
  for (unsigned i = 0; i < target_count; i++) {
    const Target *t = &target_table[i];
    Err e = {0};
    cr_assert_eq(target_find(t->name, &e), t);
    cr_assert(!t->alias || target_find(t->alias, &e) == t);
  }
}

Test(target, unknown_names_list_the_known)
{
  Err e = {0};
  cr_assert_null(target_find("z80", &e));
  cr_assert(strstr(e.text, "'z80'"));
  for (unsigned i = 0; i < target_count; i++)
    cr_assert(strstr(e.text, target_table[i].name), "%s", e.text);
}

Test(target, columns_agree)
{
  for (unsigned i = 0; i < target_count; i++) {
    const Target *t = &target_table[i];
    cr_assert(t->vector_bytes >= 16 && !(t->vector_bytes & (t->vector_bytes - 1)), "%s", t->name);
    cr_assert_eq(t->triple == NULL, t->cpu == NULL, "%s", t->name);
    cr_assert(t->loops == (t->triple == NULL), "%s", t->name);
    cr_assert_lt(t->l1_bytes, t->l2_bytes, "%s", t->name);
  }
}

Test(target, native_is_the_last_row_that_runs)
{
  Err e = {0};
  const Target *host = target_find("native", &e);

  cr_assert(host && host->runs_here());
  for (const Target *t = host + 1; t < target_table + target_count; t++)
    cr_assert(!t->runs_here());
  printf("native is %s\n", host->name);
}
