/* runtime.c - engine and pool on an image made by hand, the sample of the contract, and bad images. */
#include "runtime-min/mi_check.h"
#include "runtime-min/mi_engine.h"
#include "runtime-min/mi_host.h"

#include <criterion/criterion.h>
#include <limits.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define CONTRACT_NO_MAIN
#include "../../samples/contract/contract.c"

static MiOut message_in(char *buf, size_t cap)
{
  return (MiOut){.buf = buf, .cap = cap, .fd = -1};
}

/* ---- the sample of the contract */

Test(runtime, contract_sample_counts)
{
  char text[256];
  MiOut why = message_in(text, sizeof text);
  MiEngine e;
  int32_t ids[] = {3, 4, 5, 6, 7};

  cr_assert(mi_engine_open(&e, &image.header, sizeof image, mi_kernels, 2, &why), "%s", mi_out_string(&why));
  int prefill = mi_engine_entry(&e, "prefill"), decode = mi_engine_entry(&e, "decode");
  cr_assert_eq(mi_engine_entry(&e, "embed"), -1);
  cr_assert(mi_engine_run(&e, prefill, ids, 4, 0));
  cr_assert(mi_engine_run(&e, decode, ids + 4, 1, 4));
  float *logits = mi_engine_logits(&e);
  for (int i = 0; i < VOCAB; i++)
    cr_assert_eq(logits[i], 1 - (float)((i - 8) * (i - 8)));
  for (int i = 0; i < 5; i++)
    cr_assert_eq(((float *)(void *)e.state)[i], (float)ids[i]);
  cr_assert_geq(mi_engine_memory_bytes(&e), image.header.arena_bytes + image.header.state_bytes);
  mi_engine_reset(&e);
  cr_assert_eq(((float *)(void *)e.state)[0], 0);
  mi_engine_close(&e);
}

Test(runtime, calls_out_of_range_do_nothing)
{
  char text[256];
  MiOut why = message_in(text, sizeof text);
  MiEngine e;
  int32_t ids[TILE + 1] = {0};

  cr_assert(mi_engine_open(&e, &image.header, sizeof image, mi_kernels, 1, &why));
  cr_assert_not(mi_engine_run(&e, -1, ids, 1, 0));
  cr_assert_not(mi_engine_run(&e, 2, ids, 1, 0));
  cr_assert_not(mi_engine_run(&e, 0, ids, 0, 0));
  cr_assert_not(mi_engine_run(&e, 0, ids, TILE + 1, 0));
  cr_assert_not(mi_engine_run(&e, 1, ids, 2, 0));
  cr_assert_not(mi_engine_run(&e, 1, ids, 1, CONTEXT));
  cr_assert_not(mi_engine_run(&e, 0, ids, 4, CONTEXT - 3));
  cr_assert_not(mi_engine_run(&e, 1, ids, 1, UINT32_MAX));
  cr_assert(mi_engine_run(&e, 0, ids, 4, CONTEXT - 4));
  mi_engine_close(&e);
}

/* ---- a larger image: uneven grids, several parts, scratch and states; the same for each number of threads
 */

enum { ROWS = 1037, NARROW = 5, STEPS = 6, MANY = 8 };

static uint32_t mix(uint32_t a, uint32_t b)
{
  return (a ^ b * 2654435761u) * 2246822519u + 1;
}

/* tokens, x: x[t][row], for each token and row */
static void spread(uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi)
{
  const int32_t *tokens = (const int32_t *)(void *)buf[0];
  uint32_t *x = (uint32_t *)(void *)buf[1];

  for (int64_t i = lo; i < hi; i++)
    x[i] = mix((uint32_t)tokens[i / ROWS] + (uint32_t)args[0] * 31u, (uint32_t)(i % ROWS));
}

/* x, state, scratch: adds the tokens of the call to each row's state, by way of scratch */
static void gather(uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi)
{
  const uint32_t *x = (const uint32_t *)(void *)buf[0];
  uint32_t *state = (uint32_t *)(void *)buf[1], *scratch = (uint32_t *)(void *)buf[2];

  for (int64_t row = lo; row < hi; row++) {
    for (int t = 0; t < args[1]; t++)
      scratch[t] = x[t * ROWS + row];
    for (int t = 0; t < args[1]; t++)
      state[row] = mix(state[row], scratch[t]);
  }
}

/* tokens, table, y: an uneven second part */
static void small_rows(uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi)
{
  uint32_t *y = (uint32_t *)(void *)buf[2];

  for (int64_t i = lo; i < hi; i++)
    y[i] = mix(((const uint32_t *)(void *)buf[1])[i], (uint32_t)(args[0] + args[1]));
}

/* state, y, logits */
static void finish(uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi)
{
  const uint32_t *state = (const uint32_t *)(void *)buf[0], *y = (const uint32_t *)(void *)buf[1];

  (void)args;
  for (int64_t i = lo; i < hi; i++)
    ((float *)(void *)buf[2])[i] = (float)(state[i] >> 8) + (float)(y[i % NARROW] >> 24);
}

typedef struct {
  MiImage header;
  MiEntry entries[1];
  MiGrid grids[4];
  MiPart parts[4];
  MiPlace places[8];
  MiBind binds[12];
  char names[8];
  _Alignas(MI_PAGE) uint32_t table[NARROW];
} Large;

enum {
  L_TOKENS = 0,
  L_X = 64,
  L_Y = L_X + MANY * ROWS * 4 / 64 * 64 + 64,
  L_LOGITS = L_Y + 64,
  L_ARENA = L_LOGITS + ROWS * 4
};

static const Large large_image = {
    .header = {.magic = {'m', 'i', 'c', 'c', ' ', 'i', 'm', 'g'},
               .version = MI_VERSION,
               .header_bytes = sizeof(MiImage),
               .image_bytes = sizeof(Large),
               .n_kernels = 4,
               .n_entries = 1,
               .n_grids = 4,
               .n_parts = 4,
               .n_binds = 11,
               .n_places = 7,
               .n_vocab = ROWS,
               .context = 1000,
               .entries = offsetof(Large, entries),
               .grids = offsetof(Large, grids),
               .parts = offsetof(Large, parts),
               .binds = offsetof(Large, binds),
               .places = offsetof(Large, places),
               .names = offsetof(Large, names),
               .names_bytes = 8,
               .arena_bytes = L_ARENA,
               .state_bytes = ROWS * 4,
               .scratch_bytes = MANY * 4,
               .tokens_at = L_TOKENS,
               .logits_at = L_LOGITS,
               .about = offsetof(Large, names),
               .weights = offsetof(Large, table),
               .weights_bytes = NARROW * 4},
    .entries = {{.name = "step", .n_parts = 4, .n_grids = 4, .tokens = MANY, .has_logits = 1}},
    .grids = {{.kernel = 0, .grid = ROWS, .times = MI_PER_TOKEN, .n_binds = 2},
              {.kernel = 1, .grid = ROWS, .n_binds = 3},
              {.kernel = 2, .grid = NARROW, .n_binds = 3},
              {.kernel = 3, .grid = ROWS, .n_binds = 3}},
    .parts = {{.grid = 0, .first_bind = 0, .last = 1},
              {.grid = 1, .first_bind = 2},
              {.grid = 2, .first_bind = 5, .last = 1},
              {.grid = 3, .first_bind = 8, .name = 6, .last = 1}},
    .places = {MI_PLACE(MI_SPACE_ARENA, L_TOKENS), MI_PLACE(MI_SPACE_ARENA, L_X), MI_PLACE(MI_SPACE_STATE, 0),
               MI_PLACE(MI_SPACE_SCRATCH, 0), MI_PLACE(MI_SPACE_WEIGHTS, 0), MI_PLACE(MI_SPACE_ARENA, L_Y),
               MI_PLACE(MI_SPACE_ARENA, L_LOGITS)},
    .binds = {0, 1, 1, 2, 3, 0, 4, 5, 2, 5, 6},
    .names = "gather",
    .table = {7, 77, 777, 7777, 77777},
};

static MiKernel *const large_kernels[] = {spread, gather, small_rows, finish};

static void run_large(unsigned threads, float *logits)
{
  char text[256];
  MiOut why = message_in(text, sizeof text);
  MiEngine e;
  uint32_t pos = 0;

  cr_assert(mi_engine_open(&e, &large_image.header, sizeof large_image, large_kernels, threads, &why), "%s",
            mi_out_string(&why));
  e.profiling = true;
  for (uint32_t i = 0; i < STEPS; i++) {
    uint32_t n = 1 + i * 3 % MANY;
    int32_t ids[MANY];
    for (uint32_t k = 0; k < n; k++)
      ids[k] = (int32_t)(i * 100 + k);
    cr_assert(mi_engine_run(&e, 0, ids, n, pos));
    pos += n;
  }
  memcpy(logits, mi_engine_logits(&e), ROWS * sizeof *logits);
  for (uint32_t i = 0; i < e.image->n_parts; i++) /* part 2 goes on with part 1's launch */
    cr_assert_eq(e.profile[i].calls, i == 2 ? 0 : STEPS);
  mi_engine_close(&e);
}

Test(runtime, threads_do_not_change_results)
{
  static float one[ROWS], more[ROWS];

  run_large(1, one);
  cr_assert_neq(one[0], one[1]);
  for (unsigned threads = 2; threads <= 5; threads++) {
    run_large(threads, more);
    cr_assert_eq(memcmp(one, more, sizeof one), 0, "%u threads differ from one", threads);
  }
}

/* ---- iterations for each section of the positions */

static _Atomic int64_t iterations;

static void count_iterations(uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi)
{
  (void)buf;
  (void)args;
  atomic_fetch_add(&iterations, hi - lo);
}

Test(runtime, sections_that_a_token_sees)
{
  static const struct {
    uint32_t span, pos, sections;
  } rows[] = {{1000, 0, 1},  {1000, 255, 1}, {1000, 256, 2}, {1000, 900, 4}, {300, 256, 2}, {300, 511, 2},
              {300, 554, 3}, {300, 555, 2},  {1, 255, 1},    {1, 256, 1},    {256, 511, 1}, {256, 512, 2}};
  MiKernel *const kernels[] = {spread, gather, small_rows, count_iterations};
  Large own = large_image;
  char text[256];
  MiOut why = message_in(text, sizeof text);
  MiEngine e;

  for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
    own.grids[3] =
        (MiGrid){.kernel = 3, .grid = 2, .times = MI_PER_SECTION, .span = rows[i].span, .n_binds = 3};
    cr_assert(mi_engine_open(&e, &own.header, sizeof own, kernels, 1 + i % 3, &why), "%s",
              mi_out_string(&why));
    iterations = 0;
    cr_assert(mi_engine_run(&e, 0, (const int32_t[]){1}, 1, rows[i].pos));
    cr_expect_eq(iterations, 2 * rows[i].sections, "row %zu: %d", i, (int)iterations);
    mi_engine_close(&e);
  }
}

/* ---- pool */

enum { WIDE = 300 };

typedef struct {
  _Atomic uint32_t *hits, *calls;
  int64_t total;
  bool lopsided; /* the last share has nearly all */
} Hits;

static int64_t share_begins(const Hits *h, unsigned share, unsigned n_shares)
{
  if (h->lopsided && share < n_shares)
    return h->total * share / n_shares / 10;
  return mi_pool_begin(h->total, share, n_shares);
}

static int64_t hits_of_share(const void *job, unsigned share, unsigned n_shares)
{
  return share_begins(job, share + 1, n_shares) - share_begins(job, share, n_shares);
}

static void count_hits(const void *job, const MiPoolPiece *piece)
{
  const Hits *h = job;
  int64_t first = share_begins(h, piece->share, piece->n_shares);

  atomic_fetch_add(h->calls, 1);
  for (int64_t i = first + piece->lo; i < first + piece->hi; i++)
    atomic_fetch_add_explicit(&h->hits[i], 1, memory_order_relaxed);
}

static void stress_pool(unsigned threads, uint32_t runs)
{
  void *memory = mi_host_map(mi_pool_bytes(threads));
  MiPool *p = mi_pool_start(memory, threads);
  _Atomic uint32_t hits[WIDE] = {0}, calls = 0;
  uint32_t expected[WIDE] = {0};

  cr_assert_not_null(p);
  for (uint32_t i = 0; i < runs; i++) {
    Hits h = {hits, &calls, i % 7 == 0 ? 1 : i % WIDE + 1, i % 3 == 0};
    mi_pool_run(p, count_hits, hits_of_share, &h, sizeof h);
    for (int64_t k = 0; k < h.total; k++)
      expected[k]++;
  }
  mi_pool_stop(p);
  mi_host_unmap(memory, mi_pool_bytes(threads));
  for (int i = 0; i < WIDE; i++)
    cr_assert_eq(hits[i], expected[i], "%u threads: iteration %d ran %u times, not %u", threads, i, hits[i],
                 expected[i]);
}

Test(runtime, pool_runs_each_iteration_once)
{
  stress_pool(1, 10000);
  stress_pool(2, 10000);
  stress_pool(4, 10000);
  stress_pool(33, 300); /* more threads than processors: no spinning */
}

Test(runtime, pool_wakes_sleepers)
{
  _Atomic uint32_t hits[WIDE] = {0}, calls = 0;
  Hits h = {hits, &calls, WIDE, false};
  void *memory = mi_host_map(mi_pool_bytes(3));
  MiPool *p = mi_pool_start(memory, 3);

  cr_assert_not_null(p);
  for (int i = 0; i < 20; i++) {
    for (uint64_t until = mi_host_clock_ns() + 1000000; mi_host_clock_ns() < until;) {
    } /* workers fall asleep meanwhile */
    mi_pool_run(p, count_hits, hits_of_share, &h, sizeof h);
  }
  mi_pool_stop(p);
  mi_host_unmap(memory, mi_pool_bytes(3));
  for (int i = 0; i < WIDE; i++)
    cr_assert_eq(hits[i], 20);
}

Test(runtime, pool_of_one_makes_one_call)
{
  _Atomic uint32_t hits[WIDE] = {0}, calls = 0;
  Hits h = {hits, &calls, WIDE, false};
  void *memory = mi_host_map(mi_pool_bytes(1));
  MiPool *p = mi_pool_start(memory, 1);

  mi_pool_run(p, count_hits, hits_of_share, &h, sizeof h);
  cr_assert_eq(calls, 1);
  mi_pool_stop(p);
  mi_host_unmap(memory, mi_pool_bytes(1));
}

/* Flags of the mapping that holds `p`, as the kernel lists them; false if it does not. */
static bool mapping_flags(const void *p, char *flags, int cap)
{
  FILE *f = fopen("/proc/self/smaps", "r");
  unsigned long from, to;
  bool ours = false, found = false;

  while (f && !found && fgets(flags, cap, f)) {
    if (sscanf(flags, "%lx-%lx ", &from, &to) == 2)
      ours = from <= (uintptr_t)p && (uintptr_t)p < to;
    found = ours && !strncmp(flags, "VmFlags:", 8);
  }
  if (f)
    fclose(f);
  return found;
}

Test(runtime, large_pages_are_asked_for)
{
  enum { BYTES = 1 << 22 };
  char flags[256];
  uint8_t *p = mi_host_map(BYTES);

  cr_assert_not_null(p);
  mi_host_want_large_pages(p, BYTES);
  if (!mapping_flags(p, flags, sizeof flags) || access("/sys/kernel/mm/transparent_hugepage", F_OK) != 0)
    cr_log_warn("skipped: this system does not say what pages a mapping has");
  else
    cr_assert(strstr(flags, " hg"), "%s", flags);
  mi_host_unmap(p, BYTES);
}

Test(runtime, host_knows_its_processors)
{
  cr_assert_geq(mi_host_cpus(), 1);
  cr_assert_geq(mi_host_cores(), 1);
  cr_assert_leq(mi_host_cores(), mi_host_cpus());
}

/* ---- bad images: one change each, and the words that the message must hold */

typedef struct {
  const char *expect;
  size_t at, bytes; /* of the field that is changed */
  uint64_t value;
} Bad;

#define FIELD(path)  offsetof(Large, path), sizeof((Large *)0)->path
#define HEADER(name) FIELD(header.name)
static const Bad bad_images[] = {
    {"not an image", offsetof(Large, header.magic), 1, 'M'},
    {"version 9", HEADER(version), 9},
    {"version", HEADER(header_bytes), 8},
    {"should have", HEADER(image_bytes), sizeof(Large) + 1},
    {"should have", HEADER(image_bytes), 10},
    {"grid 0 runs kernel 0 of 0", HEADER(n_kernels), 0},
    {"entries", HEADER(entries), sizeof(Large) - 8},
    {"entries", HEADER(entries), UINT64_MAX - 7},
    {"grids", HEADER(n_grids), UINT32_MAX},
    {"parts", HEADER(parts), 12},
    {"binds", HEADER(binds), sizeof(Large) + 8},
    {"places", HEADER(places), UINT64_MAX - 7},
    {"names", HEADER(names), sizeof(Large) + 1},
    {"names do not end", HEADER(names_bytes), 0},
    {"names do not end", HEADER(names_bytes), 3},
    {"about", HEADER(about_bytes), UINT64_MAX},
    {"tokenizer", HEADER(tokenizer_bytes), sizeof(Large) + 1},
    {"weights", HEADER(weights), 64},
    {"weights", HEADER(weights_bytes), sizeof(Large)},
    {"weights that are no tables", HEADER(tables_bytes), 64},
    {"weights that are no tables", HEADER(tables_bytes), MI_PAGE},
    {"weights that are no tables", HEADER(tables_bytes), UINT64_MAX - MI_PAGE + 1},
    {"memory sizes", HEADER(arena_bytes), UINT64_MAX},
    {"memory sizes", HEADER(scratch_bytes), (uint64_t)1 << 60},
    {"memory sizes", HEADER(context), 0},
    {"memory sizes", HEADER(logits_at), 2},
    {"entry 0", HEADER(tokens_at), L_ARENA - 4},
    {"entry 0", HEADER(logits_at), L_LOGITS + 64},
    {"entry 0", HEADER(n_vocab), ROWS + 1},
    {"entry 0", FIELD(entries[0].tokens), 0},
    {"entry 0", FIELD(entries[0].tokens), UINT32_MAX},
    {"entry 0", FIELD(entries[0].first_part), 1},
    {"entry 0", FIELD(entries[0].n_parts), UINT32_MAX},
    {"entry 0", FIELD(entries[0].first_grid), 1},
    {"part 3", FIELD(entries[0].n_grids), 3},
    {"part 1 does not end", FIELD(entries[0].n_parts), 2},
    {"too many iterations", FIELD(grids[0].grid), UINT32_MAX},
    {"grid 1 runs kernel 4 of 4", FIELD(grids[1].kernel), 4},
    {"grid 2", FIELD(grids[2].n_binds), MI_MAX_PARAMS + 1},
    {"part 2", FIELD(parts[2].grid), 4},
    {"part 3", FIELD(parts[3].first_bind), 9},
    {"part 1", offsetof(Large, parts[1]) + 6, 2, 8}, /* its name */
    {"bind 1", FIELD(binds[1]), 7},
    {"place 1", FIELD(places[1]), MI_PLACE(MI_SPACE_ARENA, L_ARENA + 63)},
    {"place 3", FIELD(places[3]), MI_PLACE(MI_SPACE_SCRATCH, MANY * 4 + 63)},
    {"place 4", FIELD(places[4]), MI_PLACE(MI_SPACE_WEIGHTS, 64)},
};

Test(runtime, bad_images_are_refused)
{
  for (size_t i = 0; i < sizeof bad_images / sizeof *bad_images; i++) {
    const Bad *b = &bad_images[i];
    char text[256];
    MiOut why = message_in(text, sizeof text);
    Large image_copy = large_image;
    MiEngine e;
    memcpy((char *)&image_copy + b->at, &b->value, b->bytes);
    bool ok = mi_engine_open(&e, &image_copy.header, sizeof image_copy, large_kernels, 1, &why);
    cr_assert_not(ok, "row %zu was accepted", i);
    cr_assert_not_null(strstr(mi_out_string(&why), b->expect), "row %zu: %s", i, text);
  }
}

Test(runtime, truncated_images_are_refused)
{
  for (uint64_t bytes = 0; bytes < sizeof large_image; bytes += bytes < 300 ? 1 : 101) {
    char text[256];
    MiOut why = message_in(text, sizeof text);
    cr_assert_not(mi_check_image(&large_image.header, bytes, &why));
    cr_assert_gt(why.n, 0);
  }
}

Test(runtime, names_without_end_are_refused)
{
  char text[256];
  MiOut why = message_in(text, sizeof text);
  Large copy = large_image;

  memset(copy.entries[0].name, 'x', sizeof copy.entries[0].name);
  cr_assert_not(mi_check_image(&copy.header, sizeof copy, &why));
  copy = large_image;
  memset(copy.names, 'x', sizeof copy - offsetof(Large, names)); /* to the end of the image */
  cr_assert_not(mi_check_image(&copy.header, sizeof copy, &why));
}

Test(runtime, thread_counts_are_checked)
{
  char text[256];
  MiOut why = message_in(text, sizeof text);
  MiEngine e;

  cr_assert_not(mi_engine_open(&e, &large_image.header, sizeof large_image, large_kernels, 0, &why));
  cr_assert_not(
      mi_engine_open(&e, &large_image.header, sizeof large_image, large_kernels, MI_POOL_MAX + 1, &why));
}

/* ---- the formatter */

static void formats(const char *expect, const char *format, ...)
{
  char text[128];
  MiOut o = message_in(text, sizeof text);
  va_list args;

  va_start(args, format);
  mi_out_vformat(&o, format, args);
  va_end(args);
  cr_assert_str_eq(mi_out_string(&o), expect);
}

Test(runtime, formats_as_printf_does)
{
  formats("a -7 b 100%", "a %d %s %u%%", -7, "b", 100u);
  formats("[    12][12   ][x]", "[%6d][%-5d][%c]", 12, 12, 'x');
  formats("18446744073709551615 -9223372036854775808", "%llu %lld", ULLONG_MAX, LLONG_MIN);
  formats("4096 5 -5", "%zu %lu %ld", (size_t)4096, 5ul, -5l);
  formats("0.500 -1.25 3 0.05 1000.0", "%.3f %.2f %.0f %.2f %.1f", 0.5, -1.25, 2.9, 0.05, 999.96);
  formats("    1.50|abc  ", "%8.2f|%-5s", 1.5, "abc");
  formats("?", "%f", 1e300);
}

Test(runtime, json_strings_are_escaped)
{
  char text[128];
  MiOut o = message_in(text, sizeof text);

  mi_out_json(&o, "a\"\\\n\t\x01\x7f\0\xc3\xa9", 10);
  cr_assert_str_eq(mi_out_string(&o), "a\\\"\\\\\\n\\t\\u0001\\u007f\\u0000\xc3\xa9");
}

Test(runtime, text_in_memory_is_cut_not_overrun)
{
  char text[9] = "--------";
  MiOut o = message_in(text, 4);

  mi_out_text(&o, "abcdefgh");
  cr_assert_str_eq(mi_out_string(&o), "abc");
  cr_assert_str_eq(text + 4, "----");
}
