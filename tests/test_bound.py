"""Bound calls: the bits of predict and train_step, on arrays that were checked once.

What predict and train_step compute has oracles of its own; here they are the oracle.
"""

import gc
import itertools
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastbp import (
    LBFGS,
    SGD,
    Adam,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    Network,
    Normalize,
    Residual,
)
from fastbp.optimizers import OPTIMIZERS, Optimizer
from fastbp.schedules import Cosine, OneCycle, Plateau, WarmUp

DTYPES = ["float32", "float64"]
RULES = [
    *(kind() for kind in OPTIMIZERS.values() if issubclass(kind, Optimizer)),
    SGD(0.05, 0.9, nesterov=True, weight_decay=0.01),
    SGD(0.05, clip_norm=0.1),
    SGD(0.05, clip_value=0.01),
    SGD(0.05, noise=0.01),
    SGD(Cosine(0.1, 20)),
    Adam(WarmUp(0.01, 5)),
    SGD(OneCycle(0.1, 15)),
    SGD(Plateau(0.1)),
]
STACKS = {
    "dense": [Dense(7, "tanh"), Dense(3)],
    "one layer": [Dense(3)],
    "dropout": [Dropout(0.2), Dense(9, "relu"), Dropout(0.5), Dense(3)],
    "penalties": [Dense(7, "gelu", l1=0.01, l2=0.02, max_norm=1.0), Dense(3)],
    "normalize": [Normalize(), Dense(7, "elu"), Dense(3)],
    "batch norm": [Dense(7), BatchNorm("relu"), Dense(3)],
    "layer norm": [Dense(7), LayerNorm("tanh"), Dense(3)],
    "residual": [Residual([Dense(9, "relu"), Dense(5)]), Residual([LayerNorm(), Dense(5)]),
                 Dense(3)],
    "frozen": [Dense(7, "tanh", trainable=False), Dense(3)],
}


def network(stack="dense", dtype="float64", **settings):
    layers = STACKS[stack] if isinstance(stack, str) else stack
    net = Network(5, layers, dtype=dtype, **{"seed": 0, **settings})
    if isinstance(layers[0], Normalize):
        net.adapt(np.random.default_rng(8).normal(1, 3, (20, 5)))
    return net


def rows(n, dtype="float64", seed=1, width=5):
    """n rows, or one without the axis of samples where n is None."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=width if n is None else (n, width)).astype(dtype)


def same_state(one, other):
    """Whether two networks are the same to the bit, in all that training changes."""
    first, second = one.state(), other.state()
    assert first["json"] == second["json"]
    for name in ("parameters", "optimizer", "statistics"):
        np.testing.assert_array_equal(first[name], second[name])


# --- the same bits --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [None, 1, 2, 33, 3000])
@pytest.mark.parametrize("stack", STACKS)
def test_a_prediction_is_that_of_predict(stack, n, dtype):
    net = network(stack, dtype)
    X, out = rows(n, dtype), np.full(net.predict(rows(n, dtype)).shape, 7, dtype)
    predict = net.bind(X, out)
    assert predict() is out
    np.testing.assert_array_equal(out, net.predict(X))
    assert predict.X is X
    assert predict.out is out


def test_a_prediction_by_hand():
    net = network([Dense(3, "relu"), Dense(2, "sigmoid")])
    X = rows(4)
    hidden = np.maximum(X @ net.weights[0] + net.biases[0], 0)
    expected = 1 / (1 + np.exp(-(hidden @ net.weights[1] + net.biases[1])))
    # some ten roundings of numbers of the size of one
    np.testing.assert_allclose(net.bind(X, np.empty((4, 2)))(), expected, rtol=1e-14)


@pytest.mark.parametrize("widths", [(300, 400, 10), (2500, 30, 1), (20, 5000, 3)], ids=str)
@pytest.mark.parametrize("n", [None, 2, 70])
def test_a_large_prediction_is_that_of_predict(n, widths):
    """Too large for the stack, or for the GIL to be held."""
    n_in, *units = widths
    net = Network(n_in, [Dense(width, "tanh") for width in units], seed=0)
    X = rows(n, "float32", width=n_in)
    expected = net.predict(X)
    predict = net.bind(X, np.empty_like(expected))
    for _ in range(2):
        np.testing.assert_array_equal(predict(), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [None, 1, 6])
@pytest.mark.parametrize("optimizer", RULES, ids=repr)
def test_a_step_is_that_of_train_step(optimizer, n, dtype):
    nets = [network("dense", dtype, optimizer=optimizer) for _ in range(2)]
    X, y = rows(n, dtype), rows(n, dtype, 2, width=3)
    step = nets[0].bind_step(X, y)
    for seed in range(20):
        X[...], y[...] = rows(n, dtype, 2 * seed), rows(n, dtype, 2 * seed + 1, width=3)
        assert step() == nets[1].train_step(X, y)
    same_state(*nets)
    assert nets[0].n_steps == 20


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [None, 1, 6, 2500])
@pytest.mark.parametrize("optimizer", [SGD(0.05), Adam(), SGD(0.05, clip_norm=0.1)], ids=repr)
@pytest.mark.parametrize("stack", STACKS)
def test_a_step_of_every_kind_of_network(stack, optimizer, n, dtype):
    nets = [network(stack, dtype, optimizer=optimizer) for _ in range(2)]
    X, y = rows(n, dtype), rows(n, dtype, 2, width=3)
    step = nets[0].bind_step(X, y)
    for _ in range(3 if n == 2500 else 10):
        assert step() == nets[1].train_step(X, y)
    same_state(*nets)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (1,), (8,)])
def test_a_step_on_labels(shape, dtype):
    layers = [Dense(6, "relu"), Dense(4, "softmax")]
    nets = [network(layers, dtype, loss="cross_entropy", optimizer=Adam()) for _ in range(2)]
    n = 8 if shape == (8,) else None
    X, y = rows(n, dtype), np.zeros(shape, np.intp)
    step = nets[0].bind_step(X, y)
    assert step.X is X
    assert step.y is y
    for seed in range(20):
        y[...] = np.random.default_rng(seed).integers(4, size=shape)
        assert step() == nets[1].train_step(X, y)
    same_state(*nets)


def test_a_step_on_probabilities():
    layers = [Dense(6, "relu"), Dense(4, "softmax")]
    nets = [network(layers, loss="cross_entropy") for _ in range(2)]
    X, y = rows(8), np.random.default_rng(2).dirichlet(np.ones(4), 8)
    step = nets[0].bind_step(X, y)
    for _ in range(5):
        assert step() == nets[1].train_step(X, y)
    same_state(*nets)


@pytest.mark.parametrize(("n", "shape"), [(None, (1,)), (1, (1,)), (1, (1, 1)), (6, (6,)),
                                          (6, (6, 1))])
def test_targets_of_one_output(n, shape):
    nets = [network([Dense(4, "tanh"), Dense(1)]) for _ in range(2)]
    X, y = rows(n), np.random.default_rng(2).normal(size=shape)
    step = nets[0].bind_step(X, y)
    for _ in range(5):
        assert step() == nets[1].train_step(X, y)
    same_state(*nets)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=4), st.sampled_from([None, 1, 2, 5, 17]),
    st.sampled_from(DTYPES), st.sampled_from(RULES[:10]),
)
def test_any_shape(widths, n, dtype, optimizer):
    n_in, *units = widths
    nets = [
        Network(n_in, [Dense(width, "silu") for width in units], optimizer=optimizer, dtype=dtype,
                seed=3)
        for _ in range(2)
    ]
    X, y = rows(n, dtype, width=n_in), rows(n, dtype, 2, width=units[-1])
    step = nets[0].bind_step(X, y)
    for _ in range(3):
        assert step() == nets[1].train_step(X, y)
    predict = nets[0].bind(X, np.empty_like(y))
    np.testing.assert_array_equal(predict(), nets[1].predict(X))


# --- it follows the network -----------------------------------------------------------------


def test_it_sees_arrays_changed_in_place():
    net = network()
    X, out = rows(None), np.empty(3)
    predict = net.bind(X, out)
    first = predict().copy()
    X *= 2
    np.testing.assert_array_equal(predict(), net.predict(X))
    assert not np.array_equal(first, out)


def test_it_follows_the_network_as_that_learns():
    net, twin = network("dropout", optimizer="adam"), network("dropout", optimizer="adam")
    X, y = rows(40), rows(40, seed=2, width=3)
    x, target, out = rows(None), rows(None, seed=3, width=3), np.empty(3)
    predict, step = net.bind(x, out), net.bind_step(x, target)
    changes = [
        lambda each: each.fit(X, y, epochs=2),
        lambda each: each.parameters.__imul__(0.5),
        lambda each: setattr(each, "optimizer", SGD(0.1, 0.9)),
        lambda each: setattr(each, "optimizer", SGD(Cosine(0.2, 10), 0.9)),
        lambda each: setattr(each, "optimizer", Adam(0.01, clip_norm=0.1)),
        lambda each: each.freeze(0),
        lambda each: each.train_step(X, y),
        lambda each: each.unfreeze(0),
        lambda each: each.reinitialize(),
        lambda each: each.restore(each.state()),
    ]
    for change in changes:
        change(net)
        change(twin)
        np.testing.assert_array_equal(predict(), twin.predict(x))
        for _ in range(3):
            assert step() == twin.train_step(x, target)
        same_state(net, twin)


def test_it_goes_on_with_the_random_numbers_of_fit():
    """A bound step draws what it drops where train_step would, so that all may be mixed."""
    nets = [network("dropout") for _ in range(2)]
    X, y = rows(12), rows(12, seed=2, width=3)
    step = nets[0].bind_step(X, y)
    for net, call in zip(nets, (step, lambda: nets[1].train_step(X, y)), strict=True):
        net.fit(X, y)
        call()
        net.fit(X, y)
        call()
    same_state(*nets)


def test_many_calls_share_a_network():
    net, twin = network(), network()
    X, out = rows(4), np.empty((4, 3))
    calls = [net.bind(X[i], out[i]) for i in range(4)]  # rows of larger arrays are arrays too
    for call in calls:
        call()
    np.testing.assert_array_equal(out, [twin.predict(x) for x in X])
    steps = [net.bind_step(X[i], out[(i + 1) % 4]) for i in range(4)]
    expected = out.copy()
    for i, step in enumerate(steps):
        assert step() == twin.train_step(X[i], expected[(i + 1) % 4])
    same_state(net, twin)


def test_arrays_stay_alive():
    net = network()
    X, out, y = rows(None), np.empty(3), rows(None, seed=2, width=3)
    expected, twin, target = net.predict(X), net.copy(), y.copy()
    predict, step = net.bind(X, out), net.bind_step(X, y)
    found = [weakref.ref(array) for array in (X, out, y)]
    kept = X.copy()
    del X, out, y
    gc.collect()
    noise = [np.full(5, np.nan) for _ in range(100)]  # would land where they were
    np.testing.assert_array_equal(predict(), expected)
    assert step() == twin.train_step(kept, target)
    assert len(noise) == 100
    del predict, step
    gc.collect()
    assert [each() for each in found] == [None] * 3


def test_it_outlives_the_network():
    net = network()
    X = rows(None)
    expected = net.predict(X)
    predict, step = net.bind(X, np.empty(3)), net.bind_step(X, rows(None, seed=2, width=3))
    gone = weakref.ref(net)
    del net
    gc.collect()
    np.testing.assert_array_equal(predict(), expected)
    assert step() > 0
    del predict, step
    gc.collect()
    assert gone() is None  # and nothing else keeps it


def test_an_array_that_is_bound_does_not_move():
    X = rows(None)
    predict = network().bind(X, np.empty(3))
    with pytest.raises(ValueError, match="resize"):
        X.resize(50)
    assert predict().shape == (3,)


def test_read_only_inputs_and_memory_maps(tmp_path):
    net = network()
    X, y = rows(6), rows(6, seed=2, width=3)
    expected = net.predict(X)
    mapped = np.memmap(tmp_path / "X", np.float64, "w+", shape=(6, 5))
    mapped[...] = X
    plain = np.asarray(mapped)
    plain.flags.writeable = X.flags.writeable = y.flags.writeable = False
    np.testing.assert_array_equal(net.bind(X, np.empty((6, 3)))(), expected)
    np.testing.assert_array_equal(net.bind(plain, np.empty((6, 3)))(), expected)
    assert net.bind_step(plain, y)() == network().train_step(X, y)


def test_other_names_of_the_same_type():
    """C has two names for the integers that labels are, and NumPy a type for each."""
    net, twin = (network([Dense(4, "softmax")], loss="cross_entropy") for _ in range(2))
    X, y = rows(3), np.array([0, 3, 1], np.longlong)
    if y.dtype != np.intp:
        pytest.skip("long long is no intp on this platform")
    step = net.bind_step(X, y)
    for label in range(4):
        y[1] = label
        assert step() == twin.train_step(X, y)
    same_state(net, twin)


def test_calls_take_no_arguments():
    net = network()
    for call in (net.bind(rows(None), np.empty(3)), net.bind_step(rows(None), np.empty(3))):
        with pytest.raises(TypeError):
            call(rows(None))
        with pytest.raises(TypeError):
            call(X=rows(None))


# --- what is refused at bind ----------------------------------------------------------------


class Sub(np.ndarray):
    pass


def unaligned(array):
    memory = np.zeros(array.nbytes + 1, np.uint8)
    result = memory[1:].view(array.dtype).reshape(array.shape)
    result[...] = array
    return result


def strided(array):
    return np.repeat(array, 2, axis=-1)[..., ::2]


ONE, TWO = rows(None), rows(2)
BAD_X = {
    "a list": ([1.0] * 5, TypeError, "X must be an ndarray of float64, got list"),
    "None": (None, TypeError, "X must be an ndarray of float64, got NoneType"),
    "float32": (rows(None, "float32"), TypeError, "X must have dtype float64, got <f4"),
    "byte order": (ONE.astype(ONE.dtype.newbyteorder()), TypeError, "dtype float64, got >f8"),
    "integers": (np.ones(5, int), TypeError, "X must have dtype float64, got <i8"),
    "complex": (ONE + 0j, TypeError, "X must have dtype float64, got <c16"),
    "objects": (ONE.astype(object), TypeError, r"X must have dtype float64, got \|O"),
    "a subclass": (ONE.view(Sub), TypeError, "X must be a plain ndarray, got Sub"),
    "masked": (np.ma.array(ONE), TypeError, "X must be a plain ndarray, got MaskedArray"),
    "strided": (strided(ONE), ValueError, "X must be C-contiguous and aligned"),
    "Fortran": (np.asfortranarray(TWO), ValueError, "X must be C-contiguous and aligned"),
    "unaligned": (unaligned(ONE), ValueError, "X must be C-contiguous and aligned"),
    "width": (np.ones(4), ValueError, r"X must have shape \(5,\), got shape \(4,\)"),
    "width of rows": (np.ones((2, 6)), ValueError, r"X must have shape \(2, 5\), got shape"),
    "no rows": (np.ones((0, 5)), ValueError, r"X must have shape .*, got shape \(0, 5\)"),
    "no axis": (np.array(1.0), ValueError, r"X must have shape .*, got shape \(\)"),
    "three axes": (np.ones((1, 2, 5)), ValueError, r"X must have shape .*, got shape \(1, 2, 5\)"),
}


@pytest.mark.parametrize(("X", "error", "message"), BAD_X.values(), ids=BAD_X)
def test_bad_inputs(X, error, message):
    net = network()
    shape = (*np.shape(X)[:-1], 3) if np.ndim(X) else (3,)
    before = net.state()
    with pytest.raises(error, match=message):
        net.bind(X, np.empty(shape))
    with pytest.raises(error, match=message):
        net.bind_step(X, np.empty(shape))
    np.testing.assert_equal(net.state(), before)


def read_only(array):
    array.flags.writeable = False
    return array


BAD_OUT = {
    "a list": ([0.0] * 3, TypeError, "out must be an ndarray of float64, got list"),
    "None": (None, TypeError, "out must be an ndarray of float64, got NoneType"),
    "float32": (np.empty(3, "float32"), TypeError, "out must have dtype float64, got <f4"),
    "byte order": (np.empty(3, ">f8"), TypeError, "out must have dtype float64, got >f8"),
    "read-only": (read_only(np.empty(3)), ValueError, "out must be writeable"),
    "shape": (np.empty(4), ValueError, r"out must have shape \(3,\), got shape \(4,\)"),
    "rows": (np.empty((1, 3)), ValueError, r"out must have shape \(3,\), got shape \(1, 3\)"),
    "strided": (strided(np.empty(3)), ValueError, "out must be C-contiguous and aligned"),
    "unaligned": (unaligned(np.zeros(3)), ValueError, "out must be C-contiguous and aligned"),
    "a subclass": (np.empty(3).view(Sub), TypeError, "out must be a plain ndarray, got Sub"),
}


@pytest.mark.parametrize(("out", "error", "message"), BAD_OUT.values(), ids=BAD_OUT)
def test_bad_outputs(out, error, message):
    with pytest.raises(error, match=message):
        network().bind(ONE, out)


BAD_Y = {
    "a list": ([0.0] * 3, TypeError, "y must be an ndarray of float64, got list"),
    "float32": (np.zeros(3, "float32"), TypeError, "y must have dtype float64, got <f4"),
    "byte order": (np.zeros(3, ">f8"), TypeError, "y must have dtype float64, got >f8"),
    "labels": (np.zeros(3, np.intp), TypeError, "y must have dtype float64, got <i8"),
    "shape": (np.zeros(4), ValueError, r"y must have shape \(3,\), got shape \(4,\)"),
    "strided": (strided(np.zeros(3)), ValueError, "y must be C-contiguous and aligned"),
    "a subclass": (np.zeros(3).view(Sub), TypeError, "y must be a plain ndarray, got Sub"),
}


@pytest.mark.parametrize(("y", "error", "message"), BAD_Y.values(), ids=BAD_Y)
def test_bad_targets(y, error, message):
    with pytest.raises(error, match=message):
        network().bind_step(ONE, y)


BAD_LABELS = {
    "int32": (np.zeros(2, np.int32), TypeError, "y must have dtype int64, got <i4"),
    "unsigned": (np.zeros(2, np.uint64), TypeError, "y must have dtype int64, got <u8"),
    "byte order": (np.zeros(2, ">i8"), TypeError, "y must have dtype int64, got >i8"),
    "float labels": (np.zeros(2), ValueError, r"y must have shape \(2, 4\), got shape \(2,\)"),
    "a column": (np.zeros((2, 1), np.intp), ValueError, r"y must have shape \(2,\), got shape"),
    "too many": (np.zeros(3, np.intp), ValueError, r"y must have shape \(2,\), got shape \(3,\)"),
    "strided": (np.zeros(4, np.intp)[::2], ValueError, "y must be C-contiguous and aligned"),
}


@pytest.mark.skipif(np.dtype(np.intp).str != "<i8", reason="the messages are of another platform")
@pytest.mark.parametrize(("y", "error", "message"), BAD_LABELS.values(), ids=BAD_LABELS)
def test_bad_labels(y, error, message):
    net = network([Dense(4, "softmax")], loss="cross_entropy")
    with pytest.raises(error, match=message):
        net.bind_step(TWO, y)


def test_overlap():
    net = Network(3, [Dense(3)], dtype="float64")
    memory = np.zeros(16)
    for X, out in (
        (memory[:3], memory[:3]), (memory[:3], memory[2:5]), (memory[4:7], memory[2:5]),
        (memory[:9].reshape(3, 3), memory[7:].reshape(3, 3)), (memory[:3], net.parameters[:3]),
        (memory[:3], net.biases[0]),
    ):
        with pytest.raises(ValueError, match="out must not overlap the input or the network's"):
            net.bind(X, out)
    net.bind(memory[:3], memory[3:6])()
    net.bind(net.parameters[:3], memory[:3])()  # which it only reads
    with pytest.raises(ValueError, match="X must not overlap the network's parameters"):
        net.bind_step(net.parameters[:3], memory[:3])
    with pytest.raises(ValueError, match="y must not overlap the network's parameters"):
        net.bind_step(memory[:3], net.biases[0])
    # inputs as targets: neither is written to
    twin = net.copy()
    memory[:3] = 1, 2, 3
    assert net.bind_step(memory[:3], memory[:3])() == twin.train_step(memory[:3], memory[:3])


def test_what_has_no_steps():
    with pytest.raises(TypeError, match="wants all the data: call fit"):
        network(optimizer="lbfgs").bind_step(ONE, np.zeros(3))
    net = network()
    step = net.bind_step(ONE, np.zeros(3))
    net.optimizer = LBFGS()
    before = net.parameters.copy()
    with pytest.raises(TypeError, match="wants all the data: call fit"):
        step()
    np.testing.assert_array_equal(net.parameters, before)


def test_before_there_are_statistics():
    net = Network(5, [Normalize(), Dense(3)], dtype="float64")
    with pytest.raises(RuntimeError, match="has no statistics yet"):
        net.bind(ONE, np.empty(3))
    with pytest.raises(RuntimeError, match="has no statistics yet"):
        net.bind_step(ONE, np.empty(3))
    without = net.state()
    net.adapt(rows(9))
    predict = net.bind(ONE, np.empty(3))
    net.restore(without)
    with pytest.raises(RuntimeError, match="has no statistics any more"):
        predict()


# --- what is refused by a call --------------------------------------------------------------


@pytest.mark.parametrize("wrong", [-1, 4, 2**62, -(2**63)])
@pytest.mark.parametrize("where", [0, 6])
def test_labels_out_of_range(where, wrong):
    net = network([Dropout(0.5), Dense(4, "softmax")], loss="cross_entropy", optimizer="adam")
    X, y = rows(7), np.zeros(7, np.intp)
    step = net.bind_step(X, y)
    step()
    before, twin = net.state(), net.copy()
    y[where] = wrong
    for _ in range(2):
        with pytest.raises(ValueError, match=f"whole labels from 0 to 3, got {wrong}"):
            step()
        np.testing.assert_equal(net.state(), before)
    y[where] = 3
    assert step() == twin.train_step(X, y)
    same_state(net, twin)


@pytest.mark.parametrize("n", [None, 5, 2500])
@pytest.mark.parametrize("optimizer", [SGD(0.1), Adam(), SGD(0.1, clip_norm=1)], ids=repr)
@pytest.mark.parametrize("wrong", ["X", "y"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_loss_that_is_not_finite(value, wrong, optimizer, n):
    net = network([Dense(4), BatchNorm("tanh"), Dense(3)], optimizer=optimizer)
    X, y = rows(n), rows(n, seed=2, width=3)
    step = net.bind_step(X, y)
    step()
    before = net.state()
    array = {"X": X, "y": y}[wrong]
    kept = array.copy()
    array[(..., -1) if value is np.nan or wrong == "y" else ...] = value
    with pytest.raises(FloatingPointError, match=r"the loss is (nan|inf), and the step was not"):
        step()
    np.testing.assert_equal(net.state(), before)
    array[...] = kept
    twin = net.copy()
    assert step() == twin.train_step(X, y)
    same_state(net, twin)


def test_predictions_take_what_they_are_given():
    """Nobody looks for NaN: it goes through the network."""
    net = network()
    X, out = rows(2), np.empty((2, 3))
    predict = net.bind(X, out)
    expected = net.predict(X)
    X[1, 2] = np.nan
    predict()
    np.testing.assert_array_equal(out[0], expected[0])
    assert np.isnan(out[1]).all()


def test_a_network_made_anew():
    net = network()
    predict, step = net.bind(ONE, np.empty(3)), net.bind_step(ONE, np.zeros(3))
    with pytest.raises(TypeError):
        net.__init__(5, "nothing")  # which leaves it as it was
    predict(), step()
    net.__init__(7, [Dense(2)])
    for call in (predict, step):
        with pytest.raises(RuntimeError, match="has become another one since this call was bound"):
            call()
    assert net.bind(rows(None, "float32", width=7), np.empty(2, "float32"))().shape == (2,)


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("n", [None, 4, 3000])
def test_a_users_loss_that_raises(n, error):
    seen = []

    def loss(outputs, targets):
        seen.append(len(outputs))
        if fails:
            raise error("from the loss")
        return ((outputs - targets) ** 2).sum(axis=1) / 2, outputs - targets

    fails = False
    net, twin = network(loss=loss), network()
    X, y = rows(n), rows(n, seed=2, width=3)
    step = net.bind_step(X, y)
    # float64 sums of some ten terms, taken in another order
    assert step() == pytest.approx(twin.train_step(X, y), rel=1e-12)
    before = net.state()
    fails = True
    with pytest.raises(error, match="from the loss"):
        step()
    np.testing.assert_equal(net.state(), before)
    fails = False
    assert step() == pytest.approx(twin.train_step(X, y), rel=1e-12)
    np.testing.assert_allclose(net.parameters, twin.parameters, rtol=0, atol=1e-13)


def test_a_step_from_within_a_users_loss():
    def recursive(outputs, targets):
        step()

    net = network(loss=recursive)
    step = net.bind_step(ONE, np.zeros(3))
    with pytest.raises(RuntimeError, match="in use by another thread"):
        step()


def test_the_order_of_rows_is_that_of_memory():
    """Several rows are one batch; the mean of their losses is what is returned."""
    net = network([Dense(3)], optimizer=SGD(1e-12))
    X, y = rows(6), rows(6, seed=2, width=3)
    expected = ((net.predict(X) - y) ** 2).sum() / 12
    # six rows of three squares
    assert net.bind_step(X, y)() == pytest.approx(expected, rel=1e-14)


def test_mixed_dtypes_of_one_process():
    """float32 and float64 are two engines, and a call keeps to its own."""
    for one, other in itertools.product(DTYPES, DTYPES):
        first, second = network(dtype=one), network(dtype=other)
        calls = [net.bind(rows(None, net.dtype), np.empty(3, net.dtype))
                 for net in (first, second)]
        for net, call in zip((first, second), calls, strict=True):
            np.testing.assert_array_equal(call(), net.predict(rows(None, net.dtype)))
