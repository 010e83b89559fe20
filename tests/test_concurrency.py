"""Python threads that share a network, or SciPy's BLAS, and must not disturb each other.

All of it runs in processes of its own: what is guarded against are crashes and calls that never
return, and neither may take pytest with it.
"""

import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest

N_THREADS = 4
# Generous: each script takes a few seconds. Only a call that never returns reaches it.
TIMEOUT_SECONDS = 120


def run_script(script, *arguments):
    """The object a script prints as JSON; a crash or a hang fails the test."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script, *map(json.dumps, arguments)],
        # glibc then fills freed memory with bytes that make NaN: who still uses it is found out.
        env=os.environ | {"MALLOC_PERTURB_": "255"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


IN_THREADS = """
import json, sys, threading
import numpy as np
from fastbp import SGD, Dense, Network

def in_threads(*calls):
    "Run every call in a thread of its own, all from the same moment; what each gave or raised."
    barrier, results = threading.Barrier(len(calls)), [None] * len(calls)
    def run(index, call):
        barrier.wait()
        try:
            results[index] = call()
        except Exception as error:
            results[index] = error
    threads = [threading.Thread(target=run, args=item) for item in enumerate(calls)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
"""


CONCURRENT_PREDICT = IN_THREADS + """
n_threads, widths, rows, repeats, dtype = map(json.loads, sys.argv[1:])
layers = [Dense(width, "relu") for width in widths[1:-1]] + [Dense(widths[-1], "softmax")]
network = Network(widths[0], layers, loss="cross_entropy", dtype=dtype, seed=0)
rng = np.random.default_rng(0)
inputs = [rng.standard_normal((rows, widths[0])).astype(dtype) for _ in range(n_threads)]
before = network.parameters.tobytes()
alone = [network.predict(X).tobytes() for X in inputs]

def predict_often(X, expected):
    out = np.empty((rows, widths[-1]), dtype)
    wrong = 0
    for _ in range(repeats):
        wrong += network.predict(X).tobytes() != expected
        wrong += network.predict(X, out=out).tobytes() != expected
        wrong += network.predict(X[0]).shape != (widths[-1],)
    return wrong

results = in_threads(*[
    lambda X=X, expected=expected: predict_often(X, expected)
    for X, expected in zip(inputs, alone)
])
print(json.dumps({
    "results": [str(result) for result in results],
    "unchanged": network.parameters.tobytes() == before,
    "parameters": network.parameters.astype(float).tolist(),
    "row": inputs[-1][0].astype(float).tolist(),
    "prediction": network.predict(inputs[-1][0]).astype(float).tolist(),
}))
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("widths", "rows", "repeats"),
    [([3, 5, 2], 1, 2000), ([64, 128, 10], 8, 500), ([64, 256, 256, 10], 500, 10)],
    ids=["tiny", "small", "large enough to release the GIL"],
)
def test_concurrent_predict(widths, rows, repeats, dtype):
    found = run_script(CONCURRENT_PREDICT, N_THREADS, widths, rows, repeats, dtype)
    assert found["results"] == ["0"] * N_THREADS  # no call gave other bits than it gives alone
    assert found["unchanged"]
    # And what they all gave is right.
    parameters, A = np.array(found["parameters"]), np.array(found["row"])
    for n_in, n_out in itertools.pairwise(widths):
        W, b = parameters[: n_in * n_out].reshape(n_in, n_out), parameters[n_in * n_out :][:n_out]
        parameters = parameters[(n_in + 1) * n_out :]
        Z = A @ W + b
        A = np.maximum(Z, 0)
    expected = np.exp(Z) / np.exp(Z).sum()
    # Sums of up to 256 terms, in three layers, of the size of 1.
    tolerance = 3 * 256 * np.finfo(dtype).eps
    np.testing.assert_allclose(found["prediction"], expected, rtol=0, atol=tolerance)


SEPARATE_NETWORKS = IN_THREADS + """
n_threads, dtype = map(json.loads, sys.argv[1:])
rng = np.random.default_rng(0)
X, y = rng.standard_normal((300, 200)).astype(dtype), rng.standard_normal((300, 30)).astype(dtype)

def train(seed):
    layers = [Dense(190, "tanh"), Dense(170, "relu"), Dense(30)]
    network = Network(200, layers, optimizer=SGD(0.01), dtype=dtype, seed=seed)
    network.fit(X, y, epochs=2, batch_size=100)
    loss, gradient = network.loss_and_gradient(X, y)
    return loss, gradient.tobytes(), network.parameters.tobytes(), network.predict(X).tobytes()

alone = [train(seed) for seed in range(n_threads)]
together = in_threads(*[lambda seed=seed: train(seed) for seed in range(n_threads)])
print(json.dumps([one == other for one, other in zip(alone, together)]))
"""


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_separate_networks_train_at_once(dtype):
    # Backpropagation calls gemm untransposed, and with either operand transposed: the mix that
    # races inside OpenBLAS when several threads call it (OpenMathLib/OpenBLAS#5836).
    assert run_script(SEPARATE_NETWORKS, N_THREADS, dtype) == [True] * N_THREADS


ONE_NETWORK = IN_THREADS + """
rng = np.random.default_rng(0)
X, y = rng.standard_normal((500, 64)), rng.standard_normal((500, 4))

def make_network():
    layers = [Dense(128, "tanh"), Dense(4)]
    return Network(64, layers, optimizer=SGD(1e-3), dtype="float64", seed=0)

sys.setswitchinterval(1e-5)
rounds = []
for _ in range(30):
    network = make_network()
    # Batches of other sizes want other buffers: while one thread uses its own, which are small,
    # the next calls for larger ones.
    calls = {
        "fit in small batches": lambda: network.fit(X, y, epochs=2, batch_size=5),
        "train_step": lambda: [network.train_step(X[:50], y[:50]) for _ in range(20)],
        "fit in large batches": lambda: network.fit(X, y, epochs=2, batch_size=200),
        "loss_and_gradient": lambda: network.loss_and_gradient(X, y),
        "predict": lambda: [network.predict(X) for _ in range(5)],
    }
    results = dict(zip(calls, in_threads(*calls.values())))
    finite = bool(np.isfinite(network.parameters).all())
    # What is left is a network like any other: it goes on as one that was given its parameters.
    twin = make_network()
    twin.parameters[:] = network.parameters
    for one in (network, twin):
        one.fit(X, y, batch_size=50, shuffle=False)
    rounds.append({
        "errors": {
            name: [type(result).__name__, str(result)]
            for name, result in results.items() if isinstance(result, Exception)
        },
        "calls": len(calls),
        "finite": finite,
        "usable": network.parameters.tobytes() == twin.parameters.tobytes(),
    })
print(json.dumps(rounds))
"""


def test_threads_that_train_one_network():
    # Not a way to train: calls may be refused, but never crash or leave the network broken.
    for found in run_script(ONE_NETWORK):
        for name, (kind, message) in found["errors"].items():
            assert kind == "RuntimeError", f"{name}: {message}"
            assert name != "predict", message
            assert "train" in message
            assert "thread" in message
        # A call is refused because of another one, so that not all of them are.
        assert len(found["errors"]) < found["calls"] - 1
        assert found["finite"]
        assert found["usable"]


BOUND_CALLS = IN_THREADS + """
widths, rows, repeats, n_classes = map(json.loads, sys.argv[1:])
layers = [Dense(width, "relu") for width in widths[1:-1]] + [Dense(widths[-1], "softmax")]

def make_network():
    return Network(widths[0], layers, loss="cross_entropy", optimizer=SGD(1e-3), seed=0)

sys.setswitchinterval(1e-5)
rng = np.random.default_rng(0)
X = rng.standard_normal((rows, widths[0])).astype(np.float32)
y = rng.integers(n_classes, size=rows)

def count(call, expected=None):
    "How often a call went well, was refused, and was wrong."
    found = {"right": 0, "refused": [], "wrong": 0}
    for _ in range(repeats):
        try:
            result = call()
        except RuntimeError as error:
            found["refused"].append(str(error))
        else:
            right = expected is None or result.tobytes() == expected
            found["right" if right else "wrong"] += 1
    return found

def relabel():
    "Another thread's labels: some are out of range."
    for _ in range(repeats):
        y[rng.integers(rows)] = 2**40
        y[:] = rng.integers(n_classes, size=rows)

def one_call():
    net = make_network()
    predict = net.bind(X, np.empty((rows, n_classes), np.float32))
    expected = net.predict(X).tobytes()
    # whoever is not refused has the array to himself until the GIL is let go
    return in_threads(*[lambda: count(lambda: predict().copy())] * 3), \
        predict().tobytes() == expected

def own_calls():
    net = make_network()
    expected = net.predict(X).tobytes()
    calls = [net.bind(X, np.empty((rows, n_classes), np.float32)) for _ in range(3)]
    return in_threads(*[lambda call=call: count(call, expected) for call in calls])

def one_step():
    net = make_network()
    step = net.bind_step(X, y)
    found = in_threads(*[lambda: count(step)] * 3)
    twin = make_network()
    for _ in range(net.n_steps):
        twin.train_step(X, y)
    return found, net.n_steps, net.parameters.tobytes() == twin.parameters.tobytes()

def beside_training():
    net = make_network()
    step = net.bind_step(X, y)
    return in_threads(
        lambda: count(step), lambda: count(lambda: net.fit(X, y, batch_size=rows)),
        lambda: count(lambda: setattr(net, "optimizer", SGD(2e-3)))), \
        bool(np.isfinite(net.parameters).all())

def beside_other_labels():
    net = make_network()
    step = net.bind_step(X, y)
    def quiet():
        try:
            return step()
        except ValueError as error:
            assert "whole labels" in str(error)
    return in_threads(lambda: count(quiet), relabel)[0], bool(np.isfinite(net.parameters).all())

print(json.dumps([one_call(), own_calls(), one_step(), beside_training(), beside_other_labels()]))
"""


@pytest.mark.parametrize(
    ("widths", "rows", "repeats"), [([3, 5, 2], 1, 1000), ([64, 256, 256, 10], 200, 60)],
    ids=["tiny", "large enough to release the GIL"],
)
def test_bound_calls(widths, rows, repeats):
    """Not a way to use them, but for one call for each thread: refused or right, never a crash."""
    found = run_script(BOUND_CALLS, widths, rows, repeats, widths[-1])
    (one_call, right_after), own, (steps, n_steps, same) = found[:3]
    (beside, finite), (relabelled, sane) = found[3:]
    assert right_after
    assert [each["right"] for each in own] == [repeats] * 3
    assert sum(each["right"] for each in steps) == n_steps > 0
    assert same
    assert finite
    assert sane
    assert relabelled["right"] == repeats
    for each in (*one_call, *steps, *beside):
        assert each["right"] + len(each["refused"]) == repeats
        assert all("in use by another thread" in message for message in each["refused"])
    if rows > 1:  # otherwise nothing ever lets go of the GIL
        assert any(each["refused"] for each in one_call)
        assert any(each["refused"] for each in steps)
        assert any(each["refused"] for each in beside)
