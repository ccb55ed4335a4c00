/* constants.h - values of dense graphs that are known when compiling: weights with data, and const nodes. */
#ifndef MICC_CONSTANTS_H
#define MICC_CONSTANTS_H

#include "ir/graph.h"

/* What a pass will not make in memory. */
enum { CONSTANT_MAX = 1 << 26 }; /* elements */

bool constant_node(const Graph *g,
                   Val v); /* a const node, or a weight, with data or (in text cases) without */

/* Its elements; a const node's are written out in `a`. False: no constant, no data, or too many elements. */
bool constant_tensor(const Graph *g, Val v, Arena *a, Tensor *out);

/* All elements have this value, which a const node of the type holds exactly. */
bool constant_uniform(const Tensor *t, double *value);

/* A node for the tensor: a new weight of the module, named after `from`; constant_add makes it a const node if it is
 * uniform. The data is copied, unless it lies in the module's arena or a file's mapping already (`keep`); it may be
 * NULL, as in text cases. */
Val constant_weight(Graph *to, const char *from, const Tensor *t, bool keep);
Val constant_add(Graph *to, const char *from, const Tensor *t, bool keep);

/* A constant as another one: transposed, or under another shape; 0 if v is none. */
Val constant_transpose(Graph *g, Val v, const uint8_t *perm);
Val constant_reshape(Graph *g, Val v, const Type *type);

#endif
