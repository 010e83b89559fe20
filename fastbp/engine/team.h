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

#define MOST_THREADS 256

typedef struct team {
    int size;                   /* threads, the caller's included */
    int started;                /* whether size is final */
    int arrived;                /* at the barrier */
    unsigned round;             /* of the barrier */
    void (*body)(void *, int);
    void *argument;
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

/* Waits in place for about as long as a product takes, then lets others have the core: with more
   threads than cores, the one that is waited for may be among them. */
#define TEAM_WAIT_WHILE(condition) \
    for (int spins = 0; (condition); spins++) { \
        if (spins < 2000) team_pause(); else sched_yield(); \
    }

/* Returns when every member has called it as often as this one. */
static inline void team_barrier(team *t)
{
    if (t->size == 1)
        return;
    const unsigned round = __atomic_load_n(&t->round, __ATOMIC_ACQUIRE);
    if (__atomic_add_fetch(&t->arrived, 1, __ATOMIC_ACQ_REL) == t->size) {
        __atomic_store_n(&t->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&t->round, round + 1, __ATOMIC_RELEASE);
    } else {
        TEAM_WAIT_WHILE(__atomic_load_n(&t->round, __ATOMIC_ACQUIRE) == round)
    }
}

static void *team_enter(void *argument)
{
    const team_member *member = argument;
    team *t = member->of;
    TEAM_WAIT_WHILE(!__atomic_load_n(&t->started, __ATOMIC_ACQUIRE))
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
    *t = (team){1, 0, 0, 0, body, argument};
#if HAS_THREADS
    team_member members[MOST_THREADS];
    sigset_t all, before;
    int count = 1;
    if (size > 1) {
        /* signals stay with the threads that were there before */
        sigfillset(&all);
        pthread_sigmask(SIG_SETMASK, &all, &before);
        for (; count < size && count < MOST_THREADS; count++) {
            members[count].of = t;
            members[count].part = count;
            if (pthread_create(&members[count].thread, 0, team_enter, &members[count]))
                break;
        }
        pthread_sigmask(SIG_SETMASK, &before, 0);
    }
    t->size = count;
    __atomic_store_n(&t->started, 1, __ATOMIC_RELEASE);
    body(argument, 0);
    for (int part = 1; part < count; part++)
        pthread_join(members[part].thread, 0);
#else
    (void)size;
    body(argument, 0);
#endif
}

#endif
