/* program.h - what lowering makes of a module: kernels, the ordered launches of each entry point, the
 * buffers they work on, and the weights in the layout that the kernels stream. Packaging turns one program, or
 * several of one module for several targets (weights and states are the same), into an image (runtime-min/mi_image.h) and machine code; `--emit=plan` prints it. */
#ifndef MICC_PROGRAM_H
#define MICC_PROGRAM_H

#include "ir/graph.h"
#include "ir/kernel.h"

typedef enum { SPACE_WEIGHTS, SPACE_ARENA, SPACE_STATE, SPACE_SCRATCH } Space; /* as MI_SPACE_* */
typedef enum { TIMES_ONCE, TIMES_TOKENS, TIMES_SECTIONS } Times;               /* as MI_ONCE .. */

typedef struct {
  Space space;
  const char *name;
  uint64_t bytes;
  uint64_t offset; /* in its space: states' by lowering, maybe in gaps of others; else by program_place() */
  uint32_t first, last; /* arena: launches of its entry that use it, for packing */
  uint32_t entry;       /* arena: the entry it belongs to */
  bool arrays;          /* it is several: nobody goes beyond the one at whose offset a bind is */
} Buffer;

typedef struct {
  uint32_t buffer;
  uint64_t offset; /* bytes into the buffer */
} Bind;

/* One grid of a launch. */
typedef struct {
  uint32_t kernel;
  uint32_t grid;
  Times times;    /* grid counts for the call, each of its tokens, each section of the positions seen */
  Slice binds;    /* one for each parameter of the kernel */
  uint64_t bytes; /* of weights or states streamed in one call */
  uint64_t ops;   /* multiply-adds for one token, roughly */
  uint32_t span;  /* 0, or: bytes and ops are for each position seen, at most so many */
  int32_t constant[K_CONSTANTS]; /* what tells the kernel from those that it also stands for */
} Part;

/* Parts run in any order, in parallel; a barrier follows. */
typedef struct {
  const char *name;
  Slice parts;
} Launch;

/* What a caller gives or gets: rows of the first dimension lie lower_stride() elements apart. */
typedef struct {
  const char *name;
  Type type;
  uint32_t buffer; /* 0: none (a state that stays where it is) */
} Io;

typedef struct {
  const char *name;
  uint32_t tokens; /* T */
  Slice launches;
  Slice inputs, outputs;                 /* in the program's ios, in the graph's order */
  uint32_t tokens_buffer, logits_buffer; /* of language models; 0: none */
} Entry;

/* How a weight lies in the image. */
typedef enum {
  LAYOUT_VECTOR, /* f32, padded with zeros to a multiple of 16 */
  LAYOUT_PANEL,  /* 16 rows side by side; see passes/lower/panel.h */
  LAYOUT_PLANES, /* q8_0 cut in a plane of high and one of low bits; see passes/lower/planes.h */
  LAYOUT_ROWS,   /* row-major in the weight's own element type, as dense graphs have it */
  LAYOUT_RAW     /* the given bytes */
} Layout;
extern const char *const layout_name[];

typedef struct {
  Layout layout;
  uint32_t weight;  /* index in the module; RAW: unused */
  const void *data; /* RAW */
  DType type;       /* RAW: of its elements */
  uint32_t buffer;
} Item;

/* Which of a kernel's nodes are constants of the grid: 1 + the constant's number, or 0. */
typedef struct {
  uint8_t *of;
  uint32_t n; /* constants */
} Varying;

typedef struct {
  Arena *arena;
  const Module *module;
  const char *target;    /* the level that it is for */
  uint32_t target_needs; /* MI_CPU_* */
  ARRAY(Kernel *) kernels;
  ARRAY(Varying) varying; /* of each kernel; until program_end_kernels() */
  ARRAY(Buffer) buffers;  /* buffers.data[0] is none */
  ARRAY(Bind) binds;
  ARRAY(Part) parts;
  ARRAY(Launch) launches;
  ARRAY(Entry) entries;
  ARRAY(Io) ios;
  ARRAY(Item) items; /* in the order of the image */
  uint32_t context;  /* slots of the states */
  uint64_t space_bytes[4];
} Program;

uint32_t program_buffer(Program *p, Space space, const char *name, uint64_t bytes);

/* Gives every buffer its offset, but states, which lowering has placed: weights one after the other, arena buffers of one
 * entry packed by lifetime, scratch at 0. 64-byte aligned. If the arena then takes at most `roomy` bytes, buffers share memory only
 * with those of their own size: a thread writes where it has written before, and not to lines of cache that another
 * thread's core has to give up first. */
void program_place(Program *p, uint64_t roomy);

/* Adds a kernel as that of `part`, or finds one that is equal but for a few numbers outside of inner loops: these
 * become constants that each part hands over. */
void program_kernel(Program *p, Kernel *k, Part *part);

/* Ends that: kernels read their constants as arguments. */
void program_end_kernels(Program *p);

/* Then: kernels without what no kernel reads (program_unread.c). */
void program_drop_unread(Program *p);

/* The plan: every launch with its kernels, grid, operands, weight bytes and operations. */
void program_print(const Program *p, Text *out);

#endif
