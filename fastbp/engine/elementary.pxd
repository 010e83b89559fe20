"""exp and functions made of it, free of branches and calls, so that loops over them vectorise.

With x = n ln 2 + r, |r| <= ln 2 / 2, exp(x) = 2^n exp(r), and exp(r) = 1 + r + r^2 P(r), where P
interpolates (exp(r) - 1 - r) / r^2 at Chebyshev nodes: relative error of the truncation 2.4e-10
for float and 3.2e-21 for double. Errors in ulp are what tests/test_elementary.py bounds.
"""
from libc.math cimport copysign, copysignf, fabs, fabsf

from .records cimport real

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>

    /* 2^n from n + magic, where magic = 1.5 * 2^(digits) leaves n in the lowest bits. */
    static inline float power_of_two_f32(float shifted)
    {
        int32_t bits, magic;
        const float m = 12582912.0f;
        memcpy(&bits, &shifted, sizeof bits);
        memcpy(&magic, &m, sizeof magic);
        bits = (int32_t)((uint32_t)(bits - magic + 127) << 23);
        memcpy(&shifted, &bits, sizeof bits);
        return shifted;
    }

    static inline double power_of_two_f64(double shifted)
    {
        int64_t bits, magic;
        const double m = 6755399441055744.0;
        memcpy(&bits, &shifted, sizeof bits);
        memcpy(&magic, &m, sizeof magic);
        bits = (int64_t)((uint64_t)(bits - magic + 1023) << 52);
        memcpy(&shifted, &bits, sizeof bits);
        return shifted;
    }
    """
    float power_of_two_f32(float) noexcept nogil
    double power_of_two_f64(double) noexcept nogil


cdef inline real round_to_power(real x, real* r) noexcept nogil:
    """n of x = n ln 2 + r, shifted by the magic number that keeps it in the lowest bits."""
    cdef real shifted, n
    if real is float:
        shifted = x * <real>1.44269504 + <real>12582912.0
        n = shifted - <real>12582912.0
        r[0] = (x - n * <real>0.693145752) - n * <real>1.42860677e-6
    else:
        shifted = x * <real>1.4426950408889634 + <real>6755399441055744.0
        n = shifted - <real>6755399441055744.0
        r[0] = (x - n * <real>6.93147180369123816490e-01) - n * <real>1.90821492927058770002e-10
    return shifted


cdef inline real exp_less_one(real r) noexcept nogil:
    """exp(r) - 1 for |r| <= ln 2 / 2."""
    cdef real p
    if real is float:
        p = <real>1.98919813e-4
        p = p * r + <real>1.39345419e-3
        p = p * r + <real>8.33331002e-3
        p = p * r + <real>4.16664568e-2
        p = p * r + <real>1.66666667e-1
        p = p * r + <real>5.00000001e-1
    else:
        p = <real>1.60871772343807823e-10
        p = p * r + <real>2.09189618377957781e-9
        p = p * r + <real>2.50520695947956848e-8
        p = p * r + <real>2.75572610293437687e-7
        p = p * r + <real>2.75573192486338255e-6
        p = p * r + <real>2.48015873385653456e-5
        p = p * r + <real>1.98412698412627626e-4
        p = p * r + <real>1.3888888888878269e-3
        p = p * r + <real>8.33333333333333408e-3
        p = p * r + <real>4.16666666666666778e-2
        p = p * r + <real>1.66666666666666667e-1
        p = p * r + <real>0.5
    return r + r * r * p


cdef inline real power_of_two(real shifted) noexcept nogil:
    if real is float:
        return power_of_two_f32(shifted)
    else:
        return power_of_two_f64(shifted)


cdef inline real exponential(real x) noexcept nogil:
    """exp(x); infinity where it overflows, gradually zero where it underflows, NaN for NaN."""
    cdef real r, n, magic, half
    # past these, the result is infinite or zero; the power of two is applied in two halves,
    # as 2^n alone leaves the range before exp(x) does
    if real is float:
        x = <real>89.0 if x > <real>89.0 else x
        x = <real>-104.0 if x < <real>-104.0 else x
        magic = <real>12582912.0
    else:
        x = <real>710.0 if x > <real>710.0 else x
        x = <real>-746.0 if x < <real>-746.0 else x
        magic = <real>6755399441055744.0
    n = round_to_power(x, &r) - magic
    half = n * <real>0.5 + magic            # n / 2, rounded
    return ((1 + exp_less_one(r)) * power_of_two(half)) * power_of_two(n - (half - magic) + magic)


cdef inline real absolute(real x) noexcept nogil:
    if real is float:
        return fabsf(x)
    else:
        return fabs(x)


cdef inline real sign(real x) noexcept nogil:
    """-1, 0 or 1."""
    return <real>(x > 0) - <real>(x < 0)


cdef inline real with_sign(real x, real sign) noexcept nogil:
    if real is float:
        return copysignf(x, sign)
    else:
        return copysign(x, sign)


cdef inline real sigmoid(real z) noexcept nogil:
    """1 / (1 + exp(-z)), without overflow on either side."""
    cdef real e = exponential(-absolute(z))
    cdef real numerator = 1 if z >= 0 else e
    return numerator / (1 + e)


cdef inline real hyperbolic_tangent(real x) noexcept nogil:
    """tanh(x) = m / (m + 2) with m = exp(2x) - 1, from |x|."""
    cdef real y = absolute(x)
    cdef real r, m, scale, shifted, largest
    # tanh is 1 to the last bit from here on
    if real is float:
        largest = <real>10.0
    else:
        largest = <real>20.0
    y = largest if y > largest else y
    shifted = round_to_power(2 * y, &r)
    scale = power_of_two(shifted)
    m = scale * exp_less_one(r) + (scale - 1)
    return with_sign(m / (m + 2), x)

cdef inline real exponential_less_one(real x) noexcept nogil:
    """exp(x) - 1 for x <= 0, exact to the last bits near 0 too."""
    cdef real r, scale
    x = <real>-50.0 if x < <real>-50.0 else x       # -1 to the last bit from there on
    scale = power_of_two(round_to_power(x, &r))
    return scale * exp_less_one(r) + (scale - 1)


cdef inline real log_one_plus(real u) noexcept nogil:
    """log(1 + u) for 0 <= u <= 1, as 2 atanh(s) of s = u / (2 + u).

    (atanh(s) / s - 1) / s^2 is a polynomial in s^2, interpolated at Chebyshev nodes: relative error
    of the truncation 1.6e-8 for float and 4.9e-18 for double.
    """
    cdef real s = u / (2 + u), w = s * s, p
    if real is float:
        p = <real>0.1342574901
        p = p * w + <real>0.141183099
        p = p * w + <real>0.2000378032
        p = p * w + <real>0.3333332017
    else:
        p = <real>0.0808202280597176611
        p = p * w + <real>0.0440036924307233694
        p = p * w + <real>0.0600053640479535627
        p = p * w + <real>0.0665707210482746808
        p = p * w + <real>0.0769278503247931155
        p = p * w + <real>0.0909089471806642908
        p = p * w + <real>0.111111113587139315
        p = p * w + <real>0.142857142835543786
        p = p * w + <real>0.200000000000072913
        p = p * w + <real>0.333333333333333293
    return 2 * s + 2 * s * (w * p)


cdef inline real normal_cdf(real z) noexcept nogil:
    """Phi(z), the distribution function of the standard normal distribution.

    erfc(x) = t exp(-x^2 + P(2 t - 1)) with t = 2 / (2 + x) for x >= 0 (W. H. Press and others,
    Numerical recipes, section 6.2). P is interpolated at Chebyshev nodes: absolute error of the
    truncation, a relative one of erfc, 5.7e-8 for float and 2.5e-17 for double.
    """
    cdef real x = absolute(z) * <real>0.70710678118654752, t, y, p, upper
    if real is float:
        x = <real>12.0 if x > <real>12.0 else x
    else:
        x = <real>30.0 if x > <real>30.0 else x
    t = 2 / (2 + x)
    y = 2 * t - 1
    if real is float:
        p = <real>-4.788537282e-5
        p = p * y + <real>0.0003727480363
        p = p * y - <real>0.0001151758099
        p = p * y - <real>0.00211889851
        p = p * y + <real>0.00171482807
        p = p * y + <real>0.008745352628
        p = p * y - <real>0.009857419037
        p = p * y - <real>0.04688383795
        p = p * y + <real>0.04734164808
        p = p * y + <real>0.6726427246
        p = p * y - <real>0.6717940565
    else:
        p = <real>3.655625901002436173e-9
        p = p * y - <real>1.834458845572493171e-8
        p = p * y + <real>1.224095141202878971e-8
        p = p * y + <real>1.062450613259548653e-7
        p = p * y - <real>2.533154648508337765e-7
        p = p * y - <real>1.067158879085929054e-7
        p = p * y + <real>1.241671620513003206e-6
        p = p * y - <real>1.324346946750639574e-6
        p = p * y - <real>2.934536082940823014e-6
        p = p * y + <real>8.592041782610985131e-6
        p = p * y + <real>1.278873302118892932e-7
        p = p * y - <real>0.00003019922312753014331
        p = p * y + <real>0.00003174950375329101194
        p = p * y + <real>0.00007140397952464346173
        p = p * y - <real>0.0001743041552716924013
        p = p * y - <real>0.00009373554520100150878
        p = p * y + <real>0.0006736790093355315008
        p = p * y - <real>0.00014624680699104555
        p = p * y - <real>0.002345812523413477823
        p = p * y + <real>0.001758933554187780924
        p = p * y + <real>0.008824938558419990714
        p = p * y - <real>0.009872689366273010332
        p = p * y - <real>0.04689561023121231
        p = p * y + <real>0.04734330684190300004
        p = p * y + <real>0.6726432239776570238
        p = p * y - <real>0.6717940840566922633
    upper = t * exponential(p - x * x) * <real>0.5
    return upper if z < 0 else 1 - upper
