/* regex.h - regular expressions to automata over classes of code points, for runtime-min/mi_tok_regex.c.
 *
 * Understood: | () (?:) ? * + {m} {m,n} (greedy), [a-z] [^...], \s \S \r \n \t \v \f, \p{L} and other general
 * categories, \u{1F600}, $ (end of the text), and look-ahead at one character: (?=X) (?!X), where X is a
 * character or a class. Alternatives are tried in order, as in Perl: the first that matches wins, not the
 * longest. */
#ifndef MICC_REGEX_H
#define MICC_REGEX_H

#include "ir/base.h"

/* Builds a MiRegex block (runtime-min/mi_tok_format.h) of n expressions (UTF-8) in `arena`.
 * The messages name the expression and the byte in it. */
bool regex_build(const char *const *exprs, uint32_t n, Arena *arena, const uint8_t **block, uint32_t *bytes,
                 Err *e);

#endif
