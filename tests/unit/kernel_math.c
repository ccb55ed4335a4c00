/* The functions that kernel_math.c expands, against double arithmetic over their ranges, in the interpreter: the
 * errors that its comments state. Every product-and-sum target is covered too: fma taken apart. */
#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

#include "passes/passes.h"

enum { LANES = 8, CALLS = 4096, N = LANES * CALLS };

typedef KVal MathFn(Kernel *k, KVal x);

static KVal sine_turns(Kernel *k, KVal x)
{
  KVal s, c;
  k_sincos_turns(k, x, &s, &c);
  return s;
}

static KVal cosine_turns(Kernel *k, KVal x)
{
  KVal s, c;
  k_sincos_turns(k, x, &s, &c);
  return c;
}

static KVal sine(Kernel *k, KVal x)
{
  KVal s, c;
  k_sincos(k, x, &s, &c);
  return s;
}

static double exact_sine_turns(double x)
{
  return sin(2 * M_PI * x);
}

static double exact_cosine_turns(double x)
{
  return cos(2 * M_PI * x);
}

static double exact_sigmoid(double x)
{
  return 1 / (1 + exp(-x));
}

typedef struct {
  const char *name;
  MathFn *fn;
  double (*exact)(double);
  double lo, hi;
  double ulp, absolute; /* one of them must hold */
} Case;

static const Case cases[] = {
    {"exp", k_exp, exp, -87.0, 88.3, 2, 0},
    {"log", k_log, log, 1e-30, 50, 2, 0},
    {"log near 1", k_log, log, 0.6, 1.5, 2, 0},
    {"log, tiny", k_log, log, 0, 2e-38, 2, 0},
    {"tanh", k_tanh, tanh, -12, 12, 4, 0},
    {"tanh near 0", k_tanh, tanh, -0.7, 0.7, 4, 0},
    {"sigmoid", k_sigmoid, exact_sigmoid, -80, 80, 4, 0},
    {"round", k_round, rint, -1000, 1000, 0, 0},
    {"sin(2 pi x)", sine_turns, exact_sine_turns, -0.5, 0.5, 0, 2e-7},
    {"cos(2 pi x)", cosine_turns, exact_cosine_turns, -0.5, 0.5, 0, 2e-7},
    {"sin", sine, sin, -10, 10, 0, 2e-6},
};

static Kernel *math_kernel(Arena *a, const Case *c)
{
  Kernel *k = kernel_new(a, "math");
  uint16_t x = kernel_param(k, "x", KE_f32, KA_READ), y = kernel_param(k, "y", KE_f32, KA_WRITE);
  KVal at = k_op2(k, K_mul, k_grid(k), k_idx(k, LANES));

  k_store(k, y, at, 0, c->fn(k, k_load(k, ktype(KE_f32, LANES), x, at, 0)));
  return k;
}

static double ulp_of(double v)
{
  int e;
  frexp(v, &e);
  return ldexp(1, e - 24 < -149 ? -149 : e - 24);
}

static void check(const Case *c, const char *cpu)
{
  static float x[N], y[N];
  Arena a = {0};
  Err e = {0};
  Kernel *k = pass_legalize(&a, math_kernel(&a, c), target_find(cpu, &e));
  double worst_ulp = 0, worst = 0;

  cr_assert(kernel_verify(k, &e), "%s", e.text);
  for (int i = 0; i < N; i++)
    x[i] = (float)(c->lo + (c->hi - c->lo) * i / (N - 1));
  cr_assert(
      kernel_eval(k, (void *[]){x, y}, (uint64_t[]){sizeof x, sizeof y}, (int32_t[]){0, 1}, 0, CALLS, &e),
      "%s", e.text);
  for (int i = 0; i < N; i++) {
    double want = c->exact(x[i]), d = y[i] == want ? 0 : fabs(y[i] - want);
    worst = fmax(worst, d);
    worst_ulp = fmax(worst_ulp, d / ulp_of(want));
  }
  printf("%-12s %-10s %.2f ulp, %.3g absolute\n", c->name, cpu, worst_ulp, worst);
  cr_expect(c->absolute > 0 ? worst <= c->absolute : worst_ulp <= c->ulp, "%s on %s: %.2f ulp, %g absolute",
            c->name, cpu, worst_ulp, worst);
  arena_free(&a);
}

Test(kernel_math, stays_within_its_stated_errors)
{
  for (size_t i = 0; i < COUNT(cases); i++) {
    check(&cases[i], "x86-64-v3");
    check(&cases[i], "c");
  }
}

Test(kernel_math, exp_at_the_ends)
{
  static const Case c = {"exp", k_exp, exp, -200, 200, 0, 0};
  Arena a = {0};
  Err e = {0};
  float x[LANES] = {-200, -87.5f, 0, -0.0f, 88.3f, 100, 1, -1}, y[LANES];

  cr_assert(kernel_eval(math_kernel(&a, &c), (void *[]){x, y}, (uint64_t[]){sizeof x, sizeof y},
                        (int32_t[]){0, 1}, 0, 1, &e));
  cr_expect(y[0] >= 0 && y[0] < 1.3e-38f);
  cr_expect(y[2] == 1 && y[3] == 1); /* softmax relies on it */
  cr_expect(isfinite(y[5]) && y[5] > 2e38f);
  arena_free(&a);
}

Test(kernel_math, log_at_the_ends)
{
  static const Case c = {"log", k_log, log, 0, 1, 0, 0};
  Arena a = {0};
  Err e = {0};
  float x[LANES] = {0, -0.0f, -1, INFINITY, -INFINITY, NAN, 1, 0x1p-149f}, y[LANES];

  cr_assert(kernel_eval(math_kernel(&a, &c), (void *[]){x, y}, (uint64_t[]){sizeof x, sizeof y},
                        (int32_t[]){0, 1}, 0, 1, &e));
  cr_expect(y[0] == -INFINITY && y[1] == -INFINITY && isnan(y[2]) && y[3] == INFINITY && isnan(y[4]) &&
            isnan(y[5]));
  cr_expect(y[6] == 0 && fabs((double)y[7] + 149 * log(2)) < 1e-5);
  arena_free(&a);
}

/* Every half-precision value through the integer conversion, and back from floats. */
Test(kernel_math, halves_by_integers)
{
  static uint16_t h[65536], back[65536];
  static float f[65536];
  Arena a = {0};
  Err e = {0};
  Kernel *k = kernel_new(&a, "half");
  uint16_t ph = kernel_param(k, "h", KE_f16, KA_READ), pf = kernel_param(k, "f", KE_f32, KA_WRITE),
           pb = kernel_param(k, "b", KE_f16, KA_WRITE);
  KVal at = k_op2(k, K_mul, k_grid(k), k_idx(k, LANES));
  KVal v = k_cast(k, KE_f32, k_load(k, ktype(KE_f16, LANES), ph, at, 0));

  k_store(k, pf, at, 0, v);
  k_store(k, pb, at, 0, k_cast(k, KE_f16, v));
  k = pass_legalize(&a, k, target_find("c", &e));
  for (int i = 0; i < 65536; i++)
    h[i] = (uint16_t)i;
  cr_assert(kernel_eval(k, (void *[]){h, f, back}, (uint64_t[]){sizeof h, sizeof f, sizeof back},
                        (int32_t[]){0, 1}, 0, 65536 / LANES, &e),
            "%s", e.text);
  for (int i = 0; i < 65536; i++) {
    float want = f16_to_f32((uint16_t)i);
    if (isnan(want)) {
      cr_expect(isnan(f[i]) && (back[i] & 0x7fff) > 0x7c00);
      continue;
    }
    cr_expect(f[i] == want && back[i] == (uint16_t)i, "half %04x: %g, back %04x", (unsigned)i, (double)f[i],
              back[i]);
  }
  arena_free(&a);
}
