/* mi_engine.c - walks the launches of an entry point: what each token goes through. How it begins: mi_engine_open.c. */
#include "mi_engine.h"
#include "mi_host.h"

#include <string.h>

enum { MI_ARGS = 3 }; /* of the call; a grid's constants follow */

/* Below this many bytes and multiply-adds, a launch is over before the workers would have noticed. After one that they
 * took part in it is worth less to stay alone: half of what it reads lies in their caches. */
enum { SMALL_WORK = 400000, SMALL_WORK_AMONG = 100000 };

/* A multiply-add of attention takes so many times as long as one of codes: floats, of keys and values that the weights have
 * driven from the caches since the token before. */
enum { ATTENTION_COST = 16 };

typedef struct {
  const MiEngine *e;
  const MiPart *part;  /* the launch's first */
  const MiGrid *grids; /* of the entry */
  int32_t args[MI_ARGS];
  bool among; /* the launch before was for all threads */
} Job;

_Static_assert(sizeof(Job) <= MI_POOL_JOB, "threads get a copy");

static int64_t iterations(const MiGrid *g, const int32_t *args)
{
  return (int64_t)g->grid * mi_times(g->times, g->span, args);
}

typedef struct {
  int64_t first, count;
} Range;

/* A share of a launch has a share of each of its parts, one behind the other: parts differ in what an iteration costs,
 * and a thread finds more of what it reads among what it has just written. */
static Range share_of(const Job *job, const MiPart *part, unsigned share, unsigned n_shares)
{
  int64_t all = iterations(&job->grids[part->grid], job->args), first = mi_pool_begin(all, share, n_shares);

  return (Range){first, mi_pool_begin(all, share + 1, n_shares) - first};
}

static int64_t length_of_share(const void *job, unsigned share, unsigned n_shares)
{
  const MiPart *part = ((const Job *)job)->part;
  int64_t length = 0;

  do
    length += share_of(job, part, share, n_shares).count;
  while (!part++->last);
  return length;
}

static void run_piece(const void *arg, const MiPoolPiece *piece)
{
  const Job *job = arg;
  const MiEngine *e = job->e;
  int64_t lo = piece->lo, hi = piece->hi;
  int32_t args[MI_ARGS + MI_CONSTANTS];
  uint8_t *const *pointers = e->pointers + (size_t)piece->thread * e->image->n_binds;

  memcpy(args, job->args, sizeof job->args);
  for (const MiPart *part = job->part; hi > 0; part++) {
    const MiGrid *g = &job->grids[part->grid];
    Range r = share_of(job, part, piece->share, piece->n_shares);
    int64_t end = hi < r.count ? hi : r.count;
    if (lo < end) {
      memcpy(args + MI_ARGS, g->constant, sizeof g->constant);
      e->kernels[g->kernel](pointers + part->first_bind, args, r.first + lo, r.first + end);
    }
    lo = lo > r.count ? lo - r.count : 0;
    hi -= r.count;
  }
}

typedef struct {
  const MiPart *last;
  int64_t iterations;
  double bytes, ops, cost; /* cost: multiply-adds of codes and bytes that take as long */
  bool alone;              /* not worth waking anyone */
} Work;

static Work work_of(const Job *job)
{
  uint32_t tokens = (uint32_t)job->args[1], seen = (uint32_t)job->args[0] + tokens;
  Work w = {0};
  bool known = true;

  for (const MiPart *part = job->part; !w.last; part++) {
    const MiGrid *g = &job->grids[part->grid];
    double times = !g->span ? 1 : seen < g->span ? seen : g->span;
    w.iterations += iterations(g, job->args);
    double bytes = g->bytes * times, ops = g->ops * times * tokens;
    w.bytes += bytes;
    w.ops += ops;
    w.cost += bytes + ops * (g->span ? ATTENTION_COST : 1);
    known &= g->ops > 0; /* bytes alone say nothing of activations */
    w.last = part->last ? part : NULL;
  }
  w.alone = w.iterations <= 1 || (known && w.cost < (double)(job->among ? SMALL_WORK_AMONG : SMALL_WORK));
  return w;
}

/* Returns the first part of the next launch. */
static const MiPart *run_launch(MiEngine *e, Job *job)
{
  Work w = work_of(job);
  uint64_t start = e->profiling ? mi_host_clock_ns() : 0;

  if (w.alone)
    run_piece(job, &(MiPoolPiece){.n_shares = 1, .hi = w.iterations});
  else
    mi_pool_run(e->pool, run_piece, length_of_share, job, sizeof *job);
  job->among = !w.alone;
  if (e->profiling) {
    MiProfileRow *r = &e->profile[job->part - e->parts];
    r->calls++;
    r->ns += mi_host_clock_ns() - start;
    r->bytes += w.bytes;
    r->ops += w.ops;
  }
  return w.last + 1;
}

bool mi_engine_run(MiEngine *e, int entry, const int32_t *tokens, uint32_t n, uint32_t pos)
{
  const MiImage *h = e->image;

  if (entry < 0 || (uint32_t)entry >= h->n_entries)
    return false;
  const MiEntry *en = &e->entries[entry];
  if (n < 1 || n > en->tokens || pos > h->context || n > h->context - pos)
    return false;
  const MiPart *part = e->parts + en->first_part, *end = part + en->n_parts;
  Job job = {.e = e, .grids = e->grids + en->first_grid, .args = {(int32_t)pos, (int32_t)n, (int32_t)e->top}};
  if (tokens)
    memcpy(e->arena + h->tokens_at, tokens, n * sizeof *tokens);
  for (job.part = part; job.part < end;)
    job.part = run_launch(e, &job);
  return true;
}
