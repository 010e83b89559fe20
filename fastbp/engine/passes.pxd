"""The forward and the backward pass of a whole network, for as many rows as a workspace holds.

Every member of a team walks through the same passes; the products are shared, and what is not
worth sharing is left to the first member.
"""
from libc.math cimport NAN, isfinite
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from .activations cimport (
    IDENTITY, SLOPES, exponentials, multiply_by_derivative, needs_slopes, slopes_from,
)
from .dropout cimport drop, drop_with_slopes
from .losses cimport row_loss, takes_exponentials
from .norms cimport norm_backward, norm_forward, norm_scratch
from .products cimport (
    Goal, Outer, backward, backward_scratch, finds_rows, forward, forward_scratch, round_up,
)
from .random cimport step_key
from .records cimport DENSE, RESIDUAL, Batch, Layer, Net, Samples, real, sample_at
from .sparse cimport sparse_backward, sparse_forward
from .team cimport Member, barrier, is_first, share
from .tile cimport panel_width


cdef struct Workspace:
    # every buffer has PADDING bytes after it, which the products may read
    Py_ssize_t rows         # how many rows one pass takes
    void* inputs            # rows x n_in: a batch in the order of the permutation if copied, unless
    bint sparse             # rows are sparse
    void* row_gradient      # as the first W, zeros: where a rule finds the gradient of sparse rows,
    uint64_t* touched       # and a bit for each row of it, all 0; NULL until one does
    void* outputs           # rows x n_out of each layer, one layer after the other
    void* slopes            # as outputs: f'(Z) of the layers that write it down; or NULL
    void* kept              # as outputs: D of the sums, which their sources want too; or NULL
    void* moments           # two vectors for each normalisation, for the way back; NULL without one
    void* gathered          # the statistics as they were before a step of several passes
    void* delta             # two of rows x widest: the gradient by the Z of two neighbours
    void* scratch           # what the products lay out for themselves, for each member
    Py_ssize_t scratch_size     # elements of one member's scratch
    void* one_hot           # `widest` zeros, where a label is spelled out, for each member
    double* losses          # rows: the loss of each row of a pass
    void* gradient          # n_parameters; NULL until a batch is larger than `rows`
    Outer late              # the first layer's update, where it waits for the next step
    bint training           # whether outputs are dropped, and normalised by their batch
    uint64_t key            # what is dropped depends on the key of the call,
    Py_ssize_t step         # the step, and
    Py_ssize_t row          # which row of the batch is the first of the pass
    double norm             # of the gradient, and
    bint pause              # what the first member decided, for all members
    unsigned long long mode     # of floating point, on the first member's thread before the call


cdef inline Py_ssize_t scratch_size(
    const Net* net, Py_ssize_t rows, size_t item, bint training,
) noexcept nogil:
    """How many elements the products of one pass lay out for themselves."""
    cdef Py_ssize_t size = 0, at
    for at in range(net.depth):
        if net.layers[at].kind != DENSE:
            size = max(size, norm_scratch(&net.layers[at], item))
            continue
        size = max(size, forward_scratch(&net.layers[at], rows, item))
        if training:
            size = max(size, backward_scratch(&net.layers[at], rows, item))
    return round_up(size, panel_width(item))


cdef inline real* own_scratch(
    const real* parameters, const Workspace* work, const Member* member,
) noexcept nogil:
    return <real*>work.scratch + member.part * work.scratch_size


cdef inline real* slopes_of(
    const Layer* layer, const real* parameters, const Workspace* work,
) noexcept nogil:
    """Where a layer writes f'(Z) down, or NULL."""
    if not (needs_slopes(layer.activation) or layer.dropout > 0):
        return NULL
    return <real*>work.slopes + layer.output * work.rows


cdef inline Py_ssize_t moments_room(const Net* net, Py_ssize_t rows) noexcept nogil:
    """Elements for the moments of one normalisation: two for each column, or for each row."""
    return 2 * max(net.widest, rows)


cdef inline real* moments_of(
    const Net* net, const Layer* layer, const real* parameters, const Workspace* work,
) noexcept nogil:
    if work.moments == NULL:
        return NULL
    return <real*>work.moments + layer.norm * moments_room(net, work.rows)


cdef inline Outer* late_update(
    const Net* net, Py_ssize_t at, Workspace* work,
) noexcept nogil:
    """Where the update of layer `at` may wait, or NULL.

    It does in the first layer, as nothing else reads its weights on the way back; of one row,
    as this saves a pass over them; and not with one output, whose weights are few. Nor where the
    input or the weights are changed in between.
    """
    if at > 0 or work.rows > 1 or net.layers[0].n_out == 1 or net.dropout > 0 or net.has_limits:
        return NULL
    if net.layers[0].kind != DENSE or work.sparse:
        return NULL
    return &work.late


cdef inline Batch gather(
    const Net* net, const real* parameters, const Samples* samples,
    Py_ssize_t start, Py_ssize_t n, Workspace* work, const Member* member,
) noexcept nogil:
    """Rows start .. start + n of X in the order of the permutation.

    Dense ones stay where they are if they lie side by side, or if the first layer finds them one by
    one; otherwise they are copied.

    `parameters` only says which type `real` is.
    """
    cdef const real* X = <const real*>samples.X
    cdef Py_ssize_t i
    cdef real* row
    cdef Batch batch = Batch(samples, start, n, NULL, NULL, 0, 0, work.row, work.row_gradient,
                             work.touched)
    if work.training and net.dropout > 0:
        batch.dropout, batch.key = net.dropout, step_key(work.key, work.step, -1)
    if work.sparse:
        return batch
    if (samples.order == NULL or n == 1) and batch.dropout == 0:
        batch.X = X + sample_at(samples, start) * net.n_in
        return batch
    if (batch.dropout == 0 and not net.has_sums and net.layers[0].kind == DENSE
            and finds_rows(&net.layers[0], n)):
        batch.X, batch.order = X, samples.order + start
        return batch
    for i in range(share(member, 0, n, 1), share(member, 1, n, 1)):
        row = <real*>work.inputs + i * net.n_in
        memcpy(row, X + sample_at(samples, start + i) * net.n_in, net.n_in * sizeof(real))
        if batch.dropout > 0:
            drop(row, net.n_in, batch.dropout, batch.key, (batch.row + i) * net.n_in)
    barrier(member)
    batch.X = work.inputs
    return batch


cdef inline const Py_ssize_t* order_of(const Batch* batch, const void* inputs) noexcept nogil:
    """The order of a layer's inputs: they have one if they are the rows of the batch."""
    return batch.order if inputs == batch.X else NULL


cdef inline void drop_outputs(
    const Layer* layer, Py_ssize_t at, real* outputs, Py_ssize_t n, Workspace* work,
    const Member* member,
) noexcept nogil:
    """Drop outputs of layer `at`, shared by rows."""
    cdef Py_ssize_t first = share(member, 0, n, 1) * layer.n_out
    cdef Py_ssize_t size = share(member, 1, n, 1) * layer.n_out - first
    drop_with_slopes(
        layer.activation, <real>layer.alpha, outputs + first,
        slopes_of(layer, <const real*>outputs, work) + first, needs_slopes(layer.activation), size,
        layer.dropout, step_key(work.key, work.step, at), work.row * layer.n_out + first)
    barrier(member)


cdef inline void layer_forward(
    const Net* net, const Layer* layer, int activation, const real* parameters, Outer* late,
    const Batch* batch, const real* inputs, const real* source, real* outputs, real* slopes,
    real* moments, bint training, real* scratch, const Member* member,
) noexcept nogil:
    """The outputs of one layer of any kind; `source` is what a sum adds."""
    if inputs == NULL:
        sparse_forward(layer, activation, parameters, batch, outputs, slopes, member)
    elif layer.kind == DENSE:
        forward(layer, activation, parameters, late, inputs, order_of(batch, inputs), batch.n,
                outputs, slopes, scratch, member)
    else:
        norm_forward(layer, parameters, <const real*>net.statistics, inputs, source, batch.n,
                     outputs, slopes, moments, training, scratch, member)


cdef inline void forward_pass(
    const Net* net, const real* parameters, const Batch* batch, Workspace* work,
    const Member* member,
) noexcept nogil:
    """The outputs of every layer; of the last one Z where the loss takes logits."""
    cdef const real* inputs = <const real*>batch.X
    cdef const real* source
    cdef real* outputs
    cdef const Layer* layer
    cdef Py_ssize_t at
    for at in range(net.depth):
        layer = &net.layers[at]
        outputs = <real*>work.outputs + layer.output * work.rows
        source = <const real*>batch.X
        if layer.source >= 0:
            source = <real*>work.outputs + net.layers[layer.source].output * work.rows
        layer_forward(net, layer,
                      IDENTITY if net.from_logits and at == net.depth - 1 else layer.activation,
                      parameters, late_update(net, at, work), batch, inputs, source, outputs,
                      slopes_of(layer, parameters, work), moments_of(net, layer, parameters, work),
                      work.training, own_scratch(parameters, work, member), member)
        if work.training and layer.dropout > 0:
            drop_outputs(layer, at, outputs, batch.n, work, member)
        inputs = outputs


cdef inline void row_losses(
    const Net* net, const real* parameters, const Samples* samples,
    Py_ssize_t start, Py_ssize_t first, Py_ssize_t stop, Workspace* work, real* one_hot,
) noexcept nogil:
    """The losses of rows first .. stop of a pass, whose outputs are in the workspace.

    delta becomes their gradient by what the last layer put out.
    """
    cdef const Layer* last = &net.layers[net.depth - 1]
    cdef const real* outputs = <real*>work.outputs + last.output * work.rows
    cdef real* delta = <real*>work.delta
    cdef const real* target
    cdef Py_ssize_t n_out = net.n_out, i, sample
    if takes_exponentials(net.loss, net.from_logits):
        exponentials(outputs + first * n_out, delta + first * n_out, stop - first, n_out)
    for i in range(first, stop):
        sample = sample_at(samples, start + i)
        if samples.labels == NULL:
            target = <const real*>samples.targets + sample * n_out
        else:
            one_hot[samples.labels[sample]] = 1
            target = one_hot
        work.losses[i] = row_loss(net.loss, net.loss_parameter, net.levels, net.from_logits,
                                  outputs + i * n_out, target, delta + i * n_out, n_out)
        if samples.labels != NULL:
            one_hot[samples.labels[sample]] = 0


cdef inline void users_losses(
    const Net* net, const real* parameters, const Samples* samples,
    Py_ssize_t start, Py_ssize_t n, Workspace* work,
) noexcept nogil:
    """The same for all n rows of a pass, by the user's function; NaN where it has failed."""
    cdef const Layer* last = &net.layers[net.depth - 1]
    cdef real* delta = <real*>work.delta
    cdef real* targets = delta + work.rows * net.widest     # nobody needs this half yet
    cdef Py_ssize_t i, sample
    for i in range(n):
        sample = sample_at(samples, start + i)
        memcpy(targets + i * net.n_out, <const real*>samples.targets + sample * net.n_out,
               net.n_out * sizeof(real))
    if net.users_loss(net.users_context, n, net.n_out,
                      <real*>work.outputs + last.output * work.rows, targets, work.losses, delta):
        work.losses[0] = NAN


cdef inline void weigh(
    const Net* net, const real* parameters, const Samples* samples,
    Py_ssize_t start, Py_ssize_t first, Py_ssize_t stop, double scale, Workspace* work,
) noexcept nogil:
    """Multiply losses of rows and their gradients by the weights, the gradients by `scale` too."""
    cdef real* delta = <real*>work.delta
    cdef const real* weights = <const real*>samples.weights
    cdef Py_ssize_t n_out = net.n_out, i, j, sample
    cdef real weight
    for i in range(first, stop if weights != NULL else first):
        sample = sample_at(samples, start + i)
        weight = weights[sample]
        work.losses[i] *= weight
        for j in range(i * n_out, (i + 1) * n_out):
            delta[j] *= weight
    for j in range(first * n_out, stop * n_out):
        delta[j] *= <real>scale


cdef inline double loss_pass(
    const Net* net, const real* parameters, const Samples* samples,
    Py_ssize_t start, Py_ssize_t n, double scale, Workspace* work, const Member* member,
) noexcept nogil:
    """`scale` times the loss of rows start .. start + n, shared by rows; delta is its gradient."""
    cdef real* one_hot = <real*>work.one_hot + member.part * net.widest
    cdef double loss = 0
    cdef Py_ssize_t first = share(member, 0, n, 1), stop = share(member, 1, n, 1), i
    if net.users_loss == NULL:
        row_losses(net, parameters, samples, start, first, stop, work, one_hot)
    else:
        if is_first(member):
            users_losses(net, parameters, samples, start, n, work)
        barrier(member)
    weigh(net, parameters, samples, start, first, stop, scale, work)
    barrier(member)
    for i in range(n):
        loss += work.losses[i]
    return loss * scale


cdef inline void add_kept(
    const Net* net, Py_ssize_t at, int activation, real alpha, const real* outputs,
    const real* slopes, Py_ssize_t n, real* D, Workspace* work, const Member* member,
) noexcept nogil:
    """Add to D, the gradient by Z of layer `at`, what the sums it is a source of have kept.

    The network's inputs are layer -1.
    """
    cdef Py_ssize_t n_out = net.n_in if at < 0 else net.layers[at].n_out, above, i
    cdef Py_ssize_t first = share(member, 0, n, 1) * n_out
    cdef Py_ssize_t size = share(member, 1, n, 1) * n_out - first
    cdef real* kept
    for above in range(at + 1, net.depth):
        if net.layers[above].kind != RESIDUAL or net.layers[above].source != at:
            continue
        kept = <real*>work.kept + net.layers[above].output * work.rows + first
        multiply_by_derivative(activation, alpha, outputs + first, slopes_from(slopes, first), kept,
                               1, size)
        for i in range(size):
            D[first + i] += kept[i]
    barrier(member)


cdef inline void backward_pass(
    const Net* net, const real* parameters, const Batch* batch, const Goal* goal, real* by_inputs,
    Workspace* work, const Member* member,
) noexcept nogil:
    """The gradient by all parameters to where it shall go, from the delta of the loss pass.

    The goal may be NULL. The gradient by the inputs goes to `by_inputs`, n x n_in, or is not wanted
    where that is NULL. Where plain gradient descent updates the parameters themselves, the first
    layer's update may wait in `work.late`, which goes on with X and the delta of this pass.
    """
    cdef Py_ssize_t n = batch.n
    cdef real* delta = <real*>work.delta
    cdef real* delta_below = delta + work.rows * net.widest
    cdef real* scratch = own_scratch(parameters, work, member)
    cdef bint plain = (goal != NULL and goal.vector == parameters and goal.rule == NULL
                       and goal.beta == 1)
    cdef Py_ssize_t lowest = net.lowest if by_inputs == NULL else 0
    cdef const real* inputs
    cdef const real* slopes
    cdef real* D_in
    cdef const Layer* layer = &net.layers[net.depth - 1]
    cdef const Layer* below
    cdef const Goal* own_goal
    cdef real alpha
    cdef int activation
    cdef Py_ssize_t at
    if not net.from_logits:
        if is_first(member):
            multiply_by_derivative(layer.activation, <real>layer.alpha,
                                   <real*>work.outputs + layer.output * work.rows,
                                   slopes_of(layer, parameters, work), delta, n, layer.n_out)
        barrier(member)
    for at in range(net.depth - 1, lowest - 1, -1):
        layer = &net.layers[at]
        own_goal = goal
        if layer.frozen:
            own_goal = NULL
        inputs, slopes, activation, alpha = <const real*>batch.X, NULL, IDENTITY, 0
        if at > 0:
            below = &net.layers[at - 1]
            inputs = <real*>work.outputs + below.output * work.rows
            slopes = slopes_of(below, parameters, work)
            activation, alpha = below.activation, <real>below.alpha
            if work.training and below.dropout > 0:
                activation = SLOPES
        D_in = delta_below if at > lowest else by_inputs
        if inputs == NULL:
            sparse_backward(layer, batch, delta, goal, scratch, member)
        elif layer.kind == DENSE:
            backward(layer, activation, alpha, parameters, inputs, order_of(batch, inputs), slopes,
                     delta, n, D_in, own_goal, late_update(net, at, work) if plain else NULL,
                     scratch, member)
        else:
            norm_backward(layer, activation, alpha, parameters, <real*>net.statistics, inputs,
                          slopes, delta, n, D_in, own_goal,
                          <real*>work.kept + layer.output * work.rows,
                          moments_of(net, layer, parameters, work), work.training, scratch, member)
        if D_in != NULL and net.has_sums:
            add_kept(net, at - 1, activation, alpha, inputs, slopes, n, D_in, work, member)
        delta, delta_below = delta_below, delta


cdef inline double gradient_pass(
    const Net* net, const real* parameters, const Samples* samples,
    Py_ssize_t start, Py_ssize_t n, double scale,
    const Goal* goal, real* by_inputs, Workspace* work, const Member* member,
) noexcept nogil:
    """One whole pass: the scaled loss, and its gradients to where they shall go.

    A loss that is not finite leaves everything as it was.
    """
    cdef Batch batch = gather(net, parameters, samples, start, n, work, member)
    cdef double loss
    forward_pass(net, parameters, &batch, work, member)
    loss = loss_pass(net, parameters, samples, start, n, scale, work, member)
    if isfinite(loss):
        backward_pass(net, parameters, &batch, goal, by_inputs, work, member)
    return loss
