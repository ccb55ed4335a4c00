/* mi_report.c - what a program tells about itself: --json, --about, --version, --profile. */
#include "mi_limits.h"
#include "mi_session.h"

#include <string.h>

static const char *const stop_names[] = {[MI_STOP_LIMIT] = "limit",
                                         [MI_STOP_EOG] = "eog",
                                         [MI_STOP_CONTEXT] = "context",
                                         [MI_STOP_INTERRUPT] = "interrupt"};

static double per_second(uint64_t n, uint64_t ns)
{
  return ns ? (double)n * 1e9 / (double)ns : 0;
}

static void json_ids(MiOut *out, const char *name, const int32_t *ids, uint32_t n)
{
  mi_out_format(out, "\"%s\": [", name);
  for (uint32_t i = 0; i < n; i++)
    mi_out_format(out, i ? ", %d" : "%d", ids[i]);
  mi_out_text(out, "],\n ");
}

/* Decoded again, as it was streamed: whole characters only, so that what is printed is valid UTF-8. */
static void json_text(MiSession *s)
{
  MiDecoder d = {.n_pending = 0};

  mi_out_text(&s->out, "\"text\": ");
  if (!s->tokenizer) {
    mi_out_text(&s->out, "null");
    return;
  }
  mi_out_text(&s->out, "\"");
  for (uint32_t i = 0; i < s->n_tokens; i++) {
    size_t n = mi_tok_decode(s->tokenizer, &d, s->tokens[i], s->text, s->text_cap);
    if (i < s->n_prompt)
      d.n_pending = 0; /* of the prompt, only that it began */
    else
      mi_out_json(&s->out, s->text, n);
  }
  mi_out_json(&s->out, s->text, mi_tok_flush(&d, s->text, s->text_cap));
  mi_out_text(&s->out, "\"");
}

static void json_timings(const MiSession *s, MiOut *out)
{
  mi_out_format(out, "\"timings\": {\"load_ms\": %.3f, ", (double)s->load_ns / 1e6);
  mi_out_format(out, "\"prompt_n\": %u, \"prompt_ms\": %.3f, \"prompt_per_second\": %.3f, ", s->n_prompt,
                (double)s->prompt_ns / 1e6, per_second(s->n_prompt, s->prompt_ns));
  mi_out_format(out, "\"predicted_n\": %u, \"predicted_ms\": %.3f, \"predicted_per_second\": %.3f},\n ",
                s->predicted_n, (double)s->predicted_ns / 1e6, per_second(s->predicted_n, s->predicted_ns));
}

void mi_report_json(MiSession *s)
{
  MiOut *out = &s->out;

  mi_out_text(out, "{");
  json_ids(out, "prompt_tokens", s->tokens, s->n_prompt);
  json_ids(out, "tokens", s->tokens + s->n_prompt, s->n_tokens - s->n_prompt);
  json_text(s);
  mi_out_format(out, ",\n \"stop_reason\": \"%s\",\n ", stop_names[s->stop]);
  json_timings(s, out);
  mi_out_format(out, "\"memory_bytes\": %zu,\n \"seed\": %u,\n \"threads\": %u}\n",
                mi_engine_memory_bytes(&s->engine) + s->memory_bytes, s->seed, s->engine.n_threads);
}

void mi_report_about(const MiImage *h, MiOut *out)
{
  const char *about = (const char *)h + h->about;
  size_t n = h->about_bytes;

  mi_out_bytes(out, about, n);
  if (n && about[n - 1] != '\n')
    mi_out_text(out, "\n");
  const MiLevel *level = (const void *)((const char *)h + h->levels);
  char line[160];
  MiOut why = {.buf = line, .cap = sizeof line, .fd = -1};
  int runs = mi_engine_level(h, &why);

  if (h->n_levels)
    mi_out_format(out, "cpu: %s\n", runs >= 0 ? level[runs].name : mi_out_string(&why));
  mi_out_format(out, "memory_weights: %llu bytes (mapped, read-only)\n",
                (unsigned long long)h->weights_bytes);
  mi_out_format(out, "memory_states: %llu bytes\n", (unsigned long long)h->state_bytes);
  mi_out_format(out, "memory_arena: %llu bytes\n", (unsigned long long)h->arena_bytes);
  mi_out_format(out, "memory_scratch: %llu bytes for each thread\n", (unsigned long long)h->scratch_bytes);
}

/* The compiler's version, if the image tells it. */
void mi_report_version(const MiImage *h, const char *name, MiOut *out)
{
  static const char key[] = "compiler: ";
  const char *about = (const char *)h + h->about, *end = about + h->about_bytes;

  mi_out_format(out, "%s, image version %u", name, h->version);
  for (const char *line = about, *stop; line < end; line = stop + 1) {
    stop = memchr(line, '\n', (size_t)(end - line));
    stop = stop ? stop : end;
    if ((size_t)(stop - line) >= sizeof key && !memcmp(line, key, sizeof key - 1)) {
      mi_out_text(out, ", compiled by ");
      mi_out_bytes(out, line + sizeof key - 1, (size_t)(stop - line) - (sizeof key - 1));
    }
  }
  mi_out_text(out, "\n");
}

/* ---- profile */

static void add_row(MiProfileRow *sum, const MiProfileRow *r)
{
  sum->calls += r->calls;
  sum->ns += r->ns;
  sum->bytes += r->bytes;
  sum->ops += r->ops;
}

/* All launches of an entry that have the name of `first`; false if an earlier launch has it. Parts that begin no
 * launch have empty rows. */
static bool sum_named(const MiEngine *e, const MiEntry *en, uint32_t first, MiProfileRow *sum)
{
  *sum = (MiProfileRow){0};
  for (uint32_t i = en->first_part; i < en->first_part + en->n_parts; i++) {
    if (e->parts[i].name != e->parts[first].name)
      continue;
    if (i < first)
      return false;
    add_row(sum, &e->profile[i]);
  }
  return true;
}

static void put_rate(MiOut *out, double rate, double limit)
{
  mi_out_format(out, " %9.2f", rate);
  if (limit > 0)
    mi_out_format(out, " %6.1f%%", rate * 100 / limit);
  else
    mi_out_format(out, " %7s", "-");
}

static void put_row(MiOut *out, const MiProfileRow *r, uint64_t total_ns, const MiLimits *limits)
{
  double ns = r->ns ? (double)r->ns : 1;

  mi_out_format(out, " %8llu %11.3f %6.1f%%", (unsigned long long)r->calls, ns / 1e6,
                ns * 100 / (total_ns ? (double)total_ns : 1));
  put_rate(out, (double)r->bytes / ns, limits->read_gbs);
  put_rate(out, 2 * (double)r->ops / ns, limits->gops);
  mi_out_text(out, "\n");
}

static void profile_entry(const MiEngine *e, const MiEntry *en, const MiLimits *limits, MiOut *out)
{
  const char *names = (const char *)e->image + e->image->names;
  MiProfileRow all = {0}, row;

  for (uint32_t i = 0; i < en->n_parts; i++)
    add_row(&all, &e->profile[en->first_part + i]);
  if (!all.calls)
    return;
  mi_out_format(out, "%-28s %8s %11s %7s %9s %7s %9s %7s\n", en->name, "calls", "ms", "share", "GB/s",
                "of max", "Gop/s", "of max");
  for (uint32_t i = en->first_part; i < en->first_part + en->n_parts; i++) {
    if (!sum_named(e, en, i, &row))
      continue;
    mi_out_format(out, "  %-26s", names + e->parts[i].name);
    put_row(out, &row, all.ns, limits);
  }
  mi_out_format(out, "%-28s", "  all");
  put_row(out, &all, all.ns, limits);
}

static void put_limits(MiOut *out, const MiLimits *limits, unsigned threads)
{
  mi_out_format(out, "max of %u thread%s: ", threads, threads > 1 ? "s" : "");
  if (limits->read_gbs > 0)
    mi_out_format(out, "%.2f GB/s, reading all weights in order; ", limits->read_gbs);
  else
    mi_out_text(out, "GB/s not known, there are hardly any weights; ");
  if (limits->gops > 0)
    mi_out_format(out, "%.0f Gop/s, as MICC_PEAK_GOPS says\n", limits->gops);
  else
    mi_out_text(out, "Gop/s not known (MICC_PEAK_GOPS)\n");
}

/* A multiply-add counts as two operations. Levels share parts, so only the entries of the one that ran are looked at. */
void mi_report_profile(const MiEngine *e, MiOut *out)
{
  MiLimits limits = mi_limits_find(e);

  for (uint32_t i = 0; i < e->image->n_entries; i++)
    if (e->entries[i].level == e->level)
      profile_entry(e, &e->entries[i], &limits, out);
  put_limits(out, &limits, e->n_threads);
}
