/* exec.c - see exec.h. */
#include "codegen/exec.h"

#include <stdlib.h>

#include "codegen/c.h"
#include "codegen/image.h"
#if MICC_HAVE_LLVM
#include "codegen/llvm.h"
#endif
#if MICC_HAVE_TCC
#include "codegen/tcc.h"
#endif

struct Exec {
  const Program *p;
  ExecWay way;
  Arena own;
  uint8_t *space[4]; /* weights, arena, state, scratch */
  MiKernel *const *kernels;
#if MICC_HAVE_LLVM
  LlvmJit *llvm;
#endif
#if MICC_HAVE_TCC
  TccJit *tcc;
#endif
};

/* ---- memory */

static bool sink(void *ctx, const void *bytes, uint64_t n)
{
  uint8_t **to = ctx;

  memcpy(*to, bytes, n);
  *to += n;
  return true;
}

/* What a kernel may read beyond an end is there, and is no number. */
static uint8_t *room(Exec *x, uint64_t bytes)
{
  enum { BEYOND = 256 };
  uint8_t *p = arena_alloc(&x->own, bytes + BEYOND + 64);

  memset(p, 0xff, bytes + BEYOND + 64);
  return p + (64 - (uintptr_t)p % 64) % 64;
}

static void take_memory(Exec *x)
{
  const Program *p = x->p;
  Image im = {.prog = p, .head = (const uint8_t *)"", .bytes = round_up(p->space_bytes[SPACE_WEIGHTS], 64)};

  for (int s = 0; s < 4; s++)
    x->space[s] = room(x, round_up(p->space_bytes[s], 64));
  uint8_t *to = x->space[SPACE_WEIGHTS];
  image_write(&im, sink, &to);
}

/* ---- kernels */

static bool compile_llvm(Exec *x, const Target *target, Err *e)
{
#if MICC_HAVE_LLVM
  LlvmOptions o = {.target = target, .opt_level = 2};
  x->llvm = llvm_jit((const Kernel *const *)x->p->kernels.data, x->p->kernels.len, &o, e);
  x->kernels = x->llvm ? llvm_jit_table(x->llvm) : NULL;
  return x->llvm;
#else
  (void)x, (void)target;
  return fail(e, "this micc was built without LLVM");
#endif
}

static bool compile_tcc(Exec *x, Err *e)
{
#if MICC_HAVE_TCC
  Text t = {.arena = &x->own};
  if (!c_print_kernels((const Kernel *const *)x->p->kernels.data, x->p->kernels.len, &t, e))
    return false;
  x->tcc = tcc_jit(t.data, e);
  x->kernels = x->tcc ? tcc_jit_symbol(x->tcc, "mi_kernels") : NULL;
  return x->tcc;
#else
  (void)x;
  return fail(e, "this micc was built without libtcc");
#endif
}

Exec *exec_open(const Program *p, const Target *target, ExecWay way, Err *e)
{
  Exec *x = calloc(1, sizeof *x);

  if (!x) {
    fail(e, "out of memory");
    return NULL;
  }
  x->p = p;
  x->way = way;
  take_memory(x);
  if (way == EXEC_EVAL || !p->kernels.len ||
      (way == EXEC_LLVM ? compile_llvm(x, target, e) : compile_tcc(x, e)))
    return x;
  exec_close(x);
  return NULL;
}

void exec_close(Exec *x)
{
  if (!x)
    return;
#if MICC_HAVE_LLVM
  llvm_jit_free(x->llvm);
#endif
#if MICC_HAVE_TCC
  if (x->tcc)
    tcc_jit_free(x->tcc);
#endif
  arena_free(&x->own);
  free(x);
}

/* ---- running */

static bool run_part(const Exec *x, const Part *part, Err *e)
{
  uint8_t *buf[MI_MAX_PARAMS] = {0};
  uint64_t bytes[MI_MAX_PARAMS] = {0};
  int32_t args[3 + K_CONSTANTS] = {0, 1, 0};
  const Kernel *k = x->p->kernels.data[part->kernel];

  memcpy(args + 3, part->constant, sizeof part->constant);
  if (part->binds.count > MI_MAX_PARAMS)
    return fail(e, "kernel '%s' has %u parameters", k->name, part->binds.count);
  for (uint32_t i = 0; i < part->binds.count; i++) {
    const Bind *b = &x->p->binds.data[part->binds.first + i];
    const Buffer *buffer = &x->p->buffers.data[b->buffer];
    buf[i] = x->space[buffer->space] + buffer->offset + b->offset;
    bytes[i] = buffer->space == SPACE_SCRATCH ? k->scratch_bytes : buffer->bytes - b->offset;
  }
  if (x->way == EXEC_EVAL)
    return kernel_eval(k, (void *const *)buf, bytes, args, 0, part->grid, e);
  x->kernels[part->kernel](buf, args, 0, part->grid);
  return true;
}

static uint64_t bytes_of(const Io *io)
{
  return dtype_bytes(io->type.dtype, (uint64_t)type_count(&io->type));
}

bool exec_run(Exec *x, const Tensor *inputs, Tensor *outputs, Arena *a, Err *e)
{
  const Program *p = x->p;
  const Entry *entry = &p->entries.data[0];

  for (uint32_t i = 0; i < entry->inputs.count; i++) {
    const Io *io = &p->ios.data[entry->inputs.first + i];
    if (!type_eq(&inputs[i].type, &io->type))
      return fail(e, "input '%s' is of another type", io->name);
    if (bytes_of(io))
      memcpy(x->space[SPACE_ARENA] + p->buffers.data[io->buffer].offset, inputs[i].data, bytes_of(io));
  }
  for (uint32_t i = 0; i < entry->launches.count; i++) {
    const Launch *l = &p->launches.data[entry->launches.first + i];
    for (uint32_t j = 0; j < l->parts.count; j++)
      if (!run_part(x, &p->parts.data[l->parts.first + j], e))
        return false;
  }
  for (uint32_t i = 0; i < entry->outputs.count; i++) {
    const Io *io = &p->ios.data[entry->outputs.first + i];
    outputs[i] = (Tensor){
        io->type, arena_copy(a, x->space[SPACE_ARENA] + p->buffers.data[io->buffer].offset, bytes_of(io))};
  }
  return true;
}
