/* replay.c - runs a fuzz target over the files of a folder, its seeds, without libFuzzer: so each
 * build compiles the targets and each test run checks them.   replay_NAME FOLDER */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *folder, const char *name)
{
  char path[4096];
  snprintf(path, sizeof path, "%s/%s", folder, name);
  FILE *f = fopen(path, "rb");
  if (!f || fseek(f, 0, SEEK_END))
    return 1;
  long size = ftell(f);
  uint8_t *data = malloc(size > 0 ? (size_t)size : 1); /* exact: reading past the end shows */
  int bad = size < 0 || !data;
  if (!bad) {
    rewind(f);
    bad = fread(data, 1, (size_t)size, f) != (size_t)size;
  }
  if (!bad)
    LLVMFuzzerTestOneInput(data, (size_t)size);
  free(data);
  fclose(f);
  return bad;
}

int main(int argc, char **argv)
{
  DIR *dir = argc == 2 ? opendir(argv[1]) : NULL;
  int done = 0, bad = 0;

  if (!dir) {
    fprintf(stderr, "usage: %s FOLDER\n", argv[0]);
    return 2;
  }
  for (struct dirent *entry; (entry = readdir(dir));)
    if (entry->d_name[0] != '.') {
      bad += replay_file(argv[1], entry->d_name);
      done++;
    }
  closedir(dir);
  printf("%d inputs, %d could not be read\n", done, bad);
  return bad || !done;
}
