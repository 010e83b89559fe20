"""What a bound call does not do: allocate, lock, start threads, or call the system. By counting.

A small C library is loaded before all others (LD_PRELOAD), so that every malloc, mutex and thread
of the process goes through it and is counted. PYTHONMALLOC=malloc has Python take each of its own
objects from malloc too. A million calls then have to leave every count where ten calls leave it.
The loop itself, `for _ in itertools.repeat(None, n)`, makes no objects.

The library cannot see system calls, which strace lists: between two marks, calls of getppid, there
has to be none.

Both count what is known to allocate or to call the system as well, to show that they can count.
"""

import itertools
import json
import os
import platform
import re
import shutil
import subprocess
import sys

import pytest

import fastbp
from fastbp import _dispatch

CALLS = 1_000_000  # of the quickest of each kind; a tenth of the others
COMPILER = shutil.which("cc") or shutil.which("gcc")

SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "fastbp.h"

/* glibc's own names of what is replaced here */
extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

enum { MALLOC, CALLOC, REALLOC, MEMALIGN, FREE, MMAP, MUNMAP, LOCK, WAIT, SIGNAL, THREAD, KINDS };
long counts[KINDS];
void note(long *here) { for (int i = 0; i < KINDS; i++) here[i] = counts[i]; }
#define COUNT(kind) __atomic_add_fetch(&counts[kind], 1, __ATOMIC_RELAXED)
#define NEXT(type, name) static type next; if (!next) next = (type)dlsym(RTLD_NEXT, name)

void *malloc(size_t n) { COUNT(MALLOC); return __libc_malloc(n); }
void *calloc(size_t n, size_t size) { COUNT(CALLOC); return __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { COUNT(REALLOC); return __libc_realloc(p, n); }
void free(void *p) { if (p) COUNT(FREE); __libc_free(p); }
void *aligned_alloc(size_t to, size_t n) { COUNT(MEMALIGN); return __libc_memalign(to, n); }
void *memalign(size_t to, size_t n) { COUNT(MEMALIGN); return __libc_memalign(to, n); }
int posix_memalign(void **p, size_t to, size_t n)
{
    COUNT(MEMALIGN);
    *p = __libc_memalign(to, n);
    return *p ? 0 : 12;
}

typedef void *(*mmap_type)(void *, size_t, int, int, int, off_t);
void *mmap(void *p, size_t n, int protection, int flags, int file, off_t offset)
{
    NEXT(mmap_type, "mmap");
    COUNT(MMAP);
    return next(p, n, protection, flags, file, offset);
}
typedef int (*munmap_type)(void *, size_t);
int munmap(void *p, size_t n)
{
    NEXT(munmap_type, "munmap");
    COUNT(MUNMAP);
    return next(p, n);
}

typedef int (*lock_type)(pthread_mutex_t *);
int pthread_mutex_lock(pthread_mutex_t *m)
{
    NEXT(lock_type, "pthread_mutex_lock");
    COUNT(LOCK);
    return next(m);
}
typedef int (*wait_type)(pthread_cond_t *, pthread_mutex_t *);
int pthread_cond_wait(pthread_cond_t *c, pthread_mutex_t *m)
{
    NEXT(wait_type, "pthread_cond_wait");
    COUNT(WAIT);
    return next(c, m);
}
typedef int (*signal_type)(pthread_cond_t *);
int pthread_cond_signal(pthread_cond_t *c)
{
    NEXT(signal_type, "pthread_cond_signal");
    COUNT(SIGNAL);
    return next(c);
}
typedef int (*create_type)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int pthread_create(
    pthread_t *thread, const pthread_attr_t *how, void *(*body)(void *), void *argument)
{
    NEXT(create_type, "pthread_create");
    COUNT(THREAD);
    return next(thread, how, body, argument);
}

/* the way of callers without Python */
int predict_often(fastbp_network *network, const void *x, void *out, long n)
{
    int status = 0;
    for (long i = 0; i < n; i++)
        status |= network->predict(network, x, out);
    return status;
}
int learn_often(fastbp_network *network, const void *x, const void *y, long n)
{
    int status = 0;
    double loss;
    for (long i = 0; i < n; i++)
        status |= network->learn(network, x, y, &loss);
    return status;
}
"""

SETUP = """
import ctypes, gc, itertools, json, os, sys
import numpy as np
from fastbp import SGD, Adam, Dense, LayerNorm, Network, Normalize, Residual

def network(layers, **settings):
    net = Network(16, layers, seed=0, **settings)
    net.adapt(np.eye(16)) if isinstance(layers[0], Normalize) else None
    return net

x, X, y, label = np.ones(16, "f4"), np.ones((8, 16), "f4"), np.zeros(1, "f4"), np.array(3)
tiny = [Dense(32, "relu"), Dense(1)]
classes = [Dense(32, "tanh"), Dense(10, "softmax")]
deep = [Normalize(), Residual([Dense(16, "gelu"), LayerNorm()]), Dense(1)]
kept = [network(classes, loss="cross_entropy") for _ in range(2)]
loop = itertools.repeat
calls = {
    "predict a row": network(tiny).bind(x, np.empty(1, "f4")),
    "predict a row of float64": network(tiny, dtype="float64").bind(np.ones(16), np.empty(1)),
    "predict 8 rows": network(tiny).bind(X, np.empty((8, 1), "f4")),
    "predict classes": kept[0].bind(x, np.empty(10, "f4")),
    "predict through every kind of layer": network(deep).bind(x, np.empty(1, "f4")),
    "step of plain descent": network(tiny).bind_step(x, y),
    "step of Adam": network(tiny, optimizer=Adam()).bind_step(x, y),
    "step of Adam that clips": network(tiny, optimizer=Adam(clip_norm=1)).bind_step(x, y),
    "step on a label": kept[1].bind_step(x, label),
    "step on 8 rows": network(deep, optimizer=SGD(0.01, 0.9)).bind_step(X, np.zeros(8, "f4")),
}
def often(call, n):
    for _ in loop(None, n):
        call()

def times(name, n):
    return n if name in ("predict a row", "step of plain descent", "control") else n // 10

gc.disable()
gc.collect()
for call in calls.values():
    often(call, 10)     # the first step makes the workspace, and a float that is used again
"""

COUNTING = SETUP + """
n, library = json.loads(sys.argv[1])
shim = ctypes.CDLL(library)
before, after = (ctypes.c_long * 11)(), (ctypes.c_long * 11)()

def counted(call, n):
    shim.note(before)
    often(call, n)
    shim.note(after)
    return [b - a for a, b in zip(before, after)]

def native(name, *arrays):
    net = network(tiny)
    function, address = getattr(shim, name), ctypes.c_void_p(net.address)
    arguments = [ctypes.c_void_p(array.ctypes.data) for array in arrays]
    def run(n):
        count = ctypes.c_long(n)
        shim.note(before)
        status = function(address, *arguments, count)
        shim.note(after)
        assert status == 0
        return [b - a for a, b in zip(before, after)]
    run(3)
    return [run(10), run(n)]

calls["control"] = lambda: bytearray(100_000)
found = {name: [counted(call, 10), counted(call, times(name, n))] for name, call in calls.items()}
found["native predict"] = native("predict_often", x, np.empty(1, "f4"))
found["native learn"] = native("learn_often", x, y)
print(json.dumps(found))
"""

TRACED = SETUP + """
n, = json.loads(sys.argv[1])
for name, call in calls.items():
    os.getppid()
    often(call, times(name, n))
    os.getppid()
print(json.dumps(list(calls)))
os.getppid()
os.getpgid(0), os.getpgid(0), os.getpgid(0)
os.getppid()
"""


def run(script, *arguments, prefix=(), **environment):
    """What a script prints as JSON, in a process of its own."""
    done = subprocess.run(
        [*prefix, sys.executable, "-c", script, json.dumps(arguments)],
        # its own threads wait for work in ways that count
        env=os.environ | {"OPENBLAS_NUM_THREADS": "1"} | environment,
        capture_output=True, text=True, timeout=300, check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="counting wants glibc")
@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler to count with")
def test_nothing_is_allocated_or_locked(tmp_path):
    (tmp_path / "shim.c").write_text(SHIM, encoding="utf-8")
    library = str(tmp_path / "shim.so")
    subprocess.run(
        [COMPILER, "-shared", "-fPIC", "-O1", "-fno-builtin", "-I", fastbp.get_include(),
         str(tmp_path / "shim.c"), "-o", library, "-ldl", "-lpthread"],
        check=True,
    )
    found = run(COUNTING, CALLS, library, LD_PRELOAD=library, PYTHONMALLOC="malloc")
    few, many = found.pop("control")
    assert sum(many) - sum(few) >= 2 * (CALLS - 10)  # each makes an object and memory for it
    assert len(found) == 12
    for name, (few, many) in found.items():
        # the products of several rows are BLAS's there, which locks what it keeps
        if not (_dispatch.variant == "portable" and "8 rows" in name):
            assert many == few, name


def between_marks(trace):
    """The system calls between each two marks."""
    parts = re.split(r"^.*\bgetppid\(\).*\n", trace, flags=re.M)
    return [part.splitlines() for part in parts[1::2]]


@pytest.mark.skipif(shutil.which("strace") is None, reason="there is no strace to count with")
def test_the_system_is_not_called(tmp_path):
    traced = tmp_path / "trace"
    prefix = ["strace", "-f", "-o", str(traced)]
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"strace may not trace here: {tried.stderr.strip()}")
    names = run(TRACED, CALLS, prefix=prefix)
    *found, control = between_marks(traced.read_text("utf-8"))
    assert len(control) == 3
    assert len(found) == len(names) == 10
    for name, lines in itertools.zip_longest(names, found):
        # of a process stopped by others, which says nothing of it
        assert [line for line in lines if "--- SIG" not in line] == [], name
