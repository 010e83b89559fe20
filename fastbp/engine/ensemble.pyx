"""Many networks in one call: each is one thread's work, from its first row to its last."""


cdef struct Herd:
    Call* calls
    Py_ssize_t n
    double flops                # of all calls together
    team members
    bint tired[MOST_THREADS]    # whether a member has stopped to look for Ctrl-C


cdef void herd_body(void* argument, int part) noexcept nogil:
    """Take every so manieth call on until it ends, or it is time to look for Ctrl-C."""
    cdef Herd* herd = <Herd*>argument
    cdef double since = milliseconds()
    cdef Py_ssize_t at = part
    herd.tired[part] = False
    while at < herd.n:
        if herd.calls[at].status == PAUSED:
            if herd.tired[part]:
                return
            body(&herd.calls[at], 0)
            herd.tired[part] = herd.calls[at].status == PAUSED or out_of_patience(since)
            if herd.calls[at].status == PAUSED:
                return
        at += herd.members.size


cdef int run_all(Herd* herd, Py_ssize_t n_threads, list plans) except -1:
    """Run all calls to their ends; between pauses what a user's loss has raised is raised, and a
    pending Ctrl-C."""
    cdef Py_ssize_t at
    cdef int threads = 1
    cdef bint done = False
    cdef Plan plan
    # BLAS does not stand being called side by side
    if n_threads > 1 and HAS_TILES and herd.flops >= TEAM_CALL_FLOPS:
        threads = min(n_threads, herd.n, usable_cores(), MOST_THREADS)
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
        run_all(&herd, n_threads, plans)
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
    cdef Herd herd
    cdef Samples* described = <Samples*>calloc(n, sizeof(Samples))
    cdef Workspace* work = <Workspace*>calloc(n, sizeof(Workspace))
    cdef Py_ssize_t* done = <Py_ssize_t*>calloc(n, sizeof(Py_ssize_t))
    cdef void** memory = <void**>calloc(n, sizeof(void*))
    cdef cnp.npy_intp[3] shape
    cdef Samples* samples
    cdef Call* call
    cdef Plan plan = plans[0]
    load_blas()
    n_out = plan.net.n_out
    shape[0], shape[1], shape[2] = n, len(X), n_out
    herd.calls, herd.n, herd.flops = <Call*>calloc(n, sizeof(Call)), n, 0
    try:
        if (herd.calls == NULL or described == NULL or work == NULL or done == NULL
                or memory == NULL):
            raise MemoryError
        out = cnp.PyArray_EMPTY(3, shape, plan.type_number, 0)
        for at in range(n):
            plan, samples, call = plans[at], &described[at], &herd.calls[at]
            assert plan.net.n_out == n_out and plan.type_number == cnp.PyArray_TYPE(out)
            plan.describe_inputs(X, samples)
            herd.flops += samples.n * FORWARD * samples.products
            work[at].sparse = samples.X == NULL
            work[at].rows = rows_per_pass(
                &plan.net, samples.n, FORWARD * samples.products, plan.item)
            memory[at] = malloc(prediction_size(&plan.net, plan.item, 1, &work[at]))
            if memory[at] == NULL:
                raise MemoryError
            place_prediction(&plan.net, plan.item, memory[at], &work[at])
            call.task, call.net, call.parameters = PREDICT, &plan.net, plan.theta
            call.work, call.samples, call.done = &work[at], samples, &done[at]
            call.single = plan.type_number == cnp.NPY_FLOAT32
            call.out = <char*>cnp.PyArray_DATA(out) + at * samples.n * n_out * plan.item
        run_all(&herd, n_threads, [])
        return out
    finally:
        for at in range(n if memory != NULL else 0):
            free(memory[at])
        free(herd.calls)
        free(described)
        free(work)
        free(done)
        free(memory)
