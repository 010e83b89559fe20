/* The tile for one type, REAL. Included by tile.h alone, for float and for double. */

#define LANES VECTOR_LANES(REAL)
#define VECTOR NAME(vector)

#if defined(FASTBP_PORTABLE)
typedef REAL VECTOR;

INLINE VECTOR NAME(load)(const REAL *p) { return *p; }
INLINE void NAME(store)(REAL *p, VECTOR v) { *p = v; }
INLINE VECTOR NAME(load_part)(const REAL *p, long n) { return n > 0 ? *p : 0; }
INLINE void NAME(store_part)(REAL *p, long n, VECTOR v) { if (n > 0) *p = v; }
INLINE VECTOR NAME(where_positive)(VECTOR condition, VECTOR v) { return condition <= 0 ? 0 : v; }
INLINE VECTOR NAME(larger)(VECTOR a, VECTOR b) { return a > b ? a : b; }
INLINE void NAME(totals)(const VECTOR v[4], REAL sums[4]) { memcpy(sums, v, 4 * sizeof(REAL)); }
#else
typedef REAL VECTOR __attribute__((vector_size(VECTOR_BYTES)));
typedef REAL NAME(unaligned)
    __attribute__((vector_size(VECTOR_BYTES), aligned(sizeof(REAL)), may_alias));
typedef INTEGER NAME(mask) __attribute__((vector_size(VECTOR_BYTES)));

INLINE VECTOR NAME(load)(const REAL *p) { return *(const NAME(unaligned) *)p; }
INLINE void NAME(store)(REAL *p, VECTOR v) { *(NAME(unaligned) *)p = v; }

/* The first n lanes, 0 < n < LANES, where nothing beyond them may be touched. */
INLINE VECTOR NAME(load_part)(const REAL *p, long n)
{
#ifdef MASKED_LOAD
    return MASKED_LOAD(p, n);
#else
    VECTOR v = {0};
    memcpy(&v, p, n * sizeof(REAL));
    return v;
#endif
}

INLINE void NAME(store_part)(REAL *p, long n, VECTOR v)
{
#ifdef MASKED_STORE
    MASKED_STORE(p, n, v);
#else
    memcpy(p, &v, n * sizeof(REAL));
#endif
}

/* v where the condition is above zero or NaN, so that a diverged network does not look healthy. */
INLINE VECTOR NAME(where_positive)(VECTOR condition, VECTOR v)
{
    const NAME(mask) zero = condition <= 0;
    return (VECTOR)((NAME(mask))v & ~zero);
}

/* The larger in each lane; b where a is NaN. */
INLINE VECTOR NAME(larger)(VECTOR a, VECTOR b)
{
    const NAME(mask) larger = a > b;
    return (VECTOR)(((NAME(mask))a & larger) | ((NAME(mask))b & ~larger));
}

/* Lane i of the result is lane from[i] of a, b side by side; `from` is a constant. */
INLINE VECTOR NAME(shuffle)(VECTOR a, VECTOR b, NAME(mask) from)
{
#if defined(__clang__)
    VECTOR result;
#pragma GCC unroll 16
    for (long i = 0; i < LANES; i++)
        result[i] = from[i] < LANES ? a[from[i]] : b[from[i] - LANES];
    return result;
#else
    return __builtin_shuffle(a, b, from);
#endif
}

/* v[i] + v[i ^ step] in every lane. step is a constant wherever this is inlined. */
INLINE VECTOR NAME(add_partner)(VECTOR v, const long step)
{
    NAME(mask) partner = {0};
#pragma GCC unroll 16
    for (long i = 0; i < LANES; i++)
        partner[i] = i ^ step;
    return v + NAME(shuffle)(v, v, partner);
}

/* Two vectors into one, half as deep: lanes of `block` of a, then of b, each added to the next. */
INLINE VECTOR NAME(fold)(VECTOR a, VECTOR b, const long block)
{
    NAME(mask) even = {0}, odd = {0};
#pragma GCC unroll 16
    for (long i = 0; i < LANES; i++) {
        /* lane i holds part of sum number i / block; blocks of a come first */
        const long from = i % (LANES / 2) / block * 2 * block + i % block;
        even[i] = from + (i >= LANES / 2 ? LANES : 0);
        odd[i] = even[i] + block;
    }
    return NAME(shuffle)(a, b, even) + NAME(shuffle)(a, b, odd);
}

/* The sums over the lanes of four vectors. */
INLINE void NAME(totals)(const VECTOR v[4], REAL sums[4])
{
#if VECTOR_BYTES >= 32
    VECTOR w = NAME(fold)(
        NAME(fold)(v[0], v[1], LANES / 2), NAME(fold)(v[2], v[3], LANES / 2), LANES / 4);
    if (LANES / 4 > 2)
        w = NAME(add_partner)(w, 2);
    if (LANES / 4 > 1)
        w = NAME(add_partner)(w, 1);
#pragma GCC unroll 4
    for (int r = 0; r < 4; r++)
        sums[r] = w[r * (LANES / 4)];
#else
    for (int r = 0; r < 4; r++) {
        sums[r] = 0;
        for (long i = 0; i < LANES; i++)
            sums[r] += v[r][i];
    }
#endif
}
#endif

INLINE VECTOR NAME(load_width)(const REAL *p, long n, int partial)
{
    return partial ? NAME(load_part)(p, n) : NAME(load)(p);
}

/* C (rows x width) := end(A B), width <= vectors * LANES.
   A[i, k] is A[i * a_row + k * a_step], with order[i] for i unless that is NULL; row k of B starts
   at B + k * b_step and is read for all lanes. rows and vectors are constants wherever this is
   inlined, and so is an order of NULL. */
INLINE void NAME(tile_of)(
    const int rows, const int vectors, long depth,
    const REAL *A, const ptrdiff_t *order, long a_row, long a_step, const REAL *B, long b_step,
    REAL *C, long c_row, long width, const struct tile_end *end)
{
    VECTOR sum[TILE_ROWS][2];
    long from_first[TILE_ROWS];     /* how far each row of A is from the first */
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
        from_first[i] = (order ? order[i] - order[0] : i) * a_row;
    if (order)
        A += order[0] * a_row;
#pragma GCC unroll 8
    for (int i = 0; i < rows; i++)
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            sum[i][v] = (VECTOR){0};
    /* unrolled, as counting would take turns from the multiply-adds */
#pragma GCC unroll 4
    for (long k = 0; k < depth; k++) {
        VECTOR b[2];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; v++)
            b[v] = NAME(load)(B + v * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            REAL a = A[from_first[i]];
#pragma GCC unroll 2
            for (int v = 0; v < vectors; v++)
                sum[i][v] += b[v] * a;
        }
        A += a_step;
        B += b_step;
    }
#pragma GCC unroll 2
    for (int v = 0; v < vectors; v++) {
        const long at = v * LANES, left = width - at;
        const int partial = left < LANES;
        const REAL *const bias = end->bias, *const gate = end->gate;
        const VECTOR first = bias ? NAME(load)(bias + at) : (VECTOR){0};
#pragma GCC unroll 8
        for (int i = 0; i < rows; i++) {
            REAL *c = C + i * c_row + at;
            VECTOR s = sum[i][v];
            if (end->kind == TILE_FORWARD) {
                s += bias ? first : NAME(load_width)(c, left, partial);
                if (end->cut)
                    s = NAME(where_positive)(s, s);
            } else if (end->kind == TILE_GATED) {
                s = NAME(where_positive)(
                    NAME(load_width)(gate + i * c_row + at, left, partial), s);
            } else if (end->kind == TILE_UPDATE) {
                s *= (REAL)end->alpha;
                if (end->beta != 0)     /* beta = 0 overwrites whatever is there, NaN too */
                    s += (REAL)end->beta * NAME(load_width)(c, left, partial);
            }
            if (partial)
                NAME(store_part)(c, left, s);
            else
                NAME(store)(c, s);
        }
    }
}

/* As tile_of, for any 1 <= rows <= TILE_ROWS and 0 < width <= 2 * LANES. Two functions: what a tile
   of few steps takes to ask for the order would be seen in its time. */
#define CASE(r, order) \
    case r: \
        if (width > LANES) \
            NAME(tile_of)(r, 2, depth, A, order, a_row, a_step, B, b_step, C, c_row, width, end); \
        else \
            NAME(tile_of)(r, 1, depth, A, order, a_row, a_step, B, b_step, C, c_row, width, end); \
        break;
#if TILE_ROWS == 8
#define LAST_CASES(order) CASE(7, order) CASE(8, order)
#else
#define LAST_CASES(order)
#endif
#define CASES(order) CASE(1, order) CASE(2, order) CASE(3, order) CASE(4, order) \
    CASE(5, order) CASE(6, order) LAST_CASES(order)

static inline void NAME(tile)(
    long rows, long depth,
    const REAL *A, long a_row, long a_step, const REAL *B, long b_step,
    REAL *C, long c_row, long width, const struct tile_end *end)
{
    switch (rows) { CASES(NULL) }
}

static inline void NAME(ordered_tile)(
    long rows, long depth,
    const REAL *A, const ptrdiff_t *order, long a_row, const REAL *B, long b_step,
    REAL *C, long c_row, long width, const struct tile_end *end)
{
    const long a_step = 1;
    switch (rows) { CASES(order) }
}
#undef CASE
#undef CASES
#undef LAST_CASES

/* Whether none of n elements is NaN or infinite: x * 0 is 0 for every other x, and NaN for those. */
static inline int NAME(all_finite)(long n, const REAL *x)
{
    VECTOR sum[4] = {0};
    REAL sums[4];
    long k = 0;
    for (; k + 4 * LANES <= n; k += 4 * LANES)
#pragma GCC unroll 4
        for (int v = 0; v < 4; v++)
            sum[v] += NAME(load)(x + k + v * LANES) * (REAL)0;
    for (; k + LANES <= n; k += LANES)
        sum[0] += NAME(load)(x + k) * (REAL)0;
    if (k < n)
        sum[1] += NAME(load_part)(x + k, n - k) * (REAL)0;
    NAME(totals)(sum, sums);
    return sums[0] + sums[1] + sums[2] + sums[3] == 0;
}

/* The largest of n > 0 elements, as if a NaN were not there. */
static inline REAL NAME(largest)(long n, const REAL *x)
{
    REAL result = x[0];
    long k = 0;
    if (n >= LANES) {
        REAL lanes[LANES];
        VECTOR most = NAME(load)(x);
        for (k = LANES; k + LANES <= n; k += LANES)
            most = NAME(larger)(NAME(load)(x + k), most);
        NAME(store)(lanes, most);
        for (long i = 0; i < LANES; i++)
            result = lanes[i] > result ? lanes[i] : result;
    }
    for (; k < n; k++)
        result = x[k] > result ? x[k] : result;
    return result;
}

/* The sum of t[k] (x[k] - origin) over n elements; t may be NULL, for ones. */
INLINE REAL NAME(sum_from)(long n, const REAL *t, const REAL *x, REAL origin)
{
    const long whole = n - n % LANES;
    REAL sums[4], total = 0;
    if (whole) {
        VECTOR part[4] = {0};
        for (long k = 0; k < whole; k += LANES) {
            const VECTOR v = NAME(load)(x + k) - origin;
            part[0] += t ? NAME(load)(t + k) * v : v;
        }
        NAME(totals)(part, sums);
        total = sums[0];
    }
    for (long k = whole; k < n; k++)
        total += t ? t[k] * (x[k] - origin) : x[k] - origin;
    return total;
}

static inline REAL NAME(sum)(long n, const REAL *x)
{
    return NAME(sum_from)(n, 0, x, 0);
}

static inline REAL NAME(weighted_sum)(long n, const REAL *t, const REAL *x, REAL origin)
{
    return NAME(sum_from)(n, t, x, origin);
}

/* w / (c sqrt(v) + eps). With a fast estimate of an inverse root, one step of Newton's leaves an
   error of a few units in the last place. The quotient is a division: the divider works beside what
   multiplies, which has enough to do. */
INLINE VECTOR NAME(over_root)(VECTOR w, VECTOR v, REAL c, REAL eps)
{
#if defined(FASTBP_PORTABLE)
    return w / (c * ROOT(v) + eps);
#elif defined(RSQRT)
    const VECTOR y = (VECTOR)RSQRT(v + SMALLEST);       /* of 0 it would be infinite */
    const VECTOR s = v * y;
    return w / ((REAL)0.5 * c * s * ((REAL)3 - s * y) + eps);
#else
    VECTOR y;
#pragma GCC unroll 16
    for (long i = 0; i < LANES; i++)
        y[i] = ROOT(v[i]);
    return w / (c * y + eps);
#endif
}

/* x[k] := 1 / (c sqrt(x[k]) + eps) for n elements of at least zero, and for those that fill up the
   last vector. */
static inline void NAME(inverse_roots)(long n, REAL c, REAL eps, REAL *x)
{
    const VECTOR one = (VECTOR){0} + 1;
    for (long k = 0; k < n; k += LANES)
        NAME(store)(x + k, NAME(over_root)(one, NAME(load)(x + k), c, eps));
}

INLINE void NAME(store_width)(REAL *p, long n, int partial, VECTOR v)
{
    if (partial)
        NAME(store_part)(p, n, v);
    else
        NAME(store)(p, v);
}

/* One vector of root_step, or its first n lanes. */
INLINE void NAME(root_step_of)(
    const struct root_step *s, REAL *theta, const REAL *g, REAL *m, REAL *v, REAL *most, long n,
    const int partial)
{
    const VECTOR d = NAME(load_width)(g, n, partial);
    VECTOR w = (REAL)s->keep_square * NAME(load_width)(v, n, partial)
        + (REAL)s->new_square * d * d;
    NAME(store_width)(v, n, partial, w);
    VECTOR way;
    if (m) {
        VECTOR mean = NAME(load_width)(m, n, partial);
        mean += (REAL)s->new_mean * (d - mean);
        NAME(store_width)(m, n, partial, mean);
        way = (REAL)s->by_mean * mean;
        if (s->direct != 0)
            way += (REAL)s->direct * d;
    } else {
        way = (REAL)s->direct * d;
    }
    if (most) {
        w = NAME(larger)(NAME(load_width)(most, n, partial), w);
        NAME(store_width)(most, n, partial, w);
    }
    const VECTOR here = (REAL)s->shrink * NAME(load_width)(theta, n, partial);
    NAME(store_width)(theta, n, partial,
                      here - NAME(over_root)(way, w, (REAL)s->root, (REAL)s->epsilon));
}

/* v := keep_square v + new_square g^2, m := m + new_mean (g - m), most := max(most, v), and
   theta := shrink theta - (direct g + by_mean m) / (root sqrt(most or v) + epsilon), where m and
   `most` may be NULL. One pass over all of them. */
static inline void NAME(root_step)(
    const struct root_step *s, long n, REAL *theta, const REAL *g, REAL *m, REAL *v, REAL *most)
{
    const struct root_step own = *s;                    /* which no store here changes */
    const long whole = n - n % LANES;
    if (m && !most)
        for (long k = 0; k < whole; k += LANES)
            NAME(root_step_of)(&own, theta + k, g + k, m + k, v + k, 0, LANES, 0);
    else if (m)
        for (long k = 0; k < whole; k += LANES)
            NAME(root_step_of)(&own, theta + k, g + k, m + k, v + k, most + k, LANES, 0);
    else
        for (long k = 0; k < whole; k += LANES)
            NAME(root_step_of)(&own, theta + k, g + k, 0, v + k, 0, LANES, 0);
    if (whole < n)
        NAME(root_step_of)(&own, theta + whole, g + whole, m ? m + whole : 0, v + whole,
                           most ? most + whole : 0, n - whole, 1);
}

/* The indices of what is not zero among n elements, and how many there are. `listed` has room for
   n and one vector more. */
static inline int NAME(list_nonzero)(long n, const REAL *x, int *listed)
{
    int count = 0;
    long k = 0;
#if defined(__AVX512F__) && !defined(FASTBP_PORTABLE)
    __m512i indices = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    for (; k + LANES <= n; k += LANES) {
        const unsigned some = NONZERO(NAME(load)(x + k));
        _mm512_storeu_si512(listed + count, _mm512_maskz_compress_epi32((__mmask16)some, indices));
        count += __builtin_popcount(some);
        indices = _mm512_add_epi32(indices, _mm512_set1_epi32((int)LANES));
    }
#elif defined(__AVX2__) && !defined(FASTBP_PORTABLE)
    /* most vectors of an input are without zeros, or all zeros behind a relu */
    for (; k + LANES <= n; k += LANES) {
        const int some = NONZERO_BITS(NAME(load)(x + k));
        if (some == (1 << LANES) - 1) {
            for (int i = 0; i < LANES; i++)
                listed[count + i] = (int)k + i;
            count += (int)LANES;
        } else if (some) {
            for (int i = 0; i < LANES; i++) {
                listed[count] = (int)k + i;
                count += some >> i & 1;
            }
        }
    }
#endif
    for (; k < n; k++) {
        listed[count] = (int)k;
        count += x[k] != 0;
    }
    return count;
}

/* The dot products of up to four rows with x, of the `count` rows from `start` on. */
INLINE void NAME(dots)(
    const int ways, long count, long start, const int *rows, long depth, const REAL *A,
    const REAL *x, REAL *y)
{
    const long whole = depth - depth % LANES, rest = depth - whole;
    long row[4];
    const REAL *a[4];
    VECTOR sum[4] = {0};
    REAL sums[4];
#pragma GCC unroll 4
    for (int r = 0; r < ways; r++) {
        const long at = r < count ? start + r : start;
        row[r] = rows ? rows[at] : at;
        a[r] = A + row[r] * depth;
    }
    for (long k = 0; k < whole; k += LANES) {
        const VECTOR b = NAME(load)(x + k);
#pragma GCC unroll 4
        for (int r = 0; r < ways; r++)
            sum[r] += NAME(load)(a[r] + k) * b;
    }
    if (rest) {
        const VECTOR b = NAME(load_part)(x + whole, rest);
#pragma GCC unroll 4
        for (int r = 0; r < ways; r++)
            sum[r] += NAME(load_part)(a[r] + whole, rest) * b;
    }
    NAME(totals)(sum, sums);
    for (int r = 0; r < ways && r < count; r++)
        y[row[r]] = sums[r];
}

/* y[i] := sum_k A[i, k] x[k] for row-major A, for the `count` rows i in `rows` (NULL: the first),
   four at a time. */
static inline void NAME(rows_dot)(
    long count, const int *rows, long depth, const REAL *A, const REAL *x, REAL *y)
{
    long start = 0;
    for (; start + 1 < count; start += 4)
        NAME(dots)(4, count - start, start, rows, depth, A, x, y);
    if (start < count)
        NAME(dots)(1, 1, start, rows, depth, A, x, y);
}

/* One stretch of combine: `ways` rows of A at a time keep as many chains of sums busy. */
INLINE void NAME(combine_of)(
    const int vectors, const int ways, const int packed, long count, const int *rows,
    const REAL *x, const REAL *A, long a_row, REAL alpha, REAL *z, long width)
{
    const long last = width - (vectors - 1) * LANES;
    VECTOR sum[4][8];
#pragma GCC unroll 4
    for (int w = 0; w < ways; w++)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            sum[w][v] = (VECTOR){0};
    long start = 0;
    for (; start + ways <= count; start += ways)
#pragma GCC unroll 4
        for (int w = 0; w < ways; w++) {
            const long k = rows[start + w];
            const REAL *a = A + k * a_row;
            const REAL factor = x[packed ? start + w : k];
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++)
                sum[w][v] += factor * (v < vectors - 1 ? NAME(load)(a + v * LANES)
                    : NAME(load_width)(a + v * LANES, last, last < LANES));
        }
    for (; start < count; start++) {
        const long k = rows[start];
        const REAL *a = A + k * a_row;
        const REAL factor = x[packed ? start : k];
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++)
            sum[0][v] += factor * (v < vectors - 1 ? NAME(load)(a + v * LANES)
                : NAME(load_width)(a + v * LANES, last, last < LANES));
    }
#pragma GCC unroll 8
    for (int v = 0; v < vectors; v++) {
        REAL *p = z + v * LANES;
        VECTOR s = sum[0][v];
#pragma GCC unroll 4
        for (int w = 1; w < ways; w++)
            s += sum[w][v];
        if (v < vectors - 1 || last == LANES)
            NAME(store)(p, NAME(load)(p) + alpha * s);
        else
            NAME(store_part)(p, last, NAME(load_part)(p, last) + alpha * s);
    }
}

/* z[j] += alpha sum_k x[k] A[k, j] over the `count` rows k in `rows`; where x is packed, it has
   elements for these rows only. */
INLINE void NAME(combine)(
    const int packed, long count, const int *rows, long columns, const REAL *x, const REAL *A,
    long a_row, REAL alpha, REAL *z)
{
    for (long j = 0; j < columns;) {
        const long left = columns - j;
        long width;
#define STRETCH(vectors, ways) \
        width = left < (vectors) * LANES ? left : (vectors) * LANES; \
        NAME(combine_of)(vectors, ways, packed, count, rows, x, A + j, a_row, alpha, z + j, width);
        if (left > 4 * LANES && left <= 7 * LANES) {
            STRETCH(4, 2)
        } else if (left > 4 * LANES) {
            STRETCH(8, 1)
        } else if (left > 3 * LANES) {
            STRETCH(4, 2)
        } else if (left > 2 * LANES) {
            STRETCH(3, 2)
        } else if (left > LANES) {
            STRETCH(2, 4)
        } else {
            STRETCH(1, 4)
        }
#undef STRETCH
        j += width;
    }
}

static inline void NAME(combine_rows)(
    long count, const int *rows, long columns, const REAL *x, const REAL *A, long a_row,
    REAL alpha, REAL *z)
{
    NAME(combine)(0, count, rows, columns, x, A, a_row, alpha, z);
}

static inline void NAME(combine_packed)(
    long count, const int *rows, long columns, const REAL *x, const REAL *A, REAL *z)
{
    NAME(combine)(1, count, rows, columns, x, A, columns, 1, z);
}

/* beta c + scale d, for one vector; beta = 0 overwrites whatever is there, NaN too. */
INLINE VECTOR NAME(blend)(REAL beta, const REAL *c, REAL scale, const REAL *d, long n, int partial)
{
    const VECTOR v = scale * NAME(load_width)(d, n, partial);
    return beta == 0 ? v : v + beta * NAME(load_width)(c, n, partial);
}

/* C[i, j] := beta C[i, j] + alpha x[i] d[j] for the `count` rows i in `rows` (NULL: the first);
   where x is packed, it has elements for these rows only.
   Storing a vector that lies in two cache lines is slow: only the first and the last of a row do,
   and those in between, which start on a line, store some of the same once more. Long rows of whole
   vectors need none of that, and are fetched faster in the order in which they lie. */
INLINE void NAME(add_outer_of)(
    const int packed, long count, const int *rows, long columns, REAL alpha, const REAL *x,
    const REAL *d, REAL beta, REAL *C)
{
    const long end = columns - LANES;
    const int ordered = beta != 0 && columns % LANES == 0 && columns >= 8 * LANES;
    for (long start = 0; start < count; start++) {
        const long i = rows ? rows[start] : start;
        const REAL scale = alpha * x[packed ? start : i];
        REAL *c = C + i * columns;
        if (end < 0) {
            NAME(store_part)(c, columns, NAME(blend)(beta, c, scale, d, columns, 1));
            continue;
        }
        if (ordered && (size_t)c % sizeof(VECTOR) == 0) {
            for (long j = 0; j < columns; j += LANES)
                NAME(store)(c + j, NAME(blend)(beta, c + j, scale, d + j, LANES, 0));
            continue;
        }
        const VECTOR first = NAME(blend)(beta, c, scale, d, LANES, 0);
        const VECTOR last = NAME(blend)(beta, c + end, scale, d + end, LANES, 0);
        long j = LANES - (long)((size_t)c / sizeof(REAL) % LANES);
        for (; j < end; j += LANES)
            NAME(store)(c + j, NAME(blend)(beta, c + j, scale, d + j, LANES, 0));
        NAME(store)(c, first);
        NAME(store)(c + end, last);
    }
}

static inline void NAME(add_outer)(
    long count, const int *rows, long columns, REAL alpha, const REAL *x, const REAL *d,
    REAL beta, REAL *C)
{
    NAME(add_outer_of)(0, count, rows, columns, alpha, x, d, beta, C);
}

static inline void NAME(add_outer_packed)(
    long count, const int *rows, long columns, REAL alpha, const REAL *x, const REAL *d, REAL *C)
{
    NAME(add_outer_of)(1, count, rows, columns, alpha, x, d, 1, C);
}

#if !defined(FASTBP_PORTABLE)
/* Swaps the off-diagonal blocks of size `block` of the square matrix v. */
INLINE void NAME(swap_blocks)(VECTOR *v, const long block)
{
    NAME(mask) low = {0}, high = {0};
#pragma GCC unroll 16
    for (long i = 0; i < LANES; i++) {
        low[i] = (i & block) ? LANES + i - block : i;
        high[i] = (i & block) ? LANES + i : i + block;
    }
#pragma GCC unroll 16
    for (long i = 0; i < LANES; i++)
        if (!(i & block)) {
            const VECTOR a = v[i], b = v[i + block];
            v[i] = NAME(shuffle)(a, b, low);
            v[i + block] = NAME(shuffle)(a, b, high);
        }
}
#endif

/* B[k, c] := A[c, k] for c < rows and k < depth; A and B with rows of a_row and b_row. */
static inline void NAME(transpose)(
    long rows, long depth, const REAL *A, long a_row, REAL *B, long b_row)
{
    for (long c = 0; c < rows; c += LANES)
        for (long k = 0; k < depth; k += LANES) {
            const long left = rows - c;
            VECTOR v[VECTOR_LANES(REAL)];
#pragma GCC unroll 16
            for (long i = 0; i < LANES; i++) {
                const REAL *a = A + (i < left ? c + i : rows - 1) * a_row + k;
                PREFETCH(a + 8 * LANES);
                v[i] = NAME(load)(a);
            }
#if !defined(FASTBP_PORTABLE)
            if (LANES > 8)
                NAME(swap_blocks)(v, 8);
            if (LANES > 4)
                NAME(swap_blocks)(v, 4);
            if (LANES > 2)
                NAME(swap_blocks)(v, 2);
            NAME(swap_blocks)(v, 1);
#endif
#pragma GCC unroll 16
            for (long i = 0; i < LANES; i++)
                if (k + i < depth) {
                    REAL *b = B + (k + i) * b_row + c;
                    if (left < LANES)
                        NAME(store_part)(b, left, v[i]);
                    else
                        NAME(store)(b, v[i]);
                }
        }
}

#undef LANES
#undef VECTOR
