/* tiny_scene.c - see tiny_scene.h */
#define _GNU_SOURCE
#include "tests/e2e/support/tiny_scene.h"

#include <stdlib.h>

TinyScene tiny;

const char *tiny_at(const char *name)
{
  return arena_printf(&tiny.arena, "%s/%s", tiny.dir, name);
}

void tiny_show(const Proc *p)
{
  tally_note("exit status %d; printed '%.300s'; said '%.600s'", p->status, p->out, p->err);
}

bool tiny_succeeds(const Proc *p, const char *what)
{
  bool ok = tally(!p->status && !p->err_len, "%s", what);

  if (!ok)
    tiny_show(p);
  return ok;
}

bool tiny_has(const char *tool)
{
  Proc p = TINY_RUN(tool, "--version");

  if (p.status)
    p = TINY_RUN(tool, "-v"); /* tcc */
  if (p.status)
    tally_skip("%s is not here", tool);
  return !p.status;
}

/* ---- arrays */

static MiArray array(MiElem elem, const void *data, const char *dims)
{
  MiArray a = {.elem = elem, .count = 1, .data = (void *)(uintptr_t)data};

  for (char *end; *dims; dims = *end ? end + 1 : end)
    a.count *= a.dim[a.rank++] = strtoull(dims, &end, 10);
  return a;
}

void tiny_write(const char *name, MiElem elem, const void *data, const char *dims)
{
  char line[256];
  MiOut why = {.buf = line, .cap = sizeof line, .fd = -1};
  MiArray a = array(elem, data, dims);

  if (!mi_array_write(tiny_at(name), mi_array_kind(name), &a, &why))
    tally(false, "%s", mi_out_string(&why));
}

bool tiny_read(const char *name, MiElem elem, void *data, const char *dims)
{
  char line[256];
  MiOut why = {.buf = line, .cap = sizeof line, .fd = -1};
  MiArray a = array(elem, data, dims);
  bool ok = mi_array_read(tiny_at(name), &a, &why);

  if (!ok)
    tally_note("%s", mi_out_string(&why));
  return ok;
}

/* All four outputs from a folder: as they are named there. */
bool tiny_folder_agrees(const char *folder)
{
  TinyOut got;

  return tiny_read(arena_printf(&tiny.arena, "%s/scores_a.npy", folder), MI_ELEM_F32, got.scores, "1,5") &&
         tiny_read(arena_printf(&tiny.arena, "%s/scores_a_3.npy", folder), MI_ELEM_I64, &got.best, "1") &&
         tiny_read(arena_printf(&tiny.arena, "%s/int.npy", folder), MI_ELEM_U8, got.quantised, "1,4,4,4") &&
         tiny_read(arena_printf(&tiny.arena, "%s/level.npy", folder), MI_ELEM_F32, got.level, "1,4,4,4") &&
         tiny_agrees(&got, &tiny.want);
}

/* ---- the folder */

bool tiny_open(void)
{
  Text t = {.arena = &tiny.arena}, raw = {.arena = &tiny.arena};
  Bytes b;

  tiny.dir = scene_open(&tiny.arena);
  tiny_inputs(7, &tiny.in);
  tiny_outputs(&tiny.in, &tiny.want);
  tiny_model(&t);
  bool same = scene_read(&tiny.arena, TINY_PATH, &b) && b.len == t.len && !memcmp(b.data, t.data, t.len);
  tally(same, "tests/data/tiny.onnx is what onnx_tiny.c makes (e2e_onnx_package --write), %zu bytes", t.len);
  text_add(&raw, (const char *)tiny.in.image, sizeof tiny.in.image);
  text_add(&raw, (const char *)tiny.in.class, sizeof tiny.in.class);
  scene_write(tiny_at("inputs.raw"), raw.data, raw.len, 0644);
  tiny_write("image.npy", MI_ELEM_F32, tiny.in.image, "1,2,8,8");
  tiny_write("class.npy", MI_ELEM_F32, tiny.in.class, "4,1,1");
  return same && scene_write(tiny_at("tiny.onnx"), t.data, t.len, 0644);
}

int tiny_close(void)
{
  scene_close(tiny.dir);
  arena_free(&tiny.arena);
  return tally_end();
}
