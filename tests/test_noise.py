"""Gradient noise: normal, of the variance asked for, and its bits from seed and step alone."""

import numpy as np
import pytest
from scipy import stats

from fastbp import SGD, Adam, Dense, Dropout, Network


def network(optimizer, seed=0, n=40, **changes):
    return Network(30, [Dense(n, "tanh"), Dense(7)], optimizer=optimizer, seed=seed,
                   dtype="float64", **changes)


def data(rows=5):
    rng = np.random.default_rng(1)
    return rng.normal(size=(rows, 30)), rng.normal(size=(rows, 7))


def noise_of(step, rows=5, n=40, variance=0.3, decay=0.55, **settings):
    """What one step of plain descent adds to its gradient."""
    (X, y), rate = data(rows), 1e-4
    noisy = network(SGD(rate, noise=variance, noise_decay=decay, **settings), n=n)
    for _ in range(step):
        noisy.train_step(X, y)
    before = noisy.parameters.copy()
    _, gradient = noisy.loss_and_gradient(X, y)
    noisy.train_step(X, y)
    return (before - noisy.parameters) / rate - gradient


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("step", [0, 1, 9])
def test_it_is_normal_with_the_papers_variance(rows, step):
    noise = noise_of(step, rows, n=2000)
    deviation = np.sqrt(0.3 / (1 + step) ** 0.55)
    assert abs(noise.mean()) < 4 * deviation / np.sqrt(noise.size)
    assert abs(noise.std() / deviation - 1) < 4 / np.sqrt(2 * noise.size)
    assert stats.kstest(noise / deviation, "norm").pvalue > 1e-4
    # neighbours, and elements of neighbouring layers, have nothing to do with each other
    for lag in (1, 2, 7, 2000):
        correlation = np.corrcoef(noise[lag:], noise[:-lag])[0, 1]
        assert abs(correlation) < 4 / np.sqrt(noise.size - lag)


def test_it_differs_from_step_to_step_and_seed_to_seed():
    X, y = data()
    first, second = (noise_of(step, decay=0.0) for step in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(first.size)
    nets = [network(SGD(0.1, noise=0.1), seed=seed) for seed in (0, 0, 1)]
    start = network("sgd").parameters
    for net in nets:
        net.parameters[...] = start
        net.fit(X, y, epochs=3, batch_size=2, shuffle=False)
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)
    assert not np.isclose(nets[0].parameters, nets[2].parameters).all()


def test_steps_of_an_epoch_differ():
    """Equal batches, no decay: the steps of one engine call have noise of their own."""
    X, y = (np.tile(each, (8, 1)) for each in data(1))
    noisy, plain = network(SGD(1e-9, noise=1.0, noise_decay=0.0)), network(SGD(1e-9))
    for net in noisy, plain:
        net.fit(X, y, batch_size=1, shuffle=False)
    deviation = (noisy.parameters - plain.parameters).std() / 1e-9
    expected = np.sqrt(8)  # one same draw would give 8
    assert abs(deviation / expected - 1) < 0.1


def test_it_comes_after_clipping_and_before_any_rule():
    """Adam's first step with betas of 0 is that of its noisy, clipped gradient."""
    X, y = data()
    adam = network(Adam(0.5, beta1=0.0, beta2=0.0, epsilon=1.0, noise=0.3, clip_value=0.01))
    before = adam.parameters.copy()
    _, gradient = adam.loss_and_gradient(X, y)
    adam.train_step(X, y)
    g = np.clip(gradient, -0.01, 0.01) + noise_of(0)
    expected = 0.5 * g / (np.abs(g) + 1)
    # differences of parameters of about 1 carry their rounding, over a rate of 1e-4 in the noise
    np.testing.assert_allclose(before - adam.parameters, expected, atol=1e-11)
    clipped = noise_of(0, clip_norm=1e-9) + network("sgd").loss_and_gradient(X, y)[1]
    np.testing.assert_allclose(clipped, noise_of(0), atol=1e-8)


@pytest.mark.parametrize("optimizer", [SGD(0.1, noise=0.1), Adam(0.01, noise=0.1)], ids=str)
def test_bits_do_not_depend_on_threads(optimizer):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(600, 200)), rng.normal(size=(600, 9))
    nets = [
        Network(200, [Dense(300, "tanh"), Dense(9)], optimizer=optimizer, seed=0) for _ in range(3)
    ]
    for n_threads, net in enumerate(nets, start=1):
        net.fit(X, y, batch_size=300, n_threads=n_threads)
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)
    np.testing.assert_array_equal(nets[0].parameters, nets[2].parameters)


def test_resumed_training_has_the_same_noise():
    X, y = data()
    through = network(SGD(0.1, 0.9, noise=0.1))
    stopped = network(SGD(0.1, 0.9, noise=0.1))
    through.fit(X, y, epochs=5, batch_size=2)
    stopped.fit(X, y, epochs=2, batch_size=2)
    resumed = network(SGD(0.1, 0.9, noise=0.1), seed=9)
    resumed.restore(stopped.state())
    resumed.fit(X, y, epochs=3, batch_size=2)
    np.testing.assert_array_equal(resumed.parameters, through.parameters)


def test_frozen_layers_have_none():
    X, y = data()
    net = network(SGD(0.1, noise=1.0))
    net.freeze(0)
    before = net.weights[0].copy()
    net.fit(X, y, epochs=2)
    np.testing.assert_array_equal(net.weights[0], before)


def test_the_range_test_drops_anew_in_each_step():
    """Equal rows and a rate of next to nothing: losses differ by what is dropped alone."""
    X, y = (np.tile(each, (8, 1)) for each in data(1))
    net = Network(30, [Dropout(0.5), Dense(7)], seed=0)
    curve = net.find_learning_rate(X, y, low=1e-12, high=1e-11, steps=6, batch_size=1)
    assert len(set(curve.losses)) == len(curve.losses) > 1
