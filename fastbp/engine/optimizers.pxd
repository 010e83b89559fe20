"""Update rules: from a gradient to new parameters, in one pass over them and their state.

Each rule is one loop over elements, and may be given any stretch of the parameters: a whole flat
vector, or the rows of a weight whose gradient has just been taken. What depends on the number of
the step alone is worked out once for each step, in `begin_step`. The formulas and their sources are
in docs/optimizers.md.
"""
from libc.math cimport INFINITY, pow, sqrt, sqrtf
from libc.stdint cimport uint64_t

from .elementary cimport absolute, sign
from .random cimport add_normal
from .records cimport real
from .tile cimport add_outer, inverse_roots, root_step, step_by_root


cdef enum:
    STRETCH = 256               # elements whose roots are taken at a time, in the first cache


cdef enum Optimizer:
    SGD
    ADAGRAD
    RMSPROP
    ADADELTA
    ADAM
    NADAM
    ADAMAX
    LION


cdef struct Rule:
    int kind
    # as the user set them
    double momentum, dampening, rho, beta1, beta2, epsilon
    double weight_decay, rate_decay, momentum_decay
    double noise, noise_decay   # the variance on the first step, and the power of its decay
    bint nesterov, centered, amsgrad, decoupled
    double clip_value           # infinity where nothing is clipped
    double clip_norm
    # the state, from step to step
    long long steps             # made so far
    double product              # of NADAM's momenta so far
    void* state                 # `stride` elements for each of its vectors
    Py_ssize_t stride
    # of the step under way
    double rate
    double factor               # on every gradient, for its norm
    double shrink               # on every parameter, for decoupled decay
    double decay                # of the parameters, added to their gradient
    double fresh                # SGD: on the gradient that joins the momentum
    double first                # ADAMAX: on the momentum
    root_step step              # of those that divide by a root
    double product_after        # what NADAM's `product` will be
    double deviation            # of the noise, which depends on the
    uint64_t key


cdef inline bint is_plain_rule(const Rule* rule) noexcept nogil:
    """Whether a step is theta := a theta - b g, which a product makes of its own."""
    return (rule.kind == SGD and rule.momentum == 0 and rule.noise == 0
            and rule.clip_value == INFINITY and rule.clip_norm == INFINITY)


cdef inline bint is_lazy(const Rule* rule) noexcept nogil:
    """Whether the step under way leaves a parameter, and its state, alone if its gradient is 0."""
    return ((rule.kind == SGD and rule.momentum == 0 or rule.kind == ADAGRAD)
            and rule.decay == 0 and rule.deviation == 0)


cdef inline void begin_step(Rule* rule, double rate, uint64_t key) noexcept nogil:
    """Work out what the next step needs, at this learning rate; the state stays as it is.

    The key decides on the step's noise.
    """
    cdef double t = <double>(rule.steps + 1), here, after
    rule.rate, rule.factor, rule.shrink, rule.decay = rate, 1, 1, rule.weight_decay
    rule.key, rule.deviation = key, 0
    if rule.noise != 0:
        rule.deviation = sqrt(rule.noise / pow(t, rule.noise_decay))
    if rule.decoupled:
        rule.shrink, rule.decay = 1 - rate * rule.weight_decay, 0
    if rule.kind == SGD:
        rule.fresh = 1 if rule.steps == 0 else 1 - rule.dampening
    elif rule.kind == ADAGRAD:
        rule.step = root_step(
            1, 1, 0, rate / (1 + (t - 1) * rule.rate_decay), 0, 1, rule.epsilon, 1)
    elif rule.kind == RMSPROP:
        rule.step = root_step(rule.rho, 1 - rule.rho, 0, rate, 0, 1, rule.epsilon, 1)
    elif rule.kind == ADAM:
        rule.step = root_step(
            rule.beta2, 1 - rule.beta2, 1 - rule.beta1, 0, rate / (1 - pow(rule.beta1, t)),
            1 / sqrt(1 - pow(rule.beta2, t)), rule.epsilon, rule.shrink)
    elif rule.kind == NADAM:
        here = rule.beta1 * (1 - 0.5 * pow(0.96, t * rule.momentum_decay))
        after = rule.beta1 * (1 - 0.5 * pow(0.96, (t + 1) * rule.momentum_decay))
        rule.product_after = here if rule.steps == 0 else rule.product * here
        rule.step = root_step(
            rule.beta2, 1 - rule.beta2, 1 - rule.beta1,
            rate * (1 - here) / (1 - rule.product_after),
            rate * after / (1 - rule.product_after * after), 1 / sqrt(1 - pow(rule.beta2, t)),
            rule.epsilon, 1)
    elif rule.kind == ADAMAX:
        rule.first = rate / (1 - pow(rule.beta1, t))


cdef inline void clip_to_norm(Rule* rule, double norm) noexcept nogil:
    """Shorten the gradient of the step under way, of this norm, to `clip_norm` if it is longer."""
    if norm > rule.clip_norm:
        rule.factor = rule.clip_norm / norm


cdef inline void end_step(Rule* rule) noexcept nogil:
    """All parameters have made the step."""
    rule.steps += 1
    rule.product = rule.product_after


cdef inline real root(real x) noexcept nogil:
    if real is float:
        return sqrtf(x)
    else:
        return sqrt(x)


cdef inline void treat(
    const Rule* rule, double l1, double l2, const real* theta, const real* g, Py_ssize_t at,
    Py_ssize_t n, real* d,
) noexcept nogil:
    """d := the gradient as a rule takes it: with penalties, scaled, clipped, noisy, with decay."""
    cdef real factor = rule.factor, limit = rule.clip_value, decay = rule.decay
    cdef real first = l1, second = l2
    cdef Py_ssize_t i
    for i in range(n):
        d[i] = (g[i] + second * theta[i] + first * sign(theta[i])) * factor
        d[i] = limit if d[i] > limit else d[i]
        d[i] = -limit if d[i] < -limit else d[i]
        d[i] += decay * theta[i]
    if rule.deviation != 0:
        add_normal(d, n, rule.deviation, rule.key, at)


cdef inline void apply_sgd(
    const Rule* rule, Py_ssize_t rows, Py_ssize_t n, const real* x, real* theta, const real* g,
    real* b,
) noexcept nogil:
    """Of rows of n parameters, by the gradient x^T g; of one row by g where x is NULL."""
    cdef real rate = rule.rate
    cdef real momentum = rule.momentum, fresh = rule.fresh, ahead = 0, here = 1, scale = 1, d
    cdef Py_ssize_t i, j
    # with Nesterov's momentum theta -= rate (d + momentum b), otherwise theta -= rate b
    if rule.nesterov:
        ahead, here = 1, momentum
    for i in range(rows):
        if x != NULL:
            scale = x[i]
        if momentum == 0:
            for j in range(n):
                theta[j] -= rate * (scale * g[j])
        else:
            for j in range(n):
                d = scale * g[j]
                b[j] = momentum * b[j] + fresh * d
                theta[j] -= rate * (ahead * d + here * b[j])
            b += n
        theta += n


cdef inline void apply_rmsprop(
    const Rule* rule, real* theta, const real* g, real* v, real* mean, real* b, Py_ssize_t n,
) noexcept nogil:
    """At most STRETCH elements, centred or with momentum; otherwise `mean` or b is NULL."""
    cdef real rate = rule.rate
    cdef real rho = rule.rho, other = 1 - rule.rho, momentum = rule.momentum
    cdef real[STRETCH] inverse
    cdef Py_ssize_t i
    for i in range(n):
        v[i] = rho * v[i] + other * g[i] * g[i]
        inverse[i] = v[i]
    if mean != NULL:
        for i in range(n):
            mean[i] = rho * mean[i] + other * g[i]
            # rounding may take the variance below zero
            inverse[i] -= mean[i] * mean[i]
            inverse[i] = 0 if inverse[i] < 0 else inverse[i]
    inverse_roots(n, <real>1, <real>rule.epsilon, inverse)
    if b == NULL:
        for i in range(n):
            theta[i] -= rate * (g[i] * inverse[i])
    else:
        for i in range(n):
            b[i] = momentum * b[i] + g[i] * inverse[i]
            theta[i] -= rate * b[i]


cdef inline void apply_adadelta(
    const Rule* rule, real* theta, const real* g, real* v, real* u, Py_ssize_t n,
) noexcept nogil:
    cdef real rate = rule.rate
    cdef real rho = rule.rho, other = 1 - rule.rho, epsilon = rule.epsilon, d
    cdef Py_ssize_t i
    for i in range(n):
        d = g[i]
        v[i] = rho * v[i] + other * d * d
        d *= root(u[i] + epsilon) / root(v[i] + epsilon)
        u[i] = rho * u[i] + other * d * d
        theta[i] -= rate * d


cdef inline void apply_adamax(
    const Rule* rule, real* theta, const real* g, real* m, real* u, Py_ssize_t n,
) noexcept nogil:
    cdef real beta1 = rule.beta1, beta2 = rule.beta2, other1 = 1 - rule.beta1
    cdef real first = rule.first, epsilon = rule.epsilon, d, size
    cdef Py_ssize_t i
    for i in range(n):
        d = g[i]
        m[i] = beta1 * m[i] + other1 * d
        size = absolute(d) + epsilon
        u[i] = beta2 * u[i] if beta2 * u[i] > size else size
        theta[i] -= first * m[i] / u[i]


cdef inline void apply_lion(
    const Rule* rule, real* theta, const real* g, real* m, Py_ssize_t n,
) noexcept nogil:
    cdef real beta1 = rule.beta1, beta2 = rule.beta2
    cdef real other1 = 1 - rule.beta1, other2 = 1 - rule.beta2
    cdef real rate = rule.rate, shrink = rule.shrink, d
    cdef Py_ssize_t i
    for i in range(n):
        d = g[i]
        theta[i] = shrink * theta[i] - rate * sign(beta1 * m[i] + other1 * d)
        m[i] = beta2 * m[i] + other2 * d


cdef inline bint is_treated(const Rule* rule, double l1, double l2) noexcept nogil:
    """Whether a rule takes the gradient in another form than it comes."""
    return (rule.factor != 1 or rule.clip_value != INFINITY or rule.decay != 0
            or l1 != 0 or l2 != 0 or rule.deviation != 0)


cdef inline bint takes_roots_apart(const Rule* rule) noexcept nogil:
    """Whether the root is of something else than a running sum of squares, or is not used alone."""
    return rule.kind == RMSPROP and (rule.centered or rule.momentum != 0)


cdef inline void apply_stretch(
    const Rule* rule, double l1, double l2, real* theta, const real* g,
    real* first, real* second, real* third, Py_ssize_t at, Py_ssize_t n,
) noexcept nogil:
    """Update parameters at .. at + n with the rule's state beside them; see `stretch`."""
    cdef real[STRETCH] treated
    if is_treated(rule, l1, l2):
        treat(rule, l1, l2, theta, g, at, n, treated)
        g = treated
    if rule.kind == SGD:
        apply_sgd(rule, 1, n, <real*>NULL, theta, g, first)
    elif rule.kind == ADAGRAD or rule.kind == RMSPROP and not takes_roots_apart(rule):
        step_by_root(&rule.step, n, theta, g, <real*>NULL, first, <real*>NULL)
    elif rule.kind == RMSPROP:
        if not rule.centered:
            second, third = NULL, second
        apply_rmsprop(rule, theta, g, first, second, third if rule.momentum != 0 else NULL, n)
    elif rule.kind == ADADELTA:
        apply_adadelta(rule, theta, g, first, second, n)
    elif rule.kind == ADAM or rule.kind == NADAM:
        step_by_root(&rule.step, n, theta, g, first, second,
                     third if rule.amsgrad else <real*>NULL)
    elif rule.kind == ADAMAX:
        apply_adamax(rule, theta, g, first, second, n)
    else:
        apply_lion(rule, theta, g, first, n)


cdef inline void apply(
    const Rule* rule, double l1, double l2, real* parameters, const real* gradient,
    Py_ssize_t at, Py_ssize_t n,
) noexcept nogil:
    """Update parameters at .. at + n by their gradient, n elements, and their penalties."""
    cdef real* first = <real*>rule.state + at
    cdef Py_ssize_t done = 0, stretch = n
    if is_treated(rule, l1, l2) or takes_roots_apart(rule):     # what that takes is STRETCH long
        stretch = STRETCH
    while done < n:
        apply_stretch(rule, l1, l2, parameters + at + done, gradient + done, first + done,
                      first + rule.stride + done, first + 2 * rule.stride + done, at + done,
                      min(stretch, n - done))
        done += stretch


cdef inline void apply_outer(
    const Rule* rule, double l1, double l2, real* parameters, Py_ssize_t rows, Py_ssize_t n,
    const real* x, const real* d, Py_ssize_t at, real* block,
) noexcept nogil:
    """Update rows of n parameters, from number `at` on, by the gradient x^T d and their penalties.

    The gradient goes to the block first, which has room for it, unless the rule is so short that
    this would be felt.
    """
    if rule.kind == SGD and not is_treated(rule, l1, l2):
        apply_sgd(rule, rows, n, x, parameters + at, d, <real*>rule.state + at)
    else:
        add_outer(rows, NULL, n, <real>1, x, d, <real>0, block)
        apply(rule, l1, l2, parameters, block, at, rows * n)


cdef inline int state_vectors(const Rule* rule) noexcept nogil:
    """How many vectors, as long as the parameters, a rule keeps."""
    if rule.kind == SGD:
        return rule.momentum != 0
    if rule.kind == ADAGRAD or rule.kind == LION:
        return 1
    if rule.kind == RMSPROP:
        return 1 + rule.centered + (rule.momentum != 0)
    return 2 + (rule.kind == ADAM and rule.amsgrad)
