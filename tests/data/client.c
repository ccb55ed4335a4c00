/* client.c - a C99 program that links the library of tests/data/tiny.onnx: what e2e_onnx_package compiles in many ways.
 *
 *   client INPUTS OUTPUTS [again]      raw bytes: TinyIn and TinyOut of tests/e2e/support/onnx_tiny.h, without padding
 *
 * Inputs and outputs lie at odd addresses, in blocks of exactly their size, the arena too: a sanitizer sees what is touched
 * outside. With SECOND, a second model (the same one, under another name) is linked in as well. */
#define _POSIX_C_SOURCE 200112L
#include "tiny.h"
#ifdef SECOND
#include "second.h"
#endif

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  IMAGE = 2 * 8 * 8 * 4,
  CLASS = 4 * 4,
  SCORES = 5 * 4,
  BEST = 8,
  INT = 64,
  LEVEL = 64 * 4,
  THREADS = 4,
  RUNS = 50
};
static const size_t sizes[] = {IMAGE, CLASS, SCORES, BEST, INT, LEVEL};
static unsigned char inputs[IMAGE + CLASS];

typedef struct {
  char *block[6], *part[6]; /* part: one byte behind the block's begin */
  void *arena;
  tiny_context c;
} Room;

static void wrong(const char *what)
{
  fprintf(stderr, "client: %s\n", what);
  exit(1);
}

static void open_room(Room *r, int fill)
{
  memset(r, 0, sizeof *r);
  for (int i = 0; i < 6; i++) {
    r->block[i] = malloc(sizes[i] + 1);
    r->part[i] = r->block[i] + 1;
    memset(r->block[i], fill, sizes[i] + 1);
  }
  if (posix_memalign(&r->arena, 64, TINY_ARENA_BYTES))
    wrong("no memory");
  memset(r->arena, fill, TINY_ARENA_BYTES);
  memcpy(r->part[0], inputs, IMAGE);
  memcpy(r->part[1], inputs + IMAGE, CLASS);
  r->c.arena = r->arena;
  r->c.image_0 = (const void *)r->part[0];
  r->c.class_ = (const void *)r->part[1];
  r->c.scores_a = (void *)r->part[2];
  r->c.scores_a_2 = (void *)r->part[3];
  r->c.int_ = (void *)r->part[4];
  r->c.level = (void *)r->part[5];
}

static void close_room(Room *r)
{
  for (int i = 0; i < 6; i++)
    free(r->block[i]);
  free(r->arena);
}

static int same_outputs(const Room *a, const Room *b)
{
  int same = 1;

  for (int i = 2; i < 6; i++)
    same = same && !memcmp(a->part[i], b->part[i], sizes[i]);
  return same;
}

static void *thread(void *want)
{
  Room r;
  long bad = 0;

  for (int i = 0; i < RUNS; i++) {
    open_room(&r, i);
    bad += tiny_run(&r.c) != 0 || !same_outputs(&r, want);
    close_room(&r);
  }
  return (void *)bad;
}

static void run_threads(Room *want)
{
  pthread_t t[THREADS];
  void *bad;

  for (int i = 0; i < THREADS; i++)
    if (pthread_create(&t[i], NULL, thread, want))
      wrong("no thread");
  for (int i = 0; i < THREADS; i++)
    if (pthread_join(t[i], &bad) || bad)
      wrong("a thread computed something else");
}

/* A call that is refused leaves everything as it was. */
static void check_refusals(Room *r)
{
  Room before;
  tiny_context c = r->c;

  open_room(&before, 0x55);
  if (tiny_run(NULL) != -1)
    wrong("NULL is taken");
  c.arena = (char *)c.arena + 8;
  if (tiny_run(&c) != -1)
    wrong("an arena that is not aligned is taken");
  c = r->c;
  c.level = NULL;
  if (tiny_run(&c) != -1)
    wrong("an output that is NULL is taken");
  c = r->c;
  c.class_ = NULL;
  if (tiny_run(&c) != -1)
    wrong("an input that is NULL is taken");
  if (!same_outputs(r, &before))
    wrong("a call that is refused writes");
  close_room(&before);
}

#ifdef SECOND
static void run_second(const Room *want)
{
  Room r;
  second_context c;

  open_room(&r, 0);
  c.arena = r.arena;
  if (SECOND_ARENA_BYTES > TINY_ARENA_BYTES)
    wrong("the second model's arena is larger");
  c.image_0 = r.c.image_0;
  c.class_ = r.c.class_;
  c.scores_a = r.c.scores_a;
  c.scores_a_2 = r.c.scores_a_2;
  c.int_ = r.c.int_;
  c.level = r.c.level;
  if (second_run(&c) || !same_outputs(&r, want))
    wrong("the second model computes something else");
  close_room(&r);
}
#endif

int main(int argc, char **argv)
{
  FILE *f = argc > 2 ? fopen(argv[1], "rb") : NULL;
  Room r;

  if (!f || fread(inputs, 1, sizeof inputs, f) != sizeof inputs)
    wrong("cannot read the inputs");
  fclose(f);
  open_room(&r, 0x55);
  check_refusals(&r);
  if (tiny_run(&r.c))
    wrong("it does not run");
  if (memcmp(r.part[0], inputs, IMAGE) || memcmp(r.part[1], inputs + IMAGE, CLASS))
    wrong("an input was changed");
  run_threads(&r);
#ifdef SECOND
  run_second(&r);
#endif
  f = fopen(argv[2], "wb");
  for (int i = 2; f && i < 6; i++)
    fwrite(r.part[i], 1, sizes[i], f);
  if (!f || fclose(f))
    wrong("cannot write the outputs");
  close_room(&r);
  return 0;
}
