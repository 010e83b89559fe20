"""Hands SciPy's BLAS to the engine; imported when the first product needs it."""
from scipy.linalg.cython_blas cimport dgemm, sgemm


def addresses():
    """The addresses of SciPy's (sgemm, dgemm), whose integers are C ints."""
    return <size_t><void*>sgemm, <size_t><void*>dgemm
