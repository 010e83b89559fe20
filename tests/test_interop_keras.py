"""Keras: the same outputs, by whichever backend is there."""

import importlib.util
import os
import sys

import numpy as np
import pytest

import fastbp
from fastbp import SGD, BatchNorm, Dense, Dropout, LayerNorm, Network
from fastbp.activations import ELU, LeakyReLU

if "KERAS_BACKEND" not in os.environ:
    for backend in ("jax", "torch", "tensorflow"):
        if importlib.util.find_spec(backend) is not None:
            os.environ["KERAS_BACKEND"] = backend
            break
    else:
        pytest.skip("Keras has no backend: none of jax, torch and tensorflow is installed",
                    allow_module_level=True)
keras = pytest.importorskip("keras", reason="keras is not installed")
layers = keras.layers

# NumPy's warning of how Keras makes arrays of another library's.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def model_of(*stack, dtype=None):
    """A Sequential of three inputs, with random weights and statistics."""
    model = keras.Sequential([layers.Input((3,), dtype=dtype), *stack])
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(0.2 + rng.random(variable.shape) if "variance" in variable.name
                        else rng.normal(size=variable.shape) / 2)
    return model


def compare(model):
    X = np.random.default_rng(1).normal(size=(50, 3)).astype("float32")
    net = fastbp.from_keras(model)
    expected = keras.ops.convert_to_numpy(model(X))
    # float32: some roundings of sums, multiplied by norms
    np.testing.assert_allclose(net.predict(X), expected, rtol=0,
                               atol=1e-6 * max(1.0, np.abs(expected).max()))
    return net


ACTIVATIONS = {
    "linear": "identity", "leaky_relu": LeakyReLU(0.2), **{name: name for name in (
        "sigmoid", "hard_sigmoid", "tanh", "relu", "relu6", "elu", "selu", "softplus", "softsign",
        "exponential", "gelu", "silu", "mish", "softmax", "log_softmax")},
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation(name):
    net = compare(model_of(layers.Dense(4, activation=name)))
    assert net.layers == (Dense(4, ACTIVATIONS[name]),)
    net = compare(model_of(layers.Dense(4), layers.Activation(name)))
    assert net.layers == (Dense(4, ACTIVATIONS[name]),)


@pytest.mark.parametrize(("layer", "activation"), [
    (lambda: layers.ReLU(), "relu"), (lambda: layers.ReLU(max_value=6.0), "relu6"),
    (lambda: layers.ReLU(negative_slope=0.1), LeakyReLU(0.1)),
    (lambda: layers.LeakyReLU(), LeakyReLU(0.3)), (lambda: layers.ELU(), "elu"),
    (lambda: layers.ELU(0.5), ELU(0.5)), (lambda: layers.Softmax(), "softmax"),
])
def test_activations_that_are_layers(layer, activation):
    assert compare(model_of(layers.Dense(4), layer())).layers == (Dense(4, activation),)
    assert compare(model_of(layers.Dense(4, activation=layer()))).layers == (Dense(4, activation),)


def test_every_layer():
    net = compare(model_of(
        layers.Flatten(), layers.Dropout(0.1), layers.Dense(5, use_bias=False),
        layers.BatchNormalization(momentum=0.9, epsilon=0.01), layers.Activation("relu"),
        layers.Identity(),
        keras.Sequential([layers.Dropout(0.2), layers.Dense(6),
                          keras.Sequential([layers.LayerNormalization()])]),
        layers.ELU(0.5), layers.Dense(4), layers.Softmax(),
    ))
    assert net.layers == (
        Dropout(0.1), Dense(5), BatchNorm("relu", epsilon=0.01), Dropout(0.2), Dense(6),
        LayerNorm(ELU(0.5), epsilon=0.001), Dense(4, "softmax"),
    )
    assert net.loss.name == "cross_entropy"
    assert not net.biases[0].any()


@pytest.mark.parametrize("settings", [
    {"scale": False}, {"center": False}, {"scale": False, "center": False}], ids=str)
def test_norms_without_gain_or_shift(settings):
    compare(model_of(layers.BatchNormalization(**settings), layers.Dense(4)))
    net = compare(model_of(layers.LayerNormalization(**settings), layers.Dense(4)))
    # with neither, nothing is left to train
    assert net.layers[0].trainable == (len(settings) < 2)


def test_penalties_and_constraints():
    l1, l2, both = keras.regularizers.L1(0.1), keras.regularizers.L2(0.2), keras.regularizers.L1L2
    model = model_of(
        layers.Dense(3, kernel_regularizer=l1),
        layers.Dense(3, kernel_regularizer=l2, kernel_constraint=keras.constraints.MaxNorm(5)),
        layers.Dense(3, kernel_regularizer=both(0.3, 0.4)),
    )
    net = compare(model)
    assert [layer.max_norm for layer in net.layers] == [None, 5.0, None]
    X, y = np.ones((4, 3), "f4"), np.ones((4, 3), "f4")
    penalty = net.loss_and_gradient(X, y)[0] - net.evaluate(X, y)
    expected = sum(float(keras.ops.convert_to_numpy(each)) for each in model.losses)
    assert penalty == pytest.approx(expected, rel=1e-5)  # of sums of float32


def test_frozen_layers():
    model = model_of(layers.Dense(3), layers.BatchNormalization(), layers.Dense(2))
    model.layers[0].trainable = model.layers[1].trainable = False
    assert [layer.trainable for layer in compare(model).layers] == [False, False, True]


def test_arguments():
    net = fastbp.from_keras(model_of(layers.Dense(2)), loss="huber", optimizer=SGD(0.5), seed=4)
    assert (net.loss.name, net.optimizer, net.seed) == ("huber", SGD(0.5), 4)


def test_double():
    stack = [layers.Dense(4, "tanh", dtype="float64"), layers.Dense(2, dtype="float64")]
    if keras.backend.backend() == "jax":
        pytest.skip("jax has no float64 unless it is told to")
    assert fastbp.from_keras(model_of(*stack, dtype="float64")).dtype == "float64"


shared = layers.Dense(3)
REFUSED = {
    "Conv1D": ([layers.Reshape((3, 1))], "layer 'reshape.*, Reshape: fastbp has nothing"),
    "noise": ([layers.GaussianNoise(0.1), layers.Dense(2)], "GaussianNoise: fastbp has nothing"),
    "PReLU": ([layers.Dense(2), layers.PReLU()], "PReLU: fastbp has nothing"),
    "function": ([layers.Dense(2, activation="hard_tanh")], "Dense: fastbp has no activation hard"),
    "own function": ([layers.Dense(2, activation=lambda x: x)], "has no activation <lambda>"),
    "ReLU": ([layers.Dense(2), layers.ReLU(max_value=5)], "ReLU: max_value, negative_slope and"),
    "two": ([layers.Dense(2, "relu"), layers.ReLU()], "ReLU: an activation has to come right aft"),
    "axis": ([layers.Dense(2), layers.Softmax(0)], "Softmax: axis must be 1 or -1, got 0"),
    "bias": ([layers.Dense(2, bias_regularizer="l2")], "Dense: bias_regularizer="),
    "activity": ([layers.Dense(2, activity_regularizer="l2")], "Dense: activity_regularizer="),
    "orthogonal": (
        [layers.Dense(2, kernel_regularizer=keras.regularizers.OrthogonalRegularizer())],
        "OrthogonalRegularizer.* cannot be carried over"),
    "unit norm": ([layers.Dense(2, kernel_constraint="unit_norm")], "UnitNorm.* cannot be carried"),
    "gamma": ([layers.BatchNormalization(gamma_constraint="non_neg"), layers.Dense(2)],
              "BatchNormalization: gamma_constraint="),
    "shared": ([shared, layers.ReLU(), shared], "Dense: it is there twice"),
    "last": ([layers.Dense(2), layers.LayerNormalization()], "must be a dense one, got layer 'la"),
    "half": ([layers.Dense(2, dtype="float16")], "must be float32 or all float64, got float16"),
}


@pytest.mark.parametrize(("stack", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(stack, message):
    with pytest.raises(ValueError, match=message):
        fastbp.from_keras(model_of(*stack))


def test_what_is_no_sequential():
    with pytest.raises(TypeError, match=r"a keras.Sequential, got Dense"):
        fastbp.from_keras(layers.Dense(2))
    with pytest.raises(ValueError, match="no weights yet: give it an Input"):
        fastbp.from_keras(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(ValueError, match=r"shape \(rows, features\), got \(None, 3, 1\)"):
        fastbp.from_keras(keras.Sequential([layers.Input((3, 1)), layers.Flatten(),
                                            layers.Dense(2)]))


def test_without_keras(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(ImportError, match=r"needs keras, .*: pip install keras"):
        fastbp.from_keras(Network(3, [Dense(2)]))
