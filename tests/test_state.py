"""copy, state and restore: training goes on with the same bits as if nothing had happened."""

import json

import numpy as np
import pytest
from names import name_of

from fastbp import (
    SGD,
    AdaDelta,
    AdaGrad,
    Adam,
    Adamax,
    AdamW,
    BatchNorm,
    Dense,
    Lion,
    Nadam,
    Network,
    Normalize,
    RMSProp,
    schedules,
)

OPTIMIZERS = [
    SGD(0.1), SGD(0.1, 0.9, nesterov=True), Adam(0.01, amsgrad=True), Nadam(0.01),
    RMSProp(0.01, momentum=0.5, centered=True),
    Adam(schedules.WarmUp(schedules.Cosine(0.02, 20, restarts=True), 10)),
    SGD(schedules.Plateau(0.1, 0.5, patience=1, window=2)),
    SGD(lambda step: 0.1 / (1 + step)),
]


def network(optimizer, dtype="float32", **changes):
    arguments = {"loss": "cross_entropy", "dtype": dtype, "seed": 3} | changes
    return Network(4, [Dense(9, "tanh"), Dense(3, "softmax")], optimizer=optimizer, **arguments)


def data():
    rng = np.random.default_rng(1)
    return rng.normal(size=(70, 4)), rng.integers(3, size=70)


def through_json(state):
    """As if written to files and read again."""
    arrays = {name: np.array(state[name].tolist(), state[name].dtype)
              for name in ("parameters", "optimizer", "statistics")}
    return arrays | {"json": json.loads(json.dumps(state["json"]))}


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=name_of)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_resumed_training_has_the_bits_of_uninterrupted_training(optimizer, dtype):
    X, y = data()
    through, stopped = network(optimizer, dtype), network(optimizer, dtype)
    expected = through.fit(X, y, epochs=7, batch_size=16)
    first = stopped.fit(X, y, epochs=3, batch_size=16)
    resumed = network(optimizer, dtype, seed=99)
    resumed.restore(through_json(stopped.state()))
    second = resumed.fit(X, y, epochs=4, batch_size=16)
    np.testing.assert_array_equal(resumed.parameters, through.parameters)
    assert first.loss + second.loss == expected.loss
    assert first.learning_rate + second.learning_rate == expected.learning_rate
    assert resumed.n_steps == through.n_steps
    # and once more, by steps
    resumed.train_step(X, y)
    through.train_step(X, y)
    np.testing.assert_array_equal(resumed.parameters, through.parameters)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=name_of)
def test_a_state_holds_the_optimizers_vectors_and_nothing_between_them(optimizer):
    net = network(optimizer)
    net.fit(*data())
    vectors = net.optimizer_vectors.values()
    np.testing.assert_array_equal(net.state()["optimizer"], np.concatenate([[], *vectors]))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=name_of)
def test_a_copy_goes_its_own_way(optimizer):
    X, y = data()
    net = network(optimizer)
    net.fit(X, y, epochs=2)
    before = net.parameters.copy()
    twin = net.copy()
    assert repr(twin) == repr(net)
    twin.fit(X, y, epochs=2)
    np.testing.assert_array_equal(net.parameters, before)
    net.fit(X, y, epochs=2)
    np.testing.assert_array_equal(net.parameters, twin.parameters)


def test_a_state_does_not_follow_the_network():
    X, y = data()
    net = network(Adam(0.01))
    state = net.state()
    saved = {name: state[name].copy() for name in ("parameters", "optimizer")}
    net.fit(X, y)
    for name, array in saved.items():
        np.testing.assert_array_equal(state[name], array)
    net.restore(state)
    assert net.n_steps == 0


def test_json_of_a_state_has_numbers_alone():
    # before a plateau has seen enough epochs, its best loss is infinite
    net = network(SGD(schedules.Plateau(0.1, window=3)))
    net.fit(*data())
    assert json.loads(json.dumps(net.state()["json"], allow_nan=False)) == net.state()["json"]
    assert net.state()["json"]["plateau"]["best"] == "inf"


def test_the_rate_may_differ():
    net = network(Adam(0.01))
    net.restore(network(Adam(schedules.Cosine(0.5, 10))).state())


OTHERS = [
    (Network(5, [Dense(9, "tanh"), Dense(3, "softmax")], loss="cross_entropy", optimizer="adam"),
     "its n_inputs is 5, this one's is 4"),
    (Network(4, [Dense(8, "tanh"), Dense(3, "softmax")], loss="cross_entropy", optimizer="adam"),
     "its layers is .*units=8"),
    (Network(4, [Dense(9, "relu"), Dense(3, "softmax")], loss="cross_entropy", optimizer="adam"),
     "its layers is .*relu"),
    (network(Adam(), loss="squared_error"), "its loss is 'SquaredError"),
    (network(Adam(), dtype="float64"), "its dtype is 'float64', this one's is 'float32'"),
    (network(Nadam()), r"its optimizer is 'Nadam\("),
    (network(Adam(beta1=0.5)), r"its optimizer is 'Adam\(.*beta1=0.5"),
]


@pytest.mark.parametrize(("other", "message"), OTHERS, ids=[message for _, message in OTHERS])
def test_the_state_of_another_network(other, message):
    net = network(Adam())
    net.fit(*data())
    before = net.state()
    with pytest.raises(ValueError, match=message):
        net.restore(other.state())
    after = net.state()
    np.testing.assert_array_equal(before["parameters"], after["parameters"])
    np.testing.assert_array_equal(before["optimizer"], after["optimizer"])
    assert before["json"] == after["json"]


def broken(change):
    state = network(Adam()).state()
    change(state)
    return state


BROKEN = {
    "no json": lambda state: state.pop("json"),
    "no parameters": lambda state: state.pop("parameters"),
    "short": lambda state: state.update(parameters=state["parameters"][:-1]),
    "wrong dtype": lambda state: state.update(optimizer=state["optimizer"].astype("f8")),
    "not finite": lambda state: state["parameters"].__setitem__(3, np.nan),
    "no steps": lambda state: state["json"].pop("steps"),
    "negative steps": lambda state: state["json"].update(steps=-1),
    "no number": lambda state: state["json"].update(steps="many"),
    "no random": lambda state: state["json"].update(random={"bit_generator": "PCG64"}),
    "another generator": lambda state: state["json"]["random"].update(bit_generator="MT19937"),
    "another plateau": lambda state: state["json"].update(plateau={"height": 3}),
    "too many steps": lambda state: state["json"].update(steps=2**63),
    "part of a step": lambda state: state["json"].update(steps=1.5),
    "too much momentum": lambda state: state["json"].update(momentum_product=1.5),
    "random numbers too large": lambda state: state["json"]["random"].update(uinteger=2**32),
    "random numbers cut": lambda state: state["json"]["random"].update(has_uint32=0.5),
    "plateau of words": lambda state: state["json"]["plateau"].update(best="low"),
    "plateau in the sky": lambda state: state["json"]["plateau"].update(scale=2.0),
    "plateau of the past": lambda state: state["json"]["plateau"].update(since=-1),
    "plateau of one": lambda state: state["json"]["plateau"].update(recent=0.5),
    "nothing": dict.clear,
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=list(BROKEN))
def test_a_broken_state(change):
    net = network(Adam())
    net.fit(*data())
    before = net.state()
    with pytest.raises(ValueError, match=r"state|plateau"):
        net.restore(broken(change))
    np.testing.assert_array_equal(before["parameters"], net.parameters)
    assert before["json"] == net.state()["json"]


# What may hold negative numbers: whatever is no sum or mean of squares, and no maximum.
SIGNED = {"momentum", "mean"}


@pytest.mark.parametrize("optimizer", [
    SGD(momentum=0.9), AdaGrad(), RMSProp(momentum=0.5, centered=True), AdaDelta(),
    Adam(amsgrad=True), AdamW(), Nadam(), Adamax(), Lion(),
], ids=name_of)
def test_a_state_with_negative_squares(optimizer):
    net, twin = network(optimizer), network(optimizer)
    for name in net.optimizer_vectors:
        twin.fit(*data())
        twin.optimizer_vectors[name][5] = -1
        if name in SIGNED:
            net.restore(twin.state())
            continue
        before = through_json(net.state())
        with pytest.raises(ValueError, match=f"state's {name} .*must not be negative, got -1.0"):
            net.restore(twin.state())
        assert through_json(net.state())["json"] == before["json"]
        for part in ("parameters", "optimizer"):
            np.testing.assert_array_equal(net.state()[part], before[part])
        twin.optimizer_vectors[name][5] = 1


@pytest.mark.parametrize(("layer", "spread", "message"), [
    (0, -1, "state's spread of a Normalize must not be negative, got -1.0"),
    (0, 0, "state's deviations of a Normalize must be positive"),
    (1, -1, "state's spread of a BatchNorm must not be negative, got -1.0"),
])
def test_a_state_with_an_impossible_spread(layer, spread, message):
    layers = [Normalize(), Dense(9), BatchNorm("tanh"), Dense(3, "softmax")]
    net, twin = (Network(4, layers, loss="cross_entropy", seed=3) for _ in range(2))
    net.restore(twin.state())  # of which nothing is known
    twin.fit(*data())
    net.restore(twin.state())
    before = net.predict(data()[0])
    twin.statistics[layer][1][2] = spread
    with pytest.raises(ValueError, match=message):
        net.restore(twin.state())
    np.testing.assert_array_equal(net.predict(data()[0]), before)


def test_what_the_optimizer_has_gathered():
    """After one step, momentum is the gradient, and Adam's means are (1 - beta) of it."""
    X, y = data()
    for dtype in ("float32", "float64"):
        nets = [network(each, dtype) for each in (SGD(0.1), SGD(0.1, 0.9), Adam(0.1))]
        _, gradient = nets[0].loss_and_gradient(X, y)
        for net in nets:
            net.train_step(X, y)
        plain, momentum, adam = ([*net.optimizer_vectors.values()] for net in nets)
        assert plain == []
        # a product or two round, and the step sums in another order
        rtol = 1e-4 if dtype == "float32" else 1e-12
        expected = [gradient, 0.1 * gradient, 0.001 * gradient**2]
        for found, wanted in zip(momentum + adam, expected, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=rtol, atol=rtol * np.abs(wanted).max())
        adam[0][:] = 0  # live
        assert not next(iter(nets[2].optimizer_vectors.values())).any()
        assert adam[1].any()
