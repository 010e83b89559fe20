"""scikit-learn: the same predictions, and the same training from there on."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fastbp
from fastbp import LBFGS, SGD, Adam, Dense, Normalize

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

pytestmark = pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}"
)

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 5))
TARGETS = {
    "two classes": np.where(X[:, 0] > 0, "yes", "no"),
    "four classes": np.digitize(X[:, 1], [-0.7, 0, 0.7]) * 10,
    "several labels": (X[:, :3] > 0).astype(int),
    "one number": X @ np.arange(5) / 5,
    "three numbers": X @ rng.normal(size=(5, 3)),
    "counts": rng.poisson(np.exp(X[:, 0] / 2)),
}
REGRESSION = ("one number", "three numbers", "counts")


def estimator(targets, **settings):
    if targets not in REGRESSION:
        return MLPClassifier(**settings)
    if targets == "counts":
        settings["loss"] = "poisson"
    return MLPRegressor(**settings)


def expected(fitted, targets, X):
    if targets in REGRESSION:
        return fitted.predict(X).reshape(len(X), -1)
    found = fitted.predict_proba(X)
    return found[:, 1:] if targets == "two classes" else found


def labels(targets):
    """The targets as fastbp takes them."""
    y = TARGETS[targets]
    if targets == "two classes":
        return (y == "yes").astype(float)
    return y // 10 if targets == "four classes" else y.astype(float)


LOSS = {
    "two classes": "binary_cross_entropy", "four classes": "cross_entropy",
    "several labels": "binary_cross_entropy", "one number": "squared_error",
    "three numbers": "squared_error", "counts": "poisson",
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["identity", "logistic", "tanh", "relu"])
@pytest.mark.parametrize("targets", TARGETS)
def test_predicts_as_the_estimator_does(targets, activation, dtype):
    rows = X.astype(dtype)
    fitted = estimator(targets, hidden_layer_sizes=(7, 4), activation=activation, max_iter=20,
                       random_state=0).fit(rows, TARGETS[targets])
    net = fastbp.from_sklearn(fitted, seed=3)
    assert net.dtype == dtype
    assert net.loss.name == LOSS[targets]
    assert net.seed == 3
    # float32: some roundings in sums of seven terms
    tolerance = {"float32": 1e-6, "float64": 1e-12}[dtype]
    wanted = expected(fitted, targets, rows)
    np.testing.assert_allclose(net.predict(rows), wanted, rtol=tolerance, atol=tolerance)


SOLVERS = {
    "plain": {"solver": "sgd", "momentum": 0.0},
    "momentum": {"solver": "sgd", "momentum": 0.8, "nesterovs_momentum": False},
    "nesterov": {"solver": "sgd", "momentum": 0.8},
    # its epsilon is another one, so that it is too small to be seen
    "adam": {"solver": "adam", "beta_1": 0.8, "beta_2": 0.99, "epsilon": 1e-30},
}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("targets", TARGETS)
def test_trains_as_the_estimator_does(targets, solver):
    """An epoch from where it is, with a penalty that shows, by optimizers that start anew."""
    y = TARGETS[targets]
    fitted = estimator(
        targets, hidden_layer_sizes=(7,), activation="tanh", alpha=0.5, batch_size=20,
        shuffle=False, random_state=0, **{"learning_rate_init": 0.01, **solver},
    )
    classes = {} if targets in REGRESSION else {"classes": np.unique(y)}
    if targets == "several labels":
        classes = {"classes": np.arange(3)}
    fitted.partial_fit(X, y, **classes)
    net = fastbp.from_sklearn(fitted)
    before = net.parameters.copy()
    del fitted._optimizer  # with what it has gathered, which is not carried over
    fitted.partial_fit(X, y)
    net.fit(X, labels(targets), batch_size=20, shuffle=False)
    assert np.abs(net.parameters - before).max() > 1e-4
    after = fastbp.from_sklearn(fitted).parameters
    np.testing.assert_allclose(net.parameters, after, rtol=0, atol=1e-11)


def test_penalty_is_that_of_a_step():
    def penalty(fitted, **settings):
        (l2,) = {layer.l2 for layer in fastbp.from_sklearn(fitted, **settings).layers}
        return l2

    y, settings = TARGETS["one number"], {"alpha": 0.6, "max_iter": 3, "random_state": 0}
    automatic = MLPRegressor(**settings).fit(X, y)
    assert penalty(automatic) == 0.6 / 60  # as there are no 200 samples
    assert penalty(automatic, batch_size=30) == 0.6 / 30
    many = MLPRegressor(**settings).fit(np.tile(X, (5, 1)), np.tile(y, 5))
    assert penalty(many) == 0.6 / 200
    assert penalty(MLPRegressor(batch_size=15, **settings).fit(X, y)) == 0.6 / 15
    quasi_newton = MLPRegressor(solver="lbfgs", **settings).fit(X, y)
    assert penalty(quasi_newton) == 0
    assert penalty(quasi_newton, batch_size=60) == 0.6 / 60
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        fastbp.from_sklearn(automatic, batch_size=0)


def test_full_batch_penalty_is_that_of_lbfgs():
    """At its minimum, the gradient of the loss with the carried penalty is zero."""
    y = TARGETS["one number"]
    fitted = MLPRegressor(
        hidden_layer_sizes=(3,), activation="tanh", solver="lbfgs", alpha=1.0, max_iter=5000,
        tol=1e-9, max_fun=100_000, random_state=0,
    ).fit(X, y)
    _, gradient = fastbp.from_sklearn(fitted, batch_size=len(X)).loss_and_gradient(X, y)
    # L-BFGS-B ends where the loss falls by less than 2e-9 of itself
    assert np.abs(gradient).max() < 1e-4
    _, gradient = fastbp.from_sklearn(fitted).loss_and_gradient(X, y)
    assert np.abs(gradient).max() > 1e-3


def test_optimizers():
    y = TARGETS["one number"]

    def optimizer(**settings):
        fitted = MLPRegressor(hidden_layer_sizes=(3,), max_iter=2, **settings).fit(X, y)
        return fastbp.from_sklearn(fitted).optimizer

    assert optimizer() == Adam(0.001)
    assert optimizer(solver="sgd") == SGD(0.001, momentum=0.9, nesterov=True)
    assert optimizer(solver="sgd", momentum=0.0) == SGD(0.001)
    assert optimizer(solver="lbfgs") == LBFGS()
    for rate in ("invscaling", "adaptive"):
        settings = {"solver": "sgd", "learning_rate": rate}
        with pytest.raises(ValueError, match=f"give an optimizer: learning_rate='{rate}' goes by"):
            optimizer(**settings)
        fitted = MLPRegressor(hidden_layer_sizes=(3,), max_iter=2, **settings).fit(X, y)
        assert fastbp.from_sklearn(fitted, optimizer=SGD(0.5)).optimizer == SGD(0.5)
    with pytest.raises(ValueError, match=r"give an optimizer: momentum must lie in \[0, 1\)"):
        optimizer(solver="sgd", momentum=1.0)


@pytest.mark.parametrize("settings", [{}, {"with_mean": False}, {"with_std": False}], ids=str)
def test_scaler_becomes_normalize(settings):
    rows = 3 * X + np.arange(5)
    rows[:, 2] = 1.5
    y = TARGETS["four classes"]
    fitted = make_pipeline(StandardScaler(**settings), MLPClassifier(max_iter=20)).fit(rows, y)
    net = fastbp.from_sklearn(fitted)
    assert net.layers[0] == Normalize()
    np.testing.assert_allclose(
        net.predict(rows), fitted.predict_proba(rows), rtol=1e-10, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 9), max_size=3), st.integers(1, 6), st.integers(1, 4))
def test_any_shape(hidden, n_inputs, n_outputs):
    rows = np.random.default_rng(1).normal(size=(10, n_inputs))
    y = np.random.default_rng(2).normal(size=(10, n_outputs))
    y = y.ravel() if n_outputs == 1 else y
    fitted = MLPRegressor(hidden_layer_sizes=hidden, max_iter=1).fit(rows, y)
    net = fastbp.from_sklearn(fitted)
    assert [layer.units for layer in net.layers] == [*hidden, n_outputs]
    assert isinstance(net.layers[0], Dense)
    found = net.predict(rows).reshape(fitted.predict(rows).shape)
    np.testing.assert_allclose(found, fitted.predict(rows), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("wrong", [
    LogisticRegression(), None, make_pipeline(MinMaxScaler(), MLPRegressor()),
    make_pipeline(StandardScaler(), LogisticRegression()),
    make_pipeline(StandardScaler(), StandardScaler(), MLPRegressor()),
], ids=str)
def test_what_is_no_perceptron(wrong):
    with pytest.raises(TypeError, match="an MLPClassifier or MLPRegressor, or a Pipeline of a Sta"):
        fastbp.from_sklearn(wrong)


def test_what_is_not_fitted():
    with pytest.raises(ValueError, match="MLPRegressor has no weights yet: call its fit first"):
        fastbp.from_sklearn(MLPRegressor())
    with pytest.raises(ValueError, match="no weights yet"):
        fastbp.from_sklearn(make_pipeline(StandardScaler(), MLPClassifier()))


def test_weights_that_are_not_finite():
    fitted = MLPRegressor(hidden_layer_sizes=(3,), max_iter=1).fit(X, TARGETS["one number"])
    fitted.coefs_[1][0] = np.nan
    with pytest.raises(ValueError, match=r"coefs_\[1\]: weights and statistics must be finite"):
        fastbp.from_sklearn(fitted)


def test_without_sklearn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"needs sklearn, .*: pip install scikit-learn"):
        fastbp.from_sklearn(None)
