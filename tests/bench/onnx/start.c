/* start.c - start PROGRAM [ARGUMENT...]: runs it, its standard output thrown away, and prints what it took as JSON: milliseconds
 * from before it was started until it had ended, and the most memory it had. A program of its own, since a child's peak counts
 * what its parent had when it forked. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double now_ms(void)
{
  struct timespec t;

  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void become(char **argv)
{
  int null = open("/dev/null", O_WRONLY);

  if (null >= 0)
    dup2(null, 1);
  execv(argv[0], argv);
  perror(argv[0]);
  _exit(127);
}

int main(int argc, char **argv)
{
  double begin = now_ms();
  struct rusage used;
  int status;

  if (argc < 2)
    return 2;
  pid_t child = fork();
  if (!child)
    become(argv + 1);
  if (child < 0 || wait4(child, &status, 0, &used) != child || !WIFEXITED(status) || WEXITSTATUS(status))
    return 1;
  printf("{\"ms\": %.3f, \"peak\": %ld}\n", now_ms() - begin, used.ru_maxrss * 1024);
  return 0;
}
