"""Rows one at a time: learn_one and predict_one do what train_step and predict do, for less."""

import collections
import contextlib
import decimal
import gc
import json
import threading
import types
import weakref

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from names import name_of
from scipy import sparse

from fastbp import LBFGS, SGD, Adam, Dense, Dropout, Network, Normalize, schedules
from fastbp.losses import Quantile
from fastbp.optimizers import OPTIMIZERS, Optimizer

NAMES = ["height", "width", "depth", "weight"]
RULES = [
    *(kind() for kind in OPTIMIZERS.values() if issubclass(kind, Optimizer)),
    SGD(0.1, noise=0.01), SGD(0.1, clip_norm=0.1), Adam(schedules.Cosine(0.1, 10)),
    SGD(lambda step: 0.1 / (1 + step)),
]


def network(units=3, activation="softmax", loss="cross_entropy", dtype="float32", **changes):
    arguments = {"optimizer": "adam", "seed": 0, "feature_names": NAMES} | changes
    return Network(4, [Dense(7, "tanh"), Dense(units, activation)], loss=loss, dtype=dtype,
                   **arguments)


def line(**changes):
    return network(1, "identity", "squared_error", **changes)


def everything(net):
    state = net.state()
    arrays = [state[name].tobytes() for name in ("parameters", "optimizer", "statistics")]
    return arrays, state["json"]


def rows(n=20, dtype="float32"):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, 4)).astype(dtype), rng.integers(3, size=n)


def as_dict(row):
    return dict(zip(NAMES, row.tolist(), strict=True))


# --- the same as train_step and predict ---------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", RULES, ids=name_of)
def test_the_bits_of_train_step(optimizer, dtype):
    X, y = rows(dtype=dtype)
    by_array, by_dict, expected = (network(dtype=dtype, optimizer=optimizer) for _ in range(3))
    for row, label in zip(X, y.tolist(), strict=True):
        loss = expected.train_step(row, label)
        assert by_array.learn_one(row, label) == loss
        assert by_dict.learn_one(as_dict(row), label) == loss
        assert everything(by_array) == everything(by_dict) == everything(expected)
        probabilities = expected.predict(row)
        assert by_array.predict_one(row).tobytes() == probabilities.tobytes()
        assert by_dict.predict_one(as_dict(row)).tobytes() == probabilities.tobytes()
    assert probabilities.shape == by_dict.predict_one(as_dict(row)).shape == (3,)
    assert line().predict_one(X[0]).shape == (1,)


def test_layers_that_drop_and_normalise():
    X, y = rows()
    layers = [Normalize(), Dense(9, "relu"), Dropout(0.5), Dense(3, "softmax")]
    nets = [Network(4, layers, loss="cross_entropy", seed=0) for _ in range(2)]
    for call in (lambda: nets[0].learn_one(X[0], 1), lambda: nets[0].predict_one(X[0]),
                 lambda: nets[0].predict_one([1, 2, 3, 4])):
        with pytest.raises(RuntimeError, match="no statistics yet"):
            call()
    for net in nets:
        net.adapt(X)
    for row, label in zip(X, y, strict=True):
        assert nets[0].learn_one(row, label) == nets[1].train_step(row, label)
    assert everything(nets[0]) == everything(nets[1])


@pytest.mark.parametrize("x", [
    [1, 2, 3, 4], (True, False, 2.5, -1), np.float64([1, 2, 3, 4]), np.arange(4),
    np.arange(8.0, dtype="f4")[::2], np.array([1, 2, 3, 4], ">f4"),
    np.ma.masked_array(np.float32([1, 2, 3, 4])), collections.UserList([1, 2, 3, 4]),
    memoryview(np.arange(4.0)),
], ids=name_of)
def test_any_array(x):
    net, twin = network(), network()
    x_before = np.array(x)
    assert net.predict_one(x).tobytes() == twin.predict(x).tobytes()
    assert net.learn_one(x, 2) == twin.train_step(x, 2)
    assert everything(net) == everything(twin)
    np.testing.assert_array_equal(x, x_before)


@pytest.mark.parametrize("wrap", [
    dict, collections.OrderedDict, types.MappingProxyType, collections.UserDict,
    lambda x: {name: x[name] for name in reversed(NAMES)},
    lambda x: x | {"colour": "red", 3: None},
    lambda x: {name: np.float64(value) for name, value in x.items()},
    lambda x: {name: decimal.Decimal(value) for name, value in x.items()},
    lambda x: {name: np.array(value) for name, value in x.items()},
])
def test_any_mapping(wrap):
    net, twin = network(), network()
    row = rows()[0][3]
    x = wrap(as_dict(row))
    before = dict(x)
    assert net.predict_one(x).tobytes() == twin.predict(row).tobytes()
    assert net.learn_one(x, 2) == twin.train_step(row, 2)
    assert dict(x) == before


@np.errstate(over="ignore")  # of targets beyond the root of the largest number
def squares(z, y):
    return ((z - y) ** 2).sum(axis=1), 2 * (z - y)


TARGETS = [
    ("cross_entropy", 3, "softmax", [0, 2, True, np.int64(1), np.uint8(2), 1.0, [1], np.array(2),
                                     [0.2, 0.3, 0.5], np.float32([[0, 1, 0]])]),
    ("squared_error", 1, "identity", [0.5, -3, True, np.float32(0.1), np.float64(1e3), [2],
                                      np.array(0.3), np.float16(2), decimal.Decimal(2)]),
    ("squared_error", 3, "identity", [[1, 2, 3], np.arange(3.0)]),
    ("binary_cross_entropy", 1, "sigmoid", [0, 1, False, 0.3, np.bool_(True), 1 + 1e-12]),
    ("binary_cross_entropy", 3, "sigmoid", [[0, 1, 0.5]]),
    ("poisson", 1, "exponential", [0, 3, 0.5]),
    ("gamma", 1, "exponential", [3, 0.5]),
    ("tweedie", 1, "exponential", [0, 0.5]),
    ("hinge", 1, "identity", [0, 1, -1, True]),
    ("squared_hinge", 1, "tanh", [0, 1, -1]),
    (Quantile([0.1, 0.9]), 2, "identity", [3, [1, 2]]),
    (Quantile(0.5), 1, "identity", [3, [1]]),
    ("kullback_leibler", 3, "softmax", [[0.2, 0.3, 0.5]]),
    ("huber", 1, "identity", [3]),
    (squares, 1, "identity", [3.5]),
]


@pytest.mark.parametrize(("loss", "units", "activation", "targets"), TARGETS,
                         ids=[f"{name_of(loss)} of {units}" for loss, units, *_ in TARGETS])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_kind_of_target(loss, units, activation, targets, dtype):
    X, _ = rows(dtype=dtype)
    net, twin = (network(units, activation, loss, dtype) for _ in range(2))
    for row, y in zip(X, targets, strict=False):
        try:
            expected = twin.train_step(row, y)
        except (TypeError, ValueError) as error:
            with pytest.raises(type(error)):
                net.learn_one(row, y)
        else:
            assert net.learn_one(row, y) == expected
        assert everything(net) == everything(twin)
    assert net.n_steps > 0


NUMBERS = st.floats() | st.floats(width=32) | st.integers(-10**400, 10**400) | st.booleans()


@given(st.sampled_from(TARGETS), NUMBERS, st.sampled_from([float, np.float64, lambda y: y]))
@example(TARGETS[-1], 1.8446743523953738e19, float)  # the loss is infinite
@settings(deadline=None, max_examples=300)
def test_any_number_as_target_is_taken_or_refused_as_by_train_step(kind, y, wrap):
    loss, units, activation, _ = kind
    with contextlib.suppress(OverflowError):
        y = wrap(y)
    net, twin = (network(units, activation, loss) for _ in range(2))
    x, outcomes = np.ones(4, np.float32), []
    for step in (net.learn_one, twin.train_step):
        try:
            outcomes.append(step(x, y))
        except (FloatingPointError, TypeError, ValueError) as error:
            outcomes.append(type(error))
    assert outcomes[0] == outcomes[1]
    assert everything(net) == everything(twin)


@given(st.lists(NUMBERS | st.text() | st.none() | st.complex_numbers(), min_size=4, max_size=4),
       st.sampled_from(["float32", "float64"]))
@settings(deadline=None, max_examples=300)
def test_a_mapping_is_taken_if_all_its_numbers_are_finite(values, dtype):
    net = line(dtype=dtype)
    x = dict(zip(NAMES, values, strict=True))
    before = everything(net)
    try:
        with np.errstate(over="ignore"):
            row = np.array([float(value) for value in values]).astype(dtype)
        fine = bool(np.isfinite(row).all()) and not any(isinstance(v, str) for v in values)
    except (TypeError, ValueError, OverflowError):
        fine = False
    if fine:
        assert net.predict_one(x).tobytes() == net.predict(row).tobytes()
        return
    for call in (lambda: net.predict_one(x), lambda: net.learn_one(x, 0.5)):
        with pytest.raises((TypeError, ValueError), match="of x must be"):
            call()
    assert everything(net) == before


# --- names --------------------------------------------------------------------------------------


def test_names_are_part_of_the_network():
    net = network()
    assert net.feature_names == tuple(NAMES)
    assert network(feature_names=iter(NAMES)).feature_names == tuple(NAMES)
    assert f"feature_names={tuple(NAMES)!r})" in repr(net)
    assert network(feature_names=None).feature_names is None
    assert "feature_names" not in repr(network(feature_names=None))
    assert net.copy().feature_names == net.feature_names
    state = net.state()
    state["json"] = json.loads(json.dumps(state["json"]))
    twin = network(seed=5)
    twin.restore(state)
    assert everything(twin) == everything(net)
    for other in (network(feature_names=None), network(feature_names=NAMES[::-1])):
        with pytest.raises(ValueError, match="its feature_names is"):
            other.restore(state)


@pytest.mark.parametrize(("names", "error", "message"), [
    ("abcd", TypeError, "feature_names must be a sequence of 4 distinct strings, got 'abcd'"),
    (4, TypeError, "4 distinct strings, got 4"),
    (["a", "b", "c", 4], TypeError, "got 4 in it"),
    (["a", "b", "c"], ValueError, "4 distinct strings, got 3"),
    ([], ValueError, "4 distinct strings, got 0"),
    (["a", "b", "c", "a"], ValueError, "got 'a' more than once"),
])
def test_bad_names(names, error, message):
    with pytest.raises(error, match=message):
        network(feature_names=names)


def test_one_feature():
    net, twin = (Network(1, [Dense(1)], seed=0, feature_names=["x"]) for _ in range(2))
    assert net.predict_one({"x": 2}) == twin.predict([2.0])
    assert net.learn_one({"x": 2}, 1) == twin.train_step([2.0], 1)


# --- what is refused ----------------------------------------------------------------------------

X = rows()[0]
BAD_ROWS = [
    ({}, ValueError, "x must hold every feature, and lacks 'height', 'width', 'depth', 'weight'"),
    ({"height": 1, "depth": 2, "Width": 3}, ValueError, "and lacks 'width', 'weight'"),
    (as_dict(X[0]) | {"depth": "3"}, TypeError, "feature 'depth' of x must be a number, got '3'"),
    (as_dict(X[0]) | {"depth": None}, TypeError, "feature 'depth' of x must be a number"),
    (as_dict(X[0]) | {"depth": 1j}, TypeError, "feature 'depth' of x must be a number"),
    (as_dict(X[0]) | {"depth": np.nan}, ValueError, "'depth' of x must be finite, .* got nan"),
    (as_dict(X[0]) | {"depth": 1e39}, ValueError, r"finite, and fit in float32, got 1e\+39"),
    (X[:1], ValueError, r"x must have shape \(4,\), got shape \(1, 4\)"),
    (X[:2], ValueError, r"x must have shape \(4,\), got shape \(2, 4\)"),
    (X[0, :3], ValueError, "x must have shape"),
    (X[0, 0], ValueError, "x must have shape"),
    (X[0] * np.inf, ValueError, "x must be finite"),
    ([1, 2, 3, 1e39], ValueError, "x must be finite"),
    (["1", "2", "3", "4"], TypeError, "x must hold real numbers"),
    ("x", TypeError, "x must hold real numbers"),
    (None, TypeError, "x must hold real numbers"),
    (sparse.coo_array(X[0]), TypeError, "x must not be sparse here"),
]


@pytest.mark.parametrize(("x", "error", "message"), BAD_ROWS, ids=range(len(BAD_ROWS)))
def test_bad_rows(x, error, message):
    net = network()
    net.learn_one(X[0], 1)
    before = everything(net)
    for call in (lambda: net.learn_one(x, 1), lambda: net.predict_one(x)):
        with pytest.raises(error, match=message):
            call()
    assert everything(net) == before
    twin = net.copy()
    assert net.learn_one(X[1], 2) == twin.train_step(X[1], 2)  # nothing of it is left


def test_a_mapping_without_names():
    net = network(feature_names=None)
    for call in (lambda: net.predict_one(as_dict(X[0])), lambda: net.learn_one(as_dict(X[0]), 1)):
        with pytest.raises(TypeError, match="got dict: a mapping wants a network with feature_nam"):
            call()


@pytest.mark.parametrize(("net", "y", "error", "message"), [
    (network(), 3, ValueError, "y must hold whole labels from 0 to 2"),
    (network(), -1, ValueError, "y must hold whole labels"),
    (network(), 10**30, TypeError, "y must hold real numbers"),
    (network(), 0.5, ValueError, "y must hold whole labels"),
    (network(), None, TypeError, "y must hold real numbers"),
    (network(), [1, 2], ValueError, "y must have one of the shapes"),
    (line(), np.nan, ValueError, "y must be finite"),
    (line(), 1e39, ValueError, "y must be finite"),
    (line(), "1", TypeError, "y must hold real numbers"),
    (line(), [1, 2], ValueError, "y must have one of the shapes"),
    (network(1, "sigmoid", "binary_cross_entropy"), 1.5, ValueError, r"y must lie in \[0, 1\]"),
    (network(1, "exponential", "gamma"), 1e-60, ValueError, "y must be positive"),
])
def test_bad_targets(net, y, error, message):
    before = everything(net)
    with pytest.raises(error, match=message):
        net.learn_one(X[0], y)
    assert everything(net) == before


def test_optimizers_that_want_all_the_data():
    net = line(optimizer=LBFGS())
    with pytest.raises(TypeError, match="wants all the data"):
        net.learn_one(X[0], 1.0)
    assert net.predict_one(X[0]).tobytes() == net.predict(X[0]).tobytes()


def test_a_loss_that_is_not_finite():
    net = line(dtype="float64")
    before = everything(net)
    with pytest.raises(FloatingPointError, match="the loss is inf"):
        net.learn_one(X[0], 1e200)
    assert everything(net) == before


# --- changes on the way -------------------------------------------------------------------------


def test_what_changes_between_the_calls():
    """The optimizer, the parameters, which layers are trained; and a network made anew."""
    net, twin = network(), network()
    changes = [
        lambda each: setattr(each, "optimizer", SGD(0.5, 0.9)),
        lambda each: each.parameters.__imul__(0.5),
        lambda each: each.freeze(0),
        lambda each: setattr(each, "optimizer", Adam(schedules.Exponential(0.1, 0.9, 2))),
        lambda each: each.unfreeze(),
        lambda each: each.restore(network(optimizer=each.optimizer, seed=9).state()),
        lambda each: each.__init__(4, [Dense(3, "softmax")], loss="cross_entropy", seed=4),
        lambda each: each.__init__(2, [Dense(1)], feature_names=["a", "b"], seed=4),
    ]
    for change in changes:
        change(net)
        change(twin)
        row, y = X[0, :net.n_inputs], 1
        assert net.learn_one(row, y) == twin.train_step(row, y)
        assert net.predict_one(row).tobytes() == twin.predict(row).tobytes()
    assert net.predict_one({"a": 1, "b": 2}).shape == (1,)


def test_a_prediction_is_an_array_of_its_own():
    net = network()
    first = net.predict_one(X[0])
    kept = first.copy()
    net.predict_one(X[1])
    net.learn_one(X[2], 1)
    np.testing.assert_array_equal(first, kept)
    assert first.flags.writeable


def test_it_does_not_keep_the_network_alive():
    net = network()
    net.learn_one(X[0], 1)
    net.predict_one(as_dict(X[0]))
    gone = weakref.ref(net)
    gc.disable()  # it goes without being looked for
    try:
        del net
        assert gone() is None
    finally:
        gc.enable()


def in_threads(n, call):
    """Run `call(number)` in n threads at once; what each returned."""
    results, barrier = [None] * n, threading.Barrier(n)

    def run(number):
        barrier.wait()
        results[number] = call(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_predictions_in_several_threads(monkeypatch):
    net = network()
    X, _ = rows(100)
    expected = [net.predict(row).tobytes() for row in X]
    mappings = [as_dict(row) for row in X]

    def wrong(number):
        start = 7 * number
        return sum(
            net.predict_one(source[at % 100]).tobytes() != expected[at % 100]
            for at in range(start, start + 2000) for source in (mappings, X)
        )

    assert in_threads(4, wrong) == [0] * 4


def test_rows_of_several_threads_are_not_mixed():
    """Every step sees the row and the target of one call: with y = sum(x), the loss is 0."""
    net = Network(4, [Dense(1)], dtype="float64", seed=0, feature_names=NAMES)
    net.weights[0][:] = 1
    rng = np.random.default_rng(0)

    def losses(number):
        total = 0.0
        for row in rng.integers(-100, 100, size=(2000, 4)) * 1.0:
            x = as_dict(row) if number % 2 else row
            total += net.learn_one(x, row.sum())
        return total

    assert in_threads(4, losses) == [0.0] * 4
    assert net.weights[0].ravel().tolist() == [1.0] * 4
