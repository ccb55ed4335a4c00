/* mi_limits.h - what this machine does at most, for a profile to compare with. */
#ifndef MI_LIMITS_H
#define MI_LIMITS_H

#include "mi_engine.h"

typedef struct {
  double read_gbs; /* bytes in a nanosecond; 0: not known */
  double gops;     /* operations in a nanosecond; 0: not known */
} MiLimits;

/* Reads the weights with all threads of the engine, three times. The peak of arithmetic depends on instructions that
 * plain C cannot ask for: it is what the environment variable MICC_PEAK_GOPS says. */
MiLimits mi_limits_find(const MiEngine *e);

#endif
