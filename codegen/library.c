/* library.c - see library.h: names, the header, the function in C. */
#include "codegen/library.h"

#include <ctype.h>

/* ---- names */

static bool is_keyword(const char *s)
{
  static const char *const words[] = {
      "auto",     "break",   "case",      "char",     "const",     "continue", "default",  "do",
      "double",   "else",    "enum",      "extern",   "float",     "for",      "goto",     "if",
      "inline",   "int",     "long",      "register", "restrict",  "return",   "short",    "signed",
      "sizeof",   "static",  "struct",    "switch",   "typedef",   "union",    "unsigned", "void",
      "volatile", "while",   "bool",      "class",    "delete",    "new",      "private",  "public",
      "template", "this",    "virtual",   "operator", "namespace", "using",    "try",      "catch",
      "throw",    "true",    "false",     "and",      "or",        "not",      "xor",      "export",
      "friend",   "mutable", "protected", "typename", "explicit",  "main",     "arena"};

  for (size_t i = 0; i < COUNT(words); i++)
    if (!strcmp(s, words[i]))
      return true;
  return false;
}

/* What C allows, the rest as '_'. */
static char *identifier(Arena *a, const char *s, size_t n)
{
  char *out = arena_alloc(a, n + 3), *p = out;

  if (!n || isdigit((unsigned char)*s))
    *p++ = '_';
  for (size_t i = 0; i < n; i++)
    *p++ = isalnum((unsigned char)s[i]) && (unsigned char)s[i] < 128 ? s[i] : '_';
  *p = 0;
  return is_keyword(out) ? arena_printf(a, "%s_", out) : out;
}

static const char *unique(const Library *l, Arena *a, const char *name, uint32_t n)
{
  const char *tried = name;

  for (uint32_t i = 0, number = 2; i < n; i++)
    if (!strcmp(l->ios[i].name, tried)) {
      tried = arena_printf(a, "%s_%u", name, number++);
      i = UINT32_MAX; /* once more from the start */
    }
  return tried;
}

/* libface.a, face.so, out/face.o: face. */
static const char *prefix_of(Arena *a, const char *path)
{
  const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path;

  if (!strncmp(base, "lib", 3) && base[3] && base[3] != '.')
    base += 3;
  const char *dot = strrchr(base, '.');
  return identifier(a, base, dot && dot != base ? (size_t)(dot - base) : strlen(base));
}

static char *capitals(Arena *a, const char *s)
{
  char *out = arena_strdup(a, s);

  for (char *p = out; *p; p++)
    *p = (char)toupper((unsigned char)*p);
  return out;
}

/* ---- what goes in and comes out */

static void add_ios(Library *l, Arena *a, Slice list, bool output)
{
  for (uint32_t i = 0; i < list.count; i++) {
    const Io *io = &l->prog->ios.data[list.first + i];
    LibraryIo *out = &l->ios[l->n_ios];
    *out = (LibraryIo){.io = io,
                       .offset = l->prog->buffers.data[io->buffer].offset,
                       .bytes = dtype_bytes(io->type.dtype, (uint64_t)type_count(&io->type)),
                       .output = output};
    out->name = unique(l, a, identifier(a, io->name, strlen(io->name)), l->n_ios);
    l->n_ios++;
  }
}

bool library_init(Library *l, Arena *a, const char *path, const Program *prog, const char *about, Err *e)
{
  const Entry *entry = &prog->entries.data[0];

  if (!prog->module->graphs.data[0]->dense)
    return fail(e, "libraries are made of ONNX models; a language model becomes a program (--emit=exe)");
  *l = (Library){.name = prefix_of(a, path), .about = about, .prog = prog};
  l->upper = capitals(a, l->name);
  l->ios = NEW_ARRAY(a, LibraryIo, entry->inputs.count + entry->outputs.count + 1);
  add_ios(l, a, entry->inputs, false);
  add_ios(l, a, entry->outputs, true);
  l->arena_bytes =
      round_up(prog->space_bytes[SPACE_ARENA], 64) + round_up(prog->space_bytes[SPACE_SCRATCH], 64);
  return true;
}

/* ---- the header */

static const char *c_type(DType t)
{
  static const char *const names[DT_COUNT] = {
      [DT_F32] = "float",    [DT_F64] = "double",  [DT_F16] = "uint16_t", [DT_BF16] = "uint16_t",
      [DT_I8] = "int8_t",    [DT_I16] = "int16_t", [DT_U16] = "uint16_t", [DT_I32] = "int32_t",
      [DT_U32] = "uint32_t", [DT_I64] = "int64_t", [DT_U64] = "uint64_t", [DT_I4] = "int8_t",
      [DT_I2] = "int8_t"};

  return names[t] ? names[t] : "uint8_t";
}

static const char *note_of(DType t)
{
  switch (t) {
  case DT_F16: return " IEEE binary16 bits,";
  case DT_BF16: return " bfloat16 bits,";
  case DT_BOOL: return " 0 or 1,";
  case DT_I4: return " -8 to 7,";
  case DT_U4: return " 0 to 15,";
  case DT_I2: return " -2 to 1,";
  case DT_U2: return " 0 to 3,";
  default: return dtype_info[t].kind == DK_FLOAT8 ? " codes," : "";
  }
}

/* ---- the range that a value's last operation gives it */

static Val output_node(const Graph *g, uint32_t n)
{
  for (Val v = 1; v < g->nodes.len; v++)
    if (graph_node(g, v)->op == OP_output && !n--)
      return v;
  return 0;
}

static const char *range_of(const Graph *g, Val v)
{
  for (;;) {
    switch (graph_node(g, v)->op) {
    case OP_output:
    case OP_reshape:
    case OP_transpose:
    case OP_slice: v = graph_in(g, v, 0); continue;
    case OP_sigmoid:
    case OP_softmax: return " from 0 to 1,";
    case OP_tanh:
    case OP_sin:
    case OP_cos:
    case OP_erf: return " from -1 to 1,";
    case OP_relu:
    case OP_abs:
    case OP_exp:
    case OP_sqrt: return " 0 or more,";
    default: return "";
    }
  }
}

static const char *range_note(const Library *l, const LibraryIo *io)
{
  const Graph *g = l->prog->module->graphs.data[0];
  uint32_t n = 0;

  for (const LibraryIo *other = l->ios; other < io; other++)
    n += other->output;
  Val v = io->output ? output_node(g, n) : 0;
  return v && dtype_info[io->io->type.dtype].kind == DK_FLOAT ? range_of(g, v) : "";
}

/* A name from the model within a comment. */
static void comment_text(Text *out, const char *s)
{
  for (; *s; s++)
    text_add(out, (unsigned char)*s < 32 || *s == '*' || *s == 127 ? "_" : s, 1);
}

static void field(const Library *l, const LibraryIo *io, Text *out)
{
  const Type *t = &io->io->type;

  text_printf(out, "  %s%s *%s; /* ", io->output ? "" : "const ", c_type(t->dtype), io->name);
  for (uint32_t d = 0; d < t->rank; d++)
    text_printf(out, "[%lld]", (long long)t->dim[d]);
  text_printf(out, "%s%s%s row-major; %s \"", t->rank ? "" : "one value,", note_of(t->dtype),
              range_note(l, io), io->output ? "output" : "input");
  comment_text(out, io->io->name);
  text_printf(out, "\" */\n");
}

static void about_comment(const Library *l, Text *out)
{
  const char *p = l->about;

  while (p && *p) {
    size_t n = strcspn(p, "\n");
    text_printf(out, " *   ");
    for (size_t i = 0; i < n; i++)
      text_add(out, p[i] == '*' ? "_" : p + i, 1);
    text_printf(out, "\n");
    p += n + (p[n] == '\n');
  }
}

void library_header(const Library *l, Text *out)
{
  text_printf(
      out,
      "/* %s.h - a compiled model: one function, no allocation, no global state, any number of threads\n"
      " * with a context each. Same inputs, same outputs, bit for bit.\n",
      l->name);
  about_comment(l, out);
  text_printf(out,
              " */\n#ifndef %s_H\n#define %s_H\n\n#include <stdint.h>\n\n#ifdef __cplusplus\nextern \"C\" {\n"
              "#endif\n\n",
              l->upper, l->upper);
  text_printf(out, "#define %s_ARENA_BYTES  %lluu /* working memory of a run */\n", l->upper,
              (unsigned long long)l->arena_bytes);
  text_printf(out, "#define %s_WEIGHT_BYTES %lluu /* constant data in the library */\n\n", l->upper,
              (unsigned long long)l->prog->space_bytes[SPACE_WEIGHTS]);
  text_printf(
      out,
      "typedef struct %s_context {\n  void *arena; /* %s_ARENA_BYTES bytes at a multiple of 64; what they "
      "hold does not matter */\n",
      l->name, l->upper);
  for (uint32_t i = 0; i < l->n_ios; i++)
    field(l, &l->ios[i], out);
  text_printf(out,
              "} %s_context;\n\n/* Runs the model once: reads the inputs, writes the outputs, which may lie "
              "at any address. "
              "Returns 0; -1, and\n * nothing is done, if a pointer is NULL or the arena is not aligned. */\n"
              "int %s_run(const %s_context *context);\n\n#ifdef __cplusplus\n}\n#endif\n#endif\n",
              l->name, l->name, l->name);
}

/* ---- the function in C */

static void print_bind(const Library *l, const Bind *b, uint32_t i, Text *out)
{
  const Buffer *buf = &l->prog->buffers.data[b->buffer];
  uint64_t at = buf->offset + b->offset;

  if (buf->space == SPACE_SCRATCH)
    at += round_up(l->prog->space_bytes[SPACE_ARENA], 64);
  text_printf(out, "%s%s + %llu", i ? ", " : "", buf->space == SPACE_WEIGHTS ? "weights" : "arena",
              (unsigned long long)at);
}

static void print_part(const Library *l, const Part *p, Text *out)
{
  text_printf(out, "  {\n    uint8_t *const buf[] = {");
  for (uint32_t i = 0; i < p->binds.count; i++)
    print_bind(l, &l->prog->binds.data[p->binds.first + i], i, out);
  text_printf(out, "};\n    const int32_t args[] = {0, 1, 0");
  for (int i = 0; i < K_CONSTANTS; i++)
    text_printf(out, ", %d", p->constant[i]);
  text_printf(out, "};\n    k_%u(buf, args, 0, %u);\n  }\n", p->kernel, p->grid);
}

void library_run_c(const Library *l, Text *out)
{
  const Entry *e = &l->prog->entries.data[0];

  /* through void: compilers conclude from float * that the caller's memory is aligned */
  text_printf(
      out,
      "\nstatic void copy_bytes(void *to, const void *from, uint64_t n)\n{\n  memcpy(to, from, n);\n}\n");
  text_printf(out, "\nint %s_run(const %s_context *c)\n{\n", l->name, l->name);
  text_printf(out, "  uint8_t *arena, *weights;\n\n");
  text_printf(out, "  if (!c || !c->arena || (uintptr_t)c->arena %% 64");
  for (uint32_t i = 0; i < l->n_ios; i++)
    text_printf(out, " || !c->%s", l->ios[i].name);
  text_printf(out,
              ")\n    return -1;\n  arena = c->arena;\n  weights = (uint8_t *)(uintptr_t)%s_weights; /* only "
              "read */\n  (void)weights;\n",
              l->name);
  for (uint32_t i = 0; i < l->n_ios; i++)
    if (!l->ios[i].output)
      text_printf(out, "  copy_bytes(arena + %llu, c->%s, %llu);\n", (unsigned long long)l->ios[i].offset,
                  l->ios[i].name, (unsigned long long)l->ios[i].bytes);
  for (uint32_t i = 0; i < e->launches.count; i++) {
    const Launch *launch = &l->prog->launches.data[e->launches.first + i];
    for (uint32_t p = 0; p < launch->parts.count; p++)
      print_part(l, &l->prog->parts.data[launch->parts.first + p], out);
  }
  for (uint32_t i = 0; i < l->n_ios; i++)
    if (l->ios[i].output)
      text_printf(out, "  copy_bytes(c->%s, arena + %llu, %llu);\n", l->ios[i].name,
                  (unsigned long long)l->ios[i].offset, (unsigned long long)l->ios[i].bytes);
  text_printf(out, "  return 0;\n}\n");
}
