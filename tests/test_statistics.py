"""What Normalize and BatchNorm gather: what it is, what it does, and that nothing loses it."""

import dataclasses
import math
import signal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from reference import layered_reference_of

from fastbp import LBFGS, SGD, Adam, BatchNorm, Dense, LayerNorm, Network, Normalize, Residual
from fastbp.callbacks import Callback, EarlyStopping

STACK = [Normalize(), Dense(9), BatchNorm("gelu"), Residual([BatchNorm(), Dense(9)]), Dense(1)]


def network(layers=STACK, dtype="float64", **arguments):
    return Network(4, layers, dtype=dtype, seed=0, **arguments)


def data(rows=60, dtype="float64"):
    rng = np.random.default_rng(rows)
    X = rng.normal(size=(rows, 4)) * [1, 20, 0.01, 3] + [0, 300, -7, 1]
    return X.astype(dtype), rng.normal(size=rows).astype(dtype)


def everything(net):
    """Copies of what a prediction depends on."""
    return [net.parameters.copy(), *(vector.copy() for pair in net.statistics for vector in pair)]


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


# --- Normalize


@pytest.mark.parametrize("loss", ["squared_error", "log_cosh"])
def test_normalize_is_a_standard_scaler(loss):
    """The same network, trained the same, but that it takes the inputs as they are."""
    preprocessing = pytest.importorskip("sklearn.preprocessing", reason="the oracle's scaler")
    X, y = data()
    scaler = preprocessing.StandardScaler().fit(X)
    layers = [Dense(9, "tanh"), Dense(1)]
    raw, scaled = network([Normalize(), *layers], loss=loss), network(layers, loss=loss)
    validation = X[::2] * 2, y[::2]
    history = raw.fit(X, y, epochs=5, validation_data=validation)
    expected = scaled.fit(scaler.transform(X), y, epochs=5,
                          validation_data=(scaler.transform(validation[0]), y[::2]))
    mean, deviation = raw.statistics[0]
    np.testing.assert_allclose(mean, scaler.mean_, rtol=1e-14)
    np.testing.assert_allclose(deviation, scaler.scale_, rtol=1e-14)
    # the mean of 300 is off by some 1e-14, the inputs by 1e-15 of their deviation of 20
    close = {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(raw.parameters, scaled.parameters, **close)
    np.testing.assert_allclose(history.validation_loss, expected.validation_loss, **close)
    new = X * 3 - 1
    np.testing.assert_allclose(raw.predict(new), scaled.predict(scaler.transform(new)), **close)


@pytest.mark.parametrize("rows", [1, 5, 3000])
def test_standardised_rows(rows):
    """By the statistics alone, whatever the batch."""
    X, _ = data(rows)
    net = network([Normalize(), Dense(4, init=lambda rng, n_in, n_out: np.eye(n_in))])
    net.adapt(X if rows > 1 else np.vstack([X, X + 1]))
    mean, deviation = net.statistics[0]
    np.testing.assert_allclose(net.predict(X), (X - mean) / deviation, rtol=1e-15, atol=1e-14)


def test_the_first_fit_has_the_statistics_and_no_later_one():
    X, y = data()
    net = network()
    net.fit(X, y)
    mean, deviation = (vector.copy() for vector in net.statistics[0])
    np.testing.assert_allclose(mean, X.mean(axis=0), rtol=1e-13)
    np.testing.assert_allclose(deviation, X.std(axis=0), rtol=1e-13)
    net.fit(10 * X, y)
    net.train_step(10 * X, y)
    assert_same(net.statistics[0], (mean, deviation))
    net.adapt(10 * X)
    np.testing.assert_allclose(net.statistics[0], (10 * mean, 10 * deviation), rtol=1e-13)


def test_what_is_held_out_has_no_part_in_the_statistics():
    X, y = data()
    net = network()
    net.fit(X, y, validation_split=0.25, validation_kind="last")
    np.testing.assert_allclose(net.statistics[0][0], X[:45].mean(axis=0), rtol=1e-13)


def test_a_minimiser_has_them_too():
    X, y = data()
    net = network([Normalize(), Dense(1, l2=1.0)], optimizer=LBFGS())
    net.fit(X, y, epochs=100, tol=1e-14)
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    ridge = np.linalg.solve(Z.T @ Z / 60 + np.eye(4), Z.T @ (y - y.mean()) / 60)
    np.testing.assert_allclose(net.weights[0][:, 0], ridge, rtol=0, atol=1e-6)


def test_nothing_goes_without_statistics():
    net, (X, y) = network(), data()
    before = net.state()
    for call in (
        lambda: net.predict(X), lambda: net.predict(X[0]), lambda: net.predict(X.tolist()),
        lambda: net.predict(X, n_threads=2), lambda: net.evaluate(X, y),
        lambda: net.loss_and_gradient(X, y), lambda: net.check_gradient(X, y),
        lambda: net.train_step(X, y), lambda: net.copy().predict(X),
    ):
        with pytest.raises(RuntimeError, match="Normalize layer has no statistics yet: call fit"):
            call()
    assert_same(everything(net), everything(network()))
    assert net.state()["json"] == before["json"]
    net.adapt(X)
    assert np.isfinite(net.predict(X)).all()


def test_range_test_before_the_first_fit():
    """It standardises, on its copy: the same curve as after adapt; the network still waits."""
    X, y = data()
    net, adapted = network(), network()
    adapted.adapt(X)
    curve = net.find_learning_rate(X, y, steps=20)
    np.testing.assert_array_equal(curve.losses, adapted.find_learning_rate(X, y, steps=20).losses)
    with pytest.raises(RuntimeError, match="no statistics yet"):
        net.predict(X)


def test_large_offsets_in_float32():
    """Of features with mean 1e6 and deviation 1, float32 has 1/16, and loses nothing more.

    The mean is rounded to a multiple of 1/16 itself, the same for all samples, and their
    differences from it are exact.
    """
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(500, 3)) + 1e6).astype(np.float32)
    net = Network(3, [Normalize(), Dense(3, init=lambda rng, n_in, n_out: np.eye(3))], seed=0)
    net.adapt(X)
    exact = X.astype(float)
    expected = (exact - exact.mean(axis=0)) / exact.std(axis=0)
    off = net.predict(X) - expected
    assert np.abs(off).max() < 1 / 32 / exact.std(axis=0).min() + 1e-6
    # two roundings of numbers up to 4 once the common offset is out
    np.testing.assert_allclose(off - off.mean(axis=0), 0, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constant_features(dtype):
    """Are divided by 1: whatever comes in is off by what it is off."""
    X, _ = data(dtype=dtype)
    X[:, 1], X[:, 2] = 0.1, 0
    tiny = np.finfo(dtype).tiny
    X[:, 3] = np.where(np.arange(60) % 2, tiny / 8, 0)  # varies, but by no normal number
    net = network([Normalize(), Dense(1)], dtype)
    net.adapt(X)
    mean, deviation = net.statistics[0]
    assert deviation[1:].tolist() == [1, 1, 1]
    assert mean[1:3].tolist() == [np.array(0.1, dtype), 0]
    net.weights[0][:, 0] = [0, 1, 1, 0]
    assert not net.predict(X).any()


def exact_moments(column):
    """Mean and standard deviation by fractions, rounded at the end."""
    values = [Fraction(float(x)) for x in column]
    mean = sum(values) / len(values)
    largest = max(abs(x - mean) for x in values)
    if not largest:
        return float(mean), 0.0
    square = sum(((x - mean) / largest) ** 2 for x in values) / len(values)
    return float(mean), float(largest * Fraction(math.sqrt(square)))


@settings(deadline=None)
@given(st.data(), st.sampled_from(["float32", "float64"]))
def test_statistics_of_any_features(data, dtype):
    """Either refused, as their deviation overflows, or right to rounding."""
    numbers = st.floats(
        allow_nan=False, allow_infinity=False, width=np.dtype(dtype).itemsize * 8)
    shapes = array_shapes(min_dims=2, max_dims=2, max_side=6)
    X = data.draw(arrays(dtype, shapes, elements=numbers))
    net = Network(X.shape[1], [Normalize(), Dense(1)], dtype=dtype, seed=0)
    means, expected = np.transpose([exact_moments(column) for column in X.T])
    try:
        net.adapt(X)
    except ValueError as error:
        assert "X must have a standard deviation that float64 can hold, got column" in str(error)
        assert np.abs(X).max() > 1e150  # whose square is beyond 1e300
        assert not any(vector.any() for vector in net.statistics[0])
        return
    mean, deviation = net.statistics[0]
    eps, tiny = np.finfo(dtype).eps, np.finfo(dtype).tiny
    largest = np.abs(X).max(axis=0).astype(float)
    assert (np.abs(mean - means) <= 8 * eps * largest + tiny).all()
    # the mean of float64 is rounded, and a square below 1e-308 has no digits
    rounding = 8 * eps * expected + 8 * np.finfo(float).eps * largest + 1e-153
    varies = deviation != 1
    assert (np.abs(deviation - expected)[varies] <= rounding[varies]).all()
    constant = X.min(axis=0) == X.max(axis=0)
    assert (deviation[constant] == 1).all()
    assert (deviation > 0).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda net, X: net.adapt(X[:, :3]), ValueError, r"X must have shape \(n, 4\)"),
        (lambda net, X: net.adapt(X[0]), ValueError, r"X must have shape \(n, 4\)"),
        (lambda net, X: net.adapt(X[:0]), ValueError, "X must hold at least one sample"),
        (lambda net, X: net.adapt(X * np.nan), ValueError, "X must be finite"),
        (lambda net, X: net.adapt("X"), TypeError, "X must hold real numbers"),
        (lambda net, X: net.adapt(np.where(X > 0, 1e300, -1e300)), ValueError,
         r"deviation that float64 can hold, got column 0 from -1e\+300 to 1e\+300"),
        (lambda net, X: network([LayerNorm(), Dense(1)]).adapt(X), ValueError,
         r"the first layer must be Normalize\(\) to adapt, got LayerNorm"),
    ],
)
def test_bad_features(call, error, message):
    net, (X, _) = network(), data()
    net.adapt(X)
    before = everything(net)
    with pytest.raises(error, match=message):
        call(net, X)
    assert_same(everything(net), before)


def test_a_fit_on_features_that_overflow_does_nothing():
    net, (X, y) = network(), data()
    with pytest.raises(ValueError, match="X must have a standard deviation that float64 can hold"):
        net.fit(np.where(X > 0, 1e300, -1e300), y)
    assert_same(everything(net), everything(network()))


# --- BatchNorm: the way there is PyTorch's, in test_layers.py


def test_one_row_goes_by_running_statistics_and_leaves_them():
    net, (X, y) = network([BatchNorm(), Dense(1)], optimizer=SGD(0.1)), data(33)
    net.statistics[0][0][:], net.statistics[0][1][:] = X.mean(axis=0), X.var(axis=0)
    before = everything(net)
    losses = [net.evaluate(x, t) for x, t in zip(X[:3], y[:3], strict=True)]
    assert net.copy().train_step(X[0], y[0]) == losses[0]
    assert net.copy().train_step(X[1:2], y[1:2]) == losses[1]
    net.fit(X[:3], y[:3], batch_size=1, shuffle=False)
    assert_same(everything(net)[1:], before[1:])
    assert not np.array_equal(net.parameters, before[0])
    # so does the last of 33 samples in batches of 32
    twin = net.copy()
    net.fit(X, y, batch_size=32, shuffle=False)
    twin.train_step(X[:32], y[:32])
    assert_same(everything(net)[1:], everything(twin)[1:])


def test_large_offsets_of_a_batch():
    """Deviation 1 around 1e4, where float32 has 1/1024: to its last digits all the same."""
    rng = np.random.default_rng(0)
    X = (rng.normal(size=(1000, 3)) + 1e4).astype(np.float32)
    net = Network(3, [BatchNorm(momentum=1.0), Dense(1)], optimizer=SGD(1e-9), seed=0)
    net.train_step(X, np.zeros(1000))
    mean, variance = net.statistics[0]
    exact = X.astype(float)
    np.testing.assert_allclose(mean, exact.mean(axis=0), rtol=1e-7)
    # a sum of 1000 squares, whose roundings are like a walk of so many steps
    np.testing.assert_allclose(variance, exact.var(axis=0, ddof=1), rtol=32 * 6e-8)


def test_frozen_it_stays_and_goes_by_what_it_has():
    X, y = data()
    net = network([Dense(5, trainable=False), BatchNorm(), Dense(1)], optimizer=Adam(0.01))
    net.fit(X / 100, y)
    net.freeze(1)
    before = everything(net)
    assert net.copy().train_step(X, y) == net.evaluate(X, y)
    net.fit(X, y, epochs=3)
    assert_same(everything(net)[1:], before[1:])
    np.testing.assert_array_equal(net.parameters[:-6], before[0][:-6])
    assert not np.array_equal(net.parameters[-6:], before[0][-6:])
    net.unfreeze(1)
    net.fit(X, y)
    assert not np.array_equal(net.statistics[0][0], before[1])


def test_a_minimiser_goes_by_running_statistics():
    net, (X, y) = network([BatchNorm(), Dense(1)], optimizer=LBFGS()), data()
    before = everything(net)
    net.fit(X, y, epochs=20)
    assert_same(everything(net)[1:], before[1:])


def test_a_long_batch_is_gathered_in_parts():
    """Each of two equal parts moves the running statistics by its own."""
    X, y = data(1100)
    net = network([BatchNorm(), Dense(1)], optimizer=SGD(1e-3))
    running = [np.zeros(4), np.ones(4)]
    for part in (X[:550], X[550:]):
        running[0] = 0.9 * running[0] + 0.1 * part.mean(axis=0)
        running[1] = 0.9 * running[1] + 0.1 * part.var(axis=0, ddof=1)
    net.train_step(X, y)
    np.testing.assert_allclose(net.statistics[0], running, rtol=1e-13)


def test_parts_do_not_depend_on_the_size_of_the_network():
    """Elsewhere a batch of 15 GFLOP is cut for Ctrl-C; what is normalised together is not."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(600, 2000)).astype(np.float32)
    net = Network(2000, [BatchNorm(), Dense(2500), Dense(1)], seed=0)
    assert len(X) * 6 * net.n_parameters > 15e9
    net.train_step(X, X[:, 0])
    np.testing.assert_allclose(net.statistics[0][0], 0.1 * X.mean(axis=0, dtype=float), atol=1e-7)


# --- what keeps them


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", [SGD(0.01), Adam(0.01)], ids=str)
def test_states_and_copies_go_on_alike(optimizer, dtype):
    X, y = data(dtype=dtype)
    through, stopped = (network(dtype=dtype, optimizer=optimizer) for _ in range(2))
    through.fit(X, y, epochs=5, batch_size=16)
    stopped.fit(X, y, epochs=2, batch_size=16)
    resumed = network(dtype=dtype, optimizer=optimizer)
    resumed.restore(stopped.state())
    for net in (resumed, stopped.copy()):
        assert_same(everything(net), everything(stopped))
        np.testing.assert_array_equal(net.predict(X), stopped.predict(X))
        net.fit(X, y, epochs=3, batch_size=16)
        assert_same(everything(net), everything(through))


def test_a_state_has_copies():
    X, y = data()
    net = network()
    net.fit(X, y)
    state, before = net.state(), everything(net)
    np.testing.assert_array_equal(state["statistics"], np.concatenate(before[1:]))
    net.fit(X, y)
    assert not np.array_equal(net.state()["statistics"], state["statistics"])
    net.restore(state)
    assert_same(everything(net), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("statistics"), "not a state of a network: KeyError"),
        (lambda state: state.update(statistics=state["statistics"][:-1]),
         r"the state's statistics must be float64 of shape \(44,\), got float64 of shape \(43,\)"),
        (lambda state: state.update(statistics=state["statistics"].astype("f4")),
         "the state's statistics must be float64 of shape"),
        (lambda state: state["statistics"].__setitem__(9, np.inf),
         "the state's statistics must be finite"),
    ],
)
def test_a_broken_state(change, message):
    X, y = data()
    net = network()
    net.fit(X, y)
    before, state = everything(net), net.copy().state()
    change(state)
    with pytest.raises(ValueError, match=message):
        net.restore(state)
    assert_same(everything(net), before)


def test_other_settings_are_another_network():
    other = network([*STACK[:2], BatchNorm("gelu", momentum=0.2), *STACK[3:]])
    with pytest.raises(ValueError, match=r"its layers is .*momentum=0\.2"):
        network().restore(other.state())
    frozen = [dataclasses.replace(layer, trainable=False) if layer == BatchNorm("gelu") else layer
              for layer in STACK]
    with pytest.raises(ValueError, match=r"its layers is .*activation='gelu', trainable=False"):
        network().restore(network(frozen).state())


def test_early_stopping_goes_back_to_those_of_the_best_epoch():
    class Watch(Callback):
        def on_epoch_end(self, network, history):
            epochs.append(everything(network))

    X, y = data()
    epochs, net, stopping = [], network(optimizer=SGD(0.05)), EarlyStopping(patience=3)
    net.fit(X, y, epochs=200, validation_data=data(20), callbacks=[Watch(), stopping])
    assert stopping.best_epoch == len(epochs) - 3
    assert_same(everything(net), epochs[stopping.best_epoch - 1])


def test_divergence_goes_back_to_the_last_epoch():
    X, y = data()
    net, twin = network(optimizer=SGD(0.01)), network(optimizer=SGD(0.01))
    for each in (net, twin):
        each.fit(X, y, epochs=2)
    net.optimizer = SGD(1e200)
    with pytest.raises(FloatingPointError, match="epoch 1, step"):
        net.fit(X, y, epochs=3)
    assert_same(everything(net), everything(twin))


def test_statistics_that_overflow_are_divergence():
    """The squares of 1e30 are beyond float32, though no loss is infinite: 0 is 1e30 / infinity."""
    net = Network(1, [BatchNorm(), Dense(1)], seed=0)
    before = everything(net)
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 1: the loss is \d"):
        net.fit([[1e30], [-1e30]], [0.0, 1.0])
    assert_same(everything(net), before)
    assert np.isfinite(net.copy().predict([1.0])).all()


LONG = {
    "Normalize": [Normalize(), Dense(3, "tanh"), Dense(1)],
    "BatchNorm": [Dense(3), BatchNorm("tanh"), Dense(1)],
    "both": STACK,
}


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("rows", [1, 1024, 1025, 3000])
def test_a_step_without_a_finite_loss_is_none(rows, name):
    """Whichever of its parts the loss is of."""
    X, y = data(rows)
    net = network(LONG[name])
    if name != "BatchNorm":
        net.adapt(X)
    net.train_step(X, y)
    before = everything(net)
    y[-1] = 1e300
    with pytest.raises(FloatingPointError, match="the loss is inf"):
        net.train_step(X, y)
    assert_same(everything(net), before)


@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("part", [1, 2, 3])
def test_a_step_that_ctrl_c_breaks_off_is_none(part, name):
    """The signal arrives in the user's loss, in the first, second or third part of the step."""
    calls = []

    def loss(outputs, targets):
        calls.append(len(outputs))
        if len(calls) == part + 3:
            signal.raise_signal(signal.SIGINT)
        return ((outputs - targets) ** 2).sum(axis=1) / 2, outputs - targets

    X, y = data(3000)
    net = network(LONG[name], loss=loss)
    net.fit(X, y, batch_size=None, shuffle=False)
    assert calls == [1000] * 3
    before = everything(net)
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            net.fit(X, y, batch_size=None, shuffle=False)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert_same(everything(net), before)
    twin = network(LONG[name])
    twin.fit(X, y, epochs=1, batch_size=None, shuffle=False)
    net.fit(X, y, batch_size=None, shuffle=False)
    twin.fit(X, y, batch_size=None, shuffle=False)
    assert_same(everything(net), everything(twin))


def test_an_accumulated_batch_is_normalised_together():
    X, y = data(64)
    together, whole = network(), network()
    together.fit(X, y, batch_size=8, accumulate=4, shuffle=False)
    whole.fit(X, y, batch_size=32, shuffle=False)
    assert_same(everything(together), everything(whole))


def test_check_gradient_leaves_them(record_error):
    X, y = data()
    net = network()
    net.fit(X, y)
    before = everything(net)
    assert record_error("layers, evaluation, float64", net.check_gradient(X, y)) < 1e-7
    assert_same(everything(net), before)
    weights = np.ones(len(X))
    loss, *_ = layered_reference_of(net).objective(X, y[:, None], weights)
    assert net.evaluate(X, y) == pytest.approx(loss, rel=1e-12)
