"""The register tile of tile.h and its kin, for either type."""
from .records cimport real

cdef extern from "tile.h" nogil:
    enum:
        HAS_TILES
        TILE_ROWS
        TILE_FORWARD
        TILE_GATED
        TILE_PLAIN
        TILE_UPDATE

    void PREFETCH(const void*) noexcept
    int FIRST_BIT(unsigned long long) noexcept
    long VECTOR_LANES_f32 "VECTOR_LANES(float)"
    long VECTOR_LANES_f64 "VECTOR_LANES(double)"

    cdef struct tile_end:
        int kind
        bint cut
        double alpha
        double beta
        const void* bias
        const void* gate

    cdef struct root_step:
        double keep_square
        double new_square
        double new_mean
        double direct
        double by_mean
        double root
        double epsilon
        double shrink

    void root_step_f32(
        const root_step*, long, float*, const float*, float*, float*, float*) noexcept
    void root_step_f64(
        const root_step*, long, double*, const double*, double*, double*, double*) noexcept
    void tile_f32(
        long, long, const float*, long, long, const float*, long, float*, long, long,
        const tile_end*) noexcept
    void tile_f64(
        long, long, const double*, long, long, const double*, long, double*, long, long,
        const tile_end*) noexcept
    void ordered_tile_f32(
        long, long, const float*, const Py_ssize_t*, long, const float*, long, float*, long, long,
        const tile_end*) noexcept
    void ordered_tile_f64(
        long, long, const double*, const Py_ssize_t*, long, const double*, long, double*, long,
        long, const tile_end*) noexcept
    void rows_dot_f32(long, const int*, long, const float*, const float*, float*) noexcept
    void rows_dot_f64(long, const int*, long, const double*, const double*, double*) noexcept
    bint all_finite_f32(long, const float*) noexcept
    bint all_finite_f64(long, const double*) noexcept
    float largest_f32(long, const float*) noexcept
    double largest_f64(long, const double*) noexcept
    float sum_f32(long, const float*) noexcept
    double sum_f64(long, const double*) noexcept
    float weighted_sum_f32(long, const float*, const float*, float) noexcept
    double weighted_sum_f64(long, const double*, const double*, double) noexcept
    void inverse_roots_f32(long, float, float, float*) noexcept
    void inverse_roots_f64(long, double, double, double*) noexcept
    int list_nonzero_f32(long, const float*, int*) noexcept
    int list_nonzero_f64(long, const double*, int*) noexcept
    void combine_rows_f32(
        long, const int*, long, const float*, const float*, long, float, float*) noexcept
    void combine_rows_f64(
        long, const int*, long, const double*, const double*, long, double, double*) noexcept
    void add_outer_f32(
        long, const int*, long, float, const float*, const float*, float, float*) noexcept
    void add_outer_f64(
        long, const int*, long, double, const double*, const double*, double, double*) noexcept
    void combine_packed_f32(
        long, const int*, long, const float*, const float*, float*) noexcept
    void combine_packed_f64(
        long, const int*, long, const double*, const double*, double*) noexcept
    void add_outer_packed_f32(
        long, const int*, long, float, const float*, const float*, float*) noexcept
    void add_outer_packed_f64(
        long, const int*, long, double, const double*, const double*, double*) noexcept
    void transpose_f32(long, long, const float*, long, float*, long) noexcept
    void transpose_f64(long, long, const double*, long, double*, long) noexcept


cdef inline Py_ssize_t panel_width(size_t item) noexcept nogil:
    """Columns of one tile, two vectors, for elements of this size."""
    return 2 * (VECTOR_LANES_f32 if item == sizeof(float) else VECTOR_LANES_f64)


cdef inline void tile(
    Py_ssize_t rows, Py_ssize_t depth, const real* A, Py_ssize_t a_row, Py_ssize_t a_step,
    const real* B, Py_ssize_t b_row, real* C, Py_ssize_t c_row, Py_ssize_t width,
    const tile_end* end,
) noexcept nogil:
    """C (rows x width) := end(A B), for at most TILE_ROWS rows and one panel's width.

    A[i, k] lies at A + i a_row + k a_step.
    """
    if real is float:
        tile_f32(rows, depth, A, a_row, a_step, B, b_row, C, c_row, width, end)
    else:
        tile_f64(rows, depth, A, a_row, a_step, B, b_row, C, c_row, width, end)


cdef inline void ordered_tile(
    Py_ssize_t rows, Py_ssize_t depth, const real* A, const Py_ssize_t* order, Py_ssize_t a_row,
    const real* B, Py_ssize_t b_row, real* C, Py_ssize_t c_row, Py_ssize_t width,
    const tile_end* end,
) noexcept nogil:
    """As `tile`, where A[i, k] lies at A + order[i] a_row + k."""
    if real is float:
        ordered_tile_f32(rows, depth, A, order, a_row, B, b_row, C, c_row, width, end)
    else:
        ordered_tile_f64(rows, depth, A, order, a_row, B, b_row, C, c_row, width, end)


cdef inline bint all_finite(const real* x, Py_ssize_t n) noexcept nogil:
    """Whether none of n elements is NaN or infinite."""
    if real is float:
        return all_finite_f32(n, x)
    else:
        return all_finite_f64(n, x)


cdef inline real largest(const real* x, Py_ssize_t n) noexcept nogil:
    """The largest of n > 0 elements, as if a NaN were not there."""
    if real is float:
        return largest_f32(n, x)
    else:
        return largest_f64(n, x)


cdef inline real sum_of(const real* x, Py_ssize_t n) noexcept nogil:
    if real is float:
        return sum_f32(n, x)
    else:
        return sum_f64(n, x)


cdef inline real weighted_sum(
    const real* weights, const real* x, real origin, Py_ssize_t n,
) noexcept nogil:
    """The sum of weights[j] (x[j] - origin)."""
    if real is float:
        return weighted_sum_f32(n, weights, x, origin)
    else:
        return weighted_sum_f64(n, weights, x, origin)


cdef inline void inverse_roots(Py_ssize_t n, real c, real eps, real* x) noexcept nogil:
    """x[k] := 1 / (c sqrt(x[k]) + eps), also for those that fill up the last vector."""
    if real is float:
        inverse_roots_f32(n, c, eps, x)
    else:
        inverse_roots_f64(n, c, eps, x)


cdef inline void step_by_root(
    const root_step* step, Py_ssize_t n, real* theta, const real* g, real* m, real* v, real* most,
) noexcept nogil:
    """Update n parameters theta by their gradient g; m and `most` may be NULL. See tile_body.h."""
    if real is float:
        root_step_f32(step, n, theta, g, m, v, most)
    else:
        root_step_f64(step, n, theta, g, m, v, most)


cdef inline int list_nonzero(const real* x, Py_ssize_t n, int* listed) noexcept nogil:
    """The indices of what is not zero, and how many there are; listed has room for n + 16."""
    if real is float:
        return list_nonzero_f32(n, x, listed)
    else:
        return list_nonzero_f64(n, x, listed)


cdef inline void rows_dot(
    Py_ssize_t count, const int* rows, Py_ssize_t depth, const real* A, const real* x, real* y,
) noexcept nogil:
    """y[i] := A[i] . x for the `count` rows i listed (NULL: the first), A with `depth` columns."""
    if real is float:
        rows_dot_f32(count, rows, depth, A, x, y)
    else:
        rows_dot_f64(count, rows, depth, A, x, y)


cdef inline void combine_listed(
    Py_ssize_t count, const int* rows, Py_ssize_t columns, const real* x, const real* A,
    real alpha, real* z,
) noexcept nogil:
    """z += alpha sum_k x[k] A[k] over the `count` rows k listed, A with `columns` columns."""
    if real is float:
        combine_rows_f32(count, rows, columns, x, A, columns, alpha, z)
    else:
        combine_rows_f64(count, rows, columns, x, A, columns, alpha, z)


cdef inline void add_outer(
    Py_ssize_t count, const int* rows, Py_ssize_t columns, real alpha, const real* x,
    const real* d, real beta, real* C,
) noexcept nogil:
    """C[i] := beta C[i] + alpha x[i] d for the `count` rows i listed."""
    if real is float:
        add_outer_f32(count, rows, columns, alpha, x, d, beta, C)
    else:
        add_outer_f64(count, rows, columns, alpha, x, d, beta, C)


cdef inline void combine_packed(
    Py_ssize_t count, const int* rows, Py_ssize_t columns, const real* x, const real* A, real* z,
) noexcept nogil:
    """z += sum_k x[k] A[rows[k]] for k < count, A with `columns` columns."""
    if real is float:
        combine_packed_f32(count, rows, columns, x, A, z)
    else:
        combine_packed_f64(count, rows, columns, x, A, z)


cdef inline void add_outer_packed(
    Py_ssize_t count, const int* rows, Py_ssize_t columns, real alpha, const real* x,
    const real* d, real* C,
) noexcept nogil:
    """C[rows[k]] += alpha x[k] d for k < count."""
    if real is float:
        add_outer_packed_f32(count, rows, columns, alpha, x, d, C)
    else:
        add_outer_packed_f64(count, rows, columns, alpha, x, d, C)


cdef inline void transpose(
    Py_ssize_t rows, Py_ssize_t depth, const real* A, Py_ssize_t a_row, real* B, Py_ssize_t b_row,
) noexcept nogil:
    """B[k, c] := A[c, k] for c < rows and k < depth."""
    if real is float:
        transpose_f32(rows, depth, A, a_row, B, b_row)
    else:
        transpose_f64(rows, depth, A, a_row, B, b_row)
