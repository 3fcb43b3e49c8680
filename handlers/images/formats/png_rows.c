/* Undoes the filters of PNG rows. Plain C without libraries, memory or state of its own.
 *
 * Source: PNG specification, third edition, section 9.
 */

#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

enum filter { NONE, SUB, UP, AVERAGE, PAETH };

/* The neighbour that is nearest to left + above - corner; the first of left, above, corner if two are as near. */
INLINE uint8_t nearest(int left, int above, int corner) {
    const int to_left = above - corner, to_above = left - corner, to_corner = to_left + to_above;
    const int a = to_left < 0 ? -to_left : to_left, b = to_above < 0 ? -to_above : to_above;
    const int c = to_corner < 0 ? -to_corner : to_corner;
    const int of_two = b < a ? above : left, distance = b < a ? b : a;
    return (uint8_t)(c < distance ? corner : of_two);
}

/* Iterates over a row; VALUE uses `left` and `corner`, the bytes of the pixel to the left in this row and above. */
#define WALK(VALUE)                                                                                                    \
    for (int part = 0; part < pixel_bytes; part++) {                                                                   \
        uint8_t left = 0, corner = 0;                                                                                  \
        for (int64_t x = part; x < row_bytes; x += pixel_bytes) {                                                      \
            left = (uint8_t)(in[x] + (VALUE));                                                                         \
            corner = above[x];                                                                                         \
            out[x] = left;                                                                                             \
        }                                                                                                              \
        (void)corner;                                                                                                  \
    }

INLINE int undo(int filter, const uint8_t *restrict in, const uint8_t *restrict above, uint8_t *restrict out,
                int64_t row_bytes, const int pixel_bytes) {
    switch (filter) {
    case NONE: memcpy(out, in, (size_t)row_bytes); return 1;
    case UP:
        for (int64_t x = 0; x < row_bytes; x++) out[x] = (uint8_t)(in[x] + above[x]);
        return 1;
    case SUB: WALK(left) return 1;
    case AVERAGE: WALK((left + above[x]) >> 1) return 1;
    case PAETH: WALK(nearest(left, above[x], corner)) return 1;
    }
    return 0;
}

/* Undoes the filters of rows. Each of `rows` begins with the number of its filter.
 *
 * above: the row above the first one; zeros above the first row of an image.
 * out: receives the rows without these numbers, in the byte order of the file.
 * Returns 1, or 0 if a row has an unknown filter.
 */
int32_t temwatch_unfilter(const uint8_t *rows, int64_t row_count, int64_t row_bytes, int32_t pixel_bytes,
                          const uint8_t *above, uint8_t *out) {
    for (int64_t row = 0; row < row_count; row++, rows += row_bytes + 1, above = out, out += row_bytes) {
        const int is_known = pixel_bytes == 1 ? undo(rows[0], rows + 1, above, out, row_bytes, 1)
                                              : undo(rows[0], rows + 1, above, out, row_bytes, 2);
        if (!is_known) return 0;
    }
    return 1;
}
