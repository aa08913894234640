/* unicode.c: code point properties, as the Hugging Face tokenizers crate has them.
 *
 * Flags of a block of code points are painted range by range from the tables, so
 * a tokenizer fills its own array once and looks a character up with one load.
 *
 * Where utf8proc differs from the crate (checked over all code points against
 * tokenizers 0.22.2 and utf8proc 2.8.0, Unicode 15):
 *   - combining classes: the crate knows those of Unicode 9. All are in its table
 *     of marks or in `reordered` below; any other code point has class 0.
 *   - decompositions newer than Unicode 9: `undecomposed`.
 *   - lower case newer than Unicode 15: `lowered`; U+0130 gives i and U+0307.
 *   - \w newer than Unicode 15: `word_characters`, up to Unicode 16.
 *   - White_Space, CJK blocks: the same in every version since 6.3. */
#include "engine/text/unicode.h"

#include <stddef.h>
#include <utf8proc.h>

#define LENGTH(array) ((int)(sizeof(array) / sizeof(array)[0]))

static const code_range ascii_punctuation[] = {
    {0x21, 0x2F}, {0x3A, 0x40}, {0x5B, 0x60}, {0x7B, 0x7E},
};
static const code_range white_space[] = {
    {0x9, 0xD}, {0x20, 0x20}, {0x85, 0x85}, {0xA0, 0xA0}, {0x1680, 0x1680},
    {0x2000, 0x200A}, {0x2028, 0x2029}, {0x202F, 0x202F}, {0x205F, 0x205F},
    {0x3000, 0x3000},
};
/* The fifth starts at 2B920 where the block starts at 2B820: so does the crate. */
static const code_range cjk[] = {
    {0x3400, 0x4DBF}, {0x4E00, 0x9FFF}, {0xF900, 0xFAFF}, {0x20000, 0x2A6DF},
    {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF}, {0x2F800, 0x2FA1F},
};
static const code_range replacement[] = {{0xFFFD, 0xFFFD}};

/* Has a combining class in the crate, but is no Mn in its older table. */
static const code_range reordered[] = {
    {0x8D4, 0x8E1}, {0x1B44, 0x1B44}, {0x1BAA, 0x1BAA}, {0x1BF2, 0x1BF3},
    {0x1DFB, 0x1DFB}, {0x302E, 0x302F}, {0xA953, 0xA953}, {0xA9C0, 0xA9C0},
    {0x111C0, 0x111C0}, {0x11235, 0x11235}, {0x1134D, 0x1134D}, {0x11442, 0x11442},
    {0x11446, 0x11446}, {0x116B6, 0x116B6}, {0x11C3F, 0x11C3F}, {0x1D165, 0x1D166},
    {0x1D16D, 0x1D172}, {0x1E000, 0x1E006}, {0x1E008, 0x1E018}, {0x1E01B, 0x1E021},
    {0x1E023, 0x1E024}, {0x1E026, 0x1E02A}, {0x1E944, 0x1E94A},
};
/* Decomposes in Unicode 13 or 16, not in 9. */
static const code_range undecomposed[] = {
    {0x105C9, 0x105C9}, {0x105E4, 0x105E4}, {0x11383, 0x11383}, {0x11385, 0x11385},
    {0x1138E, 0x1138E}, {0x11391, 0x11391}, {0x113C5, 0x113C5}, {0x113C7, 0x113C8},
    {0x11938, 0x11938}, {0x16121, 0x16128}, {0x16D68, 0x16D6A},
};
static const struct { uint32_t first, last; int32_t lower; } lowered[] = {
    {0x1C89, 0x1C89, 1},    {0xA7CB, 0xA7CB, -42343}, {0xA7CC, 0xA7CC, 1},
    {0xA7CE, 0xA7CE, 1},    {0xA7D2, 0xA7D2, 1},      {0xA7D4, 0xA7D4, 1},
    {0xA7DA, 0xA7DA, 1},    {0xA7DC, 0xA7DC, -42561}, {0x10D50, 0x10D65, 32},
    {0x16EA0, 0x16EB8, 27},
};

/* \w since Unicode 16. */
static const code_range word_characters[] = {
    {0x897, 0x897}, {0x1C89, 0x1C8A}, {0xA7CB, 0xA7CD}, {0xA7DA, 0xA7DC},
    {0x105C0, 0x105F3}, {0x10D40, 0x10D65}, {0x10D69, 0x10D6D}, {0x10D6F, 0x10D85},
    {0x10EC2, 0x10EC4}, {0x10EFC, 0x10EFC}, {0x11380, 0x11389}, {0x1138B, 0x1138B},
    {0x1138E, 0x1138E}, {0x11390, 0x113B5}, {0x113B7, 0x113C0}, {0x113C2, 0x113C2},
    {0x113C5, 0x113C5}, {0x113C7, 0x113CA}, {0x113CC, 0x113D3}, {0x113E1, 0x113E2},
    {0x116D0, 0x116E3}, {0x11BC0, 0x11BE0}, {0x11BF0, 0x11BF9}, {0x11F5A, 0x11F5A},
    {0x13460, 0x143FA}, {0x16100, 0x16139}, {0x16D40, 0x16D6C}, {0x16D70, 0x16D79},
    {0x18CFF, 0x18CFF}, {0x1CCF0, 0x1CCF9}, {0x1E5D0, 0x1E5FA}, {0x2EBF0, 0x2EE5D},
};

/* The first range that ends at cp or after it; n if there is none. */
static int find_range(const code_range *ranges, int n, uint32_t cp)
{
    int low = 0, high = n;
    while (low < high) {
        int middle = (low + high) / 2;
        if (cp > ranges[middle].last)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool is_in(const code_range *ranges, int n, uint32_t cp)
{
    int i = find_range(ranges, n, cp);
    return i < n && cp >= ranges[i].first;
}

static uint32_t simple_lower(uint32_t cp)
{
    for (int i = 0; i < LENGTH(lowered); i++)
        if (cp >= lowered[i].first && cp <= lowered[i].last)
            return (uint32_t)((int32_t)cp + lowered[i].lower);
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
}

int unicode_lower(uint32_t cp, uint32_t out[UNICODE_MAX_LOWER])
{
    out[0] = simple_lower(cp);
    if (cp != 0x130)
        return 1;
    out[0] = 'i';
    out[1] = 0x307;
    return 2;
}

uint8_t unicode_combining_class(uint32_t cp)
{
    if (!is_in(unicode_marks, n_unicode_marks, cp) &&
        !is_in(reordered, LENGTH(reordered), cp))
        return 0;
    return (uint8_t)utf8proc_get_property((utf8proc_int32_t)cp)->combining_class;
}

int unicode_decompose(uint32_t cp, uint32_t out[UNICODE_MAX_DECOMPOSED])
{
    utf8proc_int32_t parts[UNICODE_MAX_DECOMPOSED];
    int boundclass = 0;
    utf8proc_ssize_t n = 0;
    if (!is_in(undecomposed, LENGTH(undecomposed), cp))
        n = utf8proc_decompose_char((utf8proc_int32_t)cp, parts, UNICODE_MAX_DECOMPOSED,
                                    UTF8PROC_DECOMPOSE, &boundclass);
    if (n < 1 || n > UNICODE_MAX_DECOMPOSED) {
        out[0] = cp;
        return 1;
    }
    for (utf8proc_ssize_t i = 0; i < n; i++)
        out[i] = (uint32_t)parts[i];
    return (int)n;
}

char_class unicode_class(uint32_t cp)
{
    if (is_in(white_space, LENGTH(white_space), cp))
        return CLASS_SPACE;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM: case UTF8PROC_CATEGORY_LO:
        return CLASS_LETTER;
    case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_NO:
        return CLASS_NUMBER;
    default:
        return CLASS_OTHER;
    }
}

bool unicode_is_word(uint32_t cp)
{
    if (cp == 0x200C || cp == 0x200D || /* Join_Control */
        is_in(word_characters, LENGTH(word_characters), cp))
        return true;
    /* Circled and squared Latin letters are Alphabetic, yet of category So. */
    if ((cp >= 0x24B6 && cp <= 0x24E9) || (cp >= 0x1F130 && cp <= 0x1F149) ||
        (cp >= 0x1F150 && cp <= 0x1F169) || (cp >= 0x1F170 && cp <= 0x1F189))
        return true;
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM: case UTF8PROC_CATEGORY_LO: case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC: case UTF8PROC_CATEGORY_ME: case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return false;
    }
}

/* ---- flags ------------------------------------------------------------- */

static void paint(const code_range *ranges, int n_ranges, uint8_t flag,
                  uint32_t first, uint32_t n, uint8_t *flags)
{
    uint32_t last = first + n - 1;
    int i = find_range(ranges, n_ranges, first);
    for (; i < n_ranges && ranges[i].first <= last; i++) {
        uint32_t from = ranges[i].first < first ? first : ranges[i].first;
        uint32_t to = ranges[i].last > last ? last : ranges[i].last;
        for (uint32_t cp = from; cp <= to; cp++)
            flags[cp - first] |= flag;
    }
}

void unicode_flags(uint32_t first, uint32_t n, uint8_t *flags)
{
    const struct { const code_range *ranges; int n; uint8_t flag; } sets[] = {
        {unicode_dropped, n_unicode_dropped, CHAR_DROP},
        {replacement, LENGTH(replacement), CHAR_DROP},
        {white_space, LENGTH(white_space), CHAR_SPACE},
        {ascii_punctuation, LENGTH(ascii_punctuation), CHAR_PUNCT},
        {unicode_punctuation, n_unicode_punctuation, CHAR_PUNCT},
        {unicode_marks, n_unicode_marks, CHAR_MARK},
        {cjk, LENGTH(cjk), CHAR_CJK},
    };
    for (uint32_t i = 0; i < n; i++) {
        uint32_t cp = first + i, parts[UNICODE_MAX_DECOMPOSED];
        flags[i] = cp == 0x130 || simple_lower(cp) != cp ? CHAR_UPPER : 0;
        if (cp >= 0x80 && (unicode_decompose(cp, parts) > 1 || parts[0] != cp))
            flags[i] |= CHAR_NFD;
    }
    for (int i = 0; i < LENGTH(sets); i++)
        paint(sets[i].ranges, sets[i].n, sets[i].flag, first, n, flags);
    for (uint32_t i = 0; i < n; i++)
        if ((flags[i] & CHAR_MARK) || is_in(reordered, LENGTH(reordered), first + i))
            flags[i] |= unicode_combining_class(first + i) ? CHAR_NFD : 0;
}
