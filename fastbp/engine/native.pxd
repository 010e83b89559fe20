"""What fastbp.h declares."""

cdef extern from "fastbp.h" nogil:
    enum:
        FASTBP_VERSION
        FASTBP_OK
        FASTBP_NOT_FINITE
        FASTBP_NEEDS_PYTHON
        FASTBP_NO_MEMORY
        FASTBP_BAD_LABEL
        FASTBP_WRONG_TYPE
        FASTBP_NO_STATISTICS
        FASTBP_READ_ONLY

    ctypedef struct fastbp_network:
        int version
        int item_size
        Py_ssize_t n_inputs
        Py_ssize_t n_outputs
        int (*predict)(const fastbp_network*, const void*, void*) noexcept nogil
        int (*learn)(fastbp_network*, const void*, const void*, double*) noexcept nogil
        int (*learn_label)(fastbp_network*, const void*, Py_ssize_t, double*) noexcept nogil
        void* internal

    int fastbp_predict_f32(const fastbp_network*, const float*, float*) noexcept
    int fastbp_predict_f64(const fastbp_network*, const double*, double*) noexcept
    int fastbp_learn_f32(fastbp_network*, const float*, const float*, double*) noexcept
    int fastbp_learn_f64(fastbp_network*, const double*, const double*, double*) noexcept
    int fastbp_learn_label_f32(fastbp_network*, const float*, Py_ssize_t, double*) noexcept
    int fastbp_learn_label_f64(fastbp_network*, const double*, Py_ssize_t, double*) noexcept
