"""Dense feed-forward networks trained by backpropagation on a CPU, close to its limit."""

from fastbp import datasets
from fastbp.config import show_config
from fastbp.layers import Dense
from fastbp.network import Network
from fastbp.optimizers import SGD
from fastbp.training import History

__all__ = ["SGD", "Dense", "History", "Network", "__version__", "datasets", "show_config"]

__version__ = "0.1.0"
