/* llvm_cast.c - conversions between elements. f16 is LLVM's half only while it is converted. */
#include "codegen/llvm_print.h"

static LLVMTypeRef half_type(const Printer *p, unsigned lanes)
{
  return llvm_lanes(LLVMHalfTypeInContext(p->ctx), lanes);
}

static LLVMValueRef f16_to_f32_lanes(const Printer *p, LLVMValueRef v, unsigned lanes)
{
  LLVMValueRef half = LLVMBuildBitCast(p->b, v, half_type(p, lanes), "");
  return LLVMBuildFPExt(p->b, half, llvm_type(p, ktype(KE_f32, lanes)), "");
}

static LLVMValueRef f32_to_f16_lanes(const Printer *p, LLVMValueRef v, unsigned lanes)
{
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
