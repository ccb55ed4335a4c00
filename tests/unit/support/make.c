/* make.c - see make.h. */
#include "tests/unit/support/make.h"

int64_t make_below(Make *b, uint32_t n)
{
  return (int64_t)rng_below(b->r, n);
}

static const char *name_of(Make *b, const char *prefix)
{
  return arena_printf(b->g->module->arena, "%s%u", prefix, b->names++);
}

Val make_input(Make *b, const char *prefix, Type t)
{
  return graph_add(b->g, OP_input, NULL, 0, (Attr){.name = name_of(b, prefix)}, &t);
}

Val make_weight(Make *b, const char *prefix, Type t)
{
  Module *m = b->g->module;

  *PUSH(m->arena, m->weights) = (Weight){.name = name_of(b, prefix), .type = t};
  return graph_add(b->g, OP_weight, NULL, 0, (Attr){.index = m->weights.len - 1}, &t);
}

Val make_constant(Make *b, DType t, double v)
{
  Type scalar = type_of(t, 0, NULL);
  return graph_add(b->g, OP_const, NULL, 0, (Attr){.value = v}, &scalar);
}

Val make_node(Make *b, Op op, Attr attr, const Type *t, uint32_t n, const Val *in)
{
  return graph_add(b->g, op, in, n, attr, t);
}

void make_output(Make *b, Val v)
{
  MAKE(b, OP_output, ATTR(.name = name_of(b, "out")), NULL, v);
}

const Type *make_type(const Make *b, Val v)
{
  return &graph_node(b->g, v)->type;
}

Type make_with_dtype(Type type, DType t)
{
  type.dtype = t;
  return type;
}

/* An elementwise node behind what is tested, so that it has an epilogue now and then. */
Val make_after(Make *b, Val v)
{
  DType t = make_type(b, v)->dtype;

  if (t == DT_BOOL || !dtype_is_number(t) || make_below(b, 2))
    return v;
  int64_t last = type_last(make_type(b, v));
  v = MAKE(b, OP_add, ATTR(0), NULL, v,
           make_below(b, 2) ? make_weight(b, "w", MAKE_SHAPE(t, last))
                            : make_input(b, "x", *make_type(b, v)));
  return make_below(b, 2) ? MAKE(b, OP_relu, ATTR(0), NULL, v) : v;
}

/* What is read may be a movement or an expression. */
Val make_before(Make *b, Val v)
{
  const Type t = *make_type(b, v);
  Attr attr = {.name = NULL};

  switch (make_below(b, 6)) {
  case 0: /* a part of something larger */
    if (t.rank) {
      Type wide = t;
      uint32_t axis = (uint32_t)make_below(b, t.rank);
      wide.dim[axis] = wide.dim[axis] * 2 + 1;
      attr.slice.axis = axis;
      attr.slice.start = make_below(b, 2) ? 1 : 2 * t.dim[axis] - (t.dim[axis] > 0);
      attr.slice.step = attr.slice.start == 1 ? 1 + make_below(b, 2) : -1;
      attr.slice.count = t.dim[axis];
      if (attr.slice.step == 2)
        attr.slice.start = 0;
      return MAKE(b, OP_slice, attr, NULL, make_input(b, "x", wide));
    }
    return v;
  case 1: /* dimensions in another order */
    if (t.rank > 1) {
      Type other = t;
      for (uint32_t i = 0; i < t.rank; i++)
        attr.perm[i] = (uint8_t)i;
      uint32_t k = (uint32_t)make_below(b, t.rank), j = (uint32_t)make_below(b, t.rank);
      attr.perm[k] = (uint8_t)j;
      attr.perm[j] = (uint8_t)k;
      other.dim[k] = t.dim[j];
      other.dim[j] = t.dim[k];
      return MAKE(b, OP_transpose, attr, NULL, make_input(b, "x", other));
    }
    return v;
  case 2: return dtype_is_number(t.dtype) ? MAKE(b, OP_neg, attr, NULL, v) : v;
  case 3: { /* another shape */
    Type flat = MAKE_SHAPE(t.dtype, type_count(&t));
    return MAKE(b, OP_reshape, attr, &t, make_input(b, "x", flat));
  }
  default: return v;
  }
}

Val make_operand(Make *b, const char *prefix, Type t)
{
  Val v = make_below(b, 3) ? make_input(b, prefix, t) : make_weight(b, prefix, t);
  bool idx = prefix[0] == 'i';
  return idx ? v : make_before(b, v);
}

Type make_random_shape(Make *b, DType t, uint32_t rank)
{
  Type s = {.dtype = t, .rank = rank};

  for (uint32_t i = 0; i < rank; i++)
    s.dim[i] = make_below(b, 6) ? 1 + make_below(b, i + 1 == rank ? 40 : 5) : 1;
  return s;
}
