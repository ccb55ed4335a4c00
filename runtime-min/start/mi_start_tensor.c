/* mi_start_tensor.c - as mi_start.c, for models with tensors in and out. */
#define MI_MAIN mi_tensor_main
#include "../mi_tensor.h"
#include "mi_start.c"
