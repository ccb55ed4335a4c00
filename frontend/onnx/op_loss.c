/* op_loss.c - the losses of classifiers: they are operators of ONNX proper, and models carry them to evaluation.
 *
 * Classes stand on axis 1 of the scores [N, C, ..]; targets are [N, ..]. A target that is ignored weighs 0. */
#include "frontend/onnx/onnx_ops.h"

typedef struct {
  Val loss, weight; /* of each target, flat; weight 0: all weigh 1 */
} Losses;

static Val ignored_targets(Import *im, const OnnxNode *n, Val target)
{
  if (!im_attr(im, n, "ignore_index"))
    return 0;
  return im_add2(im, OP_eq, target, im_const_i(im, im_elem(im, target), im_int(im, n, "ignore_index", 0)));
}

static Losses losses_of(Import *im, const OnnxNode *n, Val log_prob, Val target)
{
  Losses l = {0};
  int64_t classes = im_dim(im, log_prob, 1);
  Val rows = im_channels_last(im, log_prob), flat = im_flat(im, im_cast(im, target, DT_I64));
  Val ignored = ignored_targets(im, n, flat), zero = im_const_like(im, log_prob, 0);

  if (ignored)
    flat = im_where(im, ignored, im_const_i(im, DT_I64, 0), flat);
  rows = im_reshape_to(im, rows, im_dim(im, flat, 0), classes);
  l.loss = im_add1(im, OP_neg, im_flat(im, im_pick(im, rows, im_unsqueeze(im, flat, 1))));
  if (im_has(im, n, 2))
    l.weight = im_gather(im, im_cast_like(im, im_in(im, n, 2), log_prob), flat, 0);
  if (ignored && !l.weight)
    l.weight = im_expand(im, im_const_like(im, log_prob, 1), 1, (int64_t[]){im_dim(im, flat, 0)});
  if (ignored)
    l.weight = im_where(im, ignored, zero, l.weight);
  if (l.weight)
    l.loss = im_add2(im, OP_mul, l.loss, l.weight);
  return l;
}

static Val reduced(Import *im, const OnnxNode *n, Losses l, Val target)
{
  const char *how = im_str(im, n, "reduction", "mean");
  Type t = im_type(im, target);

  if (!strcmp(how, "none"))
    return im_reshape(im, l.loss, t.rank, t.dim);
  if (!strcmp(how, "sum"))
    return im_sum(im, l.loss, 1, false);
  if (!l.weight)
    return im_mean(im, l.loss, 1, false);
  return im_add2(im, OP_div, im_sum(im, l.loss, 1, false), im_sum(im, l.weight, 1, false));
}

static bool give_loss(Import *im, const OnnxNode *n, Val log_prob)
{
  Val target = im_in(im, n, 1);

  if (im_rank(im, log_prob) < 2)
    return im_fail(im, n, "scores must have two dimensions or more");
  Val loss = reduced(im, n, losses_of(im, n, log_prob, target), target);
  return im_out(im, n, 0, im_cast_like(im, loss, im_in(im, n, 0)));
}

bool op_nll_loss(Import *im, const OnnxNode *n)
{
  return give_loss(im, n, im_float_compute(im, im_in(im, n, 0)));
}

bool op_softmax_loss(Import *im, const OnnxNode *n)
{
  Val log_prob = im_log_softmax(im, im_float_compute(im, im_in(im, n, 0)), 1);

  return give_loss(im, n, log_prob) && im_out(im, n, 1, im_cast_like(im, log_prob, im_in(im, n, 0)));
}
