/* mi_pool.c - a fork-join pool: workers spin for a moment, then sleep.
 *
 * Each thread owns a share, so that a thread meets the same weights at each token, and the results that it has made
 * itself, and takes it in pieces; who has finished takes from others. A share's cursor carries the
 * number of the run: a cursor of an older run reads as "nothing taken yet", and no one has to reset it.
 *
 * Launches last some microseconds, and a cache line takes a fifth of one from core to core: all that starts a run is one
 * line, and a worker's part in its end is another. Workers copy the run from that line as readers of a sequence lock do.
 * A copy may be stale, which is harmless: a run ends when all its iterations have been taken and done, so
 * whoever comes late finds nothing to take. Nobody waits for a worker that has not come: one that the system has put
 * aside, on a busy machine, costs its share of the speed, but no time slice for each launch.
 *
 * Sleeping follows Dekker's pattern: a sleeper first says that it sleeps, and then the futex compares the word that it
 * waits for; a waker first changes the word, and then looks for sleepers. Both with seq_cst. */
#define _GNU_SOURCE
#include "mi_pool.h"
#include "mi_host.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

enum {
  SPIN_NS = 50000,       /* launches follow each other within this; waking a sleeper costs about as much */
  SPINS_PER_LOOK = 32,   /* between two looks at the clock */
  PIECES_MAX = 8,        /* a piece is never smaller than this part of a share */
  STACK_BYTES = 1 << 19, /* kernels keep little on the stack */
};

typedef struct {
  MiPoolWork *work; /* NULL: the pool ends */
  MiPoolLength *length;
  uint64_t job[MI_POOL_JOB / sizeof(uint64_t)];
} Task;

typedef struct {
  _Alignas(64) _Atomic uint64_t cursor; /* of its share: run << 32 | next iteration */
  _Atomic uint64_t done;                /* iterations that this thread has ever done */
  MiPool *pool;
  unsigned index;
  pthread_t thread;
} Worker;

struct MiPool {
  _Alignas(64) _Atomic uint32_t run; /* odd while what follows is written; one line */
  _Atomic(MiPoolWork *) work;
  _Atomic(MiPoolLength *) length;
  _Atomic uint64_t job[MI_POOL_JOB / sizeof(uint64_t)];
  _Alignas(64) _Atomic uint32_t sleepers; /* workers that wait for a run */
  _Atomic uint32_t main_sleeps;           /* until `finished` changes */
  _Atomic uint32_t finished;
  uint64_t expected; /* iterations of all runs */
  unsigned n_threads;
  unsigned spin_ns;
#ifndef __linux__
  pthread_mutex_t lock;
  pthread_cond_t changed;
#endif
  Worker workers[]; /* [0] is the caller */
};

#ifdef __linux__
static void sleep_while(MiPool *p, _Atomic uint32_t *word, uint32_t value)
{
  (void)p;
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
}

static void wake_all(MiPool *p, _Atomic uint32_t *word)
{
  (void)p;
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}
#else
static void sleep_while(MiPool *p, _Atomic uint32_t *word, uint32_t value)
{
  pthread_mutex_lock(&p->lock);
  if (atomic_load(word) == value)
    pthread_cond_wait(&p->changed, &p->lock);
  pthread_mutex_unlock(&p->lock);
}

static void wake_all(MiPool *p, _Atomic uint32_t *word)
{
  (void)word;
  pthread_mutex_lock(&p->lock);
  pthread_cond_broadcast(&p->changed);
  pthread_mutex_unlock(&p->lock);
}
#endif

static inline void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("isb");
#endif
}

/* Whether what a thread waits for has come: a run after the one that it knows, or the end of all iterations. */
typedef bool Come(MiPool *p, uint32_t run);

static bool next_run(MiPool *p, uint32_t known)
{
  uint32_t run = atomic_load(&p->run);

  return run != known && !(run & 1);
}

static bool all_done(MiPool *p, uint32_t run)
{
  uint64_t done = 0;

  (void)run;
  for (unsigned i = 0; i < p->n_threads; i++)
    done += atomic_load(&p->workers[i].done);
  return done == p->expected;
}

static bool spin_until(MiPool *p, Come *come, uint32_t run)
{
  uint64_t start = p->spin_ns ? mi_host_clock_ns() : 0;

  do
    for (int i = 0; i < SPINS_PER_LOOK; i++) {
      if (come(p, run))
        return true;
      if (!p->spin_ns)
        return false;
      relax();
    }
  while (mi_host_clock_ns() - start < p->spin_ns);
  return false;
}

/* Spins, then sleeps, until it has come; `word` changes when it may have. */
static void wait_until(MiPool *p, Come *come, uint32_t run, _Atomic uint32_t *word, _Atomic uint32_t *asleep)
{
  if (spin_until(p, come, run))
    return;
  atomic_fetch_add(asleep, 1);
  for (;;) {
    uint32_t value = atomic_load(word);
    if (come(p, run))
      break;
    sleep_while(p, word, value);
  }
  atomic_fetch_sub(asleep, 1);
}

/* Takes the next piece of a share of `end` iterations: a third of what is left of it. */
static bool take(_Atomic uint64_t *cursor, uint32_t run, int64_t end, MiPoolPiece *piece)
{
  int64_t least = (end + PIECES_MAX - 1) / PIECES_MAX;
  uint64_t seen = atomic_load_explicit(cursor, memory_order_relaxed);

  for (;;) {
    int32_t ahead = (int32_t)((uint32_t)(seen >> 32) - run);
    int64_t next = ahead < 0 ? 0 : (int64_t)(uint32_t)seen, some = (end - next) / 3;
    if (ahead > 0 || next >= end)
      return false;
    some = some < least ? least : some;
    piece->lo = next;
    piece->hi = end - next < some ? end : next + some;
    uint64_t taken = (uint64_t)run << 32 | (uint32_t)piece->hi;
    if (atomic_compare_exchange_weak_explicit(cursor, &seen, taken, memory_order_relaxed,
                                              memory_order_relaxed))
      return true;
  }
}

static void add_done(MiPool *p, unsigned self, int64_t iterations)
{
  _Atomic uint64_t *done = &p->workers[self].done;

  if (!iterations)
    return;
  atomic_store(done, atomic_load_explicit(done, memory_order_relaxed) + (uint64_t)iterations);
  if (self && atomic_load(&p->main_sleeps)) {
    atomic_fetch_add(&p->finished, 1);
    wake_all(p, &p->finished);
  }
}

/* The own share, then those of the others. Workers look at few of them, which is enough to keep busy; the
 * main thread at all. What is done is said before the next share is looked at: someone may wait for it. Returns how
 * many iterations those shares have. */
static int64_t work_on(MiPool *p, unsigned self, uint32_t run, const Task *t)
{
  MiPoolPiece piece = {.thread = self, .n_shares = p->n_threads};
  int64_t length = 0;

  for (unsigned step = 0; step < p->n_threads; step = self == 0 || !step ? step + 1 : step * 2) {
    piece.share = (self + step) % p->n_threads;
    _Atomic uint64_t *cursor = &p->workers[piece.share].cursor;
    int64_t end = t->length(t->job, piece.share, p->n_threads), done = 0;
    while (take(cursor, run, end, &piece)) {
      t->work(t->job, &piece);
      done += piece.hi - piece.lo;
    }
    if (!end && !self) /* so that no cursor falls behind by more runs than their numbers can tell */
      atomic_store_explicit(cursor, (uint64_t)run << 32, memory_order_relaxed);
    add_done(p, self, done);
    length += end;
  }
  return length;
}

/* Copies what is to be done; false if the main thread was just writing it. */
static bool copy_task(MiPool *p, uint32_t *run, Task *t)
{
  *run = atomic_load_explicit(&p->run, memory_order_acquire);
  t->work = atomic_load_explicit(&p->work, memory_order_relaxed);
  t->length = atomic_load_explicit(&p->length, memory_order_relaxed);
  for (size_t i = 0; i < sizeof t->job / sizeof *t->job; i++)
    t->job[i] = atomic_load_explicit(&p->job[i], memory_order_relaxed);
  atomic_thread_fence(memory_order_acquire);
  return !(*run & 1) && atomic_load_explicit(&p->run, memory_order_relaxed) == *run;
}

static void *worker_main(void *arg)
{
  Worker *w = arg;
  MiPool *p = w->pool;
  uint32_t run = 0;
  Task task;

  for (;;) {
    wait_until(p, next_run, run, &p->run, &p->sleepers);
    while (!copy_task(p, &run, &task))
      relax();
    if (!task.work)
      return NULL;
    work_on(p, w->index, run, &task);
  }
}

static void begin_run(MiPool *p, const Task *t)
{
  uint32_t run = atomic_load_explicit(&p->run, memory_order_relaxed);

  atomic_store_explicit(&p->run, run + 1, memory_order_relaxed);
  atomic_thread_fence(memory_order_release);
  atomic_store_explicit(&p->work, t->work, memory_order_relaxed);
  atomic_store_explicit(&p->length, t->length, memory_order_relaxed);
  for (size_t i = 0; i < sizeof t->job / sizeof *t->job; i++)
    atomic_store_explicit(&p->job[i], t->job[i], memory_order_relaxed);
  atomic_store(&p->run, run + 2);
  if (atomic_load(&p->sleepers))
    wake_all(p, &p->run);
}

void mi_pool_run(MiPool *p, MiPoolWork *work, MiPoolLength *length, const void *job, size_t bytes)
{
  Task task = {.work = work, .length = length};

  if (p->n_threads == 1) { /* nobody to wait for */
    work(job, &(MiPoolPiece){.n_shares = 1, .hi = length(job, 0, 1)});
    return;
  }
  memcpy(task.job, job, bytes);
  begin_run(p, &task);
  p->expected += (uint64_t)work_on(p, 0, atomic_load_explicit(&p->run, memory_order_relaxed), &task);
  wait_until(p, all_done, 0, &p->finished, &p->main_sleeps);
}

size_t mi_pool_bytes(unsigned n_threads)
{
  return sizeof(MiPool) + n_threads * sizeof(Worker);
}

static bool start_workers(MiPool *p, unsigned n_threads)
{
  pthread_attr_t attr;
  sigset_t all, old;
  bool ok = true;

  pthread_attr_init(&attr);
  pthread_attr_setstacksize(&attr, STACK_BYTES);
  sigfillset(&all); /* signals are the main thread's */
  pthread_sigmask(SIG_SETMASK, &all, &old);
  for (; ok && p->n_threads < n_threads; p->n_threads += ok) {
    Worker *w = &p->workers[p->n_threads];
    w->pool = p;
    w->index = p->n_threads;
    ok = pthread_create(&w->thread, &attr, worker_main, w) == 0;
  }
  pthread_sigmask(SIG_SETMASK, &old, NULL);
  pthread_attr_destroy(&attr);
  return ok;
}

MiPool *mi_pool_start(void *memory, unsigned n_threads)
{
  MiPool *p = memory;

  p->n_threads = 1;
  if (n_threads > 1) {
    p->spin_ns = n_threads <= mi_host_cpus() ? SPIN_NS : 0;
#ifndef __linux__
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->changed, NULL);
#endif
  }
  if (start_workers(p, n_threads))
    return p;
  mi_pool_stop(p);
  return NULL;
}

void mi_pool_stop(MiPool *p)
{
  begin_run(p, &(Task){0});
  for (unsigned i = 1; i < p->n_threads; i++)
    pthread_join(p->workers[i].thread, NULL);
}
