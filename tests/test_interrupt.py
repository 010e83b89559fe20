"""Ctrl-C and divergence: fit stops when it should, and leaves a network worth having.

The interrupted fit runs in a process of its own, so that the signal never reaches pytest.
"""

import math
import sys

import interrupts
import numpy as np
import pytest

from fastbp import SGD, Dense, Network
from fastbp.callbacks import Callback

# Trains until it is interrupted, time and again, and checks what is left of the network each time.
# The interrupt starts as training begins: its signal lands in the midst of one compiled call that
# takes the better part of a second, sooner or later in it.
INTERRUPTED_FIT = """
import numpy as np
import fastbp
from fastbp.callbacks import Callback

rows, widths, batch_size, norms, moments = arguments
rng = np.random.default_rng(0)
X, y = rng.standard_normal((rows, widths[0])), rng.standard_normal((rows, widths[-1]))
layers = [fastbp.Dense(width, "tanh") for width in widths[1:]]
if norms:
    layers[1:1] = [fastbp.BatchNorm()]
    layers[:0] = [fastbp.Normalize()]

def make_network():
    network = fastbp.Network(widths[0], layers, optimizer=fastbp.SGD(0.01), dtype="float64", seed=1)
    if norms:
        network.adapt(X)
    return network

def all_vectors(network):
    return [network.parameters, *(vector for pair in network.statistics for vector in pair)]

def all_of(network):
    return np.concatenate(all_vectors(network))

class Watched(Callback):
    def __init__(self, interrupt):
        self.interrupt = interrupt

    def on_train_begin(self, network, epochs):
        self.interrupt.start()

    def on_epoch_end(self, network, history):
        epoch_starts.append(all_of(network))

network, twin = make_network(), make_network()
# An interrupt may be lost in an import: whatever is imported on first use.
make_network().fit(X[:100], y[:100], batch_size=batch_size, callbacks=[Callback()])
size = batch_size or rows
results = []
for moment in moments:
    epoch_starts = [all_of(network)]
    interrupt = Interrupt(moment)
    callbacks = [Watched(interrupt)]
    try:
        network.fit(X, y, epochs=10**6, batch_size=batch_size, shuffle=False, callbacks=callbacks)
    except KeyboardInterrupt:
        delay = interrupt.delay()
    left = all_of(network)
    # Replay the interrupted epoch, step by step, until the parameters are the ones left.
    start = 0
    for vector in all_vectors(twin):
        vector[:] = epoch_starts[-1][start : start + len(vector)]
        start += len(vector)
    steps = 0
    while not np.array_equal(all_of(twin), left) and steps * size < rows:
        twin.train_step(X[steps * size :][:size], y[steps * size :][:size])
        steps += 1
    results.append({
        "delay": delay,
        "steps": steps,
        "whole_step": np.array_equal(all_of(twin), left),
        "finite": bool(np.isfinite(left).all()),
    })

# Usable: it goes on just as a network does that was never interrupted.
for one in (network, twin):
    one.fit(X[:50], y[:50], batch_size=10, shuffle=False)
usable = np.array_equal(all_of(network), all_of(twin))
usable = usable and np.array_equal(network.predict(X[:5]), twin.predict(X[:5]))
print(json.dumps([results, bool(usable and np.isfinite(network.predict(X[:5])).all())]))
"""

# Seconds of CPU time after which the signal is sent. A piece of work that cannot be interrupted
# is the longer the sooner after its start the signal comes.
MOMENTS = [0.01, 0.05, 0.1, 0.15, 0.2]


# Rows, widths, batch size and whether to normalise: epochs of 20 to 50 GFLOP, for mini-batches, for
# one step over many rows, and for one over wide layers; and a shorter one of single rows.
LONG_EPOCHS = {
    "mini-batches": (50_000, [8, 256, 256, 1], 32, False),
    "single rows": (20_000, [300, 128, 1], 1, False),
    "one step over many rows": (20_000, [8, 512, 512, 1], None, False),
    "one step over many rows, normalised": (20_000, [8, 512, 512, 1], None, True),
    "one step over wide layers": (2_000, [8, 2048, 2048, 1], None, False),
}


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one Windows process")
@pytest.mark.parametrize("epoch", LONG_EPOCHS.values(), ids=LONG_EPOCHS)
def test_keyboard_interrupt(epoch):
    results, usable = interrupts.run(INTERRUPTED_FIT, *epoch, MOMENTS)
    assert len(results) == len(MOMENTS)
    for result in results:
        assert result["finite"]
        assert result["whole_step"]
    assert usable
    # One step over everything was given up, not finished; of the small ones some were made.
    _, _, batch_size, _ = epoch
    steps = [result["steps"] for result in results]
    assert any(steps) == (batch_size is not None), steps
    assert max(result["delay"] for result in results) < interrupts.PROMISED_SECONDS, results


class ParametersOfEpochs(Callback):
    """Keeps the parameters at the end of every epoch."""

    def __init__(self):
        self.parameters = []

    def on_epoch_end(self, network, history):
        self.parameters.append(network.parameters.copy())


def one(rng, n_in, n_out):
    return np.ones((n_in, n_out))


INTERRUPTED_CALLS = """
import numpy as np
from fastbp import SGD, Dense, Network

rng = np.random.default_rng(0)

def make_network(*widths):
    layers = [Dense(width, "tanh") for width in widths[1:]]
    return Network(widths[0], layers, optimizer=SGD(0.01), dtype="float64", seed=1)

def bound_step(rows):
    net = make_network(8, 512, 512, 1)
    return net, net.bind_step(rng.normal(size=(rows, 8)), rng.normal(size=(rows, 1)))

def bound_prediction(rows):
    net = make_network(8, 512, 512, 1)
    return net, net.bind(rng.normal(size=(rows, 8)), np.empty((rows, 1)))

def jacobian_of_one_row(outputs):
    net = make_network(8, 512, outputs)
    return net, lambda: net.jacobian(np.ones(8))

def input_gradient(rows):
    net = make_network(8, 512, 512, 1)
    X, y = rng.normal(size=(rows, 8)), rng.normal(size=(rows, 1))
    return net, lambda: net.input_gradient(X, y)

make, size = globals()[arguments[0]], arguments[1]
make(100)[1]()  # whatever is imported on first use: an interrupt may be lost in an import
net, call = make(size)
before, results = net.state(), []
for moment in (0.02, 0.1, 0.2):
    interrupt = Interrupt(moment)
    try:
        interrupt.start()
        call()
    except KeyboardInterrupt:
        delay = interrupt.delay()
    unchanged = np.array_equal(net.parameters, before["parameters"])
    results.append([delay, unchanged, net.n_steps])
net.train_step(np.ones(net.n_inputs), np.ones(net.n_outputs))
print(json.dumps(results))
"""

# Rows, or outputs.
LONG_CALLS = {
    "bound_step": 100_000,
    "bound_prediction": 400_000,
    "jacobian_of_one_row": 20_000,
    "input_gradient": 100_000,
}


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent to one Windows process")
@pytest.mark.parametrize(("call", "size"), LONG_CALLS.items(), ids=LONG_CALLS)
def test_keyboard_interrupt_of_other_calls(call, size):
    """Each takes seconds; nothing of the network changes, and the next call is like any other."""
    results = interrupts.run(INTERRUPTED_CALLS, call, size)
    assert [unchanged for _, unchanged, _ in results] == [True] * 3
    assert [steps for _, _, steps in results] == [0] * 3
    assert max(delay for delay, _, _ in results) < interrupts.PROMISED_SECONDS, results


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
    recorder = ParametersOfEpochs()
    X, y = np.ones((rows, 1)), np.zeros(rows)
    with pytest.raises(FloatingPointError) as caught:
        network.fit(X, y, epochs=200, batch_size=1, callbacks=[recorder])
    message = str(caught.value)
    epochs_and_steps = [divmod(step, rows) for step in BROKEN_STEPS[dtype]]
    assert any(f"epoch {epoch + 1}, step {step + 1}" in message for epoch, step in epochs_and_steps)
    assert "learning rate" in message.replace("_", " ")
    assert "scal" in message
    whole_epochs = epochs_and_steps[0][0]
    assert network.parameters.tobytes() == recorder.parameters[whole_epochs - 1].tobytes()
    # The same bits as a fit that was told to stop there, and the size worked out above. Powers of
    # two are exact; w and b round, each by a few units of their last place in every step.
    twin.fit(X, y, epochs=whole_epochs, batch_size=1)
    assert network.parameters.tobytes() == twin.parameters.tobytes()
    steps = whole_epochs * rows
    error = float(network.parameters.astype(np.float64).sum())
    rounding = 4 * steps * float(np.finfo(dtype).eps)
    assert math.isclose(error, (-32.0) ** steps, rel_tol=rounding)
    # Usable: from better parameters and with a learning rate that fits, it goes on.
    network.parameters[:] = 1, 0
    network.optimizer = SGD(0.25)
    history = network.fit(X, y, epochs=3, batch_size=None)
    # A step of rate r multiplies the error by 1 - 2 r, here 1/2.
    # Each of three steps sums up to 5 rows, and an error counts twice in the square.
    rounding = 30 * float(np.finfo(dtype).eps)
    assert history.loss == pytest.approx([1 / 2, 1 / 8, 1 / 32], rel=rounding)


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

    class Raises(Callback):
        def on_epoch_end(self, network, history):
            raise Stop

    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 3)), rng.standard_normal(20)
    network, twin = (Network(3, [Dense(1)], seed=0) for _ in range(2))
    with pytest.raises(Stop):
        network.fit(X, y, epochs=5, batch_size=6, callbacks=[Raises()])
    twin.fit(X, y, epochs=1, batch_size=6)
    assert network.parameters.tobytes() == twin.parameters.tobytes()
    assert network.fit(X, y).loss == twin.fit(X, y).loss
