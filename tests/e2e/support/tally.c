/* tally.c - see tally.h */
#include "tests/e2e/support/tally.h"

#include <stdio.h>

static int checks, failures;

bool tally(bool ok, const char *what, ...)
{
  va_list args;

  checks++;
  failures += !ok;
  fputs(ok ? "ok      " : "FAILED  ", stdout);
  va_start(args, what);
  vprintf(what, args);
  va_end(args);
  putchar('\n');
  fflush(stdout);
  return ok;
}

void tally_note(const char *what, ...)
{
  va_list args;

  fputs("        ", stdout);
  va_start(args, what);
  vprintf(what, args);
  va_end(args);
  putchar('\n');
}

void tally_skip(const char *why, ...)
{
  va_list args;

  fputs("skipped: ", stdout);
  va_start(args, why);
  vprintf(why, args);
  va_end(args);
  putchar('\n');
}

int tally_end(void)
{
  printf("%d checks, %d failed\n", checks, failures);
  return failures != 0;
}
