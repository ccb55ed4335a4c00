/* codes.c - unpacking the codes of block types in registers. */
#include "passes/lower/lower.h"
#include "passes/lower/panel.h"

static KVal mask(Kernel *k, KVal v, int m)
{
  return k_op2(k, K_and, v, k_int(k, kernel_node(k, v)->type, m));
}

/* The field of `bits` bits at bit `from`, moved to bit `to`. At the top of its byte and going to the bottom, the
 * shift alone cuts it out. */
static KVal field(Kernel *k, KVal byte, int bits, int from, int to)
{
  if (bits < 8 && (from + bits < 8 || to))
    byte = mask(k, byte, ((1 << bits) - 1) << from);
  return to > from   ? k_shift(k, K_shl, byte, to - from)
         : from > to ? k_shift(k, K_shr, byte, from - to)
                     : byte;
}

KVal lower_codes(Lower *l, uint16_t w, DType t, KVal at, int64_t off, unsigned g, unsigned bytes)
{
  const PanelSpec *s = panel_spec(t);
  Kernel *k = l->k;
  KVal code = 0;
  int shift = 0;

  for (int p = 0; p < 2 && s->planes[p]; p++) {
    unsigned bits = s->planes[p];
    KVal byte = k_load(k, ktype(KE_u8, bytes), w, at, off + g * bits / 8 * PIECE);
    KVal part = field(k, byte, (int)bits, (int)(g * bits % 8), shift);
    code = code ? k_op2(k, K_or, code, part) : part;
    off += bits * PIECE;
    shift += (int)bits;
  }
  return code;
}

void lower_prefetch(Lower *l, uint16_t buf, KVal at, int64_t ahead, int64_t n)
{
  int64_t line = CACHE_LINE / kelem_info[l->k->params.data[buf].elem].bytes;

  for (int64_t off = 0; off < n; off += line)
    k_prefetch(l->k, buf, at, ahead + off);
}
