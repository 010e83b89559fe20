"""Dense feed-forward networks trained by backpropagation on a CPU, close to its limit."""

from fastbp import activations, datasets, schedules
from fastbp.config import show_config
from fastbp.ensemble import Ensemble
from fastbp.errors import ModelFileError
from fastbp.interop import from_keras, from_onnx, from_sklearn, from_torch
from fastbp.layers import BatchNorm, Dense, Dropout, LayerNorm, Normalize, Residual
from fastbp.native import get_include
from fastbp.network import Network
from fastbp.optimizers import (
    LBFGS,
    SGD,
    AdaDelta,
    AdaGrad,
    Adam,
    Adamax,
    AdamW,
    Lion,
    Nadam,
    RMSProp,
)
from fastbp.training import History

__all__ = [
    "LBFGS", "SGD", "AdaDelta", "AdaGrad", "Adam", "AdamW", "Adamax", "BatchNorm", "Dense",
    "Dropout", "Ensemble", "History", "LayerNorm", "Lion", "ModelFileError", "Nadam", "Network",
    "Normalize", "RMSProp", "Residual", "__version__", "activations", "datasets", "from_keras",
    "from_onnx", "from_sklearn", "from_torch", "get_include", "schedules", "show_config",
]

__version__ = "0.1.0"
