/* llvm_entry.c - NAME_run() of a library: inputs copied in, launches one after the other, outputs copied out. */
#include "codegen/llvm_entry.h"

typedef struct {
  LLVMValueRef base; /* NULL: none yet */
  uint64_t at;
} Place;

typedef struct {
  LLVMContextRef ctx;
  LLVMModuleRef module;
  LLVMBuilderRef b;
  const Library *l;
  LLVMValueRef *kernels;
  LLVMTypeRef ptr, i8, i32, i64;
  LLVMValueRef fn, context, arena, weights, binds, args;
  LLVMTypeRef kernel_type;
  LLVMBasicBlockRef wrong;
  /* what binds and constants hold at this point of the function */
  Place bound[MI_MAX_PARAMS];
  int32_t constant[K_CONSTANTS];
} Run;

static LLVMValueRef number(const Run *r, LLVMTypeRef t, uint64_t n)
{
  (void)r;
  return LLVMConstInt(t, n, false);
}

static LLVMValueRef offset(const Run *r, LLVMValueRef base, uint64_t bytes)
{
  LLVMValueRef at = number(r, r->i64, bytes);
  return LLVMBuildInBoundsGEP2(r->b, r->i8, base, &at, 1, "");
}

/* Member i of the context: the arena, then inputs and outputs. */
static LLVMValueRef member(const Run *r, uint32_t i)
{
  return LLVMBuildLoad2(r->b, r->ptr, offset(r, r->context, (uint64_t)i * 8), "");
}

/* Leaves with -1 if `bad` holds. */
static void refuse(const Run *r, LLVMValueRef bad)
{
  LLVMBasicBlockRef good = LLVMAppendBasicBlockInContext(r->ctx, r->fn, "");
  LLVMBuildCondBr(r->b, bad, r->wrong, good);
  LLVMPositionBuilderAtEnd(r->b, good);
}

static void check(Run *r)
{
  refuse(r, LLVMBuildIsNull(r->b, r->context, ""));
  r->arena = member(r, 0);
  refuse(r, LLVMBuildIsNull(r->b, r->arena, ""));
  LLVMValueRef low =
      LLVMBuildAnd(r->b, LLVMBuildPtrToInt(r->b, r->arena, r->i64, ""), number(r, r->i64, 63), "");
  refuse(r, LLVMBuildICmp(r->b, LLVMIntNE, low, number(r, r->i64, 0), ""));
  for (uint32_t i = 0; i < r->l->n_ios; i++)
    refuse(r, LLVMBuildIsNull(r->b, member(r, i + 1), ""));
}

static void copy(const Run *r, bool outputs)
{
  for (uint32_t i = 0; i < r->l->n_ios; i++) {
    const LibraryIo *io = &r->l->ios[i];
    LLVMValueRef theirs = member(r, i + 1), ours = offset(r, r->arena, io->offset);
    if (io->output == outputs)
      LLVMBuildMemCpy(r->b, outputs ? theirs : ours, 1, outputs ? ours : theirs, 1,
                      number(r, r->i64, io->bytes));
  }
}

/* Where a bind points: a space and an offset in it. Scratch lies behind the arena. */
static Place place_of(const Run *r, const Bind *b)
{
  const Program *p = r->l->prog;
  const Buffer *buf = &p->buffers.data[b->buffer];
  uint64_t at = buf->offset + b->offset;

  if (buf->space == SPACE_SCRATCH)
    at += round_up(p->space_bytes[SPACE_ARENA], 64);
  return (Place){buf->space == SPACE_WEIGHTS ? r->weights : r->arena, at};
}

/* Kernels change neither binds nor arguments: what stands there already is not stored again. */
static void call(Run *r, const Part *p)
{
  LLVMValueRef in[] = {r->binds, r->args, number(r, r->i64, 0), number(r, r->i64, p->grid)};

  for (uint32_t i = 0; i < p->binds.count; i++) {
    Place now = place_of(r, &r->l->prog->binds.data[p->binds.first + i]), *was = &r->bound[i];
    if (was->base != now.base || was->at != now.at)
      LLVMBuildStore(r->b, offset(r, now.base, now.at), offset(r, r->binds, (uint64_t)i * 8));
    *was = now;
  }
  for (int i = 0; i < K_CONSTANTS; i++) {
    if (r->constant[i] != p->constant[i])
      LLVMBuildStore(r->b, number(r, r->i32, (uint32_t)p->constant[i]),
                     offset(r, r->args, 12 + (uint64_t)i * 4));
    r->constant[i] = p->constant[i];
  }
  LLVMBuildCall2(r->b, r->kernel_type, r->kernels[p->kernel], in, 4, "");
}

static void launches(Run *r)
{
  const Program *p = r->l->prog;
  const Entry *e = &p->entries.data[0];

  for (uint32_t i = 0; i < e->launches.count; i++) {
    const Launch *l = &p->launches.data[e->launches.first + i];
    for (uint32_t j = 0; j < l->parts.count; j++)
      call(r, &p->parts.data[l->parts.first + j]);
  }
}

static void begin(Run *r, Arena *a)
{
  const Library *l = r->l;
  LLVMTypeRef data = LLVMArrayType2(r->i8, l->prog->space_bytes[SPACE_WEIGHTS]),
              type = LLVMFunctionType(r->i32, &r->ptr, 1, false);

  r->weights = LLVMAddGlobal(r->module, data, arena_printf(a, "%s_weights", l->name));
  LLVMSetVisibility(r->weights, LLVMHiddenVisibility);
  LLVMSetGlobalConstant(r->weights, true);
  LLVMSetAlignment(r->weights, 64);
  r->fn = LLVMAddFunction(r->module, arena_printf(a, "%s_run", l->name), type);
  r->context = LLVMGetParam(r->fn, 0);
  LLVMBasicBlockRef entry = LLVMAppendBasicBlockInContext(r->ctx, r->fn, "");
  r->wrong = LLVMAppendBasicBlockInContext(r->ctx, r->fn, "");
  LLVMPositionBuilderAtEnd(r->b, r->wrong);
  LLVMBuildRet(r->b, LLVMConstInt(r->i32, UINT64_MAX, true));
  LLVMPositionBuilderAtEnd(r->b, entry);
  r->binds = LLVMBuildAlloca(r->b, LLVMArrayType2(r->ptr, MI_MAX_PARAMS), "");
  r->args = LLVMBuildAlloca(r->b, LLVMArrayType2(r->i32, 3 + K_CONSTANTS), "");
  for (unsigned i = 0; i < 3 + K_CONSTANTS; i++)
    LLVMBuildStore(r->b, number(r, r->i32, i == 1), offset(r, r->args, i * 4ull));
}

void llvm_print_entry(LLVMContextRef ctx, LLVMModuleRef module, const Library *l, LLVMValueRef *kernels,
                      Arena *a)
{
  Run r = {.ctx = ctx,
           .module = module,
           .b = LLVMCreateBuilderInContext(ctx),
           .l = l,
           .kernels = kernels,
           .ptr = LLVMPointerTypeInContext(ctx, 0),
           .i8 = LLVMInt8TypeInContext(ctx),
           .i32 = LLVMInt32TypeInContext(ctx),
           .i64 = LLVMInt64TypeInContext(ctx)};
  LLVMTypeRef params[] = {r.ptr, r.ptr, r.i64, r.i64};

  r.kernel_type = LLVMFunctionType(LLVMVoidTypeInContext(ctx), params, 4, false);
  begin(&r, a);
  check(&r);
  copy(&r, false);
  launches(&r);
  copy(&r, true);
  LLVMBuildRet(r.b, number(&r, r.i32, 0));
  LLVMDisposeBuilder(r.b);
}
