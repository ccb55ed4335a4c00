/* proc.c - see proc.h */
#define _GNU_SOURCE
#include "tests/e2e/support/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { TICK_MS = 2, DEFAULT_SECONDS = 60 };

typedef struct {
  int out, err, in;
} Ends;

static double now_ms(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* A file in memory, so that a program which does not read cannot block us. */
static int input_file(const char *text)
{
  int fd = memfd_create("input", MFD_CLOEXEC);
  size_t n = text ? strlen(text) : 0;

  if (fd >= 0 && n && write(fd, text, n) != (ssize_t)n)
    return -1;
  lseek(fd, 0, SEEK_SET);
  return fd;
}

/* ---- in the child */

static void give_up(const char *what)
{
  dprintf(2, "%s: %s\n", what, strerror(errno));
  _exit(127);
}

static void limit_files(unsigned long bytes)
{
  struct rlimit r = {bytes, bytes};
  if (bytes)
    setrlimit(RLIMIT_FSIZE, &r);
}

static void start(const ProcHow *how, const char *const *argv, const Ends *e)
{
  int out = how->out_path ? open(how->out_path, O_WRONLY) : e->out;

  setpgid(0, 0); /* so that the time limit ends its children too */
  if (out < 0 || dup2(e->in, 0) < 0 || dup2(out, 1) < 0 || dup2(e->err, 2) < 0)
    give_up(how->out_path);
  if (how->dir && chdir(how->dir))
    give_up(how->dir);
  if (how->root && (chroot(how->root) || chdir("/")))
    give_up(how->root);
  limit_files(how->file_limit);
  if (how->umask_bits)
    umask(how->umask_bits);
  for (int fd = 0; fd < 3; fd++)
    if (how->closed >> fd & 1)
      close(fd);
  char **words = (char **)(uintptr_t)argv; /* exec changes nothing of them */
  if (how->env)
    execvpe(words[0], words, (char **)(uintptr_t)how->env);
  else
    execvp(words[0], words);
  give_up(argv[0]);
}

/* ---- in the parent */

/* False at the end. */
static bool take(int fd, Text *t)
{
  char buf[8192];
  ssize_t n = read(fd, buf, sizeof buf);

  if (n > 0)
    text_add(t, buf, (size_t)n);
  return n > 0 || (n < 0 && errno == EINTR);
}

static bool event_came(const ProcHow *how, const Text *out)
{
  return !how->until || (*how->until ? !access(how->until, F_OK) : out->len > 0);
}

typedef struct {
  pid_t pid;
  double start, event; /* event: 0 until it came */
  bool signalled, timed_out;
} Watch;

static void watch(Watch *w, const ProcHow *how, const Text *out)
{
  double now = now_ms();
  int seconds = how->seconds ? how->seconds : DEFAULT_SECONDS;

  if (!w->event && event_came(how, out))
    w->event = now;
  if (how->signal && !w->signalled && w->event && now - w->event >= how->signal_ms) {
    kill(w->pid, how->signal);
    w->signalled = true;
  }
  if (!w->timed_out && now - w->start > seconds * 1e3) {
    kill(-w->pid, SIGKILL);
    w->timed_out = true;
  }
}

/* Reads until both streams end. A grandchild may hold them open longer than the program lives. */
static void follow(Watch *w, const ProcHow *how, int out_fd, int err_fd, Text *out, Text *err)
{
  struct pollfd fds[2] = {{out_fd, POLLIN, 0}, {err_fd, POLLIN, 0}};
  siginfo_t gone = {.si_pid = 0};

  while (fds[0].fd >= 0 || fds[1].fd >= 0) {
    int ready = poll(fds, 2, how->signal ? TICK_MS : 50);
    watch(w, how, out);
    if (ready > 0 && fds[0].revents && !take(out_fd, out))
      fds[0].fd = -1;
    if (ready > 0 && fds[1].revents && !take(err_fd, err))
      fds[1].fd = -1;
    if (!ready && !waitid(P_PID, (id_t)w->pid, &gone, WEXITED | WNOWAIT | WNOHANG) && gone.si_pid)
      break;
  }
}

static void finish(const Watch *w, Proc *p)
{
  struct rusage use = {.ru_maxrss = 0};
  int status = 0;

  while (wait4(w->pid, &status, 0, &use) < 0 && errno == EINTR)
    ;
  p->wall_ms = now_ms() - w->start;
  p->rss_kb = use.ru_maxrss;
  p->status = w->timed_out          ? PROC_TIMEOUT
              : WIFSIGNALED(status) ? 128 + WTERMSIG(status)
                                    : WEXITSTATUS(status);
}

Proc proc_run(Arena *a, const ProcHow *how, const char *const *argv)
{
  static const ProcHow plain;
  Proc p = {.status = PROC_FAILED, .out = "", .err = "no pipe"};
  Text out = {.arena = a}, err = {.arena = a};
  int o[2], e[2];

  how = how ? how : &plain;
  int in = input_file(how->input);
  if (in < 0 || pipe2(o, O_CLOEXEC) || pipe2(e, O_CLOEXEC))
    return p;
  text_add(&out, "", 0);
  text_add(&err, "", 0);
  Watch w = {.start = now_ms()};
  fflush(stdout);
  w.pid = fork();
  if (!w.pid)
    start(how, argv, &(Ends){o[1], e[1], in});
  close(in), close(o[1]), close(e[1]);
  if (w.pid > 0) {
    follow(&w, how, o[0], e[0], &out, &err);
    finish(&w, &p);
  }
  close(o[0]), close(e[0]);
  p.out = out.data, p.out_len = out.len;
  p.err = err.data, p.err_len = err.len;
  return p;
}

bool proc_crashed(const Proc *p)
{
  return p->status < 0 || p->status > 128 + 2; /* 130: Ctrl-C's own exit status */
}

size_t proc_lines(const char *text)
{
  size_t n = 0, len = strlen(text);

  for (size_t i = 0; i < len; i++)
    n += text[i] == '\n' || i + 1 == len;
  return n;
}
