/* import.h - from an ONNX model to a dense graph of core ops, and what the op handlers build with.
 *
 * One handler for each row of onnx_ops.def, in the op_*.c file of its family. A handler reads inputs
 * and attributes, builds core ops, and gives its outputs:
 *
 *   bool op_softsign(Import *im, const OnnxNode *n)
 *   {
 *     Val x = im_in(im, n, 0), one = im_const_like(im, x, 1);
 *     return im_out(im, n, 0, im_add2(im, OP_div, x, im_add2(im, OP_add, one, im_add1(im, OP_abs, x))));
 *   }
 *
 * Errors stick: the first one is kept in im->err, builders then return 0, and pass over a 0 that they are given.
 * So handlers check nothing in between, and `return im_out(...)` reports all that went wrong. im_type(0) is a
 * scalar f32: dimensions read from it are in bounds. What comes from the file is checked by the builders
 * (types, ranks, axes, sizes); a handler checks what it indexes with by itself.
 *
 * All builders fold at once: a node whose inputs are constant is evaluated and becomes a weight (or a const, if
 * all elements are equal), so that chains of Shape, Gather and Concat vanish. They also leave out what changes nothing
 * (a cast to the same type, a reshape to the same shape).
 *
 * Source of all semantics: the ONNX operator specification, opsets 7 to 25 (onnx/docs/Operators.md, Changelog.md). */
#ifndef MICC_ONNX_IMPORT_H
#define MICC_ONNX_IMPORT_H

#include "frontend/onnx/onnx.h"
#include "ir/graph.h"

/* ---- what callers of the importer see */

typedef struct {
  const char *name; /* of an input, or of a symbolic dimension (rank 1 then) */
  uint32_t rank;
  int64_t dim[MAX_RANK];
} OnnxShape;

typedef struct {
  const char *name;     /* of an input */
  const char *text;     /* "16000" or "1,2,3": read under the input's type and shape; or NULL */
  const Tensor *tensor; /* if text is NULL */
} OnnxFix;

typedef struct {
  const OnnxShape *shapes; /* --shape */
  uint32_t n_shapes;
  const OnnxFix *fixes; /* --fix */
  uint32_t n_fixes;
  Text *notes;       /* lines that the user should see (a free batch dimension became 1), or NULL */
  const char **need; /* set on failure to the input that --fix should give, else NULL; may be NULL */
} OnnxImportOptions;

/* Builds a module with one dense graph, "run". Everything lives in `a`, large weights in the model's mapping. */
bool onnx_import(const OnnxModel *m, const OnnxImportOptions *opt, Arena *a, Module **out, Err *e);

/* ---- the state of an import */

typedef struct ImScope ImScope; /* names of one graph or function body; import.c */

/* A list of tensors, whose length is known at import. */
typedef struct {
  Val name; /* that stands for it in scopes: a node which nothing uses */
  const Val *items;
  uint32_t len;
} ImSequence;

typedef struct Import {
  Arena *arena; /* the module's */
  Module *module;
  Graph *graph;
  const OnnxModel *model;
  const OnnxImportOptions *opt;
  Err *err;
  ImScope *scope;
  const OnnxNode *node; /* the one being imported */
  const char *from;     /* its place, for Node.from */
  uint32_t folded;      /* counts folded weights, for their names */
  uint32_t depth;       /* of nested graphs and functions */
  struct {
    Val *data;
    uint32_t cap, len;
  } shared;                    /* constants by their contents */
  ARRAY(ImSequence) sequences; /* by ascending names */
  uint32_t sequence_items;     /* in all of them */
  double work;                 /* that folding took so far: it has an end, whatever the file holds */
  uint64_t table_bytes;        /* and so have the tables that handlers made */
  struct {
    uint32_t nodes;
    uint64_t packed, stored;
  } restored; /* weights of few bits that are stored as numbers, and their bytes: the user is told */
} Import;

typedef bool (*OnnxHandler)(Import *im, const OnnxNode *n);

/* A list of numbers out of an attribute or a constant input. */
typedef struct {
  const int64_t *data;
  uint32_t len;
  bool given; /* false: neither attribute nor input is there */
} Ints;
typedef struct {
  const double *data;
  uint32_t len;
  bool given;
} Floats;

/* "node 'name' (Op): " and the text. Returns false. */
bool im_fail(Import *im, const OnnxNode *n, const char *fmt, ...) PRINTF(3, 4);
static inline bool im_ok(const Import *im)
{
  return im->err->text[0] == 0;
}
void im_note(Import *im, const char *fmt, ...) PRINTF(2, 3);

/* ---- a node's inputs, outputs and attributes */

Val im_in(Import *im, const OnnxNode *n, uint32_t i);  /* an error if it is absent */
Val im_opt(Import *im, const OnnxNode *n, uint32_t i); /* 0 if it is absent */
bool im_has(const Import *im, const OnnxNode *n, uint32_t i);
uint32_t im_in_count(const OnnxNode *n); /* with absent ones in the middle */
bool im_out(Import *im, const OnnxNode *n, uint32_t i,
            Val v); /* passes over outputs that the node does not name */
bool im_wants(const Import *im, const OnnxNode *n, uint32_t i); /* the node names this output */

int64_t im_opset(const Import *im, const OnnxNode *n); /* version of the node's domain where it stands */
bool im_is(const OnnxNode *n, const char *op_type);

/* Attributes; references to a function's attributes are resolved. A wrong kind is an error. */
const OnnxAttr *im_attr(Import *im, const OnnxNode *n, const char *name); /* NULL if absent */
int64_t im_int(Import *im, const OnnxNode *n, const char *name, int64_t otherwise);
double im_float(Import *im, const OnnxNode *n, const char *name, double otherwise);
const char *im_str(Import *im, const OnnxNode *n, const char *name, const char *otherwise);
Ints im_ints(Import *im, const OnnxNode *n, const char *name);
Floats im_floats(Import *im, const OnnxNode *n, const char *name);
bool im_tensor(Import *im, const OnnxNode *n, const char *name,
               Tensor *out);                   /* false without an error if absent */
DType im_dtype(Import *im, int64_t onnx_type); /* an error for strings and unknown numbers */
/* Attribute `to` or the like as an element type. */
DType im_dtype_attr(Import *im, const OnnxNode *n, const char *name, DType otherwise);

/* What moved from an attribute to an input over the opsets: the input if it is there, else the attribute, else
 * given = false. i = -1: attribute only; name = NULL: input only. */
Ints im_ints_of(Import *im, const OnnxNode *n, int i, const char *name);
Floats im_floats_of(Import *im, const OnnxNode *n, int i, const char *name);
double im_float_of(Import *im, const OnnxNode *n, int i, const char *name, double otherwise); /* one number */
int64_t im_int_of(Import *im, const OnnxNode *n, int i, const char *name, int64_t otherwise);

/* An axis in [-rank, rank) as 0 .. rank-1 (0 after an error). */
uint32_t im_axis(Import *im, const OnnxNode *n, int64_t axis, uint32_t rank);
uint32_t im_axis_attr(Import *im, const OnnxNode *n, const char *name, int64_t otherwise, uint32_t rank);
/* A list of axes as a bit mask; a double one is an error. Not given: all. */
uint32_t im_axes(Import *im, const OnnxNode *n, Ints axes, uint32_t rank);

/* ---- values */

Type im_type(const Import *im, Val v);
static inline DType im_elem(const Import *im, Val v)
{
  return im_type(im, v).dtype;
}
static inline uint32_t im_rank(const Import *im, Val v)
{
  return im_type(im, v).rank;
}
int64_t im_dim(const Import *im, Val v,
               int64_t axis); /* axis may count from the end (-1: last); 1 if out of range */
int64_t im_span(const Type *t, uint32_t from, uint32_t to); /* product of the dimensions from .. to - 1 */
static inline bool im_is_float(DType t)
{
  return dtype_info[t].kind == DK_FLOAT;
}

bool im_is_constant(const Import *im, Val v);
bool im_constant(Import *im, Val v, Tensor *out); /* false, without an error, if it is none */
/* For values that decide shapes: the error names the graph input that --fix should give. `what`: "shape". */
bool im_need_constant(Import *im, const OnnxNode *n, Val v, const char *what, Tensor *out);
Ints im_need_ints(Import *im, const OnnxNode *n, Val v, const char *what); /* flattened, as int64 */
Floats im_need_floats(Import *im, const OnnxNode *n, Val v, const char *what);

/* ---- constants. `im_const` is a scalar (rank 0) that broadcasts against all. */

Val im_const(Import *im, DType t, double value); /* exact for integers below 2^53 */
Val im_const_i(Import *im, DType t, int64_t value);
Val im_const_like(Import *im, Val v, double value); /* of v's element type */
Val im_full(Import *im, DType t, uint32_t rank, const int64_t *dim, double value);
Val im_const_tensor(Import *im, const Tensor *t); /* keeps t->data, which must live as long as the module */
Val im_const_ints(Import *im, const int64_t *x, int64_t n); /* i64 [n], copied */
Val im_const_floats(Import *im, DType t, const double *x, uint32_t rank,
                    const int64_t *dim);     /* rounded, copied */
Val im_iota(Import *im, DType t, int64_t n); /* 0 .. n-1 */
/* Memory for `t`'s elements in the module's arena (tensor_set fills it); NULL data after an error if it is too large. */
Tensor im_tensor_new(Import *im, Type t);

/* ---- builders */

/* Any core op: checks, folds, appends. type: for ops with a GIVEN result, else NULL. */
Val im_emit(Import *im, Op op, const Val *in, uint32_t n_in, Attr attr, const Type *type);
Val im_add1(Import *im, Op op, Val a);
Val im_add2(Import *im, Op op, Val a, Val b); /* broadcasts; equal element types */
Val im_add3(Import *im, Op op, Val a, Val b, Val c);
Val im_op_f(Import *im, Op op, Val a, double b); /* op(a, constant of a's type) */
Val im_where(Import *im, Val c, Val a, Val b);
Val im_gt(Import *im, Val a, Val b); /* false for NaN, as lt with the operands exchanged; likewise ge */
Val im_ge(Import *im, Val a, Val b);
Val im_clip(Import *im, Val v, double lo, double hi);
Val im_rsqrt(Import *im, Val v); /* 1 / sqrt(v) */

Val im_cast(Import *im, Val v, DType t);
Val im_cast_to(Import *im, Val v, DType t, bool saturate); /* matters for the 8-bit floats */
Val im_cast_like(Import *im, Val v, Val like);
Val im_bitcast(Import *im, Val v, DType t);
Val im_float_compute(Import *im, Val v); /* f16, bf16, 8-bit floats: as f32; others as they are */

Val im_reshape(Import *im, Val v, uint32_t rank, const int64_t *dim);
#define im_reshape_to(im, v, ...)                                                                            \
  im_reshape(im, v, COUNT(((int64_t[]){__VA_ARGS__})), (const int64_t[]){__VA_ARGS__})
Val im_flat(Import *im, Val v);                          /* rank 1 */
Val im_flat_at(Import *im, Val v, uint32_t axis);        /* rank 2: [dims before axis, the rest] */
Val im_unsqueeze(Import *im, Val v, uint32_t axis);      /* a new dimension 1 before `axis` (of the input) */
Val im_squeeze(Import *im, Val v, uint32_t axis);        /* drops a dimension 1 */
Val im_unsqueeze_mask(Import *im, Val v, uint32_t axes); /* bits: places in the result */
Val im_squeeze_mask(Import *im, Val v, uint32_t axes);   /* bits: places in the input */
Val im_at_channel(Import *im, Val v, uint32_t axis,
                  uint32_t rank); /* [C] as [1 .. C .. 1]: C at `axis` of `rank` */

Val im_transpose(Import *im, Val v, const uint8_t *perm);
Val im_swap(Import *im, Val v, uint32_t a, uint32_t b);
Val im_move(Import *im, Val v, uint32_t from, uint32_t to);          /* the others keep their order */
Val im_expand(Import *im, Val v, uint32_t rank, const int64_t *dim); /* to this shape exactly; numpy rules */
Val im_broadcast(Import *im, Val v, uint32_t rank, const int64_t *dim); /* ONNX Expand: both ways */
/* Dimensions of numpy broadcasting; an error if they do not fit. */
bool im_broadcast_dims(Import *im, const Type *a, const Type *b, Type *out);

Val im_slice(Import *im, Val v, uint32_t axis, int64_t start, int64_t count, int64_t step);
Val im_part(Import *im, Val v, uint32_t axis, int64_t start, int64_t count); /* step 1 */
Val im_flip(Import *im, Val v, uint32_t axis);
Val im_concat(Import *im, const Val *in, uint32_t n, uint32_t axis);
Val im_stack(Import *im, const Val *in, uint32_t n, uint32_t axis); /* concat along a new axis */
/* lo and hi for each dimension, negative ones cut. value: a scalar of v's type, 0: zero. */
Val im_pad(Import *im, Val v, const int64_t *lo, const int64_t *hi, Val value);
Val im_pad_axis(Import *im, Val v, uint32_t axis, int64_t lo, int64_t hi, Val value);

Val im_gather(Import *im, Val data, Val indices, uint32_t axis); /* indices are clamped, not wrapped */
Val im_wrap_indices(Import *im, Val indices, int64_t n);         /* adds n to negative ones */
Val im_scatter(Import *im, Val data, Val indices, Val updates, ScatterReduce reduce);

Val im_reduce(Import *im, Op op, Val v, uint32_t axes, bool keep); /* OP_reduce_*; axes: bit mask */
Val im_sum(Import *im, Val v, uint32_t axes, bool keep);
Val im_mean(Import *im, Val v, uint32_t axes, bool keep);
Val im_arg(Import *im, Op op, Val v, uint32_t axis, bool last, bool keep); /* OP_argmax, OP_argmin: i64 */
Val im_cum(Import *im, Op op, Val v, uint32_t axis, bool exclusive, bool reverse);
Val im_softmax(Import *im, Val v, uint32_t axis);
Val im_log_softmax(Import *im, Val v, uint32_t axis);
Val im_pick(Import *im, Val v,
            Val indices); /* elements along the last axis; the other dimensions are equal */
Val im_topk(Import *im, Val v, int64_t count, bool largest); /* i64 indices along the last axis */

Val im_matmul(Import *im, Val a, Val b); /* both of rank 2 or more; batch dimensions broadcast */
Val im_conv(Import *im, Val x, Val w, Val bias,
            const Window *win);                           /* core layout, channels last; bias may be 0 */
Val im_pool(Import *im, Op op, Val x, const Window *win); /* OP_pool_max, OP_pool_sum; channels last */
Val im_channels_last(Import *im, Val v);                  /* [N, C, ..] -> [N, .., C] */
Val im_channels_first(Import *im, Val v);                 /* [N, .., C] -> [N, C, ..] */

/* ---- sequences of tensors, and optional values, which both are resolved at import */

Val im_any(Import *im, const OnnxNode *n,
           uint32_t i); /* as im_opt, also of a sequence, which im_in refuses */
const ImSequence *im_sequence(const Import *im, Val v);                      /* NULL: v is a tensor, or 0 */
const ImSequence *im_in_sequence(Import *im, const OnnxNode *n, uint32_t i); /* an empty one after an error */
Val im_sequence_new(Import *im, const Val *items, uint32_t len);             /* copies */

/* ---- graphs inside nodes (If, Loop, Scan) */

/* Imports a body with its inputs bound; names of the scopes around it are visible. Fills outputs[g's count]. */
bool im_graph(Import *im, const OnnxGraph *g, const Val *in, uint32_t n_in, Val *outputs);
const OnnxGraph *im_graph_attr(Import *im, const OnnxNode *n, const char *name); /* an error if absent */

#endif
