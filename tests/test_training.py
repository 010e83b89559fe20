"""fit: where it converges to, what its steps are, and what it reports."""

import itertools
import math

import numpy as np
import pytest
from reference import ReferenceNetwork
from scipy import optimize

from fastbp import SGD, Dense, History, Network

LAYERS = [Dense(17, "tanh"), Dense(33, "relu"), Dense(3, "softmax")]
WIDTHS = [5, 17, 33, 3]
ACTIVATIONS = ["tanh", "relu", "softmax"]


def classifier(dtype="float64", seed=0, learning_rate=0.1):
    return Network(
        5, LAYERS, loss="cross_entropy", optimizer=SGD(learning_rate), dtype=dtype, seed=seed
    )


def classes(n, seed=1):
    """n samples of five features, and labels of three classes."""
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 5)), rng.integers(3, size=n)


def step_limit(X):
    """The largest curvature of 1/(2n) ||X w + b - y||^2, whose inverse is a safe learning rate."""
    with_ones = np.column_stack([X, np.ones(len(X))])
    return np.linalg.eigvalsh(with_ones.T @ with_ones / len(X))[-1]


# Where it converges to


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_least_squares(n_outputs):
    """Full-batch gradient descent goes to the solution of numpy.linalg.lstsq.

    With a condition number of X^T X around 3, the error shrinks by 1/3 or more per epoch.
    """
    rng = np.random.default_rng(0)
    X = rng.normal(size=(129, 17)) + 0.1
    X = np.linalg.qr(X - X.mean(0))[0] * np.sqrt(129) * rng.uniform(0.6, 1, 17) + 0.1
    y = rng.normal(size=(129, n_outputs))
    with_ones = np.column_stack([X, np.ones(129)])
    expected = np.linalg.lstsq(with_ones, y, rcond=None)[0]

    optimizer = SGD(1 / step_limit(X))
    net = Network(17, [Dense(n_outputs)], optimizer=optimizer, dtype="float64", seed=0)
    history = net.fit(X, y, epochs=200, batch_size=None)

    np.testing.assert_allclose(net.weights[0], expected[:-1], rtol=0, atol=1e-8)
    np.testing.assert_allclose(net.biases[0], expected[-1], rtol=0, atol=1e-8)
    residual = ((with_ones @ expected - y) ** 2).sum() / (2 * 129)
    assert history.loss[-1] == pytest.approx(residual, rel=1e-12)


def optimum(reference, X, y):
    """The parameters of least reference loss, by a quasi-Newton method of SciPy's."""
    result = optimize.minimize(
        lambda parameters: reference.with_flat(parameters).loss_value(X, y),
        reference.flat,
        jac=lambda parameters: reference.with_flat(parameters).gradient(X, y),
        method="BFGS",
        options={"gtol": 1e-9},
    )
    assert np.abs(result.jac).max() < 1e-7
    return reference.with_flat(result.x), result.fun


def overlapping_classes(n_classes):
    """Three features whose means differ less by class than they spread, so the optimum is finite.

    A linear model of separable classes has none: its weights grow for ever.
    """
    rng = np.random.default_rng(0)
    labels = np.arange(300) % n_classes
    return rng.normal(size=(300, 3)) + 0.5 * np.eye(n_classes, 3)[labels], labels


def test_logistic_regression():
    X, labels = overlapping_classes(2)
    y = labels.astype(np.float64)
    start = ReferenceNetwork.from_flat(np.zeros(4), [3, 1], ["sigmoid"], "binary_cross_entropy")
    best, least_loss = optimum(start, X, y)

    # The curvature of log(1 + e^-z) is a quarter at most.
    optimizer = SGD(4 / step_limit(X))
    net = Network(
        3, [Dense(1, "sigmoid")], loss="binary_cross_entropy", optimizer=optimizer, dtype="float64"
    )
    net.fit(X, y, epochs=1000, batch_size=None)
    # The optimum itself is known to its gradient of 1e-7 over the least curvature, about 0.1.
    np.testing.assert_allclose(net.parameters, best.flat, rtol=0, atol=1e-6)
    assert net.evaluate(X, y) == pytest.approx(least_loss, rel=1e-12)
    assert np.abs(net.parameters).max() > 0.1


def test_softmax_regression():
    X, labels = overlapping_classes(3)
    start = ReferenceNetwork.from_flat(np.zeros(12), [3, 3], ["softmax"], "cross_entropy")
    best, least_loss = optimum(start, X, labels)

    # The curvature of log sum exp is a half at most.
    optimizer = SGD(2 / step_limit(X))
    net = Network(
        3, [Dense(3, "softmax")], loss="cross_entropy", optimizer=optimizer, dtype="float64"
    )
    net.fit(X, labels, epochs=1000, batch_size=None)
    assert net.evaluate(X, labels) == pytest.approx(least_loss, rel=1e-12)
    np.testing.assert_allclose(net.predict(X), best.predict(X), rtol=0, atol=1e-6)
    # The same number added to the logits of all classes changes nothing, so each parameter is
    # defined up to the mean over the classes.
    for actual, expected in [(net.weights[0], best.weights[0]), (net.biases[0], best.biases[0])]:
        actual = actual - actual.mean(axis=-1, keepdims=True)
        expected = expected - expected.mean(axis=-1, keepdims=True)
        np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-6)


def test_xor():
    """What no network without a hidden layer can learn: the loss falls to nearly nothing."""
    X, y = np.array([[0, 0], [0, 1], [1, 0], [1, 1]]), np.array([0.0, 1.0, 1.0, 0.0])
    layers = [Dense(8, "tanh"), Dense(1, "sigmoid")]
    net = Network(2, layers, loss="binary_cross_entropy", optimizer=SGD(0.5), seed=0)
    net.fit(X, y, epochs=2000, batch_size=None)
    assert np.round(net.predict(X)[:, 0]).tolist() == y.tolist()
    assert net.evaluate(X, y) < 0.02


# What its steps are


def steps_of(net, X, y, order, batch_size):
    """The steps of one epoch one by one, and the mean of their losses over the samples."""
    total = 0.0
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        total += net.train_step(X[rows], y[rows]) * len(rows)
    return total / len(order)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 200])
def test_epoch_without_shuffling_is_its_steps(batch_size):
    """Bit for bit, with a last batch of fewer rows (129 = 18 * 7 + 3 = 2 * 64 + 1)."""
    X, y = classes(129)
    net, twin = classifier(), classifier()
    history = net.fit(X, y, batch_size=batch_size, shuffle=False)
    loss = steps_of(twin, X, y, np.arange(129), batch_size)
    assert net.parameters.tobytes() == twin.parameters.tobytes()
    assert history.loss == [pytest.approx(loss, rel=1e-14)]


@pytest.mark.parametrize("batch_size", [1, 7, 64, None])
def test_epochs_are_their_steps_in_the_order_of_the_seed(batch_size):
    """Bit for bit; the twin's permutations come from the generator its layers were drawn from."""
    X, y = classes(129)
    generators = []

    def glorot(rng, n_in, n_out):
        generators.append(rng)
        return rng.normal(size=(n_in, n_out)) * np.sqrt(2 / (n_in + n_out))

    def network():
        layers = [Dense(17, "tanh", init=glorot), Dense(3, "softmax", init=glorot)]
        return Network(5, layers, loss="cross_entropy", dtype="float64", seed=4)

    net, twin = network(), network()
    rng = generators[-1]
    history = net.fit(X, y, epochs=3, batch_size=batch_size)
    losses = [steps_of(twin, X, y, rng.permutation(129), batch_size or 129) for _ in range(3)]
    assert net.parameters.tobytes() == twin.parameters.tobytes()
    assert history.loss == pytest.approx(losses, rel=1e-14)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 129])
@pytest.mark.parametrize("shuffle", [True, False])
def test_epochs_against_reference(shuffle, batch_size):
    """To rounding: a hundred and some steps of 0.1 each keep the error near that of one."""
    X, y = classes(129)
    net = classifier()
    reference = ReferenceNetwork.from_flat(net.parameters, WIDTHS, ACTIVATIONS, "cross_entropy")
    order = permutations_of(net, 129) if shuffle else itertools.repeat(np.arange(129))
    history = net.fit(X, y, epochs=2, batch_size=batch_size, shuffle=shuffle)
    for epoch in range(2):
        reference, loss = reference.epoch(X, y, 0.1, next(order), batch_size)
        assert history.loss[epoch] == pytest.approx(loss, rel=1e-11)
    np.testing.assert_allclose(net.parameters, reference.flat, rtol=0, atol=1e-11)
