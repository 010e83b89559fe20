"""The functions of a generated header: its arithmetic, written once for float and double.

`Text` turns the templates here into C. In a template ``@`` is the header's prefix, as in
``@dense``, ``@@`` the same in capitals, and ``R(0.5)`` a constant of the network's type. The
formulas are those of the engine, in engine/elementary.pxd and engine/activations.pxd, written such
that loops over them vectorise without flags about traps or errno: both sides of every choice are
there before it is made.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Text", "functions", "number"]


class Text:
    """Turns templates into the C of one header.

    Parameters
    ----------
    name : str
        The prefix of all that the header defines.
    dtype : dtype
        float32 or float64.
    """

    def __init__(self, name: str, dtype: np.dtype[Any]) -> None:
        self._name = name
        self.is_float = dtype == np.float32
        self.real = "float" if self.is_float else "double"

    def __call__(self, template: str) -> str:
        """Return the C of a template."""
        text = re.sub(r"\bR\(([^()]*)\)", lambda found: self.constant(float(found[1])), template)
        return text.replace("@@", f"{self._name.upper()}_").replace("@", f"{self._name}_")

    def constant(self, value: float) -> str:
        """Return a constant that reads back as the same value of the network's type."""
        return number(value, is_float=self.is_float)

    def array(self, values: NDArray[Any]) -> str:
        """Return the initialiser of an array."""
        constants = [self.constant(value) for value in values.ravel().tolist()]
        lines = [", ".join(constants[at : at + 8]) for at in range(0, len(constants), 8)]
        return "{\n" + ",\n".join(lines) + "}"


def number(value: float, *, is_float: bool) -> str:
    """Return a decimal constant, as hexadecimal ones are not part of C++11."""
    text = f"{np.float32(value):.9g}" if is_float else f"{value:.17g}"
    if not set(text) & set(".e"):
        text += ".0"
    return text + "f" if is_float else text


def functions(text: Text, template: str) -> str:
    """Return the definitions of the functions that a template calls, each after those it calls."""
    ordered: list[str] = []

    def visit(name: str) -> None:
        if name not in ordered:
            for other in called(_template(name, text.is_float)):
                if other != name:
                    visit(other)
            ordered.append(name)

    for name in called(template):
        visit(name)
    return "\n".join(text(_template(name, text.is_float)).strip() + "\n" for name in ordered)


def called(template: str) -> list[str]:
    """Return which of the functions here a template calls, in the order of their first calls."""
    found = dict.fromkeys(re.findall(r"(?<!@)@(\w+)\(", template))
    return [name for name in found if name in TEMPLATES]


def _template(name: str, is_float: bool) -> str:
    template = TEMPLATES[name]
    if isinstance(template, str):
        return template
    return template[0] if is_float else template[1]


def _horner(variable: str, *coefficients: str) -> str:
    lines = [f"    @real p = R({coefficients[0]});"]
    lines += [f"    p = @@FMA(p, {variable}, R({each}));" for each in coefficients[1:]]
    return "\n".join(lines)


_BITS = (
    ("int32_t", "uint32_t", 23, 127, "12582912.0"),
    ("int64_t", "uint64_t", 52, 1023, "6755399441055744.0"),
)

_POWER_OF_TWO = tuple(
    f"""
/* 2^n of n + magic, where magic = 1.5 * 2^{digits} leaves n in the lowest bits. */
@@INLINE @real @power_of_two(@real shifted)
{{
    union {{ @real value; {signed} bits; }} number, magic;
    union {{ {unsigned} bits; @real value; }} power;
    number.value = shifted;
    magic.value = R({magic});
    power.bits = ({unsigned})(number.bits - magic.bits + {bias}) << {digits};
    return power.value;
}}
"""
    for signed, unsigned, digits, bias, magic in _BITS
)

_ROUNDED = tuple(
    f"""
/* n of x = n ln 2 + r with |r| <= ln 2 / 2, shifted by the magic number. */
@@INLINE @real @rounded(@real x, @real *r)
{{
    const @real shifted = x * R({of_two}) + R({magic});
    const @real n = shifted - R({magic});
    *r = (x - n * R({high})) - n * R({low});
    return shifted;
}}
"""
    for of_two, magic, high, low in (
        ("1.44269504", "12582912.0", "0.693145752", "1.42860677e-6"),
        ("1.4426950408889634", "6755399441055744.0", "6.93147180369123816490e-01",
         "1.90821492927058770002e-10"),
    )
)

_EXP_LESS_ONE_NEAR = tuple(
    "/* exp(r) - 1 for |r| <= ln 2 / 2. */\n"
    "@@INLINE @real @near_exp_less_one(@real r)\n{\n"
    + _horner("r", *coefficients)
    + "\n    return @@FMA(r * r, p, r);\n}\n"
    for coefficients in (
        ("1.98919813e-4", "1.39345419e-3", "8.33331002e-3", "4.16664568e-2", "1.66666667e-1",
         "5.00000001e-1"),
        ("1.60871772343807823e-10", "2.09189618377957781e-9", "2.50520695947956848e-8",
         "2.75572610293437687e-7", "2.75573192486338255e-6", "2.48015873385653456e-5",
         "1.98412698412627626e-4", "1.3888888888878269e-3", "8.33333333333333408e-3",
         "4.16666666666666778e-2", "1.66666666666666667e-1", "0.5"),
    )
)

_EXP = tuple(
    f"""
/* exp(x): infinity where it overflows, gradually zero where it underflows, NaN for NaN. */
@@INLINE @real @exp(@real x)
{{
    @real r, n, half;
    x = x > R({high}) ? R({high}) : x;
    x = x < R({low}) ? R({low}) : x;
    n = @rounded(x, &r) - R({magic});
    half = n * R(0.5) + R({magic});
    return ((1 + @near_exp_less_one(r)) * @power_of_two(half))
        * @power_of_two(n - (half - R({magic})) + R({magic}));
}}
"""
    for high, low, magic in (
        ("89.0", "-104.0", "12582912.0"), ("710.0", "-746.0", "6755399441055744.0"),
    )
)

_TANH = tuple(
    f"""
/* m / (m + 2) with m = exp(2 |x|) - 1. */
@@INLINE @real @tanh(@real x)
{{
    const @real sign = x < 0 ? R(-1.0) : R(1.0);
    @real y = x * sign, r, scale, m;
    y = y > R({largest}) ? R({largest}) : y;
    scale = @power_of_two(@rounded(2 * y, &r));
    m = scale * @near_exp_less_one(r) + (scale - 1);
    return m / (m + 2) * sign;
}}
"""
    for largest in ("10.0", "20.0")
)

_LOG_ONE_PLUS = tuple(
    "/* log(1 + u) for 0 <= u <= 1, as 2 atanh(s) of s = u / (2 + u). */\n"
    "@@INLINE @real @log_one_plus(@real u)\n{\n"
    "    const @real s = u / (2 + u), w = s * s;\n"
    + _horner("w", *coefficients)
    + "\n    return 2 * s + 2 * s * (w * p);\n}\n"
    for coefficients in (
        ("0.1342574901", "0.141183099", "0.2000378032", "0.3333332017"),
        ("0.0808202280597176611", "0.0440036924307233694", "0.0600053640479535627",
         "0.0665707210482746808", "0.0769278503247931155", "0.0909089471806642908",
         "0.111111113587139315", "0.142857142835543786", "0.200000000000072913",
         "0.333333333333333293"),
    )
)

_LOG = tuple(
    f"""
/* log(x) of a positive normal x = 2^n (1 + u). */
@@INLINE @real @log(@real x)
{{
    union {{ @real value; {unsigned} bits; }} number;
    @real n;
    number.value = x;
    n = (@real)(int)(number.bits >> {digits}) - {bias};
    number.bits = (number.bits & ((({unsigned})1 << {digits}) - 1))
        | ({unsigned}){bias} << {digits};
    return n * R(0.69314718055994531) + @log_one_plus(number.value - 1);
}}
"""
    for _, unsigned, digits, bias, _ in _BITS
)

_NORMAL_CDF = tuple(
    f"""
/* The distribution function of the standard normal distribution, by
   erfc(x) = t exp(-x^2 + P(2 t - 1)) with t = 2 / (2 + x) (W. H. Press and others, Numerical
   recipes, section 6.2). */
@@INLINE @real @normal_cdf(@real z)
{{
    const @real sign = z < 0 ? R(-1.0) : R(1.0), start = z < 0 ? R(0.0) : R(1.0);
    @real x = z * sign * R(0.70710678118654752);
    x = x > R({largest}) ? R({largest}) : x;
    {{
    const @real t = 2 / (2 + x), y = 2 * t - 1;
{_horner("y", *coefficients)}
    return start - sign * (t * @exp(p - x * x) * R(0.5));
    }}
}}
"""
    for largest, coefficients in (
        ("12.0", (
            "-4.788537282e-5", "0.0003727480363", "-0.0001151758099", "-0.00211889851",
            "0.00171482807", "0.008745352628", "-0.009857419037", "-0.04688383795",
            "0.04734164808", "0.6726427246", "-0.6717940565",
        )),
        ("30.0", (
            "3.655625901002436173e-9", "-1.834458845572493171e-8", "1.224095141202878971e-8",
            "1.062450613259548653e-7", "-2.533154648508337765e-7", "-1.067158879085929054e-7",
            "1.241671620513003206e-6", "-1.324346946750639574e-6", "-2.934536082940823014e-6",
            "8.592041782610985131e-6", "1.278873302118892932e-7", "-0.00003019922312753014331",
            "0.00003174950375329101194", "0.00007140397952464346173", "-0.0001743041552716924013",
            "-0.00009373554520100150878", "0.0006736790093355315008", "-0.00014624680699104555",
            "-0.002345812523413477823", "0.001758933554187780924", "0.008824938558419990714",
            "-0.009872689366273010332", "-0.04689561023121231", "0.04734330684190300004",
            "0.6726432239776570238", "-0.6717940840566922633",
        )),
    )
)

_ROOT = tuple(
    f"""
/* The root of x >= 0: 1 / root by Newton's method from the halved exponent, then once more. */
@@INLINE @real @root(@real x)
{{
    union {{ @real value; {unsigned} bits; }} number;
    @real y, root;
    int i;
    number.value = x;
    number.bits = {magic} - (number.bits >> 1);
    y = number.value;
    for (i = 0; i < {steps}; ++i) {{
        y = y * (R(1.5) - R(0.5) * (x * y) * y);
    }}
    root = x * y;
    return root + R(0.5) * y * (x - root * root);
}}
"""
    for unsigned, magic, steps in (
        ("uint32_t", "0x5f3759dfu", 3), ("uint64_t", "UINT64_C(0x5fe6eb50c7b537a9)", 4),
    )
)

_DOT = tuple(
    """
/* The sum of x[i] y[i], in as many partial sums as a few vectors hold. */
@@INLINE @real @dot(const @real *x, const @real *y, int n)
{
    @real sums[@@LANES], rest = 0;
    int i, j;
    if (n < @@LANES) {
        for (i = 0; i < n; ++i) {
            rest += x[i] * y[i];
        }
        return rest;
    }
    for (j = 0; j < @@LANES; ++j) {
        sums[j] = x[j] * y[j];
    }
    for (i = @@LANES; i + @@LANES <= n; i += @@LANES) {
        for (j = 0; j < @@LANES; ++j) {
            sums[j] = @@FMA(x[i + j], y[i + j], sums[j]);
        }
    }
    @@SETTLE(sums)
    for (; i < n; ++i) {
        rest += x[i] * y[i];
    }
"""
    + "".join(
        f"""    for (j = 0; j < {half}; ++j) {{
        sums[j] += sums[j + {half}];
    }}
"""
        for half in halves
    )
    + """    return (sums[0] + sums[2]) + (sums[1] + sums[3]) + rest;
}
"""
    for halves in ((8, 4), (4,))
)

TEMPLATES: dict[str, str | tuple[str, ...]] = {
    "power_of_two": _POWER_OF_TWO,
    "rounded": _ROUNDED,
    "near_exp_less_one": _EXP_LESS_ONE_NEAR,
    "exp": _EXP,
    "tanh": _TANH,
    "log_one_plus": _LOG_ONE_PLUS,
    "log": _LOG,
    "normal_cdf": _NORMAL_CDF,
    "root": _ROOT,
    "exp_less_one": """
/* exp(x) - 1 for x <= 0, exact near 0 too. */
@@INLINE @real @exp_less_one(@real x)
{
    @real r, scale;
    x = x < R(-50.0) ? R(-50.0) : x;
    scale = @power_of_two(@rounded(x, &r));
    return scale * @near_exp_less_one(r) + (scale - 1);
}
""",
    "sigmoid": """
/* 1 / (1 + exp(-z)), without overflow on either side. */
@@INLINE @real @sigmoid(@real z)
{
    const @real e = @exp(z > 0 ? -z : z);
    return (z >= 0 ? R(1.0) : e) / (1 + e);
}
""",
    "relu": """
@@INLINE @real @relu(@real z)
{
    return z < 0 ? R(0.0) : z;
}
""",
    "relu6": """
@@INLINE @real @relu6(@real z)
{
    z = z < 0 ? R(0.0) : z;
    return z > 6 ? R(6.0) : z;
}
""",
    "hard_sigmoid": """
@@INLINE @real @hard_sigmoid(@real z)
{
    z = z / 6 + R(0.5);
    z = z < 0 ? R(0.0) : z;
    return z > 1 ? R(1.0) : z;
}
""",
    "leaky_relu": """
@@INLINE @real @leaky_relu(@real z, @real alpha)
{
    return z * (z < 0 ? alpha : R(1.0));
}
""",
    "elu": """
@@INLINE @real @elu(@real z, @real alpha)
{
    return (z > 0 ? z : R(0.0)) + alpha * @exp_less_one(z > 0 ? R(0.0) : z);
}
""",
    "selu": """
@@INLINE @real @selu(@real z)
{
    return R(1.0507009873554805) * @elu(z, R(1.6732632423543772));
}
""",
    "softplus": """
@@INLINE @real @softplus(@real z, @real beta)
{
    const @real scaled = beta * z;
    return (z > 0 ? z : R(0.0)) + @log_one_plus(@exp(scaled > 0 ? -scaled : scaled)) / beta;
}
""",
    "softsign": """
@@INLINE @real @softsign(@real z)
{
    return z / (1 + (z < 0 ? -z : z));
}
""",
    "gelu": """
@@INLINE @real @gelu(@real z)
{
    return z * @normal_cdf(z);
}
""",
    "gelu_slope": """
@@INLINE @real @gelu_slope(@real z)
{
    return @normal_cdf(z) + z * (R(0.39894228040143268) * @exp(R(-0.5) * z * z));
}
""",
    "gelu_tanh": """
/* z (1 + tanh(c (z + 0.044715 z^3))) / 2 with c = sqrt(2 / pi). */
@@INLINE @real @gelu_tanh(@real z)
{
    @real x = z < -50 ? R(-50.0) : z;
    x = x > 50 ? R(50.0) : x;
    return z * @sigmoid(R(1.5957691216057307) * (x + R(0.044715) * x * x * x));
}
""",
    "gelu_tanh_slope": """
@@INLINE @real @gelu_tanh_slope(@real z)
{
    @real x = z < -50 ? R(-50.0) : z, t;
    x = x > 50 ? R(50.0) : x;
    t = @sigmoid(R(1.5957691216057307) * (x + R(0.044715) * x * x * x));
    return t + x * t * (1 - t) * R(1.5957691216057307) * (1 + R(0.134145) * x * x);
}
""",
    "silu": """
@@INLINE @real @silu(@real z)
{
    return z * @sigmoid(z);
}
""",
    "silu_slope": """
@@INLINE @real @silu_slope(@real z)
{
    const @real s = @sigmoid(z);
    return s * (1 + z * (1 - s));
}
""",
    "mish": """
/* z tanh(softplus(z)) = z m / (m + 2) with m = e (e + 2) and e = exp(z). */
@@INLINE @real @mish(@real z)
{
    const @real e = @exp(z > 20 ? R(20.0) : z), m = e * (e + 2);
    return z * (m / (m + 2));
}
""",
    "mish_slope": """
@@INLINE @real @mish_slope(@real z)
{
    const @real e = @exp(z > 20 ? R(20.0) : z), m = e * (e + 2);
    return m / (m + 2) + z * (4 * (m + 1) / ((m + 2) * (m + 2))) * (e / (1 + e));
}
""",
    "largest": """
@@INLINE @real @largest(const @real *x, int n)
{
    @real most = x[0];
    int i;
    for (i = 1; i < n; ++i) {
        most = x[i] > most ? x[i] : most;
    }
    return most;
}
""",
    "dot": _DOT,
    "sum": """
@@INLINE @real @sum(const @real *x, int n)
{
    @real first = 0, second = 0, third = 0, fourth = 0;
    int i;
    for (i = 0; i + 4 <= n; i += 4) {
        first += x[i];
        second += x[i + 1];
        third += x[i + 2];
        fourth += x[i + 3];
    }
    for (; i < n; ++i) {
        first += x[i];
    }
    return (first + third) + (second + fourth);
}
""",
    "softmax": """
@@INLINE void @softmax(@real *z, int n)
{
    const @real most = @largest(z, n);
    @real scale;
    int i;
    for (i = 0; i < n; ++i) {
        z[i] = @exp(z[i] - most);
    }
    scale = 1 / @sum(z, n);
    for (i = 0; i < n; ++i) {
        z[i] *= scale;
    }
}
""",
    "log_softmax": """
@@INLINE void @log_softmax(@real *z, int n)
{
    const @real most = @largest(z, n);
    @real total = 0;
    int i;
    for (i = 0; i < n; ++i) {
        z[i] -= most;
        total += @exp(z[i]);
    }
    total = @log(total);
    for (i = 0; i < n; ++i) {
        z[i] -= total;
    }
}
""",
    "layer_norm": """
/* a = (x - mean) / root(variance + epsilon), of which the second factor is returned. */
@@INLINE @real @layer_norm(const @real *x, int n, @real epsilon, @real *a)
{
    const @real mean = @sum(x, n) / (@real)n;
    @real inverse;
    int i;
    for (i = 0; i < n; ++i) {
        a[i] = x[i] - mean;
    }
    inverse = 1 / @root(@dot(a, a, n) / (@real)n + epsilon);
    for (i = 0; i < n; ++i) {
        a[i] *= inverse;
    }
    return inverse;
}
""",
    "add_rows": """
/* z += x W for rows of W of n elements, eight at a time. */
@@INLINE void @add_rows(const @real *@@RESTRICT w, const @real *@@RESTRICT x, int rows, int n,
                       @real *@@RESTRICT z)
{
    int i, j;
    for (i = 0; i + 8 <= rows; i += 8, w += 8 * n) {
        const @real x0 = x[i], x1 = x[i + 1], x2 = x[i + 2], x3 = x[i + 3];
        const @real x4 = x[i + 4], x5 = x[i + 5], x6 = x[i + 6], x7 = x[i + 7];
        @@BARRIER
        for (j = 0; j < n; ++j) {
            z[j] += @@FMA(x3, w[j + 3 * n], @@FMA(x2, w[j + 2 * n], @@FMA(x1, w[j + n], x0 * w[j])))
                + @@FMA(x7, w[j + 7 * n], @@FMA(x6, w[j + 6 * n], @@FMA(x5, w[j + 5 * n],
                                                                   x4 * w[j + 4 * n])));
        }
    }
    for (; i < rows; ++i, w += n) {
        const @real x0 = x[i];
        @@BARRIER
        for (j = 0; j < n; ++j) {
            z[j] = @@FMA(x0, w[j], z[j]);
        }
    }
}
""",
    "add_listed_rows": """
/* The same without rows whose x is zero. At most 256 of them, of which one is zero at least. */
@@INLINE void @add_listed_rows(const @real *@@RESTRICT w, const @real *@@RESTRICT x, int rows,
                              int n, @real *@@RESTRICT z)
{
    int listed[256 + 8], count = 0, zero = 0, i, j;
    for (i = 0; i < rows; ++i) {
        const int is_zero = x[i] == 0;
        listed[count] = i;
        count += !is_zero;
        zero = is_zero ? i : zero;
    }
    for (i = count; i < count + 7; ++i) {
        listed[i] = zero;
    }
    for (i = 0; i < count; i += 8) {
        const int *at = listed + i;
        const @real x0 = x[at[0]], x1 = x[at[1]], x2 = x[at[2]], x3 = x[at[3]];
        const @real x4 = x[at[4]], x5 = x[at[5]], x6 = x[at[6]], x7 = x[at[7]];
        const @real *r0 = w + at[0] * n, *r1 = w + at[1] * n, *r2 = w + at[2] * n;
        const @real *r3 = w + at[3] * n, *r4 = w + at[4] * n, *r5 = w + at[5] * n;
        const @real *r6 = w + at[6] * n, *r7 = w + at[7] * n;
        @@BARRIER
        for (j = 0; j < n; ++j) {
            z[j] += @@FMA(x3, r3[j], @@FMA(x2, r2[j], @@FMA(x1, r1[j], x0 * r0[j])))
                + @@FMA(x7, r7[j], @@FMA(x6, r6[j], @@FMA(x5, r5[j], x4 * r4[j])));
        }
    }
}
""",
    "dense": """
/* z = x W + b. Where rows are long, those whose x is zero are skipped if an eighth of them is. */
@@INLINE void @dense(const @real *@@RESTRICT w, const @real *@@RESTRICT b,
                    const @real *@@RESTRICT x, int n_in, int n_out, @real *@@RESTRICT z)
{
    int first, i, j;
    if (n_out == 1) {
        z[0] = @dot(x, w, n_in) + b[0];
        return;
    }
    for (j = 0; j < n_out; ++j) {
        z[j] = b[j] + R(0.0); /* a mere copy would become a call of memcpy */
    }
    @@SETTLE(z)
    if (n_out < 32 || n_in < 32) {
        @add_rows(w, x, n_in, n_out, z);
        return;
    }
    for (first = 0; first < n_in; first += 256) {
        const int rows = n_in - first < 256 ? n_in - first : 256;
        int zeros = 0;
        for (i = 0; i < rows; ++i) {
            zeros += x[first + i] == 0;
        }
        if (8 * zeros < rows) {
            @add_rows(w + first * n_out, x + first, rows, n_out, z);
        } else {
            @add_listed_rows(w + first * n_out, x + first, rows, n_out, z);
        }
    }
}
""",
}
