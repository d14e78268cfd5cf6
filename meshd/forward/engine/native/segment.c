#include "segment.h"

void run_begin(struct run *run, const uint8_t *frame, const struct headers *headers, uint32_t size)
{
    run->headers = *headers;
    run->size = size;
    memcpy(run->block, frame, headers->payload);
    if (headers->version == 4) {
        const uint8_t *ip = run->block + headers->l3;
        run->id_and_checksum = (uint32_t)load_be16(ip + 4) + load_be16(ip + 10);
    }
}

void run_next(struct run *run)
{
    if (run->headers.version == 4) {
        uint8_t *ip = run->block + run->headers.l3;
        uint32_t identification = (load_be16(ip + 4) + 1u) & 0xFFFF;
        store_be16(ip + 4, identification);
        store_be16(ip + 10, (run->id_and_checksum + 65535 - identification) % 65535);
    }
    if (run->headers.protocol == PROTOCOL_TCP) {
        uint8_t *sequence = run->block + run->headers.l4 + 4;
        store_be32(sequence, load_be32(sequence) + run->size);
    }
}

void cut_begin(struct cutting *cutting, const uint8_t *frame, const struct headers *headers, uint32_t payload, uint32_t size)
{
    uint8_t block[MAX_HEADERS];
    memcpy(block, frame, headers->payload);
    cutting->left = payload;
    cutting->first_flags = cutting->last_flags = 0;
    if (headers->protocol == PROTOCOL_TCP) {
        uint8_t *flags = block + headers->l4 + TCP_FLAGS;
        cutting->first_flags = *flags & TCP_CWR;
        cutting->last_flags = *flags & (TCP_FIN | TCP_PSH);
        *flags &= (uint8_t) ~(TCP_CWR | TCP_FIN | TCP_PSH);
    }
    fit_headers(block, headers, payload < size ? payload : size);
    run_begin(&cutting->run, block, headers, size);
}

uint32_t cut_next(struct cutting *cutting, uint8_t *frame)
{
    struct run *run = &cutting->run;
    uint32_t payload = cutting->left < run->size ? cutting->left : run->size;
    memcpy(frame, run->block, run->headers.payload);
    if (payload < run->size)
        fit_headers(frame, &run->headers, payload);
    cutting->left -= payload;
    if (run->headers.protocol == PROTOCOL_TCP) {
        frame[run->headers.l4 + TCP_FLAGS] |= cutting->first_flags;
        cutting->first_flags = 0;
        if (!cutting->left)
            frame[run->headers.l4 + TCP_FLAGS] |= cutting->last_flags;
    }
    run_next(run);
    return payload;
}
