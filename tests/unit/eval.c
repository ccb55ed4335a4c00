/* eval.c - the oracle, against values worked out by hand (or by the formula in double). */
#include "ir/graph.h"
#include "tests/unit/support/graph_gen.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>

/* ---- a module from text, its weights from arrays, one run */

typedef struct {
  Arena a;
  Module *m;
  Array in[4], state[2], out[4];
} Case;

static Case *case_new(const char *text)
{
  static Case c;
  Err e = {0};

  c = (Case){0};
  c.m = module_parse(&c.a, text, "t", &e);
  cr_assert(c.m && module_verify(c.m, &e), "%s", e.text);
  return &c;
}

static void set(Case *c, Array *to, const float *x, int64_t n)
{
  *to = (Array){arena_copy(&c->a, x, (size_t)n * sizeof *x), n};
}
#define SET(c, to, ...) set(c, to, (const float[]){__VA_ARGS__}, COUNT(((const float[]){__VA_ARGS__})))

static void set_weight(Case *c, uint32_t i, const void *data)
{
  c->m->weights.data[i].data = data;
}
#define WEIGHT(c, i, ...) set_weight(c, i, (const float[]){__VA_ARGS__})

static void run(Case *c)
{
  graph_eval(c->m->graphs.data[0], &c->a, c->in, c->state, c->out);
}

static void expect(const Array *got, const float *want, int64_t n, int line)
{
  cr_assert_eq(got->count, n, "line %d", line);
  for (int64_t i = 0; i < n; i++)
    cr_expect(fabsf(got->data[i] - want[i]) <= 1e-6f * fmaxf(1, fabsf(want[i])),
              "line %d, element %d: %g, not %g", line, (int)i, (double)got->data[i], (double)want[i]);
}
#define EXPECT(got, ...)                                                                                     \
  expect(got, (const float[]){__VA_ARGS__}, COUNT(((const float[]){__VA_ARGS__})), __LINE__)

static void end(Case *c)
{
  arena_free(&c->a);
}

/* ---- elementwise */

Test(eval, unary)
{
  static const struct {
    const char *op;
    float x[3], y[3];
  } cases[] = {
      {"neg", {1, -2, 0}, {-1, 2, 0}},
      {"abs", {1, -2, 0}, {1, 2, 0}},
      {"exp", {0, 1, -1}, {1, 2.71828183f, 0.36787944f}},
      {"sqrt", {0, 4, 2}, {0, 2, 1.41421356f}},
      {"tanh", {0, 1, -1}, {0, 0.76159416f, -0.76159416f}},
      {"sigmoid", {0, 1, -1}, {0.5f, 0.73105858f, 0.26894142f}},
      {"silu", {0, 1, -1}, {0, 0.73105858f, -0.26894142f}},
      {"gelu", {0, 1, -1}, {0, 0.84119199f, -0.15880801f}},
      {"relu", {0, 1, -1}, {0, 1, 0}},
      {"sin", {0, 1, -1}, {0, 0.84147098f, -0.84147098f}},
      {"cos", {0, 1, -1}, {1, 0.54030231f, 0.54030231f}},
  };

  for (size_t i = 0; i < COUNT(cases); i++) {
    char text[256];
    snprintf(text, sizeof text, "%%1 = input f32[3]\n%%2 = %s f32[3] %%1\n%%3 = output f32[3] %%2\n",
             cases[i].op);
    Case *c = case_new(text);
    set(c, &c->in[0], cases[i].x, 3);
    run(c);
    expect(&c->out[0], cases[i].y, 3, __LINE__);
    end(c);
  }
}

Test(eval, binary)
{
  static const struct {
    const char *op;
    float y[3];
  } cases[] = {
      {"add", {3, 1, 0}},    {"sub", {-1, -5, 1}},    {"mul", {2, -6, -0.25f}},
      {"max", {2, 3, 0.5f}}, {"min", {1, -2, -0.5f}}, {"div", {0.5f, -2.0f / 3, -1}},
  };

  for (size_t i = 0; i < COUNT(cases); i++) {
    char text[256];
    snprintf(text, sizeof text,
             "%%1 = input f32[3]\n%%2 = input f32[3]\n%%3 = %s f32[3] %%1, %%2\n%%4 = output f32[3] %%3\n",
             cases[i].op);
    Case *c = case_new(text);
    SET(c, &c->in[0], 1, -2, 0.5f);
    SET(c, &c->in[1], 2, 3, -0.5f);
    run(c);
    expect(&c->out[0], cases[i].y, 3, __LINE__);
    end(c);
  }
}

/* [2,1,3] + [2,1] -> [2,2,3]; and a scalar on the left */
Test(eval, broadcast)
{
  Case *c = case_new("%1 = input f32[2,1,3]\n"
                     "%2 = input f32[2,1]\n"
                     "%3 = add f32[2,2,3] %1, %2\n"
                     "%4 = const f32[] 10\n"
                     "%5 = sub f32[2,1] %4, %2\n"
                     "%6 = output f32[2,2,3] %3\n"
                     "%7 = output f32[2,1] %5\n");
  SET(c, &c->in[0], 1, 2, 3, 4, 5, 6);
  SET(c, &c->in[1], 10, 20);
  run(c);
  EXPECT(&c->out[0], 11, 12, 13, 21, 22, 23, 14, 15, 16, 24, 25, 26);
  EXPECT(&c->out[1], 0, -10);
  end(c);
}

Test(eval, integers)
{
  Case *c =
      case_new("%1 = input i32[2]\n%2 = const i32[] 3\n%3 = mul i32[2] %1, %2\n%4 = output i32[2] %3\n");
  SET(c, &c->in[0], 5, -7);
  run(c);
  EXPECT(&c->out[0], 15, -21);
  end(c);
}

/* ---- along the last axis */

Test(eval, reductions)
{
  Case *c = case_new("weight gain f32[3]\n"
                     "graph g tokens 1 {\n"
                     "%1 = input f32[2,3]\n"
                     "%2 = sum f32[2,1] %1\n"
                     "%3 = amax f32[2,1] %1\n"
                     "%4 = softmax f32[2,3] %1\n"
                     "%5 = weight f32[3] gain\n"
                     "%6 = rms_norm f32[2,3] %1, %5 eps=0.5\n"
                     "%7 = output f32[2,1] %2\n"
                     "%8 = output f32[2,1] %3\n"
                     "%9 = output f32[2,3] %4\n"
                     "%10 = output f32[2,3] %6\n"
                     "}\n");
  SET(c, &c->in[0], 1, 2, 3, 1000, 1000, 1000);
  WEIGHT(c, 0, 1, 2, -1);
  run(c);
  EXPECT(&c->out[0], 6, 3000);
  EXPECT(&c->out[1], 3, 1000);
  EXPECT(&c->out[2], 0.09003057f, 0.24472847f, 0.66524096f, 1.0f / 3, 1.0f / 3, 1.0f / 3);
  float r = 1 / sqrtf(14.0f / 3 + 0.5f);
  EXPECT(&c->out[3], r, 4 * r, -3 * r, 0.99999975f, 1.9999995f, -0.99999975f);
  end(c);
}

/* A float sum would lose every 1. */
Test(eval, sums_are_double)
{
  Case *c = case_new("%1 = input f32[4]\n%2 = sum f32[1] %1\n%3 = output f32[1] %2\n");
  SET(c, &c->in[0], 1e9f, 1, 1, -1e9f);
  run(c);
  EXPECT(&c->out[0], 2);
  end(c);
}

/* ---- shape */

Test(eval, shapes)
{
  Case *c = case_new("%1 = input f32[2,3]\n"
                     "%2 = transpose f32[3,2] %1 perm=1,0\n"
                     "%3 = reshape f32[2,3] %2\n"
                     "%4 = slice f32[2,2] %1 axis=1 start=1 count=2\n"
                     "%5 = concat f32[2,5] %1, %4 axis=1\n"
                     "%6 = concat f32[4,3] %1, %3 axis=0\n"
                     "%7 = reshape f32[2,3,1] %1\n"
                     "%8 = transpose f32[1,2,3] %7 perm=2,0,1\n"
                     "%9 = output f32[2,3] %3\n"
                     "%10 = output f32[2,5] %5\n"
                     "%11 = output f32[4,3] %6\n"
                     "%12 = output f32[1,2,3] %8\n");
  SET(c, &c->in[0], 1, 2, 3, 4, 5, 6);
  run(c);
  EXPECT(&c->out[0], 1, 4, 2, 5, 3, 6);
  EXPECT(&c->out[1], 1, 2, 3, 2, 3, 4, 5, 6, 5, 6);
  EXPECT(&c->out[2], 1, 2, 3, 4, 5, 6, 1, 4, 2, 5, 3, 6);
  EXPECT(&c->out[3], 1, 2, 3, 4, 5, 6);
  end(c);
}

/* perm says where a result's dimension comes from: [2,3,4] by 2,0,1 is [4,2,3]. */
Test(eval, transpose_of_three)
{
  Case *c =
      case_new("%1 = input f32[2,3,4]\n%2 = transpose f32[4,2,3] %1 perm=2,0,1\n%3 = output f32[4,2,3] %2\n");
  float x[24];

  for (int i = 0; i < 24; i++)
    x[i] = (float)i;
  set(c, &c->in[0], x, 24);
  run(c);
  for (int i = 0; i < 4; i++)
    for (int j = 0; j < 2; j++)
      for (int k = 0; k < 3; k++)
        cr_expect_eq(c->out[0].data[(i * 2 + j) * 3 + k], x[(j * 3 + k) * 4 + i]);
  end(c);
}

/* ---- products and tables */

Test(eval, linear_and_embed)
{
  Case *c = case_new("weight w f32[3,2]\n"
                     "weight h f16[1,2]\n"
                     "graph g tokens 2 {\n"
                     "%1 = input i32[2] tokens\n"
                     "%2 = weight f32[3,2] w\n"
                     "%3 = embed f32[2,2] %1, %2\n"
                     "%4 = linear f32[2,3] %3, %2\n"
                     "%5 = weight f16[1,2] h\n"
                     "%6 = concat f32[6,2] %2, %2 axis=0\n"
                     "%7 = linear f32[2,6] %3, %6\n"
                     "%8 = linear f32[2,1] %3, %5\n"
                     "%9 = output f32[2,2] %3\n"
                     "%10 = output f32[2,3] %4\n"
                     "%11 = output f32[2,6] %7\n"
                     "%12 = output f32[2,1] %8\n"
                     "}\n");
  static const uint16_t half[] = {0x3c00, 0xc000}; /* 1, -2 */

  WEIGHT(c, 0, 1, 2, 3, 4, 5, 6);
  set_weight(c, 1, half);
  SET(c, &c->in[0], 2, 0);
  run(c);
  EXPECT(&c->out[0], 5, 6, 1, 2);
  EXPECT(&c->out[1], 17, 39, 61, 5, 11, 17);
  EXPECT(&c->out[2], 17, 39, 61, 17, 39, 61, 5, 11, 17, 5, 11, 17);
  EXPECT(&c->out[3], -7, -3);
  end(c);
}

/* Block weights: scale 0.5, codes 0 .. 15 twice, minus 8. */
Test(eval, linear_of_blocks)
{
  Case *c = case_new("weight w q4_0[1,32]\n"
                     "graph g tokens 1 {\n"
                     "%1 = input f32[1,32]\n"
                     "%2 = weight q4_0[1,32] w\n"
                     "%3 = linear f32[1,1] %1, %2\n"
                     "%4 = output f32[1,1] %3\n"
                     "}\n");
  uint8_t block[18] = {0x00, 0x38};
  float x[32], want = 0;

  for (int i = 0; i < 16; i++)
    block[2 + i] = (uint8_t)(i * 17);
  for (int i = 0; i < 32; i++) {
    x[i] = (float)(i % 5);
    want += 0.5f * (float)(i % 16 - 8) * x[i];
  }
  set_weight(c, 0, block);
  set(c, &c->in[0], x, 32);
  run(c);
  EXPECT(&c->out[0], want);
  end(c);
}

/* The first block's numbers are whole at scale 127 / 127 = 1, the third's at 63.5 / 127; the second is zero. The fourth is
 * whole if its largest becomes 126: that has no error, 127 would have. */
Test(eval, quant)
{
  Case *c = case_new("%1 = input f32[1,128]\n%2 = quant q8a[1,128] %1\n%3 = output q8a[1,128] %2\n");
  float x[128] = {127, 1, 2, -3, -127, 100};

  x[64] = -63.5f, x[65] = 0.5f;
  x[96] = 126, x[97] = 63, x[98] = -1, x[99] = 21;
  set(c, &c->in[0], x, 128);
  run(c);
  expect(&c->out[0], x, 128, __LINE__);
  end(c);
}

/* Halves go to the even number, and no value is further off than half a step. */
Test(eval, quant_rounds)
{
  Case *c = case_new("%1 = input f32[1,32]\n%2 = quant q8a[1,32] %1\n%3 = output q8a[1,32] %2\n");
  float x[32] = {127, 0.5f, 1.5f, -2.5f, -126.7f, 0.4f};

  for (int i = 6; i < 32; i++)
    x[i] = (float)(40 + 2 * i); /* keeps the scale at 1: any other has more error */
  set(c, &c->in[0], x, 32);
  run(c);
  float want[32] = {127, 0, 2, -2, -127, 0};
  for (int i = 6; i < 32; i++)
    want[i] = x[i];
  expect(&c->out[0], want, 32, __LINE__);
  end(c);
}

/* ---- language models */

/* step 2^30: a quarter turn a position. Position 5 is one quarter; 6 is a half. */
Test(eval, rope)
{
  Case *c = case_new("rope 0 half 1 magnitude 2 step 1073741824\n"
                     "graph g tokens 2 {\n"
                     "%1 = input i32[] pos\n"
                     "%2 = rope_table f32[2,2,1] %1 rope=0\n"
                     "%3 = input f32[2,1,3]\n"
                     "%4 = rope f32[2,1,3] %3, %2 style=halves\n"
                     "%5 = output f32[2,2,1] %2\n"
                     "%6 = output f32[2,1,3] %4\n"
                     "}\n");
  SET(c, &c->in[0], 5);
  SET(c, &c->in[1], 1, 2, 3, 4, 5, 6);
  run(c);
  EXPECT(&c->out[0], 0, 2, -2, 0);
  EXPECT(&c->out[1], -4, 2, 3, -8, -10, 6); /* the third element is not rotated */
  end(c);
}

Test(eval, rope_styles)
{
  static const char text[] = "rope 0 half 2 magnitude 1 step 1073741824 2147483648\n"
                             "graph g tokens 1 {\n"
                             "%1 = input i32[] pos\n"
                             "%2 = rope_table f32[1,2,2] %1 rope=0\n"
                             "%3 = input f32[1,2,4]\n"
                             "%4 = rope f32[1,2,4] %3, %2 style=halves\n"
                             "%5 = rope f32[1,2,4] %3, %2 style=interleaved\n"
                             "%6 = output f32[1,2,4] %4\n"
                             "%7 = output f32[1,2,4] %5\n"
                             "}\n";
  Case *c = case_new(text);

  SET(c, &c->in[0], 1); /* the first pair turns by 90 degrees, the second by 180 */
  SET(c, &c->in[1], 1, 2, 3, 4, 5, 6, 7, 8);
  run(c);
  EXPECT(&c->out[0], -3, -2, 1, -4, -7, -6, 5, -8);
  EXPECT(&c->out[1], -2, 1, -3, -4, -6, 5, -7, -8);
  end(c);
}

/* Angles wrap exactly: 2^24 - 1 positions of an odd step are the same as their remainder. */
Test(eval, rope_wraps)
{
  Case *c = case_new("rope 0 half 1 magnitude 1 step 683565276\n"
                     "graph g tokens 1 {\n"
                     "%1 = input i32[] pos\n"
                     "%2 = rope_table f32[1,2,1] %1 rope=0\n"
                     "%3 = output f32[1,2,1] %2\n"
                     "}\n");
  uint32_t turn = 16777215u * 683565276u;

  SET(c, &c->in[0], 16777215);
  run(c);
  double angle = 2 * M_PI * ((double)turn / 0x1p32);
  EXPECT(&c->out[0], (float)cos(angle), (float)sin(angle));
  end(c);
}

static const char update_text[] = "state s f32[4,1,2]\n"
                                  "graph g tokens 2 {\n"
                                  "%1 = input i32[] pos\n"
                                  "%2 = input f32[2,1,2]\n"
                                  "%3 = state f32[4,1,2] s\n"
                                  "%4 = update f32[4,1,2] %3, %2, %1\n"
                                  "%5 = output f32[4,1,2] %4\n"
                                  "}\n";

Test(eval, update)
{
  Case *c = case_new(update_text);

  SET(c, &c->in[0], 2);
  SET(c, &c->in[1], 5, 6, 7, 8);
  SET(c, &c->state[0], 1, 1, 1, 1, 1, 1, 1, 1);
  run(c);
  EXPECT(&c->out[0], 1, 1, 1, 1, 5, 6, 7, 8);
  EXPECT(&c->state[0], 1, 1, 1, 1, 5, 6, 7, 8);
  end(c);
}

/* A reader of the state after the update still sees the call's beginning. */
Test(eval, state_is_a_value)
{
  Case *c = case_new("state s f32[2,1,1]\n"
                     "graph g tokens 1 {\n"
                     "%1 = input i32[] pos\n"
                     "%2 = input f32[1,1,1]\n"
                     "%3 = state f32[2,1,1] s\n"
                     "%4 = update f32[2,1,1] %3, %2, %1\n"
                     "%5 = neg f32[2,1,1] %3\n"
                     "%6 = state f32[2,1,1] s\n"
                     "%7 = output f32[2,1,1] %4\n"
                     "%8 = output f32[2,1,1] %5\n"
                     "%9 = output f32[2,1,1] %6\n"
                     "}\n");
  SET(c, &c->in[0], 1);
  SET(c, &c->in[1], 9);
  SET(c, &c->state[0], 1, 2);
  run(c);
  EXPECT(&c->out[0], 1, 9);
  EXPECT(&c->out[1], -1, -2);
  EXPECT(&c->out[2], 1, 2);
  EXPECT(&c->state[0], 1, 9);
  end(c);
}

/* Two query heads share one key/value head; the second query sees one slot more. Scores are
 * chosen so that weights are 1/3 and 2/3 (ln 2), and 1/2 each. */
Test(eval, attention)
{
  Case *c = case_new("state k f32[4,1,2]\n"
                     "state v f32[4,1,2]\n"
                     "graph g tokens 2 {\n"
                     "%1 = input i32[] pos\n"
                     "%2 = input f32[2,2,2]\n"
                     "%3 = state f32[4,1,2] k\n"
                     "%4 = state f32[4,1,2] v\n"
                     "%5 = attention f32[2,2,2] %2, %3, %4, %1 scale=0.5\n"
                     "%6 = attention f32[2,2,2] %2, %3, %4, %1 scale=0.5 window=1\n"
                     "%7 = output f32[2,2,2] %5\n"
                     "%8 = output f32[2,2,2] %6\n"
                     "}\n");
  float ln2 = 0.69314718f;

  SET(c, &c->in[0], 1);
  SET(c, &c->in[1], 0, 2 * ln2, 0, 0, 0, 0, 2, 0);
  SET(c, &c->state[0], 0, 0, 0, 1, 0, 0, 99, 99);
  SET(c, &c->state[1], 3, 6, 6, 12, 9, 3, 99, 99);
  run(c);
  EXPECT(&c->out[0], 5, 10, 4.5f, 9, 6, 7, 6, 7);
  EXPECT(&c->out[1], 6, 12, 6, 12, 9, 3, 9, 3);
  end(c);
}

/* cap * tanh(score / cap): scores 0 and 30 with cap 1 are 0 and 1. */
Test(eval, attention_softcap)
{
  Case *c = case_new("state k f32[2,1,1]\n"
                     "state v f32[2,1,1]\n"
                     "graph g tokens 1 {\n"
                     "%1 = input i32[] pos\n"
                     "%2 = input f32[1,1,1]\n"
                     "%3 = state f32[2,1,1] k\n"
                     "%4 = state f32[2,1,1] v\n"
                     "%5 = attention f32[1,1,1] %2, %3, %4, %1 scale=1 softcap=1\n"
                     "%6 = output f32[1,1,1] %5\n"
                     "}\n");
  SET(c, &c->in[0], 1);
  SET(c, &c->in[1], 1);
  SET(c, &c->state[0], 0, 30);
  SET(c, &c->state[1], 0, 1);
  run(c);
  EXPECT(&c->out[0], 0.73105858f);
  end(c);
}

/* ---- generated graphs: the numbers are finite, and a prompt gives the same whether its tokens
 * come one by one or in tiles, bit for bit */

Test(eval, random_graphs_are_finite)
{
  for (uint64_t seed = 0; seed < 300; seed++) {
    Arena a = {0};
    Rng r = {seed};
    Module *m = gen_random(&a, &(GenOptions){.seed = seed, .n_nodes = 30});
    const Graph *g = m->graphs.data[0];
    Array *out = gen_outputs(&a, g);
    graph_eval(g, &a, gen_inputs(&a, &r, g, 0, 1), NULL, out);
    for (int64_t i = 0; i < out[0].count; i++)
      cr_assert(isfinite(out[0].data[i]), "seed %d", (int)seed);
    arena_free(&a);
  }
}

static void run_tokens(Arena *a, const Module *m, bool tiles, Array *states, Array *logits)
{
  const Graph *decode = m->graphs.data[0], *prefill = m->graphs.data[1];
  float pos = 0, ids[12];
  Array in[2] = {{ids, 1}, {&pos, 1}}, out[2];

  for (int i = 0; i < 12; i++)
    ids[i] = (float)(i * 7 % 48);
  if (tiles) {
    in[0].count = prefill->tokens;
    graph_eval(prefill, a, in, states, out);
    pos = (float)prefill->tokens;
  }
  for (in[0].count = 1; pos < 12; pos++) {
    in[0].data = ids + (int)pos;
    graph_eval(decode, a, in, states, logits);
  }
}

Test(eval, prefill_is_decode)
{
  for (uint64_t seed = 0; seed < 25; seed++) {
    Arena a = {0};
    Module *m = gen_decoder(&a, &(DecoderOptions){.seed = seed, .prefill_tokens = 9, .weights = -1});
    Rng r = {1}, again = {1};
    Array one, two;
    run_tokens(&a, m, false, gen_states(&a, &r, m), &one);
    run_tokens(&a, m, true, gen_states(&a, &again, m), &two);
    cr_assert_eq(gen_error(&one, &two), 0, "seed %d", (int)seed);
    for (int64_t i = 0; i < one.count; i++)
      cr_assert(isfinite(one.data[i]));
    arena_free(&a);
  }
}
