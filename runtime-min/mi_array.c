/* mi_array.c - see mi_array.h: files, and what kind they are. */
#define _GNU_SOURCE
#include "mi_formats.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

uint64_t mi_array_bytes(const MiArray *a)
{
  return a->count * mi_elem_info[a->elem].bytes;
}

static void put_dims(const MiArray *a, MiOut *out)
{
  mi_out_text(out, "[");
  for (uint32_t d = 0; d < a->rank; d++)
    mi_out_format(out, d ? ",%llu" : "%llu", (unsigned long long)a->dim[d]);
  mi_out_text(out, "]");
}

void mi_array_type(const MiArray *a, MiOut *out)
{
  mi_out_text(out, mi_elem_info[a->elem].name);
  put_dims(a, out);
}

MiFileKind mi_array_kind(const char *path)
{
  size_t n = strlen(path);

  if (n > 4 && !strcmp(path + n - 4, ".npy"))
    return MI_FILE_NPY;
  return n > 5 && !strcmp(path + n - 5, ".json") ? MI_FILE_JSON : MI_FILE_RAW;
}

long double mi_array_get(const MiArray *a, uint64_t i)
{
  return mi_elem_get(a->elem, (const uint8_t *)a->data + i * mi_elem_info[a->elem].bytes);
}

bool mi_array_set(MiArray *a, uint64_t i, long double x, MiOut *why)
{
  if (!mi_elem_holds(a->elem, x)) {
    char text[48];
    snprintf(text, sizeof text, "%.9Lg", x);
    mi_out_format(why, "its element %llu is %s, which %s does not hold", (unsigned long long)i, text,
                  mi_elem_info[a->elem].name);
    return false;
  }
  mi_elem_set(a->elem, (uint8_t *)a->data + i * mi_elem_info[a->elem].bytes, x);
  return true;
}

/* ---- shapes */

/* The dimension at or behind *d that is not 1; 1 at the end. */
static uint64_t next_dim(const MiArray *a, uint32_t *d)
{
  while (*d < a->rank && a->dim[*d] == 1)
    ++*d;
  return *d < a->rank ? a->dim[(*d)++] : 1;
}

static bool same_dims(const MiArray *a, const MiArray *b)
{
  uint32_t i = 0, k = 0;

  while (i < a->rank || k < b->rank)
    if (next_dim(a, &i) != next_dim(b, &k))
      return false;
  return true;
}

bool mi_array_fits(const MiArray *a, const MiArray *file, MiOut *why)
{
  if (file->count == a->count && (file->rank == 1 || same_dims(a, file)))
    return true;
  mi_out_text(why, "its shape is ");
  put_dims(file, why);
  mi_out_text(why, ", and ");
  mi_array_type(a, why);
  mi_out_text(why, " is needed");
  return false;
}

/* ---- files, whole in memory */

typedef struct {
  uint8_t *bytes;
  size_t n, mapped; /* mapped: bytes to unmap, else to free */
} Input;

/* At most `limit` bytes: a stream may have no end. */
static bool read_stream(int fd, Input *in, size_t limit)
{
  size_t cap = 0;

  for (;;) {
    if (in->n == cap) {
      uint8_t *more = in->n > limit ? NULL : realloc(in->bytes, cap = cap ? cap * 2 : 1 << 16);
      if (!more) {
        errno = in->n > limit ? EFBIG : ENOMEM;
        return false;
      }
      in->bytes = more;
    }
    ssize_t got = read(fd, in->bytes + in->n, cap - in->n);
    if (got < 0 && errno == EINTR)
      continue;
    if (got <= 0)
      return got == 0;
    in->n += (size_t)got;
  }
}

static bool read_fd(int fd, Input *in, size_t limit)
{
  struct stat st;

  if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size > 0 && lseek(fd, 0, SEEK_CUR) == 0) {
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p != MAP_FAILED) {
      *in = (Input){p, (size_t)st.st_size, (size_t)st.st_size};
      return true;
    }
  }
  return read_stream(fd, in, limit);
}

static void release(Input *in)
{
  if (in->mapped)
    munmap(in->bytes, in->mapped);
  else
    free(in->bytes);
}

static bool read_file(const char *path, Input *in, size_t limit, MiOut *why)
{
  bool standard = !strcmp(path, "-");
  int fd = standard ? 0 : open(path, O_RDONLY | O_CLOEXEC);
  bool ok = fd >= 0 && read_fd(fd, in, limit);

  if (!ok)
    mi_out_format(why, "cannot read %s: %s", standard ? "standard input" : path, strerror(errno));
  if (fd > 0)
    close(fd);
  return ok;
}

static bool fault(const char *path, MiOut *reason, MiOut *why)
{
  mi_out_format(why, "%s: %s", !strcmp(path, "-") ? "standard input" : path, mi_out_string(reason));
  return false;
}

/* ---- reading */

static bool read_raw(MiBytes in, MiArray *a, MiOut *why)
{
  if (in.n != mi_array_bytes(a)) {
    mi_out_format(why, "it has %zu bytes, and ", in.n);
    mi_array_type(a, why);
    mi_out_format(why, " (%llu bytes) is needed", (unsigned long long)mi_array_bytes(a));
    return false;
  }
  for (size_t i = 0; a->elem == MI_ELEM_BOOL && i < in.n; i++)
    if (in.bytes[i] > 1)
      return mi_array_set(a, i, in.bytes[i], why);
  if (in.n)
    memcpy(a->data, in.bytes, in.n);
  return true;
}

static bool read_bytes(const char *path, MiBytes in, MiArray *a, MiOut *why)
{
  if (mi_npy_is(in))
    return mi_npy_read(in, a, why);
  switch (mi_array_kind(path)) {
  case MI_FILE_NPY: mi_out_text(why, "it is no .npy file"); return false;
  case MI_FILE_JSON: return mi_json_read(in, a, why);
  default: return !strcmp(path, "-") && mi_json_is(in) ? mi_json_read(in, a, why) : read_raw(in, a, why);
  }
}

bool mi_array_read(const char *path, MiArray *a, MiOut *why)
{
  enum { FIXED = 1 << 20, EACH = 64 }; /* a long header; a number in JSON */
  Input in = {0};
  char line[256];
  MiOut reason = {.buf = line, .cap = sizeof line, .fd = -1};
  bool ok = read_file(path, &in, FIXED + a->count * EACH, why) &&
            (read_bytes(path, (MiBytes){in.bytes, in.n}, a, &reason) || fault(path, &reason, why));

  release(&in);
  return ok;
}

bool mi_array_npy(const char *path, MiArray *a, MiOut *why)
{
  Input in = {0};
  MiNpy npy = {.fortran = false};
  char line[256];
  MiOut reason = {.buf = line, .cap = sizeof line, .fd = -1};
  bool ok = read_file(path, &in, SIZE_MAX / 4, why);

  if (ok) {
    MiBytes bytes = {in.bytes, in.n};
    ok = mi_npy_is(bytes);
    if (!ok)
      mi_out_text(&reason, "it is no .npy file");
    ok = (ok && mi_npy_open(bytes, &npy, &reason)) || fault(path, &reason, why);
  }
  *a = npy.array;
  a->data = NULL;
  release(&in);
  return ok;
}

/* ---- writing */

static void put_array(MiFileKind kind, const MiArray *a, MiOut *out)
{
  switch (kind) {
  case MI_FILE_NPY: mi_npy_write(a, out); return;
  case MI_FILE_JSON:
    mi_array_json(a, out);
    mi_out_text(out, "\n");
    return;
  default: mi_out_bytes(out, a->data, mi_array_bytes(a));
  }
}

/* 0, or errno. */
static int write_fd(int fd, MiFileKind kind, const MiArray *a)
{
  char buffer[4096];
  MiOut out = {.buf = buffer, .cap = sizeof buffer, .fd = fd};

  put_array(kind, a, &out);
  mi_out_flush(&out);
  return out.error;
}

/* Under another name until it is whole. */
static int write_beside(const char *path, const char *temporary, MiFileKind kind, const MiArray *a)
{
  int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  int error = fd < 0 ? errno : write_fd(fd, kind, a);

  if (fd >= 0 && close(fd) && !error)
    error = errno;
  if (!error && rename(temporary, path))
    error = errno;
  if (error && fd >= 0)
    unlink(temporary);
  return error;
}

static int replace(const char *path, MiFileKind kind, const MiArray *a)
{
  char name[4096];
  MiOut temporary = {.buf = name, .cap = sizeof name, .fd = -1};
  sigset_t all, before;

  mi_out_format(&temporary, "%s.%ld.tmp", path, (long)getpid());
  if (temporary.n >= sizeof name - 1)
    return ENAMETOOLONG;
  sigfillset(&all); /* or a signal would leave the temporary file */
  sigprocmask(SIG_BLOCK, &all, &before);
  int error = write_beside(path, mi_out_string(&temporary), kind, a);
  sigprocmask(SIG_SETMASK, &before, NULL);
  return error;
}

/* A device or a pipe. */
static int write_stream(const char *path, MiFileKind kind, const MiArray *a)
{
  bool standard = !strcmp(path, "-");
  int fd = standard ? 1 : open(path, O_WRONLY | O_CLOEXEC), error = fd < 0 ? errno : write_fd(fd, kind, a);

  return !standard && fd >= 0 && close(fd) && !error ? errno : error;
}

bool mi_array_write(const char *path, MiFileKind kind, const MiArray *a, MiOut *why)
{
  struct stat st;
  bool standard = !strcmp(path, "-"), whole = !standard && (stat(path, &st) || S_ISREG(st.st_mode));
  int error = whole ? replace(path, kind, a) : write_stream(path, kind, a);

  if (error)
    mi_out_format(why, "cannot write %s: %s", standard ? "standard output" : path, strerror(error));
  return !error;
}
