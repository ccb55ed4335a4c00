/* op_activation.h - activations, which are operators of their own, and names in attributes of others. */
#ifndef MICC_ONNX_OP_ACTIVATION_H
#define MICC_ONNX_OP_ACTIVATION_H

#include "frontend/onnx/import.h"

typedef struct {
  const char *name;
  Val (*of)(Import *im, Val x, double a, double b);
  int takes;   /* how many of alpha and beta */
  double a, b; /* if they are not given */
} Activation;

/* In any case of letters; NULL if there is none. */
const Activation *activation_find(const char *name);

#endif
