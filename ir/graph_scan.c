/* graph_scan.c - see graph_scan.h. */
#include "ir/graph_scan.h"

#include <ctype.h>
#include <stdlib.h>

bool scan_fail(Parser *p, const char *what)
{
  return fail(p->e, "%s:%u: %s", p->file, p->line, what);
}

static bool plain_char(char c)
{
  return isalnum((unsigned char)c) || (c && strchr("_./:-", c));
}

void scan_blanks(Parser *p)
{
  while (*p->p == ' ' || *p->p == '\t' || *p->p == '\r')
    p->p++;
}

bool scan_end(Parser *p)
{
  scan_blanks(p);
  return *p->p == 0 || *p->p == '\n' || *p->p == '#';
}

bool scan_at_name(Parser *p)
{
  return plain_char(*p->p) || *p->p == '"';
}

/* Takes the text if it comes next, and not as the beginning of a longer word. */
bool scan_take(Parser *p, const char *s)
{
  size_t n = strlen(s);

  scan_blanks(p);
  if (strncmp(p->p, s, n) || (isalnum((unsigned char)s[n - 1]) && plain_char(p->p[n])))
    return false;
  p->p += n;
  return true;
}

/* Characters of what comes next, for a message. */
int scan_rest(const Parser *p)
{
  return (int)min64(20, (int64_t)strcspn(p->p, "\r\n"));
}

bool scan_expect(Parser *p, const char *s)
{
  if (scan_take(p, s))
    return true;
  if (scan_end(p))
    return fail(p->e, "%s:%u: '%s' expected at the end of the line", p->file, p->line, s);
  return fail(p->e, "%s:%u: '%s' expected at '%.*s'", p->file, p->line, s, scan_rest(p), p->p);
}

bool scan_int(Parser *p, int64_t lo, int64_t hi, int64_t *out)
{
  const char *s = p->p;
  int64_t v = 0;

  if (!isdigit((unsigned char)*s))
    return scan_fail(p, "a number expected");
  for (; isdigit((unsigned char)*s); s++)
    if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, *s - '0', &v))
      return scan_fail(p, "the number is too large");
  if (v < lo || v > hi)
    return fail(p->e, "%s:%u: %lld is out of range, %lld to %lld are valid", p->file, p->line, (long long)v,
                (long long)lo, (long long)hi);
  p->p = s;
  *out = v;
  return true;
}

/* With a sign. */
bool scan_signed(Parser *p, int64_t *out)
{
  bool minus = *p->p == '-';

  if (minus)
    p->p++;
  if (!scan_int(p, 0, INT64_MAX, out))
    return false;
  *out = minus ? -*out : *out;
  return true;
}

bool scan_u32(Parser *p, uint32_t hi, uint32_t *out)
{
  int64_t v = 0;

  if (!scan_int(p, 0, hi, &v))
    return false;
  *out = (uint32_t)v;
  return true;
}

bool scan_number(Parser *p, double *out)
{
  char *end;

  if (scan_end(p))
    return scan_fail(p, "a number expected");
  *out = strtod(p->p, &end);
  if (end == p->p)
    return scan_fail(p, "a number expected");
  p->p = end;
  return true;
}

bool scan_float(Parser *p, float *out)
{
  double v = 0;

  if (!scan_number(p, &v))
    return false;
  *out = (float)v;
  return true;
}

static int hex_digit(char c)
{
  return isdigit((unsigned char)c) ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool parse_quoted(Parser *p, const char **out)
{
  Text t = {.arena = p->m->arena};

  for (p->p++; *p->p != '"'; p->p++) {
    char c = *p->p;
    if (c == 0 || c == '\n')
      return scan_fail(p, "the name has no closing quote");
    if (c == '\\') {
      int hi = p->p[1] == 'x' ? hex_digit(p->p[2]) : -1, lo = hi >= 0 ? hex_digit(p->p[3]) : -1;
      if (lo < 0 || hi * 16 + lo == 0)
        return scan_fail(p, "\\x01 to \\xff expected in a quoted name");
      c = (char)(hi * 16 + lo);
      p->p += 3;
    }
    text_add(&t, &c, 1);
  }
  p->p++;
  *out = t.data ? t.data : "";
  return true;
}

bool scan_name(Parser *p, const char **out)
{
  const char *s;

  scan_blanks(p);
  if (*p->p == '"')
    return parse_quoted(p, out);
  for (s = p->p; plain_char(*s); s++)
    ;
  if (s == p->p)
    return scan_fail(p, "a name expected");
  *out = arena_strndup(p->m->arena, p->p, (size_t)(s - p->p));
  p->p = s;
  return true;
}
