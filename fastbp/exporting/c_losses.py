"""The losses of one row in C, with their gradients, as in engine/losses.pxd."""

from __future__ import annotations

import re

from fastbp import losses
from fastbp.losses import Loss

__all__ = ["LOSSES", "logits_of", "loss_function"]

# Each adds to `total` what one output `a` and its target `t` make, and sets d[j]. In those from
# logits, a is the raw output.
LOSSES: dict[str, str] = {
    "squared_error": """
        d[j] = a - t;
        total += R(0.5) * d[j] * d[j];
""",
    "absolute_error": """
        d[j] = (@real)((a > t) - (a < t));
        total += (a - t) * d[j];
""",
    "huber": """
        const @real r = a - t, below = r > R({delta}) ? R({delta}) : r;
        d[j] = below < -R({delta}) ? -R({delta}) : below;
        total += d[j] * (r - d[j] / 2);
""",
    "log_cosh": """
        const @real r = a - t, size = r < 0 ? -r : r;
        total += size < R(0.01) ? r * r * (R(0.5) - r * r / 12)
            : size + @log_one_plus(@exp(-2 * size)) - R(0.69314718055994531);
        d[j] = @tanh(r);
""",
    "quantile": """
        d[j] = a > t ? 1 - @levels[j] : (a < t ? -@levels[j] : R(0.0));
        total += (a - t) * d[j];
""",
    "poisson": """
        const @real p = a < R({eps}) ? R({eps}) : a;
        d[j] = p == a ? 1 - t / p : R(0.0);
        total += p - t * @log(p);
""",
    "poisson from logits": """
        const @real p = @exp(a);
        d[j] = p - t;
        total += p - t * a;
""",
    "gamma": """
        const @real p = a < R({eps}) ? R({eps}) : a;
        d[j] = p == a ? (1 - t / p) / p : R(0.0);
        total += @log(p) + t / p;
""",
    "gamma from logits": """
        const @real part = t * @exp(-a);
        d[j] = 1 - part;
        total += a + part;
""",
    "tweedie": """
        const @real p = a < R({eps}) ? R({eps}) : a, log_p = @log(p);
        const @real first = @exp(R({above}) * log_p), second = t * @exp(R({below}) * log_p);
        d[j] = p == a ? (first - second) / p : R(0.0);
        total += first / R({above}) - second / R({below});
""",
    "tweedie from logits": """
        const @real first = @exp(R({above}) * a), second = t * @exp(R({below}) * a);
        d[j] = first - second;
        total += first / R({above}) - second / R({below});
""",
    "binary_cross_entropy": """
        const @real above = a < R({eps}) ? R({eps}) : a;
        const @real p = above > 1 - R({eps}) ? 1 - R({eps}) : above;
        d[j] = p == a ? (p - t) / (p * (1 - p)) : R(0.0);
        total -= t * @log(p) + (1 - t) * @log(1 - p);
""",
    "binary_cross_entropy from logits": """
        d[j] = @sigmoid(a) - t;
        total += (a > 0 ? a : R(0.0)) - a * t + @log_one_plus(@exp(a > 0 ? -a : a));
""",
    "cross_entropy": """
        const @real p = a < R({eps}) ? R({eps}) : a, share = R({kept}) * t + R({spread});
        d[j] = p == a ? -share / p : R(0.0);
        total -= share * @log(p);
""",
    "cross_entropy from logits": """
        const @real share = R({kept}) * t + R({spread});
        total += share * (log_sum - (a - most));
        d[j] = d[j] * (weight / sum) - share;
""",
    "kullback_leibler": """
        const @real p = a < R({eps}) ? R({eps}) : a;
        d[j] = p == a ? -t / p : R(0.0);
        total += t * (@log(t > 0 ? t : R(1.0)) - @log(p));
""",
    "kullback_leibler from logits": """
        total += t * (@log(t > 0 ? t : R(1.0)) + log_sum - (a - most));
        d[j] = d[j] * (weight / sum) - t;
""",
    "hinge": """
        const @real sign = t == 0 ? R(-1.0) : t, margin = 1 - sign * a;
        d[j] = margin > 0 ? -sign : R(0.0);
        total += margin > 0 ? margin : R(0.0);
""",
    "squared_hinge": """
        const @real sign = t == 0 ? R(-1.0) : t;
        const @real margin = 1 - sign * a > 0 ? 1 - sign * a : R(0.0);
        d[j] = -2 * margin * sign;
        total += margin * margin;
""",
    "cosine": """
        d[j] = (along * similarity * a / of_output - t / of_target) / of_output;
""",
}

# What comes before the loop over outputs.
_EXPONENTIALS = """
    const @real most = @largest(output, @@N_OUTPUTS);
    for (int j = 0; j < @@N_OUTPUTS; ++j) {
        d[j] = @exp(output[j] - most);
    }
    const @real sum = @sum(d, @@N_OUTPUTS), log_sum = @log(sum);
"""
BEFORE = {
    "cross_entropy from logits": _EXPONENTIALS + """
    const @real weight = R({kept}) * @sum(target, @@N_OUTPUTS) + R({smoothing});
""",
    "kullback_leibler from logits": _EXPONENTIALS + """
    const @real weight = @sum(target, @@N_OUTPUTS);
""",
    "cosine": """
    const @real length = @root(@dot(output, output, @@N_OUTPUTS));
    const @real length_of_target = @root(@dot(target, target, @@N_OUTPUTS));
    const @real along = length < R({eps}) ? R(0.0) : R(1.0);
    const @real of_output = length < R({eps}) ? R({eps}) : length;
    const @real of_target = length_of_target < R({eps}) ? R({eps}) : length_of_target;
    const @real similarity = @dot(output, target, @@N_OUTPUTS) / (of_output * of_target);
    total = 1 - similarity;
""",
}


def logits_of(loss: Loss, activation: str) -> bool:
    """Tell whether the loss is computed from the raw outputs before this last activation."""
    if loss.name in ("cross_entropy", "kullback_leibler"):
        return activation in ("softmax", "log_softmax")
    if loss.name == "binary_cross_entropy":
        return activation == "sigmoid"
    return loss.name in ("poisson", "gamma", "tweedie") and activation == "exponential"


def loss_function(loss: Loss, n_outputs: int, epsilon: float, *, from_logits: bool) -> str:
    """Return the template of the function of a loss.

    Parameters
    ----------
    loss : Loss
    n_outputs : int
    epsilon : float
        Of the network's dtype.
    from_logits : bool
        Whether it is given the raw outputs.
    """
    values = {"eps": epsilon}
    levels = ""
    if isinstance(loss, losses.Huber):
        values["delta"] = loss.delta
    elif isinstance(loss, losses.Tweedie):
        values |= {"above": 2 - loss.power, "below": 1 - loss.power}
    elif isinstance(loss, losses.CrossEntropy):
        smoothing = loss.label_smoothing
        values |= {
            "smoothing": smoothing, "kept": 1 - smoothing, "spread": smoothing / n_outputs,
        }
    elif isinstance(loss, losses.Quantile):
        given = (loss.levels,) * n_outputs if isinstance(loss.levels, float) else loss.levels
        constants = ", ".join(f"R({level!r})" for level in given)
        levels = f"static const @real @levels[{n_outputs}] = {{{constants}}};\n\n"
    key = f"{loss.name} from logits" if from_logits else loss.name

    def filled(template: str) -> str:
        return re.sub(r"\{(\w+)\}", lambda found: repr(values[found[1]]), template)

    return (
        f"{levels}/* The loss of one row, {loss}; d becomes its gradient. */\n"
        "@@INLINE double @loss(const @real *output, const @real *target, @real *d)\n{\n"
        "    double total = 0;\n"
        + filled(BEFORE.get(key, ""))
        + "    for (int j = 0; j < @@N_OUTPUTS; ++j) {\n"
        "        const @real a = output[j], t = target[j];"
        + filled(LOSSES[key])
        + "    }\n    return total;\n}\n"
    )
