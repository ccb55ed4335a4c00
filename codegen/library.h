/* library.h - a dense program as something to link: one function over one context struct, no global state.
 *
 * What is generated, for a model named `face`:
 *   face.h          FACE_ARENA_BYTES, FACE_WEIGHT_BYTES, struct face_context (arena, inputs, outputs), face_run()
 *   face.c          the same in C99, weights included: compiles with that header alone
 *   kernels and face_run() as an object (llvm.h), weights as another: in a static library, a shared one, or joined */
#ifndef MICC_LIBRARY_H
#define MICC_LIBRARY_H

#include "codegen/image.h"

/* A tensor that the caller gives or gets. */
typedef struct {
  const char *name; /* a C identifier */
  const Io *io;
  uint64_t offset, bytes; /* in the arena */
  bool output;
} LibraryIo;

typedef struct {
  const char *name;  /* prefix of all symbols, a C identifier */
  const char *upper; /* in capitals */
  const char *about; /* "key: value" lines */
  const Program *prog;
  LibraryIo *ios; /* in the order of the context struct: inputs, then outputs */
  uint32_t n_ios;
  uint64_t arena_bytes; /* with scratch, which lies behind the program's own arena */
} Library;

/* `path` names the library: libface.a, face.so, face.c give the prefix face. Fails for programs of language models. */
bool library_init(Library *l, Arena *a, const char *path, const Program *prog, const char *about, Err *e);

/* NAME.h in the folder of `path`. */
const char *library_header_path(const Library *l, Arena *a, const char *path);

void library_header(const Library *l, Text *out);
/* NAME_run() in C; kernels are functions k_0, k_1 ... with MiKernel's signature. */
void library_run_c(const Library *l, Text *out);

typedef enum { LIBRARY_STATIC, LIBRARY_SHARED, LIBRARY_OBJECT, LIBRARY_C } LibraryKind;

/* Writes the library and its header beside it (same name, .h): both, or neither.
 *   code    the object with kernels and NAME_run(); LIBRARY_C: the text of kernels and NAME_run() */
bool library_write(const Library *l, LibraryKind kind, const char *path, const void *code,
                   uint64_t code_bytes, const Image *im, Err *e);

#endif
