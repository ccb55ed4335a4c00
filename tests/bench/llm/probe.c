/* probe.c - what this machine can do at most: bytes read from memory, float multiply-adds and 8-bit multiply-adds in a
 * second, on so many threads. Prints one JSON object. Built by run.sh with the host's compiler for the host's processor.
 *   cc -O3 -march=native -pthread probe.c -o probe && ./probe 2 */
#include <immintrin.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MEMORY_MB = 768, ROUNDS = 3, MAX_THREADS = 64 };
static const double seconds_each = 0.4;

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

static void read_memory(Task *t)
{
  const int64_t *p = (const void *)t->memory;
  size_t n = t->bytes / 8;
  int64_t s[8] = {0};

  for (size_t i = 0; i + 8 <= n; i += 8)
    for (int j = 0; j < 8; j++)
      s[j] += p[i + (size_t)j];
  for (int j = 0; j < 8; j++)
    t->sink += s[j];
  t->done += (double)t->bytes;
}

enum { CHAINS = 10, STEPS = 200000 };

#ifdef __AVX512F__
typedef __m512 Floats;
#define ZERO_F       _mm512_set1_ps
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
typedef __m512i Bytes;
#elif defined(__FMA__)
typedef __m256 Floats;
#define ZERO_F       _mm256_set1_ps
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
typedef __m256i Bytes;
#else
typedef __m128 Floats;
#define ZERO_F       _mm_set1_ps
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

static void multiply_floats(Task *t)
{
  Floats s[CHAINS], a = ZERO_F(1.0000001f), b = ZERO_F(1e-9f);
  float out[sizeof(Floats) / 4];

  for (int c = 0; c < CHAINS; c++)
    s[c] = ZERO_F((float)c);
  for (int i = 0; i < STEPS; i++)
    for (int c = 0; c < CHAINS; c++) {
      s[c] = FMA(s[c], a, b);
      __asm__("" : "+x"(s[c]));
    }
  for (int c = 0; c < CHAINS; c++) {
    memcpy(out, &s[c], sizeof out);
    t->sink += (int64_t)out[0];
  }
  t->done += 2.0 * STEPS * CHAINS * (double)(sizeof(Floats) / 4);
}

#define MULTIPLY_BYTES(name, STEP)                                                                           \
  static void name(Task *t)                                                                                  \
  {                                                                                                          \
    Bytes s[CHAINS], a, b;                                                                                   \
    int32_t out[sizeof(Bytes) / 4];                                                                          \
                                                                                                             \
    memset(&a, 3, sizeof a);                                                                                 \
    memset(&b, 1, sizeof b);                                                                                 \
    memset(s, 0, sizeof s);                                                                                  \
    for (int i = 0; i < STEPS; i++)                                                                          \
      for (int c = 0; c < CHAINS; c++) {                                                                     \
        __asm__("" : "+x"(a)); /* nothing is hoisted */                                                      \
        s[c] = STEP(s[c], a, b);                                                                             \
        __asm__("" : "+x"(s[c]));                                                                            \
      }                                                                                                      \
    for (int c = 0; c < CHAINS; c++) {                                                                       \
      memcpy(out, &s[c], sizeof out);                                                                        \
      t->sink += out[0];                                                                                     \
    }                                                                                                        \
    t->done += 2.0 * STEPS * CHAINS * (double)sizeof(Bytes);                                                 \
  }

MULTIPLY_BYTES(multiply_bytes, DOT)
MULTIPLY_BYTES(multiply_bytes_wide, WIDE)

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

static double measure(Work *work, int threads, const uint8_t *memory)
{
  static Thread t[MAX_THREADS];
  pthread_t id[MAX_THREADS];
  pthread_barrier_t start;
  double best = 0;

  for (int round = 0; round < ROUNDS; round++) {
    size_t share = ((size_t)MEMORY_MB << 20) / (size_t)threads / 64 * 64;
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

int main(int argc, char **argv)
{
  int threads = argc > 1 ? atoi(argv[1]) : 1;
  uint8_t *memory = malloc((size_t)MEMORY_MB << 20);

  if (threads < 1 || threads > MAX_THREADS || !memory)
    return 1;
  memset(memory, 1, (size_t)MEMORY_MB << 20);
  printf("{\"threads\": %d, \"read_gbs\": %.2f, ", threads, measure(read_memory, threads, memory) / 1e9);
  printf("\"fma_gflops\": %.1f, ", measure(multiply_floats, threads, memory) / 1e9);
  printf("\"wide_gops\": %.1f, ", measure(multiply_bytes_wide, threads, memory) / 1e9);
  printf("\"int8_gops\": %.1f, \"int8\": \"%s\"}\n", measure(multiply_bytes, threads, memory) / 1e9, INT8);
  free(memory);
  return 0;
}
