"""Networks as models of River: its own checks, and what a plain network of the same rows gives."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
from names import name_of

from fastbp import SGD, AdaGrad, Adam, BatchNorm, Dense, Dropout, Network, Normalize, Residual

WANTED = "wants the optional package river"
pytest.importorskip("river", reason=WANTED)

from river import (  # noqa: E402
    checks,
    compose,
    datasets,
    evaluate,
    feature_extraction,
    linear_model,
    metrics,
    preprocessing,
)

from fastbp.river import NetworkClassifier, NetworkRegressor  # noqa: E402

MODELS = [
    NetworkRegressor(), NetworkRegressor(hidden=None, optimizer=SGD(0.01, clip_norm=1), seed=1),
    NetworkRegressor(hidden=[Dropout(0.1), Dense(8, "tanh"), 4], optimizer=Adam(0.01), seed=2),
    NetworkClassifier(), NetworkClassifier(hidden=(8, 4), activation="tanh", seed=1),
    NetworkClassifier(hidden=(), optimizer=SGD(0.1)),
]


def cases():
    for number, model in enumerate(MODELS):
        for at, check in enumerate(checks.yield_checks(model)):
            if check.__name__ not in model._unit_test_skips():
                yield pytest.param(number, at, id=f"{number}-{at}-{check.__name__}")


@pytest.mark.parametrize(("number", "at"), list(cases()))
def test_rivers_own_checks(number, at):
    model = MODELS[number]
    list(checks.yield_checks(model))[at](model.clone())


RULES = [SGD(0.1), SGD(0.01, 0.9), Adam(0.01, amsgrad=True), AdaGrad(0.1, initial_accumulator=0.5),
         SGD(lambda step: 0.1 / (1 + step))]


def rows(n=60, n_features=5):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, n_features))
    return X, np.sin(X).sum(axis=1), (X[:, :3]).argmax(axis=1)


def as_dict(row, names="abcdefgh"):
    return dict(zip(names, row.tolist(), strict=False))


# A network whose missing weights are zero sums the same products and zeros: a few roundings.
EXACT = {"rtol": 1e-12, "atol": 1e-13}


@pytest.mark.parametrize("optimizer", RULES, ids=name_of)
def test_a_regressor_is_a_network_fed_the_rows_in_order(optimizer):
    X, y, _ = rows()
    model = NetworkRegressor(hidden=(7,), optimizer=optimizer, seed=3)
    net = Network(5, [Dense(7, "relu"), Dense(1)], optimizer=optimizer, dtype="float64", seed=3)
    assert model.predict_one(as_dict(X[0])) == 0
    for row, target in zip(X, y, strict=True):
        model.learn_one(as_dict(row), target)
        net.train_step(row, target)
        assert model.predict_one(as_dict(row)) == net.predict(row)[0]


@pytest.mark.parametrize("optimizer", RULES, ids=name_of)
def test_features_that_appear_later(optimizer):
    """A network that had all inputs from the start, with weights of zero and fed zeros."""
    X, y, _ = rows(n_features=8)
    model = NetworkRegressor(hidden=(7,), optimizer=optimizer, seed=3)
    first = Network(3, [Dense(7, "relu"), Dense(1)], seed=3, dtype="float64")
    net = Network(8, [Dense(7, "relu"), Dense(1)], optimizer=optimizer, dtype="float64")
    net.parameters[:] = 0
    net.weights[0][:3] = first.weights[0]
    net.weights[1][:] = first.weights[1]
    for step, (row, target) in enumerate(zip(X, y, strict=True)):
        known = row * (np.arange(8) < 3 + step // 10)
        x = {name: value for name, value in as_dict(known).items() if value != 0}
        model.learn_one(x, target)
        net.train_step(known, target)
        np.testing.assert_allclose(model.predict_one(x), net.predict(known)[0], **EXACT)
    # unknown ones mean nothing, missing ones are 0
    np.testing.assert_allclose(
        model.predict_one({"b": 2.0, "unknown": 7.0, 3: 1.0}),
        net.predict([0, 2.0, 0, 0, 0, 0, 0, 0])[0], **EXACT)
    assert net.n_steps == 60


@pytest.mark.parametrize("hidden", [None, (7,)])
@pytest.mark.parametrize("optimizer", RULES, ids=name_of)
def test_classes_that_appear_later(optimizer, hidden):
    """Each comes with zero weights: in NumPy, by hand, for the step after it appears."""
    X, _, labels = rows()
    model = NetworkClassifier(hidden=hidden, optimizer=optimizer, seed=3)
    assert model.predict_proba_one(as_dict(X[0])) == {}
    assert model.predict_one(as_dict(X[0])) is None
    layers = [Dense(each, "relu") for each in hidden or ()]

    def network(n_classes):
        return Network(5, [*layers, Dense(n_classes, "softmax")], loss="cross_entropy",
                       optimizer=optimizer, dtype="float64", seed=3)

    net, seen = None, []
    for row, label in zip(X, labels.tolist(), strict=True):
        label = "abc"[label]
        if label not in seen:
            seen.append(label)
            grown = network(len(seen))
            if net is not None:
                state = net.state()
                grown = carried(net, grown, state)
            net = grown
        model.learn_one(as_dict(row), label)
        net.train_step(row, seen.index(label))
        probabilities = model.predict_proba_one(as_dict(row))
        assert list(probabilities) == seen
        np.testing.assert_allclose(list(probabilities.values()), net.predict(row), **EXACT)
        assert model.predict_one(as_dict(row)) == seen[net.predict(row).argmax()]
    assert len(seen) == 3


def carried(net, grown, state):
    """With one output more, worked out on the flat vectors: W is the last but k of them."""
    n, k = net.n_parameters, net.n_outputs
    n_in = net.weights[-1].shape[0]
    W_start = n - k - n_in * k

    def widen(vector, fill):
        W = vector[W_start:n - k].reshape(n_in, k)
        W = np.hstack([W, np.full((n_in, 1), fill)])
        return np.concatenate([vector[:W_start], W.ravel(), vector[n - k:n], [fill]])

    fresh = [vector[0] for vector in grown.optimizer_vectors.values()]
    vectors = [
        widen(vector, fill)
        for vector, fill in zip(net.optimizer_vectors.values(), fresh, strict=True)
    ]
    json = state["json"] | {"network": grown.state()["json"]["network"]}
    grown.restore(grown.state() | {"json": json})
    grown.parameters[:] = widen(net.parameters, 0.0)
    for target, vector in zip(grown.optimizer_vectors.values(), vectors, strict=True):
        target[:] = vector
    return grown


def test_the_order_of_features_does_not_matter():
    X, y, _ = rows()
    models = [NetworkRegressor(seed=0) for _ in range(2)]
    for row, target in zip(X, y, strict=True):
        x = as_dict(row) | {3: 1.0, (1, 2): -1.0}
        models[0].learn_one(x, target)
        models[1].learn_one(dict(reversed(x.items())), target)
        assert models[0].predict_one(x) == models[1].predict_one(x)


def test_rows_without_features():
    model = NetworkClassifier(seed=0)
    model.learn_one({}, "a")
    model.learn_one({"x": 1.0}, "b")
    model.learn_one({}, "a")
    assert set(model.predict_proba_one({})) == {"a", "b"}


@pytest.mark.parametrize("duplicate", [
    copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)),
], ids=["deepcopy", "pickle"])
@pytest.mark.parametrize("model", [
    NetworkRegressor(hidden=[Dropout(0.2), 7], optimizer="adam", seed=1),
    NetworkClassifier(hidden=[7, BatchNorm()], optimizer="adam", seed=1),
], ids=str)
def test_a_copy_goes_on_with_the_same_bits(model, duplicate):
    model = model.clone()
    assert duplicate(model).predict_one({"a": 1.0}) == model.predict_one({"a": 1.0})
    X, y, labels = rows()
    targets = y if isinstance(model, NetworkRegressor) else labels
    for row, target in zip(X[:40, :4], targets[:40].tolist(), strict=True):
        model.learn_one(as_dict(row), target)
    twin = duplicate(model)
    before = twin.predict_one(as_dict(X[50]))
    for row, target in zip(X[40:], targets[40:].tolist(), strict=True):
        model.learn_one(as_dict(row), target)
    assert twin.predict_one(as_dict(X[50])) == before  # nothing is shared
    for row, target in zip(X[40:], targets[40:].tolist(), strict=True):
        twin.learn_one(as_dict(row), target)
    assert pickle.dumps(twin.__getstate__()["_network"][2]["parameters"]) == pickle.dumps(
        model.__getstate__()["_network"][2]["parameters"])
    assert model.clone().predict_one({"a": 1.0}) in (0.0, None)


# --- mini-batches -------------------------------------------------------------------------------


def test_mini_batches_are_steps_of_a_network():
    pd = pytest.importorskip("pandas", reason="mini-batches want the optional package pandas")
    X, y, labels = rows()
    regressor = NetworkRegressor(hidden=(7,), optimizer=Adam(0.01), seed=3)
    classifier = NetworkClassifier(hidden=(7,), optimizer=Adam(0.01), seed=3)
    nets = [Network(5, [Dense(7, "relu"), last], loss=loss, optimizer=Adam(0.01), seed=3,
                    dtype="float64")
            for last, loss in [(Dense(1), "squared_error"), (Dense(3, "softmax"), "cross_entropy")]]
    frame = pd.DataFrame(X, columns=list("abcde"), index=[f"row {i}" for i in range(60)])
    assert regressor.predict_many(frame).tolist() == [0.0] * 60
    assert classifier.predict_proba_many(frame).empty
    order = list(dict.fromkeys(labels.tolist()))
    for start in range(0, 60, 20):
        part = slice(start, start + 20)
        regressor.learn_many(frame[part], pd.Series(y[part]))
        classifier.learn_many(frame[part], pd.Series(labels[part]))
        nets[0].train_step(X[part], y[part])
        nets[1].train_step(X[part], [order.index(label) for label in labels[part]])
    regressor.learn_many(frame[:0], pd.Series(y[:0]))
    classifier.learn_many(frame[:0], pd.Series(labels[:0]))
    np.testing.assert_array_equal(regressor.predict_many(frame), nets[0].predict(X)[:, 0])
    probabilities = classifier.predict_proba_many(frame)
    assert list(probabilities) == order
    assert list(probabilities.index) == list(frame.index)
    np.testing.assert_allclose(probabilities, nets[1].predict(X), **EXACT)
    predicted = classifier.predict_many(frame)
    assert predicted.tolist() == [order[at] for at in nets[1].predict(X).argmax(axis=1)]
    assert classifier.predict_proba_many(frame[:0]).shape == (0, 3)
    assert regressor.predict_many(frame[:0]).shape == (0,)
    # columns in another order, one missing, one unknown
    other = frame[["c", "a", "e", "b"]].assign(z=5.0)
    np.testing.assert_allclose(
        regressor.predict_many(other), nets[0].predict(X * [1, 1, 1, 0, 1])[:, 0], **EXACT)


# --- accuracy -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("dataset", "linear", "gain"), [
    # measured: 89.6 % beside 89.3 %, 80.1 % beside 53.7 %, 91.2 % beside 82.6 %
    (datasets.Phishing, linear_model.LogisticRegression, -0.01),
    (datasets.Bananas, linear_model.LogisticRegression, 0.2),
    (datasets.ImageSegments, linear_model.SoftmaxRegression, 0.05),
])
def test_accuracy_beside_a_linear_model_of_rivers(dataset, linear, gain):
    accuracy = [
        evaluate.progressive_val_score(
            dataset(), preprocessing.StandardScaler() | model, metrics.Accuracy()
        ).get()
        for model in (NetworkClassifier(seed=0), linear())
    ]
    assert accuracy[0] > accuracy[1] + gain


def test_error_beside_a_linear_model_of_rivers():
    """Measured: a mean absolute error of 0.39 beside 1.31."""
    scaled = preprocessing.TargetStandardScaler(NetworkRegressor(seed=0))
    error = [
        evaluate.progressive_val_score(
            datasets.TrumpApproval(), preprocessing.StandardScaler() | model, metrics.MAE()
        ).get()
        for model in (scaled, linear_model.LinearRegression())
    ]
    assert error[0] < error[1] / 2


def test_in_a_pipeline_with_words():
    """A feature appears with nearly every row."""
    texts = ["good film", "bad film", "very good", "very bad plot", "a good plot", "bad acting"]
    model = compose.Pipeline(
        ("words", feature_extraction.BagOfWords()),
        ("network", NetworkClassifier(hidden=None, seed=0)),
    )
    for _ in range(30):
        for text in texts:
            model.learn_one(text, "good" in text)
    assert [model.predict_one(text) for text in texts] == ["good" in text for text in texts]
    assert model.predict_one("unknown words") in (True, False)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(("settings", "error", "message"), [
    ({"hidden": 3}, TypeError, "hidden must be a sequence of widths and layers, got 3"),
    ({"hidden": "ab"}, TypeError, "hidden must be a sequence"),
    ({"hidden": (0,)}, ValueError, "units must be"),
    ({"hidden": (Normalize(), 3)}, ValueError, "hidden must begin with"),
    ({"hidden": (Dropout(0.1), BatchNorm())}, ValueError, "hidden must begin with"),
    ({"hidden": (Residual([Dense(3)]),)}, ValueError, "hidden must begin with"),
    ({"hidden": ("relu",)}, ValueError, "hidden must begin with"),
    ({"activation": "rellu"}, ValueError, "unknown activation 'rellu'"),
    ({"optimizer": "admm"}, ValueError, "unknown optimizer 'admm'"),
    ({"dtype": "int8"}, ValueError, "dtype must be one of"),
    ({"seed": -1}, ValueError, "seed must be"),
])
@pytest.mark.parametrize("kind", [NetworkRegressor, NetworkClassifier])
def test_bad_parameters(kind, settings, error, message):
    with pytest.raises(error, match=message):
        kind(**settings)


@pytest.mark.parametrize(("x", "error", "message"), [
    ({"a": "1", "b": 2}, TypeError, r"features of x must be numbers, got \{'a': '1'\}"),
    ({"a": None, "new": 3}, TypeError, r"features of x must be numbers, got \{'a': None\}"),
    ({"a": np.nan, "new": 3}, ValueError, "x must be finite"),
    ({"a": 1.0, "new": np.inf}, ValueError, "x must be finite"),
])
def test_bad_rows_leave_the_model_as_it_was(x, error, message):
    X, y, labels = rows()
    for model, targets, new in ((NetworkRegressor(seed=0), y, 1.0),
                                (NetworkClassifier(seed=0), labels, "new class")):
        for row, target in zip(X[:10], targets[:10].tolist(), strict=True):
            model.learn_one(as_dict(row), target)
        before = pickle.dumps(model)
        with pytest.raises(error, match=message):
            model.learn_one(x, new)
        assert pickle.dumps(model) == before
    with pytest.raises(ValueError, match="y must be finite"):
        NetworkRegressor().learn_one({"a": 1.0}, np.nan)


def test_the_error_without_river():
    code = "import sys; sys.modules['river'] = None; import fastbp, fastbp.river"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert 'ImportError: fastbp.river wants river: pip install "fastbp[river]"' in done.stderr
