/* driver.h - the commands of `micc`. Each returns the exit status: 0; 1: it failed (a line on standard
 * error); 2: it was used wrongly. */
#ifndef MICC_DRIVER_H
#define MICC_DRIVER_H

#include "codegen/image.h"
#include "frontend/arch/arch.h"
#include "passes/passes.h"

typedef enum {
#define EMIT(id, name, ending, meaning) EMIT_##id,
#include "driver/emit.def"
#undef EMIT
  EMIT_COUNT
} Emit;

typedef struct {
  const char *model, *output, *cpu, *print_after;
  Emit emit;
  int opt_level;
  uint32_t context, prefill_tokens; /* 0: the default */
  int kv;                           /* type of the KV cache; -1: by the model */
  bool emit_given, time_passes, verbose, tcc, oracle, whole_head;
} Options;

/* A model on its way to a program. */
typedef struct {
  const Options *opt;
  Model *model;
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

int cmd_compile(const Options *opt);
int cmd_run(const Options *opt, int argc, char **argv); /* argv: the program's own, [0] its name */
int cmd_oracle(const Options *opt, int argc, char **argv);

#endif
