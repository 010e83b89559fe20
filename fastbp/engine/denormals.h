/* Numbers below the smallest normal one count as zero while the engine computes: many processors
   take a hundred cycles for an operation with one. The mode belongs to the thread; what it was
   before, exception flags included, comes back after the work. */
#ifndef FASTBP_DENORMALS_H
#define FASTBP_DENORMALS_H

#if defined(__SSE__) || defined(_M_X64)
#include <xmmintrin.h>
#define DENORMALS_ARE_ZERO 0x0040
#define FLUSH_TO_ZERO 0x8000

static inline unsigned long long denormals_flush(void)
{
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before | DENORMALS_ARE_ZERO | FLUSH_TO_ZERO);
    return before;
}

static inline void denormals_restore(unsigned long long before)
{
    _mm_setcsr((unsigned)before);
}
#elif defined(__aarch64__) && defined(__GNUC__)
#define FLUSH_TO_ZERO (1ULL << 24)

static inline unsigned long long denormals_flush(void)
{
    unsigned long long before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | FLUSH_TO_ZERO) : "memory");
    return before;
}

static inline void denormals_restore(unsigned long long before)
{
    __asm__ volatile("msr fpcr, %0" : : "r"(before) : "memory");
}
#else
static inline unsigned long long denormals_flush(void) { return 0; }
static inline void denormals_restore(unsigned long long before) { (void)before; }
#endif

#endif
