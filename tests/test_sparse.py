"""Sparse inputs: what comes out is what dense ones give, whatever the matrix looks like."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import ReferenceNetwork
from scipy import sparse

from fastbp import (
    LBFGS,
    SGD,
    AdaGrad,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    Network,
    Normalize,
    Residual,
)
from fastbp.optimizers import OPTIMIZERS, Optimizer

# Sums of some 40 products in another order, over some 30 steps: about 1000 roundings, relative to
# the largest parameter.
TOLERANCE = {"float32": 2e-5, "float64": 4e-14}
RULES = [
    *(kind() for kind in OPTIMIZERS.values() if issubclass(kind, Optimizer)),
    SGD(0.1, weight_decay=0.01),
    SGD(0.1, 0.9, nesterov=True),
    SGD(0.1, clip_value=0.01),
    SGD(0.1, clip_norm=0.1),
    SGD(0.1, noise=0.01),
    AdaGrad(0.1, clip_value=0.01),
    AdaGrad(0.1, weight_decay=0.01),
]


def problem(n=53, n_in=70, n_outputs=3, density=0.1, seed=0):
    """Sparse rows, some of them empty, and labels."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n_in)) * (rng.random((n, n_in)) < density)
    X[::7] = 0
    return sparse.csr_array(X), rng.integers(n_outputs, size=n)


def network(n_in=70, units=9, optimizer="sgd", dtype="float64", **settings):
    layers = [Dense(units, "tanh", **settings), Dense(3, "softmax")]
    return Network(n_in, layers, loss="cross_entropy", optimizer=optimizer, dtype=dtype, seed=1)


def largest_error(result, expected):
    return np.abs(result - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("units", [1, 2, 9, 33, 300])
def test_prediction_and_gradient_are_the_references(units, dtype):
    X, labels = problem()
    net = network(units=units, dtype=dtype)
    for bias in net.biases:
        bias[:] = np.linspace(-1, 1, len(bias))
    reference = ReferenceNetwork.from_flat(
        net.parameters.astype(float), [70, units, 3], ["tanh", "softmax"], "cross_entropy"
    )
    dense = X.toarray().astype(dtype).astype(float)
    assert largest_error(net.predict(X), reference.predict(dense)) < TOLERANCE[dtype]
    loss, gradient = net.loss_and_gradient(X, labels)
    expected = reference.loss_value(dense, labels)
    assert abs(loss - expected) < TOLERANCE[dtype] * expected
    assert largest_error(gradient, reference.gradient(dense, labels)) < TOLERANCE[dtype]
    assert net.evaluate(X, labels) == loss


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("units", [1, 9])
@pytest.mark.parametrize("optimizer", RULES, ids=str)
def test_every_optimizer_trains_as_on_dense_rows(optimizer, units, dtype):
    X, labels = problem()
    on_sparse, on_dense = (network(70, units, optimizer, dtype) for _ in range(2))
    for n_threads in (1, 3):
        on_sparse.fit(X, labels, epochs=2, batch_size=8, n_threads=n_threads)
        on_dense.fit(X.toarray(), labels, epochs=2, batch_size=8)
    assert largest_error(on_sparse.parameters, on_dense.parameters) < TOLERANCE[dtype]
    state, expected = (net.state()["optimizer"] for net in (on_sparse, on_dense))
    np.testing.assert_allclose(state, expected, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


def test_penalties_and_greatest_norms():
    X, labels = problem()
    for settings_ in ({"l1": 0.01, "l2": 0.1}, {"max_norm": 0.5}):
        for optimizer in (SGD(0.1), AdaGrad(0.1), SGD(0.1, clip_norm=0.1)):
            on_sparse, on_dense = (network(optimizer=optimizer, **settings_) for _ in range(2))
            on_sparse.fit(X, labels, epochs=3, batch_size=8)
            on_dense.fit(X.toarray(), labels, epochs=3, batch_size=8)
            error = largest_error(on_sparse.parameters, on_dense.parameters)
            assert error < TOLERANCE["float64"], (settings_, optimizer)


@pytest.mark.parametrize("n_in", [70, 700])
def test_the_same_inputs_are_dropped(n_in):
    """700 inputs, of which half are there, are more than the engine takes at a time."""
    X, labels = problem(n_in=n_in, density=0.5)
    layers = [Dropout(0.3), Dense(9, "relu"), Dropout(0.5), Dense(3, "softmax")]
    on_sparse, on_dense = (
        Network(n_in, layers, loss="cross_entropy", dtype="float64", seed=1) for _ in range(2)
    )
    on_sparse.fit(X, labels, epochs=3, batch_size=8)
    on_dense.fit(X.toarray(), labels, epochs=3, batch_size=8)
    assert largest_error(on_sparse.parameters, on_dense.parameters) < TOLERANCE["float64"]


@pytest.mark.parametrize("optimizer", [SGD(0.1), AdaGrad(0.1), SGD(0.1, 0.9)], ids=str)
def test_batches_of_several_passes(optimizer):
    X, labels = problem(n=2500)
    on_sparse, on_dense = (network(optimizer=optimizer) for _ in range(2))
    for n_threads in (1, 2):
        on_sparse.fit(X, labels, epochs=2, batch_size=None, n_threads=n_threads)
        on_dense.fit(X.toarray(), labels, epochs=2, batch_size=None)
    assert largest_error(on_sparse.parameters, on_dense.parameters) < TOLERANCE["float64"]
    np.testing.assert_allclose(on_sparse.predict(X), on_dense.predict(X.toarray()), rtol=1e-12)


def test_same_bits_for_any_number_of_threads():
    """Enough of everything that several threads do work on it."""
    X, labels = problem(n=3000, n_in=2000, density=0.05)
    for optimizer in (SGD(0.1), AdaGrad(0.1), SGD(0.1, 0.9), SGD(0.1, clip_norm=0.1)):
        results = []
        for n_threads in (1, 2, 3):
            net = network(2000, 200, optimizer, "float32")
            net.fit(X, labels, epochs=1, batch_size=750, n_threads=n_threads)
            results.append(net.parameters.tobytes() + net.predict(X, None, n_threads).tobytes())
        assert results[0] == results[1] == results[2], optimizer


@pytest.mark.parametrize("optimizer", [SGD(0.1), AdaGrad(0.1), SGD(0.1, clip_value=0.01)], ids=str)
def test_weights_of_features_that_do_not_occur_stay_as_they_are(optimizer):
    X, labels = problem()
    X = X.toarray()
    X[:, ::2] = 0
    net = network(optimizer=optimizer)
    before = net.weights[0].copy()
    net.fit(sparse.csr_array(X), labels, epochs=3, batch_size=8)
    np.testing.assert_array_equal(net.weights[0][::2], before[::2])
    assert (net.weights[0][1::2] != before[1::2]).any(axis=1).all()


def test_the_optimizer_may_change_between_calls():
    """What one rule has gathered for its sparse rows is no gradient of the next one's."""
    X, labels = problem()
    on_sparse, on_dense = network(), network()
    for optimizer in ("sgd", "adam", "adagrad", SGD(0.1, clip_norm=0.1), "adam", "sgd"):
        for net, data in ((on_sparse, X), (on_dense, X.toarray())):
            net.optimizer = optimizer
            net.fit(data, labels, batch_size=8)
            net.train_step(X.toarray()[:8], labels[:8])
            net.train_step(data[3:4], labels[3:4])
    assert largest_error(on_sparse.parameters, on_dense.parameters) < TOLERANCE["float64"]


def matrices(dense):
    """The same numbers in formats of SciPy's, and in unusual forms of CSR."""
    for kind in ("bsr", "coo", "csc", "csr", "dok", "lil"):
        for family in ("array", "matrix"):
            yield f"{kind}_{family}", getattr(sparse, f"{kind}_{family}")(dense)
    csr = sparse.csr_array(dense)
    rng = np.random.default_rng(0)
    wide = csr.copy()
    wide.indices, wide.indptr = csr.indices.astype(np.int64), csr.indptr.astype(np.int64)
    yield "64-bit indices", wide
    shuffled = csr.copy()
    for start, stop in zip(csr.indptr, csr.indptr[1:], strict=False):
        order = start + rng.permutation(stop - start)
        shuffled.indices[start:stop] = csr.indices[order]
        shuffled.data[start:stop] = csr.data[order]
    yield "unsorted", shuffled
    halves = sparse.csr_array((
        np.repeat(csr.data / 2, 2), np.repeat(csr.indices, 2), csr.indptr * 2
    ), shape=csr.shape)
    yield "duplicates", halves
    padded = csr.copy()  # more memory than it uses
    padded.data = np.concatenate([csr.data, [np.nan]])
    padded.indices = np.concatenate([csr.indices, [10**6]]).astype(np.int32)
    yield "longer arrays", padded
    full = sparse.csr_array(np.ones_like(dense))
    full.data[:] = dense.ravel()
    yield "explicit zeros", full
    frozen = csr.copy()
    for array in (frozen.data, frozen.indices, frozen.indptr):
        array.flags.writeable = False
    yield "read-only", frozen


DENSE = problem()[0].toarray().astype(np.float32)  # halves of which add up exactly
MATRICES = dict(matrices(DENSE))


@pytest.mark.parametrize("name", MATRICES)
def test_every_kind_of_matrix(name):
    labels = problem()[1]
    X, net, expected = MATRICES[name], network(dtype="float32"), network(dtype="float32")
    before = [getattr(X, part).copy() for part in ("data", "indices") if hasattr(X, part)]
    reference = sparse.csr_array(DENSE)
    for one, data in ((net, X), (expected, reference)):
        one.fit(data, labels, batch_size=8)
    # zeros that are written down change the order of sums: a few roundings of numbers below 1
    atol = 3e-7 if name == "explicit zeros" else 0
    np.testing.assert_allclose(net.predict(X), expected.predict(reference), rtol=0, atol=atol)
    after = [getattr(X, part) for part in ("data", "indices") if hasattr(X, part)]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_dtypes_of_numbers():
    net = network(dtype="float32")
    X = sparse.csr_array((problem()[0].toarray() > 0).astype(np.int8))
    expected = net.predict(X.toarray())
    for dtype in (bool, np.uint8, np.int64, np.float32, np.float64, np.longdouble):
        np.testing.assert_allclose(net.predict(X.astype(dtype)), expected, rtol=1e-6)


def test_one_row():
    X, _ = problem()
    net = network()
    expected = net.predict(X.toarray()[1])
    for row in (X[1:2], X[[1]]):
        np.testing.assert_allclose(net.predict(row), expected[np.newaxis], rtol=1e-13)
    single = sparse.coo_array(X.toarray()[1])  # has one dimension
    np.testing.assert_allclose(net.predict(single), expected, rtol=1e-13)
    out = np.empty(3)
    assert net.predict(single, out) is out
    np.testing.assert_allclose(out, expected, rtol=1e-13)
    twin = net.copy()
    assert net.train_step(single, 1) == pytest.approx(twin.train_step(X.toarray()[1], 1), rel=1e-12)


def test_everything_around_it():
    """Splits, weights, metrics, minimisers, the range test and gradient checks take it, too."""
    X, labels = problem(n=90)
    dense = X.toarray()
    weights = np.linspace(1, 2, 90)
    on_sparse, on_dense = network(), network()
    histories = [
        net.fit(data, labels, epochs=3, sample_weight=weights, class_weight="balanced",
                validation_split=0.2, validation_kind="stratified", metrics=["accuracy"])
        for net, data in ((on_sparse, X), (on_dense, dense))
    ]
    np.testing.assert_allclose(histories[0].validation_loss, histories[1].validation_loss)
    assert histories[0].metrics == histories[1].metrics
    both = [
        net.fit(data, labels, validation_data=(other, labels)).validation_loss
        for net, data, other in ((on_sparse, X, dense), (on_dense, dense, X))
    ]
    np.testing.assert_allclose(*both)
    curves = [net.find_learning_rate(data, labels, steps=20).losses
              for net, data in ((on_sparse, X), (on_dense, dense))]
    np.testing.assert_allclose(*curves)
    assert on_sparse.check_gradient(X, labels, n_checks=50) < 1e-7
    on_sparse, on_dense = network(optimizer=LBFGS()), network(optimizer=LBFGS())
    losses = [net.fit(data, labels, epochs=5).loss
              for net, data in ((on_sparse, X), (on_dense, dense))]
    np.testing.assert_allclose(*losses, rtol=1e-9)


def test_rows_are_never_made_dense():
    """What would take 160 GB if they were, four times a step's parameters and state included."""
    rng = np.random.default_rng(0)
    n, n_in = 20_000, 2_000_000
    X = sparse.csr_array(
        (np.ones(3 * n, np.float32), rng.integers(n_in, size=3 * n), np.arange(0, 3 * n + 1, 3)),
        shape=(n, n_in),
    )
    net = Network(n_in, [Dense(2, "tanh"), Dense(1)], optimizer=AdaGrad(0.1))
    y = rng.normal(size=n)
    before = net.evaluate(X, y)
    net.fit(X, y, epochs=3, batch_size=500, validation_split=0.1)
    assert net.evaluate(X, y) < before
    assert net.predict(X).shape == (n, 1)


@given(st.data())
@settings(deadline=None, max_examples=60)
def test_hostile_matrices_are_refused_or_right(data):
    """Places out of bounds, in any of the arrays: an error, and nothing has changed."""
    net = network(n_in=6, units=3)
    X, labels = problem(n=8, n_in=6, density=0.6, seed=data.draw(st.integers(0, 3)))
    part = data.draw(st.sampled_from(["indices", "indptr"]))
    array = getattr(X, part)
    at = data.draw(st.integers(0, len(array) - 1))
    array[at] = data.draw(st.sampled_from([-(2**31), -1, 0, 3, 6, 7, 1000, 2**31 - 1]))
    before = net.parameters.copy()
    try:
        dense_rows = [
            (X.indices[a:b], X.data[a:b]) for a, b in zip(X.indptr, X.indptr[1:], strict=False)
        ]
        sound = (np.diff(X.indptr) >= 0).all() and X.indptr[0] == 0
        sound &= X.indptr[-1] <= len(X.indices) and X.indptr.min() >= 0
        used = X.indices[: X.indptr[-1]]
        sound &= len(used) == 0 or (used.min() >= 0 and used.max() < 6)
        result = net.predict(X)
    except ValueError as error:
        assert not sound, error
        with pytest.raises(ValueError, match="X"):
            net.fit(X, labels)
        np.testing.assert_array_equal(net.parameters, before)
        return
    assert sound
    dense = np.zeros((8, 6))
    for row, (columns, values) in zip(dense, dense_rows, strict=True):
        np.add.at(row, columns, values)
    np.testing.assert_allclose(result, net.predict(dense), rtol=1e-12)


def test_refused():
    X, labels = problem()
    net = network()
    cases = [
        (lambda: net.predict(X[:, :5]), ValueError, r"X must have shape \(n, 70\)"),
        (lambda: net.predict(X[:0]), ValueError, "X must hold at least one sample"),
        (lambda: net.predict(X * 1j), TypeError, "X must hold real numbers"),
        (lambda: net.predict(X * np.inf), ValueError, "X must be finite"),
        (lambda: net.fit(X, sparse.csr_array(np.eye(3)[labels])), TypeError, r"call .toarray\(\)"),
        (lambda: net.fit(X, labels[1:]), ValueError, "y must be as long as X"),
        (lambda: net.predict(X, np.empty((1, 3))), ValueError, "out must have shape"),
    ]
    net_before = net.parameters.copy()
    for call, kind, message in cases:
        with np.errstate(invalid="ignore"), pytest.raises(kind, match=message):
            call()
    np.testing.assert_array_equal(net.parameters, net_before)
    for first in (Normalize(), BatchNorm(), LayerNorm(), Residual([Dense(70)])):
        other = Network(70, [first, Dense(3, "softmax")], loss="cross_entropy")
        with pytest.raises(ValueError, match=r"X is sparse, which only a Dense layer takes"):
            other.fit(X, labels)
