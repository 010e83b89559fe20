"""JAX: each prediction, and each training step, one call of a compiled function.

Dispatch is synchronous, which halves the time of a small call on a CPU. The parameters of a
prediction are constants of the compiled function, and those of a training step are donated, so
that they are updated in place. The rows of a batch are picked inside the compiled step. Dropout
takes JAX's default generator: XLA's own ("rbg") is many times slower on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.peers import base
from benchmarks.peers.jax_updates import RULES, first_memory
from benchmarks.workloads import NORM_EPSILON, Array, Model, flatten

Parameters = list[tuple[jax.Array, jax.Array]]
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
}


def first_parameters(model: Model) -> Parameters:
    """Copy a model's parameters to JAX."""
    pairs = zip(model.weights, model.biases, strict=True)
    return [(jnp.array(W), jnp.array(b)) for W, b in pairs]


def standardized(A: jax.Array) -> jax.Array:
    """Return each row less its mean, divided by its deviation."""
    centred = A - A.mean(axis=-1, keepdims=True)
    variance = jnp.square(centred).mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt(variance + NORM_EPSILON)


def dropped(A: jax.Array, rate: float, key: jax.Array) -> jax.Array:
    """Return A with a part of it set to zero, and the rest scaled up."""
    return jnp.where(jax.random.bernoulli(key, 1 - rate, A.shape), A / (1 - rate), 0)


def forward(
    model: Model, parameters: Parameters, A: jax.Array, key: jax.Array | None = None
) -> jax.Array:
    """Compute the linear outputs; with a key, as in training."""
    for layer, (W, b) in enumerate(parameters):
        if W.ndim == 1:
            A = standardized(A) * W + b
            continue
        if layer:
            A = ACTIVATIONS[model.activation](A)
            if key is not None:
                A = dropped(A, model.dropout, jax.random.fold_in(key, layer))
        A = A @ W + b
    return A


def squared_error(Z: jax.Array, y: jax.Array) -> jax.Array:
    """Half the squared error, summed over outputs and averaged over rows."""
    return jnp.square(Z - y).sum(axis=1).mean() / 2


def cross_entropy(Z: jax.Array, y: jax.Array) -> jax.Array:
    """Cross-entropy of integer labels. With one_hot, XLA is faster than with a gather."""
    logarithms = jax.nn.log_softmax(Z)
    hot = jax.nn.one_hot(y, logarithms.shape[1], dtype=logarithms.dtype)
    return -(hot * logarithms).sum(axis=1).mean()


LOSSES = {"squared_error": squared_error, "cross_entropy": cross_entropy}


def make_state(model: Model) -> Any:
    """Return the parameters, what the optimizer remembers, and a key if something is dropped."""
    parameters = first_parameters(model)
    key = jax.random.key(0) if model.dropout else None
    return parameters, first_memory(model, parameters), key


def make_step(model: Model) -> Callable[[Any, jax.Array, jax.Array], tuple[Any, jax.Array]]:
    """Return the function (state, X, y) -> (state after one step, loss before it)."""
    update = RULES[model.optimizer].update

    def loss_of(
        parameters: Parameters, X: jax.Array, y: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        return LOSSES[model.loss](forward(model, parameters, X, key), y)

    def step(state: Any, X: jax.Array, y: jax.Array) -> tuple[Any, jax.Array]:
        parameters, memory, key = state
        used = None
        if key is not None:
            key, used = jax.random.split(key)
        loss, gradient = jax.value_and_grad(loss_of)(parameters, X, y, used)
        parameters, memory = update(model, parameters, gradient, memory)
        return (parameters, memory, key), loss

    return step


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

    def epoch(self, *, shuffle: bool) -> float | None:
        order = self.order(shuffle)
        total = jnp.zeros((), self.model.dtype)
        for rows in order:
            self.state, total = self.compiled(self.state, total, rows, self.X, self.y)
        return float(total) / len(order)

    def parameters(self) -> Array:
        pairs, *_ = self.state
        return flatten([np.asarray(W) for W, _ in pairs], [np.asarray(b) for _, b in pairs])

    def restore(self) -> None:
        self.state = (first_parameters(self.model), *self.state[1:])


class Online(Trainer):
    """A compiled step, called with a row and its targets."""

    def __init__(self, model: Model, X: Array, y: Array) -> None:
        super().__init__(model, X, y, 1)
        step = make_step(model)
        self.rows = [(X[row : row + 1], y[row : row + 1]) for row in range(len(X))]

        @partial(jax.jit, donate_argnums=0)
        def compiled_step(state: Any, x: jax.Array, y: jax.Array) -> Any:
            state, _ = step(state, x, y)
            return state

        self.compiled_step = compiled_step

    def epoch(self, *, shuffle: bool) -> None:
        for x, y in self.rows:
            self.state = self.compiled_step(self.state, x, y)


class Adapter(base.Adapter):
    """JAX, which takes its number of threads from the environment."""

    def __init__(self, n_threads: int) -> None:
        super().__init__(n_threads)
        jax.config.update("jax_cpu_enable_async_dispatch", False)  # type: ignore[no-untyped-call]

    def predictor(self, model: Model, X: Array) -> Callable[[], Array]:
        parameters = first_parameters(model)

        @jax.jit
        def predict(X: jax.Array) -> jax.Array:
            Z = forward(model, parameters, X)
            return jax.nn.softmax(Z) if model.softmax else Z

        return lambda: np.asarray(predict(X))

    def jacobian(self, model: Model, x: Array) -> Callable[[], Array]:
        parameters = first_parameters(model)
        derivatives = jax.jit(jax.jacrev(partial(forward, model, parameters)))
        return lambda: np.asarray(derivatives(x))

    def online(self, model: Model, X: Array, y: Array) -> base.Trainer:
        return Online(model, X, y)

    def trainer(self, model: Model, X: Array, y: Array, batch: int) -> base.Trainer:
        return Trainer(model, X, y, batch)
