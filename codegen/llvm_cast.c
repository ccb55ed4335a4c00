/* llvm_cast.c - conversions between elements. f16 is LLVM's half only while it is converted; bf16 is the upper half
 * of a float, found by integer arithmetic, since LLVM would call a library. */
#include "codegen/llvm_print.h"

#include <math.h>

static LLVMTypeRef lanes_type(const Printer *p, KElem e, unsigned lanes)
{
  return llvm_type(p, ktype(e, lanes));
}

static LLVMTypeRef half_type(const Printer *p, unsigned lanes)
{
  return llvm_lanes(LLVMHalfTypeInContext(p->ctx), lanes);
}

static LLVMValueRef f16_to_f32_lanes(const Printer *p, LLVMValueRef v, unsigned lanes)
{
  LLVMValueRef half = LLVMBuildBitCast(p->b, v, half_type(p, lanes), "");
  return LLVMBuildFPExt(p->b, half, lanes_type(p, KE_f32, lanes), "");
}

static LLVMValueRef f32_to_f16_lanes(const Printer *p, LLVMValueRef v, unsigned lanes)
{
  LLVMValueRef half = LLVMBuildFPTrunc(p->b, v, half_type(p, lanes), "");
  return LLVMBuildBitCast(p->b, half, lanes_type(p, KE_f16, lanes), "");
}

static LLVMValueRef bf16_to_f32_lanes(const Printer *p, LLVMValueRef v, unsigned lanes)
{
  LLVMValueRef wide = LLVMBuildZExt(p->b, v, lanes_type(p, KE_u32, lanes), "");
  LLVMValueRef bits = LLVMBuildShl(p->b, wide, llvm_const(p, ktype(KE_u32, lanes), 16), "");
  return LLVMBuildBitCast(p->b, bits, lanes_type(p, KE_f32, lanes), "");
}

/* To nearest even by an integer carry; NaN keeps its upper bits, one of them set so that some are. */
static LLVMValueRef f32_to_bf16_lanes(const Printer *p, LLVMValueRef v, unsigned lanes)
{
  KType u32 = ktype(KE_u32, lanes);
  LLVMValueRef bits = LLVMBuildBitCast(p->b, v, llvm_type(p, u32), ""), by = llvm_const(p, u32, 16);
  LLVMValueRef odd = LLVMBuildAnd(p->b, LLVMBuildLShr(p->b, bits, by, ""), llvm_const(p, u32, 1), "");
  LLVMValueRef near = LLVMBuildAdd(p->b, bits, LLVMBuildAdd(p->b, odd, llvm_const(p, u32, 0x7fff), ""), "");
  LLVMValueRef nan = LLVMBuildOr(p->b, bits, llvm_const(p, u32, 0x400000), "");
  LLVMValueRef is_nan = LLVMBuildFCmp(p->b, LLVMRealUNO, v, v, "");
  LLVMValueRef all = LLVMBuildSelect(p->b, is_nan, nan, near, "");
  return LLVMBuildTrunc(p->b, LLVMBuildLShr(p->b, all, by, ""), lanes_type(p, KE_u16, lanes), "");
}

/* As f32 or f64, whichever LLVM converts from. */
static LLVMValueRef widened(const Printer *p, LLVMValueRef v, KType *from)
{
  KElem e = (KElem)from->elem;

  if (e == KE_f16 || e == KE_bf16)
    from->elem = KE_f32;
  return e == KE_f16    ? f16_to_f32_lanes(p, v, from->lanes)
         : e == KE_bf16 ? bf16_to_f32_lanes(p, v, from->lanes)
                        : v;
}

/* f32 or f64 of anything but 16-bit floats */
static LLVMValueRef to_real(const Printer *p, LLVMValueRef v, KType from, KElem to)
{
  LLVMTypeRef type = lanes_type(p, to, from.lanes);

  if (from.elem == to)
    return v;
  if (kelem_is_real(from.elem))
    return to == KE_f64 ? LLVMBuildFPExt(p->b, v, type, "") : LLVMBuildFPTrunc(p->b, v, type, "");
  return kelem_info[from.elem].is_signed ? LLVMBuildSIToFP(p->b, v, type, "")
                                         : LLVMBuildUIToFP(p->b, v, type, "");
}

static LLVMValueRef not_zero(const Printer *p, LLVMValueRef v, KElem from)
{
  LLVMValueRef zero = LLVMConstNull(LLVMTypeOf(v));
  return kelem_is_real(from) ? LLVMBuildFCmp(p->b, LLVMRealUNE, v, zero, "")
                             : LLVMBuildICmp(p->b, LLVMIntNE, v, zero, "");
}

LLVMValueRef llvm_cast(const Printer *p, LLVMValueRef v, KType from, KElem to)
{
  LLVMTypeRef type = lanes_type(p, to, from.lanes);

  if (from.elem == to)
    return v;
  v = widened(p, v, &from);
  switch (to) {
  case KE_bool: return not_zero(p, v, (KElem)from.elem);
  case KE_f16: return f32_to_f16_lanes(p, to_real(p, v, from, KE_f32), from.lanes);
  case KE_bf16: return f32_to_bf16_lanes(p, to_real(p, v, from, KE_f32), from.lanes);
  case KE_f32:
  case KE_f64: return to_real(p, v, from, to);
  default: break;
  }
  if (!kelem_is_real(from.elem))
    return LLVMBuildIntCast2(p->b, v, type, kelem_info[from.elem].is_signed, "");
  return kelem_info[to].is_signed ? LLVMBuildFPToSI(p->b, v, type, "") : LLVMBuildFPToUI(p->b, v, type, "");
}

/* a where it is on that side of the bound, else the bound: NaN becomes the bound */
static LLVMValueRef bounded(const Printer *p, LLVMRealPredicate side, LLVMValueRef a, KType t, double bound)
{
  LLVMValueRef b = llvm_const_real(p, t, bound);
  return LLVMBuildSelect(p->b, LLVMBuildFCmp(p->b, side, a, b, ""), a, b, "");
}

/* Spelled out, since LLVM makes scalars of vectors in llvm.fptosi.sat. What is converted is in range. */
LLVMValueRef llvm_cast_sat(const Printer *p, LLVMValueRef v, KType from, KElem to)
{
  bool is_signed = kelem_info[to].is_signed;
  int bits = 8 * kelem_info[to].bytes - is_signed;

  v = widened(p, v, &from);
  bool exact = bits <= (from.elem == KE_f64 ? 53 : 24); /* whether the largest integer is a float */
  double end = ldexp(1, bits),
         last = from.elem == KE_f64 ? nextafter(end, 0) : (double)nextafterf((float)end, 0);
  KType type = ktype(to, from.lanes);
  LLVMValueRef x = bounded(p, LLVMRealOGT, v, from, is_signed ? -end : 0);
  x = bounded(p, LLVMRealOLT, x, from, exact ? end - 1 : last);
  LLVMValueRef r = llvm_cast(p, x, from, to);
  if (!exact) {
    LLVMValueRef over = LLVMBuildFCmp(p->b, LLVMRealOGE, v, llvm_const_real(p, from, end), "");
    r = LLVMBuildSelect(p->b, over, llvm_const(p, type, (int64_t)(UINT64_MAX >> (64 - bits))), r, "");
  }
  if (is_signed)
    r = LLVMBuildSelect(p->b, LLVMBuildFCmp(p->b, LLVMRealORD, v, v, ""), r, llvm_const(p, type, 0), "");
  return r;
}
