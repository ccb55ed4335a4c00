/* kernel_verify.c - what a kernel must be: each node by its row of kernel_ops.def, and the whole by its
 * structure of loops and branches. See kernel.h. */
#include "ir/kernel.h"

/* ---- what each op asks of its types; false with a reason */

typedef struct {
  const Kernel *k;
  KVal v;
  Err *e;
} Check;

static KType in_type(const Check *c, uint32_t i)
{
  return kernel_node(c->k, kernel_in(c->k, c->v, i))->type;
}

static bool bad(const Check *c, const char *what)
{
  return fail(c->e, "kernel '%s': %%%u = %s: %s", c->k->name, c->v,
              kop_info[kernel_node(c->k, c->v)->op].name, what);
}

static bool check_dot(const Check *c, KElem sum, KElem a, KElem b, unsigned ways)
{
  KType s = kernel_node(c->k, c->v)->type, ta = in_type(c, 1), tb = in_type(c, 2);
  return (s.elem == sum && ta.elem == a && tb.elem == b && ta.lanes == s.lanes * ways &&
          tb.lanes == ta.lanes) ||
         bad(c, "needs other elements or lanes");
}

static bool check_memory(const Check *c)
{
  const KNode *n = kernel_node(c->k, c->v);

  if (n->buf >= c->k->params.len)
    return bad(c, "has no such parameter");
  KAccess access = c->k->params.data[n->buf].access;
  if ((n->op == K_load && access == KA_WRITE) || (n->op == K_store && access == KA_READ))
    return bad(c, "uses the parameter against its access");
  if (n->op == K_prefetch)
    return ktype_eq(in_type(c, 0), ktype(KE_idx, 1)) || bad(c, "the index must be an idx");
  KType t = n->op == K_load ? n->type : in_type(c, 1);
  if (t.elem == KE_idx)
    return bad(c, "idx is not in memory");
  return ktype_eq(in_type(c, 0), ktype(KE_idx, 1)) || bad(c, "the index must be an idx");
}

static bool check_splat(const Check *c)
{
  KType t = kernel_node(c->k, c->v)->type, a = in_type(c, 0);
  bool dwords = a.elem == KE_i32 && (t.elem == KE_i8 || t.elem == KE_u8) && t.lanes % 4 == 0;
  return (a.lanes == 1 && (a.elem == t.elem || dwords)) ||
         bad(c, "needs a scalar of its element (or an i32 for bytes)");
}

static bool check_shuffle(const Check *c)
{
  const KNode *n = kernel_node(c->k, c->v);
  KType a = in_type(c, 0);

  if (!ktype_eq(a, in_type(c, 1)) || a.elem != n->type.elem || n->in.count != 2u + n->type.lanes)
    return bad(c, "needs two inputs of one type and a number for each lane");
  for (uint32_t i = 2; i < n->in.count; i++)
    if (kernel_in(c->k, c->v, i) >= 2u * a.lanes)
      return bad(c, "lane number out of range");
  return true;
}

static bool check_arith(const Check *c)
{
  const KNode *n = kernel_node(c->k, c->v);
  KType t = n->op == K_lt || n->op == K_le || n->op == K_eq ? in_type(c, 0) : n->type;

  for (uint32_t i = 0; i < n->in.count; i++)
    if (!ktype_eq(in_type(c, i), t))
      return bad(c, "inputs differ in type");
  bool ints = kelem_is_int(t.elem), real = kelem_is_real(t.elem);
  switch (n->op) {
  case K_fma:
  case K_sqrt:
  case K_floor:
  case K_ceil:
  case K_trunc:
  case K_round: return real || bad(c, "needs f32 or f64");
  case K_rem:
  case K_shlv:
  case K_shrv: return ints || bad(c, "needs integers");
  case K_and:
  case K_or:
  case K_xor: return ints || t.elem == KE_bool || bad(c, "needs integers or bool");
  case K_shl:
  case K_shr:
    return (ints && n->imm.i >= 0 && n->imm.i < 8 * kelem_info[t.elem].bytes) ||
           bad(c, "needs integers, shift in range");
  case K_eq: return ints || real || t.elem == KE_bool || bad(c, "needs integers, f32, f64 or bool");
  default: return ints || real || bad(c, "needs integers, f32 or f64");
  }
}

static bool check_convert(const Check *c)
{
  const KNode *n = kernel_node(c->k, c->v);
  KType a = in_type(c, 0), t = n->type;

  if (n->op == K_bitcast)
    return (a.elem != KE_bool && t.elem != KE_bool && ktype_bytes(a) == ktype_bytes(t)) ||
           bad(c, "sizes differ, or bool");
  if (a.lanes != t.lanes)
    return bad(c, "lanes differ");
  return n->op == K_cast || (kelem_info[a.elem].is_float && kelem_is_int(t.elem)) ||
         bad(c, "needs a float, gives an integer");
}

static bool check_reduce(const Check *c)
{
  KType a = in_type(c, 0), t = kernel_node(c->k, c->v)->type;
  return (t.lanes == 1 && t.elem == a.elem && !(a.lanes & (a.lanes - 1)) &&
          (kelem_is_int(a.elem) || kelem_is_real(a.elem))) ||
         bad(c, "needs a power of two of lanes, gives a scalar of the element");
}

static bool check_node(const Check *c)
{
  const KNode *n = kernel_node(c->k, c->v);
  const KType idx = {KE_idx, 1};

  switch (n->op) {
  case K_grid: return ktype_eq(n->type, idx) || bad(c, "is an idx");
  case K_arg:
    return (n->imm.i >= 0 && n->imm.i < K_ARGS &&
            ktype_eq(n->type, n->imm.i < K_CONSTANT ? ktype(KE_i32, 1) : idx)) ||
           bad(c, "is an i32, number 0, 1 or 2, or an idx, number 3, 4 or 5");
  case K_const:
    return (n->type.elem != KE_f16 && n->type.elem != KE_bf16) || bad(c, "f16 and bf16 have no constants");
  case K_lane: return kelem_is_int(n->type.elem) || bad(c, "needs integers");
  case K_loop:
    return (ktype_eq(in_type(c, 0), idx) && ktype_eq(in_type(c, 1), idx) && ktype_eq(n->type, idx) &&
            n->imm.i > 0) ||
           bad(c, "needs idx bounds and a positive step");
  case K_carry:
  case K_pin:
  case K_else:
  case K_end: return true;
  case K_if: return ktype_eq(in_type(c, 0), ktype(KE_bool, 1)) || bad(c, "needs a bool");
  case K_load:
  case K_store:
  case K_prefetch: return check_memory(c);
  case K_splat: return check_splat(c);
  case K_extract:
    return (n->type.lanes == 1 && n->type.elem == in_type(c, 0).elem && n->imm.i >= 0 &&
            n->imm.i < in_type(c, 0).lanes) ||
           bad(c, "lane out of range");
  case K_shuffle: return check_shuffle(c);
  case K_sum:
  case K_rmax: return check_reduce(c);
  case K_select:
    return (in_type(c, 0).elem == KE_bool && in_type(c, 0).lanes == n->type.lanes &&
            ktype_eq(in_type(c, 1), n->type) && ktype_eq(in_type(c, 2), n->type)) ||
           bad(c, "needs a bool for each lane and two values of its type");
  case K_cast:
  case K_cast_sat:
  case K_bitcast: return check_convert(c);
  case K_dot4: return check_dot(c, KE_i32, KE_u8, KE_i8, 4);
  case K_dot2: return check_dot(c, KE_i16, KE_u8, KE_i8, 2);
  case K_dot2w: return check_dot(c, KE_i32, KE_i16, KE_i16, 2);
  case K_widen:
    return (n->type.elem == KE_i32 && in_type(c, 0).elem == KE_i16 &&
            in_type(c, 0).lanes == 2 * n->type.lanes) ||
           bad(c, "i32 from twice as many i16");
  default: return check_arith(c);
  }
}

bool kernel_check_node(const Kernel *k, KVal v, Err *e)
{
  return check_node(&(Check){k, v, e});
}

/* ---- verifier */

enum { MAX_DEPTH = 64 };

typedef struct {
  KVal open;        /* the loop or if */
  uint32_t carries; /* of a loop */
  bool has_else;
} Frame;

typedef struct {
  Check c;
  Frame frame[MAX_DEPTH];
  int depth;
  /* scope[v]: the innermost structure that v belongs to, 0 outside of all. A value is visible
   * while its structure is open; a carry belongs to what is around its loop. */
  KVal *scope;
  uint8_t *open; /* open[v]: structure v is open (and, for an if, in the branch that is current) */
} Verify;

static bool visible(const Verify *v, KVal x)
{
  KVal s = v->scope[x];
  return !s || v->open[s];
}

static bool verify_end(Verify *v, const KNode *n)
{
  if (!v->depth)
    return bad(&v->c, "closes nothing");
  Frame *f = &v->frame[--v->depth];
  const KNode *head = kernel_node(v->c.k, f->open);

  v->open[f->open] = 0;
  if (head->op == K_else)
    return !n->in.count || bad(&v->c, "an if takes no values");
  if (n->in.count != f->carries)
    return bad(&v->c, "number of values differs from the loop's carries");
  for (uint32_t i = 0; i < f->carries; i++)
    if (!ktype_eq(in_type(&v->c, i), kernel_node(v->c.k, f->open + 1 + i)->type))
      return bad(&v->c, "a value differs in type from its carry");
  return true;
}

/* The branch after `else` is a structure of its own: values of the first branch are not seen there. */
static bool verify_else(Verify *v)
{
  if (!v->depth || kernel_node(v->c.k, v->frame[v->depth - 1].open)->op != K_if)
    return bad(&v->c, "is in no if");
  Frame *f = &v->frame[v->depth - 1];
  v->open[f->open] = 0;
  f->open = v->c.v;
  v->open[v->c.v] = 1;
  return true;
}

static bool verify_structure(Verify *v, const KNode *n)
{
  KVal at = v->c.v, inner = v->depth ? v->frame[v->depth - 1].open : 0;

  v->scope[at] = inner;
  switch (n->op) {
  case K_loop:
  case K_if:
    if (v->depth == MAX_DEPTH)
      return bad(&v->c, "nested too deep");
    v->frame[v->depth++] = (Frame){.open = at};
    v->open[at] = 1;
    v->scope[at] = at; /* the index is seen inside only */
    return true;
  case K_carry: {
    Frame *f = v->depth ? &v->frame[v->depth - 1] : NULL;
    if (!f || at != f->open + 1 + f->carries || kernel_node(v->c.k, f->open)->op != K_loop)
      return bad(&v->c, "must follow its loop at once");
    f->carries++;
    v->scope[at] = v->depth > 1 ? v->frame[v->depth - 2].open : 0;
    return true;
  }
  case K_else: return verify_else(v);
  case K_end: return verify_end(v, n);
  default: return true;
  }
}

static bool verify_inputs(const Verify *v, const KNode *n)
{
  const KOpInfo *info = &kop_info[n->op];
  uint32_t n_vals = n->op == K_shuffle ? 2 : n->in.count;

  if (n->in.first + (uint64_t)n->in.count > v->c.k->edges.len || n->in.count < n_vals)
    return bad(&v->c, "inputs out of range");
  if (info->inputs >= 0 && n_vals != (uint32_t)info->inputs)
    return bad(&v->c, "wrong number of inputs");
  for (uint32_t i = 0; i < n_vals; i++) {
    KVal x = kernel_in(v->c.k, v->c.v, i);
    if (!x || x >= v->c.v || kop_info[kernel_node(v->c.k, x)->op].type == KT_NONE)
      return bad(&v->c, "an input is not a value defined before");
    if (!visible(v, x))
      return bad(&v->c, "an input belongs to another loop or branch");
  }
  return true;
}

static bool verify_type(const Check *c, const KNode *n)
{
  const KOpInfo *info = &kop_info[n->op];

  if (info->type == KT_NONE)
    return n->type.elem == KE_none || bad(c, "has no value");
  if (n->type.elem == KE_none || n->type.elem >= KE_COUNT || !n->type.lanes || n->type.lanes > K_MAX_LANES)
    return bad(c, "has no such type");
  if (info->type == KT_SAME && !ktype_eq(n->type, in_type(c, 0)))
    return bad(c, "has the type of its first input");
  if (info->type == KT_COND && !ktype_eq(n->type, ktype(KE_bool, in_type(c, 0).lanes)))
    return bad(c, "is bool for each lane");
  return true;
}

/* The text form names parameters. */
static bool verify_names(const Kernel *k, Err *e)
{
  for (uint32_t i = 0; i < k->params.len; i++)
    for (uint32_t j = 0; j < i; j++)
      if (!strcmp(k->params.data[i].name, k->params.data[j].name))
        return fail(e, "kernel '%s': two parameters are named '%s'", k->name, k->params.data[i].name);
  return true;
}

bool kernel_verify(const Kernel *k, Err *e)
{
  Verify v = {.c = {k, 0, e}};
  Arena tmp = {0};
  bool ok = verify_names(k, e);

  v.scope = NEW_ARRAY(&tmp, KVal, k->nodes.len);
  v.open = NEW_ARRAY(&tmp, uint8_t, k->nodes.len);
  for (KVal i = 1; ok && i < k->nodes.len; i++) {
    const KNode *n = kernel_node(k, i);
    v.c.v = i;
    ok = (n->op > K_none && n->op < K_COUNT) || fail(e, "kernel '%s': %%%u has no such op", k->name, i);
    ok = ok && verify_inputs(&v, n) && verify_type(&v.c, n) && check_node(&v.c) && verify_structure(&v, n);
  }
  if (ok && v.depth)
    ok = fail(e, "kernel '%s': a loop or if is not closed", k->name);
  arena_free(&tmp);
  return ok;
}
