#pragma once
#include "tokenizer.h"

/* ==== >>lm: tokenizer: splitting ============================================================== */

/* -- patterns -- */

enum { LMI_WORDS_SPACE, LMI_WORDS_HEAD, LMI_WORDS_MARKS, LMI_WORDS_CASED, LMI_WORDS_CASED_ENDING };
enum { LMI_OTHERS_BARE, LMI_OTHERS_LINES, LMI_OTHERS_SLASH };

/* Published patterns are these parts in this order. `spelling` is what the part becomes. */
#define LMI_HEAD "[^\\r\\n\\p{L}\\p{N}]?"
#define LMI_UP "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LMI_LOW "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define LMI_ENDING "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
static const struct {
    int part;
    unsigned char spelling;
    const char *text;
} lmi_parts_known[] = {
    { LMI_ENDINGS, 2, LMI_ENDING "|" },
    { LMI_ENDINGS, 2, "'(?i:[sdmt]|ll|ve|re)|" },
    { LMI_ENDINGS, 1, "'s|'t|'re|'ve|'m|'ll|'d|" },
    { LMI_ENDINGS, 1, "'(?:[sdmt]|ll|ve|re)|" },
    { LMI_ENDINGS, 0, "" },
    { LMI_WORDS, LMI_WORDS_SPACE, " ?\\p{L}+|" },
    { LMI_WORDS, LMI_WORDS_HEAD, LMI_HEAD "\\p{L}+|" },
    { LMI_WORDS, LMI_WORDS_HEAD, LMI_HEAD "+\\p{L}+|" },
    { LMI_WORDS, LMI_WORDS_MARKS, LMI_HEAD "[\\p{L}\\p{M}]+|" },
    { LMI_WORDS, LMI_WORDS_CASED_ENDING,
      LMI_HEAD LMI_UP "*" LMI_LOW "+" LMI_ENDING "?|" LMI_HEAD LMI_UP "+" LMI_LOW "*" LMI_ENDING
      "?|" },
    { LMI_WORDS, LMI_WORDS_CASED,
      LMI_HEAD LMI_UP "*" LMI_LOW "+|" LMI_HEAD LMI_UP "+" LMI_LOW "*|" },
    { LMI_NUMBERS, 0, " ?\\p{N}+|" }, /* else how many digits at most */
    { LMI_NUMBERS, 3, "\\p{N}{1,3}|" },
    { LMI_NUMBERS, 1, "\\p{N}|" },
    { LMI_OTHERS, LMI_OTHERS_SLASH, " ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" },
    { LMI_OTHERS, LMI_OTHERS_LINES, " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" },
    { LMI_OTHERS, LMI_OTHERS_LINES, " ?[^\\s\\p{L}\\p{N}]++[\\r\\n]*|" },
    { LMI_OTHERS, LMI_OTHERS_LINES, " ?[^\\s\\p{L}\\p{M}\\p{N}]+[\\r\\n]*|" }, /* _WORDS_MARKS */
    { LMI_OTHERS, LMI_OTHERS_BARE, " ?[^\\s\\p{L}\\p{N}]+|" },
    { LMI_LINES, 1, "\\s*[\\r\\n]+|" },
    { LMI_LINES, 0, "" },
    { LMI_SPACES, 1, "\\s+(?!\\S)|\\s+" },
};
#undef LMI_HEAD
#undef LMI_UP
#undef LMI_LOW
#undef LMI_ENDING

/* GPT-2's, which ByteLevel has for its own. */
static const char lmi_pattern_gpt2[] = "'(?:[sdmt]|ll|ve|re)| ?\\p{L}+| ?\\p{N}+| "
                                       "?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* false: not made of the parts above. */
static bool lmi_pattern_read(const char *pattern, lmi_splitter *out) {
    bool marks = false, without_marks = false;
    for (int part = 0; part < LMI_PARTS; part++) {
        size_t i = 0, n;
        for (; i < LMI_COUNT(lmi_parts_known); i++) {
            n = strlen(lmi_parts_known[i].text);
            if (lmi_parts_known[i].part == part
                && strncmp(pattern, lmi_parts_known[i].text, n) == 0)
                break;
        }
        if (i == LMI_COUNT(lmi_parts_known)) return false;
        out->part[part] = lmi_parts_known[i].spelling;
        if (part == LMI_WORDS) marks = out->part[part] == LMI_WORDS_MARKS;
        if (part == LMI_OTHERS) without_marks = strstr(lmi_parts_known[i].text, "\\p{M}") != NULL;
        pattern += strlen(lmi_parts_known[i].text);
    }
    out->cut = LMI_CUT_PATTERN;
    return *pattern == 0 && marks == without_marks;
}

/* -- words -- */

/* Bytes of the characters of a set at s, at least 0. */
static size_t lmi_run_of(const unsigned char *s, size_t left, unsigned set) {
    size_t at = 0, length;
    for (; at < left; at += length) {
        if (s[at] < 128) {
            length = 1;
            if (!(lmi_ascii[s[at]] & set)) break;
        } else if (!(lmi_class(lmi_code(s + at, left - at, &length)) & set)) break;
    }
    return at;
}

/* 's 't 're 've 'm 'll 'd, any: in capitals too; U+017F is an s then. */
static size_t lmi_ending(const unsigned char *s, size_t left, bool any) {
    unsigned char a, b, fold = any ? 32 : 0;
    if (left < 2 || s[0] != '\'') return 0;
    a = s[1] | fold;
    if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
    if (any && left > 2 && s[1] == 0xC5 && s[2] == 0xBF) return 3;
    if (left < 3) return 0;
    b = s[2] | fold;
    return (a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

/* upper* lower+ at s; where nothing is in lower and not `lower`, upper+. Marks and letters without
   case are in both. */
static size_t lmi_cased(const unsigned char *s, size_t left, bool lower) {
    size_t at = 0, low = 0, length, n; /* low: behind the last one that is in lower, too */
    for (; at < left; at += length) {
        unsigned k = lmi_class(lmi_code(s + at, left - at, &length));
        if (!(k & (LMI_UPPER | LMI_UNCASED | LMI_MARK))) break;
        if (k & (LMI_UNCASED | LMI_MARK)) low = at + length;
    }
    n = lmi_run_of(s + at, left - at, LMI_LOWER | LMI_UNCASED | LMI_MARK);
    return n ? at + n : lower ? low : at;
}

/* Words that a capital begins; head: length of the character that may stand in front. */
static size_t lmi_cased_word(const unsigned char *s, size_t left, size_t head) {
    size_t n;
    if (head && (n = lmi_cased(s + head, left - head, true)) != 0) return head + n;
    if ((n = lmi_cased(s, left, true)) != 0) return n; /* a mark may be head and first */
    if (head && (n = lmi_cased(s + head, left - head, false)) != 0) return head + n;
    return lmi_cased(s, left, false);
}

/* The part LMI_WORDS at s, whose first character is of the sets k and so long; 0: no word. */
static size_t lmi_letters(int spelling, const unsigned char *s, size_t left, unsigned k,
                          size_t length) {
    unsigned set = LMI_LETTER | (spelling == LMI_WORDS_MARKS ? LMI_MARK : 0);
    size_t head, n;
    if (spelling == LMI_WORDS_SPACE) head = s[0] == ' ';
    else head = (k & (LMI_LETTER | LMI_NUMBER)) || s[0] == '\r' || s[0] == '\n' ? 0 : length;
    if (spelling == LMI_WORDS_CASED || spelling == LMI_WORDS_CASED_ENDING) {
        n = lmi_cased_word(s, left, head);
        return n && spelling == LMI_WORDS_CASED_ENDING ? n + lmi_ending(s + n, left - n, true) : n;
    }
    n = lmi_run_of(s + head, left - head, set);
    return n ? head + n : head && (k & set) ? lmi_run_of(s, left, set) : 0;
}

/* White space at s: up to its last line's end where lines are cut off; all of it at the text's end,
   else all but the last character, which goes with the next word. */
static size_t lmi_spaces(const unsigned char *s, size_t left, bool lines) {
    size_t at = 0, line = 0, last = 0, length;
    for (; at < left; at += length) {
        if (!(lmi_class(lmi_code(s + at, left - at, &length)) & LMI_SPACE)) break;
        if (s[at] == '\r' || s[at] == '\n') line = at + 1;
        last = at;
    }
    return lines && line ? line : at == left || !last ? at : last;
}

/* Length of the next word of a pattern, left > 0. */
static size_t lmi_pattern_length(const unsigned char *part, const unsigned char *s, size_t left) {
    size_t length, n, space = s[0] == ' ';
    unsigned k = lmi_class(lmi_code(s, left, &length));
    unsigned others = LMI_OTHER | (part[LMI_WORDS] == LMI_WORDS_MARKS ? 0 : LMI_MARK);
    if (part[LMI_ENDINGS] && (n = lmi_ending(s, left, part[LMI_ENDINGS] == 2)) != 0) return n;
    if ((n = lmi_letters(part[LMI_WORDS], s, left, k, length)) != 0) return n;
    if (!part[LMI_NUMBERS]) {
        n = lmi_run_of(s + space, left - space, LMI_NUMBER);
        if (n) return space + n;
    } else if (k & LMI_NUMBER) {
        n = length;
        for (int digits = 1; digits < part[LMI_NUMBERS] && n < left; digits++) {
            if (!(lmi_class(lmi_code(s + n, left - n, &length)) & LMI_NUMBER)) break;
            n += length;
        }
        return n;
    }
    n = lmi_run_of(s + space, left - space, others);
    if (!n) return lmi_spaces(s, left, part[LMI_LINES] != 0);
    for (n += space; part[LMI_OTHERS] != LMI_OTHERS_BARE && n < left; n++)
        if (s[n] != '\r' && s[n] != '\n' && (s[n] != '/' || part[LMI_OTHERS] != LMI_OTHERS_SLASH))
            break;
    return n;
}

/* Length of the next word, left > 0. */
static size_t lmi_word_length(const sae_tokenizer *t, const unsigned char *s, size_t left) {
    const lmi_splitter *p = &t->splitter;
    size_t at = p->cut == LMI_CUT_BEFORE;
    if (p->cut == LMI_CUT_PATTERN) return lmi_pattern_length(p->part, s, left);
    if (p->cut == LMI_CUT_NOT) return left;
    for (; at < left; at++)
        if (lmi_span_begins(t, p->mark, s + at, left - at))
            return p->cut == LMI_CUT_BEFORE ? at : at + p->mark.size;
    return left;
}
