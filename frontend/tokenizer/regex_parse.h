/* regex_parse.h - a regular expression's text as a tree, and the sets of code points that it reads. Private to
 * regex.c. */
#ifndef MICC_REGEX_PARSE_H
#define MICC_REGEX_PARSE_H

#include "ir/base.h"

enum { REGEX_CODE_POINTS = 0x110000 };

typedef struct {
  uint32_t lo, hi;
} RegexRange;

typedef struct {
  ARRAY(RegexRange) ranges;
  uint32_t cats; /* bits: general categories, as utf8proc numbers them */
  bool negate;
} RegexSet;

typedef enum { NODE_EMPTY, NODE_SET, NODE_CAT, NODE_ALT, NODE_REPEAT, NODE_LOOK } RegexNodeKind;

typedef struct RegexNode RegexNode;
struct RegexNode {
  RegexNodeKind kind;
  uint32_t set;      /* SET, LOOK */
  bool negate;       /* LOOK */
  uint32_t min, max; /* REPEAT: max 0 is "any number" */
  RegexNode *a, *b;
};

/* Goes through several expressions in turn; equal sets are one. */
typedef struct {
  Arena *arena;
  Err *e;
  const char *expr, *at;
  uint32_t k, depth; /* k: which expression, for messages */
  ARRAY(RegexSet) sets;
} RegexParser;

RegexNode *regex_parse(RegexParser *p, const char *expr, uint32_t k); /* NULL: see *p->e */
bool regex_error(RegexParser *p, const char *fmt, ...) PRINTF(2, 3);  /* names the place; returns false */
bool regex_set_has(const RegexSet *s, uint32_t cp, uint32_t category);

#endif
