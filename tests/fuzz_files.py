"""Hostile model files: valid ones, changed where a reader looks.

tests/test_files.py takes some hundreds of them. For more, and none of it in pytest's time:

    python tests/fuzz_files.py --cases 100000
"""

import argparse
import collections
import copy
import json
import re
import resource
import struct
import tempfile
import time
from pathlib import Path

import hypothesis
import numpy as np
from hypothesis import strategies as st

import fastbp
from fastbp import (
    LBFGS,
    SGD,
    Adam,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    ModelFileError,
    Nadam,
    Network,
    Normalize,
    Residual,
    RMSProp,
    activations,
    losses,
    schedules,
)

X = np.linspace(-1, 1, 12).reshape(6, 2)
# How much more address space than at its start the command may take; its files are some KB.
ROOM = 2**28


def networks():
    """Small networks that have every kind of layer and of state between them, all trained."""
    yield Network(2, [Dense(2, "tanh"), Dense(1)], optimizer=SGD(0.1, 0.9), seed=1)
    yield Network(
        2,
        [Normalize(), Dense(2), BatchNorm("relu"),
         Residual([LayerNorm(), Dense(2, activations.ELU(0.5), l2=0.1, max_norm=3)]),
         Dropout(0.2), Dense(2, "softmax")],
        loss="cross_entropy", seed=2,
        optimizer=Adam(schedules.WarmUp(schedules.Plateau(0.01, window=1), 10), amsgrad=True),
    )
    yield Network(2, [Dense(2, "softplus")], loss=losses.Quantile((0.2, 0.8)), dtype="float64",
                  optimizer=Nadam(schedules.Cosine(0.1, 9, restarts=True), clip_norm=1.0), seed=5)
    yield Network(2, [Dense(3, "gelu", trainable=False), Dense(1)], loss=losses.Huber(0.5),
                  optimizer=RMSProp(centered=True, momentum=0.5, noise=0.1), seed=[3, 4])
    yield Network(2, [Dense(1, "sigmoid")], loss="binary_cross_entropy", optimizer=LBFGS(5))


def parts(file):
    """The header of a file, what its metadata hold of fastbp, and the bytes of its tensors."""
    (length,) = struct.unpack("<Q", file[:8])
    header = json.loads(file[8 : 8 + length])
    return header, json.loads(header["__metadata__"]["fastbp"]), file[8 + length :]


def assembled(header, document, body, length=None):
    """A file of these parts; `header` and `document` may be text already."""
    if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
        text = document if isinstance(document, str) else json.dumps(document)
        header = header | {"__metadata__": header["__metadata__"] | {"fastbp": text}}
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


def bases(folder):
    for number, network in enumerate(networks()):
        y = np.eye(2)[[0, 1] * 3][:, : network.n_outputs]
        network.fit(X, y, epochs=3, batch_size=2)
        for optimizer in (True, False):
            path = folder / f"{number}.safetensors"
            network.save(path, optimizer=optimizer)
            yield parts(path.read_bytes())


with tempfile.TemporaryDirectory() as made:
    BASES = list(bases(Path(made)))
SETTINGS = [part for _, document, _ in BASES for part in document["network"].values()]

integers = st.sampled_from([
    -(2**63), -1, 0, 1, 2, 3, 4, 6, 8, 12, 16, 255, 2**16, 2**31 - 1, 2**31, 2**32, 2**53,
    2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 10**30, 10**399, 10**401,
])
texts = st.sampled_from([
    "", "relu", "softmax", "float64", "float32", "F32", "F64", "I64", "BF16", "F4", "inf", "nan",
    "NaN", "PCG64", "MT19937", "auto", "adam", "kind", "layers.Dense", "losses.Cosine",
    "schedules.Cosine", "optimizers.SGD", "fastbp.network.Network", "os.system", "\ud800", "é" * 99,
])
scalars = integers | st.none() | st.booleans() | st.floats() | texts
keys = st.sampled_from(["kind", "units", "layers", "steps", "x"])


def nested(depth):
    value = {"kind": "layers.Dropout", "rate": 0.1}
    for _ in range(depth):
        value = {"kind": "layers.Residual", "layers": [value]}
    return value


things = (
    scalars
    | st.lists(scalars, max_size=3)
    | st.dictionaries(keys, scalars, max_size=3)
    | st.sampled_from(SETTINGS)
    | st.integers(1, 80).map(nested)
)


def places(thing):
    """Every container in some JSON with a key or an index into it."""
    items = thing.items() if isinstance(thing, dict) else enumerate(thing)
    for key, value in items:
        yield thing, key
        if isinstance(value, (dict, list)):
            yield from places(value)


def change(draw, thing):
    """Change something within JSON, in place: set, delete, add, exchange."""
    found = list(places(thing))
    if not found:
        return
    container, key = draw(st.sampled_from(found))
    what = draw(st.sampled_from(["set", "set", "set", "delete", "add", "exchange", "double"]))
    if what == "set":
        container[key] = copy.deepcopy(draw(things))
    elif what == "delete":
        del container[key]
    elif what == "add" and isinstance(container, dict):
        container[draw(st.sampled_from(["x", "kind", "training", "layers.9.weight"]))] = (
            copy.deepcopy(draw(things)))
    elif what == "exchange":
        other, place = draw(st.sampled_from(found))
        # copies, as one may lie within the other
        container[key], other[place] = copy.deepcopy(other[place]), copy.deepcopy(container[key])
    elif isinstance(container, list):
        container.insert(key, copy.deepcopy(container[key]))


def change_tensor(draw, header):
    """Change what a header says of a tensor: dtype, shape, place."""
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return
    tensor = header[draw(st.sampled_from(names))]
    other = header[draw(st.sampled_from(names))]
    if not (isinstance(tensor, dict) and isinstance(other, dict)):
        return
    field = draw(st.sampled_from(["dtype", "shape", "data_offsets", "places", "all"]))
    if field == "places":  # which is valid, if they are as long
        tensor["data_offsets"], other["data_offsets"] = (
            other.get("data_offsets"), tensor.get("data_offsets"))
    elif field == "all":
        tensor.update(copy.deepcopy(other))
    elif field == "dtype":
        tensor["dtype"] = draw(scalars)
    else:
        tensor[field] = draw(st.lists(integers, max_size=3))


def change_body(draw, body):
    """Cut or lengthen the tensors, or write a number into them."""
    what = draw(st.sampled_from(["cut", "longer", "number", "number", "byte"]))
    at = draw(st.integers(0, len(body)))
    if what == "cut":
        return body[:at]
    if what == "longer":
        return body + draw(st.binary(max_size=16))
    if what == "number":
        number = draw(st.floats(width=32))
        at = at // 4 * 4
        return (body[:at] + struct.pack("<f", number) + body[at + 4 :])[: len(body)]
    return (body[:at] + draw(st.binary(min_size=1, max_size=1)) + body[at + 1 :])[: len(body)]


def change_text(draw, text):
    """Change a few bytes of JSON, or write a name twice."""
    at = draw(st.integers(0, len(text)))
    what = draw(st.sampled_from(["byte", "cut", "insert", "twice", "deep"]))
    if what == "byte":
        return text[:at] + draw(st.binary(min_size=1, max_size=2)) + text[at + 1 :]
    if what == "cut":
        return text[:at] + text[at + draw(st.integers(1, 9)) :]
    if what == "insert":
        inserted = [b"0", b"9", b"e9", b"-", b".", b" ", b"null", b"NaN", b"[", b"}", b'"', b"\\"]
        return text[:at] + draw(st.sampled_from(inserted)) + text[at:]
    if what == "twice":
        return text.replace(b"{", b'{"version":1,"dtype":"F32",', draw(st.integers(1, 3)))
    return text[:at] + draw(st.sampled_from([b"[", b'{"a":'])) * draw(st.integers(1, 3000))


@st.composite
def files(draw):
    """A hostile file: up to three changes to a valid one."""
    header, document, body = copy.deepcopy(draw(st.sampled_from(BASES)))
    length = None
    for _ in range(draw(st.integers(1, 3))):
        what = draw(st.sampled_from(["document", "document", "tensor", "header", "body", "text",
                                     "metadata text", "length"]))
        if what == "document" and isinstance(document, dict):
            change(draw, document)
        elif what == "tensor" and isinstance(header, dict):
            change_tensor(draw, header)
        elif what == "header" and isinstance(header, dict):
            change(draw, header)
        elif what == "body":
            body = change_body(draw, body)
        elif what == "text" and isinstance(header, dict):
            header = change_text(draw, assembled(header, document, b"")[8:])
        elif what == "metadata text" and isinstance(document, dict):
            text = change_text(draw, json.dumps(document).encode())
            document = text.decode("utf-8", "replace")
        elif what == "length":
            length = draw(integers.map(lambda value: value % 2**64))
    return assembled(header, document, body, length)


def outcome(file, path):
    """Load a file and say what came of it; whatever is neither an error nor a network fails."""
    path.write_bytes(file)
    try:
        network = Network.load(path)
    except ModelFileError as error:
        assert str(error).startswith(f"{path}: ")
        assert len(str(error)) < 500
        return re.sub(r"[^a-z ].*", "", str(error).removeprefix(f"{path}: ")).strip() or "other"
    assert np.isfinite(network.parameters).all()
    network.save(path)
    again = Network.load(path)
    assert repr(again) == repr(network)
    np.testing.assert_array_equal(again.parameters, network.parameters)
    assert again.state()["json"] == network.state()["json"]
    use(network)
    return "loaded"


def use(network):
    """Predict, and make a step, in a network whose numbers may be anything finite."""
    rows = np.ones((2, network.n_inputs))
    targets = np.zeros((2, network.n_outputs))
    targets[:, 0] = 1
    with np.errstate(all="ignore"):
        try:
            assert network.predict(rows).shape == targets.shape
            if not isinstance(network.optimizer, LBFGS | fastbp.optimizers.Minimizer):
                network.train_step(rows, targets)
        except FloatingPointError:
            pass  # numbers too large
        except RuntimeError as error:
            assert "no statistics yet" in str(error)
        except ValueError as error:
            assert "learning rate" in str(error) or "gamma" in str(error), error


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + ROOM, resource.RLIM_INFINITY))
    counts, started = collections.Counter(), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.safetensors")
        batch = 0
        while (left := arguments.cases - counts.total()) > 0:
            batch += 1  # as hypothesis slows down with all that it has seen

            @hypothesis.seed(arguments.seed * 1_000_000 + batch)
            @hypothesis.settings(
                max_examples=min(left, 2000), database=None, deadline=None,
                suppress_health_check=list(hypothesis.HealthCheck),
            )
            @hypothesis.given(files())
            def fuzz(file):
                counts[outcome(file, path)] += 1

            fuzz()
    for reason, count in counts.most_common():
        print(f"{count:9,}  {reason}")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{counts.total():9,}  cases in {time.perf_counter() - started:.0f} s, {most:.0f} MiB at "
          "most: each was refused with ModelFileError, or is a network")


if __name__ == "__main__":
    main()
