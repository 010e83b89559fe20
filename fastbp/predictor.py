"""What a network is and computes, apart from how it learns; and snapshots, which do not learn."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbp import _checks, native
from fastbp._dispatch import engine
from fastbp._records import Record, Weighted, flatten
from fastbp._sparse import Features, SparseRows
from fastbp.layers import Layer

__all__ = ["Predictor", "Snapshot"]


class Predictor:
    """Layers with their parameters, and all that they compute without a loss."""

    _n_inputs: int
    _layers: tuple[Layer, ...]
    _records: list[Record]
    _dtype: np.dtype[Any]
    _seed: int | None
    _plan: engine.Plan
    _parameters: NDArray[Any]

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
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the parameters and of all arithmetic."""
        return self._dtype

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

    @property
    def _weighted(self) -> list[Record]:
        """The records of layers with parameters."""
        return [record for record in self._records if isinstance(record.layer, Weighted)]

    # --- what it computes -------------------------------------------------------------------

    @engine.tried_first
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
            number = range(len(self._layers))[operator.index(layer)]
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
        result = self._plan.jacobian(X)
        if result is None:  # what wants a closer look, or a copy
            self._require_statistics()
            rows, single = self._dense_features(X)
            rows = self._apart(rows)
            result = self._plan.jacobian(rows[0] if single else rows)
            assert result is not None
        return result

    # --- for who calls it often, or without Python ------------------------------------------

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
            Each call reads X, writes `out` and returns it. It allocates nothing, takes no lock, but
            lets go of the GIL where the work is large, and checks nothing but that the network
            still is what it was: what is not finite in X goes through the network as it is. It
            keeps the arrays alive, and follows the network as that learns. One bound call serves
            one thread at a time.

        Raises
        ------
        TypeError, ValueError
            If an array is of another dtype, shape or layout, or they overlap.
        RuntimeError
            If a Normalize layer has no statistics yet. By a call: if the network was made anew, by
            its ``__init__``, after `bind`.
        """
        self._require_statistics()
        X = _checks.ready_rows("X", X, self._n_inputs, self._dtype)
        shape = X.shape
        _checks.output(
            out, (*shape[:-1], self.n_outputs), self._dtype, [X, self._parameters],
            contiguous=True,
        )
        return engine.BoundPrediction(self._plan, X, out)

    @property
    def address(self) -> int:
        """Where compiled code finds the network: a ``fastbp_network *``, as in ``fastbp.h``.

        Valid for as long as the network lives and is not made anew, by its ``__init__``.
        `fastbp.get_include` tells where the header is. What is random in steps made through it,
        dropout and noise, depends on the seed as well, but not on the steps made from Python.
        """
        return self._plan.address(self._native_key)

    @property
    def ctypes(self) -> native.NativeNetwork:
        """The address, and its functions for ctypes."""
        return native.interface(self.address)

    def low_level_callable(
        self, signature: str = "int (double *, intptr_t, double *, void *)"
    ) -> Any:
        """Make a `scipy.LowLevelCallable` that predicts one row of doubles, without Python.

        Parameters
        ----------
        signature : str
            "int (double *, intptr_t, double *, void *)": inputs, how many they are, output; as for
            `scipy.ndimage.generic_filter`. "double (int, double *, void *)" returns the output;
            as for `scipy.integrate.quad`.

        Returns
        -------
        scipy.LowLevelCallable
            It keeps the network's parameters alive, and follows them as they learn.

        Raises
        ------
        TypeError, ValueError
            If the signature is another one, or the network has several outputs.
        """
        return native.low_level_callable(
            self._plan, self.n_outputs, signature, self._native_key
        )

    @property
    def _native_key(self) -> int:
        """What is random for callers without Python: it takes nothing from other random numbers."""
        return int(np.random.default_rng(self._seed).integers(2**63))

    # --- the way in -------------------------------------------------------------------------

    def _require_statistics(self) -> None:
        if self._plan.waits:
            raise RuntimeError("the Normalize layer has no statistics yet: call fit or adapt first")

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

    def _dense_features(self, X: Features) -> tuple[NDArray[Any], bool]:
        rows, single = self._features(X)
        if isinstance(rows, SparseRows):
            raise TypeError("X must not be sparse here: call .toarray() on it first")
        return rows, single


class Snapshot(Predictor):
    """A network as it was: it predicts, from any number of threads, while the network learns on.

    `Network.snapshot` makes one.
    """

    def __init__(self, network: Predictor) -> None:
        for name in ("_n_inputs", "_layers", "_records", "_dtype", "_seed"):
            setattr(self, name, getattr(network, name))
        self._plan = network._plan.snapshot()
        self._parameters = self._plan.parameters
        for vector in (self._plan.parameters, self._plan.statistics):
            vector.flags.writeable = False

    def __repr__(self) -> str:
        """Tell what it is."""
        return f"Snapshot({self._n_inputs}, {list(self._layers)}, dtype={self._dtype.name!r})"
