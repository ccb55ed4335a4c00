/* onnx_wire.h - protobuf's wire format, driven by tables: which field of a message goes to which member.
 *
 * Source: protobuf's "Encoding" page. A message is a list of items: a tag (field number and wire type), then
 * a varint, 4 or 8 bytes, or a length and as many bytes. Fields without a row are skipped, whatever they hold. */
#ifndef MICC_ONNX_WIRE_H
#define MICC_ONNX_WIRE_H

#include "frontend/onnx/onnx.h"

typedef struct {
  const uint8_t *data; /* the whole file: offsets count from here */
  const char *path;
  Arena *arena;
  Err *e;
  OnnxFile *file;    /* for the tensors that are found */
  uint32_t depth;    /* of messages that are being read */
  uint32_t messages; /* read so far */
  uint64_t tensors;
} Wire;

/* "path:0xat: text". Returns false. */
bool PRINTF(3, 4) wire_bad(Wire *w, uint64_t at, const char *fmt, ...);
/* A name cut to a length that fits a message. */
const char *wire_shown(Wire *w, const char *name);

typedef enum { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2, WIRE_FIXED32 = 5 } WireType;

typedef struct {
  uint64_t at; /* of the tag */
  uint32_t number;
  WireType type;
  uint64_t value;      /* of numbers */
  uint64_t start, len; /* of bytes */
} WireItem;

/* The item at *pos of a message that ends at `end`; moves *pos behind it. `message` is for errors. */
bool wire_item(Wire *w, const char *message, uint64_t *pos, uint64_t end, WireItem *out);
bool wire_varint(const uint8_t *data, uint64_t *pos, uint64_t end, uint64_t *out);

typedef enum {
  WIRE_NO_FIELD, /* rows that a table leaves out */
  WIRE_INT64,
  WIRE_INT32,
  WIRE_FLOAT,
  WIRE_NAME,   /* const char *: valid UTF-8 without control characters */
  WIRE_TEXT,   /* OnnxText: any bytes */
  WIRE_SLICE,  /* OnnxBytes: stays in the file */
  WIRE_LATER,  /* only seen: read by whoever needs it */
  WIRE_STRUCT, /* a pointer to a struct of its own */
  WIRE_PART    /* a message whose fields are members of this struct */
} WireKind;

typedef struct WireMessage WireMessage;

typedef struct {
  const char *name; /* as in onnx.proto */
  WireKind kind;
  uint16_t member; /* its offset */
  uint16_t count;  /* offset of the member that counts a repeated field, else 0 */
  const WireMessage *message;
} WireField;

struct WireMessage {
  const char *name;        /* for messages: "node" */
  size_t bytes;            /* of the struct, which begins with an OnnxPlace; 0: a part of one */
  const WireField *fields; /* by field number */
  uint32_t n_fields;
  uint32_t has_shift;               /* bit n + has_shift of `has` says that field n is there */
  bool (*finish)(Wire *w, void *s); /* checks and completes a struct; may be NULL */
};

/* Reads the message in [at, end) into a struct. */
bool wire_read(Wire *w, const WireMessage *m, uint64_t at, uint64_t end, void *s);

/* onnx_tensor.c: checks what a tensor says of external data, and notes the file in w->file's list. */
bool onnx_external_find(Wire *w, OnnxTensor *t);
/* onnx_model.c */
extern const WireMessage onnx_tensor_message;

#endif
