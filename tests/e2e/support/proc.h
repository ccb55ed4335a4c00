/* proc.h - runs a program as a user's shell would, within a time limit, and keeps what it prints. */
#ifndef PROC_H
#define PROC_H

#include "ir/base.h"

#include <sys/types.h>

/* How it is started. All zero: in this folder and environment, with nothing on standard input. */
typedef struct {
  const char *dir;          /* working folder */
  const char *root;         /* chroot to it */
  const char *const *env;   /* the whole environment, NULL at the end */
  const char *input;        /* what standard input holds */
  const char *out_path;     /* standard output goes to this file instead */
  int closed;               /* standard input, output, errors: 1, 2, 4 */
  mode_t umask_bits;        /* 0: as it is */
  unsigned long file_limit; /* in bytes, for each file it writes; 0: none */
  int seconds;              /* the limit; 0: 60 */
  int signal, signal_ms;    /* is sent after so many milliseconds; with `until`: after the event */
  const char *until;        /* the event: a file of this name appears; "": the first output does */
} ProcHow;

typedef struct {
  int status;            /* exit status; 128 + the signal that ended it; PROC_TIMEOUT; PROC_FAILED */
  const char *out, *err; /* zero-terminated; live in the arena */
  size_t out_len, err_len;
  double wall_ms;
  long rss_kb; /* the most memory it had, mapped files included */
} Proc;

enum { PROC_TIMEOUT = -1, PROC_FAILED = -2 };

Proc proc_run(Arena *a, const ProcHow *how, const char *const *argv);

/* proc(&arena, NULL, "ls", "-l");  proc(&arena, HOW(.dir = dir, .seconds = 5), "ls") */
#define HOW(...)          (&(ProcHow){__VA_ARGS__})
#define proc(a, how, ...) proc_run(a, how, (const char *const[]){__VA_ARGS__, NULL})

bool proc_crashed(const Proc *p); /* ended by a signal, or at the time limit */

/* Lines of a text; the last one counts with or without its newline. */
size_t proc_lines(const char *text);

#endif
