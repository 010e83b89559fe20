"""Networks in files and pickles: they go on with the same bits, and nothing else gets in.

The oracle of what a file holds is the safetensors package and the standard library's json; that
of a network which was loaded is one that never left the process.
"""

import copy
import dataclasses
import errno
import json
import math
import os
import pickle
import stat
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from names import name_of

import fastbp
from fastbp import (
    LBFGS,
    SGD,
    AdaDelta,
    AdaGrad,
    Adam,
    Adamax,
    AdamW,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    Lion,
    Nadam,
    Network,
    Normalize,
    Residual,
    RMSProp,
    activations,
    files,
    losses,
    optimizers,
    schedules,
)
from fastbp._json import KINDS, from_json, read_json, to_json, write_json

safetensors_numpy = pytest.importorskip(
    "safetensors.numpy", reason="model files want the package safetensors"
)
import fuzz_files  # noqa: E402  which wants it too

OPTIMIZERS = [
    SGD(0.1), SGD(0.1, 0.9, nesterov=True), SGD(0.1, 0.9, dampening=0.5), SGD(0.1, noise=0.1),
    AdaGrad(initial_accumulator=0.1), RMSProp(), RMSProp(momentum=0.5), RMSProp(centered=True),
    RMSProp(0.01, momentum=0.5, centered=True), AdaDelta(), Adam(0.01, clip_norm=1.0),
    Adam(0.01, amsgrad=True), AdamW(0.01), Nadam(0.01), Adamax(0.01), Lion(0.001),
    Adam(schedules.WarmUp(schedules.Cosine(0.02, 20, restarts=True), 10)),
    SGD(schedules.Plateau(0.1, 0.5, patience=1, window=2), 0.5),
    SGD(schedules.OneCycle(0.1, 50)),
]


def network(optimizer="sgd", dtype="float32", **changes):
    """Every kind of layer, and dropout, so that training draws random numbers."""
    layers = [
        Normalize(), Dense(6, init="he_uniform"), BatchNorm("relu", momentum=0.3),
        Residual([LayerNorm("tanh"), Dense(6, activations.ELU(0.5), l2=1e-3, max_norm=2.0)]),
        Dropout(0.3), Dense(3, "softmax"),
    ]
    arguments = {"loss": "cross_entropy", "dtype": dtype, "seed": 3} | changes
    return Network(4, layers, optimizer=optimizer, **arguments)


def data():
    rng = np.random.default_rng(1)
    return rng.normal(size=(70, 4)), rng.integers(3, size=70)


def trained(*arguments, epochs=2, **changes):
    net = network(*arguments, **changes)
    net.fit(*data(), epochs=epochs, batch_size=16)
    return net


def assert_same(one, other):
    """The same network in the same state."""
    assert repr(one) == repr(other)
    mine, yours = one.state(), other.state()
    assert mine["json"] == yours["json"]
    for name in ("parameters", "statistics"):
        np.testing.assert_array_equal(mine[name], yours[name])
    assert one.optimizer_vectors.keys() == other.optimizer_vectors.keys()
    for name, vector in one.optimizer_vectors.items():
        np.testing.assert_array_equal(vector, other.optimizer_vectors[name])


# --- what is in a file --------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_other_readers_find(tmp_path, dtype):
    net = trained(Adam(0.01, amsgrad=True), dtype)
    net.save(tmp_path / "m.safetensors")
    found = safetensors_numpy.load_file(tmp_path / "m.safetensors")
    (mean, deviation), (running, variance) = net.statistics
    weights, biases, moments = net.weights, net.biases, net.optimizer_vectors
    expected = {
        "layers.0.mean": mean, "layers.0.deviation": deviation,
        "layers.1.weight": weights[0], "layers.1.bias": biases[0],
        "layers.2.gain": weights[1], "layers.2.shift": biases[1],
        "layers.2.mean": running, "layers.2.variance": variance,
        "layers.3.layers.0.gain": weights[2], "layers.3.layers.0.shift": biases[2],
        "layers.3.layers.1.weight": weights[3], "layers.3.layers.1.bias": biases[3],
        "layers.5.weight": weights[4], "layers.5.bias": biases[4],
        "optimizer.mean": moments["mean"], "optimizer.square": moments["square"],
        "optimizer.greatest_square": moments["greatest_square"],
    }
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, strict=True)
    _, document, _ = fuzz_files.parts((tmp_path / "m.safetensors").read_bytes())
    assert document["version"] == 1
    assert document["fastbp"] == fastbp.__version__
    assert document["network"]["layers"][1] == {
        "kind": "layers.Dense", "units": 6, "activation": "identity", "init": "he_uniform",
        "trainable": True, "l1": 0.0, "l2": 0.0, "max_norm": None,
    }
    assert document["network"]["loss"] == {"kind": "losses.CrossEntropy", "label_smoothing": 0.0}
    assert document["training"]["steps"] == net.n_steps == 10


def test_the_moments_are_what_they_are_called():
    # one step of Adam from nothing: means are parts of the gradient and of its square
    X, y = data()
    net = Network(4, [Dense(3, "softmax")], loss="cross_entropy", optimizer=Adam(amsgrad=True),
                  dtype="float64", seed=0)
    _, gradient = net.loss_and_gradient(X, y)
    net.train_step(X, y)
    moments = net.optimizer_vectors
    assert list(moments) == ["mean", "square", "greatest_square"]
    # sums in another order, and squares of them
    np.testing.assert_allclose(moments["mean"], 0.1 * gradient, rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(moments["square"], 0.001 * gradient**2, rtol=1e-11, atol=1e-15)
    np.testing.assert_array_equal(moments["greatest_square"], moments["square"])


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, LBFGS()], ids=str)
def test_every_optimizer_has_names_for_its_vectors(optimizer):
    net = network(optimizer)
    named = net.optimizer_vectors
    assert tuple(named) == optimizers.vector_names(optimizer)
    for number, vector in enumerate(named.values()):
        vector[...] = number + 1
    # apart from the room after each, that is all there is
    kept = net.state()["optimizer"]
    assert [np.count_nonzero(kept == number + 1) for number in range(len(named))] == [
        net.n_parameters
    ] * len(named)
    assert len(kept) < len(named) * (net.n_parameters + 64) + 1


def test_a_file_written_by_hand(tmp_path):
    # as docs/files.md has it, without fastbp or safetensors
    rng = np.random.default_rng(0)
    W, b = rng.normal(size=(3, 2)), rng.normal(size=2)
    document = {
        "version": 1, "fastbp": "0.1.0",
        "network": {
            "n_inputs": 3, "dtype": "float64", "seed": None, "feature_names": ["a", "b", "c"],
            "layers": [{"kind": "layers.Dense", "units": 2, "activation": "tanh", "init": "auto",
                        "trainable": True, "l1": 0, "l2": 0, "max_norm": None}],
            "loss": {"kind": "losses.SquaredError"},
            "optimizer": {"kind": "optimizers.LBFGS", "memory": 5},
        },
    }
    header = json.dumps({
        "__metadata__": {"fastbp": json.dumps(document), "note": "by hand"},
        "layers.0.weight": {"dtype": "F64", "shape": [3, 2], "data_offsets": [16, 64]},
        "layers.0.bias": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16]},
    }).encode()
    path = tmp_path / "m.safetensors"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b.tobytes() + W.tobytes())
    net = Network.load(path)
    X = rng.normal(size=(5, 3))
    # tanh in units in the last place
    np.testing.assert_allclose(net.predict(X), np.tanh(X @ W + b), rtol=1e-14)
    assert net.optimizer == LBFGS(5)
    assert net.feature_names == ("a", "b", "c")
    assert net.copy().feature_names == net.feature_names


def test_two_files_of_one_network_have_the_same_bytes(tmp_path):
    net = trained(Adam(0.01))
    for name in "ab":
        net.save(tmp_path / name)
    Network.load(tmp_path / "a").save(tmp_path / "c")
    assert len({(tmp_path / name).read_bytes() for name in "abc"}) == 1


# --- training goes on ---------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("way", ["file", "pickle"])
def test_training_goes_on_with_the_same_bits(tmp_path, optimizer, dtype, way):
    X, y = data()
    through = network(optimizer, dtype)
    expected = through.fit(X, y, epochs=5, batch_size=16)
    stopped = network(optimizer, dtype)
    first = stopped.fit(X, y, epochs=1, batch_size=16)
    if way == "file":
        stopped.save(tmp_path / "m.safetensors")
        resumed = Network.load(tmp_path / "m.safetensors")
    else:
        resumed = pickle.loads(pickle.dumps(stopped))
    assert_same(resumed, stopped)
    second = resumed.fit(X, y, epochs=4, batch_size=16)
    assert first.loss + second.loss == expected.loss
    assert first.learning_rate + second.learning_rate == expected.learning_rate
    through.train_step(X[:5], y[:5])
    resumed.train_step(X[:5], y[:5])
    assert_same(resumed, through)


def test_frozen_layers_stay_frozen(tmp_path):
    X, y = data()
    net = trained()
    net.freeze(0)
    net.save(tmp_path / "m")
    loaded = Network.load(tmp_path / "m")
    before = loaded.weights[0].copy()
    net.fit(X, y)
    loaded.fit(X, y)
    np.testing.assert_array_equal(loaded.weights[0], before)
    assert_same(loaded, net)


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_plateau_that_saw_no_number(tmp_path, loss):
    net = network(SGD(schedules.Plateau(0.1)))
    state = net.state()
    state["json"]["plateau"]["recent"] = [1.0, str(loss)]
    net.restore(state)
    net.save(tmp_path / "m")
    text = write_json(Network.load(tmp_path / "m").state()["json"])  # strict JSON has no NaN
    assert json.loads(text)["plateau"] == {
        "scale": 1.0, "best": "inf", "since": 0, "recent": [1.0, str(loss)],
    }


@pytest.mark.parametrize("optimizer", [Adam(0.01), SGD(0.1), LBFGS()], ids=str)
def test_without_the_optimizers_state(tmp_path, optimizer):
    X, _ = data()
    net = trained(optimizer)
    net.save(tmp_path / "whole")
    net.save(tmp_path / "m", optimizer=False)
    loaded = Network.load(tmp_path / "m")
    assert repr(loaded) == repr(net)
    assert loaded.n_steps == 0
    assert not any(vector.any() for vector in loaded.optimizer_vectors.values())
    np.testing.assert_array_equal(loaded.predict(X), net.predict(X))
    names = safetensors_numpy.load_file(tmp_path / "m").keys()
    assert all(name.startswith("layers.") for name in names)
    less = (tmp_path / "whole").stat().st_size - (tmp_path / "m").stat().st_size
    assert less > len(optimizers.vector_names(optimizer)) * 4 * net.n_parameters


def test_statistics_that_are_not_known_yet(tmp_path):
    network().save(tmp_path / "m")
    loaded = Network.load(tmp_path / "m")
    with pytest.raises(RuntimeError, match="no statistics yet"):
        loaded.predict(data()[0])


@pytest.mark.parametrize("seed", [None, 0, np.int64(5), 10**50, [1, 2]], ids=str)
def test_seeds(tmp_path, seed):
    net = trained(seed=seed)
    net.save(tmp_path / "m")
    assert Network.load(tmp_path / "m").seed == seed
    assert_same(pickle.loads(pickle.dumps(net)), net)


# --- settings as JSON ---------------------------------------------------------------------------

SETTINGS = [
    *OPTIMIZERS, *network().layers, LBFGS(7),
    optimizers.Minimizer("BFGS", {"gtol": 1e-6, "disp": False, "x": [1, 2]}),
    *(each() for each in losses.LOSSES.values()), losses.Quantile((0.1, 0.9)), losses.Huber(0.3),
    losses.Tweedie(1.2), losses.CrossEntropy(0.1), activations.LeakyReLU(0.2),
    activations.Softplus(2.0), Dense(3, activations.Softplus(3), l1=0.1, trainable=False),
    schedules.StepDecay(0.1, 0.5, 10), schedules.Exponential(0.1, 0.5),
    schedules.InverseScaling(0.1), schedules.Polynomial(0.1, 10), schedules.Cosine(0.1, 10),
    schedules.WarmUp(0.1, 10), Residual([Residual([Dense(3)])]),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_settings_come_back(settings):
    assert from_json(json.loads(json.dumps(to_json(settings)))) == settings


def test_every_kind_of_settings_has_a_name():
    modules = [fastbp.layers, activations, losses, optimizers, schedules]
    every = {
        thing
        for module in modules
        for thing in map(module.__dict__.get, module.__all__)
        if isinstance(thing, type) and dataclasses.is_dataclass(thing)
    }
    # what others build on, and what is code
    assert every - set(KINDS.values()) == {
        losses.Loss, losses.Custom, optimizers.Optimizer, schedules.Schedule,
    }
    parts = [layer.layers for layer in SETTINGS if isinstance(layer, Residual)]
    parts += [[each.learning_rate] for each in OPTIMIZERS]
    parts += [[schedules.Plateau(0.1), activations.ELU()]]
    tried = {type(each) for each in [*SETTINGS, *(each for part in parts for each in part)]}
    assert set(KINDS.values()) <= tried


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "a": 1}', "'a' is there twice"), ("NaN", "NaN is no number"),
        ("-Infinity", "no number"), ("1e999", "too large"), ("1" * 401, "401 digits"),
        ("[" * 10**5, "too deep"), ("[1", "delimiter"), (b"\xff", "utf-8"), ("", "Expecting value"),
    ],
)
def test_json_that_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_json(text)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "layers.Dropout", "rate": 2}, r"layers.Dropout: rate must lie in \[0, 1\)"),
        ({"kind": "layers.Dropout"}, r"lacks the fields \['rate'\]"),
        ({"kind": "layers.Dropout", "rate": 0.1, "x": 1}, r"unknown ones \['x'\]"),
        ({"kind": "Dropout", "rate": 0.1}, "unknown kind 'Dropout'"),
        ({"kind": "losses.Custom", "function": "print"}, "unknown kind 'losses.Custom'"),
        ({"kind": ["layers.Dropout"], "rate": 0.1}, "unknown kind"),
        ({"kind": "layers.Normalize", "name": 1}, r"unknown ones \['name'\]"),
        ({"kind": "optimizers.LBFGS", "memory": 10**30}, "memory must be an integer from 1 to"),
        ({"kind": "losses.Huber", "delta": 10**399}, "delta must be a number that a float can"),
        ({"kind": "losses.Huber", "delta": {"kind": "layers.Normalize"}}, "delta must be a number"),
        (fuzz_files.nested(40), "more than 64 deep"),
    ],
)
def test_settings_that_are_refused(data, message):
    with pytest.raises((TypeError, ValueError), match=message):
        from_json(data)


# --- what cannot be written ---------------------------------------------------------------------


def rate(step):
    return 0.1 / (1 + step)


def loss(outputs, targets):
    return ((outputs - targets) ** 2).sum(axis=1), 2 * (outputs - targets)


class MyAdam(Adam):
    pass


def spoiled(change, optimizer="adam"):
    net = trained(optimizer)
    change(net)
    return net


NOT_WRITABLE = {
    "rate": (lambda: network(SGD(rate)), TypeError, "SGD.learning_rate is no setting .*function"),
    "rate within": (lambda: network(SGD(schedules.WarmUp(rate, 3))), TypeError, "WarmUp.after"),
    "optimizer": (lambda: network(MyAdam()), TypeError, "optimizer is no setting"),
    "loss": (lambda: network(loss=loss), TypeError, "loss is no setting .*Custom.*pickle"),
    "options": (lambda: network(optimizers.Minimizer(options={"x": [rate]})), TypeError,
                r"Minimizer.options\['x'\]"),
    "kind": (lambda: network(optimizers.Minimizer(options={"kind": 1})), TypeError, "options"),
    "not finite": (lambda: network(optimizers.Minimizer(options={"x": math.inf})), ValueError,
                   "cannot be saved"),
    "seed": (lambda: network(seed=np.random.default_rng(1)), TypeError, "seed is no setting"),
    "long seed": (lambda: network(seed=10**400), ValueError, "cannot be saved: .*401 digits"),
    "deep": (lambda: Network(1, [nest(40), Dense(1)]), ValueError, "cannot be saved: .*deep"),
    "many": (lambda: Network(1, [LayerNorm()] * 20000 + [Dense(1)]), ValueError,
             "cannot be saved: its header takes"),
    "NaN": (lambda: spoiled(lambda net: net.weights[0].fill(np.nan)), ValueError,
            "layers.1.weight must be finite"),
    "infinity": (lambda: spoiled(lambda net: net.optimizer_vectors["mean"].fill(np.inf)),
                 ValueError, "optimizer.mean must be finite"),
    "variance": (lambda: spoiled(lambda net: net.statistics[1][1].fill(-1)), ValueError,
                 "layers.2.variance must not be negative"),
}


def nest(depth):
    layer = Residual([Dense(1)])
    for _ in range(depth):
        layer = Residual([layer])
    return layer


@pytest.mark.parametrize(("make", "kind", "message"), NOT_WRITABLE.values(), ids=list(NOT_WRITABLE))
def test_what_cannot_be_written(tmp_path, make, kind, message):
    (tmp_path / "m").write_text("as before")
    with pytest.raises(kind, match=message):
        make().save(tmp_path / "m")
    assert (tmp_path / "m").read_text() == "as before"
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("path", [3, None, 1.5, object()], ids=name_of)
def test_a_path_that_is_none(path):
    for call in (network().save, Network.load):
        with pytest.raises(TypeError):
            call(path)


def test_a_flag_that_is_none(tmp_path):
    with pytest.raises(TypeError, match="optimizer must be True or False, got 'adam'"):
        network().save(tmp_path / "m", optimizer="adam")
    assert os.listdir(tmp_path) == []


def test_an_init_of_the_users_is_not_written(tmp_path):
    def ones(rng, n_in, n_out):
        return np.ones((n_in, n_out))

    net = Network(2, [Residual([Dense(2, init=ones)]), Dense(1, init=ones)])
    net.save(tmp_path / "m")
    loaded = Network.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.parameters, net.parameters)
    assert loaded.layers == (Residual([Dense(2)]), Dense(1))


def test_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (network().save, Network.load):
        with pytest.raises(ImportError, match=r'pip install "fastbp\[files\]"'):
            call(tmp_path / "m")
    assert os.listdir(tmp_path) == []


# --- whole or not at all ------------------------------------------------------------------------


def fails(error):
    def call(*arguments):
        raise error

    return call


@pytest.mark.parametrize("what", ["fsync", "replace"])
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()], ids=repr
)
@pytest.mark.parametrize("there", [True, False])
def test_a_failure_leaves_the_old_file(tmp_path, monkeypatch, what, error, there):
    path = tmp_path / "m.safetensors"
    if there:
        trained().save(path)
        before = path.read_bytes()
    monkeypatch.setattr(os, what, fails(error))
    with pytest.raises(type(error)):
        trained(seed=9).save(path)
    assert os.listdir(tmp_path) == [path.name] * there
    assert not there or path.read_bytes() == before


def test_the_disk_has_it_before_the_old_file_goes(tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    done = []

    def note(name):
        original = getattr(os, name)

        def call(first, *others):
            kind = "folder" if name == "fsync" and stat.S_ISDIR(os.fstat(first).st_mode) else "file"
            size = os.fstat(first).st_size if name == "fsync" else os.stat(first).st_size
            done.append((name, kind, size if kind == "file" else None))
            return original(first, *others)

        monkeypatch.setattr(os, name, call)

    note("fsync")
    note("replace")
    trained().save(path)
    size = path.stat().st_size
    assert done[:2] == [("fsync", "file", size), ("replace", "file", size)]
    assert done[2:] == ([("fsync", "folder", None)] if os.name == "posix" else [])


DISK_FULL = """
import os, resource, sys
import fastbp
net = fastbp.Network(100, [fastbp.Dense(100)], seed=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
try:
    net.save(sys.argv[1])
except OSError as error:
    print(error.filename, len(os.listdir(os.path.dirname(sys.argv[1]))))
"""
CRASH = """
import os, sys
import fastbp
setattr(os, sys.argv[2], lambda *arguments: os._exit(7))
fastbp.Network(4, [fastbp.Dense(3)], seed=5).save(sys.argv[1])
"""
NO_PERMISSION = """
import os, sys
import fastbp
net = fastbp.Network(4, [fastbp.Dense(3)], seed=5)
net.save(sys.argv[2] + "/warm")
if os.getuid() == 0:  # who may write to anything
    os.setuid(65534)
try:
    net.save(sys.argv[1])
except PermissionError as error:
    print(error.filename)
"""


def run(script, *arguments):
    # -B: what limits the size of files would cut off the bytecode that Python writes, too
    return subprocess.run(
        [sys.executable, "-B", "-c", script, *map(str, arguments)], capture_output=True, text=True,
        check=False,
    )


def test_a_full_disk(tmp_path):
    path = tmp_path / "m.safetensors"
    trained().save(path)
    before = path.read_bytes()
    done = run(DISK_FULL, path)
    # what a limit on the size of files raises is what a full disk does: a write comes back short
    assert done.stdout.strip() == f"{path} 1", done.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_a_crash(tmp_path, where):
    path = tmp_path / "m.safetensors"
    trained().save(path)
    before = path.read_bytes()
    assert run(CRASH, path, where).returncode == 7
    assert path.read_bytes() == before
    trained().save(path)  # what the crash has left is in nobody's way
    assert path.read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize("protected", ["file", "folder"])
def test_no_permission(protected):
    with tempfile.TemporaryDirectory() as name:  # as others may not enter pytest's
        folder = Path(name)
        path = folder / "m.safetensors"
        trained().save(path)
        before = path.read_bytes()
        folder.chmod(0o777 if protected == "file" else 0o555)
        path.chmod(0o444 if protected == "file" else 0o666)
        with tempfile.TemporaryDirectory() as other:
            done = run(NO_PERMISSION, path, other)
        assert done.stdout.strip() == str(path), done.stderr
        assert path.read_bytes() == before
        assert os.listdir(folder) == [path.name]
        folder.chmod(0o700)


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666])
def test_permissions_are_those_of_open(tmp_path, mode):
    umask = os.umask(0o027)
    try:
        trained().save(tmp_path / "new")
        (tmp_path / "usual").write_text("")
        (tmp_path / "old").write_text("")
        (tmp_path / "old").chmod(mode)
        trained().save(tmp_path / "old")
    finally:
        os.umask(umask)
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert (tmp_path / "old").stat().st_mode & 0o777 == mode


def test_a_symbolic_link_stays(tmp_path):
    (tmp_path / "there").mkdir()
    link = tmp_path / "link"
    link.symlink_to(Path("there", "m"))
    for _ in range(2):  # where there is no file yet, and where there is one
        trained().save(link)
        assert link.is_symlink()
        assert os.listdir(tmp_path / "there") == ["m"]
    assert_same(Network.load(link), trained())


def test_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in ("a", Path("b"), b"c", "d" * 255):
        trained().save(path)
        assert_same(Network.load(path), trained())
    assert sorted(os.listdir()) == ["a", "b", "c", "d" * 255]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names")
def test_a_pipe_is_not_replaced(tmp_path):
    # and so no device either, of which no test should try its luck on one that others use
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no regular file"):
        network().save(tmp_path / "pipe")
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_what_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError):
        network().save(tmp_path)
    with pytest.raises(IsADirectoryError):
        Network.load(tmp_path)
    with pytest.raises(FileNotFoundError) as caught:
        network().save(tmp_path / "no" / "m")
    assert caught.value.filename == str(tmp_path / "no" / "m")
    with pytest.raises(FileNotFoundError):
        Network.load(tmp_path / "m")
    assert os.listdir(tmp_path) == []


# --- pickle, copy, joblib -----------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(protocol):
    net = trained(Adam(0.01))
    assert_same(pickle.loads(pickle.dumps(net, protocol)), net)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, Network.copy])
def test_copies_share_nothing(copied):
    X, y = data()
    net = trained(Adam(0.01))
    twin = copied(net)
    assert_same(twin, net)
    before = net.parameters.copy()
    twin.fit(X, y)
    np.testing.assert_array_equal(net.parameters, before)
    net.fit(X, y)
    assert_same(twin, net)


def test_deepcopy_within_other_things():
    net = trained()
    things = copy.deepcopy({"a": net, "b": [net]})
    assert things["a"] is things["b"][0]
    assert_same(things["a"], net)


@pytest.mark.parametrize("mmap_mode", [None, "r"])
def test_joblib(tmp_path, mmap_mode):
    joblib = pytest.importorskip("joblib", reason="joblib is not installed")
    net = trained(Adam(0.01))
    joblib.dump(net, tmp_path / "m.joblib")
    loaded = joblib.load(tmp_path / "m.joblib", mmap_mode=mmap_mode)
    assert_same(loaded, net)
    loaded.fit(*data())
    net.fit(*data())
    assert_same(loaded, net)


CALLS = []


def counted(rng, n_in, n_out):
    CALLS.append((n_in, n_out))
    return rng.normal(size=(n_in, n_out))


def test_the_users_functions_are_pickled_by_name():
    X, y = data()
    net = Network(4, [Dense(2, init=counted)], loss=loss, optimizer=SGD(rate), seed=0)
    y = np.eye(3)[y][:, :2]
    net.fit(X, y)
    CALLS.clear()
    twins = [pickle.loads(pickle.dumps(net)), net.copy()]
    assert CALLS == []  # the weights are there
    for twin in twins:
        assert_same(twin, net)
        assert twin.layers[0].init is counted
    net.fit(X, y)
    for twin in twins:
        twin.fit(X, y)
        assert_same(twin, net)


def test_what_cannot_be_pickled_says_so():
    net = Network(4, [Dense(2)], optimizer=SGD(lambda step: 0.1))
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(net)


def test_a_copy_leaves_the_users_generator_alone():
    rng = np.random.default_rng(0)
    net = network(seed=rng)
    before = rng.bit_generator.state
    twin = net.copy()
    assert rng.bit_generator.state == before
    assert_same(twin, net)


def test_files_does_what_the_methods_do(tmp_path):
    net = trained()
    files.save(net, tmp_path / "m")
    assert_same(files.load(tmp_path / "m"), net)
