"""Activations as ONNX computes them: written from one table, and told apart by the same.

A formula is a tree: X, a number, or a tuple of an operator of ONNX and its operands. The numbers of
an operator that has them as attributes come first: ``("LeakyRelu", 0.01, X)``. So as to recognise
what another exporter has written, trees are brought into a normal form where products and sums have
lost their order and nesting, and are compared in that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fastbp.activations import WITH_PARAMETERS, Activation, Softplus
from fastbp.interop.parts import spelled_out

__all__ = ["ATTRIBUTES", "X", "activation_of", "formula", "normal"]

Tree = Any  # of tuples, strings and floats
X = "x"

# Which attributes an operator has, and what they are by default.
ATTRIBUTES: dict[str, dict[str, float]] = {
    "Elu": {"alpha": 1.0},
    "HardSigmoid": {"alpha": 0.2, "beta": 0.5},
    "LeakyRelu": {"alpha": 0.01},
    "Selu": {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875},
}
SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
# Constants of a model are at best as precise as its float32.
TOLERANCE = 1e-6
# A tree of a known activation is far smaller, and one made to grow without end stops here.
LARGEST = 100


def _scaled(tree: Tree, factor: float, operator: str = "Mul") -> Tree:
    return tree if factor == 1 else (operator, tree, factor)


def _softplus(beta: float) -> Tree:
    return _scaled(("Softplus", _scaled(X, beta)), beta, "Div")


def _double_softplus(beta: float) -> Tree:
    z = _scaled(X, beta)
    # log(1 + e^z) without overflow
    tail = ("Log", ("Add", ("Exp", ("Neg", ("Abs", z))), 1.0))
    return _scaled(("Add", ("Relu", z), tail), beta, "Div")


def _double_elu(alpha: float) -> Tree:
    below = ("Sub", ("Exp", ("Min", X, 0.0)), 1.0)
    return ("Add", ("Relu", X), _scaled(below, alpha))


def _gelu_tanh(argument: Tree) -> Tree:
    tanh = ("Tanh", ("Mul", argument, math.sqrt(2 / math.pi)))
    return ("Mul", ("Mul", X, ("Add", tanh, 1.0)), 0.5)


def _cube(tree: Tree) -> Tree:
    return ("Mul", ("Mul", tree, tree), tree)


# For each activation and its parameter: the formula that is written, the one for float64 where it
# is another, and more that are only read. Attributes are float32 in ONNX, and ONNX Runtime has
# no float64 for these operators: so float64 has formulas of elementary ones with constants.
FORMULAS: dict[str, Callable[[float], list[Tree]]] = {
    "identity": lambda _: [X],
    "sigmoid": lambda _: [("Sigmoid", X)],
    "hard_sigmoid": lambda _: [
        ("HardSigmoid", 1 / 6, 0.5, X),
        ("Clip", ("Add", ("Mul", X, 1 / 6), 0.5), 0.0, 1.0),
        ("Div", ("Clip", ("Add", X, 3.0), 0.0, 6.0), 6.0),
    ],
    "tanh": lambda _: [("Tanh", X)],
    "relu": lambda _: [("Relu", X)],
    "relu6": lambda _: [("Clip", X, 0.0, 6.0)],
    "leaky_relu": lambda alpha: [("LeakyRelu", alpha, X), ("PRelu", X, alpha)],
    "elu": lambda alpha: [("Elu", alpha, X), _double_elu(alpha)],
    "selu": lambda _: [
        ("Selu", SELU_ALPHA, SELU_SCALE, X), ("Mul", _double_elu(SELU_ALPHA), SELU_SCALE),
    ],
    "softplus": lambda beta: [
        _softplus(beta), _double_softplus(beta),
        ("Where", ("Greater", _scaled(X, beta), 20.0), X, _softplus(beta)),  # PyTorch's
    ],
    "softsign": lambda _: [("Softsign", X), ("Div", X, ("Add", ("Abs", X), 1.0))],
    "exponential": lambda _: [("Exp", X)],
    "gelu": lambda _: [
        ("Mul", ("Mul", X, ("Add", ("Erf", ("Div", X, math.sqrt(2))), 1.0)), 0.5),
    ],
    "gelu_tanh": lambda _: [
        _gelu_tanh(("Add", X, ("Mul", _cube(X), 0.044715))),
        _gelu_tanh(("Mul", X, ("Add", ("Mul", ("Mul", X, X), 0.044715), 1.0))),
    ],
    "silu": lambda _: [("Mul", X, ("Sigmoid", X))],
    "mish": lambda _: [
        ("Mul", X, ("Tanh", ("Softplus", X))), ("Mul", X, ("Tanh", _double_softplus(1.0))),
    ],
    "softmax": lambda _: [("Softmax", X)],
    "log_softmax": lambda _: [("LogSoftmax", X), ("Log", ("Softmax", X))],
}
# Those of which the second formula is for reading alone.
READ_ALONE = ("gelu_tanh", "log_softmax")


def formula(activation: str | Activation, *, double: bool) -> Tree:
    """Return what is written for an activation, in a model of float64 if `double`."""
    name = activation if isinstance(activation, str) else activation.name
    trees = _formulas(activation)
    return trees[1] if double and len(trees) > 1 and name not in READ_ALONE else trees[0]


def _formulas(activation: str | Activation) -> list[Tree]:
    activation = spelled_out(activation)
    if isinstance(activation, str):
        return FORMULAS[activation](0.0)
    parameter = activation.beta if isinstance(activation, Softplus) else activation.alpha
    return FORMULAS[activation.name](parameter)


def activation_of(tree: Tree) -> str | Activation | None:
    """Return the activation that a tree in normal form is, or None if it is none of fastbp's."""
    for name, trees in KNOWN:
        if any(_alike(tree, each) for each in trees):
            return name
    # a parameter is among the numbers; one whose formula is the very tree goes before its roundings
    found: list[Activation] = []
    for parameter in _numbers(tree):
        if 0 < parameter < math.inf:
            for name, kind in WITH_PARAMETERS.items():
                known = [normal(each) for each in FORMULAS[name](parameter)]
                if tree in known:
                    return kind(parameter)
                if any(_alike(tree, each) for each in known):
                    found.append(kind(parameter))
    return found[0] if found else None


# --- the normal form ------------------------------------------------------------------------
#
# ("sum", c, *terms) is c and the terms added, ("product", c, *factors) likewise, and
# ("clip", low, high, tree) a tree cut off at both ends. Other operators stay as they are.

def normal(tree: Tree) -> Tree:
    """Return a tree in normal form.

    Raises
    ------
    ValueError
        If it grows beyond what any activation is.
    """
    if not isinstance(tree, tuple) or tree[0] in ("sum", "product", "clip"):
        return tree
    operator, *operands = tree
    result = _normal(operator, [normal(operand) for operand in operands])
    if _size(result) > LARGEST:
        raise ValueError("a formula this long is no activation of fastbp")
    return result


def _normal(operator: str, operands: list[Tree]) -> Tree:
    first, *rest = operands
    second = rest[0] if rest else None
    if operator == "Add":
        return _sum(first, second)
    if operator == "Sub":
        return _sum(first, _product(second, -1.0))
    if operator == "Neg":
        return _product(first, -1.0)
    if operator == "Mul":
        return _product(first, second)
    if operator == "Div" and isinstance(second, float) and second != 0:
        return _product(first, 1 / second)
    if operator == "Pow" and second in (2.0, 3.0):
        return _product(*[first] * int(second))
    if operator == "Relu":
        return _clip(first, 0.0, math.inf)
    if operator == "Clip":
        return _clip(*operands)
    if operator in ("Max", "Min"):
        tree, bound = (second, first) if isinstance(first, float) else (first, second)
        if isinstance(bound, float):
            low, high = (bound, math.inf) if operator == "Max" else (-math.inf, bound)
            return _clip(tree, low, high)
    if operator == "HardSigmoid":
        slope, offset, tree = operands
        return _clip(_sum(_product(tree, slope), offset), 0.0, 1.0)
    if operator == "PRelu":
        return ("LeakyRelu", second, first)
    return (operator, *operands)


def _sum(*operands: Tree) -> Tree:
    constant, terms = 0.0, []
    for operand in operands:
        if isinstance(operand, float):
            constant += operand
        elif operand[0] == "sum":
            constant += operand[1]
            terms += operand[2:]
        else:
            terms.append(operand)
    return _together("sum", constant, 0.0, terms)


def _product(*operands: Tree) -> Tree:
    constant, factors = 1.0, []
    for operand in operands:
        if isinstance(operand, float):
            constant *= operand
        elif operand[0] == "product":
            constant *= operand[1]
            factors += operand[2:]
        else:
            factors.append(operand)
    return _together("product", constant, 1.0, factors)


def _together(kind: str, constant: float, neutral: float, trees: list[Tree]) -> Tree:
    if not trees:
        return constant
    if len(trees) == 1 and constant == neutral:
        return trees[0]
    return (kind, constant, *sorted(trees, key=_shape))


def _clip(tree: Tree, low: float, high: float) -> Tree:
    if isinstance(tree, tuple) and tree[0] == "clip":
        _, lower, higher, tree = tree
        # right as long as neither range lies outside the other
        low, high = min(max(low, lower), high), max(min(high, higher), low)
    return ("clip", low, high, tree)


def _shape(tree: Tree) -> str:
    """A tree without its numbers, to sort by."""
    if isinstance(tree, tuple):
        return f"({' '.join(map(_shape, tree))})"
    return "" if isinstance(tree, float) else tree


def _size(tree: Tree) -> int:
    return sum(map(_size, tree)) if isinstance(tree, tuple) else 1


def _numbers(tree: Tree) -> list[float]:
    """All numbers in a tree, and what they are one over."""
    if isinstance(tree, float):
        return [tree, 1 / tree] if tree else []
    return [each for part in tree for each in _numbers(part)] if isinstance(tree, tuple) else []


def _alike(a: Tree, b: Tree) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_alike, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=TOLERANCE)
    return bool(a == b)


# Those without a parameter, and those that have it at its default.
KNOWN: list[tuple[str, list[Tree]]] = [
    (name, [normal(each) for each in _formulas(name)]) for name in FORMULAS
]
