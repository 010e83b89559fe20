"""Row-major matrix product on SciPy's BLAS, for engines compiled without tiles.

The addresses come from `blas.pyx`, the one place that cimports SciPy. They are fetched on first
need, because importing SciPy's BLAS takes longer than importing NumPy.
"""
from .records cimport real

ctypedef void (*sgemm_t)(char*, char*, int*, int*, int*, float*, float*, int*, float*, int*,
                         float*, float*, int*) noexcept nogil
ctypedef void (*dgemm_t)(char*, char*, int*, int*, int*, double*, double*, int*, double*, int*,
                         double*, double*, int*) noexcept nogil

cdef extern from *:
    """
    static void (*fastbp_sgemm)(char *, char *, int *, int *, int *, float *, float *, int *,
                                float *, int *, float *, float *, int *);
    static void (*fastbp_dgemm)(char *, char *, int *, int *, int *, double *, double *, int *,
                                double *, int *, double *, double *, int *);
    """
    sgemm_t fastbp_sgemm
    dgemm_t fastbp_dgemm


cdef inline bint has_blas() noexcept nogil:
    return fastbp_sgemm != NULL


cdef inline void set_blas(size_t sgemm, size_t dgemm) noexcept nogil:
    """Take the addresses that `blas.pyx` gives."""
    global fastbp_sgemm, fastbp_dgemm
    fastbp_dgemm = <dgemm_t><void*>dgemm
    fastbp_sgemm = <sgemm_t><void*>sgemm


cdef inline void gemm(
    bint transpose_a, bint transpose_b, Py_ssize_t m, Py_ssize_t n, Py_ssize_t k,
    real alpha, const real* A, const real* B, real beta, real* C,
) noexcept nogil:
    """C := alpha op(A) op(B) + beta C, with op(A) m x k, op(B) k x n, C m x n, all row-major.

    BLAS is column-major and sees every matrix transposed, hence the swapped operands.
    """
    cdef char* ta = b"t" if transpose_a else b"n"
    cdef char* tb = b"t" if transpose_b else b"n"
    cdef int rows = <int>m, columns = <int>n, inner = <int>k
    cdef int lda = rows if transpose_a else inner
    cdef int ldb = inner if transpose_b else columns
    if real is float:
        fastbp_sgemm(tb, ta, &columns, &rows, &inner, &alpha, <float*>B, &ldb, <float*>A, &lda,
                     &beta, C, &columns)
    else:
        fastbp_dgemm(tb, ta, &columns, &rows, &inner, &alpha, <double*>B, &ldb, <double*>A, &lda,
                     &beta, C, &columns)
