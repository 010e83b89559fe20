"""PyTorch: the same outputs there and here, and the same steps of training."""

import copy
import io
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from stacks import ACTIVATIONS, networks, rows, same_bits

import fastbp
from fastbp import SGD, BatchNorm, Dense, Dropout, LayerNorm, Network, Normalize, Residual
from fastbp.activations import ELU, LeakyReLU, Softplus

torch = pytest.importorskip("torch", reason="torch is not installed")
nn = torch.nn

PAGE = Path(__file__).resolve().parent.parent / "docs" / "interop.md"
# Some hundred roundings of either library.
TOLERANCE = {"float32": 1e-6, "float64": 1e-13}


def outputs(module, X):
    with torch.no_grad():
        return module(torch.from_numpy(X)).numpy()


def close(found, expected, dtype, times=1):
    """Within the tolerance of what is largest."""
    assert found.dtype == expected.dtype == dtype
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=times * TOLERANCE[dtype] * scale)


# --- there ----------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(networks("float32", dropout=True) | networks("float64", dropout=True))
def test_module_computes_what_predict_does(net):
    module, X = net.to_torch(), rows(net)
    assert type(module) is nn.Sequential
    assert not module.training
    # layer norms multiply the roundings before them, three or four times each
    close(outputs(module, X), net.predict(X), net.dtype.name, times=10)


@settings(max_examples=60, deadline=None)
@given(networks("float32", dropout=True) | networks("float64", dropout=True))
def test_there_and_back(net):
    back = fastbp.from_torch(net.to_torch())
    assert back.layers == net.layers
    assert back.dtype == net.dtype
    assert same_bits(back, net)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", [*ACTIVATIONS, "softmax", "log_softmax"], ids=str)
def test_every_activation(activation, dtype):
    net = Network(5, [Dense(5, activation)], dtype=dtype)
    net.weights[0][...] = np.eye(5)
    Z = np.array([0.0, 1e-30, 1e-3, 0.4, 1, 2, 2.999, 3.001, 5.9, 6.1, 9, 15, 19.9, 20.1, 45])
    Z = np.concatenate([Z, -Z]).reshape(-1, 5).astype(dtype)
    if activation == "exponential":
        Z = np.minimum(Z, 9)
    expected = outputs(net.to_torch(), Z)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(net.predict(Z), expected, rtol=tolerance, atol=tolerance)


def steps(net, module, n=3):
    """Steps of gradient descent in both, on half the squared error of a sample."""
    X = rows(net, 12 * n)
    y = np.random.default_rng(5).normal(size=(12 * n, net.n_outputs)).astype(net.dtype)
    module.train()
    parameters = [each for each in module.parameters() if each.requires_grad]
    optimizer = torch.optim.SGD(parameters, 0.05) if parameters else None
    for start in range(0, len(X), 12):
        x, target = X[start : start + 12], y[start : start + 12]
        net.train_step(x, target)
        loss = (module(torch.from_numpy(x)) - torch.from_numpy(target)).square().sum() / 24
        if optimizer:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


TRAINED = {
    "dense": [Dense(7, "tanh"), Dense(2)],
    "batch norm": [Dense(7), BatchNorm("gelu", momentum=0.3), Dense(2)],
    "layer norm": [Dense(7), LayerNorm("silu", epsilon=0.01), Dense(2)],
    "residual": [Dense(4), Residual([LayerNorm(), Dense(6, "mish"), Dense(4)]), Dense(2)],
    "normalised": [Normalize(), Dense(7, Softplus(2.0)), Dense(2)],
    "first a norm": [BatchNorm(), Dense(2)],
    "frozen": [Dense(7, "tanh", trainable=False), Dense(2)],
    "frozen norms": [
        BatchNorm(trainable=False), Dense(7), LayerNorm("elu", trainable=False),
        BatchNorm("selu", trainable=False), Dense(2),
    ],
}


@pytest.mark.parametrize("layers", TRAINED.values(), ids=TRAINED)
def test_module_trains_as_the_network_does(layers):
    net = Network(3, layers, optimizer=SGD(0.05), dtype="float64", seed=0)
    if isinstance(layers[0], Normalize):
        net.adapt(rows(net, seed=3))
    module, before = net.to_torch(), net.copy()
    steps(net, module)
    after = fastbp.from_torch(module)
    assert not same_bits(net, before)
    close(after.parameters, net.parameters, "float64")
    for mine, theirs in zip(sum(net.statistics, ()), sum(after.statistics, ()), strict=True):
        close(theirs, mine, "float64")


def test_module_is_its_own():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    net = Network(3, [Normalize(), Dense(4, "exponential"), BatchNorm(trainable=False),
                      Residual([Dense(4)]), Dropout(0.5), Dense(2)], seed=0)
    net.adapt(rows(net))
    module, X = net.to_torch(), rows(net)
    assert torch.equal(torch.rand(3), expected)  # no random number has been drawn
    found = outputs(module, X)
    net.parameters[...] = 0
    net.statistics[0][0][...] = 7
    assert np.array_equal(outputs(module, X), found)
    # and can be kept as any other
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert np.array_equal(outputs(again, X), found)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    other = Network(3, net.layers, seed=1)
    other.adapt(rows(net, seed=1))
    again = other.to_torch()
    again.load_state_dict(torch.load(file))
    assert np.array_equal(outputs(again, X), found)


def test_normalize_wants_statistics():
    with pytest.raises(RuntimeError, match="call fit or adapt first"):
        Network(3, [Normalize(), Dense(2)]).to_torch()


# --- here -----------------------------------------------------------------------------------

READ = [
    nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2, bias=False)),
    nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(3, 5), nn.Sequential(nn.GELU())),
                  nn.Identity(), nn.Dropout(0.2), nn.Linear(5, 4), nn.Softmax(dim=1)),
    nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5, eps=1e-3),
                  nn.SiLU(), nn.Linear(5, 4), nn.LogSoftmax(-1)),
    nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5, affine=False, momentum=0.2), nn.Tanh(),
                  nn.Linear(5, 4)),
    nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.ELU(0.5), nn.LayerNorm(
        6, elementwise_affine=False), nn.LeakyReLU(0.2), nn.LayerNorm(6, bias=False),
        nn.Linear(6, 1), nn.Sigmoid()),
    nn.Sequential(nn.Linear(3, 6), nn.Softplus(2.0), nn.Linear(6, 6), nn.Softplus()),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("module", READ, ids=range(len(READ)))
def test_read(module, dtype):
    module = copy.deepcopy(module).to(dtype)
    torch.manual_seed(0)
    module.train()
    for _ in range(3):
        module(torch.randn(20, 3, dtype=dtype))  # moves the running statistics
    module.eval()
    net = fastbp.from_torch(module)
    X = rows(net, 50)
    close(net.predict(X), outputs(module, X), str(dtype).removeprefix("torch."))


def test_what_is_read_is_what_was_meant():
    net = fastbp.from_torch(READ[1], loss="huber", optimizer=SGD(0.5), seed=4)
    assert net.layers == (Dense(5, "gelu"), Dropout(0.2), Dense(4, "softmax"))
    assert (net.loss.name, net.optimizer, net.seed) == ("huber", SGD(0.5), 4)
    assert fastbp.from_torch(READ[1]).loss.name == "cross_entropy"
    net = fastbp.from_torch(READ[3])
    assert net.layers[1] == BatchNorm("tanh", momentum=0.2)
    net = fastbp.from_torch(READ[4])
    assert net.layers[1:4] == (
        LayerNorm(ELU(0.5)), LayerNorm(LeakyReLU(0.2), trainable=False), LayerNorm()
    )
    assert not net.biases[3].any()


def test_frozen_parameters():
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    module[1].requires_grad_(False)
    assert fastbp.from_torch(module).layers == (
        Dense(4, trainable=False), BatchNorm(trainable=False), Dense(2))
    module[2].bias.requires_grad_(False)
    with pytest.raises(ValueError, match="module 2, Linear: some of its parameters are trained"):
        fastbp.from_torch(module)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


shared = nn.Linear(3, 3)
not_finite = nn.Linear(3, 3)
with torch.no_grad():
    not_finite.weight[1, 2] = float("nan")
REFUSED = {
    "Hardswish": ([nn.Linear(3, 4), nn.Hardswish()], "module 1, Hardswish: fastbp has nothing"),
    "PReLU": ([nn.Linear(3, 4), nn.PReLU()], "module 1, PReLU: fastbp has nothing"),
    "Conv1d": ([nn.Conv1d(3, 4, 1)], "module 0, Conv1d: fastbp has nothing"),
    "subclass": ([Doubled(3, 4)], "module 0, Doubled: fastbp has nothing"),
    "nested": ([nn.Sequential(nn.Linear(3, 4), nn.GLU())], "module 0.1, GLU: fastbp has nothing"),
    "two activations": (
        [nn.Linear(3, 4), nn.ReLU(), nn.Tanh()],
        "module 2, Tanh: an activation has to come right after .* module 0, Linear"),
    "first an activation": (
        [nn.ReLU(), nn.Linear(3, 4)], "module 0, ReLU: an activation .* nothing"),
    "after a dropout": (
        [nn.Linear(3, 4), nn.Dropout(), nn.ReLU()], "module 2, ReLU: .* module 1, Dropout"),
    "last a norm": (
        [nn.Linear(3, 4), nn.LayerNorm(4)], "last layer must be a dense one, got module 1, Lay"),
    "last a dropout": ([nn.Linear(3, 4), nn.Dropout()], "must be a dense one, got module 1, Drop"),
    "hidden softmax": (
        [nn.Linear(3, 4), nn.Softmax(1), nn.Linear(4, 2)], "'softmax' belongs in the last layer"),
    "dim": ([nn.Linear(3, 4), nn.Softmax(0)], "module 1, Softmax: dim must be 1 or -1, got 0"),
    "threshold": ([nn.Linear(3, 4), nn.Softplus(1, 5)], "Softplus: threshold must be 15 or more"),
    "negative slope": ([nn.Linear(3, 4), nn.LeakyReLU(-1.0)], "1, LeakyReLU: alpha must be posi"),
    "all dropped": ([nn.Dropout(1.0), nn.Linear(3, 4)], "module 0, Dropout: rate must lie in"),
    "no statistics": (
        [nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)],
        "module 1, BatchNorm1d: it has no running statistics"),
    "no momentum": (
        [nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=None), nn.Linear(4, 2)], "momentum=None"),
    "two dimensions": ([nn.LayerNorm((3, 2)), nn.Linear(2, 1)], "0, LayerNorm: one dimension"),
    "flatten": ([nn.Flatten(0), nn.Linear(3, 4)], "module 0, Flatten: start_dim must be 1, got 0"),
    "shared": ([shared, nn.ReLU(), shared], "module 2, Linear: it shares its parameters"),
    "widths": (
        [nn.Linear(3, 4), nn.Linear(5, 2)], r"module 1, Linear: weights must have shape \(4, 2\)"),
    "not finite": ([not_finite], "module 0, Linear: weights and statistics must be finite"),
    "half": ([nn.Linear(3, 4).half()], "must be float32 or all float64, got float16"),
    "bfloat16": ([nn.Linear(3, 4).bfloat16()], "module 0, Linear: .*BFloat16"),
    "mixed": ([nn.Linear(3, 4), nn.Linear(4, 2).double()], "got float32, float64"),
    "meta": ([nn.Linear(3, 4, device="meta")], "module 0, Linear: .*meta"),
    "empty": ([], "the model has no layers"),
    "nothing but activations": ([nn.Identity()], "the model has no layers"),
}


@pytest.mark.parametrize(("modules", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(modules, message):
    with pytest.raises(ValueError, match=message):
        fastbp.from_torch(nn.Sequential(*modules))


def test_what_is_no_sequential():
    with pytest.raises(TypeError, match=r"a torch.nn.Sequential, got Linear"):
        fastbp.from_torch(nn.Linear(3, 4))


def test_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"needs torch, .*: pip install torch"):
        Network(3, [Dense(2)]).to_torch()
    with pytest.raises(ImportError, match="needs torch"):
        fastbp.from_torch(nn.Linear(3, 4))


def test_examples_of_the_page():
    found = re.findall(r"^```py\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    examples = [example for example in found if "torch" in example]
    assert examples
    for example in examples:
        exec(example, {})
