"""The three products that carry the time of a step, each for n rows through one layer."""
from .activations cimport activate, multiply_by_derivative
from .blas cimport Blas, gemm
from .records cimport Layer, real


cdef inline void forward(
    const Blas* blas, const Layer* layer, int activation, const real* parameters,
    const real* X, Py_ssize_t n, real* A,
) noexcept nogil:
    """A := f(X W + b), for X n x n_in and A n x n_out."""
    cdef const real* bias = parameters + layer.bias
    cdef Py_ssize_t i, j
    for i in range(n):
        for j in range(layer.n_out):
            A[i * layer.n_out + j] = bias[j]
    gemm[real](blas, False, False, n, layer.n_out, layer.n_in,
               1, X, parameters + layer.weight, 1, A)
    activate(activation, A, n, layer.n_out)


cdef inline void input_gradient(
    const Blas* blas, const Layer* layer, int activation, const real* parameters,
    const real* D, const real* X, Py_ssize_t n, real* D_in,
) noexcept nogil:
    """D_in := (D W^T) * f'(X), where X = f(Z) is the layer's input and f is `activation`."""
    gemm[real](blas, False, True, n, layer.n_in, layer.n_out,
               1, D, parameters + layer.weight, 0, D_in)
    multiply_by_derivative(activation, X, D_in, n, layer.n_in)


cdef inline void weight_gradient(
    const Blas* blas, const Layer* layer, const real* X, const real* D, Py_ssize_t n,
    real alpha, real beta, real* target,
) noexcept nogil:
    """W := alpha X^T D + beta W and b := alpha sum D + beta b, for W and b in the flat `target`.

    With beta = 0 this is the gradient; with the parameters as target, alpha = -rate and beta = 1
    it is the whole update of plain SGD, without a gradient buffer.
    """
    cdef real* bias = target + layer.bias
    cdef Py_ssize_t i, j
    gemm[real](blas, True, False, layer.n_in, layer.n_out, n,
               alpha, X, D, beta, target + layer.weight)
    for j in range(layer.n_out):
        # beta = 0 overwrites: what lies in the target may be anything, NaN included
        bias[j] = beta * bias[j] if beta != 0 else 0
    for i in range(n):
        for j in range(layer.n_out):
            bias[j] += alpha * D[i * layer.n_out + j]
