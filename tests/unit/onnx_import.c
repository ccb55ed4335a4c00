/* onnx_import.c - the ONNX importer: what becomes of a model (as the printed module), and what it says of models and
 * options that it cannot take. Operators themselves are tested by the backend suite (tests/e2e/onnx_suite.c). */
#include "frontend/onnx/onnx_ops.h"
#include "tests/unit/support/onnx_tools.h"

#include <criterion/criterion.h>
#include <stdio.h>

#define MODEL(graph)      "1:8 8{ 2:13 } 7{ " graph " }"
#define MODEL_17(graph)   "1:8 8{ 2:17 } 7{ " graph " }"
#define DIM(n)            "1{ 1:" #n " } "
#define FREE(name)        "1{ 2'" name "' } "
#define IN(name, t, dims) "11{ 1'" name "' 2{ 1{ 1:" #t " 2{ " dims "} } } } "
#define OUT(name)         "12{ 1'" name "' } "
#define X4                IN("x", 1, DIM(4))
#define NODE(op, in, out) "1{ 4'" op "' " in out "} "
#define I64(name, n, v)   "5{ 8'" name "' 1:" #n " 2:7 7[" v "] } "

typedef struct {
  Arena arena;
  OnnxModel *model;
  Module *module;
  Text notes;
  const char *need;
  Err err;
} Result;

/* Options as text: "s:NAME=2x3" for shapes, "f:NAME=1,2" for fixed values, divided by spaces. */
static void read_options(Arena *a, const char *text, OnnxImportOptions *o)
{
  OnnxShape *shapes = NEW_ARRAY(a, OnnxShape, 8);
  OnnxFix *fixes = NEW_ARRAY(a, OnnxFix, 8);
  char *s = arena_strdup(a, text), *word;

  o->shapes = shapes;
  o->fixes = fixes;
  while ((word = strsep(&s, " "))) {
    char *value = strchr(word, '=');
    if (!value)
      continue;
    *value++ = 0;
    if (word[0] == 'f') {
      fixes[o->n_fixes++] = (OnnxFix){.name = word + 2, .text = value};
      continue;
    }
    OnnxShape *shape = &shapes[o->n_shapes++];
    for (shape->name = word + 2; *value; value += *value == 'x')
      shape->dim[shape->rank++] = strtoll(value, &value, 10);
  }
}

static bool import(Result *r, const char *model, const char *options)
{
  Text bytes = {.arena = &r->arena};
  OnnxImportOptions o = {.notes = &r->notes, .need = &r->need};

  r->notes.arena = &r->arena;
  onnx_text(&bytes, model);
  read_options(&r->arena, options, &o);
  return onnx_parse((const uint8_t *)bytes.data, bytes.len, "m.onnx", &r->arena, &r->model, &r->err) &&
         onnx_import(r->model, &o, &r->arena, &r->module, &r->err);
}

static void done(Result *r)
{
  onnx_close(r->model);
  arena_free(&r->arena);
}

/* ---- the table */

Test(onnx_import, the_table_is_sorted)
{
  for (uint32_t i = 1; i < onnx_op_count; i++) {
    const OnnxOp *a = &onnx_ops[i - 1], *b = &onnx_ops[i];
    int c = strcmp(a->name, b->name);
    cr_assert(c < 0 || (c == 0 && (a->domain < b->domain || (a->domain == b->domain && a->since < b->since))),
              "%s stands before %s", a->name, b->name);
    cr_assert(b->since >= 1 && b->doc[0]);
  }
}

Test(onnx_import, a_node_takes_the_latest_row_of_its_opset)
{
  int later;

  cr_assert_null(onnx_op_find("", "Scan", 7, &later));
  cr_assert_eq(later, 8);
  cr_assert_eq(onnx_op_find("", "Scan", 8, &later)->since, 8);
  cr_assert_eq(onnx_op_find("", "Scan", 23, &later)->since, 9);
  cr_assert_null(onnx_op_find("nobody", "Scan", 23, &later));
  cr_assert_null(onnx_op_find("", "zzz", 23, &later));
}

/* ---- what comes out. `want`: lines that the printed module must hold, in order */

typedef struct {
  const char *model, *options, *want;
} Good;

/* body(iteration, condition, v) -> (condition, v + v, v) */
#define LOOP_BODY                                                                                            \
  "5{ 1'body' 20:5 6{ 2'b' 1{ 4'Identity' 1'c' 2'c2' } 1{ 4'Add' 1'v' 1'v' 2'v2' } 1{ 4'Identity' 1'v' "     \
  "2's' "                                                                                                    \
  "} 11{ 1'i' } 11{ 1'c' } 11{ 1'v' } 12{ 1'c2' } 12{ 1'v2' } 12{ 1's' } } } "
/* body(iteration, condition, v) -> (condition < 8 of v, v + v) */
#define WHILE_BODY                                                                                           \
  "5{ 1'body' 20:5 6{ 2'b' 1{ 4'Add' 1'v' 1'v' 2'v2' } 1{ 4'Less' 1'v2' 1'eight' 2'c2' } 11{ 1'i' } 11{ "    \
  "1'c' } "                                                                                                  \
  "11{ 1'v' } 12{ 1'c2' } 12{ 1'v2' } } } "
/* body(iteration, condition, list) -> (condition, list and x) */
#define LIST_BODY                                                                                            \
  "5{ 1'body' 20:5 6{ 2'b' 1{ 4'Identity' 1'c' 2'c2' } 1{ 4'SequenceInsert' 1'l' 1'x' 2'l2' } 11{ 1'i' } "   \
  "11{ 1'c' } 11{ 1'l' } 12{ 1'c2' } 12{ 1'l2' } } } "
#define BRANCH(name, op) "5{ 1'" name "' 20:5 6{ 2'g' 1{ 4'" op "' 1'x' 2'r' } 12{ 1'r' } } } "
#define EIGHT            "5{ 8'eight' 2:1 4(8) } "

static const Good good[] = {
    {MODEL(NODE("Relu", "1'x'", "2'y'") X4 OUT("y")), "",
     "%1 = input f32[4] x\n%2 = relu f32[4] %1\n%3 = output f32[4] %2 y"},
    /* a chain of shapes vanishes, and its constants with it */
    {MODEL(NODE("Shape", "1'x'", "2's'") NODE("Gather", "1's' 1'i'", "2'd'") NODE(
         "Unsqueeze", "1'd' 1'zero'", "2'u'") NODE("Concat", "1'u' 1'm'", "2'c' 5{ 1'axis' 3:0 20:2 }")
               NODE("Reshape", "1'x' 1'c'", "2'y'") IN("x", 1, DIM(2) DIM(3) DIM(4))
                   OUT("y") "5{ 8'i' 2:7 7[1] } " I64("zero", 1, "0") I64("m", 1, "-1")),
     "",
     "graph run dense {\n  %1 = input f32[2,3,4] x\n  %2 = reshape f32[3,8] %1\n  %3 = output f32[3,8] %2 y"},
    /* an initialiser that is an input too is a constant */
    {MODEL(NODE("Add", "1'x' 1'w'", "2'y'") X4 IN("w", 1, DIM(4)) OUT("y") "5{ 8'w' 1:4 2:1 4(1 2 3 4) } "),
     "", "weight w f32[4]\n%2 = weight f32[4] w\n= add f32[4] %1, %2"},
    /* unless --fix gives another value */
    {MODEL(NODE("Add", "1'x' 1'w'", "2'y'") X4 IN("w", 1, DIM(4)) OUT("y") "5{ 8'w' 1:4 2:1 4(1 2 3 4) } "),
     "f:w=2", "= const f32[4] 2"},
    /* equal elements become a constant, and what is not used goes */
    {MODEL(NODE("Add", "1'w' 1'w'", "2'v'") NODE("Mul", "1'x' 1'v'", "2'y'")
               X4 OUT("y") "5{ 8'w' 1:1 2:1 4(1.5) } "
                           "5{ 8'unused' 1:2 2:1 4(1 2) } "),
     "", "graph run dense {\n  %1 = input f32[4] x\n  %2 = const f32[1] 3"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") IN("x", 1, FREE("N") DIM(4)) OUT("y")), "", "input f32[1,4] x"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") IN("x", 1, FREE("N") FREE("T")) OUT("y")), "s:T=5 s:N=2",
     "input f32[2,5] x"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") IN("x", 1, FREE("N") FREE("T")) OUT("y")), "s:x=3x7",
     "input f32[3,7] x"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") IN("x", 1, FREE("N") DIM(2)) IN("z", 1, FREE("N")) OUT("y")), "s:z=6",
     "input f32[6,2] x\ninput f32[6] z"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") "11{ 1'x' 2{ 1{ 1:1 } } } " OUT("y")), "s:x=3x7", "input f32[3,7] x"},
    {MODEL(NODE("Add", "1'x' 1'k'", "2'y'") IN("x", 7, DIM(2)) IN("k", 7, DIM(2)) OUT("y")), "f:k=-3,4",
     "i64[2] = -3 4\nadd i64[2]"},
    {MODEL(NODE("Add", "1'x' 1'k'", "2'y'") X4 IN("k", 1, FREE("T")) OUT("y")), "f:k=0.5,1,2,3",
     "f32[4] = 0.5 1 2 3"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") IN("x", 1, DIM(3) FREE("N")) IN("z", 1, FREE("N")) OUT("y")), "",
     "input f32[3,1] x\ninput f32[1] z"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") IN("x", 1, DIM(2) "1{ } " DIM(128)) OUT("y")), "",
     "input f32[2,1,128] x"},
    /* outputs that are inputs or constants */
    {MODEL(NODE("Identity", "1'x'", "2'y'") X4 OUT("x") OUT("y")), "",
     "output f32[4] %1 x\noutput f32[4] %1 y"},
    /* If */
    {MODEL("1{ 4'If' 1'c' 2'y' " BRANCH("then_branch", "Relu")
               BRANCH("else_branch", "Neg") "} " X4 IN("c", 9, "") OUT("y")),
     "f:c=true", "relu f32[4] %1\noutput"},
    {MODEL("1{ 4'If' 1'c' 2'y' " BRANCH("then_branch", "Relu")
               BRANCH("else_branch", "Neg") "} " X4 IN("c", 9, "") OUT("y")),
     "", "relu f32[4] %1\nneg f32[4] %1\nwhere f32[4] %2, %3, %4"},
    /* a branch that is not taken may hold what is not supported */
    {MODEL("1{ 4'If' 1'c' 2'y' " BRANCH("then_branch", "Relu")
               BRANCH("else_branch", "Nothing") "} " X4 IN("c", 9, "") OUT("y")),
     "f:c=true", "relu f32[4] %1\noutput"},
    /* Loop: a trip count with a result of each round; a condition that folds; one of run time */
    {MODEL("1{ 4'Loop' 1'n' 1'' 1'x' 2'y' 2's' " LOOP_BODY "} " X4 OUT("y") OUT("s") "5{ 8'n' 2:7 7[2] } "),
     "", "add f32[4] %1, %1\nadd f32[4] %2, %2\nconcat f32[2,4]"},
    {MODEL("1{ 4'Loop' 1'' 1'' 1'one' 2'v' " WHILE_BODY "} " NODE("Mul", "1'x' 1'v'", "2'y'") X4 OUT("y")
               EIGHT "5{ 8'one' 2:1 4(1) } "),
     "", "const f32[] 8\nmul f32[4] %1, %2"},
    {MODEL("1{ 4'Loop' 1'n' 1'' 1'x' 2'y' " WHILE_BODY "} " IN("x", 1, "") OUT("y") EIGHT
           "5{ 8'n' 2:7 7[2] } "),
     "", "lt bool[]\nadd f32[]\nwhere f32[]"},
    /* a function with an attribute, called twice, once with its default */
    {MODEL("1{ 4'F' 7'mine' 1'x' 2'a' 5{ 1'alpha' 2f0.5 20:1 } } 1{ 4'F' 7'mine' 1'a' 2'y' } " X4 OUT(
         "y")) "8{ 1'mine' 2:1 } 25{ 1'F' 10'mine' 4'a' 5'b' 11{ 1'alpha' 2f2 20:1 } 9{ 2:13 } 7{ "
               "4'ThresholdedRelu' 1'a' 2'b' "
               "5{ 1'alpha' 21'alpha' 20:1 } } }",
     "", "const f32[] 0.5\nconst f32[] 2"},
    /* a function stands before the operator of the same name */
    {MODEL(NODE("Relu", "1'x'", "2'y'")
               X4 OUT("y")) "25{ 1'Relu' 4'a' 5'b' 9{ 2:13 } 7{ 4'Neg' 1'a' 2'b' } }",
     "", "neg f32[4] %1"},
    /* wide weights stay narrow: the cast is not folded */
    {MODEL(NODE("Cast", "1'w'", "2'v' 5{ 1'to' 3:1 20:2 }") NODE("Add", "1'x' 1'v'", "2'y'") IN("x", 1, "")
               OUT("y") "5{ 8'w' 1:300 2:3 9*300 } "),
     "", "weight w i8[300]\ncast f32[300] %2"},
    {MODEL(NODE("Cast", "1'w'", "2'v' 5{ 1'to' 3:1 20:2 }") NODE("Add", "1'x' 1'v'", "2'y'") IN("x", 1, "")
               OUT("y") "5{ 8'w' 1:3 2:3 5[1 2 3] } "),
     "", "f32[3] = 1 2 3"},
    /* sequences do not last: [x0 x1], without its first, with x at the front -> x, x1 */
    {MODEL(NODE("SplitToSequence", "1'x' 1'two'", "2's'") NODE("SequenceErase", "1's' 1'zero'", "2't'")
               NODE("SequenceInsert", "1't' 1'x' 1'back'", "2'u'") NODE("SequenceLength", "1'u'", "2'n'")
                   NODE("Sub", "1'n' 1'two'", "2'i'") NODE("SequenceAt", "1'u' 1'i'", "2'v'")
                       NODE("ConcatFromSequence", "1'u'", "2'y' 5{ 1'axis' 3:0 20:2 }") X4 OUT("v") OUT("y")
                           I64("zero", 1, "0") I64("back", 1, "-1") "5{ 8'two' 2:7 7[2] } "),
     "",
     "%2 = slice f32[2] %1 axis=0 start=2 count=2\n%3 = concat f32[6] %1, %2 axis=0\n%4 = output f32[4] %1 "
     "v\n%5 = output f32[6] %3 y"},
    /* a loop makes one */
    {MODEL(NODE("SequenceEmpty", "", "2'e'") "1{ 4'Loop' 1'n' 1'' 1'e' 2's' " LIST_BODY "} " NODE(
         "ConcatFromSequence", "1's'", "2'y' 5{ 1'axis' 3:0 20:2 } 5{ 1'new_axis' 3:1 20:2 }")
               X4 OUT("y") "5{ 8'n' 2:7 7[3] } "),
     "", "concat f32[3,4] %2, %3, %4 axis=0"},
    {MODEL_17(NODE("Optional", "1'x'", "2'o'") NODE("OptionalHasElement", "1'o'", "2'h'")
                  NODE("OptionalGetElement", "1'o'", "2'v'") NODE("OptionalHasElement", "1''", "2'm'")
                      X4 OUT("v") OUT("h") OUT("m")),
     "", "const bool[] 1\noutput f32[4] %1 v"},
};

static const char *after_line(const char *text, const char *line, size_t n)
{
  for (const char *p = text; *p; p++)
    if (!strncmp(p, line, n))
      return p + n;
  return NULL;
}

Test(onnx_import, models_become_graphs)
{
  for (size_t i = 0; i < COUNT(good); i++) {
    Result r = {0};
    cr_assert(import(&r, good[i].model, good[i].options), "case %zu: %s", i, r.err.text);
    Text out = {.arena = &r.arena};
    module_print(r.module, &out);
    const char *at = out.data;
    for (const char *want = good[i].want; at && *want; want += *want == '\n') {
      size_t n = strcspn(want, "\n");
      at = after_line(at, want, n);
      cr_assert(at, "case %zu: '%.*s' is not in\n%s", i, (int)n, want, out.data);
      want += n;
    }
    done(&r);
  }
}

static const char seeds_dir[] = MICC_SOURCE_DIR "/tests/fuzz/onnx_import"; /* MICC_UPDATE=1 rewrites them */

Test(onnx_import, seeds_of_the_fuzzer)
{
  for (size_t i = 0; i < COUNT(good); i++) {
    Arena a = {0};
    Text bytes = {.arena = &a};
    onnx_text(&bytes, good[i].model);
    const char *path = arena_printf(&a, "%s/%02zu", seeds_dir, i);
    char *found = arena_alloc(&a, bytes.len + 2);
    FILE *f = fopen(path, getenv("MICC_UPDATE") ? "wb+" : "rb");
    cr_assert(f, "%s", path);
    if (getenv("MICC_UPDATE"))
      fwrite(bytes.data, 1, bytes.len, f);
    rewind(f);
    cr_assert_eq(fread(found, 1, bytes.len + 1, f), bytes.len, "%s: run with MICC_UPDATE=1", path);
    cr_assert_eq(memcmp(found, bytes.data, bytes.len), 0, "%s: run with MICC_UPDATE=1", path);
    fclose(f);
    arena_free(&a);
  }
}

Test(onnx_import, a_batch_of_one_is_noted)
{
  Result r = {0};

  cr_assert(import(&r, MODEL(NODE("Relu", "1'x'", "2'y'") IN("x", 1, FREE("N") DIM(4)) OUT("y")), ""));
  cr_assert_str_eq(r.notes.data,
                   "input 'x': the free dimension N is taken as 1 (another: --shape N=NUMBER)\n");
  done(&r);
}

Test(onnx_import, an_input_that_decides_a_shape_is_named)
{
  Result r = {0};

  cr_assert(!import(&r, MODEL(NODE("Reshape", "1'x' 1's'", "2'y'") X4 IN("s", 7, DIM(2)) OUT("y")), ""));
  cr_assert_str_eq(r.need, "s");
  done(&r);
  r = (Result){0};
  cr_assert(
      import(&r, MODEL(NODE("Reshape", "1'x' 1's'", "2'y'") X4 IN("s", 7, DIM(2)) OUT("y")), "f:s=2,-1"));
  cr_assert_null(r.need);
  done(&r);
}

/* ---- what is said */

static const Good bad[] = {
    {MODEL(NODE("Foo", "1'x'", "2'y'") NODE("Bar", "1'y'", "2'z'") NODE("Foo", "1'z'", "2'w'") X4 OUT("w")),
     "",
     "m.onnx: 2 operators are not supported: Foo (ai.onnx opset 13, 2 nodes, first 'y'): export with another "
     "opset, or with a "
     "decomposition into simpler operators; Bar (ai.onnx opset 13, 1 node, first 'z')"},
    {MODEL(NODE("Swish", "1'x'", "2'y'") X4 OUT("y")), "", "export with opset 24 or later"},
    {MODEL(NODE("StringConcat", "1'x' 1'x'", "2'y'") X4 OUT("y")), "", "process texts outside of the model"},
    {MODEL(NODE("SequenceEmpty", "", "2'y'") X4 OUT("y")), "", "output 'y' is a sequence of tensors"},
    {MODEL(NODE("SequenceEmpty", "", "2's'") NODE("Relu", "1's'", "2'y'") X4 OUT("y")), "",
     "node 'y' (Relu): input 's' is a sequence of tensors"},
    {MODEL(NODE("SequenceLength", "1'x'", "2'y'") X4 OUT("y")), "", "input 0 is no sequence"},
    {MODEL(NODE("SequenceEmpty", "", "2's'") NODE("SequenceErase", "1's'", "2't'")
               NODE("SequenceLength", "1't'", "2'y'") X4 OUT("y")),
     "", "position -1 in a sequence of 0"},
    {MODEL(NODE("SequenceConstruct", "1'x'", "2's'") NODE("SequenceAt", "1's' 1'one'", "2'y'") X4 OUT("y")
               I64("one", 1, "1")),
     "", "position 1 in a sequence of 1"},
    {MODEL(NODE("SplitToSequence", "1'x' 1'z'", "2's'") NODE("SequenceLength", "1's'", "2'y'") X4 OUT("y")
               I64("z", 2, "3 9223372036854775807")),
     "", "part 1 has 9223372036854775807 elements"},
    {MODEL(NODE("SplitToSequence", "1'x' 1'z'", "2's'") NODE("SequenceLength", "1's'", "2'y'")
               X4 OUT("y") "5{ 8'z' 2:7 7[0] } "),
     "", "4 elements in parts of 0"},
    {MODEL("1{ 4'Loop' 1'n' 1'' 1'e' 2's' " LIST_BODY "} " NODE("SequenceEmpty", "", "2'q'")
               X4 OUT("s") "5{ 8'n' 2:7 7[3] } "),
     "", "input 'e' is not defined"},
    {MODEL(NODE("SequenceEmpty", "", "2'e'") "1{ 4'If' 1'c' 2'y' " BRANCH("then_branch", "Relu")
               BRANCH("else_branch", "SequenceConstruct") "} " X4 IN("c", 9, "") OUT("y")),
     "", "comes from input 'c'"},
    {MODEL_17(NODE("OptionalGetElement", "1''", "2'y'") X4 OUT("y")), "", "there is no value"},
    {MODEL("1{ 4'Scale' 7'org.who' 1'x' 2'y' } " X4 OUT("y")), "", "Scale (org.who opset 1"},
    {MODEL("1{ 4'If' 1'c' 2'y' " BRANCH("then_branch", "Relu")
               BRANCH("else_branch", "Nothing") "} " X4 IN("c", 9, "") OUT("y")),
     "f:c=0", "1 operator is not supported: Nothing"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") IN("x", 1, DIM(1) FREE("H") FREE("W")) IN("z", 1, DIM(2) "1{ } ")
               OUT("y")),
     "", "free dimensions need numbers: give --shape x=1xHxW, --shape z=2x?"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") "11{ 1'x' 2{ 1{ 1:1 } } } " OUT("y")), "", "input 'x' has no shape"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") "11{ 1'x' 2{ 4{ 1{ 1{ 1:1 } } } } } " OUT("y")), "",
     "input 'x' is no tensor"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") IN("x", 8, DIM(4)) OUT("y")), "", "elements of type string"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") X4 OUT("y")), "s:x=5", "--shape x: the model has 4"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") X4 OUT("y")), "s:q=5",
     "--shape q: the model has no such input or dimension"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") X4 OUT("y")), "f:q=5", "--fix q: the model has no such input"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") X4 OUT("y")), "f:x=1,2", "--fix x: 2 values, the input is 4"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") X4 OUT("y")), "f:x=1,2,q,4", "number 3 is no f32"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") IN("x", 3, DIM(2)) OUT("y")), "f:x=1,300", "number 2 is no i8"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") IN("x", 1, FREE("N") FREE("N")) OUT("y")), "s:x=2x3",
     "cannot be both 2 and 3"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") IN("x", 1, "1{ 1:-7 } 1{ 1:99999999999 } 1{ 1:99999999999 } ")
               OUT("y")),
     "", "m.onnx: "},
    {MODEL(NODE("Relu", "1'q'", "2'y'") X4 OUT("y")), "",
     "node 'y' (Relu): input 'q' is not defined before it"},
    {MODEL(NODE("Relu", "", "2'y'") X4 OUT("y")), "", "input 0 is missing"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") X4 OUT("z")), "", "no node gives output 'z'"},
    {MODEL(NODE("Relu", "1'x'", "2'y'") X4), "", "the model has no outputs"},
    {MODEL(NODE("Add", "1'x' 1'w'", "2'y'") X4 OUT("y") "5{ 8'w' 1:3 2:1 4(1 2 3) } "), "",
     "do not broadcast"},
    {MODEL(NODE("Add", "1'x' 1'w'", "2'y'") X4 OUT("y") I64("w", 4, "1 2 3 4")), "", "node 'y' (Add)"},
    {MODEL(NODE("Softmax", "1'x'", "2'y' 5{ 1'axis' 3:1 20:2 }") X4 OUT("y")), "", "axis 1 of 1 dimensions"},
    {MODEL(NODE("Softmax", "1'x'", "2'y' 5{ 1'axis' 2f1 20:1 }") X4 OUT("y")), "",
     "attribute 'axis' must be an integer"},
    {MODEL(NODE("Cast", "1'x'", "2'y' 5{ 1'to' 3:8 20:2 }") X4 OUT("y")), "",
     "element type 8 (string) is not supported"},
    {MODEL(NODE("Cast", "1'x'", "2'y' 5{ 1'to' 3:4294967297 20:2 }") X4 OUT("y")), "", "is not supported"},
    {MODEL(NODE("Reshape", "1'x' 1's'", "2'y'") X4 OUT("y") I64("s", 2, "3 -1")), "", "for 4 elements"},
    {MODEL(NODE("Reshape", "1'x' 1's'", "2'y'") X4 OUT("y") I64("s", 9, "1 1 1 1 1 1 1 1 4")), "",
     "at most 8"},
    {MODEL(NODE("Reshape", "1'x' 1's'", "2'y'") X4 IN("s", 7, DIM(2)) OUT("y")), "",
     "'shape' must be known at compile time, but comes from input 's': give it with --fix s=VALUE"},
    {MODEL(NODE("Squeeze", "1'x' 1's'", "2'y'") X4 OUT("y") I64("s", 1, "0")), "",
     "dimension 0 is 4 and cannot be dropped"},
    {MODEL(NODE("Unsqueeze", "1'x' 1's'", "2'y'") X4 OUT("y") I64("s", 2, "1 1")), "", "axis 1 stands twice"},
    {MODEL(NODE("Split", "1'x' 1's'", "2'y' 2'z'") X4 OUT("y") I64("s", 2, "3 -1")), "", "(Split)"},
    {MODEL(NODE("Split", "1'x' 1's'", "2'y' 2'z'") X4 OUT("y") I64("s", 2, "3 9223372036854775807")), "",
     "(Split)"},
    {MODEL(NODE("Transpose", "1'x'", "2'y' 5{ 1'perm' 8[0 0] 20:7 }") IN("x", 1, DIM(2) DIM(2)) OUT("y")), "",
     "perm is no permutation"},
    {MODEL(NODE("Slice", "1'x' 1's' 1's' 1's' 1'z'", "2'y'") X4 OUT("y") I64("s", 1, "0") I64("z", 1, "0")),
     "", "step is 0"},
    {MODEL(NODE("Pad", "1'x' 1'p'", "2'y'") X4 OUT("y") I64("p", 2, "-3 -2")), "", "(Pad)"},
    {MODEL(NODE("Pad", "1'x' 1'p'", "2'y'") X4 OUT("y") I64("p", 2, "9223372036854775807 1")), "", "(Pad)"},
    {MODEL(NODE("Pad", "1'x' 1'p'", "2'y' 5{ 1'mode' 4'odd' 20:3 }") X4 OUT("y") I64("p", 2, "1 1")), "",
     "mode 'odd'"},
    {MODEL(NODE("Expand", "1'x' 1's'", "2'y'") X4 OUT("y") I64("s", 2, "9223372036854775807 4")), "",
     "(Expand)"},
    {MODEL(NODE("Tile", "1'x' 1's'", "2'y'") X4 OUT("y") I64("s", 1, "9223372036854775807")), "", "(Tile)"},
    {MODEL(NODE("ConstantOfShape", "1's'", "2'y'") X4 OUT("y") I64("s", 2, "99999999999 99999999999")), "",
     "(ConstantOfShape)"},
    {MODEL(NODE("Range", "1'a' 1'b' 1'c'", "2'y'")
               X4 OUT("y") "5{ 8'a' 2:7 7[-9223372036854775807] } "
                           "5{ 8'b' 2:7 7[9223372036854775807] } 5{ 8'c' 2:7 7[1] } "),
     "", "the range is too long"},
    {MODEL(NODE("Gather", "1'x' 1'i'", "2'y'") X4 IN("i", 1, DIM(2)) OUT("y")), "",
     "indices must be integers"},
    {MODEL(NODE("TopK", "1'x' 1'k'", "2'y' 2'z'") X4 OUT("y") I64("k", 1, "5")), "", "k is 5 of 4 elements"},
    {MODEL("1{ 4'Loop' 1'n' 1'' 1'x' 2'y' 2's' " LOOP_BODY "} " X4 OUT("y") "5{ 8'n' 2:7 7[100000000] } "),
     "", "more than 100000 rounds"},
    {MODEL("1{ 4'Loop' 1'' 1'' 1'x' 2'y' " WHILE_BODY "} " IN("x", 1, "") OUT("y") EIGHT), "",
     "comes from input 'x'"},
    {MODEL("1{ 4'F' 7'mine' 1'x' 2'y' } " X4 OUT(
         "y")) "8{ 1'mine' 2:1 } 25{ 1'F' 10'mine' 4'a' 5'b' 9{ 2:13 } 9{ 1'mine' "
               "2:1 } 7{ 4'F' 7'mine' 1'a' 2'b' } }",
     "", "more than 64 graphs and functions in each other"},
    /* attributes that refer to nothing */
    {MODEL("1{ 4'If' 1'c' 2'y' 5{ 1'then_branch' 21'q' 20:5 } } " X4 IN("c", 9, "") OUT("y")), "f:c=1",
     "attribute 'then_branch' is missing"},
    {MODEL("1{ 4'F' 7'mine' 1'x' 2'y' } " X4 OUT(
         "y")) "25{ 1'F' 10'mine' 4'a' 5'b' 11{ 1'v' 21'w' 20:4 } 9{ 2:13 } 7{ "
               "4'Constant' 2'b' 5{ 1'value' 21'v' 20:4 } } }",
     "", "(Constant): its value is no tensor and no number"},
};

Test(onnx_import, errors_say_what_and_where)
{
  for (size_t i = 0; i < COUNT(bad); i++) {
    Result r = {0};
    cr_assert(!import(&r, bad[i].model, bad[i].options), "case %zu was taken, want: %s", i, bad[i].want);
    cr_assert(strstr(r.err.text, bad[i].want), "case %zu: '%s', want '%s'", i, r.err.text, bad[i].want);
    cr_assert(onnx_error_is_line(&r.err, "m.onnx"), "case %zu: %s", i, r.err.text);
    done(&r);
  }
}

/* ---- without memory */

Test(onnx_import, every_allocation_may_fail)
{
  const char *model = good[1].model;

  static bool ok; /* what longjmp must leave alone */
  static long n;

  for (n = 1;; n++) {
    Result r = {0};
    MemTrap trap;
    ok = false;
    mem_fail_at(n);
    if (mem_try(&trap)) {
      ok = import(&r, model, "");
      mem_done(&trap);
    }
    mem_fail_at(0);
    done(&r);
    if (ok)
      break;
    cr_assert_lt(n, 2000);
  }
}
