"""Dropout: which elements a step drops."""
from libc.stdint cimport uint32_t, uint64_t

from .activations cimport multiply_by_derivative
from .random cimport scattered
from .records cimport real


cdef inline void drop(
    real* a, Py_ssize_t n, double part, uint64_t key, Py_ssize_t at,
) noexcept nogil:
    """Drop elements at .. at + n of a layer, and divide those kept by the part that is kept."""
    cdef uint32_t first = <uint32_t>key, second = <uint32_t>(key >> 32)
    cdef uint32_t limit = <uint32_t>(part * 4294967296.0), start = <uint32_t>at
    cdef real kept = <real>(1 / (1 - part))
    cdef Py_ssize_t i
    for i in range(n):
        a[i] *= kept if scattered(start + <uint32_t>i, first, second) >= limit else 0


cdef inline void drop_with_slopes(
    int activation, real alpha, real* a, real* slopes, bint written, Py_ssize_t n,
    double part, uint64_t key, Py_ssize_t at,
) noexcept nogil:
    """The same for outputs A = f(Z); slopes become f'(Z) of what is dropped and kept."""
    cdef Py_ssize_t i
    if not written:
        for i in range(n):
            slopes[i] = 1
        multiply_by_derivative(activation, alpha, a, slopes, slopes, 1, n)
    drop(a, n, part, key, at)
    drop(slopes, n, part, key, at)
