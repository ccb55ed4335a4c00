/* mi_tensor.c - the command line of a program made of a model with tensors in and out:
 *   NAME [options] INPUT... [-o FILE|FOLDER/]
 * Inputs are files in the model's order, or NAME=FILE. They are read straight to where the kernels look for them. */
#define _GNU_SOURCE
#include "mi_tensor.h"
#include "mi_array.h"
#include "mi_check.h"
#include "mi_engine.h"
#include "mi_host.h"
#include "mi_session.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { LINE = 512, PATH_BYTES = 4096, NAME_BYTES = 240, BENCH_MIN = 5, BENCH_MAX = 100000, INPUTS_MAX = 256 };
static const uint64_t bench_ns = 2000000000; /* of --bench without a number of runs */

typedef struct {
  const char *output; /* -o */
  unsigned threads;   /* 0: as many as physical cores */
  int64_t runs;       /* --bench; -1: for two seconds; 0: no benchmark */
  bool profile, about, help, version;
  const char *words[INPUTS_MAX]; /* inputs as given */
  uint32_t n_words;
} Options;

typedef struct {
  MiSession s; /* for its name, image, engine and messages */
  Options o;
  const MiIo *ios; /* of the entry point */
  uint32_t n_ios;
  MiArray *arrays;    /* one for each io: its place in the arena */
  const char **files; /* of each input; NULL: not given */
} Run;

/* ---- options */

static bool whole(const char *text, int64_t max, int64_t *out)
{
  int64_t n = 0;

  for (const char *p = text; *p; p++) {
    if (*p < '0' || *p > '9' || n > max)
      return false;
    n = n * 10 + (*p - '0');
  }
  *out = n;
  return *text && n >= 1 && n <= max;
}

typedef enum { HELP, VERSION, ABOUT, PROFILE, BENCH, OUTPUT, THREADS } Name;

static const struct {
  char letter;
  const char *name, *arg, *help; /* arg: NULL: none; "[...]": may be left out, follows '=' */
  Name id;
} rows[] = {
    {'o', "output", "FILE",
     "the output: .npy, .json, else raw bytes (-: standard output); FOLDER/: NAME.npy for each", OUTPUT},
    {'t', "threads", "N", "threads (default: physical cores)", THREADS},
    {0, "bench", "[N]", "run N times (default: two seconds), print times; no outputs, inputs not given are 0",
     BENCH},
    {0, "profile", NULL, "print the time of each kind of launch", PROFILE},
    {0, "about", NULL, "print what this program was made from", ABOUT},
    {'h', "help", NULL, "print this", HELP},
    {0, "version", NULL, "print the version", VERSION},
};
enum { N_ROWS = sizeof rows / sizeof *rows };

static bool set_option(Options *o, Name id, const char *value, MiOut *why)
{
  int64_t n = 0;

  switch (id) {
  case HELP: o->help = true; return true;
  case VERSION: o->version = true; return true;
  case ABOUT: o->about = true; return true;
  case PROFILE: o->profile = true; return true;
  case OUTPUT:
    o->output = value;
    if (!*value)
      mi_out_text(why, "-o: the name is empty");
    return *value;
  case BENCH:
    if (value && !whole(value, BENCH_MAX, &o->runs)) {
      mi_out_format(why, "--bench: '%s' is not a number of runs from 1 to %d", value, BENCH_MAX);
      return false;
    }
    o->runs = value ? o->runs : -1;
    return true;
  case THREADS:
    if (!whole(value, MI_POOL_MAX, &n)) {
      mi_out_format(why, "--threads: '%s' is not a number from 1 to %d", value, MI_POOL_MAX);
      return false;
    }
    o->threads = (unsigned)n;
    return true;
  }
  return false;
}

/* argv[i] begins with '-'; how many words were used, 0: error. */
static int parse_option(Options *o, int argc, char **argv, int i, MiOut *why)
{
  char *arg = argv[i];
  bool is_long = arg[1] == '-';
  size_t n = is_long ? strcspn(arg + 2, "=") : 1;
  char *inside = is_long ? (arg[2 + n] ? arg + 3 + n : NULL) : (arg[2] ? arg + 2 : NULL);

  for (int r = 0; r < N_ROWS; r++) {
    bool match =
        is_long ? strlen(rows[r].name) == n && !memcmp(rows[r].name, arg + 2, n) : rows[r].letter == arg[1];
    bool needs = rows[r].arg && *rows[r].arg != '[';
    if (!match)
      continue;
    if (!rows[r].arg && inside) {
      mi_out_format(why, "--%s takes no value", rows[r].name);
      return 0;
    }
    if (needs && !inside && i + 1 == argc) {
      mi_out_format(why, "%s needs a value: %s", arg, rows[r].arg);
      return 0;
    }
    const char *value = inside ? inside : needs ? argv[i + 1] : NULL;
    return !set_option(o, rows[r].id, value, why) ? 0 : needs && !inside ? 2 : 1;
  }
  mi_out_format(why, "unknown option %s (see --help)", arg);
  return 0;
}

static bool parse(Options *o, int argc, char **argv, MiOut *why)
{
  bool plain = false;

  for (int i = 1, used; i < argc; i += used) {
    used = 1;
    if (!plain && !strcmp(argv[i], "--"))
      plain = true;
    else if (!plain && argv[i][0] == '-' && argv[i][1])
      used = parse_option(o, argc, argv, i, why);
    else if (o->n_words < INPUTS_MAX)
      o->words[o->n_words++] = argv[i];
    else {
      mi_out_format(why, "more than %d inputs", INPUTS_MAX);
      return false;
    }
    if (!used)
      return false;
  }
  return true;
}

/* ---- what goes in and comes out */

static const char *io_name(const Run *r, uint32_t i)
{
  return (const char *)r->s.image + r->ios[i].name;
}

/* A name comes from the model file: it shall not steer a terminal. */
static void put_name(const Run *r, uint32_t i, MiOut *out)
{
  for (const char *p = io_name(r, i); *p; p++)
    mi_out_bytes(out, (unsigned char)*p < 32 || *p == 127 ? "?" : p, 1);
}

static void list_ios(const Run *r, MiOut *out)
{
  for (uint32_t output = 0; output < 2; output++)
    for (uint32_t i = 0; i < r->n_ios; i++)
      if (r->ios[i].output == output) {
        mi_out_text(out, output ? "output " : "input  ");
        put_name(r, i, out);
        mi_out_text(out, " ");
        mi_array_type(&r->arrays[i], out);
        mi_out_text(out, "\n");
      }
}

static void help(const Run *r, MiOut *out)
{
  mi_out_format(out, "usage: %s [options] INPUT... [-o FILE]\n", r->s.name);
  mi_out_text(out, "An input is a file (.npy, .json, else raw bytes; - is standard input), or NAME=FILE.\n"
                   "Without -o, outputs are printed as JSON.\n");
  for (int i = 0; i < N_ROWS; i++) {
    char text[40];
    MiOut left = {.buf = text, .cap = sizeof text, .fd = -1};
    bool optional = rows[i].arg && *rows[i].arg == '[';
    mi_out_format(&left, "--%s%s%s", rows[i].name,
                  optional      ? "[=N]"
                  : rows[i].arg ? " "
                                : "",
                  optional || !rows[i].arg ? "" : rows[i].arg);
    if (rows[i].letter)
      mi_out_format(out, "  -%c, %-16s %s\n", rows[i].letter, mi_out_string(&left), rows[i].help);
    else
      mi_out_format(out, "      %-16s %s\n", mi_out_string(&left), rows[i].help);
  }
  list_ios(r, out);
}

/* Levels differ in where inputs and outputs lie, in nothing else. */
static void find_ios(Run *r, const MiEntry *e)
{
  r->ios = (const MiIo *)(const void *)((const char *)r->s.image + r->s.image->ios) + e->first_io;
  r->n_ios = e->n_ios;
}

static void place_arrays(Run *r)
{
  for (uint32_t i = 0; i < r->n_ios; i++) {
    const MiIo *io = &r->ios[i];
    MiArray *a = &r->arrays[i];
    *a = (MiArray){.elem = (MiElem)io->elem, .rank = io->rank, .count = 1};
    for (uint32_t d = 0; d < io->rank; d++)
      a->count *= a->dim[d] = io->dim[d];
    a->data = r->s.engine.arena ? r->s.engine.arena + io->offset : NULL;
  }
}

/* The input that a word names, and the file; -1: none of this name. */
static int input_of(const Run *r, const char *word, const char **file)
{
  for (uint32_t i = 0; i < r->n_ios; i++) {
    size_t n = strlen(io_name(r, i));
    if (!r->ios[i].output && !strncmp(word, io_name(r, i), n) && word[n] == '=') {
      *file = word + n + 1;
      return (int)i;
    }
  }
  return -1;
}

static int next_input(const Run *r)
{
  for (uint32_t i = 0; i < r->n_ios; i++)
    if (!r->ios[i].output && !r->files[i])
      return (int)i;
  return -1;
}

static int give(Run *r, int i, const char *file)
{
  if (r->files[i])
    return mi_complain(&r->s, MI_USAGE, "input %s is given twice", io_name(r, (uint32_t)i));
  for (uint32_t k = 0; k < r->n_ios; k++)
    if (r->files[k] && !strcmp(file, "-") && !strcmp(r->files[k], "-"))
      return mi_complain(&r->s, MI_USAGE, "standard input can be read for one input only");
  r->files[i] = file;
  return MI_OK;
}

/* Which file is which input's: names first, then order fills what is left. */
static int match_words(Run *r)
{
  const char *file;

  for (int named = 1; named >= 0; named--)
    for (uint32_t w = 0; w < r->o.n_words; w++) {
      const char *word = r->o.words[w];
      int i = input_of(r, word, &file), status;
      if ((i >= 0) != named)
        continue;
      if (!named && strchr(word, '=') && access(word, F_OK))
        return mi_complain(&r->s, MI_USAGE, "'%s': no input has that name; see --help", word);
      if (!named && (i = next_input(r)) < 0)
        return mi_complain(&r->s, MI_USAGE, "'%s': there is no further input; see --help", word);
      status = give(r, i, named ? file : word);
      if (status)
        return status;
    }
  int missing = next_input(r);
  if (missing >= 0 && !r->o.runs)
    return mi_complain(&r->s, MI_USAGE, "input %s is not given; see --help", io_name(r, (uint32_t)missing));
  return MI_OK;
}

static int read_inputs(Run *r)
{
  for (uint32_t i = 0; i < r->n_ios; i++) {
    char line[LINE];
    MiOut why = {.buf = line, .cap = sizeof line, .fd = -1};
    if (r->files[i] && !mi_array_read(r->files[i], &r->arrays[i], &why))
      return mi_complain(&r->s, MI_FAILED, "input %s: %s", io_name(r, i), mi_out_string(&why));
  }
  return MI_OK;
}

/* ---- outputs */

static uint32_t n_outputs(const Run *r, uint32_t *last)
{
  uint32_t n = 0;

  for (uint32_t i = 0; i < r->n_ios; i++)
    if (r->ios[i].output)
      n++, *last = i;
  return n;
}

static int print_outputs(const Run *r)
{
  char buffer[1 << 13];
  MiOut out = {.buf = buffer, .cap = sizeof buffer, .fd = 1};
  bool first = true;

  for (uint32_t i = 0; i < r->n_ios; i++) {
    if (!r->ios[i].output)
      continue;
    mi_out_text(&out, first ? "{\"" : ",\n\"");
    mi_out_json(&out, io_name(r, i), strlen(io_name(r, i)));
    mi_out_text(&out, "\": ");
    mi_array_json(&r->arrays[i], &out);
    first = false;
  }
  mi_out_text(&out, "}\n");
  if (!mi_out_flush(&out))
    return mi_complain(&r->s, MI_FAILED, "cannot write the outputs: %s", strerror(out.error));
  return MI_OK;
}

static int write_output(const Run *r, uint32_t i, const char *path, MiFileKind kind)
{
  char line[LINE];
  MiOut why = {.buf = line, .cap = sizeof line, .fd = -1};

  if (mi_array_write(path, kind, &r->arrays[i], &why))
    return MI_OK;
  return mi_complain(&r->s, MI_FAILED, "output %s: %s", io_name(r, i), mi_out_string(&why));
}

/* ---- outputs in a folder */

/* A name as a file's: what files should not have becomes '_'. */
static void file_name(const Run *r, uint32_t i, char *name, size_t cap)
{
  MiOut out = {.buf = name, .cap = cap, .fd = -1};

  mi_out_text(&out, io_name(r, i));
  mi_out_string(&out);
  for (char *c = name; *c; c++)
    if (strchr("/\\:*?\"<>|", *c) || (unsigned char)*c < 32 || *c == 127)
      *c = '_';
}

/* Names that become equal by that get a number. */
static bool is_taken(const Run *r, uint32_t i, const char *name)
{
  char other[NAME_BYTES];

  for (uint32_t k = 0; k < i; k++) {
    if (!r->ios[k].output)
      continue;
    file_name(r, k, other, sizeof other);
    if (!strcmp(other, name))
      return true;
  }
  return false;
}

static int write_in_folder(const Run *r, const char *folder, uint32_t i)
{
  char path[PATH_BYTES], name[NAME_BYTES];
  MiOut p = {.buf = path, .cap = sizeof path, .fd = -1};

  file_name(r, i, name, sizeof name);
  mi_out_format(&p, "%s%s%s", folder, folder[strlen(folder) - 1] == '/' ? "" : "/", name);
  if (is_taken(r, i, name))
    mi_out_format(&p, "_%u", i);
  mi_out_text(&p, ".npy");
  if (p.n >= sizeof path - 1)
    return mi_complain(&r->s, MI_FAILED, "cannot write to %s: %s", folder, strerror(ENAMETOOLONG));
  return write_output(r, i, mi_out_string(&p), MI_FILE_NPY);
}

static int write_folder(const Run *r, const char *folder)
{
  int status = MI_OK;

  if (mkdir(folder, 0777) && errno != EEXIST)
    return mi_complain(&r->s, MI_FAILED, "cannot create %s: %s", folder, strerror(errno));
  for (uint32_t i = 0; status == MI_OK && i < r->n_ios; i++)
    if (r->ios[i].output)
      status = write_in_folder(r, folder, i);
  return status;
}

static bool is_folder(const char *path)
{
  struct stat st;

  return path[strlen(path) - 1] == '/' || (!stat(path, &st) && S_ISDIR(st.st_mode));
}

static int check_output(const Run *r)
{
  const char *path = r->o.output;
  uint32_t last = 0, n = n_outputs(r, &last);

  if (path && r->o.runs)
    return mi_complain(&r->s, MI_USAGE, "--bench writes no outputs: leave out -o");
  if (path && n != 1 && !is_folder(path))
    return mi_complain(&r->s, MI_USAGE, "there are %u outputs: -o needs a folder (FOLDER/)", n);
  return MI_OK;
}

static int write_outputs(const Run *r)
{
  const char *path = r->o.output;
  uint32_t last = 0;

  if (!path)
    return print_outputs(r);
  if (is_folder(path))
    return write_folder(r, path);
  n_outputs(r, &last);
  return write_output(r, last, path, mi_array_kind(path));
}

/* ---- running */

static int by_size(const void *a, const void *b)
{
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

  return (x > y) - (x < y);
}

static int bench(Run *r, int entry)
{
  uint64_t *ns = mi_host_map(BENCH_MAX * sizeof *ns), total = 0;
  int64_t n = 0;
  char buffer[256];
  MiOut out = {.buf = buffer, .cap = sizeof buffer, .fd = 1};

  if (!ns)
    return mi_complain(&r->s, MI_FAILED, "there is no room for %d times", BENCH_MAX);
  for (int warm = 0; warm < 2; warm++)
    mi_engine_run(&r->s.engine, entry, NULL, 1, 0);
  r->s.engine.profiling = r->o.profile;
  while (n < BENCH_MAX && (r->o.runs > 0 ? n < r->o.runs : n < BENCH_MIN || total < bench_ns)) {
    uint64_t start = mi_host_clock_ns();
    mi_engine_run(&r->s.engine, entry, NULL, 1, 0);
    total += ns[n++] = mi_host_clock_ns() - start;
  }
  qsort(ns, (size_t)n, sizeof *ns, by_size);
  mi_out_format(&out, "%lld runs, %u threads: median %.4f ms, fastest %.4f ms, slowest %.4f ms\n",
                (long long)n, r->s.engine.n_threads, (double)ns[n / 2] / 1e6, (double)ns[0] / 1e6,
                (double)ns[n - 1] / 1e6);
  mi_host_unmap(ns, BENCH_MAX * sizeof *ns);
  return mi_out_flush(&out) ? MI_OK : mi_complain(&r->s, MI_FAILED, "cannot write: %s", strerror(out.error));
}

static int evaluate(Run *r, int entry)
{
  int status = match_words(r);

  if (!status)
    status = check_output(r);
  if (!status)
    status = read_inputs(r);
  if (status)
    return status;
  r->s.engine.profiling = r->o.profile && !r->o.runs;
  if (r->o.runs)
    status = bench(r, entry);
  else if (!mi_engine_run(&r->s.engine, entry, NULL, 1, 0))
    status = mi_complain(&r->s, MI_FAILED, "the model cannot be run");
  else
    status = write_outputs(r);
  if (r->o.profile) {
    char buffer[1024];
    MiOut out = {.buf = buffer, .cap = sizeof buffer, .fd = 2};
    mi_report_profile(&r->s.engine, &out);
    mi_out_flush(&out);
  }
  return status;
}

static int open_and_run(Run *r, MiKernel *const *kernels)
{
  char line[256];
  MiOut why = {.buf = line, .cap = sizeof line, .fd = -1};
  unsigned threads = r->o.threads ? r->o.threads : mi_host_cores();

  threads = threads < MI_POOL_MAX ? threads : MI_POOL_MAX;
  if (!mi_engine_open(&r->s.engine, r->s.image, UINT64_MAX, kernels, threads, &why))
    return mi_complain(&r->s, MI_FAILED, "%s", mi_out_string(&why));
  int entry = mi_engine_entry(&r->s.engine, "run"), status = MI_FAILED;
  if (entry < 0) {
    mi_complain(&r->s, MI_FAILED, "this program has no entry point \"run\"");
  } else {
    find_ios(r, &r->s.engine.entries[entry]);
    place_arrays(r);
    status = evaluate(r, entry);
  }
  mi_engine_close(&r->s.engine);
  return status;
}

static int tell(const Run *r)
{
  char buffer[1024];
  MiOut out = {.buf = buffer, .cap = sizeof buffer, .fd = 1};

  if (r->o.help) {
    help(r, &out);
  } else if (r->o.about) {
    mi_report_about(r->s.image, &out);
    list_ios(r, &out);
  } else {
    mi_report_version(r->s.image, r->s.name, &out);
  }
  return mi_out_flush(&out) ? MI_OK : mi_complain(&r->s, MI_FAILED, "cannot write: %s", strerror(out.error));
}

int mi_tensor_main(const MiImage *image, MiKernel *const *kernels, int argc, char **argv)
{
  Run r = {.s = {.name = mi_program_name(argc, argv), .image = image}};
  char line[256];
  MiOut why = {.buf = line, .cap = sizeof line, .fd = -1};
  int status;

  if (!parse(&r.o, argc, argv, &why))
    return mi_complain(&r.s, MI_USAGE, "%s", mi_out_string(&why));
  signal(SIGPIPE, SIG_IGN); /* a write to a closed pipe shall fail, not kill */
  mi_standard_files();
  if (!mi_check_image(image, UINT64_MAX, &why))
    return mi_complain(&r.s, MI_FAILED, "%s", mi_out_string(&why));
  const MiEntry *first = (const void *)((const char *)image + image->entries);
  find_ios(&r, first);
  size_t bytes = image->n_ios * (sizeof *r.arrays + sizeof *r.files) + 1;
  r.arrays = image->n_entries ? mi_host_map(bytes) : NULL;
  if (!r.arrays)
    return mi_complain(&r.s, MI_FAILED, "out of memory");
  r.files = (const char **)(void *)(r.arrays + image->n_ios);
  place_arrays(&r);
  status = r.o.help || r.o.about || r.o.version ? tell(&r) : open_and_run(&r, kernels);
  mi_host_unmap(r.arrays, bytes);
  return status;
}
