/* mi_out.h - text out: a small formatter over a buffer, and over write(2) when it is full.
 * Written here because the C library's printf is larger than the rest of the runtime together. */
#ifndef MI_OUT_H
#define MI_OUT_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  char *buf;
  size_t n, cap;
  int fd;    /* -1: a text in memory; what does not fit is dropped */
  int error; /* errno of the first write that failed; nothing is written after it */
} MiOut;

void mi_out_bytes(MiOut *o, const void *bytes, size_t n);
void mi_out_text(MiOut *o, const char *text);

/* printf for  %s %c %d %u %ld %lu %lld %llu %zu %f %%  with '-', width and precision.
 * %f prints at most 9 decimals, and numbers below 9e15. */
void mi_out_format(MiOut *o, const char *format, ...) __attribute__((format(printf, 2, 3)));
void mi_out_vformat(MiOut *o, const char *format, va_list args);

/* The text collected in memory, zero-terminated. */
const char *mi_out_string(MiOut *o);

/* The inside of a JSON string; the text is valid UTF-8. */
void mi_out_json(MiOut *o, const char *text, size_t n);

/* Writes what is collected. False if this write or an earlier one failed. */
bool mi_out_flush(MiOut *o);

/* Writes all bytes, however many writes it takes; 0, or errno. */
int mi_out_write(int fd, const void *bytes, size_t n);

#endif
