/* Levels by area mean. Level 0 is processed in pairs of rows: while a pair is in the first-level cache, every row of a
 * level that the pair completes is summed, rounded and written.
 *
 * The results equal those of area_mean.py, bit for bit; tests compare the two. Plain C without libraries, and without
 * memory or state of its own; its only system call reads bytes of a file. The portable loops are written so that the
 * compiler vectorises them: constant shifts, accumulators as narrow as the values.
 */

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

/* Tests define PORTABLE to compile the code for other processors. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__) && !defined(PORTABLE)
#include <immintrin.h>
#define X86 1
#define FAST __attribute__((target_clones("avx2", "default")))
#else
#define X86 0
#define FAST
#endif
#define INLINE static inline __attribute__((always_inline))

/* Two neighbours that are read at once. Rows of odd length begin at odd addresses, so they are not aligned. */
typedef uint16_t __attribute__((aligned(1), may_alias)) pair_of_8;
typedef uint32_t __attribute__((aligned(1), may_alias)) pair_of_16;
typedef uint64_t __attribute__((aligned(1), may_alias)) pair_of_32;

enum method { SHIFT, MULTIPLY, MULTIPLY_WIDE, DIVIDE };

/* The order of the fields is that of `_Level` in kernel.py. */
typedef struct {
    int64_t width, height;
    int64_t rows;       /* number of rows that are done */
    uint64_t remainder; /* sum of the remainders of all pixels */
    void *out;          /* pixels of the level; NULL if they are not wanted */
    void *sums;         /* two rows of block sums */
    uint64_t low, high; /* sums are clipped to this range */
    uint64_t factor, half, divisor, multiplier;
    int32_t before, after;         /* shifts before and after the multiplication */
    int32_t sum_bytes, out_bytes;  /* 2 or 4; 1 or 2 */
    int32_t method;
    int32_t whole_range; /* 1 if neither limits nor factor change any sum */
} level_t;

#define SUMS(NAME, VALUE, PAIR, BITS, SUM)                                                                             \
    FAST static void NAME(const void *above, const void *below, void *sums, int64_t width) {                           \
        const PAIR *a = above, *b = below;                                                                             \
        SUM *restrict out = sums;                                                                                      \
        const PAIR right = (PAIR)((VALUE)-1);                                                                          \
        for (int64_t x = 0; x < width; x++)                                                                            \
            out[x] = (SUM)((a[x] & right) + (a[x] >> BITS) + (b[x] & right) + (b[x] >> BITS));                         \
    }
SUMS(sums_of_8, uint8_t, pair_of_8, 8, uint16_t)
SUMS(sums_of_16, uint16_t, pair_of_16, 16, uint16_t)
SUMS(wide_sums_of_16, uint16_t, pair_of_16, 16, uint32_t)
SUMS(sums_of_32, uint32_t, pair_of_32, 32, uint32_t)

/* Number of pixels after which a narrow accumulator is emptied: 256 remainders below 256 fit 16 bits. */
#define RUN 256

/* Rounds to nearest; ties go up where row + column is even, down where it is odd. Returns the sum of the remainders. */
#define ROUND(NAME, SUM, OUT)                                                                                          \
    INLINE uint64_t NAME##_by(const SUM *sums, OUT *out, int64_t width, int64_t y, const int shift) {                  \
        SUM halves[RUN];                                                                                               \
        for (int x = 0; x < RUN; x++) halves[x] = (SUM)((1u << (shift - 1)) - ((x + y) & 1));                          \
        const SUM mask = (SUM)((1u << shift) - 1);                                                                     \
        uint64_t remainder = 0;                                                                                        \
        for (int64_t from = 0; from < width; from += RUN) {                                                            \
            const int run = width - from < RUN ? (int)(width - from) : RUN;                                            \
            const SUM *restrict in = sums + from;                                                                      \
            OUT *restrict to = out + from;                                                                             \
            SUM left = 0;                                                                                              \
            for (int x = 0; x < run; x++) {                                                                            \
                const SUM raised = (SUM)(in[x] + halves[x]);                                                           \
                to[x] = (OUT)(raised >> shift);                                                                        \
                left = (SUM)(left + (raised & mask));                                                                  \
            }                                                                                                          \
            remainder += left;                                                                                         \
        }                                                                                                              \
        return remainder;                                                                                              \
    }                                                                                                                  \
    FAST static uint64_t NAME(const SUM *sums, OUT *out, int64_t width, int64_t y, int shift) {                        \
        switch (shift) { /* constant shifts are faster */                                                              \
        case 2: return NAME##_by(sums, out, width, y, 2);                                                              \
        case 4: return NAME##_by(sums, out, width, y, 4);                                                              \
        case 6: return NAME##_by(sums, out, width, y, 6);                                                              \
        case 8: return NAME##_by(sums, out, width, y, 8);                                                              \
        default: return NAME##_by(sums, out, width, y, shift);                                                         \
        }                                                                                                              \
    }
ROUND(round_16_to_8, uint16_t, uint8_t)
ROUND(round_32_to_8, uint32_t, uint8_t)
ROUND(round_32_to_16, uint32_t, uint16_t)

/* The same for any divisor: (sum >> before) * multiplier >> after is the quotient, as the caller has proved. */
#define SCALE(NAME, PRODUCT)                                                                                           \
    INLINE uint64_t NAME##_within(const uint32_t *sums, uint8_t *out, int64_t width, int64_t y, const level_t *level,  \
                                  const int whole_range) {                                                             \
        const uint32_t low = (uint32_t)level->low, high = (uint32_t)level->high, factor = (uint32_t)level->factor;     \
        const uint32_t divisor = (uint32_t)level->divisor, multiplier = (uint32_t)level->multiplier;                   \
        const int before = level->before, after = level->after;                                                       \
        uint32_t halves[RUN];                                                                                          \
        for (int x = 0; x < RUN; x++) halves[x] = (uint32_t)(level->half - ((x + y) & 1));                             \
        uint64_t remainder = 0;                                                                                        \
        for (int64_t from = 0; from < width; from += RUN) {                                                            \
            const int run = width - from < RUN ? (int)(width - from) : RUN;                                            \
            const uint32_t *restrict in = sums + from;                                                                 \
            uint8_t *restrict to = out + from;                                                                         \
            PRODUCT left = 0;                                                                                          \
            for (int x = 0; x < run; x++) {                                                                            \
                uint32_t sum = in[x];                                                                                  \
                if (!whole_range) {                                                                                    \
                    sum = sum < low ? low : sum;                                                                       \
                    sum = ((sum > high ? high : sum) - low) * factor;                                                  \
                }                                                                                                      \
                const uint32_t raised = sum + halves[x];                                                               \
                const uint32_t grey = (uint32_t)(((PRODUCT)(raised >> before) * multiplier) >> after);                 \
                to[x] = (uint8_t)grey;                                                                                 \
                left += raised - grey * divisor;                                                                       \
            }                                                                                                          \
            remainder += left;                                                                                         \
        }                                                                                                              \
        return remainder;                                                                                              \
    }                                                                                                                  \
    FAST static uint64_t NAME(const uint32_t *sums, uint8_t *out, int64_t width, int64_t y, const level_t *level) {    \
        if (level->whole_range) return NAME##_within(sums, out, width, y, level, 1);                                   \
        return NAME##_within(sums, out, width, y, level, 0);                                                           \
    }
SCALE(scale_by_32, uint32_t)
SCALE(scale_by_64, uint64_t)

/* The same with 64-bit division. It is slow, and only needed for small levels with unusual ranges. */
static uint64_t divide(const uint32_t *sums, uint8_t *out, int64_t width, int64_t y, const level_t *level) {
    uint64_t remainder = 0;
    for (int64_t x = 0; x < width; x++) {
        uint64_t sum = sums[x] < level->low ? level->low : sums[x];
        sum = sum > level->high ? level->high : sum;
        const uint64_t raised = (sum - level->low) * level->factor + level->half - (uint64_t)((x + y) & 1);
        out[x] = (uint8_t)(raised / level->divisor);
        remainder += raised % level->divisor;
    }
    return remainder;
}

/* Returns the sum of the remainders. */
static uint64_t write_pixels(const level_t *level, const void *sums, void *out, int64_t width, int64_t y) {
    switch (level->method) {
    case MULTIPLY: return scale_by_32(sums, out, width, y, level);
    case MULTIPLY_WIDE: return scale_by_64(sums, out, width, y, level);
    case DIVIDE: return divide(sums, out, width, y, level);
    }
    if (level->sum_bytes == 2) return round_16_to_8(sums, out, width, y, level->after);
    if (level->out_bytes == 1) return round_32_to_8(sums, out, width, y, level->after);
    return round_32_to_16(sums, out, width, y, level->after);
}

/* The same with 256-bit registers, faster than the compiled loops above. Most of the work for most images is done here.
 * Each function processes the columns that fill whole registers, and returns their number. */
#if X86
#define AVX2 __attribute__((target("avx2")))

AVX2 INLINE __m256i load(const void *from) { return _mm256_loadu_si256(from); }
AVX2 INLINE void store(void *to, __m256i lanes) { _mm256_storeu_si256(to, lanes); }
/* Packing interleaves the halves of two registers; this restores their order. */
AVX2 INLINE __m256i in_order(__m256i packed) { return _mm256_permute4x64_epi64(packed, 0xd8); }

/* Sums of 16 blocks, from rows of 8-bit pixels or of sums below 2^14. */
AVX2 INLINE __m256i narrow_sums(const char *above, const char *below, const int value_bytes) {
    if (value_bytes == 1) {
        const __m256i ones = _mm256_set1_epi8(1);
        return _mm256_add_epi16(_mm256_maddubs_epi16(load(above), ones), _mm256_maddubs_epi16(load(below), ones));
    }
    const __m256i ones = _mm256_set1_epi16(1);
    const __m256i left = _mm256_madd_epi16(_mm256_add_epi16(load(above), load(below)), ones);
    const __m256i right = _mm256_madd_epi16(_mm256_add_epi16(load(above + 32), load(below + 32)), ones);
    return in_order(_mm256_packus_epi32(left, right));
}

/* Sums of 8 blocks, from rows of 16-bit or 32-bit values. */
AVX2 INLINE __m256i wide_sums(const char *above, const char *below, const int value_bytes) {
    if (value_bytes == 2) {
        const __m256i even = _mm256_set1_epi32(0xffff), a = load(above), b = load(below);
        return _mm256_add_epi32(_mm256_add_epi32(_mm256_and_si256(a, even), _mm256_srli_epi32(a, 16)),
                                _mm256_add_epi32(_mm256_and_si256(b, even), _mm256_srli_epi32(b, 16)));
    }
    const __m256 left = _mm256_castsi256_ps(_mm256_add_epi32(load(above), load(below)));
    const __m256 right = _mm256_castsi256_ps(_mm256_add_epi32(load(above + 32), load(below + 32)));
    const __m256i even = _mm256_castps_si256(_mm256_shuffle_ps(left, right, 0x88));
    const __m256i odd = _mm256_castps_si256(_mm256_shuffle_ps(left, right, 0xdd));
    return in_order(_mm256_add_epi32(even, odd));
}

/* Number of steps after which the remainders of narrow lanes are emptied: 2 x 128 values of at most 255 fit 16 bits. */
#define STEPS 128

AVX2 INLINE uint64_t sum_of_narrow(__m256i lanes) {
    uint16_t each[16];
    uint64_t sum = 0;
    store(each, lanes);
    for (int lane = 0; lane < 16; lane++) sum += each[lane];
    return sum;
}

AVX2 INLINE uint64_t sum_of_wide(__m256i lanes) {
    uint32_t each[8];
    uint64_t sum = 0;
    store(each, lanes);
    for (int lane = 0; lane < 8; lane++) sum += each[lane];
    return sum;
}

/* 8-bit pixels from 16-bit sums, 32 columns at a time. */
AVX2 INLINE int64_t narrow_row(level_t *level, const char *above, const char *below, uint16_t *sums, uint8_t *out,
                               int64_t y, const int value_bytes) {
    const int64_t columns = level->width / 32 * 32;
    const __m128i shift = _mm_cvtsi32_si128(level->after);
    const __m256i mask = _mm256_set1_epi16((int16_t)((1 << level->after) - 1));
    const int half = 1 << (level->after - 1), even = half - (int)(y & 1), odd = half - (int)((y + 1) & 1);
    const __m256i halves = _mm256_set1_epi32(odd << 16 | even);
    for (int64_t x = 0; x < columns;) {
        const int64_t end = columns - x < STEPS * 32 ? columns : x + STEPS * 32;
        __m256i remainders = _mm256_setzero_si256();
        for (; x < end; x += 32) {
            const int64_t at = 2 * x * value_bytes, next = at + 32 * value_bytes;
            const __m256i left = narrow_sums(above + at, below + at, value_bytes);
            const __m256i right = narrow_sums(above + next, below + next, value_bytes);
            store(sums + x, left), store(sums + x + 16, right);
            const __m256i a = _mm256_add_epi16(left, halves), b = _mm256_add_epi16(right, halves);
            store(out + x, in_order(_mm256_packus_epi16(_mm256_srl_epi16(a, shift), _mm256_srl_epi16(b, shift))));
            remainders = _mm256_add_epi16(remainders, _mm256_and_si256(a, mask));
            remainders = _mm256_add_epi16(remainders, _mm256_and_si256(b, mask));
        }
        level->remainder += sum_of_narrow(remainders);
    }
    return columns;
}

/* 32-bit sums only, 16 columns at a time. */
AVX2 INLINE int64_t wide_sums_row(const level_t *level, const char *above, const char *below, uint32_t *sums,
                                  const int value_bytes) {
    const int64_t columns = level->width / 16 * 16;
    for (int64_t x = 0; x < columns; x += 16) {
        const int64_t at = 2 * x * value_bytes, next = at + 16 * value_bytes;
        store(sums + x, wide_sums(above + at, below + at, value_bytes));
        store(sums + x + 8, wide_sums(above + next, below + next, value_bytes));
    }
    return columns;
}

/* 16-bit pixels from 32-bit sums, 16 columns at a time. */
AVX2 INLINE int64_t wide_row(level_t *level, const char *above, const char *below, uint32_t *sums, uint16_t *out,
                             int64_t y, const int value_bytes) {
    const int64_t columns = level->width / 16 * 16;
    const __m128i shift = _mm_cvtsi32_si128(level->after);
    const __m256i mask = _mm256_set1_epi32((1 << level->after) - 1);
    const int half = 1 << (level->after - 1), even = half - (int)(y & 1), odd = half - (int)((y + 1) & 1);
    const __m256i halves = _mm256_set_epi32(odd, even, odd, even, odd, even, odd, even);
    __m256i remainders = _mm256_setzero_si256();
    for (int64_t x = 0; x < columns; x += 16) {
        const int64_t at = 2 * x * value_bytes, next = at + 16 * value_bytes;
        const __m256i left = wide_sums(above + at, below + at, value_bytes);
        const __m256i right = wide_sums(above + next, below + next, value_bytes);
        store(sums + x, left), store(sums + x + 8, right);
        const __m256i a = _mm256_add_epi32(left, halves), b = _mm256_add_epi32(right, halves);
        store(out + x, in_order(_mm256_packus_epi32(_mm256_srl_epi32(a, shift), _mm256_srl_epi32(b, shift))));
        /* Each step adds less than 2^17, and no row is long enough for an overflow. */
        remainders = _mm256_add_epi32(remainders, _mm256_and_si256(a, mask));
        remainders = _mm256_add_epi32(remainders, _mm256_and_si256(b, mask));
    }
    level->remainder += sum_of_wide(remainders);
    return columns;
}

AVX2 static int64_t by_registers(level_t *level, const char *above, const char *below, void *sums, void *out, int64_t y,
                                 int32_t value_bytes) {
    if (level->sum_bytes == 2 && value_bytes == 1) return narrow_row(level, above, below, sums, out, y, 1);
    if (level->sum_bytes == 2) return narrow_row(level, above, below, sums, out, y, 2);
    if (level->method == SHIFT && level->out_bytes == 2) {
        if (value_bytes == 2) return wide_row(level, above, below, sums, out, y, 2);
        return wide_row(level, above, below, sums, out, y, 4);
    }
    const int64_t columns = value_bytes == 2 ? wide_sums_row(level, above, below, sums, 2)
                                             : wide_sums_row(level, above, below, sums, 4);
    level->remainder += write_pixels(level, sums, out, columns, y);
    return columns;
}
#endif

static void write_sums(const level_t *level, const void *above, const void *below, void *sums, int64_t width,
                       int32_t value_bytes) {
    if (value_bytes == 1) sums_of_8(above, below, sums, width);
    else if (value_bytes == 4) sums_of_32(above, below, sums, width);
    else if (level->sum_bytes == 2) sums_of_16(above, below, sums, width);
    else wide_sums_of_16(above, below, sums, width);
}

/* Makes a row of the level from two rows of the level below, and after every second row a row of the next level. */
static void add_row(level_t *level, int64_t levels, const char *above, const char *below, int32_t value_bytes) {
    const int64_t y = level->rows++;
    char *sums = (char *)level->sums + (y & 1) * level->width * level->sum_bytes;
    char *out = level->out == NULL ? NULL : (char *)level->out + y * level->width * level->out_bytes;
    int64_t done = 0;
#if X86
    if (out != NULL && __builtin_cpu_supports("avx2"))
        done = by_registers(level, above, below, sums, out, y, value_bytes);
#endif
    const int64_t rest = level->width - done, from = 2 * done * value_bytes;
    write_sums(level, above + from, below + from, sums + done * level->sum_bytes, rest, value_bytes);
    if (out != NULL)
        level->remainder += write_pixels(level, sums + done * level->sum_bytes, out + done * level->out_bytes, rest, y);
    if ((y & 1) && levels > 1 && level[1].rows < level[1].height)
        add_row(level + 1, levels - 1, level->sums, sums, level->sum_bytes);
}

/* Returns the size of level_t, with which a caller checks that its own is the same. */
int64_t temwatch_level_bytes(void) { return (int64_t)sizeof(level_t); }

/* Processes the next rows of level 0, an even number unless they are the last. pixel_bytes is 1 or 2. */
void temwatch_add_rows(level_t *level, int64_t levels, const void *rows, int64_t row_bytes, int64_t count,
                       int32_t pixel_bytes) {
    const char *row = rows;
    for (int64_t y = 0; y + 1 < count && level->rows < level->height; y += 2, row += 2 * row_bytes)
        add_row(level, levels, row, row + row_bytes, pixel_bytes);
}

/* Extremes of an image so far, and the numbers of pixels that are 0 or bright. The order of the fields is that of
 * `GreyRange` in kernel.py. */
typedef struct {
    uint64_t pixels, black, white;
    uint32_t darkest, brightest;
    uint32_t bright; /* the smallest value that counts as white */
} range_t;

#define RANGE(NAME, VALUE)                                                                                             \
    FAST static void NAME(range_t *range, const VALUE *pixels, int64_t count, VALUE bright) {                          \
        VALUE darkest = (VALUE)range->darkest, brightest = (VALUE)range->brightest;                                    \
        uint64_t black = 0, white = 0;                                                                                 \
        for (int64_t i = 0; i < count; i++) {                                                                          \
            darkest = pixels[i] < darkest ? pixels[i] : darkest;                                                       \
            brightest = pixels[i] > brightest ? pixels[i] : brightest;                                                 \
            black += pixels[i] == 0, white += pixels[i] >= bright;                                                     \
        }                                                                                                              \
        range->darkest = darkest, range->brightest = brightest;                                                        \
        range->black += black, range->white += white;                                                                  \
    }
RANGE(range_of_8, uint8_t)
RANGE(range_of_16, uint16_t)

/* The same with 256-bit registers: lanes of 8 or 16 bits count the pixels of 255 steps. Returns the number of pixels
 * that were processed. */
#if X86
#define COUNTED 255

AVX2 INLINE uint64_t sum_of_bytes(__m256i lanes) {
    uint64_t each[4];
    store(each, _mm256_sad_epu8(lanes, _mm256_setzero_si256()));
    return each[0] + each[1] + each[2] + each[3];
}

#define RANGE_BY_REGISTERS(NAME, VALUE, BITS, SUM)                                                                     \
    AVX2 static int64_t NAME(range_t *range, const VALUE *pixels, int64_t count, VALUE bright) {                       \
        enum { LANES = 256 / BITS };                                                                                   \
        const int64_t end = count / LANES * LANES;                                                                     \
        const __m256i zero = _mm256_setzero_si256(), limit = _mm256_set1_epi##BITS((int##BITS##_t)bright);             \
        __m256i low = _mm256_set1_epi##BITS((int##BITS##_t)range->darkest);                                            \
        __m256i high = _mm256_set1_epi##BITS((int##BITS##_t)range->brightest);                                         \
        for (int64_t i = 0; i < end;) {                                                                                \
            const int64_t pause = end - i < COUNTED * LANES ? end : i + COUNTED * LANES;                               \
            __m256i black = zero, white = zero;                                                                        \
            for (; i < pause; i += LANES) {                                                                            \
                const __m256i grey = load(pixels + i);                                                                 \
                low = _mm256_min_epu##BITS(low, grey), high = _mm256_max_epu##BITS(high, grey);                        \
                black = _mm256_sub_epi##BITS(black, _mm256_cmpeq_epi##BITS(grey, zero));                               \
                const __m256i is_white = _mm256_cmpeq_epi##BITS(_mm256_max_epu##BITS(grey, limit), grey);              \
                white = _mm256_sub_epi##BITS(white, is_white);                                                         \
            }                                                                                                          \
            range->black += SUM(black), range->white += SUM(white);                                                    \
        }                                                                                                              \
        VALUE lows[LANES], highs[LANES];                                                                               \
        store(lows, low), store(highs, high);                                                                          \
        for (int lane = 0; lane < LANES; lane++) {                                                                     \
            range->darkest = lows[lane] < range->darkest ? lows[lane] : range->darkest;                                \
            range->brightest = highs[lane] > range->brightest ? highs[lane] : range->brightest;                        \
        }                                                                                                              \
        return end;                                                                                                    \
    }
RANGE_BY_REGISTERS(registers_of_8, uint8_t, 8, sum_of_bytes)
RANGE_BY_REGISTERS(registers_of_16, uint16_t, 16, sum_of_narrow)
#endif

/* Adds pixels to a range. */
void temwatch_add_range(range_t *range, const void *pixels, int64_t count, int32_t pixel_bytes) {
    const uint32_t bright = range->bright;
    int64_t done = 0;
    range->pixels += (uint64_t)count;
#if X86
    if (__builtin_cpu_supports("avx2"))
        done = pixel_bytes == 1 ? registers_of_8(range, pixels, count, (uint8_t)bright)
                                : registers_of_16(range, pixels, count, (uint16_t)bright);
#endif
    if (pixel_bytes == 1) range_of_8(range, (const uint8_t *)pixels + done, count - done, (uint8_t)bright);
    else range_of_16(range, (const uint16_t *)pixels + done, count - done, (uint16_t)bright);
}

/* Adds the Laplacian of each inner pixel of a row, and its square. Squares for 8-bit pixels are below 2^20, so RUN of
 * them fit 32 bits. */
#define LAPLACIAN(NAME, VALUE, SUM, SQUARES)                                                                           \
    FAST static void NAME(const VALUE *above, const VALUE *row, const VALUE *below, int64_t width, int64_t *sum,       \
                          uint64_t *squares) {                                                                         \
        for (int64_t from = 1; from < width - 1; from += RUN) {                                                        \
            const int64_t end = width - 1 - from < RUN ? width - 1 : from + RUN;                                       \
            SUM added = 0;                                                                                             \
            SQUARES squared = 0;                                                                                       \
            for (int64_t x = from; x < end; x++) {                                                                     \
                const SUM curve = (SUM)above[x] + below[x] + row[x - 1] + row[x + 1] - 4 * (SUM)row[x];                \
                added += curve, squared += (SQUARES)((SQUARES)curve * (SQUARES)curve);                                 \
            }                                                                                                          \
            *sum += added, *squares += squared;                                                                        \
        }                                                                                                              \
    }
LAPLACIAN(laplacian_of_8, uint8_t, int32_t, uint32_t)
LAPLACIAN(laplacian_of_16, uint16_t, int32_t, uint64_t)

/* Adds the Laplacians of all inner pixels of an image, and their squares. */
void temwatch_add_laplacian(const void *pixels, int64_t width, int64_t height, int32_t pixel_bytes, int64_t *sum,
                            uint64_t *squares) {
    for (int64_t y = 1; y < height - 1; y++) {
        if (pixel_bytes == 1) {
            const uint8_t *row = (const uint8_t *)pixels + y * width;
            laplacian_of_8(row - width, row, row + width, width, sum, squares);
        } else {
            const uint16_t *row = (const uint16_t *)pixels + y * width;
            laplacian_of_16(row - width, row, row + width, width, sum, squares);
        }
    }
}

/* Rows that follow each other in a file without gaps; `Run` of tiff_header.py. */
typedef struct {
    int64_t offset, rows;
} run_t;

enum { WHOLE = 0, CUT_SHORT = 1 };

/* Returns WHOLE, CUT_SHORT, or the negative errno. */
static int32_t read_whole(int32_t descriptor, char *place, int64_t bytes, int64_t offset) {
    while (bytes > 0) {
        const ssize_t count = pread(descriptor, place, (size_t)bytes, (off_t)offset);
        if (count == 0) return CUT_SHORT;
        if (count < 0 && errno != EINTR) return -errno;
        if (count > 0) place += count, offset += count, bytes -= count;
    }
    return WHOLE;
}

/* Returns an address to which the processor's block copy is fast. If it writes a little after the address from which it
 * reads (modulo a page), it takes four times as long, since it cannot distinguish its stores from its next loads. */
#define PAGE 4096
#define APART 2048
#define LINE 64

static char *away_from(int64_t offset, char *memory) {
    const uintptr_t aligned = ((uintptr_t)memory + LINE - 1) / LINE * LINE;
    const uintptr_t wanted = ((uintptr_t)offset + APART) / LINE * LINE;
    return (char *)(aligned + (wanted - aligned) % PAGE);
}

/* Called with each piece of the file while it is in the cache: its address, length and offset. */
typedef void (*seen_t)(const char *piece, int64_t bytes, int64_t offset);

/* Reads all rows of level 0 from a file through a strip, which has an even number of rows and stays in the cache. The
 * memory is two pages longer than the strip. Adds the pixels to a range unless it is NULL. Returns as `read_whole`. */
int32_t temwatch_take_file(level_t *level, int64_t levels, int32_t descriptor, const run_t *runs, int64_t run_count,
                           int64_t row_bytes, int32_t pixel_bytes, char *memory, int64_t strip_rows, seen_t seen,
                           range_t *range) {
    char *strip = memory;
    int64_t filled = 0;
    for (const run_t *run = runs; run < runs + run_count; run++) {
        int64_t offset = run->offset, left = run->rows;
        while (left > 0) {
            const int64_t room = strip_rows - filled, rows = left < room ? left : room;
            if (filled == 0) strip = away_from(offset, memory);
            const int32_t failed = read_whole(descriptor, strip + filled * row_bytes, rows * row_bytes, offset);
            if (failed) return failed;
            seen(strip + filled * row_bytes, rows * row_bytes, offset);
            if (range != NULL)
                temwatch_add_range(range, strip + filled * row_bytes, rows * row_bytes / pixel_bytes, pixel_bytes);
            offset += rows * row_bytes, left -= rows, filled += rows;
            if (filled == strip_rows) {
                temwatch_add_rows(level, levels, strip, row_bytes, filled, pixel_bytes);
                filled = 0;
            }
        }
    }
    temwatch_add_rows(level, levels, strip, row_bytes, filled, pixel_bytes);
    return WHOLE;
}
