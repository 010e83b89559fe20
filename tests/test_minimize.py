"""Training by SciPy's minimisers: where they lead, and what they tell on the way."""

import numpy as np
import pytest
from reference import ReferenceNetwork
from scipy import optimize

import fastbp
from fastbp import LBFGS, Dense, Network
from fastbp.callbacks import Callback
from fastbp.optimizers import METHODS, Minimizer


def problem(optimizer, dtype="float64", **settings):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 4))
    y = np.sin(X.sum(axis=1))
    layers = [Dense(6, "tanh", **settings), Dense(1)]
    return Network(4, layers, optimizer=optimizer, dtype=dtype, seed=0), X, y


@pytest.mark.parametrize("optimizer", [LBFGS(), *(Minimizer(method) for method in METHODS)],
                         ids=str)
def test_least_squares(optimizer):
    """A linear model goes to the solution of numpy.linalg.lstsq."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(60, 5)), rng.normal(size=60)
    net = Network(5, [Dense(1)], optimizer=optimizer, dtype="float64", seed=0)
    net.fit(X, y, epochs=200, tol=1e-12)
    with_ones = np.column_stack([X, np.ones(60)])
    expected = np.linalg.lstsq(with_ones, y, rcond=None)[0]
    np.testing.assert_allclose(net.parameters, expected, rtol=0, atol=1e-6)


def test_it_is_scipys_run():
    """The same iterates as SciPy's on the reference's loss and gradient."""
    net, X, y = problem(LBFGS(memory=5))
    reference = ReferenceNetwork.from_flat(net.parameters, [4, 6, 1], ["tanh", "identity"],
                                           "squared_error")
    expected = optimize.minimize(
        lambda theta: (reference.with_flat(theta).loss_value(X, y[:, None]),
                       reference.with_flat(theta).gradient(X, y[:, None])),
        net.parameters.copy(), jac=True, method="L-BFGS-B", options={"maxcor": 5, "maxiter": 20},
    )
    history = net.fit(X, y, epochs=20)
    assert len(history.loss) == expected.nit == 20
    assert history.loss[-1] == pytest.approx(expected.fun, rel=1e-8)
    np.testing.assert_allclose(net.parameters, expected.x, rtol=0, atol=1e-6)
    assert history.loss[-1] == net.evaluate(X, y)
    assert history.learning_rate == []
    assert len(history.seconds) == 20


def test_another_fit_goes_on_from_there():
    net, X, y = problem("lbfgs")
    first = net.fit(X, y, epochs=5)
    second = net.fit(X, y, epochs=5)
    assert second.loss[0] < first.loss[-1]


def test_float32():
    net, X, y = problem(LBFGS(), "float32")
    history = net.fit(X, y, epochs=60)
    assert net.parameters.dtype == np.float32
    assert history.loss[-1] < 0.1 * history.loss[0]


def test_layers_left_alone_stay():
    net, X, y = problem(LBFGS(), trainable=False)
    before = net.weights[0].copy()
    history = net.fit(X, y, epochs=30)
    np.testing.assert_array_equal(net.weights[0], before)
    assert history.loss[-1] < history.loss[0]


@pytest.mark.parametrize("method", METHODS)
def test_callbacks_validation_and_metrics(method):
    class Third(Callback):
        def on_epoch_end(self, network, history):
            self.parameters = network.parameters.copy()
            return len(history.loss) == 3

    net, X, y = problem(Minimizer(method))
    third = Third()
    history = net.fit(X, y, epochs=50, validation_split=0.25, metrics=["r2"], callbacks=[third])
    assert len(history.loss) == len(history.validation_loss) == len(history.metrics["r2"]) == 3
    np.testing.assert_array_equal(net.parameters, third.parameters)


def test_an_exception_leaves_the_last_iteration():
    class Raises(Callback):
        def on_epoch_end(self, network, history):
            if len(history.loss) == 2:
                self.parameters = network.parameters.copy()
                raise KeyboardInterrupt

    net, X, y = problem(LBFGS())
    raises = Raises()
    with pytest.raises(KeyboardInterrupt):
        net.fit(X, y, epochs=50, callbacks=[raises])
    np.testing.assert_array_equal(net.parameters, raises.parameters)


def test_a_start_that_is_not_finite():
    net, X, y = problem(LBFGS())
    net.parameters[:] = 1e200
    before = net.parameters.copy()
    with pytest.raises(FloatingPointError, match="the loss is not finite"):
        net.fit(X, y)
    np.testing.assert_array_equal(net.parameters, before)


def test_no_single_steps():
    net, X, y = problem(LBFGS())
    with pytest.raises(TypeError, match="wants all the data: call fit"):
        net.train_step(X, y)


def test_not_within_a_fit():
    class Sets(Callback):
        def on_epoch_end(self, network, history):
            network.optimizer = "lbfgs"

    net, X, y = problem("sgd")
    with pytest.raises(TypeError, match="cannot take over within a fit"):
        net.fit(X, y, epochs=2, callbacks=[Sets()])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LBFGS(0), ValueError, "memory must be an integer from 1"),
        (lambda: Minimizer("Newton"), ValueError, "unknown method 'Newton'; valid are 'L-BFGS-B'"),
        (lambda: Minimizer(options=3), TypeError, "options must be a mapping"),
    ],
)
def test_bad_settings(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_state_and_copy():
    net, X, y = problem(LBFGS())
    net.fit(X, y, epochs=3)
    twin = net.copy()
    assert twin.fit(X, y, epochs=3).loss == net.fit(X, y, epochs=3).loss
    assert fastbp.LBFGS is LBFGS
