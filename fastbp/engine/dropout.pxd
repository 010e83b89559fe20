"""Dropout: which elements a step drops, by a hash of where they are, so that it needs no order."""
from libc.stdint cimport uint32_t, uint64_t

from .activations cimport multiply_by_derivative
from .records cimport real


cdef inline uint64_t mixed(uint64_t x) noexcept nogil:
    """A bijection that scatters its argument (the finalizer of splitmix64; S. Vigna 2015)."""
    x = (x ^ (x >> 30)) * <uint64_t>0xBF58476D1CE4E5B9
    x = (x ^ (x >> 27)) * <uint64_t>0x94D049BB133111EB
    return x ^ (x >> 31)


cdef inline uint64_t step_key(uint64_t key, Py_ssize_t step, Py_ssize_t layer) noexcept nogil:
    """A key for one layer in one step."""
    return mixed(mixed(mixed(key) + <uint64_t>step) + <uint64_t>(layer + 1))


cdef inline uint32_t scattered(uint32_t x, uint32_t first, uint32_t second) noexcept nogil:
    """32 bits for the element x, which look random: two rounds of multiplying and folding.

    The constants are those of C. Wellons' hash prospector, "lowbias32".
    """
    x = x * <uint32_t>0x9E3779B9 + first
    x = (x ^ (x >> 16)) * <uint32_t>0x7FEB352D
    x = (x ^ (x >> 15)) * <uint32_t>0x846CA68B
    return (x ^ (x >> 16)) + second


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
