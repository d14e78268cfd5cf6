/* A frame's headers, its vnet header, and Internet checksums: the C twin of forward/ethernet.py, vnet.py and checksum.py. */
#ifndef MESHD_FRAME_H
#define MESHD_FRAME_H

#include "bytes.h"

enum {
    ETHERNET_SIZE = 14,
    VNET_SIZE = 10,
    MAX_HEADERS = ETHERNET_SIZE + 2 * 4 + 60 + 60, /* two tags, IPv4 and TCP with all the options there is room for */
    PROTOCOL_TCP = 6,
    PROTOCOL_UDP = 17,
    TCP_FLAGS = 13, /* from l4 */
    TCP_FIN = 0x01,
    TCP_PSH = 0x08,
    TCP_ACK = 0x10,
    TCP_ECE = 0x40,
    TCP_CWR = 0x80,
    VNET_NEEDS_CSUM = 1,
    GSO_NONE = 0,
    GSO_TCPV4 = 1,
    GSO_TCPV6 = 4,
    GSO_UDP_L4 = 5,
    GSO_ECN = 0x80,
};

/* Offsets into the frame; `end` is where the IP packet ends (padding may follow). */
struct headers {
    uint8_t version, protocol, checksum_offset;
    uint16_t l3, l4, payload;
    uint32_t end;
};

/* struct virtio_net_hdr, in the machine's own order. */
struct vnet {
    uint8_t flags, gso_type;
    uint16_t header_length, gso_size, csum_start, csum_offset;
};

_Static_assert(sizeof(struct vnet) == VNET_SIZE, "a vnet header is copied as it is");

/* False: an opaque frame. Never reads beyond `size`. */
bool frame_headers(const uint8_t *frame, size_t size, struct headers *headers);

/* The sum of all 16-bit words modulo 65535; an odd last byte is the high half of a word. */
uint32_t ones_sum(const uint8_t *data, size_t size);

/* What stands in a partial checksum field: the sum of the pseudo header for `length` bytes of L4. */
uint32_t pseudo_sum(const uint8_t *frame, const struct headers *headers, uint32_t length);

/* Make lengths, IPv4 checksum and partial L4 checksum of these headers fit a payload of this size. */
void fit_headers(uint8_t *frame, const struct headers *headers, uint32_t payload);

/* For a frame with a partial checksum; with a `gso_size`, for a super-frame. */
void partial_vnet(uint8_t *at, const struct headers *headers, uint16_t gso_size);

/* The gso_type that goes with these headers. */
uint8_t gso_kind(const struct headers *headers);

/* One's complement checksum of a sum: 65535 - sum, zero where the sum is. */
static inline uint32_t checksum_of(uint32_t sum) { return (65535 - sum % 65535) % 65535; }

#endif
