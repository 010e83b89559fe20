"""Activations A = f(Z), in place, and D *= f'(Z) computed from the output A alone."""
from .elementary cimport exponential, hyperbolic_tangent, sigmoid
from .records cimport real


cdef enum Activation:
    IDENTITY
    SIGMOID
    TANH
    RELU
    SOFTMAX


cdef inline void softmax(real* z, Py_ssize_t n) noexcept nogil:
    """exp(z - max z) / sum exp(z - max z) over one row."""
    cdef real largest = z[0], total = 0
    cdef Py_ssize_t j
    for j in range(1, n):
        largest = max(largest, z[j])
    for j in range(n):
        z[j] = exponential(z[j] - largest)
    for j in range(n):
        total += z[j]
    for j in range(n):
        z[j] /= total


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
        for i in range(rows):
            softmax(z + i * n, n)


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
