/* mi_tokenizer.h - text to token ids and back, in place on the table that the compiler made.
 * No table is built at start; nothing is allocated: the caller gives the working memory. */
#ifndef MI_TOKENIZER_H
#define MI_TOKENIZER_H

#include <stddef.h>
#include <stdint.h>

/* Working memory for a text of `text_bytes` bytes. */
size_t mi_tok_work_bytes(const void *table, size_t text_bytes);

/* Tokenizes text[0..len) (any bytes). add_special: BOS/EOS as the model's metadata says.
 * parse_special: names of control tokens in the text become those tokens.
 * Writes at most `cap` ids and returns how many there are in all (may exceed cap; at most 2 * len + 2), or -1
 * if `work` is too small. */
int64_t mi_tok_encode(const void *table, const char *text, size_t len, int add_special, int parse_special,
                      int32_t *ids, size_t cap, void *work, size_t work_bytes);

/* Bytes of one token, at most 'cap' written; returns the length (0: nothing to show, such as a
 * control token). `first`: nonzero for the first token of a text, where SPM drops its leading space. */
size_t mi_tok_piece(const void *table, int32_t id, int first, char *out, size_t cap);

/* Streaming decode: collects bytes, gives out only whole UTF-8 characters (an invalid sequence comes
 * out as U+FFFD). `flush` at the end of the text gives out what is left. */
typedef struct {
  char pending[4];
  uint8_t n_pending;
  uint8_t started; /* 0: the next token begins the text. Set it to 1 to show a continuation by itself. */
} MiDecoder;
size_t mi_tok_decode(const void *table, MiDecoder *d, int32_t id, char *out, size_t cap); /* cap >= 1024 */
size_t mi_tok_flush(MiDecoder *d, char *out, size_t cap);

uint32_t mi_tok_vocab(const void *table); /* number of tokens */
int32_t mi_tok_bos(const void *table);    /* -1: none */
int mi_tok_is_eog(const void *table, int32_t id);

#endif
