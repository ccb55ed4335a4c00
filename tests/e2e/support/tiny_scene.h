/* tiny_scene.h - a folder with tests/data/tiny.onnx and its inputs in it, for tests that use micc as a user would. */
#ifndef MICC_TEST_TINY_SCENE_H
#define MICC_TEST_TINY_SCENE_H

#include "runtime-min/mi_array.h"
#include "tests/e2e/support/onnx_tiny.h"
#include "tests/e2e/support/proc.h"
#include "tests/e2e/support/scene.h"
#include "tests/e2e/support/tally.h"

typedef struct {
  Arena arena;
  const char *dir;
  TinyIn in;
  TinyOut want; /* of `in` */
} TinyScene;
extern TinyScene tiny;

/* tiny.onnx, image.npy, class.npy and inputs.raw. False, and a failed check: the file in the tree is another one than
 * onnx_tiny.c makes. tiny_close() ends the test; its exit status. */
bool tiny_open(void);
int tiny_close(void);

/* A command there. */
#define TINY_RUN(...) proc(&tiny.arena, HOW(.dir = tiny.dir), __VA_ARGS__)

const char *tiny_at(const char *name); /* its path */
void tiny_show(const Proc *p);         /* behind a failed check */
bool tiny_succeeds(const Proc *p, const char *what);
bool tiny_has(const char *tool); /* else "skipped: ..." */

/* dims: "1,2,8,8". What the file is shows in its name. */
void tiny_write(const char *name, MiElem elem, const void *data, const char *dims);
bool tiny_read(const char *name, MiElem elem, void *data, const char *dims);

/* The four outputs of a program in a folder are what they must be. */
bool tiny_folder_agrees(const char *folder);

#endif
