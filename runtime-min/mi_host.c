/* mi_host.c - memory, time, processors and randomness, from POSIX and Linux.
 *
 * Products of matrices saturate a core's units from one thread, so the default number of threads is
 * the number of physical cores; sibling threads of a core would only share them. */
#define _GNU_SOURCE
#include "mi_host.h"

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#include <sys/random.h>
#endif

enum { CPUS_MAX = 8192, WORD_BITS = sizeof(unsigned long) * CHAR_BIT, WORDS = CPUS_MAX / WORD_BITS };

typedef struct {
  unsigned long word[WORDS];
} CpuSet;

void *mi_host_map(size_t bytes)
{
  void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

  return p == MAP_FAILED ? NULL : p;
}

void mi_host_unmap(void *memory, size_t bytes)
{
  if (memory)
    munmap(memory, bytes);
}

void mi_host_want_large_pages(const void *p, size_t bytes)
{
#ifdef MADV_HUGEPAGE
  (void)madvise((void *)(uintptr_t)p, bytes, MADV_HUGEPAGE);
#else
  (void)p;
  (void)bytes;
#endif
}

uint64_t mi_host_clock_ns(void)
{
  struct timespec t;

  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint32_t mi_host_random(void)
{
  uint32_t r;

#ifdef __linux__
  if (getrandom(&r, sizeof r, GRND_NONBLOCK) == sizeof r)
    return r;
#endif
  uint64_t t = mi_host_clock_ns() + ((uint64_t)getpid() << 32);
  r = (uint32_t)((t * 0x9e3779b97f4a7c15u) >> 32);
  return r;
}

static bool has_cpu(const CpuSet *set, unsigned cpu)
{
  return cpu < CPUS_MAX && (set->word[cpu / WORD_BITS] >> (cpu % WORD_BITS) & 1);
}

static bool allowed_cpus(CpuSet *set)
{
  *set = (CpuSet){{0}};
#ifdef __linux__
  return sched_getaffinity(0, sizeof *set, (cpu_set_t *)set) == 0;
#else
  return false;
#endif
}

unsigned mi_host_cpus(void)
{
  CpuSet set;
  unsigned n = 0;

  if (!allowed_cpus(&set)) {
#ifdef __linux__
    return 1; /* musl's sysconf() would ask the same, and say that, in 1.7 KB of every program */
#else
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (unsigned)online : 1;
#endif
  }
  for (unsigned i = 0; i < CPUS_MAX; i++)
    n += has_cpu(&set, i);
  return n ? n : 1;
}

/* The start of a small text file, zero-terminated; false if it cannot be read. */
static bool read_start(const char *path, char *out, size_t cap)
{
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, out, cap - 1);

  if (fd >= 0)
    close(fd);
  if (n <= 0)
    return false;
  out[n] = 0;
  return true;
}

/* The number at *p; steps over it. -1: no digit there. */
static long take_number(const char **p)
{
  long n = 0;

  if (**p < '0' || **p > '9')
    return -1;
  for (; **p >= '0' && **p <= '9' && n < LONG_MAX / 16; (*p)++)
    n = n * 10 + (**p - '0');
  return n;
}

/* The lowest logical processor of this one's core, as "3,7" or "2-3" names it first; -1: not known. */
static long first_sibling(unsigned cpu)
{
  static const char before[] = "/sys/devices/system/cpu/cpu", after[] = "/topology/thread_siblings_list";
  char path[sizeof before + sizeof after + 12], digits[12], text[64];
  char *at = path;
  const char *p = text;
  int n = 0;

  do
    digits[n++] = (char)('0' + cpu % 10);
  while (cpu /= 10);
  for (const char *c = before; *c; c++)
    *at++ = *c;
  while (n)
    *at++ = digits[--n];
  for (const char *c = after; (*at++ = *c); c++) {
  }
  return read_start(path, text, sizeof text) ? take_number(&p) : -1;
}

/* A container may own few processors' time on a machine with many: "200000 100000" is two of them. */
static unsigned quota_cpus(void)
{
  char text[64];
  const char *p = text;

  if (!read_start("/sys/fs/cgroup/cpu.max", text, sizeof text))
    return UINT_MAX;
  long quota = take_number(&p);
  p += *p == ' ';
  long period = take_number(&p);
  if (quota <= 0 || period <= 0)
    return UINT_MAX;
  long n = (quota + period - 1) / period;
  return n > 0 && n < CPUS_MAX ? (unsigned)n : UINT_MAX;
}

static unsigned count_cores(void)
{
  CpuSet cpus, cores = {{0}};
  unsigned n = 0;

  if (!allowed_cpus(&cpus))
    return mi_host_cpus();
  for (unsigned i = 0; i < CPUS_MAX; i++) {
    if (!has_cpu(&cpus, i))
      continue;
    long core = first_sibling(i);
    if (core < 0 || core >= CPUS_MAX)
      return mi_host_cpus();
    n += !has_cpu(&cores, (unsigned)core);
    cores.word[core / WORD_BITS] |= 1ul << (core % WORD_BITS);
  }
  return n ? n : 1;
}

unsigned mi_host_cores(void)
{
  unsigned cores = count_cores(), quota = quota_cpus();

  return cores < quota ? cores : quota;
}
