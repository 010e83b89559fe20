"""Activations A = f(Z), in place, and D *= f'(Z).

The derivative is computed from the output A alone wherever A determines it. Where it does not, the
forward pass of training writes f'(Z) down beside A.
"""
from libc.math cimport log

from .elementary cimport (
    absolute, decay, exponential, exponential_less_one, hyperbolic_tangent, log_one_plus,
    normal_cdf, sigmoid,
)
from .records cimport real
from .tile cimport largest, sum_of

# G. Klambauer and others, Self-normalizing neural networks (2017)
cdef extern from *:
    """
    #define SELU_SCALE 1.0507009873554805
    #define SELU_ALPHA 1.6732632423543772
    """
    double SELU_SCALE
    double SELU_ALPHA


cdef enum Activation:
    IDENTITY
    SIGMOID
    HARD_SIGMOID
    TANH
    RELU
    RELU6
    LEAKY_RELU
    ELU
    SELU
    SOFTPLUS
    SOFTSIGN
    EXPONENTIAL
    GELU
    GELU_TANH
    SILU
    MISH
    SLOPES                      # whatever it was: its derivative is written down
    SOFTMAX
    LOG_SOFTMAX


cdef inline bint needs_slopes(int activation) noexcept nogil:
    """Whether A does not determine f'(Z)."""
    return GELU <= activation <= MISH


cdef inline bint mixes_outputs(int activation) noexcept nogil:
    """Whether an output depends on all Z of its row."""
    return activation >= SOFTMAX


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
        scale = <real>1 / sum_of(Z + i * n, n)
        for j in range(i * n, (i + 1) * n):
            Z[j] *= scale


cdef inline void log_softmax(real* Z, Py_ssize_t rows, Py_ssize_t n) noexcept nogil:
    """z - max z - log sum exp(z - max z) in each row."""
    cdef real most, scale
    cdef double total
    cdef Py_ssize_t i, j
    for i in range(rows):
        most = largest(Z + i * n, n)
        total = 0
        for j in range(i * n, (i + 1) * n):
            Z[j] -= most
            total += exponential(Z[j])
        scale = <real>log(total)
        for j in range(i * n, (i + 1) * n):
            Z[j] -= scale


cdef inline real softplus(real z, real beta) noexcept nogil:
    """log(1 + exp(beta z)) / beta."""
    return (z if z > <real>0 else <real>0) + log_one_plus(decay(-absolute(beta * z))) / beta


cdef inline void gelu(real* z, real* slopes, Py_ssize_t n) noexcept nogil:
    """z Phi(z); its slope is Phi(z) + z phi(z)."""
    cdef real phi, e
    cdef Py_ssize_t i
    for i in range(n):
        e = decay(<real>-0.5 * z[i] * z[i])
        phi = normal_cdf(z[i], e)
        if slopes != NULL:
            slopes[i] = phi + z[i] * (<real>0.39894228040143268 * e)
        z[i] *= phi


cdef inline void gelu_tanh(real* z, real* slopes, Py_ssize_t n) noexcept nogil:
    """z (1 + tanh(c (z + 0.044715 z^3))) / 2 with c = sqrt(2 / pi)."""
    cdef real c = <real>0.79788456080286536, a = <real>0.044715, x, t
    cdef Py_ssize_t i
    for i in range(n):
        # t is 0 or 1 to the last bit from here on, and a cube must not overflow
        x = <real>-50.0 if z[i] < <real>-50.0 else (<real>50.0 if z[i] > <real>50.0 else z[i])
        # half of 1 + tanh is the sigmoid of twice the argument, exact in the left tail too
        t = sigmoid(<real>2 * c * (x + a * x * x * x))
        if slopes != NULL:
            slopes[i] = t + <real>2 * x * t * (<real>1 - t) * c * (<real>1 + <real>3 * a * x * x)
        z[i] *= t


cdef inline void silu(real* z, real* slopes, Py_ssize_t n) noexcept nogil:
    """z sigmoid(z); its slope is s (1 + z (1 - s))."""
    cdef real s
    cdef Py_ssize_t i
    for i in range(n):
        s = sigmoid(z[i])
        if slopes != NULL:
            slopes[i] = s * (<real>1 + z[i] * (<real>1 - s))
        z[i] *= s


cdef inline void mish(real* z, real* slopes, Py_ssize_t n) noexcept nogil:
    """z w with w = tanh(softplus(z)) = n / (n + 2), n = e (e + 2) and e = exp(z).

    Its slope is w + z (1 - w^2) sigmoid(z), where 1 - w^2 = 4 (n + 1) / (n + 2)^2.
    """
    cdef real x, e, m, w
    cdef Py_ssize_t i
    for i in range(n):
        x = z[i]
        # w is 1 to the last bit from here on
        e = exponential(<real>20.0 if x > <real>20.0 else x)
        m = e * (e + <real>2)
        w = m / (m + <real>2)
        if slopes != NULL:
            slopes[i] = w + x * (<real>4 * (m + <real>1) / ((m + <real>2) * (m + <real>2))) * (
                e / (<real>1 + e))
        z[i] = x * w


cdef inline void activate(
    int activation, real alpha, real* z, real* slopes, Py_ssize_t rows, Py_ssize_t n,
) noexcept nogil:
    """Z (rows x n) becomes f(Z); where A does not determine f'(Z), that goes to `slopes` or NULL.

    Comparisons are written so that NaN passes through: a diverged network must not look healthy.
    """
    cdef Py_ssize_t size = rows * n, i
    cdef real scale
    if activation == RELU:
        for i in range(size):
            z[i] = 0 if z[i] < 0 else z[i]
    elif activation == SIGMOID:
        for i in range(size):
            z[i] = sigmoid(z[i])
    elif activation == TANH:
        for i in range(size):
            z[i] = hyperbolic_tangent(z[i])
    elif activation == SOFTMAX:
        softmax(z, rows, n)
    elif activation == LOG_SOFTMAX:
        log_softmax(z, rows, n)
    elif activation == HARD_SIGMOID:
        for i in range(size):
            z[i] = z[i] / <real>6 + <real>0.5
            z[i] = 0 if z[i] < 0 else (1 if z[i] > 1 else z[i])
    elif activation == RELU6:
        for i in range(size):
            z[i] = 0 if z[i] < 0 else (6 if z[i] > 6 else z[i])
    elif activation == LEAKY_RELU:
        for i in range(size):
            z[i] = alpha * z[i] if z[i] < 0 else z[i]
    elif activation == ELU:
        for i in range(size):
            z[i] = alpha * exponential_less_one(z[i]) if z[i] < 0 else z[i]
    elif activation == SELU:
        scale = <real>SELU_SCALE
        for i in range(size):
            z[i] = scale * (
                <real>SELU_ALPHA * exponential_less_one(z[i]) if z[i] < 0 else z[i])
    elif activation == SOFTPLUS:
        for i in range(size):
            z[i] = softplus(z[i], alpha)
    elif activation == SOFTSIGN:
        for i in range(size):
            z[i] = z[i] / (<real>1 + absolute(z[i]))
    elif activation == EXPONENTIAL:
        for i in range(size):
            z[i] = exponential(z[i])
    elif activation == GELU:
        gelu(z, slopes, size)
    elif activation == GELU_TANH:
        gelu_tanh(z, slopes, size)
    elif activation == SILU:
        silu(z, slopes, size)
    elif activation == MISH:
        mish(z, slopes, size)


cdef inline void activate_part(
    int activation, real alpha, real* z, real* slopes, Py_ssize_t rows, Py_ssize_t n,
    Py_ssize_t left, Py_ssize_t right,
) noexcept nogil:
    """`activate` for columns left .. right of Z (rows x n); f does not mix outputs."""
    cdef Py_ssize_t i
    if activation == IDENTITY:
        return
    if right - left == n:
        rows, right = 1, rows * n
    for i in range(rows):
        activate(activation, alpha, z + i * n + left,
                 NULL if slopes == NULL else slopes + i * n + left, 1, right - left)


cdef inline void multiply_by_derivative(
    int activation, real alpha, const real* a, const real* slopes, real* d,
    Py_ssize_t rows, Py_ssize_t n,
) noexcept nogil:
    """D (rows x n), the gradient by A, becomes the gradient by Z."""
    cdef Py_ssize_t size = rows * n, i, j
    cdef real total
    if activation == RELU:
        for i in range(size):
            d[i] = 0 if a[i] <= 0 else d[i]
    elif activation == SIGMOID:
        for i in range(size):
            d[i] *= a[i] * (<real>1 - a[i])
    elif activation == TANH:
        for i in range(size):
            d[i] *= <real>1 - a[i] * a[i]
    elif activation == SOFTMAX:
        # the Jacobian is diag(a) - a a^T
        for i in range(rows):
            total = 0
            for j in range(i * n, (i + 1) * n):
                total += d[j] * a[j]
            for j in range(i * n, (i + 1) * n):
                d[j] = a[j] * (d[j] - total)
    elif activation == LOG_SOFTMAX:
        # the Jacobian is I - 1 exp(a)^T
        for i in range(rows):
            total = sum_of(d + i * n, n)
            for j in range(i * n, (i + 1) * n):
                d[j] -= exponential(a[j]) * total
    elif activation == HARD_SIGMOID:
        for i in range(size):
            d[i] = d[i] / <real>6 if 0 < a[i] < 1 else <real>0
    elif activation == RELU6:
        for i in range(size):
            d[i] = d[i] if 0 < a[i] < 6 else 0
    elif activation == LEAKY_RELU:
        for i in range(size):
            d[i] *= alpha if a[i] < 0 else 1
    elif activation == ELU:
        for i in range(size):
            d[i] *= a[i] + alpha if a[i] < 0 else 1
    elif activation == SELU:
        for i in range(size):
            d[i] *= a[i] + <real>(SELU_SCALE * SELU_ALPHA) if a[i] < 0 else <real>SELU_SCALE
    elif activation == SOFTPLUS:
        for i in range(size):
            d[i] *= -exponential_less_one(-alpha * a[i])
    elif activation == SOFTSIGN:
        for i in range(size):
            d[i] *= (<real>1 - absolute(a[i])) * (<real>1 - absolute(a[i]))
    elif activation == EXPONENTIAL:
        for i in range(size):
            d[i] *= a[i]
    elif activation != IDENTITY:
        for i in range(size):
            d[i] *= slopes[i]


cdef inline const real* slopes_from(const real* slopes, Py_ssize_t at) noexcept nogil:
    """The slopes of elements from `at` on, or NULL where none are written down."""
    if slopes == NULL:
        return NULL
    return slopes + at


cdef inline void multiply_part(
    int activation, real alpha, const real* a, const real* slopes, real* d,
    Py_ssize_t rows, Py_ssize_t n, Py_ssize_t left, Py_ssize_t right,
) noexcept nogil:
    """`multiply_by_derivative` for columns left .. right of D (rows x n)."""
    cdef Py_ssize_t i
    if activation == IDENTITY or left == right:
        return
    if right - left == n:
        rows, right = 1, rows * n
    for i in range(rows):
        multiply_by_derivative(activation, alpha, a + i * n + left,
                               slopes_from(slopes, i * n + left), d + i * n + left, 1,
                               right - left)
