/* dot.h - integer products of codes (u8) and 8-bit activations, summed over groups of four columns.
 *
 * Which product: dot4 where the target has it. Else pairs into 16 bits, added in 16 bits for as many groups as the
 * range of the codes proves safe, then widened. Codes of 8 bits allow not even one such pair: they are split in even
 * and odd bytes, multiplied as 16 bits into 32. */
#ifndef MICC_DOT_H
#define MICC_DOT_H

#include "passes/lower/lower.h"

typedef enum { DOT4, DOT2, DOT2W } DotKind;

typedef struct {
  DotKind kind;
  int safe; /* DOT2: groups that may be added in 16 bits */
} DotPlan;

/* A sum under way. Start with sum32 = 0, or what to add to, unless the plan is DOT2. */
typedef struct {
  KVal sum32, sum16;
  int in16;
} Dot;

DotPlan lower_dot_plan(const Target *t, DType codes);

/* Adds the products of one group. code: u8, x: i8, four for each lane of the sum. */
void lower_dot_group(Lower *l, DotPlan plan, Dot *d, KVal code, KVal x);

/* Widens what is in 16 bits, if there is something, and adds it. */
void lower_dot_flush(Lower *l, Dot *d);

/* The sum, i32. `correct` (0: none) is what a DOT2 sum could not start with. */
KVal lower_dot_done(Lower *l, DotPlan plan, Dot *d, KVal correct);

#endif
