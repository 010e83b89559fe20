"""freeze, unfreeze and reinitialize: layers of a network that is there."""

import numpy as np
import pytest

from fastbp import SGD, AdaGrad, Adam, Dense, Dropout, Network


def network(optimizer="sgd", frozen=(), seed=0):
    layers = [Dense(n, "tanh", trainable=at not in frozen) for at, n in enumerate((6, 5, 3))]
    return Network(4, [layers[0], Dropout(0.2), *layers[1:]], optimizer=optimizer, seed=seed)


def data():
    rng = np.random.default_rng(1)
    return rng.normal(size=(40, 4)), rng.normal(size=(40, 3))


@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.1, clip_norm=1.0), Adam(0.01)], ids=str)
@pytest.mark.parametrize("frozen", [(0,), (1,), (0, 1), (0, 1, 2), (2,)], ids=str)
def test_a_layer_frozen_later_is_one_that_was_never_trainable(optimizer, frozen):
    X, y = data()
    made, later = network(optimizer, frozen), network(optimizer)
    later.freeze(*frozen)
    assert later.layers == made.layers
    made.fit(X, y, epochs=2)
    later.fit(X, y, epochs=2)
    np.testing.assert_array_equal(later.parameters, made.parameters)
    before = network(optimizer)
    for number in frozen:
        np.testing.assert_array_equal(later.weights[number], before.weights[number])
        np.testing.assert_array_equal(later.biases[number], before.biases[number])
    later.unfreeze()
    assert later.layers == before.layers
    later.fit(X, y)
    assert not any(map(np.array_equal, later.weights, before.weights))
    assert later.copy().layers == later.layers


def test_the_norm_of_the_gradient_forgets_frozen_layers():
    """What was their gradient before they were frozen is not clipped by."""
    X, y = data()
    net = network(SGD(0.1, clip_norm=0.01))
    net.fit(X, y)
    fresh = net.copy()
    for one in (net, fresh):
        one.freeze(0, 1)
        one.fit(X, y)
    np.testing.assert_array_equal(net.parameters, fresh.parameters)


@pytest.mark.parametrize(
    "optimizer", [Adam(0.01), AdaGrad(0.1, initial_accumulator=0.3), SGD(0.1, 0.9)], ids=str
)
def test_reinitialized_layers_train_as_those_of_a_new_network(optimizer):
    X, y = data()
    net = network(optimizer)
    view = net.weights[1]
    net.fit(X, y, epochs=3)
    net.reinitialize()
    assert net.n_steps == 0
    assert not any(bias.any() for bias in net.biases)
    new = network(optimizer)
    new.parameters[...] = net.parameters
    net.freeze(0)
    new.freeze(0)
    for at in range(0, 40, 10):
        net_loss = net.evaluate(X, y)
        assert net_loss == new.evaluate(X, y)
        rows = slice(at, at + 10)
        carried = {"random": net.state()["json"]["random"]}
        state = new.state()
        state["json"] |= carried
        new.restore(state)  # the same masks
        net.train_step(X[rows], y[rows])
        new.train_step(X[rows], y[rows])
    np.testing.assert_array_equal(net.parameters, new.parameters)
    assert np.shares_memory(view, net.parameters)


def test_one_reinitialized_layer_leaves_the_others_alone():
    net = Network(300, [Dense(200, "relu"), Dense(100, "relu"), Dense(2)], seed=0)
    before = net.copy()
    net.biases[1][...] = 7
    net.reinitialize(-2)
    for number in (0, 2):
        np.testing.assert_array_equal(net.weights[number], before.weights[number])
    assert not np.array_equal(net.weights[1], before.weights[1])
    assert not net.biases[1].any()
    # as he_normal has it: standard deviation sqrt(2 / n_in), its estimate within 4 sigma
    sigma = np.sqrt(2 / 200)
    assert abs(net.weights[1].std() - sigma) < 4 * sigma / np.sqrt(2 * net.weights[1].size)


def test_a_bad_init_changes_nothing():
    values = iter([1.0, 2.0, np.inf])

    def init(rng, n_in, n_out):
        return np.full((n_in, n_out), next(values))

    net = Network(2, [Dense(3, init=init), Dense(1, init=init)], seed=0)
    before = net.parameters.copy()
    with pytest.raises(ValueError, match="finite"):
        net.reinitialize(1)
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize("method", ["freeze", "unfreeze", "reinitialize"])
def test_layers_that_are_not_there(method):
    net = network()
    before = net.parameters.copy()
    with pytest.raises(IndexError, match="numbered from 0 to 2, got"):
        getattr(net, method)(0, 3)
    with pytest.raises(TypeError, match="numbers, got"):
        getattr(net, method)(0, "relu")
    with pytest.raises(TypeError, match="numbers, got"):
        getattr(net, method)([0, 1])
    np.testing.assert_array_equal(net.parameters, before)
    assert net.layers == network().layers
