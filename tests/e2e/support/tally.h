/* tally.h - counts checks: a line for each, and the exit status of the test. */
#ifndef TALLY_H
#define TALLY_H

#include "ir/base.h"

/* Prints the line that says what holds, or "FAILED" before it. Returns `ok`. */
bool tally(bool ok, const char *what, ...) PRINTF(2, 3);

/* More about the check that has just failed. */
void tally_note(const char *what, ...) PRINTF(1, 2);

void tally_skip(const char *why, ...) PRINTF(1, 2); /* "skipped: ..." */

/* Prints the sums; the test's exit status. */
int tally_end(void);

#endif
