/* A series of received TCP segments that become one super-frame: the C twin of forward/coalesce.py.
 *
 * Nothing is copied: the payloads stay in the receive buffers until the series is written, as parts of one call. */
#ifndef MESHD_COALESCE_H
#define MESHD_COALESCE_H

#include <sys/uio.h>

#include "segment.h"

enum { MAX_SERIES = 64, MAX_SUPER_FRAME = 65535 };

struct series {
    uint32_t count; /* segments at hand; 0: no series */
    uint32_t room;  /* segments that may still come */
    uint32_t payload;
    uint8_t last_flags;
    struct run run; /* predicts the next one */
    uint8_t *first;
    uint32_t first_size;
    uint8_t head[VNET_SIZE + MAX_HEADERS];
    struct iovec parts[1 + MAX_SERIES];
};

/* Start a series with this vouched segment if it may be in one. The series before has been ended. */
bool series_begin(struct series *series, uint8_t *frame, uint32_t size, const struct headers *headers);

/* The frame is the next segment, and in the series when this returns true. */
bool series_take(struct series *series, uint8_t *frame, uint32_t size);

/* The same for the last segment, shorter or with PSH or FIN; the caller then ends the series. */
bool series_take_last(struct series *series, uint8_t *frame, uint32_t size);

/* The parts of what is to be written, vnet header first; returns how many. The series is over. */
int series_end(struct series *series, struct iovec **parts);

#endif
