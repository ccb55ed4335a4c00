/* onnx_nn.c - ONNX operators of networks where the backend suite has few cases: transposed convolutions of all strides,
 * dilations and groups beside their definition, recurrences over sequences of different lengths beside shorter ones, and
 * what becomes of Resize. */
#include "frontend/onnx/import.h"
#include "tests/unit/support/onnx_tools.h"

#include <criterion/criterion.h>

typedef struct {
  Arena arena;
  OnnxModel *model;
  Module *module;
  Err err;
} Net;

/* A graph with one node: `node` is its inputs, outputs and attributes, `rest` the graph's inputs and outputs. */
static void open_net(Net *n, const char *op, const char *node, const char *rest)
{
  Text bytes = {.arena = &n->arena};
  OnnxImportOptions none = {0};

  onnx_text(&bytes, arena_printf(&n->arena, "1:8 8{ 2:21 } 7{ 1{ 4'%s' %s} %s}", op, node, rest));
  bool ok = onnx_parse((const uint8_t *)bytes.data, bytes.len, "m.onnx", &n->arena, &n->model, &n->err) &&
            onnx_import(n->model, &none, &n->arena, &n->module, &n->err);
  cr_assert(ok, "%s %s: %s", op, node, n->err.text);
}

static void close_net(Net *n)
{
  onnx_close(n->model);
  arena_free(&n->arena);
}

static const char *input(Net *n, const char *name, int elem, const Type *t)
{
  Text s = {.arena = &n->arena};

  text_printf(&s, "11{ 1'%s' 2{ 1{ 1:%d 2{ ", name, elem);
  for (uint32_t i = 0; i < t->rank; i++)
    text_printf(&s, "1{ 1:%lld } ", (long long)t->dim[i]);
  text_printf(&s, "} } } } ");
  return s.data;
}

static const char *ints(Net *n, const char *name, const int64_t *x, uint32_t count)
{
  Text s = {.arena = &n->arena};

  text_printf(&s, "5{ 1'%s' 20:7 8[", name);
  for (uint32_t i = 0; i < count; i++)
    text_printf(&s, "%lld ", (long long)x[i]);
  text_printf(&s, "] } ");
  return s.data;
}

static uint32_t seed = 1;
static uint32_t chance(uint32_t n)
{
  seed = seed * 1664525u + 1013904223u;
  return (seed >> 8) % n;
}

/* Small multiples of 1/8: sums are exact. */
static Tensor noise(Arena *a, Type t)
{
  Tensor x = tensor_new(a, &t);

  for (int64_t i = 0; i < type_count(&t); i++)
    ((float *)x.data)[i] = (float)((int)chance(33) - 16) / 8;
  return x;
}

#define TYPE(...) type_of(DT_F32, COUNT(((int64_t[]){__VA_ARGS__})), (const int64_t[]){__VA_ARGS__})

/* ---- ConvTranspose, of two dimensions */

typedef struct {
  int64_t in[2], kernel[2], stride[2], dilation[2], pads[4], more[2], group, channels, share;
} Spread;

static Spread some_spread(void)
{
  Spread s = {.group = 1 + chance(2), .share = 1 + chance(3)};

  s.channels = s.group * (1 + chance(2));
  for (int i = 0; i < 2; i++) {
    s.in[i] = 1 + chance(4);
    s.kernel[i] = 1 + chance(4);
    s.stride[i] = 1 + chance(3);
    s.dilation[i] = 1 + chance(2);
    s.more[i] = chance((uint32_t)s.stride[i]);
  }
  for (int i = 0; i < 4; i++)
    s.pads[i] = chance(2) * (s.in[i % 2] > 2);
  return s;
}

/* The definition: each element of x times the kernel is added where it falls. */
static void spread_out(const Spread *s, const Tensor *x, const Tensor *w, Tensor *y)
{
  const float *px = x->data, *pw = w->data;
  float *py = y->data;
  int64_t H = y->type.dim[2], W = y->type.dim[3], own = s->channels / s->group;

  for (int64_t i = 0; i < type_count(&x->type); i++) {
    int64_t c = i / (s->in[0] * s->in[1]), h = i / s->in[1] % s->in[0], v = i % s->in[1];
    for (int64_t k = 0; k < s->share * s->kernel[0] * s->kernel[1]; k++) {
      int64_t o = k / (s->kernel[0] * s->kernel[1]), a = k / s->kernel[1] % s->kernel[0],
              b = k % s->kernel[1];
      int64_t p = h * s->stride[0] + a * s->dilation[0] - s->pads[0];
      int64_t q = v * s->stride[1] + b * s->dilation[1] - s->pads[1];
      if (p >= 0 && p < H && q >= 0 && q < W)
        py[((c / own * s->share + o) * H + p) * W + q] +=
            px[i] * pw[c * s->share * s->kernel[0] * s->kernel[1] + k];
    }
  }
}

static int64_t size_of(const Spread *s, int i)
{
  return s->stride[i] * (s->in[i] - 1) + s->more[i] + (s->kernel[i] - 1) * s->dilation[i] + 1 - s->pads[i] -
         s->pads[i + 2];
}

static void check_spread(const Spread *s)
{
  Net n = {0};
  Arena *a = &n.arena;
  Type ty = TYPE(1, s->group * s->share, size_of(s, 0), size_of(s, 1));
  Tensor in[2] = {noise(a, TYPE(1, s->channels, s->in[0], s->in[1])),
                  noise(a, TYPE(s->channels, s->share, s->kernel[0], s->kernel[1]))};
  Tensor want = tensor_new(a, &ty), got;
  const char *attrs = arena_printf(a, "%s%s%s%s5{ 1'group' 20:2 3:%lld } ", ints(&n, "strides", s->stride, 2),
                                   ints(&n, "dilations", s->dilation, 2), ints(&n, "pads", s->pads, 4),
                                   ints(&n, "output_padding", s->more, 2), (long long)s->group);

  open_net(
      &n, "ConvTranspose", arena_printf(a, "1'x' 1'w' 2'y' %s", attrs),
      arena_printf(a, "%s%s12{ 1'y' } ", input(&n, "x", 1, &in[0].type), input(&n, "w", 1, &in[1].type)));
  graph_eval_dense(n.module->graphs.data[0], a, in, &got);
  spread_out(s, &in[0], &in[1], &want);
  cr_assert(type_eq(&got.type, &ty));
  for (int64_t i = 0; i < type_count(&ty); i++)
    cr_assert_eq(((float *)got.data)[i], ((float *)want.data)[i], "element %lld of %s", (long long)i, attrs);
  close_net(&n);
}

Test(onnx_nn, transposed_convolutions_are_what_they_are_defined_as)
{
  for (int i = 0; i < 300; i++) {
    Spread s = some_spread();
    if (size_of(&s, 0) > 0 && size_of(&s, 1) > 0)
      check_spread(&s);
  }
}

/* ---- recurrences */

enum { STEPS = 4, BATCH = 3, INPUTS = 2, HIDDEN = 3 };

typedef struct {
  const char *op, *attrs;
  int64_t gates;
} Cell;

/* y [steps, 1, batch, hidden] and the last state; lengths NULL: none. */
static void run_cell(Net *n, const Cell *c, const Tensor *x, const Tensor *w, const Tensor *r,
                     const Tensor *lengths, Tensor *out)
{
  Arena *a = &n->arena;
  Tensor in[4] = {*x, *w, *r, lengths ? *lengths : (Tensor){.data = NULL}};

  open_net(n, c->op, arena_printf(a, "1'x' 1'w' 1'r' %s2'y' 2'h' %s", lengths ? "1'' 1'l' " : "", c->attrs),
           arena_printf(a, "%s%s%s%s12{ 1'y' } 12{ 1'h' } ", input(n, "x", 1, &x->type),
                        input(n, "w", 1, &w->type), input(n, "r", 1, &r->type),
                        lengths ? input(n, "l", 6, &lengths->type) : ""));
  graph_eval_dense(n->module->graphs.data[0], a, in, out);
}

/* The first `steps` of sample b alone. */
static Tensor cut(Arena *a, const Tensor *x, int64_t b, int64_t steps)
{
  Type t = TYPE(steps, 1, INPUTS);
  Tensor y = tensor_new(a, &t);

  for (int64_t i = 0; i < steps * INPUTS; i++)
    ((float *)y.data)[i] = ((float *)x->data)[(i / INPUTS * BATCH + b) * INPUTS + i % INPUTS];
  return y;
}

static void expect_row(const Tensor *all, int64_t row, const Tensor *alone, int64_t row_alone)
{
  for (int64_t i = 0; i < HIDDEN; i++)
    cr_assert_float_eq(tensor_get(all, row * HIDDEN + i),
                       alone ? tensor_get(alone, row_alone * HIDDEN + i) : 0, 1e-6);
}

/* A batch of sequences of different lengths gives what each of them gives alone, and zeros behind its end. */
static void check_lengths(const Cell *c)
{
  static const int32_t lengths[BATCH] = {4, 1, 3};
  Arena a = {0};
  Tensor x = noise(&a, TYPE(STEPS, BATCH, INPUTS)), w = noise(&a, TYPE(1, c->gates * HIDDEN, INPUTS));
  Tensor r = noise(&a, TYPE(1, c->gates * HIDDEN, HIDDEN)), out[2], alone[2];
  Tensor l = {.type = type_of(DT_I32, 1, (int64_t[]){BATCH}), .data = (void *)(uintptr_t)lengths};
  Net all = {0};

  run_cell(&all, c, &x, &w, &r, &l, out);
  for (int64_t b = 0; b < BATCH; b++) {
    Tensor part = cut(&a, &x, b, lengths[b]);
    Net one = {0};
    run_cell(&one, c, &part, &w, &r, NULL, alone);
    for (int64_t t = 0; t < STEPS; t++)
      expect_row(&out[0], t * BATCH + b, t < lengths[b] ? &alone[0] : NULL, t);
    expect_row(&out[1], b, &alone[1], 0);
    close_net(&one);
  }
  close_net(&all);
  arena_free(&a);
}

Test(onnx_nn, sequences_of_different_lengths_do_not_mix)
{
  static const char reverse[] = "5{ 1'direction' 20:3 4'reverse' } ";
  const Cell cells[] = {{"LSTM", "", 4},     {"LSTM", reverse, 4}, {"GRU", "", 3},
                        {"GRU", reverse, 3}, {"RNN", "", 1},       {"RNN", reverse, 1}};

  for (size_t i = 0; i < COUNT(cells); i++)
    check_lengths(&cells[i]);
}

/* ---- Resize */

static const char *resized(Net *n, const char *sizes, const char *attrs)
{
  Type t = TYPE(1, 2, 4, 6);
  Text s = {.arena = &n->arena};

  open_net(n, "Resize", arena_printf(&n->arena, "1'x' 1'' 1'' 1's' 2'y' %s", attrs),
           arena_printf(&n->arena, "%s5{ 8's' 1:4 2:7 7[%s] } 12{ 1'y' } ", input(n, "x", 1, &t), sizes));
  module_print(n->module, &s);
  return s.data;
}

Test(onnx_nn, nearest_neighbours_at_regular_places_need_no_table)
{
  static const char floors[] =
      "5{ 1'coordinate_transformation_mode' 20:3 4'asymmetric' } 5{ 1'nearest_mode' 20:3 4'floor' } ";
  Net twice = {0}, half = {0}, other = {0};

  cr_assert_null(strstr(resized(&twice, "1 2 8 12", floors), "gather"));
  cr_assert_null(strstr(resized(&half, "1 2 2 3", floors), "gather"));
  cr_assert_not_null(strstr(resized(&other, "1 2 5 6", floors), "gather"));
  close_net(&twice);
  close_net(&half);
  close_net(&other);
}
