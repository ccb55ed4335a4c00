/* What fusion promises of decoders: a value is quantised where it is made, and where registers hold one token only,
 * decode's products are prefill's. What prompts multiply with where there is no product of four bytes, and that it stays in
 * registers. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "passes/passes.h"
#if MICC_HAVE_LLVM
#include "codegen/llvm.h"
#endif
#include "tests/unit/support/graph_gen.h"

static Program *lowered(Module *m, const char *cpu)
{
  Err e = {0};
  Program *p;
  const Target *target = target_find(cpu, &e);

  cr_assert(target, "%s", e.text);
  cr_assert(passes_run(m, &(PassOptions){.targets = &target, .n_targets = 1}, &p, &e), "%s", e.text);
  return p;
}

static const Entry *entry_named(const Program *p, const char *name)
{
  for (uint32_t i = 0; i < p->entries.len; i++)
    if (!strcmp(p->entries.data[i].name, name))
      return &p->entries.data[i];
  cr_assert_fail("no entry %s", name);
  return NULL;
}

static bool writes(const Program *p, const Part *part, uint32_t buffer)
{
  for (uint32_t i = 0; i < part->binds.count; i++)
    if (p->binds.data[part->binds.first + i].buffer == buffer)
      return true;
  return false;
}

/* Parts of an entry whose kernel's name starts so, or that have the kernel; products that make logits do not count. */
static uint32_t count(const Program *p, const Entry *en, const char *prefix, uint32_t kernel)
{
  uint32_t n = 0;

  for (uint32_t i = 0; i < en->launches.count; i++) {
    const Launch *l = &p->launches.data[en->launches.first + i];
    for (uint32_t j = 0; j < l->parts.count; j++) {
      const Part *part = &p->parts.data[l->parts.first + j];
      const char *name = p->kernels.data[part->kernel]->name;
      n += (prefix ? !strncmp(name, prefix, strlen(prefix)) : part->kernel == kernel) &&
           !writes(p, part, en->logits_buffer);
    }
  }
  return n;
}

static bool heads_are_blocks(const Module *m)
{
  for (uint32_t i = 0; i < m->states.len; i++)
    if (m->states.data[i].type.dim[2] % 32)
      return false;
  return true;
}

Test(launches, values_are_quantised_where_they_are_made)
{
  static const char *const cpus[] = {"x86-64-v2", "x86-64-v3", "x86-64-v4+vnni"};
  unsigned checked = 0;

  for (uint64_t seed = 1; seed <= 24; seed++) {
    Arena a = {0};
    Module *m = gen_decoder(&a, &(DecoderOptions){.seed = seed, .prefill_tokens = 24, .weights = DT_Q8_0});
    Program *p = lowered(m, cpus[seed % 3]);
    if (heads_are_blocks(m)) {
      cr_expect_eq(count(p, entry_named(p, "decode"), "rows.quant.", 0), 0, "seed %d", (int)seed);
      cr_expect_eq(count(p, entry_named(p, "prefill"), "rows.quant.", 0), 0, "seed %d", (int)seed);
      checked++;
    }
    arena_free(&a);
  }
  cr_expect_gt(checked, 0);
}

static bool is_read(const Program *p, const Bind *array)
{
  for (uint32_t i = 0; i < p->parts.len; i++) {
    const Part *part = &p->parts.data[i];
    for (uint32_t j = 0; j < part->binds.count; j++) {
      const Bind *b = &p->binds.data[part->binds.first + j];
      if (b->buffer == array->buffer && b->offset == array->offset &&
          p->kernels.data[part->kernel]->params.data[j].access != KA_WRITE)
        return true;
    }
  }
  return false;
}

/* Of kernels that write several arrays of one value: do they write each for someone. */
static uint32_t arrays_for_nobody(const Program *p, uint32_t *arrays)
{
  uint32_t unread = 0;

  for (uint32_t k = 0; k < p->kernels.len; k++)
    for (uint32_t j = 0; j < p->kernels.data[k]->params.len; j++) {
      bool read = false, is_array = false;
      for (uint32_t i = 0; i < p->parts.len; i++) {
        const Bind *b = &p->binds.data[p->parts.data[i].binds.first + j];
        if (p->parts.data[i].kernel != k || !p->buffers.data[b->buffer].arrays ||
            p->kernels.data[k]->params.data[j].access != KA_WRITE)
          continue;
        is_array = true;
        read |= is_read(p, b);
      }
      *arrays += is_array;
      unread += is_array && !read;
    }
  return unread;
}

Test(launches, no_array_is_written_for_nobody)
{
  static const DType types[] = {DT_Q4_0, DT_Q8_0, DT_Q4_K, DT_Q6_K};
  static const char *const cpus[] = {"x86-64-v2", "x86-64-v3", "x86-64-v4+vnni"};

  for (size_t t = 0; t < COUNT(types) * COUNT(cpus); t++) {
    Arena a = {0};
    const DecoderOptions o = {.seed = t, .prefill_tokens = 24, .weights = types[t % COUNT(types)]};
    uint32_t arrays = 0,
             unread = arrays_for_nobody(lowered(gen_decoder(&a, &o), cpus[t % COUNT(cpus)]), &arrays);
    cr_expect_gt(arrays, 0);
    cr_expect_eq(unread, 0, "%s: %u of %u", dtype_info[o.weights].name, unread, arrays);
    arena_free(&a);
  }
}

Test(launches, decode_has_the_products_of_prefill)
{
  for (uint64_t seed = 1; seed <= 12; seed++) {
    Arena a = {0};
    Module *m = gen_decoder(&a, &(DecoderOptions){.seed = seed, .prefill_tokens = 24, .weights = DT_Q4_K});
    Program *p = lowered(m, "x86-64-v2");
    const Entry *decode = entry_named(p, "decode"), *prefill = entry_named(p, "prefill");
    cr_expect_gt(count(p, prefill, "linear.", 0), 0);
    for (uint32_t k = 0; k < p->kernels.len; k++)
      if (!strncmp(p->kernels.data[k]->name, "linear.", 7) && count(p, prefill, NULL, k))
        cr_expect_gt(count(p, decode, NULL, k), 0, "seed %d: %s", (int)seed, p->kernels.data[k]->name);
    arena_free(&a);
  }
}

/* A product of sums and pinned ones widens the sums. */
static bool widens(const Kernel *k, KVal v)
{
  return kernel_node(k, v)->op == K_dot2w && kernel_node(k, kernel_in(k, v, 2))->op == K_pin;
}

static bool has_op(const Kernel *k, KOp op)
{
  for (KVal v = 1; v < k->nodes.len; v++)
    if (kernel_node(k, v)->op == op && !widens(k, v))
      return true;
  return false;
}

/* Kernels of an entry's products that have the op. */
static uint32_t products_with(const Program *p, const char *entry, KOp op)
{
  uint32_t n = 0;

  for (uint32_t k = 0; k < p->kernels.len; k++)
    n += !strncmp(p->kernels.data[k]->name, "linear.", 7) && count(p, entry_named(p, entry), NULL, k) &&
         has_op(p->kernels.data[k], op);
  return n;
}

Test(launches, codes_of_8_bits_are_multiplied_in_16)
{
  static const struct {
    const char *cpu;
    DType weights;
    KOp op, not;
  } rows[] = {{"x86-64-v3", DT_Q8_0, K_dot2w, K_dot2},
              {"x86-64-v4", DT_Q8_0, K_dot2w, K_dot2},
              {"x86-64-v3", DT_Q4_0, K_dot2, K_dot2w},
              {"x86-64-v4+vnni", DT_Q8_0, K_dot4, K_dot2w}};

  for (size_t i = 0; i < COUNT(rows); i++) {
    Arena a = {0};
    Module *m =
        gen_decoder(&a, &(DecoderOptions){.seed = 3, .prefill_tokens = 24, .weights = rows[i].weights});
    Program *p = lowered(m, rows[i].cpu);
    cr_expect_gt(products_with(p, "prefill", rows[i].op), 0, "%s", rows[i].cpu);
    cr_expect_eq(products_with(p, "prefill", rows[i].not), 0, "%s", rows[i].cpu);
    arena_free(&a);
  }
}

#if MICC_HAVE_LLVM
/* The loop around the first `op` of a text of instructions: from the label before it to the jump back there. */
static const char *loop_around(const char *text, const char *op, const char **end)
{
  const char *at = strstr(text, op), *label = NULL, *colon;
  char back[32];

  cr_assert(at, "no %s", op);
  for (const char *l = strstr(text, "\n.LBB"); l && l < at; l = strstr(l + 1, "\n.LBB"))
    label = l + 1;
  cr_assert(label);
  colon = strchr(label, ':');
  snprintf(back, sizeof back, "\t%.*s\n", (int)(colon - label), label);
  *end = strstr(at, back);
  cr_assert(*end, "no way back to%s", back);
  return label;
}

static uint32_t lines_with(const char *from, const char *end, const char *word, const char *other)
{
  uint32_t n = 0;

  for (const char *next; from < end; from = next) {
    next = strchr(from, '\n') + 1;
    const char *at = strstr(from, word), *there = strstr(from, other);
    n += at && at < next && there && there < next;
  }
  return n;
}
#endif

/* 16 registers are just enough for a tile's sums of codes of 4 bits, if all goes in order. One that waits in memory, and is
 * added from there, costs little. */
Test(launches, sums_of_a_tile_stay_in_registers)
{
#if MICC_HAVE_LLVM
  Arena a = {0};
  Err e = {0};
  Module *m = gen_decoder(&a, &(DecoderOptions){.seed = 3, .prefill_tokens = 24, .weights = DT_Q4_0});
  Program *p = lowered(m, "x86-64-v3");
  LlvmOptions o = {.target = target_find("x86-64-v3", &e), .opt_level = 2};
  uint32_t loops = 0;

  for (uint32_t k = 0; k < p->kernels.len; k++) {
    const Kernel *kernel = p->kernels.data[k];
    const void *text;
    uint64_t n;
    if (strncmp(kernel->name, "linear.", 7) || !has_op(kernel, K_pin))
      continue;
    cr_assert(llvm_emit(&kernel, 1, &o, LLVM_ASM, &a, &text, &n, &e), "%s", e.text);
    const char *end, *loop = loop_around(text, "vpmaddubsw", &end);
    cr_expect_eq(lines_with(loop, end, "vpmaddubsw", "%ymm"), 48, "%s: 3 tokens, 2 vectors, 8 fours",
                 kernel->name);
    cr_expect_leq(lines_with(loop, end, "(%rsp)", "%ymm"), 2, "%s: more than one sum on the stack",
                  kernel->name);
    loops++;
  }
  cr_expect_gt(loops, 0);
  arena_free(&a);
#else
  printf("skipped: built without LLVM\n");
#endif
}

/* Iterations of all products of a prompt, but for logits. */
static uint32_t iterations(const char *cpu)
{
  Arena a = {0};
  Program *p =
      lowered(gen_decoder(&a, &(DecoderOptions){.seed = 3, .prefill_tokens = 24, .weights = DT_F16}), cpu);
  const Entry *en = entry_named(p, "prefill");
  uint32_t n = 0;

  for (uint32_t i = 0; i < en->launches.count; i++) {
    const Launch *l = &p->launches.data[en->launches.first + i];
    for (uint32_t j = 0; j < l->parts.count; j++) {
      const Part *part = &p->parts.data[l->parts.first + j];
      if (!strncmp(p->kernels.data[part->kernel]->name, "linear.", 7) && !writes(p, part, en->logits_buffer))
        n += part->grid;
    }
  }
  arena_free(&a);
  return n;
}

Test(launches, two_panels_abreast_where_a_vector_holds_one)
{
  cr_expect_gt(iterations("x86-64-v4"), 0);
  cr_expect_lt(iterations("x86-64-v4"), iterations("x86-64-v3"));
}
