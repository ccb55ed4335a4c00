/* make.h - dense graphs under construction, with random sizes and surroundings: for tests of lowering. */
#ifndef MICC_TESTS_MAKE_H
#define MICC_TESTS_MAKE_H

#include "tests/unit/support/graph_gen.h"

typedef struct {
  Graph *g;
  Rng *r;
  DType t;        /* what is made is of this type, */
  Op op;          /* and of this op, if the maker makes several */
  uint32_t names; /* given so far */
} Make;

int64_t make_below(Make *b, uint32_t n); /* 0 .. n-1 */
#define MAKE_SHAPE(t, ...)                                                                                   \
  type_of(t, sizeof((const int64_t[]){__VA_ARGS__}) / sizeof(int64_t), (const int64_t[]){__VA_ARGS__})
Type make_random_shape(Make *b, DType t, uint32_t rank);
const Type *make_type(const Make *b, Val v);
Type make_with_dtype(Type type, DType t);
#define MAKE_LIKE(b, v, t) ((Type[]){make_with_dtype(*make_type(b, v), t)}[0])

/* Names begin with the prefix, which says what the data are: see dense_check.h. */
Val make_input(Make *b, const char *prefix, Type t);
Val make_weight(Make *b, const char *prefix, Type t);
Val make_constant(Make *b, DType t, double v); /* a scalar */
void make_output(Make *b, Val v);

Val make_node(Make *b, Op op, Attr attr, const Type *t, uint32_t n, const Val *in);
#define MAKE(b, op, attr, t, ...)                                                                            \
  make_node(b, op, attr, t, sizeof((const Val[]){__VA_ARGS__}) / sizeof(Val), (const Val[]){__VA_ARGS__})
#define ATTR(...) ((Attr){__VA_ARGS__})

/* What is read through a movement or an expression now and then. */
Val make_before(Make *b, Val v);
/* An input or a weight, perhaps seen through a movement or an expression. */
Val make_operand(Make *b, const char *prefix, Type t);
/* Now and then an elementwise node behind what is tested, so that it has an epilogue. */
Val make_after(Make *b, Val v);

#endif
