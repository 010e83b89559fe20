"""Losses of one row: the value, and the gradient by the network's raw or activated outputs.

Every loss sums over outputs; the callers average over samples. A loss that belongs to the last
layer's activation takes the raw outputs Z, which keeps it exact for Z of any size: softmax or its
logarithm with cross entropy or the Kullback-Leibler divergence, sigmoid with binary cross entropy,
and the exponential with Poisson, gamma and Tweedie. A user's loss always does. Formulas and sources
are in docs/losses.md.
"""
from libc.float cimport DBL_EPSILON, FLT_EPSILON
from libc.math cimport exp, expm1, fabs, log, log1p, log1pf, logf, pow, sqrt

from .activations cimport EXPONENTIAL, SIGMOID, mixes_outputs
from .elementary cimport decay, sigmoid, sign
from .records cimport real
from .tile cimport largest, sum_of, weighted_sum


cdef enum Loss:
    SQUARED_ERROR
    ABSOLUTE_ERROR
    HUBER
    LOG_COSH
    QUANTILE
    POISSON
    GAMMA
    TWEEDIE
    BINARY_CROSS_ENTROPY
    CROSS_ENTROPY
    HINGE
    SQUARED_HINGE
    KULLBACK_LEIBLER
    COSINE
    CUSTOM                      # the user's, of raw outputs


cdef inline bint takes_logits(int loss, int activation) noexcept nogil:
    """Whether this loss is computed together with this last activation."""
    if loss == CROSS_ENTROPY or loss == KULLBACK_LEIBLER:
        return mixes_outputs(activation)
    if loss == BINARY_CROSS_ENTROPY:
        return activation == SIGMOID
    if loss == CUSTOM:
        return True
    return POISSON <= loss <= TWEEDIE and activation == EXPONENTIAL


cdef inline bint takes_exponentials(int loss, bint from_logits) noexcept nogil:
    """Whether `row_loss` expects the `exponentials` of a row in d."""
    return from_logits and (loss == CROSS_ENTROPY or loss == KULLBACK_LEIBLER)


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


cdef inline real epsilon(const real* like) noexcept nogil:
    """The machine epsilon; `like` only says which type `real` is."""
    return <real>FLT_EPSILON if real is float else <real>DBL_EPSILON


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


cdef inline double absolute_error(
    const real* output, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """sum |a - y|; its gradient is the sign of a - y."""
    cdef double total = 0
    cdef real r
    cdef Py_ssize_t j
    for j in range(n):
        r = output[j] - target[j]
        total += fabs(r)
        d[j] = sign(r)
    return total


cdef inline double huber(
    double delta, const real* output, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """sum r^2 / 2 where |r| <= delta, delta (|r| - delta / 2) elsewhere; r = a - y, clipped."""
    cdef double total = 0, r, clipped
    cdef Py_ssize_t j
    for j in range(n):
        r = output[j] - target[j]
        clipped = delta if r > delta else (-delta if r < -delta else r)
        total += clipped * (r - clipped / 2)
        d[j] = <real>clipped
    return total


cdef inline double log_cosh(
    const real* output, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """sum log cosh(a - y), as |r| + log((1 + e) / 2) with e = exp(-2 |r|); its gradient is tanh r.

    Next to zero both come from m = 1 - e: (1 + e) / 2 = 1 - m / 2 and tanh |r| = m / (1 + e).
    """
    cdef double total = 0, r, size, m
    cdef Py_ssize_t j
    for j in range(n):
        r = output[j] - target[j]
        size = fabs(r)
        m = -expm1(-2 * size)
        # r^2 / 2 - r^4 / 12 where the sum would cancel
        total += r * r * (0.5 - r * r / 12) if size < 1e-3 else size + log1p(-m / 2)
        d[j] = <real>((m if r > 0 else -m) / (2 - m))
    return total


cdef inline double quantile(
    const double* levels, const real* output, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """sum q (y - a) where a < y, (1 - q) (a - y) elsewhere."""
    cdef double total = 0, slope, r
    cdef Py_ssize_t j
    for j in range(n):
        r = output[j] - target[j]
        slope = 1 - levels[j] if r > 0 else (-levels[j] if r < 0 else 0)
        total += slope * r
        d[j] = <real>slope
    return total


cdef inline double poisson(
    bint from_logits, const real* output, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """sum a - y log a, with a = exp(z), or max(a, eps)."""
    cdef double total = 0, a, y, z
    cdef real eps = epsilon(output)
    cdef Py_ssize_t j
    for j in range(n):
        y, z = target[j], output[j]
        if from_logits:
            a = exp(z)
            total += a - y * z
            d[j] = <real>(a - y)
        else:
            a = eps if z < eps else z
            total += a - y * log(a)
            d[j] = <real>(1 - y / a) if a == z else 0
    return total


cdef inline double gamma_deviance(
    bint from_logits, const real* output, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """sum log a + y / a, with a = exp(z), or max(a, eps)."""
    cdef double total = 0, a, y, z
    cdef real eps = epsilon(output)
    cdef Py_ssize_t j
    for j in range(n):
        y, z = target[j], output[j]
        if from_logits:
            a = y * exp(-z)
            total += z + a
            d[j] = <real>(1 - a)
        else:
            a = eps if z < eps else z
            total += log(a) + y / a
            d[j] = <real>((1 - y / a) / a) if a == z else 0
    return total


cdef inline double tweedie(
    bint from_logits, double power, const real* output, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """sum a^(2-p) / (2-p) - y a^(1-p) / (1-p) for 1 < p < 2, with a = exp(z), or max(a, eps)."""
    cdef double total = 0, a, y, z, first, second
    cdef real eps = epsilon(output)
    cdef Py_ssize_t j
    for j in range(n):
        y, z = target[j], output[j]
        if from_logits:
            first, second = exp((2 - power) * z), y * exp((1 - power) * z)
            d[j] = <real>(first - second)
        else:
            a = eps if z < eps else z
            first, second = pow(a, 2 - power), y * pow(a, 1 - power)
            d[j] = <real>((first - second) / a) if a == z else 0
        total += first / (2 - power) - second / (1 - power)
    return total


cdef inline double binary_cross_entropy(
    const real* output, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """-sum y log p + (1 - y) log(1 - p), with p = clip(a, eps, 1 - eps)."""
    cdef real eps = epsilon(output)
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
        e = decay(-z[j] if z[j] > 0 else z[j])
        total += (z[j] if z[j] > 0 else 0) - z[j] * target[j] + logarithm1p(e)
        d[j] = sigmoid(z[j]) - target[j]
    return total


cdef inline double cross_entropy(
    double smoothing, const real* output, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """-sum t log p, with p = max(a, eps) and t = (1 - s) y + s / n for a smoothing of s."""
    cdef real eps = epsilon(output)
    cdef real p, t, kept = <real>(1 - smoothing), spread = <real>(smoothing / n)
    cdef double total = 0
    cdef Py_ssize_t j
    for j in range(n):
        t = kept * target[j] + spread
        p = eps if output[j] < eps else output[j]
        total -= t * logarithm(p)
        d[j] = -t / p if p == output[j] else 0
    return total


cdef inline double cross_entropy_from_logits(
    double smoothing, const real* z, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """sum t (log sum exp z - z); its gradient by z is softmax(z) sum t - t, with t as above.

    d comes with the `exponentials` of z.
    """
    cdef real kept = <real>(1 - smoothing), spread = <real>(smoothing / n)
    cdef real total = sum_of(d, n), weight = kept * sum_of(target, n) + <real>smoothing
    cdef real most = largest(z, n)
    # relative to the largest logit, so that huge logits cancel before they are rounded
    cdef double loss = <double>weight * logarithm(total) - kept * weighted_sum(target, z, most, n)
    cdef Py_ssize_t j
    if smoothing == 0:
        for j in range(n):
            d[j] = d[j] * (weight / total) - target[j]
        return loss
    for j in range(n):
        loss -= spread * (z[j] - most)
        d[j] = d[j] * (weight / total) - (kept * target[j] + spread)
    return loss


cdef inline double negative_entropy(const real* y, Py_ssize_t n) noexcept nogil:
    """sum y log y, with 0 log 0 = 0."""
    cdef double total = 0
    cdef Py_ssize_t j
    for j in range(n):
        if y[j] > 0:
            total += y[j] * log(y[j])
    return total


cdef inline double hinge(
    bint squared, const real* output, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """sum max(0, 1 - y a), or of its squares."""
    cdef double total = 0, margin
    cdef Py_ssize_t j
    for j in range(n):
        margin = 1 - <double>target[j] * output[j]
        margin = 0 if margin < 0 else margin
        total += margin * margin if squared else margin
        if squared:
            d[j] = <real>(-2 * margin * target[j])
        else:
            d[j] = -target[j] if margin > 0 else 0
    return total


cdef inline double cosine(
    const real* output, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """1 - a y / (|a| |y|), where a length below eps counts as eps."""
    cdef double of_output = sqrt(<double>weighted_sum(output, output, <real>0, n))
    cdef double of_target = sqrt(<double>weighted_sum(target, target, <real>0, n))
    cdef double eps = epsilon(output), similarity, along
    cdef Py_ssize_t j
    of_target = eps if of_target < eps else of_target
    if of_output < eps:
        of_output, along = eps, 0
    else:
        along = 1
    similarity = weighted_sum(output, target, <real>0, n) / (of_output * of_target)
    for j in range(n):
        d[j] = <real>((along * similarity * output[j] / of_output - target[j] / of_target)
                      / of_output)
    return 1 - similarity


cdef inline double row_loss(
    int loss, double parameter, const double* levels, bint from_logits,
    const real* output, const real* target, real* d, Py_ssize_t n,
) noexcept nogil:
    """The loss of one row; d becomes its gradient by `output`."""
    if loss == SQUARED_ERROR:
        return squared_error(output, target, d, n)
    if loss == CROSS_ENTROPY:
        if from_logits:
            return cross_entropy_from_logits(parameter, output, target, d, n)
        return cross_entropy(parameter, output, target, d, n)
    if loss == BINARY_CROSS_ENTROPY:
        if from_logits:
            return binary_cross_entropy_from_logits(output, target, d, n)
        return binary_cross_entropy(output, target, d, n)
    if loss == ABSOLUTE_ERROR:
        return absolute_error(output, target, d, n)
    if loss == HUBER:
        return huber(parameter, output, target, d, n)
    if loss == LOG_COSH:
        return log_cosh(output, target, d, n)
    if loss == QUANTILE:
        return quantile(levels, output, target, d, n)
    if loss == POISSON:
        return poisson(from_logits, output, target, d, n)
    if loss == GAMMA:
        return gamma_deviance(from_logits, output, target, d, n)
    if loss == TWEEDIE:
        return tweedie(from_logits, parameter, output, target, d, n)
    if loss == HINGE or loss == SQUARED_HINGE:
        return hinge(loss == SQUARED_HINGE, output, target, d, n)
    if loss == KULLBACK_LEIBLER:
        if from_logits:
            return negative_entropy(target, n) + cross_entropy_from_logits(
                0, output, target, d, n)
        return negative_entropy(target, n) + cross_entropy(0, output, target, d, n)
    return cosine(output, target, d, n)
