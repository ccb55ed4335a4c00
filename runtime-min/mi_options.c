/* mi_options.c - one table of options gives the parser, the range checks and the help text.
 * Names and defaults are llama.cpp's. The walk over argv is our own: getopt_long accepts abbreviations,
 * prints by itself, keeps its state in globals that `micc run` has used already, and brings in stdio. */
#include "mi_options.h"
#include "mi_pool.h"
#include "mi_sampler.h"

#include <stddef.h>
#include <string.h>

typedef enum { FLAG, TEXT, INT, REAL } Kind;

typedef struct {
  char letter; /* 0: none */
  const char *name;
  Kind kind;
  size_t field;
  double min, max;
  const char *arg, *help;
} Row;

#define FIELD(f) offsetof(MiOptions, f)
#define SEED_MAX 4294967295.0
#define INT_MANY 2147483647.0

static const Row rows[] = {
    {'p', "prompt", TEXT, FIELD(prompt), 0, 0, "TEXT", "text to continue (default: from standard input)"},
    {'f', "file", TEXT, FIELD(file), 0, 0, "FILE", "read it from a file; - is standard input"},
    {0, "token-ids", TEXT, FIELD(token_ids), 0, 0, "1,2,3", "token ids to continue, and print ids"},
    {'n', "n-predict", INT, FIELD(n_predict), -1, INT_MANY, "N", "at most N tokens (-1: until the end)"},
    {'t', "threads", INT, FIELD(threads), 1, MI_POOL_MAX, "N", "threads (default: physical cores)"},
    {0, "temp", REAL, FIELD(temp), 0, 1000, "T", "temperature; 0: always the best token (0.8)"},
    {0, "top-k", INT, FIELD(top_k), 0, INT_MANY, "K", "only the K best tokens; 0: all (40)"},
    {0, "top-p", REAL, FIELD(top_p), 0, 1, "P", "only the best that reach probability P (0.95)"},
    {0, "min-p", REAL, FIELD(min_p), 0, 1, "P", "only those with P of the best's probability (0.05)"},
    {0, "repeat-penalty", REAL, FIELD(repeat_penalty), 1e-3, 1000, "X", "against repetition; 1: off (1.0)"},
    {0, "repeat-last-n", INT, FIELD(repeat_last_n), -1, INT_MANY, "N",
     "tokens it looks back on; -1: all (64)"},
    {'s', "seed", INT, FIELD(seed), -1, SEED_MAX, "N", "same seed, same text (-1: random)"},
    {0, "ignore-eos", FLAG, FIELD(ignore_eos), 0, 0, "", "never end by itself"},
    {0, "logits", TEXT, FIELD(logits), 0, 0, "FILE", "write float32 rows, one for each token evaluated"},
    {0, "json", FLAG, FIELD(json), 0, 0, "", "print one JSON object: tokens, text, timings"},
    {0, "profile", FLAG, FIELD(profile), 0, 0, "", "print the time of each kind of launch"},
    {0, "about", FLAG, FIELD(about), 0, 0, "", "print what this program was made from"},
    {'h', "help", FLAG, FIELD(help), 0, 0, "", "print this"},
    {0, "version", FLAG, FIELD(version), 0, 0, "", "print the version"},
};

enum { N_ROWS = sizeof rows / sizeof *rows };

/* Decimal numbers; an exponent is possible. 18 digits are exact, and so are the powers of ten below 1e22. */
static bool read_number(const char *p, double *out, bool *is_int)
{
  bool negative = *p == '-', any = false, point = false;
  uint64_t digits = 0;
  int scale = 0, exponent = 0;

  p += *p == '-' || *p == '+';
  for (; (*p >= '0' && *p <= '9') || (*p == '.' && !point); p++) {
    if (*p == '.') {
      point = true;
      continue;
    }
    if (digits > 100000000000000000u)
      return false;
    digits = digits * 10 + (uint64_t)(*p - '0');
    scale -= point;
    any = true;
  }
  *is_int = !point && !*p;
  if (any && (*p == 'e' || *p == 'E')) {
    bool down = *++p == '-';
    p += *p == '-' || *p == '+';
    any = false;
    for (; *p >= '0' && *p <= '9' && exponent < 1000; p++, any = true)
      exponent = exponent * 10 + (*p - '0');
    scale += down ? -exponent : exponent;
  }
  double power = 1, value = (double)digits;
  for (int i = scale < 0 ? -scale : scale; i > 0; i--)
    power *= 10;
  value = scale < 0 ? value / power : value * power;
  *out = negative ? -value : value;
  return any && !*p;
}

static bool set_number(void *field, const Row *row, const char *text, MiOut *why)
{
  double value;
  bool is_int;

  if (!read_number(text, &value, &is_int) || (row->kind == INT && !is_int)) {
    mi_out_format(why, "--%s: '%s' is not %s", row->name, text,
                  row->kind == INT ? "a whole number" : "a number");
    return false;
  }
  if (!(value >= row->min && value <= row->max)) {
    mi_out_format(why, "--%s: %s is out of range (", row->name, text);
    mi_out_format(why, row->min == (int)row->min ? "%.0f to %.0f)" : "%.3f to %.0f)", row->min, row->max);
    return false;
  }
  if (row->kind == INT)
    *(int64_t *)field = (int64_t)value;
  else
    *(double *)field = value;
  return true;
}

static bool set_option(MiOptions *o, const Row *row, const char *value, MiOut *why)
{
  void *field = (char *)o + row->field;

  switch (row->kind) {
  case FLAG: *(bool *)field = true; return true;
  case TEXT: *(const char **)field = value; return true;
  default: return set_number(field, row, value, why);
  }
}

static const Row *find_long(const char *name, size_t n)
{
  for (int i = 0; i < N_ROWS; i++)
    if (strlen(rows[i].name) == n && !memcmp(rows[i].name, name, n))
      return &rows[i];
  return NULL;
}

static const Row *find_letter(char c)
{
  for (int i = 0; i < N_ROWS; i++)
    if (c && rows[i].letter == c)
      return &rows[i];
  return NULL;
}

/* One argument that begins with '-'; `next` is the one after it, or NULL. Returns how many were used, 0:
 * error. */
static int parse_option(MiOptions *o, char *arg, char *next, MiOut *why)
{
  bool is_long = arg[1] == '-';
  size_t n = is_long ? strcspn(arg + 2, "=") : 1;
  const Row *row = is_long ? find_long(arg + 2, n) : find_letter(arg[1]);
  char *inside = is_long ? (arg[2 + n] ? arg + 3 + n : NULL) : (arg[2] ? arg + 2 : NULL); /* --name=X, -nX */

  if (!row) {
    mi_out_format(why, "unknown option %s (see --help)", arg);
    return 0;
  }
  if (row->kind == FLAG && inside) {
    mi_out_format(why, "--%s takes no value", row->name);
    return 0;
  }
  if (row->kind != FLAG && !inside && !next) {
    mi_out_format(why, "%s needs a value: %s", arg, row->arg);
    return 0;
  }
  if (!set_option(o, row, inside ? inside : next, why))
    return 0;
  return row->kind == FLAG || inside ? 1 : 2;
}

static bool check_sources(const MiOptions *o, MiOut *why)
{
  int n = !!o->prompt + !!o->file + !!o->token_ids;

  if (n > 1)
    mi_out_text(why, "more than one prompt: give one of -p, -f, --token-ids");
  return n <= 1;
}

bool mi_options_parse(MiOptions *o, int argc, char **argv, MiOut *why)
{
  static const MiSamplerOptions d = MI_SAMPLER_DEFAULTS;
  bool plain = false; /* after "--" */
  const char *word = NULL;

  *o = (MiOptions){.n_predict = -1, .seed = -1, .top_k = d.top_k, .repeat_last_n = d.repeat_last_n};
  o->temp = d.temp, o->top_p = d.top_p, o->min_p = d.min_p, o->repeat_penalty = d.repeat_penalty;
  for (int i = 1, used; i < argc; i += used) {
    used = 1;
    if (!plain && !strcmp(argv[i], "--")) {
      plain = true;
    } else if (!plain && argv[i][0] == '-' && argv[i][1]) {
      used = parse_option(o, argv[i], i + 1 < argc ? argv[i + 1] : NULL, why);
      if (!used)
        return false;
    } else if (word) {
      mi_out_format(why, "more than one prompt: '%s' (a prompt with spaces needs quotes)", argv[i]);
      return false;
    } else {
      word = argv[i];
    }
  }
  if (word && o->prompt) {
    mi_out_format(why, "more than one prompt: -p and '%s'", word);
    return false;
  }
  o->prompt = word ? word : o->prompt;
  return check_sources(o, why);
}

void mi_options_help(MiOut *out, const char *name)
{
  mi_out_format(out, "usage: %s [options] [PROMPT]\n", name);
  for (int i = 0; i < N_ROWS; i++) {
    char text[40];
    MiOut left = {.buf = text, .cap = sizeof text, .fd = -1};
    mi_out_format(&left, "--%s %s", rows[i].name, rows[i].arg);
    mi_out_text(out, "  ");
    if (rows[i].letter)
      mi_out_format(out, "-%c, ", rows[i].letter);
    mi_out_format(out, rows[i].letter ? "%-20s %s\n" : "%-24s %s\n", mi_out_string(&left), rows[i].help);
  }
}
