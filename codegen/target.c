/* target.c - the target table, and the host's place in it. See target.h. */
#include "codegen/target.h"

#include "runtime-min/mi_image.h"

#define X86_64_LINUX "x86_64-unknown-linux-musl"

#ifdef __x86_64__
#define CPU(feature) (__builtin_cpu_supports(feature) != 0)
#else
#define CPU(feature) false
#endif

/* A function a row, since the builtin wants literals. */
#define TARGET(id, name, alias, cpu, vec, regs, fma, f16c, dot4, dot2, loops, l1, l2, ahead, triple,         \
               features, needs, host)                                                                        \
  static bool runs_##id(void)                                                                                \
  {                                                                                                          \
    return host;                                                                                             \
  }
#include "codegen/target.def"
#undef TARGET

#define TARGET(id, name, alias, cpu, vec, regs, fma, f16c, dot4, dot2, loops, l1, l2, ahead, triple,         \
               features, needs, host)                                                                        \
  {name, alias, triple, cpu,  features, runs_##id, needs,     vec,  regs,                                    \
   fma,  f16c,  dot4,   dot2, loops,    l1 * 1024, l2 * 1024, ahead},
const Target target_table[] = {
#include "codegen/target.def"
};
#undef TARGET

const unsigned target_count = COUNT(target_table);

const Target *target_host(void)
{
  for (unsigned i = target_count; i-- > 0;)
    if (target_table[i].runs_here())
      return &target_table[i];
  return &target_table[0]; /* C runs everywhere */
}

static bool is_name(const Target *t, const char *name)
{
  return !strcmp(t->name, name) || (t->alias && !strcmp(t->alias, name));
}

static const Target *unknown(const char *cpu, Err *e)
{
  Arena tmp = {0};
  Text known = {.arena = &tmp};

  for (unsigned i = 0; i < target_count; i++)
    text_printf(&known, "%s, ", target_table[i].name);
  fail(e, "unknown cpu '%s'; known are %snative", cpu, known.data);
  arena_free(&tmp);
  return NULL;
}

const Target *target_find(const char *cpu, Err *e)
{
  if (!strcmp(cpu, "native"))
    return target_host();
  for (unsigned i = 0; i < target_count; i++)
    if (is_name(&target_table[i], cpu))
      return &target_table[i];
  return unknown(cpu, e);
}

unsigned target_list(const char *cpus, const Target **out, unsigned max, Err *e)
{
  unsigned n = 0;

  for (const char *p = cpus; *p; p += *p == ',') {
    char name[64];
    size_t len = strcspn(p, ",");
    if (!len || len >= sizeof name)
      return (unsigned)fail(e, "--cpu=%s: not a list of names", cpus);
    memcpy(name, p, len);
    name[len] = 0;
    const Target *t = target_find(name, e);
    if (!t)
      return 0;
    if (n == max)
      return (unsigned)fail(e, "--cpu=%s: at most %u levels in one program", cpus, max);
    if (n && (t <= out[n - 1] || !t->triple || !out[n - 1]->triple || strcmp(t->triple, out[n - 1]->triple)))
      return (unsigned)fail(
          e, "--cpu=%s: levels of one program rise, see micc targets; '%s' does not follow '%s'", cpus,
          t->name, out[n - 1]->name);
    out[n++] = t;
    p += len;
  }
  return n ? n : (unsigned)fail(e, "--cpu needs a name");
}
