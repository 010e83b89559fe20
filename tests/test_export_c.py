"""The C header against `predict` and `train_step`, built by the compilers found here.

`predict` and `train_step` are the oracle here: they are tested elsewhere, against `reference.py`,
finite differences and PyTorch, and share no code with the header.
"""

import ctypes
import itertools
import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastbp
from fastbp import (
    SGD,
    Adam,
    AdamW,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    Network,
    Normalize,
    Residual,
    losses,
)

ROOT = Path(__file__).resolve().parent.parent
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic"]
LANGUAGES = {
    "C99": (("cc", "gcc", "clang"), ["-std=c99"]),
    "C++11": (("c++", "g++", "clang++"), ["-std=c++11", "-x", "c++"]),
}


def compilers():
    """Each compiler with the flags of its language; one of two names is enough."""
    known = set()
    for language, (names, flags) in LANGUAGES.items():
        for name in names:
            found = shutil.which(name)
            if found is not None and os.path.realpath(found) in known:
                continue
            known.add(found and os.path.realpath(found))
            missing = pytest.mark.skipif(found is None, reason=f"no {name} on this machine")
            yield pytest.param(name, flags, id=f"{name} {language}", marks=missing)


COMPILERS = list(compilers())
needs_compiler = pytest.mark.skipif(
    shutil.which("cc") is None, reason="no C compiler on this machine"
)
ACTIVATIONS = [
    "identity", "sigmoid", "hard_sigmoid", "tanh", "relu", "relu6", "leaky_relu", "elu", "selu",
    "softplus", "softsign", "exponential", "gelu", "gelu_tanh", "silu", "mish",
    fastbp.activations.LeakyReLU(0.3), fastbp.activations.ELU(0.5),
    fastbp.activations.Softplus(3.0),
]
# Relative to the largest output: the order of the sums differs, and with it their rounding.
TOLERANCE = {"float32": 1e-6, "float64": 1e-13}
numbers = itertools.count()


def source_of(nets, train_step=False, isa=None, folder=None):
    """Write a header for each network, and return a C file that gives all of them a way in."""
    lines = []
    for k, net in enumerate(nets):
        net.export_c(folder / f"net{k}.h", name=f"net{k}", train_step=train_step, isa=isa)
        real = "float" if net.dtype == np.float32 else "double"
        lines.append(f'#include "net{k}.h"')
        functions = [
            (f"void predict{k}(const {real} *x, {real} *out)", f"net{k}_predict(x, out);"),
        ]
        if train_step:
            learner = f"net{k}_learner"
            functions += [
                (f"int size{k}(void)", f"return (int)sizeof({learner});"),
                (f"void init{k}({learner} *s)", f"net{k}_init(s);"),
                (f"double step{k}({learner} *s, const {real} *x, const {real} *y)",
                 f"return net{k}_train_step(s, x, y);"),
                (f"void with{k}(const {learner} *s, const {real} *x, {real} *out)",
                 f"net{k}_predict_with(&s->parameters, x, out);"),
            ]
        for head, body in functions:
            lines += ["#ifdef __cplusplus", 'extern "C"', "#endif", f"{head};",
                      f"{head} {{ {body} }}"]
    return "\n".join(lines) + "\n"


def build(nets, folder, compiler="cc", flags=("-std=c99",), optimize=("-O2",), **options):
    """Compile the headers of some networks into one library, and load it."""
    folder = Path(folder) / f"build{next(numbers)}"  # a library's name is loaded once
    folder.mkdir()
    source, library = folder / "all.c", folder / "all.so"
    source.write_text(source_of(nets, folder=folder, **options))
    subprocess.run(
        [compiler, *flags, *STRICT, *optimize, "-shared", "-fPIC", "-o", library, source],
        check=True,
    )
    loaded = ctypes.CDLL(str(library))
    loaded.folder = folder
    return loaded


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


def predicted(library, k, net, X):
    out = np.full((len(X), net.n_outputs), np.nan, net.dtype)
    for row, result in zip(X, out, strict=True):
        getattr(library, f"predict{k}")(pointer(row), pointer(result))
    return out


def assert_same(ours, expected, dtype, slack=1):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(ours, expected, rtol=0, atol=slack * TOLERANCE[dtype] * scale)


def inputs(net, rows=5, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, net.n_inputs)).astype(net.dtype)
    X[1::2] *= rng.random(net.n_inputs) < 0.5  # with zeros, which may be skipped
    return X


def randomized(net, seed=0):
    """Statistics and biases that are not those of a new network."""
    rng = np.random.default_rng(seed)
    for weight, bias in zip(net.weights, net.biases, strict=True):
        bias[...] = 0.3 * rng.normal(size=bias.shape)
        if weight.ndim == 1:
            weight[...] = 1 + 0.3 * rng.normal(size=weight.shape)
    for mean, spread in net.statistics:
        mean[...] = rng.normal(size=mean.shape)
        spread[...] = rng.uniform(0.5, 2, spread.shape)
    return net


def every_kind(dtype, **options):
    return randomized(Network(
        9,
        [
            Normalize(), Dense(40, "relu"), Dense(37), BatchNorm("elu"),
            Residual([LayerNorm("silu"), Dense(11, "gelu"), Residual([Dense(11, "tanh")]),
                      Dense(37)]),
            Dense(5, "relu6"), LayerNorm(), Dense(3, "softmax"),
        ],
        loss="cross_entropy", dtype=dtype, seed=0, **options,
    ))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("compiler", "flags"), COMPILERS)
def test_every_kind_of_layer(compiler, flags, dtype, tmp_path):
    net = every_kind(dtype)
    for optimize in (["-O0"], ["-O3"]):
        library = build([net], tmp_path, compiler, flags, optimize)
        X = inputs(net)
        assert_same(predicted(library, 0, net, X), net.predict(X), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@needs_compiler
def test_every_activation(dtype, tmp_path):
    nets = [
        Network(3, [Dense(19, activation), Dense(2)], dtype=dtype, seed=1)
        for activation in ACTIVATIONS
    ] + [
        Network(3, [Dense(7, activation)], dtype=dtype, seed=1)
        for activation in [*ACTIVATIONS, "softmax", "log_softmax"]
    ]
    library = build(nets, tmp_path, optimize=["-O3"])
    for k, net in enumerate(nets):
        X = inputs(net)
        assert_same(predicted(library, k, net, X), net.predict(X), dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@needs_compiler
def test_tails_of_activations(dtype, tmp_path):
    # Of an identity layer in front, the one input is what the activation is given.
    nets = [
        Network(1, [Dense(1, activation)], dtype=dtype, seed=0)
        for activation in ACTIVATIONS if activation != "exponential"
    ]
    for net in nets:
        net.parameters[:] = [1, 0]
    library = build(nets, tmp_path, optimize=["-O3"])
    X = np.array([[0], [-0.0], [1e-30], [-1e-5], [-9], [9], [-40], [40], [1e4], [-1e4]], dtype)
    for k, net in enumerate(nets):
        ours, expected = predicted(library, k, net, X), net.predict(X)
        # each for itself: what is far below the largest must be right, too
        tiny = np.finfo(dtype).tiny / TOLERANCE[dtype]
        np.testing.assert_allclose(ours, expected, rtol=10 * TOLERANCE[dtype], atol=tiny)


@needs_compiler
def test_nan_passes_through(tmp_path):
    nets = [Network(2, [Dense(3, each), Dense(2)], seed=0) for each in ACTIVATIONS]
    library = build(nets, tmp_path, optimize=["-O3"])
    for k, net in enumerate(nets):
        assert np.isnan(predicted(library, k, net, np.array([[np.nan, 1]], "f"))).all()


layer_lists = st.recursive(
    st.lists(
        st.one_of(
            st.builds(Dense, st.integers(1, 70), st.sampled_from(ACTIVATIONS)),
            st.builds(LayerNorm, st.sampled_from(ACTIVATIONS)),
            st.builds(BatchNorm, st.sampled_from(ACTIVATIONS)),
        ),
        min_size=0, max_size=3,
    ),
    lambda inner: st.tuples(inner, inner).map(lambda pair: [("residual", pair[0]), *pair[1]]),
    max_leaves=2,
)


def made(width, layers):
    """The layers, those of a residual ending as wide as they begin."""
    result = []
    for layer in layers:
        if isinstance(layer, tuple):
            layer = Residual([*made(width, layer[1]), Dense(width)])
        elif isinstance(layer, Dense):
            width = layer.units
        result.append(layer)
    return result


@settings(
    max_examples=8, deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    stacks=st.lists(
        st.tuples(st.integers(1, 70), layer_lists, st.integers(1, 40)), min_size=4, max_size=6
    ),
    dtype=st.sampled_from(["float32", "float64"]),
    isa=st.sampled_from([None, "sse4.2"]),
)
@needs_compiler
def test_any_stack(stacks, dtype, isa, tmp_path):
    nets = []
    for n_inputs, layers, n_outputs in stacks:
        net = Network(n_inputs, [*made(n_inputs, layers), Dense(n_outputs)], dtype=dtype, seed=0)
        nets.append(randomized(net))
    library = build(nets, tmp_path, isa=isa, optimize=["-O1"])
    for k, net in enumerate(nets):
        X = inputs(net)
        with np.errstate(all="ignore"):
            expected = net.predict(X)
            twin = Network(net.n_inputs, net.layers, dtype="float64", seed=0)
            twin.parameters[:] = net.parameters
            for ours, theirs in zip(twin.statistics, net.statistics, strict=True):
                ours[0][...], ours[1][...] = theirs
            exact = twin.predict(X.astype(np.float64))
        if not np.isfinite(expected).all():
            continue  # an exponential of an exponential
        # A chain of exponentials and normalisations may amplify any rounding: the engine's own
        # error, against double precision, says how much.
        own = np.abs(expected - exact).max() / np.abs(expected).max() if dtype == "float32" else 0
        slack = max(4, 8 * own / TOLERANCE[dtype]) if dtype == "float32" else 1000
        assert_same(predicted(library, k, net, X), expected, dtype, slack)


@pytest.mark.parametrize("isa", ["sse4.2", "avx2", "avx512"])
@needs_compiler
def test_instructions(isa, tmp_path):
    net = every_kind("float32")
    library = build([net], tmp_path, isa=isa)
    assembly = subprocess.run(
        ["objdump", "-d", library.folder / "all.so"], capture_output=True, text=True, check=True
    ).stdout if shutil.which("objdump") else None
    if assembly is not None and "x86-64" in assembly:
        assert ("%ymm" in assembly) == (isa != "sse4.2")
        assert ("vfmadd" in assembly) == (isa != "sse4.2")
    needed = {"sse4.2": "sse4_2", "avx2": "avx2", "avx512": "avx512bw"}[isa]
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists() or needed not in cpuinfo.read_text():
        pytest.skip(f"this processor is not known to have {isa}: built, not run")
    X = inputs(net)
    assert_same(predicted(library, 0, net, X), net.predict(X), "float32")


@pytest.mark.parametrize("optimize", ["-O0", "-O2", "-O3", "-Os"])
@pytest.mark.parametrize("train_step", [False, True])
@pytest.mark.parametrize(("compiler", "flags"), COMPILERS)
def test_object_wants_nothing_and_holds_nothing(compiler, flags, train_step, optimize, tmp_path):
    if shutil.which("nm") is None:
        pytest.skip("no nm on this machine to list symbols with")
    # so wide that loops which look like memcpy and memset would become calls of them
    wide = Network(
        2, [Dense(1000, "tanh"), Residual([LayerNorm(), Dense(2), Dense(1000)]), Dense(2),
            Dense(999)],
        loss="poisson", optimizer=AdamW(), seed=0,
    )
    nets = [every_kind("float32", optimizer=Adam(amsgrad=True)), every_kind("float64"), wide]
    source, target = tmp_path / "all.c", tmp_path / "all.o"
    source.write_text(source_of(nets, train_step, folder=tmp_path))
    subprocess.run(
        [compiler, *flags, *STRICT, optimize, "-c", "-o", target, source], check=True
    )
    listed = subprocess.run(["nm", target], capture_output=True, text=True, check=True).stdout
    kinds = {line.split()[-2] for line in listed.splitlines()}
    assert {"T", "r"} <= kinds | {"R"}
    assert kinds <= set("TtrRn"), listed  # no undefined, no initialised and no zeroed data


@needs_compiler
def test_two_headers_in_two_files(tmp_path):
    nets = {
        "first": Network(3, [Dense(4, "tanh"), Dense(2)], seed=0),
        "first_2": Network(2, [Dense(5, "gelu"), Dense(1)], dtype="float64", seed=1),
    }
    for name, net in nets.items():
        net.export_c(tmp_path / f"{name}.h", name=name, train_step=True)
    headers = '#include "first.h"\n#include "first_2.h"\n#include "first.h"\n'
    (tmp_path / "a.c").write_text(
        headers + "double other(void);\ndouble other(void)\n{\n"
        "    double x[FIRST_2_N_INPUTS] = {1, 2}, out[FIRST_2_N_OUTPUTS];\n"
        "    first_2_predict(x, out);\n    return out[0];\n}\n"
    )
    (tmp_path / "b.c").write_text(
        "#include <stdio.h>\n" + headers + "double other(void);\nint main(void)\n{\n"
        "    float x[FIRST_N_INPUTS] = {1, 2, 3}, out[FIRST_N_OUTPUTS];\n"
        '    first_predict(x, out);\n    printf("%.9g %.9g %.17g", out[0], out[1], other());\n'
        "    return 0;\n}\n"
    )
    subprocess.run(
        ["cc", "-std=c99", *STRICT, "-O2", "a.c", "b.c", "-o", "both"], cwd=tmp_path, check=True
    )
    printed = subprocess.run([tmp_path / "both"], capture_output=True, text=True, check=True).stdout
    *first, second = map(float, printed.split())
    assert_same(np.array(first), nets["first"].predict([1, 2, 3]), "float32")
    assert_same(second, nets["first_2"].predict([1, 2]), "float64")


def parameters_of(state, net):
    return np.frombuffer(state, net.dtype, net.n_parameters)


def assert_learns(net, library, k, X, Y):
    """50 steps of the header and of the network it was made of go the same way."""
    twin = net.copy()
    state = ctypes.create_string_buffer(getattr(library, f"size{k}")())
    getattr(library, f"init{k}")(state)
    step = getattr(library, f"step{k}")
    step.restype = ctypes.c_double
    np.testing.assert_array_equal(parameters_of(state, net), net.parameters)
    labels = net.loss.name == "cross_entropy"
    # Both round; 50 steps carry the difference on, and each adds its own.
    tolerance = 50 * TOLERANCE[net.dtype.name]
    for x, y in zip(X, Y, strict=True):
        target = np.eye(net.n_outputs, dtype=net.dtype)[y] if labels else y
        ours = step(state, pointer(x), pointer(target))
        expected = twin.train_step(x, y)
        assert ours == pytest.approx(expected, rel=tolerance, abs=tolerance)
        scale = np.abs(twin.parameters).max()
        np.testing.assert_allclose(
            parameters_of(state, net), twin.parameters, rtol=0, atol=tolerance * scale
        )
    assert np.abs(twin.parameters - net.parameters).max() > 1e-4
    out = np.full(net.n_outputs, np.nan, net.dtype)
    getattr(library, f"with{k}")(state, pointer(X[0]), pointer(out))
    assert_same(out, twin.predict(X[0]), net.dtype.name, 50)


OPTIMIZERS = [
    SGD(0.02),
    SGD(0.01, momentum=0.9),
    SGD(0.01, momentum=0.9, nesterov=True, weight_decay=0.01),
    SGD(0.01, momentum=0.8, dampening=0.5, clip_value=0.05),
    SGD(0.02, weight_decay=0.02),
    # A gradient that is rounding alone must not decide on a whole step: hence the epsilon.
    Adam(0.01, epsilon=1e-4),
    Adam(0.01, epsilon=1e-4, amsgrad=True, weight_decay=0.01, clip_value=0.1),
    AdamW(0.01, epsilon=1e-4, weight_decay=0.1, beta1=0.8),
]


@needs_compiler
def test_optimizers_learn_as_here(tmp_path):
    nets = []
    for optimizer in OPTIMIZERS:
        nets.append(randomized(Network(
            6, [Dense(33, "tanh", l2=0.01), Dense(8, "relu", l1=0.001), Dense(1)],
            optimizer=optimizer, dtype="float64", seed=0,
        )))
        nets.append(every_kind("float64", optimizer=optimizer))
    nets += [every_kind("float32", optimizer=SGD(0.02)),
             every_kind("float32", optimizer=SGD(0.02, momentum=0.5))]
    library = build(nets, tmp_path, train_step=True, optimize=["-O1"])
    rng = np.random.default_rng(0)
    for k, net in enumerate(nets):
        X = rng.normal(size=(50, net.n_inputs)).astype(net.dtype)
        X[:, 1] *= rng.random(50) < 0.5
        Y = rng.normal(size=(50, 1)).astype(net.dtype)
        if net.n_outputs > 1:
            Y = rng.integers(0, net.n_outputs, 50)
        assert_learns(net, library, k, X, Y)


PAIRINGS = [
    ("squared_error", "sigmoid"), ("squared_error", "softmax"), ("absolute_error", "identity"),
    (losses.Huber(0.3), "identity"), ("log_cosh", "identity"),
    (losses.Quantile([0.1, 0.5, 0.9]), "identity"), ("poisson", "exponential"),
    ("poisson", "softplus"), ("gamma", "exponential"), ("gamma", "softplus"),
    (losses.Tweedie(1.3), "exponential"), ("binary_cross_entropy", "sigmoid"),
    (losses.Tweedie(1.7), "softplus"), ("binary_cross_entropy", "hard_sigmoid"),
    ("cross_entropy", "softmax"), ("cross_entropy", "log_softmax"), ("cross_entropy", "sigmoid"),
    (losses.CrossEntropy(0.1), "softmax"), (losses.CrossEntropy(0.1), "softplus"),
    ("hinge", "identity"), ("squared_hinge", "tanh"), ("kullback_leibler", "softmax"),
    ("kullback_leibler", "sigmoid"), ("cosine", "identity"), ("squared_error", "log_softmax"),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@needs_compiler
def test_losses_and_activations_learn_as_here(dtype, tmp_path):
    rng = np.random.default_rng(0)
    nets = [
        randomized(Network(4, [Dense(6, hidden), Dense(3, last)], loss=loss, dtype=dtype,
                           optimizer=SGD(0.005), seed=0))
        for (loss, last), hidden in zip(PAIRINGS, itertools.cycle(ACTIVATIONS))
    ]
    library = build(nets, tmp_path, train_step=True, optimize=["-O1"])
    for k, net in enumerate(nets):
        X = 0.5 * rng.normal(size=(50, 4)).astype(dtype)
        Y = rng.random((50, 3)) + 0.1
        if net.loss.name in ("binary_cross_entropy", "kullback_leibler"):
            Y /= Y.sum(axis=1, keepdims=True)
        elif "hinge" in net.loss.name:
            Y = np.sign(Y - 0.6)
        Y = rng.integers(0, 3, 50) if net.loss.name == "cross_entropy" else Y.astype(dtype)
        assert_learns(net, library, k, X, Y)


@needs_compiler
def test_frozen_layers_stay(tmp_path):
    net = every_kind("float64", optimizer=SGD(0.1, momentum=0.5))
    nets = []
    for frozen in [(0,), (0, 1, 2), (3, 5), range(len(net.weights))]:
        twin = net.copy()
        twin.freeze(*frozen)
        nets.append(twin)
    library = build(nets, tmp_path, train_step=True)
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(50, 9)), rng.integers(0, 3, 50)
    for k, twin in enumerate(nets[:-1]):
        assert_learns(twin, library, k, X, Y)
    state = ctypes.create_string_buffer(library.size3())
    library.init3(state)
    library.step3(state, pointer(X[0]), pointer(np.eye(3)[0]))
    np.testing.assert_array_equal(parameters_of(state, net), net.parameters)


@needs_compiler
def test_a_loss_that_is_not_finite_changes_nothing(tmp_path):
    net = Network(2, [Dense(2)], optimizer=Adam(), seed=0)
    library = build([net], tmp_path, train_step=True)
    state = ctypes.create_string_buffer(library.size0())
    library.init0(state)
    before = state.raw
    library.step0.restype = ctypes.c_double
    y = np.zeros(2, "f")
    assert np.isnan(library.step0(state, pointer(np.array([np.nan, 0], "f")), pointer(y)))
    assert state.raw == before
    library.step0(state, pointer(np.ones(2, "f")), pointer(y))
    assert state.raw != before


def test_constants_read_back_exactly(tmp_path):
    for dtype in ("float32", "float64"):
        net = Network(40, [Dense(25)], dtype=dtype, seed=0)
        rng = np.random.default_rng(0)
        scales = 10.0 ** rng.uniform(-37, 37, net.n_parameters)
        net.parameters[:] = rng.normal(size=net.n_parameters) * scales
        net.parameters[:3] = [0, -0.0, 3]
        net.export_c(tmp_path / "m.h")
        text = (tmp_path / "m.h").read_text()
        found = re.findall(r"\bmodel_[wb]1\[\d+\].*?= \{(.*?)\}", text, re.S)
        read = np.array([float(each.rstrip("f")) for each in ",".join(found).split(",")], dtype)
        assert read.tobytes() == net.parameters.tobytes()


@pytest.mark.parametrize(
    ("name", "kind"),
    [("", ValueError), ("1st", ValueError), ("a-b", ValueError), ("a b", ValueError),
     ("_a", ValueError), ("a__b", ValueError), ("a_", ValueError), ("é", ValueError),
     ("a\n", ValueError), (None, TypeError), (b"a", TypeError)],
)
def test_names_that_are_no_identifiers(name, kind, tmp_path):
    net = Network(2, [Dense(2)], seed=0)
    with pytest.raises(kind, match="name must be"):
        net.export_c(tmp_path / "m.h", name=name)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_named(tmp_path):
    def refused(error, match, *, layers=(), train_step=True, **options):
        net = Network(2, [*layers, Dense(2)], seed=0, **options)
        with pytest.raises(error, match=match):
            net.export_c(tmp_path / "m.h", train_step=train_step)
        assert list(tmp_path.iterdir()) == []

    refused(TypeError, "SGD, Adam or AdamW, got Lion", optimizer="lion")
    refused(TypeError, "SGD, Adam or AdamW, got LBFGS", optimizer="lbfgs")
    refused(TypeError, "clip_norm", optimizer=SGD(clip_norm=1.0))
    refused(TypeError, "noise", optimizer=SGD(noise=0.1))
    refused(TypeError, "number, got Cosine",
            optimizer=SGD(fastbp.schedules.Cosine(0.1, 10)))
    refused(TypeError, "dropout", layers=[Dense(2), Dropout(0.1)])
    refused(TypeError, "dropout", layers=[Residual([Dense(2), Dropout(0.1), Dense(2)])])
    refused(TypeError, "max_norm", layers=[Dense(2, max_norm=1.0)])
    refused(TypeError, "loss of your own", loss=lambda a, y: ((a - y).sum(axis=1), a))
    refused(RuntimeError, "no statistics yet", layers=[Normalize()], train_step=False)
    refused(TypeError, "train_step must be True or False", train_step=1)
    net = Network(2, [Dense(2), BatchNorm(), Dense(2)], seed=0)
    with pytest.raises(ValueError, match=r"isa must be None or one of 'sse4\.2'"):
        net.export_c(tmp_path / "m.h", isa="native")
    for array in (net.parameters, net.statistics[0][1]):
        array[0], kept = np.nan, array[0]
        with pytest.raises(ValueError, match="must be finite"):
            net.export_c(tmp_path / "m.h")
        array[0] = kept
    net.export_c(tmp_path / "m.h")  # and is fine otherwise


def test_comment_cannot_be_broken_out_of(tmp_path):
    def begin(rng, n_in, n_out):
        return rng.normal(size=(n_in, n_out))

    begin.__qualname__ = "é*/ int x; /*"
    Network(2, [Dense(2, init=begin)], seed=0).export_c(tmp_path / "m.h")
    text = (tmp_path / "m.h").read_text("ascii")
    assert "int x" not in re.sub(r"/\*.*?\*/", "", text, flags=re.S)


@needs_compiler
def test_fast_math_is_refused(tmp_path):
    net = Network(2, [Dense(2, "tanh")], seed=0)
    net.export_c(tmp_path / "m.h")
    made = subprocess.run(
        ["cc", "-ffast-math", "-fsyntax-only", "-x", "c", tmp_path / "m.h"],
        capture_output=True, text=True, check=False,
    )
    assert made.returncode != 0
    assert "-ffast-math breaks" in made.stderr


def test_old_file_stays_where_the_new_cannot_be_written(tmp_path, monkeypatch):
    path = tmp_path / "m.h"
    path.write_text("old")
    path.chmod(0o640)
    net = Network(2, [Dense(2)], seed=0)

    def fails(*arguments):
        raise OSError("disk full")

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(f"os.{name}", fails)
            with pytest.raises(OSError, match="disk full"):
                net.export_c(path)
        assert path.read_text() == "old"
        assert list(tmp_path.iterdir()) == [path]
    net.export_c(path)
    assert path.read_text().startswith("/*")
    assert path.stat().st_mode & 0o777 == 0o640
    with pytest.raises(OSError, match="nowhere"):
        net.export_c(tmp_path / "nowhere" / "m.h")
    with pytest.raises(IsADirectoryError):
        net.export_c(tmp_path)


def test_page_builds_and_runs(tmp_path, monkeypatch):
    """The C program of docs/c.md, with the header that the Python above it writes."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler on this machine")
    page = (ROOT / "docs" / "c.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    exec("\n".join(re.findall(r"```python\n(.*?)```", page, re.S)), {"__name__": "__main__"})
    programs = re.findall(r"```c\n(.*?)```\n\n```text\n(.*?)```", page, re.S)
    assert len(programs) == 2
    for program, expected in programs:
        Path("main.c").write_text(program)
        subprocess.run(["cc", "-std=c99", *STRICT, "-O3", "main.c", "-o", "main"], check=True)
        printed = subprocess.run(["./main"], capture_output=True, text=True, check=True).stdout
        assert printed == expected
