"""Snapshots: what a network was, for readers, while it learns on."""

import ctypes
import threading

import numpy as np
import pytest

from fastbp import Adam, BatchNorm, Dense, Dropout, LayerNorm, Network, Normalize, Residual

STACKS = {
    "dense": [Dense(9, "relu"), Dropout(0.3), Dense(3, "softmax")],
    "normalised": [Normalize(), Dense(9), BatchNorm("tanh"), Dense(3, "softmax")],
    "residual": [Residual([LayerNorm(), Dense(5, "gelu")]), Dense(3, "softmax")],
}


def trained(layers, dtype="float32"):
    net = Network(5, layers, loss="cross_entropy", optimizer=Adam(0.01), dtype=dtype, seed=0)
    net.fit(*data(), epochs=2)
    return net


def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 5)), rng.integers(3, size=40)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", STACKS)
def test_it_stays_what_the_network_was(name, dtype):
    X, y = data()
    net = trained(STACKS[name], dtype)
    before, twin, snapshot = net.predict(X), net.copy(), net.snapshot()
    net.fit(X, y, epochs=2)
    assert not np.array_equal(net.predict(X), before)
    np.testing.assert_array_equal(snapshot.predict(X), before)
    np.testing.assert_array_equal(snapshot.hidden(X, 0), twin.hidden(X, 0))
    np.testing.assert_array_equal(snapshot.jacobian(X[0]), twin.jacobian(X[0]))
    row, out = np.ascontiguousarray(X[0], dtype), np.empty(3, dtype)
    np.testing.assert_array_equal(snapshot.bind(row, out)(), twin.predict(X[0]))
    assert (snapshot.n_inputs, snapshot.n_outputs, snapshot.dtype) == (5, 3, np.dtype(dtype))
    assert snapshot.layers == net.layers


def test_nothing_writes_to_it():
    net = trained(STACKS["normalised"])
    snapshot = net.snapshot()
    vectors = [snapshot.parameters, *snapshot.weights, *snapshot.biases, *snapshot.statistics[0]]
    for vector in vectors:
        with pytest.raises(ValueError, match="read-only"):
            vector[...] = 1
    assert not any(np.may_share_memory(net.parameters, vector) for vector in vectors)
    for method in ("fit", "train_step", "bind_step", "restore", "adapt", "freeze", "reinitialize"):
        assert not hasattr(snapshot, method)


def test_native_callers_get_predictions_and_no_steps():
    X, _ = data()
    snapshot = trained(STACKS["dense"]).snapshot()
    expected = snapshot.predict(X[0])
    numbers = ctypes.POINTER(ctypes.c_float)
    row, out, loss = X[0].astype(np.float32), np.empty(3, np.float32), ctypes.c_double()
    native = snapshot.ctypes
    pointers = [array.ctypes.data_as(numbers) for array in (row, out)]
    assert native.predict(native.address, *pointers) == 0
    np.testing.assert_array_equal(out, expected)
    read_only = 7
    assert native.learn(native.address, *pointers, ctypes.byref(loss)) == read_only
    assert native.learn_label(native.address, pointers[0], 1, ctypes.byref(loss)) == read_only
    np.testing.assert_array_equal(snapshot.predict(X[0]), expected)


def test_a_network_without_statistics_has_snapshots_without_them():
    snapshot = Network(5, STACKS["normalised"], loss="cross_entropy").snapshot()
    with pytest.raises(RuntimeError, match="has no statistics yet"):
        snapshot.predict(np.zeros(5))


def test_readers_while_it_learns():
    """Each reader sees one of the networks that were, never a mixture of two."""
    X, y = data()
    net = trained(STACKS["dense"])
    current = {"snapshot": net.snapshot()}
    known = {current["snapshot"].predict(X).tobytes()}
    seen, done = [], threading.Event()

    def read():
        while not done.is_set():
            seen.append(current["snapshot"].predict(X).tobytes())

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(50):
        net.fit(X, y)
        snapshot = net.snapshot()
        known.add(snapshot.predict(X).tobytes())
        current["snapshot"] = snapshot
    done.set()
    for reader in readers:
        reader.join()
    assert seen and set(seen) <= known
