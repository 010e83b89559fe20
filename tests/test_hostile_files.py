"""Files that are damaged, or made to do harm: one error that says what is wrong, and little memory.

Every truncation and every bit of a small file, a list of what has gone wrong with readers
elsewhere, and random changes, of which fuzz_files.py makes as many as one wants.
"""

import json
import math
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import tracemalloc
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from fastbp import SGD, BatchNorm, Dense, ModelFileError, Network, Normalize

safetensors_numpy = pytest.importorskip(
    "safetensors.numpy", reason="model files want the package safetensors"
)
import fuzz_files  # noqa: E402  which wants it too

X = fuzz_files.X


def small():
    net = Network(2, [Dense(2, "tanh"), Dense(1)], optimizer=SGD(0.1, 0.9), seed=1)
    net.fit(X, X[:, :1])
    return net


@pytest.fixture
def file(tmp_path):
    small().save(tmp_path / "m.safetensors")
    return (tmp_path / "m.safetensors").read_bytes()


def test_every_truncation(tmp_path, file):
    path = tmp_path / "cut.safetensors"
    for length in range(len(file)):
        path.write_bytes(file[:length])
        with pytest.raises(ModelFileError):
            Network.load(path)


def test_every_single_bit(tmp_path, file):
    path = tmp_path / "flipped.safetensors"
    loaded = 0
    for bit in range(8 * len(file)):
        flipped = bytearray(file)
        flipped[bit // 8] ^= 1 << bit % 8
        path.write_bytes(flipped)
        try:
            net = Network.load(path)
        except ModelFileError:
            continue
        loaded += 1
        assert np.isfinite(net.parameters).all()
        with np.errstate(over="ignore"):
            assert net.predict(X).shape == (len(X), net.n_outputs)
    # most bits of 13 float32 tell of nothing that could be wrong with them
    assert loaded > 500


@hypothesis.settings(max_examples=400, deadline=None)
@hypothesis.given(fuzz_files.files())
def test_changed_files(file):
    with tempfile.TemporaryDirectory() as folder:
        fuzz_files.outcome(file, Path(folder, "m.safetensors"))


def with_network(**changes):
    return lambda header, document, body: (
        header, document | {"network": document["network"] | changes}, body)


def with_layer(**changes):
    def change(header, document, body):
        document["network"]["layers"][0] |= changes
        return header, document, body

    return change


def with_training(**changes):
    return lambda header, document, body: (
        header, document | {"training": document["training"] | changes}, body)


def with_tensor(name="layers.0.weight", **changes):
    return lambda header, document, body: (
        header | {name: header[name] | changes}, document, body)


def overlapping(header, document, body):
    header["layers.1.bias"]["data_offsets"] = header["layers.0.bias"]["data_offsets"]
    return header, document, body


def without(name):
    def change(header, document, body):
        del header[name]
        return header, document, body

    return change


def number(value, name="layers.0.weight"):
    def change(header, document, body):
        begin, _ = header[name]["data_offsets"]
        return header, document, body[:begin] + struct.pack("<f", value) + body[begin + 4 :]

    return change


def as_text(change):
    return lambda header, document, body: (header, change(json.dumps(document)), body)


WIDE = {"units": 2**31 - 1}
HOSTILE = {
    "newer": (lambda h, d, b: (h, d | {"version": 2, "fastbp": "0.9", "x": 1}, b),
              "of version 2 of the format, written by fastbp '0.9', .* a newer fastbp is needed"),
    "version": (lambda h, d, b: (h, d | {"version": "1"}, b), "must be 1 or more, got '1'"),
    "no metadata": (without("__metadata__"), "holds no network of fastbp"),
    "other metadata": (lambda h, d, b: (b'{"__metadata__": {"format": "pt"}}', d, b),
                       "holds no network of fastbp"),
    "no JSON": (as_text(lambda text: text[:-1]), "metadata 'fastbp' cannot be read as JSON"),
    "twice": (as_text(lambda text: '{"version": 1, ' + text[1:]), "'version' is there twice"),
    "deep": (as_text(lambda text: text.replace('"seed": 1', '"seed": ' + "[" * 9999)), "too deep"),
    "deep but valid": (with_network(seed=json.loads("[" * 90 + "]" * 90)), "more than 64 deep"),
    "unknown layer": (with_layer(kind="layers.Conv"), "unknown kind 'layers.Conv'"),
    "unknown field": (with_layer(dilation=1), r"unknown ones \['dilation'\]"),
    "code": (with_layer(activation={"kind": "os.system"}), "unknown kind 'os.system'"),
    "loss as layer": (with_layer(activation={"kind": "losses.LogCosh"}), "activation must be one"),
    "unknown activation": (with_layer(activation="swish"), "unknown activation 'swish'"),
    "loss by name": (with_network(loss="squared_error"), "loss is of the wrong kind"),
    "layer for loss": (with_network(loss={"kind": "layers.Normalize"}), "loss is of the wrong"),
    "no layers": (with_network(layers=[]), "must be|too many"),
    "no list": (with_network(layers=3), "layers is of the wrong kind: 3"),
    "wide": (with_layer(**WIDE), r"layers.0.bias must be|layers.0.weight must be F32 of shape"),
    "huge": (with_layer(units=10**30), "units must be an integer from 1 to"),
    "many inputs": (with_network(n_inputs=2**62), "layers.0.weight must be F32 of shape"),
    "negative inputs": (with_network(n_inputs=-2), "n_inputs must be 1 or more, got -2"),
    "half": (with_network(dtype="float16"), "dtype must be in"),
    "wrong dtype": (with_network(dtype="float64"), "must be F64 of shape"),
    "seed": (with_network(seed=[[]]), "seed must be whole numbers or null"),
    "negative seed": (with_network(seed=-1), "seed must be a non-negative integer"),
    "tensor's dtype": (with_tensor(dtype="I32"), "layers.0.weight must be F32 .* got 'I32'"),
    "tensor's shape": (with_tensor(shape=[4]), r"got 'F32' of \[4\]"),
    "overflow": (with_tensor(shape=[2**62, 2**62]), "layers.0.weight must be F32 of shape"),
    "more of a tensor": (with_tensor(stride=1), "tensor layers.0.weight must be an object of"),
    "missing": (without("layers.0.bias"), r"lacks 1 of its tensors: \['layers.0.bias'\]"),
    "missing state": (without("optimizer.momentum"), "lacks 1 of its tensors"),
    "extra": (lambda h, d, b: (h | {"x": h["layers.0.bias"]}, d, b), r"too many: \['x'\]"),
    "state of nothing": (lambda h, d, b: (h, {k: d[k] for k in d if k != "training"}, b),
                         r"too many: \['optimizer.momentum'\]"),
    "overlap": (overlapping, "not of the safetensors format: .*offset"),
    "out of range": (with_tensor(data_offsets=[2**40, 2**40 + 16]), "not of the safetensors"),
    "backwards": (with_tensor(data_offsets=[16, 0]), "not of the safetensors format"),
    "too long": (lambda h, d, b: (h, d, b + b"\0"), r"it has [\d,]+ bytes, and its network takes"),
    "too short": (lambda h, d, b: (h, d, b[:-1]), r"it has [\d,]+ bytes, and its network takes"),
    "NaN": (number(math.nan), "layers.0.weight must be finite"),
    "infinity": (number(-math.inf, "layers.1.bias"), "layers.1.bias must be finite"),
    "NaN in the state": (number(math.nan, "optimizer.momentum"), "optimizer.momentum must be fin"),
    "steps": (with_training(steps=2**60), "training cannot be resumed: the state's steps must be"),
    "negative steps": (with_training(steps=-1), "the state's steps must be a whole number"),
    "broken steps": (with_training(steps=1.5), "the state's steps must be a whole number"),
    "momentum": (with_training(momentum_product=2), "momentum_product must lie in"),
    "plateau": (with_training(plateau={"scale": 1.0}), "training cannot be resumed"),
    "scale": (with_training(plateau={"scale": 9, "best": 1, "since": 0, "recent": []}),
              "plateau.s scale must lie in"),
    "generator": (with_training(random={"bit_generator": "MT19937"}), "training cannot be resumed"),
    "random": (with_training(random={"bit_generator": "PCG64", "has_uint32": 0, "uinteger": 0,
                                     "state": {"state": 10**60, "inc": 1}}), "cannot be resumed"),
}


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=list(HOSTILE))
def test_a_hostile_file(tmp_path, file, change, message):
    path = tmp_path / "hostile.safetensors"
    path.write_bytes(fuzz_files.assembled(*change(*fuzz_files.parts(file))))
    with pytest.raises(ModelFileError, match=message) as caught:
        Network.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("layers.0.deviation", -1.0, "must not be negative, got -1.0"),
        ("layers.0.deviation", 0.0, "must be positive, got 0"),
        ("layers.2.variance", -1.0, "must not be negative, got -1.0"),
        ("optimizer.square", -1.0, "must not be negative, got -1.0"),
    ],
)
def test_a_variance_that_is_none(tmp_path, name, value, message):
    net = Network(2, [Normalize(), Dense(2), BatchNorm(), Dense(1)], optimizer="adam", seed=0)
    net.fit(X, X[:, :1])
    path = tmp_path / "m.safetensors"
    net.save(path)
    parts = fuzz_files.parts(path.read_bytes())
    path.write_bytes(fuzz_files.assembled(*number(value, name)(*parts)))
    with pytest.raises(ModelFileError, match=f"{name} {message}"):
        Network.load(path)


def test_a_file_of_another_program(tmp_path):
    safetensors_numpy.save_file({"weight": np.ones(3)}, tmp_path / "m")
    with pytest.raises(ModelFileError, match="holds no network of fastbp"):
        Network.load(tmp_path / "m")
    (tmp_path / "m").write_bytes(pickle.dumps(small()))
    with pytest.raises(ModelFileError, match="its header takes"):
        Network.load(tmp_path / "m")


def test_a_file_that_shrinks_while_it_is_read(tmp_path, file, monkeypatch):
    path = tmp_path / "m.safetensors"
    path.write_bytes(file[:-4])
    stat = os.fstat

    def as_long_as_before(descriptor):
        found = stat(descriptor)
        return os.stat_result([*found[:6], len(file), *found[7:10]])

    monkeypatch.setattr(os, "fstat", as_long_as_before)
    with pytest.raises(ModelFileError, match="not of the safetensors format"):
        Network.load(path)


def claims(length):
    return struct.pack("<Q", length) + b"{" + b" " * 100


def many_lists(header, document, body):
    return b"[" + b"[]," * 1_300_000 + b"[]]", document, body


LARGE = {
    "gigabytes of header": claims(2**33),
    "more header than anything": claims(2**64 - 1),
    "a header longer than the file": claims(2**20),
}
# What Python's objects and NumPy's arrays may take while a file of a few KB is refused.
FEW = 2**18


@pytest.mark.parametrize("name", [*LARGE, "wide", "many inputs", "overflow", "huge", "out of range",
                                  "sparse", "a header as long as it says", "lists"])
def test_memory_is_bounded(tmp_path, file, name):
    path = tmp_path / "m.safetensors"
    parts = fuzz_files.parts(file)
    bound = FEW
    if name in LARGE:
        path.write_bytes(LARGE[name])
    elif name == "a header as long as it says":
        path.write_bytes(claims(2**33))
        os.truncate(path, 2**36)
    elif name == "lists":
        path.write_bytes(fuzz_files.assembled(*many_lists(*parts)))
        bound = 40 * path.stat().st_size  # an empty list takes 64 bytes, and three in JSON
    else:
        change = HOSTILE[name][0] if name in HOSTILE else lambda *parts: parts
        path.write_bytes(fuzz_files.assembled(*change(*parts)))
    if name == "sparse":
        os.truncate(path, 2**36)
    with pytest.raises(ModelFileError):  # once, for what is imported and compiled
        Network.load(tmp_path / path)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError):
            Network.load(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < bound


RESIDENT = """
import resource, sys
from fastbp import ModelFileError, Network
Network.load(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    try:
        Network.load(path)
    except ModelFileError:
        continue
    raise AssertionError(path)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux alone")
def test_memory_that_python_does_not_count(tmp_path, file):
    good = tmp_path / "good"
    good.write_bytes(file)
    bad = []
    for number, (change, _) in enumerate(HOSTILE.values()):
        bad.append(tmp_path / str(number))
        bad[-1].write_bytes(fuzz_files.assembled(*change(*fuzz_files.parts(file))))
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, good, *bad], capture_output=True, text=True, check=False
    )
    # all of them together: a few MiB for what is loaded on the way, and none of their gigabytes
    assert int(done.stdout) < 2**14, done.stderr
