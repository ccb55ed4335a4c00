/* inprocess.c - model, passes, image, code in memory, engine: what `micc run` does, without a command line. */
#include "tests/e2e/support/inprocess.h"
#include "tests/e2e/support/tally.h"

#include <sys/mman.h>

#include "codegen/image.h"
#include "frontend/arch/arch.h"
#include "passes/passes.h"

static bool code(InProgram *p, const Program *prog, const Target *target, bool llvm, Err *e)
{
  const Kernel *const *k = (const Kernel *const *)prog->kernels.data;
  LlvmOptions lo = {.target = target, .opt_level = 2};

  return llvm ? jit_llvm(&p->jit, k, prog->kernels.len, &lo, e)
              : jit_tcc(&p->jit, k, prog->kernels.len, &p->model->arena, e);
}

static bool to_memory(void *ctx, const void *bytes, uint64_t n)
{
  uint8_t **to = ctx;
  memcpy(*to, bytes, n);
  *to += n;
  return true;
}

static bool make_image(InProgram *p, Program *prog, Err *e)
{
  Image im;
  ImageParts parts = {"model: of a test\n", NULL, 0};

  if (!image_build(&p->model->arena, &prog, 1, &parts, &im, e))
    return false;
  void *at = mmap(NULL, im.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (at == MAP_FAILED)
    return fail(e, "no memory for the image");
  p->image = at;
  p->image_bytes = im.bytes;
  uint8_t *to = at;
  return image_write(&im, to_memory, &to);
}

static bool compile(InProgram *p, const char *path, const InOptions *o, Err *e)
{
  ArchOptions ao = {.context = o->context, .prefill_tokens = o->prefill, .kv = -1};
  ArchInfo info;
  Module *module;
  Program *prog;
  const Target *target = target_find(o->cpu ? o->cpu : "c", e);
  PassOptions po = {.targets = &target, .n_targets = 1};

  p->model = target ? model_open(path, e) : NULL;
  if (!p->model || !arch_info(p->model, &ao, &info, e) || !arch_build(p->model, &ao, &module, e) ||
      !passes_run(module, &po, &prog, e))
    return false;
  p->n_vocab = info.n_vocab;
  return code(p, prog, target, o->cpu, e) && make_image(p, prog, e);
}

static bool start(InProgram *p, unsigned threads, Err *e)
{
  char line[256];
  MiOut why = {.buf = line, .cap = sizeof line, .fd = -1};

  p->open = mi_engine_open(&p->engine, p->image, p->image_bytes, p->jit.kernels, threads, &why);
  if (!p->open)
    return fail(e, "%s", mi_out_string(&why));
  p->decode = mi_engine_entry(&p->engine, "decode");
  p->prefill = mi_engine_entry(&p->engine, "prefill");
  return p->decode >= 0 || fail(e, "no entry point \"decode\"");
}

bool in_open(InProgram *p, const char *model, const InOptions *o)
{
  Err e = {0};

  *p = (InProgram){0};
  return (compile(p, model, o, &e) && start(p, o->threads, &e)) ||
         tally(false, "%s in memory: %s", model, e.text);
}

void in_close(InProgram *p)
{
  if (p->open)
    mi_engine_close(&p->engine);
  if (p->image)
    munmap(p->image, p->image_bytes);
  jit_free(&p->jit);
  if (p->model)
    model_close(p->model);
}

bool in_feed(InProgram *p, const int32_t *tokens, uint32_t n, uint32_t tiled, float *rows, uint32_t n_rows)
{
  uint32_t tile = tiled ? p->engine.entries[p->prefill].tokens : 0, pos = 0;

  mi_engine_reset(&p->engine);
  for (uint32_t now; pos < tiled; pos += now) {
    now = tiled - pos < tile ? tiled - pos : tile;
    if (!mi_engine_run(&p->engine, p->prefill, tokens + pos, now, pos))
      return false;
  }
  for (; pos < n; pos++) {
    if (!mi_engine_run(&p->engine, p->decode, tokens + pos, 1, pos))
      return false;
    if (pos + n_rows >= n)
      memcpy(rows + (size_t)(pos + n_rows - n) * p->n_vocab, mi_engine_logits(&p->engine),
             p->n_vocab * sizeof *rows);
  }
  return true;
}
