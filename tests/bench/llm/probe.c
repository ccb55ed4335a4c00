/* probe.c - what this machine can do at most, on so many threads: bytes read from memory, and over and over from so many
 * megabytes as a model has (caches may hold them); float multiply-adds; 8-bit multiply-adds. Prints one JSON object.
 *   cc -O3 -march=native -pthread probe.c -o probe && ./probe 2 235 */
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MEMORY_MB = 768, ROUNDS = 3, MAX_THREADS = 64 };
static const double seconds_each = 0.3;

static double now(void)
{
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

typedef struct {
  const uint8_t *memory; /* this thread's share */
  size_t bytes;
  double done; /* bytes, or operations */
  volatile int64_t sink;
  pthread_barrier_t *start;
} Task;

/* Two ways, and the better counts: from four places at once, and from one with lines asked for 2 KB ahead. */
enum { LINE = 8, AHEAD = 256 }; /* words */

static void read_places(Task *t)
{
  const int64_t *p = (const void *)t->memory;
  size_t quarter = t->bytes / 32 / LINE * LINE;
  int64_t s[4][LINE] = {{0}};

  for (size_t i = 0; i < quarter; i += LINE)
    for (size_t k = 0; k < 4; k++)
      for (size_t j = 0; j < LINE; j++)
        s[k][j] += p[k * quarter + i + j];
  for (int k = 0; k < 4; k++)
    for (int j = 0; j < LINE; j++)
      t->sink += s[k][j];
  t->done += (double)(quarter * 32);
}

static void read_ahead(Task *t)
{
  const int64_t *p = (const void *)t->memory;
  size_t n = t->bytes / 8 / (4 * LINE) * (4 * LINE);
  int64_t s[4 * LINE] = {0};

  for (size_t i = 0; i < n; i += 4 * LINE) {
    for (size_t k = 0; k < 4; k++)
      __builtin_prefetch(t->memory + (i + AHEAD + k * LINE) * 8, 0, 2);
    for (size_t j = 0; j < 4 * LINE; j++)
      s[j] += p[i + j];
  }
  for (int j = 0; j < 4 * LINE; j++)
    t->sink += s[j];
  t->done += (double)(n * 8);
}

enum { STEPS = 200000 };

#ifdef __AVX512F__
typedef __m512 Floats;
#define ALL_F        _mm512_set1_ps
#define ALL_B        _mm512_set1_epi8
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
typedef __m512i Bytes;
#elif defined(__FMA__)
typedef __m256 Floats;
#define ALL_F        _mm256_set1_ps
#define ALL_B        _mm256_set1_epi8
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
typedef __m256i Bytes;
#else
typedef __m128 Floats;
#define ALL_F        _mm_set1_ps
#define ALL_B        _mm_set1_epi8
#define FMA(a, b, c) _mm_add_ps(_mm_mul_ps(a, b), c)
typedef __m128i Bytes;
#endif

/* One step of 8-bit pairs: the processor's own instruction, else pairs in 16 bits added in 16 bits (DOT) or, as full 8-bit
 * codes need it, widened at once and added in 32 (WIDE). */
#if defined(__AVX512VNNI__)
#define INT8          "vpdpbusd"
#define DOT(s, a, b)  _mm512_dpbusd_epi32(s, a, b)
#define WIDE(s, a, b) DOT(s, a, b)
#elif defined(__AVXVNNI__)
#define INT8          "vpdpbusd"
#define DOT(s, a, b)  _mm256_dpbusd_epi32(s, a, b)
#define WIDE(s, a, b) DOT(s, a, b)
#elif defined(__AVX512BW__)
#define INT8          "vpmaddubsw, 16-bit sums"
#define DOT(s, a, b)  _mm512_add_epi16(s, _mm512_maddubs_epi16(a, b))
#define WIDE(s, a, b) _mm512_add_epi32(s, _mm512_madd_epi16(_mm512_maddubs_epi16(a, b), _mm512_set1_epi16(1)))
#elif defined(__AVX2__)
#define INT8          "vpmaddubsw, 16-bit sums"
#define DOT(s, a, b)  _mm256_add_epi16(s, _mm256_maddubs_epi16(a, b))
#define WIDE(s, a, b) _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)))
#else
#define INT8          "pmaddubsw, 16-bit sums"
#define DOT(s, a, b)  _mm_add_epi16(s, _mm_maddubs_epi16(a, b))
#define WIDE(s, a, b) _mm_add_epi32(s, _mm_madd_epi16(_mm_maddubs_epi16(a, b), _mm_set1_epi16(1)))
#endif

/* The sums have names: an array of them would live in memory, and its stores would be what is measured. The operands are
 * opaque, so that no product is computed once for all. There are more sums than two instructions a cycle, each of 5 cycles,
 * keep under way: with 10 vpdpbusd showed a tenth less than the processor does. */
#define EACH_12(X) X(s0) X(s1) X(s2) X(s3) X(s4) X(s5) X(s6) X(s7) X(s8) X(s9) X(s10) X(s11)
#ifdef __AVX512F__
#define EACH(X) EACH_12(X) X(s12) X(s13) X(s14) X(s15) X(s16) X(s17) X(s18) X(s19)
enum { CHAINS = 20 };
#else
#define EACH(X) EACH_12(X)
enum { CHAINS = 12 };
#endif
#define ZERO(s) Vector s = {0};
#define STEP(s)                                                                                              \
  s = OP(s, a, b);                                                                                           \
  __asm__("" : "+x"(s), "+x"(a));
#define KEEP(s)                                                                                              \
  memcpy(&out, &s, sizeof out);                                                                              \
  t->sink += out;
#define BODY(lanes)                                                                                          \
  int64_t out;                                                                                               \
                                                                                                             \
  __asm__("" : "+x"(b));                                                                                     \
  EACH(ZERO)                                                                                                 \
  for (int i = 0; i < STEPS; i++) {                                                                          \
    EACH(STEP)                                                                                               \
  }                                                                                                          \
  EACH(KEEP)                                                                                                 \
  t->done += 2.0 * STEPS * CHAINS * (double)(lanes)

static void multiply_floats(Task *t)
{
  typedef Floats Vector;
  Vector a = ALL_F(1.0000001f), b = ALL_F(1e-9f);
#define OP FMA
  BODY(sizeof a / sizeof(float));
#undef OP
}

static void multiply_bytes(Task *t)
{
  typedef Bytes Vector;
  Vector a = ALL_B(3), b = ALL_B(1);
#define OP DOT
  BODY(sizeof a);
#undef OP
}

static void multiply_bytes_wide(Task *t)
{
  typedef Bytes Vector;
  Vector a = ALL_B(3), b = ALL_B(1);
#define OP WIDE
  BODY(sizeof a);
#undef OP
}

typedef void Work(Task *t);

typedef struct {
  Task task;
  Work *work;
  double rate;
} Thread;

static void *run(void *arg)
{
  Thread *t = arg;
  t->work(&t->task); /* touches the memory, wakes the units */
  pthread_barrier_wait(t->task.start);
  t->task.done = 0;
  double begin = now(), end;
  do {
    t->work(&t->task);
    end = now();
  } while (end - begin < seconds_each);
  t->rate = t->task.done / (end - begin);
  return NULL;
}

static double measure(Work *work, int threads, const uint8_t *memory, size_t bytes)
{
  static Thread t[MAX_THREADS];
  pthread_t id[MAX_THREADS];
  pthread_barrier_t start;
  double best = 0;

  for (int round = 0; round < ROUNDS; round++) {
    size_t share = bytes / (size_t)threads / 64 * 64;
    double sum = 0;
    pthread_barrier_init(&start, NULL, (unsigned)threads);
    for (int i = 0; i < threads; i++) {
      t[i] = (Thread){{memory + share * (size_t)i, share, 0, 0, &start}, work, 0};
      pthread_create(&id[i], NULL, run, &t[i]);
    }
    for (int i = 0; i < threads; i++) {
      pthread_join(id[i], NULL);
      sum += t[i].rate;
    }
    pthread_barrier_destroy(&start);
    best = sum > best ? sum : best;
  }
  return best;
}

static double measure_reads(int threads, const uint8_t *memory, size_t mb)
{
  double a = measure(read_places, threads, memory, mb << 20),
         b = measure(read_ahead, threads, memory, mb << 20);

  return a > b ? a : b;
}

int main(int argc, char **argv)
{
  int threads = argc > 1 ? atoi(argv[1]) : 1, own = argc > 2 ? atoi(argv[2]) : MEMORY_MB;
  uint8_t *memory = aligned_alloc(4096, (size_t)MEMORY_MB << 20);

  if (threads < 1 || threads > MAX_THREADS || own < 1 || !memory)
    return 1;
  own = own < MEMORY_MB ? own : MEMORY_MB;
  memset(memory, 1, (size_t)MEMORY_MB << 20);
  double reads = measure_reads(threads, memory, MEMORY_MB);
  printf("{\"threads\": %d, \"read_gbs\": %.2f, ", threads, reads / 1e9);
  printf("\"own_mb\": %d, \"own_gbs\": %.2f, ", own,
         (own < MEMORY_MB ? measure_reads(threads, memory, (size_t)own) : reads) / 1e9);
  printf("\"fma_gflops\": %.1f, ", measure(multiply_floats, threads, memory, 0) / 1e9);
  printf("\"wide_gops\": %.1f, ", measure(multiply_bytes_wide, threads, memory, 0) / 1e9);
  printf("\"int8_gops\": %.1f, \"int8\": \"%s\"}\n", measure(multiply_bytes, threads, memory, 0) / 1e9, INT8);
  free(memory);
  return 0;
}
