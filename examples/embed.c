/* A network in the loop of a C program: it predicts each next value of a signal from those before,
   and learns from what came.

   Build it as a library, and call it from the Python process that made the network:

       cc -O2 -std=c99 -shared -fPIC -I"$(python -c 'import fastbp; print(fastbp.get_include())')" \
           embed.c -o embed.so

       net = Network(8, [Dense(16, "tanh"), Dense(1)], optimizer=SGD(0.05))
       library = ctypes.CDLL("./embed.so")
       library.follow(ctypes.c_void_p(net.address), signal.ctypes, ctypes.c_ssize_t(len(signal)),
                      guesses.ctypes)

   Here is no Python: ctypes lets go of the GIL, and any thread of any program may do the same. */
#include "fastbp.h"

/* guesses[i] is what the network made of signal[i - n_inputs] .. signal[i - 1], before it was told
   signal[i]. Both are of `count` numbers; the first n_inputs guesses are left alone. */
int follow(fastbp_network *network, const float *signal, ptrdiff_t count, float *guesses)
{
    if (network->version != FASTBP_VERSION)
        return -1;
    for (ptrdiff_t i = network->n_inputs; i < count; i++) {
        const float *window = signal + i - network->n_inputs;
        double loss;
        int status = fastbp_predict_f32(network, window, guesses + i);
        if (status == FASTBP_OK)
            status = fastbp_learn_f32(network, window, signal + i, &loss);
        if (status != FASTBP_OK)
            return status;
    }
    return FASTBP_OK;
}
