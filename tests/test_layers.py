"""Normalisations, residual blocks and dropout around them: PyTorch's steps, and a naive reference.

The reference, in reference.py, has the gradient of a training step from the way forward alone. A
step of rate 1 makes theta - theta' that gradient: so batches are normalised by themselves here,
which `loss_and_gradient` never does.
"""

import copy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import dense_targets, kept, layered_reference_of

import fastbp
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

GOLDEN = np.load(Path(__file__).with_name("golden") / "layers.npz")
CASES = [name.removesuffix(": parameters") for name in GOLDEN.files if name.endswith("parameters")]


def made(text):
    """What a repr or a case of the golden file stands for."""
    return eval(text, {name: getattr(fastbp, name) for name in fastbp.__all__})


@pytest.mark.parametrize("case", CASES)
def test_200_steps_are_pytorchs(case):
    """In float64 to 1e-10: parameters, running statistics, and what is predicted by them."""
    layers, optimizer = case.rsplit("; ", 1)
    net = Network(5, made(f"[{layers}]"), loss="cross_entropy", optimizer=made(optimizer),
                  dtype="float64", seed=0)
    net.parameters[:] = GOLDEN["start"][: net.n_parameters]
    X, labels, batch = GOLDEN["X"], GOLDEN["labels"], int(GOLDEN["batch"])
    close = {"rtol": 1e-10, "atol": 1e-10}
    for steps, expected in zip(GOLDEN["kept"], GOLDEN[f"{case}: parameters"], strict=True):
        while net.n_steps < steps:
            first = net.n_steps * batch % len(X)
            net.train_step(X[first : first + batch], labels[first : first + batch])
        np.testing.assert_allclose(net.parameters, expected, **close)
    gathered = [vector for pair in net.statistics for vector in pair]
    np.testing.assert_allclose(np.concatenate([*gathered, []]), GOLDEN[f"{case}: running"], **close)
    np.testing.assert_allclose(net.predict(X), GOLDEN[f"{case}: predictions"], **close)


# --- gradients

STACKS = {
    "batch norm of the inputs": [BatchNorm(momentum=0.3), Dense(7, "tanh"), Dense(3)],
    "batch norm": [
        Dense(9), BatchNorm("gelu", epsilon=0.1), Dense(5), BatchNorm("tanh", epsilon=0.1),
        Dense(3)],
    "layer norm of the inputs": [LayerNorm("silu"), Dense(7, "tanh"), Dense(3)],
    "layer norm": [Dense(17, "silu"), LayerNorm("gelu", epsilon=0.1), Dense(3)],
    "one column": [Dense(1), LayerNorm("tanh"), Dense(1), BatchNorm("tanh", epsilon=0.1),
                   Dense(3)],
    "one after the other": [
        Dense(9), BatchNorm("silu", epsilon=0.1), LayerNorm("tanh"), BatchNorm(epsilon=0.1),
        LayerNorm(), Dense(3)],
    "standardised": [Normalize(), Dense(9), BatchNorm("silu"), Dense(3)],
    "residual at the inputs": [Residual([Dense(9, "silu"), Dense(5, "tanh")]), Dense(3)],
    "residual of one layer": [Dense(6, "gelu"), Residual([Dense(6, "silu")]), Dense(3)],
    "residuals in a row": [
        Dense(6, "tanh"), Residual([LayerNorm(), Dense(9, "gelu"), Dense(6)]),
        Residual([BatchNorm("mish", epsilon=0.1), Dense(6)]), Dense(3)],
    "residuals that begin and end together": [
        Dense(6, "silu"), Residual([Residual([Residual([Dense(6, "tanh")]), LayerNorm()])]),
        Dense(3)],
    "residuals in residuals": [
        Residual([Dense(5, "tanh"), Residual([BatchNorm("silu"), Dense(7), Residual([LayerNorm()]),
                                              Dense(5)]), Dense(5)]), Dense(3)],
    "dropout": [
        Dropout(0.1), BatchNorm(), Dropout(0.2), Dense(9, "gelu"), Dropout(0.3), LayerNorm("silu"),
        Dropout(0.4), Residual([Dense(9, "tanh"), Dropout(0.5), BatchNorm("tanh"), Dropout(0.2)]),
        Dropout(0.3), Dense(3)],
    "dropped inputs of a residual": [Dropout(0.3), Residual([Dense(5, "tanh")]), Dense(3)],
    "penalties": [
        Dense(9, "tanh", l1=0.02), BatchNorm("gelu", epsilon=0.1), Residual([Dense(9, l2=0.3)]),
        Dense(3, l1=0.1, l2=0.1)],
    "frozen batch norm": [Dense(9), BatchNorm("gelu", trainable=False), Dense(3)],
    "frozen below": [
        BatchNorm(trainable=False), Residual([Dense(5, "gelu", trainable=False)]),
        Residual([BatchNorm("silu"), Dense(5)]), Dense(3)],
    "frozen above": [
        Dense(6, "tanh"), Residual([LayerNorm(trainable=False), Dense(6, trainable=False)]),
        Dense(3, trainable=False)],
    "softmax": [
        Dense(9), LayerNorm("tanh"), BatchNorm("silu", epsilon=0.1), Dense(3, "softmax")],
}
# Sums of up to 1100 terms, a few layers deep. Two rows are normalised to nearly -1 and 1 whatever
# they are, and the gradient by them is what is left of terms that cancel: an epsilon of 0.1 in
# hidden layers leaves float32 some digits of it.
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def problem(layers, rows, dtype="float64", optimizer=None, seed=0):
    """A network with parameters and statistics of any kind, and weighted data for it."""
    rng = np.random.default_rng([seed, rows])
    behind_softmax = layers[-1].activation == "softmax"
    net = Network(5, layers, loss="cross_entropy" if behind_softmax else "squared_error",
                  optimizer=optimizer or SGD(1.0), dtype=dtype, seed=0)
    net.parameters[:] = rng.normal(size=net.n_parameters) / 2
    for mean, spread in net.statistics:
        mean[:], spread[:] = rng.normal(size=mean.shape), rng.uniform(0.5, 2, spread.shape)
    X = (rng.normal(size=(rows, 5)) * [1, 2, 3, 0.5, 1] + [0, 1, -2, 3, 0]).astype(dtype)
    y = rng.integers(3, size=rows) if behind_softmax else rng.normal(size=(rows, 3)).astype(dtype)
    return net, X, y, rng.uniform(0.5, 2, rows).astype(dtype)


def masks_of(net, rows):
    """What the next step keeps, as `LayeredReference` asks for it."""
    key = int(copy.deepcopy(net._progress.rng).integers(2**63))
    return lambda record, width, rate: kept(key, 0, record, rows, width, rate)


def error(actual, expected):
    """Relative to the largest entry; 0 where both are zero."""
    return np.abs(actual - expected).max() / max(np.abs(expected).max(), 1e-300)


def check_step(net, X, y, weights, gradient_of=lambda gradient: gradient):
    """Make a step and compare it; return the error of the gradient."""
    dtype = net.dtype.name
    reference, masks = layered_reference_of(net), masks_of(net, len(X))
    data = X.astype(float), dense_targets(y, 3), weights.astype(float)
    loss, _, statistics, trained = reference.objective(*data, masks=masks, training=True)
    expected = gradient_of(reference.gradient(*data, masks, training=True))
    assert net.train_step(X, y, sample_weight=weights) == pytest.approx(
        loss, rel=10 * TOLERANCE[dtype])
    gradient = reference.parameters - net.parameters
    np.testing.assert_array_equal(gradient[~trained], 0)
    for found, wanted in zip(net.statistics, statistics, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    return error(gradient, expected)


@pytest.mark.parametrize(("dtype", "rows"), [
    ("float64", 1), ("float64", 2), ("float64", 7), ("float64", 40), ("float64", 1100),
    ("float32", 1), ("float32", 2), ("float32", 7), ("float32", 40),
])
@pytest.mark.parametrize("name", STACKS)
def test_training_steps(name, dtype, rows, record_error):
    """Loss, gradient and running statistics of a step: normalised by the batch, with dropout."""
    found = check_step(*problem(STACKS[name], rows, dtype))
    assert record_error(f"layers, training, {dtype}", found) < TOLERANCE[dtype]


@pytest.mark.parametrize("rows", [1, 40])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("name", STACKS)
def test_loss_and_gradient_go_by_running_statistics(name, dtype, rows, record_error):
    net, X, y, weights = problem(STACKS[name], rows, dtype)
    reference = layered_reference_of(net)
    data = X.astype(float), dense_targets(y, 3), (weights / weights.mean()).astype(float)
    value, penalty, statistics, trained = reference.objective(*data)
    close = {"rel": 10 * TOLERANCE[dtype]}
    loss, gradient = net.loss_and_gradient(X, y, sample_weight=weights)
    assert loss == pytest.approx(value + penalty, **close)
    assert net.evaluate(X, y, sample_weight=weights) == pytest.approx(value, **close)
    found = error(gradient, reference.gradient(*data))
    assert record_error(f"layers, evaluation, {dtype}", found) < TOLERANCE[dtype]
    assert not gradient[~trained].any()
    for found_pair, pair in zip(net.statistics, statistics, strict=True):
        np.testing.assert_array_equal(found_pair, pair)
    # central differences are good to 1e-8 or so, beside what float32 can hold of the gradient
    assert net.check_gradient(X, y, sample_weight=weights) < max(1e-7, TOLERANCE[dtype])
    predictions = reference.forward(data[0]).outputs
    assert error(net.predict(X), predictions) < TOLERANCE[dtype]
    assert error(net.predict(X[0]), predictions[0]) < TOLERANCE[dtype]


def clipped(gradient):
    return gradient * min(1, 0.1 / np.linalg.norm(gradient))


# In each, the first step is one of rate 1 along the gradient, or along what comes of it.
PATHS = {
    "a rule": (SGD(1.0, 0.9), lambda gradient: gradient),
    "by the norm": (SGD(1.0, clip_norm=0.1), clipped),
    "a rule by the norm": (SGD(1.0, 0.9, clip_norm=0.1), clipped),
    "by value": (SGD(1.0, clip_value=0.01), lambda gradient: np.clip(gradient, -0.01, 0.01)),
}


@pytest.mark.parametrize("rows", [1, 7, 1100])
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "name", ["batch norm of the inputs", "layer norm of the inputs", "dropout", "frozen below"])
def test_every_path_to_an_update(name, path, rows, record_error):
    optimizer, gradient_of = PATHS[path]
    found = check_step(*problem(STACKS[name], rows, optimizer=optimizer), gradient_of)
    assert record_error("layers, training, float64", found) < TOLERANCE["float64"]


def test_weight_decay_takes_gains_and_shifts_too():
    net, X, y, weights = problem(STACKS["batch norm"], 7, optimizer=SGD(1.0, weight_decay=0.1))
    theta = net.parameters.copy()
    assert check_step(net, X, y, weights, lambda gradient: gradient + 0.1 * theta) < 1e-12


@pytest.mark.parametrize("optimizer", ["sgd", "adam", SGD(0.01, clip_norm=0.1)], ids=str)
@pytest.mark.parametrize("batch_size", [1, 8, 1025])
def test_an_epoch_is_its_steps(batch_size, optimizer):
    """The last batch, too, which is smaller, and is cut as evenly as the others."""
    rows = 1025 + 514 if batch_size == 1025 else 44
    layers = STACKS["residuals in residuals"]
    fitted, X, y, _ = problem(layers, rows, "float32", optimizer)
    stepped, *_ = problem(layers, rows, "float32", optimizer)
    fitted.fit(X, y, batch_size=batch_size, shuffle=False)
    for start in range(0, rows, batch_size):
        stepped.train_step(X[start : start + batch_size], y[start : start + batch_size])
    np.testing.assert_array_equal(fitted.parameters, stepped.parameters)
    np.testing.assert_array_equal(fitted.statistics[0], stepped.statistics[0])


def hidden_layers(width):
    """Strategy: a layer that keeps the width, for any place but the first of a Residual."""
    activation = st.sampled_from(["identity", "tanh", "gelu", "silu"])
    plain = st.one_of(
        st.builds(Dense, st.just(width), activation, trainable=st.booleans(),
                  l2=st.sampled_from([0, 0.1])),
        st.builds(BatchNorm, activation, trainable=st.booleans()),
        st.builds(LayerNorm, activation, trainable=st.booleans()),
    )
    return st.recursive(plain, lambda inside: st.builds(
        lambda layers, rate: Residual([*layers, Dropout(rate)] if rate else layers),
        st.lists(inside, min_size=1, max_size=3), st.sampled_from([0, 0.3])), max_leaves=5)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_stack(data):
    """Layers within layers, in any order: a step, the repr, and a copy that goes on alike."""
    first, width = data.draw(
        st.sampled_from([(Dense(4, "tanh"), 4), (Normalize(), 5), (Dropout(0.2), 5)]))
    layers = [first, *data.draw(st.lists(hidden_layers(width), max_size=4)), Dense(3)]
    rows = data.draw(st.sampled_from([1, 2, 3, 9]))
    net, X, y, weights = problem(layers, rows, seed=data.draw(st.integers(0, 99)))
    assert made(repr(layers)) == layers
    assert made(repr(net).replace("SquaredError()", "'squared_error'")).layers == net.layers
    twin = net.copy()
    assert check_step(net, X, y, weights) < 1e-10
    twin.train_step(X, y, sample_weight=weights)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


# --- as data


def test_table():
    net = Network(
        4, [Normalize(), Dropout(0.1), Dense(6, "relu"), BatchNorm("gelu"),
            Residual([LayerNorm(), Dense(9, "tanh"), Residual([Dense(9)]), Dense(6)]), Dense(2)])
    lines = str(net).splitlines()[4:-2]
    assert [line.split() for line in lines] == [
        ["1", "Normalize"],
        ["2", "Dropout", "rate", "0.1"],
        ["3", "Dense", "relu", "4", "x", "6", "30"],
        ["4", "BatchNorm", "gelu", "6", "12"],
        ["5", "Residual"],
        ["5.1", "LayerNorm", "identity", "6", "12"],
        ["5.2", "Dense", "tanh", "6", "x", "9", "63"],
        ["5.3", "Residual"],
        ["5.3.1", "Dense", "identity", "9", "x", "9", "90"],
        ["5.4", "Dense", "identity", "9", "x", "6", "60"],
        ["6", "Dense", "identity", "6", "x", "2", "14"],
    ]
    assert [weight.shape for weight in net.weights] == [
        (4, 6), (6,), (6,), (6, 9), (9, 9), (9, 6), (6, 2)]
    assert [bias.shape for bias in net.biases] == [(6,), (6,), (6,), (9,), (9,), (6,), (2,)]
    assert [[vector.shape for vector in pair] for pair in net.statistics] == [
        [(4,), (4,)], [(6,), (6,)]]


def test_how_normalisations_begin():
    net = Network(4, [Dense(3), BatchNorm(), LayerNorm(), Dense(1)], dtype="float64")
    for number in (1, 2):
        assert net.weights[number].tolist() == [1, 1, 1]
        assert net.biases[number].tolist() == [0, 0, 0]
    assert [vector.tolist() for vector in net.statistics[0]] == [[0, 0, 0], [1, 1, 1]]


NORMS = [BatchNorm, LayerNorm]
EITHER = [
    ({"activation": "softpuls"}, ValueError, "unknown activation 'softpuls'; valid are"),
    ({"activation": "softmax"}, ValueError, "activation 'softmax' belongs in a last Dense layer"),
    ({"activation": "log_softmax"}, ValueError, "'log_softmax' belongs in a last Dense layer"),
    ({"activation": 3}, TypeError, "activation must be one of .*; got 3"),
    ({"epsilon": 0}, ValueError, "epsilon must be positive and finite, got 0"),
    ({"epsilon": np.inf}, ValueError, "epsilon must be positive and finite, got inf"),
    ({"epsilon": "small"}, TypeError, "epsilon must be a number, got 'small'"),
    ({"trainable": 1}, TypeError, "trainable must be .*, got 1"),
]


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize(("arguments", "kind_of_error", "message"), EITHER, ids=str)
def test_bad_settings_of_either_norm(kind, arguments, kind_of_error, message):
    with pytest.raises(kind_of_error, match=message):
        kind(**arguments)


@given(st.floats().filter(lambda momentum: not 0 < momentum <= 1))
def test_bad_momentum(momentum):
    with pytest.raises(ValueError, match=r"momentum must (lie in \(0, 1\]|be finite), got"):
        BatchNorm(momentum=momentum)


@pytest.mark.parametrize(
    ("make", "kind_of_error", "message"),
    [
        (lambda: BatchNorm(momentum="0.1"), TypeError, "momentum must be a number"),
        (lambda: BatchNorm("relu", 0.1), TypeError, "positional"),
        (lambda: Normalize(3), TypeError, "positional"),
        (lambda: Residual([]), ValueError, "layers must hold at least one layer, got none"),
        (lambda: Residual(Dense(3)), TypeError, "layers must be a sequence of Dense and other lay"),
        (lambda: Residual([Dense(3), "relu"]), TypeError, "other layers, got 'relu' in it"),
        (lambda: Residual([Dropout(0.5), Dense(3)]), ValueError,
         r"layers of a Residual must not begin with Dropout\(rate=0.5\)"),
        (lambda: Residual([Normalize(), Dense(3)]), ValueError,
         r"layers of a Residual must not begin with Normalize\(\)"),
        (lambda: Residual([Dense(3), Normalize()]), ValueError,
         "Normalize must be a network's first layer, got it after Dense"),
        (lambda: Residual([Dense(3), Dropout(0.1), Dropout(0.1)]), ValueError,
         "there must be another kind of layer, got Dropout"),
        (lambda: Network(2, [Dense(2), Normalize(), Dense(2)]), ValueError,
         "Normalize must be a network's first layer, got it after Dense"),
        (lambda: Network(2, [Dropout(0.1), Normalize(), Dense(2)]), ValueError,
         "Normalize must be a network's first layer, got it after Dropout"),
        (lambda: Network(2, [Dense(2), BatchNorm()]), ValueError,
         "the last layer must be a Dense layer, got BatchNorm"),
        (lambda: Network(2, [Dense(2), LayerNorm()]), ValueError,
         "the last layer must be a Dense layer, got LayerNorm"),
        (lambda: Network(2, [Residual([Dense(2)])]), ValueError,
         r"the last layer must be a Dense layer, got Residual\("),
        (lambda: Network(2, [Normalize()]), ValueError,
         r"the last layer must be a Dense layer, got Normalize\(\)"),
        (lambda: Network(2, [Residual([Dense(2), Dense(2, "softmax")]), Dense(2)]), ValueError,
         "activation 'softmax' belongs in the last layer, got a hidden one"),
        (lambda: Network(2, [Residual([Dense(3)]), Dense(2)]), ValueError,
         r"layers of a Residual must end as wide as they begin, 2, got 3 from Residual\("),
        (lambda: Network(2, [Dense(4), Residual([Residual([Dense(5)]), Dense(4)]), Dense(2)]),
         ValueError, r"must end as wide as they begin, 4, got 5 from Residual\("),
    ],
)
def test_bad_places_and_settings(make, kind_of_error, message):
    with pytest.raises(kind_of_error, match=message):
        make()


def test_layers_are_numbered_through_residuals():
    """freeze and reinitialize count as `weights` does."""
    layers = [Dense(4), Residual([BatchNorm(), Dense(4)]), LayerNorm(), Dense(1)]
    net, X, y, weights = problem([*layers[:-1], Dense(3)], 20)
    net.freeze(1, -2)
    assert net.layers[1].layers == (BatchNorm(trainable=False), Dense(4))
    assert net.layers[2] == LayerNorm(trainable=False)
    assert check_step(net, X, y, weights) < 1e-12
    net.unfreeze()
    assert net.layers == (*layers[:-1], Dense(3))
    assert check_step(net, X, y, weights) < 1e-12
    before = [weight.copy() for weight in net.weights]
    net.reinitialize(1)
    assert net.weights[1].tolist() == [1] * 4 and not net.biases[1].any()
    assert [vector.tolist() for vector in net.statistics[0]] == [[0] * 4, [1] * 4]
    for number in (0, 2, 3, 4):
        np.testing.assert_array_equal(net.weights[number], before[number])
