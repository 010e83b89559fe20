"""Bound calls, and functions for callers without Python: what was checked once, is not again."""

# --- without Python -------------------------------------------------------------------------


cdef int native_predict(const fastbp_network* network, const void* x, void* out) noexcept nogil:
    """The outputs for one row."""
    cdef const Native* native = <const Native*>network.internal
    cdef const Net* net = native.net
    cdef double[STACK_DOUBLES] stack
    cdef Samples samples
    cdef Workspace work
    cdef Call call
    cdef Py_ssize_t size, done = 0
    cdef void* memory = NULL
    if lacks_statistics(net, native.single):
        return FASTBP_NO_STATISTICS
    one_row(net, x, &samples)
    work.sparse, work.rows = False, 1
    size = prediction_size(net, network.item_size, 1, &work)
    if size > <Py_ssize_t>sizeof(stack):
        memory = malloc(size)
        if memory == NULL:
            return FASTBP_NO_MEMORY
    place_prediction(net, network.item_size, stack if memory == NULL else memory, &work)
    call.task, call.net, call.parameters, call.work = PREDICT, net, native.theta, &work
    call.single, call.samples, call.out, call.done = native.single, &samples, out, &done
    call.members.size = 1
    body(&call, 0)
    free(memory)
    return FASTBP_OK


cdef int native_step(Native* native, Samples* samples, double* loss) noexcept nogil:
    """One step of the optimizer on one row with a target."""
    cdef double rate = native.rate[0]
    cdef Epoch epoch = Epoch(batch_size=1, start=0, done=0, steps=0, first_step=native.steps,
                             batch_loss=0, loss=0, rates=&rate, constant=True, watched=False,
                             norms=0)
    cdef Call call
    if native.rule.kind < 0:
        return FASTBP_READ_ONLY
    if lacks_statistics(native.net, native.single):
        return FASTBP_NO_STATISTICS
    if rate != rate or native.net.users_loss == call_python:
        return FASTBP_NEEDS_PYTHON
    call.task, call.net, call.parameters = TRAIN, native.net, native.theta
    call.work, call.single, call.samples = &native.work, native.single, samples
    call.epoch, call.rule = &epoch, native.rule
    call.members.size = 1
    native.work.rows, native.work.training, native.work.key = 1, True, native.key
    body(&call, 0)
    if call.status == NOT_FINITE:
        loss[0] = epoch.batch_loss
        return FASTBP_NOT_FINITE
    native.steps += 1
    loss[0] = epoch.loss
    return FASTBP_OK


cdef int native_learn(
    fastbp_network* network, const void* x, const void* y, double* loss,
) noexcept nogil:
    cdef Native* native = <Native*>network.internal
    cdef Samples samples
    one_row(native.net, x, &samples)
    samples.targets = y
    return native_step(native, &samples, loss)


cdef int native_learn_label(
    fastbp_network* network, const void* x, Py_ssize_t label, double* loss,
) noexcept nogil:
    cdef Native* native = <Native*>network.internal
    cdef Samples samples
    if native.net.loss != losses.CROSS_ENTROPY or not 0 <= label < network.n_outputs:
        return FASTBP_BAD_LABEL
    one_row(native.net, x, &samples)
    samples.labels = &label
    return native_step(native, &samples, loss)


cdef int predict_doubles(
    const fastbp_network* network, const double* x, double* out,
) noexcept nogil:
    """`native_predict` for a row of doubles, whatever the network's type."""
    cdef Py_ssize_t n_in = network.n_inputs, n_out = network.n_outputs, i
    cdef float* row
    cdef int status
    if network.item_size == sizeof(double):
        return native_predict(network, x, out)
    row = <float*>malloc((n_in + n_out) * sizeof(float))
    if row == NULL:
        return FASTBP_NO_MEMORY
    for i in range(n_in):
        row[i] = <float>x[i]
    status = native_predict(network, row, row + n_in)
    for i in range(n_out if status == FASTBP_OK else 0):
        out[i] = row[n_in + i]
    free(row)
    return status


cdef int as_filter(double* x, Py_ssize_t n, double* out, void* network) noexcept nogil:
    """As scipy.ndimage.generic_filter has it: returns whether it went well."""
    if n != (<fastbp_network*>network).n_inputs:
        return 0
    return predict_doubles(<fastbp_network*>network, x, out) == FASTBP_OK


cdef double as_function(int n, double* x, void* network) noexcept nogil:
    """As scipy.integrate.quad has it: the only output, or NaN."""
    cdef double out
    if n != (<fastbp_network*>network).n_inputs:
        return NAN
    return out if predict_doubles(<fastbp_network*>network, x, &out) == FASTBP_OK else NAN


cdef const char* FILTER = "int (double *, intptr_t, double *, void *)"
cdef const char* FUNCTION = "double (int, double *, void *)"


cdef void forget(object capsule) noexcept:
    Py_DECREF(<object>PyCapsule_GetContext(capsule))


def native_parts(Plan plan not None, bint as_a_function, uint64_t key):
    """Function and user_data of a LowLevelCallable: two capsules, which keep the plan alive."""
    cdef object user_data
    plan.make_native(key)
    user_data = PyCapsule_New(&plan.native.network, NULL, forget)
    PyCapsule_SetContext(user_data, <void*>plan)
    Py_INCREF(plan)
    if as_a_function:
        return PyCapsule_New(<void*>as_function, FUNCTION, NULL), user_data
    return PyCapsule_New(<void*>as_filter, FILTER, NULL), user_data


# --- from Python ----------------------------------------------------------------------------

cdef int refuse_if_retired(Plan plan) except -1:
    if plan.retired:
        raise RuntimeError("the network has become another one since this call was bound to it")
    return 0


cdef int recognise(Plan plan, object X, Samples* samples) except -1:
    """Fill `samples` from one dense row or from several."""
    one_row(&plan.net, pointer(X, plan.type_number, "X"), samples)
    if X.ndim == 2:
        samples.n = len(X)
    assert samples.n > 0 and X.shape[X.ndim - 1] == plan.net.n_in
    return 0


@cython.final
cdef class BoundPrediction:
    """Reads `X`, one row or several, and writes what the network makes of it to `out`.

    Calling it returns `out`. It looks at no argument, allocates nothing and takes no lock; what is
    in X is not looked at either.
    """
    cdef Plan plan
    cdef readonly object X
    cdef readonly object out
    cdef Samples samples
    cdef Workspace work
    cdef Call call
    cdef Py_ssize_t done
    cdef void* memory
    cdef bint small
    cdef bint busy

    def __cinit__(self, Plan plan not None, X, out):
        cdef const Net* net = &plan.net
        load_blas()
        recognise(plan, X, &self.samples)
        self.call.out = pointer(out, plan.type_number, "out")
        assert out.shape == X.shape[:X.ndim - 1] + (net.n_out,)
        self.plan, self.X, self.out = plan, X, out
        self.work.rows = rows_per_pass(
            net, self.samples.n, FORWARD * self.samples.products, plan.item)
        self.memory = zeroed(prediction_size(net, plan.item, 1, &self.work))
        place_prediction(net, plan.item, self.memory, &self.work)
        self.small = self.samples.n * FORWARD * self.samples.products < GIL_FLOPS
        self.call.task, self.call.net, self.call.parameters = PREDICT, net, plan.theta
        self.call.work, self.call.samples, self.call.done = &self.work, &self.samples, &self.done
        self.call.single = plan.type_number == cnp.NPY_FLOAT32

    def __dealloc__(self):
        free(self.memory)

    def __call__(self):
        refuse_if_retired(self.plan)
        if self.plan.lacks_statistics():
            raise RuntimeError("the Normalize layer has no statistics any more")
        if self.busy:
            raise RuntimeError("this bound call is in use by another thread: bind one for each")
        self.done = 0
        self.busy = True
        try:
            run(&self.call, 1, self.small)
        finally:
            self.busy = False
        return self.out


@cython.final
cdef class BoundStep:
    """Makes one step of the optimizer on `X`, one row or several, and `y`; returns the loss.

    `next_step` returns learning rate and key of the next step, where the engine does not know them.
    """
    cdef Plan plan
    cdef readonly object X
    cdef readonly object y
    cdef object next_step
    cdef Samples samples
    cdef const Py_ssize_t* labels   # as they lie in y; or NULL
    cdef Py_ssize_t* checked        # and those of the step under way

    def __cinit__(self, Plan plan not None, X, y, next_step):
        recognise(plan, X, &self.samples)
        if cnp.PyArray_TYPE(y) == cnp.NPY_INTP:
            self.labels = <Py_ssize_t*>pointer(y, cnp.NPY_INTP, "y")
            self.checked = <Py_ssize_t*>zeroed(self.samples.n * sizeof(Py_ssize_t))
            self.samples.labels = self.checked
            assert y.size == self.samples.n
        else:
            self.samples.targets = pointer(y, plan.type_number, "y")
            assert y.size == self.samples.n * plan.net.n_out
        self.plan, self.X, self.y, self.next_step = plan, X, y, next_step

    def __dealloc__(self):
        free(self.checked)

    cdef int take_labels(self) except -1:
        """Copy the labels as they are checked: the engine takes them as indices, and without the
        GIL anybody may change those in y."""
        cdef Py_ssize_t n_out = self.plan.net.n_out, label, i
        for i in range(self.samples.n if self.labels != NULL else 0):
            label = self.labels[i]
            if not 0 <= label < n_out:
                raise ValueError(f"y must hold whole labels from 0 to {n_out - 1}, got {label}")
            self.checked[i] = label
        return 0

    def __call__(self):
        cdef Plan plan = self.plan
        cdef double rate = plan.rate, loss
        cdef uint64_t key = 0
        refuse_if_retired(plan)
        plan.refuse_while_training()
        self.take_labels()
        if rate != rate or plan.net.drops or plan.rule.noise != 0:
            rate, key = self.next_step()
        loss = plan.make_step(&self.samples, rate, key)
        if not isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}, and the step was not made")
        return loss
