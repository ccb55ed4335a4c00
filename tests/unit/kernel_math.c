/* The functions that kernel_math.c expands, against double arithmetic over their ranges, in the interpreter: the
 * errors that its comments state. Every product-and-sum target is covered too: fma taken apart. */
#define _GNU_SOURCE /* M_PIl */
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

static long double exact_sine_turns(long double x)
{
  return sinl(2 * (long double)M_PIl * x);
}

static long double exact_cosine_turns(long double x)
{
  return cosl(2 * (long double)M_PIl * x);
}

static long double exact_sigmoid(long double x)
{
  return 1 / (1 + expl(-x));
}

typedef struct {
  const char *name;
  KElem elem;
  MathFn *fn;
  long double (*exact)(long double);
  double lo, hi;
  double ulp, absolute; /* one of them must hold */
} Case;

static const Case cases[] = {
    {"exp", KE_f32, k_exp, expl, -87.0, 88.3, 2, 0},
    {"exp_ieee", KE_f32, k_exp_ieee, expl, -87.0, 88.7, 2, 0},
    {"exp_ieee, low", KE_f32, k_exp_ieee, expl, -104, -87, 0, 1.5e-45},
    {"log", KE_f32, k_log, logl, 1e-30, 50, 2, 0},
    {"log near 1", KE_f32, k_log, logl, 0.6, 1.5, 2, 0},
    {"log, tiny", KE_f32, k_log, logl, 0, 2e-38, 2, 0},
    {"tanh", KE_f32, k_tanh, tanhl, -12, 12, 4, 0},
    {"tanh near 0", KE_f32, k_tanh, tanhl, -0.7, 0.7, 4, 0},
    {"sigmoid", KE_f32, k_sigmoid, exact_sigmoid, -80, 80, 4, 0},
    {"sigmoid_ieee", KE_f32, k_sigmoid_ieee, exact_sigmoid, -86, 100, 4, 0},
    {"round", KE_f32, k_round, rintl, -1000, 1000, 0, 0},
    {"sin(2 pi x)", KE_f32, sine_turns, exact_sine_turns, -0.5, 0.5, 0, 2e-7},
    {"cos(2 pi x)", KE_f32, cosine_turns, exact_cosine_turns, -0.5, 0.5, 0, 2e-7},
    {"sincos", KE_f32, sine, sinl, -10, 10, 0, 2e-6},
    {"sin", KE_f32, k_sin, sinl, -4, 4, 2, 0},
    {"sin, far", KE_f32, k_sin, sinl, -1e5, 1e5, 2, 0},
    {"sin, very far", KE_f32, k_sin, sinl, 1e6, 1e8, 0, 1.2e-7},
    {"cos", KE_f32, k_cos, cosl, -4, 4, 2, 0},
    {"cos, far", KE_f32, k_cos, cosl, -1e5, 1e5, 2, 0},
    {"erf", KE_f32, k_erf, erfl, -5, 5, 2, 0},
    {"erf near 0", KE_f32, k_erf, erfl, -1e-3, 1e-3, 2, 0},
    {"atan", KE_f32, k_atan, atanl, -4, 4, 3, 0},
    {"atan, far", KE_f32, k_atan, atanl, -1e5, 1e5, 2, 0},
    {"exp_ieee", KE_f64, k_exp_ieee, expl, -708, 709.7, 2, 0},
    {"exp_ieee, low", KE_f64, k_exp_ieee, expl, -746, -708, 0, 5e-324},
    {"log", KE_f64, k_log, logl, 1e-300, 50, 1.5, 0},
    {"log near 1", KE_f64, k_log, logl, 0.6, 1.5, 1.5, 0},
    {"log, tiny", KE_f64, k_log, logl, 0, 2e-308, 1.5, 0},
    {"tanh", KE_f64, k_tanh, tanhl, -20, 20, 3, 0},
    {"tanh near 0", KE_f64, k_tanh, tanhl, -0.7, 0.7, 3, 0},
    {"sigmoid_ieee", KE_f64, k_sigmoid_ieee, exact_sigmoid, -700, 50, 4, 0},
    {"sin", KE_f64, k_sin, sinl, -4, 4, 2, 0},
    {"sin, far", KE_f64, k_sin, sinl, -1e5, 1e5, 0, 2.3e-16},
    {"cos", KE_f64, k_cos, cosl, -4, 4, 0, 2.3e-16},
    {"cos, far", KE_f64, k_cos, cosl, -1e5, 1e5, 0, 2.3e-16},
    {"erf", KE_f64, k_erf, erfl, -7, 7, 2, 0},
    {"erf near 0", KE_f64, k_erf, erfl, -1e-3, 1e-3, 2, 0},
    {"atan", KE_f64, k_atan, atanl, -4, 4, 5, 0},
    {"atan, far", KE_f64, k_atan, atanl, -1e5, 1e5, 2, 0},
};

static Kernel *math_kernel(Arena *a, const Case *c)
{
  Kernel *k = kernel_new(a, "math");
  uint16_t x = kernel_param(k, "x", c->elem, KA_READ), y = kernel_param(k, "y", c->elem, KA_WRITE);
  KVal at = k_op2(k, K_mul, k_grid(k), k_idx(k, LANES));

  k_store(k, y, at, 0, c->fn(k, k_load(k, ktype(c->elem, LANES), x, at, 0)));
  return k;
}

static long double ulp_of(KElem elem, long double v)
{
  int e, bits = elem == KE_f64 ? 53 : 24, least = elem == KE_f64 ? -1074 : -149;
  frexpl(v, &e);
  return ldexpl(1, e - bits < least ? least : e - bits);
}

/* Values of either size, side by side. */
typedef union {
  float f[N];
  double d[N];
} Values;

static void put(Values *v, KElem elem, int i, double x)
{
  if (elem == KE_f64)
    v->d[i] = x;
  else
    v->f[i] = (float)x;
}

static double get(const Values *v, KElem elem, int i)
{
  return elem == KE_f64 ? v->d[i] : (double)v->f[i];
}

static void run(Kernel *k, const char *cpu, void *const *buf, int64_t calls)
{
  uint64_t bytes[3] = {sizeof(Values), sizeof(Values), sizeof(Values)};
  Err e = {0};

  k = pass_legalize(k->arena, k, target_find(cpu, &e));
  cr_assert(kernel_verify(k, &e), "%s", e.text);
  cr_assert(kernel_eval(k, buf, bytes, (int32_t[]){0, 1, 0}, 0, calls, &e), "%s", e.text);
}

static void check(const Case *c, const char *cpu)
{
  static Values x, y;
  Arena a = {0};
  long double worst_ulp = 0, worst = 0;

  for (int i = 0; i < N; i++)
    put(&x, c->elem, i, c->lo + (c->hi - c->lo) * i / (N - 1));
  run(math_kernel(&a, c), cpu, (void *[]){&x, &y}, CALLS);
  for (int i = 0; i < N; i++) {
    long double got = (long double)get(&y, c->elem, i), want = c->exact((long double)get(&x, c->elem, i));
    long double d = got == want ? 0 : fabsl(got - want);
    worst = fmaxl(worst, d);
    worst_ulp = fmaxl(worst_ulp, d / ulp_of(c->elem, want));
  }
  printf("%-14s %s %-10s %.2Lf ulp, %.3Lg absolute\n", c->name, kelem_info[c->elem].name, cpu, worst_ulp,
         worst);
  cr_expect(c->absolute > 0 ? worst <= (long double)c->absolute : worst_ulp <= (long double)c->ulp,
            "%s on %s: %.2Lf ulp, %Lg absolute", c->name, cpu, worst_ulp, worst);
  arena_free(&a);
}

Test(kernel_math, stays_within_its_stated_errors)
{
  for (size_t i = 0; i < COUNT(cases); i++) {
    check(&cases[i], "x86-64-v3");
    check(&cases[i], "c");
  }
}

/* ---- the ends: what IEEE 754 says, but for the sign of zero */

typedef struct {
  const char *name;
  MathFn *fn;
  double (*exact)(double);
} Ends;

static double libm_sigmoid(double x)
{
  return 1 / (1 + exp(-x));
}

static const Ends ends[] = {{"exp_ieee", k_exp_ieee, exp}, {"log", k_log, log},
                            {"tanh", k_tanh, tanh},        {"sigmoid", k_sigmoid_ieee, libm_sigmoid},
                            {"erf", k_erf, erf},           {"atan", k_atan, atan},
                            {"sin", k_sin, sin},           {"cos", k_cos, cos}};
static const double special[] = {0,    -0.0, INFINITY, -INFINITY, NAN,   1,     -1,    1000,
                                 -1e3, 3e38, -3e38,    1e-45,     1e-38, 0.625, -0.92, 100};

static bool same(double got, double want)
{
  return isnan(want) ? isnan(got) : isinf(want) ? got == want : fabs(got - want) <= 3e-7 * fabs(want) + 1e-44;
}

static void check_ends(const Ends *f, KElem elem)
{
  static Values x, y;
  Arena a = {0};
  Case c = {.elem = elem, .fn = f->fn};
  enum { N_SPECIAL = COUNT(special) };

  for (int i = 0; i < N_SPECIAL; i++)
    put(&x, elem, i, special[i]);
  run(math_kernel(&a, &c), "x86-64-v3", (void *[]){&x, &y}, N_SPECIAL / LANES);
  for (int i = 0; i < N_SPECIAL; i++) {
    double in = get(&x, elem, i), want = f->exact(in), got = get(&y, elem, i);
    if (elem == KE_f32)
      want = (double)(float)want;
    bool huge =
        fabs(in) > 1e9 && isfinite(in) && fabs(want) <= 1 && fabs(got) <= 1; /* an angle without meaning */
    cr_expect(same(got, want) || huge, "%s %s(%g) is %g, not %g", kelem_info[elem].name, f->name, in, got,
              want);
  }
  arena_free(&a);
}

Test(kernel_math, ends_as_ieee_754)
{
  for (size_t i = 0; i < COUNT(ends); i++) {
    check_ends(&ends[i], KE_f32);
    check_ends(&ends[i], KE_f64);
  }
}

/* ---- powers */

static Kernel *power_kernel(Arena *a, KElem elem)
{
  Kernel *k = kernel_new(a, "power");
  uint16_t x = kernel_param(k, "x", elem, KA_READ), y = kernel_param(k, "y", elem, KA_READ);
  uint16_t z = kernel_param(k, "z", elem, KA_WRITE);
  KVal at = k_op2(k, K_mul, k_grid(k), k_idx(k, LANES));
  KType t = ktype(elem, LANES);

  k_store(k, z, at, 0, k_pow(k, k_load(k, t, x, at, 0), k_load(k, t, y, at, 0)));
  return k;
}

static void check_powers(KElem elem, const char *cpu)
{
  static Values x, y, z;
  Arena a = {0};
  long double worst = 0;

  for (int i = 0; i < N; i++) {
    double exponent = (i * 7919 % N) * (40.0 / N) - 20;
    put(&x, elem, i, exp((i - N / 2) * (20.0 / N)) * (i % 3 == 2 ? -1 : 1));
    put(&y, elem, i, i % 3 ? rint(exponent) : exponent);
  }
  run(power_kernel(&a, elem), cpu, (void *[]){&x, &y, &z}, CALLS);
  for (int i = 0; i < N; i++) {
    double base = get(&x, elem, i), to = get(&y, elem, i), got = get(&z, elem, i);
    long double want = powl((long double)base, (long double)to);
    if (fabsl(want) < (elem == KE_f64 ? 1e-300L : 1.2e-38L) || fabsl(want) > 3.4e38L)
      continue;
    worst = fmaxl(worst, fabsl((long double)got - want) / ulp_of(elem, want));
  }
  printf("%-14s %s %-10s %.3Lf ulp\n", "pow", kelem_info[elem].name, cpu, worst);
  cr_expect(worst <= (elem == KE_f64 ? 200 : 0.501L), "pow on %s: %.3Lf ulp", cpu, worst);
  arena_free(&a);
}

/* Bases and exponents of every kind, against C's powf and pow, signs of zeros too. */
static void check_power_ends(KElem elem)
{
  static const double v[] = {0,   -0.0,  1,   -1,  2,        -2,        3,   -3,   0.5,   -0.5,  4,
                             0.1, -0.1,  9,   1.5, INFINITY, -INFINITY, NAN, 1e30, -1e30, 1e-30, -5,
                             7,   1e-40, 127, 128, 16777217, 16777216,  1e9, -1.5, 149,   -149};
  enum { M = COUNT(v) };
  static Values x, y, z;
  Arena a = {0};

  for (int i = 0; i < M * M; i++) {
    put(&x, elem, i, v[i / M]);
    put(&y, elem, i, v[i % M]);
  }
  run(power_kernel(&a, elem), "x86-64-v3", (void *[]){&x, &y, &z}, M * M / LANES);
  for (int i = 0; i < M * M; i++) {
    double base = get(&x, elem, i), to = get(&y, elem, i), got = get(&z, elem, i);
    double want = elem == KE_f64 ? pow(base, to) : (double)powf((float)base, (float)to);
    bool ok = elem == KE_f32 ? got == want : fabs(got - want) <= 1e-12 * fabs(want) || got == want;
    ok = want == 0 ? got == 0 && !signbit(got) == !signbit(want) : ok;
    cr_expect(isnan(want) ? isnan(got) : ok, "%s pow(%.9g, %.9g) is %.9g, not %.9g", kelem_info[elem].name,
              base, to, got, want);
  }
  arena_free(&a);
}

Test(kernel_math, powers)
{
  check_powers(KE_f32, "x86-64-v3");
  check_powers(KE_f32, "c");
  check_powers(KE_f64, "x86-64-v3");
  check_power_ends(KE_f32);
  check_power_ends(KE_f64);
}

Test(kernel_math, max_and_min_give_nan_on)
{
  Arena a = {0};
  Err e = {0};
  float x[LANES] = {NAN, 1, NAN, 2, -1, INFINITY, 0, 5}, y[LANES] = {1, NAN, NAN, 3, -2, NAN, -INFINITY, 4};
  float out[2 * LANES];
  Kernel *k = kernel_new(&a, "extremes");
  uint16_t px = kernel_param(k, "x", KE_f32, KA_READ), py = kernel_param(k, "y", KE_f32, KA_READ);
  uint16_t po = kernel_param(k, "o", KE_f32, KA_WRITE);
  KVal zero = k_idx(k, 0), vx = k_load(k, ktype(KE_f32, LANES), px, zero, 0),
       vy = k_load(k, ktype(KE_f32, LANES), py, zero, 0);

  k_store(k, po, zero, 0, k_max_nan(k, vx, vy));
  k_store(k, po, zero, LANES, k_min_nan(k, vx, vy));
  cr_assert(kernel_eval(k, (void *[]){x, y, out}, (uint64_t[]){sizeof x, sizeof y, sizeof out},
                        (int32_t[]){0}, 0, 1, &e));
  for (int i = 0; i < LANES; i++) {
    bool nan = isnan(x[i]) || isnan(y[i]);
    cr_expect(nan ? isnan(out[i]) && isnan(out[LANES + i])
                  : out[i] == fmaxf(x[i], y[i]) && out[LANES + i] == fminf(x[i], y[i]));
  }
  arena_free(&a);
}

Test(kernel_math, exp_at_the_ends)
{
  static const Case c = {.elem = KE_f32, .fn = k_exp};
  Arena a = {0};
  Err e = {0};
  float x[LANES] = {-200, -87.5f, 0, -0.0f, 88.3f, 100, 1, -1}, y[LANES];

  cr_assert(kernel_eval(math_kernel(&a, &c), (void *[]){x, y}, (uint64_t[]){sizeof x, sizeof y},
                        (int32_t[]){0, 1}, 0, 1, &e));
  cr_expect(y[0] >= 0 && y[0] < 1.3e-38f);
  cr_expect(y[2] == 1 && y[3] == 1); /* softmax relies on it */
  cr_expect(isfinite(y[5]) && y[5] > 2e38f);
  x[0] = NAN;
  cr_assert(kernel_eval(math_kernel(&a, &c), (void *[]){x, y}, (uint64_t[]){sizeof x, sizeof y},
                        (int32_t[]){0, 1}, 0, 1, &e));
  cr_expect(isnan(y[0]));
  arena_free(&a);
}

Test(kernel_math, log_at_the_ends)
{
  static const Case c = {.elem = KE_f32, .fn = k_log};
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
