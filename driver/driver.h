/* driver.h - the commands of `micc`. Each returns the exit status: 0; 1: it failed (a line on standard
 * error); 2: it was used wrongly. */
#ifndef MICC_DRIVER_H
#define MICC_DRIVER_H

#include "codegen/image.h"
#include "codegen/library.h"
#include "frontend/arch/arch.h"
#include "frontend/onnx/import.h"
#include "passes/passes.h"

typedef enum {
#define EMIT(id, name, ending, meaning) EMIT_##id,
#include "driver/emit.def"
#undef EMIT
  EMIT_COUNT
} Emit;

enum { MAX_GIVEN = 64 };

typedef struct {
  const char *model, *output, *cpu, *print_after;
  Emit emit;
  int opt_level;
  uint32_t context, prefill_tokens; /* 0: the default */
  int kv;                           /* type of the KV cache; -1: by the model */
  bool emit_given, time_passes, verbose, tcc, oracle, whole_head;
  OnnxShape shapes[MAX_GIVEN]; /* --shape */
  OnnxFix fixes[MAX_GIVEN];    /* --fix */
  uint32_t n_shapes, n_fixes;
  Arena texts; /* of these */
} Options;

/* A model on its way to a program. */
typedef struct {
  const Options *opt;
  Arena *arena;    /* of all that is made; the model's, or `own` */
  Model *model;    /* GGUF, or NULL */
  OnnxModel *onnx; /* or NULL */
  Arena own;
  bool is_onnx;
  const char *path, *about;
  const Library *library; /* while one is written */
  Module *module;
  ArchInfo info;
  const Target *targets[MAX_TARGETS]; /* levels, rising */
  unsigned n_targets;
  Program *programs[MAX_TARGETS]; /* one for each */
  const Kernel **kernels;         /* of all programs, in the image's numbering */
  const Target **kernel_targets;
  uint32_t n_kernels;
  Image image;
  const uint8_t *tokenizer;
  uint64_t tokenizer_bytes;
  Text log; /* of --print-after and --time-passes */
} Compile;

/* Finds the target and reads the model; compile_build() runs all passes and builds the image's head.
 * compile_close() in any case. */
bool compile_open(Compile *c, const Options *opt, Err *e);
bool compile_build(Compile *c, Err *e);
void compile_close(Compile *c);

/* compile_onnx.c: the parts of these that are ONNX's. */
bool compile_is_onnx(const char *path); /* also false for what cannot be read */
bool compile_onnx_open(Compile *c, Err *e);
bool compile_onnx_module(Compile *c, Err *e);
/* The first input of one whole number that is not fixed, in a model with branches; else NULL. */
const char *compile_onnx_switch(const OnnxModel *m, const OnnxFix *fixes, uint32_t n_fixes);
const char *compile_onnx_about(const Compile *c, Text *t);
const char *compile_one_line(Arena *a, const char *s, size_t n); /* without control characters */
void compile_add_target(const Compile *c, Text *t);

int cmd_compile(const Options *opt);

/* An element agrees if its error is at most `absolute`, or `relative` times what it must be; 8-bit integers may be
 * `steps` apart, others must be equal. */
typedef struct {
  const char *dir;
  double relative, absolute, steps;
} VerifyOptions;
int cmd_verify(const Options *opt, const VerifyOptions *v);
int cmd_run(const Options *opt, int argc, char **argv); /* argv: the program's own, [0] its name */
int cmd_oracle(const Options *opt, int argc, char **argv);

#endif
