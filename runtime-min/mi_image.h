/* mi_image.h - the contract between compiled code and the runtime, version 4.
 *
 * The compiler makes two things: kernels (machine code: an array of functions) and an image (one flat
 * block of read-only bytes: this header, then what its offsets name). All offsets count from the start
 * of the header; all integers are little-endian; the image is page-aligned in memory.
 *
 * The runtime walks an entry point's parts in order. Those up to one that is marked `last` are a launch, a
 * parallel region: they are independent grids, whose iterations may run in any order on any thread; a barrier
 * ends it.
 *
 * Layers are alike, entry points and levels too: what is equal stands once. A part says which of its entry's
 * grids runs on which run of binds, binds say which places they mean. */
#ifndef MI_IMAGE_H
#define MI_IMAGE_H

#include <stdint.h>

#define MI_MAGIC   "micc img"
#define MI_VERSION 4u
enum { MI_PAGE = 4096, MI_ALIGN = 64 };

/* Runs grid iterations lo <= i < hi.
 *   buf      one pointer for each parameter; the last is the thread's scratch memory if the kernel has it
 *   args     [0] position of the first token, [1] number of tokens in this call, [2] how many of the largest logits
 *            are wanted, 0: all; others may come out as -inf; [3] .. [9] constants of the grid */
typedef void MiKernel(uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi);

enum { MI_SPACE_WEIGHTS, MI_SPACE_ARENA, MI_SPACE_STATE, MI_SPACE_SCRATCH, MI_SPACE_COUNT };
enum { MI_MAX_PARAMS = 24, MI_CONSTANTS = 7 };

/* What a kernel's parameter points to, as one number: the space in the top two bits, below it the offset there
 * in units of MI_ALIGN bytes. */
typedef uint32_t MiPlace;
enum { MI_PLACE_BITS = 30 };
#define MI_PLACE(space, offset) ((MiPlace)(space) << MI_PLACE_BITS | (MiPlace)((offset) / MI_ALIGN))

/* A kernel's parameter: index in the table of places. */
typedef uint16_t MiBind;

/* The positions that one token sees go by sections, so that threads may share them: the first starts at position 0. */
enum { MI_SECTION = 256 };

/* How many there are of the last `span` of `seen` positions. */
static inline uint32_t mi_sections(uint32_t seen, uint32_t span)
{
  uint32_t first = seen > span ? seen - span : 0;
  return (seen - 1) / MI_SECTION - first / MI_SECTION + 1;
}

/* What a grid counts for: the call, else each of these. */
enum { MI_ONCE, MI_PER_TOKEN, MI_PER_SECTION };

/* How often its iterations are there in a call with these arguments. */
static inline uint32_t mi_times(unsigned times, uint32_t span, const int32_t *args)
{
  return times == MI_PER_TOKEN     ? (uint32_t)args[1]
         : times == MI_PER_SECTION ? mi_sections((uint32_t)(args[0] + args[1]), span)
                                   : 1;
}

/* A kernel and how often it runs. */
typedef struct {
  float bytes;     /* of weights or states that it streams: for profiles, and to see what is worth a thread */
  float ops;       /* multiply-adds for one token, likewise; 0: not known */
  uint32_t grid;   /* iterations; times the tokens of the call, or the sections that its last token sees */
  uint32_t span;   /* 0, or: bytes and ops are for each position that a token sees, at most so many */
  uint16_t kernel; /* index in the table of kernels */
  uint8_t n_binds, times;
  int32_t constant[MI_CONSTANTS]; /* sizes and the like in which layers differ that share a kernel */
} MiGrid;

typedef struct {
  uint32_t first_bind; /* its parameters: binds[first_bind ..] */
  uint16_t grid;       /* of those of its entry: grids[first_grid + grid] */
  uint16_t name : 15;  /* of its launch: offset in the names, of a zero-terminated text */
  uint16_t last : 1;   /* ends the launch */
} MiPart;

/* What a processor must have to run a level's kernels. */
enum {
  MI_CPU_X86_64_V2 = 1, /* SSE4.2, SSSE3, POPCNT, CMPXCHG16B */
  MI_CPU_X86_64_V3 = 2, /* AVX2, FMA, F16C, BMI, BMI2, LZCNT, MOVBE */
  MI_CPU_X86_64_V4 = 4, /* AVX-512 F, BW, CD, DQ, VL */
  MI_CPU_AVX_VNNI = 8,
  MI_CPU_AVX512_VNNI = 16
};

/* A program may hold its kernels for several processors, in rising order: the last that fits is run. All levels
 * share weights, states and the arena's size. */
typedef struct {
  char name[24];  /* "x86-64-v3" */
  uint32_t needs; /* MI_CPU_* */
  uint32_t reserved;
} MiLevel;

typedef struct {
  char name[12];                /* "decode", "prefill" */
  uint32_t level;               /* index of the level that it is for; 0 if the image has none */
  uint32_t first_part, n_parts; /* whole launches; levels may share them, */
  uint32_t first_grid, n_grids; /* since each has grids of its own */
  uint32_t tokens;              /* at most so many tokens in a call */
  uint32_t has_logits;          /* decode: logits are written */
  uint32_t first_io, n_ios;     /* of models with tensors in and out: "run" */
} MiEntry;

/* A tensor that the caller gives or gets: row-major, in the arena. Inputs stay as they are. */
typedef struct {
  uint64_t name;   /* offset of a zero-terminated text */
  uint64_t offset; /* in the arena; a multiple of MI_ALIGN */
  uint32_t elem;   /* MiElem of mi_array.h */
  uint32_t output; /* 1; 0: an input */
  uint32_t rank, reserved;
  uint64_t dim[8];
} MiIo;

typedef struct {
  char magic[8];
  uint32_t version;
  uint32_t header_bytes;
  uint64_t image_bytes;
  uint32_t n_kernels, n_entries, n_grids, n_parts, n_binds, n_places;
  uint32_t n_vocab; /* length of a row of logits */
  uint32_t context; /* capacity of the states, in tokens */
  uint32_t has_tokenizer;
  uint32_t n_levels;                                /* 0: one, that runs everywhere */
  uint64_t levels;                                  /* offset of the array */
  uint64_t entries, grids, parts, binds, places;    /* offsets of the arrays */
  uint64_t names, names_bytes;                      /* offset; the last byte is zero */
  uint64_t ios, n_ios;                              /* offset of the array */
  uint64_t arena_bytes, state_bytes, scratch_bytes; /* scratch: of one thread; state starts zeroed */
  uint64_t tokens_at;                  /* in the arena: int32[tokens of the entry], set by the runtime */
  uint64_t logits_at;                  /* in the arena: float[n_vocab] after decode */
  uint64_t about, about_bytes;         /* text, "key: value" lines */
  uint64_t tokenizer, tokenizer_bytes; /* see mi_tokenizer.h */
  uint64_t weights, weights_bytes;     /* page-aligned */
  uint64_t tables_bytes; /* of the first of them, whole pages: of these a call reads single rows only */
} MiImage;

_Static_assert(sizeof(MiGrid) == 48 && sizeof(MiPart) == 8, "contract, version 4");
_Static_assert(sizeof(MiLevel) == 32 && sizeof(MiEntry) == 48 && sizeof(MiIo) == 96 && sizeof(MiImage) == 240,
               "contract, version 4");

#endif
