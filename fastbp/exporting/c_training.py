"""The C of an online training step: the way back through the layers, and the update rule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastbp import SGD, Adam, BatchNorm, Dense, Dropout, LayerNorm, Network, Residual
from fastbp.exporting.c_layers import (
    WITH_SLOPES,
    Step,
    activation_of,
    arrays,
    forward,
    is_weighted,
    loop,
)
from fastbp.exporting.c_losses import LOSSES, logits_of, loss_function

if TYPE_CHECKING:
    from fastbp.optimizers import Optimizer

__all__ = ["Training"]

# f'(Z) from a = f(Z); where a does not determine it, the slope is written down.
DERIVATIVES: dict[str, str] = {
    "sigmoid": "a * (1 - a)",
    "hard_sigmoid": "(a > 0 && a < 1 ? R(0.16666666666666667) : R(0.0))",
    "tanh": "(1 - a * a)",
    "relu": "(a <= 0 ? R(0.0) : R(1.0))",
    "relu6": "(a > 0 && a < 6 ? R(1.0) : R(0.0))",
    "leaky_relu": "(a < 0 ? alpha : R(1.0))",
    "elu": "(a < 0 ? a + alpha : R(1.0))",
    "selu": "(a < 0 ? a + R(1.7580993408473766) : R(1.0507009873554805))",
    "softplus": "-@exp_less_one(-alpha * a)",
    "softsign": "(1 - (a < 0 ? -a : a)) * (1 - (a < 0 ? -a : a))",
    "exponential": "a",
}

COPIES = """
/* Through volatile, as a mere loop would become a call of memcpy or memset. */
@@INLINE void @copy(const volatile @real *from, @real *to, int n)
{
    for (int i = 0; i < n; ++i) {
        to[i] = from[i];
    }
}
"""
CLEAR = """
@@INLINE void @clear(volatile @real *to, int n)
{
    for (int i = 0; i < n; ++i) {
        to[i] = 0;
    }
}
"""


class Training:
    """Writes the functions of a header that learns.

    Parameters
    ----------
    network : Network
    steps : list of Step

    Raises
    ------
    TypeError
        If the loss, the optimizer, a setting of it or a layer cannot be exported.
    """

    def __init__(self, network: Network, steps: list[Step]) -> None:
        self._network, self._steps, self._last = network, steps, steps[-1]
        self._optimizer = _checked(network)
        self._from_logits = logits_of(network.loss, activation_of(self._last)[0])
        trained = [step.number for step in steps if _is_trained(step)]
        self._first = min(trained, default=len(steps) + 1)

    def description(self) -> list[str]:
        """Return what the header says of learning."""
        return [
            f"A step of {self._optimizer} on {self._network.loss}: y has as many",
            "elements as the outputs, and the loss before the step is returned. If that is not",
            "finite, nothing is changed.",
        ]

    def elements(self) -> list[int]:
        """Return the sizes of the arrays on the stack."""
        kept = [step for step in self._steps if isinstance(step.layer, LayerNorm)]
        kept += [step for step in self._steps if activation_of(step)[0] in WITH_SLOPES]
        return [step.n_out for step in [*self._steps, *self._steps, *kept]]

    def functions(self) -> str:
        """Return all that follows the constants, as one template."""
        network = self._network
        epsilon = float(np.finfo(network.dtype).eps)
        return "\n".join([
            self._struct(),
            self._init(),
            self._predict(),
            self._update(),
            loss_function(
                network.loss, network.n_outputs, epsilon, from_logits=self._from_logits
            ),
            self._train_step(),
        ])

    # --- the optimizer ----------------------------------------------------------------------

    @property
    def _vectors(self) -> tuple[str, ...]:
        """What the optimizer keeps of each parameter."""
        if isinstance(self._optimizer, SGD):
            return ("momentum",) if self._optimizer.momentum else ()
        assert isinstance(self._optimizer, Adam)
        return ("mean", "square", "largest") if self._optimizer.amsgrad else ("mean", "square")

    def _struct(self) -> str:
        members = "".join(f"    @parameters {name};\n" for name in ("parameters", *self._vectors))
        members += "    double learning_rate;\n"
        if isinstance(self._optimizer, Adam):
            members += "    double beta1_power, beta2_power;\n"
        return (
            "/* What learns, for @init to fill. The learning rate may be set at any time. */\n"
            f"typedef struct {{\n{members}    int64_t steps;\n}} @learner;\n"
        )

    def _init(self) -> str:
        lines = []
        for name, values in _fields(self._steps):
            lines.append(f"@copy(@initial.{name}, learner->parameters.{name}, {values.size});")
            lines += [f"@clear(learner->{each}.{name}, {values.size});" for each in self._vectors]
        lines.append(f"learner->learning_rate = {self._optimizer.learning_rate!r};")
        if isinstance(self._optimizer, Adam):
            lines.append("learner->beta1_power = learner->beta2_power = 1;")
        lines.append("learner->steps = 0;")
        body = "".join(f"    {line}\n" for line in lines)
        return (
            COPIES + (CLEAR if self._vectors else "")
            + "\n/* Begin with the parameters of this header, and with a new optimizer. */\n"
            f"static inline @@TARGET void @init(@learner *learner)\n{{\n{body}}}\n"
        )

    def _update(self) -> str:
        """One loop over some parameters, whose gradient is x d."""
        optimizer = self._optimizer
        state = "".join(f", @real *@@RESTRICT {name}" for name in self._vectors)
        lines = ["@real g = x * d[j];"]
        if _has_penalties(self._steps):
            lines.append("g += l2 * w[j] + l1 * (@real)((w[j] > 0) - (w[j] < 0));")
        if optimizer.clip_value is not None:
            lines.append(f"g = g > R({optimizer.clip_value!r}) ? R({optimizer.clip_value!r}) : g;")
            lines.append(
                f"g = g < -R({optimizer.clip_value!r}) ? -R({optimizer.clip_value!r}) : g;"
            )
        if optimizer.weight_decay and not optimizer.decoupled:
            lines.append(f"g += R({optimizer.weight_decay!r}) * w[j];")
        body = "".join(f"        {line}\n" for line in [*lines, *self._rule()])
        return (
            "/* What depends on the step alone. */\n"
            "typedef struct {\n    @real rate, fresh, shrink, first, second;\n} @rates;\n\n"
            "@@INLINE void @update(const @rates *step, @real l1, @real l2, @real x,\n"
            "                     const @real *@@RESTRICT d, int n, @real *@@RESTRICT w"
            f"{state})\n{{\n    (void)l1;\n    (void)l2;\n    (void)step;\n"
            f"    for (int j = 0; j < n; ++j) {{\n{body}    }}\n}}\n"
        )

    def _rule(self) -> list[str]:
        optimizer = self._optimizer
        if isinstance(optimizer, SGD):
            if not optimizer.momentum:
                return ["w[j] -= step->rate * g;"]
            momentum = f"R({optimizer.momentum!r}) * momentum[j]"
            direction = f"(g + {momentum})" if optimizer.nesterov else "momentum[j]"
            return [
                f"momentum[j] = {momentum} + step->fresh * g;", f"w[j] -= step->rate * {direction};"
            ]
        assert isinstance(optimizer, Adam)
        beta1, beta2 = optimizer.beta1, optimizer.beta2
        lines = [
            f"mean[j] = R({beta1!r}) * mean[j] + R({1 - beta1!r}) * g;",
            f"square[j] = R({beta2!r}) * square[j] + R({1 - beta2!r}) * g * g;",
        ]
        square = "square"
        if optimizer.amsgrad:
            square = "largest"
            lines.append("largest[j] = largest[j] > square[j] ? largest[j] : square[j];")
        return [
            *lines,
            "w[j] = step->shrink * w[j] - step->first * mean[j]\n"
            f"            / (step->second * @root({square}[j]) + R({optimizer.epsilon!r}));",
        ]

    def _begin(self) -> str:
        """What the update takes from the number of the step."""
        optimizer = self._optimizer
        if self._first > len(self._steps):
            return "    ++learner->steps; /* no layer is trained */\n"
        lines = [
            "@rates step;", "step.rate = (@real)learner->learning_rate;", "step.fresh = 1;",
            "step.shrink = 1;", "step.first = 0;", "step.second = 0;",
        ]
        if isinstance(optimizer, SGD) and optimizer.dampening:
            lines[2] = (
                f"step.fresh = learner->steps == 0 ? R(1.0) : R({1 - optimizer.dampening!r});"
            )
        if optimizer.decoupled:
            lines.append(
                "step.shrink = "
                f"(@real)(1 - learner->learning_rate * {float(optimizer.weight_decay)!r});"
            )
        if isinstance(optimizer, Adam):
            lines += [
                f"learner->beta1_power *= {optimizer.beta1!r};",
                f"learner->beta2_power *= {optimizer.beta2!r};",
                "step.first = (@real)(learner->learning_rate / (1 - learner->beta1_power));",
                "step.second = 1 / @root((@real)(1 - learner->beta2_power));",
            ]
        return "".join(f"    {line}\n" for line in [*lines, "++learner->steps;"])

    # --- forward and backward ---------------------------------------------------------------

    def _predict(self) -> str:
        return (
            "/* out = the outputs for one row x, with these parameters; none may overlap. */\n"
            "static inline @@TARGET void @predict_with(const @parameters *p, const @real *x,\n"
            "                                         @real *@@RESTRICT out)\n{\n"
            + arrays(self._steps)
            + forward(self._steps, lambda field: f"p->{field}", folded=False)
            + "}\n\n/* The same with the parameters of this header. */\n"
            "static inline @@TARGET void @predict(const @real *x, @real *@@RESTRICT out)\n{\n"
            "    @predict_with(&@initial, x, out);\n}\n"
        )

    def _train_step(self) -> str:
        steps, n_outputs = self._steps, self._network.n_outputs
        declared = [("out", n_outputs)]
        for step in steps:
            if step is self._last or step.number >= self._first:
                declared.append((f"d{step.number}", step.n_out))
            if step.number < self._first:
                continue
            if activation_of(step)[0] in WITH_SLOPES:
                declared.append((f"slope{step.number}", step.n_out))
            if isinstance(step.layer, LayerNorm):
                declared.append((f"normal{step.number}", step.n_out))
        return (
            "/* One step on a row x and its target y; the loss before it is returned. */\n"
            "static inline @@TARGET double @train_step(@learner *learner, const @real *x,\n"
            "                                         const @real *y)\n{\n"
            "    const @parameters *const p = &learner->parameters;\n"
            "    double loss;\n"
            + arrays(steps)
            + "".join(f"    @real {name}[{size}] @@ALIGNED;\n" for name, size in declared)
            + forward(
                steps, lambda field: f"p->{field}", folded=False, back_to=self._first,
                from_logits=self._from_logits,
            )
            + f"    loss = @loss(out, y, d{self._last.number});\n"
            "    if (!(loss - loss == 0)) {\n        return loss;\n    }\n"
            + self._begin()
            + "".join(self._backward(step) for step in reversed(steps))
            + "    return loss;\n}\n"
        )

    def _backward(self, step: Step) -> str:
        """From the gradient by a step's outputs to that by its inputs; parameters are updated."""
        if step.number < self._first:
            return ""
        code = ""
        if step is not self._last or not self._from_logits:
            code += self._derivative(step)
        back = step.number > self._first
        d_in, d, k, n = f"d{step.number - 1}", f"d{step.number}", step.number, step.n_out
        if isinstance(step.layer, Dense):
            code += self._dense(step, back)
        elif isinstance(step.layer, Residual) and back:
            code += loop(n, f"{d_in}[j] = {d}[j] + R(0.0);")
        else:
            code += self._norm(step, back)
        if back:
            for other in self._steps:
                if other.source == k - 1 >= self._first:
                    code += loop(step.n_in, f"{d_in}[j] += d{other.number}[j];")
        return code

    @staticmethod
    def _derivative(step: Step) -> str:
        name, parameter = activation_of(step)
        d, a, n = f"d{step.number}", step.output, step.n_out
        if name == "identity":
            return ""
        if name in WITH_SLOPES:
            return loop(n, f"{d}[j] *= slope{step.number}[j];")
        if name == "softmax":
            total = f"    const @real along = @dot({d}, {a}, {n});\n"
            return total + loop(n, f"{d}[j] = {a}[j] * ({d}[j] - along);")
        if name == "log_softmax":
            total = f"    const @real along = @sum({d}, {n});\n"
            return total + loop(n, f"{d}[j] -= @exp({a}[j]) * along;")
        alpha = "" if parameter is None else f"const @real alpha = R({parameter!r}); "
        return loop(n, f"const @real a = {a}[j]; {alpha}{d}[j] *= {DERIVATIVES[name]};")

    def _dense(self, step: Step, back: bool) -> str:
        k, n_in, n_out, x = step.number, step.n_in, step.n_out, step.input
        assert isinstance(step.layer, Dense)
        code = ""
        if n_out == 1:  # rows of one element: W and x pass for one row instead
            if back:
                code += loop(n_in, f"d{k - 1}[j] = p->w{k}[j] * d{k}[0];")
            if _is_trained(step):
                code += "    " + self._call(step, f"d{k}[0]", x, n_in, f"w{k}") + "\n"
        else:
            lines = []
            if back:
                lines.append(f"d{k - 1}[i] = @dot(p->w{k} + i * {n_out}, d{k}, {n_out});")
            if _is_trained(step):
                update = self._call(step, f"{x}[i]", f"d{k}", n_out, f"w{k}", f" + i * {n_out}")
                if self._leaves_zeros(step):
                    update = f"if ({x}[i] != 0) {{\n            {update}\n        }}"
                lines.append(update)
            body = "".join(f"        {line}\n" for line in lines)
            if lines:
                code += f"    for (int i = 0; i < {n_in}; ++i) {{\n{body}    }}\n"
        if _is_trained(step):
            code += "    " + self._call(step, "R(1.0)", f"d{k}", n_out, f"b{k}") + "\n"
        return code

    def _leaves_zeros(self, step: Step) -> bool:
        """Whether weights whose input is zero stay as they are."""
        return not self._vectors and not self._optimizer.weight_decay and not any(_penalties(step))

    def _norm(self, step: Step, back: bool) -> str:
        k, n = step.number, step.n_out
        d, d_in = f"d{k}", f"d{k - 1}"
        code = ""
        if isinstance(step.layer, BatchNorm):
            normal = f"normal{k}"
            if back:
                code += loop(n, f"{d_in}[j] = {d}[j] * p->gain{k}[j] * @factor{k}[j];")
            of_gain = f"{d}[j] * (({step.input}[j] - @mean{k}[j]) * @factor{k}[j])"
        elif isinstance(step.layer, LayerNorm):
            normal = f"normal{k}"
            if back:
                code += (
                    loop(n, f"{d_in}[j] = {d}[j] * p->gain{k}[j];")
                    + f"    const @real middle{k} = @sum({d_in}, {n}) / {n};\n"
                    f"    const @real along{k} = @dot({d_in}, {normal}, {n}) / {n};\n"
                    + loop(n, f"{d_in}[j] = inverse{k} * ({d_in}[j] - middle{k} - "
                              f"{normal}[j] * along{k});")
                )
            of_gain = f"{d}[j] * {normal}[j]"
        else:
            return ""
        if _is_trained(step):
            code += (
                f"    {{\n    @real of_gain[{n}] @@ALIGNED;\n"
                + loop(n, f"of_gain[j] = {of_gain};")
                + "    " + self._call(step, "R(1.0)", "of_gain", n, f"gain{k}") + "\n    }\n"
                "    " + self._call(step, "R(1.0)", d, n, f"shift{k}") + "\n"
            )
        return code

    def _call(self, step: Step, x: str, d: str, n: int, field: str, at: str = "") -> str:
        """The update of n parameters by x d."""
        l1, l2 = _penalties(step) if field.startswith("w") else (0.0, 0.0)
        targets = ", ".join(
            f"learner->{each}.{field}{at}" for each in ("parameters", *self._vectors)
        )
        return f"@update(&step, R({l1!r}), R({l2!r}), {x}, {d}, {n}, {targets});"


def _fields(steps: Sequence[Step]) -> list[tuple[str, NDArray[Any]]]:
    return [pair for step in steps for pair in step.fields]


def _is_trained(step: Step) -> bool:
    return is_weighted(step) and bool(getattr(step.layer, "trainable", False))


def _penalties(step: Step) -> tuple[float, float]:
    layer = step.layer
    return (layer.l1, layer.l2) if isinstance(layer, Dense) else (0.0, 0.0)


def _has_penalties(steps: Sequence[Step]) -> bool:
    return any(any(_penalties(step)) for step in steps)


def _checked(network: Network) -> Optimizer:
    """Return the optimizer, or say in an error what of the network's training C has no part of."""
    optimizer = network.optimizer
    if not isinstance(optimizer, (SGD, Adam)):
        raise TypeError(
            "train_step=True wants the optimizer SGD, Adam or AdamW, got "
            f"{type(optimizer).__name__}"
        )
    if not isinstance(optimizer.learning_rate, float):
        raise TypeError(
            "train_step=True wants a learning rate that is a number, got "
            f"{optimizer.learning_rate!r}; the C program may set another one before each step"
        )
    for setting in ("clip_norm", "noise"):
        if getattr(optimizer, setting):
            raise TypeError(f"train_step=True goes without {setting}, got {optimizer}")
    if f"{network.loss.name} from logits" not in LOSSES and network.loss.name not in LOSSES:
        raise TypeError(f"train_step=True goes without a loss of your own, got {network.loss}")
    for layer in _nested(network.layers):
        if isinstance(layer, Dropout):
            raise TypeError(f"train_step=True goes without dropout, got {layer}")
        if isinstance(layer, Dense) and layer.max_norm is not None:
            raise TypeError(f"train_step=True goes without max_norm, got {layer}")
    return optimizer


def _nested(layers: Sequence[Any]) -> list[Any]:
    """All layers, those inside a Residual as well."""
    return [
        each for layer in layers
        for each in ([layer, *_nested(layer.layers)] if isinstance(layer, Residual) else [layer])
    ]
