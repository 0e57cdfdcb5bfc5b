#pragma once
#include "platform.h"

/* ==== >>text ================================================================================== */

/* Sorts pointers by less(a, b) (a heap sort: n log n whatever the input, no memory, not stable). */
typedef bool (*saei_less)(const void *a, const void *b);
static void saei_sort(const void **items, size_t n, saei_less less) {
    for (size_t start = n / 2, end = n; end > 1;) {
        const void *item;
        size_t hole, child;
        if (start > 0) {
            item = items[--start];
        } else {
            item = items[--end];
            items[end] = items[0];
        }
        for (hole = start; (child = 2 * hole + 1) < end; hole = child) {
            if (child + 1 < end && less(items[child], items[child + 1])) child++;
            if (!less(item, items[child])) break;
            items[hole] = items[child];
        }
        items[hole] = item;
    }
}

/* The length of the UTF-8 sequence at s, 0 if it is none (too long, a surrogate, past U+10FFFF). */
static size_t saei_utf8(const unsigned char *s, size_t left) {
    size_t length = s[0] < 0x80 ? 1 : s[0] < 0xC2 ? 0 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3
                  : s[0] < 0xF5 ? 4 : 0;
    if (length > left) return 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xC0) != 0x80) return 0;
    if (length == 3 && ((s[0] == 0xE0 && s[1] < 0xA0) || (s[0] == 0xED && s[1] > 0x9F))) return 0;
    if (length == 4 && ((s[0] == 0xF0 && s[1] < 0x90) || (s[0] == 0xF4 && s[1] > 0x8F))) return 0;
    return length;
}

/* True where text is UTF-8 without NUL: what may become a name. */
static bool saei_is_text(const void *text, size_t size) {
    const unsigned char *s = (const unsigned char *)text;
    for (size_t i = 0, length; i < size; i += length) {
        length = s[i] ? saei_utf8(s + i, size - i) : 0;
        if (!length) return false;
    }
    return true;
}

/* A file's text made fit for a message: one line, cut after 100 bytes. Returns out. */
enum { SAEI_QUOTE = 104 };
static const char *saei_quote(const char *text, char out[SAEI_QUOTE]) {
    size_t n = 0;
    for (; n < SAEI_QUOTE - 4 && text[n]; n++)
        out[n] = (unsigned char)text[n] < 32 || text[n] == 127 ? '?' : text[n];
    if (text[n]) {
        while (n && ((unsigned char)text[n] & 0xC0) == 0x80) n--;
        memcpy(out + n, "...", 3);
        n += 3;
    }
    out[n] = 0;
    return out;
}

/* digits (no point, at most 19 may be counted in mantissa) times 10^exponent, correctly rounded and
   whatever the locale: strtod sees no decimal point. */
static double saei_decimal(const char *digits, uint64_t mantissa, bool exact, int exponent) {
    static const double powers[] = { 1e0,  1e1,  1e2,  1e3,  1e4,  1e5,  1e6,  1e7,
                                     1e8,  1e9,  1e10, 1e11, 1e12, 1e13, 1e14, 1e15,
                                     1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22 };
    char text[640];
    if (exact && mantissa <= 9007199254740992u) {
        if (exponent >= 0 && exponent <= 22) return (double)mantissa * powers[exponent];
        if (exponent < 0 && exponent >= -22) return (double)mantissa / powers[-exponent];
    }
    snprintf(text, sizeof text, "%se%d", digits, exponent);
    return strtod(text, NULL);
}

/* The number in JSON's notation at text: -?(0|[1-9][0-9]*)(.[0-9]+)?([eE][+-]?[0-9]+)?. Returns the
   characters it takes, 0 if there is none (or one of more than 500 digits). */
static size_t saei_parse_number(const char *text, size_t size, double *number, int64_t *integer,
                                bool *is_integer) {
    char digits[504];
    size_t at = 0, n = 0, start, point = 0;
    uint64_t mantissa = 0;
    long exponent = 0, sign = 1;
    bool negative = size > 0 && text[0] == '-', exact = true, whole = true;
    if (negative) at++;
    for (start = at; at < size && text[at] >= '0' && text[at] <= '9' && n < 500; at++)
        digits[n++] = text[at];
    if (at == start || (text[start] == '0' && at - start > 1)) return 0;
    if (at < size && text[at] == '.') {
        whole = false;
        for (start = ++at; at < size && text[at] >= '0' && text[at] <= '9' && n < 500; at++)
            digits[n++] = text[at];
        if (at == start) return 0;
        point = at - start;
    }
    if (n >= 500) return 0;
    digits[n] = 0;
    if (at < size && (text[at] == 'e' || text[at] == 'E')) {
        whole = false;
        at++;
        if (at < size && (text[at] == '+' || text[at] == '-')) sign = text[at++] == '-' ? -1 : 1;
        for (start = at; at < size && text[at] >= '0' && text[at] <= '9'; at++)
            if (exponent < 100000) exponent = exponent * 10 + (text[at] - '0');
        if (at == start) return 0;
    }
    for (size_t i = 0; i < n; i++) {
        unsigned digit = (unsigned)(digits[i] - '0');
        if (mantissa > (UINT64_MAX - digit) / 10) exact = false;
        else if (exact) mantissa = mantissa * 10 + digit;
    }
    *number = saei_decimal(digits, mantissa, exact, (int)(sign * exponent - (long)point));
    if (negative) *number = -*number;
    *is_integer = whole && exact && mantissa <= (uint64_t)INT64_MAX + (negative ? 1 : 0);
    *integer = 0;
    if (*is_integer) *integer = negative ? (int64_t)(0 - mantissa) : (int64_t)mantissa;
    return at;
}

#if !defined(SAE_NO_TRAIN) || !defined(SAE_NO_FORMATS)
/* The shortest text that reads back as x, as Python's json writes it: 0.001, 1e-05, 2.0, NaN. */
static void saei_number_text(double x, char out[32]) {
    char text[40], digits[24], back[40];
    int n = 0, exponent = 0, point;
    bool scientific;
    char *p = out;
    if (x != x || x > DBL_MAX || x < -DBL_MAX) {
        strcpy(out, x != x ? "NaN" : x > 0 ? "Infinity" : "-Infinity");
        return;
    }
    for (int precision = 0; precision < 17; precision++) {
        char *e;
        snprintf(text, sizeof text, "%.*e", precision, fabs(x));
        e = strchr(text, 'e');
        exponent = (int)strtol(e + 1, NULL, 10);
        n = 0;
        for (const char *c = text; c < e; c++)
            if (*c >= '0' && *c <= '9') digits[n++] = *c;
        digits[n] = 0;
        snprintf(back, sizeof back, "%se%d", digits, exponent - n + 1);
        if (strtod(back, NULL) == fabs(x)) break;
    }
    if (saei_to_bits(x) >> 63) *p++ = '-';
    scientific = exponent < -4 || exponent >= 16;
    point = scientific ? 0 : exponent; /* it follows the digit of that index */
    for (int i = point < 0 ? point : 0; i < n || i <= point; i++) {
        *p++ = i >= 0 && i < n ? digits[i] : '0';
        if (i == point && (n > 1 || !scientific)) *p++ = '.';
    }
    if (p[-1] == '.') *p++ = '0';
    if (scientific) {
        *p++ = 'e';
        *p++ = exponent < 0 ? '-' : '+';
        exponent = abs(exponent);
        if (exponent >= 100) *p++ = (char)('0' + exponent / 100);
        *p++ = (char)('0' + exponent / 10 % 10);
        *p++ = (char)('0' + exponent % 10);
    }
    *p = 0;
}
#endif

/* Text that grows, for JSON. */
typedef struct saei_text {
    const sae_context *ctx;
    char *data; /* NUL-terminated once anything was added; saei_free */
    size_t size, capacity;
    bool failed; /* out of memory */
} saei_text;
/* Room for size more characters and a NUL. */
static bool saei_text_reserve(saei_text *t, size_t size) {
    size_t need;
    char *grown;
    if (t->failed) return false;
    if (!saei_add(t->size, size, &need) || !saei_add(need, 1, &need)) return !(t->failed = true);
    if (need <= t->capacity) return true;
    need = saei_max(need, saei_max(256, t->capacity > SIZE_MAX / 2 ? 0 : 2 * t->capacity));
    grown = (char *)saei_alloc(t->ctx, need, 1);
    if (!grown) return !(t->failed = true);
    if (t->data) memcpy(grown, t->data, t->size);
    saei_free(t->ctx, t->data);
    t->data = grown;
    t->capacity = need;
    return true;
}

static SAEI_NOINLINE void saei_text_put(saei_text *t, const void *data, size_t size) {
    if (!saei_text_reserve(t, size)) return;
    if (size) memcpy(t->data + t->size, data, size);
    t->size += size;
    t->data[t->size] = 0;
}

static void saei_text_add(saei_text *t, const char *format, ...) {
    va_list args, again;
    int length;
    va_start(args, format);
    va_copy(again, args);
    length = vsnprintf(NULL, 0, format, args);
    if (length < 0) t->failed = true;
    else if (saei_text_reserve(t, (size_t)length)) {
        vsnprintf(t->data + t->size, (size_t)length + 1, format, again);
        t->size += (size_t)length;
    }
    va_end(again);
    va_end(args);
}

/* Quoted and escaped. */
static void saei_text_add_json_string(saei_text *t, const char *string) {
    static const char plain[] = "\"\\\b\f\n\r\t", letter[] = "\"\\bfnrt";
    const unsigned char *s = (const unsigned char *)string;
    size_t left = strlen(string);
    saei_text_put(t, "\"", 1);
    while (left > 0) {
        const char *simple = strchr(plain, *s);
        size_t length = saei_utf8(s, left);
        if (simple) saei_text_add(t, "\\%c", letter[simple - plain]);
        else if (*s < 0x20) saei_text_add(t, "\\u%04x", *s);
        else if (length) saei_text_put(t, s, length);
        else saei_text_put(t, "\\ufffd", 6); /* a byte that is not UTF-8 */
        s += length ? length : 1;
        left -= length ? length : 1;
    }
    saei_text_put(t, "\"", 1);
}
