"""The first layer's products where its inputs are sparse: their cost is that of what is not zero.

The kernels are those of single dense rows, which get a list of columns and what is in them. D_in is
not wanted here. A gradient that goes straight to where it shall be is added up there, row by row. A
rule wants the whole gradient of a row of W at once: that is gathered in a vector of zeros, with a
bit for each row that has been touched, and only these are looked at where the rule leaves a
parameter alone whose gradient is zero.

Members share the rows of W, so that each sum is taken in one order.
"""
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memcpy, memset

from .activations cimport activate
from .dropout cimport drop
from .optimizers cimport apply, is_lazy
from .products cimport Goal, bias_gradient, scale
from .records cimport Batch, Layer, Samples, real, sample_at
from .team cimport Member, barrier, share
from .tile cimport FIRST_BIT, add_outer_packed, combine_packed

cdef enum:
    WORD = 64                   # bits of a word of `touched`
    PIECE = 256                 # elements of a row at a time, where some of them are dropped


cdef struct Piece:
    # some of what is not zero in a row
    Py_ssize_t count
    const int* columns          # ascending
    const void* values


ctypedef fused column_number:
    int32_t
    int64_t


cdef inline Py_ssize_t copy_columns(
    const column_number* given, Py_ssize_t n_given, const Py_ssize_t* starts, Py_ssize_t n,
    Py_ssize_t n_columns, int* columns, bint* ascending,
) noexcept nogil:
    """Copy the columns of n rows that nobody has looked at; `ascending` says how each row has them.

    Returns the place of the first outside 0 .. n_columns; n_given if there is none; -1, and perhaps
    not all is copied, if `starts` do not lead from 0 through what is given.
    """
    cdef Py_ssize_t row, k
    cdef column_number column, before
    ascending[0] = True
    if starts[0] != 0:
        return -1
    for row in range(n):
        if not starts[row] <= starts[row + 1] <= n_given:
            return -1
        before = -1
        for k in range(starts[row], starts[row + 1]):
            column = given[k]
            if not 0 <= column < n_columns:
                return k
            if column <= before:
                ascending[0] = False
            columns[k] = <int>column
            before = column
    return n_given


cdef inline Py_ssize_t first_place(
    const int* columns, Py_ssize_t low, Py_ssize_t high, Py_ssize_t column,
) noexcept nogil:
    """The place of the first column that is not before this one, in low .. high."""
    cdef Py_ssize_t middle
    while low < high:
        middle = (low + high) // 2
        if columns[middle] < column:
            low = middle + 1
        else:
            high = middle
    return low


cdef inline Piece row_between(
    const Layer* layer, const Batch* batch, Py_ssize_t i, Py_ssize_t left, Py_ssize_t right,
    const real* parameters,
) noexcept nogil:
    """Columns left .. right of row i of a batch, of the type of `parameters`."""
    cdef const Samples* samples = batch.samples
    cdef Py_ssize_t sample = sample_at(samples, batch.start + i)
    cdef Py_ssize_t first = samples.starts[sample], stop = samples.starts[sample + 1]
    if left > 0:
        first = first_place(samples.columns, first, stop, left)
    if right < layer.n_in:
        stop = first_place(samples.columns, first, stop, right)
    return Piece(stop - first, samples.columns + first, <const real*>samples.values + first)


cdef inline Piece next_piece(
    const Layer* layer, const Batch* batch, Py_ssize_t i, Piece* rest, real* kept,
) noexcept nogil:
    """Take what comes first of the rest of row i: all of it, unless some of its inputs are dropped.

    `kept` has room for PIECE elements.
    """
    cdef Piece piece = rest[0]
    cdef Py_ssize_t k
    if batch.dropout > 0:
        piece.count = min(<Py_ssize_t>PIECE, rest.count)
        memcpy(kept, rest.values, piece.count * sizeof(real))
        for k in range(piece.count):
            drop(kept + k, 1, batch.dropout, batch.key,
                 (batch.row + i) * layer.n_in + piece.columns[k])
        piece.values = kept
    rest.count -= piece.count
    rest.columns += piece.count
    rest.values = <const real*>rest.values + piece.count
    return piece


cdef inline void sparse_forward(
    const Layer* layer, int activation, const real* parameters, const Batch* batch, real* A,
    real* slopes, const Member* member,
) noexcept nogil:
    """A := f(X W + b), as `products.forward`; rows of A are shared."""
    cdef const real* bias = parameters + layer.bias
    cdef const real* W = parameters + layer.weight
    cdef Py_ssize_t n_out = layer.n_out, i
    cdef Py_ssize_t first = share(member, 0, batch.n, 1), stop = share(member, 1, batch.n, 1)
    cdef real[PIECE] kept
    cdef Piece rest, piece
    for i in range(first, stop):
        memcpy(A + i * n_out, bias, n_out * sizeof(real))
        rest = row_between(layer, batch, i, 0, layer.n_in, parameters)
        while rest.count > 0:
            piece = next_piece(layer, batch, i, &rest, kept)
            combine_packed(piece.count, piece.columns, n_out, <const real*>piece.values, W,
                           A + i * n_out)
    activate(activation, <real>layer.alpha, A + first * n_out,
             NULL if slopes == NULL else slopes + first * n_out, stop - first, n_out)
    barrier(member)


cdef inline void add_products(
    const Layer* layer, const Batch* batch, const real* D, real alpha, real* gradient,
    uint64_t* touched, Py_ssize_t first, Py_ssize_t stop,
) noexcept nogil:
    """gradient += alpha X^T D in rows first .. stop; `touched` is told which ones, or NULL."""
    cdef Py_ssize_t n_out = layer.n_out, i, k
    cdef real[PIECE] kept
    cdef Piece rest, piece
    cdef const real* values
    for i in range(batch.n):
        rest = row_between(layer, batch, i, first, stop, D)
        while rest.count > 0:
            piece = next_piece(layer, batch, i, &rest, kept)
            values = <const real*>piece.values
            if n_out == 1:      # the kernel would take whole vectors
                for k in range(piece.count):
                    gradient[piece.columns[k]] += alpha * values[k] * D[i]
            else:
                add_outer_packed(piece.count, piece.columns, n_out, alpha, values, D + i * n_out,
                                 gradient)
            for k in range(piece.count if touched != NULL else 0):
                touched[piece.columns[k] // WORD] |= <uint64_t>1 << (piece.columns[k] % WORD)


cdef inline void apply_touched(
    const Layer* layer, const Goal* goal, real* gradient, uint64_t* touched, Py_ssize_t first,
    Py_ssize_t stop,
) noexcept nogil:
    """Update rows first .. stop of W by a rule, and make their gradient zero again."""
    cdef Py_ssize_t n_out = layer.n_out, word, row
    cdef bint lazy = is_lazy(goal.rule) and layer.l1 == 0 and layer.l2 == 0
    if not lazy:
        apply(goal.rule, layer.l1, layer.l2, <real*>goal.vector, gradient + first * n_out,
              layer.weight + first * n_out, (stop - first) * n_out)
    for word in range(first // WORD, (stop + WORD - 1) // WORD):
        while touched[word] != 0:
            row = word * WORD + FIRST_BIT(touched[word])
            touched[word] &= touched[word] - 1
            if lazy:
                apply(goal.rule, 0, 0, <real*>goal.vector, gradient + row * n_out,
                      layer.weight + row * n_out, n_out)
            memset(gradient + row * n_out, 0, n_out * sizeof(real))


cdef inline void sparse_backward(
    const Layer* layer, const Batch* batch, const real* D, const Goal* goal, real* scratch,
    const Member* member,
) noexcept nogil:
    """The gradients X^T D of W and sum D of b to where they shall go, as `products.backward`."""
    cdef Py_ssize_t first = share(member, 0, layer.n_in, WORD)
    cdef Py_ssize_t stop = share(member, 1, layer.n_in, WORD), n_out = layer.n_out
    cdef real* gradient
    if goal.rule == NULL:
        gradient = <real*>goal.vector + layer.weight
        scale(<real>goal.beta, gradient + first * n_out, (stop - first) * n_out)
        add_products(layer, batch, D, <real>goal.alpha, gradient, NULL, first, stop)
    else:
        gradient = <real*>batch.gathered
        add_products(layer, batch, D, <real>1, gradient, batch.touched, first, stop)
        apply_touched(layer, goal, gradient, batch.touched, first, stop)
    bias_gradient(layer, D, batch.n, goal, scratch, member)
    barrier(member)
