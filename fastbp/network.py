"""The network: its layers, its loss, its optimizer, and one flat vector of parameters."""

from __future__ import annotations

import dataclasses
import itertools
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastbp import _checks, native, splitting, training
from fastbp._dispatch import engine
from fastbp._online import Online
from fastbp._records import (
    Record,
    Weighted,
    checked_stack,
    column_spread,
    flatten,
    rebuilt,
    walk,
)
from fastbp._sparse import Features, SparseRows
from fastbp.activations import name_of
from fastbp.initializers import initial_weight
from fastbp.layers import BatchNorm, Dense, Dropout, Layer, Normalize
from fastbp.losses import Loss
from fastbp.losses import engine_code as loss_code
from fastbp.losses import named as named_loss
from fastbp.metrics import Metric
from fastbp.metrics import named as named_metrics
from fastbp.minimize import minimize
from fastbp.optimizers import (
    OPTIMIZERS,
    AnyOptimizer,
    Optimizer,
    engine_settings,
    minimizer_of,
)
from fastbp.schedules import PlateauProgress
from fastbp.splitting import Samples

if TYPE_CHECKING:
    from scipy import LowLevelCallable

    from fastbp._checks import ClassWeight
    from fastbp.callbacks import Callback

__all__ = ["Network"]


class Network:
    """A dense feed-forward network, trained by backpropagation and gradient descent.

    Parameters
    ----------
    n_inputs : int
        Number of features.
    layers : sequence of Dense, BatchNorm, LayerNorm, Normalize, Dropout and Residual
        From the first hidden layer to the output layer, which is a Dense. One layer alone makes
        linear, logistic or softmax regression.
    loss : str, loss or callable
        "squared_error", "absolute_error", "huber", "log_cosh", "quantile", "poisson", "gamma",
        "tweedie", "binary_cross_entropy", "cross_entropy", "hinge", "squared_hinge",
        "kullback_leibler", "cosine", or one of `fastbp.losses`; or a function of your own, as for
        `fastbp.losses.Custom`.
    optimizer : str or optimizer
        "sgd", "adagrad", "rmsprop", "adadelta", "adam", "adamw", "nadam", "adamax", "lion",
        "lbfgs", or one of `fastbp.optimizers`.
    dtype : {"float32", "float64"}
        Of the parameters, and of all arithmetic.
    seed : int, optional
        For the first weights and for shuffling. The same seed, data and machine give the same
        bits; without one, every network differs.
    feature_names : sequence of str, optional
        What the inputs are called, for `learn_one` and `predict_one` of dictionaries.

    Raises
    ------
    TypeError, ValueError
        If an argument is of the wrong kind or value, before anything is done.

    Notes
    -----
    Training calls on one network from several threads at once raise RuntimeError; `predict` is
    safe from any number of threads while nobody trains it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp import Dense, Network, SGD
    >>> X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    >>> y = np.array([0.0, 1.0, 1.0, 0.0])
    >>> net = Network(2, [Dense(8, "tanh"), Dense(1, "sigmoid")],
    ...               loss="binary_cross_entropy", optimizer=SGD(1.0), seed=0)
    >>> history = net.fit(X, y, epochs=500, batch_size=None)
    >>> net.predict(X).round().ravel().tolist()
    [0.0, 1.0, 1.0, 0.0]
    """

    def __init__(
        self,
        n_inputs: int,
        layers: Sequence[Layer],
        *,
        loss: str | Loss | Callable[..., Any] = "squared_error",
        optimizer: str | AnyOptimizer = "sgd",
        dtype: DTypeLike = "float32",
        seed: int | None = None,
        feature_names: Iterable[str] | None = None,
    ) -> None:
        self._n_inputs = _checks.count("n_inputs", n_inputs)
        self._feature_names = feature_names if feature_names is None else _checks.names(
            "feature_names", feature_names, self._n_inputs
        )
        self._online: Online | None = None
        self._layers = checked_stack(layers)
        self._records, self._input_dropout = flatten(self._n_inputs, self._layers)
        self._loss = named_loss(loss)
        chosen = _chosen(optimizer)
        self._dtype = _checks.dtype(dtype)
        self._seed = seed
        try:
            self._progress = training.Progress(np.random.default_rng(seed))
        except (TypeError, ValueError) as error:
            raise type(error)(
                f"seed must be a non-negative integer or None, got {seed!r}: {error}"
            ) from None

        before: engine.Plan | None = getattr(self, "_plan", None)
        if before is not None:  # __init__ was called again: what is bound is of another network
            before.retire()
        self._plan = self._new_plan(self._dtype)
        self._parameters = self._plan.parameters
        self.optimizer = chosen
        for record in self._weighted:
            self._begin(record, self._initial_weight(record))

    def _new_plan(self, dtype: np.dtype[Any]) -> engine.Plan:
        """This network as the engine sees it, with parameters of its own."""
        records = [record.for_engine() for record in self._records]
        loss = loss_code(self._loss, self.n_outputs)
        try:
            return engine.Plan(records, loss, dtype, self._input_dropout)
        except (MemoryError, OverflowError, ValueError):
            raise MemoryError(
                f"layers with {self.n_parameters:,} parameters do not fit into memory"
            ) from None

    @property
    def _weighted(self) -> list[Record]:
        """The records of layers with parameters."""
        return [record for record in self._records if isinstance(record.layer, Weighted)]

    def _begin(self, record: Record, weight: NDArray[Any]) -> None:
        """Set a layer's parameters and running statistics to what they are at first."""
        record.weight_of(self._parameters)[...] = weight
        record.bias_of(self._parameters)[...] = 0
        if isinstance(record.layer, BatchNorm):
            mean, variance = record.statistics_of(self._plan.statistics)
            mean[...], variance[...] = 0, 1

    def _initial_weight(self, record: Record) -> NDArray[Any]:
        """Draw a first W for a Dense layer; gains are 1."""
        layer = record.layer
        if not isinstance(layer, Dense):
            return np.ones(record.n_out, self._dtype)
        drawn = initial_weight(
            self._progress.rng, layer.init, name_of(layer.activation), record.n_in, record.n_out
        )
        with np.errstate(over="ignore"):
            weight = np.ascontiguousarray(drawn, self._dtype)
        if not engine.all_finite(weight):
            raise ValueError(f"init must return values that {self._dtype.name} can hold")
        return weight

    # --- what it is made of -----------------------------------------------------------------

    @property
    def n_inputs(self) -> int:
        """Number of features."""
        return self._n_inputs

    @property
    def n_outputs(self) -> int:
        """Number of outputs of the last layer."""
        return self._records[-1].n_out

    @property
    def n_parameters(self) -> int:
        """Number of weights and biases, gains and shifts."""
        return self._records[-1].end

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers, first hidden layer to output layer."""
        return self._layers

    @property
    def loss(self) -> Loss:
        """The loss that training minimises."""
        return self._loss

    @property
    def optimizer(self) -> AnyOptimizer:
        """The optimizer; another one may be set between training calls, or by a callback.

        What it has gathered, momentum and means, stays if the new one is of the same kind and
        gathers as much: so the learning rate may change at any time. Another schedule than before
        goes on from the same step.
        """
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: str | AnyOptimizer) -> None:
        chosen = _chosen(optimizer)
        try:
            self._plan.set_optimizer(*engine_settings(chosen))
        except (MemoryError, ValueError):
            raise MemoryError(f"the state of {chosen} does not fit into memory") from None
        self._optimizer = chosen
        self._progress.plateau = PlateauProgress()

    @property
    def optimizer_state(self) -> tuple[NDArray[Any], ...]:
        """What the optimizer has gathered: live flat views, each in the order of `parameters`.

        None for plain SGD; momentum; means, of gradients and of their squares, for Adam.
        """
        return self._plan.state_vectors

    @property
    def n_steps(self) -> int:
        """How many steps the optimizer has made; a new kind of optimizer starts at 0."""
        return self._plan.progress[0]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the parameters and of all arithmetic."""
        return self._dtype

    @property
    def seed(self) -> int | None:
        """The seed it was made with."""
        return self._seed

    @property
    def parameters(self) -> NDArray[Any]:
        """All weights and biases: a live flat view, in the order W0, b0, W1, b1, ...

        Writing to it changes the network. Each W is (n_in, n_out), row by row; of a normalisation,
        they are gain and shift.
        """
        return self._parameters[:]

    @property
    def weights(self) -> tuple[NDArray[Any], ...]:
        """Live views of each layer's W, (n_in, n_out), or gain, (n_out,)."""
        return tuple(record.weight_of(self._parameters) for record in self._weighted)

    @property
    def biases(self) -> tuple[NDArray[Any], ...]:
        """Live (n_out,) views of each layer's b, or shift."""
        return tuple(record.bias_of(self._parameters) for record in self._weighted)

    @property
    def statistics(self) -> tuple[tuple[NDArray[Any], NDArray[Any]], ...]:
        """Live (n_out,) views of what layers have gathered, in their order.

        Mean and standard deviation of a Normalize, zero before they are known; running mean and
        variance of each BatchNorm.
        """
        return tuple(
            record.statistics_of(self._plan.statistics)
            for record in self._records
            if record.gathers
        )

    def __str__(self) -> str:
        """Return a table of the layers."""
        rows = [("layer", "kind", "activation", "shape", "parameters")]
        records = iter(self._weighted)
        for number, layer in walk(self._layers):
            kind, activation, shape, size = type(layer).__name__, "", "", ""
            if isinstance(layer, Dropout):
                activation = f"rate {layer.rate}"
            elif isinstance(layer, Weighted):
                record = next(records)
                activation, size = str(layer.activation), f"{record.end - record.weight:,}"
                shape = f"{record.n_out}"
                if isinstance(layer, Dense):
                    shape = f"{record.n_in} x {shape}"
            rows.append((number, kind, activation, shape, size))
        rows.append(("total", "", "", "", f"{self.n_parameters:,}"))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                cell.rjust(width) if column >= 3 else cell.ljust(width)
                for column, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            for row in rows
        ]
        rule = "-" * len(lines[0])
        title = f"Network, {self._dtype.name}: {self._loss.name}, {self._optimizer}"
        return "\n".join([title, rule, lines[0], rule, *lines[1:-1], rule, lines[-1]])

    def __repr__(self) -> str:
        """Return the call that makes a network like this one."""
        return (
            f"Network({self._n_inputs}, {list(self._layers)}, loss={self._loss}, "
            f"optimizer={self._optimizer}, dtype={self._dtype.name!r}, seed={self._seed!r}"
            + (f", feature_names={self._feature_names!r})" if self._feature_names else ")")
        )

    # --- what it computes -------------------------------------------------------------------

    def predict(
        self, X: Features, out: NDArray[Any] | None = None, n_threads: int = 1
    ) -> NDArray[Any]:
        """Compute the network's outputs.

        Parameters
        ----------
        X : array_like or sparse matrix of SciPy's, of shape (n, n_inputs) or (n_inputs,)
            A sparse one costs the first layer, which must be a Dense, what is not zero in it.
        out : ndarray of shape (n, n_outputs) or (n_outputs,), optional
            Where to write them, in the network's dtype; may be strided, not overlapping X.
        n_threads : int
            How many threads may work on it. What is too small to gain stays on one, and the
            result has the same bits for any number.

        Returns
        -------
        ndarray of shape (n, n_outputs) or (n_outputs,)
            `out` if it was given.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above, or X is not finite.
        """
        result = self._plan.predict(X, out, n_threads)
        if result is None:  # an argument that wants a closer look, or a copy
            result = self._predict_converted(X, out, n_threads)
        return result

    def _predict_converted(
        self, X: Features, out: NDArray[Any] | None, n_threads: int
    ) -> NDArray[Any]:
        n_threads = _checks.count("n_threads", n_threads)
        self._require_statistics()
        rows, single = self._features(X)
        shape = (self.n_outputs,) if single else (len(rows), self.n_outputs)
        given = rows.values if isinstance(rows, SparseRows) else np.asarray(X)
        if out is not None:
            _checks.output(out, shape, self._dtype, [given, self._parameters])
        result: NDArray[Any] | None
        if isinstance(rows, SparseRows):
            result = self._plan.predict_sparse(rows, n_threads).reshape(shape)
        else:
            result = self._plan.predict(rows[0] if single else rows, None, n_threads)
        assert result is not None
        if out is None:
            return result
        out[...] = result
        return out

    def evaluate(
        self,
        X: Features,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        class_weight: ClassWeight = None,
        n_threads: int = 1,
    ) -> float:
        """Compute the mean loss over all samples.

        Parameters
        ----------
        X : array_like or sparse matrix of SciPy's, of shape (n, n_inputs) or (n_inputs,)
        y : array_like
            Integer labels (n,) or probabilities (n, n_outputs) for "cross_entropy"; otherwise
            (n, n_outputs), or (n,) where there is one output.
        sample_weight : array_like of shape (n,), optional
            How much each sample counts, not negative. Weights are scaled to a mean of 1.
        class_weight : mapping of label to weight, or "balanced", optional
            How much the samples of each class count, 1 for those left out; "balanced" makes all
            classes count the same, whatever their frequency. For labels, or for zeros and ones of
            one output. Multiplies `sample_weight`.
        n_threads : int
            As for `predict`.

        Returns
        -------
        float

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above, or X or y is not finite.
        """
        n_threads = _checks.count("n_threads", n_threads)
        self._require_statistics()
        samples = self._samples(X, y, sample_weight, class_weight)
        return self._plan.loss_and_gradient(*samples, None, n_threads)

    def loss_and_gradient(
        self,
        X: Features,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        class_weight: ClassWeight = None,
        n_threads: int = 1,
    ) -> tuple[float, NDArray[Any]]:
        """Compute what training minimises, and its gradient by the parameters.

        That is the mean loss over all samples, and the penalties of layers that have some. Nothing
        is dropped, and batches are normalised by the running statistics.

        Parameters
        ----------
        X, y : array_like
            As for `evaluate`.
        sample_weight, class_weight
            As for `evaluate`.
        n_threads : int
            As for `predict`.

        Returns
        -------
        loss : float
        gradient : ndarray of shape (n_parameters,)
            In the order of `parameters`.

        Raises
        ------
        TypeError, ValueError
            As for `evaluate`.
        """
        n_threads = _checks.count("n_threads", n_threads)
        self._require_statistics()
        samples = self._samples(X, y, sample_weight, class_weight)
        gradient = np.zeros_like(self._parameters)
        loss = self._plan.loss_and_gradient(*samples, gradient, n_threads)
        return loss + self._penalty(self._parameters, gradient), gradient

    def check_gradient(
        self,
        X: Features,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        class_weight: ClassWeight = None,
        n_checks: int | None = None,
        seed: int = 0,
    ) -> float:
        """Compare the gradient with central differences of the loss.

        Parameters
        ----------
        X, y : array_like
            As for `evaluate`.
        sample_weight, class_weight
            As for `evaluate`.
        n_checks : int, optional
            How many of the parameters that are trained to check, drawn at random; all of them
            without it. Each takes two evaluations of the loss.
        seed : int
            For that draw.

        Returns
        -------
        float
            The largest difference, relative to the largest entry of the gradient. With smooth
            activations about 1e-9 for a network of float64 and 1e-6 for one of float32. Zero
            against zero is 0: make sure that the gradient is not zero.

        Raises
        ------
        TypeError, ValueError
            As for `evaluate`, or if `n_checks` is not a positive integer.

        Notes
        -----
        The differences are taken in float64 for either dtype. Where a step of 6e-6 crosses a
        kink (relu), they do not mean anything.
        """
        most = _checks.optional(_checks.count, "n_checks", n_checks)
        checked = self._trained()
        _, gradient = self.loss_and_gradient(
            X, y, sample_weight=sample_weight, class_weight=class_weight
        )
        if most is not None and most < len(checked):
            checked = np.random.default_rng(seed).choice(checked, most, replace=False)
        plan = self._new_plan(np.dtype(np.float64))
        parameters = plan.parameters
        parameters[...], plan.statistics[...] = self._parameters, self._plan.statistics
        samples = self._samples(X, y, sample_weight, class_weight, dtype=np.dtype(np.float64))
        differences = np.empty(len(checked))
        for i, k in enumerate(checked):
            theta = parameters[k]
            # the cube root of the rounding error balances rounding and truncation
            h = np.cbrt(np.finfo(np.float64).eps) * max(1.0, abs(theta))
            above, below = theta + h, theta - h
            parameters[k] = above
            loss_above = plan.loss_and_gradient(*samples) + self._penalty(parameters)
            parameters[k] = below
            loss_below = plan.loss_and_gradient(*samples) + self._penalty(parameters)
            parameters[k] = theta
            differences[i] = (loss_above - loss_below) / (above - below)
        error = np.abs(gradient[checked] - differences).max(initial=0)
        scale = max(np.abs(differences).max(initial=0), np.abs(gradient).max())
        return float(error / scale) if scale > 0 else 0.0

    def _penalty(
        self, parameters: NDArray[Any], gradient: NDArray[Any] | None = None
    ) -> float:
        """The penalties on the weights that are trained; their gradient is added to `gradient`."""
        total = 0.0
        for record in self._records:
            layer = record.layer
            if isinstance(layer, Dense) and layer.trainable and (layer.l1 or layer.l2):
                W = record.weight_of(parameters)
                total += layer.l1 * float(np.abs(W).sum(dtype=np.float64))
                total += layer.l2 / 2 * float(np.square(W, dtype=np.float64).sum())
                if gradient is not None:
                    record.weight_of(gradient)[...] += layer.l1 * np.sign(W) + layer.l2 * W
        return total

    def _trained(self) -> NDArray[np.intp]:
        """Where the parameters of layers that are trained lie."""
        return np.concatenate([
            np.arange(record.weight, record.end if record.trainable else record.weight)
            for record in self._records
        ])

    def adapt(self, X: Features) -> None:
        """Take the statistics of a Normalize layer from these data, instead of the first `fit`.

        Parameters
        ----------
        X : array_like of shape (n, n_inputs)

        Raises
        ------
        TypeError, ValueError
            If X is not as above, or the network does not begin with a Normalize layer.
        """
        if not isinstance(self._layers[0], Normalize):
            raise ValueError(f"the first layer must be Normalize() to adapt, got {self._layers[0]}")
        self._adapt(self._features(X, one_row=False)[0])

    def _adapt(self, X: NDArray[Any] | SparseRows) -> None:
        assert not isinstance(X, SparseRows)  # which a Normalize layer does not take
        mean, deviation = self.statistics[0]
        mean[...], deviation[...] = column_spread(X)

    def _require_statistics(self) -> None:
        if self._plan.waits:
            raise RuntimeError("the Normalize layer has no statistics yet: call fit or adapt first")

    # --- derivatives, and what is inside ----------------------------------------------------

    def jacobian(self, X: ArrayLike) -> NDArray[Any]:
        """Compute the derivatives of the outputs by the inputs.

        Parameters
        ----------
        X : array_like of shape (n, n_inputs) or (n_inputs,)

        Returns
        -------
        ndarray of shape (n, n_outputs, n_inputs) or (n_outputs, n_inputs)
            Of what `predict` returns: by raw inputs where a Normalize layer comes first. At a kink
            (relu at 0) it is the derivative that training takes.

        Raises
        ------
        TypeError, ValueError
            If X is not as above, or not finite.
        """
        self._require_statistics()
        rows, single = self._dense_features(X)
        result = self._plan.jacobian(rows)
        return result[0] if single else result

    def input_gradient(
        self, X: ArrayLike, y: ArrayLike, *, sample_weight: ArrayLike | None = None,
        class_weight: ClassWeight = None, n_threads: int = 1,
    ) -> NDArray[Any]:
        """Compute the gradient of the mean loss over all samples by their features.

        Parameters
        ----------
        X : array_like of shape (n, n_inputs) or (n_inputs,)
        y : array_like
            As for `evaluate`.
        sample_weight, class_weight
            As for `evaluate`.
        n_threads : int
            As for `predict`.

        Returns
        -------
        ndarray of shape (n, n_inputs) or (n_inputs,)
            Row i is the derivative of ``evaluate(X, y)`` by ``X[i]``.

        Raises
        ------
        TypeError, ValueError
            As for `evaluate`, and if X is sparse.
        """
        n_threads = _checks.count("n_threads", n_threads)
        self._require_statistics()
        rows, single = self._dense_features(X)
        samples = self._samples(rows[0] if single else rows, y, sample_weight, class_weight)
        result = np.empty_like(rows)
        self._plan.loss_and_gradient(*samples, None, n_threads, result)
        return result[0] if single else result

    def hidden(self, X: Features, layer: int) -> NDArray[Any]:
        """Compute what a layer puts out in a prediction.

        Parameters
        ----------
        X : array_like or sparse matrix of SciPy's, of shape (n, n_inputs) or (n_inputs,)
        layer : int
            Which of `layers`, from 0, or from the end where negative. A Dropout puts out what it is
            given.

        Returns
        -------
        ndarray of shape (n, units) or (units,)

        Raises
        ------
        TypeError, ValueError, IndexError
            If X is not as above or not finite, or there is no such layer.
        """
        try:
            number = range(len(self._layers))[layer]
        except (TypeError, IndexError) as error:
            raise type(error)(
                f"layer must be an integer from 0 to {len(self._layers) - 1}, got {layer!r}"
            ) from None
        self._require_statistics()
        records, _ = flatten(self._n_inputs, self._layers[: number + 1])
        if not records:  # a Dropout of the inputs
            inputs, single = self._dense_features(X)
            return inputs[0].copy() if single else inputs.copy()
        rows, single = self._features(X)
        result = self._plan.hidden(rows, len(records) - 1)
        return result[0] if single else result

    def _dense_features(self, X: Features) -> tuple[NDArray[Any], bool]:
        rows, single = self._features(X)
        if isinstance(rows, SparseRows):
            raise TypeError("X must not be sparse here: call .toarray() on it first")
        return rows, single

    # --- bound calls ------------------------------------------------------------------------

    def bind(self, X: NDArray[Any], out: NDArray[Any]) -> engine.BoundPrediction:
        """Make a prediction that is called without arguments, from one array into another.

        Parameters
        ----------
        X : ndarray of shape (n_inputs,) or (n, n_inputs)
            Of the network's dtype, C-contiguous. Write to it between the calls.
        out : ndarray of shape (n_outputs,) or (n, n_outputs)
            Of the network's dtype, C-contiguous and writeable; apart from X and the parameters.

        Returns
        -------
        callable
            Each call reads X, writes `out` and returns it. It allocates nothing, takes no lock, and
            checks nothing but that the network still is what it was: what is not finite in X goes
            through the network as it is. It keeps the arrays alive, and follows the network as that
            learns. One bound call serves one thread at a time.

        Raises
        ------
        TypeError, ValueError
            If an array is of another dtype, shape or layout, or they overlap.
        RuntimeError
            If a Normalize layer has no statistics yet. By a call: if the network was made anew, by
            its ``__init__``, after `bind`.
        """
        self._require_statistics()
        shape = _checks.ready_rows("X", X, self._n_inputs, self._dtype).shape
        _checks.output(
            out, (*shape[:-1], self.n_outputs), self._dtype, [X, self._parameters],
            contiguous=True,
        )
        return engine.BoundPrediction(self._plan, X, out)

    def bind_step(self, X: NDArray[Any], y: NDArray[Any]) -> engine.BoundStep:
        """Make a step of training that is called without arguments, on arrays to be written to.

        Parameters
        ----------
        X : ndarray of shape (n_inputs,) or (n, n_inputs)
            Of the network's dtype, C-contiguous.
        y : ndarray
            Targets of the network's dtype, (n_outputs,) or (n, n_outputs); or labels of dtype intp
            for "cross_entropy", () or (1,) for one row and (n,) for several. C-contiguous.

        Returns
        -------
        callable
            Each call makes one step of the optimizer on what is in the arrays, as `train_step`, and
            returns the loss before it. It checks labels, and nothing else. It raises
            FloatingPointError where the loss is not finite, and the step is not made then.

        Raises
        ------
        TypeError, ValueError
            If an array is of another dtype, shape or layout, or the optimizer makes no steps.
        RuntimeError
            As for `bind`; and by a call, if another thread trains the network.
        """
        self._require_steps()
        self._require_statistics()
        shape = _checks.ready_rows("X", X, self._n_inputs, self._dtype).shape
        labels = isinstance(y, np.ndarray) and y.dtype == np.intp
        if labels and self._loss.name != "cross_entropy":
            raise TypeError(f"y must have dtype {self._dtype.name} for {self._loss.name}, got intp")
        n = shape[0] if len(shape) == 2 else 1
        if labels:
            accepted = [(n,)] if len(shape) == 2 else [(), (1,)]
        else:
            accepted = [(*shape[:-1], self.n_outputs)]
            accepted += [(n,)] if self.n_outputs == 1 else []
        _checks.ready("y", y, accepted, np.dtype(np.intp) if labels else self._dtype)
        return engine.BoundStep(self._plan, X, y, self._next_step)

    # --- without Python ---------------------------------------------------------------------

    @property
    def address(self) -> int:
        """Where compiled code finds the network: a ``fastbp_network *``, as in ``fastbp.h``.

        Valid for as long as the network lives. `get_include` tells where the header is. What is
        random in steps made through it, dropout and noise, depends on the seed as well, but not on
        the steps made from Python.
        """
        return self._plan.address(self._native_key)

    @property
    def ctypes(self) -> native.NativeNetwork:
        """The address, and its functions for ctypes."""
        return native.interface(self.address)

    def low_level_callable(
        self, signature: str = "int (double *, intptr_t, double *, void *)"
    ) -> LowLevelCallable:
        """Make a `scipy.LowLevelCallable` that predicts one row of doubles, without Python.

        Parameters
        ----------
        signature : str
            "int (double *, intptr_t, double *, void *)": inputs, how many they are, outputs; as for
            `scipy.ndimage.generic_filter`. "double (int, double *, void *)" returns the only
            output; as for `scipy.integrate.quad`.

        Returns
        -------
        scipy.LowLevelCallable
            It keeps the network's parameters alive, and follows them as they learn.

        Raises
        ------
        TypeError, ValueError
            If the signature is another one, or wants one output and there are several.
        """
        return native.low_level_callable(
            self._plan, self.n_outputs, signature, self._native_key
        )

    @property
    def _native_key(self) -> int:
        """What is random for callers without Python: it takes nothing from other random numbers."""
        return int(np.random.default_rng(self._seed).integers(2**63))

    # --- how it learns ----------------------------------------------------------------------

    def train_step(
        self,
        X: Features,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        class_weight: ClassWeight = None,
    ) -> float:
        """Make one step of the optimizer on one batch, or on one row.

        Parameters
        ----------
        X, y : array_like
            As for `evaluate`.
        sample_weight, class_weight
            As for `evaluate`, but taken as they are, not scaled: one step does not know of others.

        Returns
        -------
        float
            The loss before the step.

        Raises
        ------
        TypeError, ValueError
            As for `evaluate`.
        FloatingPointError
            If the loss is not finite; parameters and optimizer are as before the step.
        """
        self._require_steps()
        self._require_statistics()
        samples = self._samples(X, y, sample_weight, class_weight, normalize=False)
        rate, key = self._next_step()
        loss, steps, _ = self._plan.epoch(*samples, None, len(samples[0]), rate, 1, key)
        if not steps:
            raise FloatingPointError(f"the loss is {loss}; {training.DIVERGENCE_HINT}")
        return loss

    def _next_step(self) -> tuple[float, int]:
        """Learning rate of the next step, and the key of what is random in it."""
        rate = self._require_steps().learning_rate
        rates = self._progress.rates(rate, self.n_steps, 1)
        return float(np.atleast_1d(rates)[0]), self._progress.key(self._plan)

    def _require_steps(self) -> Optimizer:
        """The optimizer, if it is one that makes steps."""
        if not isinstance(self._optimizer, Optimizer):
            raise TypeError(f"{self._optimizer} wants all the data: call fit, not single steps")
        return self._optimizer

    def fit(
        self,
        X: Features,
        y: ArrayLike,
        *,
        epochs: int = 1,
        batch_size: int | None = 32,
        accumulate: int = 1,
        shuffle: bool = True,
        sample_weight: ArrayLike | None = None,
        class_weight: ClassWeight = None,
        validation_data: tuple[Any, ...] | None = None,
        validation_split: float | None = None,
        validation_kind: str = "shuffled",
        metrics: Iterable[str | Metric] = (),
        gradient_norm: bool = False,
        callbacks: Iterable[Callback] = (),
        tol: float | None = None,
        n_threads: int = 1,
    ) -> training.History:
        """Train for a number of epochs. Calling it again continues.

        Parameters
        ----------
        X : array_like or sparse matrix of SciPy's, of shape (n, n_inputs)
        y : array_like
            As for `evaluate`.
        epochs : int
            How many times to go through the data.
        batch_size : int or None
            Samples per step: 1 is stochastic gradient descent, None takes all of them. A last
            smaller batch is used too.
        accumulate : int
            How many batches make one step, of the mean of their gradients.
        shuffle : bool
            Whether to take the samples in a new random order in each epoch.
        sample_weight, class_weight
            As for `evaluate`, over all samples trained on.
        validation_data : (X, y) or (X, y, sample_weight), optional
            Evaluated after every epoch, never trained on.
        validation_split : float, optional
            In (0, 1): this part of the samples is held out as validation data.
        validation_kind : {"shuffled", "stratified", "last"}
            Which part that is: any, drawn anew by each `fit`; one with as much of each class as
            there is in all; or the last one as the samples lie, for data in the order of time.
        metrics : iterable of str or callable
            What else to compute after every epoch, on the validation data or, without any, on the
            training data: "accuracy", "mse", "mae", "r2", "log_loss", others of `fastbp.metrics`,
            or a callable ``metric(y, prediction)``.
        gradient_norm : bool
            Whether to keep the Euclidean norm of the gradient, penalties included, before clipping:
            its mean over an epoch's steps. These gather the whole gradient first, which costs time.
        callbacks : iterable of Callback, optional
            Told of every epoch; one that returns true ends the training.
        tol : float, optional
            End the training when the loss has not fallen by at least this much below its best
            for ten epochs in a row.
        n_threads : int
            How many threads may work on a step; they last as long as an epoch. Steps too small
            to gain stay on one, and the result has the same bits for any number.

        Returns
        -------
        History
            Loss, validation loss, metrics, learning rate, gradient norm and time of each epoch.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above; nothing has been done then.
        FloatingPointError
            If the loss or a parameter stops being finite; parameters and optimizer are as after
            the last epoch that ended well.
        KeyboardInterrupt
            On Ctrl-C; the parameters are those of the last whole step.
        """
        samples = self._samples(X, y, sample_weight, class_weight, one_row=False)
        validation = self._validation(validation_data)
        settings = training.Settings(
            epochs=_checks.count("epochs", epochs),
            batch_size=_checks.optional(_checks.count, "batch_size", batch_size),
            accumulate=_checks.count("accumulate", accumulate),
            shuffle=_checks.flag("shuffle", shuffle),
            metrics=named_metrics(metrics),
            gradient_norm=_checks.flag("gradient_norm", gradient_norm),
            callbacks=training.checked_callbacks(callbacks),
            tol=_checks.optional(_checks.non_negative, "tol", tol),
            n_threads=_checks.count("n_threads", n_threads),
        )
        _checks.choice("validation_kind", validation_kind, splitting.KINDS)
        if validation_split is not None:
            if validation is not None:
                raise ValueError("give either validation_data or validation_split, not both")
            samples, validation = splitting.split(
                samples, validation_split, validation_kind, self._progress.rng
            )
        if self._plan.waits:
            self._adapt(samples[0])
        if (minimizer := minimizer_of(self._optimizer)) is not None:
            return minimize(
                self, minimizer, self._plan, self._trained(), self._penalty, samples, validation,
                settings,
            )
        return training.train(self, self._plan, self._progress, samples, validation, settings)

    def find_learning_rate(
        self,
        X: Features,
        y: ArrayLike,
        *,
        low: float = 1e-6,
        high: float = 10.0,
        steps: int = 100,
        batch_size: int = 32,
        sample_weight: ArrayLike | None = None,
        class_weight: ClassWeight = None,
    ) -> training.LearningRateCurve:
        """Try learning rates, from low to high, on a copy of the network (the range test).

        Parameters
        ----------
        X, y : array_like
            As for `evaluate`.
        low, high : float
            The first rate and the last one; each step multiplies by the same factor.
        steps : int
            How many to make; fewer where the loss grows beyond four times its least or is no
            longer finite.
        batch_size : int
            Samples per step, drawn in shuffled order, again and again.
        sample_weight, class_weight
            As for `evaluate`.

        Returns
        -------
        LearningRateCurve
            The rates and the losses, before each step.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above.

        References
        ----------
        L. N. Smith, Cyclical learning rates for training neural networks, 2017.
        """
        samples = self._samples(X, y, sample_weight, class_weight)
        low, high = _checks.positive("low", low), _checks.positive("high", high)
        if not low < high:
            raise ValueError(f"low must be less than high, got {low} and {high}")
        count = _checks.count("steps", steps)
        if count < 2:
            raise ValueError(f"steps must be 2 or more, got {count}")
        rates = np.geomspace(low, high, count)
        rows = min(_checks.count("batch_size", batch_size), len(samples[0]))
        twin = self.copy()
        if twin._plan.waits:
            twin._adapt(samples[0])
        return training.range_test(twin._plan, twin._progress, samples, rates, rows)

    def freeze(self, *numbers: int) -> None:
        """Leave layers alone from now on, as those made with ``trainable=False``.

        Parameters
        ----------
        *numbers : int
            Which ones, counted as in `weights`, from the end where negative; all without any.

        Raises
        ------
        TypeError, IndexError
            If one is not an integer, or there is no such layer.
        """
        self._set_trainable(self._numbers(numbers), trainable=False)

    def unfreeze(self, *numbers: int) -> None:
        """Train layers from now on that were left alone.

        Parameters
        ----------
        *numbers : int
            As for `freeze`.

        Raises
        ------
        TypeError, IndexError
            As for `freeze`.
        """
        self._set_trainable(self._numbers(numbers), trainable=True)

    def reinitialize(self, *numbers: int) -> None:
        """Start layers anew: W drawn by the layer's `init`, b zero, gains and shifts as at first.

        The optimizer starts over as well, as what it has gathered belongs to the old weights.

        Parameters
        ----------
        *numbers : int
            As for `freeze`.

        Raises
        ------
        TypeError, IndexError, ValueError
            As for `freeze`, or if an `init` returns something else than finite weights; nothing
            has been changed then but the random numbers drawn.
        """
        records = self._weighted
        chosen = [records[number] for number in self._numbers(numbers)]
        drawn = [self._initial_weight(record) for record in chosen]
        for record, weight in zip(chosen, drawn, strict=True):
            self._begin(record, weight)
        _, settings = engine_settings(self._optimizer)
        self._plan.state[...] = settings.get("initial_accumulator", 0)
        self._plan.progress = (0, 0.0)
        self._progress.plateau = PlateauProgress()

    def _numbers(self, numbers: tuple[int, ...]) -> list[int]:
        """Which layers with parameters are meant, each once."""
        every = range(len(self._weighted))
        try:
            return list(dict.fromkeys(every[number] for number in numbers)) or list(every)
        except IndexError:
            raise IndexError(
                f"layers are numbered from 0 to {every[-1]}, got {list(numbers)}"
            ) from None
        except TypeError:
            raise TypeError(f"layers are given by their numbers, got {list(numbers)}") from None

    def _set_trainable(self, numbers: list[int], *, trainable: bool) -> None:
        counted = itertools.count()
        layers = rebuilt(self._layers, lambda layer: (
            dataclasses.replace(layer, trainable=trainable) if next(counted) in numbers else layer
        ))
        records, _ = flatten(self._n_inputs, layers)
        self._plan.freeze([not record.trainable for record in records])
        self._layers, self._records = layers, records

    # --- one row at a time ------------------------------------------------------------------

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """What the inputs are called, in their order, if they have names."""
        return self._feature_names

    def learn_one(self, x: ArrayLike | Mapping[str, Any], y: ArrayLike) -> float:
        """Make one step of the optimizer on one row: `train_step` for streams, with less around it.

        Parameters
        ----------
        x : array_like of shape (n_inputs,), or mapping of `feature_names` to numbers
            A mapping must hold every feature; what else is in it is ignored.
        y : array_like
            A label for "cross_entropy"; otherwise (n_outputs,), or a number for one output.

        Returns
        -------
        float
            The loss before the step.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above, or not finite; nothing has been done then.
        FloatingPointError
            If the loss is not finite; parameters and optimizer are as before the step.
        RuntimeError
            If another thread is training the network, or a Normalize layer has no statistics.

        See Also
        --------
        bind_step : does not check its arguments, and takes less than a microsecond.
        """
        self._require_steps()
        self._require_statistics()
        return self._one_at_a_time().learn(x, y)

    def predict_one(self, x: ArrayLike | Mapping[str, Any]) -> NDArray[Any]:
        """Compute the outputs for one row.

        Parameters
        ----------
        x : array_like of shape (n_inputs,), or mapping of `feature_names` to numbers
            As for `learn_one`.

        Returns
        -------
        ndarray of shape (n_outputs,)
            Also where there is one output. As with `predict`, any number of threads may ask at once
            while nobody trains the network.

        Raises
        ------
        TypeError, ValueError
            If x is not as above, or not finite.
        """
        row = x
        if type(x) is not np.ndarray:
            row = self._one_at_a_time().row(x)
        result = self._plan.predict(row)
        if result is None or result.ndim != 1:  # which wants a closer look, or a copy
            self._require_statistics()
            result = self._plan.predict(self._one_at_a_time().checked(x))
            assert result is not None
        return result

    def _one_at_a_time(self) -> Online:
        """What rows are taken through, made on first use."""
        if self._online is None:
            itself = weakref.ref(self)  # it shall live no longer for what it keeps

            def next_step() -> tuple[float, int]:
                network = itself()
                assert network is not None
                return network._next_step()

            self._online = Online(
                self._plan, next_step, self._feature_names, self._n_inputs, self.n_outputs,
                self._dtype, self._loss.name,
            )
        return self._online

    # --- what stays -------------------------------------------------------------------------

    def copy(self) -> Network:
        """Make a network of its own that goes on exactly as this one would.

        Returns
        -------
        Network
            With the same parameters, optimizer state, schedule and random numbers.
        """
        twin = Network(
            self._n_inputs, self._layers, loss=self._loss, optimizer=self._optimizer,
            dtype=self._dtype, seed=self._seed, feature_names=self._feature_names,
        )
        twin.restore(self.state())
        return twin

    def state(self) -> dict[str, Any]:
        """Return all that training changes, as copies: arrays, and a dictionary for JSON.

        Returns
        -------
        dict
            "parameters", "optimizer" and "statistics", one-dimensional arrays of the network's
            dtype, and "json": what JSON holds, with a description of the network, the count of
            steps, and where the schedule and the random numbers are.

        See Also
        --------
        restore : goes back to it, here or in another network made alike.
        """
        steps, product = self._plan.progress
        return {
            "parameters": self._parameters.copy(),
            "optimizer": self._plan.state.copy(),
            "statistics": self._plan.statistics.copy(),
            "json": {
                "network": self._description(),
                "steps": steps,
                "momentum_product": product,
                "plateau": dataclasses.asdict(self._progress.plateau),
                "random": self._progress.rng.bit_generator.state,
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go back to a state; training goes on as it would have gone from there, bit for bit.

        Parameters
        ----------
        state : mapping
            What `state` returned, of this network or of one made alike: the same layers, loss,
            dtype, names of features and optimizer. The learning rate may differ.

        Raises
        ------
        TypeError, ValueError
            If it is no such state; nothing has been changed then.
        """
        snapshot, progress = training.checked_state(state, self._description(), self._plan)
        training.go_back(self._plan, snapshot)
        self._progress = progress

    def _description(self) -> dict[str, Any]:
        """What a state has to agree in."""
        optimizer = self._optimizer
        if isinstance(optimizer, Optimizer):
            optimizer = dataclasses.replace(optimizer, learning_rate=1.0)
        return {
            "n_inputs": self._n_inputs,
            "layers": [repr(layer) for layer in rebuilt(self._layers, _without_init)],
            "loss": repr(self._loss),
            "optimizer": repr(optimizer),
            "dtype": self._dtype.name,
            "feature_names": list(self._feature_names) if self._feature_names else None,
        }

    # --- the way in -------------------------------------------------------------------------

    def _samples(
        self,
        X: Features,
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        class_weight: ClassWeight = None,
        *,
        dtype: np.dtype[Any] | None = None,
        one_row: bool = True,
        normalize: bool = True,
        prefix: str = "",
    ) -> Samples:
        """X, y and weights as the engine takes them, apart from the parameters that it writes."""
        dtype = dtype or self._dtype
        rows, single = self._features(X, dtype, name=prefix + "X", one_row=one_row)
        expected = _checks.targets(
            y, self._loss.name, len(rows), self.n_outputs, dtype, name=prefix + "y", single=single
        )
        weights = _checks.weights(
            sample_weight, class_weight, expected, self.n_outputs, dtype,
            prefix=prefix, normalize=normalize,
        )
        if isinstance(rows, SparseRows):
            return rows.with_values(self._apart(rows.values)), self._apart(expected), weights
        return self._apart(rows), self._apart(expected), weights

    def _features(
        self, X: Features, dtype: np.dtype[Any] | None = None, *, name: str = "X",
        one_row: bool = True,
    ) -> tuple[NDArray[Any] | SparseRows, bool]:
        """X as the engine takes it, and whether it was given as one row."""
        rows, single = _checks.features(
            X, self._n_inputs, dtype or self._dtype, name=name, one_row=one_row
        )
        if isinstance(rows, SparseRows) and not self._plan.takes_sparse:
            raise ValueError(
                f"{name} is sparse, which only a Dense layer takes, not {self._layers[0]}; "
                "call .toarray() on it first"
            )
        return rows, single

    def _apart(self, array: NDArray[Any]) -> NDArray[Any]:
        return array.copy() if np.may_share_memory(array, self._parameters) else array

    def _validation(self, data: tuple[Any, ...] | None) -> Samples | None:
        if data is None:
            return None
        X, y, weights = training.checked_validation(data)
        return self._samples(X, y, weights, one_row=False, prefix="validation_data ")


def _without_init(layer: Any) -> Any:
    return dataclasses.replace(layer, init="auto") if isinstance(layer, Dense) else layer


def _chosen(optimizer: object) -> AnyOptimizer:
    """Return the optimizer of a name with its defaults, or an optimizer as it is."""
    if isinstance(optimizer, AnyOptimizer):
        return optimizer
    return OPTIMIZERS[_checks.choice("optimizer", optimizer, OPTIMIZERS)]()
