/* damage.h - spoils a file's bytes in ways that can be repeated. */
#ifndef DAMAGE_H
#define DAMAGE_H

#include "tests/e2e/support/scene.h"

/* Damage number `seed` of bytes in place: a cut, a changed byte, an extreme number, a hole, a piece moved. Most
 * places lie in the first `head` bytes, where a change means more. Returns what was done, for messages. */
const char *damage(Arena *a, Bytes *b, uint64_t seed, size_t head);

/* Writes the words of `hex` ("00 ff 7f") behind the key and type of a GGUF file's metadata value; false if there is no
 * such key. */
bool damage_value(Bytes *b, const char *key, const char *hex);

#endif
