/* The replay window of one receive key (RFC 6479): 8192 bits in words of 64, of which the newest 8128 are looked at.
 *
 * The C twin of crypto/replay.py, with which it shares its numbers. */
#ifndef MESHD_REPLAY_H
#define MESHD_REPLAY_H

#include "bytes.h"

enum { REPLAY_BITS = 8192, REPLAY_WORDS = REPLAY_BITS / 64, REPLAY_WINDOW = REPLAY_BITS - 64 };
enum replay { REPLAY_NEW, REPLAY_DUPLICATE, REPLAY_TOO_OLD };

struct replay_window {
    bool any; /* something was committed: `head` is the highest counter that was */
    uint64_t head;
    uint64_t received, late, duplicate, too_old;
    uint64_t ring[REPLAY_WORDS];
};

/* Before opening: may this counter be new? */
static inline enum replay replay_check(struct replay_window *window, uint64_t counter)
{
    if (!window->any || counter > window->head)
        return REPLAY_NEW;
    if (window->head - counter >= REPLAY_WINDOW) {
        window->too_old++;
        return REPLAY_TOO_OLD;
    }
    if (window->ring[(counter >> 6) % REPLAY_WORDS] >> (counter & 63) & 1) {
        window->duplicate++;
        return REPLAY_DUPLICATE;
    }
    return REPLAY_NEW;
}

/* After opening, when `replay_check` has said REPLAY_NEW with no commit in between. */
static inline void replay_commit(struct replay_window *window, uint64_t counter)
{
    uint64_t word = counter >> 6;
    window->received++;
    if (!window->any || counter > window->head) {
        uint64_t first = window->any ? (window->head >> 6) + 1 : 0;
        if (word >= first + REPLAY_WORDS)
            first = word - REPLAY_WORDS + 1;
        for (; first <= word; first++)
            window->ring[first % REPLAY_WORDS] = 0;
        window->head = counter;
        window->any = true;
    } else {
        window->late++;
    }
    window->ring[word % REPLAY_WORDS] |= (uint64_t)1 << (counter & 63);
}

#endif
