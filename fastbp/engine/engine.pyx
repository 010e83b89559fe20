"""Entry points of the compiled core: predict, evaluate, loss_and_gradient, epoch.

Arrays arrive checked and converted; here they are only recognised. The GIL is released around
pieces of work, and between the pieces a pending Ctrl-C is raised.
"""
import functools
import os

cimport cython
cimport numpy as cnp
import numpy as np
from cpython.exc cimport PyErr_CheckSignals
from cpython.pycapsule cimport (
    PyCapsule_CheckExact, PyCapsule_GetContext, PyCapsule_GetName, PyCapsule_GetPointer,
    PyCapsule_New, PyCapsule_SetContext,
)
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.limits cimport INT_MAX
from libc.math cimport INFINITY, NAN, ceil, isfinite, sqrt
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from . cimport activations, losses, optimizers
from .blas cimport has_blas, set_blas
from .clock cimport milliseconds, out_of_patience
from .crossovers cimport (
    DELTA_PANELS, DELTA_WIDTH, DOT_ROWS, GIL_FLOPS, LAID_OUT_WIDTH, LARGE_DELTA, LARGE_WEIGHT,
    MANY_ROWS, TEAM_CALL_FLOPS, TEAM_FLOPS, WHOLE_WEIGHT,
)
from .denormals cimport denormals_flush, denormals_restore
from .elementary cimport sign
from .native cimport (
    FASTBP_BAD_LABEL, FASTBP_NEEDS_PYTHON, FASTBP_NO_MEMORY, FASTBP_NO_STATISTICS,
    FASTBP_NOT_FINITE, FASTBP_OK, FASTBP_READ_ONLY, FASTBP_VERSION, fastbp_network,
)
from .optimizers cimport (
    Rule, apply, begin_step, clip_to_norm, end_step, is_plain_rule, state_vectors,
)
from .passes cimport (
    Workspace, backward_pass, forward_pass, gather, gradient_pass, layer_forward, loss_pass,
    moments_of, moments_room, own_scratch, scratch_size, slopes_of,
)
from .products cimport Goal, finish_update, limit_norms, round_up
from .random cimport step_key
from .records cimport (
    BATCH_NORM, DENSE, LAYER_NORM, NORMALIZE, RESIDUAL, Batch, Layer, Net, Samples, real,
)
from .sparse cimport copy_columns as copy_places
from .team cimport MOST_THREADS, Member, barrier, is_first, share, team, team_run
from .tile cimport HAS_TILES, panel_width, weighted_sum
from .tile cimport all_finite as all_finite_values

cnp.import_array()

cdef object ONE = 1             # compared by identity first: nearly every call asks for one thread

LAYERS = {
    "dense": DENSE,
    "batch_norm": BATCH_NORM,
    "layer_norm": LAYER_NORM,
    "normalize": NORMALIZE,
    "residual": RESIDUAL,
}
# The names users write, in the order error messages list them.
ACTIVATIONS = {
    "identity": activations.IDENTITY,
    "sigmoid": activations.SIGMOID,
    "hard_sigmoid": activations.HARD_SIGMOID,
    "tanh": activations.TANH,
    "relu": activations.RELU,
    "relu6": activations.RELU6,
    "leaky_relu": activations.LEAKY_RELU,
    "elu": activations.ELU,
    "selu": activations.SELU,
    "softplus": activations.SOFTPLUS,
    "softsign": activations.SOFTSIGN,
    "exponential": activations.EXPONENTIAL,
    "gelu": activations.GELU,
    "gelu_tanh": activations.GELU_TANH,
    "silu": activations.SILU,
    "mish": activations.MISH,
    "softmax": activations.SOFTMAX,
    "log_softmax": activations.LOG_SOFTMAX,
}
OPTIMIZERS = {
    "sgd": optimizers.SGD,
    "adagrad": optimizers.ADAGRAD,
    "rmsprop": optimizers.RMSPROP,
    "adadelta": optimizers.ADADELTA,
    "adam": optimizers.ADAM,
    "nadam": optimizers.NADAM,
    "adamax": optimizers.ADAMAX,
    "lion": optimizers.LION,
}
LOSSES = {
    "squared_error": losses.SQUARED_ERROR,
    "absolute_error": losses.ABSOLUTE_ERROR,
    "huber": losses.HUBER,
    "log_cosh": losses.LOG_COSH,
    "quantile": losses.QUANTILE,
    "poisson": losses.POISSON,
    "gamma": losses.GAMMA,
    "tweedie": losses.TWEEDIE,
    "binary_cross_entropy": losses.BINARY_CROSS_ENTROPY,
    "cross_entropy": losses.CROSS_ENTROPY,
    "hinge": losses.HINGE,
    "squared_hinge": losses.SQUARED_HINGE,
    "kullback_leibler": losses.KULLBACK_LEIBLER,
    "cosine": losses.COSINE,
    "custom": losses.CUSTOM,
}

cdef enum:
    MOST_ROWS = 1024            # of one pass, so that its activations stay in a cache
    SUMMED = 4096               # squares that are added up in the network's own precision
    STACK_DOUBLES = 2048        # outputs of the hidden layers in a small predict
    PADDING = 64                # readable bytes after every buffer: one vector of any variant
    PAGE = 4096
    APART = 1024                # of vectors that are updated side by side, see `vectors_beside`

# Ctrl-C waits for the end of a pass: 0.15 s on a core of 100 GFLOP/s in float32, which vectors of
# 64 bytes reach, and of the 85 that were seen with 32 bytes. A batch that takes longer is cut into
# smaller passes, with a margin.
cdef double ONE_PASS_FLOPS = (
    15e9 if panel_width(sizeof(float)) >= 32 else 13e9 if panel_width(sizeof(float)) >= 16 else 5e9)
cdef double MANY_PASSES_FLOPS = ONE_PASS_FLOPS / 2
# Between two looks at the clock.
cdef double CLOCK_FLOPS = 2e6

# Where one path takes over from another, for who wants to see.
CROSSOVERS = {
    "rows on the one-row path": 1,
    "bytes of W before a forward product takes it in blocks": WHOLE_WEIGHT,
    "bytes of W before many rows lay these out in panels": LARGE_WEIGHT,
    "how many rows are many": MANY_ROWS,
    "rows up to which D W^T goes by dot products": DOT_ROWS,
    "rows up to which D W^T may go by (W D^T)^T": DELTA_PANELS * panel_width(sizeof(float)),
    "columns of D before it does": DELTA_WIDTH,
    "columns of D before X is laid out for X^T D": LAID_OUT_WIDTH,
    "bytes of D before several panels of W share a pass over it": LARGE_DELTA,
    "rows of one pass at most": MOST_ROWS,
    "flops of a predict before it releases the GIL": int(GIL_FLOPS),
    "flops of a pass before threads share it": int(TEAM_FLOPS),
    "flops of a call before threads share it": int(TEAM_CALL_FLOPS),
}

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
    Py_ssize_t first_step       # how many were made before, for what is random
    double batch_loss           # of those rows
    double loss                 # summed over the rows of all whole batches
    const double* rates         # the learning rate of each step, or
    bint constant               # one for all of them
    bint watched                # whether the norm of each step's gradient is wanted, and
    double norms                # their sum


cdef enum:
    FORWARD = 2                 # floating-point operations of a row for each weight
    STEP = 3 * FORWARD


cdef Py_ssize_t rows_per_pass(
    const Net* net, Py_ssize_t n, double row_flops, Py_ssize_t item,
) noexcept nogil:
    """How many of n rows one pass takes: of network and data alone, as it decides on bits."""
    cdef double flops = n * row_flops * item / sizeof(float)
    cdef Py_ssize_t passes
    if flops <= ONE_PASS_FLOPS:
        return min(MOST_ROWS, n)
    passes = <Py_ssize_t>min(<double>n, ceil(flops / MANY_PASSES_FLOPS))
    return min(MOST_ROWS, (n + passes - 1) // passes)


cdef inline Py_ssize_t even_part(Py_ssize_t n, Py_ssize_t most) noexcept nogil:
    """How many rows a pass takes where n rows are cut evenly, into parts of at most `most`."""
    cdef Py_ssize_t parts
    if n <= most:
        return n
    parts = (n + most - 1) // most
    return (n + parts - 1) // parts


cdef struct Sweep:
    Py_ssize_t start            # rows done
    double loss                 # their part of the mean loss


cdef inline double start_of_clock(const Samples* samples, Py_ssize_t times) noexcept nogil:
    """Look at the clock, unless there is too little to do for ever looking at it again."""
    return milliseconds() if times * samples.n * STEP * samples.products > CLOCK_FLOPS else 0


cdef bint time_to_pause(
    double since, double* flops, Workspace* work, const Member* member,
) noexcept nogil:
    """Look at the clock now and then; all members get the same answer."""
    if flops[0] < CLOCK_FLOPS:
        return False
    flops[0] = 0
    if is_first(member):
        work.pause = out_of_patience(since)
    barrier(member)
    return work.pause


cdef double norm_of(const real* x, Py_ssize_t n) noexcept nogil:
    """The Euclidean norm."""
    cdef double total = 0
    cdef Py_ssize_t at = 0
    while at < n:
        total += weighted_sum(x + at, x + at, <real>0, min(<Py_ssize_t>SUMMED, n - at))
        at += SUMMED
    return sqrt(total)


cdef void apply_to_layers(
    const Net* net, const Rule* rule, real* parameters, const real* gradient, const Member* member,
) noexcept nogil:
    """Update all parameters that training may change by the gradient of all."""
    cdef const Layer* layer
    cdef Py_ssize_t at, size, first, stop
    for at in range(net.depth):
        layer = &net.layers[at]
        size = 0 if layer.frozen else layer.bias + layer.n_out - layer.weight
        first = layer.weight + share(member, 0, size, 1)
        stop = layer.weight + share(member, 1, size, 1)
        apply(rule, 0, 0, parameters, gradient + first, first, stop - first)
    barrier(member)


cdef void add_penalties(
    const Net* net, const real* parameters, real* gradient, const Member* member,
) noexcept nogil:
    """Add the gradient of the penalties on the weights that training may change."""
    cdef const Layer* layer
    cdef Py_ssize_t at, size, i
    cdef real l1, l2
    for at in range(net.depth):
        layer = &net.layers[at]
        l1, l2 = <real>layer.l1, <real>layer.l2
        size = 0 if layer.frozen else layer.bias - layer.weight
        for i in range(layer.weight + share(member, 0, size, 1),
                       layer.weight + share(member, 1, size, 1)):
            gradient[i] += l2 * parameters[i] + l1 * sign(parameters[i])
    barrier(member)


cdef bint is_plain(const Net* net, const Rule* rule) noexcept nogil:
    """Whether products make the whole step of their own."""
    return is_plain_rule(rule) and not net.has_penalties


cdef bint is_fused(const Net* net, const Rule* rule) noexcept nogil:
    """Whether a rule may update each weight as soon as its gradient is there."""
    return is_plain(net, rule) or HAS_TILES and rule.clip_norm == INFINITY


cdef Status advance(
    const Net* net, real* parameters, const Samples* samples, Epoch* shared, Rule* shared_rule,
    Workspace* work, const Member* member,
) noexcept nogil:
    """Train on until the epoch ends, the loss is not finite, or it is time to pause.

    A batch that one pass can hold is one fused step, unless the rule has to see the whole gradient
    first. A larger one gathers its gradient over several passes first, so that a pause can fall
    between them and nothing is half updated.
    """
    cdef double since = start_of_clock(samples, 1), flops = 0, rate
    cdef Epoch epoch = shared[0]        # every member counts for itself, with the same result
    cdef Rule rule = shared_rule[0]
    cdef Status status = DONE
    cdef Goal goal
    cdef Py_ssize_t size, n, at
    while epoch.start < samples.n:
        size = min(epoch.batch_size, samples.n - epoch.start)
        n = min(even_part(size, work.rows), size - epoch.done)
        rate = epoch.rates[0 if epoch.constant else epoch.steps]
        begin_step(&rule, rate, 0 if rule.noise == 0 else step_key(
            work.key, epoch.first_step + epoch.steps, net.depth))
        if is_first(member) and net.drops:
            work.step, work.row = epoch.first_step + epoch.steps, epoch.done
        if is_first(member) and net.has_batch_norms and epoch.done == 0 and n < size:
            memcpy(work.gathered, net.statistics, net.n_statistics * sizeof(real))
        if net.drops or net.has_batch_norms:
            barrier(member)
        if n < size or epoch.watched or not is_fused(net, &rule):
            goal = Goal(work.gradient, 1, 0 if epoch.done == 0 else 1, NULL)
        elif is_plain(net, &rule):
            goal = Goal(parameters, -rate, 1 - rate * rule.weight_decay, NULL)
        else:
            goal = Goal(parameters, 1, 0, &rule)
        epoch.batch_loss += gradient_pass(
            net, parameters, samples, epoch.start + epoch.done, n, 1.0 / size, &goal, NULL, work,
            member)
        if not isfinite(epoch.batch_loss):
            status = NOT_FINITE
            break
        epoch.done += n
        if epoch.done == size:
            if goal.vector != parameters:
                if net.has_penalties:
                    add_penalties(net, parameters, <real*>work.gradient, member)
                if epoch.watched or rule.clip_norm != INFINITY:
                    if is_first(member):
                        work.norm = norm_of(<const real*>work.gradient, net.n_parameters)
                    barrier(member)
                    epoch.norms += work.norm
                    clip_to_norm(&rule, work.norm)
                apply_to_layers(net, &rule, parameters, <const real*>work.gradient, member)
            for at in range(net.depth if net.has_limits else 0):
                if net.layers[at].max_norm > 0 and not net.layers[at].frozen:
                    limit_norms(&net.layers[at], parameters, <real*>work.delta, member)
                    barrier(member)
            end_step(&rule)
            epoch.loss += epoch.batch_loss * size
            epoch.start += size
            epoch.steps += 1
            epoch.batch_loss = epoch.done = 0
        flops += n * STEP * samples.products
        if time_to_pause(since, &flops, work, member):
            status = PAUSED
            break
    if is_first(member):
        finish_update(&work.late, &net.layers[0], <const real*>work.late.x)
    barrier(member)
    if is_first(member):
        shared[0] = epoch
        shared_rule[0] = rule
    return status


cdef Status sweep_gradient(
    const Net* net, const real* parameters, const Samples* samples, Sweep* shared,
    real* gradient, real* by_inputs, Workspace* work, const Member* member,
) noexcept nogil:
    """The mean loss over all rows and, unless they are NULL, its gradients."""
    cdef double since = start_of_clock(samples, 1), flops = 0, scale = 1.0 / samples.n
    cdef Sweep sweep = shared[0]
    cdef Status status = DONE
    cdef Goal goal
    cdef Batch batch
    cdef Py_ssize_t n
    while sweep.start < samples.n:
        n = min(work.rows, samples.n - sweep.start)
        if gradient == NULL and by_inputs == NULL:
            batch = gather(net, parameters, samples, sweep.start, n, work, member)
            forward_pass(net, parameters, &batch, work, member)
            sweep.loss += loss_pass(net, parameters, samples, sweep.start, n, scale, work, member)
        else:
            goal = Goal(gradient, 1, 0 if sweep.start == 0 else 1, NULL)
            sweep.loss += gradient_pass(
                net, parameters, samples, sweep.start, n, scale,
                &goal if gradient != NULL else NULL,
                by_inputs + sweep.start * net.n_in if by_inputs != NULL else NULL, work, member)
        sweep.start += n
        flops += n * STEP * samples.products
        if time_to_pause(since, &flops, work, member):
            status = PAUSED
            break
    barrier(member)
    if is_first(member):
        shared[0] = sweep
    return status


cdef inline Py_ssize_t hidden_place(const Net* net, Py_ssize_t at) noexcept nogil:
    """Where a prediction has the outputs of layer `at`, for each row: they last until the next
    layer's are there, unless a sum may want them later."""
    return net.layers[at].output if net.has_sums else at % 2 * net.widest


cdef inline Py_ssize_t hidden_room(const Net* net) noexcept nogil:
    return net.n_outputs if net.has_sums else 2 * net.widest


cdef Status predict_rows(
    const Net* net, const real* parameters, const Samples* samples, real* out, Py_ssize_t* done,
    Workspace* work, const Member* member,
) noexcept nogil:
    """The last layer's output from row `done` on; work.outputs has the `hidden_room`."""
    cdef double since = milliseconds() if samples.n > work.rows else 0, flops = 0
    cdef real* scratch = own_scratch(parameters, work, member)
    cdef Py_ssize_t start = done[0], at
    cdef Status status = DONE
    cdef const Layer* layer
    cdef const real* inputs
    cdef const real* source
    cdef real* outputs
    cdef Batch batch
    while start < samples.n:
        batch = gather(net, parameters, samples, start, min(work.rows, samples.n - start), work,
                       member)
        inputs = <const real*>batch.X
        for at in range(net.depth):
            layer = &net.layers[at]
            outputs = <real*>work.outputs + hidden_place(net, at) * work.rows
            source = <const real*>batch.X
            if layer.source >= 0:
                source = <real*>work.outputs + hidden_place(net, layer.source) * work.rows
            if at == net.depth - 1:
                outputs = out + start * net.n_out
            layer_forward(net, layer, layer.activation, parameters, NULL, &batch, inputs, source,
                          outputs, NULL, NULL, False, scratch, member)
            inputs = outputs
        start += batch.n
        flops += batch.n * FORWARD * samples.products
        if start < samples.n and time_to_pause(since, &flops, work, member):
            status = PAUSED
            break
    if is_first(member):
        done[0] = start
    return status


cdef void repeat_rows(real* A, Py_ssize_t n, Py_ssize_t size, Py_ssize_t times) noexcept nogil:
    """Each of n rows so many times in a row, in place."""
    cdef Py_ssize_t i, k
    for i in range(n - 1, -1, -1):
        for k in range(times - 1, -1, -1):
            if i * times + k != i:
                memcpy(A + (i * times + k) * size, A + i * size, size * sizeof(real))


cdef Status differentiate(
    const Net* whole, const real* parameters, const Samples* samples, Py_ssize_t* done,
    real* jacobian, Workspace* work, const Member* member,
) noexcept nogil:
    """The derivatives of all outputs by all inputs, n x n_out x n_in, but for the first `done` of
    these n x n_out gradients.

    As many rows go forward as a pass can take back with one row for each of their outputs, or one
    row for some of its outputs.
    """
    cdef double since = start_of_clock(samples, whole.n_out), flops = 0
    cdef Net own = whole[0]
    cdef const Net* net = &own
    cdef Py_ssize_t n_out = net.n_out, at, start, n, first, width, i, k
    cdef const Layer* layer
    cdef real* delta = <real*>work.delta
    cdef Batch batch
    own.from_logits = False     # outputs are those of the last activation
    while done[0] < samples.n * n_out:
        start, first = done[0] // n_out, done[0] % n_out
        n = min(max(<Py_ssize_t>1, work.rows // n_out), samples.n - start)
        width = min(n_out - first, work.rows)
        batch = gather(net, parameters, samples, start, n, work, member)
        forward_pass(net, parameters, &batch, work, member)
        for at in range(net.depth):
            layer = &net.layers[at]
            repeat_rows(<real*>work.outputs + layer.output * work.rows, n, layer.n_out, width)
            if slopes_of(layer, parameters, work) != NULL:
                repeat_rows(slopes_of(layer, parameters, work), n, layer.n_out, width)
            if layer.kind == LAYER_NORM:
                repeat_rows(moments_of(net, layer, parameters, work), 2 * n, 1, width)
        memcpy(work.inputs, batch.X, n * net.n_in * sizeof(real))
        repeat_rows(<real*>work.inputs, n, net.n_in, width)
        memset(delta, 0, n * width * n_out * sizeof(real))
        for i in range(n):
            for k in range(width):
                delta[(i * width + k) * n_out + first + k] = 1
        batch.X, batch.n = work.inputs, n * width
        backward_pass(net, parameters, &batch, NULL, jacobian + done[0] * net.n_in, work, member)
        done[0] += n * width
        flops += n * width * FORWARD * samples.products
        if done[0] < samples.n * n_out and time_to_pause(since, &flops, work, member):
            return PAUSED
    return DONE


# --- the same by a team, for either type ----------------------------------------------------

cdef enum Task:
    TRAIN
    SWEEP
    PREDICT
    DIFFERENTIATE


cdef struct Call:
    Task task
    const Net* net
    void* parameters
    bint single                 # float32, not float64
    const Samples* samples
    Workspace* work
    Epoch* epoch                # to train, by the
    Rule* rule
    uint64_t key
    Sweep* sweep                # to sweep
    void* gradient
    void* by_inputs
    void* out                   # to predict or to differentiate
    Py_ssize_t* done
    team members
    Status status


cdef Status work_on(Call* call, real* parameters, const Member* member) noexcept nogil:
    if call.task == TRAIN:
        return advance(call.net, parameters, call.samples, call.epoch, call.rule, call.work,
                       member)
    if call.task == SWEEP:
        return sweep_gradient(call.net, <const real*>parameters, call.samples, call.sweep,
                              <real*>call.gradient, <real*>call.by_inputs, call.work, member)
    if call.task == DIFFERENTIATE:
        return differentiate(call.net, <const real*>parameters, call.samples, call.done,
                             <real*>call.out, call.work, member)
    return predict_rows(call.net, <const real*>parameters, call.samples, <real*>call.out,
                        call.done, call.work, member)


cdef void body(void* argument, int part) noexcept nogil:
    """What every member of a team runs."""
    cdef Call* call = <Call*>argument
    cdef Member member = Member(&call.members, part)
    cdef Status status
    cdef unsigned long long mode = denormals_flush()
    if is_first(&member):
        call.work.mode = mode
    if call.single:
        status = work_on(call, <float*>call.parameters, &member)
    else:
        status = work_on(call, <double*>call.parameters, &member)
    denormals_restore(mode)
    if is_first(&member):
        call.status = status


cdef int run(Call* call, int n_threads, bint small) except -1:
    """Run a call to its end; between its pauses a pending Ctrl-C is raised.

    The GIL is released, unless the work is small.
    """
    call.status = PAUSED
    if small:
        call.members.size = 1
        body(call, 0)
    while call.status == PAUSED:
        with nogil:
            team_run(&call.members, n_threads, body, call)
        PyErr_CheckSignals()
    return 0


def usable_cores():
    """How many cores this process may run on; more threads than that never help."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


cdef int useful_threads(
    Py_ssize_t rows, Py_ssize_t pass_rows, double row_flops, Py_ssize_t n_threads,
) except -1:
    """How many of the threads allowed are worth it for so many rows, in passes of `pass_rows`."""
    # BLAS has threads of its own, and its products do not stand being called side by side. One
    # row is not shared.
    if n_threads == 1 or not HAS_TILES or pass_rows == 1:
        return 1
    if pass_rows * row_flops < TEAM_FLOPS or rows * row_flops < TEAM_CALL_FLOPS:
        return 1
    return min(n_threads, usable_cores(), MOST_THREADS)


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


cdef Py_ssize_t room(Py_ssize_t n, Py_ssize_t item) noexcept nogil:
    """Bytes for n elements and PADDING, so that what follows them is aligned as they are."""
    return (n * item + 2 * PADDING - 1) // PADDING * PADDING


cdef inline void* aligned(void* memory) noexcept nogil:
    """The first cache line in some memory: a vector that lies in two of them costs twice."""
    return <char*>memory + (PADDING - <Py_ssize_t>(<size_t>memory % PADDING))


cdef void* zeroed(Py_ssize_t size) except NULL:
    """Memory for so many bytes, once it is `aligned`."""
    cdef void* memory = calloc(size + PADDING, 1)
    if memory == NULL:
        raise MemoryError
    return memory


cdef cnp.ndarray zeros_at(Py_ssize_t size, size_t place, size_t period):
    """So many bytes at `place` in a period of addresses, with PADDING behind them."""
    cdef cnp.ndarray memory = np.zeros(size + (size > 0) * period + PADDING, np.uint8)
    cdef Py_ssize_t first = (place - <size_t>cnp.PyArray_DATA(memory)) % period
    return memory[first:first + size]


cdef cnp.ndarray aligned_zeros(Py_ssize_t n, cnp.dtype dtype):
    """A vector that starts on a cache line and has PADDING behind it."""
    return zeros_at(n * dtype.itemsize, 0, PADDING).view(dtype)


cdef cnp.ndarray vectors_beside(cnp.ndarray theta, Py_ssize_t count):
    """The rows of a matrix of zeros: vectors like theta, for what is updated side by side with it.

    Each begins APART bytes further on in a page than the one before, the first of them than theta.
    A processor tells by the place in a page whether a load has to wait for the stores before it.
    """
    cdef Py_ssize_t size = cnp.PyArray_NBYTES(theta)
    cdef Py_ssize_t stride = size + PADDING + <size_t>(APART - size - PADDING) % PAGE
    memory = zeros_at(count * stride, <size_t>cnp.PyArray_DATA(theta) + APART, PAGE)
    return memory.reshape(count, stride)[:, :size].view(theta.dtype)


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


def copy_columns(starts, given, Py_ssize_t n_columns):
    """Columns of the rows of a sparse matrix of int32 or int64, where row i has those from
    starts[i] up to starts[i + 1].

    Returns them as int32; the place of the first outside the matrix, or their number; and whether
    each row has them in ascending order. The place is -1 if `starts`, intp, are broken.
    """
    cdef Py_ssize_t n = len(starts) - 1, n_given = len(given), place
    cdef const Py_ssize_t* first = <Py_ssize_t*>pointer(starts, cnp.NPY_INTP, "starts")
    cdef cnp.npy_intp[1] shape
    cdef bint ascending
    cdef const void* source
    shape[0] = n_given
    columns = cnp.PyArray_EMPTY(1, shape, cnp.NPY_INT32, 0)
    cdef int* target = <int*>cnp.PyArray_DATA(columns)
    if cnp.PyArray_ITEMSIZE(given) == sizeof(int32_t):
        source = pointer(given, cnp.NPY_INT32, "given")
        place = copy_places(<int32_t*>source, n_given, first, n, n_columns, target, &ascending)
    else:
        source = pointer(given, cnp.NPY_INT64, "given")
        place = copy_places(<int64_t*>source, n_given, first, n, n_columns, target, &ascending)
    return columns, place, ascending


cdef int load_blas() except -1:
    """Fetch SciPy's BLAS on first need, where there are no tiles."""
    if not HAS_TILES and not has_blas():
        from fastbp.engine.blas import addresses
        sgemm, dgemm = addresses()
        set_blas(sgemm, dgemm)
    return 0


# --- a user's loss --------------------------------------------------------------------------

# Of one row, in float64 whatever the network's dtype: (n_out, output, target, gradient, user_data).
ctypedef double (*RowLoss)(int, const double*, const double*, double*, void*) noexcept nogil


cdef struct Compiled:
    RowLoss function
    void* user_data
    double* scratch             # 3 x n_out: a row as the function takes it
    bint single                 # whether the network is of float32


cdef void take_rows(
    const Compiled* loss, Py_ssize_t n, Py_ssize_t n_out, const real* outputs, const real* targets,
    double* row_losses, real* gradients,
) noexcept nogil:
    cdef double* target = loss.scratch + n_out
    cdef double* gradient = target + n_out
    cdef Py_ssize_t i, j
    for i in range(n):
        for j in range(n_out):
            loss.scratch[j] = outputs[i * n_out + j]
            target[j] = targets[i * n_out + j]
            gradient[j] = 0
        row_losses[i] = loss.function(<int>n_out, loss.scratch, target, gradient, loss.user_data)
        for j in range(n_out):
            gradients[i * n_out + j] = <real>gradient[j]


cdef int call_compiled(
    void* context, Py_ssize_t n, Py_ssize_t n_out, const void* outputs, const void* targets,
    double* row_losses, void* gradients,
) noexcept nogil:
    cdef const Compiled* loss = <const Compiled*>context
    if loss.single:
        take_rows(loss, n, n_out, <const float*>outputs, <const float*>targets, row_losses,
                  <float*>gradients)
    else:
        take_rows(loss, n, n_out, <const double*>outputs, <const double*>targets, row_losses,
                  <double*>gradients)
    return 0


cdef int call_python(
    void* context, Py_ssize_t n, Py_ssize_t n_out, const void* outputs, const void* targets,
    double* row_losses, void* gradients,
) noexcept with gil:
    """What it raises is kept, for the call to raise once the kernels have returned."""
    cdef Plan plan = <Plan>context
    denormals_restore(plan.work.mode)       # the function is none of the engine's
    try:
        plan.ask_user(n, n_out, outputs, targets, row_losses, gradients)
        return 0
    except BaseException as error:
        plan.failure = error
        return -1
    finally:
        denormals_flush()


# --- a network ------------------------------------------------------------------------------

cdef void* allocate_workspace(
    const Net* net, Py_ssize_t item, Py_ssize_t rows, int threads, bint sparse, Workspace* work,
) except NULL:
    """Fill a workspace for passes of so many rows; returns its memory."""
    cdef Py_ssize_t inputs = 0 if sparse else room(rows * net.n_in, item)
    cdef Py_ssize_t outputs = room(rows * net.n_outputs, item)
    cdef Py_ssize_t slopes = outputs if net.has_slopes else 0
    cdef Py_ssize_t kept = outputs if net.has_sums else 0
    cdef Py_ssize_t moments = room(net.n_norms * moments_room(net, rows), item)
    cdef Py_ssize_t gathered = room(net.n_statistics, item)
    cdef Py_ssize_t delta = room(2 * rows * net.widest, item)
    cdef Py_ssize_t one_hot = room(net.widest * threads, item)
    cdef Py_ssize_t row_losses = room(rows, sizeof(double))
    cdef Py_ssize_t scratch = scratch_size(net, rows, item, True)
    cdef void* memory = zeroed(inputs + outputs + slopes + kept + moments + gathered + delta
                               + one_hot + row_losses + room(scratch * threads, item))
    work.inputs = aligned(memory)
    work.outputs = <char*>work.inputs + inputs
    work.slopes = <char*>work.outputs + outputs
    work.kept = <char*>work.slopes + slopes
    work.moments = <char*>work.kept + kept
    work.gathered = <char*>work.moments + moments
    work.delta = <char*>work.gathered + gathered
    work.one_hot = <char*>work.delta + delta
    work.losses = <double*>(<char*>work.one_hot + one_hot)
    work.scratch = <char*>work.losses + row_losses
    work.scratch_size = scratch
    work.sparse = sparse
    return memory


cdef Py_ssize_t prediction_size(
    const Net* net, Py_ssize_t item, int threads, Workspace* work,
) noexcept nogil:
    """Say of a workspace with `rows` that it predicts; returns how many bytes it needs."""
    work.training = False
    work.scratch_size = scratch_size(net, work.rows, item, False)
    return (room(hidden_room(net) * work.rows, item) + room(work.scratch_size * threads, item)
            + PADDING)


cdef void place_prediction(
    const Net* net, Py_ssize_t item, void* memory, Workspace* work,
) noexcept nogil:
    """Give it that memory."""
    work.outputs = aligned(memory)
    work.scratch = <char*>work.outputs + room(hidden_room(net) * work.rows, item)


cdef bint lacks_statistics(const Net* net, bint single) noexcept nogil:
    """Whether a normalisation of the inputs has not been told their deviations yet."""
    cdef const Layer* first = &net.layers[0]
    cdef Py_ssize_t at = first.statistics + first.n_in
    if first.kind != NORMALIZE:
        return False
    if single:
        return (<float*>net.statistics)[at] == 0
    return (<double*>net.statistics)[at] == 0


cdef void one_row(const Net* net, const void* x, Samples* samples) noexcept nogil:
    """Describe a single dense row without targets."""
    samples.n, samples.X, samples.products = 1, x, net.n_parameters
    samples.labels, samples.order = NULL, NULL
    samples.targets, samples.weights = NULL, NULL


cdef struct Native:
    # a network for callers without Python
    fastbp_network network      # what they see
    const Net* net
    void* theta
    Rule* rule
    const double* rate
    bint single
    Workspace work              # for one row to learn
    uint64_t key                # of what is random, with
    Py_ssize_t steps            # this count of steps


cdef int describe_layer(dict fields, Layer* layer) except -1:
    layer.kind = fields["kind"]
    layer.activation = fields.get("activation", activations.IDENTITY)
    layer.alpha = fields.get("alpha", 0)
    layer.frozen = fields.get("frozen", False)
    layer.l1 = fields.get("l1", 0)
    layer.l2 = fields.get("l2", 0)
    layer.max_norm = fields.get("max_norm", 0)
    layer.dropout = fields.get("dropout", 0)
    layer.n_in = fields["n_in"]
    layer.n_out = fields["n_out"]
    layer.weight = fields.get("weight", 0)
    layer.bias = fields.get("bias", 0)
    layer.epsilon = fields.get("epsilon", 0)
    layer.momentum = fields.get("momentum", 0)
    layer.statistics = fields.get("statistics", 0)
    layer.source = fields.get("source", -1)
    return 0


@cython.final
cdef class Plan:
    """A network as the engine sees it: layer records over one flat parameter vector.

    Parameters
    ----------
    layers : list of dict of str to number
        What the fields of `records.Layer` are called; those left out are zero. Kinds are codes
        from `LAYERS`, activations from `ACTIVATIONS`.
    loss : (int, float, sequence of float, object)
        A code from `LOSSES`, its parameter, the level of each output for a quantile loss, and what
        computes a custom one: a callable ``function(outputs, targets) -> losses, gradients``, or a
        capsule with the pointer of a `RowLoss`, whose context is its user_data.
    dtype : numpy.dtype
        float32 or float64.
    dropout : float
        The part of the inputs that training drops.

    Attributes
    ----------
    parameters : ndarray of dtype, one-dimensional
        All zero at first; read, and written by training, in place.
    state : ndarray of dtype, two-dimensional
        The optimizer's vectors, each a row as long as the parameters.
    statistics : ndarray of dtype, one-dimensional
        Means and variances that batch norms have gathered, or means and standard deviations of
        the inputs; all zero at first.
    """
    cdef Net net
    cdef Workspace work
    cdef Py_ssize_t rows        # of a pass, and
    cdef int threads            # members of a team that the workspace has room for
    cdef void* memory           # of the workspace, but for
    cdef void* gradient_memory
    cdef void* row_gradient_memory
    cdef readonly cnp.ndarray parameters
    cdef readonly cnp.ndarray state
    cdef readonly cnp.ndarray statistics
    cdef Rule rule
    cdef tuple made_from
    cdef object users_function
    cdef Compiled compiled
    cdef object failure         # what a user's loss has raised
    cdef void* theta
    cdef int type_number
    cdef Py_ssize_t item
    cdef bint training
    cdef double rate            # of all steps, or NaN
    cdef bint retired           # whether its network has become another one
    cdef Native native          # what callers without Python are given
    cdef void* native_memory
    cdef void* native_gradient

    def __cinit__(
        self, list layers not None, tuple loss not None, cnp.dtype dtype not None,
        double dropout=0,
    ):
        cdef Net* net = &self.net
        cdef Layer* layer = NULL
        cdef Py_ssize_t at, width
        self.type_number = dtype.num
        self.item = dtype.itemsize
        if self.type_number not in (cnp.NPY_FLOAT32, cnp.NPY_FLOAT64):
            raise TypeError(f"neither float32 nor float64: {dtype}")
        net.depth = len(layers)
        net.layers = <Layer*>calloc(net.depth, sizeof(Layer))
        if net.layers == NULL:
            raise MemoryError
        net.dropout = dropout
        net.drops = dropout > 0
        net.loss, net.loss_parameter, levels, self.users_function = loss
        for at in range(net.depth):
            layer = &net.layers[at]
            describe_layer(layers[at], layer)
            layer.norm = net.n_norms
            net.n_norms += layer.kind == BATCH_NORM or layer.kind == LAYER_NORM
            net.has_batch_norms |= layer.kind == BATCH_NORM
            net.has_sums |= layer.kind == RESIDUAL
            if layer.kind == BATCH_NORM or layer.kind == NORMALIZE:
                net.n_statistics = max(net.n_statistics, layer.statistics + 2 * layer.n_out)
            net.has_slopes |= activations.needs_slopes(layer.activation) or layer.dropout > 0
            net.drops |= layer.dropout > 0
            net.has_limits |= layer.max_norm > 0
            net.has_penalties |= layer.l1 != 0 or layer.l2 != 0
            layer.output = net.n_outputs
            width = round_up(layer.n_out, PADDING // self.item)
            net.n_outputs += width
            net.widest = max(net.widest, width)
            assert at == 0 or layer.n_in == net.layers[at - 1].n_out
            assert layer.kind == DENSE or layer.n_in == layer.n_out
            assert -1 <= layer.source < at or layer.kind != RESIDUAL
            if layer.kind != RESIDUAL and layer.kind != NORMALIZE:
                net.n_parameters = max(net.n_parameters, layer.bias + layer.n_out)
        net.n_in = net.layers[0].n_in
        net.n_out = layer.n_out
        net.from_logits = losses.takes_logits(net.loss, layer.activation)
        assert len(levels) in (0, net.n_out)
        net.levels = <double*>calloc(net.n_out, sizeof(double))
        if net.levels == NULL:
            raise MemoryError
        for at in range(len(levels)):
            net.levels[at] = levels[at]
        if self.users_function is not None:
            self.set_users_loss()
        self.find_lowest()
        self.parameters = aligned_zeros(net.n_parameters, dtype)
        self.theta = cnp.PyArray_DATA(self.parameters)
        self.statistics = aligned_zeros(net.n_statistics, dtype)
        net.statistics = cnp.PyArray_DATA(self.statistics)
        self.rule.kind = -1
        self.made_from = layers, loss, dtype, dropout

    def __dealloc__(self):
        self.release_workspace()
        free(self.native_memory)
        free(self.native_gradient)
        free(self.net.layers)
        free(self.net.levels)
        free(self.compiled.scratch)

    cdef int set_users_loss(self) except -1:
        cdef object function = self.users_function
        self.net.users_loss, self.net.users_context = call_python, <void*>self
        if PyCapsule_CheckExact(function):
            self.compiled.function = <RowLoss>PyCapsule_GetPointer(
                function, PyCapsule_GetName(function))
            self.compiled.user_data = PyCapsule_GetContext(function)
            self.compiled.scratch = <double*>calloc(3 * self.net.n_out, sizeof(double))
            self.compiled.single = self.type_number == cnp.NPY_FLOAT32
            if self.compiled.scratch == NULL:
                raise MemoryError
            self.net.users_loss, self.net.users_context = call_compiled, &self.compiled
        return 0

    cdef int ask_user(
        self, Py_ssize_t n, Py_ssize_t n_out, const void* outputs, const void* targets,
        double* row_losses, void* gradients,
    ) except -1:
        """Call the user's function, on copies that it may keep, and check what it returns."""
        cdef cnp.npy_intp[2] shape = [n, n_out]
        cdef cnp.ndarray Z = cnp.PyArray_EMPTY(2, shape, self.type_number, 0)
        cdef cnp.ndarray y = cnp.PyArray_EMPTY(2, shape, self.type_number, 0)
        cdef cnp.ndarray values, slopes
        memcpy(cnp.PyArray_DATA(Z), outputs, cnp.PyArray_NBYTES(Z))
        memcpy(cnp.PyArray_DATA(y), targets, cnp.PyArray_NBYTES(y))
        result = self.users_function(Z, y)
        if not isinstance(result, tuple) or len(result) != 2:
            raise TypeError(f"a loss must return (losses, gradients), got {result!r}")
        given = [np.asarray(each) for each in result]
        if not all(each.dtype.kind in "buif" for each in given):
            raise TypeError(f"a loss must return real numbers, got {result!r}")
        if given[0].shape != (n,) or given[1].shape != (n, n_out):
            raise ValueError(
                f"a loss must return arrays of shapes {(n,)} and {(n, n_out)}, "
                f"got {given[0].shape} and {given[1].shape}"
            )
        with np.errstate(over="ignore"):
            values = np.ascontiguousarray(given[0], np.float64)
            slopes = np.ascontiguousarray(given[1], self.parameters.dtype)
        if np.isfinite(values).all() and not np.isfinite(slopes).all():
            raise ValueError("a loss that is finite must have a finite gradient")
        memcpy(row_losses, cnp.PyArray_DATA(values), cnp.PyArray_NBYTES(values))
        memcpy(gradients, cnp.PyArray_DATA(slopes), cnp.PyArray_NBYTES(slopes))
        return 0

    cdef void find_lowest(self) noexcept:
        """Find the first layer that training may change: the way back ends there."""
        self.net.lowest = 0
        while self.net.lowest < self.net.depth and self.net.layers[self.net.lowest].frozen:
            self.net.lowest += 1

    def freeze(self, list frozen not None):
        """Say of each layer whether training leaves it alone from now on."""
        cdef Py_ssize_t at
        self.refuse_while_training()
        for at in range(self.net.depth):
            self.net.layers[at].frozen = frozen[at]
        self.find_lowest()
        # gradients count as zero where nothing is trained
        self.release_workspace()
        if self.native_gradient != NULL:
            memset(self.native.work.gradient, 0, self.net.n_parameters * self.item)

    cdef bint lacks_statistics(self) noexcept:
        return lacks_statistics(&self.net, self.type_number == cnp.NPY_FLOAT32)

    cdef void release_workspace(self) noexcept:
        free(self.memory)
        free(self.gradient_memory)
        free(self.row_gradient_memory)
        self.memory = self.gradient_memory = self.row_gradient_memory = NULL
        memset(&self.work, 0, sizeof(Workspace))
        self.rows = self.threads = 0

    def set_optimizer(self, int kind, dict settings not None):
        """Train by another rule from now on.

        Its state stays if it is of the same kind and keeps as many vectors.

        Parameters
        ----------
        kind : int
            A code from `OPTIMIZERS`.
        settings : dict of str to float
            What the fields of `optimizers.Rule` are called; those left out are zero. And
            "learning_rate", where it is one number.
        """
        cdef Rule rule
        self.refuse_while_training()
        memset(&rule, 0, sizeof(Rule))
        rule.kind = kind
        rule.clip_value = settings.get("clip_value", INFINITY)
        rule.clip_norm = settings.get("clip_norm", INFINITY)
        rule.momentum = settings.get("momentum", 0)
        rule.dampening = settings.get("dampening", 0)
        rule.nesterov = settings.get("nesterov", False)
        rule.rho = settings.get("rho", 0)
        rule.centered = settings.get("centered", False)
        rule.beta1 = settings.get("beta1", 0)
        rule.beta2 = settings.get("beta2", 0)
        rule.epsilon = settings.get("epsilon", 0)
        rule.amsgrad = settings.get("amsgrad", False)
        rule.weight_decay = settings.get("weight_decay", 0)
        rule.decoupled = settings.get("decoupled", False)
        rule.rate_decay = settings.get("rate_decay", 0)
        rule.momentum_decay = settings.get("momentum_decay", 0)
        rule.noise = settings.get("noise", 0)
        rule.noise_decay = settings.get("noise_decay", 0)
        if self.native_memory != NULL:
            self.ready_native(&rule)
        if kind == self.rule.kind and state_vectors(&rule) == state_vectors(&self.rule):
            rule.steps, rule.product = self.rule.steps, self.rule.product
        else:
            self.state = vectors_beside(self.parameters, state_vectors(&rule))
            self.state[...] = settings.get("initial_accumulator", 0)
        rule.state = cnp.PyArray_DATA(self.state)
        rule.stride = cnp.PyArray_STRIDE(self.state, 0) // self.item
        self.rule = rule
        self.rate = settings.get("learning_rate", NAN)

    @property
    def is_random(self):
        """Whether training drops anything, or adds noise: what the key of an epoch decides on."""
        return bool(self.net.drops or self.rule.noise != 0)

    @property
    def takes_sparse(self):
        """Whether inputs may be sparse: where nothing but a product takes them."""
        cdef Py_ssize_t at
        for at in range(self.net.depth):
            if self.net.layers[at].kind == RESIDUAL and self.net.layers[at].source < 0:
                return False
        return self.net.layers[0].kind == DENSE

    @property
    def waits(self):
        """Whether a normalisation of the inputs has not been told their deviations yet."""
        return self.lacks_statistics()

    @property
    def progress(self):
        """(steps made, product of Nadam's momenta): the optimizer's state but for `state`."""
        return self.rule.steps, self.rule.product

    @progress.setter
    def progress(self, tuple progress not None):
        self.rule.steps, self.rule.product = progress

    cdef int prepare(
        self, Py_ssize_t rows, Py_ssize_t batch_size, int n_threads, bint sparse,
        const Epoch* epoch,
    ) except -1:
        """A workspace for passes of so many rows; kept from call to call while it is enough.

        `epoch` is what is to be trained, or NULL.
        """
        cdef bint fused = epoch == NULL or not epoch.watched and is_fused(&self.net, &self.rule)
        cdef Py_ssize_t gradient
        if self.rows < rows or self.threads < n_threads or self.work.sparse != sparse:
            self.allocate(max(rows, self.rows), max(n_threads, self.threads), sparse)
        self.work.rows = rows
        if (not fused or batch_size > rows) and self.work.gradient == NULL:
            self.gradient_memory = zeroed(room(self.net.n_parameters, self.item))
            self.work.gradient = aligned(self.gradient_memory)
        if (sparse and epoch != NULL and fused and not is_plain(&self.net, &self.rule)
                and self.work.row_gradient == NULL):
            gradient = room(self.net.layers[0].n_in * self.net.layers[0].n_out, self.item)
            self.row_gradient_memory = zeroed(gradient + self.net.n_in // 8 + sizeof(uint64_t))
            self.work.row_gradient = aligned(self.row_gradient_memory)
            self.work.touched = <uint64_t*>(<char*>self.work.row_gradient + gradient)
        return 0

    cdef int allocate(self, Py_ssize_t rows, int threads, bint sparse) except -1:
        self.release_workspace()
        self.memory = allocate_workspace(&self.net, self.item, rows, threads, sparse, &self.work)
        self.rows, self.threads = rows, threads
        return 0

    cdef int describe_inputs(self, object X, Samples* samples) except -1:
        """Fill `samples` from checked inputs, which are an array or rows of a sparse one."""
        cdef const Layer* first = &self.net.layers[0]
        one_row(&self.net, NULL, samples)
        samples.n = len(X)
        if cnp.PyArray_Check(X):
            samples.X = pointer(X, self.type_number, "X")
            assert X.shape == (samples.n, self.net.n_in)
            return 0
        assert self.takes_sparse
        samples.values = pointer(X.values, self.type_number, "X")
        samples.columns = <int*>pointer(X.columns, cnp.NPY_INT32, "X")
        samples.starts = <Py_ssize_t*>pointer(X.starts, cnp.NPY_INTP, "X")
        assert X.columns.min(initial=0) >= 0 and X.columns.max(initial=0) < self.net.n_in
        assert X.starts[0] == 0 and X.starts[samples.n] == len(X.values) == len(X.columns)
        samples.products -= first.n_out * (first.n_in - <double>samples.starts[samples.n]
                                           / samples.n)
        return 0

    cdef int describe(
        self, object X, object y, object weights, object order, Samples* samples,
    ) except -1:
        """Fill `samples` from checked arrays; `weights` and `order` may be None."""
        self.describe_inputs(X, samples)
        if cnp.PyArray_TYPE(y) == cnp.NPY_INTP:
            samples.labels = <Py_ssize_t*>pointer(y, cnp.NPY_INTP, "y")
            assert y.shape == (samples.n,) and y.min() >= 0 and y.max() < self.net.n_out
        else:
            samples.targets = pointer(y, self.type_number, "y")
            assert y.shape == (samples.n, self.net.n_out)
        if weights is not None:
            samples.weights = pointer(weights, self.type_number, "weights")
            assert weights.shape == (samples.n,)
        if order is not None:
            assert 0 <= order.min() and order.max() < samples.n
            samples.order = <Py_ssize_t*>pointer(order, cnp.NPY_INTP, "order")
            samples.n = cnp.PyArray_DIM(order, 0)
        return 0

    cpdef predict(self, X, out=None, n_threads=1):
        """The network's output for X, n x n_in or n_in; into `out` when it is given.

        Returns None, having done nothing, unless the arguments need no conversion and no closer
        look: arrays exact, contiguous, finite, of the right shapes, and `out` clear of the input;
        n_threads an int that is one.
        """
        cdef const Net* net = &self.net
        cdef Py_ssize_t n = 1
        cdef cnp.npy_intp[2] shape
        cdef int dimensions
        cdef bint finite
        if not is_ready(X, self.type_number) or self.lacks_statistics():
            return None
        if n_threads is not ONE and not (type(n_threads) is int and 0 < n_threads <= INT_MAX):
            return None
        dimensions = cnp.PyArray_NDIM(X)
        if not 1 <= dimensions <= 2:
            return None
        if dimensions == 2:
            n = shape[0] = cnp.PyArray_DIM(X, 0)
        if n == 0 or cnp.PyArray_DIM(X, dimensions - 1) != net.n_in:
            return None
        shape[dimensions - 1] = net.n_out
        if out is not None:
            if not (is_ready(out, self.type_number) and cnp.PyArray_ISWRITEABLE(out)
                    and cnp.PyArray_NDIM(out) == dimensions
                    and cnp.PyArray_DIM(out, 0) == shape[0]
                    and cnp.PyArray_DIM(out, dimensions - 1) == net.n_out
                    and not overlap(out, X) and not overlap(out, self.parameters)):
                return None
        cdef bint small = n * FORWARD * <double>net.n_parameters < GIL_FLOPS
        if small and self.type_number == cnp.NPY_FLOAT32:
            finite = all_finite_values(<float*>cnp.PyArray_DATA(X), n * net.n_in)
        elif small:
            finite = all_finite_values(<double*>cnp.PyArray_DATA(X), n * net.n_in)
        else:
            finite = all_finite(X)
        if not finite:
            return None
        if out is None:
            out = cnp.PyArray_EMPTY(dimensions, shape, self.type_number, 0)
        cdef Samples samples
        one_row(net, cnp.PyArray_DATA(X), &samples)
        samples.n = n
        self.predict_ready(net, &samples, cnp.PyArray_DATA(out), small, n_threads)
        return out

    def predict_sparse(self, X, int n_threads):
        """The network's output for rows of a sparse matrix, checked."""
        cdef Samples samples
        cdef cnp.npy_intp[2] shape
        self.describe_inputs(X, &samples)
        shape[0], shape[1] = samples.n, self.net.n_out
        out = cnp.PyArray_EMPTY(2, shape, self.type_number, 0)
        self.predict_ready(&self.net, &samples, cnp.PyArray_DATA(out), False, n_threads)
        return out

    cdef int predict_ready(
        self, const Net* net, const Samples* samples, void* out, bint small,
        Py_ssize_t most_threads,
    ) except -1:
        """Predict into memory that was checked; with the GIL held while the work is small."""
        cdef double[STACK_DOUBLES] stack
        cdef Workspace work
        cdef Call call
        cdef Py_ssize_t size, done = 0
        cdef double row_flops = FORWARD * samples.products
        cdef void* memory = NULL
        cdef int n_threads = 1
        load_blas()
        work.sparse = samples.X == NULL
        work.rows = rows_per_pass(net, samples.n, row_flops, self.item)
        if not small:
            n_threads = useful_threads(samples.n, work.rows, row_flops, most_threads)
        size = prediction_size(net, self.item, n_threads, &work)
        if size > <Py_ssize_t>sizeof(stack):
            memory = malloc(size)
            if memory == NULL:
                raise MemoryError
        place_prediction(net, self.item, stack if memory == NULL else memory, &work)
        call.net, call.parameters, call.work = net, self.theta, &work
        call.single = self.type_number == cnp.NPY_FLOAT32
        call.task = PREDICT
        call.samples, call.out, call.done = samples, out, &done
        try:
            run(&call, n_threads, small)
        finally:
            free(memory)
        return 0

    def loss_and_gradient(
        self, X, y, weights=None, gradient=None, int n_threads=1, by_inputs=None,
    ):
        """The mean loss over all rows.

        Its gradients by the parameters, and by X, are written to the vectors given.
        """
        cdef Samples samples
        cdef Sweep sweep = Sweep(start=0, loss=0)
        cdef Call call
        self.describe(X, y, weights, None, &samples)
        call.gradient = call.by_inputs = NULL
        if gradient is not None:
            call.gradient = pointer(gradient, self.type_number, "gradient")
            assert gradient.shape == (self.net.n_parameters,)
        if by_inputs is not None:
            call.by_inputs = pointer(by_inputs, self.type_number, "by_inputs")
            assert by_inputs.shape == (samples.n, self.net.n_in)
        call.task, call.sweep = SWEEP, &sweep
        self.run_training(&call, &samples, samples.n, n_threads)
        return sweep.loss

    def jacobian(self, X):
        """The derivatives of the outputs by the inputs: n x n_out x n_in; n_out x n_in for one row.

        Returns None, having done nothing, unless X needs no conversion and no closer look.
        """
        cdef Samples samples
        cdef Call call
        cdef Py_ssize_t done = 0
        cdef int dimensions
        cdef cnp.npy_intp[3] shape
        if not is_ready(X, self.type_number) or self.lacks_statistics():
            return None
        dimensions = cnp.PyArray_NDIM(X)
        if (not 1 <= dimensions <= 2 or cnp.PyArray_DIM(X, dimensions - 1) != self.net.n_in
                or cnp.PyArray_SIZE(X) == 0 or not all_finite(X) or overlap(X, self.parameters)):
            return None
        one_row(&self.net, cnp.PyArray_DATA(X), &samples)
        samples.n = cnp.PyArray_SIZE(X) // self.net.n_in
        shape[0] = samples.n
        shape[dimensions - 1], shape[dimensions] = self.net.n_out, self.net.n_in
        result = cnp.PyArray_EMPTY(dimensions + 1, shape, self.type_number, 0)
        call.task, call.out, call.done = DIFFERENTIATE, cnp.PyArray_DATA(result), &done
        self.run_training(&call, &samples, samples.n * self.net.n_out, 1)
        return result

    def hidden(self, X, Py_ssize_t at):
        """What layer `at` puts out for rows X."""
        cdef Samples samples
        cdef Net part = self.net
        cdef cnp.npy_intp[2] shape
        self.describe_inputs(X, &samples)
        part.depth, part.n_out = at + 1, self.net.layers[at].n_out
        shape[0], shape[1] = samples.n, part.n_out
        out = cnp.PyArray_EMPTY(2, shape, self.type_number, 0)
        self.predict_ready(&part, &samples, cnp.PyArray_DATA(out), False, 1)
        return out

    def epoch(
        self, X, y, weights, order, Py_ssize_t batch_size, rates, int n_threads=1,
        uint64_t key=0, Py_ssize_t first_step=0, bint watched=False,
    ):
        """One epoch of the optimizer over the rows in `order` (None: all, as they lie).

        `rates` is the learning rate, or a float64 array of one for each step. What is dropped,
        and noise, depend on `key` and on the number of the step, from `first_step` on.

        Returns the mean of the batches' losses before their steps, weighted by their sizes, the
        number of whole steps made, and the sum of the norms of their gradients, before clipping,
        if they are `watched`, or else 0. A loss that is not finite ends the epoch before the step
        it belongs to and is returned as it is.
        """
        cdef Samples samples
        cdef double rate
        cdef Epoch epoch = Epoch(batch_size=batch_size, start=0, done=0, steps=0,
                                 first_step=first_step, batch_loss=0, loss=0, rates=&rate,
                                 constant=True, watched=watched, norms=0)
        cdef Call call
        assert batch_size > 0
        self.describe(X, y, weights, order, &samples)
        if isinstance(rates, float):
            rate = rates
        else:
            epoch.rates, epoch.constant = <double*>pointer(rates, cnp.NPY_FLOAT64, "rates"), False
            assert len(rates) == (samples.n + batch_size - 1) // batch_size
        call.task, call.epoch, call.rule = TRAIN, &epoch, &self.rule
        call.key = key
        self.run_training(&call, &samples, min(batch_size, samples.n), n_threads)
        if call.status == NOT_FINITE:
            return epoch.batch_loss, epoch.steps, epoch.norms
        return epoch.loss / samples.n, epoch.steps, epoch.norms

    cdef int make_native(self, uint64_t key) except -1:
        """Describe the network for callers without Python; once."""
        cdef Native* native = &self.native
        cdef fastbp_network* network = &native.network
        if self.native_memory != NULL:
            return 0
        load_blas()
        self.ready_native(&self.rule)
        native.net, native.theta, native.rule = &self.net, self.theta, &self.rule
        native.rate, native.key = &self.rate, key
        native.single = self.type_number == cnp.NPY_FLOAT32
        network.version, network.item_size = FASTBP_VERSION, <int>self.item
        network.n_inputs, network.n_outputs = self.net.n_in, self.net.n_out
        network.predict, network.learn = native_predict, native_learn
        network.learn_label, network.internal = native_learn_label, native
        self.native_memory = allocate_workspace(&self.net, self.item, 1, 1, False, &native.work)
        return 0

    cdef int ready_native(self, const Rule* rule) except -1:
        """Give it room for the whole gradient, where a rule wants that."""
        if self.native_gradient == NULL and not is_fused(&self.net, rule):
            self.native_gradient = zeroed(room(self.net.n_parameters, self.item))
            self.native.work.gradient = aligned(self.native_gradient)
        return 0

    def address(self, uint64_t key):
        """Where the network is for callers without Python; `key` decides on what is random."""
        self.make_native(key)
        return <size_t>&self.native.network

    def snapshot(self):
        """A plan of its own with what a prediction depends on, as it is now."""
        cdef Plan twin = Plan(*self.made_from)
        memcpy(twin.theta, self.theta, self.net.n_parameters * self.item)
        memcpy(twin.net.statistics, self.net.statistics, self.net.n_statistics * self.item)
        return twin

    def retire(self):
        """Note that its network has become another one: what was bound to it raises from now on."""
        self.retired = True

    cpdef int refuse_while_training(self) except -1:
        """Raise RuntimeError while another thread is in a call that takes the workspace."""
        if self.training:
            raise RuntimeError(
                "this network is in use by another thread: it takes one call of fit, train_step, "
                "evaluate or loss_and_gradient at a time"
            )
        return 0

    def step(self, X, y):
        """One step on one row or a few, for constant rates; the loss before it.

        Returns None, having done nothing, unless the arguments need no conversion and no closer
        look, as for `predict`, and nothing random or of the user's takes part. A loss that is not
        finite is returned as it is: the step was not made.
        """
        cdef const Net* net = &self.net
        cdef Samples samples
        cdef Py_ssize_t n = 1, label, i
        cdef int dimensions
        if (self.rate != self.rate or net.drops or self.rule.noise != 0 or net.users_loss != NULL
                or self.lacks_statistics() or not is_ready(X, self.type_number)):
            return None
        dimensions = cnp.PyArray_NDIM(X)
        if not 1 <= dimensions <= 2 or cnp.PyArray_DIM(X, dimensions - 1) != net.n_in:
            return None
        if dimensions == 2:
            n = cnp.PyArray_DIM(X, 0)
        one_row(net, cnp.PyArray_DATA(X), &samples)
        samples.n = n
        # larger ones release the GIL, and others could change what was looked at
        if n == 0 or n * STEP * samples.products >= GIL_FLOPS or overlap(X, self.parameters):
            return None
        if net.loss == losses.CROSS_ENTROPY:
            if type(y) is int and dimensions == 1:
                if not 0 <= y < net.n_out:
                    return None
                label = y
                samples.labels = &label
            elif (is_ready(y, cnp.NPY_INTP) and cnp.PyArray_SIZE(y) == n
                  and cnp.PyArray_NDIM(y) == dimensions - 1):
                samples.labels = <Py_ssize_t*>cnp.PyArray_DATA(y)
                for i in range(n):
                    if not 0 <= samples.labels[i] < net.n_out:
                        return None
            else:
                return None
        elif net.loss <= losses.QUANTILE:       # those that take any number for a target
            if not (is_ready(y, self.type_number) and cnp.PyArray_NDIM(y) == dimensions
                    and cnp.PyArray_DIM(y, dimensions - 1) == net.n_out
                    and cnp.PyArray_SIZE(y) == n * net.n_out and all_finite(y)
                    and not overlap(y, self.parameters)):
                return None
            samples.targets = cnp.PyArray_DATA(y)
        else:
            return None
        if not all_finite(X):
            return None
        return self.make_step(&samples, self.rate, 0)

    cdef double make_step(self, const Samples* samples, double rate, uint64_t key) except? -1:
        """One step of the optimizer on all samples; returns the loss before it.

        A loss that is not finite is returned as it is: the step was not made.
        """
        cdef Epoch epoch = Epoch(batch_size=samples.n, start=0, done=0, steps=0, first_step=0,
                                 batch_loss=0, loss=0, rates=&rate, constant=True, watched=False,
                                 norms=0)
        cdef Call call
        call.task, call.epoch, call.rule, call.key = TRAIN, &epoch, &self.rule, key
        self.run_training(&call, samples, samples.n, 1)
        if call.status == NOT_FINITE:
            return epoch.batch_loss
        return epoch.loss / samples.n

    cdef int begin(
        self, Call* call, const Samples* samples, Py_ssize_t batch, int n_threads,
    ) except -1:
        """Get ready for a call on the network's workspace: one thread of the user's at a time.

        Returns how many threads are worth it. `finish` has to follow.
        """
        cdef double row_flops = STEP * samples.products
        cdef Py_ssize_t rows
        load_blas()         # an import, which may let other threads run: before they are refused
        self.refuse_while_training()
        rows = rows_per_pass(&self.net, batch, row_flops, self.item)
        if call.task == TRAIN and self.net.has_batch_norms:
            # what is normalised together must not depend on how fast a processor is
            rows = min(batch, <Py_ssize_t>MOST_ROWS)
        n_threads = useful_threads(samples.n, rows, row_flops, n_threads)
        self.prepare(rows, batch, n_threads, samples.X == NULL,
                     call.epoch if call.task == TRAIN else NULL)
        call.net, call.parameters, call.work = &self.net, self.theta, &self.work
        call.single = self.type_number == cnp.NPY_FLOAT32
        call.samples = samples
        self.work.training = call.task == TRAIN
        self.work.key = call.key if call.task == TRAIN else 0
        self.training = True        # the GIL is held since it was False
        return n_threads

    cdef void finish(self, const Call* call) noexcept:
        """Leave everything as of the last whole step, and let others train."""
        if call.task == TRAIN and self.net.has_batch_norms and call.epoch.done > 0:
            # in the middle of a step
            memcpy(self.net.statistics, self.work.gathered, self.net.n_statistics * self.item)
        self.failure = None
        self.training = False

    cdef int run_training(
        self, Call* call, const Samples* samples, Py_ssize_t batch, int n_threads,
    ) except -1:
        """Run a call on the network's workspace."""
        n_threads = self.begin(call, samples, batch, n_threads)
        try:
            run(call, n_threads, samples.n * STEP * samples.products < GIL_FLOPS)
            if self.failure is not None:
                raise self.failure
        finally:
            self.finish(call)
        return 0


def tried_first(checked):
    """Decorate `predict` of a class with a `_plan`, the checked way, so that this is tried first.

    A method of Python's own takes longer to call than a small network to predict.
    """
    @functools.wraps(checked)
    def predict(self, X, out=None, n_threads=1):
        result = (<Plan?>self._plan).predict(X, out, n_threads)
        if result is None:
            result = checked(self, X, out, n_threads)
        return result

    return predict


include "bound.pyx"
include "ensemble.pyx"
