/* mi_json.c - nested lists of numbers. Source: RFC 8259; NaN, Infinity and -Infinity as Python's json has them. */
#include "mi_formats.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- reading */

enum { MAX_WORD = 64, UNKNOWN = 255 };

typedef struct {
  const char *p, *end;
  MiArray *a;
  MiOut *why;
  uint64_t i;     /* numbers so far */
  MiArray shape;  /* of the lists */
  uint32_t known; /* dimensions that are; a list is known when it ends, so inner ones first */
  uint32_t depth; /* of the numbers; UNKNOWN: none was there yet */
} Json;

bool mi_json_is(MiBytes in)
{
  static const char chars[] = " \t\r\n[],+-.0123456789eEtrufalsNInity"; /* true false NaN Infinity */

  for (size_t i = 0; i < in.n; i++)
    if (!in.bytes[i] || !strchr(chars, in.bytes[i]))
      return false;
  return in.n;
}

static void skip_space(Json *j)
{
  while (j->p < j->end && memchr(" \t\r\n", *j->p, 4))
    j->p++;
}

static bool take(Json *j, char c)
{
  skip_space(j);
  bool is = j->p < j->end && *j->p == c;
  j->p += is;
  return is;
}

static bool to_number(const char *word, long double *x)
{
  static const struct {
    const char *word;
    long double x;
  } names[] = {{"true", 1}, {"false", 0}, {"NaN", NAN}, {"Infinity", INFINITY}, {"-Infinity", -INFINITY}};
  char *end;

  for (size_t i = 0; i < sizeof names / sizeof *names; i++)
    if (!strcmp(word, names[i].word)) {
      *x = names[i].x;
      return true;
    }
  const char *digit = word + (*word == '-');
  if (*digit < '0' || *digit > '9' || word[strspn(word, "+-.0123456789eE")])
    return false;
  *x = strtold(word, &end);
  return !*end && !isinf(*x);
}

static bool number(Json *j, uint32_t depth)
{
  char word[MAX_WORD];
  size_t n = 0;
  long double x;

  while (j->p < j->end && !memchr(" \t\r\n,[]", *j->p, 7) && n < sizeof word - 1)
    word[n++] = *j->p++;
  word[n] = 0;
  if (!to_number(word, &x)) {
    mi_out_format(j->why, n ? "its '%s' is not a number" : "it ends where a number is expected%s", word);
    return false;
  }
  if (j->depth == UNKNOWN)
    j->depth = depth;
  if (j->depth != depth) {
    mi_out_text(j->why, "it has numbers at different depths");
    return false;
  }
  return j->i++ >= j->a->count || mi_array_set(j->a, j->i - 1, x, j->why);
}

static bool value(Json *j, uint32_t depth);

static bool list(Json *j, uint32_t depth)
{
  uint64_t n = 0;

  if (depth == MI_MAX_RANK) {
    mi_out_format(j->why, "its lists are more than %d deep", MI_MAX_RANK);
    return false;
  }
  if (!take(j, ']')) {
    do {
      if (!value(j, depth + 1))
        return false;
      n++;
    } while (take(j, ','));
    if (!take(j, ']')) {
      mi_out_text(j->why,
                  j->p < j->end ? "it lacks a comma between two values" : "it lacks a closing bracket");
      return false;
    }
  }
  if (!(j->known >> depth & 1))
    j->shape.dim[depth] = n;
  if (j->shape.dim[depth] != n) {
    mi_out_format(j->why, "it has lists of %llu and of %llu at the same depth",
                  (unsigned long long)j->shape.dim[depth], (unsigned long long)n);
    return false;
  }
  j->known |= 1u << depth;
  return true;
}

static bool value(Json *j, uint32_t depth)
{
  return take(j, '[') ? list(j, depth) : number(j, depth);
}

/* Empty lists end the shape: [] and [[],[]] hold nothing, as any array without elements does. */
static bool shape_fits(Json *j)
{
  MiArray *s = &j->shape;

  s->elem = j->a->elem;
  s->count = 1;
  while (s->rank < MI_MAX_RANK && j->known >> s->rank & 1)
    s->count *= s->dim[s->rank++];
  return (!s->count && !j->a->count) || mi_array_fits(j->a, s, j->why);
}

bool mi_json_read(MiBytes in, MiArray *a, MiOut *why)
{
  Json j = {.p = (const char *)in.bytes,
            .end = (const char *)in.bytes + in.n,
            .a = a,
            .why = why,
            .depth = UNKNOWN};

  if (!value(&j, 0))
    return false;
  skip_space(&j);
  if (j.p == j.end)
    return shape_fits(&j);
  mi_out_text(why, "it has more behind its value");
  return false;
}

/* ---- writing */

static void put_element(const MiArray *a, uint64_t i, MiOut *out)
{
  long double x = mi_array_get(a, i);
  char text[48];

  if (a->elem == MI_ELEM_BOOL)
    snprintf(text, sizeof text, x != 0 ? "true" : "false");
  else if (isnan(x))
    snprintf(text, sizeof text, "NaN");
  else if (isinf(x))
    snprintf(text, sizeof text, x < 0 ? "-Infinity" : "Infinity");
  else
    snprintf(text, sizeof text, "%.*Lg",
             a->elem == MI_ELEM_F64           ? 17
             : mi_elem_info[a->elem].is_float ? 9
                                              : 20,
             x);
  mi_out_text(out, text);
}

static void put_brackets(MiOut *out, const char *bracket, uint32_t n)
{
  while (n--)
    mi_out_text(out, bracket);
}

void mi_array_json(const MiArray *a, MiOut *out)
{
  for (uint64_t i = 0; i < a->count; i++) {
    uint64_t inner = 1;
    uint32_t opens = 0; /* lists that begin here */
    for (uint32_t d = a->rank; d-- > 0 && i % (inner *= a->dim[d]) == 0;)
      opens++;
    put_brackets(out, "]", i ? opens : 0);
    mi_out_text(out, !i ? "" : opens ? ",\n" : ", ");
    put_brackets(out, "[", opens);
    put_element(a, i, out);
  }
  put_brackets(out, "]", a->count ? a->rank : 0);
  mi_out_text(out, a->count ? "" : "[]");
}
