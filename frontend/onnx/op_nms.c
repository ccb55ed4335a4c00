/* op_nms.c - ONNX NonMaxSuppression, as many steps as boxes may be selected, all batches and classes at once.
 *
 * How many boxes it selects is only known when it runs, but sizes are numbers of the compiler: the result has the most
 * rows that there can be, and those behind the last selected one are -1. Of constant boxes it has the exact rows.
 *
 * Source: ONNX NonMaxSuppression-11. */
#include "frontend/onnx/onnx_ops.h"
#include "frontend/onnx/op_formula.h"

#include <math.h>

enum { STEPS_MAX = 1024 };

typedef struct {
  Val side[4]; /* low y, low x, high y, high x: each [batch, 1, boxes] */
  Val area;
} Boxes;

typedef struct {
  Import *im;
  Boxes boxes;
  Val scores; /* [batch, classes, boxes]; -inf: selected, suppressed or too low */
  Val number; /* 0 .. boxes - 1 */
  Val offset; /* [batch, 1, 1]: of a batch's first box among all */
  Val iou;    /* the threshold */
} Nms;

static Val column(Import *im, Val boxes, uint32_t i)
{
  return im_swap(im, im_part(im, boxes, 2, i, 1), 1, 2);
}

/* Two corners in any order, or the centre (x, y), width and height. */
static Boxes read_boxes(Import *im, Val boxes, bool centre)
{
  Boxes b;

  for (uint32_t i = 0; i < 2; i++) {
    Val from = column(im, boxes, centre ? 1 - i : i), to = column(im, boxes, centre ? 3 - i : i + 2);
    if (centre) {
      Val half = im_op_f(im, OP_mul, to, 0.5);
      to = im_add2(im, OP_add, from, half);
      from = sub(im, from, half);
    }
    b.side[i] = im_add2(im, OP_min, from, to);
    b.side[i + 2] = im_add2(im, OP_max, from, to);
  }
  b.area = mul(im, sub(im, b.side[2], b.side[0]), sub(im, b.side[3], b.side[1]));
  return b;
}

/* Those of the selected box of each class: [batch, classes, 1]. */
static Boxes pick_boxes(const Nms *n, Val at)
{
  Val row = im_add2(n->im, OP_add, at, n->offset);
  Boxes b;

  for (uint32_t i = 0; i < 4; i++)
    b.side[i] = im_gather(n->im, im_flat(n->im, n->boxes.side[i]), row, 0);
  b.area = im_gather(n->im, im_flat(n->im, n->boxes.area), row, 0);
  return b;
}

static Val positive(Import *im, Val x)
{
  return im_gt(im, x, im_const_like(im, x, 0));
}

/* Length of what both have along an axis. */
static Val overlap(Import *im, const Boxes *a, const Boxes *b, uint32_t axis)
{
  Val low = im_add2(im, OP_max, a->side[axis], b->side[axis]);
  Val high = im_add2(im, OP_min, a->side[axis + 2], b->side[axis + 2]);
  return im_op_f(im, OP_max, sub(im, high, low), 0);
}

/* bool [batch, classes, boxes]: overlaps the picked one by more than the threshold. */
static Val suppressed(const Nms *n, const Boxes *picked)
{
  Import *im = n->im;
  Val common = mul(im, overlap(im, &n->boxes, picked, 0), overlap(im, &n->boxes, picked, 1));
  Val all = sub(im, im_add2(im, OP_add, n->boxes.area, picked->area), common);
  Val real = im_add2(im, OP_and, positive(im, n->boxes.area), positive(im, picked->area));
  Val part = im_add2(im, OP_div, common, im_where(im, positive(im, all), all, im_const_like(im, all, 1)));
  return im_add2(im, OP_and, real, im_gt(im, part, n->iou));
}

/* The best box that is left, [batch, classes, 1], or -1. */
static Val select_one(Nms *n)
{
  Import *im = n->im;
  Val none = im_const_like(im, n->scores, -(double)INFINITY);
  Val at = im_arg(im, OP_argmax, n->scores, 2, false, true);
  Val any = im_gt(im, im_reduce(im, OP_reduce_max, n->scores, 4, true), none);
  Boxes picked = pick_boxes(n, at);
  Val gone = im_add2(im, OP_or, suppressed(n, &picked), im_add2(im, OP_eq, n->number, at));

  n->scores = im_where(im, gone, none, n->scores);
  return im_where(im, any, at, im_const_like(im, at, -1));
}

/* [rows, 3] of batch, class, box; what was not selected stands behind, as -1. */
static Val rows_of(Import *im, Val selected)
{
  Type t = im_type(im, selected);
  Val batch = im_at_channel(im, im_iota(im, DT_I64, t.dim[0]), 0, 3);
  Val class = im_at_channel(im, im_iota(im, DT_I64, t.dim[1]), 1, 3);
  Val none = im_const_like(im, selected, -1), any = im_ge(im, selected, im_const_like(im, selected, 0));
  Val of[3] = {im_where(im, any, batch, none), im_where(im, any, class, none), selected};
  int64_t rows = type_count(&t);

  for (uint32_t i = 0; i < 3; i++)
    of[i] = im_flat(im, im_expand(im, of[i], 3, t.dim));
  Val order = im_topk(im, im_flat(im, im_cast(im, any, DT_I32)), rows, true);
  return im_gather(im, im_stack(im, of, 3, 1), order, 0);
}

static Val exact_rows(Import *im, const OnnxNode *n, Val rows)
{
  int64_t count = 0, room = im_dim(im, rows, 0);
  Tensor t;

  if (!im_constant(im, rows, &t)) {
    im_note(im, "node '%s' (%s): the result has %lld rows, those behind the last box are -1", n->name,
            n->op_type, (long long)room);
    return rows;
  }
  while (count < room && tensor_get_int(&t, 3 * count) >= 0)
    count++;
  return im_part(im, rows, 0, 0, count);
}

static Val one_number(Import *im, const OnnxNode *n, uint32_t input, Val like)
{
  return im_has(im, n, input) ? im_reshape(im, im_cast_like(im, im_in(im, n, input), like), 0, NULL) : 0;
}

bool op_non_max_suppression(Import *im, const OnnxNode *n)
{
  Val boxes = im_float_compute(im, im_in(im, n, 0)), scores = im_cast_like(im, im_in(im, n, 1), boxes);
  int64_t most = im_int_of(im, n, 2, NULL, 0), count = im_dim(im, boxes, 1);
  Val *picked = NEW_ARRAY(im->arena, Val, STEPS_MAX);

  if (!im_ok(im) || im_rank(im, boxes) != 3 || im_rank(im, scores) != 3 || im_dim(im, boxes, 2) != 4 ||
      im_dim(im, scores, 2) != count || im_dim(im, scores, 0) != im_dim(im, boxes, 0))
    return im_fail(im, n, "boxes must be [batch, boxes, 4], scores [batch, classes, boxes]");
  most = max64(0, min64(most, count));
  if (most > STEPS_MAX)
    return im_fail(im, n, "%lld boxes of a class may be selected, %d are supported", (long long)most,
                   STEPS_MAX);
  if (!most)
    return im_out(im, n, 0, im_full(im, DT_I64, 2, (int64_t[]){0, 3}, 0));
  Val batch = im_op_f(im, OP_mul, im_iota(im, DT_I64, im_dim(im, boxes, 0)), (double)count);
  Val iou = one_number(im, n, 3, boxes), least = one_number(im, n, 4, boxes);
  Nms s = {.im = im,
           .boxes = read_boxes(im, boxes, im_int(im, n, "center_point_box", 0)),
           .scores = scores,
           .number = im_iota(im, DT_I64, count),
           .offset = im_at_channel(im, batch, 0, 3),
           .iou = iou ? iou : im_const_like(im, boxes, 0)};
  if (least)
    s.scores = im_where(im, im_gt(im, scores, least), scores, im_const_like(im, scores, -(double)INFINITY));
  for (int64_t i = 0; i < most && im_ok(im); i++)
    picked[i] = select_one(&s);
  Val rows = im_ok(im) ? rows_of(im, im_concat(im, picked, (uint32_t)most, 2)) : 0;
  return im_out(im, n, 0, exact_rows(im, n, rows));
}
