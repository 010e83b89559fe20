"""The way in from other libraries. What reads a model is loaded when it is called.

The way out is `Network.to_onnx` and `Network.to_torch`. What carries over, and what differs, is in
docs/interop.md.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastbp import Network
    from fastbp.losses import Loss
    from fastbp.optimizers import AnyOptimizer

__all__ = ["from_keras", "from_onnx", "from_sklearn", "from_torch"]


def from_onnx(
    model: str | os.PathLike[str] | Any,
    *,
    loss: str | Loss | Callable[..., Any] | None = None,
    optimizer: str | AnyOptimizer = "sgd",
    seed: int | None = None,
) -> Network:
    """Make a network of an ONNX model: one input, one output, dense layers in between.

    It reads Gemm, and MatMul followed by Add, as Dense; BatchNormalization and LayerNormalization;
    the activations, as nodes of their own and as what exporters write in their place; an Add of two
    layers' outputs as Residual; Sub and Div of the input as Normalize. Identity, Dropout and
    Flatten are passed over.

    Parameters
    ----------
    model : path or onnx.ModelProto
    loss : str, loss or callable, optional
        As for `Network`. Without one, it goes by the last activation: "cross_entropy" behind
        softmax and log_softmax, "binary_cross_entropy" behind sigmoid, "poisson" behind
        exponential, and "squared_error" behind all others.
    optimizer : str or optimizer
        As for `Network`.
    seed : int, optional
        As for `Network`.

    Returns
    -------
    Network
        Of the dtype of the graph's input.

    Raises
    ------
    ValueError
        If it is no such model, naming the node; or if a weight is not finite, or lies in another
        file.
    OSError
        If the file cannot be read.
    ImportError
        If onnx is not installed.

    See Also
    --------
    Network.to_onnx : the way back.
    """
    from fastbp.interop.onnx_reader import read

    return read(model, loss=loss, optimizer=optimizer, seed=seed)


def from_torch(
    module: Any,
    *,
    loss: str | Loss | Callable[..., Any] | None = None,
    optimizer: str | AnyOptimizer = "sgd",
    seed: int | None = None,
) -> Network:
    """Make a network of a PyTorch Sequential, on whatever device it is.

    Parameters
    ----------
    module : torch.nn.Sequential
        Of Linear, BatchNorm1d, LayerNorm, Dropout, activations, Identity, Flatten and other
        Sequentials; and of what `Network.to_torch` returns. An activation joins the layer before
        it. The last layer with weights is a Linear.
    loss, optimizer, seed
        As for `from_onnx`. PyTorch's CrossEntropyLoss has the softmax in it: append a
        ``Softmax(1)`` for probabilities and a loss that fits.

    Returns
    -------
    Network
        Of the dtype of the module's parameters, with its running statistics.

    Raises
    ------
    TypeError, ValueError
        If it is no such module, naming what cannot be carried over; or if a weight is not finite.
    ImportError
        If torch is not installed.

    See Also
    --------
    Network.to_torch : the way back.
    """
    from fastbp.interop.torch_modules import read

    return read(module, loss=loss, optimizer=optimizer, seed=seed)


def from_sklearn(
    estimator: Any,
    *,
    batch_size: int | None = None,
    optimizer: str | AnyOptimizer | None = None,
    seed: int | None = None,
) -> Network:
    """Make a network of a fitted MLP of scikit-learn.

    Parameters
    ----------
    estimator : sklearn.neural_network.MLPClassifier or MLPRegressor
        Or a Pipeline of a StandardScaler, which becomes a Normalize layer, and one of them.
    batch_size : int, optional
        For how many samples in a step the penalty is meant: scikit-learn divides `alpha` by them,
        so that ``l2 = alpha / batch_size``. Without it, what the estimator took in a step. One of
        solver "lbfgs" has not kept how many it took: its l2 is 0 then.
    optimizer : str or optimizer, optional
        As for `Network`; without one, the estimator's solver with its settings, at its start.
    seed : int, optional
        As for `Network`.

    Returns
    -------
    Network
        Of the dtype of the estimator's weights. It predicts what `predict_proba` does, of two
        classes the second one's probability alone; or what a regressor's `predict` does. Which
        class is which, the estimator's `classes_` says.

    Raises
    ------
    TypeError, ValueError
        If it is no such estimator, is not fitted, or has a learning rate of "invscaling" or
        "adaptive" and no `optimizer` is given: these count in samples and in epochs.
    ImportError
        If scikit-learn is not installed.
    """
    from fastbp.interop.sklearn_mlp import read

    return read(estimator, batch_size=batch_size, optimizer=optimizer, seed=seed)


def from_keras(
    model: Any,
    *,
    loss: str | Loss | Callable[..., Any] | None = None,
    optimizer: str | AnyOptimizer = "sgd",
    seed: int | None = None,
) -> Network:
    """Make a network of a Keras Sequential, of Keras 3 on any backend.

    Parameters
    ----------
    model : keras.Sequential
        Of Dense, BatchNormalization, LayerNormalization, Dropout, activations, Identity, Flatten
        and other Sequentials. An activation joins the layer before it. L1 and L2 penalties on
        kernels become a layer's `l1` and `l2`, MaxNorm its `max_norm`.
    loss, optimizer, seed
        As for `from_onnx`.

    Returns
    -------
    Network
        Of the dtype of the model's weights, with its running statistics.

    Raises
    ------
    TypeError, ValueError
        If it is no such model, is not built, or has something that cannot be carried over, which
        is named; or if a weight is not finite.
    ImportError
        If keras is not installed.
    """
    from fastbp.interop.keras_layers import read

    return read(model, loss=loss, optimizer=optimizer, seed=seed)
