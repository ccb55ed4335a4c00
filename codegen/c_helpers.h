/* c_helpers.h - functions that printed C calls: what C99 says in no expression. */
#ifndef MICC_C_HELPERS_H
#define MICC_C_HELPERS_H

#include "ir/base.h"

extern const unsigned c_helper_count;

/* The number of a helper, which must exist. */
unsigned c_helper(const char *name);

/* Prints those that are needed, and what they call. */
void c_print_helpers(const bool *needed, Text *out);

#endif
