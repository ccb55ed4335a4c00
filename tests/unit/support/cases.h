/* cases.h - tests on text: tests/cases/FOLDER/NAME.txt holds cases, divided by lines of ====: a text, a line ---, and what
 * must come out of it. MICC_UPDATE=1 rewrites the latter; review the diff. */
#ifndef MICC_TEST_CASES_H
#define MICC_TEST_CASES_H

#include "ir/base.h"

/* What comes out of a case's text; `path`: for messages. */
typedef const char *CaseResult(Arena *a, const char *path, const char *source);

/* Runs all files of the folder; returns how many there are, or -1 if a case gives something else, which is printed. */
int cases_run(const char *folder, CaseResult *result);

/* A file as text, which must be there. */
char *cases_read(Arena *a, const char *path);

#endif
