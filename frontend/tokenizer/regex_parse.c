/* regex_parse.c - see regex_parse.h: recursive descent over the syntax that regex.h lists. */
#include "frontend/tokenizer/regex_parse.h"

#include <stdio.h>
#include <utf8proc.h>

enum { MAX_REPEAT = 255, MAX_DEPTH = 64 };

/* ---- sets of code points */

#define CAT(c) (1u << UTF8PROC_CATEGORY_##c)
static const struct {
  const char *name;
  uint32_t cats;
} categories[] = {
    {"L", CAT(LU) | CAT(LL) | CAT(LT) | CAT(LM) | CAT(LO)},
    {"Lu", CAT(LU)},
    {"Ll", CAT(LL)},
    {"Lt", CAT(LT)},
    {"Lm", CAT(LM)},
    {"Lo", CAT(LO)},
    {"M", CAT(MN) | CAT(MC) | CAT(ME)},
    {"N", CAT(ND) | CAT(NL) | CAT(NO)},
    {"Nd", CAT(ND)},
    {"P", CAT(PC) | CAT(PD) | CAT(PS) | CAT(PE) | CAT(PI) | CAT(PF) | CAT(PO)},
    {"S", CAT(SM) | CAT(SC) | CAT(SK) | CAT(SO)},
    {"Z", CAT(ZS) | CAT(ZL) | CAT(ZP)},
};

/* Unicode's White_Space: \s. */
static const RegexRange white_space[] = {
    {0x09, 0x0d},     {0x20, 0x20},     {0x85, 0x85},     {0xa0, 0xa0},     {0x1680, 0x1680},
    {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000},
};

bool regex_set_has(const RegexSet *s, uint32_t cp, uint32_t category)
{
  bool in = s->cats >> category & 1;

  for (uint32_t i = 0; i < s->ranges.len && !in; i++)
    in = cp >= s->ranges.data[i].lo && cp <= s->ranges.data[i].hi;
  return in != s->negate;
}

static bool set_equal(const RegexSet *a, const RegexSet *b)
{
  return a->cats == b->cats && a->negate == b->negate && a->ranges.len == b->ranges.len &&
         (!a->ranges.len || memcmp(a->ranges.data, b->ranges.data, a->ranges.len * sizeof(RegexRange)) == 0);
}

/* ---- parsing */

bool regex_error(RegexParser *p, const char *fmt, ...)
{
  char what[128];
  va_list ap;

  va_start(ap, fmt);
  vsnprintf(what, sizeof what, fmt, ap);
  va_end(ap);
  return fail(p->e, "regular expression %u, byte %zu: %s", p->k, (size_t)(p->at - p->expr), what);
}

static bool accept(RegexParser *p, const char *token)
{
  size_t n = strlen(token);

  if (strncmp(p->at, token, n) != 0)
    return false;
  p->at += n;
  return true;
}

static void add_range(RegexParser *p, RegexSet *s, uint32_t lo, uint32_t hi)
{
  *PUSH(p->arena, s->ranges) = (RegexRange){lo, hi};
}

static uint32_t add_set(RegexParser *p, const RegexSet *s)
{
  for (uint32_t i = 0; i < p->sets.len; i++)
    if (set_equal(&p->sets.data[i], s))
      return i;
  *PUSH(p->arena, p->sets) = *s;
  return p->sets.len - 1;
}

static bool parse_number(RegexParser *p, uint32_t *out)
{
  const char *start = p->at;

  for (*out = 0; *p->at >= '0' && *p->at <= '9' && *out <= MAX_REPEAT; p->at++)
    *out = *out * 10 + (uint32_t)(*p->at - '0');
  return (p->at > start && *out <= MAX_REPEAT) ||
         regex_error(p, "a number from 0 to %d is missing", MAX_REPEAT);
}

/* \p{L}: adds to the set. */
static bool parse_category(RegexParser *p, RegexSet *s)
{
  for (size_t i = 0; i < COUNT(categories); i++) {
    size_t n = strlen(categories[i].name);
    if (*p->at == '{' && strncmp(p->at + 1, categories[i].name, n) == 0 && p->at[n + 1] == '}') {
      p->at += n + 2;
      s->cats |= categories[i].cats;
      return true;
    }
  }
  return regex_error(p, "an unknown category behind \\p");
}

/* \u{2581} */
static bool parse_code_point(RegexParser *p, uint32_t *cp)
{
  if (!accept(p, "{"))
    return regex_error(p, "{ is missing behind \\u");
  for (*cp = 0; *p->at && *p->at != '}' && *cp < REGEX_CODE_POINTS; p->at++) {
    const char *digits = "0123456789abcdef", *digit = strchr(digits, *p->at | 0x20);
    if (!digit)
      return regex_error(p, "not a hexadecimal digit");
    *cp = *cp << 4 | (uint32_t)(digit - digits);
  }
  if (*cp >= REGEX_CODE_POINTS || !accept(p, "}"))
    return regex_error(p, "not a code point");
  return true;
}

static void add_white_space(RegexParser *p, RegexSet *s)
{
  for (size_t i = 0; i < COUNT(white_space); i++)
    add_range(p, s, white_space[i].lo, white_space[i].hi);
}

/* One member of a class, or one character outside of them: a code point in *cp, or (*single false) a set that
 * is added to s. */
static bool parse_atom(RegexParser *p, RegexSet *s, uint32_t *cp, bool *single)
{
  static const char letters[] = "rntvf", values[] = "\r\n\t\v\f";
  const char *letter;

  *single = true;
  if (!accept(p, "\\")) {
    utf8proc_int32_t c;
    utf8proc_ssize_t n = utf8proc_iterate((const uint8_t *)p->at, -1, &c);
    if (n <= 0 || c == 0)
      return regex_error(p, n <= 0 ? "not UTF-8" : "ends too early");
    p->at += n;
    *cp = (uint32_t)c;
    return true;
  }
  char c = *p->at;
  if (!c)
    return regex_error(p, "ends too early");
  p->at++;
  if (c == 'u')
    return parse_code_point(p, cp);
  if (c == 'p' || c == 's') {
    *single = false;
    if (c == 'p')
      return parse_category(p, s);
    add_white_space(p, s);
    return true;
  }
  letter = strchr(letters, c);
  if (!letter && (c | 0x20) >= 'a' && (c | 0x20) <= 'z')
    return regex_error(p, "unknown escape \\%c", c);
  *cp = (uint32_t)(uint8_t)(letter ? values[letter - letters] : c);
  return true;
}

/* [...], behind the bracket */
static bool parse_class(RegexParser *p, RegexSet *s)
{
  uint32_t lo, hi;
  bool single;

  s->negate = accept(p, "^");
  while (*p->at && *p->at != ']') {
    if (!parse_atom(p, s, &lo, &single))
      return false;
    if (!single)
      continue;
    hi = lo;
    if (p->at[0] == '-' && p->at[1] != ']') {
      p->at++;
      if (!parse_atom(p, s, &hi, &single) || !single || hi < lo)
        return regex_error(p, "not a range");
    }
    add_range(p, s, lo, hi);
  }
  return accept(p, "]") || regex_error(p, "] is missing");
}

static RegexNode *new_node(RegexParser *p, RegexNodeKind kind, RegexNode *a, RegexNode *c)
{
  RegexNode *n = NEW(p->arena, RegexNode);

  *n = (RegexNode){.kind = kind, .a = a, .b = c};
  return n;
}

/* A character, a class, \S: one set. */
static RegexNode *parse_set(RegexParser *p)
{
  RegexSet s = {0};
  uint32_t cp;
  bool single = false, ok;

  if (accept(p, "[")) {
    ok = parse_class(p, &s);
  } else if (accept(p, "\\S")) {
    s.negate = ok = true;
    add_white_space(p, &s);
  } else {
    ok = parse_atom(p, &s, &cp, &single);
    if (ok && single)
      add_range(p, &s, cp, cp);
  }
  if (!ok)
    return NULL;
  RegexNode *n = new_node(p, NODE_SET, NULL, NULL);
  n->set = add_set(p, &s);
  return n;
}

static RegexNode *parse_alternatives(RegexParser *p);

static RegexNode *parse_look(RegexParser *p, bool negate)
{
  RegexNode *n = parse_set(p);

  if (!n)
    return NULL;
  if (!accept(p, ")")) {
    regex_error(p, "look-ahead reads one character");
    return NULL;
  }
  n->kind = NODE_LOOK;
  n->negate = negate;
  return n;
}

static RegexNode *parse_primary(RegexParser *p)
{
  if (accept(p, "(?="))
    return parse_look(p, false);
  if (accept(p, "(?!"))
    return parse_look(p, true);
  if (accept(p, "$")) { /* no character follows: not one of the set of all */
    RegexNode *n = new_node(p, NODE_LOOK, NULL, NULL);
    n->set = add_set(p, &(RegexSet){.negate = true});
    n->negate = true;
    return n;
  }
  if (accept(p, "(?:") || accept(p, "(")) {
    RegexNode *n = parse_alternatives(p);
    if (n && !accept(p, ")")) {
      regex_error(p, ") is missing");
      return NULL;
    }
    return n;
  }
  if (*p->at && strchr("?*+{", *p->at)) {
    regex_error(p, "nothing to repeat");
    return NULL;
  }
  return parse_set(p);
}

static bool parse_count(RegexParser *p, RegexNode *n)
{
  if (accept(p, "{")) {
    if (!parse_number(p, &n->min))
      return false;
    n->max = n->min;
    if (accept(p, ",") && !parse_number(p, &n->max))
      return false;
    return (accept(p, "}") && n->max >= n->min && n->max > 0) || regex_error(p, "not a count");
  }
  n->min = *p->at == '+';
  n->max = *p->at == '?';
  p->at++;
  return true;
}

static RegexNode *parse_sequence(RegexParser *p)
{
  RegexNode *all = new_node(p, NODE_EMPTY, NULL, NULL);

  while (*p->at && *p->at != '|' && *p->at != ')') {
    RegexNode *n = parse_primary(p);
    while (n && *p->at && strchr("?*+{", *p->at)) {
      n = new_node(p, NODE_REPEAT, n, NULL);
      if (!parse_count(p, n))
        return NULL;
    }
    if (!n)
      return NULL;
    all = new_node(p, NODE_CAT, all, n);
  }
  return all;
}

static RegexNode *parse_alternatives(RegexParser *p)
{
  RegexNode *n = NULL;

  if (++p->depth > MAX_DEPTH)
    regex_error(p, "nested too deeply");
  else
    n = parse_sequence(p);
  while (n && accept(p, "|")) {
    RegexNode *other = parse_sequence(p);
    n = other ? new_node(p, NODE_ALT, n, other) : NULL;
  }
  p->depth--;
  return n;
}

RegexNode *regex_parse(RegexParser *p, const char *expr, uint32_t k)
{
  p->expr = p->at = expr;
  p->k = k;
  RegexNode *tree = parse_alternatives(p);
  if (tree && *p->at) {
    regex_error(p, "unexpected )");
    return NULL;
  }
  return tree;
}
