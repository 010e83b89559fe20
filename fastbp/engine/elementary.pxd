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
    r = (<real>1 + exp_less_one(r)) * power_of_two(half)
    return r * power_of_two(n - (half - magic) + magic)


cdef inline real decay(real x) noexcept nogil:
    """exp(x) for x <= 0; zero where it would be denormal, NaN for NaN."""
    cdef real r, least, shifted
    if real is float:
        least = <real>-87.3365402
    else:
        least = <real>-708.3964185322641
    shifted = round_to_power(least if x < least else x, &r)
    r = (<real>1 + exp_less_one(r)) * power_of_two(shifted)
    return <real>0 if x < least else r


cdef inline real absolute(real x) noexcept nogil:
    if real is float:
        return fabsf(x)
    else:
        return fabs(x)


cdef inline real sign(real x) noexcept nogil:
    """-1, 0 or 1."""
    return <real>(x > <real>0) - <real>(x < <real>0)


cdef inline real with_sign(real x, real sign) noexcept nogil:
    if real is float:
        return copysignf(x, sign)
    else:
        return copysign(x, sign)


cdef inline real sigmoid(real z) noexcept nogil:
    """1 / (1 + exp(-z)), without overflow on either side."""
    cdef real e = decay(-absolute(z))
    cdef real numerator = <real>1 if z >= <real>0 else e
    return numerator / (<real>1 + e)


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
    shifted = round_to_power(<real>2 * y, &r)
    scale = power_of_two(shifted)
    m = scale * exp_less_one(r) + (scale - <real>1)
    return with_sign(m / (m + <real>2), x)


cdef inline real exponential_less_one(real x) noexcept nogil:
    """exp(x) - 1 for x <= 0, exact to the last bits near 0 too."""
    cdef real r, scale
    x = <real>-50.0 if x < <real>-50.0 else x       # -1 to the last bit from there on
    scale = power_of_two(round_to_power(x, &r))
    return scale * exp_less_one(r) + (scale - <real>1)


cdef inline real log_one_plus(real u) noexcept nogil:
    """log(1 + u) for 0 <= u <= 1, as 2 atanh(s) of s = u / (2 + u).

    (atanh(s) / s - 1) / s^2 is a polynomial in s^2, interpolated at Chebyshev nodes: relative error
    of the truncation 1.6e-8 for float and 4.9e-18 for double.
    """
    cdef real s = u / (<real>2 + u), w = s * s, p
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
    return <real>2 * s + <real>2 * s * (w * p)


cdef inline real normal_cdf(real z, real e) noexcept nogil:
    """Phi(z), the distribution function of the standard normal distribution; e = exp(-z^2 / 2).

    erfc(x) = t exp(-x^2) Q(2 t - 1) with t = 2 / (2 + x) for x >= 0, in the way of W. H. Press and
    others, Numerical recipes, section 6.2. Q is interpolated at Chebyshev nodes: relative error of
    the truncation 5.5e-8 for float and 1.8e-17 for double.
    """
    cdef real x = absolute(z) * <real>0.70710678118654752, t, y, p, upper
    # from here on e is zero
    if real is float:
        x = <real>12.0 if x > <real>12.0 else x
    else:
        x = <real>30.0 if x > <real>30.0 else x
    t = <real>2 / (<real>2 + x)
    y = <real>2 * t - <real>1
    if real is float:
        p = <real>-0.0002365584422
        p = p * y + <real>0.0003861022403
        p = p * y + <real>0.001492084545
        p = p * y - <real>0.003226081572
        p = p * y - <real>0.01074143427
        p = p * y + <real>0.01821945231
        p = p * y + <real>0.139734645
        p = p * y + <real>0.3435803656
        p = p * y + <real>0.5107913766
    else:
        p = <real>8.576007829816573568e-10
        p = p * y - <real>4.257663375493410869e-9
        p = p * y + <real>3.721370829325302401e-9
        p = p * y + <real>1.822097791400358877e-8
        p = p * y - <real>4.888864574209849354e-8
        p = p * y + <real>1.036222225227016511e-8
        p = p * y + <real>1.522900534961908775e-7
        p = p * y - <real>2.938353465871008908e-7
        p = p * y + <real>7.77040468144873771e-9
        p = p * y + <real>1.004483200474900127e-6
        p = p * y - <real>1.826815944587158446e-6
        p = p * y - <real>5.637231338933696915e-7
        p = p * y + <real>8.062260436199155396e-6
        p = p * y - <real>0.00001084795588598662046
        p = p * y - <real>0.00001707488249218513405
        p = p * y + <real>0.00007223535993972837978
        p = p * y - <real>0.00001718565041516143659
        p = p * y - <real>0.0003315367521435347509
        p = p * y + <real>0.0004186480247266932801
        p = p * y + <real>0.001545306029626007251
        p = p * y - <real>0.003239592533516199068
        p = p * y - <real>0.01075533094474668211
        p = p * y + <real>0.01822111575343055431
        p = p * y + <real>0.1397360462780274705
        p = p * y + <real>0.3435803422069053627
        p = p * y + <real>0.5107913526210114874
    upper = t * p * e * <real>0.5
    return upper if z < <real>0 else <real>1 - upper
