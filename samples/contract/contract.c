/* contract.c - the contract between compiled code and the runtime, by hand: runtime-min/mi_image.h.
 *
 * A program is kernels and an image. Here both are written by hand, for a "model" that counts: its
 * vocabulary is the numbers 0..15, and after token t its best next token is t + 1. What it computes:
 *
 *   prefill   embed    x[t] = table[tokens[t]]        for each token of the call
 *             keep     state[pos + t] = x[t]
 *   decode    embed    as above, one token
 *             head     two grids in one launch: logits[v] = 1 - (table[v] - x - 1)^2,  and keep
 *
 *   cc -std=gnu11 contract.c ../../runtime-min/mi_*.c -lpthread -lm -o count
 *   ./count --token-ids 3,4 -n 5 --temp 0      prints 5 6 7 8 9 */
#include "../../runtime-min/mi_main.h"

#include <stddef.h>
#include <string.h>

enum { VOCAB = 16, CONTEXT = 12, TILE = 4, N_KERNELS = 3 };

/* ---- the kernels: iterations lo..hi of a grid, over the buffers that the binds name, in their order */

/* table, tokens, x; an iteration is a token */
static void embed(uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi)
{
  const float *table = (const float *)(const void *)buf[0];
  const int32_t *tokens = (const int32_t *)(const void *)buf[1];
  float *x = (float *)(void *)buf[2];

  (void)args;
  for (int64_t t = lo; t < hi; t++)
    x[t] = table[tokens[t]];
}

/* x, state; an iteration is a token */
static void keep(uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi)
{
  const float *x = (const float *)(const void *)buf[0];
  float *state = (float *)(void *)buf[1];

  for (int64_t t = lo; t < hi; t++)
    state[args[0] + t] = x[t];
}

/* table, x, logits, scratch; an iteration is a row of the table */
static void head(uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi)
{
  const float *table = (const float *)(const void *)buf[0], *x = (const float *)(const void *)buf[1];
  float *logits = (float *)(void *)buf[2], *difference = (float *)(void *)buf[3];

  (void)args;
  for (int64_t v = lo; v < hi; v++) {
    *difference = table[v] - *x - 1;
    logits[v] = 1 - *difference * *difference;
  }
}

MiKernel *const mi_kernels[N_KERNELS] = {embed, keep, head};

/* ---- the image: the header first, everything else where its offsets say */

typedef struct {
  MiImage header;
  MiEntry entries[2];
  MiPart parts[5];
  MiGrid grids[5];
  MiPlace places[6];
  MiBind binds[9];
  char about[32];
  char names[24];
  _Alignas(MI_PAGE) float table[VOCAB];
} Image;

#define AT(member) offsetof(Image, member)

/* Places in the arena. A buffer begins at a multiple of MI_ALIGN. */
enum { TOKENS = 0, X = MI_ALIGN, LOGITS = 2 * MI_ALIGN, ARENA_BYTES = LOGITS + VOCAB * 4 };

static const Image image = {
    .header = {.magic = {'m', 'i', 'c', 'c', ' ', 'i', 'm', 'g'},
               .version = MI_VERSION,
               .header_bytes = sizeof(MiImage),
               .image_bytes = sizeof(Image),
               .n_kernels = N_KERNELS,
               .n_entries = 2,
               .n_parts = 5,
               .n_grids = 5,
               .n_places = 6,
               .n_binds = 9,
               .n_vocab = VOCAB,
               .context = CONTEXT,
               .entries = AT(entries),
               .parts = AT(parts),
               .grids = AT(grids),
               .places = AT(places),
               .binds = AT(binds),
               .names = AT(names),
               .names_bytes = sizeof((Image *)0)->names,
               .arena_bytes = ARENA_BYTES,
               .state_bytes = CONTEXT * 4,
               .scratch_bytes = MI_ALIGN,
               .tokens_at = TOKENS,
               .logits_at = LOGITS,
               .about = AT(about),
               .about_bytes = 25,
               .weights = AT(table),
               .weights_bytes = VOCAB * 4},
    .entries = {{.name = "prefill", .first_part = 0, .n_parts = 2, .n_grids = 2, .tokens = TILE},
                {.name = "decode",
                 .first_part = 2,
                 .n_parts = 3,
                 .first_grid = 2,
                 .n_grids = 3,
                 .tokens = 1,
                 .has_logits = 1}},
    .parts = {{.grid = 0, .first_bind = 0, .name = 0, .last = 1}, /* embed */
              {.grid = 1, .first_bind = 7, .name = 6, .last = 1}, /* keep */
              {.grid = 0, .first_bind = 0, .name = 0, .last = 1}, /* embed */
              {.grid = 1, .first_bind = 3, .name = 11},           /* head, keep */
              {.grid = 2, .first_bind = 7, .name = 11, .last = 1}},
    .grids = {{.kernel = 0, .grid = 1, .times = MI_PER_TOKEN, .n_binds = 3},
              {.kernel = 1, .grid = 1, .times = MI_PER_TOKEN, .n_binds = 2},
              {.kernel = 0, .grid = 1, .n_binds = 3},
              {.kernel = 2, .grid = VOCAB, .n_binds = 4, .bytes = VOCAB * 4, .ops = VOCAB},
              {.kernel = 1, .grid = 1, .n_binds = 2}},
    .places = {MI_PLACE(MI_SPACE_WEIGHTS, 0), MI_PLACE(MI_SPACE_ARENA, TOKENS), MI_PLACE(MI_SPACE_ARENA, X),
               MI_PLACE(MI_SPACE_ARENA, LOGITS), MI_PLACE(MI_SPACE_SCRATCH, 0), MI_PLACE(MI_SPACE_STATE, 0)},
    .binds = {0, 1, 2,    /* embed: table, tokens, x */
              0, 2, 3, 4, /* head: table, x, logits, scratch */
              2, 5},      /* keep: x, state */
    .about = "model: a counter by hand\n",
    .names = "embed\0keep\0head, keep",
    .table = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
};

#ifndef CONTRACT_NO_MAIN
int main(int argc, char **argv)
{
  return mi_main(&image.header, mi_kernels, argc, argv);
}
#endif
