/* regex.c - tests of frontend/tokenizer/regex.c and of the automaton's driver, runtime-min/mi_tok_regex.c. */
#include "frontend/tokenizer/regex.h"
#include "runtime-min/mi_tok.h"

#include <criterion/criterion.h>
#include <stdio.h>

/* The parts of a text, "[a][b]". */
static void add_word(void *arg, const char *s, size_t begin, size_t end)
{
  text_printf(arg, "[%.*s]", (int)(end - begin), s + begin);
}

static const char *split(Arena *a, const char *const *exprs, uint32_t n, const char *s, size_t bytes)
{
  const uint8_t *block;
  uint32_t size;
  Err e = {0};
  Text t = {.arena = a};

  cr_assert(regex_build(exprs, n, a, &block, &size, &e), "%s", e.text);
  text_add(&t, "", 0);
  mi_regex_split((const MiRegex *)(const void *)block, 0, s, 0, bytes, add_word, &t);
  return t.data;
}

#define GPT2 "'s|'t|'re| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define LLAMA                                                                                                \
  "'[sS]|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| "                                                        \
  "?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

Test(regex, splits_by_one_expression)
{
  static const struct {
    const char *expr, *text, *parts;
  } cases[] = {
      {"a", "", ""},
      {"a", "bab", "[b][a][b]"},
      {"a+", "aaab", "[aaa][b]"},
      {"ab|a", "aab", "[a][ab]"},
      {"a|ab", "aab", "[a][a][b]"}, /* in order, not the longest */
      {"(a|ab)(c|bcd)", "abcd", "[abcd]"},
      {"(?:a|ab)(?:c|bcd)?", "abcd", "[abcd]"},
      {"a?b", "aab", "[a][ab]"},
      {"(a*)*b", "aaab", "[aaab]"},
      {"(a|b)*c", "abac", "[abac]"},
      {"a{3}", "aaaaaaa", "[aaa][aaa][a]"},
      {"a{1,3}", "aaaaaaa", "[aaa][aaa][a]"},
      {"a{0,2}b", "aaab", "[a][aab]"},
      {"a{2}{2}", "aaaaa", "[aaaa][a]"},
      {"[a-c]+", "abcdcba", "[abc][d][cba]"},
      {"[^a-c]+", "abcdcba", "[abc][d][cba]"},
      {"[-a]+", "-a-b", "[-a-][b]"},
      {"[a\\]\\\\]+", "a]\\b", "[a]\\][b]"},
      {"\\$|\\^|\\|", "$^|", "[$][^][|]"},
      {"\\u{4e2d}", "中国中", "[中][国][中]"},
      {"[\\u{4e00}-\\u{9fa5}]+", "ab中国c", "[ab][中国][c]"},
      {"ä|ö", "aäöb", "[a][ä][ö][b]"},
      {"\\p{L}+", "aZäßж中ª1", "[aZäßж中ª][1]"},
      {"\\p{Lu}+", "ABcÄж", "[AB][c][Ä][ж]"},
      {"[\\p{N}\\p{P}]+", "1²Ⅷ٣!-x$", "[1²Ⅷ٣!-][x$]"},
      {"[^\\p{L}]+", "a1$b", "[a][1$][b]"},
      {"\\s+", "a \t\r\n\xc2\xa0\xe3\x80\x80z", "[a][ \t\r\n\xc2\xa0\xe3\x80\x80][z]"},
      {"\\S+", " ab  c", "[ ][ab][  ][c]"},
      {"[^\\s]+", " ab  c", "[ ][ab][  ][c]"},
      {"\\s+$", "  a  ", "[  a][  ]"},
      {"a$", "aaa", "[aa][a]"},
      {"a(?=b)", "aaba", "[a][a][ba]"},
      {"a(?!b)", "aaba", "[a][ab][a]"},
      {"a(?![^b])", "abaca", "[a][bac][a]"},
      {"(?=[a-m])\\p{L}+", "zoo are", "[zoo ][are]"},
      {"\\s+(?!\\S)|\\s+", "  a   b c ", "[ ][ ][a][  ][ ][b][ ][c][ ]"},
      {GPT2, "Hello  world, it's 123!", "[Hello][ ][ world][,][ it]['s][ 123][!]"},
      {GPT2, "'test'", "['t][est][']"},
      {LLAMA, "'Same  1234567 .\n\n x", "['S][ame][ ][ ][123][456][7][ .\n\n][ x]"},
      {LLAMA, "a \n \n  b", "[a][ \n \n][ ][ b]"},
      {LLAMA, "\n\r\n   ", "[\n\r\n][   ]"},
  };
  Arena a = {0};

  for (size_t i = 0; i < COUNT(cases); i++) {
    const char *parts = split(&a, &cases[i].expr, 1, cases[i].text, strlen(cases[i].text));
    cr_expect_str_eq(parts, cases[i].parts, "%s on '%s': %s", cases[i].expr, cases[i].text, parts);
  }
  arena_free(&a);
}

Test(regex, splits_by_expressions_in_turn)
{
  const char *exprs[] = {"\\p{N}", "[a-z]+", "xx"};
  Arena a = {0};

  cr_expect_str_eq(split(&a, exprs, 3, "ab12CDxxyZ", 10), "[ab][1][2][CD][xx][y][Z]");
  cr_expect_str_eq(split(&a, exprs, 1, "ab12CDxxyZ", 10), "[ab][1][2][CDxxyZ]");
  arena_free(&a);
}

Test(regex, an_invalid_byte_is_a_replacement_character)
{
  const char *letters = "\\p{L}+", *other = "[^\\p{L}]+";
  Arena a = {0};

  cr_expect_str_eq(split(&a, &letters, 1, "a\xff\xc3", 3), "[a][\xff\xc3]");
  cr_expect_str_eq(split(&a, &other, 1, "a\xe4\xb8z\xc0\xaf", 6), "[a][\xe4\xb8][z][\xc0\xaf]");
  arena_free(&a);
}

/* Each try at a place costs the rest of the run, were it not for what the failed one tells. */
Test(regex, long_runs_take_linear_time, .timeout = 10)
{
  enum { BYTES = 1 << 20 };
  static char text[BYTES];
  const char *exprs[] = {"\\s+$", "[ab]+c", GPT2};
  Arena a = {0};

  for (size_t i = 0; i < COUNT(exprs); i++) {
    memset(text, i == 1 ? 'a' : ' ', BYTES);
    text[BYTES - 1] = 'x';
    cr_expect_eq(strlen(split(&a, &exprs[i], 1, text, BYTES)), BYTES + (i == 2 ? 4 : 2));
  }
  arena_free(&a);
}

Test(regex, says_what_is_wrong_and_where)
{
  static const struct {
    const char *expr, *message;
  } cases[] = {
      {"a)", "regular expression 0, byte 1: unexpected )"},
      {"(a", "regular expression 0, byte 2: ) is missing"},
      {"[a", "regular expression 0, byte 2: ] is missing"},
      {"[z-a]", "regular expression 0, byte 4: not a range"},
      {"*a", "regular expression 0, byte 0: nothing to repeat"},
      {"a{", "regular expression 0, byte 2: a number from 0 to 255 is missing"},
      {"a{3,2}", "regular expression 0, byte 6: not a count"},
      {"a{999}", "regular expression 0, byte 5: a number from 0 to 255 is missing"},
      {"\\p{Q}", "regular expression 0, byte 2: an unknown category behind \\p"},
      {"\\q", "regular expression 0, byte 2: unknown escape \\q"},
      {"\\u{110000}", "regular expression 0, byte 9: not a code point"},
      {"\\", "regular expression 0, byte 1: ends too early"},
      {"a(?!bc)", "regular expression 0, byte 5: look-ahead reads one character"},
      {"(((a{200}){200}){200}){200}", "regular expression 0, byte 27: too large"},
      {"\xff", "regular expression 0, byte 0: not UTF-8"},
  };
  Arena a = {0};
  const uint8_t *block;
  uint32_t bytes;

  for (size_t i = 0; i < COUNT(cases); i++) {
    Err e = {0};
    cr_expect(!regex_build(&cases[i].expr, 1, &a, &block, &bytes, &e));
    cr_expect_str_eq(e.text, cases[i].message);
  }
  arena_free(&a);
}

Test(regex, is_deterministic_and_survives_a_lack_of_memory)
{
  const char *exprs[] = {GPT2, "\\p{N}"};
  const uint8_t *first, *again;
  uint32_t bytes, same;
  Arena a = {0};
  Err e = {0};

  cr_assert(regex_build(exprs, 2, &a, &first, &bytes, &e));
  cr_assert(regex_build(exprs, 2, &a, &again, &same, &e));
  cr_assert(bytes == same && memcmp(first, again, bytes) == 0);
  bool ok = false;
  for (long n = 1; !ok; n++) {
    Arena tight = {0};
    Err lack = {0};
    mem_fail_at(n);
    ok = regex_build(exprs, 2, &tight, &again, &same, &lack);
    mem_fail_at(0);
    cr_assert(ok || !strcmp(lack.text, "out of memory"), "%s", lack.text);
    arena_free(&tight);
  }
  arena_free(&a);
}
