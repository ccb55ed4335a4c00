/* onnx.h - an ONNX model as it stands in its file. Members carry the names of onnx.proto (IR version 14,
 * which adds to what opsets 7 to 23 need); what optional fields leave out is NULL, 0 or an empty array.
 *
 * Structs and texts live in the caller's arena. Data of tensors stays in the read-only mapping of the file,
 * until onnx_tensor_value() makes an array of it. Texts end with a zero byte that their length does not count.
 *
 * Nothing here knows what an op means: shapes are checked to be numbers, not to fit. */
#ifndef MICC_ONNX_H
#define MICC_ONNX_H

#include "ir/graph.h"

/* Limits that a file is held to. Memory stays proportional to the file whatever it holds. */
enum {
  ONNX_DEPTH_MAX = 100,            /* messages in messages, as protobuf's own readers have it */
  ONNX_DIMS_MAX = 64,              /* of a tensor or a type */
  ONNX_SPARSE_BYTES_MAX = 1 << 28, /* of a sparse tensor, once it is dense */
  ONNX_NAME_BYTES_MAX = 65535,     /* of names; texts are not limited */
  ONNX_IR_VERSION_MAX = 1000,      /* versions rise by one a year: above this it is no model */
};

/* A file or a part of memory that tensors lie in. External data is opened when it is first needed. */
typedef struct OnnxFile {
  const char *path;
  const uint8_t *data;
  uint64_t bytes;
  bool mapped;
  const struct OnnxFile *model; /* of external data: the file that names it; NULL for a model */
  struct OnnxFile *next;
} OnnxFile;

typedef struct {
  const char *data; /* in the arena: data[len] is 0 */
  uint64_t len;
} OnnxText;

typedef struct {
  const uint8_t *data; /* in the mapping */
  uint64_t len;
} OnnxBytes;

/* Each struct begins with its place in the file, for messages; `has`: bit n says that field n was there. */
typedef struct {
  uint64_t at, bytes;
  uint32_t has;
} OnnxPlace;

/* Element types of tensors: TensorProto.DataType. */
typedef enum {
  ONNX_UNDEFINED,
#define ONNX_ELEM(id, ...) ONNX_##id,
#include "frontend/onnx/onnx_elem.def"
#undef ONNX_ELEM
  ONNX_ELEM_COUNT
} OnnxElem;

typedef struct {
  const char *name; /* as the specification writes it: "float16" */
  int dtype;        /* a DType; -1: micc has none (strings, complex numbers) */
  uint32_t bits;    /* of one element in raw_data; 0: not stored so */
  uint32_t field;   /* of TensorProto, where elements lie that are not raw */
} OnnxElemInfo;
extern const OnnxElemInfo onnx_elem_info[ONNX_ELEM_COUNT]; /* [0]: name "undefined" */

const OnnxElemInfo *onnx_elem(int32_t data_type); /* that of UNDEFINED for numbers that it does not know */
int onnx_elem_of(DType t);                        /* 0 if there is none */

typedef struct {
  OnnxPlace place;
  const char *key;
  OnnxText value;
} OnnxProp; /* StringStringEntryProto */

typedef struct {
  OnnxPlace place;
  const char *name; /* NULL if it has none */
  OnnxFile *file;   /* that it stands in */
  int32_t data_type;
  int64_t *dims; /* not below 0; their product fits an int64 */
  uint32_t n_dims;
  int64_t count;      /* elements */
  OnnxBytes raw;      /* raw_data, if place.has says so; other fields are read from `place` when needed */
  OnnxFile *external; /* NULL: the data is here */
  uint64_t external_offset, external_length;
  bool external_has_length; /* else: as much as the elements need */
  int32_t data_location;
  OnnxProp **external_data;
  uint32_t n_external_data;
} OnnxTensor; /* TensorProto */

typedef struct {
  OnnxPlace place;
  OnnxTensor *values; /* its name is that of the sparse tensor; never NULL */
  OnnxTensor *indices;
  int64_t *dims;
  uint32_t n_dims;
  int64_t count; /* elements of the dense tensor */
} OnnxSparse;    /* SparseTensorProto */

typedef struct {
  OnnxPlace place;
  int64_t value;     /* -1: not stated */
  const char *param; /* its name; NULL: it has none */
} OnnxDim;

typedef enum {
  ONNX_TYPE_NONE, /* not stated */
  ONNX_TYPE_TENSOR,
  ONNX_TYPE_SPARSE,
  ONNX_TYPE_SEQUENCE,
  ONNX_TYPE_OPTIONAL,
  ONNX_TYPE_MAP,
  ONNX_TYPE_OPAQUE
} OnnxTypeKind;

typedef struct OnnxType {
  OnnxPlace place;
  OnnxTypeKind kind;
  int32_t elem_type; /* of tensors; of a map: its key */
  bool has_shape;    /* else the rank is not stated */
  OnnxDim **dims;
  uint32_t n_dims;
  struct OnnxType *item; /* of sequences and optionals; of a map: its value; never NULL for these */
} OnnxType;              /* TypeProto */

typedef struct {
  OnnxPlace place;
  const char *name;
  OnnxType *type; /* NULL if not stated */
  OnnxText doc;
} OnnxValueInfo; /* ValueInfoProto */

typedef struct OnnxGraph OnnxGraph;

typedef enum {
  ONNX_ATTR_UNDEFINED,
  ONNX_ATTR_FLOAT,
  ONNX_ATTR_INT,
  ONNX_ATTR_STRING,
  ONNX_ATTR_TENSOR,
  ONNX_ATTR_GRAPH,
  ONNX_ATTR_FLOATS,
  ONNX_ATTR_INTS,
  ONNX_ATTR_STRINGS,
  ONNX_ATTR_TENSORS,
  ONNX_ATTR_GRAPHS,
  ONNX_ATTR_SPARSE_TENSOR,
  ONNX_ATTR_SPARSE_TENSORS,
  ONNX_ATTR_TYPE_PROTO,
  ONNX_ATTR_TYPE_PROTOS,
  ONNX_ATTR_COUNT
} OnnxAttrType; /* numbered as AttributeProto.AttributeType */

typedef struct {
  OnnxPlace place;
  const char *name;
  const char *ref_attr_name; /* in a function's body: the function's attribute to take; else NULL */
  int32_t type;              /* OnnxAttrType, found by the fields where old files leave it out */
  float f;
  int64_t i;
  OnnxText s;
  OnnxTensor *t; /* by `type`, never NULL: t, g, sparse_tensor, tp */
  OnnxGraph *g;
  OnnxSparse *sparse_tensor;
  OnnxType *tp;
  float *floats;
  int64_t *ints;
  OnnxText *strings;
  OnnxTensor **tensors;
  OnnxGraph **graphs;
  OnnxSparse **sparse_tensors;
  OnnxType **type_protos;
  uint32_t n_floats, n_ints, n_strings, n_tensors, n_graphs, n_sparse_tensors, n_type_protos;
} OnnxAttr; /* AttributeProto */

typedef struct {
  OnnxPlace place;      /* place.at: for messages */
  const char **inputs;  /* "" for an optional one that is left out */
  const char **outputs; /* "" for one that nobody wants */
  const char *name;     /* texts that the file leaves out are "" */
  const char *op_type;  /* never "" */
  const char *domain;   /* "" for ONNX's own ops, also where the file says "ai.onnx" */
  const char *overload;
  OnnxAttr **attrs; /* no name twice */
  uint32_t n_inputs, n_outputs, n_attrs;
} OnnxNode; /* NodeProto */

struct OnnxGraph {
  OnnxPlace place;
  const char *name;
  OnnxText doc;
  OnnxNode **nodes;
  OnnxTensor **initializers; /* named */
  OnnxSparse **sparse_initializers;
  OnnxValueInfo **inputs; /* in old files also the initializers */
  OnnxValueInfo **outputs;
  OnnxValueInfo **value_infos;
  OnnxProp **metadata;
  uint32_t n_nodes, n_initializers, n_sparse_initializers, n_inputs, n_outputs, n_value_infos, n_metadata;
}; /* GraphProto */

typedef struct {
  OnnxPlace place;
  const char *domain; /* "" for ONNX's own, also where the file says "ai.onnx" */
  int64_t version;
} OnnxOpset; /* OperatorSetIdProto */

typedef struct {
  OnnxPlace place;
  const char *name;
  const char *domain;
  const char *overload;
  OnnxText doc;
  const char **inputs;
  const char **outputs;
  const char **attributes;     /* names of attributes without a default */
  OnnxAttr **attribute_protos; /* attributes with one */
  OnnxNode **nodes;
  OnnxOpset **opsets;
  OnnxValueInfo **value_infos;
  uint32_t n_inputs, n_outputs, n_attributes, n_attribute_protos, n_nodes, n_opsets, n_value_infos;
} OnnxFunction; /* FunctionProto */

typedef struct {
  OnnxPlace place;
  int64_t ir_version;
  OnnxText producer_name, producer_version, domain, doc;
  int64_t model_version;
  OnnxGraph *graph; /* never NULL */
  OnnxOpset **opsets;
  OnnxFunction **functions;
  OnnxProp **metadata;
  uint32_t n_opsets, n_functions, n_metadata;
  OnnxFile *file;
  uint64_t tensors; /* how many the file holds in all */
} OnnxModel;        /* ModelProto */

/* Opens, maps and checks a model. False with one line "file:0xoffset: what is wrong" in *e. All that the model
 * holds lives until onnx_close(), or the end of the arena, whichever is first; call onnx_close() before arena_free(). */
bool onnx_read(const char *path, Arena *a, OnnxModel **out, Err *e);
/* The same for bytes in memory, which must live as long; external data is looked for beside `path`. */
bool onnx_parse(const uint8_t *data, uint64_t bytes, const char *path, Arena *a, OnnxModel **out, Err *e);
void onnx_close(OnnxModel *m); /* unmaps; NULL is fine */

/* Whether these first bytes of a file are an ONNX model's: it has no magic number, so this follows the
 * fields of ModelProto as far as they go. `bytes`: of the whole file. */
bool onnx_probe(const uint8_t *data, uint64_t bytes);

/* The attribute of that name, or NULL. */
const OnnxAttr *onnx_attr(const OnnxNode *n, const char *name);
/* Version of the opset of that domain ("" for ONNX's own); 0 if it is not imported. */
int64_t onnx_opset(const OnnxModel *m, const char *domain);
/* "model.onnx:0x1f40", for messages. */
const char *onnx_where(const OnnxModel *m, const OnnxPlace *at, Arena *a);

/* A file that holds one TensorProto, as test suites have them. The file's bytes are read into the arena. */
bool onnx_read_tensor(const char *path, Arena *a, OnnxTensor **out, Err *e);

/* The elements as a dense array, one element `bytes` of its type wide: narrow types are unpacked. Points into
 * the mapping where that is possible, else into the arena; never to be written to. Strings, complex numbers
 * and what has more than MAX_RANK dimensions fail with one line, and so does data of another size. */
bool onnx_tensor_value(const OnnxTensor *t, Arena *a, Tensor *out, Err *e);
bool onnx_sparse_value(const OnnxSparse *s, Arena *a, Tensor *out, Err *e);
/* The elements of a tensor of strings. */
bool onnx_tensor_strings(const OnnxTensor *t, Arena *a, OnnxText **out, Err *e);

#endif
