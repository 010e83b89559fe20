"""The three products that carry the time of a step, each for n rows through one layer.

Paths, by size:

* One row (online learning, single predictions): every weight is streamed once for each pass,
  and rows of W whose input is zero are skipped. The first layer's update waits for the next step's
  forward pass, so that its weights are streamed once for both. One output column or one input
  column turns a product into the same vector operations.
* BLAS where the compiler has no tiles.
* Register tiles over panels of two vectors. A panel of W is read where it lies while W fits
  into the second cache. A larger W passes by in blocks that do, for many rows laid out in panels.

Backward, both products take W in blocks of one panel's rows, so that a block crosses the caches
once for its input gradient, its gradient and its update. Plain gradient descent updates W as the
sums of a tile leave the registers; any other rule has the gradient of a few rows left in the first
cache, and updates those before the next ones are taken.

Rows of X may come in any order, where `finds_rows` says so: shuffled samples need not be copied.
Forward, a tile finds its rows; backward, columns of X are laid out for the tile.

The members of a team share one product: rows of A forward, or columns where W is large, and
blocks of W's rows backward. Each element is summed by one member, in the same order for any
number of them.

The memory past the end of the parameters, and of D and every buffer here, is readable for one
vector; see `Workspace`.
"""
from libc.string cimport memcpy, memset

from .activations cimport (
    IDENTITY, RELU, activate, activate_part, mixes_outputs, multiply_part,
)
from .blas cimport gemm
from .crossovers cimport (
    DELTA_PANELS, DELTA_WIDTH, DOT_ROWS, LAID_OUT_WIDTH, LARGE_DELTA, LARGE_WEIGHT, MANY_ROWS,
    WHOLE_WEIGHT,
)
from .optimizers cimport Rule, apply, apply_outer, root
from .records cimport Layer, real, row_at
from .team cimport Member, barrier, is_first, share
from .tile cimport (
    HAS_TILES, PREFETCH, TILE_FORWARD, TILE_GATED, TILE_PLAIN, TILE_ROWS, TILE_UPDATE, add_outer,
    combine_listed, list_nonzero, ordered_tile, panel_width, rows_dot, tile, tile_end, transpose,
)

cdef enum:
    LISTED = 256                # rows looked at for zeros at a time
    BLOCK = 32                  # rows of W that one row takes at a time
    UPDATED_BYTES = 3 << 13     # of W that are updated and then used: half of a first cache
    RULED_BYTES = 1 << 13       # of gradient that a rule takes at a time, where tiles allow it
    BLOCK_BYTES = 1 << 18       # of W in a shallow block, over all columns
    DEEP = 512                  # rows, and
    NARROW = 4                  # panels of W in a block that is laid out
    AHEAD = 16                  # rows of W that are on their way while one is laid out
    PANELS = 2                  # of W, whose rows share a pass over a large D


cdef inline Py_ssize_t round_up(Py_ssize_t n, Py_ssize_t step) noexcept nogil:
    return (n + step - 1) // step * step


cdef inline Py_ssize_t weight_bytes(const Layer* layer, size_t item) noexcept nogil:
    return layer.n_in * layer.n_out * <Py_ssize_t>item


cdef inline bint copies_weight(const Layer* layer, Py_ssize_t n, size_t item) noexcept nogil:
    """Whether `forward` lays W out in panels: it pays from some size, and some rows, on."""
    return n >= MANY_ROWS and weight_bytes(layer, item) > LARGE_WEIGHT


cdef inline Py_ssize_t forward_scratch(
    const Layer* layer, Py_ssize_t n, size_t item,
) noexcept nogil:
    """How many elements `forward` wants for its panels, with n rows or less."""
    if not copies_weight(layer, n, item):
        return 0
    return min(layer.n_in, <Py_ssize_t>DEEP) * NARROW * panel_width(item)


cdef inline Py_ssize_t panels_at_once(const Layer* layer, Py_ssize_t n, size_t item) noexcept nogil:
    """For how many panels' rows of W one pass over D serves: more than one where it is large."""
    if n * layer.n_out * <Py_ssize_t>item > LARGE_DELTA:
        return PANELS
    return 1


cdef struct Goal:
    # what becomes of a gradient: vector := alpha gradient + beta vector, or with a rule, which
    # takes alpha = 1 and beta = 0, the vector is updated by it; the vector is like the parameters
    void* vector
    double alpha
    double beta
    const Rule* rule        # or NULL


cdef inline Py_ssize_t ruled_rows(const Layer* layer, size_t item) noexcept nogil:
    """How many rows of W have their gradient taken before a rule updates them."""
    cdef Py_ssize_t rows = RULED_BYTES // (layer.n_out * <Py_ssize_t>item)
    return max(<Py_ssize_t>TILE_ROWS, min(rows // TILE_ROWS * TILE_ROWS, panel_width(item)))


cdef inline Py_ssize_t rows_together(
    const Layer* layer, Py_ssize_t n, size_t item, bint ruled,
) noexcept nogil:
    """For how many rows of W the panels of D pass by at a time."""
    cdef Py_ssize_t panels = panels_at_once(layer, n, item)
    if panels > 1:
        return panels * panel_width(item)
    return ruled_rows(layer, item) if ruled else TILE_ROWS


cdef inline Py_ssize_t block_size(const Layer* layer, Py_ssize_t n, size_t item) noexcept nogil:
    """Elements of the gradient that a rule takes at a time; all of them where W is a column."""
    cdef Py_ssize_t rows = layer.n_in if layer.n_out == 1 else rows_together(layer, n, item, True)
    return round_up(rows * layer.n_out, panel_width(item))


cdef inline Py_ssize_t backward_scratch(
    const Layer* layer, Py_ssize_t n, size_t item,
) noexcept nogil:
    """How many elements `backward` wants, with n rows or less.

    A block of the gradient, all panels of D, some of D^T and some of W^T or one of the result, and
    blocks of X.
    """
    cdef Py_ssize_t panel = panel_width(item), panels = panels_at_once(layer, n, item)
    return (block_size(layer, n, item)
            + round_up(layer.n_out, panel) * (n + (DELTA_PANELS + panels) * panel)
            + n * round_up(panels * panel, TILE_ROWS))


cdef inline void copy_columns(
    const real* A, Py_ssize_t a_row, Py_ssize_t rows, Py_ssize_t width, real* B, Py_ssize_t b_row,
) noexcept nogil:
    """The first `width` columns of A side by side in B; a whole row of B is one constant copy."""
    cdef Py_ssize_t i
    if width == b_row:
        for i in range(rows):
            memcpy(B + i * b_row, A + i * a_row, b_row * sizeof(real))
    else:
        for i in range(rows):
            memcpy(B + i * b_row, A + i * a_row, width * sizeof(real))


cdef inline void fetch(Py_ssize_t rows, const real* A, Py_ssize_t a_row) noexcept nogil:
    """Ask for a tile of A that is wanted soon."""
    cdef Py_ssize_t panel = panel_width(sizeof(real)), i
    for i in range(rows):
        PREFETCH(A + i * a_row)
        PREFETCH(A + i * a_row + panel // 2)


cdef inline bint finds_rows(const Layer* layer, Py_ssize_t n) noexcept nogil:
    """Whether both products of n rows go by tiles, which find rows of X by an order."""
    return HAS_TILES and n > 1 and layer.n_in > 1 and layer.n_out > 1


# --- vector operations ----------------------------------------------------------------------

cdef inline void combine_rows(
    Py_ssize_t depth, Py_ssize_t columns, const real* x, const real* A, real alpha, real* z,
) noexcept nogil:
    """z += alpha x A for a row x and row-major A (depth x columns), zeros of x skipped."""
    cdef int[LISTED + 16] listed
    cdef Py_ssize_t k = 0
    cdef int count
    while k < depth:
        count = list_nonzero(x + k, min(<Py_ssize_t>LISTED, depth - k), listed)
        combine_listed(count, listed, columns, x + k, A + k * columns, alpha, z)
        k += LISTED


cdef struct Outer:
    # the update target += alpha x^T d of one row, while it waits for the next pass over its target
    const void* x           # NULL: nothing waits
    const void* d
    void* target
    double alpha


cdef inline void update_rows(
    const Outer* late, Py_ssize_t first, Py_ssize_t rows, Py_ssize_t columns, const real* x,
) noexcept nogil:
    """Rows first .. first + rows, at most LISTED, of a late update; x is late.x."""
    cdef int[LISTED + 16] listed
    cdef int count = list_nonzero(x + first, rows, listed)
    add_outer(count, listed, columns, <real>late.alpha, x + first, <const real*>late.d, 1,
              <real*>late.target + first * columns)


cdef inline void update_and_combine_rows(
    Outer* late, Py_ssize_t depth, Py_ssize_t columns, const real* x, const real* A, real* z,
) noexcept nogil:
    """z += x A, as `combine_rows`, after the late update of A.

    In blocks that stay in the first cache in between, and that are the same when nothing waits.
    """
    cdef Py_ssize_t rows = UPDATED_BYTES // (columns * <Py_ssize_t>sizeof(real)), k = 0, taken
    rows = max(<Py_ssize_t>16, min(<Py_ssize_t>LISTED, rows))
    while k < depth:
        taken = min(rows, depth - k)
        if late.x != NULL:
            update_rows(late, k, taken, columns, <const real*>late.x)
        combine_rows(taken, columns, x + k, A + k * columns, 1, z)
        k += rows
    late.x = NULL


cdef inline void finish_update(Outer* late, const Layer* layer, const real* x) noexcept nogil:
    """Make the update that waits, if any does; x is late.x."""
    cdef Py_ssize_t k = 0
    while x != NULL and k < layer.n_in:
        update_rows(late, k, min(<Py_ssize_t>LISTED, layer.n_in - k), layer.n_out, x)
        k += LISTED
    late.x = NULL


# --- forward --------------------------------------------------------------------------------

cdef inline void forward_tiles(
    Py_ssize_t n, Py_ssize_t depth, const real* X, const Py_ssize_t* order, Py_ssize_t x_row,
    const real* B, Py_ssize_t b_row, real* A, Py_ssize_t a_row, Py_ssize_t width, tile_end* end,
) noexcept nogil:
    """One panel of A (n x width) := end(X B)."""
    cdef Py_ssize_t i = 0, rows
    while i < n:
        rows = min(<Py_ssize_t>TILE_ROWS, n - i)
        if order == NULL:
            tile(rows, depth, X + i * x_row, x_row, 1, B, b_row, A + i * a_row, a_row, width, end)
        else:
            ordered_tile(rows, depth, X, order + i, x_row, B, b_row, A + i * a_row, a_row, width,
                         end)
        i += TILE_ROWS


cdef inline void forward_in_blocks(
    const Layer* layer, const real* W, const real* bias, bint cut,
    const real* X, const Py_ssize_t* order, Py_ssize_t n, real* A, real* scratch,
    Py_ssize_t start, Py_ssize_t stop,
) noexcept nogil:
    """Columns start .. stop of A := X W + b, for a W that crosses the caches block by block.

    Few rows take it in shallow blocks over all columns, which reads it in the order in which it
    lies. Many rows take a very large one in deep blocks of a few columns, laid out as panels for
    the first cache, and so go over A less often.
    """
    cdef Py_ssize_t panel = panel_width(sizeof(real)), n_in = layer.n_in, n_out = layer.n_out
    cdef bint copied = copies_weight(layer, n, sizeof(real))
    cdef Py_ssize_t columns = NARROW * panel if copied else stop - start
    cdef Py_ssize_t depth = DEEP
    cdef Py_ssize_t k = 0, first, last, j, row, taken, b_row = panel if copied else n_out
    cdef const real* B
    cdef tile_end end
    if not copied:
        depth = max(<Py_ssize_t>TILE_ROWS, <Py_ssize_t>(BLOCK_BYTES // (n_out * sizeof(real))))
    end.kind = TILE_FORWARD
    while k < n_in:
        taken = min(depth, n_in - k)
        end.cut = cut and k + taken == n_in
        first = start
        while first < stop:
            last = min(stop, first + columns)
            for row in range(taken if copied else 0):
                j = first
                while j < last:
                    PREFETCH(W + (k + row + AHEAD) * n_out + j)
                    PREFETCH(W + (k + row + AHEAD) * n_out + j + panel // 2)
                    copy_columns(W + (k + row) * n_out + j, n_out, 1, min(panel, n_out - j),
                                 scratch + (j - first) * taken + row * panel, panel)
                    j += panel
            j = first
            while j < last:
                end.bias = bias + j if k == 0 else NULL
                B = W + k * n_out + j
                if copied:
                    B = scratch + (j - first) * taken
                forward_tiles(n, taken, X + k, order, n_in, B, b_row, A + j, n_out,
                              min(panel, n_out - j), &end)
                j += panel
            first += columns
        k += taken


cdef inline void forward_part(
    const Layer* layer, int activation, const real* parameters, Outer* late,
    const real* X, const Py_ssize_t* order, Py_ssize_t n, real* A, real* slopes, real* scratch,
    const Member* member,
) noexcept nogil:
    """This member's part of `forward`, for every activation that does not mix outputs."""
    cdef Py_ssize_t panel = panel_width(sizeof(real)), n_in = layer.n_in, n_out = layer.n_out
    cdef const real* W = parameters + layer.weight
    cdef const real* bias = parameters + layer.bias
    cdef Py_ssize_t first = share(member, 0, n, TILE_ROWS), stop = share(member, 1, n, TILE_ROWS)
    cdef Py_ssize_t rows = stop - first, i, j = 0
    cdef bint cut = activation == RELU
    cdef tile_end end
    if HAS_TILES and n > 1 and n_out > 1 and weight_bytes(layer, sizeof(real)) > WHOLE_WEIGHT:
        first, stop = share(member, 0, n_out, panel), share(member, 1, n_out, panel)
        forward_in_blocks(layer, W, bias, cut, X, order, n, A, scratch, first, stop)
        if not cut:
            activate_part(activation, <real>layer.alpha, A, slopes, n, n_out, first, stop)
        return
    if rows == 0:
        return
    if order == NULL:
        X += first * n_in
    else:
        order += first
    A += first * n_out
    if slopes != NULL:
        slopes += first * n_out
    if n_out == 1:
        rows_dot(rows, NULL, n_in, X, W, A)
        for i in range(rows):
            A[i] += bias[0]
    elif n == 1:
        memcpy(A, bias, n_out * sizeof(real))
        if late == NULL:
            combine_rows(n_in, n_out, X, W, 1, A)
        else:
            update_and_combine_rows(late, n_in, n_out, X, W, A)
    elif HAS_TILES:
        end.kind, end.cut = TILE_FORWARD, cut
        while j < n_out:
            end.bias = bias + j
            forward_tiles(rows, n_in, X, order, n_in, W + j, n_out, A + j, n_out,
                          min(panel, n_out - j), &end)
            j += panel
        if cut:
            return
    else:
        for i in range(rows):
            memcpy(A + i * n_out, bias, n_out * sizeof(real))
        gemm[real](False, False, rows, n_out, n_in, 1, X, W, 1, A)
    activate(activation, <real>layer.alpha, A, slopes, rows, n_out)


cdef inline void forward(
    const Layer* layer, int activation, const real* parameters, Outer* late,
    const real* X, const Py_ssize_t* order, Py_ssize_t n, real* A, real* slopes, real* scratch,
    const Member* member,
) noexcept nogil:
    """A := f(X W + b), for X n x n_in and A n x n_out, after an update of W that may wait.

    X has its rows in this order, which is NULL unless `finds_rows`: row i lies order[i] rows on.
    f' goes to `slopes`, laid out as A, where A does not determine it; NULL if it is not wanted.
    `late` is NULL except for one row through a layer of several outputs that one thread trains.
    """
    if not mixes_outputs(activation):
        forward_part(layer, activation, parameters, late, X, order, n, A, slopes, scratch, member)
    else:
        forward_part(layer, IDENTITY, parameters, late, X, order, n, A, NULL, scratch, member)
        barrier(member)
        if is_first(member):
            activate(activation, <real>layer.alpha, A, NULL, n, layer.n_out)
    barrier(member)


cdef inline void limit_norms(
    const Layer* layer, real* parameters, real* norms, const Member* member,
) noexcept nogil:
    """Shorten each of this member's columns of W that is longer than max_norm to that.

    `norms` has room for a column's each; as many as are shared at a time.
    """
    cdef real* W = parameters + layer.weight
    cdef Py_ssize_t n_out = layer.n_out, panel = panel_width(sizeof(real)), i, j
    cdef Py_ssize_t first = share(member, 0, n_out, panel), stop = share(member, 1, n_out, panel)
    cdef real most = <real>layer.max_norm
    memset(norms + first, 0, (stop - first) * sizeof(real))
    for i in range(layer.n_in):
        for j in range(first, stop):
            norms[j] += W[i * n_out + j] * W[i * n_out + j]
    for j in range(first, stop):
        norms[j] = most / root(norms[j]) if norms[j] > most * most else 1
    for i in range(layer.n_in):
        for j in range(first, stop):
            W[i * n_out + j] *= norms[j]


# --- backward -------------------------------------------------------------------------------

cdef inline void scale(real beta, real* target, Py_ssize_t n) noexcept nogil:
    """target := beta target; beta = 0 overwrites whatever is there, NaN too."""
    cdef Py_ssize_t j
    if beta == 0:
        memset(target, 0, n * sizeof(real))
    elif beta != 1:
        for j in range(n):
            target[j] *= beta


cdef inline void add_rows(
    Py_ssize_t n, const real* D, Py_ssize_t d_row, Py_ssize_t columns, real alpha, real* total,
) noexcept nogil:
    """total += alpha sum of the rows of D (n x columns), four at a time."""
    cdef Py_ssize_t i, j
    cdef const real* d
    for i in range(n // 4):
        d = D + 4 * i * d_row
        for j in range(columns):
            total[j] += alpha * ((d[j] + d[j + d_row]) + (d[j + 2 * d_row] + d[j + 3 * d_row]))
    for i in range(n - n % 4, n):
        for j in range(columns):
            total[j] += alpha * D[i * d_row + j]


cdef inline void backward_one_row(
    const Layer* layer, int activation, const real* W, const real* x, const real* d, real* d_in,
    const Goal* goal, real* block,
) noexcept nogil:
    """Both products of one row; the gradient of W only with a goal.

    Rows of W with a zero input are left out where that is exact.
    """
    cdef int[BLOCK + 16] active
    cdef Py_ssize_t i = 0, rows, n_out = layer.n_out, most = BLOCK
    cdef real* gradient = NULL
    cdef int count
    if goal != NULL:
        gradient = <real*>goal.vector + layer.weight
        if goal.rule != NULL:
            most = min(most, ruled_rows(layer, sizeof(real)))
    while i < layer.n_in:
        rows = min(most, layer.n_in - i)
        count = list_nonzero(x + i, rows, active)
        if d_in != NULL and activation == RELU:
            # a closed relu has input zero, and lets no gradient through
            memset(d_in + i, 0, rows * sizeof(real))
            rows_dot(count, active, n_out, W + i * n_out, d, d_in + i)
        elif d_in != NULL:
            rows_dot(rows, NULL, n_out, W + i * n_out, d, d_in + i)
        if goal == NULL:
            pass
        elif goal.rule != NULL:
            apply_outer(goal.rule, layer.l1, layer.l2, <real*>goal.vector, rows, n_out, x + i, d,
                        layer.weight + i * n_out, block)
        elif goal.beta == 1:
            add_outer(count, active, n_out, <real>goal.alpha, x + i, d, <real>1,
                      gradient + i * n_out)
        else:
            add_outer(rows, NULL, n_out, <real>goal.alpha, x + i, d, <real>goal.beta,
                      gradient + i * n_out)
        i += most


cdef inline void backward_column_or_row(
    const Layer* layer, const real* A, const real* x, Py_ssize_t n, const Goal* goal, real* block,
) noexcept nogil:
    """The gradient x A, n products added up, of a W that is one column or one row."""
    cdef Py_ssize_t size = layer.n_in * layer.n_out
    cdef real* gradient = <real*>goal.vector + layer.weight
    if goal.rule != NULL:
        gradient = block
    scale(<real>goal.beta, gradient, size)
    combine_rows(n, size, x, A, <real>goal.alpha, gradient)
    if goal.rule != NULL:
        apply(goal.rule, layer.l1, layer.l2, <real*>goal.vector, gradient, layer.weight, size)


cdef inline void input_gradient_of_column(
    const Layer* layer, int activation, const real* W, const real* X, const real* D, Py_ssize_t n,
    real* D_in,
) noexcept nogil:
    """D_in of a layer with one output: an outer product."""
    cdef Py_ssize_t n_in = layer.n_in, panel = panel_width(sizeof(real)), i, j = 0
    cdef tile_end end
    end.kind = TILE_GATED if activation == RELU else TILE_PLAIN
    end.bias = NULL
    while j < n_in:
        i = 0
        while i < n:
            end.gate = X + i * n_in + j
            tile(min(<Py_ssize_t>TILE_ROWS, n - i), 1, D + i, 1, 1, W + j, panel,
                 D_in + i * n_in + j, n_in, min(panel, n_in - j), &end)
            i += TILE_ROWS
        j += panel


cdef enum Way:
    BY_DOTS                     # for few rows: each element a dot product
    BY_DELTA                    # (W D^T)^T, which transposes D and the result
    BY_WEIGHT                   # D W^T, which transposes W


cdef inline Way way_down(const Layer* layer, Py_ssize_t n, size_t item) noexcept nogil:
    """How D W^T is taken: where n is small beside the layer, W is not worth transposing."""
    if n <= DOT_ROWS:
        return BY_DOTS
    if n <= DELTA_PANELS * panel_width(item) and layer.n_out >= DELTA_WIDTH:
        return BY_DELTA
    return BY_WEIGHT


cdef inline void input_gradient_rows(
    Way way, Py_ssize_t rows, Py_ssize_t n_out, const real* W, const real* D, Py_ssize_t n,
    const real* D_turned, real* turned, real* D_in, Py_ssize_t n_in, tile_end* end,
) noexcept nogil:
    """`rows` columns of D_in := D W^T for as many rows of W, which are few panels' width.

    D_turned holds D^T in panels for BY_DELTA, and `turned` takes panels of W^T or one of the
    result.
    """
    cdef Py_ssize_t panel = panel_width(sizeof(real)), i = 0, r = 0, height, width
    cdef const real* gate = <const real*>end.gate
    if way == BY_DOTS:
        for i in range(n):
            rows_dot(rows, NULL, n_out, W, D + i * n_out, D_in + i * n_in)
    elif way == BY_DELTA:
        while i < n:
            width = min(panel, n - i)
            r = 0
            while r < rows:
                height = min(<Py_ssize_t>TILE_ROWS, rows - r)
                tile(height, n_out, W + r * n_out, n_out, 1, D_turned + i * n_out, panel,
                     turned + r * panel, panel, width, end)
                r += TILE_ROWS
            transpose(rows, width, turned, panel, D_in + i * n_in, n_in)
            i += panel
    else:
        while r < rows:
            transpose(min(panel, rows - r), n_out, W + r * n_out, n_out, turned + r * n_out, panel)
            r += panel
        while i < n:
            height = min(<Py_ssize_t>TILE_ROWS, n - i)
            r = 0
            while r < rows:
                end.gate = gate + i * n_in + r
                tile(height, n_out, D + i * n_out, n_out, 1, turned + r * n_out, panel,
                     D_in + i * n_in + r, n_in, min(panel, rows - r), end)
                r += panel
            i += TILE_ROWS


cdef inline void lay_out(
    const real* X, const Py_ssize_t* order, Py_ssize_t x_row, Py_ssize_t n, Py_ssize_t columns,
    real* blocks,
) noexcept nogil:
    """The first columns of n rows of X in blocks of a tile's rows, each n x TILE_ROWS.

    Row by row, which takes whole cache lines.
    """
    cdef Py_ssize_t i, j
    cdef const real* row
    cdef real* block
    for i in range(n):
        row = X + row_at(order, i) * x_row
        block = blocks + i * TILE_ROWS
        j = 0
        while j + TILE_ROWS <= columns:
            memcpy(block + j * n, row + j, TILE_ROWS * sizeof(real))
            j += TILE_ROWS
        if j < columns:
            memcpy(block + j * n, row + j, (columns - j) * sizeof(real))


cdef inline void weight_gradient_rows(
    const Layer* layer, Py_ssize_t start, Py_ssize_t rows, const real* X, const Py_ssize_t* order,
    const real* D_panels, Py_ssize_t n, const Goal* goal, real* X_blocks, real* block,
) noexcept nogil:
    """Rows start .. start + rows of the gradient X^T D, to where it shall go.

    Where it pays, and where X has an order, its columns are laid out. The panels of D pass by
    for a few rows of W at a time, and a rule takes the gradient of these from `block`.
    """
    cdef Py_ssize_t n_in = layer.n_in, n_out = layer.n_out
    cdef Py_ssize_t panel = panel_width(sizeof(real)), first = 0, last, r, j, height, step = n_in
    cdef Py_ssize_t at = layer.weight + start * n_out
    cdef bint laid_out = order != NULL or n_out >= LAID_OUT_WIDTH
    cdef bint ruled = goal.rule != NULL
    cdef Py_ssize_t together = rows_together(layer, n, sizeof(real), ruled)
    cdef bint fetched = not ruled and weight_bytes(layer, sizeof(real)) > LARGE_WEIGHT
    cdef const real* columns
    cdef real* gradient
    cdef tile_end update
    update.kind, update.alpha, update.beta = TILE_UPDATE, goal.alpha, goal.beta
    update.bias = NULL
    X += start
    if laid_out:
        lay_out(X, order, n_in, n, rows, X_blocks)
    while first < rows:
        last = min(rows, first + together)
        gradient = block if ruled else <real*>goal.vector + at + first * n_out
        j = 0
        while j < n_out:
            r = first
            while r < last:
                height = min(<Py_ssize_t>TILE_ROWS, last - r)
                columns = X + r
                if laid_out:
                    columns, step = X_blocks + r * n, TILE_ROWS
                if fetched:
                    fetch(height, gradient + (r - first) * n_out + j, n_out)
                tile(height, n, columns, 1, step, D_panels + j * n, panel,
                     gradient + (r - first) * n_out + j, n_out, min(panel, n_out - j), &update)
                r += TILE_ROWS
            j += panel
        if ruled:
            apply(goal.rule, layer.l1, layer.l2, <real*>goal.vector, block, at + first * n_out,
                  (last - first) * n_out)
        first = last


cdef inline bint backward_tiles(
    const Layer* layer, int activation, const real* W, const real* X, const Py_ssize_t* order,
    const real* D, Py_ssize_t n, real* D_in, const Goal* goal, real* scratch,
    Py_ssize_t first, Py_ssize_t stop,
) noexcept nogil:
    """Both products for rows first .. stop of W, one or a few panels' rows after the other.

    Returns whether D_in has the derivative of relu in it already.
    """
    cdef Py_ssize_t n_in = layer.n_in, n_out = layer.n_out, panel = panel_width(sizeof(real))
    cdef Py_ssize_t panels = panels_at_once(layer, n, sizeof(real))
    cdef Py_ssize_t width = round_up(n_out, panel)
    cdef real* D_panels = scratch + block_size(layer, n, sizeof(real))
    cdef real* D_turned = D_panels + n * width
    cdef real* turned = D_turned + DELTA_PANELS * panel * width
    cdef real* X_blocks = turned + panels * panel * width
    cdef Way way = way_down(layer, n, sizeof(real))
    cdef bint gated = activation == RELU and way == BY_WEIGHT
    cdef Py_ssize_t i = 0, j = 0, rows
    cdef tile_end end
    end.kind = TILE_GATED if gated else TILE_PLAIN
    end.bias = NULL
    while goal != NULL and j < n_out:
        copy_columns(D + j, n_out, n, min(panel, n_out - j), D_panels + j * n, panel)
        j += panel
    while D_in != NULL and way == BY_DELTA and i < n:
        transpose(min(panel, n - i), n_out, D + i * n_out, n_out, D_turned + i * n_out, panel)
        i += panel
    while first < stop:
        rows = min(panels * panel, stop - first)
        if D_in != NULL:
            end.gate = X + first
            input_gradient_rows(way, rows, n_out, W + first * n_out, D, n, D_turned, turned,
                                D_in + first, n_in, &end)
        if goal != NULL:
            weight_gradient_rows(layer, first, rows, X, order, D_panels, n, goal, X_blocks, scratch)
        first += rows
    return gated


cdef inline void bias_gradient(
    const Layer* layer, const real* D, Py_ssize_t n, const Goal* goal, real* block,
    const Member* member,
) noexcept nogil:
    """This member's columns of the gradient of b, the sum of D's rows, to where it shall go."""
    cdef Py_ssize_t n_out = layer.n_out, panel = panel_width(sizeof(real))
    cdef Py_ssize_t first = share(member, 0, n_out, panel)
    cdef Py_ssize_t columns = share(member, 1, n_out, panel) - first
    cdef real* gradient = <real*>goal.vector + layer.bias + first
    if goal.rule != NULL:
        gradient = block
    scale(<real>goal.beta, gradient, columns)
    add_rows(n, D + first, n_out, columns, <real>goal.alpha, gradient)
    if goal.rule != NULL:
        apply(goal.rule, 0, 0, <real*>goal.vector, gradient, layer.bias + first, columns)


cdef inline void backward(
    const Layer* layer, int activation, real alpha, const real* parameters,
    const real* X, const Py_ssize_t* order, const real* slopes, const real* D, Py_ssize_t n,
    real* D_in, const Goal* goal, Outer* late, real* scratch, const Member* member,
) noexcept nogil:
    """D_in := (D W^T) * f'(Z), and the gradients X^T D of W and sum D of b to where they shall go.

    X = f(Z) is the layer's input, with an order as in `forward`, and f is `activation`, with its
    parameter alpha, and with f' in `slopes` where X does not determine it. D_in may be NULL, and is
    where X has an order; so may the goal. With beta = 0 the goal's vector becomes the gradient, and
    with the parameters themselves as vector, alpha = -rate and beta = 1 it is the whole update of
    plain SGD, without a gradient buffer. A block of W is used for D_in before it is written. With
    `late`, W stays as it is and its update waits there, for as long as X and D do.
    """
    cdef const real* W = parameters + layer.weight
    cdef Py_ssize_t n_in = layer.n_in, n_out = layer.n_out
    cdef Py_ssize_t panel = panel_width(sizeof(real))
    cdef Py_ssize_t first = 0, stop = n_in
    cdef bint gated = activation == RELU
    if finds_rows(layer, n):
        first, stop = share(member, 0, n_in, panel), share(member, 1, n_in, panel)
        if first < stop:
            gated = backward_tiles(
                layer, activation, W, X, order, D, n, D_in, goal, scratch, first, stop)
    elif not is_first(member):
        stop = 0
    elif late != NULL:
        late[0] = Outer(X, D, <real*>goal.vector + layer.weight, goal.alpha)
    elif n == 1 and n_out > 1:
        backward_one_row(layer, activation, W, X, D, D_in, goal, scratch)
    elif n_out == 1:
        if D_in != NULL:
            input_gradient_of_column(layer, activation, W, X, D, n, D_in)
        if goal != NULL:
            backward_column_or_row(layer, X, D, n, goal, scratch)
    elif n_in == 1:
        gated = False
        if D_in != NULL:
            rows_dot(n, NULL, n_out, D, W, D_in)
        if goal != NULL:
            backward_column_or_row(layer, D, X, n, goal, scratch)
    else:
        gated = False
        if D_in != NULL:
            gemm[real](False, True, n, n_in, n_out, 1, D, W, 0, D_in)
        if goal != NULL:
            gemm[real](True, False, n_in, n_out, n, <real>goal.alpha, X, D, <real>goal.beta,
                       <real*>goal.vector + layer.weight)
    if D_in != NULL and not gated:
        multiply_part(activation, alpha, X, slopes, D_in, n, n_in, first, stop)
    if goal != NULL:
        bias_gradient(layer, D, n, goal, scratch, member)
    barrier(member)
