"""Derivatives by the inputs, and what hidden layers put out.

The oracles are a network in NumPy that is written here, central differences and PyTorch.
"""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import ACTIVATIONS, ReferenceNetwork, activation_backward, reference_of
from scipy import sparse
from test_activations import made as made_activation
from test_losses import CALLS, problem

from fastbp import (
    SGD,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    Network,
    Normalize,
    Residual,
)

DTYPES = ["float32", "float64"]
# Sums of some 40 products a few layers deep, relative to the largest derivative.
TOLERANCE = {"float32": 5e-6, "float64": 1e-14}
ELEMENTWISE = [name for name in ACTIVATIONS if "softmax" not in name]
STACKS = {
    "normalize": [Normalize(), Dense(7, "gelu"), Dense(3)],
    "batch norm": [Dense(7), BatchNorm("tanh"), Dense(3, "softmax")],
    "batch norm first": [BatchNorm(), Dense(7, "silu"), BatchNorm(), Dense(3)],
    "layer norm": [LayerNorm(), Dense(7, "mish"), LayerNorm("tanh"), Dense(3)],
    "residual": [Residual([Dense(9, "tanh"), Dense(5)]), Dense(3)],
    "residuals in each other": [
        Residual([LayerNorm("softplus"), Residual([Dense(5, "tanh")]), Dense(5)]),
        Residual([Dense(6, "sigmoid"), BatchNorm(), Dense(5)]), Dense(3, "log_softmax"),
    ],
    "dropout": [Dropout(0.3), Dense(7, "elu"), Dropout(0.5), Dense(3, "sigmoid")],
    "all": [Normalize(), Dense(6, "tanh"), Residual([BatchNorm("selu"), Dropout(0.1), Dense(6)]),
            LayerNorm(), Dense(3, "softmax")],
    "frozen": [Dense(7, "tanh", trainable=False), Dense(3, trainable=False)],
}


def rows(n, width=5, dtype="float64", seed=1):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(dtype)


def network(layers, dtype="float64", **settings):
    """A network with parameters and statistics that are not as at first."""
    net = Network(5, layers, dtype=dtype, seed=0, **settings)
    rng = np.random.default_rng(2)
    net.parameters[...] = rng.normal(size=net.n_parameters) * 0.6
    for mean, spread in net.statistics:
        mean[...], spread[...] = rng.normal(size=mean.shape), rng.uniform(0.5, 2, spread.shape)
    return net


class Forward:
    """What a network computes, layer by layer, from its public parts: in NumPy, or in PyTorch."""

    def __init__(self, net, activations, array=np.asarray, root=np.sqrt):
        self.net, self.activations, self.array, self.root = net, activations, array, root

    def through(self, layer, A, parameters, statistics):
        if isinstance(layer, Residual):
            inner = A
            for each in layer.layers:
                inner = self.through(each, inner, parameters, statistics)
            return A + inner
        if isinstance(layer, Dropout):
            return A
        if isinstance(layer, Normalize):
            mean, deviation = next(statistics)
            return (A - mean) / deviation
        weight, bias = next(parameters)
        if isinstance(layer, Dense):
            Z = A @ weight + bias
        else:
            if isinstance(layer, BatchNorm):
                mean, variance = next(statistics)
            else:
                mean = A.mean(-1)[..., None]
                variance = ((A - mean) ** 2).mean(-1)[..., None]
            Z = (A - mean) / self.root(variance + layer.epsilon) * weight + bias
        return self.activations[str(layer.activation)](Z)

    def each(self, X):
        """The outputs of each layer, from inputs of any number of axes."""
        net = self.net
        wide = [tuple(self.array(part.astype(float)) for part in pair)
                for pair in itertools.chain(zip(net.weights, net.biases, strict=True),
                                            net.statistics)]
        parameters, statistics = iter(wide[: len(net.weights)]), iter(wide[len(net.weights):])
        found = []
        for layer in net.layers:
            X = self.through(layer, X, parameters, statistics)
            found.append(X)
        return found

    def __call__(self, X):
        return self.each(X)[-1]


def forward(net):
    def of_rows(name):
        return lambda Z: ACTIVATIONS[name](Z.reshape(-1, Z.shape[-1])).reshape(Z.shape)

    return Forward(net, {name: of_rows(name) for name in ACTIVATIONS})


def slope(function, X, step):
    """The derivative along a step, which it is divided by: central differences of fourth order."""
    near, far = function(X + step) - function(X - step), function(X + 2 * step) - function(
        X - 2 * step)
    return (8 * near - far) / (12 * np.abs(step).max())


def differences(function, X, h=1e-4):
    """The derivatives of each output by each input of its row."""
    steps = h * np.eye(X.shape[1])
    return np.stack([slope(function, X, step) for step in steps], axis=-1)


def jacobian_by_hand(reference, X):
    """The chain rule of reference.py, for each output in turn."""
    logits, activations = reference.forward(X)
    found = []
    for k in range(activations[-1].shape[1]):
        dA = np.zeros_like(activations[-1])
        dA[:, k] = 1
        for layer in reversed(range(len(reference.weights))):
            D = activation_backward(reference.activations[layer], logits[layer], dA)
            dA = D @ reference.weights[layer].T
        found.append(dA)
    return np.stack(found, axis=1)


def assert_close(found, expected, dtype, factor=1.0):
    assert found.dtype == dtype
    assert found.shape == expected.shape
    scale = np.abs(expected).max()
    assert scale > 0
    np.testing.assert_allclose(found, expected, rtol=0, atol=factor * TOLERANCE[dtype] * scale)


# --- jacobians ------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_jacobian_through_every_activation(name, dtype):
    hidden = name if name in ELEMENTWISE else "tanh"
    layers = [Dense(6, made_activation(hidden)), Dense(4, made_activation(name))]
    net = network(layers, dtype)
    X = rows(9, dtype=dtype)
    flat = net.parameters.astype(float)
    reference = ReferenceNetwork.from_flat(flat, [5, 6, 4], [hidden, name], "squared_error")
    expected = jacobian_by_hand(reference, X.astype(float))
    # some kinks lie at round numbers that float32 may round to, on one side of which or the other
    assert_close(net.jacobian(X), expected, dtype, 4)
    assert_close(net.jacobian(X[0]), expected[0], dtype, 4 * np.abs(expected).max()
                 / np.abs(expected[0]).max())


@pytest.mark.parametrize("stack", STACKS)
def test_a_jacobian_through_every_layer(stack, record_error):
    net = network(STACKS[stack])
    X = rows(6)
    found = net.jacobian(X)
    expected = differences(forward(net), X)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    # rounding of 1e-16 over the step, and the fourth power of that
    assert record_error("jacobians, central differences", error) < 1e-10
    np.testing.assert_array_equal(net.jacobian(X[0]).shape, (3, 5))
    for i in range(6):  # one row has a path of its own
        assert_close(net.jacobian(X[i]), found[i], "float64", 10)
    single = network(STACKS[stack], "float32")
    single.parameters[...] = net.parameters
    for narrow, wide in zip(single.statistics, net.statistics, strict=True):
        narrow[0][...], narrow[1][...] = wide
    assert_close(single.jacobian(X.astype("float32")), found, "float32", 2)


SIZES = {
    "one row": (1, [5, 6, 4]),
    "as many derivatives as a pass holds": (256, [5, 6, 4]),
    "one more": (257, [5, 6, 4]),
    "many passes": (900, [5, 9, 7]),
    "one output": (1500, [5, 8, 1]),
    "more outputs than a pass holds": (3, [5, 8, 1025]),
    "several passes for each row": (2, [5, 8, 2500]),
    "as many outputs as a pass holds": (2, [5, 8, 1024]),
    "no hidden layer": (40, [5, 30]),
    "wide": (20, [300, 200, 33]),
    "one input": (70, [1, 20, 16]),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("n", "widths"), SIZES.values(), ids=SIZES)
def test_jacobians_of_every_size(n, widths, dtype):
    n_in, *units = widths
    layers = [*(Dense(width, "tanh") for width in units[:-1]), Dense(units[-1], "sigmoid")]
    net = Network(n_in, layers, dtype=dtype, seed=0)
    X = rows(n, n_in, dtype)
    reference = ReferenceNetwork.from_flat(
        net.parameters.astype(float), widths, ["tanh"] * (len(units) - 1) + ["sigmoid"],
        "squared_error")
    # that of the sigmoid stands alone, so that a thousand outputs need no thousand passes
    logits, activations = reference.forward(X.astype(float))
    A = activations[-1]
    expected = np.broadcast_to(reference.weights[-1].T, (n, *reference.weights[-1].T.shape))
    for layer in reversed(range(len(units) - 1)):
        slopes = 1 / np.cosh(logits[layer]) ** 2
        expected = (expected * slopes[:, None, :]) @ reference.weights[layer].T
    assert_close(net.jacobian(X), expected * (A * (1 - A))[:, :, None], dtype)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 40), min_size=2, max_size=4), st.integers(1, 40),
       st.sampled_from(DTYPES), st.sampled_from(["tanh", "silu", "softmax"]))
def test_jacobians_of_any_shape(widths, n, dtype, last):
    n_in, *units = widths
    layers = [*(Dense(width, "tanh") for width in units[:-1]), Dense(units[-1], last)]
    net = Network(n_in, layers, dtype=dtype, seed=n)
    X = rows(n, n_in, dtype)
    reference = reference_of(net).astype(float)
    expected = jacobian_by_hand(reference, X.astype(float))
    # one output of a softmax is 1, whatever the inputs: the difference of what is rounded
    np.testing.assert_allclose(net.jacobian(X), expected, rtol=0,
                               atol=4 * TOLERANCE[dtype] * max(1, np.abs(expected).max()))


TORCH = {
    "identity": lambda torch, z: z,
    "sigmoid": lambda torch, z: torch.sigmoid(z),
    "tanh": lambda torch, z: torch.tanh(z),
    "relu": lambda torch, z: torch.relu(z),
    "softmax": lambda torch, z: torch.softmax(z, -1),
    "log_softmax": lambda torch, z: torch.log_softmax(z, -1),
    # whose own has a sixth in single precision in its derivative
    "hard_sigmoid": lambda torch, z: torch.clamp(z / 6 + 0.5, 0, 1),
    "relu6": lambda torch, z: torch.nn.functional.relu6(z),
    "leaky_relu": lambda torch, z: torch.nn.functional.leaky_relu(z),
    "elu": lambda torch, z: torch.nn.functional.elu(z),
    "selu": lambda torch, z: torch.nn.functional.selu(z),
    "softplus": lambda torch, z: torch.logaddexp(z, torch.zeros_like(z)),
    "softsign": lambda torch, z: torch.nn.functional.softsign(z),
    "exponential": lambda torch, z: torch.exp(z),
    "gelu": lambda torch, z: torch.nn.functional.gelu(z),
    "gelu_tanh": lambda torch, z: torch.nn.functional.gelu(z, approximate="tanh"),
    "silu": lambda torch, z: torch.nn.functional.silu(z),
    "mish": lambda torch, z: torch.nn.functional.mish(z),
}


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is the oracle here")


def in_torch(torch, net):
    activations = {
        name: lambda z, function=function: function(torch, z) for name, function in TORCH.items()
    }
    return Forward(net, activations, torch.from_numpy, torch.sqrt)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", TORCH)
def test_pytorchs_jacobian_of_every_activation(name, dtype, torch):
    hidden = name if name in ELEMENTWISE else "tanh"
    net = network([Dense(6, hidden), Dense(4, name)], dtype)
    X = rows(5, dtype=dtype)
    jacobian = torch.func.vmap(torch.func.jacrev(in_torch(torch, net)))
    expected = jacobian(torch.from_numpy(X.astype(float))).numpy()
    assert_close(net.jacobian(X), expected, dtype, 4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stack", STACKS)
def test_pytorchs_derivatives_of_every_layer(stack, dtype, torch):
    X, y = rows(5, dtype=dtype), rows(5, 3, dtype, 3)
    net = network(STACKS[stack], dtype)
    function = in_torch(torch, net)
    jacobian = torch.func.vmap(torch.func.jacrev(function))
    wide = torch.from_numpy(X.astype(float))
    assert_close(net.jacobian(X), jacobian(wide).numpy(), dtype, 4)

    def loss(inputs):
        return ((function(inputs) - torch.from_numpy(y.astype(float))) ** 2).sum() / 10

    assert_close(net.input_gradient(X, y), torch.func.grad(loss)(wide).numpy(), dtype, 4)


# --- gradients by the inputs ----------------------------------------------------------------


def numeric_input_gradient(net, X, y, h=3e-4, **weights):
    """Central differences of `evaluate`, by one number of X at a time."""
    found = np.empty_like(X)
    for at in np.ndindex(X.shape):
        step = np.zeros_like(X)
        step[at] = h
        found[at] = slope(lambda inputs: net.evaluate(inputs, y, **weights), X, step)
    return found


@pytest.mark.parametrize("output", ["identity", "sigmoid", "softmax", "exponential"])
@pytest.mark.parametrize("call", CALLS)
def test_an_input_gradient_of_every_loss(call, output, record_error):
    for n in (1, 6):
        net, _, X, y = problem(call, output, n)
        weight = np.random.default_rng(4).uniform(0.5, 2, n)
        found = net.input_gradient(X, y, sample_weight=weight)
        # a step too short to meet the kinks of some losses
        expected = numeric_input_gradient(net, X, y, 1e-5, sample_weight=weight)
        error = np.abs(found - expected).max() / max(1e-2, np.abs(expected).max())
        # rounding of 1e-16 times logarithms of up to 36, over that step and the scale of 0.01
        assert record_error("input gradients, central differences", error) < 4e-8
        single, _, _, _ = problem(call, output, n, "float32")
        single.parameters[...] = net.parameters
        narrow = single.input_gradient(X.astype("float32"), y.astype("float32"),
                                       sample_weight=weight)
        # single precision of probabilities, under a logarithm
        np.testing.assert_allclose(narrow, found, rtol=0,
                                   atol=1e-4 * max(1e-2, np.abs(found).max()))


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("n", [1, 2, 9])
def test_an_input_gradient_through_every_layer(stack, n, record_error):
    net = network(STACKS[stack])
    X, y = rows(n), rows(n, 3, seed=3)
    found, expected = net.input_gradient(X, y), numeric_input_gradient(net, X, y)
    error = np.abs(found - expected).max() / np.abs(expected).max()
    # rounding of a loss of some 3e-16 over the step, to derivatives down to 0.003
    assert record_error("input gradients, central differences", error) < 1e-9
    if n == 1:
        np.testing.assert_array_equal(net.input_gradient(X[0], y[0]), found[0])


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("n", [5, 1024, 1025, 3000])
def test_an_input_gradient_is_the_jacobian_times_that_of_the_loss(n, n_threads):
    net = Network(20, [Dense(80, "tanh"), Dense(60, "tanh"), Dense(3)], dtype="float64", seed=0)
    X, y = rows(n, 20), rows(n, 3, seed=3)
    weight = np.random.default_rng(4).uniform(0.5, 2, n)
    found = net.input_gradient(X, y, sample_weight=weight, n_threads=n_threads)
    by_outputs = (net.predict(X) - y) * (weight / weight.mean() / n)[:, None]
    expected = np.einsum("nk,nki->ni", by_outputs, net.jacobian(X))
    assert_close(found, expected, "float64", 4)
    np.testing.assert_array_equal(
        found, net.input_gradient(X, y, sample_weight=weight, n_threads=3 - n_threads))


def test_labels_and_class_weights(torch):
    net = network([Dense(6, "tanh"), Dense(3, "softmax")], loss="cross_entropy")
    X, y = rows(12), np.arange(12) % 3
    table = np.array([1.0, 0.5, 3.0])
    found = net.input_gradient(X, y, class_weight=dict(enumerate(table)))

    def loss(inputs):
        log_p = torch.log(in_torch(torch, net)(inputs))
        weight = torch.from_numpy(table[y] / table[y].mean())
        return -(weight * log_p[range(12), y]).mean()

    assert_close(found, torch.func.grad(loss)(torch.from_numpy(X)).numpy(), "float64", 4)
    np.testing.assert_array_equal(
        net.input_gradient(X[0], 2), net.input_gradient(X[:1], [2])[0])


def test_a_loss_in_python():
    def cubic(outputs, targets):
        gap = outputs - targets
        return (np.abs(gap) ** 3).sum(axis=1) / 3, gap * np.abs(gap)

    net = network([Dense(6, "tanh"), Dense(3)], loss=cubic)
    X, y = rows(7), rows(7, 3, seed=3)
    found, expected = net.input_gradient(X, y), numeric_input_gradient(net, X, y)
    assert np.abs(found - expected).max() < 1e-9 * np.abs(expected).max()


# --- hidden layers --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [1, 6, 1500])
@pytest.mark.parametrize("stack", STACKS)
def test_what_each_layer_puts_out(stack, n, dtype):
    net = network(STACKS[stack], dtype)
    X = rows(n, dtype=dtype)
    expected = forward(net).each(X.astype(float))
    for k in range(len(net.layers)):
        found = net.hidden(X, k)
        assert_close(found, expected[k], dtype, 2)
        np.testing.assert_array_equal(net.hidden(X, k - len(net.layers)), found)
        np.testing.assert_array_equal(net.hidden(X, layer=np.int64(k)), found)
        if n == 1:
            one = net.hidden(X[0], k)
            assert one.shape == found.shape[1:]
            np.testing.assert_array_equal(one, found[0])
    np.testing.assert_array_equal(net.hidden(X, -1), net.predict(X))


def test_hidden_outputs_of_sparse_inputs():
    net = network([Dense(8, "relu"), LayerNorm(), Dense(3)])
    X = rows(30)
    X[np.random.default_rng(3).random(X.shape) < 0.7] = 0
    expected = forward(net).each(X)
    for k in range(3):
        assert_close(net.hidden(sparse.csr_array(X), k), expected[k], "float64")
        assert_close(net.hidden(sparse.csc_matrix(X), k), expected[k], "float64")
    first = network([Dropout(0.5), Dense(3)])
    with pytest.raises(TypeError, match="must not be sparse here"):
        first.hidden(sparse.csr_array(X), 0)
    np.testing.assert_array_equal(first.hidden(X, 0), X)
    assert not np.shares_memory(first.hidden(X, 0), X)


@pytest.mark.parametrize("layer", [3, -4, 2**70, -(2**70)])
def test_no_such_layer(layer):
    with pytest.raises(IndexError, match="layer must be an integer from 0 to 2, got"):
        network([Dense(8), LayerNorm(), Dense(3)]).hidden(rows(2), layer)


@pytest.mark.parametrize("layer", [1.0, None, "0", [0], Dense(8), slice(1)])
def test_what_is_no_number_of_a_layer(layer):
    with pytest.raises(TypeError, match="layer must be an integer from 0 to 2, got"):
        network([Dense(8), LayerNorm(), Dense(3)]).hidden(rows(2), layer)


# --- what is refused, and what stays --------------------------------------------------------

CALLS_ON_ROWS = {
    "jacobian": lambda net, X: net.jacobian(X),
    "input_gradient": lambda net, X: net.input_gradient(X, np.zeros((2, 3))),
    "hidden": lambda net, X: net.hidden(X, 0),
}


@pytest.mark.parametrize("name", CALLS_ON_ROWS)
def test_bad_inputs(name):
    call, net = CALLS_ON_ROWS[name], network([Dense(8, "tanh"), Dense(3)])
    before = net.state()
    for X, error, message in [
        (np.zeros((2, 4)), ValueError, "X must have shape .*, for a network of 5 inputs"),
        (np.zeros((1, 2, 5)), ValueError, "X must have shape"),
        (np.zeros((0, 5)), ValueError, "at least one sample"),
        (np.full((2, 5), np.nan), ValueError, "X must be finite"),
        (np.full((2, 5), np.inf), ValueError, "X must be finite"),
        ([["a"] * 5] * 2, TypeError, "X must hold real numbers"),
        (None, TypeError, "X must hold real numbers"),
    ]:
        with pytest.raises(error, match=message):
            call(net, X)
    np.testing.assert_equal(net.state(), before)


def test_sparse_inputs_have_no_derivatives():
    net, X = network([Dense(3)]), sparse.csr_array(rows(2))
    with pytest.raises(TypeError, match="X must not be sparse here"):
        net.jacobian(X)
    with pytest.raises(TypeError, match="X must not be sparse here"):
        net.input_gradient(X, np.zeros((2, 3)))


def test_bad_targets_and_threads():
    net = network([Dense(3)])
    with pytest.raises(ValueError, match="y must have shape"):
        net.input_gradient(rows(2), np.zeros((2, 4)))
    with pytest.raises(ValueError, match="n_threads must be an integer from 1"):
        net.input_gradient(rows(2), np.zeros((2, 3)), n_threads=0)


def test_before_there_are_statistics():
    net = Network(5, [Normalize(), Dense(3)])
    for call in CALLS_ON_ROWS.values():
        with pytest.raises(RuntimeError, match="has no statistics yet"):
            call(net, rows(2))


@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_loss_that_is_not_finite_has_no_gradient(n_threads):
    net = network([Dense(3)])
    X, y = rows(3000), rows(3000, 3, seed=3)
    y[-1] = 1e200
    with pytest.raises(FloatingPointError, match="the loss is inf, and has no gradient"):
        net.input_gradient(X, y, n_threads=n_threads)
    assert np.isfinite(net.input_gradient(X[:-1], y[:-1])).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stack", STACKS)
def test_nothing_changes(stack, dtype):
    """Neither the network, nor what is passed, nor what training does next."""
    nets = [network(STACKS[stack], dtype, optimizer=SGD(0.01, 0.9)) for _ in range(2)]
    X, y = rows(12, dtype=dtype), rows(12, 3, dtype, 3)
    for net in nets:
        net.fit(X, y)
    before, given = nets[0].state(), (X.copy(), y.copy())
    nets[0].jacobian(X)
    nets[0].input_gradient(X, y)
    nets[0].jacobian(X[0])
    for k in range(len(STACKS[stack])):
        found = nets[0].hidden(X, k)
        found[...] = 7
    np.testing.assert_equal(nets[0].state(), before)
    np.testing.assert_equal((X, y), given)
    for net in nets:
        net.fit(X, y, epochs=2)
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)
