/* mi_tok_format.h - the flat table of a tokenizer, version 1: written by frontend/tokenizer, read in place
 * by mi_tok*.c. All offsets count bytes from the start of the table (of the block, in MiRegex), all integers
 * are little-endian, the table starts at an address that is a multiple of 16.
 *
 * Texts of tokens are stored as the bytes that they stand for: a byte-level BPE token in plain bytes (not
 * GPT-2's printable alphabet), an SPM token with spaces instead of U+2581. */
#ifndef MI_TOK_FORMAT_H
#define MI_TOK_FORMAT_H

#include <stdint.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the table is read and written in place");

#define MI_TOK_MAGIC   "micc tok"
#define MI_TOK_VERSION 1u

enum {
  MI_TOK_ID_BITS = 20, /* in a slot of either hash table */
  MI_TOK_RANK_BITS = 64 - 2 * MI_TOK_ID_BITS,
  MI_TOK_MAX_TOKENS = (1 << MI_TOK_ID_BITS) - 1, /* the last id marks an empty slot */
  MI_TOK_MAX_MERGES = (1 << MI_TOK_RANK_BITS) - 1,
  MI_TOK_MAX_PIECE = 1020, /* bytes: a decoder's output buffer holds 1024 */
  MI_TOK_PIECE_GROUP = 16, /* pieces that share a base; 16 x 1020 fit in 16 bits */
  MI_TOK_NONE = -1
};

/* Of the tokenizer. */
enum {
  MI_TOK_SPM = 1, /* else byte-level BPE */
  MI_TOK_ADD_BOS = 2,
  MI_TOK_ADD_EOS = 4,
  MI_TOK_SPACE_PREFIX = 8,
  MI_TOK_IGNORE_MERGES = 16 /* a word that is a token is that token, whatever the merges say */
};

/* Of a token. */
enum {
  MI_TOKEN_HIDDEN = 1,  /* shows nothing when decoded */
  MI_TOKEN_EOG = 2,     /* ends a generation */
  MI_TOKEN_SPECIAL = 4, /* cut out of the text before anything else */
  MI_TOKEN_CONTROL = 8, /* of these: only if parse_special */
  MI_TOKEN_RSTRIP = 16  /* of these: takes the white space behind it along */
};

/* A perfect hash: bucket -> displacement -> slot. A slot holds enough to tell that the key is another one. */
typedef struct {
  uint64_t seed;
  uint32_t n_buckets, n_slots;
  uint32_t displace; /* u16[n_buckets] */
  uint32_t slots;    /* tokens: u32[n_slots], merges: u64[n_slots] */
} MiTokHash;

/* Priorities of SPM tokens (0 merges first) in runs of ids: rank of id = rank + (id - first) * step. */
typedef struct {
  uint32_t first;
  uint32_t rank; /* bit 31: step is 1, else 0 */
} MiTokRun;

typedef struct {
  char magic[8];
  uint32_t version, bytes;
  uint32_t n_tokens, max_piece;
  uint32_t flags;
  int32_t bos, eos, unk;
  uint32_t text;        /* all pieces, one behind the other */
  uint32_t piece_base;  /* u32: where in `text` a group of pieces begins */
  uint32_t piece_delta; /* u16[n_tokens + 1]: offset of a piece from its group's base */
  uint32_t token_flags; /* u8[n_tokens] */
  uint32_t byte_ids;    /* i32[256]: the token of a single byte */
  uint32_t specials;    /* u32[n_specials]: ids of special tokens, ordered by their bytes */
  uint32_t by_lead;     /* u32[257]: specials whose first byte is b are by_lead[b] .. by_lead[b + 1] */
  uint32_t runs, n_runs;
  uint32_t regex;   /* MiRegex, 0: none */
  MiTokHash tokens; /* slot: id | other bits of the hash << 20 */
  MiTokHash merges; /* slot: left id | right id << 20 | rank << 40 */
} MiTokTable;

_Static_assert(sizeof(MiTokHash) == 24 && sizeof(MiTokTable) == 128, "format, version 1");

/* ---- regular expressions as automata over classes of code points */

enum {
  MI_REGEX_MAX = 8,        /* expressions in one block */
  MI_REGEX_BLOCK_BITS = 7, /* code points in a block of the two-stage table */
  MI_REGEX_DEAD = 0,
  MI_REGEX_START = 1,
  MI_REGEX_MATCH = 1 << 15 /* in a transition: a match ended before the character that is being read */
};

typedef struct {
  uint32_t n_classes; /* class n_classes is the end of the text */
  uint32_t n_regex;
  uint32_t block_of;           /* u8[0x110000 >> 7] */
  uint32_t blocks;             /* u8[][128]: class of a code point */
  uint32_t next[MI_REGEX_MAX]; /* u16[states][n_classes + 1]: state, and MI_REGEX_MATCH */
} MiRegex;

/* ---- hashing: the same at compile time and at run time */

static inline uint64_t mi_tok_mix(uint64_t h, uint64_t word)
{
  h = (h ^ word) * 0x9e3779b97f4a7c15u;
  return h ^ h >> 32;
}

static inline uint64_t mi_tok_hash_text(uint64_t seed, const char *s, size_t n)
{
  uint64_t h = mi_tok_mix(seed, n), word;

  for (; n >= 8; s += 8, n -= 8) {
    memcpy(&word, s, 8);
    h = mi_tok_mix(h, word);
  }
  for (word = 0; n; n--)
    word = word << 8 | (uint8_t)s[n - 1];
  return mi_tok_mix(mi_tok_mix(h, word), 1);
}

static inline uint64_t mi_tok_hash_pair(uint64_t seed, uint32_t left, uint32_t right)
{
  return mi_tok_mix(mi_tok_mix(seed, (uint64_t)left << 32 | right), 1);
}

static inline uint32_t mi_tok_bucket(uint64_t hash, uint32_t n_buckets)
{
  return (uint32_t)((hash >> 32) * n_buckets >> 32);
}

static inline uint32_t mi_tok_slot(uint64_t hash, uint32_t displacement, uint32_t n_slots)
{
  uint64_t x = hash ^ displacement * 0xd6e8feb86659fd93u;
  x = (x ^ x >> 32) * 0xff51afd7ed558ccdu;
  return (uint32_t)((x >> 32) * n_slots >> 32);
}

static inline uint32_t mi_tok_slot_text(uint64_t hash, uint32_t id)
{
  return id | (uint32_t)hash << MI_TOK_ID_BITS;
}

static inline uint64_t mi_tok_slot_pair(uint32_t left, uint32_t right, uint32_t rank)
{
  return left | (uint64_t)right << MI_TOK_ID_BITS | (uint64_t)rank << 2 * MI_TOK_ID_BITS;
}

#endif
