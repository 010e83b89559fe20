"""The network: its layers, its loss, its optimizer, and one flat vector of parameters."""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastbp import _checks, splitting, training
from fastbp._dispatch import engine
from fastbp._online import Online
from fastbp._records import (
    Record,
    Weighted,
    checked_stack,
    flatten,
    means_and_deviations,
    rebuilt,
    walk,
)
from fastbp._sparse import Features, SparseRows
from fastbp._writing import write_whole
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
    SIGNED_VECTORS,
    AnyOptimizer,
    Optimizer,
    engine_settings,
    minimizer_of,
    vector_names,
)
from fastbp.predictor import Predictor, Snapshot
from fastbp.schedules import PlateauProgress
from fastbp.splitting import Samples

if TYPE_CHECKING:
    import torch

    from fastbp._checks import ClassWeight
    from fastbp.callbacks import Callback

__all__ = ["Network"]


class Network(Predictor):
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
        self._build(n_inputs, layers, loss, optimizer, dtype, seed, feature_names)
        for record in self._weighted:
            self._begin(record, self._initial_weight(record))

    def _build(
        self,
        n_inputs: int,
        layers: Sequence[Layer],
        loss: str | Loss | Callable[..., Any],
        optimizer: str | AnyOptimizer,
        dtype: DTypeLike,
        seed: int | None,
        feature_names: Iterable[str] | None,
    ) -> None:
        """Check the arguments and make everything but the first parameters, which are zero."""
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
    def optimizer_vectors(self) -> dict[str, NDArray[Any]]:
        """Live (n_parameters,) views of what the optimizer has gathered, by name.

        The names are those of `fastbp.optimizers.vector_names`, the order that of `parameters`.
        """
        return dict(zip(vector_names(self._optimizer), self._plan.state, strict=True))

    @property
    def n_steps(self) -> int:
        """How many steps the optimizer has made; a new kind of optimizer starts at 0."""
        return self._plan.progress[0]

    @property
    def seed(self) -> int | None:
        """The seed it was made with."""
        return self._seed

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
            ).rstrip()
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
        FloatingPointError
            If the loss is not finite, which then has no gradient.
        """
        n_threads = _checks.count("n_threads", n_threads)
        self._require_statistics()
        rows, single = self._dense_features(X)
        samples = self._samples(rows[0] if single else rows, y, sample_weight, class_weight)
        result = np.empty_like(rows)
        loss = self._plan.loss_and_gradient(*samples, None, n_threads, result)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}, and has no gradient")
        return result[0] if single else result

    def adapt(self, X: Features) -> None:
        """Take the statistics of a Normalize layer from these data, instead of the first `fit`.

        Parameters
        ----------
        X : array_like of shape (n, n_inputs)

        Raises
        ------
        TypeError, ValueError
            If X is not as above or its deviation overflows, or the network does not begin with a
            Normalize layer; nothing has been changed then.
        """
        if not isinstance(self._layers[0], Normalize):
            raise ValueError(f"the first layer must be Normalize() to adapt, got {self._layers[0]}")
        self._adapt(self._features(X, one_row=False)[0])

    def _adapt(self, X: NDArray[Any] | SparseRows) -> None:
        assert not isinstance(X, SparseRows)  # which a Normalize layer does not take
        mean, deviation = self.statistics[0]
        mean[...], deviation[...] = means_and_deviations(X)

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
        loss = None
        if sample_weight is None and class_weight is None:
            loss = self._plan.step(X, y)
        if loss is None:  # something that wants a closer look, or a copy
            self._require_steps()
            self._require_statistics()
            samples = self._samples(X, y, sample_weight, class_weight, normalize=False)
            rate, key = self._next_step()
            loss, _, _ = self._plan.epoch(*samples, None, len(samples[0]), rate, 1, key)
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss}; {training.DIVERGENCE_HINT}")
        return loss

    def bind_step(self, X: NDArray[Any], y: NDArray[Any]) -> engine.BoundStep:
        """Make a step of training that is called without arguments, on arrays to be written to.

        Parameters
        ----------
        X : ndarray of shape (n_inputs,) or (n, n_inputs)
            Of the network's dtype, C-contiguous.
        y : ndarray
            Targets of the network's dtype, (n_outputs,) or (n, n_outputs); or labels of dtype intp
            for "cross_entropy", () or (1,) for one row and (n,) for several. C-contiguous. Both
            apart from the parameters. The targets of the hinge losses are signs.

        Returns
        -------
        callable
            Each call makes one step of the optimizer on what is in the arrays, as `train_step`, and
            returns the loss before it. It checks labels, and nothing else. It raises
            FloatingPointError where the loss is not finite, and the step is not made then.

        Raises
        ------
        TypeError, ValueError
            If an array is of another dtype, shape or layout, or overlaps the parameters, or the
            optimizer makes no steps.
        RuntimeError
            As for `bind`; and by a call, if another thread trains the network.
        """
        self._require_steps()
        self._require_statistics()
        X = _checks.ready_rows("X", X, self._n_inputs, self._dtype)
        shape = X.shape
        labels = (
            self._loss.name == "cross_entropy" and isinstance(y, np.ndarray)
            and y.dtype.kind in "iu"
        )
        n = shape[0] if len(shape) == 2 else 1
        if labels:
            accepted = [(n,)] if len(shape) == 2 else [(), (1,)]
        else:
            accepted = [(*shape[:-1], self.n_outputs)]
            accepted += [(n,)] if self.n_outputs == 1 else []
        y = _checks.ready("y", y, accepted, np.dtype(np.intp) if labels else self._dtype)
        for name, array in (("X", X), ("y", y)):
            if np.may_share_memory(array, self._parameters):
                raise ValueError(f"{name} must not overlap the network's parameters")
        return engine.BoundStep(self._plan, X, y, self._next_step)

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
        twin = Network.__new__(Network)
        twin.__setstate__(self.__getstate__())
        return twin

    def __copy__(self) -> Network:
        """Return `copy()`: two networks never share parameters."""
        return self.copy()

    def __deepcopy__(self, memo: dict[int, Any]) -> Network:
        """Return `copy()`."""
        return self.copy()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle holds: the arguments, as they are now, and `state()`."""
        arguments = {
            "n_inputs": self._n_inputs, "layers": self._layers, "loss": self._loss,
            "optimizer": self._optimizer, "dtype": self._dtype.name, "seed": self._seed,
            "feature_names": self._feature_names,
        }
        return {"arguments": arguments, "state": self.state()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become the network that `__getstate__` has told of; no weight is drawn for it."""
        self._build(**state["arguments"])
        self.restore(state["state"])

    def snapshot(self) -> Snapshot:
        """Copy what a prediction depends on, for readers while this network learns on.

        Returns
        -------
        Snapshot
            It has `predict`, `hidden`, `jacobian`, `bind` and what they need, and never changes.
        """
        return Snapshot(self)

    def save(self, path: str | os.PathLike[str], *, optimizer: bool = True) -> None:
        """Write the network to a file in the safetensors format, whole or not at all.

        Parameters
        ----------
        path : path-like
            A file that is there is replaced, once the new one is on the disk.
        optimizer : bool
            Whether to write what training needs to go on from here as well: what the optimizer has
            gathered, its steps, the place in a schedule, the random numbers.

        Raises
        ------
        TypeError, ValueError
            If something cannot be written, such as a function of your own, or is not finite;
            nothing has been written then.
        OSError
            If the file cannot be written; one that was there is as it was.
        ImportError
            If the package safetensors is missing: ``pip install "fastbp[files]"``.

        See Also
        --------
        load : makes a network of it; docs/files.md has the format and the promises.
        """
        from fastbp import files

        files.save(self, path, optimizer=optimizer)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Network:
        """Make a network of a file that `save` has written.

        Parameters
        ----------
        path : path-like

        Returns
        -------
        Network
            It goes on training with the bits of the network that was saved; with a fresh optimizer
            if that was left out.

        Raises
        ------
        fastbp.ModelFileError
            If the file is damaged, no network's, or of a newer format.
        OSError
            If it cannot be read.
        ImportError
            As for `save`.
        """
        from fastbp import files

        return files.load(path)

    def state(self) -> dict[str, Any]:
        """Return all that training changes, as copies: arrays, and a dictionary for JSON.

        Returns
        -------
        dict
            "parameters", "optimizer" and "statistics", one-dimensional arrays of the network's
            dtype, and "json": what JSON holds, with a description of the network, the count of
            steps, and where the schedule and the random numbers are. Under "optimizer" are the
            `optimizer_vectors`, one after the other.

        See Also
        --------
        restore : goes back to it, here or in another network made alike.
        """
        steps, product = self._plan.progress
        return {
            "parameters": self._parameters.copy(),
            "optimizer": self._plan.state.flatten(),
            "statistics": self._plan.statistics.copy(),
            "json": {
                "network": self._description(),
                "steps": steps,
                "momentum_product": product,
                "plateau": self._progress.plateau.as_json(),
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
        self._require_spreads(*snapshot[1:3])
        training.go_back(self._plan, snapshot)
        self._progress = progress

    def export_c(
        self,
        path: str | os.PathLike[str],
        *,
        name: str = "model",
        isa: str | None = None,
        train_step: bool = False,
    ) -> None:
        """Write the network as one C header that wants no library: C99, and C++11 as well.

        Its ``model_predict(const float *x, float *out)`` computes what `predict` does for one row,
        of doubles for a network of float64. What it offers and promises is in docs/c.md.

        Parameters
        ----------
        path : str or path-like
            Written whole or not at all.
        name : str
            What all its names begin with: letters, digits, and underscores between them.
        isa : {"sse4.2", "avx2", "avx512"}, optional
            The instructions that GNU compilers may use on x86, whatever their flags; the program
            runs only where the processor has them. Without it the compiler's flags decide.
        train_step : bool
            Whether to write ``model_train_step`` too, for a struct that the caller owns: steps
            of one row, with SGD, Adam or AdamW as in `optimizer`.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above, a parameter is not finite, or something of the network
            has no counterpart in ``train_step``; it is named.
        RuntimeError
            If a Normalize layer has no statistics yet.
        OSError
            If the file cannot be written; what was there is as before.
        """
        from fastbp.exporting.c_header import export_c  # which stands on what is here

        export_c(self, path, name=name, isa=isa, train_step=train_step)

    def _require_spreads(self, vectors: NDArray[Any], statistics: NDArray[Any]) -> None:
        """Raise ValueError for squares and spreads of a state that no training comes to."""
        spreads = {
            f"{name} of the optimizer": vector
            for name, vector in zip(vector_names(self._optimizer), vectors, strict=True)
            if name not in SIGNED_VECTORS
        }
        for record in self._records:
            if record.gathers:
                _, spread = record.statistics_of(statistics)
                spreads[f"spread of a {type(record.layer).__name__}"] = spread
                # all of them are zero as long as they are not known
                if isinstance(record.layer, Normalize) and spread.any() and not spread.all():
                    raise ValueError("the state's deviations of a Normalize must be positive")
        for name, spread in spreads.items():
            if (spread < 0).any():
                raise ValueError(
                    f"the state's {name} must not be negative, got {spread.min()} in it"
                )

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

    # --- to other libraries -----------------------------------------------------------------

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write what `predict` computes to an ONNX file, for any number of rows.

        Layers, activations and statistics, in opset 17 and in the network's dtype. Dropout, which
        does nothing in prediction, the loss and the optimizer have no place there.

        Parameters
        ----------
        path : path
            Written whole, or not at all.

        Raises
        ------
        ValueError
            If the parameters take more than the 2 GiB that such a file holds.
        RuntimeError
            If the network begins with a Normalize layer that has no statistics yet.
        OSError
            If the file cannot be written; one that was there stays.
        ImportError
            If onnx is not installed.

        See Also
        --------
        fastbp.from_onnx : the way back.
        """
        from fastbp.interop.onnx_writer import model_of

        write_whole(path, model_of(self).SerializeToString())

    def to_torch(self) -> torch.nn.Sequential:
        """Make a PyTorch module that computes, and trains, as this network does.

        Returns
        -------
        torch.nn.Sequential
            On the CPU, in the network's dtype, with copies of its parameters, and in evaluation
            mode: call its `train` to go on training. Loss, optimizer and penalties have no place
            in a module.

        Raises
        ------
        RuntimeError
            If the network begins with a Normalize layer that has no statistics yet.
        ImportError
            If torch is not installed.

        See Also
        --------
        fastbp.from_torch : the way back.
        """
        from fastbp.interop.torch_modules import write

        return write(self)

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
