/* graph.h - the graph IR: a model as tensor operations.
 *
 * Nodes stand in definition-before-use order and name each other by index. A Module holds the
 * graphs of all entry points (prefill, decode, ...), and the weights and states they share. */
#ifndef MICC_GRAPH_H
#define MICC_GRAPH_H

#include "ir/dtype.h"

typedef uint32_t Val; /* index of a node in its graph; 0 is none */

enum { MAX_RANK = 8, MAX_SPATIAL = 3 };

typedef enum {
  OP_none,
#define OP(name, ...) OP_##name,
#include "ir/graph_ops.def"
#undef OP
  OP_COUNT
} Op;

typedef enum {
  ATTR_NONE,
  ATTR_NAME,
  ATTR_TENSOR,
  ATTR_STATE,
  ATTR_VALUE,
  ATTR_EPS,
  ATTR_PERM,
  ATTR_SLICE,
  ATTR_AXIS,
  ATTR_ROPE,
  ATTR_STYLE,
  ATTR_ATTENTION,
  ATTR_AXES,
  ATTR_ARG,
  ATTR_SCAN,
  ATTR_PAD,
  ATTR_SCATTER,
  ATTR_TOPK,
  ATTR_WINDOW,
  ATTR_SATURATE,
  ATTR_COUNT
} AttrKind;

typedef enum {
  RES_GIVEN,
  RES_SAME,
  RES_BCAST,
  RES_REDUCE,
  RES_TRANSPOSE,
  RES_SLICE,
  RES_CONCAT,
  RES_LINEAR,
  RES_QUANT,
  RES_EMBED,
  RES_COMPARE,
  RES_WHERE,
  RES_AXES,
  RES_ARG,
  RES_GATHER,
  RES_TOPK,
  RES_MATMUL,
  RES_SDPA,
  RES_CONV,
  RES_POOL
} ResultRule;

typedef enum { IN_BOTH, IN_LANG, IN_DENSE } OpIn; /* the sort of graphs that has the op */

/* What an op takes in dense graphs: see graph_ops.def. */
typedef enum { TAKES_OWN, TAKES_FLOAT, TAKES_NUM, TAKES_BITS, TAKES_ALL, TAKES_ANY } OpTakes;

typedef struct {
  const char *name;
  int inputs;
  AttrKind attr;
  ResultRule result;
  OpIn graphs;
  OpTakes takes;
  const char *doc;
} OpInfo;
extern const OpInfo op_info[OP_COUNT];

/* Each element of the result depends on one element of each input: arithmetic, comparisons, where, casts. */
bool op_elementwise(Op op);

typedef struct {
  DType dtype;
  uint32_t rank; /* 0: a scalar */
  int64_t dim[MAX_RANK];
} Type;

typedef struct {
  uint32_t first, count;
} Slice;

typedef enum { SCATTER_NONE, SCATTER_ADD, SCATTER_MUL, SCATTER_MAX, SCATTER_MIN } ScatterReduce;

/* How a convolution or a pool moves over the spatial dimensions; entries from `spatial` on are 0. */
typedef struct {
  uint32_t spatial; /* 1 to MAX_SPATIAL */
  int64_t group;    /* convolutions: divides the channels; pools: 1 */
  int64_t kernel[MAX_SPATIAL], stride[MAX_SPATIAL], dilation[MAX_SPATIAL];
  int64_t pad_lo[MAX_SPATIAL], pad_hi[MAX_SPATIAL];
} Window;

typedef union {
  const char *name; /* NAME */
  uint32_t index;   /* TENSOR, STATE: index in the module */
  double value;     /* VALUE */
  double eps;       /* EPS */
  uint8_t perm[MAX_RANK];
  struct {
    uint32_t axis;
    int64_t start, count, step; /* step 0 is taken as 1 by graph_add */
  } slice;
  uint32_t axis;
  uint32_t rope;    /* ROPE: index of a RopeSpec in the module */
  bool interleaved; /* STYLE */
  struct {
    float scale;
    float softcap;  /* 0: none; else cap * tanh(s / cap) */
    int64_t window; /* 0: all earlier positions */
    bool nan_is_0;  /* sdpa: a row whose probabilities are nan, as where the mask hides all, gives 0 */
  } attention;
  uint32_t axes; /* AXES: bit d for dimension d */
  struct {
    uint32_t axis;
    bool last; /* of equals the last, not the first */
  } arg;
  struct {
    uint32_t axis;
    bool exclusive, reverse;
  } scan;
  struct {
    int64_t lo[MAX_RANK]; /* where x begins in the result; may be negative */
  } pad;
  ScatterReduce reduce; /* SCATTER */
  struct {
    int64_t count;
    bool largest;
  } topk;
  Window window;
  bool saturate; /* SATURATE */
} Attr;

/* One operation and its result. A Node pointer dies at the next graph_add(). */
typedef struct {
  Op op;
  Type type; /* of the result */
  Slice in;  /* inputs, in the graph's edge array */
  Attr attr;
  uint32_t launch;  /* the launch that computes it, from passes/fuse; 0: none yet */
  const char *from; /* its place in the model, for messages and plans: "blk.3.attn_q"; may be NULL */
} Node;

typedef struct Module Module;

typedef struct {
  Module *module;
  const char *name;  /* the entry point */
  int64_t tokens;    /* T; 1 in dense graphs */
  bool dense;        /* values in their own element types, numpy's rules; set before nodes are added */
  ARRAY(Node) nodes; /* nodes.data[0] is the none node */
  ARRAY(Val) edges;
} Graph;

/* A tensor of the model file, as the compiler sees it. */
typedef struct {
  const char *name;
  Type type;        /* outermost dimension first: a matrix is [rows, columns] */
  const void *data; /* in the file's mapping; NULL in text cases */
  uint64_t bytes;
} Weight;

typedef struct {
  const char *name;
  Type type;
} State;

/* Rotation frequencies. Angles are kept as fractions of a turn in 32-bit fixed point, so that
 * position * step wraps exactly on every target: angle = 2 pi * (pos * step mod 2^32) / 2^32. */
typedef struct {
  uint32_t half;        /* number of frequencies */
  const uint32_t *step; /* [half] turns per position, times 2^32, rounded */
  float magnitude;      /* factor on cosines and sines (YaRN); 1 */
} RopeSpec;

struct Module {
  Arena *arena;     /* holds all of it; not owned */
  uint32_t context; /* positions that a program may reach; 0: as many as the smallest state has slots */
  ARRAY(Weight) weights;
  ARRAY(State) states;
  ARRAY(RopeSpec) ropes;
  ARRAY(Graph *) graphs;
};

Module *module_new(Arena *a);
/* A module that passes may work on while `m` stays as it is: they replace graphs and add weights. Nodes are shared. */
Module *module_copy(const Module *m);
uint32_t module_context(const Module *m); /* resolves 0 */
Graph *graph_new(Module *m, const char *name, int64_t tokens);
Graph *graph_new_dense(Module *m, const char *name);

/* Appends a node and infers its type by the op's rule (`type` is read only for GIVEN).
 * Asserts that inputs fit: callers check what comes from files before (graph_infer says what is wrong). */
Val graph_add(Graph *g, Op op, const Val *in, uint32_t n_in, Attr attr, const Type *type);
Val graph_add1(Graph *g, Op op, Val a);
Val graph_add2(Graph *g, Op op, Val a, Val b);

static inline Node *graph_node(const Graph *g, Val v)
{
  return &g->nodes.data[v];
}
static inline Val graph_in(const Graph *g, Val v, uint32_t i)
{
  return g->edges.data[g->nodes.data[v].in.first + i];
}

Type type_of(DType t, uint32_t rank, const int64_t *dim);
bool type_eq(const Type *a, const Type *b);
int64_t type_count(const Type *t);            /* elements */
int64_t type_rows(const Type *t);             /* product of all but the last dimension */
int64_t type_last(const Type *t);             /* last dimension; 1 for a scalar */
void type_print(const Type *t, Text *out);    /* q4_0[576,576] */
bool type_check(const Type *t, Err *e);       /* it exists, rank and dimensions in range, whole blocks */
bool type_check_dense(const Type *t, Err *e); /* as type_check, but dimensions may be 0 */
bool attr_eq(AttrKind kind, const Attr *a, const Attr *b);

/* The type that an op's rule gives, or false with a reason. For GIVEN, *out holds the stated
 * type, which is checked. */
bool graph_infer(const Graph *g, Op op, const Val *in, uint32_t n_in, const Attr *attr, Type *out, Err *e);

bool graph_verify(const Graph *g, Err *e);
bool module_verify(const Module *m, Err *e);

/* ---- text form (graph_text.c, graph_parse.c). Printing renumbers; what is printed parses to an equal module.
 *   weight blk.0.attn_q.weight q4_0[576,576]
 *   state k.0 f32[2048,3,64]
 *   rope 0 half 32 magnitude 1 step 683565276 ...
 *   weight axes i64[2] = 0 -1                   (values: of up to 16 elements, if they are known)
 *   graph run dense { ... }                     (a dense graph)
 *   graph decode tokens 1 {
 *     %1 = input i32[1] tokens
 *     %5 = linear f32[1,576] %3, %4          @2  # blk.0.attn_q     (launch and place, if any)
 *     %6 = attention f32[1,9,64] %2, %3, %4, %1 scale=0.125 window=512 softcap=50
 *   } */
void module_print(const Module *m, Text *out);
void graph_print(const Graph *g, Text *out);
Module *module_parse(Arena *a, const char *text, const char *file, Err *e);

/* ---- the oracle (eval.c): the meaning of every op, slow and plain */
typedef struct {
  float *data; /* integers (tokens, pos) are exact in float up to 2^24 */
  int64_t count;
} Array;

/* Evaluates a graph. `inputs[i]` belongs to the i-th input node, `states[i]` to the module's i-th
 * state (read, and replaced by its updated contents). Outputs are allocated in `a`, one for each
 * output node in order. Weights are decoded by dtype_to_float. */
void graph_eval(const Graph *g, Arena *a, const Array *inputs, Array *states, Array *outputs);

/* ---- the oracle of dense graphs (eval_dense.c). Floats are computed in long double, integers in 64 bits;
 * each op's result is rounded to its element type once. */
typedef struct {
  Type type;
  void *data; /* dense, row-major, in the own element type */
} Tensor;

Tensor tensor_new(Arena *a, const Type *t); /* zeroed */
uint64_t tensor_bytes(const Type *t);
long double tensor_get(const Tensor *t, int64_t i);
void tensor_set(Tensor *t, int64_t i, long double x); /* rounds as the op `cast` with saturate */
int64_t tensor_get_int(const Tensor *t, int64_t i);   /* of integer types; u64 as two's complement */
void tensor_set_int(Tensor *t, int64_t i, int64_t x); /* wraps */

/* Evaluates a dense graph whose weights have data: inputs in the order of the input nodes, one output for each
 * output node, allocated in `a`. */
void graph_eval_dense(const Graph *g, Arena *a, const Tensor *inputs, Tensor *outputs);

/* Evaluates one node from its inputs' values (what folds constants). A result that is the same bytes as an input
 * (reshape) shares them. False: an input node, a weight without data, or an op of language models. */
bool graph_eval_node(const Graph *g, Val v, const Tensor *in, Arena *a, Tensor *out);

#endif
