/* package.c - the executable: kernels linked with musl and the runtime by ld.lld, then the image laid behind
 * the code.
 *
 * The runtime reserves one page in section .mi_image, which the linker puts at a high address of its own,
 * last in the file. Its load segment is then stretched over the real image, which is written in the page's
 * place: the system maps weights straight from the program's file, however large, and nothing is read before
 * it is used. Source: System V ABI, ELF-64 object file format. */
#include "codegen/package.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

/* Added to the linker's own layout: left to itself, it puts read-only sections before the code. */
static const char layout_script[] =
    "SECTIONS { .mi_image 0x%llx : { KEEP(*(.mi_image)) } } INSERT AFTER .bss;\n";
static const uint64_t image_address = 0x1000000000; /* 64 GiB: far above code and data */

/* ---- files that appear whole or not at all */

enum { MAX_TEMPS = 8 };
static char *volatile temps[MAX_TEMPS];

static void remember(char *path)
{
  for (int i = 0; i < MAX_TEMPS; i++)
    if (!temps[i]) {
      temps[i] = path;
      return;
    }
}

static void forget(const char *path)
{
  for (int i = 0; i < MAX_TEMPS; i++)
    if (temps[i] && !strcmp(temps[i], path))
      temps[i] = NULL;
}

void file_abandon_all(void)
{
  for (int i = 0; i < MAX_TEMPS; i++)
    if (temps[i])
      unlink(temps[i]);
}

bool file_begin(OutFile *f, Arena *a, const char *path, Err *e)
{
  struct stat st;

  *f = (OutFile){.path = path, .fd = -1, .e = e, .temp = arena_printf(a, "%s.XXXXXX", path)};
  if (!stat(path, &st) && !S_ISREG(st.st_mode))
    return fail(e, "%s: exists and is not a regular file", path);
  f->fd = mkstemp(f->temp);
  if (f->fd < 0)
    return fail(e, "%s: cannot write: %s", path, strerror(errno));
  remember(f->temp);
  return true;
}

bool file_write(OutFile *f, const void *bytes, uint64_t n)
{
  const uint8_t *p = bytes;

  while (n) {
    ssize_t done = write(f->fd, p, n < (1u << 30) ? n : 1u << 30);
    if (done < 0 && errno == EINTR)
      continue;
    if (done <= 0)
      return fail(f->e, "%s: cannot write: %s", f->path, done ? strerror(errno) : "no space");
    p += done;
    n -= (uint64_t)done;
  }
  return true;
}

bool file_commit(OutFile *f, int mode)
{
  mode_t mask = umask(0);
  umask(mask);
  bool ok = !fchmod(f->fd, (mode_t)mode & ~mask);
  ok = !close(f->fd) && ok;
  f->fd = -1;
  if (!ok || rename(f->temp, f->path))
    return fail(f->e, "%s: cannot write: %s", f->path, strerror(errno));
  forget(f->temp);
  f->temp = NULL;
  return true;
}

void file_abandon(OutFile *f)
{
  if (f->fd >= 0)
    close(f->fd);
  f->fd = -1;
  if (f->temp) {
    unlink(f->temp);
    forget(f->temp);
  }
  f->temp = NULL;
}

static bool sink_file(void *ctx, const void *bytes, uint64_t n)
{
  return file_write(ctx, bytes, n);
}

bool package_image(const char *path, const Image *im, Err *e)
{
  Arena a = {0};
  OutFile f;
  bool ok = file_begin(&f, &a, path, e) && image_write(im, sink_file, &f) && file_commit(&f, 0644);

  file_abandon(&f);
  arena_free(&a);
  return ok;
}

/* ---- linking */

/* The folder of sysroots: beside micc in a build tree, under lib/micc when installed. A sysroot is named as
 * its triple, without the vendor. */
static bool find_sysroot(Arena *a, const char *full_triple, const char **out, Err *e)
{
  const char *vendor = strstr(full_triple, "-unknown"), *triple = full_triple;
  if (vendor)
    triple = arena_printf(a, "%.*s%s", (int)(vendor - full_triple), full_triple, vendor + strlen("-unknown"));
  char self[4096];
  ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);

  if (n <= 0)
    return fail(e, "cannot tell where micc itself is: %s", strerror(errno));
  self[n] = 0;
  char *slash = strrchr(self, '/');
  if (slash)
    *slash = 0;
  for (size_t i = 0; i < 2; i++) {
    *out = i ? arena_printf(a, "%s/../lib/micc/sysroot/%s", self, triple)
             : arena_printf(a, "%s/sysroot/%s", self, triple);
    if (!access(arena_printf(a, "%s/lib/libmi.a", *out), R_OK))
      return true;
  }
  return fail(e, "no sysroot for %s: expected %s/sysroot/%s or %s/../lib/micc/sysroot/%s", triple, self,
              triple, self, triple);
}

/* Runs the linker, its messages in *e if it fails. */
static bool run_linker(Arena *a, char **argv, Err *e)
{
  static const char *const names[] = {"ld.lld-19", "ld.lld"};
  posix_spawn_file_actions_t acts;
  int pipefd[2], status = 0, error = 0;
  pid_t pid = 0;
  char text[700];
  size_t len = 0;
  ssize_t n;

  if (pipe(pipefd))
    return fail(e, "cannot start the linker: %s", strerror(errno));
  posix_spawn_file_actions_init(&acts);
  posix_spawn_file_actions_adddup2(&acts, pipefd[1], 2);
  posix_spawn_file_actions_addclose(&acts, pipefd[0]);
  for (size_t i = 0; i < COUNT(names); i++) {
    argv[0] = arena_strdup(a, names[i]);
    if (!(error = posix_spawnp(&pid, names[i], &acts, NULL, argv, environ)))
      break;
  }
  posix_spawn_file_actions_destroy(&acts);
  close(pipefd[1]);
  while (!error && (n = read(pipefd[0], text + len, sizeof text - 1 - len)) > 0)
    len += (size_t)n;
  text[len] = 0;
  close(pipefd[0]);
  if (error)
    return fail(e, "cannot start ld.lld-19 or ld.lld (package lld-19): %s", strerror(error));
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
    ;
  return (WIFEXITED(status) && !WEXITSTATUS(status)) || fail(e, "linking failed: %s", text);
}

static const char *path_in(Arena *a, const char *root, const char *name)
{
  return arena_printf(a, "%s/lib/%s", root, name);
}

static bool link_program(Arena *a, const char *object, const char *script, const char *out, const Target *t,
                         Err *e)
{
  const char *root;

  if (!find_sysroot(a, t->triple, &root, e))
    return false;
  const char *const args[] = {
      "ld.lld",
      "-static",
      "-o",
      out,
      path_in(a, root, "crt1.o"),
      path_in(a, root, "crti.o"),
      object,
      "--start-group",
      path_in(a, root, "libmi.a"),
      path_in(a, root, "libc.a"),
      path_in(a, root, "libbuiltins.a"),
      "--end-group",
      path_in(a, root, "crtn.o"),
      "--gc-sections",
      "--build-id=none",
      "-s",
      "-z",
      "noexecstack",
      "--threads=1",
      "-T",
      script,
  };
  char *argv[COUNT(args) + 1] = {0};
  for (size_t i = 0; i < COUNT(args); i++)
    argv[i] = arena_strdup(a, args[i]);
  return run_linker(a, argv, e);
}

/* ---- stretching the image's segment */

typedef struct {
  uint8_t *bytes;
  uint64_t n;
} File;

static bool read_file(Arena *a, const char *path, File *out, Err *e)
{
  struct stat st;
  int fd = open(path, O_RDONLY | O_CLOEXEC);

  if (fd < 0 || fstat(fd, &st)) {
    if (fd >= 0)
      close(fd);
    return fail(e, "%s: cannot read: %s", path, strerror(errno));
  }
  out->n = (uint64_t)st.st_size;
  out->bytes = arena_alloc(a, out->n);
  for (uint64_t at = 0; at < out->n;) {
    ssize_t got = read(fd, out->bytes + at, out->n - at);
    if (got <= 0) {
      close(fd);
      return fail(e, "%s: cannot read: %s", path, got ? strerror(errno) : "it became shorter");
    }
    at += (uint64_t)got;
  }
  close(fd);
  return true;
}

/* Patches the program header and drops the section headers, which would lie in the image's way.
 * *at: where in the file the image goes. */
static bool stretch_segment(File *f, uint64_t image_bytes, uint64_t *at, Err *e)
{
  Elf64_Ehdr *h = (Elf64_Ehdr *)f->bytes;
  Elf64_Phdr *p = (Elf64_Phdr *)(f->bytes + h->e_phoff), *image = NULL;

  for (int i = 0; i < h->e_phnum; i++)
    if (p[i].p_type == PT_LOAD && p[i].p_vaddr == image_address)
      image = &p[i];
  if (!image)
    return fail(e, "the linked program has no segment for its image");
  for (int i = 0; i < h->e_phnum; i++)
    if (p[i].p_type == PT_LOAD && p[i].p_offset > image->p_offset)
      return fail(e, "the linked program's image is not its last segment");
  image->p_filesz = image->p_memsz = image_bytes;
  *at = image->p_offset;
  h->e_shoff = 0;
  h->e_shnum = h->e_shstrndx = 0;
  return true;
}

static bool write_exe(Arena *a, OutFile *f, const char *linked, const Image *im, Err *e)
{
  File code = {0};
  uint64_t at = 0;

  return read_file(a, linked, &code, e) && stretch_segment(&code, im->bytes, &at, e) &&
         file_write(f, code.bytes, at) && image_write(im, sink_file, f) && file_commit(f, 0755);
}

bool package_exe(const char *path, const void *object, uint64_t object_bytes, const Image *im,
                 const Target *t, Err *e)
{
  Arena a = {0};
  OutFile obj = {.fd = -1}, script = {.fd = -1}, linked = {.fd = -1}, out = {.fd = -1};
  const char *text = arena_printf(&a, layout_script, (unsigned long long)image_address);
  bool ok = file_begin(&out, &a, path, e) && file_begin(&obj, &a, path, e) &&
            file_begin(&script, &a, path, e) && file_begin(&linked, &a, path, e) &&
            file_write(&script, text, strlen(text)) && file_write(&obj, object, object_bytes) &&
            link_program(&a, obj.temp, script.temp, linked.temp, t, e) &&
            write_exe(&a, &out, linked.temp, im, e);

  file_abandon(&obj);
  file_abandon(&script);
  file_abandon(&linked);
  file_abandon(&out);
  arena_free(&a);
  return ok;
}
