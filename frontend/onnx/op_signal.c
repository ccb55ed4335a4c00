/* op_signal.c - ONNX operators of signals: Fourier transforms, windows, mel filters.
 *
 * A transform is a product with a constant table of cosines and sines. Long ones are split: a transform of A * B
 * is B transforms of A, a factor for each element, and A transforms of B.
 *
 * Source: ONNX DFT-17, DFT-20, STFT-17, MelWeightMatrix-17, HannWindow-17, HammingWindow-17, BlackmanWindow-17. */
#include "frontend/onnx/onnx_ops.h"

#include <math.h>

enum { DIRECT_MAX = 256, LENGTH_MAX = 1 << 24 };

/* ---- tables */

typedef struct {
  long double re, im;
} Complex;

/* e^(sign 2 pi i a / n) */
static Complex root_of_unity(int64_t a, int64_t n, int sign)
{
  long double angle = 2 * (long double)M_PI * (long double)(a % n) / (long double)n;
  return (Complex){cosl(angle), sign * sinl(angle)};
}

/* A transform of length n of `from` elements of c_in numbers (1: real, 2: complex) to `to` elements of c_out. */
typedef struct {
  int64_t n, from, to;
  int c_in, c_out;
  int sign; /* -1: forward; 1: inverse, divided by n */
} Transform;

/* Element `a` of the input as it enters element `b` of the result, as a factor on (re, im). A one-sided spectrum that
 * becomes a real signal stands for its mirror too: what has one there counts twice. */
static Complex weight_of(const Transform *f, int64_t a, int64_t b)
{
  Complex w = root_of_unity(a * b, f->n, f->sign);
  long double scale = f->sign > 0 ? 1 / (long double)f->n : 1;

  if (f->c_out == 1)
    scale *= a > 0 && 2 * a != f->n ? 2 : 1;
  return (Complex){w.re * scale, w.im * scale};
}

static Val table_of(Import *im, const Transform *f, DType dt)
{
  Tensor t = im_tensor_new(im, type_of(dt, 2, (int64_t[]){f->from * f->c_in, f->to * f->c_out}));
  int64_t row = f->to * f->c_out;

  if (!t.data)
    return 0;
  for (int64_t a = 0; a < f->from; a++)
    for (int64_t b = 0; b < f->to; b++) {
      Complex w = weight_of(f, a, b);
      long double part[2][2] = {{w.re, w.im}, {-w.im, w.re}};
      for (int i = 0; i < f->c_in; i++)
        for (int o = 0; o < f->c_out; o++)
          tensor_set(&t, (a * f->c_in + i) * row + b * f->c_out + o, part[i][o]);
    }
  return im_const_tensor(im, &t);
}

/* x [rows, from, c_in] -> [rows, to, c_out] */
static Val direct(Import *im, Val x, const Transform *f)
{
  int64_t rows = im_dim(im, x, 0);
  Val y = im_matmul(im, im_reshape_to(im, x, rows, f->from * f->c_in), table_of(im, f, im_elem(im, x)));
  return im_reshape_to(im, y, rows, f->to, f->c_out);
}

/* ---- long transforms */

/* The divisor of n that is nearest to its root; 1 if n is prime. */
static int64_t divisor(int64_t n)
{
  int64_t d = (int64_t)sqrt((double)n);

  while (n % d)
    d--;
  return d;
}

/* x [r, b, a, 2] times e^(sign 2 pi i b a / n): (re, im) * cos + (im, re) * (-sin, sin) */
static Val twiddle(Import *im, Val x, int64_t n, int sign)
{
  int64_t nb = im_dim(im, x, 1), na = im_dim(im, x, 2);
  Type type = type_of(im_elem(im, x), 3, (int64_t[]){nb, na, 2});
  Tensor cosines = im_tensor_new(im, type), sines = im_tensor_new(im, type);

  if (!cosines.data || !sines.data)
    return 0;
  for (int64_t i = 0; i < nb * na; i++) {
    Complex w = root_of_unity(i / na * (i % na), n, sign);
    tensor_set(&cosines, 2 * i, w.re);
    tensor_set(&cosines, 2 * i + 1, w.re);
    tensor_set(&sines, 2 * i, -w.im);
    tensor_set(&sines, 2 * i + 1, w.im);
  }
  Val turned = im_add2(im, OP_mul, im_flip(im, x, 3), im_const_tensor(im, &sines));
  return im_add2(im, OP_add, im_add2(im, OP_mul, x, im_const_tensor(im, &cosines)), turned);
}

static Val transform(Import *im, Val x, const Transform *f);

/* One transform of the second dimension, of complex numbers: x [r, n, m, 2] -> [r, m, n, 2] */
static Val across(Import *im, Val x, int sign)
{
  int64_t r = im_dim(im, x, 0), n = im_dim(im, x, 1), m = im_dim(im, x, 2);
  Transform f = {n, n, n, 2, 2, sign};
  Val y = transform(im, im_reshape_to(im, im_swap(im, x, 1, 2), r * m, n, 2), &f);
  return im_reshape_to(im, y, r, m, n, 2);
}

/* Cooley and Tukey: n = b n1 + n2, k = k1 + a k2 */
static Val split(Import *im, Val x, const Transform *f, int64_t a)
{
  int64_t r = im_dim(im, x, 0), b = f->n / a;
  Val y = across(im, im_reshape_to(im, x, r, a, b, 2), f->sign); /* [r, n2, k1, 2] */
  y = across(im, twiddle(im, y, f->n, f->sign), f->sign);        /* [r, k1, k2, 2] */
  return im_reshape_to(im, im_swap(im, y, 1, 2), r, f->n, 2);
}

static Val transform(Import *im, Val x, const Transform *f)
{
  int64_t a = divisor(f->n);

  if (f->n <= DIRECT_MAX || a == 1 || f->c_out == 1)
    return direct(im, x, f);
  if (f->c_in == 1)
    x = im_pad_axis(im, x, 2, 0, 1, 0);
  return im_part(im, split(im, x, f, a), 1, 0, f->to);
}

/* ---- DFT: x [.., n, .., 1 or 2], the axis at any place but the last */

typedef struct {
  bool inverse, onesided;
  int64_t length; /* 0: by the input */
} Fourier;

static bool transform_of(Import *im, const OnnxNode *n, const Fourier *s, int64_t size, int64_t c,
                         Transform *f)
{
  bool to_real = s->inverse && s->onesided;

  f->n = s->length ? s->length : to_real ? 2 * (size - 1) : size;
  if (f->n < 1 || f->n > LENGTH_MAX || c < 1 || c > 2 || (to_real && c == 1))
    return im_fail(im, n, "a transform of length %lld of %lld numbers in each element", (long long)f->n,
                   (long long)c);
  f->c_in = (int)c;
  f->c_out = to_real ? 1 : 2;
  f->from = to_real ? f->n / 2 + 1 : f->n;
  f->to = s->onesided && !s->inverse ? f->n / 2 + 1 : f->n;
  f->sign = s->inverse ? 1 : -1;
  return true;
}

static Val fourier(Import *im, const OnnxNode *n, Val x, uint32_t axis, const Fourier *s)
{
  uint32_t rank = im_rank(im, x);
  Transform f = {0};

  if (rank < 2 || axis + 1 >= rank) {
    im_fail(im, n, "axis %u of %u dimensions, the last of which holds real and imaginary parts", axis, rank);
    return 0;
  }
  Val y = im_move(im, im_float_compute(im, x), axis, rank - 2);
  if (!transform_of(im, n, s, im_dim(im, y, -2), im_dim(im, y, -1), &f))
    return 0;
  y = im_pad_axis(im, y, rank - 2, 0, f.from - im_dim(im, y, -2), 0);
  Type t = im_type(im, y);
  y = transform(im, im_reshape_to(im, y, im_span(&t, 0, rank - 2), f.from, f.c_in), &f);
  t.dim[rank - 2] = f.to;
  t.dim[rank - 1] = f.c_out;
  return im_cast_like(im, im_move(im, im_reshape(im, y, rank, t.dim), rank - 2, axis), x);
}

bool op_dft(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0);
  Fourier s = {im_int(im, n, "inverse", 0), im_int(im, n, "onesided", 0),
               im_int_of(im, n, 1, "dft_length", 0)};
  bool by_input = im_opset(im, n) >= 20;
  int64_t axis = by_input ? im_int_of(im, n, 2, NULL, -2) : im_int(im, n, "axis", 1);

  return im_out(im, n, 0, fourier(im, n, x, im_axis(im, n, axis, im_rank(im, x)), &s));
}

/* Indices of the elements of each frame: [frames, length] */
static Val frame_indices(Import *im, int64_t frames, int64_t length, int64_t step)
{
  Val start = im_op_f(im, OP_mul, im_iota(im, DT_I64, frames), (double)step);
  return im_add2(im, OP_add, im_unsqueeze(im, start, 1), im_iota(im, DT_I64, length));
}

bool op_stft(Import *im, const OnnxNode *n)
{
  Val x = im_in(im, n, 0), window = im_opt(im, n, 2);
  int64_t size = im_dim(im, x, 1), step = im_int_of(im, n, 1, NULL, 0);
  int64_t length = im_int_of(im, n, 3, NULL, window ? im_dim(im, window, 0) : size);
  Fourier s = {.onesided = im_int(im, n, "onesided", 1)};

  if (im_ok(im) && im_rank(im, x) == 2) /* earlier exporters left out the 1 */
    x = im_unsqueeze(im, x, 2);
  if (!im_ok(im) || im_rank(im, x) != 3 || step < 1 || length < 1 || length > size)
    return im_fail(im, n, "frames of %lld elements, %lld apart, of %lld", (long long)length, (long long)step,
                   (long long)size);
  if (window && (im_rank(im, window) != 1 || im_dim(im, window, 0) != length))
    return im_fail(im, n, "the window must have %lld elements", (long long)length);
  x = im_gather(im, x, frame_indices(im, (size - length) / step + 1, length, step), 1);
  if (window)
    x = im_add2(im, OP_mul, x, im_unsqueeze(im, im_cast_like(im, window, x), 1));
  return im_out(im, n, 0, fourier(im, n, x, 2, &s));
}

/* ---- windows: a0 - a1 cos(2 pi i / n) + a2 cos(4 pi i / n) */

static const struct {
  const char *name;
  double a0, a1, a2;
} windows[] = {{"HannWindow", 0.5, 0.5, 0},
               {"HammingWindow", 25. / 46, 21. / 46, 0},
               {"BlackmanWindow", 0.42, 0.5, 0.08}};

bool op_window(Import *im, const OnnxNode *n)
{
  int64_t size = im_int_of(im, n, 0, NULL, 0), span = size - !im_int(im, n, "periodic", 1);
  uint32_t w = 0;

  if (!im_ok(im) || size < 0)
    return im_fail(im, n, "a window of %lld elements", (long long)size);
  Tensor t = im_tensor_new(im, type_of(im_dtype_attr(im, n, "output_datatype", DT_F32), 1, &size));
  while (w + 1 < COUNT(windows) && !im_is(n, windows[w].name))
    w++;
  for (int64_t i = 0; t.data && i < size; i++) {
    double x = 2 * M_PI * (double)i / (double)max64(span, 1);
    tensor_set(&t, i, (long double)(windows[w].a0 - windows[w].a1 * cos(x) + windows[w].a2 * cos(2 * x)));
  }
  return im_out(im, n, 0, im_const_tensor(im, &t));
}

/* ---- mel filters */

/* Edge i of the triangles as a bin of the spectrum. */
typedef struct {
  int64_t bins, length, rate;
  double low, step; /* in mel */
} Mel;

static double mel_of(double hertz)
{
  return 2595 * log1p(hertz / 700) / log(10);
}

static int64_t edge(const Mel *m, int64_t i)
{
  double hertz = 700 * expm1(((double)i * m->step + m->low) / 2595 * log(10));
  double bin = floor((double)(m->length + 1) * hertz / (double)m->rate);
  return bin >= 0 && bin <= (double)(m->length / 2 + 1) ? (int64_t)bin : -1;
}

/* Column i: up from the first edge to the second, down to the third. */
static bool triangle(Import *im, const OnnxNode *n, const Mel *m, Tensor *t, int64_t i)
{
  int64_t lo = edge(m, i), mid = edge(m, i + 1), hi = edge(m, i + 2), rows = t->type.dim[0];

  if (lo < 0 || mid < 0 || hi < 0 || mid >= rows)
    return im_fail(im, n, "filter %lld ends beyond the spectrum", (long long)i);
  for (int64_t j = lo; j <= mid; j++)
    tensor_set(t, j * m->bins + i, lo == mid ? 1 : (long double)(j - lo) / (long double)(mid - lo));
  for (int64_t j = mid; j < hi && j < rows; j++)
    tensor_set(t, j * m->bins + i, (long double)(hi - j) / (long double)(hi - mid));
  return true;
}

bool op_mel_weight_matrix(Import *im, const OnnxNode *n)
{
  Mel m = {im_int_of(im, n, 0, NULL, 0), im_int_of(im, n, 1, NULL, 0), im_int_of(im, n, 2, NULL, 0),
           mel_of(im_float_of(im, n, 3, NULL, 0)), 0};
  DType dt = im_dtype_attr(im, n, "output_datatype", DT_F32);

  if (!im_ok(im) || m.bins < 0 || m.length < 1 || m.length > LENGTH_MAX || m.rate < 1)
    return im_fail(im, n, "%lld filters, transforms of length %lld, %lld samples in a second",
                   (long long)m.bins, (long long)m.length, (long long)m.rate);
  m.step = (mel_of(im_float_of(im, n, 4, NULL, 0)) - m.low) / (double)(m.bins + 2);
  Tensor t = im_tensor_new(im, type_of(dt, 2, (int64_t[]){m.length / 2 + 1, m.bins}));
  for (int64_t i = 0; t.data && i < m.bins; i++)
    if (!triangle(im, n, &m, &t, i))
      return false;
  return im_out(im, n, 0, im_const_tensor(im, &t));
}
