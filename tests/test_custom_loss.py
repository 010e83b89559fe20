"""A user's own loss, in Python and compiled, beside the built-in loss of the same formula."""

import copy
import ctypes

import numpy as np
import pytest
from scipy import LowLevelCallable

from fastbp import SGD, Adam, Dense, Dropout, Network
from fastbp.losses import Custom

POINTER = ctypes.POINTER(ctypes.c_double)
ROW_LOSS = ctypes.CFUNCTYPE(
    ctypes.c_double, ctypes.c_int, POINTER, POINTER, POINTER, ctypes.c_void_p
)


def half_square(outputs, targets):
    gap = outputs - targets
    return (gap**2).sum(axis=1) / 2, gap


def cross_entropy(outputs, targets):
    """Of raw outputs, for probabilities."""
    z = outputs - outputs.max(axis=1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(axis=1, keepdims=True))
    return -(targets * log_p).sum(axis=1), np.exp(log_p) - targets


@ROW_LOSS
def compiled_half_square(n, output, target, gradient, user_data):
    factor = ctypes.cast(user_data, POINTER)[0] if user_data else 1.0
    total = 0.0
    for j in range(n):
        gap = output[j] - target[j]
        gradient[j] = factor * gap
        total += factor * gap * gap / 2
    return total


def network(loss, activation="identity", dtype="float64", **changes):
    return Network(4, [Dense(8, "tanh"), Dense(3, activation)], loss=loss, dtype=dtype,
                   **{"seed": 0, **changes})


def data(n=50):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, 4)), rng.dirichlet(np.ones(3), size=n)


COMPILED = LowLevelCallable(compiled_half_square)
PAIRS = {
    "squared error": ("squared_error", half_square, "identity"),
    "squared error, compiled": ("squared_error", COMPILED, "identity"),
    "cross entropy": ("cross_entropy", cross_entropy, "softmax"),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(0.01), SGD(0.1, clip_norm=0.1)], ids=repr)
@pytest.mark.parametrize("pair", PAIRS)
def test_it_trains_as_the_built_in_loss(pair, optimizer, dtype):
    built_in, own, activation = PAIRS[pair]
    X, y = data()
    weight = np.random.default_rng(2).uniform(0.5, 2, size=50)
    nets = [network(loss, activation, dtype, optimizer=optimizer) for loss in (built_in, own)]
    for batch_size, n_threads in ((7, 1), (1, 1), (None, 2)):
        losses = [net.fit(X, y, epochs=2, batch_size=batch_size, sample_weight=weight,
                          n_threads=n_threads).loss for net in nets]
        tolerance = 2e-5 if dtype == "float32" else 1e-13
        np.testing.assert_allclose(losses[1], losses[0], rtol=tolerance)
        np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(nets[1].predict(X).shape, (50, 3))


@pytest.mark.parametrize("pair", PAIRS)
def test_its_gradient(pair, record_error):
    _, own, activation = PAIRS[pair]
    X, y = data()
    weight = np.random.default_rng(2).uniform(0.5, 2, size=50)
    error = network(own, activation).check_gradient(X, y, sample_weight=weight)
    assert record_error("a user's loss", error) < 1e-8


def test_batches_of_several_passes_and_teams():
    """3000 rows are three passes; the function sees each of them once, whatever the threads."""
    X, y = data(3000)
    seen = []

    def watched(outputs, targets):
        seen.append(len(outputs))
        np.testing.assert_array_equal(targets, y[sum(seen[:-1]):sum(seen)])
        return half_square(outputs, targets)

    nets = [Network(4, [Dense(256, "tanh"), Dense(3)], loss=loss, dtype="float64", seed=0)
            for loss in ("squared_error", watched, watched)]
    for net, n_threads in zip(nets, (1, 1, 2), strict=True):
        seen.clear()
        net.fit(X, y, batch_size=None, shuffle=False, n_threads=n_threads)
    assert sum(seen) == 3000
    assert len(seen) > 1
    np.testing.assert_array_equal(nets[1].parameters, nets[2].parameters)
    np.testing.assert_allclose(nets[1].parameters, nets[0].parameters, rtol=0, atol=1e-14)


def test_it_sees_raw_outputs_in_the_networks_dtype_and_may_keep_them():
    X, y = data(5)
    kept = []

    def greedy(outputs, targets):
        kept.append((outputs, targets))
        targets += 1  # copies: nothing of the user's changes
        return half_square(outputs, targets - 1)

    net = network(greedy, "sigmoid", "float32")
    before = y.copy()
    hidden = np.tanh(X @ net.weights[0] + net.biases[0])
    raw = hidden @ net.weights[1] + net.biases[1]
    net.evaluate(X, y)
    net.fit(X, y, epochs=3)
    np.testing.assert_array_equal(y, before)
    assert kept[0][0].dtype == kept[0][1].dtype == np.float32
    np.testing.assert_allclose(kept[0][0], raw, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(net.predict(X[0]).shape, (3,))


def test_user_data_reaches_the_compiled_function():
    X, y = data()
    factor = ctypes.pointer(ctypes.c_double(3.0))
    loss = LowLevelCallable(compiled_half_square, ctypes.cast(factor, ctypes.c_void_p))
    expected = 3 * network("squared_error").evaluate(X, y)
    assert network(loss).evaluate(X, y) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("calls", [0, 3])
def test_what_it_raises_is_raised_after_the_last_whole_step(calls, error):
    """Three batches of 10 rows, and then one that fails."""
    X, y = data()
    counted = []

    def failing(outputs, targets):
        if len(counted) == calls:
            raise error("from the loss")
        counted.append(len(outputs))
        return half_square(outputs, targets)

    net, other = network(failing), network("squared_error")
    with pytest.raises(error, match="from the loss"):
        net.fit(X, y, epochs=2, batch_size=10, shuffle=False)
    for start in range(0, 10 * calls, 10):
        other.train_step(X[start:start + 10], y[start:start + 10])
    np.testing.assert_array_equal(net.parameters, other.parameters)
    assert net.n_steps == calls
    calls = -1  # and the network goes on
    counted.clear()
    net.fit(X, y)
    before = net.parameters.copy()
    calls = len(counted)
    for call in (net.train_step, net.evaluate, net.loss_and_gradient):
        with pytest.raises(error, match="from the loss"):
            call(X, y)
    np.testing.assert_array_equal(net.parameters, before)


def test_it_runs_with_denormal_numbers():
    """The engine counts them as zero; a function of the user's computes as Python does."""
    X, y = data(3)
    seen = []

    def halves(outputs, targets):
        seen.append(np.float64(2.0**-1040) / 4 * 4)
        return half_square(outputs, targets)

    network(halves).train_step(X, y)
    assert seen == [2.0**-1040]


def test_a_call_from_within_it_is_refused():
    X, y = data()

    def recursive(outputs, targets):
        net.fit(X, y)

    net = network(recursive)
    with pytest.raises(RuntimeError, match="in use"):
        net.fit(X, y)
    with pytest.raises(RuntimeError, match="in use"):
        net.evaluate(X, y)


@pytest.mark.parametrize(("result", "error", "message"), [
    (None, TypeError, r"must return \(losses, gradients\), got None"),
    (3.0, TypeError, "must return"),
    ((np.ones(50),), TypeError, "must return"),
    ((1.0, np.ones((50, 3))), ValueError, r"shapes \(50,\) and \(50, 3\), got \(\) and"),
    ((np.ones(50), np.ones(50)), ValueError, r"got \(50,\) and \(50,\)"),
    ((np.ones((50, 1)), np.ones((50, 3))), ValueError, r"got \(50, 1\)"),
    ((np.ones(50), np.ones((3, 50))), ValueError, r"and \(3, 50\)"),
    ((np.ones(50), np.full((50, 3), np.nan)), ValueError, "finite gradient"),
    ((np.ones(50), np.full((50, 3), 1e300)), ValueError, "finite gradient"),
    ((["a"] * 50, np.ones((50, 3))), TypeError, "real numbers"),
    ((np.ones(50), np.full((50, 3), 1j)), TypeError, "real numbers"),
])
def test_what_it_may_not_return(result, error, message):
    X, y = data()
    net = network(lambda outputs, targets: result, dtype="float32")
    before = net.parameters.copy()
    with pytest.raises(error, match=message):
        net.train_step(X, y)
    np.testing.assert_array_equal(net.parameters, before)


def test_a_loss_that_is_not_finite():
    X, y = data()

    def diverged(outputs, targets):
        return np.full(len(outputs), np.inf), np.full_like(outputs, np.nan)

    net = network(diverged)
    with pytest.raises(FloatingPointError, match="epoch 1, step 1"):
        net.fit(X, y)


@pytest.mark.parametrize(("given", "error", "message"), [
    (3, TypeError, "one of 'squared_error'"),
    ("custom", ValueError, "unknown loss 'custom'"),
    (LowLevelCallable(ctypes.CFUNCTYPE(ctypes.c_double)(float)), ValueError, "signature"),
])
def test_what_is_no_loss(given, error, message):
    with pytest.raises(error, match=message):
        network(given)


def test_a_custom_loss_of_something_else():
    with pytest.raises(TypeError, match="callable"):
        Custom((1, 2))


def test_it_can_be_called_by_name_copied_and_restored():
    X, y = data()
    net = Network(4, [Dense(8), Dropout(0.5), Dense(3)], loss=half_square, optimizer="adam", seed=0)
    assert repr(net.loss) == "Custom(half_square)"
    assert "LowLevelCallable" in repr(network(COMPILED).loss)
    net.fit(X, y)
    twin = net.copy()
    for each in (net, twin):
        each.fit(X, y)
    np.testing.assert_array_equal(net.parameters, twin.parameters)
    state = copy.deepcopy(net.state())
    with pytest.raises(ValueError, match="loss"):
        Network(4, [Dense(8), Dropout(0.5), Dense(3)], loss=cross_entropy,
                optimizer="adam").restore(state)
