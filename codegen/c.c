/* c.c - prints kernels as portable C99: a row an op, one walk over the nodes.
 *
 * A value of one lane is a variable, of more lanes an array; an op on lanes is a loop over them that
 * says nothing but the op, which gcc and clang turn into vector instructions and libtcc takes as it
 * is. Memory is read and written by memcpy alone: buffers have any alignment and are seen as several
 * types. Signed integers are computed in an unsigned type, where they wrap.
 *
 * Nothing is decided here: what is slow in this C was said in the kernel. */
#include "codegen/c.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>

enum { MAX_OPEN = 64 }; /* the verifier's depth of loops and ifs */

static const struct {
  const char *name; /* of a value's lane */
  const char *wrap; /* integers are computed in it */
} c_type[KE_COUNT] = {
    [KE_bool] = {"int", "int"},          [KE_i8] = {"int8_t", "uint32_t"},
    [KE_u8] = {"uint8_t", "uint32_t"},   [KE_i16] = {"int16_t", "uint32_t"},
    [KE_u16] = {"uint16_t", "uint32_t"}, [KE_i32] = {"int32_t", "uint32_t"},
    [KE_u32] = {"uint32_t", "uint32_t"}, [KE_idx] = {"int64_t", "uint64_t"},
    [KE_f16] = {"uint16_t", NULL},       [KE_f32] = {"float", NULL},
};

typedef struct {
  const Kernel *k;
  Text *out;
  uint32_t *uses; /* of each value */
  int depth;      /* of indentation */
  KVal open[MAX_OPEN];
  int n_open;
} CPrinter;

typedef void Print(CPrinter *p, KVal v, const char *pattern);

static Print print_lanewise, print_const, print_loop, print_carry, print_if, print_else, print_end,
    print_load, print_store, print_prefetch, print_splat, print_shuffle, print_reduce, print_cast,
    print_bitcast;

/* The pattern is one lane of the result:
 *   %0 %1 %2    an input, this lane
 *   %0{2*@}     an input, that lane
 *   @           the number of this lane
 *   %t %u %i    type of the result, the type it wraps in, immediate
 *   %h          half of the lanes (of reductions, whose lanes are t's) */
#define WRAP(op) "(%t)((%u)%0 " op " (%u)%1)"
static const struct {
  const char *ints, *floats; /* by the first input's element; NULL: the same */
  Print *print;
} c_op[K_COUNT] = {
    [K_grid] = {"g", NULL, print_lanewise},
    [K_arg] = {"args[%i]", NULL, print_lanewise},
    [K_const] = {"", NULL, print_const},
    [K_lane] = {"(%t)@", NULL, print_lanewise},
    [K_loop] = {"", NULL, print_loop},
    [K_carry] = {"", NULL, print_carry},
    [K_if] = {"", NULL, print_if},
    [K_else] = {"", NULL, print_else},
    [K_end] = {"", NULL, print_end},
    [K_load] = {"", NULL, print_load},
    [K_store] = {"", NULL, print_store},
    [K_prefetch] = {"", NULL, print_prefetch},
    [K_splat] = {"%0", NULL, print_splat},
    [K_extract] = {"%0{%i}", NULL, print_lanewise},
    [K_shuffle] = {"", NULL, print_shuffle},
    [K_sum] = {"(%t)((%u)t[@] + (%u)t[@ + %h])", "t[@] + t[@ + %h]", print_reduce},
    [K_rmax] = {"t[@] > t[@ + %h] ? t[@] : t[@ + %h]", NULL, print_reduce},
    [K_add] = {WRAP("+"), "%0 + %1", print_lanewise},
    [K_sub] = {WRAP("-"), "%0 - %1", print_lanewise},
    [K_mul] = {WRAP("*"), "%0 * %1", print_lanewise},
    [K_div] = {"(%t)(%0 / %1)", "%0 / %1", print_lanewise},
    [K_rem] = {"(%t)(%0 %% %1)", NULL, print_lanewise},
    [K_neg] = {"(%t)(0 - (%u)%0)", "-%0", print_lanewise},
    [K_abs] = {"(%t)(%0 > 0 ? (%u)%0 : 0 - (%u)%0)", "fabsf(%0)", print_lanewise},
    [K_min] = {"%0 < %1 ? %0 : %1", NULL, print_lanewise},
    [K_max] = {"%0 > %1 ? %0 : %1", NULL, print_lanewise},
    [K_fma] = {"fmaf(%0, %1, %2)", NULL, print_lanewise},
    [K_sqrt] = {"sqrtf(%0)", NULL, print_lanewise},
    [K_and] = {"(%t)(%0 & %1)", NULL, print_lanewise},
    [K_or] = {"(%t)(%0 | %1)", NULL, print_lanewise},
    [K_xor] = {"(%t)(%0 ^ %1)", NULL, print_lanewise},
    [K_shl] = {"(%t)((%u)%0 << %i)", NULL, print_lanewise},
    [K_shr] = {"(%t)(%0 >> %i)", NULL, print_lanewise},
    [K_lt] = {"%0 < %1", NULL, print_lanewise},
    [K_le] = {"%0 <= %1", NULL, print_lanewise},
    [K_eq] = {"%0 == %1", NULL, print_lanewise},
    [K_select] = {"%0 ? %1 : %2", NULL, print_lanewise},
    [K_cast] = {"(%t)%0", "(%t)%0", print_cast},
    [K_bitcast] = {"", NULL, print_bitcast},
    [K_dot4] = {"(%t)((%u)%0 + (%u)(%1{4 * @} * %2{4 * @} + %1{4 * @ + 1} * %2{4 * @ + 1} + "
                "%1{4 * @ + 2} * %2{4 * @ + 2} + %1{4 * @ + 3} * %2{4 * @ + 3}))",
                NULL, print_lanewise},
    [K_dot2] = {"(%t)(%0 + %1{2 * @} * %2{2 * @} + %1{2 * @ + 1} * %2{2 * @ + 1})", NULL, print_lanewise},
    [K_dot2w] = {"(%t)((%u)%0 + (%u)(%1{2 * @} * %2{2 * @}) + (%u)(%1{2 * @ + 1} * %2{2 * @ + 1}))", NULL,
                 print_lanewise},
    [K_widen] = {"%0{2 * @} + %0{2 * @ + 1}", NULL, print_lanewise},
};

/* Halves are kept as bits: [before is f16][after is f16] */
static const char *const c_cast[2][2] = {{"(%t)%0", "f16_bits((float)%0)"}, {"(%t)f16_value(%0)", "%0"}};

/* ---- pieces of text */

static const KNode *node(const CPrinter *p, KVal v)
{
  return kernel_node(p->k, v);
}

static const KNode *input(const CPrinter *p, KVal v, uint32_t i)
{
  return node(p, kernel_in(p->k, v, i));
}

static void begin_line(CPrinter *p)
{
  text_printf(p->out, "%*s", 2 * p->depth, "");
}

static void print_pattern(CPrinter *p, KVal v, const char *s, size_t len, const char *lane)
{
  const KNode *n = node(p, v);

  for (const char *end = s + len; s < end; s++)
    if (*s == '@') {
      text_printf(p->out, "%s", lane);
    } else if (*s != '%') {
      text_add(p->out, s, 1);
    } else if (*++s >= '0' && *s <= '9') {
      KVal in = kernel_in(p->k, v, (uint32_t)(*s - '0'));
      const char *at = s[1] == '{' ? s + 2 : "@";
      size_t at_len = strcspn(at, "}");
      text_printf(p->out, "v%u", in);
      if (node(p, in)->type.lanes > 1) {
        text_add(p->out, "[", 1);
        print_pattern(p, v, at, at_len, lane);
        text_add(p->out, "]", 1);
      }
      s += s[1] == '{' ? at_len + 2 : 0;
    } else {
      switch (*s) {
      case 't': text_printf(p->out, "%s", c_type[n->type.elem].name); break;
      case 'u': text_printf(p->out, "%s", c_type[n->type.elem].wrap); break;
      case 'i': text_printf(p->out, "%lld", (long long)n->imm.i); break;
      default: text_add(p->out, s, 1);
      }
    }
}

/* `float v7` or `float v7[8]` */
static void print_variable(CPrinter *p, char letter, KVal v)
{
  KType t = node(p, v)->type;

  text_printf(p->out, "%s %c%u", c_type[t.elem].name, letter, v);
  if (t.lanes > 1)
    text_printf(p->out, "[%u]", t.lanes);
}

/* What stands before the expression of a value's lane; returns the number of that lane. */
static const char *begin_value(CPrinter *p, KVal v)
{
  uint32_t lanes = node(p, v)->type.lanes;

  begin_line(p);
  text_printf(p->out, "%s", lanes > 1 ? "" : "const ");
  print_variable(p, 'v', v);
  if (lanes > 1)
    text_printf(p->out, "; EACH(%u) v%u[l]", lanes, v);
  text_printf(p->out, " = ");
  return lanes > 1 ? "l" : "0";
}

/* A value that nobody uses would be warned about. */
static void end_value(CPrinter *p, KVal v)
{
  text_printf(p->out, p->uses[v] ? ";\n" : "; (void)v%u;\n", v);
}

static void print_lanewise(CPrinter *p, KVal v, const char *pattern)
{
  const char *lane = begin_value(p, v);
  print_pattern(p, v, pattern, strlen(pattern), lane);
  end_value(p, v);
}

/* ---- constants */

/* Low bits, as the element sees them. */
static long long canonical(KElem e, int64_t i)
{
  switch (e) {
  case KE_bool: return i & 1;
  case KE_i8: return (int8_t)i;
  case KE_u8: return (uint8_t)i;
  case KE_i16: return (int16_t)i;
  case KE_u16: return (uint16_t)i;
  case KE_i32: return (int32_t)i;
  case KE_u32: return (uint32_t)i;
  default: return i;
  }
}

static void print_int(Text *out, long long i)
{
  if (i == INT64_MIN) /* no literal */
    text_printf(out, "(-9223372036854775807 - 1)");
  else
    text_printf(out, "%lld", i);
}

static void print_float(Text *out, double f)
{
  char digits[32];

  if (isnan(f) || isinf(f)) {
    text_printf(out, "%s%s", signbit(f) ? "-" : "", isnan(f) ? "NAN" : "INFINITY");
    return;
  }
  snprintf(digits, sizeof digits, "%.9g", f);
  text_printf(out, "%s%sf", digits, strpbrk(digits, ".e") ? "" : ".0");
}

static void print_const(CPrinter *p, KVal v, const char *pattern)
{
  const KNode *n = node(p, v);

  (void)pattern;
  begin_value(p, v);
  if (kelem_info[n->type.elem].is_float)
    print_float(p->out, n->imm.f);
  else
    print_int(p->out, canonical((KElem)n->type.elem, n->imm.i));
  end_value(p, v);
}

/* ---- structure */

/* `T x = y`, lane by lane; declares x if `declare`. */
static void print_copy(CPrinter *p, bool declare, char x, KVal xv, char y, KVal yv)
{
  uint32_t lanes = node(p, xv)->type.lanes;

  begin_line(p);
  if (declare)
    print_variable(p, x, xv);
  if (lanes > 1)
    text_printf(p->out, "%sEACH(%u) %c%u[l] = %c%u[l];\n", declare ? "; " : "", lanes, x, xv, y, yv);
  else if (declare)
    text_printf(p->out, " = %c%u;\n", y, yv);
  else
    text_printf(p->out, "%c%u = %c%u;\n", x, xv, y, yv);
}

static void open_body(CPrinter *p, KVal v)
{
  assert(p->n_open < MAX_OPEN);
  p->open[p->n_open++] = v;
  p->depth++;
}

static bool is_carry_of(const CPrinter *p, KVal v, KVal loop)
{
  if (v <= loop)
    return false;
  for (KVal c = loop + 1; c <= v; c++)
    if (c >= p->k->nodes.len || node(p, c)->op != K_carry)
      return false;
  return true;
}

static void print_loop(CPrinter *p, KVal v, const char *pattern)
{
  (void)pattern;
  for (KVal c = v + 1; is_carry_of(p, c, v); c++)
    print_copy(p, true, 'v', c, 'v', kernel_in(p->k, c, 0));
  begin_line(p);
  text_printf(p->out, "for (int64_t v%u = v%u; v%u < v%u; v%u += %lld) {\n", v, kernel_in(p->k, v, 0), v,
              kernel_in(p->k, v, 1), v, (long long)node(p, v)->imm.i);
  open_body(p, v);
}

static void print_carry(CPrinter *p, KVal v, const char *pattern)
{
  (void)pattern;
  if (!p->uses[v]) {
    begin_line(p);
    text_printf(p->out, "(void)v%u;\n", v);
  }
}

static void print_if(CPrinter *p, KVal v, const char *pattern)
{
  (void)pattern;
  begin_line(p);
  text_printf(p->out, "if (v%u) {\n", kernel_in(p->k, v, 0));
  open_body(p, v);
}

static void print_else(CPrinter *p, KVal v, const char *pattern)
{
  (void)pattern;
  (void)v;
  p->depth--;
  begin_line(p);
  text_printf(p->out, "} else {\n");
  p->depth++;
}

/* All carries change at once: one that becomes the next value of another is kept as n before. */
static void print_end(CPrinter *p, KVal v, const char *pattern)
{
  KVal head = p->open[--p->n_open];
  uint32_t n = node(p, v)->in.count;

  (void)pattern;
  for (uint32_t i = 0; i < n; i++) {
    KVal carry = head + 1 + i, next = kernel_in(p->k, v, i);
    if (next != carry && is_carry_of(p, next, head))
      print_copy(p, true, 'n', carry, 'v', next);
  }
  for (uint32_t i = 0; i < n; i++) {
    KVal carry = head + 1 + i, next = kernel_in(p->k, v, i);
    bool kept = is_carry_of(p, next, head);
    if (next != carry)
      print_copy(p, false, 'v', carry, kept ? 'n' : 'v', kept ? carry : next);
  }
  p->depth--;
  begin_line(p);
  text_printf(p->out, "}\n");
}

/* ---- memory */

static const char *address_of(const KNode *n)
{
  return n->type.lanes > 1 ? "" : "&";
}

static void print_address(CPrinter *p, KVal v)
{
  const KNode *n = node(p, v);
  uint32_t bytes = kelem_info[p->k->params.data[n->buf].elem].bytes;

  text_printf(p->out, "b%u + ", n->buf);
  if (n->imm.i) {
    text_printf(p->out, "(v%u + ", kernel_in(p->k, v, 0));
    print_int(p->out, n->imm.i);
    text_printf(p->out, ")");
  } else {
    text_printf(p->out, "v%u", kernel_in(p->k, v, 0));
  }
  if (bytes > 1)
    text_printf(p->out, " * %u", bytes);
}

static void print_load(CPrinter *p, KVal v, const char *pattern)
{
  const KNode *n = node(p, v);

  (void)pattern;
  begin_line(p);
  print_variable(p, 'v', v);
  text_printf(p->out, "; memcpy(%sv%u, ", address_of(n), v);
  print_address(p, v);
  text_printf(p->out, ", %u)", ktype_bytes(n->type));
  end_value(p, v);
}

/* A hint that C has no word for; what it names is still used. */
static void print_prefetch(CPrinter *p, KVal v, const char *pattern)
{
  (void)pattern;
  begin_line(p);
  text_printf(p->out, "(void)b%u, (void)v%u;\n", node(p, v)->buf, kernel_in(p->k, v, 0));
}

static void print_store(CPrinter *p, KVal v, const char *pattern)
{
  const KNode *value = input(p, v, 1);

  (void)pattern;
  begin_line(p);
  text_printf(p->out, "memcpy(");
  print_address(p, v);
  text_printf(p->out, ", %sv%u, %u);\n", address_of(value), kernel_in(p->k, v, 1), ktype_bytes(value->type));
}

/* ---- vectors */

static void print_splat(CPrinter *p, KVal v, const char *pattern)
{
  KType t = node(p, v)->type;
  KVal in = kernel_in(p->k, v, 0);

  if (node(p, in)->type.elem == t.elem) {
    print_lanewise(p, v, pattern);
    return;
  }
  begin_line(p); /* a dword seen as bytes */
  print_variable(p, 'v', v);
  text_printf(p->out, "; EACH(%u) memcpy(v%u + 4 * l, &v%u, 4)", t.lanes / 4u, v, in);
  end_value(p, v);
}

static void print_shuffle(CPrinter *p, KVal v, const char *pattern)
{
  uint32_t n = node(p, v)->type.lanes, n_in = input(p, v, 0)->type.lanes;

  (void)pattern;
  begin_line(p);
  text_printf(p->out, "const ");
  print_variable(p, 'v', v);
  text_printf(p->out, n > 1 ? " = {" : " = ");
  for (uint32_t i = 0; i < n; i++) {
    uint32_t lane = kernel_in(p->k, v, 2 + i);
    text_printf(p->out, "%sv%u", i ? ", " : "", kernel_in(p->k, v, lane >= n_in));
    if (n_in > 1)
      text_printf(p->out, "[%u]", lane % n_in);
  }
  text_printf(p->out, n > 1 ? "}" : "");
  end_value(p, v);
}

static void print_halving(CPrinter *p, KVal v, const char *pattern, uint32_t half)
{
  text_printf(p->out, " EACH(%u) t[l] = ", half);
  for (const char *h; (h = strstr(pattern, "%h")); pattern = h + 2) {
    print_pattern(p, v, pattern, (size_t)(h - pattern), "l");
    text_printf(p->out, "%u", half);
  }
  print_pattern(p, v, pattern, strlen(pattern), "l");
  text_printf(p->out, ";");
}

static void print_reduce(CPrinter *p, KVal v, const char *pattern)
{
  KType in = input(p, v, 0)->type;

  if (in.lanes == 1) {
    print_lanewise(p, v, "%0");
    return;
  }
  begin_line(p);
  print_variable(p, 'v', v);
  text_printf(p->out, "; { %s t[%u]; EACH(%u) t[l] = v%u[l];", c_type[in.elem].name, in.lanes, in.lanes,
              kernel_in(p->k, v, 0));
  for (uint32_t half = in.lanes / 2; half; half /= 2)
    print_halving(p, v, pattern, half);
  text_printf(p->out, " v%u = t[0]; }", v);
  end_value(p, v);
}

/* ---- conversions */

static void print_cast(CPrinter *p, KVal v, const char *pattern)
{
  (void)pattern;
  print_lanewise(p, v, c_cast[input(p, v, 0)->type.elem == KE_f16][node(p, v)->type.elem == KE_f16]);
}

static void print_bitcast(CPrinter *p, KVal v, const char *pattern)
{
  const KNode *n = node(p, v);

  (void)pattern;
  begin_line(p);
  print_variable(p, 'v', v);
  text_printf(p->out, "; memcpy(%sv%u, %sv%u, %u)", address_of(n), v, address_of(input(p, v, 0)),
              kernel_in(p->k, v, 0), ktype_bytes(n->type));
  end_value(p, v);
}

/* ---- the file */

static const char head_text[] =
    "/* Kernels, printed by micc. A contracted product and sum would change results. */\n"
    "#ifndef MI_NO_INCLUDES\n"
    "#include <math.h>\n#include <stdint.h>\n#include <string.h>\n"
    "#endif\n"
    "#if defined(__clang__)\n"
    "#pragma STDC FP_CONTRACT OFF\n"
    "#elif defined(__GNUC__)\n"
    "#pragma GCC optimize(\"fp-contract=off\")\n"
    "#endif\n"
    "#ifdef __GNUC__\n" /* constants may be folded into what looks like a slip; gcc forgets the cast of a
                           shift */
    "#pragma GCC diagnostic ignored \"-Wtautological-compare\"\n"
    "#pragma GCC diagnostic ignored \"-Wshift-overflow\"\n"
    "#pragma GCC diagnostic ignored \"-Wshift-negative-value\"\n"
    "#endif\n"
    "#define EACH(n) for (int l = 0; l < (n); l++)\n\n"
    "typedef void MiKernel(uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi);\n";

/* By the cast that needs it. The exponent is rebased by a product, which is exact and puts subnormal
 * numbers right; rounding to nearest even is left to integer carries and, below 2^-14, to an addition. */
static const char f16_value_text[] = "\nstatic float f16_value(uint16_t h)\n"
                                     "{\n"
                                     "  uint32_t u = (uint32_t)(h & 0x7fff) << 13;\n"
                                     "  float f;\n"
                                     "  memcpy(&f, &u, 4);\n"
                                     "  f *= 5.19229686e+33f;\n"
                                     "  memcpy(&u, &f, 4);\n"
                                     "  u |= (h & 0x7c00) == 0x7c00 ? 0x7f800000u : 0u;\n"
                                     "  u |= (uint32_t)(h & 0x8000) << 16;\n"
                                     "  memcpy(&f, &u, 4);\n"
                                     "  return f;\n"
                                     "}\n";
static const char f16_bits_text[] = "\nstatic uint16_t f16_bits(float f)\n"
                                    "{\n"
                                    "  uint32_t u, sign, small;\n"
                                    "  memcpy(&u, &f, 4);\n"
                                    "  sign = u >> 16 & 0x8000u;\n"
                                    "  u &= 0x7fffffffu;\n"
                                    "  memcpy(&f, &u, 4);\n"
                                    "  f += 0.5f;\n"
                                    "  memcpy(&small, &f, 4);\n"
                                    "  if (u > 0x7f800000u)\n"
                                    "    u = 0x7e00u;\n"
                                    "  else if (u >= 0x477ff000u)\n"
                                    "    u = 0x7c00u;\n"
                                    "  else if (u < 0x38800000u)\n"
                                    "    u = small - 0x3f000000u;\n"
                                    "  else\n"
                                    "    u = (u + 0xc8000fffu + (u >> 13 & 1u)) >> 13;\n"
                                    "  return (uint16_t)(sign | u);\n"
                                    "}\n";

static bool has_cast(const Kernel *k, bool from_f16)
{
  for (KVal v = 1; v < k->nodes.len; v++) {
    const KNode *n = kernel_node(k, v);
    if (n->op == K_cast &&
        (from_f16 ? kernel_node(k, kernel_in(k, v, 0))->type.elem : n->type.elem) == KE_f16)
      return true;
  }
  return false;
}

static void print_f16_helper(const Kernel *const *kernels, uint32_t n, bool from_f16, Text *out)
{
  const char *text = from_f16 ? f16_value_text : f16_bits_text;

  for (uint32_t i = 0; i < n; i++)
    if (has_cast(kernels[i], from_f16)) {
      text_add(out, text, strlen(text));
      return;
    }
}

/* A carry that stays as it is prints no copy; a shuffle may take no lane of an input. */
static bool is_printed(const CPrinter *p, KVal v, uint32_t i, KVal head)
{
  const KNode *n = node(p, v);

  if (n->op == K_end)
    return kernel_in(p->k, v, i) != head + 1 + i;
  if (n->op != K_shuffle)
    return true;
  for (uint32_t l = 2; l < n->in.count; l++)
    if ((kernel_in(p->k, v, l) >= input(p, v, 0)->type.lanes) == i)
      return true;
  return false;
}

static void count_uses(CPrinter *p)
{
  KVal open[MAX_OPEN];
  int n_open = 0;

  for (KVal v = 1; v < p->k->nodes.len; v++) {
    const KNode *n = node(p, v);
    uint32_t n_in = n->op == K_shuffle ? 2 : n->in.count;
    if (n->op == K_loop || n->op == K_if) {
      assert(n_open < MAX_OPEN);
      open[n_open++] = v;
    }
    KVal head = n->op == K_end ? open[--n_open] : 0;
    for (uint32_t i = 0; i < n_in; i++)
      p->uses[kernel_in(p->k, v, i)] += is_printed(p, v, i, head);
  }
}

/* Names come from models; a comment must not end early. */
static void print_name(Text *out, const char *name)
{
  for (; *name; name++)
    text_add(out, *name >= ' ' && *name <= '~' && *name != '*' && *name != '/' && *name != '\\' ? name : "_",
             1);
}

static void print_params(CPrinter *p)
{
  bool *used = NEW_ARRAY(p->out->arena, bool, p->k->params.len);

  for (KVal v = 1; v < p->k->nodes.len; v++)
    if (kop_info[node(p, v)->op].imm == KI_MEM)
      used[node(p, v)->buf] = true;
  for (uint32_t i = 0; i < p->k->params.len; i++) {
    const KParam *param = &p->k->params.data[i];
    if (!used[i])
      continue;
    text_printf(p->out, "  %suint8_t *restrict b%u = buf[%u]; /* ", param->access == KA_READ ? "const " : "",
                i, i);
    print_name(p->out, param->name);
    text_printf(p->out, " */\n");
  }
}

static bool print_kernel(const Kernel *k, uint32_t number, Text *out, Err *e)
{
  Arena tmp = {0};
  CPrinter p = {.k = k, .out = out, .uses = NEW_ARRAY(&tmp, uint32_t, k->nodes.len), .depth = 2};
  bool ok = true;

  count_uses(&p);
  text_printf(out, "\n/* ");
  print_name(out, k->name);
  text_printf(out,
              " */\n"
              "static void k_%u(uint8_t *const *buf, const int32_t *args, int64_t lo, int64_t hi)\n{\n",
              number);
  print_params(&p);
  text_printf(out, "  (void)buf; (void)args;\n  for (int64_t g = lo; g < hi; g++) {\n");
  for (KVal v = 1; ok && v < k->nodes.len; v++) {
    uint8_t op = node(&p, v)->op;
    bool floats = node(&p, v)->in.count && kelem_info[input(&p, v, 0)->type.elem].is_float;
    if (c_op[op].print)
      c_op[op].print(&p, v, floats && c_op[op].floats ? c_op[op].floats : c_op[op].ints);
    else
      ok = fail(e, "kernel '%s': C has no pattern for %s", k->name, kop_info[op].name);
  }
  text_printf(out, "  }\n}\n");
  arena_free(&tmp);
  return ok;
}

bool c_print_functions(const Kernel *const *kernels, uint32_t n, Text *out, Err *e)
{
  text_add(out, head_text, strlen(head_text));
  print_f16_helper(kernels, n, true, out);
  print_f16_helper(kernels, n, false, out);
  for (uint32_t i = 0; i < n; i++)
    if (!print_kernel(kernels[i], i, out, e))
      return false;
  return true;
}

bool c_print_kernels(const Kernel *const *kernels, uint32_t n, Text *out, Err *e)
{
  if (!c_print_functions(kernels, n, out, e))
    return false;
  text_printf(out, "\nextern MiKernel *const mi_kernels[];\nextern const uint32_t mi_n_kernels;\n"
                   "MiKernel *const mi_kernels[] = {");
  for (uint32_t i = 0; i < n; i++)
    text_printf(out, "%sk_%u,", i % 8 ? " " : "\n    ", i);
  text_printf(out, "%s};\nconst uint32_t mi_n_kernels = %u;\n", n ? "\n" : "0", n);
  return true;
}
