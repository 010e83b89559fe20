"""Activations A = f(Z), in place, and D *= f'(Z) computed from the output A alone."""
from .elementary cimport exponential, hyperbolic_tangent, sigmoid
from .records cimport real
from .tile cimport largest, sum_of


cdef enum Activation:
    IDENTITY
    SIGMOID
    TANH
    RELU
    SOFTMAX


cdef inline void exponentials(
    const real* Z, real* E, Py_ssize_t rows, Py_ssize_t n,
) noexcept nogil:
    """E := exp(Z - the largest of each row), for all rows in one loop that vectorises."""
    cdef real most
    cdef Py_ssize_t i, j
    for i in range(rows):
        most = largest(Z + i * n, n)
        for j in range(i * n, (i + 1) * n):
            E[j] = Z[j] - most
    for j in range(rows * n):
        E[j] = exponential(E[j])


cdef inline void softmax(real* Z, Py_ssize_t rows, Py_ssize_t n) noexcept nogil:
    """exp(z - max z) / sum exp(z - max z) in each row."""
    cdef real scale
    cdef Py_ssize_t i, j
    exponentials(Z, Z, rows, n)
    for i in range(rows):
        scale = 1 / sum_of(Z + i * n, n)
        for j in range(i * n, (i + 1) * n):
            Z[j] *= scale


cdef inline void activate(int activation, real* z, Py_ssize_t rows, Py_ssize_t n) noexcept nogil:
    """Z (rows x n) becomes f(Z)."""
    cdef Py_ssize_t i
    if activation == RELU:
        for i in range(rows * n):
            # written so that NaN passes through: a diverged network must not look healthy
            z[i] = 0 if z[i] < 0 else z[i]
    elif activation == SIGMOID:
        for i in range(rows * n):
            z[i] = sigmoid(z[i])
    elif activation == TANH:
        for i in range(rows * n):
            z[i] = hyperbolic_tangent(z[i])
    elif activation == SOFTMAX:
        softmax(z, rows, n)


cdef inline void multiply_by_derivative(
    int activation, const real* a, real* d, Py_ssize_t rows, Py_ssize_t n,
) noexcept nogil:
    """D (rows x n), the gradient by A, becomes the gradient by Z."""
    cdef Py_ssize_t i, j
    cdef real dot
    if activation == RELU:
        for i in range(rows * n):
            d[i] = 0 if a[i] <= 0 else d[i]
    elif activation == SIGMOID:
        for i in range(rows * n):
            d[i] *= a[i] * (1 - a[i])
    elif activation == TANH:
        for i in range(rows * n):
            d[i] *= 1 - a[i] * a[i]
    elif activation == SOFTMAX:
        # the Jacobian is diag(a) - a a^T
        for i in range(rows):
            dot = 0
            for j in range(i * n, (i + 1) * n):
                dot += d[j] * a[j]
            for j in range(i * n, (i + 1) * n):
                d[j] = a[j] * (d[j] - dot)
