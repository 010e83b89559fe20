/* A network of fastbp, for callers without Python: C, C++, Cython, Rust, Numba.

   Python makes and keeps it: `network.address` is the address of one of these, which is valid for
   as long as the Python object is. No function here touches Python or the GIL. Predictions may run
   in any number of threads at once; while one thread learns, nobody else may use the network. */
#ifndef FASTBP_H
#define FASTBP_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FASTBP_VERSION 1        /* of this layout */

enum fastbp_status {
    FASTBP_OK = 0,
    FASTBP_NOT_FINITE = 1,      /* the loss is not: the step was not made */
    FASTBP_NEEDS_PYTHON = 2,    /* a learning rate or a loss is a Python function or a schedule */
    FASTBP_NO_MEMORY = 3,
    FASTBP_BAD_LABEL = 4,       /* none from 0 to n_outputs - 1, or not a loss that takes labels */
    FASTBP_WRONG_TYPE = 5,      /* float for a network of double, or the other way round */
    FASTBP_NO_STATISTICS = 6,   /* a Normalize layer has not seen data yet */
    FASTBP_READ_ONLY = 7        /* a snapshot does not learn */
};

typedef struct fastbp_network fastbp_network;

struct fastbp_network {
    int version;                /* FASTBP_VERSION of who made it */
    int item_size;              /* bytes of a number: sizeof(float) or sizeof(double) */
    ptrdiff_t n_inputs;
    ptrdiff_t n_outputs;
    /* The outputs for one row x: n_inputs numbers in, n_outputs numbers out. */
    int (*predict)(const fastbp_network *network, const void *x, void *out);
    /* One step of the optimizer on one row and its n_outputs targets; the loss before the step. */
    int (*learn)(fastbp_network *network, const void *x, const void *y, double *loss);
    /* The same for a class. */
    int (*learn_label)(fastbp_network *network, const void *x, ptrdiff_t label, double *loss);
    void *internal;
};

static inline int fastbp_predict_f32(const fastbp_network *network, const float *x, float *out)
{
    return network->item_size == sizeof(float) ? network->predict(network, x, out)
        : FASTBP_WRONG_TYPE;
}

static inline int fastbp_predict_f64(const fastbp_network *network, const double *x, double *out)
{
    return network->item_size == sizeof(double) ? network->predict(network, x, out)
        : FASTBP_WRONG_TYPE;
}

static inline int fastbp_learn_f32(
    fastbp_network *network, const float *x, const float *y, double *loss)
{
    return network->item_size == sizeof(float) ? network->learn(network, x, y, loss)
        : FASTBP_WRONG_TYPE;
}

static inline int fastbp_learn_f64(
    fastbp_network *network, const double *x, const double *y, double *loss)
{
    return network->item_size == sizeof(double) ? network->learn(network, x, y, loss)
        : FASTBP_WRONG_TYPE;
}

static inline int fastbp_learn_label_f32(
    fastbp_network *network, const float *x, ptrdiff_t label, double *loss)
{
    return network->item_size == sizeof(float) ? network->learn_label(network, x, label, loss)
        : FASTBP_WRONG_TYPE;
}

static inline int fastbp_learn_label_f64(
    fastbp_network *network, const double *x, ptrdiff_t label, double *loss)
{
    return network->item_size == sizeof(double) ? network->learn_label(network, x, label, loss)
        : FASTBP_WRONG_TYPE;
}

#ifdef __cplusplus
}
#endif

#endif
