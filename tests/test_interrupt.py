"""Ctrl-C and divergence: fit stops when it should, and leaves a network worth having.

The interrupted fit runs in a process of its own, so that the signal never reaches pytest.
"""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from fastbp import SGD, Dense, Network

# The one promise that is a time: KeyboardInterrupt within 200 ms of the signal, on any machine.
PROMISED_NANOSECONDS = 200_000_000

# Trains until it is interrupted, and checks what is left of the network. The parent is told
# over a pipe that the first epoch is over and the second is about to begin, so that the signal
# lands in the midst of a compiled call that takes most of a second.
INTERRUPTED_FIT = """
import json, os, signal, sys, time
import numpy as np
import fastbp

pipe, rows, widths, batch_size = json.loads(sys.argv[1])
# Shells start background jobs with SIGINT ignored, and Python then leaves it so.
signal.signal(signal.SIGINT, signal.default_int_handler)

rng = np.random.default_rng(0)
X, y = rng.standard_normal((rows, widths[0])), rng.standard_normal((rows, widths[-1]))
layers = [fastbp.Dense(width, "tanh") for width in widths[1:]]

def make_network():
    return fastbp.Network(widths[0], layers, optimizer=fastbp.SGD(0.01), dtype="float64", seed=1)

network = make_network()
ends_of_epochs = []

def end_of_epoch(*state):
    ends_of_epochs.append(network.parameters.copy())
    os.write(pipe, b"!")

interrupted_at = None
try:
    network.fit(X, y, epochs=10**6, batch_size=batch_size, shuffle=False, callbacks=[end_of_epoch])
except KeyboardInterrupt:
    interrupted_at = time.monotonic_ns()

# Replay the epoch that was interrupted, step by step, until the parameters are the ones left.
twin = make_network()
twin.parameters[:] = ends_of_epochs[-1]
size = rows if batch_size is None else batch_size
steps, start = 0, 0
left = network.parameters.copy()
while not np.array_equal(twin.parameters, left) and start < rows:
    twin.train_step(X[start : start + size], y[start : start + size])
    steps, start = steps + 1, start + size

result = {
    "interrupted_at": interrupted_at,
    "whole_step": np.array_equal(twin.parameters, left),
    "steps": steps,
    "epochs": len(ends_of_epochs),
    "finite": bool(np.isfinite(left).all()),
    "trained": not np.array_equal(left, make_network().parameters),
}
# Usable: it goes on just as a network does that was never interrupted.
for one in (network, twin):
    one.fit(X[:50], y[:50], batch_size=10, shuffle=False)
result["usable"] = bool(
    np.array_equal(network.parameters, twin.parameters)
    and np.array_equal(network.predict(X[:5]), twin.predict(X[:5]))
    and np.isfinite(network.predict(X[:5])).all()
)
print(json.dumps(result))
"""


def interrupt(rows, widths, batch_size):
    """Send SIGINT to a fit that is under way; what its process found, and the delay in ns."""
    read_end, write_end = os.pipe()
    arguments = json.dumps([write_end, rows, widths, batch_size])
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED_FIT, arguments],
        pass_fds=[write_end],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(write_end)
        try:
            handshake = os.read(read_end, 1)
            sent_at = time.monotonic_ns()
            if handshake:
                process.send_signal(signal.SIGINT)
            output, errors = process.communicate(timeout=120)
        finally:
            os.close(read_end)
            process.kill()
    assert handshake == b"!", errors
    assert process.returncode == 0, errors
    result = json.loads(output)
    return result, result["interrupted_at"] - sent_at


# Rows, widths and batch size. The epochs are long beside the handshake, also on a fast machine:
# 20 to 50 GFLOP each, for mini-batches, for one step over many rows, and for one over wide layers.
LONG_EPOCHS = {
    "mini-batches": (50_000, [8, 256, 256, 1], 32),
    "one step over many rows": (20_000, [8, 512, 512, 1], None),
    "one step over wide layers": (2_000, [8, 2048, 2048, 1], None),
}


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one Windows process")
@pytest.mark.parametrize("epoch", LONG_EPOCHS.values(), ids=LONG_EPOCHS)
def test_keyboard_interrupt(epoch):
    result, delay = interrupt(*epoch)
    assert 0 < delay < PROMISED_NANOSECONDS, f"KeyboardInterrupt after {delay / 1e6:.0f} ms"
    assert result["finite"]
    assert result["trained"]
    assert result["whole_step"]
    assert result["usable"]
    if epoch[2] is None:
        # The step under way takes longer than the promise: it was given up, not finished.
        assert result["steps"] == 0


def one(rng, n_in, n_out):
    return np.ones((n_in, n_out))


def make_exploding_network(dtype="float64"):
    """One weight, 1, and a bias, 0. On x = 1, y = 0 the error is e = w + b, its gradient by each
    is e, and a step makes it e - 2 (16.5 e) = -32 e: the loss e**2 / 2 grows by 2**10 a step.
    """
    return Network(1, [Dense(1, init=one)], optimizer=SGD(16.5), dtype=dtype, seed=0)


# Steps are counted from 0 here. float64: the loss at step t is 2**(10 t - 1), past 2**1024 at
# t = 103 (2**1029, after 2**1019), long before e is. float32: a loss may be summed in float64, but
# step 25 updates by 16.5 x 2**125, past 2**128, and step 26 has no finite loss in any precision.
BROKEN_STEPS = {"float64": [103], "float32": [25, 26]}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1, 4, 5])
def test_divergence_in_fit(dtype, rows):
    network, twin = make_exploding_network(dtype), make_exploding_network(dtype)
    ends_of_epochs = []
    X, y = np.ones((rows, 1)), np.zeros(rows)
    with pytest.raises(FloatingPointError) as caught:
        network.fit(
            X,
            y,
            epochs=200,
            batch_size=1,
            callbacks=[lambda *state: ends_of_epochs.append(network.parameters.copy())],
        )
    message = str(caught.value)
    epochs_and_steps = [divmod(step, rows) for step in BROKEN_STEPS[dtype]]
    assert any(f"epoch {epoch + 1}, step {step + 1}" in message for epoch, step in epochs_and_steps)
    assert "learning rate" in message.replace("_", " ")
    assert "scal" in message
    whole_epochs = epochs_and_steps[0][0]
    assert network.parameters.tobytes() == ends_of_epochs[whole_epochs - 1].tobytes()
    # The same bits as a fit that was told to stop there, and the size worked out above. Powers of
    # two are exact; w and b round, each by a few units of their last place in every step.
    twin.fit(X, y, epochs=whole_epochs, batch_size=1)
    assert network.parameters.tobytes() == twin.parameters.tobytes()
    steps = whole_epochs * rows
    error = float(network.parameters.astype(np.float64).sum())
    rounding = 4 * steps * float(np.finfo(dtype).eps)
    assert math.isclose(error, (-32.0) ** steps, rel_tol=rounding)
    # Usable: with a learning rate that fits, it goes on.
    network.optimizer = SGD(0.25)
    history = network.fit(X, y, epochs=3)
    assert history.loss[-1] < history.loss[0]


def test_divergence_in_the_first_epoch():
    network = make_exploding_network()
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 104\b"):
        network.fit(np.ones((200, 1)), np.zeros(200), batch_size=1)
    assert network.parameters.tolist() == [1.0, 0.0]


def test_divergence_of_a_later_fit():
    # What counts as the last finite epoch may lie in an earlier call.
    network = make_exploding_network()
    X, y = np.ones((60, 1)), np.zeros(60)
    network.fit(X, y, batch_size=1)
    before = network.parameters.tobytes()
    with pytest.raises(FloatingPointError, match=r"epoch 1, step 44\b"):
        network.fit(X, y, batch_size=1)
    assert network.parameters.tobytes() == before


@pytest.mark.parametrize("batch_size", [1, None])
def test_update_that_overflows_while_every_loss_is_finite(batch_size):
    # e = 100, so that the loss is 5000 and the update 100 x 1e308 is infinite: seen by no loss
    # of this epoch, but these parameters must neither stay nor be what a later epoch goes back to.
    for epochs in (1, 2):
        network = Network(1, [Dense(1, init=one)], optimizer=SGD(1e308), dtype="float64")
        before = network.parameters.tobytes()
        with pytest.raises(FloatingPointError, match="epoch"):
            network.fit([[1.0]], [-99.0], epochs=epochs, batch_size=batch_size)
        assert network.parameters.tobytes() == before


@pytest.mark.parametrize("rows", [1, 4, None])
def test_divergence_step_by_step(rows):
    network = make_exploding_network()
    X, y = ([1.0], 0.0) if rows is None else (np.ones((rows, 1)), np.zeros(rows))
    for step in range(BROKEN_STEPS["float64"][0]):
        loss = network.train_step(X, y)
        # The rounding of test_divergence_in_fit, doubled by the square.
        assert math.isclose(loss, 2.0 ** (10 * step - 1), rel_tol=8 * step * 2.0**-52)
    check_diverging_step(network, X, y)


def check_diverging_step(network, X, y):
    before = network.parameters.tobytes()
    with pytest.raises(FloatingPointError) as caught:
        network.train_step(X, y)
    assert "learning rate" in str(caught.value).replace("_", " ")
    assert "scal" in str(caught.value)
    assert network.parameters.tobytes() == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rows", [1, 40, None])
def test_one_step_with_an_infinite_output(dtype, rows):
    network = make_exploding_network(dtype)
    largest = np.finfo(dtype).max
    network.parameters[0] = largest
    X, y = ([largest], 0.0) if rows is None else (np.full((rows, 1), largest), np.zeros(rows))
    check_diverging_step(network, X, y)


def test_divergence_leaves_the_data_alone():
    X, y = np.ones((4, 1)), np.zeros((4, 1))
    with pytest.raises(FloatingPointError):
        make_exploding_network().fit(X, y, epochs=200)
    assert (X == 1).all()
    assert (y == 0).all()


def test_a_callback_that_raises_leaves_the_epoch_whole():
    class Stop(Exception):
        pass

    def stop(*state):
        raise Stop

    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    network, twin = (Network(3, [Dense(1)], seed=0) for _ in range(2))
    with pytest.raises(Stop):
        network.fit(X, y, epochs=5, batch_size=6, callbacks=[stop])
    twin.fit(X, y, epochs=1, batch_size=6)
    assert network.parameters.tobytes() == twin.parameters.tobytes()
    assert network.fit(X, y).loss == twin.fit(X, y).loss
