"""Updates of the flat parameter vector from the flat gradient: one pass over memory each."""
from .records cimport real


cdef inline void sgd(
    real* parameters, const real* gradient, Py_ssize_t n, real rate,
) noexcept nogil:
    """theta -= rate g (plain gradient descent)."""
    cdef Py_ssize_t i
    for i in range(n):
        parameters[i] -= rate * gradient[i]
