"""JAX: each prediction, and each training step, one call of a compiled function.

Dispatch is synchronous, which halves the time of a small call on a CPU. The parameters of a
prediction are constants of the compiled function, and those of a training step are donated, so
that they are updated in place. The rows of a batch are picked inside the compiled step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import base
from benchmarks.workloads import Array, Model, flatten

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
Parameters = list[tuple[jax.Array, jax.Array]]


def first_parameters(model: Model) -> Parameters:
    """Copy a model's parameters to JAX."""
    pairs = zip(model.weights, model.biases, strict=True)
    return [(jnp.array(W), jnp.array(b)) for W, b in pairs]


def forward(parameters: Parameters, X: jax.Array) -> jax.Array:
    """Compute the linear outputs."""
    *hidden, (W, b) = parameters
    for W_hidden, b_hidden in hidden:
        X = jax.nn.relu(X @ W_hidden + b_hidden)
    return X @ W + b


def squared_error(parameters: Parameters, X: jax.Array, y: jax.Array) -> jax.Array:
    """Half the squared error, summed over outputs and averaged over rows."""
    return jnp.square(forward(parameters, X) - y).sum(axis=1).mean() / 2


def cross_entropy(parameters: Parameters, X: jax.Array, y: jax.Array) -> jax.Array:
    """Cross-entropy of integer labels. With one_hot, XLA is faster than with a gather."""
    logarithms = jax.nn.log_softmax(forward(parameters, X))
    hot = jax.nn.one_hot(y, logarithms.shape[1], dtype=logarithms.dtype)
    return -(hot * logarithms).sum(axis=1).mean()


LOSSES = {"squared_error": squared_error, "cross_entropy": cross_entropy}


def make_state(model: Model) -> Any:
    """Return the parameters, and what the optimizer remembers."""
    parameters = first_parameters(model)
    if model.optimizer == "sgd":
        return parameters, ()
    zeros = jax.tree.map(jnp.zeros_like, parameters)
    return parameters, (zeros, jax.tree.map(jnp.zeros_like, parameters), jnp.zeros((), jnp.int32))


def make_step(model: Model) -> Callable[[Any, jax.Array, jax.Array], tuple[Any, jax.Array]]:
    """Return the function (state, X, y) -> (state after one step, loss before it)."""
    rate = model.learning_rate
    loss_and_gradient = jax.value_and_grad(LOSSES[model.loss])

    def sgd(state: Any, X: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
        parameters, memory = state
        loss, gradient = loss_and_gradient(parameters, X, y)
        return (jax.tree.map(lambda p, g: p - rate * g, parameters, gradient), memory), loss

    def adam(state: Any, X: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
        parameters, (m, v, t) = state
        loss, gradient = loss_and_gradient(parameters, X, y)
        t = t + 1
        m = jax.tree.map(lambda m, g: BETA_1 * m + (1 - BETA_1) * g, m, gradient)
        v = jax.tree.map(lambda v, g: BETA_2 * v + (1 - BETA_2) * g * g, v, gradient)
        power = t.astype(model.dtype)
        first, second = 1 / (1 - BETA_1**power), 1 / (1 - BETA_2**power)
        parameters = jax.tree.map(
            lambda p, m, v: p - rate * (m * first) / (jnp.sqrt(v * second) + EPSILON),
            parameters,
            m,
            v,
        )
        return (parameters, (m, v, t)), loss

    return sgd if model.optimizer == "sgd" else adam


class Trainer(base.Trainer):
    """A compiled step, called for each batch."""

    def __init__(self, model: Model, X: Array, y: Array, batch: int) -> None:
        self.model, self.batch = model, batch
        self.X = jnp.asarray(X)
        self.y = jnp.asarray(y if y.dtype == X.dtype else y.astype(np.int32))
        self.state = make_state(model)
        self.rng = np.random.default_rng(0)
        step = make_step(model)

        @partial(jax.jit, donate_argnums=(0, 1))
        def compiled(
            state: Any, total: jax.Array, rows: jax.Array, X: jax.Array, y: jax.Array
        ) -> tuple[Any, jax.Array]:
            state, loss = step(state, X[rows], y[rows])
            return state, total + loss

        self.compiled = compiled

    def order(self, shuffle: bool) -> Array:
        """Return the rows of each batch."""
        n = len(self.X)
        rows = self.rng.permutation(n) if shuffle else np.arange(n)
        return rows.astype(np.int32).reshape(-1, self.batch)

    def epoch(self, *, shuffle: bool) -> float:
        order = self.order(shuffle)
        total = jnp.zeros((), self.model.dtype)
        for rows in order:
            self.state, total = self.compiled(self.state, total, rows, self.X, self.y)
        return float(total) / len(order)

    def parameters(self) -> Array:
        pairs, _ = self.state
        return flatten([np.asarray(W) for W, _ in pairs], [np.asarray(b) for _, b in pairs])

    def restore(self) -> None:
        self.state = (first_parameters(self.model), self.state[1])


class Adapter(base.Adapter):
    """JAX, which takes its number of threads from the environment."""

    def __init__(self, n_threads: int) -> None:
        super().__init__(n_threads)
        jax.config.update("jax_cpu_enable_async_dispatch", False)  # type: ignore[no-untyped-call]

    def predictor(self, model: Model, X: Array) -> Callable[[], Array]:
        parameters = first_parameters(model)

        @jax.jit
        def predict(X: jax.Array) -> jax.Array:
            Z = forward(parameters, X)
            return jax.nn.softmax(Z) if model.softmax else Z

        return lambda: np.asarray(predict(X))

    def trainer(self, model: Model, X: Array, y: Array, batch: int) -> base.Trainer:
        return Trainer(model, X, y, batch)
