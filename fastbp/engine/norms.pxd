"""Layers that are no products: normalisations, and the sum that ends a residual block.

Each makes rows A out of as many rows X, `size` columns both. The gain of a normalisation lies where
a W would, its shift where b would. With x' = (x - mean) / sqrt(variance + epsilon) it puts out
gain x' + shift. The way back has G = gain D, and D_in = (G - mean(G) - x' mean(G x')) /
sqrt(variance + epsilon) with means over what was normalised together; but G / sqrt(variance +
epsilon) where mean and variance came from elsewhere.

Moments are two vectors, one right after the other: mean and variance of each column of a batch norm
as in what it has gathered; mean and 1 / sqrt(variance + epsilon) of each row of a layer norm; mean
and standard deviation of each column of the inputs.

S. Ioffe and C. Szegedy, Batch normalization (2015); J. Ba and others, Layer normalization (2016);
K. He and others, Deep residual learning for image recognition (2016).
"""
from libc.string cimport memcpy, memset

from .activations cimport activate_part, multiply_part, slopes_from
from .optimizers cimport apply, root
from .products cimport Goal, add_rows, round_up, scale
from .records cimport BATCH_NORM, LAYER_NORM, NORMALIZE, RESIDUAL, Layer, real
from .team cimport Member, barrier, share
from .tile cimport panel_width, sum_of, weighted_sum


cdef inline Py_ssize_t norm_scratch(const Layer* layer, size_t item) noexcept nogil:
    """How many elements a member wants: three for each column."""
    return 3 * round_up(layer.n_out, panel_width(item))


cdef inline bint is_of_batch(const Layer* layer, Py_ssize_t n, bint training) noexcept nogil:
    """Whether a batch norm goes by the n rows it is given, not by what it has gathered.

    One row has no variance, and a frozen layer stays as it is.
    """
    return training and not layer.frozen and n > 1


cdef struct Part:
    # of n rows and the columns of a layer
    Py_ssize_t top, rows, left, right


cdef inline Part part_of(
    const Layer* layer, Py_ssize_t n, const Member* member, size_t item,
) noexcept nogil:
    """This member's part: all rows of some columns, or all columns of some rows."""
    cdef Py_ssize_t panel = panel_width(item), size = layer.n_out, top
    if layer.kind == BATCH_NORM or layer.kind == NORMALIZE:
        return Part(0, n, share(member, 0, size, panel), share(member, 1, size, panel))
    top = share(member, 0, n, 1)
    return Part(top, share(member, 1, n, 1) - top, 0, size)


# --- by columns -----------------------------------------------------------------------------

cdef inline void column_moments(
    const Layer* layer, const real* X, Py_ssize_t n, real* moments, real* scratch,
    const Part* part,
) noexcept nogil:
    """Mean and variance of columns, over all rows.

    Columns far from zero leave a rounded mean that is off by a part of their deviation; the mean
    of what differs from it corrects both (Chan, Golub and LeVeque 1983).
    """
    cdef Py_ssize_t size = layer.n_out, columns = part.right - part.left, i, j
    cdef real* mean = moments
    cdef real* variance = moments + size
    cdef real* off = scratch
    cdef real d
    memset(mean + part.left, 0, columns * sizeof(real))
    memset(variance + part.left, 0, columns * sizeof(real))
    memset(off + part.left, 0, columns * sizeof(real))
    add_rows(n, X + part.left, size, columns, <real>(1.0 / n), mean + part.left)
    for i in range(n):
        for j in range(part.left, part.right):
            d = X[i * size + j] - mean[j]
            off[j] += d
            variance[j] += d * d
    for j in range(part.left, part.right):
        off[j] /= n
        mean[j] += off[j]
        variance[j] = max(variance[j] / n - off[j] * off[j], <real>0)


cdef inline void inverse_deviations(
    const Layer* layer, const real* variance, real* inverse, const Part* part,
) noexcept nogil:
    cdef real epsilon = <real>layer.epsilon
    cdef Py_ssize_t j
    for j in range(part.left, part.right):
        inverse[j] = <real>1 / root(variance[j] + epsilon)


cdef inline void forward_columns(
    const Layer* layer, const real* parameters, const real* moments, const real* X, Py_ssize_t n,
    real* A, real* scratch, const Part* part,
) noexcept nogil:
    """A := (X - mean) factor + shift."""
    cdef Py_ssize_t size = layer.n_out, i, j
    cdef const real* mean = moments
    cdef const real* spread = moments + size
    cdef const real* gain = parameters + layer.weight
    cdef real* factor = scratch
    cdef real* shift = scratch + round_up(size, panel_width(sizeof(real)))
    if layer.kind == NORMALIZE:
        for j in range(part.left, part.right):
            factor[j], shift[j] = <real>1 / spread[j], 0
    else:
        inverse_deviations(layer, spread, factor, part)
        for j in range(part.left, part.right):
            factor[j], shift[j] = gain[j] * factor[j], parameters[layer.bias + j]
    for i in range(n):
        for j in range(part.left, part.right):
            A[i * size + j] = (X[i * size + j] - mean[j]) * factor[j] + shift[j]


cdef inline void sum_gradients(
    const Layer* layer, const real* X, const real* D, Py_ssize_t n, const real* mean,
    const real* inverse, bint by_rows, real* of_gain, real* of_shift, Py_ssize_t left,
    Py_ssize_t right,
) noexcept nogil:
    """The sums of D x' and D in columns; mean and inverse are those of rows, or of columns."""
    cdef Py_ssize_t size = layer.n_out, i, j
    memset(of_gain + left, 0, (right - left) * sizeof(real))
    memset(of_shift + left, 0, (right - left) * sizeof(real))
    for i in range(n):
        if by_rows:
            for j in range(left, right):
                of_gain[j] += D[i * size + j] * (X[i * size + j] - mean[i]) * inverse[i]
        else:
            for j in range(left, right):
                of_gain[j] += D[i * size + j] * (X[i * size + j] - mean[j]) * inverse[j]
    add_rows(n, D + left, size, right - left, <real>1, of_shift + left)


cdef inline void settle(
    const Goal* goal, const real* gradient, Py_ssize_t at, Py_ssize_t n,
) noexcept nogil:
    """Take n elements of the gradient, of parameters from `at` on, to where they shall go."""
    cdef real* vector = <real*>goal.vector + at
    cdef real alpha = <real>goal.alpha
    cdef Py_ssize_t j
    if goal.rule != NULL:
        apply(goal.rule, 0, 0, <real*>goal.vector, gradient, at, n)
        return
    scale(<real>goal.beta, vector, n)
    for j in range(n):
        vector[j] += alpha * gradient[j]


cdef inline void settle_columns(
    const Layer* layer, const Goal* goal, const real* of_gain, const real* of_shift,
    Py_ssize_t left, Py_ssize_t right,
) noexcept nogil:
    settle(goal, of_gain + left, layer.weight + left, right - left)
    settle(goal, of_shift + left, layer.bias + left, right - left)


cdef inline void gather_moments(
    const Layer* layer, const real* moments, Py_ssize_t n, real* running, const Part* part,
) noexcept nogil:
    """Move the running mean and variance towards those of n rows; of a variance without bias."""
    cdef Py_ssize_t size = layer.n_out, j
    cdef real new = <real>layer.momentum, old = <real>(1 - layer.momentum)
    cdef real unbiased = <real>(layer.momentum * n / (n - 1.0))
    for j in range(part.left, part.right):
        running[j] = old * running[j] + new * moments[j]
        running[size + j] = old * running[size + j] + unbiased * moments[size + j]


cdef inline void backward_columns(
    const Layer* layer, const real* parameters, real* running, const real* X, const real* D,
    Py_ssize_t n, real* D_in, const Goal* goal, const real* moments, bint training, real* scratch,
    const Part* part,
) noexcept nogil:
    """Of a batch norm: D_in unless it is NULL, the gradients, and what it has gathered."""
    cdef bint of_batch = is_of_batch(layer, n, training)
    cdef const real* gain = parameters + layer.weight
    cdef const real* mean = moments if of_batch else running
    cdef Py_ssize_t size = layer.n_out, width = round_up(size, panel_width(sizeof(real))), i, j
    cdef real* inverse = scratch
    cdef real* of_gain = scratch + width
    cdef real* of_shift = of_gain + width
    cdef real per_row = <real>(1.0 / n), normal
    inverse_deviations(layer, mean + size, inverse, part)
    if goal != NULL or of_batch:
        sum_gradients(layer, X, D, n, mean, inverse, False, of_gain, of_shift, part.left,
                      part.right)
    if D_in != NULL:
        for i in range(n):
            if of_batch:
                for j in range(part.left, part.right):
                    normal = (X[i * size + j] - mean[j]) * inverse[j]
                    D_in[i * size + j] = gain[j] * inverse[j] * (
                        D[i * size + j] - per_row * (of_shift[j] + normal * of_gain[j]))
            else:
                for j in range(part.left, part.right):
                    D_in[i * size + j] = gain[j] * inverse[j] * D[i * size + j]
    if of_batch:
        gather_moments(layer, moments, n, running, part)
    if goal != NULL:
        settle_columns(layer, goal, of_gain, of_shift, part.left, part.right)


# --- by rows --------------------------------------------------------------------------------

cdef inline void forward_rows(
    const Layer* layer, const real* parameters, const real* X, Py_ssize_t n, real* A,
    real* moments, const Part* part,
) noexcept nogil:
    """Of a layer norm; the moments of its rows are kept unless `moments` is NULL."""
    cdef const real* gain = parameters + layer.weight
    cdef const real* shift = parameters + layer.bias
    cdef Py_ssize_t size = layer.n_out, i, j
    cdef const real* x
    cdef real* a
    cdef real mean, inverse
    for i in range(part.top, part.top + part.rows):
        x, a = X + i * size, A + i * size
        mean = sum_of(x, size) / size
        for j in range(size):
            a[j] = x[j] - mean
        inverse = <real>1 / root(weighted_sum(a, a, <real>0, size) / size + <real>layer.epsilon)
        for j in range(size):
            a[j] = a[j] * inverse * gain[j] + shift[j]
        if moments != NULL:
            moments[i], moments[n + i] = mean, inverse


cdef inline void backward_rows(
    const Layer* layer, const real* parameters, const real* X, const real* D, Py_ssize_t n,
    real* D_in, const real* moments, const Part* part,
) noexcept nogil:
    """D_in of a layer norm."""
    cdef const real* gain = parameters + layer.weight
    cdef Py_ssize_t size = layer.n_out, i, j
    cdef const real* x
    cdef real* d
    cdef real mean, inverse, middle, slope
    for i in range(part.top, part.top + part.rows):
        x, d = X + i * size, D_in + i * size
        mean, inverse = moments[i], moments[n + i]
        for j in range(size):
            d[j] = D[i * size + j] * gain[j]
        middle = sum_of(d, size) / size
        slope = weighted_sum(d, x, mean, size) * inverse * inverse / size
        for j in range(size):
            d[j] = inverse * (d[j] - middle - (x[j] - mean) * slope)


# --- of any kind ----------------------------------------------------------------------------

cdef inline void norm_forward(
    const Layer* layer, const real* parameters, const real* statistics, const real* X,
    const real* source, Py_ssize_t n, real* A, real* slopes, real* moments, bint training,
    real* scratch, const Member* member,
) noexcept nogil:
    """A := f(Z) with Z made of X, and of the `source` of a sum; slopes as for products.

    `moments` has room for those of all columns or rows, and is for the way back; NULL without one.
    """
    cdef Part part = part_of(layer, n, member, sizeof(real))
    cdef Py_ssize_t start = part.top * layer.n_out, i
    cdef const real* of_columns = statistics + layer.statistics
    if layer.kind == RESIDUAL:
        for i in range(start, start + part.rows * layer.n_out):
            A[i] = X[i] + source[i]
    elif layer.kind == LAYER_NORM:
        forward_rows(layer, parameters, X, n, A, moments, &part)
    else:
        if layer.kind == BATCH_NORM and is_of_batch(layer, n, training):
            column_moments(layer, X, n, moments, scratch, &part)
            of_columns = moments
        forward_columns(layer, parameters, of_columns, X, n, A, scratch, &part)
    activate_part(layer.activation, <real>layer.alpha, A + start,
                  NULL if slopes == NULL else slopes + start, part.rows, layer.n_out, part.left,
                  part.right)
    barrier(member)


cdef inline void norm_backward(
    const Layer* layer, int activation, real alpha, const real* parameters, real* statistics,
    const real* X, const real* slopes, const real* D, Py_ssize_t n, real* D_in, const Goal* goal,
    real* kept, const real* moments, bint training, real* scratch,
    const Member* member,
) noexcept nogil:
    """D_in := the gradient by X times f'(Z), where X = f(Z); and the gradients of gain and shift.

    As `products.backward`. A sum keeps D, which its source wants too, in `kept`.
    """
    cdef Part part = part_of(layer, n, member, sizeof(real))
    cdef Py_ssize_t size = layer.n_out, start = part.top * size, count = part.rows * size
    cdef Py_ssize_t panel = panel_width(sizeof(real)), left, right, i, j
    cdef real* of_gain = scratch
    cdef real* of_shift = scratch + round_up(size, panel)
    if layer.kind == RESIDUAL:
        memcpy(kept + start, D + start, count * sizeof(real))
        if D_in != NULL:
            memcpy(D_in + start, D + start, count * sizeof(real))
    elif layer.kind == NORMALIZE:
        for i in range(n if D_in != NULL else 0):
            for j in range(part.left, part.right):
                D_in[i * size + j] = D[i * size + j] / statistics[layer.statistics + size + j]
    elif layer.kind == BATCH_NORM:
        backward_columns(layer, parameters, statistics + layer.statistics, X, D, n, D_in, goal,
                         moments, training, scratch, &part)
    else:
        if D_in != NULL:
            backward_rows(layer, parameters, X, D, n, D_in, moments, &part)
        if goal != NULL:
            barrier(member)     # everybody has used the gain
            left, right = share(member, 0, size, panel), share(member, 1, size, panel)
            sum_gradients(layer, X, D, n, moments, moments + n, True, of_gain, of_shift, left,
                          right)
            settle_columns(layer, goal, of_gain, of_shift, left, right)
    if D_in != NULL:
        multiply_part(activation, alpha, X + start, slopes_from(slopes, start), D_in + start,
                      part.rows, size, part.left, part.right)
    barrier(member)
