/* c_ops.c - the ops of kernels as C: a row an op, a line or a loop a value.
 *
 * A value of one lane is a variable, of more lanes an array; an op on lanes is a loop over them that
 * says nothing but the op, which gcc and clang turn into vector instructions and libtcc takes as it
 * is. Memory is read and written by memcpy alone: buffers have any alignment and are seen as several
 * types. Signed integers are computed in an unsigned type, where they wrap.
 *
 * Nothing is decided here: what is slow in this C was said in the kernel. */
#include "codegen/c_helpers.h"
#include "codegen/c_print.h"

#include <assert.h>
#include <math.h>
#include <stdio.h>

/* clang-format off */
static const struct {
  const char *name; /* of a value's lane */
  const char *wrap; /* integers are computed in it */
} c_type[KE_COUNT] = {
    [KE_bool] = {"int", "int"},
    [KE_i8]   = {"int8_t", "uint32_t"},  [KE_u8]   = {"uint8_t", "uint32_t"},
    [KE_i16]  = {"int16_t", "uint32_t"}, [KE_u16]  = {"uint16_t", "uint32_t"},
    [KE_i32]  = {"int32_t", "uint32_t"}, [KE_u32]  = {"uint32_t", "uint32_t"},
    [KE_i64]  = {"int64_t", "uint64_t"}, [KE_u64]  = {"uint64_t", "uint64_t"},
    [KE_idx]  = {"int64_t", "uint64_t"}, [KE_f16]  = {"uint16_t", NULL},
    [KE_bf16] = {"uint16_t", NULL},      [KE_f32]  = {"float", NULL},
    [KE_f64]  = {"double", NULL},
};
/* clang-format on */

typedef void Print(CPrinter *p, KVal v, const char *pattern);

static Print print_lanewise, print_const, print_loop, print_carry, print_if, print_else, print_end,
    print_load, print_store, print_prefetch, print_splat, print_shuffle, print_reduce, print_division,
    print_cast, print_bitcast;

/* The pattern is one lane of the result:
 *   %0 %1 %2    an input, this lane
 *   %0{2*@}     an input, that lane
 *   @           the number of this lane
 *   %t %u %i    type of the result, the type it wraps in, immediate
 *   %b %f %e    bits of the result, suffix of <math.h>'s functions for it, name of its element
 *   $name(      a call of a helper
 *   %h          half of the lanes (of reductions, whose lanes are t's) */
#define WRAP(op) "(%t)((%u)%0 " op " (%u)%1)"
static const struct {
  const char *ints, *floats; /* by the first input's element; NULL: the same */
  Print *print;
  const char *uints; /* NULL: as ints */
} c_op[K_COUNT] = {
    [K_grid] = {"g", NULL, print_lanewise, NULL},
    [K_arg] = {"args[%i]", NULL, print_lanewise, NULL},
    [K_const] = {"", NULL, print_const, NULL},
    [K_lane] = {"(%t)@", NULL, print_lanewise, NULL},
    [K_loop] = {"", NULL, print_loop, NULL},
    [K_carry] = {"", NULL, print_carry, NULL},
    [K_if] = {"", NULL, print_if, NULL},
    [K_else] = {"", NULL, print_else, NULL},
    [K_end] = {"", NULL, print_end, NULL},
    [K_load] = {"", NULL, print_load, NULL},
    [K_store] = {"", NULL, print_store, NULL},
    [K_prefetch] = {"", NULL, print_prefetch, NULL},
    [K_pin] = {"%0", NULL, print_lanewise, NULL},
    [K_splat] = {"%0", NULL, print_splat, NULL},
    [K_extract] = {"%0{%i}", NULL, print_lanewise, NULL},
    [K_shuffle] = {"", NULL, print_shuffle, NULL},
    [K_sum] = {"(%t)((%u)t[@] + (%u)t[@ + %h])", "t[@] + t[@ + %h]", print_reduce, NULL},
    [K_rmax] = {"t[@] > t[@ + %h] ? t[@] : t[@ + %h]", NULL, print_reduce, NULL},
    [K_add] = {WRAP("+"), "%0 + %1", print_lanewise, NULL},
    [K_sub] = {WRAP("-"), "%0 - %1", print_lanewise, NULL},
    [K_mul] = {WRAP("*"), "%0 * %1", print_lanewise, NULL},
    [K_div] = {"(%t)(%1 == 0 ? 0 : %1 == -1 ? 0 - (%u)%0 : (%u)(%0 / %1))", "%0 / %1", print_division,
               "(%t)(%1 == 0 ? 0 : %0 / %1)"},
    [K_rem] = {"(%t)(%1 == 0 || %1 == -1 ? 0 : %0 %% %1)", NULL, print_division,
               "(%t)(%1 == 0 ? 0 : %0 %% %1)"},
    [K_neg] = {"(%t)(0 - (%u)%0)", "-%0", print_lanewise, NULL},
    [K_abs] = {"(%t)(%0 > 0 ? (%u)%0 : 0 - (%u)%0)", "fabs%f(%0)", print_lanewise, NULL},
    [K_min] = {"%0 < %1 ? %0 : %1", NULL, print_lanewise, NULL},
    [K_max] = {"%0 > %1 ? %0 : %1", NULL, print_lanewise, NULL},
    [K_fma] = {"fma%f(%0, %1, %2)", NULL, print_lanewise, NULL},
    [K_sqrt] = {"sqrt%f(%0)", NULL, print_lanewise, NULL},
    [K_floor] = {"$floor_%e(%0)", NULL, print_lanewise, NULL},
    [K_ceil] = {"$ceil_%e(%0)", NULL, print_lanewise, NULL},
    [K_trunc] = {"$trunc_%e(%0)", NULL, print_lanewise, NULL},
    [K_round] = {"$round_%e(%0)", NULL, print_lanewise, NULL},
    [K_and] = {"(%t)(%0 & %1)", NULL, print_lanewise, NULL},
    [K_or] = {"(%t)(%0 | %1)", NULL, print_lanewise, NULL},
    [K_xor] = {"(%t)(%0 ^ %1)", NULL, print_lanewise, NULL},
    [K_shl] = {"(%t)((%u)%0 << %i)", NULL, print_lanewise, NULL},
    [K_shr] = {"(%t)(%0 >> %i)", NULL, print_lanewise, NULL},
    [K_shlv] = {"(%t)((%u)%1 < %b ? (%u)%0 << ((%u)%1 & (%b - 1)) : 0)", NULL, print_lanewise, NULL},
    [K_shrv] = {"(%t)(%0 >> ((%u)%1 < %b ? (%u)%1 : %b - 1))", NULL, print_lanewise,
                "(%t)((%u)%1 < %b ? (%u)%0 >> ((%u)%1 & (%b - 1)) : 0)"},
    [K_lt] = {"%0 < %1", NULL, print_lanewise, NULL},
    [K_le] = {"%0 <= %1", NULL, print_lanewise, NULL},
    [K_eq] = {"%0 == %1", NULL, print_lanewise, NULL},
    [K_select] = {"%0 ? %1 : %2", NULL, print_lanewise, NULL},
    [K_cast] = {"", NULL, print_cast, NULL},
    [K_cast_sat] = {"", NULL, print_cast, NULL},
    [K_bitcast] = {"", NULL, print_bitcast, NULL},
    [K_dot4] = {"(%t)((%u)%0 + (%u)(%1{4 * @} * %2{4 * @} + %1{4 * @ + 1} * %2{4 * @ + 1} + "
                "%1{4 * @ + 2} * %2{4 * @ + 2} + %1{4 * @ + 3} * %2{4 * @ + 3}))",
                NULL, print_lanewise, NULL},
    [K_dot2] = {"(%t)(%0 + %1{2 * @} * %2{2 * @} + %1{2 * @ + 1} * %2{2 * @ + 1})", NULL, print_lanewise,
                NULL},
    [K_dot2w] = {"(%t)((%u)%0 + (%u)(%1{2 * @} * %2{2 * @}) + (%u)(%1{2 * @ + 1} * %2{2 * @ + 1}))", NULL,
                 print_lanewise, NULL},
    [K_widen] = {"%0{2 * @} + %0{2 * @ + 1}", NULL, print_lanewise, NULL},
};

/* ---- pieces of text */

static void begin_line(CPrinter *p)
{
  text_printf(p->out, "%*s", 2 * p->depth, "");
}

/* `$name(`, whose name may end in %e; returns what is behind the name. */
static const char *print_call(CPrinter *p, KVal v, const char *s)
{
  size_t len = strcspn(s, "(%");
  char name[32];

  snprintf(name, sizeof name, "%.*s%s", (int)len, s,
           s[len] == '%' ? kelem_info[c_node(p, v)->type.elem].name : "");
  p->helpers[c_helper(name)] = true;
  text_printf(p->out, "%s", name);
  return s + len + (s[len] == '%' ? 2 : 0);
}

static void print_pattern(CPrinter *p, KVal v, const char *s, size_t len, const char *lane)
{
  const KNode *n = c_node(p, v);

  for (const char *end = s + len; s < end; s++)
    if (*s == '@') {
      text_printf(p->out, "%s", lane);
    } else if (*s == '$') {
      s = print_call(p, v, s + 1) - 1;
    } else if (*s != '%') {
      text_add(p->out, s, 1);
    } else if (*++s >= '0' && *s <= '9') {
      KVal in = kernel_in(p->k, v, (uint32_t)(*s - '0'));
      const char *at = s[1] == '{' ? s + 2 : "@";
      size_t at_len = strcspn(at, "}");
      text_printf(p->out, "v%u", in);
      if (c_node(p, in)->type.lanes > 1) {
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
      case 'b': text_printf(p->out, "%u", 8u * kelem_info[n->type.elem].bytes); break;
      case 'f': text_printf(p->out, "%s", n->type.elem == KE_f32 ? "f" : ""); break;
      default: text_add(p->out, s, 1);
      }
    }
}

/* `float v7` or `float v7[8]` */
static void print_variable(CPrinter *p, char letter, KVal v)
{
  KType t = c_node(p, v)->type;

  text_printf(p->out, "%s %c%u", c_type[t.elem].name, letter, v);
  if (t.lanes > 1)
    text_printf(p->out, "[%u]", t.lanes);
}

/* What stands before the expression of a value's lane; returns the number of that lane. */
static const char *begin_value(CPrinter *p, KVal v)
{
  uint32_t lanes = c_node(p, v)->type.lanes;

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

static void print_int(Text *out, KElem e, long long i)
{
  if (e == KE_u64)
    text_printf(out, "%lluu", (unsigned long long)i);
  else if (i == INT64_MIN) /* no literal */
    text_printf(out, "(-9223372036854775807 - 1)");
  else
    text_printf(out, "%lld", i);
}

static void print_float(Text *out, KElem e, double f)
{
  char digits[32];

  if (isnan(f) || isinf(f)) {
    text_printf(out, "%s%s", signbit(f) ? "-" : "", isnan(f) ? "NAN" : "INFINITY");
    return;
  }
  snprintf(digits, sizeof digits, "%.*g", e == KE_f64 ? 17 : 9, f);
  text_printf(out, "%s%s%s", digits, strpbrk(digits, ".e") ? "" : ".0", e == KE_f64 ? "" : "f");
}

static void print_const(CPrinter *p, KVal v, const char *pattern)
{
  const KNode *n = c_node(p, v);

  (void)pattern;
  begin_value(p, v);
  if (kelem_info[n->type.elem].is_float)
    print_float(p->out, (KElem)n->type.elem, n->imm.f);
  else
    print_int(p->out, (KElem)n->type.elem, canonical((KElem)n->type.elem, n->imm.i));
  end_value(p, v);
}

/* ---- structure */

/* `T x = y`, lane by lane; declares x if `declare`. */
static void print_copy(CPrinter *p, bool declare, char x, KVal xv, char y, KVal yv)
{
  uint32_t lanes = c_node(p, xv)->type.lanes;

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
  assert(p->n_open < C_MAX_OPEN);
  p->open[p->n_open++] = v;
  p->depth++;
}

static bool is_carry_of(const CPrinter *p, KVal v, KVal loop)
{
  if (v <= loop)
    return false;
  for (KVal c = loop + 1; c <= v; c++)
    if (c >= p->k->nodes.len || c_node(p, c)->op != K_carry)
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
              kernel_in(p->k, v, 1), v, (long long)c_node(p, v)->imm.i);
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
  uint32_t n = c_node(p, v)->in.count;

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
  const KNode *n = c_node(p, v);
  uint32_t bytes = kelem_info[p->k->params.data[n->buf].elem].bytes;

  text_printf(p->out, "b%u + ", n->buf);
  if (n->imm.i) {
    text_printf(p->out, "(v%u + ", kernel_in(p->k, v, 0));
    print_int(p->out, KE_idx, n->imm.i);
    text_printf(p->out, ")");
  } else {
    text_printf(p->out, "v%u", kernel_in(p->k, v, 0));
  }
  if (bytes > 1)
    text_printf(p->out, " * %u", bytes);
}

static void print_load(CPrinter *p, KVal v, const char *pattern)
{
  const KNode *n = c_node(p, v);
  bool mask = n->type.elem == KE_bool;

  (void)pattern;
  begin_line(p);
  print_variable(p, 'v', v);
  if (mask)
    text_printf(p->out, "; { uint8_t t[%u]; memcpy(t, ", n->type.lanes);
  else
    text_printf(p->out, "; memcpy(%sv%u, ", address_of(n), v);
  print_address(p, v);
  text_printf(p->out, ", %u)", ktype_bytes(n->type));
  if (mask)
    text_printf(p->out,
                n->type.lanes > 1 ? "; EACH(%u) v%u[l] = t[l] != 0; }" : "; (void)%u, v%u = t[0] != 0; }",
                n->type.lanes, v);
  end_value(p, v);
}

/* A hint that C has no word for; what it names is still used. */
static void print_prefetch(CPrinter *p, KVal v, const char *pattern)
{
  (void)pattern;
  begin_line(p);
  text_printf(p->out, "(void)b%u, (void)v%u;\n", c_node(p, v)->buf, kernel_in(p->k, v, 0));
}

static void print_store(CPrinter *p, KVal v, const char *pattern)
{
  const KNode *value = c_input(p, v, 1);
  KVal in = kernel_in(p->k, v, 1);

  (void)pattern;
  begin_line(p);
  if (value->type.elem == KE_bool) {
    uint32_t n = value->type.lanes;
    text_printf(p->out, "{ uint8_t t[%u]; EACH(%u) t[l] = (uint8_t)v%u%s; memcpy(", n, n, in,
                n > 1 ? "[l]" : "");
    print_address(p, v);
    text_printf(p->out, ", t, %u); }\n", n);
    return;
  }
  text_printf(p->out, "memcpy(");
  print_address(p, v);
  text_printf(p->out, ", %sv%u, %u);\n", address_of(value), in, ktype_bytes(value->type));
}

/* ---- vectors */

static void print_splat(CPrinter *p, KVal v, const char *pattern)
{
  KType t = c_node(p, v)->type;
  KVal in = kernel_in(p->k, v, 0);

  if (c_node(p, in)->type.elem == t.elem) {
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
  uint32_t n = c_node(p, v)->type.lanes, n_in = c_input(p, v, 0)->type.lanes;

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
  KType in = c_input(p, v, 0)->type;

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

/* Divisors are mostly constants, of which neither 0 nor -1 needs a test. */
static void print_division(CPrinter *p, KVal v, const char *pattern)
{
  const KNode *by = c_input(p, v, 1);
  long long i = by->op == K_const ? canonical((KElem)by->type.elem, by->imm.i) : 0;

  if (kelem_is_int(by->type.elem) && i && (i != -1 || by->type.elem == KE_u64))
    pattern = c_node(p, v)->op == K_div ? "(%t)(%0 / %1)" : "(%t)(%0 %% %1)";
  print_lanewise(p, v, pattern);
}

/* ---- conversions */

/* An input as a value that C knows: 16-bit floats are kept as bits; libtcc calls a library for u64 to float. */
static const char *cast_input(KElem from, KElem to)
{
  if (from == KE_f16)
    return "$f16_value(%0)";
  if (from == KE_bf16)
    return "$bf16_value(%0)";
  if (from == KE_u64 && kelem_info[to].is_float)
    return to == KE_f64 ? "$u64_f64(%0)" : "$u64_f32(%0)";
  return "%0";
}

static void print_cast(CPrinter *p, KVal v, const char *pattern)
{
  KElem from = (KElem)c_input(p, v, 0)->type.elem, to = (KElem)c_node(p, v)->type.elem;
  const char *x = cast_input(from, to);
  char text[64];

  (void)pattern;
  if (c_node(p, v)->op == K_cast_sat)
    snprintf(text, sizeof text, "(%%t)$sat_%s(%s)", to == KE_idx ? "i64" : kelem_info[to].name, x);
  else if (to == KE_bool)
    snprintf(text, sizeof text, "%s != 0", x);
  else if (to == KE_f16 || to == KE_bf16)
    snprintf(text, sizeof text, to == from ? "%%0" : "$%s_bits((float)%s)", kelem_info[to].name, x);
  else if (to == KE_u64 && kelem_info[from].is_float)
    snprintf(text, sizeof text, "$f64_u64(%s)", x);
  else
    snprintf(text, sizeof text, "(%%t)%s", x);
  print_lanewise(p, v, text);
}

static void print_bitcast(CPrinter *p, KVal v, const char *pattern)
{
  const KNode *n = c_node(p, v);

  (void)pattern;
  begin_line(p);
  print_variable(p, 'v', v);
  text_printf(p->out, "; memcpy(%sv%u, %sv%u, %u)", address_of(n), v, address_of(c_input(p, v, 0)),
              kernel_in(p->k, v, 0), ktype_bytes(n->type));
  end_value(p, v);
}

/* ---- the table's row of a value */

static const char *pattern_of(const CPrinter *p, KVal v)
{
  uint8_t op = c_node(p, v)->op;
  const KElemInfo *in = &kelem_info[c_node(p, v)->in.count ? c_input(p, v, 0)->type.elem : KE_none];

  if (in->is_float && c_op[op].floats)
    return c_op[op].floats;
  return !in->is_signed && c_op[op].uints ? c_op[op].uints : c_op[op].ints;
}

bool c_print_op(CPrinter *p, KVal v)
{
  uint8_t op = c_node(p, v)->op;

  if (c_op[op].print)
    c_op[op].print(p, v, pattern_of(p, v));
  return c_op[op].print != NULL;
}
