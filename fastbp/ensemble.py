"""Ensembles: networks trained and predicting side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbp import _checks, training
from fastbp._dispatch import engine
from fastbp._sparse import Features, SparseRows
from fastbp.network import Network
from fastbp.schedules import watch
from fastbp.splitting import Samples

if TYPE_CHECKING:
    from fastbp._checks import ClassWeight

__all__ = ["Ensemble"]


class Ensemble:
    """Several networks, trained and predicting in one compiled call.

    Each is a network of its own: with its own seed, layers, loss, optimizer and data, if wanted.
    What comes out is what each would give alone, bit for bit.

    Parameters
    ----------
    networks : sequence of Network
        With as many inputs and outputs as each other, and of one dtype; each of them once. They
        stay usable on their own.

    Raises
    ------
    TypeError, ValueError
        If they are not as above.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbp import Dense, Ensemble, Network
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 3))
    >>> y = X.sum(axis=1) + rng.normal(size=200) / 10
    >>> ensemble = Ensemble([Network(3, [Dense(8, "tanh"), Dense(1)], seed=k) for k in range(5)])
    >>> bootstrap = [rng.integers(200, size=200) for _ in range(5)]
    >>> histories = ensemble.fit(X, y, epochs=10, subsets=bootstrap)
    >>> predictions = ensemble.predict(X[:4])
    >>> predictions.shape, predictions.mean(axis=0).shape
    ((5, 4, 1), (4, 1))
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        try:
            self._networks = tuple(networks)
        except TypeError:
            raise TypeError(f"networks must be a sequence of Network, got {networks!r}") from None
        if not self._networks:
            raise ValueError("networks must hold at least one network, got none")
        for network in self._networks:
            if not isinstance(network, Network):
                raise TypeError(f"networks must be a sequence of Network, got {network!r} in it")
        if len({id(network) for network in self._networks}) < len(self._networks):
            raise ValueError("networks must hold each network once")
        self._require_alike()

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks."""
        return self._networks

    def __len__(self) -> int:
        """Count the networks."""
        return len(self._networks)

    def __iter__(self) -> Iterator[Network]:
        """Iterate over the networks."""
        return iter(self._networks)

    def __getitem__(self, number: int) -> Network:
        """Return a network by its number."""
        return self._networks[number]

    def __repr__(self) -> str:
        """Return the call that makes an ensemble like this one."""
        return f"Ensemble({list(self._networks)})"

    def predict(self, X: Features, n_threads: int = 1) -> NDArray[Any]:
        """Compute the outputs of every network.

        Parameters
        ----------
        X : array_like or sparse matrix of SciPy's, of shape (n, n_inputs) or (n_inputs,)
        n_threads : int
            How many threads may work on it, a network each. What is too small to gain stays on
            one, and the bits are the same for any number.

        Returns
        -------
        ndarray of shape (n_networks, n, n_outputs) or (n_networks, n_outputs)

        Raises
        ------
        TypeError, ValueError
            As `Network.predict`.
        """
        n_threads = _checks.count("n_threads", n_threads)
        plans = [each._plan for each in self._networks]
        for network, plan in zip(self._networks, plans, strict=True):
            if plan.waits:
                network._require_statistics()
        rows, single = self._features(X, "X")
        result = engine.predict_by_all(plans, rows, n_threads)
        return result[:, 0] if single else result

    def evaluate(
        self,
        X: Features,
        y: ArrayLike,
        *,
        sample_weight: ArrayLike | None = None,
        class_weight: ClassWeight = None,
        n_threads: int = 1,
    ) -> NDArray[np.float64]:
        """Compute each network's mean loss over all samples.

        Parameters
        ----------
        X, y, sample_weight, class_weight, n_threads
            As for `Network.evaluate`.

        Returns
        -------
        ndarray of float64, of shape (n_networks,)

        Raises
        ------
        TypeError, ValueError
            As `Network.evaluate`.
        """
        n_threads = _checks.count("n_threads", n_threads)
        for network in self:
            network._require_statistics()
        samples = self._samples(X, y, sample_weight, class_weight)
        return np.array([
            each._plan.loss_and_gradient(*own, None, n_threads)
            for each, own in zip(self, samples, strict=True)
        ])

    def fit(
        self,
        X: Features,
        y: ArrayLike,
        *,
        epochs: int = 1,
        batch_size: int | None = 32,
        shuffle: bool = True,
        sample_weight: ArrayLike | None = None,
        class_weight: ClassWeight = None,
        subsets: Sequence[ArrayLike] | None = None,
        validation_data: tuple[Any, ...] | None = None,
        tol: float | None = None,
        n_threads: int = 1,
    ) -> list[training.History]:
        """Train every network for a number of epochs. Calling it again continues.

        Parameters
        ----------
        X, y, epochs, batch_size, shuffle, sample_weight, class_weight, validation_data, tol
            As for `Network.fit`. Each network shuffles by its own seed, scales weights over the
            samples it is trained on, and ends by `tol` on its own.
        subsets : sequence of arrays, optional
            For each network the numbers of the samples it is trained on, or a mask: folds, say, or
            bootstrap samples, in which numbers may come again.
        n_threads : int
            How many threads may work on it, a network each. What is too small to gain stays on
            one, and the bits are the same for any number.

        Returns
        -------
        list of History
            Of each network: loss, validation loss, learning rate, and its part of the time of each
            epoch.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above; nothing has been done then.
        FloatingPointError
            If the loss or a parameter of a network stops being finite: all that were still being
            trained are as after the last epoch that ended well for all.
        KeyboardInterrupt
            On Ctrl-C; the parameters are those of each network's last whole step.
        """
        epochs = _checks.count("epochs", epochs)
        size = _checks.optional(_checks.count, "batch_size", batch_size)
        shuffle = _checks.flag("shuffle", shuffle)
        least = _checks.optional(_checks.non_negative, "tol", tol)
        n_threads = _checks.count("n_threads", n_threads)
        samples = self._samples(X, y, sample_weight, class_weight, one_row=False)
        rows = self._subsets(subsets, len(samples[0][0]))
        if subsets is not None and samples[0][2] is not None:
            samples = [
                _weighted(each, own, those, sample_weight, class_weight, number)
                for number, (each, own, those) in enumerate(zip(self, samples, rows, strict=True))
            ]
        validation = self._validation(validation_data)
        for network in self:
            network._require_steps()
            network._plan.refuse_while_training()
        members = [
            Member(number, network, own, those, held_out)
            for number, (network, own, those, held_out) in enumerate(
                zip(self, samples, rows, validation, strict=True)
            )
        ]
        for member in members:
            if member.network._plan.waits:
                member.network._adapt(member.samples[0][member.rows])
            member.last_good = training.snapshot(member.network._plan)
        longest = max(map(len, rows))
        active = members
        for epoch in range(1, epochs + 1):
            _epoch(active, epoch, size or longest, shuffle, n_threads)
            active = [member for member in active if member.goes_on(least)]
            if not active or epoch == epochs:
                break
            for member in active:
                member.last_good = training.snapshot(member.network._plan, member.last_good)
        return [member.history for member in members]

    # --- the way in -------------------------------------------------------------------------

    def _require_alike(self) -> None:
        first = self[0]
        for network in self:
            for what in ("n_inputs", "n_outputs", "dtype"):
                given, wanted = getattr(network, what), getattr(first, what)
                if given != wanted:
                    raise ValueError(
                        f"networks must have the same {what}, got {wanted} and {given}"
                    )

    def _features(
        self, X: Features, name: str, *, one_row: bool = True
    ) -> tuple[NDArray[Any] | SparseRows, bool]:
        """X as the engine takes it, converted once for all."""
        rows, single = self[0]._features(X, name=name, one_row=one_row)
        if isinstance(rows, SparseRows):
            for network in self:
                network._features(rows, name=name)
        return rows, single

    def _samples(
        self,
        X: Features,
        y: ArrayLike,
        sample_weight: ArrayLike | None,
        class_weight: ClassWeight = None,
        *,
        one_row: bool = True,
        prefix: str = "",
    ) -> list[Samples]:
        """X, y and weights as the engine takes them, shared by the networks of one loss."""
        self._require_alike()  # a network may have become another one, by its __init__
        rows, single = self._features(X, prefix + "X", one_row=one_row)
        given: Any = X if single else rows
        of_loss: dict[str, Samples] = {}
        for network in self:
            name = network.loss.name
            if name not in of_loss:
                features, targets, weights = network._samples(
                    given, y, sample_weight, class_weight, one_row=one_row, prefix=prefix
                )
                if not isinstance(features, SparseRows):
                    features = self._apart(features)
                of_loss[name] = features, self._apart(targets), weights
        return [of_loss[network.loss.name] for network in self]

    def _apart(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array that no network writes to while others read it."""
        shared = any(np.may_share_memory(array, each.parameters) for each in self)
        return array.copy() if shared else array

    def _validation(self, data: tuple[Any, ...] | None) -> list[Samples] | list[None]:
        if data is None:
            return [None] * len(self)
        X, y, weights = training.checked_validation(data)
        return self._samples(X, y, weights, one_row=False, prefix="validation_data ")

    def _subsets(self, subsets: Sequence[ArrayLike] | None, n: int) -> list[NDArray[np.intp]]:
        """Which samples each network is trained on."""
        everything = np.arange(n)
        if subsets is None:
            return [everything] * len(self)
        accepted = f"subsets must hold one array for each of {len(self)} networks"
        try:
            given = list(subsets)
        except TypeError:
            raise TypeError(f"{accepted}, got {subsets!r}") from None
        if len(given) != len(self):
            raise ValueError(f"{accepted}, got {len(given)}")
        return [_chosen(everything, subset, number) for number, subset in enumerate(given)]


def _chosen(everything: NDArray[np.intp], subset: ArrayLike, number: int) -> NDArray[np.intp]:
    """The numbers of the samples in a subset."""
    n = len(everything)
    accepted = f"subsets[{number}] must hold some numbers of samples, -{n} to {n - 1}, or a mask"
    try:
        rows: NDArray[np.intp] = everything[np.asarray(subset)]
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{accepted}: {error}") from None
    if rows.ndim != 1 or len(rows) == 0:
        raise ValueError(f"{accepted}, got {rows.size} of them in an array of shape {rows.shape}")
    return rows


def _weighted(
    network: Network, samples: Samples, rows: NDArray[np.intp], sample_weight: ArrayLike | None,
    class_weight: ClassWeight, number: int,
) -> Samples:
    """The samples, with weights as they are over the rows of a subset."""
    X, y, _ = samples
    given = None if sample_weight is None else np.atleast_1d(np.asarray(sample_weight))[rows]
    weights = np.zeros(len(y), network.dtype)
    weights[rows] = _checks.weights(
        given, class_weight, y[rows], network.n_outputs, network.dtype,
        prefix=f"subsets[{number}] ",
    )
    return X, y, weights


@dataclass(eq=False, repr=False)
class Member:
    """A network under training: its data, and how far it has come."""

    number: int
    network: Network
    samples: Samples
    rows: NDArray[np.intp]
    validation: Samples | None
    history: training.History = field(default_factory=training.History)
    last_good: training.Snapshot | None = None
    best: float = math.inf
    since_best: int = 0

    def note(
        self, loss: float, rates: float | NDArray[np.float64], seconds: float, n_threads: int
    ) -> None:
        """Add an epoch to the history."""
        history, plan = self.history, self.network._plan
        history.loss.append(loss)
        history.learning_rate.append(float(np.atleast_1d(rates)[-1]))
        history.seconds.append(seconds)
        if self.validation is not None:
            history.validation_loss.append(
                plan.loss_and_gradient(*self.validation, None, n_threads)
            )
        rate = self.network._require_steps().learning_rate
        watch(rate, self.network._progress.plateau, history.watched()[-1])

    def goes_on(self, tol: float | None) -> bool:
        """Tell whether the last epoch's loss leaves hope."""
        loss = self.history.loss[-1]
        self.since_best = self.since_best + 1 if loss > self.best - (tol or 0) else 0
        self.best = min(self.best, loss)
        return tol is None or self.since_best < training.PATIENCE


def _epoch(
    members: list[Member], epoch: int, size: int, shuffle: bool, n_threads: int
) -> None:
    """One epoch of each, in one call into the engine."""
    plans = [each.network._plan for each in members]
    # before the permutations, as a schedule of the user's may raise
    rates = [
        each.network._progress.rates(
            each.network._require_steps().learning_rate, each.network.n_steps,
            -(-len(each.rows) // size),
        )
        for each in members
    ]
    orders, keys = [], []
    for each, plan in zip(members, plans, strict=True):
        progress = each.network._progress
        orders.append(progress.rng.permutation(each.rows) if shuffle else each.rows)
        keys.append(progress.key(plan))
    started = time.perf_counter()
    samples: list[Any] = [each.samples for each in members]
    results = engine.epoch_of_all(plans, samples, orders, size, rates, keys, n_threads)
    seconds = (time.perf_counter() - started) / len(members)
    for each, plan, (loss, steps) in zip(members, plans, results, strict=True):
        if math.isfinite(loss) and engine.all_finite(plan.parameters):
            continue
        for other in members:
            assert other.last_good is not None
            training.go_back(other.network._plan, other.last_good)
        step = steps if math.isfinite(loss) else steps + 1
        raise FloatingPointError(
            f"network {each.number}, epoch {epoch}, step {step}: the loss is {loss}, all networks "
            f"are back to what they were before this epoch; {training.DIVERGENCE_HINT}"
        )
    for each, used, (loss, _) in zip(members, rates, results, strict=True):
        each.note(loss, used, seconds, n_threads)
