/* exec.c - see exec.h. */
#include "codegen/exec.h"

#include <stdlib.h>

#include "codegen/image.h"
#include "codegen/jit.h"

struct Exec {
  const Program *p;
  ExecWay way;
  Arena own;
  uint8_t *space[4]; /* weights, arena, state, scratch */
  Jit jit;
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
  exec_reset(x);
}

void exec_reset(Exec *x)
{
  memset(x->space[SPACE_STATE], 0, x->p->space_bytes[SPACE_STATE]);
}

void *exec_data(const Exec *x, uint32_t buffer)
{
  const Buffer *b = &x->p->buffers.data[buffer];
  return x->space[b->space] + b->offset;
}

/* ---- kernels */

static bool compile(Exec *x, const Target *target, Err *e)
{
  const Kernel *const *k = (const Kernel *const *)x->p->kernels.data;
  LlvmOptions o = {.target = target, .opt_level = 2};

  return x->way == EXEC_LLVM ? jit_llvm(&x->jit, k, x->p->kernels.len, &o, e)
                             : jit_tcc(&x->jit, k, x->p->kernels.len, &x->own, e);
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
  if (way == EXEC_EVAL || !p->kernels.len || compile(x, target, e))
    return x;
  exec_close(x);
  return NULL;
}

void exec_close(Exec *x)
{
  if (!x)
    return;
  jit_free(&x->jit);
  arena_free(&x->own);
  free(x);
}

/* ---- running */

static bool run_part(const Exec *x, const Part *part, const int32_t arg[3], Err *e)
{
  uint8_t *buf[MI_MAX_PARAMS] = {0};
  uint64_t bytes[MI_MAX_PARAMS] = {0};
  int32_t args[K_ARGS] = {arg[0], arg[1], arg[2]};
  uint32_t grid = part->grid * mi_times(part->times, part->span, arg);
  const Kernel *k = x->p->kernels.data[part->kernel];

  memcpy(args + K_CONSTANT, part->constant, sizeof part->constant);
  if (part->binds.count > MI_MAX_PARAMS)
    return fail(e, "kernel '%s' has %u parameters", k->name, part->binds.count);
  for (uint32_t i = 0; i < part->binds.count; i++) {
    const Bind *b = &x->p->binds.data[part->binds.first + i];
    const Buffer *buffer = &x->p->buffers.data[b->buffer];
    buf[i] = x->space[buffer->space] + buffer->offset + b->offset;
    bytes[i] = buffer->space == SPACE_SCRATCH ? k->scratch_bytes : buffer->bytes - b->offset;
  }
  if (x->way == EXEC_EVAL)
    return kernel_eval(k, (void *const *)buf, bytes, args, 0, grid, e);
  x->jit.kernels[part->kernel](buf, args, 0, grid);
  return true;
}

bool exec_entry(Exec *x, uint32_t entry, const int32_t arg[3], Err *e)
{
  const Program *p = x->p;
  const Slice launches = p->entries.data[entry].launches;

  for (uint32_t i = 0; i < launches.count; i++) {
    const Launch *l = &p->launches.data[launches.first + i];
    for (uint32_t j = l->parts.count; j-- > 0;) /* any order must do: not the runtime's */
      if (!run_part(x, &p->parts.data[l->parts.first + j], arg, e))
        return false;
  }
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
      memcpy(exec_data(x, io->buffer), inputs[i].data, bytes_of(io));
  }
  if (!exec_entry(x, 0, (const int32_t[]){0, 1, 0}, e))
    return false;
  for (uint32_t i = 0; i < entry->outputs.count; i++) {
    const Io *io = &p->ios.data[entry->outputs.first + i];
    outputs[i] = (Tensor){io->type, arena_copy(a, exec_data(x, io->buffer), bytes_of(io))};
  }
  return true;
}
