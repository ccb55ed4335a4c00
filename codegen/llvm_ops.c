/* llvm_ops.c - the ops without control flow as LLVM instructions.
 *
 * No fast-math flag is ever set and nothing is contracted, so that each op means the same on every target.
 * Reductions are spelled out as the halving that kernel_ops.def states. */
#include "codegen/llvm_print.h"

#include <assert.h>
#include <limits.h>

/* ---- types */

static LLVMTypeRef elem_type(const Printer *p, KElem e)
{
  switch (e) {
  case KE_bool: return LLVMInt1TypeInContext(p->ctx);
  case KE_f32: return LLVMFloatTypeInContext(p->ctx);
  case KE_f64: return LLVMDoubleTypeInContext(p->ctx);
  default: return LLVMIntTypeInContext(p->ctx, kelem_info[e].bytes * 8u);
  }
}

LLVMTypeRef llvm_lanes(LLVMTypeRef elem, unsigned lanes)
{
  return lanes == 1 ? elem : LLVMVectorType(elem, lanes);
}

LLVMTypeRef llvm_type(const Printer *p, KType t)
{
  return llvm_lanes(elem_type(p, t.elem), t.lanes);
}

/* ---- values */

static LLVMValueRef same_lanes(LLVMValueRef v, unsigned lanes)
{
  LLVMValueRef all[LLVM_MAX_BYTES];

  if (lanes == 1)
    return v;
  for (unsigned i = 0; i < lanes; i++)
    all[i] = v;
  return LLVMConstVector(all, lanes);
}

LLVMValueRef llvm_const(const Printer *p, KType t, int64_t i)
{
  return same_lanes(LLVMConstInt(elem_type(p, t.elem), (uint64_t)i, true), t.lanes);
}

LLVMValueRef llvm_const_real(const Printer *p, KType t, double f)
{
  return same_lanes(LLVMConstReal(elem_type(p, t.elem), f), t.lanes);
}

LLVMValueRef llvm_intrinsic(const Printer *p, const char *name, LLVMTypeRef overload, LLVMValueRef *in,
                            unsigned n)
{
  unsigned id = LLVMLookupIntrinsicID(name, strlen(name)), n_types = overload ? 1 : 0;
  assert(id);
  LLVMValueRef fn = LLVMGetIntrinsicDeclaration(p->module, id, &overload, n_types);
  LLVMTypeRef type = LLVMIntrinsicGetType(p->ctx, id, &overload, n_types);
  return LLVMBuildCall2(p->b, type, fn, in, n, "");
}

static bool is_vector(LLVMValueRef v)
{
  return LLVMGetTypeKind(LLVMTypeOf(v)) == LLVMVectorTypeKind;
}

static LLVMValueRef lane_of(const Printer *p, LLVMValueRef v, unsigned lane)
{
  LLVMValueRef at = LLVMConstInt(LLVMInt32TypeInContext(p->ctx), lane, false);
  return is_vector(v) ? LLVMBuildExtractElement(p->b, v, at, "") : v;
}

static LLVMValueRef one_lane_vector(const Printer *p, LLVMValueRef v)
{
  return is_vector(v) ? v : LLVMBuildBitCast(p->b, v, LLVMVectorType(LLVMTypeOf(v), 1), "");
}

enum { ANY = UINT_MAX }; /* a lane whose value is not used */

/* As the op: scalars count as vectors of one lane. */
static LLVMValueRef shuffle(const Printer *p, LLVMValueRef a, LLVMValueRef b, const unsigned *lane,
                            unsigned n)
{
  LLVMValueRef mask[LLVM_MAX_BYTES];
  LLVMTypeRef i32 = LLVMInt32TypeInContext(p->ctx);

  for (unsigned i = 0; i < n; i++)
    mask[i] = lane[i] == ANY ? LLVMGetPoison(i32) : LLVMConstInt(i32, lane[i], false);
  a = one_lane_vector(p, a);
  b = b ? one_lane_vector(p, b) : LLVMGetPoison(LLVMTypeOf(a));
  LLVMValueRef v = LLVMBuildShuffleVector(p->b, a, b, LLVMConstVector(mask, n), "");
  return n == 1 ? lane_of(p, v, 0) : v;
}

LLVMValueRef llvm_lanes_of(const Printer *p, LLVMValueRef v, unsigned first, unsigned stride, unsigned n)
{
  unsigned lane[LLVM_MAX_BYTES];

  if (n == 1)
    return lane_of(p, v, first);
  for (unsigned i = 0; i < n; i++)
    lane[i] = first + i * stride;
  return shuffle(p, v, NULL, lane, n);
}

static LLVMValueRef lengthen(const Printer *p, LLVMValueRef v, unsigned have, unsigned n)
{
  unsigned lane[LLVM_MAX_BYTES];

  for (unsigned i = 0; i < n; i++)
    lane[i] = i < have ? i : ANY;
  return have < n ? shuffle(p, v, NULL, lane, n) : v;
}

/* LLVM shuffles only equal types: the shorter operand is lengthened first. */
LLVMValueRef llvm_concat(const Printer *p, LLVMValueRef v, unsigned have, LLVMValueRef more, unsigned n)
{
  unsigned lane[LLVM_MAX_BYTES], wide = have > n ? have : n;

  for (unsigned i = 0; i < have + n; i++)
    lane[i] = i < have ? i : wide + i - have;
  return shuffle(p, lengthen(p, v, have, wide), lengthen(p, more, n, wide), lane, have + n);
}

/* ---- the rows: an op is a function and what it takes for signed, unsigned and float elements */

typedef struct Row Row;
struct Row {
  LLVMValueRef (*print)(Printer *p, const KNode *n, const Row *row);
  int of_signed, of_unsigned, of_float; /* LLVMOpcode, LLVMIntPredicate or LLVMRealPredicate */
};

static int row_pick(const Row *row, KElem e)
{
  const KElemInfo *info = &kelem_info[e];
  return info->is_float ? row->of_float : info->is_signed ? row->of_signed : row->of_unsigned;
}

static LLVMValueRef compare(const Printer *p, const Row *row, KElem e, LLVMValueRef a, LLVMValueRef b)
{
  int pred = row_pick(row, e);
  return kelem_info[e].is_float ? LLVMBuildFCmp(p->b, (LLVMRealPredicate)pred, a, b, "")
                                : LLVMBuildICmp(p->b, (LLVMIntPredicate)pred, a, b, "");
}

static LLVMValueRef pick(const Printer *p, const Row *row, KElem e, LLVMValueRef a, LLVMValueRef b)
{
  return LLVMBuildSelect(p->b, compare(p, row, e, a, b), a, b, "");
}

static LLVMValueRef print_binary(Printer *p, const KNode *n, const Row *row)
{
  return LLVMBuildBinOp(p->b, (LLVMOpcode)row_pick(row, n->type.elem), llvm_in(p, 0), llvm_in(p, 1), "");
}

static LLVMValueRef print_shift(Printer *p, const KNode *n, const Row *row)
{
  LLVMValueRef by = llvm_const(p, n->type, n->imm.i);
  return LLVMBuildBinOp(p->b, (LLVMOpcode)row_pick(row, n->type.elem), llvm_in(p, 0), by, "");
}

/* Amounts that LLVM has no meaning for are kept from it. */
static LLVMValueRef print_shlv(Printer *p, const KNode *n, const Row *row)
{
  LLVMValueRef a = llvm_in(p, 0), by = llvm_in(p, 1),
               last = llvm_const(p, n->type, 8 * kelem_info[n->type.elem].bytes - 1);
  LLVMValueRef inside = LLVMBuildICmp(p->b, LLVMIntULE, by, last, "");
  LLVMOpcode op = (LLVMOpcode)row_pick(row, n->type.elem);

  if (op == LLVMAShr)
    return LLVMBuildAShr(p->b, a, LLVMBuildSelect(p->b, inside, by, last, ""), "");
  return LLVMBuildSelect(p->b, inside, LLVMBuildBinOp(p->b, op, a, by, ""), llvm_const(p, n->type, 0), "");
}

static bool is_plain_divisor(const Printer *p)
{
  const KNode *by = kernel_node(p->k, kernel_in(p->k, p->at, 1));
  unsigned unused = 64 - 8u * kelem_info[by->type.elem].bytes;
  int64_t i = by->op == K_const ? (int64_t)((uint64_t)by->imm.i << unused) >> unused : 0;
  return i && (i != -1 || !kelem_info[by->type.elem].is_signed);
}

/* 0, and -1, which the least number overflows by, are replaced before and put right behind. */
static LLVMValueRef print_division(Printer *p, const KNode *n, const Row *row)
{
  if (kelem_info[n->type.elem].is_float || is_plain_divisor(p))
    return print_binary(p, n, row);
  LLVMValueRef a = llvm_in(p, 0), by = llvm_in(p, 1), zero = llvm_const(p, n->type, 0),
               one = llvm_const(p, n->type, 1);
  LLVMValueRef is_0 = LLVMBuildICmp(p->b, LLVMIntEQ, by, zero, ""), odd = is_0, is_neg = NULL;

  if (kelem_info[n->type.elem].is_signed) {
    is_neg = LLVMBuildICmp(p->b, LLVMIntEQ, by, llvm_const(p, n->type, -1), "");
    odd = LLVMBuildOr(p->b, is_0, is_neg, "");
  }
  LLVMValueRef safe = LLVMBuildSelect(p->b, odd, one, by, "");
  LLVMValueRef v = LLVMBuildBinOp(p->b, (LLVMOpcode)row_pick(row, n->type.elem), a, safe, "");
  if (n->op == K_rem)
    return v; /* by 1: 0 */
  if (is_neg)
    v = LLVMBuildSelect(p->b, is_neg, LLVMBuildNeg(p->b, a, ""), v, "");
  return LLVMBuildSelect(p->b, is_0, zero, v, "");
}

static LLVMValueRef print_compare(Printer *p, const KNode *n, const Row *row)
{
  (void)n;
  return compare(p, row, llvm_in_type(p, 0).elem, llvm_in(p, 0), llvm_in(p, 1));
}

/* a < b ? a : b, which is minps, and not llvm.minnum, which is not */
static LLVMValueRef print_pick(Printer *p, const KNode *n, const Row *row)
{
  return pick(p, row, n->type.elem, llvm_in(p, 0), llvm_in(p, 1));
}

static LLVMValueRef print_neg(Printer *p, const KNode *n, const Row *row)
{
  (void)row;
  return kelem_info[n->type.elem].is_float ? LLVMBuildFNeg(p->b, llvm_in(p, 0), "")
                                           : LLVMBuildNeg(p->b, llvm_in(p, 0), "");
}

static LLVMValueRef print_abs(Printer *p, const KNode *n, const Row *row)
{
  const KElemInfo *info = &kelem_info[n->type.elem];
  LLVMTypeRef type = llvm_type(p, n->type);
  LLVMValueRef in[] = {llvm_in(p, 0), LLVMConstInt(LLVMInt1TypeInContext(p->ctx), 0, false)};

  (void)row;
  if (info->is_float)
    return llvm_intrinsic(p, "llvm.fabs", type, in, 1);
  return info->is_signed ? llvm_intrinsic(p, "llvm.abs", type, in, 2) : in[0];
}

static LLVMValueRef print_sqrt(Printer *p, const KNode *n, const Row *row)
{
  LLVMValueRef in[] = {llvm_in(p, 0)};
  (void)row;
  return llvm_intrinsic(p, "llvm.sqrt", llvm_type(p, n->type), in, 1);
}

/* SSE4.1, which every row has, and later sets round by one instruction. */
static LLVMValueRef print_rounding(Printer *p, const KNode *n, const Row *row)
{
  static const char *const name[K_COUNT] = {[K_floor] = "llvm.floor",
                                            [K_ceil] = "llvm.ceil",
                                            [K_trunc] = "llvm.trunc",
                                            [K_round] = "llvm.roundeven"};
  LLVMValueRef in[] = {llvm_in(p, 0)};
  (void)row;
  return llvm_intrinsic(p, name[n->op], llvm_type(p, n->type), in, 1);
}

/* What the target lacks, LLVM would make calls of; pass_legalize() has rewritten it. */
static LLVMValueRef lacking(const Printer *p)
{
  const char *op = kop_info[kernel_node(p->k, p->at)->op].name;
  fail(p->e, "kernel '%s': %%%u is %s, for which %s has no instruction", p->k->name, p->at, op,
       p->target->name);
  return NULL;
}

static LLVMValueRef print_fma(Printer *p, const KNode *n, const Row *row)
{
  LLVMValueRef in[] = {llvm_in(p, 0), llvm_in(p, 1), llvm_in(p, 2)};

  (void)row;
  return p->target->fma ? llvm_intrinsic(p, "llvm.fma", llvm_type(p, n->type), in, 3) : lacking(p);
}

static LLVMValueRef print_const(Printer *p, const KNode *n, const Row *row)
{
  (void)row;
  return kelem_is_real(n->type.elem) ? llvm_const_real(p, n->type, n->imm.f)
                                     : llvm_const(p, n->type, n->imm.i);
}

static LLVMValueRef print_lane(Printer *p, const KNode *n, const Row *row)
{
  LLVMValueRef lane[K_MAX_LANES];

  (void)row;
  for (unsigned i = 0; i < n->type.lanes; i++)
    lane[i] = LLVMConstInt(elem_type(p, n->type.elem), i, false);
  return n->type.lanes == 1 ? lane[0] : LLVMConstVector(lane, n->type.lanes);
}

/* ---- memory */

/* A bool is a byte. */
static LLVMTypeRef memory_type(const Printer *p, KType t)
{
  return llvm_type(p, t.elem == KE_bool ? ktype(KE_u8, t.lanes) : t);
}

static LLVMValueRef address(const Printer *p, const KNode *n)
{
  LLVMTypeRef elem = memory_type(p, ktype(p->k->params.data[n->buf].elem, 1));
  LLVMValueRef at = llvm_in(p, 0), off = llvm_const(p, ktype(KE_idx, 1), n->imm.i);
  LLVMValueRef base = LLVMBuildGEP2(p->b, elem, LLVMGetParam(p->fn, n->buf), &at, 1, "");
  return n->imm.i ? LLVMBuildGEP2(p->b, elem, base, &off, 1, "") : base;
}

/* A buffer is known to be aligned to its elements, and no more. */
static unsigned alignment(const Printer *p, const KNode *n)
{
  return kelem_info[p->k->params.data[n->buf].elem].bytes;
}

static LLVMValueRef print_load(Printer *p, const KNode *n, const Row *row)
{
  LLVMTypeRef type = memory_type(p, n->type);
  LLVMValueRef v = LLVMBuildLoad2(p->b, type, address(p, n), "");
  (void)row;
  LLVMSetAlignment(v, alignment(p, n));
  return n->type.elem == KE_bool ? LLVMBuildICmp(p->b, LLVMIntNE, v, LLVMConstNull(type), "") : v;
}

/* Into the second level: the first has too few places for lines on their way (16) to keep the memory busy. */
static LLVMValueRef print_prefetch(Printer *p, const KNode *n, const Row *row)
{
  LLVMTypeRef i32 = LLVMInt32TypeInContext(p->ctx);
  LLVMValueRef read = LLVMConstInt(i32, 0, false), l2 = LLVMConstInt(i32, 2, false),
               data = LLVMConstInt(i32, 1, false);
  LLVMValueRef in[] = {address(p, n), read, l2, data};
  (void)row;
  return llvm_intrinsic(p, "llvm.prefetch", LLVMPointerTypeInContext(p->ctx, 0), in, 4);
}

static LLVMValueRef print_store(Printer *p, const KNode *n, const Row *row)
{
  KType t = llvm_in_type(p, 1);
  LLVMValueRef value = llvm_in(p, 1);

  (void)row;
  if (t.elem == KE_bool)
    value = LLVMBuildZExt(p->b, value, memory_type(p, t), "");
  LLVMValueRef v = LLVMBuildStore(p->b, value, address(p, n));
  LLVMSetAlignment(v, alignment(p, n));
  return v;
}

/* ---- vectors */

static LLVMValueRef splat(const Printer *p, LLVMValueRef scalar, unsigned lanes)
{
  LLVMTypeRef type = LLVMVectorType(LLVMTypeOf(scalar), lanes), i32 = LLVMInt32TypeInContext(p->ctx);

  if (lanes == 1)
    return scalar;
  LLVMValueRef one =
      LLVMBuildInsertElement(p->b, LLVMGetPoison(type), scalar, LLVMConstInt(i32, 0, false), "");
  return LLVMBuildShuffleVector(p->b, one, LLVMGetPoison(type), LLVMConstNull(LLVMVectorType(i32, lanes)),
                                "");
}

/* An i32 given for bytes is repeated as a whole. */
static LLVMValueRef print_splat(Printer *p, const KNode *n, const Row *row)
{
  unsigned lanes = ktype_bytes(n->type) / kelem_info[llvm_in_type(p, 0).elem].bytes;
  (void)row;
  return LLVMBuildBitCast(p->b, splat(p, llvm_in(p, 0), lanes), llvm_type(p, n->type), "");
}

static LLVMValueRef print_extract(Printer *p, const KNode *n, const Row *row)
{
  (void)row;
  return lane_of(p, llvm_in(p, 0), (unsigned)n->imm.i);
}

static LLVMValueRef print_shuffle(Printer *p, const KNode *n, const Row *row)
{
  unsigned lane[K_MAX_LANES];

  (void)row;
  for (unsigned i = 0; i < n->type.lanes; i++)
    lane[i] = kernel_in(p->k, p->at, 2 + i);
  return shuffle(p, llvm_in(p, 0), llvm_in(p, 1), lane, n->type.lanes);
}

static LLVMValueRef print_sum(Printer *p, const KNode *n, const Row *row)
{
  LLVMValueRef v = llvm_in(p, 0);

  for (unsigned half = llvm_in_type(p, 0).lanes / 2; half; half /= 2)
    v = LLVMBuildBinOp(p->b, (LLVMOpcode)row_pick(row, n->type.elem), llvm_lanes_of(p, v, 0, 1, half),
                       llvm_lanes_of(p, v, half, 1, half), "");
  return v;
}

static LLVMValueRef print_rmax(Printer *p, const KNode *n, const Row *row)
{
  LLVMValueRef v = llvm_in(p, 0);

  for (unsigned half = llvm_in_type(p, 0).lanes / 2; half; half /= 2)
    v = pick(p, row, n->type.elem, llvm_lanes_of(p, v, 0, 1, half), llvm_lanes_of(p, v, half, 1, half));
  return v;
}

static LLVMValueRef print_select(Printer *p, const KNode *n, const Row *row)
{
  (void)n, (void)row;
  return LLVMBuildSelect(p->b, llvm_in(p, 0), llvm_in(p, 1), llvm_in(p, 2), "");
}

/* An empty piece of assembler that may change the value, and has an effect: neither the scheduler nor the combiner of sums
 * looks across it. Of whole registers only; for others the hint is dropped. */
static LLVMValueRef print_pin(Printer *p, const KNode *n, const Row *row)
{
  static const char any_vector_register[] = "=v,0"; /* x86's name for it */
  LLVMTypeRef words = llvm_type(p, ktype(KE_i32, p->target->vector_bytes / 4u));
  LLVMValueRef in = llvm_in(p, 0);

  (void)row;
  if (n->type.elem == KE_bool || ktype_bytes(n->type) != p->target->vector_bytes)
    return in;
  LLVMTypeRef type = LLVMFunctionType(words, &words, 1, false);
  LLVMValueRef nothing = LLVMGetInlineAsm(type, "", 0, any_vector_register, strlen(any_vector_register), true,
                                          false, LLVMInlineAsmDialectATT, false);
  LLVMValueRef bits = LLVMBuildBitCast(p->b, in, words, "");
  bits = LLVMBuildCall2(p->b, type, nothing, &bits, 1, "");
  return LLVMBuildBitCast(p->b, bits, llvm_type(p, n->type), "");
}

/* ---- conversions */

static LLVMValueRef print_cast(Printer *p, const KNode *n, const Row *row)
{
  KType from = llvm_in_type(p, 0);
  bool f16 = from.elem == KE_f16 || n->type.elem == KE_f16;

  (void)row;
  if (f16 && !p->target->f16c)
    return lacking(p);
  return n->op == K_cast ? llvm_cast(p, llvm_in(p, 0), from, n->type.elem)
                         : llvm_cast_sat(p, llvm_in(p, 0), from, n->type.elem);
}

static LLVMValueRef print_bitcast(Printer *p, const KNode *n, const Row *row)
{
  (void)row;
  return LLVMBuildBitCast(p->b, llvm_in(p, 0), llvm_type(p, n->type), "");
}

static LLVMValueRef print_dot(Printer *p, const KNode *n, const Row *row)
{
  (void)row;
  return llvm_dot(p, n);
}

static LLVMValueRef print_widen(Printer *p, const KNode *n, const Row *row)
{
  (void)row;
  return llvm_widen(p, n);
}

/* ---- the table */

/* clang-format off */
static const Row rows[K_COUNT] = {
    [K_const]   = {print_const, 0, 0, 0},
    [K_lane]    = {print_lane, 0, 0, 0},
    [K_load]    = {print_load, 0, 0, 0},
    [K_store]   = {print_store, 0, 0, 0},
    [K_prefetch] = {print_prefetch, 0, 0, 0},
    [K_pin]     = {print_pin, 0, 0, 0},
    [K_splat]   = {print_splat, 0, 0, 0},
    [K_extract] = {print_extract, 0, 0, 0},
    [K_shuffle] = {print_shuffle, 0, 0, 0},
    [K_sum]     = {print_sum, LLVMAdd, LLVMAdd, LLVMFAdd},
    [K_rmax]    = {print_rmax, LLVMIntSGT, LLVMIntUGT, LLVMRealOGT},
    [K_add]     = {print_binary, LLVMAdd, LLVMAdd, LLVMFAdd},
    [K_sub]     = {print_binary, LLVMSub, LLVMSub, LLVMFSub},
    [K_mul]     = {print_binary, LLVMMul, LLVMMul, LLVMFMul},
    [K_div]     = {print_division, LLVMSDiv, LLVMUDiv, LLVMFDiv},
    [K_rem]     = {print_division, LLVMSRem, LLVMURem, 0},
    [K_neg]     = {print_neg, 0, 0, 0},
    [K_abs]     = {print_abs, 0, 0, 0},
    [K_min]     = {print_pick, LLVMIntSLT, LLVMIntULT, LLVMRealOLT},
    [K_max]     = {print_pick, LLVMIntSGT, LLVMIntUGT, LLVMRealOGT},
    [K_fma]     = {print_fma, 0, 0, 0},
    [K_sqrt]    = {print_sqrt, 0, 0, 0},
    [K_floor]   = {print_rounding, 0, 0, 0},
    [K_ceil]    = {print_rounding, 0, 0, 0},
    [K_trunc]   = {print_rounding, 0, 0, 0},
    [K_round]   = {print_rounding, 0, 0, 0},
    [K_and]     = {print_binary, LLVMAnd, LLVMAnd, 0},
    [K_or]      = {print_binary, LLVMOr, LLVMOr, 0},
    [K_xor]     = {print_binary, LLVMXor, LLVMXor, 0},
    [K_shl]     = {print_shift, LLVMShl, LLVMShl, 0},
    [K_shr]     = {print_shift, LLVMAShr, LLVMLShr, 0},
    [K_shlv]    = {print_shlv, LLVMShl, LLVMShl, 0},
    [K_shrv]    = {print_shlv, LLVMAShr, LLVMLShr, 0},
    [K_lt]      = {print_compare, LLVMIntSLT, LLVMIntULT, LLVMRealOLT},
    [K_le]      = {print_compare, LLVMIntSLE, LLVMIntULE, LLVMRealOLE},
    [K_eq]      = {print_compare, LLVMIntEQ, LLVMIntEQ, LLVMRealOEQ},
    [K_select]  = {print_select, 0, 0, 0},
    [K_cast]    = {print_cast, 0, 0, 0},
    [K_cast_sat] = {print_cast, 0, 0, 0},
    [K_bitcast] = {print_bitcast, 0, 0, 0},
    [K_dot4]    = {print_dot, 0, 0, 0},
    [K_dot2]    = {print_dot, 0, 0, 0},
    [K_dot2w]   = {print_dot, 0, 0, 0},
    [K_widen]   = {print_widen, 0, 0, 0},
};
/* clang-format on */

bool llvm_print_op(Printer *p, const KNode *n)
{
  const Row *row = &rows[n->op];

  if (!row->print)
    return fail(p->e, "kernel '%s': %%%u has an op that LLVM's printer has not", p->k->name, p->at);
  p->val[p->at] = row->print(p, n, row);
  return p->val[p->at] != NULL;
}
