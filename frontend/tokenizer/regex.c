/* regex.c - see regex.h.
 *
 *   text -parse-> tree -emit-> NFA -determinise-> DFA over classes
 *
 * Two code points are of one class if no set in any of the expressions tells them apart, so a DFA's row has
 * some ten entries. A DFA state is an *ordered* list of NFA places (a thread each, best first); when a thread
 * matches, those behind it are dropped: this gives Perl's order of alternatives (Pike's and Cox's automata).
 * What follows a place without reading (choices, look-ahead) is worked out only when the next class is known:
 * a match therefore shows in the transition after it, and look-ahead costs nothing. */
#include "frontend/tokenizer/regex.h"
#include "runtime-min/mi_tok_format.h"

#include <stdio.h>
#include <stdlib.h>
#include <utf8proc.h>

enum {
  CODE_POINTS = 0x110000,
  MAX_SETS = 64, /* a bit each in a code point's signature */
  MAX_CLASSES = 255,
  MAX_INSTS = 8192,
  MAX_STATES = 4096,
  MAX_REPEAT = 255,
  MAX_DEPTH = 64,
  BLOCK = 1 << MI_REGEX_BLOCK_BITS
};

/* ---- sets of code points */

typedef struct {
  uint32_t lo, hi;
} Range;

typedef struct {
  ARRAY(Range) ranges;
  uint32_t cats; /* bits: general categories */
  bool negate;
} Set;

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
static const Range white_space[] = {
    {0x09, 0x0d},     {0x20, 0x20},     {0x85, 0x85},     {0xa0, 0xa0},     {0x1680, 0x1680},
    {0x2000, 0x200a}, {0x2028, 0x2029}, {0x202f, 0x202f}, {0x205f, 0x205f}, {0x3000, 0x3000},
};

static bool set_has(const Set *s, uint32_t cp, uint32_t category)
{
  bool in = s->cats >> category & 1;

  for (uint32_t i = 0; i < s->ranges.len && !in; i++)
    in = cp >= s->ranges.data[i].lo && cp <= s->ranges.data[i].hi;
  return in != s->negate;
}

static bool set_equal(const Set *a, const Set *b)
{
  return a->cats == b->cats && a->negate == b->negate && a->ranges.len == b->ranges.len &&
         (!a->ranges.len || memcmp(a->ranges.data, b->ranges.data, a->ranges.len * sizeof(Range)) == 0);
}

/* ---- the tree */

typedef enum { NODE_EMPTY, NODE_SET, NODE_CAT, NODE_ALT, NODE_REPEAT, NODE_LOOK } NodeKind;

typedef struct Node Node;
struct Node {
  NodeKind kind;
  uint32_t set;      /* SET, LOOK */
  bool negate;       /* LOOK */
  uint32_t min, max; /* REPEAT: max 0 is "any number" */
  Node *a, *b;
};

typedef enum { INST_MATCH, INST_READ, INST_SPLIT, INST_LOOK } InstKind;

typedef struct {
  InstKind kind;
  uint32_t set;
  bool negate;
  uint16_t x, y; /* what follows; SPLIT: x is better */
} Inst;

typedef struct {
  Arena *arena; /* scratch */
  Err *e;
  const char *expr, *at;
  uint32_t k, depth;
  ARRAY(Set) sets;
  ARRAY(Inst) code;
  uint32_t n_classes;
  uint8_t *class_of;                   /* of each code point */
  uint64_t signature[MAX_CLASSES + 1]; /* of a class: the sets that hold it */
} Builder;

static bool PRINTF(2, 3) bad(Builder *b, const char *fmt, ...)
{
  char what[128];
  va_list ap;

  va_start(ap, fmt);
  vsnprintf(what, sizeof what, fmt, ap);
  va_end(ap);
  return fail(b->e, "regular expression %u, byte %zu: %s", b->k, (size_t)(b->at - b->expr), what);
}

/* ---- parsing */

static bool accept(Builder *b, const char *token)
{
  size_t n = strlen(token);

  if (strncmp(b->at, token, n) != 0)
    return false;
  b->at += n;
  return true;
}

static void add_range(Builder *b, Set *s, uint32_t lo, uint32_t hi)
{
  *PUSH(b->arena, s->ranges) = (Range){lo, hi};
}

static uint32_t add_set(Builder *b, const Set *s)
{
  for (uint32_t i = 0; i < b->sets.len; i++)
    if (set_equal(&b->sets.data[i], s))
      return i;
  *PUSH(b->arena, b->sets) = *s;
  return b->sets.len - 1;
}

static bool parse_number(Builder *b, uint32_t *out)
{
  const char *start = b->at;

  for (*out = 0; *b->at >= '0' && *b->at <= '9' && *out <= MAX_REPEAT; b->at++)
    *out = *out * 10 + (uint32_t)(*b->at - '0');
  return (b->at > start && *out <= MAX_REPEAT) || bad(b, "a number from 0 to %d is missing", MAX_REPEAT);
}

/* \p{L}: adds to the set. */
static bool parse_category(Builder *b, Set *s)
{
  for (size_t i = 0; i < COUNT(categories); i++) {
    size_t n = strlen(categories[i].name);
    if (*b->at == '{' && strncmp(b->at + 1, categories[i].name, n) == 0 && b->at[n + 1] == '}') {
      b->at += n + 2;
      s->cats |= categories[i].cats;
      return true;
    }
  }
  return bad(b, "an unknown category behind \\p");
}

/* \u{2581} */
static bool parse_code_point(Builder *b, uint32_t *cp)
{
  if (!accept(b, "{"))
    return bad(b, "{ is missing behind \\u");
  for (*cp = 0; *b->at && *b->at != '}' && *cp < CODE_POINTS; b->at++) {
    const char *digits = "0123456789abcdef", *digit = strchr(digits, *b->at | 0x20);
    if (!digit)
      return bad(b, "not a hexadecimal digit");
    *cp = *cp << 4 | (uint32_t)(digit - digits);
  }
  if (*cp >= CODE_POINTS || !accept(b, "}"))
    return bad(b, "not a code point");
  return true;
}

static void add_white_space(Builder *b, Set *s)
{
  for (size_t i = 0; i < COUNT(white_space); i++)
    add_range(b, s, white_space[i].lo, white_space[i].hi);
}

/* One member of a class, or one character outside of them: a code point in *cp, or (*single false) a set that
 * is added to s. */
static bool parse_atom(Builder *b, Set *s, uint32_t *cp, bool *single)
{
  static const char letters[] = "rntvf", values[] = "\r\n\t\v\f";
  const char *letter;

  *single = true;
  if (!accept(b, "\\")) {
    utf8proc_int32_t c;
    utf8proc_ssize_t n = utf8proc_iterate((const uint8_t *)b->at, -1, &c);
    if (n <= 0 || c == 0)
      return bad(b, n <= 0 ? "not UTF-8" : "ends too early");
    b->at += n;
    *cp = (uint32_t)c;
    return true;
  }
  char c = *b->at;
  if (!c)
    return bad(b, "ends too early");
  b->at++;
  if (c == 'u')
    return parse_code_point(b, cp);
  if (c == 'p' || c == 's') {
    *single = false;
    if (c == 'p')
      return parse_category(b, s);
    add_white_space(b, s);
    return true;
  }
  letter = strchr(letters, c);
  if (!letter && (c | 0x20) >= 'a' && (c | 0x20) <= 'z')
    return bad(b, "unknown escape \\%c", c);
  *cp = (uint32_t)(uint8_t)(letter ? values[letter - letters] : c);
  return true;
}

/* [...], behind the bracket */
static bool parse_class(Builder *b, Set *s)
{
  uint32_t lo, hi;
  bool single;

  s->negate = accept(b, "^");
  while (*b->at && *b->at != ']') {
    if (!parse_atom(b, s, &lo, &single))
      return false;
    if (!single)
      continue;
    hi = lo;
    if (b->at[0] == '-' && b->at[1] != ']') {
      b->at++;
      if (!parse_atom(b, s, &hi, &single) || !single || hi < lo)
        return bad(b, "not a range");
    }
    add_range(b, s, lo, hi);
  }
  return accept(b, "]") || bad(b, "] is missing");
}

static Node *new_node(Builder *b, NodeKind kind, Node *a, Node *c)
{
  Node *n = NEW(b->arena, Node);

  *n = (Node){.kind = kind, .a = a, .b = c};
  return n;
}

/* A character, a class, \S: one set. */
static Node *parse_set(Builder *b)
{
  Set s = {0};
  uint32_t cp;
  bool single = false, ok;

  if (accept(b, "[")) {
    ok = parse_class(b, &s);
  } else if (accept(b, "\\S")) {
    s.negate = ok = true;
    add_white_space(b, &s);
  } else {
    ok = parse_atom(b, &s, &cp, &single);
    if (ok && single)
      add_range(b, &s, cp, cp);
  }
  if (!ok)
    return NULL;
  Node *n = new_node(b, NODE_SET, NULL, NULL);
  n->set = add_set(b, &s);
  return n;
}

static Node *parse_alternatives(Builder *b);

static Node *parse_look(Builder *b, bool negate)
{
  Node *n = parse_set(b);

  if (!n)
    return NULL;
  if (!accept(b, ")")) {
    bad(b, "look-ahead reads one character");
    return NULL;
  }
  n->kind = NODE_LOOK;
  n->negate = negate;
  return n;
}

static Node *parse_primary(Builder *b)
{
  if (accept(b, "(?="))
    return parse_look(b, false);
  if (accept(b, "(?!"))
    return parse_look(b, true);
  if (accept(b, "$")) { /* no character follows: not one of the set of all */
    Node *n = new_node(b, NODE_LOOK, NULL, NULL);
    n->set = add_set(b, &(Set){.negate = true});
    n->negate = true;
    return n;
  }
  if (accept(b, "(?:") || accept(b, "(")) {
    Node *n = parse_alternatives(b);
    if (n && !accept(b, ")")) {
      bad(b, ") is missing");
      return NULL;
    }
    return n;
  }
  if (*b->at && strchr("?*+{", *b->at)) {
    bad(b, "nothing to repeat");
    return NULL;
  }
  return parse_set(b);
}

static bool parse_count(Builder *b, Node *n)
{
  if (accept(b, "{")) {
    if (!parse_number(b, &n->min))
      return false;
    n->max = n->min;
    if (accept(b, ",") && !parse_number(b, &n->max))
      return false;
    return (accept(b, "}") && n->max >= n->min && n->max > 0) || bad(b, "not a count");
  }
  n->min = *b->at == '+';
  n->max = *b->at == '?';
  b->at++;
  return true;
}

static Node *parse_sequence(Builder *b)
{
  Node *all = new_node(b, NODE_EMPTY, NULL, NULL);

  while (*b->at && *b->at != '|' && *b->at != ')') {
    Node *n = parse_primary(b);
    while (n && *b->at && strchr("?*+{", *b->at)) {
      n = new_node(b, NODE_REPEAT, n, NULL);
      if (!parse_count(b, n))
        return NULL;
    }
    if (!n)
      return NULL;
    all = new_node(b, NODE_CAT, all, n);
  }
  return all;
}

static Node *parse_alternatives(Builder *b)
{
  Node *n = NULL;

  if (++b->depth > MAX_DEPTH)
    bad(b, "nested too deeply");
  else
    n = parse_sequence(b);
  while (n && accept(b, "|")) {
    Node *other = parse_sequence(b);
    n = other ? new_node(b, NODE_ALT, n, other) : NULL;
  }
  b->depth--;
  return n;
}

/* ---- NFA: written backwards, each part knows what follows it */

static uint16_t add_inst(Builder *b, Inst inst)
{
  if (b->code.len < MAX_INSTS)
    *PUSH(b->arena, b->code) = inst;
  return (uint16_t)(b->code.len - 1);
}

static uint16_t emit(Builder *b, const Node *n, uint16_t next);

static uint16_t emit_repeat(Builder *b, const Node *n, uint16_t next)
{
  uint16_t at = next;

  if (!n->max) {
    at = add_inst(b, (Inst){.kind = INST_SPLIT, .y = next});
    uint16_t body = emit(b, n->a, at);
    b->code.data[at].x = body;
  }
  for (uint32_t i = n->min; i < n->max && b->code.len < MAX_INSTS; i++) {
    uint16_t body = emit(b, n->a, at);
    at = add_inst(b, (Inst){.kind = INST_SPLIT, .x = body, .y = next});
  }
  for (uint32_t i = 0; i < n->min && b->code.len < MAX_INSTS; i++)
    at = emit(b, n->a, at);
  return at;
}

static uint16_t emit(Builder *b, const Node *n, uint16_t next)
{
  switch (n->kind) {
  case NODE_EMPTY: return next;
  case NODE_SET: return add_inst(b, (Inst){.kind = INST_READ, .set = n->set, .x = next});
  case NODE_LOOK:
    return add_inst(b, (Inst){.kind = INST_LOOK, .set = n->set, .negate = n->negate, .x = next});
  case NODE_CAT: next = emit(b, n->b, next); return emit(b, n->a, next);
  case NODE_REPEAT: return emit_repeat(b, n, next);
  case NODE_ALT: break;
  }
  uint16_t second = emit(b, n->b, next), first = emit(b, n->a, next);
  return add_inst(b, (Inst){.kind = INST_SPLIT, .x = first, .y = second});
}

/* ---- classes */

static int compare_u32(const void *a, const void *b)
{
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

static bool class_of_signature(Builder *b, uint64_t signature, uint8_t *out)
{
  uint32_t i = 0;

  while (i < b->n_classes && b->signature[i] != signature)
    i++;
  if (i == MAX_CLASSES)
    return fail(b->e, "the regular expressions distinguish more than %d classes", MAX_CLASSES);
  if (i == b->n_classes)
    b->signature[b->n_classes++] = signature;
  *out = (uint8_t)i;
  return true;
}

/* The class changes only where the general category does, or where a range begins or ends. */
static bool find_classes(Builder *b)
{
  ARRAY(uint32_t) bounds = {0};
  uint32_t bound = 0;
  uint8_t class = 0;
  int category = -1;

  for (uint32_t i = 0; i < b->sets.len; i++)
    for (uint32_t j = 0; j < b->sets.data[i].ranges.len; j++) {
      *PUSH(b->arena, bounds) = b->sets.data[i].ranges.data[j].lo;
      *PUSH(b->arena, bounds) = b->sets.data[i].ranges.data[j].hi + 1;
    }
  if (bounds.len)
    qsort(bounds.data, bounds.len, sizeof *bounds.data, compare_u32);
  b->class_of = arena_alloc(b->arena, CODE_POINTS);
  for (uint32_t cp = 0; cp < CODE_POINTS; cp++) {
    int c = utf8proc_category((utf8proc_int32_t)cp);
    bool new = c != category;
    for (; bound < bounds.len && bounds.data[bound] == cp; bound++)
      new = true;
    if (new) {
      uint64_t signature = 0;
      for (uint32_t i = 0; i < b->sets.len; i++)
        signature |= (uint64_t)set_has(&b->sets.data[i], cp, (uint32_t)c) << i;
      if (!class_of_signature(b, signature, &class))
        return false;
    }
    category = c;
    b->class_of[cp] = class;
  }
  b->signature[b->n_classes] = 0; /* the end of the text is in no set */
  return true;
}

/* ---- DFA */

typedef struct {
  const uint16_t *threads;
  uint32_t n;
} State;

typedef struct {
  Builder *b;
  ARRAY(State) states;
  ARRAY(uint16_t) next;
  uint32_t *seen, *queued; /* of each instruction: in which step */
  uint32_t step;
  uint16_t *stack, *out; /* MAX_INSTS each */
  uint32_t n_out;
} Dfa;

/* Follows one thread up to where it reads `class`. Returns true if it matches before that. */
static bool follow(Dfa *d, uint16_t start, uint32_t class)
{
  uint64_t signature = d->b->signature[class];
  uint32_t n = 0;

  d->stack[n++] = start;
  while (n) {
    uint16_t at = d->stack[--n];
    const Inst *inst = &d->b->code.data[at];
    if (d->seen[at] == d->step)
      continue;
    d->seen[at] = d->step;
    bool in = signature >> inst->set & 1;
    switch (inst->kind) {
    case INST_MATCH: return true;
    case INST_READ:
      if (in && d->queued[inst->x] != d->step) {
        d->queued[inst->x] = d->step;
        d->out[d->n_out++] = inst->x;
      }
      break;
    case INST_LOOK:
      if (in != inst->negate)
        d->stack[n++] = inst->x;
      break;
    case INST_SPLIT:
      d->stack[n++] = inst->y;
      d->stack[n++] = inst->x;
      break;
    }
  }
  return false;
}

static uint32_t add_state(Dfa *d, const uint16_t *threads, uint32_t n)
{
  for (uint32_t i = 1; n && i < d->states.len; i++)
    if (d->states.data[i].n == n && memcmp(d->states.data[i].threads, threads, n * sizeof *threads) == 0)
      return i;
  if (!n && d->states.len)
    return MI_REGEX_DEAD;
  *PUSH(d->b->arena, d->states) = (State){arena_copy(d->b->arena, threads, n * sizeof *threads), n};
  return d->states.len - 1;
}

static uint16_t transition(Dfa *d, uint32_t state, uint32_t class)
{
  uint32_t match = 0;

  d->step++;
  d->n_out = 0;
  for (uint32_t i = 0; i < d->states.data[state].n && !match; i++)
    match = follow(d, d->states.data[state].threads[i], class) ? MI_REGEX_MATCH : 0;
  uint32_t to = class == d->b->n_classes ? MI_REGEX_DEAD : add_state(d, d->out, d->n_out);
  return (uint16_t)(to | match);
}

static bool determinise(Builder *b, uint16_t start, Dfa *d)
{
  *d = (Dfa){.b = b};
  d->seen = NEW_ARRAY(b->arena, uint32_t, b->code.len);
  d->queued = NEW_ARRAY(b->arena, uint32_t, b->code.len);
  d->stack = NEW_ARRAY(b->arena, uint16_t, 2 * b->code.len + 2);
  d->out = NEW_ARRAY(b->arena, uint16_t, b->code.len);
  add_state(d, NULL, 0);
  add_state(d, &start, 1);
  for (uint32_t state = 0; state < d->states.len; state++) {
    if (state > MAX_STATES)
      return fail(b->e, "regular expression %u needs more than %d states", b->k, MAX_STATES);
    for (uint32_t class = 0; class <= b->n_classes; class ++)
      *PUSH(b->arena, d->next) = transition(d, state, class);
  }
  return true;
}

/* ---- the block */

static uint32_t append(Text *t, const void *data, size_t bytes)
{
  static const char zeros[8];

  text_add(t, zeros, (8 - t->len % 8) % 8);
  uint32_t at = (uint32_t)t->len;
  text_add(t, data, bytes);
  return at;
}

/* Blocks of code points, each stored once. */
static bool append_classes(Builder *b, Text *t, MiRegex *head)
{
  uint8_t *block_of = arena_alloc(b->arena, CODE_POINTS / BLOCK),
          *blocks = arena_alloc(b->arena, CODE_POINTS);
  uint32_t n = 0, i;

  for (uint32_t at = 0; at < CODE_POINTS / BLOCK; at++) {
    const uint8_t *block = b->class_of + (size_t)at * BLOCK;
    for (i = 0; i < n && memcmp(blocks + (size_t)i * BLOCK, block, BLOCK) != 0; i++)
      ;
    if (i > UINT8_MAX)
      return fail(b->e, "the regular expressions need more than 256 blocks of classes");
    if (i == n)
      memcpy(blocks + (size_t)n++ * BLOCK, block, BLOCK);
    block_of[at] = (uint8_t)i;
  }
  head->block_of = append(t, block_of, CODE_POINTS / BLOCK);
  head->blocks = append(t, blocks, (size_t)n * BLOCK);
  return true;
}

static bool compile(Builder *b, const char *const *exprs, uint32_t n, Text *t)
{
  MiRegex head = {.n_regex = n};
  uint16_t start[MI_REGEX_MAX];

  for (b->k = 0; b->k < n; b->k++) {
    b->expr = b->at = exprs[b->k];
    Node *tree = parse_alternatives(b);
    if (!tree)
      return false;
    if (*b->at)
      return bad(b, "unexpected )");
    start[b->k] = emit(b, tree, add_inst(b, (Inst){.kind = INST_MATCH}));
    if (b->code.len == MAX_INSTS || b->sets.len > MAX_SETS)
      return bad(b, "too large");
  }
  append(t, &head, sizeof head);
  if (!find_classes(b) || !append_classes(b, t, &head))
    return false;
  head.n_classes = b->n_classes;
  for (b->k = 0; b->k < n; b->k++) {
    Dfa d;
    if (!determinise(b, start[b->k], &d))
      return false;
    head.next[b->k] = append(t, d.next.data, d.next.len * sizeof *d.next.data);
  }
  append(t, "", 0);
  memcpy(t->data, &head, sizeof head);
  return true;
}

static bool compile_guarded(Builder *b, const char *const *exprs, uint32_t n, Arena *arena, Text *out)
{
  Text t = {.arena = b->arena};
  MemTrap trap;

  if (!mem_try(&trap))
    return fail(b->e, "out of memory");
  bool ok = compile(b, exprs, n, &t);
  if (ok) {
    *out = t;
    out->data = arena_copy(arena, t.data, t.len);
  }
  mem_done(&trap);
  return ok;
}

bool regex_build(const char *const *exprs, uint32_t n, Arena *arena, const uint8_t **block, uint32_t *bytes,
                 Err *e)
{
  Arena scratch = {0};
  Builder b = {.arena = &scratch, .e = e};
  Text t = {0};

  if (n > MI_REGEX_MAX)
    return fail(e, "%u regular expressions, more than %d", n, MI_REGEX_MAX);
  bool ok = compile_guarded(&b, exprs, n, arena, &t);
  *block = (const uint8_t *)t.data;
  *bytes = (uint32_t)t.len;
  arena_free(&scratch);
  return ok;
}
