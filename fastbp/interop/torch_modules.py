"""Networks and PyTorch's modules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastbp import BatchNorm, Dense, Dropout, LayerNorm, Network, Normalize, Residual
from fastbp.activations import ELU, Activation, LeakyReLU, Softplus
from fastbp.interop.parts import (
    Part,
    activated,
    assembled,
    naming,
    parts_of,
    required,
    residual,
    spelled_out,
)

__all__ = ["read", "write"]

# The modules of activations without a parameter.
PLAIN: dict[str, str] = {
    "sigmoid": "Sigmoid", "hard_sigmoid": "Hardsigmoid", "tanh": "Tanh", "relu": "ReLU",
    "relu6": "ReLU6", "selu": "SELU", "softsign": "Softsign", "silu": "SiLU", "mish": "Mish",
}
# Where beta x is greater, PyTorch's softplus is x itself: from here on it is, to the last bit.
THRESHOLD = 40.0
LEAST_THRESHOLD = 15.0  # below this, the difference shows in float32


# --- the way out ----------------------------------------------------------------------------

def write(net: Network) -> Any:
    """Return the torch.nn.Sequential of a network, with copies of its parameters."""
    torch = required("torch")
    from fastbp.interop import torch_layers

    nn = torch.nn
    code = torch.float64 if net.dtype == np.float64 else torch.float32

    def copied(array: NDArray[Any]) -> Any:
        return torch.tensor(np.array(array), dtype=code)

    def made(part: Part) -> Iterator[Any]:
        layer = part.layer
        if isinstance(layer, Dropout):
            yield nn.Dropout(layer.rate)
            return
        if isinstance(layer, Residual):
            yield torch_layers.Residual(*every(part.inside))
            return
        if isinstance(layer, Normalize):
            yield torch_layers.Standardize(*map(copied, part.statistics or ()))
            return
        assert part.weight is not None
        assert part.bias is not None
        if isinstance(layer, Dense):
            n_in, n_out = part.weight.shape
            # which draws no random numbers, unlike Linear itself
            module = nn.utils.skip_init(nn.Linear, n_in, n_out, dtype=code)
        elif isinstance(layer, LayerNorm):
            module = nn.LayerNorm(part.weight.shape, eps=layer.epsilon, dtype=code)
        else:
            kind = nn.BatchNorm1d if layer.trainable else torch_layers.FrozenBatchNorm1d
            module = kind(len(part.weight), eps=layer.epsilon, momentum=layer.momentum, dtype=code)
            assert part.statistics is not None
            module.running_mean.copy_(copied(part.statistics[0]))
            module.running_var.copy_(copied(part.statistics[1]))
        with torch.no_grad():
            module.weight.copy_(copied(part.weight.T))
            module.bias.copy_(copied(part.bias))
        yield module.requires_grad_(layer.trainable)
        if layer.activation != "identity":
            yield _module(nn, torch_layers, layer.activation)

    def every(parts: Any) -> list[Any]:
        return [module for part in parts for module in made(part)]

    return nn.Sequential(*every(parts_of(net))).eval()


def _module(nn: Any, torch_layers: Any, activation: str | Activation) -> Any:
    """The module of an activation."""
    activation = spelled_out(activation)
    if isinstance(activation, LeakyReLU):
        return nn.LeakyReLU(activation.alpha)
    if isinstance(activation, ELU):
        return nn.ELU(activation.alpha)
    if isinstance(activation, Softplus):
        return nn.Softplus(activation.beta, THRESHOLD)
    if activation in PLAIN:
        return getattr(nn, PLAIN[activation])()
    return {
        "exponential": torch_layers.Exponential,
        "gelu": nn.GELU,
        "gelu_tanh": lambda: nn.GELU(approximate="tanh"),
        "softmax": lambda: nn.Softmax(dim=-1),
        "log_softmax": lambda: nn.LogSoftmax(dim=-1),
    }[activation]()


# --- the way in -----------------------------------------------------------------------------

def read(module: Any, *, loss: Any, optimizer: Any, seed: int | None) -> Network:
    """Return a network of a torch.nn.Sequential."""
    torch = required("torch")
    if not isinstance(module, torch.nn.Sequential):
        raise TypeError(f"module must be a torch.nn.Sequential, got {type(module).__name__}")
    parts = _Reader(torch, module).parts(module, "module ")
    return assembled(parts, loss=loss, optimizer=optimizer, seed=seed)


class _Reader:
    """Goes through modules in their order, and remembers whose parameters it has seen."""

    def __init__(self, torch: Any, module: Any) -> None:
        from fastbp.interop import torch_layers

        self.layers = torch_layers
        self.nn = torch.nn
        self.seen: set[int] = set()
        # for a norm without parameters, which has no dtype of its own
        self.ones = torch.ones(1, dtype=next((each.dtype for each in module.parameters()), None))

    def leaves(self, modules: Any, above: str) -> Iterator[tuple[str, Any]]:
        """All modules and where they are, none in a Sequential."""
        for number, module in enumerate(modules):
            if type(module) is self.nn.Sequential:
                yield from self.leaves(module, f"{above}{number}.")
            else:
                yield f"{above}{number}", module

    def parts(self, modules: Any, above: str) -> list[Part]:
        parts: list[Part] = []
        for place, module in self.leaves(modules, above):
            name = f"{place}, {type(module).__name__}"
            if isinstance(module, (self.nn.Identity, self.nn.Flatten)):
                if getattr(module, "start_dim", 1) != 1:
                    raise ValueError(f"{name}: start_dim must be 1, got {module.start_dim}")
                continue
            with naming(name):
                activation = self.activation(module)
                if activation is not None:
                    parts[-1:] = [activated(parts[-1] if parts else None, activation, name)]
                elif type(module) is self.layers.Residual:
                    parts.append(residual(self.parts(module, f"{place}."), name))
                else:
                    parts.append(self.layer(module, name))
        return parts

    def layer(self, module: Any, name: str) -> Part:
        kind, nn = type(module), self.nn
        if kind is nn.Dropout:
            return Part(Dropout(module.p), name)
        if kind is self.layers.Standardize:
            mean, deviation = _array(module.mean), _array(module.deviation)
            return Part(Normalize(), name, statistics=(mean, deviation))
        if kind is nn.Linear:
            dense = Dense(module.out_features, trainable=self.trainable(module))
            return Part(dense, name, _array(module.weight).T, _array(module.bias))
        if kind is nn.LayerNorm:
            if len(module.normalized_shape) != 1:
                raise ValueError(f"one dimension is normalised, got {module.normalized_shape}")
            # without gain and shift, there is nothing to train
            trains = module.elementwise_affine and self.trainable(module)
            width = module.normalized_shape[0]
            return self.norm(LayerNorm(epsilon=module.eps, trainable=trains), module, name, width)
        if kind in (nn.BatchNorm1d, self.layers.FrozenBatchNorm1d):
            if module.running_mean is None or module.running_var is None:
                raise ValueError("it has no running statistics")
            if module.momentum is None:
                raise ValueError("momentum=None, the mean of all batches, cannot be carried over")
            layer = BatchNorm(
                momentum=module.momentum, epsilon=module.eps, trainable=self.trainable(module)
            )
            return self.norm(layer, module, name, module.num_features)
        raise ValueError("fastbp has nothing that computes this")

    def norm(self, layer: BatchNorm | LayerNorm, module: Any, name: str, width: int) -> Part:
        statistics = None
        if isinstance(layer, BatchNorm):
            statistics = (_array(module.running_mean), _array(module.running_var))
        gain = _array(self.ones.expand(width) if module.weight is None else module.weight)
        return Part(layer, name, gain, _array(module.bias), statistics)

    def trainable(self, module: Any) -> bool:
        """Whether all parameters of a module are trained; they are no other module's."""
        parameters = list(module.parameters(recurse=False))
        if any(id(each) in self.seen for each in parameters):
            raise ValueError("it shares its parameters with another one, and layers here do not")
        self.seen |= {id(each) for each in parameters}
        trained = {bool(each.requires_grad) for each in parameters} or {True}
        if len(trained) > 1:
            raise ValueError("some of its parameters are trained and some are not")
        return trained.pop()

    def activation(self, module: Any) -> str | Activation | None:
        """The activation that a module is, or None."""
        kind, nn = type(module), self.nn
        for name, plain in PLAIN.items():
            if kind is getattr(nn, plain):
                return name
        if kind is self.layers.Exponential:
            return "exponential"
        if kind is nn.GELU:
            return "gelu" if module.approximate == "none" else "gelu_tanh"
        if kind in (nn.Softmax, nn.LogSoftmax):
            if module.dim not in (1, -1, None):
                raise ValueError(f"dim must be 1 or -1, got {module.dim}")
            return "softmax" if kind is nn.Softmax else "log_softmax"
        if kind is nn.Softplus:
            if module.threshold < LEAST_THRESHOLD:
                raise ValueError(
                    f"threshold must be {LEAST_THRESHOLD:g} or more, got {module.threshold}"
                )
            return Softplus(module.beta)
        if kind is nn.LeakyReLU:
            return LeakyReLU(module.negative_slope)
        if kind is nn.ELU:
            return ELU(module.alpha)
        return None


def _array(tensor: Any) -> NDArray[Any] | Any:
    """A tensor on any device as an array; None stays None."""
    if tensor is None:
        return None
    if tensor.is_meta:
        raise ValueError("its parameters are on the meta device, and have no values")
    return tensor.detach().cpu().numpy()
