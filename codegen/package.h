/* package.h - files out: a static executable, or any bytes, written under a temporary name first. */
#ifndef MICC_PACKAGE_H
#define MICC_PACKAGE_H

#include "codegen/image.h"
#include "codegen/target.h"

/* A file under construction: written under a temporary name beside `path`, renamed by file_commit(). What is
 * no regular file already (a device, a pipe) is written as it is. */
typedef struct {
  const char *path;
  char *temp; /* NULL: none */
  int fd;
  Err *e;
} OutFile;

bool file_begin(OutFile *f, Arena *a, const char *path, Err *e);
bool file_write(OutFile *f, const void *bytes, uint64_t n);
bool file_commit(OutFile *f, int mode); /* permission bits */
void file_abandon(OutFile *f);          /* also after a failed commit */

/* The same for a file that is not to stay: it is only read through its temporary name, and abandoned. */
bool file_scratch(OutFile *f, Arena *a, const char *path, Err *e);

/* Removes the temporary files of a compile that a signal ends. Safe in a signal handler. */
void file_abandon_all(void);

/* Links `object` with the target's sysroot and puts the image behind the code. */
bool package_exe(const char *path, const void *object, uint64_t object_bytes, const Image *im,
                 const Target *t, Err *e);

/* Runs ld.lld on `inputs`, and writes what it makes to `out`. */
bool package_link(Arena *a, const char *const *options, size_t n_options, const char *const *inputs,
                  size_t n_inputs, OutFile *out, Err *e);

/* Writes a program's C source, and its image for the program to find: both, or neither. */
bool package_source(const char *path, const char *text, const char *image_path, const Image *im, Err *e);

#endif
