/* graph_parse.c - reads the graph IR's text form (graph_text.c prints it).
 *
 * Accepts what is printed, any growing numbers of values, and nodes without a graph around them:
 * they form the graph "main". Text is as untrusted as any input: every error is one line,
 * `file:line: what`, and every node passes graph_infer() before it is added. */
#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>

#include "ir/graph_rules.h"
#include "ir/graph_scan.h"

static bool parse_type(Parser *p, Type *t)
{
  const char *s;
  Err why = {0};

  scan_blanks(p);
  for (s = p->p; isalnum((unsigned char)*s) || *s == '_'; s++)
    ;
  int dtype = dtype_by_name(p->p, (size_t)(s - p->p));
  if (dtype < 0 || *s != '[')
    return scan_fail(p, "a type expected, such as f32[2,3]");
  *t = (Type){.dtype = (DType)dtype};
  for (p->p = s + 1; *p->p != ']';) {
    if (t->rank == MAX_RANK)
      return scan_fail(p, "too many dimensions");
    if (!scan_int(p, p->g && !p->g->dense, INT64_MAX, &t->dim[t->rank++]))
      return false;
    if (*p->p == ',')
      p->p++;
    else if (*p->p != ']')
      return scan_fail(p, "',' or ']' expected in a type");
  }
  p->p++;
  return type_check_dense(t, &why) || scan_fail(p, why.text);
}

/* ---- attributes */

static bool parse_attr_name(Parser *p, Node *n)
{
  scan_blanks(p);
  if (scan_end(p) || *p->p == '@')
    return true;
  return scan_name(p, &n->attr.name);
}

static bool parse_tensor(Parser *p, Node *n)
{
  const char *name;

  if (!scan_name(p, &name))
    return false;
  for (uint32_t i = 0; i < p->m->weights.len; i++)
    if (!strcmp(p->m->weights.data[i].name, name)) {
      n->attr.index = i;
      return true;
    }
  return fail(p->e, "%s:%u: weight '%s' is not declared", p->file, p->line, name);
}

static bool parse_state(Parser *p, Node *n)
{
  const char *name;

  if (!scan_name(p, &name))
    return false;
  for (uint32_t i = 0; i < p->m->states.len; i++)
    if (!strcmp(p->m->states.data[i].name, name)) {
      n->attr.index = i;
      return true;
    }
  return fail(p->e, "%s:%u: state '%s' is not declared", p->file, p->line, name);
}

static bool parse_value(Parser *p, Node *n)
{
  return scan_number(p, &n->attr.value);
}

static bool parse_eps(Parser *p, Node *n)
{
  return scan_expect(p, "eps=") && scan_number(p, &n->attr.eps);
}

static bool parse_perm(Parser *p, Node *n)
{
  bool ok = scan_expect(p, "perm=");

  for (uint32_t i = 0; ok && i < n->type.rank; i++) {
    uint32_t v = 0;
    ok = (i == 0 || scan_expect(p, ",")) && scan_u32(p, MAX_RANK - 1, &v);
    n->attr.perm[i] = (uint8_t)v;
  }
  return ok;
}

static bool parse_slice(Parser *p, Node *n)
{
  return scan_expect(p, "axis=") && scan_u32(p, MAX_RANK - 1, &n->attr.slice.axis) &&
         scan_expect(p, "start=") && scan_int(p, 0, INT64_MAX, &n->attr.slice.start) &&
         scan_expect(p, "count=") && scan_int(p, 0, INT64_MAX, &n->attr.slice.count) &&
         (!scan_take(p, "step=") || scan_signed(p, &n->attr.slice.step));
}

static bool parse_axis(Parser *p, Node *n)
{
  return scan_expect(p, "axis=") && scan_u32(p, MAX_RANK - 1, &n->attr.axis);
}

static bool parse_rope(Parser *p, Node *n)
{
  return scan_expect(p, "rope=") && scan_u32(p, UINT32_MAX, &n->attr.rope);
}

static bool parse_style(Parser *p, Node *n)
{
  if (!scan_expect(p, "style="))
    return false;
  n->attr.interleaved = scan_take(p, "interleaved");
  return n->attr.interleaved || scan_expect(p, "halves");
}

static bool parse_attention(Parser *p, Node *n)
{
  bool ok = scan_expect(p, "scale=") && scan_float(p, &n->attr.attention.scale) &&
            (!scan_take(p, "window=") || scan_int(p, 1, INT64_MAX, &n->attr.attention.window)) &&
            (!scan_take(p, "softcap=") || scan_float(p, &n->attr.attention.softcap));

  n->attr.attention.nan_is_0 = ok && scan_take(p, "nan=0");
  return ok;
}

static bool parse_axes(Parser *p, Node *n)
{
  if (!scan_expect(p, "axes="))
    return false;
  for (bool more = isdigit((unsigned char)*p->p); more; more = scan_take(p, ",")) {
    uint32_t d = 0;
    if (!scan_u32(p, MAX_RANK - 1, &d))
      return false;
    n->attr.axes |= 1u << d;
  }
  return true;
}

static bool parse_arg(Parser *p, Node *n)
{
  if (!scan_expect(p, "axis=") || !scan_u32(p, MAX_RANK - 1, &n->attr.arg.axis))
    return false;
  n->attr.arg.last = scan_take(p, "last");
  return true;
}

static bool parse_scan(Parser *p, Node *n)
{
  if (!scan_expect(p, "axis=") || !scan_u32(p, MAX_RANK - 1, &n->attr.scan.axis))
    return false;
  n->attr.scan.exclusive = scan_take(p, "exclusive");
  n->attr.scan.reverse = scan_take(p, "reverse");
  return true;
}

/* At most `max` numbers, divided by commas; *n is how many. */
static bool parse_list(Parser *p, int64_t *v, uint32_t max, uint32_t *n)
{
  *n = 0;
  do {
    if (*n == max)
      return scan_fail(p, "too many numbers");
    if (!scan_signed(p, &v[(*n)++]))
      return false;
  } while (scan_take(p, ","));
  return true;
}

static bool parse_pad(Parser *p, Node *n)
{
  uint32_t count = 0;

  if (!scan_expect(p, "lo="))
    return false;
  if (n->type.rank && !parse_list(p, n->attr.pad.lo, n->type.rank, &count))
    return false;
  return count == n->type.rank || scan_fail(p, "a number for each dimension expected");
}

static bool parse_scatter(Parser *p, Node *n)
{
  if (!scan_expect(p, "reduce="))
    return false;
  for (int i = 0; i <= SCATTER_MIN; i++)
    if (scan_take(p, graph_scatter_name[i])) {
      n->attr.reduce = (ScatterReduce)i;
      return true;
    }
  return scan_fail(p, "none, add, mul, max or min expected");
}

static bool parse_topk(Parser *p, Node *n)
{
  if (!scan_expect(p, "count=") || !scan_int(p, 0, INT64_MAX, &n->attr.topk.count))
    return false;
  n->attr.topk.largest = scan_take(p, "largest");
  return n->attr.topk.largest || scan_expect(p, "smallest");
}

/* A list for each spatial dimension, or what is usual for all. */
static bool parse_spatial(Parser *p, const char *key, int64_t *v, uint32_t spatial, int64_t usual)
{
  uint32_t n;

  for (uint32_t i = 0; i < spatial; i++)
    v[i] = usual;
  if (!scan_take(p, key))
    return true;
  return parse_list(p, v, spatial, &n) &&
         (n == spatial || scan_fail(p, "a number for each spatial dimension expected"));
}

static bool parse_window(Parser *p, Node *n)
{
  Window *w = &n->attr.window;

  w->group = 1;
  return scan_expect(p, "kernel=") && parse_list(p, w->kernel, MAX_SPATIAL, &w->spatial) &&
         parse_spatial(p, "stride=", w->stride, w->spatial, 1) &&
         parse_spatial(p, "dilation=", w->dilation, w->spatial, 1) &&
         parse_spatial(p, "lo=", w->pad_lo, w->spatial, 0) &&
         parse_spatial(p, "hi=", w->pad_hi, w->spatial, 0) &&
         (!scan_take(p, "group=") || scan_int(p, 1, INT64_MAX, &w->group));
}

static bool parse_saturate(Parser *p, Node *n)
{
  n->attr.saturate = scan_take(p, "saturate");
  return true;
}

static bool (*const attr_parse[])(Parser *p, Node *n) = {
    [ATTR_NAME] = parse_attr_name,
    [ATTR_TENSOR] = parse_tensor,
    [ATTR_STATE] = parse_state,
    [ATTR_VALUE] = parse_value,
    [ATTR_EPS] = parse_eps,
    [ATTR_PERM] = parse_perm,
    [ATTR_SLICE] = parse_slice,
    [ATTR_AXIS] = parse_axis,
    [ATTR_ROPE] = parse_rope,
    [ATTR_STYLE] = parse_style,
    [ATTR_ATTENTION] = parse_attention,
    [ATTR_AXES] = parse_axes,
    [ATTR_ARG] = parse_arg,
    [ATTR_SCAN] = parse_scan,
    [ATTR_PAD] = parse_pad,
    [ATTR_SCATTER] = parse_scatter,
    [ATTR_TOPK] = parse_topk,
    [ATTR_WINDOW] = parse_window,
    [ATTR_SATURATE] = parse_saturate,
};
static_assert(COUNT(attr_parse) == ATTR_COUNT, "every attribute is parsed");

/* ---- lines */

/* An integer that may need all 64 bits. */
static bool parse_integer(Parser *p, int64_t *out)
{
  char *end;

  scan_blanks(p);
  bool minus = *p->p == '-';
  if (!isdigit((unsigned char)p->p[minus]))
    return scan_fail(p, "an integer expected");
  errno = 0;
  *out = minus ? strtoll(p->p, &end, 10) : (int64_t)strtoull(p->p, &end, 10);
  if (errno)
    return scan_fail(p, "the number is too large");
  p->p = end;
  return true;
}

static bool parse_element(Parser *p, DType t, void *dst)
{
  double v = 0;
  int64_t i = 0;

  if (dtype_info[t].kind == DK_INT) {
    if (!parse_integer(p, &i))
      return false;
    dtype_put_int(t, dst, i);
    return true;
  }
  if (!scan_number(p, &v))
    return false;
  dtype_put(t, dst, (long double)v, true);
  return true;
}

/* `= v v v`: one value for each element. */
static bool parse_values(Parser *p, Weight *w)
{
  const DTypeInfo *info = &dtype_info[w->type.dtype];
  ARRAY(uint64_t) got = {0}; /* grows with the text, not with the stated size */
  int64_t n = type_count(&w->type);

  if (!dtype_is_element(w->type.dtype))
    return scan_fail(p, "blocks cannot be given as values");
  while (!scan_end(p))
    if (!parse_element(p, w->type.dtype, PUSH(p->m->arena, got)))
      return false;
  if (got.len != n)
    return fail(p->e, "%s:%u: %u values, but there are %lld elements", p->file, p->line, got.len,
                (long long)n);
  uint8_t *data = arena_alloc(p->m->arena, w->bytes + 1); /* an empty tensor is known too */
  for (uint32_t i = 0; i < got.len; i++)
    memcpy(data + i * info->bytes, &got.data[i], info->bytes);
  w->data = data;
  return true;
}

static bool parse_weight_line(Parser *p)
{
  Weight w = {0};

  if (!scan_name(p, &w.name) || !parse_type(p, &w.type))
    return false;
  for (uint32_t i = 0; i < p->m->weights.len; i++)
    if (!strcmp(p->m->weights.data[i].name, w.name))
      return fail(p->e, "%s:%u: weight '%s' is declared twice", p->file, p->line, w.name);
  w.bytes = dtype_bytes(w.type.dtype, (uint64_t)type_count(&w.type));
  if (scan_take(p, "=") && !parse_values(p, &w))
    return false;
  *PUSH(p->m->arena, p->m->weights) = w;
  return true;
}

static bool parse_state_line(Parser *p)
{
  State s = {0};

  if (!scan_name(p, &s.name) || !parse_type(p, &s.type))
    return false;
  for (uint32_t i = 0; i < p->m->states.len; i++)
    if (!strcmp(p->m->states.data[i].name, s.name))
      return fail(p->e, "%s:%u: state '%s' is declared twice", p->file, p->line, s.name);
  *PUSH(p->m->arena, p->m->states) = s;
  return true;
}

static bool parse_rope_line(Parser *p)
{
  RopeSpec r = {0};
  uint32_t index;
  ARRAY(uint32_t) step = {0};

  scan_blanks(p);
  if (!scan_u32(p, UINT32_MAX, &index) || !scan_expect(p, "half"))
    return false;
  if (index != p->m->ropes.len)
    return fail(p->e, "%s:%u: rope %u expected", p->file, p->line, p->m->ropes.len);
  scan_blanks(p);
  if (!scan_u32(p, 1 << 16, &r.half) || !scan_expect(p, "magnitude") || !scan_float(p, &r.magnitude) ||
      !scan_expect(p, "step"))
    return false;
  while (!scan_end(p)) /* the list's own length bounds memory, not the stated one */
    if (!scan_u32(p, UINT32_MAX, PUSH(p->m->arena, step)))
      return false;
  if (step.len != r.half || !r.half)
    return fail(p->e, "%s:%u: %u steps, but half is %u", p->file, p->line, step.len, r.half);
  r.step = step.data;
  *PUSH(p->m->arena, p->m->ropes) = r;
  return true;
}

static void open_graph(Parser *p, const char *name, int64_t tokens, bool braced)
{
  p->g = graph_new(p->m, name, tokens);
  p->braced = braced;
  p->number.len = 0;
  *PUSH(p->m->arena, p->number) = 0;
}

static bool parse_graph_line(Parser *p)
{
  const char *name;
  int64_t tokens;

  if (p->g && p->braced)
    return scan_fail(p, "a graph inside a graph: '}' expected");
  if (!scan_name(p, &name))
    return false;
  if (scan_take(p, "dense")) {
    if (!scan_expect(p, "{"))
      return false;
    open_graph(p, name, 1, true);
    p->g->dense = true;
    return true;
  }
  if (!scan_expect(p, "tokens"))
    return false;
  scan_blanks(p);
  if (!scan_int(p, 1, 1 << 30, &tokens) || !scan_expect(p, "{"))
    return false;
  open_graph(p, name, tokens, true);
  return true;
}

/* The value with that number: numbers grow, so a binary search finds it. */
static Val find_value(const Parser *p, uint32_t number)
{
  uint32_t lo = 1, hi = p->number.len;

  while (lo < hi) {
    uint32_t mid = lo + (hi - lo) / 2;
    if (p->number.data[mid] < number)
      lo = mid + 1;
    else
      hi = mid;
  }
  return lo < p->number.len && p->number.data[lo] == number ? lo : 0;
}

static bool parse_op(Parser *p, Op *op)
{
  const char *name;

  if (!scan_name(p, &name))
    return false;
  for (int i = OP_none + 1; i < OP_COUNT; i++)
    if (!strcmp(op_info[i].name, name)) {
      *op = (Op)i;
      return true;
    }
  return fail(p->e, "%s:%u: op '%s' does not exist", p->file, p->line, name);
}

typedef ARRAY(Val) ValList;

static bool parse_inputs(Parser *p, ValList *in)
{
  for (scan_blanks(p); *p->p == '%'; scan_blanks(p)) {
    uint32_t number;
    p->p++;
    if (!scan_u32(p, UINT32_MAX, &number))
      return false;
    Val v = find_value(p, number);
    if (!v)
      return fail(p->e, "%s:%u: %%%u is not defined before", p->file, p->line, number);
    *PUSH(p->m->arena, *in) = v;
    if (!scan_take(p, ","))
      return true;
    scan_blanks(p);
    if (*p->p != '%')
      return scan_fail(p, "a value expected after ','");
  }
  return true;
}

/* `@launch` and `# place`; what follows the place is a comment */
static bool parse_tail(Parser *p, Node *n)
{
  if (scan_take(p, "@") && !scan_u32(p, UINT32_MAX, &n->launch))
    return false;
  scan_blanks(p);
  if (*p->p == '#') {
    p->p++;
    scan_blanks(p);
    if (scan_at_name(p) && !scan_name(p, &n->from))
      return false;
    p->p += strcspn(p->p, "\n");
  }
  return true;
}

static bool add_parsed(Parser *p, const Node *n, const ValList *in, uint32_t number)
{
  Type t = n->type;
  Err why = {0};

  if (!graph_infer(p->g, n->op, in->data, in->len, &n->attr, &t, &why))
    return scan_fail(p, why.text);
  if (!type_eq(&t, &n->type)) {
    Text s = {.arena = p->m->arena};
    type_print(&t, &s);
    return fail(p->e, "%s:%u: the result's type must be %s", p->file, p->line, s.data);
  }
  Val v = graph_add(p->g, n->op, in->data, in->len, n->attr, &n->type);
  graph_node(p->g, v)->launch = n->launch;
  graph_node(p->g, v)->from = n->from;
  *PUSH(p->m->arena, p->number) = number;
  return true;
}

static bool parse_node_line(Parser *p)
{
  uint32_t number;
  Node n = {0};
  ValList in = {0};

  if (!p->g)
    open_graph(p, "main", 1, false);
  if (!scan_u32(p, UINT32_MAX, &number))
    return false;
  if (number <= p->number.data[p->number.len - 1])
    return scan_fail(p, "the numbers of values must grow");
  if (!scan_expect(p, "=") || !parse_op(p, &n.op) || !parse_type(p, &n.type) || !parse_inputs(p, &in))
    return false;
  if (attr_parse[op_info[n.op].attr] && !attr_parse[op_info[n.op].attr](p, &n))
    return false;
  return parse_tail(p, &n) && add_parsed(p, &n, &in, number);
}

static bool close_graph(Parser *p)
{
  if (!p->g || !p->braced)
    return scan_fail(p, "'}' without a graph");
  p->g = NULL;
  return true;
}

static bool parse_line(Parser *p)
{
  if (scan_take(p, "%"))
    return parse_node_line(p);
  if (scan_take(p, "}"))
    return close_graph(p);
  if (scan_take(p, "graph"))
    return parse_graph_line(p);
  if (scan_take(p, "weight"))
    return parse_weight_line(p);
  if (scan_take(p, "state"))
    return parse_state_line(p);
  if (scan_take(p, "rope"))
    return parse_rope_line(p);
  return scan_fail(p, "weight, state, rope, graph or a value expected");
}

static bool parse_lines(Parser *p)
{
  for (p->line = 1;; p->line++) {
    if (!scan_end(p) && !parse_line(p))
      return false;
    if (!scan_end(p))
      return fail(p->e, "%s:%u: '%.*s' is left over", p->file, p->line, scan_rest(p), p->p);
    p->p += strcspn(p->p, "\n");
    if (!*p->p)
      break;
    p->p++;
  }
  return !(p->g && p->braced) || scan_fail(p, "the graph has no '}'");
}

Module *module_parse(Arena *a, const char *text, const char *file, Err *e)
{
  Parser p = {.p = text, .file = file, .m = module_new(a), .e = e};

  return parse_lines(&p) ? p.m : NULL;
}
