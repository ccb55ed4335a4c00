/* target.h - where compiled programs run, as rows of target.def. */
#ifndef MICC_TARGET_H
#define MICC_TARGET_H

#include "ir/base.h"

typedef struct {
  const char *name, *alias;   /* alias: another name, NULL if none */
  const char *triple;         /* of objects; NULL: C source, for any machine */
  const char *cpu, *features; /* for LLVM */
  bool (*runs_here)(void);    /* whether this machine can run the row's code */
  uint32_t needs;             /* MI_CPU_* of runtime-min/mi_image.h: what a program checks when it starts */
  uint32_t vector_bytes;      /* of a vector register */
  uint32_t registers;         /* how many vector registers */
  bool fma;                   /* K_fma is one instruction; elsewhere pass_legalize() rewrites it */
  bool f16c;       /* casts f16 <-> f32 are one instruction; elsewhere pass_legalize() rewrites them */
  bool dot4, dot2; /* the op is one instruction; it works, slower, elsewhere */
  bool loops;      /* ops are printed as loops over lanes: prefer dot4, whatever `dot4` says */
  uint32_t l1_bytes, l2_bytes; /* of a core */
  uint32_t ahead_bytes;        /* from what is read of streamed weights to what is prefetched */
} Target;

extern const Target target_table[];
extern const unsigned target_count;

/* By name or alias; `native` is target_host(). An unknown name fails with the list of the known. */
const Target *target_find(const char *cpu, Err *e);

/* A list of CPU names: rows in rising order, one target triple. At most `max`; returns how many, 0 on failure. */
unsigned target_list(const char *cpus, const Target **out, unsigned max, Err *e);

/* The best row that this machine fulfils (so that what is made for it is a named row's bytes). */
const Target *target_host(void);

#endif
