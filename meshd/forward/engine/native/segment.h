/* Headers of the segments that a super-frame is cut into: the C twin of forward/segmentation.py. */
#ifndef MESHD_SEGMENT_H
#define MESHD_SEGMENT_H

#include "frame.h"

/* A run of segments under one set of headers; `block` is what the next one begins with. */
struct run {
    struct headers headers;
    uint32_t size; /* payload of all segments but the last */
    uint32_t id_and_checksum; /* IPv4: they keep their sum modulo 65535 */
    uint8_t block[MAX_HEADERS];
};

/* Begin with these headers, which fit a segment of `size` already. */
void run_begin(struct run *run, const uint8_t *frame, const struct headers *headers, uint32_t size);

/* Go on to the headers of the next equal segment: sequence number, identification and its checksum. */
void run_next(struct run *run);

/* How a super-frame is cut. The flags are those that only the first (CWR) and the last segment (FIN, PSH) have. */
struct cutting {
    struct run run;
    uint32_t left;
    uint8_t first_flags, last_flags;
};

/* `payload` bytes in pieces of `size`; the headers are those of the super-frame. */
void cut_begin(struct cutting *cutting, const uint8_t *frame, const struct headers *headers, uint32_t payload, uint32_t size);

/* Write the headers of the next segment; returns its payload. */
uint32_t cut_next(struct cutting *cutting, uint8_t *frame);

#endif
