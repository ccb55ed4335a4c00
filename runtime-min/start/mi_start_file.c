/* mi_start_file.c - main() of a program whose image is a file of its own, as `--emit=c` writes it:
 *   cc -O3 model.c runtime-min/mi_*.c runtime-min/start/mi_start_file.c -lpthread -lm
 * The file is $MICC_WEIGHTS, or else NAME.weights beside the executable, NAME as the compiler wrote it. */
#define _GNU_SOURCE
#include "../mi_main.h"
#include "../mi_out.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif

extern MiKernel *const mi_kernels[];
extern const char mi_image_name[];

enum { PATH_BYTES = 4096 };

/* argv[0] is only a name if the program was found through PATH; Linux tells the file too. */
static const char *executable(char **argv)
{
#ifdef __linux__
  const char *path = (const char *)getauxval(AT_EXECFN);
  if (path)
    return path;
#endif
  return argv[0] ? argv[0] : "";
}

static const char *image_path(char **argv, MiOut *room)
{
  const char *given = getenv("MICC_WEIGHTS"), *self = executable(argv), *slash = strrchr(self, '/');

  if (given && *given)
    return given;
  mi_out_bytes(room, self, slash ? (size_t)(slash + 1 - self) : 0);
  mi_out_format(room, "%s.weights", mi_image_name);
  return mi_out_string(room);
}

/* The image of a file; NULL: `why` says what is wrong with it. */
static const MiImage *map_image(const char *path, MiOut *why)
{
  struct stat st;
  int fd = open(path, O_RDONLY | O_CLOEXEC);

  if (fd < 0 || fstat(fd, &st) != 0) {
    mi_out_format(why, "cannot open %s: %s", path, strerror(errno));
    return NULL;
  }
  uint64_t bytes = (uint64_t)st.st_size;
  const MiImage *image = bytes >= sizeof *image && bytes <= SIZE_MAX
                             ? mmap(NULL, (size_t)bytes, PROT_READ, MAP_PRIVATE, fd, 0)
                             : MAP_FAILED;
  close(fd);
  if (image == MAP_FAILED || memcmp(image->magic, MI_MAGIC, sizeof image->magic) ||
      image->image_bytes > bytes) {
    mi_out_format(why, "%s is not the image of this program, or is cut off", path);
    return NULL;
  }
  return image;
}

int main(int argc, char **argv)
{
  char path[PATH_BYTES], line[PATH_BYTES + 256];
  MiOut room = {.buf = path, .cap = sizeof path, .fd = -1};
  MiOut why = {.buf = line, .cap = sizeof line, .fd = -1};

  mi_out_format(&why, "%s: ", argc > 0 ? argv[0] : mi_image_name);
  const MiImage *image = map_image(image_path(argv, &room), &why);
  if (!image) {
    mi_out_text(&why, "\n");
    mi_out_write(2, line, why.n);
    return 1;
  }
  return mi_main(image, mi_kernels, argc, argv);
}
