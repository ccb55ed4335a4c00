/* mi_session.c - how every program begins and complains. */
#include "mi_session.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

void mi_standard_files(void)
{
  for (int fd = 0; fd < 3; fd++)
    if (fcntl(fd, F_GETFD) < 0 && errno == EBADF)
      (void)!open("/dev/null", fd ? O_RDONLY : O_WRONLY);
}

const char *mi_program_name(int argc, char **argv)
{
  const char *path = argc > 0 ? argv[0] : NULL, *slash = path ? strrchr(path, '/') : NULL;

  return slash && slash[1] ? slash + 1 : path && *path ? path : "program";
}

int mi_complain(const MiSession *s, int status, const char *format, ...)
{
  char line[512];
  MiOut out = {.buf = line, .cap = sizeof line - 1, .fd = -1}; /* and a newline */
  va_list args;

  mi_out_format(&out, "%s: ", s->name);
  va_start(args, format);
  mi_out_vformat(&out, format, args);
  va_end(args);
  for (size_t i = 0; i < out.n;
       i++) /* what the user or a model gave may hold newlines: a message is one line */
    if ((unsigned char)line[i] < 32 || line[i] == 127)
      line[i] = ' ';
  line[out.n++] = '\n';
  mi_out_write(2, line, out.n);
  return status;
}
