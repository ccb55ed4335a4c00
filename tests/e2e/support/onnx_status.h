/* onnx_status.h - docs/STATUS.md's table of ONNX operators. */
#ifndef MICC_TEST_ONNX_STATUS_H
#define MICC_TEST_ONNX_STATUS_H

#include "ir/base.h"

/* Rows of the importer's table, then the operators that only the backend suite has; of each, how many cases have a node
 * of it and how many of these pass, as onnx_suite_ops.txt says, which the test of the suite checks. */
void onnx_status_print(Arena *a, Text *t);

#endif
