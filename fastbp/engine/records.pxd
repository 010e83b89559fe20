"""What the engine knows of a network: a flat list of layer records over one parameter buffer."""

from libc.stdint cimport uint64_t

ctypedef fused real:
    float
    double


cdef enum Kind:
    DENSE
    BATCH_NORM                  # each column, by mean and variance of the batch
    LAYER_NORM                  # each row, by its own
    NORMALIZE                   # each column, by mean and deviation of the training data
    RESIDUAL                    # the sum of the layer before and one further before


cdef struct Layer:
    int kind
    int activation
    double alpha            # the activation's parameter
    bint frozen             # whether training leaves its parameters alone
    double l1               # the penalty on W: l1 |w| + l2 / 2 w^2
    double l2
    double max_norm         # of each column of W, or 0
    double dropout          # which part of the outputs training drops
    Py_ssize_t n_in
    Py_ssize_t n_out
    Py_ssize_t weight       # where W (n_in x n_out, row-major) starts in the flat buffers
    Py_ssize_t bias         # where b (n_out) starts in them
    double epsilon          # of a normalisation, and
    double momentum         # the weight of a batch in what it gathers: mean and spread of each
    Py_ssize_t statistics   # column, one vector after the other, from here on
    Py_ssize_t source       # of a sum: the earlier layer, or -1 for the network's inputs
    Py_ssize_t norm         # how many normalisations there are before this one
    Py_ssize_t output       # room for the outputs of all layers before this one, per row


# A user's loss: the losses of n rows of raw outputs and targets, and their gradients. Returns
# whether it has failed.
ctypedef int (*UsersLoss)(
    void* context, Py_ssize_t n, Py_ssize_t n_out, const void* outputs, const void* targets,
    double* losses, void* gradients) noexcept nogil


cdef struct Net:
    Layer* layers
    Py_ssize_t depth
    Py_ssize_t n_in
    Py_ssize_t n_out
    Py_ssize_t n_parameters
    Py_ssize_t n_outputs    # room for those of all layers, per row, in whole cache lines
    Py_ssize_t widest       # for those of one layer at most
    void* statistics        # what normalisations have gathered
    Py_ssize_t n_statistics
    Py_ssize_t n_norms
    bint has_sums
    bint has_batch_norms
    int loss
    double loss_parameter
    double* levels          # n_out: the quantiles of a quantile loss
    UsersLoss users_loss    # what computes it where the user does, or NULL, and
    void* users_context
    Py_ssize_t lowest       # the first layer that is not frozen
    double dropout          # which part of the inputs training drops
    bint drops              # whether training drops anything
    bint has_penalties
    bint has_limits
    bint has_slopes         # whether an activation writes its derivative down
    bint from_logits        # the loss includes the last activation and starts from Z


cdef struct Samples:
    Py_ssize_t n
    const void* X           # n x n_in; or NULL where they are sparse, and
    const void* values      # what is not zero, row by row,
    const int* columns      # where in its row that is, ascending, and
    const Py_ssize_t* starts    # n + 1: where each row starts in these
    double products         # how many weights a row is multiplied by
    const void* targets     # n x n_out, or NULL when there are labels
    const Py_ssize_t* labels
    const void* weights     # n, or NULL where all are 1
    const Py_ssize_t* order     # the permutation to take them in; NULL: as they lie


cdef inline Py_ssize_t row_at(const Py_ssize_t* order, Py_ssize_t at) noexcept nogil:
    """Which row comes at this place of an order, or of none: NULL."""
    return at if order == NULL else order[at]


cdef inline Py_ssize_t sample_at(const Samples* samples, Py_ssize_t at) noexcept nogil:
    """Which sample comes at this place."""
    return row_at(samples.order, at)


cdef struct Batch:
    # the rows of one pass, for one member
    const Samples* samples
    Py_ssize_t start        # the place of the first
    Py_ssize_t n
    const void* X           # n_in wide, or NULL where they are sparse;
    const Py_ssize_t* order     # which rows of X they are; NULL: the first n
    double dropout          # which part of sparse ones is to be dropped,
    uint64_t key            # by this key, and
    Py_ssize_t row          # with so many rows of the step before
    void* gathered          # as W, zeros: where a rule has its gradient gathered
    uint64_t* touched       # a bit for each row of it, all 0
