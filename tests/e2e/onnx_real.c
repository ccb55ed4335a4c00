/* onnx_real.c - real inputs through compiled ONNX programs, prepared as the models' authors say:
 *
 *   SqueezeNet    two pictures; the labels, and the scores that ONNX Runtime 1.32 gives
 *   Magika        contents of files; labels and scores of Magika itself (its reference examples)
 *
 * Faces and speech: tests/samples.sh. */
#include "ir/dtype.h"
#include "tests/e2e/support/proc.h"
#include "tests/e2e/support/scene.h"
#include "tests/e2e/support/tally.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdio.h>
#include <unistd.h>

#define MODELS MICC_SHARED_DIR "/models"
#define MAGIKA MODELS "/onnx-magika"

static Arena arena;
static const char *dir;

static const char *at(const char *name)
{
  return arena_printf(&arena, "%s/%s", dir, name);
}

static bool compile(const char *model, const char *program)
{
  Proc p = proc(&arena, HOW(.seconds = 300), MICC_EXE, model, "-o", program);
  bool ok = !p.status;

  if (!tally(ok, "micc %s", model))
    tally_note("%.300s", p.err);
  return ok;
}

/* The program's one output, as raw bytes. */
static bool run(const char *program, const char *input, Bytes *out)
{
  const char *path = at("out.raw");
  Proc p = proc(&arena, NULL, program, input, "-o", path);

  if (p.status)
    tally_note("exit status %d; said '%.300s'", p.status, p.err);
  return !p.status && scene_read(&arena, path, out);
}

/* ---- SqueezeNet: planes of blue, green and red, 0 to 255, which is how the CSV files hold them */

enum { LABELS = 1000, BEST = 3 };

static const struct {
  const char *picture, *shows;
  int label[BEST]; /* of ImageNet, best first */
  float score[BEST];
} pictures[] = {
    {"kitten_224", "a tabby cat", {281, 285, 282}, {0.9316f, 0.0653f, 0.0029f}},
    {"fish", "a tench", {0, 389, 395}, {0.738f, 0.256f, 0.0026f}},
};

/* A line of numbers becomes a JSON array. */
static bool write_json(const char *csv, const char *json)
{
  Bytes b;

  if (!scene_read(&arena, csv, &b))
    return false;
  const char *text = arena_printf(&arena, "[%s]", b.data);
  return scene_write(json, text, strlen(text), 0644);
}

static int best_of(const float *scores, int n)
{
  int best = 0;

  for (int i = 1; i < n; i++)
    if (scores[i] > scores[best])
      best = i;
  return best;
}

static void check_picture(uint32_t p)
{
  const char *json = at("picture.json");
  Bytes out;
  float scores[LABELS];

  if (!tally(write_json(arena_printf(&arena, "%s/onnx-winml/%s.csv", MODELS, pictures[p].picture), json) &&
                 run(at("squeezenet"), json, &out) && out.len == LABELS * sizeof(uint16_t),
             "SqueezeNet sees %s", pictures[p].picture))
    return;
  for (int i = 0; i < LABELS; i++)
    scores[i] = f16_to_f32(((const uint16_t *)(const void *)out.data)[i]);
  for (int i = 0; i < BEST; i++) {
    int best = best_of(scores, LABELS);
    tally(best == pictures[p].label[i] && fabsf(scores[best] - pictures[p].score[i]) < 0.01f,
          "%s shows %s: guess %d is label %d, %.4f (expected %d, %.4f)", pictures[p].picture,
          pictures[p].shows, i + 1, best, (double)scores[best], pictures[p].label[i],
          (double)pictures[p].score[i]);
    scores[best] = -1;
  }
}

static void check_pictures(void)
{
  if (compile(MODELS "/onnx-winml/SqueezeNet_fp16.onnx", at("squeezenet")))
    for (uint32_t p = 0; p < COUNT(pictures); p++)
      check_picture(p);
}

/* ---- Magika: the first and last kilobyte without outer white space, a number for each byte */

enum { BEGIN = 1024, END = 1024, BLOCK = 4096, PADDING = 256 };

static bool is_white(uint8_t c)
{
  return c && strchr(" \t\n\r\v\f", c);
}

static void features(const uint8_t *bytes, size_t n, int32_t *out)
{
  size_t first = 0, head = n < BLOCK ? n : BLOCK, tail = n < BLOCK ? 0 : n - BLOCK, last = n;

  for (int i = 0; i < BEGIN + END; i++)
    out[i] = PADDING;
  while (first < head && is_white(bytes[first]))
    first++;
  while (last > tail && is_white(bytes[last - 1]))
    last--;
  for (size_t i = first; i < head && i - first < BEGIN; i++)
    out[i - first] = bytes[i];
  for (size_t i = 1; i <= last - tail && i <= END; i++)
    out[BEGIN + END - i] = bytes[last - i];
}

static size_t from_base64(const char *s, uint8_t *out)
{
  static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  uint32_t bits = 0;
  size_t n = 0;
  int have = 0;

  for (const char *d; *s && (d = strchr(digits, *s)); s++) {
    bits = bits << 6 | (uint32_t)(d - digits);
    have += 6;
    if (have >= 8)
      out[n++] = (uint8_t)(bits >> (have -= 8));
  }
  return n;
}

typedef struct {
  const cJSON *types, *limits, *renamed; /* of the model's config */
  double limit;
} Magika;

static const char *text_of(const cJSON *o, const char *key)
{
  const char *s = cJSON_GetStringValue(cJSON_GetObjectItem(o, key));
  return s ? s : "";
}

/* Magika's own rules from the net's label to the type that it states. What a guess below the limit becomes (txt or unknown) is
 * not the model's matter. */
static bool states(const Magika *m, const char *label, double score, const cJSON *example)
{
  const char *mode = text_of(example, "prediction_mode");
  const char *said = text_of(cJSON_GetObjectItem(example, "prediction"), "output");
  const cJSON *own = cJSON_GetObjectItem(m->limits, label);
  double limit = !strcmp(mode, "best_guess")               ? 0
                 : own && !strcmp(mode, "high_confidence") ? own->valuedouble
                                                           : m->limit;
  const char *renamed = cJSON_GetStringValue(cJSON_GetObjectItem(m->renamed, label));

  if (score < limit)
    return !strcmp(said, "txt") || !strcmp(said, "unknown");
  return !strcmp(said, renamed ? renamed : label);
}

static bool right(const Magika *m, const cJSON *example, double *off)
{
  const cJSON *said = cJSON_GetObjectItem(example, "prediction");
  const char *content = text_of(example, "content_base64");
  uint8_t *bytes = arena_alloc(&arena, strlen(content) + 1);
  int32_t input[BEGIN + END];
  int n_types = cJSON_GetArraySize(m->types);
  Bytes out;

  features(bytes, from_base64(content, bytes), input);
  if (!scene_write(at("bytes.raw"), input, sizeof input, 0644) || !run(at("magika"), at("bytes.raw"), &out) ||
      out.len != (size_t)n_types * sizeof(float))
    return false;
  const float *scores = (const float *)(const void *)out.data;
  int best = best_of(scores, n_types);
  double score = (double)scores[best], want = cJSON_GetNumberValue(cJSON_GetObjectItem(said, "score"));
  const char *label = cJSON_GetStringValue(cJSON_GetArrayItem(m->types, best));
  *off = fmax(*off, fabs(score - want));
  return !strcmp(label, text_of(said, "dl")) && fabs(score - want) < 1e-3 && states(m, label, score, example);
}

static void check_examples(const Magika *m, const cJSON *examples)
{
  int n = 0, good = 0, small = 0;
  double off = 0;
  const cJSON *x;

  cJSON_ArrayForEach(x, examples)
  {
    const cJSON *said = cJSON_GetObjectItem(x, "prediction");
    if (!strcmp(text_of(said, "dl"), "undefined")) {
      small++; /* below 8 bytes: no case for the net */
      continue;
    }
    bool ok = right(m, x, &off);
    if (!ok)
      tally_note("example %d should be %s", n + small, text_of(said, "dl"));
    good += ok;
    n++;
  }
  tally(n && good == n,
        "Magika: %d of %d contents have the label, the type and the score of Magika itself (off by %.1e)",
        good, n, off);
}

static cJSON *read_config(void)
{
  Bytes b;

  return scene_read(&arena, MAGIKA "/assets/models/standard_v3_3/config.min.json", &b) ? cJSON_Parse(b.data)
                                                                                       : NULL;
}

static void check_magika(void)
{
  Proc p = proc(&arena, NULL, "gzip", "-dc",
                MAGIKA "/tests_data/reference/standard_v3_3-inference_examples_by_content.json.gz");
  cJSON *config = read_config(), *examples = p.status ? NULL : cJSON_Parse(p.out);
  Magika m = {.types = cJSON_GetObjectItem(config, "target_labels_space"),
              .limits = cJSON_GetObjectItem(config, "thresholds"),
              .renamed = cJSON_GetObjectItem(config, "overwrite_map"),
              .limit = cJSON_GetNumberValue(cJSON_GetObjectItem(config, "medium_confidence_threshold"))};

  if (tally(m.types && examples, "Magika's config and reference examples") &&
      compile(MAGIKA "/assets/models/standard_v3_3/model.onnx", at("magika")))
    check_examples(&m, examples);
  cJSON_Delete(config);
  cJSON_Delete(examples);
}

int main(void)
{
  if (access(MODELS, R_OK)) {
    tally_skip("%s is not there", MODELS);
    return 0;
  }
  dir = scene_open(&arena);
  check_pictures();
  check_magika();
  scene_close(dir);
  arena_free(&arena);
  return tally_end();
}
