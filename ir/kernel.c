/* kernel.c - building and verifying kernels. See kernel.h. */
#include "ir/kernel.h"

#include <assert.h>
#include <math.h>

const KElemInfo kelem_info[KE_COUNT] = {
    [KE_none] = {"none", 0, false, false}, [KE_bool] = {"bool", 1, false, false},
    [KE_i8] = {"i8", 1, false, true},      [KE_u8] = {"u8", 1, false, false},
    [KE_i16] = {"i16", 2, false, true},    [KE_u16] = {"u16", 2, false, false},
    [KE_i32] = {"i32", 4, false, true},    [KE_u32] = {"u32", 4, false, false},
    [KE_idx] = {"idx", 8, false, true},    [KE_f16] = {"f16", 2, true, true},
    [KE_f32] = {"f32", 4, true, true},
};

const KOpInfo kop_info[K_COUNT] = {
#define KOP(name, inputs, imm, type, doc) [K_##name] = {#name, inputs, KI_##imm, KT_##type, doc},
#include "ir/kernel_ops.def"
#undef KOP
};

Kernel *kernel_new(Arena *a, const char *name)
{
  Kernel *k = NEW(a, Kernel);
  k->arena = a;
  k->name = arena_strdup(a, name);
  (void)PUSH(a, k->nodes); /* the none node; arena memory is zeroed */
  return k;
}

uint16_t kernel_param(Kernel *k, const char *name, KElem elem, KAccess access)
{
  KParam *p = PUSH(k->arena, k->params);
  *p = (KParam){arena_strdup(k->arena, name), elem, access};
  return (uint16_t)(k->params.len - 1);
}

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

static bool is_int(KType t)
{
  return t.elem >= KE_i8 && t.elem <= KE_idx;
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
  if (t.elem == KE_bool || t.elem == KE_idx)
    return bad(c, "bool and idx are not in memory");
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
  switch (n->op) {
  case K_fma:
  case K_sqrt: return t.elem == KE_f32 || bad(c, "needs f32");
  case K_rem: return is_int(t) || bad(c, "needs integers");
  case K_and:
  case K_or:
  case K_xor: return is_int(t) || t.elem == KE_bool || bad(c, "needs integers or bool");
  case K_shl:
  case K_shr:
    return (is_int(t) && n->imm.i >= 0 && n->imm.i < 8 * kelem_info[t.elem].bytes) ||
           bad(c, "needs integers, shift in range");
  default: return is_int(t) || t.elem == KE_f32 || bad(c, "needs integers or f32");
  }
}

static bool check_convert(const Check *c)
{
  const KNode *n = kernel_node(c->k, c->v);
  KType a = in_type(c, 0);

  if (a.elem == KE_bool || n->type.elem == KE_bool)
    return bad(c, "bool does not convert");
  if (n->op == K_cast)
    return a.lanes == n->type.lanes || bad(c, "lanes differ");
  return ktype_bytes(a) == ktype_bytes(n->type) || bad(c, "sizes differ");
}

static bool check_reduce(const Check *c)
{
  KType a = in_type(c, 0), t = kernel_node(c->k, c->v)->type;
  return (t.lanes == 1 && t.elem == a.elem && !(a.lanes & (a.lanes - 1)) &&
          (is_int(a) || a.elem == KE_f32)) ||
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
  case K_const: return n->type.elem != KE_f16 || bad(c, "f16 has no constants");
  case K_lane: return is_int(n->type) || bad(c, "needs integers");
  case K_loop:
    return (ktype_eq(in_type(c, 0), idx) && ktype_eq(in_type(c, 1), idx) && ktype_eq(n->type, idx) &&
            n->imm.i > 0) ||
           bad(c, "needs idx bounds and a positive step");
  case K_carry:
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

KVal kernel_add(Kernel *k, KOp op, KType type, const KVal *in, uint32_t n_in, int64_t imm)
{
  KVal v = k->nodes.len;
  KNode *n = PUSH(k->arena, k->nodes);

  *n = (KNode){.op = (uint8_t)op, .type = type, .in = {k->edges.len, n_in}, .imm.i = imm};
  for (uint32_t i = 0; i < n_in; i++) {
    assert(op == K_shuffle || (in[i] && in[i] < v));
    *PUSH(k->arena, k->edges) = in[i];
  }
  return v;
}

#ifndef NDEBUG
static void must_fit(const Kernel *k, KVal v)
{
  Err e = {0};
  Check c = {k, v, &e};
  bool ok = check_node(&c);
  assert(ok);
}
#else
#define must_fit(k, v) (void)0
#endif

static KVal put(Kernel *k, KOp op, KType type, const KVal *in, uint32_t n_in, int64_t imm)
{
  KVal v = kernel_add(k, op, type, in, n_in, imm);
  if (kop_info[op].imm != KI_MEM) /* memory ops are checked when their parameter is set */
    must_fit(k, v);
  return v;
}

static KType vtype(const Kernel *k, KVal v)
{
  return kernel_node(k, v)->type;
}

/* ---- builders */

KVal k_grid(Kernel *k)
{
  return put(k, K_grid, ktype(KE_idx, 1), NULL, 0, 0);
}

KVal k_arg(Kernel *k, int n)
{
  return k_cast(k, KE_idx, put(k, K_arg, ktype(KE_i32, 1), NULL, 0, n));
}

KVal k_int(Kernel *k, KType t, int64_t v)
{
  return put(k, K_const, t, NULL, 0, v);
}

KVal k_flt(Kernel *k, unsigned lanes, double v)
{
  KVal c = put(k, K_const, ktype(KE_f32, lanes), NULL, 0, 0);
  kernel_node(k, c)->imm.f = (double)(float)v;
  return c;
}

KVal k_idx(Kernel *k, int64_t v)
{
  return k_int(k, ktype(KE_idx, 1), v);
}

KVal k_loop(Kernel *k, KVal lo, KVal hi, int64_t step)
{
  KVal in[] = {lo, hi};
  return put(k, K_loop, ktype(KE_idx, 1), in, 2, step);
}

KVal k_carry(Kernel *k, KVal first)
{
  return put(k, K_carry, vtype(k, first), &first, 1, 0);
}

void k_end(Kernel *k, const KVal *next, uint32_t n)
{
  put(k, K_end, (KType){0}, next, n, 0);
}

void k_if(Kernel *k, KVal cond)
{
  put(k, K_if, (KType){0}, &cond, 1, 0);
}

void k_else(Kernel *k)
{
  put(k, K_else, (KType){0}, NULL, 0, 0);
}

KVal k_load(Kernel *k, KType t, uint16_t buf, KVal at, int64_t off)
{
  KVal v = put(k, K_load, t, &at, 1, off);
  kernel_node(k, v)->buf = buf;
  must_fit(k, v);
  return v;
}

void k_store(Kernel *k, uint16_t buf, KVal at, int64_t off, KVal value)
{
  KVal in[] = {at, value};
  KVal v = put(k, K_store, (KType){0}, in, 2, off);
  kernel_node(k, v)->buf = buf;
  must_fit(k, v);
}

void k_prefetch(Kernel *k, uint16_t buf, KVal at, int64_t off)
{
  KVal v = put(k, K_prefetch, (KType){0}, &at, 1, off);
  kernel_node(k, v)->buf = buf;
  must_fit(k, v);
}

KVal k_splat(Kernel *k, KType t, KVal scalar)
{
  return ktype_eq(vtype(k, scalar), t) ? scalar : put(k, K_splat, t, &scalar, 1, 0);
}

KVal k_extract(Kernel *k, KVal v, unsigned lane)
{
  return put(k, K_extract, ktype(vtype(k, v).elem, 1), &v, 1, lane);
}

KVal k_shuffle(Kernel *k, KVal a, KVal b, const uint8_t *lanes, unsigned n)
{
  uint32_t in[2 + 256];
  in[0] = a;
  in[1] = b;
  for (unsigned i = 0; i < n; i++)
    in[2 + i] = lanes[i];
  return put(k, K_shuffle, ktype(vtype(k, a).elem, n), in, 2 + n, 0);
}

KVal k_op1(Kernel *k, KOp op, KVal a)
{
  return put(k, op, vtype(k, a), &a, 1, 0);
}

KVal k_op2(Kernel *k, KOp op, KVal a, KVal b)
{
  KVal in[] = {a, b};
  KType t = kop_info[op].type == KT_COND ? ktype(KE_bool, vtype(k, a).lanes) : vtype(k, a);
  return put(k, op, t, in, 2, 0);
}

KVal k_fma(Kernel *k, KVal a, KVal b, KVal c)
{
  KVal in[] = {a, b, c};
  return put(k, K_fma, vtype(k, a), in, 3, 0);
}

KVal k_shift(Kernel *k, KOp op, KVal a, int64_t by)
{
  return put(k, op, vtype(k, a), &a, 1, by);
}

KVal k_select(Kernel *k, KVal c, KVal a, KVal b)
{
  KVal in[] = {c, a, b};
  return put(k, K_select, vtype(k, a), in, 3, 0);
}

KVal k_cast(Kernel *k, KElem to, KVal v)
{
  KType t = vtype(k, v);
  return t.elem == to ? v : put(k, K_cast, ktype(to, t.lanes), &v, 1, 0);
}

KVal k_bitcast(Kernel *k, KType to, KVal v)
{
  return ktype_eq(vtype(k, v), to) ? v : put(k, K_bitcast, to, &v, 1, 0);
}

KVal k_dot(Kernel *k, KOp op, KVal sum, KVal a, KVal b)
{
  KVal in[] = {sum, a, b};
  return put(k, op, vtype(k, sum), in, 3, 0);
}

KVal k_reduce(Kernel *k, KOp op, KVal v)
{
  KType t = vtype(k, v);
  return t.lanes == 1 ? v : put(k, op, ktype(t.elem, 1), &v, 1, 0);
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
