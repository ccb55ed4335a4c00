/* passes.h - the passes in the order of the pipeline (pipeline.c), one file each. */
#ifndef MICC_PASSES_H
#define MICC_PASSES_H

#include "codegen/target.h"
#include "ir/program.h"

enum { MAX_TARGETS = 8 };

typedef struct {
  const Target *const *targets;
  unsigned n_targets;
  bool whole_head;         /* large heads are not cut in planes (lower/planes.h) */
  bool threads;            /* several may run it: a little memory for fewer cache lines that change cores */
  const char *print_after; /* name of a pass, or NULL; "all" */
  bool time_passes;
  Text *log; /* where --print-after and --time-passes write */
} PassOptions;

/* Graph to graph; each returns the new graph (the old one stays as it was). */
Graph *pass_widen(const Graph *g, Err *e); /* dense graphs: 16-bit floats are computed in f32 */
Graph *pass_qdq(const Graph *g, Err *e);   /* dense graphs: quantised values stay 8-bit integers */
Graph *pass_simplify(const Graph *g,
                     Err *e);            /* rewrite rules, folding of constants, sharing of equal nodes */
Graph *pass_dce(const Graph *g, Err *e); /* drops what no output and no state update needs */
Graph *pass_attention(const Graph *g, Err *e); /* dense graphs: softmax(q k') v is one op */
Graph *pass_channels(const Graph *g, Err *e);  /* dense graphs: transposes cancel, channels stay last */
Graph *pass_products(const Graph *g, Err *e); /* dense graphs: constants merge into the weights of products */
Graph *pass_requant(const Graph *g,
                    Err *e); /* dense graphs: one scale between a product of bytes and its codes */
Graph *pass_quantize(const Graph *g, Err *e); /* 8-bit activations for products with block weights */
Graph *pass_fuse(const Graph *g, Err *e);     /* groups nodes into launches (Node.launch) */

/* Graphs to program (passes/lower). Ops without a lowering are reported all at once. */
bool pass_lower(const Module *m, const Target *target, const PassOptions *o, Program **out, Err *e);

/* Kernel to kernel: rewrites what the target lacks (fma, 16-bit floats). */
Kernel *pass_legalize(Arena *a, const Kernel *k, const Target *target);

/* The whole pipeline, with verification after every pass: a program for each target. */
bool passes_run(Module *m, const PassOptions *opt, Program **out, Err *e);
const char *passes_list(void); /* names, for --help and errors */

#endif
