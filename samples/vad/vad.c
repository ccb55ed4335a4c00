/* vad.c - prints where somebody speaks in a recording: a C program that links a compiled model with a state.
 *
 *   vad RECORDING.wav       (16 kHz, one channel, 16 bits; or from standard input)
 *
 * The model is Silero VAD (silero_vad.onnx), compiled to libvad.a and vad.h. It hears 512 samples (32 ms) at a time, after the
 * 64 before them, and says how likely they are speech. What it remembers, `state`, is an input and an output: the caller
 * keeps it. So one thread can listen to many recordings in turn, and many threads to one each.
 * The rules that make segments of probabilities are those of Silero's get_speech_timestamps(). */
#include "vad.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  RATE = 16000,
  CONTEXT = 64,
  WINDOW = 512,
  STATE = 2 * 128,
  MIN_SPEECH = RATE / 4,    /* 250 ms: what is shorter is no speech */
  MIN_SILENCE = RATE / 10,  /* 100 ms: shorter pauses are within a segment */
  MARGIN = RATE * 30 / 1000 /* a segment is given 30 ms more at both ends */
};
static const float SPEECH = 0.5f, SILENCE = 0.35f; /* what lies between is as what was before */

/* ---- the recording */

static int stop(const char *why)
{
  fprintf(stderr, "vad: %s\n", why);
  return 1;
}

static uint32_t little(const uint8_t *p, int bytes)
{
  uint32_t x = 0;

  while (bytes--)
    x = x << 8 | p[bytes];
  return x;
}

static bool skip(FILE *f, uint32_t bytes)
{
  while (bytes && getc(f) != EOF)
    bytes--;
  return !bytes;
}

/* Leaves the file at the first sample and says how many there are. */
static const char *read_header(FILE *f, uint32_t *samples)
{
  uint8_t riff[12], chunk[8], format[16] = {0};

  if (fread(riff, 1, 12, f) != 12 || memcmp(riff, "RIFF", 4) || memcmp(riff + 8, "WAVE", 4))
    return "this is no WAV file";
  while (fread(chunk, 1, 8, f) == 8) {
    uint32_t bytes = little(chunk + 4, 4), used = 0;
    if (!memcmp(chunk, "data", 4)) {
      bool fits = little(format, 2) == 1 && little(format + 2, 2) == 1 && little(format + 4, 4) == RATE &&
                  little(format + 14, 2) == 16;
      *samples = bytes / 2;
      return fits ? NULL : "a recording is 16 kHz, one channel, 16 bits";
    }
    if (!memcmp(chunk, "fmt ", 4) && bytes >= 16)
      used = (uint32_t)fread(format, 1, 16, f);
    if (bytes == UINT32_MAX || !skip(f, bytes - used + bytes % 2)) /* chunks have even sizes */
      break;
  }
  return "the WAV file has no samples";
}

/* Up to WINDOW samples; what is missing at the end is silence. */
static uint32_t read_window(FILE *f, float *out)
{
  uint8_t bytes[2 * WINDOW] = {0};
  uint32_t n = (uint32_t)fread(bytes, 2, WINDOW, f);

  for (int i = 0; i < WINDOW; i++)
    out[i] = (float)(int16_t)little(bytes + 2 * i, 2) / 32768;
  return n;
}

/* ---- the model, and what it remembers between windows */

typedef struct {
  vad_context model;
  float input[CONTEXT + WINDOW], state[2][STATE], probability;
  int now; /* which of the states is read; the other one is written */
} Listener;

static bool listener_open(Listener *l)
{
  *l = (Listener){.model = {.arena = aligned_alloc(64, VAD_ARENA_BYTES)}};
  return l->model.arena;
}

/* The new samples stand in input + CONTEXT. */
static float listen(Listener *l)
{
  l->model.input = l->input;
  l->model.output = &l->probability;
  l->model.state = l->state[l->now];
  l->model.stateN = l->state[!l->now];
  vad_run(&l->model); /* fails only without an arena */
  l->now = !l->now;
  memcpy(l->input, l->input + WINDOW, CONTEXT * sizeof *l->input);
  return l->probability;
}

/* ---- segments, in samples */

typedef struct {
  bool speaking;
  uint32_t start, pause; /* pause: since when it may be over; 0: it is not */
  int n;
} Segments;

static void print_segment(Segments *s, uint32_t end, uint32_t length)
{
  uint32_t from = s->start > MARGIN ? s->start - MARGIN : 0,
           to = length - end > MARGIN ? end + MARGIN : length;

  if (end - s->start > MIN_SPEECH) {
    printf("%.3f to %.3f\n", (double)from / RATE, (double)to / RATE);
    s->n++;
  }
  s->speaking = false;
  s->pause = 0;
}

/* The window that begins at sample `at`. */
static void hear(Segments *s, float probability, uint32_t at, uint32_t length)
{
  if (probability >= SPEECH) {
    s->pause = 0;
    if (!s->speaking)
      s->start = at;
    s->speaking = true;
  } else if (probability < SILENCE && s->speaking) {
    if (!s->pause)
      s->pause = at;
    if (at - s->pause >= MIN_SILENCE)
      print_segment(s, s->pause, length);
  }
}

static int find_speech(FILE *f, uint32_t length)
{
  Listener l;
  Segments s = {0};
  uint32_t at = 0;

  if (!listener_open(&l))
    return stop("out of memory");
  for (uint32_t n = WINDOW; n == WINDOW && at < length; at += n) {
    n = read_window(f, l.input + CONTEXT);
    if (n)
      hear(&s, listen(&l), at, length);
  }
  if (s.speaking)
    print_segment(&s, length < at ? length : at, length);
  free(l.model.arena);
  printf("%d segment%s in %.3f s\n", s.n, s.n == 1 ? "" : "s", (double)length / RATE);
  return 0;
}

int main(int argc, char **argv)
{
  FILE *f = argc > 1 ? fopen(argv[1], "rb") : stdin;
  uint32_t length = 0;

  if (!f)
    return stop("the recording cannot be opened");
  const char *why = read_header(f, &length);
  int status = why ? stop(why) : find_speech(f, length);
  if (f != stdin)
    fclose(f);
  return status;
}
