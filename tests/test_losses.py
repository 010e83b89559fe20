"""Losses: values by their definitions in plain NumPy, gradients by central differences of those."""

import numpy as np
import pytest
from reference import ACTIVATIONS, ReferenceNetwork

from fastbp import Dense, Network, losses
from fastbp.losses import LOSSES, CrossEntropy, Huber, Quantile, Tweedie

CALLS = [
    "SquaredError()", "AbsoluteError()", "Huber()", "Huber(0.3)", "LogCosh()", "Quantile(0.9)",
    "Quantile((0.1, 0.5, 0.8))", "Poisson()", "Gamma()", "Tweedie(1.3)", "BinaryCrossEntropy()",
    "CrossEntropy()", "CrossEntropy(0.2)", "Hinge()", "SquaredHinge()", "KullbackLeibler()",
    "Cosine()",
]
OUTPUTS = [name for name in ACTIVATIONS if "(" not in name]


def made(call):
    return eval(call, vars(losses))


def each_loss(loss, a, y, eps):
    """The loss of each sample, from predictions a and targets y, both (n, n_outputs)."""
    positive = np.maximum(a, eps)
    smooth = getattr(loss, "label_smoothing", 0)
    return {
        "squared_error": lambda: (a - y) ** 2 / 2,
        "absolute_error": lambda: np.abs(a - y),
        "huber": lambda: np.where(np.abs(a - y) <= loss.delta, (a - y) ** 2 / 2,
                                  loss.delta * (np.abs(a - y) - loss.delta / 2)),
        "log_cosh": lambda: np.log(np.cosh(a - y)),
        "quantile": lambda: np.maximum(np.array(loss.levels) * (y - a),
                                       (np.array(loss.levels) - 1) * (y - a)),
        "poisson": lambda: positive - y * np.log(positive),
        "gamma": lambda: np.log(positive) + y / positive,
        "tweedie": lambda: positive ** (2 - loss.power) / (2 - loss.power)
        - y * positive ** (1 - loss.power) / (1 - loss.power),
        "binary_cross_entropy": lambda: -y * np.log(np.clip(a, eps, 1 - eps))
        - (1 - y) * np.log(1 - np.clip(a, eps, 1 - eps)),
        "cross_entropy": lambda: -((1 - smooth) * y + smooth / y.shape[1]) * np.log(positive),
        "hinge": lambda: np.maximum(0, 1 - y * a),
        "squared_hinge": lambda: np.maximum(0, 1 - y * a) ** 2,
        "kullback_leibler": lambda: y * np.log(y / positive),
        "cosine": lambda: (1 - (a * y).sum(axis=1) / np.linalg.norm(a, axis=1)
                           / np.linalg.norm(y, axis=1))[:, None],
    }[loss.name]().sum(axis=1)


def targets(loss, n, rng, n_outputs=3):
    """Targets in the domain of a loss."""
    if loss.name in ("cross_entropy", "kullback_leibler"):
        return rng.dirichlet(np.ones(n_outputs), n)
    if loss.name == "binary_cross_entropy":
        return rng.random((n, n_outputs))
    if loss.name in ("hinge", "squared_hinge"):
        return rng.choice([-1.0, 1.0], (n, n_outputs))
    if loss.name == "gamma":
        return rng.gamma(2, size=(n, n_outputs)) + 0.1
    if loss.name in ("poisson", "tweedie"):
        return rng.poisson(2, (n, n_outputs)).astype(float)
    return rng.normal(size=(n, n_outputs))


POSITIVE = ("poisson", "gamma", "tweedie", "binary_cross_entropy", "cross_entropy",
            "kullback_leibler", "cosine")


def problem(call, output, rows=6, dtype="float64"):
    loss = made(call)
    rng = np.random.default_rng([rows, len(output)])
    net = Network(5, [Dense(4, "tanh"), Dense(3, output)], loss=loss, dtype=dtype, seed=0)
    net.parameters[:] = rng.normal(size=net.n_parameters) * 0.7
    if loss.name in POSITIVE and "softmax" not in output:
        # off the clip's edges, beyond which a loss is flat, and off a length of zero
        net.weights[1][:] *= 0.1
        net.biases[1][:] = 0.5
    X = rng.normal(size=(rows, 5)).astype(dtype)
    return net, loss, X, targets(loss, rows, rng).astype(dtype)


def reference_loss(net, loss, X, y, parameters, output):
    if (output, loss.name) == ("log_softmax", "cross_entropy"):
        output = "softmax"  # the same loss of the logarithms themselves
    if (output, loss.name) == ("log_softmax", "kullback_leibler"):
        output = "softmax"
    reference = ReferenceNetwork.from_flat(parameters, [5, 4, 3], ["tanh", output], "squared_error")
    eps = float(np.finfo(net.dtype).eps)
    paired = (output, loss.name) in {
        ("softmax", "cross_entropy"), ("softmax", "kullback_leibler"),
        ("sigmoid", "binary_cross_entropy"), ("exponential", "poisson"), ("exponential", "gamma"),
        ("exponential", "tweedie"),
    }
    return each_loss(loss, reference.predict(X), y, 0 if paired else eps).mean()


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("call", CALLS)
def test_value_and_gradient(call, output, record_error):
    """Every pair, in float64: the value to rounding, the gradient to what differences can show."""
    for rows in (1, 6):
        net, loss, X, y = problem(call, output, rows)
        found, gradient = net.loss_and_gradient(X, y)
        theta = net.parameters.copy()
        expected = reference_loss(net, loss, X, y, theta, output)
        assert found == pytest.approx(expected, rel=1e-11, abs=1e-12)
        differences = np.empty_like(theta)
        for k in range(len(theta)):
            h = 1e-6 * max(1, abs(theta[k]))
            above, below = theta.copy(), theta.copy()
            above[k] += h
            below[k] -= h
            differences[k] = (
                reference_loss(net, loss, X, y, above, output)
                - reference_loss(net, loss, X, y, below, output)
            ) / (above[k] - below[k])
        scale = max(1.0, np.abs(differences).max())
        error = np.abs(gradient - differences).max() / scale
        # logarithms at the clip are as large as 36: their differences lose two digits more
        assert record_error("losses, central differences", error) < 3e-8


@pytest.mark.parametrize("call", CALLS)
def test_float32_is_float64_to_rounding(call):
    output = "sigmoid" if call in ("BinaryCrossEntropy()", "Poisson()", "Gamma()") else "softmax"
    single, _, X, y = problem(call, output, 40, "float32")
    double, _, _, _ = problem(call, output, 40)
    double.parameters[:] = single.parameters
    first, of_single = single.loss_and_gradient(X, y)
    second, of_double = double.loss_and_gradient(X.astype(float), y.astype(float))
    assert first == pytest.approx(second, rel=1e-5)
    np.testing.assert_allclose(of_single, of_double, rtol=0, atol=2e-6 * np.abs(of_double).max())


@pytest.mark.parametrize("name", LOSSES)
def test_names(name):
    assert Network(2, [Dense(2)], loss=name).loss == LOSSES[name]()


# --- exact where it is hard


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_cosh_near_zero_and_far_from_it(dtype):
    net = Network(1, [Dense(1)], loss="log_cosh", dtype=dtype, seed=0)
    net.parameters[:] = [1, 0]
    for r in (0.0, 1e-5, 1e-3, 1.1e-3, 0.1, 3.0, 50.0, 1e6):
        expected = np.log(np.cosh(r)) if 1e-2 < r < 50 else (
            r - np.log(2) if r >= 50 else r**2 / 2 - r**4 / 12)
        assert net.evaluate([[r]], [0.0]) == pytest.approx(expected, rel=2e-6)
        slope = net.loss_and_gradient([[r]], [0.0])[1][1]
        assert slope == pytest.approx(np.tanh(r), rel=1e-6)


@np.errstate(over="ignore")
@pytest.mark.parametrize("z", [-800.0, -100.0, 0.0, 5.0])
def test_means_next_to_zero(z):
    """Of the exponential's own losses, from the raw output."""
    y = 2.0
    for loss, expected, slope in (
        ("poisson", np.exp(z) - y * z, np.exp(z) - y),
        ("tweedie", 2 * np.exp(z / 2) + 2 * y * np.exp(-z / 2), np.exp(z / 2) - y * np.exp(-z / 2)),
        ("gamma", z + y * np.exp(-z), 1 - y * np.exp(-z)),
    ):
        if not np.isfinite(expected):
            continue
        net = Network(1, [Dense(1, "exponential")], loss=loss, dtype="float64", seed=0)
        net.parameters[:] = [0, z]
        found, gradient = net.loss_and_gradient([[1.0]], [y])
        assert found == pytest.approx(expected, rel=1e-13)
        assert gradient[1] == pytest.approx(slope, rel=1e-13)


def test_cosine_of_nothing():
    """A prediction of length zero is as far from every direction as a right angle."""
    net = Network(2, [Dense(2)], loss="cosine", dtype="float64", seed=0)
    net.parameters[:] = 0
    loss, gradient = net.loss_and_gradient([[1.0, 2.0]], [[3.0, 4.0]])
    assert loss == 1
    assert np.isfinite(gradient).all()


# --- what they are for


def test_quantiles_of_one_target():
    """Constant predictions go to the quantiles of the data."""
    rng = np.random.default_rng(0)
    y = rng.exponential(size=2001)
    levels = (0.1, 0.5, 0.9)
    net = Network(1, [Dense(3)], loss=Quantile(levels), optimizer="adam", dtype="float64", seed=0)
    net.optimizer = type(net.optimizer)(lambda step: 0.1 / (1 + step / 50))
    X = np.zeros((2001, 1))
    net.fit(X, y, epochs=2000, batch_size=None)
    np.testing.assert_allclose(net.predict(X[0]), np.quantile(y, levels), atol=0.02)
    same = net.evaluate(X, np.repeat(y[:, None], 3, axis=1))
    assert net.evaluate(X, y) == net.evaluate(X, y[:, None]) == same
    assert net.train_step(X[0], y[0]) > 0


def test_label_smoothing_of_labels_and_rows():
    rng = np.random.default_rng(0)
    net = Network(4, [Dense(5, "softmax")], loss=CrossEntropy(0.1), dtype="float64", seed=0)
    X, labels = rng.normal(size=(30, 4)), rng.integers(5, size=30)
    smooth = np.where(np.eye(5)[labels] == 1, 0.9 + 0.1 / 5, 0.1 / 5)
    expected = -(smooth * np.log(net.predict(X))).sum(axis=1).mean()
    assert net.evaluate(X, labels) == pytest.approx(expected, rel=1e-13)
    assert net.evaluate(X, np.eye(5)[labels]) == pytest.approx(expected, rel=1e-13)
    assert net.check_gradient(X, labels) < 1e-7


@pytest.mark.parametrize("loss", ["hinge", "squared_hinge"])
def test_zeros_stand_for_minus_one(loss):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 4)), rng.integers(2, size=20)
    net = Network(4, [Dense(1)], loss=loss, dtype="float64", seed=0)
    assert net.evaluate(X, y) == net.evaluate(X, 2.0 * y - 1)


# --- bad input

DOMAINS = [
    ("poisson", [1, 2, -1, -3], "y must not be negative for poisson, got -1 at index 2"),
    ("tweedie", [0, -0.5, 1, 1], "y must not be negative for tweedie, got -0.5 at index 1"),
    ("gamma", [1, 2, 3, 0], "y must be positive for gamma, got 0 at index 3"),
    ("hinge", [1, -1, 2, 1], "y must be -1 or 1, or 0 or 1, for hinge, got 2 at index 2"),
    ("squared_hinge", [1, 0.5, 0, 1], "or 0 or 1, for squared_hinge, got 0.5 at index 1"),
    ("hinge", [1, -1, 0, 1], "got -1 and, at index 2, 0"),
    ("binary_cross_entropy", [0, 1, 1.5, 0], r"lie in \[0, 1\] .*got 1.5 at index 2"),
]


@pytest.mark.parametrize(("loss", "y", "message"), DOMAINS)
def test_targets_outside_the_domain(loss, y, message):
    net = Network(2, [Dense(1)], loss=loss, seed=0)
    before = net.parameters.copy()
    for call in (net.fit, net.train_step, net.evaluate, net.loss_and_gradient):
        with pytest.raises(ValueError, match=message):
            call(np.ones((4, 2)), y)
    np.testing.assert_array_equal(net.parameters, before)


def test_the_first_offending_index_of_many_outputs():
    net = Network(2, [Dense(3)], loss="poisson", seed=0)
    y = np.ones((4, 3))
    y[1, 2] = y[2, 0] = -1
    with pytest.raises(ValueError, match=r"got -1 at index \(1, 2\)"):
        net.evaluate(np.ones((4, 2)), y)


def test_rows_that_are_no_probabilities():
    net = Network(2, [Dense(3, "softmax")], loss="kullback_leibler", seed=0)
    y = np.full((4, 3), 1 / 3)
    y[2] = 0.5
    with pytest.raises(ValueError, match=r"row 2 has a least value of 0\.5 and sums to 1\.5"):
        net.evaluate(np.ones((4, 2)), y)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Huber(0), ValueError, "delta must be positive"),
        (lambda: Tweedie(1), ValueError, r"power must lie in \(1, 2\), got 1"),
        (lambda: Tweedie(2.5), ValueError, r"power must lie in \(1, 2\)"),
        (lambda: Quantile(0), ValueError, r"levels must lie in \(0, 1\), got 0"),
        (lambda: Quantile((0.5, 1.0)), ValueError, r"levels must lie in \(0, 1\), got 1"),
        (lambda: Quantile(()), TypeError, "levels must be a number or a sequence"),
        (lambda: Quantile("0.5"), TypeError, "levels must be a number or a sequence"),
        (lambda: CrossEntropy(1), ValueError, r"label_smoothing must lie in \[0, 1\)"),
        (lambda: Network(2, [Dense(2)], loss=Quantile((0.1, 0.5, 0.9))), ValueError,
         "one output for each level, got 2 for 3"),
        (lambda: Network(2, [Dense(2)], loss="mse"), ValueError, "unknown loss 'mse'; valid are"),
    ],
)
def test_bad_settings(make, error, message):
    with pytest.raises(error, match=message):
        make()
