"""A network called through cffi, by the struct that its address leads to."""

import cffi
import numpy as np

from fastbp import Dense, Network

ffi = cffi.FFI()
# As in fastbp.h, which holds more than cffi reads.
ffi.cdef("""
    typedef struct fastbp_network fastbp_network;
    struct fastbp_network {
        int version, item_size;
        ptrdiff_t n_inputs, n_outputs;
        int (*predict)(const fastbp_network *, const void *x, void *out);
        int (*learn)(fastbp_network *, const void *x, const void *y, double *loss);
        int (*learn_label)(fastbp_network *, const void *x, ptrdiff_t label, double *loss);
        void *internal;
    };
""")

net = Network(4, [Dense(8, "relu"), Dense(3, "softmax")], loss="cross_entropy", seed=0)
network = ffi.cast("fastbp_network *", net.address)
assert network.version == 1

x = np.linspace(-1, 1, 4, dtype=net.dtype)
out = np.empty(net.n_outputs, net.dtype)
loss = ffi.new("double *")

status = network.predict(network, ffi.from_buffer(x), ffi.from_buffer(out))
learned = network.learn_label(network, ffi.from_buffer(x), 2, loss)

if __name__ == "__main__":
    print(status, learned, out, loss[0])
