"""A whole training on the digits, beside scikit-learn with the same settings.

64 inputs, 64 hidden ReLU units, softmax over ten classes, plain gradient descent in batches of
32 for 30 epochs. Making the network belongs to what is timed; loading and scaling the data does
not.
"""

from __future__ import annotations

import time
import warnings
from functools import cache
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

import fastbp
from benchmarks.checks import Check, unit_roundoff
from benchmarks.peers import scikit_learn
from benchmarks.workloads import Array, Cell, Model, flatten, make_model
from fastbp.datasets import load_digits

EPOCHS = 30
BATCH = 32
LEARNING_RATE = 0.1


@cache
def data() -> tuple[Array, Array, Array, Array]:
    """Return X and y to train on, and X and y held out: every fourth image."""
    X, y = load_digits()
    X = X / np.float32(16)
    held_out = np.arange(len(X)) % 4 == 0
    return X[~held_out], y[~held_out], X[held_out], y[held_out]


def model() -> Model:
    """Return the first parameters for the check; timed trainings draw their own."""
    return make_model(Cell("digits", "digits", BATCH))


def ours() -> fastbp.Network:
    """Make fastbp's network, not trained yet."""
    return fastbp.Network(
        64,
        [fastbp.Dense(64, "relu"), fastbp.Dense(10, "softmax")],
        loss="cross_entropy",
        optimizer=fastbp.SGD(LEARNING_RATE),
        seed=0,
    )


def theirs(**settings: Any) -> Any:
    """Make scikit-learn's classifier, not trained yet; it stops after all epochs, not before."""
    made = scikit_learn.estimator(model(), batch_size=BATCH, max_iter=EPOCHS, **settings)
    return made.set_params(learning_rate_init=LEARNING_RATE, tol=0.0, n_iter_no_change=EPOCHS + 1)


def fit_ours() -> fastbp.Network:
    """Train fastbp's network."""
    X, y, _, _ = data()
    net = ours()
    net.fit(X, y, epochs=EPOCHS, batch_size=BATCH)
    return net


def fit_theirs() -> Any:
    """Train scikit-learn's classifier."""
    X, y, _, _ = data()
    with warnings.catch_warnings():
        # That it could go on training is no news: the number of epochs is given.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return theirs().fit(X, y)


def check() -> list[Check]:
    """Compare the losses of all epochs, from the same parameters and without shuffling."""
    X, y, _, _ = data()
    first = model()
    net = ours()
    net.parameters[...] = first.flat
    our_losses = np.array(net.fit(X, y, epochs=EPOCHS, batch_size=BATCH, shuffle=False).loss)
    made = theirs(shuffle=False, warm_start=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        made.set_params(max_iter=1).fit(X, y)  # makes the arrays
        scikit_learn.overwrite(made, first)
        made.set_params(max_iter=EPOCHS).fit(X, y)
    their_losses = np.array(made.loss_curve_[-EPOCHS:])
    error = float(np.max(np.abs(our_losses - their_losses) / their_losses))
    apart = np.linalg.norm(net.parameters - flatten(made.coefs_, made.intercepts_))
    moved = float(np.linalg.norm(net.parameters - first.flat))
    # Rounding grows along 1290 steps, by far less than their number; a different batch, step or
    # rate shows in the first digit.
    tolerance = 10 * unit_roundoff(first)
    return [
        Check("loss of each epoch", error, tolerance),
        Check("parameters after 30 epochs", float(apart) / moved, tolerance),
    ]


def accuracies() -> dict[str, float]:
    """Return the part of the held-out digits that each side gets right."""
    _, _, X, y = data()
    return {
        "ours": float(np.mean(fit_ours().predict(X).argmax(axis=1) == y)),
        "theirs": float(np.mean(fit_theirs().predict(X) == y)),
    }


def time_ours() -> float:
    """Return the seconds of one training by fastbp."""
    started = time.perf_counter()
    fit_ours()
    return time.perf_counter() - started


def time_theirs() -> float:
    """Return the seconds of one training by scikit-learn."""
    started = time.perf_counter()
    fit_theirs()
    return time.perf_counter() - started
