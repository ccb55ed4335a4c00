/* graph_scan.h - small steps over the text of a graph; each reports what it misses. Private to ir. */
#ifndef MICC_GRAPH_SCAN_H
#define MICC_GRAPH_SCAN_H

#include "ir/graph.h"

typedef struct {
  const char *p, *file;
  uint32_t line;
  Module *m;
  Graph *g;               /* the open one */
  bool braced;            /* it was opened by a brace */
  ARRAY(uint32_t) number; /* of each value of g, growing */
  Err *e;
} Parser;

bool scan_fail(Parser *p, const char *what);
void scan_blanks(Parser *p);
bool scan_end(Parser *p);                 /* of the line, or a comment */
bool scan_take(Parser *p, const char *s); /* if it comes next, and not as the beginning of a longer word */
bool scan_expect(Parser *p, const char *s);
int scan_rest(const Parser *p); /* characters of what comes next, for a message */
bool scan_int(Parser *p, int64_t lo, int64_t hi, int64_t *out);
bool scan_signed(Parser *p, int64_t *out);
bool scan_u32(Parser *p, uint32_t hi, uint32_t *out);
bool scan_number(Parser *p, double *out);
bool scan_float(Parser *p, float *out);
bool scan_at_name(Parser *p);
bool scan_name(Parser *p, const char **out); /* plain, or quoted */

#endif
