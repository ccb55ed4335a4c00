/* winograd.c - see winograd.h. */
#include "passes/lower/winograd.h"

/* ---- matrices */

static double power(double x, int n)
{
  double p = 1;

  while (n-- > 0)
    p *= x;
  return p;
}

/* Coefficients of the product of (x - point), leaving out number `skip`; returns its value where skip is. */
static double product_of_others(const double *point, int n, int skip, double *coef)
{
  double value = 1;
  int degree = 0;

  coef[0] = 1;
  for (int i = 0; i < n; i++) {
    if (i == skip)
      continue;
    coef[degree + 1] = 0;
    for (int k = ++degree; k >= 0; k--)
      coef[k] = (k ? coef[k - 1] : 0) - point[i] * coef[k];
    value *= skip < n ? point[skip] - point[i] : 1;
  }
  return value;
}

Winograd winograd(int m, int r)
{
  static const double point[WINOGRAD_POINTS - 1] = {0, 1, -1, 2, -2, 0.5, -0.5};
  Winograd f = {.m = m, .r = r, .points = m + r - 1};
  int last = f.points - 1;

  for (int t = 0; t < f.points; t++) {
    double n = product_of_others(point, last, t, f.input[t]);
    for (int k = 0; k < r; k++)
      f.weight[t][k] = t < last ? power(point[t], k) / n : k == r - 1;
    for (int i = 0; i < m; i++)
      f.result[i][t] = t < last ? power(point[t], i) : i == m - 1;
  }
  return f;
}

static bool is_pair(const Winograd *f, int t)
{
  return t % 2 == 1 && t + 1 < f->points - 1;
}

/* ---- sums by constant coefficients */

/* sum + c * v; 0 is no sum yet. */
static KVal add_scaled(Kernel *k, KVal sum, double c, KVal v)
{
  unsigned lanes = kernel_node(k, v)->type.lanes;

  if (c == 0)
    return sum;
  if (!sum)
    return c == 1 ? v : k_op2(k, K_mul, v, k_flt(k, lanes, c));
  if (c == 1 || c == -1)
    return k_op2(k, c > 0 ? K_add : K_sub, sum, v);
  return k_fma(k, v, k_flt(k, lanes, c), sum);
}

/* Rows of a pair differ in the signs of odd columns, or of even ones: their parts are computed once. */
void winograd_values(Kernel *k, const Winograd *f, WinogradOf what, const KVal *in, KVal *out)
{
  const double(*row)[WINOGRAD_POINTS] = what == WINOGRAD_INPUT ? f->input : f->weight;
  int n = what == WINOGRAD_INPUT ? f->points : f->r;

  for (int t = 0; t < f->points; t++) {
    KVal same = 0, other = 0;
    bool pair = is_pair(f, t);
    for (int i = 0; i < n; i++)
      if (!pair || row[t][i] == row[t + 1][i])
        same = add_scaled(k, same, row[t][i], in[i]);
      else
        other = add_scaled(k, other, row[t][i], in[i]);
    out[t] = pair ? k_op2(k, K_add, same, other) : same;
    if (pair)
      out[++t] = k_op2(k, K_sub, same, other);
  }
}

void winograd_results(Kernel *k, const Winograd *f, const KVal *in, KVal *out)
{
  KVal v[WINOGRAD_POINTS];

  for (int t = 0; t < f->points; t++) {
    v[t] = in[t];
    if (!is_pair(f, t))
      continue;
    v[t] = k_op2(k, K_add, in[t], in[t + 1]);
    v[t + 1] = k_op2(k, K_sub, in[t], in[t + 1]);
    t++;
  }
  for (int i = 0; i < f->m; i++) {
    out[i] = 0;
    for (int t = 0; t < f->points; t++) {
      bool pair = is_pair(f, t);
      out[i] = add_scaled(k, out[i], f->result[i][t], v[t + (pair && i % 2)]);
      t += pair;
    }
  }
}
