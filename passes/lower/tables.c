/* tables.c - rows of tables: token embeddings (from the panels that the head multiplies), and the cosines and
 * sines of rope. */
#include "passes/lower/lower.h"
#include "passes/lower/panel.h"
#include "passes/lower/planes.h"

/* ---- embed */

typedef struct {
  Lower *l;
  uint16_t w, y;
  DType t;
  KVal panel_at; /* byte where the row's panel starts */
  KVal lane;     /* the row within its panel */
  KVal y_at;
} Embed;

static void float_row(const Embed *m, int64_t columns)
{
  Kernel *k = m->l->k;
  int64_t es = dtype_info[m->t].bytes;
  KVal j = k_loop(k, k_idx(k, 0), k_idx(k, columns), 1), v;
  KVal at = idx_add(k, m->panel_at, idx_mul(k, idx_add(k, idx_mul(k, j, PANEL_ROWS), m->lane), es));

  if (m->t == DT_F32)
    v = k_load(k, ktype(KE_f32, 1), m->w, at, 0);
  else if (m->t == DT_F16)
    v = k_cast(k, KE_f32, k_load(k, ktype(KE_f16, 1), m->w, at, 0));
  else
    v = k_bitcast(k, ktype(KE_f32, 1),
                  k_shift(k, K_shl, k_cast(k, KE_u32, k_load(k, ktype(KE_u16, 1), m->w, at, 0)), 16));
  k_store(k, m->y, idx_add(k, m->y_at, j), 0, v);
  k_end(k, NULL, 0);
}

static KVal half_at(const Embed *m, KVal at, int64_t off)
{
  Kernel *k = m->l->k;
  return k_cast(k, KE_f32, k_load(k, ktype(KE_f16, 1), m->w, idx_add(k, at, idx_mul(k, m->lane, 2)), off));
}

static KVal small_at(const Embed *m, KVal at, int64_t off, KElem e)
{
  Kernel *k = m->l->k;
  KVal v = k_load(k, ktype(e, 1), m->w, idx_add(k, at, m->lane), off);
  return k_cast(k, KE_f32, k_cast(k, KE_i32, v));
}

static void block_row(const Embed *m, int64_t columns)
{
  Kernel *k = m->l->k;
  const PanelSpec *s = panel_spec(m->t);
  PanelOffsets o = panel_offsets(m->t);
  int64_t groups = dtype_info[m->t].block / QBLOCK, subs = s->sub == 16 ? 2 : 1;
  int zero = dtype_info[m->t].zero - dtype_info[m->t].lo;
  KType f4 = ktype(KE_f32, 4);
  KVal b = k_loop(k, k_idx(k, 0), k_idx(k, columns / dtype_info[m->t].block), 1);
  KVal at = idx_add(k, m->panel_at, idx_mul(k, b, o.block_bytes));
  KVal d = half_at(m, at, 0), min = s->min ? half_at(m, at, o.min) : 0;
  KVal j = k_loop(k, k_idx(k, 0), k_idx(k, groups), 1);
  KVal codes = idx_add(k, at, idx_add(k, idx_mul(k, j, o.group_bytes), k_idx(k, o.codes)));
  KVal sub_at = idx_add(k, at, idx_mul(k, j, subs * PANEL_ROWS));
  KVal y = idx_add(k, m->y_at, idx_mul(k, idx_add(k, idx_mul(k, b, groups), j), QBLOCK));

  codes = idx_add(k, codes, idx_mul(k, m->lane, 4));
  for (unsigned g = 0; g < 8; g++) {
    KVal scale = d, lowest = min;
    if (s->sub)
      scale = k_op2(k, K_mul, d,
                    small_at(m, sub_at, o.sub_scale + (subs == 2 ? g / 4 * PANEL_ROWS : 0),
                             s->sub_min ? KE_u8 : KE_i8));
    if (s->sub_min)
      lowest = k_op1(k, K_neg, k_op2(k, K_mul, min, small_at(m, sub_at, o.sub_min, KE_u8)));
    KVal c = k_cast(k, KE_i32, lower_codes(m->l, m->w, m->t, codes, 0, g, 4));
    if (zero)
      c = k_op2(k, K_sub, c, k_int(k, ktype(KE_i32, 4), zero));
    KVal v = k_op2(k, K_mul, k_cast(k, KE_f32, c), k_splat(k, f4, scale));
    if (lowest)
      v = k_op2(k, K_add, v, k_splat(k, f4, lowest));
    k_store(k, m->y, y, g * 4, v);
  }
  k_end(k, NULL, 0);
  k_end(k, NULL, 0);
}

/* From the two planes of planes.h: c = 8 h + l. */
static void planes_row(const Embed *m, const Type *w, KVal id)
{
  Kernel *k = m->l->k;
  int64_t columns = w->dim[1];
  KType u8 = ktype(KE_u8, 4), i32 = ktype(KE_i32, 4);
  KVal low0 =
      idx_add(k, k_idx(k, (int64_t)planes_low_at(w)), idx_mul(k, id, (int64_t)planes_row_bytes(columns)));
  KVal b = k_loop(k, k_idx(k, 0), k_idx(k, columns / QBLOCK), 1);
  KVal at = idx_add(k, m->panel_at, idx_mul(k, b, PLANES_HIGH_BLOCK)),
       low = idx_add(k, low0, idx_mul(k, b, PLANES_LOW_BLOCK - 2));
  KVal d = k_splat(k, ktype(KE_f32, 4), half_at(m, at, 0)), y = idx_add(k, m->y_at, idx_mul(k, b, QBLOCK));

  at = idx_add(k, at, idx_mul(k, m->lane, 4));
  for (unsigned g = 0; g < 8; g++) {
    KVal h = k_cast(k, KE_i32, lower_codes(m->l, m->w, DT_Q5_0, at, PLANES_CODES, g, 4));
    KVal l = k_load(k, u8, m->w, low, g % 4 * 4);
    l = g < 4 ? k_op2(k, K_and, l, k_int(k, u8, 15)) : k_shift(k, K_shr, l, 4);
    KVal c = k_op2(k, K_add, k_shift(k, K_shl, h, 3), k_cast(k, KE_i32, l));
    c = k_op2(k, K_sub, c, k_int(k, i32, 128));
    k_store(k, m->y, y, g * 4, k_op2(k, K_mul, k_cast(k, KE_f32, c), d));
  }
  k_end(k, NULL, 0);
}

bool lower_embed(Lower *l, const Val *nodes, uint32_t n)
{
  Val v = nodes[0];
  const Type t = graph_node(l->g, v)->type;
  const Node *w = graph_node(l->g, lower_base(l, graph_in(l->g, v, 1)));
  Val tokens = lower_base(l, graph_in(l->g, v, 0));
  int64_t columns = w->type.dim[1];
  Embed m = {.l = l, .t = w->type.dtype};

  (void)n;
  lower_begin(l, "embed.%s.%lld", dtype_info[m.t].name, (long long)columns);
  Kernel *k = l->k;
  bool planes = l->weight_planes[w->attr.index];
  m.w = lower_param(l, lower_weight(l, w->attr.index, planes ? LAYOUT_PLANES : LAYOUT_PANEL), 0, KE_u8,
                    KA_READ, "w");
  uint16_t ids = lower_param(l, lower_place(l, tokens)->buffer, 0, KE_i32, KA_READ, "tokens");
  m.y = lower_value(l, v, KA_WRITE);
  KVal token = k_grid(k), id = k_cast(k, KE_idx, k_load(k, ktype(KE_i32, 1), ids, token, 0));
  KVal panel = k_op2(k, K_div, id, k_idx(k, PANEL_ROWS));
  m.lane = k_op2(k, K_rem, id, k_idx(k, PANEL_ROWS));
  m.panel_at = idx_mul(k, panel, (int64_t)(planes ? planes_panel_bytes(columns) : panel_bytes(m.t, columns)));
  m.y_at = idx_mul(k, token, lower_stride(&t));
  if (planes)
    planes_row(&m, &w->type, id);
  else if (panel_spec(m.t))
    block_row(&m, columns);
  else
    float_row(&m, columns);
  lower_end(l, lower_per_token(l, &t) ? 1 : (uint64_t)t.dim[0], lower_per_token(l, &t), 0, (uint64_t)columns);
  return true;
}

/* ---- rope_table */

typedef struct {
  uint16_t step, y;
  KVal pos, y_at;
  int64_t half;
  float magnitude;
} RopeTable;

/* The angle as a fraction of a turn, from wrapping 32-bit integers: exact on every target. */
static void table_columns(Lower *l, void *ctx, KVal j, int64_t off, unsigned lanes)
{
  RopeTable *r = ctx;
  Kernel *k = l->k;
  KVal pos = k_splat(k, ktype(KE_u32, lanes), k_cast(k, KE_u32, r->pos));
  KVal phase = k_op2(k, K_mul, k_load(k, ktype(KE_u32, lanes), r->step, j, off), pos), s, c;
  KVal turns = k_cast(k, KE_f32, k_bitcast(k, ktype(KE_i32, lanes), phase));
  KVal m = k_flt(k, lanes, r->magnitude), at = idx_add(k, r->y_at, j);

  k_sincos_turns(k, k_op2(k, K_mul, turns, k_flt(k, lanes, 0x1p-32)), &s, &c);
  if (r->magnitude != 1.0f) {
    s = k_op2(k, K_mul, s, m);
    c = k_op2(k, K_mul, c, m);
  }
  k_store(k, r->y, at, off, c);
  k_store(k, r->y, at, r->half + off, s);
}

static uint32_t step_buffer(Lower *l, uint32_t rope, const RopeSpec *spec)
{
  if (!l->rope_buffer[rope]) {
    const char *name = arena_printf(l->arena, "rope.%u", rope);
    uint64_t bytes = round_up(spec->half, PAD) * 4;
    uint32_t *data = arena_alloc(l->arena, bytes);
    memcpy(data, spec->step, spec->half * sizeof *data);
    l->rope_buffer[rope] = program_buffer(l->prog, SPACE_WEIGHTS, name, bytes);
    *PUSH(l->arena, l->prog->items) =
        (Item){.layout = LAYOUT_RAW, .data = data, .buffer = l->rope_buffer[rope]};
  }
  return l->rope_buffer[rope];
}

bool lower_rope_table(Lower *l, const Val *nodes, uint32_t n)
{
  const Node *node = graph_node(l->g, nodes[0]);
  const Type t = node->type; /* [T, 2, half] */
  const RopeSpec *spec = &l->prog->module->ropes.data[node->attr.rope];
  RopeTable r = {.half = spec->half, .magnitude = spec->magnitude};

  (void)n;
  lower_begin(l, "rope_table.%u", spec->half);
  Kernel *k = l->k;
  r.step = lower_param(l, step_buffer(l, node->attr.rope, spec), 0, KE_u32, KA_READ, "step");
  r.y = lower_value(l, nodes[0], KA_WRITE);
  KVal token = k_grid(k);
  r.pos = idx_add(k, k_arg(k, 0), token);
  r.y_at = idx_mul(k, token, lower_stride(&t));
  lower_columns(l, r.half, table_columns, &r);
  lower_end(l, lower_per_token(l, &t) ? 1 : (uint64_t)t.dim[0], lower_per_token(l, &t), 0,
            32 * (uint64_t)r.half);
  return true;
}
