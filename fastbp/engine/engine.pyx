"""Entry points of the compiled core: predict, evaluate, loss_and_gradient, epoch.

Arrays arrive checked and converted; here they are only recognised. The GIL is released around
pieces of work, and between the pieces a pending Ctrl-C is raised.
"""
cimport cython
cimport numpy as cnp
import numpy as np
from cpython.exc cimport PyErr_CheckSignals
from libc.math cimport isfinite
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from . cimport activations, losses
from .blas cimport load_blas
from .clock cimport milliseconds, out_of_patience
from .optimizers cimport sgd
from .passes cimport Workspace, forward_pass, gather, gradient_pass, loss_pass, scratch_size
from .products cimport forward
from .records cimport Layer, Net, Samples, real
from .tile cimport HAS_TILES

cnp.import_array()

# The names users write, in the order error messages list them.
ACTIVATIONS = {
    "identity": activations.IDENTITY,
    "sigmoid": activations.SIGMOID,
    "tanh": activations.TANH,
    "relu": activations.RELU,
    "softmax": activations.SOFTMAX,
}
LOSSES = {
    "squared_error": losses.SQUARED_ERROR,
    "binary_cross_entropy": losses.BINARY_CROSS_ENTROPY,
    "cross_entropy": losses.CROSS_ENTROPY,
}

cdef enum:
    MOST_ROWS = 1024            # of one pass, so that its activations stay in a cache
    STACK_DOUBLES = 2048        # outputs of the hidden layers in a small predict
    PADDING = 64                # readable bytes after every buffer: one vector of any variant

# Ctrl-C waits for the end of a pass: about 0.1 s on a core of 100 GFLOP/s in float32. A batch
# that takes longer is cut into passes of a quarter of that, which leaves a margin to slow cores.
cdef double ONE_PASS_FLOPS = 12e9
cdef double MANY_PASSES_FLOPS = 3e9
# Below some 20 us of work, releasing and taking the GIL costs more than it gives.
cdef double GIL_FLOPS = 1e6
# Between two looks at the clock.
cdef double CLOCK_FLOPS = 2e6

# --- pieces of work, without Python ---------------------------------------------------------

cdef enum Status:
    DONE
    PAUSED          # time to look for Ctrl-C
    NOT_FINITE


cdef struct Epoch:
    Py_ssize_t batch_size
    Py_ssize_t start            # first row of the batch under way
    Py_ssize_t done             # rows of that batch whose gradient is taken
    Py_ssize_t steps            # whole steps made
    double batch_loss           # of those rows
    double loss                 # summed over the rows of all whole batches
    double rate


cdef bint all_finite_values(const real* values, Py_ssize_t n) noexcept nogil:
    # x * 0 is 0 for every finite x and NaN otherwise; 16 sums of their own vectorise
    cdef real[16] sums
    cdef real total = 0
    cdef Py_ssize_t i, j, whole = n - n % 16
    for j in range(16):
        sums[j] = 0
    for i in range(0, whole, 16):
        for j in range(16):
            sums[j] += values[i + j] * 0
    for i in range(whole, n):
        total += values[i] * 0
    for j in range(16):
        total += sums[j]
    return total == 0


cdef double flops_per_row(const Net* net) noexcept nogil:
    """Of one training step: two for each weight in each of the three products."""
    return 6.0 * net.n_parameters


cdef Status advance(
    const Net* net, real* parameters, const Samples* samples, Epoch* epoch, Workspace* work,
) noexcept nogil:
    """Train on until the epoch ends, the loss is not finite, or it is time to pause.

    A batch that one pass can hold is one fused step. A larger one gathers its gradient over
    several passes first, so that a pause can fall between them and nothing is half updated.
    """
    cdef double since = milliseconds(), flops = 0
    cdef real* target
    cdef real alpha, beta
    cdef Py_ssize_t size, n
    while epoch.start < samples.n:
        size = min(epoch.batch_size, samples.n - epoch.start)
        n = min(work.rows, size - epoch.done)
        if n == size:
            target, alpha, beta = parameters, <real>-epoch.rate, 1
        else:
            target, alpha, beta = <real*>work.gradient, 1, 0 if epoch.done == 0 else 1
        epoch.batch_loss += gradient_pass(
            net, parameters, samples, epoch.start + epoch.done, n, 1.0 / size,
            alpha, beta, target, work)
        if not isfinite(epoch.batch_loss):
            return NOT_FINITE
        epoch.done += n
        if epoch.done == size:
            if n < size:
                sgd(parameters, target, net.n_parameters, <real>epoch.rate)
            epoch.loss += epoch.batch_loss * size
            epoch.start += size
            epoch.steps += 1
            epoch.batch_loss = epoch.done = 0
        flops += n * flops_per_row(net)
        if flops > CLOCK_FLOPS:
            flops = 0
            if out_of_patience(since):
                return PAUSED
    return DONE


cdef struct Sweep:
    Py_ssize_t start            # rows done
    double loss                 # their part of the mean loss


cdef Status sweep_gradient(
    const Net* net, const real* parameters, const Samples* samples, Sweep* sweep,
    real* gradient, Workspace* work,
) noexcept nogil:
    """The mean loss over all rows and, unless `gradient` is NULL, its gradient."""
    cdef double since = milliseconds(), scale = 1.0 / samples.n
    cdef const real* X
    cdef Py_ssize_t n
    while sweep.start < samples.n:
        n = min(work.rows, samples.n - sweep.start)
        if gradient == NULL:
            X = gather(net, parameters, samples, sweep.start, n, work)
            forward_pass(net, parameters, X, n, work)
            sweep.loss += loss_pass(net, parameters, samples, sweep.start, n, scale, work)
        else:
            sweep.loss += gradient_pass(
                net, parameters, samples, sweep.start, n, scale,
                1, 0 if sweep.start == 0 else 1, gradient, work)
        sweep.start += n
        if out_of_patience(since):
            return PAUSED
    return DONE


cdef Status predict_rows(
    const Net* net, const real* parameters, const real* X, Py_ssize_t n, real* out,
    Py_ssize_t* start, real* hidden, Py_ssize_t rows,
) noexcept nogil:
    """Rows start .. n of the last layer's output, `rows` at a time.

    hidden holds 2 x rows x widest outputs, and the products' scratch behind them.
    """
    cdef double since = milliseconds() if n > rows else 0
    cdef const real* inputs
    cdef real* outputs
    cdef real* scratch = hidden + 2 * rows * net.widest
    cdef Py_ssize_t l, count
    while start[0] < n:
        count = min(rows, n - start[0])
        inputs = X + start[0] * net.n_in
        for l in range(net.depth):
            outputs = hidden + (l % 2) * rows * net.widest
            if l == net.depth - 1:
                outputs = out + start[0] * net.n_out
            forward(&net.layers[l], net.layers[l].activation, parameters,
                    inputs, count, outputs, scratch)
            inputs = outputs
        start[0] += count
        if start[0] < n and out_of_patience(since):
            return PAUSED
    return DONE


# --- arrays ---------------------------------------------------------------------------------

cdef inline bint is_ready(object array, int type_number) noexcept:
    """Whether this is exactly an ndarray: aligned, C-contiguous, of this type in native order."""
    return (cnp.PyArray_CheckExact(array) and cnp.PyArray_TYPE(array) == type_number
            and cnp.PyArray_ISCARRAY_RO(array))


cdef inline bint overlap(cnp.ndarray a, cnp.ndarray b) noexcept:
    cdef char* first = <char*>cnp.PyArray_DATA(a)
    cdef char* second = <char*>cnp.PyArray_DATA(b)
    return first < second + cnp.PyArray_NBYTES(b) and second < first + cnp.PyArray_NBYTES(a)


cdef void* pointer(object array, int type_number, str name) except NULL:
    if not is_ready(array, type_number):
        raise TypeError(f"{name} is not ready for the engine")
    return cnp.PyArray_DATA(array)


cdef cnp.ndarray aligned_zeros(Py_ssize_t n, cnp.dtype dtype):
    """A vector that starts on a cache line and has PADDING behind it."""
    cdef cnp.ndarray memory = np.zeros(n * dtype.itemsize + 2 * PADDING, np.uint8)
    cdef Py_ssize_t start = PADDING - <Py_ssize_t>(<size_t>cnp.PyArray_DATA(memory) % PADDING)
    return memory[start:start + n * dtype.itemsize].view(dtype)


def all_finite(cnp.ndarray array not None):
    """Whether a C-contiguous float32 or float64 array holds no NaN and no infinity."""
    cdef Py_ssize_t n = cnp.PyArray_SIZE(array)
    cdef const float* singles
    cdef const double* doubles
    cdef bint result
    if cnp.PyArray_TYPE(array) == cnp.NPY_FLOAT32:
        singles = <float*>pointer(array, cnp.NPY_FLOAT32, "array")
        with nogil:
            result = all_finite_values(singles, n)
    else:
        doubles = <double*>pointer(array, cnp.NPY_FLOAT64, "array")
        with nogil:
            result = all_finite_values(doubles, n)
    return result


# --- a network ------------------------------------------------------------------------------

@cython.final
cdef class Plan:
    """A network as the engine sees it: layer records over one flat parameter vector.

    Parameters
    ----------
    layers : list of (activation, n_in, n_out, weight, bias)
        Codes from `ACTIVATIONS`, sizes, and offsets into the parameter vector.
    loss : int
        A code from `LOSSES`.
    dtype : numpy.dtype
        float32 or float64.

    Attributes
    ----------
    parameters : ndarray of dtype, one-dimensional
        All zero at first; read, and written by training, in place.
    """
    cdef Net net
    cdef Workspace work
    cdef readonly cnp.ndarray parameters
    cdef void* theta
    cdef int type_number
    cdef Py_ssize_t item
    cdef bint training

    def __cinit__(self, list layers not None, int loss, cnp.dtype dtype not None):
        cdef Net* net = &self.net
        cdef Layer* layer = NULL
        cdef Py_ssize_t l
        self.type_number = dtype.num
        self.item = dtype.itemsize
        if self.type_number not in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64):
            raise TypeError(f"neither float32 nor float64: {dtype}")
        net.depth = len(layers)
        net.layers = <Layer*>calloc(net.depth, sizeof(Layer))
        if net.layers == NULL:
            raise MemoryError
        net.loss = loss
        for l in range(net.depth):
            layer = &net.layers[l]
            (layer.activation, layer.n_in, layer.n_out, layer.weight, layer.bias) = layers[l]
            layer.output = net.n_outputs
            net.n_outputs += layer.n_out
            net.widest = max(net.widest, layer.n_out)
            assert l == 0 or layer.n_in == net.layers[l - 1].n_out
            net.n_parameters = max(net.n_parameters, layer.weight + layer.n_in * layer.n_out,
                                   layer.bias + layer.n_out)
        net.n_in = net.layers[0].n_in
        net.n_out = layer.n_out
        net.from_logits = losses.takes_logits(loss, layer.activation)
        self.parameters = aligned_zeros(net.n_parameters, dtype)
        self.theta = cnp.PyArray_DATA(self.parameters)

    def __dealloc__(self):
        self.release_workspace()
        free(self.net.layers)

    cdef void release_workspace(self) noexcept:
        free(self.work.inputs)
        free(self.work.outputs)
        free(self.work.delta)
        free(self.work.scratch)
        free(self.work.one_hot)
        free(self.work.gradient)
        memset(&self.work, 0, sizeof(Workspace))

    cdef void* buffer(self, Py_ssize_t n) except NULL:
        """Room for n elements, zeroed, and PADDING."""
        cdef void* memory = calloc(n * self.item + PADDING, 1)
        if memory == NULL:
            raise MemoryError
        return memory

    cdef int prepare(self, Py_ssize_t batch_size) except -1:
        """A workspace for batches of this size; kept from call to call while it is enough."""
        cdef Net* net = &self.net
        cdef double row = flops_per_row(net) * self.item / sizeof(float)
        cdef Py_ssize_t rows = min(batch_size, MOST_ROWS)
        if batch_size * row > ONE_PASS_FLOPS:
            rows = max(1, min(rows, <Py_ssize_t>(MANY_PASSES_FLOPS / row)))
        if not HAS_TILES:
            load_blas()
        if self.work.rows < rows:
            self.release_workspace()
            self.work.inputs = self.buffer(rows * net.n_in)
            self.work.outputs = self.buffer(rows * net.n_outputs)
            self.work.delta = self.buffer(2 * rows * net.widest)
            self.work.scratch = self.buffer(scratch_size(net, rows, self.item, True))
            self.work.one_hot = self.buffer(net.n_out)
            self.work.rows = rows
        if batch_size > self.work.rows and self.work.gradient == NULL:
            self.work.gradient = self.buffer(net.n_parameters)
        return 0

    cdef int describe(self, object X, object y, object order, Samples* samples) except -1:
        """Fill `samples` from checked arrays; `order` may be None."""
        samples.n = cnp.PyArray_DIM(X, 0)
        samples.X = pointer(X, self.type_number, "X")
        assert X.shape == (samples.n, self.net.n_in)
        samples.labels = samples.order = NULL
        samples.targets = NULL
        if cnp.PyArray_TYPE(y) == cnp.NPY_INTP:
            samples.labels = <Py_ssize_t*>pointer(y, cnp.NPY_INTP, "y")
            assert y.shape == (samples.n,) and y.min() >= 0 and y.max() < self.net.n_out
        else:
            samples.targets = pointer(y, self.type_number, "y")
            assert y.shape == (samples.n, self.net.n_out)
        if order is not None:
            samples.order = <Py_ssize_t*>pointer(order, cnp.NPY_INTP, "order")
            assert sorted(order) == list(range(samples.n))
        return 0

    cdef int enter(self) except -1:
        """Training writes one workspace: one thread at a time (the GIL is held here)."""
        if self.training:
            raise RuntimeError("this network is in use by a training call of another thread")
        self.training = True
        return 0

    def predict(self, X, out=None):
        """The network's output for X, n x n_in or n_in; into `out` when it is given.

        Returns None, having done nothing, unless the arrays need no conversion and no closer
        look: exact, contiguous, finite, of the right shapes, and `out` clear of the input.
        """
        cdef Py_ssize_t n = 1, last
        cdef cnp.npy_intp[2] shape
        if not is_ready(X, self.type_number):
            return None
        cdef int dimensions = cnp.PyArray_NDIM(X)
        if not 1 <= dimensions <= 2:
            return None
        last = cnp.PyArray_DIM(X, dimensions - 1)
        if dimensions == 2:
            n = shape[0] = cnp.PyArray_DIM(X, 0)
        if n == 0 or last != self.net.n_in:
            return None
        shape[dimensions - 1] = self.net.n_out
        if out is not None:
            if not (is_ready(out, self.type_number) and cnp.PyArray_ISWRITEABLE(out)
                    and cnp.PyArray_NDIM(out) == dimensions
                    and cnp.PyArray_DIM(out, 0) == shape[0]
                    and cnp.PyArray_DIM(out, dimensions - 1) == self.net.n_out
                    and not overlap(out, X) and not overlap(out, self.parameters)):
                return None
        if self.type_number == cnp.NPY_FLOAT32:
            return self.predict_typed[float](<float*>self.theta, X, n, out, dimensions, shape)
        return self.predict_typed[double](<double*>self.theta, X, n, out, dimensions, shape)

    cdef object predict_typed(
        self, const real* parameters, object X, Py_ssize_t n, object out,
        int dimensions, cnp.npy_intp* shape,
    ):
        cdef const Net* net = &self.net
        cdef const real* x = <real*>cnp.PyArray_DATA(X)
        cdef Py_ssize_t rows = min(n, MOST_ROWS), start = 0, size
        cdef double[STACK_DOUBLES] stack
        cdef real* hidden = <real*>stack
        cdef real* y
        cdef bint finite
        cdef Status status = PAUSED
        if not HAS_TILES:
            load_blas()
        if n * flops_per_row(net) < GIL_FLOPS:
            finite = all_finite_values(x, n * net.n_in)
        else:
            with nogil:
                finite = all_finite_values(x, n * net.n_in)
        if not finite:
            return None
        if out is None:
            out = cnp.PyArray_EMPTY(dimensions, shape, self.type_number, 0)
        y = <real*>cnp.PyArray_DATA(out)
        size = ((2 * rows * net.widest + scratch_size(net, rows, sizeof(real), False))
                * <Py_ssize_t>sizeof(real) + PADDING)
        if size > <Py_ssize_t>sizeof(stack):
            hidden = <real*>malloc(size)
            if hidden == NULL:
                raise MemoryError
        try:
            if n * flops_per_row(net) < GIL_FLOPS:
                predict_rows(net, parameters, x, n, y, &start, hidden, rows)
            else:
                while status == PAUSED:
                    with nogil:
                        status = predict_rows(net, parameters, x, n, y, &start, hidden, rows)
                    PyErr_CheckSignals()
        finally:
            if hidden != <real*>stack:
                free(hidden)
        return out

    def loss_and_gradient(self, X, y, gradient=None):
        """The mean loss over all rows; its gradient is written to `gradient`, if given."""
        cdef Samples samples
        cdef Sweep sweep = Sweep(start=0, loss=0)
        cdef Status status = PAUSED
        cdef void* target = NULL
        self.describe(X, y, None, &samples)
        if gradient is not None:
            target = pointer(gradient, self.type_number, "gradient")
            assert gradient.shape == (self.net.n_parameters,)
        self.enter()
        try:
            self.prepare(min(samples.n, MOST_ROWS))
            while status == PAUSED:
                with nogil:
                    if self.type_number == cnp.NPY_FLOAT32:
                        status = sweep_gradient(&self.net, <const float*>self.theta, &samples,
                                                &sweep, <float*>target, &self.work)
                    else:
                        status = sweep_gradient(&self.net, <const double*>self.theta, &samples,
                                                &sweep, <double*>target, &self.work)
                PyErr_CheckSignals()
        finally:
            self.training = False
        return sweep.loss

    def epoch(self, X, y, order, Py_ssize_t batch_size, double rate):
        """One epoch of plain gradient descent over all rows in `order` (None: as they lie).

        Returns the mean of the batches' losses before their steps, weighted by their sizes, and
        the number of whole steps made. A loss that is not finite ends the epoch before the
        step it belongs to and is returned as it is.
        """
        cdef Samples samples
        cdef Epoch epoch = Epoch(batch_size=batch_size, start=0, done=0, steps=0,
                                 batch_loss=0, loss=0, rate=rate)
        cdef Status status = PAUSED
        assert batch_size > 0
        self.describe(X, y, order, &samples)
        self.enter()
        try:
            self.prepare(min(batch_size, samples.n))
            while status == PAUSED:
                with nogil:
                    if self.type_number == cnp.NPY_FLOAT32:
                        status = advance(&self.net, <float*>self.theta, &samples, &epoch,
                                         &self.work)
                    else:
                        status = advance(&self.net, <double*>self.theta, &samples, &epoch,
                                         &self.work)
                PyErr_CheckSignals()
        finally:
            self.training = False
        if status == NOT_FINITE:
            return epoch.batch_loss, epoch.steps
        return epoch.loss / samples.n, epoch.steps
