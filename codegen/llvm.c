/* llvm.c - from kernels to machine code: module, optimisation, emission, and running in this process.
 *
 * Each call has a context of its own, so calls from several threads do not meet. What runs through llvm_jit()
 * is the very object that llvm_emit() would give, but for position independence. */
#include "codegen/llvm.h"
#include "codegen/llvm_entry.h"
#include "codegen/llvm_print.h"

#include <llvm-c/Analysis.h>
#include <llvm-c/Error.h>
#include <llvm-c/LLJIT.h>
#include <llvm-c/Target.h>
#include <llvm-c/TargetMachine.h>
#include <llvm-c/Transforms/PassBuilder.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define TABLE "mi_kernels"

/* A module on its way. */
typedef struct {
  const LlvmOptions *o;
  LLVMContextRef ctx;
  LLVMModuleRef module;
  LLVMTargetMachineRef machine;
  Err *e;
} Unit;

static void init_targets(void)
{
  LLVMInitializeX86TargetInfo();
  LLVMInitializeX86Target();
  LLVMInitializeX86TargetMC();
  LLVMInitializeX86AsmPrinter();
}

static void init(void)
{
  static pthread_once_t once = PTHREAD_ONCE_INIT;
  pthread_once(&once, init_targets);
}

static double now_ms(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* Adds the time since *start to *to, and starts anew. */
static void lap(double *start, double *to)
{
  double now = now_ms();
  *to += now - *start;
  *start = now;
}

/* Fails with LLVM's message, and frees it. */
static bool fail_text(Err *e, const char *what, char *message)
{
  fail(e, "LLVM: %s: %s", what, message ? message : "no reason given");
  LLVMDisposeMessage(message);
  return false;
}

static bool fail_error(Err *e, const char *what, LLVMErrorRef err)
{
  char *message = LLVMGetErrorMessage(err);
  fail(e, "LLVM: %s: %s", what, message);
  LLVMDisposeErrorMessage(message);
  return false;
}

/* Without it, LLVM prints errors and exits. */
static void on_diagnostic(LLVMDiagnosticInfoRef info, void *err)
{
  char *text = LLVMGetDiagInfoDescription(info);
  if (LLVMGetDiagInfoSeverity(info) == LLVMDSError)
    fail(err, "LLVM: %s", text);
  LLVMDisposeMessage(text);
}

/* ---- module */

static bool make_machine(Unit *u, LLVMRelocMode reloc)
{
  static const LLVMCodeGenOptLevel level[] = {LLVMCodeGenLevelNone, LLVMCodeGenLevelLess,
                                              LLVMCodeGenLevelDefault, LLVMCodeGenLevelAggressive};
  const Target *t = u->o->target;
  LLVMTargetRef target;
  char *message = NULL;

  init();
  if (!t->triple)
    return fail(u->e, "the target '%s' is not one of LLVM's", t->name);
  if (LLVMGetTargetFromTriple(t->triple, &target, &message))
    return fail_text(u->e, t->triple, message);
  u->machine = LLVMCreateTargetMachine(target, t->triple, t->cpu, t->features, level[u->o->opt_level & 3],
                                       reloc, LLVMCodeModelSmall);
  return u->machine || fail(u->e, "LLVM: no machine for %s", t->triple);
}

static void make_module(Unit *u)
{
  LLVMTargetDataRef layout = LLVMCreateTargetDataLayout(u->machine);

  u->ctx = LLVMContextCreate();
  LLVMContextSetDiagnosticHandler(u->ctx, on_diagnostic, u->e);
  u->module = LLVMModuleCreateWithNameInContext("kernels", u->ctx);
  LLVMSetSourceFileName(u->module, "kernels", strlen("kernels"));
  LLVMSetTarget(u->module, u->o->target->triple);
  LLVMSetModuleDataLayout(u->module, layout);
  LLVMDisposeTargetData(layout);
}

static void add_table(const Unit *u, LLVMValueRef *kernels, uint32_t n)
{
  LLVMTypeRef ptr = LLVMPointerTypeInContext(u->ctx, 0);
  LLVMValueRef table = LLVMAddGlobal(u->module, LLVMArrayType2(ptr, n), TABLE);

  LLVMSetInitializer(table, LLVMConstArray2(ptr, kernels, n));
  LLVMSetGlobalConstant(table, true);
}

static bool print_kernels(const Unit *u, const Kernel *const *kernels, uint32_t n)
{
  Printer p = {.ctx = u->ctx, .module = u->module, .target = u->o->target, .e = u->e};
  Arena tmp = {0};
  LLVMValueRef *fn = NEW_ARRAY(&tmp, LLVMValueRef, n);
  bool ok = true;

  p.b = LLVMCreateBuilderInContext(u->ctx);
  for (uint32_t i = 0; ok && i < n; i++) {
    p.target = u->o->targets ? u->o->targets[i] : u->o->target;
    ok = (fn[i] = llvm_print_kernel(&p, kernels[i])) != NULL;
  }
  if (ok && u->o->library)
    llvm_print_entry(u->ctx, u->module, u->o->library, fn, &tmp);
  else if (ok)
    add_table(u, fn, n);
  LLVMDisposeBuilder(p.b);
  arena_free(&tmp);
  return ok;
}

static bool verify(const Unit *u)
{
  char *message = NULL;
  if (LLVMVerifyModule(u->module, LLVMReturnStatusAction, &message))
    return fail_text(u->e, "bad module", message);
  LLVMDisposeMessage(message);
  return true;
}

/* Lowering has already made vectors, register tiles and shared values. What is left is to simplify addresses,
 * to turn loops around so that they test at the end, and to move what does not vary out of them: the same
 * code as default<O2> gives, in a fifth of its time. Products and sums stay in the kernel's own order. */
static const char pipeline[] = "function(early-cse,instcombine<no-verify-fixpoint>,simplifycfg,"
                               "loop-mssa(loop-rotate,licm),instcombine<no-verify-fixpoint>,simplifycfg)";

static bool optimize(const Unit *u)
{
  if (!u->o->opt_level)
    return true;
  LLVMPassBuilderOptionsRef po = LLVMCreatePassBuilderOptions();
  LLVMErrorRef err = LLVMRunPasses(u->module, pipeline, u->machine, po);
  LLVMDisposePassBuilderOptions(po);
  return !err || fail_error(u->e, "optimisation", err);
}

static bool open_unit(Unit *u, const Kernel *const *kernels, uint32_t n, LLVMRelocMode reloc)
{
  LlvmTimes none = {0}, *t = u->o->times ? u->o->times : &none;
  double start = now_ms();

  if (!make_machine(u, reloc))
    return false;
  make_module(u);
  if (!print_kernels(u, kernels, n) || !verify(u))
    return false;
  lap(&start, &t->build_ms);
  if (!optimize(u))
    return false;
  lap(&start, &t->optimize_ms);
  t->kernels += n;
  return true;
}

static void close_unit(Unit *u)
{
  if (u->module)
    LLVMDisposeModule(u->module);
  if (u->machine)
    LLVMDisposeTargetMachine(u->machine);
  if (u->ctx)
    LLVMContextDispose(u->ctx);
}

static LLVMMemoryBufferRef emit_buffer(const Unit *u, LLVMCodeGenFileType type)
{
  LLVMMemoryBufferRef out = NULL;
  LlvmTimes none = {0}, *t = u->o->times ? u->o->times : &none;
  char *message = NULL;
  double start = now_ms();

  if (LLVMTargetMachineEmitToMemoryBuffer(u->machine, u->module, type, &message, &out)) {
    fail_text(u->e, "code generation", message);
    return NULL;
  }
  lap(&start, &t->emit_ms);
  return out;
}

/* ---- files */

static void emit_ir(const Unit *u, Arena *a, const void **bytes, uint64_t *n_bytes)
{
  char *text = LLVMPrintModuleToString(u->module);
  *n_bytes = strlen(text);
  *bytes = arena_strdup(a, text);
  LLVMDisposeMessage(text);
}

static bool emit_code(const Unit *u, LLVMCodeGenFileType type, Arena *a, const void **bytes,
                      uint64_t *n_bytes)
{
  LLVMMemoryBufferRef out = emit_buffer(u, type);

  if (!out)
    return false;
  *n_bytes = LLVMGetBufferSize(out);
  *bytes = arena_strndup(a, LLVMGetBufferStart(out), *n_bytes);
  LLVMDisposeMemoryBuffer(out);
  return true;
}

bool llvm_emit(const Kernel *const *kernels, uint32_t n, const LlvmOptions *o, LlvmOutput what, Arena *a,
               const void **bytes, uint64_t *n_bytes, Err *e)
{
  Unit u = {.o = o, .e = e};
  bool ok = open_unit(&u, kernels, n, o->library ? LLVMRelocPIC : LLVMRelocStatic);

  if (ok && what == LLVM_IR)
    emit_ir(&u, a, bytes, n_bytes);
  else if (ok)
    ok = emit_code(&u, what == LLVM_ASM ? LLVMAssemblyFile : LLVMObjectFile, a, bytes, n_bytes);
  close_unit(&u);
  return ok;
}

/* ---- in memory */

struct LlvmJit {
  LLVMOrcLLJITRef orc;
  MiKernel *const *table;
};

static bool load(LlvmJit *jit, LLVMMemoryBufferRef object, Err *e)
{
  LLVMOrcExecutorAddress at;
  LLVMErrorRef err = LLVMOrcCreateLLJIT(&jit->orc, NULL);

  if (err) {
    LLVMDisposeMemoryBuffer(object);
    return fail_error(e, "compilation in memory", err);
  }
  err = LLVMOrcLLJITAddObjectFile(jit->orc, LLVMOrcLLJITGetMainJITDylib(jit->orc), object);
  if (!err)
    err = LLVMOrcLLJITLookup(jit->orc, &at, TABLE);
  if (err)
    return fail_error(e, "loading", err);
  jit->table = (MiKernel *const *)at;
  return true;
}

LlvmJit *llvm_jit(const Kernel *const *kernels, uint32_t n, const LlvmOptions *o, Err *e)
{
  Unit u = {.o = o, .e = e};
  LLVMMemoryBufferRef object = NULL;
  LlvmJit *jit = NULL;

  const Target *lacking = NULL;
  for (uint32_t i = 0; i < n && !lacking; i++) {
    const Target *t = o->targets ? o->targets[i] : o->target;
    lacking = t->runs_here() ? NULL : t;
  }
  if (lacking)
    fail(e, "this machine does not run code for '%s'", lacking->name);
  else if (open_unit(&u, kernels, n, LLVMRelocPIC))
    object = emit_buffer(&u, LLVMObjectFile);
  close_unit(&u);
  if (!object)
    return NULL;
  jit = calloc(1, sizeof *jit);
  if (jit && load(jit, object, e))
    return jit;
  llvm_jit_free(jit);
  return NULL;
}

MiKernel *const *llvm_jit_table(const LlvmJit *jit)
{
  return jit->table;
}

void llvm_jit_free(LlvmJit *jit)
{
  if (jit && jit->orc)
    LLVMConsumeError(LLVMOrcDisposeLLJIT(jit->orc));
  free(jit);
}
