/* llvm_cast.c - conversions between elements, f16 among them.
 *
 * Where the CPU converts f16 (F16C), LLVM's half does it in one instruction. Elsewhere LLVM would call a
 * library function for each lane, so the steps are spelled out on integers; the bits that come out are the
 * same. Source: IEEE 754-2008, binary16 and binary32; ties to even. */
#include "codegen/llvm_print.h"

enum {
  F16_SIGN = 0x8000,
  F16_INF = 0x7c00,
  F16_NAN = 0x7e00,
  F32_INF = 0x7f800000,
  MANT_GAP = 23 - 10,                         /* bits that binary32's mantissa has more */
  EXP_GAP = (127 - 15) << 23,                 /* difference of the exponents' biases, in place */
  F32_OF_F16_MIN = (127 - 14) << 23,          /* smallest normal f16, as f32 */
  F32_OF_F16_OVER = (127 + 16) << 23,         /* smallest power of two that f16 cannot hold */
  SUBNORMAL = (127 - 15 + 23 - 10 + 1) << 23, /* 0.5: its last bit weighs as much as f16's smallest value */
};

/* Lanes of i32 and what is done with them: `w` stands for words. */
typedef struct {
  const Printer *p;
  unsigned lanes;
} Words;

static LLVMValueRef w_const(Words w, int64_t i)
{
  return llvm_const(w.p, ktype(KE_i32, w.lanes), i);
}

static LLVMValueRef w_op(Words w, LLVMOpcode op, LLVMValueRef a, int64_t b)
{
  return LLVMBuildBinOp(w.p->b, op, a, w_const(w, b), "");
}

static LLVMValueRef w_test(Words w, LLVMIntPredicate pred, LLVMValueRef a, int64_t b)
{
  return LLVMBuildICmp(w.p->b, pred, a, w_const(w, b), "");
}

static LLVMValueRef w_float(Words w, LLVMValueRef a)
{
  return LLVMBuildBitCast(w.p->b, a, llvm_type(w.p, ktype(KE_f32, w.lanes)), "");
}

static LLVMValueRef w_bits(Words w, LLVMValueRef a)
{
  return LLVMBuildBitCast(w.p->b, a, llvm_type(w.p, ktype(KE_i32, w.lanes)), "");
}

/* Seen as f32, f16's exponent and mantissa are 2^112 too small, subnormals too. */
static LLVMValueRef f16_to_f32_by_steps(Words w, LLVMValueRef h)
{
  LLVMBuilderRef b = w.p->b;
  LLVMValueRef bits = LLVMBuildZExt(b, h, llvm_type(w.p, ktype(KE_i32, w.lanes)), "");
  LLVMValueRef sign = w_op(w, LLVMShl, w_op(w, LLVMAnd, bits, F16_SIGN), 16);
  LLVMValueRef rest = w_op(w, LLVMAnd, bits, F16_SIGN - 1), moved = w_op(w, LLVMShl, rest, MANT_GAP);
  LLVMValueRef value = LLVMBuildFMul(b, w_float(w, moved), llvm_const_real(w.p, w.lanes, 0x1p112), "");
  LLVMValueRef big = w_op(w, LLVMOr, moved, F32_INF); /* infinities and NaNs */
  LLVMValueRef out = LLVMBuildSelect(b, w_test(w, LLVMIntUGE, rest, F16_INF), big, w_bits(w, value), "");
  return w_float(w, LLVMBuildOr(b, out, sign, ""));
}

static LLVMValueRef f32_to_f16_by_steps(Words w, LLVMValueRef f)
{
  LLVMBuilderRef b = w.p->b;
  LLVMValueRef bits = w_bits(w, f), rest = w_op(w, LLVMAnd, bits, INT32_MAX);
  LLVMValueRef sign = w_op(w, LLVMAnd, w_op(w, LLVMLShr, bits, 16), F16_SIGN);
  /* normal: half of the last place is added, less one for an even mantissa, then cut */
  LLVMValueRef odd = w_op(w, LLVMAnd, w_op(w, LLVMLShr, rest, MANT_GAP), 1);
  LLVMValueRef nearly = w_op(w, LLVMAdd, rest, (1 << (MANT_GAP - 1)) - 1 - EXP_GAP);
  LLVMValueRef normal = w_op(w, LLVMLShr, LLVMBuildAdd(b, nearly, odd, ""), MANT_GAP);
  /* subnormal: the addition rounds at the right place */
  LLVMValueRef sum = LLVMBuildFAdd(b, w_float(w, rest), w_float(w, w_const(w, SUBNORMAL)), "");
  LLVMValueRef small = w_op(w, LLVMSub, w_bits(w, sum), SUBNORMAL);
  LLVMValueRef nan = w_test(w, LLVMIntUGT, rest, F32_INF);
  LLVMValueRef big = LLVMBuildSelect(b, nan, w_const(w, F16_NAN), w_const(w, F16_INF), "");
  LLVMValueRef out = LLVMBuildSelect(b, w_test(w, LLVMIntULT, rest, F32_OF_F16_MIN), small, normal, "");

  out = LLVMBuildSelect(b, w_test(w, LLVMIntUGE, rest, F32_OF_F16_OVER), big, out, "");
  return LLVMBuildTrunc(b, LLVMBuildOr(b, out, sign, ""), llvm_type(w.p, ktype(KE_f16, w.lanes)), "");
}

static LLVMTypeRef half_type(const Printer *p, unsigned lanes)
{
  return llvm_lanes(LLVMHalfTypeInContext(p->ctx), lanes);
}

static LLVMValueRef f16_to_f32_lanes(const Printer *p, LLVMValueRef v, unsigned lanes)
{
  if (!p->target->f16c)
    return f16_to_f32_by_steps((Words){p, lanes}, v);
  LLVMValueRef half = LLVMBuildBitCast(p->b, v, half_type(p, lanes), "");
  return LLVMBuildFPExt(p->b, half, llvm_type(p, ktype(KE_f32, lanes)), "");
}

static LLVMValueRef f32_to_f16_lanes(const Printer *p, LLVMValueRef v, unsigned lanes)
{
  if (!p->target->f16c)
    return f32_to_f16_by_steps((Words){p, lanes}, v);
  LLVMValueRef half = LLVMBuildFPTrunc(p->b, v, half_type(p, lanes), "");
  return LLVMBuildBitCast(p->b, half, llvm_type(p, ktype(KE_f16, lanes)), "");
}

static LLVMValueRef to_f32(const Printer *p, LLVMValueRef v, KType from)
{
  LLVMTypeRef f32 = llvm_type(p, ktype(KE_f32, from.lanes));

  if (from.elem == KE_f32)
    return v;
  if (from.elem == KE_f16)
    return f16_to_f32_lanes(p, v, from.lanes);
  return kelem_info[from.elem].is_signed ? LLVMBuildSIToFP(p->b, v, f32, "")
                                         : LLVMBuildUIToFP(p->b, v, f32, "");
}

static LLVMValueRef f32_to(const Printer *p, LLVMValueRef v, KType to)
{
  LLVMTypeRef type = llvm_type(p, to);

  if (to.elem == KE_f32)
    return v;
  if (to.elem == KE_f16)
    return f32_to_f16_lanes(p, v, to.lanes);
  return kelem_info[to.elem].is_signed ? LLVMBuildFPToSI(p->b, v, type, "")
                                       : LLVMBuildFPToUI(p->b, v, type, "");
}

LLVMValueRef llvm_cast(const Printer *p, LLVMValueRef v, KType from, KElem to)
{
  KType type = ktype(to, from.lanes);

  if (kelem_info[from.elem].is_float || kelem_info[to].is_float)
    return f32_to(p, to_f32(p, v, from), type);
  return LLVMBuildIntCast2(p->b, v, llvm_type(p, type), kelem_info[from.elem].is_signed, "");
}
