/* library_write.c - libraries as files: weights as an object of their own, objects in an archive.
 *
 * Sources: System V ABI, ELF-64 object file format; ar(5), the System V variant with a symbol index. */
#include "codegen/library.h"

#include <elf.h>
#include <sys/stat.h>
#include <unistd.h>

#include "codegen/package.h"

/* ---- weights as an object: one section, one hidden symbol */

enum { S_NULL, S_DATA, S_STACK, S_SYMTAB, S_STRTAB, S_SHSTRTAB, S_COUNT };
static const char section_names[] = "\0.rodata\0.note.GNU-stack\0.symtab\0.strtab\0.shstrtab";

typedef struct {
  Elf64_Ehdr head;
  char pad[64 - sizeof(Elf64_Ehdr) % 64];
} Head; /* the data follows at a multiple of 64 */

typedef struct {
  Text tail; /* what stands behind the data */
  Head head;
  uint64_t bytes; /* of the whole object */
} WeightsObject;

static void section(Elf64_Shdr *s, const char *name, Elf64_Word type, uint64_t offset, uint64_t size)
{
  for (size_t at = 0; at < sizeof section_names; at += strlen(section_names + at) + 1)
    if (!strcmp(section_names + at, name))
      s->sh_name = (Elf64_Word)at;
  s->sh_type = type;
  s->sh_offset = offset;
  s->sh_size = size;
  s->sh_addralign = 1;
}

static void weights_object(const Library *l, Arena *a, uint64_t data, WeightsObject *o)
{
  const char *name = arena_printf(a, "%s_weights", l->name);
  uint64_t at = sizeof(Head) + round_up(data, 8), n = strlen(name) + 2;
  Elf64_Sym sym[2] = {{0}};
  Elf64_Shdr s[S_COUNT] = {{0}};

  *o = (WeightsObject){.tail = {.arena = a}};
  sym[1] = (Elf64_Sym){.st_name = 1,
                       .st_info = ELF64_ST_INFO(STB_GLOBAL, STT_OBJECT),
                       .st_other = STV_HIDDEN,
                       .st_shndx = S_DATA,
                       .st_size = data};
  text_add(&o->tail, "\0\0\0\0\0\0\0", round_up(data, 8) - data);
  text_add(&o->tail, (const char *)sym, sizeof sym);
  text_add(&o->tail, "", 1);
  text_add(&o->tail, name, n - 1);
  text_add(&o->tail, section_names, sizeof section_names);
  uint64_t strings = at + sizeof sym, names = strings + n, table = round_up(names + sizeof section_names, 8);
  text_add(&o->tail, "\0\0\0\0\0\0\0", table - names - sizeof section_names);
  section(&s[S_DATA], ".rodata", SHT_PROGBITS, sizeof(Head), data);
  s[S_DATA].sh_flags = SHF_ALLOC;
  s[S_DATA].sh_addralign = 64;
  section(&s[S_STACK], ".note.GNU-stack", SHT_PROGBITS, at, 0);
  section(&s[S_SYMTAB], ".symtab", SHT_SYMTAB, at, sizeof sym);
  s[S_SYMTAB].sh_link = S_STRTAB;
  s[S_SYMTAB].sh_info = 1; /* index of the first symbol that is not local */
  s[S_SYMTAB].sh_entsize = sizeof *sym;
  s[S_SYMTAB].sh_addralign = 8;
  section(&s[S_STRTAB], ".strtab", SHT_STRTAB, strings, n);
  section(&s[S_SHSTRTAB], ".shstrtab", SHT_STRTAB, names, sizeof section_names);
  text_add(&o->tail, (const char *)s, sizeof s);
  o->head.head =
      (Elf64_Ehdr){.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
                   .e_type = ET_REL,
                   .e_machine = EM_X86_64,
                   .e_version = EV_CURRENT,
                   .e_shoff = table,
                   .e_ehsize = sizeof(Elf64_Ehdr),
                   .e_shentsize = sizeof(Elf64_Shdr),
                   .e_shnum = S_COUNT,
                   .e_shstrndx = S_SHSTRTAB};
  o->bytes = sizeof(Head) + data + o->tail.len;
}

/* Of the image, only the weights; to C source, eight bytes a number, little-endian. */
typedef struct {
  OutFile *f;
  uint64_t skip, left;
  bool words;
  uint64_t word;
  unsigned have, column; /* bytes in `word`; numbers in the line */
  Text line;
} Weights;

static bool put_word(Weights *w)
{
  text_printf(&w->line, "0x%llx,", (unsigned long long)w->word);
  w->word = 0;
  w->have = 0;
  if (++w->column % 8)
    return true;
  text_add(&w->line, "\n", 1);
  bool ok = file_write(w->f, w->line.data, w->line.len);
  w->line.len = 0;
  return ok;
}

static bool put_words(Weights *w, const uint8_t *bytes, uint64_t n)
{
  for (uint64_t i = 0; i < n; i++) {
    w->word |= (uint64_t)bytes[i] << 8 * w->have;
    if (++w->have == 8 && !put_word(w))
      return false;
  }
  return true;
}

static bool weights_sink(void *ctx, const void *bytes, uint64_t n)
{
  Weights *w = ctx;
  uint64_t skip = n < w->skip ? n : w->skip, take = n - skip < w->left ? n - skip : w->left;
  const uint8_t *from = (const uint8_t *)bytes + skip;

  w->skip -= skip;
  w->left -= take;
  return !take || (w->words ? put_words(w, from, take) : file_write(w->f, from, take));
}

static bool write_weights(OutFile *f, const Image *im, bool words, Arena *a)
{
  Weights w = {.f = f,
               .skip = im->head_bytes,
               .left = im->prog->space_bytes[SPACE_WEIGHTS],
               .words = words,
               .line = {.arena = a}};
  return image_write(im, weights_sink, &w) && (!w.have || put_word(&w)) &&
         (!w.line.len || file_write(f, w.line.data, w.line.len));
}

static bool write_weights_object(OutFile *f, const WeightsObject *o, const Image *im)
{
  return file_write(f, &o->head, sizeof o->head) && write_weights(f, im, false, NULL) &&
         file_write(f, o->tail.data, o->tail.len);
}

/* ---- archives */

static void member_header(Text *t, const char *name, uint64_t bytes)
{
  text_printf(t, "%-16s%-12d%-6d%-6d%-8s%-10llu`\n", name, 0, 0, 0, "644", (unsigned long long)bytes);
}

static void big_endian(Text *t, uint64_t n)
{
  const char b[4] = {(char)(n >> 24), (char)(n >> 16), (char)(n >> 8), (char)n};
  text_add(t, b, 4);
}

/* Two members, code and weights, each with one symbol in the index. */
static bool write_archive(OutFile *f, const Library *l, Arena *a, const void *code, uint64_t code_bytes,
                          const Image *im)
{
  Text head = {.arena = a}, second = {.arena = a};
  const char *symbols[] = {arena_printf(a, "%s_run", l->name), arena_printf(a, "%s_weights", l->name)};
  uint64_t names = strlen(symbols[0]) + strlen(symbols[1]) + 2, index = 12 + names;
  WeightsObject w;

  weights_object(l, a, l->prog->space_bytes[SPACE_WEIGHTS], &w);
  uint64_t first = 8 + 60 + round_up(index, 2), next = first + 60 + round_up(code_bytes, 2);
  if (next + w.bytes > UINT32_MAX)
    return fail(f->e, "%s: a static library of more than 4 GiB is not possible", f->path);
  text_printf(&head, "!<arch>\n");
  member_header(&head, "/", round_up(index, 2));
  big_endian(&head, 2);
  big_endian(&head, first);
  big_endian(&head, next);
  text_add(&head, symbols[0], strlen(symbols[0]) + 1);
  text_add(&head, symbols[1], strlen(symbols[1]) + 1);
  text_add(&head, "", index % 2);
  member_header(&head, "code.o/", code_bytes);
  text_add(&second, "\n", code_bytes % 2);
  member_header(&second, "weights.o/", w.bytes);
  return file_write(f, head.data, head.len) && file_write(f, code, code_bytes) &&
         file_write(f, second.data, second.len) && write_weights_object(f, &w, im) &&
         file_write(f, "\n", w.bytes % 2);
}

/* ---- joined by the linker */

static bool link_objects(const Library *l, LibraryKind kind, Arena *a, OutFile *out, const void *code,
                         uint64_t code_bytes, const Image *im)
{
  static const char *const shared[] = {"-shared", "-z", "noexecstack", "-s"}, *const joined[] = {"-r"};
  OutFile object = {.fd = -1}, weights = {.fd = -1};
  WeightsObject w;

  weights_object(l, a, l->prog->space_bytes[SPACE_WEIGHTS], &w);
  bool ok = file_scratch(&object, a, out->path, out->e) && file_scratch(&weights, a, out->path, out->e) &&
            file_write(&object, code, code_bytes) && write_weights_object(&weights, &w, im) &&
            package_link(a, kind == LIBRARY_SHARED ? shared : joined,
                         kind == LIBRARY_SHARED ? COUNT(shared) : COUNT(joined),
                         (const char *const[]){object.temp, weights.temp}, 2, out, out->e);
  file_abandon(&object);
  file_abandon(&weights);
  return ok;
}

/* ---- C */

/* Header, kernels, weights, function. */
static bool write_c(OutFile *f, const Library *l, Arena *a, const void *code, uint64_t code_bytes,
                    const Image *im, const char *header)
{
  Text head = {.arena = a}, run = {.arena = a};
  uint64_t words = (l->prog->space_bytes[SPACE_WEIGHTS] + 7) / 8;

  text_printf(&head,
              "/* The model of %s, which says what it is. Little-endian machines. */\n#include \"%s\"\n\n",
              header, header);
  text_printf(&run, "\nstatic const uint64_t %s_weights[%llu] = {", l->name,
              (unsigned long long)(words ? words : 1));
  if (!file_write(f, head.data, head.len) || !file_write(f, code, code_bytes) ||
      !file_write(f, run.data, run.len) || !write_weights(f, im, true, a))
    return false;
  run.len = 0;
  text_printf(&run, "%s};\n", words ? "" : "0");
  library_run_c(l, &run);
  return file_write(f, run.data, run.len);
}

/* ---- both files */

const char *library_header_path(const Library *l, Arena *a, const char *path)
{
  const char *slash = strrchr(path, '/');
  return arena_printf(a, "%.*s%s.h", slash ? (int)(slash + 1 - path) : 0, path, l->name);
}

static bool write_library(OutFile *f, const Library *l, LibraryKind kind, Arena *a, const void *code,
                          uint64_t code_bytes, const Image *im, const char *header)
{
  const char *slash = strrchr(header, '/');

  switch (kind) {
  case LIBRARY_STATIC: return write_archive(f, l, a, code, code_bytes, im);
  case LIBRARY_C: return write_c(f, l, a, code, code_bytes, im, slash ? slash + 1 : header);
  default: return link_objects(l, kind, a, f, code, code_bytes, im);
  }
}

/* A device has no place for a header beside it. */
static bool is_file(const char *path, Err *e)
{
  struct stat st;

  return stat(path, &st) || S_ISREG(st.st_mode) ||
         fail(e, "%s: is no file; a library has a header beside it", path);
}

bool library_write(const Library *l, LibraryKind kind, const char *path, const void *code,
                   uint64_t code_bytes, const Image *im, Err *e)
{
  Arena a = {0};
  OutFile out = {.fd = -1}, head = {.fd = -1};
  const char *h = library_header_path(l, &a, path);
  Text text = {.arena = &a};

  library_header(l, &text);
  bool ready = is_file(path, e) &&
               (strcmp(h, path) || fail(e, "%s: would be both the library and its header", path)) &&
               file_begin(&out, &a, path, e) && file_begin(&head, &a, h, e) &&
               file_write(&head, text.data, text.len) &&
               write_library(&out, l, kind, &a, code, code_bytes, im, h);
  bool placed = ready && file_commit(&head, 0644);
  bool ok = placed && file_commit(&out, kind == LIBRARY_SHARED ? 0755 : 0644);

  if (placed && !ok)
    unlink(h);
  file_abandon(&out);
  file_abandon(&head);
  arena_free(&a);
  return ok;
}
