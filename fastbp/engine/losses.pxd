"""Losses of one row: the value, and the gradient by the network's raw or activated outputs.

Every loss sums over outputs; the callers average over samples. A loss that belongs to the last
layer's activation (softmax with cross entropy, sigmoid with binary cross entropy) takes the raw
outputs Z, which keeps it exact for logits of any size.
"""
from libc.float cimport DBL_EPSILON, FLT_EPSILON
from libc.math cimport log, log1p, log1pf, logf

from .activations cimport SIGMOID, SOFTMAX
from .elementary cimport exponential, sigmoid
from .records cimport real
from .tile cimport largest, sum_of, weighted_sum


cdef enum Loss:
    SQUARED_ERROR
    BINARY_CROSS_ENTROPY
    CROSS_ENTROPY


cdef inline bint takes_logits(int loss, int activation) noexcept nogil:
    """Whether this loss is computed together with this last activation."""
    return (loss == CROSS_ENTROPY and activation == SOFTMAX
            or loss == BINARY_CROSS_ENTROPY and activation == SIGMOID)


cdef inline real logarithm(real x) noexcept nogil:
    if real is float:
        return logf(x)
    else:
        return log(x)


cdef inline real logarithm1p(real x) noexcept nogil:
    if real is float:
        return log1pf(x)
    else:
        return log1p(x)


cdef inline double squared_error(
    const real* output, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """1/2 sum (a - y)^2; its gradient is a - y."""
    cdef double total = 0
    cdef Py_ssize_t j
    for j in range(n):
        d[j] = output[j] - target[j]
        total += <double>d[j] * d[j]
    return total / 2


cdef inline double binary_cross_entropy(
    const real* output, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """-sum y log p + (1 - y) log(1 - p), with p = clip(a, eps, 1 - eps)."""
    cdef real eps = FLT_EPSILON if real is float else DBL_EPSILON
    cdef real p, y
    cdef double total = 0
    cdef Py_ssize_t j
    for j in range(n):
        y = target[j]
        p = eps if output[j] < eps else (1 - eps if output[j] > 1 - eps else output[j])
        total -= y * logarithm(p) + (1 - y) * logarithm(1 - p)
        # the clip is flat outside its range
        d[j] = (p - y) / (p * (1 - p)) if p == output[j] else 0
    return total


cdef inline double binary_cross_entropy_from_logits(
    const real* z, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """sum max(z, 0) - z y + log(1 + exp(-|z|)); its gradient by z is sigmoid(z) - y."""
    cdef double total = 0
    cdef real e
    cdef Py_ssize_t j
    for j in range(n):
        e = exponential(-z[j] if z[j] > 0 else z[j])
        total += (z[j] if z[j] > 0 else 0) - z[j] * target[j] + logarithm1p(e)
        d[j] = sigmoid(z[j]) - target[j]
    return total


cdef inline double cross_entropy(
    const real* output, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """-sum y log p, with p = max(a, eps)."""
    cdef real eps = FLT_EPSILON if real is float else DBL_EPSILON
    cdef real p
    cdef double total = 0
    cdef Py_ssize_t j
    for j in range(n):
        p = eps if output[j] < eps else output[j]
        total -= target[j] * logarithm(p)
        d[j] = -target[j] / p if p == output[j] else 0
    return total


cdef inline double cross_entropy_from_logits(
    const real* z, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """sum y (log sum exp z - z); its gradient by z is softmax(z) sum y - y.

    d comes with the `exponentials` of z.
    """
    cdef real total = sum_of(d, n), weight = sum_of(target, n)
    # relative to the largest logit, so that huge logits cancel before they are rounded
    cdef double loss = <double>weight * logarithm(total) - weighted_sum(target, z, largest(z, n), n)
    cdef Py_ssize_t j
    for j in range(n):
        d[j] = d[j] * (weight / total) - target[j]
    return loss


cdef inline double row_loss(
    int loss, bint from_logits, const real* output, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """The loss of one row; d becomes its gradient by `output`."""
    if loss == SQUARED_ERROR:
        return squared_error(output, target, d, n)
    if loss == BINARY_CROSS_ENTROPY:
        if from_logits:
            return binary_cross_entropy_from_logits(output, target, d, n)
        return binary_cross_entropy(output, target, d, n)
    if from_logits:
        return cross_entropy_from_logits(output, target, d, n)
    return cross_entropy(output, target, d, n)
