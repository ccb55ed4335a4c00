/* mi_cpu.c - asks the processor. Wider registers count only if the system saves them (XCR0).
 * Source: Intel SDM 2A, CPUID; SDM 1, 13.3; x86-64 psABI 1.0, table 3.1. */
#include "mi_cpu.h"
#include "mi_image.h"

#ifdef __x86_64__
#include <cpuid.h>
#include <stdbool.h>

typedef struct {
  unsigned a, b, c, d;
} Regs;

static Regs cpuid(unsigned leaf, unsigned sub)
{
  Regs r = {0, 0, 0, 0};
  __get_cpuid_count(leaf, sub, &r.a, &r.b, &r.c, &r.d);
  return r;
}

static bool has(unsigned reg, unsigned bits)
{
  return (reg & bits) == bits;
}

/* Register sets that the system saves: bit 1 SSE, 2 AVX, 5 .. 7 AVX-512. */
static unsigned saved_registers(const Regs *one)
{
  unsigned low = 0, high = 0;
  if (one->c & 1u << 27) /* OSXSAVE */
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

uint32_t mi_cpu_features(void)
{
  Regs one = cpuid(1, 0), seven = cpuid(7, 0), seven1 = cpuid(7, 1), ext = cpuid(0x80000001, 0);
  unsigned saved = saved_registers(&one);
  uint32_t f = 0;

  /* SSE3, SSSE3, CX16, SSE4.1, SSE4.2, POPCNT */
  if (has(one.c, 1u << 0 | 1u << 9 | 1u << 13 | 1u << 19 | 1u << 20 | 1u << 23))
    f |= MI_CPU_X86_64_V2;
  /* FMA, MOVBE, AVX, F16C; BMI, AVX2, BMI2; LZCNT */
  if (f && has(saved, 6) && has(one.c, 1u << 12 | 1u << 22 | 1u << 28 | 1u << 29) &&
      has(seven.b, 1u << 3 | 1u << 5 | 1u << 8) && has(ext.c, 1u << 5))
    f |= MI_CPU_X86_64_V3;
  if ((f & MI_CPU_X86_64_V3) && has(seven1.a, 1u << 4))
    f |= MI_CPU_AVX_VNNI;
  /* F, DQ, CD, BW, VL */
  if ((f & MI_CPU_X86_64_V3) && has(saved, 0xe6) &&
      has(seven.b, 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31))
    f |= MI_CPU_X86_64_V4;
  if ((f & MI_CPU_X86_64_V4) && has(seven.c, 1u << 11))
    f |= MI_CPU_AVX512_VNNI;
  return f;
}
#else
uint32_t mi_cpu_features(void)
{
  return 0;
}
#endif
