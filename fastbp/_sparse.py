"""Rows of a sparse matrix, as the engine takes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NoReturn, Protocol, TypeGuard

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastbp._data import Frozen
from fastbp._dispatch import engine

__all__ = ["Features", "SparseMatrix", "SparseRows", "is_sparse", "sparse_rows"]


class SparseMatrix(Protocol):
    """A sparse array or matrix of SciPy's, or alike."""

    def tocsr(self) -> Any:
        """Return it in compressed rows."""


class SparseRows(Frozen):
    """What is not zero, row by row: a CSR matrix whose rows have their columns in ascending order.

    Attributes
    ----------
    values : ndarray of shape (n_nonzero,)
    columns : ndarray of int32, shape (n_nonzero,)
    starts : ndarray of intp, shape (n + 1,)
        Row i has the values from ``starts[i]`` up to ``starts[i + 1]``.
    """

    values: NDArray[Any]
    columns: NDArray[np.int32]
    starts: NDArray[np.intp]

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.starts) - 1

    def __getitem__(self, rows: NDArray[Any]) -> SparseRows:
        """Take some rows, by a mask or by their numbers."""
        rows = np.arange(len(self))[rows]
        counts = np.diff(self.starts)[rows]
        starts = np.concatenate([[0], np.cumsum(counts)])
        # the place of each value: where its row starts, and how far it is from there
        places = np.repeat(self.starts[rows] - starts[:-1], counts) + np.arange(starts[-1])
        return SparseRows(self.values[places], self.columns[places], starts)

    def with_values(self, values: NDArray[Any]) -> SparseRows:
        """Put other values in place of these."""
        return replace(self, values=values)


# What may be a network's input.
Features = ArrayLike | SparseMatrix | SparseRows


def is_sparse(X: object) -> TypeGuard[SparseMatrix]:
    """Tell whether it is a sparse matrix, without an import of SciPy."""
    return hasattr(X, "tocsr")


def sparse_rows(name: str, X: Any, n_columns: int) -> SparseRows:
    """Return the rows of a sparse matrix of `n_columns`, which may be broken.

    Places are copies: the engine goes by them, and nobody may change them under it.

    Raises
    ------
    ValueError
        If a place lies outside the matrix.
    """
    matrix = X.tocsr()
    values = np.asarray(matrix.data)
    places = np.asarray(matrix.indices)
    starts = np.array(matrix.indptr, np.intp)
    if starts.shape != (X.shape[0] + 1,) or not 0 <= starts[-1] <= min(len(values), len(places)):
        _refuse_starts(name)
    values, places = values[: starts[-1]], places[: starts[-1]]
    exact = np.int32 if places.dtype == np.int32 else np.int64
    columns, stop, ascending = engine.copy_columns(
        starts, np.require(places, exact, ["C_CONTIGUOUS", "ALIGNED"]), n_columns
    )
    if stop < 0:
        _refuse_starts(name)
    if stop < len(places):
        raise ValueError(
            f"{name} must have column indices from 0 to {n_columns - 1}, "
            f"got {places[stop]} at index {stop}"
        )
    if not ascending:
        fresh = type(matrix)((values.copy(), columns, starts), shape=X.shape)
        fresh.sum_duplicates()  # which sorts, too
        values, columns = fresh.data, fresh.indices.astype(np.int32)
        starts = fresh.indptr.astype(np.intp)
    return SparseRows(values, columns, starts)


def _refuse_starts(name: str) -> NoReturn:
    raise ValueError(f"{name} is a broken sparse matrix: its indptr does not fit its data")
