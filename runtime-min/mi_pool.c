/* mi_pool.c - a fork-join pool: workers spin for a moment, then sleep.
 *
 * Each thread owns a share, so that a thread meets the same weights at each token, and the results that it has made
 * itself, and takes it in pieces; who has finished takes from others. A share's cursor carries the
 * number of the run: a cursor of an older run reads as "nothing taken yet", and no one has to reset it.
 *
 * A worker enters a run through a gate, and nobody waits for one that has not come: the main thread does
 * what is left, closes the gate, and waits only for those inside. So a worker that the system has put
 * aside, on a busy machine, costs its share of the speed, but no time slice for each launch.
 *
 * Sleeping follows Dekker's pattern: a sleeper first says that it sleeps, and then the futex compares the
 * gate; a waker first changes the gate, and then looks for sleepers. Both with seq_cst. */
#define _GNU_SOURCE
#include "mi_pool.h"
#include "mi_host.h"

#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
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

/* The gate: how many workers are inside, whether it is open, the run's number above that (cut off: a worker
 * that sleeps for exactly 2^20 runs misses one, which is harmless). */
enum { INSIDE = 0x7ff, OPEN = 0x800, RUN_SHIFT = 12 };

typedef struct {
  _Alignas(64) _Atomic uint64_t cursor; /* run << 32 | next iteration */
  MiPool *pool;
  unsigned index;
  pthread_t thread;
} Worker;

_Static_assert((int)MI_POOL_MAX <= (int)INSIDE, "the gate counts all workers");

struct MiPool {
  _Alignas(64) _Atomic uint32_t gate;
  _Atomic uint32_t sleepers;     /* workers that wait for it to open */
  _Atomic uint32_t main_sleeps;  /* the main thread waits for it to be left */
  _Alignas(64) MiPoolWork *work; /* from here on: written only when nobody is inside */
  MiPoolLength *length;
  void *job;
  uint32_t run;
  unsigned n_threads;
  unsigned spin_ns;
  bool quit;
#ifndef __linux__
  pthread_mutex_t lock;
  pthread_cond_t changed;
#endif
  Worker workers[]; /* [0] is the caller */
};

#ifdef __linux__
static void sleep_while(MiPool *p, uint32_t gate)
{
  syscall(SYS_futex, &p->gate, FUTEX_WAIT_PRIVATE, gate, NULL, NULL, 0);
}

static void wake_all(MiPool *p)
{
  syscall(SYS_futex, &p->gate, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}
#else
static void sleep_while(MiPool *p, uint32_t gate)
{
  pthread_mutex_lock(&p->lock);
  if (atomic_load(&p->gate) == gate)
    pthread_cond_wait(&p->changed, &p->lock);
  pthread_mutex_unlock(&p->lock);
}

static void wake_all(MiPool *p)
{
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

/* Whether the gate is what the waiting thread wants: open for a run that it has not seen, or left by all. */
typedef bool Wanted(uint32_t gate, uint32_t run);

static bool is_new_run(uint32_t gate, uint32_t last)
{
  return (gate & OPEN) && gate >> RUN_SHIFT != (last << RUN_SHIFT) >> RUN_SHIFT;
}

static bool is_left(uint32_t gate, uint32_t run)
{
  (void)run;
  return !(gate & INSIDE);
}

/* Spins, then sleeps, until the gate is as wanted; returns it. */
static uint32_t wait_for(MiPool *p, Wanted *wanted, uint32_t run, _Atomic uint32_t *asleep)
{
  uint64_t start = p->spin_ns ? mi_host_clock_ns() : 0;
  uint32_t gate;

  do {
    for (int i = 0; i < SPINS_PER_LOOK; i++) {
      gate = atomic_load_explicit(&p->gate, memory_order_acquire);
      if (wanted(gate, run))
        return gate;
      if (!p->spin_ns)
        break;
      relax();
    }
  } while (p->spin_ns && mi_host_clock_ns() - start < p->spin_ns);
  atomic_fetch_add(asleep, 1);
  while (!wanted(gate = atomic_load(&p->gate), run))
    sleep_while(p, gate);
  atomic_fetch_sub(asleep, 1);
  return gate;
}

/* Takes the next piece of a share: a third of what is left of it. */
static bool take(MiPool *p, MiPoolPiece *piece)
{
  int64_t end = p->length(p->job, piece->share, p->n_threads), least = (end + PIECES_MAX - 1) / PIECES_MAX;
  _Atomic uint64_t *cursor = &p->workers[piece->share].cursor;
  uint64_t seen = atomic_load_explicit(cursor, memory_order_relaxed);

  for (;;) {
    bool fresh = seen >> 32 != p->run;
    int64_t next = fresh ? 0 : (int64_t)(uint32_t)seen, some = (end - next) / 3;
    if (next >= end)
      return false;
    some = some < least ? least : some;
    piece->lo = next;
    piece->hi = end - next < some ? end : next + some;
    uint64_t taken = (uint64_t)p->run << 32 | (uint32_t)piece->hi;
    if (atomic_compare_exchange_weak_explicit(cursor, &seen, taken, memory_order_relaxed,
                                              memory_order_relaxed))
      return true;
  }
}

/* The own share, then those of the others. Workers look at few of them, which is enough to keep busy; the
 * main thread at all. */
static void work_on(MiPool *p, unsigned self)
{
  MiPoolPiece piece = {.thread = self, .n_shares = p->n_threads};

  for (unsigned step = 0; step < p->n_threads; step = self == 0 || !step ? step + 1 : step * 2) {
    piece.share = (self + step) % p->n_threads;
    while (take(p, &piece))
      p->work(p->job, &piece);
  }
}

static bool enter(MiPool *p, uint32_t gate)
{
  return atomic_compare_exchange_strong(&p->gate, &gate, gate + 1);
}

static void leave(MiPool *p)
{
  uint32_t before = atomic_fetch_sub(&p->gate, 1);

  if ((before & (INSIDE | OPEN)) == 1 && atomic_load(&p->main_sleeps))
    wake_all(p);
}

static void *worker_main(void *arg)
{
  Worker *w = arg;
  MiPool *p = w->pool;
  uint32_t last = 0;

  for (;;) {
    if (!enter(p, wait_for(p, is_new_run, last, &p->sleepers)))
      continue; /* the gate has changed meanwhile */
    if (p->quit)
      return NULL;
    last = p->run;
    work_on(p, w->index);
    leave(p);
  }
}

static void open_gate(MiPool *p)
{
  p->run++;
  atomic_store(&p->gate, p->run << RUN_SHIFT | OPEN);
  if (atomic_load(&p->sleepers))
    wake_all(p);
}

void mi_pool_run(MiPool *p, MiPoolWork *work, MiPoolLength *length, void *job)
{
  if (p->n_threads == 1) { /* nobody to wait for */
    work(job, &(MiPoolPiece){.n_shares = 1, .hi = length(job, 0, 1)});
    return;
  }
  p->work = work;
  p->length = length;
  p->job = job;
  open_gate(p);
  work_on(p, 0);
  atomic_fetch_and(&p->gate, ~(uint32_t)OPEN);
  wait_for(p, is_left, 0, &p->main_sleeps);
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
  p->quit = true;
  open_gate(p);
  for (unsigned i = 1; i < p->n_threads; i++)
    pthread_join(p->workers[i].thread, NULL);
}
