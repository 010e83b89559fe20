"""What fit offers beside its steps: validation splits, metrics, callbacks, early stopping."""

import math

import numpy as np
import pytest

from fastbp import LBFGS, SGD, Adam, Dense, Network, metrics
from fastbp.callbacks import Callback, EarlyStopping
from fastbp.splitting import split


def classifier(rate=0.3, **settings):
    return Network(4, [Dense(9, "tanh"), Dense(3, "softmax")], loss="cross_entropy",
                   optimizer=SGD(rate), dtype="float64", seed=0, **settings)


def data(n=60):
    rng = np.random.default_rng(1)
    X = rng.normal(size=(n, 4))
    return X, (X[:, 0] > 0) * 1 + (X[:, 1] > 1) * 1


def test_accumulate_is_a_larger_batch():
    X, y = data()
    large, small = classifier(), classifier()
    large.fit(X, y, epochs=3, batch_size=21)
    small.fit(X, y, epochs=3, batch_size=7, accumulate=3)
    np.testing.assert_array_equal(large.parameters, small.parameters)
    assert small.n_steps == 3 * 3


@pytest.mark.parametrize(
    "optimizer", [SGD(0.3), SGD(0.3, weight_decay=0.1), Adam(0.1), SGD(0.3, clip_norm=0.05)],
    ids=str,
)
@pytest.mark.parametrize("every_steps", [None, 2])
def test_norms_of_gradients(optimizer, every_steps):
    """Against the norm of each step's gradient, penalties included, before it is clipped."""
    X, y = data()
    layers = [Dense(9, "tanh", l1=0.01, l2=0.1), Dense(3, "softmax")]
    net = Network(4, layers, loss="cross_entropy", optimizer=optimizer, dtype="float64", seed=0)
    plain, step_by_step = net.copy(), net.copy()
    callback = Callback()
    callback.every_steps = every_steps
    history = net.fit(
        X, y, epochs=2, batch_size=25, shuffle=False, gradient_norm=True, callbacks=[callback]
    )
    norms = []
    for _ in range(2):
        for start in (0, 25, 50):
            rows = slice(start, start + 25)
            norms.append(np.linalg.norm(step_by_step.loss_and_gradient(X[rows], y[rows])[1]))
            step_by_step.train_step(X[rows], y[rows])
    # some ten roundings of each of 70 squares
    np.testing.assert_allclose(
        history.gradient_norm, np.reshape(norms, (2, 3)).mean(axis=1), rtol=1e-12
    )
    assert plain.fit(X, y, epochs=2, batch_size=25, shuffle=False).gradient_norm == []
    np.testing.assert_allclose(net.parameters, plain.parameters, rtol=1e-10)


def test_norms_of_a_minimisers_gradients():
    X, y = data()
    net = classifier()
    net.optimizer = LBFGS()
    history = net.fit(X, y, epochs=4, gradient_norm=True)
    assert len(history.gradient_norm) == len(history.loss)
    last = np.linalg.norm(net.loss_and_gradient(X, y)[1])
    assert history.gradient_norm[-1] == pytest.approx(last, rel=1e-12)


# --- splits


def samples(n, y=None):
    X = np.arange(n, dtype=float)[:, None]
    return X, np.arange(n) % 3 if y is None else y, None


@pytest.mark.parametrize("kind", ["shuffled", "stratified", "last"])
@pytest.mark.parametrize(("n", "part", "count"), [(10, 0.3, 3), (11, 0.5, 6), (100, 0.01, 1)])
def test_a_split_has_each_sample_once(kind, n, part, count):
    kept, held_out = split(samples(n), part, kind, np.random.default_rng(0))
    assert len(held_out[0]) == count
    both = np.concatenate([kept[0], held_out[0]]).ravel()
    np.testing.assert_array_equal(np.sort(both), np.arange(n))
    assert (np.diff(kept[0].ravel()) > 0).all()  # in the order in which they came
    for X, y, _ in (kept, held_out):
        np.testing.assert_array_equal(X.ravel() % 3, y)


def test_the_last_part():
    kept, held_out = split(samples(10), 0.2, "last", np.random.default_rng(0))
    np.testing.assert_array_equal(held_out[0].ravel(), [8, 9])
    np.testing.assert_array_equal(kept[0].ravel(), np.arange(8))


def test_shuffled_parts_differ_and_repeat():
    parts = [split(samples(99), 0.3, "shuffled", np.random.default_rng(s))[1][0] for s in (0, 0, 1)]
    np.testing.assert_array_equal(parts[0], parts[1])
    assert not np.array_equal(parts[0], parts[2])


@pytest.mark.parametrize(
    "y",
    [np.repeat([0, 1, 2], [80, 15, 5]), np.eye(3)[np.repeat([0, 1, 2], [80, 15, 5])],
     np.repeat([-1.0, 1.0], [80, 20])[:, None]],
)
def test_stratified_parts_have_each_class_in_proportion(y):
    _, held_out = split(samples(100, y), 0.2, "stratified", np.random.default_rng(0))
    counts = np.unique(held_out[1], axis=0, return_counts=True)[1]
    assert sorted(counts) in ([1, 3, 16], [4, 16])


def test_fit_holds_out_what_it_validates_on():
    X, y = data()
    net, by_hand = classifier(), classifier()
    history = net.fit(X, y, epochs=3, validation_split=0.25, validation_kind="last")
    expected = by_hand.fit(X[:45], y[:45], epochs=3, validation_data=(X[45:], y[45:]))
    np.testing.assert_array_equal(net.parameters, by_hand.parameters)
    assert history.validation_loss == expected.validation_loss


BAD = [
    ({"validation_split": 0}, ValueError, "samples on both sides"),
    ({"validation_split": 0.999}, ValueError, "samples on both sides"),
    ({"validation_split": 1}, ValueError, r"validation_split must lie in \[0, 1\)"),
    ({"validation_split": "some"}, TypeError, "validation_split must be a number"),
    ({"validation_split": 0.5, "validation_kind": "first"}, ValueError,
     "unknown validation_kind 'first'"),
    ({"validation_split": 0.5, "validation_data": ([[0] * 4], [1])}, ValueError,
     "either validation_data or validation_split"),
    ({"accumulate": 0}, ValueError, "accumulate must be an integer"),
    ({"metrics": ["recall"]}, ValueError, "unknown metric 'recall'; valid are 'accuracy'"),
    ({"metrics": ["mse", "mse"]}, ValueError, "different names"),
    ({"metrics": [3]}, TypeError, "metric must be one of"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_arguments_draw_nothing(arguments, error, message):
    net, (X, y) = classifier(), data()
    state = net._progress.rng.bit_generator.state
    with pytest.raises(error, match=message):
        net.fit(X, y, **arguments)
    assert net._progress.rng.bit_generator.state == state


# --- metrics


def test_metrics_in_history():
    X, y = data()

    def half(y, prediction):
        return np.mean(prediction[:, 0] > 0.5)

    net = classifier()
    history = net.fit(X[:40], y[:40], epochs=2, validation_data=(X[40:], y[40:]),
                      metrics=["accuracy", half, metrics.top_k(2)])
    assert {name: len(values) for name, values in history.metrics.items()} == {
        "accuracy": 2, "half": 2, "top_2": 2,
    }
    right = net.predict(X[40:]).argmax(axis=1) == y[40:]
    assert history.metrics["accuracy"][-1] == right.mean()
    on_training = net.fit(X, y, metrics="accuracy")
    right = net.predict(X).argmax(axis=1) == y
    assert on_training.metrics["accuracy"] == [right.mean()]


@pytest.mark.parametrize("name", ["mse", "mae", "r2"])
def test_regression_metrics_by_their_definitions(name):
    rng = np.random.default_rng(0)
    y, prediction = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    y[:, 2] = 1.5
    errors = (prediction - y).ravel()
    explained = [1 - np.mean((prediction - y)[:, k] ** 2) / np.var(y[:, k]) for k in (0, 1)]
    expected = {
        "mse": sum(error**2 for error in errors) / 150,
        "mae": sum(abs(error) for error in errors) / 150,
        "r2": sum(explained) / 3,  # the third output is constant and not met
    }[name]
    assert metrics.METRICS[name](y, prediction) == pytest.approx(expected, rel=1e-12)


def test_class_metrics_by_their_definitions():
    p = np.array([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7], [0.3, 0.3, 0.4]])
    y = np.array([0, 2, 1, 2])
    assert metrics.accuracy(y, p) == 0.5
    assert metrics.top_k(2)(y, p) == 1.0
    assert metrics.top_k(1)(y, p) == 0.5
    assert metrics.top_k(2)(np.array([0, 0, 0, 0]), p) == 0.25  # a tie counts against it
    expected = -np.log([0.7, 0.3, 0.2, 0.4]).mean()
    assert metrics.log_loss(y, p) == pytest.approx(expected, rel=1e-14)
    assert metrics.log_loss(np.eye(3)[y], p) == pytest.approx(expected, rel=1e-14)
    q, z = np.array([[0.9], [0.2]]), np.array([[1.0], [1.0]])
    assert metrics.accuracy(z, q) == 0.5
    assert metrics.log_loss(z, q) == pytest.approx(-np.log([0.9, 0.2]).mean(), rel=1e-14)
    assert metrics.mse(z, q) == pytest.approx((0.01 + 0.64) / 2, rel=1e-14)


def test_metrics_are_scikit_learns():
    scores = pytest.importorskip("sklearn.metrics", reason="compared with scikit-learn where it is")
    rng = np.random.default_rng(0)
    y, prediction = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    p, labels = rng.dirichlet(np.ones(3), 50), rng.integers(3, size=50)
    for found, expected in (
        (metrics.r2(y, prediction), scores.r2_score(y, prediction)),
        (metrics.mse(y, prediction), scores.mean_squared_error(y, prediction)),
        (metrics.mae(y, prediction), scores.mean_absolute_error(y, prediction)),
        (metrics.log_loss(labels, p), scores.log_loss(labels, p)),
        (metrics.top_k(2)(labels, p), scores.top_k_accuracy_score(labels, p, k=2)),
        (metrics.accuracy(labels, p), scores.accuracy_score(labels, p.argmax(axis=1))),
    ):
        assert found == pytest.approx(expected, rel=1e-12)


# --- callbacks


class Noted(Callback):
    def __init__(self, every_steps=None):
        self.every_steps = every_steps
        self.heard = []

    def on_train_begin(self, network, epochs):
        self.heard.append(("train", epochs))

    def on_epoch_begin(self, network, history):
        self.heard.append(("epoch", len(history.loss)))

    def on_steps(self, network, loss):
        self.heard.append(("steps", network.n_steps, loss))

    def on_epoch_end(self, network, history):
        self.heard.append(("epoch ends", len(history.loss)))

    def on_train_end(self, network, history):
        self.heard.append(("train ends", len(history.loss)))


def test_callbacks_hear_everything_in_order():
    X, y = data()
    noted = Noted()
    classifier().fit(X, y, epochs=2, callbacks=[noted])
    assert noted.heard == [
        ("train", 2), ("epoch", 0), ("epoch ends", 1), ("epoch", 1), ("epoch ends", 2),
        ("train ends", 2),
    ]


@pytest.mark.parametrize("shuffle", [True, False])
def test_steps_are_heard_and_change_nothing(shuffle):
    X, y = data(70)
    plain, heard = classifier(), classifier()
    expected = plain.fit(X, y, epochs=2, batch_size=10, shuffle=shuffle)
    two, three = Noted(2), Noted(3)
    history = heard.fit(X, y, epochs=2, batch_size=10, shuffle=shuffle, callbacks=[two, three])
    np.testing.assert_array_equal(plain.parameters, heard.parameters)
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-14)
    for noted, steps in ((two, [2, 4, 6, 7, 9, 11, 13, 14]), (three, [3, 6, 7, 10, 13, 14])):
        found = [each for each in noted.heard if each[0] == "steps"]
        assert [step for _, step, _ in found] == steps
        # their losses, weighted by their steps, are that of the epoch
        of_epoch = found[: len(found) // 2]
        widths = np.diff([0, *steps[: len(of_epoch)]])
        mean = np.average([loss for *_, loss in of_epoch], weights=widths)
        assert mean == pytest.approx(expected.loss[0], rel=1e-12)


def test_every_steps_must_be_a_count():
    X, y = data()
    with pytest.raises(ValueError, match="every_steps must be an integer"):
        classifier().fit(X, y, callbacks=[Noted(0)])


# --- early stopping


class Losses(Callback):
    """Stands in for training: the validation loss of each epoch is what it is told."""

    def __init__(self, losses):
        self.losses = losses
        self.parameters = []

    def on_epoch_end(self, network, history):
        history.validation_loss[len(history.loss) - 1 :] = [self.losses[len(history.loss) - 1]]
        self.parameters.append(network.parameters.copy())


@pytest.mark.parametrize(
    ("losses", "patience", "min_delta", "epochs", "best"),
    [
        ([3, 2, 1, 2, 2, 2, 2], 3, 0, 6, 3),
        ([3, 2, 1, 2, 2, 0.5, 2, 2, 2, 2], 3, 0, 9, 6),
        ([3, 2.95, 2.92, 2.91, 2.9], 2, 0.1, 3, 1),
        ([1, 2], 1, 0, 2, 1),
        ([4, 3, 2, 1], 2, 0, 4, 4),
        ([1, 1, 1, 1], 2, 0, 3, 1),
    ],
)
@pytest.mark.parametrize("restore", [True, False])
def test_early_stopping(losses, patience, min_delta, epochs, best, restore):
    X, y = data()
    net, told = classifier(), Losses(losses)
    stopping = EarlyStopping(patience, min_delta, restore_best=restore)
    history = net.fit(X, y, epochs=len(losses), validation_data=(X, y),
                      callbacks=[told, stopping])
    assert len(history.loss) == epochs
    assert (stopping.best_epoch, stopping.best_loss) == (best, losses[best - 1])
    expected = told.parameters[best - 1 if restore else -1]
    np.testing.assert_array_equal(net.parameters, expected)


def test_early_stopping_leaves_an_interrupted_network_alone():
    class Interrupt(Callback):
        every_steps = 1

        def on_steps(self, network, loss):
            if network.n_steps == 3:
                raise KeyboardInterrupt

    X, y = data()
    net, twin = classifier(), classifier()
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, y, epochs=3, batch_size=30, shuffle=False,
                callbacks=[EarlyStopping(), Interrupt()])
    twin.fit(X, y, batch_size=30, shuffle=False)
    twin.train_step(X[:30], y[:30])
    np.testing.assert_array_equal(net.parameters, twin.parameters)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"patience": 0}, "patience must be an integer from 1"),
     ({"min_delta": -1}, "min_delta must be finite and not negative")],
)
def test_bad_early_stopping(arguments, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(**arguments)


# --- the range test


def test_range_test():
    """On a quadratic, gradient descent diverges from 2 / curvature on; the best rate is below."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 3))
    y = X @ [1.0, -2.0, 0.5] + 3
    net = Network(3, [Dense(1)], dtype="float64", seed=0)
    before, state = net.parameters.copy(), net._progress.rng.bit_generator.state
    curve = net.find_learning_rate(X, y, low=1e-4, high=100.0, steps=80, batch_size=400)
    assert len(curve.losses) == len(curve.learning_rates) < 80
    np.testing.assert_allclose(np.diff(np.log(curve.learning_rates)), np.log(1e6) / 79, rtol=1e-9)
    assert curve.losses[0] == pytest.approx(net.evaluate(X, y), rel=1e-12)
    assert curve.losses[-1] > 4 * curve.losses.min()
    assert 0.01 < curve.suggestion < 0.5
    np.testing.assert_array_equal(net.parameters, before)
    assert net._progress.rng.bit_generator.state == state
    assert net.n_steps == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"low": 0}, "low must be positive"), ({"high": math.inf}, "high must be positive and finite"),
     ({"low": 1.0, "high": 0.5}, "low must be less than high"),
     ({"steps": 1}, "steps must be 2 or more"), ({"batch_size": 0}, "batch_size must be")],
)
def test_bad_range_test(arguments, message):
    X, y = data()
    with pytest.raises(ValueError, match=message):
        classifier().find_learning_rate(X, y, **arguments)
