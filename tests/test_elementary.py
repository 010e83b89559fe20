"""The engine's own exp, sigmoid and tanh, in units in the last place, against NumPy's long double.

They are reached through networks of one layer with unit weights: what goes in is Z.
"""

import numpy as np
import pytest

from fastbp import Dense, Network

if np.finfo(np.longdouble).nmant <= np.finfo(np.float64).nmant:
    pytest.skip("long double is no wider than double here: no oracle", allow_module_level=True)

DTYPES = [np.float32, np.float64]
LIMIT = {np.float32: 88.0, np.float64: 708.0}


def arguments(dtype, limit):
    """Dense around zero, up to the limits, and at the edges of the format."""
    rng = np.random.default_rng(0)
    tiny, smallest = np.finfo(dtype).tiny, np.finfo(dtype).smallest_subnormal
    edges = [0.0, -0.0, tiny, -tiny, smallest, -smallest, limit, -limit]
    return np.concatenate([
        rng.uniform(-limit, limit, 20_000),
        rng.uniform(-1, 1, 20_000),
        rng.normal(size=20_000) * 10.0 ** rng.uniform(-8, 0, 20_000),
        edges,
    ]).astype(dtype)


def activation_of(name, z):
    """f(z) computed by a network: one input, one output, weight 1, bias 0."""
    net = Network(1, [Dense(1, name)], dtype=z.dtype, seed=0)
    net.parameters[:] = [1, 0]
    return net.predict(z[:, np.newaxis])[:, 0]


def ulps(result, exact):
    """The error in units in the last place of the exact value."""
    spacing = np.spacing(np.abs(exact).astype(result.dtype)).astype(np.longdouble)
    return np.abs(result.astype(np.longdouble) - exact) / spacing


def sigmoid(z):
    z = z.astype(np.longdouble)
    return 1 / (1 + np.exp(-z))


def tanh(z):
    return np.tanh(z.astype(np.longdouble))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "exact", "bound"), [
    # exp rounds within 1, adding and dividing within 1/2 each, for sigmoid; tanh divides two
    # sums that each carry the error of exp
    ("sigmoid", sigmoid, 3),
    ("tanh", tanh, 3),
])
def test_error_in_ulp(name, exact, bound, dtype):
    z = arguments(dtype, LIMIT[dtype])
    result = activation_of(name, z)
    # below the normal numbers the last place is coarse; it is compared absolutely there
    normal = np.abs(exact(z)) >= np.finfo(dtype).tiny
    assert ulps(result, exact(z))[normal].max() <= bound
    assert np.abs(result[~normal] - exact(z[~normal])).max(initial=0) <= np.finfo(dtype).tiny


@pytest.mark.parametrize("dtype", DTYPES)
def test_exponential_in_ulp(dtype):
    """Through softmax of two: exp(z) / (exp(z) + 1) for z < 0 is exp(z) where that is small."""
    z = -np.random.default_rng(1).uniform(40, LIMIT[dtype] - 1, 10_000).astype(dtype)
    net = Network(1, [Dense(2, "softmax")], dtype=dtype, seed=0)
    net.parameters[:] = [1, 0, 0, 0]
    result = net.predict(z[:, np.newaxis])[:, 0]
    assert ulps(result, np.exp(z.astype(np.longdouble))).max() <= 1.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_far_beyond_the_limits(dtype):
    huge = np.array([1e4, 1e30, -1e4, -1e30], dtype)
    np.testing.assert_array_equal(activation_of("sigmoid", huge), np.array([1, 1, 0, 0], dtype))
    np.testing.assert_array_equal(activation_of("tanh", huge), np.array([1, 1, -1, -1], dtype))


@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_symmetry_and_signed_zero_of_tanh(dtype):
    z = arguments(dtype, 30)
    np.testing.assert_array_equal(activation_of("tanh", -z), -activation_of("tanh", z))
