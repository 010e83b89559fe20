"""Many networks in one call: each is one thread's work, from its first row to its last."""


cdef struct Herd:
    Call* calls
    Py_ssize_t n
    double flops                # of all calls together
    char* memory                # to predict: a piece of some size for each member, or NULL
    Py_ssize_t size
    Py_ssize_t item
    team members


cdef void herd_body(void* argument, int part) noexcept nogil:
    """Take every so manieth call on until it ends, or it is time to look for Ctrl-C."""
    cdef Herd* herd = <Herd*>argument
    cdef double since = milliseconds()
    cdef Py_ssize_t at = part
    cdef Call* call
    while at < herd.n:
        call = &herd.calls[at]
        if call.status == PAUSED:
            if herd.memory != NULL:
                # nothing in it outlives a pause
                place_prediction(call.net, herd.item, herd.memory + part * herd.size, call.work)
            body(call, 0)
            if call.status == PAUSED or out_of_patience(since):
                return
        at += herd.members.size


cdef int useful_members(const Herd* herd, Py_ssize_t n_threads) except -1:
    """How many of the threads allowed are worth it."""
    # BLAS does not stand being called side by side
    if n_threads == 1 or not HAS_TILES or herd.flops < TEAM_CALL_FLOPS:
        return 1
    return min(n_threads, herd.n, usable_cores(), MOST_THREADS)


cdef int run_all(Herd* herd, int threads, list plans) except -1:
    """Run all calls to their ends; between pauses what a user's loss has raised is raised, and a
    pending Ctrl-C."""
    cdef Py_ssize_t at
    cdef bint done = False
    cdef Plan plan
    for at in range(herd.n):
        herd.calls[at].status = PAUSED
        herd.calls[at].members.size = 1
    while not done:
        with nogil:
            team_run(&herd.members, threads, herd_body, herd)
        for plan in plans:
            if plan.failure is not None:
                raise plan.failure
        PyErr_CheckSignals()
        done = True
        for at in range(herd.n):
            done &= herd.calls[at].status != PAUSED
    return 0


def epoch_of_all(
    list plans not None, list samples not None, list orders not None, Py_ssize_t batch_size,
    list rates not None, list keys not None, int n_threads,
):
    """`Plan.epoch` for each of several networks: a list of (loss, whole steps made)."""
    cdef Py_ssize_t n = len(plans), at
    cdef Herd herd
    cdef Samples* described = <Samples*>calloc(n, sizeof(Samples))
    cdef Epoch* epochs = <Epoch*>calloc(n, sizeof(Epoch))
    cdef double* constant = <double*>calloc(n, sizeof(double))
    cdef list begun = []
    cdef Plan plan
    herd.calls, herd.n, herd.flops = <Call*>calloc(n, sizeof(Call)), n, 0
    herd.memory = NULL
    try:
        if herd.calls == NULL or described == NULL or epochs == NULL or constant == NULL:
            raise MemoryError
        for at in range(n):
            plan = plans[at]
            X, y, weights = samples[at]
            plan.describe(X, y, weights, orders[at], &described[at])
            herd.flops += described[at].n * STEP * described[at].products
            epochs[at].batch_size = batch_size
            if isinstance(rates[at], float):
                constant[at] = rates[at]
                epochs[at].rates, epochs[at].constant = &constant[at], True
            else:
                epochs[at].rates = <double*>pointer(rates[at], cnp.NPY_FLOAT64, "rates")
                assert len(rates[at]) == (described[at].n + batch_size - 1) // batch_size
            herd.calls[at].task, herd.calls[at].epoch = TRAIN, &epochs[at]
            herd.calls[at].rule, herd.calls[at].key = &plan.rule, keys[at]
            plan.begin(&herd.calls[at], &described[at], min(batch_size, described[at].n), 1)
            begun.append(plan)
        run_all(&herd, useful_members(&herd, n_threads), plans)
        result = []
        for at in range(n):
            if herd.calls[at].status == NOT_FINITE:
                result.append((epochs[at].batch_loss, epochs[at].steps))
            else:
                result.append((epochs[at].loss / described[at].n, epochs[at].steps))
        return result
    finally:
        for at in range(len(begun)):
            plan = begun[at]
            plan.finish(&herd.calls[at])
        free(herd.calls)
        free(described)
        free(epochs)
        free(constant)


def predict_by_all(list plans not None, X, int n_threads):
    """What each of several networks makes of checked rows: n_networks x n x n_out."""
    cdef Py_ssize_t n = len(plans), n_out, at
    cdef int threads
    cdef Herd herd
    cdef Samples* described = <Samples*>calloc(n, sizeof(Samples))
    cdef Workspace* work = <Workspace*>calloc(n, sizeof(Workspace))
    cdef Py_ssize_t* done = <Py_ssize_t*>calloc(n, sizeof(Py_ssize_t))
    cdef cnp.npy_intp[3] shape
    cdef Samples* samples
    cdef Call* call
    cdef Plan plan = plans[0], first = plans[0]
    load_blas()
    n_out = first.net.n_out
    shape[0], shape[1], shape[2] = n, len(X), n_out
    herd.calls, herd.n, herd.flops = <Call*>calloc(n, sizeof(Call)), n, 0
    herd.memory, herd.size, herd.item = NULL, 0, first.item
    try:
        if herd.calls == NULL or described == NULL or work == NULL or done == NULL:
            raise MemoryError
        out = cnp.PyArray_EMPTY(3, shape, first.type_number, 0)
        for at in range(n):
            plan, samples, call = plans[at], &described[at], &herd.calls[at]
            if (plan.net.n_in != first.net.n_in or plan.net.n_out != n_out
                    or plan.type_number != first.type_number):
                raise ValueError("networks must have the same n_inputs, n_outputs and dtype")
            if at == 0 or described[0].X == NULL:
                plan.describe_inputs(X, samples)
            else:
                described[at] = described[0]
                samples.products = plan.net.n_parameters
            herd.flops += samples.n * FORWARD * samples.products
            work[at].sparse = samples.X == NULL
            work[at].rows = rows_per_pass(
                &plan.net, samples.n, FORWARD * samples.products, plan.item)
            herd.size = max(herd.size, prediction_size(&plan.net, plan.item, 1, &work[at]))
            call.task, call.net, call.parameters = PREDICT, &plan.net, plan.theta
            call.work, call.samples, call.done = &work[at], samples, &done[at]
            call.single = plan.type_number == cnp.NPY_FLOAT32
            call.out = <char*>cnp.PyArray_DATA(out) + at * samples.n * n_out * plan.item
        threads = useful_members(&herd, n_threads)
        herd.memory = <char*>malloc(herd.size * threads)
        if herd.memory == NULL:
            raise MemoryError
        run_all(&herd, threads, [])
        return out
    finally:
        free(herd.memory)
        free(herd.calls)
        free(described)
        free(work)
        free(done)
