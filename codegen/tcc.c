/* tcc.c - C in memory through libtcc 0.9.27.
 *
 * Kernels need nine functions of libc and no headers, so both are given here, and a machine without
 * any C compiler runs them. libtcc links with -nostdlib: it would look for the system's libc.so. */
#include "codegen/tcc.h"

#include <libtcc.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

struct TccJit {
  TCCState *state;
};

/* What kernels know of <math.h>, <stdint.h> and <string.h>. */
static const char declarations[] =
    "#define MI_NO_INCLUDES 1\n"
    "typedef signed char int8_t; typedef short int16_t; typedef int int32_t; typedef long long int64_t;\n"
    "typedef unsigned char uint8_t; typedef unsigned short uint16_t; typedef unsigned int uint32_t;\n"
    "typedef unsigned long long uint64_t;\n"
    "void *memcpy(void *, const void *, __SIZE_TYPE__);\n"
    "float fabsf(float), fmaf(float, float, float), sqrtf(float);\n"
    "double fabs(double), fma(double, double, double), sqrt(double);\n"
    "#define INFINITY (1.0f / 0.0f)\n"
    "#define NAN (0.0f / 0.0f)\n"
    "#line 1 \"kernels.c\"\n";

/* memmove, memset: libtcc calls them for structs and initial values. */
static const struct {
  const char *name;
  void (*function)(void);
} symbols[] = {
    {"memcpy", (void (*)(void))memcpy}, {"memmove", (void (*)(void))memmove},
    {"memset", (void (*)(void))memset}, {"fabsf", (void (*)(void))fabsf},
    {"fmaf", (void (*)(void))fmaf},     {"sqrtf", (void (*)(void))sqrtf},
    {"fabs", (void (*)(void))fabs},     {"fma", (void (*)(void))fma},
    {"sqrt", (void (*)(void))sqrt},
};

static pthread_mutex_t one_at_a_time = PTHREAD_MUTEX_INITIALIZER;

static bool has_support(const char *dir, char *path, size_t size)
{
  return snprintf(path, size, "%s/libtcc1.a", dir) < (int)size && access(path, R_OK) == 0;
}

/* The folder of libtcc's own files: that of the build, or ../lib/micc/tcc from the running program. */
static bool find_support(char *dir, size_t dir_size, char *archive, size_t size)
{
#ifdef MICC_TCC_DIR
  snprintf(dir, dir_size, "%s", MICC_TCC_DIR);
  if (has_support(dir, archive, size))
    return true;
#endif
  ssize_t n = readlink("/proc/self/exe", dir, dir_size - 1);
  if (n <= 0)
    return false;
  dir[n] = 0;
  char *slash = strrchr(dir, '/');
  if (!slash)
    return false;
  *slash = 0;
  size_t len = strlen(dir);
  return snprintf(dir + len, dir_size - len, "/../lib/micc/tcc") < (int)(dir_size - len) &&
         has_support(dir, archive, size);
}

static void on_message(void *opaque, const char *message)
{
  Err *said = opaque;
  size_t len = strlen(said->text);

  if (!strstr(message, "warning: "))
    snprintf(said->text + len, sizeof said->text - len, "%s%s", len ? "; " : "", message);
}

static bool compile(TCCState *s, const char *source)
{
  char dir[4096], archive[4200];
  bool support = find_support(dir, sizeof dir, archive, sizeof archive);

  if (support)
    tcc_set_lib_path(s, dir);
  tcc_set_options(s, "-nostdlib");
  if (tcc_set_output_type(s, TCC_OUTPUT_MEMORY) < 0 || tcc_compile_string(s, source) < 0)
    return false;
  if (support && tcc_add_file(s, archive) < 0)
    return false;
  for (unsigned i = 0; i < COUNT(symbols); i++) {
    void *address;
    memcpy(&address, &symbols[i].function, sizeof address);
    tcc_add_symbol(s, symbols[i].name, address);
  }
  return tcc_relocate(s, TCC_RELOCATE_AUTO) >= 0;
}

TccJit *tcc_jit(const char *c_source, Err *e)
{
  Arena tmp = {0};
  Err said = {0};
  TccJit *jit = NULL;

  /* only a file that can do without headers is given the declarations in their place */
  if (strstr(c_source, "#ifndef MI_NO_INCLUDES"))
    c_source = arena_printf(&tmp, "%s%s", declarations, c_source);
  pthread_mutex_lock(&one_at_a_time);
  TCCState *s = tcc_new();
  if (s) {
    tcc_set_error_func(s, &said, on_message);
    if (compile(s, c_source) && (jit = malloc(sizeof *jit)))
      jit->state = s;
    else
      tcc_delete(s);
  }
  pthread_mutex_unlock(&one_at_a_time);
  arena_free(&tmp);
  if (!jit)
    fail(e, "libtcc: %s", said.text[0] ? said.text : "no memory");
  return jit;
}

void *tcc_jit_symbol(TccJit *jit, const char *name)
{
  return tcc_get_symbol(jit->state, name);
}

void tcc_jit_free(TccJit *jit)
{
  if (!jit)
    return;
  pthread_mutex_lock(&one_at_a_time);
  tcc_delete(jit->state);
  pthread_mutex_unlock(&one_at_a_time);
  free(jit);
}
