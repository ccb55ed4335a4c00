/* mi_out.c - text out, without stdio. */
#include "mi_out.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

int mi_out_write(int fd, const void *bytes, size_t n)
{
  const char *p = bytes;

  while (n) {
    ssize_t done = write(fd, p, n);
    if (done < 0 && errno == EINTR)
      continue;
    if (done < 0)
      return errno;
    p += done;
    n -= (size_t)done;
  }
  return 0;
}

bool mi_out_flush(MiOut *o)
{
  if (o->fd >= 0) {
    if (!o->error)
      o->error = mi_out_write(o->fd, o->buf, o->n);
    o->n = 0;
  }
  return !o->error;
}

void mi_out_bytes(MiOut *o, const void *bytes, size_t n)
{
  const char *p = bytes;

  while (n) {
    if (o->n == o->cap)
      mi_out_flush(o);
    size_t room = o->cap - o->n, part = n < room ? n : room;
    if (!part)
      return;
    memcpy(o->buf + o->n, p, part);
    o->n += part;
    p += part;
    n -= part;
  }
}

void mi_out_text(MiOut *o, const char *text)
{
  mi_out_bytes(o, text, strlen(text));
}

const char *mi_out_string(MiOut *o)
{
  o->n -= o->n == o->cap;
  o->buf[o->n] = 0;
  return o->buf;
}

/* One conversion's text, before it is padded to its width. */
typedef struct {
  char text[40];
  size_t n;
} Piece;

/* Digits of v, with a point before the last `decimals` of them. */
static void put_digits(Piece *p, bool negative, uint64_t v, int decimals)
{
  char reversed[32];
  int n = 0;

  do {
    if (n && n == decimals)
      reversed[n++] = '.', decimals = -1;
    reversed[n++] = (char)('0' + v % 10);
    v /= 10;
  } while (v || (decimals > 0 && n <= decimals));
  if (negative)
    reversed[n++] = '-';
  while (n)
    p->text[p->n++] = reversed[--n];
}

static void put_fixed(Piece *p, double x, int decimals)
{
  static const double scale[] = {1, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9};
  bool negative = x < 0;

  decimals = decimals < 0 ? 6 : decimals > 9 ? 9 : decimals;
  x = (negative ? -x : x) * scale[decimals] + 0.5;
  if (x < 9e18) {
    put_digits(p, negative, (uint64_t)x, decimals);
  } else { /* too large, or not a number */
    memcpy(p->text, "?", 1);
    p->n = 1;
  }
}

static void pad(MiOut *o, int n)
{
  for (; n > 0; n--)
    mi_out_bytes(o, " ", 1);
}

typedef struct {
  bool left;
  int width, precision, longs; /* precision -1: none; longs: how many 'l', or 2 for 'z' */
  char kind;
} Spec;

static const char *read_spec(const char *f, Spec *s)
{
  *s = (Spec){.precision = -1};
  if (*f == '-')
    s->left = true, f++;
  for (; *f >= '0' && *f <= '9'; f++)
    s->width = s->width * 10 + (*f - '0');
  if (*f == '.')
    for (s->precision = 0, f++; *f >= '0' && *f <= '9'; f++)
      s->precision = s->precision * 10 + (*f - '0');
  for (; *f == 'l' || *f == 'z'; f++)
    s->longs += *f == 'l' ? 1 : 2;
  s->kind = *f;
  return *f ? f + 1 : f;
}

_Static_assert(sizeof(size_t) <= sizeof(unsigned long long), "%zu is read as %llu or %lu");

static void put_int(Piece *p, const Spec *s, va_list *args)
{
  if (s->kind == 'u') {
    uint64_t v = s->longs == 0   ? va_arg(*args, unsigned)
                 : s->longs == 1 ? va_arg(*args, unsigned long)
                                 : va_arg(*args, unsigned long long);
    put_digits(p, false, v, 0);
    return;
  }
  int64_t v = s->longs == 0   ? va_arg(*args, int)
              : s->longs == 1 ? va_arg(*args, long)
                              : va_arg(*args, long long);
  put_digits(p, v < 0, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, 0);
}

static void convert(MiOut *o, const Spec *s, va_list *args)
{
  Piece piece = {.n = 0};
  const char *text = piece.text;

  switch (s->kind) {
  case 's':
    text = va_arg(*args, const char *);
    piece.n = strlen(text);
    break;
  case 'd':
  case 'u': put_int(&piece, s, args); break;
  case 'f': put_fixed(&piece, va_arg(*args, double), s->precision); break;
  case 'c':
    piece.text[0] = (char)va_arg(*args, int);
    piece.n = 1;
    break;
  default: text = "%", piece.n = 1; break;
  }
  int space = s->width > (int)piece.n ? s->width - (int)piece.n : 0;
  pad(o, s->left ? 0 : space);
  mi_out_bytes(o, text, piece.n);
  pad(o, s->left ? space : 0);
}

void mi_out_vformat(MiOut *o, const char *format, va_list given)
{
  va_list args;
  Spec s;

  va_copy(args, given); /* what is passed on by address must be a variable of type va_list */
  while (*format) {
    size_t plain = strcspn(format, "%");
    mi_out_bytes(o, format, plain);
    format += plain;
    if (*format != '%')
      break;
    format = read_spec(format + 1, &s);
    convert(o, &s, &args);
  }
  va_end(args);
}

void mi_out_format(MiOut *o, const char *format, ...)
{
  va_list args;

  va_start(args, format);
  mi_out_vformat(o, format, args);
  va_end(args);
}

void mi_out_json(MiOut *o, const char *text, size_t n)
{
  static const char hex[] = "0123456789abcdef";
  static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";

  for (size_t i = 0; i < n; i++) {
    unsigned char c = (unsigned char)text[i];
    const char *known = c ? strchr(plain, c) : NULL;
    if (known) {
      mi_out_bytes(o, (char[]){'\\', letter[known - plain]}, 2);
    } else if (c < 0x20 || c == 0x7f) {
      mi_out_bytes(o, (char[]){'\\', 'u', '0', '0', hex[c >> 4], hex[c & 15]}, 6);
    } else {
      mi_out_bytes(o, text + i, 1);
    }
  }
}
