/* kernel_eval.c - runs kernels on any machine: what kernel_ops.def says, lane by lane, and so the
 * measure of every printer.
 *
 * A kernel is prepared once a call: each value gets a fixed place in memory, each node that does
 * something becomes an instruction whose function (kernel_eval_ops.c) is picked by op and element.
 *
 * What the table calls forbidden is reported: accesses outside of a buffer, 16-bit sums that overflow. */
#include "ir/kernel_eval.h"

/* ---- preparing */

typedef struct {
  const Kernel *k;
  void *const *buf;
  const uint64_t *buf_bytes;
  const int32_t *args;
  Err *e;
  Arena tmp;
  void **value; /* where each node's value lies */
  ARRAY(Ins) ins;
  ARRAY(uint32_t) open; /* instructions of loops, ifs and elses not yet closed */
  uint8_t *moving;      /* next values of carries on their way: they may be carries themselves */
  int64_t grid;
} Eval;

static void put_const(uint8_t *out, const KNode *n)
{
  uint32_t bytes = kelem_info[n->type.elem].bytes;
  float f = (float)n->imm.f;

  for (unsigned l = 0; l < n->type.lanes; l++, out += bytes)
    if (n->type.elem == KE_f32)
      memcpy(out, &f, sizeof f);
    else if (n->type.elem == KE_f64)
      memcpy(out, &n->imm.f, sizeof n->imm.f);
    else
      kernel_put_int((KElem)n->type.elem, out, n->imm.i);
}

static Ins plain_ins(const Eval *v, KVal at)
{
  const KNode *n = kernel_node(v->k, at);
  uint32_t n_in = n->op == K_shuffle ? 2 : n->in.count < 3 ? n->in.count : 3;
  KType in = n_in ? kernel_node(v->k, kernel_in(v->k, at, n->op == K_store))->type : n->type;
  Ins x = {.run = kernel_run((KOp)n->op, n->type, in),
           .out = v->value[at],
           .op = n->op,
           .lanes = n->type.lanes,
           .src_lanes = in.lanes,
           .is_bool = n->type.elem == KE_bool,
           .buf = n->buf,
           .bytes = ktype_bytes(n->op == K_store ? in : n->type),
           .imm = n->op == K_cast || n->op == K_cast_sat ? in.elem << 8 | n->type.elem : n->imm.i,
           .node = at};

  for (uint32_t i = 0; i < n_in; i++)
    x.in[i] = v->value[kernel_in(v->k, at, i)];
  if (n->op == K_shuffle)
    x.lane = &v->k->edges.data[n->in.first + 2];
  if (n->op == K_grid)
    x.in[0] = &v->grid;
  return x;
}

/* The values `from` for the carries behind a loop. */
static void add_moves(Eval *v, Ins *x, KVal loop, const uint32_t *from, uint32_t n)
{
  Move *m = NEW_ARRAY(&v->tmp, Move, n);
  for (uint32_t i = 0; i < n; i++) {
    KVal carry = loop + 1 + i, src = from ? from[i] : kernel_in(v->k, carry, 0);
    m[i] = (Move){v->value[carry], v->value[src], ktype_bytes(kernel_node(v->k, carry)->type)};
  }
  x->moves = m;
  x->n_moves = n;
}

static void open_loop(Eval *v, KVal at)
{
  Ins x = plain_ins(v, at);
  uint32_t n = 0;

  while (at + 1 + n < v->k->nodes.len && kernel_node(v->k, at + 1 + n)->op == K_carry)
    n++;
  add_moves(v, &x, at, NULL, n);
  *PUSH(&v->tmp, v->open) = v->ins.len;
  *PUSH(&v->tmp, v->ins) = x;
}

static void open_branch(Eval *v, KVal at)
{
  if (kernel_node(v->k, at)->op == K_else)
    v->ins.data[v->open.data[--v->open.len]].target = v->ins.len + 1;
  *PUSH(&v->tmp, v->open) = v->ins.len;
  *PUSH(&v->tmp, v->ins) = plain_ins(v, at);
}

static void close_any(Eval *v, KVal at)
{
  uint32_t head = v->open.data[--v->open.len];
  const KNode *n = kernel_node(v->k, at);

  if (v->ins.data[head].op == K_loop) {
    Ins x = {.op = K_end, .target = head};
    add_moves(v, &x, v->ins.data[head].node, v->k->edges.data + n->in.first, n->in.count);
    *PUSH(&v->tmp, v->ins) = x;
  }
  v->ins.data[head].target = v->ins.len;
}

static bool prepare_node(Eval *v, KVal at)
{
  const KNode *n = kernel_node(v->k, at);

  switch (n->op) {
  case K_const: put_const(v->value[at], n); break;
  case K_arg:
    if (n->imm.i < 0 || n->imm.i >= K_ARGS)
      return fail(v->e, "kernel '%s': %%%u = arg: there is no argument %lld", v->k->name, at,
                  (long long)n->imm.i);
    if (n->type.elem == KE_idx)
      memcpy(v->value[at], &(int64_t){v->args[n->imm.i]}, sizeof(int64_t));
    else
      memcpy(v->value[at], &v->args[n->imm.i], sizeof *v->args);
    break;
  case K_carry: break;
  case K_loop: open_loop(v, at); break;
  case K_if:
  case K_else: open_branch(v, at); break;
  case K_end: close_any(v, at); break;
  default: *PUSH(&v->tmp, v->ins) = plain_ins(v, at);
  }
  return true;
}

static bool prepare(Eval *v)
{
  uint32_t n = v->k->nodes.len;
  uint64_t bytes = 0;

  v->value = NEW_ARRAY(&v->tmp, void *, n);
  for (KVal i = 1; i < n; i++)
    bytes += round_up(ktype_bytes(kernel_node(v->k, i)->type), 16);
  uint8_t *at = arena_alloc(&v->tmp, bytes);
  v->moving = arena_alloc(&v->tmp, bytes);
  for (KVal i = 1; i < n; i++) {
    v->value[i] = at;
    at += round_up(ktype_bytes(kernel_node(v->k, i)->type), 16);
  }
  for (KVal i = 1; i < n; i++)
    if (!prepare_node(v, i))
      return false;
  return true;
}

/* ---- walking */

static bool wrong(const Eval *v, const Ins *x, const char *what)
{
  return fail(v->e, "kernel '%s', iteration %lld: %%%u = %s: %s", v->k->name, (long long)v->grid, x->node,
              kop_info[x->op].name, what);
}

static bool find_memory(const Eval *v, const Ins *x, uint8_t **p)
{
  int64_t index = *(const int64_t *)x->in[0], at;
  uint32_t elem_bytes = kelem_info[v->k->params.data[x->buf].elem].bytes;
  uint64_t size = v->buf_bytes[x->buf];

  if (!__builtin_add_overflow(index, x->imm, &at) && !__builtin_mul_overflow(at, elem_bytes, &at) &&
      at >= 0 && x->bytes <= size && (uint64_t)at <= size - x->bytes) {
    *p = (uint8_t *)v->buf[x->buf] + at;
    return true;
  }
  return fail(v->e,
              "kernel '%s', iteration %lld: %%%u = %s: %u bytes at %s[%lld + %lld] are outside of its %llu",
              v->k->name, (long long)v->grid, x->node, kop_info[x->op].name, x->bytes,
              v->k->params.data[x->buf].name, (long long)index, (long long)x->imm, (unsigned long long)size);
}

static void move_carries(Eval *v, const Ins *x)
{
  uint8_t *at = v->moving;

  for (const Move *m = x->moves; m < x->moves + x->n_moves; at += m++->bytes)
    memcpy(at, m->from, m->bytes);
  at = v->moving;
  for (const Move *m = x->moves; m < x->moves + x->n_moves; at += m++->bytes)
    memcpy(m->to, at, m->bytes);
}

/* Whether the loop goes on; an index beyond 64 bits is beyond its bound too. */
static bool next_index(const Ins *loop)
{
  int64_t *i = loop->out;
  return !__builtin_add_overflow(*i, loop->imm, i) && *i < *(const int64_t *)loop->in[1];
}

/* Memory and structure; *pc stands behind x. */
static bool step(Eval *v, const Ins *x, uint32_t *pc)
{
  uint8_t *p;

  switch (x->op) {
  case K_load:
    if (!find_memory(v, x, &p))
      return false;
    if (x->is_bool)
      for (uint32_t l = 0; l < x->bytes; l++)
        ((uint8_t *)x->out)[l] = p[l] != 0;
    else
      memcpy(x->out, p, x->bytes);
    break;
  case K_prefetch: break;
  case K_store:
    if (!find_memory(v, x, &p))
      return false;
    memcpy(p, x->in[1], x->bytes);
    break;
  case K_loop:
    memcpy(x->out, x->in[0], sizeof(int64_t));
    move_carries(v, x);
    if (*(const int64_t *)x->in[0] >= *(const int64_t *)x->in[1])
      *pc = x->target;
    break;
  case K_if:
    if (!*(const uint8_t *)x->in[0])
      *pc = x->target;
    break;
  case K_else: *pc = x->target; break;
  case K_end:
    move_carries(v, x);
    if (next_index(&v->ins.data[x->target]))
      *pc = x->target + 1;
    break;
  default: return wrong(v, x, "has no meaning for its element");
  }
  return true;
}

static bool iterate(Eval *v)
{
  for (uint32_t pc = 0; pc < v->ins.len;) {
    const Ins *x = &v->ins.data[pc++];
    const char *what = x->run ? x->run(x) : NULL;
    if (what)
      return wrong(v, x, what);
    if (!x->run && !step(v, x, &pc))
      return false;
  }
  return true;
}

bool kernel_eval(const Kernel *k, void *const *buf, const uint64_t *buf_bytes, const int32_t *args,
                 int64_t lo, int64_t hi, Err *e)
{
  Eval v = {.k = k, .buf = buf, .buf_bytes = buf_bytes, .args = args, .e = e};
  bool ok = kernel_verify(k, e) && prepare(&v);

  for (v.grid = lo; ok && v.grid < hi; v.grid++)
    ok = iterate(&v);
  arena_free(&v.tmp);
  return ok;
}
