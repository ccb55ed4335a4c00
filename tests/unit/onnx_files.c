/* onnx_files.c - the ONNX reader on files: external data, single tensors, what is no model, and all real files at hand. */
#include "tests/unit/support/files.h"
#include "tests/unit/support/onnx_case.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

Test(onnx_files, external)
{
  char dir[] = "/tmp/micc-onnx-XXXXXX", path[64], other[64], data[64], link_path[64];
  Arena a = {0};
  static const float numbers[] = {0, 1.5F, -2, 4};

  cr_assert(mkdtemp(dir));
  snprintf(path, sizeof path, "%s/m.onnx", dir);
  snprintf(other, sizeof other, "%s/n.onnx", dir);
  snprintf(data, sizeof data, "%s/data.bin", dir);
  snprintf(link_path, sizeof link_path, "%s/link", dir);
  file_write(data, numbers, sizeof numbers);
  onnx_case_write(
      path,
      ONNX_MODEL("5{ 8'w' 1:2 2:1 13{ 1'location' 2'data.bin' } 13{ 1'offset' 2'4' } 14:1 } "
                 "5{ 8'odd' 1:6 2:3 13{ 1'location' 2'./data.bin' } 13{ 1'offset' 2'1' } 14:1 } "
                 "5{ 8'long' 1:4 2:1 13{ 1'location' 2'data.bin' } 13{ 1'offset' 2'4' } 14:1 } "
                 "5{ 8'far' 1:4 2:1 13{ 1'location' 2'data.bin' } 13{ 1'offset' 2'999999999999' } 14:1 } "
                 "5{ 8'link' 1:4 2:1 13{ 1'location' 2'link' } 14:1 } "
                 "5{ 8'folder' 1:4 2:1 13{ 1'location' 2'.' } 14:1 } "
                 "5{ 8'none' 1:0 2:1 13{ 1'location' 2'nowhere' } 14:1 }"));
  cr_assert(!symlink("/etc/passwd", link_path));
  OnnxCase c = {0};
  cr_assert(onnx_read(path, &c.arena, &c.m, &c.e), "%s", c.e.text);
  cr_expect_str_eq(onnx_case_value(&c, "w"), "f32[2] 1.5 -2");
  cr_expect(!strncmp(onnx_case_value(&c, "odd"), "i8[6] 0 0 0 0 0 -64", 19), "%s",
            onnx_case_value(&c, "odd"));
  cr_expect(strstr(onnx_case_value(&c, "long"), "tensor 'long': 16 bytes at 0x4 of '"), "%s",
            onnx_case_value(&c, "long"));
  cr_expect(strstr(onnx_case_value(&c, "far"), "16 bytes at 0xe8d4a50fff of '"), "%s",
            onnx_case_value(&c, "far"));
  cr_expect(strstr(onnx_case_value(&c, "link"), ", which leads out of the model's folder"), "%s",
            onnx_case_value(&c, "link"));
  cr_expect(strstr(onnx_case_value(&c, "folder"), "/.', which leads out of the model's folder"), "%s",
            onnx_case_value(&c, "folder"));
  cr_expect_str_eq(onnx_case_value(&c, "none"), "f32[0]");
  onnx_case_close(&c);
  unlink(link_path);

  /* A model that is a link itself, beside which nothing lies. */
  char away[] = "/tmp/micc-onnx-XXXXXX";
  cr_assert(mkdtemp(away));
  snprintf(link_path, sizeof link_path, "%s/m.onnx", away);
  snprintf(other, sizeof other, "%s/data.bin", away);
  cr_assert(!symlink(path, link_path) && !symlink(data, other));
  c = (OnnxCase){0};
  cr_assert(onnx_read(link_path, &c.arena, &c.m, &c.e), "%s", c.e.text);
  cr_expect_str_eq(onnx_case_value(&c, "w"), "f32[2] 1.5 -2");
  onnx_case_close(&c);
  const char *made[] = {link_path, other, path, data};
  for (size_t i = 0; i < COUNT(made); i++)
    unlink(made[i]);
  rmdir(away);
  rmdir(dir);
  arena_free(&a);
}

Test(onnx_files, tensor_file)
{
  char path[] = "/tmp/micc-onnx-XXXXXX";
  Arena a = {0};
  OnnxTensor *t;
  Tensor v;
  Err e = {0};

  close(mkstemp(path));
  onnx_case_write(path, "1[2 1] 2:1 8'x' 9x0000c03f000000c0");
  cr_assert(onnx_read_tensor(path, &a, &t, &e) && onnx_tensor_value(t, &a, &v, &e), "%s", e.text);
  cr_expect_str_eq(onnx_case_shown(&v, &a), "f32[2,1] 1.5 -2");
  cr_expect_str_eq(t->name, "x");
  onnx_case_write(path, "1:-2 2:1");
  cr_expect(!onnx_read_tensor(path, &a, &t, &e) && onnx_error_is_line(&e, path), "%s", e.text);
  e = (Err){0};
  unlink(path);
  cr_expect(!onnx_read_tensor(path, &a, &t, &e) && strstr(e.text, "cannot be opened"));
  arena_free(&a);
}

Test(onnx_files, probe)
{
  static const struct {
    const char *bytes;
    bool is_model;
  } cases[] = {
      {"1:8 7{ }", true},
      {"7{ } 1:8", true},
      {"1:8 8{ 2:13 } !3a05", true},
      {"", false},
      {"1:8", false},
      {"7{ }", false},
      {"1:0 7{ }", false},
      {"1:8 7{ } 99:1", false},
      {"1:8 20{ } 7{ } 26{ }", true},
      {"1:8 7:1", false},
      {"1'x' 7{ }", false},
      {"!3a05", false},
      {"!47475546030000000000", false},
      {"!1c00000054464c33", false},
  };
  for (size_t i = 0; i < COUNT(cases); i++) {
    Arena a = {0};
    Text t = {.arena = &a};
    onnx_text(&t, cases[i].bytes);
    uint8_t *copy = exact_copy(t.data, t.len);
    cr_expect(onnx_probe(copy, t.len) == cases[i].is_model, "%s", cases[i].bytes);
    free(copy);
    arena_free(&a);
  }
}

/* ---- real files */

typedef struct {
  int models, tensors;
  uint64_t values, refused;
} Real;

static void read_model(const char *path, Real *r)
{
  OnnxCase c = {0};

  cr_assert(onnx_read(path, &c.arena, &c.m, &c.e), "%s", c.e.text);
  cr_expect(onnx_probe(c.m->file->data, c.m->file->bytes), "%s", path);
  OnnxTouch t = onnx_touch(c.m);
  r->models++;
  r->values += t.values;
  r->refused += t.refused;
  onnx_case_close(&c);
}

/* The .pb files of test suites are tensors, but for inputs and outputs that are sequences or optionals. */
static void read_tensor(const char *path, Real *r)
{
  Arena a = {0};
  OnnxTensor *t;
  Err e = {0};
  OnnxTouch touch = {0};

  if (onnx_read_tensor(path, &a, &t, &e))
    onnx_touch_tensor(&touch, t);
  r->tensors++;
  r->refused += touch.refused;
  arena_free(&a);
}

static bool ends_with(const char *s, const char *end)
{
  size_t n = strlen(s), k = strlen(end);
  return n > k && !strcmp(s + n - k, end);
}

static void read_folder(const char *dir, Real *r)
{
  DIR *d = opendir(dir);

  for (struct dirent *f; d && (f = readdir(d));) {
    char path[2048];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, f->d_name);
    if (f->d_name[0] == '.' || stat(path, &st))
      continue;
    if (S_ISDIR(st.st_mode))
      read_folder(path, r);
    else if (ends_with(path, ".onnx"))
      read_model(path, r);
    else if (ends_with(path, ".pb"))
      read_tensor(path, r);
  }
  if (d)
    closedir(d);
}

Test(onnx_files, real_files)
{
  Real r = {0};

  if (access(MICC_SHARED_DIR, R_OK)) {
    printf("skipped: the real files, no folder " MICC_SHARED_DIR "\n");
    return;
  }
  read_folder(MICC_SHARED_DIR "/models", &r);
  read_folder(MICC_SHARED_DIR "/suites/onnx-backend-tests", &r);
  printf("%d real models and %d files of tensors are read; %lu tensors in models, %lu have no value\n",
         r.models, r.tensors, (unsigned long)r.values, (unsigned long)r.refused);
  cr_expect(r.models > 1900 && r.tensors > 6000);
}
