/* crew.c - see crew.h. Workers take the next job from a counter in shared memory, and say there which one they have. */
#include "tests/e2e/support/crew.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { WORKERS_MAX = 16 };

typedef struct {
  atomic_uint next;
  uint32_t has[WORKERS_MAX]; /* 1 + the job; 0: none */
} Board;

typedef struct {
  const Crew *crew;
  Board *board;
  char *results;
  pid_t pid[WORKERS_MAX];
} Shift;

static void *shared_memory(size_t bytes)
{
  void *p = mmap(NULL, bytes + 1, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return p == MAP_FAILED ? NULL : p;
}

static void work(const Shift *s, unsigned worker)
{
  const Crew *c = s->crew;

  for (uint32_t job; (job = atomic_fetch_add(&s->board->next, 1)) < c->jobs;) {
    s->board->has[worker] = job + 1;
    alarm(c->seconds);
    c->run(c->ctx, job, s->results + job * c->result_bytes);
    s->board->has[worker] = 0;
  }
  fflush(stdout);
  _exit(0);
}

static bool start(Shift *s, unsigned worker)
{
  s->board->has[worker] = 0;
  s->pid[worker] = fork();
  if (s->pid[worker] == 0)
    work(s, worker);
  return s->pid[worker] > 0;
}

static unsigned worker_of(const Shift *s, pid_t pid)
{
  unsigned i = 0;

  while (i < s->crew->workers && s->pid[i] != pid)
    i++;
  return i;
}

static const char *how_it_ended(int status, unsigned seconds, char *buf, size_t size)
{
  if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)
    snprintf(buf, size, "more than %u seconds", seconds);
  else if (WIFSIGNALED(status))
    snprintf(buf, size, "%s", strsignal(WTERMSIG(status)));
  else
    snprintf(buf, size, "exit status %d", WEXITSTATUS(status));
  return buf;
}

/* A worker that ends with a job in its hands has died of it. False: there are no workers any more. */
static bool watch(Shift *s)
{
  const Crew *c = s->crew;
  int status;
  char why[64];
  pid_t pid = wait(&status);
  unsigned w = worker_of(s, pid);

  if (pid < 0 || w == c->workers)
    return pid > 0;
  uint32_t job = s->board->has[w];
  s->pid[w] = 0;
  if (job)
    c->died(c->ctx, job - 1, s->results + (job - 1) * c->result_bytes,
            how_it_ended(status, c->seconds, why, sizeof why));
  return !job || start(s, w);
}

void *crew_run(const Crew *c)
{
  Shift s = {c, shared_memory(sizeof(Board)), shared_memory(c->jobs * c->result_bytes), {0}};
  bool ok = s.board && s.results && c->workers <= WORKERS_MAX;

  fflush(stdout);
  for (unsigned i = 0; ok && i < c->workers; i++)
    ok = start(&s, i);
  while (ok && watch(&s))
    ;
  return ok ? s.results : NULL;
}
