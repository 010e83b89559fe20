"""Networks as models of River, the library for online machine learning.

Wants the package river: ``pip install "fastbp[river]"``.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbp import AdaGrad, Dense, Dropout, Network

try:
    from river import base
except ImportError as error:
    raise ImportError('fastbp.river wants river: pip install "fastbp[river]"') from error

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NetworkClassifier", "NetworkRegressor"]

# In which column of a network's inputs each feature is.
Columns = dict[Hashable, int]


class GrowingNetwork:
    """What both models have in common: a network that grows with the features that appear.

    What a step needs is made on the side, and becomes the model's own when the step is made: so an
    error leaves the model as it was.
    """

    hidden: Sequence[Any] | None
    activation: str
    loss: Any
    optimizer: Any
    dtype: str
    seed: int | None

    def _begin(self) -> None:
        """Start without a network: it is made for the first row."""
        if self.hidden is not None and not isinstance(self.hidden, (tuple, list)):
            raise TypeError(f"hidden must be a sequence of widths and layers, got {self.hidden!r}")
        for first in self.hidden or ():
            if not isinstance(first, (int, np.integer, Dense, Dropout)):
                raise ValueError(
                    f"hidden must begin with a width, a Dense or a Dropout, whose inputs may "
                    f"become more; got {first!r}"
                )
            if not isinstance(first, Dropout):
                break
        self._network: Network | None = None
        self._columns: Columns = {}
        self._made(1, 1)  # whose errors belong here, not to the first row

    def _output(self, units: int) -> Dense:
        raise NotImplementedError

    def _made(self, n_inputs: int, n_outputs: int) -> Network:
        """A new network."""
        layers: list[Any] = [
            each if dataclasses.is_dataclass(each) else Dense(each, self.activation)
            for each in self.hidden or ()
        ]
        return Network(
            n_inputs, [*layers, self._output(n_outputs)], loss=self.loss,
            optimizer=AdaGrad(0.1) if self.optimizer is None else self.optimizer,
            dtype=self.dtype, seed=self.seed,
        )

    # --- growing ----------------------------------------------------------------------------

    def _ready(self, features: Iterable[Hashable], n_outputs: int) -> tuple[Network, Columns]:
        """A network with room for these features and as many outputs, and its columns."""
        network, columns = self._network, self._columns
        fresh = [each for each in features if each not in columns]
        if network is not None and not fresh and network.n_outputs == n_outputs:
            return network, columns
        # in an order that is not the dictionary's, which may change
        fresh.sort(key=lambda each: (type(each).__name__, str(each)))
        columns = {each: at for at, each in enumerate([*columns, *fresh])}
        if network is None:
            return self._made(max(1, len(columns)), n_outputs), columns
        n_inputs = network.n_inputs
        if len(columns) > n_inputs:  # some to spare cost little, and make growing rare
            n_inputs = max(len(columns), n_inputs * 3 // 2)
        if (n_inputs, n_outputs) != (network.n_inputs, network.n_outputs):
            network = _carried_over(network, self._made(n_inputs, n_outputs))
        return network, columns

    # --- rows -------------------------------------------------------------------------------

    def _row(self, x: Mapping[Any, Any], network: Network, columns: Columns) -> NDArray[Any]:
        """One row: 0 for a feature that is missing, and nothing of one that is not known."""
        code = "f" if network.dtype == np.float32 else "d"
        try:
            row = array(code, [x.get(each, 0.0) for each in columns])
        except TypeError:
            wrong = {each: x[each] for each in columns if not _is_number(x.get(each, 0.0))}
            raise TypeError(f"features of x must be numbers, got {wrong}") from None
        row.extend([0.0] * (network.n_inputs - len(row)))
        return np.frombuffer(row, network.dtype)

    def _rows(self, X: pd.DataFrame, network: Network, columns: Columns) -> NDArray[Any]:
        """The same for the rows of a frame."""
        known = [each for each in X.columns if each in columns]
        rows = np.zeros((len(X), network.n_inputs), network.dtype)
        rows[:, [columns[each] for each in known]] = X[known].to_numpy(network.dtype)
        return rows

    # --- pickles and copies -----------------------------------------------------------------

    def __getstate__(self) -> dict[str, Any]:
        """Return what a pickle or a copy holds, of the network its sizes and its state."""
        state = self.__dict__.copy()
        if (network := self._network) is not None:
            state["_network"] = network.n_inputs, network.n_outputs, network.state()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Become the model that `__getstate__` has told of."""
        self.__dict__.update(state)
        if state["_network"] is not None:
            n_inputs, n_outputs, learnt = state["_network"]
            self._network = self._made(n_inputs, n_outputs)
            self._network.restore(learnt)


def _is_number(value: Any) -> bool:
    try:
        array("d", [value])
    except TypeError:
        return False
    return True


def _parts(network: Network, vector: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Views of W0, b0, W1, b1, ... in a vector in the order of the parameters."""
    start = 0
    for pair in zip(network.weights, network.biases, strict=True):
        for part in pair:
            yield vector[start : start + part.size].reshape(part.shape)
            start += part.size


def _carried_over(old: Network, new: Network) -> Network:
    """Make the new network, of more inputs or outputs, go on where the old one is.

    Weights that the old one has not are zero, and new to the optimizer.
    """
    new.parameters[:] = 0
    vectors = zip(
        (old.parameters, *old.optimizer_vectors.values()),
        (new.parameters, *new.optimizer_vectors.values()), strict=True,
    )
    for source, target in vectors:
        for known, grown in zip(_parts(old, source), _parts(new, target), strict=True):
            grown[tuple(slice(size) for size in known.shape)] = known
    learnt, state = old.state(), new.state()
    state["statistics"] = learnt["statistics"]
    state["json"] = learnt["json"] | {"network": state["json"]["network"]}
    new.restore(state)
    return new


class NetworkRegressor(GrowingNetwork, base.MiniBatchRegressor):
    """A network as a regressor of River.

    It is made by the first row that it learns from. A feature that appears later becomes an input
    whose weights are zero; one that is missing counts as 0. Scale features first, and targets too,
    as in the example.

    Parameters
    ----------
    hidden : sequence of int and layers, optional
        The hidden layers: widths, or layers of fastbp, of which the first is a Dense, after a
        Dropout if wanted. None makes a linear model.
    activation : str
        Of the hidden layers given by their widths.
    output : str
        The activation of the output: "exponential" for targets that are not negative, say.
    loss : str or loss
        As for `Network`.
    optimizer : str or optimizer, optional
        As for `Network`; AdaGrad(0.1) if None.
    dtype : {"float32", "float64"}
        As for `Network`; float64 is what River computes in.
    seed : int, optional
        As for `Network`.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not as above.

    Examples
    --------
    >>> from river import datasets, evaluate, metrics, preprocessing
    >>> from fastbp.river import NetworkRegressor
    >>> model = preprocessing.StandardScaler() | preprocessing.TargetStandardScaler(
    ...     NetworkRegressor(hidden=(16,), seed=0))
    >>> error = evaluate.progressive_val_score(datasets.TrumpApproval(), model, metrics.MAE())
    >>> error.get() < 1
    True
    """

    def __init__(
        self,
        hidden: Sequence[Any] | None = (32,),
        activation: str = "relu",
        output: str = "identity",
        loss: Any = "squared_error",
        optimizer: Any = None,
        dtype: str = "float64",
        seed: int | None = None,
    ) -> None:
        self.hidden = hidden or None  # River cannot clone an empty tuple
        self.activation = activation
        self.output = output
        self.loss = loss
        self.optimizer = optimizer
        self.dtype = dtype
        self.seed = seed
        self._begin()

    def _output(self, units: int) -> Dense:
        return Dense(units, self.output)

    def _unit_test_skips(self) -> set[str]:
        """Return the checks of River's that are not meant for models with one step per batch."""
        return {"check_learn_many_matches_learn_one"}

    def learn_one(self, x: Mapping[Any, Any], y: float) -> None:
        """Make one step of the optimizer.

        Parameters
        ----------
        x : mapping of features to numbers
        y : float

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            If an argument is no finite number, or the loss is none; nothing has changed then.
        """
        network, columns = self._ready(x, 1)
        network.learn_one(self._row(x, network, columns), y)
        self._network, self._columns = network, columns

    def predict_one(self, x: Mapping[Any, Any]) -> float:
        """Predict the target of one row: 0 before anything was learnt.

        Parameters
        ----------
        x : mapping of features to numbers

        Returns
        -------
        float
        """
        network = self._network
        if network is None:
            return 0.0
        return float(network.predict_one(self._row(x, network, self._columns))[0])

    def learn_many(self, X: pd.DataFrame, y: pd.Series) -> None:
        """Make one step of the optimizer on a mini-batch.

        Parameters
        ----------
        X : pandas.DataFrame
            A column for each feature.
        y : pandas.Series
        """
        if len(X) == 0:
            return
        network, columns = self._ready(X.columns, 1)
        network.train_step(self._rows(X, network, columns), np.asarray(y))
        self._network, self._columns = network, columns

    def predict_many(self, X: pd.DataFrame) -> pd.Series:
        """Predict the targets of many rows.

        Parameters
        ----------
        X : pandas.DataFrame

        Returns
        -------
        pandas.Series
        """
        import pandas as pd

        result = np.zeros(len(X))
        if self._network is not None and len(X):
            result[:] = self._network.predict(self._rows(X, self._network, self._columns))[:, 0]
        return pd.Series(result, index=X.index)


class NetworkClassifier(GrowingNetwork, base.MiniBatchClassifier):
    """A network as a classifier of River, for two classes or more.

    It is made by the first row that it learns from. A feature that appears later becomes an input
    whose weights are zero; one that is missing counts as 0. A class that appears later becomes an
    output whose weights are zero. Scale features first, as in the example.

    Parameters
    ----------
    hidden : sequence of int and layers, optional
        The hidden layers: widths, or layers of fastbp, of which the first is a Dense, after a
        Dropout if wanted. None makes softmax regression.
    activation : str
        Of the hidden layers given by their widths.
    optimizer : str or optimizer, optional
        As for `Network`; AdaGrad(0.1) if None.
    dtype : {"float32", "float64"}
        As for `Network`; float64 is what River computes in.
    seed : int, optional
        As for `Network`.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not as above.

    Examples
    --------
    >>> from river import datasets, evaluate, metrics, preprocessing
    >>> from fastbp.river import NetworkClassifier
    >>> model = preprocessing.StandardScaler() | NetworkClassifier(hidden=(16,), seed=0)
    >>> accuracy = evaluate.progressive_val_score(datasets.Phishing(), model, metrics.Accuracy())
    >>> accuracy.get() > 0.85
    True
    """

    loss = "cross_entropy"

    def __init__(
        self,
        hidden: Sequence[Any] | None = (32,),
        activation: str = "relu",
        optimizer: Any = None,
        dtype: str = "float64",
        seed: int | None = None,
    ) -> None:
        self.hidden = hidden or None  # River cannot clone an empty tuple
        self.activation = activation
        self.optimizer = optimizer
        self.dtype = dtype
        self.seed = seed
        self._classes: dict[Hashable, int] = {}
        self._begin()

    @property
    def _multiclass(self) -> bool:
        return True

    def _output(self, units: int) -> Dense:
        return Dense(units, "softmax")

    def _unit_test_skips(self) -> set[str]:
        """Return the checks of River's that are not meant for models with one step per batch."""
        return {"check_learn_many_matches_learn_one"}

    def _with_classes(self, labels: Iterable[Hashable]) -> dict[Hashable, int]:
        """The number of each class, with these."""
        fresh = dict.fromkeys(each for each in labels if each not in self._classes)
        if not fresh:
            return self._classes
        return {each: at for at, each in enumerate([*self._classes, *fresh])}

    def learn_one(self, x: Mapping[Any, Any], y: Hashable) -> None:
        """Make one step of the optimizer.

        Parameters
        ----------
        x : mapping of features to numbers
        y : hashable
            The class.

        Raises
        ------
        TypeError, ValueError, FloatingPointError
            If a feature is no finite number, or the loss is none; nothing has changed then.
        """
        classes = self._with_classes((y,))
        network, columns = self._ready(x, len(classes))
        network.learn_one(self._row(x, network, columns), classes[y])
        self._network, self._columns, self._classes = network, columns, classes

    def predict_proba_one(self, x: Mapping[Any, Any]) -> dict[Hashable, float]:
        """Predict the probability of each class seen so far; there is none at first.

        Parameters
        ----------
        x : mapping of features to numbers

        Returns
        -------
        dict of class to float
        """
        network = self._network
        if network is None:
            return {}
        p = network.predict_one(self._row(x, network, self._columns)).astype(np.float64)
        return dict(zip(self._classes, (p / p.sum()).tolist(), strict=True))

    def learn_many(self, X: pd.DataFrame, y: pd.Series) -> None:
        """Make one step of the optimizer on a mini-batch.

        Parameters
        ----------
        X : pandas.DataFrame
            A column for each feature.
        y : pandas.Series
            The classes.
        """
        if len(X) == 0:
            return
        labels = list(y)
        classes = self._with_classes(labels)
        network, columns = self._ready(X.columns, len(classes))
        network.train_step(
            self._rows(X, network, columns), [classes[label] for label in labels]
        )
        self._network, self._columns, self._classes = network, columns, classes

    def predict_proba_many(self, X: pd.DataFrame) -> pd.DataFrame:
        """Predict the probability of each class seen so far, for many rows.

        Parameters
        ----------
        X : pandas.DataFrame

        Returns
        -------
        pandas.DataFrame
            A column for each class.
        """
        import pandas as pd

        if self._network is None or len(X) == 0:
            return pd.DataFrame(index=X.index, columns=list(self._classes), dtype=float)
        p = self._network.predict(self._rows(X, self._network, self._columns)).astype(np.float64)
        return pd.DataFrame(
            p / p.sum(axis=1, keepdims=True), index=X.index, columns=list(self._classes)
        )
