/* llvm_dot.c - integer products: dot4, dot2, dot2w and widen.
 *
 * Lanes are served by the widest instructions that the target has; what is left over, or has no instruction,
 * is spelled out with multiplications.
 * Source: Intel SDM 2, VPDPBUSD, PMADDUBSW, PMADDWD; types as LLVM 19 has them (IntrinsicsX86.td). */
#include "codegen/llvm_print.h"

typedef struct {
  KOp op;
  uint32_t bytes; /* of a register */
  bool adds;      /* takes the sum as first operand; else only gives the products' sum */
  const char *intrinsic;
} DotRow;

/* The widest first. */
static const DotRow dot_rows[] = {
    {K_dot4, 64, true, "llvm.x86.avx512.vpdpbusd.512"},
    {K_dot4, 32, true, "llvm.x86.avx512.vpdpbusd.256"},
    {K_dot4, 16, true, "llvm.x86.avx512.vpdpbusd.128"},
    {K_dot2, 64, false, "llvm.x86.avx512.pmaddubs.w.512"},
    {K_dot2, 32, false, "llvm.x86.avx2.pmadd.ub.sw"},
    {K_dot2, 16, false, "llvm.x86.ssse3.pmadd.ub.sw.128"},
    {K_dot2w, 64, false, "llvm.x86.avx512.pmaddw.d.512"},
    {K_dot2w, 32, false, "llvm.x86.avx2.pmadd.wd"},
    {K_dot2w, 16, false, "llvm.x86.sse2.pmadd.wd"},
};

/* A product of `ways` neighbours: sum[i] + a[ways i + j] * b[ways i + j]. */
typedef struct {
  KOp op;
  KElem sum, a, b;
  unsigned ways;
} Dot;

static Dot dot_of(KOp op)
{
  switch (op) {
  case K_dot4: return (Dot){op, KE_i32, KE_u8, KE_i8, 4};
  case K_dot2: return (Dot){op, KE_i16, KE_u8, KE_i8, 2};
  default: return (Dot){K_dot2w, KE_i32, KE_i16, KE_i16, 2};
  }
}

static bool has_row(const Target *t, const DotRow *row, KOp op)
{
  return row->op == op && row->bytes <= t->vector_bytes && (op != K_dot4 || t->dot4) &&
         (op != K_dot2 || t->dot2);
}

/* The widest instruction for at most `lanes` sums, or NULL. */
static const DotRow *find_row(const Target *t, const Dot *d, unsigned lanes)
{
  for (size_t i = 0; i < COUNT(dot_rows); i++)
    if (has_row(t, &dot_rows[i], d->op) && dot_rows[i].bytes / kelem_info[d->sum].bytes <= lanes)
      return &dot_rows[i];
  return NULL;
}

static LLVMValueRef by_steps(const Printer *p, const Dot *d, LLVMValueRef sum, LLVMValueRef a, LLVMValueRef b,
                             unsigned lanes)
{
  for (unsigned j = 0; j < d->ways; j++) {
    LLVMValueRef x = llvm_cast(p, llvm_lanes_of(p, a, j, d->ways, lanes), ktype(d->a, lanes), d->sum);
    LLVMValueRef y = llvm_cast(p, llvm_lanes_of(p, b, j, d->ways, lanes), ktype(d->b, lanes), d->sum);
    sum = LLVMBuildAdd(p->b, sum, LLVMBuildMul(p->b, x, y, ""), "");
  }
  return sum;
}

/* vpdpbusd's operands are typed as dwords, the others' as what they hold. */
static LLVMValueRef by_instruction(const Printer *p, const DotRow *row, LLVMValueRef sum, LLVMValueRef a,
                                   LLVMValueRef b)
{
  if (!row->adds) {
    LLVMValueRef in[] = {a, b};
    return LLVMBuildAdd(p->b, sum, llvm_intrinsic(p, row->intrinsic, NULL, in, 2), "");
  }
  LLVMTypeRef type = LLVMTypeOf(sum);
  LLVMValueRef in[] = {sum, LLVMBuildBitCast(p->b, a, type, ""), LLVMBuildBitCast(p->b, b, type, "")};
  return llvm_intrinsic(p, row->intrinsic, NULL, in, 3);
}

static LLVMValueRef dot(const Printer *p, const Dot *d, LLVMValueRef sum, LLVMValueRef a, LLVMValueRef b,
                        unsigned lanes)
{
  LLVMValueRef out = NULL;

  for (unsigned at = 0, n; at < lanes; at += n) {
    const DotRow *row = find_row(p->target, d, lanes - at);
    n = row ? row->bytes / kelem_info[d->sum].bytes : lanes - at;
    LLVMValueRef s = llvm_lanes_of(p, sum, at, 1, n), x = llvm_lanes_of(p, a, at * d->ways, 1, n * d->ways),
                 y = llvm_lanes_of(p, b, at * d->ways, 1, n * d->ways);
    LLVMValueRef piece = row ? by_instruction(p, row, s, x, y) : by_steps(p, d, s, x, y, n);
    out = at ? llvm_concat(p, out, at, piece, n) : piece;
  }
  return out;
}

LLVMValueRef llvm_dot(Printer *p, const KNode *n)
{
  Dot d = dot_of(n->op);
  return dot(p, &d, llvm_in(p, 0), llvm_in(p, 1), llvm_in(p, 2), n->type.lanes);
}

/* The sum of neighbours is their product with ones. */
LLVMValueRef llvm_widen(Printer *p, const KNode *n)
{
  Dot d = dot_of(K_dot2w);
  LLVMValueRef ones = llvm_const(p, llvm_in_type(p, 0), 1), zero = llvm_const(p, n->type, 0);
  return dot(p, &d, zero, llvm_in(p, 0), ones, n->type.lanes);
}
