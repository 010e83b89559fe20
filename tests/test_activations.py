"""Activations: values in units in the last place, gradients, parameters, and layers left alone."""

import itertools

import numpy as np
import pytest
from reference import ACTIVATIONS, DERIVATIVES, ReferenceNetwork, dense_targets

from fastbp import SGD, Adam, Dense, Network, activations
from fastbp.activations import ELU, LeakyReLU, Softplus

mpmath = pytest.importorskip("mpmath", reason="the oracle of the values")
mpmath.mp.prec = 200

ELEMENTWISE = [name for name in ACTIVATIONS if "softmax" not in name]
LOSSES = ["squared_error", "binary_cross_entropy", "cross_entropy"]
DTYPES = [np.float32, np.float64]
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def made(name):
    """What Dense takes, from a key of the reference."""
    if "(" in name:
        return eval(name, vars(activations))
    return name


# --- values


def exact(name, z):
    """f(z) with 60 digits."""
    mp, z = mpmath.mp, mpmath.mpf(float(z))
    return {
        "identity": lambda: z,
        "sigmoid": lambda: 1 / (1 + mp.exp(-z)),
        "hard_sigmoid": lambda: min(max(z / 6 + mpmath.mpf(1) / 2, 0), 1),
        "tanh": lambda: mp.tanh(z),
        "relu": lambda: max(z, 0),
        "relu6": lambda: min(max(z, 0), 6),
        "leaky_relu": lambda: z if z > 0 else mpmath.mpf("0.01") * z,
        "LeakyReLU(alpha=0.3)": lambda: z if z > 0 else mpmath.mpf("0.3") * z,
        "elu": lambda: z if z > 0 else mp.expm1(z),
        "ELU(alpha=0.5)": lambda: z if z > 0 else mp.expm1(z) / 2,
        "selu": lambda: mpmath.mpf("1.0507009873554804934193349852946")
        * (z if z > 0 else mpmath.mpf("1.6732632423543772848170429916717") * mp.expm1(z)),
        "softplus": lambda: mp.log1p(mp.exp(z)),
        "Softplus(beta=3.0)": lambda: mp.log1p(mp.exp(3 * z)) / 3,
        "softsign": lambda: z / (1 + abs(z)),
        "exponential": lambda: mp.exp(z),
        "gelu": lambda: max(z, 0) if abs(z) > 1000 else z * mp.erfc(-z / mp.sqrt(2)) / 2,
        "gelu_tanh": lambda: z / (1 + mp.exp(
            -2 * mp.sqrt(2 / mp.pi) * (z + mpmath.mpf("0.044715") * z**3))),
        "silu": lambda: z / (1 + mp.exp(-z)),
        "mish": lambda: z * mp.tanh(mp.log1p(mp.exp(z))),
    }[name]()


def arguments(dtype):
    rng = np.random.default_rng(0)
    tiny, smallest = np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal
    edges = [0.0, -0.0, tiny, -tiny, smallest, -smallest, 3.0, -3.0, 6.0, 88.0, -88.0, 1e4, -1e4]
    if dtype == np.float64:
        edges += [700.0, -700.0]
    large = [np.finfo(dtype).max, -np.finfo(dtype).max]
    spread = [rng.uniform(-1, 1, 300), rng.normal(size=300) * 4, rng.uniform(-80, 80, 300)]
    return np.concatenate([*spread, edges, large]).astype(dtype)


def values(name, z):
    """f(z) computed by a network of one weight 1, through its vectorised loop."""
    net = Network(1, [Dense(1, made(name))], dtype=z.dtype, seed=0)
    net.parameters[:] = [1, 0]
    return net.predict(z[:, np.newaxis])[:, 0]


# In units in the last place of the exact value; in the left tails, where z f(z) falls like exp, the
# rounding of the exponent grows with its size: the bound is for values that are not next to zero.
BOUNDS = {
    "identity": 0.5, "relu": 0.5, "relu6": 0.5, "hard_sigmoid": 2, "leaky_relu": 1,
    "LeakyReLU(alpha=0.3)": 1.5, "sigmoid": 3, "tanh": 3, "elu": 3, "ELU(alpha=0.5)": 3, "selu": 4,
    "softplus": 4, "Softplus(beta=3.0)": 6, "softsign": 1.5, "exponential": 2, "gelu": 8,
    "gelu_tanh": 8, "silu": 4, "mish": 6,
}
# Below this magnitude of the value the error is bounded relative to it: a tail next to zero.
TAIL = {"Softplus(beta=3.0)": 1e-2, "gelu": 1e-2, "gelu_tanh": 1e-2, "hard_sigmoid": 0.5}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_error_in_ulp(name, dtype):
    z = arguments(dtype)
    result = values(name, z)
    tiny = float(np.finfo(dtype).tiny)
    worst = 0.0
    for argument, found in zip(z, result, strict=True):
        expected = exact(name, argument)
        if abs(expected) > float(np.finfo(dtype).max):
            assert np.isinf(found)
            continue
        if abs(expected) < tiny * 256:  # denormals count as zero, those of a factor too
            assert abs(found) <= tiny * 256
            continue
        size = dtype(abs(float(expected)))
        unit = float(size - np.nextafter(size, dtype(0)))
        if abs(expected) < TAIL.get(name, 0):
            unit = max(unit, float(np.finfo(dtype).eps) * TAIL[name])
        worst = max(worst, abs(float((mpmath.mpf(float(found)) - expected) / unit)))
    assert worst <= BOUNDS[name]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nan_passes_through(name):
    net = Network(1, [Dense(1, made(name))], dtype="float64", seed=0)
    net.parameters[:] = [np.nan, 0]
    assert np.isnan(net.predict(np.ones((9, 1)))).all()


# --- derivatives


@pytest.mark.parametrize("name", DERIVATIVES)
def test_the_references_derivatives(name):
    """The oracle of what follows, against central differences of the reference's values."""
    z = np.linspace(-4, 7, 23) + 0.03
    h = 1e-5
    differences = (ACTIVATIONS[name](z + h) - ACTIVATIONS[name](z - h)) / (2 * h)
    np.testing.assert_allclose(DERIVATIVES[name](z), differences, rtol=0,
                               atol=1e-8 * max(1, np.abs(differences).max()))


def problem(widths, hidden, output, loss, rows, dtype):
    """A network, the reference of the same parameters, and data."""
    rng = np.random.default_rng([rows, len(widths)])
    layers = [*(Dense(n, made(hidden)) for n in widths[1:-1]), Dense(widths[-1], made(output))]
    net = Network(widths[0], layers, loss=loss, dtype=dtype, seed=0)
    net.parameters[:] = rng.normal(size=net.n_parameters) * 0.3
    X = rng.normal(size=(rows, widths[0])).astype(dtype)
    y = rng.dirichlet(np.ones(widths[-1]), rows).astype(dtype)
    names = [hidden] * (len(widths) - 2) + [output]
    reference = ReferenceNetwork.from_flat(net.parameters.astype(np.float64), widths, names, loss)
    reference.eps = float(np.finfo(dtype).eps)
    return net, reference, X, y


def assert_same(net, reference, X, y, dtype, record_error):
    expected = reference.gradient(X.astype(np.float64), y.astype(np.float64))
    loss, gradient = net.loss_and_gradient(X, y)
    error = np.abs(gradient - expected).max() / np.abs(expected).max()
    assert record_error(f"activations, {dtype}", error) < TOLERANCE[dtype]
    assert loss == pytest.approx(reference.loss_value(X, y), rel=10 * TOLERANCE[dtype])
    predicted = reference.predict(X.astype(np.float64))
    np.testing.assert_allclose(net.predict(X), predicted, rtol=0,
                               atol=10 * TOLERANCE[dtype] * max(1, np.abs(predicted).max()))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("widths", [(5, 17, 3), (33, 9, 40, 1), (1, 1, 2), (300, 400, 300, 4)])
@pytest.mark.parametrize("hidden", ELEMENTWISE)
def test_hidden(hidden, widths, dtype, record_error):
    if hidden == "exponential":
        widths = widths[:1] + widths[-2:]  # one after the other, it overflows
    for rows in (1, 7, 64):
        net, reference, X, y = problem(widths, hidden, "identity", "squared_error", rows, dtype)
        assert_same(net, reference, X, y, dtype, record_error)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("output", ACTIVATIONS)
def test_output(output, loss, dtype, record_error):
    """Every pair of activation and loss; what is no probability is met by the clip as it comes."""
    for rows in (1, 7, 64):
        net, reference, X, y = problem((5, 17, 3), "tanh", output, loss, rows, dtype)
        if loss != "squared_error" and output not in ("sigmoid", "softmax", "log_softmax"):
            # off the clip's edges, where one rounding decides
            net.biases[1][:] = 0.5
            net.weights[1][:] *= 0.1
            reference = reference.with_flat(net.parameters.astype(np.float64))
        if (output, loss) == ("log_softmax", "cross_entropy"):
            reference.activations[-1] = "softmax"  # the same loss, of logarithms as they are
            expected = reference.gradient(X.astype(np.float64), y.astype(np.float64))
            gradient = net.loss_and_gradient(X, y)[1]
            assert np.abs(gradient - expected).max() < 10 * TOLERANCE[dtype]
            continue
        expected = reference.gradient(X.astype(np.float64), y.astype(np.float64))
        gradient = net.loss_and_gradient(X, y)[1]
        scale = max(np.abs(expected).max(), 1e-3)
        error = np.abs(gradient - expected).max() / scale
        assert record_error(f"activations, {dtype}", error) < TOLERANCE[dtype] * 10


def test_one_activation_per_layer():
    rng = np.random.default_rng(0)
    names = ["gelu", "relu", "mish", "ELU(alpha=0.5)", "silu", "identity"]
    widths = [6, 10, 11, 12, 13, 14, 2]
    net = Network(6, [Dense(n, made(name)) for n, name in zip(widths[1:], names, strict=True)],
                  dtype="float64", seed=0)
    reference = ReferenceNetwork.from_flat(net.parameters, widths, names, "squared_error")
    X, y = rng.normal(size=(50, 6)), rng.normal(size=(50, 2))
    np.testing.assert_allclose(net.loss_and_gradient(X, y)[1], reference.gradient(X, y),
                               rtol=0, atol=1e-13)
    assert net.check_gradient(X, y) < 1e-7


# --- parameters


@pytest.mark.parametrize(("name", "default"), [
    ("leaky_relu", LeakyReLU(0.01)), ("elu", ELU(1.0)), ("softplus", Softplus(1.0)),
])
def test_names_have_default_parameters(name, default):
    X = np.linspace(-3, 3, 20)[:, None]
    by_name, by_object = (
        Network(1, [Dense(4, activation), Dense(1)], seed=0) for activation in (name, default)
    )
    np.testing.assert_array_equal(by_name.predict(X), by_object.predict(X))
    assert repr(default) in str(by_object)


@pytest.mark.parametrize("kind", [LeakyReLU, ELU])
@pytest.mark.parametrize("alpha", [0, -1, np.inf, np.nan])
def test_bad_alpha(kind, alpha):
    with pytest.raises(ValueError, match="alpha must be positive and finite"):
        kind(alpha)


def test_bad_activations():
    with pytest.raises(ValueError, match="beta must be positive"):
        Softplus(0)
    with pytest.raises(ValueError, match="unknown activation 'gelo'; valid are 'identity'"):
        Dense(3, "gelo")
    with pytest.raises(TypeError, match="activation must be one of"):
        Dense(3, np.tanh)
    with pytest.raises(ValueError, match="activation 'log_softmax' belongs in the last layer"):
        Network(3, [Dense(3, "log_softmax"), Dense(1)])


# --- layers left alone


@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.1, weight_decay=0.5, clip_norm=1.0),
                                       Adam(0.1, weight_decay=0.1)], ids=str)
@pytest.mark.parametrize("left", [(0,), (1,), (2,), (0, 1), (0, 2), (0, 1, 2)])
def test_layers_that_are_not_trained(left, optimizer):
    """They stay, their gradient is zero, and that of the others is as it would be."""
    rng = np.random.default_rng(0)
    widths = [30, 40, 20, 3]
    layers = [Dense(n, "tanh", trainable=at not in left) for at, n in enumerate(widths[1:])]
    net = Network(30, layers, optimizer=optimizer, dtype="float64", seed=0)
    reference = ReferenceNetwork.from_flat(net.parameters, widths, ["tanh"] * 3, "squared_error")
    alone = np.concatenate([
        np.full((n_in + 1) * n_out, at in left)
        for at, (n_in, n_out) in enumerate(itertools.pairwise(widths))
    ])
    for rows in (1, 50):
        X, y = rng.normal(size=(rows, 30)), rng.normal(size=(rows, 3))
        before = net.parameters.copy()
        expected = np.where(alone, 0, reference.with_flat(before).gradient(X, y))
        np.testing.assert_allclose(net.loss_and_gradient(X, y)[1], expected, rtol=0, atol=1e-13)
        net.train_step(X, y)
        changed = net.parameters != before
        assert not changed[alone].any()
        assert changed[~alone].all()
        assert net.check_gradient(X, y, n_checks=20) < 1e-6


def test_labels_of_log_softmax():
    """Cross-entropy takes its logarithms as they are."""
    net = Network(4, [Dense(3, "log_softmax")], loss="cross_entropy", dtype="float64", seed=0)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 4)) * 100, rng.integers(3, size=20)
    expected = -(net.predict(X) * dense_targets(y, 3)).sum(axis=1).mean()
    assert net.evaluate(X, y) == pytest.approx(expected, rel=1e-13)
