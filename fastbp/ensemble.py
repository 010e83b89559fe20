"""Ensembles: networks of one shape, trained and predicting side by side."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbp import _checks, training
from fastbp._dispatch import engine
from fastbp._sparse import Features
from fastbp.network import Network
from fastbp.schedules import watch

__all__ = ["Ensemble"]


class Ensemble:
    """Several networks of one shape, trained and predicting in one compiled call.

    Each is a network of its own: with its own seed, optimizer, penalties and data, if wanted. What
    comes out is what each would give alone, bit for bit.

    Parameters
    ----------
    networks : sequence of Network
        Of the same inputs, widths and dtype; each of them once. They stay usable on their own.

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
        self._networks = tuple(networks)
        if not self._networks:
            raise ValueError("networks must hold at least one network, got none")
        for network in self._networks:
            if not isinstance(network, Network):
                raise TypeError(f"networks must be a sequence of Network, got {network!r} in it")
        if len({id(network) for network in self._networks}) < len(self._networks):
            raise ValueError("networks must hold each network once")
        first = self._networks[0]
        for network in self._networks[1:]:
            for what in ("n_inputs", "n_outputs", "n_parameters", "dtype"):
                given, wanted = getattr(network, what), getattr(first, what)
                if given != wanted:
                    raise ValueError(
                        f"networks must have the same {what}, got {wanted} and {given}"
                    )

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

    def predict(self, X: Features, n_threads: int = 1) -> NDArray[Any]:
        """Compute the outputs of every network.

        Parameters
        ----------
        X : array_like or sparse matrix of SciPy's, of shape (n, n_inputs) or (n_inputs,)
        n_threads : int
            How many threads may work on it, a network each.

        Returns
        -------
        ndarray of shape (n_networks, n, n_outputs) or (n_networks, n_outputs)

        Raises
        ------
        TypeError, ValueError
            As `Network.predict`.
        """
        n_threads = _checks.count("n_threads", n_threads)
        for network in self._networks:
            network._require_statistics()
            rows, single = network._features(X)
        result = engine.predict_by_all([each._plan for each in self._networks], rows, n_threads)
        return result[:, 0] if single else result

    def fit(
        self,
        X: Features,
        y: ArrayLike,
        *,
        epochs: int = 1,
        batch_size: int | None = 32,
        shuffle: bool = True,
        sample_weight: ArrayLike | None = None,
        subsets: Sequence[ArrayLike] | None = None,
        n_threads: int = 1,
    ) -> list[training.History]:
        """Train every network for a number of epochs. Calling it again continues.

        Parameters
        ----------
        X, y, epochs, batch_size, shuffle, sample_weight
            As for `Network.fit`; each network shuffles by its own seed.
        subsets : sequence of arrays, optional
            For each network the numbers of the samples it is trained on, or a mask: folds, say, or
            bootstrap samples, in which numbers may come again.
        n_threads : int
            How many threads may work on it, a network each; the bits are the same for any number.

        Returns
        -------
        list of History
            Of each network: loss, learning rate, and a part of the time of each epoch.

        Raises
        ------
        TypeError, ValueError
            If an argument is not as above; nothing has been done then.
        FloatingPointError
            If the loss or a parameter of a network stops being finite: all networks are as after
            the last epoch that ended well for all.
        KeyboardInterrupt
            On Ctrl-C; the parameters are those of each network's last whole step.
        """
        epochs = _checks.count("epochs", epochs)
        size = _checks.optional(_checks.count, "batch_size", batch_size)
        shuffle = _checks.flag("shuffle", shuffle)
        n_threads = _checks.count("n_threads", n_threads)
        networks = self._networks
        samples = [each._samples(X, y, sample_weight, one_row=False) for each in networks]
        rows = self._subsets(subsets, len(samples[0][0]))
        if size is None:
            size = max(map(len, rows))
        for network, own, (features, *_) in zip(networks, rows, samples, strict=True):
            network._require_steps()
            if network._plan.waits:
                network._adapt(features[own])
        histories = [training.History() for _ in networks]
        last_good = [training.snapshot(each._plan) for each in networks]
        for epoch in range(1, epochs + 1):
            self._epoch(epoch, samples, rows, size, shuffle, n_threads, histories, last_good)
            last_good = [
                training.snapshot(each._plan, before)
                for each, before in zip(networks, last_good, strict=True)
            ]
        return histories

    def _epoch(
        self, epoch: int, samples: list[Any], rows: list[NDArray[np.intp]], size: int,
        shuffle: bool, n_threads: int, histories: list[training.History],
        last_good: list[training.Snapshot],
    ) -> None:
        networks = self._networks
        rates, orders, keys = [], [], []
        for network, own in zip(networks, rows, strict=True):
            schedule, progress = network._require_steps().learning_rate, network._progress
            rates.append(progress.rates(schedule, network.n_steps, -(-len(own) // size)))
            orders.append(progress.rng.permutation(own) if shuffle else own)
            keys.append(progress.key(network._plan))
        started = time.perf_counter()
        results = engine.epoch_of_all(
            [each._plan for each in networks], samples, orders, size, rates, keys, n_threads
        )
        seconds = (time.perf_counter() - started) / len(networks)
        for number, (network, (loss, _)) in enumerate(zip(networks, results, strict=True)):
            if not (math.isfinite(loss) and training.is_finite(network._plan)):
                for each, before in zip(networks, last_good, strict=True):
                    training.go_back(each._plan, before)
                raise FloatingPointError(
                    f"epoch {epoch}: the loss of network {number} is {loss}, all networks are "
                    f"back to what they were before this epoch; {training.DIVERGENCE_HINT}"
                )
        for network, history, used, (loss, _) in zip(
            networks, histories, rates, results, strict=True
        ):
            history.loss.append(loss)
            history.learning_rate.append(float(np.atleast_1d(used)[-1]))
            history.seconds.append(seconds)
            watch(network._require_steps().learning_rate, network._progress.plateau, loss)

    def _subsets(
        self, subsets: Sequence[ArrayLike] | None, n: int
    ) -> list[NDArray[np.intp]]:
        """Which samples each network is trained on."""
        everything = np.arange(n)
        if subsets is None:
            return [everything] * len(self)
        given = list(subsets)
        if len(given) != len(self):
            raise ValueError(f"subsets must hold one for each of {len(self)} networks, "
                             f"got {len(given)}")
        result = []
        for subset in given:
            try:
                rows = everything[np.asarray(subset)]
            except IndexError as error:
                raise ValueError(
                    f"a subset must hold numbers of samples, or a mask: {error}"
                ) from None
            if rows.ndim != 1 or len(rows) == 0:
                raise ValueError(f"a subset must be a row of some numbers, got shape {rows.shape}")
            result.append(rows)
        return result
