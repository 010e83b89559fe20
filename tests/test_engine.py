"""The engine's paths, variants and threads: all compute the same network."""

import copy
import importlib
import os
import platform
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest
from reference import ReferenceNetwork

from fastbp import (
    SGD,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    Network,
    Normalize,
    Residual,
    __version__,
    _dispatch,
    show_config,
)

DTYPES = ["float32", "float64"]
# Sums of up to 2000 products, in another order than NumPy's: a few times sqrt(2000) roundings,
# relative to the largest entry.
TOLERANCE = {"float32": 2e-5, "float64": 4e-14}
# From one row over odd counts to more than a pass holds (1024), and the widths to either side of
# vectors, tiles and panels; the last has weights that are laid out in panels (2 MiB and more).
ROWS = [1, 2, 3, 7, 8, 9, 24, 63, 64, 65, 200, 1030]
WIDTHS = [
    [1, 1], [1, 5, 1], [3, 1, 3], [16, 32, 1], [17, 10, 33], [31, 48, 15], [65, 100, 7],
    [129, 300, 2], [800, 1100, 5],
]


def problem(widths, rows, dtype, hidden="relu"):
    """A network, and data of its dtype that are in [-1, 1] with a few zeros."""
    net = Network(
        widths[0],
        [*(Dense(n, hidden) for n in widths[1:-1]), Dense(widths[-1])],
        optimizer=SGD(0.01), dtype=dtype, seed=len(widths) + rows,
    )
    rng = np.random.default_rng(rows)
    for bias in net.biases:
        bias[:] = rng.uniform(0.1, 1, bias.shape)
    X = rng.uniform(-1, 1, (rows, widths[0])).astype(dtype)
    X[rng.random(X.shape) < 0.2] = 0
    return net, X, rng.uniform(-1, 1, (rows, widths[-1])).astype(dtype)


def every_kind(rows, dtype, optimizer="sgd"):
    """A network with a layer of each kind, wide enough for threads, and data of its dtype."""
    layers = [
        Normalize(), Dropout(0.1), Dense(257, "gelu"), BatchNorm("silu"), Dropout(0.2),
        Residual([LayerNorm("tanh"), Dense(300, "relu"), BatchNorm(), Dense(257)]),
        LayerNorm("gelu"), Dense(3),
    ]
    net = Network(130, layers, optimizer=optimizer, dtype=dtype, seed=rows)
    rng = np.random.default_rng(rows)
    for bias in net.biases:
        bias[:] = rng.uniform(-1, 1, bias.shape)
    X = rng.uniform(-1, 1, (rows, 130)).astype(dtype)
    net.adapt(rng.uniform(-1, 1, (50, 130)))
    return net, X, rng.uniform(-1, 1, (rows, 3)).astype(dtype)


def largest_error(result, expected):
    return np.abs(result - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("hidden", ["relu", "tanh"])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_every_path_against_reference(widths, hidden, dtype):
    for rows in ROWS:
        net, X, y = problem(widths, rows, dtype, hidden)
        activations = [layer.activation for layer in net.layers]
        reference = ReferenceNetwork.from_flat(
            net.parameters.astype(float), widths, activations, "squared_error"
        )
        if hidden == "relu":  # which rounding may open or close where Z is as good as zero
            logits, _ = reference.forward(X.astype(float))
            clear = np.all([(np.abs(Z) > 1e-5).all(axis=1) for Z in logits], axis=0)
            X[~clear] = X[np.flatnonzero(clear)[: (~clear).sum()]]
        expected = reference.predict(X.astype(float))
        assert largest_error(net.predict(X), expected) < TOLERANCE[dtype], rows
        loss, gradient = net.loss_and_gradient(X, y)
        exact = X.astype(float), y.astype(float)
        assert loss == pytest.approx(reference.loss_value(*exact), rel=10 * TOLERANCE[dtype])
        expected = reference.gradient(*exact)
        assert largest_error(gradient, expected) < TOLERANCE[dtype], rows


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("threads", [2, 3, 5])
def test_bits_do_not_depend_on_threads(threads, dtype, monkeypatch):
    monkeypatch.setattr(_dispatch.engine, "usable_cores", lambda: threads)
    for widths in [[300, 257, 130, 1], [800, 1100, 70], [500, 1, 700]]:
        for rows in (64, 250, 1100):
            one, X, y = problem(widths, rows, dtype)
            many, _, _ = problem(widths, rows, dtype)
            np.testing.assert_array_equal(
                many.predict(X, n_threads=threads), one.predict(X)
            )
            first, second = np.empty_like(one.parameters), np.empty_like(one.parameters)
            assert (many._plan.loss_and_gradient(X, y, None, first, threads)
                    == one._plan.loss_and_gradient(X, y, None, second, 1))
            np.testing.assert_array_equal(first, second)
            order = np.random.default_rng(0).permutation(rows)
            for batch in (rows, 60):
                assert (many._plan.epoch(X, y, None, order, batch, 1e-4, threads)
                        == one._plan.epoch(X, y, None, order, batch, 1e-4, 1))
                np.testing.assert_array_equal(many.parameters, one.parameters)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("widths", WIDTHS, ids=str)
def test_an_order_is_rows_rearranged(widths, threads, optimizer, dtype, monkeypatch):
    """Bit for bit, whether the first layer finds its rows one by one or they are copied."""
    monkeypatch.setattr(_dispatch.engine, "usable_cores", lambda: threads)
    for rows in ROWS:
        net, X, y = problem(widths, rows, dtype)
        twin, _, _ = problem(widths, rows, dtype)
        net.optimizer = twin.optimizer = optimizer
        order = np.random.default_rng(rows).integers(rows, size=rows)  # some twice, some not at all
        for batch in (rows, 60):
            assert (net._plan.epoch(X, y, None, order, batch, 1e-3, threads)
                    == twin._plan.epoch(X[order], y[order], None, None, batch, 1e-3, threads))
            np.testing.assert_array_equal(net.parameters, twin.parameters)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", ["sgd", "adam", SGD(0.01, clip_norm=0.1)], ids=str)
def test_bits_of_every_kind_of_layer_do_not_depend_on_threads(optimizer, dtype, monkeypatch):
    monkeypatch.setattr(_dispatch.engine, "usable_cores", lambda: 3)
    for rows in (70, 250, 1100):
        results = []
        for threads in (1, 2, 3):
            net, X, y = every_kind(rows, dtype, optimizer)
            net.fit(X, y, epochs=2, batch_size=rows, n_threads=threads)
            results.append([
                net.parameters, net.state()["statistics"], net.predict(X, n_threads=threads),
                net.loss_and_gradient(X, y, n_threads=threads)[1],
            ])
        for result in results[1:]:
            for found, expected in zip(result, results[0], strict=True):
                np.testing.assert_array_equal(found, expected)


def test_threads_of_the_public_calls_are_gone_after_them():
    if not os.path.isdir("/proc/self/task"):
        pytest.skip("the threads of a process are counted through /proc")
    net, X, y = problem([500, 600, 3], 400, "float32")
    before = len(os.listdir("/proc/self/task"))
    twin, _, _ = problem([500, 600, 3], 400, "float32")
    net.fit(X, y, epochs=2, batch_size=200, n_threads=2)
    twin.fit(X, y, epochs=2, batch_size=200)
    np.testing.assert_array_equal(net.parameters, twin.parameters)
    np.testing.assert_array_equal(net.predict(X, n_threads=64), twin.predict(X))
    assert net.evaluate(X, y, n_threads=2) == twin.evaluate(X, y)
    np.testing.assert_array_equal(
        net.loss_and_gradient(X, y, n_threads=2)[1], twin.loss_and_gradient(X, y)[1]
    )
    assert len(os.listdir("/proc/self/task")) == before


@pytest.mark.skipif(
    platform.machine().lower() not in ("x86_64", "amd64", "aarch64", "arm64"),
    reason="no other processor's mode is known to the engine",
)
@pytest.mark.skipif(_dispatch.variant == "portable", reason="BLAS may have threads of its own")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [1, 3, 40, 600])
def test_denormals_are_zero_in_the_engine_and_nowhere_else(rows, dtype, monkeypatch):
    monkeypatch.setattr(_dispatch.engine, "usable_cores", lambda: 2)
    tiny = np.finfo(dtype).tiny
    net = Network(600, [Dense(500), Dense(3)], dtype=dtype, seed=0)
    net.weights[0][:] = tiny / 1024
    net.weights[1][:] = 1
    for n_threads in (1, 2):
        assert not net.predict(np.ones((rows, 600), dtype), n_threads=n_threads).any()
    net.weights[0][:] = tiny * 4
    assert not net.predict(np.full((rows, 600), 0.125, dtype)).any()
    assert net.predict(np.full((rows, 600), 0.5, dtype)).all()
    # the update, too: a gradient that is no normal number moves nothing
    net.weights[0][:] = 0
    net.fit(np.full((rows, 600), tiny, dtype), np.full((rows, 3), 0.01, dtype), batch_size=rows)
    assert not net.weights[0].any()
    assert (np.full(4, tiny, dtype) / 2).all()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork_between_calls_with_threads():
    code = """
import os, numpy as np
from fastbp import Dense, Network
X = np.ones((300, 500), "f4")
def fit():
    net = Network(500, [Dense(600, "relu"), Dense(1)], seed=0)
    net.fit(X, X[:, 0], epochs=2, batch_size=150, n_threads=2)
    return net.parameters
here = fit()
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(fit(), here) else 1)
assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(fit(), here)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize("bad", [0, -1, 1.5, "2", None, True, 2**31])
def test_bad_n_threads(bad):
    net, X, y = problem([3, 2], 4, "float32")
    calls = [
        lambda: net.predict(X, n_threads=bad), lambda: net.evaluate(X, y, n_threads=bad),
        lambda: net.loss_and_gradient(X, y, n_threads=bad), lambda: net.fit(X, y, n_threads=bad),
    ]
    before = net.parameters.copy()
    for call in calls:
        with pytest.raises((TypeError, ValueError), match="n_threads"):
            call()
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize(("made", "batch_size"), [
    pytest.param(lambda rows, dtype: problem([129, 300, 33, 2], rows, dtype), 2, id="dense"),
    pytest.param(every_kind, 16, id="every kind"),
])
@pytest.mark.parametrize("name", _dispatch.available_variants())
def test_variants_agree(name, made, batch_size):
    """To rounding: they sum in the same order, with and without fused multiply-add.

    A column that is next to constant in a batch is divided by its deviation, and what is rounding
    there grows from step to step. It takes batches that are not tiny.
    """
    engine = importlib.import_module(f"fastbp.engine.{name}")
    for dtype in DTYPES:
        for rows in (1, 5, 64):
            net, X, y = made(rows, dtype)
            other = engine.Plan(
                [record.for_engine() for record in net._records],
                (engine.LOSSES["squared_error"], 0.0, (), None), net.dtype,
            )
            other.parameters[:] = net.parameters
            other.statistics[:] = net.state()["statistics"]
            assert largest_error(other.predict(X), net.predict(X)) < TOLERANCE[dtype]
            gradient = np.empty_like(net.parameters)
            other.loss_and_gradient(X, y, None, gradient)
            assert largest_error(gradient, net.loss_and_gradient(X, y)[1]) < TOLERANCE[dtype]
            other.set_optimizer(engine.OPTIMIZERS["sgd"], {})
            key = int(copy.deepcopy(net._progress.rng).integers(2**63))
            other.epoch(X, y, None, None, batch_size, 0.01, 1, key)
            net.fit(X, y, batch_size=batch_size, shuffle=False)
            assert largest_error(other.parameters, net.parameters) < TOLERANCE[dtype]
            if len(other.statistics):
                gathered = net.state()["statistics"]
                assert largest_error(other.statistics, gathered) < TOLERANCE[dtype]


def run_with_isa(isa, code):
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "FASTBP_ISA": isa},
        capture_output=True, text=True, timeout=120,
    )


@pytest.mark.parametrize("name", _dispatch.available_variants())
def test_fastbp_isa_picks_the_variant(name):
    result = run_with_isa(name, "import fastbp; fastbp.show_config()")
    assert result.returncode == 0, result.stderr
    assert any(line.split() == ["engine", name] for line in result.stdout.splitlines())
    slow = name != _dispatch.available_variants()[0]
    assert ("WARNING: a slow path" in result.stdout) == slow


def test_show_config_of_a_source_tree_that_is_not_installed(monkeypatch, capsys):
    def version(name, of=metadata.version):
        if name == "fastbp":
            raise metadata.PackageNotFoundError(name)
        return of(name)

    monkeypatch.setattr(metadata, "version", version)
    show_config()
    assert ["fastbp", __version__] in map(str.split, capsys.readouterr().out.splitlines())


@pytest.mark.parametrize("isa", ["sse9", "X86_64_V3", "neon,portable"])
def test_unknown_fastbp_isa(isa):
    result = run_with_isa(isa, "import fastbp")
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    assert message.startswith("ImportError: ") and repr(isa) in message
    for name in _dispatch.available_variants():
        assert name in message


def test_sizes_beyond_memory_and_integers():
    with pytest.raises(MemoryError, match="parameters"):
        Network(2**31 - 1, [Dense(2**31 - 1)])
    with pytest.raises(MemoryError, match="parameters"):
        Network(2**20, [Dense(2**25)])
    with pytest.raises(ValueError, match="units"):
        Dense(2**31)
