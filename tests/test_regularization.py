"""Penalties, the greatest norm, and dropout: against naive steps in NumPy."""

import copy

import numpy as np
import pytest
from reference import ACTIVATIONS, DERIVATIVES, kept, reference_of
from scipy import stats

from fastbp import LBFGS, SGD, Adam, Dense, Dropout, Network, _dispatch
from fastbp.callbacks import Callback

WIDTHS = [12, 40, 33, 3]


def data(rows, dtype="float64"):
    rng = np.random.default_rng(rows)
    return rng.normal(size=(rows, 12)).astype(dtype), rng.normal(size=(rows, 3)).astype(dtype)


# --- penalties

PENALTIES = [{"l1": 0.02}, {"l2": 0.3}, {"l1": 0.02, "l2": 0.3}]


def penalised(penalty, optimizer="sgd", dtype="float64", **settings):
    layers = [Dense(40, "tanh", **penalty), Dense(33, "tanh", **settings), Dense(3, **penalty)]
    return Network(12, layers, optimizer=optimizer, dtype=dtype, seed=0)


def penalty_of(net):
    """Value and gradient by the definition, layer by layer."""
    value, gradient = 0.0, []
    for layer, W, b in zip(net.layers, net.weights, net.biases, strict=True):
        value += layer.l1 * np.abs(W).sum() + layer.l2 / 2 * (W**2).sum()
        gradient += [(layer.l1 * np.sign(W) + layer.l2 * W).ravel(), np.zeros_like(b)]
    return value, np.concatenate(gradient)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_loss_and_gradient_have_the_penalty(penalty):
    net, (X, y) = penalised(penalty), data(40)
    value, gradient = penalty_of(net)
    reference = reference_of(net)
    loss, found = net.loss_and_gradient(X, y)
    assert loss == pytest.approx(reference.loss_value(X, y) + value, rel=1e-13)
    np.testing.assert_allclose(found, reference.gradient(X, y) + gradient, rtol=0, atol=1e-13)
    assert net.evaluate(X, y) == pytest.approx(reference.loss_value(X, y), rel=1e-13)
    assert net.check_gradient(X, y) < 1e-7


@pytest.mark.parametrize("rows", [1, 40, 1100])
@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(
    "optimizer",
    [SGD(0.1), SGD(0.1, clip_norm=0.5), SGD(0.1, clip_value=0.05, weight_decay=0.1), SGD(0.1, 0.9)],
    ids=str,
)
def test_steps_have_the_penalty(optimizer, penalty, rows):
    """It joins the gradient before clipping; weight decay of the optimizer comes after."""
    net, (X, y) = penalised(penalty, optimizer), data(rows)
    momentum = 0
    for _ in range(3):
        theta = net.parameters.copy()
        g = reference_of(net).gradient(X, y) + penalty_of(net)[1]
        if optimizer.clip_norm:
            g = g * min(1, optimizer.clip_norm / np.linalg.norm(g))
        if optimizer.clip_value:
            g = np.clip(g, -optimizer.clip_value, optimizer.clip_value)
        g = g + optimizer.weight_decay * theta
        momentum = optimizer.momentum * momentum + g
        net.train_step(X, y)
        np.testing.assert_allclose(net.parameters, theta - 0.1 * momentum, rtol=0, atol=1e-13)


def test_lbfgs_minimises_the_penalty_too():
    """Ridge regression has a closed form."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(50, 4)), rng.normal(size=50)
    net = Network(4, [Dense(1, l2=0.5)], optimizer=LBFGS(), dtype="float64", seed=0)
    net.fit(X, y, epochs=200, tol=1e-14)
    centred = X - X.mean(axis=0)
    expected = np.linalg.solve(centred.T @ centred / 50 + 0.5 * np.eye(4),
                               centred.T @ (y - y.mean()) / 50)
    np.testing.assert_allclose(net.weights[0][:, 0], expected, rtol=0, atol=1e-6)


def test_a_layer_left_alone_has_no_penalty():
    net, (X, y) = penalised({}, trainable=False, l1=1.0, l2=1.0), data(20)
    loss, gradient = net.loss_and_gradient(X, y)
    assert loss == net.evaluate(X, y)
    assert not gradient[12 * 40 + 40 :][: 40 * 33 + 33].any()


# --- the greatest norm


@pytest.mark.parametrize("optimizer", [SGD(0.5), SGD(0.5, clip_norm=1.0), Adam(0.1)], ids=str)
@pytest.mark.parametrize("rows", [1, 30, 1100])
def test_max_norm(optimizer, rows):
    """Each unit's weights, a column, are shortened after the step; others stay as they are."""
    rng = np.random.default_rng(0)
    layers = [Dense(40, "tanh", max_norm=1.0), Dense(33, "tanh"), Dense(3, max_norm=0.7)]
    free_layers = [Dense(40, "tanh"), Dense(33, "tanh"), Dense(3)]
    X, y = data(rows)
    net, free = (Network(12, each, optimizer=optimizer, dtype="float64", seed=0)
                 for each in (layers, free_layers))
    start = rng.normal(size=net.n_parameters) * 0.3
    for each in (net, free):
        each.parameters[:] = start
        each.train_step(X, y)
    for layer, W, expected in zip(layers, net.weights, free.weights, strict=True):
        norms = np.linalg.norm(expected, axis=0)
        shortened = expected * np.minimum(1, (layer.max_norm or np.inf) / norms)
        np.testing.assert_allclose(W, shortened, rtol=0, atol=1e-14)
    for b, expected in zip(net.biases, free.biases, strict=True):
        np.testing.assert_array_equal(b, expected)


def test_max_norm_of_single_rows_in_a_fit():
    X, y = data(50)
    layers = [Dense(40, "relu", max_norm=0.5), Dense(33, "relu", max_norm=0.5), Dense(3)]
    fit, steps = (Network(12, layers, optimizer=SGD(0.1), seed=0) for _ in range(2))
    fit.fit(X, y, batch_size=1, shuffle=False)
    for x, target in zip(X, y, strict=True):
        steps.train_step(x, target)
    np.testing.assert_array_equal(fit.parameters, steps.parameters)
    assert np.linalg.norm(fit.weights[0], axis=0).max() <= 0.5 * (1 + 1e-6)


# --- dropout


def dropping(hidden, rates, optimizer=None, dtype="float64"):
    layers = []
    for rate, units in zip(rates, WIDTHS[1:], strict=True):
        layers += [Dropout(rate)] if rate else []
        layers.append(Dense(units, hidden if units != 3 else "identity"))
    return Network(12, layers, optimizer=optimizer or SGD(0.1), dtype=dtype, seed=0)


def gradient_with_masks(net, masks, hidden, X, y):
    """Backpropagation by hand, with a mask on the input of each layer."""
    inputs, logits = [X * masks[0]], []
    for at, (W, b) in enumerate(zip(net.weights, net.biases, strict=True)):
        logits.append(inputs[-1] @ W + b)
        if at < 2:
            inputs.append(ACTIVATIONS[hidden](logits[-1]) * masks[at + 1])
    D, pieces = (logits[-1] - y) / len(X), []
    for at in (2, 1, 0):
        pieces = [(inputs[at].T @ D).ravel(), D.sum(axis=0), *pieces]
        if at:
            D = D @ net.weights[at].T * masks[at] * DERIVATIVES[hidden](logits[at - 1])
    return np.concatenate(pieces), 0.5 * ((logits[-1] - y) ** 2).sum() / len(X)


@pytest.mark.parametrize("rows", [1, 7, 64, 1100])
@pytest.mark.parametrize("rates", [(0, 0.5, 0), (0.2, 0, 0.5), (0.3, 0.1, 0.9)])
@pytest.mark.parametrize("hidden", ["relu", "tanh", "gelu", "identity", "leaky_relu"])
def test_steps_with_dropout(hidden, rates, rows):
    net, (X, y) = dropping(hidden, rates), data(rows)
    for _ in range(2):
        key = int(copy.deepcopy(net._progress.rng).integers(2**63))
        masks = [kept(key, 0, at - 1, rows, width, rate) if rate else np.ones((rows, width))
                 for at, (width, rate) in enumerate(zip(WIDTHS, rates, strict=False))]
        gradient, loss = gradient_with_masks(net, masks, hidden, X, y)
        theta = net.parameters.copy()
        assert net.train_step(X, y) == pytest.approx(loss, rel=1e-12)
        np.testing.assert_allclose(net.parameters, theta - 0.1 * gradient, rtol=0, atol=1e-12)


def masks_of(net, steps):
    """Which of the hidden units of a 1-n-1 network each step has dropped, from its updates."""
    found = []
    for _ in range(steps):
        before = net.weights[1][:, 0].copy()
        net.train_step([0.0], [1e3])
        found.append(net.weights[1][:, 0] != before)
    return np.array(found)


def one_to_one(n, rate, seed=0):
    """Hidden units that are all 1 before dropout."""
    net = Network(1, [Dense(n), Dropout(rate), Dense(1)], optimizer=SGD(1e-6), dtype="float64",
                  seed=seed)
    net.biases[0][:] = 1
    net.weights[0][:] = net.weights[1][:] = 0
    return net


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_the_part_that_is_kept(rate):
    n, steps = 1000, 100
    masks = masks_of(one_to_one(n, rate), steps)
    sigma = np.sqrt(rate * (1 - rate))
    assert abs(masks.mean() - (1 - rate)) < 4 * sigma / np.sqrt(n * steps)
    # no unit and no step is dropped more often than chance explains, in 1000 + 100 looks
    for axis, size in ((0, steps), (1, n)):
        low, high = stats.binom.ppf([1e-7, 1 - 1e-7], size, 1 - rate)
        assert low <= masks.sum(axis=axis).min() <= masks.sum(axis=axis).max() <= high
    # nor do neighbours, or one step and the next, go together
    for pairs in (masks[:, 1:] == masks[:, :-1], masks[1:] == masks[:-1]):
        expected = rate**2 + (1 - rate) ** 2
        spread = np.sqrt(expected * (1 - expected) / pairs.size)
        assert abs(pairs.mean() - expected) < 5 * spread


def test_the_scale_is_right_in_the_mean():
    rng = np.random.default_rng(0)
    net = one_to_one(500, 0.4)
    net.weights[1][:, 0] = rng.random(500)
    X, y = np.zeros((4000, 1)), np.zeros(4000)
    exact = net.predict([0.0])[0]
    net.optimizer = SGD(1e-300)
    half_squares = net.train_step(X, y)  # half the mean square of the outputs
    variance = (net.weights[1] ** 2).sum() * 0.4 / 0.6
    expected = (exact**2 + variance) / 2
    # the outputs are next to normal: their squares spread by 2 exact sigma
    spread = exact * np.sqrt(variance) / np.sqrt(4000)
    assert abs(half_squares - expected) < 4 * spread


def test_seeds_steps_and_epochs():
    X, y = data(64)
    one, same, other = (dropping("relu", (0.2, 0.5, 0)) for _ in range(3))
    other._progress.rng = np.random.default_rng(1)
    for net in (one, same, other):
        net.fit(X, y, epochs=3, batch_size=16, shuffle=False)
    np.testing.assert_array_equal(one.parameters, same.parameters)
    assert not np.array_equal(one.parameters, other.parameters)
    masks = masks_of(one_to_one(200, 0.5), 4)
    assert len({mask.tobytes() for mask in masks}) == 4


def test_steps_of_one_epoch_differ():
    """A batch that comes twice in an epoch is dropped differently."""
    net = one_to_one(200, 0.5)
    changes = []

    class Watch(Callback):
        every_steps = 1

        def on_steps(self, network, loss):
            changes.append(network.weights[1][:, 0].copy())

    net.fit(np.zeros((3, 1)), np.full(3, 1e3), batch_size=1, shuffle=False, callbacks=[Watch()])
    masks = np.diff([np.zeros(200), *changes], axis=0) != 0
    assert not np.array_equal(masks[0], masks[1])
    assert not np.array_equal(masks[1], masks[2])


def test_listening_to_steps_changes_nothing():
    class Listens(Callback):
        every_steps = 2

    X, y = data(64)
    plain, heard = (dropping("relu", (0.2, 0.5, 0)) for _ in range(2))
    plain.fit(X, y, epochs=2, batch_size=10)
    heard.fit(X, y, epochs=2, batch_size=10, callbacks=[Listens()])
    np.testing.assert_array_equal(plain.parameters, heard.parameters)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bits_do_not_depend_on_threads(dtype, monkeypatch):
    monkeypatch.setattr(_dispatch.engine, "usable_cores", lambda: 3)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(500, 200)).astype(dtype), rng.normal(size=(500, 3)).astype(dtype)
    layers = [Dropout(0.1), Dense(300, "relu", l1=1e-4, max_norm=1.0), Dropout(0.5),
              Dense(257, "gelu", l2=1e-3), Dropout(0.2), Dense(3)]
    nets = [Network(200, layers, optimizer="adam", dtype=dtype, seed=0) for _ in range(2)]
    nets[0].fit(X, y, epochs=2, batch_size=250)
    nets[1].fit(X, y, epochs=2, batch_size=250, n_threads=3)
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)


def test_prediction_and_gradient_drop_nothing():
    net, plain = dropping("relu", (0.2, 0.5, 0.9)), dropping("relu", (0, 0, 0))
    plain.parameters[:] = net.parameters
    X, y = data(40)
    np.testing.assert_array_equal(net.predict(X), plain.predict(X))
    assert net.evaluate(X, y) == plain.evaluate(X, y)
    net.train_step(X, y)
    plain.parameters[:] = net.parameters
    np.testing.assert_array_equal(net.loss_and_gradient(X, y)[1], plain.loss_and_gradient(X, y)[1])
    assert net.check_gradient(X, y, n_checks=30) < 1e-6


def test_a_rate_of_zero_is_no_dropout():
    X, y = data(40)
    nets = [Network(12, layers, seed=0) for layers in (
        [Dense(9, "relu"), Dropout(0), Dense(3)], [Dense(9, "relu"), Dense(3)])]
    for net in nets:
        net.fit(X, y, epochs=2)
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)


def test_state_goes_on_with_the_same_masks():
    X, y = data(40)
    net = dropping("relu", (0.2, 0.5, 0))
    net.fit(X, y)
    twin = net.copy()
    for each in (net, twin):
        each.fit(X, y, epochs=2)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_table_and_repr():
    net = Network(4, [Dense(3, "relu", l2=0.1), Dropout(0.25), Dense(1)], seed=0)
    assert "Dropout  rate 0.25" in str(net)
    assert "[Dense(units=3, activation='relu', l2=0.1), Dropout(rate=0.25), Dense(" in repr(net)
    assert [type(layer).__name__ for layer in net.layers] == ["Dense", "Dropout", "Dense"]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Dropout(1), ValueError, r"rate must lie in \[0, 1\), got 1"),
        (lambda: Dropout(-0.1), ValueError, r"rate must lie in \[0, 1\)"),
        (lambda: Dropout("half"), TypeError, "rate must be a number"),
        (lambda: Dense(3, l1=-1), ValueError, "l1 must be finite and not negative"),
        (lambda: Dense(3, l2=np.nan), ValueError, "l2 must be finite and not negative"),
        (lambda: Dense(3, max_norm=0), ValueError, "max_norm must be positive"),
        (lambda: Network(2, [Dense(2), Dropout(0.5)]), ValueError,
         r"the last layer must be a Dense layer, got Dropout\(rate=0.5\)"),
        (lambda: Network(2, [Dropout(0.5), Dropout(0.5), Dense(2)]), ValueError,
         r"after Dropout\(rate=0.5\) there must be another kind of layer, got Dropout"),
        (lambda: Network(2, [Dropout(0.5)]), ValueError, "the last layer must be a Dense layer"),
    ],
)
def test_bad_settings(make, error, message):
    with pytest.raises(error, match=message):
        make()
