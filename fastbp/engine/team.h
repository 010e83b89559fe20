/* Threads for the length of one call: started, kept in step by a barrier, joined.

   Nothing outlives the call, so there is nothing to break in a fork and no pool to spin idle. */
#ifndef FASTBP_TEAM_H
#define FASTBP_TEAM_H

#if !defined(_WIN32) && defined(__GNUC__)
#define HAS_THREADS 1
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#else
#define HAS_THREADS 0
#endif

#include <string.h>

#define MOST_THREADS 256

typedef struct team {
    int size;                   /* threads, the caller's included */
    int started;                /* whether size is final */
    int arrived;                /* at the barrier */
    int asleep;                 /* of those, who wait for a signal */
    unsigned round;             /* of the barrier */
    void (*body)(void *, int);
    void *argument;
#if HAS_THREADS
    pthread_mutex_t mutex;
    pthread_cond_t next_round;
#endif
} team;

static inline void team_pause(void)
{
#if defined(__x86_64__) && HAS_THREADS
    __builtin_ia32_pause();
#elif defined(__aarch64__) && HAS_THREADS
    __asm__ volatile("yield");
#endif
}

#if HAS_THREADS
typedef struct { team *of; int part; pthread_t thread; } team_member;

/* Returns when every member has called it as often as this one. Waits in place for about as long
   as a product takes, then sleeps: who is waited for may be waiting for a core. */
static inline void team_barrier(team *t)
{
    if (t->size == 1)
        return;
    const unsigned round = __atomic_load_n(&t->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&t->arrived, 1, __ATOMIC_ACQ_REL) == t->size) {
        __atomic_store_n(&t->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&t->round, round + 1, __ATOMIC_SEQ_CST);
        if (__atomic_load_n(&t->asleep, __ATOMIC_SEQ_CST)) {
            pthread_mutex_lock(&t->mutex);
            pthread_cond_broadcast(&t->next_round);
            pthread_mutex_unlock(&t->mutex);
        }
        return;
    }
    for (int spins = 0; spins < 2000; spins++) {
        if (__atomic_load_n(&t->round, __ATOMIC_ACQUIRE) != round)
            return;
        team_pause();
    }
    pthread_mutex_lock(&t->mutex);
    __atomic_add_fetch(&t->asleep, 1, __ATOMIC_SEQ_CST);
    while (__atomic_load_n(&t->round, __ATOMIC_SEQ_CST) == round)
        pthread_cond_wait(&t->next_round, &t->mutex);
    __atomic_sub_fetch(&t->asleep, 1, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&t->mutex);
}

/* Has threads start on any core but the caller's, where the system can say so. Left to itself,
   Linux may put a thread on the core that creates it, where it starts once the caller waits. */
static inline void team_place(pthread_attr_t *attributes)
{
#if defined(__GLIBC__) && defined(CPU_SETSIZE)
    cpu_set_t cores;
    const int here = sched_getcpu();
    if (here >= 0 && here < CPU_SETSIZE && !sched_getaffinity(0, sizeof cores, &cores)) {
        CPU_CLR(here, &cores);
        if (CPU_COUNT(&cores))
            pthread_attr_setaffinity_np(attributes, sizeof cores, &cores);
    }
#else
    (void)attributes;
#endif
}

static void *team_enter(void *argument)
{
    const team_member *member = argument;
    team *t = member->of;
    while (!__atomic_load_n(&t->started, __ATOMIC_ACQUIRE))
        sched_yield();
    t->body(t->argument, member->part);
    return 0;
}
#else
static inline void team_barrier(team *t) { (void)t; }
#endif

/* body(argument, part) for part = 0 .. size - 1, side by side; part 0 on the caller's thread.
   Where the system refuses threads, the team is smaller. */
static inline void team_run(team *t, int size, void (*body)(void *, int), void *argument)
{
    memset(t, 0, sizeof *t);
    t->size = 1;
    t->body = body;
    t->argument = argument;
#if HAS_THREADS
    team_member members[MOST_THREADS];
    pthread_attr_t attributes;
    sigset_t all, before;
    int count = 1;
    if (size > 1) {
        pthread_mutex_init(&t->mutex, 0);
        pthread_cond_init(&t->next_round, 0);
        pthread_attr_init(&attributes);
        team_place(&attributes);
        /* signals stay with the threads that were there before */
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        for (; count < size && count < MOST_THREADS; count++) {
            members[count].of = t;
            members[count].part = count;
            if (pthread_create(
                    &members[count].thread, &attributes, team_enter, &members[count]))
                break;
        }
        pthread_sigmask(SIG_SETMASK, &before, 0);
        pthread_attr_destroy(&attributes);
    }
    t->size = count;
    __atomic_store_n(&t->started, 1, __ATOMIC_RELEASE);
    body(argument, 0);
    for (int part = 1; part < count; part++)
        pthread_join(members[part].thread, 0);
    if (size > 1) {
        pthread_cond_destroy(&t->next_round);
        pthread_mutex_destroy(&t->mutex);
    }
#else
    (void)size;
    body(argument, 0);
#endif
}

#endif
