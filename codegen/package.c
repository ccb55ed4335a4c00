/* package.c - the executable: kernels linked with musl and the runtime by ld.lld, then the image laid behind
 * the code.
 *
 * The runtime reserves one page in section .mi_image, which the linker puts at a high address of its own,
 * last in the file. Its load segment is then stretched over the real image, which is written in the page's
 * place: the system maps weights straight from the program's file, however large, and nothing is read before
 * it is used. Source: System V ABI, ELF-64 object file format. */
#define _GNU_SOURCE
#include "codegen/package.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
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
    "SECTIONS { .mi_image MI_IMAGE_AT : { KEEP(*(.mi_image)) } } INSERT AFTER .bss;\n";
static const uint64_t image_address = 0x1000000000; /* 64 GiB: far above code and data */

/* Image files are written in blocks of this size, and an image's address is congruent with its place in the file modulo
 * this. A file system that keeps files in large pages makes them as large as the writes are, and maps them as such: first
 * touches cost less, and memory is read up to a tenth faster. */
enum { BLOCK_BYTES = 2 << 20 };

/* ---- files that appear whole or not at all */

enum { MAX_TEMPS = 8 };
static char *volatile temps[MAX_TEMPS];
static volatile pid_t linker; /* 0: none runs */

/* A signal finds a file and its entry in temps[], or neither. */
static void block_signals(sigset_t *before)
{
  sigset_t all;

  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, before);
}

static void unblock_signals(const sigset_t *before)
{
  pthread_sigmask(SIG_SETMASK, before, NULL);
}

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
  if (linker) { /* it would go on, and write its output after we removed it */
    kill(linker, SIGKILL);
    waitpid(linker, NULL, 0);
  }
  for (int i = 0; i < MAX_TEMPS; i++)
    if (temps[i])
      unlink(temps[i]);
}

/* Beside `path`, so that the rename stays within one file system; short, since names have a limit. */
static char *temp_name(Arena *a, const char *path)
{
  const char *slash = strrchr(path, '/');
  return arena_printf(a, "%.*s.micc-XXXXXX", slash ? (int)(slash + 1 - path) : 0, path);
}

static bool make_temp(OutFile *f)
{
  sigset_t before;

  block_signals(&before);
  f->fd = mkstemp(f->temp);
  if (f->fd >= 0)
    remember(f->temp);
  int error = errno;
  unblock_signals(&before);
  errno = error;
  return f->fd >= 0;
}

static bool cannot_write(OutFile *f)
{
  return fail(f->e, "%s: cannot write: %s", f->path, strerror(errno));
}

bool file_scratch(OutFile *f, Arena *a, const char *path, Err *e)
{
  *f = (OutFile){.path = path, .fd = -1, .e = e, .temp = temp_name(a, path)};
  if (make_temp(f))
    return true;
  f->temp = NULL;
  return cannot_write(f);
}

bool file_begin(OutFile *f, Arena *a, const char *path, Err *e)
{
  struct stat st;

  if (stat(path, &st) || S_ISREG(st.st_mode))
    return file_scratch(f, a, path, e);
  *f = (OutFile){.path = path, .e = e, .fd = open(path, O_WRONLY | O_CLOEXEC)};
  return f->fd >= 0 || cannot_write(f);
}

bool file_write(OutFile *f, const void *bytes, uint64_t n)
{
  const uint8_t *p = bytes;

  while (n) {
    ssize_t done = write(f->fd, p, n < (1u << 30) ? n : 1u << 30);
    if (done < 0 && errno == EINTR)
      continue;
    if (done <= 0)
      return cannot_write(f);
    p += done;
    n -= (uint64_t)done;
  }
  return true;
}

bool file_commit(OutFile *f, int mode)
{
  mode_t mask = umask(0);
  umask(mask);
  bool ok = !f->temp || !fchmod(f->fd, (mode_t)mode & ~mask);
  ok = !close(f->fd) && ok;
  f->fd = -1;
  if (!ok || (f->temp && rename(f->temp, f->path)))
    return cannot_write(f);
  if (f->temp)
    forget(f->temp); /* a signal before this line unlinks a name that is gone: no harm */
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

/* ---- images, written block by block */

typedef struct {
  OutFile *f;
  uint8_t *block; /* what is not yet written of it */
  uint64_t have;
} Blocks;

static Blocks begin_blocks(Arena *a, OutFile *f)
{
  return (Blocks){f, arena_alloc(a, BLOCK_BYTES), 0};
}

static bool end_blocks(Blocks *b)
{
  uint64_t n = b->have;

  b->have = 0;
  return file_write(b->f, b->block, n);
}

static bool sink_blocks(void *ctx, const void *bytes, uint64_t n)
{
  Blocks *b = ctx;
  const uint8_t *from = bytes;

  while (n) {
    uint64_t take = n < BLOCK_BYTES - b->have ? n : BLOCK_BYTES - b->have;
    memcpy(b->block + b->have, from, take);
    b->have += take;
    from += take;
    n -= take;
    if (b->have == BLOCK_BYTES && !end_blocks(b))
      return false;
  }
  return true;
}

bool package_source(const char *path, const char *text, const char *image_path, const Image *im, Err *e)
{
  Arena a = {0};
  OutFile source = {.fd = -1}, image = {.fd = -1};
  Blocks blocks = begin_blocks(&a, &image);
  bool ready = file_begin(&source, &a, path, e) && file_begin(&image, &a, image_path, e) &&
               file_write(&source, text, strlen(text)) && image_write(im, sink_blocks, &blocks) &&
               end_blocks(&blocks);
  bool placed = ready && file_commit(&image, 0644), ok = placed && file_commit(&source, 0644);

  if (placed && !ok)
    unlink(image_path);
  file_abandon(&source);
  file_abandon(&image);
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

/* Starts the linker with `err_fd` as its standard error; 0, or errno. */
static int start_linker(Arena *a, char **argv, int err_fd)
{
  static const char *const names[] = {"ld.lld-19", "ld.lld", "/usr/lib/llvm-19/bin/ld.lld"};
  posix_spawn_file_actions_t acts;
  posix_spawnattr_t attr;
  sigset_t before;
  pid_t pid = 0;
  int error = ENOENT;

  posix_spawn_file_actions_init(&acts);
  posix_spawn_file_actions_adddup2(&acts, err_fd, 2);
  posix_spawnattr_init(&attr);
  block_signals(&before);
  posix_spawnattr_setsigmask(&attr, &before);
  posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK);
  for (size_t i = 0; i < COUNT(names) && error; i++) {
    argv[0] = arena_strdup(a, names[i]);
    error = posix_spawnp(&pid, names[i], &acts, &attr, argv, environ);
  }
  linker = error ? 0 : pid;
  unblock_signals(&before);
  posix_spawnattr_destroy(&attr);
  posix_spawn_file_actions_destroy(&acts);
  return error;
}

/* Looks first and takes then, so that a signal never finds a number that is some other process's by now. */
static int wait_linker(void)
{
  sigset_t before;
  siginfo_t info;
  int status = -1;

  while (waitid(P_PID, (id_t)linker, &info, WEXITED | WNOWAIT) < 0 && errno == EINTR)
    ;
  block_signals(&before);
  waitpid(linker, &status, 0);
  linker = 0;
  unblock_signals(&before);
  return status;
}

/* All that comes, the beginning of it in `text`, as one line. */
static void read_messages(int fd, char *text, size_t cap)
{
  char more[512];
  size_t len = 0;
  ssize_t n;

  while ((n = read(fd, more, sizeof more)) > 0 || (n < 0 && errno == EINTR))
    for (ssize_t i = 0; i < n && len < cap - 1; i++)
      text[len++] = more[i] == '\n' ? ' ' : more[i];
  text[len] = 0;
}

/* Runs the linker, its messages in *e if it fails. */
static bool run_linker(Arena *a, char **argv, Err *e)
{
  int ends[2];
  char text[700] = "";

  if (pipe2(ends, O_CLOEXEC))
    return fail(e, "cannot start the linker: %s", strerror(errno));
  int error = start_linker(a, argv, ends[1]);
  close(ends[1]);
  if (!error)
    read_messages(ends[0], text, sizeof text);
  close(ends[0]);
  if (error)
    return fail(e, "cannot start ld.lld-19 or ld.lld (package lld-19): %s", strerror(error));
  int status = wait_linker();
  if (WIFSIGNALED(status))
    return fail(e, "linking failed: signal %d; %s", WTERMSIG(status), text);
  return (WIFEXITED(status) && !WEXITSTATUS(status)) || fail(e, "linking failed: %s", text);
}

static const char *path_in(Arena *a, const char *root, const char *name)
{
  return arena_printf(a, "%s/lib/%s", root, name);
}

typedef struct {
  const char *start; /* the runtime's object that begins */
  const char *object, *script;
  const char *out;
  const Target *target;
} Link;

/* `at`: the image's address. */
static bool link_program(Arena *a, const Link *l, uint64_t at, Err *e)
{
  const char *root = NULL;

  if (!find_sysroot(a, l->target->triple, &root, e))
    return false;
  const char *const args[] = {
      "ld.lld",
      "-static",
      "-o",
      l->out,
      path_in(a, root, "crt1.o"),
      path_in(a, root, "crti.o"),
      path_in(a, root, l->start),
      l->object,
      "--start-group",
      path_in(a, root, "libmi.a"),
      path_in(a, root, "libc.a"),
      path_in(a, root, "libbuiltins.a"),
      "--end-group",
      path_in(a, root, "crtn.o"),
      "--gc-sections",
      "-O2", /* strings may share their ends */
      "--build-id=none",
      "-s",
      "-z",
      "noexecstack",
      "--threads=1",
      "--no-mmap-output-file", /* written in place: no temporary file of the linker's own */
      "-T",
      l->script,
      arena_printf(a, "--defsym=MI_IMAGE_AT=0x%llx", (unsigned long long)at),
  };
  char *argv[COUNT(args) + 1] = {0};
  for (size_t i = 0; i < COUNT(args); i++)
    argv[i] = arena_strdup(a, args[i]);
  return run_linker(a, argv, e);
}

/* ---- files that the linker made */

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

bool package_link(Arena *a, const char *const *options, size_t n_options, const char *const *inputs,
                  size_t n_inputs, OutFile *out, Err *e)
{
  static const char *const always[] = {"ld.lld", "--build-id=none", "--threads=1", "--no-mmap-output-file",
                                       "-o"};
  OutFile linked = {.fd = -1};
  File f = {0};
  char **argv = NEW_ARRAY(a, char *, COUNT(always) + 2 + n_options + n_inputs), **at = argv;

  if (!file_scratch(&linked, a, out->path, e))
    return false;
  for (size_t i = 0; i < COUNT(always); i++)
    *at++ = arena_strdup(a, always[i]);
  *at++ = linked.temp;
  for (size_t i = 0; i < n_options; i++)
    *at++ = arena_strdup(a, options[i]);
  for (size_t i = 0; i < n_inputs; i++)
    *at++ = arena_strdup(a, inputs[i]);
  bool ok = run_linker(a, argv, e) && read_file(a, linked.temp, &f, e) && file_write(out, f.bytes, f.n);
  file_abandon(&linked);
  return ok;
}

/* ---- the program */

/* The header of the image's segment, which must be the last in the file, at the address that was asked for. */
static Elf64_Phdr *image_segment(File *f, uint64_t address, Err *e)
{
  const Elf64_Ehdr *h = (const Elf64_Ehdr *)f->bytes;
  Elf64_Phdr *p = (Elf64_Phdr *)(f->bytes + h->e_phoff), *last = NULL;

  for (int i = 0; i < h->e_phnum; i++)
    if (p[i].p_type == PT_LOAD && (!last || p[i].p_offset >= last->p_offset))
      last = &p[i];
  if (last && last->p_vaddr == address)
    return last;
  fail(e, "the linked program's last segment is not its image");
  return NULL;
}

/* Twice: where in the file the image goes shows after the first time, and its address follows from that. */
static Elf64_Phdr *link_aligned(Arena *a, const Link *l, File *code, Err *e)
{
  Elf64_Phdr *image = NULL;

  for (int i = 0; i < 2; i++) {
    uint64_t address = image_address + (image ? image->p_offset % BLOCK_BYTES : 0);
    if (!link_program(a, l, address, e) || !read_file(a, l->out, code, e))
      return NULL;
    image = image_segment(code, address, e);
    if (!image)
      return NULL;
  }
  return image;
}

/* Stretches the image's segment, and drops the section headers, which would lie in the image's way. */
static bool write_exe(Arena *a, OutFile *f, File *code, Elf64_Phdr *image, const Image *im)
{
  Elf64_Ehdr *h = (Elf64_Ehdr *)code->bytes;
  Blocks blocks = begin_blocks(a, f);

  image->p_filesz = image->p_memsz = im->bytes;
  h->e_shoff = 0;
  h->e_shnum = h->e_shstrndx = 0;
  return sink_blocks(&blocks, code->bytes, image->p_offset) && image_write(im, sink_blocks, &blocks) &&
         end_blocks(&blocks) && file_commit(f, 0755);
}

bool package_exe(const char *path, const void *object, uint64_t object_bytes, const Image *im,
                 const Target *t, Err *e)
{
  Arena a = {0};
  OutFile obj = {.fd = -1}, script = {.fd = -1}, linked = {.fd = -1}, out = {.fd = -1};
  const char *start = im->prog->module->graphs.data[0]->dense ? "mi_start_tensor.o" : "mi_start.o";
  File code = {0};
  Elf64_Phdr *image;
  bool ok = file_begin(&out, &a, path, e) &&
            (out.temp || fail(e, "%s: cannot write: a program needs a regular file", path)) &&
            file_scratch(&obj, &a, path, e) && file_scratch(&script, &a, path, e) &&
            file_scratch(&linked, &a, path, e) && file_write(&script, layout_script, strlen(layout_script)) &&
            file_write(&obj, object, object_bytes) &&
            (image = link_aligned(&a, &(Link){start, obj.temp, script.temp, linked.temp, t}, &code, e)) &&
            write_exe(&a, &out, &code, image, im);

  file_abandon(&obj);
  file_abandon(&script);
  file_abandon(&linked);
  file_abandon(&out);
  arena_free(&a);
  return ok;
}
