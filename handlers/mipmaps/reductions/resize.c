/* Levels by the filters of Pillow's resize, row by row. While a row of level 0 is in the first-level cache, it is
 * filtered horizontally for each level, and added to the rows of the level whose windows contain it.
 *
 * The results equal those of Pillow, bit for bit; tests compare the two. 8 bits: integer weights of 22 bits; sums are
 * rounded half up and clipped in each direction. 16 bits: sums are doubles, added in the order of the pixels, and become
 * floats in each direction. Plain C without libraries, and without memory or state of its own.
 */

#include <stddef.h>
#include <stdint.h>

/* Tests define PORTABLE to compile the code for other processors. No fused multiplication, since Pillow has none. */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__gnu_linux__) && !defined(PORTABLE)
#define FAST __attribute__((target_clones("avx2", "default")))
#else
#define FAST
#endif
#define INLINE static inline __attribute__((always_inline))

#define LANES 16 /* columns of a level that are computed at once, which form a group */
#define MARGIN 4 /* zeros before the first block of a phase: windows begin at most 3 blocks before their pixel's block */
#define EDGE 3   /* rows and columns at each edge whose windows may be truncated */
#define PRECISION 22

typedef int32_t __attribute__((vector_size(32))) ints;
typedef double __attribute__((vector_size(32))) doubles;
typedef float __attribute__((vector_size(16), aligned(4), may_alias)) floats_at;
typedef int32_t __attribute__((vector_size(32), aligned(4), may_alias)) ints_at;
typedef double __attribute__((vector_size(32), aligned(8), may_alias)) doubles_at;

/* The order of the fields is that of `_Level` in resize_kernel.py. Of two types, the first is for 8 bits. */
typedef struct {
    int64_t width, height;
    int64_t number;     /* n: blocks have sides of 2^n */
    int64_t first;      /* first pixel of a window, relative to the beginning of the pixel's block */
    int64_t taps;       /* number of pixels in a window, whole blocks */
    int64_t stride;     /* distance of two phases */
    int64_t tail;       /* first group after group 0 whose windows may be truncated */
    void *out;          /* uint8_t or uint16_t: pixels of the level; NULL if they are not wanted */
    void *phases;       /* int32_t or float: phase p has pixel p of each block of the row */
    void *filtered;     /* int32_t or float: the row, filtered horizontally */
    void *sums;         /* int32_t or double: the rows of the level that are not complete */
    const void *across; /* int32_t or double, as all weights: weights of a window that is not truncated */
    const void *edges;  /* weights of group 0 and of the groups from `tail` on: for each tap, those of its columns */
    const void *down;   /* weights of the first rows, of a row between, and of the last rows */
} level_t;

/* Splits a phase of the level below, or a row of level 0, into the pixels of even and of odd blocks. */
#define SPLIT(NAME, FROM, TO)                                                                                          \
    FAST static void NAME(const FROM *from, int64_t count, TO *restrict even, TO *restrict odd) {                      \
        for (int64_t x = 0; x < count / 2; x++) even[x] = (TO)from[2 * x], odd[x] = (TO)from[2 * x + 1];               \
        if (count & 1) even[count / 2] = (TO)from[count - 1];                                                          \
    }
SPLIT(split_8, uint8_t, int32_t)
SPLIT(split_16, uint16_t, float)
SPLIT(split_ints, int32_t, int32_t)
SPLIT(split_floats, float, float)

static void split(const level_t *level, const void *row, int64_t width, int32_t pixel_bytes) {
    const int64_t half = 1 << (level->number - 1), count = (width + half - 1) / half;
    for (int64_t phase = 0; phase < half; phase++) {
        const int64_t even = phase * level->stride + MARGIN, odd = (phase + half) * level->stride + MARGIN;
        const int64_t before = level->number == 1 ? 0 : phase * level[-1].stride + MARGIN;
        if (pixel_bytes == 1) {
            int32_t *phases = level->phases;
            if (level->number == 1) split_8(row, count, phases + even, phases + odd);
            else split_ints((const int32_t *)level[-1].phases + before, count, phases + even, phases + odd);
        } else {
            float *phases = level->phases;
            if (level->number == 1) split_16(row, count, phases + even, phases + odd);
            else split_floats((const float *)level[-1].phases + before, count, phases + even, phases + odd);
        }
    }
}

INLINE int32_t clipped(int32_t sum) {
    const int32_t grey = sum >> PRECISION;
    return grey < 0 ? 0 : grey > 255 ? 255 : grey;
}

/* Iterates over a window: TAP uses `from`, the pixel of the first column, and `tap`. */
#define WALK(PHASE, TAP)                                                                                               \
    const int64_t side = (int64_t)1 << level->number, stride = level->stride, taps = level->taps;                      \
    int64_t phase = level->first & (side - 1);                                                                         \
    const PHASE *from = (const PHASE *)level->phases + phase * stride + MARGIN + (level->first >> level->number) + x;  \
    for (int64_t tap = 0; tap < taps; tap++) {                                                                         \
        TAP;                                                                                                           \
        from += stride;                                                                                                \
        if (++phase == side) phase = 0, from += 1 - side * stride;                                                     \
    }

#define INTS(FROM) (*(const ints_at *)(FROM))
#define DOUBLES(FROM) (*(const doubles_at *)(FROM))
#define FLOATS(FROM) __builtin_convertvector(*(const floats_at *)(FROM), doubles)

/* `edge` is 1 if each column has its own weights. */
INLINE void group_8(const level_t *level, int64_t x, const int32_t *weights, const int edge) {
    const ints half = (ints){0} + (1 << (PRECISION - 1));
    ints left = half, right = half;
    if (edge) {
        WALK(int32_t, left += INTS(from) * INTS(weights + LANES * tap);
             right += INTS(from + 8) * INTS(weights + LANES * tap + 8))
    } else {
        WALK(int32_t, left += INTS(from) * weights[tap]; right += INTS(from + 8) * weights[tap])
    }
    int32_t sums[LANES], *out = (int32_t *)level->filtered + x;
    *(ints_at *)sums = left, *(ints_at *)(sums + 8) = right;
    for (int lane = 0; lane < LANES; lane++) out[lane] = clipped(sums[lane]);
}

INLINE void group_16(const level_t *level, int64_t x, const double *weights, const int edge) {
    doubles a = {0}, b = {0}, c = {0}, d = {0};
    if (edge) {
        WALK(float, const double *own = weights + LANES * tap;
             a += FLOATS(from) * DOUBLES(own); b += FLOATS(from + 4) * DOUBLES(own + 4);
             c += FLOATS(from + 8) * DOUBLES(own + 8); d += FLOATS(from + 12) * DOUBLES(own + 12))
    } else {
        WALK(float, a += FLOATS(from) * weights[tap]; b += FLOATS(from + 4) * weights[tap];
             c += FLOATS(from + 8) * weights[tap]; d += FLOATS(from + 12) * weights[tap])
    }
    double sums[LANES];
    float *out = (float *)level->filtered + x;
    *(doubles_at *)sums = a, *(doubles_at *)(sums + 4) = b;
    *(doubles_at *)(sums + 8) = c, *(doubles_at *)(sums + 12) = d;
    for (int lane = 0; lane < LANES; lane++) out[lane] = (float)sums[lane];
}

#define ACROSS(NAME, WEIGHT, GROUP)                                                                                    \
    FAST static void NAME(const level_t *level) {                                                                      \
        const WEIGHT *own = level->edges;                                                                              \
        for (int64_t group = 0; group * LANES < level->width; group++) {                                               \
            if (group > 0 && group < level->tail) {                                                                    \
                GROUP(level, group * LANES, level->across, 0);                                                         \
                continue;                                                                                              \
            }                                                                                                          \
            GROUP(level, group * LANES, own, 1);                                                                       \
            own += LANES * level->taps;                                                                                \
        }                                                                                                              \
    }
ACROSS(across_8, int32_t, group_8)
ACROSS(across_16, double, group_16)

/* Adds a filtered row to a row of sums, which begins with START if the row is the first of its window. */
#define ADD(NAME, FILTERED, SUM, START)                                                                                \
    FAST static void NAME(SUM *restrict sums, const FILTERED *row, int64_t width, SUM weight, int is_first) {          \
        if (is_first)                                                                                                  \
            for (int64_t x = 0; x < width; x++) sums[x] = START + weight * (SUM)row[x];                                \
        else                                                                                                           \
            for (int64_t x = 0; x < width; x++) sums[x] += weight * (SUM)row[x];                                       \
    }
ADD(add_8, int32_t, int32_t, (1 << (PRECISION - 1)))
ADD(add_16, float, double, 0.0)

FAST static void write_8(uint8_t *restrict out, const int32_t *sums, int64_t width) {
    for (int64_t x = 0; x < width; x++) out[x] = (uint8_t)clipped(sums[x]);
}

/* Rounds to nearest, ties to even, when it is added: a float of this size has no fraction. */
#define WHOLE 8388608.0f

FAST static void write_16(uint16_t *restrict out, const double *sums, int64_t width) {
    for (int64_t x = 0; x < width; x++) {
        const float grey = (float)sums[x], positive = grey < 0 ? 0 : grey, within = positive > 65535 ? 65535 : positive;
        out[x] = (uint16_t)(int32_t)((within + WHOLE) - WHOLE);
    }
}

/* Adds row y of `height` to the rows of the level whose windows contain it, and writes the rows that it completes. */
static void down(const level_t *level, int64_t y, int64_t height, int32_t pixel_bytes) {
    const int64_t side = (int64_t)1 << level->number, slots = level->taps / side;
    int64_t row = (y - level->first - level->taps + side) >> level->number;
    for (row = row < 0 ? 0 : row; row < level->height && row * side + level->first <= y; row++) {
        const int64_t tap = y - (row * side + level->first), behind = level->height - row;
        const int64_t kind = row < EDGE ? row : behind <= EDGE ? 2 * EDGE + 1 - behind : EDGE;
        const int64_t weight = kind * level->taps + tap, slot = row % slots * level->width, at = row * level->width;
        const int is_first = tap == 0 || y == 0, is_last = tap == level->taps - 1 || y == height - 1;
        if (pixel_bytes == 1) {
            int32_t *sums = (int32_t *)level->sums + slot;
            add_8(sums, level->filtered, level->width, ((const int32_t *)level->down)[weight], is_first);
            if (is_last) write_8((uint8_t *)level->out + at, sums, level->width);
        } else {
            double *sums = (double *)level->sums + slot;
            add_16(sums, level->filtered, level->width, ((const double *)level->down)[weight], is_first);
            if (is_last) write_16((uint16_t *)level->out + at, sums, level->width);
        }
    }
}

/* Whether the window of any row of the level contains a row. */
static int is_used(const level_t *level, int64_t y) {
    return y < ((level->height - 1) << level->number) + level->first + level->taps;
}

/* Returns the size of level_t, with which a caller checks that its own is the same. */
int64_t temwatch_resized_level_bytes(void) { return (int64_t)sizeof(level_t); }

/* Processes rows of level 0, from row y on; `levels` begin with level 1. */
void temwatch_resize_rows(const level_t *levels, int64_t count, const void *rows, int64_t width, int64_t height,
                          int64_t y, int64_t row_count, int32_t pixel_bytes) {
    const char *row = rows;
    for (const int64_t end = y + row_count; y < end; y++, row += width * pixel_bytes) {
        for (const level_t *level = levels; level < levels + count; level++) {
            split(level, row, width, pixel_bytes);
            if (level->out == NULL || !is_used(level, y)) continue;
            if (pixel_bytes == 1) across_8(level);
            else across_16(level);
            down(level, y, height, pixel_bytes);
        }
    }
}

/* Copies every pixel at a distance of `side`, from the middle of the first block on. */
#define PICK(NAME, PIXEL)                                                                                              \
    FAST static void NAME(const PIXEL *row, PIXEL *restrict out, int64_t width, int64_t side) {                        \
        if (side == 2) /* a constant distance is vectorised */                                                         \
            for (int64_t x = 0; x < width; x++) out[x] = row[2 * x + 1];                                               \
        else                                                                                                           \
            for (int64_t x = 0; x < width; x++) out[x] = row[x * side + side / 2];                                     \
    }
PICK(pick_8, uint8_t)
PICK(pick_16, uint16_t)

/* The same for NEAREST, which takes the pixel to the lower right of each block's middle. A row serves one level. */
void temwatch_pick_rows(const level_t *levels, int64_t count, const void *rows, int64_t width, int64_t y,
                        int64_t row_count, int32_t pixel_bytes) {
    const char *row = rows;
    for (const int64_t end = y + row_count; y < end; y++, row += width * pixel_bytes) {
        const int number = y == 0 ? INT32_MAX : __builtin_ctzll((unsigned long long)y) + 1;
        if (number > count || levels[number - 1].out == NULL) continue;
        const level_t *level = levels + number - 1;
        const int64_t side = (int64_t)1 << number, at = y / side * level->width;
        if (y / side >= level->height) continue;
        if (pixel_bytes == 1) pick_8((const uint8_t *)row, (uint8_t *)level->out + at, level->width, side);
        else pick_16((const uint16_t *)row, (uint16_t *)level->out + at, level->width, side);
    }
}
