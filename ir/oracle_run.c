/* oracle_run.c - see oracle_run.h. The graphs' contract is the one of frontend/arch/arch.h: inputs
 * `tokens` and `pos`, output `logits` of decode. */
#include "ir/oracle_run.h"

static const Graph *find_graph(const Module *m, const char *name)
{
  for (uint32_t i = 0; i < m->graphs.len; i++)
    if (!strcmp(m->graphs.data[i]->name, name))
      return m->graphs.data[i];
  return NULL;
}

static const Node *find_node(const Graph *g, Op op, const char *name)
{
  for (Val v = 1; v < g->nodes.len; v++) {
    const Node *n = graph_node(g, v);
    if (n->op == op && n->attr.name && !strcmp(n->attr.name, name))
      return n;
  }
  return NULL;
}

static uint32_t count_nodes(const Graph *g, Op op)
{
  uint32_t n = 0;

  for (Val v = 1; v < g->nodes.len; v++)
    n += graph_node(g, v)->op == op;
  return n;
}

static bool check_inputs(const Graph *g, Err *e)
{
  const Node *tokens = find_node(g, OP_input, "tokens"), *pos = find_node(g, OP_input, "pos");

  return (tokens && pos && tokens < pos && count_nodes(g, OP_input) == 2 &&
          type_count(&tokens->type) == g->tokens && type_count(&pos->type) == 1) ||
         fail(e, "graph %s: its inputs must be tokens i32[%lld] and pos i32[]", g->name,
              (long long)g->tokens);
}

static bool has_data(const Module *m, Err *e)
{
  for (uint32_t i = 0; i < m->weights.len; i++)
    if (!m->weights.data[i].data)
      return fail(e, "weight '%s' has no data", m->weights.data[i].name);
  return true;
}

bool oracle_open(OracleRun *o, const Module *m, Err *e)
{
  *o = (OracleRun){.decode = find_graph(m, "decode"), .prefill = find_graph(m, "prefill")};
  const Node *logits = o->decode ? find_node(o->decode, OP_output, "logits") : NULL;

  if (!logits)
    return fail(e, "the module has no graph 'decode' with an output 'logits'");
  if (count_nodes(o->decode, OP_output) != 1)
    return fail(e, "graph decode: 'logits' must be its only output");
  if (!check_inputs(o->decode, e) || (o->prefill && !check_inputs(o->prefill, e)) || !has_data(m, e))
    return false;
  o->n_vocab = type_last(&logits->type);
  o->capacity = module_context(m);
  o->states = NEW_ARRAY(&o->arena, Array, m->states.len);
  for (uint32_t i = 0; i < m->states.len; i++) {
    int64_t n = type_count(&m->states.data[i].type);
    o->states[i] = (Array){NEW_ARRAY(&o->arena, float, (size_t)n), n};
  }
  return true;
}

void oracle_close(OracleRun *o)
{
  arena_free(&o->arena);
}

static bool check_tokens(const OracleRun *o, const int32_t *tokens, int64_t n, Err *e)
{
  if (n > o->capacity - o->pos)
    return fail(e, "the context is full: %lld tokens, %lld fit", (long long)(o->pos + n),
                (long long)o->capacity);
  for (int64_t i = 0; i < n; i++)
    if (tokens[i] < 0 || tokens[i] >= o->n_vocab)
      return fail(e, "token %d is not one of %lld", (int)tokens[i], (long long)o->n_vocab);
  return true;
}

/* Runs a graph on g->tokens tokens; the first output goes to `out` if it is wanted. */
static void run(OracleRun *o, const Graph *g, const int32_t *tokens, float *out)
{
  Arena a = {0};
  float pos = (float)o->pos, *ids = NEW_ARRAY(&a, float, (size_t)g->tokens);
  Array inputs[2] = {{ids, g->tokens}, {&pos, 1}};
  Array *outputs = NEW_ARRAY(&a, Array, count_nodes(g, OP_output));

  for (int64_t i = 0; i < g->tokens; i++)
    ids[i] = (float)tokens[i];
  graph_eval(g, &a, inputs, o->states, outputs);
  if (out)
    memcpy(out, outputs[0].data, (size_t)outputs[0].count * sizeof *out);
  o->pos += g->tokens;
  arena_free(&a);
}

bool oracle_decode(OracleRun *o, int32_t token, float *logits, Err *e)
{
  if (!check_tokens(o, &token, 1, e))
    return false;
  run(o, o->decode, &token, logits);
  return true;
}

bool oracle_prefill(OracleRun *o, const int32_t *tokens, Err *e)
{
  if (!o->prefill)
    return fail(e, "the module has no graph 'prefill'");
  if (!check_tokens(o, tokens, o->prefill->tokens, e))
    return false;
  run(o, o->prefill, tokens, NULL);
  return true;
}

int32_t oracle_best(const float *logits, int64_t n)
{
  int64_t best = 0;

  for (int64_t i = 1; i < n; i++)
    if (logits[i] > logits[best])
      best = i;
  return (int32_t)best;
}

bool oracle_generate(OracleRun *o, const OracleTask *task, int32_t *tokens, float *rows, int64_t *n_rows,
                     Err *e)
{
  Arena a = {0};
  float *row = NEW_ARRAY(&a, float, (size_t)o->n_vocab);
  int64_t i = 0, made = 0;
  bool ok = task->n_prompt > 0 || fail(e, "the prompt is empty");

  *n_rows = 0;
  while (ok && task->tiles && o->prefill && task->n_prompt - i > o->prefill->tokens) {
    ok = oracle_prefill(o, task->prompt + i, e);
    i += o->prefill->tokens;
  }
  while (ok && (i < task->n_prompt || made < task->n_new)) {
    if (i >= task->n_prompt)
      tokens[made++] = oracle_best(row, o->n_vocab);
    if (i >= task->n_prompt && made == task->n_new)
      break;
    ok = oracle_decode(o, i < task->n_prompt ? task->prompt[i] : tokens[made - 1], row, e);
    i++;
    if (ok && rows)
      memcpy(rows + (*n_rows)++ * o->n_vocab, row, (size_t)o->n_vocab * sizeof *row);
  }
  arena_free(&a);
  return ok;
}
