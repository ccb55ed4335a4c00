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
#include "frontend/tokenizer/regex_parse.h"
#include "runtime-min/mi_tok_format.h"

#include <stdlib.h>
#include <utf8proc.h>

enum {
  MAX_SETS = 64, /* a bit each in a code point's signature */
  MAX_CLASSES = 255,
  MAX_INSTS = 8192,
  MAX_STATES = 4096,
  BLOCK = 1 << MI_REGEX_BLOCK_BITS
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
  RegexParser parser;
  ARRAY(Inst) code;
  uint32_t n_classes;
  uint8_t *class_of;                   /* of each code point */
  uint64_t signature[MAX_CLASSES + 1]; /* of a class: the sets that hold it */
} Builder;

/* ---- NFA: written backwards, each part knows what follows it */

static uint16_t add_inst(Builder *b, Inst inst)
{
  if (b->code.len < MAX_INSTS)
    *PUSH(b->arena, b->code) = inst;
  return (uint16_t)(b->code.len - 1);
}

static uint16_t emit(Builder *b, const RegexNode *n, uint16_t next);

static uint16_t emit_repeat(Builder *b, const RegexNode *n, uint16_t next)
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

static uint16_t emit(Builder *b, const RegexNode *n, uint16_t next)
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
  uint8_t cls = 0;
  int category = -1;

  for (uint32_t i = 0; i < b->parser.sets.len; i++)
    for (uint32_t j = 0; j < b->parser.sets.data[i].ranges.len; j++) {
      *PUSH(b->arena, bounds) = b->parser.sets.data[i].ranges.data[j].lo;
      *PUSH(b->arena, bounds) = b->parser.sets.data[i].ranges.data[j].hi + 1;
    }
  if (bounds.len)
    qsort(bounds.data, bounds.len, sizeof *bounds.data, compare_u32);
  b->class_of = arena_alloc(b->arena, REGEX_CODE_POINTS);
  for (uint32_t cp = 0; cp < REGEX_CODE_POINTS; cp++) {
    int c = utf8proc_category((utf8proc_int32_t)cp);
    bool new = c != category;
    for (; bound < bounds.len && bounds.data[bound] == cp; bound++)
      new = true;
    if (new) {
      uint64_t signature = 0;
      for (uint32_t i = 0; i < b->parser.sets.len; i++)
        signature |= (uint64_t)regex_set_has(&b->parser.sets.data[i], cp, (uint32_t)c) << i;
      if (!class_of_signature(b, signature, &cls))
        return false;
    }
    category = c;
    b->class_of[cp] = cls;
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

/* Follows one thread up to where it reads `cls`. Returns true if it matches before that. */
static bool follow(Dfa *d, uint16_t start, uint32_t cls)
{
  uint64_t signature = d->b->signature[cls];
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

static uint16_t transition(Dfa *d, uint32_t state, uint32_t cls)
{
  uint32_t match = 0;

  d->step++;
  d->n_out = 0;
  for (uint32_t i = 0; i < d->states.data[state].n && !match; i++)
    match = follow(d, d->states.data[state].threads[i], cls) ? MI_REGEX_MATCH : 0;
  uint32_t to = cls == d->b->n_classes ? MI_REGEX_DEAD : add_state(d, d->out, d->n_out);
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
      return false;
    for (uint32_t cls = 0; cls <= b->n_classes; cls++)
      *PUSH(b->arena, d->next) = transition(d, state, cls);
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
  uint8_t *block_of = arena_alloc(b->arena, REGEX_CODE_POINTS / BLOCK),
          *blocks = arena_alloc(b->arena, REGEX_CODE_POINTS);
  uint32_t n = 0, i;

  for (uint32_t at = 0; at < REGEX_CODE_POINTS / BLOCK; at++) {
    const uint8_t *block = b->class_of + (size_t)at * BLOCK;
    for (i = 0; i < n && memcmp(blocks + (size_t)i * BLOCK, block, BLOCK) != 0; i++)
      ;
    if (i > UINT8_MAX)
      return fail(b->e, "the regular expressions need more than 256 blocks of classes");
    if (i == n)
      memcpy(blocks + (size_t)n++ * BLOCK, block, BLOCK);
    block_of[at] = (uint8_t)i;
  }
  head->block_of = append(t, block_of, REGEX_CODE_POINTS / BLOCK);
  head->blocks = append(t, blocks, (size_t)n * BLOCK);
  return true;
}

static bool compile(Builder *b, const char *const *exprs, uint32_t n, Text *t)
{
  MiRegex head = {.n_regex = n};
  uint16_t start[MI_REGEX_MAX];

  for (uint32_t k = 0; k < n; k++) {
    RegexNode *tree = regex_parse(&b->parser, exprs[k], k);
    if (!tree)
      return false;
    start[k] = emit(b, tree, add_inst(b, (Inst){.kind = INST_MATCH}));
    if (b->code.len == MAX_INSTS || b->parser.sets.len > MAX_SETS)
      return regex_error(&b->parser, "too large");
  }
  append(t, &head, sizeof head);
  if (!find_classes(b) || !append_classes(b, t, &head))
    return false;
  head.n_classes = b->n_classes;
  for (uint32_t k = 0; k < n; k++) {
    Dfa d;
    if (!determinise(b, start[k], &d))
      return fail(b->e, "regular expression %u needs more than %d states", k, MAX_STATES);
    head.next[k] = append(t, d.next.data, d.next.len * sizeof *d.next.data);
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
  Builder b = {.arena = &scratch, .e = e, .parser = {.arena = &scratch, .e = e}};
  Text t = {0};

  if (n > MI_REGEX_MAX)
    return fail(e, "%u regular expressions, more than %d", n, MI_REGEX_MAX);
  bool ok = compile_guarded(&b, exprs, n, arena, &t);
  *block = (const uint8_t *)t.data;
  *bytes = (uint32_t)t.len;
  arena_free(&scratch);
  return ok;
}
