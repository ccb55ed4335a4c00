/* What the LLVM printer makes of whole kernels: structure, the machine code of an integer product, the form
 * and sameness of objects, and what it refuses. */
#include "ir/kernel.h"

#include <criterion/criterion.h>
#include <stdio.h>

#if MICC_HAVE_LLVM
#include "codegen/llvm.h"

#include <elf.h>
#include <pthread.h>
#include <stdlib.h>

static Kernel *parse(Arena *a, const char *text)
{
  Err e = {0};
  Kernel *k = kernel_parse(a, text, "kernel", &e);

  cr_assert(k, "%s", e.text);
  cr_assert(kernel_verify(k, &e), "%s", e.text);
  return k;
}

static LlvmJit *must_jit(const Kernel *k, const Target *t, int opt_level)
{
  LlvmOptions o = {.target = t, .opt_level = opt_level};
  Err e = {0};
  LlvmJit *jit = llvm_jit(&k, 1, &o, &e);

  cr_assert(jit, "%s", e.text);
  return jit;
}

static const char *must_emit(const Kernel *k, const Target *t, LlvmOutput what, Arena *a, uint64_t *n)
{
  LlvmOptions o = {.target = t, .opt_level = 2};
  const void *bytes = NULL;
  Err e = {0};
  bool ok = llvm_emit(&k, 1, &o, what, a, &bytes, n, &e);

  cr_assert(ok, "%s: %s", t->name, e.text);
  return bytes;
}

/* ---- structure: each text gives the same as the interpreter at each optimisation level */

static const char *const structures[] = {
    /* a triangle of loops, its sums used after them; the values of the loop before are first values of the
       next */
    "kernel nested (x: i32, y: i32 both) {\n"
    "  %1 = grid idx\n"
    "  %2 = const idx 0\n"
    "  %3 = const i32 0\n"
    "  %4 = const i32 1\n"
    "  %5 = loop idx %2, %1, 1\n"
    "    %6 = carry i32 %3\n"
    "    %7 = carry i32 %4\n"
    "    %8 = loop idx %2, %5, 2\n"
    "      %9 = carry i32 %6\n"
    "      %10 = load i32 x[%8 + 3]\n"
    "      %11 = add i32 %10, %9\n"
    "    end %11\n"
    "    %12 = add i32 %9, %7\n"
    "  end %12, %6\n"
    "  store y[%1], %6\n"
    "  %13 = loop idx %2, %1, 3\n"
    "    %14 = carry i32 %7\n"
    "    %15 = sub i32 %14, %6\n"
    "  end %15\n"
    "  store y[%1 + 16], %14\n"
    "}\n",
    /* branches with and without else, one in the other, in a loop */
    "kernel branches (x: i32, y: i32 both) {\n"
    "  %1 = grid idx\n"
    "  %2 = const idx 0\n"
    "  %3 = const idx 4\n"
    "  %4 = const i32 0\n"
    "  %5 = mul idx %1, %3\n"
    "  %6 = loop idx %2, %3, 1\n"
    "    %7 = carry i32 %4\n"
    "    %8 = add idx %5, %6\n"
    "    %9 = load i32 x[%8]\n"
    "    %10 = lt bool %9, %4\n"
    "    if %10\n"
    "      store y[%8], %7\n"
    "      %11 = lt bool %9, %7\n"
    "      if %11\n"
    "        store y[%8], %4\n"
    "      end\n"
    "    else\n"
    "      store y[%8], %9\n"
    "    end\n"
    "    %12 = xor i32 %9, %7\n"
    "  end %12\n"
    "}\n",
    /* the call's integers, scratch memory, and a buffer seen as other elements */
    "kernel memory (x: i32, y: i32 both, s: f32 scratch 64) {\n"
    "  %1 = grid idx\n"
    "  %2 = arg i32 0\n"
    "  %3 = arg i32 1\n"
    "  %4 = const idx 0\n"
    "  %5 = const idx 2\n"
    "  %6 = loop idx %4, %5, 1\n"
    "    %7 = add idx %1, %6\n"
    "    %8 = load i32 x[%7]\n"
    "    %9 = cast f32 %8\n"
    "    store s[%6], %9\n"
    "  end\n"
    "  %10 = load i32x2 s[%4]\n"
    "  %11 = extract i32 %10, 1\n"
    "  %12 = mul i32 %11, %2\n"
    "  %13 = sub i32 %12, %3\n"
    "  store y[%1], %13\n"
    "}\n",
};

static void check_structure(const char *text, int opt_level)
{
  enum { WORDS = 256, LO = 3, HI = 15 };
  int32_t x[WORDS], want[WORDS] = {0}, got[WORDS] = {0}, args[2] = {-7, 1000};
  float scratch[16];
  Arena arena = {0};
  Err e = {0};
  const Kernel *k = parse(&arena, text);
  LlvmJit *jit = must_jit(k, target_host(), opt_level);

  for (int i = 0; i < WORDS; i++)
    x[i] = (int32_t)((uint32_t)i * 2654435761u);
  bool ok = kernel_eval(k, (void *[]){x, want, scratch}, (uint64_t[]){sizeof x, sizeof want, sizeof scratch},
                        args, LO, HI, &e);
  cr_assert(ok, "%s", e.text);
  llvm_jit_table(jit)[0]((uint8_t *const[]){(uint8_t *)x, (uint8_t *)got, (uint8_t *)scratch}, args, LO, HI);
  cr_expect_arr_eq(got, want, sizeof got, "%s at -O%d", k->name, opt_level);
  llvm_jit_free(jit);
  arena_free(&arena);
}

Test(llvm_code, structure)
{
  if (!target_host()->triple) {
    printf("skipped: no row of LLVM's runs here\n");
    return;
  }
  for (size_t i = 0; i < COUNT(structures); i++)
    for (int level = 0; level < 4; level++)
      check_structure(structures[i], level);
}

/* ---- the product of 4-bit codes with 8-bit activations, 16 rows side by side, a tile of tokens */

enum { BLOCKS = 18, BLOCK_BYTES = 32 + 4 * 64, COLUMNS = 32 * BLOCKS, ROWS = 16, PANELS = 3, MAX_TILE = 12 };

typedef struct {
  Kernel *k;
  const Target *target;
  unsigned lanes, vectors, tokens; /* `vectors` of `lanes` rows */
  uint16_t w, x, scale, y;
  KVal block, panel;
} Panel;

static KType i32s(const Panel *p)
{
  return ktype(KE_i32, p->lanes);
}

static KType f32s(const Panel *p)
{
  return ktype(KE_f32, p->lanes);
}

/* sum[token][vector] += codes of piece g times the activations at column */
static void add_products(const Panel *p, KVal at, const KVal *code, int64_t column, KVal *sum)
{
  KOp op = p->target->dot4 ? K_dot4 : K_dot2;

  for (unsigned t = 0; t < p->tokens; t++) {
    KVal four = k_load(p->k, ktype(KE_i32, 1), p->x, at, t * COLUMNS + column);
    KVal act = k_splat(p->k, ktype(KE_i8, p->lanes * 4), four);
    for (unsigned v = 0; v < p->vectors; v++, sum++)
      *sum = k_dot(p->k, op, *sum, code[v], act);
  }
}

static void block_products(const Panel *p, KVal weights, KVal acts, KVal *sum)
{
  KType bytes = ktype(KE_u8, p->lanes * 4);
  KVal low = k_int(p->k, bytes, 15), code[4], high[4];

  for (int64_t g = 0; g < 4; g++) {
    for (unsigned v = 0; v < p->vectors; v++) {
      KVal both = k_load(p->k, bytes, p->w, weights, 32 + g * 64 + v * p->lanes * 4);
      code[v] = k_op2(p->k, K_and, both, low);
      high[v] = k_shift(p->k, K_shr, both, 4);
    }
    add_products(p, acts, code, 4 * g, sum);
    add_products(p, acts, high, 4 * g + 16, sum);
  }
}

/* acc + scale_w * scale_x * sum */
static KVal scaled(const Panel *p, KVal sum, KVal scale_w, unsigned token, KVal acc)
{
  KVal whole = sum, scale_x = k_load(p->k, ktype(KE_f32, 1), p->scale, p->block, token * BLOCKS);

  if (!p->target->dot4)
    whole = kernel_add(p->k, K_widen, i32s(p), &sum, 1, 0);
  KVal scale = k_op2(p->k, K_mul, scale_w, k_splat(p->k, f32s(p), scale_x));
  KVal value = k_cast(p->k, KE_f32, whole);
  return p->target->fma ? k_fma(p->k, value, scale, acc)
                        : k_op2(p->k, K_add, k_op2(p->k, K_mul, value, scale), acc);
}

static void block_loop(Panel *p, KVal *acc)
{
  Kernel *k = p->k;
  KType sums = p->target->dot4 ? i32s(p) : ktype(KE_i16, p->lanes * 2);
  unsigned n = p->tokens * p->vectors;
  KVal sum[4 * MAX_TILE], scale_w[4], zero = k_int(k, sums, 0), start = k_flt(k, p->lanes, 0);

  p->block = k_loop(k, k_idx(k, 0), k_idx(k, BLOCKS), 1);
  for (unsigned i = 0; i < n; i++) {
    acc[i] = k_carry(k, start);
    sum[i] = zero;
  }
  KVal weights = k_op2(k, K_add, k_op2(k, K_mul, p->block, k_idx(k, BLOCK_BYTES)), p->panel);
  block_products(p, weights, k_op2(k, K_mul, p->block, k_idx(k, 32)), sum);
  for (unsigned v = 0; v < p->vectors; v++) {
    KVal half =
        k_load(k, ktype(p->target->f16c ? KE_f16 : KE_i16, p->lanes), p->w, weights, v * p->lanes * 2);
    scale_w[v] = k_cast(k, KE_f32, half);
  }
  for (unsigned i = 0; i < n; i++)
    sum[i] = scaled(p, sum[i], scale_w[i % p->vectors], i / p->vectors, acc[i]);
  k_end(k, sum, n);
}

static Kernel *panel_kernel(Arena *a, const Target *t, unsigned tokens)
{
  Panel p = {.k = kernel_new(a, "panel"), .target = t, .lanes = t->vector_bytes / 4, .tokens = tokens};
  KVal acc[4 * MAX_TILE];

  p.vectors = ROWS / p.lanes;
  p.w = kernel_param(p.k, "w", KE_u8, KA_READ);
  p.x = kernel_param(p.k, "x", KE_i8, KA_READ);
  p.scale = kernel_param(p.k, "scale", KE_f32, KA_READ);
  p.y = kernel_param(p.k, "y", KE_f32, KA_WRITE);
  KVal grid = k_grid(p.k), row = k_op2(p.k, K_mul, grid, k_idx(p.k, ROWS));
  p.panel = k_op2(p.k, K_mul, grid, k_idx(p.k, BLOCKS * BLOCK_BYTES));
  block_loop(&p, acc);
  for (unsigned i = 0; i < tokens * p.vectors; i++)
    k_store(p.k, p.y, row, (int64_t)(i / p.vectors * PANELS * ROWS + i % p.vectors * p.lanes), acc[i]);
  return p.k;
}

static bool has_line(const char *text, const char *const *words, size_t n_words)
{
  for (const char *line = text, *end; *line; line = end + 1) {
    size_t found = 0;
    end = line + strcspn(line, "\n");
    for (size_t i = 0; i < n_words; i++) {
      const char *at = strstr(line, words[i]);
      found += at && at < end;
    }
    if (found == n_words)
      return true;
    if (!*end)
      break;
  }
  return false;
}
#define HAS_LINE(text, ...)                                                                                  \
  has_line(text, (const char *const[]){__VA_ARGS__}, COUNT(((const char *const[]){__VA_ARGS__})))

typedef struct {
  const char *cpu;
  unsigned tokens;
  const char *line[4][3]; /* words that stand in one line */
} Expect;

static const Expect expects[] = {
    {"cascadelake",
     12,
     {{"vpdpbusd", "{1to16}", "%zmm"}, {"vcvtdq2ps", "%zmm"}, {"vfmadd", "%zmm"}, {"vcvtph2ps"}}},
    {"x86-64-v4", 1, {{"vpmaddubsw", "%zmm"}, {"vpmaddwd", "%zmm"}, {"vpbroadcastd", "(%r", "%zmm"}}},
    {"x86-64-v3+avxvnni", 2, {{"vpdpbusd", "%ymm"}, {"vpbroadcastd", "(%r", "%ymm"}}},
    {"x86-64-v3", 1, {{"vpmaddubsw", "%ymm"}, {"vpmaddwd", "%ymm"}, {"vpbroadcastd", "(%r", "%ymm"}}},
    {"x86-64-v2", 1, {{"pmaddubsw", "%xmm"}, {"pmaddwd", "%xmm"}}},
};

/* The product's instructions, and no vector that does not stay in its register. */
Test(llvm_code, integer_products)
{
  for (size_t i = 0; i < COUNT(expects); i++) {
    const Expect *x = &expects[i];
    Arena arena = {0};
    Err e = {0};
    uint64_t n;
    const char *text = must_emit(panel_kernel(&arena, target_find(x->cpu, &e), x->tokens),
                                 target_find(x->cpu, &e), LLVM_ASM, &arena, &n);
    for (size_t l = 0; l < COUNT(x->line) && x->line[l][0]; l++) {
      size_t words = 1;
      while (words < COUNT(x->line[l]) && x->line[l][words])
        words++;
      cr_expect(has_line(text, x->line[l], words), "%s: no line with %s ...", x->cpu, x->line[l][0]);
    }
    if (strcmp(x->cpu, "x86-64-v2"))
      cr_expect(!HAS_LINE(text, "(%rsp)", "mm"), "%s: a vector is kept on the stack", x->cpu);
    arena_free(&arena);
  }
}

static void check_product(const Target *t, unsigned tokens)
{
  enum {
    W = PANELS * BLOCKS * BLOCK_BYTES,
    X = MAX_TILE * COLUMNS,
    S = MAX_TILE * BLOCKS,
    Y = MAX_TILE * PANELS * ROWS
  };
  static uint8_t w[W], x[X];
  static float scale[S], want[Y], got[Y];
  const uint16_t w_scale[] = {f32_to_f16(0.01f), f32_to_f16(-0.3f), f32_to_f16(1.5f)};
  int32_t args[2] = {0};
  Arena arena = {0};
  Err e = {0};
  Kernel *k = panel_kernel(&arena, t, tokens);
  LlvmJit *jit = must_jit(k, t, 2);

  for (uint32_t i = 0; i < W; i++)
    w[i] = (uint8_t)(i * 2654435761u >> 13);
  for (uint32_t i = 0; i < W / BLOCK_BYTES * ROWS; i++)
    memcpy(w + i / ROWS * BLOCK_BYTES + i % ROWS * 2, &w_scale[i % 3], 2);
  for (uint32_t i = 0; i < X; i++)
    x[i] = (uint8_t)(i * 2246822519u >> 11);
  for (uint32_t i = 0; i < S; i++)
    scale[i] = 0.001f * (float)(i % 7);
  bool ok =
      kernel_verify(k, &e) && kernel_eval(k, (void *[]){w, x, scale, want},
                                          (uint64_t[]){W, X, sizeof scale, sizeof want}, args, 0, PANELS, &e);
  cr_assert(ok, "%s", e.text);
  llvm_jit_table(jit)[0]((uint8_t *const[]){w, x, (uint8_t *)scale, (uint8_t *)got}, args, 0, PANELS);
  cr_expect_arr_eq(got, want, sizeof got, "%s, %u tokens", t->name, tokens);
  llvm_jit_free(jit);
  arena_free(&arena);
}

Test(llvm_code, integer_products_equal_the_interpreter)
{
  for (size_t i = 0; i < COUNT(expects); i++) {
    Err e = {0};
    const Target *t = target_find(expects[i].cpu, &e);
    if (t->runs_here())
      check_product(t, expects[i].tokens);
    else
      printf("skipped: this machine does not run code for %s\n", t->name);
  }
}

/* ---- objects */

static const Elf64_Shdr *section(const uint8_t *o, uint32_t type)
{
  const Elf64_Ehdr *h = (const Elf64_Ehdr *)o;
  const Elf64_Shdr *s = (const Elf64_Shdr *)(o + h->e_shoff);

  for (unsigned i = 0; i < h->e_shnum; i++)
    if (s[i].sh_type == type)
      return &s[i];
  return NULL;
}

/* The table is the only name given, and no name is asked for. */
static void check_symbols(const uint8_t *o)
{
  const Elf64_Shdr *table = section(o, SHT_SYMTAB);
  const Elf64_Shdr *names = (const Elf64_Shdr *)(o + ((const Elf64_Ehdr *)o)->e_shoff) + table->sh_link;
  const Elf64_Sym *s = (const Elf64_Sym *)(o + table->sh_offset);

  for (uint64_t i = 1; i < table->sh_size / sizeof *s; i++) {
    const char *name = (const char *)o + names->sh_offset + s[i].st_name;
    cr_expect(s[i].st_shndx != SHN_UNDEF, "'%s' is not defined", name);
    if (ELF64_ST_BIND(s[i].st_info) == STB_GLOBAL)
      cr_expect_str_eq(name, "mi_kernels");
  }
}

Test(llvm_code, objects_of_each_row)
{
  for (unsigned i = 0; i < target_count; i++) {
    const Target *t = &target_table[i];
    Arena arena = {0};
    uint64_t n, again;
    if (!t->triple)
      continue;
    const char *o = must_emit(panel_kernel(&arena, t, 2), t, LLVM_OBJ, &arena, &n);
    const char *p = must_emit(panel_kernel(&arena, t, 2), t, LLVM_OBJ, &arena, &again);
    cr_assert(n == again && !memcmp(o, p, n), "%s: other bytes the second time", t->name);
    cr_assert(n > sizeof(Elf64_Ehdr) && !memcmp(o, ELFMAG, SELFMAG));
    check_symbols((const uint8_t *)o);
    arena_free(&arena);
  }
}

Test(llvm_code, ir_is_text)
{
  Arena arena = {0};
  Err e = {0};
  uint64_t n;
  const Target *t = target_find("cascadelake", &e);
  const char *text = must_emit(panel_kernel(&arena, t, 1), t, LLVM_IR, &arena, &n);

  cr_expect_eq(strlen(text), n);
  cr_expect(HAS_LINE(text, "@mi_kernels = constant [1 x ptr]"));
  cr_expect(HAS_LINE(text, "define internal", "@panel(", "noalias", "readonly", "writeonly"));
  arena_free(&arena);
}

typedef struct {
  const Target *target;
  Arena arena;
  const char *bytes;
  uint64_t n;
} Job;

static void *run_job(void *job)
{
  Job *j = job;
  Err e = {0};
  LlvmOptions o = {.target = j->target, .opt_level = 2};
  const Kernel *k = panel_kernel(&j->arena, j->target, 3);
  const void *bytes = NULL;

  if (llvm_emit(&k, 1, &o, LLVM_OBJ, &j->arena, &bytes, &j->n, &e))
    j->bytes = bytes;
  return NULL;
}

Test(llvm_code, several_threads_at_once)
{
  enum { THREADS = 4 };
  Job job[THREADS] = {0};
  pthread_t thread[THREADS];
  Err e = {0};

  for (int i = 0; i < THREADS; i++) {
    job[i].target = target_find(i % 2 ? "x86-64-v3" : "cascadelake", &e);
    cr_assert(!pthread_create(&thread[i], NULL, run_job, &job[i]));
  }
  for (int i = 0; i < THREADS; i++)
    pthread_join(thread[i], NULL);
  for (int i = 0; i < THREADS; i++) {
    const Job *first = &job[i % 2];
    cr_expect(job[i].bytes && job[i].n == first->n && !memcmp(job[i].bytes, first->bytes, first->n));
  }
  for (int i = 0; i < THREADS; i++)
    arena_free(&job[i].arena);
}

/* ---- what is refused */

static const struct {
  const char *text, *message;
} refused[] = {
    {"kernel k (x: f32 both) {\n"
     "  %1 = grid idx\n"
     "  %2 = load f32x4 x[%1]\n"
     "  %3 = fma f32x4 %2, %2, %2\n"
     "  store x[%1], %3\n"
     "}\n",
     "kernel 'k': %3 is fma, for which x86-64-v2 has no instruction"},
    {"kernel k (x: f16, y: f32 write) {\n"
     "  %1 = grid idx\n"
     "  %2 = load f16x4 x[%1]\n"
     "  %3 = cast f32x4 %2\n"
     "  store y[%1], %3\n"
     "}\n",
     "kernel 'k': %3 is cast, for which x86-64-v2 has no instruction"},
};

Test(llvm_code, what_a_row_lacks_is_no_library_call)
{
  for (size_t i = 0; i < COUNT(refused); i++) {
    Arena arena = {0};
    Err e = {0};
    LlvmOptions o = {.target = target_find("x86-64-v2", &e), .opt_level = 2};
    const Kernel *k = parse(&arena, refused[i].text);
    const void *bytes;
    uint64_t n;
    cr_assert_not(llvm_emit(&k, 1, &o, LLVM_OBJ, &arena, &bytes, &n, &e));
    cr_expect_str_eq(e.text, refused[i].message);
    arena_free(&arena);
  }
}

Test(llvm_code, c_is_no_target_of_llvm)
{
  Arena arena = {0};
  Err e = {0};
  const Target *t = target_find("c", &e);
  const Kernel *k = panel_kernel(&arena, t, 1);
  LlvmOptions o = {.target = t, .opt_level = 2};

  cr_assert_null(llvm_jit(&k, 1, &o, &e));
  cr_assert(strstr(e.text, "'c'"), "%s", e.text);
  arena_free(&arena);
}
#else
Test(llvm_code, left_out)
{
  printf("skipped: micc was built without LLVM\n");
}
#endif
