/* llvm_print.c - a kernel as LLVM IR: the function, its grid loop, loops and branches.
 *
 * Each kernel becomes two functions. The inner one takes each buffer as a parameter, since only parameters
 * can be `noalias`, which is what lets LLVM keep values in registers over stores. The outer one has
 * MiKernel's signature, fetches the pointers and calls the inner one, which is never inlined into it.
 *
 * Source: LLVM 19 language reference, "Parameter Attributes". */
#include "codegen/llvm_print.h"

#include <assert.h>

static LLVMTypeRef idx_type(const Printer *p)
{
  return LLVMInt64TypeInContext(p->ctx);
}

static LLVMTypeRef ptr_type(const Printer *p)
{
  return LLVMPointerTypeInContext(p->ctx, 0);
}

/* ---- attributes */

static void set_attr(const Printer *p, LLVMValueRef fn, LLVMAttributeIndex at, const char *name)
{
  unsigned kind = LLVMGetEnumAttributeKindForName(name, strlen(name));
  LLVMAddAttributeAtIndex(fn, at, LLVMCreateEnumAttribute(p->ctx, kind, 0));
}

static void set_text_attr(const Printer *p, LLVMValueRef fn, const char *name, const char *value)
{
  unsigned n = (unsigned)strlen(name), v = (unsigned)strlen(value);
  LLVMAddAttributeAtIndex(fn, LLVMAttributeFunctionIndex,
                          LLVMCreateStringAttribute(p->ctx, name, n, value, v));
}

static void set_fn_attrs(const Printer *p, LLVMValueRef fn)
{
  Arena tmp = {0};
  /* by default LLVM takes 32-byte vectors where 64-byte ones exist */
  const char *bits = arena_printf(&tmp, "%u", p->target->vector_bytes * 8);

  set_text_attr(p, fn, "prefer-vector-width", bits);
  set_text_attr(p, fn, "min-legal-vector-width", bits);
  set_text_attr(p, fn, "no-builtins", ""); /* no loop becomes a call of memset or memcpy */
  set_text_attr(p, fn, "target-cpu", p->target->cpu);
  if (p->target->features[0])
    set_text_attr(p, fn, "target-features", p->target->features);
  set_attr(p, fn, LLVMAttributeFunctionIndex, "nounwind");
  /* as fast, and a twentieth smaller: no aligned loops */
  set_attr(p, fn, LLVMAttributeFunctionIndex, "optsize");
  arena_free(&tmp);
}

static void set_buffer_attrs(const Printer *p, LLVMValueRef fn, unsigned param, KAccess access)
{
  static const char *const access_attr[] = {[KA_READ] = "readonly", [KA_WRITE] = "writeonly"};

  set_attr(p, fn, param + 1, "noalias");
  set_attr(p, fn, param + 1, "nocapture");
  if (access == KA_READ || access == KA_WRITE)
    set_attr(p, fn, param + 1, access_attr[access]);
}

/* ---- loops and branches */

static LLVMBasicBlockRef new_block(const Printer *p)
{
  return LLVMAppendBasicBlockInContext(p->ctx, p->fn, "");
}

static LLVMValueRef new_phi(const Printer *p, LLVMTypeRef type, LLVMValueRef first, LLVMBasicBlockRef from)
{
  LLVMValueRef phi = LLVMBuildPhi(p->b, type, "");
  LLVMAddIncoming(phi, &first, &from, 1);
  return phi;
}

static void enter(const Printer *p, LLVMBasicBlockRef block)
{
  LLVMPositionBuilderAtEnd(p->b, block);
}

static bool open_frame(Printer *p, LlvmFrame f)
{
  if (p->depth == LLVM_MAX_DEPTH)
    return fail(p->e, "kernel '%s': loops are nested too deep", p->k->name);
  p->frame[p->depth++] = f;
  return true;
}

/* The carries follow the loop at once: they become phis here, before the header is left. */
static bool print_loop(Printer *p)
{
  LlvmFrame f = {.open = p->at, .header = new_block(p), .after = new_block(p)};
  LLVMBasicBlockRef before = LLVMGetInsertBlock(p->b), body = new_block(p);
  LLVMValueRef lo = llvm_in(p, 0), hi = llvm_in(p, 1);

  LLVMBuildBr(p->b, f.header);
  enter(p, f.header);
  p->val[p->at] = new_phi(p, idx_type(p), lo, before);
  for (KVal v = p->at + 1; v < p->k->nodes.len && kernel_node(p->k, v)->op == K_carry; v++)
    p->val[v] = new_phi(p, llvm_type(p, kernel_node(p->k, v)->type), p->val[kernel_in(p->k, v, 0)], before);
  LLVMBuildCondBr(p->b, LLVMBuildICmp(p->b, LLVMIntSLT, p->val[p->at], hi, ""), body, f.after);
  enter(p, body);
  return open_frame(p, f);
}

static void end_loop(const Printer *p, const LlvmFrame *f, uint32_t n_carries)
{
  LLVMValueRef index = p->val[f->open];
  LLVMValueRef step = LLVMConstInt(idx_type(p), (uint64_t)kernel_node(p->k, f->open)->imm.i, true);
  LLVMValueRef next = LLVMBuildAdd(p->b, index, step, "");
  LLVMBasicBlockRef from = LLVMGetInsertBlock(p->b);

  LLVMBuildBr(p->b, f->header);
  LLVMAddIncoming(index, &next, &from, 1);
  for (uint32_t i = 0; i < n_carries; i++) {
    LLVMValueRef v = llvm_in(p, i);
    LLVMAddIncoming(p->val[f->open + 1 + i], &v, &from, 1);
  }
  enter(p, f->after);
}

static bool print_if(Printer *p)
{
  LLVMBasicBlockRef body = new_block(p);
  LlvmFrame f = {.open = p->at, .after = new_block(p)};

  LLVMBuildCondBr(p->b, llvm_in(p, 0), body, f.after);
  enter(p, body);
  return open_frame(p, f);
}

static bool print_else(Printer *p)
{
  assert(p->depth);
  LlvmFrame *f = &p->frame[p->depth - 1];

  f->join = new_block(p);
  LLVMBuildBr(p->b, f->join);
  enter(p, f->after);
  return true;
}

static void end_if(const Printer *p, const LlvmFrame *f)
{
  LLVMBasicBlockRef join = f->join ? f->join : f->after;
  LLVMBuildBr(p->b, join);
  enter(p, join);
}

static bool print_end(Printer *p, const KNode *n)
{
  assert(p->depth);
  const LlvmFrame *f = &p->frame[--p->depth];

  if (f->header)
    end_loop(p, f, n->in.count);
  else
    end_if(p, f);
  return true;
}

static bool print_node(Printer *p, const KNode *n)
{
  switch (n->op) {
  case K_loop: return print_loop(p);
  case K_if: return print_if(p);
  case K_else: return print_else(p);
  case K_end: return print_end(p, n);
  case K_grid: p->val[p->at] = p->grid; return true;
  case K_arg: /* printed at the function's start */
  case K_carry: /* printed with its loop */ return true;
  default: return llvm_print_op(p, n);
  }
}

static bool print_nodes(Printer *p)
{
  for (p->at = 1; p->at < p->k->nodes.len; p->at++)
    if (!print_node(p, kernel_node(p->k, p->at)))
      return false;
  return true;
}

/* ---- functions */

static void load_args(Printer *p)
{
  LLVMTypeRef i32 = LLVMInt32TypeInContext(p->ctx);
  LLVMValueRef args = LLVMGetParam(p->fn, p->k->params.len);

  for (KVal v = 1; v < p->k->nodes.len; v++) {
    const KNode *n = kernel_node(p->k, v);
    if (n->op != K_arg)
      continue;
    LLVMValueRef at = LLVMConstInt(idx_type(p), (uint64_t)n->imm.i, true);
    LLVMValueRef x = LLVMBuildLoad2(p->b, i32, LLVMBuildInBoundsGEP2(p->b, i32, args, &at, 1, ""), "");
    p->val[v] = n->type.elem == KE_idx ? LLVMBuildSExt(p->b, x, idx_type(p), "") : x;
  }
}

/* for (grid = lo; grid < hi; grid++) body */
static bool print_body(Printer *p)
{
  LLVMValueRef lo = LLVMGetParam(p->fn, p->k->params.len + 1), hi = LLVMGetParam(p->fn, p->k->params.len + 2);
  LLVMBasicBlockRef entry = new_block(p), header = new_block(p), body = new_block(p), after = new_block(p);

  enter(p, entry);
  load_args(p);
  LLVMBuildBr(p->b, header);
  enter(p, header);
  p->grid = new_phi(p, idx_type(p), lo, entry);
  LLVMBuildCondBr(p->b, LLVMBuildICmp(p->b, LLVMIntSLT, p->grid, hi, ""), body, after);
  enter(p, body);
  if (!print_nodes(p))
    return false;
  LLVMValueRef next = LLVMBuildNSWAdd(p->b, p->grid, LLVMConstInt(idx_type(p), 1, true), "");
  LLVMBasicBlockRef from = LLVMGetInsertBlock(p->b);
  LLVMBuildBr(p->b, header);
  LLVMAddIncoming(p->grid, &next, &from, 1);
  enter(p, after);
  LLVMBuildRetVoid(p->b);
  return true;
}

static LLVMValueRef new_function(const Printer *p, const char *name, LLVMTypeRef type)
{
  LLVMValueRef fn = LLVMAddFunction(p->module, name, type);
  LLVMSetLinkage(fn, LLVMInternalLinkage);
  set_fn_attrs(p, fn);
  return fn;
}

static LLVMTypeRef inner_type(const Printer *p, Arena *tmp)
{
  uint32_t n = p->k->params.len;
  LLVMTypeRef *t = NEW_ARRAY(tmp, LLVMTypeRef, n + 3);

  for (uint32_t i = 0; i < n + 3; i++)
    t[i] = i <= n ? ptr_type(p) : idx_type(p);
  return LLVMFunctionType(LLVMVoidTypeInContext(p->ctx), t, n + 3, false);
}

static void name_params(const Printer *p)
{
  static const char *const last[] = {"args", "lo", "hi"};
  uint32_t n = p->k->params.len;

  for (uint32_t i = 0; i < n + 3; i++) {
    const char *name = i < n ? p->k->params.data[i].name : last[i - n];
    LLVMSetValueName2(LLVMGetParam(p->fn, i), name, strlen(name));
  }
}

static bool print_inner(Printer *p, Arena *tmp)
{
  p->fn = new_function(p, p->k->name, inner_type(p, tmp));
  set_attr(p, p->fn, LLVMAttributeFunctionIndex, "noinline");
  for (uint32_t i = 0; i < p->k->params.len; i++)
    set_buffer_attrs(p, p->fn, i, p->k->params.data[i].access);
  set_buffer_attrs(p, p->fn, p->k->params.len, KA_READ); /* args */
  name_params(p);
  return print_body(p);
}

/* void (uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi) */
static LLVMValueRef print_outer(const Printer *p, Arena *tmp)
{
  uint32_t n = p->k->params.len;
  LLVMTypeRef t[] = {ptr_type(p), ptr_type(p), idx_type(p), idx_type(p)};
  LLVMTypeRef type = LLVMFunctionType(LLVMVoidTypeInContext(p->ctx), t, COUNT(t), false);
  LLVMValueRef fn = new_function(p, arena_printf(tmp, "%s.launch", p->k->name), type);
  LLVMValueRef *in = NEW_ARRAY(tmp, LLVMValueRef, n + 3);

  enter(p, LLVMAppendBasicBlockInContext(p->ctx, fn, ""));
  for (uint32_t i = 0; i < n; i++) {
    LLVMValueRef at = LLVMConstInt(idx_type(p), i, false);
    LLVMValueRef from = LLVMBuildInBoundsGEP2(p->b, ptr_type(p), LLVMGetParam(fn, 0), &at, 1, "");
    in[i] = LLVMBuildLoad2(p->b, ptr_type(p), from, "");
  }
  for (uint32_t i = 0; i < 3; i++)
    in[n + i] = LLVMGetParam(fn, i + 1);
  LLVMBuildCall2(p->b, inner_type(p, tmp), p->fn, in, n + 3, "");
  LLVMBuildRetVoid(p->b);
  return fn;
}

LLVMValueRef llvm_print_kernel(Printer *p, const Kernel *k)
{
  Arena tmp = {0};

  p->k = k;
  p->depth = 0;
  p->val = NEW_ARRAY(&tmp, LLVMValueRef, k->nodes.len);
  LLVMValueRef fn = print_inner(p, &tmp) ? print_outer(p, &tmp) : NULL;
  arena_free(&tmp);
  return fn;
}
