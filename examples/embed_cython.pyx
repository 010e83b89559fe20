"""A network in the loop of a Cython module: as embed.c, and several signals at once.

Build it with setup.py beside it:

    python setup.py build_ext --inplace
"""
# cython: language_level=3
from cython.parallel import prange

from fastbp cimport FASTBP_OK, fastbp_learn_f32, fastbp_network, fastbp_predict_f32


def follow(size_t address, const float[::1] signal, float[::1] guesses):
    """Predict each value from those before, then learn from it; returns the status."""
    cdef fastbp_network* network = <fastbp_network*>address
    cdef Py_ssize_t n_inputs = network.n_inputs, i
    cdef double loss
    cdef int status = FASTBP_OK
    with nogil:
        for i in range(n_inputs, signal.shape[0]):
            status = fastbp_predict_f32(network, &signal[i - n_inputs], &guesses[i])
            if status == FASTBP_OK:
                status = fastbp_learn_f32(network, &signal[i - n_inputs], &signal[i], &loss)
            if status != FASTBP_OK:
                break
    return status


def predict_each(size_t address, const float[:, ::1] X, float[:, ::1] out, int n_threads=1):
    """Predict rows, by several threads: predictions may run at once while nobody learns."""
    cdef const fastbp_network* network = <const fastbp_network*>address
    cdef Py_ssize_t i
    cdef int status = FASTBP_OK
    for i in prange(X.shape[0], nogil=True, num_threads=n_threads):
        status |= fastbp_predict_f32(network, &X[i, 0], &out[i, 0])
    return status
