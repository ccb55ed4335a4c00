/* winograd.h - F(m, r): m neighbouring results of a filter of r taps with m + r - 1 multiplications in place of m * r.
 *
 * They are coefficients of a product of polynomials, found from its values at m + r - 1 points: 0, 1, -1, 2, -2, 1/2, -1/2
 * and infinity. y = A^T ((G w) * (B^T x)), where * is element by element.
 *
 * Sources: Winograd, Arithmetic Complexity of Computations (1980); Lavin and Gray, Fast Algorithms for Convolutional
 * Neural Networks (2015); for the points, Barabasz et al., Error Analysis and Improving the Accuracy of Winograd
 * Convolution (2020). Errors are in docs/numerics.md. */
#ifndef MICC_WINOGRAD_H
#define MICC_WINOGRAD_H

#include "ir/kernel.h"

enum { WINOGRAD_POINTS = 8 };

/* Point 0 comes first, infinity last; between them, points and their negatives in pairs. */
typedef struct {
  int m, r, points;
  double input[WINOGRAD_POINTS][WINOGRAD_POINTS];  /* B^T: by point, input */
  double weight[WINOGRAD_POINTS][WINOGRAD_POINTS]; /* G: by point, tap */
  double result[WINOGRAD_POINTS][WINOGRAD_POINTS]; /* A^T: by result, point */
} Winograd;

Winograd winograd(int m, int r); /* m + r - 1 is even, and at most WINOGRAD_POINTS */

typedef enum { WINOGRAD_INPUT, WINOGRAD_WEIGHT } WinogradOf;

/* The values at all points, of m + r - 1 inputs or r taps; and m results from these. Vectors of f32. */
void winograd_values(Kernel *k, const Winograd *f, WinogradOf what, const KVal *in, KVal *out);
void winograd_results(Kernel *k, const Winograd *f, const KVal *in, KVal *out);

#endif
