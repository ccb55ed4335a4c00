/* mi_options.h - the command line of a compiled program. */
#ifndef MI_OPTIONS_H
#define MI_OPTIONS_H

#include "mi_out.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct {
  const char *prompt, *file, *token_ids, *logits; /* NULL: not given */
  int64_t n_predict;                              /* -1: until the end */
  int64_t threads;                                /* 0: as many as physical cores */
  int64_t top_k, repeat_last_n;
  int64_t seed; /* -1: a random one */
  double temp, top_p, min_p, repeat_penalty;
  bool ignore_eos, json, about, profile, help, version;
} MiOptions;

/* Reads argv[1..argc). False: `why` gets one line. */
bool mi_options_parse(MiOptions *o, int argc, char **argv, MiOut *why);

/* `name` is the program's. */
void mi_options_help(MiOut *out, const char *name);

#endif
