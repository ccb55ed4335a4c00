/* inspect_text.h - what the reports of all formats share in `micc inspect`.
 *
 * Texts from a file are untrusted: control and invisible formatting characters are printed as JSON escapes in
 * both outputs, bytes that are no UTF-8 as U+FFFD. Numbers are printed exactly: JSON gets them as raw text, since
 * cJSON keeps numbers as doubles. */
#ifndef MICC_INSPECT_TEXT_H
#define MICC_INSPECT_TEXT_H

#include "frontend/model.h"
#include "frontend/onnx/onnx.h"

#include <cjson/cJSON.h>

typedef struct {
  bool json, tensors; /* tensors: only their table */
  const char *path;
} InspectOptions;

/* Reads the file and appends its report; *m is for onnx_close(), also after an error. */
bool inspect_onnx(const InspectOptions *o, Arena *a, Text *out, OnnxModel **m, Err *e);

Str inspect_str(const char *z);
/* At most about `limit` bytes of it; returns whether that was all. */
bool inspect_escaped(Text *t, Str s, uint64_t limit);
void inspect_quoted(Text *t, Str s, uint64_t limit);
void inspect_column(Text *t, const char *name, size_t columns); /* a name from the file, and spaces */
void inspect_line(Text *t, const char *label);                  /* the beginning of a line "label   value" */

/* The shortest digits that read back as the same number. */
void inspect_float(Text *t, double v, bool single, bool json);
const char *inspect_grouped(Arena *a, uint64_t n); /* 1185376 as "1,185,376" */
const char *inspect_plural(uint64_t n);            /* "s", or nothing for one */

cJSON *inspect_json_new(void);
cJSON *inspect_json_item(cJSON *list); /* a new object at the end of an array */
void inspect_json_raw(cJSON *o, const char *key, const char *raw);
void inspect_json_u64(Arena *a, cJSON *o, const char *key, uint64_t n);
void inspect_json_text(Arena *a, cJSON *o, const char *key, const char *s);
void inspect_json_print(cJSON *root, Text *out); /* and frees it */

#endif
