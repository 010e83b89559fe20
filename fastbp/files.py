"""Networks in files of the safetensors format. Its layout and promises are in docs/files.md."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from reprlib import repr as quoted  # which is short, however large a thing is
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from fastbp import (
    LBFGS,
    BatchNorm,
    Dense,
    LayerNorm,
    ModelFileError,
    Network,
    Normalize,
    Residual,
    __version__,
)
from fastbp._json import from_json, read_json, to_json, write_json
from fastbp._writing import write_whole
from fastbp.losses import Loss
from fastbp.optimizers import SIGNED_VECTORS, Minimizer, Optimizer, vector_names

__all__ = ["load", "save"]

VERSION = 1
# The one name among the metadata: of several, safetensors leaves the order to chance, and two files
# of one network would differ.
KEY = "fastbp"
TYPES = {"float32": "F32", "float64": "F64"}
# Tensors that may hold negative numbers, by the last part of their names.
SIGNED = {"weight", "bias", "gain", "shift", "mean", *SIGNED_VECTORS}
# Of a header, in bytes: Python's objects may take some thirty times as much as their JSON.
LONGEST_HEADER = 2**22
# Of a message, which may quote what the file holds.
LONGEST_MESSAGE = 400


def save(network: Network, path: str | os.PathLike[str], *, optimizer: bool = True) -> None:
    """Write a network to a file: what `Network.save` does.

    Parameters
    ----------
    network : Network
    path : path-like
    optimizer : bool
        As for `Network.save`.

    Raises
    ------
    TypeError, ValueError, OSError, ImportError
        As for `Network.save`.
    """
    safetensors = _safetensors()
    if not isinstance(optimizer, (bool, np.bool_)):
        raise TypeError(f"optimizer must be True or False, got {optimizer!r}")
    try:
        text = write_json(_document(network, with_training=bool(optimizer)))
    except (TypeError, ValueError) as error:
        raise type(error)(
            f"this network cannot be saved: {error}. A file holds data, and no code: give the "
            "network something else, as in net.optimizer = Adam(1e-3), or pickle it"
        ) from None
    tensors = {
        name: tensor
        for name, tensor in _tensors(network).items()
        if optimizer or not name.startswith("optimizer.")
    }
    for name, tensor in tensors.items():
        _check_values(name, tensor)
    data = safetensors.numpy.save(tensors, {KEY: text})
    length = int.from_bytes(data[:8], "little")
    try:  # what has been written can be read
        _check_length(length)
        _contents(data[8 : 8 + length])
    except ModelFileError as error:
        raise ValueError(f"this network cannot be saved: {error}") from None
    write_whole(path, data)


def load(path: str | os.PathLike[str]) -> Network:
    """Make a network of a file: what `Network.load` does.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    Network

    Raises
    ------
    fastbp.ModelFileError, OSError, ImportError
        As for `Network.load`.
    """
    safetensors = _safetensors()
    name = os.fsdecode(path)
    with open(name, "rb") as file:
        try:
            return _read(file, safetensors)
        except ModelFileError as error:
            message = f"{name}: {error}"
            if len(message) > LONGEST_MESSAGE:
                message = message[:LONGEST_MESSAGE] + " ..."
            raise ModelFileError(message) from None


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise ImportError(
            'model files want the package safetensors: pip install "fastbp[files]"'
        ) from None
    return safetensors


# --- what is in a file --------------------------------------------------------------------------


def _layer_tensors(
    n_in: int, layers: Sequence[Any], above: str = "layers"
) -> Iterator[tuple[str, str, tuple[int, ...]]]:
    """Name each tensor of layers in a row, where a network has it, and its shape."""
    for number, layer in enumerate(layers):
        name = f"{above}.{number}"
        if isinstance(layer, Dense):
            yield f"{name}.weight", "weights", (n_in, layer.units)
            yield f"{name}.bias", "biases", (layer.units,)
            n_in = layer.units
        elif isinstance(layer, (BatchNorm, LayerNorm)):
            yield f"{name}.gain", "weights", (n_in,)
            yield f"{name}.shift", "biases", (n_in,)
        elif isinstance(layer, Residual):
            yield from _layer_tensors(n_in, layer.layers, f"{name}.layers")
        if isinstance(layer, (BatchNorm, Normalize)):
            spread = "variance" if isinstance(layer, BatchNorm) else "deviation"
            yield f"{name}.mean", "statistics", (n_in,)
            yield f"{name}.{spread}", "statistics", (n_in,)


def _tensors(network: Network) -> dict[str, NDArray[Any]]:
    """Live views of all that a file holds of a network, by name."""
    views = {
        "weights": iter(network.weights),
        "biases": iter(network.biases),
        "statistics": itertools.chain.from_iterable(network.statistics),
    }
    of_layers = _layer_tensors(network.n_inputs, network.layers)
    tensors = {name: next(views[where]) for name, where, _ in of_layers}
    for name, vector in network.optimizer_vectors.items():
        tensors[f"optimizer.{name}"] = vector
    return tensors


def _document(network: Network, *, with_training: bool) -> dict[str, Any]:
    """What a file's metadata hold, for JSON."""
    document: dict[str, Any] = {
        "version": VERSION,
        "fastbp": __version__,
        "network": {
            "n_inputs": network.n_inputs,
            "layers": to_json(network.layers, "layers"),
            "loss": to_json(network.loss, "loss"),
            "optimizer": to_json(network.optimizer, "optimizer"),
            "dtype": network.dtype.name,
            "seed": to_json(network.seed, "seed"),
            "feature_names": to_json(network.feature_names, "feature_names"),
        },
    }
    if with_training:
        progress = network.state()["json"]
        del progress["network"]
        document["training"] = to_json(progress, "training")
    return document


@dataclass(frozen=True)
class _Contents:
    """What a header tells: how to make the network, where its training was, what tensors follow."""

    settings: dict[str, Any]            # the arguments of Network
    training: dict[str, Any] | None     # what `Network.state` has for JSON, but for the network
    shapes: dict[str, tuple[int, ...]]

    @property
    def n_bytes(self) -> int:
        """How many bytes the tensors take; integers of Python do not overflow."""
        itemsize: int = np.dtype(self.settings["dtype"]).itemsize
        return itemsize * sum(map(math.prod, self.shapes.values()))


def _contents(text: bytes) -> _Contents:
    """Read and check a header.

    Raises
    ------
    ModelFileError
        If it is not what `save` writes. Nothing as large as a tensor has been made then.
    """
    header = _object("its header", text)
    metadata = header.pop("__metadata__", None)
    if not (isinstance(metadata, dict) and isinstance(metadata.get(KEY), str)):
        raise ModelFileError(f"it holds no network of fastbp: its metadata have no {KEY!r}")
    document = _object(f"its metadata {KEY!r}", metadata[KEY])
    _check_version(document)
    document.setdefault("training", None)
    _expect("its metadata", document, "version", "fastbp", "network", "training")
    try:
        settings, training = from_json(document["network"]), from_json(document["training"])
    except (TypeError, ValueError) as error:
        raise ModelFileError(str(error)) from None
    _check_settings(settings)
    if training is not None:
        _expect("its training", training, "steps", "momentum_product", "plateau", "random")
    contents = _Contents(settings, training, _shapes(settings, with_training=training is not None))
    _check_tensors(header, contents)
    return contents


def _object(what: str, text: bytes | str) -> dict[str, Any]:
    """Read a JSON object."""
    try:
        found = read_json(text)
    except ValueError as error:
        raise ModelFileError(f"{what} cannot be read as JSON: {error}") from None
    if not isinstance(found, dict):
        raise ModelFileError(f"{what} must be a JSON object, got {quoted(found)}")
    return found


def _expect(what: str, found: object, *names: str) -> None:
    """Raise an error unless it is an object of these names and no others."""
    if not isinstance(found, dict) or found.keys() != set(names):
        given = sorted(found) if isinstance(found, dict) else found
        raise ModelFileError(f"{what} must be an object of {list(names)}, got {quoted(given)}")


def _check_version(document: Mapping[str, Any]) -> None:
    version = document.get("version")
    if not (type(version) is int and version > 0):
        raise ModelFileError(f"the version of its format must be 1 or more, got {quoted(version)}")
    if version > VERSION:
        raise ModelFileError(
            f"it is of version {quoted(version)} of the format, written by fastbp "
            f"{quoted(document.get('fastbp'))}, and this is fastbp {__version__}, which reads "
            f"version {VERSION}: a newer fastbp is needed"
        )


def _check_settings(settings: object) -> None:
    """Check what the shapes of tensors depend on; `Network` checks the rest."""
    _expect("its network", settings, "n_inputs", "layers", "loss", "optimizer", "dtype", "seed",
            "feature_names")
    assert isinstance(settings, dict)
    kinds: dict[str, Any] = {
        "n_inputs": int, "layers": list, "loss": Loss, "optimizer": Optimizer | LBFGS | Minimizer,
        "dtype": str,
    }
    for name, kind in kinds.items():
        if not isinstance(settings[name], kind):
            raise ModelFileError(
                f"its {name} is of the wrong kind: {quoted(settings[name])}"
            )
    if settings["n_inputs"] < 1:
        raise ModelFileError(f"its n_inputs must be 1 or more, got {quoted(settings['n_inputs'])}")
    if settings["dtype"] not in TYPES:
        raise ModelFileError(
            f"its dtype must be in {list(TYPES)}, got {quoted(settings['dtype'])}"
        )
    seed = settings["seed"]  # of which NumPy would take other kinds
    of_seed = seed if isinstance(seed, list) else [seed or 0]
    if not all(type(each) is int for each in of_seed):
        raise ModelFileError(f"its seed must be whole numbers or null, got {quoted(seed)}")


def _shapes(settings: Mapping[str, Any], *, with_training: bool) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor in the file of such a network, by name."""
    of_layers = list(_layer_tensors(settings["n_inputs"], settings["layers"]))
    shapes = {name: shape for name, _, shape in of_layers}
    if with_training:
        n_parameters = sum(
            math.prod(shape) for _, where, shape in of_layers if where != "statistics"
        )
        for name in vector_names(settings["optimizer"]):
            shapes[f"optimizer.{name}"] = (n_parameters,)
    return shapes


def _check_tensors(found: Mapping[str, Any], contents: _Contents) -> None:
    """Raise an error unless a header describes just the tensors that there should be."""
    if missing := sorted(contents.shapes.keys() - found.keys()):
        raise ModelFileError(f"it lacks {len(missing)} of its tensors: {quoted(missing)}")
    if unknown := sorted(found.keys() - contents.shapes.keys()):
        raise ModelFileError(f"it has {len(unknown)} tensors too many: {quoted(unknown)}")
    code = TYPES[contents.settings["dtype"]]
    for name, shape in contents.shapes.items():
        tensor = found[name]
        _expect(f"tensor {name}", tensor, "dtype", "shape", "data_offsets")
        if tensor["dtype"] != code or tensor["shape"] != list(shape):
            raise ModelFileError(
                f"tensor {name} must be {code} of shape {list(shape)}, "
                f"got {quoted(tensor['dtype'])} of {quoted(tensor['shape'])}"
            )


def _check_length(length: int) -> None:
    if length > LONGEST_HEADER:
        raise ModelFileError(
            f"its header takes {length:,} bytes, and {LONGEST_HEADER:,} are the most that is read"
        )


def _check_values(name: str, tensor: NDArray[Any]) -> None:
    """Raise ValueError for numbers that no network can have come to."""
    if not np.isfinite(tensor).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity in it")
    kind = name.rpartition(".")[2]
    if kind not in SIGNED and (tensor < 0).any():
        raise ValueError(f"{name} must not be negative, got {tensor.min()} in it")
    # all of them are zero as long as they are not known
    if kind == "deviation" and tensor.any() and not tensor.all():
        raise ValueError(f"{name} must be positive, got 0 in it")


# --- from a file to a network -------------------------------------------------------------------


def _read(file: BinaryIO, safetensors: ModuleType) -> Network:
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(8)
    if len(prefix) < 8:
        raise ModelFileError(f"it ends after {len(prefix)} bytes, within the length of its header")
    length = int.from_bytes(prefix, "little")
    _check_length(length)
    if length > size - 8:
        raise ModelFileError(f"its header takes {length:,} bytes, and there are {size - 8:,}")
    text = file.read(length)
    contents = _contents(text)
    wanted = 8 + length + contents.n_bytes
    if size != wanted:
        raise ModelFileError(f"it has {size:,} bytes, and its network takes {wanted:,}")
    try:
        # which checks that offsets neither overlap nor leave anything out
        found = safetensors.deserialize(prefix + text + file.read(contents.n_bytes))
    except safetensors.SafetensorError as error:
        raise ModelFileError(f"it is not of the safetensors format: {error}") from None
    try:
        network = Network(**contents.settings)
        tensors = _tensors(network)
        for name, tensor in found:
            values = np.frombuffer(tensor["data"], f"<f{network.dtype.itemsize}")
            _check_values(name, values)
            tensors[name][...] = values.reshape(contents.shapes[name])
    except (TypeError, ValueError) as error:
        raise ModelFileError(str(error)) from None
    if contents.training is not None:
        state = network.state()
        state["json"] |= contents.training
        try:
            network.restore(state)
        except ValueError as error:
            raise ModelFileError(f"its training cannot be resumed: {error}") from None
    return network
