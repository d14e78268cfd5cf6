#include "coalesce.h"

static void add_part(struct series *series, uint8_t *frame, uint32_t size)
{
    uint32_t head = series->run.headers.payload;
    series->parts[1 + series->count++] = (struct iovec){frame + head, size - head};
    series->payload += size - head;
    series->room--;
    run_next(&series->run);
}

bool series_begin(struct series *series, uint8_t *frame, uint32_t size, const struct headers *headers)
{
    if (headers->protocol != PROTOCOL_TCP || headers->end != size || headers->payload >= size)
        return false;
    uint8_t flags = frame[headers->l4 + TCP_FLAGS];
    if ((flags & ~TCP_ECE) != TCP_ACK)
        return false;
    if (headers->version == 4 && ones_sum(frame + headers->l3, headers->l4 - headers->l3))
        return false;
    uint32_t payload = size - headers->payload;
    uint32_t room = (MAX_SUPER_FRAME + ETHERNET_SIZE - headers->payload) / payload;
    run_begin(&series->run, frame, headers, payload);
    series->count = series->payload = series->last_flags = 0;
    series->room = room < MAX_SERIES ? room : MAX_SERIES;
    series->first = frame;
    series->first_size = size;
    add_part(series, frame, size);
    return true;
}

bool series_take(struct series *series, uint8_t *frame, uint32_t size)
{
    if (!series->count || !series->room || size != series->first_size)
        return false;
    if (memcmp(frame, series->run.block, series->run.headers.payload) != 0)
        return false;
    add_part(series, frame, size);
    return true;
}

bool series_take_last(struct series *series, uint8_t *frame, uint32_t size)
{
    const struct headers *headers = &series->run.headers;
    uint8_t block[MAX_HEADERS];
    if (!series->count || !series->room || size > series->first_size || size <= headers->payload)
        return false;
    uint8_t flags = frame[headers->l4 + TCP_FLAGS] & (TCP_PSH | TCP_FIN);
    memcpy(block, series->run.block, headers->payload);
    fit_headers(block, headers, size - headers->payload);
    block[headers->l4 + TCP_FLAGS] |= flags;
    if (memcmp(frame, block, headers->payload) != 0)
        return false;
    series->last_flags = flags;
    add_part(series, frame, size);
    return true;
}

int series_end(struct series *series, struct iovec **parts)
{
    const struct headers *headers = &series->run.headers;
    uint32_t count = series->count;
    series->count = 0;
    *parts = series->parts;
    if (count == 1) {
        partial_vnet(series->head, headers, 0);
        series->parts[0] = (struct iovec){series->head, VNET_SIZE};
        series->parts[1] = (struct iovec){series->first, series->first_size};
        return 2;
    }
    uint8_t *block = series->head + VNET_SIZE;
    partial_vnet(series->head, headers, (uint16_t)series->run.size);
    memcpy(block, series->first, headers->payload);
    fit_headers(block, headers, series->payload);
    block[headers->l4 + TCP_FLAGS] |= series->last_flags;
    series->parts[0] = (struct iovec){series->head, VNET_SIZE + headers->payload};
    return 1 + (int)count;
}
