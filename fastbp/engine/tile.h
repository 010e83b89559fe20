/* The register tile and its kin, in the compiler's portable vector types.

   One source serves every instruction set: the width of a vector and the number of tile rows
   follow from what the compiler was told it may use. B, panels and biases may be read up to
   one vector past the end of a row: who calls sees to it that the memory is there. */
#ifndef FASTBP_TILE_H
#define FASTBP_TILE_H

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#if !defined(__GNUC__) && !defined(FASTBP_PORTABLE)
#define FASTBP_PORTABLE
#endif

#if defined(FASTBP_PORTABLE)    /* plain C: a vector of one element, and products left to BLAS */
#define HAS_TILES 0
#define TILE_ROWS 6
#define VECTOR_LANES(real) 1L
#else
#define HAS_TILES 1
#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define TILE_ROWS 8             /* 8 x 2 sums of 32 registers */
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#define TILE_ROWS 6             /* 6 x 2 sums of 16 registers */
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
#define TILE_ROWS 8
#else
#define VECTOR_BYTES 16
#define TILE_ROWS 6
#endif
#define VECTOR_LANES(real) ((long)(VECTOR_BYTES / sizeof(real)))
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* Where many rows are read side by side, or one short piece of each, the processor does not see
   by itself what comes next. */
#if defined(__GNUC__)
#define PREFETCH(p) __builtin_prefetch(p)
#else
#define PREFETCH(p)
#endif

/* The place of the lowest bit that is set, of some. */
static inline int FIRST_BIT(unsigned long long bits)
{
#if defined(__GNUC__)
    return __builtin_ctzll(bits);
#else
    int place = 0;
    for (; !(bits & 1); bits >>= 1)
        place++;
    return place;
#endif
}

/* What becomes of a tile's sums. */
enum tile_kind {
    TILE_FORWARD,               /* C = sums + bias, below zero cut off if asked for */
    TILE_GATED,                 /* C = sums where the gate is above zero, else 0 */
    TILE_PLAIN,                 /* C = sums */
    TILE_UPDATE                 /* C = alpha sums + beta C */
};

struct tile_end {
    int kind;
    int cut;                    /* TILE_FORWARD: whether to cut off below zero */
    double alpha, beta;         /* TILE_UPDATE */
    const void *bias;           /* TILE_FORWARD: of the tile's columns; NULL continues from C */
    const void *gate;           /* TILE_GATED: laid out as C */
};

/* A step of an update rule that divides by a root. */
struct root_step {
    double keep_square, new_square, new_mean, direct, by_mean, root, epsilon, shrink;
};

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

#define REAL float
#define ROOT sqrtf
#define SMALLEST FLT_MIN
#define NAME(x) JOIN(x, _f32)
#define INTEGER int
#if defined(FASTBP_PORTABLE)
#elif defined(__AVX512F__)
#define NONZERO(v) _mm512_cmp_ps_mask((v), _mm512_setzero_ps(), _CMP_NEQ_UQ)
#define RSQRT(v) _mm512_rsqrt14_ps(v)
#define MASKED_LOAD(p, n) _mm512_maskz_loadu_ps((__mmask16)((1u << (n)) - 1), (p))
#define MASKED_STORE(p, n, v) _mm512_mask_storeu_ps((p), (__mmask16)((1u << (n)) - 1), (v))
#elif defined(__AVX2__)
#define NONZERO_BITS(v) _mm256_movemask_ps(_mm256_cmp_ps((v), _mm256_setzero_ps(), _CMP_NEQ_UQ))
#define RSQRT(v) _mm256_rsqrt_ps(v)
#define FIRST(n) _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n)), \
    _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
#define MASKED_LOAD(p, n) _mm256_maskload_ps((p), FIRST(n))
#define MASKED_STORE(p, n, v) _mm256_maskstore_ps((p), FIRST(n), (v))
#endif
#include "tile_body.h"
#undef REAL
#undef ROOT
#undef SMALLEST
#undef NAME
#undef INTEGER
#undef RSQRT
#undef NONZERO
#undef NONZERO_BITS
#undef MASKED_LOAD
#undef MASKED_STORE

#define REAL double
#define ROOT sqrt
#define SMALLEST DBL_MIN
#define NAME(x) JOIN(x, _f64)
#define INTEGER long long
#if defined(FASTBP_PORTABLE)
#elif defined(__AVX512F__)
#define NONZERO(v) _mm512_cmp_pd_mask((v), _mm512_setzero_pd(), _CMP_NEQ_UQ)
#define MASKED_LOAD(p, n) _mm512_maskz_loadu_pd((__mmask8)((1u << (n)) - 1), (p))
#define MASKED_STORE(p, n, v) _mm512_mask_storeu_pd((p), (__mmask8)((1u << (n)) - 1), (v))
#elif defined(__AVX2__)
#define NONZERO_BITS(v) _mm256_movemask_pd(_mm256_cmp_pd((v), _mm256_setzero_pd(), _CMP_NEQ_UQ))
#undef FIRST
#define FIRST(n) _mm256_cmpgt_epi64(_mm256_set1_epi64x(n), _mm256_setr_epi64x(0, 1, 2, 3))
#define MASKED_LOAD(p, n) _mm256_maskload_pd((p), FIRST(n))
#define MASKED_STORE(p, n, v) _mm256_maskstore_pd((p), FIRST(n), (v))
#endif
#include "tile_body.h"
#undef REAL
#undef ROOT
#undef SMALLEST
#undef NAME
#undef INTEGER
#undef NONZERO
#undef NONZERO_BITS
#undef MASKED_LOAD
#undef MASKED_STORE

#endif
