"""A network inside functions that Numba compiles: no Python between the calls."""

import numpy as np
from numba import carray, cfunc, njit, types
from scipy import LowLevelCallable, integrate

from fastbp import SGD, Dense, Network

net = Network(8, [Dense(16, "tanh"), Dense(1)], optimizer=SGD(0.05), seed=0)
# Numba takes the functions as they are, and the address as a constant.
address, predict, learn, _ = net.ctypes


@njit(nogil=True)
def follow(signal):
    """Predict each value from the eight before, then learn from it."""
    guesses = np.zeros_like(signal)
    loss = np.empty(1)
    for i in range(8, len(signal)):
        window = signal[i - 8 : i]
        predict(address, window.ctypes, guesses[i:].ctypes)
        if learn(address, window.ctypes, signal[i:].ctypes, loss.ctypes) != 0:
            break
    return guesses


surface = Network(2, [Dense(16, "tanh"), Dense(1)], dtype="float64", seed=1)
surface_address, surface_predict, _, _ = surface.ctypes


@cfunc(types.float64(types.intc, types.CPointer(types.float64)))
def weighted_square(n, x):
    """The square of what the network makes of a point, times a weight: for SciPy's integrators."""
    out = np.empty(1)
    surface_predict(surface_address, carray(x, n).ctypes, out.ctypes)
    return out[0] ** 2 * np.exp(-x[0])


signal = np.sin(np.arange(2000) * 0.1).astype(np.float32)
guesses = follow(signal)
integral, _ = integrate.nquad(LowLevelCallable(weighted_square.ctypes), [[0, 1], [0, 1]])

if __name__ == "__main__":
    print(f"error at first {abs(signal - guesses)[8:108].mean():.3f}, "
          f"in the end {abs(signal - guesses)[-100:].mean():.3f}; integral {integral:.6f}")
