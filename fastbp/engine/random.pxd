"""Random numbers from a counter: a hash of where one is wanted, so that they need no order."""
from libc.math cimport cos, log, sqrt
from libc.stdint cimport uint32_t, uint64_t

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


cdef inline void add_normal(
    real* x, Py_ssize_t n, double deviation, uint64_t key, Py_ssize_t at,
) noexcept nogil:
    """Add normal numbers of mean 0 to elements at .. at + n (G. Box and M. Muller 1958)."""
    cdef uint64_t bits
    cdef double radius, angle
    cdef Py_ssize_t i
    for i in range(n):
        bits = mixed(key + <uint64_t>(at + i))
        # both halves as numbers between 0 and 1
        radius = sqrt(-2 * log((<double>(bits >> 32) + 0.5) / 4294967296.0))
        angle = 6.283185307179586 * (<double><uint32_t>bits / 4294967296.0)
        x[i] += <real>(deviation * radius * cos(angle))
