"""Callers without Python: C, C++, Cython, Numba, cffi and SciPy get what Python gets.

Networks of one row have one path in the engine, so that all of it is equal to the bit, but where
SciPy sums.
"""

import ctypes
import gc
import os
import runpy
import shutil
import subprocess
import sys
import weakref
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import LowLevelCallable, integrate, ndimage

import fastbp
from fastbp import (
    LBFGS,
    SGD,
    Adam,
    BatchNorm,
    Dense,
    Dropout,
    LayerNorm,
    Network,
    Normalize,
    Residual,
)
from fastbp.native import Layout
from fastbp.optimizers import OPTIMIZERS, Optimizer
from fastbp.schedules import Cosine, Exponential

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
DTYPES = ["float32", "float64"]
COMPILERS = {"C": shutil.which("cc") or shutil.which("gcc"),
             "C++": shutil.which("c++") or shutil.which("g++")}
STRICT = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-I", fastbp.get_include()]
LANGUAGES = {"C": ["-x", "c", "-std=c99"], "C++": ["-x", "c++", "-std=c++11"]}
FILTER = "int (double *, intptr_t, double *, void *)"
FUNCTION = "double (int, double *, void *)"
OK, NOT_FINITE, NEEDS_PYTHON, NO_MEMORY, BAD_LABEL, WRONG_TYPE, NO_STATISTICS = range(7)


def build(language, source, output, *options):
    """Compile a file of C or C++ as strictly as compilers do."""
    compiler = COMPILERS[language]
    if compiler is None:
        pytest.skip(f"there is no {language} compiler")
    subprocess.run(
        [compiler, *STRICT, *options, *LANGUAGES[language], str(source), "-o", str(output)],
        check=True,
    )
    return str(output)


# What the header declares, as functions that ctypes finds.
WRAPPERS = """
#include "fastbp.h"
#include <pthread.h>

#ifdef __cplusplus
extern "C" {
#endif

int predict_f32(const fastbp_network *network, const float *x, float *out)
{ return fastbp_predict_f32(network, x, out); }
int predict_f64(const fastbp_network *network, const double *x, double *out)
{ return fastbp_predict_f64(network, x, out); }
int learn_f32(fastbp_network *network, const float *x, const float *y, double *loss)
{ return fastbp_learn_f32(network, x, y, loss); }
int learn_f64(fastbp_network *network, const double *x, const double *y, double *loss)
{ return fastbp_learn_f64(network, x, y, loss); }
int learn_label_f32(fastbp_network *network, const float *x, ptrdiff_t label, double *loss)
{ return fastbp_learn_label_f32(network, x, label, loss); }
int learn_label_f64(fastbp_network *network, const double *x, ptrdiff_t label, double *loss)
{ return fastbp_learn_label_f64(network, x, label, loss); }

typedef struct {
    const fastbp_network *network;
    const float *X;
    float *out;
    ptrdiff_t n;
    int status;
} job;

static void *work(void *argument)
{
    job *mine = (job *)argument;
    for (ptrdiff_t i = 0; i < mine->n; i++)
        mine->status |= fastbp_predict_f32(
            mine->network, mine->X + i * mine->network->n_inputs,
            mine->out + i * mine->network->n_outputs);
    return 0;
}

/* All rows by each of eight threads: out is 8 x n x n_outputs. */
int predict_in_threads(const fastbp_network *network, const float *X, float *out, ptrdiff_t n)
{
    enum { THREADS = 8 };
    pthread_t threads[THREADS];
    job jobs[THREADS];
    int status = 0;
    for (int k = 0; k < THREADS; k++) {
        jobs[k].network = network;
        jobs[k].X = X;
        jobs[k].out = out + k * n * network->n_outputs;
        jobs[k].n = n;
        jobs[k].status = 0;
        if (pthread_create(&threads[k], 0, work, &jobs[k]))
            return -1;
    }
    for (int k = 0; k < THREADS; k++) {
        pthread_join(threads[k], 0);
        status |= jobs[k].status;
    }
    return status;
}

#ifdef __cplusplus
}
#endif
"""


@pytest.fixture(scope="module", params=LANGUAGES)
def library(request, tmp_path_factory):
    """WRAPPERS in C and in C++."""
    folder = tmp_path_factory.mktemp("native")
    source = folder / "wrappers.source"
    source.write_text(WRAPPERS, encoding="utf-8")
    output = folder / "wrappers.so"
    return ctypes.CDLL(build(request.param, source, output, "-shared", "-fPIC", "-pthread"))


PLAIN = [Dense(7, "tanh"), Dense(3)]


def network(dtype="float64", layers=PLAIN, **settings):
    return Network(5, layers, dtype=dtype, **{"seed": 0, **settings})


def classifier(dtype="float64", **settings):
    return network(dtype, [Dense(7, "relu"), Dense(4, "softmax")], loss="cross_entropy", **settings)


def rows(n, width=5, dtype="float64", seed=1):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(dtype)


def at(array):
    return array.ctypes.data_as(
        ctypes.POINTER(ctypes.c_float if array.dtype == "float32" else ctypes.c_double)
    )


def learn(net, x, y):
    """Status and loss of a step through ctypes."""
    loss = ctypes.c_double(-7)
    status = net.ctypes.learn(net.address, at(x), at(y), loss)
    return status, loss.value


def same_but_for_progress(one, other):
    """The same parameters and state of the optimizer, and as many steps."""
    for name in ("parameters", "optimizer", "statistics"):
        np.testing.assert_array_equal(one.state()[name], other.state()[name])
    assert one.n_steps == other.n_steps


# --- the header -----------------------------------------------------------------------------

LAYOUT = r"""
#include <stdio.h>
#include "fastbp.h"
#define FIELD(name) printf(#name " %u\n", (unsigned)offsetof(fastbp_network, name))
int main(void)
{
    FIELD(version); FIELD(item_size); FIELD(n_inputs); FIELD(n_outputs);
    FIELD(predict); FIELD(learn); FIELD(learn_label); FIELD(internal);
    printf("size %u\n", (unsigned)sizeof(fastbp_network));
    printf("VERSION %d\n", FASTBP_VERSION);
    printf("status %d %d %d %d %d %d %d %d\n", FASTBP_OK, FASTBP_NOT_FINITE, FASTBP_NEEDS_PYTHON,
           FASTBP_NO_MEMORY, FASTBP_BAD_LABEL, FASTBP_WRONG_TYPE, FASTBP_NO_STATISTICS,
           FASTBP_READ_ONLY);
    return 0;
}
"""


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_layout_is_what_python_reads(language, tmp_path):
    (tmp_path / "layout.source").write_text(LAYOUT, encoding="utf-8")
    program = build(language, tmp_path / "layout.source", tmp_path / "layout")
    found = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    *fields, size, version, status = found.splitlines()
    assert fields == [f"{name} {getattr(Layout, name).offset}" for name, _ in Layout._fields_]
    assert size == f"size {ctypes.sizeof(Layout)}"
    assert version == f"VERSION {Layout.from_address(network().address).version}"
    assert status == "status 0 1 2 3 4 5 6 7"


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_stands_at_the_address(dtype):
    net = network(dtype)
    found = Layout.from_address(net.address)
    assert (found.version, found.item_size) == (1, net.dtype.itemsize)
    assert (found.n_inputs, found.n_outputs) == (5, 3)
    assert net.address == net.address == net.ctypes.address
    assert net.copy().address != net.address


# --- predictions and steps ------------------------------------------------------------------

STACKS = {
    "dense": PLAIN,
    "normalize": [Normalize(), Dense(7, "gelu"), Dense(3)],
    "batch norm": [Dense(7), BatchNorm("relu"), Dense(3)],
    "layer norm": [Dense(7), LayerNorm("tanh"), Dense(3)],
    "residual": [Residual([Dense(9, "relu"), Dense(5)]), Dense(3)],
    "wide": [Dense(6000, "tanh"), Dense(3)],  # beyond the stack
    "penalties": [Dense(7, "silu", l1=0.01, l2=0.02, max_norm=1.0), Dense(3)],
    "frozen": [Dense(7, "tanh", trainable=False), Dense(3)],
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stack", STACKS)
def test_predictions(library, stack, dtype):
    net = network(dtype, STACKS[stack])
    if stack == "normalize":
        net.adapt(rows(20))
    function = library.predict_f32 if dtype == "float32" else library.predict_f64
    X, out = rows(4, dtype=dtype), np.empty((4, 3), dtype)
    for i in range(4):
        assert function(ctypes.c_void_p(net.address), at(X[i]), at(out[i])) == OK
        np.testing.assert_array_equal(out[i], net.predict(X[i]))
        assert net.ctypes.predict(net.address, at(X[i]), at(out[i])) == OK
        np.testing.assert_array_equal(out[i], net.predict(X[i]))


RULES = [
    *(kind() for kind in OPTIMIZERS.values() if issubclass(kind, Optimizer)),
    SGD(0.05, 0.9, nesterov=True, weight_decay=0.01),
    SGD(0.05, clip_norm=0.1),
    Adam(clip_value=0.01),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", RULES, ids=repr)
def test_steps(library, optimizer, dtype):
    net, twin = (network(dtype, optimizer=optimizer) for _ in range(2))
    function = library.learn_f32 if dtype == "float32" else library.learn_f64
    loss = ctypes.c_double()
    for i in range(20):
        x, y = rows(1, 5, dtype, 2 * i)[0], rows(1, 3, dtype, 2 * i + 1)[0]
        assert function(
            ctypes.c_void_p(net.address), at(x), at(y), ctypes.byref(loss)) == OK
        assert loss.value == twin.train_step(x, y)
    same_but_for_progress(net, twin)


@pytest.mark.parametrize("optimizer", [SGD(0.05), Adam(), SGD(0.05, clip_norm=0.1)], ids=repr)
@pytest.mark.parametrize("stack", STACKS)
def test_steps_of_every_kind_of_network(stack, optimizer):
    net, twin = (network(layers=STACKS[stack], optimizer=optimizer) for _ in range(2))
    for each in (net, twin) if stack == "normalize" else ():
        each.adapt(rows(20))
    for i in range(5):
        x, y = rows(1, seed=2 * i)[0], rows(1, 3, seed=2 * i + 1)[0]
        assert learn(net, x, y) == (OK, twin.train_step(x, y))
    same_but_for_progress(net, twin)


@pytest.mark.parametrize("dtype", DTYPES)
def test_steps_on_labels(library, dtype):
    net, twin = (classifier(dtype, optimizer="adam") for _ in range(2))
    function = library.learn_label_f32 if dtype == "float32" else library.learn_label_f64
    loss = ctypes.c_double()
    for i in range(20):
        x, label = rows(1, 5, dtype, i)[0], i % 4
        arguments = ctypes.c_void_p(net.address), at(x), ctypes.c_ssize_t(label)
        assert function(*arguments, ctypes.byref(loss)) == OK
        assert loss.value == twin.train_step(x, label)
        assert net.ctypes.learn_label(net.address, at(x), label, loss) == OK
        assert loss.value == twin.train_step(x, label)
    same_but_for_progress(net, twin)
    y = np.random.default_rng(2).dirichlet(np.ones(4)).astype(dtype)
    assert learn(net, x, y) == (OK, twin.train_step(x, y))  # probabilities


def test_it_follows_the_network():
    """Steps from Python and from without make one training."""
    net, twin = (network(optimizer=SGD(0.05)) for _ in range(2))
    X, y = rows(30), rows(30, 3, seed=2)
    address = net.address
    changes = [
        lambda each: each.fit(X, y, epochs=2),
        lambda each: setattr(each, "optimizer", SGD(0.02, 0.9)),
        lambda each: setattr(each, "optimizer", Adam(0.01)),
        # the first that wants the whole gradient
        lambda each: setattr(each, "optimizer", Adam(0.01, clip_norm=0.05)),
        lambda each: each.freeze(0),
        lambda each: setattr(each, "optimizer", SGD(0.02, clip_norm=0.05)),
        lambda each: each.unfreeze(0),
        lambda each: each.reinitialize(),
        lambda each: each.restore(each.state()),
    ]
    for change in changes:
        change(net)
        change(twin)
        for i in range(4):
            assert learn(net, X[i], y[i]) == (OK, twin.train_step(X[i], y[i]))
        same_but_for_progress(net, twin)
    assert net.address == address


def test_the_norm_of_a_gradient_leaves_frozen_layers_out():
    """What was gathered of a layer before it was frozen counts no longer."""
    net = Network(2, [Dense(2), Dense(1)], dtype="float64", seed=0,
                  optimizer=SGD(1.0, clip_norm=1e-3))
    x, y = np.array([100.0, 100.0]), np.array([1000.0])
    assert learn(net, x, y)[0] == OK
    net.freeze(0)
    before = net.parameters.copy()
    assert learn(net, x, y)[0] == OK
    # the gradient is far longer than 1e-3, so that the step is that long, up to some roundings
    length = np.linalg.norm(net.parameters - before)
    assert length == pytest.approx(1e-3, rel=1e-9)
    np.testing.assert_array_equal(net.parameters[:6], before[:6])


def test_what_is_dropped():
    """Each step drops inputs of its own, by the seed: rows of W that it leaves alone."""
    def dropped(seed):
        net = Network(200, [Dropout(0.3), Dense(1)], dtype="float64", seed=seed, optimizer=SGD(0.1))
        found = []
        for _ in range(50):
            before = net.weights[0].copy()
            assert learn(net, np.ones(200), np.array([50.0]))[0] == OK
            found.append((net.weights[0] == before)[:, 0])
        return np.array(found)

    first = dropped(1)
    # 10000 draws of probability 0.3: five standard deviations are 0.023
    assert abs(first.mean() - 0.3) < 0.023
    np.testing.assert_array_equal(first, dropped(1))
    assert not np.array_equal(first, dropped(2))
    assert not np.array_equal(first[0], first[1])


def test_random_numbers_of_the_network_are_left_alone():
    nets = [network(layers=[Dropout(0.5), Dense(7), Dense(3)]) for _ in range(2)]
    X, y = rows(20), rows(20, 3, seed=2)
    start = nets[0].parameters.copy()
    for _ in range(3):
        learn(nets[0], X[0], y[0])
    nets[0].parameters[...] = start
    for net in nets:
        net.fit(X, y)
    np.testing.assert_array_equal(nets[0].parameters, nets[1].parameters)


# --- statuses -------------------------------------------------------------------------------


def unchanged(net, status, call, *arguments):
    before = net.state()
    assert call(*arguments) == status
    np.testing.assert_equal(net.state(), before)


@pytest.mark.parametrize("optimizer", [SGD(), Adam(), SGD(clip_norm=1)], ids=repr)
def test_a_loss_that_is_not_finite(optimizer):
    net = network(optimizer=optimizer)
    y = rows(1, 3)[0]
    assert learn(net, rows(1)[0], y)[0] == OK
    before = net.state()
    status, loss = learn(net, np.full(5, np.nan), y)
    assert status == NOT_FINITE
    assert np.isnan(loss)
    assert learn(net, rows(1)[0], np.full(3, 1e200)) == (NOT_FINITE, np.inf)
    np.testing.assert_equal(net.state(), before)
    twin = net.copy()
    assert learn(net, rows(1)[0], y) == (OK, twin.train_step(rows(1)[0], y))


@ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_int, *[ctypes.POINTER(ctypes.c_double)] * 3,
                  ctypes.c_void_p)
def half_square(n, output, target, gradient, user_data):
    for j in range(n):
        gradient[j] = output[j] - target[j]
    return sum((output[j] - target[j]) ** 2 for j in range(n)) / 2


def in_python(outputs, targets):
    return ((outputs - targets) ** 2).sum(axis=1) / 2, outputs - targets


NEEDY = {
    "a schedule": {"optimizer": SGD(Cosine(0.1, 100))},
    "another schedule": {"optimizer": Adam(Exponential(0.1, 0.9))},
    "SciPy's minimizer": {"optimizer": LBFGS()},
    "a loss in Python": {"loss": in_python},
}


@pytest.mark.parametrize("settings", NEEDY.values(), ids=NEEDY)
def test_what_needs_python(settings):
    net = network(**settings)
    x, y = rows(1)[0], rows(1, 3)[0]
    unchanged(net, NEEDS_PYTHON, lambda: learn(net, x, y)[0])
    out = np.empty(3)
    assert net.ctypes.predict(net.address, at(x), at(out)) == OK
    np.testing.assert_array_equal(out, net.predict(x))
    if "loss" not in settings:  # and the other way round
        net.optimizer = SGD(0.1)
        twin = net.copy()
        assert learn(net, x, y) == (OK, twin.train_step(x, y))


def test_a_compiled_loss_needs_none():
    net, twin = (network(loss=LowLevelCallable(half_square)) for _ in range(2))
    x, y = rows(1)[0], rows(1, 3)[0]
    assert learn(net, x, y) == (OK, twin.train_step(x, y))
    same_but_for_progress(net, twin)


@pytest.mark.parametrize("label", [-1, 4, 2**40])
def test_labels_out_of_range(label):
    net = classifier()
    x, loss = rows(1)[0], ctypes.c_double()
    call = net.ctypes.learn_label
    unchanged(net, BAD_LABEL, call, net.address, at(x), label, loss)
    other = network()  # of squared error
    unchanged(other, BAD_LABEL, other.ctypes.learn_label, other.address, at(x), 1, loss)


def test_the_other_type(library):
    loss = ctypes.c_double()
    for dtype, other in (("float32", "f64"), ("float64", "f32")):
        net, x, memory = classifier(dtype), rows(1)[0], np.zeros(9)
        address, label = ctypes.c_void_p(net.address), ctypes.c_ssize_t(1)
        predict, step, on_label = (
            getattr(library, f"{name}_{other}") for name in ("predict", "learn", "learn_label"))
        unchanged(net, WRONG_TYPE, predict, address, at(x), at(memory))
        unchanged(net, WRONG_TYPE, step, address, at(x), at(memory), ctypes.byref(loss))
        unchanged(net, WRONG_TYPE, on_label, address, at(x), label, ctypes.byref(loss))
        assert not memory.any()
        wrong = np.zeros(9, "float64" if dtype == "float32" else "float32")
        with pytest.raises(ctypes.ArgumentError):
            net.ctypes.predict(net.address, at(wrong), at(wrong))


def test_before_there_are_statistics():
    net = network(layers=STACKS["normalize"])
    x, y, out = rows(1)[0], rows(1, 3)[0], np.full(3, 7.0)
    unchanged(net, NO_STATISTICS, net.ctypes.predict, net.address, at(x), at(out))
    unchanged(net, NO_STATISTICS, lambda: learn(net, x, y)[0])
    assert (out == 7).all()
    function = Network(1, [Normalize(), Dense(1)]).low_level_callable(FUNCTION)
    assert np.isnan(integrate.quad(function, 0, 1, full_output=1)[0])  # which keeps warnings back
    net.adapt(rows(20))
    twin = net.copy()
    assert learn(net, x, y) == (OK, twin.train_step(x, y))


NO_ROOM = """
import ctypes, resource
import numpy as np
from fastbp import Dense, Network

net = Network(1, [Dense(8_000_000), Dense(1)], seed=0)
x, out = np.ones(1, "f4"), np.full(1, 7, "f4")
pointer = ctypes.POINTER(ctypes.c_float)
call = lambda: net.ctypes.predict(
    net.address, x.ctypes.data_as(pointer), out.ctypes.data_as(pointer))
first = call()
assert out != 7
with open("/proc/self/statm") as file:
    pages = int(file.read().split()[0])
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**24, limits[1]))
out[:] = 7
second = call()         # wants 64 MB
resource.setrlimit(resource.RLIMIT_AS, limits)
print(first, second, call())
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is limited as on Linux")
def test_no_memory():
    done = subprocess.run([sys.executable, "-c", NO_ROOM], capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(OK), str(NO_MEMORY), str(OK)]


# --- threads and memory ---------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(7, 3), (6000, 3)], ids=["on the stack", "beyond the stack"])
def test_several_threads_predict_at_once(library, widths):
    layers = [Dense(widths[0], "tanh"), Dense(widths[1])]
    net = Network(5, layers, seed=0)
    X = rows(200 if widths[0] > 100 else 5000, dtype="float32")
    out = np.empty((8, len(X), 3), "float32")
    status = library.predict_in_threads(
        ctypes.c_void_p(net.address), at(X), at(out), ctypes.c_ssize_t(len(X)))
    assert status == OK
    expected = np.array([net.predict(x) for x in X])
    for found in out:
        np.testing.assert_array_equal(found, expected)


def first_output(net, *x):
    return float(net.predict(x)[0])


@pytest.mark.parametrize("signature", [FILTER, FUNCTION])
def test_a_low_level_callable_keeps_the_parameters_alive(signature):
    net = Network(3, [Dense(300, "tanh"), Dense(1)], dtype="float64", seed=0)
    call = net.low_level_callable(signature)
    array = np.random.default_rng(0).normal(size=20)
    expected = net.predict(np.lib.stride_tricks.sliding_window_view(array, 3))[:, 0]
    integral = integrate.quad(partial(first_output, net), 0, 1, args=(0.1, 0.2))
    memory = weakref.ref(net.parameters.base)
    gone = weakref.ref(net)
    del net
    gc.collect()
    noise = [np.full(1501, np.nan) for _ in range(50)]  # would land where the parameters were
    assert gone() is None
    assert memory() is not None
    assert len(noise) == 50
    if signature == FILTER:
        found = ndimage.generic_filter(array, call, size=3)[1:-1]
        # other paths of one row and of eighteen: sums of 300 terms
        np.testing.assert_allclose(found, expected, rtol=0, atol=300 * 2.3e-16)
    else:
        assert integrate.quad(call, 0, 1, args=(0.1, 0.2)) == integral
    del call
    gc.collect()
    assert memory() is None


# --- SciPy ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_generic_filter(dtype):
    net = Network(9, [Dense(12, "tanh"), Dense(1)], dtype=dtype, seed=0)
    image = rows(15, 11)
    found = ndimage.generic_filter(image, net.low_level_callable(), size=3, mode="constant")

    def in_python(patch):
        return net.predict(patch)[0]

    expected = ndimage.generic_filter(image, in_python, size=3, mode="constant")
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_quad(dtype):
    net = Network(1, [Dense(12, "tanh"), Dense(1)], dtype=dtype, seed=0)
    call = net.low_level_callable(FUNCTION)
    quad = partial(integrate.quad, a=-1, b=2, epsabs=1e-3)  # more than rounding to float32 makes
    assert quad(call) == quad(partial(first_output, net))
    net.parameters[...] *= 2  # it follows them
    assert quad(call) == quad(partial(first_output, net))


def test_nquad():
    net = Network(2, [Dense(12, "tanh"), Dense(1, "sigmoid")], dtype="float64", seed=0)
    call = net.low_level_callable(FUNCTION)
    ranges = [[0, 1], [-1, 0.5]]
    found, error = integrate.nquad(call, ranges)
    expected, _ = integrate.nquad(partial(first_output, net), ranges)
    assert found == expected
    assert error < 1e-10


def test_low_level_callables_of_another_width():
    """SciPy gives as many numbers as it has; the network takes as many as it has inputs."""
    call = Network(4, [Dense(1)], seed=0).low_level_callable()
    with pytest.raises(RuntimeError):
        ndimage.generic_filter(np.ones(9), call, size=3)
    function = Network(4, [Dense(1)], seed=0).low_level_callable(FUNCTION)
    assert np.isnan(integrate.quad(function, 0, 1, full_output=1)[0])


@pytest.mark.parametrize(("layers", "signature", "error", "message"), [
    ([Dense(1)], "double (double)", ValueError, "unknown signature 'double .double.'; valid are"),
    ([Dense(1)], None, TypeError, "signature must be one of 'int"),
    ([Dense(2)], FUNCTION, ValueError, "has one output, got a network of 2"),
    ([Dense(2)], FILTER, ValueError, "has one output, got a network of 2"),
])
def test_signatures(layers, signature, error, message):
    with pytest.raises(error, match=message):
        network(layers=layers).low_level_callable(signature)


# --- the examples ---------------------------------------------------------------------------


def signal(n=600):
    return np.sin(np.arange(n) * 0.1).astype(np.float32)


def forecaster():
    return Network(8, [Dense(16, "tanh"), Dense(1)], optimizer=SGD(0.05), seed=0)


def followed(net, values):
    """What the examples do, in Python."""
    guesses = np.zeros_like(values)
    for i in range(8, len(values)):
        guesses[i] = net.predict(values[i - 8 : i])[0]
        net.train_step(values[i - 8 : i], values[i])
    return guesses


def test_the_example_in_c(tmp_path):
    library = ctypes.CDLL(build("C", EXAMPLES / "embed.c", tmp_path / "embed.so", "-shared",
                                "-fPIC"))
    net, twin, values = forecaster(), forecaster(), signal()
    guesses = np.zeros_like(values)
    status = library.follow(ctypes.c_void_p(net.address), values.ctypes,
                            ctypes.c_ssize_t(len(values)), guesses.ctypes)
    assert status == OK
    np.testing.assert_array_equal(guesses, followed(twin, values))
    same_but_for_progress(net, twin)
    build("C++", EXAMPLES / "embed.c", tmp_path / "embed.o", "-c")


def test_the_example_in_cython(tmp_path):
    pytest.importorskip("Cython", reason="Cython compiles this example")
    if COMPILERS["C"] is None:
        pytest.skip("there is no C compiler")
    for name in ("setup.py", "embed_cython.pyx"):
        shutil.copy(EXAMPLES / name, tmp_path)
    # fastbp itself is where the tests have it
    path = os.pathsep.join([str(Path(fastbp.__file__).parent.parent), *filter(None, sys.path)])
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=tmp_path, check=True,
        env=os.environ | {"PYTHONPATH": path}, capture_output=True,
    )
    sys.path.insert(0, str(tmp_path))
    try:
        import embed_cython
    finally:
        sys.path.remove(str(tmp_path))
    net, twin, values = forecaster(), forecaster(), signal()
    guesses = np.zeros_like(values)
    assert embed_cython.follow(net.address, values, guesses) == OK
    np.testing.assert_array_equal(guesses, followed(twin, values))
    same_but_for_progress(net, twin)
    X, out = rows(100, 8, "float32"), np.empty((100, 1), "float32")
    assert embed_cython.predict_each(net.address, X, out, n_threads=2) == OK
    np.testing.assert_array_equal(out, [twin.predict(x) for x in X])


def test_the_example_with_numba():
    pytest.importorskip("numba", reason="Numba compiles this example")
    found = runpy.run_path(str(EXAMPLES / "numba_cfunc.py"))
    twin = forecaster()
    np.testing.assert_array_equal(found["guesses"], followed(twin, found["signal"]))
    same_but_for_progress(found["net"], twin)
    net = found["surface"]
    expected, _ = integrate.nquad(
        lambda *x: first_output(net, *x) ** 2 * np.exp(-x[0]), [[0, 1], [0, 1]])
    # exp is not NumPy's to the last bit, and some hundred terms are summed
    assert found["integral"] == pytest.approx(expected, rel=1e-13)


def test_the_example_with_cffi():
    pytest.importorskip("cffi", reason="cffi runs this example")
    found = runpy.run_path(str(EXAMPLES / "embed_cffi.py"))
    twin = Network(4, found["net"].layers, loss="cross_entropy", seed=0)
    assert (found["status"], found["learned"]) == (OK, OK)
    np.testing.assert_array_equal(found["out"], twin.predict(found["x"]))
    assert found["loss"][0] == twin.train_step(found["x"], 2)
    same_but_for_progress(found["net"], twin)
