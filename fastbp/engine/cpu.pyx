"""What this processor, and the operating system on it, can run."""

cdef extern from *:
    """
    typedef struct { const char *name; int present; } fastbp_feature;

    /* The instruction sets that the engine's variants are built for; ends with a NULL name. */
    static int fastbp_look(fastbp_feature *found)
    {
        int n = 0;
    #if defined(__GNUC__) && defined(__x86_64__)
    #define LOOK(feature) \\
        found[n].name = feature; \\
        found[n++].present = __builtin_cpu_supports(feature) != 0;
        __builtin_cpu_init();
        LOOK("sse4.2") LOOK("popcnt") LOOK("avx") LOOK("avx2") LOOK("fma") LOOK("bmi") LOOK("bmi2")
        LOOK("avx512f") LOOK("avx512bw") LOOK("avx512cd") LOOK("avx512dq") LOOK("avx512vl")
    #elif defined(__aarch64__)
        found[n].name = "neon";
        found[n++].present = 1;
    #else
        (void)found;
    #endif
        return n;
    }
    """
    ctypedef struct fastbp_feature:
        const char* name
        int present
    int fastbp_look(fastbp_feature* found)


def features():
    """Names of the instruction sets present, of those that the engine's variants are built for."""
    cdef fastbp_feature[16] found
    cdef int count = fastbp_look(found)
    return [found[i].name.decode() for i in range(count) if found[i].present]
