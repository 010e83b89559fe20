"""Weights of samples and classes: what they mean, against repeated samples and a naive sum."""

import numpy as np
import pytest
from reference import reference_of

from fastbp import SGD, Dense, Network


def classifier(seed=0, dtype="float64"):
    return Network(4, [Dense(9, "tanh"), Dense(3, "softmax")], loss="cross_entropy",
                   optimizer=SGD(0.3), dtype=dtype, seed=seed)


def data(n=60):
    rng = np.random.default_rng(1)
    return rng.normal(size=(n, 4)), rng.integers(3, size=n), rng.integers(0, 4, size=n)


def weighted(net, X, y, weights):
    """The loss and the gradient of weights of mean 1, sample by sample in NumPy."""
    reference, w = reference_of(net), weights / weights.mean()
    losses = [reference.loss_value(x[None], t[None]) for x, t in zip(X, y, strict=True)]
    gradients = [reference.gradient(x[None], t[None]) for x, t in zip(X, y, strict=True)]
    return np.mean(w * losses), (w[:, None] * gradients).mean(axis=0)


@pytest.mark.parametrize("n", [1, 2, 60, 1500])
def test_loss_and_gradient(n):
    net, (X, y, weights) = classifier(), data(n)
    weights = weights + 0.5
    loss, gradient = net.loss_and_gradient(X, y, sample_weight=weights)
    expected_loss, expected = weighted(net, X, y, weights)
    assert loss == pytest.approx(expected_loss, rel=1e-12)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-13)
    assert net.evaluate(X, y, sample_weight=weights) == pytest.approx(loss, rel=1e-14)
    assert net.check_gradient(X[:60], y[:60], sample_weight=weights[:60]) < 1e-7


def test_whole_weights_are_repeated_samples():
    X, y, weights = data()
    often, once = classifier(), classifier()
    rows = np.repeat(np.arange(len(X)), weights)
    often.fit(X[rows], y[rows], epochs=20, batch_size=None)
    once.fit(X, y, epochs=20, batch_size=None, sample_weight=weights)
    np.testing.assert_allclose(once.parameters, often.parameters, rtol=0, atol=1e-12)


def test_each_batch_has_the_weights_of_its_samples():
    """Scaled over all samples once, whatever the batches and their order."""
    X, y, weights = data()
    net, by_hand = classifier(), classifier()
    net.fit(X, y, batch_size=7, sample_weight=weights, shuffle=True)
    order = by_hand._progress.rng.permutation(60)
    scaled = weights / weights.mean()
    for start in range(0, 60, 7):
        rows = order[start : start + 7]
        by_hand.train_step(X[rows], y[rows], sample_weight=scaled[rows])
    np.testing.assert_allclose(net.parameters, by_hand.parameters, rtol=0, atol=1e-13)


def test_train_step_takes_weights_as_they_are():
    X, y, _ = data()
    one, three = classifier(), classifier()
    start = one.parameters.copy()
    for net, weight in ((one, 1.0), (three, 3.0)):
        net.train_step(X[0], y[0], sample_weight=[weight])
    np.testing.assert_allclose(three.parameters - start, 3 * (one.parameters - start), atol=1e-15)


@pytest.mark.parametrize("weights", [None, "some"])
def test_balanced_classes(weights):
    """scikit-learn's definition: n / (classes x samples of the class)."""
    net, (X, y, each) = classifier(), data()
    y = np.where(y == 2, 0, y)  # class 2 has no sample, and class 0 twice as many
    each = None if weights is None else each + 1.0
    of_class = 60 / (2 * np.bincount(y))
    expected, _ = weighted(net, X, y, of_class[y] * (1 if each is None else each))
    found = net.evaluate(X, y, sample_weight=each, class_weight="balanced")
    assert found == pytest.approx(expected, rel=1e-12)


def test_class_weights_by_label():
    net, (X, y, _) = classifier(), data()
    expected, _ = weighted(net, X, y, np.array([1.0, 5.0, 0.25])[y])
    assert net.evaluate(X, y, class_weight={1: 5, 2: 0.25}) == pytest.approx(expected, rel=1e-12)


def test_class_weights_of_one_output():
    net = Network(4, [Dense(1, "sigmoid")], loss="binary_cross_entropy", dtype="float64", seed=0)
    X, y, _ = data()
    y = (y == 0).astype(float)
    expected = net.evaluate(X, y, sample_weight=np.where(y == 1, 3.0, 1.0))
    assert net.evaluate(X, y, class_weight={1: 3}) == pytest.approx(expected, rel=1e-14)


def test_validation_weights():
    X, y, weights = data()
    net = classifier()
    history = net.fit(X, y, validation_data=(X[:20], y[:20], weights[:20]))
    expected = net.evaluate(X[:20], y[:20], sample_weight=weights[:20])
    assert history.validation_loss == [expected]


def test_weights_do_not_depend_on_threads(monkeypatch):
    from fastbp import _dispatch

    monkeypatch.setattr(_dispatch.engine, "usable_cores", lambda: 2)
    rng = np.random.default_rng(0)
    X, y, weights = rng.normal(size=(900, 300)), rng.integers(5, size=900), rng.random(900)
    nets = [Network(300, [Dense(400, "relu"), Dense(5, "softmax")], loss="cross_entropy", seed=0)
            for _ in range(2)]
    for n_threads, net in enumerate(nets, start=1):
        net.fit(X, y, batch_size=300, sample_weight=weights, n_threads=n_threads)
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)


BAD = [
    ({"sample_weight": np.ones(59)}, ValueError, r"sample_weight must have shape \(60,\)"),
    ({"sample_weight": np.ones((60, 1))}, ValueError, r"sample_weight must have shape \(60,\)"),
    ({"sample_weight": -np.ones(60)}, ValueError, "sample_weight must not be negative"),
    ({"sample_weight": np.full(60, np.nan)}, ValueError, "sample_weight must be finite"),
    ({"sample_weight": np.zeros(60)}, ValueError, "must not all be zero"),
    ({"sample_weight": ["a"] * 60}, TypeError, "sample_weight must hold real numbers"),
    ({"class_weight": {3: 1}}, ValueError, "class_weight must have labels from 0 to 2, got 3"),
    ({"class_weight": {0: -1}}, ValueError, "class_weight of 0 must be finite and not negative"),
    ({"class_weight": {0: 0, 1: 0, 2: 0}}, ValueError, "must not all be zero"),
    ({"class_weight": "equal"}, ValueError, "unknown class_weight 'equal'; valid are 'balanced'"),
    ({"class_weight": [1, 2, 3]}, TypeError, "class_weight must be a mapping"),
]


@pytest.mark.parametrize(("weights", "error", "message"), BAD)
def test_bad_weights(weights, error, message):
    net, (X, y, _) = classifier(), data()
    before = net.parameters.copy()
    for call in (net.fit, net.train_step, net.evaluate, net.loss_and_gradient):
        with pytest.raises(error, match=message):
            call(X, y, **weights)
    np.testing.assert_array_equal(net.parameters, before)


def test_class_weight_wants_classes():
    net, (X, _, _) = classifier(), data()
    with pytest.raises(ValueError, match="class_weight wants labels"):
        net.fit(X, np.full((60, 3), 1 / 3), class_weight="balanced")
