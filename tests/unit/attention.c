/* Prompts longer than what an iteration of attention takes, and longer than a section: the logits that follow are decode's, bit for
 * bit, whatever the prompt was cut into. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "codegen/exec.h"
#include "passes/passes.h"
#include "runtime-min/mi_image.h"
#include "tests/unit/support/graph_gen.h"

enum { TILE = 70, CONTEXT = MI_SECTION + 64, LAST = 300 };

typedef struct {
  const Program *p;
  Exec *x;
} Run;

static const Entry *entry_named(const Run *r, const char *name, uint32_t *index)
{
  for (*index = 0; *index < r->p->entries.len; ++*index)
    if (!strcmp(r->p->entries.data[*index].name, name))
      return &r->p->entries.data[*index];
  cr_assert_fail("no such entry");
  return NULL;
}

static void feed(const Run *r, const char *name, int from, int n)
{
  Err e = {0};
  uint32_t index;
  int32_t *ids = exec_data(r->x, entry_named(r, name, &index)->tokens_buffer);

  for (int i = 0; i < n; i++)
    ids[i] = (from + i) * 7 % 19;
  cr_assert(exec_entry(r->x, index, (const int32_t[]){from, n, 0}, &e), "%s", e.text);
}

/* The logits of token LAST, after pieces of these sizes; decode alone if there are none. */
static const float *logits(const Run *r, const int *pieces, uint32_t *count)
{
  uint32_t index;
  int at = 0;

  exec_reset(r->x);
  for (; pieces && at < LAST; at += *pieces++)
    feed(r, "prefill", at, *pieces);
  for (; at <= LAST; at++)
    feed(r, "decode", at, 1);
  const Buffer *b = &r->p->buffers.data[entry_named(r, "decode", &index)->logits_buffer];
  *count = (uint32_t)(b->bytes / sizeof(float));
  return exec_data(r->x, r->p->entries.data[index].logits_buffer);
}

static void compare(uint64_t seed, const char *cpu, ExecWay way)
{
  static const int pieces[][8] = {{70, 70, 70, 70, 20}, {25, 48, 1, 70, 46, 70, 40}, {64, 3, 67, 56, 70, 40}};
  Arena a = {0};
  Err e = {0};
  Module *m = gen_decoder(
      &a, &(DecoderOptions){.seed = seed, .prefill_tokens = TILE, .context = CONTEXT, .weights = DT_F32});
  const Target *target = target_find(cpu, &e);
  Program *p;

  cr_assert(passes_run(m, &(PassOptions){.targets = &target, .n_targets = 1}, &p, &e), "%s", e.text);
  Run r = {p, exec_open(p, target, way, &e)};
  cr_assert(r.x, "%s", e.text);
  uint32_t n;
  float *want = arena_copy(&a, logits(&r, NULL, &n), p->buffers.data[p->entries.data[0].logits_buffer].bytes);
  for (unsigned i = 0; i < COUNT(pieces); i++)
    cr_expect(!memcmp(logits(&r, pieces[i], &n), want, n * sizeof *want), "seed %d, %s: cut %u differs",
              (int)seed, cpu, i);
  exec_close(r.x);
  arena_free(&a);
}

#if MICC_HAVE_LLVM
Test(attention, prompts_are_what_decode_makes_of_them)
{
  static const char *const cpus[] = {"x86-64-v2", "x86-64-v3", "x86-64-v4"};
  Err e = {0};

  for (uint64_t seed = 1; seed <= 18; seed++)
    if (target_find(cpus[seed % 3], &e)->runs_here())
      compare(seed, cpus[seed % 3], EXEC_LLVM);
    else
      printf("skipped: %s, this machine lacks it\n", cpus[seed % 3]);
}
#endif

#if MICC_HAVE_TCC
Test(attention, prompts_in_c)
{
  for (uint64_t seed = 1; seed <= 2; seed++)
    compare(seed, "c", EXEC_TCC);
}
#endif

static bool alike(const Module *m)
{
  for (uint32_t i = 0; i < m->states.len; i++)
    if (m->states.data[i].type.dim[0] != CONTEXT)
      return false;
  return m->states.len > 1;
}

/* The slots of all layers for the first positions lie together: what is behind them stays as it was. */
Test(attention, a_short_context_touches_the_start_of_the_states)
{
  enum { GROUP = 64, GROUPS = (CONTEXT + GROUP - 1) / GROUP };
  unsigned checked = 0;

  for (uint64_t seed = 1; seed <= 12; seed++) {
    Arena a = {0};
    Err e = {0};
    Module *m = gen_decoder(&a, &(DecoderOptions){.seed = seed, .context = CONTEXT, .weights = DT_F32});
    const Target *target = target_find("x86-64-v3", &e);
    Program *p;

    if (!alike(m)) {
      arena_free(&a);
      continue;
    }
    cr_assert(passes_run(m, &(PassOptions){.targets = &target, .n_targets = 1}, &p, &e), "%s", e.text);
    Run r = {p, exec_open(p, target, EXEC_EVAL, &e)};
    uint32_t first = 1;
    while (p->buffers.data[first].space != SPACE_STATE)
      first++;
    const Buffer *b = &p->buffers.data[first];
    const uint8_t *state = exec_data(r.x, first);
    uint64_t stride = (b->bytes - b[1].offset) / (GROUPS - 1), touched = 0;
    for (int i = 0; i < GROUP; i++)
      feed(&r, "decode", i, 1);
    for (uint64_t i = 0; i < p->space_bytes[SPACE_STATE]; i++)
      touched = state[i] ? i : touched;
    cr_expect_gt(touched, b[1].offset, "seed %d", (int)seed);
    cr_expect_lt(touched, stride, "seed %d", (int)seed);
    checked++;
    exec_close(r.x);
    arena_free(&a);
  }
  cr_expect_gt(checked, 0);
}

Test(attention, prompts_interpreted)
{
  compare(1, "x86-64-v3", EXEC_EVAL); /* every access is checked */
}
