/* op_product.h - products that several operators are made of. */
#ifndef MICC_ONNX_OP_PRODUCT_H
#define MICC_ONNX_OP_PRODUCT_H

#include "frontend/onnx/import.h"

/* y[.., n] = sum over k of x[.., k] * w[n, k]. x may be f32 where w is of 16 bits: a constant w stays as small as it is. */
Val product_rows(Import *im, Val x, Val w);

/* numpy's matmul: vectors are rows on the left, columns on the right, and vanish from the result. */
Val product_matmul(Import *im, Val a, Val b);

#endif
