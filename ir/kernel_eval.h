/* kernel_eval.h - shared by the two files of the kernel interpreter: an instruction, and how its function is found. */
#ifndef MICC_KERNEL_EVAL_H
#define MICC_KERNEL_EVAL_H

#include "ir/kernel.h"

typedef struct Ins Ins;
typedef const char *Run(const Ins *x); /* NULL, or what went wrong */

typedef struct {
  uint8_t *to;
  const uint8_t *from;
  uint32_t bytes;
} Move;

struct Ins {
  Run *run; /* NULL: structure and memory, done by the walk */
  void *out;
  const void *in[3];
  uint8_t op;
  uint8_t lanes; /* of the result */
  uint8_t src_lanes;
  bool is_bool; /* load */
  uint16_t buf;
  uint32_t bytes;  /* of the value that is moved, loaded or stored */
  uint32_t target; /* loop: behind its end; end: its loop; if, else: where to go on */
  uint32_t n_moves;
  const Move *moves; /* loop: first values of its carries; end: the next ones */
  int64_t imm;
  const uint32_t *lane; /* shuffle */
  KVal node;
};

/* The function of an op that gives `type` of a first input `in`; NULL for structure and memory. */
Run *kernel_run(KOp op, KType type, KType in);

/* Writes one integer's low bits as an element. */
void kernel_put_int(KElem e, void *out, int64_t i);

#endif
