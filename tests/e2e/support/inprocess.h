/* inprocess.h - a compiled program within the test, so that each entry point can be called and its logits
 * compared bit for bit: the command line shows no logits of a prompt that went through prefill tiles. */
#ifndef INPROCESS_H
#define INPROCESS_H

#include "codegen/jit.h"
#include "frontend/model.h"
#include "runtime-min/mi_engine.h"

typedef struct {
  const char *cpu;  /* a target's name; NULL: the C printer, through libtcc */
  uint32_t prefill; /* tokens in a tile */
  uint32_t context;
  unsigned threads;
} InOptions;

typedef struct {
  Model *model;
  Jit jit;
  MiImage *image;
  uint64_t image_bytes;
  MiEngine engine;
  bool open;
  int decode, prefill;
  uint32_t n_vocab;
} InProgram;

/* False, and a failed check, if it cannot be made; close it in any case. */
bool in_open(InProgram *p, const char *model, const InOptions *o);
void in_close(InProgram *p);

/* Starts anew. Feeds the first `tiled` tokens through prefill in tiles (the last one may be shorter), the
 * rest through decode. `rows` gets the logits of the last n_rows tokens, which must be decoded ones. */
bool in_feed(InProgram *p, const int32_t *tokens, uint32_t n, uint32_t tiled, float *rows, uint32_t n_rows);

#endif
