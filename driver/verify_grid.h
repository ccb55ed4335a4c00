/* verify_grid.h - which values of a graph lie on a grid, since they were quantised. */
#ifndef MICC_VERIFY_GRID_H
#define MICC_VERIFY_GRID_H

#include "ir/graph.h"

/* For each node: the distance of neighbouring values if it is an integer of 8 bits or fewer, or follows from one by
 * moving and by constant factors and sums (DequantizeLinear); also of what is rounded to become such an integer. 0: any
 * value may be. Where a constant has several factors, one for each channel, the largest step. */
double *verify_grid(const Graph *g, Arena *a);

#endif
