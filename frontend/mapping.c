/* mapping.c - see mapping.h. A file must not shrink while micc runs: the system ends a program that touches
 * pages behind a file's end. */
#include "frontend/mapping.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { HASH_PIECE_BYTES = 64 << 20, SHOWN_PATH_BYTES = 384 };

const char *mapping_shown_path(const char *path)
{
  size_t n = strlen(path);
  return n > SHOWN_PATH_BYTES ? path + n - SHOWN_PATH_BYTES : path;
}

static bool map_file(int fd, const char *path, Mapping *out, Err *e)
{
  struct stat st;

  if (fstat(fd, &st) < 0)
    return fail(e, "%s: %s", path, strerror(errno));
  if (S_ISDIR(st.st_mode))
    return fail(e, "%s: is a directory, expected a model file", path);
  if (!S_ISREG(st.st_mode))
    return fail(e, "%s: is not a regular file, so it cannot be mapped", path);
  if (st.st_size == 0)
    return fail(e, "%s: is empty, expected a model file", path);
  void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (p == MAP_FAILED)
    return fail(e, "%s: cannot be mapped: %s", path, strerror(errno));
  *out = (Mapping){p, (uint64_t)st.st_size};
  return true;
}

bool mapping_open(const char *path, Mapping *out, Err *e)
{
  /* O_NONBLOCK: opening a FIFO must not wait for a writer. */
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);

  if (fd < 0)
    return fail(e, "%s: cannot be opened: %s", mapping_shown_path(path), strerror(errno));
  bool ok = map_file(fd, mapping_shown_path(path), out, e);
  close(fd); /* the mapping stays */
  return ok;
}

void mapping_close(Mapping m)
{
  if (m.data)
    munmap((void *)(uintptr_t)m.data, m.bytes);
}

static bool hash(EVP_MD_CTX *c, Mapping m, unsigned char *digest)
{
  bool ok = EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1;

  for (uint64_t at = 0; ok && at < m.bytes; at += HASH_PIECE_BYTES)
    ok = EVP_DigestUpdate(c, m.data + at, (size_t)min64(HASH_PIECE_BYTES, (int64_t)(m.bytes - at))) == 1;
  return ok && EVP_DigestFinal_ex(c, digest, NULL) == 1;
}

void mapping_sha256(Mapping m, char out[65])
{
  unsigned char digest[32];
  EVP_MD_CTX *c = EVP_MD_CTX_new();

  memset(out, 0, 65);
  if (c && hash(c, m, digest))
    for (int i = 0; i < 32; i++) {
      out[2 * i] = "0123456789abcdef"[digest[i] >> 4];
      out[2 * i + 1] = "0123456789abcdef"[digest[i] & 15];
    }
  EVP_MD_CTX_free(c);
}
