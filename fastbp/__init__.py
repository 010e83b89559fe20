"""Dense feed-forward networks trained by backpropagation on a CPU, close to its limit."""

from fastbp import activations, datasets, schedules
from fastbp.config import show_config
from fastbp.layers import Dense, Dropout
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
    "LBFGS", "SGD", "AdaDelta", "AdaGrad", "Adam", "AdamW", "Adamax", "Dense", "Dropout", "History",
    "Lion", "Nadam", "Network", "RMSProp", "__version__", "activations", "datasets", "schedules",
    "show_config",
]

__version__ = "0.1.0"
