/* reference.c - reads llama.cpp's results; see shared/README.md for their format. */
#include "tests/e2e/support/reference.h"
#include "tests/e2e/support/scene.h"
#include "tests/e2e/support/tally.h"

#include <cjson/cJSON.h>
#include <math.h>
#include <stdlib.h>

static const char folder[] = MICC_SHARED_DIR "/reference/llama.cpp/";

/* ---- NAME.json */

static void read_tokens(Suite *s, const cJSON *j, Reference *r)
{
  const cJSON *prompt = cJSON_GetObjectItem(j, "prompt_tokens");
  const cJSON *greedy = cJSON_GetObjectItem(j, "greedy_tokens");
  const cJSON *item;
  unsigned n = 0;

  r->n_prompt = (unsigned)cJSON_GetArraySize(prompt);
  r->n_greedy = (unsigned)cJSON_GetArraySize(greedy);
  r->tokens = NEW_ARRAY(&s->arena, int32_t, r->n_prompt + r->n_greedy + 1);
  cJSON_ArrayForEach(item, prompt) r->tokens[n++] = item->valueint;
  cJSON_ArrayForEach(item, greedy) r->tokens[n++] = item->valueint;
}

static void read_gaps(Suite *s, const cJSON *j, Reference *r)
{
  const cJSON *gaps = cJSON_GetObjectItem(j, "gaps"), *item;
  unsigned n = 0;

  if ((unsigned)cJSON_GetArraySize(gaps) < r->n_greedy)
    return;
  r->gaps = NEW_ARRAY(&s->arena, double, (size_t)cJSON_GetArraySize(gaps) + 1);
  cJSON_ArrayForEach(item, gaps) r->gaps[n++] = item->valuedouble;
}

static const char *text_at(Suite *s, const cJSON *j, const char *key)
{
  const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(j, key));
  return arena_strdup(&s->arena, text ? text : "");
}

static unsigned number_at(const cJSON *j, const char *key)
{
  return (unsigned)cJSON_GetNumberValue(cJSON_GetObjectItem(j, key));
}

static bool read_json(Suite *s, const char *name, Reference *r)
{
  Bytes text;
  bool read = scene_read(&s->arena, arena_printf(&s->arena, "%s%s.json", folder, name), &text);
  cJSON *j = read ? cJSON_Parse(text.data) : NULL;

  if (!j)
    return tally(false, "reference %s.json cannot be read", name);
  r->prompt = text_at(s, j, "prompt");
  r->text = text_at(s, j, "greedy_text");
  read_tokens(s, j, r);
  read_gaps(s, j, r);
  if (cJSON_GetObjectItem(j, "logit_rows")) {
    r->n_rows = number_at(j, "logit_rows");
    r->n_vocab = number_at(j, "n_vocab");
  }
  cJSON_Delete(j);
  return true;
}

bool reference_read(Suite *s, const char *name, Reference *out)
{
  const char *rows = arena_printf(&s->arena, "%s%s.logits.f32", folder, name);
  size_t n = 0;

  *out = (Reference){0};
  if (!read_json(s, name, out))
    return false;
  if (scene_size(rows) < 0)
    out->n_rows = 0;
  else
    out->rows = floats_read(s, rows, &n);
  return n == (size_t)out->n_rows * out->n_vocab || tally(false, "reference %s has %zu logits", name, n);
}

unsigned first_difference(const int32_t *a, const int32_t *b, unsigned n)
{
  unsigned i = 0;
  while (i < n && a[i] == b[i])
    i++;
  return i;
}

/* ---- measures */

unsigned best_of(const float *row, unsigned n)
{
  unsigned best = 0;
  for (unsigned i = 1; i < n; i++)
    if (row[i] > row[best])
      best = i;
  return best;
}

double log_sum_exp(const float *row, unsigned n)
{
  double max = (double)row[best_of(row, n)], sum = 0;

  for (unsigned i = 0; i < n; i++)
    sum += exp((double)row[i] - max);
  return max + log(sum);
}

double kl_row(const float *truth, const float *ours, unsigned n)
{
  double lt = log_sum_exp(truth, n), lo = log_sum_exp(ours, n), kl = 0;

  for (unsigned i = 0; i < n; i++) {
    double p = (double)truth[i] - lt, q = (double)ours[i] - lo;
    kl += exp(p) * (p - q);
  }
  return kl;
}

double kl_mean(const float *truth, const float *ours, unsigned n_vocab, unsigned n_rows)
{
  double sum = 0;

  for (unsigned i = 0; i < n_rows; i++)
    sum += kl_row(truth + (size_t)i * n_vocab, ours + (size_t)i * n_vocab, n_vocab);
  return sum / n_rows;
}

double nmse(const float *want, const float *ours, size_t n)
{
  double num = 0, den = 0;

  for (size_t i = 0; i < n; i++) {
    double d = (double)ours[i] - (double)want[i];
    num += d * d;
    den += (double)want[i] * (double)want[i];
  }
  return num / den;
}

/* ---- real models */

_Static_assert(sizeof(TopRow) == 4 + TOP_K * 8, "as the files hold it");

const TopRow *top_read(Suite *s, const char *name, unsigned *n_rows)
{
  Bytes file;
  bool read = scene_read(&s->arena, arena_printf(&s->arena, "%s%s.topk", folder, name), &file);

  *n_rows = read ? (unsigned)(file.len / sizeof(TopRow)) : 0;
  if (*n_rows && file.len % sizeof(TopRow) == 0)
    return (const TopRow *)(const void *)file.data;
  tally(false, "reference %s.topk cannot be read", name);
  return NULL;
}

static const float *logit_of(const TopRow *r, uint32_t token)
{
  for (unsigned i = 0; i < TOP_K; i++)
    if (r->top[i].token == token)
      return &r->top[i].logit;
  return NULL;
}

double kl_top(const TopRow *truth, const TopRow *other, const float *ours, unsigned n_vocab)
{
  double lo = ours ? log_sum_exp(ours, n_vocab) : (double)other->log_sum, kl = 0, rest_p = 1, rest_q = 1;

  for (unsigned i = 0; i < TOP_K; i++) {
    const float *theirs = logit_of(other, truth->top[i].token);
    if (!theirs)
      continue;
    double p = (double)truth->top[i].logit - (double)truth->log_sum;
    double q = (double)(ours ? ours[truth->top[i].token] : *theirs) - lo;
    kl += exp(p) * (p - q);
    rest_p -= exp(p);
    rest_q -= exp(q);
  }
  rest_p = fmax(rest_p, 1e-12); /* what rounding of the sums leaves */
  rest_q = fmax(rest_q, 1e-12);
  return kl + rest_p * log(rest_p / rest_q);
}
