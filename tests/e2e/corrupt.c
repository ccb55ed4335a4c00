/* corrupt.c - a model file damaged at each of 1,000 places gives one error line or a valid program: never a
 * crash, a hang, or a file left behind.
 *
 * All go through the compiler's steps within child processes, each on memory that ends at a page that cannot be
 * touched, with a time limit. Every sixteenth goes through the command as well; what it makes of it is run. */
#define _GNU_SOURCE
#include "codegen/image.h"
#include "codegen/target.h"
#include "frontend/arch/arch.h"
#include "frontend/gguf/gguf.h"
#include "frontend/tokenizer/tokenizer.h"
#include "passes/passes.h"
#include "runtime-min/mi_check.h"
#include "runtime-min/mi_tokenizer.h"
#include "tests/e2e/support/damage.h"
#include "tests/e2e/support/proc.h"
#include "tests/e2e/support/scene.h"
#include "tests/e2e/support/tally.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { CASES = 1000, BATCH = 50, SECONDS = 10, EVERY = 16, SHOWN = 5, PAGE = 4096 };
static Arena arena;

/* ---- the compiler's steps */

typedef struct {
  uint8_t *data;
  uint64_t n, cap;
} Room;

static bool sink(void *ctx, const void *bytes, uint64_t n)
{
  Room *r = ctx;

  if (n > r->cap - r->n)
    return false;
  memcpy(r->data + r->n, bytes, n);
  r->n += n;
  return true;
}

/* The whole image, as a program would map it. */
static bool check_image(const Image *im, Err *e)
{
  char line[256];
  MiOut why = {.buf = line, .cap = sizeof line, .fd = -1};
  void *map =
      mmap(NULL, im->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  Room r = {map, 0, im->bytes};

  if (map == MAP_FAILED)
    return fail(e, "WRONG: an image of %llu bytes", (unsigned long long)im->bytes);
  bool whole = image_write(im, sink, &r) && r.n == im->bytes;
  bool good = whole && mi_check_image(map, im->bytes, &why);
  munmap(map, im->bytes);
  return good ||
         fail(e, "WRONG: %s", whole ? mi_out_string(&why) : "the image has another size than it says");
}

/* The table is used by programs that check nothing any more. */
static void use_tokenizer(const uint8_t *table)
{
  static const char text[] = "Once upon a time <s></s> 12345\n\xff\xf0\x9f\x98\x80 <|endoftext|>";
  int32_t ids[2 * sizeof text + 2];
  MiDecoder d = {.started = 0};
  char piece[1024];
  size_t bytes = mi_tok_work_bytes(table, sizeof text);
  void *work = malloc(bytes);

  if (work)
    mi_tok_encode(table, text, sizeof text - 1, 1, 1, ids, COUNT(ids), work, bytes);
  free(work);
  for (uint32_t i = 0; i < mi_tok_vocab(table); i++)
    mi_tok_decode(table, &d, (int32_t)i, piece, sizeof piece);
}

static bool build(Model *m, Err *e)
{
  static const Target *targets[2];
  ArchOptions ao = {.context = 0, .prefill_tokens = 16, .kv = -1};
  ArchInfo info;
  Module *module;
  Program *programs[COUNT(targets)];
  const uint8_t *table = NULL;
  uint64_t table_bytes = 0;
  Image image;

  unsigned n = target_list("x86-64-v2,x86-64-v3", targets, COUNT(targets), e);
  PassOptions po = {.targets = targets, .n_targets = n};
  if (!n || !arch_info(m, &ao, &info, e) || !arch_build(m, &ao, &module, e) ||
      !tokenizer_build(m, &m->arena, &table, &table_bytes, e) || !passes_run(module, &po, programs, e))
    return false;
  if (table_bytes)
    use_tokenizer(table);
  ImageParts parts = {"about", table, table_bytes};
  return image_build(&m->arena, programs, n, &parts, &image, e) && check_image(&image, e);
}

static bool compile(const Bytes *b, Err *e)
{
  MemTrap trap;
  Model *volatile m = NULL;
  volatile bool ok = false;

  if (mem_try(&trap)) {
    m = gguf_parse((const uint8_t *)b->data, b->len, "bad.gguf", e);
    ok = m && build(m, e);
    mem_done(&trap);
  } else {
    fail(e, "out of memory");
  }
  model_close(m);
  return ok;
}

/* ---- many cases in child processes */

/* What a child has come to; shared with it. */
typedef struct {
  int at; /* the case that is being tried */
  int programs, errors, wrong;
  char what[256], said[1024];
} Progress;

/* Bytes whose end is the end of a page, but for the alignment that a mapped file has. */
static Bytes at_page_end(const Bytes *whole)
{
  size_t room = round_up(whole->len, PAGE);
  char *map = mmap(NULL, room + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  mprotect(map + room, PAGE, PROT_NONE);
  return (Bytes){map, room};
}

static bool is_line(const char *s)
{
  if (!*s || !strncmp(s, "WRONG", 5))
    return false;
  for (; *s; s++)
    if ((unsigned char)*s < 32 || *s == 127)
      return false;
  return true;
}

static void try_case(const Bytes *whole, const Bytes *room, int i, size_t head, Progress *p)
{
  Arena a = {0};
  Err e = {0};
  Bytes b = {arena_copy(&a, whole->data, whole->len), whole->len};

  p->at = i;
  snprintf(p->what, sizeof p->what, "%s", damage(&a, &b, (uint64_t)i, head));
  size_t at = (room->len - b.len) & ~(size_t)63;
  memcpy(room->data + at, b.data, b.len);
  b.data = room->data + at;
  alarm(SECONDS);
  if (compile(&b, &e))
    p->programs++;
  else
    p->errors++;
  if (e.text[0] && !is_line(e.text)) {
    p->wrong++;
    snprintf(p->said, sizeof p->said, "%s", e.text);
    printf("        case %d, %s: '%s'\n", i, p->what, e.text);
  }
  alarm(0);
  arena_free(&a);
}

/* Tries the cases [first, last) in a child; the first one that was not reached. */
static int run_batch(const Bytes *whole, int first, int last, size_t head, Progress *p)
{
  int status;

  fflush(stdout);
  pid_t pid = fork();
  if (!pid) {
    Bytes room = at_page_end(whole);
    for (int i = first; i < last; i++)
      try_case(whole, &room, i, head, p);
    fflush(stdout);
    _exit(0);
  }
  if (pid < 0 || waitpid(pid, &status, 0) < 0)
    return last;
  if (WIFEXITED(status) && !WEXITSTATUS(status))
    return last;
  tally(false, "case %d (%s): %s %d", p->at, p->what, WIFSIGNALED(status) ? "signal" : "exit status",
        WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
  return p->at + 1;
}

static void test_in_process(const char *name, const Bytes *whole, int first, int last, size_t head)
{
  Progress *p = mmap(NULL, sizeof *p, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  int crashed = 0;

  for (int i = first; i < last && crashed < SHOWN;) {
    int end = i + BATCH < last ? i + BATCH : last, reached = run_batch(whole, i, end, head, p);
    crashed += reached != end || p->at + 1 != end;
    i = reached;
  }
  tally(!crashed && !p->wrong && p->programs + p->errors == last - first,
        "%s damaged at %d places: %d error lines, %d sound images", name, last - first, p->errors,
        p->programs);
  munmap(p, sizeof *p);
}

/* ---- some of them through the command */

typedef struct {
  int errors, programs, ran, stopped;
} Counts;

static const char *without_warnings(const char *err)
{
  static const char warning[] = "micc: warning: ";

  while (!strncmp(err, warning, sizeof warning - 1) && strchr(err, '\n'))
    err = strchr(err, '\n') + 1;
  return err;
}

static void run_program(const char *dir, const char *what, Counts *n)
{
  Proc p = proc(&arena, HOW(.dir = dir, .seconds = SECONDS), "./out", "-p", "Once upon a time", "-n", "6",
                "-s", "1");

  n->ran += !p.status;
  n->stopped += p.status == 1 && proc_lines(p.err) == 1;
  if (p.status && (p.status != 1 || proc_lines(p.err) != 1))
    tally(false, "%s: the program ends with status %d: %.200s", what, p.status, p.err);
}

/* One model file through `micc -o`. */
static void command(const char *dir, const Bytes *b, const char *what, Counts *n)
{
  scene_write(arena_printf(&arena, "%s/bad.gguf", dir), b->data, b->len, 0644);
  Proc p = proc(&arena, HOW(.dir = dir, .seconds = SECONDS), MICC_EXE, "bad.gguf", "-o", "out", "-c", "64");
  const char *left = scene_names(&arena, dir), *err = without_warnings(p.err);

  if (!p.status && !*err && !strcmp(left, "bad.gguf out")) {
    n->programs++;
    run_program(dir, what, n);
  } else if (p.status == 1 && proc_lines(err) == 1 && is_line(arena_strndup(&arena, err, strlen(err) - 1)) &&
             !strncmp(err, "micc: ", 6) && !strcmp(left, "bad.gguf")) {
    n->errors++;
  } else {
    tally(false, "%s: status %d, left '%s', said: %.200s", what, p.status, left, p.err);
  }
  unlink(arena_printf(&arena, "%s/out", dir));
}

static void test_command(const char *name, const Bytes *whole, int first, int last, size_t head)
{
  if (!MICC_HAVE_LLVM)
    return;
  const char *dir = scene_open(&arena);
  Counts n = {0};
  int tried = 0;

  for (int i = first; i < last; i += EVERY, tried++) {
    Bytes b = {arena_copy(&arena, whole->data, whole->len), whole->len};
    command(dir, &b, damage(&arena, &b, (uint64_t)i, head), &n);
  }
  tally(n.errors + n.programs == tried && n.ran + n.stopped == n.programs,
        "%s, %d of them by micc: %d error lines; %d programs, of which %d ran and %d stopped with a line",
        name, tried, n.errors, n.programs, n.ran, n.stopped);
  scene_close(dir);
}

/* ---- absurd numbers where sound ones are expected */

typedef struct {
  const char *key, *hex;
} Absurd;

static const Absurd absurd[] = {
    {"llama.context_length", "00 00 00 00"},
    {"llama.context_length", "ff ff ff ff"},
    {"llama.context_length", "01 00 00 00"},
    {"llama.embedding_length", "00 00 00 00"},
    {"llama.embedding_length", "ff ff ff ff"},
    {"llama.embedding_length", "3f 00 00 00"},
    {"llama.block_count", "00 00 00 00"},
    {"llama.block_count", "04 00 00 00"},
    {"llama.block_count", "ff ff ff 7f"},
    {"llama.feed_forward_length", "ff ff ff ff"},
    {"llama.attention.head_count", "00 00 00 00"},
    {"llama.attention.head_count", "07 00 00 00"},
    {"llama.attention.head_count", "40 00 00 00"},
    {"llama.attention.head_count", "ff ff ff ff"},
    {"llama.attention.head_count_kv", "00 00 00 00"},
    {"llama.attention.head_count_kv", "03 00 00 00"},
    {"llama.attention.head_count_kv", "ff ff ff ff"},
    {"llama.attention.layer_norm_rms_epsilon", "00 00 00 00"},
    {"llama.attention.layer_norm_rms_epsilon", "00 00 c0 7f"},
    {"llama.attention.layer_norm_rms_epsilon", "00 00 80 7f"},
    {"llama.attention.layer_norm_rms_epsilon", "00 00 80 bf"},
    {"llama.rope.dimension_count", "00 00 00 00"},
    {"llama.rope.dimension_count", "07 00 00 00"},
    {"llama.rope.dimension_count", "ff ff ff ff"},
    {"llama.rope.freq_base", "00 00 00 00"},
    {"llama.rope.freq_base", "00 00 c0 7f"},
    {"llama.rope.freq_base", "00 00 80 ff"},
    {"llama.rope.freq_base", "01 00 00 00"},
    {"tokenizer.ggml.bos_token_id", "ff ff ff ff"},
    {"tokenizer.ggml.bos_token_id", "00 02 00 00"},
    {"tokenizer.ggml.eos_token_id", "ff ff ff 7f"},
    {"tokenizer.ggml.padding_token_id", "ff ff ff ff"},
    {"tokenizer.ggml.unknown_token_id", "ff ff ff ff"},
    {"tokenizer.ggml.add_bos_token", "02"},
    {"general.alignment", "00 00 00 00"},
    {"general.alignment", "ff ff ff ff"},
    {"general.architecture", "00 00 00 00 00 00 00 00"},
    {"general.architecture", "ff ff ff ff ff ff ff ff"},
    /* arrays: type and count of items stand before them */
    {"tokenizer.ggml.tokens", "08 00 00 00 ff ff ff ff"},
    {"tokenizer.ggml.tokens", "08 00 00 00 00 00 00 00 00 00 00 00"},
    {"tokenizer.ggml.scores",
     "06 00 00 00 00 02 00 00 00 00 00 00 00 00 c0 7f 00 00 c0 7f 00 00 80 7f 00 00 80 ff"},
    {"tokenizer.ggml.token_type", "05 00 00 00 00 02 00 00 00 00 00 00 ff ff ff ff ff ff ff 7f 00 00 00 00"},
};

static void test_absurd(const Bytes *whole)
{
  const char *dir = scene_open(&arena);
  Counts n = {0};
  int tried = 0;

  for (size_t i = 0; i < COUNT(absurd); i++) {
    Bytes b = {arena_copy(&arena, whole->data, whole->len), whole->len};
    if (!damage_value(&b, absurd[i].key, absurd[i].hex))
      continue;
    tried++;
    command(dir, &b, arena_printf(&arena, "%s = %s", absurd[i].key, absurd[i].hex), &n);
  }
  tally(tried > 30 && n.errors + n.programs == tried && n.ran + n.stopped == n.programs,
        "absurd metadata, %d values: %d error lines; %d programs, of which %d ran and %d stopped with a line",
        tried, n.errors, n.programs, n.ran, n.stopped);
  scene_close(dir);
}

/* Weights that are no numbers: a program may say so, or write nonsense. */
static void test_not_numbers(const Bytes *whole, size_t head)
{
  static const uint32_t values[] = {0x7fc00000, 0x7f800000, 0xff800000, 0x7f7fffff};
  const char *dir = scene_open(&arena);
  Counts n = {0};

  for (size_t i = 0; i < COUNT(values); i++) {
    Bytes b = {arena_copy(&arena, whole->data, whole->len), whole->len};
    for (size_t at = round_up(head, 4096); at + 4 <= b.len; at += 4)
      memcpy(b.data + at, &values[i], 4);
    command(dir, &b, arena_printf(&arena, "weights %#x", values[i]), &n);
  }
  tally(n.programs == (int)COUNT(values) && n.ran + n.stopped == n.programs,
        "weights that are no numbers: %d programs, of which %d ran and %d stopped with a line", n.programs,
        n.ran, n.stopped);
  scene_close(dir);
}

/* Where the tensors' data begins. */
static size_t head_bytes(const Bytes *b)
{
  Err e = {0};
  Model *m = gguf_parse((const uint8_t *)b->data, b->len, "model", &e);
  size_t n = m ? (size_t)m->data_offset : b->len;

  model_close(m);
  return n;
}

int main(void)
{
  static const char tiny[] =
      MICC_SHARED_DIR "/models/llm-tinystories-656k/gguf-q8_0/TinyStories-656K-Q8_0.gguf";
  static const char stories[] = MICC_SOURCE_DIR "/tests/data/stories260K.gguf";
  Bytes a, b;
  int half = CASES * 6 / 10;

  if (!tally(scene_read(&arena, stories, &a), "read %s", "stories260K.gguf"))
    return tally_end();
  if (!scene_read(&arena, tiny, &b)) {
    tally_skip("%s is not there; stories260K alone", tiny);
    half = CASES;
  }
  test_in_process("stories260K", &a, 0, half, head_bytes(&a));
  test_command("stories260K", &a, 0, half, head_bytes(&a));
  if (half < CASES) {
    test_in_process("TinyStories Q8_0", &b, half, CASES, head_bytes(&b));
    test_command("TinyStories Q8_0", &b, half, CASES, head_bytes(&b));
  }
  if (MICC_HAVE_LLVM) {
    test_absurd(&a);
    test_not_numbers(&a, head_bytes(&a));
  } else {
    tally_skip("micc was built without LLVM, so it makes no programs");
  }
  arena_free(&arena);
  return tally_end();
}
