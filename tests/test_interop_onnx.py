"""ONNX: the models that are written, by ONNX Runtime; and those that are read, beside it."""

import dataclasses
import errno
import os
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from stacks import ACTIVATIONS, LAST, networks, rows, same_bits

import fastbp
from fastbp import Adam, Dense, Dropout, Network, Normalize, Residual
from fastbp.activations import LeakyReLU, Softplus

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
reference = pytest.importorskip("onnx.reference", reason="onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

from fastbp.interop.onnx_writer import model_of  # noqa: E402

# ONNX Runtime has no Erf of float64.
NO_DOUBLE = ("gelu",)
# What was asked for. A float32 sum of some ten terms is off by some 1e-6.
TOLERANCE = {"float32": 1e-5, "float64": 1e-10}


def run(model, X):
    """What ONNX Runtime computes."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: X})[0]


def close(found, expected, dtype):
    """Within the tolerance of what is largest."""
    assert found.dtype == expected.dtype == dtype
    scale = max(1.0, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


# --- written --------------------------------------------------------------------------------

@settings(max_examples=60, deadline=None)
@given(networks("float32", dropout=True))
def test_runtime_computes_what_predict_does(net):
    model, X = model_of(net), rows(net)
    onnx.checker.check_model(model, full_check=True)
    close(run(model, X), net.predict(X), "float32")
    close(run(model, X[:1]), net.predict(X[:1]), "float32")  # any number of rows


@settings(max_examples=60, deadline=None)
@given(networks("float64", last=[each for each in LAST if each not in NO_DOUBLE]))
def test_runtime_computes_what_predict_does_in_double(net):
    if any(f"'{name}'" in repr(net.layers) for name in NO_DOUBLE):
        return
    X = rows(net)
    close(run(model_of(net), X), net.predict(X), "float64")


def one_activation(activation, dtype):
    """Five columns of all that an activation may meet, put through it alone."""
    net = Network(5, [Dense(5, activation)], dtype=dtype)
    net.weights[0][...] = np.eye(5)
    Z = np.array([0.0, -0.0, 1e-30, 1e-3, 0.4, 1, 2, 2.999, 3.001, 5.9, 6.1, 9, 15, 30, 80])
    if activation == "exponential":
        Z = np.minimum(Z, 20)
    return net, np.concatenate([Z, -Z]).reshape(-1, 5).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("activation", [*ACTIVATIONS, "softmax", "log_softmax"], ids=str)
def test_every_activation(activation, dtype):
    net, Z = one_activation(activation, dtype)
    model = model_of(net)
    if activation in NO_DOUBLE and dtype == "float64":
        found = reference.ReferenceEvaluator(model).run(None, {"input": Z})[0]
        dtype = "float32"  # which its Erf is of, in a model of any dtype
    else:
        found = run(model, Z)
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(found, net.predict(Z), rtol=tolerance, atol=tolerance)


@settings(max_examples=60, deadline=None)
@given(networks("float32") | networks("float64"))
def test_there_and_back(net):
    back = fastbp.from_onnx(model_of(net))
    assert back.layers == trained(net.layers)
    assert same_bits(back, net)
    assert back.dtype == net.dtype


def trained(layers):
    """Layers with all of them trained, which an ONNX model does not tell."""
    made = []
    for layer in layers:
        if isinstance(layer, Residual):
            layer = Residual(trained(layer.layers))
        elif hasattr(layer, "trainable"):
            layer = dataclasses.replace(layer, trainable=True)
        made.append(layer)
    return tuple(made)


def test_dropout_is_left_out(tmp_path):
    net = Network(3, [Dropout(0.5), Dense(4, "relu"), Dropout(0.2), Dense(2)], seed=0)
    net.to_onnx(tmp_path / "net.onnx")
    back = fastbp.from_onnx(tmp_path / "net.onnx")
    assert back.layers == (Dense(4, "relu"), Dense(2))
    assert same_bits(back, net)


def test_file_says_who_wrote_it(tmp_path):
    path = tmp_path / "net.onnx"
    Network(3, [Dense(2, "softmax")]).to_onnx(str(path))
    model = onnx.load(path)
    assert (model.producer_name, model.producer_version) == ("fastbp", fastbp.__version__)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 17)]
    (given,), (made,) = model.graph.input, model.graph.output
    assert given.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert made.type.tensor_type.shape.dim[1].dim_value == 2


def test_file_is_whole_or_not_there(tmp_path, monkeypatch):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")

    def full(descriptor):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        Network(3, [Dense(2)]).to_onnx(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["net.onnx"]
    with pytest.raises(OSError):
        Network(3, [Dense(2)]).to_onnx(tmp_path / "no folder" / "net.onnx")


def test_normalize_wants_statistics():
    with pytest.raises(RuntimeError, match="call fit or adapt first"):
        model_of(Network(3, [Normalize(), Dense(2)]))


def test_default_loss_goes_by_the_last_activation():
    for activation, loss in [
        ("softmax", "cross_entropy"), ("log_softmax", "cross_entropy"),
        ("sigmoid", "binary_cross_entropy"), ("exponential", "poisson"),
        ("identity", "squared_error"), (Softplus(2.0), "squared_error"),
    ]:
        model = model_of(Network(3, [Dense(2, activation)]))
        assert fastbp.from_onnx(model).loss.name == loss
    net = fastbp.from_onnx(model, loss="huber", optimizer=Adam(0.1), seed=3)
    assert (net.loss.name, net.optimizer, net.seed) == ("huber", Adam(0.1), 3)


# --- read -----------------------------------------------------------------------------------

rng = np.random.default_rng(0)
W, V = rng.normal(size=(3, 4)).astype("f4"), rng.normal(size=(4, 4)).astype("f4")
CONSTANTS = {
    "W": W, "WT": W.T, "V": V, "b": rng.normal(size=4).astype("f4"),
    "row": rng.normal(size=(1, 4)).astype("f4"), "gain": rng.normal(size=4).astype("f4"),
    "shift": rng.normal(size=4).astype("f4"), "mean": rng.normal(size=4).astype("f4"),
    "variance": 0.5 + rng.random(4).astype("f4"), "centre": rng.normal(size=3).astype("f4"),
    "width": 0.5 + rng.random(3).astype("f4"), "nan": np.full(4, np.nan, "f4"),
    "no_variance": np.array([1, 1, 1, -1], "f4"), "zeros": np.zeros(3, "f4"),
    "many": np.zeros((2, 4), "f4"), "ints": np.arange(4),
    **{f"n{number}".replace(".", "_"): np.float32(number) for number in (
        0, 0.5, 1, 2, 3, 6, 20, 0.044715, 1.702)},
    "root2": np.float32(np.sqrt(2)), "r2pi": np.float32(np.sqrt(2 / np.pi)),
    "sixth": np.float32(1 / 6), "slope": np.array([0.3], "f4"), "yes": np.array(True),
}


def model_from(body, given="float[N, 3] x", made="float[N, 4] y", opset=17):
    """The model of a graph in ONNX's own notation, with those of CONSTANTS that it names."""
    text = f'<ir_version: 8, opset_import: ["": {opset}, "com.microsoft": 1]>\n'
    model = onnx.parser.parse_model(f"{text} g ({given}) => ({made}) {{ {body} }}")
    named = {name for node in model.graph.node for name in node.input} & set(CONSTANTS)
    for name in sorted(named):
        model.graph.initializer.append(onnx.numpy_helper.from_array(CONSTANTS[name], name))
    return model


BEFORE = "h = Gemm(x, W, b) "
READ = {
    "gemm": "y = Gemm(x, W, b)",
    "transposed": "y = Gemm<transB=1>(x, WT, b)",
    "no bias": "y = Gemm(x, W)",
    "alpha and beta": "y = Gemm<alpha=0.5, beta=2.0>(x, W, b)",
    "bias in a row": "y = Gemm(x, W, row)",
    "bias of one number": "y = Gemm(x, W, n3)",
    "matmul": "y = MatMul(x, W)",
    "matmul and bias": "h = MatMul(x, W) y = Add(h, b)",
    "bias and matmul": "h = MatMul(x, W) y = Add(b, h)",
    "matmul and number": "h = MatMul(x, W) y = Add(h, n3)",
    "two biases": BEFORE + "y = Add(h, row)",
    "transposed weights": "w = Transpose<perm=[1, 0]>(WT) y = MatMul(x, w)",
    "nothing done": "i = Identity(x) f = Flatten(i) h = Gemm(f, W, b) d = Dropout(h, n0_5) "
                    "c = Cast<to=1>(d) y = Relu(c)",
    "renamed weights": "w = Identity(W) y = Gemm(x, w)",
    "constant": "h = Gemm(x, W) c = Constant<value = float[4] {1, 2, 3, 4}>() y = Add(h, c)",
    "number": "h = MatMul(x, W) c = Constant<value_float = 2.5>() y = Add(h, c)",
    "numbers": "h = MatMul(x, W) c = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>() y = Add(h, c)",
    "batch norm": BEFORE + "k = BatchNormalization<epsilon=0.01>(h, gain, shift, mean, variance) "
                           "r = Relu(k) y = Gemm(r, V)",
    "layer norm": BEFORE + "k = LayerNormalization<axis=1>(h, gain, shift) y = Gemm(k, V)",
    "layer norm without shift": BEFORE + "k = LayerNormalization(h, gain) t = Tanh(k) "
                                         "y = Gemm(t, V)",
    "residual": BEFORE + "r = Relu(h) k = Gemm(r, V) s = Add(r, k) y = Gemm(s, V)",
    "residual, turned": BEFORE + "r = Relu(h) k = Gemm(r, V) t = Tanh(k) s = Add(t, r) "
                                 "y = Gemm(s, V)",
    "residual of the input": "h = Gemm(x, W) g = Gemm(h, V) f = Gemm<transB=1>(g, W) "
                             "s = Add(f, x) y = Gemm(s, W)",
    "residual in a residual": BEFORE + "k = Gemm(h, V) s = Add(h, k) t = Add(s, h) y = Gemm(t, V)",
    "normalised": "a = Sub(x, centre) c = Div(a, width) y = Gemm(c, W)",
    "centred": "a = Sub(x, centre) y = Gemm(a, W)",
    "scaled": "a = Div(x, n20) y = Gemm(a, W)",
    "relu6": BEFORE + "r = Relu(h) y = Min(r, n6)",
    "clip": BEFORE + "y = Clip(h, n0, n6)",
    "clip below": BEFORE + "y = Clip(h, n0)",
    "max": BEFORE + "y = Max(n0, h)",
    "hard sigmoid": BEFORE + "y = HardSigmoid<alpha=0.16666667, beta=0.5>(h)",
    "hard sigmoid of a clip": BEFORE + "a = Add(h, n3) c = Clip(a, n0, n6) y = Mul(c, sixth)",
    "prelu": BEFORE + "y = PRelu(h, slope)",
    "leaky relu": BEFORE + "y = LeakyRelu<alpha=0.2>(h)",
    "elu": BEFORE + "y = Elu(h)",
    "selu": BEFORE + "y = Selu(h)",
    "silu": BEFORE + "s = Sigmoid(h) y = Mul(s, h)",
    "mish": BEFORE + "s = Softplus(h) t = Tanh(s) y = Mul(h, t)",
    "softplus": BEFORE + "a = Mul(n3, h) s = Softplus(a) y = Div(s, n3)",
    "PyTorch's softplus": BEFORE + "s = Softplus(h) g = Greater(h, n20) y = Where(g, h, s)",
    "softsign": BEFORE + "a = Abs(h) c = Add(n1, a) y = Div(h, c)",
    "gelu": BEFORE + "a = Div(h, root2) e = Erf(a) c = Add(e, n1) f = Mul(h, c) y = Mul(f, n0_5)",
    "gelu, turned": BEFORE + "a = Div(h, root2) e = Erf(a) c = Add(e, n1) f = Mul(h, n0_5) "
                             "y = Mul(f, c)",
    "gelu by tanh": BEFORE + "q = Pow(h, n3) s = Mul(q, n0_044715) a = Add(h, s) t = Mul(a, r2pi) "
                             "u = Tanh(t) v = Add(u, n1) w = Mul(h, v) y = Mul(n0_5, w)",
    "gelu by tanh, factored": BEFORE + "q = Pow(h, n2) s = Mul(q, n0_044715) a = Add(n1, s) "
                                       "z = Mul(a, h) t = Mul(z, r2pi) u = Tanh(t) v = Add(u, n1) "
                                       "w = Mul(n0_5, h) y = Mul(v, w)",
    "log of softmax": BEFORE + "s = Softmax<axis=1>(h) y = Log(s)",
    "log softmax": BEFORE + "y = LogSoftmax(h)",
}


@pytest.mark.parametrize("body", READ.values(), ids=READ)
def test_read(body):
    model = model_from(body)
    X = np.random.default_rng(1).normal(size=(50, 3)).astype("f4")
    close(fastbp.from_onnx(model).predict(X), run(model, X), "float32")


@pytest.mark.parametrize(("operator", "opset"), [
    ("Gelu", 20), ('Gelu<approximate="tanh">', 20), ("Mish", 18), ("Swish", 24),
    ("Clip<min=0.0, max=6.0>", 10), ("Softmax", 11), ("Dropout<ratio=0.3>", 10),
])
def test_operators_of_other_versions(operator, opset):
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip(f"this onnx has no opset {opset}")
    name, _, attributes = operator.partition("<")
    body = f"h = Gemm(x, W, b) y = {name}{'<' + attributes if attributes else ''}(h)"
    model = model_from(body, opset=opset)
    X = np.random.default_rng(1).normal(size=(50, 3)).astype("f4")
    expected = reference.ReferenceEvaluator(model).run(None, {"x": X})[0]
    close(fastbp.from_onnx(model).predict(X), expected, "float32")


def test_what_is_read_is_what_was_meant():
    net = fastbp.from_onnx(model_from(READ["prelu"]))
    assert net.layers == (Dense(4, LeakyReLU(0.3)),)
    net = fastbp.from_onnx(model_from(READ["normalised"]))
    assert net.layers == (Normalize(), Dense(4))
    assert np.array_equal(net.statistics[0][0], CONSTANTS["centre"])
    assert np.array_equal(net.statistics[0][1], CONSTANTS["width"])
    net = fastbp.from_onnx(model_from(READ["residual in a residual"]))
    assert net.layers == (Dense(4), Residual([Residual([Dense(4)])]), Dense(4))
    net = fastbp.from_onnx(model_from(READ["batch norm"]))
    assert repr(net.layers[1]) == "BatchNorm(activation='relu', epsilon=0.01)"


TORCH = [
    "Sigmoid()", "Hardsigmoid()", "Tanh()", "ReLU()", "ReLU6()", "LeakyReLU(0.2)", "ELU(0.5)",
    "SELU()", "Softplus()", "Softplus(2.0)", "Softsign()", "GELU()", "GELU('tanh')", "SiLU()",
    "Mish()", "Softmax(1)", "LogSoftmax(1)",
]


@pytest.mark.parametrize("last", TORCH)
def test_what_pytorch_exports(last, tmp_path):
    torch = pytest.importorskip("torch", reason="torch is not installed")
    nn = torch.nn
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Linear(3, 7, bias=False), nn.BatchNorm1d(7), nn.GELU(), nn.Dropout(0.2),
        nn.LayerNorm(7), nn.Linear(7, 4), eval(f"nn.{last}", {"nn": nn}),
    )
    module(torch.randn(20, 3))  # moves the running statistics
    module.eval()
    path, X = tmp_path / "module.onnx", torch.randn(50, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of this exporter, which needs no more
        torch.onnx.export(module, (X,), path, dynamo=False, opset_version=17)
    close(fastbp.from_onnx(path).predict(X.numpy()), module(X).detach().numpy(), "float32")


# --- refused --------------------------------------------------------------------------------

REFUSED = {
    "y = HardSwish(h)": "HardSwish 'y': fastbp has nothing that computes this",
    "y = Sin(h)": "Sin 'y': fastbp has nothing",
    "y = Mul(h, n2)": "Mul 'y': what the nodes from Gemm 'h' to this one compute is no activation",
    "s = Mul(h, n1_702) t = Sigmoid(s) y = Mul(h, t)": "Mul 'y': what the nodes from Gemm 'h'",
    "y = HardSigmoid(h)": "HardSigmoid 'y': what the nodes",
    "y = Add(h, h)": "Add 'y': what the nodes",
    "k = Relu(h) y = Sigmoid(k)": "Sigmoid 'y': what the nodes",
    "y = Softmax<axis=0>(h)": "Softmax 'y': axis must be 1 or -1, got 0",
    "y = Flatten<axis=0>(h)": "Flatten 'y': only axis 1",
    "y = Gemm<transA=1>(h, V)": "Gemm 'y': transA",
    "y = MatMul(V, h)": "MatMul 'y': the first operand must depend on the graph's input",
    "y = MatMul(h, h)": "MatMul 'y': the second operand must be a constant",
    "y = Gemm(h, W)": r"Gemm 'y': weights must have shape \(4, 4\), got \(3, 4\)",
    "y = Gemm(h, b)": "Gemm 'y': weights must have two dimensions, got 1",
    "y = Gemm(h, V, centre)": r"Gemm 'y': a constant of shape \(3,\) does not fit rows of 4",
    "y = Gemm(h, V, nan)": "Gemm 'y': weights and statistics must be finite",
    "y = Gemm(h, V, many)": r"Gemm 'y': a constant of shape \(2, 4\) does not fit rows of 4",
    "y = Relu(W)": "Relu 'y': arithmetic of constants",
    "y = Add(W, W)": "Add 'y': arithmetic of constants",
    "y = Mul(h, b)": r"Mul 'y': a constant of shape \(4,\) is no part of an activation",
    "g = Gemm(x, W) y = Mul(h, g)": "Mul 'y': of two layers' outputs only the sum",
    "g = Gemm(x, W) y = Add(h, g)": "Add 'y': a sum must be of a layer's outputs and of what",
    "r = Relu(h) g = Gemm(r, V) y = Add(h, g)": "Add 'y': a sum must be",
    "g = Gemm(h, V) s = Add(h, g) y = Relu(s)": "Relu 'y': an activation has to come right after",
    "k = LayerNormalization(h, gain) y = Identity(k)":
        "the last layer must be a dense one, got LayerNormalization 'k'",
    "y = LayerNormalization<axis=0>(h, gain)": "LayerNormalization 'y': axis must be 1 or -1",
    "k = BatchNormalization(h, gain, shift, mean, no_variance) y = Gemm(k, V)":
        "BatchNormalization 'k': variances and deviations must be positive, got -1",
    "k = BatchNormalization<epsilon=-1.0>(h, gain, shift, mean, variance) y = Gemm(k, V)":
        "BatchNormalization 'k': epsilon must be positive",
    "k, m1, v1 = BatchNormalization<training_mode=1>(h, gain, shift, mean, variance) "
    "y = Gemm(k, V)": "BatchNormalization 'k': training_mode",
    "s = Softmax(h) y = Gemm(s, V)": "activation 'softmax' belongs in the last layer",
    "k = LayerNormalization(h, gain) y = Softmax(k)": "Softmax 'y': activation 'softmax' belongs",
    "d = Dropout(h, n0_5, yes) y = Relu(d)": "Dropout 'd': training_mode",
    "c = Cast<to=11>(h) y = Cast<to=1>(c)": "Cast 'c': a change of dtype",
    "s = Softplus(h) g = Greater(h, n20) y = Where(g, b, s)": "Where 'y': it chooses between other",
    "y = com.microsoft.Gelu(h)": "Gelu 'y': operators of 'com.microsoft' are not read",
    "y = Identity(W)": "output 'y' does not depend on the input",
    "y = PRelu(h, b)": "PRelu 'y': a constant of shape",
}


@pytest.mark.parametrize(("body", "message"), REFUSED.items())
def test_refused(body, message):
    with pytest.raises(ValueError, match=message):
        fastbp.from_onnx(model_from(BEFORE + body))


@pytest.mark.parametrize(("body", "message"), [
    ("r = Relu(x) y = Gemm(r, W)", "Relu 'r': an activation has to come right after"),
    ("a = Sub(centre, x) y = Gemm(a, W)", "Sub 'a': of the input only a mean is subtracted"),
    ("a = Mul(x, centre) y = Gemm(a, W)", "Mul 'a': of the input only a mean is subtracted"),
    ("a = Sub(x, b) y = Gemm(a, W)", "Sub 'a': a constant of shape"),
    ("a = Div(x, zeros) y = Gemm(a, W)", "Div 'a': variances and deviations must be positive"),
    ("y = Identity(x)", "the model has no layers"),
    ("a = LayerNormalization(x, n3) y = Gemm(a, W)", r"gain must have shape \(1,\), got \(\)"),
    ("a = Max(x, n3, n6) y = Gemm(a, W)", "Max 'a': two operands are read, got 3"),
])
def test_refused_of_the_input(body, message):
    with pytest.raises(ValueError, match=message):
        fastbp.from_onnx(model_from(body))


@pytest.mark.parametrize(("changed", "message"), [
    ({"given": "float[N, 3] x, float[N, 3] z"}, "one input, got .*'x', 'z'"),
    ({"made": "float[N, 4] y, float[N, 4] h"}, "one output, got .*'y', 'h'"),
    ({"given": "float[N, 3, 1] x"}, "input 'x' must have two dimensions, rows and features, got 3"),
    ({"given": "float16[N, 3] x"}, "input 'x' must be a tensor of float32 or float64"),
    ({"given": "double[N, 5] x"}, "weights are float32, and the graph's input is not"),
    ({"given": "float[N, 5] x"}, "input has 5 features, its layers want 3"),
    ({"given": "float[N, 2147483647] x", "body": "a = Div(x, n20) y = Gemm(a, W)"},
     "Div 'a': the input must have as many features as a layer has weights, got 2147483647"),
    ({"given": "float[N, K] x", "body": "a = Div(x, n20) y = Gemm(a, W)"}, "Div 'a': .*, got 0"),
    ({"opset": 6}, "opset 7 to .* got 6"),
    ({"opset": 999}, "opset 7 to .* are read with this onnx, got 999"),
])
def test_refused_graphs(changed, message):
    with pytest.raises(ValueError, match=message):
        fastbp.from_onnx(model_from(**{"body": BEFORE + "y = Relu(h)", **changed}))


def small():
    return model_of(Network(2, [Dense(2, "tanh"), Dense(1)], seed=0))


def external(model):
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../etc/passwd"


def external_constant(model):
    model.graph.node[0].attribute.add(name="value", type=4).t.CopyFrom(model.graph.initializer[0])
    model.graph.node[0].attribute[-1].t.data_location = onnx.TensorProto.EXTERNAL


def nested(model):
    inner = model.graph.node[0].attribute.add(name="body", type=5).g
    inner.initializer.add(name="inner").data_location = onnx.TensorProto.EXTERNAL


def with_dims(*dims):
    return lambda model: model.graph.initializer[0].dims.__setitem__(slice(None), dims)


def infinite(model):
    tensor = model.graph.initializer[0]
    tensor.raw_data = np.array([1, np.inf, 1, 1], "f4").tobytes()


HOSTILE = {
    "outside": (external, "lies in another file, which is never opened"),
    "outside, a Constant": (external_constant, "lies in another file"),
    "outside, in a subgraph": (nested, "lies in another file"),
    "gigabytes": (with_dims(2**30, 2**30), "dimensions|no valid"),
    "overflow": (with_dims(2**62, 4), "dimensions|no valid"),
    "too few": (with_dims(3, 2), r"want 6 numbers, got 4|no valid"),
    "too many": (with_dims(1, 2), r"dimensions \[1, 2\] want 2 numbers, got 4"),
    "negative": (with_dims(-1, 2), "dimensions|no valid"),
    "infinite": (infinite, "weights and statistics must be finite"),
    "functions": (lambda model: model.functions.add(name="f"), "functions is not read"),
    "training": (lambda model: model.training_info.add(), "training_info is not read"),
    "sparse": (lambda model: model.graph.sparse_initializer.add(), "sparse weights is not read"),
    "float16": (
        lambda model: setattr(model.graph.initializer[0], "data_type", 10), "float32|no valid"),
    "unknown type": (
        lambda model: setattr(model.graph.initializer[0], "data_type", 77), "float32|no valid"),
    "unknown tensor": (
        lambda model: model.graph.node[0].input.__setitem__(0, "nowhere"), "no valid|not known"),
    "two types": (
        lambda model: model.graph.initializer[0].CopyFrom(
            onnx.numpy_helper.from_array(np.ones((2, 2)), model.graph.initializer[0].name)),
        "float32 or all float64, got float32, float64"),
}


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_models(change, message, tmp_path):
    model = small()
    fastbp.from_onnx(model)
    change(model)
    with pytest.raises(ValueError, match=message):
        fastbp.from_onnx(model)
    (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match=message):
        fastbp.from_onnx(tmp_path / "m.onnx")


def test_formulas_do_not_grow_without_end():
    body = BEFORE + "a0 = Mul(h, h) " + " ".join(
        f"a{i + 1} = Mul(a{i}, a{i})" for i in range(60)
    ) + " y = Identity(a60)"
    with pytest.raises(ValueError, match="a formula this long is no activation"):
        fastbp.from_onnx(model_from(body))


def test_blocks_are_not_nested_without_end():
    steps = [f"s{i + 1} = Add(h, s{i})" for i in range(2000)]
    body = BEFORE + "s0 = Gemm(h, V) " + " ".join(steps) + " y = Gemm(s2000, V)"
    with pytest.raises(ValueError, match="inside each other 32 deep at most"):
        fastbp.from_onnx(model_from(body))


def test_long_graphs_are_no_trouble():
    steps = [f"k{i + 1} = Gemm(k{i}, V) " for i in range(1000)]
    net = fastbp.from_onnx(model_from("k0 = Gemm(x, W) " + " ".join(steps) + "y = Relu(k1000)"))
    assert len(net.layers) == 1001


def test_no_file_crashes(tmp_path):
    """Every truncation and every flipped bit: a network, or a ValueError."""
    content, path = small().SerializeToString(), tmp_path / "m.onnx"
    kinds = {"network": 0, "refused": 0}
    damaged = [content[:length] for length in range(len(content))]
    for bit in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for each in damaged:
        path.write_bytes(each)
        try:
            fastbp.from_onnx(path)
            kinds["network"] += 1
        except ValueError:
            kinds["refused"] += 1
    assert kinds["network"] > 100  # of flips in names and in weights
    assert kinds["refused"] > 1000


def test_what_is_no_model(tmp_path):
    with pytest.raises(TypeError, match=r"a path or an onnx.ModelProto, got list"):
        fastbp.from_onnx([])
    with pytest.raises(FileNotFoundError):
        fastbp.from_onnx(tmp_path / "none.onnx")
    (tmp_path / "m.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(ValueError, match="no ONNX model"):
        fastbp.from_onnx(tmp_path / "m.onnx")


def test_without_onnx(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'pip install "fastbp\[onnx\]"'):
        Network(3, [Dense(2)]).to_onnx(tmp_path / "m.onnx")
    with pytest.raises(ImportError, match=r'pip install "fastbp\[onnx\]"'):
        fastbp.from_onnx(tmp_path / "m.onnx")
    assert os.listdir(tmp_path) == []
