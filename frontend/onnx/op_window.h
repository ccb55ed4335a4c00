/* op_window.h - windows as ONNX describes them: kernel_shape, strides, dilations, pads, auto_pad, ceil_mode.
 *
 * Source: ONNX Conv-22, MaxPool-22, AveragePool-22, ConvTranspose-22. */
#ifndef MICC_ONNX_OP_WINDOW_H
#define MICC_ONNX_OP_WINDOW_H

#include "frontend/onnx/import.h"

/* Fills `w` from the node's attributes for an x of the type [N, C, ..]. kernel: its sizes; pads are those of the attribute or those
 * that auto_pad means; group is 1. All numbers are in bounds then. */
bool window_read(Import *im, const OnnxNode *n, const Type *x, Ints kernel, Window *w);

/* As window_read, and with ceil_mode pad_hi grows so that the last window, which begins inside, is whole. `pad_hi` (if
 * not NULL) gets the pads before that. */
bool window_read_pool(Import *im, const OnnxNode *n, const Type *x, Ints kernel, Window *w, int64_t *pad_hi);

/* Kernel sizes from the weights [O, C, ..], which kernel_shape must equal if it is given. */
Ints window_kernel_of(Import *im, const OnnxNode *n, Val weights);

/* Elements that a kernel spans, and places of the window along dimension i. */
int64_t window_extent(const Window *w, uint32_t i);
int64_t window_places(const Window *w, uint32_t i, int64_t in);

/* What each place of a window sees, for tables that are made when compiling. */
typedef struct {
  Window w;
  int64_t in[MAX_SPATIAL], out[MAX_SPATIAL];
  int64_t places, count; /* products of out and of the kernel */
} WindowGrid;

/* An error if there is too much to see for a table. */
bool window_grid(Import *im, const OnnxNode *n, const Window *w, const Type *x, WindowGrid *g);
/* Coordinates in x of kernel element k at place p. */
void window_seen(const WindowGrid *g, int64_t p, int64_t k, int64_t *at);
/* All of them: i64 [places, count]. */
Val window_table(Import *im, const WindowGrid *g, bool columns);

/* Convolution with pads that may be negative: they cut x, which has its channels last. */
Val window_conv(Import *im, Val x, Val weights, Val bias, Window w);

/* ONNX Conv: x [N, C, ..], w [O, C / group, ..], bias [O] or 0. Any numbers that the core op takes. */
Val window_conv_onnx(Import *im, const OnnxNode *n, Val x, Val weights, Val bias);

/* ONNX AveragePool of x [N, C, ..], computed in its type. */
Val window_average(Import *im, const OnnxNode *n, Val x);

#endif
